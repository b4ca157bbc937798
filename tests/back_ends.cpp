// back_ends.cpp - a back-end made up here, with one struct and one table, and back-ends changed in mid-stream: the bits
// of scalar alone. SPDX-License-Identifier: MIT
//
// A private copy of the library beside the program's, whose kernels can be reached; other tests get them by
// back_ends.hpp. What a real back-end needs besides is said at the head of section 9 of ssm.hpp; every length, limit
// and alignment is tried by kernels.cpp and int_kernels.cpp.
#define SSM_AVXVNNI_TEST
#define SSM_STATIC
#define SSM_IMPLEMENTATION
#include "../ssm.hpp"
#include "../ssm.hpp" // twice is once
#include "../tools/quantize.hpp"
#include "../tools/random_model.hpp"
#include "back_ends.hpp"
#include "guarded.hpp"

#include <doctest/doctest.h>

#include <memory>
#include <string>
#include <vector>

namespace test {
std::vector<ssm::Isa> back_ends() {
    std::vector<ssm::Isa> all;
    for (int i = 1; ssm::isa_name(ssm::Isa(i)) != nullptr; ++i)
        if (ssm::isa_runs_here(ssm::Isa(i))) all.push_back(ssm::Isa(i));
    return all;
}
bool                runs_here(ssm::Isa isa) { return ssm::isa_runs_here(isa); }
const ssm::Kernels& kernels_of(ssm::Isa isa) { return *ssm::detail::kernels_of(isa); }
} // namespace test

namespace {
using namespace ssm;
using namespace ssm::detail;
using test::Guarded;

// ---- A new instruction set: what it does better than scalar, everything else is inherited

enum class Mistake { none, order, tail }; // what its author may get wrong

template <Mistake mistake> struct toy_of : scalar {
    static constexpr const char* name = "toy";
    static inline int64_t        calls = 0;

    // Rows from the last to the first, and each of the eight partial sums by itself, in its own order.
    static void matmul(float* y, int32_t y_stride, const Matrix& W, const float* bias, const float* x, int32_t x_stride,
                       int32_t n) {
        ++calls;
        const ptrdiff_t size = W.dtype == DType::f32 ? 4 : 2;
        for (ptrdiff_t i = n - 1; i >= 0; --i)
            for (ptrdiff_t o = W.rows - 1; o >= 0; --o) {
                float s[8] = {};
                for (ptrdiff_t lane = 7; lane >= 0; --lane)
                    for (ptrdiff_t k = lane; k < W.cols; k += 8)
                        s[mistake == Mistake::order ? 0 : lane] +=
                            element(W.data + o * W.cols * size, W.dtype, size_t(k)) * x[i * x_stride + k];
                y[i * y_stride + o] = sum_lanes(s) + (bias != nullptr ? bias[o] : 0.0f);
            }
    }
    // Sums of integers have no order: from the last column to the first.
    static void matmul_q(const Matrix& W, const Tokens& t, int32_t n, int32_t bits) {
        ++calls;
        const ptrdiff_t groups = (W.cols + 31) / 32, last = mistake == Mistake::tail ? W.cols - 1 : W.cols;
        for (int32_t o = W.rows - 1; o >= 0; --o)
            for (ptrdiff_t i = n - 1; i >= 0; --i) {
                const unsigned char* q = t.q + i * t.stride;
                int64_t              acc = 0;
                for (ptrdiff_t k = last - 1; k >= 0; --k) {
                    int64_t w = 0;
                    if (o < W.rows4) {
                        const unsigned char both = W.data4[(o * groups + k / 32) * 16 + k % 16];
                        w = (((k % 32 < 16 ? both : both >> 4) & 15) ^ 8) - 8;
                        w *= static_cast<signed char>(W.sub[o * groups + k / 32]);
                    } else w = static_cast<signed char>(W.data[(o - W.rows4) * W.cols + k]);
                    acc += w * (bits == 8 ? static_cast<signed char>(q[k]) : int16_t(load_u16(q + 2 * k)));
                }
                t.y[i * t.y_stride + o] = requantize(acc, t.scales + 2 * i, W, o, bits);
            }
    }
};
using toy = toy_of<Mistake::none>;

// ---- Models

using Buffer = std::vector<unsigned char>;

struct Case {
    const char* shape;
    bool        int4 = false, act16 = false, row_exponents = false;
    std::string name(bool integers) const {
        return std::string(shape) + (integers ? int4 ? " int4" : " int8" : " float") + (act16 ? " act16" : "") +
               (row_exponents ? " i16rowexp" : "");
    }
    Buffer file(bool integers) const {
        random_model::Spec s;
        std::string        error;
        REQUIRE_MESSAGE(random_model::parse(shape, &s, &error), error);
        std::string bytes = random_model::file(s);
        if (integers) {
            quantize::Settings settings;
            settings.int4 = int4, settings.act16 = act16, settings.row_exponents = row_exponents;
            quantize::Model model;
            REQUIRE_MESSAGE(quantize::make({bytes.data(), bytes.size()}, settings, &model, &error) == 0, error);
            bytes = quantize::file_bytes(model);
        }
        return Buffer(bytes.begin(), bytes.end());
    }
};
// All four cells; rows, columns and states that fill vectors and that do not.
const Case cases[] = {
    {"s4d,d_model=24,n_layer=2,d_state=32,d_input=3,d_output=2,pool=mean"},
    {"s4d,d_model=21,n_layer=1,d_state=14,d_input=3,d_output=2", true},
    {"s4d,d_model=16,n_layer=1,d_state=64,d_input=3,d_output=2", false, true},
    {"mamba3,d_model=32,n_layer=2,d_state=16,headdim=16"},
    {"mamba3,d_model=20,n_layer=1,d_state=10,headdim=5,mimo_rank=2,d_input=3,d_output=2", true},
    {"mamba3,d_model=24,n_layer=1,d_state=12,headdim=6,mimo_rank=4,ngroups=4", true, true, true},
    {"mamba2,d_model=24,n_layer=2,d_state=8,headdim=8"},
    {"mamba2,d_model=20,n_layer=1,d_state=7,headdim=5,ngroups=4,d_conv=2,norm=layer", true, false, true},
    {"mamba1,d_model=24,n_layer=2,d_state=5"},
    {"mamba1,d_model=20,n_layer=1,d_state=16,d_conv=3,dt_rank=7,norm=layer", true, true},
};

// A model whose file, state and scratch end at guard pages.
struct Loaded {
    const Buffer&            file;
    std::unique_ptr<Guarded> blob, tables, states, rows;
    Config                   config;
    Model                    model;
    State                    state;
    Scratch                  scratch;

