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
