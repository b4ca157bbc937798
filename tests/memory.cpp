// memory.cpp - the associative memory of a stream: what it reads out, what it forgets, what it saves.
// SPDX-License-Identifier: MIT
#include "../tools/memory.hpp"

#include "../tools/history.hpp"
#include "support.hpp"

#include <cmath>
#include <map>
#include <random>

using namespace memory;

namespace {

struct Made { // an event and what it points to
    Event              event;
    std::vector<Touch> touches;
    std::vector<Words> texts;
};

// A made-up stream over `n_items` items and few words, so that they meet often.
std::vector<Made> stream(size_t n, uint64_t n_items, uint32_t seed) {
    std::mt19937      random(seed);
    std::vector<Made> all(n);
    for (Made& m : all) {
        const size_t touches = 1 + random() % 4;
        m.texts.resize(touches);
        for (size_t k = 0; k < touches; ++k) {
            Touch t;
            t.key = 1 + random() % n_items;
            if (random() % 3 == 0) {
                m.texts[k].add(uint16_t(1000 + t.key % 20)), m.texts[k].add(uint16_t(random() % 40));
                t.words = &m.texts[k], t.grouped = true, t.group = 1 + t.key % 7;
            }
            m.touches.push_back(t);
        }
        for (size_t k = random() % 6; k > 0; --k) m.event.words.add(uint16_t(random() % 40));
        m.event.author = 1 + random() % 3, m.event.seconds = double(random() % 5000);
        m.event.touches = m.touches.data(), m.event.n_touches = m.touches.size();
    }
    return all;
}

struct Reading {
    std::vector<float>    x, dt;
    std::vector<uint32_t> slot;
};
Reading read(const Memory& m, const Query& q, const std::vector<Probe>& probes) {
    Reading r;
    r.x.resize(probes.size() * n_inputs), r.dt.resize(probes.size()), r.slot.resize(probes.size());
    m.read(q, probes.data(), probes.size(), r.x.data(), r.dt.data(), r.slot.data());
    return r;
}
std::vector<Probe> probes_of(uint64_t n_items) {
    std::vector<Probe> p(n_items);
    for (uint64_t k = 0; k < n_items; ++k) p[k].key = k + 1;
    return p;
}
Query query(std::initializer_list<int> words) {
    Query q;
    for (int w : words) q.words.add(uint16_t(w));
    q.author = 2, q.seconds = 60;
    return q;
}
// What an input was before it was scaled; means and spreads of memory.cpp, of the inputs looked at here.
double raw(const Reading& r, size_t candidate, int input) {
    const double v = double(r.x[candidate * n_inputs + size_t(input)]);
    switch (input) {
    case in_word: return v * 1.3 + 0.51;
    case in_word_best: return v * 0.68 + 0.32;
    case in_word_known: return v * 0.27 + 0.26;
    case in_like_best: return v * 0.135 + 0.09;
    case in_like_any: return v * 0.26 + 0.51;
    case in_author_own: return v * 0.36 + 0.33;
    case in_text_n: return v * 0.19 + 0.07;
    case in_company: return v * 0.73 + 0.2;
    default: REQUIRE(false); return 0;
    }
}
std::string saved(const Memory& m) {
    std::string s;
    m.save(&s);
    return s;
}
const unsigned char* bytes(const std::string& s) { return reinterpret_cast<const unsigned char*>(s.data()); }
} // namespace

TEST_CASE("memory: logarithm and exponential are those of the library to 1e-14") {
    std::mt19937_64 random(1);
    for (int k = 0; k < 100000; ++k) {
        const double x = std::ldexp(1 + double(random() >> 12) * 0x1p-52, int(random() % 600) - 300);
        CHECK(log_natural(x) == doctest::Approx(std::log(x)).epsilon(2e-15));
        const double y = (double(random() >> 11) * 0x1p-53 - 0.5) * 1300;
        CHECK(exp_natural(y) == doctest::Approx(std::exp(y)).epsilon(1e-14));
    }
    CHECK(log_natural(1) == 0);
    CHECK(exp_natural(0) == 1);
}

