// json.cpp - the JSON reader and parse_float() against cases written from the grammar, and against the C library.
// SPDX-License-Identifier: MIT
#include "../ssm.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cfenv>
#include <clocale>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace {
using namespace std::string_literals;
namespace json = ssm::json;
using json::Kind;

// Reads a text to its end from a heap block of exactly its size, so that a checked build sees every read past it.
// "" if it is well-formed, else the reader's complaint.
std::string complaint(const std::string& text, long* at = nullptr) {
    const std::unique_ptr<char[]> block(new char[text.size()]);
    std::memcpy(block.get(), text.data(), text.size());
    json::Reader r = json::open(block.get(), text.size());
    for (size_t tokens = 0;; ++tokens) {
        const json::Token t = json::next(&r);
        REQUIRE(tokens <= text.size());
        if (t.kind == Kind::end) return "";
        if (t.kind != Kind::error) continue;
        CHECK(r.error[0] != '\0');
        CHECK(json::next(&r).kind == Kind::error); // and it stays so
        if (at != nullptr) *at = r.p - block.get();
        return r.error;
    }
}
bool accepts(const std::string& text) { return complaint(text).empty(); }

// The kinds of all tokens as letters, with the text of names and values.
std::string tokens(const std::string& text) {
    static const char letters[] = "!.{}[]ksntf0";
    std::string       s;
    json::Reader      r = json::open(text.data(), text.size());
    for (;;) {
        const json::Token t = json::next(&r);
        s += letters[int(t.kind)];
        if (t.kind == Kind::key || t.kind == Kind::string || t.kind == Kind::number)
            s += "<" + std::string(t.text, t.len) + ">";
        if (t.kind == Kind::end || t.kind == Kind::error) return s;
    }
}
std::string unescaped(const std::string& quoted) {
    json::Reader      r = json::open(quoted.data(), quoted.size());
    const json::Token t = json::next(&r);
    REQUIRE(t.kind == Kind::string);
    std::string s(json::unescape(t, nullptr, 0), '?');
    CHECK(json::unescape(t, &s[0], s.size()) == s.size());
    return s;
}
std::string repeat(const std::string& s, int n) {
    std::string all;
    for (int i = 0; i < n; ++i) all += s;
    return all;
}
} // namespace

