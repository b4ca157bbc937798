// int_maths.cpp - the functions of one number that integer models are made of: against long double over their whole
// range, against the slow engine, and one lane at a time against two and four. SPDX-License-Identifier: MIT
#define SSM_STATIC
#define SSM_IMPLEMENTATION
#include "../ssm.hpp"
#include "back_ends.hpp"
#include "int_reference.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <string>

namespace {
using namespace ssm;
using namespace ssm::detail;
namespace ref = int_reference;
using Real = long double;

constexpr int64_t limit22 = dt_limit, limit8 = int64_t(8) << 26; // 22 and 8 in Q26

// Each function for any W, and as the slow engine has it. Results that promise 32 bits alone are cut to them.
#define FUNCTION(name, expression, slow)                                                                               \
    struct name {                                                                                                      \
        template <class W> static SSM_FORCED W of(const W& x) noexcept { return expression; }                          \
        static int64_t                         slowly(int64_t x) { return slow; }                                      \
    }
#define SSM_FORCED inline __attribute__((always_inline))
FUNCTION(ExpNeg, exp_neg(x), ref::exp_neg(x));
FUNCTION(Recip, recip(x), ref::recip(x));
FUNCTION(Sigmoid, sigmoid_q(x), ref::sigmoid(x));
FUNCTION(Tanh, tanh_q(x), ref::tanh(x));
FUNCTION(Softplus, softplus_q(x), ref::softplus(x));
FUNCTION(Sin, sin_turn(x), ref::sin_turn(static_cast<uint32_t>(x)));
FUNCTION(Cos, cos_turn(x), ref::cos_turn(static_cast<uint32_t>(x)));
FUNCTION(PhiQ, phi_q(x), ref::Phi(x));
FUNCTION(Silu, silu_q(x), ref::SiLU(x));
FUNCTION(Gelu, gelu_q(x), ref::GELU(x));
FUNCTION(To26, to26(x), ref::to26(x));
#undef FUNCTION

// y[i] = F(x[i]), 32 bits of it; n a multiple of four.
template <class F, class W> SSM_FORCED void each(int32_t* y, const int32_t* x, int32_t n) noexcept {
    for (int32_t i = 0; i < n; i += wide<W>::count) wide<W>::store(y + i, F::of(wide<W>::load(x + i, n - i)), n - i);
}
template <class F> void one_by_one(int32_t* y, const int32_t* x, int32_t n) { each<F, int64_t>(y, x, n); }
#if defined(SSM_HAS_AVX2)
template <class F> __attribute__((target("avx2,f16c"))) void four_by_four(int32_t* y, const int32_t* x, int32_t n) {
    each<F, i64x4>(y, x, n);
}
#define SSE42 __attribute__((target("sse4.2")))
#else
#define SSE42
#endif
#if defined(SSM_HAS_128)
template <class F> SSE42 void two_by_two(int32_t* y, const int32_t* x, int32_t n) { each<F, i64x2>(y, x, n); }
#endif

// A million numbers of [low, high]: both ends and what is next to them, every power of two and its neighbours, an even
// sweep and random ones.
std::vector<int32_t> numbers(int64_t low, int64_t high) {
    std::vector<int32_t> v;
    const auto           add = [&](int64_t x) {
        if (x >= low && x <= high) v.push_back(static_cast<int32_t>(x));
    };
    for (int64_t d = 0; d < 64; ++d) add(low + d), add(high - d), add(d), add(-d);
    for (int bit = 0; bit < 32; ++bit)
        for (int64_t d = -2; d <= 2; ++d)
            for (int64_t k : {2, 3}) add((int64_t(1) << bit) * k / 2 + d), add(-(int64_t(1) << bit) * k / 2 + d);
    for (int64_t turn = -4; turn <= 4; ++turn) // quarters of a turn, whole numbers in Q26
        for (int64_t d = -3; d <= 3; ++d) add(turn * one_q30 + d), add(turn * (int64_t(11) << 26) + d);
    std::mt19937_64 engine(7);
    const auto      range = uint64_t(high - low) + 1;
    for (uint64_t k = 0; v.size() < 500000; ++k) add(low + int64_t(range * k / 500000));
    while (v.size() < 1000000) add(low + int64_t(engine() % range));
    return v;
}
int32_t low32(int64_t x) { return static_cast<int32_t>(static_cast<uint32_t>(uint64_t(x))); }

// The largest |F(x) 2^-out - exact(x 2^-in)|; for slow engine and lanes: equal everywhere.
template <class F>
Real largest_error(int64_t low, int64_t high, int in, int out, Real (*exact)(Real), int32_t worst_at = 0) {
    std::vector<int32_t> x = numbers(low, high);
    if (worst_at != 0) x[0] = worst_at;
    std::vector<int32_t> one(x.size()), two(x.size()), four(x.size());
    one_by_one<F>(one.data(), x.data(), int32_t(x.size()));
    for (size_t i = 0; i < x.size(); i += 3) REQUIRE_MESSAGE(one[i] == low32(F::slowly(x[i])), x[i]);
#if defined(SSM_HAS_AVX2)
    if (test::runs_here(Isa::avx2)) {
        four_by_four<F>(four.data(), x.data(), int32_t(x.size()));
        for (size_t i = 0; i < x.size(); ++i) REQUIRE_MESSAGE(one[i] == four[i], x[i]);
    }
#endif
#if defined(SSM_HAS_128)
    if (test::runs_here(Isa::sse42) || test::runs_here(Isa::neon) || test::runs_here(Isa::simd128)) {
        two_by_two<F>(two.data(), x.data(), int32_t(x.size()));
        for (size_t i = 0; i < x.size(); ++i) REQUIRE_MESSAGE(one[i] == two[i], x[i]);
    }
#endif
    Real       worst = 0;
    const Real unit_in = std::ldexp(Real(1), -in), unit_out = std::ldexp(Real(1), -out);
    for (size_t i = 0; exact != nullptr && i < x.size(); i += 2) {
        const Real want = exact(Real(x[i]) * unit_in);
        worst = std::max(worst, std::fabs(Real(one[i]) * unit_out - want));
    }
    return worst;
}
const Real pi = std::acos(Real(-1));
} // namespace

