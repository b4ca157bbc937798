#!/bin/sh
# fuzz.sh - libFuzzer on each target of tests/fuzz: fuzz.sh BUILD-FOLDER SECONDS-EACH|-runs=N [TARGET]...
#
# -runs=N: until a number of executions instead of seconds. Corpora grow in BUILD-FOLDER/TARGET.corpus; MERGE=1 puts the
# smallest set of inputs that reaches as much in place of the kept corpus and runs nothing. JOBS compilers at once (2).
# SPDX-License-Identifier: MIT
set -e
build=$1 until=$2
shift 2
[ $# -gt 0 ] || set -- header json score serve state history load bits int
cd "$(dirname "$0")/.."
clang=$(command -v clang++-14 || command -v clang++-16 || true)
if [ -z "$clang" ]; then
    echo "skipped: fuzzing needs clang++-14 and libclang-rt-14-dev"
    [ "${CI:-}" != true ]
    exit
fi
case $until in -runs=*) ;; *) until=-max_total_time=$until ;; esac
# Compares are not traced: that takes half of the time, and the dictionaries have the words.
flags="-std=c++17 -g -O2 -fno-sanitize-recover=all -fno-sanitize-coverage=trace-cmp -D_GLIBCXX_ASSERTIONS"
checks=address,undefined,float-divide-by-zero,float-cast-overflow
units="ssm_impl tool score_records gpu serve_json serve_request serve_rpc relevance relevance_history memory next history
    quantize quantize_snap"

# What the targets share is compiled once, by a makefile that knows what depends on what.
mkdir -p "$build/units"
makefile=$(mktemp "$build/Makefile.XXXXXX") # its own: several of this script may run at once
{
    printf 'all: %s/units.a' "$build"
    printf ' %s' "$@" | sed "s| \([a-z]*\)| $build/\1|g"
    printf '\n%s/units.a:' "$build"
    for u in $units; do printf ' %s/units/%s.o' "$build" $u; done
    printf '\n\t@rm -f $@; ar rcs $@ $^\n'
    printf '%s/units/%%.o: tools/%%.cpp\n\t@%s -fsanitize=fuzzer-no-link,%s ' "$build" "$clang" $checks
    printf '%s -MMD -MP -c $< -o $@\n' "$flags"
    printf '%s/%%: tests/fuzz/%%.cpp %s/units.a\n\t@%s -fsanitize=fuzzer,%s %s ' "$build" "$build" "$clang" $checks "$flags"
    printf -- "-DSSM_TEST_DIR='\"tests\"' -MMD -MP -MF \$@.d \$< %s/units.a -o \$@\n" "$build"
    printf -- '-include $(wildcard %s/units/*.d %s/*.d)\n' "$build" "$build"
} >"$makefile"
make -s -f "$makefile" -j"${JOBS:-2}" all MAKEFLAGS= || { rm -f "$makefile"; exit 1; }
rm -f "$makefile"

# Less bookkeeping of memory and no weights of rare features: several times as many executions a second.
export ASAN_OPTIONS="malloc_context_size=0:quarantine_size_mb=8:${ASAN_OPTIONS:-}"
for target in "$@"; do
    kept=tests/fuzz/corpus/$target grown=$build/$target.corpus dict= length=256
    mkdir -p "$kept" "$grown"
    for d in $target $([ $target = header ] || [ $target = load ] && echo safetensors); do
        [ -f tests/fuzz/$d.dict ] && dict=-dict=tests/fuzz/$d.dict
    done
    [ $target = load ] && length=8192
    [ $target = header ] && length=512
    [ $target = serve ] && length=384
    [ $target = json ] && length=1024
    [ $target = state ] && length=2048
    if [ "${MERGE:-}" = 1 ]; then
        rm -rf "$build/$target.merged"
        mkdir "$build/$target.merged"
        "$build/$target" -merge=1 -use_counters=0 -max_len=$length -timeout=10 "$build/$target.merged" "$kept" "$grown" 2>&1 | tail -n 1
        rm -rf "$kept" && mv "$build/$target.merged" "$kept"
        continue
    fi
    printf '%s: ' $target
    "$build/$target" $until -artifact_prefix="$build/" -max_len=$length -timeout=10 -rss_limit_mb=1024 -entropic=0 \
        -print_final_stats=1 $dict "$grown" "$kept" >"$build/$target.log" 2>&1 || { tail -n 40 "$build/$target.log"; exit 1; }
    awk '/^Done/ {printf "%s executions in %s s", $2, $5} /average_exec/ {printf ", %s a second\n", $2}' "$build/$target.log"
done
