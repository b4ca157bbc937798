// compare.cpp - `ssm compare`: what two models differ in, tensor by tensor, and how far their outputs drift apart.
// SPDX-License-Identifier: MIT
#include "compare.hpp"
#include "plot.hpp"
#include "quantize.hpp"
#include "score.hpp"
#include "tensor_read.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

namespace compare {
namespace {
using namespace tool;

constexpr char other_tensors[][8] = {"test.", "grad.", "trace.", "golden.", "final.", "state."};

bool begins(const std::string& text, const char* with) { return text.compare(0, std::strlen(with), with) == 0; }
bool ends(const std::string& text, const std::string& with) {
    return text.size() >= with.size() && text.compare(text.size() - with.size(), with.size(), with) == 0;
}
double ratio_db(double signal, double noise) {
    return noise > 0 ? 10 * std::log10(signal / noise) : std::numeric_limits<double>::infinity();
}

// Names of the tensors that belong to the model.
std::vector<std::string> names_of(const ssm::Index& index) {
    std::vector<std::string> all;
    for (int32_t i = 0; i < index.n_entries; ++i) {
        const ssm::Entry& e = index.entries[i];
        std::string       name = unescape(e.name, size_t(e.name_len));
        bool              other = e.value != nullptr;
        for (const char* with : other_tensors) other |= begins(name, with);
        if (!other) all.push_back(std::move(name));
    }
    return all;
}
bool numbers(const ssm::Index& index, const std::string& name, std::vector<double>* v) {
    const ssm::Entry* e = ssm::find_tensor(index, name.c_str());
    return e != nullptr && read_numbers(index, *e, v);
}
// Shape as rows and columns: the first dimension, and all others together.
Values shaped(const std::vector<int64_t>& dims, std::vector<double> v) {
    Values t;
    t.rows = dims.size() > 1 ? dims[0] : 1;
    t.cols = t.rows > 0 ? int64_t(v.size()) / t.rows : 0;
    t.v = std::move(v);
    return t;
}

// Fraction bits of the numbers of an I32 or I64 tensor.
int fraction_bits(const ssm::Index& index, const std::string& name) {
    const auto given = [&](const char* key) { // metadata
        const ssm::Entry* e = ssm::find_metadata(index, key);
        uint64_t          f = 0;
        return e != nullptr && ssm::json::to_uint({ssm::json::Kind::string, e->value, size_t(e->value_len)}, &f) &&
                       f < 64
                   ? static_cast<int>(f)
                   : 0;
    };
    const std::pair<const char*, int> table[] = {
        {".kernel.a", 30},     {".kernel.b", given("b_frac")}, {".kernel.rho", 26},   {".kernel.g", given("g_frac")},
        {".kernel.phase", 32}, {"frontend.poles", 31}, {".mixer.dt_bias", 26},         {".mixer.B_bias", 20}, {".mixer.C_bias", 20},
        {".mixer.A", 24}};
    for (const auto& t : table)
        if (ends(name, t.first)) return t.second;
    return 16;
}

// A projection of int4 rows, then int8 rows. Its columns are known from int8 rows or the caller.
bool projection(const ssm::Index& index, const std::string& name, Values* out) {
    std::vector<double> scale, q8, q4, sub;
    if (!numbers(index, name + ".scale", &scale)) return false;
    const bool has8 = numbers(index, name + ".q8", &q8),
               has4 = numbers(index, name + ".q4", &q4) && numbers(index, name + ".sub", &sub);
    const auto dims8 = has8 ? shape_of(*ssm::find_tensor(index, (name + ".q8").c_str())) : std::vector<int64_t>();
    const auto dims4 = has4 ? shape_of(*ssm::find_tensor(index, (name + ".q4").c_str())) : std::vector<int64_t>();
    if ((!has8 && !has4) || (has8 && dims8.size() != 2) || (has4 && dims4.size() != 2)) return false;
    const int64_t rows4 = has4 ? dims4[0] : 0, padded = has4 ? 2 * dims4[1] : 0, rows8 = has8 ? dims8[0] : 0;
    const int64_t cols = has8 ? dims8[1] : padded;
    if (int64_t(scale.size()) != rows4 + rows8 || int64_t(sub.size()) * 32 != rows4 * padded || cols < 1 ||
        (has4 && cols > padded))
        return false;
    for (int64_t o = 0; o < rows4; ++o)
        for (int64_t k = 0; k < cols; ++k) { // element j of a group in the low half of byte j, j + 16 in the high half
            const auto byte = static_cast<int>(q4[size_t(o * padded / 2 + k / 32 * 16 + k % 16)]);
            const int  half = k % 32 < 16 ? byte & 15 : byte >> 4, code = half < 8 ? half : half - 16;
            out->v.push_back(code * (scale[size_t(o)] * sub[size_t(o * padded / 32 + k / 32)]));
        }
    for (int64_t o = 0; o < rows8; ++o)
        for (int64_t k = 0; k < cols; ++k) out->v.push_back(q8[size_t(o * cols + k)] * scale[size_t(rows4 + o)]);
    out->rows = rows4 + rows8, out->cols = cols;
    return true;
}
} // namespace

bool is_integer_model(const ssm::Index& index) {
    const ssm::Entry* e = ssm::find_metadata(index, "format");
    return e != nullptr && unescape(e->value, size_t(e->value_len)) == "ssm-int";
}

Table integer_values(const ssm::Index& index) {
    Table table;
    for (const std::string& name : names_of(index)) {
        std::vector<double> v;
        if (ends(name, ".q8") || ends(name, ".q4")) {
            const std::string base = name.substr(0, name.size() - 3);
            Values            t;
            if (table.count(base + ".weight") == 0 && projection(index, base, &t))
                table[base + ".weight"] = std::move(t);
        } else if (!ends(name, ".scale") && !ends(name, ".sub") && numbers(index, name, &v)) {
            const auto          dims = shape_of(*ssm::find_tensor(index, name.c_str()));
            std::vector<double> scale;
            if (numbers(index, name + ".scale", &scale)) // C of S4D: a scale a channel
                for (size_t i = 0; i < v.size(); ++i) v[i] *= scale[i / (v.size() / scale.size())];
            else
                for (double& x : v) x = std::ldexp(x, -fraction_bits(index, name));
            table[name] = shaped(dims, std::move(v));
        }
    }
    return table;
}

int float_values(const ssm::Index& index, ssm::Blob file, bool beside_integers, Table* out, std::string* error) {
    if (beside_integers) {
        quantize::Settings settings;
        quantize::Model    model;
        settings.values = true;
        const int status = quantize::make(file, settings, &model, error);
        for (quantize::Line& l : model.lines) {
            if (ends(l.name, ".q8")) l.name = l.name.substr(0, l.name.size() - 3) + ".weight";
            (*out)[l.name] = {l.rows, l.cols, std::move(l.values)};
        }
        return status;
    }
    for (const std::string& name : names_of(index)) {
        std::vector<double> v;
        std::string         to = begins(name, "backbone.") ? name.substr(9) : name;
        if (to == "embeddings.weight") to = "embedding.weight";
        if (to == "lm_head.weight") to = "head.weight";
        if (numbers(index, name, &v))
            (*out)[to] = shaped(shape_of(*ssm::find_tensor(index, name.c_str())), std::move(v));
    }
    return done;
}

// ---- Outputs

void Drift::add(const float* a, const float* b) {
    size_t best_a = 0, best_b = 0;
    for (size_t i = 0; i < d_output_; ++i) {
        const double want = static_cast<double>(a[i]), miss = static_cast<double>(b[i]) - want;
        window_signal_ += want * want, window_noise_ += miss * miss;
        signal_ += want * want, noise_ += miss * miss;
        largest_ = std::max(largest_, std::fabs(miss));
        if (a[i] > a[best_a]) best_a = i;
        if (b[i] > b[best_b]) best_b = i;
    }
    agree_ += best_a == best_b;
    ++steps_;
    if (steps_ == next_point_) {
        curve_.push_back(row());
        next_point_ = std::max(steps_ + 1, steps_ * 11 / 10);
    }
    if (steps_ != next_row_) return;
    end();
    next_row_ *= 10;
}
Drift::Row Drift::row() const {
    const auto steps = static_cast<double>(steps_);
    return {steps_, ratio_db(signal_, noise_), ratio_db(window_signal_, window_noise_), largest_,
            static_cast<double>(agree_) / steps};
}
void Drift::end() {
    if (steps_ == 0 || (!table_.empty() && table_.back().steps == steps_)) return;
    table_.push_back(row());
    if (curve_.back().steps != steps_) curve_.push_back(row());
    window_signal_ = window_noise_ = 0;
}

// ---- The verb

namespace {
const char help[] =
    "usage: ssm compare A B [--steps N] [--seed S] [--plot FILE.svg] [--isa NAME] [< records]\n"
    "\n"
    "What model B differs in from model A; either may be a float or an integer model. First a line a tensor: the "
    "ratio\n"
    "of A's numbers to the difference in dB, the largest difference and its index. Of an integer model the numbers "
    "are\n"
    "those that its codes stand for. Then the outputs of both over the same events, at 1, 10, 100, ... steps: the\n"
    "ratio for all steps so far and for those since the line before, the largest difference, and how often the\n"
    "largest output is the same one.\n"
    "\n"
    "Events are the records of ssm score on standard input; with --steps or --seed, or from a terminal, made up:\n"
    "numbers between -1 and 1, or any tokens.\n"
    "\n"
    "  --steps N        events to make up (default 10000)\n"
    "  --seed S         of what is made up (default 1)\n"
    "  --plot FILE.svg  a plot of the drift over the logarithm of the steps\n"
    "  --isa NAME       this back-end only\n";

std::string format(const char* form, double v) {
    char text[40];
    if (std::isnan(v)) return "-";
    if (std::isinf(v)) return "same";
    std::snprintf(text, sizeof text, form, v);
    return text;
}
// Columns of text: the first to the left, the others to the right, as wide as they must be.
void write_table(const std::vector<std::vector<std::string>>& rows, Output* out) {
    std::vector<size_t> wide;
    for (const auto& r : rows) {
        wide.resize(std::max(wide.size(), r.size()), 0);
        for (size_t k = 0; k < r.size(); ++k) wide[k] = std::max(wide[k], r[k].size());
    }
    for (const auto& r : rows) {
        std::string line;
        for (size_t k = 0; k < r.size(); ++k) {
            const std::string blanks(wide[k] - r[k].size(), ' ');
            line += k == 0 ? r[k] + (r.size() > 1 ? blanks : "") : "  " + blanks + r[k];
        }
        out->write(line + "\n");
    }
}

void write_tensors(const Table& a, const Table& b, Output* out) {
    std::vector<std::vector<std::string>> rows = {{"tensor", "rows x cols", "SQNR dB", "largest", "at"}};
    const auto size = [](const Values& t) { return std::to_string(t.rows) + " x " + std::to_string(t.cols); };
    for (const auto& entry : a) {
        const auto    other = b.find(entry.first);
        const Values& x = entry.second;
        const auto    name = escape(entry.first, 160);
        if (other == b.end()) {
            rows.push_back({name, size(x), "only in A"});
            continue;
        }
        // int4 rows alone know their columns only up to padding, which is zero.
        Values y = other->second;
        if (y.rows == x.rows && y.cols > x.cols && y.cols == (x.cols + 31) / 32 * 32) {
            Values cut{x.rows, x.cols, {}};
            for (int64_t o = 0; o < x.rows; ++o)
                cut.v.insert(cut.v.end(), y.v.begin() + o * y.cols, y.v.begin() + o * y.cols + x.cols);
            y = std::move(cut);
        }
        if (x.v.size() != y.v.size() || x.rows != y.rows) {
            rows.push_back({name, size(x), "is " + size(y) + " in B"});
            continue;
        }
        double signal = 0, noise = 0, largest = 0;
        size_t at = 0;
        for (size_t i = 0; i < x.v.size(); ++i) {
            const double miss = std::fabs(y.v[i] - x.v[i]);
            signal += x.v[i] * x.v[i], noise += miss * miss;
            if (miss > largest) largest = miss, at = i;
        }
        rows.push_back({name, size(x), format("%.1f", ratio_db(signal, noise)), format("%.3g", largest),
                        largest > 0 ? std::to_string(at) : "-"});
    }
    for (const auto& entry : b)
        if (a.count(entry.first) == 0) rows.push_back({escape(entry.first, 160), size(entry.second), "only in B"});
    write_table(rows, out);
}

void write_drift(const Drift& drift, bool argmax, Output* out) {
    std::vector<std::vector<std::string>> rows = {{"steps", "SQNR dB", "since", "largest", "same argmax"}};
    for (const Drift::Row& r : drift.table())
        rows.push_back({std::to_string(r.steps), format("%.1f", r.sqnr_db), format("%.1f", r.window_db),
                        format("%.3g", r.largest), argmax ? format("%.3f %%", 100 * r.agree) : "-"});
    write_table(rows, out);
}
std::string drift_plot(const Drift& drift, bool argmax) {
    Curve db{"SQNR of the outputs so far, dB", "#1565c0", true, {}, {}};
    Curve same{"same argmax, %", "#c62828", false, {}, {}};
    for (const Drift::Row& r : drift.curve()) {
        const double x = std::log10(static_cast<double>(r.steps));
        if (std::isfinite(r.sqnr_db)) db.x.push_back(x), db.y.push_back(r.sqnr_db);
        if (argmax) same.x.push_back(x), same.y.push_back(100 * r.agree);
    }
    const double most = std::log10(static_cast<double>(std::max<uint64_t>(drift.steps(), 10)));
    return plot({db, same}, most, std::to_string(drift.steps()) + " steps, logarithmic");
}

// One of the two models with all it runs on.
struct Runner : OpenModel {
    ssm::State   state;
    ssm::Scratch scratch;
    int          open(const char* path, ssm::Isa isa) {
                 const int status = open_model("compare", path, isa, 1, batch, this);
                 if (status != done) return status;
        if (ssm::make_state(&state, model, &arena) != ssm::Status::ok ||
            ssm::make_scratch(&scratch, model, batch, &arena) != ssm::Status::ok)
            return fail(bad_file, "compare", quoted_path(path) + ": the memory for it is too small");
        return done;
    }
    static constexpr int32_t batch = 1;
};

// Both models over made-up events.
int run_random(Runner* a, Runner* b, int64_t steps, int64_t seed, Drift* drift) {
    const bool         tokens = a->config.input == ssm::Input::tokens;
    std::vector<float> x(size_t(a->config.d_input)), other(x.size());
    std::vector<float> y(size_t(a->config.d_output)), z(y.size());
    uint64_t           state = static_cast<uint64_t>(seed) * 0x9e3779b97f4a7c15u + 1;
    const auto         next = [&] { // 24 bits
        state = state * 6364136223846793005u + 1442695040888963407u;
        return static_cast<uint32_t>(state >> 40);
    };
    for (int64_t t = 0; t < steps && !stopped(); ++t) {
        if (tokens) {
            const auto id = static_cast<int32_t>(next() % uint32_t(a->config.vocab_size));
            if (ssm::embed(a->model, id, x.data()) != ssm::Status::ok ||
                ssm::embed(b->model, id, other.data()) != ssm::Status::ok)
                return fail(bad_file, "compare", "a token is refused");
        } else {
            for (float& v : x) v = static_cast<float>(next()) / 8388608.0f - 1.0f;
            other = x;
        }
        ssm::Status s = ssm::step(a->model, &a->state, &a->scratch, x.data(), y.data());
        if (s == ssm::Status::ok) s = ssm::step(b->model, &b->state, &b->scratch, other.data(), z.data());
        if (s != ssm::Status::ok) return fail(bad_file, "compare", std::string("an event: ") + ssm::message(s));
        drift->add(y.data(), z.data());
    }
    return done;
}

constexpr char error_key[] = "\"error\":\"";

// Both models over the records of standard input. A record that either refuses advances neither.
int run_records(Runner* a, Runner* b, Drift* drift) {
    Output             answers_a(-1), answers_b(-1), err(2), none(-1);
    Scorer             first(a->model, &a->state, &a->scratch, &answers_a, &err, "compare");
    Scorer             second(b->model, &b->state, &b->scratch, &answers_b, &none, "compare");
    LineReader         reader(0, &answers_a, &err);
    std::vector<float> y;
    bool               all_good = true;
    first.see = [&](const float* v) { y.assign(v, v + a->config.d_output); };
    second.see = [&](const float* v) {
        if (!y.empty()) drift->add(y.data(), v);
    };
    for (;;) {
        std::string_view line;
        const auto       result = reader.next(&line);
        if (result == LineReader::Result::error) {
            err.flush();
            return fail(io_error, "compare", "standard input: " + system_error(reader.error()));
        }
        if (result == LineReader::Result::end || result == LineReader::Result::stopped) break;
        y.clear();
        bool good = false;
        if (result == LineReader::Result::too_long) first.too_long(line, reader.number());
        else good = first.line(line, reader.number()) && second.line(line, reader.number());
        const std::string& answer = answers_a.memory();
        const size_t       what = good ? answer.npos : answer.find(error_key); // of a JSON record
        if (what != answer.npos)
            err.write(
                "ssm compare: " +
                unescape(&answer[what + sizeof error_key - 1], answer.rfind('"') - (what + sizeof error_key - 1)) +
                "\n");
        all_good &= good;
        for (Output* out : {&answers_a, &answers_b, &none}) out->memory().clear();
    }
    err.flush();
    return all_good ? done : some_failed;
}
} // namespace
} // namespace compare

