// eval.cpp - `ssm eval`: measures a model on a data set, by the task its metadata names.
// SPDX-License-Identifier: MIT
#include "inflate.hpp"
#include "next.hpp"
#include "tool.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <thread>

namespace {
using namespace tool;

const char help[] =
    "usage: ssm eval MODEL DATA [--track next|query] [--ranks DIR] [--learn] [--items N] [--event-bytes B]\n"
    "                [--isa NAME] [--threads N]\n"
    "\n"
    "Measures a model on the folder DATA. What is done depends on the model's metadata \"task\":\n"
    "\n"
    "  classify  DATA holds test-images.idx3.gz and test-labels.idx1.gz (IDX, gzip or plain). The pixels / 255 are fed "
    "in row\n"
    "            order, d_input at a time; the class is the largest output after the last step.\n"
    "            Prints `metric: value` lines: accuracy (percent), loss (mean cross-entropy, nats), count, bytes.\n"
    "  next, relevance  DATA holds .ev change histories. Each is replayed; the last fifth of its commits is measured.\n"
    "\n"
    "  --track T     which question to ask of histories: next, what the coming commit touches, or (relevance) query,\n"
    "                the same with its words, author and time known (default: next for next, query for relevance)\n"
    "  --learn       track query: the head of the sidecar learns from each commit from the 50th on, once it\n"
    "                is known\n"
    "  --items N, --event-bytes B   task relevance: items kept (4096) and bytes for past events (262144); less memory\n"
    "                forgets more\n"
    "  --ranks DIR   of histories: write each ranking to DIR/PROJECT.txt, a commit's index and its files, best first\n"
    "  --threads N   at most N threads (default: one for each core); the result does not depend on it\n"
    "  --isa NAME    run on this back-end\n";

// Reads an IDX file of bytes with `rank` dimensions, gzip or plain. done, or the status to leave with.
int read_idx(const std::string& path, size_t rank, std::vector<size_t>* dims, std::vector<unsigned char>* data) {
    constexpr size_t limit = size_t(1) << 30;
    std::string      file;
    const int        status = read_file("eval", path.c_str(), limit, &file);
    if (status != done) return status;
    const auto* bytes = reinterpret_cast<const unsigned char*>(file.data());
    const auto  bad = [&](const std::string& what) { return fail(io_error, "eval", escape(path, 160) + ": " + what); };
    data->clear();
    if (file.size() >= 2 && bytes[0] == 0x1f && bytes[1] == 0x8b) {
        if (const char* why = inflate::gunzip(bytes, file.size(), *data, limit)) return bad(why);
    } else data->assign(bytes, bytes + file.size());

    const size_t header = 4 + 4 * rank;
    const auto&  d = *data;
    if (d.size() < header || d[0] != 0 || d[1] != 0 || d[2] != 8 || d[3] != rank)
        return bad("expected an IDX file of bytes with " + std::to_string(rank) +
                   (rank == 1 ? " dimension" : " dimensions"));
    size_t count = 1;
    dims->clear();
    for (size_t k = 0; k < rank; ++k) {
        const unsigned char* p = &d[4 + 4 * k];
        dims->push_back(size_t(p[0]) << 24 | size_t(p[1]) << 16 | size_t(p[2]) << 8 | size_t(p[3]));
        if (dims->back() == 0 || count > limit / dims->back()) return bad("a dimension is 0 or too large");
        count *= dims->back();
    }
    if (count != d.size() - header)
        return bad("expected " + std::to_string(count) + " bytes of data, got " + std::to_string(d.size() - header));
    data->erase(data->begin(), data->begin() + ptrdiff_t(header));
    return done;
}

int eval_classify(const char* model_path, const std::string& folder, ssm::Isa isa, int64_t n_threads) {
    // 1. The model; one more scratch and state for each thread.
    constexpr int32_t batch = 64;
    OpenModel         m;
    int               status = open_model("eval", model_path, isa, 0, 1, &m);
    if (status != done) return status;
    const ssm::Config& c = m.config;
    const auto         bad = [&](const std::string& what) {
        return fail(bad_file, "eval", escape(model_path, 160) + ": " + what);
    };
    std::string input;
    if (m.metadata("input", &input) && input != "pixel/255")
        return bad("metadata \"input\": got \"" + escape(input) + "\", expected \"pixel/255\"");

    // 2. The data.
    std::vector<size_t>        dims, label_dims;
    std::vector<unsigned char> images, labels;
    const auto                 path = [&](const char* stem) { // either form of the file
        std::string name = folder + "/" + stem + ".gz";
        if (std::FILE* f = std::fopen(name.c_str(), "rb")) std::fclose(f);
        else if (std::FILE* g = std::fopen((folder + "/" + stem).c_str(), "rb"))
            std::fclose(g), name.resize(name.size() - 3);
        return name;
    };
    if ((status = read_idx(path("test-images.idx3"), 3, &dims, &images)) != done) return status;
    if ((status = read_idx(path("test-labels.idx1"), 1, &label_dims, &labels)) != done) return status;
    const size_t n = dims[0], pixels = dims[1] * dims[2], d_in = size_t(c.d_input), classes = size_t(c.d_output);
    if (label_dims[0] != n)
        return fail(io_error, "eval",
                    escape(folder, 160) + ": " + std::to_string(n) + " images, but " + std::to_string(label_dims[0]) +
                        " labels");
    if (pixels % d_in != 0)
        return bad("d_input is " + std::to_string(d_in) + ", expected a divisor of " + std::to_string(pixels) +
                   " pixels");
    for (unsigned char label : labels)
        if (label >= classes)
            return bad("d_output is " + std::to_string(classes) + ", but the data has label " + std::to_string(label));
    const size_t steps = pixels / d_in;
    if (steps > size_t(INT32_MAX)) return bad("the images are too large");

    // 3. Every image by itself, whichever thread takes it. Sums are made afterwards, in order.
    std::vector<double> losses(n);
    std::vector<char>   right(n);
    std::atomic<size_t> next{0};
    std::atomic<bool>   good{true};
    const bool          progress = terminal(2);
    const auto          classify = [&] {
        // 16-byte alignment comes with operator new; make_state() and make_scratch() ask for no more.
        const size_t               bytes = ssm::state_bytes(c) + ssm::scratch_bytes(c, batch) + 64;
        std::vector<unsigned char> memory(bytes);
        ssm::Arena                 arena{memory.data(), memory.size(), 0};
        ssm::State                 state;
        ssm::Scratch               scratch;
        if (ssm::make_state(&state, m.model, &arena) != ssm::Status::ok ||
            ssm::make_scratch(&scratch, m.model, batch, &arena) != ssm::Status::ok) {
            good = false;
            return;
        }
        std::vector<float> x(pixels), y(classes);
        for (size_t i; (i = next++) < n && good;) {
            for (size_t k = 0; k < pixels; ++k) x[k] = static_cast<float>(images[i * pixels + k]) / 255.0f;
            ssm::reset(m.model, &state);
            if (ssm::prefill(m.model, &state, &scratch, x.data(), int32_t(steps), y.data()) != ssm::Status::ok)
                good = false;
            double top = static_cast<double>(y[0]), sum = 0.0;
            for (float v : y) top = std::max(top, static_cast<double>(v));
            for (float v : y) sum += std::exp(static_cast<double>(v) - top);
            losses[i] = top + std::log(sum) - static_cast<double>(y[labels[i]]);
            right[i] = std::max_element(y.begin(), y.end()) - y.begin() == labels[i] ? 1 : 0;
            if (progress && i % 100 == 0) {
                char line[64];
                std::snprintf(line, sizeof line, "\r%zu of %zu", i, n);
                Output(2).write(line);
            }
        }
    };
    const auto work = [&] { // an exception must not leave a thread
        try {
            classify();
        } catch (const std::exception&) {
            good = false;
        }
    };
    const unsigned           cores = std::max(1u, std::thread::hardware_concurrency());
    const size_t             threads = size_t(n_threads > 0 ? std::min(n_threads, int64_t(1024)) : int64_t(cores));
    std::vector<std::thread> crew;
    for (size_t t = 1; t < threads; ++t) {
        try {
            crew.emplace_back(work);
        } catch (const std::exception&) {
            break; // fewer threads than asked for: slower, the same result
        }
    }
    work();
    for (std::thread& t : crew) t.join();
    if (progress) Output(2).write("\r\x1b[K");
    if (!good) return fail(io_error, "eval", "out of memory, or a step was refused");

    // 4. The figures.
    double loss = 0.0, hits = 0.0;
    for (size_t i = 0; i < n; ++i) loss += losses[i], hits += right[i];
    Output out(1);
    char   text[160];
    std::snprintf(text, sizeof text, "accuracy: %.2f\nloss: %.6f\ncount: %zu\nbytes: %zu\n",
                  100.0 * hits / static_cast<double>(n), loss / static_cast<double>(n), n, m.blob.bytes);
    out.write(text);
    return finish("eval", &out);
}
} // namespace

