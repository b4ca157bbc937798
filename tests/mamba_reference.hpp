// mamba_reference.hpp - the three Mamba mixers in double, as plain loops straight from their formulas, and the ways
// they are commonly got wrong. SPDX-License-Identifier: MIT
#pragma once
#include "support.hpp"

namespace test {

// One mistake each; `none` is the definition.
enum class Wrong {
    none,
    pairing,          // SISO rotates (s, s + N/2), MIMO adjacent pairs
    split_order,      // the angle rows of in_proj are taken before the trap rows
    bias_before_norm, // of B and C
    no_alpha_in_beta, // beta = dt (1 - lambda)
    norm_after_gate,  // outproj norm
    old_state_read,   // the read-out sees h before the update
    eps,              // 1e-3 in place of 1e-5
    group_map,        // head h reads group h % G
    skip_without_mimo // the skip multiplies x, not x mimo_x
};

struct Mixer {
    const Golden& file;
    std::string   prefix; // of its tensors
    int64_t       d = 0, di = 0, H = 0, P = 0, N = 0, G = 1, R = 1, S = 0, K = 0, ds = 0, r = 0;
    bool          mimo = false, outnorm = false, softplus_A = false, rmsnorm = false, before_gate = false;
    double        A_floor = 1e-4;
    Wrong         wrong = Wrong::none;
    int           version = 3;

    std::map<std::string, std::vector<double>> tensors; // cached
    // States in the public layout.
    std::vector<double>                        h, angle, k, v, conv;
    std::map<std::string, std::vector<double>> trace;

    Mixer(const Golden& f, const std::string& p, const ssm::Config& c) : file(f), prefix(p) {
        version = c.arch == ssm::Arch::mamba1 ? 1 : c.arch == ssm::Arch::mamba2 ? 2 : 3;
        d = c.d_model, di = c.d_inner, H = c.nheads, P = c.headdim, N = c.d_state, G = c.ngroups, R = c.mimo_rank;
        S = c.rope_angles, K = c.d_conv, ds = c.d_ssm, r = c.dt_rank, mimo = c.is_mimo, outnorm = c.is_outproj_norm;
        softplus_A = c.softplus_A, rmsnorm = c.rmsnorm, before_gate = c.norm_before_gate, A_floor = double(c.A_floor);
        if (version == 3)
            h.assign(size_t(H * P * N), 0), angle.assign(size_t(H * S), 0), k.assign(size_t(R * H * N), 0),
                v.assign(size_t(H * P), 0);
        else if (version == 2) h.assign(size_t(ds * N), 0), conv.assign(size_t((ds + 2 * G * N) * K), 0);
        else h.assign(size_t(di * N), 0), conv.assign(size_t(di * K), 0);
    }
    bool                       has(const char* name) const { return file.has(prefix + name); }
    const std::vector<double>& w(const char* name) {
        auto& t = tensors[name];
        if (t.empty()) t = file.numbers(prefix + name);
        return t;
    }
    std::vector<double> linear(const char* name, const char* bias, const std::vector<double>& x) {
        const auto&         W = w(name);
        std::vector<double> y(W.size() / x.size(), 0.0);
        for (size_t o = 0; o < y.size(); ++o) {
            for (size_t i = 0; i < x.size(); ++i) y[o] += W[o * x.size() + i] * x[i];
            if (bias != nullptr && has(bias)) y[o] += w(bias)[o];
        }
        return y;
    }
    static double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }
    static double silu(double x) { return x * sigmoid(x); }
    static double softplus(double x) { return x > 20 ? x : std::log1p(std::exp(x)); }
    double        eps() const { return wrong == Wrong::eps ? 1e-3 : 1e-5; }
    double        rms(const double* x, int64_t n) const {
               double sum = 0;
               for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
        return 1.0 / std::sqrt(sum / double(n) + eps());
    }
    double step_size(double raw, double dt) const {
        return dt == 1.0 ? softplus(raw) : std::min(softplus(raw) * dt, 22.0);
    }

