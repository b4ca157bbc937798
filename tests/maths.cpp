// maths.cpp - the elementary functions against double precision, over all exponents, with the bounds the header states.
// SPDX-License-Identifier: MIT
#define SSM_STATIC
#define SSM_IMPLEMENTATION
#include "../ssm.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace {
using namespace ssm::detail;

// Every `stride`-th finite float of both signs.
template <class Fn> void sweep(uint32_t stride, Fn fn) {
    for (uint64_t b = 0; b < 0x100000000u; b += stride) {
        const float x = float_of(int32_t(uint32_t(b)));
        if (std::isfinite(x)) fn(x);
    }
}
double relative(double got, double want) { return want == 0 ? std::fabs(got) : std::fabs(got / want - 1); }
} // namespace

TEST_CASE("N-10 exp: error, limits, monotone (slow)") {
    double worst = 0;
    sweep(997, [&](float x) {
        const float y = exp_f32(x);
        if (x > -87.3f && x < 88.7f) worst = std::max(worst, relative(double(y), std::exp(double(x))));
    });
    CHECK(worst < 1.5e-7);
    CHECK(exp_f32(0.0f) == 1.0f);
    CHECK(exp_f32(-1e4f) == 0.0f);
    CHECK(exp_f32(-std::numeric_limits<float>::infinity()) == 0.0f);
    CHECK(std::isinf(exp_f32(1e4f)));
    CHECK(std::isnan(exp_f32(std::numeric_limits<float>::quiet_NaN())));
    CHECK(exp_f32(-100.0f) == doctest::Approx(std::exp(-100.0)).epsilon(0.05)); // a denormal
    float before = 0.0f;
    for (int i = -11000; i <= 9000; ++i) { // steps of 0.01: far wider than the error
        const float y = exp_f32(float(i) * 0.01f);
        CHECK_MESSAGE(y >= before, i);
        before = y;
    }
}

TEST_CASE("N-10 sigmoid: error, limits, monotone over every half-precision number (slow)") {
    double worst = 0;
    sweep(997, [&](float x) {
        if (x > -87.0f) worst = std::max(worst, relative(double(sigmoid(x)), 1 / (1 + std::exp(-double(x)))));
    });
    CHECK(worst < 3e-7);
    CHECK(sigmoid(0.0f) == 0.5f);
    CHECK(sigmoid(1e4f) == 1.0f);
    CHECK(sigmoid(-1e4f) >= 0.0f);
    CHECK(sigmoid(-1e4f) < 1e-30f);
    std::vector<float> halves;
    for (uint32_t h = 0; h < 65536; ++h)
        if ((h & 0x7c00) != 0x7c00) halves.push_back(f16_to_f32(uint16_t(h)));
    std::sort(halves.begin(), halves.end());
    for (size_t i = 1; i < halves.size(); ++i) {
        // One unit in the last place of 1.0 is the resolution of the result: within it the order may tie or wobble.
        REQUIRE(sigmoid(halves[i]) >= sigmoid(halves[i - 1]) - 1.2e-7f);
        REQUIRE(std::isfinite(sigmoid(halves[i])));
        REQUIRE(std::isfinite(normal_cdf(halves[i])));
    }
}

TEST_CASE("normal_cdf (erf): absolute error (slow)") {
    double worst = 0, worst_gelu = 0;
    sweep(997, [&](float x) {
        const double want = 0.5 * std::erfc(-double(x) * 0.70710678118654752);
        worst = std::max(worst, std::fabs(double(normal_cdf(x)) - want));
        if (std::fabs(x) < 1e4f)
            worst_gelu = std::max(worst_gelu, std::fabs(double(x * normal_cdf(x)) - double(x) * want) /
                                                  std::max(1.0, std::fabs(double(x))));
    });
    CHECK(worst < 2.5e-7);
    CHECK(worst_gelu < 3e-7);
    CHECK(normal_cdf(0.0f) == doctest::Approx(0.5));
    CHECK(normal_cdf(1e30f) == 1.0f);
    CHECK(normal_cdf(-1e30f) == 0.0f);
}

TEST_CASE("exp_and_expm1: error, and never above 1 (slow)") {
    double worst_exp = 0, worst_expm1 = 0;
    sweep(499, [&](float x) {
        if (!(x <= 0.0f)) return;
        float e, em;
        exp_and_expm1(x, &e, &em);
        REQUIRE(e <= 1.0f);
        if (x > -80.0f) worst_exp = std::max(worst_exp, relative(double(e), std::exp(double(x))));
        if (x < -1e-37f) worst_expm1 = std::max(worst_expm1, relative(double(em), std::expm1(double(x))));
    });
    CHECK(worst_exp < 1.5e-7);
    CHECK(worst_expm1 < 4e-7);
}

TEST_CASE("N-10 tanh, softplus, exp_minus: error, limits, NaN (slow)") {
    double worst_tanh = 0, worst_softplus = 0, worst_exp = 0;
    sweep(499, [&](float x) {
        const double v = double(x);
        if (std::fabs(v) > 1.2e-38)
            worst_tanh = std::max(worst_tanh, relative(double(ssm::detail::tanh(x)), std::tanh(v)));
        if (v > -87.0) {
            const double want = v > 0 ? v + std::log1p(std::exp(-v)) : std::log1p(std::exp(v));
            worst_softplus = std::max(worst_softplus, relative(double(softplus(x)), want));
        }
        if (std::fabs(v) < 87.0)
            worst_exp = std::max(worst_exp, relative(double(exp_minus(x)), std::exp(-std::fabs(v))));
    });
    CHECK(worst_tanh < 5e-7);
    CHECK(worst_softplus < 5e-7);
    CHECK(worst_exp < 1.5e-7);
    const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
    for (float (*f)(const float&) :
         {+[](const float& x) { return ssm::detail::tanh(x); }, +[](const float& x) { return softplus(x); },
          +[](const float& x) { return exp_minus(x); }})
        CHECK(std::isnan(f(nan)));
    CHECK(ssm::detail::tanh(inf) == 1.0f);
    CHECK(ssm::detail::tanh(-1e30f) == -1.0f);
    CHECK(ssm::detail::tanh(0.0f) == 0.0f);
    CHECK(softplus(25.0f) == 25.0f);
    CHECK(softplus(-inf) < 1e-37f);
    CHECK(std::isinf(softplus(inf)));
}

