#!/bin/sh
# SPDX-License-Identifier: MIT
# qgauge golden, end to end: verdicts, exit codes, messages. Argument: qgauge.
qgauge=$(realpath "$1") || exit 99
source=$(realpath "$(dirname "$0")/..") || exit 99
dir=$(mktemp -d) || exit 99
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 99
failures=0

# expect CODE TEXT ARGUMENT...: qgauge golden exits with CODE, and its output contains TEXT.
expect() {
    code=$1 text=$2
    shift 2
    "$qgauge" golden "$@" >out.txt 2>&1
    got=$?
    [ $got = "$code" ] && grep -qF -e "$text" out.txt && return
    echo "FAIL: qgauge golden $*: exit code $got (want $code), want '$text' in:"
    tail -5 out.txt
    failures=$((failures + 1))
}

expect 2 "say 'verify' or 'list'" check
expect 2 "unknown option '--all'" verify --all
expect 2 '--scheme needs a value' verify --scheme
expect 2 "there is no scheme 'int5'" verify --scheme int5
expect 1 'No such file' verify --golden nowhere
expect 0 ' 0 mismatches, 0 operations without a golden' verify

# A folder that holds one scheme: the others are missing, aloud.
mkdir one && cp "$source/golden/data/int4-old.h5" one || exit 99
grep -e '^file' -e '^int4-old.h5' "$source/golden/data/MANIFEST.tsv" >one/MANIFEST.tsv
QG_GOLDEN_DIR=one && export QG_GOLDEN_DIR
expect 0 ' 0 mismatches, 0 operations without a golden' verify --scheme int4-old
expect 0 'int4-old.convert.c' verify --kernels --scheme int4-old
expect 0 'int4-old.h5:int4-old.weight.bf16.uniform fake-quant' verify --verbose --scheme int4-old
expect 0 'int4_row_quantize_zp' list --scheme int4-old
expect 1 'MISSING: there is no golden' verify
expect 1 '0 elements, 0 mismatches' verify --scheme int4
expect 1 'no golden of scheme int4' list --scheme int4
cp "$source/golden/data/int8.h5" one
expect 1 'is not in MANIFEST.tsv' verify
rm one/int8.h5
printf 'x' >>one/int4-old.h5
expect 1 'the manifest says' verify

exit $((failures > 0))
