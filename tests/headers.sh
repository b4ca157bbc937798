#!/bin/sh
# headers.sh - the header by itself under every compiler that is here, with every switch, and for a Cortex-M4.
#
# In CI (CI=true) a missing compiler is a failure; elsewhere it is said and passed over.
# SPDX-License-Identifier: MIT
set -e
cd "$(dirname "$0")/.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
printf '#define SSM_IMPLEMENTATION\n#include "ssm.hpp"\n' > "$out/full.cpp"
printf '#include "ssm.hpp"\n#include "ssm.hpp"\nssm::Status f(ssm::State* s);\n' > "$out/declarations.cpp"
printf '#include "ssm.hpp"\n#define SSM_IMPLEMENTATION\n#include "ssm.hpp"\n' > "$out/late.cpp"
cat > "$out/fixed.cpp" <<'TXT'
#include "ssm.hpp"
constexpr ssm::Config shape = [] {
    ssm::Config c;
    c.n_layers = 2, c.pool = ssm::Pool::none, c.d_inner = 16, c.d_conv = 4, c.nheads = 2, c.headdim = 8, c.ngroups = 1;
#if defined(SHAPE_S4D)
    c.d_inner = 0;
#elif defined(SHAPE_MAMBA1)
    c.arch = ssm::Arch::mamba1, c.dt_rank = 1;
#elif defined(SHAPE_MAMBA2)
    c.arch = ssm::Arch::mamba2, c.d_ssm = 16;
#else
    c.arch = ssm::Arch::mamba3, c.mimo_rank = c.rope_angles = 1;
#endif
#ifdef INTEGERS
    c.state = ssm::StateType::i32, c.act_bits = 8, c.clip_q25 = 1 << 30, c.b_frac = 20;
#endif
    return c;
}();
#define SSM_FIXED_CONFIG shape
#define SSM_IMPLEMENTATION
#include "ssm.hpp"
TXT
cat > "$out/line.cpp" <<'TXT'
#define SSM_IMPLEMENTATION
#include "ssm.hpp"
#include <cstdio>
int main() {
    const unsigned char file[9] = {2};
    alignas(16) unsigned char ram[16];
    ssm::Index ix;
    ssm::Fault why;
    if (ssm::read_index(&ix, {file, sizeof file}, ram, sizeof ram, &why) != ssm::Status::truncated) return 1;
    std::printf("%d\n", int(why.line));
    return why.detail[0] != 0 || why.want != 2 || why.got != 1;
}
TXT
warn="-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wold-style-cast -Wdouble-promotion -Werror"
failed=0
missing() {
    echo "skipped: $1 is not installed"
    [ "${CI:-}" != true ] || failed=1
}
# One host compiler; it stops at the first failure.
host() {
    cxx=$1 x=$out/$1.o
    plain="-fno-exceptions -fno-rtti -I. -c"
    for how in "-std=c++17 -O0" "-std=c++17 -O3" "-std=c++17 -Os" "-std=c++20 -O1"; do
        $cxx $how $warn $plain "$out/full.cpp" -o "$x" || return
    done
    for switch in -DSSM_DEBUG -DSSM_NO_SIMD -DSSM_NO_FLOAT -DSSM_NO_INTEGER "-DSSM_NO_FILES -DSSM_STATIC" -DSSM_NO_S4D \
        "-DSSM_NO_S4D -DSSM_NO_MAMBA1 -DSSM_NO_MAMBA2" "-DSSM_NO_MAMBA1 -DSSM_NO_MAMBA2 -DSSM_NO_MAMBA3" \
        "-DSSM_NO_SIMD -DSSM_NO_FLOAT -DSSM_NO_FILES -DSSM_STATIC" "-DSSM_NO_SIMD -DSSM_NO_MESSAGES" \
        "-DSSM_NO_SIMD -DSSM_NO_TRACE"; do
        $cxx -std=c++17 -O0 $warn $switch $plain "$out/full.cpp" -o "$x" || return
    done
    for shape in S4D MAMBA1 MAMBA2 MAMBA3; do # one shape alone: of floats, of integers at their smallest
        for switch in -DFLOATS "-DINTEGERS -DSSM_NO_FLOAT -DSSM_NO_FILES -DSSM_NO_MESSAGES -DSSM_NO_TRACE"; do
            $cxx -std=c++17 -Os $warn "-DSHAPE_$shape" $switch -DSSM_NO_SIMD $plain "$out/fixed.cpp" -o "$x" || return
        done
    done
    $cxx -std=c++17 -O0 $warn -DSHAPE_MAMBA3 -DINTEGERS $plain "$out/fixed.cpp" -o "$x" || return
    for std in c++17 c++20; do
        $cxx -std=$std $warn $plain "$out/declarations.cpp" -o "$x" && $cxx -std=$std $warn $plain "$out/late.cpp" -o "$x" || return
    done
    # Without sentences a Fault names the line where one stands.
    $cxx -std=c++17 -O0 $warn -DSSM_NO_MESSAGES -DSSM_NO_SIMD -DSSM_NO_FLOAT -I. "$out/line.cpp" -o "$x.line" || return
    line=$("$x.line") || return
    if ! sed -n "${line}p" ssm.hpp | grep -q 'the file ends inside its header'; then
        echo "$cxx: line $line of ssm.hpp is not why a file cut short is refused"
        return 1
    fi
    # No heap, no library calls but the three that compilers make of plain loops.
    $cxx -std=c++17 -O2 $warn -DSSM_NO_FILES $plain "$out/full.cpp" -o "$x" || return
    if nm --undefined-only "$x" | grep -vE ' (memcpy|memset|strlen|__stack_chk_fail|_GLOBAL_OFFSET_TABLE_)$'; then
        echo "$cxx: the header calls the functions above"
        return 1
    fi
    echo "$cxx: ok"
}
# All at once.
running=
for cxx in g++-12 clang++-14 clang++-16; do
    command -v $cxx >/dev/null || { missing $cxx; continue; }
    host $cxx &
    running="$running $!"
