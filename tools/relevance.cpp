// relevance.cpp - the model of relevance over the memory of a stream.
// SPDX-License-Identifier: MIT
#include "relevance.hpp"

#include "safetensors_write.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

// Products and sums are not fused: the same bits on every machine.
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

namespace relevance {

// ---- Engine

bool Engine::open(const ssm::Model& model, const ssm::Scratch& scratch, const std::string& input,
                  memory::Limits limits, std::string* why) {
    std::string names;
    for (const char* name : memory::input_names) names += (names.empty() ? "" : ",") + std::string(name);
    if (input != names) {
        size_t i = 0;
        while (i < input.size() && i < names.size() && input[i] == names[i]) ++i;
        i = input.rfind(',', i);
        i = i == std::string::npos ? 0 : i + 1;
        return *why = "metadata \"input\": the inputs from \"" + tool::escape(input.substr(std::min(i, input.size())), 60) +
                      "\" on are not those of this program's memory",
               false;
    }
    if (model.config.d_input != memory::n_inputs || model.config.d_output != 1)
        return *why = "d_input, d_output are " + std::to_string(model.config.d_input) + ", " +
                      std::to_string(model.config.d_output) + ", expected " + std::to_string(memory::n_inputs) + ", 1",
               false;
    model_ = &model, scratch_ = scratch;
    stride_ = (ssm::state_bytes(model.config) + 7) / 8 * 8;
    memory_ = std::make_unique<memory::Memory>(limits);
    states_.assign((limits.items + 1) * stride_ / 4, 0);
    // apply() must not run out of memory half way through an event.
    x_.reserve(size_t(memory::max_items_of_event) * memory::n_inputs);
    dt_.reserve(memory::max_items_of_event), rows_.reserve(memory::max_items_of_event);
    return true;
}

ssm::State Engine::state(uint32_t slot) {
    const size_t at = slot == memory::Memory::none ? memory_->limits().items : slot;
    return {states_.data() + at * stride_ / 4, stride_};
}

bool Engine::apply(const memory::Event& e) {
    x_.clear(), dt_.clear(), rows_.clear();
    memory_->apply(e, [&](uint32_t slot, bool fresh, const float* x, float dt) {
        x_.insert(x_.end(), x, x + memory::n_inputs);
        dt_.push_back(dt);
        rows_.push_back(state(slot));
        if (fresh) std::fill_n(states_.data() + slot * stride_ / 4, stride_ / 4, 0u);
    });
    return rows_.empty() || ssm::step_streams(*model_, rows_.data(), int32_t(rows_.size()), &scratch_, x_.data(), nullptr,
                                              dt_.data()) == ssm::Status::ok;
}

bool Engine::score(const memory::Query& q, const memory::Probe* probes, size_t n, float* y, float* x) {
    if (n == 0) return true;
    if (x == nullptr) x_.resize(n * memory::n_inputs), x = x_.data();
    dt_.resize(n), slots_.resize(n), rows_.clear();
    memory_->read(q, probes, n, x, dt_.data(), slots_.data());
    for (uint32_t slot : slots_) rows_.push_back(state(slot));
    return ssm::score_streams(*model_, rows_.data(), int32_t(n), &scratch_, x, y, dt_.data()) == ssm::Status::ok;
}

void Engine::reset() {
    memory_->reset();
    std::fill(states_.begin(), states_.end(), 0u);
}

size_t Engine::state_bytes() const { return memory_->state_bytes() + states_.size() * 4; }

void Engine::save(std::string* out) const {
    memory_->save(out);
    const size_t words = memory_->items() * stride_ / 4;
    for (size_t k = 0; k < words; ++k)
        for (int i = 0; i < 4; ++i) out->push_back(static_cast<char>(states_[k] >> 8 * i & 0xff));
}

bool Engine::load(const unsigned char* p, size_t bytes) {
    memory::Memory m(memory_->limits());
    const size_t   used = m.load(p, bytes), words = m.items() * stride_ / 4;
    if (used == 0 || bytes - used != words * 4) return false;
    *memory_ = std::move(m);
    std::fill(states_.begin(), states_.end(), 0u);
    for (size_t k = 0; k < words; ++k)
        for (int i = 0; i < 4; ++i) states_[k] |= uint32_t(p[used + 4 * k + size_t(i)]) << 8 * i;
    return true;
}

// ---- Histories

namespace {
class Files : public next::HistoryRanker {
  public:
    Engine engine;

