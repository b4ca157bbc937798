#!/usr/bin/env bash
# firmware.sh - a firmware engineer's way from an empty folder to a board, and what boards say to a damaged model.
#
#   make firmware               the lines of the README's "In firmware" as they stand there; then tools/firmware-example
#                               on every board, with this machine's scores; then damage
#   make firmware-report        flash, RAM and instructions: the table of the README
#   make firmware-counts        the same into firmware/counts.txt; `make firmware` fails where one rises by more than 2 %
#   BOARDS='m0 m4f' ...         these only, in the first two
#
# Where a compiler or emulator is missing, it says so and passes over what needs it; in CI (CI=true) that is a failure.
# SPDX-License-Identifier: MIT
set -u
export LC_ALL=C
cd "$(dirname "$0")/.." || exit
here=$PWD ssm=$(realpath "${1:?usage: $0 PATH/TO/ssm [--report | --counts]}") report=${2:-}
out=$(mktemp -d) || exit
trap 'rm -rf "$out"' EXIT
all="m0 m3 m4f m7 m33 m55 rv32imc rv32imac" passed=0 failed=0 skipped=0
no() { failed=$((failed + 1)) && printf 'FAILED: %s\n' "$@" >&2; }
ok() { passed=$((passed + 1)); }
same() { if [ "$2" == "$3" ]; then ok; else no "$1" "  got:  ${2:0:600}" "  want: ${3:0:600}"; fi; } # NAME GOT WANT

# ---- Tools

has() { command -v "$1" >/dev/null; }
boards=
family() { # PATTERN PACKAGES TOOL...: adds the boards asked for that match, or says what they need
    local pattern=$1 packages=$2 of= b tool
    shift 2
    for b in ${BOARDS:-$all}; do [[ $b != $pattern ]] || of+=" $b"; done
    [ -n "$of" ] || return 0
    for tool; do
        has "$tool" && continue
        echo "firmware: skipped$of: needs $tool (Debian: apt-get install $packages)" >&2
        skipped=$((skipped + $(wc -w <<<"$of")))
        return
    done
    boards+=$of
}
family 'm*' "gcc-arm-none-eabi qemu-system-arm" arm-none-eabi-gcc qemu-system-arm
family 'rv*' "gcc-riscv64-unknown-elf qemu-system-misc" riscv64-unknown-elf-gcc qemu-system-riscv32
with() { [[ " $boards " == *" $1 "* ]]; }

# ---- Building and running tools/firmware-example

example() { # BOARD FOLDER GOAL [VARIABLE=VALUE]...: the goal's output; make says nothing
    make -s --no-print-directory -j1 -C tools/firmware-example "$3" "BOARD=$1" "OUT=$2" "SSM=$ssm" "${@:4}" 2>&1
}
scores() { grep -v -e '^arena ' -e '^back-end ' -e '^stack ' -e '^counted ' -e '^make'; } # what does not depend on the machine
model_of() { echo "$here/weights/$1.safetensors"; }
audio_of() { [ "$1" != digits-i8 ] || echo "AUDIO=$here/tests/golden/digits.raw"; } # what it hears
prefix() { case $1 in rv*) echo riscv64-unknown-elf ;; *) echo arm-none-eabi ;; esac }

# ---- Counts: a row a board and model

