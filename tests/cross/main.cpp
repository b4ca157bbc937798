// main.cpp - runs models on whatever machine it was compiled for and prints a digest of all their answers.
// SPDX-License-Identifier: MIT
//
// One program for every target of cross.sh: under an operating system it is given a bundle of models as a file, as
// firmware it has one inside (-DCROSS_BARE). It needs no library but what moves bytes and writes text. A line a model
// and back-end:
//
//     NAME ISA DIGEST CHECKED      FNV-1a-64 of outputs and saved states; how many stored integers were reproduced
//     NAME ISA FAIL why
//
// and at last "end". A bundle holds models one after the other: a line of 64 bytes, "NAME SIZE" and spaces, then SIZE
// bytes and a line's end. So models stand at any alignment, as they may.
#define SSM_AVXVNNI_TEST
#define SSM_STATIC
#define SSM_IMPLEMENTATION
#include "../../ssm.hpp"

#include "program.hpp"
#ifdef CROSS_BARE
extern "C" const unsigned char cross_models[], cross_models_end[];
#endif
#ifndef CROSS_MEMORY
#define CROSS_MEMORY 4000000
#endif
#ifdef CROSS_MSAN // for MemorySanitizer, memory of earlier runs is as good as never written; see msan.sh
#include <sanitizer/msan_interface.h>
#define CROSS_FORGET(p, n) __msan_poison(p, n)
#define CROSS_WRITTEN(p, n) __msan_check_mem_is_initialized(p, n)
#else
#define CROSS_FORGET(p, n) ((void)0)
#define CROSS_WRITTEN(p, n) ((void)0)
#endif

