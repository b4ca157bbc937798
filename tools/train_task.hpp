// train_task.hpp - what the training loop asks of a task, and the tasks on sequences.
// SPDX-License-Identifier: MIT

#ifndef TRAIN_TASK_HPP
#define TRAIN_TASK_HPP

#include "inflate.hpp"
#include "safetensors_write.hpp"
#include "s4d_net.hpp"
#include "train_settings.hpp"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

namespace train {

// What one slot of a batch works in: its own gradient and memory, one thread at a time.
struct Slot {
    s4d::Workspace<float> ws;
    s4d::Gradient<float>  grad;
    double                loss   = 0; // sum over the slot's examples of weight * loss
    double                metric = 0; // sum over the slot's examples
    double                count  = 0; // examples the metric is about
    s4d::Buffer<float>    x, out, d_out, dropout;

    explicit Slot(const s4d::Ready<float>& ready) : grad(ready) {}
};

// The numbers of a validation, in the order they are reported; the first is the one that is plotted.
struct Metric {
    std::string name;
    double      value = 0;
};

// A task owns its data. An example is whatever has a loss of its own: a sequence, or a piece of a history with its
// queries. All calls after prepare() are const and may come from several threads at once, each with its own Slot.
struct Task {
    virtual ~Task() = default;
    // Takes the task's own options, before any data is read. False: `error` says which one is wrong.
    virtual bool    configure(const Settings&, std::string*) { return true; }
    // Reads the data, sets d_input and d_output (and labels). False: `error` names the file and what is wrong with it.
    virtual bool    prepare(Settings& settings, std::string* error) = 0;
    virtual int64_t n_train() const                                 = 0; // examples 0 .. n_train - 1
    virtual int64_t n_valid() const                                 = 0; // examples n_train .. n_train + n_valid - 1
    // Loss and gradient of one example, times `weight`, added to slot.grad, slot.loss, slot.metric, slot.count.
    // `random` is the example's own.
    virtual void learn(const Settings& s, const s4d::Ready<float>& ready, int64_t example, double weight,
                       s4d::Random& random, Slot& slot) const = 0;
    // The same without gradient, dropout or augmentation; weight 1.
    virtual void measure(const Settings& s, const s4d::Ready<float>& ready, int64_t example, Slot& slot) const = 0;
    // From sums over all validation examples to numbers for people.
    virtual std::vector<Metric> metrics(double loss, double metric, double count) const = 0;
    std::string                 labels; // for the model's metadata: names separated by commas, or empty
    std::string                 input;  // what the model's inputs are, e.g. "pixel/255"
    std::map<std::string, std::string> metadata; // more of it, and tensors that are not learned
    std::vector<TensorOut>             tensors;
};

// The options of a task, all named TASK.something, with their defaults until read() has those of the settings.
struct TaskOptions {
    std::map<std::string, std::string> values;

    bool read(const Settings& s, std::string* error) {
        for (const auto& [key, value] : s.task_options) {
            if (values.count(key) == 0) return *error = "unknown key \"" + shown(key) + "\"", false;
            values[key] = value;
        }
        return true;
    }
    bool number(const std::string& key, double low, double high, double* out, std::string* error) const {
        if (read_number(values.at(key), out) && *out >= low && *out <= high) return true;
        char range[80];
        std::snprintf(range, sizeof range, ": expected a number from %g to %g", low, high);
        return *error = key + range, false;
    }
};

// Softmax cross-entropy of n outputs against (1 - e) at the target and e spread over all classes, and its gradient.
inline double cross_entropy(const float* out, int n, int64_t target, double e, double weight, float* d_out) {
    double top = double(out[0]), sum = 0, loss = 0;
    for (int k = 1; k < n; ++k) top = std::max(top, double(out[k]));
    for (int k = 0; k < n; ++k) sum += std::exp(double(out[k]) - top);
    const double log_sum = top + std::log(sum);
    for (int k = 0; k < n; ++k) {
        const double want = e / n + (k == target ? 1 - e : 0);
        loss += want * (log_sum - double(out[k]));
        d_out[k] = float(weight * (std::exp(double(out[k]) - log_sum) - want));
    }
    return loss;
}

// One sequence of `steps` rows as an example: `f` gives the loss, metric and gradient of its outputs. `random` null:
// neither dropout nor gradient.
template <class F>
void one_sequence(const Settings& s, const s4d::Ready<float>& ready, const float* x, int64_t steps, s4d::Random* random,
                  Slot& slot, const F& f) {
    const int64_t     start[2] = {0, steps};
    s4d::Batch<float> batch;
    batch.x = x, batch.start = start, batch.n_streams = 1;
    if (random != nullptr && s.dropout > 0) {
        const int64_t n = int64_t(s.net.n_layers) * 2 * s.net.d_model;
        s4d::fill_dropout(slot.dropout.get(n), n, s.dropout, *random);
        batch.dropout = slot.dropout.data();
    }
    const int64_t n = s4d::count_outputs(ready.config, batch) * s.net.d_output;
    float *       out = slot.out.get(n), *d_out = slot.d_out.get(n);
    s4d::forward(ready, batch, slot.ws, out, random != nullptr);
    f(out, d_out, n);
    slot.count += 1;
    if (random != nullptr) s4d::backward(ready, batch, slot.ws, d_out, slot.grad);
}
inline void classify(const Settings& s, const s4d::Ready<float>& ready, const float* x, int64_t steps, int64_t target,
                     double weight, s4d::Random* random, Slot& slot) {
    one_sequence(s, ready, x, steps, random, slot, [&](const float* out, float* d_out, int64_t n) {
        const double e = random != nullptr ? s.smoothing : 0;
        slot.loss += weight * cross_entropy(out, int(n), target, e, weight, d_out);
        slot.metric += std::max_element(out, out + n) - out == target ? 1 : 0;
    });
}

// ---- Sequences in memory: bytes or floats, one row of d_input a step

struct Sequences {
    int64_t              d_input = 1, d_target = 0; // d_target: floats a step to predict, 0 for a label
    std::vector<uint8_t> bytes;                     // either these, divided by 255,
    std::vector<float>   floats;                    // or these
    std::vector<float>   targets;                   // [rows][d_target]
    std::vector<int32_t> label;                     // [sequences]
    std::vector<int64_t> start;                     // [sequences + 1] rows

