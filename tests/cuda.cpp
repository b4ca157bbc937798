// cuda.cpp - ssm_cuda.cu against the CPU, bit for bit: outputs and whole states. On a GPU where this was linked with
// what nvcc made (make cuda), else on an emulated one (cuda_emulated.cpp).
// SPDX-License-Identifier: MIT
#define SSM_CUDA
#include "int_models.hpp"

#include <algorithm>
#include <memory>

namespace {
using namespace test;
using ssm::Status;
namespace gpu = ssm::cuda;

bool no_gpu() {
    static const bool none = [] {
        ssm::Fault why;
        const bool missing = gpu::available(0, &why) != Status::ok;
        if (missing) std::fprintf(stderr, "skipped: GPU tests: %s\n", why.detail);
        return missing;
    }();
    return none;
}

struct OnGpu {
    gpu::Device* device = nullptr;
    OnGpu(const ssm::Model& m, int32_t slots, int32_t max_batch, int32_t fused) {
        gpu::Options o;
        o.slots = slots, o.max_batch = max_batch, o.fused = fused;
        ssm::Fault why;
        REQUIRE_MESSAGE(gpu::create(&device, m, o, &why) == Status::ok, std::string(why.detail));
    }
    ~OnGpu() { gpu::destroy(device); }
    OnGpu(const OnGpu&) = delete;
    OnGpu&  operator=(const OnGpu&) = delete;
    int32_t processors() const { return std::string(gpu::name_of(device)) == "emulated" ? 4 : 132; }
};

std::vector<float> noise(size_t n, uint32_t seed, float size = 1.0f) {
    std::mt19937       engine(seed);
    std::vector<float> v(n);
    for (float& x : v) x = size * (float(double(engine()) / 2147483648.0) - 1.0f);
    return v;
}
bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * 4) == 0);
}

// Streams on the CPU and on the GPU, driven alike.
struct Both {
    Loaded                                 m;
    std::vector<std::unique_ptr<OwnState>> own;
    OnGpu                                  there;
    uint32_t                               seed = 1;
    float                                  input_size = 2.0f;
    bool                                   gaps, extreme;

