#!/bin/sh
# SPDX-License-Identifier: MIT
# nvml.sh QGAUGE_SIMT LIBRARY OLD_LIBRARY: what NVML says of a device while kernels are timed is in
# the results, samples with lowered clocks do not count, and what it does not say is absent.
bad=0
fail() {
    echo "$*"
    bad=1
}
qgauge=$(realpath "$1")
dir=$(mktemp -d) || exit 99
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/new" "$dir/old" "$dir/broken"
ln -s "$(realpath "$2")" "$dir/new/libnvidia-ml.so.1"
ln -s "$(realpath "$3")" "$dir/old/libnvidia-ml.so.1"
: >"$dir/broken/libnvidia-ml.so.1"
cd "$dir" || exit 99
cat >timed.yaml <<'YAML'
about: one case
time: 0.01
cold: yes
cases:
  - {schemes: [int4], backends: [cuda], ops: [convert], shapes: [2x256]}
YAML
# timed LIBRARIES [VARIABLE=VALUE]...: times the case and leaves rows.txt, a line for each field.
timed() {
    what=$*
    libraries=$dir/$1
    shift
    env LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$@" "$qgauge" run --suite timed.yaml --force -o a.h5 >out.txt 2>&1 ||
        { fail "$what: run"; cat out.txt; }
    "$qgauge" export --format json a.h5 | tr -d '\t' | sed 's/,$//' >rows.txt
}
# is FIELD VALUE: of the case, or of the run.
is() {
    grep -qxF -e "\"$1\":$2" rows.txt || fail "$what: not $2 but $(grep -F "\"$1\":" rows.txt)"
}
# number FIELD: a whole one of the case.
number() {
    sed -n "s/^\"$1\":\([0-9]*\)$/\1/p" rows.txt
}

timed new QG_SIMT_SM_MHZ=1980,1965,1995 QG_SIMT_MEMORY_MHZ=2619 QG_SIMT_CELSIUS=40,45,43 QG_SIMT_WATTS=350.5
is verdict '"PASS"'
is reason '""'
is warm_memory_mhz 2619
is warm_watts 350.5
is warm_discarded 0
is warm_lowered_by '""'
is cold_watts 350.5
is device_settings '"driver 580.65.06, persistence mode on, SM clock up to 1980 MHz, power limit 700 W, ECC on"'
[ "$(number warm_sm_mhz_low)" -le "$(number warm_sm_mhz_high)" ] || fail "$what: a range turned round"
"$qgauge" report a.h5 -o report >out.txt 2>&1
grep -q 'MHz, memory 2619 MHz, 4[0-9] °C, 35[01] W</td>' report/index.html || fail "$what: not in the report"

# Clocks that are lowered now and then, and all the time.
timed new QG_SIMT_LOWERED=0,0x24,0x24,0
[ "$(number warm_discarded)" -ge 3 ] && [ "$(number warm_samples)" -ge 6 ] ||
    fail "$what: $(number warm_discarded) of $(number warm_samples) discarded"
is warm_lowered_by '"thermal, power cap"'
is cold_lowered_by '""'
is reason "\"$(number warm_discarded) of $(($(number warm_discarded) + $(number warm_samples))) warm samples discarded: the device had lowered its clocks (thermal, power cap)\""
for reason in '0x04 power cap' '0x08 hardware slowdown' '0x20 thermal' '0x40 thermal' '0x80 power brake'; do
    timed new QG_SIMT_LOWERED="${reason%% *}"
    is warm_lowered_by "\"${reason#* }\""
    is warm_samples 0
    is cold_samples 0
    grep -q '^1 cases: 1 PASS; 1 without times: the device' out.txt || fail "$what: run does not say it"
    is warm_median_s '"nan"'
    is warm_sm_mhz_low '"nan"'
    grep -q '^"reason":"not timed: \([0-9]*\) of \1 warm samples discarded: .*; not timed: .* cold samples' rows.txt ||
        fail "$what: $(grep '^"reason"' rows.txt)"
done
for reason in 0x01 0x02 0x10 0x100; do # idle, set by somebody
    timed new QG_SIMT_LOWERED=$reason
    is warm_discarded 0
    is reason '""'
done

# What the device does not say is absent, and nothing else.
timed new QG_SIMT_WATTS=none QG_SIMT_LOWERED=none QG_SIMT_PERSISTENCE=0 QG_SIMT_ECC=none QG_SIMT_MIG=1
is warm_watts '"nan"'
is warm_celsius 45
is warm_sm_mhz_low 1980
is warm_discarded 0
is device_settings '"driver 580.65.06, persistence mode off, SM clock up to 1980 MHz, power limit 700 W, MIG on"'
timed new QG_SIMT_SM_MHZ=none QG_SIMT_MEMORY_MHZ=none QG_SIMT_CELSIUS=none QG_SIMT_POWER_LIMIT=none
is warm_sm_mhz_low '"nan"'
is warm_sm_mhz_high '"nan"'
is warm_memory_mhz '"nan"'
is warm_celsius '"nan"'
is warm_watts 350.5
is device_settings '"driver 580.65.06, persistence mode on, SM clock up to 1980 MHz, ECC on"'

# An older driver has the reasons under another name.
timed old QG_SIMT_LOWERED=0x40
is warm_lowered_by '"thermal"'
is warm_samples 0

# No library, or one without a driver: times without conditions, and why.
timed broken
is warm_sm_mhz_low '"nan"'
is reason '""'
grep -q '^"device_settings":"unknown: no NVML: .*libnvidia-ml.so.1' rows.txt || fail "$what: not said to be away"
timed new QG_SIMT_NVML=0 QG_SIMT_LOWERED=0x40
is warm_watts '"nan"'
is warm_discarded 0
is device_settings '"unknown: NVML says: Driver Not Loaded"'

QG_SIMT_PERSISTENCE=0 LD_LIBRARY_PATH=$dir/new "$qgauge" doctor | grep -q 'persistence mode is off' ||
    fail 'doctor: persistence mode'
LD_LIBRARY_PATH=$dir/broken "$qgauge" doctor | grep -q 'nobody can ask the device for its clocks' ||
    fail 'doctor: no NVML'
exit $bad
