// back_ends.hpp - the kernels of this machine's back-ends, for tests: those of back_ends.cpp's private copy of the library,
// which has avxvnni where a processor can only stand in for it. SPDX-License-Identifier: MIT
#pragma once
#include "../ssm.hpp"

#include <vector>

namespace test {
std::vector<ssm::Isa> back_ends();
bool                  runs_here(ssm::Isa isa);
const ssm::Kernels&   kernels_of(ssm::Isa isa);
} // namespace test
