// ssm_impl.cpp - the one file of the program that holds the library's code.
// SPDX-License-Identifier: MIT
#define SSM_IMPLEMENTATION
#include "../ssm.hpp"
