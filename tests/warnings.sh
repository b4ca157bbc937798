#!/usr/bin/env bash
# warnings.sh - ssm.hpp under every warning that compilers and checkers have, but for those of the table below:
#
#   make warnings           all switches, compilers and checkers, and gcc's -fanalyzer (minutes)
#   make warnings-quick     what CI has the time for: no analyzer, fewer switches
#
# E-02, E-06: no implicit narrowing, change of sign, hidden double, cast of the old style, variable-length array; E-03: no
# recursion. tools/ and tests/ have the warnings of the Makefile. In CI (CI=true) a missing tool is a failure.
# SPDX-License-Identifier: MIT
set -u
export LC_ALL=C
cd "$(dirname "$0")/.." || exit
out=$(mktemp -d) || exit
trap 'rm -rf "$out"' EXIT
quick=${1:-} failed=0 ran=0

# ---- Deviations: what is left out, and why

gcc_all="-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wfloat-conversion -Wdouble-promotion -Wshadow -Wcast-qual
    -Wold-style-cast -Wformat=2 -Wnull-dereference -Wduplicated-cond -Wlogical-op -Wvla -Walloca
    -Wundef -Wredundant-decls -Wnon-virtual-dtor -Woverloaded-virtual -Wunused -Wmissing-declarations -Wextra-semi"
# -Wuseless-cast: of the casts it names, each is needed elsewhere: size_t is not uint64_t on 32 bits, uint32_t not unsigned
#   on Arm, vectors of one compiler not those of another.
# -Wduplicated-branches: a choice between two types of number, where both are the same type.
# -Wcast-align=strict: with vectors, loads from any address are what their instructions are for, though they are written
#   with a pointer to a vector. So it is on where there are none: SSM_NO_SIMD, and Arm below.
# In a build for one shape, where a part of a state begins may be a constant 0, and no index lies in front of it.
clang_fixed=-Wno-tautological-unsigned-zero-compare
clang_all="-Weverything"
while read -r warning _; do clang_all+=" -Wno-$warning"; done <<'TXT'
c++98-compat                this is C++17
c++98-compat-pedantic       this is C++17
pre-c++17-compat            this is C++17
pre-c++17-compat-pedantic   this is C++17
pre-c++20-compat-pedantic   asked of newer standards only
padded                      padding is meant
comma                       `a = b, c = d;` is how this code sets two things that belong together
float-equal                 x == x is how NaN is told, and equal configs have equal floats, to the bit
switch-enum                 every switch has a default, which stands for the rest
unsafe-buffer-usage         would have std::span for every pointer; that is C++20
unknown-warning-option      of these names, clang 14 knows fewer
TXT

printf '#define SSM_IMPLEMENTATION\n#include "ssm.hpp"\n' >"$out/full.cpp"
printf '#include "ssm.hpp"\n' >"$out/declarations.cpp"
sed -n "/^cat > .*fixed.cpp/,/^TXT/p" tests/headers.sh | sed '1d;$d' >"$out/fixed.cpp"

missing() {
    echo "skipped: $1 is not installed"
    [ "${CI:-}" != true ] || failed=1
}
# check NAME COMMAND...: nothing may be said.
check() {
    local name=$1 said
    shift
    ran=$((ran + 1))
    if ! said=$(timeout 500 "$@" 2>&1) || [ -n "$said" ]; then
        failed=$((failed + 1))
        printf 'FAILED: %s\n%s\n' "$name" "$(head -c 6000 <<<"$said")"
    fi
}

# ---- Compilers

m32="-m32 -msse2 -mfpmath=sse -ffreestanding -DSSM_NO_FILES"
# One compiler, and its words in a file, as all run at once.
compiler() {
    local cxx=$1 flags how of=$out/full.cpp
    shift
    flags="$* -Werror -I. -fsyntax-only"
    for how in -std=c++17 "-std=c++17 $m32" "-std=c++2b -DSSM_NO_SIMD $strict"; do
        check "$cxx $how" $cxx $how $flags $of
    done
    [ -n "$quick" ] || for how in -DSSM_DEBUG -std=c++20 -std=c++2b -DSSM_NO_FLOAT -DSSM_NO_INTEGER "-DSSM_NO_FILES -DSSM_STATIC" -DSSM_NO_S4D "-DSSM_NO_S4D -DSSM_NO_MAMBA1 -DSSM_NO_MAMBA2" \
        "-DSSM_NO_MAMBA1 -DSSM_NO_MAMBA2 -DSSM_NO_MAMBA3" "-DSSM_NO_SIMD -DSSM_NO_MESSAGES $strict" "-DSSM_NO_TRACE" "$m32 -DSSM_NO_FLOAT $strict"; do
        check "$cxx $how" $cxx -std=c++17 $how $flags $of
    done
    for how in MAMBA3 $([ -n "$quick" ] || echo S4D MAMBA1 MAMBA2); do
        check "$cxx $how, floats" $cxx -std=c++17 -DSHAPE_$how $flags $fixed "$out/fixed.cpp"
        check "$cxx $how, integers" $cxx -std=c++17 -DSHAPE_$how -DINTEGERS -DSSM_NO_FLOAT -DSSM_NO_SIMD $strict $flags $fixed "$out/fixed.cpp"
    done
    check "$cxx, declarations" $cxx -std=c++17 $flags "$out/declarations.cpp"
    echo "ran $ran failed $failed"
}
jobs=()
for cxx in g++-12 clang++-14 clang++-16; do
    command -v $cxx >/dev/null || { missing $cxx; continue; }
    case $cxx in
        g++*) strict=-Wcast-align=strict fixed= compiler $cxx $gcc_all >"$out/$cxx.said" & ;;
        *) strict= fixed=$clang_fixed compiler $cxx $clang_all >"$out/$cxx.said" & ;;
    esac
    jobs+=($!)
