#!/bin/sh
# SPDX-License-Identifier: MIT
# backends.sh QGAUGE_SIMT: what is missing is said, by `list backends` and as the reason of SKIP.
bad=0
# want TEXT [VARIABLE=VALUE]...
want() {
    text=$1
    shift
    for backend in cuda cublas; do
        env "$@" "$qgauge" list backends | grep "^$backend " | grep -qF -e "$text" ||
            { echo "$* $backend: no '$text' in: $(env "$@" "$qgauge" list backends)"; bad=1; }
    done
    case $text in simt* | for*) return ;; esac
    env "$@" "$qgauge" repro 'int4.convert.cuda 2x256 bf16 fill=normal seed=7' | grep -A1 '^SKIP' |
        grep -qF -e "$text" || { echo "$*: a case is not SKIP with '$text'"; bad=1; }
}
qgauge=$(realpath "$1")
goldens=$(realpath "$(dirname "$0")/../../golden/data")
dir=$(mktemp -d) || exit 99
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 99
# The few that are asked for here: all of them take seconds to read.
mkdir few
grep '^file' "$goldens/MANIFEST.tsv" >few/MANIFEST.tsv
for file in adapters fp8 fp8-block int8-g32 int8-int8; do
    cp "$goldens/$file.h5" few && grep "^$file.h5" "$goldens/MANIFEST.tsv" >>few/MANIFEST.tsv || exit 99
done
QG_GOLDEN_DIR=few && export QG_GOLDEN_DIR
want 'simt sm_90' QG_SIMT_SEED=0
want 'simt sm_80' QG_SIMT_ARCH=sm_80
want 'sm_75, too old: sm_80 is the least' QG_SIMT_ARCH=sm_75
want "compute mode is 'prohibited'" QG_SIMT_MODE=2
want 'for one process at a time' QG_SIMT_MODE=3
want 'a driver but no device' QG_SIMT_ARCH=none
want 'no NVIDIA driver here' QG_SIMT_DRIVER=0
want 'the driver is for CUDA 12.8 and too old for 13.' QG_SIMT_DRIVER=12080

# lacks ARCH SCHEME VARIANT TEXT [VERSION]: a row whose format the device, or cuBLASLt of that version,
# has not is SKIP wherever it is named.
lacks() {
    row="$2.matmul.cublas${3:+.$3}"
    version=${5:-130000}
    QG_SIMT_CUBLASLT=$version QG_SIMT_ARCH=$1 "$qgauge" list kernels | grep -F "$row " | grep -qF "(not here: $4" ||
        { echo "list kernels on $1 with $version: $row is not said to be away"; bad=1; }
    QG_SIMT_CUBLASLT=$version QG_SIMT_ARCH=$1 "$qgauge" repro "$row 2x16x256 bf16 fill=normal seed=7" >/dev/null
    [ $? = 77 ] || { echo "repro on $1 with $version: $row is not SKIP"; bad=1; }
}
lacks sm_80 fp8-fp8-tensor '' 'cuBLASLt multiplies e4m3 from sm_89 on; this is sm_80'
lacks sm_100 fp8-fp8 '' 'cuBLASLt has scales of rows and of 128 on sm_90 alone; this is sm_100'
lacks sm_90 nvfp4 nvfp4 'cuBLASLt has block scales from sm_100 on; this is sm_90'
lacks sm_90 fp8-fp8-tensor '' 'cuBLASLt multiplies e4m3 from sm_89 on, from 12.0 on; this is 11.11' 111103
lacks sm_90 fp8-fp8 '' 'cuBLASLt has scales of rows and of 128 on sm_90 alone, from 12.9 on; this is 12.8' 120899
lacks sm_100 nvfp4 nvfp4 'cuBLASLt has block scales from sm_100 on, from 12.8 on; this is 12.7' 120799
QG_SIMT_CUBLASLT=120900 "$qgauge" list kernels | grep -F 'fp8-fp8.matmul.cublas ' | grep -qF 'not here' &&
    { echo 'cuBLASLt 12.9 is too old for what it has'; bad=1; }

# Sums as tensor cores make them are worse than those of any order of binary32's, but as good as kernels
# that use them claim; others are not.
QG_SIMT_CUT=0 "$qgauge" golden verify --backend cublas --scheme fp8-fp8 >"$dir/out.txt" ||
    { echo 'sums of e4m3 as measured are wrong'; cat "$dir/out.txt"; bad=1; }
