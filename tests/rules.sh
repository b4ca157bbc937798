#!/bin/sh
# rules.sh - which tests cover which rule of rules.md, by the ids in their names; fails where a MUST has none.
# SPDX-License-Identifier: MIT
#
# Usage: sh tests/rules.sh [FOLDER]   FOLDER holds rules.md and the tests; default: this script's own
#        sh tests/rules.sh --test     tries the script itself on made-up folders
#
# A name is what is printed when a test runs or fails: that of a TEST_CASE or SUBCASE in a .cpp file, or the first
# argument of a check or step in a .sh file. An id in a comment or in code counts for nothing.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

# names FOLDER: lines of FILE: NAME.
names() {
    for file in "$1"/*.cpp "$1"/*/*.cpp "$1"/*.sh; do
        [ -e "$file" ] || continue
        awk -v file="${file##*/}" '
            function told() { # all texts in quotes of what was gathered, in one
                name = ""
                while (match(text, /"([^"\\]|\\.)*"/)) {
                    name = name substr(text, RSTART + 1, RLENGTH - 2)
                    text = substr(text, RSTART + RLENGTH)
                    if (text ~ /^[ \t]*[^ \t"]/) break # the name ends where its literals end
                }
                print file ": " name
            }
            /^[ \t]*(\/\/|#)/ { next }
            file ~ /\.cpp$/ && !open && /^[ \t]*(TEST_CASE|SUBCASE)\(/ { open = 1; text = "" }
            open { text = text $0; if ($0 ~ /[{;][ \t]*$/) { told(); open = 0 }; next }
            file ~ /\.sh$/ {
                rest = $0 # several checks may stand on a line
                while (match(rest, /(^|[ \t;{])(like|same|check|answers|asks|fails|parse|step|no|ok) ["\047]/)) {
                    quote = substr(rest, RSTART + RLENGTH - 1, 1)
                    rest = substr(rest, RSTART + RLENGTH)
                    end = index(rest, quote)
                    if (end > 0) print file ": " substr(rest, 1, end - 1)
                }
            }' "$file"
    done
}
# report FOLDER: every rule and what covers it.
report() {
    names "$1" | awk -v rules="$1/rules.md" '
        {
            rest = $0
            while (match(rest, /[A-Z]+-[0-9]+/)) {
                id = substr(rest, RSTART, RLENGTH)
                rest = substr(rest, RSTART + RLENGTH)
                if (seen[id, $0]++ == 0) by[id] = by[id] "    " $0 "\n"
            }
        }
        END {
            while ((getline line <rules) > 0) {
                if (line !~ /^\| [A-Z]+-[0-9]+ \|/) continue
                split(line, part, / *\| */)
                id = part[2]
                must = part[3] == "MUST"
                if (part[3] != "MUST" && part[3] != "SHOULD" || part[4] == "" || known[id]++ > 0) {
                    print "rules.md: a row that is not understood, or stands twice: " line
                    bad = 1
                }
                ++all
                if (by[id] != "") ++covered
                else if (must) open_musts = open_musts " " id
                else open_shoulds = open_shoulds " " id
                print id " " part[3] (by[id] != "" ? " covered: " : " UNCOVERED: ") part[4]
                printf "%s", by[id]
            }
            print "rules covered " covered + 0 " of " all + 0 "; uncovered MUST:" (open_musts == "" ? " none" : open_musts) \
                "; uncovered SHOULD:" (open_shoulds == "" ? " none" : open_shoulds)
            exit bad || all == 0 || open_musts != ""
        }'
}

if [ "${1:-}" != --test ]; then
    report "${1:-$here}"
    exit
fi

# The script on folders of its own: each case one test file or row more, and what the last line must say then.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
expect() { # NAME STATUS LAST-LINE
    status=0
    report "$work" >"$work/out" || status=$?
    if [ "$status|$(tail -n 1 "$work/out")" != "$2|$3" ]; then
        printf 'rules.sh: FAILED: %s\n  got:  %s %s\n  want: %s %s\n' "$1" "$status" "$(tail -n 1 "$work/out")" "$2" "$3" >&2
        failed=1
    fi
}
printf '| X-01 | MUST | one |\n| X-02 | SHOULD | two |\n' >"$work/rules.md"
expect "nothing covered" 1 "rules covered 0 of 2; uncovered MUST: X-01; uncovered SHOULD: X-02"
printf '// TEST_CASE("X-01 in a comment") {\nint x; // X-01\nTEST_CASE("X-010 X-0 is another") {\n' >"$work/a.cpp"
printf '# same "X-01 in a comment" 1 1\necho "X-01 is no check"\n' >"$work/a.sh"
expect "comments and code do not count" 1 "rules covered 0 of 2; uncovered MUST: X-01; uncovered SHOULD: X-02"
printf 'TEST_CASE("a name in two "\n          "pieces: X-01") {\n    CHECK("X-02");\n' >"$work/b.cpp"
expect "a name in pieces; the body does not count" 0 "rules covered 1 of 2; uncovered MUST: none; uncovered SHOULD: X-02"
printf 'ready; same "X-02: a check" "$a" b\n' >"$work/b.sh"
expect "a check of a script" 0 "rules covered 2 of 2; uncovered MUST: none; uncovered SHOULD: none"
printf '| X-03 | MUST | three |\n' >>"$work/rules.md"
expect "a rule added without a test" 1 "rules covered 2 of 3; uncovered MUST: X-03; uncovered SHOULD: none"
printf 'step "X-03 a gate"\n' >>"$work/b.sh"
expect "a step of a gate" 0 "rules covered 3 of 3; uncovered MUST: none; uncovered SHOULD: none"
printf '| X-03 | MUST | again |\n' >>"$work/rules.md"
expect "a rule that stands twice" 1 "rules covered 4 of 4; uncovered MUST: none; uncovered SHOULD: none"
[ $failed = 0 ] && echo "rules.sh: the script itself is right"
exit $failed
