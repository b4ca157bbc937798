#!/usr/bin/env bash
# cross.sh - the same models on every kind of processor that can be had here, most of them emulated: same bits everywhere.
#
#   make cross                      every target; a table on standard output
#   make cross CROSS=quick          one of each kind, in a minute
#   make cross TARGETS='cortex-m*'  those whose names match
#   make cross CROSS=count          instructions of a step on the emulated ones, by cross/count.c; TARGETS as above
#   make cross CROSS=kernels        integer kernels against the scalar ones, and instructions an operation (-O2)
#   make cross CROSS=digests        writes tests/cross/digests.txt anew
#   bash tests/cross.sh --packages  the Debian packages that the targets need, all or those chosen as above
#
# Each target runs the program of cross/main.cpp: models of a bundle through step, prefill and step_batch on every
# back-end that is there, and the integers that golden files store. Digests must be those of the scalar back-end on this
# machine, made in the same run, and those of digests.txt. In CI (CI=true) a missing compiler or emulator is a failure;
# elsewhere its targets are passed over. KEEP=folder keeps programs and outputs.
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/.." || exit
src=tests/cross
out=${KEEP:-$(mktemp -d)}
mkdir -p "$out" && out=$(cd "$out" && pwd) && rm -f "$out"/*.rc "$out"/*.err "$out/expected" || exit
cp $src/wasi.mjs $src/bochs.sh $src/bochs.S "$out" || exit # programs run there
[ -n "${KEEP:-}" ] || trap 'rm -rf "$out"' EXIT
which=${CROSS:-all}
program=main.cpp level=-Os # of firmware
[ "$which" != kernels ] || program=kernels.cpp level=-O2
limit=${LIMIT:-120} # seconds, of a run; more on a busy machine
warn="-Wall -Wextra -Wshadow -Wconversion -Werror"

# ---- Models

shipped="parity-i8 parity-i4 next-i8 next-i4"
golden=tests/golden/int
pack() { # FILE...
    local f n name
    for f; do
        n=$(wc -c <"$f") name=${f##*/}
        printf '%-64s' "${name%.safetensors} $((n))" && cat "$f" && echo
    done
}
# small: what fits 16 KiB of RAM and 128 KiB of flash; integers: all; both: with float models; some: a few of each kind.
pack $(printf 'weights/%s.safetensors ' $shipped) >"$out/shipped"
{ cat "$out/shipped" && pack $golden/0[156]_* $golden/21_*; } >"$out/small"
digits="weights/digits-i8.safetensors weights/digits-i4.safetensors" # need more than 16 KiB here, where states are copied
{ cat "$out/shipped" && pack $digits $golden/int_primitives.* $golden/*_s4d_* $golden/*_m[123]_*; } >"$out/integers"
pack weights/parity.safetensors weights/next.safetensors weights/digits.safetensors tests/golden/s4d/* tests/golden/mamba/* >"$out/floats"
cat "$out/integers" "$out/floats" >"$out/both"
{ cat "$out/shipped" && pack $digits $golden/0[2467]_* $golden/1[289]_* $golden/2[012]_* \
    weights/next.safetensors tests/golden/s4d/0[12]_* tests/golden/mamba/m1_d32.*; } >"$out/some"
names() { grep -aoE '^[A-Za-z0-9_-]+ [0-9]+ {8,}' "$1" | cut -d' ' -f1; } # of a bundle
float_names=$(names "$out/floats" | tr '\n' ' ')

# ---- Targets

# A build is a way to make a program: how[BUILD], its packages needs[BUILD], the bundle it gets takes[BUILD].
# A target is a build and what runs it.
declare -A how needs takes where runs built
targets=()
build() { # BUILD BUNDLE PACKAGES FUNCTION [ARGUMENT]...
    takes[$1]=$2 needs[$1]=$3 how[$1]="${*:4}"
}
target() { # NAME BUILD WHERE [EMULATOR]...
    targets+=("$1")
    built[$1]=$2 where[$1]=$3 runs[$1]="${*:4}"
}
# These make $out/$b.program for the build $b; 77 says that the tools are missing.
# Under an operating system: hosted COMPILER [FLAG]...
hosted() {
    local cxx=$1
    shift
    echo 'int main() { return 0; }' | "$cxx" "$@" -x c++ - -o "$out/$b.program" 2>/dev/null || return 77
    "$cxx" -std=c++17 -O2 $warn "$@" $src/$program -o "$out/$b.program"
}
wasm() { # [FLAG]...
    hosted clang++-14 --target=wasm32-wasi --sysroot=/usr -nostdlib++ -fno-exceptions -DSSM_NO_FILES "$@"
}
# Without one: bare PREFIX START BOARD MEMORY [FLAG]... START: the start-up code, with $start_flags; MEMORY: bytes for
# models, their states and the like.
bare() {
    local cxx=$1-g++ nm=$1-nm start=$2 places=$3 memory=$4 floats='__(aeabi_[df]|(add|sub|mul|div|float|fix|extend|trunc)[a-z]*[ds]f)'
    shift 4
    command -v "$cxx" >/dev/null || return 77
    set -- "$@" $warn $level -ffreestanding -ffunction-sections -fdata-sections
    "$cxx" "$@" -std=c++17 -fno-exceptions -fno-rtti -fno-threadsafe-statics -DSSM_NO_FILES -DCROSS_BARE \
        "-DCROSS_MEMORY=$memory" -c $src/$program -o "$out/$b.o" || return 1
    if [[ " $* " == *" -DSSM_NO_FLOAT "* ]] && "$nm" -u "$out/$b.o" | grep -E "$floats"; then
        echo "the integer engine calls the float routines above"
        return 1
    fi
    set -- "$@" -fno-tree-loop-distribute-patterns # which makes calls of memcpy, in memcpy too
    "${cxx%g++}gcc" "$@" ${start_flags:-} -c "$src/$start.c" -o "$out/$b.start.o" &&
        "${cxx%g++}gcc" "$@" "-DBUNDLE=\"$out/${takes[$b]}\"" -nostdlib -T $src/bare.ld -Wl,--gc-sections,--no-warn-rwx-segments \
            $(printf -- '-Wl,--defsym=%s ' $places) "$out/$b.start.o" "$out/$b.o" $src/bare.c $src/models.S -lgcc -o "$out/$b.program"
}
pc() { # [FLAG]...
    bare x86_64-linux-gnu bochs "$pc" 300000 -fno-pic -mno-red-zone -fno-stack-protector -fcf-protection=none \
        -fno-asynchronous-unwind-tables -no-pie -Wl,-z,noexecstack "$@"
}
arm() { # BOARD MEMORY [FLAG]...
    bare arm-none-eabi cortexm "${!1}" "$2" -mthumb "${@:3}"
}
riscv() { # ARCHITECTURE [FLAG]...
    local start_flags=-march=$1_zicsr # touches control registers; the compiler has no libraries under this name
    bare riscv64-unknown-elf riscv32 "$virt" 300000 -march=$1 -mcmodel=medany "${@:2}"
}

build x86-64-scalar both g++ hosted ${CXX:-g++} -DSSM_NO_SIMD
build x86-64 both g++-12 hosted g++-12 -static
build x86-64-clang both clang-16 hosted clang++-16 -O3
build i386 both g++-12-multilib hosted g++-12 -m32 -msse2 -mfpmath=sse -isystem /usr/include/x86_64-linux-gnu
build aarch64 both g++-aarch64-linux-gnu hosted aarch64-linux-gnu-g++ -static
build armv7 both g++-arm-linux-gnueabihf hosted arm-linux-gnueabihf-g++ -static -march=armv7-a -mfpu=neon-vfpv4
build armv7-nofma both g++-arm-linux-gnueabihf hosted arm-linux-gnueabihf-g++ -static -march=armv7-a -mfpu=neon -O1
build armv6 both g++-arm-linux-gnueabi hosted arm-linux-gnueabi-g++ -static -march=armv6 -mfpu=vfp -mfloat-abi=softfp -marm
build armv5 both g++-arm-linux-gnueabi hosted arm-linux-gnueabi-g++ -static -march=armv5te -mfloat-abi=soft
build riscv64 both g++-riscv64-linux-gnu hosted riscv64-linux-gnu-g++ -static
build riscv64-v both "clang-16 g++-riscv64-linux-gnu" hosted clang++-16 --target=riscv64-linux-gnu -march=rv64gcv -mabi=lp64d -static
build s390x both g++-s390x-linux-gnu hosted s390x-linux-gnu-g++ -static
build wasm both "clang-14 lld wasi-libc libclang-rt-14-dev-wasm32" wasm -O1
build wasm-simd both "clang-14 lld wasi-libc libclang-rt-14-dev-wasm32" wasm -O3 -msimd128

# Boards: their code, models and RAM; and of a PC.
. $src/boards.sh
pc="code_at=0x200000 code_bytes=512K models_at=0x280000 models_bytes=0x17f000 ram_at=0x400000 ram_bytes=4M"
build bochs some g++ pc
build m0 small gcc-arm-none-eabi arm microbit 11400 -mcpu=cortex-m0 -DSSM_NO_FLOAT
build m3 integers gcc-arm-none-eabi arm mps2 300000 -mcpu=cortex-m3 -DSSM_NO_FLOAT
build m4 both gcc-arm-none-eabi arm mps2 300000 -mcpu=cortex-m4 -mfloat-abi=hard -mfpu=fpv4-sp-d16
build m4-stm32 small gcc-arm-none-eabi arm stm32f4 100000 -mcpu=cortex-m4 -mfloat-abi=hard -mfpu=fpv4-sp-d16 -DSSM_NO_FLOAT
build m7 both gcc-arm-none-eabi arm mps2 300000 -mcpu=cortex-m7 -mfloat-abi=hard -mfpu=fpv5-d16
build m33 both gcc-arm-none-eabi arm an505 300000 -mcpu=cortex-m33 -mfloat-abi=hard -mfpu=fpv5-sp-d16
build m33-nodsp integers gcc-arm-none-eabi arm an505 300000 -mcpu=cortex-m33+nodsp -mfloat-abi=soft -DSSM_NO_FLOAT
build m55 both gcc-arm-none-eabi arm an547 300000 -mcpu=cortex-m55 -mfloat-abi=hard
build m55-int integers gcc-arm-none-eabi arm an547 300000 -march=armv8.1-m.main+mve -mfloat-abi=hard -DSSM_NO_FLOAT
build rv32imc integers gcc-riscv64-unknown-elf riscv rv32imc -mabi=ilp32 -DSSM_NO_FLOAT
build rv32imac integers gcc-riscv64-unknown-elf riscv rv32imac -mabi=ilp32 -DSSM_NO_FLOAT
build rv32imafc both gcc-riscv64-unknown-elf riscv rv32imafc -mabi=ilp32f

target x86-64-scalar x86-64-scalar "this machine, without SIMD"
target x86-64 x86-64 "this machine, g++"
target x86-64-clang x86-64-clang "this machine, clang"
target x86-64-nehalem x86-64 "qemu, Nehalem" qemu-x86_64 -cpu Nehalem
target x86-64-haswell x86-64 "qemu, Haswell" qemu-x86_64 -cpu Haswell
target x86-64-icelake bochs "Bochs, Ice Lake" sh bochs.sh
target i386-sse2 i386 "this machine, 32 bits"
for a in a53 a76; do target aarch64-cortex-$a aarch64 "qemu, Cortex-${a^}" qemu-aarch64 -cpu cortex-$a; done
target aarch64-max aarch64 "qemu, max (SVE 256)" qemu-aarch64 -cpu max,sve256=on
target armv7-cortex-a7 armv7 "qemu, Cortex-A7" qemu-arm -cpu cortex-a7
target armv7-cortex-a8 armv7-nofma "qemu, Cortex-A8, no FMA" qemu-arm -cpu cortex-a8
target armv6-arm1176 armv6 "qemu, ARM1176" qemu-arm -cpu arm1176
target armv5-arm926 armv5 "qemu, ARM926, soft float" qemu-arm -cpu arm926
target riscv64 riscv64 "qemu, rv64gc" qemu-riscv64 -cpu rv64
for v in 128 256 512; do target riscv64-v$v riscv64-v "qemu, rv64gcv, VLEN $v" qemu-riscv64 -cpu rv64,v=true,vlen=$v,vext_spec=v1.0; done
target s390x s390x "qemu, big-endian" qemu-s390x
target wasm wasm "node" node --no-warnings wasi.mjs
target wasm-simd wasm-simd "node, SIMD128" node --no-warnings wasi.mjs

board="-display none -monitor none"
m="qemu-system-arm $board -serial none -chardev stdio,id=sh -semihosting-config enable=on,target=native,chardev=sh -M"
r="qemu-system-riscv32 $board -serial stdio -bios none -M virt -kernel"
target cortex-m0 m0 "micro:bit, 256 K flash, 16 K RAM" $m microbit -kernel
target cortex-m3 m3 "MPS2 AN385" $m mps2-an385 -kernel
target cortex-m4f m4 "MPS2 AN386" $m mps2-an386 -kernel
target cortex-m4-stm32 m4-stm32 "STM32F405, 1 M flash, 128 K RAM" $m netduinoplus2 -kernel
target cortex-m7 m7 "MPS2 AN500" $m mps2-an500 -kernel
target cortex-m33 m33 "MPS2 AN505" $m mps2-an505 -kernel
target cortex-m33-nodsp m33-nodsp "MPS2 AN505, no DSP, no FPU" $m mps2-an505 -kernel
target cortex-m55 m55 "MPS3 AN547, MVE float" $m mps3-an547 -kernel
target cortex-m55-mve-int m55-int "MPS3 AN547, MVE integer" $m mps3-an547 -kernel
for a in rv32imc rv32imac rv32imafc; do target $a $a "qemu, virt" $r; done

quick=" x86-64-scalar x86-64 x86-64-nehalem aarch64-max s390x wasm-simd cortex-m0 cortex-m4f cortex-m55-mve-int rv32imc "

# ---- Running

package_of() { # EMULATOR
    case ${1:-} in
    qemu-system-riscv32) echo qemu-system-misc ;;
    qemu-system-*) echo "$1" ;;
    qemu-*) echo qemu-user ;;
    node) echo nodejs ;;
    sh) echo bochs ;;
    esac
}
chosen=()
read -ra patterns <<<"${TARGETS:-*}"
for t in "${targets[@]}"; do
    [ "$which" != quick ] || [[ $quick == *" $t "* ]] || continue
    for pattern in "${patterns[@]}"; do
        [[ $t != $pattern ]] || { chosen+=("$t"); break; }
    done
done
counts=
if [ "$which" = count ] || [ "$which" = kernels ]; then
    counts=yes
    for i in "${!chosen[@]}"; do
        [[ ${runs[${chosen[i]}]} == qemu-* ]] && [ "$which ${chosen[i]}" != "kernels cortex-m0" ] || unset "chosen[i]"
    done # without a plugin, or with too little RAM
    chosen=("${chosen[@]}")
    gcc -O2 $warn -shared -fPIC -o "$out/count.so" $src/count.c || exit
fi
[ ${#chosen[@]} != 0 ] || { echo "cross: no target is called ${patterns[*]}" >&2; exit 2; }
if [ "${1:-}" = --packages ]; then
    for t in "${chosen[@]}"; do printf '%s\n' ${needs[${built[$t]}]} $(package_of ${runs[$t]}); done | sort -u
    exit
fi

step() { echo "cross: $1" >&2; }
[[ " ${chosen[*]} " != *" s390x "* ]] || step "E-07: a big-endian machine, s390x"
[[ " ${chosen[*]} " != *" cortex-m0 "* ]] || step "E-07: a machine that reads words at their own alignment only, Cortex-M0"

places() { # of count.c, in a program
    nm "$1" | awk '$3 ~ /^cross_(begin|end|next)$/ { printf ",%s=0x%s", substr($3, 7), $1 }'
}
# One build and the targets it serves; leaves BUILD.log and, for each target, its output in TARGET.txt and how it ended
# in TARGET.rc: an exit status, "build", or "missing" and packages.
job() { # BUILD TARGET...
    local b=$1 t rc=0 status
    shift
    ${how[$b]} >"$out/$b.log" 2>&1 || rc=$?
    for t; do
        set -- ${runs[$t]}
        if [ $rc = 77 ]; then echo "missing ${needs[$b]}"
        elif [ $rc != 0 ]; then echo build
        elif ! command -v "${1:-true}" >/dev/null; then echo "missing $(package_of "$1")"
        else
            [ -z "$counts" ] || [ $# = 0 ] || set -- "$1" -plugin "$out/count.so$(places "$out/$b.program")" -d plugin "${@:2}"
            [ -f "$out/$b.o" ] || set -- "$@" "./$b.program" "${takes[$b]}"
            [ ! -f "$out/$b.o" ] || set -- "$@" "./$b.program"
            status=0
            (cd "$out" && timeout $limit "$@" </dev/null >"$t.txt" 2>"$t.err") || status=$?
            if [ $status = 77 ]; then echo "missing $(package_of "$1")"; else echo $status; fi
        fi >"$out/$t.rc.new"
        mv "$out/$t.rc.new" "$out/$t.rc"
    done
}
# The row of a target that has run. A model counts if every back-end gave its digest and its stored integers.
row() { # TARGET
    local t=$1 rc
    rc=$(cat "$out/$t.rc")
    case $rc in
    missing*) printf '| %s | %s | | | | | | | | skipped: needs %s |\n' "$t" "${where[$t]}" "${rc#missing }" ;;
    build)
        printf '| %s | %s | | | | | | | | FAIL: does not build |\n' "$t" "${where[$t]}"
        tail -n 20 "$out/${built[$t]}.log" >&2
        ;;
    *)
        [ "$which" != kernels ] || { kernels "$t" "$rc"; return; }
        awk -v t="$t" -v on="${where[$t]}" -v rc="$rc" -v shipped="$shipped" -v floats="$float_names" -v needed="$(names "$out/${takes[${built[$t]}]}" | tr '\n' ' ')" '
            FILENAME != ARGV[2] { if ($1 !~ /^#/) want[$1] = $2 " " $3; next }
            $1 == "stack" { next }
            $0 == "end" { ended = 1; next }
            NF == 4 && $3 != "FAIL" {
                if ($1 != "int_primitives" && !($2 in isa)) { isa[$2] = 1; isas = isas (isas == "" ? "" : " ") $2 }
                got[$1, $2] = $3 " " $4
                digest[$1] = $3
                next
            }
            why == "" { why = $0 == "" ? "an empty line" : $0; sub(/^FAIL /, "", why) }
            END {
                n = split(needed, name, " "); m = split(isas, each, " ")
                for (i = 1; i <= n; ++i) {
                    k = name[i]; good = k in want && m > 0
                    for (j = 1; j <= m; ++j)
                        if (k != "int_primitives" || each[j] == "scalar") good = good && got[k, each[j]] == want[k]
                    if (!good && why == "") why = "wrong: " k
                    if (index(" " shipped " ", " " k " ") > 0) continue
                    if (index(" " floats " ", " " k " ") > 0) { f[1] += good; f[2]++ }
                    else { g[1] += good; g[2]++ }
                }
                if (why == "" && !ended) why = "no end"
                if (why == "" && rc != 0) why = "exit status " rc
                if (rc == 124) why = "too slow; " why
                printf "| %s | %s | %s |", t, on, isas
                n = split(shipped, name, " ")
                for (i = 1; i <= n; ++i) printf " %s |", name[i] in digest ? digest[name[i]] : "-"
                printf " %s | %s | %s |\n", g[2] ? g[1] "/" g[2] : "-", f[2] ? f[1] "/" f[2] : "-", why == "" ? "pass" : "FAIL: " why
            }' "$out/expected" "$out/$t.txt"
        ;;
    esac
}
digests() { awk 'NF == 4 { print $1, $3, $4 }' "$1"; }

# The rows of a target in instructions a step: those of one back-end in one row.
counted="$shipped 02_s4d_w4a8_h32 14_m3_l2_features_head"
counts() { # TARGET
    awk -v t="$1" -v on="${where[$1]}" -v models="$counted" '
        FILENAME == ARGV[1] { if ($1 == "counted") count[++n] = sprintf("%.0f", $4 / $2); next }
        NF == 4 && $1 != "int_primitives" {
            if (!($2 in isa)) { isa[$2] = 1; each[++m] = $2 }
            steps[$1, $2] = count[++k]
        }
        END {
            if (n != k) { print "| " t " | FAIL: " n " counts of " k " models |"; exit }
            k = split(models, name, " ")
            for (j = 1; j <= m; ++j) {
                printf "| %s | %s | %s |", t, on, each[j]
                for (i = 1; i <= k; ++i) printf " %s |", (name[i], each[j]) in steps ? steps[name[i], each[j]] : "-"
                printf "\n"
            }
        }' "$out/$1.err" "$out/$1.txt"
}

# The rows of a target's kernels: cases that agree with the scalar ones, and instructions an operation, by the difference
# of two sizes: of a projection a multiply-add (for one token, for four at once, for one in codes of 16 bits) and what a row needs besides; of a scan a
# number of the state, in 32 bits or 16, a mode of S4D and a channel of one mode; of functions and norms a number.
kernels() { # TARGET STATUS
    awk -v t="$1" -v on="${where[$1]}" -v rc="$2" '
        FILENAME == ARGV[1] { if ($1 == "counted") count[++n] = $4; next }
        NF == 5 && $4 ~ /^[0-9]+$/ {
            id = $1 " " $2 " " $3; ++k
            if (id in size) per[id] = (count[k] - before[id]) / ($4 * $5 - size[id])
            before[id] = count[k]; size[id] = $4 * $5
            next
        }
        $0 == "end" { ended = 1 }
        / FAIL / { why = $0; sub(/ FAIL /, ": ", why) }
        NF == 2 && $2 ~ /^[0-9]+$/ && $1 != "stack" { each[++m] = $1; cases[$1] = $2 }
        END {
            if (why == "" && (!ended || n != k)) why = "no end"
            if (why == "" && rc != 0) why = "exit status " rc
            if (rc == 124) why = "too slow; " why
            if (m == 0) each[m = 1] = ""
            for (i = 1; i <= m; ++i)
                {
                printf "| %s | %s | %s | %s | %.2f | %.2f | %.3f | %.2f | %.2f | %.2f |", t, on, each[i], cases[each[i]],
                    per["matmul " each[i] " 8"], per["matmul " each[i] " 4"], per["batch " each[i] " 8"],
                    per["batch " each[i] " 4"], per["codes16 " each[i] " 8"], per["codes16 " each[i] " 4"]
                k = split("row_8 scan_32 scan_16 s4d_32 channel_32 gelu_32 glu_32 gate_32 norm_32 quantize_32", id_of, " ")
                for (j = 1; j <= k; ++j) {
                    split(id_of[j], part, "_")
                    printf " %.0f |", per[part[1] " " each[i] " " part[2]]
                }
                printf " %s |\n", why == "" ? "pass" : "FAIL: " why
            }
        }' "$out/$1.err" "$out/$1.txt"
}

# ---- Results

# What everything is compared with: the scalar back-end on this machine, whose digests must not have changed.
failed=0 base=x86-64-scalar stored=$src/digests.txt
reference() {
    local model at size byte
    if [ "$(cat "$out/$base.rc")" != 0 ]; then
        tail -n 20 "$out/$base".{log,txt,err} >&2 2>/dev/null
        echo "cross: the scalar back-end does not run here" >&2
        exit 1
    fi
    awk 'NF == 4 { print $1, $3, $4 }' "$out/$base.txt" >"$out/expected"
    if [ "$which" = digests ]; then
        {
            echo "# Made by: make cross CROSS=digests. Of each model: its digest (see main.cpp), and how many stored integers it reproduced."
            cat "$out/expected"
        } >$stored
        echo "wrote $stored"
        exit
    fi
    if ! grep -v '^#' $stored | diff - "$out/expected" >"$out/changed"; then
        echo "cross: models give other digests than $stored says (if they should: make cross CROSS=digests):" >&2
        cat "$out/changed" >&2
        failed=1
    fi
    # One bit of a weight turned must show: in a digest, and against what a golden file stores.
    built[damaged]=damaged takes[damaged]=both where[damaged]=
    for model in parity-i8 07_m3_siso_w8a8_tiny_trace; do
        at=$(grep -abo "^$model [0-9]* " "$out/both" | cut -d: -f1)
        size=$(grep -ao "^$model [0-9]*" "$out/both" | cut -d' ' -f2)
        at=$((at + 64 + size / 2))
        byte=$(od -An -tu1 -j $at -N 1 "$out/both")
        { head -c $at "$out/both" && printf "\\$(printf %03o $((byte ^ 16)))" && tail -c +$((at + 2)) "$out/both"; } >"$out/damaged"
        "$out/$base.program" "$out/damaged" >"$out/damaged.txt"
        echo $? >"$out/damaged.rc"
        case $(row damaged) in
        *"FAIL: "*"$model"*) ;;
        *)
            echo "cross: a damaged weight of $model was not noticed: $(row damaged)" >&2
            failed=1
            ;;
        esac
    done
}
# Rows in their order, as far as they are ready.
shown=0 passed=0 skipped=0
show() {
    local t text
    if [ ! -f "$out/expected" ]; then
        [ -f "$out/$base.rc" ] || return 0
        reference
    fi
    while [ $shown -lt ${#chosen[@]} ] && t=${chosen[$shown]} && [ -f "$out/$t.rc" ]; do
        text=$(row "$t")
        if [ "$which" = count ] && [[ $text == *"| pass |" ]]; then counts "$t"; else echo "$text"; fi
        case $text in
        *"| pass |") passed=$((passed + 1)) ;;
        *"| skipped: "*) skipped=$((skipped + 1)) ;;
        *)
            failed=1
            tail -n 5 "$out/$t.err" >&2 2>/dev/null
            ;;
        esac
        shown=$((shown + 1))
    done
}
# As many builds at once as there are processors, up to 8.
most=${JOBS:-$(nproc 2>/dev/null || echo 2)} running=0 begun=" "
[ "$most" -lt 8 ] || most=8
run() { # BUILD TARGET...
    [[ $begun != *" $1 "* ]] || return 0
    begun+="$1 "
    if [ $running -ge "$most" ]; then
        wait -n
        running=$((running - 1))
        show
    fi
    job "$@" &
    running=$((running + 1))
}

[ "$which" != digests ] || chosen=($base)
heads="back-ends $shipped golden float result"
[ "$which" != count ] || heads="back-end $counted"
[ "$which" != kernels ] || heads="back-end cases int8 int4 int8-of-4 int4-of-4 int8-codes16 int4-codes16 row scan scan-codes s4d channel gelu glu gate norm quantize result"
[ "$which" = digests ] || {
    printf '| target | where |'
    printf ' %s |' $heads
    printf '\n| --- | --- |'
    printf ' %.0s--- |' $heads
    printf '\n'
}
if [ "$which" = kernels ]; then : >"$out/expected"; else run $base $base; fi
for t in "${chosen[@]}"; do
    serves=()
    for u in "${chosen[@]}"; do [ "${built[$u]}" != "${built[$t]}" ] || serves+=("$u"); done
    run "${built[$t]}" "${serves[@]}"
done
while [ $running -gt 0 ]; do
    wait -n
    running=$((running - 1))
    show
done
wait
show
[ $shown = ${#chosen[@]} ] || failed=1
echo
echo "$passed of ${#chosen[@]} targets pass, $skipped skipped"
[ $skipped = 0 ] || [ "${CI:-}" != true ] || failed=1
exit $failed
