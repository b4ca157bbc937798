// state_padding.cpp - numbers in a saved state where a model has none. SPDX-License-Identifier: MIT
#include "random_cells.hpp"

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
