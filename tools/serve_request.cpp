// serve_request.cpp - what a line of `ssm serve` says, read in one pass.
// SPDX-License-Identifier: MIT
#include "serve_request.hpp"

#include "memory.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace serve {
namespace {

const char beyond_float[] = "a number beyond the range of a float";
const char not_array[] = "expected an array";
const char not_integer[] = "expected an integer, 0 or more";

// Takes a null; the value is then done with.
bool take_null(Scanner* s, Member* m) {
    if (s->peek() != Kind::null) return false;
    m->set(Member::null);
    return s->word();
}
// A value of the wrong type: passed over.
void refuse(Scanner* s, const char* why, Member* m) {
    m->set(Member::given);
    m->blame(why);
    s->skip();
}
} // namespace

// ---- Values

// A row of numbers into row_, behind its `[`. False: the text is malformed.
bool Request::read_row(Scanner* s, size_t width, size_t* count, const char** wrong) {
    bool finite = true, ended = true;
    *wrong = nullptr;
    if (!s->array() || !s->numbers(row_.data(), width, count, &finite, &ended)) return false;
    if (!ended) {
        *wrong = "expected numbers";
        bool first = true; // of what is left; a comma is behind us already
        do {
            if (!s->skip()) return false;
            first = false;
        } while (s->element(&first));
    } else if (!finite) *wrong = beyond_float;
    return s->good();
}

void Request::read_rows(Scanner* s, size_t width, Rows* rows, Member* m) {
    rows->clear();
    if (take_null(s, m)) return;
    if (s->peek() != Kind::array) return refuse(s, not_array, m);
    m->set(Member::given);
    s->array();
    for (bool first = true; s->element(&first);) {
        const bool  kept = rows->n++ < max_pool;
        int32_t     at = -1;
        size_t      count = 0;
        const char* wrong = nullptr;
        switch (s->peek()) {
        case Kind::null:
            s->word();
            break;
        case Kind::array:
            if (!read_row(s, width, &count, &wrong)) return;
            if (wrong != nullptr) m->blame(wrong, rows->n);
            else if (count != width) {
                if (rows->odd == 0) rows->odd = rows->n, rows->odd_width = count;
            } else if (kept) {
                at = int32_t(rows->data.size() / width);
                rows->data.insert(rows->data.end(), row_.data(), row_.data() + width);
            }
            break;
        default:
            m->blame("expected an array of numbers or null", rows->n);
            s->skip();
        }
        if (kept) rows->at.push_back(at);
    }
}

void Request::read_texts(Scanner* s, bool nulls, Texts* to, Member* m) {
    to->clear();
    if (take_null(s, m)) return;
    if (s->peek() != Kind::array) return refuse(s, not_array, m);
    m->set(Member::given);
    s->array();
    for (bool first = true; s->element(&first);) {
        Text       t{nullptr, 0, true};
        const Kind kind = s->peek();
        ++to->n;
        if (kind == Kind::string) s->string(&t);
        else {
            if (kind != Kind::null || !nulls)
                m->blame(nulls ? "expected a string or null" : "expected a string", to->n);
            s->skip();
        }
        if (to->n <= max_pool) to->all.push_back(t);
    }
}

void Request::read_text(Scanner* s, Text* t, Member* m) {
    *t = Text{nullptr, 0, true};
    if (take_null(s, m)) return;
    if (s->peek() != Kind::string) return refuse(s, "expected a string", m);
    m->set(Member::given);
    s->string(t);
}
void Request::read_number(Scanner* s, float* value, Member* m) {
    if (take_null(s, m)) return;
    if (s->peek() != Kind::number) return refuse(s, "expected a number", m);
    m->set(Member::given);
    if (s->number(value) && !std::isfinite(*value)) m->blame(beyond_float);
}
// 0 | [1-9][0-9]*, of any size: no method looks at the value.
void Request::read_integer(Scanner* s, Member* m) {
    if (take_null(s, m)) return;
    if (s->peek() != Kind::number) return refuse(s, not_integer, m);
    float            value = 0;
    std::string_view text;
    m->set(Member::given);
    if (s->number(&value, &text) && text.find_first_not_of("0123456789") != text.npos) m->blame(not_integer);
}
void Request::read_labels(Scanner* s, Member* m) {
    label.clear();
    n_labels = 0;
    if (take_null(s, m)) return;
    if (s->peek() != Kind::array) return refuse(s, not_array, m);
    m->set(Member::given);
    s->array();
    for (bool first = true; s->element(&first);) {
        float value = 0;
        ++n_labels;
        if (s->peek() != Kind::number) {
            m->blame("expected a number", n_labels);
            s->skip();
        } else if (s->number(&value) && !std::isfinite(value)) m->blame(beyond_float, n_labels);
        if (n_labels <= max_pool) label.push_back(value);
    }
}

