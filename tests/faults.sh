#!/usr/bin/env bash
# faults.sh - the program while memory runs out, system calls fail, disks are full, and files change under it.
# SPDX-License-Identifier: MIT
#
# Usage: tests/faults.sh PATH/TO/ssm FOLDER [quick], FOLDER having inject.so and points (`make` builds both from
# tests/faults). Every allocation and every system call of each command fails once; quick: of commands that need many
# allocations some of them, evenly spread; all that concerns saving in either case.

tools=$(realpath "${2:?usage: $0 PATH/TO/ssm FOLDER [quick]}")
quick=${3:-}
source "$(dirname "$0")/expect.sh"
weights=$here/../weights
one=$here/golden/s4d/01_zoh_h8_n4.safetensors
next=$weights/next-i8.safetensors
relevance=$weights/relevance-i8.safetensors
[ -c /dev/full ] || { echo "skipped: needs /dev/full" >&2; [ "${CI:-}" != true ]; exit; }

printf '0.1\n? 0.2\n+ 0.3\nx\n{"x":[0.3],"id":"a"}\n{"candidates":[[1],[2]]}\n{"x":[]}\n' >records
head -n 60 "$here/golden/history.ev" >commits
mkdir evs && head -n 200 "$here/golden/history.ev" >evs/a.ev
"$ssm" score "$one" --save-state state <<<0.5 >/dev/null || no "a state to begin with"
"$ssm" quantize "$one" i8.st >/dev/null 2>&1 || no "a model of integers to begin with"
"$ssm" convert "$one" old.st || no "a file to be replaced"
request() { printf '{"jsonrpc":"2.0","id":%s,"method":"%s","params":%s}\n' "$@"; }
{
    event='{"text":"deploy failed","ids":["m7","m9"],"embedding":[1,0,0]}'
    request 1 observe '{"events":['"$event"',{"text":"and again","ids":["m8"],"kind":"k"}]}'
    request 2 score '{"context_embedding":[1,0,0],"candidate_ids":["m7","m8"],"candidate_embeddings":[null,[0.4,0.9,0]]}'
    request 3 state_save '{"path":"sv"}'
    request 4 save_checkpoint '{"path":"ck"}'
} >requests
serve() { "$ssm" serve --native-dim 3 --items 64 "$@"; }
# What the service may have written although something failed: with and without the events, with and without its model.
mkdir may
grep -v observe requests >rest
serve --checkpoint "$relevance" <rest >/dev/null && mv sv may/0 && mv ck may/1
serve <requests >/dev/null; mv sv may/2
serve <rest >/dev/null; mv sv may/3

step() { echo "$1"; } # what is counted next, see rules.sh
if grep -q __asan_init "$ssm"; then
    echo "faults: failing allocations and calls are passed over in a build with sanitizers, which have their own" >&2