QG_SIMT_CUT=9 "$qgauge" golden verify --backend cublas --scheme fp8-fp8 >"$dir/out.txt" &&
    { echo 'sums of e4m3 with four places are right'; cat "$dir/out.txt"; bad=1; }
QG_SIMT_ARCH=sm_80 "$qgauge" golden verify --backend cublas --scheme fp8-block >"$dir/verify.txt"
[ $? = 77 ] && grep 'fp8-block.matmul.cublas$' "$dir/verify.txt" | grep -q 'SKIP: .* this is sm_80' ||
    { echo 'golden verify of what the device has not is not SKIP'; cat "$dir/verify.txt"; bad=1; }

NVIDIA_TF32_OVERRIDE=0 "$qgauge" repro 'unquantized.matmul.cublas.tf32 2x16x256 f32 fill=normal seed=7' >"$dir/out.txt"
[ $? = 77 ] && grep -q 'NVIDIA_TF32_OVERRIDE=0 forbids TF32' "$dir/out.txt" ||
    { echo 'TF32 that is forbidden is not SKIP'; cat "$dir/out.txt"; bad=1; }

# answers ANSWER CODE VERDICT: what cuBLASLt has no kernel for is SKIP, what it finds wrong is FAIL.
answers() {
    QG_SIMT_INT8=$1 "$qgauge" repro 'int8-int8.matmul.cublas 2x16x256 bf16 fill=normal seed=7' >"$dir/out.txt"
    [ $? = $2 ] && grep -q "^$3" "$dir/out.txt" && grep -q 'cuBLASLt says of 2x16x256: ' "$dir/out.txt" ||
        { echo "repro of int8 that cuBLASLt answers '$1' is not $3"; cat "$dir/out.txt"; bad=1; }
    QG_SIMT_INT8=$1 "$qgauge" golden verify --backend cublas --scheme int8-int8 >"$dir/out.txt"
    [ $? = $2 ] && grep -q "$3: cuBLASLt says of .*  int8-int8.matmul.cublas$" "$dir/out.txt" ||
        { echo "golden verify of int8 that cuBLASLt answers '$1' is not $3"; cat "$dir/out.txt"; bad=1; }
}
answers none 77 SKIP
answers unsupported 77 SKIP
answers mismatch 77 SKIP
answers invalid 1 FAIL

# verify VARIABLE=VALUE PATTERN...: golden verify ends with 1 and says each.
verify() {
    variable=$1
    shift
    env "$variable" "$qgauge" golden verify --kernels --scheme int8-g32 >"$dir/out.txt"
    [ $? = 1 ] || { echo "golden verify with $variable is good"; bad=1; }
    for pattern in "$@"; do
        grep -q -e "$pattern" "$dir/out.txt" ||
            { echo "golden verify with $variable: no '$pattern'"; cat "$dir/out.txt"; bad=1; }
    done
}
verify QG_SIMT_MEMORY=16000000 'FAIL: cuBLASLt says of .* allocation failed  int8-g32.matmul.cublas$' \
    ' 0  int8-g32.matmul.cuda$' ' 0  int8-g32.convert.c$' '^kernels that failed on their device: 2$'
verify QG_SIMT_LAUNCHES=0 'FAIL: the device says: unspecified launch failure  int8-g32.' \
    'not judged  int8-g32.matmul.cuda$' ' 0  int8-g32.convert.c$' '^kernels that failed on their device: 1$' \
    '^after int8-g32.*cu.* the device does nothing more in this process; kernels that are not judged, .*: [0-9]*$'
verify QG_SIMT_LAUNCHES=500 '(FAIL of 1 sets more: the device says: ' '([0-9]* sets more are not judged)'

# A device with room for the kernel, but not for what its timing fills the cache with.
cat >timed.yaml <<'YAML'
about: one case
time: 0.001
cases:
  - {schemes: [int4], backends: [cuda], ops: [convert], shapes: [2x256]}
YAML
QG_SIMT_MEMORY=70000000 "$qgauge" run --suite timed.yaml -o a.h5 >out.txt && "$qgauge" export --format csv a.h5 |
    grep -q 'PASS,not timed: memory on the device: out of memory,' || { cat out.txt; bad=1; }
exit $bad
