#!/bin/sh
# same_output.sh PROGRAM OTHER [ARGUMENT]...: both must print the same; 77 when one skips.
one=$1 two=$2
shift 2
first=$("$one" "$@")
code=$?
[ $code = 0 ] || { echo "$one: $first"; exit $code; }
second=$("$two" "$@")
code=$?
echo "$first" "$second"
[ $code = 0 ] || exit $code
[ -n "$first" ] && [ "$first" = "$second" ]
