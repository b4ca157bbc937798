// serve_json.cpp - reads the JSON of a request where it lies: no tree, numbers straight into floats.
// SPDX-License-Identifier: MIT
#include "serve_json.hpp"

#include "tool.hpp"

#include <cmath>
#include <cstring>

namespace serve {
namespace {

bool digit(char c) { return static_cast<unsigned char>(c - '0') < 10; }

// ---- Strings

int hex(char c) {
    if (digit(c)) return c - '0';
    const char low = static_cast<char>(c | 0x20);
    return low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}
// The four hexadecimal digits at `p`, of which `left` bytes are there; -1 if they are not.
int32_t hex4(const char* p, size_t left) {
    int32_t v = 0;
    if (left < 4) return -1;
    for (int i = 0; i < 4; ++i) {
        const int h = hex(p[i]);
        if (h < 0) return -1;
        v = v << 4 | h;
    }
    return v;
}
void append_point(uint32_t u, std::string* out) {
    const auto put = [&](uint32_t byte) { *out += static_cast<char>(byte); };
    if (u < 0x80) return put(u);
    if (u < 0x800) put(0xc0 | u >> 6);
    else if (u < 0x10000) put(0xe0 | u >> 12), put(0x80 | (u >> 6 & 0x3f));
    else put(0xf0 | u >> 18), put(0x80 | (u >> 12 & 0x3f)), put(0x80 | (u >> 6 & 0x3f));
    put(0x80 | (u & 0x3f));
}
constexpr uint32_t replacement = 0xfffd;

// Where a run of ordinary characters of a string ends: at a quote, a backslash, a control character or (`ascii`) at a
// byte above 0x7f. Eight bytes at a time.
const char* run(const char* p, const char* end) {
    constexpr uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;
    for (; end - p >= 8; p += 8) {
        uint64_t v;
        std::memcpy(&v, p, 8);
        const uint64_t quote = v ^ (ones * '"'), back = v ^ (ones * '\\');
        if ((((v - ones * 0x20) | (quote - ones) | (back - ones) | v) & tops) != 0) break;
    }
    while (p < end && *p != '"' && *p != '\\' && static_cast<unsigned char>(*p - 0x20) < 0x60) ++p;
    return p;
}
} // namespace

bool decode(const Text& t, std::string* out) {
    if (t.plain) return out->assign(t.text, t.bytes), true;
    out->clear();
    bool        exact = true;
    const char *p = t.text, *const end = p + t.bytes;
    const auto        replace = [&] { append_point(replacement, out), exact = false; };
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    while (p < end) {
        uint32_t point = 0;
        if (*p != '\\') {
            const size_t n = tool::utf8_sequence({p, size_t(end - p)}, 0, &point);
            if (n == 0) replace();
            else out->append(p, n);
            p += n == 0 ? 1 : n;
        } else if (p[1] != 'u') { // the scanner has seen to it that a letter follows
            *out += meanings[std::strchr(letters, p[1]) - letters];
            p += 2;
        } else {
            point = uint32_t(hex4(p + 2, 4));
            p += 6;
            if (point >= 0xd800 && point < 0xe000) {
                const int32_t low = point < 0xdc00 && end - p >= 6 && p[0] == '\\' && p[1] == 'u' ? hex4(p + 2, 4) : -1;
                if (low >= 0xdc00 && low < 0xe000) {
                    append_point(0x10000 + ((point & 0x3ff) << 10) + (uint32_t(low) & 0x3ff), out);
                    p += 6;
                } else replace();
            } else append_point(point, out);
        }
    }
    return exact;
}

bool equals(const Text& t, std::string_view what) {
    if (t.plain) return std::string_view(t.text, t.bytes) == what;
    if (t.bytes > 6 * what.size()) return false; // an escape has six characters
    std::string s;
    decode(t, &s);
    return s == what;
}

void append_raw(const Text& t, std::string* out) {
    *out += '"';
    if (t.plain) out->append(t.text, t.bytes);
    else
        for (size_t i = 0; i < t.bytes;) {
            uint32_t     point = 0;
            const size_t n = tool::utf8_sequence({t.text, t.bytes}, i, &point);
            if (n == 0) append_point(replacement, out);
            else out->append(t.text + i, n);
            i += n == 0 ? 1 : n;
        }
    *out += '"';
}

bool Scanner::fail(const char* what) {
    if (why == nullptr) why = what;
    return false;
}

bool Scanner::string(Text* out) {
    if (why != nullptr) return false;
    blanks();
    if (p == end || *p != '"') return fail("expected a string");
    out->text = ++p;
    out->plain = true;
    for (;;) {
        p = run(p, end);
        if (p == end) return fail("a string does not end");
        if (*p == '"') break;
        const unsigned char c = static_cast<unsigned char>(*p);
        if (c < 0x20) return fail("a control character stands in a string");
        out->plain = false;
        if (c != '\\') {
            ++p;
            continue;
        }
        if (end - p < 2 || std::memchr("\"\\/bfnrtu", p[1], 9) == nullptr) return fail("an escape is wrong");
        if (p[1] == 'u' && hex4(p + 2, size_t(end - p) - 2) < 0) return fail("an escape is wrong");
        p += p[1] == 'u' ? 6 : 2;
    }
    out->bytes = size_t(p++ - out->text);
    return true;
}

// ---- Numbers
//
// The digits as an integer w below 10^19, times 10^q. In double, w and 10^|q| are off by half a unit at most, their
// product or quotient by half a unit more: the true value lies within 2^-51 of it. If both ends of an interval twice
// as wide round to one float, that is the nearest one; if not, once in some ten million numbers, and for longer or more
// extreme ones, the exact parse_float() decides.

namespace {

constexpr int    max_power = 60;
constexpr double powers[max_power + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11, 1e12,
                                          1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22, 1e23, 1e24, 1e25,
                                          1e26, 1e27, 1e28, 1e29, 1e30, 1e31, 1e32, 1e33, 1e34, 1e35, 1e36, 1e37, 1e38,
                                          1e39, 1e40, 1e41, 1e42, 1e43, 1e44, 1e45, 1e46, 1e47, 1e48, 1e49, 1e50, 1e51,
                                          1e52, 1e53, 1e54, 1e55, 1e56, 1e57, 1e58, 1e59, 1e60};
constexpr uint64_t small_powers[9] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000};

// Eight bytes, the first one lowest, on every machine.
uint64_t load8(const char* p) {
    uint64_t v = 0;
    for (unsigned i = 0; i < 8; ++i) v |= uint64_t(static_cast<unsigned char>(p[i])) << 8 * i;
    return v;
}
// How many of the eight bytes are digits, from the first one on. A carry out of a byte that is none disturbs only
// those behind it.
unsigned digits_in(uint64_t v) {
    const uint64_t t = v ^ 0x3030303030303030u;
    const uint64_t others = ((t + 0x7676767676767676u) | t) & 0x8080808080808080u;
    return others == 0 ? 8 : unsigned(__builtin_ctzll(others)) / 8;
}
// The number that eight digits make: pairs, fours, all.
uint64_t value_of(uint64_t v) {
    v = (v & 0x0f0f0f0f0f0f0f0fu) * 2561 >> 8;
    v = (v & 0x00ff00ff00ff00ffu) * 6553601 >> 16;
    return (v & 0x0000ffff0000ffffu) * 42949672960001u >> 32;
}

struct Digits {
    uint64_t w = 0;
    int64_t  n = 0; // digits from the first one on that is not 0
};
// Digits up to the first byte that is none.
const char* read_digits(const char* p, const char* end, Digits* d) {
    if (d->n == 0)
        while (p < end && *p == '0') ++p;
    while (end - p >= 8) {
        const uint64_t v = load8(p);
        const unsigned n = digits_in(v);
        if (n == 0) return p;
        d->w = d->w * small_powers[n] + value_of(v << (64 - 8 * n)); // leading zeros in place of what is no digit
        d->n += n;
        p += n;
        if (n < 8) return p;
    }
    for (; p < end && digit(*p); ++p) d->w = d->w * 10 + uint64_t(*p - '0'), ++d->n;
    return p;
}

// The number at `p`. Returns where it ends; null, and *why, if there is none.
const char* read_number(const char* p, const char* end, float* out, const char** why) {
    const char* const start = p;
    const bool        negative = p < end && *p == '-';
    p += negative;
    if (p == end || !digit(*p)) return *why = "a number has no digits", nullptr;
    Digits d;
    if (*p == '0') {
        if (++p < end && digit(*p)) return *why = "a number begins with 0", nullptr;
    } else if (end - p > 1 && !digit(p[1])) d.w = uint64_t(*p++ - '0'), d.n = 1;
    else p = read_digits(p, end, &d);
    int64_t q = 0;
    if (p < end && *p == '.') {
        const char* const point = ++p;
        p = read_digits(p, end, &d);
        if (p == point) return *why = "a number has no digits behind its point", nullptr;
        q = -int64_t(p - point);
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        const bool down = ++p < end && *p == '-';
        p += p < end && (*p == '-' || *p == '+');
        if (p == end || !digit(*p)) return *why = "a number has no digits in its exponent", nullptr;
        int64_t e = 0;
        for (; p < end && digit(*p); ++p)
            if (e < 1000000000) e = e * 10 + (*p - '0');
        q += down ? -e : e;
    }
    if (d.n <= 19 && q >= -max_power && q <= max_power) {
        const double w = static_cast<double>(d.w), v = q < 0 ? w / powers[-q] : w * powers[q];
        if (v < 3.4e38) {
            constexpr double margin = 1.0 / (uint64_t(1) << 50);
            const float      low = static_cast<float>(v - v * margin), high = static_cast<float>(v + v * margin);
            if (low == high) return *out = negative ? -low : low, p;
        }
    }
    if (ssm::parse_float(start, size_t(p - start), out) != size_t(p - start))
        return *why = "a number is malformed", nullptr;
    return p;
}
} // namespace

