// relevance.cpp - the sidecar's scorer: the same scores whatever the batch, the back-end and the restart; learning.
// SPDX-License-Identifier: MIT
#include "../tools/relevance.hpp"

#include "support.hpp"

#include <cmath>
#include <cstdio>
#include <random>

#include <unistd.h>

using namespace relevance;

namespace {
constexpr int32_t dim = 24;
const std::string weights = std::string(SSM_TEST_DIR) + "/../weights/";

struct Folder { // of its own, gone in the end
    std::string path = "/tmp/ssm-test-relevance-" + std::to_string(::getpid());
    Folder() { REQUIRE(std::system(("mkdir -p " + path).c_str()) == 0); }
    ~Folder() { CHECK(std::system(("rm -r " + path).c_str()) == 0); }
    std::string operator()(const char* name) const { return path + "/" + name; }
};

void open(Sidecar* s, const std::string& path, ssm::Isa isa = ssm::Isa::best) {
    std::string why;
    REQUIRE_MESSAGE(s->open("test", path.c_str(), isa, &why), why);
}

std::vector<float> numbers(size_t n, uint32_t seed) {
    std::mt19937       random(seed);
    std::vector<float> v(n);
    for (float& f : v) f = float(random()) / 2147483648.0f - 1.0f;
    return v;
}

void live(Sidecar* s, int events, uint32_t seed) { // a day's work
    std::mt19937 random(seed);
    for (int k = 0; k < events; ++k) {
        Event    e;
        uint64_t items[3];
        for (uint64_t& i : items) i = 1 + random() % 30;
        e.items = items, e.n_items = 1 + random() % 3;
        for (size_t n = random() % 5; n > 0; --n) e.words.add(uint16_t(random() % 30));
        e.seconds = double(random() % 1000);
        const auto embedding = numbers(dim, uint32_t(random()));
        if (random() % 2 == 0) e.embedding = embedding.data();
        s->observe(e);
    }
}

struct Pool {
    std::vector<float>     context = numbers(dim, 77), embeddings, given;
    std::vector<Candidate> candidates;
    Context                asked;
    explicit Pool(size_t n) : embeddings(numbers(n * dim, 78)), given(numbers(n * n_given, 79)), candidates(n) {
        for (size_t i = 0; i < n; ++i) {
            Candidate& c = candidates[i];
            c.key = i % 5 == 0 ? 0 : i + 1;
            if (i % 3 != 0) c.embedding = &embeddings[i * dim];
            if (i % 4 != 0) c.given = &given[i * n_given];
            if (i % 2 == 0) c.words.add(uint16_t(i % 30));
            for (int k : {0, 1, 2, 12, 13}) given[i * n_given + size_t(k)] = std::fabs(given[i * n_given + size_t(k)]);
        }
        asked.embedding = context.data();
        asked.words.add(3), asked.words.add(9);
    }
};
std::vector<float> score(Sidecar* s, const Pool& p) {
    std::vector<float> y(p.candidates.size());
    s->score(p.asked, p.candidates.data(), y.size(), y.data());
    return y;
}
std::vector<float> labels(size_t n) {
    std::vector<float> l(n);
    for (size_t i = 0; i < n; ++i) l[i] = i % 7 == 3 ? 1.0f : 0.1f;
    return l;
}
} // namespace

TEST_CASE("relevance: scores are the same bits after a restart, on every back-end, for every split of the pool") {
    const Folder folder;
    const Pool   pool(40);
    for (const char* model : {"relevance.safetensors", "relevance-i8.safetensors", "relevance-i4.safetensors"}) {
        Sidecar first(dim);
        open(&first, weights + model);
        live(&first, 300, 5);
        const auto  want = score(&first, pool);
        std::string why;
        REQUIRE(first.save_state(folder("state").c_str(), &why));
        live(&first, 100, 6);
        const auto later = score(&first, pool);
        CHECK(later != want);
        for (ssm::Isa isa : tool::back_ends()) {
            Sidecar again(dim);
            open(&again, weights + model, isa);
            REQUIRE_MESSAGE(again.load_state(folder("state").c_str(), &why), why);
            CHECK(score(&again, pool) == want);
            for (size_t i = 0; i < pool.candidates.size(); ++i) {
                float y = 0;
                again.score(pool.asked, &pool.candidates[i], 1, &y);
                CHECK(y == want[i]);
            }
            live(&again, 100, 6);
            CHECK(score(&again, pool) == later);
            CHECK(again.steps() == 400);
            again.reset();
            CHECK(again.steps() == 0);
            Sidecar fresh(dim);
            open(&fresh, weights + model, isa);
            CHECK(score(&again, pool) == score(&fresh, pool));
        }
    }
}