    bool apply(const history::Event& e) override {
        const bool good = engine.apply(commits_.event(e));
        tracker_.apply(e, nullptr);
        return good;
    }
    std::vector<float> scores(const std::vector<int32_t>& candidates, const history::Event* coming) override {
        std::vector<float> y(candidates.size());
        probes_.resize(candidates.size());
        for (size_t i = 0; i < candidates.size(); ++i) probes_[i].key = Commits::key(candidates[i]);
        memory::Query q;
        if (coming != nullptr) q = commits_.query(*coming);
        else q.asked = false;
        if (!engine.score(q, probes_.data(), probes_.size(), y.data(), nullptr)) y.assign(y.size(), 0.0f); // cannot be
        return y;
    }
    size_t state_bytes() const override { return engine.state_bytes(); }

  private:
    Commits                    commits_;
    std::vector<memory::Probe> probes_;
};
} // namespace

std::unique_ptr<next::HistoryRanker> open_ranker(const ssm::Model& model, const ssm::Scratch& scratch,
                                                 const std::string& input, memory::Limits limits, std::string* why) {
    auto files = std::make_unique<Files>();
    if (!files->engine.open(model, scratch, input, limits, why)) return nullptr;
    return files;
}

// ---- Sidecar

namespace {
// Terms are added up in their order, in double: the same bits everywhere.
double first_weight(int term) {
    switch (term) {
    case t_model: return 1;
    case t_near: return 6; // embeddings of texts that belong together are some 0.3 nearer than others
    case t_near_lately: return 3;
    case t_embedded: return -2; // so that one who has none is as if somewhat near
    case t_usual: return 0.7; // what a memory daemon ranks by without a model
    case t_given + 2: return 0.15; // log of the use count
    case t_given + 11: return -1.5; // superseded
    case t_given + 14: return 0.3; // a constraint
    default: return 0;
    }
}
constexpr int n_weights = n_terms + 2 * n_slots;

struct Row { // what the head sees of a candidate
    float term[n_terms];
    int   slot[2]; // of the slot tables; -1: none
};

// Sums of products in eight interleaved parts, joined in one tree.
double dot(const float* a, const float* b, int32_t n) {
    double  sum[8] = {};
    int32_t k = 0;
    for (; k + 8 <= n; k += 8)
        for (int i = 0; i < 8; ++i) sum[i] += double(a[k + i]) * double(b[k + i]);
    for (; k < n; ++k) sum[k & 7] += double(a[k]) * double(b[k]);
    for (int step = 4; step > 0; step /= 2)
        for (int i = 0; i < step; ++i) sum[i] += sum[i + step];
    return sum[0];
}
// The cosine of two vectors from their products; 0 if there is nothing to compare.
double cosine(double ab, double aa, double bb) {
    if (!(aa > 0) || !(bb > 0)) return 0;
    const double c = ab / (std::sqrt(aa) * std::sqrt(bb));
    return c >= -1 && c <= 1 ? c : c > 1 ? 1 : c < -1 ? -1 : 0; // NaN: numbers that overflowed
}

uint64_t mix(uint64_t h, const void* p, size_t n) {
    for (size_t i = 0; i < n; ++i) h = (h ^ static_cast<const unsigned char*>(p)[i]) * 0x100000001b3u;
    return h;
}
constexpr uint64_t mix_start = 0xcbf29ce484222325u;

void put32(std::string* out, uint32_t v) {
    for (int i = 0; i < 4; ++i) out->push_back(static_cast<char>(v >> 8 * i & 0xff));
}
void put64(std::string* out, uint64_t v) { put32(out, uint32_t(v)), put32(out, uint32_t(v >> 32)); }
uint32_t get32(const unsigned char* p) {
    return uint32_t(p[0]) | uint32_t(p[1]) << 8 | uint32_t(p[2]) << 16 | uint32_t(p[3]) << 24;
}
uint64_t get64(const unsigned char* p) { return uint64_t(get32(p)) | uint64_t(get32(p + 4)) << 32; }
uint32_t bits_of(float v) {
    uint32_t b = 0;
    std::memcpy(&b, &v, sizeof b);
    return b;
}
float float_of(uint32_t b) {
    float v = 0;
    std::memcpy(&v, &b, sizeof v);
    return v;
}

const char* const head_tensor = "state.head"; // weights, their two moments
const char* const state_tensor = "state.sidecar";
const char* const pairs_key = "state.pairs"; // metadata: candidates learned from, lessons, the time of the last one
} // namespace

struct Sidecar::Body {
    using OpenModel = tool::OpenModel;
    int32_t                    native_dim;
    memory::Limits             limits;
    std::unique_ptr<OpenModel> file;
    ssm::Scratch               scratch;
    Engine                     engine; // with a model
    std::unique_ptr<memory::Memory> bare; // without
    uint64_t                   fingerprint = 0; // of the model's tensors
    std::vector<float>         lately;          // [native_dim] sum of the latest events' embeddings, fading
    std::vector<float>         weight, moment, square; // [n_weights]
    uint64_t                   pairs = 0, lessons = 0;
    int64_t                    learned_at = -1;
    std::vector<Row>           canary; // the pool scored last
    std::vector<float>         x, y;
    std::vector<memory::Probe> probes;
    std::vector<memory::Touch> touches;
    std::vector<Row>           rows;