bool Scanner::number(float* out, std::string_view* text) {
    if (why != nullptr) return false;
    blanks();
    const char* what = nullptr;
    const char* to = read_number(p, end, out, &what);
    if (to == nullptr) return fail(what);
    if (text != nullptr) *text = {p, size_t(to - p)};
    p = to;
    return true;
}

bool Scanner::numbers(float* out, size_t room, size_t* count, bool* finite, bool* ended) {
    *count = 0, *finite = true, *ended = true;
    if (why != nullptr) return false;
    bool        first = true;
    float       sum = 0; // of 0 * x: not 0 if any was not finite
    const char* what = nullptr;
    while (element(&first)) {
        for (;;) {
            if (p == end || !(digit(*p) || *p == '-')) return *ended = false, true;
            float             v = 0;
            const char* const to = read_number(p, end, &v, &what);
            if (to == nullptr) return fail(what);
            p = to;
            sum += 0.0f * v;
            if (*count < room) out[*count] = v;
            ++*count;
            if (end - p < 2 || *p != ',' || static_cast<unsigned char>(p[1]) <= ' ') break; // element() knows all
            ++p;
        }
    }
    *finite = sum == 0.0f;
    return good();
}

// ---- Structure

Kind Scanner::peek() {
    if (why != nullptr) return Kind::error;
    blanks();
    if (p < end) switch (*p) {
        case '{':
            return Kind::object;
        case '[':
            return Kind::array;
        case '"':
            return Kind::string;
        case 't':
            return Kind::true_;
        case 'f':
            return Kind::false_;
        case 'n':
            return Kind::null;
        default:
            if (digit(*p) || *p == '-') return Kind::number;
        }
    fail(p < end ? "expected a value" : "the text ends too early");
    return Kind::error;
}
bool Scanner::enter() {
    if (level == max_levels) return fail("nested too deep");
    ++level;
    ++p;
    return true;
}
bool Scanner::object() { return peek() == Kind::object ? enter() : fail("expected an object"); }
bool Scanner::array() { return peek() == Kind::array ? enter() : fail("expected an array"); }

