#!/bin/sh
# demo.sh - the main job on real input: which files will the next change touch? demo.sh PATH-OF-SSM
#
# Input: the history of the git checkout this stands in; outside of one, the history bundled with the tests.
# SPDX-License-Identifier: MIT
ssm=$1
here=$(cd "$(dirname "$0")/.." && pwd)
history() {
    if [ -e "$here/.git" ] && command -v git >/dev/null; then
        git -C "$here" log --reverse --no-merges --name-status -M --format='commit %ct %an%x09%s'
    else
        cat "$here/tests/golden/history.ev"
    fi
}
if [ -e "$here/.git" ] && command -v git >/dev/null; then
    echo "The history of this repository (git log), into: ssm rank weights/next.safetensors --backtest 0.5"
else
    echo "No git checkout here: the bundled history of this project, into: ssm rank weights/next.safetensors --backtest 0.5"
fi
echo
history | "$ssm" rank "$here/weights/next.safetensors" --backtest 0.5 --top 10
