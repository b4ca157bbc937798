// kernels.cpp - every kernel on every back-end of this machine against scalar: equal bits, at all lengths and
// alignments.
//
// Buffers end where a guard page begins, so that a read or write past the end stops the test.
// SPDX-License-Identifier: MIT
#define SSM_STATIC
#define SSM_IMPLEMENTATION
#include "../ssm.hpp"
#include "back_ends.hpp"
#include "guarded.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace {
using namespace ssm;
using namespace ssm::detail;
using test::Guarded;

std::vector<Isa> others() { // than scalar
    std::vector<Isa> all = test::back_ends();
    all.erase(std::remove(all.begin(), all.end(), Isa::scalar), all.end());
    return all;
}

struct Random {
    std::mt19937 engine{12345};
    float operator()() { return float(int32_t(engine() >> 8) - (1 << 23)) * (1.0f / float(1 << 22)); } // about +-2
    void  fill(float* p, size_t n) {
         for (size_t i = 0; i < n; ++i) p[i] = (*this)();
    }
};

bool same_bits(const float* a, const float* b, size_t n) {
    for (size_t i = 0; i < n; ++i)
        if (bits_of(a[i]) != bits_of(b[i]) && !(a[i] != a[i] && b[i] != b[i])) return false;
    return true;
}
} // namespace

TEST_CASE("N-08 matmul: equal bits for every shape 1..257 wide, and 470, every dtype, odd alignments, batches, in order") {
    Random rnd;
    for (Isa isa : others())
        for (DType t : {DType::f32, DType::f16, DType::bf16})
            for (int32_t cols = 1; cols <= 470; cols += cols < 40 ? 1 : cols < 257 ? 13 : 213)
                for (int32_t rows : {1, 3, 4, 7, 8, 13, 19})
                    for (int32_t n : {1, 3}) {
                        const size_t size = t == DType::f32 ? 4 : 2, skew = size_t(cols % 4);
                        Guarded      W(size_t(rows) * size_t(cols) * size, skew), x(size_t(n) * size_t(cols) * 4),
                            bias(size_t(rows) * 4);
                        for (size_t i = 0; i < size_t(rows) * size_t(cols); ++i) {
                            const float f = rnd();
                            if (t == DType::f32) std::memcpy(W.bytes() + 4 * i, &f, 4);
                            else {
                                const uint16_t h = t == DType::bf16
                                                       ? uint16_t(uint32_t(bits_of(f)) >> 16)
                                                       : uint16_t((rnd.engine() & 0x83ff) | (rnd.engine() % 20) << 10);
                                std::memcpy(W.bytes() + 2 * i, &h, 2);
                            }
                        }
                        rnd.fill(x.floats(), size_t(n) * size_t(cols)), rnd.fill(bias.floats(), size_t(rows));
                        Matrix             m{W.bytes(), rows, cols, t};
                        Guarded            y(size_t(n) * size_t(rows) * 4);
                        std::vector<float> want(size_t(n) * size_t(rows));
                        for (const float* b :
                             {static_cast<const float*>(bias.floats()), static_cast<const float*>(nullptr)}) {
                            test::kernels_of(Isa::scalar).matmul(want.data(), rows, m, b, x.floats(), cols, n);
                            for (bool in_order : {false, true}) {
                                m.in_order = in_order;
                                std::fill(y.floats(), y.floats() + want.size(), 1e30f);
                                test::kernels_of(isa).matmul(y.floats(), rows, m, b, x.floats(), cols, n);
                                REQUIRE_MESSAGE(same_bits(y.floats(), want.data(), want.size()), isa_name(isa), " ",
                                                rows, "x", cols);
                            }
                        }
                    }
}

TEST_CASE("N-08 matmul: close to the exact sum") {
    Random rnd;
    for (int32_t cols : {1, 64, 1000}) {
        const size_t       count = size_t(cols);
        std::vector<float> W(count), x(count);
        rnd.fill(W.data(), W.size()), rnd.fill(x.data(), x.size());
        double exact = 0, size = 0;
        for (size_t i = 0; i < W.size(); ++i)
            exact += double(W[i]) * double(x[i]), size += std::fabs(double(W[i]) * double(x[i]));
        float        y;
        const Matrix m{reinterpret_cast<unsigned char*>(W.data()), 1, cols, DType::f32};
        test::kernels_of(Isa::scalar).matmul(&y, 1, m, nullptr, x.data(), cols, 1);
        CHECK(std::fabs(double(y) - exact) <= size * (double(cols) / 8 + 4) * 6e-8);
    }
}

