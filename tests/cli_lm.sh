#!/bin/sh
# SPDX-License-Identifier: MIT
# qgauge lm, end to end, on a model that takes no time.
. "$(dirname "$0")/cli.sh"

i=0
while [ $i -lt 400 ]; do
    printf 'line %d of a text\n' $i
    i=$((i + 1))
done >text
tiny='--layers 1 --width 16 --heads 2 --kv-heads 1 --head 8 --hidden 24 --context 32 --batch 3 --warmup 2'

# Any number of threads, the same file; it learns, and others can read it.
expect 0 'holdout_bits' lm train --text text --holdout text -o one $tiny --steps 40 --log-every 5 --threads 1
expect 0 'holdout_bits' lm train --text text --holdout text -o three $tiny --steps 40 --log-every 5 --threads 3
cmp one/model.safetensors three/model.safetensors || fail 'threads change the model'
cmp one/config.json three/config.json || fail 'threads change config.json'
[ ! -e one/checkpoint.safetensors ] || fail 'the checkpoint is left behind'
[ "$(wc -l <one/train.tsv)" = 9 ] || fail "log: $(cat one/train.tsv)"
head -1 one/train.tsv | grep -q '^step	tokens	bits	holdout_bits	lr	gradient_norm	tokens_per_s$' || fail 'head of the log'
awk -F '\t' 'NR == 2 { first = $3 } END { exit !($1 == 40 && $2 == 40 * 3 * 32 && $3 < first && $4 > 0) }' one/train.tsv ||
    fail "log: $(cat one/train.tsv)"
expect 0 '7 tensors converted' convert one --scheme int8 -o quantized
expect 0 '40	3840	' lm train --text text -o other $tiny --steps 40 --seed 2
cmp -s one/model.safetensors other/model.safetensors && fail 'another seed, the same model'

# Interrupted and gone on with: the same bits, and the same log but for the speed.
"$qgauge" lm train --text text -o whole $tiny --steps 600 --log-every 100 --threads 2 >/dev/null || fail 'whole'
"$qgauge" lm train --text text -o cut $tiny --steps 600 --log-every 100 --threads 2 >/dev/null 2>err.txt &
pid=$!
until [ -s cut/train.tsv ] && [ "$(wc -l <cut/train.tsv)" -ge 2 ]; do sleep 0.05; done
kill -INT $pid
wait $pid
got=$?
[ $got = 130 ] || [ $got = 0 ] || fail "interrupted: exit code $got"
if [ $got = 130 ]; then
    grep -q 'with --resume goes on' err.txt || fail "interrupted: $(cat err.txt)"
    expect 2 '--force begins anew, --resume goes on with it' lm train --text text -o cut $tiny --steps 600
    expect 2 'it is of another run: lr was 0.002' lm train --text text -o cut $tiny --steps 600 --lr 1e-3 --resume
    expect 0 '600	57600	' lm train --text text -o cut $tiny --steps 600 --log-every 100 --threads 1 --resume
fi
cmp whole/model.safetensors cut/model.safetensors || fail 'an interruption changes the model'
cut -f 1-6 whole/train.tsv >a && cut -f 1-6 cut/train.tsv >b && cmp a b || fail 'an interruption changes the log'

# Under a scheme: the same table for any number of threads; what is in it already is left out.
wide='--layers 1 --width 32 --heads 2 --kv-heads 1 --head 16 --hidden 32 --context 32 --batch 3 --warmup 2'
short='--steps 3 --batch 2 --seeds 2 --lr 1e-3'
expect 0 '20	1920	' lm train --text text -o model $wide --steps 20
head -c 3000 text | tr 3 '\f' >holdout
"$qgauge" lm qat model --text text --holdout holdout $short --scheme 'int8,int4-old group=32' --threads 1 --prompt 'line 1' \
    --predict 5 -o one.tsv >out.txt 2>&1 || fail "qat: $(cat out.txt)"
for what in 'int8: 2 seeds, 3 steps of 2 x 32, lr 0.001' 'control ptq - control' 'recovered of PTQ' 'MiB shipped' \
    '  converted   | line 1' 'peak memory'; do
    has out.txt "$what"
done
expect 0 'int4-old group=32' lm qat model --text text --holdout holdout $short --scheme 'int8,int4-old group=32' --threads 3 \
    -o three.tsv
