// bench.cpp - `ssm bench`: how fast a model runs here, and how fast this machine could run it.
//
// First the machine: how many bytes a second the back-end's loads bring in from each level of memory, and how many
// multiply-adds (unfused, as the engine does them) it completes. Then kernels and whole steps. The roofline share of a
// measurement is the time the machine needs at least, the larger of its bytes at the measured bandwidth and its
// multiply-adds at the measured rate, over the time taken. SPDX-License-Identifier: MIT
//
// Kernels are private to the implementation of the library; a private copy of it shows them.
#define SSM_STATIC
#define SSM_IMPLEMENTATION
#include "../ssm.hpp"

#include "quantize.hpp"
#include "random_model.hpp"
#include "tool.hpp"

#include <algorithm>
#include <chrono>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>

#include <unistd.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define BENCH_AVX2 1
#endif

namespace tool {
int bench_train(const char* config, double seconds); // bench_train.cpp
}

namespace {
using namespace tool;

const char help[] =
    "usage: ssm bench MODEL | --config KEY=VALUE,... | --train KEY=VALUE,... [--json] [--isa NAME] [--seconds S]\n"
    "\n"
    "Measures the machine (read bandwidth, multiply-adds), the kernels at this model's sizes, and whole steps, on "
    "every\n"
    "back-end of this CPU or the one named, on one core. Times are the fastest and the median of several repetitions;\n"
    "roofline share: the least time this machine needs for the bytes and multiply-adds, over the fastest time.\n"
    "\n"
    "  --config T   a made-up model instead of a file: the architecture (s4d, mamba1, mamba2, mamba3) and any of "
    "d_model,\n"
    "               n_layer, d_state, headdim, ngroups, mimo_rank, rope_fraction, expand, d_conv, dt_rank, "
    "mlp_hidden,\n"
    "               d_input, d_output, vocab_size, dtype, clip, seed: "
    "mamba3,d_model=128,n_layer=4,d_state=16,headdim=16\n"
    "               weights=i8|i4, activations=i8|i16 and state=i32|i16rowexp make an integer model of it\n"
    "  --train T    a training step (forward and backward, 32 tokens) of a made-up mamba3 model instead\n"
    "  --json       one JSON object instead of text\n"
    "  --isa NAME   this back-end only\n"
    "  --seconds S  for the whole run (default 8)\n";

// ---- Time

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Time {
    double fastest = 0.0, median = 0.0;
}; // seconds a call

// Calls `f` often enough to be timed, again and again for `seconds`.
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
    std::vector<double> samples;
    do {
        const double t = now();
        for (size_t i = 0; i < calls; ++i) f();
        samples.push_back((now() - t) / static_cast<double>(calls));
    } while ((now() - begin < seconds && samples.size() < 1000) || samples.size() < 3);
    std::sort(samples.begin(), samples.end());
    return {samples[0], samples[samples.size() / 2]};
}

// ---- The machine

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

volatile uint32_t sink;

constexpr size_t mac_loops = 4096;

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

constexpr struct {
    const char* name;
    size_t      bytes;
} levels[] = {{"16 KiB", size_t(16) << 10}, {"256 KiB", size_t(256) << 10}, {"1 MiB", size_t(1) << 20},
              {"2 MiB", size_t(2) << 20},   {"4 MiB", size_t(4) << 20},     {"8 MiB", size_t(8) << 20},
              {"16 MiB", size_t(16) << 20}, {"32 MiB", size_t(32) << 20},   {"256 MiB", size_t(256) << 20}};

constexpr size_t n_levels = sizeof levels / sizeof levels[0];

struct Machine {
    double bytes_per_s[n_levels] = {}; // 0: not measured
    double macs_per_s = 0;
    double least(double macs, double bytes, double working_set) const { // seconds
        size_t level = 0;
        while (level + 1 < n_levels && working_set > static_cast<double>(levels[level].bytes) &&
               bytes_per_s[level + 1] > 0)
            ++level;
        return std::max(macs / macs_per_s, bytes / bytes_per_s[level]);
    }
};

