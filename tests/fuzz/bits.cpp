// bits.cpp - fuzz target: every back-end against scalar code, and one call for many steps against many calls for one.
//
// Made-up models of every cell, in float and in integers, loaded once. The bytes say which one, then what happens:
// inputs and time steps of every kind, in blocks. All must give the same status, the same outputs and the same state,
// bit for bit. The target `int` does so with shapes and numbers of every kind, for integer models.
// SPDX-License-Identifier: MIT
#include "models.hpp"

using fuzz::require;

namespace {
constexpr int32_t most = 4; // rows a call

struct Kind {
    std::vector<std::unique_ptr<fuzz::Rig>> on; // one a back-end, scalar first
    std::unique_ptr<fuzz::Rig>              single;
};
std::vector<Kind> make_kinds() {
    std::vector<Kind> all;
    size_t            n = 0;
    for (const std::string& file : fuzz::model_files()) {
        Kind                        k;
        const std::vector<ssm::Isa> isas = fuzz::back_ends();
        for (ssm::Isa isa : isas) k.on.push_back(std::make_unique<fuzz::Rig>(file, most, isa));
        k.single = std::make_unique<fuzz::Rig>(file, 1, isas[n++ % isas.size()]);
        all.push_back(std::move(k));
    }
    return all;
}
std::vector<Kind>& kinds() {
    static std::vector<Kind> all = make_kinds();
    return all;
}

struct Reader {
    const uint8_t* p;
    size_t         left;
    uint32_t       byte() { return left == 0 ? 0 : (--left, *p++); }
};
// A number of any size that an input may have, and a few that it may not.
float number(Reader& r) {
    static const float sizes[] = {1.0f, 1.0f,     1.0f,  100.0f, 1e9f, 1e-42f, 32768.0f, 32767.998f,
                                  0.0f, 0x1p-17f, 3e-5f, 1e-38f, 7.5f, 1e20f,  0.25f,    0.5f};
    const uint32_t     b = r.byte(), c = r.byte();
    const float        v = sizes[b % 16] * float(1 + c) / 256.0f;
    return (b & 128u) != 0 ? -v : v;
}
} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Reader             r{data, size};
    Kind&              k = kinds()[r.byte() % kinds().size()];
    fuzz::Rig &        first = *k.on[0], &single = *k.single;
    const size_t       in = size_t(first.config.d_input), out = size_t(first.config.d_output);
    std::vector<float> x(most * in), dt(most), y(most * out), want(most * out);
    for (auto& m : k.on) ssm::reset(m->model, &m->state);
    ssm::reset(single.model, &single.state);
    for (int event = 0; event < 6 && r.left > 0; ++event) {
        const uint32_t what = r.byte();
        const int32_t  n = 1 + int32_t(what / 2 % uint32_t(most));
        const bool     candidates = what % 2 == 0;
        for (int32_t i = 0; i < n; ++i) {
            dt[size_t(i)] = 1.0f;
            if (what >= 192) dt[size_t(i)] = number(r);
        }
        if (first.config.input == ssm::Input::tokens && what / 8 % 2 == 0) {
            for (int32_t i = 0; i < n; ++i)
                require(ssm::embed(first.model, int32_t(r.byte() % uint32_t(first.config.vocab_size)),
                                   &x[size_t(i) * in]) == ssm::Status::ok,
                        "embed");
        } else
            for (size_t i = 0; i < in * size_t(n); ++i)
                x[i] = what / 16 % 2 == 0 || i == 0 ? number(r) : x[i - 1] * -0.75f;
        ssm::Status status = ssm::Status::ok;
        std::string state;
        for (auto& m : k.on) {
            std::fill(y.begin(), y.end(), 0.0f);
            const ssm::Status s =
                candidates ? ssm::step_batch(m->model, m->state, &m->scratch, x.data(), n, y.data(), dt.data())
                           : ssm::prefill(m->model, &m->state, &m->scratch, x.data(), n, y.data(), dt.data());
            if (m == k.on[0]) status = s, want = y, state = m->bytes();
            require(s == status, "one status on every back-end");
            require(fuzz::same_floats(y, want), "one output on every back-end");
            require(m->holds(state), "one state on every back-end");
        }
        if (status != ssm::Status::ok) continue;
        std::fill(y.begin(), y.end(), 0.0f);
        const std::string before = single.bytes();
        for (int32_t i = 0; i < n; ++i) {
            float* to = candidates ? &y[size_t(i) * out] : y.data();
            require(ssm::step(single.model, &single.state, &single.scratch, &x[size_t(i) * in], to, dt[size_t(i)]) ==
                        ssm::Status::ok,
                    "one step does what many do");
            if (candidates) std::memcpy(single.state.data, before.data(), before.size());
        }
        require(fuzz::same_floats(y, want), "one output for one step and for many");
        require(single.holds(state), "one state for one step and for many");
    }
    return 0;
}
