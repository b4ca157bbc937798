// quantize.cpp - `ssm quantize`: a float model becomes one that runs on integers alone.
// SPDX-License-Identifier: MIT
//
// Everything is done in double, in the order written and without fused operations, so that a model and its settings
// give the same file wherever exp, sin and cos are correctly rounded or nearly so. round() is to nearest, ties to even.
// "Qf" is an integer with f fraction bits.
#include "quantize.hpp"
#include "tensor_read.hpp"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <set>

#include <sys/stat.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

namespace quantize {
namespace {
using tool::bad_file;
using tool::bad_usage;
using tool::done;
using tool::quoted;
using tool::read_numbers;

constexpr int64_t max_columns = 16384; // of a projection, and numbers under a norm
constexpr double  largest = 2147483647.0, tiny = 0x1p-100;
constexpr float   scale_of_nothing = 0x1p-7f; // of rows that are zero

double round_even(double x) { return std::nearbyint(x); }
double limit(double x, double low, double high) { return std::min(std::max(x, low), high); }
double ratio_db(double signal, double noise) {
    return noise > 0 ? 10 * std::log10(signal / noise) : std::numeric_limits<double>::infinity();
}
template <class T> void put(std::string* to, T v) { // little-endian hosts
    char bytes[sizeof v];
    std::memcpy(bytes, &v, sizeof v);
    to->append(bytes, sizeof v);
}
std::string number(double v) {
    char text[32];
    std::snprintf(text, sizeof text, "%.9g", v);
    return text;
}

// Whether `text` is a name or its last parts.
bool is_called(const std::string& name, const std::string& text) {
    const size_t n = name.size(), t = text.size();
    return t > 0 && n >= t && name.compare(n - t, t, text) == 0 && (n == t || name[n - t - 1] == '.');
}

// Signal and noise of a tensor and its rows, in the order of the data.
class Loss {
  public:
    explicit Loss(bool keep_values) : keep_(keep_values) {}
    void add(double value, double stands_for) {
        if (keep_) values_.push_back(value);
        signal_ += value * value, row_signal_ += value * value;
        noise_ += (value - stands_for) * (value - stands_for),
            row_noise_ += (value - stands_for) * (value - stands_for);
    }
    void end_row(int64_t row) {
        const double db = ratio_db(row_signal_, row_noise_);
        if (first_ || db < worst_db_) worst_db_ = db, worst_row_ = row, first_ = false;
        row_signal_ = row_noise_ = 0;
    }
    void write(Line* to) const {
        to->sqnr_db = ratio_db(signal_, noise_), to->worst_db = worst_db_, to->worst_row = worst_row_,
        to->values = values_;
    }

  private:
    double  signal_ = 0, noise_ = 0, row_signal_ = 0, row_noise_ = 0, worst_db_ = 0;
    int64_t worst_row_ = 0;
    bool    first_ = true, keep_;

    std::vector<double> values_;
};

class Maker {
  public:
    Maker(const ssm::Index& index, const ssm::Config& config, const Settings& settings, Model* out, std::string* error)
        : index_(index), c_(config), settings_(settings), out_(out), error_(error) {}
    int run();

  private:
    using Shape = std::vector<int64_t>;
    const ssm::Entry*   find(const std::string& name) const;
    std::vector<double> numbers(const std::string& name);
    bool                has(const std::string& name) const { return find(name) != nullptr; }
    bool                refuse(const std::string& name, const std::string& what) {
                       if (status_ == done) *error_ = "tensor " + quoted(name) + ": " + what, status_ = bad_file;
        return false;
    }
    void        store(const std::string& name, const char* dtype, Shape shape, std::string data);
    void        report(const std::string& name, const std::string& from, const char* to, int64_t rows, int64_t cols,
                       size_t bytes, const Loss& loss);
    std::string dtype_of(const std::string& name) const {
        const ssm::Entry* e = find(name);
        return e == nullptr ? "" : ssm::dtype_name(e->dtype);
    }

    void fixed(const std::string& name, const std::string& from, const std::vector<double>& v, Shape shape, int f);
    void fixed(const std::string& name, int f) {
        const ssm::Entry* e = find(name);
        if (e != nullptr) fixed(name, name, numbers(name), tool::shape_of(*e), f);
    }
    void    as_they_are(const std::string& name);
    void    dt_bias(const std::string& name, const std::string& from);
    void    decay_rates(const std::string& mixer);
    void    projection(const std::string& name, int64_t rows, int64_t cols, int64_t rows4);
    void    bias(const std::string& name, int64_t rows);
    int64_t int4_rows(const std::string& name, int64_t rows, int64_t tail = 0); // tail: rows that stay int8
    void    norm(const std::string& name);

    struct Modes { // of one S4D layer: a, b and B / A [H][n][re im]; rho and turns [H][n]
        std::vector<double> a, b, g, rho, turns;
    };
    Modes       discretize(const std::string& layer);
    void        fractions(const std::vector<Modes>& all);
    void        kernel(const std::string& layer, const Modes& m);
    std::string s4d_name(const std::string& layer, const char* name) const;
    void        s4d();
    void        mamba_layer(const std::string& layer);
    void        mamba();
    bool        same_as_embedding() const;
    void        check_keep();
    void        say(const char* key, const std::string& value) { out_->metadata[key] = value; }
    void        say(const char* key, const char* value) { out_->metadata[key] = value; }
    void        say(const char* key, bool value) { out_->metadata[key] = value ? "true" : "false"; }
    void        say(const char* key, int64_t value) { out_->metadata[key] = std::to_string(value); }
    void        common_metadata();