namespace {
using ssm::Status;

constexpr int32_t batch = 4, pieces[] = {1, 3, 7, 2, 4, 5}, longest = 7, rounds = 3; // within and beyond the batch

// ---- Memory

alignas(16) unsigned char memory[CROSS_MEMORY];

struct Ram { // what is left of memory[]; null once something did not fit
    unsigned char*        p;
    size_t                left;
    template <class T> T* take(size_t n) {
        const size_t pad = size_t(-reinterpret_cast<uintptr_t>(p) & 7u), bytes = n * sizeof(T);
        if (p == nullptr || pad > left || n > (left - pad) / sizeof(T)) return p = nullptr, nullptr;
        T* out = reinterpret_cast<T*>(p + pad);
        p += pad + bytes, left -= pad + bytes;
        return out;
    }
};

bool same(const void* a, const void* b, size_t n) {
    const unsigned char *p = static_cast<const unsigned char*>(a), *q = static_cast<const unsigned char*>(b);
    for (size_t i = 0; i < n; ++i)
        if (p[i] != q[i]) return false;
    return true;
}
bool starts(const char* text, size_t n, const char* with) {
    for (size_t i = 0; with[i] != 0; ++i)
        if (i >= n || text[i] != with[i]) return false;
    return true;
}

struct Digest {
    uint64_t h = 0xcbf29ce484222325u;
    void     byte(unsigned b) { h = (h ^ (b & 255u)) * 0x100000001b3u; }
    void     add(uint32_t word) {
            for (unsigned k = 0; k < 32; k += 8) byte(word >> k);
    }
};

// ---- The two engines

struct Integers {
    using Number = int32_t;
    static Number   number(int32_t q16) { return q16; }
    static uint32_t bits(Number v) { return uint32_t(v); }
    static Status   embed(const ssm::Model& m, int32_t token, Number* x) { return ssm::embed_q16(m, token, x); }
    static Status   step(const ssm::Model& m, ssm::State* s, ssm::Scratch* w, const Number* x, Number* y, Number dt) {
          return ssm::step_q16(m, s, w, x, y, dt);
    }
    static Status prefill(const ssm::Model& m, ssm::State* s, ssm::Scratch* w, const Number* x, int32_t n, Number* y,
                          const Number* dt) {
        return ssm::prefill_q16(m, s, w, x, n, y, dt);
    }
    static Status candidates(const ssm::Model& m, const ssm::State& s, ssm::Scratch* w, const Number* x, int32_t n,
                             Number* y, const Number* dt) {
        return ssm::step_batch_q16(m, s, w, x, n, y, dt);
    }
};
#ifndef SSM_NO_FLOAT
struct Floats {
    using Number = float;
    static Number   number(int32_t q16) { return static_cast<float>(q16) * (1.0f / 65536.0f); } // exact below 2^24
    static uint32_t bits(Number v) { return uint32_t(ssm::detail::bits_of(v)); }
    static Status   embed(const ssm::Model& m, int32_t token, Number* x) { return ssm::embed(m, token, x); }
    static Status   step(const ssm::Model& m, ssm::State* s, ssm::Scratch* w, const Number* x, Number* y, Number dt) {
          return ssm::step(m, s, w, x, y, dt);
    }
    static Status prefill(const ssm::Model& m, ssm::State* s, ssm::Scratch* w, const Number* x, int32_t n, Number* y,
                          const Number* dt) {
        return ssm::prefill(m, s, w, x, n, y, dt);
    }
    static Status candidates(const ssm::Model& m, const ssm::State& s, ssm::Scratch* w, const Number* x, int32_t n,
                             Number* y, const Number* dt) {
        return ssm::step_batch(m, s, w, x, n, y, dt);
    }
};
#endif

struct Run {
    const ssm::Blob& file;
    const ssm::Model m;
    ssm::State       state, other;
    ssm::Scratch     scratch;
    Ram              ram;
};

// The same made-up events as steps, as one prefill a piece, and as candidates before each piece; then the saved state.
// Null if every way gave the same bits.
template <class E> const char* made_up_stream(Run r, Digest* digest) {
    using Number = typename E::Number;
    const ssm::Config& c = r.m.config;
    const size_t       d_in = size_t(c.d_input), d_out = size_t(c.d_output), state_bytes = ssm::state_bytes(c);
    Number*            x = r.ram.take<Number>(longest * d_in);
    Number*            y = r.ram.take<Number>(longest * d_out);
    Number*            once = r.ram.take<Number>(d_out);
    Number*            dt = r.ram.take<Number>(longest);
    const size_t       saved = ssm::saved_bytes(c);
    unsigned char*     save = r.ram.take<unsigned char>(saved);
    if (save == nullptr) return "too little memory";
    const auto digest_of = [&](const Number* v, size_t n) {
        for (size_t i = 0; i < n; ++i) digest->add(E::bits(v[i]));
    };
    const bool any_dt = c.n_bands == 0 && (!ssm::is_integer(c) || c.arch != ssm::Arch::s4d || c.has_gaps);
    uint32_t   random = 2463534242u;
    const auto next = [&] { return random = random * 1664525u + 1013904223u; };
    for (int32_t round = 0; round < rounds; ++round)
        for (const int32_t n : pieces) {
            for (size_t i = 0; i < size_t(n); ++i) {
                dt[i] = E::number(any_dt && next() >> 30 == 0 ? 1 + int32_t(next() >> 14) : 65536); // up to 4 steps
                if (c.input == ssm::Input::tokens) {
                    const int32_t token = int32_t((next() >> 8) % uint32_t(c.vocab_size));
                    if (E::embed(r.m, token, x + i * d_in) != Status::ok) return "embed refused a token";
                } else
                    for (size_t k = 0; k < d_in; ++k) // sounds: louder and softer ones
                        x[i * d_in + k] = E::number(c.n_bands > 0 ? (int32_t(next() >> 15) - 65536) >> n
                                                                  : int32_t(next() >> 13) - (1 << 18));
            }
            if (E::candidates(r.m, r.state, &r.scratch, x, n, y, dt) != Status::ok) return "step_batch refused events";
            CROSS_WRITTEN(y, size_t(n) * d_out * sizeof(Number));
            digest_of(y, size_t(n) * d_out);
            for (size_t i = 0; i < size_t(n); ++i) {
                cross_begin();
                const Status stepped = E::step(r.m, &r.state, &r.scratch, x + i * d_in, once, dt[i]);
                cross_end();
                if (stepped != Status::ok) return "step refused an event";
                if (i == 0 && !same(y, once, d_out * sizeof(Number))) return "step_batch gives other bits than step";
                digest_of(once, d_out);
            }
            if (E::prefill(r.m, &r.other, &r.scratch, x, n, y, dt) != Status::ok) return "prefill refused events";
            if (!same(y, once, d_out * sizeof(Number))) return "prefill gives other bits than step";
            if (!same(r.state.data, r.other.data, state_bytes)) return "prefill leaves another state than step";
        }
    if (ssm::save(r.m, r.state, save, saved) != saved) return "save wrote another size";
    CROSS_WRITTEN(save, saved);
    for (size_t i = 0; i < saved; ++i) digest->byte(save[i]);
    ssm::reset(r.m, &r.other);
    if (ssm::restore(r.m, &r.other, save, saved) != Status::ok) return "restore refused what save wrote";
    if (!same(static_cast<unsigned char*>(r.state.data) + 8, static_cast<unsigned char*>(r.other.data) + 8,
              state_bytes - 8))
        return "restore gives another state";
    return nullptr;
}

// ---- Golden files: integers that are stored in the model's own file

struct Stored { // a tensor of integers
    const unsigned char* p;
    size_t               size, count;
    bool                 is_unsigned, is_float;
    Stored(const ssm::Index& ix, const ssm::Entry* e)
        : p(nullptr), size(0), count(0), is_unsigned(false), is_float(false) {
        if (e == nullptr) return;
        const char dtype = ssm::dtype_name(e->dtype)[0];
        p = ix.data + e->begin, size = size_t(ssm::dtype_bits(e->dtype)) / 8;
        count = size == 0 ? 0 : size_t(e->end - e->begin) / size;
        is_unsigned = dtype == 'U', is_float = dtype == 'F';
    }
    int64_t at(size_t i) const {
        uint64_t       v = 0;
        const unsigned unused = unsigned(64 - 8 * size);
        for (size_t k = 0; k < size; ++k) v |= uint64_t(p[i * size + k]) << 8 * k;
        return is_unsigned || is_float ? int64_t(v) : int64_t(v << unused) >> unused;
    }
    bool equals(size_t i, int64_t v) const { return at(i) == (is_unsigned && size == 4 ? int64_t(uint32_t(v)) : v); }
};

struct Watch { // follows the stages of layer 0 through the file's trace.* tensors
    const ssm::Index* ix;
    uint32_t*         seen; // integers, an entry
    uint32_t          checked;
    bool              equal;
    static void       see(void* user, const char* stage, int32_t layer, int32_t, const int32_t* v, int32_t n) {
              if (layer != 0) return;
        Watch&            w = *static_cast<Watch*>(user);
              const ssm::Entry* e = ssm::find_tensor(*w.ix, Text().add("trace.").add(stage).s);
              if (e == nullptr) return;
        const Stored want(*w.ix, e);
              uint32_t&    at = w.seen[e - w.ix->entries];
              for (int32_t i = 0; i < n; ++i, ++at, ++w.checked) w.equal &= at < want.count && want.equals(at, v[i]);
    }
};

const char* golden(Run r, uint32_t* checked) {
    const ssm::Config& c = r.m.config;
    const size_t       index_bytes = ssm::index_bytes(r.file), d_in = size_t(c.d_input), d_out = size_t(c.d_output);
    ssm::Index         ix;
    if (ssm::read_index(&ix, r.file, r.ram.take<unsigned char>(index_bytes), index_bytes) != Status::ok)
        return "read_index refused the file";
    const Stored input(ix, ssm::find_tensor(ix, "test.input")), output(ix, ssm::find_tensor(ix, "test.output")),
        gaps(ix, ssm::find_tensor(ix, "test.dt_scale"));
    if (input.p == nullptr || output.p == nullptr || output.is_float) return nullptr; // no such file
    const bool   tokens = c.input == ssm::Input::tokens;
    const size_t steps = tokens ? input.count : input.count / d_in;
    if (output.count != steps * d_out || (gaps.p != nullptr && gaps.count != steps)) return "test.* of wrong size";

    // 1. Step by step, watched.
    int32_t most = 0;
    for (int32_t k = 0; k < 7; ++k) {
        const int32_t n = ssm::get_state_int(r.m, r.state, 0, ssm::Part(k), nullptr);
        most = n > most ? n : most;
    }
    int32_t*  x = r.ram.take<int32_t>(d_in);
    int32_t*  y = r.ram.take<int32_t>(d_out);
    int32_t*  part = r.ram.take<int32_t>(size_t(most));
    uint32_t* seen = r.ram.take<uint32_t>(size_t(ix.n_entries));
    if (seen == nullptr) return "too little memory";
    for (int32_t i = 0; i < ix.n_entries; ++i) seen[i] = 0;
    Watch      watch{&ix, seen, 0, true};
    ssm::Trace trace{};
    trace.user = &watch, trace.see_int = Watch::see, r.scratch.trace = &trace;
    for (size_t t = 0; t < steps; ++t) {
        if (tokens) {
            if (ssm::embed_q16(r.m, int32_t(input.at(t)), x) != Status::ok) return "embed_q16 refused a token";
        } else
            for (size_t k = 0; k < d_in; ++k) x[k] = ssm::detail::to_q16(uint32_t(input.at(t * d_in + k)));
        const int32_t dt = gaps.p == nullptr ? 65536 : int32_t(gaps.at(t));
        if (ssm::step_q16(r.m, &r.state, &r.scratch, x, y, dt) != Status::ok) return "step_q16 refused an event";
        for (size_t k = 0; k < d_out; ++k, ++watch.checked)
            if (!output.equals(t * d_out + k, y[k])) return "test.output differs";
        (void)ssm::get_state_int(r.m, r.state, 0, ssm::Part::ssm_state, part);
        Watch::see(&watch, c.arch == ssm::Arch::s4d ? "state0" : "h_row", 0, 0, part, c.d_state);
    }
    if (!watch.equal) return "trace.* differs";

    // 2. The state at the end.
    const struct {
        const char* name;
        ssm::Part   part;
    } parts[] = {{"x", ssm::Part::ssm_state},       {"h", ssm::Part::ssm_state},     {"h16", ssm::Part::ssm_state},
                 {"hexp", ssm::Part::exponents},    {"conv", ssm::Part::conv_state}, {"k", ssm::Part::k_state},
                 {"theta", ssm::Part::angle_state}, {"v", ssm::Part::v_state}};
    const char* layers = c.arch == ssm::Arch::s4d ? "final.s4_layers." : "final.layers.";
    for (int32_t l = 0; l < c.n_layers; ++l)
        for (const auto& p : parts) {
            const ssm::Entry* e = ssm::find_tensor(ix, Text().add(layers).add(uint32_t(l)).add(".").add(p.name).s);
            if (e == nullptr) continue;
            const Stored want(ix, e);
            const auto   n = size_t(ssm::get_state_int(r.m, r.state, l, p.part, part));
            if (n != want.count) return "final.* of wrong size";
            for (size_t i = 0; i < n; ++i)
                if (!want.equals(i, part[i])) return "final.* differs";
            seen[e - ix.entries] = uint32_t(n), watch.checked += uint32_t(n);
        }
    const ssm::Entry *sum = ssm::find_tensor(ix, "final.pool.sum"), *count = ssm::find_tensor(ix, "final.pool.count");
    if (sum != nullptr && count != nullptr) {
        const Stored sums(ix, sum);
        const size_t d = sums.count;
        if (size_t(ssm::get_state_int(r.m, r.state, 0, ssm::Part::pool, part)) != 2 * d + 1) return "no such pool";
        for (size_t i = 0; i < d; ++i)
            if (!sums.equals(i, int64_t(uint64_t(uint32_t(part[i])) | uint64_t(uint32_t(part[d + i])) << 32)))
                return "final.pool.sum differs";
        if (!Stored(ix, count).equals(0, part[2 * d])) return "final.pool.count differs";
        seen[sum - ix.entries] = uint32_t(d), seen[count - ix.entries] = 1, watch.checked += uint32_t(d) + 1;
    }
    for (const ssm::Entry* e = ix.entries; e != ix.entries + ix.n_entries; ++e) {
        const size_t length = size_t(e->name_len);
        if (e->value == nullptr && (starts(e->name, length, "final.") || starts(e->name, length, "trace.")) &&
            seen[e - ix.entries] != Stored(ix, e).count)
            return "a tensor of integers was not compared";
    }
    *checked = watch.checked;
    return nullptr;
}

// The functions of one number at their edges, each from its own tensors.
const char* functions(const ssm::Blob& file, uint32_t* checked) {
    namespace d = ssm::detail;
    Ram          ram{memory, sizeof memory};
    const size_t bytes = ssm::index_bytes(file);
    ssm::Index   ix;
    if (ssm::read_index(&ix, file, ram.take<unsigned char>(bytes), bytes) != Status::ok) return "read_index refused it";
    const struct {
        const char *x, *out;
        int64_t (*f)(int64_t);
    } all[] = {{"exp_neg.x", "exp_neg.out", [](int64_t x) { return d::exp_neg(x); }},
               {"unary.x", "sigmoid.out", [](int64_t x) { return d::sigmoid_q(x); }},
               {"unary.x", "tanh.out", [](int64_t x) { return d::tanh_q(x); }},
               {"unary.x", "softplus.out", [](int64_t x) { return d::softplus_q(x); }},
               {"unary.x", "phi.out", [](int64_t x) { return d::phi_q(d::within(x, int64_t(8) << 26)); }},
               {"phase.x", "sin.out", [](int64_t x) { return d::sin_turn(x); }},
               {"phase.x", "cos.out", [](int64_t x) { return d::cos_turn(x); }},
               {"recip.x", "recip.out", [](int64_t x) { return d::recip(x); }},
               {"rsqrt.x", "rsqrt.r",
                [](int64_t x) {
                    int32_t e = 0;
                    return d::rsqrt_q(x, &e);
                }},
               {"rsqrt.x", "rsqrt.e", [](int64_t x) {
                    int32_t e = 0;
                    return (void)d::rsqrt_q(x, &e), int64_t(e);
                }}};
    for (const auto& f : all) {
        const Stored x(ix, ssm::find_tensor(ix, f.x)), out(ix, ssm::find_tensor(ix, f.out));
        if (x.count == 0 || x.count != out.count) return "a tensor is missing";
        for (size_t i = 0; i < x.count; ++i, ++*checked)
            if (int32_t(out.at(i)) != int32_t(f.f(x.at(i)))) return f.out;
    }
    return nullptr;
}

// ---- A line each

bool line(const char* name, const char* isa, const char* why, uint64_t digest, uint32_t checked) {
    board_write(Text().add(name).add(" ").add(isa).add(" ").s);
    if (why == nullptr) board_write(Text().hex(digest).add(" ").add(checked).add("\n").s);
    else board_write(Text().add("FAIL ").add(why).add("\n").s);
    return why == nullptr;
}

const char* run(const ssm::Blob& file, ssm::Isa isa, Digest* digest, uint32_t* checked) {
    CROSS_FORGET(memory, sizeof memory);
    ssm::Arena       arena{memory, sizeof memory, 0};
    ssm::LoadOptions options;
    ssm::Model       m;
    ssm::Fault       fault;
    options.isa = isa;
    static char why[sizeof fault.name + 64];
    if (ssm::load(&m, file, &arena, options, &fault) != Status::ok) {
        Text t;
        t.add("load: ").add(fault.name).add(" ").add(fault.detail);
        for (size_t i = 0; i < sizeof t.s; ++i) why[i] = t.s[i];
        return why;
    }
    ssm::State   state, other;
    ssm::Scratch scratch;
    if (ssm::make_state(&state, m, &arena) != Status::ok || ssm::make_state(&other, m, &arena) != Status::ok ||
        ssm::make_scratch(&scratch, m, batch, &arena) != Status::ok)
        return "too little memory";
    const Run   r{file, m, state, other, scratch, {memory + arena.used, sizeof memory - arena.used}};
    const char* wrong = nullptr;
    if (ssm::is_integer(m.config)) {
        wrong = golden(r, checked);
        ssm::reset(m, &state);
        if (wrong == nullptr) wrong = made_up_stream<Integers>(r, digest);
    } else {
#ifdef SSM_NO_FLOAT
        wrong = "a float model without its engine";
#else
        wrong = made_up_stream<Floats>(r, digest);
#endif
    }
    return wrong;
}

bool every_back_end(const char* name, const ssm::Blob& file) {
    if (starts(name, 64, "int_primitives")) {
        uint32_t    checked = 0;
        const char* why = functions(file, &checked);
        return line(name, "scalar", why, 0, checked);
    }
    bool good = true;
    for (int isa = 1; ssm::isa_name(ssm::Isa(isa)) != nullptr; ++isa) { // 0 is the best of them
        if (!ssm::isa_runs_here(ssm::Isa(isa))) continue;
        Digest      digest;
        uint32_t    checked = 0;
        const char* why = run(file, ssm::Isa(isa), &digest, &checked);
        cross_next();
        good &= line(name, ssm::isa_name(ssm::Isa(isa)), why, digest.h, checked);
    }
    return good;
}

bool every_model(const unsigned char* p, const unsigned char* end) {
    bool good = p != end;
    while (size_t(end - p) > 64) {
        char   name[64];
        size_t n = 0, size = 0, i = 0;
        for (; n < 63 && p[n] != ' '; ++n) name[n] = static_cast<char>(p[n]);
        name[n] = 0;
        for (i = n + 1; i < 64 && p[i] >= '0' && p[i] <= '9'; ++i) size = size * 10 + size_t(p[i] - '0');
        if (size == 0 || size > size_t(end - p) - 64) return line(name, "none", "the bundle is damaged", 0, 0);
        good &= every_back_end(name, ssm::Blob{p + 64, size});
        p += 64 + size + 1;
    }
    board_write(good ? "end\n" : "end, with failures\n");
    return good;
}
} // namespace

#ifdef CROSS_BARE
int main() { return every_model(cross_models, cross_models_end) ? 0 : 1; }
#else
int main(int argc, char** argv) {
    static unsigned char bundle[3000000];
    FILE*                in = argc == 2 ? fopen(argv[1], "rb") : nullptr;
    if (in == nullptr) return fputs("usage: cross BUNDLE\n", stderr), 2;
    const size_t size = fread(bundle, 1, sizeof bundle, in);
    fclose(in);
    return every_model(bundle, bundle + size) ? 0 : 1;
}
#endif