TEST_CASE("N-08 element-wise kernels and layer_norm: equal bits at lengths 1..257") {
    Random rnd;
    for (Isa isa : others()) {
        const EngineKernels<float>&K = test::kernels_of(isa), &S = test::kernels_of(Isa::scalar);
        for (int32_t n = 1; n <= 257; ++n) {
            const size_t       N = size_t(n);
            Guarded            x(N * 8), y(N * 4), w(N * 4), b(N * 4);
            std::vector<float> want(N);
            rnd.fill(x.floats(), 2 * N), rnd.fill(w.floats(), N), rnd.fill(b.floats(), N);
            for (size_t i = 0; i < 2 * N; i += 5) x.floats()[i] *= 20.0f;
            S.gelu(want.data(), x.floats(), n), K.gelu(y.floats(), x.floats(), n);
            REQUIRE_MESSAGE(same_bits(y.floats(), want.data(), N), "gelu ", n);
            std::memcpy(want.data(), w.floats(), N * 4), std::memcpy(y.floats(), w.floats(), N * 4);
            S.add(want.data(), x.floats(), n), K.add(y.floats(), x.floats(), n);
            REQUIRE_MESSAGE(same_bits(y.floats(), want.data(), N), "add ", n);
            CHECK(want[N - 1] == w.floats()[N - 1] + x.floats()[N - 1]);
            std::memcpy(want.data(), w.floats(), N * 4), std::memcpy(y.floats(), w.floats(), N * 4);
            S.glu(want.data(), x.floats(), n), K.glu(y.floats(), x.floats(), n);
            REQUIRE_MESSAGE(same_bits(y.floats(), want.data(), N), "glu ", n);
            S.layer_norm(want.data(), x.floats(), w.floats(), b.floats(), n);
            K.layer_norm(y.floats(), x.floats(), w.floats(), b.floats(), n);
            REQUIRE_MESSAGE(same_bits(y.floats(), want.data(), N), "layer_norm ", n);
            S.rms_norm(want.data(), x.floats(), w.floats(), n, 24);
            K.rms_norm(y.floats(), x.floats(), w.floats(), n, 24);
            REQUIRE_MESSAGE(same_bits(y.floats(), want.data(), N), "rms_norm ", n);
            S.gate(want.data(), w.floats(), x.floats() + N, n), K.gate(y.floats(), w.floats(), x.floats() + N, n);
            REQUIRE_MESSAGE(same_bits(y.floats(), want.data(), N), "gate ", n);
            for (int32_t taps = 1; taps <= 8; taps += n % 3 + 1) {
                Guarded      t(N * 4 * size_t(taps)), filter(N * 4 * size_t(taps));
                const float* at[8];
                rnd.fill(t.floats(), N * size_t(taps)), rnd.fill(filter.floats(), N * size_t(taps));
                for (int32_t k = 0; k < taps; ++k) at[k] = t.floats() + k * n;
                const float* bias = n % 2 == 0 ? b.floats() : nullptr;
                S.conv(want.data(), at, filter.floats(), bias, taps, n);
                K.conv(y.floats(), at, filter.floats(), bias, taps, n);
                REQUIRE_MESSAGE(same_bits(y.floats(), want.data(), N), "conv ", n);
                double exact = bias != nullptr ? double(bias[n - 1]) : 0.0;
                for (int32_t k = 0; k < taps; ++k)
                    exact += double(at[k][n - 1]) * double(filter.floats()[k * n + n - 1]);
                CHECK(double(want[N - 1]) == doctest::Approx(exact / (1 + std::exp(-exact))).epsilon(1e-4));
            }
        }
    }
}

