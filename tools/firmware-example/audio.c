/* audio.c - a recording in flash: AUDIO is the name of a file of 16-bit samples. SPDX-License-Identifier: MIT */
__asm__(".section .rodata\n"
        ".global audio, audio_end\n"
        "audio: .incbin " "\"" AUDIO "\"\n"
        "audio_end: .byte 0\n"
        ".text\n");
typedef int not_empty;