template <class K> Machine measure_machine(double seconds) {
    Machine m;
    for (size_t i = 0; i < n_levels; ++i) {
        const size_t                     n = levels[i].bytes;
        std::unique_ptr<unsigned char[]> memory(new (std::nothrow) unsigned char[n]);
        if (memory == nullptr) break;
        std::memset(memory.get(), 1, n); // real pages, not the shared zero page
        m.bytes_per_s[i] = static_cast<double>(n) / measure(seconds, [&] { K::read(memory.get(), n); }).fastest;
    }
    m.macs_per_s = static_cast<double>(K::macs) / measure(seconds, [] { K::multiply_add(); }).fastest;
    return m;
}
Machine machine_of(ssm::Isa isa, double seconds) {
#if defined(BENCH_AVX2)
    if (isa == ssm::Isa::avx2 || isa == ssm::Isa::avx512)
        return measure_machine<avx2>(seconds); // as a measure, the same
#endif
    (void)isa;
    return measure_machine<scalar>(seconds);
}

// ---- The model

struct Row {
    std::string name;
    double      fastest_ns, median_ns;
    double      per_s;       // rows of input a second
    double      macs, bytes; // a call; 0: not counted
    double      share;       // of the roofline; 0: not known
};

// What a step does at least.
struct Work {
    double macs = 0, bytes = 0, weights = 0;
};
double matrix_bytes(const ssm::Matrix& w) {
    const double row = w.cols, groups = (w.cols + 31) / 32;
    if (w.dtype == ssm::DType::i8 || w.dtype == ssm::DType::i4)
        return w.rows * 4.0 + (w.rows - w.rows4) * row + w.rows4 * groups * 17;
    return static_cast<double>(w.rows) * static_cast<double>(w.cols) * (w.dtype == ssm::DType::f32 ? 4.0 : 2.0);
}
double macs_of(const ssm::Matrix& w) { return static_cast<double>(w.rows) * static_cast<double>(w.cols); }
Work   work_of(const ssm::Model& m, int32_t n_inputs) {
      const ssm::Config& c = m.config;
      const double       H = c.d_model, n = n_inputs, layers = c.n_layers;
      Work               w;
      if (c.arch == ssm::Arch::s4d) {
          const double modes = static_cast<double>(ssm::detail::modes(c)), matrix = 2 * H * H;
          const double mix = m.s4d_q != nullptr                   ? matrix_bytes(m.s4d_q[0].mix)
                             : m.encoder.dtype == ssm::DType::f32 ? matrix * 4
                                                                  : matrix * 2;
          w.macs = n * (H * c.d_input + layers * (2 * H * H + 8 * modes) + H * c.d_output);
          w.weights = matrix_bytes(m.encoder) + matrix_bytes(m.decoder) + layers * (mix + modes * 6 * 4);
          w.bytes = w.weights + n * layers * modes * 4 * 4; // the state, read and written
          return w;
    }
      const double states = static_cast<double>(ssm::state_bytes(c));
      for (int32_t l = 0; l < c.n_layers; ++l) {
          const auto each = [&w](const auto& a) {
            for (const ssm::Matrix* x : {&a.in_proj, &a.out_proj, &a.x_proj, &a.dt_proj, &a.fc1, &a.fc2})
                w.macs += macs_of(*x), w.weights += matrix_bytes(*x);
        };
        m.mamba_q != nullptr ? each(m.mamba_q[l]) : each(m.mamba[l]);
    }
      w.macs += macs_of(m.decoder), w.weights += matrix_bytes(m.decoder);
      if (c.input == ssm::Input::features) w.macs += macs_of(m.encoder), w.weights += matrix_bytes(m.encoder);
    w.macs += states / 4 * 2 * std::max(c.mimo_rank, 1); // update and read-out of every number of h
      w.macs *= n;
      w.bytes = w.weights + n * states * 2;
      return w;
}

class Bench {
  public:
    Bench(const OpenModel& m, ssm::Isa isa, const Machine& machine, double seconds)
        : m_(m), kernels_(*ssm::detail::kernels_of(isa)), machine_(machine), seconds_(seconds) {}
    void kernels();
    void mamba_kernels();
    void integer_kernels();
    bool steps(ssm::Arena* arena); // false: the model refused
    bool c_takes_dt() const {
        return !ssm::is_integer(m_.config) || m_.config.arch != ssm::Arch::s4d || m_.config.has_gaps;
    }
    const std::vector<Row>& rows() const { return rows_; }