TEST_CASE("ST-06 JSON accepted: every construct of the grammar") {
    const std::vector<std::string> cases = {
        // structure
        "[]", "{}", "[ ]", "{ }", " []", "[] ", "\t[\n]\r\n", "[[]]", "[[],[]]", "[{}]", "[{},{}]", "{\"a\":{}}",
        "{\"a\":[]}", "{\"a\":{\"b\":{\"c\":[]}}}", "[[[[[1]]]]]", "[1,2]", "[1 , 2]", "[\n1\n,\n2\n]",
        "{\"a\":1,\"b\":2}", "{ \"a\" : 1 , \"b\" : 2 }", "{\"a\":1,\"a\":1}", "{\"a\":1,\"a\":2}", "{\"\":0}",
        "{\"\":{\"\":{}}}", "[\"a\",1,true,false,null,{},[]]", "{\"min\":-1.0e+28,\"max\":1.0e+28}",
        "{\r\n\"a\"\t:\t[ null ] }", "[null]", "[true]", "[false]", "[null,null]", "[[],{},[[]]]",
        "{\"a\":null,\"b\":true,\"c\":false}",
        // lone values
        "1", "-1", "0", "null", "true", "false", "\"\"", "\"a\"", " 1 ", "\n\"x\"\n", "-0.1", "1e1",
        // numbers
        "[0]", "[-0]", "[1]", "[-1]", "[10]", "[123456789]", "[0.0]", "[-0.0]", "[0.5]", "[1.5]", "[123.456]", "[0e1]",
        "[0E1]", "[0e+1]", "[0e-1]", "[1e1]", "[1E22]", "[1e+2]", "[1E+2]", "[1e-2]", "[1E-2]", "[1.5e3]", "[1.5E-3]",
        "[-1.5e+3]", "[1e00]", "[1e007]", "[0.00000000000000000000001]", "[-123]",
        "[-0.000000000000000000000000000000000000000000000000000000000000000000000000001]",
        "[12345678901234567890123456789]", "[100000000000000000000e5]",
        // numbers whose value is out of range are still well-formed
        "[1e999]", "[-1e999]", "[1e-999]", "[1e99999999999999999999]",
        "[0.4e00669999999999999999999999999999999999999999999969999999006]",
        // strings
        "[\"\"]", "[\"a\"]", "[\"asd \"]", "[\" \"]", "[\"/\"]", "[\"'\"]", "[\"\\\"\"]", "[\"\\\\\"]", "[\"\\/\"]",
        "[\"\\b\\f\\n\\r\\t\"]", "[\"\\u0000\"]", "[\"\\u0012\"]", "[\"\\u0022\"]", "[\"\\u005C\"]", "[\"\\u00e9\"]",
        "[\"\\u00E9\"]", "[\"\\uFFFF\"]", "[\"\\uD834\\uDD1E\"]", "[\"\\ud83d\\ude00\"]", "[\"\\uDBFF\\uDFFF\"]",
        "[\"\\uD800\\uDC00\"]", "[\"\\uD7FF\"]", "[\"\\uE000\"]", "[\"\\\\u0000\"]", "[\"\\\\a\"]", "[\"\\\"x\\\"\"]",
        "[\"a/*b*/c\"]", "[\"\x7f\"]", "[\"\\u2028\\u2029\"]", "[\"\\uFEFF\"]", "[\"\\u200B\"]", "[\"\\uFDD0\"]",
        // UTF-8: first and last of every length, and beside the surrogates
        "[\"\xc2\x80\"]", "[\"\xdf\xbf\"]", "[\"\xe0\xa0\x80\"]", "[\"\xef\xbf\xbf\"]", "[\"\xed\x9f\xbf\"]",
        "[\"\xee\x80\x80\"]", "[\"\xf0\x90\x80\x80\"]", "[\"\xf4\x8f\xbf\xbf\"]", "[\"\xe2\x82\xac\xf0\x9d\x84\x9e\"]",
        "[\"\xef\xbb\xbf\"]", "[\"\xe2\x80\xa8\xe2\x80\xa9\"]", "[\"\xcf\x80\"]", "[\"\xf3\xa0\x80\xa0\"]",
        "{\"\xc3\xa9\":1}", "{\"\\u00e9\":\"\\u00e9\"}", "{\"a\\u0000b\":0}", "{\"\\\"\":1}",
        // depth: at the limit
        repeat("[", 32) + repeat("]", 32), repeat("{\"a\":", 31) + "{}" + repeat("}", 31),
        repeat("[{\"a\":", 16) + "1" + repeat("}]", 16)};
    CHECK(cases.size() >= 90);
    for (const std::string& text : cases) {
        CAPTURE(text);
        CHECK(complaint(text) == "");
        CHECK(complaint(" \t\r\n" + text + "\n\r\t ") == "");
        for (const char* tail : {"x", "]", "}", ",", "0 0", "\v", "\f", "\xc2\xa0", "\xef\xbb\xbf", "[]", "\"\"", "//"})
            CHECK(!accepts(text + " " + tail));
        CHECK(!accepts(text + "\0"s));
    }
}

