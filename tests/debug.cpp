// debug.cpp - what a build with SSM_DEBUG adds: ranges that are asserted. SPDX-License-Identifier: MIT
//
// A private copy of the library under another name, so that this build and the one of the other tests do not mix.
#ifndef SSM_DEBUG
#define SSM_DEBUG
#endif
namespace {
struct Asserted {
    long        failed = 0;
    const char* first = "";
    void        note(const char* what) {
               if (failed++ == 0) first = what;
    }
} asserted;
} // namespace
#undef SSM_ASSERT
#define SSM_ASSERT(x) ((x) ? (void)0 : asserted.note(#x))
#define SSM_STATIC
#define SSM_IMPLEMENTATION
#define ssm ssm_debug
#include "../ssm.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

namespace {
using namespace ssm;
using namespace ssm::detail;

// What f asserts in vain: how often, and the first one's text.
template <class F> Asserted caught(F f) {
    asserted = Asserted();
    f();
    return asserted;
}
bool fires(const Asserted& a, const char* with) { return a.failed > 0 && std::strstr(a.first, with) != nullptr; }
// Results are of no interest here.
volatile int64_t sink;
} // namespace

TEST_CASE("SSM_DEBUG: a number at the end of its range passes, one beyond is caught") {
    const auto both = [](auto f, int64_t last, int64_t beyond, const char* with) {
        const Asserted good = caught([&] { sink = f(last); }), bad = caught([&] { sink = f(beyond); });
        CHECK_MESSAGE(good.failed == 0, std::string(with), ": ", std::string(good.first));
        CHECK_MESSAGE(fires(bad, with), std::string(with), ": ", std::string(bad.first));
    };
    both([](int64_t t) { return exp_neg(t); }, dt_limit, dt_limit + 1, "dt_limit");
    both([](int64_t d) { return recip(d); }, 2 * one_q30, 2 * one_q30 + 1, "one_q30");
    both([](int64_t x) { return sigmoid_q(x); }, -dt_limit, -dt_limit - 1, "dt_limit");
    both([](int64_t x) { return softplus_q(x); }, dt_limit, dt_limit + 1, "dt_limit");
    both([](int64_t x) { return phi_q(x); }, int64_t(8) << 26, (int64_t(8) << 26) + 1, "<< 26");
    both([](int64_t x) { return silu_q(x); }, int_max, int64_t(int_max) + 1, "int_max");
    both([](int64_t x) { return gelu_q(x); }, -int_max, -int64_t(int_max) - 1, "int_max");
    both([](int64_t x) { return decay_q<26>(x, dt_limit); }, int_max, int64_t(int_max) + 1, "rate");
    both([](int64_t x) { return times_q<16>(x, int64_t(1)); }, int_max, int64_t(int_max) + 1, "int_max");
    both([](int64_t add) { return next_h(1 << 30, int_max, add); }, most_sum, most_sum + 1, "most_sum");
    both([](int64_t alpha) { return next_h(int32_t(alpha), 1, 0); }, one_q30, one_q30 + 1, "alpha");
}

