// json_suite.cpp - the cases of the public JSONTestSuite, each written anew from what it is about: 95 that every reader
// must take, 188 that none may, and what is decided here where the grammar leaves the choice. Both readers: that of
// ssm.hpp and the one of `ssm serve`. SPDX-License-Identifier: MIT
#include "../ssm.hpp"
#include "../tools/serve_json.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace {
using namespace std::string_literals;
namespace json = ssm::json;
using json::Kind;

struct Case {
    const char* about;
    std::string text;
};
std::string repeat(const std::string& s, int n) {
    std::string all;
    for (int i = 0; i < n; ++i) all += s;
    return all;
}

// From a block of exactly its size, so that a read past it is seen.
bool reads(const std::string& text) {
    const std::unique_ptr<char[]> block(new char[text.size()]);
    std::memcpy(block.get(), text.data(), text.size());
    json::Reader r = json::open(block.get(), text.size());
    for (;;) {
        const Kind kind = json::next(&r).kind;
        if (kind == Kind::end) return true;
        if (kind == Kind::error) return false;
    }
}
bool scans(const std::string& text) {
    const std::unique_ptr<char[]> block(new char[text.size()]);
    std::memcpy(block.get(), text.data(), text.size());
    serve::Scanner s(block.get(), text.size());
    s.skip();
    return s.finish();
}
// The first number of a text, if the text is JSON.
json::Token number(const char* text) {
    json::Reader r = json::open(text, std::strlen(text));
    json::Token  t = json::next(&r);
    while (t.kind != Kind::number && t.kind != Kind::end && t.kind != Kind::error) t = json::next(&r);
    return t;
}