TEST_CASE("ST-04 ST-06 ST-07 JSON refused: every way to be wrong") {
    const std::vector<std::string> cases = {
        // nothing, or not a value
        "", " ", "\n\n", "a", "nul", "nulll", "Null", "NULL", "tru", "truee", "True", "TRUE", "fals", "falsey", "FALSE",
        "undefined", "NaN", "nan", "Infinity", "-Infinity", "inf", "-", "+", ".", ",", ":", "'a'", "`a`", "\\", "/",
        "//", "/**/", "#", "*", "_", "@", "<null>", "(1)", "&", "\0"s, "\x01", "\x1f", "\x7f", "\x80", "\xff",
        "\xef\xbb\xbf{}", "\xef\xbb\xbf", "\xfe\xff\0[\0]"s, "[\0]\0"s, "\xff\xfe[\0]\0"s,
        // arrays
        "[", "]", "[[", "]]", "[]]", "[[]", "[1", "[1,", "[1,]", "[,1]", "[,]", "[,", "[1,,2]", "[,,]", "[1 2]",
        "[1:2]", "[1;2]", "[1}", "{1]", "[}", "[\"a\"", "[\"a\",", "[\"a\" \"b\"]", "[1,\n", "[[],]", "[{},]", "[{}",
        "[[[]", "[1]x", "[1],", "[1][2]", "[1] [2]", "[ ,1]", "[1, ]", "[a]", "[nul]", "[tru]", "[fals]", "[True]",
        "[1,tru]", "[*]", "[\"\": 1]", "[\"x\",truth]", "[\v]", "[\f]", "[\xc2\xa0]", "[\xe2\x81\xa0]",
        "[\xe3\x80\x80]", "[\x85]", "[1,\0]"s, "[1]\0"s, "[-]", "[/**/]", "[1/*,*/]", "[1//\n]",
        // objects
        "{", "}", "{}}", "{{}}", "{,}", "{\"a\"}", "{\"a\":}", "{\"a\":1", "{\"a\":1,", "{\"a\":1,}",
        "{\"a\":1,,\"b\":2}", "{,\"a\":1}", "{\"a\" 1}", "{\"a\",1}", "{\"a\"::1}", "{\"a\"=1}", "{\"a\":1 \"b\":2}",
        "{\"a\":1;\"b\":2}", "{\"a\":1:2}", "{:1}", "{a:1}", "{'a':1}", "{'a':'b'}", "{1:1}", "{1:\"a\"}", "{null:1}",
        "{true:1}", "{[]:1}", "{{}:1}", "{\"a\":1]", "{\"a\":[}", "{\"a\":[1}", "{\"a\":{]", "{\"a\":\"b\"",
        "{\"a\":\"b\"}#", "{\"a\":\"b\"}/**/", "{\"a\":\"b\"}{}", "{\"a\"", "{\"a", "{\"", "{\"a\":", "{\"a\":t",
        "{\"a\":1}\0"s, "{\"a\":/*x*/1}", "{/*x*/\"a\":1}", "{\"a\":1 /*}", "{\"a\" b}", "{\"a\":\"b\",c:1}",
        "{\"a\":1,1:\"b\"}", "{\"a\":1, }", "{\"\\uD800\":1}", "{\"\xff\":1}", "{\"a\":1.}", "{\"a\":01}", "{\"a\":-}",
        "{\"a\\\":1}", "{\xc3\xa9:1}",
        // numbers
        "[01]", "[00]", "[-01]", "[-00]", "[+1]", "[+0]", "[1.]", "[-1.]", "[.1]", "[-.1]", "[+.1]", "[.]", "[-.]",
        "[1..2]", "[1.2.3]", "[1e]", "[1E]", "[1e+]", "[1e-]", "[1E+]", "[1e.5]", "[1.e5]", "[1e1.5]", "[1e1e1]",
        "[1ee1]", "[1e++1]", "[1e+-1]", "[0e]", "[0e+]", "[0.e1]", "[0.3e]", "[0.3e+]", "[--1]", "[-+1]", "[+-1]",
        "[- 1]", "[1 000]", "[1,000.0.0]", "[1_000]", "[0x1]", "[0X1F]", "[0x]", "[0b1]", "[0o7]", "[1a]", "[1.5f]",
        "[1L]", "[1u]", "[1+2]", "[1-2]", "[1*2]", "[-a]", "[-\"1\"]", "[2.e3]", "[2.e+3]", "[.e1]", "[e1]", "[E]",
        "[-e1]", "[Inf]", "[-Inf]", "[+Infinity]", "[-NaN]", "[\xef\xbc\x91]", "[1\xef\xbc\x91]", "[1e\xd9\xa1]",
        "[0\xc2\xb7"
        "5]",
        "[0'000]", "[1,5e]", "[1.0x]", "-0x0", "01", "1.", "1e", "--0", "0 1", "1 2", "1,2",
        // strings
        "\"", "\"a", "[\"]", "[\"a]", "[a\"]", "[\"a\"b]", "\"\"\"", "\"a\"\"b\"", "[\"\\\"]", "[\"\\", "[\"\\\\\\\"]",
        "[\"\\x00\"]", "[\"\\a\"]", "[\"\\v\"]", "[\"\\0\"]", "[\"\\'\"]", "[\"\\e\"]", "[\"\\U0041\"]", "[\"\\ \"]",
        "[\"\\\t\"]", "[\"\\\n\"]", "[\"\\\0\"]"s, "[\"\\\xc3\xa9\"]", "[\"\\B\"]", "[\"\\N\"]", "[\"\\u\"]",
        "[\"\\u1\"]", "[\"\\u12\"]", "[\"\\u123\"]", "[\"\\u123g\"]", "[\"\\ug123\"]", "[\"\\u 123\"]", "[\"\\u+123\"]",
        "[\"\\u-123\"]", "[\"\\u12 3\"]", "[\"\\u00A\"]", "[\"\\u{41}\"]", "[\"\\u", "[\"\\u0", "[\"\\u00", "[\"\\u000",
        "[\"\\u0000", "[\"\\u123\xc3\xa9\"]", "[\"\n\"]", "[\"\r\"]", "[\"\t\"]", "[\"\0\"]"s, "[\"a\0b\"]"s,
        "[\"\x1f\"]", "[\"\x01\"]", "[\"\x0c\"]", "[\"new\nline\"]",
        // surrogates in escapes: lone, inverted, doubled, cut short
        "[\"\\uD800\"]", "[\"\\uDBFF\"]", "[\"\\uDC00\"]", "[\"\\uDFFF\"]", "[\"\\uD800x\"]", "[\"\\uD800\\n\"]",
        "[\"\\uD800\\\\\"]", "[\"\\uD800\\u0041\"]", "[\"\\uD800\\uD800\"]", "[\"\\uDC00\\uD800\"]",
        "[\"\\uD800\\uE000\"]", "[\"\\uD800\\uDBFF\"]", "[\"\\uD800\\u\"]", "[\"\\uD800\\uD\"]", "[\"\\uD800\\uDC\"]",
        "[\"\\uD800\\uDC0\"]", "[\"\\uD800\\uDC0g\"]", "[\"\\uD800\\", "[\"\\uD800\\u", "[\"\\uD800\\uDC00",
        "[\"\\uD800\\uDC00\\uDC00\"]", "[\"\\ud834\\uDd1\"]",
        // UTF-8: lone and missing continuation bytes, overlong forms, surrogates, beyond the last code point
        "[\"\x80\"]", "[\"\xbf\"]", "[\"\xc0\x80\"]", "[\"\xc0\xaf\"]", "[\"\xc1\xbf\"]", "[\"\xc2\"]", "[\"\xc2",
        "[\"\xc2\x7f\"]", "[\"\xc2\xc0\"]", "[\"\xe0\x80\x80\"]", "[\"\xe0\x9f\xbf\"]", "[\"\xe0\xa0\"]", "[\"\xe0\xa0",
        "[\"\xe2\x82\"]", "[\"\xe2\x28\xa1\"]", "[\"\xe2\x82\x28\"]", "[\"\xed\xa0\x80\"]", "[\"\xed\xbf\xbf\"]",
        "[\"\xed\xa0\x80\xed\xb0\x80\"]", "[\"\xf0\x80\x80\x80\"]", "[\"\xf0\x8f\xbf\xbf\"]", "[\"\xf0\x9d\x84\"]",
        "[\"\xf0\x9d\x84", "[\"\xf0\x28\x8c\xbc\"]", "[\"\xf0\x90\x28\xbc\"]", "[\"\xf0\x28\x8c\x28\"]",
        "[\"\xf4\x90\x80\x80\"]", "[\"\xf5\x80\x80\x80\"]", "[\"\xf8\x88\x80\x80\x80\"]",
        "[\"\xfc\x84\x80\x80\x80\x80\"]", "[\"\xfe\"]", "[\"\xff\"]", "[\"\xe9\"]", "[\"a\xe5\"]", "[\"\xc3\xa9\xa9\"]",
        "[\xc3\xa9]", "[\xff]", "[1\xe5]", "[1e1\xe5]", "[0\xe5]", "\xe5", "[\xef\xbb\xbf]",
        // depth: past the limit
        repeat("[", 33) + repeat("]", 33), repeat("{\"a\":", 33) + "1" + repeat("}", 33),
        repeat("[", 500) + repeat("]", 500), repeat("[", 100000), repeat("[{\"\":", 50000), repeat("{\"a\":", 100000)};
    CHECK(cases.size() >= 180);
    for (const std::string& text : cases) {
        const std::string shown = text.substr(0, 60);
        CAPTURE(shown);
        CHECK(!accepts(text));
    }
}

