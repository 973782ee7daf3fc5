#!/bin/sh
# SPDX-License-Identifier: MIT
# qgauge census, end to end.
. "$(dirname "$0")/cli.sh"

# 15 s = max - min with s a power of two: every operation of int4 is exact, and nothing can move.
# With s = 0.1, which binary cannot hold, and elements at (k + 1/2) s every decision is a near tie.
exact=$(i=0; while [ $i -lt 128 ]; do printf '%s,' "$((i % 16)).25"; i=$((i + 1)); done)
"$tensors" write exact w.weight F32 2x128 "${exact%,}"
expect 0 'int4 ' census --scheme int4 exact
grep -Eq '^int4 +2 +0 +0.0000 % +0.0000 % +0.0000 %$' out.txt || fail "something moved: $(cat out.txt)"
ties=$(i=0; while [ $i -lt 128 ]; do printf '%s,' "$((i % 15)).5e-1"; i=$((i + 1)); done)
"$tensors" write ties w.weight F32 2x128 "0,1.5,${ties%,}" c.bias F32 2 1
expect 0 'left out, not [N,K] of F32, BF16 or F16: 1 of' census --scheme int4 --draws 64 ties
cp out.txt first.txt
grep -Eq '^int4 +2 +[12] ' out.txt || fail "no tie was near: $(cat out.txt)"
"$qgauge" census --scheme int4 --draws 64 ties >again.txt 2>&1
cmp -s first.txt again.txt || fail "another outcome with the same seed"
expect 0 'w.weight' census --scheme int8 -v ties
expect 0 'refused 1 of 1 tensors' census --scheme int4 --set group=96 ties

expect 2 'MODEL is missing' census
expect 2 'need' census --set group=32 ties
expect 2 'from 1 to' census --draws 0 ties
expect 2 "there is no scheme 'int5'" census --scheme int5 ties
expect 2 'F32, BF16 or F16' census --dtype I8 ties
expect 1 'no tensor of' census --tensors nothing ties
expect 99 'absent' census absent
expect 2 "'extra' was not expected" census ties extra
expect 0 'usage: qgauge census' census --help

# The program that does the work is looked for beside qgauge, and missed by name.
cp "$qgauge" lonely
./lonely census ties >out.txt 2>&1
[ $? = 99 ] && has out.txt 'qgauge-census' || fail "alone: $(cat out.txt)"
finish