  private:
    void add(const std::string& name, double n, double macs, double bytes, double working_set,
             const std::function<void()>& f) {
        const Time t = measure(seconds_, f);
        // The machine's multiply-adds are float ones: integer work is held against its bytes alone.
        const double least =
            macs > 0 ? machine_.least(ssm::is_integer(m_.config) ? 0.0 : macs, bytes, working_set) : 0.0;
        rows_.push_back({name, t.fastest * 1e9, t.median * 1e9, n / t.fastest, macs, bytes, least / t.fastest});
    }
    // Numbers between -1 and 1, the same in every run.
    std::vector<float> noise(size_t n, float scale = 1.0f) {
        std::vector<float> v(n);
        for (float& x : v) {
            seed_ = seed_ * 6364136223846793005u + 1442695040888963407u;
            x = scale * (static_cast<float>(seed_ >> 40) / 8388608.0f - 1.0f);
        }
        return v;
    }
    const OpenModel& m_;
    ssm::Kernels     kernels_;
    Machine          machine_;
    double           seconds_;
    uint64_t         seed_ = 1;
    std::vector<Row> rows_;
    bool             ran_ = true;
};

// One mixer of a Mamba model, and what stands around it.
void Bench::mamba_kernels() {
    const ssm::Config&            c = m_.config;
    const ssm::MambaLayer<float>& layer = m_.model.mamba[0];
    const int32_t                 n = 64, d = c.d_model, d_stride = int32_t(ssm::detail::padded(d));
    const int32_t                 p_stride = int32_t(ssm::detail::row_p(c)), o_stride = int32_t(ssm::detail::row_o(c));
    const auto                    parts = ssm::detail::parts_of(c);
    std::vector<float>            x = noise(size_t(n) * size_t(d_stride)), p = noise(size_t(n) * size_t(p_stride));
    std::vector<float>            o = noise(size_t(n) * size_t(o_stride)), h(parts.end), work(ssm::detail::one_row(c));
    const auto matmul = [&](const char* name, const ssm::Matrix& w, int32_t rows, float* y, int32_t y_stride,
                            const float* from, int32_t from_stride) {
        const double macs = macs_of(w) * rows;
        add(std::string("matmul ") + name + " " + std::to_string(w.rows) + "x" + std::to_string(w.cols) + ", " +
                std::to_string(rows) + (rows == 1 ? " row" : " rows"),
            rows, macs, matrix_bytes(w), matrix_bytes(w), [&, rows, y, y_stride, from, from_stride] {
                kernels_.matmul(y, y_stride, w, nullptr, from, from_stride, rows);
            });
    };
    for (int32_t rows : {1, n}) {
        std::vector<float> y(size_t(n) * size_t(std::max(p_stride, d_stride)));
        matmul("in_proj", layer.in_proj, rows, y.data(), p_stride, x.data(), d_stride);
        matmul("out_proj", layer.out_proj, rows, y.data(), d_stride, o.data(), o_stride);
    }
    ssm::Row<float> row;
    row.c = &c, row.layer = &layer, row.p = p.data(), row.y = o.data(), row.state = h.data(), row.work = work.data();
    const auto   cell = c.arch == ssm::Arch::mamba1   ? kernels_.mamba1
                        : c.arch == ssm::Arch::mamba2 ? kernels_.mamba2
                                                      : kernels_.mamba3;
    const double size = static_cast<double>(parts.end) * 4;
    for (const bool moves : {true, false}) {
        row.next = moves ? h.data() : nullptr;
        add(moves ? "recurrence, a step" : "recurrence, a candidate", 1, size / 4 * 2 * std::max(c.mimo_rank, 1),
            moves ? 2 * size : size, size, [&] { cell(row); });
    }
    add("rms norm " + std::to_string(d), 1, 0, 0, 0,
        [&] { kernels_.rms_norm(o.data(), x.data(), m_.model.norm_f_weight, d); });
}