    std::vector<double> step(const std::vector<double>& u, double dt = 1.0) {
        return version == 3 ? step3(u, dt) : version == 2 ? step2(u, dt) : step1(u, dt);
    }
    // conv1d and SiLU with the channels' last K inputs.
    std::vector<double> convolve(const std::vector<double>& x) {
        std::vector<double> y(x.size());
        for (size_t j = 0; j < x.size(); ++j) {
            for (int64_t t = 0; t + 1 < K; ++t) conv[j * size_t(K) + size_t(t)] = conv[j * size_t(K) + size_t(t) + 1];
            conv[j * size_t(K) + size_t(K) - 1] = x[j];
            double sum = has("conv1d.bias") ? w("conv1d.bias")[j] : 0.0;
            for (int64_t t = 0; t < K; ++t)
                sum += conv[j * size_t(K) + size_t(t)] * w("conv1d.weight")[j * size_t(K) + size_t(t)];
            y[j] = silu(sum);
        }
        return y;
    }
    std::vector<double> step1(const std::vector<double>& u, double dt_scale) {
        const auto          p = linear("in_proj.weight", "in_proj.bias", u);
        std::vector<double> x = convolve({p.begin(), p.begin() + di}), z(p.begin() + di, p.end()), y(x.size());
        const auto          q = linear("x_proj.weight", nullptr, x);
        const auto          dt = linear("dt_proj.weight", "dt_proj.bias", {q.begin(), q.begin() + r});
        for (size_t c = 0; c < size_t(di); ++c) {
            const double step = step_size(dt[c], dt_scale);
            double       sum = 0;
            for (size_t n = 0; n < size_t(N); ++n) {
                double& s = h[c * size_t(N) + n];
                s = std::exp(-step * std::exp(w("A_log")[c * size_t(N) + n])) * s + step * x[c] * q[size_t(r) + n];
                sum += s * q[size_t(r + N) + n];
            }
            y[c] = (sum + w("D")[c] * x[c]) * silu(z[c]);
        }
        return linear("out_proj.weight", "out_proj.bias", y);
    }
    std::vector<double> step2(const std::vector<double>& u, double dt_scale) {
        const int64_t       m = di - ds, C = ds + 2 * G * N;
        const auto          p = linear("in_proj.weight", "in_proj.bias", u);
        const double *      z0 = p.data(), *x0 = z0 + m, *z = x0 + m, *dd = z + ds + C;
        const auto          c = convolve({z + ds, z + ds + C});
        std::vector<double> y(static_cast<size_t>(ds)), out;
        for (int64_t hd = 0; hd < H; ++hd) {
            const double  step = step_size(dd[hd] + w("dt_bias")[size_t(hd)], dt_scale);
            const double  a = std::exp(-step * std::exp(w("A_log")[size_t(hd)]));
            const int64_t g = hd / (H / G);
            for (int64_t i = 0; i < P; ++i) {
                const size_t ch = size_t(hd * P + i);
                double       sum = 0;
                for (int64_t n = 0; n < N; ++n) {
                    double& s = h[ch * size_t(N) + size_t(n)];
                    s = a * s + step * c[ch] * c[size_t(ds + g * N + n)];
                    sum += s * c[size_t(ds + (G + g) * N + n)];
                }
                y[ch] = sum + w("D")[w("D").size() == size_t(ds) ? ch : size_t(hd)] * c[ch];
            }
        }
        const auto gate = [&] {
            for (size_t i = 0; i < y.size(); ++i) y[i] *= silu(z[i]);
        };
        const auto norm = [&] {
            for (int64_t g = 0; g < G; ++g) {
                const double s = rms(&y[size_t(g * (ds / G))], ds / G);
                for (size_t i = size_t(g * (ds / G)); i < size_t((g + 1) * (ds / G)); ++i)
                    y[i] *= s * w("norm.weight")[i];
            }
        };
        if (!rmsnorm) gate();
        else if (before_gate) norm(), gate();
        else gate(), norm();
        for (int64_t i = 0; i < m; ++i) out.push_back(silu(z0[i]) * x0[i]);
        out.insert(out.end(), y.begin(), y.end());
        return linear("out_proj.weight", "out_proj.bias", out);
    }
    std::vector<double> step3(const std::vector<double>& u, double dt_scale) {
        const auto    p = linear("in_proj.weight", nullptr, u);
        const double *z = p.data(), *x = z + di, *B = x + di, *C = B + R * G * N, *dd_dt = C + R * G * N;
        const double *dd_A = dd_dt + H, *trap = dd_A + H, *turn = trap + H;
        if (wrong == Wrong::split_order) turn = dd_A + H, trap = turn + S;
        // B and C of every head: norm, bias, rotation.
        std::vector<double> kk(size_t(R * H * N)), qq = kk;
        std::vector<double> dts(static_cast<size_t>(H));
        for (int64_t hd = 0; hd < H; ++hd) {
            dts[size_t(hd)] = step_size(dd_dt[hd] + w("dt_bias")[size_t(hd)], dt_scale);
            for (int64_t s = 0; s < S; ++s) {
                double& a = angle[size_t(hd * S + s)];
                a += std::tanh(turn[s]) * 3.14159265358979323846 * dts[size_t(hd)];
                a -= 6.28318530717958647692 * std::floor(a / 6.28318530717958647692);
            }
        }
        for (int which = 0; which < 2; ++which)
            for (int64_t rr = 0; rr < R; ++rr)
                for (int64_t hd = 0; hd < H; ++hd) {
                    const int64_t g = wrong == Wrong::group_map ? hd % G : hd / (H / G);
                    const double* from = (which == 0 ? B : C) + (rr * G + g) * N;
                    const auto &  weight = w(which == 0 ? "B_norm.weight" : "C_norm.weight"),
                               &bias = w(which == 0 ? "B_bias" : "C_bias");
                    std::vector<double> row(from, from + N), biased;
                    const double*       b = &bias[size_t((hd * R + rr) * N)];
                    if (wrong == Wrong::bias_before_norm)
                        for (int64_t n = 0; n < N; ++n) row[size_t(n)] += b[n];
                    const double s = rms(row.data(), N);
                    for (int64_t n = 0; n < N; ++n)
                        row[size_t(n)] =
                            row[size_t(n)] * s * weight[size_t(n)] + (wrong == Wrong::bias_before_norm ? 0.0 : b[n]);
                    const bool half_split = mimo != (wrong == Wrong::pairing);
                    for (int64_t i = 0; i < S; ++i) {
                        const size_t one = size_t(half_split ? i : 2 * i),
                                     two = size_t(half_split ? i + N / 2 : 2 * i + 1);
                        const double co = std::cos(angle[size_t(hd * S + i)]), si = std::sin(angle[size_t(hd * S + i)]);
                        const double a0 = row[one], b0 = row[two];
                        row[one] = a0 * co - b0 * si, row[two] = a0 * si + b0 * co;
                    }
                    std::copy(row.begin(), row.end(), (which == 0 ? kk : qq).begin() + (rr * H + hd) * N);
                }
        std::vector<double> yy(size_t(di), 0.0);
        for (int64_t hd = 0; hd < H; ++hd) {
            const double a = dd_A[hd], dt = dts[size_t(hd)];
            const double f = softplus_A ? softplus(a) : a >= 0 ? 1 + a : 1 / (1 - a);
            const double A = std::min(-f, -A_floor), lambda = sigmoid(trap[hd]), alpha = std::exp(A * dt);
            const double beta = (wrong == Wrong::no_alpha_in_beta ? 1.0 : alpha) * dt * (1 - lambda),
                         gamma = dt * lambda;
            const auto rank = [&](const char* name, int64_t rr, int64_t i) {
                return mimo ? w(name)[size_t((hd * R + rr) * P + i)] : 1.0;
            };
            std::vector<double> o(size_t(R * P));
            for (int64_t i = 0; i < P; ++i) {
                for (int64_t n = 0; n < N; ++n) {
                    double&      s = h[size_t((hd * P + i) * N + n)];
                    const double old = s;
                    s *= alpha;
                    for (int64_t rr = 0; rr < R; ++rr)
                        s += beta * v[size_t(hd * P + i)] * rank("mimo_x", rr, i) * k[size_t((rr * H + hd) * N + n)] +
                             gamma * x[hd * P + i] * rank("mimo_x", rr, i) * kk[size_t((rr * H + hd) * N + n)];
                    for (int64_t rr = 0; rr < R; ++rr)
                        o[size_t(rr * P + i)] +=
                            (wrong == Wrong::old_state_read ? old : s) * qq[size_t((rr * H + hd) * N + n)];
                }
                for (int64_t rr = 0; rr < R; ++rr)
                    o[size_t(rr * P + i)] += w("D")[size_t(hd)] * x[hd * P + i] *
                                             (wrong == Wrong::skip_without_mimo ? 1.0 : rank("mimo_x", rr, i));
            }
            for (int64_t rr = 0; rr < R; ++rr) {
                double*    row = &o[size_t(rr * P)];
                const auto norm = [&] {
                    const double s = rms(row, P);
                    for (int64_t i = 0; i < P; ++i) row[i] *= s * w("norm.weight")[size_t(hd * P + i)];
                };
                if (outnorm && wrong != Wrong::norm_after_gate) norm();
                for (int64_t i = 0; i < P; ++i) row[i] *= silu(z[hd * P + i] * rank("mimo_z", rr, i));
                if (outnorm && wrong == Wrong::norm_after_gate) norm();
                for (int64_t i = 0; i < P; ++i) yy[size_t(hd * P + i)] += row[i] * rank("mimo_o", rr, i);
            }
        }
        k = kk;
        v.assign(x, x + di);
        return linear("out_proj.weight", nullptr, yy);
    }
};

