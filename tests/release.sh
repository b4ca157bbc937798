#!/usr/bin/env bash
# release.sh - what every release promises of its sources: rules Q-01 to Q-06 of a supply chain.
#
#   make release          all of it; builds the program twice, in two folders
#   make release-quick    without those builds: what CI has the time for
#
# SPDX-License-Identifier: MIT
set -u
export LC_ALL=C
cd "$(dirname "$0")/.." || exit
quick=${1:-} failed=0
out=$(mktemp -d) || exit
trap 'rm -rf "$out"' EXIT
no() { failed=$((failed + 1)) && echo "FAILED: $*"; }
ok() { [ "$failed" != "$before" ] || echo "$1"; before=$failed; }
before=0
version=$(sed -n 's/^#define SSM_VERSION "\(.*\)"/\1/p' ssm.hpp)

# ---- Q-01: no code of others

known='arm_acle|arm_mve|arm_neon|cpuid|fcntl|float|immintrin|riscv_vector|stddef|stdint|string|sys/auxv|sys/mman|sys/stat|unistd|wasm_simd128|windows'
got=$(grep -h '^ *# *include' ssm.hpp | grep -vE "<($known)\.h>")
[ -z "$got" ] || no "ssm.hpp includes more than the headers of compilers and systems: $got"
got=$(grep -h '^ *# *include *<' tools/*.cpp tools/*.hpp | sed 's/.*<\(.*\)>.*/\1/' | sort -u | grep '[/.]' | grep -vE '^(sys/[a-z]+|[a-z_]+)\.h$')
[ -z "$got" ] || no "tools include what no system has: $got"
doctest=2.4.9 sum=041dced3b82ed2d6c920977fcba16e8b9e49daaa200c81ba0ccec529a4f1fd5d # Debian 12's doctest-dev
for header in /usr/include/doctest/doctest.h /usr/local/include/doctest/doctest.h; do
    [ -e "$header" ] || continue
    if grep -q "DOCTEST_VERSION_MAJOR ${doctest%%.*}$" "$header" && [ "$(sed -n 's/^#define DOCTEST_VERSION_\(MINOR\|PATCH\) //p' "$header" | tr '\n' .)" = 4.9. ]; then
        [ "$(sha256sum <"$header" | cut -d' ' -f1)" = $sum ] || no "$header is not doctest $doctest as Debian has it"
    else echo "skipped: $header is not doctest $doctest, the version stated"; fi
done
ok "Q-01 no code of others; tests: doctest $doctest"

# ---- Q-02: nothing is fetched

got=$(grep -nE '\b(curl|wget|git clone|pip3? install|npm install)\b|ExternalProject|GIT_REPOSITORY' Makefile CMakeLists.txt tools/*.sh 2>/dev/null)
[ -z "$got" ] || no "a build fetches something: $got"
ok "Q-02 builds fetch nothing"

# ---- Q-03: shipped weights; what they score: weights.sh

(cd weights && sha256sum --quiet -c SHA256SUMS) || no "weights are not those of weights/SHA256SUMS"
for f in weights/*.safetensors; do
    grep -q " ${f#weights/}$" weights/SHA256SUMS || no "$f is not in SHA256SUMS"
    card=weights/$(basename "$f" .safetensors | sed 's/-i[48]$//').md
    [ -e "$card" ] && grep -qi seed "$card" || no "$f has no card that says its seed"
done
ok "Q-03 weights are those of SHA256SUMS, each with a card and a seed"

# ---- Q-04: one version everywhere; licence; changes

agree() { [ "$2" = "$version" ] || no "$1 says version $2, ssm.hpp $version"; }
agree CMakeLists.txt "$(sed -n 's/^project(ssm VERSION \([0-9.]*\) .*/\1/p' CMakeLists.txt)"
agree library.json "$(sed -n 's/^ *"version": "\(.*\)",$/\1/p' library.json)"
agree library.properties "$(sed -n 's/^version=//p' library.properties)"
agree idf_component.yml "$(sed -n 's/^version: "\(.*\)"$/\1/p' idf_component.yml)"
agree .github/CHANGELOG.md "$(sed -n 's/^## \([0-9.]*\).*/\1/p' .github/CHANGELOG.md | head -n 1)"
if tags=$(git tag --points-at HEAD 2>/dev/null) && [ -n "$tags" ]; then
    grep -qx "v$version" <<<"$tags" || no "the tag here is $tags, the header says $version"
    ! grep -q "^## $version, not yet released" .github/CHANGELOG.md || no "CHANGELOG.md says that $version is not yet released"
fi
for f in ssm.hpp ssm_cuda.cu tools/*.cpp tools/*.hpp tests/*.cpp tests/*.hpp tests/*.sh; do
    grep -qE 'SPDX-License-Identifier: MIT|^// MIT License' "$f" || no "$f has no licence line"
done
ok "Q-04 version $version in header, manifests and list of changes; licence lines"

# ---- Q-05: the same bytes

bash tests/dist.sh "$out/once" && mkdir -p "$out/deeper/down" && cp -r ssm.hpp LICENSE README.md weights tests "$out/deeper/down/" &&
    touch -d 2001-02-03 "$out/deeper/down/weights"/* && (umask 077 && bash "$out/deeper/down/tests/dist.sh" "$out/twice") || no "make dist"
diff -r "$out/once" "$out/twice" || no "make dist gives other bytes the second time"
(cd "$out/once" && sha256sum --quiet -c SHA256SUMS) || no "make dist: its SHA256SUMS are of something else"
if tar -C "$out" -xf "$out/once/ssm-$version-example.tar" && (cd "$out/ssm-$version-example" && ${CXX:-g++} -std=c++17 -O0 main.cpp -o example && ./example >said); then
    [ -s "$out/ssm-$version-example/said" ] || no "the example of make dist says nothing"
else no "the example of make dist does not build or run"; fi
build_at() { # FOLDER: of what git knows, and of what was added since
    mkdir -p "$1" && git ls-files -z --cached --others --exclude-standard | grep -zvE '^(tests/golden|tests/fuzz)/' | tar --null -T - -cf - | tar -C "$1" -xf - &&
        make -s -C "$1" "BUILD=$1/build" OPT=-O0 "$1/build/ssm" >"$out/log" 2>&1
}
if [ -z "$quick" ]; then
    if build_at "$out/a" && build_at "$out/a-longer/name/b"; then
        cmp "$out/a/build/ssm" "$out/a-longer/name/b/build/ssm" || no "two builds of ssm differ"
    else no "ssm does not build in another folder: $(tail -n 5 "$out/log")"; fi
else # one file of it, with debug information, as the Makefile compiles it
    for folder in a b-longer; do
        mkdir -p "$out/$folder/tools" && cp ssm.hpp Makefile "$out/$folder/" && cp tools/*.hpp tools/tool.cpp "$out/$folder/tools/" &&
            make -s -C "$out/$folder" BUILD=build OPT=-O0 build/tools/tool.o >"$out/log" 2>&1 || no "tool.cpp does not compile: $(tail -n 5 "$out/log")"
    done
    cmp "$out/a/build/tools/tool.o" "$out/b-longer/build/tools/tool.o" || no "two builds of tools/tool.o differ"
fi
ok "Q-05 two builds in two folders give the same bytes${quick:+ (one file of the program)}; make dist, too"

# ---- Q-06: a private way to report a fault, and a time

page=.github/SECURITY.md
grep -q 'Report a vulnerability' $page || no "$page names no private way to report a fault"
grep -qE 'within [0-9]+ days' $page || no "$page states no time to answer"
grep -qiE '^## What (counts|does not)' $page || no "$page does not say what is a vulnerability"
ok "Q-06 SECURITY.md states a private path and a time to answer"

echo "counted: release checks failed $failed"
[ "$failed" = 0 ]
