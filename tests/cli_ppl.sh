#!/bin/sh
# SPDX-License-Identifier: MIT
# qgauge ppl, end to end, on a small random model of bytes.
. "$(dirname "$0")/cli.sh"
export XDG_CACHE_HOME="$dir/cache"
"$tensors" lm model 1 || exit 99
# 40 documents of different lengths between form feeds.
awk 'BEGIN { for (d = 1; d <= 40; d++) { for (w = 0; w < 3 + d * 7 % 11; w++) printf "word%d ", w * d; printf "\f" } }' >text
ppl() { # ppl CODE TEXT ARGUMENT...
    code=$1 text=$2
    shift 2
    expect "$code" "$text" ppl model --tokens text "$@"
}
kept() { ls cache/qgauge; }

# The model as it is: nothing differs, at all.
ppl 0 'in 40 documents; base: ' --scheme none
has out.txt '^intervals: 95 %, over 40 documents$'
has out.txt '^none *plain .* +0.000000 ±0.000000 *0.000000 ±0.000000 *0.0000 *100.000 %  *-  equal$'
[ "$(kept | wc -l)" = 1 ] || fail "base logits are not kept: $(kept)"
cp out.txt one.txt
ppl 0 'tokens in'
cmp -s out.txt one.txt || fail 'without a scheme it says something else'

# Both paths; numbers depend on neither threads nor where the base's come from.
ppl 0 'converted' --scheme "int4 group=32,int8" --threads 1
has out.txt '^int4 group=32 *prepared .* \(worse\|better\|cannot tell\)$'
has out.txt '^int4 group=32 *converted .* ±.* ±.* ±.* % .* ±.* \(worse\|better\|cannot tell\)$'
has out.txt '^int8 *converted '
cp out.txt one.txt
ppl 0 'converted' --scheme "int4 group=32,int8" --threads 3 --no-cache
cmp out.txt one.txt || fail 'threads or the cache show'
ppl 0 'converted' --scheme int4 --set group=32 --path convert
grep -q prepared out.txt && fail '--path convert has a prepared line'
ppl 0 '1 document;' --scheme none --documents 1 --context 16
has out.txt 'over [0-9]* windows'
ppl 0 'intervals: 50 %' --scheme none --level 0.5
ppl 0 'F32' --scheme none --dtype f32 --format json

# A recipe; what a scheme cannot do has a reason, not a number.
ppl 0 'unsloth-int8 ' --recipe unsloth-int8
ppl 0 'not evaluated; -v says why' --scheme nf4-bnb
has out.txt '^nf4-bnb *prepared *-$'
has out.txt '^nf4-bnb *converted .* ±'
ppl 77 '-: not evaluated; -v says why' --scheme int4
ppl 77 'K = 64' --scheme int4 -v
ppl 0 "scheme 'q8_0' has no fake-quant for weights" --scheme q8_0 -v
has out.txt '^    KL median .* probability of the right token '

# Kept logits that are no good are made anew, with a word.
printf 'x' | dd of="cache/qgauge/$(kept | head -1)" bs=1 seek=3000 conv=notrunc 2>/dev/null
ppl 0 'tokens in' --scheme none --context 16 --documents 1
for f in cache/qgauge/*; do printf 'xyz' | dd of="$f" bs=1 seek=3000 conv=notrunc 2>/dev/null; done
ppl 0 'is damaged, or not a file of logits; the base logits are computed anew' --scheme none
ppl 0 'tokens in' --scheme none
grep -q damaged out.txt && fail 'the damaged file is still there'
mkdir locked && chmod 555 locked
[ -w locked ] || ppl 0 'kept in memory' --scheme none --cache locked/deeper
ppl 0 'kept in memory' --scheme none --cache text/folder

# Files of results; going on where an earlier run stopped.
ppl 0 'int8 ' --scheme int8 -o r.h5
ppl 99 'exists already' --scheme int8 -o r.h5
expect 0 'model,model_hash,text' export r.h5 --format csv --table lm
[ "$(wc -l <out.txt)" = 3 ] || fail "not a line per path: $(cat out.txt)"
has out.txt ',scheme,int8,,,converted,,BF16,documents,'
expect 0 '"kl_999":' export r.h5 --format json
ppl 0 '"n' --scheme int8 --format json
if command -v python3 >/dev/null 2>&1; then
    python3 - <<'EOF' || fail 'the JSON says something else'
import json
r = json.load(open("out.txt"))["lm"]
assert [x["path"] for x in r] == ["prepared", "converted"]
a, b = r
assert a["delta_low"] <= a["delta"] <= a["delta_high"] and a["kl"] > 0
assert abs((b["delta"] - a["delta"]) - b["gap"]) < 1e-12 and a["gap"] == "nan"
assert 4 < b["bits_per_weight"] < 16 and b["documents"] == 40
EOF
fi


# The report of it: the table and the plot, nothing of cases that were not run.
expect 0 'report/index.html' report r.h5 -o report
has report/index.html '<h2 id="quality">Quality of a model</h2>'
has report/index.html '<td>int8  </td><td class="text">converted</td>'
grep -q 'id="bad"' report/index.html && fail 'a file of models has a section of cases'
[ "$(wc -l <report/quality.tsv)" = 2 ] || fail "not one point: $(cat report/quality.tsv)"

"$qgauge" ppl model --tokens text --all -o s.h5 >out.txt 2>&1 &
while ! grep -q 'converted .*±' out.txt && kill -0 $! 2>/dev/null; do sleep 0.1; done
kill -INT $!
wait $!
[ $? = 130 ] || fail "Ctrl-C: $(cat out.txt)"
has out.txt 's.h5.journal holds what is done; the same command with --resume goes on'
ppl 99 'the journal of an earlier run is here' --scheme fp8-fp8 -o s.h5
ppl 0 'int8 ' --scheme fp8-fp8,int8 -o s.h5 --resume
has out.txt '^fp8-fp8 *converted .* ±'
expect 0 ',fp8-fp8,' export s.h5 --format csv --table lm
[ "$(grep -c ',fp8-fp8,' out.txt)" = 2 ] || fail "what was done was done again: $(cat out.txt)"
expect 2 "there is no table 'ppl'; there are: cases, gap, atlas, convert, lm" export s.h5 --format csv --table ppl

# Bad input.
printf 'a\fb' >none.txt && : >empty.txt && printf '123' >odd.u16
expect 1 'holds no token' ppl model --tokens empty.txt
expect 1 '3 bytes are no whole count' ppl model --tokens odd.u16
expect 99 'absent: ' ppl model --tokens absent
expect 99 'nowhere' ppl nowhere --tokens text
ppl 2 '--context 33: the model was made for 32' --context 33
ppl 2 "there is no scheme 'int5'" --scheme int5
ppl 2 "has no parameter 'grop'" --scheme 'int4 grop=1'
ppl 2 '--set is of one --scheme' --scheme int4,int8 --set group=32
ppl 2 '--path is prepare, convert or both' --path neither
ppl 2 '--level is between 0 and 1' --level 95
ppl 2 "there is no backend 'gpu'" --backend gpu
ppl 2 'vocabulary ends at 255' --separator 256
ppl 2 '--resume goes on with the file of -o' --resume
expect 2 'one word too many' ppl model text
"$tensors" lm wild 1e30 || exit 99
expect 1 'without any scheme: document 0, token ' ppl wild --tokens text
has out.txt "where it begins: what 'model.layers.0.mlp.down_proj.weight' takes"
expect 0 'usage: qgauge ppl' ppl --help
finish
