// serve_json.hpp - reads the JSON of a request where it lies: no tree, numbers straight into floats.
//
// Beside the reader of ssm.hpp, which is for headers and records: this one takes nesting of 128 levels, text that is no
// UTF-8 and half surrogate pairs (both stand for U+FFFD), and reads arrays of numbers several times as fast.
// SPDX-License-Identifier: MIT
#ifndef SSM_TOOLS_SERVE_JSON_HPP
#define SSM_TOOLS_SERVE_JSON_HPP

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace serve {

// 128 levels, however those around them are counted.
constexpr int max_levels = 136;

// A string of the text: the bytes between its quotes. `plain`: it stands for just these bytes, all of them ASCII.
struct Text {
    const char* text = "";
    size_t      bytes = 0;
    bool        plain = true;
};
// The bytes it stands for, in UTF-8. False if U+FFFD replaces something that no UTF-8 has. Replaces what is in `out`.
bool decode(const Text& t, std::string* out);
bool equals(const Text& t, std::string_view what);
// The string as JSON, quotes included: as it was written, but for bytes that are no UTF-8. Appends.
void append_raw(const Text& t, std::string* out);

enum class Kind : uint8_t { error, object, array, string, number, true_, false_, null };

// A pull scanner, strict RFC 8259 but for what is said above. After an error each call returns false, and `why` says
// what was wrong; `p` stands there.
struct Scanner {
    const char* p = nullptr;
    const char* end = nullptr;
    const char* why = nullptr;
    int         level = 0;

    Scanner(const char* text, size_t bytes) : p(text), end(text + bytes) {}
    bool good() const { return why == nullptr; }

    Kind peek(); // what kind of value comes next
    // `{` and `[`. Then `bool first = true; while (s.member(&first, &name))` and the like; the value must be read.
    bool object();
    bool member(bool* first, Text* name);
    bool array();
    bool element(bool* first);
    bool string(Text* out);
    bool number(float* out, std::string_view* text = nullptr); // the nearest float, perhaps infinite
    bool word();                                               // true, false or null
    bool skip();                                               // any value
    bool finish();                                             // nothing follows

    // The rest of an array of numbers behind its `[`, up to `room` of them written, all counted. `finite`: none was
    // beyond the range of a float. Stops in front of an element that is no number, with good() and *ended false.
    bool numbers(float* out, size_t room, size_t* count, bool* finite, bool* ended);

  private:
    bool fail(const char* what);
    bool enter();
    void blanks() {
        while (p < end && (*p == ' ' || *p == '\t' || *p == '\r' || *p == '\n')) ++p;
    }
};

} // namespace serve
#endif
