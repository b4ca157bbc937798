# candidates.awk - places of a source file where one small change should be noticed by a test, in an order fixed by a seed:
#
#     awk -v seed=1 -v lines=FILE -f candidates.awk ssm.hpp
#
# lines: a file with the numbers of lines that tests reach, one each; of others nothing is listed. Out, a line a change:
# LINE, COLUMN, how many characters go, what comes for them, kind, tab-separated. Any first part of the list is spread
# over all sections of the file as their lines are.
#
# SPDX-License-Identifier: MIT
function next_random() { return state = (state * 16807) % 2147483647 }
function put(column, length_, text, kind) {
    ++n
    change[n] = NR "\t" column "\t" length_ "\t" text "\t" kind
    section_of[n] = section
    kind_of[n] = kind
}
# Code alone: strings, characters and comments become spaces, so that columns stay.
function bare(text,   out, i, c, quote) {
    out = ""
    quote = ""
    for (i = 1; i <= length(text); ++i) {
        c = substr(text, i, 1)
        if (quote != "") {
            if (c == "\\") { out = out " "; ++i; c = " " }
            else if (c == quote) quote = ""
            out = out " "
        } else if (c == "\"" || (c == "'" && substr(text, i - 1, 1) !~ /[0-9]/)) { quote = c; out = out " " }
        else if (c == "/" && substr(text, i + 1, 1) == "/") break
        else out = out c
    }
    return out
}
function every(code, find, replacement, kind,   from, at) { # each place of a text
    from = 1
    while ((at = index(substr(code, from), find)) != 0) {
        put(from + at - 1, length(find), replacement, kind)
        from += at + length(find) - 1
    }
}
function closing(code, at,   i, depth, c) { # where the bracket opened at `at` closes; 0: not in this line
    for (i = at; i <= length(code); ++i) {
        c = substr(code, i, 1)
        if (c == "(") ++depth
        if (c == ")" && --depth == 0) return i
    }
    return 0
}
BEGIN {
    state = seed + 0 > 0 ? seed + 0 : 1
    while ((getline line < lines) > 0) reached[line + 0] = 1
}
/^\/\/ ---- [0-9]+\. / { section = $3 }
!(NR in reached) || /^ *#/ || /^ *\/\// || /SSM_ASSERT|static_assert|^ *template|SSM_TARGET\(|^using|^ *typedef/ { next }
{
    code = bare($0)
    every(code, " < ", " <= ", "comparison")
    every(code, " <= ", " < ", "comparison")
    every(code, " > ", " >= ", "comparison")
    every(code, " >= ", " > ", "comparison")
    every(code, " == ", " != ", "comparison")
    every(code, " != ", " == ", "comparison")
    every(code, " + ", " - ", "arithmetic")
    every(code, " - ", " + ", "arithmetic")
    every(code, " * ", " + ", "arithmetic")
    every(code, " += ", " -= ", "arithmetic")
    every(code, " -= ", " += ", "arithmetic")
    every(code, " && ", " || ", "logic")
    every(code, " || ", " && ", "logic")
    every(code, " << ", " >> ", "bits")
    every(code, " >> ", " << ", "bits")
    every(code, " & ", " | ", "bits")
    every(code, " | ", " & ", "bits")
    every(code, "(!", "(", "logic")
    every(code, " !", " ", "logic")
    every(code, "return true", "return false", "logic")
    every(code, "return false", "return true", "logic")
    # A number, one more and one less; not of floats, names or parts of longer numbers.
    from = 1
    while (match(substr(code, from), /[0-9]+/)) {
        at = from + RSTART - 1
        size = RLENGTH
        before = substr(code, at - 1, 1)
        after = substr(code, at + size, 1)
        if (before !~ /[A-Za-z_0-9.']/ && after !~ /[A-Za-z_0-9.']/ && size < 7) {
            put(at, size, substr(code, at, size) + 1, "constant")
            if (substr(code, at, size) + 0 > 0) put(at, size, substr(code, at, size) - 1, "constant")
        }
        from = at + size
    }
    # A check that never is true.
    if (match(code, /(^| )if \(/)) {
        at = RSTART + RLENGTH - 1
        end = closing(code, at)
        if (end > at + 1) put(at + 1, end - at - 1, "false", "check")
    }
    # A statement that is not there: an assignment or a call alone in its line.
    if (code ~ /^ +[a-z_*][A-Za-z_0-9.>\[\]-]* *([-+*|&^]|<<|>>)?= [^;{}]*; *$/ || code ~ /^ +[a-z_][A-Za-z_0-9.:>-]*\([^;{}]*\); *$/) {
        match(code, /^ +/)
        at = RLENGTH + 1
        if (substr(code, at) !~ /^(return|else|case|const|break)/ && substr(code, at, index(code, ";") - at) !~ /^\(void\)/)
            put(at, index(code, ";") - at, "", "statement")
    }
    # Two arguments the other way round.
    if (match(code, /[a-z_0-9]\([a-zA-Z_][a-zA-Z_0-9.]*, [a-zA-Z_][a-zA-Z_0-9.]*[,)]/)) {
        at = RSTART + 2
        pair = substr(code, at, RLENGTH - 3)
        split(pair, two, ", ")
        if (two[1] != two[2]) put(at, length(pair), two[2] ", " two[1], "arguments")
    }
}
END {
    # Shuffled, then by turns: of the section that is furthest behind its share, of the kind taken least there.
    for (i = n; i > 1; --i) {
        j = next_random() % i + 1
        held = change[i]; change[i] = change[j]; change[j] = held
        held = section_of[i]; section_of[i] = section_of[j]; section_of[j] = held
        held = kind_of[i]; kind_of[i] = kind_of[j]; kind_of[j] = held
    }
    for (i = 1; i <= n; ++i) { ++share[section_of[i]]; ++of_kind[section_of[i], kind_of[i]]; all_kinds[kind_of[i]] = 1 }
    for (out = 0; out < n && out < 2000; ++out) {
        best = ""
        for (s in share) if (taken[s] < share[s] && (best == "" || taken[s] / share[s] < taken[best] / share[best] || (taken[s] / share[s] == taken[best] / share[best] && s < best))) best = s
        least = ""
        for (k in all_kinds)
            if (used[best, k] < of_kind[best, k] && (least == "" || used[best, k] < used[best, least] || (used[best, k] == used[best, least] && k < least))) least = k
        for (i = start[best, least] + 1; section_of[i] != best || kind_of[i] != least; ++i) {}
        start[best, least] = i
        ++used[best, least]
        ++taken[best]
        split(change[i], field, "\t")
        if (lines_used[field[1]]++) continue # one a line
        print change[i]
    }
}
