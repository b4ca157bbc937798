#!/bin/sh
# bochs.sh - runs a bare program for x86-64 in Bochs, which has AVX-512 where no emulator of Debian's else has: bochs.sh PROGRAM
#
# Works in the current folder. The exit status is the program's; 77: no Bochs.
# SPDX-License-Identifier: MIT
set -e
command -v bochs >/dev/null && command -v x86_64-linux-gnu-gcc >/dev/null || exit 77
x86_64-linux-gnu-gcc -c "${0%.sh}.S" -o bochs.stub.o
x86_64-linux-gnu-ld -Ttext 0xfffff000 --oformat binary -e 0 bochs.stub.o -o bochs.stub
x86_64-linux-gnu-objcopy -O binary -j .text -j .models -j .data "$1" bochs.rom
[ "$(wc -c <bochs.stub)" = 4096 ] && [ "$(wc -c <bochs.rom)" -le $((0x1ff000)) ] || { echo "the program does not fit the ROM" >&2; exit 1; }
truncate -s $((0x1ff000)) bochs.rom
cat bochs.stub >>bochs.rom
cat >bochs.rc <<'RC'
cpu: model=corei7_icelake_u, count=1, ips=10000000, reset_on_triple_fault=0
memory: guest=32, host=32
romimage: file=bochs.rom, address=0xffe00000
com1: enabled=1, mode=file, dev=bochs.out
display_library: rfb, options="timeout=0"
boot: floppy
floppy_bootsig_check: disabled=1
log: bochs.log
panic: action=fatal
error: action=report
info: action=report
plugin_ctrl: speaker=0, gameport=0, parallel=0, extfpuirq=1
RC
rm -f bochs.out
# Debian's Bochs starts in its debugger, where c continues; its own exit status says nothing.
printf 'c\nq\n' | bochs -q -f bochs.rc >bochs.txt 2>&1 || true
[ -f bochs.out ] || { tail -n 5 bochs.txt bochs.log >&2; exit 1; }
grep -v '^status ' bochs.out || true
status=$(sed -n 's/^status 0*\([0-9]\)/\1/p' bochs.out)
exit "${status:-1}"