// Projections with everything around them, and the recurrence of one layer of an integer model.
void Bench::integer_kernels() {
    const ssm::Config&         c = m_.config;
    const int32_t              n = 64, stride = int32_t(ssm::detail::code_bytes(c));
    std::vector<int32_t>       x(size_t(n) * ssm::max_width), y, scales(size_t(n) * 2), h(ssm::detail::parts_of(c).end);
    std::vector<unsigned char> codes(size_t(n) * size_t(stride));
    const std::vector<float>   values = noise(x.size());
    for (size_t i = 0; i < x.size(); ++i) x[i] = ssm::to_q16(values[i]);
    const auto project = [&](const char* name, const ssm::Matrix& w, int32_t rows) {
        y.resize(size_t(rows) * size_t(w.rows));
        add(std::string(w.rows4 > 0 ? "int4 " : "int8 ") + name + " " + std::to_string(w.rows) + "x" +
                std::to_string(w.cols) + ", " + std::to_string(rows) + (rows == 1 ? " row" : " rows"),
            rows, macs_of(w) * rows, matrix_bytes(w), matrix_bytes(w), [&, rows] {
                for (int32_t i = 0; i < rows; ++i)
                    kernels_.quantize(&codes[size_t(i) * size_t(stride)], &scales[size_t(i) * 2],
                                      &x[size_t(i) * size_t(w.cols)], w.cols, (w.cols + 31) / 32 * 32, c.act_bits);
                kernels_.matmul_q(y.data(), w.rows, w, codes.data(), stride, scales.data(), rows, c.act_bits);
            });
    };
    if (c.arch == ssm::Arch::s4d) {
        const ssm::S4dLayer<int32_t>& layer = m_.model.s4d_q[0];
        const int32_t                 width = int32_t(ssm::detail::padded(c.d_model));
        const double                  modes = static_cast<double>(ssm::detail::modes(c));
        for (int32_t rows : {1, n}) project("mix", layer.mix, rows);
        std::vector<int32_t> s(size_t(n) * size_t(width));
        for (int32_t T : {1, n}) {
            const ssm::S4dScanQ scan{layer.a,  layer.b,   layer.C,       layer.C_scale, layer.D,
                                     h.data(), x.data(),  h.data(),      s.data(),      width,
                                     T,        c.d_model, c.d_state / 2, c.b_frac - 9,  c.clip_q25};
            add("scan " + std::to_string(T) + (T == 1 ? " step" : " steps"), T, 8 * modes * T,
                modes * 20 + modes * 16 * T, modes * 28, [&] { kernels_.s4d_scan_q(scan); });
        }
        return;
    }
    const ssm::MambaLayer<int32_t>& layer = m_.model.mamba_q[0];
    for (int32_t rows : {1, n}) project("in_proj", layer.in_proj, rows), project("out_proj", layer.out_proj, rows);
    std::vector<int32_t> out(ssm::detail::row_o(c)), work(ssm::detail::one_row(c));
    ssm::Row<int32_t>    row;
    row.c = &c, row.kernels = m_.model.kernels, row.layer = &layer, row.p = x.data(), row.y = out.data();
    row.state = h.data(), row.work = work.data(), row.dt = 65536;
    const auto   cell = c.arch == ssm::Arch::mamba1   ? kernels_.mamba1_q
                        : c.arch == ssm::Arch::mamba2 ? kernels_.mamba2_q
                                                      : kernels_.mamba3_q;
    const double size = static_cast<double>(h.size()) * 4;
    for (const bool moves : {true, false}) {
        row.next = moves ? h.data() : nullptr;
        add(moves ? "recurrence, a step" : "recurrence, a candidate", 1, size / 4 * 2 * std::max(c.mimo_rank, 1),
            moves ? 2 * size : size, size, [&] { cell(row); });
    }
}

