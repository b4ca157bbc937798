#!/usr/bin/env bash
# serve.sh - `ssm serve` from outside: framing, ids, every error, files, signals, lines of 64 MiB, slow and broken pipes.
# SPDX-License-Identifier: MIT
#
# Usage: tests/serve.sh PATH/TO/ssm [MODEL]. Needs bash and Debian's base packages. MODEL, where it exists, is what
# --checkpoint takes (default: the shipped weights/relevance.safetensors).

source "$(dirname "$0")/expect.sh"
model=$(realpath -m "${2:-$here/../weights/relevance.safetensors}")
grep -q __asan_init "$ssm" && checked=yes || checked=no # memory is not what it is without checks

# serve [OPTION...]: requests on standard input, for embeddings of 4 numbers.
serve() { timeout 60 "$ssm" serve --native-dim 4 "$@"; }
request() { printf '{"jsonrpc":"2.0","id":%s,"method":"%s","params":%s}\n' "$1" "$2" "$3"; }
# answers NAME WANT: the lines on standard input get the answers WANT, nothing on standard error, exit status 0. Each
# score is replaced by S where WANT has any S, and what is volatile in other answers by its name.
answers() {
    serve >got.out 2>got.err
    local status=$?
    same "$1" "$status|$(plain <got.out)|$(head -c 300 got.err)" "0|$2|"
}
plain() { sed -E -e 's/"score":[0-9][-+.0-9e]*/"score":S/g' -e 's/"state_bytes":[0-9]+/"state_bytes":B/g' -e 's/"loss":-?[0-9][-+.0-9e]*/"loss":L/g' -e 's/"(20[0-9T:-]+Z)"/TIME/g' -e 's/^\{"jsonrpc":"2.0","id"://'; }
error() { printf '%s,"error":{"code":%s,"message":"%s"}}' "$1" "$2" "$3"; }
# asks NAME METHOD PARAMS WANT: one request, of id 1.
asks() { answers "$1" "$4" < <(request 1 "$2" "$3"); }
fails() { asks "$1" "$2" "$3" "$(error 1 "$4" "$5")"; }
status0='"result":{"trained":false,"training_pairs":0,"model_version":0,"last_trained":null,"native_dimensions":4,"feature_dimensions":17}}'
refused='"error":{"code":-32000,"message":"train_from_db: not supported, this program reads no database"}}'

# ---- The command line

"$ssm" serve --help >got.out 2>got.err
same "--help" "$? $(head -c 16 got.out) $(wc -c <got.err)" "0 usage: ssm serve 0"
"$ssm" help serve >got2.out 2>&1
same "help serve" "$(cat got2.out)" "$(cat got.out)"
like "--native-dim: not a number" 2 'ssm serve: --native-dim: got "wide", *' "$ssm" serve --native-dim wide
like "--native-dim: 0" 2 'ssm serve: --native-dim: got "0", *' "$ssm" serve --native-dim 0
like "--checkpoint: nothing" 2 'ssm serve: --checkpoint needs a value' "$ssm" serve --checkpoint
same "empty input" "$(serve </dev/null 2>&1; echo $?)" "0"
same "unknown options and operands" "$(request 1 status '{}' | "$ssm" serve more --stdio --level=3 -v --native-dim 4 --agent default --checkpoint missing.st -- x 2>&1 | plain)" "1,$status0"
same "--native-dim is 768" "$(request 1 status '{}' | "$ssm" serve 2>&1 | grep -c '"native_dimensions":768,"feature_dimensions":17}}$')" "1"

# ---- Framing, ids and envelopes

answers "S-06: blank lines" '1,'"$status0" < <(printf '\n  \t\r\n\r\n'; request 1 status '{}'; printf ' \n')
answers "CR LF, and no newline at the end" $'1,'"$status0"$'\n2,'"$status0" < <(printf '{"jsonrpc":"2.0","id":1,"method":"status"}\r\n {"jsonrpc":"2.0","id":2,"method":"status"} ')
for id in '"req-1"' '""' '"\u0000\ud83d\ude00\ud800\/"' '"café"' 0 -7 1.50 1e2 -0 12345678901234567890123 null; do
    asks_id=$(printf '{"method":"train_from_db","jsonrpc":"2.0","params":{},"id":%s}\n' "$id" | serve 2>&1)
    same "S-06: id $id" "$asks_id" "{\"jsonrpc\":\"2.0\",\"id\":$id,$refused"
