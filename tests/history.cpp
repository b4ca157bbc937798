// history.cpp - reading change histories in both formats, hostile lines, the query protocol and its metrics.
// SPDX-License-Identifier: MIT
#include "../tools/history.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

namespace {
using namespace history;

struct Read {
    std::vector<Event>       events;
    std::vector<std::string> errors;
    bool                     recognised = false;
};
Read read(const std::string& text) {
    Read   r;
    Reader reader(
        [&](const Event& e) { r.events.push_back(e); },
        [&](int64_t line, const std::string& what) { r.errors.push_back(std::to_string(line) + ": " + what); });
    for (size_t at = 0; at < text.size();) {
        const size_t end = std::min(text.find('\n', at), text.size());
        reader.line(text.data() + at, end - at);
        at = end + 1;
    }
    reader.finish();
    r.recognised = reader.recognised();
    return r;
}
std::string ops(const Event& e) {
    std::string s;
    for (const Op& o : e.ops)
        s += (s.empty() ? "" : " ") + std::string(1, o.kind) + std::to_string(o.id) +
             (o.path.empty() ? "" : "=" + o.path);
    return s;
}
} // namespace

TEST_CASE("history: .ev lines") {
    const Read r = read("c 100 3 5,16383\na 0 src/main.c\na 1 docs\nc 90 4 -\r\nm 0\r\nr 0 src/new name.c\nd 1\n");
    REQUIRE(r.errors.empty());
    REQUIRE(r.events.size() == 2);
    CHECK(r.events[0].time == 100);
    CHECK(r.events[0].author == 3);
    CHECK(r.events[0].words == std::vector<uint16_t>{5, 16383});
    CHECK(ops(r.events[0]) == "a0=src/main.c a1=docs");
    CHECK(r.events[1].time == 100); // never decreasing
    CHECK(ops(r.events[1]) == "m0 r0=src/new name.c d1");
}

TEST_CASE("history: git log, with the paths git prints") {
    const Read r = read("commit 1000 Ann O'Neil\tFix Parser_x: 12 things, Fix\n\nA\tplain.c\nA\twith "
                        "space.c\nA\t\"quote\\\"d.c\"\nA\t\"tab\\there.c\"\nA\t\"\\303\\244.c\"\n"
                        "commit 1001 Bob\tMove\n\nR087\tplain.c\tsub/plain.c\nM\twith "
                        "space.c\nT\t\"quote\\\"d.c\"\nC100\tsub/plain.c\tcopy.c\nD\t\"tab\\there.c\"\n"
                        "commit 1002 Ann O'Neil\t\n\nA\t\"tab\\there.c\"\nM\tnever seen.c\nD\tunknown.c\nA\tplain.c\n");
    REQUIRE(r.errors.empty());
    REQUIRE(r.events.size() == 3);
    CHECK(ops(r.events[0]) == "a0=plain.c a1=with space.c a2=quote\"d.c a3=tab\there.c a4=\xc3\xa4.c");
    CHECK(r.events[0].author == 0);
    CHECK(r.events[1].author == 1);
    CHECK(r.events[2].author == 0);
    CHECK(r.events[0].words == subject_words("Fix Parser_x: 12 things, Fix", 28));
    CHECK(r.events[0].words.size() == 4); // 12 is a number
    CHECK(ops(r.events[1]) == "r0=sub/plain.c m1 m2 a5=copy.c d3");
    CHECK(ops(r.events[2]) == "a3=tab\there.c a6=never seen.c a7=plain.c"); // back again: the same number; a new file
                                                                            // at an old path: a new one
}

TEST_CASE("history: words are hashed as the data set says") {
    // FNV-1a-64 of "fix" modulo 16384, computed by the definition.
    uint64_t h = 0xcbf29ce484222325u;
    for (char c : std::string("fix")) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    CHECK(subject_words("(FIX)", 5) == std::vector<uint16_t>{uint16_t(h % 16384)});
    CHECK(subject_words("1 22 333", 8).empty());
    std::string many;
    for (int i = 0; i < 50; ++i) many += "w" + std::to_string(i) + " ";
    CHECK(subject_words(many.data(), many.size()).size() == 32);
}

