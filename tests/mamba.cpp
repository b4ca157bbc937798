// mamba.cpp - the Mamba cells: against a second implementation in double, against common mistakes, one answer however
// rows are grouped, states in and out, files that must be refused. SPDX-License-Identifier: MIT
#include "mamba_reference.hpp"
#include "random_cells.hpp"

#include <cfloat>
#include <cmath>

namespace {
using namespace test;

const char* const golden_mixers[] = {
    "m3_siso_tiny_trace",    "m3_mimo_r2_tiny_trace", "m3_siso_d32_afloor",    "m3_siso_d32_bf16",
    "m3_siso_d32_softplusA", "m3_mimo_r2_d32_f16",    "m3_mimo_r4_d32_resume", "m1_d32"};
std::string mamba_golden(const std::string& name) {
    return std::string(SSM_TEST_DIR "/golden/mamba/") + name + ".safetensors";
}

std::string name_of(const random_model::Spec& s) {
    return s.arch + " d_model " + std::to_string(s.d_model) + " d_state " + std::to_string(s.d_state) + " headdim " +
           std::to_string(s.headdim) + " ngroups " + std::to_string(s.ngroups) + " mimo_rank " +
           std::to_string(s.mimo_rank) + " clip " + std::to_string(s.clip);
}

// The golden outputs against the reference with one mistake: the worst error in units of what is allowed.
double golden_error(const std::string& name, Wrong wrong) {
    const Golden g(mamba_golden(name));
    Loaded       m(g.bytes);
    Mixer        mixer(g, "layers.0.mixer.", m.config);
    mixer.wrong = wrong;
    if (g.has("golden.initial.layers.0.ssm_state")) {
        mixer.h = g.tensor("golden.initial.layers.0.ssm_state"), mixer.k = g.tensor("golden.initial.layers.0.k_state");
        mixer.v = g.tensor("golden.initial.layers.0.v_state"),
        mixer.angle = g.tensor("golden.initial.layers.0.angle_state");
    }
    const auto x = g.tensor("golden.input"), want = g.tensor("golden.output"), err = g.tensor("golden.f32_err_output");
    const size_t d = size_t(m.config.d_model);
    double       worst = 0;
    for (size_t t = 0; t < err.size(); ++t) {
        const auto y = mixer.step({x.begin() + long(t * d), x.begin() + long((t + 1) * d)});
        double     top = 0;
        for (size_t i = 0; i < d; ++i) top = std::max(top, std::fabs(want[t * d + i]));
        for (size_t i = 0; i < d; ++i)
            worst = std::max(worst, std::fabs(y[i] - want[t * d + i]) / (10 * err[t] + 1e-6 * top));
    }
    return worst;
}
} // namespace

TEST_CASE("mamba: the reference in the tests reproduces the golden outputs") {
    for (const char* name : golden_mixers) CHECK_MESSAGE(golden_error(name, Wrong::none) < 1.0, name);
}

TEST_CASE("mamba: common mistakes do not pass the golden files") {
    const struct {
        Wrong       wrong;
        const char *what, *file;
    } cases[] = {{Wrong::pairing, "half split in SISO", "m3_siso_tiny_trace"},
                 {Wrong::pairing, "adjacent pairs in MIMO", "m3_mimo_r2_tiny_trace"},
                 {Wrong::split_order, "angle rows before trap rows", "m3_siso_tiny_trace"},
                 {Wrong::bias_before_norm, "bias before the norm of B and C", "m3_siso_tiny_trace"},
                 {Wrong::no_alpha_in_beta, "beta without alpha", "m3_siso_tiny_trace"},
                 {Wrong::old_state_read, "read-out of the old state", "m3_siso_tiny_trace"},
                 {Wrong::eps, "another eps", "m3_siso_tiny_trace"},
                 {Wrong::skip_without_mimo, "skip without mimo_x", "m3_mimo_r2_tiny_trace"}};
    for (const auto& c : cases) {
        const double e = golden_error(c.file, c.wrong);
        CHECK_MESSAGE(e > 10.0, c.what, ": ", e);
    }
}

