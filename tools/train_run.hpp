// train_run.hpp - the training loop: threads, optimiser, checkpoints, curves, and the verb itself.
// SPDX-License-Identifier: MIT
//
// What is promised: for one kernel set and C library, a configuration and a seed give the same bits, whatever the
// number of threads, and whether the run was interrupted and resumed or not. A batch is always split into `n_slots`
// parts, each part's gradient is a sum in the order of its examples, and the parts are added in their order. Every
// random number comes from (seed, step, place in the batch), so a checkpoint needs no generator state but the step.

#ifndef TRAIN_RUN_HPP
#define TRAIN_RUN_HPP

#include "../ssm.hpp"
#include "plot.hpp"
#include "safetensors_write.hpp"
#include "train_next.hpp"
#include "train_relevance.hpp"
#include "train_sound.hpp"
#include "train_qat.hpp"
#include "train_task.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <exception>
#include <mutex>
#include <thread>

namespace train {

constexpr int64_t n_slots = 8; // parts of a batch; a part of the arithmetic, not of the machine

// Exit statuses of the program.
constexpr int done = 0, some_failed = 1, bad_usage = 2, bad_file = 3, io_error = 4;

// Threads that sleep until there is work. run() calls job(0, t) .. job(n - 1, t), each once, on any thread t, and
// returns when all are done.
class ThreadPool {
  public:
    explicit ThreadPool(int64_t threads) {
        for (int64_t i = 1; i < threads; ++i) workers.emplace_back([this, i] { work(i); });
    }
    ~ThreadPool() {
        {
            const std::lock_guard<std::mutex> hold(mutex);
            stop = true;
        }
        wake.notify_all();
        for (std::thread& t : workers) t.join();
    }
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    void run(int64_t n, const std::function<void(int64_t, int64_t)>& f) {
        {
            const std::lock_guard<std::mutex> hold(mutex);
            job = &f, total = n, next = 0, busy = int64_t(workers.size()), ++round;
            failure = nullptr;
        }
        wake.notify_all();
        take_jobs(0);
        std::unique_lock<std::mutex> hold(mutex);
        finished.wait(hold, [this] { return busy == 0; });
        if (failure) std::rethrow_exception(failure);
    }

  private:
    std::vector<std::thread>                     workers;
    std::mutex                                   mutex;
    std::condition_variable                      wake, finished;
    const std::function<void(int64_t, int64_t)>* job = nullptr;
    int64_t                                      total = 0, busy = 0;
    std::atomic<int64_t>                         next{0};
    uint64_t                                     round = 0;
    bool                                         stop = false;
    std::exception_ptr                           failure;

