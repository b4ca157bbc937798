# merge.awk - branches of one source file, of all copies of its functions together: llvm-cov's JSON in, one line a branch
# out, "LINE COLUMN LINE COLUMN TRUE FALSE", counts summed over every object file and every instance of a template.
#
# llvm-cov's own report takes of several copies of a function the best one, as if no two tests could meet in a line. A
# condition that the compiler folded counts nothing though the code around it runs; it is left out here as in the report.
#
#     llvm-cov export ... | sed 's/{"branches":/\n&/g' | awk -v file=ssm.hpp [-v without=REGEX-of-mangled-names] -f merge.awk
#
# SPDX-License-Identifier: MIT
function tuples(text, into,   n, part, i) { # [[1,2],[3,4: into[1] = "1,2" ...
    if (substr(text, 1, 2) != "[[") return 0
    text = substr(text, 3)
    n = split(text, part, /\],\[/)
    for (i = 1; i <= n; ++i) into[i] = part[i]
    return n
}
function between(before, after,   at, rest, end) { # what stands between two pieces of text of the record
    at = index($0, before)
    if (at == 0) return ""
    rest = substr($0, at + length(before))
    end = index(rest, after)
    return end == 0 ? "" : substr(rest, 1, end - 1)
}
!/^\{"branches":/ || /"segments":/ { next } # what is said of files and totals
{
    name = between("\"name\":\"", "\"")
    if (without != "" && name ~ without) next
    split(between("\"filenames\":[", "]"), files, ",")
    nb = tuples(between("\"branches\":", "]],\"count"), branch)
    nr = tuples(between("\"regions\":", "]]"), region)
    for (r = 1; r <= nr; ++r) {
        split(region[r], v, ",")
        code[r] = v[8] == 0; of[r] = v[6]; from[r] = v[1] * 1000 + v[2]; to[r] = v[3] * 1000 + v[4]; count[r] = v[5]
    }
    for (b = 1; b <= nb; ++b) {
        split(branch[b], v, ",")
        if (files[v[7] + 1] !~ file "\"$") continue
        if (v[5] + v[6] == 0) { # never reached, or folded
            at = v[1] * 1000 + v[2]; best = 0
            for (r = 1; r <= nr; ++r)
                if (code[r] && of[r] == v[7] && from[r] <= at && at < to[r] && (best == 0 || to[r] - from[r] <= to[best] - from[best])) best = r
            if (best != 0 && count[best] > 0) continue
        }
        key = v[1] " " v[2] " " v[3] " " v[4]
        yes[key] += v[5]
        no[key] += v[6]
    }
}
END { for (key in yes) print key, yes[key], no[key] }
