// hostile_lines.hpp - lines for `ssm serve` that are half right: made of its own words, numbers and texts, cut, spliced
// and with bytes changed. SPDX-License-Identifier: MIT
#pragma once
#include "../tools/serve_rpc.hpp"

#include <cstring>
#include <malloc.h>
#include <memory>
#include <random>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define SSM_TEST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SSM_TEST_ASAN 1
#endif
#endif
#ifdef SSM_TEST_ASAN
extern "C" size_t __sanitizer_get_current_allocated_bytes(void);
#endif

namespace test {

inline size_t allocated_bytes() {
#ifdef SSM_TEST_ASAN
    return __sanitizer_get_current_allocated_bytes();
#else
    const struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
#endif
}

// Lines of one seed.
class HostileLines {
  public:
    explicit HostileLines(uint64_t seed) : random_(seed) {}
    const std::string& next() {
        last_.swap(line_);
        line_.clear();
        switch (below(8)) {
        case 0:
            bytes(below(80));
            break;
        case 1:
            value(0);
            break;
        default:
            request();
        }
        while (below(3) == 0) spoil();
        for (char& c : line_)
            if (c == '\n') c = ' ';
        return line_;
    }

  private:
    size_t      below(size_t n) { return size_t(random_()) % n; }
    bool        one_in(size_t n) { return below(n) == 0; }
    const char* any(std::initializer_list<const char*> all) { return all.begin()[below(all.size())]; }
    void        bytes(size_t n) {
               while (n-- > 0) line_ += static_cast<char>(below(256));
    }
    void number() {
        switch (below(6)) {
        case 0:
            line_ += any({"0",
                          "-0",
                          "1e999",
                          "-1e999",
                          "1e-999",
                          "3.4028235677973366e38",
                          "1e38",
                          "-3.4e38",
                          "1e-45",
                          "16777217",
                          "9007199254740993",
                          "0.000000000000000000000001",
                          "12345678901234567890123",
                          "01",
                          "-",
                          "1.",
                          ".5",
                          "1e",
                          "+1",
                          "NaN",
                          "-Infinity",
                          "0x10",
                          "1e+5",
                          "7e-46"});
            break;
        case 1:
            line_ += std::to_string(below(40));
            break;
        default:
            line_ += std::to_string(int64_t(random_())).insert(1, one_in(2) ? "." : ""),
                line_ += any({"", "", "e-5", "E-19", "e20"});
        }
    }
    void text() {
        line_ += '"';
        for (size_t n = below(6); n-- > 0;)
            line_ += one_in(150) ? any({"\\x", "\\u12", "\x01", "\t", "\""})
                                 : any({"a",
                                        "b",
                                        "word ",
                                        "other",
                                        " ",
                                        "\\n",
                                        "\\u0000",
                                        "\\ud83d\\ude00",
                                        "\\ud83d",
                                        "\\u00e9",
                                        "\xc3\xa9",
                                        "\xff",
                                        "\xed\xa0\x80",
                                        "\\\"",
                                        "\\\\",
                                        "\\/",
                                        "c0",
                                        "c1",
                                        "c2",
                                        "c3",
                                        "long-word_with_0123456789"});
        if (!one_in(200)) line_ += '"';
    }
    void list(size_t n, void (HostileLines::*item)()) {
        line_ += '[';
        for (size_t i = 0; i < n; ++i) {
            if (i > 0) line_ += one_in(200) ? " " : ",";
            (this->*item)();
        }
        line_ += ']';
    }
    void id() { // few, so that what they fill is full soon
        line_ += "\"c" + std::to_string(below(12)) + "\"";
    }
    void embedding() {
        one_in(6) ? void(line_ += "null") : list(one_in(6) ? below(9) : 4, &HostileLines::plain_number);
    }
    void row17() { one_in(6) ? void(line_ += "null") : list(one_in(12) ? below(20) : 17, &HostileLines::plain_number); }
    void plain_number() { one_in(100) ? number() : void(line_ += std::to_string(double(int64_t(random_())) * 1e-19)); }
    void text_or_null() { one_in(5) ? void(line_ += "null") : text(); }
    void value(int depth) {
        switch (below(depth > 6 ? 5 : 9)) {
        case 0:
            number();
            break;
        case 1:
            text();
            break;
        case 2:
            line_ += any({"true", "false", "null", "tru", "nul", ""});
            break;
        case 3:
            id();
            break;
        case 4:
            line_ += any({"{}", "[]", "{", "[", "]", "}"});
            break;
        case 5: {
            const size_t n = one_in(40) ? 100 + below(80) : below(4); // deep
            line_.append(n, '['), value(depth + 1), line_.append(n, ']');
            break;
        }
        case 6:
            line_ += '{';
            for (size_t i = 0, n = below(4); i < n; ++i)
                line_ += i > 0 ? "," : "", name(), line_ += ':', value(depth + 1);
            line_ += '}';
            break;
        default:
            line_ += '[';
            for (size_t i = 0, n = below(5); i < n; ++i) line_ += i > 0 ? "," : "", value(depth + 1);
            line_ += ']';
        }
    }
    void name() {
        line_ += any({"\"id\"",
                      "\"jsonrpc\"",
                      "\"method\"",
                      "\"params\"",
                      "\"context_embedding\"",
                      "\"candidate_ids\"",
                      "\"candidate_embeddings\"",
                      "\"candidate_texts\"",
                      "\"candidate_features\"",
                      "\"labels\"",
                      "\"temperature\"",
                      "\"events\"",
                      "\"path\"",
                      "\"text\"",
                      "\"ids\"",
                      "\"dt\"",
                      "\"embedding\"",
                      "\"features\"",
                      "\"kind\"",
                      "\"observe_context\"",
                      "\"context_text\"",
                      "\"project_slot\"",
                      "\"flags\"",
                      "\"\\u0069d\"",
                      "\"\"",
                      "\"x\"",
                      "\"\\ud800\"",
                      "\"\xff\""});
    }
    void event() {
        line_ += '{';
        const char* between = "";
        const auto  member = [&](const char* what) {
            return one_in(2) ? (line_ += between, between = ",", line_ += what, true) : false;
        };
        if (member("\"text\":")) text();
        if (member("\"ids\":")) list(one_in(30) ? below(70) : below(4), &HostileLines::id);
        if (member("\"id\":")) id();
        if (member("\"dt\":")) one_in(8) ? number() : void(line_ += std::to_string(below(100000)));
        if (member("\"embedding\":")) embedding();
        if (one_in(4) && member("\"features\":")) row17();
        if (one_in(4) && member("\"kind\":")) value(5);
        line_ += '}';
    }
    void request() {
        line_ += one_in(20) ? "{" : "{\"jsonrpc\":\"2.0\",";
        if (!one_in(20)) {
            line_ += "\"id\":";
            one_in(3) ? number() : one_in(2) ? text() : void(line_ += "\"req-1\"");
            line_ += ',';
        }
        const char* method =
            any({"status", "score", "score", "score", "observe", "observe", "observe", "train", "reset",
                 "train_from_db", "save_checkpoint", "state_save", "state_load", "unknown", "sc\\u006fre"});
        line_ += std::string("\"method\":\"") + method + "\",\"params\":";
        if (one_in(15)) return value(0), line_ += '}', void();
        line_ += '{';
        const char*  between = "";
        const auto   member = [&](const char* what) { line_ += between, between = ",", line_ += what; };
        const size_t n = one_in(10) ? 0 : 1 + below(12);
        const auto   length = [&] { return one_in(15) ? below(14) : n; };
        if (std::strcmp(method, "observe") == 0) member("\"events\":"), list(below(5), &HostileLines::event);
        else if (std::strchr(method, '_') != nullptr) member("\"path\":"), text();
        else if (method[0] != 's' || method[1] != 't') {
            if (!one_in(10)) member("\"context_embedding\":"), embedding();
            if (!one_in(10)) member("\"candidate_ids\":"), list(n, &HostileLines::id);
            if (one_in(2)) member("\"candidate_embeddings\":"), list(length(), &HostileLines::embedding);
            if (one_in(2)) member("\"candidate_texts\":"), list(length(), &HostileLines::text_or_null);
            if (one_in(3)) member("\"candidate_features\":"), list(length(), &HostileLines::row17);
            if (method[0] == 't') member("\"labels\":"), list(length(), &HostileLines::plain_number);
            if (one_in(9)) member("\"temperature\":"), number();
            if (one_in(9)) member("\"observe_context\":"), value(6);
            if (one_in(9)) member("\"context_text\":"), text();
        }
        while (one_in(4)) line_ += between, between = ",", name(), line_ += ':', value(3);
        line_ += "}}";
    }
    void spoil() {
        const size_t at = below(line_.size() + 1);
        switch (below(6)) {
        case 0:
            line_.resize(at);
            break;
        case 1:
            line_.insert(at, 1, static_cast<char>(below(256)));
            break;
        case 2:
            if (at < line_.size())
                line_[at] = static_cast<char>(one_in(2) ? below(256) : size_t("{}[]\",:\\0e-tn"[below(13)]));
            break;
        case 3:
            line_.erase(at, 1 + below(9));
            break;
        case 4:
            line_.insert(at, last_, 0, below(200));
            break;
        default:
            line_.insert(at, line_, at, below(60));
        }
    }

