// numbers.cpp - the numeric contract on every cell of both engines: bad records, huge weights, long streams, denormals,
// digests of fixed runs. What single kernels and functions promise is tested in kernels.cpp, int_kernels.cpp,
// maths.cpp. SPDX-License-Identifier: MIT
#include "int_models.hpp"

#include <algorithm>
#include <ctime>
#include <memory>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

using namespace test;
using ssm::Status;

namespace {

// One small model of every cell and engine, with a name to print.
struct Cell {
    std::string name;
    Bytes       file;
};
std::vector<Cell> cells(double clip = 0) {
    std::vector<Cell> all;
    for (const char* text : {"s4d,d_model=8,n_layer=2,d_state=8,d_input=3,d_output=2,pool=mean",
                             "s4d,d_model=8,n_layer=1,d_state=8,d_input=8,bands=5,d_output=2,pool=last",
                             "mamba1,d_model=8,n_layer=1,d_state=4,d_input=3,d_output=2",
                             "mamba2,d_model=8,n_layer=1,d_state=8,headdim=8,d_input=3,d_output=2",
                             "mamba3,d_model=8,n_layer=1,d_state=8,headdim=8,d_input=3,d_output=2",
                             "mamba3,d_model=8,n_layer=1,d_state=8,headdim=8,mimo_rank=2,d_input=3,d_output=2"}) {
        random_model::Spec s = spec(text);
        s.clip = clip;
        all.push_back({std::string("float ") + text, random_file(s)});
        for (bool int4 : {false, true})
            for (bool row_exponents : {false, true}) {
                if (row_exponents && !row_exponents_possible(s)) continue;
                quantize::Settings settings;
                settings.int4 = int4, settings.row_exponents = row_exponents;
                all.push_back(
                    {std::string("integer ") + text + (int4 ? " int4" : "") + (row_exponents ? " i16rowexp" : ""),
                     int_model(s, settings)});
            }
    }
    return all;
}
// Small float models that keep a clip, one of each way to update a state.
std::vector<random_model::Spec> clipped_specs() {
    std::vector<random_model::Spec> all;
    for (const char* text : {"s4d,d_model=4,n_layer=1,d_state=4,d_input=2,d_output=2,clip=50",
                             "mamba1,d_model=4,n_layer=1,d_state=2,d_input=2,d_output=2,clip=50",
                             "mamba2,d_model=4,n_layer=1,d_state=2,headdim=4,d_input=2,d_output=2,clip=50",
                             "mamba3,d_model=4,n_layer=1,d_state=4,headdim=4,d_input=2,d_output=2,clip=50",
                             "mamba3,d_model=4,n_layer=1,d_state=4,headdim=4,mimo_rank=2,d_input=2,d_output=2,clip=50"})
        all.push_back(spec(text));
    return all;
}
std::vector<float> state_of_layer(const Loaded& m) { return part_of(m.model, m.state, 0, ssm::Part::ssm_state); }
uint64_t           digest(const void* data, size_t bytes, uint64_t h = 0xcbf29ce484222325u) { // FNV-1a
    for (size_t i = 0; i < bytes; ++i) h = (h ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3u;
    return h;
}
} // namespace

TEST_CASE("N-03: a stream with bad records among the good ones is the stream without them, on every cell and engine") {
    const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
    for (const Cell& cell : cells())
        for (ssm::Isa isa : all_back_ends()) {
            Loaded             clean(cell.file, 8, isa), dirty(cell.file, 8, isa);
            const size_t       d = size_t(clean.config.d_input), n = size_t(clean.config.d_output), steps = 40;
            const auto         x = random_inputs(steps * d);
            std::vector<float> y(n), z(n), bad(8 * d);
            for (size_t t = 0; t < steps; ++t) {
                const float what = t % 4 == 0 ? nan : t % 4 == 1 ? inf : t % 4 == 2 ? -inf : -nan;
                std::copy_n(&x[t * d], d, bad.begin());
                bad[t % d] = what;
                const Bytes before = state_of(dirty);
                REQUIRE(ssm::step(dirty.model, &dirty.state, &dirty.scratch, bad.data(), z.data()) ==
                        Status::bad_input);
                for (size_t i = 0; i < 8 * d; ++i) bad[i] = x[(t * d + i) % x.size()];
                bad[(t * 7) % (8 * d)] = what;
                REQUIRE(ssm::prefill(dirty.model, &dirty.state, &dirty.scratch, bad.data(), 8, z.data()) ==
                        Status::bad_input);
                for (float dt : {0.0f, -1.0f, nan, inf})
                    REQUIRE(ssm::step(dirty.model, &dirty.state, &dirty.scratch, &x[t * d], z.data(), dt) ==
                            Status::bad_input);
                REQUIRE_MESSAGE(state_of(dirty) == before, cell.name);
                REQUIRE(ssm::step(clean.model, &clean.state, &clean.scratch, &x[t * d], y.data()) == Status::ok);
                REQUIRE(ssm::step(dirty.model, &dirty.state, &dirty.scratch, &x[t * d], z.data()) == Status::ok);
                REQUIRE_MESSAGE(same_bits(y, z), cell.name, " step ", t);
                REQUIRE_MESSAGE(state_of(clean) == state_of(dirty), cell.name, " step ", t);
            }
        }
}

TEST_CASE(
    "N-04: weights that make infinities and NaN leave the state within its clip, say so, alike on every back-end") {
    size_t clipped = 0;
    for (const random_model::Spec& s : clipped_specs())
        for (int kind = 0; kind < 3; ++kind) {
            // Matrices and what feeds the state are huge; parameters that the loader bounds stay.
            const Bytes file = reweighted(random_file(s), [kind](const std::string& name, float f) {
                const bool keep = name.find("A_") != name.npos || name.find("log_dt") != name.npos ||
                                  name.find("dt_") != name.npos || name.find("norm") != name.npos;
                if (keep) return f;
                return kind == 0 ? f * 1e30f : kind == 1 ? std::copysign(3e38f, f) : f * 1e12f;
            });
            std::vector<std::unique_ptr<Loaded>> all;
            for (ssm::Isa isa : all_back_ends()) all.push_back(std::make_unique<Loaded>(file, 16, isa));
            std::vector<float> x = random_inputs(64 * 2), y(64 * 2);
            for (size_t i = 0; i < x.size(); ++i) x[i] *= i % 3 == 0 ? 1e9f : 1.0f;
            for (auto& m : all)
                for (size_t t = 0; t < 64; ++t) {
                    REQUIRE(ssm::step(m->model, &m->state, &m->scratch, &x[2 * t], &y[2 * t]) == Status::ok);
                    for (float v : state_of_layer(*m)) REQUIRE_MESSAGE((v >= -50.0f && v <= 50.0f), s.arch, " ", v);
                }
            for (auto& m : all) {
                CHECK_MESSAGE(same_bits(state_of_layer(*m), state_of_layer(*all[0])), s.arch, " kind ", kind);
                CHECK(ssm::clipped(m->model, m->state) == ssm::clipped(all[0]->model, all[0]->state));
            }
            clipped += ssm::clipped(all[0]->model, all[0]->state);
        }
    CHECK(clipped >= 10); // most do
}

TEST_CASE("N-05: 20,000 steps of extreme input stay finite and within the clip, the same on every back-end (slow)") {
    for (const random_model::Spec& s : clipped_specs()) {
        const Bytes file = random_file(s);
        std::string first;
        for (ssm::Isa isa : all_back_ends()) {
            Loaded             m(file, 64, isa);
            std::vector<float> x(5000 * 2), y(2);
            std::string        all;
            for (int kind = 0; kind < 4; ++kind) {
                for (size_t t = 0; t < 5000; ++t)
                    for (size_t k = 0; k < 2; ++k)
                        x[t * 2 + k] = 1e9f * (kind == 0   ? 1.0f
                                               : kind == 1 ? -1.0f
                                               : kind == 2 ? (t % 2 ? 1.0f : -1.0f)
                                                           : float(t % 2 == k));
                REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), 5000, y.data()) == Status::ok);
                for (float v : state_of_layer(m)) REQUIRE((v >= -50.0f && v <= 50.0f));
                for (float v : y) REQUIRE(std::isfinite(v));
                all.append(reinterpret_cast<const char*>(y.data()), 8);
                const Bytes state = state_of(m);
                all.append(state.begin(), state.end());
            }
            if (first.empty()) first = all;
            CHECK_MESSAGE(first == all, s.arch);
        }
    }
}

