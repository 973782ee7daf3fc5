#!/bin/sh
# SPDX-License-Identifier: MIT
# qgauge compare, end to end: exit codes, what is named.
. "$(dirname "$0")/cli.sh"

for change in nothing bits quality fail slow missing facts hostile empty inputs incomplete; do
    "$make_results" $change.h5 $change || exit 99
done
expect 0 'no regression' compare nothing.h5 nothing.h5
has out.txt '40 kernels: nothing moved'
[ "$(wc -l <out.txt)" -le 12 ] || fail 'nothing moved, but much was said'
expect 0 'other bits, same quality' compare nothing.h5 bits.h5
expect 1 'REGRESSION: 1 case' compare nothing.h5 bits.h5 --fail-on bits
expect 1 'quality moved' compare nothing.h5 quality.h5
has out.txt '1 of 32 elements differ, the first at 17'
expect 0 'quality moved' compare nothing.h5 quality.h5 --exit-zero
expect 0 'quality moved' compare nothing.h5 quality.h5 --fail-on verdict,slower
expect 0 'quality moved' compare quality.h5 nothing.h5
expect 1 'PASS -> FAIL' compare nothing.h5 fail.h5
has out.txt "qgauge repro 'int4.fake-quant.c 512x512 bf16 fill=normal seed=7'"
expect 0 'no regression' compare fail.h5 nothing.h5
expect 1 '14 slower' compare nothing.h5 slow.h5
has out.txt 'REGRESSION: 14 cases'
[ "$(wc -l <out.txt)" -le 40 ] || fail 'more than one screen'
expect 0 'no regression' compare nothing.h5 slow.h5 --margin 40
expect 0 '14 faster' compare slow.h5 nothing.h5
expect 0 '35 only in BASE, 0 only in HEAD' compare nothing.h5 missing.h5
expect 1 '35 only in BASE' compare nothing.h5 missing.h5 --fail-on missing
expect 0 'compiler differs: gcc 12.2.0  ->  clang 14' compare nothing.h5 facts.h5
expect 1 'no case in common' compare nothing.h5 empty.h5
expect 1 'no case in common' compare empty.h5 empty.h5
expect 1 'nothing was compared: every case in common has other inputs' compare nothing.h5 inputs.h5
has out.txt '280 have other inputs and are not compared'
expect 1 'nothing was compared' compare nothing.h5 inputs.h5 --format markdown
has out.txt '280 have other inputs and are not compared'
grep -q 'no regression' out.txt && fail 'nothing was compared, and all is well'
for format in text markdown; do
    expect 1 'no regression so far: HEAD is incomplete' compare nothing.h5 incomplete.h5 \
        --format $format
    has out.txt 'HEAD is incomplete: 280 of 300 cases'
    expect 0 'BASE is incomplete: 280 of 300 cases' compare incomplete.h5 nothing.h5 --format $format
    has out.txt 'no regression$'
done
expect 0 'no regression' compare nothing.h5 nothing.h5 -v
[ "$(grep -c 'qgauge repro' out.txt)" = 280 ] || fail '-v does not show every case'

expect 1 '### qgauge: regression in 1 of' compare nothing.h5 fail.h5 --format markdown
has out.txt '<code>qgauge repro'
expect 1 '### qgauge: regression in 1 of 281 cases' compare nothing.h5 hostile.h5 --format markdown
grep -q '<script' out.txt && fail 'markup of a stranger in the Markdown'
expect 1 '279 cases in both' compare nothing.h5 hostile.h5
LC_ALL=C grep -q "$(printf '\033')" out.txt && fail 'a stranger speaks to the terminal'

expect 2 'two result files are needed, BASE and HEAD' compare nothing.h5
expect 2 '--fail-on takes a list of verdict' compare nothing.h5 bits.h5 --fail-on nonsense
expect 2 'text or markdown' compare nothing.h5 bits.h5 --format pdf
expect 2 'percent, 0 to 1000' compare nothing.h5 bits.h5 --margin x
expect 2 "'--frobnicate' is not understood" compare nothing.h5 bits.h5 --frobnicate
echo hello >text.h5
expect 1 'text.h5: is no HDF5 file' compare nothing.h5 text.h5
"$qgauge" compare nothing.h5 text.h5 2>/dev/null | grep . && fail 'output in spite of an error'
expect 99 'none.h5: No such file' compare nothing.h5 none.h5
finish