    std::mt19937_64 random_;
    std::string     line_, last_;
};

// Whether an answer is one line of JSON in UTF-8, of the one form or the other, for a line that asks something.
inline bool well_formed(std::string_view answer, bool* failed) {
    if (answer.empty() || answer.back() != '\n') return false;
    answer.remove_suffix(1);
    uint32_t point = 0;
    for (size_t i = 0; i < answer.size();) {
        const size_t n = tool::utf8_sequence(answer, i, &point);
        if (n == 0 || point < 0x20) return false;
        i += n;
    }
    serve::Scanner s(answer.data(), answer.size());
    serve::Text    name;
    bool           first = true, id = false, result = false, error = false, version = false;
    if (!s.object()) return false;
    while (s.member(&first, &name)) {
        version = version || serve::equals(name, "jsonrpc");
        id = id || serve::equals(name, "id");
        result = result || serve::equals(name, "result");
        error = error || serve::equals(name, "error");
        s.skip();
    }
    *failed = error;
    return s.finish() && version && id && result != error;
}

// Feeds `n` lines to a service. Returns what it did wrong; empty: nothing.
inline std::string run_hostile_lines(size_t n, uint64_t seed, const std::string& model) {
    relevance::Sidecar sidecar(4, memory::Limits{256, 16384}); // small: it forgets all the time
    std::string        trouble;
    if (!sidecar.open("test", model.c_str(), ssm::Isa::best, &trouble)) return "no model " + model;
    std::string        answer;
    serve::Rpc         rpc(&sidecar, 4, false);
    HostileLines       lines(seed);
    size_t             good = 0, bytes = 0;
    for (size_t i = 0; i < n; ++i) {
        const std::string&            line = lines.next();
        const std::unique_ptr<char[]> block(new char[line.size()]); // a read past its end is seen
        std::memcpy(block.get(), line.data(), line.size());
        const uint64_t steps = sidecar.steps(), pairs = sidecar.pairs();
        answer.clear();
        rpc.line({block.get(), line.size()}, &answer);
        bool       failed = false;
        const auto at = [&] { return " at line " + std::to_string(i) + ": " + tool::escape(line, 2000); };
        if (line.find_first_not_of(" \t\r") == line.npos) {
            if (!answer.empty()) return "a blank line was answered" + at();
            continue;
        }
        if (!well_formed(answer, &failed))
            return "an answer is not well-formed" + at() + " -> " + tool::escape(answer, 2000);
        if (failed && (sidecar.steps() != steps || sidecar.pairs() != pairs))
            return "a bad line moved the state" + at();
        if (answer.find(":null}") != answer.npos && answer.find("\"scores\"") != answer.npos)
            return "a score is null" + at();
        good += !failed;
        if (i == n / 4) bytes = allocated_bytes();
    }
    if (good < n / 10) return "only " + std::to_string(good) + " lines were good";
    const size_t after = allocated_bytes();
    if (after > bytes + (size_t(64) << 10))
        return "memory grew from " + std::to_string(bytes) + " to " + std::to_string(after);
    return "";
}
} // namespace test
