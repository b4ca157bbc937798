// allocations.cpp - no allocation by the library, from load() on. SPDX-License-Identifier: MIT
#include "../ssm.hpp"

#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

// Every malloc(), and so every operator new, of this program is counted where the C library lets it be.
#if defined(__SANITIZE_ADDRESS__)
#define COUNTED 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define COUNTED 0
#endif
#endif
#if !defined(COUNTED) && defined(__GLIBC__)
#define COUNTED 1
#include <atomic>
static std::atomic<long> mallocs{0};
extern "C" void*         __libc_malloc(size_t);
extern "C" void*         malloc(size_t bytes) noexcept {
            mallocs.fetch_add(1, std::memory_order_relaxed);
            return __libc_malloc(bytes);
}
static long allocations() { return mallocs.load(std::memory_order_relaxed); }
#else
static long allocations() { return 0; }
#endif

TEST_CASE("E-01: nothing is allocated after the buffers are there") {
    WARN_MESSAGE(allocations() > 0, "nothing counts mallocs here");
    for (const char* name : {"s4d/03_postnorm_mean_h16_n8_l2.safetensors", "mamba/m1_d32.safetensors",
                             "mamba/m3_backbone2_mimo_r2_d32.safetensors"}) {
        std::ifstream                    in(std::string(SSM_TEST_DIR) + "/golden/" + name, std::ios::binary);
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
        const long before = allocations();
        all();
        CHECK(allocations() == before);
        CHECK(good);
    }
}