// The same for what the small golden files do not have: groups and the norm in front of the gate.
TEST_CASE("mamba: group map and norm order, each mistake is seen") {
    for (const Wrong wrong : {Wrong::none, Wrong::group_map, Wrong::norm_after_gate}) {
        random_model::Spec s = spec("mamba3,d_model=32,n_layer=1,d_state=16,headdim=8,ngroups=4");
        s.bare = true, s.outproj_norm = true;
        Loaded             m(random_file(s));
        const Golden       g(m.bytes);
        Mixer              mixer(g, "layers.0.mixer.", m.config);
        std::vector<float> x = random_inputs(20 * 32), y(32);
        double             worst = 0;
        mixer.wrong = wrong;
        for (size_t t = 0; t < 20; ++t) {
            const auto want = mixer.step({x.begin() + long(t * 32), x.begin() + long((t + 1) * 32)});
            REQUIRE(ssm::step(m.model, &m.state, &m.scratch, &x[t * 32], y.data()) == ssm::Status::ok);
            for (size_t i = 0; i < 32; ++i) worst = std::max(worst, std::fabs(want[i] - double(y[i])));
        }
        if (wrong == Wrong::none) CHECK(worst < 2e-5);
        else CHECK(worst > 1e-3);
    }
}

TEST_CASE("mamba: every shape agrees with the reference in double, with gaps in time too") {
    for (const auto& s : all_cells()) {
        if (s.clip > 0) continue; // the reference does not clip
        CAPTURE(name_of(s));
        for (const ssm::Isa isa : all_back_ends()) {
            Loaded             m(random_file(s), 4, isa);
            const Golden       g(m.bytes);
            const ssm::Config& c = m.config;
            if (c.pool == ssm::Pool::mean) continue;
            Stack              stack(g, c);
            const size_t       d = size_t(c.d_input), n = size_t(c.d_output);
            std::vector<float> x = random_inputs(40 * d), y(n);
            double             worst = 0, top = 0;
            for (size_t t = 0; t < 40; ++t) {
                const float dt = t % 5 == 3 ? 2.5f : t % 7 == 6 ? 0.25f : t == 20 ? 1000.0f : 1.0f;
                const auto  want = stack.step({x.begin() + long(t * d), x.begin() + long((t + 1) * d)}, double(dt));
                REQUIRE(ssm::step(m.model, &m.state, &m.scratch, &x[t * d], y.data(), dt) == ssm::Status::ok);
                for (size_t i = 0; i < n; ++i) {
                    worst = std::max(worst, std::fabs(want[i] - double(y[i])));
                    top = std::max(top, std::fabs(want[i]));
                }
            }
            CHECK_MESSAGE(worst < 5e-5 * top, "worst ", worst, " of ", top);
            CHECK(top > 1e-3);
        }
    }
}

TEST_CASE("mamba: load() takes no more of the arena than model_bytes() says, and says so when it has less") {
    for (const auto& s : all_cells()) {
        CAPTURE(name_of(s));
        const Bytes     file = random_file(s);
        const ssm::Blob blob{file.data(), file.size()};
        Bytes           memory(ssm::index_bytes(blob));
        ssm::Config     c;
        REQUIRE(ssm::inspect(&c, blob, memory.data(), memory.size()) == ssm::Status::ok);
        const size_t index = ssm::index_bytes(blob), need = 16 + ssm::model_bytes(c);
        Bytes        room(need + index);
        ssm::Arena   arena{room.data(), room.size(), 0};
        ssm::Model   m;
        REQUIRE(ssm::load(&m, blob, &arena) == ssm::Status::ok);
        CHECK(arena.used <= need);
        ssm::Arena less{room.data(), room.size() - 1, 0};
        CHECK(ssm::load(&m, blob, &less) == ssm::Status::arena_too_small);
        // States and scratch of any number fit behind it where arena_bytes() says so.
        Bytes      all(ssm::arena_bytes(c, 40, 3));
        ssm::Arena whole{all.data(), all.size(), 0};
        REQUIRE(ssm::load(&m, blob, &whole) == ssm::Status::ok);
        ssm::State   state;
        ssm::Scratch scratch;
        for (int i = 0; i < 40; ++i) REQUIRE(ssm::make_state(&state, m, &whole) == ssm::Status::ok);
        CHECK(ssm::make_scratch(&scratch, m, 3, &whole) == ssm::Status::ok);
    }
}

