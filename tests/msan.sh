#!/usr/bin/env bash
# msan.sh - no answer, state or decision depends on memory that nobody wrote: golden and shipped models of every cell, both
# engines, every back-end of this machine, under clang's MemorySanitizer.
#
# The program is cross/main.cpp: steps, prefills and candidates of the same events, what is saved and restored. It needs no
# C++ library, which is not instrumented; its memory counts as never written whenever a model is loaded. In CI (CI=true) a
# missing compiler is a failure. SPDX-License-Identifier: MIT
set -u
export LC_ALL=C
cd "$(dirname "$0")/.." || exit
cxx=${CLANG:-clang++-14}
command -v "$cxx" >/dev/null || { echo "skipped: $cxx is not installed"; [ "${CI:-}" != true ]; exit; }
out=$(mktemp -d) || exit
trap 'rm -rf "$out"' EXIT
flags="-std=c++17 -g -O1 -fsanitize=memory -fsanitize-memory-track-origins=2 -fno-omit-frame-pointer -DCROSS_MSAN -Wall -Wextra -Wshadow -Wconversion -Werror"
pack() { # FILE...: a bundle, as cross/main.cpp has it
    local f name
    for f; do
        name=${f##*/}
        printf '%-64s' "${name%.safetensors} $(($(wc -c <"$f")))" && cat "$f" && echo
    done
}
pack weights/{parity,next,digits}-i[48].safetensors tests/golden/int/int_primitives.* tests/golden/int/*_s4d_* tests/golden/int/*_m[123]_* >"$out/integers"
pack weights/{parity,next,digits}.safetensors tests/golden/s4d/* tests/golden/mamba/* >"$out/floats"
"$cxx" $flags tests/cross/main.cpp -o "$out/msan" || exit
failed=0 runs=0
for bundle in integers floats; do
    said=$(timeout 900 "$out/msan" "$out/$bundle" 2>"$out/found") || { failed=1 && echo "FAILED: $bundle" && head -n 40 "$out/found" && tail -n 3 <<<"$said"; }
    runs=$((runs + $(grep -c -E ' [0-9a-f]{16} [0-9]+$' <<<"$said")))
done
# The check itself: a state that reset() leaves as it was is found.
sed 's|^SSM_API void reset(const Model& m, State\* s) noexcept {|&\n    if (s->data != nullptr) return;|' ssm.hpp >"$out/ssm.hpp"
! cmp -s ssm.hpp "$out/ssm.hpp" || { failed=1 && echo "FAILED: no fault was planted"; }
mkdir -p "$out/tests" && cp -r tests/cross "$out/tests/"
"$cxx" $flags "$out/tests/cross/main.cpp" -o "$out/planted" 2>"$out/log" && ! timeout 300 "$out/planted" "$out/integers" >/dev/null 2>"$out/found" && grep -q 'use-of-uninitialized-value' "$out/found" || {
    failed=1 && echo "FAILED: a state that was never written is not found" && head -n 5 "$out/log" "$out/found"
}
echo "msan: $runs models on back-ends ran"
echo "counted: uses of memory never written $failed"
[ "$failed" = 0 ] && [ "$runs" -ge 40 ]
