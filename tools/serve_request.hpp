// serve_request.hpp - what a line of `ssm serve` says: the envelope of a JSON-RPC request, and the params of every
// method, read in one pass into buffers that are used again. SPDX-License-Identifier: MIT
#ifndef SSM_TOOLS_SERVE_REQUEST_HPP
#define SSM_TOOLS_SERVE_REQUEST_HPP

#include "serve_json.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace serve {

constexpr size_t max_pool = size_t(1) << 16; // candidates, or events, of a request
constexpr size_t n_features = 17;

// A member of params. Wrong: not of the type it must be; `why` says so, of element `at` (from 1) if it is an array and
// of that one's member `part`.
struct Member {
    enum State { absent, null, given, wrong } is = absent;
    const char* why = "";
    const char* part = "";
    size_t      at = 0;
    void        set(State s) { is = s, why = part = "", at = 0; }
    void        blame(const char* what, size_t where = 0, const char* member = "") { // the first thing wrong counts
        if (is != wrong) is = wrong, why = what, at = where, part = member;
    }
};

// Rows of numbers. Those of the wanted width stand one after the other; at most max_pool rows are kept.
struct Rows {
    std::vector<float>   data;
    std::vector<int32_t> at; // where each row stands, in rows; -1: null, or of another width
    size_t               n = 0;
    size_t               odd = 0, odd_width = 0; // the first row of another width, from 1, and its width
    void                 clear() { data.clear(), at.clear(), n = odd = odd_width = 0; }
};
// Strings; those that are null have no text. At most max_pool are kept.
struct Texts {
    std::vector<Text> all;
    size_t            n = 0;
    void              clear() { all.clear(), n = 0; }
};
struct EventItem {
    Text    text, kind;     // none: no text
    int32_t embedding = -1; // its row in `data`; -1: none
    float   seconds = 0;
    size_t  first = 0, n = 0; // its items
};

struct Request {
    // ---- The envelope
    enum class Form { malformed, batch, other, object } form = Form::malformed;
    const char* why = ""; // it is malformed
    enum class Id { absent, null, string, number, wrong } id_is = Id::absent;
    Text             id_text;
    std::string_view id_number;
    bool             has_version = false, version_2 = false;
    bool             has_method = false, method_is_text = false;
    Text             method;
    enum class Shape { absent, object, wrong } params = Shape::absent;

    // ---- Params. Those that the method does not have are read but not looked at.
    Member context_embedding, context_text, candidate_ids, candidate_embeddings, candidate_texts, candidate_features,
        labels, temperature, project_slot, observe_context, events, path, flags, dt;
    Rows                   context, embeddings, features;
    Texts                  ids, texts;
    Text                   context_words, path_text;
    std::vector<float>     label;
    size_t                 n_labels = 0;
    float                  temperature_value = 0, seconds = 0;
    bool                   observe = false;
    std::vector<EventItem> event;
    Rows                   event_embeddings;
    std::vector<uint64_t>  items;
    size_t                 n_events = 0;
    std::string            odd_event; // why the events cannot be served although all types are right

    // Texts lie in the line. dim: the width of embeddings.
    void   read(std::string_view line, size_t dim);
    size_t buffer_bytes() const;

  private:
    void forget_params();
    void read_envelope(Scanner* s);
    void read_params(Scanner* s);
    void read_rows(Scanner* s, size_t width, Rows* rows, Member* m);
    bool read_row(Scanner* s, size_t width, size_t* count, const char** wrong);
    void read_texts(Scanner* s, bool nulls, Texts* texts, Member* m);
    void read_text(Scanner* s, Text* text, Member* m);
    void read_number(Scanner* s, float* value, Member* m);
    void read_integer(Scanner* s, Member* m);
    void read_labels(Scanner* s, Member* m);
    void read_events(Scanner* s);
    void read_event(Scanner* s, EventItem* e, bool keep);
    void read_items(Scanner* s, size_t first, bool* many, Member* m);
    void add_item(const Text& id, size_t first, bool* many);

    size_t             dim_ = 0;
    std::vector<float> row_;
    std::string        decoded_;
};

} // namespace serve
#endif