bool Scanner::member(bool* first, Text* name) {
    if (why != nullptr) return false;
    blanks();
    if (p == end) return fail("the text ends too early");
    if (*p == '}') {
        --level;
        ++p;
        return false;
    }
    if (!*first) {
        if (*p != ',') return fail("expected a comma or }");
        ++p;
    }
    *first = false;
    if (!string(name)) return false;
    blanks();
    if (p == end || *p != ':') return fail("expected a colon");
    ++p;
    return true;
}
bool Scanner::element(bool* first) {
    if (why != nullptr) return false;
    blanks();
    if (p == end) return fail("the text ends too early");
    if (*p == ']') {
        --level;
        ++p;
        return false;
    }
    if (!*first) {
        if (*p != ',') return fail("expected a comma or ]");
        ++p;
        blanks();
    }
    *first = false;
    return true;
}
bool Scanner::word() {
    if (why != nullptr) return false;
    blanks();
    for (const std::string_view w : {"true", "false", "null"})
        if (std::string_view(p, size_t(end - p)).substr(0, w.size()) == w) return p += w.size(), true;
    return fail("expected a value");
}

bool Scanner::skip() {
    bool      objects[max_levels + 1]; // of each level: whether it is one
    const int outside = level;
    bool      first = false;
    Text      text;
    float     ignored;
    for (;;) {
        // 1. A value, or the beginning of one.
        switch (peek()) {
        case Kind::error:
            return false;
        case Kind::object:
        case Kind::array: {
            const bool is_object = *p == '{';
            if (!enter()) return false;
            objects[level] = is_object;
            first = true;
            break;
        }
        case Kind::string:
            if (!string(&text)) return false;
            break;
        case Kind::number:
            if (!number(&ignored)) return false;
            break;
        default:
            if (!word()) return false;
        }
        // 2. On to the next one, out of what ends here.
        for (;; first = false) {
            if (level == outside) return true;
            if (objects[level] ? member(&first, &text) : element(&first)) break;
            if (why != nullptr) return false;
        }
    }
}
bool Scanner::finish() {
    if (why != nullptr) return false;
    blanks();
    return p == end || fail("text follows the end of the value");
}

} // namespace serve
