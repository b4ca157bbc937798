// threads.cpp - one model and many threads, for ThreadSanitizer: `make tsan`. A program of its own, since everything in
// it is compiled with that check.
//
// The models are tiny, so that 8 threads of 10^5 steps each take seconds on a back-end even so. STEPS says another
// number. SPDX-License-Identifier: MIT
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "../int_models.hpp"
#include "../../tools/team.hpp"

#include <atomic>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <thread>

using namespace test;

namespace {
constexpr size_t n_threads = 8;

size_t n_steps() {
    const char* text = std::getenv("STEPS");
    return text != nullptr ? size_t(std::atol(text)) : 100000;
}

// All threads begin at once.
template <class F> void together(size_t n, F f) {
    std::atomic<size_t>      ready{0};
    std::vector<std::thread> all;
    for (size_t i = 0; i < n; ++i)
        all.emplace_back([&, i] {
            ++ready;
            while (ready < n) std::this_thread::yield();
            f(i);
        });
    for (std::thread& t : all) t.join();
}

uint64_t mix(uint64_t h, const void* p, size_t bytes) {
    const auto* b = static_cast<const unsigned char*>(p);
    for (size_t i = 0; i < bytes; ++i) h = (h ^ b[i]) * 0x100000001b3u;
    return h;
}

struct Own { // a state and a scratch of a thread's own
    OwnState     state;
    Bytes        memory;
    ssm::Scratch scratch;
    explicit Own(const ssm::Model& m) : state(m), memory(ssm::scratch_bytes(m.config, 1) + 16) {
        const size_t skew = (16 - reinterpret_cast<uintptr_t>(memory.data()) % 16) % 16;
        scratch = ssm::Scratch{memory.data() + skew, ssm::scratch_bytes(m.config, 1), 1};
    }
};

// `steps` steps of one stream, a candidate now and then: a digest of every output and of the state at the end.
uint64_t stream(const ssm::Model& m, size_t steps, const std::vector<float>& x, const ssm::Team* team = nullptr) {
    Own                own(m);
    const size_t       in = size_t(m.config.d_input), rows = x.size() / in;
    std::vector<float> y(size_t(m.config.d_output));
    uint64_t           h = 0xcbf29ce484222325u;
    own.scratch.team = team;
    for (size_t t = 0; t < steps; ++t) {
        const float* at = &x[t % rows * in];
        if (t % 16 == 0 && ssm::step_batch(m, own.state.state, &own.scratch, at, 1, y.data()) == ssm::Status::ok)
            h = mix(h, y.data(), y.size() * 4);
        if (ssm::step(m, &own.state.state, &own.scratch, at, y.data()) != ssm::Status::ok) return 0;
        if (t % 16 < 2) h = mix(h, y.data(), y.size() * 4);
    }
    return mix(h, own.state.bytes.data(), own.state.bytes.size());
}

Bytes made(const char* text, bool integers) {
    const Bytes file = random_file(spec(text));
    return integers ? quantized(file) : file;
}

void many_threads(const char* text) {
    for (bool integers : {false, true})
        for (ssm::Isa isa : all_back_ends()) {
            Loaded            loaded(made(text, integers), 1, isa);
            const ssm::Model& m = loaded.model;
            const auto        x = random_inputs(61 * size_t(m.config.d_input));
            const uint64_t    want = stream(m, n_steps(), x);
            uint64_t          got[n_threads] = {};
            REQUIRE(want != 0);
            together(n_threads, [&](size_t i) { got[i] = stream(m, n_steps(), x); });
            for (uint64_t h : got)
                CHECK_MESSAGE(h == want, text, ", ", integers ? "integers" : "float", ", ", ssm::isa_name(isa));
        }
}
} // namespace

TEST_CASE(
    "C-03 S4D: one model, 8 threads, 10^5 steps each, every back-end, float and integers: the bits of one thread") {
    many_threads("s4d,d_model=4,n_layer=1,d_state=4,d_input=2,d_output=1,pool=mean");
}
TEST_CASE(
    "C-03 Mamba-3: one model, 8 threads, 10^5 steps each, every back-end, float and integers: the bits of one thread") {
    many_threads("mamba3,d_model=4,n_layer=1,d_state=4,headdim=4,d_input=2,d_output=1");
}
TEST_CASE("C-03 Mamba-2, Mamba-1 and a model of sound: one model, 8 threads, every back-end: the bits of one thread") {
    for (const char* text : {"mamba2,d_model=4,n_layer=1,d_state=4,headdim=4,d_input=2,d_output=1",
                             "mamba1,d_model=4,n_layer=1,d_state=4,d_input=2,d_output=1",
                             "s4d,d_model=4,n_layer=1,d_state=4,d_input=8,bands=3,d_output=2,pool=mean"})
        for (bool integers : {false, true})
            for (ssm::Isa isa : all_back_ends()) {
                Loaded         m(made(text, integers), 1, isa);
                const size_t   steps = n_steps() / 20;
                const auto     x = random_inputs(61 * size_t(m.config.d_input));
                const uint64_t want = stream(m.model, steps, x);
                uint64_t       got[n_threads] = {};
                together(n_threads, [&](size_t i) { got[i] = stream(m.model, steps, x); });
                for (uint64_t h : got) CHECK_MESSAGE(h == want, text, ", ", ssm::isa_name(isa));
            }
}