done
answers "an id that is no UTF-8" $'"a\xef\xbf\xbd",'"$refused" < <(printf '{"jsonrpc":"2.0","id":"a\xff","method":"train_from_db"}\n')
answers "ids of other types" "$(error null -32600 '\"id\": expected a string, a number or null' | sed 'p;p')" < <(for id in true '[1]' '{}'; do request "$id" status '{}'; done)
parse() { answers "S-06: not JSON: $1" "$(error null -32700 "$2")" < <(printf '%b\n' "$1"); }
parse 'hello' 'malformed JSON: expected a value'
parse '{"jsonrpc":"2.0","id":1,"method":"status"' 'malformed JSON: the text ends too early'
parse '{"jsonrpc":"2.0","id":1,"method":"status","params":{"x":NaN}}' 'malformed JSON: expected a value'
parse '{"jsonrpc":"2.0","id":1,"method":"status","params":{"x":[-Infinity]}}' 'malformed JSON: a number has no digits'
parse '{"jsonrpc":"2.0","id":1,"method":"status","params":{"x":01}}' 'malformed JSON: a number begins with 0'
parse '{"jsonrpc":"2.0","id":1,"method":"status","x":"\\x"}' 'malformed JSON: an escape is wrong'
parse '{"jsonrpc":"2.0","id":1,"method":"status"}\0000' 'malformed JSON: text follows the end of the value'
parse '{"jsonrpc":"2.0","id":1,"method":"sta\0000tus"}' 'malformed JSON: a control character stands in a string'
parse '{"jsonrpc":"2.0","id":1,"method":"status"}{"jsonrpc":"2.0","id":2,"method":"status"}' 'malformed JSON: text follows the end of the value'
parse '7' 'expected an object'
parse '{"id":1,"method":"status"}' '\"jsonrpc\" is missing'
parse '{"jsonrpc":"2.0","id":1}' '\"method\" is missing'
parse '{"jsonrpc":"2.0","method":"status"}' '\"id\" is missing'
answers "S-06: batches" "$(error null -32600 'batches are not taken' | sed 'p')" < <(printf '[]\n[{"jsonrpc":"2.0","id":1,"method":"status"},{"jsonrpc":"2.0","id":2,"method":"status"}]\n')
answers "another version" "$(error '"a"' -32600 '\"jsonrpc\": expected \"2.0\"')" < <(printf '{"jsonrpc":"1.0","id":"a","method":"status"}\n')
fails "S-06: unknown method" frobnicate '{}' -32601 'unknown method \"frobnicate\"'
fails "unknown method with control characters" '\u001b[31m\n' '{}' -32601 'unknown method \"\\x1b[31m\\x0a\"'
fails "S-06: params: an array" status '[]' -32602 'params: expected an object'
fails "params: a number" score 7 -32602 'params: expected an object'
asks "params: null" status null "1,$status0"
answers "no params" "1,$status0" < <(printf '{"jsonrpc":"2.0","id":1,"method":"status"}\n')
answers "members twice: the last one" "\"b\",$status0" < <(printf '{"jsonrpc":"1","id":1,"method":"x","id":"b","jsonrpc":"2.0","method":"status"}\n')
nest() { printf "%$1s" '' | tr ' ' '['; printf "%$1s" '' | tr ' ' ']'; }
asks "128 levels" status "{\"x\":$(nest 128)}" "1,$status0"
parse "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\",\"params\":{\"x\":$(nest 200)}}" 'malformed JSON: nested too deep'
answers "100,000 levels" "$(error null -32700 'malformed JSON: nested too deep')" < <(printf '%0100000d\n' 0 | tr 0 '[')

# ---- score

