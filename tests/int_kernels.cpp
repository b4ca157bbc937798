// int_kernels.cpp - every integer kernel on every back-end of this machine against the slow engine's plain loops: all
// products, all lengths, odd alignments, and the edges where a shift, a sum or a limit decides.
//
// Buffers end where a guard page begins and are filled with a pattern, so that a read or write past the end stops the
// test and a stray read shows. SPDX-License-Identifier: MIT
#define SSM_STATIC
#define SSM_IMPLEMENTATION
#include "../ssm.hpp"
#include "back_ends.hpp"
#include "guarded.hpp"
#include "int_reference.hpp"

#include <algorithm>
#include <random>

namespace {
using namespace ssm;
using namespace ssm::detail;
using test::Guarded;
namespace ref = int_reference;

constexpr int     pattern = 0x6b;
constexpr int64_t most_k = 189812531; // sqrt 2 times 2^27: as far as a rotation reaches

struct Random {
    std::mt19937_64 engine{1};
    int64_t         below(int64_t n) { return int64_t(engine() % uint64_t(n)); }
    int64_t         within(int64_t most) { return below(2 * most + 1) - most; }
    int32_t         one_of(std::initializer_list<int32_t> list) { return list.begin()[below(int64_t(list.size()))]; }
    int64_t         sized(int64_t most) { // any order of magnitude
        const int64_t size = std::min<int64_t>(most, below(int64_t(1) << below(32)));
        return below(2) == 0 ? size : -size;
    }
    // A number of one of five kinds, i-th of a vector: anything; a limit; limits alternating; zero; any size.
    int64_t number(int64_t most, int kind, size_t i) {
        return kind == 0   ? within(most)
               : kind == 1 ? (below(2) == 0 ? most : -most)
               : kind == 2 ? (i % 2 == 0 ? most : -most)
               : kind == 3 ? 0
                           : sized(most);
    }
    // n of them; or one alone at a limit, the others zero.
    static constexpr int kinds = 6, one_hot = 5;

    ref::Vec vector(size_t n, int64_t most, int kind) {
        ref::Vec v(n, 0);
        if (kind == one_hot && n > 0) v[size_t(below(int64_t(n)))] = number(most, 1, 0);
        for (size_t i = 0; i < n && kind != one_hot; ++i) v[i] = number(most, kind, i);
        return v;
    }
};

// `v` as int32 in front of a guard page.
int32_t* put(Guarded& to, const ref::Vec& v, size_t more = 0) {
    int32_t* const p = to.of((v.size() + more) * 4).words();
    for (size_t i = 0; i < v.size(); ++i) p[i] = static_cast<int32_t>(v[i]);
    return p;
}
bool same(const int32_t* got, const ref::Vec& want) {
    for (size_t i = 0; i < want.size(); ++i)
        if (got[i] != want[i]) return false;
    return true;
}
void store_bits(unsigned char* p, uint32_t bits) { std::memcpy(p, &bits, 4); } // these machines are little-endian

// A projection twice: a Matrix of bytes for the kernels, and the slow engine's.
struct Table {
    size_t          big;
    Guarded         data, data4, sub, scale, bias;
    Matrix          m;
    ref::Projection p;

    explicit Table(size_t bytes)
        : big(bytes), data(big, 0, pattern), data4(big, 0, pattern), sub(big, 0, pattern), scale(big, 0, pattern),
          bias(big, 0, pattern) {}
    void shape(int32_t rows, int32_t rows4, int32_t cols, bool with_bias, size_t skew) {
        const size_t O = size_t(rows), four = size_t(rows4), K = size_t(cols), groups = (K + 31) / 32;
        m = Matrix();
        m.rows = rows, m.rows4 = rows4, m.cols = cols, m.dtype = rows4 > 0 ? DType::i4 : DType::i8;
        m.data = data.of((O - four) * K, skew).bytes(), m.data4 = data4.of(four * groups * 16, skew).bytes();
        m.sub = sub.of(four * groups, skew).bytes(), m.scale = scale.of(O * 4, skew).bytes();
        m.bias = with_bias ? bias.of(O * 4, skew).bytes() : nullptr;
        p = ref::Projection();
        p.O = rows, p.K = cols, p.Kp = int64_t(groups) * 32, p.rows4 = rows4;
        p.q8.assign((O - four) * K, 0), p.subs.assign(four * groups, 0), p.scale.resize(O);
        if (with_bias) p.bias.assign(O, 0);
    }
    void set_scale(size_t o, uint32_t bits) {
        float f;
        std::memcpy(&f, &bits, 4);
        p.scale[o] = ref::scale_of(f), store_bits(scale.bytes() + 4 * o, bits);
    }
    void set_bias(size_t o, int64_t v) { p.bias[o] = v, store_bits(bias.bytes() + 4 * o, static_cast<uint32_t>(v)); }
    void set_codes(const ref::Vec& q8) {
        p.q8 = q8;
        for (size_t i = 0; i < q8.size(); ++i) data.bytes()[i] = static_cast<unsigned char>(q8[i]);
    }
    void set_codes4(const std::vector<uint8_t>& nibbles, const ref::Vec& subs) {
        p.unpack(nibbles), p.subs = subs;
        std::copy(nibbles.begin(), nibbles.end(), data4.bytes());
        for (size_t i = 0; i < subs.size(); ++i) sub.bytes()[i] = static_cast<unsigned char>(subs[i]);
    }
    // Weights of one kind (Random::vector), scales of any size or (ordinary) just below 1.
    void fill(Random& rnd, int kind, bool any_scale) {
        set_codes(rnd.vector(p.q8.size(), 127, kind));
        std::vector<uint8_t> nibbles(size_t(m.rows4) * size_t(p.Kp) / 2);
        for (size_t i = 0; i < nibbles.size(); ++i)
            nibbles[i] = kind == 1   ? 0x88
                         : kind == 2 ? (i % 2 == 0 ? 0x77 : 0x88)
                         : kind == 3 ? 0
                                     : static_cast<uint8_t>(rnd.below(256));
        set_codes4(nibbles, rnd.vector(p.subs.size(), 127, kind == 1 ? 2 : kind));
        for (size_t o = 0; o < p.scale.size(); ++o) {
            const int64_t E = any_scale ? 1 + rnd.below(126) : 110 + rnd.below(17);
            set_scale(o, static_cast<uint32_t>(E << 23 | rnd.below(int64_t(1) << 23)));
            if (!p.bias.empty()) set_bias(o, rnd.sized(ref::largest));
        }
    }
};

// The tokens through quantize and matmul_q of every back-end, rows in order and all at once, held against the slow
// engine.
struct Projector {
    Guarded x, codes, scales, y;
    explicit Projector(size_t bytes)
        : x(bytes, 0, pattern), codes(bytes, 0, pattern), scales(bytes, 0, pattern), y(bytes, 0, pattern) {}