TEST_CASE("N-05: a million steps of extreme input stay finite and within the clip, on every float cell (very slow)") {
    for (random_model::Spec s : clipped_specs()) {
        if (s.arch == "s4d") continue; // s4d.cpp has it
        s.d_model = 2, s.d_inner = 2, s.headdim = 2, s.d_state = 2, s.dt_rank = 1, s.rope_fraction = 1.0;
        Loaded             m(random_file(s), 256);
        const size_t       block = 50000;
        std::vector<float> x(block * 2), y(2);
        for (int kind = 0; kind < 4; ++kind) {
            for (size_t t = 0; t < block; ++t)
                for (size_t k = 0; k < 2; ++k)
                    x[t * 2 + k] = 1e9f * (kind == 0   ? 1.0f
                                           : kind == 1 ? -1.0f
                                           : kind == 2 ? (t % 2 ? 1.0f : -1.0f)
                                                       : float(t % 2 == k));
            for (int i = 0; i < 5; ++i) {
                REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), int32_t(block), y.data()) == Status::ok);
                for (float v : state_of_layer(m)) REQUIRE((v >= -50.0f && v <= 50.0f));
                for (float v : y) REQUIRE(std::isfinite(v));
            }
        }
        CHECK(ssm::steps_of(m.model, m.state) == 1000000);
    }
}