void Bench::kernels() {
    const ssm::Config& c = m_.config;
    if (ssm::is_integer(c)) return integer_kernels();
    if (c.arch != ssm::Arch::s4d) return mamba_kernels();
    const int32_t H = c.d_model, stride = int32_t(ssm::detail::padded(H)), blocks = stride / 8, modes = c.d_state / 2;
    const int32_t n = 64;
    const size_t  width = size_t(std::max(std::max(stride, c.d_input), c.d_output));

    // The mixing matrix of a layer, in the dtype of the file's.
    const ssm::Entry* entry = ssm::find_tensor(m_.index, "s4_layers.0.output_linear.0.weight");
    ssm::Matrix       mix;
    mix.rows = 2 * H, mix.cols = H;
    if (entry != nullptr && std::strcmp(ssm::dtype_name(entry->dtype), "F16") == 0) mix.dtype = ssm::DType::f16;
    if (entry != nullptr && std::strcmp(ssm::dtype_name(entry->dtype), "BF16") == 0) mix.dtype = ssm::DType::bf16;
    std::vector<float> weights = noise(size_t(2 * H) * size_t(H), 0.1f);
    if (mix.dtype != ssm::DType::f32)
        std::memset(weights.data(), 0x2e, weights.size() * 4); // small numbers in either format
    mix.data = reinterpret_cast<const unsigned char*>(weights.data());

    const std::vector<float> x = noise(size_t(n) * width), bias = noise(size_t(2 * stride));
    std::vector<float>       y(size_t(n) * 2 * std::max(width, size_t(stride)));
    const auto               matmul = [&](const char* name, const ssm::Matrix& w, int32_t rows) {
        const double macs = static_cast<double>(w.rows) * w.cols * rows;
        add(std::string("matmul ") + name + " " + std::to_string(w.rows) + "x" + std::to_string(w.cols) + ", " +
                              std::to_string(rows) + (rows == 1 ? " row" : " rows"),
                          rows, macs, matrix_bytes(w), matrix_bytes(w),
                          [&, rows] { kernels_.matmul(y.data(), w.rows, w, nullptr, x.data(), w.cols, rows); });
    };
    matmul("encoder", m_.model.encoder, 1);
    matmul("mix", mix, 1);
    matmul("mix", mix, n);
    matmul("decoder", m_.model.decoder, 1);

    const size_t             all = size_t(blocks) * size_t(modes);
    std::vector<float>       ab = noise(all * 32, 0.5f), h(all * 16), s(size_t(n) * size_t(stride));
    const std::vector<float> cc = noise(all * 16), D = noise(size_t(stride)), u = noise(size_t(n) * size_t(stride));
    for (int32_t T : {1, n}) {
        const double modes8 = static_cast<double>(all) * 8;
        add("scan " + std::to_string(T) + (T == 1 ? " step" : " steps"), T, 8 * modes8 * T,
            modes8 * 24 + modes8 * 16 * T, modes8 * 32, [&, T] {
                kernels_.s4d_scan(ab.data(), cc.data(), D.data(), h.data(), h.data(), u.data(), s.data(), stride, T,
                                  blocks, modes, 50.0f);
            });
    }
    const std::vector<float> rho = noise(all * 8, 0.01f), gain = noise(all * 16);
    std::vector<double>      turns(all * 8);
    for (double& t : turns) t = static_cast<double>(noise(1)[0]);
    add("discretize", 1, 0, 0, 0,
        [&] { kernels_.s4d_discretize(ab.data(), rho.data(), turns.data(), gain.data(), 1.5f, c.disc, int32_t(all)); });
    add("gelu " + std::to_string(H), 1, 0, 0, 0, [&] { kernels_.gelu(y.data(), x.data(), H); });
    std::vector<float> r(size_t(stride), 0.0f);
    add("glu " + std::to_string(H), 1, 0, 0, 0, [&] { kernels_.glu(r.data(), bias.data(), H); });
    add("layer norm " + std::to_string(H), 1, 0, 0, 0,
        [&] { kernels_.layer_norm(y.data(), x.data(), bias.data(), bias.data(), H); });
}

