// history.cpp - reading change histories, the query protocol, and the features a model sees.
// SPDX-License-Identifier: MIT
#include "history.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>

namespace history {

const char* const feature_names[n_features] = {"probe", "rate", "gap", "added", "share", "last"};

namespace {

// The next space-separated word of [p, end); empty at the end.
std::string word(const char** p, const char* end) {
    while (*p < end && **p == ' ') ++*p;
    const char* from = *p;
    while (*p < end && **p != ' ') ++*p;
    return std::string(from, *p);
}

bool number(const std::string& s, int64_t lo, int64_t hi, int64_t* out) {
    int64_t v = 0;
    if (s.empty() || s.size() > 18) return false;
    for (char c : s) {
        if (c < '0' || c > '9') return false;
        v = v * 10 + (c - '0');
    }
    *out = v;
    return v >= lo && v <= hi;
}

std::string cut(const std::string& s) { // for a message; the caller escapes
    return s.size() <= 40 ? s : s.substr(0, 40) + "...";
}

// A path as git prints it: plain, or in double quotes with C escapes. False if the quotes or escapes are broken.
bool git_path(const char* p, const char* end, std::string* out) {
    out->clear();
    if (p >= end) return false;
    if (*p != '"') {
        out->assign(p, end);
        return true;
    }
    for (++p; p < end && *p != '"'; ++p) {
        if (*p != '\\') {
            out->push_back(*p);
            continue;
        }
        if (++p >= end) return false;
        static const char from[] = "abtnvfr\"\\", to[] = "\a\b\t\n\v\f\r\"\\";
        if (const char* hit = std::strchr(from, *p); hit != nullptr && *p != '\0') {
            out->push_back(to[hit - from]);
            continue;
        }
        if (end - p < 3) return false;
        int v = 0;
        for (int k = 0; k < 3; ++k) {
            if (p[k] < '0' || p[k] > '7') return false;
            v = v * 8 + (p[k] - '0');
        }
        out->push_back(static_cast<char>(v));
        p += 2;
    }
    return p + 1 == end; // the closing quote ends the field
}

} // namespace

std::vector<uint16_t> subject_words(const char* text, size_t bytes) {
    std::vector<uint16_t> out;
    const char *p = text, *const end = text + bytes;
    while (p < end && out.size() < 32) {
        const auto part = [](char c) {
            return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
        };
        while (p < end && !part(*p)) ++p;
        uint64_t    h = 0xcbf29ce484222325u;
        bool        numeric = true;
        const char* from = p;
        for (; p < end && part(*p); ++p) {
            const char c = *p >= 'A' && *p <= 'Z' ? static_cast<char>(*p + 32) : *p;
            numeric &= c >= '0' && c <= '9';
            h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
        }
        if (p != from && !numeric) out.push_back(uint16_t(h % 16384));
    }
    return out;
}

void Reader::flush() {
    if (open_) {
        ++events_;
        on_event_(event_);
    }
    open_ = false;
    event_ = Event();
}
void Reader::finish() { flush(); }
void Reader::too_long() {
    ++line_;
    error("a line is longer than 1,048,576 bytes");
}
void Reader::add(char kind, int32_t id, std::string path) {
    if (event_.ops.size() >= max_ops) return error("a commit has more than 1,048,576 operations");
    event_.ops.push_back(Op{kind, id, std::move(path)});
}
int32_t Reader::author_number(const std::string& name) {
    return authors_.emplace(name, int32_t(authors_.size())).first->second;
}

void Reader::line(const char* text, size_t bytes) {
    ++line_;
    const char* end = text + bytes;
    if (bytes > 0 && end[-1] == '\r') --end;
    if (text == end) return;
    if (std::memchr(text, 0, size_t(end - text)) != nullptr) return error("a line holds a NUL byte");
    const bool commit = end - text > 7 && std::memcmp(text, "commit ", 7) == 0;
    if (format_ == Format::unknown) {
        if (commit) format_ = Format::git;
        else if (end - text > 2 && text[0] == 'c' && text[1] == ' ') format_ = Format::ev;
        else
            return error(
                "not a change history: expected \"c TIME AUTHOR WORDS\" or \"commit TIME AUTHOR<tab>SUBJECT\", got \"" +
                cut(std::string(text, end)) + "\"");
    }
    if (format_ == Format::ev) ev_line(text, end);
    else if (commit) git_header(text + 7, end);
    else git_status(text, end);
}

void Reader::ev_line(const char* p, const char* end) {
    const std::string kind = word(&p, end), first = word(&p, end);
    int64_t           v = 0;
    if (kind == "c") {
        flush();
        skipping_ = true; // until the header is known to be good
        const std::string author = word(&p, end), words = word(&p, end);
        int64_t           a = 0;
        if (!number(first, 0, INT64_C(1) << 56, &v))
            return error("expected a time in seconds, got \"" + cut(first) + "\"");
        if (!number(author, 0, INT32_MAX, &a)) return error("expected an author number, got \"" + cut(author) + "\"");
        latest_ = std::max(latest_, v);
        event_.time = latest_, event_.author = int32_t(a);
        for (size_t i = 0; words != "-" && i < words.size();) {
            const size_t comma = std::min(words.find(',', i), words.size());
            int64_t      w = 0;
            if (!number(words.substr(i, comma - i), 0, 16383, &w)) {
                event_ = Event();
                return error("expected hashed words 0..16383 separated by commas, or -");
            }
            event_.words.push_back(uint16_t(w));
            i = comma + 1;
        }
        open_ = true, skipping_ = false;
        return;
    }
    if (kind.size() != 1 || std::strchr("amdr", kind[0]) == nullptr)
        return error("expected c, a, m, d or r, got \"" + cut(kind) + "\"");
    if (!open_) return skipping_ ? void() : error("an operation before the first commit");
    if (!number(first, 0, max_id - 1, &v))
        return error("expected a file number 0.." + std::to_string(max_id - 1) + ", got \"" + cut(first) + "\"");
    while (p < end && *p == ' ') ++p;
    std::string path(p, end);
    if ((kind == "a" || kind == "r") && path.empty()) return error("expected a path after the file number");
    if ((kind == "m" || kind == "d") && !path.empty()) return error("text after the file number");
    add(kind[0], int32_t(v), std::move(path));
}

void Reader::git_header(const char* p, const char* end) {
    flush();
    skipping_ = true;
    const std::string first = word(&p, end);
    int64_t           v = 0;
    if (!number(first, 0, INT64_C(1) << 56, &v))
        return error("expected \"commit TIME AUTHOR<tab>SUBJECT\", got \"" + cut(first) + "\" for the time");
    if (p < end) ++p; // the space before the author's name, which may hold anything but a tab
    const char* tab = std::find(p, end, '\t');
    latest_ = std::max(latest_, v);
    event_.time = latest_;
    event_.author = author_number(std::string(p, tab));
    if (tab < end) event_.words = subject_words(tab + 1, size_t(end - tab - 1));
    open_ = true, skipping_ = false;
}

void Reader::git_status(const char* p, const char* end) {
    if (!open_) return skipping_ ? void() : error("a file status before the first commit");
    const char*       tab = std::find(p, end, '\t');
    const std::string kind(p, tab);
    const bool        two = kind[0] == 'R' || kind[0] == 'C';
    if (tab == end || std::strchr("AMDRCT", kind[0]) == nullptr || (!two && kind.size() != 1))
        return error("expected a status and a path separated by a tab, got \"" + cut(std::string(p, end)) + "\"");
    const char* second = two ? std::find(tab + 1, end, '\t') : end;
    std::string from, to;
    if (!git_path(tab + 1, second, &from) || (two && (second == end || !git_path(second + 1, end, &to))))
        return error(two ? "expected two paths separated by a tab" : "a path whose quotes or escapes are broken");
    const auto known = by_path_.find(from);
    const bool alive = known != by_path_.end() && known->second.alive;
    const auto first_seen = [&](const std::string& path) {
        auto it = by_path_.find(path);
        if (it == by_path_.end()) {
            if (next_id_ >= max_id) return error("more files than this program follows");
            it = by_path_.emplace(path, Known{next_id_++, true}).first;
        }
        it->second.alive = true;
        add('a', it->second.id, path);
    };
    switch (kind[0]) {
    case 'A':
        first_seen(from);
        break;
    case 'C':
        first_seen(to);
        break;
    case 'D':
        if (alive) known->second.alive = false, add('d', known->second.id, "");
        break;
    case 'R': {
        if (!alive) return first_seen(to);
        const int32_t id = known->second.id;
        known->second.alive = false;
        const auto replaced = by_path_.find(to);
        if (replaced != by_path_.end() && replaced->second.alive) add('d', replaced->second.id, "");
        by_path_[to] = Known{id, true};
        by_path_.erase(from); // the number went along: should the old path come back, it is a new file
        add('r', id, to);
        break;
    }
    default: // M, T
        if (alive) add('m', known->second.id, "");
        else first_seen(from);
    }
}

bool read_file(const std::string& path, std::vector<Event>* out, std::string* why) {
    std::unique_ptr<FILE, int (*)(FILE*)> f(std::fopen(path.c_str(), "rb"), std::fclose);
    if (!f) return *why = "cannot be opened", false;
    int64_t     errors = 0;
    std::string first_error;
    Reader      reader([&](const Event& e) { out->push_back(e); },
                  [&](int64_t line, const std::string& what) {
                      if (errors++ == 0) first_error = "line " + std::to_string(line) + ": " + what;
                  });
    std::string line;
    char        buffer[65536];
    for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, f.get())) > 0;)
        for (size_t i = 0; i < n; ++i) {
            if (buffer[i] != '\n') {
                if (line.size() <= max_line_bytes) line.push_back(buffer[i]);
                continue;
            }
            if (line.size() > max_line_bytes) reader.too_long();
            else reader.line(line.data(), line.size());
            line.clear();
        }
    if (std::ferror(f.get())) return *why = "cannot be read", false;
    if (!line.empty()) reader.line(line.data(), line.size());
    reader.finish();
    if (errors > 0) return *why = first_error, false;
    if (reader.events() == 0) return *why = "holds no commit", false;
    return true;
}

