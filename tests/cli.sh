# SPDX-License-Identifier: MIT
# Sourced by the cli_*.sh tests: `. "$(dirname "$0")/cli.sh"`. The arguments of each are the programs
# qgauge, tensors and make_results. Leaves the test in a fresh folder with $qgauge, $tensors,
# $make_results, $source_root, fail, expect, has, finish.
source_root=$(cd "$(dirname "$0")/.." && pwd)
qgauge=$(realpath "$1") && tensors=$(realpath "$2") && make_results=$(realpath "$3") || exit 99
dir=$(mktemp -d) || exit 99
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 99
failures=0

fail() {
    echo "FAIL: $*"
    failures=$((failures + 1))
}

# expect CODE TEXT ARGUMENT...: qgauge exits with CODE, and its output contains TEXT ('': it is silent).
# What it said stays in out.txt.
expect() {
    code=$1 text=$2
    shift 2
    "$qgauge" "$@" >out.txt 2>&1
    got=$?
    [ $got = "$code" ] || fail "qgauge $*: exit code $got instead of $code: $(cat out.txt)"
    if [ -z "$text" ] && [ ! -s out.txt ]; then return; fi
    [ -n "$text" ] && grep -qF -e "$text" out.txt || fail "qgauge $*: no '$text' in: $(cat out.txt)"
}

# has FILE PATTERN: a line of FILE matches the basic regular expression.
has() {
    grep -q -e "$2" "$1" || fail "'$2' is not in $1"
}

# finish: the last line of every test.
finish() {
    [ $failures = 0 ] && exit 0
    echo "$failures failures"
    exit 1
}