bool Bench::steps(ssm::Arena* arena) {
    constexpr int32_t n = 64, most = 512;
    const ssm::Model& model = m_.model;
    const size_t      d_in = size_t(m_.config.d_input), d_out = size_t(m_.config.d_output);
    ssm::State        state;
    ssm::Scratch      scratch;
    if (ssm::make_state(&state, model, arena) != ssm::Status::ok ||
        ssm::make_scratch(&scratch, model, n, arena) != ssm::Status::ok)
        return false;
    std::vector<float> x = noise(size_t(most) * d_in), y(size_t(n) * d_out), dt(size_t(n), 1.5f);
    const Work         one = work_of(model, 1), many = work_of(model, n), few = work_of(model, 32);
    const double       hot = one.bytes;
    add("step", 1, one.macs, one.bytes, hot,
        [&] { ran_ &= ssm::step(model, &state, &scratch, x.data(), y.data()) == ssm::Status::ok; });
    if (c_takes_dt())
        add("step, dt 1.5", 1, one.macs, one.bytes, hot,
            [&] { ran_ &= ssm::step(model, &state, &scratch, x.data(), y.data(), 1.5f) == ssm::Status::ok; });
    add("32 candidates", 32, few.macs, few.bytes, hot,
        [&] { ran_ &= ssm::step_batch(model, state, &scratch, x.data(), 32, y.data()) == ssm::Status::ok; });
    add("64 candidates", n, many.macs, many.bytes, hot,
        [&] { ran_ &= ssm::step_batch(model, state, &scratch, x.data(), n, y.data()) == ssm::Status::ok; });
    add("prefill 64 steps", n, many.macs, many.bytes, hot,
        [&] { ran_ &= ssm::prefill(model, &state, &scratch, x.data(), n, y.data()) == ssm::Status::ok; });
    const Work all = work_of(model, most);
    add("prefill 512 steps", most, all.macs, all.bytes, hot,
        [&] { ran_ &= ssm::prefill(model, &state, &scratch, x.data(), most, y.data()) == ssm::Status::ok; });
    return ran_;
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
#if defined(__VERSION__)
const char compiler[] = __VERSION__;
#else
const char  compiler[] = "unknown";
#endif

std::vector<std::string> split(const std::string& text) { // at commas
    std::vector<std::string> parts(1);
    for (char c : text)
        if (c == ',') parts.emplace_back();
        else parts.back() += c;
    return parts;
}

// A random model in a file of its own, gone when this is.
struct MadeUp {
    std::string path;
    MadeUp() = default;
    MadeUp(const MadeUp&) = delete;
    MadeUp& operator=(const MadeUp&) = delete;
    ~MadeUp() {
        if (!path.empty()) ::unlink(path.c_str());
    }
    int write(const char* text) {
        random_model::Spec spec;
        std::string        why;
        quantize::Settings settings;
        bool               integer = false;
        std::string        rest;
        for (std::string part : split(text)) {
            const auto one_of = [&](const char* key, const char* off, const char* on, bool* to) {
                if (part != std::string(key) + off && part != std::string(key) + on) return false;
                *to = part == std::string(key) + on;
                return integer = true;
            };
            if (!one_of("weights=", "i8", "i4", &settings.int4) &&
                !one_of("activations=", "i8", "i16", &settings.act16) &&
                !one_of("state=", "i32", "i16rowexp", &settings.row_exponents))
                rest += (rest.empty() ? "" : ",") + part;
        }
        if (!random_model::parse(rest, &spec, &why))
            return fail(bad_usage, "bench", "--config: " + escape(why, 200, "\""));
        std::string file = random_model::file(spec);
        if (integer) {
            quantize::Model m;
            if (const int bad = quantize::make({file.data(), file.size()}, settings, &m, &why))
                return fail(bad, "bench", "--config: " + why);
            file = quantize::file_bytes(m);
        }
        const char* folder = std::getenv("TMPDIR");
        std::string name = std::string(folder != nullptr && *folder != 0 ? folder : "/tmp") + "/ssm-bench-XXXXXX";
        const int   fd = ::mkstemp(name.data());
        if (fd < 0) return fail(io_error, "bench", escape(name, 160) + ": cannot be created: " + system_error(errno));
        ::close(fd);
        path = name;
        return save_file("bench", path.c_str(), file);
    }
};

std::string printed(const char* format, double v) {
    char text[64];
    std::snprintf(text, sizeof text, format, v);
    return text;
}
} // namespace

