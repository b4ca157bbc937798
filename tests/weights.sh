#!/bin/sh
# weights.sh - the shipped models are the ones their cards describe, and score stored inputs to stored values: weights.sh SSM
# SPDX-License-Identifier: MIT
set -e
ssm=$1
cd "$(dirname "$0")/.."
step() { echo "weights.sh: $1"; }
step "Q-03: checksums of the shipped models, and their scores of stored inputs"
(cd weights && sha256sum --quiet -c SHA256SUMS)
for model in next next-i8 next-i4 parity parity-i8 parity-i4 smnist smnist-i8 smnist-i4; do
    "$ssm" inspect weights/$model.safetensors >/dev/null
    for isa in scalar best; do
        "$ssm" score weights/$model.safetensors --isa $isa < tests/golden/${model%%-*}.records | cmp - tests/golden/$model.scores || { echo "FAIL: the scores of $model on tests/golden/${model%%-*}.records changed ($isa)"; exit 1; }
    done
done
for model in digits digits-i8 digits-i4; do # 16-bit samples, made up
    for isa in scalar best; do
        "$ssm" score weights/$model.safetensors --s16 8000 --isa $isa < tests/golden/digits.raw | cmp - tests/golden/$model.scores || { echo "FAIL: the scores of $model on tests/golden/digits.raw changed ($isa)"; exit 1; }
    done
done
for model in next next-i8 next-i4; do
    expected=tests/golden/history${model#next}.expected
    for isa in scalar best; do
        "$ssm" rank weights/$model.safetensors --isa $isa --top 5 --backtest 0.5 < tests/golden/history.ev | cmp - $expected || { echo "FAIL: the ranking of tests/golden/history.ev by $model changed ($isa)"; exit 1; }
    done
done
for model in relevance relevance-i8 relevance-i4; do # what comes, with a task in words and without
    for isa in scalar best; do
        { "$ssm" rank weights/$model.safetensors --isa $isa --top 5 --backtest 0.5 < tests/golden/history.ev
          "$ssm" rank weights/$model.safetensors --isa $isa --top 5 --query "Fuzz the loader of integer models" < tests/golden/history.ev
        } | cmp - tests/golden/history-$model.expected || { echo "FAIL: the ranking of tests/golden/history.ev by $model changed ($isa)"; exit 1; }
    done
done
echo "Q-03 weights: ok"
