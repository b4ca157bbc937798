/* board.h - what a board gives to main.cpp, and to its own start-up code. SPDX-License-Identifier: MIT */
#ifndef CROSS_BOARD_H
#define CROSS_BOARD_H
#include <stddef.h>
#include <stdint.h>

int main(void);
void board_write(const char* text);                    /* to whoever runs the emulator */
void board_leave(int status) __attribute__((noreturn)); /* ends the emulator with this exit status */

/* Of the linker script. The stack grows down from stack_top towards stack_limit. */
extern uint32_t data_begin[], data_end[], data_image[], bss_begin[], bss_end[], stack_limit[], stack_top[];

void board_run(void) __attribute__((noreturn)); /* fills memory, calls main and leaves; the stack must stand */
#endif