TEST_CASE("sincos_turns: error over a turn (slow)") {
    double worst = 0;
    for (int i = -(1 << 20); i <= 1 << 20; ++i) {
        const float t = float(i) / float(1 << 21);
        float       s, c;
        sincos_turns(t, &s, &c);
        worst = std::max({worst, std::fabs(double(s) - std::sin(double(t) * 6.283185307179586477)),
                          std::fabs(double(c) - std::cos(double(t) * 6.283185307179586477))});
    }
    CHECK(worst < 1.5e-7);
    float s, c;
    sincos_turns(0.25f, &s, &c);
    CHECK(s == 1.0f);
    CHECK(c == 0.0f);
}

TEST_CASE("rsqrt: error over every exponent (slow)") {
    double worst = 0;
    sweep(997, [&](float x) {
        if (x >= 1.2e-38f) worst = std::max(worst, relative(double(rsqrt(x)), 1 / std::sqrt(double(x))));
    });
    CHECK(worst < 2e-7);
}

TEST_CASE("double precision: exp, expm1, sin, cos") {
    double worst_exp = 0, worst_expm1 = 0, worst_sin = 0;
    for (int i = -60000; i <= 60000; ++i) {
        const double x = double(i) * 0.001003;
        double       e, em;
        exp_and_expm1_f64(x, &e, &em);
        worst_exp = std::max(worst_exp, relative(e, std::exp(x)));
        worst_expm1 = std::max(worst_expm1, relative(em, std::expm1(x)));
        exp_and_expm1_f64(x * 1e-9, &e, &em);
        worst_expm1 = std::max(worst_expm1, relative(em, std::expm1(x * 1e-9)));
        double       s, c;
        const double t = double(i) * 0.00371;
        sincos_turns_f64(t, &s, &c);
        const double r = (t - std::nearbyint(t)) * 6.283185307179586477; // the reference reduces first, as ours does
        worst_sin = std::max({worst_sin, std::fabs(s - std::sin(r)), std::fabs(c - std::cos(r))});
    }
    CHECK(worst_exp < 5e-16);
    CHECK(worst_expm1 < 1e-15);
    CHECK(worst_sin < 1e-15);
}

TEST_CASE("double precision: exp beyond its range is that of 700 or -700, and NaN stays") {
    double e = 0, em = 0, top = 0, low = 0;
    exp_and_expm1_f64(700.0, &top, &em), exp_and_expm1_f64(-700.0, &low, &em);
    CHECK((top > 1e304 && low > 0.0 && low < 1e-303));
    for (double x : {700.001, 1e4, 1e300, std::numeric_limits<double>::infinity()}) {
        exp_and_expm1_f64(x, &e, &em);
        CHECK(e == top);
        exp_and_expm1_f64(-x, &e, &em);
        CHECK(e == low);
        CHECK(em == -1.0);
    }
    exp_and_expm1_f64(std::numeric_limits<double>::quiet_NaN(), &e, &em);
    CHECK((e != e && em != em));
}

TEST_CASE("half precision: all 65,536 numbers, both formats") {
    for (uint32_t h = 0; h < 65536; ++h) {
        const int    e = int(h >> 10 & 31), m = int(h & 1023);
        const double v = e == 0 ? std::ldexp(m, -24) : std::ldexp(1024 + m, e - 25);
        const float  f = f16_to_f32(uint16_t(h));
        if (e == 31) CHECK((m == 0 ? std::isinf(f) : std::isnan(f)));
        else REQUIRE(double(f) == (h & 0x8000 ? -v : v));
        const unsigned char two[2] = {static_cast<unsigned char>(h), static_cast<unsigned char>(h >> 8)};
        REQUIRE(uint32_t(bits_of(element(two, ssm::DType::bf16, 0))) == h << 16);
    }
}

TEST_CASE("vector forms give the scalar bits (very slow)") {
    for (uint64_t b = 0; b < 0x100000000u; b += 8 * 4001) {
        float x[8], y[8];
        for (uint32_t k = 0; k < 8; ++k) x[k] = float_of(int32_t(uint32_t(b + k * 12343)));
        f32x8 v;
        std::memcpy(&v, x, 32);
        const auto same = [&](const char* what, f32x8 got, auto fn) {
            std::memcpy(y, &got, 32);
            for (int k = 0; k < 8; ++k) {
                const float want = fn(x[k]);
                if (want == want || y[k] == y[k]) REQUIRE_MESSAGE(bits_of(y[k]) == bits_of(want), what, " at ", x[k]);
            }
        };
        same("exp", exp_f32(v), [](float a) { return exp_f32(a); });
        same("sigmoid", sigmoid(v), [](float a) { return sigmoid(a); });
        same("tanh", ssm::detail::tanh(v), [](float a) { return ssm::detail::tanh(a); });
        same("softplus", softplus(v), [](float a) { return softplus(a); });
        same("silu", silu(v), [](float a) { return silu(a); });
        same("cdf", normal_cdf(v), [](float a) { return normal_cdf(a); });
    }
}
