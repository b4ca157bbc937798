// bench_train.cpp - `ssm bench --train`: the time of a training step of Mamba-3, forward and backward.
// SPDX-License-Identifier: MIT
#include "bench.hpp"
#include "mamba3_net.hpp"
#include "random_model.hpp"
#include "tool.hpp"
#include "train_run.hpp"

namespace bench {
using namespace tool;

// A step is what `ssm train` does between drawing its sequences and changing the weights: outputs of every position and
// the gradient of every parameter. The threads' run has 16 sequences, a group of two a task.
int train_step(const char* config, double seconds) {
    constexpr int      T = 32, n = 16, group = 2;
    random_model::Spec spec;
    std::string        why;
    if (!random_model::parse(config, &spec, &why))
        return fail(bad_usage, "bench", "--train: " + escape(why, 200, "\""));
    if (spec.arch != "mamba3") return fail(bad_usage, "bench", "--train: only mamba3 is trained here");
    if (spec.d_state < 4 || spec.d_state % 2 != 0)
        return fail(bad_usage, "bench", "--train: d_state must be even, at least 4");
    mamba3::Config c;
    c.d_model = int(spec.d_model), c.n_layers = int(spec.n_layer), c.d_state = int(spec.d_state);
    c.d_inner = int(spec.d_model * spec.expand), c.headdim = int(spec.headdim), c.ngroups = int(spec.ngroups);
    c.is_mimo = spec.mimo_rank > 0, c.mimo_rank = int(std::max<int64_t>(1, spec.mimo_rank));
    c.rope_angles = std::max(1, int(double(c.d_state) * spec.rope_fraction) / 2);
    c.is_outproj_norm = spec.outproj_norm, c.softplus_A = spec.a_activation == "softplus";
    c.mlp_hidden = int(spec.mlp_hidden), c.vocab = 256, c.d_output = 16;

    mamba3::Net<float> net(c);
    s4d::Random        random(uint64_t(spec.seed));
    net.init(random);
    struct Task {
        mamba3::Workspace<float> ws;
        std::vector<float>       out, d_out, grad;
    };
    std::vector<Task>    tasks(n / group);
    std::vector<int32_t> tokens;
    for (int i = 0; i < n * T; ++i) tokens.push_back(int32_t(random.below(256)));
    double     forward = 0; // seconds, of the last step
    const auto step = [&](Task& task, int first, int count) {
        mamba3::Batch<float> b;
        b.n_streams = count, b.T = T, b.tokens = tokens.data() + first * T;
        task.out.resize(size_t(count * T * c.d_output)), task.d_out.assign(task.out.size(), 0.01f);
        task.grad.resize(net.params.size());
        const double began = train::seconds();
        mamba3::forward(net, b, task.ws, task.out.data());
        if (count == 1) forward = train::seconds() - began;
        mamba3::backward(net, b, task.ws, task.d_out.data(), task.grad.data());
    };
    train::ThreadPool   one(1), two(2);
    std::vector<double> forwards, steps, singles, pairs;
    const auto          timed = [](std::vector<double>& times, const std::function<void()>& f) {
        const double began = train::seconds();
        f();
        times.push_back(train::seconds() - began);
    };
    const auto all = [&](int64_t k, int64_t) { step(tasks[size_t(k)], int(k) * group, group); };
    // In turns, so that other work on the machine meets all of them alike. The first round warms up.
    for (double began = train::seconds(); steps.size() < 4 || train::seconds() - began < seconds;) {
        timed(steps, [&] { step(tasks[0], 0, 1); });
        forwards.push_back(forward);
        if (steps.size() % 64 != 0) continue;
        timed(singles, [&] { one.run(n / group, all); });
        timed(pairs, [&] { two.run(n / group, all); });
    }
    const auto fastest = [](const std::vector<double>& v) { return *std::min_element(v.begin(), v.end()) * 1e3; };
    const auto median = [](std::vector<double> v) {
        std::sort(v.begin(), v.end());
        return v[v.size() / 2] * 1e3;
    };
    std::printf("training step of %s: %lld parameters, T %d\n", escape(config, 160).c_str(),
                static_cast<long long>(net.params.size()), T);
    std::printf("  forward, batch 1                   %8.3f ms  median %8.3f\n", fastest(forwards), median(forwards));
    std::printf("  forward and backward, batch 1      %8.3f ms  median %8.3f\n", fastest(steps), median(steps));
    if (singles.empty()) return std::fflush(stdout) == 0 ? done : io_error;
    std::printf("  the same, batch %d, one thread     %8.3f ms  median %8.3f\n", n, fastest(singles), median(singles));
    std::printf("  the same, batch %d, two threads    %8.3f ms  median %8.3f\n", n, fastest(pairs), median(pairs));
    std::printf("  two threads over one               %8.2f times\n", fastest(singles) / fastest(pairs));
    return std::fflush(stdout) == 0 ? done : io_error;
}

} // namespace bench
