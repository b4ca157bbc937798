#!/bin/sh
# levels.sh - integer models give the same bits whatever the compiler, the level, and with checks for undefined behaviour:
# levels.sh [quick]
#
# Builds the header with each and runs the golden integer models and the shipped ones: every integer that the files
# state, every back-end, one digest of all outputs and states. quick: some levels only. In CI (CI=true) a missing
# compiler is a failure; elsewhere it is said and passed over. SPDX-License-Identifier: MIT
cd "$(dirname "$0")/.." || exit
out=$(mktemp -d) || exit
trap 'rm -rf "$out"' EXIT
ubsan="-fsanitize=undefined -fno-sanitize-recover=all"
common="-std=c++17 -DSSM_NO_FLOAT" # the integer engine alone

# One compiler: a line of the table for each level, in $out/COMPILER.
rows() {
    cxx=$1 at=$out/$1
    mkdir "$at.d" || return
    for unit in tools/tool.cpp tools/selftest_integer.cpp tests/levels/main.cpp; do
        $cxx $common -O1 -c $unit -o "$at.d/$(basename $unit).o" || return
    done
    for how in $levels; do
        level=${how%+*} checks=
        [ "$level" = "$how" ] || checks=$ubsan
        if $cxx $common $level $checks -c tools/ssm_impl.cpp -o "$at.o" && $cxx $checks "$at.o" "$at.d"/*.o -o "$at.exe"; then
            said=$(timeout 120 "$at.exe" tests/golden/int/*_s4d_*.safetensors tests/golden/int/*_m[123]_*.safetensors weights/*-i[48].safetensors 2>&1) && ok=ok || ok=FAIL
        else
            said="does not build" ok=FAIL
        fi
        [ -n "$said" ] || said="no answer in time"
        printf '%-10s  %-5s  %-6s  %s  %s\n' "$cxx" "$level" "${checks:+UBSan}" "$said" "$ok" >> "$at"
    done
}

levels="-O0 -O2 -O3 -Os -O0+ -O2+ -O3+ -Os+" # + with checks
[ "${1:-}" != quick ] || levels="-O0 -O3 -O2+"
failed=0 compilers=
for cxx in g++ clang++-14; do
    if command -v $cxx >/dev/null; then
        compilers="$compilers $cxx"
        rows $cxx & # one a processor
    else
        echo "skipped: $cxx is not installed"
        [ "${CI:-}" != true ] || failed=1
    fi
done
wait
printf '%-10s  %-5s  %-6s  %-16s\n' compiler level checks digest
expected=0
for cxx in $compilers; do
    cat "$out/$cxx" 2>/dev/null
    for how in $levels; do expected=$((expected + 1)); done
done > "$out/table"
cat "$out/table"
[ "$(grep -c ' ok$' "$out/table")" = "$expected" ] && [ "$expected" -gt 0 ] || { echo "FAIL: not all levels built and ran without a mismatch"; failed=1; }
[ "$(grep ' ok$' "$out/table" | awk '{ print $(NF - 1) }' | sort -u | wc -l)" = 1 ] || { echo "FAIL: not the same digest everywhere"; failed=1; }
exit $failed
