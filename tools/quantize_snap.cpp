// quantize_snap.cpp - makes the turns of an integer Mamba-3 model exact, and lists every state it can ever be in.
// SPDX-License-Identifier: MIT
//
// Rounding the weights of a model that tracks by turning its state (train_snap.hpp) moves its turns off the half turn,
// and the error adds up. The only layer of a model that reads tokens sees one vector a token, so in the integer engine
// dt, A, lambda and the angles of a head are constants of the token; dt_bias, with 26 fraction bits, can move dt by
// single units:
//
//     theta += rs(tanh(angle) dt, 25) = 2^31, half a turn, where tanh(angle) = +-2^30 and dt = 2^26
//     cos theta = +-c, sin theta = 0: k alternates between two values, and so does what is added to h
//     h, which takes v k in turns with both signs, returns to where it was, unless v k lies midway between two units
//     alpha = 2^30 (A dt rounds to 0): h keeps every bit.   dt = 0 on the other tokens: nothing moves
//
// Whether all of it holds is not argued but enumerated: explore() steps from every state with every token until nothing
// new comes. Finitely many states make a finite automaton, whose answers are known for streams of any length.
#include "quantize.hpp"

#include <cstdlib>
#include <cstring>

namespace quantize {
namespace {

// A model in memory of its own, with one state and one scratch.
struct Running {
    std::string                file;
    std::vector<unsigned char> memory;
    ssm::Model                 model;
    ssm::State                 state;
    ssm::Scratch               scratch;
    std::vector<int32_t>       x, y;

