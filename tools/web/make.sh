#!/bin/bash
# make.sh - builds the page: bash tools/web/make.sh SSM MODEL OUT.html
# SPDX-License-Identifier: MIT
#
# One file that needs no server and no network: the model and ssm.hpp in WebAssembly, with SIMD128 and without, are inside
# it. The digest it compares with is this machine's, by tools/firmware-example. Needs clang-14 and lld-14 (or others: CLANG).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ $# = 3 ] || { echo "usage: bash tools/web/make.sh SSM MODEL OUT.html" >&2; exit 2; }
ssm=$(realpath "$1") model=$(realpath "$2") page=$3
clang=${CLANG:-clang++-14}
for tool in "$clang" wasm-ld-14 base64; do
    command -v "$tool" >/dev/null || { echo "make.sh: needs $tool (Debian: apt-get install clang-14 lld-14)" >&2; exit 4; }
done
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for kind in simd scalar; do
    flags=$([ $kind = simd ] && echo -msimd128 || echo -DSSM_NO_SIMD)
    # The compiler's own routines, for products of 128 bits.
    rt=$(find "$("$clang" -print-resource-dir)" -name "libclang_rt.builtins-wasm32.a" | head -n 1)
    [ -n "$rt" ] || { echo "make.sh: needs libclang_rt.builtins-wasm32.a (Debian: apt-get install libclang-rt-14-dev-wasm32)" >&2; exit 4; }
    "$clang" --target=wasm32 -std=c++17 -O3 -ffreestanding -fno-exceptions -fno-rtti -fno-builtin -nostdlib -Wall -Wextra \
        -Wshadow -Wconversion -Werror $flags -Wl,--no-entry -Wl,--strip-all -o "$out/$kind.wasm" "$here/web.cpp" "$rt"
done
digest=$(make -s --no-print-directory -C "$here/../firmware-example" run BOARD=host "MODEL=$model" "OUT=$out/host" "SSM=$ssm" |
    sed -n 's/^digest //p')
name=$(basename "$model" .safetensors)
# Long lines: the shell puts them in, as no tool's arguments may be so long.
while IFS= read -r line; do
    case $line in
    *@MODEL@*)
        line=${line/@MODEL@/$(base64 -w0 "$model")} line=${line/@NAME@/$name} line=${line/@DIGEST@/$digest} ;;
    *@SIMD@*)
        line=${line/@SIMD@/$(base64 -w0 "$out/simd.wasm")} line=${line/@SCALAR@/$(base64 -w0 "$out/scalar.wasm")} ;;
    esac
    printf '%s\n' "$line"
done <"$here/page.html" >"$page.tmp"
mv "$page.tmp" "$page"
echo "$page: $(stat -c %s "$page") bytes; digest $digest"
