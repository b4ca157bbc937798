// mamba3_net.hpp - a Mamba-3 network (SISO and MIMO) for training: parameters, forward pass, gradients.
// SPDX-License-Identifier: MIT
//
// The model: embedding or input projection, `n_layers` of (RMSNorm, Mamba-3 mixer, residual sum, optional RMSNorm and
// MLP), RMSNorm, head; after Lahoti et al. 2026, arXiv 2603.15569, in the names and row orders of the public code.
// Section 6 of ssm.hpp has the recurrence as a formula.
//
//     Net<float>        the parameters under their official names, in one flat array
//     Batch<float>      sequences of one length
//     forward()         outputs [stream][t][d_output]; keeps what backward() needs in the Workspace
//     backward()        adds d loss / d parameters, given d loss / d outputs: the loss is the caller's
//
// Memory: per token the projections, angles, k, q and read-outs; the state h only at the beginning of every `chunk`
// tokens, the rest of it is computed again on the way back. Bits depend on the batch and the parameters alone.

#ifndef MAMBA3_NET_HPP
#define MAMBA3_NET_HPP

#include "s4d_net.hpp"

namespace mamba3 {

using s4d::Tensor;

struct Config {
    int    d_model = 16, n_layers = 1, d_inner = 32, d_state = 4, headdim = 16, ngroups = 1;
    bool   is_mimo = false;
    int    mimo_rank = 1;   // R; 1 unless is_mimo
    int    rope_angles = 2; // S, 2 S <= d_state
    bool   is_outproj_norm = false;
    bool   softplus_A = false; // softplus in place of the heavy tail
    double A_floor = 1e-4;
    int    vocab = 0;    // > 0: tokens, embedding.weight [vocab][d_model]
    int    d_input = 0;  // without tokens: input_proj.weight [d_model][d_input] and its bias
    int    d_output = 2; // head.weight [d_output][d_model]
    bool   head_bias = false;
    int    act_bits = 0;   // 8 or 16: what enters a projection is rounded as the integer engine does; 0: not
    int    mlp_hidden = 0; // 0: none; fc1 [2 hidden][d_model], the gate is its second half; fc2 [d_model][hidden]