done
for job in $running; do wait "$job" || failed=1; done
arm=arm-none-eabi-g++
if command -v $arm >/dev/null; then
    for opt in -Os -O2; do
        $arm -std=c++17 $opt -mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16 -ffreestanding -DSSM_NO_FILES \
            -Wall -Wextra -Wshadow -Werror -fno-exceptions -fno-rtti -I. -c "$out/full.cpp" -o "$out/x.o"
    done
    if arm-none-eabi-nm --undefined-only "$out/x.o" | grep -E ' (malloc|calloc|realloc|free|_Znw|_Zna|_Zd|expf?|sinf?|cosf?|sqrtf?|erff?)$'; then
        echo "$arm: the header calls the functions above"
        failed=1
    fi
    code() { arm-none-eabi-size "$out/x.o" | awk 'NR==2{print $1}'; }
    all=$(code)
    build() { # the rest left out
        $arm -std=c++17 -Os -mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16 -ffreestanding -DSSM_NO_FILES "$@" \
            -Wall -Wextra -Wshadow -Werror -fno-exceptions -fno-rtti -I. -c "$out/full.cpp" -o "$out/x.o"
    }
    build -DSSM_NO_MAMBA1 -DSSM_NO_MAMBA2 -DSSM_NO_MAMBA3
    s4d=$(code)
    build -DSSM_NO_MAMBA1 -DSSM_NO_MAMBA2 -DSSM_NO_S4D
    mamba3=$(code)
    # Integers alone, without a unit for floats: no float routine of the compiler's library is called.
    $arm -std=c++17 -Os -mcpu=cortex-m0 -mthumb -ffreestanding -DSSM_NO_FILES -DSSM_NO_FLOAT \
        -Wall -Wextra -Wshadow -Werror -fno-exceptions -fno-rtti -I. -c "$out/full.cpp" -o "$out/x.o"
    if arm-none-eabi-nm --undefined-only "$out/x.o" | grep -E ' __aeabi_(f|d|i2[fd]|ui2[fd]|u?l2[fd]|[fd]2)'; then
        echo "$arm: the integer engine calls the float routines above"
        failed=1
    fi
    echo "$arm (Cortex-M4): ok, $all bytes of code at -O2 with the loader; -Os: S4D alone $s4d, Mamba-3 alone $mamba3;" \
        "Cortex-M0: integers alone $(code), no float routine"
else missing $arm; fi
exit $failed