// clang-format off
const std::vector<Case>& to_accept() {
    static const std::vector<Case> cases = {
        // arrays
        {"arrays with blanks", "[[]   ]"}, {"an empty string in an array", "[\"\"]"}, {"an empty array", "[]"},
        {"an array, then a newline", "[\"a\"]\n"}, {"false in an array", "[false]"}, {"values of all kinds", "[null, 1, \"1\", {}]"},
        {"null in an array", "[null]"}, {"a newline in an array", "[1\n]"}, {"a blank before an array", " [1]"},
        {"several nulls", "[1,null,null,null,2]"}, {"a blank behind an array", "[2] "},
        // numbers
        {"digits and an exponent", "[123e65]"}, {"0e+1", "[0e+1]"}, {"0e1", "[0e1]"}, {"a number behind a blank", "[ 4]"},
        {"a double next to 0", "[-0.000000000000000000000000000000000000000000000000000000000000000000000000000001]\n"},
        {"an integer with an exponent", "[20e1]"}, {"minus 0", "[-0]"}, {"a negative integer", "[-123]"}, {"minus 1", "[-1]"},
        {"minus 0 with blanks", "[ -0 ]"}, {"a capital E", "[1E22]"}, {"a capital E, negative", "[1E-2]"},
        {"a capital E with plus", "[1E+2]"}, {"a fraction and an exponent", "[123e45]"}, {"a fraction with an exponent", "[123.456e78]"},
        {"a negative exponent", "[1e-2]"}, {"an exponent with plus", "[1e+2]"}, {"a plain integer", "[123]"},
        {"a plain real", "[123.456789]"},
        // objects
        {"two members", "{\"asd\":\"sdf\", \"dfg\":\"fgh\"}"}, {"one member", "{\"asd\":\"sdf\"}"},
        {"a key twice", "{\"a\":\"b\",\"a\":\"c\"}"}, {"a key and its value twice", "{\"a\":\"b\",\"a\":\"b\"}"},
        {"an empty object", "{}"},
        {"an empty key", "{\"\":0}"}, {"an escaped NUL in a key", "{\"foo\\u0000bar\": 42}"},
        {"extreme numbers", "{ \"min\": -1.0e+28, \"max\": 1.0e+28 }"},
        {"long strings", "{\"x\":[{\"id\": \"" + repeat("x", 40) + "\"}], \"id\": \"" + repeat("x", 40) + "\"}"},
        {"an array in an object", "{\"a\":[]}"},
        {"a value of escapes alone", "{\"title\":\"\\u041f\\u043e\\u043b\\u0442\\u043e\\u0440\\u0430\" }"},
        {"newlines in an object", "{\n\"a\": \"b\"\n}"},
        // strings
        {"escapes of 1, 2 and 3 bytes of UTF-8", "[\"\\u0060\\u012a\\u12AB\"]"}, {"a pair of surrogates", "[\"\\uD801\\udc37\"]"},
        {"two pairs of surrogates", "[\"\\ud83d\\ude39\\ud83d\\udc8d\"]"}, {"every short escape", "[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"]"},
        {"a backslash, then u0000 as text", "[\"\\\\u0000\"]"}, {"an escaped quote", "[\"\\\"\"]"},
        {"what looks like a comment", "[\"a/*b*/c/*d//e\"]"},
        {"a backslash and an a", "[\"\\\\a\"]"}, {"a backslash and an n", "[\"\\\\n\"]"},
        {"an escaped control character", "[\"\\u0012\"]"},
        {"an escaped noncharacter", "[\"\\uFFFF\"]"}, {"a string in an array", "[\"asd\"]"}, {"a blank before a string", "[ \"asd\"]"},
        {"the last pair of surrogates", "[\"\\uDBFF\\uDFFF\"]"}, {"an escaped no-break space", "[\"new\\u00A0line\"]"},
        {"U+10FFFF in UTF-8", "[\"\xf4\x8f\xbf\xbf\"]"}, {"U+FFFF in UTF-8", "[\"\xef\xbf\xbf\"]"}, {"an escaped NUL", "[\"\\u0000\"]"},
        {"an escape of one byte of UTF-8", "[\"\\u002c\"]"}, {"pi in UTF-8", "[\"\xcf\x80\"]"},
        {"U+1BFFF in UTF-8", "[\"\xf0\x9b\xbf\xbf\"]"},
        {"plain ASCII", "[\"asd \"]"}, {"a blank alone", "\" \""}, {"the G clef as surrogates", "[\"\\uD834\\uDd1e\"]"},
        {"an escape of three bytes of UTF-8", "[\"\\u0821\"]"}, {"an escape of two bytes of UTF-8", "[\"\\u0123\"]"},
        {"U+2028 in UTF-8", "[\"\xe2\x80\xa8\"]"}, {"U+2029 in UTF-8", "[\"\xe2\x80\xa9\"]"},
        {"escapes among letters", "[\"\\u0061\\u30af\\u30EA\\u30b9\"]"},
        {"an escaped newline", "[\"new\\u000Aline\"]"}, {"a DEL alone", "[\"\x7f\"]"}, {"an escape of a letter of ours", "[\"\\uA66D\"]"},
        {"an escaped backslash by number", "[\"\\u005C\"]"}, {"UTF-8 of three bytes", "[\"\xe2\x8d\x82\xe3\x88\xb4\xe2\x8d\x82\"]"},
        {"U+10FFFE as surrogates", "[\"\\uDBFF\\uDFFE\"]"}, {"U+1FFFE as surrogates", "[\"\\uD83F\\uDFFE\"]"},
        {"U+200B escaped", "[\"\\u200B\"]"},
        {"U+2064 escaped", "[\"\\u2064\"]"}, {"U+FDD0 escaped", "[\"\\uFDD0\"]"}, {"U+FFFE escaped", "[\"\\uFFFE\"]"},
        {"a quote escaped by number", "[\"\\u0022\"]"}, {"UTF-8 of three and four bytes", "[\"\xe2\x82\xac\xf0\x9d\x84\x9e\"]"},
        {"a DEL among letters", "[\"a\x7f" "a\"]"},
        // structure
        {"false alone", "false"}, {"an integer alone", "42"}, {"a negative real alone", "-0.1"}, {"null alone", "null"},
        {"a string alone", "\"asd\""}, {"true alone", "true"}, {"an empty string alone", "\"\""},
        {"a newline behind it all", "[\"a\"]\n\n"},
        {"true in an array", "[true]"}, {"an array among blanks", " [] "},
    };
    return cases;
}
const std::vector<Case>& to_refuse() {
    static const std::vector<Case> cases = {
        // arrays
        {"no comma before true", "[1 true]"}, {"a letter, then bad UTF-8", "[a\xe5]"}, {"a colon for a comma", "[\"\": 1]"},
        {"a comma behind the array", "[\"\"],"}, {"a comma first", "[,1]"}, {"two commas", "[1,,2]"},
        {"two commas at the end", "[\"x\",,]"},
        {"a bracket too many", "[\"x\"]]"}, {"a comma at the end", "[\"\",]"}, {"no bracket behind a string", "[\"x\""},
        {"no bracket behind a letter", "[x"}, {"no comma before an array", "[3[4]]"}, {"bad UTF-8 alone", "[\xff]"},
        {"a colon between numbers", "[1:2]"}, {"a comma alone", "[,]"}, {"a minus alone", "[-]"}, {"blanks, a comma", "[   , \"\"]"},
        {"newlines and no end", "[\"a\",\n4\n,1,"}, {"a comma behind a number", "[1,]"}, {"two commas behind a number", "[1,,]"},
        {"a vertical tab in, a form feed behind a string", "[\"\va\"\\f]"}, {"a star", "[*]"}, {"an end missing", "[\"\""},
        {"a comma and no end", "[1,"}, {"newlines, and no bracket", "[1,\n1\n,1"}, {"an object and no end", "[{}"},
        // words
        {"fals", "[fals]"}, {"nul", "[nul]"}, {"tru", "[tru]"},
        // numbers
        {"digits, then NUL", "123\0"s}, {"two pluses", "[++1234]"}, {"a plus", "[+1]"}, {"+Inf", "[+Inf]"},
        {"a minus and a leading 0", "[-01]"},
        {"two points", "[-1.0.]"}, {"a point at the end, negative", "[-2.]"}, {"-NaN", "[-NaN]"}, {"a point before a minus", "[.-1]"},
        {"a point first, an exponent", "[.2e-3]"}, {"a second fraction", "[0.1.2]"}, {"a fraction, e+", "[0.3e+]"},
        {"a fraction, e", "[0.3e]"},
        {"no digit between point and e", "[0.e1]"}, {"0E+", "[0E+]"}, {"0E", "[0E]"}, {"0e+", "[0e+]"}, {"0e", "[0e]"},
        {"1.0e+", "[1.0e+]"},
        {"1.0e-", "[1.0e-]"}, {"1.0e", "[1.0e]"}, {"a blank between digits", "[1 000.0]"}, {"two exponents", "[1eE2]"},
        {"2.e+3", "[2.e+3]"},
        {"2.e-3", "[2.e-3]"}, {"2.e3", "[2.e3]"}, {"9.e+", "[9.e+]"}, {"Inf", "[Inf]"}, {"NaN", "[NaN]"},
        {"a wide digit", "[\xef\xbc\x91]"},
        {"a sum", "[1+2]"}, {"a hexadecimal digit", "[0x1]"}, {"two hexadecimal digits", "[0x42]"}, {"Infinity", "[Infinity]"},
        {"two signs in an exponent", "[0e+-1]"}, {"letters behind a fraction", "[-123.123foo]"}, {"bad UTF-8 behind digits", "[123\xe5]"},
        {"bad UTF-8 behind an exponent", "[1e1\xe5]"}, {"bad UTF-8 behind 0", "[0\xe5]\n"}, {"-Infinity", "[-Infinity]"},
        {"letters behind a minus", "[-foo]"}, {"a blank behind a minus", "[- 1]"}, {"a leading 0, negative", "[-012]"},
        {"no digit before the point, negative", "[-.123]"}, {"a letter behind a number", "[-1x]"}, {"a letter behind e", "[1ea]"},
        {"bad UTF-8 behind e", "[1e\xe5]"}, {"a point at the end", "[1.]"}, {"no digit before the point", "[.123]"},
        {"a letter within", "[1.2a-3]"}, {"H for e", "[1.8011670033376514H-308]"}, {"a leading 0", "[012]"},
        // objects
        {"truth", "[\"x\", truth]"}, {"a bracket for a key", "{[: \"x\"}\n"}, {"a comma for the colon", "{\"x\", null}"},
        {"two colons", "{\"x\"::\"b\"}"},
        {"flags of a country", "{\xf0\x9f\x87\xa8\xf0\x9f\x87\xad}"}, {"a number behind the value", "{\"a\":\"a\" 123}"},
        {"single quotes and a bare key", "{key: 'value'}"}, {"a continuation byte as a key, and a comma", "{\"\xb9\":\"0\",}"},
        {"no colon", "{\"a\" b}"}, {"no key", "{:\"b\"}"}, {"no colon between strings", "{\"a\" \"b\"}"},
        {"no value and no end", "{\"a\":"},
        {"a key and no end", "{\"a\""}, {"a number for a key", "{1:1}"}, {"a huge number for a key", "{9999E9999:1}"},
        {"nulls for keys", "{null:null,null:null}"}, {"commas at the end", "{\"id\":0,,,,,}"}, {"a key in single quotes", "{'a':0}"},
        {"a comma before the brace", "{\"id\":0,}"}, {"a comment behind", "{\"a\":\"b\"}/**/"},
        {"a comment and a slash", "{\"a\":\"b\"}/**//"},
        {"a line comment behind", "{\"a\":\"b\"}//"}, {"a slash behind", "{\"a\":\"b\"}/"},
        {"two commas between members", "{\"a\":\"b\",,\"c\":\"d\"}"},
        {"a bare key", "{a: \"b\"}"}, {"a value without its quote", "{\"a\":\"a"},
        {"a string for a member", "{ \"foo\" : \"bar\", \"a\" }"},
        {"a hash behind", "{\"a\":\"b\"}#"}, {"one blank", " "},
        // strings
        {"a surrogate, then an escaped quote", "[\"\\uD800\\\"]"}, {"a surrogate, then \\u", "[\"\\uD800\\u\"]"},
        {"a surrogate, then \\u1", "[\"\\uD800\\u1\"]"},
        {"a surrogate, then \\u1x", "[\"\\uD800\\u1x\"]"}, {"a letter with an accent", "[\xc3\xa9]"},
        {"a backslash and NUL", "[\"\\\0\"]"s},
        {"\\x", "[\"\\x00\"]"}, {"three backslashes", "[\"\\\\\\\"]"}, {"a backslash and a tab", "[\"\\\t\"]"},
        {"a backslash and a picture", "[\"\\\xf0\x9f\x8c\x80\"]"}, {"a backslash at the end", "[\"\\\"]"},
        {"an escape of three digits", "[\"\\u00A\"]"},
        {"half of a second surrogate", "[\"\\uD834\\uDd\"]"}, {"surrogates, then \\x", "[\"\\uD800\\uD800\\x\"]"},
        {"bad UTF-8 in an escape", "[\"\\u\xe5\"]"},
        {"\\a", "[\"\\a\"]"}, {"an escape of letters", "[\"\\uqqqq\"]"}, {"bad UTF-8 behind a backslash", "[\"\\\xe5\"]"},
        {"an escape outside of quotes", "[\\u0020\"asd\"]"}, {"\\n outside of quotes", "[\\n]"}, {"a quote alone", "\""},
        {"single quotes", "['single quote']"},
        {"letters alone", "abc"}, {"an escape that begins", "[\"\\"}, {"a NUL in a string", "[\"a\0a\"]"s},
        {"a newline in a string", "[\"new\nline\"]"},
        {"a tab in a string", "[\"\t\"]"}, {"\\U", "\"\\UA66D\""}, {"a letter behind a string", "\"\"x"},
        // structure
        {"100,000 open arrays", repeat("[", 100000)}, {"a word joiner in an array", "[\xe2\x81\xa0]"},
        {"a byte order mark alone", "\xef\xbb\xbf"},
        {"angle brackets", "<.>"}, {"angle brackets and null", "[<null>]"}, {"a letter behind an array", "[1]x"},
        {"a second end of an array", "[1]]"},
        {"no quote at the end of an array", "[\"asd]"}, {"letters, one of them not ASCII", "a\xc3\xa5"}, {"True", "[True]"},
        {"an end without a beginning", "1]"},
        {"a comma for the brace", "{\"x\": true,"}, {"two arrays", "[][]"}, {"an end of an array alone", "]"},
        {"part of a byte order mark", "\xef\xbb{}"},
        {"bad UTF-8 and nothing else", "\xe5"}, {"an open bracket", "["}, {"nothing", ""}, {"NUL in an array", "[\0]"s},
        {"an at sign behind a number", "2@"},
        {"a brace too many", "{}}"}, {"an empty key and no value", "{\"\":"}, {"a comment in an object", "{\"a\":/*comment*/\"b\"}"},
        {"a string behind an object", "{\"a\": true} \"x\""}, {"an open array and a single quote", "['"},
        {"an open array and a comma", "[,"},
        {"50,000 open arrays and objects", repeat("[{\"\":", 50000) + "\n"}, {"an open object in an open array", "[{"},
        {"an open string in an open array", "[\"a"},
        {"a string in an open array", "[\"a\""}, {"an open brace", "{"}, {"a brace, then a bracket", "{]"}, {"a brace and a comma", "{,"},
        {"a brace and an open bracket", "{["}, {"an open string in an open object", "{\"a"}, {"single quotes in an open object", "{'a'"},
        {"brackets and braces in open strings", "[\"\\{[\"\\{[\"\\{[\"\\{"}, {"a letter of Latin-1", "\xe9"}, {"a star alone", "*"},
        {"a hash between objects", "{\"a\":\"b\"}#{}"}, {"an escaped newline outside of quotes", "[\\u000A\"\"]"},
        {"a number in an open array", "[1"},
        {"nul in an open array", "[ false, nul"}, {"fals in an open array", "[ true, fals"}, {"tru in an open array", "[ false, tru"},
        {"a member in an open object", "{\"asd\":\"asd\""}, {"a letter that is not ASCII", "\xc3\xa5"},
        {"a word joiner alone", "\xe2\x81\xa0"},
        {"a form feed in an array", "[\f]"},
    };
    return cases;
}
// What the grammar leaves open, and is refused here: text that is not Unicode, and depth.
const std::vector<Case>& to_decide() {
    static const std::vector<Case> cases = {
        {"a second surrogate alone, in a key", "{\"\\uDFAA\":0}"}, {"a first surrogate alone", "[\"\\uDADA\"]"},
        {"a first surrogate, then a letter's escape", "[\"\\uD888\\u1234\"]"},
        {"UTF-16, little-endian, with its mark", "\xff\xfe[\0\"\0\xe9\0\"\0]\0"s},
        {"a byte that never stands in UTF-8", "[\"\xe6\x97\xa5\xd1\x88\xfa\"]"}, {"an encoded surrogate", "[\"\xed\xa0\x80\"]"},
        {"a surrogate, then \\n", "[\"\\uD800\\n\"]"}, {"a second surrogate and a letter", "[\"\\uDd1ea\"]"},
        {"two first surrogates, then \\n", "[\"\\uD800\\uD800\\n\"]"}, {"a lone surrogate in small letters", "[\"\\ud800\"]"},
        {"a surrogate, then letters", "[\"\\ud800abc\"]"}, {"0xff", "[\"\xff\"]"},
        {"surrogates the other way round", "[\"\\uDd1e\\uD834\"]"},
        {"Latin-1", "[\"\xe9\"]"}, {"a second surrogate alone", "[\"\\uDFAA\"]"}, {"a continuation byte alone", "[\"\x81\"]"},
        {"beyond U+10FFFF", "[\"\xf4\xbf\xbf\xbf\"]"}, {"overlong, 2 bytes", "[\"\xc0\xaf\"]"},
        {"overlong, 6 bytes", "[\"\xfc\x83\xbf\xbf\xbf\xbf\"]"},
        {"overlong NUL, 6 bytes", "[\"\xfc\x80\x80\x80\x80\x80\"]"}, {"cut short", "[\"\xe0\xff\"]"},
        {"UTF-16, big-endian", "\0[\0\"\0\xe9\0\"\0]"s},
        {"UTF-16, little-endian", "[\0\"\0\xe9\0\"\0]\0"s}, {"500 arrays", repeat("[", 500) + repeat("]", 500)},
        {"a byte order mark, then {}", "\xef\xbb\xbf{}"},
    };
    return cases;
}
// Numbers beyond what is common: the text is JSON; what the number is worth to parse_float().
struct Number {
    const char* text;
    float       worth; // infinite: refused by whoever wants a value
};
const Number numbers[] = {
    {"[123.456e-789]", 0.0f}, {"[0.4e00669999999999999999999999999999999999999999999999999999999006]", HUGE_VALF},
    {"[-1e+9999]", -HUGE_VALF}, {"[1.5e+9999]", HUGE_VALF}, {"[-123123e100000]", -HUGE_VALF}, {"[123123e100000]", HUGE_VALF},
    {"[123e-10000000]", 0.0f}, {"[-123123123123123123123123123123]", -1.23123125e29f}, {"[100000000000000000000]", 1e20f},
    {"[-237462374673276894279832749832423479823246327846]", -HUGE_VALF},
};
// clang-format on
} // namespace

