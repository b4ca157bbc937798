# expect.sh - what the tests from outside share: a folder of their own, counting, and one line of refusal. Sourced by
# bash scripts that are called with the program's path. SPDX-License-Identifier: MIT
#
# Gives ssm, here (the folder of the tests) and a working folder that goes at the end. A script may define run(), what
# like() puts in front of its arguments, and set writes=yes where its commands write a file `out`.

set -u
export LC_ALL=C
ssm=$(realpath "${1:?usage: $0 PATH/TO/ssm}")
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
passed=0 failed=0 writes=no

ok() { passed=$((passed + 1)); }
no() {
    failed=$((failed + 1))
    printf 'FAILED: %s\n' "$@" >&2
}
# same NAME GOT WANT
same() { if [ "$2" == "$3" ]; then ok; else no "$1" "  got:  ${2:0:900}" "  want: ${3:0:900}"; fi; }
run() { "$@"; }
# like NAME STATUS STDERR-PATTERN COMMAND...: nothing on standard output, one line on standard error that matches, and
# where commands write, no output file or temporary file left behind.
like() {
    local name=$1 status=$2 pattern=$3
    shift 3
    [ $writes == no ] || rm -f out
    run "$@" >got.out 2>got.err </dev/null
    local got=$? line left=
    line=$(cat got.err)
    [ $writes == no ] || left=$(ls -d out ./*.tmp* 2>/dev/null)
    # shellcheck disable=SC2053
    if [ $got == "$status" ] && [ ! -s got.out ] && [ "$(wc -l <got.err)" == 1 ] && [[ $line == $pattern ]] && [ ${#line} -le 399 ] && [ -z "$left" ]; then ok
    else no "$name" "  got:  $got $line" "  want: $status $pattern" ${left:+"  left: $left"}; fi
}
