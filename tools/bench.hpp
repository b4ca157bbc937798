// bench.hpp - the parts of `ssm bench`: the machine's own limits, made-up models, measurements, comparing two runs.
// SPDX-License-Identifier: MIT
#ifndef SSM_TOOLS_BENCH_HPP
#define SSM_TOOLS_BENCH_HPP

#include "tool.hpp"

#include <functional>
#include <string>
#include <vector>

namespace bench {

// ---- Time (bench_machine.cpp)

double now(); // seconds

struct Time { // seconds a call, of the samples taken
    std::vector<double> sorted;
    double              fastest() const { return sorted.front(); }
    double              at(double share) const { return sorted[size_t(share * double(sorted.size() - 1) + 0.5)]; }
    double              median() const { return at(0.5); }
};
constexpr size_t n_quantiles = 21; // of the samples that --json gives: 0, 5, ... 100 %
// Calls `f` often enough to be timed, again and again for `seconds`.
Time measure(double seconds, const std::function<void()>& f);
// One call of `f` a sample, each after a call of `prepare`, which is not timed.
Time measure_each(double seconds, const std::function<void()>& prepare, const std::function<void()>& f);

// ---- The machine (bench_machine.cpp)

constexpr struct {
    const char* name;
    size_t      bytes;
} levels[] = {{"16 KiB", size_t(16) << 10}, {"256 KiB", size_t(256) << 10}, {"1 MiB", size_t(1) << 20},
              {"2 MiB", size_t(2) << 20},   {"4 MiB", size_t(4) << 20},     {"8 MiB", size_t(8) << 20},
              {"16 MiB", size_t(16) << 20}, {"32 MiB", size_t(32) << 20},   {"256 MiB", size_t(256) << 20}};
constexpr size_t n_levels = sizeof levels / sizeof levels[0];

struct Machine {
    double bytes_per_s[n_levels] = {}; // of one core; 0: not measured
    double macs_per_s = 0;             // of one core
    int    threads = 1;
    double memory_bytes_per_s = 0; // of `threads` cores together, the last level; 0: not measured
    // Seconds that `by` threads need at least. Within the caches each has its own.
    double least(double macs, double bytes, double working_set, int by = 1) const;
};
Machine     measure_machine(ssm::Isa isa, int threads, double seconds);
std::string cpu_name();

// Has every cache forget `bytes` at p: line by line where the processor can, else by reading a larger buffer.
void flush(const void* p, size_t bytes);

// ---- Made-up models (bench_model.cpp)

// A random model in a file: of its own, gone when this is, or at `keep`.
struct MadeUp {
    std::string path;
    bool        kept = false;
    MadeUp() = default;
    MadeUp(const MadeUp&) = delete;
    MadeUp& operator=(const MadeUp&) = delete;
    ~MadeUp();
    int write(const char* text, const char* keep); // done, or a status with its message
};

// ---- Measurements

struct Row {
    std::string name;
    Time        time;
    double      n;           // rows of input a call
    double      macs, bytes; // a call; 0: not counted
    double      least;       // seconds the machine needs; 0: not known
};
// Numbers between -scale and scale, the same in every run.
class Noise {
  public:
    std::vector<float> operator()(size_t n, float scale = 1.0f);

  private:
    uint64_t seed_ = 1;
};
// What n rows of input cost at least: multiply-adds, bytes of weights and states.
struct Work {
    double macs = 0, bytes = 0;
};
Work work_of(const ssm::Model& m, int32_t n_inputs); // bench_kernels.cpp

struct Settings {
    double               seconds = 0.1; // a measurement
    std::vector<int32_t> batch{32, 64};
    int                  threads = 1;
};
// The kernels at a model's sizes (bench_kernels.cpp), and whole calls (bench_steps.cpp). false: the model refused.
void measure_kernels(const tool::OpenModel& m, const Machine& machine, double seconds, std::vector<Row>* rows);
bool measure_steps(tool::OpenModel* m, const Machine& machine, const Settings& settings, std::vector<Row>* rows);
// How many states and rows a call measure_steps() asks of the arena.
int32_t           states_of(const ssm::Config& c);
constexpr int32_t batch_rows = 64;

// `ssm bench --compare A B` (bench_compare.cpp), `ssm bench --train` (bench_train.cpp): a status.
int compare(const char* a, const char* b);
int train_step(const char* config, double seconds);
// `ssm bench --cuda` (bench_cuda.cpp): a status.
int gpu(const char* path, const std::vector<int32_t>& batch, double seconds, bool json);

} // namespace bench
#endif
