// train_mamba.cpp - the Mamba-3 network that is trained: against the second implementation in double, gradients against
// finite differences on every tensor. SPDX-License-Identifier: MIT
#include "../tools/mamba3_net.hpp"
#include "mamba_reference.hpp"

namespace {
using namespace test;

struct Case {
    const char*     name;
    mamba3::Config  config;
    int             T, streams;
    bool            timed;
    mamba3::Penalty penalty;
};

std::vector<Case> cases() {
    std::vector<Case> all;
    mamba3::Config    c;
    c.d_model = 6, c.d_inner = 12, c.headdim = 4, c.d_state = 4, c.rope_angles = 2, c.vocab = 5, c.d_output = 3;
    all.push_back({"SISO, tokens", c, 9, 2, false, {}});
    c.n_layers = 2, c.softplus_A = true, c.rope_angles = 1, c.head_bias = true;
    all.push_back({"SISO, two layers, softplus, part of the pairs, a chunk and a bit",
                   c,
                   mamba3::chunk + 5,
                   1,
                   false,
                   {0.02, 100}});
    c.n_layers = 1, c.ngroups = 3, c.is_outproj_norm = true, c.vocab = 0, c.d_input = 2, c.mlp_hidden = 5;
    all.push_back({"SISO, groups, norm before the gate, features, MLP, gaps", c, 7, 2, true, {0.5, 0}});
    c = mamba3::Config();
    c.d_model = 5, c.d_inner = 8, c.headdim = 4, c.d_state = 6, c.rope_angles = 3, c.vocab = 4, c.is_mimo = true,
    c.mimo_rank = 2;
    all.push_back({"MIMO 2", c, 8, 2, false, {0, 3}});
    c.mimo_rank = 3, c.ngroups = 2, c.rope_angles = 2, c.is_outproj_norm = true, c.A_floor = 1.2;
    all.push_back({"MIMO 3, groups, norm, a floor that is reached", c, mamba3::chunk * 2 + 1, 1, true, {0.1, 1}});
    c.mimo_rank = 1, c.A_floor = 1e-4, c.n_layers = 2;
    all.push_back({"MIMO 1", c, 5, 3, false, {}});
    c.mimo_rank = 5, c.is_outproj_norm = false;
    all.push_back({"MIMO 5", c, 4, 1, false, {}});
    c = mamba3::Config();
    c.d_model = 16, c.d_inner = 64, c.headdim = 32, c.d_state = 8, c.rope_angles = 4, c.vocab = 6, c.d_output = 5,
    c.softplus_A = true, c.n_layers = 2;
    all.push_back({"SISO, rows of whole vectors", c, 6, 2, false, {0.01, 0}});
    c.is_mimo = true, c.mimo_rank = 4, c.n_layers = 1;
    all.push_back({"MIMO 4, rows of whole vectors", c, 5, 1, false, {}});
    return all;
}

template <class Real> struct Run {
    mamba3::Net<Real>       net;
    mamba3::Workspace<Real> ws;
    std::vector<int32_t>    tokens;
    std::vector<Real>       x, dt, target, out;
    mamba3::Batch<Real>     batch;
    mamba3::Penalty         penalty;

    explicit Run(const Case& c) : net(c.config), penalty(c.penalty) {
        s4d::Random random(7);
        net.init(random);
        for (Real& p : net.params) p += Real(0.3 * random.uniform(-1, 1)); // no parameter at a special value
        const size_t rows = size_t(c.T) * size_t(c.streams);
        for (size_t i = 0; i < rows; ++i) {
            tokens.push_back(int32_t(random.below(uint64_t(std::max(1, c.config.vocab)))));
            for (int k = 0; k < c.config.d_input; ++k) x.push_back(Real(random.uniform(-1, 1)));
            dt.push_back(i % 3 == 1 ? Real(2.5) : i % 5 == 2 ? Real(0.5) : Real(1));
            for (int k = 0; k < c.config.d_output; ++k) target.push_back(Real(random.uniform(-1, 1)));
        }
        out.resize(target.size());
        batch.n_streams = c.streams, batch.T = c.T, batch.tokens = tokens.data(), batch.x = x.data();
        batch.dt = c.timed ? dt.data() : nullptr;
    }
    double loss() { // half the squared distance to the target, and the penalty
        double sum = mamba3::forward(net, batch, ws, out.data(), penalty);
        for (size_t i = 0; i < out.size(); ++i) sum += 0.5 * double(out[i] - target[i]) * double(out[i] - target[i]);
        return sum;
    }
    std::vector<Real> gradient() {
        loss();
        std::vector<Real> d = out, grad(net.params.size());
        for (size_t i = 0; i < d.size(); ++i) d[i] -= target[i];
        mamba3::backward(net, batch, ws, d.data(), grad.data(), penalty);
        return grad;
    }
};

// The network's parameters as a model file.
Builder model_of(const mamba3::Net<double>& net) {
    Builder               b;
    const mamba3::Config& c = net.config;
    for (const auto& t : net.tensors)
        b.add(t.name, std::vector<int64_t>(t.shape.begin(), t.shape.end()),
              std::vector<float>(net.params.begin() + t.offset, net.params.begin() + t.offset + t.count));
    b.metadata = {{"arch", "mamba3"},
                  {"rope_angles", std::to_string(c.rope_angles)},
                  {"a_activation", c.softplus_A ? "softplus" : "heavy_tail"},
                  {"a_floor", std::to_string(c.A_floor)}};
    return b;
}
} // namespace

