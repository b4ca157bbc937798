// run.cpp - the ways to run a model against single steps, bit for bit; states saved, restored, forked; refused calls.
// SPDX-License-Identifier: MIT
#include "guarded.hpp"
#include "int_models.hpp"

#include <limits>
#include <thread>

using namespace test;

namespace {
struct Variant {
    const char *pool, *disc, *clip;
    bool        prenorm;
};
const Variant variants[] = {{"mean", "zoh", "0", false}, {"none", "zoh", "1", true}, {"last", "bilinear", "0", true}};

S4dSpec spec_of(const Variant& v) {
    S4dSpec s;
    s.pool = v.pool, s.disc = v.disc, s.clip = v.clip, s.prenorm = v.prenorm;
    return s;
}
const std::vector<float> gaps = [] {
    std::vector<float> dt(64, 1.0f);
    for (size_t i = 0; i < dt.size(); i += 3) dt[i] = 0.25f * float(1 + i % 11);
    return dt;
}();
} // namespace

TEST_CASE("N-08: prefill = single steps at every split of 64 steps, with and without dt, every batch") {
    for (const Variant& v : variants)
        for (ssm::Isa isa : all_back_ends())
            for (const float* dt : {static_cast<const float*>(nullptr), gaps.data()}) {
                const Bytes        file = s4d_model(spec_of(v)).file();
                Loaded             one(file, 1, isa);
                const auto         x = random_inputs(64 * 3);
                std::vector<float> want(2), y(2);
                for (size_t t = 0; t < 64; ++t)
                    REQUIRE(ssm::step(one.model, &one.state, &one.scratch, &x[t * 3], want.data(), dt ? dt[t] : 1.0f) ==
                            ssm::Status::ok);
                for (int32_t batch : {1, 5, 64}) {
                    Loaded m(file, batch, isa);
                    for (int32_t split = 0; split <= 64; ++split) {
                        ssm::reset(m.model, &m.state);
                        REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), split, nullptr, dt) ==
                                ssm::Status::ok);
                        REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data() + split * 3, 64 - split,
                                             split < 64 ? y.data() : nullptr,
                                             dt ? dt + split : nullptr) == ssm::Status::ok);
                        if (split < 64) REQUIRE(same_bits(y, want));
                        REQUIRE(state_of(m) == state_of(one));
                    }
                }
            }
}

TEST_CASE("step_batch = a step of a copy each; the state is not touched; n and order do not matter") {
    for (const Variant& v : variants) {
        Loaded             m(s4d_model(spec_of(v)).file(), 7);
        const auto         x = random_inputs(40 * 3);
        std::vector<float> y(2), all(40 * 2);
        REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), 20, y.data()) == ssm::Status::ok);
        const Bytes before = state_of(m);
        for (const float* dt : {static_cast<const float*>(nullptr), gaps.data()})
            for (int32_t n : {1, 2, 7, 8, 40}) {
                REQUIRE(ssm::step_batch(m.model, m.state, &m.scratch, x.data(), n, all.data(), dt) == ssm::Status::ok);
                REQUIRE(state_of(m) == before);
                for (int32_t i = 0; i < n; ++i) {
                    OwnState copy(m.model, m.state);
                    REQUIRE(ssm::step(m.model, &copy.state, &m.scratch, &x[size_t(i) * 3], y.data(),
                                      dt ? dt[i] : 1.0f) == ssm::Status::ok);
                    REQUIRE(std::memcmp(y.data(), &all[size_t(i) * 2], 8) == 0);
                }
            }
    }
}