int verb_bench(int argc, char** argv) {
    bool     json = false;
    double   seconds = 8.0;
    ssm::Isa isa = ssm::Isa::best;
    Options  options("bench", help);
    options.flag("--json", &json).isa(&isa).number("--seconds", &seconds, 0.05, 3600.0);
    const char* config = nullptr;
    const char* to_train = nullptr;
    options.text("--config", &config).text("--train", &to_train);
    int status = options.read(argc, argv, 0, 1);
    if (status != go_on) return status;
    if (to_train != nullptr) {
        if (config != nullptr || json || isa != ssm::Isa::best || !options.operands.empty())
            return fail(bad_usage, "bench", "--train goes with --seconds only; see ssm bench --help");
        return bench_train(to_train, seconds);
    }
    if ((config == nullptr) != (options.operands.size() == 1))
        return fail(bad_usage, "bench",
                    std::string("expected one model file or --config, got ") +
                        (config != nullptr ? "both" : std::to_string(options.operands.size())) +
                        "; see ssm bench --help");
    MadeUp made_up;
    if (config != nullptr) {
        if ((status = made_up.write(config)) != done) return status;
        options.operands = {made_up.path.c_str()};
    }
    std::vector<ssm::Isa> all = back_ends();
    if (isa != ssm::Isa::best) all = {isa};
    Container file;
    if ((status = open_container("bench", options.operands[0], &file)) != done) return status;
    std::string model_json;
    append_json_string(&model_json, escape(config != nullptr ? config : options.operands[0], 160));

    Output           out(1);
    std::string      text; // of --json
    constexpr double measurements = n_levels + 1 + 10 + 6;
    const double     each =
        seconds / (static_cast<double>(all.size()) * measurements) * 0.8; // the rest: finding how often to call
    for (size_t b = 0; b < all.size(); ++b) {
        OpenModel m;
        if (open_container("bench", options.operands[0], &m) != done) return bad_file;
        if ((status = open_model("bench", options.operands[0], m, all[b], 1, 64, &m)) != done) return status;
        const char*   name = ssm::isa_name(m.model);
        const Machine machine = machine_of(all[b], each);
        Bench         bench(m, all[b], machine, each);
        bench.kernels();
        if (!bench.steps(&m.arena))
            return fail(bad_file, "bench", escape(options.operands[0], 160) + ": the model refuses a step");
        if (json) {
            if (b == 0) {
                text = "{\"version\":\"" SSM_VERSION "\",\"model\":" + model_json + ",\"cpu\":";
                append_json_string(&text, cpu_name());
                text += ",\"compiler\":";
                append_json_string(&text, compiler);
                text += ",\"back_ends\":[";
            } else text += ',';
            text += std::string("{\"name\":\"") + name + "\",\"machine\":{\"read_bytes_per_s\":{";
            for (size_t i = 0; i < n_levels; ++i)
                text += std::string(i == 0 ? "\"" : ",\"") + levels[i].name +
                        "\":" + printed("%.4g", machine.bytes_per_s[i]);
            text += "},\"macs_per_s\":" + printed("%.4g", machine.macs_per_s) + "},\"runs\":[";
            bool first = true;
            for (const Row& r : bench.rows()) {
                text += std::string(first ? "" : ",") + "{\"name\":\"" + r.name +
                        "\",\"ns\":" + printed("%.5g", r.fastest_ns) +
                        ",\"median_ns\":" + printed("%.5g", r.median_ns) +
                        ",\"rows_per_s\":" + printed("%.5g", r.per_s);
                if (r.macs > 0)
                    text += ",\"gmac_per_s\":" + printed("%.4g", r.macs / r.fastest_ns) +
                            ",\"gb_per_s\":" + printed("%.4g", r.bytes / r.fastest_ns) +
                            ",\"roofline_share\":" + printed("%.3f", r.share);
                text += "}";
                first = false;
            }
            text += "]}";
            continue;
        }
        if (b == 0) out.write("cpu: " + escape(cpu_name()) + "\ncompiler: " + std::string(compiler) + "\n");
        char line[200];
        out.write(std::string("\nback-end ") + name + ", one core\n");
        for (size_t i = 0; i < n_levels; ++i) {
            std::snprintf(line, sizeof line, "  %-34s %10.1f GB/s\n",
                          (std::string("read within ") + levels[i].name).c_str(), machine.bytes_per_s[i] * 1e-9);
            out.write(line);
        }
        std::snprintf(line, sizeof line, "  %-34s %10.1f GMAC/s\n\n", "multiply-add, not fused",
                      machine.macs_per_s * 1e-9);
        out.write(line);
        std::snprintf(line, sizeof line, "  %-34s %10s %10s %12s %8s %8s %9s\n", "", "ns", "median", "rows/s", "GMAC/s",
                      "GB/s", "roofline");
        out.write(line);
        for (const Row& r : bench.rows()) {
            std::snprintf(line, sizeof line, "  %-34s %10.0f %10.0f %12.0f", r.name.c_str(), r.fastest_ns, r.median_ns,
                          r.per_s);
            out.write(line);
            if (r.macs > 0) {
                std::snprintf(line, sizeof line, " %8.2f %8.2f %8.0f%%", r.macs / r.fastest_ns, r.bytes / r.fastest_ns,
                              r.share * 100);
                out.write(line);
            }
            out.write("\n");
        }
        out.flush();
    }
    if (json) out.write(text + "]}\n");
    return finish("bench", &out);
}
