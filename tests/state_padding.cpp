// state_padding.cpp - saved states that no run can have left: numbers where a model has none, sums too large for their
// count; and states that are not saved. SPDX-License-Identifier: MIT
#include "int_models.hpp"

using namespace test;

namespace {
// The words of a state's h, and of its pool, that stand for no number: get_state() does not see them. Those of angles
// and k, which every back-end computes alike, are left out.
std::vector<size_t> padding_of(Loaded& m) {
    const ssm::Config& c = m.config;
    const size_t       words = (ssm::state_bytes(c) - 16) / 4,
                 pool = c.pool == ssm::Pool::mean ? (size_t(c.d_model) + 7) / 8 * 8 : 0;
    const size_t layer = (words - pool) / size_t(c.n_layers);
    auto*        data = static_cast<unsigned char*>(m.state.data) + 16;
    const auto   seen = [&](ssm::Part part) {
        std::vector<float> all;
        for (int32_t i = 0; i < c.n_layers; ++i)
            for (float v : part_of(m.model, m.state, i, part)) all.push_back(v);
        return all;
    };
    std::vector<size_t> left;
    for (size_t i = size_t(c.d_model); i < pool; ++i) left.push_back(i);
    for (int32_t k = 0; k < c.n_layers; ++k) { // h is the last part of a layer
        const size_t end = pool + (size_t(k) + 1) * layer;
        const size_t rows = size_t(c.arch == ssm::Arch::s4d      ? c.d_model
                                   : c.arch == ssm::Arch::mamba1 ? c.d_inner
                                                                 : c.headdim);
        const size_t heads = c.arch == ssm::Arch::s4d || c.arch == ssm::Arch::mamba1 ? 1 : size_t(c.nheads);
        for (size_t i = end - heads * ((rows + 7) / 8 * 8) * size_t(c.d_state); i < end; ++i) {
            const auto     want = seen(ssm::Part::ssm_state);
            const uint32_t other = 0x41234567u;
            uint32_t       word;
            std::memcpy(&word, data + 4 * i, 4);
            std::memcpy(data + 4 * i, &other, 4);
            if (seen(ssm::Part::ssm_state) == want) left.push_back(i);
            std::memcpy(data + 4 * i, &word, 4);
        }
    }
    return left;
}
} // namespace

TEST_CASE(
    "P-02 a saved state with numbers where the model has none is refused: back-ends would carry them on differently") {
    std::vector<Bytes> files;
    for (const random_model::Spec& s : all_cells()) files.push_back(random_file(s));
    S4dSpec s4d;
    s4d.H = 12, files.push_back(s4d_model(s4d).file());
    s4d.H = 8, files.push_back(s4d_model(s4d).file()); // no padding at all
    size_t refused = 0, without = 0;
    for (const Bytes& file : files) {
        Loaded       m(file);
        const auto   x = random_inputs(3 * size_t(m.config.d_input));
        const size_t bytes = ssm::saved_bytes(m.config);
        REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), 3, nullptr) == ssm::Status::ok);
        Bytes saved(bytes);
        REQUIRE(ssm::save(m.model, m.state, saved.data(), bytes) == bytes);
        REQUIRE(ssm::restore(m.model, &m.state, saved.data(), bytes) == ssm::Status::ok);
        const Bytes before = state_of(m);
        const auto  padding = padding_of(m);
        without += padding.empty();
        for (size_t word : padding)
            for (uint32_t v : {0x80000000u, 1u, 0x3f800000u}) {
                Bytes bad = saved;
                for (unsigned k = 0; k < 4; ++k) bad[64 + 4 * word + k] = static_cast<unsigned char>(v >> 8 * k);
                repair_checksum(&bad);
                ssm::Fault fault;
                REQUIRE(ssm::restore(m.model, &m.state, bad.data(), bytes, &fault) == ssm::Status::bad_state);
                REQUIRE(std::string(fault.detail) == "holds a value where there is no number");
                REQUIRE(state_of(m) == before);
                ++refused;
            }
    }
    CHECK(refused > 1000);
    CHECK(without >= 1);
    CHECK(without + 5 <= files.size());
}