    Body(int32_t dim, memory::Limits l) : native_dim(dim), limits(l), lately(size_t(dim)) { new_head(); }

    void new_head() {
        weight.assign(n_weights, 0.0f), moment = square = weight;
        for (int k = 0; k < n_terms; ++k) weight[size_t(k)] = float(first_weight(k));
        pairs = lessons = 0, learned_at = -1;
        canary.clear();
    }
    const memory::Memory& memory() const { return file != nullptr ? engine.memory() : *bare; }

    // What the head sees of each candidate.
    void look(const Context& c, const Candidate* candidates, size_t n, std::vector<Row>* out) {
        out->assign(n, Row{});
        memory::Query q;
        q.words = c.words.n > 0 ? c.words : memory().latest_words();
        q.author = c.author, q.seconds = c.seconds;
        q.asked = q.words.n > 0 || c.author != 0;
        probes.assign(n, {});
        for (size_t i = 0; i < n; ++i) {
            probes[i].key = candidates[i].key;
            if (candidates[i].words.n > 0) probes[i].words = &candidates[i].words;
        }
        x.assign(n * memory::n_inputs, 0.0f), y.assign(n, 0.0f);
        if (file != nullptr) engine.score(q, probes.data(), n, y.data(), x.data()); // cannot be refused
        else {
            std::vector<float>    dt(n);
            std::vector<uint32_t> slot(n);
            bare->read(q, probes.data(), n, x.data(), dt.data(), slot.data());
        }
        const double near = c.embedding != nullptr ? dot(c.embedding, c.embedding, native_dim) : 0,
                     past = dot(lately.data(), lately.data(), native_dim);
        for (size_t i = 0; i < n; ++i) {
            Row&             r = (*out)[i];
            const Candidate& a = candidates[i];
            r.term[t_model] = y[i];
            for (int k = 0; k < n_read; ++k) r.term[t_read + k] = x[i * memory::n_inputs + size_t(memory::n_touch_inputs + k)];
            if (a.embedding != nullptr) {
                r.term[t_embedded] = 1;
                const double own = dot(a.embedding, a.embedding, native_dim);
                if (near > 0)
                    r.term[t_near] = float(cosine(dot(a.embedding, c.embedding, native_dim), own, near));
                if (past > 0)
                    r.term[t_near_lately] = float(cosine(dot(a.embedding, lately.data(), native_dim), own, past));
            }
            r.slot[0] = r.slot[1] = -1;
            static constexpr float nothing[n_given] = {};
            const float* const     given = a.given != nullptr ? a.given : nothing;
            for (int k = 0; k < n_given; ++k) // names are no numbers; the others stay within reason
                r.term[t_given + k] = k == 12 || k == 13 ? 0 : std::max(-20.0f, std::min(20.0f, given[k]));
            const double days = memory::exp_natural(double(std::max(0.0f, std::min(8.0f, given[0])))) - 1,
                         importance = double(std::max(0.0f, std::min(1.0f, given[1])));
            r.term[t_usual] = float(std::max(-8.0, memory::log_natural(0.01 + importance) - 0.051293294387550533 * days));
            for (int k = 0; k < 2; ++k) {
                const float v = given[12 + k] * float(n_slots - 1) + 0.5f;
                if (v >= 1.0f && v < float(n_slots)) r.slot[k] = int(v);
            }
        }
    }
    float logit(const Row& r) const { return logit(r, weight); }
    static float logit(const Row& r, const std::vector<float>& w) {
        double sum = 0;
        for (int k = 0; k < n_terms; ++k) sum += double(w[size_t(k)]) * double(r.term[k]);
        for (int k = 0; k < 2; ++k)
            if (r.slot[k] >= 0) sum += double(w[size_t(n_terms + k * n_slots + r.slot[k])]);
        return sum > double(-max_logit) && sum < double(max_logit) ? float(sum) : sum > 0 ? max_logit : -max_logit;
    }
    // The best five of the canary pool, by number, and whether its scores differ.
    std::vector<size_t> best_five(const std::vector<Row>& pool, const std::vector<float>& w, bool* differ) const {
        std::vector<float>  s;
        std::vector<size_t> order;
        for (const Row& r : pool) order.push_back(s.size()), s.push_back(logit(r, w));
        *differ = !s.empty() && *std::max_element(s.begin(), s.end()) > *std::min_element(s.begin(), s.end());
        std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return s[a] > s[b]; });
        order.resize(std::min<size_t>(5, order.size()));
        return order;
    }
};