    bool open(std::string bytes, std::string* error) {
        file = std::move(bytes);
        const ssm::Blob            blob{file.data(), file.size()};
        std::vector<unsigned char> index(ssm::index_bytes(blob) + 1);
        ssm::Config                config;
        ssm::Fault                 fault;
        ssm::Status                s = ssm::inspect(&config, blob, index.data(), index.size(), &fault);
        if (s == ssm::Status::ok) {
            memory.resize(ssm::arena_bytes(config));
            ssm::Arena arena{memory.data(), memory.size(), 0};
            s = ssm::load(&model, blob, &arena, ssm::LoadOptions(), &fault);
            if (s == ssm::Status::ok) s = ssm::make_state(&state, model, &arena);
            if (s == ssm::Status::ok) s = ssm::make_scratch(&scratch, model, 1, &arena);
        }
        if (s != ssm::Status::ok) return *error = tool::describe(s, fault), false;
        x.resize(size_t(config.d_model)), y.resize(size_t(config.d_output));
        return true;
    }
    bool step(int32_t token) {
        return ssm::embed_q16(model, token, x.data()) == ssm::Status::ok &&
               ssm::step_q16(model, &state, &scratch, x.data(), y.data()) == ssm::Status::ok;
    }
};

// The angles [H][S] after one token from the initial state.
struct Turns {
    std::vector<int32_t> theta;
    static void          see(void* user, const char* stage, int32_t, int32_t, const int32_t* values, int32_t count) {
                 if (std::strcmp(stage, "theta") == 0) static_cast<Turns*>(user)->theta.assign(values, values + count);
    }
    bool look(const std::string& file, int32_t token, std::string* error) {
        Running    run;
        ssm::Trace trace;
        trace.see_int = see, trace.user = this;
        if (!run.open(file, error)) return false;
        run.scratch.trace = &trace;
        return run.step(token) || (*error = "a step failed", false);
    }
};

constexpr int32_t half_turn = INT32_MIN, quarter_turn = 1 << 30; // of 2^32 units, modulo 2^32
// How far `theta` is from half a turn, if it is nearer to that than to none; else 0.
int32_t beyond_half(int32_t theta) {
    const auto off = static_cast<int32_t>(static_cast<uint32_t>(theta) + static_cast<uint32_t>(half_turn));
    return off >= -quarter_turn && off < quarter_turn ? off : 0;
}
bool is_half(int32_t theta) { return theta >= quarter_turn || theta < -quarter_turn; }

int32_t read_i32(const Tensor& t, size_t i) {
    int32_t v;
    std::memcpy(&v, &t.data[4 * i], 4);
    return v;
}
void write_i32(Tensor* t, size_t i, int32_t v) { std::memcpy(&t->data[4 * i], &v, 4); }

// How many words of the state differ after two times and four times the same token: what is added at one half turn and
// taken away at the next should leave nothing.
bool drifting(const std::string& file, int32_t token, size_t* words, std::string* error) {
    Running run;
    if (!run.open(file, error)) return false;
    const size_t         n = (ssm::state_bytes(run.model.config) - ssm::detail::state_header_bytes) / 4;
    std::vector<int32_t> two(n), four(n);
    const char* const    data = static_cast<const char*>(run.state.data) + ssm::detail::state_header_bytes;
    for (int i = 0; i < 4; ++i) {
        if (!run.step(token)) return *error = "a step failed", false;
        std::memcpy((i < 2 ? two : four).data(), data, 4 * n);
    }
    *words = 0;
    for (size_t i = 0; i < n; ++i) *words += two[i] != four[i] ? 1 : 0;
    return true;
}

} // namespace

bool explore(const std::string& file, size_t most, Automaton* out, std::string* error) {
    Running run;
    if (!run.open(file, error)) return false;
    const ssm::Config& c = run.model.config;
    if (c.input != ssm::Input::tokens) return *error = "reads no tokens", false;
    const size_t head = ssm::detail::state_header_bytes, bytes = ssm::state_bytes(c); // the header counts steps
    std::vector<std::string>      states = {std::string(bytes - head, '\0')};
    std::map<std::string, size_t> numbers = {{states[0], 0}};
    *out = Automaton();
    out->n_tokens = size_t(c.vocab_size), out->n_outputs = run.y.size();
    for (size_t i = 0; i < states.size(); ++i)
        for (size_t token = 0; token < out->n_tokens; ++token) {
            ssm::reset(run.model, &run.state);
            char* const words = static_cast<char*>(run.state.data) + head;
            std::memcpy(words, states[i].data(), bytes - head);
            if (!run.step(int32_t(token))) return *error = "a step failed", false;
            const auto found = numbers.emplace(std::string(words, bytes - head), states.size());
            if (found.second) states.push_back(found.first->first);
            if (states.size() > most) return *error = "more than " + std::to_string(most) + " states", false;
            out->next.push_back(found.first->second);
            out->outputs.insert(out->outputs.end(), run.y.begin(), run.y.end());
        }
    out->n_states = states.size();
    return true;
}

int snap(Model* m, std::string* error) {
    const auto number = [&](const char* key) { return std::atoi(m->metadata[key].c_str()); };
    if (m->metadata["arch"] != "mamba3" || m->metadata["input"] != "tokens" || number("n_layer") != 1)
        return *error = "--snap is for Mamba-3 models of one layer that read tokens", tool::bad_usage;
    const auto V = number("vocab_size"), S = number("rope_angles");
    const auto H = size_t(number("d_inner") / number("headdim"));
    const auto find = [&](const char* name) {
        for (Tensor& t : m->tensors)
            if (t.name == std::string("layers.0.mixer.") + name) return &t;
        return static_cast<Tensor*>(nullptr);
    };
    Tensor *const bias = find("dt_bias"), *const B_bias = find("B_bias");
    if (bias == nullptr || B_bias == nullptr)
        return *error = "tensors \"dt_bias\" or \"B_bias\": missing", tool::bad_file;

    Turns turns;
    for (size_t h = 0; h < H; ++h) {
        // 1. The first token that turns this head, and the first angle that it turns.
        int32_t token = -1;
        size_t  at = 0;
        for (int32_t v = 0; v < V && token < 0; ++v) {
            if (!turns.look(file_bytes(*m), v, error)) return tool::bad_file;
            for (size_t s = 0; s < size_t(S) && token < 0; ++s)
                if (is_half(turns.theta[h * size_t(S) + s])) token = v, at = h * size_t(S) + s;
        }
        if (token < 0) continue;

        // 2. The turn grows with dt_bias or falls with it, as the sign of tanh(angle) has it: bit by bit, the largest
        // bias with a turn not beyond the half; rounding may leave that beside an exact one.
        const auto beyond = [&](int32_t value, int32_t* off) {
            write_i32(bias, h, value);
            if (!turns.look(file_bytes(*m), token, error)) return false;
            *off = beyond_half(turns.theta[at]);
            return is_half(turns.theta[at]) || (*error = "--snap: a turn that is not nearly a half", false);
        };
        constexpr int32_t window = 1 << 24; // a quarter on either side
        const int32_t     first = read_i32(*bias, h);
        int32_t           low = 0, high = 0, off = 0;
        if (!beyond(first - window, &low) || !beyond(first + window, &high)) return tool::bad_file;
        const bool falls = low > high;
        int32_t    found = first - window;
        for (int32_t bit = window; bit > 0; bit /= 2) {
            if (!beyond(found + bit, &off)) return tool::bad_file;
            if (falls ? off >= 0 : off <= 0) found += bit;
        }
        bool exact = false;
        for (int32_t near = -8; near <= 8 && !exact; ++near) {
            if (!beyond(found + near, &off)) return tool::bad_file;
            exact = off == 0;
        }
        if (!exact)
            return *error = "--snap: head " + std::to_string(h) + " finds no dt_bias for an exact half turn",
                   tool::bad_file;
    }

    // 3. What lies midway between two units of h is rounded up when it is added and when it is taken away. One unit of
    // B_bias, 2^-20, moves it off the middle.
    for (int32_t v = 0; v < V; ++v) {
        size_t words = 0, fewer = 0;
        if (!drifting(file_bytes(*m), v, &words, error)) return tool::bad_file;
        for (size_t i = 0; i < B_bias->data.size() / 4 && words > 0; ++i) {
            const int32_t before = read_i32(*B_bias, i);
            int32_t       kept = before;
            for (int32_t off : {1, -1, 2, -2}) {
                write_i32(B_bias, i, before + off);
                if (!drifting(file_bytes(*m), v, &fewer, error)) return tool::bad_file;
                if (fewer < words) kept = before + off, words = fewer;
            }
            write_i32(B_bias, i, kept);
        }
    }

    // 4. The proof.
    Automaton automaton;
    if (!explore(file_bytes(*m), 1000, &automaton, error))
        return *error = "--snap: " + *error + "; expected a model trained with snap = on", tool::bad_file;
    m->metadata["states"] = std::to_string(automaton.n_states);
    m->metadata["quantized"] += " --snap";
    return tool::done;
}

} // namespace quantize
