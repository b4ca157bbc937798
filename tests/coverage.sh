#!/usr/bin/env bash
# coverage.sh - how much of ssm.hpp the quick tests reach: coverage.sh BUILD
#
# clang's counters, at -O0, in the files that have the library's code within them; the other objects are BUILD's as
# they are. Lines: of llvm-cov. Branches: both ways of every condition, over all copies of a function (coverage/merge.awk).
# Only what this machine runs is measured: other processors' back-ends are not compiled, and those of x86-64 that this
# processor lacks are left out. BUILD/coverage/lines: lines reached, for mutants.sh; missed: conditions taken one way only.
# Reasons for those that no test can take stand in coverage.md.
#
# SPDX-License-Identifier: MIT
set -u
export LC_ALL=C
cd "$(dirname "$0")/.." || exit
build=$(realpath "${1:?usage: $0 BUILD}") at=$build/coverage
for tool in clang++-14 llvm-profdata-14 llvm-cov-14; do
    command -v $tool >/dev/null || { echo "skipped: $tool is not installed"; [ "${CI:-}" != true ]; exit; }
done
mkdir -p "$at"
has_code=$(grep -l '^#define SSM_IMPLEMENTATION' tests/*.cpp tools/*.cpp)
objects=() # those that count come first: of an inline function a linker takes the first copy
for f in $has_code; do
    o=$at/$(basename "$f" .cpp).o
    [ "$o" -nt ssm.hpp ] && [ "$o" -nt "$f" ] ||
        clang++-14 -w -std=c++17 -O0 -fprofile-instr-generate -fcoverage-mapping -pthread "-DSSM_TEST_DIR=\"$PWD/tests\"" -c "$f" -o "$o" || exit
    objects+=("$o")
done
for f in tests/*.cpp tools/*.cpp; do
    [ "$f" = tools/ssm.cpp ] || grep -qx "$f" <<<"$has_code" || objects+=("$build/${f%.cpp}.o")
done
clang++-14 -fprofile-instr-generate -pthread -o "$at/test" "${objects[@]}" || exit
LLVM_PROFILE_FILE=$at/test.profraw timeout 3000 "$at/test" --test-case-exclude='*slow)*,cuda: times*' >"$at/said" || { tail -n 30 "$at/said"; exit 1; }
llvm-profdata-14 merge -sparse "$at/test.profraw" -o "$at/test.profdata" || exit
without=none
grep -q avx512_vnni /proc/cpuinfo || without='6avx512|7vnni256|7avxvnni' # nowhere else on this processor
llvm-cov-14 export -format=lcov "$at/test" -instr-profile="$at/test.profdata" "$PWD/ssm.hpp" >"$at/lcov" || exit
llvm-cov-14 export "$at/test" -instr-profile="$at/test.profdata" "$PWD/ssm.hpp" | sed 's/{"branches":/\n&/g' |
    awk -v file=ssm.hpp -v without="$without" -f tests/coverage/merge.awk | sort -n >"$at/branches" || exit
sed -n 's/^DA:\([0-9]*\),[1-9].*/\1/p' "$at/lcov" >"$at/lines"
awk 'NR == FNR { if ($5 == 0 || $6 == 0) miss[$1] = miss[$1] " " $2 ($5 == 0 ? " never true" : "") ($6 == 0 ? " never false" : ""); next }
    FNR in miss { sub(/^ */, ""); print FNR ":" miss[FNR] ": " $0 }' "$at/branches" ssm.hpp >"$at/missed"

# By section: lines, branches.
awk -F'[:,]' -v without="$without" '
    FILENAME ~ /lcov$/ { if ($1 == "DA" && !($2 in lacks)) { ++all[section($2)]; if ($3 > 0) ++hit[section($2)] } next }
    FILENAME ~ /hpp$/ && without != "none" { # the structs of what the processor lacks
        if (/^(template <> )?struct (avx512|wide<i64x8>) |^template <bool Avx512> struct /) outside = 1
        if (outside) lacks[FNR]
        if (/^};/) outside = 0
    }
    FILENAME ~ /hpp$/ { if (match($0, /^\/\/ ---- [0-9]+\. /)) { ++n; begin[n] = FNR; title[n] = $0; gsub(/^\/\/ ---- |[ -]+$/, "", title[n]) } next }
    { split($0, v, " "); s = section(v[1]); both[s] += 2; taken[s] += (v[5] > 0) + (v[6] > 0) }
    function section(line,   k) { for (k = n; k > 1 && begin[k] > line; --k) {} return k }
    END {
        for (k = 1; k <= n; ++k) {
            if (all[k]) printf "%-50s lines %5d of %5d  branches %5d of %5d\n", title[k], hit[k], all[k], taken[k], both[k]
            a += all[k]; h += hit[k]; b += both[k]; t += taken[k]
        }
        printf "counted: lines %.1f %% branches %.1f %%\n", 100 * h / a, 100 * t / b
        exit !(h >= 0.95 * a && t >= 0.90 * b && a > 3000 && b > 2000)
    }' ssm.hpp "$at/lcov" "$at/branches"
