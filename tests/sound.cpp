// sound.cpp - models of sound: the bank of resonators in front of the encoder, its arithmetic, its state, its limits.
// SPDX-License-Identifier: MIT
#include "int_models.hpp"
#include "int_reference.hpp"
#include "../tools/sound.hpp"

#include <complex>
#include <cstdio>
#include <functional>

#include <unistd.h>

namespace {
using namespace test;

// A float model with a real bank in front, and what its file says.
Builder sound_model(const sound::Bank& b) {
    S4dSpec s;
    s.d_input = b.bands, s.d_output = 3, s.layers = 1;
    Builder    model = s4d_model(s);
    const auto integers = [&](const std::string& name, const std::vector<int64_t>& shape,
                              const std::vector<int32_t>& v) {
        Builder::Tensor t{"I32", shape, Bytes(v.size() * 4)};
        std::memcpy(t.data.data(), v.data(), t.data.size());
        model.tensors[name] = t;
    };
    integers("frontend.poles", {b.bands, 2}, b.poles), integers("frontend.full", {b.bands}, b.full),
        integers("frontend.prior", {b.bands}, b.prior);
    const std::pair<const char*, int> numbers[] = {
        {"d_input", b.samples},  {"band_shift", b.shift},   {"band_leak", b.leak},
        {"band_mean", b.mean},   {"band_floor", b.floor},   {"band_gate", b.gate},
        {"band_quiet", b.quiet}, {"band_forget", b.forget}, {"band_fall", b.fall}};
    for (const auto& [key, value] : numbers) model.metadata[key] = std::to_string(value);
    return model;
}

// Samples in Q16: noise that swells and fades, tones, silence, full scale in both directions.
std::vector<int32_t> samples(size_t n, uint32_t seed) {
    std::mt19937         engine(seed);
    std::vector<int32_t> x(n);
    for (size_t t = 0; t < n; ++t) {
        const double tone = std::sin(double(t) * double(t) * 1e-4),
                     size = 65536 * std::pow(0.5 + 0.5 * std::sin(double(t) * 0.003), 8);
        const int noise = int(engine() % 2048) - 1024;
        x[t] = t % 3000 > 2700 ? 0 : int32_t(size * tone) + (t % 5 == 0 ? noise : 0);
        if (t % 4000 > 3800) x[t] = t / 3 % 2 == 0 ? 65536 : -65536;
    }
    return x;
}

// The features a loaded model computes.
std::vector<int32_t> seen_features(Loaded& m, const std::vector<int32_t>& x) {
    std::vector<int32_t> out;
    ssm::Trace           trace;
    trace.user = &out;
    trace.see_int = [](void* user, const char* stage, int32_t, int32_t, const int32_t* v, int32_t n) {
        auto& all = *static_cast<std::vector<int32_t>*>(user);
        if (std::string(stage) == "features") all.insert(all.end(), v, v + n);
    };
    m.scratch.trace = &trace;
    std::vector<float>   floats(x.size()), y(size_t(m.config.d_output));
    std::vector<int32_t> z(y.size());
    for (size_t t = 0; t < x.size(); ++t) floats[t] = float(x[t]) / 65536.0f;
    const auto n = int32_t(x.size() / size_t(m.config.d_input));
    if (ssm::is_integer(m.config))
        REQUIRE(ssm::prefill_q16(m.model, &m.state, &m.scratch, x.data(), n, z.data(), nullptr) == ssm::Status::ok);
    else REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, floats.data(), n, y.data()) == ssm::Status::ok);
    m.scratch.trace = nullptr;
    return out;
}

void refuses(const Builder& b, ssm::Status status, const std::string& name) {
    const Bytes       file = b.file();
    Bytes             memory(1 << 20);
    ssm::Arena        arena{memory.data(), memory.size(), 0};
    ssm::Model        m;
    ssm::Fault        fault;
    const ssm::Status got = ssm::load(&m, {file.data(), file.size()}, &arena, {}, &fault);
    CHECK_MESSAGE(got == status, name, ": ", fault.detail);
    CHECK(std::string(fault.name) == name);
}
} // namespace

