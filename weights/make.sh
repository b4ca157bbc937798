#!/bin/sh
# make.sh - trains the shipped models again: make.sh PATH-OF-SSM FOLDER, where FOLDER holds the data sets' folders.
#
# FOLDER/gittouch/train: .ev files (see next.md for where the data comes from); FOLDER/fsdd: recordings (digits.md);
# FOLDER/smnist: IDX files (smnist.md); parity
# needs no data. The result must have the checksums of SHA256SUMS on x86-64 with AVX2 and FMA, for smnist with AVX-512; other
# machines (for parity: another C library, too) may differ in the last bits of the weights.
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
models=parity
if [ -d "$data/gittouch/train" ]; then
    "$ssm" train tools/train/next.cfg --set "data=$data/gittouch/train" --set plot=weights/next.svg --out weights/next.safetensors
    integers next
    "$ssm" train tools/train/relevance.cfg --set "data=$data/gittouch/train" --set plot=weights/relevance.svg --out weights/relevance.safetensors
    integers relevance
    models="$models next relevance"
fi
if [ -d "$data/fsdd" ]; then # five minutes on two cores
    "$ssm" train tools/train/digits.cfg --set "data=$data/fsdd" --set plot=weights/digits.svg --out weights/digits.tmp
    "$ssm" train tools/train/digits-calm.cfg --set "data=$data/fsdd" --set from=weights/digits.tmp --out weights/digits.safetensors
    rm weights/digits.tmp
    integers digits
    models="$models digits"
fi
if [ -d "$data/smnist" ]; then # about half an hour on two cores
    "$ssm" train tools/train/smnist.cfg --set "data=$data/smnist" --set plot=weights/smnist.svg --out weights/smnist.safetensors
    for w in i8 i4; do
        "$ssm" train tools/train/smnist-qat.cfg --set "data=$data/smnist" --set qat=$w --set from=weights/smnist.safetensors \
            --out "weights/smnist-qat.tmp"
        "$ssm" quantize weights/smnist-qat.tmp "weights/smnist-$w.safetensors" --weights $w --gaps off >/dev/null
        rm weights/smnist-qat.tmp
    done
    models="$models smnist"
fi
cd weights
for model in $models; do grep -E " $model(-|\.)" SHA256SUMS; done | sha256sum -c
for model in next relevance digits smnist; do
    case " $models " in
    *" $model "*) ;;
    *) echo "$model skipped: its data is not in $data; use: make weights DATA=FOLDER" >&2; skipped=1 ;;
    esac
done
exit "${skipped:-0}"