Sidecar::Sidecar(int32_t native_dim, memory::Limits limits) : body_(std::make_unique<Body>(native_dim, limits)) {
    body_->bare = std::make_unique<memory::Memory>(limits);
}
Sidecar::~Sidecar() = default;
bool     Sidecar::has_model() const { return body_->file != nullptr; }
int32_t  Sidecar::native_dim() const { return body_->native_dim; }
uint64_t Sidecar::steps() const { return body_->memory().steps(); }
uint64_t Sidecar::pairs() const { return body_->pairs; }
uint64_t Sidecar::lessons() const { return body_->lessons; }
int64_t  Sidecar::learned_at() const { return body_->learned_at; }
void     Sidecar::learned_at(int64_t seconds) { body_->learned_at = seconds; }
size_t   Sidecar::state_bytes() const {
    return (has_model() ? body_->engine.state_bytes() : body_->bare->state_bytes()) + body_->lately.size() * 4;
}

namespace {
// Two counts and a time, which may be negative, with a blank between them.
bool three_numbers(const std::string& text, uint64_t counts[2], int64_t* time) {
    const size_t first = text.find(' '), second = first == text.npos ? text.npos : text.find(' ', first + 1);
    if (second == text.npos) return false;
    const auto number = [&](size_t from, size_t to, uint64_t* out) {
        return ssm::json::to_uint({ssm::json::Kind::number, text.data() + from, to - from}, out);
    };
    const bool negative = text.compare(second + 1, 1, "-") == 0;
    uint64_t   size = 0;
    if (!number(0, first, &counts[0]) || !number(first + 1, second, &counts[1]) ||
        !number(second + 1 + size_t(negative), text.size(), &size) || size > uint64_t(INT64_MAX))
        return false;
    *time = negative ? -int64_t(size) : int64_t(size);
    return true;
}
} // namespace