    int heads() const { return d_inner / headdim; }
    int rows() const { // of in_proj: z, x, B, C, dt, A, trap, angle
        return 2 * d_inner + 2 * mimo_rank * ngroups * d_state + 3 * heads() + rope_angles;
    }
};

// Terms that the loss may gain: areg times the mean of log A, which drives A to its floor; treg times the mean of
// (t - round t)^2, t = tanh(angle) dt in half turns, which drives turns to whole half turns.
struct Penalty {
    double areg = 0, treg = 0;
};

template <class Real> struct Batch {
    int            n_streams = 0, T = 0;
    const int32_t* tokens = nullptr; // [n_streams][T]
    const Real*    x = nullptr;      // or [n_streams][T][d_input]
    const Real*    dt = nullptr;     // [n_streams][T]: multiplies the step size, the product limited to 22; null: 1
};

// Where a layer's tensors begin.
struct Places {
    int64_t norm, in_proj, dt_bias, B_bias, C_bias, B_norm, C_norm, D, out_proj;
    int64_t mimo_x = -1, mimo_z = -1, mimo_o = -1, gate_norm = -1, norm2 = -1, fc1 = -1, fc2 = -1;
};

template <class Real> struct Net {
    Config              config;
    std::vector<Tensor> tensors;
    std::vector<Real>   params;
    std::vector<Real>   decay; // a number a parameter: 1 where weight decay applies, else 0
    std::vector<Places> layers;
    int64_t             embedding = -1, input_bias = -1, norm_f = -1, head = -1, head_bias = -1;

    explicit Net(const Config& c) : config(c) {
        const auto u = [](int v) { return uint64_t(v); };
        const int  d = c.d_model, di = c.d_inner, H = c.heads(), N = c.d_state, R = c.mimo_rank, P = c.headdim;
        if (c.vocab > 0) embedding = add("embedding.weight", {u(c.vocab), u(d)}, 0);
        else {
            embedding = add("input_proj.weight", {u(d), u(c.d_input)}, 1);
            input_bias = add("input_proj.bias", {u(d)}, 0);
        }
        for (int i = 0; i < c.n_layers; ++i) {
            const std::string layer = "layers." + std::to_string(i) + ".", p = layer + "mixer.";
            Places            at;
            at.norm = add(layer + "norm.weight", {u(d)}, 0);
            at.in_proj = add(p + "in_proj.weight", {u(c.rows()), u(d)}, 1);
            const int64_t no = int64_t(3 * H + c.rope_angles) * d; // dt, A, trap and angle rows
            std::fill(decay.end() - no, decay.end(), Real(0));
            at.dt_bias = add(p + "dt_bias", {u(H)}, 0);
            at.B_bias = add(p + "B_bias", {u(H), u(R), u(N)}, 0);
            at.C_bias = add(p + "C_bias", {u(H), u(R), u(N)}, 0);
            at.B_norm = add(p + "B_norm.weight", {u(N)}, 0);
            at.C_norm = add(p + "C_norm.weight", {u(N)}, 0);
            at.D = add(p + "D", {u(H)}, 0);
            at.out_proj = add(p + "out_proj.weight", {u(d), u(di)}, 1);
            if (c.is_mimo) {
                at.mimo_x = add(p + "mimo_x", {u(H), u(R), u(P)}, 0);
                at.mimo_z = add(p + "mimo_z", {u(H), u(R), u(P)}, 0);
                at.mimo_o = add(p + "mimo_o", {u(H), u(R), u(P)}, 0);
            }
            if (c.is_outproj_norm) at.gate_norm = add(p + "norm.weight", {u(di)}, 0);
            if (c.mlp_hidden > 0) {
                at.norm2 = add(layer + "norm2.weight", {u(d)}, 0);
                at.fc1 = add(layer + "mlp.fc1.weight", {2 * u(c.mlp_hidden), u(d)}, 1);
                at.fc2 = add(layer + "mlp.fc2.weight", {u(d), u(c.mlp_hidden)}, 1);
            }
            layers.push_back(at);
        }
        norm_f = add("norm_f.weight", {u(d)}, 0);
        head = add("head.weight", {u(c.d_output), u(d)}, 1);
        if (c.head_bias) head_bias = add("head.bias", {u(c.d_output)}, 0);
    }
    void init(s4d::Random& random, double dt_min = 0.1, double dt_max = 1.0) {
        for (const Tensor& t : tensors) {
            const auto ends = [&](const char* s) {
                const size_t n = std::strlen(s);
                return t.name.size() >= n && t.name.compare(t.name.size() - n, n, s) == 0;
            };
            const double r = t.shape.size() == 2 ? 1.0 / std::sqrt(double(t.shape[1])) : 0.0;
            for (int64_t k = 0; k < t.count; ++k) {
                double v = 1.0; // norms, D, mimo_z, biases of B and C
                if (ends("embedding.weight")) v = random.normal();
                else if (t.shape.size() == 2) v = random.uniform(-r, r);
                else if (ends("mimo_x") || ends("mimo_o")) v = 1.0 / config.mimo_rank;
                else if (ends("dt_bias")) {
                    const double dt = std::exp(random.uniform(std::log(dt_min), std::log(dt_max)));
                    v = dt + std::log(-std::expm1(-dt)); // softplus of it is dt
                } else if (ends("input_proj.bias") || ends("head.bias")) v = 0.0;
                params[size_t(t.offset + k)] = Real(v);
            }
        }
    }

  private:
    int64_t add(const std::string& name, std::vector<uint64_t> shape, int decays) {
        Tensor t;
        t.name = name, t.offset = int64_t(params.size()), t.count = 1;
        for (uint64_t n : shape) t.count *= int64_t(n);
        t.shape = std::move(shape);
        params.resize(params.size() + size_t(t.count));
        decay.resize(params.size(), Real(decays));
        tensors.push_back(t);
        return tensors.back().offset;
    }
};

constexpr int    chunk = 32;  // tokens between two kept states
constexpr int    pad_to = 16; // rows of matrices, for the widest kernels
constexpr double epsilon = 1e-5, most_dt = 22.0, pi = 3.14159265358979323846;

inline int padded(int n) { return (n + pad_to - 1) / pad_to * pad_to; }

// What one layer keeps of a batch. Rows are tokens.
template <class Real> struct Kept {
    std::vector<Real> r, u, p;       // residual before the layer [d], normed [d], in_proj [rows]; all padded
    std::vector<Real> dt, A, lambda; // [H]
    std::vector<Real> turn;          // tanh(angle) [S]
    std::vector<Real> phi, sin, cos; // angle in half turns, from -1 to 1; its sine and cosine; [H][S] padded
    std::vector<Real> k, q;          // [H][R][N]
    std::vector<Real> v;             // x mimo_x [H][R][P padded]
    std::vector<Real> zr, gate;      // z mimo_z, sigmoid of it [H][R][P padded]
    std::vector<Real> o, y;          // read-out with skip [H][R][P padded]; what out_proj reads [di padded]
    std::vector<Real> bounds;        // h at the beginning of every chunk: [stream][chunk][H][N][P padded]
    std::vector<Real> r2, u2, f, g;  // MLP: residual, normed, fc1 [2 hidden padded], a silu(gate) [hidden padded]
};
template <class Real> struct Workspace {
    std::vector<Kept<Real>> layers;
    std::vector<Real>       x;          // what input_proj reads [d_input]
    std::vector<Real>       r, out;     // the last residual, and norm_f of it [d padded]
    std::vector<Real>       wide, tall; // a weight matrix padded, or transposed and padded
    std::vector<Real>       d_r, d_u, d_p, d_y, d_f, d_w, h;
    s4d::Kernels<Real>      kernels = s4d::choose_kernels<Real>(s4d::Isa::best, 64);
};

template <class Real> Real sigmoid(Real x) { return 1 / (1 + std::exp(-x)); }
template <class Real> Real softplus(Real x) { return x > 20 ? x : std::log1p(std::exp(x)); }

// to[c][r] = from[r][c]; rows of `to` are padded with zeros to a multiple of pad_to.
template <class Real> void transpose(const Real* from, int rows, int cols, int from_row, Real* to, int to_row) {
    for (int first = 0; first < rows; first += pad_to, from += pad_to * from_row) { // whole cache lines are written
        const int count = std::min(pad_to, rows - first);
        for (int c = 0; c < cols; ++c) {
            Real* const line = to + int64_t(c) * to_row + first;
            if (count == pad_to)
                for (int r = 0; r < pad_to; ++r) line[r] = from[r * from_row + c];
            else
                for (int r = 0; r < pad_to; ++r) line[r] = r < count ? from[r * from_row + c] : Real(0);
        }
    }
}

// y [rows][out padded] (+)= x [rows][in padded] W^T. Few rows are transposed in place of W, for the same bits.
template <class Real>
void linear(Workspace<Real>& ws, const Real* W, int out, int in, int rows, const Real* x, Real* y, bool add) {
    const int op = padded(out), ip = padded(in), rp = padded(rows);
    if (2 * rows <= out) {
        ws.wide.resize(size_t(in) * size_t(rp)), ws.tall.resize(size_t(out) * size_t(rp));
        transpose(x, rows, in, ip, ws.wide.data(), rp);
        if (add) transpose(y, rows, out, op, ws.tall.data(), rp);
        ws.kernels.gemm(out, rp, in, W, in, 1, ws.wide.data(), rp, ws.tall.data(), rp, nullptr, add);
        transpose(ws.tall.data(), out, rows, rp, y, op);
        return;
    }
    ws.tall.resize(size_t(in) * size_t(op));
    transpose(W, out, in, in, ws.tall.data(), op);
    ws.kernels.gemm(rows, op, in, x, ip, 1, ws.tall.data(), op, y, op, nullptr, add);
}
// d_x = d_y W;  d_W += d_y^T x
template <class Real>
void linear_back(Workspace<Real>& ws, const Real* W, int out, int in, int rows, const Real* x, const Real* d_y,
                 Real* d_x, Real* d_W) {
    const int op = padded(out), ip = padded(in);
    if (in == ip) { // nothing to pad
        ws.kernels.gemm(rows, in, out, d_y, op, 1, W, in, d_x, in, nullptr, false);
        ws.kernels.gemm(out, in, rows, d_y, 1, op, x, in, d_W, in, nullptr, true);
        return;
    }
    ws.wide.assign(size_t(out) * size_t(ip), Real(0));
    for (int o = 0; o < out; ++o)
        for (int i = 0; i < in; ++i) ws.wide[size_t(o) * size_t(ip) + size_t(i)] = W[int64_t(o) * in + i];
    ws.kernels.gemm(rows, ip, out, d_y, op, 1, ws.wide.data(), ip, d_x, ip, nullptr, false);
    ws.d_w.resize(size_t(out) * size_t(ip));
    ws.kernels.gemm(out, ip, rows, d_y, 1, op, x, ip, ws.d_w.data(), ip, nullptr, false);
    for (int o = 0; o < out; ++o)
        for (int i = 0; i < in; ++i) d_W[int64_t(o) * in + i] += ws.d_w[size_t(o) * size_t(ip) + size_t(i)];
}

// Sum of a[i] b[i], in eight lanes: the order is part of the result.
template <class Real> Real dot(const Real* a, const Real* b, int n) {
    Real lane[8] = {}, rest = 0;
    int  i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; ++k) lane[k] += a[i + k] * b[i + k];
    for (; i < n; ++i) rest += a[i] * b[i];
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7])) + rest;
}