TEST_CASE("N-04 N-08 s4d_scan and s4d_discretize: equal bits, with and without the clip, NaN, in place and not") {
    Random rnd;
    for (Isa isa : others()) {
        const Kernels &K = test::kernels_of(isa), &S = test::kernels_of(Isa::scalar);
        for (int32_t blocks : {1, 3})
            for (int32_t n : {1, 2, 5, 32})
                for (int32_t T : {1, 2, 9})
                    for (float clip : {FLT_MAX, 1.0f})
                        for (int special : {0, 1}) {
                            const size_t m = size_t(blocks) * size_t(n), wide = size_t(blocks) * 8;
                            Guarded      rho(m * 32), gain(m * 64), turns(m * 64), ab(m * 128), c(m * 64), D(wide * 4),
                                u(wide * 4 * size_t(T)), s(wide * 4 * size_t(T)), h(m * 64), h2(m * 64);
                            std::vector<float> ab_want(m * 32), want(wide * size_t(T)), h_want(m * 16);
                            rnd.fill(rho.floats(), m * 8), rnd.fill(gain.floats(), m * 16),
                                rnd.fill(c.floats(), m * 16), rnd.fill(D.floats(), wide);
                            rnd.fill(u.floats(), wide * size_t(T)), rnd.fill(h_want.data(), m * 16);
                            double* turn = reinterpret_cast<double*>(turns.bytes());
                            for (size_t i = 0; i < m * 8; ++i)
                                rho.floats()[i] = -std::fabs(rho.floats()[i]), turn[i] = double(rnd()) * 30;
                            for (Disc disc : {Disc::zoh, Disc::bilinear}) {
                                const float dt = 0.37f + float(n);
                                S.s4d_discretize(ab_want.data(), rho.floats(), turn, gain.floats(), dt, disc,
                                                 int32_t(m));
                                K.s4d_discretize(ab.floats(), rho.floats(), turn, gain.floats(), dt, disc, int32_t(m));
                                REQUIRE(same_bits(ab.floats(), ab_want.data(), m * 32));
                            }
                            if (special == 1) h_want[3] = std::numeric_limits<float>::quiet_NaN(), h_want[5] = 3e38f;
                            std::memcpy(h.floats(), h_want.data(), m * 64);
                            const bool hit2 = K.s4d_scan({ab.floats(), c.floats(), D.floats(), h.floats(), u.floats(),
                                                          h2.floats(), s.floats(), int32_t(wide), T, blocks, n, clip});
                            const bool hit1 = K.s4d_scan({ab.floats(), c.floats(), D.floats(), h.floats(), u.floats(),
                                                          h.floats(), s.floats(), int32_t(wide), T, blocks, n, clip});
                            const bool hit =
                                S.s4d_scan({ab_want.data(), c.floats(), D.floats(), h_want.data(), u.floats(),
                                            h_want.data(), want.data(), int32_t(wide), T, blocks, n, clip});
                            REQUIRE(hit1 == hit);
                            REQUIRE(hit2 == hit);
                            REQUIRE(same_bits(s.floats(), want.data(), want.size()));
                            REQUIRE(same_bits(h.floats(), h_want.data(), m * 16));
                            REQUIRE(same_bits(h2.floats(), h_want.data(), m * 16));
                            if (special == 1) REQUIRE(hit);
                            for (float v : h_want) REQUIRE((v >= -clip && v <= clip)); // N-04: no NaN passes
                        }
    }
}

TEST_CASE("S4D: the angle of a step keeps the digits of a double: many turns, and what is left of them") {
    for (double turns : {12345.678901234, -0.333333333333, 99999.0123456789, 1e-9})
        for (float dt : {1.0f, 0.37f, 1.00024414f, 999.75f}) {
            const double all = turns * double(dt), left = all - std::nearbyint(all);
            const float  got = ssm::detail::angle_of(turns, dt, ssm::Disc::zoh);
            CAPTURE(turns);
            CAPTURE(dt);
            CHECK(std::fabs(double(got) - left) <= 6e-8 * std::fabs(left) + 1e-15);
            CHECK(ssm::detail::angle_of(turns, dt, ssm::Disc::bilinear) == float(turns) * dt);
        }
}
