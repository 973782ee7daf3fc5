#!/bin/sh
# on_backend.sh QGAUGE BACKEND PROGRAM: runs a Check suite for one backend's kernels, or says in TAP
# why it cannot.
absent=$("$1" list backends | sed -n "s/^$2 .*(not here: \(.*\))$/\1/p")
[ -z "$absent" ] || { echo "1..0 # SKIP $absent"; exit 0; }
QG_BACKEND=$2 QG_MAY_REFUSE=1 exec "$3"