TEST_CASE("mamba: pooling mean is the running mean of the outputs of pooling none") {
    for (const char* arch : {"mamba1", "mamba2", "mamba3"}) {
        random_model::Spec s = spec(std::string(arch) + ",d_model=16,n_layer=1,d_state=8,headdim=8");
        Loaded             each(random_file(s));
        s.pool = "mean";
        Loaded              mean(random_file(s));
        std::vector<float>  x = random_inputs(30 * 16), y(16), z(16);
        std::vector<double> sum(16, 0.0);
        for (size_t t = 0; t < 30; ++t) {
            REQUIRE(ssm::step(each.model, &each.state, &each.scratch, &x[t * 16], y.data()) == ssm::Status::ok);
            REQUIRE(ssm::step(mean.model, &mean.state, &mean.scratch, &x[t * 16], z.data()) == ssm::Status::ok);
            for (size_t i = 0; i < 16; ++i) {
                sum[i] += double(y[i]);
                CHECK(double(z[i]) == doctest::Approx(sum[i] / double(t + 1)).epsilon(1e-5));
            }
        }
    }
}

// All ways to run a model against single steps; prefill is cut at every `stride`-th of 64 steps.
static void all_ways_agree(size_t stride) {
    for (const auto& s : all_cells()) {
        CAPTURE(name_of(s));
        std::vector<float> first_back_end;
        for (const ssm::Isa isa : all_back_ends()) {
            constexpr size_t   T = 64;
            Loaded             m(random_file(s), 7, isa, 2);
            const ssm::Config& c = m.config;
            const size_t       d = size_t(c.d_input), n = size_t(c.d_output);
            std::vector<float> x = random_inputs(T * d), dt(T, 1.0f), y(T * n), z(n), wide(3 * n);
            for (size_t t = 0; t < T; ++t) dt[t] = t % 9 == 4 ? 3.0f : t % 11 == 5 ? 0.5f : 1.0f;
            std::vector<Bytes> states;
            for (size_t t = 0; t < T; ++t) {
                const OwnState before(m.model, m.state);
                REQUIRE(ssm::step_batch(m.model, before.state, &m.scratch, &x[t * d], 1, z.data(), &dt[t]) ==
                        ssm::Status::ok);
                REQUIRE(ssm::step(m.model, &m.state, &m.scratch, &x[t * d], &y[t * n], dt[t]) == ssm::Status::ok);
                CHECK(std::memcmp(z.data(), &y[t * n], n * 4) == 0);
                states.push_back(OwnState(m.model, m.state).bytes);
            }
            for (float v : y) REQUIRE(std::isfinite(v));
            if (first_back_end.empty()) first_back_end = y;
            CHECK(same_bits(first_back_end, y));
            for (size_t split = 0; split <= T; split += stride) {
                OwnState own(m.model);
                ssm::reset(m.model, &own.state);
                REQUIRE(ssm::prefill(m.model, &own.state, &m.scratch, x.data(), int32_t(split), z.data(), dt.data()) ==
                        ssm::Status::ok);
                if (split > 0) CHECK(own.bytes == states[split - 1]);
                if (split > 0) CHECK(std::memcmp(z.data(), &y[(split - 1) * n], n * 4) == 0);
                REQUIRE(ssm::prefill(m.model, &own.state, &m.scratch, x.data() + split * d, int32_t(T - split),
                                     z.data(), dt.data() + split) == ssm::Status::ok);
                CHECK(own.bytes == states[T - 1]);
            }
            // Three streams at different places advance together; three candidates of one state do not know each other.
            std::vector<OwnState>   own(3, OwnState(m.model));
            std::vector<ssm::State> three;
            std::vector<float>      xs(3 * d), dts(3);
            for (size_t k = 0; k < 3; ++k) {
                own[k].bytes = states[10 * (k + 1)];
                own[k].state.data = own[k].bytes.data();
                three.push_back(own[k].state);
                std::copy_n(&x[(10 * (k + 1) + 1) * d], d, &xs[k * d]);
                dts[k] = dt[10 * (k + 1) + 1];
            }
            REQUIRE(ssm::step_streams(m.model, three.data(), 3, &m.scratch, xs.data(), wide.data(), dts.data()) ==
                    ssm::Status::ok);
            for (size_t k = 0; k < 3; ++k) {
                CHECK(own[k].bytes == states[10 * (k + 1) + 1]);
                CHECK(std::memcmp(&wide[k * n], &y[(10 * (k + 1) + 1) * n], n * 4) == 0);
            }
            Bytes            from = states[30];
            const ssm::State fixed{from.data(), from.size()};
            REQUIRE(ssm::step_batch(m.model, fixed, &m.scratch, &x[31 * d], 3, wide.data()) == ssm::Status::ok);
            for (size_t k = 0; k < 3; ++k) {
                OwnState copy(m.model, fixed);
                REQUIRE(ssm::step(m.model, &copy.state, &m.scratch, &x[(31 + k) * d], z.data()) == ssm::Status::ok);
                CHECK(std::memcmp(z.data(), &wide[k * n], n * 4) == 0);
            }
            CHECK(from == states[30]);
        }
    }
}

