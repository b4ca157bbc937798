// cuda_failures.cpp - what ssm_cuda.cu does where its library fails, on the emulated GPU.
// SPDX-License-Identifier: MIT
#define SSM_CUDA
#include "cuda_emulated.hpp"
#include "int_models.hpp"

using namespace test;
using ssm::Status;
namespace gpu = ssm::cuda;

TEST_CASE("cuda: no device is one line, and nothing else happens") {
    const Loaded m(int_model(spec("mamba3,d_model=16,n_layer=1,d_state=8,headdim=8,d_input=2,d_output=1")));
    emulate_presence(false);
    gpu::Device* d = nullptr;
    ssm::Fault   why;
    CHECK(gpu::available(0, &why) == Status::gpu);
    CHECK(std::string(why.detail) == "no CUDA device");
    CHECK(gpu::create(&d, m.model, gpu::Options(), &why) == Status::gpu);
    CHECK(std::string(why.detail) == "no CUDA device");
    CHECK(d == nullptr);
    CHECK(gpu::device_bytes(m.model) > 0);
    emulate_presence(true);
}
TEST_CASE("cuda: whichever call of the library fails, the status says so, nothing is lost and the next call works") {
    const Loaded  m(int_model(spec("mamba3,d_model=16,n_layer=1,d_state=8,headdim=8,d_input=2,d_output=1")));
    const int32_t before = emulated_allocations();
    gpu::Options  o;
    o.slots = 2, o.max_batch = 4;
    gpu::Device* d = nullptr;
    ssm::Fault   why;
    int64_t      calls = 0;
    for (Status s = Status::gpu; s != Status::ok; ++calls) { // create() fails at each of its calls
        emulate_failure(calls);
        s = gpu::create(&d, m.model, o, &why);
        emulate_failure(-1);
        if (s == Status::ok) break;
        CHECK(s == Status::gpu);
        CHECK(std::string(why.detail) != "");
        CHECK(d == nullptr);
        CHECK(emulated_allocations() == before);
    }
    CHECK(calls > 12);
    OwnState                 own(m.model), back(m.model);
    ssm::Scratch             scratch = m.scratch;
    const float              x[4] = {0.5f, -1.0f, 2.0f, 0.25f};
    const int32_t            slots[2] = {0, 1};
    const std::vector<float> unused;
    float                    y[2], want = 0.0f;
    for (int what = 0; what < 4; ++what)
        for (calls = 0;; ++calls) {
            emulate_failure(calls);
            Status s = Status::ok;
            if (what == 0) s = gpu::put_state(d, 0, own.state, &why);
            if (what == 1) s = gpu::step(d, slots, x, 1, y, nullptr, &why);
            if (what == 2) s = gpu::step_batch(d, 0, x, 2, y, nullptr, &why);
            if (what == 3) s = gpu::get_state(d, 0, &back.state, &why);
            emulate_failure(-1);
            if (s == Status::ok) break;
            CHECK(s == Status::gpu);
            CHECK(std::string(why.detail) != "");
            // A step whose launch went through but not the wait for it has moved the state.
            if (what == 1 && calls == 5) CHECK(gpu::put_state(d, 0, own.state) == Status::ok);
        }
    CHECK(ssm::step(m.model, &own.state, &scratch, x, &want) == Status::ok);
    CHECK(back.bytes == own.bytes);
    gpu::destroy(d);
    CHECK(emulated_allocations() == before);
}
TEST_CASE("cuda: graphs are made once for a kind and size of call, and the oldest make room") {
    const Loaded m(int_model(spec("s4d,d_model=8,n_layer=1,d_state=4,d_input=1,d_output=1")));
    gpu::Options o;
    o.max_batch = 64;
    gpu::Device* d = nullptr;
    REQUIRE(gpu::create(&d, m.model, o) == Status::ok);
    const int32_t      before = emulated_allocations();
    std::vector<float> x(64, 0.5f), y(64);
    for (int32_t round = 0; round < 2; ++round)
        for (int32_t n = 1; n <= 20; ++n) REQUIRE(gpu::step_batch(d, 0, x.data(), n, y.data()) == Status::ok);
    CHECK(emulated_allocations() == before + 20);
    for (int32_t n = 1; n <= 64; ++n) REQUIRE(gpu::step_batch(d, 0, x.data(), n, y.data()) == Status::ok);
    CHECK(emulated_allocations() == before + 32);
    gpu::destroy(d);
}