TEST_CASE("relevance: what was touched with these words, near in meaning or important comes first") {
    Sidecar s(dim);
    open(&s, weights + "relevance-i8.safetensors");
    for (int k = 0; k < 60; ++k) {
        Event          e;
        const uint64_t item = uint64_t(1 + k % 6);
        e.items = &item, e.n_items = 1, e.seconds = 60;
        e.words.add(uint16_t(100 + k % 6)), e.words.add(7);
        s.observe(e);
    }
    std::vector<Candidate> six(6);
    for (size_t i = 0; i < 6; ++i) six[i].key = i + 1;
    float y[6];
    for (int word = 0; word < 6; ++word) {
        Context c;
        c.words.add(uint16_t(100 + word));
        s.score(c, six.data(), 6, y);
        CHECK(std::max_element(y, y + 6) - y == word);
    }
    // Without any past: by nearness, and by what the caller says.
    Sidecar     plain(dim);
    const Pool  p(3);
    Candidate   two[2];
    Context     c;
    const float given[2][n_given] = {{1, 0.9f}, {1, 0.2f}}, old[2][n_given] = {{1, 0.5f}, {4, 0.5f}};
    float       z[2];
    c.embedding = p.context.data();
    two[0].embedding = p.embeddings.data(), two[1].embedding = p.context.data();
    plain.score(c, two, 2, z);
    CHECK(z[1] > z[0]);
    for (const auto& g : {given, old}) {
        two[0] = two[1] = Candidate();
        two[0].given = g[0], two[1].given = g[1];
        plain.score(c, two, 2, z);
        CHECK(z[0] > z[1]);
    }
}

TEST_CASE("relevance: scores are finite and within bounds whatever the caller gives") {
    Sidecar s(dim);
    open(&s, weights + "relevance.safetensors");
    live(&s, 50, 1);
    const float huge = 3e38f, nan = std::nanf(""), inf = INFINITY;
    for (float v : {huge, -huge, nan, inf, -inf, 0.0f, 1e-45f}) {
        std::vector<float> embedding(dim, v), given(n_given, v);
        Candidate          c;
        c.embedding = embedding.data(), c.given = given.data(), c.key = 3;
        Context asked;
        asked.embedding = embedding.data();
        float y = nan;
        s.score(asked, &c, 1, &y);
        CHECK(std::fabs(y) <= max_logit);
        Event e;
        e.embedding = embedding.data(), e.seconds = double(v);
        s.observe(e);
        s.score(asked, &c, 1, &y);
        CHECK(std::fabs(y) <= max_logit);
    }
}

TEST_CASE("relevance: learning lowers the loss, the same way each time, and survives in a checkpoint to the bit") {
    const Folder folder;
    const Pool   pool(30);
    const auto   want = labels(30);
    std::string  why;
    Sidecar      a(dim), b(dim);
    for (Sidecar* s : {&a, &b}) open(s, weights + "relevance-i8.safetensors"), live(s, 100, 2);
    const auto before = score(&a, pool);
    double     first = 0, last = 0;
    for (int k = 0; k < 300; ++k) {
        double x = 0, y = 0;
        const bool kept = a.learn(pool.asked, pool.candidates.data(), 30, want.data(), 0.5f, &x, &why);
        CHECK(kept == b.learn(pool.asked, pool.candidates.data(), 30, want.data(), 0.5f, &y, &why));
        CHECK(x == y);
        (k == 0 ? first : last) = x;
        score(&a, pool), score(&b, pool); // the pool that the next step may not turn over
    }
    CHECK(first > 0);
    CHECK(last < 0.7 * first);
    CHECK(a.lessons() > 200);
    CHECK(a.pairs() == a.lessons() * 30);
    CHECK(score(&a, pool) != before);
    CHECK(score(&a, pool) == score(&b, pool));

    REQUIRE_MESSAGE(a.checkpoint(folder("c.safetensors").c_str(), &why), why);
    Sidecar c(dim);
    open(&c, folder("c.safetensors"), ssm::Isa::scalar);
    CHECK(score(&c, pool) == score(&a, pool));
    CHECK(c.lessons() == a.lessons());
    for (Sidecar* s : {&a, &c}) live(s, 20, 3);
    double x = 0, y = 0;
    CHECK(a.learn(pool.asked, pool.candidates.data(), 30, want.data(), 0.5f, &x, &why) ==
          c.learn(pool.asked, pool.candidates.data(), 30, want.data(), 0.5f, &y, &why));
    CHECK(x == y);
    CHECK(score(&c, pool) == score(&a, pool));

    // A checkpoint of a checkpoint is the same file; the state fits the model it came from.
    REQUIRE(a.checkpoint(folder("1").c_str(), &why));
    Sidecar d(dim);
    open(&d, folder("1"));
    REQUIRE(d.checkpoint(folder("2").c_str(), &why));
    std::string one, two;
    REQUIRE(tool::read_file(folder("1").c_str(), 1 << 24, &one, &why) == tool::done);
    REQUIRE(tool::read_file(folder("2").c_str(), 1 << 24, &two, &why) == tool::done);
    CHECK(one == two);
    REQUIRE(d.save_state(folder("s").c_str(), &why));
    CHECK_MESSAGE(b.load_state(folder("s").c_str(), &why), why);
}

