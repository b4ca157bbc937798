#!/bin/sh
# cmake.sh - configures, builds and installs with CMake, then uses the installed package from other projects: by
# find_package, by pkg-config, and the sources as FetchContent does.
# SPDX-License-Identifier: MIT
set -e
here=$(cd "$(dirname "$0")/.." && pwd)
if ! command -v cmake >/dev/null; then
    echo "skipped: cmake is not installed"
    [ "${CI:-}" != true ]
    exit
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
cmake -S "$here" -B "$out/build" -DCMAKE_BUILD_TYPE=Debug >/dev/null # the fastest to build
cmake --build "$out/build" -j2 --target ssm_program >/dev/null
cmake --install "$out/build" --prefix "$out/prefix" >/dev/null
mkdir "$out/user"
cat > "$out/user/CMakeLists.txt" <<'TXT'
cmake_minimum_required(VERSION 3.16)
project(user CXX)
find_package(ssm 0.1 REQUIRED)
add_executable(user user.cpp)
target_link_libraries(user ssm::ssm)
TXT
cat > "$out/user/user.cpp" <<'TXT'
#define SSM_IMPLEMENTATION
#include <ssm.hpp>
int main() { return ssm::message(ssm::Status::ok)[0] == 'o' ? 0 : 1; }
TXT
cmake -S "$out/user" -B "$out/user/build" -DCMAKE_PREFIX_PATH="$out/prefix" >/dev/null
cmake --build "$out/user/build" >/dev/null
"$out/user/build/user"
"$out/prefix/bin/ssm" version
if command -v pkg-config >/dev/null; then
    export PKG_CONFIG_PATH="$out/prefix/share/pkgconfig"
    [ "ssm $(pkg-config --modversion ssm)" = "$("$out/prefix/bin/ssm" version)" ]
    ${CXX:-c++} -std=c++17 $(pkg-config --cflags ssm) "$out/user/user.cpp" -o "$out/by-pkg-config"
    "$out/by-pkg-config"
else echo "skipped: pkg-config is not installed"; fi # the rest does not need it
cat > "$out/user/CMakeLists.txt" <<TXT
cmake_minimum_required(VERSION 3.16)
project(user CXX)
include(FetchContent)
FetchContent_Declare(ssm SOURCE_DIR "$here")
FetchContent_MakeAvailable(ssm)
if(TARGET ssm_program OR TARGET ssm_test)
  message(FATAL_ERROR "the program and the tests are built where nobody asked")
endif()
add_executable(user user.cpp)
target_link_libraries(user ssm::ssm)
TXT
cmake -S "$out/user" -B "$out/user/fetched" >/dev/null
cmake --build "$out/user/fetched" >/dev/null
"$out/user/fetched/user"
echo "cmake: ok"
