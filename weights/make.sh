#!/bin/sh
# make.sh - trains the shipped models again: make.sh PATH-OF-SSM FOLDER, where FOLDER holds the data sets' folders.
#
# FOLDER/gittouch/train: .ev files (see next.md for where the data comes from); parity needs no data. The result must have
# the checksums of SHA256SUMS on x86-64 with AVX2 and FMA; other machines (for parity: another C library, too) may differ in
# the last bits of the weights.
# SPDX-License-Identifier: MIT
set -e
ssm=$1 data=$2
cd "$(dirname "$0")/.."
# Makes weights/NAME-i8 and weights/NAME-i4 of weights/NAME: integers NAME [OPTION]...
integers() {
    name=$1
    shift
    for w in i8 i4; do
        "$ssm" quantize "weights/$name.safetensors" "weights/$name-$w.safetensors" --weights $w "$@" >/dev/null
    done
}
"$ssm" train tools/train/parity.cfg --out weights/parity.safetensors
integers parity --snap
if [ ! -d "$data/gittouch/train" ]; then
    (cd weights && grep parity SHA256SUMS | sha256sum -c)
    echo "next skipped: no folder $data/gittouch/train; use: make weights DATA=FOLDER" >&2
    exit 1
fi
"$ssm" train tools/train/next.cfg --set "data=$data/gittouch/train" --set plot=weights/next.svg --out weights/next.safetensors
integers next
cd weights
sha256sum -c SHA256SUMS