TEST_CASE("ST-06: the JSON that every reader must take, 95 cases, is taken by both") {
    size_t taken = 0;
    for (const Case& c : to_accept()) {
        CHECK_MESSAGE(reads(c.text), std::string(c.about));
        CHECK_MESSAGE(scans(c.text), std::string(c.about));
        taken += reads(c.text) && scans(c.text);
    }
    CHECK(to_accept().size() == 95);
    CHECK(taken == 95);
    MESSAGE("counted: JSON to be accepted ", taken, " of ", to_accept().size(), " right");
}

TEST_CASE("ST-06 ST-21 F-01: the JSON that no reader may take, 188 cases, is refused by both") {
    size_t refused = 0;
    for (const Case& c : to_refuse()) {
        CHECK_MESSAGE(!reads(c.text), std::string(c.about));
        CHECK_MESSAGE(!scans(c.text), std::string(c.about));
        refused += !reads(c.text) && !scans(c.text);
    }
    CHECK(to_refuse().size() == 188);
    CHECK(refused == 188);
    MESSAGE("counted: JSON to be refused ", refused, " of ", to_refuse().size(), " right");
}

TEST_CASE("ST-04 ST-06 S-05: the 35 cases that the grammar leaves open, as decided") {
    size_t right = 0;
    for (const Case& c : to_decide()) {
        CHECK_MESSAGE(!reads(c.text), std::string(c.about));
        right += !reads(c.text);
    }
    for (const Number& n : numbers) {
        CHECK_MESSAGE(reads(n.text), std::string(n.text));
        const json::Token t = number(n.text);
        float             value = 7;
        uint64_t          whole = 0;
        CHECK(ssm::parse_float(t.text, t.len, &value) == t.len);
        CHECK_MESSAGE(value == n.worth, std::string(n.text), " is ", value);
        CHECK(std::signbit(value) == (n.text[1] == '-'));
        CHECK_MESSAGE(!json::to_uint(t, &whole), std::string(n.text));
        right += reads(n.text) && value == n.worth;
    }
    CHECK(to_decide().size() + std::size(numbers) == 35);
    CHECK(right == 35);
    MESSAGE("counted: JSON left open ", right, " of 35 as decided");
}
