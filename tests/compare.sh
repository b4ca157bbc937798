#!/usr/bin/env bash
# compare.sh - `ssm compare` from outside: models with themselves, with changed copies, what cannot be compared.
# SPDX-License-Identifier: MIT
#
# Usage: tests/compare.sh PATH/TO/ssm. Needs bash and coreutils.

source "$(dirname "$0")/expect.sh"
three=$here/golden/s4d/03_postnorm_mean_h16_n8_l2.safetensors # three numbers in, ten out
one=$here/golden/s4d/01_zoh_h8_n4.safetensors
tokens=$here/golden/mamba/m2_lm2_d32_hfnames.safetensors
compare() { "$ssm" compare "$@"; }
run() { compare "$@"; } # of like()
squeezed() { tr -s ' ' <"$1"; }

# A copy with one float of one tensor changed: the last byte of the first number of decoder.bias.
cp "$three" other.st
head=$(tail -c +9 "$three" | head -c "$(od -An -tu4 -N4 "$three")")
at=$(printf %s "$head" | grep -o '"decoder.bias":{[^}]*}' | sed 's/.*"data_offsets": *\[\([0-9]*\),.*/\1/')
printf '\x41' | dd of=other.st bs=1 seek=$((8 + ${#head} + at + 3)) conv=notrunc status=none

# ---- Usage

same "help" "$(compare --help | head -c 18)" "usage: ssm compare"
same "help: the verb" "$("$ssm" help | grep -c '^  compare A B')" 1
like "one operand" 2 'ssm compare: expected 2 *, got 1; see ssm compare --help' "$one"
like "no steps" 2 'ssm compare: --steps: got "0", expected a whole number from 1 to 1000000000' "$one" "$one" --steps 0
like "no file" 4 'ssm compare: missing: No such file or directory' "$one" missing
echo no model >text
like "no model" 3 'ssm compare: text: *' text "$one"
like "other inputs" 2 'ssm compare: *: 1 number in, 4 out, expected as in A: 3 numbers in, 10 out' "$three" "$one"
like "tokens and numbers" 2 'ssm compare: *: tokens of 40 in, 40 out, expected as in A: 3 numbers in, 10 out' "$three" "$tokens"
compare "$one" "$one" --steps 1 --plot no/p.svg >/dev/null 2>got.err
same "a plot nowhere" "$? $(cut -c-22 got.err)" "4 ssm compare: no/p.svg:"

# ---- Models with themselves

compare "$three" "$three" --steps 1000 --plot p.svg >got.out 2>got.err
same "itself" "$? $(cat got.err)" "0 "
same "itself: tensors" "$(squeezed got.out | sed '/^$/,$d' | tail -n +2 | cut -d' ' -f5 | sort -u)" same
same "itself: outputs" "$(squeezed got.out | sed '1,/^$/d')" "steps SQNR dB since largest same argmax
1 same same 0 100.000 %
10 same same 0 100.000 %
100 same same 0 100.000 %
1000 same same 0 100.000 %
A: the limit of the state was never met
B: the limit of the state was never met"
same "itself: a plot" "$(head -c 4 p.svg) $(tail -n 1 p.svg) $(grep -c polyline p.svg)" "<svg </svg> 1"
compare "$tokens" "$tokens" --seed 7 --steps 50 >got.out 2>got.err
same "tokens" "$? $(cat got.err) $(squeezed got.out | grep '^50 ')" "0  50 same same 0 100.000 %"

# ---- Records

printf '1 2 3\n# a comment\n+ 0 0 1\n? 9 9 9\n!\ndt=2 1 1 1\n{"x":[1,2,3],"dt":0.5}\n{"advance":[1,2,3]}\n' >records
compare "$three" "$three" <records >got.out 2>got.err
same "records" "$? $(cat got.err) $(squeezed got.out | grep '^5 ')" "0  5 same same 0 100.000 %"
printf '1 2\n1 2 3\n{"x":[1]}\n' | compare "$three" "$three" >got.out 2>got.err
same "bad records" "$? $(cat got.err) $(squeezed got.out | grep '^1 ')" '1 ssm compare: line 1: expected 3 numbers, got 2
ssm compare: line 3: "x": expected 3 numbers, got 1 1 same same 0 100.000 %'
compare "$three" "$three" </dev/null >got.out 2>got.err
same "no records" "$? $(cat got.err) $(tail -n 3 got.out | head -n 1)" "0  no events on standard input; --steps N makes some up"

# ---- A changed copy

compare "$three" other.st --steps 200 --plot p.svg >got.out 2>got.err
same "a change" "$? $(cat got.err)" "0 "
same "a change: its tensor alone" "$(squeezed got.out | sed '/^$/,$d' | tail -n +2 | grep -v ' same ' | cut -d' ' -f1)" decoder.bias
same "a change: outputs" "$(squeezed got.out | sed '1,/^$/d' | grep -c -e '^1 ' -e '^10 ' -e '^100 ' -e '^200 ')" 4
same "a change: no longer the same" "$(squeezed got.out | sed '1,/^$/d' | grep -c ' same 0 ')" 0
same "a change: two curves" "$(grep -c polyline p.svg)" 2
compare "$three" other.st --steps 200 --seed 1 >again.out
same "made-up events are those of the seed" "$(cksum <again.out)" "$(cksum <got.out)"
compare "$three" other.st --steps 200 --seed 2 >again.out
same "another seed" "$([ "$(cksum <again.out)" != "$(cksum <got.out)" ] && echo differs)" differs

# ---- A float model and its integer one

"$ssm" quantize "$three" int.st --activations i16 >table.out
compare "$three" int.st --steps 1000 >got.out 2>got.err
same "integers" "$? $(cat got.err) $(squeezed got.out | sed '1,/^$/d' | awk '/^1000 / { print ($2 > 35) }')" "0  1"
same "integers: a tensor's ratio is the one of ssm quantize" \
    "$(squeezed got.out | awk '$1 == "encoder.weight" { print $5 }')" "$(squeezed table.out | awk '$1 == "encoder.q8" { print $8 }')"
same "integers: none without its pair" "$(grep -c 'only in' got.out)" 0
"$ssm" quantize "$three" other.st --weights i4 >/dev/null
compare int.st other.st --steps 100 >got.out 2>got.err
same "two integer models" "$? $(cat got.err) $(squeezed got.out | sed '/^$/,$d' | tail -n +2 | grep -v ' same ' | cut -d' ' -f1 | tr '\n' ' ')" \
    "0  s4_layers.0.output_linear.0.weight s4_layers.1.output_linear.0.weight "

compare "$one" "$one" --steps 3 >/dev/full 2>got.err
same "a full standard output" "$? $(cat got.err)" "4 ssm compare: standard output: No space left on device"

echo "$passed passed, $failed failed"
[ $failed == 0 ]
