#!/usr/bin/env bash
# cli.sh - the program from outside: each verb, each exit status, pipes, hostile input.
# SPDX-License-Identifier: MIT
#
# Usage: tests/cli.sh PATH/TO/ssm. Needs bash and coreutils; failing system calls are tested too where strace is there.

source "$(dirname "$0")/expect.sh"
golden=$here/golden/s4d
one=$golden/01_zoh_h8_n4.safetensors                 # one input, four outputs, mean pooling
three=$golden/03_postnorm_mean_h16_n8_l2.safetensors # three inputs
clip=$golden/08_clip50_h16_n8.safetensors
# check NAME STATUS STDOUT STDERR COMMAND...: all three exactly; standard input is the caller's.
check() {
    local name=$1 status=$2 out=$3 err=$4
    shift 4
    "$@" >got.out 2>got.err
    same "$name" "$? $(cat got.out)|$(cat got.err)" "$status $out|$err"
}

# ---- Usage

"$ssm" >got.out 2>got.err; same "no verb" "$? $(head -c 10 got.err) $(wc -c <got.out)" "2 usage: ssm 0"
"$ssm" help >got.out 2>got.err; same "help" "$? $(head -c 10 got.out) $(wc -c <got.err)" "0 usage: ssm 0"
check "version" 0 "ssm 0.1.0" "" "$ssm" version
check "--version" 0 "ssm 0.1.0" "" "$ssm" --version
for verb in inspect info score selftest eval bench; do
    "$ssm" $verb --help >got.out 2>got.err
    same "$verb --help" "$? $(head -c $((11 + ${#verb})) got.out) $(wc -c <got.err)" "0 usage: ssm $verb 0"
    "$ssm" help $verb >got2.out 2>&1
    same "help $verb" "$(cat got2.out)" "$(cat got.out)"
    like "$verb without a file" 2 "ssm $verb: expected *, got 0; see ssm $verb --help" "$ssm" $verb
    like "$verb with an unknown option" 2 "ssm $verb: unknown option \"--no-such\"; see ssm $verb --help" "$ssm" $verb --no-such "$one"
    like "F-03: $verb with a missing file" 4 "ssm $verb: missing: No such file or directory" "$ssm" $verb missing $([ $verb == eval ] && echo .)
done
like "F-03: unknown verb" 2 'ssm: unknown verb "frobnicate"; see ssm help' "$ssm" frobnicate
like "verb with control characters" 2 'ssm: unknown verb "\\x1b\[31m\\x0a"; see ssm help' "$ssm" $'\x1b[31m\n'
like "too many operands" 2 'ssm score: unexpected operand "extra"; see ssm score --help' "$ssm" score "$one" extra
for verb in score selftest bench; do
    like "$verb --cuda in a build without it" 2 "ssm $verb: --cuda: built without ssm_cuda.cu; \`make cuda\` builds with it" "$ssm" $verb --cuda "$one"
done
like "bench --cuda --isa" 2 'ssm bench: --cuda does not go with --isa; see ssm bench --help' "$ssm" bench --cuda --isa scalar "$one"
like "value missing" 2 'ssm score: --isa needs a value' "$ssm" score "$one" --isa
like "value not wanted" 2 'ssm score: --f32 takes no value' "$ssm" score "$one" --f32=1
like "back-end unknown" 2 'ssm score: --isa: got "mmx", expected one of best, scalar*' "$ssm" score "$one" --isa mmx
like "rate not a number" 2 'ssm score: --s16: got "fast", expected a whole number from 1 to 1000000000' "$ssm" score "$one" --s16 fast
like "rate 0" 2 'ssm score: --s16: got "0", *' "$ssm" score "$one" --s16 0
like "two formats" 2 'ssm score: expected at most one of *' "$ssm" score "$one" --f32 --u8
like "last without frames" 2 'ssm score: --last needs one of *' "$ssm" score "$one" --last
check "options in front, --" 0 "" "" "$ssm" score --isa=scalar -- "$one" </dev/null

# ---- inspect, info and bad files

# container FILE HEADER [DATA]: a safetensors file; header and data as printf takes them.
container() {
    printf '%b' "$2" >header
    local n
    n=$(wc -c <header)
    { printf "\\x$(printf %02x $((n % 256)))\\x$(printf %02x $((n / 256)))\\0\\0\\0\\0\\0\\0"; cat header; printf '%b' "${3:-}"; } >"$1"
}
container empty.st '{}'
check "inspect {}" 0 "" "" "$ssm" inspect empty.st
container small.st '{"__metadata__":{"k":"v w","a":"1"},"b c":{"dtype":"U8","shape":[],"data_offsets":[4,5]},"a":{"dtype":"F16","shape":[ 2 , 1 ],"data_offsets":[0,4]}}' '12345'
check "inspect order and form" 0 $'# a: 1\n# k: v w\na F16 [2,1] 4\nb\\x20c U8 [] 1' "" "$ssm" inspect small.st
container escapes.st '{"x\\u001b[2J\\u202e\\n\\"":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
check "inspect escapes" 0 'x\x1b[2J\u{202e}\x0a\x22 U8 [0] 0' "" "$ssm" inspect escapes.st
container forged.st '{"evil\\u001b]0;x\\u0007":{"dtype":"U9","shape":[0],"data_offsets":[0,0]}}'
like "F-02: escaped name in an error" 3 'ssm inspect: forged.st: tensor "evil\\u001b]0;x\\u0007": *' "$ssm" inspect forged.st
container long.st "{\"$(printf 'n%.0s' {1..500})\":{\"dtype\":\"U9\",\"shape\":[0],\"data_offsets\":[0,0]}}"
like "F-02: long name in an error" 3 'ssm inspect: long.st: tensor "nnnnnnnnnnnn*n...": *' "$ssm" inspect long.st
: >nothing.st
head -c 7 "$one" >seven.st
head -c 1000 "$one" >cut.st
{ cat "$one"; printf x; } >more.st
mkdir folder
for verb in inspect info score selftest bench; do
    like "F-03 F-09: $verb: empty file" 3 "ssm $verb: nothing.st: is empty, expected a safetensors file" "$ssm" $verb nothing.st
    like "F-03 F-09: $verb: a folder" 4 "ssm $verb: folder: is a directory, expected a file" "$ssm" $verb folder
    like "F-09: $verb: a device" 4 "ssm $verb: /dev/null: is not a regular file" "$ssm" $verb /dev/null
    like "$verb: 7 bytes" 3 "ssm $verb: seven.st: shorter than the 8 bytes * begins with: expected 8, got 7" "$ssm" $verb seven.st
    like "$verb: cut short" 3 "ssm $verb: cut.st: *: expected *, got *" "$ssm" $verb cut.st
    like "$verb: bytes added" 3 "ssm $verb: more.st: *" "$ssm" $verb more.st
done
like "info: not a model" 3 'ssm info: small.st: *not a model this build knows*' "$ssm" info small.st
"$ssm" info "$one" >got.out 2>got.err
same "info" "$? $(grep -c -e '^parameters: 292$' -e '^d_model: 8$' -e '^state bytes: 176$' -e '^fingerprint: [0-9a-f]*$' got.out) $(wc -c <got.err)" "0 4 0"
same "info --isa" "$("$ssm" info --isa scalar "$one" | grep '^back-end:')" "back-end: scalar"