TEST_CASE("N-02: no Mamba mode grows, at the ends of what decay rates and step sizes a file may hold") {
    // An impulse, then nothing: the state may only shrink, whatever the steps are worth.
    for (const char* text : {"mamba1,d_model=4,n_layer=1,d_state=2,d_input=2,d_output=2",
                             "mamba2,d_model=4,n_layer=1,d_state=2,headdim=4,d_input=2,d_output=2",
                             "mamba3,d_model=4,n_layer=1,d_state=4,headdim=4,d_input=2,d_output=2"})
        for (float log_A : {-80.0f, -20.0f, 0.0f, 20.0f, 80.0f})
            for (float bias : {-80.0f, -10.0f, 0.0f, 10.0f, 80.0f}) {
                const Bytes        file = reweighted(random_file(spec(text)), [&](const std::string& name, float f) {
                    if (name.find("A_log") != name.npos) return log_A;
                    if (name.find("dt_bias") != name.npos || name.find("dt_proj.bias") != name.npos) return bias;
                    return name == "input_proj.bias" || name.find("conv1d.bias") != name.npos ? 0.0f : f;
                });
                Loaded             m(file);
                std::vector<float> x(2, 1.0f), y(2);
                REQUIRE(ssm::step(m.model, &m.state, &m.scratch, x.data(), y.data()) == Status::ok);
                std::fill(x.begin(), x.end(), 0.0f);
                for (int t = 0; t < 4; ++t) // until the filter has forgotten the impulse
                    REQUIRE(ssm::step(m.model, &m.state, &m.scratch, x.data(), y.data()) == Status::ok);
                std::vector<float> before = state_of_layer(m);
                for (float dt : {1.0f, 1.0f, 0.001f, 1048576.0f, 1.0f}) {
                    REQUIRE(ssm::step(m.model, &m.state, &m.scratch, x.data(), y.data(), dt) == Status::ok);
                    const std::vector<float> now = state_of_layer(m);
                    for (size_t i = 0; i < now.size(); ++i)
                        REQUIRE_MESSAGE(std::fabs(now[i]) <= std::fabs(before[i]), std::string(text), " A ", log_A,
                                        " dt ", bias);
                    before = now;
                }
            }
}

