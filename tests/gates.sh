#!/bin/sh
# gates.sh - what is shown by the sources and a compiler rather than by a test: what the header takes in, that it keeps
# nothing, that it does without exceptions, that a step does the same whatever the data, and what the build runs.
# SPDX-License-Identifier: MIT
#
# Usage: sh tests/gates.sh BUILD   BUILD is the folder of a build that is done. CXX: the compiler.
set -u
cd "$(dirname "$0")/.." || exit 1
build=${1:?usage: sh tests/gates.sh BUILD}
cxx=${CXX:-g++}
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT
failed=0
step() { printf 'gates.sh: %s\n' "$1"; }
# none WHY: the file $out/found must be empty; else it has failed, and what is in it is where.
none() {
    [ ! -s "$out/found" ] && return
    printf 'gates.sh: FAILED: %s\n' "$1" >&2
    head -n 20 "$out/found" >&2
    failed=1
}

step "E-02 Q-01: the header takes in C headers, intrinsics and the system's calls for files, nothing else"
sed -n 's/^ *# *include *\([<"][^>"]*[>"]\).*/\1/p' ssm.hpp | sort -u >"$out/includes"
cat >"$out/allowed" <<'TXT'
<arm_acle.h>
<arm_mve.h>
<arm_neon.h>
<cpuid.h>
<fcntl.h>
<float.h>
<immintrin.h>
<riscv_vector.h>
<stddef.h>
<stdint.h>
<string.h>
<sys/auxv.h>
<sys/mman.h>
<sys/stat.h>
<unistd.h>
<wasm_simd128.h>
<windows.h>
TXT
grep -vxFf "$out/allowed" "$out/includes" >"$out/found"
none "includes that are not on the list"
[ "$(wc -l <"$out/includes")" -ge 10 ] || { echo "gates.sh: FAILED: no includes were found" >&2; failed=1; }
sed -n 's/^ *# *include *<\([^>]*\)>.*/\1/p' tests/*.cpp tests/*.hpp tools/*.cpp tools/*.hpp tools/train/*.hpp 2>/dev/null |
    grep / | grep -vE '^(doctest/doctest\.h|sys/[a-z]*\.h|linux/[a-z_]*\.h|arpa/inet\.h|netinet/in\.h)$' >"$out/found"
none "tests and tools take in what is neither the language's, the system's nor doctest"
grep -nE '\b(long double|throw|dynamic_cast|typeid|try *\{|catch *\(|thread_local|setlocale|std::)' ssm.hpp | grep -vE '^[0-9]+: *//|// .*std::' >"$out/found"
none "the header has words that its core does without"

step "C-01 E-01: the header's object holds no data that can be written, so no call leaves anything beside its arguments"
if nm "$build/tools/ssm_impl.o" | grep -q __asan_; then echo "gates.sh: passed over in a build with checks, which keep data of their own"
else size -A "$build/tools/ssm_impl.o" | awk '$1 ~ /^\.(data|bss|tdata|tbss)/ && $1 !~ /rel\.ro|DW\.ref/ && $2 > 0 { print $1, $2 }' >"$out/found"; fi
none "sections that can be written"
size -A "$build/tools/ssm_impl.o" | grep -q '^\.text' || { echo "gates.sh: FAILED: no object to look at" >&2; failed=1; }
grep -nE '\bmutable\b' ssm.hpp | grep -vE '^[0-9]+: *//|\] *\([^)]*\) *mutable' >"$out/found"
none "mutable members"

step "F-04 E-02: a program without exceptions and RTTI loads, steps, and is told of errors"
cat >"$out/plain.cpp" <<'TXT'
#define SSM_IMPLEMENTATION
#include "ssm.hpp"
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char** argv) {
    ssm::Blob file;
    if (argc != 2 || ssm::map_file(&file, argv[1]) != ssm::Status::ok) return 1;
    void* const work = malloc(ssm::index_bytes(file));
    ssm::Config c;
    ssm::Fault  why;
    if (ssm::inspect(&c, file, work, ssm::index_bytes(file), &why) != ssm::Status::ok) return puts(why.detail), 2;
    const size_t bytes = ssm::arena_bytes(c);
    ssm::Arena   arena{malloc(bytes), bytes, 0};
    ssm::Model   m;
    ssm::State   s;
    ssm::Scratch w;
    if (ssm::load(&m, file, &arena, {}, &why) != ssm::Status::ok) return puts(why.detail), 3;
    if (ssm::make_state(&s, m, &arena) != ssm::Status::ok || ssm::make_scratch(&w, m, 1, &arena) != ssm::Status::ok) return 4;
    float x = 0.1f, y[4];
    if (ssm::step(m, &s, &w, &x, y) != ssm::Status::ok) return 5;
    printf("%.9g %.9g\n", double(y[0]), double(y[1]));
    x = __builtin_inff();
    return ssm::step(m, &s, &w, &x, y) == ssm::Status::bad_input ? 0 : 6;
}
TXT
one=tests/golden/s4d/01_zoh_h8_n4.safetensors
: >"$out/found"
if $cxx -std=c++17 -O0 -fno-exceptions -fno-rtti -I. "$out/plain.cpp" -o "$out/plain" 2>"$out/found"; then
    [ "$("$out/plain" $one)" = "-0.421904087 -0.610072076" ] || echo "it does not step" >"$out/found"
    head -c 500 $one >"$out/cut.st"
    [ "$("$out/plain" "$out/cut.st"; echo $?)" = "the file ends inside its header
2" ] || echo "a file cut short is not told" >>"$out/found"
fi
none "without exceptions and RTTI"

step "C-01: under SSM_STATIC no function of a file is merged with another file's, which may be of other switches"
nm -C "$build/tests/back_ends.o" | awk '($2 ~ /^[WVu]$/ || $1 ~ /^[WVu]$/) && !/ typeinfo /' | grep -E '[WVu] .*ssm::(detail|json)::' >"$out/found"
none "shared symbols"
nm -C "$build/tests/back_ends.o" | grep -q ' t .*ssm::detail::.*scalar::scan_q' || { echo "gates.sh: FAILED: no kernels to look at" >&2; failed=1; }

unset MAKEFLAGS MFLAGS MAKELEVEL # of a make that this runs under: it may want every folder named
step "Q-02: the build runs a compiler and mkdir, and nothing that fetches"
make -n -B BUILD="$out/none" "$out/none/ssm" 2>/dev/null | awk '$1 !~ /^(g\+\+|c\+\+|clang\+\+)[-0-9.]*$/ && $1 != "mkdir" && $1 != "'"$cxx"'"' >"$out/found"
none "the build runs other programs"
make -n -B BUILD="$out/none" "$out/none/ssm" 2>/dev/null | grep -c -- ' -c ' | awk '$1 < 20 { print "only", $1, "files compiled" }' >"$out/found"
none "the build is not seen"

step "Q-03: every shipped model has a checksum, and a card that names its seed and how it is made"
for model in weights/*.safetensors; do
    name=$(basename "$model" .safetensors)
    grep -q " $name.safetensors\$" weights/SHA256SUMS || echo "$model: no checksum"
    card=weights/${name%-i[48]}.md
    { [ -e "$card" ] && grep -qi seed "$card" && grep -q "ssm train" "$card"; } || echo "$model: no card with its seed and the command in $card"
    grep -q "${name%-i[48]}" weights/make.sh || echo "$model: not made by weights/make.sh"
done >"$out/found"
none "models without their papers"

exit $failed