largest() { cut -f2 "$1" | sort -n | tail -n 1; } # bytes of the largest frame, of a .su file
address() { "$(prefix "$1")-nm" "$2/firmware.elf" | awk -v n="$3" '$3 == n { print "0x" $1 }'; } # BOARD FOLDER NAME
# Builds and runs one: $text is what it prints, with the instructions of load() and of all steps, by tests/cross/count.c,
# and $row is board, model, bytes of code, arena, stack and largest frame, instructions of load() and of a step.
measure() { # BOARD FOLDER MODEL [VARIABLE=VALUE]...
    local begin step loads steps flash frame how=()
    text=$(example "$1" "$2" "$2/firmware.elf" "MODEL=$(model_of "$3")" $(audio_of "$3") "${@:4}")
    row=
    [ -e "$2/firmware.elf" ] || return
    begin=$(address "$1" "$2" main) step=$(address "$1" "$2" score_event)
    how=("-plugin $out/load.so,begin=$begin,end=$step,next=$step")
    how+=("-plugin $out/step.so,begin=$step,end=$(address "$1" "$2" print_scores),next=$(address "$1" "$2" board_leave) -d plugin")
    text=$(example "$1" "$2" run "MODEL=$(model_of "$3")" $(audio_of "$3") "MORE_QEMU=${how[*]}" "${@:4}")
    loads=$(awk '$1 == "counted" && $2 == 1 { print $4; exit }' <<<"$text")
    steps=$(awk '$1 == "counted" && $2 > 1 { printf "%.0f", $4 / $2 }' <<<"$text")
    flash=$("$(prefix "$1")-size" "$2/firmware.elf" | awk 'NR == 2 { print $1 + $2 }')
    frame=$(largest "$2/main.su")
    [ "$3" != digits-i8 ] || flash=$((flash - $(wc -c <tests/golden/digits.raw) - 1)) # the recording
    row="$1 $3 $((flash - $(wc -c <"$(model_of "$3")"))) $(constant "$2" arena) $(sed -n 's/^stack //p' <<<"$text") $frame $loads $steps"
}
constant() { sed -n "s/^constexpr size_t model_$2_bytes = \(.* : \)\?\([0-9]*\);.*/\2/p" "$1/model.h"; } # FOLDER NAME
compilers() { for b in $boards; do prefix "$b"; done | sort -u | while read -r p; do echo "compiler $p $("$p-gcc" --version | head -n 1)"; done; }
gcc -O2 -shared -fPIC -o "$out/load.so" tests/cross/count.c && cp "$out/load.so" "$out/step.so" || exit

# The README's table, of rows with the bytes of state, scratch and file behind them.
table() {
    awk '
        function thousands(n) { while (n ~ /[0-9][0-9][0-9][0-9]/) sub(/[0-9][0-9][0-9]($|,)/, ",&", n); return n }
        !($2 in code) { model[++models] = $2; head = head " | `" $2 "`, " thousands($11) " bytes"; line = line " --- |" }
        { code[$2] = 1; arena[$2] = thousands($4) ", " thousands($9) ", " thousands($10) }
        $5 > stack[$2] { stack[$2] = $5 }
        $6 > frame[$2] { frame[$2] = $6 }
        !($1 in cells) { board[++boards] = $1 }
        { cells[$1] = cells[$1] " | " thousands($3) "; " thousands($7) "; " thousands($8) }
        $2 ~ /^digits/ { cells[$1] = cells[$1] " | " sprintf("%.1f M", $8 * 8000 / 64 / 1e6) } # samples a second, a step
        END {
            print "| code, bytes; load, a step, instructions" head " | a second of sound |"; print "| --- |" line " --- |"
            for (i = 1; i <= boards; ++i) print "| " board[i] cells[board[i]] " |"
            for (i = 1; i <= models; ++i) { m = model[i]; sizes = sizes " | " arena[m]; most = most " | " thousands(stack[m]) "; " frame[m] }
            print "| arena, of it state, scratch" sizes " | |"; print "| stack, deepest; largest frame" most " | |"
        }'
}
if [ -n "$report" ]; then
    for b in $boards; do
        for m in parity-i8 next-i8 digits-i8; do
            at=$out/$b-$m
            mkdir -p "$at"
            measure "$b" "$at" $m
            [[ $text == *"status ok"* ]] || { no "$b $m: ${text: -300}"; continue; }
            [ "$report" = --counts ] || row+=" $(constant "$at" state) $(constant "$at" scratch) $(wc -c <"$(model_of $m)")"
            echo "$row"
        done
    done >"$out/rows"
    if [ "$report" = --counts ]; then
        echo "# What tools/firmware-example takes on boards; see firmware.sh. \`make firmware-counts\` writes this file."
        compilers
        echo "# board model, bytes: code arena stack frame, instructions: load step"
        cat "$out/rows"
    else
        table <"$out/rows"
    fi
    [ $failed = 0 ] && { [ $skipped = 0 ] || [ "${CI:-}" != true ]; }
    exit
fi

