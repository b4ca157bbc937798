#!/usr/bin/env bash
# mutants.sh - small faults put into ssm.hpp one at a time: do the tests notice? mutants.sh BUILD [HOW-MANY [SEED [PART]]]
#
# Takes what `make test` and `make coverage` left in BUILD: the test files' objects, and which lines of ssm.hpp tests
# reach. For each fault (mutants/candidates.awk lists them, spread over all sections and kinds) the library alone is
# compiled again, at -O0, and linked with the quick tests; what they pass, the tests of the inner parts judge. Faults that
# do not compile or leave the machine code as it was, at -O0 or -O1, are none, and the next ones take their place.
#
# BUILD/mutants/results has a line a fault: verdict, place, kind, the line before and after. A run that was stopped goes
# on there; another ssm.hpp, seed or part starts anew. PART: 1/2 and 2/2, side by side, each with a BUILD of its own, take
# every second fault each. What survives is explained in mutants.md; one that is not fails.
# What mutants.md calls equivalent, with its reason, is no fault and does not count; HOW-MANY others are judged.
#
# SPDX-License-Identifier: MIT
set -u
export LC_ALL=C
cd "$(dirname "$0")/.." || exit
build=$(realpath "${1:?usage: $0 BUILD [HOW-MANY [SEED [PART]]]}") count=${2:-200} seed=${3:-1} part=${4:-1/1}
cxx=${CLANG:-clang++-14}
at=$build/mutants
mkdir -p "$at/objects" "$at/tree/tests" "$at/tree/tools" "$at/tmp"
command -v "$cxx" >/dev/null || { echo "skipped: $cxx is not installed"; [ "${CI:-}" != true ]; exit; }
reached=$build/coverage/lines
[ -s "$reached" ] || { echo "mutants: make coverage comes first" >&2; exit 1; }
wrong() { echo "mutants: $*" >&2; exit 1; }
export TMPDIR=$at/tmp

# ---- What stays the same

quick="int_oracle s4d mamba run int_load load json int_states int_reference sound serve memory relevance tool history compare cuda cuda_emulated
    cuda_failures team coverage"
# These have the library's code within them. Of a fault in a section, the ones below judge.
inner() { # SECTION
    case $1 in
        2 | 3 | 4) echo maths kernels back_ends ;;
        5) echo int_maths int_kernels back_ends ;;
        6 | 7) echo kernels back_ends ;;
        8 | 9) echo int_kernels kernels back_ends ;;
        *) echo back_ends ;;
    esac
}
objects=()
for t in $quick; do
    [ -e "tests/$t.cpp" ] || continue
    strip --strip-debug "$build/tests/$t.o" -o "$at/objects/t_$t.o" || wrong "make $build/test comes first"
    objects+=("$at/objects/t_$t.o")
done
all=() # that do not have the library's code within them
for t in $(grep -L '^#define SSM_IMPLEMENTATION' tests/*.cpp); do
    t=$(basename "$t" .cpp)
    [ "$t" != main ] || continue
    strip --strip-debug "$build/tests/$t.o" -o "$at/objects/a_$t.o" || wrong "make $build/test comes first"
    all+=("$at/objects/a_$t.o")
done
for u in tools/*.cpp; do
    u=$(basename "$u" .cpp)
    case $u in ssm | ssm_impl) continue ;; esac
    strip --strip-debug "$build/tools/$u.o" -o "$at/objects/u_$u.o" || wrong "make $build/test comes first"
    units+=("$at/objects/u_$u.o")
done
strip --strip-debug "$build/tests/main.o" -o "$at/objects/main.o" || exit
cp tests/*.cpp tests/*.hpp "$at/tree/tests/"
cp tools/*.cpp tools/*.hpp "$at/tree/tools/"
flags=(-w -std=c++17 "-DSSM_TEST_DIR=\"$PWD/tests\"")

library() { "$cxx" "${flags[@]}" $2 -c "$at/tree/tools/ssm_impl.cpp" -o "$1" 2>"$at/errors"; }
link() { "$cxx" -pthread -o "$@"; }
limited() { (ulimit -v 8000000 -t "$1" -c 0 && timeout $(($1 * 10)) "${@:2}" >"$at/said" 2>&1) 2>/dev/null; } # PROCESSOR-SECONDS COMMAND...
first_tests() { limited 100 "$at/test" --abort-after=1 --test-case-exclude='*slow)*,*a team*,cuda: times*'; }
inner_tests() { # TEST-FILE...
    local t these=()
    for t; do
        "$cxx" "${flags[@]}" -O0 -c "$at/tree/tests/$t.cpp" -o "$at/inner_$t.o" 2>"$at/errors" || return # a static_assert of theirs
        these+=("$at/inner_$t.o")
    done
    link "$at/test-inner" "$at/objects/main.o" "$at/library.o" "${these[@]}" "${units[@]}" || return
    limited 200 "$at/test-inner" --abort-after=1 --test-case-exclude='*slow)*' || return
    case ${section:-12} in # a minute for what those are about alone: work in parts
        7 | 8 | 11 | 12)
            link "$at/test" "$at/library-O1.o" "$at/objects/main.o" "${objects[@]}" "${units[@]}" 2>"$at/errors" || return
            limited 200 "$at/test" --abort-after=1 --test-case='*a team*' || return ;;
    esac
    link "$at/test" "$at/library-O1.o" "$at/objects/main.o" "${all[@]}" "${units[@]}" 2>"$at/errors" || return
    limited 400 "$at/test" --abort-after=1 --test-case-exclude='*a team*,cuda: times*' || return # every test there is
    these=()
    for t; do
        "$cxx" "${flags[@]}" -O1 -c "$at/tree/tests/$t.cpp" -o "$at/inner_$t.o" 2>"$at/errors" || return
        these+=("$at/inner_$t.o")
    done
    link "$at/test-inner" "$at/objects/main.o" "$at/library-O1.o" "${these[@]}" "${units[@]}" || return
    limited 600 "$at/test-inner" --abort-after=1
}

cp ssm.hpp "$at/ssm.hpp" # what is edited meanwhile does not matter
cp "$at/ssm.hpp" "$at/tree/ssm.hpp"
library "$at/plain.o" -O0 && library "$at/plain-O1.o" -O1 || wrong "ssm.hpp does not compile"
cp "$at/plain.o" "$at/library.o"
link "$at/test" "$at/library.o" "$at/objects/main.o" "${objects[@]}" "${units[@]}" || exit
# ---- The faults

of="$(cksum <"$at/ssm.hpp") $seed $part"
if [ "$(head -n 1 "$at/results" 2>/dev/null)" != "$of" ]; then
    cp "$at/plain-O1.o" "$at/library-O1.o"
    first_tests && inner_tests maths int_maths kernels int_kernels back_ends || wrong "the tests fail without a fault" "$(tail -n 20 "$at/said")"
    echo "$of" >"$at/results"
fi
awk -v seed="$seed" -v lines="$reached" -f tests/mutants/candidates.awk "$at/ssm.hpp" |
    awk -v part="${part%/*}" -v of="${part#*/}" 'NR % of == part % of' >"$at/candidates"
