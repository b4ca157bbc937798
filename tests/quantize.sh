#!/usr/bin/env bash
# quantize.sh - `ssm quantize` from outside: its options, its table, every refusal, the bytes it writes.
# SPDX-License-Identifier: MIT
#
# Usage: tests/quantize.sh PATH/TO/ssm. Needs bash and coreutils; failing system calls are tested too where strace is there.

source "$(dirname "$0")/expect.sh"
writes=yes
s4d=$here/golden/s4d/03_postnorm_mean_h16_n8_l2.safetensors
bilinear=$here/golden/s4d/02_bilinear_h8_n8_inv.safetensors
three=$here/golden/mamba/m3_backbone2_mimo_r2_d32.safetensors # Mamba-3 with the names of the public code
mixer=$here/golden/mamba/m3_siso_tiny_trace.safetensors       # one mixer alone
two=$here/golden/mamba/m2_lm2_d32_hfnames.safetensors
integer=$here/golden/int/01_s4d_w8a8_tiny_trace.safetensors
quantize() { "$ssm" quantize "$@"; }
run() { quantize "$@"; } # of like()
# good NAME ARGUMENT...: status 0, a table on standard output, nothing on standard error.
good() {
    local name=$1
    shift
    quantize "$@" >got.out 2>got.err </dev/null
    same "$name" "$? $(head -c 6 got.out) $(tail -n 1 got.out | cut -c-16) $(cat got.err)" "0 tensor bytes of tensors "
}
tensors() { "$ssm" inspect "$1" | grep -v '^#' | cut -d' ' -f1 | sort | tr '\n' ' '; }
meta() { "$ssm" inspect "$1" | grep "^# $2:" | cut -d' ' -f3-; }
header() { tail -c +9 "$1" | head -c "$(od -An -tu4 -N4 "$1")"; }
# edit FROM TO OLD NEW: a copy with other text of the same length in its header.
edit() {
    local text
    text=$(header "$1")
    { head -c 8 "$1"; printf %s "${text//"$3"/"$4"}"; tail -c +$((9 + ${#text})) "$1"; } >"$2"
}

# ---- Usage

same "help" "$(quantize --help | head -c 19)" "usage: ssm quantize"
same "help: the verb" "$("$ssm" help | grep -c '^  quantize IN OUT')" 1
like "no operands" 2 'ssm quantize: expected 2 *, got 0; see ssm quantize --help'
like "one operand" 2 'ssm quantize: expected 2 *, got 1; see ssm quantize --help' "$s4d"
like "a bad width" 2 'ssm quantize: --weights: got "i16", expected i8 or i4' "$s4d" out --weights i16
like "bad activations" 2 'ssm quantize: --activations: got "i4", expected i8 or i16' "$s4d" out --activations i4
like "a bad state" 2 'ssm quantize: --state: got "i8", expected i32 or i16rowexp' "$s4d" out --state i8
like "bad gaps" 2 'ssm quantize: --gaps: got "yes", expected on or off' "$s4d" out --gaps yes
like "rows for S4D" 2 'ssm quantize: --state i16rowexp goes with Mamba models, expected i32 for S4D' "$s4d" out --state i16rowexp
like "gaps for bilinear" 2 'ssm quantize: --gaps on goes with S4D models by zero-order hold (disc = zoh)' "$bilinear" out --gaps on
like "gaps for Mamba" 2 'ssm quantize: --gaps on goes with *' "$three" out --gaps on
like "keep without i4" 2 'ssm quantize: --keep goes with --weights i4' "$three" out --keep out_proj=i8
like "keep without a width" 2 'ssm quantize: --keep: got "out_proj", expected NAME=i8' "$three" out --weights i4 --keep out_proj
like "keep of nothing" 2 'ssm quantize: --keep "encoder": no projection that int4 applies to, expected one such as "s4_layers.0.output_linear.0"' \
    "$s4d" out --weights i4 --keep encoder=i8
like "snap for S4D" 2 'ssm quantize: --snap is for Mamba-3 models of one layer that read tokens' "$s4d" out --snap
cp "$s4d" own.st
like "onto itself" 2 'ssm quantize: IN and OUT are the same file, own.st' own.st own.st
ln -s own.st link.st
like "onto itself by a link" 2 'ssm quantize: IN and OUT are the same file, own.st' own.st link.st
same "onto itself: untouched" "$(cksum <own.st)" "$(cksum <"$s4d")"

# ---- Models that cannot be

like "no file" 4 'ssm quantize: missing: No such file or directory' missing out
: >empty
like "an empty file" 3 'ssm quantize: empty: is empty, expected a safetensors file' empty out
echo no model >text
like "no model" 3 'ssm quantize: text: *' text out
like "an integer model" 3 'ssm quantize: *: metadata "format": found ssm-int, a quantized model, expected a float model' "$integer" out
like "a lone mixer" 3 'ssm quantize: *: metadata "scope": found mixer, expected a whole model with its norms' "$mixer" out
edit "$s4d" a.st prenorm prenurm
like "no prenorm" 3 'ssm quantize: a.st: metadata "prenorm": *' a.st out
edit "$s4d" a.st norms.1.weight norms.7.weight
like "a missing tensor" 3 'ssm quantize: a.st: tensor "norms.1.weight": missing*' a.st out

# ---- Good runs

good "S4D" "$s4d" a.st
same "S4D: tensors" "$(tensors a.st)" "$(tensors "$here/golden/int/05_s4d_w8a8_gap.safetensors" | tr ' ' '\n' |
    grep -v -e '^test' -e '^final' | sed 'p; s/norms.0/norms.1/; s/layers.0/layers.1/' | sort -u | tr '\n' ' ' | sed 's/^ //')"
same "S4D: metadata" "$(meta a.st format) $(meta a.st act_bits) $(meta a.st state) $(meta a.st pool)" "ssm-int 8 i32 mean"
same "S4D: its source" "$(meta a.st source_fingerprint)" "$("$ssm" info "$s4d" | grep '^fingerprint' | cut -d' ' -f2)"
same "the table: a line a tensor" "$(grep -c . got.out)" 28
awk 'NR == 1 || /^bytes/ { next } { sum += $7 } END { print sum }' got.out >sum
same "the table: bytes add up" "$(cat sum)" "$(tail -n 1 got.out | sed 's/.* before, \([0-9]*\) after.*/\1/')"
same "the table: bytes of the file" "$(cat sum)" "$("$ssm" inspect a.st | grep -v '^#' | awk '{ sum += $NF } END { print sum }')"
quantize "$s4d" b.st >/dev/null
same "the same bytes again" "$(cksum <b.st)" "$(cksum <a.st)"
cp "$s4d" elsewhere.st
quantize elsewhere.st b.st >/dev/null
same "the same bytes from another place" "$(cksum <b.st)" "$(cksum <a.st)"
good "S4D without gaps" "$s4d" b.st --gaps off
same "S4D without gaps: tensors" "$(tensors b.st)" "$(tensors a.st | tr ' ' '\n' | grep -v -e phase -e rho -e 'kernel.g$' | grep . | tr '\n' ' ')"
good "bilinear S4D" "$bilinear" b.st
same "bilinear S4D: no gaps" "$(tensors b.st | grep -c rho) $(meta b.st g_frac)" "0 "
good "Mamba-2" "$two" b.st --activations i16 --state i16rowexp
same "Mamba-2: metadata" "$(meta b.st act_bits) $(meta b.st state) $(meta b.st head) $(meta b.st vocab_size)" "16 i16rowexp tied 40"
good "Mamba-3, int4" "$three" b.st --weights i4 --keep layers.1.mixer.out_proj=i8
same "Mamba-3, int4: kept" "$(tensors b.st | tr ' ' '\n' | grep -e 'proj.q' | tr '\n' ' ')" \
    "layers.0.mixer.in_proj.q4 layers.0.mixer.in_proj.q8 layers.0.mixer.out_proj.q4 layers.1.mixer.in_proj.q4 layers.1.mixer.in_proj.q8 layers.1.mixer.out_proj.q8 "
same "no path in the file" "$(header b.st | grep -c -e /tmp -e "$here" -e m3_)" 0
good "the shipped model" "$here/../weights/next.safetensors" b.st
same "the shipped model: provenance" "$(meta b.st provenance | cut -c-17) $(meta b.st task) $(meta b.st input)" \
    "ssm train; seed 1 next probe,rate,gap,added,share,last"

# Snapped: few states, in every format.
parity=$here/../weights/parity.safetensors
for format in "i8 i8 i32 5" "i4 i8 i32 5" "i8 i16 i32 5" "i4 i16 i32 5" "i8 i8 i16rowexp 6"; do
    read -r w a s states <<<"$format"
    quantize "$parity" b.st --snap --weights "$w" --activations "$a" --state "$s" >got.out
    same "snapped: $format" "$(tail -n 1 got.out) $(meta b.st states) $(meta b.st quantized)" \
        "states, whatever the tokens: $states $states ssm quantize --weights $w --activations $a --state $s --snap"
done

# ---- Writing

mkdir folder
like "a folder" 4 'ssm quantize: folder: is not a regular file, cannot be saved to' "$s4d" folder
like "nowhere" 4 'ssm quantize: no/out: cannot create: No such file or directory' "$s4d" no/out
(trap '' XFSZ; ulimit -f 1; quantize "$s4d" a.st >/dev/null 2>got.err; echo $? >status) 2>/dev/null
same "a size limit" "$(cat status) $(cat got.err) $(ls -- *.tmp* 2>/dev/null)" "4 ssm quantize: a.st: cannot write: File too large "
if command -v strace >/dev/null && strace -qq -o /dev/null true 2>/dev/null; then
    export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0 # its leak check does not work under strace
    for fault in write:error=ENOSPC fsync:error=EIO rename:error=EROFS; do
        cp a.st kept
        strace -qq -o /dev/null -e inject=$fault "$ssm" quantize "$s4d" kept >/dev/null 2>got.err
        same "a failing $fault" "$? $(cksum <kept) $(ls -- *.tmp* 2>/dev/null)" "4 $(cksum <a.st) "
    done
fi
quantize "$s4d" b.st >/dev/full 2>got.err
same "a full standard output" "$? $(cat got.err)" "4 ssm quantize: standard output: No space left on device"

# Damaged headers: an answer, and never a file beside it.
damaged=0
size=$(header "$two" | wc -c)
for ((i = 0; i < 150; ++i)); do
    at=$((8 + i * 7919 % size)) byte=$((i * 104729 % 256))
    cp "$two" damaged.st
    printf "\\x$(printf %02x $byte)" | dd of=damaged.st bs=1 seek=$at conv=notrunc status=none
    rm -f out
    quantize damaged.st out >/dev/null 2>&1
    status=$?
    if [ $status == 0 ]; then [ -e out ] && damaged=$((damaged + 1)); elif [ $status == 3 ] && [ ! -e out ]; then damaged=$((damaged + 1)); fi
done
same "damaged headers" $damaged 150

echo "$passed passed, $failed failed"
[ $failed == 0 ]