# ---- made-up models
TMPDIR=$PWD "$ssm" bench --seconds 0.2 --isa scalar --config mamba3,d_model=16,n_layer=1,d_state=8,headdim=8,mimo_rank=2 >got.out 2>got.err
same "bench --config" "$? $(grep -c -e '^back-end scalar' -e '  step  ' -e 'recurrence, a step' got.out) $(wc -c <got.err) $(ls | grep -c ssm-bench)" "0 3 0 0"
"$ssm" bench --config mamba3,d_model=17,headdim=16 >got.out 2>got.err
same "bench --config: impossible" "$? $(cat got.err)" "2 ssm bench: --config: headdim must divide expand * d_model, ngroups the number of heads"
"$ssm" bench --seconds 0.05 --train mamba3,d_model=16,n_layer=1,d_state=8,headdim=16 >got.out 2>got.err
same "bench --train" "$? $(grep -c -e 'forward and backward, batch 1' got.out) $(wc -c <got.err)" "0 1 0"
"$ssm" bench --train mamba1 >got.out 2>got.err
same "bench --train: another architecture" "$? $(cat got.err)" "2 ssm bench: --train: only mamba3 is trained here"
"$ssm" bench --train mamba3 --json >got.out 2>got.err
same "bench --train: with --json" "$? $(cat got.err)" "2 ssm bench: --train goes with --seconds only; see ssm bench --help"
"$ssm" bench --config mamba3,colour=3 >got.out 2>got.err
same "bench --config: unknown key" "$? $(cat got.err)" '2 ssm bench: --config: "colour=3": not a known key with a value of its kind'

# ---- models of tokens
tokens=$golden/../mamba/m1_lm2_d32_hfnames.safetensors
printf '1\n? 2\n5\n' | "$ssm" score "$tokens" >got.out 2>got.err
same "score: tokens" "$? $(wc -l <got.out) $(head -1 got.out | wc -w) $(wc -c <got.err)" "0 3 40 0"
printf '\001\005' | "$ssm" score --u8 "$tokens" >got.bytes
same "score: token bytes" "$? $(cat got.bytes)" "0 $(sed -n '1p;3p' got.out)"
printf '{"x":[1]}\n{"candidates":[[2],[5]]}\n' | "$ssm" score "$tokens" | tr -d '{}[]"ys:' | tr ',' ' ' | head -1 >got.json
same "score: token JSON" "$(cat got.json | wc -w)" "40"
printf '40\n0.5\n-1\n1 2\n' | "$ssm" score "$tokens" >got.out 2>got.err
same "score: not tokens" "$? $(wc -c <got.out) $(cat got.err)" '1 0 ssm score: line 1: field 1: "40" is no token, expected an integer below 40
ssm score: line 2: field 1: "0.5" is no token, expected an integer below 40
ssm score: line 3: field 1: "-1" is no token, expected an integer below 40
ssm score: line 4: expected 1 number, got 2'
"$ssm" score --f32 "$tokens" </dev/null >got.out 2>got.err
same "score: raw floats for tokens" "$? $(cat got.err)" "2 ssm score: a model of tokens takes lines or --u8"

# ---- selftest and bench

"$ssm" selftest "$golden"/0*.safetensors >got.out 2>got.err
files=$(ls "$golden"/0*.safetensors | wc -l) ends=$("$ssm" info "$one" | grep -c '^') # ends: replaced below
ends=$("$ssm" info "$one" | grep '^back-ends of this CPU:' | tr ',' '\n' | wc -l)
same "selftest" "$? $(grep -c ' ok err=' got.out) $(wc -l <got.out) $(wc -c <got.err)" "0 $((files * ends)) $((files * ends)) 0"
same "selftest digest" "$("$ssm" selftest --isa scalar "$one" | cut -d' ' -f2,3,6)" "scalar ok digest=4cb1d88fe1feb1cb"
header=$(head -c $(($(od -An -tu4 -N4 "$one") + 8)) "$one" | tail -c +9)
[[ $header =~ '"test.output":{'[^}]*'"data_offsets":['([0-9]*) || $header =~ '"test.output": {'[^}]*'"data_offsets": ['([0-9]*) ]]
cp "$one" wrong.st && chmod u+w wrong.st
printf '\x40' | dd of=wrong.st bs=1 seek=$((8 + $(od -An -tu4 -N4 "$one") + BASH_REMATCH[1] + 7)) conv=notrunc status=none
"$ssm" selftest wrong.st >got.out 2>got.err
same "selftest fails" "$? $(grep -c ' FAIL err=' got.out) $(wc -c <got.err)" "1 $ends 0"
like "selftest: not golden" 3 'ssm selftest: small.st: metadata "format": got "", expected s4d-golden-1 or ssm-int, or a tensor "golden.f32_err_output"' "$ssm" selftest small.st
"$ssm" bench --seconds 0.2 --json "$one" >got.out 2>got.err
same "bench --json" "$? $(head -c 11 got.out) $(tail -c 3 got.out) $(wc -l <got.out) $(wc -c <got.err)" '0 {"version": ]} 1 0'
"$ssm" bench --seconds 0.2 --json --config mamba3,d_model=16,n_layer=1,d_state=4,headdim=8,weights=i4 >got.out 2>got.err
same "bench --config, of integers" "$? $(head -c 11 got.out) $(grep -c 'int4 in_proj' got.out) $(wc -c <got.err)" '0 {"version": 1 0'
"$ssm" bench --seconds 0.2 --json "$here/golden/int/02_s4d_w4a8_h32.safetensors" >got.out 2>got.err
same "bench, an integer model" "$? $(head -c 11 got.out) $(grep -c 'int4 mix' got.out) $(wc -c <got.err)" '0 {"version": 1 0'
same "info, an integer model" "$("$ssm" info "$here/golden/int/02_s4d_w4a8_h32.safetensors" | grep -E '^(engine|state clip|bytes beside F32|time steps)')" 'engine: integer
time steps other than 1: no
state clip: 50
bytes beside F32: 0.485'
"$ssm" bench --seconds 0.2 --isa scalar "$one" >got.out 2>got.err
same "bench" "$? $(grep -c -e '^back-end scalar' -e '  step  ' -e 'roofline' got.out)" "0 3"
"$ssm" bench --seconds 0.2 --isa scalar --threads 2 --batch 3,5 "$one" >got.out 2>got.err
same "bench --threads --batch" "$? $(grep -cE '^  (step|step, cold|3 candidates|5 candidates|64 streams|prefill 64 steps)(, 2 threads)?  ' got.out) $(grep -c candidates got.out)" "0 12 4"
for batch in 0 1, ,1 1x 65537 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17; do
    like "bench --batch $batch" 2 "ssm bench: --batch: got \"$batch\", expected up to 16 numbers*" "$ssm" bench --batch $batch "$one"