TEST_CASE("ST-06 every strict prefix of a text that ends in a bracket is refused, and the complaint stands at the "
          "right byte") {
    const std::string text =
        "{\"a\\u00e9\\ud83d\\ude00\xc3\xa9\":[1.5e-3,-0,true,false,null,{\"b\":\"\\n\"}],\"c\":{}}";
    CHECK(accepts(text));
    for (size_t n = 0; n < text.size(); ++n) CHECK(!accepts(text.substr(0, n)));
    const struct {
        const char* text;
        long        at;
        const char* why;
    } cases[] = {
        {"", 0, "the text ends too early"},
        {"[1,", 3, "the text ends too early"},
        {"[1 2]", 3, "expected a comma or ]"},
        {"{\"a\":1 2}", 7, "expected a comma or }"},
        {"[1,]", 3, "expected a value"},
        {"{\"a\":1,}", 7, "expected a name in quotes"},
        {"{\"a\" 1}", 5, "expected a colon"},
        {"[1] 2", 4, "text follows the end of the value"},
        {"[-]", 2, "a number has no digits"},
        {"[1.]", 3, "a number has no digits behind its point"},
        {"[1e]", 3, "a number has no digits in its exponent"},
        {"[\"ab", 4, "a string does not end"},
        {"[\"a\n\"]", 3, "a control character stands in a string"},
        {"[\"a\\x\"]", 3, "an escape is wrong, cut short or half a surrogate pair"},
        {"[\"a\xff\"]", 3, "not valid UTF-8"},
        {"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", 32, "nested deeper than the limit of 32"},
    };
    for (const auto& c : cases) {
        long at = -1;
        CHECK(complaint(c.text, &at) == c.why);
        CHECK(at == c.at);
    }
}