TEST_CASE("log2_q16 is right to less than 2^-16 and never falls") {
    int32_t last = -1;
    double  worst = 0;
    for (uint64_t v = 1; v < uint64_t(1) << 62; v += v / 1013 + 1) {
        const int32_t l = ssm::log2_q16(v);
        worst = std::max(worst, std::fabs(double(l) - 65536 * std::log2(double(v))));
        REQUIRE(l >= last);
        last = l;
    }
    CHECK(worst < 0.7);
    for (int k = 0; k < 63; ++k) CHECK(ssm::log2_q16(uint64_t(1) << k) == k * 65536);
    CHECK(ssm::log2_q16((uint64_t(1) << 63) - 1) == 63 * 65536);
}

TEST_CASE("a bank hears what its definition in real numbers hears") {
    // Noise at full scale, and 40 dB below, where the rounding of y and z begins to tell; the largest differences are
    // those of the first frame, in which e has hardly begun to fill.
    for (const auto& [size, bound] : {std::pair<double, double>{65536, 5e-4}, {655, 5e-3}}) {
        constexpr int        frames = 300;
        const sound::Bank    b = sound::make_bank({});
        std::mt19937         engine(1);
        std::vector<int32_t> x(64 * frames);
        for (int32_t& v : x) v = int32_t(std::lround(size * (double(engine()) / 2147483648.0 - 1)));
        std::vector<float> f(size_t(frames * b.bands));
        sound::features(b, x.data(), int64_t(x.size()), nullptr, f.data());
        std::vector<std::vector<double>> level(frames);
        for (int k = 0; k < b.bands; ++k) {
            const std::complex<double> p(b.poles[size_t(2 * k)] / 2147483648.0,
                                         b.poles[size_t(2 * k + 1)] / 2147483648.0);
            std::complex<double>       y, z;
            double                     e = 0, before = 0;
            for (size_t t = 0; t < x.size(); ++t) {
                const double u = (32.0 * x[t] - 29 * before) / (1 << b.shift);
                before = x[t];
                y = p * y + u, z = p * z + y;
                if (t % 4 == 3) e += (std::norm(z) / 4096 - e) / (1 << b.leak);
                if (t % 64 == 63) level[t / 64].push_back(std::log2(e + 1) - b.full[size_t(k)] / 65536.0);
            }
        }
        double              worst = 0, peak = 0;
        std::vector<double> mean(size_t(b.bands), 0.0);
        for (size_t t = 0; t < frames; ++t) {
            const double top = *std::max_element(level[t].begin(), level[t].end()), before = t == 0 ? top : peak;
            peak = std::max(top, before - b.fall / 65536.0);
            const double forget = std::min(1.0, std::max(0.0, peak - before) / (1 << b.forget));
            const bool   active = top > peak - b.gate / 65536.0 && top > -b.quiet / 65536.0;
            for (size_t k = 0; k < mean.size(); ++k) {
                const double d = std::max(level[t][k] - peak, -b.floor / 65536.0), usual = b.prior[k] / 65536.0;
                if (t == 0) mean[k] = usual;
                mean[k] += (usual - mean[k]) * forget;
                if (active) mean[k] += (d - mean[k]) * b.mean / 65536.0;
                worst = std::max(worst, std::fabs((d - mean[k]) / 2 - double(f[t * mean.size() + k])));
            }
        }
        CHECK(worst < bound);
    }
}

