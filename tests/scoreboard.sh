#!/usr/bin/env bash
# scoreboard.sh - what is counted of the promises in rules.md, measured beside what is aimed at: a table for the README.
#
#   make scoreboard     runs what it counts, on two cores in under an hour, and fails where a row that must hold does not
#
# Fuzzing and mutants take longer and are read from tests/fuzz/record.md and tests/mutants.md. What ran is in BUILD/scoreboard.
# SPDX-License-Identifier: MIT
set -u
export LC_ALL=C
cd "$(dirname "$0")/.." || exit
build=$1
logs=$build/scoreboard
rm -rf "$logs" && mkdir -p "$logs" || exit
failed=0

# ran NAME COMMAND...: into a log of its own; 0 findings where it ended well.
ran() {
    local name=$1 from=$SECONDS
    shift
    "$@" >"$logs/$name" 2>&1
    echo $? >"$logs/$name.status"
    echo "$name: status $(cat "$logs/$name.status"), $((SECONDS - from)) s" >&2
}
well() { [ "$(cat "$logs/$1.status")" = 0 ] && ! grep -q '^skipped' "$logs/$1"; }
# count NAME PATTERN: the numbers behind the first such "counted:" line of a log, as "A B C", thousands apart or not.
count() { grep -ho "counted: $2.*" "$logs/$1" | head -n 1 | sed 's/,//g' | grep -oE '[0-9]+(\.[0-9]+)?' | tr '\n' ' '; }
# row MEASURE TARGET MEASURED HOLDS [should]: a line of the table.
row() {
    local said=yes
    [ "$4" = yes ] || { said=no && [ -n "${5:-}" ] || failed=1; }
    printf '| %s | %s | %s | %s |\n' "$1" "$2" "$3" "$said"
}
# share MEASURE TARGET LEAST A B: A of B are right, B at least LEAST.
share() { row "$1" "$2" "${4:-none} of ${5:-none}" "$([ -n "${5:-}" ] && [ "$4" = "$5" ] && [ "$5" -ge "$3" ] && echo yes)"; }
# at_most MEASURE TARGET LIMIT FOUND
at_most() { row "$1" "$2" "${4:-not counted}" "$([ -n "${4:-}" ] && [ "$4" -le "$3" ] && echo yes)"; }
# clean MEASURE NAME...: nothing found by any of these runs.
clean() {
    local measure=$1 name bad=
    shift
    for name in "$@"; do well "$name" || bad+=" $name"; done
    row "$measure" 0 "${bad:+found by$bad}$([ -n "$bad" ] || echo 0)" "$([ -n "$bad" ] || echo yes)"
}

# In two lanes, one a processor, after what both stand on: a compiler in one does not hold up a single thread in the other.
# clang compiles for the sanitizers in half of g++'s time; `make check-all` has g++'s.
ran build make -j2 "$build/test" "$build/ssm"
{
    ran check make -j1 check
    ran faults make -j1 faults
    ran coverage make -j1 coverage
    ran tsan make -j1 tsan
    ran warnings make -j1 warnings
    ran stack make -j1 stack
    ran valgrind make -j1 valgrind
    ran msan make -j1 msan
    ran rules make -j1 coverage-of-rules
} &
{
    ran asan make -j1 asan CXX=clang++-14
} &
wait

