// serve_rpc.cpp - the methods of `ssm serve` and their answers.
// SPDX-License-Identifier: MIT
#include "serve_rpc.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <new>

namespace serve {

namespace {
// Error codes of JSON-RPC 2.0, and the one for what cannot be served.
constexpr int not_json = -32700, not_request = -32600, no_method = -32601, bad_params = -32602, internal = -32603,
              unserved = -32000;

const char expected_embedding[] = "missing, expected an array of numbers";
} // namespace

// ---- Shares

void shares(float* x, size_t n, std::vector<uint32_t>* order) {
    const auto sort = [&] {
        std::sort(order->begin(), order->end(),
                  [x](uint32_t a, uint32_t b) { return x[a] > x[b] || (x[a] == x[b] && a < b); });
    };
    order->resize(n);
    for (size_t i = 0; i < n; ++i) {
        x[i] = x[i] > -50.0f ? std::min(x[i], 50.0f) : -50.0f; // NaN too
        (*order)[i] = uint32_t(i);
    }
    sort(); // so that the sum below does not depend on the order of the pool
    const double most = n > 0 ? static_cast<double>(x[order->front()]) : 0;
    const auto   part = [most](float v) { return memory::exp_natural(static_cast<double>(v) - most); };
    double       sum = 0;
    for (uint32_t i : *order) sum += part(x[i]);
    for (size_t i = 0; i < n; ++i) x[i] = static_cast<float>(part(x[i]) / sum);
    sort(); // logits that are not equal may have equal shares
}

// ---- Answers

Rpc::Rpc(relevance::Sidecar* sidecar, int32_t native_dim, bool files)
    : sidecar_(sidecar), dim_(size_t(native_dim)), files_(files) {
    static_assert(n_features == relevance::n_given, "the features of a candidate are what a caller gives");
}

bool Rpc::fail(int code, const std::string& what) { return code_ = code, what_ = what, false; }

void Rpc::append_id(std::string* out) const {
    if (q_.id_is == Request::Id::string) append_raw(q_.id_text, out);
    else if (q_.id_is == Request::Id::number) out->append(q_.id_number);
    else *out += "null";
}
void Rpc::append_error(std::string* out) const {
    *out += ",\"error\":{\"code\":" + std::to_string(code_) + ",\"message\":";
    tool::append_json_string(out, tool::escape(what_, tool::max_message_bytes, "\"'\\"));
    *out += "}}\n";
}

void Rpc::too_long(std::string* out) {
    fail(not_json, "a line is longer than " + std::to_string(max_line_bytes) + " bytes");
    *out += "{\"jsonrpc\":\"2.0\",\"id\":null";
    append_error(out);
}
void Rpc::cannot_read(const std::string& why, std::string* out) {
    fail(internal, why);
    *out += "{\"jsonrpc\":\"2.0\",\"id\":null";
    append_error(out);
}

void Rpc::line(std::string_view text, std::string* out) {
    if (text.find_first_not_of(" \t\r\n") == text.npos) return;
    const size_t before = out->size();
    const char*  trouble = nullptr;
    try {
        q_.read(text, dim_);
        if (answer(out)) *out += "}\n";
    } catch (const std::bad_alloc&) {
        trouble = "out of memory";
    } catch (const std::exception&) {
        trouble = "unexpected failure";
    }
    if (trouble != nullptr) {
        out->resize(before);
        give_back();
        fail(internal, trouble);
        *out += "{\"jsonrpc\":\"2.0\",\"id\":null";
        append_error(out);
    }
    if (q_.buffer_bytes() + candidates_.capacity() * sizeof(relevance::Candidate) + text_.capacity() +
            (logits_.capacity() + order_.capacity()) * 4 >
        kept_bytes)
        give_back();
}
void Rpc::give_back() {
    q_ = Request();
    candidates_ = std::vector<relevance::Candidate>();
    logits_ = std::vector<float>();
    order_ = std::vector<uint32_t>();
    text_ = std::string();
}

// All of the answer but its last brace. False: an error, complete.
bool Rpc::answer(std::string* out) {
    using Form = Request::Form;
    using Id = Request::Id;
    bool named = false; // the id is known
    *out += "{\"jsonrpc\":\"2.0\",\"id\":";
    const size_t start = out->size();
    const bool   good = [&] {
        if (q_.form == Form::malformed) return fail(not_json, std::string("malformed JSON: ") + q_.why);
        if (q_.form == Form::batch) return fail(not_request, "batches are not taken");
        if (q_.form == Form::other) return fail(not_json, "expected an object");
        if (!q_.has_version) return fail(not_json, "\"jsonrpc\" is missing");
        if (!q_.has_method) return fail(not_json, "\"method\" is missing");
        if (q_.id_is == Id::absent) return fail(not_json, "\"id\" is missing");
        if (q_.id_is == Id::wrong) return fail(not_request, "\"id\": expected a string, a number or null");
        named = true;
        append_id(out);
        if (!q_.version_2) return fail(not_request, "\"jsonrpc\": expected \"2.0\"");
        if (!q_.method_is_text) return fail(not_request, "\"method\": expected a string");
        *out += ",\"result\":";
        return run(out);
    }();
    if (good) return true;
    out->resize(start);
    if (named) append_id(out);
    else *out += "null";
    append_error(out);
    return false;
}

// ---- What all methods check

bool Rpc::check(std::initializer_list<Named> required, std::initializer_list<Named> optional) {
    const auto wrong = [&](const Named& m) {
        std::string what = std::string(m.name) + ": ";
        if (m.member->at > 0) what += "element " + std::to_string(m.member->at) + ": ";
        if (m.member->part[0] != 0) what += std::string(m.member->part) + ": ";
        return fail(bad_params, what + m.member->why);
    };
    for (const Named& m : required) {
        if (m.member->is == Member::wrong) return wrong(m);
        if (m.member->is != Member::given) return fail(bad_params, std::string(m.name) + ": missing");
    }
    for (const Named& m : optional)
        if (m.member->is == Member::wrong) return wrong(m);
    return true;
}

// A context embedding must be there, or a text in its place. One that is null or empty is there, but not known.
bool Rpc::check_context() {
    if (q_.context_embedding.is == Member::absent && q_.context_text.is != Member::given)
        return fail(bad_params, std::string("context_embedding: ") + expected_embedding);
    return check({}, {{"context_embedding", &q_.context_embedding},
                      {"context_text", &q_.context_text},
                      {"candidate_ids", &q_.candidate_ids},
                      {"candidate_embeddings", &q_.candidate_embeddings},
                      {"candidate_texts", &q_.candidate_texts},
                      {"candidate_features", &q_.candidate_features},
                      {"project_slot", &q_.project_slot},
                      {"dt", &q_.dt}});
}

memory::Words Rpc::words(const Text& t) {
    if (t.text == nullptr) return memory::Words();
    if (t.plain) return memory::words_of(t.text, t.bytes);
    decode(t, &text_);
    return memory::words_of(text_.data(), text_.size());
}

relevance::Context Rpc::context() {
    relevance::Context c;
    if (q_.context_embedding.is == Member::given && q_.context.n == dim_) c.embedding = q_.context.data.data();
    if (q_.context_text.is == Member::given) c.words = words(q_.context_words);
    if (q_.dt.is == Member::given) c.seconds = static_cast<double>(q_.seconds);
    return c;
}

// The candidates, n of them as `what` says. False if they cannot be served.
bool Rpc::pool(size_t n, const char* what) {
    const auto lacks = [&](const char* name, const Member& m, size_t got) { // absent, null and empty: nothing is there
        if (m.is != Member::given || got == 0 || got == n) return false;
        fail(unserved,
             std::string(name) + ": expected " + std::to_string(n) + " as in " + what + ", got " + std::to_string(got));
        return true;
    };
    if (n == 0) return fail(unserved, std::string(what) + ": the pool is empty");
    if (n > max_pool) return fail(unserved, std::string(what) + ": more than " + std::to_string(max_pool));
    if (q_.context_embedding.is == Member::given && q_.context.n != 0 && q_.context.n != dim_)
        return fail(unserved, "context_embedding: expected " + std::to_string(dim_) + " numbers, got " +
                                  std::to_string(q_.context.n));
    if (lacks("candidate_ids", q_.candidate_ids, q_.ids.n) ||
        lacks("candidate_embeddings", q_.candidate_embeddings, q_.embeddings.n) ||
        lacks("candidate_texts", q_.candidate_texts, q_.texts.n) ||
        lacks("candidate_features", q_.candidate_features, q_.features.n))
        return false;
    if (q_.candidate_features.is == Member::given && q_.features.odd > 0)
        return fail(unserved, "candidate_features: element " + std::to_string(q_.features.odd) + ": expected " +
                                  std::to_string(n_features) + " numbers, got " +
                                  std::to_string(q_.features.odd_width));

    const auto has = [n](const Member& m, size_t got) { return m.is == Member::given && got == n; };
    const bool ids = has(q_.candidate_ids, q_.ids.n), texts = has(q_.candidate_texts, q_.texts.n),
               embeddings = has(q_.candidate_embeddings, q_.embeddings.n),
               features = has(q_.candidate_features, q_.features.n);
    const auto row = [](const Rows& rows, size_t i, size_t width) {
        return rows.at[i] < 0 ? nullptr : rows.data.data() + size_t(rows.at[i]) * width;
    };
    candidates_.assign(n, relevance::Candidate());
    for (size_t i = 0; i < n; ++i) {
        relevance::Candidate& c = candidates_[i];
        if (ids) {
            decode(q_.ids.all[i], &text_);
            c.key = memory::key_of(text_.data(), text_.size());
        }
        if (texts) c.words = words(q_.texts.all[i]);
        if (embeddings) c.embedding = row(q_.embeddings, i, dim_);
        if (features) c.given = row(q_.features, i, n_features);
    }
    return true;
}

// ---- The methods

bool Rpc::run(std::string* out) {
    const auto is = [this](const char* name) { return equals(q_.method, name); };
    const bool files = is("save_checkpoint") || is("state_save") || is("state_load");
    if (!files && !is("status") && !is("score") && !is("train") && !is("train_from_db") && !is("observe") &&
        !is("reset")) {
        decode(q_.method, &text_);
        return fail(no_method, "unknown method " + tool::quoted(text_));
    }
    if (q_.params == Request::Shape::wrong) return fail(bad_params, "params: expected an object");
    if (is("status")) return status(out);
    if (is("score")) return score(out);
    if (is("train")) return train(out);
    if (is("observe")) return observe(out);
    if (is("save_checkpoint")) return file(&Rpc::save_checkpoint, "saved", out);
    if (is("state_save")) return file(&Rpc::state_save, "saved", out);
    if (is("state_load")) return file(&Rpc::state_load, "loaded", out);
    if (is("train_from_db")) return fail(unserved, "train_from_db: not supported, this program reads no database");
    sidecar_->reset();
    steps(out);
    return true;
}

bool Rpc::status(std::string* out) {
    *out += std::string("{\"trained\":") + (sidecar_->has_model() ? "true" : "false");
    *out += ",\"training_pairs\":" + std::to_string(sidecar_->pairs());
    *out += ",\"model_version\":" + std::to_string((sidecar_->has_model() ? 1 : 0) + sidecar_->lessons());
    *out += ",\"last_trained\":";
    char         text[32];
    struct tm    parts;
    const time_t at = time_t(sidecar_->learned_at());
    if (at >= 0 && ::gmtime_r(&at, &parts) != nullptr &&
        std::strftime(text, sizeof text, "\"%Y-%m-%dT%H:%M:%SZ\"", &parts) > 0)
        *out += text;
    else *out += "null";
    *out += ",\"native_dimensions\":" + std::to_string(dim_);
    *out += ",\"feature_dimensions\":" + std::to_string(n_features) + "}";
    return true;
}

bool Rpc::score(std::string* out) {
    if (!check_context() ||
        !check({{"candidate_ids", &q_.candidate_ids}}, {{"observe_context", &q_.observe_context}}) ||
        !pool(q_.ids.n, "candidate_ids"))
        return false;
    const size_t       n = candidates_.size();
    relevance::Context c = context();
    if (q_.observe_context.is == Member::given && q_.observe) {
        relevance::Event e;
        e.words = c.words;
        e.embedding = c.embedding;
        e.seconds = c.seconds;
        sidecar_->observe(e);
        c.seconds = 0; // it is the latest event now
    }
    logits_.resize(n);
    sidecar_->score(c, candidates_.data(), n, logits_.data());
    shares(logits_.data(), n, &order_);

    const char* between = "{\"scores\":[{\"id\":";
    for (uint32_t i : order_) {
        *out += between;
        append_raw(q_.ids.all[i], out);
        *out += ",\"score\":";
        tool::append_float(out, logits_[i]);
        between = "},{\"id\":";
    }
    *out += "}]}";
    return true;
}

bool Rpc::train(std::string* out) {
    // Candidates are known by their embeddings or, here, by anything else that tells them apart.
    if (!check_context() || !check({{"labels", &q_.labels}}, {{"temperature", &q_.temperature}})) return false;
    if (q_.candidate_embeddings.is == Member::absent && q_.candidate_ids.is != Member::given &&
        q_.candidate_texts.is != Member::given && q_.candidate_features.is != Member::given)
        return fail(bad_params, "candidate_embeddings: missing");
    const float temperature = q_.temperature.is == Member::given ? q_.temperature_value : 0.5f;
    if (!(temperature > 0.0f)) return fail(bad_params, "temperature: expected a number above 0");
    if (!pool(q_.n_labels, "labels")) return false;
    double      loss = 0;
    std::string why;
    if (!sidecar_->learn(context(), candidates_.data(), candidates_.size(), q_.label.data(), temperature, &loss, &why))
        return fail(unserved, "train: " + why);
    sidecar_->learned_at(std::time(nullptr));
    const float shown = static_cast<float>(loss);
    if (!std::isfinite(shown)) return fail(internal, "train: the loss is not finite");
    *out += "{\"loss\":";
    tool::append_float(out, shown);
    *out += ",\"step\":" + std::to_string(sidecar_->lessons()) + "}";
    return true;
}

void Rpc::steps(std::string* out) {
    *out += "{\"steps\":" + std::to_string(sidecar_->steps()) +
            ",\"state_bytes\":" + std::to_string(sidecar_->state_bytes()) + "}";
}

bool Rpc::observe(std::string* out) {
    if (!check({{"events", &q_.events}}, {})) return false;
    if (q_.n_events > max_pool) return fail(unserved, "events: more than " + std::to_string(max_pool));
    if (!q_.odd_event.empty()) return fail(unserved, q_.odd_event);
    // All that needs memory comes before the first event is taken in: an answer that says otherwise has changed nothing.
    std::vector<relevance::Event> events(q_.event.size());
    size_t                        most = 0;
    for (size_t i = 0; i < events.size(); ++i) {
        const EventItem&  item = q_.event[i];
        relevance::Event& e = events[i];
        e.words = words(item.text);
        if (item.kind.text != nullptr) { // one more word, which no text holds
            decode(item.kind, &text_);
            e.words.add(uint16_t(memory::key_of(("kind " + text_).data(), text_.size() + 5) % memory::n_words_hashed));
        }
        e.items = item.n > 0 ? q_.items.data() + item.first : nullptr;
        e.n_items = item.n;
        e.seconds = static_cast<double>(item.seconds);
        if (item.embedding >= 0) e.embedding = q_.event_embeddings.data.data() + size_t(item.embedding) * dim_;
        most = std::max(most, item.n);
    }
    sidecar_->expect(most);
    out->reserve(out->size() + 128);
    for (const relevance::Event& e : events) sidecar_->observe(e);
    steps(out);
    return true;
}

bool Rpc::file(bool (Rpc::*act)(const char*, std::string*), const char* result, std::string* out) {
    if (!check({{"path", &q_.path}}, {{"flags", &q_.flags}})) return false;
    if (!decode(q_.path_text, &text_) || text_.empty() || text_.find('\0') != text_.npos)
        return fail(bad_params, "path: expected the name of a file");
    if (!files_) return fail(unserved, "path: files are out of bounds");
    std::string why;
    if (!(this->*act)(text_.c_str(), &why)) return fail(unserved, why);
    *out += std::string("{\"") + result + "\":true}";
    return true;
}

} // namespace serve