TEST_CASE("N-08 mamba: step = prefill at every split = step_streams = candidates, bit for bit, on every back-end (slow)") {
    all_ways_agree(1);
}
TEST_CASE("mamba: step = prefill at some splits = step_streams = candidates, bit for bit, on every back-end") {
    all_ways_agree(21);
}

TEST_CASE("N-08 mamba: zero, denormal, huge and long inputs stay finite, and alike on every back-end (slow)") {
    for (const auto& s : all_cells()) {
        CAPTURE(name_of(s));
        std::vector<float> first;
        for (const ssm::Isa isa : all_back_ends()) {
            Loaded             m(random_file(s), 32, isa);
            const size_t       d = size_t(m.config.d_input), n = size_t(m.config.d_output);
            std::vector<float> noise = random_inputs(512 * d), y(n), all;
            for (const float scale : {0.0f, 1e-42f, 1e4f, -1e4f, 1.0f}) {
                std::vector<float> x = noise;
                for (float& v : x) v *= scale;
                ssm::reset(m.model, &m.state);
                REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), 512, y.data()) == ssm::Status::ok);
                for (float v : y) REQUIRE(std::isfinite(v));
                all.insert(all.end(), y.begin(), y.end());
                if (s.clip == 0) CHECK_FALSE(ssm::clipped(m.model, m.state));
            }
            if (first.empty()) first = all;
            CHECK(same_bits(first, all));
        }
    }
}

TEST_CASE("N-04 mamba: a state clip limits every number of h and says so") {
    for (const auto& s : all_cells()) {
        if (!(s.clip > 0)) continue;
        CAPTURE(name_of(s));
        Loaded             m(random_file(s));
        const size_t       d = size_t(m.config.d_input);
        std::vector<float> x = random_inputs(200 * d), y(size_t(m.config.d_output));
        for (float& v : x) v *= 4.0f;
        REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), 200, y.data()) == ssm::Status::ok);
        CHECK(ssm::clipped(m.model, m.state));
        float top = 0;
        for (float v : part_of(m.model, m.state, 0, ssm::Part::ssm_state)) top = std::max(top, std::fabs(v));
        CHECK(top == float(s.clip));
    }
}