# What is more than 2 % above the counts recorded, or stands there not at all: COUNTS ROWS, files both. Rows of another
# compiler than the one recorded are not compared: "skipped: ..." says so.
risen() {
    awk '
        BEGIN { n = split("code arena stack frame load step", name) }
        $1 == "compiler" { of = $2; $1 = $2 = ""; sub(/^ +/, ""); if (NR == FNR) was[of] = $0; else if (was[of] != $0) other[of] = $0; next }
        /^#/ { next }
        NR == FNR { row[$1, $2] = $0; next }
        { of = $1 ~ /^rv/ ? "riscv64-unknown-elf" : "arm-none-eabi" }
        of in other { if (!said[of]++) print "skipped: compiled by " other[of] ", counts are of " (was[of] == "" ? "none" : was[of]); next }
        !(($1, $2) in row) { print $1, $2 ": is not among the counts"; next }
        {
            split(row[$1, $2], old)
            for (i = 1; i <= n; ++i)
                if ($(i + 2) !~ /^[0-9]+$/ || $(i + 2) * 100 > old[i + 2] * 102)
                    print $1, $2 ":", name[i], $(i + 2), "instead of", old[i + 2]
        }' "$1" "$2"
}

# ---- From an empty folder: the indented lines of the README, run as they stand

# This machine's scores come from a build for any shape, so that they say what one for a fixed shape should.
any=$out/any.cpp base=$out/host
sed '/^#define SSM_FIXED_CONFIG/d' tools/firmware-example/main.cpp >"$any"
mkdir -p "$base" "$base-float"
expected=$(example host "$base" run "MAIN=$any" | scores)
[[ $expected == *"status ok" ]] || no "this machine: $expected"
for m in next parity; do # floats
    floats() { example host "$base-float" run "MODEL=$(model_of $m)" "MORE=-DSSM_NO_SIMD -DRAM_FOR_MODEL=1000000" -W "$(model_of $m)" "$@" | scores; }
    want=$(floats "MAIN=$any" -W "$any")
    [[ $want == *"status ok" ]] || no "this machine, $m: $want"
    same "this machine, $m, its shape fixed" "$(floats -W main.cpp)" "$want"
done
if with m4f; then
    mkdir "$out/empty" "$out/bin"
    ln -s "$ssm" "$out/bin/ssm"
    awk '/^## /{ on = /^## In firmware$/ } on && sub(/^    /, "")' README.md >"$out/lines"
    [ "$(wc -l <"$out/lines")" -gt 5 ] || no "README.md: no lines under \"In firmware\""
    path() { (cd "$out/empty" && SSM=$here PATH=$out/bin:$PATH timeout 120 bash -e "$out/lines" 2>&1); }
    got=$(path)
    same "the README's lines: exit status" $? 0
    same "the README's lines: scores" "$(scores <<<"$got")" "$expected"
    rm -rf "$out/empty"
fi

# ---- Every board: this machine's scores; nothing that allocates, no float routine, no library's mathematics

forbidden=' (malloc|calloc|realloc|free|_sbrk|_Zn[wa].*|_Zd[la].*|__cxa_.*|expf?|sinf?|cosf?|sqrtf?|logf?|powf?|__(aeabi_[fd]|aeabi_u?[il]2[fd]|(add|sub|mul|div|float|fix|extend|trunc)[a-z]*[ds]f).*)$'
compilers >"$out/counts"
for m in parity-i8 next-i8 digits-i8; do
    mkdir -p "$base-$m"
    want=$(example host "$base-$m" run "MODEL=$(model_of $m)" "MAIN=$any" $(audio_of $m) | scores)
    [[ $want == *"status ok" ]] || no "this machine, $m: $want"
    for b in $boards; do
        mkdir -p "$out/$b-$m"
        measure "$b" "$out/$b-$m" $m MORE=-Wstack-usage=512
        same "$b $m" "$(scores <<<"$text")" "$want"
        echo "$row" >>"$out/counts"
        same "$b $m: symbols" "$("$(prefix "$b")-nm" "$out/$b-$m/firmware.elf" | grep -E "$forbidden")" ""
    done
done
# Nothing has grown. The gate itself: a count that was 3 % lower is told, and another compiler's is passed over.
if [ -n "$boards" ]; then
    counts=tests/firmware/counts.txt
    got=$(risen $counts "$out/counts")
    case $got in
        "") ok ;;
        skipped*) echo "firmware: counts $got" >&2 && [ "${CI:-}" != true ] || no "counts: $got" "  make firmware-counts records this compiler's" ;;
        *) no "counts above $counts by more than 2 %: make firmware-counts accepts them" "$got" ;;
    esac
    read -r b m _ <<<"$(grep -v compiler "$out/counts")"
    awk -v b="$b" -v m="$m" '$1 == b && $2 == m { $8 = int($8 * 0.97) } { print }' "$out/counts" >"$out/lower"
    got=$(risen "$out/lower" "$out/counts")
    [[ $got == "$b $m: step "*" instead of "* && $got != *$'\n'* ]] && ok || no "the gate does not tell of a step of 3 % more: $got"
    same "the gate, a count that did not rise" "$(risen "$out/counts" "$out/counts")" ""
    sed 's/^\(compiler [^ ]*\).*/\1 another/' "$out/lower" >"$out/other"
    got=$(risen "$out/other" "$out/counts")
    [[ $got == "skipped: compiled by"* && $got != *instead* ]] && ok || no "the gate compares another compiler's counts: $got"