template <class Real> Real rms_scale(const Real* x, int n) {
    return 1 / std::sqrt(dot(x, x, n) / Real(n) + Real(epsilon));
}
template <class Real> void rms(const Real* x, const Real* w, Real* y, int n) {
    const Real s = rms_scale(x, n);
    for (int i = 0; i < n; ++i) y[i] = x[i] * s * w[i];
}
// d_x += of y = x scale(x) w, and d_w += ; d_x may not be d_y. Puts d_y w in the place of d_y.
template <class Real> void rms_back(const Real* x, const Real* w, Real* d_y, Real* d_x, Real* d_w, int n) {
    const Real s = rms_scale(x, n);
    for (int i = 0; i < n; ++i) d_w[i] += d_y[i] * x[i] * s, d_y[i] *= w[i];
    const Real part = s * s * dot(d_y, x, n) / Real(n);
    for (int i = 0; i < n; ++i) d_x[i] += s * (d_y[i] - x[i] * part);
}

// The two numbers that angle s turns.
inline void pair_of(const Config& c, int s, int* one, int* two) {
    *one = c.is_mimo ? s : 2 * s;
    *two = c.is_mimo ? s + c.d_state / 2 : 2 * s + 1;
}

// One layer's sizes, parameters and rows, by name.
template <class Real> struct Mixer {
    const Config& c;
    const Places& at;
    const Real*   w; // all parameters
    int           d, di, H, P, N, R, G, S, Qp, RN, Pp, HSp;
    Mixer(const Net<Real>& net, int layer)
        : c(net.config), at(net.layers[size_t(layer)]), w(net.params.data()), d(c.d_model), di(c.d_inner), H(c.heads()),
          P(c.headdim), N(c.d_state), R(c.mimo_rank), G(c.ngroups), S(c.rope_angles), Qp(padded(c.rows())),
          RN(c.mimo_rank * c.d_state), Pp(padded(P)), HSp(padded(c.heads() * c.rope_angles)) {}
    int     B_row(int r, int g) const { return 2 * di + (r * G + g) * N; }
    int     C_row(int r, int g) const { return B_row(r, g) + R * G * N; }
    int     scalars() const { return 2 * di + 2 * R * G * N; } // dt, A, trap, then angle
    int64_t state_size() const { return int64_t(H) * N * Pp; } // of one token
    // Where head h of token i begins, in arrays [H][R][N] and [H][R][P padded].
    size_t kq(int64_t i, int h) const { return size_t((i * H + h) * RN); }
    size_t row(int64_t i, int h) const { return size_t((i * H + h) * R * Pp); }

    struct Rates {
        Real alpha, beta, gamma;
    };
    Rates rates(const Kept<Real>& kept, int64_t i, int h) const {
        const Real dt = kept.dt[size_t(i * H + h)], lambda = kept.lambda[size_t(i * H + h)];
        const Real alpha = std::exp(-kept.A[size_t(i * H + h)] * dt);
        return {alpha, alpha * dt * (1 - lambda), dt * lambda};
    }
    // The new state of head h at token i (of its stream: t), from the one before; o [R][Pp] if the read-out is wanted.
    void update(const s4d::Kernels<Real>& kernels, const Kept<Real>& kept, int64_t i, int t, int h, const Real* before,
                Real* after, Real* o) const {
        const Rates a = rates(kept, i, h);
        const Real *k = &kept.k[kq(i, h)], *v = &kept.v[row(i, h)];
        kernels.state_update(N, R, Pp, a.alpha, a.beta, a.gamma, k, t > 0 ? k - H * RN : nullptr, v,
                             t > 0 ? v - H * R * Pp : nullptr, before, after, &kept.q[kq(i, h)], o);
    }
};

