// s4d_net.hpp - an S4D network for training: parameters, forward pass, gradients.
// SPDX-License-Identifier: MIT
//
// The model: encoder, `n_layers` of (diagonal state space, GELU, GLU mixing, residual, LayerNorm), pooling, decoder;
// after Gu et al., arXiv 2206.11893. Float for training, double for checking gradients.
//
//     Net<float>       the parameters under their official names, in one flat array
//     Ready<float>     the parameters as the inner loops want them; make one after every change of the parameters,
//     share it Workspace<float> memory of one thread; reuse it Gradient<float>  what backward() adds to; add() sums two
//     of them, to_params() turns the sum into d loss / d parameter
//
// A Batch is a list of streams (sequences), one after another. A row of a stream is an event, which advances the state,
// or a probe, which is scored as if it were the next event and leaves the state as it was. Outputs, in order of rows:
//
//     with probes                      a row of d_output for every probe (pool last or none)
//     no probes, pool mean or last     one for every stream
//     no probes, pool none             one for every row
//
// Bits: results depend on the batch and the parameters alone; a stream's outputs do not depend on its neighbours. Which
// thread runs a batch makes no difference, nor do compiler and optimisation level. The kernel sets with fused
// multiply-add (AVX2, AVX-512) agree in every bit; the portable one and another C library (exp, log, sin) may differ in
// the last bits.

#ifndef S4D_NET_HPP
#define S4D_NET_HPP

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#define S4D_X86 1
#endif

// Products and sums fuse where the code says so and nowhere else: no compiler or optimisation level changes a bit. From
// here to the end of the file that includes this one.
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include "random.hpp"

