#!/bin/sh
# SPDX-License-Identifier: MIT
# qgauge run, repro and doctor, end to end.
. "$(dirname "$0")/cli.sh"

cat >tiny.yaml <<'YAML'
about: a few cases
cases:
  - schemes: [int8, int4]
    ops: [convert, matmul]
    operands: [weight]
    shapes: [4x128, 2x4x128]
    fills: [normal, ties]
YAML

# A whole run; the first line has the seed; the file can be read back.
expect 0 'seed 7: 12 cases' run --suite tiny.yaml -o a.h5
head -1 out.txt | grep -q 'seed 7' || fail "the first line lacks the seed: $(head -1 out.txt)"
grep -q '12 cases: 12 PASS' out.txt || fail "not all pass: $(cat out.txt)"
expect 0 'int4.convert.c 4x128 bf16 fill=ties seed=7' export --format csv a.h5
[ -e a.h5.journal ] && fail 'the journal is still there'

# An output that exists is not touched without --force.
sum=$(cksum a.h5)
expect 99 'exists already' run --suite tiny.yaml -o a.h5
[ "$sum" = "$(cksum a.h5)" ] || fail 'the existing file was changed'
expect 0 '12 PASS' run --suite tiny.yaml --force --seed 8 -o a.h5
expect 99 'No such file or directory' run --suite tiny.yaml -o absent/a.h5

# The same run gives the same numbers; another seed does not.
export SOURCE_DATE_EPOCH=1700000000
"$qgauge" run --suite tiny.yaml -o s1.h5 >/dev/null && "$qgauge" run --suite tiny.yaml -o s2.h5 >/dev/null
"$qgauge" export --format csv s1.h5 >s1.csv && "$qgauge" export --format csv s2.h5 >s2.csv
cmp -s s1.csv s2.csv || fail 'two runs differ'
"$qgauge" run --suite tiny.yaml --no-time -o u1.h5 >/dev/null
"$qgauge" run --suite tiny.yaml --no-time -o u2.h5 >/dev/null
cmp u1.h5 u2.h5 || fail 'without times two runs are not the same bytes'
"$qgauge" export --format json u1.h5 | grep -E '"(load|clock_resolution_s)"' &&
    fail 'what differs from run to run is in the file'
unset SOURCE_DATE_EPOCH

# Mistakes in what is asked.
expect 2 'where to?' run
expect 2 'one word too many' run -o b.h5 smoke
expect 2 "is not a seed" run -o b.h5 --seed x
expect 2 'there are smoke, ci, nightly and gpu' run --suite smoky -o b.h5
expect 2 'matches none of the 12 cases' run --suite tiny.yaml --match fp9 -o b.h5
expect 2 'needs --weights' run --tensors x -o b.h5
printf 'about: x\ncases:\n  - schemes: [int4]\n    shape: [4x128]\n' >bad.yaml
expect 2 "line 4: there is no key 'shape' here; there are: schemes" run --suite bad.yaml -o b.h5
printf 'about: x\ncases:\n  - schemes: [int4,\n      int5]\n    shapes: [4x128]\n' >bad.yaml
expect 2 "line 4: schemes: there is no 'int5' (did you mean 'int4'?); there are: fp8-int4," run --suite bad.yaml -o b.h5
ls b.h5* 2>/dev/null && fail 'a refused run left a file'

# --list prints spellings, --match selects.
"$qgauge" run --suite tiny.yaml --list --match '^int8\.convert' >list.txt || fail '--list fails'
printf 'int8.convert.c 4x128 bf16 fill=%s seed=7\n' normal ties | cmp -s - list.txt ||
    fail "--list: $(cat list.txt)"

# SKIP is said, and fails a strict run only.
printf 'about: x\ncases:\n  - schemes: [int4]\n    ops: [convert]\n    shapes: [2x100]\n' >ragged.yaml
expect 77 'K = 100, group = 128' run --suite ragged.yaml -o c.h5
grep -q "SKIP *qgauge repro 'int4.convert.c 2x100 bf16" out.txt || fail "no SKIP line: $(cat out.txt)"
expect 1 '1 SKIP' run --suite ragged.yaml --strict --force -o c.h5

# A real checkpoint's tensors; what cannot be used is counted.
"$tensors" write m.safetensors up F32 4x128 1,-2,0.5,3.25,7 odd BF16 2x100 1,2 \
    norm F32 128 1 ids I8 2x2 1
expect 0 'tensors left out: 1 not of rank 2, 1 not F32, BF16 or F16; of 4' \
    run --suite tiny.yaml --weights m.safetensors -o d.h5
grep -q "tensor 'odd': K = 100, group = 128" out.txt || fail "odd is not refused by name: $(cat out.txt)"
expect 2 'no tensor of' run --suite tiny.yaml --weights m.safetensors --tensors norm -o e.h5
expect 99 'No such file' run --suite tiny.yaml --weights absent.safetensors -o e.h5

# repro: the same hashes as in the run, exit codes, sentences.
case='int4.matmul.c 2x4x128 f32 weights=m.safetensors tensor=up seed=7'
expect 0 PASS repro "$case"
hash=$(sed -n 's/.*of outputs \([0-9a-f]*\).*/\1/p' out.txt)
"$qgauge" export --format csv d.h5 | grep -F "$case" | grep -qi "$(printf '%d' "0x$hash")\|$hash" ||
    fail "repro's output hash $hash is not the run's"
