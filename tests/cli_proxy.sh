#!/bin/sh
# SPDX-License-Identifier: MIT
# qgauge proxy, end to end, on a small random model of bytes.
. "$(dirname "$0")/cli.sh"
"$tensors" lm model 1 || exit 99
"$tensors" lm other 2 || exit 99
awk 'BEGIN { for (d = 1; d <= 40; d++) { for (w = 0; w < 3 + d * 7 % 11; w++) printf "word%d ", w * d; printf "\f" } }' >text
proxy() { # proxy CODE TEXT MODEL ARGUMENT...
    code=$1 text=$2
    shift 2
    expect "$code" "$text" proxy "$@" --tokens text --documents 8
}
column() { awk -v k="$1" '$1 == "intx" && NF > 5 { print $(k + 2) }' out.txt; }

# Factors are fitted once and kept; numbers depend on neither that nor threads.
schemes='--scheme intx --scheme nf4-bnb --check'
proxy 0 'KL o/m' model $schemes --factors factors -v --threads 1
has out.txt '^model.layers.0.mlp.down_proj.weight '
has out.txt '^lm_head.weight '
cp out.txt one.txt
cp factors factors.1
proxy 0 'KL o/m' model $schemes --factors factors -v --threads 3
cmp out.txt one.txt || fail 'threads show, or what is kept is not what was fitted'
proxy 0 'KL o/m' model $schemes --factors factors --refit --threads 3
cmp factors factors.1 || fail 'a second fit is another one'

# Fewer bits cost more, by all four.
proxy 0 foretold model --factors factors --scheme 'intx group=32 bits=8' --scheme 'intx group=32 bits=5' --scheme 'intx group=32 bits=3'
for k in 4 5; do
    [ "$(column $k | wc -l)" = 3 ] || fail 'there are not three lines'
    column $k | sort -c -g -u || fail 'KL does not rise from 8 to 3 bits'
done

# Results: a file of its own, or beside those of a run; what was measured, from a table or from /lm.
printf 'kl\tscheme\tkl_low\tkl_high\tdelta_ln_ppl\tdelta_low\tdelta_high\n0.5\tintx bits=3\t0.4\t0.6\t0.1\t0\t0.2\n' >table.tsv
proxy 0 'KL o/m' model --factors factors --scheme 'intx bits=3' --scheme q8_0 --scheme int4 --measured table.tsv -o r.h5
has out.txt '^intx bits=3 .* 0.100000 \[ 0.000000,  0.200000\]   0.500000 \[ 0.400000,  0.600000\] '
expect 0 'model,model_hash,text' export r.h5 --format csv --table proxy
[ "$(wc -l <out.txt)" = 4 ] || fail "not a line per scheme: $(cat out.txt)"
has out.txt ',scheme,intx,bits=3,BF16,plain,table.tsv,,8,'
has out.txt ',scheme,q8_0,,BF16,quantized,,,8,'
has out.txt ',scheme,int4,.*K = 64'
proxy 99 'exists already' model --factors factors --scheme intx -o r.h5
[ ! -e r.h5.journal ] || fail 'a journal is left'
expect 0 'report/index.html' report r.h5 -o report
has report/index.html '<h2 id="proxy">What errors of matrices foretell</h2>'
has report/index.html '<td>q8_0 </td><td class="text">quantized</td>'
grep -q 'id="bad"' report/index.html && fail 'a file of predictions has a section of cases'
[ "$(wc -l <report/proxy.tsv)" = 2 ] || fail "not one point: $(cat report/proxy.tsv)"
expect 0 'q8_0 ' ppl model --tokens text --documents 8 --no-cache --scheme 'intx bits=3,q8_0' --path convert -o r.h5 --add
expect 0 'report/index.html' report r.h5 -o report --force
[ "$(wc -l <report/proxy.tsv)" = 3 ] || fail "not two points: $(cat report/proxy.tsv)"
grep -q "$(printf '\t0.5\t0.4\t')" report/proxy.tsv && fail 'what this file measured does not count'
cp r.h5 one.h5
proxy 0 'KL o/m' model --factors factors --scheme 'intx bits=3' --scheme q8_0 --scheme int4 --measured table.tsv -o r.h5 --add
cmp r.h5 one.h5 || fail 'the same again is not the same file'
proxy 2 '--add and --force are of the file of -o' model --scheme intx --add
proxy 1 "table.tsv: line 2: 'x' is no number of column 'kl'" model --scheme intx --measured "$(sed 's/^0.5/x/' table.tsv >bad.table.tsv; echo bad.table.tsv)"
proxy 1 "there is no column 'scheme'" model --scheme intx --measured text

# What it refuses.
proxy 2 'holds the factors of another model' other --factors factors --scheme intx
printf '{"model": "", "matrices": 3}' >bad
proxy 1 "'bad' does not hold a model's factors" model --factors bad --scheme intx
proxy 2 "there is no scheme 'int44'" model --scheme int44
proxy 2 'K = 64' model --scheme int4
proxy 2 'bits is a whole number of 2 to 12' model --bits 1
proxy 2 'one model at a time' model other
proxy 99 'No such file' nowhere
finish