TEST_CASE("training mamba3: the forward pass is the model that the runtime's reference runs") {
    for (const Case& c : cases()) {
        CAPTURE(c.name);
        Run<double> run(c);
        for (double& p : run.net.params) p = double(float(p)); // as the file will hold them
        run.loss();
        const Golden g(model_of(run.net).file());
        Loaded       m(g.bytes);
        const size_t n = size_t(c.config.d_output);
        for (int s = 0; s < c.streams; ++s) {
            Stack stack(g, m.config);
            for (int t = 0; t < c.T; ++t) {
                const size_t        i = size_t(s * c.T + t);
                std::vector<double> x(run.x.begin() + long(i) * c.config.d_input,
                                      run.x.begin() + long(i + 1) * c.config.d_input);
                if (c.config.vocab > 0) {
                    std::vector<float> row(size_t(c.config.d_model));
                    REQUIRE(ssm::embed(m.model, run.tokens[i], row.data()) == ssm::Status::ok);
                    x.assign(row.begin(), row.end());
                }
                auto y = stack.step(x, c.timed ? run.dt[i] : 1.0);
                for (size_t k = 0; k < n; ++k) {
                    if (c.config.head_bias) y[k] += double(g.numbers("head.bias")[k]);
                    REQUIRE(run.out[i * n + k] == doctest::Approx(y[k]).epsilon(1e-6)); // A_floor is a float there
                }
            }
        }
    }
}

TEST_CASE("training mamba3: gradients are those of finite differences, on every tensor (slow)") {
    for (const Case& c : cases()) {
        CAPTURE(c.name);
        Run<double>  run(c);
        const auto   grad = run.gradient();
        const double step = 1e-5;
        for (const auto& t : run.net.tensors) {
            double top = 0, worst = 0;
            for (int64_t k = 0; k < t.count; ++k) top = std::max(top, std::fabs(grad[size_t(t.offset + k)]));
            const int64_t stride = std::max<int64_t>(1, t.count / 23);
            for (int64_t k = 0; k < t.count; k += stride) {
                double&      p = run.net.params[size_t(t.offset + k)];
                const double before = p;
                const auto   at = [&](double by) { return p = before + by, run.loss(); };
                // Five points: the error is of fourth order in the step.
                const double slope = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step);
                p = before;
                worst = std::max(worst, std::fabs(slope - grad[size_t(t.offset + k)]));
            }
            CHECK_MESSAGE(worst <= 1e-6 * top + 1e-9, t.name, ": ", worst, " of ", top);
            const bool unused_A = c.config.A_floor > 1;
            if (!unused_A) CHECK_MESSAGE(top > 0, t.name);
        }
    }
}

// ---- The same model by another road: the closed form of a layer, a double sum over pairs of tokens instead of a
// recurrence, on dual numbers, which carry a derivative along one direction exactly.

