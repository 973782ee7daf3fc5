#!/bin/sh
# SPDX-License-Identifier: MIT
# qgauge golden, end to end: verdicts, exit codes, messages.
. "$(dirname "$0")/cli.sh"

expect 2 "say 'verify' or 'list'" golden check
expect 2 "'--all' is not understood" golden verify --all
expect 2 "'--scheme' needs a value" golden verify --scheme
expect 2 "are for 'verify'" golden list --kernels
expect 0 'usage: qgauge golden verify' golden verify --help
expect 2 "there is no scheme 'int5'" golden verify --scheme int5
expect 2 'there are: fp8-int4' golden list --scheme int5
expect 1 'No such file' golden verify --golden nowhere
expect 0 ' 0 mismatches, 0 operations without a golden' golden verify
expect 0 'LoRA_W.backward' golden list --layer lora-unsloth

# A folder that holds one scheme: the others are missing, aloud.
mkdir one && cp "$source_root/golden/data/int4-old.h5" "$source_root/golden/data/adapters.h5" one || exit 99
grep -e '^file' -e '^int4-old.h5' -e '^adapters.h5' "$source_root/golden/data/MANIFEST.tsv" >one/MANIFEST.tsv
QG_GOLDEN_DIR=one && export QG_GOLDEN_DIR
expect 0 ' 0 mismatches, 0 operations without a golden' golden verify --scheme int4-old
expect 0 'int4-old.convert.c' golden verify --kernels --scheme int4-old
expect 0 'int4-old.h5:int4-old.weight.bf16.uniform fake-quant' golden verify -v --scheme=int4-old
expect 0 'int4_row_quantize_zp' golden list --scheme int4-old
expect 1 'MISSING: there is no golden' golden verify
expect 1 'MISSING: there is no golden' golden verify --layer lora-unsloth
expect 2 '--scheme or --layer, one of them' golden verify --scheme int4 --layer lora-unsloth
(cd one && "$qgauge" golden verify --golden . --scheme int4-old) >out.txt 2>&1 || fail "in the folder itself: $(cat out.txt)"
expect 1 '0 elements, 0 mismatches' golden verify --scheme q8_0
expect 1 'no golden of q8_0' golden list --scheme q8_0
cp "$source_root/golden/data/int8.h5" one
expect 1 'is not in MANIFEST.tsv' golden verify
rm one/int8.h5
printf 'x' >>one/int4-old.h5
expect 1 'the manifest says' golden verify
finish