TEST_CASE("F-01 JSON: every one-byte change of a text is judged without a read past it") {
    const std::string text = "{\"a\":[1.5e3,\"\\ud83d\\ude00\xe2\x82\xac\",true],\"b\":{\"\":null}}";
    int               good = 0;
    for (size_t i = 0; i < text.size(); ++i)
        for (int b = 0; b < 256; ++b) {
            std::string t = text;
            t[i] = char(b);
            good += accepts(t);
        }
    CHECK(good > int(text.size()));
    // Random texts from an alphabet of what JSON is made of.
    std::mt19937 rng(1);
    const char   alphabet[] = "{}[]:,\"\\ud8c0truefalsn-+.0123eE \n/\xc3\xa9";
    for (int i = 0; i < 100000; ++i) {
        std::string t;
        for (size_t n = rng() % 24; n > 0; --n) t += alphabet[rng() % (sizeof alphabet - 1)];
        complaint(t);
    }
}

TEST_CASE("JSON tokens: kinds, texts, skip") {
    CHECK(tokens("{\"a\":[1,-2.5e3,\"x\\n\",true,false,null],\"b\":{}}") == "{k<a>[n<1>n<-2.5e3>s<x\\n>tf0]k<b>{}}.");
    CHECK(tokens(" 7 ") == "n<7>.");
    CHECK(tokens("[1,2") == "[n<1>n<2>!");
    CHECK(tokens("[[1],[]]x") == "[[n<1>][]]!");

    const std::string text = "{\"skip\":[1,{\"a\":[[]]},\"]\"],\"word\":true,\"keep\":5}";
    json::Reader      r = json::open(text.data(), text.size());
    CHECK(json::next(&r).kind == Kind::object);
    CHECK(json::next(&r).kind == Kind::key);
    CHECK(json::skip(&r, json::next(&r)));
    CHECK(json::equals(json::next(&r), "word"));
    CHECK(json::skip(&r, json::next(&r)));
    CHECK(json::equals(json::next(&r), "keep"));
    uint64_t v = 0;
    CHECK(json::to_uint(json::next(&r), &v));
    CHECK(v == 5);
    CHECK(json::next(&r).kind == Kind::end_object);
    CHECK(json::next(&r).kind == Kind::end);
    CHECK(json::next(&r).kind == Kind::end);

    const std::string broken = "[[1,2},3]";
    json::Reader      b = json::open(broken.data(), broken.size());
    json::next(&b);
    CHECK(!json::skip(&b, json::next(&b)));
    CHECK(!json::skip(&b, json::next(&b)));
}