bool Sidecar::open(const char* verb, const char* path, ssm::Isa isa, std::string* why) {
    why->clear();
    auto file = std::make_unique<tool::OpenModel>();
    if (tool::open_model(verb, path, isa, 0, next::batch, file.get()) != tool::done) return false;
    const auto no = [&](const std::string& what) { return *why = tool::quoted_path(path) + ": " + what, false; };
    std::string task, input, text;
    if (!file->metadata("task", &task) || task != "relevance") return no("metadata \"task\": expected relevance");
    file->metadata("input", &input);
    ssm::Scratch scratch;
    if (ssm::make_scratch(&scratch, file->model, next::batch, &file->arena) != ssm::Status::ok)
        return no("no room for its scratch");
    Engine engine;
    if (!engine.open(file->model, scratch, input, body_->limits, &text)) return no(text);

    // 1. Which model this is, whatever else is in the file.
    uint64_t fingerprint = mix_start;
    std::vector<std::pair<std::string, const ssm::Entry*>> tensors;
    for (int32_t k = 0; k < file->index.n_entries; ++k) {
        const ssm::Entry& e = file->index.entries[k];
        const std::string name(e.name, size_t(e.name_len));
        if (e.value == nullptr && name.compare(0, 6, "state.") != 0) tensors.push_back({name, &e});
    }
    std::sort(tensors.begin(), tensors.end());
    for (const auto& [name, e] : tensors) {
        fingerprint = mix(fingerprint, name.data(), name.size());
        fingerprint = mix(fingerprint, file->index.data + e->begin, size_t(e->end - e->begin));
    }

    // 2. Of a checkpoint: the head and the state.
    std::vector<float>   weights[3];
    uint64_t             counts[2] = {0, 0};
    int64_t              learned_at = -1;
    const unsigned char* state = nullptr;
    size_t               state_bytes = 0;
    if (const ssm::Entry* e = ssm::find_tensor(file->index, head_tensor)) {
        if (std::strcmp(ssm::dtype_name(e->dtype), "F32") != 0 || e->end - e->begin != 12 * n_weights)
            return no("tensor \"state.head\": expected F32 of " + std::to_string(3 * n_weights) + " numbers");
        const unsigned char* p = file->index.data + e->begin;
        for (auto& w : weights)
            for (int k = 0; k < n_weights; ++k, p += 4) w.push_back(float_of(get32(p)));
        for (const auto& w : weights)
            for (float v : w)
                if (!(std::fabs(v) < 1e6f)) return no("tensor \"state.head\": a number is not finite");
        if (file->metadata(pairs_key, &text)) {
            if (!three_numbers(text, counts, &learned_at))
                return no("metadata \"state.pairs\": expected three numbers");
        }
    }
    if (const ssm::Entry* e = ssm::find_tensor(file->index, state_tensor)) {
        if (std::strcmp(ssm::dtype_name(e->dtype), "U8") != 0) return no("tensor \"state.sidecar\": expected U8");
        state = file->index.data + e->begin, state_bytes = size_t(e->end - e->begin);
    }

    // 3. All or nothing.
    auto body = std::make_unique<Body>(body_->native_dim, body_->limits);
    body->file = std::move(file), body->scratch = scratch, body->engine = std::move(engine);
    body->fingerprint = fingerprint;
    if (!weights[0].empty()) {
        body->weight = weights[0], body->moment = weights[1], body->square = weights[2];
        body->pairs = counts[0], body->lessons = counts[1], body->learned_at = learned_at;
    }
    body_.swap(body);
    if (state != nullptr && !take_state(state, state_bytes, &text)) {
        body_.swap(body);
        return no("tensor \"state.sidecar\": " + text);
    }
    return true;
}

void Sidecar::expect(size_t items) { body_->touches.reserve(items); }