TEST_CASE("memory: words of a text are hashed as a history's subjects are") {
    const std::string text = "Fix the reverse_proxy's HTTP-2 time-out in 1234 places, fix THE rest";
    const Words       w = words_of(text.data(), text.size());
    std::vector<uint16_t> once;
    for (uint16_t h : history::subject_words(text.data(), text.size()))
        if (std::find(once.begin(), once.end(), h) == once.end()) once.push_back(h);
    CHECK(std::vector<uint16_t>(w.hash, w.hash + w.n) == once);

    const auto    one = [](const char* s) { return words_of(s, std::strlen(s)).hash[0]; };
    const Words   p = path_words("src/HTTPServer2/fooBar_test.go");
    const auto    has = [&](const char* s) { return std::find(p.hash, p.hash + p.n, one(s)) != p.hash + p.n; };
    for (const char* s : {"src", "httpserver2", "http", "server", "foobar_test", "foo", "bar", "test", "go"}) CHECK_MESSAGE(has(s), s);
    CHECK(p.n == 9);
    std::string many;
    for (int k = 0; k < 100; ++k) many += "w" + std::to_string(k) + " ";
    CHECK(words_of(many.data(), many.size()).n == max_words);
    CHECK(words_of("", 0).n == 0);
}

TEST_CASE("memory: read-outs are those of a second derivation with maps") {
    Memory     m(Limits{});
    const auto events = stream(400, 60, 3);
    struct Past {
        std::vector<int>      words;
        std::vector<uint64_t> items;
        uint64_t              author;
    };
    std::vector<Past>                    past;
    std::map<uint64_t, std::vector<int>> texts;
    for (const Made& e : events) {
        m.apply(e.event, nullptr);
        Past p{{e.event.words.hash, e.event.words.hash + e.event.words.n}, {}, e.event.author};
        for (const Touch& t : e.touches) {
            if (std::find(p.items.begin(), p.items.end(), t.key) == p.items.end()) p.items.push_back(t.key);
            if (t.words != nullptr) texts[t.key].assign(t.words->hash, t.words->hash + t.words->n);
        }
        past.push_back(p);
    }
    const Query          q = query({3, 7, 1005, 12345});
    const auto           r = read(m, q, probes_of(60));
    std::map<int, double> df;
    for (const Past& p : past)
        for (int w : p.words) df[w] += 1;
    const double N = double(past.size());
    const auto   idf = [&](int w) { return std::log((N + 1) / (1 + df[w])); };
    double       best_any = 0;
    for (uint64_t item = 1; item <= 60; ++item) {
        double sum = 0, best = 0, known = 0, touches = 0, mine = 0, like = 0, company = 0;
        for (int w : {3, 7, 1005, 12345}) {
            double y = 0;
            for (const Past& p : past)
                y += std::count(p.items.begin(), p.items.end(), item) > 0 && std::count(p.words.begin(), p.words.end(), w) > 0;
            sum += idf(w) * y / (df[w] + 1), best = std::max(best, idf(w) * y / (df[w] + 1)), known += y > 0;
        }
        double norm = 0;
        for (int w : {3, 7, 1005, 12345}) norm += idf(w) * idf(w);
        for (const Past& p : past) {
            double dot = 0, own = 0;
            for (int w : p.words) {
                own += idf(w) * idf(w);
                if (w == 3 || w == 7) dot += idf(w) * idf(w);
            }
            const double c = own > 0 ? dot / std::sqrt(norm * own) : 0;
            best_any = std::max(best_any, c);
            if (std::count(p.items.begin(), p.items.end(), item) == 0) continue;
            touches += 1, mine += p.author == 2;
            like = std::max(like, c * std::pow(double(p.items.size()), -0.25));
        }
        const auto count = [&](uint64_t k) {
            double n = 0;
            for (const Past& p : past) n += double(std::count(p.items.begin(), p.items.end(), k));
            return n;
        };
        for (const Past& p : past) { // together with an item of the last three events
            if (std::count(p.items.begin(), p.items.end(), item) == 0) continue;
            for (uint64_t other : p.items)
                for (size_t k = 0; other != item && k < 3; ++k) {
                    const auto& last = past[past.size() - 1 - k].items;
                    if (std::count(last.begin(), last.end(), other) > 0) company += std::ldexp(1.0, -int(k)) / (count(other) + 1);
                }
        }
        double found = 0;
        for (int w : {3, 7, 1005, 12345}) found += 0.5 * double(std::count(texts[item].begin(), texts[item].end(), w));
        const size_t at = size_t(item - 1);
        if (touches == 0) {
            CHECK(r.slot[at] == Memory::none);
            continue;
        }
        CHECK(raw(r, at, in_word) == doctest::Approx(std::min(sum, 0.51 + 4 * 1.3)).epsilon(1e-4));
        CHECK(raw(r, at, in_word_best) == doctest::Approx(std::min(best, 0.32 + 4 * 0.68)).epsilon(1e-4));
        CHECK(raw(r, at, in_word_known) == doctest::Approx(known / 4).epsilon(1e-4));
        CHECK(raw(r, at, in_like_best) == doctest::Approx(std::min(like, 0.09 + 4 * 0.135)).epsilon(1e-4));
        CHECK(raw(r, at, in_author_own) == doctest::Approx(mine / (touches + 1)).epsilon(1e-4));
        CHECK(raw(r, at, in_text_n) == doctest::Approx(std::min(found, 0.07 + 4 * 0.19)).epsilon(1e-4));
        CHECK(raw(r, at, in_company) == doctest::Approx(std::min(company, 0.2 + 4 * 0.73)).epsilon(1e-3));
    }
    CHECK(raw(r, 0, in_like_any) == doctest::Approx(best_any).epsilon(1e-4));
}