    bool agrees(const Table& t, const std::vector<ref::Vec>& tokens, int32_t bits) {
        const int32_t           n = int32_t(tokens.size()), cols = t.m.cols, wide = (cols + 31) / 32 * 32;
        const int32_t           code_stride = wide * bits / 8, y_stride = t.m.rows + n % 3;
        std::vector<ref::Vec>   want;
        std::vector<ref::Codes> code;
        for (const ref::Vec& v : tokens) want.push_back(t.p(v, bits)), code.push_back(ref::quantize(v, bits));
        for (Isa isa : test::back_ends()) {
            const Kernels&       K = test::kernels_of(isa);
            unsigned char* const q = codes.of(size_t(n * code_stride)).bytes();
            int32_t* const       scale = scales.of(size_t(n) * 8).words();
            int32_t* const       to = y.of(size_t((n - 1) * y_stride + t.m.rows) * 4).words();
            for (int32_t i = 0; i < n; ++i) {
                const ref::Codes&    c = code[size_t(i)];
                unsigned char* const qi = q + i * code_stride;
                K.quantize(qi, scale + 2 * i, put(x, tokens[size_t(i)]), cols, wide, bits);
                if (scale[2 * i] != c.num || scale[2 * i + 1] != c.den) return false;
                for (int32_t k = 0; k < wide; ++k) {
                    int16_t got = static_cast<signed char>(qi[k]);
                    if (bits == 16) std::memcpy(&got, qi + 2 * k, 2);
                    if (got != (k < cols ? c.q[size_t(k)] : 0)) return false;
                }
            }
            Matrix m = t.m;
            for (bool in_order : {false, true}) {
                m.in_order = in_order;
                std::fill(to, to + (n - 1) * y_stride + m.rows, 12345);
                K.matmul_q(m, {to, y_stride, q, code_stride, scale}, n, bits);
                for (int32_t i = 0; i < n; ++i) {
                    if (!same(to + i * y_stride, want[size_t(i)])) return false;
                    if (i + 1 < n && y_stride > m.rows && to[i * y_stride + m.rows] != 12345) return false;
                }
            }
        }
        return true;
    }
};
} // namespace

TEST_CASE("N-06 N-07 integer matmul: every product of two int8 codes, at every place of a row (slow)") {
    // T = 2^29 and a shift by 29 give the sum itself.
    Table    t(1 << 16);
    Guarded  codes(255 * 64, 0, pattern), y(255 * 255 * 4, 0, pattern);
    ref::Vec scales(510, 0);
    for (size_t i = 0; i < 510; i += 2) scales[i] = 1 << 30, scales[i + 1] = 29;
    Guarded              scale_memory(510 * 4, 0, pattern);
    const int32_t* const scale = put(scale_memory, scales);
    for (int32_t cols : {1, 31, 32, 33, 64}) {
        const int32_t stride = (cols + 31) / 32 * 32;
        t.shape(255, 0, cols, false, size_t(cols % 4));
        for (size_t o = 0; o < 255; ++o) t.set_scale(o, 126u << 23);
        for (int32_t at = 0; at<cols; at += cols> 1 && at > 0 && at + 1 < cols && cols != 33 ? 5 : 1) {
            ref::Vec w(size_t(255 * cols), 0);
            for (int32_t o = 0; o < 255; ++o) w[size_t(o * cols + at)] = o - 127;
            t.set_codes(w);
            unsigned char* const q = codes.of(size_t(255 * stride)).bytes();
            std::memset(q, 0, size_t(255 * stride));
            for (int32_t i = 0; i < 255; ++i) q[i * stride + at] = static_cast<unsigned char>(i - 127);
            for (Isa isa : test::back_ends()) {
                int32_t wrong = 0;
                test::kernels_of(isa).matmul_q(t.m, {y.words(), 255, q, stride, scale}, 255, 8);
                for (int32_t i = 0; i < 255; ++i)
                    for (int32_t o = 0; o < 255; ++o) wrong += y.words()[i * 255 + o] != (o - 127) * (i - 127);
                REQUIRE_MESSAGE(wrong == 0, isa_name(isa), ", ", cols, " columns, at ", at);
            }
        }
    }
}

TEST_CASE("N-06 N-07 integer matmul: every product of an int4 code, a sub-scale and an int8 code (slow)") {
    constexpr int32_t rows = 16 * 255, tokens = 255;
    Table             t(size_t(rows) * 64);
    Guarded           codes(tokens * 64, 0, pattern), y(size_t(rows) * tokens * 4, 0, pattern);
    ref::Vec          scales(2 * tokens, 0);
    for (size_t i = 0; i < scales.size(); i += 2) scales[i] = 1 << 30, scales[i + 1] = 29;
    Guarded              scale_memory(scales.size() * 4, 0, pattern);
    const int32_t* const scale = put(scale_memory, scales);
    for (int32_t at : {0, 15, 16, 31, 32, 46}) { // both nibbles of first and last bytes, of either group
        const int32_t cols = at < 32 ? 32 : 47, stride = (cols + 31) / 32 * 32;
        t.shape(rows, rows, cols, false, 1);
        std::vector<uint8_t> nibbles(size_t(rows * stride / 2), 0);
        ref::Vec             subs(size_t(rows * stride / 32), 0);
        for (int32_t o = 0; o < rows; ++o) {
            const int32_t byte = at / 32 * 16 + at % 16, code = o % 16 - 8;
            t.set_scale(size_t(o), 126u << 23);
            nibbles[size_t(o * stride / 2 + byte)] = static_cast<uint8_t>((code & 15) << (at % 32 < 16 ? 0 : 4));
            subs[size_t(o * stride / 32 + at / 32)] = o / 16 - 127;
        }
        t.set_codes4(nibbles, subs);
        unsigned char* const q = codes.of(size_t(tokens * stride)).bytes();
        std::memset(q, 0, size_t(tokens * stride));
        for (int32_t i = 0; i < tokens; ++i) q[i * stride + at] = static_cast<unsigned char>(i - 127);
        for (Isa isa : test::back_ends()) {
            int32_t wrong = 0;
            test::kernels_of(isa).matmul_q(t.m, {y.words(), rows, q, stride, scale}, tokens, 8);
            for (int32_t i = 0; i < tokens; ++i)
                for (int32_t o = 0; o < rows; ++o)
                    wrong += y.words()[i * rows + o] != (o % 16 - 8) * (o / 16 - 127) * (i - 127);
            REQUIRE_MESSAGE(wrong == 0, isa_name(isa), ", at ", at);
        }
    }
}