TEST_CASE("step_streams and score_streams = single steps of each stream") {
    for (const Variant& v : variants) {
        Loaded                  m(s4d_model(spec_of(v)).file(), 6);
        const auto              x = random_inputs(64 * 3);
        std::vector<OwnState>   streams, expected;
        std::vector<ssm::State> states;
        for (int i = 0; i < 20; ++i) {
            streams.emplace_back(m.model), expected.emplace_back(m.model);
            REQUIRE(ssm::prefill(m.model, &streams.back().state, &m.scratch, x.data(), i, nullptr) == ssm::Status::ok);
            std::memcpy(expected.back().state.data, streams.back().state.data, ssm::state_bytes(m.config));
        }
        for (OwnState& s : streams) states.push_back({s.bytes.data(), s.bytes.size()});
        std::vector<float> y(40), probe(40), one(2);
        REQUIRE(ssm::score_streams(m.model, states.data(), 20, &m.scratch, x.data(), probe.data(), gaps.data()) ==
                ssm::Status::ok);
        for (size_t i = 0; i < 20; ++i) REQUIRE(streams[i].bytes == expected[i].bytes);
        REQUIRE(ssm::step_streams(m.model, states.data(), 20, &m.scratch, x.data(), y.data(), gaps.data()) ==
                ssm::Status::ok);
        for (size_t i = 0; i < 20; ++i) {
            REQUIRE(ssm::step(m.model, &expected[i].state, &m.scratch, &x[i * 3], one.data(), gaps[i]) ==
                    ssm::Status::ok);
            REQUIRE(std::memcmp(one.data(), &y[i * 2], 8) == 0);
            REQUIRE(std::memcmp(one.data(), &probe[i * 2], 8) == 0);
            REQUIRE(streams[i].bytes == expected[i].bytes);
        }
    }
}

TEST_CASE("P-03 save, restore and go on = never stopped, at each of 120 cuts, across back-ends") {
    const Bytes        file = s4d_model(S4dSpec{}).file();
    Loaded             a(file), b(file, 16, ssm::Isa::scalar);
    const auto         x = random_inputs(121 * 3);
    std::vector<float> y(2), z(2);
    Bytes              saved(ssm::saved_bytes(a.config));
    REQUIRE(ssm::save(a.model, a.state, nullptr, 0) == saved.size());
    for (size_t t = 0; t < 120; ++t) {
        REQUIRE(ssm::step(a.model, &a.state, &a.scratch, &x[t * 3], y.data()) == ssm::Status::ok);
        REQUIRE(ssm::save(a.model, a.state, saved.data(), saved.size()) == saved.size());
        REQUIRE(ssm::restore(b.model, &b.state, saved.data(), saved.size()) == ssm::Status::ok);
        OwnState fork(a.model, a.state);
        REQUIRE(ssm::step(a.model, &fork.state, &a.scratch, &x[(t + 1) * 3], y.data()) == ssm::Status::ok);
        REQUIRE(ssm::step(b.model, &b.state, &b.scratch, &x[(t + 1) * 3], z.data()) == ssm::Status::ok);
        REQUIRE(same_bits(y, z));
        REQUIRE(fork.bytes == state_of(b));
    }
}

TEST_CASE("P-01 P-06 fingerprints and saved states are what they were in version 0.1.0, or old states are of no use") {
    const auto fnv = [](const Bytes& b) { // FNV-1a
        uint64_t h = 0xcbf29ce484222325u;
        for (unsigned char c : b) h = (h ^ c) * 0x100000001b3u;
        return h;
    };
    const struct {
        const char* file;
        uint64_t    fingerprint, saved; // made by this test
    } all[] = {{"s4d/01_zoh_h8_n4", 5009153376170009411u, 16985995458495801813u},
               {"mamba/m1_d32", 2715365006814567617u, 14990295661220282609u},
               {"mamba/m3_mimo_r2_d32_f16", 7634332597162566574u, 11347235862337954661u},
               {"int/05_s4d_w8a8_gap", 10163808602145981533u, 2636467838116759903u},
               {"int/10_m3_siso_w8a8_rowexp16", 2041388052886354450u, 17402271696118537462u}};
    for (const auto& one : all) {
        CAPTURE(std::string(one.file));
        Bytes  file = read_file(std::string(SSM_TEST_DIR "/golden/") + one.file + ".safetensors");
        Loaded m(file);
        CHECK(m.model.fingerprint == one.fingerprint);
        std::vector<float> x(5 * size_t(m.config.d_input)); // of eighths, so that inputs are the same everywhere
        for (size_t i = 0; i < x.size(); ++i) x[i] = float(int(i * 37 % 17) - 8) / 8.0f;
        REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), 5, nullptr) == ssm::Status::ok);
        Bytes saved(ssm::saved_bytes(m.config));
        REQUIRE(ssm::save(m.model, m.state, saved.data(), saved.size()) == saved.size());
        CHECK(fnv(saved) == one.saved);
    }
}

