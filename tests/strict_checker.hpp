// strict_checker.hpp - a second opinion on safetensors files, for tests only: slow, plain, written unlike the library.
//
// It decodes the whole header to code points, builds a tree of it with the standard containers, recursion and
// exceptions, and then applies the rules ST-01 to ST-20 to the tree. The library must agree with it on every file.
// SPDX-License-Identifier: MIT
#ifndef STRICT_CHECKER_HPP
#define STRICT_CHECKER_HPP

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace strict {

struct Refused : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Tensor {
    std::string           dtype;
    std::vector<uint64_t> shape;
    uint64_t              begin = 0, end = 0;
};
struct File {
    std::map<std::string, Tensor>      tensors; // by unescaped name
    std::map<std::string, std::string> metadata;
    size_t                             data_at = 0;
};

// ---- UTF-8 to code points and back, by the table of the Unicode standard

inline std::u32string decode(const std::string& s) {
    std::u32string out;
    size_t         i = 0;
    while (i < s.size()) {
        const auto byte = [&](size_t k) -> uint32_t { return k < s.size() ? uint8_t(s[k]) : 0u; };
        uint32_t   b = byte(i), code = 0;
        size_t     n = 0;
        if (b <= 0x7f) code = b, n = 1;
        else if (b >= 0xc0 && b <= 0xdf) code = b - 0xc0, n = 2;
        else if (b >= 0xe0 && b <= 0xef) code = b - 0xe0, n = 3;
        else if (b >= 0xf0 && b <= 0xf7) code = b - 0xf0, n = 4;
        else throw Refused("UTF-8: first byte");
        for (size_t k = 1; k < n; ++k) {
            if (byte(i + k) / 64 != 2) throw Refused("UTF-8: continuation");
            code = code * 64 + byte(i + k) % 64;
        }
        const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
        if (code < least[n]) throw Refused("UTF-8: overlong");
        if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) throw Refused("UTF-8: not a character");
        out.push_back(char32_t(code));
        i += n;
    }
    return out;
}
inline void encode(std::string& out, uint32_t c) {
    if (c < 0x80) out += char(c);
    else if (c < 0x800) out += char(192 + c / 64), out += char(128 + c % 64);
    else if (c < 0x10000) out += char(224 + c / 4096), out += char(128 + c / 64 % 64), out += char(128 + c % 64);
    else
        out += char(240 + c / 262144), out += char(128 + c / 4096 % 64), out += char(128 + c / 64 % 64),
            out += char(128 + c % 64);
}

// ---- JSON, as a tree

struct Value {
    char                                       type = '?'; // { [ " 0 t f n
    std::string                                text;       // of a string (unescaped) or a number
    std::vector<Value>                         items;
    std::vector<std::pair<std::string, Value>> members;
    const Value*                               find(const std::string& name) const {
                                      for (const auto& m : members)
            if (m.first == name) return &m.second;
        return nullptr;
    }
    bool repeats_a_name() const {
        std::set<std::string> seen;
        for (const auto& m : members)
            if (!seen.insert(m.first).second) return true;
        return false;
    }
};

class Parser {
  public:
    explicit Parser(std::u32string t) : text(std::move(t)) {}
    Value document() {
        Value v = value(0);
        blanks();
        if (at < text.size()) throw Refused("JSON: trailing text");
        return v;
    }

  private:
    std::u32string text;
    size_t         at = 0;

    char32_t peek() const { return at < text.size() ? text[at] : char32_t(-1); }
    char32_t take() {
        if (at >= text.size()) throw Refused("JSON: cut short");
        return text[at++];
    }
    void expect(char32_t c) {
        if (take() != c) throw Refused("JSON: unexpected character");
    }
    void blanks() {
        while (peek() == U' ' || peek() == U'\t' || peek() == U'\n' || peek() == U'\r') ++at;
    }
    void word(const char32_t* w) {
        for (; *w != 0; ++w) expect(*w);
    }
    uint32_t hex() {
        uint32_t v = 0;
        for (int i = 0; i < 4; ++i) {
            const std::u32string lower = U"0123456789abcdef", upper = U"0123456789ABCDEF";
            const char32_t       c = take();
            const size_t         k = std::min(lower.find(c), upper.find(c));
            if (k == std::u32string::npos) throw Refused("JSON: hex digit");
            v = v * 16 + uint32_t(k);
        }
        return v;
    }
    std::string string() {
        std::string out;
        expect(U'"');
        for (;;) {
            char32_t c = take();
            if (c == U'"') return out;
            if (c < 32) throw Refused("JSON: control character");
            if (c == U'\\') {
                const std::map<char32_t, char32_t> simple = {{U'"', U'"'}, {U'\\', U'\\'}, {U'/', U'/'}, {U'b', 8},
                                                             {U'f', 12},   {U'n', 10},     {U'r', 13},   {U't', 9}};
                c = take();
                if (c == U'u') {
                    uint32_t u = hex();
                    if (u / 1024 == 0xd800 / 1024) { // the first half of a pair
                        expect(U'\\');
                        expect(U'u');
                        const uint32_t low = hex();
                        if (low / 1024 != 0xdc00 / 1024) throw Refused("JSON: surrogate");
                        u = 0x10000 + (u - 0xd800) * 1024 + (low - 0xdc00);
                    } else if (u / 1024 == 0xdc00 / 1024) throw Refused("JSON: surrogate");
                    c = u;
                } else if (simple.count(c) != 0) c = simple.at(c);
                else throw Refused("JSON: escape");
            }
            encode(out, c);
        }
    }
    void digits(std::string& out) {
        if (peek() < U'0' || peek() > U'9') throw Refused("JSON: digit");
        while (peek() >= U'0' && peek() <= U'9') out += char(take());
    }
    std::string number() {
        std::string out;
        if (peek() == U'-') out += char(take());
        const size_t first = out.size();
        digits(out);
        if (out[first] == '0' && out.size() > first + 1) throw Refused("JSON: leading zero");
        if (peek() == U'.') out += char(take()), digits(out);
        if (peek() == U'e' || peek() == U'E') {
            out += char(take());
            if (peek() == U'+' || peek() == U'-') out += char(take());
            digits(out);
        }
        return out;
    }
    Value value(int depth) {
        blanks();
        Value v;
        switch (peek()) {
        case U'{':
        case U'[': {
            if (depth == 32) throw Refused("limit: depth");
            const bool object = take() == U'{';
            v.type = object ? '{' : '[';
            blanks();
            if (peek() == (object ? U'}' : U']')) {
                ++at;
                return v;
            }
            for (;;) {
                if (object) {
                    blanks();
                    std::string name = string();
                    blanks();
                    expect(U':');
                    v.members.emplace_back(std::move(name), value(depth + 1));
                } else v.items.push_back(value(depth + 1));
                blanks();
                if (peek() != U',') break;
                ++at;
            }
            expect(object ? U'}' : U']');
            return v;
        }
        case U'"':
            v.type = '"', v.text = string();
            return v;
        case U't':
            v.type = 't', word(U"true");
            return v;
        case U'f':
            v.type = 'f', word(U"false");
            return v;
        case U'n':
            v.type = 'n', word(U"null");
            return v;
        default:
            v.type = '0', v.text = number();
            return v;
        }
    }
};