cmp one.tsv three.tsv || fail 'threads change the table'
[ "$(awk -F '\t' '{ print NF }' one.tsv | sort -u)" = 46 ] || fail "columns: $(cat one.tsv)"
expect 0 'int8 is done already' lm qat model --text text --holdout holdout $short --scheme 'int8,int4 group=32' --resume -o one.tsv
[ "$(cut -f 1 one.tsv | tr '\n' '|')" = 'scheme|int8|int4-old group=32|int4 group=32|' ] || fail "rows: $(cat one.tsv)"
# A row is of its options: another lr, length or text is another row, with a word.
cp one.tsv again.tsv
expect 0 'there is a row of int8 with lr 0.001 in place of 0.002: it is done anew' lm qat model --text text --holdout holdout \
    --steps 3 --batch 2 --seeds 2 --lr 2e-3 --scheme int8 --resume -o again.tsv
[ "$(cut -f 1,9 again.tsv | grep int8 | tr '\t\n' ' |')" = 'int8 0.001|int8 0.002|' ] || fail "rows: $(cat again.tsv)"
expect 0 'int8 is done already' lm qat model --text text --holdout holdout $short --scheme int8 --resume -o again.tsv
expect 0 'with batch 2 in place of 3, length 32 in place of 16: it is' lm qat model --text text --holdout holdout $short \
    --batch 3 --length 16 --scheme 'int4 group=32' --resume -o again.tsv
head -c 2000 text >less
expect 0 'there is a row of int8 with text ' lm qat model --text less --holdout holdout $short --scheme int8 --resume -o again.tsv
expect 0 'there is a row of int8 with ' lm qat model --text text --holdout holdout $short --documents 1 --scheme int8 --resume -o again.tsv
has out.txt 'holdout [0-9a-f]* in place of [0-9a-f]*: it is done anew'
printf 'scheme\trank\n' >foreign.tsv
expect 1 'foreign.tsv: its columns are not those' lm qat model --text text --holdout holdout $short --scheme int8 --resume -o foreign.tsv

expect 0 'int4 group=32, adapters of rank 2: 2 seeds' lm qat model --text text --holdout holdout $short --scheme 'int4 group=32' --lora 2
grep -q prepared out.txt && fail "adapters are trained on what is shipped: $(cat out.txt)"
expect 2 'exists: --resume appends' lm qat model --text text --holdout holdout $short --scheme int8 -o one.tsv
expect 2 "there is no scheme 'int5'" lm qat model --text text --holdout holdout $short --scheme int5
expect 2 'has no fake-quant' lm qat model --text text --holdout holdout $short --scheme q8_0
expect 2 'K = 32' lm qat model --text text --holdout holdout $short --scheme int4
expect 2 'give --text FILE to train on' lm qat model --scheme int8
expect 2 'give --scheme or --recipe' lm qat model --text text
expect 2 'an empty name' lm qat model --text text --scheme int8,
expect 99 'absent' lm qat absent --text text --scheme int8

# Mistakes.
expect 2 'holds a model: --force begins anew' lm train --text text -o one $tiny
expect 2 'there is no one/checkpoint.safetensors' lm train --text text -o one $tiny --resume
expect 2 'what? give train or qat' lm
expect 2 "there is no 'learn'" lm learn
expect 0 'usage: qgauge lm train' lm train --help
grep -q 'lm qat' out.txt && fail 'the help of train is that of qat, too'
expect 0 'usage: qgauge lm qat' lm qat --help
grep -q 'lm train' out.txt && fail 'the help of qat is that of train, too'
expect 0 'Exit codes' lm --help
has out.txt 'usage: qgauge lm qat'
expect 2 'give --text FILE and -o FOLDER' lm train -o new
expect 2 "--steps is a whole number of 1 to 1000000000, not 'many'" lm train --text text -o new --steps many
expect 2 "--lr is a number of" lm train --text text -o new --lr nan
expect 99 'absent' lm train --text absent -o new
printf 'short' >short
expect 2 'a text of 5 tokens' lm train --text short -o new $tiny
expect 2 "the model's context is 32" lm train --text text -o new $tiny --length 33
expect 1 'a lower --lr' lm train --text text -o new $tiny --lr 10 --warmup 0 --decay 100 --steps 2000
finish
