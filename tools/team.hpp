// team.hpp - threads that share the parts of a job: ssm::Team on std::thread. SPDX-License-Identifier: MIT
//
// Parts are claimed one by one from a counter, by the caller too, so a thread that is held up, or never comes, costs at
// most the part it has begun. Waiting threads sleep. Before that they look for work for a bounded time, because waking
// a sleeper takes longer than a part of a step: 50 us on a virtual machine, where parts come every few microseconds.
#ifndef SSM_TOOLS_TEAM_HPP
#define SSM_TOOLS_TEAM_HPP

#include "../ssm.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace tool {

class Team {
  public:
    // `threads` in all, the caller of run() among them. `look`: how long one that is idle looks before it sleeps.
    explicit Team(int threads, std::chrono::nanoseconds look = std::chrono::microseconds(50)) : look_(look) {
        hook_ = {&run, this, std::min(std::max(threads, 1) * 4, int(ssm::max_parts))};
        for (int i = 1; i < threads; ++i) threads_.emplace_back([this] { work(); });
    }
    ~Team() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            over_ = true;
        }
        wake_.notify_all();
        for (std::thread& t : threads_) t.join();
    }
    Team(const Team&) = delete;
    Team&            operator=(const Team&) = delete;
    const ssm::Team* hook() const { return &hook_; } // for ssm::Scratch::team, one call at a time

  private:
    using Part = void (*)(void*, int32_t);

    // One word says all of a job: its number in the upper half, then how many parts it has and which is the next. Who
    // claims a part of a job has read that job: its caller writes no other before the part is done.
    static uint32_t next_of(uint64_t w) { return uint32_t(w & 0xffff); }
    static uint32_t parts_of(uint64_t w) { return uint32_t(w >> 16 & 0xffff); }
    static bool     has_parts(uint64_t w) { return next_of(w) < parts_of(w); }

    static void run(void* self, Part part, void* job, int32_t n) { static_cast<Team*>(self)->call(part, job, n); }
    void        call(Part part, void* job, int32_t n) {
               part_.store(part, std::memory_order_relaxed), job_.store(job, std::memory_order_relaxed);
               left_.store(n, std::memory_order_relaxed);
               const uint64_t number = (word_.load(std::memory_order_relaxed) >> 32) + 1;
               word_.store(number << 32 | uint64_t(n) << 16);
               if (asleep_.load() > 0 && n > 1) {
                   { const std::lock_guard<std::mutex> lock(mutex_); }
                   wake_.notify_all();
        }
               while (take_part()) {
        }
               const auto all_done = [this] { return left_.load(std::memory_order_acquire) == 0; };
               if (look_for(all_done)) return;
        std::unique_lock<std::mutex> lock(mutex_);
               done_.wait(lock, all_done);
    }
    // Claims a part and does it; false if none is left.
    bool take_part() {
        uint64_t w = word_.load(std::memory_order_acquire);
        while (has_parts(w)) {
            const Part  part = part_.load(std::memory_order_relaxed);
            void* const job = job_.load(std::memory_order_relaxed);
            if (!word_.compare_exchange_weak(w, w + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
            part(job, int32_t(next_of(w)));
            if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) { // the last: its caller may sleep
                { const std::lock_guard<std::mutex> lock(mutex_); }
                done_.notify_one();
            }
            return true;
        }
        return false;
    }
    void work() {
        const auto something = [this] { return has_parts(word_.load()); };
        for (;;) {
            while (take_part()) {
            }
            if (look_for(something)) continue;
            std::unique_lock<std::mutex> lock(mutex_);
            ++asleep_;
            wake_.wait(lock, [&] { return over_ || something(); });
            --asleep_;
            if (over_) return;
        }
    }
    // Whether `seen` came true within the time to look.
    template <class F> bool look_for(const F& seen) const {
        const auto until = std::chrono::steady_clock::now() + look_;
        do {
            for (int i = 0; i < 16; ++i) {
                if (seen()) return true;
                pause();
            }
        } while (std::chrono::steady_clock::now() < until);
        return seen();
    }
    static void pause() {
#if defined(__x86_64__) || defined(__i386__)
        _mm_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
    }

    std::chrono::nanoseconds look_;
    ssm::Team                hook_;
    std::atomic<Part>        part_{nullptr};
    std::atomic<void*>       job_{nullptr};
    std::atomic<uint64_t>    word_{0};
    std::atomic<int32_t>     left_{0};
    std::atomic<int>         asleep_{0};
    bool                     over_ = false; // guarded by mutex_
    std::mutex               mutex_;
    std::condition_variable  wake_, done_;
    std::vector<std::thread> threads_;
};

} // namespace tool
#endif