TEST_CASE("N-06 N-07 quantize and integer matmul: 1..257 columns, int8, int4 and mixed rows, 8 and 16 bits, limits and zeros") {
    Random    rnd;
    Table     t(1 << 14);
    Projector projector(1 << 14);
    for (int32_t cols = 1; cols <= 257; ++cols)
        for (int32_t bits : {8, 16})
            for (int32_t kind = 0; kind < Random::kinds; ++kind) {
                const int32_t rows = rnd.one_of({1, 2, 3, 4, 5, 8, 9, 13, 19});
                const int32_t rows4 = int32_t(rnd.below(3) == 0 ? 0 : rnd.below(3) == 0 ? rows : rnd.below(rows + 1));
                t.shape(rows, rows4, cols, rnd.below(2) == 0, size_t(rnd.below(4)));
                t.fill(rnd, kind, rnd.below(2) == 0);
                std::vector<ref::Vec> tokens;
                for (int64_t n = rnd.below(rnd.below(4) == 0 ? 9 : 3); n >= 0; --n) {
                    const int64_t most = rnd.below(2) == 0 ? ref::largest : 1 + rnd.below(int64_t(1) << rnd.below(31));
                    tokens.push_back(rnd.vector(size_t(cols), most, (kind + int(n)) % Random::kinds));
                }
                REQUIRE_MESSAGE(projector.agrees(t, tokens, bits), cols, " columns, ", rows, " rows, ", rows4,
                                " of int4, ", bits, " bits, kind ", kind);
            }
    // No numbers at all: padding alone.
    for (Isa isa : test::back_ends())
        for (int32_t bits : {8, 16}) {
            Guarded codes(size_t(32 * bits / 8), 0, pattern), scale(8, 0, pattern), x(0, 0, pattern);
            test::kernels_of(isa).quantize(codes.bytes(), scale.words(), x.words(), 0, 32, bits);
            for (int32_t k = 0; k < 32 * bits / 8; ++k) REQUIRE(codes.bytes()[k] == 0);
            REQUIRE(scale.words()[0] == 0);
        }
}

TEST_CASE("N-07 integer matmul: a million random pairs of a row and a token (slow)") {
    Random    rnd;
    Table     t(1 << 13);
    Projector projector(1 << 13);
    int64_t   pairs = 0;
    while (pairs < 1000000) {
        const int32_t cols = int32_t(1 + rnd.below(48)), rows = 16, bits = rnd.below(4) == 0 ? 16 : 8;
        t.shape(rows, int32_t(rnd.below(17)), cols, rnd.below(2) == 0, 0);
        t.fill(rnd, int(rnd.below(2)) * 4, rnd.below(8) == 0);
        std::vector<ref::Vec> tokens;
        for (int i = 0; i < 24; ++i) tokens.push_back(rnd.vector(size_t(cols), rnd.below(ref::largest), i % 2 * 4));
        REQUIRE(projector.agrees(t, tokens, bits));
        pairs += int64_t(rows) * 24;
    }
}

TEST_CASE("N-06 integer matmul: total shifts up to 62, 63, 64 and far beyond, at the widest rows (slow)") {
    Random    rnd;
    Table     t(1 << 19);
    Projector projector(1 << 18);
    for (int32_t bits : {8, 16})
        for (int32_t cols : {1, 40, 16384})
            for (int32_t size : {0, 1, 15, 30}) { // of the token: bits below 2^31
                const int32_t den = size + (bits == 8 ? 6 : 14);
                for (int32_t shift : {2,  6,  20, 30, 31, 32, 33, 45, 53, 54,  55,  56,  57,  58, 59,
                                      60, 61, 62, 63, 64, 65, 66, 70, 96, 127, 128, 129, 150, 158}) {
                    const int32_t e = shift + (bits == 8 ? 24 : 37) - den;
                    if (e < 24 || e > 149) continue;
                    t.shape(9, 4, cols, rnd.below(2) == 0, 0);
                    t.fill(rnd, cols == 16384 ? 1 : int(rnd.below(2)), false);
                    if (cols == 16384) { // each row all of one sign: the largest sums
                        ref::Vec q8(size_t(cols) * 5, 127);
                        std::fill(q8.begin(), q8.begin() + 2 * cols, -127);
                        t.set_codes(q8);
                        ref::Vec subs(t.p.subs.size(), 127);
                        std::fill(subs.begin(), subs.begin() + std::ptrdiff_t(subs.size() / 2), -127);
                        t.set_codes4(std::vector<uint8_t>(t.p.q4.size() / 2, 0x88), subs);
                    }
                    for (size_t o = 0; o < 9; ++o)
                        t.set_scale(o, uint32_t(150 - e) << 23 | (o % 3 == 0   ? 0x7fffffu
                                                                  : o % 3 == 1 ? 0u
                                                                               : 0x2aaaaau));
                    const int64_t top = (int64_t(1) << (31 - size)) - 1;
                    for (int64_t sign : {1, -1})
                        REQUIRE_MESSAGE(projector.agrees(t, {ref::Vec(size_t(cols), sign * top)}, bits), cols,
                                        " columns, ", bits, " bits, shift ", shift);
                }
            }
}

TEST_CASE("integer matmul: half a million weights and more, one token and some, columns in odd pieces") {
    Random    rnd;
    Table     t(1 << 21);
    Projector projector(1 << 17);
    const struct {
        int32_t rows, rows4, cols;
    } shapes[] = {{251, 0, 2100}, {257, 257, 2081}, {131, 70, 4119}, {36, 20, 16384}, {2731, 1367, 193}};
    for (const auto& s : shapes)
        for (int32_t n : {1, 3}) {
            t.shape(s.rows, s.rows4, s.cols, n == 1, size_t(n));
            t.fill(rnd, 0, false);
            std::vector<ref::Vec> tokens;
            for (int32_t i = 0; i < n; ++i) tokens.push_back(rnd.vector(size_t(s.cols), ref::largest, i % 2 * 4));
            REQUIRE_MESSAGE(projector.agrees(t, tokens, 8), s.rows, " rows of ", s.cols, ", ", n, " tokens");
        }
}

