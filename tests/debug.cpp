// debug.cpp - what a build with SSM_DEBUG adds: ranges that are asserted, limits that are counted.
// SPDX-License-Identifier: MIT
//
// A private copy of the library under another name, so that this build and the one of the other tests do not mix.
#ifndef SSM_DEBUG
#define SSM_DEBUG
#endif
namespace {
struct Asserted {
    long        failed = 0;
    const char* first = "";
    void        note(const char* what) {
               if (failed++ == 0) first = what;
    }
} asserted;
} // namespace
#undef SSM_ASSERT
#define SSM_ASSERT(x) ((x) ? (void)0 : asserted.note(#x))
#define SSM_STATIC
#define SSM_IMPLEMENTATION
#define ssm ssm_debug
#define int_reference int_reference_debug
#include "../ssm.hpp"
#include "int_reference.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace {
using namespace ssm;
using namespace ssm::detail;

// What f asserts in vain: how often, and the first one's text.
template <class F> Asserted caught(F f) {
    asserted = Asserted();
    f();
    return asserted;
}
bool fires(const Asserted& a, const char* with) { return a.failed > 0 && std::strstr(a.first, with) != nullptr; }
// Results are of no interest here.
volatile int64_t sink;
} // namespace

TEST_CASE("N-06 SSM_DEBUG: a number at the end of its range passes, one beyond is caught") {
    const auto both = [](auto f, int64_t last, int64_t beyond, const char* with) {
        const Asserted good = caught([&] { sink = f(last); }), bad = caught([&] { sink = f(beyond); });
        CHECK_MESSAGE(good.failed == 0, std::string(with), ": ", std::string(good.first));
        CHECK_MESSAGE(fires(bad, with), std::string(with), ": ", std::string(bad.first));
    };
    both([](int64_t t) { return exp_neg(t); }, dt_limit, dt_limit + 1, "dt_limit");
    both([](int64_t d) { return recip(d); }, 2 * one_q30, 2 * one_q30 + 1, "one_q30");
    both([](int64_t x) { return sigmoid_q(x); }, -dt_limit, -dt_limit - 1, "dt_limit");
    both([](int64_t x) { return softplus_q(x); }, dt_limit, dt_limit + 1, "dt_limit");
    both([](int64_t x) { return phi_q(x); }, int64_t(8) << 26, (int64_t(8) << 26) + 1, "<< 26");
    both([](int64_t x) { return silu_q(x); }, int_max, int64_t(int_max) + 1, "int_max");
    both([](int64_t x) { return gelu_q(x); }, -int_max, -int64_t(int_max) - 1, "int_max");
    both([](int64_t x) { return decay_q<26>(x, dt_limit); }, int_max, int64_t(int_max) + 1, "rate");
    both([](int64_t x) { return times_q<16>(x, int64_t(1)); }, int_max, int64_t(int_max) + 1, "int_max");
    both([](int64_t add) { return next_h(1 << 30, int_max, add); }, most_sum, most_sum + 1, "most_sum");
    both([](int64_t alpha) { return next_h(int32_t(alpha), 1, 0); }, one_q30, one_q30 + 1, "alpha");
}

