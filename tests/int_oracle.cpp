// int_oracle.cpp - the runtime's integer engine against the slow one, bit for bit, on models of every shape.
// SPDX-License-Identifier: MIT
//
// The golden files hold a few shapes; here every shape the converter makes runs, with ordinary weights and with every
// number at the limits of its type, on every back-end of this machine.
#include "int_models.hpp"
#include "int_reference.hpp"

#include <memory>

using namespace test;

namespace {

std::vector<int32_t> part(const ssm::Model& m, const ssm::State& s, int32_t layer, ssm::Part which) {
    const int32_t        n = ssm::get_state_int(m, s, layer, which, nullptr);
    std::vector<int32_t> out(n > 0 ? size_t(n) : 0);
    if (n > 0) CHECK(ssm::get_state_int(m, s, layer, which, out.data()) == n);
    return out;
}
std::vector<int32_t> narrow(const std::vector<int64_t>& v) {
    std::vector<int32_t> out;
    for (int64_t x : v) out.push_back(static_cast<int32_t>(x));
    return out;
}

// Steps of both; false at the first number that differs.
bool same_answers(const Bytes& file, const random_model::Spec& s, uint32_t seed, bool wild) {
    int_reference::Model slow(file);
    const bool           tokens = slow.tokens(), gaps = s.arch != "s4d" || slow.file().has("s4_layers.0.kernel.rho");
    const size_t         width = size_t(slow.d_input());
    std::vector<std::unique_ptr<Loaded>> fast;
    for (ssm::Isa isa : all_back_ends()) fast.push_back(std::make_unique<Loaded>(file, 3, isa));
    std::mt19937 engine(seed);
    for (uint32_t t = 0; t < (wild ? 8u : 16u); ++t) {
        const int64_t        any = int64_t(1 + engine() % (wild ? 2147483647u : 300000u));
        const int64_t        dt = !gaps || t % 3 == 0 ? 65536 : wild && t % 4 == 1 ? 2147483647 : any;
        const auto           token = int32_t(engine() % uint32_t(std::max<int64_t>(1, s.vocab_size)));
        const auto           x = wild ? extreme_inputs(width, seed * 100 + t) : random_inputs(width, seed * 100 + t);
        std::vector<int32_t> q;
        for (float v : x) q.push_back(static_cast<int32_t>(int_reference::to_q16(v)));
        const auto want =
            narrow(tokens ? slow.step_token(token, dt) : slow.step_q16(std::vector<int64_t>(q.begin(), q.end()), dt));
        for (const auto& m : fast) {
            std::vector<int32_t> got(want.size());
            if (tokens) {
                q.resize(size_t(m->config.d_input));
                REQUIRE(ssm::embed_q16(m->model, token, q.data()) == ssm::Status::ok);
            }
            REQUIRE(ssm::step_q16(m->model, &m->state, &m->scratch, q.data(), got.data(), int32_t(dt)) ==
                    ssm::Status::ok);
            if (got != want) return false;
        }
    }
    const bool row_exponents = slow.file().text("state") == "i16rowexp";
    for (const auto& m : fast) {
        if (slow.file().text("pool") == "mean") { // lower words, upper words, count
            std::vector<int32_t> pool = narrow(slow.pool_sum);
            for (int64_t sum : slow.pool_sum) pool.push_back(static_cast<int32_t>(sum >> 32));
            pool.push_back(static_cast<int32_t>(slow.pool_count));
            if (part(m->model, m->state, 0, ssm::Part::pool) != pool) return false;
        }
        if (ssm::clipped(m->model, m->state) != (slow.clipped > 0)) return false;
        for (size_t i = 0; i < slow.layers.size(); ++i) {
            const auto&          l = slow.layers[i];
            std::vector<int64_t> h = l.x, conv, X;
            for (const auto& row : l.rows) h.insert(h.end(), row.h.begin(), row.h.end()), X.push_back(row.X);
            if (!row_exponents) X.clear();
            for (const auto& c : l.conv) conv.insert(conv.end(), c.begin(), c.end());
            const auto layer = int32_t(i);
            if (part(m->model, m->state, layer, ssm::Part::ssm_state) != narrow(h) ||
                part(m->model, m->state, layer, ssm::Part::conv_state) != narrow(conv) ||
                part(m->model, m->state, layer, ssm::Part::exponents) != narrow(X) ||
                part(m->model, m->state, layer, ssm::Part::k_state) != narrow(l.k) ||
                part(m->model, m->state, layer, ssm::Part::v_state) != narrow(l.v) ||
                part(m->model, m->state, layer, ssm::Part::angle_state) !=
                    std::vector<int32_t>(l.theta.begin(), l.theta.end()))
                return false;
        }
    }
    return true;
}
} // namespace

// Every shape, in each `stride`-th of the eight kinds of integer model.
static void all_shapes_agree(int stride) {
    uint32_t seed = 0;
    for (const random_model::Spec& s : int_cells())
        for (int kind = 0; kind < 8; kind += stride) {
            quantize::Settings settings;
            settings.int4 = kind % 2 != 0, settings.act16 = kind / 2 % 2 != 0, settings.row_exponents = kind >= 4;
            if (settings.row_exponents && !row_exponents_possible(s)) continue;
            const Bytes       file = int_model(s, settings);
            const std::string name = s.arch + " d_model " + std::to_string(s.d_model) + " d_state " +
                                     std::to_string(s.d_state) + " kind " + std::to_string(kind);
            CHECK_MESSAGE(same_answers(file, s, ++seed, false), name);
            CHECK_MESSAGE(same_answers(extreme(file, seed), s, seed, true), name, ", extreme");
        }
}

TEST_CASE(
    "integer models give the slow engine's answers and states, bit for bit, whatever their shape and numbers (slow)") {
    all_shapes_agree(1);
}
TEST_CASE("integer models of every shape and two kinds give the slow engine's answers and states, bit for bit") {
    all_shapes_agree(5);
}