TEST_CASE("both engines, the trainer and the reference hear the same, bit for bit") {
    for (int bands : {1, 7, 20, 64}) {
        sound::Geometry g;
        g.bands = bands, g.samples = 64;
        if (bands == 7) g.width = 300, g.part = 0.05, g.floor = 190, g.gate = 190, g.quiet = 190, g.mean = 1;
        if (bands == 20) g.gate = 0;                                                  // no frame is above its own peak
        if (bands == 1) g.samples = 4, g.width = 20, g.memory = 0.001, g.fall = 1000; // narrow: another shift
        sound::Bank b = sound::make_bank(g);
        for (int k = 0; k < bands; ++k) b.prior[size_t(k)] = -200000 - 1000 * k;
        const std::vector<int32_t> x = samples(size_t(g.samples) * 200, uint32_t(bands));
        std::vector<float>         want(200 * size_t(bands));
        sound::features(b, x.data(), int64_t(x.size()), nullptr, want.data());
        const Bytes          file = sound_model(b).file(), integers = quantized(file);
        int_reference::Model reference(integers);
        reference.tracing = true;
        for (size_t t = 0; t < x.size(); t += size_t(g.samples))
            reference.step_q16(int_reference::Vec(x.begin() + int64_t(t), x.begin() + int64_t(t) + g.samples));
        for (ssm::Isa isa : all_back_ends())
            for (const Bytes* which : {&file, &integers}) {
                Loaded                     m(*which, 16, isa);
                const std::vector<int32_t> got = seen_features(m, x);
                REQUIRE(got.size() == want.size());
                size_t wrong = 0;
                for (size_t i = 0; i < got.size(); ++i)
                    wrong += float(got[i]) / 65536.0f != want[i] || got[i] != reference.trace["features"][i];
                CHECK_MESSAGE(wrong == 0, bands, " bands, ", ssm::isa_name(isa));
            }
    }
}

TEST_CASE("the golden vectors of the bank, made by tests/golden/sound/make.py, come out bit for bit") {
    std::ifstream in(SSM_TEST_DIR "/golden/sound/bank.txt");
    REQUIRE(in.good());
    std::string word;
    const auto  numbers = [&](const char* name) { // a line "name n v1 .. vn"
        size_t n = 0;
        in >> word >> n;
        REQUIRE(word == name);
        std::vector<int32_t> v(n);
        for (int32_t& x : v) in >> x;
        REQUIRE(in.good());
        return v;
    };
    std::string comment;
    std::getline(in, comment);
    sound::Bank b;
    const auto  settings = numbers("settings");
    b.bands = settings[0], b.samples = settings[1], b.shift = settings[2], b.leak = settings[3];
    b.mean = settings[4], b.floor = settings[5], b.fall = settings[6], b.gate = settings[7];
    b.quiet = settings[8], b.forget = settings[9];
    b.poles = numbers("poles"), b.full = numbers("full"), b.prior = numbers("prior");
    const auto x = numbers("samples"), want = numbers("features");
    Loaded     m(quantized(sound_model(b).file()));
    CHECK(seen_features(m, x) == want);
}