TEST_CASE("N-06 integer matmul: results at 2^30 and 2^31 - 1 of either sign, and one to either side") {
    Random    rnd;
    Table     t(1 << 12);
    Projector projector(1 << 12);
    for (int round = 0; round < 3000; ++round) {
        const int32_t cols = int32_t(1 + rnd.below(40)), bits = round % 3 == 0 ? 16 : 8;
        t.shape(8, int32_t(rnd.below(3)) * 4, cols, true, 0);
        t.fill(rnd, int(rnd.below(2)), false);
        const ref::Vec x = rnd.vector(size_t(cols), int64_t(1) << rnd.below(31), int(rnd.below(2)));
        for (size_t o = 0; o < 8; ++o) t.set_bias(o, 0);
        const ref::Vec plain = t.p(x, bits);
        for (size_t o = 0; o < 8; ++o) {
            const int64_t size = o % 2 == 0 ? int64_t(1) << 30 : int64_t(1) << 31;
            const int64_t want = (o % 4 < 2 ? size : -size) + rnd.within(2), bias = want - plain[o];
            t.set_bias(o, std::min(std::max(bias, -ref::largest), ref::largest));
        }
        REQUIRE(projector.agrees(t, {x}, bits));
    }
}

TEST_CASE("N-07 integer element-wise kernels: lengths 0..257, limits, zeros, and what the definition gives") {
    Random  rnd;
    Guarded a(1 << 13, 0, pattern), b(1 << 13, 0, pattern), c(1 << 13, 0, pattern), d(1 << 13, 0, pattern);
    Guarded taps_memory(1 << 14, 0, pattern), filter_memory(1 << 14, 0, pattern);
    for (int32_t n = 0; n <= 257; ++n)
        for (int kind = 0; kind < Random::kinds; ++kind) {
            const size_t  N = size_t(n);
            const int64_t most = kind < 3 && rnd.below(2) == 0 ? int64_t(1) << (14 + rnd.below(8)) : ref::largest;
            const auto    x = rnd.vector(N, most, kind), r = rnd.vector(N, ref::largest, int(rnd.below(6)));
            const auto    v = rnd.vector(2 * N, most, kind), g = rnd.vector(N, ref::largest, int(rnd.below(6)));
            ref::Vec      sum, gelu, glu, gate, conv;
            const int32_t taps = int32_t(1 + rnd.below(8));
            const bool    biased = rnd.below(2) == 0;
            const auto    past = rnd.vector(N * size_t(taps), most, kind);
            const auto    filter = rnd.vector(N * size_t(taps), ref::largest, int(rnd.below(6)));
            for (size_t i = 0; i < N; ++i) {
                sum.push_back(ref::sat(r[i] + x[i])), gelu.push_back(ref::GELU(x[i]));
                glu.push_back(ref::sat(r[i] + ref::rs(ref::mul(v[i], ref::sigmoid(ref::to26(v[N + i]))), 30)));
                gate.push_back(ref::sat(ref::rs(ref::mul(r[i], ref::SiLU(x[i])), 16)));
                int64_t s = biased ? g[i] : 0;
                for (size_t k = 0; k < size_t(taps); ++k)
                    s += ref::rs(ref::mul(past[k * N + i], filter[k * N + i]), 16);
                conv.push_back(ref::SiLU(ref::sat(s)));
            }
            for (Isa isa : test::back_ends()) {
                const EngineKernels<int32_t>& K = test::kernels_of(isa);
                const auto                    is = [&](const int32_t* got, const ref::Vec& want, const char* what) {
                    REQUIRE_MESSAGE(same(got, want), isa_name(isa), " ", what, " ", n, " kind ", kind);
                };
                int32_t* y = put(a, r);
                K.add(y, put(b, x), n), is(y, sum, "add");
                y = a.of(N * 4).words();
                K.gelu(y, put(b, x), n), is(y, gelu, "gelu");
                y = put(a, x);
                K.gelu(y, y, n), is(y, gelu, "gelu in place");
                y = put(a, r);
                K.glu(y, put(b, v), n), is(y, glu, "glu");
                y = put(a, r);
                K.gate(y, y, put(b, x), n), is(y, gate, "gate in place");
                y = a.of(N * 4).words();
                K.gate(y, put(c, r), put(b, x), n), is(y, gate, "gate");
                const int32_t* at[8];
                const int32_t* first = put(taps_memory, past);
                for (int32_t k = 0; k < taps; ++k) at[k] = first + k * n;
                y = a.of(N * 4).words();
                K.conv(y, at, put(filter_memory, filter), biased ? put(d, g) : nullptr, taps, n), is(y, conv, "conv");
                if (n == 0) continue;
                const auto beta = rnd.vector(N, ref::largest, int(rnd.below(6)));
                y = put(a, x);
                K.layer_norm(y, y, put(b, g), put(c, beta), n), is(y, ref::layer_norm(x, g, beta), "layer_norm");
                for (int32_t s : {20, 24}) {
                    y = a.of(N * 4).words();
                    K.rms_norm(y, put(d, x), put(b, g), n, s), is(y, ref::rms_norm(x, g, s), "rms_norm");
                }
            }
        }
}