TEST_CASE("N-04 mamba: an infinity in one half of sixteen rows alone becomes the largest float, on every back-end") {
    for (const int first : {0, 8}) // the rows of x that are huge
        for (const char* text :
             {"mamba2,d_model=8,n_layer=1,d_state=4,headdim=16", "mamba3,d_model=8,n_layer=1,d_state=4,headdim=16"}) {
            const random_model::Spec s = spec(text);
            const int32_t            cols = int32_t(s.d_model), x0 = 2 * cols; // in_proj: z, x, ...
            int32_t                  i = 0;
            const Bytes              file = reweighted(random_file(s), [&](const std::string& name, float f) {
                if (name.find("conv1d.weight") != name.npos) return 1.0f;
                if (name.find("conv1d.bias") != name.npos) return 0.0f;
                if (name.find("in_proj.weight") == name.npos) return f;
                const int32_t row = i++ / cols;
                if (row < x0 || row >= x0 + 16) return f;
                return row >= x0 + first && row < x0 + first + 8 ? 3e38f : 0.0f;
            });
            for (ssm::Isa isa : all_back_ends()) {
                CAPTURE(ssm::isa_name(isa));
                Loaded                   m(file, 16, isa);
                const std::vector<float> x(size_t(s.d_model), 0.5f);
                std::vector<float>       y(x.size());
                REQUIRE(ssm::step(m.model, &m.state, &m.scratch, x.data(), y.data()) == ssm::Status::ok);
                const std::vector<float> h = part_of(m.model, m.state, 0, ssm::Part::ssm_state); // [head][P][N]
                float                    top[2] = {0, 0};
                for (size_t k = 0; k < 16 * 4; ++k) {
                    REQUIRE(std::fabs(h[k]) <= FLT_MAX); // NaN is not
                    top[k / 32] = std::max(top[k / 32], std::fabs(h[k]));
                }
                CHECK(top[first / 8] == FLT_MAX);
                CHECK(top[1 - first / 8] < 1e6f);
                CHECK(ssm::clipped(m.model, m.state));
            }
        }
}

TEST_CASE("P-02 mamba: states are saved, restored, refused when foreign, and read and written in the public layout") {
    for (const auto& s : all_cells()) {
        CAPTURE(name_of(s));
        Loaded             m(random_file(s));
        const ssm::Config& c = m.config;
        const size_t       d = size_t(c.d_input), n = size_t(c.d_output);
        std::vector<float> x = random_inputs(20 * d), y(n), z(n);
        REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), 19, y.data()) == ssm::Status::ok);
        Bytes saved(ssm::save(m.model, m.state, nullptr, 0));
        REQUIRE(ssm::save(m.model, m.state, saved.data(), saved.size()) == saved.size());
        OwnState again(m.model), by_parts(m.model);
        REQUIRE(ssm::restore(m.model, &again.state, saved.data(), saved.size()) == ssm::Status::ok);
        CHECK(std::memcmp(again.bytes.data(), m.state.data, again.bytes.size()) == 0);
        for (size_t at = 0; at < saved.size(); at += 7) {
            Bytes damaged = saved;
            damaged[at] ^= 0x10;
            CHECK(ssm::restore(m.model, &again.state, damaged.data(), damaged.size()) == ssm::Status::bad_state);
        }
        // By parts: the next output is the same to rounding of the angles (float radians).
        if (c.pool == ssm::Pool::mean) continue;
        ssm::reset(m.model, &by_parts.state);
        for (int32_t l = 0; l < c.n_layers; ++l)
            for (const ssm::Part part : {ssm::Part::ssm_state, ssm::Part::conv_state, ssm::Part::angle_state,
                                         ssm::Part::k_state, ssm::Part::v_state}) {
                std::vector<float> v = part_of(m.model, m.state, l, part);
                if (v.empty()) continue;
                CHECK_FALSE(ssm::set_state(m.model, &by_parts.state, l, part, v.data(), int32_t(v.size()) - 1));
                REQUIRE(ssm::set_state(m.model, &by_parts.state, l, part, v.data(), int32_t(v.size())));
                const std::vector<float> back = part_of(m.model, by_parts.state, l, part);
                REQUIRE(back.size() == v.size());
                for (size_t i = 0; i < v.size(); ++i)
                    CHECK(std::fabs(v[i] - back[i]) <= (part == ssm::Part::angle_state ? 1e-6f : 0.0f));
                v[0] = NAN;
                CHECK_FALSE(ssm::set_state(m.model, &by_parts.state, l, part, v.data(), int32_t(v.size())));
            }
        CHECK(ssm::get_state(m.model, m.state, c.n_layers, ssm::Part::ssm_state, nullptr) == 0);
        REQUIRE(ssm::step(m.model, &m.state, &m.scratch, &x[19 * d], y.data()) == ssm::Status::ok);
        REQUIRE(ssm::step(m.model, &by_parts.state, &m.scratch, &x[19 * d], z.data()) == ssm::Status::ok);
        for (size_t i = 0; i < n; ++i) CHECK(double(z[i]) == doctest::Approx(double(y[i])).epsilon(1e-4));
    }
}

