// eval.cpp - `ssm eval`: measures a model on a data set, by the task its metadata names.
// SPDX-License-Identifier: MIT
#include "inflate.hpp"
#include "next.hpp"
#include "random.hpp"
#include "sound.hpp"
#include "tool.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <thread>

namespace {
using namespace tool;

const char help[] =
    "usage: ssm eval MODEL DATA [OPTION...]\n"
    "\n"
    "Measures a model on the folder DATA. What is done depends on the model's metadata \"task\":\n"
    "\n"
    "  classify  DATA holds test-images.idx3.gz and test-labels.idx1.gz (IDX, gzip or plain). The pixels / 255 are fed "
    "in row\n"
    "            order, d_input at a time; the class is the largest output after the last step.\n"
    "            Prints `metric: value` lines: accuracy (percent), loss (mean cross-entropy, nats), count, bytes.\n"
    "  sound     DATA holds NAME.i16 (samples, 16 bits) and NAME.tsv (label speaker index offset length); the class "
    "is\n"
    "            the largest output at the end of a recording. Prints the same, and the accuracy of each speaker.\n"
    "  next, relevance  DATA holds .ev change histories. Each is replayed; the last fifth of its commits is measured.\n"
    "\n"
    "  --split NAME  of sound: which recordings (test)            --speaker S   only these\n"
    "  --level DB    of sound: louder by so much, cut at 16 bits  --silence MS  digital silence in front\n"
    "  --noise DB    of sound: white noise so far below each recording\n"
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

// Runs a model over n examples, whichever thread takes which, and prints what came out. `input` fills an example's
// numbers, of `steps` events; `group`, if any, names the example's group, whose accuracy is printed as well.
struct Examples {
    size_t                                               n = 0;
    std::function<void(size_t i, std::vector<float>* x)> input;
    std::function<size_t(size_t i)>                      label;
    std::function<const std::string&(size_t i)>          group;
};
int classify(const OpenModel& m, const Examples& all, int64_t n_threads) {
    constexpr int32_t   batch = 64;
    const ssm::Config&  c = m.config;
    const size_t        n = all.n, classes = size_t(c.d_output);
    std::vector<double> losses(n);
    std::vector<char>   right(n);
    std::atomic<size_t> next{0};
    std::atomic<bool>   good{true};
    const bool          progress = terminal(2);
    const auto          some = [&] {
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
        std::vector<float> x, y(classes);
        for (size_t i; (i = next++) < n && good;) {
            all.input(i, &x);
            ssm::reset(m.model, &state);
            const auto steps = int32_t(x.size() / size_t(c.d_input));
            if (ssm::prefill(m.model, &state, &scratch, x.data(), steps, y.data()) != ssm::Status::ok) good = false;
            double top = static_cast<double>(y[0]), sum = 0.0;
            for (float v : y) top = std::max(top, static_cast<double>(v));
            for (float v : y) sum += std::exp(static_cast<double>(v) - top);
            losses[i] = top + std::log(sum) - static_cast<double>(y[all.label(i)]);
            right[i] = size_t(std::max_element(y.begin(), y.end()) - y.begin()) == all.label(i) ? 1 : 0;
            if (progress && i % 100 == 0) {
                char line[64];
                std::snprintf(line, sizeof line, "\r%zu of %zu", i, n);
                Output(2).write(line);
            }
        }
    };
    const auto work = [&] { // an exception must not leave a thread
        try {
            some();
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

    // The figures. Sums are made here, in order.
    double loss = 0.0, hits = 0.0;
    std::map<std::string, std::pair<size_t, size_t>> groups; // right, all
    for (size_t i = 0; i < n; ++i) {
        loss += losses[i], hits += right[i];
        if (all.group) groups[all.group(i)].first += size_t(right[i]), ++groups[all.group(i)].second;
    }
    Output out(1);
    char   text[160];
    std::snprintf(text, sizeof text, "accuracy: %.2f\nloss: %.6f\ncount: %zu\nbytes: %zu\n",
                  100.0 * hits / static_cast<double>(n), loss / static_cast<double>(n), n, m.blob.bytes);
    out.write(text);
    for (const auto& [name, g] : groups) {
        std::snprintf(text, sizeof text, ": %.2f\n",
                      100.0 * static_cast<double>(g.first) / static_cast<double>(g.second));
        out.write("accuracy of " + escape(name, 80) + text);
    }
    return finish("eval", &out);
}

int eval_classify(const char* model_path, const std::string& folder, ssm::Isa isa, int64_t n_threads) {
    // 1. The model.
    OpenModel m;
    int       status = open_model("eval", model_path, isa, 0, 1, &m);
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

    Examples all;
    all.n = n;
    all.input = [&](size_t i, std::vector<float>* x) {
        x->resize(pixels);
        for (size_t k = 0; k < pixels; ++k) (*x)[k] = static_cast<float>(images[i * pixels + k]) / 255.0f;
    };
    all.label = [&](size_t i) { return size_t(labels[i]); };
    return classify(m, all, n_threads);
}

// How recordings are changed before they are measured.
struct Hearing {
    const char *split = "test", *speaker = nullptr;
    double      level = 0, silence = 0, noise = 1000; // dB, ms, dB below the recording
};

int eval_sound(const char* model_path, const std::string& folder, const Hearing& how, ssm::Isa isa, int64_t n_threads) {
    OpenModel m;
    int       status = open_model("eval", model_path, isa, 0, 1, &m);
    if (status != done) return status;
    const size_t      step = size_t(m.config.d_input), classes = size_t(m.config.d_output);
    sound::Recordings data;
    std::string       why, rate = "8000";
    if (!sound::read_recordings(folder, how.split, &data, &why)) return fail(io_error, "eval", why);
    if (how.speaker != nullptr)
        data.list.erase(std::remove_if(data.list.begin(), data.list.end(),
                                       [&](const sound::Recording& r) { return r.speaker != how.speaker; }),
                        data.list.end());
    if (data.list.empty())
        return fail(io_error, "eval", "--speaker " + escape(how.speaker, 80) + ": no recording of this speaker");
    for (const sound::Recording& r : data.list)
        if (size_t(r.label) >= classes)
            return fail(bad_file, "eval",
                        escape(model_path, 160) + ": d_output is " + std::to_string(classes) +
                            ", but the data has label " + std::to_string(r.label));
    (void)m.metadata("sample_rate", &rate);
    float hertz = 8000;
    if (ssm::parse_float(rate.data(), rate.size(), &hertz) != rate.size() || !(hertz > 0.0f && hertz < 1e6f))
        return fail(bad_file, "eval", escape(model_path, 160) + ": metadata \"sample_rate\" is not a rate");
    const auto   before = size_t(how.silence * static_cast<double>(hertz) / 1000);
    const double gain = std::pow(10.0, how.level / 20);
    Examples     all;
    all.n = data.list.size();
    all.label = [&](size_t i) { return size_t(data.list[i].label); };
    all.group = [&](size_t i) -> const std::string& { return data.list[i].speaker; };
    all.input = [&](size_t i, std::vector<float>* x) { // as 16 bits would have it; the last step filled with silence
        const sound::Recording& r = data.list[i];
        x->assign((before + r.length + step - 1) / step * step, 0.0f);
        double power = 0;
        for (size_t t = 0; t < r.length; ++t) power += double(data.samples[r.offset + t]) * data.samples[r.offset + t];
        const double loud = how.noise < 200 ? std::sqrt(power / double(r.length)) * std::pow(10, -how.noise / 20) : 0;
        s4d::Random  random(i + 1);
        for (size_t t = 0; t < before + r.length; ++t) {
            double v = t < before ? 0 : data.samples[r.offset + t - before];
            if (loud > 0) v += loud * random.normal();
            (*x)[t] = static_cast<float>(std::max(-32768.0, std::min(32767.0, std::floor(v * gain + 0.5))) / 32768);
        }
    };
    return classify(m, all, n_threads);
}
} // namespace

int verb_eval(int argc, char** argv) {
    const char* track = nullptr;
    HistoryEval how;
    int64_t     items = how.limits.items, event_bytes = how.limits.event_bytes;
    ssm::Isa    isa = ssm::Isa::best;
    int64_t     threads = 0;
    Hearing     hearing;
    const char *level = nullptr, *silence = nullptr, *noise = nullptr;
    Options     options("eval", help);
    options.text("--split", &hearing.split).text("--speaker", &hearing.speaker).text("--level", &level);
    options.text("--silence", &silence).text("--noise", &noise);
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
                        escape(path, 160) +
                            ": metadata \"task\": missing, expected classify, sound, next or relevance");
    }
    const bool sounds = task == "sound";
    const struct {
        const char *name, *text;
        double      low, high, *to;
    } numbers[] = {{"--level", level, -100, 100, &hearing.level},
                   {"--silence", silence, 0, 60000, &hearing.silence},
                   {"--noise", noise, -20, 200, &hearing.noise}};
    for (const auto& o : numbers) {
        float v = 0;
        if (o.text == nullptr) continue;
        if (ssm::parse_float(o.text, std::strlen(o.text), &v) != std::strlen(o.text) ||
            !(double(v) >= o.low && double(v) <= o.high))
            return fail(bad_usage, "eval",
                        std::string(o.name) + ": got \"" + escape(o.text, 40) + "\", expected a number from " +
                            std::to_string(int(o.low)) + " to " + std::to_string(int(o.high)));
        *o.to = static_cast<double>(v);
    }
    if (!sounds && (level != nullptr || silence != nullptr || noise != nullptr || hearing.speaker != nullptr ||
                    std::strcmp(hearing.split, "test") != 0))
        return fail(bad_usage, "eval", "--split, --speaker, --level, --silence and --noise are for models of sound");
    const bool histories = task == "next" || task == "relevance";
    if (!histories && (track != nullptr || how.ranks != nullptr || how.learn))
        return fail(bad_usage, "eval", "--track and --ranks are for models of change histories");
    if (task == "classify") return eval_classify(path, data, isa, threads);
    if (sounds) return eval_sound(path, data, hearing, isa, threads);
    if (!histories)
        return fail(bad_file, "eval",
                    escape(path, 160) + ": metadata \"task\": got \"" + escape(task) +
                        "\", expected classify, sound, next or relevance");
    how.asked = track != nullptr ? std::strcmp(track, "query") == 0 : task == "relevance";
    how.isa = isa, how.limits.items = uint32_t(items), how.limits.event_bytes = uint32_t(event_bytes);
    if (how.asked && task == "next") return fail(bad_usage, "eval", "--track query is for models of task relevance");
    if (how.learn && !how.asked) return fail(bad_usage, "eval", "--learn goes with track query");
    return eval_history(path, data, how);
}
