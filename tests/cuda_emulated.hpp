// cuda_emulated.hpp - what tests ask of the emulated GPU. SPDX-License-Identifier: MIT
#pragma once
#include <cstdint>

namespace test {
void     emulate_failure(int64_t calls); // the library fails once, after so many calls; below 0: never
void     emulate_presence(bool present); // whether there is a GPU
int32_t  emulated_allocations();         // of memory, graphs and events, that are not freed
uint64_t emulated_launches();
} // namespace test
