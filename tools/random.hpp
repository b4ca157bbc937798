// random.hpp - random numbers, the same everywhere. SPDX-License-Identifier: MIT
#ifndef RANDOM_HPP
#define RANDOM_HPP

#include <cmath>
#include <cstdint>

namespace s4d {

// xoshiro256** by Blackman and Vigna, seeded by splitmix64. The same numbers everywhere.
struct Random {
    uint64_t s[4] = {};

    explicit Random(uint64_t seed = 1) {
        for (uint64_t& w : s) {
            uint64_t z = (seed += 0x9e3779b97f4a7c15u);
            z          = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
            z          = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
            w          = z ^ (z >> 31);
        }
    }
    uint64_t next() {
        const auto     turn = [](uint64_t x, int k) { return (x << k) | (x >> (64 - k)); };
        const uint64_t r = turn(s[1] * 5, 7) * 9, t = s[1] << 17;
        s[2] ^= s[0], s[3] ^= s[1], s[1] ^= s[2], s[0] ^= s[3], s[2] ^= t, s[3] = turn(s[3], 45);
        return r;
    }
    double   uniform() { return double(next() >> 11) * 0x1p-53; } // [0, 1)
    double   uniform(double low, double high) { return low + (high - low) * uniform(); }
    uint64_t below(uint64_t n) { return n == 0 ? 0 : uint64_t(double(n) * uniform()); }
    double   normal() { // Box-Muller; the second value is dropped to keep no state
        const double u = 1.0 - uniform(), v = uniform();
        return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v);
    }
};

} // namespace s4d

#endif