TEST_CASE("N-06 SSM_DEBUG: sums and products of the scans, norms and projections are caught just beyond their proofs") {
    const auto good = [](auto f) {
        const Asserted a = caught(f);
        CHECK_MESSAGE(a.failed == 0, std::string(a.first));
    };
    const auto bad = [](auto f, const char* with) {
        const Asserted a = caught(f);
        CHECK_MESSAGE(fires(a, with), std::string(with), ": ", std::string(a.first));
    };
    { // a head: 16 products of v k, 256 of h q, exponents of codes
        std::vector<int32_t> v(max_mimo_rank, int_max), k(256 * max_mimo_rank, 0), q = k, h(256, int_max), o(8), x(8);
        std::vector<int64_t> wide_row(256);
        int32_t              D = 0, X = 0, kept = 0;
        HeadScanQ            a{};
        a.h_in = h.data(), a.w = a.v = v.data(), a.k0 = a.k = k.data(), a.q = q.data(), a.x = x.data(), a.D = &D;
        a.o = o.data(), a.k_stride = 256, a.alpha = 1 << 30, a.clip = int_max, a.N = 256, a.P = 1;
        a.ranks = max_mimo_rank;
        const auto scan = [&] { sink = scalar::scan_q(a); };
        const auto all = [](std::vector<int32_t>& to, int32_t value) { std::fill(to.begin(), to.end(), value); };
        all(k, k_bound), good(scan);
        k.back() += 1, bad(scan, "k_stride + n]), most_sum");
        all(k, 0), all(q, k_bound / 16), good(scan);
        q.back() += 1, bad(scan, "sum[r]");
        all(q, 0), all(h, 0);
        a.X_in = &X, a.wide_row = wide_row.data(), a.h_out = h.data(), a.X_out = &kept;
        X = 31, good(scan); // kept as 40 - X
        X = 32, bad(scan, "between(X, 9, 40)");
        X = 0, h[0] = -32768, bad(scan, "32767");
    }
    { // S4D: a x with |a| far beyond 1
        unsigned char        a[8], b[8] = {}, C[4] = {}, scale[4] = {0, 0, 0, 0x3f};
        std::vector<int32_t> h = {int_max, -int_max};
        int32_t              D = 0, u = 0, s = 0;
        S4dScanQ             g{};
        g.a = a, g.b = b, g.C = C, g.C_scale = scale, g.D = &D, g.h_in = h.data(), g.u = &u, g.s = &s;
        g.stride = g.T = g.H = g.modes = 1, g.b_shift = 1, g.clip = int_max;
        const auto scan = [&] { sink = scalar::s4d_scan_q(g); };
        store_u32(a, 1u << 30), store_u32(a + 4, 0), good(scan);
        store_u32(a, 0x7fffffff), store_u32(a + 4, 0x7fffffff), bad(scan, "product(ar, xr)");
    }
    { // norms: the widest, and one more
        std::vector<int32_t> x(16385, int_max), g(16385, int_max), y(16385);
        good([&] { scalar::rms_norm_q(y.data(), x.data(), g.data(), 16384, 24); });
        bad([&] { scalar::rms_norm_q(y.data(), x.data(), g.data(), 16385, 24); }, "1 << 24");
        x.assign(x.size(), 0), x[0] = int_max; // one number alone: its unit is 2^7
        good([&] { scalar::rms_norm_q(y.data(), x.data(), g.data(), 16384, 24); });
        bad([&] { scalar::rms_norm_q(y.data(), x.data(), g.data(), 16385, 24); }, "product_at_most");
    }
    { // a convolution of more than eight taps
        const int32_t  at = int_max, y0 = 0;
        const int32_t* taps[9] = {&at, &at, &at, &at, &at, &at, &at, &at, &at};
        const int32_t  w[9] = {at, at, at, at, at, at, at, at, at};
        int32_t        y = y0;
        good([&] { scalar::conv_q(&y, taps, w, nullptr, 8, 1); });
        bad([&] { scalar::conv_q(&y, taps, w, nullptr, 9, 1); }, "max_d_conv");
    }
    { // projections: a row of int4 as wide as it may be, codes and scales that no quantizer makes
        std::vector<unsigned char> nibbles(16, 0x88), sub(1, 127), scale = {0xff, 0xff, 0x7f, 0x3f};
        std::vector<signed char>   q(32, 127);
        Matrix                     W;
        W.rows = W.rows4 = 1, W.cols = 32, W.data4 = nibbles.data(), W.sub = sub.data(), W.scale = scale.data();
        good([&] { sink = scalar::dot4(W, 0, q.data()); });
        q.assign(32, -128), bad([&] { sink = scalar::dot4(W, 0, q.data()); }, "at_most(part");
        const std::vector<unsigned char> row(200000, 0);
        const std::vector<signed char>   zeros(200000, 0);
        W.data = row.data(), W.rows4 = 0, W.cols = 16384;
        good([&] { sink = scalar::dot8(W, 0, zeros.data()); });
        W.cols = 200000, bad([&] { sink = scalar::dot8(W, 0, zeros.data()); }, "W.cols");
        int32_t       token[] = {1082196483, 6}; // of the largest token there is
        const int64_t most = int64_t(512) * 32512 * 127;
        good([&] { sink = scalar::requantize(most, token, W, 0, 8); });
        token[0] = int_max, bad([&] { sink = scalar::requantize(most, token, W, 0, 8); }, "product_at_most(acc");
    }
    { // the sums of mean pooling
        Config c;
        c.d_model = 1, c.pool = Pool::mean;
        alignas(8) unsigned char bytes[256] = {};
        const State              s{bytes, sizeof bytes};
        int32_t *                low = words_of<int32_t>(s), *high = low + padded(1), r = 0;
        low[0] = 0, high[0] = 1 << 30, good([&] { pool_mean(c, s, false, &r); });
        low[0] = -1, high[0] = int_max, r = 0, bad([&] { pool_mean(c, s, false, &r); }, "sum_at_most(*sum, r,");
    }
}