// The mixer of a layer over rows of u: fills kept.p ... kept.y. Returns the penalty.
template <class Real>
double mixer_forward(const Net<Real>& net, int layer, const Batch<Real>& b, Workspace<Real>& ws,
                     const Penalty& penalty) {
    const Mixer<Real> m(net, layer);
    const Config&     c = net.config;
    Kept<Real>&       kept = ws.layers[size_t(layer)];
    const int         H = m.H, P = m.P, N = m.N, R = m.R, G = m.G, S = m.S, RN = m.RN, rows = b.n_streams * b.T;
    const int         Pp = m.Pp, HSp = m.HSp, di_p = padded(m.di);
    const int64_t     size = m.state_size(), chunks = (b.T + chunk - 1) / chunk;
    const size_t      n = size_t(rows);
    double            total = 0;
    for (auto* per_head : {&kept.v, &kept.zr, &kept.gate, &kept.o}) {
        const size_t wanted = n * size_t(H * R * Pp);
        if (per_head->size() != wanted || P != Pp) per_head->assign(wanted, Real(0));
    }
    kept.p.resize(n * size_t(m.Qp)), kept.y.assign(n * size_t(di_p), Real(0));
    kept.dt.resize(n * size_t(H)), kept.A.resize(n * size_t(H)), kept.lambda.resize(n * size_t(H));
    kept.turn.resize(n * size_t(S)), kept.k.resize(n * size_t(H * RN)), kept.q.resize(n * size_t(H * RN));
    for (auto* angles : {&kept.phi, &kept.sin, &kept.cos}) angles->assign(n * size_t(HSp), Real(0));
    kept.bounds.resize(size_t(b.n_streams * chunks * size));
    linear(ws, m.w + m.at.in_proj, c.rows(), m.d, rows, kept.u.data(), kept.p.data(), false);
    std::vector<Real> state(static_cast<size_t>(size)), normed(static_cast<size_t>(N));
    for (int64_t i = 0; i < rows; ++i) {
        const int   t = int(i % b.T);
        const Real* row = &kept.p[size_t(i * m.Qp)];
        const Real *dd_dt = row + m.scalars(), *dd_A = dd_dt + H, *trap = dd_A + H, *angle = trap + H;
        for (int s = 0; s < S; ++s) kept.turn[size_t(i * S + s)] = std::tanh(angle[s]);

        // 1. Numbers of a head, and its angles.
        for (int h = 0; h < H; ++h) {
            Real dt = softplus(dd_dt[h] + m.w[m.at.dt_bias + h]);
            if (b.dt != nullptr && b.dt[i] != 1) dt = std::min(dt * b.dt[i], Real(most_dt));
            const Real a = dd_A[h], f = c.softplus_A ? softplus(a) : a < 0 ? 1 / (1 - a) : 1 + a;
            const Real A = std::max(f, Real(c.A_floor));
            kept.dt[size_t(i * H + h)] = dt;
            kept.A[size_t(i * H + h)] = A;
            kept.lambda[size_t(i * H + h)] = sigmoid(trap[h]);
            if (penalty.areg != 0) total += penalty.areg * std::log(double(A)) / (double(rows) * H * c.n_layers);
            for (int s = 0; s < S; ++s) {
                const size_t at = size_t(i * HSp + h * S + s);
                const Real   turns = kept.turn[size_t(i * S + s)] * dt;
                if (penalty.treg != 0) {
                    const double over = double(turns - std::round(turns));
                    total += penalty.treg * over * over / (double(rows) * H * S * c.n_layers);
                }
                const Real phi = (t > 0 ? kept.phi[at - size_t(HSp)] : Real(0)) + turns;
                kept.phi[at] = phi - 2 * std::floor(phi / 2 + Real(0.5)); // to [-1, 1)
            }
        }
        const size_t angles = size_t(i * HSp);
        ws.kernels.sin_cos_row(&kept.phi[angles], &kept.sin[angles], &kept.cos[angles], HSp);

        // 2. B and C: norm, bias, rotation.
        for (int which = 0; which < 2; ++which)
            for (int r = 0; r < R; ++r)
                for (int g = 0; g < G; ++g) {
                    rms(row + (which == 0 ? m.B_row(r, g) : m.C_row(r, g)),
                        m.w + (which == 0 ? m.at.B_norm : m.at.C_norm), normed.data(), N);
                    for (int h = g * (H / G); h < (g + 1) * (H / G); ++h) {
                        Real*       to = &(which == 0 ? kept.k : kept.q)[m.kq(i, h) + size_t(r * N)];
                        const Real* bias = m.w + (which == 0 ? m.at.B_bias : m.at.C_bias) + (h * R + r) * N;
                        const Real *si = &kept.sin[angles + size_t(h * S)], *co = &kept.cos[angles + size_t(h * S)];
                        for (int k = 0; k < N; ++k) to[k] = normed[size_t(k)] + bias[k];
                        for (int s = 0; s < S; ++s) {
                            int one, two;
                            pair_of(c, s, &one, &two);
                            const Real u = to[one], v = to[two];
                            to[one] = u * co[s] - v * si[s], to[two] = u * si[s] + v * co[s];
                        }
                    }
                }

        // 3. Values and gates.
        for (int h = 0; h < H; ++h)
            for (int r = 0; r < R; ++r) {
                const Real *z = row + h * P, *x = row + m.di + h * P;
                Real *      v = &kept.v[m.row(i, h)] + r * Pp, *zr = &kept.zr[m.row(i, h)] + r * Pp;
                if (!c.is_mimo) {
                    std::copy(x, x + P, v), std::copy(z, z + P, zr);
                    continue;
                }
                const Real *mx = m.w + m.at.mimo_x + (h * R + r) * P, *mz = m.w + m.at.mimo_z + (h * R + r) * P;
                for (int p = 0; p < P; ++p) v[p] = x[p] * mx[p], zr[p] = z[p] * mz[p];
            }
        ws.kernels.sigmoid_row(&kept.zr[m.row(i, 0)], &kept.gate[m.row(i, 0)], H * R * Pp);

        // 4. Update, read out, gate.
        if (t == 0) std::fill(state.begin(), state.end(), Real(0));
        if (t % chunk == 0)
            std::copy(state.begin(), state.end(), kept.bounds.begin() + (i / b.T * chunks + t / chunk) * size);
        for (int h = 0; h < H; ++h) {
            Real* now = &state[size_t(h * N * Pp)];
            m.update(ws.kernels, kept, i, t, h, now, now, &kept.o[m.row(i, h)]);
            Real* y = &kept.y[size_t(i * di_p + h * P)];
            for (int r = 0; r < R; ++r) {
                const size_t at = m.row(i, h) + size_t(r * Pp);
                Real*        o = &kept.o[at];
                const Real * v = &kept.v[at], *zr = &kept.zr[at], *gate = &kept.gate[at];
                const Real   D = m.w[m.at.D + h];
                for (int p = 0; p < P; ++p) o[p] += D * v[p];
                const Real  scale = m.at.gate_norm >= 0 ? rms_scale(o, P) : Real(1);
                const Real *norm = m.w + m.at.gate_norm + h * P, *mo = m.w + m.at.mimo_o + (h * R + r) * P;
                if (m.at.gate_norm < 0 && !c.is_mimo)
                    for (int p = 0; p < P; ++p) y[p] = o[p] * zr[p] * gate[p];
                else
                    for (int p = 0; p < P; ++p) {
                        const Real on = m.at.gate_norm >= 0 ? o[p] * scale * norm[p] : o[p];
                        y[p] += on * zr[p] * gate[p] * (c.is_mimo ? mo[p] : Real(1));
                    }
            }
        }
    }
    return total;
}

