// tracking.cpp - the state-tracking tasks: what is drawn is what the rules say, the loss and its gradient, one thread
// and two, and a short run that learns with rotation and does not without. SPDX-License-Identifier: MIT
#include "../tools/quantize.hpp"
#include "../tools/train_tracking.hpp"

#include <doctest/doctest.h>

namespace {
using namespace tracking;

Settings settings(const std::vector<std::string>& lines) {
    Settings    s;
    std::string error;
    for (const std::string& line : lines) REQUIRE_MESSAGE(take_setting(s, line, &error), error);
    REQUIRE_MESSAGE(complete(s, &error), error);
    return s;
}
Drawn drawn(Task task, int64_t count, int64_t length, uint64_t seed) {
    s4d::Random random(seed);
    Drawn       d;
    draw(task, random, count, length, false, false, d);
    return d;
}

// A second reading of expressions: digits, + - * with the usual precedence, a sign, brackets. Modulo 5.
struct Parser {
    const int32_t *p, *end;
    int            sum() {
                   int v = product();
                   while (p < end && (*p == plus || *p == minus)) {
                       const int32_t op = *p++;
                       const int     w = product();
                       v = op == plus ? v + w : v - w;
        }
                   return ((v % 5) + 5) % 5;
    }
    int product() {
        int v = one();
        while (p < end && *p == times) ++p, v = v * one() % 5;
        return v;
    }
    int one() {
        REQUIRE(p < end);
        if (*p == minus) return ++p, -one();
        if (*p != tracking::open) return *p++;
        ++p;
        const int v = sum();
        REQUIRE((p < end && *p == tracking::close));
        ++p;
        return v;
    }
};
const std::vector<std::string> small = {
    "task = parity",     "d_model = 8",         "d_inner = 16",     "headdim = 8",
    "d_state = 4",       "rope_fraction = 1.0", "lr = 0.003",       "a_activation = softplus",
    "batch = 16",        "smoothing = 0.1",     "start_length = 6", "max_length = 12",
    "final_steps = 100", "warmup = 20"};
} // namespace

TEST_CASE("tracking: drawn expressions have the length asked for and the value of a second parser") {
    for (int64_t length : {3, 5, 9, 33, 255}) {
        const Drawn d = drawn(Task::modular, 40, length, uint64_t(length));
        REQUIRE(d.length == length);
        for (int64_t i = 0; i < d.count; ++i)
            for (int64_t t = 0; t < length; ++t) {
                const int32_t* first = &d.tokens[size_t(i * length)];
                const int32_t  target = d.targets[size_t(i * length + t)];
                REQUIRE((first[t] >= 0 && first[t] <= times));
                CHECK((target < 0) == (t % 2 == 1));
                if (t % 2 == 0) CHECK(Parser{first, first + t + 1}.sum() == target);
            }
    }
    CHECK(drawn(Task::modular, 1, 8, 1).length == 7);
    for (int64_t length = 1; length <= 60; ++length) {
        const Drawn d = drawn(Task::brackets, 20, length, uint64_t(length));
        REQUIRE(d.tokens.size() == size_t(20 * length));
        for (int64_t i = 0; i < d.count; ++i) {
            const int32_t* first = &d.tokens[size_t(i * length)];
            Parser         whole{first, first + length};
            CHECK(whole.sum() == d.targets[size_t((i + 1) * length - 1)]);
            CHECK(whole.p == whole.end);
        }
    }
    const Drawn bits = drawn(Task::parity, 3, 100, 5);
    for (int64_t i = 0; i < 3; ++i)
        for (int64_t t = 0, sum = 0; t < 100; ++t) {
            sum += bits.tokens[size_t(i * 100 + t)];
            CHECK(bits.targets[size_t(i * 100 + t)] == sum % 2);
        }
    CHECK(drawn(Task::brackets, 5, 40, 9).tokens == drawn(Task::brackets, 5, 40, 9).tokens);
    CHECK(drawn(Task::brackets, 5, 40, 9).tokens != drawn(Task::brackets, 5, 40, 10).tokens);
}