    Both(Bytes file, int32_t slots, int32_t max_batch, int32_t fused, bool extreme_inputs_too = false)
        : m(std::move(file), 16, ssm::Isa::best), there(m.model, slots, max_batch, fused),
          gaps(m.config.n_bands == 0 &&
               (m.config.arch != ssm::Arch::s4d || !ssm::is_integer(m.config) || m.config.has_gaps)),
          extreme(extreme_inputs_too) {
        for (int32_t i = 0; i < slots; ++i) own.push_back(std::make_unique<OwnState>(m.model));
    }
    size_t             in() const { return size_t(m.config.d_input); }
    size_t             out() const { return size_t(m.config.d_output); }
    std::vector<float> input(size_t rows) {
        return extreme ? extreme_inputs(rows * in(), ++seed) : noise(rows * in(), ++seed, input_size);
    }
    std::vector<float> dts(size_t rows) {
        std::vector<float> v = noise(rows, ++seed);
        for (float& x : v) x = x < 0.0f || !gaps ? 1.0f : 0.25f + 3.0f * x;
        return v;
    }
    void step(const std::vector<int32_t>& slots, bool with_dt) {
        const size_t             n = slots.size();
        const std::vector<float> x = input(n), dt = dts(n);
        std::vector<float>       want(n * out()), got(n * out(), -1.0f);
        for (size_t i = 0; i < n; ++i)
            REQUIRE(ssm::step(m.model, &own[size_t(slots[i])]->state, &m.scratch, &x[i * in()], &want[i * out()],
                              with_dt ? dt[i] : 1.0f) == Status::ok);
        REQUIRE(gpu::step(there.device, slots.data(), x.data(), int32_t(n), got.data(),
                          with_dt ? dt.data() : nullptr) == Status::ok);
        CHECK(same_bits(want, got));
    }
    void prefill(const std::vector<int32_t>& slots, int32_t T, bool with_dt) {
        const size_t             n = slots.size(), rows = n * size_t(T);
        const std::vector<float> x = input(rows), dt = dts(rows);
        std::vector<float>       want(n * out()), got(n * out(), -1.0f);
        for (size_t i = 0; i < n; ++i)
            REQUIRE(ssm::prefill(m.model, &own[size_t(slots[i])]->state, &m.scratch, &x[i * size_t(T) * in()], T,
                                 &want[i * out()], with_dt ? &dt[i * size_t(T)] : nullptr) == Status::ok);
        REQUIRE(gpu::prefill(there.device, slots.data(), x.data(), int32_t(n), T, got.data(),
                             with_dt ? dt.data() : nullptr) == Status::ok);
        CHECK(same_bits(want, got));
    }
    // The same in Q16, outputs too.
    void step_q16(const std::vector<int32_t>& slots) {
        const size_t         n = slots.size();
        std::vector<int32_t> x, dt, want(n * out()), got(n * out(), -1), candidates(got);
        for (float v : input(n)) x.push_back(ssm::to_q16(v));
        for (float v : dts(n)) dt.push_back(ssm::to_q16(v) + (gaps ? 1 : 0)); // more bits than a float has
        for (size_t i = 0; i < n; ++i)
            REQUIRE(ssm::step_q16(m.model, &own[size_t(slots[i])]->state, &m.scratch, &x[i * in()], &want[i * out()],
                                  dt[i]) == Status::ok);
        for (size_t i = 0; i < n; ++i)
            REQUIRE(gpu::step_batch_q16(there.device, slots[i], &x[i * in()], 1, &candidates[i * out()], &dt[i]) ==
                    Status::ok);
        REQUIRE(gpu::step_q16(there.device, slots.data(), x.data(), int32_t(n), got.data(), dt.data()) == Status::ok);
        CHECK(got == want);
        CHECK(candidates == want);
    }
    void candidates(int32_t slot, size_t n, bool with_dt) {
        const std::vector<float> x = input(n), dt = dts(n);
        std::vector<float>       want(n * out()), got(n * out(), -1.0f);
        REQUIRE(ssm::step_batch(m.model, own[size_t(slot)]->state, &m.scratch, x.data(), int32_t(n), want.data(),
                                with_dt ? dt.data() : nullptr) == Status::ok);
        REQUIRE(gpu::step_batch(there.device, slot, x.data(), int32_t(n), got.data(), with_dt ? dt.data() : nullptr) ==
                Status::ok);
        CHECK(same_bits(want, got));
    }
    void same_states() {
        OwnState back(m.model);
        for (size_t i = 0; i < own.size(); ++i) {
            REQUIRE(gpu::get_state(there.device, int32_t(i), &back.state) == Status::ok);
            if (ssm::is_integer(m.config)) CHECK(back.bytes == own[i]->bytes);
            else same_numbers(back, *own[i]);
        }
    }
    // Float states have unused lanes behind the last head and row, which the CPU's vectors write to.
    void same_numbers(const OwnState& a, const OwnState& b) {
        const size_t head = ssm::detail::state_header_bytes + ssm::detail::head_words(m.config) * 4;
        CHECK(std::memcmp(a.bytes.data(), b.bytes.data(), head) == 0);
        for (int32_t l = 0; l < m.config.n_layers; ++l)
            for (ssm::Part part : {ssm::Part::ssm_state, ssm::Part::conv_state, ssm::Part::angle_state,
                                   ssm::Part::k_state, ssm::Part::v_state})
                CHECK(same_bits(part_of(m.model, a.state, l, part), part_of(m.model, b.state, l, part)));
    }
    void everything() {
        step({3, 0, 4}, false);
        prefill({1, 3}, 5, false);
        candidates(3, 9, false);
        step({0, 1, 2, 3, 4}, true);
        prefill({4}, 19, true);
        candidates(4, 2, true);
        if (ssm::is_integer(m.config)) step_q16({2, 4});
        same_states();
    }
};

std::string name_of_gpu(const Bytes& file) {
    const Loaded m(file);
    return gpu::name_of(OnGpu(m.model, 1, 1, -1).device);
}

