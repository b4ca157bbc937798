// cuda_emulated.cpp - ssm_cuda.cu on an emulated GPU: the kernels and the host's side as they are.
// SPDX-License-Identifier: MIT
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