TEST_CASE(
    "integer norms: wide rows up to the widest, where units of one number leave 32 bits if no mean is taken off") {
    Random  rnd;
    Guarded a(1 << 16, 0, pattern), b(1 << 16, 0, pattern), c(1 << 16, 0, pattern), d(1 << 16, 0, pattern);
    for (size_t n : {size_t(1000), size_t(4095), size_t(4096), size_t(4097), size_t(16383), size_t(16384)})
        for (int kind = 0; kind < Random::kinds + 3; ++kind) {
            auto       x = rnd.vector(n, kind == 0 ? 1000000 : ref::largest, kind % Random::kinds);
            const auto g = rnd.vector(n, ref::largest, 1), beta = rnd.vector(n, ref::largest, 0);
            if (kind >= Random::kinds) // one at a limit, the rest at the other
                x.assign(n, kind % 2 == 0 ? -ref::largest : ref::largest), x[n / 2 + 1] *= -1;
            if (kind ==
                Random::kinds + 2) // of all numbers alone in 16,384 places, this gets the largest unit: 2^31 + 4
                x.assign(n, 0), x[n / 2 + 1] = 16006122 << 6;
            const auto layer = ref::layer_norm(x, g, beta), rms = ref::rms_norm(x, g, 24);
            for (Isa isa : test::back_ends()) {
                const EngineKernels<int32_t>& K = test::kernels_of(isa);
                int32_t* const                y = a.of(n * 4).words();
                K.layer_norm(y, put(b, x), put(c, g), put(d, beta), int32_t(n));
                REQUIRE_MESSAGE(same(y, layer), isa_name(isa), " layer_norm ", n, " kind ", kind);
                K.rms_norm(y, put(b, x), put(c, g), int32_t(n), 24);
                REQUIRE_MESSAGE(same(y, rms), isa_name(isa), " rms_norm ", n, " kind ", kind);
            }
        }
}

namespace {
// One head's scan on every back-end against the slow engine's rows: states, read-outs, exponents, whether a limit was
// met; in place, into other memory, and with the new state dropped.
struct HeadCase {
    size_t   N = 1, P = 1, R = 1, first_row = 0, k_gap = 0;
    bool     codes = false, before = false, each = false;
    int64_t  clip = int64_t(50) << 25, alpha = 0;
    ref::Vec w, k0, v, k, q, x, D, h, alphas, X; // w, v, x [R][P]; k0, k, q [R][N]; h [P][N]; alphas [N]; D, X [P]

    ref::Vec new_h, new_X, o;
    int64_t  clipped = 0;
    void     expect() {
            new_h.clear(), new_X.clear(), clipped = 0, o.assign(R * P, 0);
            for (size_t p = 0; p < P; ++p) {
                ref::Row row;
                row.h.assign(h.begin() + std::ptrdiff_t(p * N), h.begin() + std::ptrdiff_t((p + 1) * N));
                row.X = codes ? X[p] : 40;
                ref::Vec addend(N, 0);
                for (size_t n = 0; n < N; ++n)
                for (size_t r = 0; r < R; ++r) {
                        if (before) addend[n] = ref::add(addend[n], ref::mul(w[r * P + p], k0[r * N + n]));
                    addend[n] = ref::add(addend[n], ref::mul(v[r * P + p], k[r * N + n]));
                }
            row.step(codes, each ? alphas : ref::Vec(N, alpha), addend, ref::Vec(N, 0), clip, &clipped);
                for (size_t r = 0; r < R; ++r) {
                    int64_t sum = 0;
                    for (size_t n = 0; n < N; ++n) sum = ref::add(sum, ref::mul(row.h[n], q[r * N + n]));
                const int64_t skip = ref::rs(ref::mul(D[p], x[r * P + p]), 16);
                    o[r * P + p] = ref::sat(ref::add(ref::rs(sum, codes ? row.X : 25), skip));
            }
                new_h.insert(new_h.end(), row.h.begin(), row.h.end()), new_X.push_back(row.X);
        }
    }
};
struct Scanner {
    static constexpr size_t big = 1 << 15;
    struct Buffer : Guarded {
        Buffer() : Guarded(big, 0, pattern) {}
    };
    Buffer w, k0, v, k, q, x, D, h, h2, alphas, X, X2, o, wide;

    // [R][N] numbers, ranks `gap` further apart than N. Kernels may load one number past the last.
    static int32_t* ranked(Guarded& to, const ref::Vec& from, size_t R, size_t N, size_t gap) {
        int32_t* const p = to.of((R * (N + gap) - gap + 1) * 4).words();
        for (size_t i = 0; i < from.size(); ++i) p[i / N * (N + gap) + i % N] = static_cast<int32_t>(from[i]);
        return p;
    }
    bool agrees(HeadCase& c) {
        c.expect();
        const size_t rows = c.first_row + c.P, words = c.codes ? (rows * c.N + 1) / 2 : c.P * c.N,
                     at = c.codes ? c.first_row * c.N : 0;
        const auto put_h = [&](Guarded& to) {
            int32_t* const p = to.of(words * 4).words();
            for (size_t i = 0; i < c.h.size(); ++i)
                if (c.codes) set_code(p, at + i, static_cast<int32_t>(c.h[i]));
                else p[i] = static_cast<int32_t>(c.h[i]);
            return p;
        };
        const auto put_X = [&](Guarded& to) {
            int32_t* const p = to.of((rows + 3) / 4 * 4).words();
            for (size_t i = 0; i < c.P; ++i) set_exponent(p, c.first_row + i, static_cast<int32_t>(40 - c.X[i]));
            return p;
        };
        for (Isa isa : test::back_ends())
            for (int where = 0; where < 3; ++where) { // in place, elsewhere, nowhere
                HeadScanQ a{};
                a.k_stride = std::ptrdiff_t(c.N + c.k_gap);
                a.k = ranked(k, c.k, c.R, c.N, c.k_gap), a.q = ranked(q, c.q, c.R, c.N, c.k_gap);
                if (c.before) a.w = put(w, c.w), a.k0 = ranked(k0, c.k0, c.R, c.N, c.k_gap);
                a.v = put(v, c.v), a.x = put(x, c.x), a.D = put(D, c.D), a.D_step = 1;
                a.o = o.of(c.R * c.P * 4).words();
                int32_t* const from = put_h(h);
                int32_t*       to = where == 0 ? from : where == 1 ? h2.of(words * 4).words() : nullptr;
                a.h_in = from, a.h_out = to;
                if (c.each) a.alpha_each = put(alphas, c.alphas);
                if (c.codes) {
                    int32_t* const old = put_X(X);
                    a.X_in = old, a.X_out = where == 0 ? old : where == 1 ? X2.of((rows + 3) / 4 * 4).words() : nullptr;
                    a.wide_row = wide.of(c.N * 8).wide(), a.row = std::ptrdiff_t(c.first_row);
                }
                a.alpha = static_cast<int32_t>(c.alpha), a.clip = static_cast<int32_t>(c.clip);
                a.N = int32_t(c.N), a.P = int32_t(c.P), a.ranks = int32_t(c.R);
                if (test::kernels_of(isa).scan_q(a) != (c.clipped > 0) || !same(a.o, c.o)) return false;
                for (size_t i = 0; to != nullptr && i < c.h.size(); ++i)
                    if ((c.codes ? code_at(to, at + i) : to[i]) != c.new_h[i]) return false;
                for (size_t i = 0; to != nullptr && c.codes && i < c.P; ++i)
                    if (40 - exponent_at(a.X_out, c.first_row + i) != c.new_X[i]) return false;
                if (where == 2 && !c.codes && !same(from, c.h)) return false;
            }
        return true;
    }
};
HeadCase head_case(Random& rnd, size_t N, int kind) {
    HeadCase c;
    c.N = N, c.P = size_t(1 + rnd.below(5)), c.R = size_t(rnd.one_of({1, 1, 1, 2, 3, 4, 5, 8}));
    c.k_gap = size_t(rnd.below(3)), c.codes = rnd.below(4) == 0, c.first_row = c.codes ? size_t(rnd.below(7)) : 0;
    c.each = rnd.below(5) == 0, c.before = c.R > 1 || rnd.below(2) == 0;
    c.clip = rnd.one_of({1, 50 << 25, (50 << 25) + 1, int_max, 1 << 20, 40 << 25});
    c.alpha = rnd.below(3) == 0 ? rnd.one_of({0, 1, 1 << 30, (1 << 30) - 1}) : rnd.below((int64_t(1) << 30) + 1);
    // Terms that add up to any size: small ones leave room for the quick way, large ones do not.
    const int64_t v = rnd.below(3) == 0 ? ref::largest : int64_t(1) << (10 + rnd.below(18)),
                  k = rnd.below(3) == 0 ? most_k : int64_t(1) << (10 + rnd.below(17));
    const auto any = [&](size_t n, int64_t most) { return rnd.vector(n, most, rnd.below(3) == 0 ? 0 : kind); };
    c.w = any(c.R * c.P, v), c.v = any(c.R * c.P, v), c.k0 = any(c.R * N, k), c.k = any(c.R * N, k);
    c.q = any(c.R * N, most_k / 16), c.x = any(c.R * c.P, ref::largest), c.D = any(c.P, ref::largest);
    c.h = any(c.P * N, c.codes ? 32767 : c.clip);
    for (size_t n = 0; n < N; ++n) c.alphas.push_back(rnd.below((int64_t(1) << 30) + 1));
    for (size_t p = 0; p < c.P; ++p) c.X.push_back(9 + rnd.below(32));
    return c;
}
} // namespace

