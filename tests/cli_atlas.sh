#!/bin/sh
# SPDX-License-Identifier: MIT
# qgauge atlas, end to end.
. "$(dirname "$0")/cli.sh"

expect 0 'fill ties' atlas
cp out.txt first.txt
# Same scales, and every code that differs is a tie: the rule in the sentence is all there is.
expect 0 'exact ties 100 %' atlas --format mxfp4
grep -A1 '^mxfp4 .*mxfp4-ggml ' out.txt | grep -q 'exact ties.*two codes of one value [0-9.]* %$' || fail "ggml: $(cat out.txt)"
"$qgauge" atlas >again.txt
cmp -s first.txt again.txt || fail "another atlas the second time"
"$tensors" write model a.weight BF16 2x256 0.5,-1.25,0.3,0.011 b.weight F32 3x100 1,2,3
expect 0 'refused 1 of 2 tensors' atlas --weights model --format fp8-int4
expect 2 'there are: ' atlas --format int3
expect 2 'need --weights' atlas --tensors a
expect 1 'no tensor of' atlas --weights model --tensors nothing
expect 99 'absent' atlas --weights absent
expect 2 "'extra' was not expected" atlas extra
expect 2 'whole number' atlas --seed x
expect 0 'usage: qgauge atlas' atlas --help
finish