TEST_CASE("mamba: angles are written and read to the last bit of a float") {
    Loaded             m(random_file(spec("mamba3,d_model=8,n_layer=1,d_state=4,headdim=8,rope_fraction=1.0")));
    std::vector<float> angle = part_of(m.model, m.state, 0, ssm::Part::angle_state);
    REQUIRE(angle.size() == 4); // 2 heads, 2 angles
    angle.assign(angle.size(), 1.57079633f);
    REQUIRE(ssm::set_state(m.model, &m.state, 0, ssm::Part::angle_state, angle.data(), int32_t(angle.size())));
    const std::vector<float> back = part_of(m.model, m.state, 0, ssm::Part::angle_state);
    for (size_t i = 0; i < angle.size(); ++i) CHECK(std::fabs(back[i] - angle[i]) < 3e-7f);
}

TEST_CASE("mamba: tokens") {
    random_model::Spec s = spec("mamba3,d_model=16,n_layer=1,d_state=8,headdim=8,vocab_size=13");
    for (const bool tied : {false, true}) {
        s.tied = tied;
        Loaded             m(random_file(s));
        const Golden       g(m.bytes);
        std::vector<float> x(16), y(13);
        CHECK(m.config.input == ssm::Input::tokens);
        CHECK(m.config.d_output == 13);
        CHECK(ssm::embed(m.model, 12, x.data()) == ssm::Status::ok);
        const auto row = g.tensor("embedding.weight");
        for (size_t i = 0; i < 16; ++i) CHECK(double(x[i]) == row[12 * 16 + i]);
        CHECK(ssm::embed(m.model, 13, x.data()) == ssm::Status::bad_input); // padding is not a token
        CHECK(ssm::embed(m.model, -1, x.data()) == ssm::Status::bad_input);
        CHECK(ssm::step(m.model, &m.state, &m.scratch, x.data(), y.data()) == ssm::Status::ok);
    }
}

