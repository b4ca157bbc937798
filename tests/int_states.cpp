// int_states.cpp - states of integer models: within the clip over long streams, carried from one back-end to another,
// refused when damaged; and back-ends against each other on random streams. SPDX-License-Identifier: MIT
#include "int_models.hpp"

#include <functional>
#include <memory>

using namespace test;

namespace {

struct Kind {
    std::string        name;
    random_model::Spec spec;
    quantize::Settings settings;
};
// One tiny model of each cell and form of state.
std::vector<Kind> kinds() {
    std::vector<Kind> all;
    for (const char* text : {"s4d,d_model=2,n_layer=1,d_state=4,d_input=1,d_output=1,pool=mean",
                             "mamba1,d_model=2,n_layer=1,d_inner=2,d_state=2,dt_rank=1,d_conv=2",
                             "mamba2,d_model=2,n_layer=1,d_inner=4,d_state=2,headdim=2,d_conv=2",
                             "mamba3,d_model=2,n_layer=1,d_inner=1,d_state=2,headdim=1,rope_fraction=1.0",
                             "mamba3,d_model=2,n_layer=1,d_inner=2,d_state=8,headdim=2,rope_angles=1",
                             "mamba3,d_model=2,n_layer=1,d_inner=2,d_state=2,headdim=2,mimo_rank=2,rope_fraction=1.0"})
        for (bool row_exponents : {false, true}) {
            Kind k{text, spec(text), {}};
            if (row_exponents && !row_exponents_possible(k.spec)) continue;
            k.settings.row_exponents = row_exponents;
            if (row_exponents) k.name += " i16rowexp";
            all.push_back(k);
        }
    return all;
}
std::vector<int32_t> part(const Loaded& m, int32_t layer, ssm::Part which) {
    std::vector<int32_t> v(size_t(ssm::get_state_int(m.model, m.state, layer, which, nullptr)));
    if (!v.empty()) ssm::get_state_int(m.model, m.state, layer, which, v.data());
    return v;
}
void stepped(Loaded& m, const int32_t* x, int32_t dt, std::vector<int32_t>* y) {
    y->resize(size_t(m.config.d_output));
    REQUIRE(ssm::step_q16(m.model, &m.state, &m.scratch, x, y->data(), dt) == ssm::Status::ok);
}
// Every number of the state within its format, h within the clip.
bool within_limits(const Loaded& m) {
    const bool codes = m.config.state == ssm::StateType::i16rowexp;
    for (int32_t l = 0; l < m.config.n_layers; ++l) {
        const std::vector<int32_t> h = part(m, l, ssm::Part::ssm_state), X = part(m, l, ssm::Part::exponents);
        for (size_t i = 0; i < h.size(); ++i) {
            const int64_t size = std::abs(int64_t(h[i]));
            if (!codes && size > m.config.clip_q25) return false;
            if (!codes) continue;
            const int32_t x = X[i / size_t(m.config.d_state)];
            if (x < 9 || x > 40 || size > 32767) return false;
            // code 2^-X is at most clip 2^-25, or half a unit of the code more.
            if (double(2 * size - 1) * 0x1p25 > double(m.config.clip_q25) * std::ldexp(1.0, x + 1)) return false;
        }
        for (ssm::Part p : {ssm::Part::conv_state, ssm::Part::v_state})
            for (int32_t v : part(m, l, p))
                if (v == INT32_MIN) return false;
        for (int32_t v : part(m, l, ssm::Part::k_state))
            if (std::abs(int64_t(v)) > 190000000) return false;
    }
    return true;
}
// Inputs of `steps` steps that drive a stream hard: limits, runs of one sign, any size, and steps of any length.
void drive(std::mt19937& engine, const ssm::Config& c, size_t steps, std::vector<int32_t>* x,
           std::vector<int32_t>* dt) {
    x->resize(steps * size_t(c.d_input)), dt->resize(steps);
    const bool gaps = c.arch != ssm::Arch::s4d || c.has_gaps;
    uint32_t   how = 0;
    for (size_t t = 0; t < steps; ++t) {
        if (t % 64 == 0) how = uint32_t(engine()) % 6;
        const uint32_t any = uint32_t(engine());
        (*dt)[t] = !gaps || how < 3 ? 65536
                   : how == 3       ? 1 + int32_t(any % 65536)
                   : how == 4       ? INT32_MAX
                                    : 1 + int32_t(any >> 1) % INT32_MAX;
        for (size_t i = 0; i < size_t(c.d_input); ++i) {
            const uint32_t bits = uint32_t(engine()), size = bits >> 1 >> (how == 2 ? 0 : engine() % 31);
            int32_t        v = how == 0 ? INT32_MAX : how == 1 && t % 2 == 0 ? INT32_MAX : static_cast<int32_t>(size);
            if (how == 1 ? t % 2 == 0 : how > 1 && (bits & 1u) != 0) v = -v;
            (*x)[t * size_t(c.d_input) + i] = v;
        }
    }
}
Bytes saved(const Loaded& m) {
    Bytes b(ssm::saved_bytes(m.config));
    REQUIRE(ssm::save(m.model, m.state, b.data(), b.size()) == b.size());
    return b;
}
ssm::Status restored(const Loaded& m, const Bytes& b) {
    ssm::State s = m.state;
    return ssm::restore(m.model, &s, b.data(), b.size());
}

// Whether all back-ends give one stream the same outputs and states, looked at every 40 steps. Counts the steps.
struct Differential {
    uint64_t steps = 0;