    explicit Loaded(const Buffer& bytes, Isa isa = Isa::scalar) : file(bytes) {
        Buffer work(index_bytes({file.data(), file.size()}));
        REQUIRE(inspect(&config, {file.data(), file.size()}, work.data(), work.size()) == Status::ok);
        blob = std::make_unique<Guarded>(file.size());
        std::memcpy(blob->bytes(), file.data(), file.size());
        const auto room = [](std::unique_ptr<Guarded>& memory, size_t n) {
            memory = std::make_unique<Guarded>(n = (n + 15) / 16 * 16); // parts of an arena begin at multiples of 16
            return Arena{memory->bytes(), n, 0};
        };
        Arena       a = room(tables, arena_bytes(config)), b = room(states, state_bytes(config));
        Arena       c = room(rows, scratch_bytes(config, 4)); // fewer rows than some calls have
        LoadOptions options;
        options.isa = isa;
        REQUIRE(load(&model, {blob->bytes(), file.size()}, &a, options) == Status::ok);
        REQUIRE(make_state(&state, model, &b) == Status::ok);
        REQUIRE(make_scratch(&scratch, model, 4, &c) == Status::ok);
    }
    Loaded(const Loaded&) = delete;
    Loaded& operator=(const Loaded&) = delete;
};

// Made-up events as candidates, steps and prefill in turn, each call with the model that `next` gives: all answers, and
// the state behind each call. One state goes through all of it; what a call reads and writes ends at guard pages, too.
template <class Next> Buffer stream(Loaded& m, Next next) {
    Buffer        out;
    const Config& c = m.config;
    uint32_t      random = 2463534242u;
    const size_t  d_in = size_t(c.d_input), d_out = size_t(c.d_output), longest = 9, state = state_bytes(c);
    const bool    any_dt = !is_integer(c) || c.arch != Arch::s4d || c.has_gaps;
    Guarded       x(longest * d_in * 4), y(longest * d_out * 4), dt(longest * 4);
    const auto*   at = static_cast<const unsigned char*>(m.state.data);
    const auto    number = [&] { return float(int32_t((random = random * 1664525u + 1013904223u) >> 12)); };
    const auto    keep = [&](Status s, size_t rows) {
        REQUIRE(s == Status::ok);
        out.insert(out.end(), y.bytes(), y.bytes() + rows * d_out * 4);
        out.insert(out.end(), at, at + state);
    };
    reset(m.model, &m.state);
    for (int round = 0; round < 4; ++round)
        for (int32_t n : {1, 9, 3, 4, 2}) {
            const size_t rows = size_t(n);
            float* const xs = x.of(rows * d_in * 4).floats();
            float* const dts = dt.of(rows * 4).floats();
            for (size_t i = 0; i < rows * d_in; ++i) xs[i] = number() * 0x1p-18f - 2.0f;
            for (size_t i = 0; i < rows; ++i)
                dts[i] = any_dt && number() < 0x1p18f ? number() * 0x1p-19f + 0.01f : 1.0f;
            keep(step_batch(next(), m.state, &m.scratch, xs, n, y.of(rows * d_out * 4).floats(), dts), rows);
            y.of(d_out * 4);
            if (round % 2 == 0) keep(prefill(next(), &m.state, &m.scratch, xs, n, y.floats(), dts), 1);
            for (size_t i = 0; round % 2 == 1 && i < rows; ++i)
                keep(step(next(), &m.state, &m.scratch, xs + i * d_in, y.floats(), dts[i]), 1);
        }
    return out;
}
Buffer stream_of(Loaded& m, const Kernels& k) {
    Model with = m.model;
    with.kernels = &k;
    return stream(m, [&]() -> const Model& { return with; });
}

// ---- A table whose every kernel is another back-end's each time it is called

struct Turns {
    std::vector<const Kernels*> all;
    std::vector<int64_t>        calls;
    uint32_t                    random = 1;
    const Kernels&              next() {
                     const size_t i = ((random = random * 1664525u + 1013904223u) >> 8) % all.size();
                     ++calls[i];
                     return *all[i];
    }
} turns;
template <auto kernel> struct in_turn;
template <class Of, class R, class... A, R (*Of::*kernel)(A...)> struct in_turn<kernel> {
    static R call(A... a) { return (static_cast<const Of&>(turns.next()).*kernel)(a...); }
};
template <class T> void turn(EngineKernels<T>* t) {
#define IN_TURN(kernel) t->kernel = &in_turn<&EngineKernels<T>::kernel>::call
    IN_TURN(add), IN_TURN(gelu), IN_TURN(glu), IN_TURN(layer_norm), IN_TURN(rms_norm), IN_TURN(gate), IN_TURN(conv);
    IN_TURN(mamba1), IN_TURN(mamba2), IN_TURN(mamba3);
#undef IN_TURN
}
Kernels turning() {
    Kernels t{};
    t.name = "any";
    turn<float>(&t), turn<int32_t>(&t);
#define IN_TURN(kernel) t.kernel = &in_turn<&Kernels::kernel>::call
    IN_TURN(matmul), IN_TURN(s4d_scan), IN_TURN(s4d_discretize), IN_TURN(quantize), IN_TURN(matmul_q);
    IN_TURN(s4d_scan_q), IN_TURN(scan_q), IN_TURN(mamba3_heads_q);
#undef IN_TURN
    return t;
}
} // namespace

