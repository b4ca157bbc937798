// bench_steps.cpp - whole calls: steps, candidates, streams, prefill, on one thread and on more, from warm caches and
// from memory. SPDX-License-Identifier: MIT
#include "bench.hpp"
#include "team.hpp"

#include <algorithm>
#include <cstring>

namespace bench {

std::vector<float> Noise::operator()(size_t n, float scale) {
    std::vector<float> v(n);
    for (float& x : v) {
        seed_ = seed_ * 6364136223846793005u + 1442695040888963407u;
        x = scale * (static_cast<float>(seed_ >> 40) / 8388608.0f - 1.0f);
    }
    return v;
}

// Streams advanced together: as many as 64 MiB hold, 1 to 64; and one state more.
int32_t states_of(const ssm::Config& c) {
    return int32_t(std::max<size_t>(1, std::min<size_t>(64, (size_t(64) << 20) / ssm::state_bytes(c)))) + 1;
}

namespace {
// Rows of a call dealt out to threads, each with a scratch of its own.
struct Dealt {
    const ssm::Model&         model;
    const ssm::State&         from;
    std::vector<ssm::State>   streams;
    std::vector<ssm::Scratch> scratch;
    const float*              x = nullptr;
    float*                    y = nullptr;
    int32_t                   n = 0;
    bool                      candidates = false;
    std::atomic<bool>         ran{true};

    void part(int32_t i) { // of scratch.size()
        const int32_t parts = int32_t(scratch.size()), first = n * i / parts, count = n * (i + 1) / parts - first;
        const float*  xi = x + ptrdiff_t(first) * model.config.d_input;
        float* const  yi = y + ptrdiff_t(first) * model.config.d_output;
        ssm::Scratch* w = &scratch[size_t(i)];
        const auto    s = candidates ? ssm::step_batch(model, from, w, xi, count, yi)
                                     : ssm::step_streams(model, &streams[size_t(first)], count, w, xi, yi);
        if (s != ssm::Status::ok) ran = false;
    }
    static void part_of(void* self, int32_t i) { static_cast<Dealt*>(self)->part(i); }
};
} // namespace

bool measure_steps(tool::OpenModel* m, const Machine& machine, const Settings& settings, std::vector<Row>* rows) {
    constexpr int32_t  n = batch_rows, most = 512;
    const ssm::Model&  model = m->model;
    const ssm::Config& c = m->config;
    const size_t       d_in = size_t(c.d_input), d_out = size_t(c.d_output);
    const int32_t      n_streams = states_of(c) - 1;
    int32_t            largest = std::max(most, n_streams);
    for (int32_t batch : settings.batch) largest = std::max(largest, batch);

    ssm::State   state;
    ssm::Scratch scratch;
    bool         ran = ssm::make_state(&state, model, &m->arena) == ssm::Status::ok;
    Dealt        dealt{model, state, std::vector<ssm::State>(size_t(n_streams)), {}};
    for (ssm::State& s : dealt.streams) ran = ran && ssm::make_state(&s, model, &m->arena) == ssm::Status::ok;
    ran = ran && ssm::make_scratch(&scratch, model, n, &m->arena) == ssm::Status::ok;
    if (!ran) return false;
    std::vector<std::vector<unsigned char>> memory;
    for (int i = 0; i < settings.threads; ++i) {
        const size_t bytes = ssm::scratch_bytes(c, n);
        memory.emplace_back(bytes + 16);
        auto* p = memory.back().data();
        dealt.scratch.push_back(ssm::Scratch{p + (16 - reinterpret_cast<uintptr_t>(p) % 16) % 16, bytes, n});
    }

    Noise                    noise;
    const std::vector<float> x = noise(size_t(largest) * d_in);
    std::vector<float>       y(size_t(largest) * d_out);
    dealt.x = x.data(), dealt.y = y.data();
    const Work   one = work_of(model, 1);
    const double hot = one.bytes;
    const auto   add = [&](const std::string& name, int32_t count, const Time& t, int by) {
        const Work   w = work_of(model, count);
        const double least = machine.least(ssm::is_integer(c) ? 0.0 : w.macs, w.bytes, hot, by);
        rows->push_back({name, t, double(count), w.macs, w.bytes, least});
    };
    const auto step = [&] { ran &= ssm::step(model, &state, &scratch, x.data(), y.data()) == ssm::Status::ok; };
    const auto forget = [&] { flush(m->blob.data, m->blob.bytes), flush(m->memory.get(), m->arena.used); };
    const auto cold = [&](const std::string& name, int by) {
        const Time   t = measure_each(settings.seconds, forget, step);
        const Work   w = work_of(model, 1);
        const double least = machine.least(ssm::is_integer(c) ? 0.0 : w.macs, w.bytes, 1e18, by);
        rows->push_back({name, t, 1.0, w.macs, w.bytes, least});
    };

    add("step", 1, measure(settings.seconds, step), 1);
    if (!ssm::is_integer(c) || c.arch != ssm::Arch::s4d || c.has_gaps)
        add("step, dt 1.5", 1,
            measure(settings.seconds,
                    [&] { ran &= ssm::step(model, &state, &scratch, x.data(), y.data(), 1.5f) == ssm::Status::ok; }),
            1);
    cold("step, cold", 1);
    const auto batches = [&](int threads, tool::Team* team) {
        const std::string by = threads == 1 ? "" : ", " + std::to_string(threads) + " threads";
        const auto        deal = [&] {
            if (team == nullptr) return dealt.part(0);
            team->hook()->run(team->hook()->self, &Dealt::part_of, &dealt, int32_t(dealt.scratch.size()));
        };
        std::vector<ssm::Scratch> all = dealt.scratch;
        dealt.scratch.resize(size_t(threads));
        dealt.candidates = true;
        for (int32_t batch : settings.batch) {
            dealt.n = batch;
            add(std::to_string(batch) + " candidates" + by, batch, measure(settings.seconds, deal), threads);
        }
        dealt.candidates = false, dealt.n = n_streams;
        add(std::to_string(n_streams) + " streams" + by, n_streams, measure(settings.seconds, deal), threads);
        dealt.scratch = all;
        for (int32_t steps : {n, most})
            add("prefill " + std::to_string(steps) + " steps" + by, steps,
                measure(settings.seconds,
                        [&] {
                            ran &= ssm::prefill(model, &state, &scratch, x.data(), steps, y.data()) == ssm::Status::ok;
                        }),
                threads);
    };
    batches(1, nullptr);
    if (settings.threads > 1) {
        const std::string by = ", " + std::to_string(settings.threads) + " threads";
        tool::Team        team(settings.threads);
        scratch.team = team.hook();
        add("step" + by, 1, measure(settings.seconds, step), settings.threads);
        cold("step, cold" + by, settings.threads);
        batches(settings.threads, &team);
    }
    return ran && dealt.ran;
}

} // namespace bench