// ---- Events

// One id of an event whose items begin at `first`; an id that is there already is not taken twice.
void Request::add_item(const Text& id, size_t first, bool* many) {
    decode(id, &decoded_);
    const uint64_t key = memory::key_of(decoded_.data(), decoded_.size());
    const auto     from = items.begin() + std::ptrdiff_t(first);
    const size_t   n = items.size() - first;
    // Beyond that number an event is bulk, and whether it has an item twice makes no difference.
    if (n <= size_t(memory::max_items_of_event) && std::find(from, items.end(), key) != items.end()) return;
    if (n == max_pool) *many = true;
    else items.push_back(key);
}
void Request::read_items(Scanner* s, size_t first_item, bool* many, Member* m) {
    items.resize(first_item);
    *many = false;
    if (take_null(s, m)) return;
    if (s->peek() != Kind::array) return refuse(s, "expected an array of strings", m);
    m->set(Member::given);
    s->array();
    for (bool first = true; s->element(&first);) {
        Text id;
        if (s->peek() != Kind::string) {
            m->blame("expected an array of strings");
            s->skip();
        } else if (s->string(&id)) add_item(id, first_item, many);
    }
}

void Request::read_event(Scanner* s, EventItem* e, bool keep) {
    Member       embedding, text, given, kind, gap, id, id_list;
    Text         one, name;
    bool         many = false;
    size_t       width = n_features;
    const size_t old = event_embeddings.data.size();
    e->first = items.size();
    s->object();
    for (bool first = true; s->member(&first, &name);) {
        const auto row = [&](size_t wanted, size_t* count, Member* m) {
            *count = 0;
            if (take_null(s, m)) return;
            if (s->peek() != Kind::array) return refuse(s, "expected an array of numbers", m);
            const char* wrong = nullptr;
            m->set(Member::given);
            if (read_row(s, wanted, count, &wrong) && wrong != nullptr) m->blame(wrong);
        };
        if (equals(name, "embedding")) {
            size_t count = 0;
            event_embeddings.data.resize(old); // one before it does not count
            e->embedding = -1;
            row(dim_, &count, &embedding);
            if (s->good() && embedding.is == Member::given && count == dim_ && keep) {
                e->embedding = int32_t(old / dim_);
                event_embeddings.data.insert(event_embeddings.data.end(), row_.data(), row_.data() + dim_);
            }
        } else if (equals(name, "features")) row(n_features, &width, &given);
        else if (equals(name, "text")) read_text(s, &e->text, &text);
        else if (equals(name, "id")) read_text(s, &one, &id);
        else if (equals(name, "ids")) read_items(s, e->first, &many, &id_list);
        else if (equals(name, "dt")) {
            e->seconds = 0;
            read_number(s, &e->seconds, &gap);
            if (e->seconds < 0) gap.blame("expected seconds, 0 or more");
        } else if (equals(name, "kind")) {
            e->kind = Text();
            if (s->peek() != Kind::number) read_text(s, &e->kind, &kind);
            else kind.set(Member::given), s->skip(); // a number says nothing here
        } else s->skip();
    }
    if (!s->good()) return;
    const std::pair<const char*, const Member*> all[] = {
        {"embedding", &embedding}, {"features", &given}, {"text", &text}, {"id", &id},
        {"ids", &id_list},         {"dt", &gap},         {"kind", &kind}};
    for (const auto& [part, m] : all)
        if (m->is == Member::wrong) events.blame(m->why, n_events, part);
    if (id.is == Member::given) add_item(one, e->first, &many);
    if (!keep) items.resize(e->first);
    e->n = items.size() - e->first;
    const std::string where = "events: element " + std::to_string(n_events) + ": ";
    if (!odd_event.empty()) return;
    if (given.is == Member::given && width != n_features && width != 0)
        odd_event = where + "expected 17 features, got " + std::to_string(width);
    else if (many) odd_event = where + "more than " + std::to_string(max_pool) + " ids";
}

void Request::read_events(Scanner* s) {
    event.clear();
    event_embeddings.clear();
    items.clear();
    odd_event.clear();
    n_events = 0;
    if (take_null(s, &events)) return;
    if (s->peek() != Kind::array) return refuse(s, not_array, &events);
    events.set(Member::given);
    s->array();
    for (bool first = true; s->element(&first);) {
        EventItem e;
        ++n_events;
        if (s->peek() != Kind::object) {
            events.blame("expected an object", n_events);
            s->skip();
        } else read_event(s, &e, n_events <= max_pool);
        if (n_events <= max_pool) event.push_back(e);
    }
}

// ---- The whole