    bool same(const Bytes& file, uint32_t seed, size_t n) {
        std::vector<std::unique_ptr<Loaded>> all;
        for (ssm::Isa isa : all_back_ends()) all.push_back(std::make_unique<Loaded>(file, 16, isa));
        const ssm::Config&   c = all[0]->config;
        std::mt19937         engine(seed);
        std::vector<int32_t> x, dt;
        drive(engine, c, n, &x, &dt);
        std::vector<std::vector<int32_t>> last(all.size(), std::vector<int32_t>(size_t(c.d_output)));
        const size_t                      block = 40; // a stretch at a time: its last output and the state after it
        for (size_t t = 0; t < n; t += block) {
            const size_t here = std::min(block, n - t);
            for (size_t k = 0; k < all.size(); ++k) {
                Loaded&        m = *all[k];
                const int32_t* at = x.data() + t * size_t(c.d_input);
                REQUIRE(ssm::prefill_q16(m.model, &m.state, &m.scratch, at, int32_t(here), last[k].data(),
                                         dt.data() + t) == ssm::Status::ok);
                if (last[k] != last[0] || state_of(m) != state_of(*all[0])) return false;
            }
            steps += here;
        }
        return true;
    }
};
} // namespace

TEST_CASE("N-05: a million steps of extreme input stay within the clip, on every cell and form of state (very slow)") {
    for (const Kind& k : kinds()) {
        if (k.spec.d_state == 8) continue; // another shape of the same cell
        // On scalar, the quickest with so few numbers; the tests below hold the other back-ends against it.
        Loaded               m(extreme(int_model(k.spec, k.settings), 11), 64, ssm::Isa::scalar);
        std::vector<int32_t> x, dt;
        std::mt19937         engine(5);
        constexpr size_t     at_once = 4000;
        drive(engine, m.config, at_once, &x, &dt);
        for (int round = 0; round < 250; ++round) {
            // The same numbers from another place on: streams of a long period.
            const size_t from = engine() % 512, d = size_t(m.config.d_input);
            REQUIRE(ssm::prefill_q16(m.model, &m.state, &m.scratch, x.data() + from * d, int32_t(at_once - from),
                                     nullptr, dt.data() + from) == ssm::Status::ok);
            REQUIRE(ssm::prefill_q16(m.model, &m.state, &m.scratch, x.data(), int32_t(from), nullptr, dt.data()) ==
                    ssm::Status::ok);
            REQUIRE_MESSAGE(within_limits(m), k.name, " after ", (round + 1) * int(at_once), " steps");
        }
        CHECK(ssm::steps_of(m.model, m.state) == 1000000);
    }
}

TEST_CASE("N-04 N-05: every step of a stream of extreme input is within the clip, at each clip") {
    for (const Kind& k : kinds())
        for (double clip : {0.0, 50.0, 0.25, 63.0}) {
            random_model::Spec s = k.spec;
            s.clip = clip;
            for (uint32_t seed = 1; seed <= 3; ++seed)
                for (ssm::Isa isa : all_back_ends()) {
                    Loaded               m(extreme(int_model(s, k.settings), seed), 4, isa);
                    std::mt19937         engine(seed);
                    std::vector<int32_t> x, dt, y(size_t(m.config.d_output));
                    drive(engine, m.config, 256, &x, &dt);
                    for (size_t t = 0; t < 256; ++t) {
                        const int32_t* at = x.data() + t * size_t(m.config.d_input);
                        REQUIRE(ssm::step_q16(m.model, &m.state, &m.scratch, at, y.data(), dt[t]) == ssm::Status::ok);
                        REQUIRE_MESSAGE(within_limits(m), k.name, " clip ", clip, " step ", t);
                    }
                }
        }
}

