#!/bin/sh
# lint.sh SOURCE_ROOT BUILD_ROOT: the rules that reviews need not argue about.
#   who may include what; <hdf5.h> and <immintrin.h> only where they belong; every header compiles
#   alone; libraries neither print nor exit; clang-format has nothing to say.
root=$1
build=$2
cd "$root" || exit 99
bad=0
complain() {
    echo "lint: $1"
    bad=1
}

# --- the include table: folder prefix, then what its files may include (prefixes)
table='schemes/num/	schemes/num/
schemes/	schemes/
harness/base/	harness/base/
kernels/	kernels/ schemes/ harness/base/
golden/	golden/ harness/base/ schemes/num/
reports/	reports/ harness/base/ harness/result.h
harness/cli/	harness/ schemes/ kernels/ golden/ reports/
harness/	harness/ schemes/ kernels/ golden/'
includes=$(git ls-files -- '*.c' '*.h' '*.cu' ':!tests' | xargs grep -n '^#include "' /dev/null)
while IFS='	' read -r folder allowed; do
    echo "$includes" | grep "^$folder" | while IFS=: read -r file line text; do
        case "$folder:$file" in
        schemes/:schemes/num/* | harness/:harness/base/* | harness/:harness/cli/*) continue ;;
        esac
        target=$(echo "$text" | sed 's/#include "\(.*\)".*/\1/')
        ok=
        for prefix in $allowed; do
            case "$target" in "$prefix"*) ok=1 ;; esac
        done
        case "$folder:$target" in harness/:harness/cli/*) ok= ;; esac
        [ -n "$ok" ] || echo "$file:$line may not include $target"
    done
done >"$build/lint.includes" <<EOF
$table
EOF
[ -s "$build/lint.includes" ] && { cat "$build/lint.includes"; complain 'the include table is broken'; }

only() { # only HEADER PATTERN: files outside PATTERN must not include HEADER
    found=$(git ls-files -- '*.c' '*.h' | xargs grep -l "#include <$1>" /dev/null | grep -v -E "$2")
    [ -z "$found" ] || complain "<$1> is included by $found"
}
only hdf5.h '^(golden/[a-z_]*\.c|harness/(result\.c|io/quiet_hdf5\.h|lm/logits\.c)|tests/)'
only immintrin.h '^kernels/(avx2|avx512|amx)/'
only cuda_runtime.h '^(kernels/cuda|tests/simt)/'

# --- every header alone (HDF5 may lie where the compiler does not look by itself)
hdf5=$(pkg-config --cflags hdf5 2>/dev/null)
for header in $(git ls-files -- '*.h' ':!tests/suite.h' ':!tests/simt/in*'); do
    echo "#include \"$header\"" | ${CC:-cc} -std=c17 -D_POSIX_C_SOURCE=200809L -Wall -Wextra -Werror \
        -Wno-unused-function -I. -I"$build" $hdf5 -x c -fsyntax-only - || complain "$header does not compile alone"
done

# --- fast math ends in a sentence
echo '#include "schemes/num/fn.h"' | ${CC:-cc} -ffast-math -I. -x c -fsyntax-only - 2>&1 |
    grep -q 'qgauge measures roundings' || complain 'schemes/num compiles with -ffast-math'

# --- libraries neither print nor exit (snprintf and fprintf to a FILE of the caller's are fine)
for library in harness/base/libqg_base.a schemes/libqg_schemes.a kernels/libqg_kernels.a \
    golden/libqg_golden.a harness/libqg_harness.a reports/libqg_reports.a; do
    [ -f "$build/$library" ] || continue
    found=$(nm -u "$build/$library" 2>/dev/null | awk '{print $2}' |
        grep -x -E 'printf|puts|putchar|perror|exit|abort|__printf_chk|stdout|stderr' | sort -u | tr '\n' ' ')
    [ -z "$found" ] || complain "$library uses: $found"
done

# --- the sources as clang-format writes them
if command -v clang-format >/dev/null 2>&1; then
    git ls-files -- '*.c' '*.h' '*.cc' '*.cu' | xargs clang-format --dry-run --Werror 2>"$build/lint.format" ||
        { grep -E 'error:' "$build/lint.format" | head -5; complain 'clang-format -i is needed'; }
else
    echo 'clang-format is not installed: layout not looked at'
fi
exit $bad
