// kernels.cpp - integer kernels of this machine's back-ends held against the scalar ones, and what they cost.
// SPDX-License-Identifier: MIT
//
// For processors without an operating system, where the tests with guard pages (int_kernels.cpp) do not run:
// projections of 1 to 257 columns (int8, int4 and mixed rows, 8 and 16 bits, weights and codes at any alignment, limits
// and zeros), codes, and scans of 1 to 256 numbers a row. A line a back-end, "ISA CASES" or "ISA FAIL what"; then, for
// count.c, "matmul ISA BITS ROWS COLUMNS", "batch" likewise (of 4 tokens, ROWS for all), "codes16" (of 16-bit codes)
// and "scan ISA ROWS COLUMNS", a line for each thing counted.
#define SSM_AVXVNNI_TEST
#define SSM_STATIC
#define SSM_IMPLEMENTATION
#include "../../ssm.hpp"

#include "program.hpp"

namespace {
using namespace ssm;
using namespace ssm::detail;

constexpr int32_t most_cols = 257, most_rows = 19, most_tokens = 7, most_N = 256, most_P = 5, most_R = 5;
constexpr int     kinds = 6; // anything, limits, limits alternating, zero, any size, one limit among zeros

struct Random {
    uint64_t x = 88172645463325252u;
    uint32_t word() {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        return uint32_t(x >> 16);
    }
    int32_t below(int32_t n) { return int32_t(word() % uint32_t(n)); }
    int32_t within(int32_t most) { return int32_t(int64_t(uint64_t(word()) % (2 * uint64_t(most) + 1)) - most); }
    int32_t number(int32_t most, int kind, int32_t i) {
        if (kind == 0) return within(most);
        if (kind == 1) return below(2) == 0 ? most : -most;
        if (kind == 2) return i % 2 == 0 ? most : -most;
        return kind == 4 ? within(int32_t(uint32_t(most) >> below(31))) : 0;
    }
    void fill(int32_t* to, int32_t n, int32_t most, int kind) {
        for (int32_t i = 0; i < n; ++i) to[i] = number(most, kind, i);
        if (kind == 5 && n > 0) to[below(n)] = below(2) == 0 ? most : -most;
    }
} rnd;

// Memory of the cases; what a kernel writes stands between bytes that must stay.
constexpr int32_t canary = 0x6b6b6b6b, counted_rows = 32, counted_cols = 512;
alignas(8) unsigned char data[counted_rows * counted_cols + 8], data4[most_rows * 144 + 4], sub[most_rows * 9 + 4];
unsigned char scale_bytes[4 * counted_rows + 4], bias_bytes[4 * counted_rows + 4];
alignas(8) unsigned char codes[most_tokens * 2 * 288 + counted_cols + 8], other_codes[counted_cols * 2 + 8];
int32_t x[4 * most_cols], scales[2 * most_tokens], other_scale[2], y[2][most_tokens * (most_rows + 2) + counted_rows];
int32_t w[most_R * most_P], v[most_R * most_P], k0[most_R * (most_N + 2) + 1], k[most_R * (most_N + 2) + 1],
    q[most_R * (most_N + 2) + 1], D[most_P], xs[most_R * most_P], alphas[most_N], o[2][most_R * most_P],
    h[3][(most_P + 3) * most_N], X[3][4];
int64_t wide_row[most_N];

bool equal(const void* a, const void* b, size_t n) { return equal_bytes(a, b, n); }

// ---- Projections

Matrix make_matrix(int32_t rows, int32_t rows4, int32_t cols, int kind, int32_t skew) {
    const int32_t groups = (cols + 31) / 32;
    Matrix        m;
    const auto    put = [&](unsigned char* at, uint32_t bits) { store_u32(at, bits); };
    m.rows = rows, m.rows4 = rows4, m.cols = cols, m.dtype = rows4 > 0 ? DType::i4 : DType::i8;
    m.data = data + skew, m.data4 = data4 + skew, m.sub = sub + skew, m.scale = scale_bytes + skew;
    m.bias = rnd.below(2) == 0 ? nullptr : bias_bytes + skew;
    m.in_order = rnd.below(2) == 0;
    for (int32_t i = 0; i < (rows - rows4) * cols; ++i)
        data[skew + i] = static_cast<unsigned char>(rnd.number(127, kind == 5 ? 4 : kind, i));
    for (int32_t i = 0; i < rows4 * groups * 16; ++i)
        data4[skew + i] = static_cast<unsigned char>(kind == 1   ? 0x88
                                                     : kind == 2 ? (i % 2 == 0 ? 0x77 : 0x88)
                                                     : kind == 3 ? 0
                                                                 : rnd.below(256));
    for (int32_t i = 0; i < rows4 * groups; ++i)
        sub[skew + i] = static_cast<unsigned char>(rnd.number(127, kind == 1 ? 2 : kind, i));
    const bool any = rnd.below(2) == 0;
    for (int32_t i = 0; i < rows; ++i) {
        put(scale_bytes + skew + 4 * i,
            uint32_t(any ? 1 + rnd.below(126) : 110 + rnd.below(17)) << 23 | uint32_t(rnd.below(1 << 23)));
        put(bias_bytes + skew + 4 * i, uint32_t(rnd.number(int_max, 4, 0)));
    }
    return m;
}
bool projections_agree(const Kernels& K, int32_t cols, int kind, int32_t bits) {
    const int32_t rows = 1 + rnd.below(most_rows), rows4 = rnd.below(3) == 0 ? 0 : rnd.below(rows + 1),
                  n = 1 + rnd.below(most_tokens), padded_n = (cols + 31) / 32 * 32, stride = padded_n * bits / 8,
                  y_stride = rows + rnd.below(3), skew = rnd.below(4), more = bits == 8 ? rnd.below(4) : 0;
    const Matrix   m = make_matrix(rows, rows4, cols, kind, skew);
    unsigned char* to = codes + more;
    for (int32_t i = 0; i < n; ++i) {
        rnd.fill(x, cols, rnd.below(2) == 0 ? int_max : int_max >> rnd.below(31), (kind + i) % kinds);
        unsigned char* const mine = other_codes + more;
        fill_zero(other_codes, sizeof other_codes);
        mine[stride] = 0x6b;
        scalar::quantize(to + i * stride, scales + 2 * i, x, cols, padded_n, bits);
        K.quantize(mine, other_scale, x, cols, padded_n, bits);
        if (!equal(mine, to + i * stride, size_t(stride)) || mine[stride] != 0x6b ||
            !equal(other_scale, scales + 2 * i, 8))
            return false;
    }
    for (auto& words : y)
        for (int32_t& word : words) word = canary;
    scalar::matmul_q(y[0] + 1, y_stride, m, to, stride, scales, n, bits);
    K.matmul_q(y[1] + 1, y_stride, m, to, stride, scales, n, bits);
    return equal(y[0], y[1], sizeof y[0]);
}

// ---- Scans

HeadScanQ made_up_scan(int32_t N, int kind) {
    HeadScanQ     a{};
    const bool    codes16 = rnd.below(4) == 0;
    const int32_t P = 1 + rnd.below(most_P), R = 1 + (rnd.below(2) == 0 ? 0 : rnd.below(most_R)), gap = rnd.below(3);
    const int32_t clips[] = {1, 50 << 25, (50 << 25) + 1, int_max, 1 << 20, 40 << 25}, unit = 1 << 30;
    const int32_t edges[] = {0, 1, unit, unit - 1};
    const int32_t v_most = rnd.below(3) == 0 ? int_max : 1 << (10 + rnd.below(18)),
                  k_most = rnd.below(3) == 0 ? 189812531 : 1 << (10 + rnd.below(17));
    const auto any = [&](int32_t* to, int32_t n, int32_t most) { rnd.fill(to, n, most, rnd.below(3) == 0 ? 0 : kind); };
    a.clip = clips[rnd.below(6)], a.N = N, a.P = P, a.ranks = R, a.k_stride = N + gap, a.D_step = rnd.below(2);
    a.alpha = rnd.below(3) == 0 ? edges[rnd.below(4)] : rnd.below(unit);
    any(w, R * P, v_most), any(v, R * P, v_most), any(k0, R * (N + gap), k_most), any(k, R * (N + gap), k_most);
    any(q, R * (N + gap), 189812531 / 16), any(xs, R * P, int_max), any(D, P, int_max);
    for (int32_t i = 0; i < N; ++i) alphas[i] = rnd.below(unit + 1);
    a.w = R == 1 && rnd.below(2) == 0 ? nullptr : w, a.v = v, a.k0 = k0, a.k = k, a.q = q, a.x = xs, a.D = D;
    a.alpha_each = rnd.below(5) == 0 ? alphas : nullptr, a.wide_row = wide_row;
    if (codes16) {
        a.row = rnd.below(4);
        for (int32_t i = 0; i < (P + 3) * N; ++i) set_code(h[2], size_t(i), rnd.number(32767, kind, i));
        for (size_t i = 0; i < 8; ++i) set_exponent(X[2], i, rnd.below(32));
        a.X_in = X[2];
    } else any(h[2], P * N, a.clip);
    a.h_in = h[2];
    return a;
}
bool scans_agree(const Kernels& K, int32_t N, int kind) {
    HeadScanQ a = made_up_scan(N, kind);
    const int where = rnd.below(3); // in place, elsewhere, nowhere
    bool      hit[2];
    for (int side = 0; side < 2; ++side) {
        for (int32_t& word : o[side]) word = canary;
        for (int32_t i = 0; i < int32_t(sizeof h[0] / 4); ++i) h[side][i] = where == 0 ? h[2][i] : canary;
        copy(X[side], X[2], sizeof X[0]);
        if (where == 0) a.h_in = h[side];
        a.h_out = where < 2 ? h[side] : nullptr, a.o = o[side];
        if (a.X_in != nullptr) a.X_in = where == 0 ? X[side] : X[2], a.X_out = where < 2 ? X[side] : nullptr;
        hit[side] = side == 0 ? scalar::scan_q(a) : K.scan_q(a);
    }
    return hit[0] == hit[1] && equal(o[0], o[1], sizeof o[0]) && equal(h[0], h[1], sizeof h[0]) &&
           equal(X[0], X[1], sizeof X[0]);
}

// ---- All of it

void counted(const char* what, const char* isa, int32_t bits, int32_t rows, int32_t cols) {
    cross_next();
    board_write(Text().add(what).add(" ").add(isa).add(" ").add(uint32_t(bits)).add(" ").add(uint32_t(rows)).s);
    board_write(Text().add(" ").add(uint32_t(cols)).add("\n").s);
}
void count(const Kernels& K) {
    for (int32_t bits = 8; bits >= 4; bits -= 4) // of weights
        for (int32_t size = 0; size < 2; ++size) {
            const int32_t cols = size == 0 ? counted_cols / 2 : counted_cols, rows = bits == 8 ? counted_rows : 8;
            Matrix        m = make_matrix(0, 0, cols, 0, 0);
            m.rows = rows, m.bias = nullptr;
            if (bits == 4) m.rows4 = rows, m.data4 = data, m.sub = data;
            for (int32_t i = 0; i < counted_rows * counted_cols; ++i)
                data[i] = static_cast<unsigned char>(rnd.within(127));
            for (int32_t i = 0; i < counted_rows; ++i) store_u32(scale_bytes + 4 * i, 120u << 23);
            for (int32_t i = 0; i < most_cols; ++i) x[i] = x[i + most_cols] = rnd.within(1 << 20);
            for (int32_t i = 0; i < 4; ++i) scalar::quantize(codes + i * cols, scales + 2 * i, x, cols, cols, 8);
            for (int32_t n = 1; n <= 4; n += 3) {
                cross_begin();
                K.matmul_q(y[0], rows, m, codes, cols, scales, n, 8);
                cross_end();
                counted(n == 1 ? "matmul" : "batch", K.name, bits, rows * n, cols);
            }
            scalar::quantize(codes, scales, x, cols, cols, 16);
            cross_begin();
            K.matmul_q(y[0], rows, m, codes, cols, scales, 1, 16);
            cross_end();
            counted("codes16", K.name, bits, rows, cols);
        }
    for (int32_t P = 2; P <= most_P; P += 2) { // a Mamba-3 head of 16 numbers a row
        HeadScanQ a = made_up_scan(16, 0);
        for (int32_t i = 0; i < most_P * 16; ++i) h[2][i] = rnd.within(1 << 26);
        for (int32_t i = 0; i < most_P; ++i) w[i] = v[i] = rnd.within(1 << 25);
        for (int32_t i = 0; i < 16; ++i) k[i] = k0[i] = q[i] = rnd.within(1 << 20);
        a.X_in = nullptr, a.row = 0, a.alpha_each = nullptr, a.alpha = 1 << 29, a.clip = 50 << 25, a.P = P, a.ranks = 1;
        a.w = w, a.h_in = a.h_out = h[2], a.o = o[0], a.k_stride = 16;
        cross_begin();
        (void)K.scan_q(a);
        cross_end();
        counted("scan", K.name, 32, P, 16);
    }
}
bool all_of(const Kernels& K) {
    const char* wrong = nullptr;
    uint32_t    cases = 0;
    for (int32_t cols = 1; cols <= most_cols; ++cols)
        for (int kind = 0; kind < kinds; ++kind)
            for (int32_t i = 0; i < 3 && wrong == nullptr; ++i, ++cases)
                if (!projections_agree(K, cols, kind, i == 2 ? 16 : 8)) wrong = "a projection";
    for (int32_t N = 1; N <= most_N; ++N)
        for (int round = 0; round < (N <= 40 ? 60 : 12) && wrong == nullptr; ++round, ++cases)
            if (!scans_agree(K, N, round % kinds)) wrong = "a scan";
    Text t;
    t.add(K.name).add(" ");
    board_write(wrong == nullptr ? t.add(cases).add("\n").s : t.add("FAIL ").add(wrong).add("\n").s);
    return wrong == nullptr;
}
} // namespace

int main() {
    bool good = true;
    for (int isa = 1; isa_name(Isa(isa)) != nullptr; ++isa)
        if (isa_runs_here(Isa(isa))) good &= all_of(*kernels_of(Isa(isa)));
    for (int isa = 1; isa_name(Isa(isa)) != nullptr; ++isa)
        if (isa_runs_here(Isa(isa))) count(*kernels_of(Isa(isa)));
    board_write(good ? "end\n" : "end, with failures\n");
    return good ? 0 : 1;
}
