// bench_machine.cpp - what this machine could do: time, read bandwidth, multiply-adds, caches flushed.
// SPDX-License-Identifier: MIT
#include "bench.hpp"
#include "team.hpp"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define BENCH_AVX2 1
#endif

namespace bench {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

Time measure(double seconds, const std::function<void()>& f) {
    const double begin = now();
    f();
    size_t calls = 1;
    double once = now() - begin;
    while (once < seconds / 200 && calls < (size_t(1) << 30)) { // short samples: some escape what else runs here
        calls *= 2;
        const double t = now();
        for (size_t i = 0; i < calls; ++i) f();
        once = now() - t;
    }
    Time out;
    do {
        const double t = now();
        for (size_t i = 0; i < calls; ++i) f();
        out.sorted.push_back((now() - t) / static_cast<double>(calls));
    } while ((now() - begin < seconds && out.sorted.size() < 1000) || out.sorted.size() < 3);
    std::sort(out.sorted.begin(), out.sorted.end());
    return out;
}
Time measure_each(double seconds, const std::function<void()>& prepare, const std::function<void()>& f) {
    const double begin = now();
    Time         out;
    do {
        prepare();
        const double t = now();
        f();
        out.sorted.push_back(now() - t);
    } while ((now() - begin < seconds && out.sorted.size() < 1000) || out.sorted.size() < 3);
    std::sort(out.sorted.begin(), out.sorted.end());
    return out;
}

namespace {
// Keeps a value in a register, out of the optimizer's sight.
#if defined(__x86_64__) && defined(__GNUC__)
inline void keep(float& v) { __asm__ volatile("" : "+x"(v)); }
inline void keep(uint32_t& v) { __asm__ volatile("" : "+r"(v)); }
#elif defined(__aarch64__) && defined(__GNUC__)
inline void keep(float& v) { __asm__ volatile("" : "+w"(v)); }
inline void keep(uint32_t& v) { __asm__ volatile("" : "+r"(v)); }
#else
inline void keep(float& v) {
    volatile float w = v;
    v = w;
}
inline void keep(uint32_t& v) {
    volatile uint32_t w = v;
    v = w;
}
#endif

thread_local volatile uint32_t sink;

constexpr size_t mac_loops = 4096;
constexpr size_t piece = size_t(4) << 20; // of what threads read together

struct scalar {
    static void read(const unsigned char* p, size_t bytes) { // a float at a time
        uint32_t a = 0, b = 0, c = 0, d = 0;
        for (size_t i = 0; i + 16 <= bytes; i += 16) {
            uint32_t v[4];
            std::memcpy(&v[0], p + i, 4), std::memcpy(&v[1], p + i + 4, 4);
            std::memcpy(&v[2], p + i + 8, 4), std::memcpy(&v[3], p + i + 12, 4);
            a |= v[0], b |= v[1], c |= v[2], d |= v[3];
            keep(a), keep(b), keep(c), keep(d);
        }
        sink = a | b | c | d;
    }
    static constexpr size_t macs = 8 * mac_loops;
    static void             multiply_add() {
                    float a = 1, b = 1, c = 1, d = 1, e = 1, f = 1, g = 1, h = 1, w = 0.5f, v = 0.25f;
                    keep(w), keep(v);
                    for (size_t i = 0; i < mac_loops; ++i) {
                        a = a * w + v, b = b * w + v, c = c * w + v, d = d * w + v;
                        e = e * w + v, f = f * w + v, g = g * w + v, h = h * w + v;
                        keep(a), keep(b), keep(c), keep(d), keep(e), keep(f), keep(g), keep(h);
        }
                    sink = uint32_t(a + b + c + d + e + f + g + h);
    }
};

#if defined(BENCH_AVX2)
#define TARGET __attribute__((target("avx2")))
struct avx2 {
    TARGET static void read(const unsigned char* p, size_t bytes) {
        __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
        for (size_t i = 0; i + 128 <= bytes; i += 128) {
            const __m256i* q = reinterpret_cast<const __m256i*>(p + i);
            a = _mm256_or_si256(a, _mm256_loadu_si256(q)), b = _mm256_or_si256(b, _mm256_loadu_si256(q + 1));
            c = _mm256_or_si256(c, _mm256_loadu_si256(q + 2)), d = _mm256_or_si256(d, _mm256_loadu_si256(q + 3));
        }
        a = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
        sink = uint32_t(_mm256_movemask_epi8(a));
    }
    static constexpr size_t macs = 8 * 12 * mac_loops;
    TARGET static void      multiply_add() { // twelve chains cover the latency of a product and a sum
        const __m256 w = _mm256_set1_ps(0.5f), v = _mm256_set1_ps(0.25f);
        __m256       a = v, b = v, c = v, d = v, e = v, f = v, g = v, h = v, i = v, j = v, k = v, l = v;
        for (size_t n = 0; n < mac_loops; ++n) {
                 a = _mm256_add_ps(_mm256_mul_ps(a, w), v), b = _mm256_add_ps(_mm256_mul_ps(b, w), v);
                 c = _mm256_add_ps(_mm256_mul_ps(c, w), v), d = _mm256_add_ps(_mm256_mul_ps(d, w), v);
                 e = _mm256_add_ps(_mm256_mul_ps(e, w), v), f = _mm256_add_ps(_mm256_mul_ps(f, w), v);
                 g = _mm256_add_ps(_mm256_mul_ps(g, w), v), h = _mm256_add_ps(_mm256_mul_ps(h, w), v);
                 i = _mm256_add_ps(_mm256_mul_ps(i, w), v), j = _mm256_add_ps(_mm256_mul_ps(j, w), v);
                 k = _mm256_add_ps(_mm256_mul_ps(k, w), v), l = _mm256_add_ps(_mm256_mul_ps(l, w), v);
        }
        a = _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d)), _mm256_add_ps(e, f));
        g = _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(g, h), _mm256_add_ps(i, j)), _mm256_add_ps(k, l));
        sink = uint32_t(_mm256_movemask_ps(_mm256_add_ps(a, g)));
    }
};
#undef TARGET
#endif