namespace {
struct Dual {
    double v = 0, d = 0;
    Dual(double value = 0, double slope = 0) : v(value), d(slope) {}
};
Dual operator+(Dual a, Dual b) { return {a.v + b.v, a.d + b.d}; }
Dual operator-(Dual a, Dual b) { return {a.v - b.v, a.d - b.d}; }
Dual operator*(Dual a, Dual b) { return {a.v * b.v, a.d * b.v + a.v * b.d}; }
Dual operator/(Dual a, Dual b) { return {a.v / b.v, (a.d * b.v - a.v * b.d) / (b.v * b.v)}; }
Dual exp(Dual a) { return {std::exp(a.v), std::exp(a.v) * a.d}; }
Dual log(Dual a) { return {std::log(a.v), a.d / a.v}; }
Dual sqrt(Dual a) { return {std::sqrt(a.v), a.d / (2 * std::sqrt(a.v))}; }
Dual sin(Dual a) { return {std::sin(a.v), std::cos(a.v) * a.d}; }
Dual cos(Dual a) { return {std::cos(a.v), -std::sin(a.v) * a.d}; }
Dual tanh(Dual a) { return {std::tanh(a.v), (1 - std::tanh(a.v) * std::tanh(a.v)) * a.d}; }
Dual sigmoid(Dual a) { return Dual(1) / (Dual(1) + exp(Dual(0) - a)); }
Dual softplus(Dual a) { return log(Dual(1) + exp(a)); }
Dual silu(Dual a) { return a * sigmoid(a); }

typedef std::vector<Dual> Row;

// The loss of a Run, tensors by name.
struct ClosedForm {
    const Run<double>&         run;
    const mamba3::Config&      c;
    std::map<std::string, Row> w;