TEST_CASE("mamba: public checkpoints under other names load with no options") {
    for (const char* name : {"m1_lm2_d32_hfnames", "m2_lm2_d32_hfnames"}) {
        Loaded m(read_file(mamba_golden(name)));
        CHECK(m.config.input == ssm::Input::tokens);
        CHECK(m.config.vocab_size == 40);
        CHECK(m.config.n_layers == 2);
    }
    Loaded old(read_file(mamba_golden("m3_siso_d32_softplusA")));
    CHECK(old.config.softplus_A);
    // The option instead of the metadata.
    Loaded           usual(read_file(mamba_golden("m3_siso_tiny_trace")));
    ssm::LoadOptions options;
    options.softplus_A = true;
    ssm::Model other;
    Bytes      memory(ssm::arena_bytes(usual.config, 1, 1));
    ssm::Arena arena{memory.data(), memory.size(), 0};
    REQUIRE(ssm::load(&other, usual.blob(), &arena, options) == ssm::Status::ok);
    CHECK(other.config.softplus_A);
    CHECK_FALSE(usual.config.softplus_A);
    Loaded     m1(read_file(mamba_golden("m1_d32")));
    Bytes      memory1(ssm::arena_bytes(m1.config, 1, 1));
    ssm::Arena arena1{memory1.data(), memory1.size(), 0};
    CHECK(ssm::load(&other, m1.blob(), &arena1, options) == ssm::Status::unsupported);
}