echo '| measure | target | measured | holds |'
echo '| --- | --- | --- | --- |'
read -r covered rules < <(grep -o 'rules covered [0-9]* of [0-9]*' "$logs/rules" | grep -o '[0-9]*' | tr '\n' ' ')
row 'rules of `tests/rules.md` that a named test proves' 'every MUST' "${covered:-none} of ${rules:-none}" "$(well rules && echo yes)"
row '`make check`' passes "$(well check && echo passes || echo fails)" "$(well check && echo yes)"
read -r right all _ < <(count check 'hostile model files')
share 'hostile model files with the right verdict and message' '100 % of 300' 300 "${right:-}" "${all:-}"
read -r files right all _ < <(count check 'single-byte mutants of the headers of')
share "single-byte changes of the headers of ${files:-no} files, judged as by a second reader" '100 % of 5,000' 5000 "${right:-}" "${all:-}"
read -r files refused all _ < <(count check 'strict prefixes of')
share "strict prefixes of ${files:-no} model files refused" '100 % of 10 files' 1 "${refused:-}" "${all:-}"
read -r right all < <(count check 'hostile stdin scripts')
share 'hostile scripts on standard input answered as stated' '100 % of 200' 200 "${right:-}" "${all:-}"
read -r right all < <(count check 'JSON to be accepted')
share 'JSON that a reader must take' '95 of 95' 95 "${right:-}" "${all:-}"
read -r right all < <(count check 'JSON to be refused')
share 'JSON that a reader must refuse' '188 of 188' 188 "${right:-}" "${all:-}"
read -r refused all < <(count check 'saved states')
share 'prefixes and single bits of saved states refused' '100 %' 1000 "${refused:-}" "${all:-}"
clean 'findings of AddressSanitizer and UBSan, ThreadSanitizer, MemorySanitizer, valgrind' asan tsan msan valgrind
while IFS='|' read -r _ target _ runs _; do
    runs=$(sed 's/,\([0-9]\)/\1/g' <<<"$runs" | grep -oE '[0-9]+' | tail -n 1) # since the last finding, where there was one
    target=$(tr -d ' `' <<<"$target")
    case $target in
    header | json | score | state) row "fuzzing: executions of \`$target\`, no finding open" 10,000,000 "$(printf "%'d" "$runs" 2>/dev/null || echo "$runs")" "$([ "$runs" -ge 10000000 ] && echo yes)" ;;
    esac
done < <(grep -E '^\| `?(header|json|score|state)`? \|' tests/fuzz/record.md)
[ "$(grep -cE '^\| `?(header|json|score|state)`? \|' tests/fuzz/record.md)" = 4 ] || row 'fuzzing' '4 targets' 'not recorded' no
read -r lines branches < <(count coverage lines)
row 'lines and branches of `ssm.hpp` that tests reach' '95 %, 90 %' "${lines:-none} %, ${branches:-none} %" "$(well coverage && echo yes)"
read -r right all < <(count faults 'allocation points failed')
share 'allocations failed one by one' '100 %' 100 "${right:-}" "${all:-}"
read -r right all < <(count faults 'system calls of save failed')
share 'system calls of saving failed one by one' '100 %' 10 "${right:-}" "${all:-}"
at_most 'warnings of g++ 12, clang 14 and 16, clang-tidy, cppcheck' 0 0 "$(count warnings warnings | tr -d ' ')"
at_most 'largest frame of a step, bytes' 512 512 "$(count stack 'largest frame' | tr -d ' ')"
at_most 'deepest chain of calls of a step on a Cortex-M4, bytes' 4096 4096 "$(count stack 'deepest chain of a step on Cortex-M4' | awk '{ print $2 }')"
row 'integer kernels against plain loops, every back-end, lengths 0 to 257' 'same bits' "$(well check && echo 'same bits' || echo fails)" "$(well check && echo yes)"
read -r noticed all < <(sed -n 's/^.*counted: mutants //p' tests/mutants.md | grep -o '[0-9]*' | tr '\n' ' ')
row 'small changes of `ssm.hpp` that the tests notice' '95 % of 200' "${noticed:-none} of ${all:-none}" \
    "$([ "${all:-0}" -ge 200 ] && [ $((noticed * 100)) -ge $((all * 95)) ] && echo yes)"
tests=$(cat tests/*.cpp tests/*.hpp tests/*.sh tests/*.txt tests/*/*.cpp tests/*/*.hpp tests/*/*.c tests/*/*.sh | wc -l)
header=$(wc -l <ssm.hpp)
row 'lines of tests to lines of `ssm.hpp`' '3 to 1' "$(awk "BEGIN { printf \"%.1f to 1\", $tests / $header }")" \
    "$([ "$tests" -ge $((3 * header)) ] && echo yes)" should
exit $failed
