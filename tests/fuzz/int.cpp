// int.cpp - fuzz target: integer models of any shape with any numbers, every back-end of this machine against scalar,
// and for the first steps against the slow engine.
//
// The bytes say a shape, whether numbers are driven to their limits, and then what happens: steps with inputs and time
// steps of every kind, candidates, a state saved on one back-end and restored on the next.
// SPDX-License-Identifier: MIT
#define DOCTEST_CONFIG_IMPLEMENT
#include "../int_models.hpp"
#include "../int_reference.hpp"
#include "fuzz.hpp"

#include <memory>

using fuzz::require;

namespace {

struct Reader {
    const uint8_t* p;
    size_t         left;
    uint32_t       byte() { return left == 0 ? 0 : (--left, *p++); }
    int64_t        from(int64_t low, int64_t high) { return low + byte() % (high - low + 1); }
    uint32_t       word() {
              uint32_t w = 0;
              for (unsigned k = 0; k < 32; k += 8) w |= byte() << k;
        return w;
    }
};

random_model::Spec shape(Reader& r) {
    static const char* const archs[] = {"s4d", "mamba1", "mamba2", "mamba3", "mamba3"};
    static const char* const pools[] = {"none", "mean", "last"};
    static const double      clips[] = {0.0, 50.0, 0.25, 63.0, 50.5};
    random_model::Spec       s;
    const uint32_t           kind = r.byte() % 5, how = r.byte();
    const bool               mimo = kind == 4;
    s.arch = archs[kind], s.n_layer = r.from(1, 2), s.d_model = r.from(1, 24), s.clip = clips[r.byte() % 5];
    s.seed = r.from(1, 200), s.prenorm = (how & 1u) != 0, s.norm = (how & 2u) != 0 ? "layer" : "rms";
    s.disc = (how & 4u) != 0 ? "zoh" : "bilinear";
    const int64_t headdim = r.from(1, 12), groups = r.from(1, 2), heads = groups * r.from(1, 2);
    if (s.arch == "s4d") {
        s.d_state = 2 * r.from(1, 20), s.pool = pools[r.byte() % 3], s.d_input = r.from(1, 40),
        s.d_output = r.from(1, 9);
        if ((how & 8u) != 0) s.bands = r.from(1, 8), s.d_input = std::max<int64_t>(2, s.d_input); // hears samples
        return s;
    }
    s.d_state = (mimo || (how & 8u) != 0 ? 2 * r.from(1, 12) : r.from(2, 25)), s.d_conv = r.from(1, 8);
    s.mlp_hidden = (how & 16u) != 0 ? r.from(1, 40) : 0;
    s.bias = kind < 3 && (how & 32u) != 0, s.conv_bias = (how & 64u) != 0, s.outproj_norm = (how & 128u) != 0;
    s.headdim = headdim, s.ngroups = groups, s.d_inner = heads * headdim;
    if (kind == 1) s.ngroups = 1, s.d_inner = r.from(1, 40), s.dt_rank = r.from(1, 9);
    if (kind == 2) {
        const uint32_t more = r.byte();
        s.rmsnorm = (more & 1u) != 0, s.norm_before_gate = (more & 2u) != 0, s.D_has_hdim = (more & 4u) != 0;
        if ((more & 8u) != 0) s.d_ssm = s.d_inner, s.d_inner += r.from(1, 9);
    }
    if (kind >= 3) {
        s.mimo_rank = mimo ? r.from(1, 8) : 0, s.rope_angles = r.from(1, s.d_state / 2);
        s.a_activation = (r.byte() & 1u) != 0 ? "softplus" : "heavy_tail", s.a_floor = double(r.byte()) / 16;
    }
    const uint32_t ends = r.byte();
    if (ends % 3 == 1) s.d_input = r.from(1, 40), s.d_output = r.from(1, 9), s.head_bias = (ends & 64u) != 0;
    if (ends % 3 == 2) s.vocab_size = r.from(1, 20), s.tied = (ends & 64u) != 0;
    return s;
}

// A number of any kind, never the least.
int32_t number(Reader& r, uint32_t kind) {
    const uint32_t w = kind % 4 == 3 ? r.word() : r.byte();
    int32_t        v = static_cast<int32_t>(w);
    if (kind % 4 == 0) v = static_cast<int32_t>(w << 9) - 65536; // about +-1
    if (kind % 4 == 1) v = (w & 1u) != 0 ? INT32_MAX : -INT32_MAX;
    if (kind % 4 == 2) v = static_cast<int32_t>((w & 1u) != 0 ? 1u << w / 8 % 31 : 0u - (1u << w / 8 % 31));
    return v == INT32_MIN ? 0 : v;
}
} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static doctest::Context context; // for the checks inside the tests' helpers; one that fails aborts
    context.setAsDefaultForAssertsOutOfTestCases();
    Reader             r{data, size};
    const uint32_t     form = r.byte(), limits = r.byte();
    quantize::Settings settings;
    settings.int4 = (form & 1u) != 0, settings.act16 = (form & 2u) != 0, settings.gaps = (form & 8u) != 0;
    const random_model::Spec s = shape(r);
    settings.row_exponents = (form & 4u) != 0 && s.arch != "s4d";
    if (s.bands > 0) settings.gaps = false;

    const test::Bytes floats = test::random_file(s);
    quantize::Model   made;
    std::string       error;
    if (quantize::make({floats.data(), floats.size()}, settings, &made, &error) != tool::done) return 0;
    const std::string text = quantize::file_bytes(made);
    test::Bytes       file(text.begin(), text.end());
    if (limits % 4 != 0) file = test::extreme(file, limits);

    std::vector<std::unique_ptr<test::Loaded>> all;
    for (ssm::Isa isa : test::all_back_ends()) all.push_back(std::make_unique<test::Loaded>(file, 3, isa));
    int_reference::Model slow(file);
    const ssm::Config&   c = all[0]->config;
    const size_t         d = size_t(c.d_input), out = size_t(c.d_output);
    const bool           gaps = c.n_bands == 0 && (c.arch != ssm::Arch::s4d || c.has_gaps);
    std::vector<int32_t> x(3 * d), y(3 * out), want(3 * out), dt(3);
    for (int event = 0; event < 16 && r.left > 0; ++event) {
        const uint32_t what = r.byte();
        const int32_t  n = 1 + int32_t(what / 4 % 3);
        for (int32_t i = 0; i < n; ++i) {
            dt[size_t(i)] = 65536;
            if (gaps && what / 64 > 0)
                dt[size_t(i)] = what / 64 == 1 ? INT32_MAX : 1 + int32_t(r.word() >> 1) % INT32_MAX;
        }
        const auto token = int32_t(r.byte() % uint32_t(std::max(1, c.vocab_size)));
        const bool one = (what & 16u) != 0; // the same number everywhere
        for (size_t i = 0; i < d * size_t(n); ++i) x[i] = one && i > 0 ? x[0] : number(r, what / 16);
        if (slow.tokens())
            for (int32_t i = 0; i < n; ++i)
                require(ssm::embed_q16(all[0]->model, token, x.data() + size_t(i) * d) == ssm::Status::ok, "embed");
        for (size_t k = 0; k < all.size(); ++k) {
            test::Loaded& m = *all[k];
            ssm::Status   status = ssm::Status::ok;
            if (what % 4 == 0)
                status = ssm::step_batch_q16(m.model, m.state, &m.scratch, x.data(), n, y.data(), dt.data());
            else status = ssm::prefill_q16(m.model, &m.state, &m.scratch, x.data(), n, y.data(), dt.data());
            require(status == ssm::Status::ok, "a step was refused");
            if (k == 0) want = y;
            require(y == want, "outputs differ between back-ends");
            require(test::state_of(m) == test::state_of(*all[0]), "states differ between back-ends");
        }
        if (what % 4 != 0 && event < 4) {
            std::vector<int64_t> answer;
            for (int32_t i = 0; i < n; ++i) {
                const auto at = x.begin() + std::ptrdiff_t(size_t(i) * d);
                answer = slow.tokens() ? slow.step_token(token, dt[size_t(i)])
                                       : slow.step_q16({at, at + std::ptrdiff_t(d)}, dt[size_t(i)]);
            }
            for (size_t i = 0; i < out; ++i) require(answer[i] == want[i], "outputs differ from the slow engine's");
        }
        if (what % 4 == 3) // a state goes from each back-end to the next
            for (size_t k = 0; k + 1 < all.size(); ++k) {
                test::Bytes saved(ssm::saved_bytes(c));
                require(ssm::save(all[k]->model, all[k]->state, saved.data(), saved.size()) == saved.size(), "save");
                ssm::reset(all[k + 1]->model, &all[k + 1]->state);
                require(ssm::restore(all[k + 1]->model, &all[k + 1]->state, saved.data(), saved.size()) ==
                            ssm::Status::ok,
                        "a saved state was refused");
            }
    }
    return 0;
}