TEST_CASE("SSM_DEBUG: sums and products of the scans, norms and projections are caught just beyond their proofs") {
    const auto good = [](auto f) {
        const Asserted a = caught(f);
        CHECK_MESSAGE(a.failed == 0, std::string(a.first));
    };
    const auto bad = [](auto f, const char* with) {
        const Asserted a = caught(f);
        CHECK_MESSAGE(fires(a, with), std::string(with), ": ", std::string(a.first));
    };
    { // a head: 16 products of v k, 256 of h q, exponents of codes
        std::vector<int32_t> v(max_mimo_rank, int_max), k(256 * max_mimo_rank, 0), q = k, h(256, int_max), o(8), x(8);
        std::vector<int64_t> wide_row(256);
        int32_t              D = 0, X = 0, kept = 0;
        HeadScanQ            a{};
        a.h_in = h.data(), a.w = a.v = v.data(), a.k0 = a.k = k.data(), a.q = q.data(), a.x = x.data(), a.D = &D;
        a.o = o.data(), a.k_stride = 256, a.alpha = 1 << 30, a.clip = int_max, a.N = 256, a.P = 1;
        a.ranks = max_mimo_rank;
        const auto scan = [&] { sink = scalar::scan_q(a); };
        const auto all = [](std::vector<int32_t>& to, int32_t value) { std::fill(to.begin(), to.end(), value); };
        all(k, k_bound), good(scan);
        k.back() += 1, bad(scan, "k_stride + n]), most_sum");
        all(k, 0), all(q, k_bound / 16), good(scan);
        q.back() += 1, bad(scan, "sum[r]");
        all(q, 0), all(h, 0);
        a.X_in = &X, a.wide_row = wide_row.data(), a.h_out = h.data(), a.X_out = &kept;
        X = 31, good(scan); // kept as 40 - X
        X = 32, bad(scan, "between(X, 9, 40)");
        X = 0, h[0] = -32768, bad(scan, "32767");
    }
    { // S4D: a x with |a| far beyond 1
        unsigned char        a[8], b[8] = {}, C[4] = {}, scale[4] = {0, 0, 0, 0x3f};
        std::vector<int32_t> h = {int_max, -int_max};
        int32_t              D = 0, u = 0, s = 0;
        S4dScanQ             g{};
        g.a = a, g.b = b, g.C = C, g.C_scale = scale, g.D = &D, g.h_in = h.data(), g.u = &u, g.s = &s;
        g.stride = g.T = g.H = g.modes = 1, g.b_shift = 1, g.clip = int_max;
        const auto scan = [&] { sink = scalar::s4d_scan_q(g); };
        store_u32(a, 1u << 30), store_u32(a + 4, 0), good(scan);
        store_u32(a, 0x7fffffff), store_u32(a + 4, 0x7fffffff), bad(scan, "product(ar, xr)");
    }
    { // norms: the widest, and one more
        std::vector<int32_t> x(16385, int_max), g(16385, int_max), y(16385);
        good([&] { scalar::rms_norm_q(y.data(), x.data(), g.data(), 16384); });
        bad([&] { scalar::rms_norm_q(y.data(), x.data(), g.data(), 16385); }, "1 << 24");
        x.assign(x.size(), 0), x[0] = int_max; // one number alone: its unit is 2^7
        good([&] { scalar::rms_norm_q(y.data(), x.data(), g.data(), 16384); });
        bad([&] { scalar::rms_norm_q(y.data(), x.data(), g.data(), 16385); }, "product_at_most");
    }
    { // a convolution of more than eight taps
        const int32_t  at = int_max, y0 = 0;
        const int32_t* taps[9] = {&at, &at, &at, &at, &at, &at, &at, &at, &at};
        const int32_t  w[9] = {at, at, at, at, at, at, at, at, at};
        int32_t        y = y0;
        good([&] { scalar::conv_q(&y, taps, w, nullptr, 8, 1); });
        bad([&] { scalar::conv_q(&y, taps, w, nullptr, 9, 1); }, "max_d_conv");
    }
    { // projections: a row of int4 as wide as it may be, codes and scales that no quantizer makes
        std::vector<unsigned char> nibbles(16, 0x88), sub(1, 127), scale = {0xff, 0xff, 0x7f, 0x3f};
        std::vector<signed char>   q(32, 127);
        Matrix                     W;
        W.rows = W.rows4 = 1, W.cols = 32, W.data4 = nibbles.data(), W.sub = sub.data(), W.scale = scale.data();
        good([&] { sink = scalar::dot4(W, 0, q.data()); });
        q.assign(32, -128), bad([&] { sink = scalar::dot4(W, 0, q.data()); }, "at_most(part");
        const std::vector<unsigned char> row(200000, 0);
        const std::vector<signed char>   zeros(200000, 0);
        W.data = row.data(), W.rows4 = 0, W.cols = 16384;
        good([&] { sink = scalar::dot8(W, 0, zeros.data()); });
        W.cols = 200000, bad([&] { sink = scalar::dot8(W, 0, zeros.data()); }, "W.cols");
        int32_t       token[] = {1082196483, 6}; // of the largest token there is
        const int64_t most = int64_t(512) * 32512 * 127;
        good([&] { sink = scalar::requantize(most, token, W, 0, 8); });
        token[0] = int_max, bad([&] { sink = scalar::requantize(most, token, W, 0, 8); }, "product_at_most(acc");
    }
    { // the sums of mean pooling
        Config c;
        c.d_model = 1, c.pool = Pool::mean;
        alignas(8) unsigned char bytes[256] = {};
        const State              s{bytes, sizeof bytes};
        int32_t *                low = words_of<int32_t>(s), *high = low + padded(1), r = 0;
        low[0] = 0, high[0] = 1 << 30, good([&] { pool_mean(c, s, false, &r); });
        low[0] = -1, high[0] = int_max, r = 0, bad([&] { pool_mean(c, s, false, &r); }, "sum_at_most(sum, r[k]");
    }
}
