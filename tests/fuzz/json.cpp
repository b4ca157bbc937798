// json.cpp - fuzz target: JSON text, through both readers of this repository and, for a part of the inputs, a third
// one.
//
// The strict reader of ssm.hpp and the lenient scanner of `ssm serve` are told apart by what serve_json.hpp says,
// nothing else: what the first takes the second takes, what the second takes and the first refuses the plain checker
// refuses too. Numbers are held against the C library's, texts against the other reader's. SPDX-License-Identifier: MIT
#include "fuzz.hpp"

#include "../../tools/serve_json.hpp"
#include "../strict_checker.hpp"

using fuzz::require;
using ssm::json::Kind;

namespace {

struct Seen {
    bool   whole = false; // one value, then the end
    size_t tokens = 0;
};

void check_text(const ssm::json::Token& t) {
    const size_t            n = ssm::json::unescape(t, nullptr, 0);
    std::unique_ptr<char[]> decoded(new char[n]);
    require(n <= t.len && ssm::json::unescape(t, decoded.get(), n) == n, "unescaping never makes text longer");
    serve::Text other{t.text, t.len, false};
    std::string again;
    require(serve::decode(other, &again) && again == std::string(decoded.get(), n), "both readers decode a text alike");
    if (std::memchr(decoded.get(), 0, n) == nullptr)
        require(ssm::json::equals(t, again.c_str()) && serve::equals(other, again), "a text equals itself");
}

void check_number(const ssm::json::Token& t) {
    float  v = 0;
    double d = 0;
    require(ssm::parse_float(t.text, t.len, &v) == t.len, "a number is read to its end");
    const std::string text(t.text, t.len); // with an end, for the C library
    const float       want = std::strtof(text.c_str(), nullptr);
    d = double(v) - double(want);
    require(std::memcmp(&v, &want, sizeof v) == 0, "a number is the nearest float");
    fuzz::sink = fuzz::sink + uint64_t(d == 0);
    uint64_t u = 0;
    if (ssm::json::to_uint(t, &u)) require(std::to_string(u) == text, "an integer prints as it was written");
}

Seen read(const char* text, size_t size) {
    Seen              seen;
    ssm::json::Reader r = ssm::json::open(text, size), before = r;
    for (;; ++seen.tokens) {
        before = r;
        const ssm::json::Token t = ssm::json::next(&r);
        if (t.kind == Kind::error) {
            require(r.error[0] != '\0' && r.p >= text && r.p <= text + size, "an error has a reason and a place");
            require(ssm::json::next(&r).kind == Kind::error, "an error stays");
            return seen;
        }
        if (t.kind == Kind::end) break;
        require(r.depth >= 0 && r.depth <= ssm::max_depth, "depth");
        if (t.len > 0) require(t.text >= text && t.text + t.len <= text + size, "a token lies in the text");
        if (t.kind == Kind::string || t.kind == Kind::key) check_text(t);
        if (t.kind == Kind::number) check_number(t);
        if (t.kind == Kind::object || t.kind == Kind::array) { // over it, and on from behind it
            ssm::json::Reader over = r;
            if (seen.tokens < 8 && ssm::json::skip(&over, t))
                require(over.depth == before.depth, "skip() leaves a value");
        }
    }
    seen.whole = true;
    return seen;
}
bool plain_checker(const char* text, size_t size) {
    try {
        strict::Parser(strict::decode(std::string(text, size))).document();
    } catch (const strict::Refused&) {
        return false;
    }
    return true;
}
} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const fuzz::Block text(data, size);
    const bool        whole = read(text.text(), size).whole;
    serve::Scanner    scanner(text.text(), size);
    const bool        skipped = scanner.skip(), scanned = skipped && scanner.finish();
    require(scanned || scanner.why != nullptr, "a refusal has a reason");
    require(!whole || scanned, "what the strict reader takes the scanner takes");
    // The plain checker is slow: asked where the two others do not refuse alike, and now and then.
    if (whole || scanned || size % 16 == 0)
        require(plain_checker(text.text(), size) == whole, "the plain checker and the strict reader agree");
    float x = 0;
    fuzz::sink = fuzz::sink + ssm::parse_float(text.text(), size, &x);
    return 0;
}