TEST_CASE("memory: a candidate's inputs do not depend on the other candidates or their order") {
    Memory m(Limits{});
    for (const Made& e : stream(300, 50, 4)) m.apply(e.event, nullptr);
    const std::string before = saved(m);
    const Query       q = query({1, 2, 3, 1004});
    auto              probes = probes_of(55); // some are not kept
    const auto        all = read(m, q, probes);
    for (size_t k = 0; k < probes.size(); ++k) {
        const auto one = read(m, q, {probes[k]});
        CHECK(std::equal(one.x.begin(), one.x.end(), all.x.begin() + std::ptrdiff_t(k * n_inputs)));
        CHECK(one.dt[0] == all.dt[k]);
    }
    std::reverse(probes.begin(), probes.end());
    probes.push_back(probes[5]); // twice
    const auto turned = read(m, q, probes);
    for (size_t k = 0; k < 55; ++k)
        CHECK(std::equal(turned.x.begin() + std::ptrdiff_t(k * n_inputs), turned.x.begin() + std::ptrdiff_t((k + 1) * n_inputs),
                         all.x.begin() + std::ptrdiff_t((54 - k) * n_inputs)));
    CHECK(std::equal(turned.x.end() - n_inputs, turned.x.end(), turned.x.begin() + 5 * n_inputs));
    CHECK(saved(m) == before);
}

TEST_CASE("memory: every input is finite and at most four spreads from the mean, whatever comes") {
    Memory m(Limits{64, 4096});
    for (const Made& e : stream(3000, 500, 5)) {
        m.apply(e.event, [](uint32_t slot, bool, const float* x, float dt) {
            CHECK(slot < 64);
            CHECK((dt >= 1 && dt <= 1e6f));
            for (int k = 0; k < n_inputs; ++k) CHECK((std::fabs(x[k]) <= 4));
        });
        if (m.steps() % 50 != 0) continue;
        Query odd = query({1, 2, 1003});
        odd.seconds = m.steps() % 100 == 0 ? 1e300 : -5, odd.asked = m.steps() % 150 != 0;
        auto probes = probes_of(70);
        probes[3].key = 0;
        const auto r = read(m, odd, probes);
        for (float v : r.x) CHECK(std::fabs(v) <= 4);
    }
}