TEST_CASE("a model of sound: steps, batches, candidates and saved states agree") {
    const sound::Bank          b = sound::make_bank({});
    const std::vector<int32_t> q = samples(64 * 40, 3);
    std::vector<float>         x(q.size());
    for (size_t t = 0; t < x.size(); ++t) x[t] = float(q[t]) / 65536.0f;
    for (const Bytes& file : {sound_model(b).file(), quantized(sound_model(b).file())}) {
        Loaded             one(file), all(file, 5);
        std::vector<float> y(3), z(3), many(3 * 40), saved_y(3);
        Bytes              saved(ssm::saved_bytes(one.config));
        for (size_t t = 0; t < 40; ++t) {
            if (t == 20) REQUIRE(ssm::save(one.model, one.state, saved.data(), saved.size()) == saved.size());
            // The rest of the samples as candidates: the first is what comes next, and nothing moves.
            const Bytes before = state_of(one);
            REQUIRE(ssm::step_batch(one.model, one.state, &one.scratch, &x[t * 64], int32_t(40 - t), many.data()) ==
                    ssm::Status::ok);
            CHECK(state_of(one) == before);
            REQUIRE(ssm::step(one.model, &one.state, &one.scratch, &x[t * 64], y.data()) == ssm::Status::ok);
            CHECK(std::equal(y.begin(), y.end(), many.begin()));
        }
        REQUIRE(ssm::prefill(all.model, &all.state, &all.scratch, x.data(), 40, z.data()) == ssm::Status::ok);
        CHECK(y == z);
        CHECK(state_of(one) == state_of(all));
        REQUIRE(ssm::restore(all.model, &all.state, saved.data(), saved.size()) == ssm::Status::ok);
        REQUIRE(ssm::prefill(all.model, &all.state, &all.scratch, &x[20 * 64], 20, z.data()) == ssm::Status::ok);
        CHECK(y == z);
        CHECK(state_of(one) == state_of(all));
        // Another time step has no meaning here.
        const float dt = 2;
        CHECK(ssm::prefill(all.model, &all.state, &all.scratch, x.data(), 1, z.data(), &dt) ==
              ssm::Status::unsupported);

        // Words of the bank at their limits: y and z may hold anything, others have a range.
        const size_t bank = 64 + 4 * ssm::detail::pool_words(one.config), words = ssm::detail::bank_words(one.config);
        const auto   put = [&](Bytes* s, size_t k, uint32_t v) {
            for (unsigned i = 0; i < 4; ++i) (*s)[bank + 4 * k + i] = static_cast<unsigned char>(v >> 8 * i);
        };
        Bytes wild = saved;
        for (size_t k = 0; k < 20 * 7; ++k)
            put(&wild, k,
                k % 7 < 4     ? (k % 2 == 0 ? 0x80000000u : 0x7fffffffu)
                : k % 7 == 4  ? 0xffffffffu
                : k % 7 == 5  ? 0x7ffffu
                : k % 14 == 6 ? 0x40000000u
                              : 0xc0000000u);
        put(&wild, words - 3, 65536), put(&wild, words - 2, 1u << 22), put(&wild, words - 1, 1);
        repair_checksum(&wild);
        REQUIRE(ssm::restore(one.model, &one.state, wild.data(), wild.size()) == ssm::Status::ok);
        CHECK(ssm::prefill(one.model, &one.state, &one.scratch, x.data(), 40, y.data()) == ssm::Status::ok);
        for (const auto& bad_word : {std::pair<size_t, uint32_t>{5, 1u << 19},
                                     {5, 0xffffffffu},
                                     {6, 0x40000001u},
                                     {words - 3, 65537},
                                     {words - 2, (1u << 22) + 1},
                                     {words - 1, 2}}) {
            Bytes bad = saved;
            put(&bad, bad_word.first, bad_word.second), repair_checksum(&bad);
            CHECK_MESSAGE(ssm::restore(one.model, &one.state, bad.data(), bad.size()) == ssm::Status::bad_state,
                          "word ", bad_word.first);
        }
    }
}

TEST_CASE("a bank that would leave 32 bits, or is not described, is refused") {
    const sound::Bank b = sound::make_bank({});
    const auto        with = [&](const std::function<void(sound::Bank*)>& change) {
        sound::Bank c = b;
        change(&c);
        return sound_model(c);
    };
    refuses(with([](sound::Bank* c) { c->poles[6] = 2147000000, c->poles[7] = 0; }), ssm::Status::bad_value,
            "frontend.poles");
    refuses(with([](sound::Bank* c) { c->poles[6] = 2100000000, c->poles[7] = -2100000000; }), ssm::Status::bad_value,
            "frontend.poles");
    refuses(with([](sound::Bank* c) { c->poles[6] = INT32_MIN; }), ssm::Status::bad_value, "frontend.poles");
    refuses(with([](sound::Bank* c) { c->full[3] = -1; }), ssm::Status::bad_value, "frontend.full");
    refuses(with([](sound::Bank* c) { c->full[3] = (64 << 16) + 1; }), ssm::Status::bad_value, "frontend.full");
    refuses(with([](sound::Bank* c) { c->prior[3] = 1; }), ssm::Status::bad_value, "frontend.prior");
    refuses(with([](sound::Bank* c) { c->samples = 62; }), ssm::Status::bad_config, "d_input");
    refuses(with([](sound::Bank* c) { c->samples = 16; }), ssm::Status::bad_config, "d_input");
    refuses(with([](sound::Bank* c) { c->samples = ssm::max_frame + 4; }), ssm::Status::bad_config, "d_input");
    refuses(with([](sound::Bank* c) { c->shift = 16; }), ssm::Status::bad_config, "band_shift");
    refuses(with([](sound::Bank* c) { c->leak = 16; }), ssm::Status::bad_config, "band_leak");
    refuses(with([](sound::Bank* c) { c->mean = 65537; }), ssm::Status::bad_config, "band_mean");
    for (const char* key : {"d_input", "band_shift", "band_leak", "band_mean", "band_floor", "band_fall", "band_gate",
                            "band_quiet", "band_forget"}) {
        Builder m = sound_model(b);
        m.metadata.erase(key);
        refuses(m, ssm::Status::bad_config, key);
    }
    Builder m = sound_model(b);
    m.tensors.erase("frontend.full");
    refuses(m, ssm::Status::missing_tensor, "frontend.full");
    // The narrowest that fits, and one step of a pole beyond.
    const int64_t most = ((61 << 16) >> b.shift) + 16, one = int64_t(1) << 31;
    int64_t       g = 1;
    while (g * g >> 31 <= most) ++g;
    const auto at = [&](int64_t p) { return with([&](sound::Bank* c) { c->poles[0] = int32_t(p), c->poles[1] = 0; }); };
    Loaded     fits(at(one - g - 1).file());
    refuses(at(one - g), ssm::Status::bad_value, "frontend.poles");
    // Sign for sign the worst that can be said to it.
    std::vector<int32_t> x(64 * 100);
    for (int32_t worst : {65536, -65536}) {
        for (size_t t = 0; t < x.size(); ++t) x[t] = t % 2 == 0 ? worst : -worst;
        int_reference::Model reference(quantized(at(-(one - g - 1)).file()));
        CHECK_NOTHROW(reference.step_q16(int_reference::Vec(x.begin(), x.end())));
    }
}

