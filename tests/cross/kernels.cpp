// kernels.cpp - integer kernels of this machine's back-ends held against the scalar ones, and what they cost.
// SPDX-License-Identifier: MIT
//
// For processors without an operating system, where the tests with guard pages (int_kernels.cpp) do not run:
// projections of 1 to 257 columns (int8, int4 and mixed rows, 8 and 16 bits, weights and codes at any alignment, limits
// and zeros), codes, scans of 1 to 256 numbers a row or modes a channel, and the functions of one number and norms of 1
// to 257. A line a back-end, "ISA CASES" or "ISA FAIL what"; then, for count.c, "matmul ISA BITS ROWS COLUMNS", "batch"
// likewise (of 4 tokens, ROWS for all), "codes16" (of 16-bit codes), "scan ISA BITS ROWS COLUMNS" (of a state of so
// many bits), "s4d" (ROWS: channels, COLUMNS: modes), "row", "gelu" and the like, a line for each thing counted.
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
int64_t           wide_row[most_N];
constexpr int32_t most_H = 4, most_T = 3, most_n = 257;
unsigned char     rates[2][most_H * most_N * 8 + 4], C[most_H * most_N * 4 + 4];
int32_t           modes[3][most_H * most_N * 2], us[most_T * (most_H + 2)], ss[2][most_T * (most_H + 2)];
int32_t           in[2 * most_n], gains[most_n], offsets[most_n], out[2][most_n];

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
    scalar::matmul_q(m, {y[0] + 1, y_stride, to, stride, scales}, n, bits);
    K.matmul_q(m, {y[1] + 1, y_stride, to, stride, scales}, n, bits);
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

// As int_kernels.cpp has them: |a| <= 1, often 1, states and inputs at their limits or well within.
S4dScanQ made_up_modes(int32_t n, int kind) {
    S4dScanQ      a{};
    const int32_t clips[] = {1, 50 << 25, 3 << 25, int_max}, unit = 1 << 30, skew = rnd.below(4);
    const auto    any = [&](int32_t most) { return rnd.number(most, kind == 5 ? 4 : kind, 0); };
    a.modes = n, a.H = 1 + rnd.below(n <= 40 ? most_H : 1), a.T = 1 + rnd.below(most_T), a.stride = a.H + rnd.below(3);
    a.clip = clips[rnd.below(4)], a.b_shift = 1 + rnd.below(22), a.D = D, a.u = us, a.h_in = modes[2];
    a.a = rates[0] + skew, a.b = rates[1] + skew, a.C = C + skew, a.C_scale = scale_bytes + skew;
    // Often at what the back-ends' short ways want: |x| below 16, |b u| below 16 whatever b.
    const int32_t near_u = (int32_t(1) << a.b_shift >> 2) + rnd.below(3) - 1,
                  tops[] = {a.clip, 36 << 25, (1 << 29) - 1, 1 << 29};
    const int32_t u_most = rnd.below(3) == 0 ? int_max : rnd.below(2) == 0 ? near_u : 1 << (10 + rnd.below(16));
    const int32_t top = tops[rnd.below(4)], x_most = top < a.clip ? top : a.clip;
    const bool    full = rnd.below(2) == 0;
    for (int32_t i = 0; i < a.H; ++i)
        D[i] = any(int_max), store_u32(scale_bytes + skew + 4 * i, uint32_t(1 + rnd.below(126)) << 23);
    for (int32_t i = 0; i < a.T * a.stride; ++i) us[i] = any(u_most < 0 ? 0 : u_most);
    for (int32_t i = 0; i < 2 * a.H * n; ++i) {
        const int32_t part = i % 2 == 0 ? rnd.within(unit) : 0;
        store_u32(rates[0] + skew + 4 * i, uint32_t(kind == 1 && i % 2 == 0 ? (part < 0 ? -unit : unit) : part));
        if (i % 2 == 0 && kind != 1) { // about half a turn's worth: |ar| + |ai| <= 1
            const int32_t rest = unit - (part < 0 ? -part : part);
            store_u32(rates[0] + skew + 4 * i + 4, uint32_t(rnd.within(rest))), ++i;
        }
    }
    for (int32_t i = 0; i < 2 * a.H * n; ++i) {
        const uint32_t code = uint32_t(any(32767));
        C[skew + 2 * i] = static_cast<unsigned char>(code), C[skew + 2 * i + 1] = static_cast<unsigned char>(code >> 8);
        store_u32(rates[1] + skew + 4 * i, uint32_t(any(int_max)));
        modes[2][i] = rnd.number(x_most, full ? 1 : kind, i);
    }
    return a;
}
bool modes_agree(const Kernels& K, int32_t n, int kind) {
    S4dScanQ  a = made_up_modes(n, kind);
    const int where = a.T == 1 ? rnd.below(3) : rnd.below(2);
    bool      hit[2];
    for (int side = 0; side < 2; ++side) {
        for (int32_t& word : ss[side]) word = canary;
        for (int32_t i = 0; i < int32_t(sizeof modes[0] / 4); ++i) modes[side][i] = where == 0 ? modes[2][i] : canary;
        if (where == 0) a.h_in = modes[side];
        a.h_out = where < 2 ? modes[side] : nullptr, a.s = ss[side];
        hit[side] = side == 0 ? scalar::s4d_scan_q(a) : K.s4d_scan_q(a);
    }
    return hit[0] == hit[1] && equal(ss[0], ss[1], sizeof ss[0]) && equal(modes[0], modes[1], sizeof modes[0]);
}