TEST_CASE("JSON strings: unescape, equals") {
    CHECK(unescaped("\"\"") == "");
    CHECK(unescaped("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"") == "\"\\/\b\f\n\r\t");
    CHECK(unescaped("\"\\u0041\\u00e9\\u20AC\\uD834\\udd1e\"") == "A\xc3\xa9\xe2\x82\xac\xf0\x9d\x84\x9e");
    CHECK(unescaped("\"\\u007f\\u0080\\u07ff\\u0800\\ud7ff\\ue000\\uffff\\ud800\\udc00\\udbff\\udfff\"") ==
          "\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf");
    CHECK(unescaped("\"a\\u0000b\"") == "a\0b"s);
    CHECK(unescaped("\"\xc3\xa9\\\\u0041\"") == "\xc3\xa9\\u0041");

    // A buffer that is too small gets what fits; the length is that of all.
    char              out[4] = {'x', 'x', 'x', 'x'};
    const json::Token t{Kind::string, "a\\u20acb", 8};
    CHECK(json::unescape(t, out, 3) == 5);
    CHECK(std::string(out, 4) == "a\xe2\x82x");

    const auto equals = [](const std::string& escaped, const char* text) {
        return json::equals(json::Token{Kind::string, escaped.data(), escaped.size()}, text);
    };
    CHECK(equals("", ""));
    CHECK(equals("dtype", "dtype"));
    CHECK(equals("\\u0064type", "dtype"));
    CHECK(equals("\\u20ac", "\xe2\x82\xac"));
    CHECK(!equals("dtype", "dtyp"));
    CHECK(!equals("dtyp", "dtype"));
    CHECK(!equals("dtype\\u0000", "dtype"));
    CHECK(!equals("\\u0000", ""));
    CHECK(!equals("Dtype", "dtype"));
    // A token that no reader made: a broken escape stands for itself, and nothing behind the token is read.
    CHECK(equals("\\", "\\"));
    CHECK(equals("\\u12", "\\u12"));
    CHECK(equals("\\ud800", "\\ud800"));
}

TEST_CASE("ST-12 integers: 0 or [1-9][0-9]*, below 2^64") {
    const auto read = [](const std::string& s, uint64_t* v) {
        return json::to_uint(json::Token{Kind::number, s.data(), s.size()}, v);
    };
    const struct {
        const char* text;
        uint64_t    value;
    } good[] = {{"0", 0},
                {"1", 1},
                {"9", 9},
                {"10", 10},
                {"1234567890", 1234567890},
                {"4294967295", 4294967295u},
                {"4294967296", 4294967296u},
                {"9223372036854775808", uint64_t(1) << 63},
                {"18446744073709551614", UINT64_MAX - 1},
                {"18446744073709551615", UINT64_MAX}};
    for (const auto& g : good) {
        uint64_t v = 77;
        CHECK(read(g.text, &v));
        CHECK(v == g.value);
    }
    for (const char* bad : {"",
                            "-0",
                            "-1",
                            "+1",
                            "00",
                            "01",
                            "1.0",
                            "1.",
                            "1e2",
                            "1E2",
                            "0x1",
                            " 1",
                            "1 ",
                            "a",
                            "1a",
                            "18446744073709551616",
                            "18446744073709551620",
                            "20000000000000000000",
                            "99999999999999999999",
                            "184467440737095516150",
                            "100000000000000000000000000000000"}) {
        uint64_t v = 77;
        CAPTURE(bad);
        CHECK(!read(bad, &v));
        CHECK(v == 77);
    }
}

// ---- Numbers

namespace {
uint32_t bits_of(float x) {
    uint32_t b;
    std::memcpy(&b, &x, 4);
    return b;
}
float float_of(uint32_t b) {
    float x;
    std::memcpy(&x, &b, 4);
    return x;
}
// All of a text, from a heap block of exactly its size.
float parse(const std::string& s, size_t* used = nullptr) {
    const std::unique_ptr<char[]> block(new char[s.size()]);
    std::memcpy(block.get(), s.data(), s.size());
    float        x = -7777.0f;
    const size_t n = ssm::parse_float(block.get(), s.size(), &x);
    if (used != nullptr) *used = n;
    else CHECK(n == s.size());
    return x;
}
struct Rounding { // for as long as it lives
    explicit Rounding(int mode) { REQUIRE(std::fesetround(mode) == 0); }
    ~Rounding() { std::fesetround(FE_TONEAREST); }
};
// The midpoint between two neighbouring floats has a finite decimal text; this is all of it.
std::string halfway_text(uint32_t bits) {
    const double low = double(float_of(bits));
    const double high = bits + 1 == 0x7f800000u ? std::ldexp(1.0, 128) : double(float_of(bits + 1));
    char         text[400];
    std::snprintf(text, sizeof text, "%.160f", (low + high) / 2); // exact in double; 150 places suffice
    return text;
}
} // namespace

TEST_CASE("parse_float: grammar, and how much of the text is read") {
    const struct {
        const char* text;
        size_t      used;
        float       value;
    } cases[] = {{"0", 1, 0.0f},
                 {"1", 1, 1.0f},
                 {"+1", 2, 1.0f},
                 {"-1", 2, -1.0f},
                 {"1.", 2, 1.0f},
                 {".5", 2, 0.5f},
                 {"-.5", 3, -0.5f},
                 {"1.5", 3, 1.5f},
                 {"00012", 5, 12.0f},
                 {"1e2", 3, 100.0f},
                 {"1E2", 3, 100.0f},
                 {"1e+2", 4, 100.0f},
                 {"1e-2", 4, 0.01f},
                 {"1.e2", 4, 100.0f},
                 {".1e1", 4, 1.0f},
                 {"1e", 1, 1.0f},
                 {"1e+", 1, 1.0f},
                 {"1e-", 1, 1.0f},
                 {"1ex", 1, 1.0f},
                 {"1e 5", 1, 1.0f},
                 {"1,5", 1, 1.0f},
                 {"1 ", 1, 1.0f},
                 {"1.2.3", 3, 1.2f},
                 {"0x10", 1, 0.0f},
                 {"1f", 1, 1.0f},
                 {"1e5e5", 3, 1e5f},
                 {"12-3", 2, 12.0f},
                 {"1e0005", 6, 1e5f},
                 {"0e999999999999999999999999999", 29, 0.0f},
                 {"1_0", 1, 1.0f},
                 {"3.4028235e38", 12, std::numeric_limits<float>::max()}};
    for (const auto& c : cases) {
        size_t used = 99;
        CAPTURE(c.text);
        CHECK(bits_of(parse(c.text, &used)) == bits_of(c.value));
        CHECK(used == c.used);
    }
    for (const char* bad :
         {"",         "+",    "-",  ".",   "+.",  "-.",  "e5",  ".e5", "-e5", "inf", "nan",          "NaN",
          "Infinity", "-inf", " 1", "\t1", "\n1", "--1", "+-1", "-+1", "abc", ",5",  "\xef\xbc\x91", "x1"}) {
        float x = 3.0f;
        CAPTURE(bad);
        CHECK(ssm::parse_float(bad, std::strlen(bad), &x) == 0);
        CHECK(x == 3.0f);
    }
    float x = 3.0f;
    CHECK(ssm::parse_float(nullptr, 0, &x) == 0);
    CHECK(ssm::parse_float("1\0002", 3, &x) == 1);
    CHECK(ssm::parse_float("123", 2, &x) == 2); // no terminator is looked for
    CHECK(x == 12.0f);
    CHECK(bits_of(parse("-0")) == 0x80000000u);
    CHECK(bits_of(parse("-0.000e55")) == 0x80000000u);
}

TEST_CASE("N-11 S-05 parse_float: limits, under- and overflow, exponents of any length") {
    const float inf = std::numeric_limits<float>::infinity();
    const struct {
        std::string text;
        float       value;
    } cases[] = {{"3.4028234663852886e38", std::numeric_limits<float>::max()},
                 {"3.4028235e38", std::numeric_limits<float>::max()},
                 {"340282356779733661637539395458142568447",
                  std::numeric_limits<float>::max()}, // just below the halfway point to 2^128
                 {"340282356779733661637539395458142568448", inf},
                 {"340282356779733661637539395458142568448.0000001", inf},
                 {"3.4028236e38", inf},
                 {"1e39", inf},
                 {"9e38", inf},
                 {"1e999", inf},
                 {"1e99999999999999999999999999", inf},
                 {"1.17549435e-38", std::numeric_limits<float>::min()},
                 {"1.4e-45", std::numeric_limits<float>::denorm_min()},
                 {"1e-45", std::numeric_limits<float>::denorm_min()},
                 {"8e-46", std::numeric_limits<float>::denorm_min()},
                 {"7.1e-46", std::numeric_limits<float>::denorm_min()},
                 {"7.0e-46", 0.0f},
                 {"1e-46", 0.0f},
                 {"1e-999", 0.0f},
                 {"1e-99999999999999999999999999", 0.0f},
                 {"9999999999999999999e-65", 0.0f},
                 {"1" + std::string(5000, '0') + "e-5000", 1.0f},
                 {"0." + std::string(5000, '0') + "1e5001", 1.0f},
                 {std::string(10000, '0') + "1", 1.0f},
                 {"1." + std::string(10000, '0'), 1.0f},
                 {"1" + std::string(400, '0'), inf},
                 {"0." + std::string(400, '0') + "1", 0.0f},
                 {"0." + std::string(200000, '0') + "123e200001", 1.23f},
                 {std::string(200000, '9') + "e-200000", 1.0f},
                 {"0." + std::string(3000000, '0') + "1e3000001", 1.0f},
                 {"1e-" + std::string(1000, '0') + "2", 0.01f},
                 {"0e" + std::string(1000, '9'), 0.0f}};
    for (int mode : {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
        const Rounding hold(mode);
        for (const auto& c : cases) {
            const std::string shown = c.text.substr(0, 60);
            const uint32_t    got = bits_of(parse(c.text)), minus = bits_of(parse("-" + c.text));
            CAPTURE(shown);
            CHECK(got == bits_of(c.value));
            CHECK(minus == (got | 0x80000000u));
        }
    }
}

TEST_CASE(
    "N-11 parse_float: a million decimal texts as the C library reads them, under every rounding mode (very slow)") {
    std::mt19937_64 rng(20);
    const int       modes[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    long            wrong = 0, subnormal = 0, infinite = 0;
    std::string     first;
    for (int i = 0; i < 1'000'000; ++i) {
        char           text[64];
        const uint64_t r = rng();
        const float    near = float_of(uint32_t(r) & 0x7fffffffu);
        switch (i % 5) { // any digits; short decimals as people write them; floats to 9, 6 and 17 digits
        case 0:
            std::snprintf(text, sizeof text, "%llu.%llue%d", static_cast<unsigned long long>(r >> (rng() % 60)),
                          static_cast<unsigned long long>(rng() >> (rng() % 64)), int(rng() % 110) - 65);
            break;
        case 1:
            std::snprintf(text, sizeof text, "%d.%03d", int(r % 20001) - 10000, int(rng() % 1000));
            break;
        case 2:
            std::snprintf(text, sizeof text, "%.9g", double(std::isfinite(near) ? near : 1.0f));
            break;
        case 3:
            std::snprintf(text, sizeof text, "%.6e", double(std::isfinite(near) ? near : 1.0f));
            break;
        default:
            std::snprintf(text, sizeof text, "%.17g", double(std::isfinite(near) ? near : 1.0f));
            break;
        }
        const float want = std::strtof(text, nullptr);
        float       got = 0;
        std::fesetround(modes[i / 5 % 4]);
        const size_t n = ssm::parse_float(text, std::strlen(text), &got);
        std::fesetround(FE_TONEAREST);
        subnormal += want != 0 && std::fabs(want) < std::numeric_limits<float>::min();
        infinite += std::isinf(want);
        if (n != std::strlen(text) || bits_of(got) != bits_of(want)) {
            if (wrong++ == 0) first = text;
        }
    }
    CAPTURE(first);
    CHECK(wrong == 0);
    CHECK(subnormal > 1000);
    CHECK(infinite > 1000);
}

TEST_CASE("N-11 parse_float: exactly halfway goes to even; one digit beside it does not, however far behind") {
    std::mt19937          rng(4);
    std::vector<uint32_t> all = {0,          1,          2,          0x7ffffe,   0x7fffff,   0x800000,  0x800001,
                                 0x3f800000, 0x3f7fffff, 0x4b7fffff, 0x4b800000, 0x7f7ffffe, 0x7f7fffff};
    for (int i = 0; i < 4000; ++i) all.push_back(uint32_t(rng() % 0x7f800000u));
    for (int i = 0; i < 500; ++i) all.push_back(uint32_t(rng() % 0x800000u)); // subnormals
    for (size_t i = 0; i < all.size(); ++i) {
        const uint32_t    b = all[i];
        const std::string half = halfway_text(b);
        const Rounding    hold(i % 4 == 0   ? FE_TONEAREST
                               : i % 4 == 1 ? FE_UPWARD
                               : i % 4 == 2 ? FE_DOWNWARD
                                            : FE_TOWARDZERO);
        std::string       below = half; // the last digit that counts made one less
        below.erase(below.find_last_not_of('0') + 1);
        size_t k = below.size() - 1;
        while (below[k] == '0' || below[k] == '.') --k;
        --below[k];
        for (++k; k < below.size(); ++k)
            if (below[k] != '.') below[k] = '9';
        below += "9";
        CAPTURE(b);
        CAPTURE(half);
        CHECK(bits_of(parse(half)) == b + (b & 1));
        CHECK(bits_of(parse(below)) == b);
        CHECK(bits_of(parse(half + "1")) == b + 1);
        if (i % 16 != 0) continue;
        CHECK(bits_of(parse(half + std::string(3000, '0') + "1")) == b + 1);
        CHECK(bits_of(parse(half + std::string(3000, '0') + "e0")) == b + (b & 1));
    }
}

TEST_CASE("N-11 parse_float: halfway points cut off behind any number of digits, as the C library reads them") {
    std::mt19937 rng(5);
    for (int i = 0; i < 300; ++i) {
        const std::string half = halfway_text(i < 100 ? uint32_t(i) : uint32_t(rng() % 0x7f800000u));
        const size_t      first = half.find_first_of("123456789"), last = half.find_last_not_of('0');
        for (size_t cut = std::max(first + 1, half.find('.')); cut <= last; cut += cut < first + 30 ? 1 : 7)
            for (const char* tail : {"", "1", "9"}) {
                const std::string text = half.substr(0, cut) + tail;
                CAPTURE(text);
                CHECK(bits_of(parse(text)) == bits_of(std::strtof(text.c_str(), nullptr)));
            }
    }
}

TEST_CASE("N-11 parse_float: nineteen digits and a positive exponent, as near to a halfway point as they come") {
    std::mt19937 rng(6);
    __extension__ using Wide = unsigned __int128;
    Wide ten = 1;
    for (int e = 1; e <= 18; ++e) {
        ten *= 10;
        for (int i = 0; i < 400; ++i) {
            Wide half = (1u << 24 | uint32_t(rng() % (1u << 24))) | 1u; // odd: between two floats
            while (half / ten < 1000000000000000000u) half *= 2;
            for (const uint64_t w : {uint64_t(half / ten), uint64_t(half / ten) + 1}) {
                const std::string text = std::to_string(w) + "e" + std::to_string(e);
                CAPTURE(text);
                CHECK(bits_of(parse(text)) == bits_of(std::strtof(text.c_str(), nullptr)));
            }
        }
    }
}

TEST_CASE("N-11 parse_float: every float survives printing to 9 digits (a sweep), and the locale has no say (slow)") {
    const char* other = std::setlocale(LC_NUMERIC, "de_DE.UTF-8"); // a decimal comma, where the machine has it
    float       x = 0;
    CHECK(ssm::parse_float("1.5", 3, &x) == 3);
    CHECK(x == 1.5f);
    CHECK(ssm::parse_float("1,5", 3, &x) == 1);
    if (other != nullptr) std::setlocale(LC_NUMERIC, "C");
    long wrong = 0;
    for (uint64_t b = 0; b < 0x7f800000u; b += 8191) {
        char text[32];
        std::snprintf(text, sizeof text, "%.9g", double(float_of(uint32_t(b))));
        wrong += ssm::parse_float(text, std::strlen(text), &x) != std::strlen(text) || bits_of(x) != b;
    }
    CHECK(wrong == 0);
}