TEST_CASE("N-07 N-08: a fixed run of 10,000 steps has the digest stored here, on every back-end (slow)") {
    // Made by this test, on the scalar back-end; models and inputs come of integer arithmetic, the same everywhere.
    static const char* const names[] = {
        "s4d,d_model=8,n_layer=2,d_state=8,d_input=2,d_output=2,pool=mean",
        "mamba1,d_model=8,n_layer=1,d_state=4,d_input=2,d_output=2",
        "mamba2,d_model=8,n_layer=1,d_state=8,headdim=8,d_input=2,d_output=2",
        "mamba3,d_model=8,n_layer=1,d_state=8,headdim=8,d_input=2,d_output=2",
        "mamba3,d_model=8,n_layer=1,d_state=8,headdim=8,mimo_rank=2,d_input=2,d_output=2"};
    static const uint64_t want[] = {1753812755248633364u, 347310429321202960u, 5707447593791646122u,
                                    18135455809337473290u, 3677359232656578457u};
    for (size_t k = 0; k < std::size(names); ++k) {
        quantize::Settings settings;
        settings.int4 = k % 2 == 1;
        const Bytes file = int_model(spec(names[k]), settings);
        for (ssm::Isa isa : all_back_ends()) {
            Loaded               m(file, 64, isa);
            std::mt19937         engine(99);
            std::vector<int32_t> x(2), y(2);
            uint64_t             h = 0xcbf29ce484222325u;
            for (int t = 0; t < 10000; ++t) {
                for (int32_t& v : x) v = int32_t(uint32_t(engine())) >> (t % 16);
                for (int32_t& v : x) v = v == INT32_MIN ? 0 : v;
                REQUIRE(ssm::step_q16(m.model, &m.state, &m.scratch, x.data(), y.data()) == Status::ok);
                h = digest(y.data(), 8, h);
            }
            const Bytes state = state_of(m);
            h = digest(state.data(), state.size(), h);
            CHECK_MESSAGE(h == want[k], std::string(names[k]), ": ", h);
        }
    }
}

#if defined(__SSE__)
namespace {
struct Control { // the control word of SSE, put back in the end
    const unsigned before = _mm_getcsr();
    explicit Control(unsigned bits) { _mm_setcsr(before | bits); }
    ~Control() { _mm_setcsr(before); }
};
constexpr unsigned flush = 0x8040; // results and operands
} // namespace

TEST_CASE("N-09: the control word is left as it was, whatever stands in it") {
    for (const Cell& cell : cells())
        for (unsigned bits : {0u, flush, 0x6000u}) { // as it is; flush to zero; round towards zero
            Control            control(bits);
            const unsigned     before = _mm_getcsr() & ~0x3fu; // but for what has happened since
            Loaded             m(cell.file, 8);
            const auto         x = random_inputs(8 * size_t(m.config.d_input));
            std::vector<float> y(8 * size_t(m.config.d_output));
            REQUIRE(ssm::step(m.model, &m.state, &m.scratch, x.data(), y.data()) == Status::ok);
            REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), 8, y.data()) == Status::ok);
            REQUIRE(ssm::step_batch(m.model, m.state, &m.scratch, x.data(), 8, y.data()) == Status::ok);
            CHECK_MESSAGE((_mm_getcsr() & ~0x3fu) == before, cell.name);
        }
}

TEST_CASE("N-09: a host that flushes denormals to zero gets what others get, to what it flushes; integers to the bit (slow)") {
    for (const Cell& cell : cells()) {
        Loaded             plain(cell.file, 8), flushed(cell.file, 8);
        const size_t       d = size_t(plain.config.d_input), n = size_t(plain.config.d_output), steps = 3000;
        std::vector<float> x(d), y(n), z(n);
        for (size_t t = 0; t < steps; ++t) {
            for (size_t i = 0; i < d; ++i) x[i] = t < 3 ? float(i + 1) : t % 2 == 0 ? 1e-42f : 0.0f; // then a decay
            REQUIRE(ssm::step(plain.model, &plain.state, &plain.scratch, x.data(), y.data()) == Status::ok);
            {
                Control control(flush);
                REQUIRE(ssm::step(flushed.model, &flushed.state, &flushed.scratch, x.data(), z.data()) == Status::ok);
            }
            if (ssm::is_integer(plain.config)) REQUIRE_MESSAGE(same_bits(y, z), cell.name, " step ", t);
            for (size_t i = 0; i < n; ++i)
                REQUIRE_MESSAGE(std::fabs(y[i] - z[i]) <= 1e-30f + 1e-6f * std::fabs(y[i]), cell.name, " step ", t);
        }
    }
}
#endif