TEST_CASE("P-02 P-04 a damaged or foreign state is refused and nothing changes") {
    S4dSpec small;
    small.H = 8, small.n = 2, small.layers = 1, small.clip = "50";
    Loaded             m(s4d_model(small).file());
    const auto         x = random_inputs(30);
    std::vector<float> y(2);
    REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), 10, y.data()) == ssm::Status::ok);
    Bytes saved(ssm::saved_bytes(m.config));
    REQUIRE(ssm::save(m.model, m.state, saved.data(), saved.size()) == saved.size());
    REQUIRE(saved.size() <= 4096);
    REQUIRE(ssm::save(m.model, m.state, saved.data(), saved.size() - 1) == 0);
    const Bytes before = state_of(m);
    for (size_t n = 0; n < saved.size(); ++n) { // every strict prefix
        REQUIRE(ssm::restore(m.model, &m.state, saved.data(), n) == ssm::Status::bad_state);
        REQUIRE(state_of(m) == before);
    }
    for (size_t bit = 0; bit < saved.size() * 8; ++bit) { // every single-bit flip
        Bytes flipped = saved;
        flipped[bit / 8] = static_cast<unsigned char>(flipped[bit / 8] ^ 1u << bit % 8);
        REQUIRE(ssm::restore(m.model, &m.state, flipped.data(), flipped.size()) == ssm::Status::bad_state);
        REQUIRE(state_of(m) == before);
    }
    Bytes longer = saved;
    longer.push_back(0);
    CHECK(ssm::restore(m.model, &m.state, longer.data(), longer.size()) == ssm::Status::bad_state);

    // The same file with its checksum made right again: each rule on its own, by the reason it gives.
    const auto patched = [&](size_t at, uint32_t value) {
        Bytes b = saved;
        for (unsigned k = 0; k < 4; ++k) b[at + k] = static_cast<unsigned char>(value >> 8 * k);
        repair_checksum(&b);
        ssm::Fault fault;
        CHECK(ssm::restore(m.model, &m.state, b.data(), b.size(), &fault) ==
              (value == 0xffffffffu ? ssm::Status::ok : ssm::Status::bad_state));
        CHECK(state_of(m) == before);
        return std::string(fault.detail);
    };
    CHECK(patched(0, 1) == "not a saved state");
    CHECK(patched(8, 2) == "saved by a version that this one does not know");
    CHECK(patched(12, 0x04030201) == "wrong byte order mark");
    CHECK(patched(16, 7) == "its length is not what its header says");
    CHECK(patched(24, 5) == "belongs to another model");
    CHECK(patched(36, 9) == "its shape is not this model's");
    CHECK(patched(40, 9) == "its shape is not this model's");
    CHECK(patched(44, 9) == "its shape is not this model's");
    CHECK(patched(48, 2) == "holds another element type");
    CHECK(patched(52, 2) == "holds flags that this version does not know");
    CHECK(patched(saved.size() - 8, 0x7fc00000) == "holds a value that is NaN or beyond the clip");
    CHECK(patched(saved.size() - 8, 0x42480001) == "holds a value that is NaN or beyond the clip"); // just above 50
    CHECK(patched(64, 0x7f800000) == "holds a value that is NaN or beyond the clip");               // the running mean

    S4dSpec other = small;
    other.seed = 2;
    Loaded o(s4d_model(other).file());
    CHECK(ssm::restore(o.model, &o.state, saved.data(), saved.size()) == ssm::Status::bad_state);
}