// ---- Metrics

void Metrics::add(std::vector<int32_t> ranks, int32_t n_targets) {
    ++queries;
    if (ranks.empty() || n_targets < 1) return;
    std::sort(ranks.begin(), ranks.end());
    const int32_t k = std::min(10, n_targets);
    double        gain = 0, best = 0;
    int32_t       found = 0;
    for (int32_t r : ranks)
        if (r <= 10) gain += 1 / std::log2(1.0 + r), ++found;
    for (int32_t r = 1; r <= k; ++r) best += 1 / std::log2(1.0 + r);
    mrr += 1.0 / ranks[0], recall10 += double(found) / k, ndcg10 += gain / best, hit1 += ranks[0] == 1;
}
Metrics Metrics::mean() const {
    const double n = queries > 0 ? double(queries) : 1;
    return Metrics{mrr / n, recall10 / n, ndcg10 / n, hit1 / n, queries};
}

std::vector<int32_t> rank_targets(const std::vector<int32_t>& candidates, const std::vector<float>& scores,
                                  const std::vector<int32_t>& targets, std::vector<int32_t>* order) {
    std::vector<int32_t> by_score(candidates.size()), ranks;
    for (size_t i = 0; i < by_score.size(); ++i) by_score[i] = int32_t(i);
    std::stable_sort(by_score.begin(), by_score.end(),
                     [&](int32_t a, int32_t b) { return scores[size_t(a)] > scores[size_t(b)]; });
    for (size_t r = 0; r < by_score.size(); ++r)
        if (std::binary_search(targets.begin(), targets.end(), candidates[size_t(by_score[r])]))
            ranks.push_back(int32_t(r + 1));
    if (order != nullptr) {
        order->clear();
        for (int32_t k : by_score) order->push_back(candidates[size_t(k)]);
    }
    return ranks;
}

