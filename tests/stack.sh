#!/usr/bin/env bash
# stack.sh - E-03: how much stack ssm.hpp takes, from what gcc says of every function (-fcallgraph-info=su).
#
#   make stack          every frame is static and within 512 bytes, every chain of calls of a step within 4 KiB: on a
#                       Cortex-M4, and on x86-64 without vectors. What is more stands in the table below, with its reason
#
# Calls through the back-ends' table are taken as calls of the largest kernel; kernels call others through it one deep.
# A team's threads have stacks of their own, and a trace's functions are the caller's. SPDX-License-Identifier: MIT
set -u
export LC_ALL=C
cd "$(dirname "$0")/.." || exit
out=$(mktemp -d) || exit
trap 'rm -rf "$out"' EXIT
failed=0 ran=0
step() { echo "$1"; } # see rules.sh
no() { failed=$((failed + 1)) && echo "FAILED: $*"; }

# ---- Deviations: build, function (a pattern of its mangled name), bytes at most, reason. Builds: m4-float (Cortex-M4, one
# shape), x86 (no vectors, any shape), vectors (all back-ends, beside what x86 has). A step of integers on a Cortex-M4 has none.
cat >"$out/table" <<'TXT'
m4-float   8load_s4d            1200   runs once, before the first step; doubles of the discretisation
m4-float   read_tensor           700   runs at load: the field it reads, and a Fault
m4-float   3ssm4load             600   runs at load: a Fault and a Config
x86        mix_row.*Ul         16600   on the thread of a team, for words of its own heads; no team, no such frame
x86        8load_s4d            1200   runs at load
x86        MambaLoader.*layerE   800   runs at load
x86        3ssm4load             800   runs at load
x86        read_tensor          1100   runs at load
x86        read_mamba            800   runs at load
x86        8read_s4d             800   runs at load
x86        read_index            700   runs at load
x86        6Binder5codes         600   runs at load
x86        9run_mamba            800   one build for every shape, and cells inlined in it
x86        7run_all              700   the same
x86        6scalar6mamba3E      900   the same
x86        6scalar8mamba3_q      900   the same
vectors    8matmul_q           32768   blocks of codes unpacked once for many rows; hosted machines alone
vectors    6scan_q              8192   rows of terms for all vectors at once; hosted machines alone
vectors    10s4d_scan_q         2600   the same
vectors    (10vectors128|4avx2|6avx512) 2048 registers of 16 to 64 bytes that are spilled
TXT

# frames FILE.ci BUILD: frames beyond 512 bytes, or of no fixed size, that the table does not allow; at last "largest BYTES"
# of the others. "dynamic,bounded" is a frame of fixed size that is aligned to more than calls are: vectors on x86-64.
frames() {
    awk -v build="$2" -v table="$out/table" '
        BEGIN {
            while ((getline row < table) > 0) {
                split(row, f, / +/)
                if (f[1] == build || (build == "vectors" && f[1] == "x86")) { name[++n] = f[2]; most[n] = f[3] + 0 }
            }
        }
        /^node:/ && match($0, /[0-9]+ bytes \([^)]*\)/) {
            split(substr($0, RSTART, RLENGTH), size, " ")
            split($0, q, "\"")
            bytes = size[1] + 0
            fixed = size[3] == "(static)" || (build !~ /^m4/ && size[3] == "(dynamic,bounded)")
            ok = fixed && bytes <= 512
            if (ok && bytes > largest) largest = bytes
            for (i = 1; i <= n && !ok; ++i) ok = fixed && bytes <= most[i] && q[2] ~ name[i]
            if (!ok) print size[1], size[3], q[2]
        }
        END { print "largest", largest + 0 }' "$1"
}
# chain FILE.ci: "deepest BYTES path" from the functions that advance a state, all of them.
chain() {
    awk '
        function bare(title) { sub(/^.*:_Z/, "_Z", title); return title }
        /^node:/ {
            split($0, q, "\"")
            title = q[2]
            if (match($0, /[0-9]+ bytes/)) size[title] = substr($0, RSTART) + 0
            label[title] = q[4]
            sub(/\\n.*/, "", label[title])
        }
        /^edge:/ && !/mix_row.*Ul/ { split($0, q, "\""); calls[q[2]] = calls[q[2]] "\n" q[4] }
        # The deepest below a function; `through`: what a call through the table costs.
        function deep(f, through,   list, n, i, d, best, by) {
            if ((f, through) in known) return known[f, through]
            if (f in busy) { print "recursion through", f; bad = 1; return 0 }
            busy[f] = 1
            n = split(calls[f], list, "\n")
            for (i = 2; i <= n; ++i) {
                d = list[i] == "__indirect_call" ? through : deep(list[i], through)
                if (d > best) { best = d; by = list[i] }
            }
            delete busy[f]
            next_of[f, through] = by
            return known[f, through] = size[f] + best
        }
        function leaf(f,   list, n, i) { # no call through the table below
            if (f in leaves) return leaves[f]
            leaves[f] = 1
            n = split(calls[f], list, "\n")
            for (i = 2; i <= n; ++i) if (list[i] == "__indirect_call" || !leaf(list[i])) leaves[f] = 0
            return leaves[f]
        }
        END {
            for (f in size)
                if (f ~ /detail(6scalar|4avx2|6avx512|7avxvnni|10vectors128|7vnni256|3dsp|7rows_of)/) {
                    kernel[f] = 1
                    if (leaf(f) && deep(f, 0) > inner) inner = deep(f, 0)
                }
            for (f in kernel) if (deep(f, inner) > outer) { outer = deep(f, inner); top = f }
            for (f in size)
                if (f ~ /_ZN3ssm(4step|10step_batch|12step_streams|7prefill|5score|8step_q16)/) {
                    ++roots
                    if (deep(f, outer) > deepest) { deepest = deep(f, outer); root = f }
                }
            if (!roots) print "no step in", FILENAME
            for (f = root; f != ""; f = next_of[f, outer]) path = path (path == "" ? "" : " > ") (f == "__indirect_call" ? "kernel" : label[f] "[" size[f] "]")
            print "deepest", deepest + 0, outer + 0, path
        }' "$1"
}