TEST_CASE("recordings are read, or refused in one line") {
    const std::string folder = "/tmp/ssm-sound-" + std::to_string(::getpid());
    REQUIRE(std::system(("mkdir -p " + folder).c_str()) == 0);
    const auto write = [&](const char* name, const std::string& text) {
        std::ofstream(folder + "/" + name, std::ios::binary) << text;
    };
    const std::string columns = "digit\tspeaker\tindex\toffset\tlength\n";
    const auto        result = [&](const std::string& table, const std::string& raw) {
        write("a.tsv", table), write("a.i16", raw);
        sound::Recordings r;
        std::string       error;
        return sound::read_recordings(folder, "a", &r, &error) ? "ok" : error.substr(error.find(": ") + 2);
    };
    CHECK(result(columns + "3\tanna\t0\t0\t2\n4\tbert\t1\t2\t1\n", std::string("\x01\x02\xff\xff\x00\x80", 6)) == "ok");
    sound::Recordings r;
    std::string       error;
    REQUIRE(sound::read_recordings(folder, "a", &r, &error));
    REQUIRE(sound::read_recordings(folder, "a", &r, &error));
    CHECK(r.samples == std::vector<int16_t>{0x201, -1, -32768, 0x201, -1, -32768});
    CHECK((r.list[3].label == 4 && r.list[3].speaker == "bert" && r.list[3].offset == 5 && r.list[3].length == 1));
    const std::string line = "line 2: expected label, speaker, index, offset and length, within the samples there are";
    for (const char* bad :
         {"3\tanna\t0\t0\t4\n", "3\tanna\t0\t0\t0\n", "3\tanna\t0\t-1\t1\n", "3\tanna\t0\t0\n", "x\tanna\t0\t0\t1\n",
          "3\t\t0\t0\t1\n", "3\tanna\t0\t0\t1\t9\n", "3 anna 0 0 1\n", "3\tanna\t0\t99999999999999999999\t1\n"})
        CHECK_MESSAGE(result(columns + bad, "abcdef") == line, bad);
    CHECK(result(columns, "abcdef") == "holds no recording");
    CHECK(result(columns + "3\tanna\t0\t0\t1\n", "abc") == "an odd number of bytes, expected samples of 16 bits");
    CHECK(!sound::read_recordings(folder, "b", &r, &error));
    CHECK(error == folder + "/b.tsv: No such file or directory");
    CHECK(std::system(("rm -r " + folder).c_str()) == 0);
}