    void take_jobs(int64_t thread) {
        try {
            for (int64_t i = next++; i < total; i = next++) (*job)(i, thread);
        } catch (...) {
            const std::lock_guard<std::mutex> hold(mutex);
            failure = std::current_exception();
        }
    }
    void work(int64_t thread) {
        for (uint64_t seen = 0;;) {
            {
                std::unique_lock<std::mutex> hold(mutex);
                wake.wait(hold, [&] { return stop || round != seen; });
                if (stop) return;
                seen = round;
            }
            take_jobs(thread);
            bool last = false;
            {
                const std::lock_guard<std::mutex> hold(mutex);
                last = --busy == 0;
            }
            if (last) finished.notify_one();
        }
    }
};

// Three numbers to one seed.
inline uint64_t mix(uint64_t a, uint64_t b, uint64_t c) {
    s4d::Random r(a * 0x9e3779b97f4a7c15u + b);
    return r.next() ^ (c * 0xd1342543de82ef95u);
}

// Everything that changes while training.
struct State {
    std::vector<float>  params, m, v, ema;
    int64_t             step = 0; // steps done
    std::vector<float>  loss;     // [step] of each batch
    std::vector<double> valid;    // [validations][2] step, first metric
};

// The order of the training examples in an epoch.
inline std::vector<int64_t> shuffled(int64_t n, uint64_t seed, int64_t epoch) {
    std::vector<int64_t> order(size_t(n), 0);
    for (int64_t i = 0; i < n; ++i) order[size_t(i)] = i;
    s4d::Random random(mix(seed, uint64_t(epoch), 0x5eed));
    for (int64_t i = n - 1; i > 0; --i) std::swap(order[size_t(i)], order[random.below(uint64_t(i + 1))]);
    return order;
}

inline double learning_rate(const Settings& s, int64_t step, int64_t total) { // as a part of lr and lr_ssm
    if (step < s.warmup) return double(step + 1) / double(s.warmup);
    const double part = double(step - s.warmup) / double(std::max<int64_t>(1, total - s.warmup));
    return s.lr_floor + (1 - s.lr_floor) * 0.5 * (1 + std::cos(3.14159265358979323846 * std::min(1.0, part)));
}

// AdamW. Matrices and C decay; log_dt, log_A_real and A_imag have a learning rate of their own and do not, nor do
// vectors.
inline void adamw(const Settings& s, s4d::Net<float>& net, State& state, const std::vector<float>& grad,
                  int64_t total) {
    double norm = 0;
    for (float g : grad) norm += double(g) * double(g);
    norm = std::sqrt(norm);
    const double scale = s.grad_clip > 0 && norm > s.grad_clip ? s.grad_clip / norm : 1;
    const double rate = learning_rate(s, state.step, total);
    const double t = double(state.step + 1);
    const float  b1 = float(s.beta1), b2 = float(s.beta2), fix1 = float(1 / (1 - std::pow(s.beta1, t))),
                fix2 = float(1 / (1 - std::pow(s.beta2, t)));
    for (const s4d::Tensor& tensor : net.tensors) {
        const float lr = float(rate * (tensor.ssm ? s.lr_ssm : s.lr));
        const float decay = tensor.ssm || tensor.shape.size() < 2 ? 0.0f : float(rate * s.lr * s.weight_decay);
        for (size_t i = size_t(tensor.offset); i < size_t(tensor.offset + tensor.count); ++i) {
            const float g = grad[i] * float(scale);
            state.m[i] = b1 * state.m[i] + (1 - b1) * g;
            state.v[i] = b2 * state.v[i] + (1 - b2) * g * g;
            net.params[i] -= decay * net.params[i] + lr * (state.m[i] * fix1) / (std::sqrt(state.v[i] * fix2) + 1e-8f);
        }
    }
    if (s.ema > 0) {
        const float e = float(std::min(s.ema, (1 + t) / (10 + t))); // short at first, so that the start is forgotten
        for (size_t i = 0; i < net.params.size(); ++i) state.ema[i] = e * state.ema[i] + (1 - e) * net.params[i];
    }
}

// ---- Checkpoints

inline TensorOut tensor_out(const std::string& name, const s4d::Tensor& t, const std::vector<float>& values) {
    return {name, "F32", t.shape, values.data() + t.offset, size_t(t.count) * sizeof(float)};
}

inline bool save_checkpoint(const std::string& path, const Settings& s, const s4d::Net<float>& net, const State& state,
                            std::string* error, const FileCalls& calls = FileCalls()) {
    std::map<std::string, std::string> metadata = {
        {"format", "ssm-train"}, {"format_version", "1"}, {"step", std::to_string(state.step)}};
    for (const auto& entry : s.text) metadata["config." + entry.first] = entry.second;
    std::vector<TensorOut> out;
    for (const s4d::Tensor& t : net.tensors) {
        out.push_back(tensor_out(t.name, t, net.params));
        out.push_back(tensor_out("optimizer.m." + t.name, t, state.m));
        out.push_back(tensor_out("optimizer.v." + t.name, t, state.v));
        if (s.ema > 0) out.push_back(tensor_out("ema." + t.name, t, state.ema));
    }
    out.push_back({"curve.loss", "F32", {state.loss.size()}, state.loss.data(), state.loss.size() * 4});
    out.push_back({"curve.valid", "F64", {state.valid.size() / 2, 2}, state.valid.data(), state.valid.size() * 8});
    return write_safetensors(path, metadata, out, error, calls);
}

// A checkpoint open for reading. If something is wrong, `error` says what, and `io` tells an unreadable file from a
// wrong one.
struct CheckpointFile {
    ssm::Blob   blob;
    ssm::Index  index;
    std::string error;
    bool        io = false;