TEST_CASE("N-10 integer functions: within their bounds of the exact ones over their whole range, lanes like one (slow)") {
    // The bounds are what all inputs reach, tried one by one; `worst_at` is where.
    const auto logistic = [](Real x) { return 1 / (1 + std::exp(-x)); };
    const auto softplus = [](Real x) { return std::max(x, Real(0)) + std::log1p(std::exp(-std::fabs(x))); };
    const auto Phi = [](Real x) { return std::erfc(-x / std::sqrt(Real(2))) / 2; };
    CHECK(largest_error<ExpNeg>(
              0, limit22, 26, 30, [](Real t) { return std::exp(-t); }, 46109727) < Real(5.95e-9));
    CHECK(largest_error<Sigmoid>(-limit22, limit22, 26, 30, logistic, 45308636) < Real(3.15e-9));
    CHECK(largest_error<Tanh>(
              -limit22, limit22, 26, 30, [](Real x) { return std::tanh(x); }, 22654318) < Real(6.3e-9));
    CHECK(largest_error<Softplus>(-limit22, limit22, 26, 26, softplus, -1687427) < Real(1.42e-8));
    CHECK(largest_error<Sin>(
              INT32_MIN, INT32_MAX, 32, 30, [](Real p) { return std::sin(2 * pi * p); }, -1064884854) < Real(2.79e-9));
    CHECK(largest_error<Cos>(INT32_MIN, INT32_MAX, 32, 30, [](Real p) { return std::cos(2 * pi * p); }) <
          Real(2.79e-9));
    CHECK(largest_error<PhiQ>(-limit8, limit8, 26, 30, Phi, -4490389) < Real(8.13e-8));
    // Without a bound of their own: what is made of the others. Their inputs are Q16 of any size.
    largest_error<Silu>(-INT32_MAX, INT32_MAX, 16, 16, nullptr);
    largest_error<Gelu>(-INT32_MAX, INT32_MAX, 16, 16, nullptr);
    largest_error<To26>(-INT32_MAX, INT32_MAX, 16, 26, nullptr);
}