    int64_t      count() const { return int64_t(start.size()) - 1; }
    const float* rows(int64_t i, s4d::Buffer<float>& buffer) const {
        const int64_t at = start[size_t(i)] * d_input, n = (start[size_t(i + 1)] - start[size_t(i)]) * d_input;
        if (bytes.empty()) return floats.data() + at;
        float* x = buffer.get(n);
        for (int64_t k = 0; k < n; ++k) x[k] = float(bytes[size_t(at + k)]) * (1.0f / 255.0f);
        return x;
    }
};

// One IDX file, gzip or plain: dimensions and bytes.
inline bool read_idx(const std::string& path, size_t rank, std::vector<int64_t>& dims, std::vector<unsigned char>& data,
                     std::string* error) {
    errno = 0;
    std::ifstream in(path, std::ios::binary);
    if (!in) {
        *error = shown(path) + ": " + (errno != 0 ? std::strerror(errno) : "cannot open");
        return false;
    }
    std::vector<unsigned char> file((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    if (in.bad()) {
        *error = shown(path) + ": cannot read";
        return false;
    }
    if (file.size() >= 2 && file[0] == 0x1f && file[1] == 0x8b) {
        if (const char* why = inflate::gunzip(file.data(), file.size(), data, size_t(1) << 31)) {
            *error = shown(path) + ": " + why;
            return false;
        }
    } else {
        data.swap(file);
    }
    const size_t header = 4 + 4 * rank;
    uint64_t     size   = 1;
    dims.clear();
    bool good = data.size() >= header && data[0] == 0 && data[1] == 0 && data[2] == 8 && data[3] == rank;
    for (size_t i = 0; good && i < rank; ++i) {
        const unsigned char* p = data.data() + 4 + 4 * i;
        dims.push_back(int64_t(uint64_t(p[0]) << 24 | uint64_t(p[1]) << 16 | uint64_t(p[2]) << 8 | p[3]));
        if (dims.back() != 0 && size > (uint64_t(1) << 40) / uint64_t(dims.back())) good = false;
        size *= uint64_t(dims.back());
    }
    if (!good || size != data.size() - header || size == 0) {
        *error = shown(path) + ": found something else, expected an IDX file of bytes with " + std::to_string(rank) +
                 " dimensions";
        return false;
    }
    data.erase(data.begin(), data.begin() + std::ptrdiff_t(header));
    return true;
}

// A folder in the layout of sequential MNIST: each image one sequence, a pixel a step, row by row.
inline bool read_images(const std::string& folder, Sequences& s, int* classes, std::string* error) {
    std::vector<int64_t>       image_dims, label_dims;
    std::vector<unsigned char> labels;
    if (!read_idx(folder + "/train-images.idx3.gz", 3, image_dims, s.bytes, error)) return false;
    if (!read_idx(folder + "/train-labels.idx1.gz", 1, label_dims, labels, error)) return false;
    if (image_dims[0] != label_dims[0]) {
        *error = shown(folder) + "/train-labels.idx1.gz: found " + std::to_string(label_dims[0]) +
                 " labels, expected " + std::to_string(image_dims[0]);
        return false;
    }
    *classes = 0;
    for (unsigned char l : labels) s.label.push_back(l), *classes = std::max(*classes, l + 1);
    for (int64_t i = 0; i <= image_dims[0]; ++i) s.start.push_back(i * image_dims[1] * image_dims[2]);
    return true;
}

// Made-up data, for tests and first tries. synthetic:waves[,sequences]: which of four frequencies is in the noise.
// synthetic:delay[,sequences]: give back the input of five steps ago.
inline bool make_synthetic(const std::string& data, const std::string& task, uint64_t seed, Sequences& s, int* classes,
                           std::string* error) {
    const std::string name = data.substr(10, data.find(',') - 10);
    double            n    = 600;
    if (data.find(',') != std::string::npos &&
        (!read_number(data.substr(data.find(',') + 1), &n) || n < 2 || n > 1e6)) {
        *error = "data = " + shown(data) + ": expected a number of sequences after the comma";
        return false;
    }
    if (!(name == "waves" && task == "classify") && !(name == "delay" && task == "regress")) {
        *error = "data = " + shown(data) + ": expected synthetic:waves for classify, synthetic:delay for regress";
        return false;
    }
    s4d::Random random(seed * 2 + 1000);
    s.start.push_back(0);
    *classes = name == "waves" ? 4 : 1;
    if (name == "delay") s.d_target = 1;
    for (int64_t i = 0; i < int64_t(n); ++i) {
        const int64_t length = name == "waves" ? 48 + int64_t(random.below(33)) : 40;
        const int     label  = int(random.below(4));
        const double  phase = random.uniform(0, 6.283185307179586), step = 0.25 * (label + 1);
        const size_t  begin = s.floats.size();
        for (int64_t t = 0; t < length; ++t) {
            s.floats.push_back(name == "waves" ? float(std::sin(phase + step * double(t)) + 0.7 * random.normal())
                                               : float(random.uniform(-1, 1)));
            if (name == "delay") s.targets.push_back(t < 5 ? 0.0f : s.floats[begin + size_t(t) - 5]);
        }
        s.label.push_back(label);
        s.start.push_back(s.start.back() + length);
    }
    return true;
}

// Classification by softmax cross-entropy, or regression of targets at every step by squared error.
struct SequenceTask : Task {
    Sequences data;
    int64_t   train_count = 0, valid_count = 0, valid_begin = 0;
    int       outputs = 1;
    bool      classes = true;

    bool prepare(Settings& s, std::string* error) override {
        classes = s.task == "classify";
        int n   = 0;
        if (s.data.compare(0, 10, "synthetic:") == 0) {
            if (!make_synthetic(s.data, s.task, uint64_t(s.seed), data, &n, error)) return false;
            input = s.data;
        } else if (!classes) {
            *error = "data = " + shown(s.data) + ": task regress knows synthetic:delay only";
            return false;
        } else {
            if (!read_images(s.data, data, &n, error)) return false;
            input = "pixel/255";
        }
        if (classes ? s.net.pool == s4d::Pool::none : s.net.pool != s4d::Pool::none) {
            *error = classes ? "task classify needs pool = mean or last" : "task regress needs pool = none";
            return false;
        }
        const int64_t total = data.count();
        valid_count         = s.validate < 1 ? int64_t(s.validate * double(total)) : int64_t(s.validate);
        if (valid_count >= total) {
            *error =
                "validate = " + std::to_string(valid_count) + ": found only " + std::to_string(total) + " sequences";
            return false;
        }
        valid_begin   = total - valid_count;
        train_count   = s.limit > 0 ? std::min(s.limit, valid_begin) : valid_begin;
        outputs       = classes ? n : int(data.d_target);
        s.net.d_input = int(data.d_input), s.net.d_output = outputs;
        for (int i = 0; classes && i < n; ++i) labels += (i > 0 ? "," : "") + std::to_string(i);
        return true;
    }
    int64_t n_train() const override { return train_count; }
    int64_t n_valid() const override { return valid_count; }

    void learn(const Settings& s, const s4d::Ready<float>& ready, int64_t example, double weight, s4d::Random& random,
               Slot& slot) const override {
        run(s, ready, example, weight, &random, slot);
    }
    void measure(const Settings& s, const s4d::Ready<float>& ready, int64_t example, Slot& slot) const override {
        run(s, ready, example - train_count + valid_begin, 1, nullptr, slot);
    }
    std::vector<Metric> metrics(double loss, double metric, double count) const override {
        if (classes) return {{"accuracy", 100 * metric / count}, {"loss", loss / count}};
        return {{"rmse", std::sqrt(metric / count)}};
    }

private:
    void run(const Settings& s, const s4d::Ready<float>& ready, int64_t i, double weight, s4d::Random* random,
             Slot& slot) const {
        const int64_t steps = data.start[size_t(i + 1)] - data.start[size_t(i)];
        const float*  x = data.rows(i, slot.x);
        if (classes) return classify(s, ready, x, steps, data.label[size_t(i)], weight, random, slot);
        const float* target = data.targets.data() + data.start[size_t(i)] * outputs;
        one_sequence(s, ready, x, steps, random, slot, [&](const float* out, float* d_out, int64_t n) {
            double sum = 0;
            for (int64_t k = 0; k < n; ++k) {
                const double d = double(out[k]) - double(target[k]);
                sum += d * d;
                d_out[k] = float(2 * weight * d / double(n));
            }
            slot.loss += weight * sum / double(n);
            slot.metric += sum / double(n);
        });
    }
};

} // namespace train

#endif
