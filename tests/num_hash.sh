#!/bin/sh
# num_hash.sh SOURCE_ROOT [STRIDE]: builds num_hash.c with gcc and clang at -O0 to -O3, with and
# without the instruction sets of this machine, and compares the hashes.
root=$1
stride=${2:-1021}
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
n=0
for cc in gcc clang; do
    command -v $cc >/dev/null 2>&1 || { echo "$cc is not installed: not compared"; continue; }
    for flags in -O0 -O1 -O2 -O3 '-O3 -march=native'; do
        # shellcheck disable=SC2086
        $cc -std=c17 $flags -ffp-contract=off -fno-fast-math -I"$root" -o "$work/num_hash" \
            "$root/tests/num_hash.c" -lm || exit 99
        hash=$("$work/num_hash" "$stride") || exit 99
        echo "$hash $cc $flags"
        n=$((n + 1))
    done
done >"$work/hashes"
cat "$work/hashes"
[ "$(grep -c '^[0-9a-f]\{16\} ' "$work/hashes")" -ge 5 ] || exit 99
[ "$(grep '^[0-9a-f]\{16\} ' "$work/hashes" | cut -d' ' -f1 | sort -u | wc -l)" = 1 ] && exit 0
echo "schemes/num means different bits to different compilers"
exit 1