done
TMPDIR=$PWD "$ssm" bench --seconds 0.1 --isa scalar --threads 1 --config s4d,d_model=4,d_state=4,n_layer=1 --save saved.st >got.out 2>got.err
same "bench --save" "$? $(wc -c <got.err) $("$ssm" info saved.st | grep '^d_model') $(ls | grep -c ssm-bench)" "0 0 d_model: 4 0"
like "bench --save without --config" 2 'ssm bench: --save goes with --config; see *' "$ssm" bench --save x "$one"

# run NAME NS: a run of one measurement whose times are all NS.
run_of() { printf '{"cpu":"c","model":"%s","back_ends":[{"name":"scalar","machine":{"x":[1,{}]},"runs":[{"name":"step","ns":1,"quantiles_ns":[%s]}%s]}]}\n' "$1" "$(for i in {1..20}; do printf '%s,' "$2"; done)$2" "${3:-}"; }
{ run_of a 100; run_of a 200; } >a.json
{ run_of b 150; run_of b 500; run_of b 1; } >b.json
same "bench --compare: runs in pairs" "$("$ssm" bench --compare a.json b.json | tail -1 | tr -s ' ')" " scalar: step 2 100 150 1.500 1.500 1.500 2.500"
run_of b 100 ',{"name":"more","quantiles_ns":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}' >b.json
same "bench --compare: in one only" "$("$ssm" bench --compare a.json b.json | tail -1)" "  scalar: more: only in B"
"$ssm" bench --seconds 0.2 --json --isa scalar "$one" >got.json
"$ssm" bench --compare got.json got.json >got.out 2>got.err
same "bench --compare with itself" "$? $(wc -c <got.err) $(grep -c ' 1.000 *1.000 *1.000 *1.000$' got.out) $(grep -c scalar: got.out)" "0 0 $(tr '{' '\n' <got.json | grep -c quantiles) $(tr '{' '\n' <got.json | grep -c quantiles)"
like "bench --compare: one file" 2 'ssm bench: --compare goes with two files only; see *' "$ssm" bench --compare a.json
like "bench --compare: and a model" 2 'ssm bench: --compare goes with two files only; see *' "$ssm" bench --compare a.json b.json --config s4d
like "bench --compare: missing" 4 'ssm bench: none.json: No such file or directory' "$ssm" bench --compare a.json none.json
like "bench --compare: empty" 3 'ssm bench: empty.json: no measurements in it' "$ssm" bench --compare a.json $(: >empty.json; echo empty.json)
for bad in '[1]' '{"back_ends":[]}' '{"back_ends":[{"name":"s","runs":[{"name":"x","quantiles_ns":[1]}]}]}' 'step 5' "$(run_of a -1)" "$(run_of a '"x"')" "$(run_of a 1)}" "$(run_of a 1 | head -c 150)"; do
    { run_of a 1; echo "$bad"; } >bad.json
    like "bench --compare: ${bad:0:40}" 3 'ssm bench: bad.json: line 2: *' "$ssm" bench --compare a.json bad.json
done

# ---- eval

