// cuda_emulated.cpp - ssm_cuda.cu on an emulated GPU: the kernels and the host's side as they are.
// SPDX-License-Identifier: MIT
#if !defined(__clang__) // the file is taken in here, so what it has of ssm.hpp's own copy looks as if others shared it
#pragma GCC diagnostic ignored "-Wsubobject-linkage"
#endif
#include "cuda_emulator.hpp"

#define SSM_CUDA_EMULATED
#include "../ssm_cuda.cu"

#include "cuda_emulated.hpp"

namespace test {
void     emulate_failure(int64_t calls) { emulator::gpu().fails_in = calls; }
void     emulate_presence(bool present) { emulator::gpu().present = present; }
int32_t  emulated_allocations() { return emulator::gpu().memory; }
uint64_t emulated_launches() { return emulator::gpu().launches; }
} // namespace test
