// team.cpp - calls split among threads give the bits of one thread; the threads themselves.
// SPDX-License-Identifier: MIT
#include "int_models.hpp"
#include "../tools/team.hpp"

#include <condition_variable>
#include <numeric>

using namespace test;

namespace {
// A team that counts its jobs and forwards them, or, without one behind it, does the parts itself, the last one first.
struct Counting {
    const ssm::Team* to;
    size_t           jobs = 0, parts = 0;
    ssm::Team        hook;
    Counting(const ssm::Team* team, int32_t n) : to(team) { hook = {&run, this, n}; }
    static void run(void* self, void (*part)(void*, int32_t), void* job, int32_t n) {
        auto& me = *static_cast<Counting*>(self);
        me.jobs += 1, me.parts += size_t(n);
        CHECK(n >= 1);
        CHECK(n <= std::max(1, std::min(me.hook.parts, ssm::max_parts)));
        if (me.to != nullptr) return me.to->run(me.to->self, part, job, n);
        for (int32_t i = n; i-- > 0;) part(job, i);
    }
};

// What a model gives and where it stands after a step, candidates, prefill and streams.
Bytes everything(Loaded& m, const ssm::Team* team) {
    const size_t       in = size_t(m.config.d_input), out = size_t(m.config.d_output), n = 9;
    const auto         x = random_inputs(n * in);
    std::vector<float> y(n * out), dt(n, 1.0f);
    if (m.config.arch != ssm::Arch::s4d || m.config.has_gaps || !ssm::is_integer(m.config)) dt[3] = 2.5f, dt[7] = 0.5f;
    Bytes      all;
    const auto keep = [&](const void* p, size_t bytes) {
        const auto* b = static_cast<const unsigned char*>(p);
        all.insert(all.end(), b, b + bytes);
    };
    ssm::reset(m.model, &m.state);
    m.scratch.team = team;
    for (size_t t = 0; t < 3; ++t) {
        REQUIRE(ssm::step(m.model, &m.state, &m.scratch, &x[t * in], y.data()) == ssm::Status::ok);
        keep(y.data(), out * 4);
    }
    REQUIRE(ssm::step_batch(m.model, m.state, &m.scratch, x.data(), int32_t(n), y.data(), dt.data()) ==
            ssm::Status::ok);
    keep(y.data(), y.size() * 4);
    REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), int32_t(n), y.data(), dt.data()) == ssm::Status::ok);
    keep(y.data(), out * 4);
    std::vector<OwnState>   streams(4, OwnState(m.model, m.state));
    std::vector<ssm::State> states;
    for (OwnState& s : streams) states.push_back(s.state);
    REQUIRE(ssm::step_streams(m.model, states.data(), 4, &m.scratch, x.data(), y.data(), dt.data()) == ssm::Status::ok);
    keep(y.data(), 4 * out * 4);
    REQUIRE(ssm::score_streams(m.model, states.data(), 4, &m.scratch, x.data(), y.data()) == ssm::Status::ok);
    keep(y.data(), 4 * out * 4);
    for (const OwnState& s : streams) keep(s.bytes.data(), s.bytes.size());
    const Bytes state = state_of(m);
    keep(state.data(), state.size());
    return all;
}

// One of each cell, large enough that single steps are split, and rows that no number of parts divides.
const char* const large[] = {
    "mamba3,d_model=200,n_layer=2,d_state=128,headdim=16,d_input=3,d_output=700",
    "mamba3,d_model=176,n_layer=1,d_state=64,headdim=32,mimo_rank=2,ngroups=11,rope_fraction=1.0,mlp_hidden=600",
    "mamba3,d_model=192,n_layer=1,d_state=50,headdim=24,clip=1,norm=layer",
    "mamba3,d_model=384,n_layer=1,d_state=32,headdim=384,mimo_rank=4,d_input=3,d_output=5", // heads too wide for parts
    "mamba2,d_model=184,n_layer=2,d_state=128,headdim=16,d_conv=3",
    "mamba2,d_model=192,n_layer=1,d_state=63,headdim=48,ngroups=2,clip=1",
    "mamba1,d_model=260,n_layer=1,d_state=33,clip=1",
    "s4d,d_model=300,n_layer=1,d_state=16,d_input=500,d_output=3",
};

// Every way to run the model of `file`: on every back-end in parts, on the best one by every team.
void check_bits(const Bytes& file, const std::string& name, const std::vector<tool::Team*>& teams, bool always) {
    const auto check = [&](ssm::Isa isa, const std::vector<int32_t>& in_parts, const std::vector<tool::Team*>& by) {
        Loaded      m(file, 7, isa);
        const Bytes want = everything(m, nullptr);
        for (int32_t parts : in_parts) {
            Counting c(nullptr, parts);
            REQUIRE_MESSAGE(everything(m, &c.hook) == want, name, ", ", ssm::isa_name(isa), ", ", parts, " parts");
            if (always) CHECK(c.jobs > 0);
            if (always && parts > 1) CHECK(c.parts > c.jobs);
        }
        for (tool::Team* team : by)
            REQUIRE_MESSAGE(everything(m, team->hook()) == want, name, ", ", ssm::isa_name(isa), ", ",
                            team->hook()->parts, " parts on threads");
    };
    for (ssm::Isa isa : all_back_ends()) check(isa, {3, 64}, {});
    check(ssm::Isa::best, {1, 2, 8, 1000, 0}, teams);
}

