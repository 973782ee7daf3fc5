#!/bin/sh
# SPDX-License-Identifier: MIT
# qgauge report, end to end: the page, the plots, strangers.
. "$(dirname "$0")/cli.sh"

for change in nothing fail hostile empty incomplete; do
    "$make_results" $change.h5 $change || exit 99
done

for change in resources-spill resources-hostile device clocks throttled; do
    "$make_results" $change.h5 $change || exit 99
done

# Without gnuplot everything but the pictures is there, and the page says what is missing.
mkdir bare
PATH=$PWD/bare "$qgauge" report fail.h5 -o plain >out 2>err || fail 'fails without gnuplot'
has out '^plain/index.html$'
has err 'gnuplot is not installed'
has plain/index.html 'gnuplot is not installed'
has plain/index.html '239 of 280 cases pass'
has plain/index.html '3 of 262144 elements differ, first at 17'
has plain/index.html 'qgauge repro &#39;int4.fake-quant.c 512x512 bf16 fill=normal seed=7&#39;'
has plain/index.html '<td class="bad">5 of 7, FAIL</td>'
has plain/index.html 'gcc 12.2.0'
for name in sqnr gap error time; do
    [ -s plain/$name.gp ] || fail "no script for $name"
    [ "$(wc -l <plain/$name.tsv)" -gt 20 ] || fail "no data for $name"
    [ ! -e plain/$name.svg ] || fail "a picture out of nowhere"
done
grep -q "$(printf 'int4\tnormal\t20.4\t1')" plain/sqnr.tsv || fail 'sqnr.tsv'
grep -q "$(printf 'int8\t-\ttorch-model\tmodel\t123\tinf\tinf')" plain/gap.tsv || fail 'gap.tsv'

grep -q incomplete plain/index.html && fail 'a whole run is called incomplete'
PATH=$PWD/bare "$qgauge" report incomplete.h5 -o part >/dev/null 2>&1 || fail 'an interrupted run'
has part/index.html 'incomplete: 280 of 300 cases'

# Resources of CUDA kernels, with what is bad about them marked; without any, why.
has plain/index.html '<p>None: the file is of a program that did not keep them'
"$qgauge" report resources-spill.h5 -o resources >/dev/null 2>&1 || fail 'resources'
has resources/index.html 'quantize_units&lt;prepare&gt;</td><td class="text">sm_90a</td><td>80</td><td class="warn">8</td><td class="warn">8 + 8</td>'
has resources/index.html '<td>0 + 0</td><td>64</td><td>1</td><td>256</td><td class="warn">24 of 64, 38 %</td><td class="text">registers</td>'
"$qgauge" report resources-hostile.h5 -o stranger >/dev/null 2>&1 || fail 'a kernel of a stranger'
has stranger/index.html '&lt;script&gt;?\[2J|\*'
grep -q '<script' stranger/index.html && fail 'a kernel of a stranger is markup'

# Least times: 655360 bytes and 33554432 flops, of cublas 64 times as many.
grep -q 'least times of CUDA' plain/index.html && fail 'least times without a device'
"$qgauge" report device.h5 -o device >/dev/null 2>&1 || fail 'least times'
has device/index.html 'H200: 4.80 TB/s, 66.9 TFLOP/s in binary32, 495 TFLOP/s in TF32 tensor cores, 989 TFLOP/s in 16-bit tensor cores, 1.98 PFLOP/s in int8 tensor cores, 1.98 PFLOP/s in fp8 tensor cores. B200'
least() { # least HOW TIMES
    has device/index.html "<td class=\"text\">$1</td><td>.*512×512</td><td class=\"text\">BF16</td><td>655 kB</td><td>.*</td>$2</tr>"
}
least 'convert cuda' '<td>196 ns, memory</td><td>137 ns, memory</td><td>81.9 ns, memory</td>'
least 'matmul cuda' '<td>502 ns, binary32</td><td>502 ns, binary32</td><td>419 ns, binary32</td>'
least 'matmul cublas' '<td>2.17 µs, 16-bit tensor cores</td><td>2.17 µs, 16-bit tensor cores</td><td>954 ns, 16-bit tensor cores</td>'
least 'matmul cublas.tf32' '<td>4.34 µs, TF32 tensor cores</td><td>4.34 µs, TF32 tensor cores</td><td>1.91 µs, TF32 tensor cores</td>'
least 'matmul cublas.nvfp4' '<td></td><td></td><td>239 ns, fp4 tensor cores</td>'
least 'matmul cublas.e4m3' '<td>1.09 µs, fp8 tensor cores</td><td>1.09 µs, fp8 tensor cores</td><td></td>'
# Times against those of the unquantized product, the fastest of a device but TF32's: none on the host.
has device/index.html '<td>int4</td><td class="text">matmul cuda</td><td>64×512×512</td>.*<td>1.79 (1.76 … 1.83)</td>'
has device/index.html '<td>int4</td><td class="text">matmul blas</td><td>64×512×512</td><td>[^<]*</td><td>[^<]*</td><td></td><td>30</td>'
has device/index.html '<td>unquantized</td><td class="text">matmul cublas</td><td>64×512×512</td><td>[^<]*</td><td>[^<]*</td><td></td><td>30</td>'
has device/index.html '<td class="text">1965..1980 MHz, memory 2619 MHz, 45 °C, 350 W</td></tr>'
grep -q 'clock of a device' plain/index.html && fail 'clocks without a device'
"$qgauge" report clocks.h5 -o clocks >/dev/null 2>&1 || fail 'clocks'
has clocks/index.html '>1410..1980 MHz, memory 2619 MHz, 87 °C, 350 W, 7 samples discarded (thermal)</td></tr>'
"$qgauge" report throttled.h5 -o throttled >/dev/null 2>&1 || fail 'throttled'
has throttled/index.html '<li><code>int4.convert.cuda .*</code>: not timed: 7 of 7 warm samples discarded</li>'
grep -q 'not timed' clocks/index.html && fail 'what was timed is called untimed'
has device/index.html 'seed=7</code></td><td class="text wrap">algorithm 66, tile 18, first of 8</td>'