TEST_CASE("tracking: the loss has the gradient it says, and its floor") {
    s4d::Random          random(3);
    std::vector<float>   out(4 * 5), d_out(out.size()), unused(out.size());
    std::vector<int32_t> targets = {2, -1, 0, 4};
    for (float& v : out) v = float(random.uniform(-2, 2));
    cross_entropy(out.data(), targets.data(), 4, 5, 0.1, 0.5, d_out.data());
    for (size_t i = 0; i < out.size(); ++i) {
        const float before = out[i];
        out[i] = before + 1e-2f;
        const double up = cross_entropy(out.data(), targets.data(), 4, 5, 0.1, 0.5, unused.data());
        out[i] = before - 1e-2f;
        const double down = cross_entropy(out.data(), targets.data(), 4, 5, 0.1, 0.5, unused.data());
        out[i] = before;
        CHECK((up - down) / 2e-2 == doctest::Approx(double(d_out[i])).epsilon(1e-3));
    }
    CHECK(loss_floor(2, 0.1) == doctest::Approx(0.19852).epsilon(1e-4));
    CHECK(loss_floor(2, 0) == 0);
}

TEST_CASE("tracking: two threads give the bits of one, and parity is learnt with rotation only (slow)") {
    std::vector<std::string> lines = small;
    lines.push_back("threads = 1");
    Trainer one(settings(lines));
    lines.back() = "threads = 2";
    Trainer two(settings(lines));
    for (int i = 0; i < 30; ++i) one.train(), two.train();
    CHECK(std::memcmp(one.net.params.data(), two.net.params.data(), one.net.params.size() * 4) == 0);
    CHECK(one.losses == two.losses);

    lines.back() = "steps = 900";
    Trainer with(settings(lines));
    lines.push_back("rotation = off");
    Trainer without(settings(lines));
    for (int i = 0; i < 900; ++i) {
        if (with.train() == Event::finished) break;
    }
    for (int i = 0; i < 900; ++i) {
        if (without.train() == Event::finished) break;
    }
    CHECK(with.measure(12, 256, 1).end == 1.0);
    CHECK(without.measure(12, 256, 1).end < 0.5);

    // Snapped, what was learnt on twelve bits holds for thousands; without rotation there is nothing to snap.
    Snapped     snapped;
    std::string error;
    CHECK(with.measure(5000, 8, 1).all < 0.99);
    REQUIRE_MESSAGE(with.snap(&snapped, &error), error);
    CHECK(with.net.config.A_floor == 0);
    CHECK(with.measure(5000, 8, 1).all == 1.0);
    CHECK(std::count(snapped.moves.begin(), snapped.moves.end(), true) >= 1);
    REQUIRE(without.snap(&snapped, &error));
    CHECK(std::count(snapped.moves.begin(), snapped.moves.end(), true) == 0);
}

TEST_CASE("tracking: what cannot be snapped is refused") {
    std::string error;
    Settings    s;
    for (const std::string& line : small) REQUIRE(take_setting(s, line, &error));
    REQUIRE(take_setting(s, "snap = on", &error));
    for (const char* line : {"n_layers = 2", "a_activation = heavy_tail", "rotation = off"}) {
        Settings other = s;
        REQUIRE(take_setting(other, line, &error));
        error.clear();
        CHECK(!complete(other, &error));
        CHECK(error == "snap is for one layer with a softplus A and rotation");
    }
    // Two tokens that look alike cannot be told apart.
    Trainer trainer(settings(small));
    float*  embedding = &trainer.net.params[size_t(trainer.net.embedding)];
    std::copy_n(embedding, trainer.net.config.d_model, embedding + trainer.net.config.d_model);
    Snapped snapped;
    CHECK(!trainer.snap(&snapped, &error));
    CHECK(error == "snap: tokens with like embeddings");
}