void Sidecar::observe(const Event& e) {
    Body&                       b = *body_;
    std::vector<memory::Touch>& touches = b.touches;
    touches.assign(e.n_items, memory::Touch());
    for (size_t i = 0; i < e.n_items; ++i) touches[i].key = e.items[i];
    memory::Event event;
    event.words = e.words, event.seconds = e.seconds;
    event.touches = touches.data(), event.n_touches = touches.size();
    observe(event);
    if (e.embedding == nullptr) return;
    double norm = 0;
    for (int32_t k = 0; k < b.native_dim; ++k) norm += double(e.embedding[k]) * double(e.embedding[k]);
    if (!(norm > 0) || !std::isfinite(norm)) return;
    const double scale = 1 / std::sqrt(norm);
    for (int32_t k = 0; k < b.native_dim; ++k) // 2^(-1/8)
        b.lately[size_t(k)] = float(double(b.lately[size_t(k)]) * 0.917004043204671232 + double(e.embedding[k]) * scale);
}

void Sidecar::observe(const memory::Event& e) {
    if (body_->file != nullptr) body_->engine.apply(e); // cannot be refused
    else body_->bare->apply(e, nullptr);
}

void Sidecar::score(const Context& c, const Candidate* candidates, size_t n, float* logits) {
    Body& b = *body_;
    b.look(c, candidates, n, &b.rows);
    for (size_t i = 0; i < n; ++i) logits[i] = b.logit(b.rows[i]);
    b.canary.assign(b.rows.begin(), b.rows.begin() + ptrdiff_t(std::min<size_t>(n, max_canary)));
}

bool Sidecar::learn(const Context& c, const Candidate* candidates, size_t n, const float* labels, float temperature,
                    double* loss, std::string* why) {
    constexpr double rate = 0.001, keep = 0.9, keep_square = 0.999;
    Body&            b = *body_;
    std::vector<Row> rows;
    b.look(c, candidates, n, &rows);

    // 1. The loss and its gradient by each logit.
    if (n == 0 || !(temperature > 0) || !std::isfinite(temperature) ||
        !std::all_of(labels, labels + n, [](float v) { return std::isfinite(v); }))
        return *why = "the loss is not finite", false;
    std::vector<double> p(n), t(n);
    const auto          softmax = [&](std::vector<double>* v) {
        const double top = *std::max_element(v->begin(), v->end());
        double       sum = 0;
        for (double& u : *v) u = memory::exp_natural(std::max(-700.0, u - top)), sum += u;
        for (double& u : *v) u /= sum;
    };
    for (size_t i = 0; i < n; ++i)
        p[i] = double(b.logit(rows[i])) / double(temperature), t[i] = double(labels[i]) / double(temperature);
    softmax(&p), softmax(&t);
    *loss = 0;
    for (size_t i = 0; i < n; ++i)
        if (t[i] > 0) *loss += t[i] * (memory::log_natural(t[i]) - memory::log_natural(std::max(p[i], 1e-300)));
    if (!std::isfinite(*loss)) return *why = "the loss is not finite", false;
    std::vector<double> gradient(n_weights);
    for (size_t i = 0; i < n; ++i) {
        const double d = (p[i] - t[i]) / double(temperature);
        for (int k = 0; k < n_terms; ++k) gradient[size_t(k)] += d * double(rows[i].term[k]);
        for (int k = 0; k < 2; ++k)
            if (rows[i].slot[k] >= 0) gradient[size_t(n_terms + k * n_slots + rows[i].slot[k])] += d;
    }

    // 2. Adam, on a copy.
    std::vector<float> weight = b.weight, moment = b.moment, square = b.square;
    const double       step = double(b.lessons + 1);
    const double       unbias = 1 - memory::exp_natural(step * memory::log_natural(keep)),
                 unbias_square = 1 - memory::exp_natural(std::max(-700.0, step * memory::log_natural(keep_square)));
    for (size_t k = 0; k < size_t(n_weights); ++k) {
        const double m = keep * double(moment[k]) + (1 - keep) * gradient[k],
                     v = keep_square * double(square[k]) + (1 - keep_square) * gradient[k] * gradient[k];
        moment[k] = float(m), square[k] = float(v);
        weight[k] = float(double(weight[k]) - rate * (m / unbias) / (std::sqrt(v / unbias_square) + 1e-8));
        if (!(std::fabs(weight[k]) < 1e6f) || !(std::fabs(moment[k]) < 1e6f) || !(square[k] < 1e6f))
            return *why = "a weight is out of bounds", false;
    }

    // 3. Is the pool scored last still ranked much as before?
    const std::vector<Row>& pool = b.canary.empty() ? rows : b.canary;
    bool                    before = false, after = false;
    const auto              old_best = b.best_five(pool, b.weight, &before), new_best = b.best_five(pool, weight, &after);
    size_t                  left = 0;
    for (size_t i : new_best) left += std::find(old_best.begin(), old_best.end(), i) != old_best.end();
    if (before && !after) return *why = "the scores would no longer differ", false;
    if (left * 5 < old_best.size() * 3) return *why = "the best five would change too much", false;
    b.weight = weight, b.moment = moment, b.square = square;
    b.pairs += n, ++b.lessons;
    return true;
}