# build NAME LIMIT COMPILER FLAGS... FILE: the frames of one build, and its deepest step.
judge() {
    local name=$1 limit=$2 said largest deepest
    shift 2
    ran=$((ran + 1))
    rm -f "$out/x.ci"
    "$@" -std=c++17 -fno-exceptions -fno-rtti -fcallgraph-info=su -I. -c -o "$out/x.o" || { no "$name does not compile"; return; }
    said=$(frames "$out/x.ci" "${name%% *}")
    largest=$(sed -n 's/^largest //p' <<<"$said")
    said=$(grep -v '^largest ' <<<"$said")
    [ -z "$said" ] || no "$name: frames beyond 512 bytes or of no fixed size:"$'\n'"$said"
    [ "$largest" -gt 0 ] || no "$name: no frames"
    said=$(chain "$out/x.ci")
    deepest=$(awk '$1 == "deepest" { print $2 }' <<<"$said")
    [ "$(wc -l <<<"$said")" = 1 ] && [ "$deepest" -gt 0 ] && [ "$(cut -d' ' -f3 <<<"$said")" -gt 0 ] || no "$name: $said"
    [ "$deepest" -le "$limit" ] || no "$name: a step takes $deepest bytes: $(cut -d' ' -f4- <<<"$said")"
    step "E-03 stack, $name: largest frame $largest bytes, deepest step $deepest bytes"
    [ "$largest" -le "$top" ] || [ "${name%% *}" = vectors ] || top=$largest
    [ "$deepest" -le "$depth" ] || [[ $name != m4* ]] || depth=$deepest
}
top=0 depth=0
printf '#define SSM_IMPLEMENTATION\n#include "ssm.hpp"\n' >"$out/full.cpp"
sed -n "/^cat > .*fixed.cpp/,/^TXT/p" tests/headers.sh | sed '1d;$d' >"$out/fixed.cpp"
if command -v arm-none-eabi-g++ >/dev/null; then
    m4="arm-none-eabi-g++ -Os -mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16 -ffreestanding -DSSM_NO_FILES"
    for shape in S4D MAMBA1 MAMBA2 MAMBA3; do
        judge "m4 $shape of integers" 4096 $m4 -DSHAPE_$shape -DINTEGERS -DSSM_NO_FLOAT -DSSM_NO_MESSAGES -DSSM_NO_TRACE "$out/fixed.cpp"
        judge "m4-float $shape" 4096 $m4 -DSHAPE_$shape "$out/fixed.cpp"
    done
else
    echo "skipped: arm-none-eabi-g++ is not installed"
    [ "${CI:-}" != true ] || failed=1
fi
if command -v g++-12 >/dev/null; then
    judge "x86 any shape" 4096 g++-12 -O2 -DSSM_NO_SIMD "$out/full.cpp"
    [ -n "${1:-}" ] || judge "vectors any shape" 73728 g++-12 -O2 "$out/full.cpp"
else
    echo "skipped: g++-12 is not installed"
    [ "${CI:-}" != true ] || failed=1
fi

# ---- The gate itself: an array in a function of a step, planted in a copy, is told of

if command -v g++-12 >/dev/null; then
    sed 's|^SSM_LOCAL void run(const Model& m, const Call& call, const Scratch& w) noexcept {|&\n    volatile char planted[600]; planted[0] = 1; (void)planted[0];|' ssm.hpp >"$out/ssm.hpp"
    g++-12 -std=c++17 -O1 -DSSM_NO_SIMD -DSSM_NO_INTEGER -fcallgraph-info=su -c "$out/full.cpp" -o "$out/x.o" # its own folder's ssm.hpp
    frames "$out/x.ci" x86 | grep -q '3runE'  || no "a frame of 600 bytes is not told of"
fi
echo "counted: largest frame $top bytes"
echo "counted: deepest chain of a step on Cortex-M4 $depth bytes"
[ "$failed" = 0 ] && [ "$ran" -gt 0 ]
