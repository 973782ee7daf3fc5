#!/bin/sh
# cli_compare.sh QGAUGE MAKE_RESULTS: qgauge compare from the outside: exit codes, what is named.
qgauge=$(realpath "$1")
make_results=$(realpath "$2")
cd "$(mktemp -d)" || exit 99
trap 'rm -r "$PWD"' EXIT
fail() {
    echo "cli_compare: $1"
    cat out err
    exit 1
}
expect() { # expect CODE ARGUMENT...: runs compare
    want=$1
    shift
    "$qgauge" compare "$@" >out 2>err
    got=$?
    [ "$got" = "$want" ] || fail "compare $*: exit $got, not $want"
}
has() { grep -q -e "$1" out || fail "'$1' is not in the output"; }

for change in nothing bits quality fail slow missing facts hostile empty; do
    "$make_results" $change.h5 $change || exit 99
done
expect 0 nothing.h5 nothing.h5
has 'no regression'
has '40 kernels: nothing moved'
[ "$(wc -l <out)" -le 12 ] || fail 'nothing moved, but much was said'
expect 0 nothing.h5 bits.h5
has 'other bits, same quality'
expect 1 nothing.h5 bits.h5 --fail-on bits
expect 1 nothing.h5 quality.h5
has 'quality moved'
has '1 of 32 elements differ, the first at 17'
expect 0 nothing.h5 quality.h5 --exit-zero
expect 0 nothing.h5 quality.h5 --fail-on verdict,slower
expect 0 quality.h5 nothing.h5
has 'quality moved'
expect 1 nothing.h5 fail.h5
has 'PASS -> FAIL'
has "qgauge repro 'int4.fake-quant.c 512x512 bf16 fill=normal seed=7'"
expect 0 fail.h5 nothing.h5
expect 1 nothing.h5 slow.h5
has '14 slower'
has 'REGRESSION: 14 cases'
[ "$(wc -l <out)" -le 40 ] || fail 'more than one screen'
expect 0 nothing.h5 slow.h5 --margin 40
expect 0 slow.h5 nothing.h5
has '14 faster'
expect 0 nothing.h5 missing.h5
has '35 only in BASE, 0 only in HEAD'
expect 1 nothing.h5 missing.h5 --fail-on missing
expect 0 nothing.h5 facts.h5
has 'compiler differs: gcc 12.2.0  ->  clang 14'
expect 1 nothing.h5 empty.h5
has 'no case in common'
expect 1 empty.h5 empty.h5
expect 0 nothing.h5 nothing.h5 -v
[ "$(grep -c 'qgauge repro' out)" = 280 ] || fail '-v does not show every case'

expect 1 nothing.h5 fail.h5 --format markdown
has '### qgauge: regression in 1 of'
has '<code>qgauge repro'
expect 1 nothing.h5 hostile.h5 --format markdown
grep -q '<script' out && fail 'markup of a stranger in the Markdown'
expect 1 nothing.h5 hostile.h5
LC_ALL=C grep -q "$(printf '\033')" out && fail 'a stranger speaks to the terminal'

expect 2 nothing.h5
expect 2 nothing.h5 bits.h5 --fail-on nonsense
expect 2 nothing.h5 bits.h5 --format pdf
expect 2 nothing.h5 bits.h5 --margin x
expect 2 nothing.h5 bits.h5 --frobnicate
echo hello >text.h5
expect 1 nothing.h5 text.h5
grep -q 'text.h5: is no HDF5 file' err || fail 'no sentence about a foreign file'
[ ! -s out ] || fail 'output in spite of an error'
expect 99 nothing.h5 none.h5
exit 0