    explicit CheckpointFile(const std::string& path) {
        if (ssm::map_file(&blob, path.c_str()) != ssm::Status::ok) {
            error = "cannot open or map", io = true;
            return;
        }
        memory.resize(ssm::index_bytes(blob) + 1);
        ssm::Fault fault;
        if (ssm::read_index(&index, blob, memory.data(), memory.size() - 1, &fault) != ssm::Status::ok)
            error = std::string("not a safetensors file: ") + fault.detail;
    }
    ~CheckpointFile() { ssm::unmap_file(&blob); }
    CheckpointFile(const CheckpointFile&) = delete;
    CheckpointFile& operator=(const CheckpointFile&) = delete;

    // A metadata value without the escapes our own writer makes.
    bool text(const std::string& key, std::string* out) const {
        const ssm::Entry* e = ssm::find_metadata(index, key.c_str());
        if (e == nullptr) return false;
        out->clear();
        for (int32_t i = 0; i < e->value_len; ++i) {
            char c = e->value[i];
            if (c == '\\' && i + 1 < e->value_len) {
                c = e->value[++i];
                if (c == 'u' && i + 4 < e->value_len)
                    c = char(std::strtol(std::string(e->value + i + 1, 4).c_str(), nullptr, 16)), i += 4;
            }
            *out += c;
        }
        return true;
    }
    // Copies a tensor of so many bytes and returns their number. UINT64_MAX bytes: of any size, only its size is told.
    // Returns UINT64_MAX if something is wrong.
    uint64_t take(const std::string& name, const char* dtype, uint64_t bytes, void* to, std::string* why) const {
        const ssm::Entry* e = ssm::find_tensor(index, name.c_str());
        if (e == nullptr || std::strcmp(ssm::dtype_name(e->dtype), dtype) != 0 ||
            (bytes != UINT64_MAX && e->end - e->begin != bytes)) {
            *why = "tensor \"" + name + "\": missing, or of another size or type";
            return UINT64_MAX;
        }
        if (bytes != UINT64_MAX) std::memcpy(to, index.data + e->begin, size_t(bytes));
        return e->end - e->begin;
    }