void Sidecar::reset() {
    Body& b = *body_;
    if (b.file != nullptr) b.engine.reset();
    else b.bare->reset();
    std::fill(b.lately.begin(), b.lately.end(), 0.0f);
}

// magic[8], fingerprint (64), native_dim (32), state, lately, a hash of all of it (64).
void Sidecar::state(std::string* out) const {
    const Body&  b = *body_;
    const size_t begin = out->size();
    *out += "SSMSIDE1";
    put64(out, b.fingerprint), put32(out, uint32_t(b.native_dim));
    if (b.file != nullptr) b.engine.save(out);
    else b.bare->save(out);
    for (float v : b.lately) put32(out, bits_of(v));
    put64(out, mix(mix_start, out->data() + begin, out->size() - begin));
}

bool Sidecar::take_state(const unsigned char* p, size_t bytes, std::string* why) {
    Body&        b = *body_;
    const size_t fixed = 20, tail = b.lately.size() * 4 + 8;
    if (bytes < fixed || std::memcmp(p, "SSMSIDE1", 8) != 0) return *why = "no state of a sidecar", false;
    if (get64(p + 8) != b.fingerprint) return *why = "the state belongs to another model", false;
    if (get32(p + 16) != uint32_t(b.native_dim))
        return *why = "the state is for embeddings of " + std::to_string(get32(p + 16)) + " numbers, expected " +
                      std::to_string(b.native_dim),
               false;
    if (bytes < fixed + tail || get64(p + bytes - 8) != mix(mix_start, p, bytes - 8))
        return *why = "the state is damaged", false;
    std::vector<float> lately;
    for (size_t k = 0; k < b.lately.size(); ++k) {
        lately.push_back(float_of(get32(p + bytes - tail + 4 * k)));
        if (!std::isfinite(lately.back())) return *why = "the state is damaged", false;
    }
    const size_t inner = bytes - fixed - tail;
    const char* const bad = "the state is damaged, or of other limits";
    if (b.file == nullptr) {
        memory::Memory m(b.limits); // proven before it is taken
        if (m.load(p + fixed, inner) != inner) return *why = bad, false;
        *b.bare = std::move(m);
    } else if (!b.engine.load(p + fixed, inner)) return *why = bad, false;
    b.lately = std::move(lately);
    return true;
}

bool Sidecar::save_state(const char* path, std::string* why) const {
    std::string bytes;
    state(&bytes);
    return write_file_atomically(path, {{bytes.data(), bytes.size()}}, why);
}

bool Sidecar::load_state(const char* path, std::string* why) {
    std::string bytes;
    return tool::read_file(path, size_t(1) << 30, &bytes, why) == tool::done &&
           take_state(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), why);
}

