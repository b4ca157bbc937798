#!/usr/bin/env bash
# hostile.sh - `ssm` from outside under everything that a stream, a file or a signal can do to it: 350 scripts of records
# with all that must come of each, the model files of hostile_models.cpp, damaged states, memory and time of long streams.
# SPDX-License-Identifier: MIT
#
# Usage: tests/hostile.sh PATH/TO/ssm PATH/TO/test. Needs bash and Debian's base packages.

test=$(realpath "${2:?usage: $0 PATH/TO/ssm PATH/TO/test}")
source "$(dirname "$0")/expect.sh"
one=$here/golden/s4d/01_zoh_h8_n4.safetensors                 # one input, four outputs
three=$here/golden/s4d/03_postnorm_mean_h16_n8_l2.safetensors # three inputs
integer=$here/golden/int/05_s4d_w8a8_gap.safetensors          # two inputs
grep -q __asan_init "$ssm" && checked=yes || checked=no # neither memory nor time is what it is without checks

# ---- Scripts on standard input: exactly this output, these complaints and this status

A=$(printf '0.1\n' | "$ssm" score "$one") B=$(printf '0.1\n0.2\n' | "$ssm" score "$one" | tail -1)
T=$(printf '0.1 0.2 0.3\n' | "$ssm" score "$three")
same "S-02: the numbers that the scripts share" "$A|$B" "-0.421904087 -0.610072076 0.00403547287 0.744612813|-0.421709001 -0.613745451 0.0259914398 0.744603992"
status='"result":{"trained":false,"training_pairs":0,"model_version":0,"last_trained":null,"native_dimensions":4,"feature_dimensions":17}}'
# long TEXT: its shorthands written out, in $text.
long() {
    local error
    text=$1
    text=${text//@M/@R\"id\":1,\"method\":}
    text=${text//@R/\{\"jsonrpc\":\"2.0\",}
    text=${text//@P/\"params\":\{\"context_embedding\":[1,0,0,0],\"candidate_ids\":[\"a\"],}
    text=${text//@C/\"params\":\{\"context_embedding\":[1,0,0,0],}
    text=${text//@I/\{\"jsonrpc\":\"2.0\",\"id\":}
    text=${text//@S/$status}
    while [[ $text =~ @E(-[0-9]+)\ ([^@]*)@ ]]; do
        error='"error":{"code":'${BASH_REMATCH[1]}',"message":"'${BASH_REMATCH[2]}'"}}'
        text=${text/"${BASH_REMATCH[0]}"/"$error"}
    done
    text=${text//@a/[${A// /,}]}
    text=${text//@b/[${B// /,}]}
    text=${text//@t/[${T// /,}]}
    text=${text//@A/$A}
    text=${text//@B/$B}
    text=${text//@T/$T}
}
# scripts NAME TABLE COMMAND...: every row of a table.
scripts() {
    local name=$1 table=$2 in want out err line all=0 before=$failed
    shift 2
    while IFS='|' read -r in want out err; do
        all=$((all + 1))
        long "$in"
        printf '%b' "$text" | timeout 20 "$@" >got.out 2>got.err
        line=${PIPESTATUS[1]}
        long "$out"
        same "$name: $in" "$line|$(sed ':a;N;$!ba;s/\n/\\n/g' got.out)|$(sed 's/^ssm score: //' got.err | sed ':a;N;$!ba;s/\n/\\n/g')" "$want|$text|$err"
    done < <(sed -n "/^##$table\$/,/^##/p" "$here/hostile_scripts.txt" | grep -v '^##')
    scripts=$((scripts + all)) right=$((right + all - failed + before))
}
scripts=0 right=0
scripts "S-01 S-02 S-05 S-07 F-02 F-03 text" one "$ssm" score "$one"
scripts "S-02 S-05 three numbers" three "$ssm" score "$three"
scripts "S-02 S-05 JSON records" json "$ssm" score "$one"
scripts "S-06 JSON-RPC" rpc "$ssm" serve --native-dim 4
printf 'counted: hostile stdin scripts %d of %d right\n' $right $scripts

# ---- Model files, one in three of those that load() is tried on, through the program

mkdir models
SSM_HOSTILE_MODELS=$PWD/models "$test" --test-case='*hostile model files*' >test.out 2>&1 || no "F-06: hostile models are written" "$(tail -5 test.out)"
models=0 before=$failed
for want in models/*[147].want; do
    name=${want%.want} said=$(cat "$want")
    "$ssm" score "$name.st" >got.out 2>got.err </dev/null
    status=$?
    line=$(cat got.err)
    if [ "$said" == ok ]; then same "F-03 F-06: $name" "$status $line$(cat got.out)" "0 "
    else
        pattern="ssm score: $name.st: ${said#* }"
        [[ $said == *'*' ]] && line=${line:0:$((${#pattern} - 1))} pattern=${pattern%?}
        [ ! -s "$name.st" ] && pattern="ssm score: $name.st: is empty, expected a safetensors file"
        same "F-02 F-03 F-06: $name" "$status|$line|$(cat got.out)|$(wc -l <got.err)" "3|$pattern||1"
        [ ${#line} -le 399 ] && ok || no "F-02: $name: a line of at most 400 bytes"
    fi
    models=$((models + 1))
done
[ $models -gt 150 ] && ok || no "F-06: hostile models through the program" "  got: $models"
printf 'counted: hostile model files through the program %d of %d right\n' $((models - failed + before)) $models

# ---- State files cut short and with a bit turned, of either engine (all prefixes and bits: states.cpp)

# state NAME MODEL RECORDS
state() {
    local n bytes bad=0 all=0 flip
    printf '%s\n' "$3" | "$ssm" score "$2" --save-state good >/dev/null
    bytes=$(wc -c <good)
    for ((n = 0; n < bytes; n += bytes > 300 ? 7 : 2)); do
        head -c $n good >part
        "$ssm" score "$2" --load-state part </dev/null >got.out 2>got.err
        [ "$? $(wc -l <got.err) $(wc -c <got.out)" == "3 1 0" ] && bad=$((bad + 1))
        flip=$(($(od -An -tu1 -j$n -N1 good) ^ (1 << n % 8)))
        { head -c $n good; printf "\\x$(printf %02x $flip)"; tail -c +$((n + 2)) good; } >part
        "$ssm" score "$2" --load-state part </dev/null >got.out 2>got.err
        [ "$? $(wc -l <got.err) $(wc -c <got.out)" == "3 1 0" ] && bad=$((bad + 1))
        all=$((all + 2))
    done
    same "P-04 F-03: $1: damaged state files" "$bad" "$all"
    printf 'counted: damaged state files of %s through the program %d of %d refused\n' "$1" $bad $all
}
state floats "$one" 0.1
state integers "$integer" '0.1 0.2'

# ---- Descriptors

printf '0.1\n0.2\n' >in
same "S-09: a byte at a time, three numbers" "$(printf '0.1 0.2 0.3\n' | dd ibs=1 obs=1 status=none | "$ssm" score "$three")" "$T"
"$ssm" score "$one" </dev/null >got.out 2>got.err
same "S-07 S-09: a device that is empty" "$?$(cat got.out got.err)" "0"
head -c 100000 /dev/zero | "$ssm" score "$one" >got.out 2>got.err
same "S-05 S-09: zeros" "$? $(wc -c <got.out) $(wc -l <got.err)" "1 0 1"
for how in '>&-' '>/dev/full'; do
    eval "\"$ssm\" score \"$one\" --save-state kept <in $how" 2>got.err
    same "S-08: the state is saved though the output fails, $how" "$? $(wc -l <got.err) $(printf '0.1\n' | "$ssm" score "$one" --load-state kept 2>&1 | wc -l)" "4 1 1"
    rm -f kept
done
{ yes 0.1 2>/dev/null | timeout 20 "$ssm" score "$one" 2>got.err; echo "${PIPESTATUS[1]}" >status; } | head -1 >/dev/null
same "S-08: a reader that leaves an endless stream" "$(cat status) $(wc -c <got.err)" "4 0"
{ yes '{"x":[0.1]}' 2>/dev/null | timeout 20 "$ssm" score "$one" 2>got.err; echo "${PIPESTATUS[1]}" >status; } | head -1 >/dev/null
same "S-08: a reader that leaves, JSON" "$(cat status) $(wc -c <got.err)" "4 0"

# ---- Signals: within two seconds, whatever the program waits for

# stops NAME SIGNAL WANT-STATUS COMMAND...: standard input stays open.
stops() {
    local name=$1 signal=$2 want=$3 pid from took
    shift 3
    rm -f fifo; mkfifo fifo
    "$@" <fifo >got.out 2>got.err &
    pid=$!
    exec 9>fifo
    sleep 0.2
    from=$(date +%s%N)
    kill -"$signal" $pid
    wait $pid
    same "S-10: $name, SIG$signal" "$?" "$want"
    took=$((($(date +%s%N) - from) / 1000000))
    [ $took -lt 2000 ] && ok || no "S-10: $name, SIG$signal: within 2 s" "  got: $took ms"
    exec 9>&-
}
for signal in TERM INT; do
    stops "score waits for a record" $signal 0 "$ssm" score "$one"
    stops "serve waits for a request" $signal 0 "$ssm" serve
    stops "score saves its state" $signal 0 "$ssm" score "$one" --save-state kept.$signal
    "$ssm" score "$one" --load-state kept.$signal </dev/null >got.out 2>&1
    same "S-10 P-05: what SIG$signal leaves is a state" "$?" 0
done
# In the midst of work on an endless input.
yes 0.1 2>/dev/null | { "$ssm" score "$one" >/dev/null 2>&1 & echo $! >pid; wait $!; echo $? >status; } &
sleep 0.3
from=$(date +%s%N)
kill -TERM "$(cat pid)"
wait
took=$((($(date +%s%N) - from) / 1000000))
[ $took -lt 2000 ] && ok || no "S-10: score at work: within 2 s" "  got: $took ms"

# ---- Long streams: memory after 1,000 and after 1,000,000 records, time of bad lines beside good ones

# resident NAME RECORD LAST COMMAND...: its memory, in kB, after that many records. LAST is one whose answer holds "end".
resident() {
    local name=$1 record=$2 end=$3 pid first last
    shift 3
    rm -f fifo
    mkfifo fifo
    : >answers
    "$@" <fifo >>answers 2>/dev/null &
    pid=$!
    exec 9>fifo
    after() { # N: kB when N records more were answered
        { yes "$record" 2>/dev/null | head -"$1"; printf '%s\n' "$end"; } >&9
        for ((i = 0; i < 600; ++i)); do [[ $(tail -c 200 answers) == *'"end"'* ]] && break; sleep 0.1; done
        sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$pid/status"
        : >answers
    }
    first=$(after 1000)
    last=$(after 999000)
    exec 9>&-
    wait
    # 1 %, and the buffers of input and output, of 64 KiB each, that a thousand records do not fill.
    if [ -n "$first" ] && [ -n "$last" ] && [ $((last * 100)) -le $((first * 101 + 12800)) ]; then ok
    else no "S-11: $name: memory after a million records" "  got:  $last kB, after a thousand $first kB"; fi
    printf 'counted: memory of %s after 1,000 and 1,000,000 records %s and %s kB\n' "$name" "$first" "$last"
}
# slow NAME BAD GOOD COMMAND...: 20,000 bad lines in at most ten times the time of the processor that good ones take.
slow() {
    local name=$1 bad=$2 good=$3 fast TIMEFORMAT='%U %S'
    shift 3
    yes "$bad" 2>/dev/null | head -20000 >bad.in
    yes "$good" 2>/dev/null | head -20000 >good.in
    spent() { { time "$@" >/dev/null 2>&1; } 2>&1 | awk '{ print int(1000 * ($1 + $2)) }'; }
    fast=$(spent "$@" <good.in) slow=$(spent "$@" <bad.in)
    [ "$slow" -le $((10 * fast + 50)) ] && ok || no "S-12: $name: 20,000 bad lines" "  got:  $slow ms, good ones $fast ms"
}
same "S-11 S-12: what these lines are to the program" "$(printf '0.1\nx\n{"x":[}\n' | "$ssm" score "$one" 2>&1 | grep -c -e '^-0' -e 'got "x"' -e 'malformed')" 3
slow "text" x 0.1 "$ssm" score "$one"
slow "long text" "$(printf 'z%.0s' {1..500})" 0.1 "$ssm" score "$one"
slow "JSON" '{"x":[}' '{"x":[0.1]}' "$ssm" score "$one"
slow "requests" '{"jsonrpc":"2.0","id":[' '{"jsonrpc":"2.0","id":1,"method":"status"}' "$ssm" serve
if [ $checked == no ]; then
    resident "score" 0.1 '{"reset":true,"id":"end"}' "$ssm" score "$one"
    resident "serve" '{"jsonrpc":"2.0","id":1,"method":"train_from_db"}' '{"jsonrpc":"2.0","id":"end","method":"status"}' "$ssm" serve
fi

printf 'hostile.sh: %d passed, %d failed\n' $passed $failed
[ $failed == 0 ]