ctx='"context_embedding":[1,0,0,0]'
f17='[1,0.5,0,0,1,0,1,0,1,0,1,0,0,0,0,0,0]'
three='[{"id":"a","score":S},{"id":"b","score":S},{"id":"c","score":S}]'
asks "score: embeddings" score "{$ctx,\"candidate_ids\":[\"b\",\"a\"],\"candidate_embeddings\":[[0,1,0,0],[1,0,0,0]],\"candidate_features\":[$f17,$f17],\"project_slot\":3}" '1,"result":{"scores":[{"id":"a","score":S},{"id":"b","score":S}]}}'
asks "score: nothing known: as they came" score "{$ctx,\"candidate_ids\":[\"a\",\"b\",\"c\"]}" "1,\"result\":{\"scores\":$three}}"
asks "score: nulls" score "{$ctx,\"candidate_ids\":[\"a\",\"b\",\"c\"],\"candidate_embeddings\":[null,null,null],\"candidate_texts\":[null,null,null],\"candidate_features\":[null,null,null]}" "1,\"result\":{\"scores\":$three}}"
asks "score: empty lists" score "{$ctx,\"candidate_ids\":[\"a\",\"b\",\"c\"],\"candidate_embeddings\":[],\"candidate_texts\":[],\"candidate_features\":[]}" "1,\"result\":{\"scores\":$three}}"
asks "score: embeddings of other widths are missing" score "{$ctx,\"candidate_ids\":[\"a\",\"b\",\"c\"],\"candidate_embeddings\":[[1,2,3],[],[1,2,3,4,5]]}" "1,\"result\":{\"scores\":$three}}"
asks "score: one embedding is missing" score "{$ctx,\"candidate_ids\":[\"a\",\"b\",\"c\"],\"candidate_embeddings\":[null,[1,0,0,0],[-1,0,0,0]],\"candidate_texts\":[\"some words\",null,null]}" "$(request 1 score "{$ctx,\"candidate_ids\":[\"a\",\"b\",\"c\"],\"candidate_embeddings\":[null,[1,0,0,0],[-1,0,0,0]]}" | serve | plain)"
asks "score: no context embedding" score '{"context_embedding":null,"candidate_ids":["a","b","c"]}' "1,\"result\":{\"scores\":$three}}"
asks "score: ids with escapes" score "{$ctx,\"candidate_ids\":[\"\\u0061\\ud83d\\ude00\\u0000\\\"\"]}" '1,"result":{"scores":[{"id":"\u0061\ud83d\ude00\u0000\"","score":S}]}}'
request 1 score "{$ctx,\"candidate_ids\":[\"a\",\"b\",\"c\",\"d\"],\"candidate_embeddings\":[[1,1,0,0],[1,0,0,0],null,[-1,2,3e38,1e-45]]}" | serve |
    tr ',' '\n' | sed -n 's/.*"score":\([^}]*\).*/\1/p' | awk '{ sum += $1; if (NR > 1 && $1 > last) bad = 1; last = $1 } END { d = sum - 1; if (d < 0) d = -d; print NR, bad + 0, (d < 1e-6) }' >got.sum
same "score: the sum is 1, best first" "$(cat got.sum)" "4 0 1"
fails "score: no context" score '{"candidate_ids":["a"]}' -32602 'context_embedding: missing, expected an array of numbers'
fails "score: no ids" score "{$ctx}" -32602 'candidate_ids: missing'
fails "score: context of text" score '{"context_embedding":"x","candidate_ids":["a"]}' -32602 'context_embedding: expected an array of numbers'
fails "score: context with a null" score '{"context_embedding":[1,null,0,0],"candidate_ids":["a"]}' -32602 'context_embedding: expected numbers'
fails "score: beyond a float" score '{"context_embedding":[1,1e39,0,0],"candidate_ids":["a"]}' -32602 'context_embedding: a number beyond the range of a float'
fails "score: an id that is a number" score "{$ctx,\"candidate_ids\":[\"a\",2]}" -32602 'candidate_ids: element 2: expected a string'
fails "score: an embedding of text" score "{$ctx,\"candidate_ids\":[\"a\"],\"candidate_embeddings\":[\"a\"]}" -32602 'candidate_embeddings: element 1: expected an array of numbers or null'
fails "score: a text that is a number" score "{$ctx,\"candidate_ids\":[\"a\"],\"candidate_texts\":[1]}" -32602 'candidate_texts: element 1: expected a string or null'
fails "score: project_slot" score "{$ctx,\"candidate_ids\":[\"a\"],\"project_slot\":-1}" -32602 'project_slot: expected an integer, 0 or more'
fails "score: context of another width" score '{"context_embedding":[1,0,0],"candidate_ids":["a"]}' -32000 'context_embedding: expected 4 numbers, got 3'
fails "score: an empty pool" score "{$ctx,\"candidate_ids\":[]}" -32000 'candidate_ids: the pool is empty'
fails "score: other lengths" score "{$ctx,\"candidate_ids\":[\"a\",\"b\"],\"candidate_embeddings\":[null]}" -32000 'candidate_embeddings: expected 2 as in candidate_ids, got 1'
fails "score: other lengths of texts" score "{$ctx,\"candidate_ids\":[\"a\"],\"candidate_texts\":[null,null]}" -32000 'candidate_texts: expected 1 as in candidate_ids, got 2'
fails "score: features" score "{$ctx,\"candidate_ids\":[\"a\"],\"candidate_features\":[[1,2]]}" -32000 'candidate_features: element 1: expected 17 numbers, got 2'