TEST_CASE("N-07 integer head scan: N 1..257, 1 to 8 ranks, both kinds of state, every clip, any size of terms") {
    Random  rnd;
    Scanner scanner;
    for (size_t N = 1; N <= 257; ++N)
        for (int round = 0; round < (N <= 40 ? 60 : 12); ++round) {
            HeadCase c = head_case(rnd, std::min<size_t>(N, 256), round % Random::kinds);
            REQUIRE_MESSAGE(scanner.agrees(c), "N ", N, " ranks ", c.R, " codes ", c.codes, " round ", round);
        }
}

TEST_CASE("integer head scan: on both sides of the bound below which 32 bits are enough (slow)") {
    // The bound of the quick way: (largest |h| + 1) 2^21 + sum_r (max|v| max|k| + max|w| max|k0|) < 2^52. The terms of
    // rank 0 are chosen to come out just below, at, and just above; all signs agree, so that h' is as large as it gets.
    Random        rnd;
    Scanner       scanner;
    int           below = 0, above = 0;
    const int64_t bound = int64_t(1) << 52;
    for (int round = 0; round < 4000; ++round) {
        HeadCase c = head_case(rnd, size_t(rnd.one_of({1, 7, 8, 9, 16, 17, 64, 256})), round % 2 == 0 ? 1 : 0);
        c.codes = c.each = false, c.first_row = 0, c.R = size_t(rnd.one_of({1, 2, 4})),
        c.before = c.R > 1 || round % 3 == 0;
        c.clip = rnd.one_of({50 << 25, (50 << 25) - 1, (50 << 25) + 1, int_max, 1 << 25});
        c.alpha = rnd.below(4) == 0 ? (1 << 30) - 1 : 1 << 30;
        const int64_t sign = rnd.below(2) == 0 ? 1 : -1;
        const int64_t h = c.clip > int64_t(50) << 25 ? rnd.below(int64_t(50) << 25) : c.clip;
        c.h.assign(c.P * c.N, sign * h);
        const auto filled = [&](size_t n, int64_t value) { return ref::Vec(n, value); };
        c.v = c.w = filled(c.R * c.P, 1 << 15), c.k = c.k0 = filled(c.R * c.N, sign * (1 << 20));
        c.q = rnd.vector(c.R * c.N, most_k / 16, 1), c.x = rnd.vector(c.R * c.P, ref::largest, 0);
        const int64_t used = (h + 1) * (1 << 21) + int64_t(c.before ? 2 * c.R - 1 : c.R - 1) * (int64_t(1) << 35);
        // One element alone has the largest v, or all of them.
        const int64_t k = int64_t(1) << (23 + rnd.below(4)), rest = bound - used, v = rest / k + rnd.within(1);
        if (v < 1 || v > ref::largest) continue;
        for (size_t p = 0; p < c.P; ++p)
            if (p + 1 == c.P || round % 2 == 0) c.v[p] = v;
        for (size_t n = 0; n < c.N; ++n)
            if (n + 1 == c.N || round % 4 < 2) c.k[n] = sign * k;
        (used + v * k < bound ? below : above) += 1;
        REQUIRE_MESSAGE(scanner.agrees(c), "N ", c.N, " ranks ", c.R, " clip ", c.clip, " round ", round);
    }
    CHECK(below > 500);
    CHECK(above > 500);
}

