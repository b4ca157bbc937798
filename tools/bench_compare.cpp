// bench_compare.cpp - `ssm bench --compare A B`: how much longer each measurement took in B than in A.
// SPDX-License-Identifier: MIT
//
// Each file has one or more runs, a line each, as --json prints them. The k-th run in A is paired with the k-th in B,
// and quantile by quantile the times of one with those of the other; what other work on the machine did to both of a
// pair then counts little. The quartiles are those of all these ratios.
#include "bench.hpp"

#include <algorithm>
#include <cstdio>
#include <map>

namespace bench {
using namespace tool;

namespace {
using ssm::json::Kind;
using ssm::json::Reader;
using ssm::json::Token;

using Quantiles = std::vector<double>; // ns, ascending

// The measurements of a file, "back-end: name", in its order; of each run that has it, one after the other.
struct Runs {
    std::vector<std::string>                      names;
    std::map<std::string, std::vector<Quantiles>> of;
    std::string                                   model, cpu;
};

// Reads one run; what else stands in it is passed over.
class Line {
  public:
    Line(std::string_view text, Runs* out) : r_(ssm::json::open(text.data(), text.size())), out_(*out) {}
    bool read(std::string* error) {
        each_key(next(), [&](const std::string& key, const Token& value) {
            if (key == "model" && value.kind == Kind::string) out_.model = text_of(value);
            else if (key == "cpu" && value.kind == Kind::string) out_.cpu = text_of(value);
            else if (key == "back_ends") each_item(value, [&](const Token& v) { back_end(v); });
            else skip(value);
        });
        if (good_ && next().kind != Kind::end) good_ = false;
        if (good_ && found_ > 0) return true;
        *error = *r_.error != 0 ? r_.error : "expected what ssm bench --json prints";
        return false;
    }

  private:
    Token                   next() { return ssm::json::next(&r_); }
    void                    skip(const Token& t) { good_ = good_ && ssm::json::skip(&r_, t); }
    static std::string      text_of(const Token& t) { return unescape(t.text, t.len); }
    template <class F> void each_key(const Token& t, const F& f) {
        if (t.kind != Kind::object) good_ = false;
        while (good_) {
            const Token key = next();
            if (key.kind == Kind::end_object) return;
            if (key.kind != Kind::key) good_ = false;
            else f(text_of(key), next());
        }
    }
    template <class F> void each_item(const Token& t, const F& f) {
        if (t.kind != Kind::array) good_ = false;
        while (good_) {
            const Token item = next();
            if (item.kind == Kind::end_array) return;
            if (item.kind == Kind::error || item.kind == Kind::end) good_ = false;
            else f(item);
        }
    }
    void back_end(const Token& t) {
        std::string                                    name;
        std::vector<std::pair<std::string, Quantiles>> runs;
        each_key(t, [&](const std::string& key, const Token& value) {
            if (key == "name" && value.kind == Kind::string) name = text_of(value);
            else if (key == "runs") each_item(value, [&](const Token& v) { run(v, &runs); });
            else skip(value);
        });
        for (auto& run : runs) {
            std::vector<Quantiles>& all = out_.of[name + ": " + run.first];
            if (all.empty()) out_.names.push_back(name + ": " + run.first);
            all.push_back(std::move(run.second)), ++found_;
        }
    }
    void run(const Token& t, std::vector<std::pair<std::string, Quantiles>>* runs) {
        std::string name;
        Quantiles   q;
        each_key(t, [&](const std::string& key, const Token& value) {
            if (key == "name" && value.kind == Kind::string) name = text_of(value);
            else if (key == "quantiles_ns")
                each_item(value, [&](const Token& v) {
                    float ns = 0;
                    if (v.kind != Kind::number || ssm::parse_float(v.text, v.len, &ns) != v.len || !(ns > 0))
                        good_ = false;
                    q.push_back(double(ns));
                });
            else skip(value);
        });
        if (q.size() != n_quantiles) good_ = false;
        if (good_) runs->emplace_back(name, q);
    }
    Reader r_;
    Runs&  out_;
    bool   good_ = true;
    size_t found_ = 0;
};

int read_runs(const char* path, Runs* out) {
    std::string text;
    if (const int status = read_file("bench", path, size_t(64) << 20, &text)) return status;
    size_t line = 0;
    for (size_t at = 0; at < text.size();) {
        const size_t end = std::min(text.find('\n', at), text.size());
        std::string  error;
        ++line;
        if (end > at && !Line(std::string_view(text).substr(at, end - at), out).read(&error))
            return fail(bad_file, "bench", escape(path, 160) + ": line " + std::to_string(line) + ": " + error);
        at = end + 1;
    }
    if (out->names.empty()) return fail(bad_file, "bench", escape(path, 160) + ": no measurements in it");
    return done;
}
} // namespace

int compare(const char* path_a, const char* path_b) {
    Runs a, b;
    if (const int status = read_runs(path_a, &a)) return status;
    if (const int status = read_runs(path_b, &b)) return status;
    Output out(1);
    char   line[200];
    out.write("A: " + escape(a.model, 160) + " on " + escape(a.cpu) + "\nB: " + escape(b.model, 160) + " on " +
              escape(b.cpu) + "\ntimes of B over those of A\n\n");
    std::snprintf(line, sizeof line, "  %-44s %5s %10s %10s %8s %8s %8s %8s\n", "", "pairs", "A, ns", "B, ns",
                  "fastest", "25 %", "median", "75 %");
    out.write(line);
    for (const std::string& name : a.names) {
        const std::vector<Quantiles>&from = a.of[name], &to = b.of[name];
        const size_t                 pairs = std::min(from.size(), to.size());
        if (pairs == 0) continue;
        std::vector<double> ratios;
        double              fast_a = from[0][0], fast_b = to[0][0];
        for (size_t k = 0; k < pairs; ++k) {
            for (size_t i = 0; i < n_quantiles; ++i) ratios.push_back(to[k][i] / from[k][i]);
            fast_a = std::min(fast_a, from[k][0]), fast_b = std::min(fast_b, to[k][0]);
        }
        std::sort(ratios.begin(), ratios.end());
        const auto at = [&](size_t quarter) { return ratios[(ratios.size() - 1) * quarter / 4]; };
        std::snprintf(line, sizeof line, "  %-44s %5zu %10.0f %10.0f %8.3f %8.3f %8.3f %8.3f\n",
                      escape(name, 60).c_str(), pairs, fast_a, fast_b, fast_b / fast_a, at(1), at(2), at(3));
        out.write(line);
    }
    for (const auto& [runs, other, which] : {std::tuple{&a, &b, "A"}, std::tuple{&b, &a, "B"}})
        for (const std::string& name : runs->names)
            if (const auto it = other->of.find(name); it == other->of.end() || it->second.empty())
                out.write("  " + escape(name, 60) + ": only in " + which + "\n");
    return finish("bench", &out);
}

} // namespace bench
