// fuzz.hpp - what the fuzz targets share. SPDX-License-Identifier: MIT
#pragma once
#include "../../ssm.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace fuzz {

inline volatile uint64_t sink; // what is computed must not be optimised away

inline void require(bool held, const char* what) {
    if (held) return;
    std::fprintf(stderr, "violated: %s\n", what);
    std::abort();
}

// A copy in a block of exactly its size, so that a read past its end is seen.
class Block {
  public:
    Block(const void* data, size_t bytes) : bytes_(bytes), at_(new char[bytes]) {
        if (bytes > 0) std::memcpy(at_.get(), data, bytes);
    }
    const char*          text() const { return at_.get(); }
    const unsigned char* data() const { return reinterpret_cast<const unsigned char*>(at_.get()); }
    size_t               size() const { return bytes_; }

  private:
    size_t                  bytes_;
    std::unique_ptr<char[]> at_;
};

// The index of a file, in memory of exactly the size asked for, at any alignment.
struct Indexed {
    Block                            copy;
    ssm::Blob                        blob;
    size_t                           need, skew;
    std::unique_ptr<unsigned char[]> memory;
    ssm::Index                       index;
    ssm::Fault                       fault;
    ssm::Status                      status;

    Indexed(const uint8_t* data, size_t size)
        : copy(data, size), blob{copy.data(), size}, need(ssm::index_bytes(blob)), skew(size % 8),
          memory(new unsigned char[need + skew]), status(ssm::read_index(&index, blob, at(), need, &fault)) {}
    unsigned char* at() const { return memory.get() + skew; }
};

// A model of its own, once and for all runs: a target that makes its models anew each time is many times as slow.
struct Rig {
    std::string                file;
    std::vector<unsigned char> memory;
    ssm::Config                config;
    ssm::Arena                 arena;
    ssm::Model                 model;
    ssm::State                 state;
    ssm::Scratch               scratch;

    explicit Rig(std::string bytes, int32_t batch, ssm::Isa isa = ssm::Isa::best) : file(std::move(bytes)) {
        const ssm::Blob            blob{file.data(), file.size()};
        std::vector<unsigned char> index(ssm::index_bytes(blob) + 1);
        ssm::Fault                 fault;
        ssm::LoadOptions           options;
        options.isa = isa;
        bool good = ssm::inspect(&config, blob, index.data(), index.size(), &fault) == ssm::Status::ok;
        if (good) {
            memory.resize(ssm::arena_bytes(config, 1, batch));
            arena = ssm::Arena{memory.data(), memory.size(), 0};
            good = ssm::load(&model, blob, &arena, options, &fault) == ssm::Status::ok &&
                   ssm::make_state(&state, model, &arena) == ssm::Status::ok &&
                   ssm::make_scratch(&scratch, model, batch, &arena) == ssm::Status::ok;
        }
        if (!good) std::fprintf(stderr, "the target's own model: %s %s\n", fault.name, fault.detail);
        require(good, "the target's own model loads");
    }
    Rig(const Rig&) = delete;
    Rig&        operator=(const Rig&) = delete;
    std::string bytes() const { return std::string(static_cast<const char*>(state.data), ssm::state_bytes(config)); }
    bool        holds(const std::string& bytes) const { // the state is these bytes
        return bytes.size() == ssm::state_bytes(config) && std::memcmp(state.data, bytes.data(), bytes.size()) == 0;
    }
};

inline std::vector<ssm::Isa> back_ends() {
    std::vector<ssm::Isa> all;
    for (int i = 1; ssm::isa_name(ssm::Isa(i)) != nullptr; ++i)
        if (ssm::isa_runs_here(ssm::Isa(i))) all.push_back(ssm::Isa(i));
    return all;
}

// Mutations seldom keep a header's length true, and nothing behind it is then reached. So, three times in four, set
// it to end behind a closing brace.
inline void repair_length(uint8_t* data, size_t size, unsigned seed) {
    if (seed % 4 == 0 || size < 9) return;
    size_t last = 0, chosen = 0, n = 0;
    for (size_t i = 8; i < size; ++i)
        if (data[i] == '}') {
            last = i - 7, ++n;
            if (seed / 8 % n == 0) chosen = last;
        }
    if (n == 0) return;
    const uint64_t length = seed % 8 < 6 ? last : chosen;
    for (unsigned i = 0; i < 8; ++i) data[i] = static_cast<uint8_t>(length >> 8 * i & 255);
}

// The last four bytes of a saved state made right again, as the length in its header.
inline void repair_state(uint8_t* data, size_t size) {
    if (size < 24) return;
    for (unsigned k = 0; k < 8; ++k) data[16 + k] = static_cast<uint8_t>(uint64_t(size) >> 8 * k);
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i + 4 < size; ++i) {
        crc ^= data[i];
        for (int k = 0; k < 8; ++k) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xedb88320u : 0);
    }
    for (unsigned k = 0; k < 4; ++k) data[size - 4 + k] = static_cast<uint8_t>(~crc >> 8 * k);
}

} // namespace fuzz

extern "C" int    LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed);
extern "C" size_t __attribute__((weak)) LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);
