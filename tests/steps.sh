#!/bin/sh
# steps.sh - does a step do the same work whatever the numbers are? Every basic block that runs is counted by the compiler's
# own hook, for inputs of zeros, noise, denormals, the largest numbers and alternating ones, on the scalar back-end.
# SPDX-License-Identifier: MIT
#
# Usage: sh tests/steps.sh. CXX: g++ or clang++, which both have -fsanitize-coverage=trace-pc. Blocks are no measure of
# time: one may hold a negation or a whole dot product. 5 % are aimed at and beyond it is said; 10 % are an error.
set -eu
cd "$(dirname "$0")/.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
step() { echo "steps.sh: $1"; }
cat >"$out/steps.cpp" <<'TXT'
#define SSM_IMPLEMENTATION
#include "ssm.hpp"
#include <stdio.h>
#include <stdlib.h>
static unsigned long blocks;
#ifdef __clang__
#define UNCOUNTED __attribute__((no_sanitize("coverage")))
#else
#define UNCOUNTED __attribute__((no_sanitize_coverage))
#endif
extern "C" UNCOUNTED void __sanitizer_cov_trace_pc() { ++blocks; }
static unsigned seed = 1;
static float noise() {
    seed = seed * 1664525u + 1013904223u;
    return float(seed >> 8) / 8388608.0f - 1.0f;
}
int main(int argc, char** argv) {
    bool bad = argc < 2;
    for (int a = 1; a < argc; ++a) {
        ssm::Blob file;
        if (ssm::map_file(&file, argv[a]) != ssm::Status::ok) return 1;
        void* const  work = malloc(ssm::index_bytes(file));
        ssm::Config  c;
        if (ssm::inspect(&c, file, work, ssm::index_bytes(file)) != ssm::Status::ok) return 1;
        const size_t bytes = ssm::arena_bytes(c);
        ssm::Arena   arena{malloc(bytes), bytes, 0};
        ssm::Model   m;
        ssm::State   s;
        ssm::Scratch w;
        if (ssm::load(&m, file, &arena) != ssm::Status::ok || ssm::make_state(&s, m, &arena) != ssm::Status::ok ||
            ssm::make_scratch(&w, m, 1, &arena) != ssm::Status::ok)
            return 1;
        float *const  x = static_cast<float*>(calloc(size_t(c.d_input), 4)), *y = static_cast<float*>(calloc(size_t(c.d_output), 4));
        // Steps after which a float state settles (every 64th) are known beforehand and a kind of their own.
        unsigned long least[2] = {~0ul, ~0ul}, most[2] = {0, 0}, taken = 0;
        for (int kind = 0; kind < 6; ++kind)
            for (int t = 0; t < 100; ++t) {
                for (int i = 0; i < c.d_input; ++i) {
                    const float v = noise();
                    x[i] = kind == 0 ? 0 : kind == 1 ? v : kind == 2 ? 1e-42f * v : kind == 3 ? 1e9f : kind == 4 ? (t + i) % 2 ? 1e9f : -1e9f : 1e-5f * v;
                }
                blocks = 0;
                if (ssm::step(m, &s, &w, x, y) != ssm::Status::ok) return 1;
                const int settles = ++taken % 64 == 0 && !ssm::is_integer(c);
                if (blocks < least[settles]) least[settles] = blocks;
                if (blocks > most[settles]) most[settles] = blocks;
            }
        for (int k = 0; k < (ssm::is_integer(c) ? 1 : 2); ++k) {
            const double ratio = double(most[k]) / double(least[k]);
            printf("%s%s: %lu to %lu blocks, %.1f %%%s\n", argv[a], k == 1 ? ", steps that settle" : "", least[k], most[k],
                   100 * (ratio - 1), ratio > 1.05 ? " (beyond 5 %)" : "");
            bad |= ratio > 1.1;
        }
    }
    return bad ? 2 : 0;
}
TXT
step "E-04: basic blocks of a step, the most beside the least"
${CXX:-g++} -std=c++17 -O2 -fsanitize-coverage=trace-pc -DSSM_NO_SIMD -I. "$out/steps.cpp" -o "$out/steps"
"$out/steps" tests/golden/s4d/0[1348]*.safetensors tests/golden/mamba/m1_d32.safetensors tests/golden/mamba/m3_mimo_r2_d32_f16.safetensors \
    tests/golden/int/0[259]*.safetensors tests/golden/int/1[0-9]*.safetensors weights/*-i[48].safetensors weights/next.safetensors
echo "steps.sh: ok"
