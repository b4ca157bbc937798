// score_records.cpp - the record protocol of `ssm score`.
// SPDX-License-Identifier: MIT
#include "score.hpp"

#include "gpu.hpp"

#include <cmath>

namespace tool {
namespace {

namespace json = ssm::json;

bool blank(char c) { return c == ' ' || c == '\t'; }

std::string expected_numbers(int32_t want, size_t got) {
    return "expected " + std::to_string(want) + (want == 1 ? " number, got " : " numbers, got ") + std::to_string(got);
}
const char* const bad_dt = "dt: expected a number above 0 and at most 1048576";
static_assert(ssm::max_dt == 1048576.0f, "the message above names it");

bool        good_dt(float dt) { return dt > 0.0f && dt <= ssm::max_dt; }
bool        good_input(float x) { return x >= -ssm::max_input && x <= ssm::max_input; }
std::string wrong_value(const ssm::Model& m) {
    if (m.config.input != ssm::Input::tokens) return " is out of range";
    return " is no token, expected an integer below " + std::to_string(m.config.vocab_size);
}
bool of_tokens(const ssm::Model& m) { return m.config.input == ssm::Input::tokens; }
} // namespace

Scorer::Scorer(const ssm::Model& model, ssm::State* state, ssm::Scratch* scratch, Output* out, Output* err,
               const char* verb)
    : model_(model), state_(state), scratch_(scratch), out_(out), err_(err), verb_(verb),
      width_(of_tokens(model) ? 1 : size_t(model.config.d_input)) {
    y_.resize(size_t(model.config.d_output) * size_t(scratch->batch));
    dt_.resize(size_t(scratch->batch));
}

bool Scorer::bad(const char* unit, uint64_t number, const std::string& what) {
    std::string line = std::string("ssm ") + verb_ + ": " + unit + " " + std::to_string(number) + ": " + what;
    if (line.size() > max_message_bytes - 1) line.resize(max_message_bytes - 1);
    err_->write(line + "\n");
    return false;
}

void Scorer::print_row(const float* y, bool json_form) {
    line_.clear();
    for (int32_t k = 0; k < model_.config.d_output; ++k) {
        if (k > 0) line_ += json_form ? ',' : ' ';
        if (json_form) append_json_float(&line_, y[k]);
        else append_float(&line_, y[k]);
    }
    out_->write(line_);
}

bool Scorer::good(float v) const {
    if (!of_tokens(model_)) return good_input(v);
    return v >= 0.0f && v < static_cast<float>(model_.config.vocab_size) && v == std::floor(v);
}
const float* Scorer::inputs(size_t first, size_t n) {
    if (!of_tokens(model_)) return x_.data() + first * width_;
    const size_t d = size_t(model_.config.d_input);
    rows_.resize(n * d);
    for (size_t i = 0; i < n; ++i) // ids were checked
        if (ssm::embed(model_, int32_t(x_[first + i]), &rows_[i * d]) != ssm::Status::ok) rows_[i * d] = std::nanf("");
    return rows_.data();
}

ssm::Status Scorer::advance(const float* x, float dt) {
    const int32_t slot = 0;
    if (gpu != nullptr) return gpu->step(&slot, x, 1, y_.data(), &dt);
    return ssm::step(model_, state_, scratch_, x, y_.data(), dt);
}
ssm::Status Scorer::score(const float* x, int32_t n, const float* dt) {
    if (gpu != nullptr) return gpu->candidates(0, x, n, y_.data(), dt);
    return ssm::step_batch(model_, *state_, scratch_, x, n, y_.data(), dt);
}
void Scorer::restart() {
    if (gpu != nullptr) (void)gpu->reset(0); // whose message is out where it fails
    ssm::reset(model_, state_);
}

// One event or candidate in x_.
bool Scorer::run(bool candidate, float dt) {
    const float*      x = inputs(0, 1);
    const ssm::Status s = candidate ? score(x, 1, &dt) : advance(x, dt);
    if (s == ssm::Status::ok && !candidate && see) see(y_.data());
    return s == ssm::Status::ok;
}

bool Scorer::frame(const float* x, uint64_t number, bool print, float dt) {
    for (size_t k = 0; k < width_; ++k)
        if (!good(x[k]))
            return bad("frame", number,
                       "value " + std::to_string(k + 1) + (std::isnan(x[k]) ? " is NaN" : " is out of range"));
    x_.assign(x, x + width_);
    const ssm::Status s = advance(inputs(0, 1), dt);
    if (s != ssm::Status::ok) return bad("frame", number, ssm::message(s));
    any_frame_ = true;
    if (print) print_row(y_.data(), false), out_->write("\n");
    return true;
}
void Scorer::print_last() {
    if (any_frame_) print_row(y_.data(), false), out_->write("\n");
}

bool Scorer::too_long(std::string_view start, uint64_t number) {
    while (!start.empty() && blank(start.front())) start.remove_prefix(1);
    const std::string what = "longer than " + std::to_string(max_line_bytes) + " bytes";
    if (start.empty() || start.front() != '{') return bad("line", number, what);
    out_->write("{\"error\":\"line " + std::to_string(number) + ": " + what + "\"}\n");
    return false;
}

bool Scorer::line(std::string_view text, uint64_t number) {
    while (!text.empty() && blank(text.front())) text.remove_prefix(1);
    while (!text.empty() && blank(text.back())) text.remove_suffix(1);
    if (text.empty() || text.front() == '#') return true;
    return text.front() == '{' ? json_record(text, number) : text_record(text, number);
}

// ---- Text records

bool Scorer::text_record(std::string_view text, uint64_t number) {
    enum class Op { event, advance, candidate } op = Op::event;
    const auto skip = [&] {
        while (!text.empty() && blank(text.front())) text.remove_prefix(1);
    };
    const auto no = [&](const std::string& what) { return bad("line", number, what); };

    // 1. What to do. A plus that belongs to a number ("+0.5") is its sign.
    const char first = text.front(), second = text.size() > 1 ? text[1] : ' ';
    if (first == '!') {
        if (text.size() > 1) return no("unexpected text after \"!\"");
        restart();
        return true;
    }
    if (first == '?') op = Op::candidate;
    if (first == '+' && second != '.' && !(second >= '0' && second <= '9')) op = Op::advance;
    if (op != Op::event) text.remove_prefix(1), skip();

    // 2. The time since the event before.
    float dt = 1.0f;
    if (text.substr(0, 3) == "dt=") {
        text.remove_prefix(3);
        const size_t n = ssm::parse_float(text.data(), text.size(), &dt);
        if (n == 0 || !(n == text.size() || blank(text[n]) || text[n] == ',') || !good_dt(dt)) return no(bad_dt);
        text.remove_prefix(n);
        skip();
        if (!text.empty() && text.front() == ',') {
            text.remove_prefix(1), skip();
            if (text.empty()) return no("field 1 is empty");
        }
    }

    // 3. The numbers: fields between blanks, or a comma with blanks around it.
    const int32_t want = int32_t(width_);
    size_t        got = 0;
    x_.resize(width_);
    while (!text.empty()) {
        float                  v = 0.0f;
        const size_t           n = ssm::parse_float(text.data(), text.size(), &v);
        const size_t           end = text.find_first_of(", \t");
        const std::string_view field = text.substr(0, end);
        const auto             where = [&] { return "field " + std::to_string(got + 1); };
        if (field.empty()) return no(where() + " is empty");
        if (n != field.size()) return no(where() + ": got \"" + escape(field, 40) + "\", expected a number");
        if (!good(v)) return no(where() + ": \"" + escape(field, 40) + "\"" + wrong_value(model_));
        if (got < x_.size()) x_[got] = v;
        ++got;
        text.remove_prefix(n);
        skip();
        if (!text.empty() && text.front() == ',') {
            text.remove_prefix(1), skip();
            if (text.empty()) return no("field " + std::to_string(got + 1) + " is empty");
        }
    }
    if (got != x_.size()) return no(expected_numbers(want, got));

    // 4. The model.
    if (!run(op == Op::candidate, dt)) return no("the model refuses this record");
    if (op != Op::advance) print_row(y_.data(), false), out_->write("\n");
    return true;
}

// ---- JSON records

struct Scorer::Request {
    enum class Op { none, event, advance, candidate, candidates, reset } op = Op::none;
    const char* key = ""; // of the operation
    float       dt = 1.0f;
    bool        timed = false;
    std::string id;       // as it is to be answered; empty: none
    size_t      rows = 0; // of x_, for candidates
};

// The numbers of an array whose '[' has been read, appended to x_.
bool Scorer::numbers(json::Reader* r, size_t limit, const std::string& where, std::string* why) {
    size_t got = 0;
    for (;;) {
        const json::Token t = json::next(r);
        if (t.kind == json::Kind::end_array) break;
        const auto here = [&] { return where + ": element " + std::to_string(got + 1); };
        if (t.kind == json::Kind::error) return *why = std::string("malformed JSON: ") + r->error, false;
        if (t.kind != json::Kind::number) {
            if (why->empty()) *why = here() + ": expected a number";
            if (!json::skip(r, t)) return *why = std::string("malformed JSON: ") + r->error, false;
        } else {
            float v = 0.0f;
            ssm::parse_float(t.text, t.len, &v);
            if (!good(v) && why->empty())
                *why = here() + ": \"" + escape({t.text, t.len}, 40) + "\"" + wrong_value(model_);
            if (got < limit) x_.push_back(v);
        }
        ++got;
    }
    if (got != limit && why->empty()) *why = where + ": " + expected_numbers(int32_t(limit), got);
    return true;
}

// Reads a whole request. False: not JSON at all. `why` is set if anything is wrong with it; the id is read in either
// case.
bool Scorer::parse(std::string_view text, Request* q, std::string* why) {
    using Op = Request::Op;
    json::Reader r = json::open(text.data(), text.size());
    const auto   malformed = [&] { return *why = std::string("malformed JSON: ") + r.error, false; };
    const auto   complain_once = [&](const std::string& what) {
        if (why->empty()) *why = what;
    };
    const size_t width = width_;
    bool         has_id = false;
    x_.clear();
    if (json::next(&r).kind != json::Kind::object) return malformed();
    for (;;) {
        const json::Token key = json::next(&r);
        if (key.kind == json::Kind::end_object) break;
        if (key.kind != json::Kind::key) return malformed();
        const json::Token v = json::next(&r);
        if (v.kind == json::Kind::error) return malformed();

        Op op = Op::none;
        const struct {
            const char* name;
            Op          op;
        } ops[] = {{"x", Op::event},
                   {"advance", Op::advance},
                   {"candidate", Op::candidate},
                   {"candidates", Op::candidates},
                   {"reset", Op::reset}};
        const char* name = "";
        for (const auto& o : ops)
            if (json::equals(key, o.name)) op = o.op, name = o.name;
        if (op != Op::none) {
            const std::string where = std::string("\"") + name + "\"";
            if (q->op != Op::none) {
                complain_once(q->op == op ? where + " stands twice" : where + " beside \"" + q->key + "\"");
                if (!json::skip(&r, v)) return malformed();
                continue;
            }
            q->op = op, q->key = name;
            if (op == Op::reset) {
                if (v.kind != json::Kind::true_) complain_once(where + ": expected true");
                if (!json::skip(&r, v)) return malformed();
            } else if (v.kind != json::Kind::array) {
                complain_once(where + ": expected an array");
                if (!json::skip(&r, v)) return malformed();
            } else if (op != Op::candidates) {
                if (!numbers(&r, width, where, why)) return false;
                q->rows = 1;
            } else {
                for (;;) {
                    const json::Token row = json::next(&r);
                    if (row.kind == json::Kind::end_array) break;
                    if (row.kind == json::Kind::error) return malformed();
                    const std::string here = where + ": candidate " + std::to_string(++q->rows);
                    if (row.kind != json::Kind::array) {
                        complain_once(here + ": expected an array");
                        if (!json::skip(&r, row)) return malformed();
                    } else if (!numbers(&r, width, here, why)) return false;
                }
            }
        } else if (json::equals(key, "dt")) {
            if (q->timed) complain_once("\"dt\" stands twice");
            q->timed = true;
            if (v.kind != json::Kind::number || ssm::parse_float(v.text, v.len, &q->dt) != v.len || !good_dt(q->dt))
                complain_once(bad_dt);
            if (!json::skip(&r, v)) return malformed();
        } else if (json::equals(key, "id")) {
            if (has_id) complain_once("\"id\" stands twice");
            has_id = true;
            q->id.clear();
            if (v.kind == json::Kind::number) q->id.assign(v.text, v.len);
            else if (v.kind == json::Kind::string) append_json_string(&q->id, unescape(v.text, v.len));
            else if (v.kind == json::Kind::null) q->id = "null";
            else {
                complain_once("\"id\": expected a number, a string or null");
                q->id = "null";
            }
            if (!json::skip(&r, v)) return malformed();
        } else {
            complain_once("unknown key \"" + escape(unescape(key.text, key.len)) + "\"");
            if (!json::skip(&r, v)) return malformed();
        }
    }
    if (json::next(&r).kind != json::Kind::end) return malformed();
    if (q->op == Op::none)
        complain_once("expected one of \"x\", \"advance\", \"candidate\", \"candidates\", \"reset\"");
    if (q->op == Op::reset && q->timed) complain_once("\"dt\" beside \"reset\"");
    return true;
}

bool Scorer::run_json(const Request& q, std::string* why) {
    using Op = Request::Op;
    const std::string id = q.id.empty() ? "" : "\"id\":" + q.id + ",";
    if (q.op == Op::reset) {
        restart();
        out_->write("{" + id + "\"ok\":true}\n");
        return true;
    }
    if (q.op != Op::candidates) {
        if (!run(q.op == Op::candidate, q.dt)) return *why = "the model refuses this record", false;
        if (q.op == Op::advance) {
            out_->write("{" + id + "\"ok\":true}\n");
            return true;
        }
        out_->write("{" + id + "\"y\":[");
        print_row(y_.data(), true);
        out_->write("]}\n");
        return true;
    }
    out_->write("{" + id + "\"ys\":[");
    const size_t block = size_t(scratch_->batch), d_out = size_t(model_.config.d_output);
    for (size_t i = 0; i < block; ++i) dt_[i] = q.dt;
    for (size_t first = 0; first < q.rows; first += block) {
        const size_t n = q.rows - first < block ? q.rows - first : block;
        // Every input was checked, so this is ok; were it not, no stale number may pass for an answer.
        if (score(inputs(first, n), int32_t(n), dt_.data()) != ssm::Status::ok)
            y_.assign(y_.size(), std::nanf(""));
        for (size_t i = 0; i < n; ++i) {
            out_->write(first + i == 0 ? "[" : ",[");
            print_row(y_.data() + i * d_out, true);
            out_->write("]");
        }
    }
    out_->write("]}\n");
    return true;
}

bool Scorer::json_record(std::string_view text, uint64_t number) {
    Request     q;
    std::string why;
    const bool  well_formed = parse(text, &q, &why);
    if (!well_formed) q.id.clear(); // who knows what the rest would have said
    if (why.empty() && run_json(q, &why)) return true;
    if (why.size() > max_message_bytes - 100) why.resize(max_message_bytes - 100);
    std::string answer = "{";
    if (!q.id.empty()) answer += "\"id\":" + q.id + ",";
    answer += "\"error\":";
    append_json_string(&answer, "line " + std::to_string(number) + ": " + why);
    out_->write(answer + "}\n");
    return false;
}

} // namespace tool
