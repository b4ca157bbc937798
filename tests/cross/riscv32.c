/* riscv32.c - start-up code for the "virt" machine of qemu-system-riscv32. SPDX-License-Identifier: MIT

   Its serial port is a byte at 0x10000000; a word written to 0x100000 ends the emulator: 0x5555 with status 0, or the
   status above 0x3333. */
#include "board.h"

__asm__(".section .vectors, \"ax\"\n"
        ".globl begin\n"
        "begin:\n"
        "    la sp, stack_top\n"
#ifdef __riscv_flen
        "    li t0, 0x2000\n" /* mstatus.FS: floats on */
        "    csrs mstatus, t0\n"
#endif
        "    la t0, trap\n"
        "    csrw mtvec, t0\n"
        "    call board_run\n"
        ".text\n");

void board_write(const char* text) {
    for (; *text != 0; ++text) *(volatile uint8_t*)0x10000000u = (uint8_t)*text;
}
void board_leave(int status) {
    *(volatile uint32_t*)0x100000u = status == 0 ? 0x5555u : (uint32_t)status << 16 | 0x3333u;
    for (;;) {}
}
__attribute__((used, aligned(4))) static void trap(void) {
    board_write("FAIL a trap of the processor\n");
    board_leave(99);
}