  private:
    std::vector<unsigned char> memory;
};

// The parameters of a model file with the same tensors. done, or an exit status and one line in `error`.
inline int read_params(const std::string& path, const std::vector<s4d::Tensor>& tensors, std::vector<float>& params,
                       std::string* error) {
    const CheckpointFile file(path);
    *error = file.error;
    for (const s4d::Tensor& t : tensors)
        if (error->empty())
            file.take(t.name, "F32", uint64_t(t.count) * sizeof(float), params.data() + t.offset, error);
    const bool finite = std::all_of(params.begin(), params.end(), [](float v) { return std::isfinite(v); });
    if (error->empty() && !finite) *error = "a number that is not finite";
    if (error->empty()) return done;
    *error = shown(path) + ": " + *error;
    return file.io ? io_error : bad_file;
}

// Reads a checkpoint of the same configuration. False: one line in `error`; `io` tells an unreadable file from a wrong
// one.
inline bool load_checkpoint(const std::string& path, const Settings& s, s4d::Net<float>& net, State& state,
                            std::string* error, bool* io) {
    const CheckpointFile file(path);
    *io = file.io, *error = file.error;
    if (!file.error.empty()) return false;
    const ssm::Index& index = file.index;
    const auto        text = [&](const std::string& key, std::string* out) { return file.text(key, out); };
    std::string       value;
    if (!text("format", &value) || value != "ssm-train" || !text("format_version", &value) || value != "1") {
        *error = "not a training checkpoint of this version";
        return false;
    }
    for (const Key& k : keys()) {
        const auto mine = s.text.find(k.name);
        const bool had = text(std::string("config.") + k.name, &value);
        if (!k.shapes_result || had != (mine != s.text.end()) || (had && value != mine->second)) {
            if (!k.shapes_result) continue;
            *error = std::string("made with another configuration: key \"") + k.name + "\" was " +
                     (had ? "\"" + shown(value) + "\"" : "not set") + ", is " +
                     (mine != s.text.end() ? "\"" + shown(mine->second) + "\"" : "not set");
            return false;
        }
    }
    for (int32_t i = 0; i < index.n_entries; ++i) { // options of tasks, which keys() does not list
        const ssm::Entry& e = index.entries[i];
        const std::string name(e.name, size_t(e.name_len));
        if (e.value != nullptr && name.compare(0, 7, "config.") == 0 && is_task_option(name.substr(7)) &&
            s.task_options.count(name.substr(7)) == 0) {
            *error = "made with another configuration: key \"" + shown(name.substr(7)) + "\" was set";
            return false;
        }
    }
    for (const auto& option : s.task_options)
        if (!text("config." + option.first, &value) || value != option.second) {
            *error = "made with another configuration: key \"" + option.first + "\"";
            return false;
        }
    double step = -1;
    if (!text("step", &value) || !read_number(value, &step) || step < 0 || step != std::floor(step) || step > 1e9) {
        *error = "metadata \"step\": expected a whole number";
        return false;
    }
    const auto take = [&](const std::string& name, const char* dtype, uint64_t bytes, void* to) {
        return file.take(name, dtype, bytes, to, error);
    };
    for (const s4d::Tensor& t : net.tensors) {
        const uint64_t bytes = uint64_t(t.count) * sizeof(float);
        for (auto part : {std::make_pair("", &net.params), std::make_pair("optimizer.m.", &state.m),
                          std::make_pair("optimizer.v.", &state.v), std::make_pair("ema.", &state.ema)}) {
            if (part.second == &state.ema && s.ema <= 0) continue;
            if (take(part.first + t.name, "F32", bytes, part.second->data() + t.offset) == UINT64_MAX) return false;
        }
    }
    const uint64_t valid_bytes = take("curve.valid", "F64", UINT64_MAX, nullptr);
    state.loss.assign(size_t(step), 0);
    if (valid_bytes == UINT64_MAX || take("curve.loss", "F32", uint64_t(step) * 4, state.loss.data()) == UINT64_MAX)
        return false;
    state.valid.assign(size_t(valid_bytes / 16 * 2), 0);
    take("curve.valid", "F64", valid_bytes / 16 * 16, state.valid.data());
    state.step = int64_t(step);
    for (const auto* values : {&net.params, &state.m, &state.v, &state.ema})
        for (float f : *values)
            if (!std::isfinite(f)) {
                *error = "a number that is not finite";
                return false;
            }
    return true;
}

// ---- The model file

inline std::string last_part(const std::string& path) {
    std::string p = path;
    while (p.size() > 1 && p.back() == '/') p.pop_back();
    return p.find('/') == std::string::npos ? p : p.substr(p.rfind('/') + 1);
}

// A setting as it stands in a model's file, without folders.
inline std::string shown_setting(const std::string& key, const std::string& value) {
    return key == "data" || key == "from" ? last_part(value) : value;
}

inline bool save_model(const std::string& path, const Settings& s, const Task& task, const s4d::Net<float>& net,
                       const std::vector<float>& params, int64_t step, const std::vector<Metric>& metrics,
                       std::string* error) {
    char        number[64];
    std::string provenance = "ssm train; seed " + std::to_string(s.seed) + "; data " + last_part(s.data) + "; " +
                             std::to_string(step) + " steps";
    for (const Metric& m : metrics) {
        std::snprintf(number, sizeof number, "%.6g", m.value);
        provenance += "; validation " + m.name + " " + number;
    }
    provenance += "; config";
    for (const auto& entry : s.text) provenance += " " + entry.first + "=" + shown_setting(entry.first, entry.second);
    const s4d::Config&       c = net.config;
    static const char* const pools[] = {"mean", "last", "none"};
    std::snprintf(number, sizeof number, "%.9g", c.clip);
    std::map<std::string, std::string> metadata = {{"format", "ssm-float"},
                                                   {"format_version", "1"},
                                                   {"arch", "s4d"},
                                                   {"d_model", std::to_string(c.d_model)},
                                                   {"d_state", std::to_string(c.d_state)},
                                                   {"n_layers", std::to_string(c.n_layers)},
                                                   {"d_input", std::to_string(c.d_input)},
                                                   {"d_output", std::to_string(c.d_output)},
                                                   {"prenorm", c.prenorm ? "true" : "false"},
                                                   {"pool", pools[int(c.pool)]},
                                                   {"disc", c.disc == s4d::Disc::zoh ? "zoh" : "bilinear"},
                                                   {"clip", number},
                                                   {"task", s.task},
                                                   {"labels", task.labels},
                                                   {"input", task.input},
                                                   {"provenance", provenance}};
    for (const auto& entry : task.metadata) metadata[entry.first] = entry.second;
    std::vector<TensorOut> out = task.tensors;
    for (const s4d::Tensor& t : net.tensors) out.push_back(tensor_out(t.name, t, params));
    return write_safetensors(path, metadata, out, error);
}

// ---- The curves, as a small SVG

inline std::string svg(const State& state, const std::string& metric_name) {
    Curve        loss{"training loss", "#1565c0", true, {}, {}};
    Curve        valid{"validation " + metric_name, "#c62828", false, {}, {}};
    const size_t bin = std::max<size_t>(1, state.loss.size() / 300);
    for (size_t i = 0; i + bin <= state.loss.size(); i += bin) {
        double sum = 0;
        for (size_t k = 0; k < bin; ++k) sum += double(state.loss[i + k]);
        loss.x.push_back(double(i) + double(bin) / 2), loss.y.push_back(sum / double(bin));
    }
    for (size_t i = 0; i + 1 < state.valid.size(); i += 2)
        valid.x.push_back(state.valid[i]), valid.y.push_back(state.valid[i + 1]);
    return plot({loss, valid}, double(std::max<int64_t>(1, state.step)), std::to_string(state.step) + " steps");
}

// ---- The loop

struct Result {
    int                 status = done;
    std::string         message; // one line, if status is not done
    std::vector<Metric> metrics;
    State               state;
};

inline volatile std::sig_atomic_t stop_asked = 0;

struct Options {
    std::string resume;
    int64_t     max_steps = -1; // of this call; -1: to the end
    bool        quiet = false;
};

inline double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline Result run(Settings s, Task& task, const Options& options) {
    Result     result;
    State&     state = result.state;
    const auto fail = [&](int status, const std::string& message) {
        result.status = status, result.message = message;
        return result;
    };
    std::string error;

    // 1. Data, network, threads. Better to hear now than after hours that a file cannot be written.
    for (const std::string* path : {&s.out, &s.checkpoint, &s.plot}) {
        const size_t      slash = path->rfind('/');
        const std::string folder = slash == std::string::npos ? "." : path->substr(0, std::max<size_t>(1, slash));
        if (!path->empty() && ::access(folder.c_str(), W_OK) != 0)
            return fail(io_error, shown(*path) + ": " + std::strerror(errno));
    }
    if (!task.configure(s, &error)) return fail(bad_usage, error);
    if (!task.prepare(s, &error)) return fail(io_error, error);
    if (task.n_train() < 1) return fail(io_error, "data = " + shown(s.data) + ": no training examples");
    if (s.dt_min > s.dt_max) return fail(bad_usage, "dt_min is above dt_max");
    s.net.act_bits = s.qat_bits > 0 ? s.act_bits : 0;
    s4d::Net<float> net(s.net);
    net.init(uint64_t(s.seed), s.init, s.dt_min, s.dt_max);
    if (!s.from.empty() && options.resume.empty())
        if (const int status = read_params(s.from, net.tensors, net.params, &error)) return fail(status, error);
    const size_t n_params = net.params.size();
    state.m.assign(n_params, 0), state.v.assign(n_params, 0);
    state.ema = net.params;
    if (!options.resume.empty()) {
        bool io = false;
        if (!load_checkpoint(options.resume, s, net, state, &error, &io))
            return fail(io ? io_error : bad_file, shown(options.resume) + ": " + error);
    }
    const int64_t per_epoch = std::max<int64_t>(1, task.n_train() / s.batch);
    const int64_t total = s.steps > 0 ? s.steps : int64_t(s.epochs * double(per_epoch) + 0.5);
    const int64_t until = options.max_steps >= 0 ? std::min(total, state.step + options.max_steps) : total;
    const int64_t threads =
        s.threads > 0 ? s.threads : std::max<int64_t>(1, int64_t(std::thread::hardware_concurrency()));
    ThreadPool        pool(std::min(threads, n_slots));
    s4d::Ready<float> ready(net);
    const auto        refresh = [&](s4d::Net<float> seen) {
        round_weights(seen.tensors, s.qat_bits, 0, seen.params);
        ready.update(seen);
    };
    refresh(net);
    std::vector<std::unique_ptr<Slot>> slots;
    for (int64_t k = 0; k < n_slots; ++k) slots.push_back(std::make_unique<Slot>(ready));
    // The big buffers belong to the threads, so that they stay in their caches; a slot borrows those of its thread.
    std::vector<s4d::Workspace<float>> spaces(size_t(std::min(threads, n_slots)));
    for (s4d::Workspace<float>& ws : spaces) ws.chunk = int(s.chunk), ws.truncate = int(s.truncate);
    const bool               terminal = ::isatty(2) != 0;
    const double             began = seconds();
    double                   told = began;
    static const char* const kernel_names[] = {"best", "portable", "AVX2", "AVX-512"};
    if (!options.quiet)
        std::fprintf(stderr, "%lld parameters, %lld examples, %lld for validation, %lld steps of %lld, %s kernels\n",
                     static_cast<long long>(n_params), static_cast<long long>(task.n_train()),
                     static_cast<long long>(task.n_valid()), static_cast<long long>(total),
                     static_cast<long long>(s.batch), kernel_names[int(s4d::best_isa(s.net.d_model))]);

    const auto measure = [&] {
        s4d::Net<float> measured(net);
        if (s.ema > 0) measured.params = state.ema;
        refresh(measured);
        const int64_t       n = task.n_valid();
        std::vector<double> loss(size_t(n), 0.0), metric(size_t(n), 0.0), count(size_t(n), 0.0);
        pool.run(std::min(n, n_slots), [&](int64_t k, int64_t thread) {
            Slot& slot = *slots[size_t(k)];
            std::swap(slot.ws, spaces[size_t(thread)]);
            for (int64_t i = k; i < n; i += n_slots) {
                slot.loss = slot.metric = slot.count = 0;
                task.measure(s, ready, task.n_train() + i, slot);
                loss[size_t(i)] = slot.loss, metric[size_t(i)] = slot.metric, count[size_t(i)] = slot.count;
            }
            std::swap(slot.ws, spaces[size_t(thread)]);
        });
        double sum[3] = {0, 0, 0};
        for (size_t i = 0; i < size_t(n); ++i) sum[0] += loss[i], sum[1] += metric[i], sum[2] += count[i];
        result.metrics = n > 0 ? task.metrics(sum[0], sum[1], sum[2]) : std::vector<Metric>();
        refresh(net);
    };
    const auto save = [&] {
        if (!s.checkpoint.empty() && !save_checkpoint(s.checkpoint, s, net, state, &error)) {
            error = shown(s.checkpoint) + ": " + error;
            return false;
        }
        if (!s.plot.empty()) {
            const std::string text = svg(state, result.metrics.empty() ? "" : result.metrics[0].name);
            if (!write_file_atomically(s.plot, {{text.data(), text.size()}}, &error)) {
                error = shown(s.plot) + ": " + error;
                return false;
            }
        }
        return true;
    };

    // 2. Steps.
    std::vector<int64_t> order;
    std::vector<float>   grad;
    int64_t              order_of = -1;
    const int64_t        first = state.step;
    bool                 saved = false;
    double               recent = 0;
    while (state.step < until && stop_asked == 0) {
        const int64_t epoch = state.step / per_epoch;
        if (epoch != order_of) order = shuffled(task.n_train(), uint64_t(s.seed), epoch), order_of = epoch;
        const int64_t begin = state.step % per_epoch * s.batch;
        pool.run(n_slots, [&](int64_t k, int64_t thread) {
            Slot& slot = *slots[size_t(k)];
            std::swap(slot.ws, spaces[size_t(thread)]);
            slot.grad.zero();
            slot.loss = slot.metric = slot.count = 0;
            for (int64_t i = k * s.batch / n_slots; i < (k + 1) * s.batch / n_slots; ++i) {
                s4d::Random random(mix(uint64_t(s.seed), uint64_t(state.step), uint64_t(i) + 1));
                task.learn(s, ready, order[size_t((begin + i) % task.n_train())], 1.0 / double(s.batch), random, slot);
            }
            std::swap(slot.ws, spaces[size_t(thread)]);
        });
        double loss = 0;
        for (int64_t k = 0; k < n_slots; ++k) {
            loss += slots[size_t(k)]->loss;
            if (k > 0) slots[0]->grad.add(slots[size_t(k)]->grad);
        }
        if (!std::isfinite(loss))
            return fail(some_failed, "the loss is not finite at step " + std::to_string(state.step + 1) +
                                         "; try a smaller lr or grad_clip");
        slots[0]->grad.to_params(net, ready.kernels.width, grad);
        adamw(s, net, state, grad, total);
        refresh(net);
        state.loss.push_back(float(loss));
        ++state.step;
        recent = state.step == first + 1 ? loss : recent + (loss - recent) / std::min(50.0, double(state.step - first));
        saved = false;

        const int64_t valid_every = s.validate_every > 0 ? s.validate_every : per_epoch;
        const bool    valid_now = task.n_valid() > 0 && (state.step % valid_every == 0 || state.step == total);
        if (valid_now) {
            measure();
            state.valid.push_back(double(state.step)), state.valid.push_back(result.metrics[0].value);
        }
        const int64_t save_every = s.checkpoint_every > 0 ? s.checkpoint_every : per_epoch;
        if (state.step % save_every == 0 || state.step == until) {
            if (!save()) return fail(io_error, error);
            saved = true;
        }
        const double now = seconds();
        if (!options.quiet && (valid_now || state.step == until || now - told > (terminal ? 0.5 : 30))) {
            const double rate = double((state.step - first) * s.batch) / std::max(1e-9, now - began),
                         left = double((until - state.step) * s.batch) / rate;
            char line[200];
            int  n = std::snprintf(line, sizeof line, "step %lld/%lld  loss %.4f  %.0f examples/s  %d:%02d left",
                                   static_cast<long long>(state.step), static_cast<long long>(until), recent, rate,
                                   int(left / 60), int(left) % 60);
            if (valid_now && n < 150)
                std::snprintf(line + n, sizeof line - size_t(n), "  validation %s %.5g", result.metrics[0].name.c_str(),
                              result.metrics[0].value);
            std::fprintf(stderr, terminal ? (valid_now ? "\r%-100s\n" : "\r%-100s") : "%s\n", line);
            told = now;
        }
    }

    // 3. The end: measure, save, write the model. After an interrupt only the checkpoint.
    const bool stopped = stop_asked != 0 && state.step < until;
    if (!stopped && task.n_valid() > 0 &&
        (state.valid.empty() || state.valid[state.valid.size() - 2] != double(state.step) || result.metrics.empty()))
        measure();
    if (!saved && !save()) return fail(io_error, error);
    if (stopped)
        return fail(some_failed, "stopped at step " + std::to_string(state.step) +
                                     (s.checkpoint.empty() ? "" : "; --resume goes on from the checkpoint"));
    if (!s.out.empty() &&
        !save_model(s.out, s, task, net, s.ema > 0 ? state.ema : net.params, state.step, result.metrics, &error))
        return fail(io_error, shown(s.out) + ": " + error);
    state.params = net.params;
    return result;
}

inline std::unique_ptr<Task> make_task(const Settings& s, std::string* error) {
    if (s.task == "classify" || s.task == "regress") return std::make_unique<SequenceTask>();
    if (s.task == "next") return std::make_unique<NextTask>();
    if (s.task == "relevance") return std::make_unique<RelevanceTask>();
    if (s.task == "sound") return std::make_unique<SoundTask>();
    *error = "task = " + s.task + ": not in this build";
    return nullptr;
}

// ---- The verb

constexpr char help[] =
    "usage: ssm train CONFIG [OPTION...]\n"
    "\n"
    "Trains a small model on this CPU: S4D on data (tasks classify, regress, next, relevance, sound), or Mamba-3 on\n"
    "state tracking (tasks parity, modular, brackets, made up from the seed). CONFIG: one `key = value` a line, `#` begins a\n"
    "comment.\n"
    "\n"
    "  --set KEY=VALUE   sets a key after CONFIG was read; may stand several times\n"
    "  --out FILE        where the model goes (key out)\n"
    "  --resume FILE     goes on from a checkpoint; gives the same bits as an uninterrupted run\n"
    "  --threads N       0: all cores; the result is the same for every N\n"
    "  --max-steps N     stops after N steps, with checkpoint and model written\n"
    "\n"
    "Keys of S4D: task data d_model d_state n_layers disc prenorm pool clip init dt_min dt_max dropout\n"
    "label_smoothing lr lr_ssm lr_floor warmup weight_decay beta1 beta2 grad_clip ema epochs steps batch seed threads\n"
    "chunk truncate validate validate_every limit from qat act_bits checkpoint checkpoint_every plot out;\n"
    "of task sound also sound.*, of next next.*, of relevance relevance.*: see tools/train_sound.hpp and its like\n"
    "Keys of state tracking: task d_model n_layers d_inner d_state headdim ngroups mimo_rank rope_fraction\n"
    "outproj_norm mlp_hidden a_activation a_floor rotation targets dt_min dt_max batch lr beta1 beta2 warmup clip\n"
    "weight_decay smoothing areg treg pvar snap snap_steps start_length growth max_length stage_steps threshold\n"
    "final_steps final_lr final_lengths spike spike_steps patience steps seed test_length test_count from qat "
    "act_bits\n"
    "threads checkpoint checkpoint_every plot out\n"
    "qat = i8 or i4 trains for `ssm quantize`; from = FILE starts from a model of the same shape.\n"
    "Validation results on standard output, progress on standard error.\n";

// The runner of settings files that are not for this one: it takes them by their `task`.
struct OtherRunner {
    typedef const std::vector<std::string>& Sets;
    bool (*takes)(const std::string& config, Sets sets) = nullptr;
    int (*verb)(const std::string& config, Sets sets, const Options& options) = nullptr;
};

inline int verb(int argc, char** argv, const OtherRunner& other = OtherRunner()) {
    const auto complain = [](int status, const std::string& what) {
        std::fprintf(stderr, "ssm train: %s\n", what.c_str());
        return status;
    };
    // 1. The line.
    std::string              config;
    std::vector<std::string> sets;
    Options                  options;
    bool                     only_operands = false;
    for (int i = 0; i < argc; ++i) {
        std::string word = argv[i], value;
        if (only_operands || word.compare(0, 2, "--") != 0) {
            if (!config.empty()) return complain(bad_usage, "one CONFIG expected, found also " + shown(word));
            config = word;
            continue;
        }
        if (word == "--") {
            only_operands = true;
            continue;
        }
        if (word == "--help") return std::fputs(help, stdout) < 0 || std::fflush(stdout) != 0 ? io_error : done;
        const size_t equals = word.find('=');
        const bool   joined = equals != std::string::npos;
        if (joined) value = word.substr(equals + 1), word.resize(equals);
        if (word != "--set" && word != "--out" && word != "--resume" && word != "--threads" && word != "--max-steps")
            return complain(bad_usage, "unknown option " + shown(word) + "; see ssm train --help");
        if (!joined) {
            if (i + 1 == argc) return complain(bad_usage, word + ": a value is missing");
            value = argv[++i];
        }
        if (word == "--set") sets.push_back(value);
        else if (word == "--resume") options.resume = value;
        else if (word == "--max-steps") {
            double n = 0;
            if (!read_number(value, &n) || n < 0 || n > 1e9 || n != std::floor(n))
                return complain(bad_usage, "--max-steps: found \"" + shown(value) + "\", expected a whole number");
            options.max_steps = int64_t(n);
        } else {
            sets.push_back(word.substr(2) + "=" + value);
        }
    }
    if (config.empty()) return complain(bad_usage, "no CONFIG; see ssm train --help");
    // A first interrupt ends a run after the step, with a checkpoint; a second one at once.
    for (int signal : {SIGINT, SIGTERM})
        std::signal(signal, [](int number) {
            if (stop_asked != 0) std::signal(number, SIG_DFL);
            stop_asked = 1;
        });
    if (other.takes != nullptr && other.takes(config, sets)) return other.verb(config, sets, options);
    // 2. The settings.
    Settings    settings;
    std::string error;
    bool        unreadable = false;
    if (!read_settings(config, settings, &error, &unreadable))
        return complain(unreadable ? io_error : bad_usage, error);
    for (const std::string& set : sets)
        if (!take_setting(settings, set, &error)) return complain(bad_usage, "--set " + shown(set) + ": " + error);
    if (settings.data.empty()) return complain(bad_usage, shown(config) + ": key \"data\" is missing");
    const std::unique_ptr<Task> task = make_task(settings, &error);
    if (task == nullptr) return complain(bad_usage, error);
    // 3. The run.
    const Result result = run(settings, *task, options);
    if (result.status != done) return complain(result.status, result.message);
    for (const Metric& m : result.metrics) std::printf("validation %s: %.6g\n", m.name.c_str(), m.value);
    return std::fflush(stdout) != 0 || std::ferror(stdout) != 0 ? complain(io_error, "standard output: cannot write")
                                                                : done;
}

} // namespace train

#endif
