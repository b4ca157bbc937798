// s4d_kernels.hpp - the inner loops of the trainers, S4D and Mamba-3, included once for every instruction set.
// SPDX-License-Identifier: MIT
//
// No include guard: s4d_net.hpp includes this file inside a namespace that has declared
//
//     typedef ... Real;            float or double
//     constexpr int W;             lanes of a vector of Real
//     S4D_FMA(a, b, c)             a * b + c, fused where the instruction set has it
//     S4D_FNMA(a, b, c)            c - a * b
//     S4D_SPLAT(x)                 a vector with x in every lane
//
// Vectors lie along channels, so no loop adds across lanes but LayerNorm. Every array of channels is padded to `Hp`, a
// multiple of W. The order of every sum is fixed by the shapes alone, never by the number of threads or by W: kernel
// sets with a fused S4D_FMA agree in every bit.

typedef Real    V __attribute__((vector_size(W * sizeof(Real))));
typedef double  VD __attribute__((vector_size(W * sizeof(double)))); // only ever a local of an inlined function
typedef int32_t VI __attribute__((vector_size(W * sizeof(int32_t))));

#define S4D_INLINE static inline __attribute__((always_inline))

S4D_INLINE V load(const Real* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
S4D_INLINE void store(Real* p, V v) { __builtin_memcpy(p, &v, sizeof v); }
S4D_INLINE V    larger(V a, V b) { return a > b ? a : b; }
S4D_INLINE V    smaller(V a, V b) { return a < b ? a : b; }
S4D_INLINE V    limit(V v, V c) { return smaller(larger(v, -c), c); }

// A sum over channels, channel h in lane h % 16 whatever W is, so that every width adds in the same order.
struct LaneSum {
    V part[16 / W] = {};
};
S4D_INLINE Real total(const LaneSum& s) {
    Real lane[16];
    std::memcpy(lane, s.part, sizeof lane);
    for (int i = 8; i > 0; i /= 2)
        for (int k = 0; k < i; ++k) lane[k] += lane[k + i];
    return lane[0];
}

// ---- Elementary functions. Float: polynomials, within a few units in the last place. Double: the C library, lane by
// lane.

// exp(x) = scale (1 + p): the caller forms exp and exp - 1 from the two without cancellation. x is limited to [-87,
// 88].
struct ExpParts {
    V scale, p;
};
S4D_INLINE ExpParts exp_parts(V x) {
    ExpParts r;
    if constexpr (sizeof(Real) == 8) {
        for (int i = 0; i < W; ++i) r.p[i] = Real(std::expm1(double(x[i])));
        r.scale = S4D_SPLAT(Real(1));
    } else {
        x           = smaller(larger(x, S4D_SPLAT(Real(-87))), S4D_SPLAT(Real(88)));
        const V big = S4D_SPLAT(Real(12582912)); // 1.5 * 2^23: adding it rounds to a whole number
        const V k   = S4D_FMA(x, S4D_SPLAT(Real(1.44269504088896341)), big) - big;
        V       f   = S4D_FNMA(k, S4D_SPLAT(Real(0.693145751953125)), x);
        f           = S4D_FNMA(k, S4D_SPLAT(Real(1.42860682030941723e-6)), f);
        V q         = S4D_FMA(f, S4D_SPLAT(Real(1.0 / 5040)), S4D_SPLAT(Real(1.0 / 720)));
        q           = S4D_FMA(q, f, S4D_SPLAT(Real(1.0 / 120)));
        q           = S4D_FMA(q, f, S4D_SPLAT(Real(1.0 / 24)));
        q           = S4D_FMA(q, f, S4D_SPLAT(Real(1.0 / 6)));
        q           = S4D_FMA(q, f, S4D_SPLAT(Real(0.5)));
        r.p         = S4D_FMA(q, f * f, f);
        const VI e  = (__builtin_convertvector(k, VI) + 127) << 23;
        __builtin_memcpy(&r.scale, &e, sizeof r.scale < sizeof e ? sizeof r.scale : sizeof e);
    }
    return r;
}
S4D_INLINE V exp_of(V x) {
    const ExpParts e = exp_parts(x);
    return S4D_FMA(e.scale, e.p, e.scale);
}

// GELU with the exact erf: g = s Phi(s), and its derivative d = Phi(s) + s phi(s).
S4D_INLINE void gelu(V s, V* g, V* d) {
    V Phi, phi;
    if constexpr (sizeof(Real) == 8) {
        for (int i = 0; i < W; ++i) {
            Phi[i] = Real(0.5 * std::erfc(-double(s[i]) * 0.70710678118654752440));
            phi[i] = Real(0.39894228040143267794 * std::exp(-0.5 * double(s[i]) * double(s[i])));
        }
    } else {
        // erfc(x) = exp(-x^2) Q(t), t = 1 / (1 + 0.4 x), x = |s| / sqrt 2: Q a Chebyshev fit, off by 5e-9 at most.
        const V one = S4D_SPLAT(Real(1));
        const V a   = larger(s, -s);
        const V e   = exp_of(s * s * S4D_SPLAT(Real(-0.5)));
        const V t   = one / S4D_FMA(a, S4D_SPLAT(Real(0.4 * 0.70710678118654752440)), one);
        V       q   = S4D_SPLAT(Real(0.0859807294771));
        q           = S4D_FMA(q, t, S4D_SPLAT(Real(-0.455178487705)));
        q           = S4D_FMA(q, t, S4D_SPLAT(Real(0.819300485958)));
        q           = S4D_FMA(q, t, S4D_SPLAT(Real(-0.541903830262)));
        q           = S4D_FMA(q, t, S4D_SPLAT(Real(0.536459746591)));
        q           = S4D_FMA(q, t, S4D_SPLAT(Real(0.0790746677175)));
        q           = S4D_FMA(q, t, S4D_SPLAT(Real(0.253930649492)));
        q           = S4D_FMA(q, t, S4D_SPLAT(Real(0.222144531901)));
        q           = S4D_FMA(q, t, S4D_SPLAT(Real(0.00019151171358)));
        const V h   = q * e * S4D_SPLAT(Real(0.5));
        Phi         = s < V{} ? h : one - h;
        phi         = e * S4D_SPLAT(Real(0.39894228040143267794));
    }
    *g = s * Phi;
    *d = S4D_FMA(s, phi, Phi);
}

// sin and cos of half of 2 pi `turns`, turns in [-0.5, 0.5].
S4D_INLINE void half_angle(V turns, V* sh, V* ch) {
    const V h = turns * S4D_SPLAT(Real(3.14159265358979323846));
    if constexpr (sizeof(Real) == 8) {
        for (int i = 0; i < W; ++i) {
            (*sh)[i] = Real(std::sin(double(h[i])));
            (*ch)[i] = Real(std::cos(double(h[i])));
        }
    } else { // Taylor series to h^13 and h^12, |h| <= pi/2
        const V x = h * h;
        V       s = S4D_FMA(x, S4D_SPLAT(Real(1.0 / 6227020800.0)), S4D_SPLAT(Real(-1.0 / 39916800)));
        s         = S4D_FMA(s, x, S4D_SPLAT(Real(1.0 / 362880)));
        s         = S4D_FMA(s, x, S4D_SPLAT(Real(-1.0 / 5040)));
        s         = S4D_FMA(s, x, S4D_SPLAT(Real(1.0 / 120)));
        s         = S4D_FMA(s, x, S4D_SPLAT(Real(-1.0 / 6)));
        *sh       = S4D_FMA(s * x, h, h);
        V c       = S4D_FMA(x, S4D_SPLAT(Real(1.0 / 479001600)), S4D_SPLAT(Real(-1.0 / 3628800)));
        c         = S4D_FMA(c, x, S4D_SPLAT(Real(1.0 / 40320)));
        c         = S4D_FMA(c, x, S4D_SPLAT(Real(-1.0 / 720)));
        c         = S4D_FMA(c, x, S4D_SPLAT(Real(1.0 / 24)));
        c         = S4D_FMA(c, x, S4D_SPLAT(Real(-0.5)));
        *ch       = S4D_FMA(c, x, S4D_SPLAT(Real(1)));
    }
}

// ---- Matrix product: C[m][n] (+)= sum_k A(m, k) B[k][n] (+ bias[n]), A(m, k) = A[m * a_row + k * a_col]; n a multiple
// of W.
//
// Six rows by two vectors stay in registers. Each element is one chain of additions in the order of k.

#define S4D_ROWS(X) X(0) X(1) X(2) X(3) X(4) X(5)
S4D_INLINE void gemm_tile(const int rows, const int vectors, int64_t K, const Real* A, int64_t a_row, int64_t a_col,
                          const Real* B, int64_t b_row, Real* C, int64_t c_row, const Real* bias, bool add) {
    const V zero = {};
#define S4D_INIT(i)                                           \
    V p##i = zero, q##i = zero;                               \
    if (rows > i) {                                           \
        if (add) {                                            \
            p##i = load(C + i * c_row);                       \
            if (vectors == 2) q##i = load(C + i * c_row + W); \
        } else if (bias != nullptr) {                         \
            p##i = load(bias);                                \
            if (vectors == 2) q##i = load(bias + W);          \
        }                                                     \
    }
#define S4D_STEP(i)                                    \
    if (rows > i) {                                    \
        const V x = S4D_SPLAT(a[i * a_row]);           \
        p##i      = S4D_FMA(x, b0, p##i);              \
        if (vectors == 2) q##i = S4D_FMA(x, b1, q##i); \
    }
#define S4D_OUT(i)                                        \
    if (rows > i) {                                       \
        store(C + i * c_row, p##i);                       \
        if (vectors == 2) store(C + i * c_row + W, q##i); \
    }
    S4D_ROWS(S4D_INIT)
    const Real* a = A;
    const Real* b = B;
    for (int64_t k = 0; k < K; ++k, a += a_col, b += b_row) {
        const V b0 = load(b), b1 = vectors == 2 ? load(b + W) : zero;
        S4D_ROWS(S4D_STEP)
    }
    S4D_ROWS(S4D_OUT)
#undef S4D_INIT
#undef S4D_STEP
#undef S4D_OUT
}
#undef S4D_ROWS

inline void gemm(int64_t M, int64_t N, int64_t K, const Real* A, int64_t a_row, int64_t a_col, const Real* B,
                 int64_t b_row, Real* C, int64_t c_row, const Real* bias, bool add) {
    for (int64_t n = 0; n < N;) {
        const int   vectors = N - n >= 2 * W ? 2 : 1;
        const Real* bias_n  = bias == nullptr ? nullptr : bias + n;
        for (int64_t m = 0; m < M;) {
            const int64_t left = M - m;
            const Real*   a    = A + m * a_row;
            Real*         c    = C + m * c_row + n;
            const int     rows = left >= 6 ? 6 : left >= 3 ? 3 : 1;
            if (vectors == 2) {
                if (rows == 6) gemm_tile(6, 2, K, a, a_row, a_col, B + n, b_row, c, c_row, bias_n, add);
                else if (rows == 3) gemm_tile(3, 2, K, a, a_row, a_col, B + n, b_row, c, c_row, bias_n, add);
                else gemm_tile(1, 2, K, a, a_row, a_col, B + n, b_row, c, c_row, bias_n, add);
            } else {
                if (rows == 6) gemm_tile(6, 1, K, a, a_row, a_col, B + n, b_row, c, c_row, bias_n, add);
                else if (rows == 3) gemm_tile(3, 1, K, a, a_row, a_col, B + n, b_row, c, c_row, bias_n, add);
                else gemm_tile(1, 1, K, a, a_row, a_col, B + n, b_row, c, c_row, bias_n, add);
            }
            m += rows;
        }
        n += vectors * W;
    }
}

// ---- Pointwise parts of a layer

// s [n] becomes g = GELU(s); d, if given, its derivative. n a multiple of W.
inline void gelu_rows(Real* s, Real* d, int64_t n) {
    for (int64_t i = 0; i < n; i += W) {
        V g, dg;
        gelu(load(s + i), &g, &dg);
        store(s + i, g);
        if (d != nullptr) store(d + i, dg);
    }
}

// Each row of v [R][2 Hp] becomes (o, sigmoid(gate)), o = value * sigmoid(gate).
inline void glu_rows(Real* v, int64_t R, int64_t Hp) {
    const V one = S4D_SPLAT(Real(1));
    for (int64_t r = 0; r < R; ++r, v += 2 * Hp)
        for (int64_t h = 0; h < Hp; h += W) {
            const V sig = one / (one + exp_of(-load(v + Hp + h)));
            store(v + h, load(v + h) * sig);
            store(v + Hp + h, sig);
        }
}

// From d_o [R][Hp] and (o, sig) [R][2 Hp] to the gradient of v [R][2 Hp]; `bias` [2 Hp] gathers its sum over rows.
inline void glu_backward(const Real* d_o, const Real* o_sig, Real* d_v, Real* bias, int64_t R, int64_t Hp) {
    const V one = S4D_SPLAT(Real(1));
    for (int64_t r = 0; r < R; ++r, d_o += Hp, o_sig += 2 * Hp, d_v += 2 * Hp)
        for (int64_t h = 0; h < Hp; h += W) {
            const V d = load(d_o + h), o = load(o_sig + h), sig = load(o_sig + Hp + h);
            const V d1 = d * sig, d2 = d * o * (one - sig);
            store(d_v + h, d1);
            store(d_v + Hp + h, d2);
            store(bias + h, load(bias + h) + d1);
            store(bias + Hp + h, load(bias + Hp + h) + d2);
        }
}

// LayerNorm of the H real channels of each row. x [R][Hp] -> y; xhat [R][Hp] and inverse deviation rstd [R] if given.
inline void norm_rows(const Real* x, Real* y, Real* xhat, Real* rstd, const Real* weight, const Real* bias,
                      const Real* mask, int64_t R, int64_t H, int64_t Hp) {
    for (int64_t r = 0; r < R; ++r, x += Hp, y += Hp) {
        LaneSum s, q;
        for (int64_t h = 0; h < Hp; h += 16)
            for (int k = 0; k < 16 / W && h + k * W < Hp; ++k)
                s.part[k] = S4D_FMA(load(x + h + k * W), load(mask + h + k * W), s.part[k]);
        const Real mean = total(s) / Real(H);
        const V    m    = S4D_SPLAT(mean);
        for (int64_t h = 0; h < Hp; h += 16)
            for (int k = 0; k < 16 / W && h + k * W < Hp; ++k) {
                const V d = (load(x + h + k * W) - m) * load(mask + h + k * W);
                q.part[k] = S4D_FMA(d, d, q.part[k]);
            }
        const Real scale = Real(1) / std::sqrt(total(q) / Real(H) + Real(1e-5));
        const V    k     = S4D_SPLAT(scale);
        for (int64_t h = 0; h < Hp; h += W) {
            const V z = (load(x + h) - m) * load(mask + h) * k;
            if (xhat != nullptr) store(xhat + r * Hp + h, z);
            store(y + h, S4D_FMA(z, load(weight + h), load(bias + h)));
        }
        if (rstd != nullptr) rstd[r] = scale;
    }
}

// d_y [R][Hp] -> d_x (may be the same array; added to what stands there if `add`); gathers d_weight and d_bias [Hp].
inline void norm_backward(const Real* d_y, Real* d_x, bool add, const Real* xhat, const Real* rstd, const Real* weight,
                          Real* d_weight, Real* d_bias, const Real* mask, int64_t R, int64_t H, int64_t Hp) {
    for (int64_t r = 0; r < R; ++r, d_y += Hp, d_x += Hp, xhat += Hp) {
        LaneSum s, q;
        for (int64_t at = 0; at < Hp; at += 16)
            for (int i = 0; i < 16 / W && at + i * W < Hp; ++i) {
                const int64_t h = at + i * W;
                const V       d = load(d_y + h), z = load(xhat + h), w = d * load(weight + h);
                s.part[i] += w;
                q.part[i] = S4D_FMA(w, z, q.part[i]);
                store(d_weight + h, S4D_FMA(d, z, load(d_weight + h)));
                store(d_bias + h, load(d_bias + h) + d);
            }
        const V m1 = S4D_SPLAT(total(s) / Real(H)), m2 = S4D_SPLAT(total(q) / Real(H)), k = S4D_SPLAT(rstd[r]);
        for (int64_t h = 0; h < Hp; h += W) {
            const V w = load(d_y + h) * load(weight + h);
            V       d = k * (w - m1 - load(xhat + h) * m2) * load(mask + h);
            if (add) d += load(d_x + h);
            store(d_x + h, d);
        }
    }
}

// ---- The state space: one block of W channels, all rows
//
// Layout of a block, j = mode: coef [n][6][W] = ar ai br bi 2Cr 2Ci for one training step; rates [n][4][W] (see
// SsmBlock).

// a and b of mode j for a step of `dt` training steps.
S4D_INLINE void discretize(const Real* rates, const double* turns, Real dt, bool zoh, V* ar, V* ai, V* br, V* bi) {
    const V one = S4D_SPLAT(Real(1)), two = S4D_SPLAT(Real(2)), step = S4D_SPLAT(dt);
    const V gr = load(rates + 2 * W), gi = load(rates + 3 * W);
    if (zoh) { // a = exp(z dt), b = (exp(z dt) - 1) / A; the phase in turns, in double: a fast mode turns many times
        VD t;
        __builtin_memcpy(&t, turns, sizeof t);
        t *= double(dt);
        VD whole = t + 6755399441055744.0; // 1.5 * 2^52
        whole -= 6755399441055744.0;
        const V        f = __builtin_convertvector(t - whole, V);
        const ExpParts e = exp_parts(load(rates) * step);
        V              sh = {}, ch = {}; // lanes are filled one by one below, which gcc -O1 cannot see
        half_angle(f, &sh, &ch);
        const V ex = S4D_FMA(e.scale, e.p, e.scale), em = S4D_FMA(e.scale, e.p, e.scale - one);
        const V s2 = two * sh * sh, c = one - s2, si = two * sh * ch;
        *ar        = ex * c;
        *ai        = ex * si;
        const V dr = S4D_FMA(em, c, -s2);
        *br        = S4D_FNMA(*ai, gi, dr * gr);
        *bi        = S4D_FMA(*ai, gr, dr * gi);
    } else { // w = z dt / 2: a = (1 + w) / (1 - w), b = B dt / (1 - w)
        const V x = load(rates) * step, y = load(rates + W) * step, d = one - x;
        const V q = one / S4D_FMA(d, d, y * y), rr = d * q, ri = y * q, p = one + x;
        *ar = S4D_FNMA(y, ri, p * rr);
        *ai = S4D_FMA(y, rr, p * ri);
        *br = rr * gr * step;
        *bi = ri * gr * step;
    }
}

// Constant step, every row an event, no limit: MODES modes side by side through a chunk.
S4D_INLINE void forward_modes(const int modes, const Real* coef, Real* state, const Real* u, Real* y, int64_t ld,
                              int64_t rows, bool first, const Real* D) {
    V xr0, xi0, xr1 = {}, xi1 = {}, xr2 = {}, xi2 = {}, xr3 = {}, xi3 = {};
#define S4D_LOAD(j)                            \
    if (modes > j) {                           \
        xr##j = load(state + 2 * j * W);       \
        xi##j = load(state + (2 * j + 1) * W); \
    }
#define S4D_STEP(j)                                                                                   \
    if (modes > j) {                                                                                  \
        const Real* k  = coef + 6 * j * W;                                                            \
        const V     nr = S4D_FNMA(load(k + W), xi##j, S4D_FMA(load(k), xr##j, load(k + 2 * W) * in)); \
        xi##j          = S4D_FMA(load(k + W), xr##j, S4D_FMA(load(k), xi##j, load(k + 3 * W) * in));  \
        xr##j          = nr;                                                                          \
        acc            = S4D_FMA(load(k + 4 * W), xr##j, acc);                                        \
        acc            = S4D_FNMA(load(k + 5 * W), xi##j, acc);                                       \
    }
#define S4D_SAVE(j)                            \
    if (modes > j) {                           \
        store(state + 2 * j * W, xr##j);       \
        store(state + (2 * j + 1) * W, xi##j); \
    }
    S4D_LOAD(0) S4D_LOAD(1) S4D_LOAD(2) S4D_LOAD(3) const V d = load(D);
    for (int64_t r = 0; r < rows; ++r) {
        const V in  = load(u + r * ld);
        V       acc = first ? d * in : load(y + r * ld);
        S4D_STEP(0) S4D_STEP(1) S4D_STEP(2) S4D_STEP(3) store(y + r * ld, acc);
    }
    S4D_SAVE(0) S4D_SAVE(1) S4D_SAVE(2) S4D_SAVE(3)
#undef S4D_STEP
}

// The states before each row of a chunk: track [modes][rows + 1][2][W], track[.][0] given.
S4D_INLINE void retrace_modes(const int modes, const Real* coef, Real* track, int64_t track_mode, const Real* u,
                              int64_t ld, int64_t rows) {
    V xr0, xi0, xr1 = {}, xi1 = {}, xr2 = {}, xi2 = {}, xr3 = {}, xi3 = {};
#undef S4D_LOAD
#define S4D_LOAD(j)                               \
    if (modes > j) {                              \
        xr##j = load(track + j * track_mode);     \
        xi##j = load(track + j * track_mode + W); \
    }
#define S4D_STEP(j)                                                                                   \
    if (modes > j) {                                                                                  \
        const Real* k  = coef + 6 * j * W;                                                            \
        const V     nr = S4D_FNMA(load(k + W), xi##j, S4D_FMA(load(k), xr##j, load(k + 2 * W) * in)); \
        xi##j          = S4D_FMA(load(k + W), xr##j, S4D_FMA(load(k), xi##j, load(k + 3 * W) * in));  \
        xr##j          = nr;                                                                          \
        store(track + j * track_mode + (r + 1) * 2 * W, xr##j);                                       \
        store(track + j * track_mode + (r + 1) * 2 * W + W, xi##j);                                   \
    }
    S4D_LOAD(0) S4D_LOAD(1) S4D_LOAD(2) S4D_LOAD(3) for (int64_t r = 0; r < rows; ++r) {
        const V in = load(u + r * ld);
        S4D_STEP(0) S4D_STEP(1) S4D_STEP(2) S4D_STEP(3)
    }
#undef S4D_LOAD
#undef S4D_STEP
#undef S4D_SAVE
}

// One mode backwards through a chunk. lambda [2][W]; sums [6][W] = ga, gb, gC as in section 9 of the S4D formulas.
S4D_INLINE void backward_mode(const Real* coef, const Real* track, Real* lambda, Real* sums, const Real* u,
                              const Real* g, Real* d_u, int64_t ld, int64_t rows) {
    const V ar = load(coef), ai = load(coef + W), br = load(coef + 2 * W), bi = load(coef + 3 * W),
            cr = load(coef + 4 * W), ci = load(coef + 5 * W);
    V lr = load(lambda), li = load(lambda + W);
    V gar = load(sums), gai = load(sums + W), gbr = load(sums + 2 * W), gbi = load(sums + 3 * W),
      gcr = load(sums + 4 * W), gci = load(sums + 5 * W);
    V xr = load(track + rows * 2 * W), xi = load(track + rows * 2 * W + W);
    for (int64_t r = rows - 1; r >= 0; --r) {
        const V y = load(g + r * ld), in = load(u + r * ld);
        gcr        = S4D_FMA(y, xr, gcr);
        gci        = S4D_FNMA(y, xi, gci);
        const V nr = S4D_FMA(ai, li, S4D_FMA(ar, lr, cr * y)); // lambda = conj(2 C) g + conj(a) lambda
        const V ni = S4D_FNMA(ai, lr, S4D_FNMA(ci, y, ar * li));
        lr = nr, li = ni;
        xr = load(track + r * 2 * W), xi = load(track + r * 2 * W + W);
        gar = S4D_FMA(xi, li, S4D_FMA(xr, lr, gar));
        gai = S4D_FNMA(xi, lr, S4D_FMA(xr, li, gai));
        gbr = S4D_FMA(in, lr, gbr);
        gbi = S4D_FMA(in, li, gbi);
        store(d_u + r * ld, S4D_FMA(bi, li, S4D_FMA(br, lr, load(d_u + r * ld))));
    }
    store(lambda, lr), store(lambda + W, li);
    store(sums, gar), store(sums + W, gai), store(sums + 2 * W, gbr), store(sums + 3 * W, gbi),
        store(sums + 4 * W, gcr), store(sums + 5 * W, gci);
}

// y = 2 Re(C x) + D u for every row of u [R][ld] (one block: W channels of each row). Leaves the state before each
// chunk in `bounds` [chunks][n][2][W] if that is given.
inline void ssm_forward(const SsmBlock<Real>& b, const SsmRows<Real>& rows, const Real* u, Real* y, Real* bounds,
                        Real* work) {
    const int64_t n = b.n_modes, ld = rows.ld, state_size = n * 2 * W;
    Real*         state   = work; // [n][2][W]
    const bool    general = rows.dt != nullptr || rows.probe != nullptr || b.clip > 0;
    const V       D = load(b.D), clip = S4D_SPLAT(b.clip);
    for (int64_t c = 0; c < rows.n_chunks; ++c) {
        const Chunk ch = rows.chunks[c];
        if (ch.first) std::memset(state, 0, size_t(state_size) * sizeof(Real));
        if (bounds != nullptr) std::memcpy(bounds + c * state_size, state, size_t(state_size) * sizeof(Real));
        if (!general) {
            const int64_t len = ch.end - ch.begin;
            const Real*   uc  = u + ch.begin * ld;
            Real*         yc  = y + ch.begin * ld;
            for (int64_t j = 0; j < n;) {
                const int64_t left = n - j;
                const Real*   k    = b.coef + 6 * j * W;
                Real*         s    = state + 2 * j * W;
                if (left >= 4) forward_modes(4, k, s, uc, yc, ld, len, j == 0, b.D), j += 4;
                else if (left >= 2) forward_modes(2, k, s, uc, yc, ld, len, j == 0, b.D), j += 2;
                else forward_modes(1, k, s, uc, yc, ld, len, j == 0, b.D), j += 1;
            }
            continue;
        }
        for (int64_t r = ch.begin; r < ch.end; ++r) {
            const bool probe = rows.probe != nullptr && rows.probe[r] != 0;
            const V    in    = load(u + r * ld);
            V          acc   = D * in;
            for (int64_t j = 0; j < n; ++j) {
                const Real* k  = b.coef + 6 * j * W;
                V           ar = load(k), ai = load(k + W), br = load(k + 2 * W), bi = load(k + 3 * W);
                if (rows.dt != nullptr)
                    discretize(b.rates + 4 * j * W, b.turns + j * W, rows.dt[r], b.zoh, &ar, &ai, &br, &bi);
                Real*   s  = state + 2 * j * W;
                const V xr = load(s), xi = load(s + W);
                V       nr = S4D_FNMA(ai, xi, S4D_FMA(ar, xr, br * in)), ni = S4D_FMA(ai, xr, S4D_FMA(ar, xi, bi * in));
                if (b.clip > 0) nr = limit(nr, clip), ni = limit(ni, clip);
                acc = S4D_FMA(load(k + 4 * W), nr, acc);
                acc = S4D_FNMA(load(k + 5 * W), ni, acc);
                if (!probe) store(s, nr), store(s + W, ni);
            }
            store(y + r * ld, acc);
        }
    }
}

// From g = dL/dy [R][ld] to d_u [R][ld], adding to grad [n][5][W] = (gA real, gA imaginary, g of dt by mode, g of 2C
// real, imaginary) and d_D [W]. The states inside a chunk are made again from `bounds`: the recurrence is never run
// backwards.
inline void ssm_backward(const SsmBlock<Real>& b, const SsmRows<Real>& rows, const Real* u, const Real* g, Real* d_u,
                         const Real* bounds, Real* grad, Real* d_D, Real* work) {
    const int64_t n = b.n_modes, ld = rows.ld, state_size = n * 2 * W, Q = rows.max_chunk;
    Real*         lambda  = work;                  // [n][2][W]
    Real*         sums    = lambda + state_size;   // [n][6][W]
    Real*         track   = sums + 3 * state_size; // fast: [4][Q + 1][2][W]; general: [Q][n][6][W]
    Real*         state   = track + 3 * state_size * Q + 8 * (Q + 1) * W;
    const bool    general = rows.dt != nullptr || rows.probe != nullptr || b.clip > 0 || rows.truncate > 0;
    const V       D = load(b.D), clip = S4D_SPLAT(b.clip);
    V             gD = {};
    std::memset(lambda, 0, size_t(4 * state_size) * sizeof(Real));
    for (int64_t c = rows.n_chunks - 1; c >= 0; --c) {
        const Chunk   ch  = rows.chunks[c];
        const int64_t len = ch.end - ch.begin;
        const Real *  uc = u + ch.begin * ld, *gc = g + ch.begin * ld, *bound = bounds + c * state_size;
        Real*         dc = d_u + ch.begin * ld;
        for (int64_t r = 0; r < len; ++r) {
            const V y = load(gc + r * ld);
            gD        = S4D_FMA(y, load(uc + r * ld), gD);
            store(dc + r * ld, D * y);
        }
        if (!general) {
            const int64_t track_mode = (Q + 1) * 2 * W;
            for (int64_t j = 0; j < n;) {
                const int   modes = n - j >= 4 ? 4 : n - j >= 2 ? 2 : 1;
                const Real* k     = b.coef + 6 * j * W;
                for (int m = 0; m < modes; ++m)
                    std::memcpy(track + m * track_mode, bound + (j + m) * 2 * W, 2 * W * sizeof(Real));
                if (modes == 4) retrace_modes(4, k, track, track_mode, uc, ld, len);
                else if (modes == 2) retrace_modes(2, k, track, track_mode, uc, ld, len);
                else retrace_modes(1, k, track, track_mode, uc, ld, len);
                for (int m = 0; m < modes; ++m, ++j)
                    backward_mode(b.coef + 6 * j * W, track + m * track_mode, lambda + 2 * j * W, sums + 6 * j * W, uc,
                                  gc, dc, ld, len);
            }
        } else {
            // 1. The state before each row, and a and b where they depend on the row.
            std::memcpy(state, bound, size_t(state_size) * sizeof(Real));
            for (int64_t r = 0; r < len; ++r) {
                const bool probe = rows.probe != nullptr && rows.probe[ch.begin + r] != 0;
                const V    in    = load(uc + r * ld);
                for (int64_t j = 0; j < n; ++j) {
                    Real*       t  = track + (r * n + j) * 6 * W;
                    const Real* k  = b.coef + 6 * j * W;
                    V           ar = load(k), ai = load(k + W), br = load(k + 2 * W), bi = load(k + 3 * W);
                    if (rows.dt != nullptr)
                        discretize(b.rates + 4 * j * W, b.turns + j * W, rows.dt[ch.begin + r], b.zoh, &ar, &ai, &br,
                                   &bi);
                    Real*   s  = state + 2 * j * W;
                    const V xr = load(s), xi = load(s + W);
                    store(t, xr), store(t + W, xi), store(t + 2 * W, ar), store(t + 3 * W, ai), store(t + 4 * W, br),
                        store(t + 5 * W, bi);
                    if (probe) continue;
                    V nr = S4D_FNMA(ai, xi, S4D_FMA(ar, xr, br * in)), ni = S4D_FMA(ai, xr, S4D_FMA(ar, xi, bi * in));
                    if (b.clip > 0) nr = limit(nr, clip), ni = limit(ni, clip);
                    store(s, nr), store(s + W, ni);
                }
            }
            // 2. Backwards. `lambda` holds what the state after this row receives from later rows.
            for (int64_t r = len - 1; r >= 0; --r) {
                const int64_t row   = ch.begin + r;
                const bool    probe = rows.probe != nullptr && rows.probe[row] != 0;
                const V       y = load(gc + r * ld), in = load(uc + r * ld);
                const V       dt = S4D_SPLAT(rows.dt != nullptr ? rows.dt[row] : Real(1));
                V             du = load(dc + r * ld);
                for (int64_t j = 0; j < n; ++j) {
                    const Real *t = track + (r * n + j) * 6 * W, *k = b.coef + 6 * j * W;
                    Real *      l = lambda + 2 * j * W, *s = sums + 6 * j * W;
                    const V     xr = load(t), xi = load(t + W), ar = load(t + 2 * W), ai = load(t + 3 * W),
                            br = load(t + 4 * W), bi = load(t + 5 * W);
                    V nr = S4D_FNMA(ai, xi, S4D_FMA(ar, xr, br * in)), ni = S4D_FMA(ai, xr, S4D_FMA(ar, xi, bi * in));
                    V lr = load(k + 4 * W) * y, li = -(load(k + 5 * W) * y);
                    if (!probe) lr += load(l), li += load(l + W);
                    if (b.clip > 0) {
                        lr = larger(nr, -nr) > clip ? V{} : lr;
                        li = larger(ni, -ni) > clip ? V{} : li;
                        nr = limit(nr, clip), ni = limit(ni, clip);
                    }
                    store(s + 4 * W, S4D_FMA(y, nr, load(s + 4 * W)));
                    store(s + 5 * W, S4D_FNMA(y, ni, load(s + 5 * W)));
                    const V gar = S4D_FMA(xi, li, xr * lr), gai = S4D_FNMA(xi, lr, xr * li), gbr = in * lr,
                            gbi = in * li;
                    if (rows.dt == nullptr) {
                        store(s, load(s) + gar), store(s + W, load(s + W) + gai);
                        store(s + 2 * W, load(s + 2 * W) + gbr), store(s + 3 * W, load(s + 3 * W) + gbi);
                    } else if (b.zoh) {
                        // S1 += dt conj(a) (ga + conj(1/A) gb),  S2 += conj(b) gb
                        const V qr = load(b.rates + (4 * j + 2) * W), qi = load(b.rates + (4 * j + 3) * W);
                        const V er = dt * S4D_FMA(qi, gbi, S4D_FMA(qr, gbr, gar)),
                                ei = dt * S4D_FNMA(qi, gbr, S4D_FMA(qr, gbi, gai));
                        store(s, S4D_FMA(ai, ei, S4D_FMA(ar, er, load(s))));
                        store(s + W, S4D_FNMA(ai, er, S4D_FMA(ar, ei, load(s + W))));
                        store(s + 2 * W, S4D_FMA(bi, gbi, S4D_FMA(br, gbr, load(s + 2 * W))));
                        store(s + 3 * W, S4D_FNMA(bi, gbr, S4D_FMA(br, gbi, load(s + 3 * W))));
                    } else {
                        // r = b / (dt dt_h);  S1 += dt conj(r^2) (ga + dt dt_h/2 gb),  S2 += dt conj(r) gb
                        const V hh = load(b.rates + 2 * W + 4 * j * W),
                                q  = S4D_SPLAT(Real(1)) / (hh * dt + (S4D_SPLAT(Real(1)) - load(b.mask)));
                        const V rr = br * q, ri = bi * q, half = hh * dt * S4D_SPLAT(Real(0.5));
                        const V er = dt * S4D_FMA(half, gbr, gar), ei = dt * S4D_FMA(half, gbi, gai);
                        const V fr = S4D_FMA(ri, ei, rr * er), fi = S4D_FNMA(ri, er, rr * ei);
                        store(s, S4D_FMA(ri, fi, S4D_FMA(rr, fr, load(s))));
                        store(s + W, S4D_FNMA(ri, fr, S4D_FMA(rr, fi, load(s + W))));
                        store(s + 2 * W, S4D_FMA(dt, S4D_FMA(ri, gbi, rr * gbr), load(s + 2 * W)));
                        store(s + 3 * W, S4D_FMA(dt, S4D_FNMA(ri, gbr, rr * gbi), load(s + 3 * W)));
                    }
                    du         = S4D_FMA(bi, li, S4D_FMA(br, lr, du));
                    const V cr = S4D_FMA(ai, li, ar * lr), ci = S4D_FNMA(ai, lr, ar * li);
                    if (probe) store(l, load(l) + cr), store(l + W, load(l + W) + ci);
                    else store(l, cr), store(l + W, ci);
                }
                store(dc + r * ld, du);
                if (rows.cut != nullptr && rows.cut[row] != 0)
                    std::memset(lambda, 0, size_t(state_size) * sizeof(Real));
            }
        }
        if (ch.first) std::memset(lambda, 0, size_t(state_size) * sizeof(Real));
    }
    // From the sums to gradients of A, dt and 2C: linear, with factors made in double (SsmBlock::chain).
    for (int64_t j = 0; j < n; ++j) {
        const Real *s = sums + 6 * j * W, *k = (rows.dt == nullptr ? b.chain : b.chain_dt) + 8 * j * W;
        Real*       o  = grad + 5 * j * W;
        const V     s0 = load(s), s1 = load(s + W), s2 = load(s + 2 * W), s3 = load(s + 3 * W);
        const V k1r = load(k), k1i = load(k + W), k2r = load(k + 2 * W), k2i = load(k + 3 * W), k3r = load(k + 4 * W),
                k3i = load(k + 5 * W), k4r = load(k + 6 * W), k4i = load(k + 7 * W);
        // gA += conj(K1) S1 + conj(K2) S2;  gdt += Re(conj(K3) S1 + conj(K4) S2)
        store(o, load(o) + (k1r * s0 + k1i * s1) + (k2r * s2 + k2i * s3));
        store(o + W, load(o + W) + (k1r * s1 - k1i * s0) + (k2r * s3 - k2i * s2));
        store(o + 2 * W, load(o + 2 * W) + (k3r * s0 + k3i * s1) + (k4r * s2 + k4i * s3));
        store(o + 3 * W, load(o + 3 * W) + load(s + 4 * W));
        store(o + 4 * W, load(o + 4 * W) + load(s + 5 * W));
    }
    store(d_D, load(d_D) + gD);
}

// ---- Mamba-3: one head at one token. Rows of headdim are padded to Pp, a multiple of 16, with zeros.

// out[i] = the sum of row i of lanes [count][16], added as total() does; count a multiple of 4.
S4D_INLINE void add_lanes(const Real* lanes, Real* out, int64_t count) {
    typedef Real V4 __attribute__((vector_size(4 * sizeof(Real))));
    for (int64_t i = 0; i < count; i += 4, lanes += 64) {
        V4 q[4];
        for (int j = 0; j < 4; ++j) {
            V4 part[4];
            std::memcpy(part, lanes + 16 * j, sizeof part);
            q[j] = (part[0] + part[2]) + (part[1] + part[3]);
        }
        const V4 a = __builtin_shufflevector(q[0], q[1], 0, 1, 4, 5) + __builtin_shufflevector(q[0], q[1], 2, 3, 6, 7);
        const V4 b = __builtin_shufflevector(q[2], q[3], 0, 1, 4, 5) + __builtin_shufflevector(q[2], q[3], 2, 3, 6, 7);
        const V4 c = __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
        std::memcpy(out + i, &c, sizeof c);
    }
}

// after [N][Pp] = alpha before + sum over r of gamma k[r][n] v[r] + beta k_old[r][n] v_old[r]; o [R][Pp] = sum over n
// of q[r][n] after[n], if asked for. k_old may be null: 0.
inline void state_update(int N, int R, int Pp, Real alpha, Real beta, Real gamma, const Real* k, const Real* k_old,
                         const Real* v, const Real* v_old, const Real* before, Real* after, const Real* q, Real* o) {
    const V decay = S4D_SPLAT(alpha), zero = {};
    for (int p = 0; p < Pp; p += W) {
        if (R == 1) {
            const V x = load(v + p), x_old = k_old != nullptr ? load(v_old + p) : zero;
            V       sum = zero;
            for (int n = 0; n < N; ++n) {
                V h = load(before + n * Pp + p) * decay;
                if (k_old != nullptr) h = S4D_FMA(S4D_SPLAT(beta * k_old[n]), x_old, h);
                h = S4D_FMA(S4D_SPLAT(gamma * k[n]), x, h);
                store(after + n * Pp + p, h);
                if (o != nullptr) sum = S4D_FMA(S4D_SPLAT(q[n]), h, sum);
            }
            if (o != nullptr) store(o + p, sum);
            continue;
        }
        for (int r = 0; o != nullptr && r < R; ++r) store(o + r * Pp + p, zero);
        for (int n = 0; n < N; ++n) {
            V h = load(before + n * Pp + p) * decay;
            for (int r = 0; r < R; ++r) {
                if (k_old != nullptr) h = S4D_FMA(S4D_SPLAT(beta * k_old[r * N + n]), load(v_old + r * Pp + p), h);
                h = S4D_FMA(S4D_SPLAT(gamma * k[r * N + n]), load(v + r * Pp + p), h);
            }
            store(after + n * Pp + p, h);
            for (int r = 0; o != nullptr && r < R; ++r)
                store(o + r * Pp + p, S4D_FMA(S4D_SPLAT(q[r * N + n]), h, load(o + r * Pp + p)));
        }
    }
}

// The gradient of state_update and its read-out, see StateBack.
inline void state_backward_any(const StateBack<Real>& s) {
    const int N = s.N, R = s.R, Pp = s.Pp, count = Pp / W, RN = R * N;
    const V   decay = S4D_SPLAT(s.alpha);
    LaneSum   d_alpha;
    for (int n = 0; n < N; ++n) {
        Real* const       g = s.g + n * Pp;
        const Real* const after = s.after + n * Pp;
        const Real* const before = s.before + n * Pp;
        for (int r = 0; r < R; ++r) {
            const V qn = S4D_SPLAT(s.q[r * N + n]);
            LaneSum sum;
            for (int b = 0; b < count; ++b) {
                const V d_o = load(s.d_o + r * Pp + b * W);
                sum.part[b % (16 / W)] = S4D_FMA(d_o, load(after + b * W), sum.part[b % (16 / W)]);
                store(g + b * W, S4D_FMA(d_o, qn, load(g + b * W)));
            }
            std::memcpy(s.lanes + 16 * (r * N + n), sum.part, sizeof sum.part);
        }
        for (int r = 0; r < R; ++r) {
            const V now = S4D_SPLAT(s.gamma * s.k[r * N + n]);
            LaneSum sum;
            for (int b = 0; b < count; ++b) {
                const V x = load(g + b * W);
                sum.part[b % (16 / W)] = S4D_FMA(x, load(s.v + r * Pp + b * W), sum.part[b % (16 / W)]);
                store(s.d_v + r * Pp + b * W, S4D_FMA(now, x, load(s.d_v + r * Pp + b * W)));
            }
            std::memcpy(s.lanes + 16 * (RN + r * N + n), sum.part, sizeof sum.part);
            if (s.k_old == nullptr) continue;
            const V old = S4D_SPLAT(s.beta * s.k_old[r * N + n]);
            LaneSum sum_old;
            for (int b = 0; b < count; ++b) {
                const V x = load(g + b * W);
                sum_old.part[b % (16 / W)] = S4D_FMA(x, load(s.v_old + r * Pp + b * W), sum_old.part[b % (16 / W)]);
                store(s.d_w + r * Pp + b * W, S4D_FMA(old, x, load(s.d_w + r * Pp + b * W)));
            }
            std::memcpy(s.lanes + 16 * (2 * RN + r * N + n), sum_old.part, sizeof sum_old.part);
        }
        for (int b = 0; b < count; ++b) {
            const V x = load(g + b * W);
            d_alpha.part[b % (16 / W)] = S4D_FMA(x, load(before + b * W), d_alpha.part[b % (16 / W)]);
            store(g + b * W, x * decay);
        }
    }
    std::memcpy(s.lanes + 16 * 3 * RN, d_alpha.part, sizeof d_alpha.part);
    add_lanes(s.lanes, s.sums, (3 * RN + 1 + 3) / 4 * 4);
}
// The same for R = 1, in the same order, with the rows of one token in registers.
template <int vectors> inline void state_backward_one(const StateBack<Real>& s) {
    constexpr int parts = 16 / W;
    const int     N = s.N, Pp = s.Pp;
    const V       decay = S4D_SPLAT(s.alpha);
    V             d_o[vectors], v[vectors], v_old[vectors], d_v[vectors], d_w[vectors];
    LaneSum       d_alpha;
    for (int b = 0; b < vectors; ++b) {
        d_o[b] = load(s.d_o + b * W), v[b] = load(s.v + b * W), d_v[b] = load(s.d_v + b * W);
        d_w[b] = load(s.d_w + b * W), v_old[b] = s.k_old != nullptr ? load(s.v_old + b * W) : V{};
    }
    for (int n = 0; n < N; ++n) {
        const V qn = S4D_SPLAT(s.q[n]), now = S4D_SPLAT(s.gamma * s.k[n]),
                old = S4D_SPLAT(s.k_old != nullptr ? s.beta * s.k_old[n] : Real(0));
        LaneSum for_q, for_k, for_old;
        for (int b = 0; b < vectors; ++b) {
            Real* const g = s.g + n * Pp + b * W;
            const int   part = b % parts;
            for_q.part[part] = S4D_FMA(d_o[b], load(s.after + n * Pp + b * W), for_q.part[part]);
            const V x = S4D_FMA(d_o[b], qn, load(g));
            for_k.part[part] = S4D_FMA(x, v[b], for_k.part[part]);
            for_old.part[part] = S4D_FMA(x, v_old[b], for_old.part[part]);
            d_v[b] = S4D_FMA(now, x, d_v[b]);
            d_w[b] = S4D_FMA(old, x, d_w[b]);
            d_alpha.part[part] = S4D_FMA(x, load(s.before + n * Pp + b * W), d_alpha.part[part]);
            store(g, x * decay);
        }
        std::memcpy(s.lanes + 16 * n, for_q.part, sizeof for_q.part);
        std::memcpy(s.lanes + 16 * (N + n), for_k.part, sizeof for_k.part);
        std::memcpy(s.lanes + 16 * (2 * N + n), for_old.part, sizeof for_old.part);
    }
    for (int b = 0; b < vectors; ++b) store(s.d_v + b * W, d_v[b]), store(s.d_w + b * W, d_w[b]);
    std::memcpy(s.lanes + 16 * 3 * N, d_alpha.part, sizeof d_alpha.part);
    add_lanes(s.lanes, s.sums, (3 * N + 1 + 3) / 4 * 4);
}
inline void state_backward(const StateBack<Real>& s) {
    if (s.R > 1) state_backward_any(s);
    else if (s.Pp == W) state_backward_one<1>(s);
    else if (s.Pp == 2 * W) state_backward_one<2>(s);
    else if (s.Pp == 4 * W) state_backward_one<4>(s);
    else state_backward_any(s);
}

// y = sigmoid(x); n a multiple of W.
inline void sigmoid_row(const Real* x, Real* y, int64_t n) {
    const V one = S4D_SPLAT(Real(1));
    for (int64_t i = 0; i < n; i += W) store(y + i, one / (one + exp_of(-load(x + i))));
}

// sin and cos of x half turns, x in [-1, 1]; n a multiple of W.
inline void sin_cos_row(const Real* x, Real* sin, Real* cos, int64_t n) {
    const V half = S4D_SPLAT(Real(0.5)), two = S4D_SPLAT(Real(2)), one = S4D_SPLAT(Real(1));
    for (int64_t i = 0; i < n; i += W) {
        V s, c;
        half_angle(load(x + i) * half, &s, &c);
        store(sin + i, s * c * two);
        store(cos + i, S4D_FNMA(s * two, s, one));
    }
}

inline Kernels<Real> kernels() {
    Kernels<Real> k;
    k.width         = W;
    k.gemm          = gemm;
    k.gelu_rows     = gelu_rows;
    k.glu_rows      = glu_rows;
    k.glu_backward  = glu_backward;
    k.norm_rows     = norm_rows;
    k.norm_backward = norm_backward;
    k.ssm_forward   = ssm_forward;
    k.ssm_backward  = ssm_backward;

    k.state_update = state_update, k.state_backward = state_backward;
    k.sigmoid_row = sigmoid_row, k.sin_cos_row = sin_cos_row;
    return k;
}
#undef S4D_INLINE
