/* bochs.S - the last 4 KiB of a PC's ROM: from reset to 64 bits with all vector registers on. SPDX-License-Identifier: MIT
   The rest of its 2 MiB is the program, which is copied to where it is linked, 0x200000, and begins there. */
    .text
    .code32
rom:
with_32_bits:
    mov $16, %eax /* flat data */
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $0xffe00000, %esi
    mov $0x200000, %edi
    mov $0x1ff000 / 4, %ecx
    cld
    rep movsl
    /* Addresses are themselves: one table of four pages of a GiB each. */
    xor %eax, %eax
    mov $0x10000, %edi
    mov $0x2000 / 4, %ecx
    rep stosl
    movl $0x11003, 0x10000
    movl $0x00000083, 0x11000
    movl $0x40000083, 0x11008
    movl $0x80000083, 0x11010
    movl $0xc0000083, 0x11018
    mov $0x10000, %eax
    mov %eax, %cr3
    mov $1 << 18 | 1 << 10 | 1 << 9 | 1 << 5, %eax /* XSAVE, SSE and its exceptions, wide page tables */
    mov %eax, %cr4
    mov $0xc0000080, %ecx
    rdmsr
    or $1 << 8, %eax /* 64 bits */
    wrmsr
    mov $1 << 31 | 1 << 5 | 1 << 1 | 1, %eax /* pages, x87 errors by exception, protection */
    mov %eax, %cr0
    ljmp $24, $with_64_bits
    .code64
with_64_bits:
    xor %ecx, %ecx
    xor %edx, %edx
    mov $0xe7, %eax /* x87, SSE, AVX, AVX-512 */
    xsetbv
    mov $0x200000, %eax
    jmp *%rax

    .balign 8
segments:
    .quad 0
    .quad 0x00cf9a000000ffff /* 8: code, 32 bits */
    .quad 0x00cf92000000ffff /* 16: data */
    .quad 0x00af9a000000ffff /* 24: code, 64 bits */
segments_at:
    .word . - segments - 1
    .long segments

    .code16
with_16_bits:
    cli
    in $0x92, %al
    or $2, %al /* address line 20 */
    out %al, $0x92
    lgdtl %cs:(0xf000 + segments_at - rom)
    mov $0x21, %eax
    mov %eax, %cr0
    ljmpl $8, $with_32_bits
    .org 0xff0
    jmp with_16_bits /* the processor begins here */
    .org 0x1000
