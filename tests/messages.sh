#!/bin/sh
# messages.sh - the sentences of ssm.hpp with which files and states are refused, and those that no test holds up word by word.
# SPDX-License-Identifier: MIT
#
# Usage: sh tests/messages.sh. Prints what is in no test; fails if there is any. A sentence is what stands in SSM_WHY("...");
# parts of it that announce a number ("..., at the index given") are printed otherwise and left out.
set -eu
cd "$(dirname "$0")/.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
tr '\n' ' ' <ssm.hpp | sed 's/" *"//g' | grep -oE 'SSM_WHY\( *"([^"\\]|\\.)*"' | sed -E 's/^SSM_WHY\( *"//; s/"$//; s/, at the index given$//; s/; number of .* given$//' | sort -u |
    # What only other builds say (headers.sh makes them), and the list of dtypes, which load.cpp puts together.
    grep -vE '^(not the shape that this program was compiled for|this architecture or engine was left out of this build|its dtype is unknown)' >"$out/all"
cat tests/*.cpp tests/*.hpp tests/*.sh tests/*.txt | tr '\n' ' ' | sed -E 's/\)?" +R?"\(?//g; s/\\"/"/g' >"$out/tests"
missing=0 all=0
while IFS= read -r sentence; do
    all=$((all + 1))
    grep -qF -- "$sentence" "$out/tests" || { printf 'in no test: %s\n' "$sentence"; missing=$((missing + 1)); }
done <"$out/all"
echo "counted: sentences of refusal in tests $((all - missing)) of $all"
[ "$missing" = 0 ] && [ "$all" -gt 50 ]