// From d_y (of kept.y) to d_p (of kept.p), and the gradients of everything in between.
template <class Real>
void mixer_backward(const Net<Real>& net, int layer, const Batch<Real>& b, Workspace<Real>& ws, const Penalty& penalty,
                    Real* grad) {
    const Mixer<Real> m(net, layer);
    const Config&     c = net.config;
    const Kept<Real>& kept = ws.layers[size_t(layer)];
    const int         H = m.H, P = m.P, N = m.N, R = m.R, G = m.G, S = m.S, RN = m.RN, rows = b.n_streams * b.T;
    const int         Pp = m.Pp, HSp = m.HSp, di_p = padded(m.di);
    const int64_t     size = m.state_size(), chunks = (b.T + chunk - 1) / chunk;
    ws.d_p.assign(size_t(rows) * size_t(m.Qp), Real(0));
    ws.h.resize(size_t((chunk + 1) * size));
    const auto        zeros = [](int64_t count) { return std::vector<Real>(size_t(count), Real(0)); };
    std::vector<Real> d_h = zeros(size), d_phi = zeros(H * S), d_k_next = zeros(H * RN), d_x_next = zeros(m.di);
    std::vector<Real> d_k = zeros(RN), d_q = zeros(RN), d_o = zeros(R * Pp), d_v = zeros(R * Pp), d_w = zeros(R * Pp);
    std::vector<Real> d_on = zeros(P), d_Bn = zeros(2 * R * G * N), d_turn = zeros(S);
    std::vector<Real> lanes = zeros(16 * (3 * RN + 4)), sums = zeros(3 * RN + 4);
    for (int stream = 0; stream < b.n_streams; ++stream) {
        for (auto* carried : {&d_h, &d_phi, &d_k_next, &d_x_next}) std::fill(carried->begin(), carried->end(), Real(0));
        for (int t = b.T - 1; t >= 0; --t) {
            const int64_t i = int64_t(stream) * b.T + t;
            if (t == b.T - 1 || t % chunk == chunk - 1) { // the states of this chunk again
                const int first = t / chunk * chunk;
                std::copy_n(kept.bounds.begin() + (stream * chunks + t / chunk) * size, size, ws.h.begin());
                for (int s = first; s <= t; ++s)
                    for (int h = 0; h < H; ++h)
                        m.update(ws.kernels, kept, int64_t(stream) * b.T + s, s, h,
                                 &ws.h[size_t((s - first) * size + h * N * Pp)],
                                 &ws.h[size_t((s - first + 1) * size + h * N * Pp)], nullptr);
            }
            const Real* row = &kept.p[size_t(i * m.Qp)];
            Real*       d_row = &ws.d_p[size_t(i * m.Qp)];
            const Real *dd_dt = row + m.scalars(), *dd_A = dd_dt + H;
            Real *d_dd_dt = d_row + m.scalars(), *d_dd_A = d_dd_dt + H, *d_trap = d_dd_A + H, *d_angle = d_trap + H;
            std::fill(d_Bn.begin(), d_Bn.end(), Real(0)), std::fill(d_turn.begin(), d_turn.end(), Real(0));
            for (int h = 0; h < H; ++h) {
                const auto rates = m.rates(kept, i, h);
                const Real dt = kept.dt[size_t(i * H + h)], A = kept.A[size_t(i * H + h)],
                           lambda = kept.lambda[size_t(i * H + h)];
                const Real  alpha = rates.alpha, beta = rates.beta, gamma = rates.gamma;
                const Real *z = row + h * P, *x = row + m.di + h * P, *x_old = t > 0 ? x - m.Qp : nullptr;
                const Real *k = &kept.k[m.kq(i, h)], *q = &kept.q[m.kq(i, h)];
                const Real* k_old = t > 0 ? k - H * RN : nullptr;
                const Real* d_y = &ws.d_y[size_t(i * di_p + h * P)];
                Real *      d_z = d_row + h * P, *d_x = d_row + m.di + h * P;

                // 1. Gate, norm, skip.
                for (int r = 0; r < R; ++r) {
                    const size_t at = m.row(i, h) + size_t(r * Pp);
                    const Real * o = &kept.o[at], *v = &kept.v[at], *zr = &kept.zr[at], *gate = &kept.gate[at];
                    Real*        to = &d_o[size_t(r * Pp)];
                    const Real   scale = m.at.gate_norm >= 0 ? rms_scale(o, P) : Real(1), D = m.w[m.at.D + h];
                    const Real * norm = m.w + m.at.gate_norm + h * P, *mz = m.w + m.at.mimo_z + (h * R + r) * P,
                               *mo = m.w + m.at.mimo_o + (h * R + r) * P;
                    if (m.at.gate_norm < 0 && !c.is_mimo)
                        for (int p = 0; p < P; ++p) {
                            const Real silu = zr[p] * gate[p];
                            d_z[p] = d_y[p] * o[p] * gate[p] * (1 + zr[p] - silu);
                            to[p] = d_y[p] * silu;
                        }
                    else {
                        for (int p = 0; p < P; ++p) {
                            const Real silu = zr[p] * gate[p], d_g = c.is_mimo ? d_y[p] * mo[p] : d_y[p];
                            const Real on = m.at.gate_norm >= 0 ? o[p] * scale * norm[p] : o[p];
                            const Real d_zr = d_g * on * gate[p] * (1 + zr[p] - silu);
                            d_on[size_t(p)] = d_g * silu;
                            if (c.is_mimo) {
                                d_z[p] += d_zr * mz[p];
                                grad[m.at.mimo_z + (h * R + r) * P + p] += d_zr * z[p];
                                grad[m.at.mimo_o + (h * R + r) * P + p] += d_y[p] * on * silu;
                            } else d_z[p] = d_zr;
                        }
                        std::fill(to, to + P, Real(0));
                        if (m.at.gate_norm >= 0) rms_back(o, norm, d_on.data(), to, grad + m.at.gate_norm + h * P, P);
                        else std::copy(d_on.begin(), d_on.end(), to);
                    }
                    grad[m.at.D + h] += dot(to, v, P);
                    for (int p = 0; p < P; ++p) d_v[size_t(r * Pp + p)] = D * to[p], d_w[size_t(r * Pp + p)] = 0;
                }

                // 2. The state: d_h arrives as that of the state after this token.
                s4d::StateBack<Real> back;
                back.N = N, back.R = R, back.Pp = Pp;
                back.alpha = alpha, back.beta = beta, back.gamma = gamma;
                back.k = k, back.q = q, back.k_old = k_old;
                back.v = &kept.v[m.row(i, h)], back.v_old = t > 0 ? back.v - H * R * Pp : nullptr;
                back.d_o = d_o.data(), back.before = &ws.h[size_t(t % chunk * size + h * N * Pp)],
                back.after = back.before + size;
                back.g = &d_h[size_t(h * N * Pp)], back.d_v = d_v.data(), back.d_w = d_w.data();
                back.lanes = lanes.data(), back.sums = sums.data();
                ws.kernels.state_backward(back);
                const Real *of_q = sums.data(), *of_k = of_q + RN, *of_old = of_k + RN;
                Real*       carried_k = &d_k_next[size_t(h * RN)];
                for (int n = 0; n < RN; ++n) {
                    d_q[size_t(n)] = of_q[n];
                    d_k[size_t(n)] = carried_k[n] + gamma * of_k[n];
                    carried_k[n] = t > 0 ? beta * of_old[n] : Real(0);
                }
                Real       d_alpha = of_old[RN];
                const Real d_gamma = dot(k, of_k, RN), d_beta = t > 0 ? dot(k_old, of_old, RN) : Real(0);
                Real*      carried_x = &d_x_next[size_t(h * P)];
                if (!c.is_mimo)
                    for (int p = 0; p < P; ++p) d_x[p] = carried_x[p] + d_v[size_t(p)], carried_x[p] = d_w[size_t(p)];
                else
                    for (int p = 0; p < P; ++p) {
                        d_x[p] = carried_x[p], carried_x[p] = 0;
                        for (int r = 0; r < R; ++r) {
                            const Real mx = m.w[m.at.mimo_x + (h * R + r) * P + p], dv = d_v[size_t(r * Pp + p)],
                                       dw = d_w[size_t(r * Pp + p)];
                            d_x[p] += dv * mx, carried_x[p] += dw * mx;
                            grad[m.at.mimo_x + (h * R + r) * P + p] += dv * x[p] + (t > 0 ? dw * x_old[p] : Real(0));
                        }
                    }

                // 3. alpha = exp(-A dt), beta = alpha dt (1 - lambda), gamma = dt lambda.
                d_alpha += dt * (1 - lambda) * d_beta;
                Real       d_dt = lambda * d_gamma + alpha * (1 - lambda) * d_beta - A * alpha * d_alpha;
                const Real d_lambda = dt * d_gamma - alpha * dt * d_beta;
                Real       d_A = -dt * alpha * d_alpha;
                if (penalty.areg != 0) d_A += Real(penalty.areg / (double(rows) * H * c.n_layers)) / A;
                const Real a = dd_A[h], f = c.softplus_A ? softplus(a) : a < 0 ? 1 / (1 - a) : 1 + a;
                if (f >= Real(c.A_floor)) d_dd_A[h] = d_A * (c.softplus_A ? sigmoid(a) : a < 0 ? f * f : Real(1));
                d_trap[h] = d_lambda * lambda * (1 - lambda);

                // 4. Rotation: k and q turn with phi, which all later tokens share.
                const Real *si = &kept.sin[size_t(i * HSp + h * S)], *co = &kept.cos[size_t(i * HSp + h * S)];
                for (int s = 0; s < S; ++s) {
                    Real& carried = d_phi[size_t(h * S + s)];
                    int   one, two;
                    pair_of(c, s, &one, &two);
                    for (int r = 0; r < R; ++r)
                        for (int which = 0; which < 2; ++which) {
                            Real*       d_to = &(which == 0 ? d_k : d_q)[size_t(r * N)];
                            const Real* to = (which == 0 ? k : q) + r * N;
                            const Real  g1 = d_to[one], g2 = d_to[two];
                            carried += g2 * to[one] - g1 * to[two];
                            d_to[one] = g1 * co[s] + g2 * si[s], d_to[two] = g2 * co[s] - g1 * si[s];
                        }
                    const Real tanh = kept.turn[size_t(i * S + s)], turns = tanh * dt;
                    Real       d_turns = carried * Real(pi);
                    if (penalty.treg != 0)
                        d_turns +=
                            Real(2 * penalty.treg / (double(rows) * H * S * c.n_layers)) * (turns - std::round(turns));
                    d_turn[size_t(s)] += d_turns * dt;
                    d_dt += d_turns * tanh;
                }
                const Real raw = dd_dt[h] + m.w[m.at.dt_bias + h];
                if (b.dt != nullptr && b.dt[i] != 1)
                    d_dt = softplus(raw) * b.dt[i] < Real(most_dt) ? d_dt * b.dt[i] : Real(0);
                d_dd_dt[h] = d_dt * sigmoid(raw);
                grad[m.at.dt_bias + h] += d_dd_dt[h];

                // 5. Biases and norms of B and C.
                const int g = h / (H / G);
                for (int r = 0; r < R; ++r) {
                    const Real *dk = &d_k[size_t(r * N)], *dq = &d_q[size_t(r * N)];
                    Real *      B = grad + m.at.B_bias + (h * R + r) * N, *C = grad + m.at.C_bias + (h * R + r) * N;
                    Real *      dB = &d_Bn[size_t((r * G + g) * N)], *dC = &d_Bn[size_t(((R + r) * G + g) * N)];
                    for (int n = 0; n < N; ++n) B[n] += dk[n], C[n] += dq[n], dB[n] += dk[n], dC[n] += dq[n];
                }
            }
            for (int s = 0; s < S; ++s) {
                const Real tanh = kept.turn[size_t(i * S + s)];
                d_angle[s] = d_turn[size_t(s)] * (1 - tanh * tanh);
            }
            for (int r = 0; r < R; ++r)
                for (int g = 0; g < G; ++g) {
                    rms_back(row + m.B_row(r, g), m.w + m.at.B_norm, &d_Bn[size_t((r * G + g) * N)],
                             d_row + m.B_row(r, g), grad + m.at.B_norm, N);
                    rms_back(row + m.C_row(r, g), m.w + m.at.C_norm, &d_Bn[size_t(((R + r) * G + g) * N)],
                             d_row + m.C_row(r, g), grad + m.at.C_norm, N);
                }
        }
    }
}