# ---- observe, reset, train

asks "observe" observe "{\"events\":[{\"text\":\"some words\",\"ids\":[\"a\",\"b\"],\"dt\":30},{\"embedding\":[1,0,0,0],\"features\":$f17,\"kind\":\"turn\",\"id\":\"c\"},{}]}" '1,"result":{"steps":3,"state_bytes":B}}'
fails "observe: no events" observe '{}' -32602 'events: missing'
fails "observe: dt" observe '{"events":[{},{"dt":-1}]}' -32602 'events: element 2: dt: expected seconds, 0 or more'
fails "observe: features" observe '{"events":[{"features":[1]}]}' -32000 'events: element 1: expected 17 features, got 1'
answers "a bad request changes nothing; observe_context; reset" $'1,"result":{"steps":1,"state_bytes":B}}\n'"$(error 2 -32602 'events: element 2: text: expected a string')"$'\n3,"result":{"scores":[{"id":"a","score":S}]}}\n4,"result":{"steps":1,"state_bytes":B}}\n5,"result":{"scores":[{"id":"a","score":S}]}}\n6,"result":{"steps":2,"state_bytes":B}}\n7,"result":{"steps":0,"state_bytes":B}}' < <(
    request 1 observe '{"events":[{"id":"a"}]}'
    request 2 observe '{"events":[{"id":"b"},{"text":1}]}'
    request 3 score "{$ctx,\"candidate_ids\":[\"a\"]}"
    request 4 observe '{"events":[]}'
    request 5 score "{$ctx,\"candidate_ids\":[\"a\"],\"observe_context\":true}"
    request 6 observe '{"events":[]}'
    request 7 reset '{}'
)
answers "train, and what status says then" $'1,"result":{"loss":L,"step":1}}\n2,"result":{"trained":false,"training_pairs":2,"model_version":1,"last_trained":TIME,"native_dimensions":4,"feature_dimensions":17}}' < <(
    request 1 train "{$ctx,\"candidate_embeddings\":[[1,0,0,0],null],\"labels\":[1,0]}"
    request 2 status '{}'
)
fails "train: no labels" train "{$ctx,\"candidate_embeddings\":[null]}" -32602 'labels: missing'
fails "train: temperature" train "{$ctx,\"candidate_embeddings\":[null],\"labels\":[1],\"temperature\":-1}" -32602 'temperature: expected a number above 0'
fails "train: lengths" train "{$ctx,\"candidate_embeddings\":[null],\"labels\":[1,2]}" -32000 'candidate_embeddings: expected 2 as in labels, got 1'
asks "train_from_db" train_from_db '{"db_path":"x.db","limit":5}' "1,$refused"

# ---- Files

probe="{$ctx,\"candidate_ids\":[\"a\",\"b\",\"c\"],\"candidate_embeddings\":[[1,0,0,0],null,[0,1,0,0]],\"candidate_features\":[$f17,$f17,$f17],\"candidate_texts\":[\"some\",\"words\",null],\"context_text\":\"some words\"}"
events='{"events":[{"text":"some words","ids":["a","b"],"dt":30},{"text":"others","id":"c","dt":4000},{"text":"words","id":"b"}]}'
{ request 1 observe "$events"; request 2 score "$probe"; request 3 state_save '{"path":"state"}'; request 4 reset '{}'; request 6 state_load '{"path":"state"}'; request 7 score "$probe"; request 8 observe '{"events":[]}'; } | serve >got.out 2>got.err
answer() { grep "\"id\":$1," "${2:-got.out}" | sed 's/.*"result"://'; }
same "P-03: state_save, state_load" "$(cat got.err)$(answer 3) $(answer 4 | grep -c '"steps":0,') $(answer 6) $(answer 8 | grep -c '"steps":3,') $(answer 7)" '{"saved":true}} 1 {"loaded":true}} 1 '"$(answer 2)"
answer 2 >kept
{ request 6 state_load '{"path":"state"}'; request 7 score "$probe"; request 8 observe '{"events":[]}'; } | serve >got.out 2>got.err
same "state_load in a new process" "$(cat got.err)$(answer 6) $(answer 7) $(answer 8 | grep -c '"steps":3,')" '{"loaded":true}} '"$(cat kept) 1"
head -c 60 state >cut
{ request 1 state_load '{"path":"state"}'; request 2 state_load '{"path":"cut"}'; request 3 state_load '{"path":"missing"}'; request 4 state_load '{"path":"."}'; request 7 score "$probe"; } | serve >got.out 2>/dev/null
same "P-02: state_load refused: the state is as it was" "$(grep -c '"code":-32000' got.out) $(answer 7)" "3 $(cat kept)"
{ request 1 save_checkpoint '{"path":"no/such/folder/x"}'; request 2 state_save '{"path":"."}'; request 3 save_checkpoint '{"path":"/dev/full"}'; } | serve >got.out 2>/dev/null
same "files that cannot be written" "$(grep -c '"code":-32000' got.out)" "3"
fails "path: missing" save_checkpoint '{}' -32602 'path: missing'
fails "path: NUL" state_save '{"path":"a\u0000b"}' -32602 'path: expected the name of a file'

