// bench.cpp - `ssm bench`: how fast a model runs here, and how fast this machine could run it.
//
// First the machine: how many bytes a second the back-end's loads bring in from each level of memory, and how many
// multiply-adds (unfused, as the engine does them) it completes. Then kernels and whole calls. The roofline share of a
// measurement is the time the machine needs at least, the larger of its bytes at the measured bandwidth and its
// multiply-adds at the measured rate, over the time taken. SPDX-License-Identifier: MIT
#include "bench.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>

namespace {
using namespace tool;
using bench::Machine;
using bench::Row;

const char help[] =
    "usage: ssm bench MODEL | --config KEY=VALUE,... [--threads N] [--batch N,...] [--json] [--isa NAME] [--seconds "
    "S]\n"
    "       ssm bench MODEL | --config KEY=VALUE,... --cuda [--batch N,...] [--json] [--seconds S]\n"
    "       ssm bench --compare A.json B.json\n"
    "       ssm bench --train KEY=VALUE,... [--seconds S]\n"
    "\n"
    "Measures the machine (read bandwidth, multiply-adds), the kernels at this model's sizes, and whole calls: steps,\n"
    "candidates, streams, prefill, on every back-end of this CPU or the one named. Times are the fastest and the "
    "median\n"
    "of several repetitions; cold: nothing of the model or its state in any cache; roofline share: the least time "
    "this\n"
    "machine needs for the bytes and multiply-adds, over the fastest time.\n"
    "\n"
    "  --config T   a made-up model instead of a file: the architecture (s4d, mamba1, mamba2, mamba3) and any of "
    "d_model,\n"
    "               n_layer, d_state, headdim, ngroups, mimo_rank, rope_fraction, expand, d_conv, dt_rank, "
    "mlp_hidden,\n"
    "               d_input, d_output, vocab_size, dtype, clip, seed: "
    "mamba3,d_model=128,n_layer=4,d_state=16,headdim=16\n"
    "               weights=i8|i4, activations=i8|i16 and state=i32|i16rowexp make an integer model of it\n"
    "  --save F     keep the made-up model, in F\n"
    "  --threads N  once more on N threads (default 2, or 1 where there is one core): steps and prefill of large "
    "models\n"
    "               are split, candidates and streams are dealt out\n"
    "  --batch L    numbers of candidates (default 32,64)\n"
    "  --json       one JSON object in one line instead of text\n"
    "  --cuda       on the first GPU: streams and candidates for each --batch (default 1,64,1024,4096,16384,65536). "
    "step:\n"
    "               the GPU's time for a step; call: from the host's inputs to the host's outputs; MB: weights and "
    "states\n"
    "               that a step reads and writes; copy: their rate as a share of what this GPU copies; scan: the "
    "updates of\n"
    "               one layer's state alone\n"
    "  --compare    ratios of the times in B to those in A, with quartiles; a file may hold several runs, a line "
    "each,\n"
    "               best taken in turns: the first of A is then paired with the first of B, and so on\n"
    "  --train T    a training step (forward and backward, 32 tokens) of a made-up mamba3 model instead\n"
    "  --isa NAME   this back-end only\n"
    "  --seconds S  for the whole run (default 8)\n";

#if defined(__VERSION__)
const char compiler[] = __VERSION__;
#else
const char compiler[] = "unknown";
#endif

std::string printed(const char* format, double v) {
    char text[64];
    std::snprintf(text, sizeof text, format, v);
    return text;
}

// Numbers of candidates, separated by commas.
bool read_list(const char* text, std::vector<int32_t>* out) {
    out->clear();
    for (const char* p = text;; ++p) {
        char*      end = nullptr;
        const long v = *p >= '0' && *p <= '9' ? std::strtol(p, &end, 10) : 0;
        if (v < 1 || v > 65536 || out->size() == 16) return false;
        out->push_back(int32_t(v));
        if (*end == 0) return true;
        if (*end != ',') return false;
        p = end;
    }
}

std::string json_of(const char* name, const Machine& machine, const std::vector<Row>& rows) {
    std::string text = std::string("{\"name\":\"") + name + "\",\"machine\":{\"read_bytes_per_s\":{";
    for (size_t i = 0; i < bench::n_levels; ++i)
        text += std::string(i == 0 ? "\"" : ",\"") + bench::levels[i].name +
                "\":" + printed("%.4g", machine.bytes_per_s[i]);
    text += "},\"macs_per_s\":" + printed("%.4g", machine.macs_per_s);
    if (machine.memory_bytes_per_s > 0)
        text += ",\"threads\":" + std::to_string(machine.threads) +
                ",\"memory_bytes_per_s\":" + printed("%.4g", machine.memory_bytes_per_s);
    text += "},\"runs\":[";
    for (const Row& r : rows) {
        const double ns = r.time.fastest() * 1e9;
        text += (&r == rows.data() ? "" : ",") + std::string("{\"name\":\"") + r.name +
                "\",\"ns\":" + printed("%.5g", ns) + ",\"median_ns\":" + printed("%.5g", r.time.median() * 1e9) +
                ",\"rows_per_s\":" + printed("%.5g", r.n / r.time.fastest());
        if (r.macs > 0)
            text += ",\"gmac_per_s\":" + printed("%.4g", r.macs / ns) +
                    ",\"gb_per_s\":" + printed("%.4g", r.bytes / ns) +
                    ",\"least_ns\":" + printed("%.5g", r.least * 1e9) +
                    ",\"roofline_share\":" + printed("%.3f", r.least / r.time.fastest());
        text += ",\"samples\":" + std::to_string(r.time.sorted.size()) + ",\"quantiles_ns\":[";
        for (size_t i = 0; i < bench::n_quantiles; ++i)
            text += (i == 0 ? "" : ",") + printed("%.5g", r.time.at(double(i) / double(bench::n_quantiles - 1)) * 1e9);
        text += "]}";
    }
    return text + "]}";
}

void write_table(Output* out, const char* name, const Machine& machine, const std::vector<Row>& rows) {
    char line[200];
    out->write(std::string("\nback-end ") + name + ", one core where nothing else is said\n");
    for (size_t i = 0; i < bench::n_levels; ++i) {
        std::snprintf(line, sizeof line, "  %-34s %10.1f GB/s\n",
                      (std::string("read within ") + bench::levels[i].name).c_str(), machine.bytes_per_s[i] * 1e-9);
        out->write(line);
    }
    if (machine.memory_bytes_per_s > 0) {
        std::snprintf(line, sizeof line, "  %-34s %10.1f GB/s\n",
                      (std::string("the last, ") + std::to_string(machine.threads) + " threads").c_str(),
                      machine.memory_bytes_per_s * 1e-9);
        out->write(line);
    }
    std::snprintf(line, sizeof line, "  %-34s %10.1f GMAC/s\n\n", "multiply-add, not fused", machine.macs_per_s * 1e-9);
    out->write(line);
    std::snprintf(line, sizeof line, "  %-34s %10s %10s %12s %8s %8s %10s %9s\n", "", "ns", "median", "rows/s",
                  "GMAC/s", "GB/s", "least, ns", "roofline");
    out->write(line);
    for (const Row& r : rows) {
        const double ns = r.time.fastest() * 1e9;
        std::snprintf(line, sizeof line, "  %-34s %10.0f %10.0f %12.0f", r.name.c_str(), ns, r.time.median() * 1e9,
                      r.n / r.time.fastest());
        out->write(line);
        if (r.macs > 0) {
            std::snprintf(line, sizeof line, " %8.2f %8.2f %10.0f %8.0f%%", r.macs / ns, r.bytes / ns, r.least * 1e9,
                          r.least / r.time.fastest() * 100);
            out->write(line);
        }
        out->write("\n");
    }
    out->flush();
}
} // namespace