TEST_CASE("integer head scan: numbers whose first rounding, by 9 bits, decides the second, by 21") {
    // rs(alpha h, 9) + v k lies where rs(, 21) changes, and one to either side, and alpha h where rs(, 9) does: with v
    // = 1 (or w, of the step before), k is what is missing.
    Random  rnd;
    Scanner scanner;
    for (int round = 0; round < 600; ++round) {
        HeadCase c;
        c.N = size_t(rnd.one_of({8, 16, 24, 40})), c.P = 8, c.R = size_t(rnd.one_of({1, 2, 4}));
        c.before = c.R > 1 || round % 2 == 0, c.each = round % 5 == 0;
        c.alpha = rnd.below(int64_t(1) << 30) | 1;
        const auto zeros = [](size_t n) { return ref::Vec(n, 0); };
        c.v = c.w = zeros(c.R * c.P), c.k = c.k0 = zeros(c.R * c.N);
        const size_t rank = size_t(rnd.below(int64_t(c.R)));
        const bool   old = c.before && rnd.below(2) == 0;
        for (size_t p = 0; p < c.P; ++p) (old ? c.w : c.v)[rank * c.P + p] = 1;
        const int64_t in9 = rnd.one_of({255, 256, 257, 511, 0});
        for (size_t n = 0; n < c.N; ++n) {
            int64_t alpha = c.alpha, h = 0;
            if (c.each) c.alphas.push_back(alpha = rnd.below(int64_t(1) << 30) | 1);
            for (h = rnd.within(40 << 25); (alpha * h & 511) != in9;) ++h; // alpha is odd: one of 512 in a row
            c.h.push_back(h);
            const int64_t x = ref::rs(alpha * h, 9), missing = -(x + (1 << 20)) & ((1 << 21) - 1);
            (old ? c.k0 : c.k)[rank * c.N + n] = missing + rnd.one_of({-1, 0, 1}) - (n % 2 == 0 ? 1 << 21 : 0);
        }
        for (size_t p = 1; p < c.P; ++p) c.h.insert(c.h.end(), c.h.begin(), c.h.begin() + std::ptrdiff_t(c.N));
        c.q = rnd.vector(c.R * c.N, most_k / 16, 0), c.x = rnd.vector(c.R * c.P, ref::largest, 0);
        c.D = rnd.vector(c.P, ref::largest, 0);
        REQUIRE_MESSAGE(scanner.agrees(c), "N ", c.N, " ranks ", c.R, " round ", round);
    }
}

TEST_CASE("N-07 integer S4D scan: 1..257 modes, odd alignments, several steps, states and inputs at their limits") {
    Random  rnd;
    Guarded a(1 << 15, 0, pattern), b(1 << 15, 0, pattern), C(1 << 14, 0, pattern), scale(256, 0, pattern),
        D(256, 0, pattern), h(1 << 15, 0, pattern), h2(1 << 15, 0, pattern), u(1 << 12, 0, pattern),
        s(1 << 12, 0, pattern);
    for (int32_t modes = 1; modes <= 256; ++modes)
        for (int kind = 0; kind < Random::kinds; ++kind) {
            const size_t H = size_t(modes < 40 ? 1 + rnd.below(10) : 1 + rnd.below(2)), T = size_t(1 + rnd.below(3)),
                         stride = H + size_t(rnd.below(3)), pairs = H * size_t(modes);
            const int64_t clip = rnd.one_of({50 << 25, int_max, 1, 3 << 25}), b_frac = 10 + rnd.below(22),
                          one = 1 << 30;
            ref::Vec va(2 * pairs, 0), vb = rnd.vector(2 * pairs, ref::largest, kind == 3 ? 0 : kind),
                                       vC = rnd.vector(2 * pairs, 32767, kind), vD = rnd.vector(H, ref::largest, kind),
                                       vu = rnd.vector(T * stride, rnd.below(2) == 0 ? ref::largest : 65536, kind),
                                       vh = rnd.vector(2 * pairs, clip, rnd.below(2) == 0 ? 1 : kind);
            for (size_t k = 0; k < 2 * pairs; k += 2) { // |a| <= 1, often 1 exactly
                va[k] = kind == 1 ? (rnd.below(2) == 0 ? one : -one) : rnd.within(one);
                const auto rest = int64_t(std::sqrt(double(one) * double(one) - double(va[k]) * double(va[k])));
                va[k + 1] = std::max<int64_t>(0, rest - 1) * (rnd.below(2) == 0 ? 1 : -1);
                if (rnd.below(2) == 0) std::swap(va[k], va[k + 1]);
            }
            const size_t         skew = size_t(rnd.below(4));
            unsigned char *const pa = a.of(pairs * 8, skew).bytes(), *const pb = b.of(pairs * 8, skew).bytes(),
                                 *const pC = C.of(pairs * 4, skew).bytes(), *const ps = scale.of(H * 4, skew).bytes();
            for (size_t k = 0; k < 2 * pairs; ++k) {
                const auto code = static_cast<int16_t>(vC[k]);
                store_bits(pa + 4 * k, static_cast<uint32_t>(va[k]));
                store_bits(pb + 4 * k, static_cast<uint32_t>(vb[k]));
                std::memcpy(pC + 2 * k, &code, 2);
            }
            std::vector<ref::Scale> scales(H);
            for (size_t i = 0; i < H; ++i) {
                const auto bits = static_cast<uint32_t>((rnd.below(2) == 0 ? 126 : 1 + rnd.below(126)) << 23 |
                                                        rnd.below(int64_t(1) << 23));
                float      f;
                std::memcpy(&f, &bits, 4);
                scales[i] = ref::scale_of(f), store_bits(ps + 4 * i, bits);
            }
            ref::Vec new_h = vh, want(T * stride, 0);
            int64_t  clipped = 0;
            for (size_t t = 0; t < T; ++t)
                for (size_t i = 0; i < H; ++i) {
                    const size_t at = 2 * size_t(modes) * i;
                    want[t * stride + i] =
                        ref::sat(ref::s4d_channel(&new_h[at], &va[at], &vb[at], &vC[at], size_t(modes), scales[i],
                                                  vD[i], vu[t * stride + i], b_frac, clip, &clipped));
                }
            for (Isa isa : test::back_ends())
                for (int where = 0; where < (T == 1 ? 3 : 2); ++where) {
                    S4dScanQ g{};
                    g.a = pa, g.b = pb, g.C = pC, g.C_scale = ps, g.D = put(D, vD), g.u = put(u, vu);
                    int32_t* const from = put(h, vh);
                    g.h_in = from;
                    g.h_out = where == 0 ? from : where == 1 ? h2.of(pairs * 8).words() : nullptr;
                    g.s = s.of(T * stride * 4).words();
                    g.stride = int32_t(stride), g.T = int32_t(T), g.H = int32_t(H), g.modes = modes;
                    g.b_shift = int32_t(b_frac) + 16 - 25, g.clip = static_cast<int32_t>(clip);
                    REQUIRE(test::kernels_of(isa).s4d_scan_q(g) == (clipped > 0));
                    if (where < 2) REQUIRE(same(g.h_out, new_h));
                    for (size_t t = 0; t < T; ++t)
                        for (size_t i = 0; i < H; ++i)
                            REQUIRE_MESSAGE(g.s[t * stride + i] == want[t * stride + i], isa_name(isa), " modes ",
                                            modes, " kind ", kind);
                }
        }
}