TEST_CASE("a back-end is one struct and its table: it gives scalar's bits, and its mistakes are seen") {
    for (const Case& c : cases)
        for (bool integers : {false, true}) {
            const Buffer  file = c.file(integers);
            Loaded        m(file);
            const Buffer  want = stream_of(m, table<scalar>);
            const int64_t before = toy::calls;
            CHECK_MESSAGE(stream_of(m, table<toy>) == want, c.name(integers));
            CHECK(toy::calls > before);
            Model with = m.model;
            with.kernels = &table<toy>;
            CHECK(std::string(isa_name(with)) == "toy");
            const bool order = stream_of(m, table<toy_of<Mistake::order>>) == want,
                       tail = stream_of(m, table<toy_of<Mistake::tail>>) == want;
            CHECK_MESSAGE(order == integers, c.name(integers)); // sums of floats have an order
            CHECK_MESSAGE(tail == !integers, c.name(integers));
        }
}

TEST_CASE("another back-end each call, and each kernel another's in the middle of a call: the bits of scalar alone") {
    for (const Case& c : cases)
        for (bool integers : {false, true}) {
            const Buffer file = c.file(integers);
            Loaded       m(file);
            const Buffer want = stream_of(m, table<scalar>);
            // As a program may do it: a model for each, which read and write one state.
            std::vector<std::unique_ptr<Loaded>> models;
            turns = Turns();
            for (Isa isa : test::back_ends())
                models.push_back(std::make_unique<Loaded>(file, isa)), turns.all.push_back(kernels_of(isa));
            size_t at = 0;
            CHECK_MESSAGE(stream(m, [&]() -> const Model& { return models[at++ % models.size()]->model; }) == want,
                          c.name(integers));
            CHECK(at > models.size());
            turns.all.push_back(&table<toy>), turns.calls.assign(turns.all.size(), 0);
            const Kernels any = turning();
            for (int round = 0; round < 3; ++round) CHECK_MESSAGE(stream_of(m, any) == want, c.name(integers));
            for (size_t i = 0; i < turns.all.size(); ++i) CHECK_MESSAGE(turns.calls[i] > 10, turns.all[i]->name);
        }
}