// Streams of bits, half ones, one in twenty and all ones, through a shipped model. It has but four answers, to the bit:
// one for each last bit and parity. A drift of any kind would change them long before it changed their order.
namespace {
void run_parity(const char* name, ssm::Isa isa, int steps) {
    const int         n = 3;
    const std::string path = std::string(SSM_TEST_DIR "/../weights/") + name + ".safetensors";
    tool::OpenModel   m;
    ssm::State        states[n];
    ssm::Scratch      scratch;
    CAPTURE(name);
    REQUIRE(tool::open_model("test", path.c_str(), isa, n, n, &m) == 0);
    for (ssm::State& state : states) REQUIRE(ssm::make_state(&state, m.model, &m.arena) == ssm::Status::ok);
    REQUIRE(ssm::make_scratch(&scratch, m.model, n, &m.arena) == ssm::Status::ok);
    const size_t       d = size_t(m.config.d_model);
    std::vector<float> rows(2 * d), x(n * d), y(n * 2), answers(2 * 4, -1.0f);
    for (int bit = 0; bit < 2; ++bit) REQUIRE(ssm::embed(m.model, bit, &rows[size_t(bit) * d]) == ssm::Status::ok);
    s4d::Random random(12);
    int         parity[n] = {}, wrong = 0, strange = 0;
    for (int t = 0; t < steps; ++t) {
        int bits[n];
        for (int i = 0; i < n; ++i) {
            bits[i] = i == 2 || random.uniform() < (i == 0 ? 0.5 : 0.05) ? 1 : 0;
            parity[i] ^= bits[i];
            std::copy_n(&rows[size_t(bits[i]) * d], d, &x[size_t(i) * d]);
        }
        if (ssm::step_streams(m.model, states, n, &scratch, x.data(), y.data()) != ssm::Status::ok) ++wrong;
        for (int i = 0; i < n; ++i) {
            float *const answer = &answers[size_t(2 * bits[i] + parity[i]) * 2], *const got = &y[size_t(i) * 2];
            if (answer[0] == -1.0f) std::copy_n(got, 2, answer);
            if (std::memcmp(answer, got, 8) != 0) ++strange;
            if ((got[1] > got[0]) != (parity[i] == 1)) ++wrong;
        }
    }
    CHECK(wrong == 0);
    CHECK(strange == 0);
}
const char* const parity_models[] = {"parity", "parity-i8", "parity-i4"};
} // namespace

TEST_CASE("tracking: the shipped parity models are exact over a million bits, and can only go on so (slow)") {
    for (const char* name : parity_models)
        for (ssm::Isa isa : tool::back_ends()) run_parity(name, isa, isa == tool::back_ends().back() ? 1000000 : 20000);
}

TEST_CASE("tracking: the integer parity models are exact over ten million bits (very slow)" * doctest::skip()) {
    for (const char* name : parity_models)
        if (std::strcmp(name, "parity") != 0) run_parity(name, ssm::Isa::best, 10000000);
}

TEST_CASE("tracking: an integer parity model is a finite automaton that counts ones modulo 2") {
    // Five states: nothing read yet, then one for each last bit and parity. Every state has one parity, every step from
    // it answers rightly: so does every stream of bits, of any length.
    for (const char* name : {"parity-i8", "parity-i4"}) {
        CAPTURE(name);
        std::string         bytes, error;
        quantize::Automaton a;
        std::ifstream       in(std::string(SSM_TEST_DIR "/../weights/") + name + ".safetensors", std::ios::binary);
        bytes.assign(std::istreambuf_iterator<char>(in), {});
        REQUIRE_MESSAGE(quantize::explore(bytes, 1000, &a, &error), error);
        REQUIRE(a.n_tokens == 2);
        REQUIRE(a.n_outputs == 2);
        CHECK(a.n_states == 5);
        std::vector<int> parity(a.n_states, -1);
        parity[0] = 0; // numbered as they are found: each is known before its own steps are looked at
        for (size_t s = 0; s < a.n_states; ++s)
            for (size_t bit = 0; bit < 2; ++bit) {
                const size_t   at = 2 * s + bit;
                const int      sum = parity[s] ^ int(bit);
                const int32_t* y = &a.outputs[2 * at];
                if (parity[a.next[at]] < 0) parity[a.next[at]] = sum;
                CHECK(parity[a.next[at]] == sum);
                CHECK((y[1] > y[0]) == (sum == 1));
                CHECK(std::abs(y[1] - y[0]) > 2 << 16);
            }
        CHECK(!quantize::explore(bytes, 4, &a, &error));
        CHECK(error == "more than 4 states");
    }
}