struct Teams {
    tool::Team               one{1}, two{2}, three{3}, eight{8}, sleepy{2, std::chrono::nanoseconds(0)};
    std::vector<tool::Team*> all{&one, &two, &three, &eight, &sleepy};
};

// Counts what was done of a job.
struct Job {
    std::atomic<int32_t>              done{0};
    std::vector<std::atomic<int32_t>> each;
    explicit Job(size_t n) : each(n) {}
    static void part(void* job, int32_t i) {
        ++static_cast<Job*>(job)->each[size_t(i)], ++static_cast<Job*>(job)->done;
    }
};
void run(const tool::Team& team, void (*part)(void*, int32_t), void* job, int32_t n) {
    team.hook()->run(team.hook()->self, part, job, n);
}
} // namespace

TEST_CASE("C-02: a team, 1 to 8 threads, any number of parts: the bits of one thread, float cells") {
    Teams teams;
    for (const char* text : large)
        for (const char* dtype : {"f32", "f16"})
            check_bits(random_file(spec(std::string(text) + ",dtype=" + dtype)), std::string(text) + " " + dtype,
                       teams.all, true);
}
TEST_CASE("C-02: a team, 1 to 8 threads, any number of parts: the bits of one thread, integer cells") {
    Teams teams;
    for (const char* text : large)
        for (int how = 0; how < 3; ++how) {
            quantize::Settings s;
            s.int4 = how == 1, s.act16 = how == 2;
            s.row_exponents = how == 1 && row_exponents_possible(spec(text));
            check_bits(int_model(spec(text), s), std::string(text) + " " + std::to_string(how), teams.all, true);
        }
}
TEST_CASE("a model of 8 MB is read row after row, a smaller one is not; in parts or not, on every back-end (slow)") {
    Teams             teams;
    const std::string shape_f16 = "mamba2,d_model=520,d_state=32,headdim=26,d_output=9,dtype=f16,n_layer=",
                      shape_int = "mamba2,d_model=700,d_state=32,headdim=50,d_output=9,n_layer=";
    const Bytes f16 = random_file(spec(shape_f16 + "3")), i8 = int_model(spec(shape_int + "3"));
    CHECK(Loaded(f16).model.decoder.in_order);
    CHECK(Loaded(i8).model.decoder.in_order);
    CHECK_FALSE(Loaded(random_file(spec(shape_f16 + "2"))).model.decoder.in_order);
    CHECK_FALSE(Loaded(int_model(spec(shape_int + "2"))).model.decoder.in_order);
    check_bits(f16, "f16", {&teams.two}, true);
    check_bits(i8, "int8", {&teams.two}, true);
}
TEST_CASE("a team changes nothing in small models (slow)") {
    Teams teams;
    for (const random_model::Spec& s : all_cells()) check_bits(random_file(s), s.arch, {&teams.two}, false);
    for (const random_model::Spec& s : int_cells()) check_bits(int_model(s), s.arch, {&teams.two}, false);
}

TEST_CASE("every part of a job is done once, and none after run() has returned, however the threads come and go") {
    for (int threads : {1, 2, 3, 8})
        for (int look : {0, 20}) {
            tool::Team team(threads, std::chrono::microseconds(look));
            for (int32_t k = 0; k < 600; ++k) {
                const int32_t n = 1 + k % 64;
                Job           job{size_t(n)};
                run(team, &Job::part, &job, n);
                REQUIRE(job.done == n);
                for (const auto& e : job.each) REQUIRE(e == 1);
                if (k % 200 == 199) std::this_thread::sleep_for(std::chrono::milliseconds(1)); // all fall asleep
            }
        }
}

TEST_CASE("a thread that is held up holds up its own part alone") {
    // The other thread's first part lasts until all others are done, which the caller must do.
    struct Held {
        std::thread::id         caller = std::this_thread::get_id();
        std::mutex              mutex;
        std::condition_variable changed;
        int32_t                 done = 0, n = 16;
        bool                    other_began = false;
    } job;
    tool::Team team(2);
    run(
        team,
        [](void* p, int32_t) {
            auto&                        h = *static_cast<Held*>(p);
            std::unique_lock<std::mutex> lock(h.mutex);
            if (std::this_thread::get_id() != h.caller) {
                h.other_began = true, h.changed.notify_all();
                h.changed.wait(lock, [&] { return h.done == h.n - 1; });
            } else h.changed.wait(lock, [&] { return h.other_began; });
            ++h.done, h.changed.notify_all();
        },
        &job, job.n);
    CHECK(job.done == job.n);
}

TEST_CASE("a team whose other threads never come: the caller does all parts") {
    tool::Team team(1);
    Job        job(64);
    run(team, &Job::part, &job, 64);
    CHECK(job.done == 64);
}