TEST_CASE("N-03 a refused input leaves the state as it was, bit for bit") {
    Loaded             m(s4d_model(S4dSpec{}).file());
    const auto         x = random_inputs(30);
    std::vector<float> y(2, 123.0f);
    REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), 10, nullptr) == ssm::Status::ok);
    const Bytes before = state_of(m);
    const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
    for (float bad : {nan, inf, -inf, 1.0001e9f, -3e38f}) {
        std::vector<float> v(9, 0.5f);
        v[7] = bad;
        CHECK(ssm::prefill(m.model, &m.state, &m.scratch, v.data(), 3, y.data()) == ssm::Status::bad_input);
        CHECK(ssm::step(m.model, &m.state, &m.scratch, v.data() + 6, y.data()) == ssm::Status::bad_input);
        CHECK(ssm::step_batch(m.model, m.state, &m.scratch, v.data(), 3, y.data()) == ssm::Status::bad_input);
    }
    for (float dt : {0.0f, -1.0f, nan, inf, 1048577.0f})
        CHECK(ssm::step(m.model, &m.state, &m.scratch, x.data(), y.data(), dt) == ssm::Status::bad_input);
    CHECK(state_of(m) == before);
    CHECK(y == std::vector<float>(2, 123.0f));
    const float edge[3] = {1e9f, -1e9f, 0.0f};
    CHECK(ssm::step(m.model, &m.state, &m.scratch, edge, y.data(), 1048576.0f) == ssm::Status::ok);
    for (float v : y) CHECK(std::isfinite(v));
}

TEST_CASE("every strict prefix of a small model file is refused, by inspect and by load") {
    S4dSpec small;
    small.H = 4, small.n = 1, small.layers = 1;
    const Bytes  file = s4d_model(small).file();
    const Loaded whole(file);
    Bytes        memory(ssm::index_bytes(whole.blob())), arena_memory(whole.arena_memory.size());
    for (size_t n = 0; n < file.size(); ++n) {
        const Bytes     cut(file.begin(), file.begin() + std::ptrdiff_t(n)); // of its own, so that a read past it shows
        const ssm::Blob blob{cut.data(), n};
        ssm::Config     config;
        ssm::Arena      arena{arena_memory.data(), arena_memory.size(), 0};
        ssm::Model      model;
        REQUIRE(ssm::inspect(&config, blob, memory.data(), memory.size()) != ssm::Status::ok);
        REQUIRE(ssm::load(&model, blob, &arena) != ssm::Status::ok);
    }
}

TEST_CASE("F-04: bad arguments are refused") {
    Loaded     m(s4d_model(S4dSpec{}).file(), 4);
    const auto x = random_inputs(30);
    float      y[2];
    ssm::State null_state, small{m.state.data, m.state.bytes - 1},
        odd{static_cast<unsigned char*>(m.state.data) + 1, m.state.bytes};
    ssm::Scratch null_scratch, liar{m.scratch.data, m.scratch.bytes, 5};
    const auto   bad = ssm::Status::bad_argument;
    CHECK(ssm::step(m.model, nullptr, &m.scratch, x.data(), y) == bad);
    CHECK(ssm::step(m.model, &null_state, &m.scratch, x.data(), y) == bad);
    CHECK(ssm::step(m.model, &small, &m.scratch, x.data(), y) == bad);
    CHECK(ssm::step(m.model, &odd, &m.scratch, x.data(), y) == bad);
    CHECK(ssm::step(m.model, &m.state, nullptr, x.data(), y) == bad);
    CHECK(ssm::step(m.model, &m.state, &null_scratch, x.data(), y) == bad);
    CHECK(ssm::step(m.model, &m.state, &liar, x.data(), y) == bad);
    CHECK(ssm::step(m.model, &m.state, &m.scratch, nullptr, y) == bad);
    CHECK(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), -1, y) == bad);
    CHECK(ssm::prefill(m.model, &m.state, &m.scratch, nullptr, 0, y) == ssm::Status::ok);
    CHECK(ssm::step(ssm::Model(), &m.state, &m.scratch, x.data(), y) == bad);
    CHECK(ssm::make_state(nullptr, m.model, &m.arena) == bad);
    CHECK(ssm::make_scratch(&m.scratch, m.model, 0, &m.arena) == bad);
    CHECK(ssm::make_scratch(&m.scratch, m.model, ssm::max_batch + 1, &m.arena) == bad);
    CHECK(ssm::make_scratch(&m.scratch, m.model, ssm::max_batch, &m.arena) == ssm::Status::arena_too_small);
    CHECK(ssm::restore(m.model, &m.state, nullptr, 0) == bad);
    CHECK(ssm::load(nullptr, m.blob(), &m.arena) == bad);
    CHECK(ssm::load(&m.model, m.blob(), nullptr) == bad);
    for (int s = 0; s <= int(ssm::Status::io); ++s)
        CHECK(std::string(ssm::message(ssm::Status(s))) != "unknown status");
}

