// gpu.hpp - a model's streams on a GPU, for verbs with --cuda. In a build without ssm_cuda.cu (every one but that of
// `make cuda` and CMake's SSM_CUDA=ON) open() says so.
// SPDX-License-Identifier: MIT
#ifndef SSM_TOOLS_GPU_HPP
#define SSM_TOOLS_GPU_HPP

#include "tool.hpp"

namespace ssm::cuda {
struct Device;
}

namespace tool {

class Gpu {
  public:
    Gpu() = default;
    ~Gpu();
    Gpu(const Gpu&) = delete;
    Gpu&       operator=(const Gpu&) = delete;
    static int available(const char* verb); // done, or a status with its message
    // Puts `m` on the first GPU with fresh streams; it must outlive this. done, or a status with its message.
    int  open(const char* verb, const ssm::Model& m, int32_t slots, int32_t batch);
    bool is_open() const { return device_ != nullptr; }
    // As the calls of ssm::cuda. No other status than ok comes without a message from here.
    // N: float, or int32_t for Q16.
    template <class N> ssm::Status step(const int32_t* slots, const N* x, int32_t n, N* y, const N* dt);
    template <class N> ssm::Status candidates(int32_t slot, const N* x, int32_t n, N* y, const N* dt);
    template <class N> ssm::Status prefill(const int32_t* slots, const N* x, int32_t n, int32_t T, N* y, const N* dt);
    ssm::Status                    put_state(int32_t slot, const ssm::State& s);
    ssm::Status                    get_state(int32_t slot, ssm::State* s);
    ssm::Status                    reset(int32_t slot);
    ssm::cuda::Device*             device() const { return device_; }

  private:
    ssm::Status                  said(ssm::Status s, const ssm::Fault& why) const;
    [[maybe_unused]] const char* verb_ = "";
    ssm::cuda::Device*           device_ = nullptr;
};

} // namespace tool
#endif