// A whole model of mixers: residual stack, norms, MLPs, final norm, pooling none, head.
struct Stack {
    const Golden&      file;
    ssm::Config        c;
    std::string        prefix;
    std::vector<Mixer> mixers;

    Stack(const Golden& f, const ssm::Config& config) : file(f), c(config) {
        if (file.has("backbone.layers.0.mixer.out_proj.weight")) prefix = "backbone.";
        for (int i = 0; i < c.n_layers; ++i)
            mixers.emplace_back(f, prefix + "layers." + std::to_string(i) + ".mixer.", c);
    }
    std::vector<double> norm(const std::vector<double>& x, const std::string& name) const {
        const auto          w = file.numbers(name + ".weight");
        std::vector<double> y = x, b(x.size(), 0.0);
        double              mean = 0, sum = 0;
        if (c.norm == ssm::Norm::layer) {
            b = file.numbers(name + ".bias");
            for (double v : x) mean += v / double(x.size());
        }
        for (double v : x) sum += (v - mean) * (v - mean);
        for (size_t i = 0; i < x.size(); ++i)
            y[i] = (x[i] - mean) / std::sqrt(sum / double(x.size()) + 1e-5) * w[i] + b[i];
        return y;
    }
    std::vector<double> linear(const std::string& name, const std::vector<double>& x) const {
        const auto          W = file.numbers(name);
        std::vector<double> y(W.size() / x.size(), 0.0);
        for (size_t o = 0; o < y.size(); ++o)
            for (size_t i = 0; i < x.size(); ++i) y[o] += W[o * x.size() + i] * x[i];
        return y;
    }
    std::vector<double> step(const std::vector<double>& x, double dt = 1.0) {
        std::vector<double> r = x;
        if (c.bare_mixer) return mixers[0].step(x, dt);
        if (c.input == ssm::Input::features) {
            r = linear(prefix + "input_proj.weight", x);
            const auto b = file.numbers(prefix + "input_proj.bias");
            for (size_t i = 0; i < r.size(); ++i) r[i] += b[i];
        }
        for (int l = 0; l < c.n_layers; ++l) {
            const std::string layer = prefix + "layers." + std::to_string(l) + ".";
            const auto        o = mixers[size_t(l)].step(norm(r, layer + "norm"), dt);
            for (size_t i = 0; i < r.size(); ++i) r[i] += o[i];
            if (c.mlp_hidden == 0) continue;
            const auto          f = linear(layer + "mlp.fc1.weight", norm(r, layer + "norm2"));
            std::vector<double> g(f.size() / 2);
            for (size_t i = 0; i < g.size(); ++i) g[i] = f[i] * Mixer::silu(f[g.size() + i]);
            const auto y = linear(layer + "mlp.fc2.weight", g);
            for (size_t i = 0; i < r.size(); ++i) r[i] += y[i];
        }
        r = norm(r, prefix + "norm_f");
        if (c.has_head)
            r = linear(file.has("head.weight")      ? "head.weight"
                       : file.has("lm_head.weight") ? "lm_head.weight"
                                                    : "embedding.weight",
                       r);
        r.resize(size_t(c.d_output));
        return r;
    }
};

} // namespace test