TEST_CASE("integer S4D scan: parts near 35 and 50, b u near 12, where the next state may reach 64 (slow)") {
    Random           rnd;
    constexpr size_t most = 9; // modes
    Guarded          a(8 * most, 0, pattern), b(8 * most, 0, pattern), C(4 * most, 0, pattern), scale(4, 0, pattern),
        D(4, 0, pattern), u(4, 0, pattern), h(8 * most, 0, pattern), s(4, 0, pattern);
    const int64_t one = 1 << 30, half = 759250125; // half: 2^30 / sqrt 2
    int64_t       clipped = 0, calm = 0, near[2] = {0, 0};
    for (int round = 0; round < 40000; ++round) {
        const size_t  modes = round % 3 == 0 ? 1 : 4 + size_t(rnd.below(int64_t(most) - 3));
        const int64_t clip = rnd.one_of({50 << 25, 50 << 25, int_max, 20 << 25});
        const int64_t b_frac = 10 + rnd.below(22),
                      top = std::min(clip, int64_t(rnd.one_of({50, 35, 35, 36 + int32_t(rnd.below(14))})) << 25);
        // Inputs whose product with the largest b is 12 in Q25 after the shift, a little less or a little more.
        const int64_t vu = rnd.below(3) == 0 ? rnd.sized(ref::largest) : 1 + rnd.below(int64_t(1) << 26),
                      twelve = (int64_t(12) << (b_frac + 16)) / std::max<int64_t>(1, std::abs(vu));
        const int64_t over_x = rnd.below(2) * 2, over_b = rnd.below(2) * 2,
                      b_top = rnd.below(4) == 0 ? ref::largest : twelve;
        ref::Vec x, va, vb, vC;
        for (size_t j = 0; j < modes; ++j) {
            const int64_t turn = rnd.below(8);
            for (int part = 0; part < 2; ++part) {
                const int64_t size = std::min(clip, rnd.below(4) == 0 ? rnd.below(top) : top + over_x - rnd.below(3));
                x.push_back(rnd.below(2) == 0 ? size : -size);
                vb.push_back(std::min<int64_t>(ref::largest, rnd.below(2) == 0
                                                                 ? std::max<int64_t>(0, twelve + over_b - rnd.below(3))
                                                                 : rnd.sized(std::min<int64_t>(b_top, ref::largest))));
                if (rnd.below(2) == 0) vb.back() = -vb.back();
                vC.push_back(rnd.sized(32767));
            }
            va.push_back(turn < 4 ? (turn & 1 ? half : -half) : turn & 1 ? one : 0);
            va.push_back(turn < 4 ? (turn & 2 ? half : -half) : turn & 1 ? 0 : one);
        }
        int64_t most_x = 0, most_b = 0;
        for (size_t k = 0; k < 2 * modes; ++k)
            most_x = std::max(most_x, std::abs(x[k])), most_b = std::max(most_b, std::abs(vb[k]));
        const bool fits = most_x <= int64_t(35) << 25 &&
                          double(most_b) * double(std::abs(vu)) <= 12.0 * double(int64_t(1) << (b_frac + 16));
        calm += modes >= 4 && fits;
        for (int side = 0; side < 2; ++side)
            near[side] += modes >= 4 && std::abs(most_x - (int64_t(35) << 25)) <= 2 && fits == (side == 0);
        put(h, x), a.of(modes * 8), b.of(modes * 8), C.of(modes * 4);
        for (size_t k = 0; k < 2 * modes; ++k) {
            const auto code = static_cast<int16_t>(vC[k]);
            store_bits(a.bytes() + 4 * k, static_cast<uint32_t>(va[k]));
            store_bits(b.bytes() + 4 * k, static_cast<uint32_t>(vb[k]));
            std::memcpy(C.bytes() + 2 * k, &code, 2);
        }
        store_bits(scale.bytes(), 126u << 23 | 0x7fffffu);
        const int64_t before = clipped;
        const int64_t want = ref::sat(ref::s4d_channel(&x[0], &va[0], &vb[0], &vC[0], modes, {0xffffff, 24},
                                                       -ref::largest, vu, b_frac, clip, &clipped));
        for (Isa isa : test::back_ends()) {
            S4dScanQ g{};
            g.a = a.bytes(), g.b = b.bytes(), g.C = C.bytes(), g.C_scale = scale.bytes();
            g.D = put(D, {-ref::largest}), g.u = put(u, {vu}), g.h_in = h.words(), g.s = s.of(4).words();
            int32_t to[2 * most];
            g.h_out = to, g.stride = g.T = g.H = 1, g.modes = int32_t(modes), g.b_shift = int32_t(b_frac) + 16 - 25,
            g.clip = int32_t(clip);
            REQUIRE(test::kernels_of(isa).s4d_scan_q(g) == (clipped > before));
            REQUIRE(same(to, x));
            REQUIRE(*g.s == want);
        }
    }
    CHECK(clipped > 1000);
    CHECK(calm > 1000);
    CHECK(near[0] > 500);
    CHECK(near[1] > 500);
}

TEST_CASE("decay rates far below the range of dd_A, and alpha at 2^30") {
    for (bool softplus : {false, true})
        for (int32_t floor : {0, 1, 6711, 1 << 26, int_max}) {
            Config c;
            c.softplus_A = softplus, c.A_floor_q26 = floor;
            for (int64_t at : {-(int64_t(1) << 29), int64_t(31) << 16, int64_t(0), ref::largest, -ref::largest,
                               int64_t(22) << 16, -(int64_t(22) << 16)})
                for (int64_t d = -70000; d <= 70000; d += d > -4 && d < 4 ? 1 : 333) {
                    const int64_t x = ref::sat(at + d);
                    REQUIRE(rate_q(c, static_cast<int32_t>(x)) == ref::decay_rate(x, softplus, floor));
                }
        }
    CHECK(decay_q<26>(int64_t(0), dt_limit) == one_q30); // a rate of 0, or a step of 0: nothing decays
    CHECK(decay_q<26>(int64_t(int_max), int64_t(0)) == one_q30);
    CHECK(decay_q<24>(int64_t(1), int64_t(1)) == one_q30);
}
