// guarded.hpp - memory that ends at a guard page, for kernels. SPDX-License-Identifier: MIT
#pragma once
#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>

#include <sys/mman.h>
#include <unistd.h>

namespace test {

// Memory whose last byte is the last before an inaccessible page, so that a read or write past the end stops the test;
// filled with a pattern (0xff: NaN) so that other stray reads show.
class Guarded {
  public:
    explicit Guarded(size_t bytes, size_t skew = 0, int fill = 0xff) : fill_(fill) {
        const size_t page = size_t(sysconf(_SC_PAGESIZE));
        total_ = (bytes + skew + page - 1) / page * page + page;
        base_ = static_cast<unsigned char*>(
            mmap(nullptr, total_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        REQUIRE(base_ != MAP_FAILED);
        end_ = base_ + total_ - page;
        std::memset(base_, fill_, total_ - page);
        REQUIRE(mprotect(end_, page, PROT_NONE) == 0);
        data_ = end_ - bytes - skew; // skew > 0: odd alignment, `skew` bytes before the guard
    }
    ~Guarded() { munmap(base_, total_); }
    Guarded(const Guarded&) = delete;
    Guarded&       operator=(const Guarded&) = delete;
    unsigned char* bytes() { return data_; }
    float*         floats() { return reinterpret_cast<float*>(data_); }
    int32_t*       words() { return reinterpret_cast<int32_t*>(data_); }
    int64_t*       wide() { return reinterpret_cast<int64_t*>(data_); }
    // The same memory for a smaller buffer: its last `bytes`, all of it the pattern again.
    Guarded& of(size_t bytes, size_t skew = 0) {
        REQUIRE(size_t(end_ - base_) >= bytes + skew);
        data_ = end_ - bytes - skew;
        std::memset(data_, fill_, bytes + skew);
        return *this;
    }

  private:
    unsigned char *base_, *data_, *end_;
    size_t         total_;
    int            fill_;
};

} // namespace test