TEST_CASE("integer functions: 1 / d and 1 / sqrt(v) over their whole range (slow)") {
    Real            worst = 0;
    std::mt19937_64 engine(3);
    const auto      try_recip = [&](int64_t d) {
        const int64_t r = recip(d);
        if (r != ref::recip(d)) FAIL(d);
        worst = std::max(worst, std::fabs(std::ldexp(Real(r), -30) - std::ldexp(Real(1), 30) / Real(d)));
    };
    for (int64_t k = 0; k < 500000; ++k) try_recip(one_q30 + one_q30 * k / 500000), try_recip(2 * one_q30 - k % 100);
    for (int64_t k = 0; k < 500000; ++k) try_recip(one_q30 + int64_t(engine() % uint64_t(one_q30 + 1)));
    try_recip(1074024028); // the worst of all
    CHECK(worst < Real(1.08e-9));

    // Four lanes are loaded with signed numbers: all of the range but 2^31 itself, which the sigmoid of 0 meets.
    largest_error<Recip>(one_q30, INT32_MAX, 30, 30, nullptr);

    worst = 0;
    const auto try_rsqrt = [&](int64_t v) {
        int32_t         E = 0;
        const int64_t   r = rsqrt_q(v, &E);
        const ref::Root want = ref::rsqrt(v);
        if (r != want.r || E != want.E) FAIL(v);
        worst = std::max(worst, std::fabs(std::ldexp(Real(r), -30 - E) * std::sqrt(Real(v)) - 1));
    };
    for (int64_t v = 1; v < 100000; ++v) try_rsqrt(v);
    for (int bit = 1; bit <= 61; ++bit)
        for (int64_t d = -1000; d <= 1000; ++d) {
            const int64_t v = (int64_t(1) << bit) + d;
            if (v > 0 && v <= int64_t(1) << 61) try_rsqrt(v);
        }
    for (int k = 0; k < 800000; ++k) try_rsqrt(1 + int64_t(engine() >> (3 + engine() % 60)));
    CHECK(worst < Real(2.05e-9));
}

TEST_CASE("N-06 integer functions: floats to Q16 and back, for every exponent, tie and limit (slow)") {
    std::mt19937 engine(5);
    for (uint32_t E = 0; E < 255; ++E)
        for (int k = 0; k < 2000; ++k) {
            const uint32_t m = k < 20   ? uint32_t(k)
                               : k < 40 ? 0x7fffffu - uint32_t(k - 20)
                               : k < 63 ? 1u << (k - 40)
                               : k < 86 ? (3u << (k - 63)) & 0x7fffffu
                                        : uint32_t(engine()) & 0x7fffffu;
            for (uint32_t sign : {0u, 0x80000000u}) {
                const auto bits = sign | E << 23 | m;
                const auto x = float_of(int32_t(bits));
                REQUIRE_MESSAGE(ssm::to_q16(x) == ref::to_q16(x), bits);
            }
        }
    for (int k = 0; k < 500000; ++k) {
        const uint32_t any = uint32_t(engine()) >> engine() % 32;
        const auto     v = static_cast<int32_t>(k % 2 == 0 ? any : 0u - any);
        if (v == INT32_MIN) continue;
        REQUIRE_MESSAGE(bits_of(ssm::from_q16(v)) == bits_of(ref::to_float(v)), v);
    }
    for (int32_t v : {0, 1, -1, (1 << 24) + 1, (1 << 25) + 2, (1 << 25) + 6, INT32_MAX, -INT32_MAX})
        CHECK(bits_of(ssm::from_q16(v)) == bits_of(ref::to_float(v)));
}