template <class K> Machine measure_with(int threads, double seconds) {
    Machine m;
    m.threads = threads;
    for (size_t i = 0; i < n_levels; ++i) {
        const size_t n = levels[i].bytes;
        // In large pages where they are to be had: the limit is that of the memory, not of its page tables.
        constexpr size_t                                      page = size_t(2) << 20;
        const std::unique_ptr<unsigned char, void (*)(void*)> memory(
            static_cast<unsigned char*>(std::aligned_alloc(page, (n + page - 1) / page * page)), std::free);
        if (memory == nullptr) break;
#if defined(__linux__)
        (void)::madvise(memory.get(), n, MADV_HUGEPAGE);
#endif
        std::memset(memory.get(), 1, n); // real pages, not the shared zero page
        m.bytes_per_s[i] = static_cast<double>(n) / measure(seconds, [&] { K::read(memory.get(), n); }).fastest();
        if (i + 1 < n_levels || threads == 1) continue;
        const tool::Team team(threads);
        const auto       all = [&] {
            team.hook()->run(
                      team.hook()->self,
                      [](void* p, int32_t k) { K::read(static_cast<unsigned char*>(p) + size_t(k) * piece, piece); },
                      memory.get(), int32_t(n / piece));
        };
        m.memory_bytes_per_s = static_cast<double>(n) / measure(seconds, all).fastest();
    }
    m.macs_per_s = static_cast<double>(K::macs) / measure(seconds, [] { K::multiply_add(); }).fastest();
    return m;
}
} // namespace

Machine measure_machine(ssm::Isa isa, int threads, double seconds) {
#if defined(BENCH_AVX2)
    if (isa == ssm::Isa::avx2 || isa == ssm::Isa::avxvnni || isa == ssm::Isa::avx512)
        return measure_with<avx2>(threads, seconds); // as a measure, the same
#endif
    (void)isa;
    return measure_with<scalar>(threads, seconds);
}
double Machine::least(double macs, double bytes, double working_set, int by) const {
    size_t level = 0;
    while (level + 1 < n_levels && working_set > static_cast<double>(levels[level].bytes) && bytes_per_s[level + 1] > 0)
        ++level;
    const double read =
        level + 1 == n_levels && by > 1 && memory_bytes_per_s > 0 ? memory_bytes_per_s : bytes_per_s[level] * by;
    return std::max(macs / (macs_per_s * by), bytes / read);
}

void flush(const void* p, size_t bytes) {
#if defined(__x86_64__) && defined(__GNUC__)
    const char* at = static_cast<const char*>(p);
    for (size_t i = 0; i < bytes; i += 64) _mm_clflush(at + i);
    if (bytes > 0) _mm_clflush(at + bytes - 1);
    _mm_mfence();
#else
    (void)p, (void)bytes;
    static std::vector<unsigned char> larger(size_t(128) << 20, 1);
    scalar::read(larger.data(), larger.size());
#endif
}

std::string cpu_name() {
    std::string text;
    if (std::FILE* f = std::fopen("/proc/cpuinfo", "r")) {
        char line[256];
        while (text.empty() && std::fgets(line, sizeof line, f) != nullptr)
            if (std::strncmp(line, "model name", 10) == 0 && std::strchr(line, ':') != nullptr)
                text = std::strchr(line, ':') + 2;
        std::fclose(f);
    }
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text.empty() ? "unknown" : text;
}

} // namespace bench
