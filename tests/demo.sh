#!/bin/sh
# demo.sh - the main job on real input: which files will the next change touch? demo.sh PATH-OF-SSM
#
# Input: the history of the git checkout this stands in; outside of one, the history bundled with the tests.
# SPDX-License-Identifier: MIT
ssm=$1
here=$(cd "$(dirname "$0")/.." && pwd)
model=$here/weights/relevance-i8.safetensors
git() { command git -C "$here" "$@"; }
if [ -e "$here/.git" ] && command -v git >/dev/null && [ "$(git rev-list --no-merges --count HEAD)" -gt 1 ]; then
    what="git log" past="git log before it"
    subject=$(git log --no-merges -1 --format=%s)
    history() { git log --reverse --no-merges --name-status -M --format='commit %ct %an%x09%s'; }
    before() { git log --skip=1 --reverse --no-merges --name-status -M --format='commit %ct %an%x09%s'; }
    touched() { git log --no-merges -1 --name-only --format=; }
else
    what="tests/golden/history.ev" past=$what
    subject="Measure the tests under valgrind"
    history() { cat "$here/tests/golden/history.ev"; }
    before() { history; }
    touched() { :; }
fi
echo "Told each commit's subject, author and time: which files does it touch?"
echo "\$ $what | ssm rank weights/relevance-i8.safetensors --backtest 0.5 --top 0"
history | "$ssm" rank "$model" --backtest 0.5 --top 0 || exit
echo
echo "The task of the latest commit, \"$subject\":"
echo "\$ $past | ssm rank weights/relevance-i8.safetensors --query \"$subject\""
before | "$ssm" rank "$model" --query "$subject" --top 10 || exit
if [ -n "$(touched)" ]; then
    echo "It touched: $(touched | head -20 | tr '\n' ' ')"
fi
echo
echo "And with nothing known of the next commit:"
history | "$ssm" rank "$model" --top 5