else
    # points SUM KIND HOW [OPTION...] -- COMMAND...: adds to SUM_passed and SUM_all.
    points() {
        local sum=$1 said
        shift
        said=$("$tools/points" "$tools/inject.so" "$@" 2>points.said)
        local status=$? words=($said)
        eval "${sum}_passed=\$((${sum}_passed + ${words[1]:-0})) ${sum}_all=\$((${sum}_all + ${words[3]:-1}))"
        if [ $status == 0 ]; then ok; else no "$*" "$(head -n 5 points.said)"; fi
    }
    memory_passed=0 memory_all=0 save_passed=0 save_all=0 call_passed=0 call_all=0
    some=${quick:+-m 12}

    step "F-08 whatever allocation fails, alone or with all after it: a documented status, one line that says so, no half file"
    for how in once on; do
        points memory malloc $how $some -- "$ssm" inspect "$one"
        points memory malloc $how $some -- "$ssm" info "$one"
        points memory malloc $how -i records -- "$ssm" score "$one"
        points memory malloc $how -i records -w state -- "$ssm" score "$one" --load-state state --save-state state
        points memory malloc $how $some -i commits -- "$ssm" rank "$next" --backtest 0.5
        points memory malloc $how $some -i commits -- "$ssm" rank "$relevance" --query "Fix the loader"
        points memory malloc $how ${quick:+-m 40} -i requests -s -w sv -w ck -o may/0 -o may/1 -o may/2 -o may/3 -- \
            "$ssm" serve --native-dim 3 --items 64 --checkpoint "$relevance"
        points memory malloc $how $some -w out.st -- "$ssm" quantize "$one" out.st
        points memory malloc $how $some -w old.st -- "$ssm" convert "$one" old.st
        points memory malloc $how $some -- "$ssm" convert "$next" --c-array /dev/stdout
        points memory malloc $how $some -- "$ssm" compare "$one" i8.st --steps 3
        points memory malloc $how $some -- "$ssm" eval "$next" evs
        points memory malloc $how $some -- "$ssm" selftest "$one"
    done
    printf 'counted: allocation points failed %s of %s\n' $memory_passed $memory_all

    # Or the program is killed or told to end there.
    step "F-09 P-05 S-10 each call around a save fails, does half or is interrupted: the old file stands there or the new one"
    for how in error short eintr kill after term; do
        points save calls $how -i records -w state -- "$ssm" score "$one" --load-state state --save-state state
        points save calls $how -i records -w first -- "$ssm" score "$one" --save-state first
    done
    for how in error short eintr kill after; do
        points save calls $how -w out.st -- "$ssm" quantize "$one" out.st
        points save calls $how -w old.st -- "$ssm" convert "$one" old.st
        points save calls $how -i requests -s -w sv -w ck -o may/0 -o may/1 -o may/2 -o may/3 -- \
            "$ssm" serve --native-dim 3 --items 64 --checkpoint "$relevance"
    done
    printf 'counted: system calls of save failed %s of %s\n' $save_passed $save_all

    # F-09: the same for what only reads and prints.
    for how in error short eintr; do
        points call calls $how -- "$ssm" inspect "$one"
        points call calls $how -i records -- "$ssm" score "$one"
        points call calls $how -i commits -- "$ssm" rank "$next" --top 3
        points call calls $how -- "$ssm" compare "$one" i8.st --steps 3
        points call calls $how -- "$ssm" eval "$next" evs
    done
    printf 'counted: system calls of reading failed %s of %s\n' $call_passed $call_all
fi

# ---- F-09: a file that opens and cannot be read

mkdir -p folders/a.ev
like "eval: a history that is a folder" 4 "ssm eval: a.ev: cannot be read" "$ssm" eval "$next" folders

# ---- P-05: true short writes, and a disk that is full

for blocks in 0 1; do # of 1 KiB: shorter than what is written
    cp i8.st kept.st
    (trap '' XFSZ; ulimit -f $blocks; exec "$ssm" quantize "$one" kept.st) >/dev/null 2>&1
    same "quantize within $blocks KiB" "$? $(cmp i8.st kept.st && ls kept.st*)" "4 kept.st"
done
cp state kept
(trap '' XFSZ; ulimit -f 0; exec "$ssm" score "$one" --save-state kept) <<<0.1 >/dev/null 2>&1
same "score within 0 KiB" "$? $(cmp state kept && ls kept kept.tmp 2>/dev/null)" "4 kept"
while read -r command; do
    eval "\"\$ssm\" $command" <commits >/dev/full 2>got.err
    same "$command: a full disk" "$? $(cat got.err)" "4 ssm ${command%% *}: standard output: No space left on device"
    eval "\"\$ssm\" $command" <commits >&- 2>got.err
    same "$command: no standard output" "$? $(cat got.err)" "4 ssm ${command%% *}: standard output: Bad file descriptor"
done <<'LIST'
inspect "$one"
info "$one"
rank "$next"
compare "$one" i8.st --steps 3
eval "$next" evs
selftest "$one"
LIST

# ---- A reader that leaves, a file that is cut short while it is mapped

{ yes 0.5 | head -n 200000 | "$ssm" score "$one"; echo "$? ${PIPESTATUS[*]}" >status; } 2>got.err | head -n 1 >/dev/null
same "S-08 a reader that leaves" "$(cut -d' ' -f1 status) $(cat got.err)" "4 "
cp "$one" cut.st
mkfifo in
"$ssm" score cut.st <in >got.out 2>got.err &
program=$!
exec 7>in
echo 0.1 >&7
for ((i = 0; i < 200; ++i)); do [ -s got.out ] && break; sleep 0.05; done
: >cut.st
echo 0.2 >&7
exec 7>&-
wait $program
same "F-01 a model cut short while it is mapped" "$? $(wc -l <got.out) $(cat got.err)" \
    "4 1 ssm: a file was cut short while it was being read"

printf 'faults: %d checks passed, %d failed\n' $passed $failed
[ $failed == 0 ]