TEST_CASE(
    "C-03 a model split among the threads of a team, two teams at once on every back-end: the bits of one thread") {
    tool::Team two(2), three(3, std::chrono::nanoseconds(0)); // the second sleeps at once when it is idle
    for (const char* text : {"mamba3,d_model=200,n_layer=1,d_state=64,headdim=16,d_input=3,d_output=700",
                             "s4d,d_model=300,n_layer=1,d_state=16,d_input=500,d_output=3"})
        for (bool integers : {false, true})
            for (ssm::Isa isa : all_back_ends()) {
                Loaded         m(made(text, integers), 1, isa);
                const auto     x = random_inputs(5 * size_t(m.config.d_input));
                const size_t   steps = std::min<size_t>(n_steps(), 12);
                const uint64_t want = stream(m.model, steps, x);
                uint64_t       got[2] = {};
                together(2, [&](size_t i) { got[i] = stream(m.model, steps, x, (i == 0 ? two : three).hook()); });
                for (uint64_t h : got) CHECK_MESSAGE(h == want, text, ", ", ssm::isa_name(isa));
            }
}

TEST_CASE(
    "C-03 a team's jobs, one after the other: each part is done once, and is seen by the caller when run() returns") {
    tool::Team           team(4);
    std::vector<int32_t> seen(16); // not atomic: that run() orders it is what is tested
    struct Job {
        std::vector<int32_t>* seen;
    } job{&seen};
    const int32_t rounds = int32_t(n_steps() / 4);
    for (int32_t k = 0; k < rounds; ++k)
        team.hook()->run(
            team.hook()->self, [](void* p, int32_t i) { ++(*static_cast<Job*>(p)->seen)[size_t(i)]; }, &job,
            1 + k % 16);
    int64_t total = 0, want = 0;
    for (int32_t v : seen) total += v;
    for (int32_t k = 0; k < rounds; ++k) want += 1 + k % 16;
    CHECK(total == want);
}

TEST_CASE(
    "C-03 an idle team spins for a bounded time: 8 threads that wait 0.3 s take less than 0.1 s of processor time") {
    tool::Team team(8);
    int        none = 0;
    team.hook()->run(
        team.hook()->self, [](void*, int32_t) {}, &none, 8);
    const auto before = std::clock();
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    CHECK(double(std::clock() - before) / CLOCKS_PER_SEC < 0.1);
}

TEST_CASE("C-04 back-ends are found and models loaded by 8 threads at once, from the first call on: one answer") {
    const Bytes file = made("s4d,d_model=4,n_layer=1,d_state=4,d_input=2,d_output=1,pool=mean", true);
    for (int round = 0; round < 50; ++round) {
        std::string names[n_threads];
        uint64_t    digests[n_threads] = {};
        together(n_threads, [&](size_t i) {
            for (int k = 0; ssm::isa_name(ssm::Isa(k)) != nullptr; ++k)
                if (ssm::isa_runs_here(ssm::Isa(k))) names[i] += std::string(ssm::isa_name(ssm::Isa(k))) + " ";
            const ssm::Blob blob{file.data(), file.size()}; // one file for all
            Bytes           work(ssm::index_bytes(blob));
            ssm::Config     c;
            if (ssm::inspect(&c, blob, work.data(), work.size()) != ssm::Status::ok) return;
            Bytes      memory(ssm::arena_bytes(c, 1, 1));
            ssm::Arena arena{memory.data(), memory.size(), 0};
            ssm::Model m;
            if (ssm::load(&m, blob, &arena) != ssm::Status::ok) return;
            names[i] += ssm::isa_name(m);
            digests[i] = stream(m, 20, random_inputs(14));
        });
        for (size_t i = 0; i < n_threads; ++i) {
            REQUIRE(names[i] == names[0]);
            REQUIRE(digests[i] == digests[0]);
        }
        REQUIRE(digests[0] != 0);
    }
}