int verb_compare(int argc, char** argv) {
    using namespace compare;
    int64_t     steps = 0, seed = -1;
    const char* plot_path = nullptr;
    ssm::Isa    isa = ssm::Isa::best;
    Options     options("compare", help);
    options.integer("--steps", &steps, 1, 1000000000).integer("--seed", &seed, 0, INT64_MAX / 2);
    options.text("--plot", &plot_path).isa(&isa);
    int status = options.read(argc, argv, 2, 2);
    if (status != go_on) return status;
    const char *path_a = options.operands[0], *path_b = options.operands[1];
    Runner      a, b;
    if ((status = a.open(path_a, isa)) != done || (status = b.open(path_b, isa)) != done) return status;
    const ssm::Config &c = a.config, &d = b.config;
    const bool         tokens = c.input == ssm::Input::tokens;
    if (c.d_output != d.d_output || tokens != (d.input == ssm::Input::tokens) ||
        (tokens ? c.vocab_size != d.vocab_size : c.d_input != d.d_input)) {
        const auto what = [&](const ssm::Config& m) {
            return (m.input == ssm::Input::tokens
                        ? "tokens of " + std::to_string(m.vocab_size)
                        : std::to_string(m.d_input) + (m.d_input == 1 ? " number" : " numbers")) +
                   " in, " + std::to_string(m.d_output) + " out";
        };
        return fail(bad_usage, "compare", quoted_path(path_b) + ": " + what(d) + ", expected as in A: " + what(c));
    }

    // 1. Tensors.
    Table       tables[2];
    std::string error;
    Runner*     models[] = {&a, &b};
    const bool  integer[] = {is_integer_model(a.index), is_integer_model(b.index)};
    for (int i = 0; i < 2; ++i) {
        if (integer[i]) tables[i] = integer_values(models[i]->index);
        else if (status = float_values(models[i]->index, models[i]->blob, integer[1 - i], &tables[i], &error);
                 status != done)
            return fail(status, "compare", quoted_path(i == 0 ? path_a : path_b) + ": " + error);
    }
    Output out(1);
    write_tensors(tables[0], tables[1], &out);

    // 2. Outputs.
    if (!catch_signals()) return fail(io_error, "compare", "cannot catch signals: " + system_error(errno));
    Drift drift(size_t(c.d_output));
    if (steps > 0 || seed >= 0 || terminal(0))
        status = run_random(&a, &b, steps > 0 ? steps : 10000, seed >= 0 ? seed : 1, &drift);
    else status = run_records(&a, &b, &drift);
    if (status != done && status != some_failed) return status;
    drift.end();
    const bool argmax = c.d_output > 1;
    out.write("\n");
    if (drift.steps() > 0) write_drift(drift, argmax, &out);
    else out.write("no events on standard input; --steps N makes some up\n");
    for (int i = 0; i < 2; ++i)
        out.write(std::string(i == 0 ? "A" : "B") + ": the limit of the state " +
                  (ssm::clipped(models[i]->model, models[i]->state) ? "was met\n" : "was never met\n"));
    const int written = finish("compare", &out);
    if (written != done) return written;
    if (plot_path == nullptr) return status;
    const int saved = save_file("compare", plot_path, drift_plot(drift, argmax));
    return saved != done ? saved : status;
}