TEST_CASE("F-06 N-01 mamba: each kind of broken file has its own refusal, naming tensor, found and expected") {
    const auto builder = [](const std::string& text) {
        Builder             b;
        random_model::Spec  s = spec(text);
        random_model::Maker maker(s, [&](const std::string& name, const std::vector<int64_t>& shape,
                                         const std::vector<float>& v,
                                         const std::string&        dtype) { b.add(name, shape, v, dtype); });
        b.metadata = maker.make();
        return b;
    };
    const auto refusal = [](const Builder& b, ssm::Fault* fault) {
        const Bytes     file = b.file();
        const ssm::Blob blob{file.data(), file.size()};
        Bytes           memory(ssm::index_bytes(blob));
        ssm::Config     c;
        *fault = ssm::Fault();
        ssm::Status s = ssm::inspect(&c, blob, memory.data(), memory.size(), fault);
        if (s != ssm::Status::ok) return s;
        Bytes      room(ssm::arena_bytes(c, 1, 1));
        ssm::Arena arena{room.data(), room.size(), 0};
        ssm::Model m;
        s = ssm::load(&m, blob, &arena, {}, fault);
        CHECK((s == ssm::Status::ok) == (arena.used > 0));
        return s;
    };
    ssm::Fault        f;
    const char* const m3 =
        "mamba3,d_model=16,n_layer=2,d_state=8,headdim=8,mimo_rank=2,mlp_hidden=8,d_input=3,d_output=2";
    const char* const m2 = "mamba2,d_model=16,n_layer=1,d_state=8,headdim=8";
    const char* const m1 = "mamba1,d_model=16,n_layer=1,d_state=8";
    for (const char* text : {m3, m2, m1}) {
        const Builder good = builder(text);
        REQUIRE_MESSAGE(refusal(good, &f) == ssm::Status::ok, f.name, " ", f.detail);
        for (const auto& tensor : good.tensors) {
            const std::string&     name = tensor.first;
            const Builder::Tensor& t = tensor.second;
            CAPTURE(name);
            const bool optional = name.find("conv1d.bias") != std::string::npos || name == "input_proj.bias" ||
                                  name.find("mixer.norm.weight") != std::string::npos || name == "head.weight";
            Builder b = good;
            b.tensors.erase(name); // missing
            const ssm::Status missing = refusal(b, &f);
            CHECK((missing == ssm::Status::ok) == optional);
            if (!optional) CHECK(std::string(f.detail).size() > 5);
            b = good; // one more row
            std::vector<int64_t> shape = t.shape;
            shape[0] += 1;
            size_t count = 1;
            for (int64_t k : shape) count *= size_t(k);
            b.add(name, shape, std::vector<float>(count, 0.5f), t.dtype);
            const bool free_rows = name == "head.weight"; // says d_output
            const auto wrong_shape = refusal(b, &f);
            CHECK((wrong_shape == ssm::Status::ok) == free_rows);
            if (!free_rows)
                CHECK_MESSAGE((wrong_shape == ssm::Status::bad_shape || wrong_shape == ssm::Status::bad_config),
                              int(wrong_shape));
            if (!free_rows) CHECK((f.has_numbers && f.name[0] != 0));
            b = good; // a dimension more
            shape = t.shape;
            shape.push_back(1);
            b.tensors[name].shape = shape;
            const auto rank = refusal(b, &f);
            CHECK(rank != ssm::Status::ok);
            b = good; // integers
            b.tensors[name].dtype = t.dtype == "F32" ? "I32" : "I16";
            CHECK(refusal(b, &f) == ssm::Status::bad_dtype);
            CHECK(std::string(f.name) == name);
            b = good; // NaN
            Bytes& data = b.tensors[name].data;
            for (size_t k = 0; k < 4 && k < data.size(); ++k) data[data.size() - 1 - k] = 0xff;
            CHECK(refusal(b, &f) == ssm::Status::bad_value);
            CHECK(std::string(f.name) == name);
        }
        Builder b = good;
        b.add("layers.0.mixer.surplus", {2}, {1, 2});
        CHECK(refusal(b, &f) == ssm::Status::extra_tensor);
        CHECK(std::string(f.name) == "layers.0.mixer.surplus");
        for (const char* key : {"d_model", "n_layer", "d_inner"}) {
            b = good, b.metadata[key] = "4096";
            CHECK(refusal(b, &f) == ssm::Status::bad_config);
            CHECK(std::string(f.name) == key);
        }
        b = good, b.metadata["arch"] = "mamba4";
        CHECK(refusal(b, &f) == ssm::Status::bad_config);
        b = good, b.metadata["cfg.attn_layer_idx"] = "[1]";
        CHECK(refusal(b, &f) == ssm::Status::bad_config);
        CHECK(std::string(f.name) == "attn_layer_idx");
        b = good, b.metadata["clip"] = "-1";
        CHECK(refusal(b, &f) == ssm::Status::bad_config);
    }
    Builder b = builder(m2);
    b.metadata["d_state"] = "16";
    CHECK(refusal(b, &f) == ssm::Status::bad_config);
    b = builder(m1), b.metadata["arch"] = "mamba2";
    CHECK(refusal(b, &f) == ssm::Status::bad_config);
    b = builder(m1);
    for (auto& [name, t] : b.tensors)
        if (name == "layers.0.mixer.A_log") { // a decay rate beyond any use
            const float big = 100.0f;
            std::memcpy(t.data.data(), &big, 4);
        }
    CHECK(refusal(b, &f) == ssm::Status::bad_value);
    b = builder(m3), b.metadata["rope_angles"] = "3"; // then in_proj has one row too few
    CHECK(refusal(b, &f) == ssm::Status::bad_shape);
    b = builder(m3), b.metadata["a_activation"] = "relu";
    CHECK(refusal(b, &f) == ssm::Status::bad_config);
}

TEST_CASE("F-07 mamba: a state beyond the limit is refused, one at the limit is not") {
    ssm::Config c;
    c.arch = ssm::Arch::mamba2, c.norm = ssm::Norm::rms, c.input = ssm::Input::vectors, c.has_head = false;
    c.pool = ssm::Pool::none, c.d_model = c.d_input = c.d_output = 64, c.d_state = 256, c.d_conv = 1, c.ngroups = 1;
    c.nheads = 32, c.headdim = 1024, c.d_ssm = c.d_inner = 32768;
    c.n_layers = 7; // 2^23 numbers of h a layer, and those of the convolution
    CHECK(ssm::valid(c));
    CHECK(uint64_t(ssm::state_bytes(c)) <= ssm::max_state_floats * 4);
    c.n_layers = 8;
    CHECK_FALSE(ssm::valid(c));
    c.n_layers = 1, c.nheads = 2147483647;
    CHECK_FALSE(ssm::valid(c));
}
