#!/bin/sh
# fuzz.sh - libFuzzer on each target of tests/fuzz: fuzz.sh BUILD-FOLDER SECONDS-EACH [TARGET]...
# SPDX-License-Identifier: MIT
set -e
build=$1 seconds=$2
shift 2
[ $# -gt 0 ] || set -- load score int serve
cd "$(dirname "$0")/.."
clang=$(command -v clang++-14 || command -v clang++-16 || true)
if [ -z "$clang" ]; then
    echo "skipped: fuzzing needs clang++-14 and libclang-rt-14-dev"
    [ "${CI:-}" != true ]
    exit
fi
mkdir -p "$build"
for target in "$@"; do
    more=
    [ $target = score ] && more="tools/score_records.cpp tools/gpu.cpp tools/tool.cpp"
    [ $target = int ] && more="tools/quantize.cpp tools/quantize_snap.cpp tools/tool.cpp -DSSM_TEST_DIR=\"tests\""
    [ $target = serve ] && more="$(echo tools/serve_*.cpp tools/relevance*.cpp) tools/memory.cpp tools/next.cpp tools/history.cpp tools/tool.cpp"
    $clang -std=c++17 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all tests/fuzz/$target.cpp $more -o "$build/$target"
    mkdir -p "$build/$target.corpus"
    dict=
    [ $target = load ] && dict=-dict=tests/fuzz/safetensors.dict
    [ $target = score ] && dict=-dict=tests/fuzz/score.dict
    [ $target = serve ] && dict=-dict=tests/fuzz/serve.dict
    "$build/$target" -max_total_time="$seconds" -max_len=8192 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 $dict \
        "$build/$target.corpus" tests/fuzz/corpus/$target 2>&1 | tail -n 12
done
