# SPDX-License-Identifier: MIT
# Sourced by the cli_*.sh tests: `. "$(dirname "$0")/cli.sh"` with the arguments qgauge, tensors.
# Leaves them in a fresh folder with $qgauge, $tensors, fail, expect, finish.
source_root=$(cd "$(dirname "$0")/.." && pwd)
qgauge=$(realpath "$1") && tensors=$(realpath "$2") || exit 99
dir=$(mktemp -d) || exit 99
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 99
failures=0

fail() {
    echo "FAIL: $*"
    failures=$((failures + 1))
}

# expect CODE TEXT ARGUMENT...: qgauge exits with CODE, and its output contains TEXT ('': it is silent).
expect() {
    code=$1 text=$2
    shift 2
    "$qgauge" "$@" >out.txt 2>&1
    got=$?
    [ $got = "$code" ] || fail "qgauge $*: exit code $got instead of $code: $(cat out.txt)"
    if [ -z "$text" ] && [ ! -s out.txt ]; then return; fi
    [ -n "$text" ] && grep -qF -e "$text" out.txt || fail "qgauge $*: no '$text' in: $(cat out.txt)"
}

finish() {
    [ $failures = 0 ] && exit 0
    echo "$failures failures"
    exit 1
}
