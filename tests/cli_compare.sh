#!/bin/sh
# SPDX-License-Identifier: MIT
# qgauge compare, end to end: exit codes, what is named.
. "$(dirname "$0")/cli.sh"

for change in nothing bits quality fail slow missing facts hostile empty inputs incomplete device algorithm clocks throttled; do
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
expect 0 'another algorithm of cuBLASLt, no regression by itself: 2' compare device.h5 algorithm.h5
has out.txt '-> algorithm 66, tile 20, first of 8'
expect 0 '2 cases took another algorithm of cuBLASLt' compare device.h5 algorithm.h5 --format markdown
expect 1 'slower: 7' compare device.h5 clocks.h5
has out.txt 'slower; SM clock 1965..1980 -> 1410..1980 MHz$'
has out.txt "^The device's clocks differ by more than 2 % in 7, no regression by itself.$"
expect 1 'slower; SM clock 1965..1980 → 1410..1980 MHz' compare device.h5 clocks.h5 --format markdown
has out.txt "^In 7 cases the device's clocks differ by more than 2 % (no regression by itself).$"
expect 0 "clocks differ by more than 2 % in 7" compare device.h5 clocks.h5 --margin 60
expect 0 'timed in BASE, in HEAD always with lowered clocks, no regression by itself: 7' compare device.h5 throttled.h5
has out.txt 'PASS -> PASS; same bits; not timed: 7 of 7 warm samples discarded'
expect 0 '7 cases that were timed in BASE have no times in HEAD' compare device.h5 throttled.h5 --format markdown
expect 0 'no regression' compare throttled.h5 device.h5
grep -q 'lowered clocks' out.txt && fail 'times that came back are called lost'
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

# Language models and what was foretold of them: worse only when intervals have no point in common.
for change in models models-worse models-other models-better models-gone models-failed models-foretold; do
    "$make_results" $change.h5 $change || exit 99
done
expect 0 'language models: 16 rows in both; 16 same numbers' compare models.h5 models.h5
has out.txt '^predictions: 8 in both; same numbers$'
has out.txt '^no regression$'
expect 1 '; 2 worse; 14 same numbers (better, worse: the two intervals' compare models.h5 models-worse.h5
has out.txt '^  int4, converted: worse; ppl .*; ln ppl .*; KL 0.001 \[0.0009, 0.0011\] -> 0.0013 '
has out.txt '^REGRESSION: 0 cases, 2 of language models$'
expect 0 '; 2 worse' compare models.h5 models-worse.h5 --fail-on verdict,slower
expect 0 '; 2 better; 14 same' compare models.h5 models-better.h5
expect 0 '; 2 other numbers; 14 same' compare models.h5 models-other.h5
expect 1 'REGRESSION: 0 cases, 2 of' compare models.h5 models-other.h5 --fail-on bits
expect 0 'language models: 15 rows in both, 1 only in BASE, 0 only in HEAD; 15 same' compare models.h5 models-gone.h5
has out.txt '^  int4-old, converted: only in BASE$'
expect 0 '15 rows in both, 0 only in BASE, 1 only in HEAD' compare models-gone.h5 models.h5
expect 1 'REGRESSION: 0 cases, 1 of' compare models.h5 models-gone.h5 --fail-on missing
expect 1 'int4, prepared: worse; not evaluated: document 0, token 3' compare models.h5 models-failed.h5
expect 0 'int4, prepared: better; was not evaluated' compare models-failed.h5 models.h5
expect 0 '14 same numbers; 2 not compared' compare models-failed.h5 models-failed.h5
expect 0 'predictions: 8 in both; 1 are other numbers' compare models.h5 models-foretold.h5
has out.txt '^  fp8-int4: KL by weights 0.003 -> 0.003, by outputs '
expect 1 'REGRESSION: 0 cases, 1 of' compare models.h5 models-foretold.h5 --fail-on bits
expect 1 '### qgauge: regression in 0 of 0 cases, 2 of language models' compare models.h5 models-worse.h5 --format markdown
has out.txt '^- int4  converted: worse, KL 0.001 → 0.0013'
expect 1 'no case in common' compare nothing.h5 models.h5
has out.txt '0 rows in both, 0 only in BASE, 16 only in HEAD'

# Resources of CUDA kernels: a spill, stack or a warp less is a regression, a kernel in one file is counted.
for change in resources resources-spill resources-stack resources-warps resources-registers resources-gone \
    resources-hostile resources-alone; do
    "$make_results" $change.h5 $change || exit 99
done
expect 0 'resources of CUDA kernels: 6 in both; 6 same numbers' compare resources.h5 resources.h5
expect 1 '6 in both; 1 heavier; 5 same numbers' compare resources.h5 resources-spill.h5
has out.txt '^  int4 quantize_units<prepare> for sm_90a: heavier, stack 0 -> 8, spill_stores 0 -> 8, spill_loads 0 -> 8$'
has out.txt "^REGRESSION: 0 cases, 1 of CUDA kernels' resources$"
expect 1 'heavier, registers 80 -> 90, warps 24 -> 16' compare resources.h5 resources-warps.h5
expect 1 "REGRESSION: 0 cases, 1 of CUDA" compare resources.h5 resources-warps.h5 --fail-on resources
expect 0 '1 heavier' compare resources.h5 resources-warps.h5 --fail-on verdict,quality,slower
expect 1 'heavier, stack 0 -> 32' compare resources.h5 resources-stack.h5
expect 0 '1 lighter; 5 same' compare resources-stack.h5 resources.h5
expect 1 'heavier, stack 8 -> 32, spill_stores 8 -> 0' compare resources-spill.h5 resources-stack.h5
expect 0 '1 lighter; 5 same' compare resources-warps.h5 resources.h5
expect 0 '1 lighter; 5 same' compare resources-spill.h5 resources.h5
has out.txt 'lighter, stack 8 -> 0, spill_stores 8 -> 0, spill_loads 8 -> 0$'
expect 1 '1 heavier' compare resources-spill.h5 resources-warps.h5
expect 0 '1 other numbers; 5 same' compare resources.h5 resources-registers.h5
has out.txt 'sm_90a: other numbers, registers 80 -> 81$'
expect 0 '5 in both, 1 only in BASE, 0 only in HEAD; 5 same' compare resources.h5 resources-gone.h5
has out.txt '^  int4 quantize_units<prepare> for sm_90a: only in BASE$'
expect 1 'REGRESSION: 0 cases, 1 of CUDA' compare resources.h5 resources-gone.h5 --fail-on missing
expect 0 '0 in both, 0 only in BASE, 6 only in HEAD' compare nothing.h5 resources.h5
expect 0 'no regression' compare resources-alone.h5 resources-alone.h5
expect 1 'no case in common' compare resources-alone.h5 resources.h5
expect 1 '### qgauge: regression in 0 of 280 cases, 1 of CUDA' compare resources.h5 resources-warps.h5 --format markdown
has out.txt '^- int4 quantize\\_units&lt;prepare\\> for sm\\_90a: heavier, registers 80 → 90, warps 24 → 16$'
expect 0 '5 in both, 1 only in BASE, 1 only in HEAD' compare resources.h5 resources-hostile.h5
LC_ALL=C grep -q "$(printf '\033')" out.txt && fail 'a kernel of a stranger speaks to the terminal'

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