// out [n_streams][T][d_output]. Returns the penalty.
template <class Real>
double forward(const Net<Real>& net, const Batch<Real>& b, Workspace<Real>& ws, Real* out,
               const Penalty& penalty = {}) {
    const Config& c = net.config;
    const Real*   w = net.params.data();
    const int     d = c.d_model, dp = padded(d), rows = b.n_streams * b.T, hidden = c.mlp_hidden;
    double        total = 0;
    ws.layers.resize(size_t(c.n_layers));
    ws.r.assign(size_t(rows) * size_t(dp), Real(0));
    if (c.vocab == 0) {
        ws.x.assign(b.x, b.x + int64_t(rows) * c.d_input);
        s4d::round_rows(ws.x.data(), rows, c.d_input, c.d_input, c.act_bits);
    }
    for (int64_t i = 0; i < rows; ++i)
        for (int k = 0; k < d; ++k) {
            Real& to = ws.r[size_t(i * dp + k)];
            if (c.vocab > 0) to = w[net.embedding + int64_t(b.tokens[i]) * d + k];
            else {
                to = w[net.input_bias + k];
                for (int j = 0; j < c.d_input; ++j)
                    to += w[net.embedding + int64_t(k) * c.d_input + j] * ws.x[size_t(i * c.d_input + j)];
            }
        }
    const auto norm_rows = [&](const std::vector<Real>& from, int64_t weight, std::vector<Real>& to) {
        to.assign(size_t(rows) * size_t(dp), Real(0));
        for (int64_t i = 0; i < rows; ++i) rms(&from[size_t(i * dp)], w + weight, &to[size_t(i * dp)], d);
        s4d::round_rows(to.data(), rows, d, dp, c.act_bits); // a projection reads it
    };
    for (int l = 0; l < c.n_layers; ++l) {
        Kept<Real>&   kept = ws.layers[size_t(l)];
        const Places& at = net.layers[size_t(l)];
        kept.r = ws.r;
        norm_rows(kept.r, at.norm, kept.u);
        total += mixer_forward(net, l, b, ws, penalty);
        s4d::round_rows(kept.y.data(), rows, c.d_inner, padded(c.d_inner), c.act_bits);
        linear(ws, w + at.out_proj, d, c.d_inner, rows, kept.y.data(), ws.r.data(), true);
        if (hidden == 0) continue;
        const int hp = padded(hidden), fp = padded(2 * hidden);
        kept.r2 = ws.r;
        norm_rows(kept.r2, at.norm2, kept.u2);
        kept.f.resize(size_t(rows) * size_t(fp)), kept.g.assign(size_t(rows) * size_t(hp), Real(0));
        linear(ws, w + at.fc1, 2 * hidden, d, rows, kept.u2.data(), kept.f.data(), false);
        for (int64_t i = 0; i < rows; ++i)
            for (int k = 0; k < hidden; ++k) {
                const Real gate = kept.f[size_t(i * fp + hidden + k)];
                kept.g[size_t(i * hp + k)] = kept.f[size_t(i * fp + k)] * gate * sigmoid(gate);
            }
        s4d::round_rows(kept.g.data(), rows, hidden, hp, c.act_bits);
        linear(ws, w + at.fc2, d, hidden, rows, kept.g.data(), ws.r.data(), true);
    }
    norm_rows(ws.r, net.norm_f, ws.out);
    for (int64_t i = 0; i < rows; ++i)
        for (int o = 0; o < c.d_output; ++o) {
            Real sum = net.head_bias >= 0 ? w[net.head_bias + o] : Real(0);
            for (int k = 0; k < d; ++k) sum += w[net.head + int64_t(o) * d + k] * ws.out[size_t(i * dp + k)];
            out[i * c.d_output + o] = sum;
        }
    return total;
}

