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
