// main.cpp - the test program's main, and the one copy of the library that the test files share.
// SPDX-License-Identifier: MIT
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#define SSM_IMPLEMENTATION
#include "../ssm.hpp"
