// program.hpp - what the programs of cross.sh have in common: a way to write, and places for count.c.
// SPDX-License-Identifier: MIT
#pragma once
#include <stdint.h>

#ifdef CROSS_BARE
extern "C" void board_write(const char* text);
#else
#include <stdio.h>
static void board_write(const char* text) { fputs(text, stdout); }
#endif

// Around each thing that is counted, and behind a group of such.
#if defined(__GNUC__)
#define CROSS_PLACE(name, k)                                                                                           \
    extern "C" __attribute__((noinline)) void name() { __asm__ volatile("" ::"i"(k) : "memory"); }
#else
#define CROSS_PLACE(name, k)                                                                                           \
    static void name() {}
#endif
CROSS_PLACE(cross_begin, 1)
CROSS_PLACE(cross_end, 2)
CROSS_PLACE(cross_next, 3)

namespace {
struct Text {
    char  s[80];
    char* end = s;
    Text& add(const char* t) {
        while (*t != 0 && end < s + sizeof s - 1) *end++ = *t++;
        *end = 0;
        return *this;
    }
    Text& add(uint32_t n) {
        char  digits[12];
        char* d = digits + 11;
        *d = 0;
        do *--d = static_cast<char>('0' + n % 10);
        while ((n /= 10) != 0);
        return add(d);
    }
    Text& hex(uint64_t n) {
        for (int k = 60; k >= 0; k -= 4) {
            const char digit[] = {"0123456789abcdef"[n >> k & 15u], 0};
            add(digit);
        }
        return *this;
    }
};
} // namespace