constexpr int32_t slots = 5, batch = 7;
std::string       about(const random_model::Spec& s, const char* how, int32_t fused) {
          return s.arch + " d_model=" + std::to_string(s.d_model) + " d_state=" + std::to_string(s.d_state) +
                 " rank=" + std::to_string(s.mimo_rank) + " " + how + (fused != 0 ? " fused" : " apart");
}
} // namespace

TEST_CASE("cuda: integer models of every shape give the CPU's bits: ragged steps, prefill, candidates, gaps (slow)") {
    if (no_gpu()) return;
    for (const random_model::Spec& s : int_cells())
        for (int32_t kind = 0; kind < 4; ++kind) {
            quantize::Settings settings;
            settings.int4 = kind % 2 != 0, settings.act16 = kind >= 2;
            settings.row_exponents = (kind == 1 || kind == 2) && row_exponents_possible(s);
            const int32_t fused = kind == 0 || kind == 3;
            const char*   names[] = {"int8", "int4", "int8, 16-bit codes", "int4, 16-bit codes"};
            INFO(about(s, names[kind], fused));
            Both(int_model(s, settings), slots, batch, fused).everything();
        }
}
TEST_CASE("cuda: integer models at the limits of every number give the CPU's bits (slow)") {
    if (no_gpu()) return;
    uint32_t seed = 100;
    for (const random_model::Spec& s : int_cells()) {
        quantize::Settings settings;
        settings.int4 = ++seed % 2 != 0, settings.act16 = seed % 4 >= 2,
        settings.row_exponents = seed % 3 == 0 && row_exponents_possible(s);
        INFO(about(s, "extreme", seed % 2 == 0));
        Both(extreme(int_model(s, settings), seed), slots, batch, seed % 2 == 0, true).everything();
    }
}
TEST_CASE("cuda: float models of every shape give the CPU's bits (slow)") {
    if (no_gpu()) return;
    std::vector<random_model::Spec> all = all_cells();
    for (const random_model::Spec& s : int_cells())
        if (s.arch == "s4d") all.push_back(s);
    int32_t fused = 0;
    for (const random_model::Spec& s : all) {
        fused = 1 - fused;
        INFO(about(s, "float", fused));
        Both(random_file(s), slots, batch, fused).everything();
    }
}
TEST_CASE("cuda: projections wider than a tile and N beyond one pass give the CPU's bits (slow)") {
    if (no_gpu()) return;
    for (const char* text :
         {"mamba3,d_model=72,n_layer=1,d_state=132,headdim=16",
          "mamba3,d_model=48,n_layer=1,d_state=150,headdim=48,mimo_rank=2",
          "s4d,d_model=24,n_layer=1,d_state=140,d_input=3,d_output=2", "mamba1,d_model=40,n_layer=1,d_state=33"})
        for (int32_t fused : {0, 1}) {
            random_model::Spec s = spec(text);
            INFO(about(s, "wide", fused));
            Both q(int_model(s), slots, 40, fused), f(random_file(s), slots, 40, fused);
            q.everything(), f.everything();
            q.candidates(1, 37, false), f.candidates(1, 37, true);
            q.prefill({2, 3}, 33, true), f.prefill({2, 3}, 33, false);
            q.same_states(), f.same_states();
        }
}
TEST_CASE("cuda: many streams, each a warp's, give the CPU's bits (slow)") {
    if (no_gpu()) return;
    for (const char* text :
         {"mamba3,d_model=16,n_layer=1,d_state=16,headdim=8",
          "mamba3,d_model=12,n_layer=1,d_state=12,headdim=4,mimo_rank=2",
          "mamba2,d_model=16,n_layer=1,d_state=8,headdim=8", "mamba1,d_model=16,n_layer=1,d_state=5"})
        for (bool codes : {false, true}) {
            quantize::Settings settings;
            settings.row_exponents = codes;
            const random_model::Spec s = spec(text);
            INFO(about(s, codes ? "codes" : "numbers", 0));
            Both                 b(int_model(s, settings), 70, 80, 0);
            std::vector<int32_t> all;
            for (int32_t i = 0; i < 70; ++i) all.push_back(i);
            b.step(all, false), b.step(all, true), b.candidates(3, 80, true), b.same_states();
            if (b.there.processors() * 16 <= 70) continue;
            Both                 more(int_model(s, settings), 5000, 5000, 0); // enough for a GPU of any size
            std::vector<int32_t> many;
            for (int32_t i = 0; i < 5000; ++i) many.push_back(i);
            more.step(many, false), more.step(many, true), more.candidates(3, 5000, true), more.same_states();
        }
}
TEST_CASE("cuda: the shipped integer models give the CPU's bits in batches of 1, 7, 64 and 4096 (slow)") {
    if (no_gpu()) return;
    for (const char* name : {"next-i8", "next-i4", "parity-i8", "parity-i4", "relevance-i8", "relevance-i4",
                             "smnist-i8", "smnist-i4", "digits-i8", "digits-i4"}) {
        INFO(std::string(name));
        Bytes      file = read_file(std::string(SSM_TEST_DIR "/../weights/") + name + ".safetensors");
        const bool emulated = name_of_gpu(file) == "emulated";
        for (int32_t n : {1, 7, 64, 4096}) {
            if (emulated && n > 7) break;
            Both                 b(file, n, n, -1);
            std::vector<int32_t> all;
            for (int32_t i = 0; i < n; ++i) all.push_back(i);
            for (int32_t t = 0; t < (emulated ? 2 : 5); ++t) b.step(all, t == 1);
            b.candidates(n - 1, size_t(n), false);
            if (!emulated) b.prefill(all, 3, false);
            b.same_states();
        }
    }
}
TEST_CASE("cuda: states go to the GPU and back, and go on there where they stood") {
    if (no_gpu()) return;
    Both b(int_model(spec("mamba3,d_model=24,n_layer=2,d_state=8,headdim=8,d_input=3,d_output=2")), 3, 4, -1);
    const std::vector<float> x = b.input(6);
    for (size_t t = 0; t < 6; ++t)
        REQUIRE(ssm::step(b.m.model, &b.own[1]->state, &b.m.scratch, &x[t * b.in()], nullptr) == Status::ok);
    REQUIRE(gpu::put_state(b.there.device, 1, b.own[1]->state) == Status::ok);
    b.step({1, 2}, false), b.candidates(1, 3, false), b.same_states();
    REQUIRE(gpu::reset(b.there.device, 1) == Status::ok);
    ssm::reset(b.m.model, &b.own[1]->state);
    b.step({1}, true), b.same_states();
}
TEST_CASE("cuda: P-03: a stream that has counted to 2^64 - 1 steps goes on as on the CPU, its mean not divided by 0") {
    if (no_gpu()) return;
    Both      b(random_file(spec("s4d,d_model=8,n_layer=1,d_state=4,d_input=2,d_output=2,pool=mean")), 2, 4, -1);
    OwnState& own = *b.own[1];
    Bytes     saved(ssm::saved_bytes(b.m.config));
    const std::vector<float> x = b.input(5);
    REQUIRE(ssm::prefill(b.m.model, &own.state, &b.m.scratch, x.data(), 5, nullptr) == Status::ok);
    REQUIRE(ssm::save(b.m.model, own.state, saved.data(), saved.size()) == saved.size());
    std::memset(saved.data() + 56, 0xff, 8);
    for (uint64_t before : {UINT64_MAX - 1, UINT64_MAX}) {
        saved[56] = static_cast<unsigned char>(before);
        repair_checksum(&saved);
        REQUIRE(ssm::restore(b.m.model, &own.state, saved.data(), saved.size()) == Status::ok);
        REQUIRE(ssm::steps_of(b.m.model, own.state) == before);
        REQUIRE(gpu::put_state(b.there.device, 1, own.state) == Status::ok);
        b.candidates(1, 3, false);
        b.step({1}, false), b.prefill({0, 1}, 2, false), b.same_states();
    }
}
TEST_CASE("cuda: N-09: float states settle at the steps at which they settle on the CPU") {
    if (no_gpu()) return;
    for (const char* text : {"s4d,d_model=8,n_layer=1,d_state=8,d_input=2,d_output=2",
                             "mamba1,d_model=8,n_layer=1,d_state=4,d_input=2,d_output=2",
                             "mamba2,d_model=8,n_layer=1,d_state=8,headdim=8,d_input=2,d_output=2",
                             "mamba3,d_model=8,n_layer=1,d_state=8,headdim=8,d_input=2,d_output=2"}) {
        Both b(lasting(text), 3, 9, -1);
        b.input_size = 0.0f;
        for (int32_t slot : {0, 2}) {
            OwnState&          own = *b.own[size_t(slot)];
            std::vector<float> h = part_of(b.m.model, own.state, 0, ssm::Part::ssm_state);
            for (size_t i = 0; i < h.size(); ++i) h[i] = std::ldexp(1.0f, -95 - int(i % 16));
            REQUIRE(ssm::set_state(b.m.model, &own.state, 0, ssm::Part::ssm_state, h.data(), int32_t(h.size())));
            REQUIRE(gpu::put_state(b.there.device, slot, own.state) == Status::ok);
        }
        b.prefill({2}, 5, false); // so that the streams settle at different calls
        b.prefill({0, 2}, 57, false), b.same_states();
        for (int32_t t = 0; t < 9; ++t) b.step({0, 1, 2}, false), b.same_states();
    }
}
TEST_CASE("cuda: what cannot be is refused, nothing changes, and the next call works") {
    if (no_gpu()) return;
    Both b(int_model(spec("mamba3,d_model=24,n_layer=1,d_state=8,headdim=8,d_input=3,d_output=2")), 4, 5, -1);
    gpu::Device* const d = b.there.device;
    std::vector<float> x = b.input(8), y(16), bad = x, dt(8, 1.0f);
    ssm::Fault         why;
    const auto         refused = [&](Status got, Status want, const char* words) {
        CHECK(got == want);
        CHECK_MESSAGE(std::string(why.detail).find(words) != std::string::npos, std::string(why.detail));
        b.same_states();
        b.step({2, 0}, false);
    };
    const int32_t twice[] = {1, 0, 1}, far[] = {0, 4}, negative[] = {-1}, good[] = {0, 1, 2};
    refused(gpu::step(d, twice, x.data(), 3, y.data(), nullptr, &why), Status::bad_argument, "twice");
    refused(gpu::step(d, far, x.data(), 2, y.data(), nullptr, &why), Status::bad_argument, "no such slot");
    refused(gpu::step(d, negative, x.data(), 1, y.data(), nullptr, &why), Status::bad_argument, "no such slot");
    refused(gpu::step(d, good, nullptr, 2, y.data(), nullptr, &why), Status::bad_argument, "x is null");
    refused(gpu::step(d, nullptr, x.data(), 2, y.data(), nullptr, &why), Status::bad_argument, "slots is null");
    refused(gpu::step(d, good, x.data(), -1, y.data(), nullptr, &why), Status::bad_argument, "negative");
    refused(gpu::step(nullptr, good, x.data(), 1, y.data(), nullptr, &why), Status::bad_argument, "no device");
    refused(gpu::prefill(d, good, x.data(), 1, -2, y.data(), nullptr, &why), Status::bad_argument, "negative");
    refused(gpu::step_batch(d, 4, x.data(), 1, y.data(), nullptr, &why), Status::bad_argument, "no such slot");
    refused(gpu::step_batch(d, 0, x.data(), 1, nullptr, nullptr, &why), Status::bad_argument, "y is null");
    refused(gpu::put_state(d, 9, b.own[0]->state, &why), Status::bad_argument, "no such slot");
    refused(gpu::put_state(d, 0, ssm::State{b.own[0]->state.data, 7}, &why), Status::bad_argument, "not this model's");
    refused(gpu::get_state(d, 0, nullptr, &why), Status::bad_argument, "no state");
    bad[4] = std::nanf("");
    refused(gpu::step(d, good, bad.data(), 3, y.data(), nullptr, &why), Status::bad_input, "");
    refused(gpu::step_batch(d, 0, bad.data(), 3, y.data(), nullptr, &why), Status::bad_input, "");
    dt[1] = -1.0f;
    refused(gpu::step(d, good, x.data(), 3, y.data(), dt.data(), &why), Status::bad_input, "");
    gpu::Device* other = nullptr;
    gpu::Options o;
    o.slots = 0;
    CHECK(gpu::create(&other, b.m.model, o, &why) == Status::bad_argument);
    CHECK(gpu::device_bytes(b.m.model, o) == 0);
    o.slots = 1, o.max_batch = ssm::max_batch + 1;
    CHECK(gpu::create(&other, b.m.model, o, &why) == Status::bad_argument);
    CHECK(gpu::create(&other, ssm::Model(), gpu::Options(), &why) == Status::bad_argument);
    CHECK(gpu::create(nullptr, b.m.model, gpu::Options(), &why) == Status::bad_argument);
    o.max_batch = 4, o.slots = (1 << 24) + 1; // too many
    CHECK(gpu::create(&other, b.m.model, o, &why) == Status::bad_argument);
    CHECK(other == nullptr);
    o.slots = 1, o.device = 99;
    CHECK(gpu::create(&other, b.m.model, o, &why) == Status::gpu);
    CHECK(other == nullptr);
    gpu::destroy(nullptr);
    CHECK(gpu::step(d, nullptr, nullptr, 0, nullptr) == Status::ok);
    CHECK(gpu::step_batch(d, 0, nullptr, 0, nullptr) == Status::ok);
    b.same_states();
}
TEST_CASE("cuda: more than the GPU's memory is refused, and the next call works") {
    if (no_gpu()) return;
    Loaded       m(int_model(spec("mamba3,d_model=64,n_layer=4,d_state=64,headdim=16,d_input=3,d_output=2")));
    gpu::Options o;
    o.slots = 1 << 20; // 200 GB
    REQUIRE(gpu::device_bytes(m.model, o) > size_t(100) << 30);
    gpu::Device* d = nullptr;
    ssm::Fault   why;
    CHECK(gpu::create(&d, m.model, o, &why) == Status::gpu);
    CHECK(std::string(why.detail) == "out of memory");
    CHECK(d == nullptr);
    o.slots = 2;
    REQUIRE(gpu::create(&d, m.model, o, &why) == Status::ok);
    const int32_t            both[2] = {1, 0};
    const std::vector<float> x = noise(6, 1);
    std::vector<float>       y(4), want(4);
    CHECK(gpu::step(d, both, x.data(), 2, y.data()) == Status::ok);
    CHECK(ssm::step_batch(m.model, m.state, &m.scratch, x.data(), 2, want.data()) == Status::ok);
    CHECK(y == want);
    gpu::destroy(d);
}
TEST_CASE("cuda: the bytes are known before, and grow with slots and rows as stated") {
    if (no_gpu()) return;
    const Loaded m(int_model(spec("mamba3,d_model=24,n_layer=1,d_state=8,headdim=8,d_input=3,d_output=2")));
    gpu::Options one, more;
    one.slots = 1, more.slots = 11;
    const size_t state = (ssm::state_bytes(m.config) + 255) / 256 * 256;
    CHECK(gpu::device_bytes(m.model, more) - gpu::device_bytes(m.model, one) == 10 * state);
    CHECK(gpu::device_bytes(ssm::Model()) == 0);
}
TEST_CASE("cuda: times are measured") {
    if (no_gpu()) return;
    Both       b(int_model(spec("s4d,d_model=12,n_layer=1,d_state=6,d_input=2,d_output=3")), 3, 4, 0);
    gpu::Times t;
    for (bool candidates : {false, true}) {
        REQUIRE(gpu::measure(b.there.device, 3, candidates, 3, &t) == Status::ok);
        CHECK(t.step > 0.0);
        CHECK(t.scan > 0.0);
        CHECK(t.copy_rate > 0.0);
        CHECK(t.scan_bytes == size_t(candidates ? 1 : 6) * 36 * 2 * 4);
    }
    CHECK(gpu::measure(b.there.device, 5, true, 3, &t) == Status::bad_argument);
    CHECK(gpu::measure(b.there.device, 4, false, 3, &t) == Status::bad_argument);
    CHECK(std::string(gpu::name_of(b.there.device)) != "");
}