TEST_CASE("P-03: an integer state saved on one back-end goes on the same on any other, at every cut") {
    for (const Kind& k : kinds())
        for (bool wild : {false, true}) {
            Bytes file = int_model(k.spec, k.settings);
            if (wild) file = extreme(file, 3);
            std::vector<std::unique_ptr<Loaded>> all;
            for (ssm::Isa isa : all_back_ends()) all.push_back(std::make_unique<Loaded>(file, 4, isa));
            const ssm::Config&   c = all[0]->config;
            const size_t         d = size_t(c.d_input), steps = 40;
            std::vector<int32_t> x, dt;
            std::mt19937         engine(9);
            drive(engine, c, steps, &x, &dt);
            std::vector<std::vector<int32_t>> want(steps, std::vector<int32_t>(size_t(c.d_output)));
            Loaded                            whole(file, 1, ssm::Isa::scalar);
            for (size_t t = 0; t < steps; ++t)
                REQUIRE(ssm::step_q16(whole.model, &whole.state, &whole.scratch, &x[t * d], want[t].data(), dt[t]) ==
                        ssm::Status::ok);
            for (const auto& from : all)
                for (const auto& to : all)
                    for (size_t cut = 0; cut < steps; cut += 3) {
                        ssm::reset(from->model, &from->state);
                        std::vector<int32_t> y(size_t(c.d_output));
                        for (size_t t = 0; t < cut; ++t) stepped(*from, &x[t * d], dt[t], &y);
                        const Bytes bytes = saved(*from);
                        std::memset(to->state.data, 0x55, ssm::state_bytes(c));
                        REQUIRE(ssm::restore(to->model, &to->state, bytes.data(), bytes.size()) == ssm::Status::ok);
                        for (size_t t = cut; t < steps; ++t) {
                            stepped(*to, &x[t * d], dt[t], &y);
                            REQUIRE_MESSAGE(y == want[t], k.name, " cut ", cut, " step ", t);
                        }
                        REQUIRE(saved(*to) == saved(whole));
                    }
        }
}

TEST_CASE("P-02 P-04: a saved integer state with any byte changed is refused, and nothing moves") {
    for (const Kind& k : kinds()) {
        Loaded               m(int_model(k.spec, k.settings), 4);
        std::vector<int32_t> x, dt;
        std::mt19937         engine(2);
        drive(engine, m.config, 20, &x, &dt);
        REQUIRE(ssm::prefill_q16(m.model, &m.state, &m.scratch, x.data(), 20, nullptr, dt.data()) == ssm::Status::ok);
        const Bytes good = saved(m), before = state_of(m);
        REQUIRE(restored(m, good) == ssm::Status::ok);
        for (size_t at = 0; at < good.size(); ++at)
            for (unsigned flip : {0x01u, 0x10u, 0x80u, 0xffu}) {
                Bytes b = good;
                b[at] = static_cast<unsigned char>(b[at] ^ flip);
                REQUIRE_MESSAGE(restored(m, b) == ssm::Status::bad_state, k.name, " byte ", at);
                REQUIRE(state_of(m) == before);
            }
        for (size_t n = 1; n < good.size(); ++n)
            REQUIRE(restored(m, Bytes(good.begin(), good.begin() + std::ptrdiff_t(n))) == ssm::Status::bad_state);
        // The header with its checksum made good again: only the count of steps may be anything.
        for (size_t at = 0; at < 64; ++at) {
            Bytes b = good;
            b[at] = static_cast<unsigned char>(b[at] ^ 0x42);
            repair_checksum(&b);
            const ssm::Status got = restored(m, b);
            REQUIRE_MESSAGE(got == (at >= 56 ? ssm::Status::ok : ssm::Status::bad_state), k.name, " header byte ", at);
            if (at >= 56) REQUIRE(restored(m, good) == ssm::Status::ok);
            REQUIRE(state_of(m) == before);
        }
    }
}