TEST_CASE("F-05: an arena one byte short is refused, at load and after") {
    const Bytes file = s4d_model(S4dSpec{}).file();
    Loaded      m(file, 4);
    for (size_t bytes = 0; bytes <= m.arena_memory.size(); bytes += bytes < 4096 ? 7 : 1) {
        Bytes             memory(bytes);
        ssm::Arena        a{memory.data(), bytes, 0};
        ssm::Model        model;
        ssm::Fault        fault;
        const ssm::Status s = ssm::load(&model, m.blob(), &a, {}, &fault);
        if (s != ssm::Status::ok) {
            CHECK((s == ssm::Status::arena_too_small || bytes == 0));
            CHECK(a.used == 0);
            CHECK(model.kernels == nullptr);
            if (bytes > 0) CHECK(fault.want > fault.got);
            continue;
        }
        ssm::State   state;
        ssm::Scratch scratch;
        const bool   fits = ssm::make_state(&state, model, &a) == ssm::Status::ok &&
                          ssm::make_scratch(&scratch, model, 4, &a) == ssm::Status::ok;
        CHECK(a.used <= bytes);
        if (bytes == m.arena_memory.size()) CHECK(fits);
    }
}

TEST_CASE("E-01: a scratch of the bytes that are asked for is enough: it ends at a guard page") {
    // Shapes where one part after the other is what a row's work needs most of: little else beside a large d_state, a
    // large conv, many heads, many ranks. And the bytes for one row, of floats and of integers, as they were before: no
    // more is asked for than is needed.
    const struct {
        const char* text;
        size_t      bytes[2];
    } shapes[] = {
        {"s4d,d_model=4,n_layer=1,d_state=64,d_input=2,d_output=2", {6272, 2416}},
        {"s4d,d_model=8,n_layer=1,d_state=4,d_input=8,bands=5,d_output=2,pool=last", {512, 544}},
        {"mamba1,d_model=4,n_layer=1,d_state=64,d_conv=1,dt_rank=1,d_input=2,d_output=2", {2784, 2096}},
        {"mamba1,d_model=32,n_layer=1,d_state=1,d_conv=8,d_input=2,d_output=2", {3360, 3440}},
        {"mamba1,d_model=4,n_layer=1,d_state=2,d_conv=1,dt_rank=1,mlp_hidden=200,d_input=2,d_output=2", {2528, 2784}},
        {"mamba2,d_model=4,n_layer=1,d_state=64,headdim=8,d_conv=1,d_input=2,d_output=2", {4928, 1872}},
        {"mamba2,d_model=32,n_layer=1,d_state=2,headdim=4,d_conv=1,ngroups=8,d_input=2,d_output=2", {1600, 1680}},
        {"mamba2,d_model=32,n_layer=1,d_state=2,headdim=32,d_conv=8,d_input=2,d_output=2", {3232, 3312}},
        {"mamba3,d_model=4,n_layer=1,d_state=64,headdim=8,d_input=2,d_output=2", {14176, 6640}},
        {"mamba3,d_model=32,n_layer=1,d_state=2,headdim=1,rope_fraction=1.0,d_input=2,d_output=2", {5712, 4496}},
        {"mamba3,d_model=16,n_layer=1,d_state=8,headdim=32,mimo_rank=8,d_input=2,d_output=2", {13600, 11152}},
    };
    for (const auto& shape : shapes)
        for (const bool integers : {false, true}) {
            CAPTURE(std::string(shape.text));
            const Bytes file = integers ? int_model(spec(shape.text)) : random_file(spec(shape.text));
            CHECK(ssm::scratch_bytes(Loaded(file).config, 1) == shape.bytes[integers ? 1 : 0]);
            for (ssm::Isa isa : all_back_ends())
                for (int32_t batch : {1, 3}) {
                    Loaded       m(file, 8, isa), roomy(file, 8, isa);
                    const size_t bytes = ssm::scratch_bytes(m.config, batch);
                    Guarded      memory(bytes);
                    ssm::Scratch exact = m.scratch;
                    exact.data = memory.bytes(), exact.bytes = bytes, exact.batch = batch;
                    const auto         x = random_inputs(8 * size_t(m.config.d_input));
                    std::vector<float> y(8 * 2), z(8 * 2);
                    for (ssm::Scratch* w : {&exact, &roomy.scratch}) {
                        Loaded&      to = w == &exact ? m : roomy;
                        float* const out = w == &exact ? y.data() : z.data();
                        REQUIRE(ssm::prefill(to.model, &to.state, w, x.data(), 7, out) == ssm::Status::ok);
                        REQUIRE(ssm::step(to.model, &to.state, w, x.data(), out) == ssm::Status::ok);
                        REQUIRE(ssm::step_batch(to.model, to.state, w, x.data(), 8, out) == ssm::Status::ok);
                    }
                    CHECK(std::memcmp(y.data(), z.data(), y.size() * 4) == 0);
                    exact.bytes -= 1;
                    CHECK(ssm::step(m.model, &m.state, &exact, x.data(), y.data()) == ssm::Status::bad_argument);
                }
        }
}