TEST_CASE("history: a bad line is one error and changes nothing else") {
    const std::string good[] = {"c 1 0 -\n", "a 0 x\n", "c 2 0 7\n", "m 0\n"};
    for (const std::string& bad : {std::string("x 1 2"), std::string("m"), std::string("m -1"), std::string("m 1 2"),
                                   std::string("m 99999999999"), std::string("a 3"), std::string("hello"),
                                   std::string("m 0x1"), std::string("r 0"), std::string("m 0\0", 4)}) {
        const Read r = read(good[0] + good[1] + good[2] + bad + "\n" + good[3]);
        CHECK_MESSAGE(r.errors.size() == 1, bad);
        CHECK(r.errors[0].substr(0, 3) == "4: ");
        REQUIRE(r.events.size() == 2);
        CHECK(ops(r.events[0]) == "a0=x");
        CHECK(ops(r.events[1]) == "m0");
    }
    // A bad commit header takes its operations with it, quietly.
    const Read r = read("c 1 0 -\na 0 x\nc nine 0 -\nm 0\nc 2 0 99999\nm 0\nc 3 0 -\nm 0\n");
    CHECK(r.errors.size() == 2);
    REQUIRE(r.events.size() == 2);
    CHECK(ops(r.events[1]) == "m0");
    // git: statuses that are none, quotes that do not close, a path that is missing.
    const Read g = read("commit 5 A\tS\n\nA\tx\nnonsense\nM\nX\ty\nA\t\"open\nR100\tonly\nA\t\"bad\\9\"\nM\tx\n");
    CHECK(g.errors.size() == 6);
    REQUIRE(g.events.size() == 1);
    CHECK(ops(g.events[0]) == "a0=x m0");
}

TEST_CASE("history: what is no history says so; a strict prefix of one reads without a crash") {
    CHECK(read("").events.empty());
    const Read r = read("Dear all,\nhello\n");
    CHECK(r.errors.size() == 2);
    CHECK_FALSE(r.recognised);
    const std::string text =
        "commit 1000 Ann\tFix\n\nA\tplain.c\nR100\t\"a\\303\\244\"\tb\ncommit 1001 Bob\tMove\n\nM\tb\n";
    for (size_t n = 0; n <= text.size(); ++n) read(text.substr(0, n));
    const std::string ev = "c 100 3 5,16383\na 0 src/main.c\nc 190 4 -\nm 0\n";
    for (size_t n = 0; n <= ev.size(); ++n) read(ev.substr(0, n));
}

TEST_CASE("history: metrics by hand") {
    Metrics m;
    m.add({3, 1}, 2); // both targets found, first and third
    m.add({12}, 1);   // found, but late
    m.add({}, 1);     // never found
    const Metrics v = m.mean();
    CHECK(v.queries == 3);
    CHECK(v.mrr == doctest::Approx((1 + 1.0 / 12) / 3));
    CHECK(v.recall10 == doctest::Approx(1.0 / 3));
    CHECK(v.hit1 == doctest::Approx(1.0 / 3));
    CHECK(v.ndcg10 == doctest::Approx((1 + 1 / std::log2(4.0)) / (1 + 1 / std::log2(3.0)) / 3));
    std::vector<int32_t> order;
    CHECK(rank_targets({2, 5, 9}, {1.0f, 2.0f, 2.0f}, {9}, &order) ==
          std::vector<int32_t>{2}); // ties: the smaller number first
    CHECK(order == std::vector<int32_t>{5, 9, 2});
}

TEST_CASE("history: queries and candidates by the protocol") {
    Tracker              t;
    std::vector<int32_t> targets;
    Event                e;
    for (int32_t i = 0; i < 25; ++i) e.ops.push_back({'a', i, "d/f" + std::to_string(i)});
    int touches = 0;
    t.apply(e, [&](int32_t, const float*, float dt) {
        ++touches;
        CHECK(dt == 1.0f);
    });
    CHECK(touches == 25);
    Event m;
    m.ops = {{'m', 3, ""}, {'m', 3, ""}, {'d', 4, ""}};
    CHECK_FALSE(t.query(m, 50, &targets)); // too early
    CHECK(t.query(m, 1, &targets));
    CHECK(targets == std::vector<int32_t>{3, 4});
    for (int i = 0; i < 49; ++i) t.apply(Event(), nullptr);
    CHECK(t.query(m, warm_up, &targets));
    float x[n_features], dt;
    t.probe(3, x, &dt);
    CHECK(dt == 50.0f);
    CHECK(x[f_probe] == 1.0f);
    CHECK(x[f_rate] == doctest::Approx(1.0 / 50));
    touches = 0;
    t.apply(m, [&](int32_t id, const float* v, float d) {
        ++touches; // one touch a file and commit
        CHECK((id == 3 || id == 4));
        CHECK(d == 50.0f);
        CHECK(v[f_probe] == 0.0f);
    });
    CHECK(touches == 2);
    CHECK(t.candidates().size() == 24);
    Event many;
    for (int32_t i = 0; i < 22; ++i) many.ops.push_back({'m', i, ""});
    CHECK_FALSE(t.query(many, 50, &targets)); // 21 of them are alive
    Event added;
    added.ops = {{'a', 30, "new"}};
    CHECK_FALSE(t.query(added, 50, &targets)); // new files are no targets
    Event large;                               // bulk: changes who is alive, is not learned from
    for (int32_t i = 0; i < 51; ++i) large.ops.push_back({'d', i, ""});
    t.apply(large, [&](int32_t, const float*, float) { FAIL("a bulk commit touches no stream"); });
    CHECK(t.candidates().empty());
}