[ "$(wc -l <"$at/candidates")" -ge "$count" ] || wrong "only $(wc -l <"$at/candidates") places for a fault"
tally() { awk -F'\t' -v what="$1" 'NR > 1 && $1 ~ what { ++n } END { print n + 0 }' "$at/results"; }
row_of() { grep -F -- "| \`${1//|/\\|}\` | \`${2//|/\\|}\` |" tests/mutants.md; } # a table's own bars are escaped
equivalents() { grep '^survived' "$at/results" | while IFS=$'\t' read -r _ _ before after _; do row_of "$before" "$after"; done | grep -c ' | equivalent:'; }
while IFS= read -r candidate; do
    [ $(($(tally '^(noticed|survived)') - $(equivalents))) -lt "$count" ] || break
    IFS=$'\t' read -r line column size text kind <<<"${candidate//$'\t\t'/$'\t\001\t'}" # read joins empty fields
    text=${text/$'\001'/}
    ! cut -f2 "$at/results" | grep -qx "$line:$column:$size:$kind:$text" || continue
    before=$(sed -n "${line}p" "$at/ssm.hpp")
    after=${before:0:column-1}$text${before:column-1+size}
    awk -v at="$line" -v text="${after//\\/\\\\}" 'NR == at { print text; next } { print }' "$at/ssm.hpp" >"$at/tree/ssm.hpp"
    from=$SECONDS
    trimmed=${before#"${before%%[! ]*}"}
    if [ "$(grep -cF -- "$trimmed" "$at/ssm.hpp")" = 1 ] && # a line that stands in one place: what mutants.md says of it
        [[ $(row_of "$trimmed" "${after#"${after%%[! ]*}"}") == *' | equivalent:'* ]]; then verdict="equivalent"
    elif ! library "$at/library.o" -O0; then verdict="does not compile"
    elif cmp -s "$at/library.o" "$at/plain.o"; then verdict="same code"
    elif ! link "$at/test" "$at/library.o" "$at/objects/main.o" "${objects[@]}" "${units[@]}" 2>"$at/errors"; then verdict="does not compile"
    elif ! first_tests; then verdict="noticed"
    elif library "$at/library-O1.o" -O1 && cmp -s "$at/library-O1.o" "$at/plain-O1.o"; then verdict="same code"
    elif section=$(awk -v at="$line" '/^\/\/ ---- [0-9]+\. / { n = $3 + 0 } NR == at { print n; exit }' "$at/ssm.hpp") && ! inner_tests $(inner "$section"); then
        verdict="noticed, by inner tests"
    else verdict="survived"; fi
    rm -rf "$at/tmp" && mkdir "$at/tmp"
    printf '%s\t%s\t%s\t%s\t%s s\n' "$verdict" "$line:$column:$size:$kind:$text" "${before#"${before%%[! ]*}"}" "${after#"${after%%[! ]*}"}" $((SECONDS - from)) >>"$at/results"
done <"$at/candidates"

# ---- Judgement: by the text of lines, as numbers move

noticed=$(tally '^noticed') survived=0 equivalent=0 unexplained=0
while IFS=$'\t' read -r _ place before after _; do
    row=$(row_of "$before" "$after")
    case $row in
        *' | equivalent:'*) equivalent=$((equivalent + 1)) ;; # no fault: the program is the same
        *) survived=$((survived + 1))
           [ -n "$row" ] || { unexplained=$((unexplained + 1)) && printf 'not in mutants.md: %s\n    %s\n    %s\n' "$place" "$before" "$after"; } ;;
    esac
done < <(grep '^survived' "$at/results")
equivalent=$((equivalent + $(tally '^equivalent')))
echo "mutants: $survived survived, $unexplained of them unexplained; $equivalent more are no faults"
echo "counted: mutants $noticed of $((noticed + survived)) noticed"
[ $((noticed * 100)) -ge $(((noticed + survived) * 95)) ] && [ "$unexplained" = 0 ] && [ $((noticed + survived)) -ge "$count" ]