TEST_CASE("ST-22 E-05: an odd arena and a file at every alignment give the same bits") {
    const Bytes        file = s4d_model(S4dSpec{}).file(1);
    Loaded             m(file);
    const auto         x = random_inputs(30);
    std::vector<float> want(2), y(2);
    REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), 10, want.data()) == ssm::Status::ok);
    for (size_t skew = 0; skew < 9; ++skew) {
        Bytes moved(skew), memory(m.arena_memory.size() + skew);
        moved.insert(moved.end(), file.begin(), file.end());
        ssm::Arena   a{memory.data() + skew, memory.size() - skew, 0};
        ssm::Model   model;
        ssm::State   state;
        ssm::Scratch scratch;
        REQUIRE(ssm::load(&model, {moved.data() + skew, file.size()}, &a) == ssm::Status::ok);
        REQUIRE(ssm::make_state(&state, model, &a) == ssm::Status::ok);
        REQUIRE(ssm::make_scratch(&scratch, model, 16, &a) == ssm::Status::ok);
        REQUIRE(ssm::prefill(model, &state, &scratch, x.data(), 10, y.data()) == ssm::Status::ok);
        CHECK(same_bits(y, want));
    }
}

TEST_CASE("C-01 C-02 one model, eight threads, own states: the same bits") {
    Loaded             m(s4d_model(S4dSpec{}).file(), 8);
    const auto         x = random_inputs(300 * 3);
    std::vector<float> want(2);
    REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), 300, want.data()) == ssm::Status::ok);
    std::vector<std::thread>        threads;
    std::vector<std::vector<float>> got(8, std::vector<float>(2));
    for (size_t i = 0; i < 8; ++i)
        threads.emplace_back([&, i] {
            OwnState     s(m.model);
            Bytes        memory(ssm::scratch_bytes(m.config, 1) + 16);
            ssm::Scratch w{memory.data() + (16 - reinterpret_cast<uintptr_t>(memory.data()) % 16) % 16,
                           ssm::scratch_bytes(m.config, 1), 1};
            for (size_t t = 0; t < 300; ++t) (void)ssm::step(m.model, &s.state, &w, &x[t * 3], got[i].data());
        });
    for (std::thread& t : threads) t.join();
    for (const auto& y : got) CHECK(same_bits(y, want));
}
