// include.cpp - a private copy of the library in one file, included twice; no allocation once a model is loaded.
// SPDX-License-Identifier: MIT
#define SSM_STATIC
#define SSM_IMPLEMENTATION
#include "../ssm.hpp"
#include "../ssm.hpp"

#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

TEST_CASE("E-01 C-05: a private copy of the library runs, and nothing is allocated after the buffers are there") {
    std::ifstream in(std::string(SSM_TEST_DIR) + "/golden/s4d/03_postnorm_mean_h16_n8_l2.safetensors",
                     std::ios::binary);
    const std::vector<unsigned char> file((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    const ssm::Blob                  blob{file.data(), file.size()};
    std::vector<unsigned char>       work(ssm::index_bytes(blob));
    ssm::Config                      c;
    REQUIRE(ssm::inspect(&c, blob, work.data(), work.size()) == ssm::Status::ok);
    std::vector<unsigned char> memory(ssm::arena_bytes(c, 1, 8)), saved(ssm::saved_bytes(c));
    std::vector<float>         x(8 * size_t(c.d_input), 0.25f), y(8 * size_t(c.d_output));
    ssm::Arena                 arena{memory.data(), memory.size(), 0};
    ssm::Model                 m;
    ssm::State                 s;
    ssm::Scratch               w;
    bool                       good = true;
    const auto                 all = [&] {
        good &= ssm::load(&m, blob, &arena) == ssm::Status::ok && ssm::make_state(&s, m, &arena) == ssm::Status::ok;
        good &= ssm::make_scratch(&w, m, 8, &arena) == ssm::Status::ok;
        for (int i = 0; i < 100; ++i) good &= ssm::step(m, &s, &w, x.data(), y.data(), 1.5f) == ssm::Status::ok;
        good &= ssm::prefill(m, &s, &w, x.data(), 8, y.data()) == ssm::Status::ok;
        good &= ssm::step_batch(m, s, &w, x.data(), 8, y.data()) == ssm::Status::ok;
        good &= ssm::save(m, s, saved.data(), saved.size()) == saved.size();
        good &= ssm::restore(m, &s, saved.data(), saved.size()) == ssm::Status::ok;
    };
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
    const struct mallinfo2 before = mallinfo2();
    all();
    const struct mallinfo2 after = mallinfo2();
    CHECK(before.uordblks == after.uordblks);
    CHECK(before.hblks == after.hblks);
#else
    all();
#endif
    CHECK(good);
}