void Request::forget_params() {
    for (Member* m :
         {&context_embedding, &context_text, &candidate_ids, &candidate_embeddings, &candidate_texts,
          &candidate_features, &labels, &temperature, &project_slot, &observe_context, &events, &path, &flags, &dt})
        m->set(Member::absent);
    params = Shape::absent;
}

void Request::read_params(Scanner* s) {
    forget_params();
    const Kind kind = s->peek();
    params = kind == Kind::object ? Shape::object : kind == Kind::null ? Shape::absent : Shape::wrong;
    if (kind != Kind::object) return void(s->skip());
    s->object();
    Text name;
    for (bool first = true; s->member(&first, &name);) {
        const auto is = [&](const char* what) { return equals(name, what); };
        if (is("context_embedding")) {
            context.clear();
            if (take_null(s, &context_embedding)) continue;
            const char* wrong = nullptr;
            if (s->peek() != Kind::array) refuse(s, "expected an array of numbers", &context_embedding);
            else if (read_row(s, dim_, &context.n, &wrong)) { // n: its width
                context_embedding.set(Member::given);
                if (wrong != nullptr) context_embedding.blame(wrong);
                else if (context.n == dim_) context.data.assign(row_.begin(), row_.begin() + std::ptrdiff_t(dim_));
            }
        } else if (is("candidate_embeddings")) read_rows(s, dim_, &embeddings, &candidate_embeddings);
        else if (is("candidate_features")) read_rows(s, n_features, &features, &candidate_features);
        else if (is("candidate_ids")) read_texts(s, false, &ids, &candidate_ids);
        else if (is("candidate_texts")) read_texts(s, true, &texts, &candidate_texts);
        else if (is("context_text")) read_text(s, &context_words, &context_text);
        else if (is("labels")) read_labels(s, &labels);
        else if (is("temperature")) read_number(s, &temperature_value, &temperature);
        else if (is("dt")) {
            read_number(s, &seconds, &dt);
            if (dt.is == Member::given && seconds < 0) dt.blame("expected seconds, 0 or more");
        } else if (is("project_slot")) read_integer(s, &project_slot);
        else if (is("flags")) read_integer(s, &flags);
        else if (is("path")) read_text(s, &path_text, &path);
        else if (is("events")) read_events(s);
        else if (is("observe_context")) {
            observe = s->peek() == Kind::true_;
            if (take_null(s, &observe_context)) continue;
            if (!observe && s->peek() != Kind::false_) refuse(s, "expected true or false", &observe_context);
            else observe_context.set(Member::given), s->word();
        } else s->skip();
    }
}

void Request::read_envelope(Scanner* s) {
    s->object();
    Text name;
    for (bool first = true; s->member(&first, &name);) {
        const Kind kind = s->peek();
        if (equals(name, "id")) {
            id_is = kind == Kind::string   ? Id::string
                    : kind == Kind::number ? Id::number
                    : kind == Kind::null   ? Id::null
                                           : Id::wrong;
            float ignored = 0;
            if (kind == Kind::string) s->string(&id_text);
            else if (kind == Kind::number) s->number(&ignored, &id_number);
            else s->skip();
        } else if (equals(name, "jsonrpc")) {
            Text version;
            has_version = true;
            if (kind == Kind::string) s->string(&version);
            else s->skip();
            version_2 = kind == Kind::string && equals(version, "2.0");
        } else if (equals(name, "method")) {
            has_method = true;
            method_is_text = kind == Kind::string;
            if (method_is_text) s->string(&method);
            else s->skip();
        } else if (equals(name, "params")) read_params(s);
        else s->skip();
    }
}

void Request::read(std::string_view line, size_t dim) {
    dim_ = dim;
    row_.resize(std::max(dim, n_features));
    id_is = Id::absent;
    has_version = version_2 = has_method = method_is_text = false;
    forget_params();

    Scanner    s(line.data(), line.size());
    const Kind kind = s.peek();
    if (kind == Kind::object) read_envelope(&s);
    else s.skip();
    s.finish();
    form = kind == Kind::object ? Form::object : kind == Kind::array ? Form::batch : Form::other;
    if (!s.good()) form = Form::malformed, why = s.why;
}

size_t Request::buffer_bytes() const {
    size_t n = decoded_.capacity() + items.capacity() * sizeof(uint64_t) + event.capacity() * sizeof(EventItem);
    for (const std::vector<float>* v :
         {&context.data, &embeddings.data, &features.data, &event_embeddings.data, &label, &row_})
        n += v->capacity() * sizeof(float);
    for (const Rows* r : {&embeddings, &features}) n += r->at.capacity() * sizeof(int32_t);
    for (const Texts* t : {&ids, &texts}) n += t->all.capacity() * sizeof(Text);
    return n;
}

} // namespace serve