int verb_eval(int argc, char** argv) {
    const char* track = nullptr;
    HistoryEval how;
    int64_t     items = how.limits.items, event_bytes = how.limits.event_bytes;
    ssm::Isa    isa = ssm::Isa::best;
    int64_t     threads = 0;
    Options     options("eval", help);
    options.flag("--learn", &how.learn)
        .integer("--items", &items, 16, 65535)
        .integer("--event-bytes", &event_bytes, 4096, 737280)
        .text("--ranks", &how.ranks)
        .word("--track", &track, {"next", "query"}).isa(&isa).integer("--threads", &threads, 1, 1024);
    int status = options.read(argc, argv, 2, 2);
    if (status != go_on) return status;
    const char *path = options.operands[0], *data = options.operands[1];

    std::string task;
    {
        Container file;
        if ((status = open_container("eval", path, &file)) != done) return status;
        if (!file.metadata("task", &task))
            return fail(bad_file, "eval",
                        escape(path, 160) + ": metadata \"task\": missing, expected classify, next or relevance");
    }
    const bool histories = task == "next" || task == "relevance";
    if (!histories && (track != nullptr || how.ranks != nullptr || how.learn))
        return fail(bad_usage, "eval", "--track and --ranks are for models of change histories");
    if (task == "classify") return eval_classify(path, data, isa, threads);
    if (!histories)
        return fail(bad_file, "eval",
                    escape(path, 160) + ": metadata \"task\": got \"" + escape(task) +
                        "\", expected classify, next or relevance");
    how.asked = track != nullptr ? std::strcmp(track, "query") == 0 : task == "relevance";
    how.isa = isa, how.limits.items = uint32_t(items), how.limits.event_bytes = uint32_t(event_bytes);
    if (how.asked && task == "next") return fail(bad_usage, "eval", "--track query is for models of task relevance");
    if (how.learn && !how.asked) return fail(bad_usage, "eval", "--learn goes with track query");
    return eval_history(path, data, how);
}
