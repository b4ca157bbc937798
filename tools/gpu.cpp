// gpu.cpp - a model's streams on a GPU, for verbs with --cuda. SPDX-License-Identifier: MIT
#include "gpu.hpp"

#include <type_traits>

namespace tool {

#ifdef SSM_CUDA
Gpu::~Gpu() { ssm::cuda::destroy(device_); }
int Gpu::available(const char* verb) {
    ssm::Fault why;
    if (ssm::cuda::available(0, &why) == ssm::Status::ok) return done;
    return fail(io_error, verb, std::string("--cuda: ") + why.detail);
}
int Gpu::open(const char* verb, const ssm::Model& m, int32_t slots, int32_t batch) {
    verb_ = verb;
    ssm::cuda::Options o;
    o.slots = slots, o.max_batch = batch;
    ssm::Fault        why;
    const ssm::Status s = ssm::cuda::create(&device_, m, o, &why);
    return s == ssm::Status::ok ? done : fail(io_error, verb, std::string("--cuda: ") + why.detail);
}
ssm::Status Gpu::said(ssm::Status s, const ssm::Fault& why) const {
    if (s != ssm::Status::ok) complain(verb_, std::string("--cuda: ") + why.detail);
    return s;
}
template <class N> ssm::Status Gpu::step(const int32_t* slots, const N* x, int32_t n, N* y, const N* dt) {
    ssm::Fault why;
    if constexpr (std::is_same<N, float>::value) return said(ssm::cuda::step(device_, slots, x, n, y, dt, &why), why);
    else return said(ssm::cuda::step_q16(device_, slots, x, n, y, dt, &why), why);
}
template <class N> ssm::Status Gpu::candidates(int32_t slot, const N* x, int32_t n, N* y, const N* dt) {
    ssm::Fault why;
    if constexpr (std::is_same<N, float>::value)
        return said(ssm::cuda::step_batch(device_, slot, x, n, y, dt, &why), why);
    else return said(ssm::cuda::step_batch_q16(device_, slot, x, n, y, dt, &why), why);
}
template <class N> ssm::Status Gpu::prefill(const int32_t* slots, const N* x, int32_t n, int32_t T, N* y, const N* dt) {
    ssm::Fault why;
    if constexpr (std::is_same<N, float>::value)
        return said(ssm::cuda::prefill(device_, slots, x, n, T, y, dt, &why), why);
    else return said(ssm::cuda::prefill_q16(device_, slots, x, n, T, y, dt, &why), why);
}
ssm::Status Gpu::put_state(int32_t slot, const ssm::State& s) {
    ssm::Fault why;
    return said(ssm::cuda::put_state(device_, slot, s, &why), why);
}
ssm::Status Gpu::get_state(int32_t slot, ssm::State* s) {
    ssm::Fault why;
    return said(ssm::cuda::get_state(device_, slot, s, &why), why);
}
ssm::Status Gpu::reset(int32_t slot) {
    ssm::Fault why;
    return said(ssm::cuda::reset(device_, slot, &why), why);
}
#else
Gpu::~Gpu() = default;
int Gpu::available(const char* verb) {
    return fail(bad_usage, verb, "--cuda: built without ssm_cuda.cu; `make cuda` builds with it");
}
int         Gpu::open(const char* verb, const ssm::Model&, int32_t, int32_t) { return available(verb); }
ssm::Status Gpu::said(ssm::Status s, const ssm::Fault&) const { return s; }
template <class N> ssm::Status Gpu::step(const int32_t*, const N*, int32_t, N*, const N*) {
    return ssm::Status::unsupported;
}
template <class N> ssm::Status Gpu::candidates(int32_t, const N*, int32_t, N*, const N*) {
    return ssm::Status::unsupported;
}
template <class N> ssm::Status Gpu::prefill(const int32_t*, const N*, int32_t, int32_t, N*, const N*) {
    return ssm::Status::unsupported;
}
ssm::Status Gpu::put_state(int32_t, const ssm::State&) { return ssm::Status::unsupported; }
ssm::Status Gpu::get_state(int32_t, ssm::State*) { return ssm::Status::unsupported; }
ssm::Status Gpu::reset(int32_t) { return ssm::Status::unsupported; }
#endif

template ssm::Status Gpu::step(const int32_t*, const float*, int32_t, float*, const float*);
template ssm::Status Gpu::step(const int32_t*, const int32_t*, int32_t, int32_t*, const int32_t*);
template ssm::Status Gpu::candidates(int32_t, const float*, int32_t, float*, const float*);
template ssm::Status Gpu::candidates(int32_t, const int32_t*, int32_t, int32_t*, const int32_t*);
template ssm::Status Gpu::prefill(const int32_t*, const float*, int32_t, int32_t, float*, const float*);
template ssm::Status Gpu::prefill(const int32_t*, const int32_t*, int32_t, int32_t, int32_t*, const int32_t*);

} // namespace tool