TEST_CASE(
    "N-09: what is faint in a float state is 0 after every 64th step, however steps are split, on every back-end") {
    for (const char* text : {"s4d,d_model=8,n_layer=2,d_state=8,d_input=2,d_output=2",
                             "mamba1,d_model=8,n_layer=2,d_state=4,d_input=2,d_output=2",
                             "mamba2,d_model=12,n_layer=2,d_state=6,headdim=6,d_input=2,d_output=2",
                             "mamba3,d_model=12,n_layer=2,d_state=8,headdim=6,d_input=2,d_output=2",
                             "mamba3,d_model=8,n_layer=2,d_state=8,headdim=8,mimo_rank=4,d_input=2,d_output=2"}) {
        const Bytes file = lasting(text);
        Bytes       first;
        for (ssm::Isa isa : all_back_ends())
            for (size_t at_once : {1u, 3u, 50u, 200u}) {
                INFO(std::string(text), " ", at_once, " at once");
                Loaded     m(file, 40, isa);
                const auto faint = [&](int32_t l) {
                    size_t n = 0;
                    for (float v : part_of(m.model, m.state, l, ssm::Part::ssm_state))
                        n += v != 0.0f && std::fabs(v) < std::ldexp(1.0f, -100);
                    return n;
                };
                for (int32_t l = 0; l < 2; ++l) {
                    std::vector<float> h = part_of(m.model, m.state, l, ssm::Part::ssm_state);
                    for (size_t i = 0; i < h.size(); ++i) // of size 2^-97 to 2^-104, and denormal
                        h[i] = i % 9 == 8 ? -1e-41f : std::ldexp(1.0f + float(i % 5) / 8.0f, -97 - int(i % 9));
                    REQUIRE(ssm::set_state(m.model, &m.state, l, ssm::Part::ssm_state, h.data(), int32_t(h.size())));
                }
                std::vector<float> x(2 * 200, 0.0f), y(2);
                for (size_t t = 0, n; t < 200; t += n) {
                    n = std::min(at_once, 200 - t);
                    REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), int32_t(n), y.data()) == Status::ok);
                    for (int32_t l = 0; l < 2; ++l)
                        if (t + n < 64) CHECK(faint(l) > 0);
                        else if (t + n == 64) CHECK(faint(l) == 0);
                }
                const std::vector<float> now = state_of_layer(m);
                CHECK(std::any_of(now.begin(), now.end(), [](float v) { return v != 0.0f; })); // 2^-97 stays
                if (first.empty()) first = state_of(m);
                CHECK(state_of(m) == first);
            }
    }
}

// Not part of a plain run, as it is a matter of time: make long.
TEST_CASE("N-09: a step whose state is denormal takes no more than one and a half times as long (very slow)" *
          doctest::skip()) {
    for (const char* text : {"s4d,d_model=64,n_layer=1,d_state=32,d_input=2,d_output=2",
                             "mamba1,d_model=32,n_layer=1,d_state=16,d_input=2,d_output=2",
                             "mamba2,d_model=32,n_layer=1,d_state=32,headdim=16,d_input=2,d_output=2",
                             "mamba3,d_model=32,n_layer=1,d_state=32,headdim=16,d_input=2,d_output=2"})
        for (ssm::Isa isa : all_back_ends()) {
            Loaded             m(lasting(text), 64, isa);
            const size_t       steps = 200;
            std::vector<float> x(2 * steps, 0.0f), y(2);
            std::vector<float> h(state_of_layer(m).size());
            const auto         run = [&](float size) {
                for (size_t i = 0; i < h.size(); ++i) h[i] = size * (1.0f + float(i % 7));
                ssm::reset(m.model, &m.state);
                REQUIRE(ssm::set_state(m.model, &m.state, 0, ssm::Part::ssm_state, h.data(), int32_t(h.size())));
                const std::clock_t from = std::clock();
                REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), int32_t(steps), y.data()) == Status::ok);
                return double(std::clock() - from);
            };
            double normal = 1e9, denormal = 1e9; // the fastest of each, in turns
            for (int round = 0; round < 25; ++round)
                normal = std::min(normal, run(1.0f)), denormal = std::min(denormal, run(1e-41f));
            const auto is_denormal = [](float v) { return v != 0 && std::fabs(v) < 1e-38f; };
            CHECK(std::any_of(h.begin(), h.end(), is_denormal));
            MESSAGE(std::string(text), " on ", std::string(ssm::isa_name(m.model)), ": ", denormal / normal, " times");
            CHECK(denormal <= 1.5 * normal);
        }
}