# A classifier: the model above with task = classify in its metadata, in the place of "init".
text=$(tail -c +9 "$one" | head -c "$(od -An -tu4 -N4 "$one")")
pattern='"init": "lin"'
[[ $text == *'"init":"lin"'* ]] && pattern='"init":"lin"'
retask() { # FILE VALUE: a copy of the model whose metadata has "task": VALUE, and spaces taken from the padding or added
    local changed=${text/"$pattern"/"\"task\":\"$2\""} n
    n=${#changed}
    { printf "\\x$(printf %02x $((n % 256)))\\x$(printf %02x $((n / 256)))\\0\\0\\0\\0\\0\\0"; printf %s "$changed"; tail -c +$((9 + ${#text})) "$one"; } >"$1"
}
retask classify.st classify
mkdir images
printf '\0\0\x08\x03\0\0\0\x03\0\0\0\x02\0\0\0\x02\x00\x40\x80\xff\x01\x02\x03\x04\xff\xff\xff\xff' >images/test-images.idx3
printf '\0\0\x08\x01\0\0\0\x03\x03\x03\x00' >images/test-labels.idx1
"$ssm" eval classify.st images >got.out 2>got.err
same "eval classify" "$? $(cut -d: -f1 got.out | tr '\n' ' ')$(grep -e accuracy -e count got.out | tr '\n' ' ')$(cat got.err)" "0 accuracy loss count bytes accuracy: 66.67 count: 3 "
same "eval in one thread" "$("$ssm" eval classify.st images --threads 1 --isa scalar)" "$(cat got.out)"
like "eval: no task" 3 'ssm eval: *: metadata "task": missing, expected classify, sound, next or relevance' "$ssm" eval "$one" images
retask odd.st juggle
like "eval: another task" 3 'ssm eval: odd.st: metadata "task": got "juggle", expected classify, sound, next or relevance' "$ssm" eval odd.st images
like "eval: no data" 4 'ssm eval: folder/test-images.idx3.gz: No such file or directory' "$ssm" eval classify.st folder
like "eval: --track without histories" 2 'ssm eval: --track and --ranks are for *' "$ssm" eval classify.st images --track next
cp images/test-labels.idx1 folder; printf '\0\0\x08\x03\0\0\0\x03\0\0\0\x02\0\0\0\x02\x00' >folder/test-images.idx3
like "eval: images cut short" 4 'ssm eval: folder/test-images.idx3: expected 12 bytes of data, got 1' "$ssm" eval classify.st folder
cp images/* folder; printf '\0\0\x08\x01\0\0\0\x03\x03\x03\x09' >folder/test-labels.idx1
like "eval: a label too large" 3 'ssm eval: classify.st: d_output is 4, but the data has label 9' "$ssm" eval classify.st folder
printf '\x1f\x8bgarbage' >folder/test-images.idx3
like "eval: bad gzip" 4 'ssm eval: folder/test-images.idx3: *' "$ssm" eval classify.st folder

# ---- score: good records

score() { "$ssm" score "$one" "$@"; }
printf '0.1\n0.2\n' | score >good
first=$(head -1 good) second=$(tail -1 good)
same "score: values" "$first" "-0.421904087 -0.610072076 0.00403547287 0.744612813"
check "S-07: empty input" 0 "" "" score </dev/null
printf '0.1\n0.2' >in; check "S-01: no newline at the end" 0 "$(cat good)" "" score <in
printf '0.1\r\n0.2\r\n' >in; check "S-01: CR LF" 0 "$(cat good)" "" score <in
printf '0.1\r\n0.2\r' >in; check "CR at the end" 0 "$(cat good)" "" score <in
printf '\n  \n\t\r\n# comment, {"x":[9]}\n  # more\n 0.1 \n\n\t0.2\t\n' >in; check "S-01: blank lines, comments, blanks around" 0 "$(cat good)" "" score <in
printf '+ 0.1\n0.2\n' >in; check "advance" 0 "$second" "" score <in
printf '+\t1e-1\n.2\n' >in; check "other spellings of numbers" 0 "$second" "" score <in
printf '+0.1\n+.2\n' >in; check "a sign is not an advance" 0 "$(cat good)" "" score <in
printf '?0.1\n? 0.1\n?\t0.1\n0.1\n?0.2\n0.2\n' >in; check "candidates" 0 "$first"$'\n'"$first"$'\n'"$first"$'\n'"$first"$'\n'"$second"$'\n'"$second" "" score <in
printf '+ 5\n!\n0.1\n  !  \n0.1\n' >in; check "reset" 0 "$first"$'\n'"$first" "" score <in
printf 'dt=1 0.1\ndt=1, 0.2\n' >in; check "dt 1 is no dt" 0 "$(cat good)" "" score <in
printf '0.1\ndt=2.5 0.2\n' | score | tail -1 >timed
same "dt changes the answer" "$([ "$(cat timed)" != "$second" ] && echo yes)" yes
printf '+ dt=1.0 0.1\n? dt=2.5 0.2\ndt=2.5,0.2\n' >in; check "dt behind + and ?" 0 "$(cat timed)"$'\n'"$(cat timed)" "" score <in
printf '1e-999\n' | score >a; printf '0\n' | score >b; same "S-05: 1e-999 is 0" "$(cat a)" "$(cat b)"
printf '1e9\n-1000000000\n' >in; score <in >got.out 2>got.err; same "largest input" "$? $(wc -l <got.out)" "0 2"
printf '0.1 0.2 0.3\n0.1,0.2,0.3\n0.1, 0.2\t,\t0.3\n0.1\t0.2  0.3\n' | sed 's/^/?/' >in 2>/dev/null || printf '?0.1 0.2 0.3\n?0.1,0.2,0.3\n' >in
same "separators" "$("$ssm" score "$three" <in | sort -u | wc -l)" 1
yj="{\"y\":[${first// /,}]}" zj="{\"y\":[${second// /,}]}"
printf '{"x":[0.1]}\n { "x" : [ 2e-1 ] } \r\n' >in; check "JSON events" 0 "$yj"$'\n'"$zj" "" score <in
printf '{"advance":[0.1]}\n{"candidate":[0.2]}\n{"dt":2.5,"candidate":[0.2]}\n0.2\n' >in
check "JSON advance, candidate, dt" 0 '{"ok":true}'$'\n'"$zj"$'\n'"{\"y\":[$(tr ' ' , <timed)]}"$'\n'"$second" "" score <in
printf '5\n{"reset":true,"id":"r"}\n0.1\n' >in; score <in 2>&1 | tail -2 >got.out; same "JSON reset" "$(cat got.out)" '{"id":"r","ok":true}'$'\n'"$first"
printf '{"candidates":[]}\n{"candidates":[[0.1]],"id":1.50e+3}\n' >in
check "JSON candidates, id unchanged" 0 '{"ys":[]}'$'\n'"{\"id\":1.50e+3,\"ys\":[[${first// /,}]]}" "" score <in
printf '{"id":"a\\u00e9\\ud83d\\ude00\\"\\\\\\/\\n\\u0000","x":[0.1]}\n{"id":null,"x":[0.2]}\n' >in
check "JSON string id re-escaped" 0 '{"id":"aé😀\"\\/\u000a\u0000",'"${yj:1}"$'\n''{"id":null,'"${zj:1}" "" score <in
printf '{"\\u0078":[0.1]}\n' >in; check "JSON keys compare unescaped" 0 "$yj" "" score <in
{ printf '{"candidates":['; for i in {1..199}; do printf '[0.1],'; done; printf '[0.2]]}\n'; } >in
score <in | tr ']' '\n' | grep -c '0.744612813$' >got.out; same "200 candidates" "$(cat got.out)" 199
for i in {1..130}; do echo "? 0.$i"; done | score | tr ' ' , >a
{ printf '{"candidates":[[0.1]'; for i in {2..130}; do printf ',[0.%s]' $i; done; printf ']}\n'; } | score | tr -d '{}"ys:]' | tr '[' '\n' | grep . >b
same "candidates together or alone" "$(tr -d '\n' <b | tr -d , )" "$(tr -d '\n,' <a)"
for isa in $("$ssm" info "$one" | grep '^back-ends of this CPU:' | cut -d: -f2 | tr -d ,); do
    for i in {1..50}; do echo "dt=$i.5 0.$i"; done | score --isa "$isa" | cksum
done | sort -u | wc -l >got.out
same "same bits on every back-end" "$(cat got.out)" 1

# ---- score: bad records. Each stands between two good ones, which must not notice.

bad() { # LINE (as printf %b takes it) MESSAGE
    printf '0.1\n%b\n0.2\n' "$1" >in
    check "bad record ${1:0:60}" 1 "$(cat good)" "ssm score: line 2: $2" score <in
}
bad '0.1 0.2' 'expected 1 number, got 2'
bad '1\t2\t3' 'expected 1 number, got 3'
bad '+' 'expected 1 number, got 0'
bad '?' 'expected 1 number, got 0'
bad '? dt=2' 'expected 1 number, got 0'
bad 'dt=2' 'expected 1 number, got 0'
bad '0.1,' 'field 2 is empty'
bad ',0.1' 'field 1 is empty'
bad '0.1,,0.2' 'field 2 is empty'
bad '0.1 , , 0.2' 'field 2 is empty'
bad ',' 'field 1 is empty'
bad 'dt=2,' 'field 1 is empty'
bad 'dt=2,,1' 'field 1 is empty'
bad 'abc' 'field 1: got "abc", expected a number'
bad 'nan' 'field 1: got "nan", expected a number'
bad 'NaN' 'field 1: got "NaN", expected a number'
bad 'inf' 'field 1: got "inf", expected a number'
bad '-Infinity' 'field 1: got "-Infinity", expected a number'
bad '0x10' 'field 1: got "0x10", expected a number'
bad '0x1p3' 'field 1: got "0x1p3", expected a number'
bad '1e' 'field 1: got "1e", expected a number'
bad '1e+' 'field 1: got "1e+", expected a number'
bad '.' 'field 1: got ".", expected a number'
bad -- 'field 1: got "--", expected a number'
bad '--1' 'field 1: got "--1", expected a number'
bad '1_000' 'field 1: got "1_000", expected a number'
bad '1;2' 'field 1: got "1;2", expected a number'
bad '0.1 junk' 'field 2: got "junk", expected a number'
bad '0.1 # no' 'field 2: got "#", expected a number'
bad '0.1 ? 0.2' 'field 2: got "?", expected a number'
bad '0.1 + 0.2' 'field 2: got "+", expected a number'
bad '0.1!' 'field 1: got "0.1!", expected a number'
bad '??0.1' 'field 1: got "?0.1", expected a number'
bad '1e999' 'field 1: "1e999" is out of range'
bad '-1e39' 'field 1: "-1e39" is out of range'
bad '1000000100' 'field 1: "1000000100" is out of range'
bad '0.1\0000' 'field 1: got "0.1\x00", expected a number'
bad '\0000' 'field 1: got "\x00", expected a number'
bad '\0377\0376' 'field 1: got "\xff\xfe", expected a number'
bad '\0300\0200' 'field 1: got "\xc0\x80", expected a number'
bad '\0357\0273\02770.1' 'field 1: got "\u{feff}0.1", expected a number'
bad '0.1\0302\0205' 'field 1: got "0.1\u{85}", expected a number'
bad '\033[2J' 'field 1: got "\x1b[2J", expected a number'
bad '\0342\0200\0256x' 'field 1: got "\u{202e}x", expected a number'
bad '"0.1"' 'field 1: got "\x220.1\x22", expected a number'
bad '[0.1]' 'field 1: got "[0.1]", expected a number'
bad '0.1\r0.2' 'field 1: got "0.1\x0d0.2", expected a number'
bad '%s%n' 'field 1: got "%s%n", expected a number'
bad "$(printf 'z%.0s' {1..300})" "field 1: got \"$(printf 'z%.0s' {1..37})...\", expected a number"
bad '!!' 'unexpected text after "!"'
bad '! 0.1' 'unexpected text after "!"'
dt='dt: expected a number above 0 and at most 1048576'
for d in 0 -1 nan inf 1e999 1e-999 1048577 '' ' 1' x 2x 0x2; do bad "dt=$d 0.1" "$dt"; done
bad 'dt=2dt=2 0.1' "$dt"
bad 'dt=2 dt=2 0.1' 'field 1: got "dt=2", expected a number'
bad 'dt2 0.1' 'field 1: got "dt2", expected a number'
bad 'DT=2 0.1' 'field 1: got "DT=2", expected a number'
bad '! dt=2' 'unexpected text after "!"'

badjson() { # LINE (as printf %b takes it) MESSAGE [ID]
    printf '0.1\n%b\n0.2\n' "$1" >in
    check "bad JSON ${1:0:60}" 1 "$first"$'\n'"{${3:+\"id\":$3,}\"error\":\"line 2: $2\"}"$'\n'"$second" "" score <in
}
badjson '{"x":[0.1,0.2]}' '\"x\": expected 1 number, got 2'
badjson '{"x":[]}' '\"x\": expected 1 number, got 0'
badjson '{"x":0.1}' '\"x\": expected an array'
badjson '{"x":"0.1"}' '\"x\": expected an array'
badjson '{"x":null}' '\"x\": expected an array'
badjson '{"x":{"a":[1]}}' '\"x\": expected an array'
badjson '{"x":["0.1"]}' '\"x\": element 1: expected a number'
badjson '{"x":[[0.1]]}' '\"x\": element 1: expected a number'
badjson '{"x":[null]}' '\"x\": element 1: expected a number'
badjson '{"x":[true]}' '\"x\": element 1: expected a number'
badjson '{"x":[1e999],"id":5}' '\"x\": element 1: \"1e999\" is out of range' 5
badjson '{"id":"q","x":[1e10]}' '\"x\": element 1: \"1e10\" is out of range' '"q"'
badjson '{"candidate":[1,2],"id":-0.0}' '\"candidate\": expected 1 number, got 2' -0.0
badjson '{"candidates":[0.1]}' '\"candidates\": candidate 1: expected an array'
badjson '{"candidates":[[0.1],[0.1,0.2]]}' '\"candidates\": candidate 2: expected 1 number, got 2'
badjson '{"candidates":[[0.1],[true]]}' '\"candidates\": candidate 2: element 1: expected a number'
badjson '{"candidates":{}}' '\"candidates\": expected an array'
badjson '{}' 'expected one of \"x\", \"advance\", \"candidate\", \"candidates\", \"reset\"'
badjson '{"id":3}' 'expected one of \"x\", \"advance\", \"candidate\", \"candidates\", \"reset\"' 3
badjson '{"reset":false}' '\"reset\": expected true'
badjson '{"reset":1}' '\"reset\": expected true'
badjson '{"reset":true,"dt":2}' '\"dt\" beside \"reset\"'
badjson '{"x":[0.1],"reset":true}' '\"reset\" beside \"x\"'
badjson '{"x":[0.1],"x":[0.1]}' '\"x\" stands twice'
badjson '{"x":[0.1],"\\u0078":[0.1]}' '\"x\" stands twice'
badjson '{"x":[0.1],"dt":1,"dt":1}' '\"dt\" stands twice'
badjson '{"x":[0.1],"id":1,"id":2}' '\"id\" stands twice' 2
badjson '{"x":[0.1],"id":[1]}' '\"id\": expected a number, a string or null' null
badjson '{"x":[0.1],"id":true}' '\"id\": expected a number, a string or null' null
badjson '{"x":[0.1],"dt":0}' "$dt"
badjson '{"x":[0.1],"dt":-1}' "$dt"
badjson '{"x":[0.1],"dt":1e999}' "$dt"
badjson '{"x":[0.1],"dt":"1"}' "$dt"
badjson '{"x":[0.1],"dt":[1]}' "$dt"
badjson '{"y":[0.1]}' 'unknown key \"y\"'
badjson '{"\\u001b[2J\\u202e":1}' 'unknown key \"\\x1b[2J\\u{202e}\"'
# Malformed JSON: whose words they are is the parser's matter; here only that there is one answer and nothing else changes.
for text in '{' '{"x"' '{"x":' '{"x":[' '{"x":[0.1' '{"x":[0.1]' '{"x":[0.1]]' '{"x":[0.1]}}' '{"x":[0.1]} {"x":[0.1]}' '{"x":[0.1]} 0.1' \
    '{"x":[0.1,]}' '{"x":[,0.1]}' '{"x":[0.1],}' '{,}' '{"x":[.1]}' '{"x":[+1]}' '{"x":[01]}' '{"x":[0x1]}' '{"x":[1.]}' '{"x":[NaN]}' \
    '{"x":[Infinity]}' '{"x":[-]}' "{'x':[0.1]}" '{x:[0.1]}' '{"x":[0.1] "id":1}' '{"x" [0.1]}' '{"x":[0.1],"id":"\\ud800"}' \
    '{"x":[0.1],"id":"\\x"}' '{"x":[0.1],"id":"\t"}' '{"x":[0.1],"id":"\0377"}' '{"x":[0.1],"id":"\0000"}' '{"x":[0.1],"id":"' \
    '{"x":[0.1],"a":tru}' '{"x":[0.1]/**/}' '{"x":[0.1]}#' '{}{}' '{"x":[0.1]}\0000' "{\"x\":$(printf '[%.0s' {1..5000})"; do
    printf '0.1\n%b\n0.2\n' "$text" >in
    score <in >got.out 2>got.err
    status=$?
    middle=$(tail -n +2 got.out | head -n -1)
    same "malformed JSON ${text:0:40}" "$status $(head -1 got.out)|${middle:0:34}|$(tail -1 got.out)|$(wc -l <got.out)|$(cat got.err)" \
        "1 $first|{\"error\":\"line 2: malformed JSON: |$second|3|"
done

# ---- score: long lines, pipes, descriptors

pad() { printf "%*s" "$1" ""; }
{ printf 0.1; pad 1048573; printf '\n0.2\n'; } >in; check "S-04: a line at the limit" 0 "$(cat good)" "" score <in
{ printf 0.1; pad 1048573; printf '\r\n0.2\n'; } >in; check "a line at the limit, CR LF" 0 "$(cat good)" "" score <in
{ printf '0.1\n'; pad 1048577; printf '\n0.2\n'; } >in; check "S-04 F-07: one byte past it" 1 "$(cat good)" "ssm score: line 2: longer than 1048576 bytes" score <in
{ printf '0.1\n0.2\n'; pad 1048577; } >in; check "past it, at the end" 1 "$(cat good)" "ssm score: line 3: longer than 1048576 bytes" score <in
{ printf '0.1\n '; printf '{'; pad 2000000; printf '\n0.2\n'; } >in; check "a long JSON line" 1 "$first"$'\n''{"error":"line 2: longer than 1048576 bytes"}'$'\n'"$second" "" score <in
{ printf '0.1\n'; head -c 67108864 /dev/zero | tr '\0' 1; printf '\n0.2\n'; } >in
if (ulimit -v 65536 && "$ssm" version) >/dev/null 2>&1; then limit() { (ulimit -v 65536; score "$@"); }; else limit() { score "$@"; }; fi
check "S-04: a line of 64 MiB in less memory" 1 "$(cat good)" "ssm score: line 2: longer than 1048576 bytes" limit <in
head -c 3000000 /dev/zero >in; check "zeros without a newline" 1 "" "ssm score: line 1: longer than 1048576 bytes" score <in

printf '0.1\n0.2\n' >in
dd if=in ibs=1 obs=1 status=none | score >got.out; same "S-09: one byte at a time" "$(cat got.out)" "$(cat good)"
{ sleep 0.1; printf '0.'; sleep 0.1; printf '1\n'; sleep 0.1; printf '0.2'; } | { dd iflag=nonblock count=0 status=none; score; } >got.out
same "S-09: non-blocking standard input" "$? $(cat got.out)" "0 $(cat good)"
for i in {1..20000}; do echo 0.5; done >many
score <many >want.out
{ dd if=/dev/null oflag=nonblock count=0 status=none; score <many; } | { sleep 0.2; cat; } >got.out
same "S-08: non-blocking standard output" "$(cksum <got.out)" "$(cksum <want.out)"
check "S-09 F-03: standard input closed" 4 "" "ssm score: standard input: Bad file descriptor" score <&-
check "S-09 F-03: standard input a folder" 4 "" "ssm score: standard input: Is a directory" score <folder
score <in >&- 2>got.err; same "S-08 F-03: standard output closed" "$? $(cat got.err)" "4 ssm score: standard output: Bad file descriptor"
score <in >&- 2>&-; same "standard output and error closed" "$?" 4
score <in 2>&- >got.out; same "standard error closed" "$? $(cat got.out)" "0 $(cat good)"
if [ -c /dev/full ]; then
    for args in "score $one" "inspect $one" "info $one" "selftest $one" "help" "version" "score --help"; do
        # shellcheck disable=SC2086
        "$ssm" $args <in >/dev/full 2>got.err
        same "S-08: full disk: ${args%% *}" "$? $(cut -d: -f2- <got.err)" "4  standard output: No space left on device"
    done
fi
{ score <many 2>got.err; echo $? >status; } | head -1 >/dev/null
same "S-08: a reader that leaves" "$(cat status) $(wc -c <got.err)" "4 0"

coproc "$ssm" score "$one" 2>/dev/null
answer="" answer2=""
echo 0.1 >&"${COPROC[1]}"; read -r -t 5 answer <&"${COPROC[0]}"
echo 0.2 >&"${COPROC[1]}"; read -r -t 5 answer2 <&"${COPROC[0]}"
same "S-03: answers come before the next record" "$answer $answer2" "$first $second"
pid=$COPROC_PID; exec {COPROC[1]}>&-; wait "$pid"; same "S-07: end of input" "$?" 0

for i in {1..2000}; do echo 'x y z'; done >in
score <in >got.out 2>got.err; same "2,000 bad lines" "$? $(wc -c <got.out) $(wc -l <got.err)" "1 0 2000"

# ---- score: raw frames

printf '\x00\x00\x00\x40\x00\x80' | score --s16 8000 >a; printf '0\n0.5\n-1\n' | score >b; same "--s16" "$(cat a)" "$(cat b)"
printf '\x00\x00\x00\x40\x00\x80' | score --s16 8000 --last >a; same "--last" "$(cat a)" "$(tail -1 b)"
printf '\x00\x00\x00\x3f\x00\x00\x80\xbf' | score --f32 >a; printf '0.5\n-1\n' | score >b; same "--f32" "$(cat a)" "$(cat b)"
printf '\x00\xff' | score --u8 >a; printf '0\n1\n' | score >b; same "--u8" "$(cat a)" "$(cat b)"
printf '\x00\x00\x00\x3f\x00\x00\xc0\x7f\x00\x00\x80\x7f\x00\x00\x80\xbf' >in
printf '0.5\n-1\n' | score >b
check "--f32 with NaN and infinity" 1 "$(cat b)" $'ssm score: frame 2: value 1 is NaN\nssm score: frame 3: value 1 is out of range' score --f32 <in
printf '\x00\x00\x00\x3f\x00' >in; printf '0.5\n' | score >b
check "--f32 cut short" 1 "$(cat b)" "ssm score: frame 2: expected 4 bytes, got 1" score --f32 <in
printf '\x00\xff\x33\x66\x99\xcc' | "$ssm" score "$three" --u8 | wc -l >a; same "--u8 in threes" "$(cat a)" 2
# A model of sound: frames of d_input samples, the last one filled with silence; its own rate only.
digits=$here/../weights/digits-i8.safetensors
frame=$("$ssm" info "$digits" | sed -n 's/^d_input: //p')
awk -v n=$((3 * frame - 5)) 'BEGIN { for (t = 0; t < n; ++t) { v = (t * t * 37 + t * 1111) % 4001 - 2000; print v } }' >numbers
awk '{ v = $1 < 0 ? $1 + 65536 : $1; printf "\\x%02x\\x%02x", v % 256, int(v / 256) }' numbers >escapes
printf "$(cat escapes)" >sound
awk -v n="$frame" '{ printf "%.9g%s", $1 / 32768, NR % n == 0 ? "\n" : " " } END { for (k = NR; k % n != 0; ++k) printf "0 "; print "" }' numbers >records
"$ssm" score "$digits" <records >a; "$ssm" score "$digits" --s16 8000 <sound >b
same "sound as frames and as numbers" "$(wc -l <a) $(cat b)" "3 $(cat a)"
check "sound, the last scores" 0 "$(tail -1 a)" "" "$ssm" score "$digits" --s16 8000 --last <sound
"$ssm" score "$digits" <records --isa scalar >b; same "sound without SIMD" "$(cat b)" "$(cat a)"
like "sound at another rate" 2 'ssm score: --s16: a model of sound needs its own rate, 8000' "$ssm" score "$digits" --s16 16000
{ echo "dt=2 $(head -1 records)"; head -1 records; } | "$ssm" score "$digits" >got.out 2>got.err
same "sound with a gap" "$? $(cat got.out)|$(wc -l <got.err)" "1 $(head -1 a)|1"
like "sound's options elsewhere" 2 'ssm eval: --split, --speaker, --level, --silence and --noise are for models of sound' "$ssm" eval "$here/../weights/smnist.safetensors" . --level 3
like "a level that is no number" 2 'ssm eval: --level: got "loud", expected a number from -100 to 100' "$ssm" eval "$digits" . --level loud
like "no recordings" 4 'ssm eval: ./test.tsv: No such file or directory' "$ssm" eval "$digits" .
printf 'digit\tspeaker\tindex\toffset\tlength\n3\tanna\t0\t0\t%d\n' $((3 * frame - 5)) >test.tsv; cp sound test.i16
"$ssm" eval "$digits" . >got.out; same "one recording" "$? $(grep -c -e ^accuracy: -e '^accuracy of anna: ' -e '^count: 1$' got.out)" "0 3"
"$ssm" eval "$digits" . --silence 100 --level -6 --noise 20 >got2.out; same "changed" "$? $(grep -c ^loss got2.out) $(cmp -s got.out got2.out; echo $?)" "0 1 1"
like "a speaker who is not there" 4 'ssm eval: --speaker bert: no recording of this speaker' "$ssm" eval "$digits" . --speaker bert
sed -i 's/^3/11/' test.tsv
like "a label beyond the model" 3 'ssm eval: *: d_output is 10, but the data has label 11' "$ssm" eval "$digits" .
head -c 200000 /dev/zero | score --u8 --last >a; same "a frame at a time or many" "$(cat a)" "$(head -c 200000 /dev/zero | dd ibs=777 obs=777 status=none | score --u8 | tail -1)"
check "--u8 without input" 0 "" "" score --u8 --last </dev/null

# ---- score: states

printf '0.1\n' | score --save-state state >got.out; same "save" "$? $(cat got.out) $(wc -c <state) $(ls state*)" "0 $first 228 state"
printf '0.2\n' >in; check "load" 0 "$second" "" score --load-state state <in
printf '!\n0.1\n' >in; check "reset after load" 0 "$first" "" score --load-state state <in
check "load and save" 0 "$second" "" score --load-state state --save-state state --isa scalar < <(printf '0.2\n')
printf '+0.1\n+0.2\n' | score --save-state both >/dev/null; same "states compare" "$(cksum <state)" "$(cksum <both)"
printf 'x\n' | score --load-state state --save-state after 2>/dev/null; same "S-02 N-03: bad records do not move the state" "$(cksum <after)" "$(cksum <state)"
like "state missing" 4 'ssm score: none: No such file or directory' "$ssm" score "$one" --load-state none
like "state a folder" 4 'ssm score: folder: is not a regular file' "$ssm" score "$one" --load-state folder
like "state of another model" 3 'ssm score: other: *' bash -c "'$ssm' score '$clip' --save-state other </dev/null >/dev/null && exec '$ssm' score '$one' --load-state other"
like "state too long" 3 'ssm score: *: longer than the 228 bytes expected' "$ssm" score "$one" --load-state "$one"
like "save to a device" 4 'ssm score: /dev/null: is not a regular file, cannot be saved to' "$ssm" score "$one" --save-state /dev/null
# in_proj of numbers near the largest float: what it gives overflows, and conv keeps it.
"$ssm" bench --seconds 0.1 --isa scalar --threads 1 --config mamba1,d_model=4,d_state=2,n_layer=1,d_input=1,d_output=1 --save huge.st >/dev/null
text=$(tail -c +9 huge.st | head -c "$(od -An -tu4 -N4 huge.st)") place='in_proj.weight":[^}]*"data_offsets":\[([0-9]+),([0-9]+)'
[[ $text =~ $place ]] && head -c $((BASH_REMATCH[2] - BASH_REMATCH[1])) /dev/zero | tr '\0' '\177' |
    dd of=huge.st bs=1 seek=$((8 + ${#text} + BASH_REMATCH[1])) conv=notrunc status=none
check "P-03: a state with NaN is not saved" 3 nan 'ssm score: the state holds NaN or infinity, from a step that overflowed: it is not saved' \
    "$ssm" score huge.st --save-state nan < <(printf '0.1\n')
same "P-03: no file of it" "$(ls nan* 2>/dev/null)" ""
like "save to a missing folder" 4 'ssm score: no/where: cannot create the temporary file beside it: No such file or directory' "$ssm" score "$one" --save-state no/where
good_bytes=0
for ((n = 0; n < 228; n += 3)); do
    head -c $n state >part
    score --load-state part </dev/null >/dev/null 2>&1; [ $? == 3 ] && good_bytes=$((good_bytes + 1))
    byte=$(od -An -tu1 -j$n -N1 state)
    { head -c $n state; printf "\\x$(printf %02x $((byte ^ (1 << n % 8))))"; tail -c +$((n + 2)) state; } >part
    score --load-state part </dev/null >/dev/null 2>&1; [ $? == 3 ] && good_bytes=$((good_bytes + 1))
done
same "P-04: damaged states are refused" $good_bytes 152

for signal in TERM INT; do
    rm -f state fifo got.out; mkfifo fifo
    "$ssm" score "$one" --save-state state <fifo >got.out 2>got.err &
    pid=$!
    exec 9>fifo; echo 0.1 >&9
    for i in {1..50}; do [ -s got.out ] && break; sleep 0.05; done
    # A background job of a script ignores SIGINT from the start; the program catches it all the same.
    kill -$signal $pid; wait $pid
    same "S-10: SIG$signal saves the state" "$? $(cat got.out) $(printf '0.2\n' | score --load-state state)" "0 $first $second"
    exec 9>&-
done

if command -v strace >/dev/null && strace -qq -o /dev/null true 2>/dev/null; then
    printf '0.1\n' | score --save-state old >/dev/null
    export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0 # its leak check does not work under strace
    for fault in openat:error=EACCES write:error=ENOSPC fsync:error=EIO close:error=EIO rename:error=EROFS write:signal=KILL fsync:signal=KILL \
        rename:signal=KILL; do
        cp old state
        (printf '0.2\n' | strace -qq -o /dev/null -P state.tmp -P "$PWD/state.tmp" -e inject=$fault:when=1 "$ssm" score "$one" --save-state state >/dev/null 2>got.err) 2>/dev/null
        status=$?
        want=4; [[ $fault == *KILL ]] && want=137
        same "P-05: save with $fault" "$status $(cksum <state)" "$want $(cksum <old)"
        [ $want == 4 ] && same "one line for $fault" "$(wc -l <got.err) $(ls state.tmp 2>/dev/null)" "1 "
        rm -f state.tmp
    done
    echo 0.1 >in
    strace -qq -o /dev/null -P "$work/in" -e inject=read:error=EIO:when=1 "$ssm" score "$one" <in >got.out 2>got.err
    same "F-09: read error" "$? $(cat got.err)" "4 ssm score: standard input: Input/output error"
fi
(trap '' XFSZ; ulimit -f 0; printf '0.2\n' | "$ssm" score "$one" --save-state limited >/dev/null 2>&1; echo $?) >status 2>/dev/null || true
same "a size limit" "$(ls limited 2>/dev/null)" ""

# ---- rank

next=$here/../weights/next.safetensors
rank() { "$ssm" rank "$next" "$@"; }
like "rank: empty input" 1 'ssm rank: standard input: empty, expected a change history*' rank
printf 'Dear all,\nhello\n\n' >in
check "rank: no history, one line" 1 "" 'ssm rank: standard input: no commit found; line 1: not a change history: expected "c TIME AUTHOR WORDS" or "commit TIME AUTHOR<tab>SUBJECT", got "Dear all," (see ssm rank --help)' rank <in
printf 'commit eced9cf\nAuthor: A\n\n    Fix\n\ncommit 4f65b0d\n' >in
check "rank: git log without its format, one line" 1 "" 'ssm rank: standard input: no commit found; line 1: expected "commit TIME AUTHOR<tab>SUBJECT", got "eced9cf" for the time (see ssm rank --help)' rank <in
printf '\n\n' >in
check "rank: blank lines" 1 "" 'ssm rank: standard input: no commit found (see ssm rank --help)' rank <in
printf 'Dear all,\nhello\nc 1 0 -\na 0 x\nm\n' >in
rank <in >got.out 2>got.err
same "rank: lines before the first commit are one complaint" "$? $(wc -l <got.out) $(cut -d: -f3 got.err | tr '\n' ',')$(grep -c 'and 1 more before the first commit' got.err)" "1 1  line 1, line 5,1"
{
    printf 'commit 1000 A B\tOne\n\nA\ta b.c\nA\t"q\\"\\t\\303\\244.c"\nA\tplain\n'
    printf 'commit 1001 A B\tTwo\n\nM\ta b.c\nR100\tplain\tmoved\n'
    printf 'commit 1002 A B\tThree\n\nM\ta b.c\n'
} >log
same "rank: git log, paths as git prints them" "$(rank <log | cut -f2)" 'a b.c
moved
q"\x09ä.c'
rank <log >first
for n in $(seq 0 7 $(wc -c <log)); do
    head -c "$n" log | rank >got.out 2>got.err
    [ $? -le 1 ] || no "rank: a history cut at $n"
done
ok
{ cat log; printf 'M\t'; head -c 1048577 /dev/zero | tr '\0' x; printf '\nnonsense\n'; } >in
rank <in >got.out 2>got.err
same "rank: a line too long and a bad one cost only themselves" "$? $(cmp got.out first) $(cut -d: -f3 got.err | tr '\n' ',')" "1   line 13, line 14,"
{ cat log; printf 'M\tnul\0byte\n'; } | rank >got.out 2>got.err
same "rank: a NUL byte" "$? $(cmp got.out first) $(wc -l <got.err)" "1  1"
same "rank: --top" "$(rank --top 1 <log | wc -l) $(rank --top 0 <log | wc -l)" "1 0"
rank --backtest 0.5 --ranks ranks.txt <"$here/golden/history.ev" >got.out 2>got.err
same "rank: --backtest and --ranks" "$? $(grep -c -e MRR -e 'this model' -e recency got.out) $(wc -c <got.err) $([ -s ranks.txt ] && echo written)" "0 3 0 written"
like "rank: --ranks alone" 2 'ssm rank: --ranks goes with --backtest' rank --ranks x
like "rank: not a model of histories" 3 "ssm rank: $one: metadata \"task\": missing, expected next or relevance" "$ssm" rank "$one"
relevance=$here/../weights/relevance-i8.safetensors
asked() { "$ssm" rank "$relevance" --top 1 "$@" <"$here/golden/history.ev" | cut -f2; }
same "rank: --query changes what comes first" "$(asked) $(asked --query 'Fuzz the loader') $(asked --query 'fuzz THE loader')" ".ci/run tests/fuzz.sh tests/fuzz.sh"
like "rank: --query of a model that knows no words" 2 "ssm rank: --query goes with a model of task relevance, this one's is next" rank --query words
sed 's/input":"probe,rate,gap/input":"probe,rate,gip/' "$relevance" >odd.st
like "rank: inputs that this program does not make" 3 'ssm rank: odd.st: metadata "input": the inputs from "gip*' "$ssm" rank odd.st

# ---- eval of histories
mkdir evs ranks
cp "$here/golden/history.ev" evs/
"$ssm" eval "$relevance" evs --ranks ranks >got.out 2>got.err
same "eval: a history" "$? $(grep -c 'model: MRR' got.out) $(grep -c ^state: got.out) $(wc -c <got.err) $(wc -l <ranks/history.txt)" "0 2 1 0 13"
"$ssm" eval "$relevance" evs >again.out
same "eval: the default of relevance is track query" "$(cat again.out)" "$("$ssm" eval "$relevance" evs --track query)"
same "eval: less memory is less state" "$("$ssm" eval "$relevance" evs --items 64 --event-bytes 8192 | grep -c '^state: 9.... bytes')" 1
same "eval: --learn moves the scores" "$("$ssm" eval "$relevance" evs --learn | grep -c 'model: MRR')" 2
cat >r.cfg <<'CFG'
task = relevance
data = evs
d_model = 8
d_state = 2
n_layers = 1
pool = none
epochs = 1
batch = 1
relevance.fraction = 1
CFG
"$ssm" train r.cfg --out r.st >/dev/null 2>got.err
same "train relevance, and the model ranks" "$? $("$ssm" rank r.st --top 3 --query loader <evs/history.ev | wc -l) $("$ssm" info r.st | grep -c 'task: relevance')" "0 3 1"
like "eval: track query of next" 2 'ssm eval: --track query is for models of task relevance' "$ssm" eval "$next" evs --track query
like "eval: --learn of track next" 2 'ssm eval: --learn goes with track query' "$ssm" eval "$relevance" evs --track next --learn
like "eval: a track of neither kind" 2 'ssm eval: --track: *' "$ssm" eval "$relevance" evs --track back
like "eval: nowhere to put the rankings" 4 'ssm eval: absent/history.txt: *' "$ssm" eval "$relevance" evs --ranks absent
rank <log >/dev/full 2>got.err
same "rank: a full disk" "$? $(wc -l <got.err)" "4 1"

# ---- train

like "train without a file" 2 'ssm train: no CONFIG; see ssm train --help' "$ssm" train
like "train with an unknown option" 2 'ssm train: unknown option --no-such; see ssm train --help' "$ssm" train --no-such
like "train with a missing file" 4 'ssm train: missing: No such file or directory' "$ssm" train missing
like "train on a folder" 4 'ssm train: folder: Is a directory' "$ssm" train folder
printf 'd_modle = 9\n' >in
like "train: an unknown key" 2 'ssm train: in: line 1: unknown key "d_modle"' "$ssm" train in
printf 'task = classify\ndata = nowhere\n' >in
like "train: data missing" 4 'ssm train: nowhere/train-images.idx3.gz: No such file or directory' "$ssm" train in --out never.st
same "train: nothing written" "$(ls never.st* 2>/dev/null)" ""

echo "$passed passed, $failed failed"
[ $failed == 0 ]