// After forward() on the same batch: adds d loss / d parameters to grad, given d_out = d loss / d out. The penalty's
// own gradient is included.
template <class Real>
void backward(const Net<Real>& net, const Batch<Real>& b, Workspace<Real>& ws, const Real* d_out, Real* grad,
              const Penalty& penalty = {}) {
    const Config& c = net.config;
    const Real*   w = net.params.data();
    const int     d = c.d_model, dp = padded(d), rows = b.n_streams * b.T, hidden = c.mlp_hidden;
    ws.d_r.assign(size_t(rows) * size_t(dp), Real(0));
    ws.d_u.assign(size_t(rows) * size_t(dp), Real(0));
    for (int64_t i = 0; i < rows; ++i) {
        Real* d_u = &ws.d_u[size_t(i * dp)];
        for (int o = 0; o < c.d_output; ++o) {
            const Real g = d_out[i * c.d_output + o];
            if (net.head_bias >= 0) grad[net.head_bias + o] += g;
            for (int k = 0; k < d; ++k) {
                grad[net.head + int64_t(o) * d + k] += g * ws.out[size_t(i * dp + k)];
                d_u[k] += g * w[net.head + int64_t(o) * d + k];
            }
        }
        rms_back(&ws.r[size_t(i * dp)], w + net.norm_f, d_u, &ws.d_r[size_t(i * dp)], grad + net.norm_f, d);
    }
    for (int l = c.n_layers - 1; l >= 0; --l) {
        const Kept<Real>& kept = ws.layers[size_t(l)];
        const Places&     at = net.layers[size_t(l)];
        if (hidden > 0) {
            const int hp = padded(hidden), fp = padded(2 * hidden);
            ws.d_y.resize(size_t(rows) * size_t(hp)), ws.d_f.assign(size_t(rows) * size_t(fp), Real(0));
            linear_back(ws, w + at.fc2, d, hidden, rows, kept.g.data(), ws.d_r.data(), ws.d_y.data(), grad + at.fc2);
            for (int64_t i = 0; i < rows; ++i)
                for (int k = 0; k < hidden; ++k) {
                    const Real a = kept.f[size_t(i * fp + k)], gate = kept.f[size_t(i * fp + hidden + k)],
                               sig = sigmoid(gate);
                    const Real g = ws.d_y[size_t(i * hp + k)];
                    ws.d_f[size_t(i * fp + k)] = g * gate * sig;
                    ws.d_f[size_t(i * fp + hidden + k)] = g * a * sig * (1 + gate * (1 - sig));
                }
            linear_back(ws, w + at.fc1, 2 * hidden, d, rows, kept.u2.data(), ws.d_f.data(), ws.d_u.data(),
                        grad + at.fc1);
            for (int64_t i = 0; i < rows; ++i)
                rms_back(&kept.r2[size_t(i * dp)], w + at.norm2, &ws.d_u[size_t(i * dp)], &ws.d_r[size_t(i * dp)],
                         grad + at.norm2, d);
        }
        ws.d_y.resize(size_t(rows) * size_t(padded(c.d_inner)));
        linear_back(ws, w + at.out_proj, d, c.d_inner, rows, kept.y.data(), ws.d_r.data(), ws.d_y.data(),
                    grad + at.out_proj);
        mixer_backward(net, l, b, ws, penalty, grad);
        linear_back(ws, w + at.in_proj, c.rows(), d, rows, kept.u.data(), ws.d_p.data(), ws.d_u.data(),
                    grad + at.in_proj);
        for (int64_t i = 0; i < rows; ++i)
            rms_back(&kept.r[size_t(i * dp)], w + at.norm, &ws.d_u[size_t(i * dp)], &ws.d_r[size_t(i * dp)],
                     grad + at.norm, d);
    }
    for (int64_t i = 0; i < rows; ++i)
        for (int k = 0; k < d; ++k) {
            const Real g = ws.d_r[size_t(i * dp + k)];
            if (c.vocab > 0) grad[net.embedding + int64_t(b.tokens[i]) * d + k] += g;
            else {
                grad[net.input_bias + k] += g;
                for (int j = 0; j < c.d_input; ++j)
                    grad[net.embedding + int64_t(k) * c.d_input + j] += g * ws.x[size_t(i * c.d_input + j)];
            }
        }
}

} // namespace mamba3

#endif