    const ssm::Index&     index_;
    const ssm::Config&    c_;
    const Settings&       settings_;
    Model*                out_;
    std::string*          error_;
    int                   status_ = done;
    int                   b_frac_ = 31, g_frac_ = 29;
    bool                  gaps_ = false;
    std::set<std::string> packable_; // projections that int4 applies to
};

// ---- Tensors in

// By the name it has in the integer file; float files have it behind "backbone." or spell it otherwise.
const ssm::Entry* Maker::find(const std::string& name) const {
    static const char* const embeddings[] = {"embedding.weight", "embeddings.weight", "backbone.embedding.weight",
                                             "backbone.embeddings.weight"};
    const ssm::Entry*        e = ssm::find_tensor(index_, name.c_str());
    if (e == nullptr) e = ssm::find_tensor(index_, ("backbone." + name).c_str());
    for (const char* other : embeddings)
        if (e == nullptr && name == embeddings[0]) e = ssm::find_tensor(index_, other);
    if (e == nullptr && name == "head.weight") e = ssm::find_tensor(index_, "lm_head.weight");
    return e;
}
std::vector<double> Maker::numbers(const std::string& name) {
    std::vector<double> v;
    const ssm::Entry*   e = find(name);
    if (e == nullptr || !read_numbers(index_, *e, &v)) refuse(name, "missing, expected numbers"); // load() found it
    return v;
}

// ---- Tensors out

void Maker::store(const std::string& name, const char* dtype, Shape shape, std::string data) {
    out_->bytes_after += data.size();
    out_->tensors.push_back({name, dtype, std::move(shape), std::move(data)});
}
void Maker::report(const std::string& name, const std::string& from, const char* to, int64_t rows, int64_t cols,
                   size_t bytes, const Loss& loss) {
    Line line;
    line.name = name, line.from = from, line.to = to, line.rows = rows, line.cols = cols, line.bytes = bytes;
    loss.write(&line);
    out_->lines.push_back(line);
}

// Numbers as I32 with f fraction bits.
void Maker::fixed(const std::string& name, const std::string& from, const std::vector<double>& v, Shape shape, int f) {
    const double one = std::ldexp(1.0, f);
    std::string  data;
    Loss         loss(settings_.values);
    const auto   cols = shape.size() > 1 && shape[0] > 0 ? v.size() / static_cast<size_t>(shape[0]) : v.size();
    for (size_t i = 0; i < v.size(); ++i) {
        const double code = round_even(v[i] * one);
        if (!(std::fabs(code) <= largest)) {
            refuse(from, "index " + std::to_string(i) + " gives " + number(v[i]) + ", expected below " +
                             number(std::ldexp(1.0, 31 - f)) + " in magnitude, the range of Q" + std::to_string(f));
            return;
        }
        put(&data, static_cast<int32_t>(code));
        loss.add(v[i], code / one);
        if ((i + 1) % cols == 0) loss.end_row(int64_t(i / cols));
    }
    report(name, dtype_of(from), "I32", int64_t(v.size() / cols), int64_t(cols), data.size(), loss);
    store(name, "I32", std::move(shape), std::move(data));
}

// A tensor of integers, byte for byte.
void Maker::as_they_are(const std::string& name) {
    const ssm::Entry* e = find(name);
    if (e == nullptr) return; // load() found it
    const auto   shape = tool::shape_of(*e);
    const auto   v = numbers(name);
    const int    f = name == "frontend.poles" ? 31 : 16;
    const auto   cols = shape.size() > 1 ? shape.back() : int64_t(v.size());
    Loss         loss(settings_.values);
    for (size_t i = 0; i < v.size(); ++i) {
        loss.add(std::ldexp(v[i], -f), std::ldexp(v[i], -f));
        if (int64_t(i + 1) % cols == 0) loss.end_row(int64_t(i) / cols);
    }
    report(name, dtype_of(name), ssm::dtype_name(e->dtype), int64_t(v.size()) / cols, cols, v.size() * 4, loss);
    store(name, ssm::dtype_name(e->dtype), tool::shape_of(*e),
          std::string(reinterpret_cast<const char*>(index_.data + e->begin), size_t(e->end - e->begin)));
}

void Maker::dt_bias(const std::string& name, const std::string& from) {
    std::vector<double> v = numbers(from);
    for (double& x : v) x = limit(x, -22.0, 22.0); // softplus is cut there
    const auto n = int64_t(v.size());
    fixed(name, from, v, {n}, 26);
}

// A = exp(A_log), which must not vanish.
void Maker::decay_rates(const std::string& mixer) {
    const std::string   from = mixer + "A_log";
    std::vector<double> v = numbers(from);
    for (size_t i = 0; i < v.size() && status_ == done; ++i) {
        v[i] = std::exp(v[i]);
        if (round_even(v[i] * 0x1p24) < 1)
            refuse(from, "index " + std::to_string(i) + " makes a decay rate of " + number(v[i]) +
                             ", expected at least " + number(0x1p-24) + ", the smallest of Q24");
    }
    if (status_ == done) fixed(mixer + "A", from, v, tool::shape_of(*find(from)), 24);
}

} // namespace

// ---- Rows of projections

float int8_row(const double* w, size_t n, int8_t* codes) {
    double most = 0;
    for (size_t k = 0; k < n; ++k) most = std::max(most, std::fabs(w[k]));
    const bool   nothing = most < tiny;
    const float  scale = nothing ? scale_of_nothing : static_cast<float>(most / 127);
    const double s = static_cast<double>(scale);
    for (size_t k = 0; k < n; ++k)
        codes[k] = nothing ? int8_t(0) : static_cast<int8_t>(limit(round_even(w[k] / s), -127, 127));
    return scale;
}

float int4_row(const double* w, size_t n, int8_t* codes, int8_t* subs) {
    const size_t        groups = n / 32;
    std::vector<double> peak(groups, 0.0); // the first element of largest magnitude
    double              most = 0;
    for (size_t g = 0; g < groups; ++g) {
        for (size_t k = 32 * g; k < 32 * g + 32; ++k)
            if (std::fabs(w[k]) > std::fabs(peak[g])) peak[g] = w[k];
        most = std::max(most, std::fabs(peak[g]) / 8);
    }
    const float  scale = most < tiny ? scale_of_nothing : static_cast<float>(most / 127);
    const double s = static_cast<double>(scale);
    for (size_t g = 0; g < groups; ++g) {
        double best = std::numeric_limits<double>::infinity();
        for (double d : {6.2, 6.6, 7.0, 7.3, 7.6, 8.0, 8.4})
            for (double sign : {-1.0, 1.0}) {
                double sub = limit(round_even(sign * peak[g] / d / s), -127, 127), err = 0;
                int8_t trial[32];
                if (sub == 0) sub = 1;
                const double step = s * sub;
                for (size_t k = 0; k < 32; ++k) {
                    const double v = w[32 * g + k], code = limit(round_even(v / step), -8, 7);
                    trial[k] = static_cast<int8_t>(code);
                    err += (code * step - v) * (code * step - v);
                }
                if (!(err < best)) continue;
                best = err, subs[g] = static_cast<int8_t>(sub);
                std::copy(trial, trial + 32, codes + 32 * g);
            }
    }
    return scale;
}

namespace {

// The first rows4 rows as int4, the others as int8. Rows of the float tensor past `rows` pad it and are left out.
void Maker::projection(const std::string& name, int64_t rows, int64_t cols, int64_t rows4) {
    const std::string from = name + ".weight";
    const auto        w = numbers(from);
    if (status_ != done) return;
    if (cols > max_columns) {
        refuse(from, std::to_string(cols) + " columns, expected at most " + std::to_string(max_columns));
        return;
    }
    const auto          K = static_cast<size_t>(cols), Kp = (K + 31) / 32 * 32;
    std::string         scales, q8, q4, subs;
    std::vector<double> row(Kp, 0.0);
    std::vector<int8_t> codes(Kp), sub(Kp / 32);
    Loss                loss4(settings_.values), loss8(settings_.values);
    for (int64_t o = 0; o < rows; ++o) {
        const bool four = o < rows4;
        std::copy_n(w.begin() + o * cols, K, row.begin());
        const float scale =
            four ? int4_row(row.data(), Kp, codes.data(), sub.data()) : int8_row(row.data(), K, codes.data());
        const double s = static_cast<double>(scale);
        if (!(scale < 1.0f)) {
            refuse(from, "row " + std::to_string(o) + " reaches a scale of " + number(s) + ", expected below 1");
            return;
        }
        put(&scales, scale);
        for (size_t k = 0; k < K; ++k) (four ? loss4 : loss8).add(row[k], codes[k] * (four ? s * sub[k / 32] : s));
        (four ? loss4 : loss8).end_row(o);
        if (!four) q8.append(reinterpret_cast<const char*>(codes.data()), K);
        else // element j of a group in the low half of byte j, element j + 16 in the high half
            for (size_t g = 0; g < Kp / 32; ++g) {
                put(&subs, sub[g]);
                for (size_t j = 32 * g; j < 32 * g + 16; ++j)
                    put(&q4, static_cast<uint8_t>((codes[j] & 15) | (codes[j + 16] & 15) << 4));
            }
    }
    const auto    dtype = dtype_of(from);
    const int64_t rows8 = rows - rows4, groups = int64_t(Kp / 32);
    if (rows4 > 0) {
        report(name + ".q4", dtype, "I4", rows4, cols, q4.size() + subs.size() + size_t(rows4) * 4, loss4);
        store(name + ".q4", "U8", {rows4, groups * 16}, std::move(q4));
        store(name + ".sub", "I8", {rows4, groups}, std::move(subs));
    }
    if (rows8 > 0) {
        report(name + ".q8", dtype, "I8", rows8, cols, q8.size() + size_t(rows8) * 4, loss8);
        store(name + ".q8", "I8", {rows8, cols}, std::move(q8));
    }
    store(name + ".scale", "F32", {rows}, std::move(scales));
    bias(name, rows);
}
void Maker::bias(const std::string& name, int64_t rows) {
    const std::string from = name + ".bias";
    if (!has(from) || is_called(name, "dt_proj")) return; // that of dt_proj becomes dt_bias
    std::vector<double> v = numbers(from);
    v.resize(size_t(rows));
    fixed(from, from, v, {rows}, 16);
}

// How many rows of a projection inside a layer become int4.
int64_t Maker::int4_rows(const std::string& name, int64_t rows, int64_t tail) {
    packable_.insert(name);
    if (!settings_.int4) return 0;
    for (const std::string& k : settings_.keep)
        if (is_called(name, k)) return 0;
    return rows - tail;
}

void Maker::norm(const std::string& name) { fixed(name + ".weight", 16), fixed(name + ".bias", 16); }

// ---- S4D

// The tensors of a layer in either spelling.
std::string Maker::s4d_name(const std::string& layer, const char* name) const {
    const bool full = has(layer + "layer.D");
    const auto is = [&](const char* other) { return std::strcmp(name, other) == 0; };
    if (!full) return layer + (is("D") ? "" : "kernel.") + name;
    return layer + (is("D") ? "layer." : "layer.kernel.") +
           (is("log_dt")       ? "inv_dt"
            : is("log_A_real") ? "A_real"
                               : name);
}

Maker::Modes Maker::discretize(const std::string& layer) {
    const auto H = static_cast<size_t>(c_.d_model), n = static_cast<size_t>(c_.d_state / 2);
    const bool full = has(layer + "layer.D");
    const auto log_dt = numbers(s4d_name(layer, "log_dt")), log_A = numbers(s4d_name(layer, "log_A_real")),
               A_imag = numbers(s4d_name(layer, "A_imag"));
    const auto B = full ? numbers(s4d_name(layer, "B")) : std::vector<double>();
    const auto sets = log_A.size() / n, dts = log_dt.size() / H; // channel h uses set h % sets of A and B
    Modes      m;
    for (size_t h = 0; h < H; ++h)
        for (size_t j = 0; j < n; ++j) {
            const size_t from = h % sets * n + j;
            const double dt = std::exp(log_dt[dts == 1 ? h : h * n + j]);
            const double Ar = -std::exp(log_A[from]), Ai = full ? -A_imag[from] : A_imag[from];
            const double Br = full ? B[2 * from] : 1.0, Bi = full ? B[2 * from + 1] : 0.0;
            const double x = dt * Ar, y = dt * Ai;
            double       ar, ai, br, bi, gr = 0, gi = 0;
            if (c_.disc == ssm::Disc::zoh) {
                const double q = Ar * Ar + Ai * Ai, half = std::sin(y / 2);
                const double dr = std::expm1(x) * std::cos(y) - 2 * half * half, di = std::exp(x) * std::sin(y);
                ar = std::exp(x) * std::cos(y), ai = di; // a, and a - 1 without cancellation
                gr = (Br * Ar + Bi * Ai) / q, gi = (Bi * Ar - Br * Ai) / q;
                br = gr * dr - gi * di, bi = gr * di + gi * dr;
            } else { // (1 + z/2) / (1 - z/2), B dt / (1 - z/2)
                const double wr = x / 2, wi = y / 2, q = (1 - wr) * (1 - wr) + wi * wi;
                ar = (1 - wr * wr - wi * wi) / q, ai = 2 * wi / q;
                br = dt * (Br * (1 - wr) - Bi * wi) / q, bi = dt * (Br * wi + Bi * (1 - wr)) / q;
            }
            m.a.push_back(ar), m.a.push_back(ai), m.b.push_back(br), m.b.push_back(bi);
            m.g.push_back(gr), m.g.push_back(gi);
            m.rho.push_back(-x), m.turns.push_back(y / 6.283185307179586477);
        }
    return m;
}

// The largest f, from `most` down, with which every part fits 32 bits.
int largest_fraction(double part, int most) {
    int f = most;
    while (f > -1100 && !(round_even(std::ldexp(part, f)) <= largest)) --f;
    return f;
}
void Maker::fractions(const std::vector<Modes>& all) {
    double b = 0, g = 0;
    for (const Modes& m : all) {
        for (double v : m.b) b = std::max(b, std::fabs(v));
        for (double v : m.g) g = std::max(g, std::fabs(v));
        // Over a longer gap b = g (a - 1) grows: to |g|, or where the mode turns to what half a turn leaves.
        for (size_t k = 0; gaps_ && k < m.rho.size(); ++k) {
            const double turn = std::fabs(m.turns[k]), left = turn > 0 ? std::exp(-m.rho[k] * 0.5 / turn) : 0;
            b = std::max(b, std::hypot(m.g[2 * k], m.g[2 * k + 1]) * (1 + left));
        }
    }
    b_frac_ = largest_fraction(b, 31), g_frac_ = largest_fraction(g, 29);
    const std::string name = s4d_name("s4_layers.0.", "log_dt");
    if (b_frac_ < 10)
        refuse(name, "makes input weights up to " + number(b) + ", expected below " + number(largest / 1024));
    if (gaps_ && (g_frac_ < 0 || 30 + g_frac_ - b_frac_ < 1))
        refuse(name, "time gaps need B / A up to " + number(g) + ", expected below " +
                         number(std::ldexp(1.0, 31 - std::max(b_frac_ - 29, 0))) + "; --gaps off does without");
}

void Maker::kernel(const std::string& layer, const Modes& m) {
    const int64_t     H = c_.d_model, n = c_.d_state / 2;
    const std::string to = layer + "kernel.", dt = s4d_name(layer, "log_dt");
    fixed(layer + "D", s4d_name(layer, "D"), numbers(s4d_name(layer, "D")), {H}, 16);

    // 1. a in Q30. Rounding must not make a mode grow.
    std::vector<double> a = m.a;
    for (double& v : a) v = round_even(v * 0x1p30);
    for (size_t k = 0; k < a.size(); k += 2)
        while (a[k] * a[k] + a[k + 1] * a[k + 1] > 0x1p60) {
            double& larger = std::fabs(a[k]) >= std::fabs(a[k + 1]) ? a[k] : a[k + 1];
            larger -= larger > 0 ? 1 : -1;
        }
    std::string data;
    Loss        loss(settings_.values);
    for (size_t k = 0; k < a.size(); ++k) {
        put(&data, static_cast<int32_t>(a[k]));
        loss.add(m.a[k], a[k] * 0x1p-30);
        if ((int64_t(k) + 1) % (2 * n) == 0) loss.end_row(int64_t(k) / (2 * n));
    }
    report(to + "a", dtype_of(dt), "I32", H, 2 * n, data.size(), loss);
    store(to + "a", "I32", {H, n, 2}, std::move(data));

    // 2. b, and C with a scale a channel.
    fixed(to + "b", dt, m.b, {H, n, 2}, b_frac_);
    const std::string from = s4d_name(layer, "C");
    const auto        C = numbers(from);
    std::string       scales, codes;
    Loss              loss_C(settings_.values);
    for (int64_t h = 0; h < H && status_ == done; ++h) {
        double most = 0;
        for (int64_t k = 2 * n * h; k < 2 * n * (h + 1); ++k) most = std::max(most, std::fabs(C[size_t(k)]));
        const float  scale = most < tiny ? scale_of_nothing : static_cast<float>(most / 32767);
        const double s = static_cast<double>(scale);
        if (!(scale < 1.0f))
            refuse(from, "channel " + std::to_string(h) + " reaches " + number(most) + ", expected below 32767");
        put(&scales, scale);
        for (int64_t k = 2 * n * h; k < 2 * n * (h + 1); ++k) {
            const double code = most < tiny ? 0.0 : limit(round_even(C[size_t(k)] / s), -32767, 32767);
            put(&codes, static_cast<int16_t>(code));
            loss_C.add(C[size_t(k)], code * s);
        }
        loss_C.end_row(h);
    }
    report(to + "C", dtype_of(from), "I16", H, 2 * n, codes.size() + scales.size(), loss_C);
    store(to + "C", "I16", {H, n, 2}, std::move(codes));
    store(to + "C.scale", "F32", {H}, std::move(scales));

    // 3. What time steps other than 1 need.
    if (!gaps_) return;
    fixed(to + "rho", s4d_name(layer, "log_A_real"), m.rho, {H, n}, 26);
    std::string phase;
    Loss        loss_phase(settings_.values);
    for (size_t k = 0; k < m.turns.size(); ++k) {
        const double code = round_even(m.turns[k] * 0x1p32);
        if (!(std::fabs(code) < 0x1p62)) {
            refuse(s4d_name(layer, "A_imag"), "index " + std::to_string(k) + " turns " + number(m.turns[k]) +
                                                  " times a step, expected below 2^30");
            return;
        }
        put(&phase, static_cast<int64_t>(code));
        loss_phase.add(m.turns[k], code * 0x1p-32);
        if ((int64_t(k) + 1) % n == 0) loss_phase.end_row(int64_t(k) / n);
    }
    report(to + "phase", dtype_of(dt), "I64", H, n, phase.size(), loss_phase);
    store(to + "phase", "I64", {H, n}, std::move(phase));
    fixed(to + "g", dt, m.g, {H, n, 2}, g_frac_);
}

void Maker::s4d() {
    const int64_t      H = c_.d_model;
    std::vector<Modes> modes;
    gaps_ = settings_.gaps && c_.disc == ssm::Disc::zoh && c_.n_bands == 0;
    for (int32_t i = 0; i < c_.n_layers; ++i) modes.push_back(discretize("s4_layers." + std::to_string(i) + "."));
    fractions(modes);
    projection("encoder", H, ssm::detail::features_of(c_), 0);
    for (int32_t i = 0; i < c_.n_layers && status_ == done; ++i) {
        const std::string layer = "s4_layers." + std::to_string(i) + ".", mix = layer + "output_linear.0";
        kernel(layer, modes[size_t(i)]);
        projection(mix, 2 * H, H, int4_rows(mix, 2 * H));
        norm("norms." + std::to_string(i));
    }
    projection("decoder", c_.d_output, H, 0);
    say("n_layers", int64_t(c_.n_layers));
    say("prenorm", c_.prenorm);
    say("pool", c_.pool == ssm::Pool::mean ? "mean" : c_.pool == ssm::Pool::last ? "last" : "none");
    say("disc", c_.disc == ssm::Disc::zoh ? "zoh" : "bilinear");
    say("b_frac", int64_t(b_frac_));
    if (gaps_) say("g_frac", int64_t(g_frac_));
    if (c_.n_bands == 0) return;
    for (const char* name : {"frontend.poles", "frontend.full", "frontend.prior"})
        as_they_are(name); // integers already
    say("band_shift", int64_t(c_.band_shift)), say("band_leak", int64_t(c_.band_leak));
    say("band_mean", int64_t(c_.band_mean)), say("band_floor", int64_t(c_.band_floor));
    say("band_fall", int64_t(c_.band_fall)), say("band_gate", int64_t(c_.band_gate));
    say("band_quiet", int64_t(c_.band_quiet)), say("band_forget", int64_t(c_.band_forget));
}

// ---- Mamba

void Maker::mamba_layer(const std::string& layer) {
    const int64_t     d = c_.d_model, di = c_.d_inner, H = c_.nheads, N = c_.d_state, GN = c_.ngroups * N;
    const std::string m = layer + "mixer.";
    const auto        inner = [&](const std::string& name, int64_t rows, int64_t cols, int64_t tail = 0) {
        projection(name, rows, cols, int4_rows(name, rows, tail));
    };
    norm(layer + "norm");
    if (c_.arch == ssm::Arch::mamba3) {
        const int64_t gates = 3 * H + c_.rope_angles;
        inner(m + "in_proj", 2 * di + 2 * c_.mimo_rank * GN + gates, d, gates);
        dt_bias(m + "dt_bias", m + "dt_bias");
        for (const char* name : {"B_bias", "C_bias"}) fixed(m + name, 20);
        for (const char* name : {"D", "B_norm.weight", "C_norm.weight", "norm.weight", "mimo_x", "mimo_z", "mimo_o"})
            fixed(m + name, 16);
    } else {
        inner(m + "in_proj", 2 * di + (c_.arch == ssm::Arch::mamba2 ? 2 * GN + H : 0), d);
        fixed(m + "conv1d.weight", 16), fixed(m + "conv1d.bias", 16);
        decay_rates(m);
        fixed(m + "D", 16), fixed(m + "norm.weight", 16);
        if (c_.arch == ssm::Arch::mamba1) {
            projection(m + "x_proj", c_.dt_rank + 2 * N, di, 0);
            projection(m + "dt_proj", di, c_.dt_rank, 0);
            dt_bias(m + "dt_bias", m + "dt_proj.bias");
        } else dt_bias(m + "dt_bias", m + "dt_bias");
    }
    inner(m + "out_proj", d, di);
    if (c_.mlp_hidden == 0) return;
    norm(layer + "norm2");
    inner(layer + "mlp.fc1", 2 * int64_t(c_.mlp_hidden), d);
    inner(layer + "mlp.fc2", d, c_.mlp_hidden);
}

// A head that repeats the embedding, as tied checkpoints of the public code have it.
bool Maker::same_as_embedding() const {
    const ssm::Entry *a = find("embedding.weight"), *b = find("head.weight");
    return a != nullptr && b != nullptr && !has("head.bias") && a->dtype == b->dtype &&
           tool::shape_of(*a) == tool::shape_of(*b) &&
           std::memcmp(index_.data + a->begin, index_.data + b->begin, size_t(a->end - a->begin)) == 0;
}

void Maker::mamba() {
    const int64_t d = c_.d_model;
    const bool    tokens = c_.input == ssm::Input::tokens, features = c_.input == ssm::Input::features;
    const bool    linear = has("head.weight") && !same_as_embedding();
    if (c_.bare_mixer) {
        *error_ = "metadata \"scope\": found mixer, expected a whole model with its norms", status_ = bad_file;
        return;
    }
    if (c_.pool == ssm::Pool::mean) {
        *error_ = "metadata \"pool\": found mean, expected none or last: Mamba has no pooling on integers";
        status_ = bad_file;
        return;
    }
    if (tokens) projection("embedding", c_.vocab_size, d, 0); // rows past the vocabulary pad it
    if (features) projection("input_proj", d, c_.d_input, 0);
    for (int32_t i = 0; i < c_.n_layers && status_ == done; ++i) mamba_layer("layers." + std::to_string(i) + ".");
    norm("norm_f");
    if (linear) projection("head", c_.d_output, d, 0);

    say("n_layer", int64_t(c_.n_layers));
    say("d_inner", int64_t(c_.d_inner));
    say("norm", c_.norm == ssm::Norm::layer ? "layer" : "rms");
    say("mlp_hidden", int64_t(c_.mlp_hidden));
    say("input", tokens ? "tokens" : features ? "features" : "none");
    say("vocab_size", int64_t(c_.vocab_size));
    say("head", linear ? "linear" : tokens && c_.has_head ? "tied" : "none");
    if (c_.arch == ssm::Arch::mamba1) {
        say("d_conv", int64_t(c_.d_conv)), say("dt_rank", int64_t(c_.dt_rank));
        return;
    }
    say("headdim", int64_t(c_.headdim)), say("ngroups", int64_t(c_.ngroups));
    if (c_.arch == ssm::Arch::mamba2) {
        say("d_conv", int64_t(c_.d_conv)), say("d_ssm", int64_t(c_.d_ssm));
        say("norm_before_gate", c_.norm_before_gate);
        return;
    }
    say("is_mimo", c_.is_mimo), say("mimo_rank", int64_t(c_.mimo_rank));
    say("rope_angles", int64_t(c_.rope_angles)), say("is_outproj_norm", c_.is_outproj_norm);
    say("a_activation", c_.softplus_A ? "softplus" : "heavy_tail");
    const double floor = round_even(static_cast<double>(c_.A_floor) * 0x1p26);
    if (status_ == done && !(floor <= largest)) {
        *error_ = "metadata \"a_floor\": found " + number(static_cast<double>(c_.A_floor)) + ", expected below 32";
        status_ = bad_file;
        return;
    }
    say("a_floor_q26", static_cast<int64_t>(floor));
}

// ---- The whole

void Maker::common_metadata() {
    static const char* const archs[] = {"s4d", "mamba1", "mamba2", "mamba3"};
    say("format", "ssm-int");
    say("format_version", "1");
    say("arch", archs[int(c_.arch)]);
    say("act_bits", settings_.act16 ? "16" : "8");
    say("weight_bits", settings_.int4 ? "4" : "8");
    say("state", settings_.row_exponents ? "i16rowexp" : "i32");
    say("d_model", int64_t(c_.d_model)), say("d_state", int64_t(c_.d_state));
    say("d_input", int64_t(c_.d_input)), say("d_output", int64_t(c_.d_output));
    const double clip = static_cast<double>(c_.state_clip);
    const double q25 = clip == 0 ? largest : std::min(round_even(clip * 0x1p25), largest);
    if (q25 < 1)
        *error_ = "metadata \"clip\": found " + number(clip) + ", expected 0 for none or at least " + number(0x1p-25),
        status_ = bad_file;
    say("clip_q25", static_cast<int64_t>(q25));
    // What other verbs read, and where the model comes from.
    for (const char* key : {"task", "labels", "provenance", "sample_rate", "input"})
        if (const ssm::Entry* e = ssm::find_metadata(index_, key))
            if (c_.arch == ssm::Arch::s4d || std::strcmp(key, "input") != 0)
                say(key, tool::unescape(e->value, size_t(e->value_len)));
}

void Maker::check_keep() {
    for (const std::string& k : settings_.keep) {
        bool found = false;
        for (const std::string& name : packable_) found |= is_called(name, k);
        if (found || status_ != done) continue;
        *error_ = "--keep " + quoted(k) + ": no projection that int4 applies to, expected one such as " +
                  quoted(packable_.empty() ? "" : *packable_.begin());
        status_ = bad_usage;
    }
}

int Maker::run() {
    common_metadata();
    if (c_.arch == ssm::Arch::s4d && settings_.row_exponents) {
        *error_ = "--state i16rowexp goes with Mamba models, expected i32 for S4D";
        return bad_usage;
    }
    if (status_ != done) return status_;
    if (c_.arch == ssm::Arch::s4d) s4d();
    else mamba();
    check_keep();
    return status_;
}
} // namespace

int make(ssm::Blob file, const Settings& settings, Model* out, std::string* error) {
    std::vector<unsigned char> memory(ssm::index_bytes(file) + 1), arena_memory;
    ssm::Index                 index;
    ssm::Config                config;
    ssm::Fault                 fault;
    ssm::Status                s = ssm::read_index(&index, file, memory.data(), memory.size(), &fault);
    *out = Model();
    if (s == ssm::Status::ok)
        if (const ssm::Entry* e = ssm::find_metadata(index, "format"))
            if (tool::unescape(e->value, size_t(e->value_len)) == "ssm-int") {
                *error = "metadata \"format\": found ssm-int, a quantized model, expected a float model";
                return bad_file;
            }
    // Loading it proves every tensor: name, shape, dtype, values.
    std::vector<unsigned char> again(memory.size());
    ssm::Model                 model;
    if (s == ssm::Status::ok) s = ssm::inspect(&config, file, again.data(), again.size(), &fault);
    if (s == ssm::Status::ok) {
        arena_memory.resize(ssm::arena_bytes(config));
        ssm::Arena arena{arena_memory.data(), arena_memory.size(), 0};
        s = ssm::load(&model, file, &arena, ssm::LoadOptions(), &fault);
    }
    if (s != ssm::Status::ok) {
        *error = tool::describe(s, fault);
        return bad_file;
    }
    const int status = Maker(index, config, settings, out, error).run();
    if (status != done) return status;
    char text[32];
    std::snprintf(text, sizeof text, "%016" PRIx64, model.fingerprint);
    out->metadata["source_fingerprint"] = text;
    out->metadata["quantized"] = std::string("ssm quantize --weights ") + (settings.int4 ? "i4" : "i8") +
                                 " --activations " + (settings.act16 ? "i16" : "i8") + " --state " +
                                 (settings.row_exponents ? "i16rowexp" : "i32");
    for (const std::string& k : settings.keep) out->metadata["quantized"] += " --keep " + k + "=i8";
    for (int32_t i = 0; i < index.n_entries; ++i) {
        const ssm::Entry&      e = index.entries[i];
        const std::string_view name(e.name, size_t(e.name_len));
        bool                   other = e.value != nullptr;
        for (const char* with : {"test.", "grad.", "trace.", "golden.", "final.", "state."})
            other |= name.substr(0, std::strlen(with)) == with;
        if (!other) out->bytes_before += size_t(e.end - e.begin);
    }
    return settings.snap ? snap(out, error) : done;
}

std::vector<TensorOut> tensors_out(const Model& m) {
    std::vector<TensorOut> all;
    for (const Tensor& t : m.tensors)
        all.push_back(
            {t.name, t.dtype, std::vector<uint64_t>(t.shape.begin(), t.shape.end()), t.data.data(), t.data.size()});
    return all;
}
std::string file_bytes(const Model& m) {
    std::string head, out, error;
    auto        tensors = tensors_out(m);
    if (!safetensors_header(m.metadata, &tensors, &head, &error)) return "";
    for (const TensorOut& t : tensors) head.append(static_cast<const char*>(t.data), t.bytes);
    return head;
}

// ---- The verb

namespace {
using namespace tool;

const char help[] =
    "usage: ssm quantize IN OUT [--weights i8|i4] [--activations i8|i16] [--state i32|i16rowexp] [--keep NAME=i8]...\n"
    "       [--gaps on|off] [--snap]\n"
    "\n"
    "Makes the integer model of a float one. OUT holds integers, and scales that are read by their bits, so it gives\n"
    "the same scores on every machine. Prints a line a tensor (rows x columns, bytes with scales, the ratio of signal\n"
    "to rounding noise in dB, the row that fares worst) and the bytes before and after.\n"
    "\n"
    "  --weights W      of the projections inside the layers: i8 (default), or i4 in groups of 32. In Mamba-3 the "
    "rows\n"
    "                   of in_proj that make dt, A, trap and angles stay i8 either way, as do encoder, decoder,\n"
    "                   input_proj, embedding, head, x_proj and dt_proj\n"
    "  --activations A  entering a projection: i8 (default) or i16\n"
    "  --state S        i32 (default), or i16rowexp: 16-bit rows with exponents, half the memory; Mamba only\n"
    "  --keep NAME=i8   with --weights i4: this projection stays i8. NAME in full (layers.0.mixer.out_proj) or its\n"
    "                   last parts (out_proj); may be repeated\n"
    "  --gaps on|off    S4D by zero-order hold: whether OUT serves time steps other than 1 (default on)\n"
    "  --snap           Mamba-3 of one layer that reads tokens, trained with snap = on: moves dt_bias and B_bias so\n"
    "                   that half turns are exact in the integer engine, then lists every state the model can reach\n"
    "                   with any tokens: few of them, so it is right for ever where it is right in each\n";

std::string decibels(double db) {
    char text[32] = "exact";
    if (std::isfinite(db)) std::snprintf(text, sizeof text, "%.1f", db);
    return text;
}
void print(const Model& m, Output* out) {
    size_t widest = 6;
    for (const Line& l : m.lines) widest = std::max(widest, l.name.size());
    const auto row = [&](std::string name, const std::string& from, const std::string& to, const std::string& shape,
                         const std::string& bytes, const std::string& db, const std::string& worst) {
        char text[160];
        name.resize(widest, ' ');
        std::snprintf(text, sizeof text, " %-4s %-4s %13s %10s %7s  %s\n", from.c_str(), to.c_str(), shape.c_str(),
                      bytes.c_str(), db.c_str(), worst.c_str());
        out->write(name + text);
    };
    row("tensor", "from", "to", "rows x cols", "bytes", "SQNR dB", "worst row, dB");
    for (const Line& l : m.lines)
        row(l.name, l.from, l.to, std::to_string(l.rows) + " x " + std::to_string(l.cols), std::to_string(l.bytes),
            decibels(l.sqnr_db), std::to_string(l.worst_row) + ", " + decibels(l.worst_db));
    char text[120];
    std::snprintf(text, sizeof text, "bytes of tensors: %zu before, %zu after, ratio %.2f\n", m.bytes_before,
                  m.bytes_after, static_cast<double>(m.bytes_before) / static_cast<double>(m.bytes_after));
    out->write(text);
    const auto states = m.metadata.find("states");
    if (states != m.metadata.end()) out->write("states, whatever the tokens: " + states->second + "\n");
}
} // namespace
} // namespace quantize

