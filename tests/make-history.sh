#!/bin/sh
# make-history.sh - writes this project's history as an .ev file (subject words and author left out): the input bundled as
# golden/history.ev, for places without git. Run it, with the ranking it gives, after weights/next changes:
#
#   sh tests/make-history.sh > tests/golden/history.ev
#   for m in next next-i8 next-i4; do
#       build/ssm rank weights/$m.safetensors --top 5 --backtest 0.5 < tests/golden/history.ev > tests/golden/history${m#next}.expected
#   done
#
# SPDX-License-Identifier: MIT
git log --reverse --no-merges --name-status -M --format='c %ct 0 -' | awk -F '\t' '
    /^c /            { print; next }
    /^[AMTRCD]/      { kind = substr($1, 1, 1); from = $2; to = NF > 2 ? $3 : $2 }
    !/^[AMTRCD]/     { next }
    kind == "A" || kind == "C" { if (!(to in id)) id[to] = n++; print "a", id[to], to }
    kind == "M" || kind == "T" { print "m", id[from] }
    kind == "D"      { print "d", id[from] }
    kind == "R"      { id[to] = id[from]; delete id[from]; print "r", id[to], to }'