TEST_CASE("memory: beyond its limits the oldest goes, and a slot's new item inherits nothing") {
    Memory m(Limits{16, 4096});
    const auto touch = [&](uint64_t key, int word) {
        Touch t;
        t.key = key;
        Event e;
        e.words.add(uint16_t(word)), e.touches = &t, e.n_touches = 1;
        m.apply(e, nullptr);
    };
    for (uint64_t key = 1; key <= 16; ++key) touch(key, 5);
    touch(1, 6); // item 2 is now the one untouched for longest
    touch(17, 7);
    const Query five = query({5});
    auto        r = read(m, five, {{2, nullptr}, {17, nullptr}, {3, nullptr}, {1, nullptr}});
    CHECK(r.slot[0] == Memory::none);
    REQUIRE(r.slot[1] != Memory::none);
    CHECK(m.items() == 16);
    CHECK(raw(r, 1, in_word) == doctest::Approx(0).epsilon(1e-6)); // the word came with item 2, in the same slot
    CHECK(raw(r, 2, in_word) > 0);
    CHECK(raw(r, 3, in_word) > 0);

    // The ring: 4,096 bytes hold 2,048 / 7 of these events; the first ones are forgotten.
    const size_t room = 2048 / 7;
    for (size_t k = 0; k < 2 * room; ++k) touch(100, 9);
    CHECK(m.events() <= room);
    CHECK(m.events() >= room * 7 / 8 - 1);
    r = read(m, five, {{1, nullptr}, {100, nullptr}});
    CHECK(raw(r, 1, in_word) == doctest::Approx(0).epsilon(1e-6));
    CHECK(raw(read(m, query({9}), {{100, nullptr}}), 0, in_word_known) == doctest::Approx(1));
}

TEST_CASE("memory: an event of more than 50 items makes them known and nothing else") {
    Memory             m(Limits{});
    std::vector<Touch> many(51);
    for (size_t k = 0; k < many.size(); ++k) many[k].key = k + 1;
    Event e;
    e.words.add(3), e.touches = many.data(), e.n_touches = many.size();
    int touched = 0;
    m.apply(e, [&](uint32_t, bool, const float*, float) { ++touched; });
    CHECK(touched == 0);
    CHECK(m.items() == 51);
    CHECK(m.events() == 0);
    CHECK(m.steps() == 1);
    e.n_touches = 50;
    m.apply(e, [&](uint32_t, bool, const float*, float) { ++touched; });
    CHECK(touched == 50);
    CHECK(m.events() == 1);
}

TEST_CASE("memory: what is saved is all there is, and nothing damaged is taken") {
    const Limits limits{40, 4096};
    Memory       m(limits);
    const auto   events = stream(900, 100, 6);
    for (size_t k = 0; k < 600; ++k) m.apply(events[k].event, nullptr);
    const std::string s = saved(m);
    Memory            other(limits);
    for (size_t k = 0; k < 50; ++k) other.apply(events[899 - k].event, nullptr);
    const std::string before = saved(other);

    // 1. Every strict prefix, other limits, and what a change makes inconsistent.
    for (size_t n = 0; n < s.size(); n += n < 300 || n + 40 > s.size() ? 1 : 53) CHECK(other.load(bytes(s), n) == 0);
    CHECK(Memory(Limits{41, 4096}).load(bytes(s), s.size()) == 0);
    std::mt19937 random(7);
    size_t       refused = 0;
    for (int k = 0; k < 1000; ++k) { // taken or not, it stays usable
        std::string broken = s;
        broken[random() % broken.size()] = static_cast<char>(random());
        Memory third(limits);
        if (third.load(bytes(broken), broken.size()) == 0) ++refused;
        third.apply(events[700].event, nullptr);
        for (float v : read(third, query({1, 2}), probes_of(100)).x) CHECK(std::fabs(v) <= 4);
    }
    CHECK(refused > 100);
    CHECK(saved(other) == before);

    // 2. The whole, with something behind it.
    const std::string longer = s + "more";
    CHECK(other.load(bytes(longer), longer.size()) == s.size());
    CHECK(saved(other) == s);
    for (size_t k = 600; k < 900; ++k) {
        const auto a = read(m, query({int(k % 40), 2, 1003}), probes_of(100)),
                   b = read(other, query({int(k % 40), 2, 1003}), probes_of(100));
        CHECK(a.x == b.x);
        m.apply(events[k].event, nullptr), other.apply(events[k].event, nullptr);
    }
    CHECK(saved(m) == saved(other));
    other.reset();
    CHECK(saved(other) == saved(Memory(limits)));
}
