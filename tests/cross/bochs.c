/* bochs.c - a PC without BIOS or operating system, as Bochs makes it. SPDX-License-Identifier: MIT

   Text goes out of the first serial port, the exit status as a last line of it; "Shutdown" to port 0x8900 ends Bochs. */
#include "board.h"

static void out(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }
static uint8_t in(uint16_t port) {
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
void board_write(const char* text) {
    static int ready = 0;
    if (ready == 0) { /* 115200 bits a second, 8 bits a byte */
        out(0x3fb, 0x83), out(0x3f8, 1), out(0x3f9, 0), out(0x3fb, 3);
        ready = 1;
    }
    for (; *text != 0; ++text) {
        while ((in(0x3fd) & 0x20) == 0) {} /* until there is room for a byte */
        out(0x3f8, (uint8_t)*text);
    }
}
void board_leave(int status) {
    const char last[] = {'s', 't', 'a', 't', 'u', 's', ' ', (char)('0' + status / 10 % 10), (char)('0' + status % 10), '\n', 0};
    board_write(last);
    while ((in(0x3fd) & 0x40) == 0) {} /* until the last byte is gone */
    for (;;)
        for (const char* s = "Shutdown"; *s != 0; ++s) out(0x8900, (uint8_t)*s);
}

/* What bochs.S jumps to. */
__asm__(".section .vectors, \"ax\"\n"
        "    mov $stack_top, %rsp\n"
        "    xor %ebp, %ebp\n"
        "    call board_run\n"
        ".text\n");