    ClosedForm(const Run<double>& r, const std::vector<double>& direction) : run(r), c(r.net.config) {
        for (const auto& t : r.net.tensors)
            for (int64_t k = t.offset; k < t.offset + t.count; ++k)
                w[t.name].push_back(Dual(r.net.params[size_t(k)], direction[size_t(k)]));
    }
    Row linear(const std::string& name, const Row& x) const {
        const Row& W = w.at(name);
        Row        y(W.size() / x.size());
        for (size_t o = 0; o < y.size(); ++o)
            for (size_t i = 0; i < x.size(); ++i) y[o] = y[o] + W[o * x.size() + i] * x[i];
        return y;
    }
    Row norm(const Row& x, const Row& weight) const {
        Dual square;
        for (const Dual& v : x) square = square + v * v;
        const Dual scale = sqrt(square / Dual(double(x.size())) + Dual(1e-5));
        Row        y;
        for (size_t i = 0; i < x.size(); ++i) y.push_back(x[i] / scale * weight[i]);
        return y;
    }
    // One layer's mixer over a whole stream, u [T][d] to [T][d]; adds its penalties.
    std::vector<Row> mixer(const std::string& p, const std::vector<Row>& u, size_t first, Dual* penalty) const {
        const size_t T = u.size(), H = size_t(c.heads()), P = size_t(c.headdim), N = size_t(c.d_state),
                     R = size_t(c.mimo_rank), G = size_t(c.ngroups), S = size_t(c.rope_angles), di = H * P;
        const double     count = double(T) * run.batch.n_streams * double(H) * c.n_layers;
        std::vector<Row> proj, y(T, Row(di));
        for (const Row& row : u) proj.push_back(linear(p + "in_proj.weight", row));
        const size_t at_dt = 2 * di + 2 * R * G * N;
        for (size_t h = 0; h < H; ++h) {
            Row              decay(T), dt(T), lambda(T), phi(S); // decay: sum of A dt so far
            std::vector<Row> k(T), q(T), v(T);                   // [R][N], [R][N], [R][P]
            for (size_t t = 0; t < T; ++t) {
                const Row& row = proj[t];
                dt[t] = softplus(row[at_dt + h] + w.at(p + "dt_bias")[h]);
                if (run.batch.dt != nullptr) dt[t] = dt[t] * Dual(run.batch.dt[first + t]);
                const Dual a = row[at_dt + H + h];
                Dual       A = c.softplus_A ? softplus(a) : a.v < 0 ? Dual(1) / (Dual(1) - a) : Dual(1) + a;
                if (A.v < c.A_floor) A = Dual(c.A_floor);
                *penalty = *penalty + Dual(run.penalty.areg / count) * log(A);
                decay[t] = (t > 0 ? decay[t - 1] : Dual()) - A * dt[t];
                lambda[t] = sigmoid(row[at_dt + 2 * H + h]);
                for (size_t s = 0; s < S; ++s) {
                    const Dual turns = tanh(row[at_dt + 3 * H + s]) * dt[t], over = turns - Dual(std::round(turns.v));
                    *penalty = *penalty + Dual(run.penalty.treg / (count * double(S))) * over * over;
                    phi[s] = phi[s] + turns * Dual(3.14159265358979323846);
                }
                for (size_t r = 0; r < R; ++r) {
                    for (bool is_k : {true, false}) {
                        const size_t from = 2 * di + ((is_k ? 0 : R * G) + r * G + h / (H / G)) * N;
                        Row          b = norm(Row(row.begin() + long(from), row.begin() + long(from + N)),
                                              w.at(p + (is_k ? "B_norm.weight" : "C_norm.weight")));
                        for (size_t n = 0; n < N; ++n)
                            b[n] = b[n] + w.at(p + (is_k ? "B_bias" : "C_bias"))[(h * R + r) * N + n];
                        for (size_t s = 0; s < S; ++s) {
                            const size_t one = c.is_mimo ? s : 2 * s, two = c.is_mimo ? s + N / 2 : 2 * s + 1;
                            const Dual   x = b[one], z = b[two];
                            b[one] = x * cos(phi[s]) - z * sin(phi[s]), b[two] = x * sin(phi[s]) + z * cos(phi[s]);
                        }
                        Row& to = is_k ? k[t] : q[t];
                        to.insert(to.end(), b.begin(), b.end());
                    }
                    for (size_t j = 0; j < P; ++j)
                        v[t].push_back(row[di + h * P + j] *
                                       (c.is_mimo ? w.at(p + "mimo_x")[(h * R + r) * P + j] : Dual(1)));
                }
            }
            // o_t = sum over s <= t of exp(decay_t - decay_s) (lambda_s dt_s + (1 - lambda_s+1) dt_s+1) (q_t . k_s) v_s
            for (size_t t = 0; t < T; ++t)
                for (size_t a = 0; a < R; ++a) {
                    Row o(P);
                    for (size_t s = 0; s <= t; ++s) {
                        Dual weight = lambda[s] * dt[s];
                        if (s < t) weight = weight + (Dual(1) - lambda[s + 1]) * dt[s + 1];
                        weight = weight * exp(decay[t] - decay[s]);
                        for (size_t b = 0; b < R; ++b) {
                            Dual like;
                            for (size_t n = 0; n < N; ++n) like = like + q[t][a * N + n] * k[s][b * N + n];
                            for (size_t j = 0; j < P; ++j) o[j] = o[j] + weight * like * v[s][b * P + j];
                        }
                    }
                    for (size_t j = 0; j < P; ++j) o[j] = o[j] + w.at(p + "D")[h] * v[t][a * P + j];
                    if (c.is_outproj_norm) {
                        const Row& weight = w.at(p + "norm.weight");
                        o = norm(o, Row(weight.begin() + long(h * P), weight.begin() + long((h + 1) * P)));
                    }
                    for (size_t j = 0; j < P; ++j) {
                        const size_t at = (h * R + a) * P + j;
                        const Dual   z = proj[t][h * P + j] * (c.is_mimo ? w.at(p + "mimo_z")[at] : Dual(1));
                        y[t][h * P + j] =
                            y[t][h * P + j] + o[j] * silu(z) * (c.is_mimo ? w.at(p + "mimo_o")[at] : Dual(1));
                    }
                }
        }
        std::vector<Row> out;
        for (const Row& row : y) out.push_back(linear(p + "out_proj.weight", row));
        return out;
    }
    Dual loss() const {
        const size_t T = size_t(run.batch.T), d = size_t(c.d_model);
        Dual         sum;
        const auto   add = [](Row& to, const Row& from) {
            for (size_t i = 0; i < to.size(); ++i) to[i] = to[i] + from[i];
        };
        for (size_t first = 0; first < run.tokens.size(); first += T) {
            std::vector<Row> r(T);
            for (size_t t = 0; t < T; ++t) {
                if (c.vocab > 0) {
                    const auto from = w.at("embedding.weight").begin() + long(size_t(run.tokens[first + t]) * d);
                    r[t].assign(from, from + long(d));
                    continue;
                }
                const size_t n = size_t(c.d_input);
                r[t] = linear("input_proj.weight",
                              Row(run.x.begin() + long((first + t) * n), run.x.begin() + long((first + t + 1) * n)));
                add(r[t], w.at("input_proj.bias"));
            }
            for (int l = 0; l < c.n_layers; ++l) {
                const std::string layer = "layers." + std::to_string(l) + ".";
                std::vector<Row>  u;
                for (const Row& row : r) u.push_back(norm(row, w.at(layer + "norm.weight")));
                u = mixer(layer + "mixer.", u, first, &sum);
                for (size_t t = 0; t < T; ++t) {
                    add(r[t], u[t]);
                    if (c.mlp_hidden == 0) continue;
                    const Row f = linear(layer + "mlp.fc1.weight", norm(r[t], w.at(layer + "norm2.weight")));
                    Row       g;
                    for (size_t k = 0; k < f.size() / 2; ++k) g.push_back(f[k] * silu(f[k + f.size() / 2]));
                    add(r[t], linear(layer + "mlp.fc2.weight", g));
                }
            }
            for (size_t t = 0; t < T; ++t) {
                Row out = linear("head.weight", norm(r[t], w.at("norm_f.weight")));
                if (c.head_bias) add(out, w.at("head.bias"));
                for (size_t k = 0; k < out.size(); ++k) {
                    const Dual off = out[k] - Dual(run.target[(first + t) * out.size() + k]);
                    sum = sum + Dual(0.5) * off * off;
                }
            }
        }
        return sum;
    }
};
} // namespace