// ---- Tracker

std::vector<int32_t> Tracker::candidates() const {
    std::vector<int32_t> ids;
    for (size_t f = 0; f < file_.size(); ++f)
        if (file_[f].alive) ids.push_back(int32_t(f));
    return ids;
}

bool Tracker::query(const Event& e, int32_t first, std::vector<int32_t>* targets) const {
    if (i_ < first) return false;
    targets->clear();
    int32_t touched = 0;
    for (const Op& op : e.ops)
        if (op.kind != 'a' && alive(op.id)) ++touched, targets->push_back(op.id);
    if (touched < 1 || touched > max_touch) return false;
    std::sort(targets->begin(), targets->end());
    targets->erase(std::unique(targets->begin(), targets->end()), targets->end());
    int32_t n = 0;
    for (const File& f : file_) n += f.alive;
    return n >= min_candidates;
}

double Tracker::decayed(int32_t id) const {
    const File& f = file_[size_t(id)];
    return f.d10 * std::exp2(-double(i_ - f.at) / 10);
}

void Tracker::fill(const File& f, float x[n_features], float* dt) const {
    const double gap = double(std::max<int64_t>(1, i_ - std::max<int64_t>(0, f.touched)));
    for (int k = 0; k < n_features; ++k) x[k] = 0;
    *dt = float(std::min(gap, 1e6));
    x[f_rate] = float(1 / gap);
    x[f_gap] = float(std::log2(gap) / 8);
    x[f_last] = f.touched >= 0 && f.touched == i_ - 1 ? 1.0f : 0.0f;
}

void Tracker::probe(int32_t id, float x[n_features], float* dt) const {
    fill(file_[size_t(id)], x, dt);
    x[f_probe] = 1;
}

void Tracker::apply(const Event& e, const std::function<void(int32_t, const float*, float)>& touch) {
    const bool is_bulk = e.ops.size() > size_t(bulk);
    for (const Op& op : e.ops) {
        if (size_t(op.id) >= file_.size()) file_.resize(size_t(op.id) + 1);
        File& f = file_[size_t(op.id)];
        if (!op.path.empty()) f.path = op.path;
        if (op.kind == 'a') f.alive = true;
        if (op.kind == 'd') f.alive = false;
        if (is_bulk) {
            if (f.last < 0) f.last = i_;
            if (f.touched < 0) f.touched = i_;
            continue;
        }
        f.d10 = f.d10 * std::exp2(-double(i_ - f.at) / 10) + 1;
        f.at = i_, f.last = i_;
        if (f.touched == i_) continue; // one touch a commit
        float x[n_features], dt;
        fill(f, x, &dt);
        x[f_added] = op.kind == 'a' ? 1.0f : 0.0f;
        x[f_share] = float(1 / std::sqrt(double(e.ops.size())));
        f.touched = i_;
        if (touch) touch(op.id, x, dt);
    }
    ++i_;
}

} // namespace history