bool Sidecar::checkpoint(const char* path, std::string* why) const {
    const Body& b = *body_;
    if (b.file == nullptr) return *why = "there is no model to save", false;
    std::map<std::string, std::string> metadata;
    std::vector<TensorOut>             tensors;
    for (int32_t k = 0; k < b.file->index.n_entries; ++k) {
        const ssm::Entry& e = b.file->index.entries[k];
        const std::string name = tool::unescape(e.name, size_t(e.name_len));
        if (name.compare(0, 6, "state.") == 0) continue;
        if (e.value != nullptr) {
            metadata[name] = tool::unescape(e.value, size_t(e.value_len));
            continue;
        }
        TensorOut t;
        int64_t   dims[ssm::max_rank];
        ssm::shape_of(e, dims);
        t.name = name, t.dtype = ssm::dtype_name(e.dtype);
        for (int d = 0; d < e.rank; ++d) t.shape.push_back(uint64_t(dims[d]));
        t.data = b.file->index.data + e.begin, t.bytes = size_t(e.end - e.begin);
        tensors.push_back(t);
    }
    std::string head, bytes;
    for (const auto* w : {&b.weight, &b.moment, &b.square})
        for (float v : *w) put32(&head, bits_of(v));
    state(&bytes);
    metadata[pairs_key] = std::to_string(b.pairs) + " " + std::to_string(b.lessons) + " " + std::to_string(b.learned_at);
    tensors.push_back({head_tensor, "F32", {3, uint64_t(n_weights)}, head.data(), head.size()});
    tensors.push_back({state_tensor, "U8", {uint64_t(bytes.size())}, bytes.data(), bytes.size()});
    return write_safetensors(path, metadata, tensors, why);
}

// ---- A history's files, ranked by a sidecar that learns from each commit it was asked about

namespace {
class Learner : public next::HistoryRanker {
  public:
    explicit Learner(memory::Limits limits) : sidecar(1, limits) {}
    Sidecar sidecar;

    bool apply(const history::Event& e) override {
        if (asked_) learn(e);
        asked_ = false;
        sidecar.observe(commits_.event(e));
        tracker_.apply(e, nullptr);
        return true;
    }
    std::vector<float> scores(const std::vector<int32_t>& candidates, const history::Event* coming) override {
        ids_ = candidates, scores_.resize(ids_.size()), pool_.assign(ids_.size(), {});
        for (size_t i = 0; i < ids_.size(); ++i) pool_[i].key = Commits::key(ids_[i]);
        context_ = {};
        if (coming != nullptr) {
            const memory::Query q = commits_.query(*coming);
            context_.words = q.words, context_.author = q.author, context_.seconds = q.seconds;
        }
        sidecar.score(context_, pool_.data(), pool_.size(), scores_.data());
        asked_ = coming != nullptr;
        return scores_;
    }
    size_t state_bytes() const override { return sidecar.state_bytes(); }
    bool   learns() const override { return true; }

  private:
    // The files the commit touched, and the first others as they were ranked.
    void learn(const history::Event& e) {
        std::vector<size_t>    order(ids_.size());
        std::vector<float>     labels;
        std::vector<Candidate> pool;
        for (size_t i = 0; i < order.size(); ++i) order[i] = i;
        std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores_[a] > scores_[b]; });
        size_t others = 0, targets = 0;
        for (size_t i : order) {
            const bool target = std::any_of(e.ops.begin(), e.ops.end(),
                                            [&](const history::Op& op) { return op.kind != 'a' && op.id == ids_[i]; });
            if (!target && others == 31) continue;
            (target ? targets : others) += 1;
            pool.push_back(pool_[i]), labels.push_back(target ? 8.0f : 0.0f);
        }
        double      loss = 0;
        std::string why;
        if (targets > 0 && others > 0) sidecar.learn(context_, pool.data(), pool.size(), labels.data(), temperature, &loss, &why);
    }
    static constexpr float temperature = 1;

    Commits                commits_;
    Context                context_;
    std::vector<int32_t>   ids_;
    std::vector<Candidate> pool_;
    std::vector<float>     scores_;
    bool                   asked_ = false;
};
} // namespace

std::unique_ptr<next::HistoryRanker> open_learner(const char* verb, const char* path, ssm::Isa isa,
                                                  memory::Limits limits, std::string* why) {
    auto learner = std::make_unique<Learner>(limits);
    if (!learner->sidecar.open(verb, path, isa, why)) return nullptr;
    return learner;
}

} // namespace relevance
