/* bare.c - a program's life without an operating system: memory, main, the three functions that compilers call, and how
   deep the stack went. SPDX-License-Identifier: MIT */
#include "board.h"

void* memcpy(void* restrict to, const void* restrict from, size_t n) {
    unsigned char*       d = to;
    const unsigned char* s = from;
    while (n-- != 0) *d++ = *s++;
    return to;
}
void* memset(void* to, int value, size_t n) {
    unsigned char* d = to;
    while (n-- != 0) *d++ = (unsigned char)value;
    return to;
}
size_t strlen(const char* s) {
    size_t n = 0;
    while (s[n] != 0) ++n;
    return n;
}

static const uint32_t unused = 0x5afe57acu; /* what the stack is painted with */

static void number(uint32_t n) {
    char  digits[12];
    char* d = digits + 11;
    *d = 0;
    do *--d = (char)('0' + n % 10u);
    while ((n /= 10u) != 0);
    board_write(d);
}

void board_run(void) {
    uint32_t* const here = __builtin_frame_address(0);
    for (uint32_t *d = data_begin, *s = data_image; d < data_end; ++d, ++s) *d = *s;
    for (uint32_t* d = bss_begin; d < bss_end; ++d) *d = 0;
    for (uint32_t* d = stack_limit; d < here - 64; ++d) *(volatile uint32_t*)d = unused;
    int             status = main();
    const uint32_t* deepest = stack_limit;
    while (*deepest == unused) ++deepest;
    board_write("stack ");
    number((uint32_t)((uintptr_t)stack_top - (uintptr_t)deepest));
    board_write("\n");
    if (deepest == stack_limit) {
        board_write("FAIL the stack reached other memory\n");
        status = 98;
    }
    board_leave(status);
}