# Nothing from elsewhere, no script, and strings of a stranger stay strings.
"$qgauge" report hostile.h5 -o hostile >/dev/null 2>&1 || fail 'hostile strings'
has hostile/index.html '&lt;script&gt;alert(2)&lt;/script&gt;'
for page in plain/index.html hostile/index.html; do
    grep -i -E '<script|<img|onerror=[^&]*>|javascript:|src=|@import|<link' $page | grep -v '&lt;' |
        grep . && fail "$page is not harmless"
    grep -o -E '(href|url)[=(]"?[^#")> ]*' $page | grep -E '//' && fail "$page needs the network"
done
if command -v xmllint >/dev/null 2>&1; then
    # An HTML5 page is no XML only for its void elements and attributes without values.
    sed -e 's/<!DOCTYPE html>//' -e 's/<\(meta\|br\)\([^>]*\)>/<\1\2\/>/g' -e 's/<details open>/<details>/' \
        hostile/index.html | xmllint --noout - || fail 'the page is not well-formed'
fi

"$qgauge" report empty.h5 -o empty >/dev/null 2>&1 || fail 'an empty run'
has empty/index.html '0 of 0 cases pass'
has empty/index.html 'holds nothing that this plot shows'
has plain/index.html 'times of every kernel'
grep -q 'times of every kernel' empty/index.html && fail 'a table of no times'

# A file that is there is kept; with --force a report replaces another as a whole or not at all.
expect 99 'exists already' report fail.h5 -o plain
mkdir mine && echo mine >mine/time.gp
expect 99 'mine/time.gp: exists already' report fail.h5 -o mine
[ "$(cat mine/*)" = mine ] || fail 'a file of somebody else is gone'
cp -r plain kept && touch plain/time.svg
for limit in 1 8 48; do # blocks of 512 bytes: too few for the data, a later file, the page
    (ulimit -f $limit && PATH=$PWD/bare exec "$qgauge" report nothing.h5 -o plain --force) >out 2>&1
    [ $? = 99 ] || fail "a write that failed is no error: $(cat out)"
    rm plain/time.svg && diff -r plain kept || fail 'a report that failed left something'
    touch plain/time.svg
    (ulimit -f $limit && PATH=$PWD/bare exec "$qgauge" report nothing.h5 -o new) >out 2>&1
    [ ! -e new ] || fail 'a report that failed left a folder'
done
PATH=$PWD/bare "$qgauge" report fail.h5 -o plain --force >/dev/null 2>&1 || fail '--force'
diff -r plain kept || fail 'not the same report, or a picture of another one'
mkdir self && cp fail.h5 self/time.tsv
expect 2 'is the result file itself' report self/time.tsv -o self --force
cmp fail.h5 self/time.tsv || fail 'report destroyed its input'
expect 99 'no/such/folder: No such file' report fail.h5 -o no/such/folder
expect 2 'one result file and -o DIR are needed' report fail.h5
echo hello >text.h5
expect 1 'text.h5: is no HDF5 file' report text.h5 -o text
[ ! -e text ] || fail 'a folder for a file that cannot be read'

command -v gnuplot >/dev/null 2>&1 || {
    echo 'gnuplot is not installed: the pictures were not looked at'
    [ $failures = 0 ] && exit 77
    finish
}
"$qgauge" report nothing.h5 -o a >/dev/null 2>err || fail 'report'
[ ! -s err ] || fail "complaints: $(cat err)"
LC_ALL=de_DE.UTF-8 "$qgauge" report nothing.h5 -o b >/dev/null || fail 'report again'
diff -r a b >/dev/null || fail 'two reports of one file differ'
for name in sqnr gap error time; do
    cp a/$name.svg kept.svg
    (cd a && rm $name.svg && gnuplot $name.gp 2>&1) | grep . && fail "gnuplot has something to say"
    cmp -s a/$name.svg kept.svg || fail "$name.gp draws another picture"
    has a/$name.svg 'int8-g32'
done
[ "$(grep -c '<svg' a/index.html)" = 4 ] || fail 'not every picture is on the page'
# Of the four pictures no two share an identifier, and no reference leads nowhere.
grep -o "id=['\"][^'\"]*" a/index.html | sort | uniq -d | grep . && fail 'an identifier twice'
grep -o "href='#[^']*" a/index.html | sed "s/href='#//" | sort -u | while read -r id; do
    grep -q "id=['\"]${id}['\"]" a/index.html || echo "$id"
done | grep . && fail 'references that lead nowhere'
finish