done
wait "${jobs[@]}"
for said in "$out"/*.said; do
    [ -e "$said" ] || continue
    grep -v '^ran ' "$said"
    read -r _ n _ bad < <(grep '^ran ' "$said")
    ran=$((ran + n)) failed=$((failed + bad))
done
# What needs the optimiser, and the frames of embedded targets.
[ -z "$quick" ] && command -v g++-12 >/dev/null && check "g++-12 -O2" g++-12 -std=c++17 -O2 $gcc_all -Werror -I. -c "$out/full.cpp" -o "$out/x.o"
arm=arm-none-eabi-g++
if command -v $arm >/dev/null; then
    check "$arm" $arm -std=c++17 -Os -mcpu=cortex-m4 -mthumb -ffreestanding -DSSM_NO_FILES $gcc_all -Wcast-align=strict -Werror -I. -c "$out/full.cpp" -o "$out/x.o"
else missing $arm; fi

# ---- Checkers: of .clang-tidy and of the table in it; of cppcheck's list

if command -v clang-tidy >/dev/null; then
    check "clang-tidy" bash -c "clang-tidy --quiet '$out/full.cpp' --config-file=.clang-tidy -- -std=c++17 -I. 2>&1 | grep -vE '^[0-9]+ warnings? generated|^Suppressed|^Use -header'; exit 0"
else missing clang-tidy; fi
if command -v cppcheck >/dev/null; then
    # invalidPointerCast: floats and bytes share memory by contract, and are moved by memcpy where they may not alias.
    # shiftNegativeLHS: the one there asserts what a shift of a negative number gives.
    # uninitvar: an array that a loop fills, whose length cppcheck does not see is above 0.
    # missingIncludeSystem: none is needed.
    check cppcheck cppcheck --enable=warning,performance,portability --inconclusive --std=c++17 --inline-suppr --error-exitcode=2 -q \
        -D__GNUC__=12 -D__BYTE_ORDER__=1234 -D__ORDER_LITTLE_ENDIAN__=1234 -D__unix__ -DSSM_IMPLEMENTATION -DSSM_NO_SIMD -USSM_DEBUG \
        --suppress=invalidPointerCast --suppress=shiftNegativeLHS --suppress=uninitvar:ssm.hpp --suppress=missingIncludeSystem -I. "$out/full.cpp"
else missing cppcheck; fi
# gcc's analyzer knows little of C++: it takes tensor() for one that may fail without saying so, and a team's job for null.
if [ -z "$quick" ] && command -v g++-12 >/dev/null; then
    check "g++-12 -fanalyzer" g++-12 -std=c++17 -O1 -fanalyzer -Wno-analyzer-null-argument -Wno-analyzer-null-dereference \
        -DSSM_NO_SIMD -Werror -I. -c "$out/full.cpp" -o "$out/x.o"
fi

# ---- The gate itself: a narrowing planted in a copy is told by every compiler

sed 's|^SSM_LOCAL size_t length_of|SSM_LOCAL int8_t planted(int x) noexcept { return x; }\n&|' ssm.hpp >"$out/ssm.hpp"
for cxx in g++-12 clang++-14 clang++-16; do
    command -v $cxx >/dev/null || continue
    case $cxx in g++*) all=$gcc_all ;; *) all=$clang_all ;; esac
    ran=$((ran + 1))
    $cxx -std=c++17 $all -Werror -fsyntax-only "$out/full.cpp" >/dev/null 2>&1 && failed=$((failed + 1)) && echo "FAILED: $cxx does not tell of a narrowing"
done

[ "$ran" -gt 10 ] || { echo "FAILED: only $ran checks ran"; failed=$((failed + 1)); }
step() { echo "$1"; } # see rules.sh
step "E-02 E-03 E-06: conversions, doubles, casts, recursion: $ran checks"
echo "counted: warnings $failed"
[ "$failed" = 0 ]