request 1 status '{}' | serve --checkpoint missing.st >got.out 2>got.err
same "a missing checkpoint" "$? $(plain <got.out)|$(cat got.err)" "0 1,$status0|"
printf 'this is no model, and long enough to hold a header' >broken.st
: >empty.st
for file in broken.st empty.st .; do
    request 1 status '{}' | serve --checkpoint $file >got.out 2>got.err
    same "a broken checkpoint: $file" "$? $(plain <got.out)|$(wc -l <got.err) $(head -c 11 got.err)" "0 1,$status0|1 ssm serve: "
done
if [ -e "$model" ]; then
    { request 1 status '{}'; request 2 observe "$events"; request 3 train "{$ctx,\"candidate_embeddings\":[[1,0,0,0],null],\"labels\":[1,0]}"; request 4 score "$probe"; request 5 save_checkpoint '{"path":"ckpt.st","flags":0}'; request 6 reset '{}'; request 7 score "$probe"; } | serve --checkpoint "$model" >got.out 2>got.err
    same "a model: trained" "$(cat got.err)$(answer 1 | head -c 15) $(answer 5)" '{"trained":true {"saved":true}}'
    [ "$(answer 7)" != "$(answer 4)" ] && ok || no "a model: what it was told matters, and reset forgets it"
    answer 4 >kept
    { request 1 status '{}'; request 4 score "$probe"; } | serve --checkpoint ckpt.st >got.out 2>got.err
    same "save_checkpoint, --checkpoint: the same scores" "$(cat got.err)$(answer 1 | head -c 15) $(answer 4)" "{\"trained\":true $(cat kept)"
else printf 'serve.sh: %s is not there: checkpoints of a model were not tested\n' "$model"; fi

# ---- Pipes and signals

for ((i = 0; i < 1000; ++i)); do request "\"req-$i\"" train_from_db '{}'; done >many
serve <many >got.out 2>got.err
same "S-06: 1,000 requests at once: in order" "$? $(cut -d, -f2 got.out | md5sum) $(cat got.err)" "0 $(for ((i = 0; i < 1000; ++i)); do echo "\"id\":\"req-$i\""; done | md5sum) "
same "a slow reader" "$(for i in 1 2 3 4 5; do cat many; done | serve | { sleep 1; wc -l; })" "5000"

# An answer is out before the next request is there, and whole lines come of pieces.
coproc "$ssm" serve --native-dim 4
server=$COPROC_PID in=${COPROC[1]} out=${COPROC[0]}
reply() { IFS= read -r -t 20 reply <&"$out" || reply="nothing"; }
request 1 status '{}' >&"$in"
reply; same "S-03: answered while the input is open" "$(plain <<<"$reply")" "1,$status0"
for piece in '{"jsonrpc":"2.0","i' 'd":2,"met' 'hod":"status"' '}'; do printf '%s' "$piece" >&"$in"; sleep 0.05; done
IFS= read -r -t 0.3 early <&"$out" && no "a line is not answered before it ends" "  got: $early" || ok
printf '\n{"jsonrpc":"2.0","id":3,' >&"$in"
reply; same "a line in pieces" "$(plain <<<"$reply")" "2,$status0"
kill -TERM "$server"
wait "$server"; same "S-10: SIGTERM while the input is open" "$?" "0"

