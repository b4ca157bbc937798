#!/usr/bin/env bash
# packages.sh - the repository as package managers see it: manifests, then a compile with each framework's usual flags.
#
# Frameworks themselves are not asked: of Arduino the macros of its header stand here, of Zephyr and ESP-IDF the flags.
# Where a compiler is missing, that is said; in CI (CI=true) it is a failure. Usage: tests/packages.sh PATH/TO/ssm
# SPDX-License-Identifier: MIT
set -eu
cd "$(dirname "$0")/.."
top=$PWD ssm=$(realpath "${1:?usage: $0 PATH/TO/ssm}")
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
failed=0
missing() {
    echo "skipped: $1 is not installed"
    [ "${CI:-}" != true ] || failed=1
}
if command -v cmake >/dev/null; then cmake -P tests/packages.cmake; else missing cmake; fi
"$ssm" convert weights/next-i8.safetensors --c-array "$out/model.h"
lean="-Os -ffreestanding -ffunction-sections -fdata-sections -fno-exceptions -fno-rtti -Wall -Wextra -Werror"

# Arduino and PlatformIO: the example, behind the names that Arduino.h takes for itself.
cat >"$out/Arduino.h" <<'TXT'
#include <stdint.h>
#define HIGH 1
#define LOW 0
#define INPUT 0
#define OUTPUT 1
#define PI 3.1415926535897932
#define TWO_PI 6.283185307179586
#define EULER 2.718281828459045
#define SERIAL 0
#define DISPLAY 1
#define CHANGE 1
#define FALLING 2
#define RISING 3
#define INTERNAL 3
#define DEFAULT 1
#define EXTERNAL 0
#define PA 1
#define PB 2
#define PC 3
#define PD 4
#define PE 5
#define PF 6
#define PG 7
#define PH 8
#define B0 0
#define B00 0
#define B1 1
#define B01 1
#define B10 2
#define B11 3
#define A0 14
#define A1 15
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
#define abs(x) ((x) > 0 ? (x) : -(x))
#define constrain(x, a, b) ((x) < (a) ? (a) : ((x) > (b) ? (b) : (x)))
#define round(x) ((x) >= 0 ? (long)((x) + 0.5) : (long)((x)-0.5))
#define radians(x) ((x)*0.017453292519943295)
#define degrees(x) ((x)*57.29577951308232)
#define sq(x) ((x) * (x))
#define interrupts() 0
#define lowByte(w) ((uint8_t)((w)&0xff))
#define highByte(w) ((uint8_t)((w) >> 8))
#define bitRead(x, b) (((x) >> (b)) & 1)
#define bit(b) (1UL << (b))
#define word(...) 0
#define F(s) (reinterpret_cast<const __FlashStringHelper*>(s))
class __FlashStringHelper;
#define _BV(b) (1 << (b))
#define yield() 0
typedef uint8_t byte;
typedef bool    boolean;
int             analogRead(int pin);
void            delay(unsigned long ms);
struct Port {
    void begin(long baud);
    void println(const char* text);
    void println(double number);
};
extern Port Serial;
void        setup();
void        loop();
TXT
sed '1i #include <Arduino.h>' tools/arduino/Events/Events.ino >"$out/Events.ino.cpp"
if command -v arm-none-eabi-g++ >/dev/null; then
    arm-none-eabi-g++ -mcpu=cortex-m4 -mthumb -std=gnu++17 $lean -fno-threadsafe-statics -fno-use-cxa-atexit -nostdlib \
        --param max-inline-insns-single=500 -I"$top" -I"$out" -c "$out/Events.ino.cpp" -o "$out/x.o"
    printf '#define SSM_IMPLEMENTATION\n#include <ssm.hpp>\nconst char* text = reinterpret_cast<const char*>(F("after it"));\n' >"$out/all.cpp"
    arm-none-eabi-g++ -mcpu=cortex-m4 -mthumb -std=gnu++17 $lean -DSSM_NO_FILES -include "$out/Arduino.h" -I"$top" -c "$out/all.cpp" -o "$out/x.o"
    echo "Arduino, PlatformIO: Events.ino and all of ssm.hpp compile as a core for Arm would compile them"

    # Zephyr: with the definitions of Kconfig's defaults, the flags of its builds and the macros of its util.h.
    printf '#define MIN(a, b) 0\n#define MAX(a, b) 0\n#define BIT(n) 0\n#define CLAMP(a, b, c) 0\n#define ARRAY_SIZE(a) 0\n#define CONFIG_SSM 1\n' >"$out/autoconf.h"
    printf '#define SSM_IMPLEMENTATION\n#include <ssm.hpp>\n#include "model.h"\n' >"$out/x.cpp"
    arm-none-eabi-g++ -mcpu=cortex-m4 -mthumb -mabi=aapcs -std=c++17 $lean -fno-common -fno-asynchronous-unwind-tables -fno-pic \
        -fno-strict-overflow -fno-reorder-functions -fno-defer-pop -Wformat -Wpointer-arith -Wexpansion-to-defined \
        -imacros "$out/autoconf.h" -DSSM_NO_FILES -DSSM_NO_FLOAT -I"$top" -I"$out" -c "$out/x.cpp" -o "$out/x.o"
    echo "Zephyr: ssm.hpp compiles with its flags for Arm"
else missing arm-none-eabi-g++; fi

# ESP-IDF: as for an ESP32-C3. Its chips with Xtensa cores have no compiler in Debian.
if command -v riscv64-unknown-elf-g++ >/dev/null; then
    riscv64-unknown-elf-g++ -march=rv32imc -mabi=ilp32 -std=gnu++2b $lean -Wno-unused-parameter -Wno-sign-compare -fstrict-volatile-bitfields \
        -fno-jump-tables -fno-tree-switch-conversion -DESP_PLATFORM -DSSM_NO_FILES -I"$top" -I"$out" -c "$out/x.cpp" -o "$out/x.o"
    echo "ESP-IDF: ssm.hpp compiles with its flags for RISC-V"
else missing riscv64-unknown-elf-g++; fi
exit $failed