// ---- The rules

inline uint64_t integer(const Value& v) { // ST-12
    const std::string most = "18446744073709551615";
    if (v.type != '0' || v.text.find_first_not_of("0123456789") != std::string::npos)
        throw Refused("ST-12: not an integer");
    if (v.text.size() > most.size() || (v.text.size() == most.size() && v.text > most))
        throw Refused("ST-12: beyond 64 bits");
    return std::stoull(v.text);
}

inline uint64_t product(uint64_t a, uint64_t b) {
    uint64_t c = 0;
    if (__builtin_mul_overflow(a, b, &c)) throw Refused("ST-15: overflow");
    return c;
}

inline const std::map<std::string, unsigned>& dtype_sizes() { // in bits
    static const std::map<std::string, unsigned> sizes = {
        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"BOOL", 8},        {"U8", 8},          {"I8", 8},
        {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
        {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
        {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64}};
    return sizes;
}

// Throws Refused with the rule, or returns what the file holds.
inline File check(const std::string& bytes) {
    File file;
    if (bytes.size() < 8) throw Refused("ST-01");
    uint64_t n = 0;
    for (size_t i = 8; i-- > 0;) n = n * 256 + uint8_t(bytes[i]);
    if (n > 100000000) throw Refused("ST-02");
    if (n > bytes.size() - 8) throw Refused("ST-03");
    file.data_at = 8 + size_t(n);
    const Value root = Parser(decode(bytes.substr(8, size_t(n)))).document();
    if (root.type != '{') throw Refused("ST-05");
    if (root.repeats_a_name()) throw Refused("ST-17 or ST-18");
    for (const auto& m : root.members) {
        const Value& v = m.second;
        if (m.first == "__metadata__") {
            if (v.type == 'n') continue;
            if (v.type != '{') throw Refused("ST-19");
            if (v.repeats_a_name()) throw Refused("ST-18");
            for (const auto& kv : v.members) {
                if (kv.second.type != '"') throw Refused("ST-19");
                file.metadata[kv.first] = kv.second.text;
            }
            continue;
        }
        if (v.type != '{') throw Refused("ST-08");
        if (v.members.size() > 32) throw Refused("limit: fields");
        if (v.repeats_a_name()) throw Refused("ST-18");
        const Value *dtype = v.find("dtype"), *shape = v.find("shape"), *offsets = v.find("data_offsets");
        if (dtype == nullptr || shape == nullptr || offsets == nullptr) throw Refused("ST-09");
        if (dtype->type != '"' || dtype_sizes().count(dtype->text) == 0) throw Refused("ST-11");
        if (shape->type != '[') throw Refused("ST-12");
        if (offsets->type != '[' || offsets->items.size() != 2) throw Refused("ST-13");
        Tensor   t;
        uint64_t elements = 1;
        t.dtype = dtype->text;
        for (const Value& d : shape->items) t.shape.push_back(integer(d));
        if (t.shape.size() > 8) throw Refused("limit: rank");
        for (uint64_t d : t.shape) elements = product(elements, d);
        const uint64_t bits = product(elements, dtype_sizes().at(t.dtype));
        if (bits % 8 != 0) throw Refused("ST-15");
        t.begin = integer(offsets->items[0]), t.end = integer(offsets->items[1]);
        if (t.begin > t.end) throw Refused("ST-14");
        if (t.end - t.begin != bits / 8) throw Refused("ST-15");
        file.tensors[m.first] = t;
    }
    std::set<std::tuple<uint64_t, uint64_t, std::string>> in_order;
    for (const auto& t : file.tensors) in_order.insert({t.second.begin, t.second.end, t.first});
    uint64_t end = 0;
    for (const auto& t : in_order) {
        if (std::get<0>(t) != end) throw Refused("ST-14");
        end = std::get<1>(t);
    }
    if (end != bytes.size() - file.data_at) throw Refused("ST-16");
    return file;
}
} // namespace strict

#endif // STRICT_CHECKER_HPP