# The input closed and SIGTERM at once: as a client stops it.
for delay in 0 0 0.02 0.1; do
    rm -f got.out
    mkfifo fifo
    "$ssm" serve --native-dim 4 <fifo >got.out 2>got.err &
    server=$!
    exec 9>fifo
    request 1 status '{}' >&9
    for ((i = 0; i < 200; ++i)); do [ -s got.out ] && break; sleep 0.05; done
    exec 9>&-
    sleep $delay
    kill -TERM $server 2>/dev/null
    wait $server; same "SIGTERM, the input closed $delay s before" "$? $(plain <got.out)$(cat got.err)" "0 1,$status0"
    rm fifo
done
# Told to stop while answers wait for a reader that does not read.
mkfifo fifo
exec 9<>fifo
for i in 1 2 3 4 5 6 7 8; do cat many; done >more
"$ssm" serve --native-dim 4 <more >fifo 2>got.err &
server=$!
sleep 0.5
kill -TERM $server 2>/dev/null
wait $server; same "S-10: SIGTERM while answers wait" "$? $(cat got.err)" "0 "
exec 9>&-
rm fifo
{ yes "$(request 1 train_from_db '{}')" 2>/dev/null | { serve; echo $? >got.status; } | head -1 >got.out; } 2>got.err
same "a reader that leaves" "$(cat got.status) $(wc -l <got.out) $(cat got.err)" "4 1 "
request 1 status '{}' | { serve >&- 2>got.err; echo $? >got.status; }
same "S-08: closed output" "$(cat got.status) $(wc -l <got.err)" "4 1"
request 1 status '{}' | { serve >/dev/full 2>got.err; echo $? >got.status; }
same "S-08: a full disk" "$(cat got.status) $(cat got.err)" "4 ssm serve: standard output: No space left on device"
serve <&- >got.out 2>got.err
same "S-09: closed input" "$? $(plain <got.out)|$(cat got.err)" "4 $(error null -32603 'standard input: Bad file descriptor')|ssm serve: standard input: Bad file descriptor"
serve <. >got.out 2>got.err
same "a folder as input" "$? $(plain <got.out)" "4 $(error null -32603 'standard input: Is a directory')"

# ---- Long lines

# line BYTES: a status request of that many bytes, without its newline.
line() { printf '{"jsonrpc":"2.0","id":1,"method":"status","params":{"x":"'; head -c $(($1 - 60)) /dev/zero | tr '\0' a; printf '"}}'; }
max=67108864
answers "S-04 F-07: lines of 64 MiB, and one byte more" $'1,'"$status0"$'\n'"$(error null -32700 'a line is longer than 67108864 bytes')"$'\n2,'"$status0"$'\n1,'"$status0"$'\n'"$(error null -32700 'a line is longer than 67108864 bytes')" < <(
    line $max; echo; line $((max + 1)); echo; request 2 status '{}'; line $max; printf '\r\n'; line $((max + 1)))
numbers() { printf '{"jsonrpc":"2.0","id":1,"method":"score","params":{%s,"candidate_ids":["a"],"candidate_embeddings":[' "$ctx"; yes '[1,0,0,0],' | head -n 6700000 | tr -d '\n'; printf '[0,0,0,0]]}}\n'; }
numbers | serve >got.out 2>got.err
same "64 MiB of embeddings" "$? $(grep -c '"code":-32000,"message":"candidate_embeddings: expected 1 as in candidate_ids, got 6700001' got.out)$(cat got.err)" "0 1"
if [ $checked == no ]; then
    rm -f got.out
    mkfifo fifo
    "$ssm" serve --native-dim 4 <fifo >got.out 2>got.err &
    server=$!
    exec 9>fifo
    { head -c 300000000 /dev/zero | tr '\0' '['; echo; numbers; request 2 status '{}'; } >&9
    for ((i = 0; i < 600; ++i)); do [ "$(cat got.out 2>/dev/null | wc -l)" -ge 3 ] && break; sleep 0.05; done
    peak=$(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\) kB/\1/p' /proc/$server/status) now=$(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p' /proc/$server/status)
    [ "$peak" -lt 300000 ] && [ "$now" -lt 30000 ] && ok || no "memory: bounded, and given back" "  got:  peak $peak kB, now $now kB" "  want: below 300000, 30000"
    exec 9>&-
    wait $server; same "300 MB without a newline" "$? $(wc -l <got.out)" "0 3"
    rm fifo
fi

printf 'serve.sh: %d passed, %d failed\n' $passed $failed
[ $failed == 0 ]