TEST_CASE("relevance: a step that would turn the ranking over or is not finite is taken back") {
    Sidecar s(dim);
    open(&s, weights + "relevance-i8.safetensors");
    live(&s, 100, 2);
    const Pool  pool(30);
    const auto  before = score(&s, pool);
    std::string why;
    double      loss = 0;
    auto        wild = labels(30);
    wild[4] = std::nanf("");
    CHECK_FALSE(s.learn(pool.asked, pool.candidates.data(), 30, wild.data(), 0.5f, &loss, &why));
    CHECK(why == "the loss is not finite");
    CHECK(score(&s, pool) == before);
    CHECK(s.lessons() == 0);

    // Against the ranking it holds: as long as steps are kept, at most two of the best five change at each.
    std::vector<float> against(before.size());
    for (size_t i = 0; i < before.size(); ++i) against[i] = -8 * before[i];
    for (int k = 0; k < 400; ++k) {
        const auto was = score(&s, pool);
        const bool kept = s.learn(pool.asked, pool.candidates.data(), 30, against.data(), 1, &loss, &why);
        const auto is = score(&s, pool);
        if (!kept) {
            CHECK(was == is);
            continue;
        }
        const auto best = [](const std::vector<float>& y) {
            std::vector<size_t> o(y.size());
            for (size_t i = 0; i < o.size(); ++i) o[i] = i;
            std::stable_sort(o.begin(), o.end(), [&](size_t a, size_t b) { return y[a] > y[b]; });
            o.resize(5);
            return o;
        };
        const auto a = best(was), b = best(is);
        size_t     left = 0;
        for (size_t i : a) left += size_t(std::count(b.begin(), b.end(), i));
        CHECK(left >= 3);
    }
}

TEST_CASE("relevance: states and checkpoints that are damaged or of others are refused with a reason") {
    const Folder folder;
    Sidecar      s(dim);
    open(&s, weights + "relevance-i8.safetensors");
    live(&s, 30, 4);
    std::string state, why;
    s.state(&state);
    const auto refused = [&](const std::string& bytes, Sidecar* by, const char* reason) {
        const bool taken = by->take_state(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), &why);
        CHECK_FALSE(taken);
        CHECK_MESSAGE(why.find(reason) != std::string::npos, why);
    };
    Sidecar other(dim), narrow(dim - 1), bare(dim), small(dim, memory::Limits{100, 8192});
    open(&other, weights + "relevance-i4.safetensors");
    open(&narrow, weights + "relevance-i8.safetensors");
    open(&small, weights + "relevance-i8.safetensors");
    refused(state, &other, "another model");
    refused(state, &bare, "another model");
    refused(state, &narrow, "24 numbers, expected 23");
    refused(state, &small, "of other limits");
    refused("", &s, "no state");
    const Pool pool(10);
    const auto before = score(&s, pool);
    for (size_t n = 0; n < state.size(); n += n < 200 ? 1 : 97) refused(state.substr(0, n), &s, "");
    for (size_t bit = 0; bit < state.size() * 8; bit += bit < 2000 ? 1 : 331) { // each would be noticed, some are tried
        std::string flipped = state;
        flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ 1 << bit % 8);
        refused(flipped, &s, "");
    }
    // Whole and sealed, but with something behind what belongs to it.
    std::string longer = state.substr(0, state.size() - 8 - dim * 4) + "abcd" + state.substr(state.size() - 8 - dim * 4, dim * 4);
    uint64_t    seal = 0xcbf29ce484222325u;
    for (char c : longer) seal = (seal ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    for (int k = 0; k < 8; ++k) longer.push_back(static_cast<char>(seal >> 8 * k & 0xff));
    refused(longer, &s, "damaged");
    CHECK(score(&s, pool) == before);
    CHECK_FALSE(s.load_state(folder("absent").c_str(), &why));

    CHECK_FALSE(s.open("test", (weights + "smnist-i8.safetensors").c_str(), ssm::Isa::best, &why));
    CHECK(why.find("expected relevance") != std::string::npos);
    CHECK(s.has_model());
    CHECK(score(&s, pool) == before);
    CHECK_FALSE(bare.checkpoint(folder("x").c_str(), &why));
}