TEST_CASE("P-02 a saved state whose sums are too large for their count is refused: from it came states that were "
          "refused in their turn") {
    Loaded       m(int_model(spec("s4d,d_model=4,n_layer=1,d_state=4,d_input=2,d_output=1,pool=mean")));
    const auto   x = random_inputs(2 * 7);
    const size_t bytes = ssm::saved_bytes(m.config);
    Bytes        saved(bytes);
    REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), 7, nullptr) == ssm::Status::ok);
    REQUIRE(ssm::save(m.model, m.state, saved.data(), bytes) == bytes);
    REQUIRE(ssm::restore(m.model, &m.state, saved.data(), bytes) == ssm::Status::ok);
    // Lower halves in eights, upper halves in eights, the count, which is 7, and seven zeros.
    const auto restored = [&](size_t word, int64_t sum, int32_t count, uint32_t behind = 0) {
        Bytes      b = saved;
        const auto put = [&](size_t at, uint32_t v) {
            for (unsigned k = 0; k < 4; ++k) b[64 + 4 * at + k] = static_cast<unsigned char>(v >> 8 * k);
        };
        put(word, uint32_t(uint64_t(sum))), put(8 + word, uint32_t(uint64_t(sum) >> 32));
        put(16, uint32_t(count)), put(17 + word, behind);
        repair_checksum(&b);
        const Bytes       before = state_of(m);
        const ssm::Status s = ssm::restore(m.model, &m.state, b.data(), bytes);
        if (s != ssm::Status::ok) REQUIRE(state_of(m) == before);
        return s == ssm::Status::ok;
    };
    const int64_t most = INT64_C(0x7fffffff);
    for (size_t word : {0u, 3u, 5u}) { // the last pads
        CHECK(restored(word, 7 * most, 7));
        CHECK(restored(word, -7 * most, 7));
        CHECK_FALSE(restored(word, 7 * most + 1, 7));
        CHECK_FALSE(restored(word, -7 * most - 1, 7));
        CHECK_FALSE(restored(word, INT64_MIN, 7));
        CHECK(restored(word, most * most, int32_t(most)));
        CHECK_FALSE(restored(word, most * most + 1, int32_t(most)));
        CHECK_FALSE(restored(word, 0, -1));
        CHECK_FALSE(restored(word, 0, 7, 1));
    }
    // From the limit on: halved with its count, and still good.
    REQUIRE(restored(0, most * most, int32_t(most)));
    for (int i = 0; i < 3; ++i) {
        REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), 1, nullptr) == ssm::Status::ok);
        REQUIRE(ssm::save(m.model, m.state, saved.data(), bytes) == bytes);
        REQUIRE(ssm::restore(m.model, &m.state, saved.data(), bytes) == ssm::Status::ok);
    }
}

TEST_CASE("P-03 a saved state that has counted to 2^64 - 1 steps goes on: its mean was divided by 0") {
    Loaded       m(random_file(spec("s4d,d_model=4,n_layer=1,d_state=4,d_input=2,d_output=1,pool=mean")));
    const auto   x = random_inputs(2 * 7);
    const size_t bytes = ssm::saved_bytes(m.config);
    Bytes        saved(bytes);
    REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), 7, nullptr) == ssm::Status::ok);
    REQUIRE(ssm::save(m.model, m.state, saved.data(), bytes) == bytes);
    std::memset(saved.data() + 56, 0xff, 8);
    repair_checksum(&saved);
    REQUIRE(ssm::restore(m.model, &m.state, saved.data(), bytes) == ssm::Status::ok);
    for (uint64_t steps : {UINT64_MAX, uint64_t(0), uint64_t(1)}) {
        float y = 0;
        CHECK(ssm::steps_of(m.model, m.state) == steps);
        REQUIRE(ssm::step(m.model, &m.state, &m.scratch, x.data(), &y) == ssm::Status::ok);
        CHECK(std::isfinite(y));
        REQUIRE(ssm::save(m.model, m.state, saved.data(), bytes) == bytes);
        REQUIRE(ssm::restore(m.model, &m.state, saved.data(), bytes) == ssm::Status::ok);
    }
}

TEST_CASE("P-03 a float state that holds NaN or infinity is not saved: what is saved is always taken again") {
    size_t kept = 0, not_saved = 0;
    for (const char* text : {"s4d,d_model=4,n_layer=2,d_state=4,d_input=2,d_output=2,pool=mean",
                             "mamba1,d_model=4,n_layer=2,d_state=2,d_input=2,d_output=2,pool=mean",
                             "mamba2,d_model=4,n_layer=1,d_state=2,headdim=4,d_input=2,d_output=2",
                             "mamba3,d_model=4,n_layer=1,d_state=4,headdim=4,d_input=2,d_output=2",
                             "mamba3,d_model=4,n_layer=1,d_state=4,headdim=4,mimo_rank=2,d_input=2,d_output=2"})
        for (float factor : {1.0f, 1e10f, 1e30f, 3e38f})
            for (ssm::Isa isa : all_back_ends()) {
                const Bytes  file = reweighted(random_file(spec(text)), [factor](const std::string& name, float f) {
                    const bool matrix = name.find("proj.weight") != name.npos || name.find("linear.0.w") != name.npos;
                    return matrix && f != 0.0f ? std::copysign(std::min(std::fabs(f) * factor, 3e38f), f) : f;
                });
                Loaded       m(file, 4, isa);
                const float  x[] = {1.0f, -2.0f};
                float        y[2];
                const size_t bytes = ssm::saved_bytes(m.config);
                for (int t = 0; t < 4; ++t) {
                    INFO(std::string(text), " ", factor, " step ", t);
                    REQUIRE(ssm::step(m.model, &m.state, &m.scratch, x, y) == ssm::Status::ok);
                    Bytes        saved(bytes);
                    const Bytes  before = state_of(m);
                    const size_t n = ssm::save(m.model, m.state, saved.data(), bytes);
                    CHECK(state_of(m) == before);
                    bool finite = m.config.pool != ssm::Pool::mean || std::isfinite(y[0]); // y is made of the mean
                    for (int32_t l = 0; l < m.config.n_layers; ++l)
                        for (const ssm::Part part :
                             {ssm::Part::ssm_state, ssm::Part::conv_state, ssm::Part::k_state, ssm::Part::v_state})
                            for (float v : part_of(m.model, m.state, l, part)) finite = finite && std::isfinite(v);
                    CHECK(n == (finite ? bytes : 0));
                    if (n == 0) {
                        ++not_saved;
                        continue;
                    }
                    CHECK(ssm::restore(m.model, &m.state, saved.data(), bytes) == ssm::Status::ok);
                    CHECK(state_of(m) == before);
                    ++kept;
                }
            }
    CHECK(kept > 50);
    CHECK(not_saved > 20);
}
