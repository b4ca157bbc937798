#!/bin/bash
# cuda.sh - the program with ssm_cuda.cu: bash tests/cuda.sh SSM
# SPDX-License-Identifier: MIT
#
# Without a GPU: --cuda says so in one line, and everything else works. With one: golden files and records give the
# CPU's bits there.
set -u
cd "$(dirname "$0")/.." || exit
ssm=$1 passed=0 failed=0 out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
ok() { passed=$((passed + 1)); }
no() { failed=$((failed + 1)) && printf 'FAILED: %s\n' "$@" >&2; }
same() { if [ "$2" = "$3" ]; then ok; else no "$1" "  got:  ${2:0:400}" "  want: ${3:0:400}"; fi; } # NAME GOT WANT
model=weights/next-i8.safetensors golden="tests/golden/int/0[1-9]*.safetensors tests/golden/int/[12]*.safetensors tests/golden/mamba/*.safetensors tests/golden/s4d/0*.safetensors"

"$ssm" score $model <tests/golden/next.records >"$out/cpu" 2>/dev/null
same "score on the CPU" "$(cat "$out/cpu")" "$(cat tests/golden/next-i8.scores)"
"$ssm" score --cuda $model <tests/golden/next.records >"$out/gpu" 2>"$out/err"
status=$?
if [ $status = 0 ]; then
    same "score --cuda" "$(cat "$out/gpu")" "$(cat "$out/cpu")"
    "$ssm" selftest --cuda --isa scalar $golden >"$out/selftest" 2>"$out/err"
    same "selftest --cuda" "$? $(grep -c ' cuda ok ' "$out/selftest")" "0 $(ls $golden | wc -l)"
    printf '1 1 0 0 0 1\n+ 0 1 0 0 1 0\n' >"$out/records"
    "$ssm" score --cuda $model --save-state "$out/state" <"$out/records" >/dev/null
    "$ssm" score $model --save-state "$out/state2" <"$out/records" >/dev/null
    same "a state saved from the GPU" "$(cksum <"$out/state")" "$(cksum <"$out/state2")"
    "$ssm" bench --cuda --seconds 0.1 --batch 1,7 $model >"$out/bench"
    same "bench --cuda" "$? $(grep -cE '^  (1|7) (streams|candidates) ' "$out/bench")" "0 4"
else
    same "score --cuda without a GPU" "$status $(cat "$out/err")" "4 ssm score: --cuda: no CUDA device"
    for verb in "bench --cuda $model" "selftest --cuda ${golden%% *}"; do
        # shellcheck disable=SC2086
        line=$("$ssm" $verb 2>&1 >/dev/null </dev/null)
        same "$verb without a GPU" "$? $line" "4 ssm ${verb%% *}: --cuda: no CUDA device"
    done
    echo "cuda: skipped: golden files on the GPU: no CUDA device" >&2
fi
echo "cuda: $passed passed, $failed failed"
[ $failed = 0 ]