namespace {
using Content = std::vector<unsigned char>;

std::vector<std::string> golden_models() { // 01 to 22
    std::vector<std::string> all;
    for (const auto& entry : std::filesystem::directory_iterator(SSM_TEST_DIR "/golden/int")) {
        const std::string name = entry.path().filename().string();
        if (name[0] >= '0' && name[0] <= '9' && name.rfind("00_", 0) != 0) all.push_back(entry.path().string());
    }
    std::sort(all.begin(), all.end());
    return all;
}
Content read_file(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    REQUIRE_MESSAGE(in.good(), path);
    return Content(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}
// The same model with another clip_q25, of no more digits; blanks fill the place of the others.
Content with_clip(Content file, const std::string& digits) {
    const std::string key = "\"clip_q25\"";
    auto              at = std::search(file.begin(), file.end(), key.begin(), key.end());
    REQUIRE(at != file.end());
    at = std::find(at + std::ptrdiff_t(key.size()), file.end(), '"') + 1;
    auto end = std::find(at, file.end(), '"');
    REQUIRE(end - at >= std::ptrdiff_t(digits.size()));
    std::fill(std::copy(digits.begin(), digits.end(), at), end + 1, ' ');
    at[std::ptrdiff_t(digits.size())] = '"';
    return file;
}

// A model with as many states as asked for, on one back-end.
struct Loaded {
    Content            bytes, arena_memory;
    Config             config;
    Model              model;
    std::vector<State> states;
    Scratch            scratch;
    Loaded(const Content& file, Isa isa, int32_t n_states) : bytes(file), states(size_t(n_states)) {
        const Blob blob{bytes.data(), bytes.size()};
        Content    memory(index_bytes(blob));
        REQUIRE(inspect(&config, blob, memory.data(), memory.size()) == Status::ok);
        arena_memory.resize(arena_bytes(config, n_states, 8));
        Arena       arena{arena_memory.data(), arena_memory.size(), 0};
        LoadOptions options;
        options.isa = isa;
        REQUIRE(load(&model, blob, &arena, options) == Status::ok);
        for (State& s : states) REQUIRE(make_state(&s, model, &arena) == Status::ok);
        REQUIRE(make_scratch(&scratch, model, 8, &arena) == Status::ok);
    }
};

// One golden model on every back-end: the counts of steps, of a prefill and of streams are those of the slow engine,
// candidates count nothing. Adds what all steps counted to *total.
void counts_agree(const std::string& name, const Content& file, Counts* total) {
    int_reference::Model slow(file);
    const auto&          f = slow.file();
    const bool           tokens = slow.tokens();
    const size_t         width = size_t(slow.d_input()), T = std::min<size_t>(size_t(f.number("steps")), 60);
    const auto           ids = tokens ? f.integers("test.input") : int_reference::Vec();
    const auto           input = tokens ? std::vector<float>() : f.floats("test.input");
    const auto           gaps = f.has("test.dt_scale") ? f.integers("test.dt_scale") : int_reference::Vec(T, 65536);
    std::vector<float>   dt;
    for (size_t t = 0; t < T; ++t) dt.push_back(from_q16(int32_t(gaps[t])));
    const auto slow_step = [&](size_t t) {
        const int64_t d = to_q16(dt[t]);
        if (tokens) slow.step_token(ids[t], d);
        else slow.step({input.begin() + std::ptrdiff_t(t * width), input.begin() + std::ptrdiff_t((t + 1) * width)}, d);
        Counts c;
        c.clipped = uint64_t(slow.clipped), c.saturated = uint64_t(slow.saturated);
        return c;
    };
    const auto same = [&](const State& s, const Counts& want) {
        CHECK_MESSAGE(s.counts.clipped == want.clipped, name);
        CHECK_MESSAGE(s.counts.saturated == want.saturated, name);
    };
    for (int i = 1; isa_name(Isa(i)) != nullptr; ++i) {
        if (!isa_runs_here(Isa(i))) continue;
        Loaded             m(file, Isa(i), 4);
        const size_t       d_in = size_t(m.config.d_input);
        std::vector<float> x(T * d_in), y(2 * size_t(m.config.d_output));
        Counts             first, last;
        slow.reset();
        for (size_t t = 0; t < T; ++t) {
            float* const xt = &x[t * d_in];
            if (tokens) REQUIRE(embed(m.model, int32_t(ids[t]), xt) == Status::ok);
            else std::copy_n(input.data() + t * width, width, xt);
            REQUIRE(step_batch(m.model, m.states[0], &m.scratch, xt, 1, y.data(), &dt[t]) == Status::ok);
            same(m.states[0], last);
            REQUIRE(step(m.model, &m.states[0], &m.scratch, xt, y.data(), dt[t]) == Status::ok);
            last = slow_step(t), first = t == 0 ? last : first;
            same(m.states[0], last);
            CHECK_MESSAGE(clipped(m.model, m.states[0]) == (last.clipped > 0), name);
        }
        REQUIRE(prefill(m.model, &m.states[1], &m.scratch, x.data(), int32_t(T), y.data(), dt.data()) == Status::ok);
        CHECK_MESSAGE(m.states[1].counts.clipped == last.clipped, name); // it gives the last output alone

        // Two streams at once: one as far as this, one fresh.
        std::vector<float> two(x.begin(), x.begin() + std::ptrdiff_t(d_in));
        two.insert(two.end(), x.begin(), x.begin() + std::ptrdiff_t(d_in));
        const float both[] = {dt[0], dt[0]};
        State       pair[] = {m.states[0], m.states[2]};
        REQUIRE(step_streams(m.model, pair, 2, &m.scratch, two.data(), y.data(), both) == Status::ok);
        same(pair[0], slow_step(0)), same(pair[1], first);

        Content saved(saved_bytes(m.config));
        REQUIRE(save(m.model, pair[0], saved.data(), saved.size()) == saved.size());
        REQUIRE(restore(m.model, &pair[0], saved.data(), saved.size()) == Status::ok);
        reset(m.model, &pair[1]);
        same(pair[0], Counts()), same(pair[1], Counts());
        total->clipped += last.clipped, total->saturated += last.saturated;
    }
}
} // namespace

TEST_CASE("SSM_DEBUG: clips and saturations are counted as the slow engine counts them, on every back-end (slow)") {
    asserted = Asserted();
    Counts     all;
    const auto files = golden_models();
    CHECK(files.size() == 22);
    for (const std::string& path : files) {
        const Content file = read_file(path);
        Counts        own, tiny, least;
        counts_agree(path, file, &own);
        counts_agree(path + ", clip 2^-9", with_clip(file, "65536"), &tiny);
        counts_agree(path + ", clip 2^-25", with_clip(file, "1"), &least);
        CHECK_MESSAGE(tiny.clipped > own.clipped, path);
        CHECK_MESSAGE(least.clipped > tiny.clipped, path);
        all.clipped += own.clipped, all.saturated += own.saturated;
    }
    CHECK(all.clipped > 1000);
    CHECK(all.saturated > 1000);
    CHECK_MESSAGE(asserted.failed == 0, std::string(asserted.first));
}

TEST_CASE("SSM_DEBUG: inputs that saturate are counted when they are floats, and not when they are Q16 already") {
    const Content        file = read_file(SSM_TEST_DIR "/golden/int/03_s4d_w8a8_l2_post_mean.safetensors");
    Loaded               m(file, Isa::best, 2);
    int_reference::Model slow(file);
    const size_t         d_in = size_t(m.config.d_input);
    std::vector<float>   x(d_in, 0.5f), y(size_t(m.config.d_output));
    x[0] = -32768.0f;
    REQUIRE(step(m.model, &m.states[0], &m.scratch, x.data(), y.data()) == Status::ok);
    slow.step(x);
    CHECK(m.states[0].counts.saturated == uint64_t(slow.saturated));
    std::vector<int32_t> q, out(y.size());
    for (float v : x) q.push_back(to_q16(v));
    REQUIRE(step_q16(m.model, &m.states[1], &m.scratch, q.data(), out.data()) == Status::ok);
    CHECK(m.states[1].counts.saturated == m.states[0].counts.saturated - 1);
}