fi
# A model that does not fit is known before anything runs.
for b in $boards; do
    got=$(example "$b" "$out/$b-next-i8" run MORE=-DRAM_FOR_MODEL=2000 -W main.cpp)
    case $got in *"does not fit this board"*) ok ;; *) no "$b: a model too large: $got" ;; esac
    break
done

# ---- Damage

# copy BOARD NAME: a folder with the example's model.h, to be changed.
copy() { mkdir -p "$out/$2" && cp "$out/$1-parity-i8/model.h" "$out/$2/" && header=$out/$2/model.h; }
# changed FILE BYTE XOR: one number of the array.
changed() {
    awk -v at="$2" -v bits="$3" '
        !on { print; on = / = \{$/; next }
        { n = split($0, v, ","); line = "    "
          if (n == 1) { print; next }
          for (i = 1; i < n; ++i) { b = v[i] + 0; if (k++ == at) b = int(b / bits) % 2 ? b - bits : b + bits; line = line b "," }
          print line }' "$1" >"$1.new" && mv "$1.new" "$1"
}
for b in m0 m4f rv32imc; do
    with $b || continue
    # A weight: other scores, so another digest than this machine's.
    copy $b $b-weight
    changed "$header" 4000 16
    got=$(example $b "$out/$b-weight" run)
    case $got in *"status ok"*) ok ;; *) no "$b: a changed weight does not run: $got" ;; esac
    [ "$(grep ^digest <<<"$got")" != "$(grep ^digest <<<"$expected")" ] && ok || no "$b: a changed weight gives the same digest"
    # In flash, cut short.
    copy $b $b-short
    awk '/_bytes = 4800;/ { sub(/4800/, 3000) } on && ++n > 100 && !/}/ { next } { print } / = {$/ { on = 1 }' "$header" >"$header.new" && mv "$header.new" "$header"
    got=$(example $b "$out/$b-short" run)
    same "$b: cut short" "$(grep -a -e ^status -e FAIL <<<"$got")" "status the file is shorter than its header says"
    # Another model than the program was compiled for; one of a cell that it does not have.
    copy $b $b-other
    sed -i 's/c.d_output = 2;/c.d_output = 3;/' "$header"
    got=$(example $b "$out/$b-other" run)
    same "$b: another model" "$(grep -a -e ^status -e FAIL <<<"$got")" "status not the model this program was built for"
    copy $b $b-cell
    sed -i '/ = {$/,$d' "$header" && sed -n '/ = {$/,$p' "$out/$b-next-i8/model.h" | sed 's/model_bytes\]/]/' >>"$header"
    got=$(example $b "$out/$b-cell" run)
    same "$b: another cell" "$(grep -a -e ^status -e FAIL <<<"$got")" "status not supported by this build or this model"
    # A bit of its header.
    copy $b $b-bit
    changed "$header" 8 1
    got=$(example $b "$out/$b-bit" run)
    same "$b: a bit of the header" "$(grep -a -e ^status -e FAIL <<<"$got")" "status not a valid safetensors file"
done
# All of the header, byte after byte, and every length: as on this machine.
mkdir -p "$base-damaged"
want=$(example host "$base-damaged" run MAIN="$here/tests/firmware/damaged.cpp")
[[ $want == *digest* ]] || no "this machine, damaged models: $want"
for b in m0 m4f rv32imc; do
    with $b || continue
    mkdir -p "$out/$b-damaged"
    got=$(example $b "$out/$b-damaged" run MAIN="$here/tests/firmware/damaged.cpp")
    same "$b: damaged models" "$(grep -v '^stack ' <<<"$got")" "$want"
done

echo "firmware: $passed passed, $failed failed, $skipped boards skipped"
[ $failed = 0 ] && { [ $skipped = 0 ] || [ "${CI:-}" != true ]; }