// ---- Functions of one number, and norms

const char* functions_agree(const EngineKernels<int32_t>& K, int32_t n, int kind) {
    const int32_t most = rnd.below(4) > 0 ? 1 << (14 + rnd.below(11)) : int_max;
    const char*   wrong = nullptr;
    int32_t       r[most_n];
    rnd.fill(in, 2 * n, most, kind), rnd.fill(gains, n, int_max, rnd.below(kinds));
    rnd.fill(offsets, n, int_max, rnd.below(kinds)), rnd.fill(r, n, int_max, rnd.below(kinds));
    const auto both = [&](const char* what, auto f) {
        copy(out[0], r, sizeof r), copy(out[1], r, sizeof r);
        f(table<scalar>, out[0]), f(K, out[1]);
        if (!equal(out[0], out[1], sizeof r)) wrong = what;
    };
    fill_zero(r + n, size_t(most_n - n) * 4);
    both("add", [&](const EngineKernels<int32_t>& k1, int32_t* to) { k1.add(to, in, n); });
    both("gelu", [&](const EngineKernels<int32_t>& k1, int32_t* to) { k1.gelu(to, in, n); });
    both("glu", [&](const EngineKernels<int32_t>& k1, int32_t* to) { k1.glu(to, in, n); });
    both("gate", [&](const EngineKernels<int32_t>& k1, int32_t* to) { k1.gate(to, to, in, n); });
    both("layer_norm",
         [&](const EngineKernels<int32_t>& k1, int32_t* to) { k1.layer_norm(to, in, gains, offsets, n); });
    for (int32_t s = 20; s <= 24; s += 4)
        both("rms_norm", [&](const EngineKernels<int32_t>& k1, int32_t* to) { k1.rms_norm(to, in, gains, n, s); });
    return wrong;
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
                K.matmul_q(m, {y[0], rows, codes, cols, scales}, n, 8);
                cross_end();
                counted(n == 1 ? "matmul" : "batch", K.name, bits, rows * n, cols);
            }
            scalar::quantize(codes, scales, x, cols, cols, 16);
            cross_begin();
            K.matmul_q(m, {y[0], rows, codes, cols, scales}, 1, 16);
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
        for (int32_t i = 0; i < most_P * 16; ++i) set_code(h[2], size_t(i), rnd.within(32767));
        for (size_t i = 0; i < most_P; ++i) set_exponent(X[2], i, 14);
        a.X_in = a.X_out = X[2];
        cross_begin();
        (void)K.scan_q(a);
        cross_end();
        counted("scan", K.name, 16, P, 16);
    }
    const auto count_modes = [&](const char* what, int32_t H, int32_t n) { // of S4D
        S4dScanQ a = made_up_modes(n, 0);
        a.clip = int_max, a.b_shift = 22, a.T = 1, a.H = H, a.stride = H, a.h_out = modes[2], a.s = ss[0];
        a.a = rates[0], a.b = rates[1], a.C = C, a.C_scale = scale_bytes;
        for (int32_t i = 0; i < H; ++i) us[i] = rnd.within(1 << 17), store_u32(scale_bytes + 4 * i, 120u << 23);
        for (int32_t i = 0; i < 2 * H * n; ++i) {
            modes[2][i] = rnd.within(1 << 27);
            store_u32(rates[0] + 4 * i, uint32_t(rnd.within(1 << 29)));
            store_u32(rates[1] + 4 * i, uint32_t(rnd.within(1 << 25)));
        }
        cross_begin();
        (void)K.s4d_scan_q(a);
        cross_end();
        counted(what, K.name, 32, H, n);
    };
    count_modes("s4d", most_H, 8), count_modes("s4d", most_H, 16);
    count_modes("channel", 2, 1), count_modes("channel", 4, 1);
    const EngineKernels<int32_t>& engine = K;
    const auto                    each = [&](const char* what, auto f) {
        for (int32_t n = 32; n <= 64; n += 32) {
            for (int32_t i = 0; i < 2 * n; ++i) in[i] = rnd.within(1 << 18);
            for (int32_t i = 0; i < n; ++i) gains[i] = rnd.within(1 << 17), offsets[i] = rnd.within(1 << 17);
            cross_begin();
            f(n);
            cross_end();
            counted(what, K.name, 32, 1, n);
        }
    };
    each("gelu", [&](int32_t n) { engine.gelu(out[0], in, n); });
    each("glu", [&](int32_t n) { engine.glu(out[0], in, n); });
    each("gate", [&](int32_t n) { engine.gate(out[0], in, in + n, n); });
    each("norm", [&](int32_t n) { engine.layer_norm(out[0], in, gains, offsets, n); });
    each("quantize", [&](int32_t n) { K.quantize(codes, scales, in, n, n, 8); });
    for (int32_t rows = 8; rows <= 16; rows += 8) { // a row of a projection without columns to speak of
        Matrix m = make_matrix(0, 0, 4, 0, 0);
        m.rows = rows, m.bias = bias_bytes;
        for (int32_t i = 0; i < rows; ++i)
            store_u32(scale_bytes + 4 * i, 120u << 23), store_u32(bias_bytes + 4 * i, 100);
        scalar::quantize(codes, scales, in, 4, 32, 8);
        cross_begin();
        K.matmul_q(m, {y[0], rows, codes, 32, scales}, 1, 8);
        cross_end();
        counted("row", K.name, 8, rows, 1);
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
    for (int32_t n = 1; n <= most_N; ++n)
        for (int round = 0; round < (n <= 20      ? 18
                                     : n <= 40    ? 6
                                     : n % 6 == 0 ? 2
                                                  : 0) &&
                            wrong == nullptr;
             ++round, ++cases)
            if (!modes_agree(K, n, (n + round) % kinds)) wrong = "an S4D scan";
    for (int32_t n = 1; n <= most_n; ++n)
        for (int round = 0; round < (n <= 40 ? 3 : n % 6 == 0 ? 1 : 0) && wrong == nullptr; ++round, ++cases)
            wrong = functions_agree(K, n, (n + round) % kinds);
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