namespace s4d {

enum class Disc { zoh, bilinear };
enum class Pool { mean, last, none };
enum class Init { lin, inv, legs, real };

struct Config {
    int    d_model  = 64;
    int    d_state  = 32; // N; N/2 complex modes
    int    n_layers = 3;
    int    d_input  = 1;
    int    d_output = 10;
    bool   prenorm  = false;
    Pool   pool     = Pool::mean;
    Disc   disc     = Disc::zoh;
    double clip     = 0; // limit of each real and imaginary part of the state; 0: none
    int    act_bits = 0; // 8 or 16: what enters a projection is rounded as the integer engine does; 0: not
};

// Rounds rows of `width` numbers, `ld` apart, to what the integer engine's quantiser keeps of them: multiples of the row's
// largest magnitude / 127, or / 32767 with 16 bits; halves go up. Gradients pass as if nothing had happened.
template <class Real> void round_rows(Real* x, int64_t rows, int64_t width, int64_t ld, int bits) {
    if (bits == 0) return;
    const Real most = bits == 8 ? Real(127) : Real(32767), above = most + Real(1.5);
    for (Real* row = x; row < x + rows * ld; row += ld) {
        Real largest = 0, nothing = 0; // the latter NaN if a number is not finite
        for (int64_t i = 0; i < width; ++i) largest = std::max(largest, std::fabs(row[i])), nothing += 0 * row[i];
        if (!(largest > Real(1e-30)) || nothing != 0) continue; // nobody shall miss that a run diverged
        const Real codes = most / largest, step = largest / most;
        for (int64_t i = 0; i < width; ++i) // truncation of a positive number: floor of code + 1/2
            row[i] = Real(int32_t(row[i] * codes + above) - int32_t(most + 1)) * step;
    }
}

// Memory that only grows, on cache lines, not initialised.
template <class T> class Buffer {
    struct Free {
        void operator()(T* p) const { ::operator delete(p, std::align_val_t(64)); }
    };
    std::unique_ptr<T[], Free> memory;
    size_t                     room = 0;

public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept { swap(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        swap(other);
        return *this;
    }
    void swap(Buffer& other) noexcept {
        std::swap(memory, other.memory);
        std::swap(room, other.room);
    }
    T* get(int64_t n) {
        if (size_t(n) > room) {
            const size_t more = size_t(n) + size_t(n) / 4;
            room              = 0;
            memory.reset(); // the old content is not kept, and need not stay beside the new
            memory.reset(static_cast<T*>(::operator new(more * sizeof(T), std::align_val_t(64))));
            room = more;
        }
        return memory.get();
    }
    T* data() const { return memory.get(); }
    T* zeros(int64_t n) {
        T* p = get(n);
        std::fill(p, p + n, T(0));
        return p;
    }
};

// ---- What the inner loops get

struct Chunk {
    int64_t begin, end; // rows
    bool    first;      // of its stream: the state before it is zero
};

template <class Real> struct SsmRows {
    const Real*    dt        = nullptr; // [rows]; null: 1
    const uint8_t* probe     = nullptr; // [rows]; null: all events
    const uint8_t* cut       = nullptr; // [rows]: no gradient flows through the state before this row
    const Chunk*   chunks    = nullptr;
    int64_t        n_chunks  = 0;
    int64_t        max_chunk = 0; // rows
    int64_t        ld        = 0; // from one row to the next
    int            truncate  = 0;
};

// One block of W channels; j = mode, all [n][planes][W].
template <class Real> struct SsmBlock {
    int           n_modes  = 0;
    bool          zoh      = true;
    Real          clip     = 0;
    const Real*   coef     = nullptr; // 6 planes: a, b, 2C for a step of 1
    const Real*   rates    = nullptr; // 4 planes: zoh Re z, 0, 1/A; bilinear Re z/2, Im z/2, dt, 0
    const double* turns    = nullptr; // [n][W] Im z / 2 pi
    const Real*   chain    = nullptr; // 8 planes K1..K4, see ssm_backward
    const Real*   chain_dt = nullptr; // the same for rows with their own dt
    const Real*   D        = nullptr; // [W]
    const Real*   mask     = nullptr; // [W] 1 for a channel, 0 for padding
};

// One head of Mamba-3 at one token, on the way back. Rows of headdim are padded to Pp.
template <class Real> struct StateBack {
    int         N = 0, R = 0, Pp = 0;
    Real        alpha = 0, beta = 0, gamma = 0;
    const Real *k = nullptr, *q = nullptr, *k_old = nullptr;   // [R][N]; k_old null at the first token
    const Real *v = nullptr, *v_old = nullptr, *d_o = nullptr; // [R][Pp]
    const Real *before = nullptr, *after = nullptr;            // the state, [N][Pp]
    Real*       g = nullptr;                                   // [N][Pp] gradient of `after`; becomes that of `before`
    Real *      d_v = nullptr, *d_w = nullptr;                 // [R][Pp]: gradients of v and v_old are added
    Real *      lanes = nullptr, *sums = nullptr;              // work [3 R N + 4][16]; [3 R N + 4], results:
    // of q [R][N] d_o . after; of k and k_old, before they are multiplied by gamma and beta; of alpha
};

template <class Real> struct Kernels {
    int width                                                                                               = 0;
    void (*gemm)(int64_t M, int64_t N, int64_t K, const Real* A, int64_t a_row, int64_t a_col, const Real* B,
                 int64_t b_row, Real* C, int64_t c_row, const Real* bias, bool add)                         = nullptr;
    void (*gelu_rows)(Real* s, Real* d, int64_t n)                                                          = nullptr;
    void (*glu_rows)(Real* v, int64_t R, int64_t Hp)                                                        = nullptr;
    void (*glu_backward)(const Real* d_o, const Real* o_sig, Real* d_v, Real* bias, int64_t R, int64_t Hp)  = nullptr;
    void (*norm_rows)(const Real* x, Real* y, Real* xhat, Real* rstd, const Real* weight, const Real* bias,
                      const Real* mask, int64_t R, int64_t H, int64_t Hp)                                   = nullptr;
    void (*norm_backward)(const Real* d_y, Real* d_x, bool add, const Real* xhat, const Real* rstd, const Real* weight,
                          Real* d_weight, Real* d_bias, const Real* mask, int64_t R, int64_t H, int64_t Hp) = nullptr;
    void (*ssm_forward)(const SsmBlock<Real>& b, const SsmRows<Real>& rows, const Real* u, Real* y, Real* bounds,
                        Real* work)                                                                         = nullptr;
    void (*ssm_backward)(const SsmBlock<Real>& b, const SsmRows<Real>& rows, const Real* u, const Real* g, Real* d_u,
                         const Real* bounds, Real* grad, Real* d_D, Real* work)                             = nullptr;

    void (*state_update)(int N, int R, int Pp, Real alpha, Real beta, Real gamma, const Real* k, const Real* k_old,
                         const Real* v, const Real* v_old, const Real* before, Real* after, const Real* q,
                         Real* o) = nullptr;
    void (*state_backward)(const StateBack<Real>& s) = nullptr;
    void (*sigmoid_row)(const Real* x, Real* y, int64_t n) = nullptr;
    void (*sin_cos_row)(const Real* x, Real* sin, Real* cos, int64_t n) = nullptr;
};

namespace f64 { // for checking only
typedef double Real;
constexpr int  W = 2;
#define S4D_FMA(a, b, c) ((a) * (b) + (c))
#define S4D_FNMA(a, b, c) ((c) - (a) * (b))
#define S4D_SPLAT(x) (V{(x), (x)})
#include "s4d_kernels.hpp"
#undef S4D_SPLAT
} // namespace f64

namespace f32 {
typedef float Real;
constexpr int W = 4;
#define S4D_SPLAT(x) (V{(x), (x), (x), (x)})
#include "s4d_kernels.hpp"
#undef S4D_SPLAT
#undef S4D_FMA
#undef S4D_FNMA
} // namespace f32

// The pragmas, not attributes, because every function of the included file is meant.
#ifdef S4D_X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace f32_avx2 {
typedef float Real;
constexpr int W = 8;
#define S4D_FMA(a, b, c) _mm256_fmadd_ps((a), (b), (c))
#define S4D_FNMA(a, b, c) _mm256_fnmadd_ps((a), (b), (c))
#define S4D_SPLAT(x) (V{(x), (x), (x), (x), (x), (x), (x), (x)})
#include "s4d_kernels.hpp"
#undef S4D_SPLAT
#undef S4D_FMA
#undef S4D_FNMA
} // namespace f32_avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif
namespace f32_avx512 {
typedef float Real;
constexpr int W = 16;
#define S4D_FMA(a, b, c) _mm512_fmadd_ps((a), (b), (c))
#define S4D_FNMA(a, b, c) _mm512_fnmadd_ps((a), (b), (c))
#define S4D_SPLAT(x) (V{(x), (x), (x), (x), (x), (x), (x), (x), (x), (x), (x), (x), (x), (x), (x), (x)})
#include "s4d_kernels.hpp"
#undef S4D_SPLAT
#undef S4D_FMA
#undef S4D_FNMA
} // namespace f32_avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

// The kernel sets. `best`: the widest of this CPU that H channels fill.
enum class Isa { best, portable, avx2, avx512 };

inline bool runs_here(Isa isa) {
#ifdef S4D_X86
    if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (isa == Isa::avx512)
        return runs_here(Isa::avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return isa == Isa::portable || isa == Isa::best;
}
inline Isa best_isa(int d_model) {
    return d_model % 16 == 0 && runs_here(Isa::avx512) ? Isa::avx512 : runs_here(Isa::avx2) ? Isa::avx2 : Isa::portable;
}
template <class Real> Kernels<Real> choose_kernels(Isa isa, int d_model);
template <> inline Kernels<double>  choose_kernels<double>(Isa, int) { return f64::kernels(); }
template <> inline Kernels<float>   choose_kernels<float>(Isa isa, int d_model) {
      if (isa == Isa::best || !runs_here(isa)) isa = best_isa(d_model);
#ifdef S4D_X86
    if (isa == Isa::avx512) return f32_avx512::kernels();
    if (isa == Isa::avx2) return f32_avx2::kernels();
#endif
    return f32::kernels();
}

// Flushes denormals to zero while it lives: a decaying gradient would otherwise spend most of its time among them.
// Always on where it exists, so that it makes no difference between threads.
struct FlushDenormals {
#ifdef S4D_X86
    unsigned before = _mm_getcsr();
    FlushDenormals() { _mm_setcsr(before | 0x8040u); }
    ~FlushDenormals() { _mm_setcsr(before); }
#else
    FlushDenormals() {}
#endif
    FlushDenormals(const FlushDenormals&)            = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;
};

// ---- Parameters

// A tensor in the flat array. `ssm`: log_dt, log_A_real, A_imag, which train with a learning rate of their own and no
// decay.
struct Tensor {
    std::string           name;
    std::vector<uint64_t> shape;
    int64_t               offset = 0, count = 0;
    bool                  ssm = false;
};

// The positive half of the eigenvalues of the skew-symmetric HiPPO-LegS matrix of size N, ascending: those of S S^T =
// -S^2 are their squares, each twice. Cyclic Jacobi; N is small.
inline std::vector<double> legs_frequencies(int N) {
    const size_t        n = size_t(N);
    std::vector<double> S(n * n, 0.0), M(n * n, 0.0);
    for (size_t m = 0; m < n; ++m)
        for (size_t k = 0; k < n; ++k)
            if (m != k) S[m * n + k] = (m < k ? 1.0 : -1.0) * std::sqrt(double(m) + 0.5) * std::sqrt(double(k) + 0.5);
    for (size_t m = 0; m < n; ++m)
        for (size_t k = 0; k < n; ++k)
            for (size_t i = 0; i < n; ++i) M[m * n + k] += S[m * n + i] * S[k * n + i];
    for (int sweep = 0; sweep < 60; ++sweep) {
        double off = 0, diag = 0;
        for (size_t p = 0; p < n; ++p)
            for (size_t q = 0; q < n; ++q) (p == q ? diag : off) += M[p * n + q] * M[p * n + q];
        if (off <= 1e-30 * diag) break;
        for (size_t p = 0; p + 1 < n; ++p)
            for (size_t q = p + 1; q < n; ++q) {
                const double apq = M[p * n + q];
                if (apq == 0) continue;
                const double theta = (M[q * n + q] - M[p * n + p]) / (2 * apq);
                const double t     = (theta >= 0 ? 1.0 : -1.0) / (std::fabs(theta) + std::sqrt(theta * theta + 1));
                const double c = 1 / std::sqrt(t * t + 1), s = t * c;
                for (size_t k = 0; k < n; ++k) {
                    const double x = M[k * n + p], y = M[k * n + q];
                    M[k * n + p] = c * x - s * y, M[k * n + q] = s * x + c * y;
                }
                for (size_t k = 0; k < n; ++k) {
                    const double x = M[p * n + k], y = M[q * n + k];
                    M[p * n + k] = c * x - s * y, M[q * n + k] = s * x + c * y;
                }
            }
    }
    std::vector<double> w;
    for (size_t k = 0; k < n; ++k) w.push_back(std::sqrt(std::max(0.0, M[k * n + k])));
    std::sort(w.begin(), w.end());
    std::vector<double> half;
    for (size_t k = 0; k + 1 < n; k += 2) half.push_back(0.5 * (w[k] + w[k + 1]));
    return half;
}

template <class Real> struct Net {
    Config              config;
    std::vector<Tensor> tensors;
    std::vector<Real>   params; // all tensors, one after another

    explicit Net(const Config& c) : config(c) {
        const uint64_t H = uint64_t(c.d_model), n = uint64_t(c.d_state / 2), I = uint64_t(c.d_input),
                       O = uint64_t(c.d_output);
        add("encoder.weight", {H, I});
        add("encoder.bias", {H});
        for (int l = 0; l < c.n_layers; ++l) {
            const std::string p = "s4_layers." + std::to_string(l) + ".";
            add(p + "D", {H});
            add(p + "kernel.log_dt", {H}, true);
            add(p + "kernel.C", {H, n, 2});
            add(p + "kernel.log_A_real", {H, n}, true);
            add(p + "kernel.A_imag", {H, n}, true);
            add(p + "output_linear.0.weight", {2 * H, H, 1});
            add(p + "output_linear.0.bias", {2 * H});
            add("norms." + std::to_string(l) + ".weight", {H});
            add("norms." + std::to_string(l) + ".bias", {H});
        }
        add("decoder.weight", {O, H});
        add("decoder.bias", {O});
    }

    const Tensor* find(const std::string& name) const {
        for (const Tensor& t : tensors)
            if (t.name == name) return &t;
        return nullptr;
    }
    Real*       at(const std::string& name) { return params.data() + find(name)->offset; }
    const Real* at(const std::string& name) const { return params.data() + find(name)->offset; }
    // The same without a search: tensors stand in the order of the constructor, nine to a layer.
    int64_t encoder(int k) const { return tensors[size_t(k)].offset; }
    int64_t layer(int l, int k) const {
        return tensors[size_t(2 + 9 * l + k)].offset;
    } // D log_dt C log_A_real A_imag W b w b
    int64_t decoder(int k) const { return tensors[size_t(2 + 9 * config.n_layers + k)].offset; }

    // The public code's initialisation: A by `init`, dt log-uniform in [dt_min, dt_max], C complex normal, D normal,
    // linear maps uniform. The stored numbers are rounded to float even in a Net<double>, so both start at the same
    // point.
    void init(uint64_t seed, Init init = Init::lin, double dt_min = 0.001, double dt_max = 0.1) {
        Random     random(seed);
        const auto put     = [](Real* p, double v) { *p = Real(float(v)); };
        const auto uniform = [&](int64_t offset, int64_t count, int fan_in) {
            const double b = 1.0 / std::sqrt(double(fan_in));
            for (int64_t i = 0; i < count; ++i) put(&params[size_t(offset + i)], random.uniform(-b, b));
        };
        const Config&       c = config;
        const int64_t       H = c.d_model, n = c.d_state / 2;
        std::vector<double> legs;
        if (init == Init::legs) legs = legs_frequencies(c.d_state);
        uniform(encoder(0), H * c.d_input, c.d_input);
        uniform(encoder(1), H, c.d_input);
        for (int l = 0; l < c.n_layers; ++l) {
            for (int64_t h = 0; h < H; ++h) put(&params[size_t(layer(l, 0) + h)], random.normal());
            for (int64_t h = 0; h < H; ++h)
                put(&params[size_t(layer(l, 1) + h)], random.uniform(std::log(dt_min), std::log(dt_max)));
            for (int64_t i = 0; i < 2 * H * n; ++i)
                put(&params[size_t(layer(l, 2) + i)], random.normal() * std::sqrt(0.5));
            for (int64_t h = 0; h < H; ++h)
                for (int64_t j = 0; j < n; ++j) {
                    double re = 0.5, im = 0;
                    if (init == Init::lin) im = 3.14159265358979323846 * double(j);
                    if (init == Init::inv)
                        im = c.d_state / 3.14159265358979323846 * (double(c.d_state) / (2.0 * double(j) + 1) - 1);
                    if (init == Init::legs) im = legs[size_t(j)];
                    if (init == Init::real) re = double(j + 1);
                    put(&params[size_t(layer(l, 3) + h * n + j)], std::log(re));
                    put(&params[size_t(layer(l, 4) + h * n + j)], im);
                }
            uniform(layer(l, 5), 2 * H * H, c.d_model);
            uniform(layer(l, 6), 2 * H, c.d_model);
            for (int64_t h = 0; h < H; ++h) params[size_t(layer(l, 7) + h)] = 1, params[size_t(layer(l, 8) + h)] = 0;
        }
        uniform(decoder(0), H * c.d_output, c.d_model);
        uniform(decoder(1), c.d_output, c.d_model);
    }

private:
    void add(const std::string& name, std::vector<uint64_t> shape, bool ssm = false) {
        Tensor t;
        t.name = name, t.ssm = ssm, t.offset = int64_t(params.size()), t.count = 1;
        for (uint64_t d : shape) t.count *= int64_t(d);
        t.shape = std::move(shape);
        params.resize(params.size() + size_t(t.count));
        tensors.push_back(std::move(t));
    }
};

// Where the pieces of a padded gradient (and of the matching weights) stand in a flat array.
struct Layout {
    int64_t H = 0, Hp = 0, n = 0, I = 0, O = 0, Op = 0, L = 0;
    int64_t enc = 0, enc_b = 0, layer0 = 0, per_layer = 0, dec = 0, dec_b = 0, total = 0;
    int64_t D = 0, ssm = 0, mix = 0, mix_b = 0, norm_w = 0, norm_b = 0; // within a layer

    Layout() = default;
    Layout(const Config& c, int width) {
        const int64_t w  = std::max(8, width);
        const auto    up = [](int64_t x, int64_t m) { return (x + m - 1) / m * m; };
        H = c.d_model, Hp = up(H, w), n = c.d_state / 2, I = c.d_input, O = c.d_output, Op = up(O, width),
        L   = c.n_layers;
        enc = 0, enc_b = I * Hp, layer0 = enc_b + Hp;
        D = 0, ssm = Hp, mix = ssm + 5 * n * Hp, mix_b = mix + H * 2 * Hp, norm_w = mix_b + 2 * Hp,
        norm_b    = norm_w + Hp;
        per_layer = norm_b + Hp;
        dec = layer0 + L * per_layer, dec_b = dec + H * Op, total = dec_b + Op;
    }
    int64_t layer(int64_t l) const { return layer0 + l * per_layer; }
};

// The parameters, discretised, transposed and padded.
template <class Real> struct Ready {
    struct Layer {
        std::vector<Real>   coef, rates, chain, chain_dt; // [Hp / W][n][planes][W]
        std::vector<double> turns;                        // [Hp / W][n][W]
        std::vector<Real>   D;                            // [Hp]
        std::vector<Real>   mix_t, mix, mix_b;            // [H][2 Hp], [2 Hp][Hp], [2 Hp]
        std::vector<Real>   norm_w, norm_b;               // [Hp]
    };
    Config             config;
    Kernels<Real>      kernels;
    Layout             layout;
    std::vector<Real>  enc_t, enc_b, mask; // [I][Hp], [Hp], [Hp]
    std::vector<Real>  dec_t, dec, dec_b;  // [H][Op], [O][Hp], [Op]
    std::vector<Layer> layers;

    explicit Ready(const Net<Real>& net, Isa isa = Isa::best)
        : config(net.config), kernels(choose_kernels<Real>(isa, net.config.d_model)), layout(net.config, kernels.width),
          layers(size_t(config.n_layers)) {
        update(net);
    }

    void update(const Net<Real>& net) {
        typedef std::complex<double> Z;
        const Layout&                s = layout;
        const int64_t                W = kernels.width, H = s.H, Hp = s.Hp, n = s.n;
        const Real*                  p    = net.params.data();
        const auto                   copy = [&](std::vector<Real>& to, int64_t size, const Real* from, int64_t count) {
            to.assign(size_t(size), Real(0));
            std::copy(from, from + count, to.begin());
        };
        mask.assign(size_t(Hp), Real(0));
        std::fill(mask.begin(), mask.begin() + H, Real(1));
        copy(enc_b, Hp, p + net.encoder(1), H);
        enc_t.assign(size_t(s.I * Hp), Real(0));
        for (int64_t h = 0; h < H; ++h)
            for (int64_t i = 0; i < s.I; ++i) enc_t[size_t(i * Hp + h)] = p[net.encoder(0) + h * s.I + i];
        copy(dec_b, s.Op, p + net.decoder(1), s.O);
        dec_t.assign(size_t(H * s.Op), Real(0));
        dec.assign(size_t(s.O * Hp), Real(0));
        for (int64_t o = 0; o < s.O; ++o)
            for (int64_t h = 0; h < H; ++h)
                dec_t[size_t(h * s.Op + o)] = dec[size_t(o * Hp + h)] = p[net.decoder(0) + o * H + h];
        for (int l = 0; l < config.n_layers; ++l) {
            Layer& q = layers[size_t(l)];
            copy(q.D, Hp, p + net.layer(l, 0), H);
            copy(q.norm_w, Hp, p + net.layer(l, 7), H);
            copy(q.norm_b, Hp, p + net.layer(l, 8), H);
            q.mix_t.assign(size_t(H * 2 * Hp), Real(0));
            q.mix.assign(size_t(2 * Hp * Hp), Real(0));
            q.mix_b.assign(size_t(2 * Hp), Real(0));
            const Real *w = p + net.layer(l, 5), *bias = p + net.layer(l, 6);
            for (int64_t half = 0; half < 2; ++half)
                for (int64_t o = 0; o < H; ++o) {
                    q.mix_b[size_t(half * Hp + o)] = bias[half * H + o];
                    for (int64_t h = 0; h < H; ++h) {
                        const Real v                                = w[(half * H + o) * H + h];
                        q.mix_t[size_t(h * 2 * Hp + half * Hp + o)] = v;
                        q.mix[size_t((half * Hp + o) * Hp + h)]     = v;
                    }
                }
            q.coef.assign(size_t(6 * n * Hp), Real(0));
            q.rates.assign(size_t(4 * n * Hp), Real(0));
            q.chain.assign(size_t(8 * n * Hp), Real(0));
            q.chain_dt.assign(size_t(8 * n * Hp), Real(0));
            q.turns.assign(size_t(n * Hp), 0.0);
            for (int64_t h = 0; h < H; ++h) {
                const double dt = std::exp(double(p[net.layer(l, 1) + h]));
                for (int64_t j = 0; j < n; ++j) {
                    const int64_t at = h / W * n + j, lane = h % W;
                    const Z       A(-std::exp(double(p[net.layer(l, 3) + h * n + j])),
                                    double(p[net.layer(l, 4) + h * n + j]));
                    const Real*   c = p + net.layer(l, 2) + (h * n + j) * 2;
                    const Z       C{double(c[0]), double(c[1])};
                    const Z       z = dt * A;
                    Z             a, b, K1, K2, K3, K4, M1, M2, M3, M4;
                    const auto    put = [&](std::vector<Real>& v, int64_t planes, int64_t plane, double x) {
                        v[size_t((at * planes + plane) * W + lane)] = Real(x);
                    };
                    const auto put2 = [&](std::vector<Real>& v, int64_t planes, int64_t plane, Z x) {
                        put(v, planes, plane, x.real()), put(v, planes, plane + 1, x.imag());
                    };
                    if (config.disc == Disc::zoh) {
                        // exp(z) - 1 without cancellation, and (z e^z - (e^z - 1)) / z^2 by its series where z is small
                        const double x = z.real(), y = z.imag(), s2 = std::sin(y / 2);
                        const Z      e(std::expm1(x) * std::cos(y) - 2 * s2 * s2, std::exp(x) * std::sin(y));
                        a     = e + 1.0;
                        b     = e / A;
                        Z psi = (z * a - e) / (z * z);
                        if (std::abs(z) < 0.3) {
                            psi    = 0;
                            Z term = 1; // z^k / k!
                            for (int k = 0; k < 16; ++k) psi += term / double(k + 2), term *= z / double(k + 1);
                        }
                        K1 = dt * a, K2 = dt * dt * psi, K3 = A * a, K4 = a;
                        M1 = dt, M2 = -1.0 / A, M3 = A, M4 = 0;
                        put(q.rates, 4, 0, x);
                        put2(q.rates, 4, 2, 1.0 / A);
                        q.turns[size_t(at * W + lane)] = y / 6.283185307179586476925;
                    } else {
                        const Z r = 1.0 / (1.0 - 0.5 * z);
                        a         = (1.0 + 0.5 * z) * r;
                        b         = dt * r;
                        K1 = dt * r * r, K2 = 0.5 * dt * dt * r * r, K3 = A * r * r, K4 = r * r;
                        M1 = dt, M2 = 0, M3 = A, M4 = 1;
                        put2(q.rates, 4, 0, 0.5 * z);
                        put(q.rates, 4, 2, dt);
                    }
                    put2(q.coef, 6, 0, a), put2(q.coef, 6, 2, b), put2(q.coef, 6, 4, 2.0 * C);
                    put2(q.chain, 8, 0, K1), put2(q.chain, 8, 2, K2), put2(q.chain, 8, 4, K3), put2(q.chain, 8, 6, K4);
                    put2(q.chain_dt, 8, 0, M1), put2(q.chain_dt, 8, 2, M2), put2(q.chain_dt, 8, 4, M3),
                        put2(q.chain_dt, 8, 6, M4);
                }
            }
        }
    }

    SsmBlock<Real> block(int l, int64_t i) const {
        const Layer&   q = layers[size_t(l)];
        const int64_t  W = kernels.width, n = layout.n;
        SsmBlock<Real> b;
        b.n_modes = int(n), b.zoh = config.disc == Disc::zoh, b.clip = Real(config.clip);
        b.coef = q.coef.data() + i * 6 * n * W, b.rates = q.rates.data() + i * 4 * n * W,
        b.turns = q.turns.data() + i * n * W;
        b.chain = q.chain.data() + i * 8 * n * W, b.chain_dt = q.chain_dt.data() + i * 8 * n * W;
        b.D = q.D.data() + i * W, b.mask = mask.data() + i * W;
        return b;
    }
};

// Gradients as the inner loops make them. Linear in the data: sums of Gradients are gradients of sums.
template <class Real> struct Gradient {
    Layout       layout;
    Buffer<Real> raw;

    explicit Gradient(const Ready<Real>& ready) : layout(ready.layout) { zero(); }
    void zero() { raw.zeros(layout.total); }
    void add(const Gradient& other) {
        Real*       a = raw.data();
        const Real* b = other.raw.data();
        for (int64_t i = 0; i < layout.total; ++i) a[i] += b[i];
    }
    // d loss / d parameter in the order of net.params (written, not added).
    void to_params(const Net<Real>& net, int width, std::vector<Real>& out) const {
        const Layout& s = layout;
        const int64_t H = s.H, Hp = s.Hp, n = s.n, W = width;
        const Real *  g = raw.data(), *p = net.params.data();
        out.assign(net.params.size(), Real(0));
        Real* d = out.data();
        for (int64_t h = 0; h < H; ++h) {
            d[net.encoder(1) + h] = g[s.enc_b + h];
            for (int64_t i = 0; i < s.I; ++i) d[net.encoder(0) + h * s.I + i] = g[s.enc + i * Hp + h];
        }
        for (int64_t o = 0; o < s.O; ++o) {
            d[net.decoder(1) + o] = g[s.dec_b + o];
            for (int64_t h = 0; h < H; ++h) d[net.decoder(0) + o * H + h] = g[s.dec + h * s.Op + o];
        }
        for (int l = 0; l < int(s.L); ++l) {
            const Real* q = g + s.layer(l);
            for (int64_t h = 0; h < H; ++h) {
                d[net.layer(l, 0) + h] = q[s.D + h];
                d[net.layer(l, 7) + h] = q[s.norm_w + h], d[net.layer(l, 8) + h] = q[s.norm_b + h];
                double gdt = 0;
                for (int64_t j = 0; j < n; ++j) {
                    const Real* m = q + s.ssm + (h / W * n + j) * 5 * W + h % W;
                    d[net.layer(l, 3) + h * n + j] =
                        Real(-std::exp(double(p[net.layer(l, 3) + h * n + j])) * double(m[0]));
                    d[net.layer(l, 4) + h * n + j] = m[W];
                    gdt += double(m[2 * W]);
                    d[net.layer(l, 2) + (h * n + j) * 2]     = 2 * m[3 * W];
                    d[net.layer(l, 2) + (h * n + j) * 2 + 1] = 2 * m[4 * W];
                }
                d[net.layer(l, 1) + h] = Real(std::exp(double(p[net.layer(l, 1) + h])) * gdt);
                for (int64_t half = 0; half < 2; ++half) {
                    d[net.layer(l, 6) + half * H + h] = q[s.mix_b + half * Hp + h];
                    for (int64_t o = 0; o < H; ++o)
                        d[net.layer(l, 5) + (half * H + o) * H + h] = q[s.mix + h * 2 * Hp + half * Hp + o];
                }
            }
        }
    }
};

// ---- Batches

template <class Real> struct Batch {
    const Real*    x         = nullptr; // [rows][d_input]
    const Real*    dt        = nullptr; // [rows] elapsed time in training steps, > 0; null: 1 throughout
    const uint8_t* probe     = nullptr; // [rows] 1 for a probe; null: events only
    const int64_t* start     = nullptr; // [n_streams + 1] first row of each stream, and the number of rows
    int64_t        n_streams = 0;
    const Real*    dropout =
        nullptr; // [n_streams][n_layers][2][d_model] factors after GELU and on the layer output; null: none
    int64_t rows() const { return start[n_streams]; }
};

// Masks for Batch::dropout: 0 with probability p, else 1 / (1 - p); `count` numbers.
template <class Real> void fill_dropout(Real* mask, int64_t count, double p, Random& random) {
    for (int64_t i = 0; i < count; ++i) mask[i] = random.uniform() < p ? Real(0) : Real(1 / (1 - p));
}

template <class Real> int64_t count_outputs(const Config& c, const Batch<Real>& b) {
    if (b.probe != nullptr) return std::count(b.probe, b.probe + b.rows(), uint8_t(1));
    return c.pool == Pool::none ? b.rows() : b.n_streams;
}

// Memory of one thread, and what the forward pass leaves for the backward pass.
template <class Real> struct Workspace {
    int chunk = 32; // rows between stored states
    int truncate =
        0; // gradients flow through the state of at most this many events of a stream (cut into segments); 0: all

    struct Layer {
        Buffer<Real> u, g, dg, o_sig, xhat, rstd, bounds;
    };
    std::vector<Layer>   layers;
    Buffer<Real>         res, s, t1, t2, t3, top, pooled, out, work, kernel_work;
    Buffer<Real>         rounded; // what the encoder reads, where act_bits rounds it
    Buffer<uint8_t>      cut;
    std::vector<Chunk>   chunks;
    std::vector<int64_t> keep, stream_of; // rows whose top layer matters (empty: all); the stream of each such row
};

constexpr int64_t tile_rows = 96; // rows that go through the pointwise part of a layer together

namespace detail {
template <class Real> SsmRows<Real> ssm_rows(const Ready<Real>& ready, const Batch<Real>& batch, Workspace<Real>& ws) {
    SsmRows<Real> r;
    r.dt = batch.dt, r.probe = batch.probe, r.chunks = ws.chunks.data(), r.n_chunks = int64_t(ws.chunks.size());
    r.max_chunk = ws.chunk, r.ld = ready.layout.Hp, r.truncate = ws.truncate;
    r.cut = ws.truncate > 0 ? ws.cut.data() : nullptr;
    return r;
}
// What the encoder reads: the batch's rows, or those rounded (`fresh`: again) into the workspace.
template <class Real>
const Real* encoder_input(const Ready<Real>& ready, const Batch<Real>& batch, Workspace<Real>& ws, bool fresh) {
    if (ready.config.act_bits == 0) return batch.x;
    const int64_t R = batch.rows(), I = ready.layout.I;
    if (fresh) {
        std::copy(batch.x, batch.x + R * I, ws.rounded.get(R * I));
        round_rows(ws.rounded.data(), R, I, I, ready.config.act_bits);
    }
    return ws.rounded.data();
}
template <class Real>
void scale_rows(Real* x, const Real* dropout, int which, int l, const Config& c, const int64_t* stream, int64_t rows,
                int64_t Hp) {
    for (int64_t r = 0; r < rows; ++r) {
        const Real* m = dropout + ((stream[r] * c.n_layers + l) * 2 + which) * c.d_model;
        for (int64_t h = 0; h < c.d_model; ++h) x[r * Hp + h] *= m[h];
    }
}
} // namespace detail

// Scores a batch. out: [count_outputs][d_output]. With `train`, everything backward() needs stays in `ws`.
template <class Real>
void forward(const Ready<Real>& ready, const Batch<Real>& batch, Workspace<Real>& ws, Real* out, bool train) {
    const FlushDenormals flush;
    const Config&        c = ready.config;
    const Layout&        s = ready.layout;
    const Kernels<Real>& K = ready.kernels;
    const int64_t        R = batch.rows(), Hp = s.Hp, W = K.width;

    // 1. Chunks of rows, rows where truncated gradients stop, rows that reach the output.
    const int64_t Q = std::max(1, ws.chunk);
    ws.chunks.clear(), ws.keep.clear(), ws.stream_of.clear();
    ws.layers.resize(size_t(c.n_layers));
    for (int64_t i = 0; i < batch.n_streams; ++i)
        for (int64_t r = batch.start[i]; r < batch.start[i + 1]; r += Q)
            ws.chunks.push_back({r, std::min(r + Q, batch.start[i + 1]), r == batch.start[i]});
    if (ws.truncate > 0) {
        uint8_t* cut = ws.cut.zeros(R);
        for (int64_t i = 0; i < batch.n_streams; ++i)
            for (int64_t r = batch.start[i], events = 0; r < batch.start[i + 1]; ++r) {
                if (batch.probe != nullptr && batch.probe[r] != 0) continue;
                cut[r] = events > 0 && events % ws.truncate == 0;
                ++events;
            }
    }
    const bool some = batch.probe != nullptr || c.pool == Pool::last;
    for (int64_t i = 0; i < batch.n_streams; ++i)
        for (int64_t r = batch.start[i]; some && r < batch.start[i + 1]; ++r)
            if (batch.probe != nullptr ? batch.probe[r] != 0 : r + 1 == batch.start[i + 1])
                ws.keep.push_back(r), ws.stream_of.push_back(i);
    std::vector<int64_t> all_streams;
    if (batch.dropout != nullptr) {
        all_streams.resize(size_t(R));
        for (int64_t i = 0; i < batch.n_streams; ++i)
            for (int64_t r = batch.start[i]; r < batch.start[i + 1]; ++r) all_streams[size_t(r)] = i;
        if (!some) ws.stream_of = all_streams;
    }
    const SsmRows<Real> rows = detail::ssm_rows(ready, batch, ws);
    Real*               work = ws.kernel_work.get(2 * s.n * W);

    // 2. Encoder.
    Real*       x = c.prenorm ? ws.res.get(R * Hp) : ws.layers[0].u.get(R * Hp);
    const Real* input = detail::encoder_input(ready, batch, ws, true);
    K.gemm(R, Hp, s.I, input, s.I, 1, ready.enc_t.data(), Hp, x, Hp, ready.enc_b.data(), false);

    // 3. Layers. From the top layer's mixing on, only the rows in `keep`.
    int64_t n_top = R;
    for (int l = 0; l < c.n_layers; ++l) {
        const typename Ready<Real>::Layer& q    = ready.layers[size_t(l)];
        typename Workspace<Real>::Layer&   w    = ws.layers[size_t(l)];
        const bool                         last = l + 1 == c.n_layers;
        const Real*                        u    = x;
        if (c.prenorm) {
            Real* z = w.u.get(R * Hp);
            K.norm_rows(x, z, train ? w.xhat.get(R * Hp) : nullptr, train ? w.rstd.get(R) : nullptr, q.norm_w.data(),
                        q.norm_b.data(), ready.mask.data(), R, s.H, Hp);
            u = z;
        }
        Real* y      = w.g.get(R * Hp);
        Real* bounds = train ? w.bounds.get(rows.n_chunks * 2 * s.n * Hp) : nullptr;
        for (int64_t i = 0; i < Hp / W; ++i)
            K.ssm_forward(ready.block(l, i), rows, u + i * W, y + i * W,
                          train ? bounds + i * rows.n_chunks * 2 * s.n * W : nullptr, work);
        const Real* skip = x; // the residual stream
        if (last && some) {
            n_top     = int64_t(ws.keep.size());
            Real* few = ws.top.get(n_top * Hp);
            for (int64_t r = 0; r < n_top; ++r) {
                std::copy(y + ws.keep[size_t(r)] * Hp, y + (ws.keep[size_t(r)] + 1) * Hp, y + r * Hp);
                std::copy(x + ws.keep[size_t(r)] * Hp, x + (ws.keep[size_t(r)] + 1) * Hp, few + r * Hp);
            }
            skip = few;
        }
        const int64_t  n      = last ? n_top : R;
        const int64_t* stream = last && some ? ws.stream_of.data() : all_streams.data();
        Real*          dg     = train ? w.dg.get(n * Hp) : nullptr;
        Real*          v      = train ? w.o_sig.get(n * 2 * Hp) : ws.t1.get(tile_rows * 2 * Hp);
        Real *         sum = ws.t2.get(tile_rows * Hp), *next = last        ? ws.pooled.get(n * Hp)
                                                                : c.prenorm ? x
                                                                            : ws.layers[size_t(l + 1)].u.get(R * Hp);
        Real *         xhat = nullptr, *rstd = nullptr;
        if (train && !c.prenorm) xhat = w.xhat.get(n * Hp), rstd = w.rstd.get(n);
        for (int64_t r = 0; r < n; r += tile_rows) {
            const int64_t m  = std::min(tile_rows, n - r);
            Real*         g  = y + r * Hp;
            Real*         vt = train ? v + r * 2 * Hp : v;
            K.gelu_rows(g, train ? dg + r * Hp : nullptr, m * Hp);
            if (batch.dropout != nullptr) {
                detail::scale_rows(g, batch.dropout, 0, l, c, stream + r, m, Hp);
                if (train) detail::scale_rows(dg + r * Hp, batch.dropout, 0, l, c, stream + r, m, Hp);
            }
            round_rows(g, m, s.H, Hp, c.act_bits);
            K.gemm(m, 2 * Hp, s.H, g, Hp, 1, q.mix_t.data(), 2 * Hp, vt, 2 * Hp, q.mix_b.data(), false);
            K.glu_rows(vt, m, Hp);
            for (int64_t i = 0; i < m; ++i) std::copy(vt + i * 2 * Hp, vt + i * 2 * Hp + Hp, sum + i * Hp);
            if (batch.dropout != nullptr) detail::scale_rows(sum, batch.dropout, 1, l, c, stream + r, m, Hp);
            Real*       to   = c.prenorm ? next + r * Hp : sum;
            const Real* from = skip + r * Hp;
            for (int64_t i = 0; i < m * Hp; ++i) to[i] = from[i] + sum[i];
            if (!c.prenorm)
                K.norm_rows(sum, next + r * Hp, train ? xhat + r * Hp : nullptr, train ? rstd + r : nullptr,
                            q.norm_w.data(), q.norm_b.data(), ready.mask.data(), m, s.H, Hp);
        }
        x = next;
    }

    // 4. Pooling and decoder.
    int64_t n_out = n_top;
    if (!some && c.pool == Pool::mean) {
        n_out      = batch.n_streams;
        Real* mean = ws.top.zeros(n_out * Hp);
        for (int64_t i = 0; i < n_out; ++i) {
            for (int64_t r = batch.start[i]; r < batch.start[i + 1]; ++r)
                for (int64_t h = 0; h < Hp; ++h) mean[i * Hp + h] += x[r * Hp + h];
            const Real scale = Real(1) / Real(std::max<int64_t>(1, batch.start[i + 1] - batch.start[i]));
            for (int64_t h = 0; h < Hp; ++h) mean[i * Hp + h] *= scale;
        }
        x = mean;
    }
    Real* padded = ws.out.get(n_out * s.Op);
    round_rows(x, n_out, s.H, Hp, c.act_bits);
    K.gemm(n_out, s.Op, s.H, x, Hp, 1, ready.dec_t.data(), s.Op, padded, s.Op, ready.dec_b.data(), false);
    for (int64_t r = 0; r < n_out; ++r) std::copy(padded + r * s.Op, padded + r * s.Op + s.O, out + r * s.O);
}

// The gradient of a loss whose derivative by the outputs of the last forward(train = true) with the same `ready`,
// `batch` and `ws` is d_out [count_outputs][d_output]. Adds to `grad`; writes d_x [rows][d_input] if given.
template <class Real>
void backward(const Ready<Real>& ready, const Batch<Real>& batch, Workspace<Real>& ws, const Real* d_out,
              Gradient<Real>& grad, Real* d_x = nullptr) {
    const FlushDenormals flush;
    const Config&        c = ready.config;
    const Layout&        s = ready.layout;
    const Kernels<Real>& K = ready.kernels;
    const int64_t        R = batch.rows(), Hp = s.Hp, W = K.width;
    const bool           some = batch.probe != nullptr || c.pool == Pool::last, mean = !some && c.pool == Pool::mean;
    const int64_t        n_top = some ? int64_t(ws.keep.size()) : R, n_out = mean ? batch.n_streams : n_top;
    Real*                G    = grad.raw.data();
    const SsmRows<Real>  rows = detail::ssm_rows(ready, batch, ws);
    Real* work = ws.kernel_work.get(s.n * W * (8 + 2 + 6 * rows.max_chunk) + 8 * (rows.max_chunk + 1) * W + 64);

    std::vector<int64_t> all_streams;
    if (batch.dropout != nullptr) {
        all_streams.resize(size_t(R));
        for (int64_t i = 0; i < batch.n_streams; ++i)
            for (int64_t r = batch.start[i]; r < batch.start[i + 1]; ++r) all_streams[size_t(r)] = i;
    }

    // 1. Decoder and pooling: d [n_top][Hp] is the gradient of the top layer's result.
    Real* padded = ws.out.zeros(n_out * s.Op);
    for (int64_t r = 0; r < n_out; ++r)
        for (int64_t o = 0; o < s.O; ++o) {
            padded[r * s.Op + o] = d_out[r * s.O + o];
            G[s.dec_b + o] += d_out[r * s.O + o];
        }
    const Real* read = mean ? ws.top.data() : ws.pooled.data();
    K.gemm(s.H, s.Op, n_out, read, 1, Hp, padded, s.Op, G + s.dec, s.Op, nullptr, true);
    Real* d = ws.res.get(R * Hp); // [R][Hp]; the residual stream of the forward pass is not needed any more
    if (mean) {
        Real* d_mean = ws.t1.get(std::max(n_out, 2 * tile_rows) * Hp);
        K.gemm(n_out, Hp, s.O, padded, s.Op, 1, ready.dec.data(), Hp, d_mean, Hp, nullptr, false);
        for (int64_t i = 0; i < n_out; ++i) {
            const Real scale = Real(1) / Real(std::max<int64_t>(1, batch.start[i + 1] - batch.start[i]));
            for (int64_t h = 0; h < Hp; ++h) d_mean[i * Hp + h] *= scale;
            for (int64_t r = batch.start[i]; r < batch.start[i + 1]; ++r)
                std::copy(d_mean + i * Hp, d_mean + (i + 1) * Hp, d + r * Hp);
        }
    } else {
        K.gemm(n_out, Hp, s.O, padded, s.Op, 1, ready.dec.data(), Hp, d, Hp, nullptr, false);
    }

    // 2. Layers, from the top.
    Real* d_s = ws.s.get(R * Hp);
    for (int l = c.n_layers - 1; l >= 0; --l) {
        const typename Ready<Real>::Layer& q      = ready.layers[size_t(l)];
        typename Workspace<Real>::Layer&   w      = ws.layers[size_t(l)];
        const bool                         few    = some && l + 1 == c.n_layers;
        const int64_t                      n      = few ? n_top : R;
        const int64_t*                     stream = few ? ws.stream_of.data() : all_streams.data();
        Real*                              g_l    = G + s.layer(l);
        Real*                              d_v    = ws.t1.get(std::max(tile_rows * 2, mean ? n_out : 0) * Hp);
        Real*                              d_o    = ws.t2.get(tile_rows * Hp);
        for (int64_t r = 0; r < n; r += tile_rows) {
            const int64_t m  = std::min(tile_rows, n - r);
            Real*         dt = d + r * Hp;
            if (!c.prenorm)
                K.norm_backward(dt, dt, false, w.xhat.data() + r * Hp, w.rstd.data() + r, q.norm_w.data(),
                                g_l + s.norm_w, g_l + s.norm_b, ready.mask.data(), m, s.H, Hp);
            const Real* d_layer = dt;
            if (batch.dropout != nullptr) {
                std::copy(dt, dt + m * Hp, d_o);
                detail::scale_rows(d_o, batch.dropout, 1, l, c, stream + r, m, Hp);
                d_layer = d_o;
            }
            K.glu_backward(d_layer, w.o_sig.data() + r * 2 * Hp, d_v, g_l + s.mix_b, m, Hp);
            K.gemm(s.H, 2 * Hp, m, w.g.data() + r * Hp, 1, Hp, d_v, 2 * Hp, g_l + s.mix, 2 * Hp, nullptr, true);
            Real*       ds    = d_s + r * Hp;
            const Real* slope = w.dg.data() + r * Hp;
            K.gemm(m, Hp, 2 * Hp, d_v, 2 * Hp, 1, q.mix.data(), Hp, ds, Hp, nullptr, false);
            for (int64_t i = 0; i < m * Hp; ++i) ds[i] *= slope[i];
        }
        if (few) // back to their places among all rows; the others have no gradient from above
            for (int64_t r = R - 1, k = n_top - 1; r >= 0; --r) {
                if (k >= 0 && ws.keep[size_t(k)] == r) {
                    std::copy_backward(d + k * Hp, d + (k + 1) * Hp, d + (r + 1) * Hp);
                    std::copy_backward(d_s + k * Hp, d_s + (k + 1) * Hp, d_s + (r + 1) * Hp);
                    --k;
                } else {
                    std::fill(d + r * Hp, d + (r + 1) * Hp, Real(0));
                    std::fill(d_s + r * Hp, d_s + (r + 1) * Hp, Real(0));
                }
            }
        Real* d_u = ws.t3.get(R * Hp);
        for (int64_t i = 0; i < Hp / W; ++i)
            K.ssm_backward(ready.block(l, i), rows, w.u.data() + i * W, d_s + i * W, d_u + i * W,
                           w.bounds.data() + i * rows.n_chunks * 2 * s.n * W, g_l + s.ssm + i * 5 * s.n * W,
                           g_l + s.D + i * W, work);
        if (c.prenorm)
            K.norm_backward(d_u, d, true, w.xhat.data(), w.rstd.data(), q.norm_w.data(), g_l + s.norm_w, g_l + s.norm_b,
                            ready.mask.data(), R, s.H, Hp);
        else
            for (int64_t i = 0; i < R * Hp; ++i) d[i] += d_u[i];
    }

    // 3. Encoder.
    K.gemm(s.I, Hp, R, detail::encoder_input(ready, batch, ws, false), 1, s.I, d, Hp, G + s.enc, Hp, nullptr, true);
    for (int64_t r = 0; r < R; ++r)
        for (int64_t h = 0; h < Hp; ++h) G[s.enc_b + h] += d[r * Hp + h];
    if (d_x != nullptr)
        for (int64_t r = 0; r < R; ++r)
            for (int64_t i = 0; i < s.I; ++i) {
                Real v = 0;
                for (int64_t h = 0; h < s.H; ++h) v += ready.enc_t[size_t(i * Hp + h)] * d[r * Hp + h];
                d_x[r * s.I + i] = v;
            }
}

// ---- Losses

// Mean over targets of -log softmax(score)[target]: scores of n candidates, n_targets indices among them. Writes
// d_score [n], multiplied by `weight`; returns weight times the loss. The targets share one softmax over all
// candidates.
template <class Real>
double listwise_loss(const Real* score, int64_t n, const int64_t* targets, int64_t n_targets, Real* d_score,
                     double weight = 1) {
    if (n <= 0 || n_targets <= 0) return 0;
    double top = double(score[0]), sum = 0;
    for (int64_t i = 1; i < n; ++i) top = std::max(top, double(score[i]));
    for (int64_t i = 0; i < n; ++i) sum += std::exp(double(score[i]) - top);
    const double log_sum = top + std::log(sum);
    double       loss    = 0;
    for (int64_t i = 0; i < n; ++i) d_score[i] = Real(weight * std::exp(double(score[i]) - log_sum));
    for (int64_t k = 0; k < n_targets; ++k) {
        loss += log_sum - double(score[targets[k]]);
        d_score[targets[k]] -= Real(weight / double(n_targets));
    }
    return weight * loss / double(n_targets);
}

} // namespace s4d

#endif
