#!/bin/sh
# SPDX-License-Identifier: MIT
# qgauge export, end to end: columns, numbers, strangers.
. "$(dirname "$0")/cli.sh"

"$make_results" r.h5 && "$make_results" hostile.h5 hostile && "$make_results" empty.h5 empty ||
    exit 99

"$qgauge" export r.h5 --format csv -o r.csv || fail 'csv'
[ "$(wc -l <r.csv)" = 281 ] || fail 'not one line per case'
head -1 r.csv | grep -q '^spelling,scheme,op,operand,backend,.*,warm_median_s,.*,sqnr_db,\|sqnr_db' ||
    fail 'the columns have no names'
[ "$(awk -F, '{print NF}' r.csv | sort -u)" = 58 ] || fail 'lines differ in their number of fields'
column() { # column NAME FILE: its values
    awk -F, -v name="$1" 'NR == 1 {for (i = 1; i <= NF; i++) if ($i == name) c = i} NR > 1 {print $c}' "$2"
}
[ "$(column sqnr_db r.csv | grep -c '^nan$')" = 88 ] || fail 'nan is not spelled nan'
[ "$(column sqnr_db r.csv | grep -c '^inf$')" = 4 ] || fail 'inf is not spelled inf'
[ "$(column verdict r.csv | sort -u | tr '\n' ' ')" = 'MISTRUSTED PASS ' ] || fail 'verdicts'
LC_ALL=de_DE.UTF-8 "$qgauge" export r.h5 --format csv | cmp -s - r.csv || fail 'depends on the locale'
"$qgauge" export hostile.h5 --format csv | grep -q '"</td><script>alert(2)</script>,""?"' ||
    fail 'quotes and commas are not quoted'

"$qgauge" export r.h5 --format json -o r.json || fail 'json'
if command -v python3 >/dev/null 2>&1; then
    python3 - <<'EOF' || fail 'the JSON says something else'
import json
r = json.load(open("r.json"))
assert r["schema_version"] == 6 and r["convert"] == r["lm"] == r["proxy"] == r["resources"] == [] and r["meta"]["suite"] == "smoke"
assert len(r["cases"]) == 280 and len(r["gaps"]) == 168
case = r["cases"][0]
assert case["scheme"] == "int4" and case["verdict"] == "PASS" and case["first_bad"] == -1
assert case["sqnr_db"] == 20.4 and len(case["error_histogram"]) == 64
assert case["bound_used"] == "nan" and sum(case["error_histogram"]) == 4096
assert any(g["sqnr_db"] == "inf" for g in r["gaps"])
EOF
    "$qgauge" export hostile.h5 --format json | python3 -c 'import json, sys; json.load(sys.stdin)' ||
        fail 'hostile strings break the JSON'
fi
"$qgauge" export empty.h5 --format json | grep -q '"cases":' || fail 'an empty run'

expect 99 'exists already' export r.h5 --format csv -o r.csv
"$qgauge" export r.h5 --format csv -o r.csv --force || fail '--force'
cp r.h5 kept.h5 && ln r.h5 link.h5
expect 2 'is the result file itself' export r.h5 --format csv -o r.h5 --force
expect 2 'is the result file itself' export r.h5 --format csv -o ./link.h5 --force
cmp r.h5 kept.h5 || fail 'export destroyed its input'
expect 2 '--format csv or --format json is needed' export r.h5
expect 99 'none.h5: No such file' export none.h5 --format csv
"$qgauge" export r.h5 --format csv >/dev/full 2>err
[ $? = 99 ] || fail 'a full disk is a hard error'
finish