int verb_quantize(int argc, char** argv) {
    using namespace quantize;
    const char *             weights = "i8", *activations = "i8", *state = "i32", *gaps = nullptr;
    std::vector<const char*> keep;
    Settings                 settings;
    Options                  options("quantize", help);
    options.word("--weights", &weights, {"i8", "i4"}).word("--activations", &activations, {"i8", "i16"});
    options.word("--state", &state, {"i32", "i16rowexp"}).word("--gaps", &gaps, {"on", "off"}).list("--keep", &keep);
    options.flag("--snap", &settings.snap);
    int status = options.read(argc, argv, 2, 2);
    if (status != go_on) return status;
    settings.int4 = std::strcmp(weights, "i4") == 0, settings.act16 = std::strcmp(activations, "i16") == 0;
    settings.row_exponents = std::strcmp(state, "i16rowexp") == 0;
    settings.gaps = gaps == nullptr || std::strcmp(gaps, "on") == 0;
    for (std::string k : keep) {
        if (k.size() < 4 || k.compare(k.size() - 3, 3, "=i8") != 0)
            return fail(bad_usage, "quantize", "--keep: got " + quoted(k) + ", expected NAME=i8");
        settings.keep.push_back(k.substr(0, k.size() - 3));
    }
    if (!keep.empty() && !settings.int4) return fail(bad_usage, "quantize", "--keep goes with --weights i4");

    const char *in = options.operands[0], *to = options.operands[1];
    if (same_file(in, to)) return fail(bad_usage, "quantize", "IN and OUT are the same file, " + quoted_path(in));
    Container file;
    if ((status = open_container("quantize", in, &file)) != done) return status;
    Model       model;
    std::string error;
    status = make(file.blob, settings, &model, &error);
    if (status == bad_usage) return fail(status, "quantize", error);
    if (status == done && gaps != nullptr && settings.gaps && model.metadata.count("g_frac") == 0)
        return fail(bad_usage, "quantize", "--gaps on goes with S4D models by zero-order hold (disc = zoh)");
    if (status != done) return fail(status, "quantize", quoted_path(in) + ": " + error);
    struct stat info;
    if (::stat(to, &info) == 0 && !S_ISREG(info.st_mode))
        return fail(io_error, "quantize", quoted_path(to) + ": is not a regular file, cannot be saved to");
    if (!write_safetensors(to, model.metadata, tensors_out(model), &error))
        return fail(io_error, "quantize", quoted_path(to) + ": " + error);
    Output out(1);
    print(model, &out);
    return finish("quantize", &out);
}