TEST_CASE("training mamba3: gradients are those of the closed form on dual numbers, on every tensor (slow)") {
    for (const Case& c : cases()) {
        CAPTURE(c.name);
        Run<double> run(c);
        const auto  grad = run.gradient();
        const auto  loss = run.loss();
        s4d::Random random(31);
        for (const auto& t : run.net.tensors) {
            std::vector<double> direction(grad.size());
            double              slope = 0, size = 0;
            for (int64_t k = t.offset; k < t.offset + t.count; ++k) {
                direction[size_t(k)] = random.uniform(-1, 1);
                slope += direction[size_t(k)] * grad[size_t(k)];
                size += std::fabs(direction[size_t(k)] * grad[size_t(k)]);
            }
            const Dual other = ClosedForm(run, direction).loss();
            CHECK(other.v == doctest::Approx(loss).epsilon(1e-12));
            CHECK_MESSAGE(std::fabs(other.d - slope) <= 1e-10 * size + 1e-14, t.name, ": ", other.d, " and ", slope);
        }
    }
}

TEST_CASE("training mamba3: float follows double, the same bits every time") {
    for (const Case& c : cases()) {
        CAPTURE(c.name);
        Run<double> wide(c);
        Run<float>  narrow(c), again(c);
        for (size_t i = 0; i < narrow.net.params.size(); ++i)
            narrow.net.params[i] = again.net.params[i] = float(wide.net.params[i]);
        const auto g = wide.gradient();
        const auto f = narrow.gradient(), f2 = again.gradient();
        CHECK(std::memcmp(f.data(), f2.data(), f.size() * 4) == 0);
        double top = 0, worst = 0;
        for (size_t i = 0; i < g.size(); ++i)
            top = std::max(top, std::fabs(g[i])), worst = std::max(worst, std::fabs(g[i] - double(f[i])));
        CHECK(worst < 2e-3 * top);
    }
}

TEST_CASE("training mamba3: vector forms with a fused multiply-add agree in every bit, others closely") {
    for (const Case& c : cases())
        for (int headdim : {c.config.headdim, 16, 32, 48, 64, 128}) { // a case of its own in the kernels each
            Case wide = c;
            if (headdim != c.config.headdim) {
                if (c.T > 10) continue;
                wide.config.headdim = headdim, wide.config.d_inner = headdim * c.config.heads();
            }
            CAPTURE(c.name);
            CAPTURE(headdim);
            std::vector<std::vector<float>> all;
            for (s4d::Isa isa : {s4d::Isa::portable, s4d::Isa::avx2, s4d::Isa::avx512}) {
                Run<float> run(wide);
                run.ws.kernels = s4d::choose_kernels<float>(isa, 16);
                if (s4d::runs_here(isa)) all.push_back(run.gradient());
            }
            if (all.size() == 3) CHECK(std::memcmp(all[1].data(), all[2].data(), all[1].size() * 4) == 0);
            double top = 0, worst = 0;
            for (size_t i = 0; i < all[0].size(); ++i)
                top = std::max(top, double(std::fabs(all[0][i]))),
                worst = std::max(worst, double(std::fabs(all[0][i] - all.back()[i])));
            CHECK(worst < 2e-3 * top);
        }
}
