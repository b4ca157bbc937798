#!/bin/sh
# need.sh - makes sure that Debian packages are installed: need.sh PACKAGE...
#
# Installs what is missing where apt-get can be used; else says what to install and fails.
# SPDX-License-Identifier: MIT
missing=
for p in "$@"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    (apt-get install -y --no-install-recommends $missing || { apt-get update && apt-get install -y --no-install-recommends $missing; }) >/dev/null 2>&1 && exit 0
fi
echo "please install:$missing (Debian: apt-get install$missing)" >&2
exit 1
