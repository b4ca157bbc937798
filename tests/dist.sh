#!/usr/bin/env bash
# dist.sh - what a release consists of, into a folder: dist.sh FOLDER
#
#   ssm.hpp                        the header
#   ssm-VERSION-example.tar        the README's program with the header and the model it reads, for `c++ -std=c++17 main.cpp`
#   SHA256SUMS
#
# The same sources give the same bytes: names sorted, owner, rights and times fixed. SPDX-License-Identifier: MIT
set -eu
export LC_ALL=C TZ=UTC
cd "$(dirname "$0")/.."
to=${1:?usage: $0 FOLDER}
version=$(sed -n 's/^#define SSM_VERSION "\(.*\)"/\1/p' ssm.hpp)
name=ssm-$version-example
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$to" "$tmp/$name/weights"
cp ssm.hpp LICENSE "$tmp/$name/"
cp weights/next.safetensors "$tmp/$name/weights/"
{
    echo "// main.cpp - loads a model and scores what might come next: c++ -std=c++17 -O2 main.cpp && ./a.out"
    echo "// SPDX-License-Identifier: MIT"
    awk '/^## In your program$/ { on = 1 } on && /^```$/ { exit } inside { print } on && /^```cpp$/ { inside = 1 }' README.md
} >"$tmp/$name/main.cpp"
find "$tmp/$name" -type d -exec chmod 755 {} + -o -type f -exec chmod 644 {} +
tar --format=ustar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$tmp" -cf "$to/$name.tar" "$name"
cp ssm.hpp "$to/ssm.hpp"
(cd "$to" && sha256sum ssm.hpp "$name.tar" >SHA256SUMS)
