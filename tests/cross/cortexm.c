/* cortexm.c - start-up code for every Cortex-M, M0 to M55, in an emulator with semihosting. SPDX-License-Identifier: MIT

   A debugger call is BKPT 0xAB with its number in r0 and the address of its arguments in r1. Output goes through one,
   and so does the exit status. Any fault ends the run with status 99. */
#include "board.h"

static void debugger(uint32_t call, const void* argument) {
    register uint32_t    r0 __asm__("r0") = call;
    register const void* r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}
void board_write(const char* text) { debugger(0x04, text); }
void board_leave(int status) {
    const uint32_t reason[2] = {0x20026u, (uint32_t)status}; /* the application ended */
    for (;;) debugger(0x20, reason);
}

static void fault(void) {
    board_write("FAIL a fault of the processor\n");
    board_leave(99);
}
static void reset(void) {
#if defined(__ARM_FP) || (defined(__ARM_FEATURE_MVE) && __ARM_FEATURE_MVE != 0)
    *(volatile uint32_t*)0xe000ed88u |= 15u << 20; /* coprocessors 10 and 11, floats and vectors, are off until now */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
    board_run();
}
/* The first words of memory: the stack, where to begin, and the faults. No interrupt is ever enabled. */
__attribute__((section(".vectors"), used)) static const uintptr_t vectors[16] = {
    (uintptr_t)stack_top,     (uintptr_t)&reset,        (uintptr_t)&fault, (uintptr_t)&fault,
    (uintptr_t)&fault,        (uintptr_t)&fault,        (uintptr_t)&fault, (uintptr_t)&fault,
    [11] = (uintptr_t)&fault, [12] = (uintptr_t)&fault, [14] = (uintptr_t)&fault, [15] = (uintptr_t)&fault};
