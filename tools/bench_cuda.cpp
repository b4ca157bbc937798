// bench_cuda.cpp - `ssm bench --cuda`: streams and candidates on a GPU, by the size of the batch.
// SPDX-License-Identifier: MIT
#include "bench.hpp"
#include "gpu.hpp"

#include <cstdio>

namespace bench {
using namespace tool;

#ifdef SSM_CUDA
namespace {
struct GpuRow {
    int32_t          n;
    bool             candidates;
    ssm::cuda::Times times;
    Time             call; // from the host's inputs to the host's outputs
    double           bytes;
};
std::string with(const char* format, double v) {
    char text[64];
    std::snprintf(text, sizeof text, format, v);
    return text;
}
// One size of batch; false: the GPU's memory or shared memory is too small for it, and `why` says so.
bool measure_gpu(const OpenModel& m, int32_t n, bool candidates, double seconds, GpuRow* row, std::string* name,
                 std::string* why) {
    ssm::cuda::Options o;
    ssm::cuda::Device* d = nullptr;
    ssm::Fault         fault;
    o.slots = candidates ? 1 : n, o.max_batch = n;
    bool ok = ssm::cuda::create(&d, m.model, o, &fault) == ssm::Status::ok;
    if (ok) {
        std::vector<float> x = Noise()(size_t(n) * size_t(m.config.d_input)), y(size_t(n) * size_t(m.config.d_output));
        std::vector<int32_t> slots(size_t(n), 0);
        for (int32_t i = 0; i < n; ++i) slots[size_t(i)] = i;
        row->n = n, row->candidates = candidates;
        const Work   one = work_of(m.model, 1), two = work_of(m.model, 2);
        const double of_state = two.bytes - one.bytes; // read and written, by a row
        row->bytes = one.bytes - of_state + of_state * (candidates ? 0.5 : n);
        *name = ssm::cuda::name_of(d);
        ok = ssm::cuda::measure(d, n, candidates, 31, &row->times, &fault) == ssm::Status::ok;
        if (ok)
            row->call = measure(seconds, [&] {
                ok &= (candidates ? ssm::cuda::step_batch(d, 0, x.data(), n, y.data(), nullptr, &fault)
                                  : ssm::cuda::step(d, slots.data(), x.data(), n, y.data(), nullptr, &fault)) ==
                      ssm::Status::ok;
            });
    }
    if (!ok) *why = fault.detail;
    ssm::cuda::destroy(d);
    return ok;
}
} // namespace

int gpu(const char* path, const std::vector<int32_t>& batch, double seconds, bool json) {
    OpenModel m;
    int       status = open_model("bench", path, ssm::Isa::best, 1, 1, &m);
    if (status == done) status = Gpu::available("bench");
    if (status != done) return status;
    std::vector<GpuRow> rows;
    std::string         name, why, skipped;
    for (bool candidates : {false, true})
        for (int32_t n : batch) {
            GpuRow row;
            if (measure_gpu(m, n, candidates, seconds / double(2 * batch.size()), &row, &name, &why))
                rows.push_back(row);
            else
                skipped +=
                    "  skipped: " + std::to_string(n) + (candidates ? " candidates: " : " streams: ") + why + "\n";
        }
    Output out(1);
    if (json) {
        std::string text = "{\"version\":\"" SSM_VERSION "\",\"gpu\":";
        append_json_string(&text, name);
        text += ",\"copy_bytes_per_s\":" + with("%.4g", rows.empty() ? 0.0 : rows[0].times.copy_rate) + ",\"runs\":[";
        for (const GpuRow& r : rows)
            text += (&r == rows.data() ? "" : ",") + std::string("{\"") + (r.candidates ? "candidates" : "streams") +
                    "\":" + std::to_string(r.n) + ",\"step_us\":" + with("%.5g", r.times.step * 1e6) +
                    ",\"call_us\":" + with("%.5g", r.call.median() * 1e6) +
                    ",\"scan_us\":" + with("%.5g", r.times.scan * 1e6) + ",\"bytes\":" + with("%.0f", r.bytes) +
                    ",\"scan_bytes\":" + std::to_string(r.times.scan_bytes) + "}";
        out.write(text + "]}\n");
        return finish("bench", &out);
    }
    char line[240];
    std::snprintf(line, sizeof line,
                  "gpu: %s, copies %.0f GB/s (read and written)\n\n  %-18s %10s %10s %14s %9s %8s %7s   %9s %8s %7s\n",
                  escape(name).c_str(), (rows.empty() ? 0.0 : rows[0].times.copy_rate) * 1e-9, "", "step, us",
                  "call, us", "rows/s", "MB", "GB/s", "copy", "scan, us", "GB/s", "copy");
    out.write(line);
    for (const GpuRow& r : rows) {
        const double rate = r.bytes / r.times.step, scan = double(r.times.scan_bytes) / r.times.scan;
        std::snprintf(line, sizeof line, "  %-18s %10.1f %10.1f %14.0f %9.2f %8.0f %6.1f%%   %9.1f %8.0f %6.1f%%\n",
                      (std::to_string(r.n) + (r.candidates ? " candidates" : " streams")).c_str(), r.times.step * 1e6,
                      r.call.median() * 1e6, r.n / r.times.step, r.bytes * 1e-6, rate * 1e-9,
                      rate / r.times.copy_rate * 100, r.times.scan * 1e6, scan * 1e-9, scan / r.times.copy_rate * 100);
        out.write(line);
    }
    out.write(skipped);
    return finish("bench", &out);
}
#else
int gpu(const char*, const std::vector<int32_t>&, double, bool) { return Gpu::available("bench"); }
#endif

} // namespace bench