TEST_CASE("P-02: a saved integer state with a value beyond its format is refused though its checksum is right") {
    for (const Kind& k : kinds()) {
        Loaded m(int_model(k.spec, k.settings), 4);
        // What each word is, found by restoring it alone: words where the least int32 is refused hold limited numbers.
        const Bytes        fresh = saved(m);
        const ssm::Config& c = m.config;
        const size_t       count = (fresh.size() - 68) / 4, at = 64,
                     rows = size_t(c.arch == ssm::Arch::s4d      ? c.d_model
                                   : c.arch == ssm::Arch::mamba2 ? c.d_ssm
                                                                 : c.d_inner);
        const auto with = [&](size_t word, uint32_t value) {
            Bytes b = fresh;
            std::memcpy(b.data() + at + 4 * word, &value, 4);
            repair_checksum(&b);
            ssm::reset(m.model, &m.state);
            const ssm::Status s = restored(m, b);
            if (s != ssm::Status::ok) REQUIRE(s == ssm::Status::bad_state);
            if (s == ssm::Status::ok) { // what is let in runs, and stays within the limits
                const std::vector<int32_t> x(size_t(c.d_input), INT32_MAX);
                std::vector<int32_t>       y(size_t(c.d_output));
                REQUIRE(within_limits(m));
                REQUIRE(ssm::step_q16(m.model, &m.state, &m.scratch, x.data(), y.data()) == ssm::Status::ok);
                REQUIRE(within_limits(m));
            }
            return s == ssm::Status::ok;
        };
        size_t     least = 0, h = 0, keys = 0, exponents = 0;
        const auto clip = static_cast<uint32_t>(c.clip_q25);
        for (size_t w = 0; w < count; ++w) {
            least += !with(w, 0x80000000u);
            h += clip < 0x7fffffffu && with(w, clip) && with(w, 0u - clip) && !with(w, clip + 1) &&
                 !with(w, 0u - clip - 1);
            keys +=
                with(w, 190000000u) && with(w, 0u - 190000000u) && !with(w, 190000001u) && !with(w, 0u - 190000001u);
            exponents += with(w, 0x1f1f1f1fu) && !with(w, 0x1f1f1f20u) && !with(w, 0x20000000u);
        }
        const bool   codes = c.state == ssm::StateType::i16rowexp, m3 = c.arch == ssm::Arch::mamba3;
        const size_t N = size_t(c.d_state), angles = m3 ? size_t(c.nheads * c.rope_angles) : 0;
        CHECK_MESSAGE(exponents == (codes ? (rows + 3) / 4 : 0), k.name);
        CHECK_MESSAGE(keys == (m3 ? size_t(c.mimo_rank * c.nheads) * N : 0), k.name);
        CHECK_MESSAGE(h == (clip == 0x7fffffffu || codes ? 0 : rows * N), k.name);
        CHECK_MESSAGE(least == count - angles, k.name); // sums of no numbers are 0
    }
}

TEST_CASE("N-07: back-ends agree on random streams, integer models of every cell (slow)") {
    Differential d;
    uint32_t     seed = 100;
    for (const random_model::Spec& s : int_cells())
        for (int kind = 0; kind < 8; ++kind) {
            quantize::Settings settings;
            settings.int4 = kind % 2 != 0, settings.act16 = kind / 2 % 2 != 0, settings.row_exponents = kind >= 4;
            if (settings.row_exponents && !row_exponents_possible(s)) continue;
            const Bytes file = int_model(s, settings);
            ++seed;
            CHECK_MESSAGE(d.same(file, seed, 48), s.arch, " kind ", kind);
            CHECK_MESSAGE(d.same(extreme(file, seed), seed, 48), s.arch, " kind ", kind, ", extreme");
        }
}

// Not part of a plain run: make long.
TEST_CASE("back-ends agree over ten million steps of integer models of every cell (very slow)" * doctest::skip()) {
    Differential d;
    uint32_t     seed = 1000;
    uint64_t     told = 0;
    for (uint32_t round = 0; d.steps < 10000000; ++round) {
        for (const random_model::Spec& s : int_cells()) {
            random_model::Spec other = s;
            other.seed = 1 + round;
            quantize::Settings settings;
            settings.int4 = (seed & 1u) != 0, settings.act16 = (seed & 2u) != 0;
            settings.row_exponents = (seed & 4u) != 0 && row_exponents_possible(s);
            const Bytes file = int_model(other, settings);
            ++seed;
            REQUIRE_MESSAGE(d.same(seed % 3 == 0 ? file : extreme(file, seed), seed, 400), s.arch, " seed ", seed);
        }
        if (d.steps / 1000000 == told) continue;
        told = d.steps / 1000000;
        MESSAGE(d.steps, " steps");
    }
    MESSAGE(d.steps, " steps on ", all_back_ends().size(), " back-ends, no difference");
}
