#!/bin/sh
# same_output.sh PROGRAM OTHER [ARGUMENT]...: both, side by side, must print the same; 77 when PROGRAM
# skips.
one=$1 two=$2
shift 2
there=$(mktemp) || exit 99
trap 'rm -f "$there"' EXIT
"$two" "$@" >"$there" &
first=$("$one" "$@")
code=$?
[ $code = 0 ] || { kill $!; echo "$one: $first"; exit $code; }
wait $!
code=$?
second=$(cat "$there")
echo "$first" "$second"
[ $code = 0 ] || exit $code
[ -n "$first" ] && [ "$first" = "$second" ]