mkdir hub && cp m.safetensors hub/model.safetensors # a folder is a checkpoint, too
expect 0 PASS repro 'int4.matmul.c 2x4x128 f32 weights=hub tensor=up seed=7'
grep -q "of outputs $hash" out.txt || fail "another file, another output: $(cat out.txt)"
expect 77 'K = 100, group = 128' repro int4.convert.c 2x100 bf16 fill=normal seed=7
expect 2 "there is no scheme 'int5'" repro 'int5.convert.c 2x128 bf16 fill=normal seed=7'
expect 2 'which case?' repro
expect 1 "there is no tensor 'down'" repro 'int4.convert.c 4x128 f32 weights=m.safetensors tensor=down seed=7'

# Ctrl-C: the case in flight is finished, what is done is written.
cat >long.yaml <<'YAML'
about: long enough to be interrupted
time: 0.05
cases:
  - schemes: [int8, int4, int8-g32, int8-int4]
    shapes: [64x256, 4x64x256]
YAML
# A background job of a script ignores SIGINT; the run blocks it and looks for it itself.
stop() { # stop SIGNAL OUTPUT: starts the long run, sends SIGNAL when the journal has grown
    "$qgauge" run --suite long.yaml -o "$2" >"$2.txt" 2>&1 &
    pid=$!
    n=0
    while [ "$(stat -c %s "$2.journal" 2>/dev/null || echo 0)" -lt 80000 ] && [ $n -lt 200 ]; do
        sleep 0.05
        n=$((n + 1))
    done
    kill -"$1" $pid
    wait $pid
    code=$?
}
stop TERM stopped.h5
[ $code = 143 ] || fail "SIGTERM: exit code $code: $(cat stopped.h5.txt)"
grep -q 'stopped by a signal after' stopped.h5.txt || fail "SIGTERM: $(cat stopped.h5.txt)"
[ -e stopped.h5.journal ] && fail 'SIGTERM: the journal is still there'
rows=$("$qgauge" export --format csv stopped.h5 | grep -c 'seed=7')
all=$("$qgauge" run --suite long.yaml --list | wc -l)
[ "$rows" -gt 0 ] && [ "$rows" -lt "$all" ] || fail "SIGTERM: $rows of $all cases kept"

# kill -9, then --resume: all cases, none twice, those of before not run again.
stop KILL killed.h5
[ $code = 137 ] || fail "kill -9: exit code $code"
[ -e killed.h5 ] && fail 'kill -9: the file is there already'
expect 99 'killed.h5.journal' run --suite long.yaml -o killed.h5
expect 1 'seed' run --suite long.yaml --seed 9 --resume -o killed.h5
before=$(stat -c %s killed.h5.journal)
[ "$before" -gt 80000 ] || fail "a refused --resume cut the journal to $before bytes"
expect 0 "$all cases: $all PASS" run --suite long.yaml --no-time --resume -o killed.h5
"$qgauge" export --format csv killed.h5 | grep 'seed=7' | cut -d, -f28 >medians.txt
grep -q '^[0-9]' medians.txt || fail 'nothing of the killed run was kept'
grep -q nan medians.txt || fail 'the cases of the killed run were all timed: it was not killed in time'

# A disk that is full: a sentence, and the journal stays.
if [ -w /dev/full ]; then
    (ulimit -f 160 && trap '' XFSZ && exec "$qgauge" run --suite long.yaml --no-time -o full.h5) >out.txt 2>&1
    code=$?
    [ $code = 99 ] || fail "full disk: exit code $code: $(cat out.txt)"
    grep -q 'go on with --resume' out.txt || fail "full disk: $(cat out.txt)"
    expect 0 "$all cases: $all PASS" run --suite long.yaml --no-time --resume -o full.h5
fi

# A reader of stdout that goes away does not cost the results.
"$qgauge" run --suite tiny.yaml -o pipe.h5 | true
n=0
while [ ! -e pipe.h5 ] && [ $n -lt 100 ]; do sleep 0.05; n=$((n + 1)); done
expect 0 'int8' export --format csv pipe.h5

# Two tensors whose long path and names differ only at their end are two tensors.
long=$(printf 'd%.0s' 1 2 3 4 5 6 7 8 9 10)
long=$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long
mkdir -p "$long/$long"
"$tensors" write "$long/$long/m" a.weight BF16 2x128 1,2,3 b.weight BF16 2x128 1,2,3
expect 0 '; 2 comparisons' run --weights "$long/$long/m" --match '^int4.convert' --no-time -o long.h5

# doctor
expect 0 'HDF5 1.' doctor
for word in OpenBLAS gnuplot blas_core governor clock_resolution_s noise 'round to nearest'; do
    grep -q "$word" out.txt || fail "doctor says nothing of $word"
done
expect 2 'takes no arguments' doctor now
# OpenBLAS runs the core that the processor is for, or the one that was asked for; a program that could
# not start itself again says so, and does not try for ever.
env -u OPENBLAS_CORETYPE "$qgauge" doctor >out.txt || fail 'doctor on the core of its choice'
! grep 'blas_core.*faster' out.txt || fail 'OpenBLAS runs a slow core'
OPENBLAS_CORETYPE=Prescott "$qgauge" doctor >out.txt && has out.txt 'blas_core .*OPENBLAS_CORETYPE'
env -u OPENBLAS_CORETYPE QGAUGE_BLAS_CORE_WAS=Prescott "$qgauge" doctor >out.txt && has out.txt 'blas_core .* by '

# One processor or all: the same rows in the same order.
few='int4\.(convert|dequant)|int8\.matmul'
expect 0 'PASS' run --suite smoke --match "$few" --no-time -o all.h5
taskset -c 0 "$qgauge" run --suite smoke --match "$few" --no-time -o one.h5 >/dev/null 2>&1 || fail "on one processor"
"$qgauge" export all.h5 --format csv >all.csv; "$qgauge" export one.h5 --format csv >one.csv
[ "$(wc -l <all.csv)" -gt 20 ] && cmp -s all.csv one.csv || fail "another number of processors, other results"
finish