int verb_bench(int argc, char** argv) {
    bool            json = false, comparing = false, cuda = false;
    bench::Settings settings;
    double          seconds = 8.0;
    int64_t         threads = std::thread::hardware_concurrency() > 1 ? 2 : 1;
    ssm::Isa        isa = ssm::Isa::best;
    const char *    config = nullptr, *to_train = nullptr, *keep = nullptr, *batch = nullptr;
    Options         options("bench", help);
    options.flag("--json", &json).flag("--compare", &comparing).isa(&isa).number("--seconds", &seconds, 0.05, 3600.0);
    options.text("--config", &config).text("--train", &to_train).text("--save", &keep).text("--batch", &batch);
    options.integer("--threads", &threads, 1, 64).flag("--cuda", &cuda);
    int status = options.read(argc, argv, 0, 2);
    if (status != go_on) return status;
    if (comparing) {
        if (config != nullptr || to_train != nullptr || json || cuda || isa != ssm::Isa::best || keep != nullptr ||
            batch != nullptr || options.operands.size() != 2)
            return fail(bad_usage, "bench", "--compare goes with two files only; see ssm bench --help");
        return bench::compare(options.operands[0], options.operands[1]);
    }
    if (to_train != nullptr) {
        if (config != nullptr || json || cuda || isa != ssm::Isa::best || keep != nullptr || batch != nullptr ||
            !options.operands.empty())
            return fail(bad_usage, "bench", "--train goes with --seconds only; see ssm bench --help");
        return bench::train_step(to_train, seconds);
    }
    if (options.operands.size() > 1)
        return fail(bad_usage, "bench", "unexpected operand " + quoted(options.operands[1]) + "; see ssm bench --help");
    if ((config == nullptr) != (options.operands.size() == 1))
        return fail(bad_usage, "bench",
                    std::string("expected one model file or --config, got ") +
                        (config != nullptr ? "both" : std::to_string(options.operands.size())) +
                        "; see ssm bench --help");
    if (keep != nullptr && config == nullptr)
        return fail(bad_usage, "bench", "--save goes with --config; see ssm bench --help");
    if (batch != nullptr && !read_list(batch, &settings.batch))
        return fail(bad_usage, "bench",
                    "--batch: got " + quoted(batch) + ", expected up to 16 numbers from 1 to 65536 and commas");
    settings.threads = int(threads);
    bench::MadeUp made_up;
    if (config != nullptr) {
        if ((status = made_up.write(config, keep)) != done) return status;
        options.operands = {made_up.path.c_str()};
    }
    const char* path = options.operands[0];
    if (cuda) {
        if (isa != ssm::Isa::best)
            return fail(bad_usage, "bench", "--cuda does not go with --isa; see ssm bench --help");
        if (batch == nullptr) settings.batch = {1, 64, 1024, 4096, 16384, 65536};
        return bench::gpu(path, settings.batch, seconds, json);
    }
    std::vector<ssm::Isa> all = back_ends();
    if (isa != ssm::Isa::best) all = {isa};
    Container file;
    if ((status = open_container("bench", path, &file)) != done) return status;
    std::string model_json, cpu_json, compiler_json;
    append_json_string(&model_json, escape(config != nullptr ? config : path, 160));
    append_json_string(&cpu_json, bench::cpu_name()), append_json_string(&compiler_json, compiler);

    Output      out(1);
    std::string text = "{\"version\":\"" SSM_VERSION "\",\"model\":" + model_json + ",\"cpu\":" + cpu_json +
                       ",\"compiler\":" + compiler_json + ",\"back_ends\":[";
    const double calls = 6.0 + static_cast<double>(settings.batch.size());
    const double measurements = bench::n_levels + 2 + 10 + calls * (threads > 1 ? 2 : 1);
    const double each =
        seconds / (static_cast<double>(all.size()) * measurements) * 0.8; // the rest: finding how often to call
    settings.seconds = each;
    for (size_t b = 0; b < all.size(); ++b) {
        OpenModel m;
        if (open_container("bench", path, &m) != done) return bad_file;
        std::vector<unsigned char> memory(ssm::index_bytes(m.blob) + 1);
        const bool is_model = ssm::inspect(&m.config, m.blob, memory.data(), memory.size()) == ssm::Status::ok;
        status = open_model("bench", path, m, all[b], is_model ? bench::states_of(m.config) : 1, bench::batch_rows, &m);
        if (status != done) return status;
        const Machine    machine = bench::measure_machine(all[b], settings.threads, each);
        std::vector<Row> rows;
        bench::measure_kernels(m, machine, each, &rows);
        if (!bench::measure_steps(&m, machine, settings, &rows))
            return fail(bad_file, "bench", escape(path, 160) + ": the model refuses a step");
        if (json) {
            text += (b == 0 ? "" : ",") + json_of(ssm::isa_name(m.model), machine, rows);
            continue;
        }
        if (b == 0) out.write("cpu: " + escape(bench::cpu_name()) + "\ncompiler: " + std::string(compiler) + "\n");
        write_table(&out, ssm::isa_name(m.model), machine, rows);
    }
    if (json) out.write(text + "]}\n");
    return finish("bench", &out);
}
