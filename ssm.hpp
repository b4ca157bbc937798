// ssm.hpp - small recurrent state-space models, anywhere: one header, no dependency, no heap.
//
// ---- 0. Manual ------------------------------------------------------------------------------------------------------
//
// What it is. A runtime for trained state-space sequence models. It loads a safetensors file in place, keeps the
// model's state in memory that you own, and advances it one event at a time. It runs S4D (diagonal state spaces with
// the GELU + GLU block of the public code), Mamba-3 (SISO and MIMO), Mamba-2 and Mamba-1, with two engines: float
// models in float, quantized ones (int8 or int4 projections, made by `ssm quantize`) in integers alone, from the
// conversion of the input to the score.
//
// Quick start. In exactly one .cpp file:
//
//     #define SSM_IMPLEMENTATION
//     #include "ssm.hpp"
//
// and elsewhere `#include "ssm.hpp"` alone, which gives declarations only. Then:
//
//     ssm::Blob file;  ssm::map_file(&file, "model.safetensors");        // or {array_in_flash, its size}
//     std::vector<unsigned char> work(ssm::index_bytes(file));           // any memory; needed by inspect() only
//     ssm::Config cfg;  ssm::inspect(&cfg, file, work.data(), work.size());
//     std::vector<unsigned char> memory(ssm::arena_bytes(cfg, 1, 64));   // 1 state, 64 rows a call
//     ssm::Arena arena{memory.data(), memory.size(), 0};
//     ssm::Model model;  ssm::State state;  ssm::Scratch scratch;
//     ssm::load(&model, file, &arena);
//     ssm::make_state(&state, model, &arena);
//     ssm::make_scratch(&scratch, model, 64, &arena);
//     ssm::step(model, &state, &scratch, event, score);                  // what just happened
//     ssm::step_batch(model, state, &scratch, candidates, 64, scores);   // what might come next; the state stays
//
// Every call that can fail returns a Status, which the compiler will not let you drop; load() and its kin say in a
// Fault which tensor or key is meant and why.
//
// Memory. The library never allocates. One arena holds the tables load() makes, states and scratch; arena_bytes() is
// constexpr, so firmware can write `static unsigned char ram[ssm::arena_bytes(config)]`. Matrices stay in the file, at
// any alignment, and are never written: the blob must outlive the Model. A state is plain bytes without pointers: copy
// it with memcpy to fork a stream, write it out with save().
//
// Threads. A Model does not change after load(): any number of threads may share it. A State has one writer at a time,
// a Scratch one user at a time. Many streams or candidates are best dealt out to threads, each with a Scratch of its
// own. One step of a large model may be split as well: Scratch::team points to threads of yours; there are none here.
//
// Determinism. An integer model gives the same bits on every CPU there is: every rounding is defined, sums of integers
// have no order, no float and no library is involved, and no intermediate can overflow within the limits that load()
// checks. In the float engine sums run in one fixed order on every back-end, multiplications and additions are never
// fused, and exp, sin, erf are made of IEEE operations here, so a model gives the same bits on every CPU with IEEE
// floats and denormals. Both hold for every batch size and split. If the host turns on flush-to-zero, results of the
// float engine may differ by what it flushes, numbers below 1.2e-38.
//
// Denormals. Every 64 steps of a stream what is below 2^-100 in a float model's recurrent state becomes 0, so that a
// state which decays is not left in denormal numbers, with which many processors are slow.
//
// States. If a model's metadata has `clip`, every number of h is limited to it after each update; NaN becomes 0.
// Without clip the limit is the largest float. Either way clipped() says if it ever happened. Discretised decays of S4D
// have |a| <= 1, those of Mamba are in [0, 1]. Inputs that are NaN, infinite or beyond 1e9 are refused before anything
// changes, and so are time steps outside (0, 2^20].
//
// Integer models: clip_q25 in the file limits the state likewise, and a number beyond its format never arises.
// Inputs are taken apart by their bits to 16 fraction bits (Q16): below 2^-17 they vanish, from 32768 on they saturate,
// NaN and Inf are refused. A dt is Q16 too: at least 2^-16. The ..._q16 calls take and give these integers directly.
//
// Sound. An S4D model with tensors frontend.poles, .full and .prior hears raw samples: a step takes a frame of d_input
// of them, from -1 to 1 (or Q16: a 16-bit sample times 2), and a bank of resonators, the logarithms of their powers and
// a moving mean, all in integers (section 8, BankQ), make the encoder's input. Frames follow each other without gaps:
// dt is 1.
//
// Files. safetensors with F32, F16 or BF16 tensors under the public names, listed in section 7. Shapes give all they
// can, metadata the rest. S4D, in either spelling: prenorm (true, false), pool (mean, last, none), disc (zoh,
// bilinear). Mamba, with or without "backbone." in front, embedding or embeddings: d_state and ngroups where they
// differ from 128 and 1 (Mamba-2), rope_angles or rope_fraction (0.5), a_activation (heavy_tail, softplus), a_floor
// (1e-4) (Mamba-3), norm_before_gate (Mamba-2), vocab_size, scope = mixer for a lone mixer; or the same keys as
// config.json of the public code has them, behind "cfg." and "cfg.ssm_cfg."; `ssm convert` writes them. Optional for
// all: arch, clip, pool. Models of sound: d_input, band_shift, band_leak, band_mean, band_floor, band_fall, band_gate,
// band_quiet, band_forget.
// What a Mamba model reads and gives: tokens (embedding.weight; see embed()), features
// (input_proj.weight and .bias) or vectors of d_model numbers; head.weight or lm_head.weight, else the embedding again,
// else the final norm's output. Tensors whose names begin with test. grad. trace. golden. final. state. are passed
// over, any other surplus tensor is refused. Limits are named constants in section 1. Integer models have metadata
// format = ssm-int and say their whole config there; a projection NAME is NAME.q8 (int8 rows) or NAME.q4 and NAME.sub
// (int4 in groups of 32 with int8 sub-scales; the first rows) with NAME.scale (float32 a row) and NAME.bias (int32
// Q16); everything else is int32 in the formats of section 8.
//
// Macros, all of them:
//
//     SSM_IMPLEMENTATION   code here
//     SSM_STATIC           with the former: a private copy, for this file only
//     SSM_NO_SIMD          scalar kernels only
//     SSM_NO_FILES         without map_file
//     SSM_NO_S4D, SSM_NO_MAMBA1, SSM_NO_MAMBA2, SSM_NO_MAMBA3   leave an architecture out
//     SSM_NO_FLOAT, SSM_NO_INTEGER   leave an engine out; without the float engine no float routine is called
//     SSM_NO_TRACE         Scratch::trace is passed over
//     SSM_NO_MESSAGES      Fault names a line of this file in place of a sentence
//     SSM_FIXED_CONFIG     a constexpr Config, as model_config of `ssm convert --c-array`: models of this shape alone,
//                          known when compiling, which makes the least code; load() refuses all others. Defined behind
//                          a first #include "ssm.hpp" and in front of the one with SSM_IMPLEMENTATION
//     SSM_DEBUG            the integer engine asserts that every number stays in the range written beside it, and
//                          counts limits met (Counts); define it in all files that share states or in none
//     SSM_CUDA             with the declarations of ssm_cuda.cu, which then is part of the program
//     SSM_AVXVNNI_TEST     the avxvnni back-end runs on CPUs with AVX-512, too, when asked for by name
//     SSM_ASSERT(x)        how: nothing without SSM_DEBUG, with it a trap where x is false; define your own instead
//
// Back-ends: scalar (everywhere); sse42, avx2, avxvnni, avx512 (x86-64, chosen at run time; the last needs VNNI); neon
// (AArch64, and 32-bit Arm that is compiled for it), dotprod and i8mm (AArch64: chosen at run time under Linux, but by
// clang before 16 and elsewhere if compiled for it); simd128 (WebAssembly compiled with -msimd128); for integer models,
// where the compiler's options say that the processor has them, dsp (Cortex-M4, M7, M33, ARMv6), helium (Cortex-M55)
// and rvv (RISC-V vectors of any length, clang 16). On 32-bit Arm, whose vectors lose denormals, the float engine stays
// scalar. GCC 12 and clang 14 or later; other C++17 compilers get scalar. 32-bit x86 needs -msse2 -mfpmath=sse;
// -ffast-math is refused.
//
// GPUs: ssm_cuda.cu, a file of its own for nvcc, advances thousands of streams together with the same bits; section 1
// under SSM_CUDA.
//
// Not here yet: other SIMD back-ends, Windows beyond map_file (untested).
//
// Map: `grep -n '^// ----' ssm.hpp` prints the table of contents. Each section uses only the ones above it.

#ifndef SSM_HPP
#define SSM_HPP

// ---- 1. API ---------------------------------------------------------------------------------------------------------
//
// Everything a caller sees. Sizes in bytes are size_t and end in _bytes; counts are int32_t. What a call changes is
// passed by pointer, what it reads by const reference. Nothing here allocates, throws, prints or keeps a global.

#include <stddef.h>
#include <stdint.h>

#define SSM_VERSION "0.1.0"

// Under SSM_STATIC also what structs and templates have for functions is this file's own: no linker makes it one with
// another file's, which may be of another version or other switches.
#ifdef SSM_STATIC
#define SSM_API [[maybe_unused]] static
#define SSM_DETAIL_BEGIN namespace detail { namespace {
#define SSM_DETAIL_END } }
#else
#define SSM_API
#define SSM_DETAIL_BEGIN namespace detail {
#define SSM_DETAIL_END }
#endif

namespace ssm {

// ---- Status

// What a call can report. Zero is success. Values are stable: append, never renumber.
enum class [[nodiscard]] Status : uint8_t{
    ok = 0,
    bad_argument,    // null pointer, n < 0, batch larger than the scratch was made for
    truncated,       // the blob ends before its header says it does
    bad_header,      // not a safetensors file, or its JSON is malformed; Fault::detail says what
    bad_config,      // metadata or shapes do not describe a model this build can run
    config_mismatch, // a valid model, but not the one this program was compiled for
    missing_tensor,  // see Fault::name
    extra_tensor,    // see Fault::name: a tensor the architecture does not have
    bad_shape,       // see Fault::name, want, got
    bad_dtype,       // see Fault::name
    bad_value,       // see Fault::name: a weight that is NaN or infinite, or makes an unstable model; got = its index
    arena_too_small, // see Fault::want (bytes needed) and got (bytes left)
    bad_state,       // a saved state of another model or another type, or damaged; Fault::detail says what
    bad_input,   // an input that is NaN, infinite or beyond max_input, or a time step that is not positive and finite
    unsupported, // a valid request, left out of this build or not possible for this model
    io,          // only from the file helper
    gpu,         // only from ssm_cuda.cu: no GPU, or what its driver says; Fault::detail has its words
};
SSM_API const char* message(Status s) noexcept; // a short English phrase; static storage, never null

// Optional detail of a failure. `name`: the tensor or metadata key it is about, as it stands in the file (still
// escaped), cut to fit, NUL-terminated; empty if it is about the whole. `detail`: a constant sentence; empty under
// SSM_NO_MESSAGES, where `line` says in which line of this file it stands. `want` and `got`: numbers that belong to the
// sentence, where has_numbers is set.
struct Fault {
    char name[96] = "";
    char found[48] = ""; // what stands there, as in the file and cut to fit: an unknown dtype, a shape; mostly empty
    const char* detail = "";
    int32_t     line = 0;
    bool        has_numbers = false;
    int64_t     want = 0, got = 0;
};

// ---- Config

enum class Arch : uint8_t { s4d, mamba1, mamba2, mamba3 };
enum class DType : uint8_t { f32, f16, bf16, i8, i4 };  // of a weight matrix that is used in place
enum class StateType : uint8_t { f32, i32, i16rowexp }; // f32: the float engine; the others: the integer engine
enum class Disc : uint8_t { zoh, bilinear };            // how S4D turns continuous parameters into a step
enum class Pool : uint8_t { none, last, mean }; // what the decoder reads: each step, the last step, the running mean
enum class Norm : uint8_t { layer, rms };
enum class Input : uint8_t { features, tokens, vectors }; // through a matrix; rows made by embed(); d_model numbers

// Limits, in one place. A file beyond one of them is refused with a message that names it.
constexpr uint64_t max_header_bytes = 100'000'000; // of a safetensors header; the format's own limit
constexpr int32_t  max_depth = 32;                 // nesting of JSON
constexpr int32_t  max_rank = 8;                   // dimensions of a tensor
constexpr int32_t  max_fields = 32;                // fields of one tensor's entry in the header
constexpr int32_t  max_layers = 256;
constexpr int32_t  max_width = 16384; // d_model, d_input, d_output
constexpr int32_t  max_vocab = 1 << 20;
constexpr int32_t  max_d_state = 512; // N of S4D (N/2 modes are stored); Mamba: max_d_state / 2
constexpr int32_t  max_mimo_rank = 8;
constexpr int32_t  max_bands = 64;   // of a model of sound
constexpr int32_t  max_frame = 4096; // its samples a step
constexpr int32_t  max_d_conv = 8;
constexpr int32_t  max_batch = 65536;
constexpr int32_t  max_parts = 64;             // of a Team; more are as many
constexpr uint64_t max_state_floats = 1 << 26; // of one stream: no size in bytes reaches 2^32 by it
constexpr float    max_input = 1e9f;           // magnitude of an input number
constexpr float    max_dt = 1048576.0f;        // time since the previous event, in training steps

// The shape of a model, in the names of the papers. Read from the blob, or a constexpr written by `ssm convert`.
// Numbers that an architecture does not have stay 0.
struct Config {
    Arch      arch = Arch::s4d;
    Disc      disc = Disc::zoh; // S4D
    Pool      pool = Pool::mean;
    Norm      norm = Norm::layer;
    Input     input = Input::features;
    bool      prenorm = false;          // S4D: norm in front of each layer (true) or behind its residual sum (false)
    bool      has_head = true;          // false: the output is the final norm's
    bool      bare_mixer = false;       // one Mamba mixer alone: no norms, no residual sum, no head
    bool      is_mimo = false;          // Mamba-3
    bool      is_outproj_norm = false;  // Mamba-3
    bool      softplus_A = false;       // Mamba-3: A = -softplus(dd_A), of files older than June 2026
    bool      rmsnorm = false;          // Mamba-2: the mixer has a norm
    bool      norm_before_gate = false; // Mamba-2
    bool      has_gaps = false;         // S4D of integers: a dt other than 1 is possible
    StateType state = StateType::f32;
    int32_t   n_layers = 1;
    int32_t   d_input = 1;       // floats per step given by the caller
    int32_t   d_output = 1;      // floats per step returned
    int32_t   d_model = 8;       // S4D: H, channels
    int32_t   d_state = 4;       // N. S4D: real state size of a channel; N/2 complex modes are stored
    int32_t   vocab_size = 0;    // Input::tokens
    int32_t   mlp_hidden = 0;    // Mamba: width of the MLP behind each mixer; 0: none
    int32_t   d_inner = 0;       // Mamba: expand * d_model
    int32_t   d_ssm = 0;         // Mamba: the part of d_inner that goes through the recurrence
    int32_t   nheads = 0;        // H    Mamba-2, Mamba-3
    int32_t   headdim = 0;       // P    Mamba-2, Mamba-3
    int32_t   ngroups = 0;       // G    Mamba-2, Mamba-3: B and C are shared by nheads / ngroups heads
    int32_t   mimo_rank = 0;     // R    Mamba-3; 1 for SISO
    int32_t   rope_angles = 0;   // S    Mamba-3
    int32_t   d_conv = 0;        // K    Mamba-1, Mamba-2
    int32_t   dt_rank = 0;       //      Mamba-1
    float     A_floor = 0.0f;    //      Mamba-3: A <= -A_floor
    float     state_clip = 0.0f; // every number of the state h stays in [-clip, +clip]; 0: off
    int32_t   act_bits = 0;      // integer models: bits of the codes that enter a projection, 8 or 16
    int32_t   clip_q25 = 0;      // integer models: the clip, 2^25 to the unit; 2^31 - 1: off
    int32_t   A_floor_q26 = 0;   // integer models, Mamba-3
    int32_t   b_frac = 0;        // integer models, S4D: fraction bits of b, and of B / A
    int32_t   g_frac = 0;
    int32_t   n_bands = 0;    // models of sound: resonators between d_input samples a step and the encoder; 0: none
    int32_t   band_shift = 0; // section 8, BankQ
    int32_t   band_leak = 0;
    int32_t   band_mean = 0;
    int32_t   band_floor = 0;
    int32_t   band_fall = 0;
    int32_t   band_gate = 0;
    int32_t   band_quiet = 0;
    int32_t   band_forget = 0;
    int32_t   n_entries = 0; // entries in the file's header (tensors and metadata); only sizes load()'s workspace
};
SSM_DETAIL_BEGIN
// Its whole numbers, but for n_entries, which is the file's.
constexpr int32_t Config::*const numbers_of_shape[] = {
    &Config::n_layers,    &Config::d_input,    &Config::d_output,  &Config::d_model,    &Config::d_state,
    &Config::vocab_size,  &Config::mlp_hidden, &Config::d_inner,   &Config::d_ssm,      &Config::nheads,
    &Config::headdim,     &Config::ngroups,    &Config::mimo_rank, &Config::rope_angles, &Config::d_conv,
    &Config::dt_rank,     &Config::act_bits,   &Config::clip_q25,  &Config::A_floor_q26, &Config::b_frac,
    &Config::g_frac,      &Config::n_bands,    &Config::band_shift, &Config::band_leak, &Config::band_mean,
    &Config::band_floor,  &Config::band_fall,  &Config::band_gate, &Config::band_quiet, &Config::band_forget};
constexpr bool same_shape(const Config& a, const Config& b) noexcept { // all but the two floats
    bool same = a.arch == b.arch && a.disc == b.disc && a.pool == b.pool && a.norm == b.norm && a.input == b.input &&
                a.state == b.state && a.prenorm == b.prenorm && a.has_head == b.has_head &&
                a.bare_mixer == b.bare_mixer && a.is_mimo == b.is_mimo && a.is_outproj_norm == b.is_outproj_norm &&
                a.softplus_A == b.softplus_A && a.rmsnorm == b.rmsnorm && a.norm_before_gate == b.norm_before_gate &&
                a.has_gaps == b.has_gaps;
    for (const auto number : numbers_of_shape) same &= a.*number == b.*number;
    return same;
}
SSM_DETAIL_END
constexpr bool operator==(const Config& a, const Config& b) noexcept {
    return detail::same_shape(a, b) && a.A_floor == b.A_floor && a.state_clip == b.state_clip;
}
constexpr bool is_integer(const Config& c) noexcept { return c.state != StateType::f32; } // which engine runs it
SSM_API bool   valid(const Config& c) noexcept; // ranges, and that no size below can overflow

// ---- Safetensors: the container of every model file

// One entry of a file's header. Points into the blob.
struct Entry {
    const char* name = nullptr; // between its quotes, still escaped
    uint64_t    hash = 0;       // of the unescaped name; orders the index
    uint64_t    begin = 0;      // tensor: byte offsets in the data buffer. Metadata: the value, see `value`
    uint64_t    end = 0;
    const char* value = nullptr;      // metadata: the string value between its quotes, still escaped; null for a tensor
    const char* shape_text = nullptr; // tensor: text of the shape array, from its '['
    int32_t     name_len = 0;
    int32_t     value_len = 0;
    uint8_t     dtype = 0; // index into dtype_name()
    uint8_t     rank = 0;
    uint8_t     used = 0; // set by load() when the architecture has a place for it
};

struct Blob {
    const void* data = nullptr;
    size_t      bytes = 0;
}; // read-only; outlives the Model

// The index of a file: `n_entries` entries sorted by (hash, unescaped name). Lives in the caller's memory.
struct Index {
    Entry*               entries = nullptr;
    int32_t              n_entries = 0;
    int32_t              n_tensors = 0;
    const unsigned char* data = nullptr; // the data buffer
    uint64_t             data_bytes = 0;
};

// Bytes of memory read_index() needs for this blob. One pass over the header; 0 if it is not well-formed JSON
// (read_index() then says what is wrong, and needs no memory for that).
SSM_API size_t index_bytes(Blob blob) noexcept;

// Checks the whole container by every rule of the format (nothing is used before all of it is proven) and fills `out`.
// `memory`: at least index_bytes(blob) bytes, any alignment. On failure `out` is unchanged and `fault` says what and
// where.
SSM_API Status read_index(Index* out, Blob blob, void* memory, size_t bytes, Fault* fault = nullptr) noexcept;

SSM_API const Entry* find_tensor(const Index& ix, const char* name) noexcept; // null if absent; `name` is a C string
SSM_API const Entry* find_metadata(const Index& ix, const char* key) noexcept;
SSM_API int64_t     shape_of(const Entry& e, int64_t dims[max_rank]) noexcept; // fills `rank` dims; returns the product
SSM_API const char* dtype_name(uint8_t dtype) noexcept;                        // "F32", "BF16", ...; null past the last
SSM_API int32_t     dtype_bits(uint8_t dtype) noexcept;

// ---- JSON: what headers and requests are read with

namespace json {
enum class Kind : uint8_t {
    error,
    end,
    object,
    end_object,
    array,
    end_array,
    key,
    string,
    number,
    true_,
    false_,
    null
};

// A token points into the text. For key and string: the bytes between the quotes, still escaped, valid UTF-8, escapes
// checked. For number: its characters.
struct Token {
    Kind        kind = Kind::error;
    const char* text = nullptr;
    size_t      len = 0;
};

// A pull parser: strict RFC 8259, no recursion, no memory but itself. After Kind::error, `error` is a constant sentence
// and `p` stands at the byte it is about.
struct Reader {
    const char* p = nullptr;
    const char* end = nullptr;
    const char* error = "";
    uint32_t    is_object = 0; // one bit a level
    int32_t     depth = 0;
    uint8_t     expect = 0;
};
SSM_API Reader open(const void* text, size_t bytes) noexcept;
SSM_API Token  next(Reader* r) noexcept;
SSM_API bool   skip(Reader* r, const Token& first) noexcept;      // the rest of the value that begins with `first`
SSM_API bool   equals(const Token& t, const char* text) noexcept; // unescaped content equals a C string
SSM_API size_t unescape(const Token& t, char* out, size_t cap) noexcept; // UTF-8 bytes; returns the length needed
SSM_API bool   to_uint(const Token& t, uint64_t* out) noexcept;          // 0 | [1-9][0-9]*, below 2^64
} // namespace json

// Decimal text to the nearest float, ties to even; correct for every input length, independent of locale and rounding
// mode. Grammar: [+-] digits [. digits] [e|E [+-] digits], at least one digit before or after the point. Returns the
// number of bytes read, 0 if there is no number there. Beyond the float range *out is infinite (the caller refuses it);
// below, a signed 0.
SSM_API size_t parse_float(const char* text, size_t bytes, float* out) noexcept;

// ---- Memory

struct Arena {
    void*  data = nullptr;
    size_t bytes = 0, used = 0;
}; // caller's memory, handed out front to back
#ifdef SSM_DEBUG
// How often a stream of an integer model met a limit since its handle was made or given to reset() or restore(). Calls
// that do not advance the stream add nothing, prefill() nothing for the outputs that it does not give.
struct Counts {
    uint64_t clipped = 0;   // numbers of the state that the clip changed, found by the definition beside any back-end
    uint64_t saturated = 0; // floats read that are 32768 or more in size, and numbers that projections gave at the
                            // limits of Q16, +-(2^31 - 1); not those of norms, gates and sums
};
#endif
struct State {
    void*  data = nullptr;
    size_t bytes = 0;
#ifdef SSM_DEBUG
    Counts counts = Counts(); // of this handle; not among the bytes
#endif
}; // plain bytes, no pointers; one writer at a time
struct Trace;
struct Team;
struct Scratch {
    void*        data = nullptr;
    size_t       bytes = 0;
    int32_t      batch = 0;
    const Trace* trace = nullptr; // optional, see there
    const Team*  team = nullptr;  // optional, see there
};                                // holds nothing between calls; one a thread

// Threads lent to a call: what is large in it, its matrices' rows and its heads, is split into parts, a few for each
// thread, so that one that is held up holds up little. run() calls part(job, i) once for every i from 0 to n - 1, on
// whatever threads and in whatever order, and returns when all are done; n <= parts. The bits do not depend on it. Each
// thread needs 32 KB of stack. Without an operating system a team is not asked. tools/team.hpp makes one of
// std::thread.
struct Team {
    void (*run)(void* self, void (*part)(void* job, int32_t i), void* job, int32_t n) = nullptr;
    void*   self = nullptr;
    int32_t parts = 1; // at most max_parts
};

// For comparing a model with another program's, stage by stage: called with intermediate values while a call runs.
// Mamba-3: in_proj, dt, A, lambda, alpha, beta, gamma [H], angle [H][S] (radians), B_biased, C_biased, k, q [R][H][N].
// Every model: output (what the head reads) [d_model]. `values` lives only during the call.
struct Trace {
    void (*see)(void* user, const char* stage, int32_t layer, int32_t row, const float* values,
                int32_t count) = nullptr;
    void* user = nullptr;
    // Integer models: in_proj, dt, alpha, theta, k, q, y; S4D: u, s, g, v, block; in the engine's own formats.
    void (*see_int)(void* user, const char* stage, int32_t layer, int32_t row, const int32_t* values,
                    int32_t count) = nullptr;
};

template <class T> struct S4dLayer; // weights of one layer: pointers into blob and arena; T: float or int32_t
template <class T> struct MambaLayer;
struct Kernels; // the functions of one back-end

// A weight matrix used in place: [rows][cols], row-major, little-endian, at any alignment. Of integers: the first
// `rows4` rows are int4 in groups of 32 with an int8 sub-scale each, the others int8; one float32 scale a row, whose
// bits are all that is used.
struct Matrix {
    const unsigned char* data = nullptr; // of integers: the int8 rows
    int32_t              rows = 0, cols = 0;
    DType                dtype = DType::f32;
    bool                 in_order = false; // of a large model: read row after row, as memory likes it best
    int32_t              rows4 = 0;
    const unsigned char *data4 = nullptr, *sub = nullptr, *scale = nullptr; // [rows4][K/2], [rows4][K/32], [rows]
    const unsigned char* bias = nullptr;                                    // [rows], int32 Q16; null: none
};

struct Model { // read-only after load(); any number of threads may share it
    Config                     config;
    Matrix                     encoder, decoder; // encoder: of features, or the embedding [vocabulary][d_model]
    const float*               encoder_bias = nullptr;
    const float*               decoder_bias = nullptr;
    const unsigned char*       poles = nullptr; // of a model of sound: int32 [n_bands][re im], Q31
    const unsigned char*       full = nullptr;  // int32 [n_bands], Q16: the logarithm that stands for full scale
    const unsigned char*       prior = nullptr; // int32 [n_bands], Q16: below the peak, as usual
    const float*               norm_f_weight = nullptr; // Mamba: the final norm
    const float*               norm_f_bias = nullptr;
    const S4dLayer<float>*     s4d = nullptr;
    const MambaLayer<float>*   mamba = nullptr;
    const int32_t*             norm_f_weight_q = nullptr; // the same of an integer model, Q16
    const int32_t*             norm_f_bias_q = nullptr;
    const S4dLayer<int32_t>*   s4d_q = nullptr;
    const MambaLayer<int32_t>* mamba_q = nullptr;
    const Kernels*             kernels = nullptr; // the back-end for this CPU
    uint64_t                   fingerprint = 0;   // of every byte of the blob; stamped into saved states
};

// Sizes. constexpr, so firmware can declare its buffers statically. `batch`: rows one call may work on at a time.
constexpr size_t state_bytes(const Config& c) noexcept;                      // one stream
constexpr size_t scratch_bytes(const Config& c, int32_t batch = 1) noexcept; // temporaries
constexpr size_t model_bytes(const Config& c) noexcept;                      // the tables load() builds
constexpr size_t saved_bytes(const Config& c) noexcept;                      // what save() writes
constexpr size_t arena_bytes(const Config& c, int32_t n_states = 1, int32_t batch = 1) noexcept; // all of it

// ---- Loading

enum class Isa : uint8_t {
    best,
    scalar,
    avx2,
    avx512,
    sse42,
    neon,
    dotprod,
    simd128,
    dsp,
    helium,
    rvv,
    avxvnni,
    i8mm
}; // avx512: with VNNI
struct LoadOptions {
    Isa           isa = Isa::best;     // tests force a back-end here
    const Config* expect = nullptr;    // firmware: refuse any blob whose shape is not exactly this
    bool          check_values = true; // look for NaN and Inf in every weight (reads the whole file once)
    bool          softplus_A = false;  // Mamba-3: take A = -softplus(dd_A) whatever the file says; no file of the
                                       // official code says which activation it was trained with
};
SSM_API const char* isa_name(Isa isa) noexcept;      // "best", "scalar", "avx2" ...; null past the last
SSM_API bool        isa_runs_here(Isa isa) noexcept; // compiled in, and this CPU has it

// Reads the header only. Use it to size the arena. `memory`: as for read_index(); free again after the call.
SSM_API Status inspect(Config* out, Blob blob, void* memory, size_t bytes, Fault* fault = nullptr) noexcept;

// Checks every tensor the architecture needs, prepares small ones in the arena and uses the matrices in place. All or
// nothing: on failure neither `out` nor the arena's `used` changes.
SSM_API Status load(Model* out, Blob blob, Arena* arena, const LoadOptions& opt = LoadOptions(),
                    Fault* fault = nullptr) noexcept;

// Carve a fresh state / a scratch out of the arena. (Or fill State{ptr, bytes} by hand, 8-byte aligned, and reset()
// it.)
SSM_API Status make_state(State* out, const Model& m, Arena* arena) noexcept;
SSM_API Status make_scratch(Scratch* out, const Model& m, int32_t batch, Arena* arena) noexcept;

// ---- Running
//
// x: inputs, row after row of d_input floats. dt: time since the previous event, in training steps, one a row; null
// means 1 for every row. y: rows of d_output floats. x and y may not overlap. Nothing changes unless the result is ok.

// Advance one stream by one step.
SSM_API Status step(const Model& m, State* s, Scratch* w, const float* x, float* y, float dt = 1.0f) noexcept;

// Advance one stream by n steps: x[n][d_input]; y (may be null) gets the last output only. Same bits as n calls of
// step(), whatever n and the scratch's batch.
SSM_API Status prefill(const Model& m, State* s, Scratch* w, const float* x, int32_t n, float* y,
                       const float* dt = nullptr) noexcept;

// Score n candidates, each as if it were the next step after `from`, which is not changed: x[n][d_input],
// y[n][d_output].
SSM_API Status step_batch(const Model& m, const State& from, Scratch* w, const float* x, int32_t n, float* y,
                          const float* dt = nullptr) noexcept;

// Advance n different streams by one step each: x[n][d_input], y[n][d_output] (may be null). No two may share memory.
SSM_API Status step_streams(const Model& m, State* states, int32_t n, Scratch* w, const float* x, float* y,
                            const float* dt = nullptr) noexcept;

// Score one candidate for each of n streams, which are not changed.
SSM_API Status score_streams(const Model& m, const State* states, int32_t n, Scratch* w, const float* x, float* y,
                             const float* dt = nullptr) noexcept;

// The same for integer models without a float on the way, one line further in: x, y and dt are Q16, 2^16 to the unit.
// The calls above turn their inputs into Q16 by their bits and y back; scores are the same. A dt (>= 1) of 65536 is one
// training step.
SSM_API int32_t to_q16(float x) noexcept;     // ties up, +-(2^31 - 1) from 32768 on, 0 for a denormal number; x finite
SSM_API float   from_q16(int32_t v) noexcept; // the nearest float, ties to even
SSM_API int32_t log2_q16(uint64_t v) noexcept; // log2(v) in Q16, off by less than 2^-16; 1 <= v < 2^63
SSM_API Status  step_q16(const Model& m, State* s, Scratch* w, const int32_t* x, int32_t* y,
                         int32_t dt = 65536) noexcept;
SSM_API Status  prefill_q16(const Model& m, State* s, Scratch* w, const int32_t* x, int32_t n, int32_t* y,
                            const int32_t* dt = nullptr) noexcept;
SSM_API Status  step_batch_q16(const Model& m, const State& from, Scratch* w, const int32_t* x, int32_t n, int32_t* y,
                               const int32_t* dt = nullptr) noexcept;
SSM_API Status  step_streams_q16(const Model& m, State* states, int32_t n, Scratch* w, const int32_t* x, int32_t* y,
                                 const int32_t* dt = nullptr) noexcept;
SSM_API Status  score_streams_q16(const Model& m, const State* states, int32_t n, Scratch* w, const int32_t* x,
                                  int32_t* y, const int32_t* dt = nullptr) noexcept;

// Input::tokens: the row of `token` in the embedding, up-cast into x[d_input], ready for the calls above.
SSM_API Status embed(const Model& m, int32_t token, float* x) noexcept;
SSM_API Status embed_q16(const Model& m, int32_t token, int32_t* x) noexcept; // exactly the same numbers

// Back to the all-zero state of a fresh stream. To fork a stream, memcpy its bytes.
SSM_API void reset(const Model& m, State* s) noexcept;

SSM_API uint64_t steps_of(const Model& m, const State& s) noexcept; // events since the last reset
SSM_API bool     clipped(const Model& m, const State& s) noexcept; // sticky: a part of the state was limited or was NaN
                                                                   // (how often: State::counts, with SSM_DEBUG)

// Little-endian bytes with a header (magic, version, fingerprint, shape) and a CRC-32, which guards against accidents,
// not against intent. save() returns the bytes written; the bytes needed if dst is null; 0 if cap is too small, or if
// the state holds NaN or infinity, as of a float model without a clip whose weights are so large that a step
// overflowed. A saved state restores to bit-identical scores on any machine. restore() refuses anything else and then
// leaves `s` as it was.
SSM_API size_t save(const Model& m, const State& s, void* dst, size_t cap) noexcept;
SSM_API Status restore(const Model& m, State* s, const void* src, size_t bytes, Fault* fault = nullptr) noexcept;

// A part of one layer's state in the layout of the public code, to start from or compare with another program's.
// Returns the number of floats, 0 if the model has no such part. get: `out` may be null. set: false if `count` is
// another or a value is not finite. Angles are in radians, [0, 2 pi).
//     ssm_state [H][N/2][re im] (S4D), [di][N] (Mamba-1), [H][P][N];  conv_state [channels][K], newest last
//     angle_state [H][S];  k_state [R][H][N];  v_state [H][P]
enum class Part : uint8_t { ssm_state, conv_state, angle_state, k_state, v_state, exponents, pool };
SSM_API int32_t get_state(const Model& m, const State& s, int32_t layer, Part part, float* out) noexcept;
SSM_API bool    set_state(const Model& m, State* s, int32_t layer, Part part, const float* v, int32_t count) noexcept;
// The numbers of an integer model as they are: h in Q25 or 16-bit codes (exponents: [H][P], h = code 2^-exponent),
// angles as 2^32 to a turn, k in Q20, v and conv in Q16; pool (layer 0): lower words [d_model], upper words, the count.
SSM_API int32_t get_state_int(const Model& m, const State& s, int32_t layer, Part part, int32_t* out) noexcept;

SSM_API const char* isa_name(const Model& m) noexcept; // "scalar", "avx2", ...

// ---- Files (not under SSM_NO_FILES)

#ifndef SSM_NO_FILES
SSM_API Status map_file(Blob* out, const char* path) noexcept; // a read-only mapping of a regular, non-empty file
SSM_API void   unmap_file(Blob* blob) noexcept;
#endif

// ---- GPU (under SSM_CUDA; defined in ssm_cuda.cu)

#ifdef SSM_CUDA
// Batches on one GPU, with the bits of the calls above: of integer models and, where nvcc compiled with -fmad=false, of
// float models too. A Device holds the weights, `slots` states and buffers for `max_batch` rows; all memory is taken by
// create(). One call at a time per Device. x, y and dt are the host's, as in the calls above, and every call returns
// when y is there. Any call may fail with Status::gpu; unless the GPU itself is lost, nothing has changed then and the
// next call works.
namespace cuda {
struct Device;
struct Options {
    int32_t slots = 1;
    int32_t max_batch = 1024; // rows at a time; calls with more rows are split
    int32_t device = 0;       // which GPU
    void*   stream = nullptr; // a cudaStream_t of the caller's, not the default stream; null: one of its own
    int32_t fused = -1;       // 1: a block takes some rows through all layers (least latency); 0: a launch for each
                              // part of a layer; -1: whichever suits the number of rows. The bits are the same
};
size_t device_bytes(const Model& m, const Options& o = Options()) noexcept; // what create() takes of the GPU; 0: cannot
Status available(int32_t device = 0, Fault* fault = nullptr) noexcept;      // ok: there is such a GPU, and it can

// All slots begin as fresh streams.
Status create(Device** out, const Model& m, const Options& o = Options(), Fault* fault = nullptr) noexcept;
void   destroy(Device* d) noexcept; // null: nothing

// To and from a State of this model (bytes as there).
Status put_state(Device* d, int32_t slot, const State& s, Fault* fault = nullptr) noexcept;
Status get_state(Device* d, int32_t slot, State* s, Fault* fault = nullptr) noexcept;
Status reset(Device* d, int32_t slot, Fault* fault = nullptr) noexcept;

// step_streams(): streams slots[0 .. n), all different, advance by a step: x[n][d_input], y[n][d_output] (may be null).
Status step(Device* d, const int32_t* slots, const float* x, int32_t n, float* y, const float* dt = nullptr,
            Fault* fault = nullptr) noexcept;
// step_batch(): n candidates for the stream in `slot`, which does not change.
Status step_batch(Device* d, int32_t slot, const float* x, int32_t n, float* y, const float* dt = nullptr,
                  Fault* fault = nullptr) noexcept;
// prefill() of n streams, all different, by T steps each: x[n][T][d_input], y[n][d_output] (may be null): the last
// outputs; dt[n][T].
Status prefill(Device* d, const int32_t* slots, const float* x, int32_t n, int32_t T, float* y,
               const float* dt = nullptr, Fault* fault = nullptr) noexcept;

// The same for integer models in Q16, as the calls of that name above.
Status step_q16(Device* d, const int32_t* slots, const int32_t* x, int32_t n, int32_t* y, const int32_t* dt = nullptr,
                Fault* fault = nullptr) noexcept;
Status step_batch_q16(Device* d, int32_t slot, const int32_t* x, int32_t n, int32_t* y, const int32_t* dt = nullptr,
                      Fault* fault = nullptr) noexcept;
Status prefill_q16(Device* d, const int32_t* slots, const int32_t* x, int32_t n, int32_t T, int32_t* y,
                   const int32_t* dt = nullptr, Fault* fault = nullptr) noexcept;

// How long the GPU takes, in seconds, each the median of `repeats` launches: of a step of streams 0 .. n - 1 (or of n
// candidates for stream 0), from inputs to outputs in pinned memory of the host, but without a call's checks and copies
// there; and of the state updates of one layer alone, with the bytes of state they read and write; and this GPU's rate
// for copying memory, bytes read and written. The states move.
struct Times {
    double step = 0.0, scan = 0.0, copy_rate = 0.0;
    size_t scan_bytes = 0;
};
Status measure(Device* d, int32_t n, bool candidates, int32_t repeats, Times* out, Fault* fault = nullptr) noexcept;
const char* name_of(const Device* d) noexcept; // of the card
} // namespace cuda
#endif

// ---- Sizes, spelled out

SSM_DETAIL_BEGIN
constexpr size_t padded(int32_t n) noexcept { return (size_t(n) + 7) / 8 * 8; } // vectors come in groups of eight
constexpr size_t aligned(size_t bytes) noexcept { return (bytes + 15) / 16 * 16; }
constexpr size_t state_header_bytes = 16; // uint64 steps, uint32 flags, uint32 unused
constexpr size_t saved_header_bytes = 64;
constexpr size_t layer_bytes = 80 * sizeof(void*); // at least a layer's pointers
constexpr size_t
pool_words(const Config& c) noexcept { // a mean; of integers: sums of 64 bits, lower and upper words, count
    return c.pool != Pool::mean ? 0 : is_integer(c) ? 2 * padded(c.d_model) + 8 : padded(c.d_model);
}
// Models of sound: seven words a resonator, and what the bank keeps beside; section 8.
constexpr size_t bank_words(const Config& c) noexcept { return c.n_bands > 0 ? 7 * size_t(c.n_bands) + 3 : 0; }
// Of a state, in front of the layers' parts.
constexpr size_t  head_words(const Config& c) noexcept { return pool_words(c) + bank_words(c); }
constexpr int32_t features_of(const Config& c) noexcept { // what the encoder reads
    return c.n_bands > 0 ? c.n_bands : c.d_input;
}
constexpr size_t modes(const Config& c) noexcept { // S4D; only floats are padded
    return size_t(c.d_state / 2) * (is_integer(c) ? size_t(c.d_model) : padded(c.d_model));
}

// Numbers of a mixer, in floats unless said otherwise.
constexpr size_t norms(const Config& c) noexcept { return size_t(c.mlp_hidden > 0 ? 2 : 1); } // of a layer
constexpr size_t conv_dim(const Config& c) noexcept {                                         // channels of conv1d
    return c.arch == Arch::mamba1   ? size_t(c.d_inner)
           : c.arch == Arch::mamba2 ? size_t(c.d_ssm) + 2 * size_t(c.ngroups) * size_t(c.d_state)
                                    : 0;
}
constexpr size_t in_rows(const Config& c) noexcept { // of in_proj
    const size_t di = size_t(c.d_inner), GN = size_t(c.ngroups) * size_t(c.d_state), H = size_t(c.nheads);
    return c.arch == Arch::mamba1   ? 2 * di
           : c.arch == Arch::mamba2 ? 2 * di + 2 * GN + H
                                    : 2 * di + 2 * GN * size_t(c.mimo_rank) + 3 * H + size_t(c.rope_angles);
}
constexpr size_t head_kn(const Config& c) noexcept { // [block of 8 heads][R][N][8]
    return padded(c.nheads) * size_t(c.mimo_rank) * size_t(c.d_state);
}

// Where the parts of one layer's state begin, in words of four bytes. Of integers nothing is padded: h is [rows][N],
// k [R][H][N], angle [H][S]; codes are [rows][N] of 16 bits, exponents [rows] of 8.
struct Parts {
    size_t conv = 0, angle = 0, k = 0, v = 0, h = 0, exponents = 0, end = 0;
};
constexpr Parts parts_of(const Config& c) noexcept {
    const size_t N = size_t(c.d_state);
    Parts        p;
    if (is_integer(c)) {
        const size_t rows =
            c.arch == Arch::s4d ? size_t(c.d_model) : size_t(c.arch == Arch::mamba2 ? c.d_ssm : c.d_inner);
        p.angle = c.arch == Arch::mamba1 || c.arch == Arch::mamba2 ? conv_dim(c) * size_t(c.d_conv) : 0;
        p.k = p.angle + size_t(c.nheads) * size_t(c.rope_angles);
        p.v = p.k + (c.arch == Arch::mamba3 ? size_t(c.mimo_rank) * size_t(c.nheads) * N : 0);
        p.h = p.v + (c.arch == Arch::mamba3 ? size_t(c.d_inner) : 0);
        const bool codes = c.state == StateType::i16rowexp;
        p.exponents = p.h + (codes ? (rows * N + 1) / 2 : rows * N);
        p.end = p.exponents + (codes ? (rows + 3) / 4 : 0);
        return p;
    }
    if (c.arch == Arch::s4d) p.end = modes(c) * 2; // h: [block of 8 channels][mode][re im][8]
    if (c.arch == Arch::mamba1 || c.arch == Arch::mamba2) p.angle = p.k = p.v = p.h = conv_dim(c) * size_t(c.d_conv);
    if (c.arch == Arch::mamba1) p.end = p.h + padded(c.d_inner) * N; // h: [block of 8 channels][N][8]
    if (c.arch == Arch::mamba3) {                                    // angle: 2^32 a turn, [block of 8 heads][S][8]
        p.k = padded(c.nheads) * size_t(c.rope_angles);              // k: [block of 8 heads][R][N][8]
        p.v = p.k + head_kn(c);                                      // v: [H][P]
        p.h = p.v + size_t(c.d_inner);
    }
    if (c.arch == Arch::mamba2 || c.arch == Arch::mamba3) // h: [H][block of 8 in P][N][8]
        p.end = p.h + size_t(c.nheads) * padded(c.headdim) * N;
    p.exponents = p.end;
    return p;
}

// The floats of a state in 64 bits, of a shape that nobody has checked; for valid().
constexpr uint64_t state_floats(const Config& c) noexcept {
    const auto     up = [](int32_t n) { return (uint64_t(n < 0 ? 0 : n) + 7) / 8 * 8; };
    const uint64_t N = up(c.d_state), d = up(c.d_model), heads = up(c.nheads), ds = up(c.d_ssm), di = up(c.d_inner);
    const uint64_t conv = (ds + di + 2 * N * up(c.ngroups)) * up(c.d_conv), kn = heads * N * up(c.mimo_rank);
    const uint64_t h = c.arch == Arch::s4d ? d * N : c.arch == Arch::mamba1 ? di * N : heads * up(c.headdim) * N;
    // Each factor is below 2^32 and each product was kept below 2^62 by ranges on the way, or is refused here.
    const bool wild = N > 1024 || heads > (1u << 28) || up(c.headdim) > (1u << 20) || up(c.ngroups) > (1u << 28) ||
                      up(c.mimo_rank) > 64 || up(c.d_conv) > 64 || up(c.n_layers) > 1024;
    return wild ? ~uint64_t(0) : d + (h + conv + kn + heads * up(c.rope_angles) + di) * uint64_t(c.n_layers);
}

// Scratch, in floats: per row r, z [d_model], p (what in_proj or the MLP gives) and o (what out_proj reads); and what
// one row needs at a time.
constexpr size_t  larger(size_t a, size_t b) noexcept { return a > b ? a : b; }
constexpr int32_t head_rows = 64; // of an integer model's head at a time
constexpr size_t  row_p(const Config& c) noexcept {
    const size_t features = padded(features_of(c)), ends = is_integer(c)   ? larger(features, size_t(head_rows))
                                                           : c.n_bands > 0 ? features
                                                                           : 0;
    if (c.arch == Arch::s4d) return larger(2 * padded(c.d_model), ends);
    const size_t extra = c.arch == Arch::mamba1 ? size_t(c.dt_rank) + 2 * size_t(c.d_state) + size_t(c.d_inner) : 0;
     return larger(padded(int32_t(larger(in_rows(c) + extra, 2 * size_t(c.mlp_hidden)))), ends);
}
// Codes of one token of an integer model, in bytes: of its longest input to a projection, in whole groups of 32.
constexpr size_t code_bytes(const Config& c) noexcept {
    const size_t a = larger(size_t(c.d_model), size_t(features_of(c)));
    const size_t b = larger(size_t(c.d_inner), size_t(c.mlp_hidden));
    return !is_integer(c) ? 0 : (larger(larger(a, b), size_t(c.dt_rank)) + 31) / 32 * 32 * size_t(c.act_bits / 8);
}
constexpr size_t row_o(const Config& c) noexcept {
    return c.arch == Arch::s4d ? 0 : padded(c.d_inner > c.mlp_hidden ? c.d_inner : c.mlp_hidden);
}
constexpr size_t one_row(const Config& c) noexcept {
    if (c.arch == Arch::s4d) { // a discarded state; a, b for a given dt; a discarded bank and a frame
        const size_t own = !is_integer(c) ? modes(c) * 6 : c.has_gaps ? modes(c) * 4 : 0;
        return c.n_bands > 0 ? larger(own, bank_words(c) + size_t(c.d_input)) : own;
    }
    const size_t N = size_t(c.d_state), conv = conv_dim(c) * size_t(c.d_conv), H = padded(c.nheads);
    if (is_integer(c) && c.arch == Arch::mamba1) return larger(conv, 2 + 5 * N + padded(c.d_inner));
    if (is_integer(c) && c.arch == Arch::mamba2)
        return larger(conv, 2 + 2 * N + 2 * size_t(c.ngroups) * N + 2 * H + padded(c.headdim));
    if (is_integer(c))
        return 2 + 2 * N + 5 * H + 2 * padded(c.rope_angles) + padded(c.d_state) +
               2 * size_t(c.mimo_rank) * size_t(c.ngroups) * N + 2 * head_kn(c) +
               5 * size_t(c.mimo_rank) * padded(c.headdim);
    if (c.arch == Arch::mamba1) return larger(conv, N * 8);
    if (c.arch == Arch::mamba2) return larger(conv, N * 16 + 2 * H + 2 * padded(c.headdim));
    return N * 16 + 6 * H + padded(c.rope_angles) + padded(c.d_state) +
           2 * size_t(c.mimo_rank) * size_t(c.ngroups) * N + 4 * head_kn(c) +
           3 * size_t(c.mimo_rank) * padded(c.headdim);
}
constexpr size_t rows_and_one(size_t row, size_t one, int32_t batch) noexcept { // a scratch
    return aligned((size_t(batch) * row + one) * 4);
}
constexpr size_t scratch_row(const Config& c) noexcept {
    return 2 * padded(c.d_model) + row_p(c) + row_o(c) + (is_integer(c) ? code_bytes(c) / 4 + 2 : 0);
}
SSM_DETAIL_END

// State: header, running mean [d_model padded] if pooling is mean, then the layers' parts.
constexpr size_t state_bytes(const Config& c) noexcept {
    return detail::state_header_bytes + (detail::head_words(c) + size_t(c.n_layers) * detail::parts_of(c).end) * 4;
}
constexpr size_t scratch_bytes(const Config& c, int32_t batch) noexcept {
    return detail::rows_and_one(detail::scratch_row(c), detail::one_row(c), batch);
}
constexpr size_t model_bytes(const Config& c) noexcept {
    using detail::aligned;
    const size_t d = size_t(c.d_model), N = size_t(c.d_state), C = detail::conv_dim(c);
    const size_t d_bytes = 4 * detail::padded(c.d_model), H_bytes = 4 * detail::padded(c.nheads);
    size_t       layer = detail::layer_bytes;
    if (c.arch == Arch::s4d && is_integer(c)) // norm and D; all else is used in place
        return size_t(c.n_layers) * (layer + 3 * aligned(4 * d));
    if (c.arch == Arch::s4d) {
        layer += 2 * aligned(4 * d) + aligned(8 * d) + aligned(4 * detail::padded(c.d_model)) +
                 detail::modes(c) * (4 + 2 + 1 + 2 + 2) * 4;
        return aligned(4 * d) + aligned(4 * size_t(c.d_output)) + size_t(c.n_layers) * layer;
    }
    layer += 2 * detail::norms(c) * d_bytes; // norm, norm2: weight and bias
    if (c.arch != Arch::mamba3)              // conv1d, biases of the projections
        layer += aligned(4 * C * size_t(c.d_conv)) + 4 * detail::padded(int32_t(C)) +
                 4 * detail::padded(int32_t(detail::in_rows(c))) + d_bytes;
    if (c.arch == Arch::mamba1) layer += 4 * detail::padded(c.d_inner) * (2 + N); // dt_bias, D, A
    if (c.arch == Arch::mamba2) layer += 2 * H_bytes + 2 * 4 * detail::padded(c.d_ssm);
    if (c.arch == Arch::mamba3) // dt_bias, D, B_norm, C_norm, B_bias, C_bias, mimo_x, mimo_z, mimo_o, norm
        layer += 2 * H_bytes + 2 * 4 * detail::padded(c.d_state) + 2 * 4 * detail::head_kn(c) +
                 3 * aligned(4 * size_t(c.d_inner) * size_t(c.mimo_rank)) + 4 * detail::padded(c.d_inner);
    return 3 * d_bytes + 4 * detail::padded(c.d_output) + size_t(c.n_layers) * layer;
}
constexpr size_t saved_bytes(const Config& c) noexcept {
    return detail::saved_header_bytes + state_bytes(c) - detail::state_header_bytes + 4;
}
// The index of the file's header stands in the arena while load() runs, where states and scratch come to stand
// afterwards.
constexpr size_t arena_bytes(const Config& c, int32_t n_states, int32_t batch) noexcept {
    const size_t index = size_t(c.n_entries) * sizeof(Entry) + 32;
    const size_t running = size_t(n_states) * detail::aligned(state_bytes(c)) + scratch_bytes(c, batch);
    return 16 + model_bytes(c) + (index > running ? index : running);
}
} // namespace ssm
#endif // SSM_HPP

#if defined(SSM_IMPLEMENTATION) && !defined(SSM_IMPLEMENTED)
#define SSM_IMPLEMENTED

// ---- 2. Platform ----------------------------------------------------------------------------------------------------
//
// Which compiler, which CPU, which intrinsics; and one promise about floats: a product and a sum are never fused unless
// the code says so, because the same bits on every machine depend on it. Exports SSM_LOCAL, SSM_INLINE, SSM_ALWAYS,
// SSM_APART, SSM_BODY, SSM_UNROLL_8, SSM_TARGET, SSM_MEMCPY, SSM_ASSERT, SSM_KNOWN and SSM_HAS_* for the back-ends this
// compiler can build.

#include <float.h>
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0
#error "ssm.hpp needs float arithmetic in float precision; on 32-bit x86 compile with -msse2 -mfpmath=sse"
#endif
#if defined(__FAST_MATH__)
#error "ssm.hpp cannot keep its promises under -ffast-math"
#endif

#if defined(SSM_NO_S4D) && defined(SSM_NO_MAMBA1) && defined(SSM_NO_MAMBA2) && defined(SSM_NO_MAMBA3)
#error "ssm.hpp: every architecture is left out"
#endif
#if defined(SSM_NO_FLOAT) && defined(SSM_NO_INTEGER)
#error "ssm.hpp: both engines are left out"
#endif

#pragma push_macro("F") // a name here, a macro of Arduino.h
#undef F

#define SSM_LOCAL [[maybe_unused]] static
#if defined(__CUDACC__) // ssm_cuda.cu takes its arithmetic from here: small functions are made for the GPU as well
#define SSM_HD __host__ __device__
#else
#define SSM_HD
#endif
#if defined(__GNUC__)
#define SSM_ALWAYS SSM_HD inline __attribute__((always_inline))
#define SSM_APART SSM_LOCAL __attribute__((noinline)) // so that what it has on the stack is gone when it returns
#define SSM_MEMCPY __builtin_memcpy
#else
#include <string.h>
#define SSM_ALWAYS SSM_HD inline
#define SSM_APART SSM_LOCAL
#define SSM_MEMCPY memcpy
#endif
#ifndef SSM_ASSERT
#if !defined(SSM_DEBUG)
#define SSM_ASSERT(x) ((void)0)
#elif defined(__GNUC__)
#define SSM_ASSERT(x) ((x) ? (void)0 : __builtin_trap())
#else
#define SSM_ASSERT(x) ((x) ? (void)0 : (void)(*static_cast<volatile int*>(nullptr) = 0))
#endif
#endif
#if defined(__GNUC__) && defined(__x86_64__) && !defined(SSM_NO_SIMD)
#define SSM_HAS_AVX2 1
#define SSM_TARGET(features) __attribute__((target(features)))
#include <cpuid.h>
#if !defined(__clang__) // gcc 12 sees its own undefined vectors
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif
#if defined(SSM_HAS_AVX2) // vectors of 128 bits, of whichever kind
#define SSM_HAS_128 1
#elif defined(__GNUC__) && !defined(SSM_NO_SIMD) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#if defined(__ARM_NEON)
#define SSM_HAS_128 1
#define SSM_HAS_NEON 1
#include <arm_neon.h>
#if defined(__aarch64__) && defined(__linux__) && (!defined(__clang__) || __clang_major__ >= 16)
#define SSM_HAS_DOTPROD 1 // asked for at run time
#define SSM_HAS_I8MM 1
#include <sys/auxv.h>
#if defined(__clang__)
#define SSM_DOTPROD __attribute__((target("dotprod")))
#define SSM_I8MM __attribute__((target("dotprod,i8mm")))
#else
// gcc inlines what has no more than the caller, and its assembler wants ARMv8.2 for either.
#if defined(__ARM_FEATURE_DOTPROD) || defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC) || defined(__ARM_FEATURE_COMPLEX)
#define SSM_ARMV8_2 "+"
#elif defined(__ARM_FEATURE_CRYPTO) || defined(__ARM_FEATURE_AES)
#define SSM_ARMV8_2 "arch=armv8.2-a+crypto+"
#else
#define SSM_ARMV8_2 "arch=armv8.2-a+"
#endif
#define SSM_DOTPROD __attribute__((target(SSM_ARMV8_2 "dotprod")))
#define SSM_I8MM __attribute__((target(SSM_ARMV8_2 "dotprod+i8mm")))
#endif
#elif defined(__ARM_FEATURE_DOTPROD) && defined(__aarch64__)
#define SSM_HAS_DOTPROD 1
#define SSM_DOTPROD
#if defined(__ARM_FEATURE_MATMUL_INT8)
#define SSM_HAS_I8MM 1
#define SSM_I8MM
#endif
#endif
#elif defined(__wasm_simd128__)
#define SSM_HAS_128 1
#define SSM_HAS_SIMD128 1
#include <wasm_simd128.h>
#endif
#endif
// What the compiler's options say of processors without a question to ask at run time.
#if defined(__GNUC__) && !defined(SSM_NO_SIMD) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_SIMD32) && !defined(__ARM_NEON)
#define SSM_HAS_DSP 1
#include <arm_acle.h>
#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1) // some compilers define it as 0
#define SSM_HAS_HELIUM 1
#include <arm_mve.h>
#endif
#elif defined(__riscv_v) && defined(__riscv_v_intrinsic) && __riscv_v_intrinsic >= 11000
#define SSM_HAS_RVV 1
#include <riscv_vector.h>
#endif
#endif
// Small functions are inlined wherever speed counts, so that back-ends make them with their instructions. Where size
// counts and there are no vectors to hand over, the compiler chooses, but for those of the innermost loops: SSM_ALWAYS.
#if defined(__OPTIMIZE_SIZE__) && !defined(SSM_HAS_128) && !defined(SSM_HAS_RVV)
#define SSM_INLINE SSM_HD inline
#else
#define SSM_INLINE SSM_ALWAYS
#endif
#if defined(__clang__) // so that small arrays stay in registers
#define SSM_UNROLL_8 _Pragma("unroll 8")
#elif defined(__GNUC__) && !defined(__CUDACC__)
#define SSM_UNROLL_8 _Pragma("GCC unroll 8")
#else
#define SSM_UNROLL_8
#endif
#if defined(__GNUC__)
#define SSM_BODY __attribute__((always_inline)) // of a lambda
#else
#define SSM_BODY
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__) && !defined(__CUDACC__) // nvcc: -fmad=false
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#endif
#if defined(__GNUC__) // vectors never cross a call that is not inlined; gcc says so at the end of the file, so never
                      // popped
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

#ifndef SSM_NO_FILES // used by section 14 alone
#if defined(_WIN32)
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#elif defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif
#endif

namespace ssm {
SSM_DETAIL_BEGIN
// A model's config where it is used: of a build for one shape a constant, so that sizes of it are constants too.
#ifdef SSM_FIXED_CONFIG
constexpr bool any_config = false;
#define SSM_KNOWN(config) SSM_FIXED_CONFIG
#else
constexpr bool any_config = true;
#define SSM_KNOWN(config) (config)
#endif
constexpr Config no_config;

constexpr bool in_build(Arch arch) noexcept {
    bool out = !any_config && SSM_KNOWN(no_config).arch != arch;
#ifdef SSM_NO_S4D
    out |= arch == Arch::s4d;
#endif
#ifdef SSM_NO_MAMBA1
    out |= arch == Arch::mamba1;
#endif
#ifdef SSM_NO_MAMBA2
    out |= arch == Arch::mamba2;
#endif
#ifdef SSM_NO_MAMBA3
    out |= arch == Arch::mamba3;
#endif
    (void)arch;
    return !out;
}
#if defined(__unix__) || defined(__APPLE__) || defined(_WIN32)
constexpr bool team_in_build = true;
#else
constexpr bool team_in_build = false; // where there is no operating system there are no threads
#endif
constexpr bool is(const Config& c, Arch arch) noexcept { return in_build(arch) && c.arch == arch; }
#ifdef SSM_NO_TRACE
constexpr bool trace_in_build = false;
#else
constexpr bool trace_in_build = true;
#endif
constexpr bool mamba_in_build = in_build(Arch::mamba1) || in_build(Arch::mamba2) || in_build(Arch::mamba3);
#ifdef SSM_NO_FLOAT
constexpr bool float_in_build = false;
#else
constexpr bool float_in_build = any_config || !is_integer(SSM_KNOWN(no_config));
#endif
#ifdef SSM_NO_INTEGER
constexpr bool integer_in_build = false;
#else
constexpr bool integer_in_build = any_config || is_integer(SSM_KNOWN(no_config));
#endif
static_assert(float_in_build || integer_in_build, "the engine of SSM_FIXED_CONFIG is left out");
constexpr bool layer_norm_in_build = any_config || SSM_KNOWN(no_config).norm == Norm::layer;
constexpr bool codes_in_build = any_config || SSM_KNOWN(no_config).state == StateType::i16rowexp; // of integer states
constexpr bool sound_in_build = in_build(Arch::s4d) && (any_config || SSM_KNOWN(no_config).n_bands > 0);
constexpr bool ranks_in_build = any_config || SSM_KNOWN(no_config).mimo_rank > 1;
constexpr int32_t known_bits(int32_t bits) noexcept { return any_config ? bits : SSM_KNOWN(no_config).act_bits; }
SSM_DETAIL_END

// ---- 3. Small things ------------------------------------------------------------------------------------------------
//
// Byte-wise memory access that works at any alignment and byte order, conversions between number formats, and the one
// way to fill a Fault. Exports copy, fill_zero, equal_bytes, length_of, load_*, store_*, f16_to_f32, bf16_to_f32,
// SSM_WHY, blame.

SSM_DETAIL_BEGIN

SSM_LOCAL void copy(void* dst, const void* src, size_t n) noexcept {
    if (n != 0) SSM_MEMCPY(dst, src, n);
}
SSM_LOCAL void fill_zero(void* dst, size_t n) noexcept {
    unsigned char* d = static_cast<unsigned char*>(dst);
    for (size_t i = 0; i < n; ++i) d[i] = 0;
}
SSM_LOCAL bool equal_bytes(const void* a, const void* b, size_t n) noexcept {
    const unsigned char* p = static_cast<const unsigned char*>(a);
    const unsigned char* q = static_cast<const unsigned char*>(b);
    for (size_t i = 0; i < n; ++i)
        if (p[i] != q[i]) return false;
    return true;
}

SSM_LOCAL size_t length_of(const char* text) noexcept {
    size_t n = 0;
    while (text[n] != 0) ++n;
    return n;
}

// Little-endian numbers at any address. Compilers turn these into single loads where the target allows it.
SSM_ALWAYS uint16_t load_u16(const unsigned char* p) noexcept { return uint16_t(p[0] | unsigned(p[1]) << 8); }
SSM_ALWAYS uint32_t load_u32(const unsigned char* p) noexcept {
    return uint32_t(p[0]) | uint32_t(p[1]) << 8 | uint32_t(p[2]) << 16 | uint32_t(p[3]) << 24;
}
SSM_ALWAYS uint64_t load_u64(const unsigned char* p) noexcept { return load_u32(p) | uint64_t(load_u32(p + 4)) << 32; }
SSM_INLINE void     store_u32(unsigned char* p, uint32_t v) noexcept {
        for (int i = 0; i < 4; ++i) p[i] = static_cast<unsigned char>(v >> 8 * i);
}
SSM_INLINE void store_u64(unsigned char* p, uint64_t v) noexcept {
    store_u32(p, uint32_t(v));
    store_u32(p + 4, uint32_t(v >> 32));
}
SSM_INLINE int32_t bits_of(float x) noexcept {
    int32_t i;
    SSM_MEMCPY(&i, &x, 4);
    return i;
}
SSM_INLINE float float_of(int32_t i) noexcept {
    float x;
    SSM_MEMCPY(&x, &i, 4);
    return x;
}
SSM_INLINE float load_f32(const unsigned char* p) noexcept { return float_of(int32_t(load_u32(p))); }

SSM_INLINE bool is_finite(float x) noexcept { return (bits_of(x) & 0x7f800000) != 0x7f800000; }

// Why something is refused: a sentence, SSM_WHY("..."); or, where sentences are left out, the line that it stands in.
#ifdef SSM_NO_MESSAGES
using Why = int32_t;
#define SSM_WHY(sentence) int32_t(__LINE__)
SSM_LOCAL const char* sentence(Why) noexcept { return ""; }
SSM_LOCAL void        explain(Fault* fault, Why why) noexcept { fault->line = why; }
#else
using Why = const char*;
#define SSM_WHY(sentence) sentence
SSM_LOCAL const char* sentence(Why why) noexcept { return why; }
SSM_LOCAL void        explain(Fault* fault, Why why) noexcept { fault->detail = why; }
#endif

// Records what went wrong; `fault` may be null. Returns `s` so that callers can write `return blame(...)`.
SSM_LOCAL Status blame(Fault* fault, Status s, const char* name, size_t name_len, Why why) noexcept {
    if (fault != nullptr) {
        *fault = Fault();
        size_t n = name_len < sizeof fault->name - 1 ? name_len : sizeof fault->name - 1;
        copy(fault->name, name, n);
        fault->name[n] = 0;
        explain(fault, why);
    }
    return s;
}
SSM_LOCAL Status blame(Fault* fault, Status s, const char* name, size_t name_len, Why why, int64_t want,
                       int64_t got) noexcept {
    (void)blame(fault, s, name, name_len, why);
    if (fault != nullptr) {
        fault->has_numbers = true;
        fault->want = want;
        fault->got = got;
    }
    return s;
}
SSM_DETAIL_END
// ---- 4. Maths -------------------------------------------------------------------------------------------------------
//
// Elementary functions without libm, made of +, -, * and / alone, so that every machine gets the same bits. Each is
// written once, for F = float or for F = a vector of eight floats (a compiler vector type; the back-ends in section 9
// use it). The ..._f64 forms serve load(), which prepares parameters in double. Stated errors are against exact values;
// tests/maths.cpp measures them. Exports exp, expm1, sigmoid, normal_cdf, sincos_turns, rsqrt.

SSM_DETAIL_BEGIN

// Lane operations that operators do not give. A mask has all bits set or none in each lane.
template <class F> struct lanes;
template <> struct lanes<float> {
    using I = int32_t;
    static SSM_INLINE float set(float x) noexcept { return x; }
    static SSM_INLINE I     bits(float x) noexcept { return bits_of(x); }
    static SSM_INLINE float from_bits(I i) noexcept { return float_of(i); }
    static SSM_INLINE I     less(float a, float b) noexcept { return -int32_t(a < b); }
    static SSM_INLINE I     equal(float a, float b) noexcept { return -int32_t(a == b); }
    static SSM_INLINE I     shl(I i, int s) noexcept { return int32_t(uint32_t(i) << s); }
    static SSM_INLINE I     add(I a, I b) noexcept { return int32_t(uint32_t(a) + uint32_t(b)); }
    static SSM_INLINE I     to_int(float x) noexcept { return int32_t(x); } // |x| < 2^31, towards zero
    static SSM_INLINE float to_float(I i) noexcept { return static_cast<float>(i); }
    static SSM_INLINE bool  any(I mask) noexcept { return mask != 0; }
};
#if defined(__GNUC__) && !defined(__CUDACC__)
typedef float    f32x8 __attribute__((vector_size(32)));
typedef int32_t  i32x8 __attribute__((vector_size(32)));
typedef uint32_t u32x8 __attribute__((vector_size(32)));
template <class F, class Integers, class Unsigned> struct vector_lanes {
    using I = Integers;
    static SSM_INLINE F set(float x) noexcept { // of a variable, gcc makes one broadcast of the loop, eight inserts of
        F v = {};                               // a list
        if (__builtin_constant_p(x)) return x - v;
#if !defined(__clang__)
#pragma GCC unroll 1
#endif
        for (size_t k = 0; k < sizeof v / 4; ++k) v[k] = x;
        return v;
    }
    static SSM_INLINE I bits(const F& x) noexcept { return reinterpret_cast<I>(x); }
    static SSM_INLINE F from_bits(const I& i) noexcept { return reinterpret_cast<F>(i); }
    static SSM_INLINE I less(const F& a, const F& b) noexcept { return a < b; }
    static SSM_INLINE I equal(const F& a, const F& b) noexcept { return a == b; }
    static SSM_INLINE I shl(const I& i, int s) noexcept { return i << s; }
    static SSM_INLINE I add(const I& a, const I& b) noexcept {
        return reinterpret_cast<I>(reinterpret_cast<Unsigned>(a) + reinterpret_cast<Unsigned>(b));
    }
    static SSM_INLINE I    to_int(const F& x) noexcept { return __builtin_convertvector(x, I); }
    static SSM_INLINE F    to_float(const I& i) noexcept { return __builtin_convertvector(i, F); }
    static SSM_INLINE bool any(const I& mask) noexcept {
        int64_t m[sizeof mask / 8];
        SSM_MEMCPY(m, &mask, sizeof m);
        if constexpr (sizeof mask == 16) return (m[0] | m[1]) != 0;
        else return ((m[0] | m[1]) | (m[2] | m[3])) != 0;
    }
};
template <> struct lanes<f32x8> : vector_lanes<f32x8, i32x8, u32x8> {};
typedef float    f32x4 __attribute__((vector_size(16)));
typedef int32_t  i32x4 __attribute__((vector_size(16)));
typedef uint32_t u32x4 __attribute__((vector_size(16)));
template <> struct lanes<f32x4> : vector_lanes<f32x4, i32x4, u32x4> {};
#endif

template <class F, class I> SSM_INLINE F select(const I& mask, const F& a, const F& b) noexcept {
    using L = lanes<F>;
    return L::from_bits((L::bits(a) & mask) | (L::bits(b) & ~mask));
}
template <class F> SSM_INLINE F magnitude(const F& x) noexcept {
    using L = lanes<F>;
    return L::from_bits(L::bits(x) & 0x7fffffff);
}

constexpr float round_magic = 12582912.0f; // 1.5 * 2^23: adding it leaves a float's nearest integer in the low bits

// exp(x) = 2^n (1 + e): n = round(x / ln 2), e = expm1 of the rest, |rest| <= 0.347. NaN gives NaN.
template <class F> SSM_INLINE void exp_parts(const F& x, typename lanes<F>::I* n, F* e) noexcept {
    using L = lanes<F>;
    F shifted = x * 1.44269504f + L::set(round_magic);
    *n = L::bits(shifted) - 0x4b400000;
    F nf = shifted - round_magic;
    F r = (x - nf * 0.693145752f) - nf * 1.42860677e-6f; // ln 2 in two pieces; the first product is exact
    F p = L::set(1.98412698e-4f);
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    *e = r + (r * r) * p;
}
template <class F> SSM_INLINE F pow2(const typename lanes<F>::I& n) noexcept { // -126 <= n <= 127
    return lanes<F>::from_bits(lanes<F>::shl(n + 127, 23));
}

// exp(x). Relative error below 1.5e-7 where the result is normal; 0 below -104, +Inf above 88.73.
template <class F> SSM_INLINE F exp_f32(const F& v) noexcept {
    using L = lanes<F>;
    F x = select(L::less(v, L::set(-110.0f)), L::set(-110.0f), v);
    x = select(L::less(L::set(90.0f), x), L::set(90.0f), x);
    typename L::I n;
    F             e;
    exp_parts(x, &n, &e);
    typename L::I half = n >> 1; // two factors, each a normal number
    return (e + 1.0f) * pow2<F>(half) * pow2<F>(n - half);
}

// exp(x) and exp(x) - 1 together, for x <= 0. expm1: relative error below 4e-7.
template <class F> SSM_INLINE void exp_and_expm1(const F& v, F* ex, F* em) noexcept {
    using L = lanes<F>;
    const F       x = select(L::less(v, L::set(-80.0f)), L::set(-80.0f), v);
    typename L::I n;
    F             e;
    exp_parts(x, &n, &e);
    F s = pow2<F>(n);
    *ex = s * e + s;
    *em = s * e + (s - 1.0f);
}

// exp(-|x|), |x| taken as 87 where it is larger: one scale by a power of two. Relative error below 1.5e-7.
template <class F> SSM_INLINE F exp_minus(const F& x) noexcept {
    using L = lanes<F>;
    F             m = magnitude(x);
    typename L::I n;
    F             e;
    m = select(L::less(L::set(87.0f), m), L::set(87.0f), m);
    exp_parts(F(-m), &n, &e);
    return (e + 1.0f) * pow2<F>(n);
}

// 1 / (1 + exp(-x)). Relative error below 3e-7 for x > -87; 1.6e-38 below.
template <class F> SSM_INLINE F sigmoid(const F& x) noexcept {
    using L = lanes<F>;
    F e = exp_minus(x);
    F d = L::set(1.0f) / (e + 1.0f);
    return select(L::less(x, L::set(0.0f)), F(e * d), d);
}

// tanh(x) = -m / (m + 2), m = exp(-2 |x|) - 1, with the sign of x. Relative error below 5e-7.
template <class F> SSM_INLINE F tanh(const F& x) noexcept {
    using L = lanes<F>;
    F e, m;
    exp_and_expm1(F(magnitude(x) * -2.0f), &e, &m);
    const F t = m / (m + 2.0f);
    return L::from_bits((L::bits(t) & 0x7fffffff) | (L::bits(x) & int32_t(-0x7fffffff - 1)));
}

// log(1 + exp(x)) = max(x, 0) + 2 atanh(s), s = e / (e + 2), e = exp(-|x|). Relative error below 5e-7.
template <class F> SSM_INLINE F softplus(const F& x) noexcept {
    using L = lanes<F>;
    const F e = exp_minus(x);
    const F s = e / (e + 2.0f), w = s * s;
    F       p = L::set(7.69230769e-2f);
    p = p * w + 9.09090909e-2f;
    p = p * w + 1.11111111e-1f;
    p = p * w + 1.42857143e-1f;
    p = p * w + 0.2f;
    p = p * w + 3.33333333e-1f;
    const F half = s + (s * w) * p;
    return select(L::less(x, L::set(0.0f)), L::set(0.0f), x) + half * 2.0f;
}

// Phi(x), the cumulative normal distribution: (1 + erf(x / sqrt 2)) / 2. Absolute error below 2.5e-7.
// For z = |x| / sqrt 2: erfc(z) = exp(-z^2) P(t), t = 1 / (1 + 0.375 z); P fitted by us to a relative error of 2e-8.
template <class F> SSM_INLINE F normal_cdf(const F& x) noexcept {
    using L = lanes<F>;
    F z = magnitude(x) * 0.707106781f;
    z = select(L::less(L::set(10.5f), z), L::set(10.5f), z);
    F t = L::set(1.0f) / (z * 0.375f + 1.0f);
    F p = L::set(0.0613174736f);
    p = p * t - 0.286287397f;
    p = p * t + 0.430307806f;
    p = p * t - 0.227089942f;
    p = p * t + 0.272163182f;
    p = p * t + 0.122153513f;
    p = p * t + 0.205151230f;
    p = p * t + 0.210671976f;
    p = p * t + 0.211612180f;
    F q = exp_f32(F(-(z * z))) * (p * t) * 0.5f;
    return select(L::less(x, L::set(0.0f)), q, F(L::set(1.0f) - q));
}

// sin and cos of t turns, |t| <= 0.5. Absolute error below 1.5e-7.
template <class F> SSM_INLINE void sincos_turns(const F& t, F* s, F* c) noexcept {
    using L = lanes<F>;
    F             q = t * 4.0f + L::set(round_magic);
    typename L::I k = L::bits(q) - 0x4b400000; // quarter turns
    F             z = (t - (q - round_magic) * 0.25f) * 6.28318531f;
    F             w = z * z;
    F             a = L::set(2.75573192e-6f);
    a = a * w - 1.98412698e-4f;
    a = a * w + 8.33333333e-3f;
    a = a * w - 1.66666667e-1f;
    a = z + (z * w) * a;
    F b = L::set(-2.75573192e-7f);
    b = b * w + 2.48015873e-5f;
    b = b * w - 1.38888889e-3f;
    b = b * w + 4.16666667e-2f;
    b = (w * w) * b + (L::set(1.0f) - w * 0.5f);
    typename L::I odd = -(k & 1);
    *s = L::from_bits(L::bits(select(odd, b, a)) ^ L::shl(k & 2, 30));
    *c = L::from_bits(L::bits(select(odd, a, b)) ^ L::shl((k + 1) & 2, 30));
}

// 1 / sqrt(x), x a positive normal number. Relative error below 2e-7. By Newton's iteration from the usual bit pattern
// guess, so that no square root instruction or library is needed.
SSM_INLINE float rsqrt(float x) noexcept {
    float y = float_of(0x5f375a86 - (bits_of(x) >> 1));
    float h = x * 0.5f;
    for (int i = 0; i < 4; ++i) y = y * (1.5f - (h * y) * y);
    return y;
}

// The part of turns * dt that is left after whole turns, in [-0.5, 0.5]. In double: a fast mode turns many times.
SSM_INLINE float turn_fraction(double turns, float dt) noexcept {
    constexpr double magic = 6755399441055744.0; // 1.5 * 2^52
    double           t = turns * static_cast<double>(dt);
    return static_cast<float>(t - ((t + magic) - magic));
}

// Double precision, relative error below 5e-16 (expm1, exp) and absolute 5e-16 (sin, cos). For load().
SSM_LOCAL double pow2_f64(int n) noexcept {
    double r = 1.0;
    double b = n < 0 ? 0.5 : 2.0;
    for (unsigned k = unsigned(n < 0 ? -n : n); k != 0; k >>= 1, b *= b)
        if (k & 1u) r *= b;
    return r;
}
SSM_LOCAL void exp_and_expm1_f64(double x, double* ex, double* em) noexcept {
    if (!(x > -700.0)) x = x < 0 ? -700.0 : x; // NaN stays
    if (x > 700.0) x = 700.0;
    int    n = x == x ? int(x * 1.4426950408889634 + (x < 0 ? -0.5 : 0.5)) : 0;
    double r = (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10; // ln 2 in two pieces
    double p = 0.0; // expm1(r) by its series, from the far end
    for (int k = 16; k >= 1; --k) p = (1.0 + p) * r / k;
    double s = pow2_f64(n);
    *ex = s * p + s;
    *em = s * p + (s - 1.0);
}
SSM_LOCAL void sincos_turns_f64(double t, double* s, double* c) noexcept { // |t| < 2^50
    constexpr double magic = 6755399441055744.0;
    t -= (t + magic) - magic;
    int    k = int(t * 4.0 + (t < 0 ? -0.5 : 0.5));
    double z = (t - k * 0.25) * 6.283185307179586477;
    double w = z * z, a = 0.0, b = 0.0;
    for (int i = 20; i >= 2; i -= 2) a = (1.0 - a) * w / (i * (i + 1)), b = (1.0 - b) * w / (i * (i - 1));
    a = z - z * a;
    b = 1.0 - b;
    switch (k & 3) {
    case 0:
        *s = a, *c = b;
        break;
    case 1:
        *s = b, *c = -a;
        break;
    case 2:
        *s = -a, *c = -b;
        break;
    default:
        *s = -b, *c = a;
        break;
    }
}
SSM_DETAIL_END

// ---- 5. Integer arithmetic ------------------------------------------------------------------------------------------
//
// What integer models compute with: no float, one rounding (add half, shift right, ties go up), 64-bit intermediates
// that never overflow; each range is written where it arises. "Qf" is an integer with f fraction bits. Functions of one
// number are written once, for W = int64_t (the definition) or W = a vector of 64-bit lanes, of which the back-ends say
// how to multiply. Exports rs, sat, to_q16, from_q16, exp_neg, recip, sigmoid_q, tanh_q, softplus_q, sin_turn,
// cos_turn, phi_q, rsqrt_q, silu_q, log2_q16, quotients of the quantiser; by_eights, loops of them.
//
// SSM_ASSERT states a range in front of what relies on it, wherever a flaw in its proof could do harm: in the
// definition, W = int64_t. Of vectors it says nothing; the tests hold their lanes against the definition.

SSM_DETAIL_BEGIN

static_assert((-1 >> 1) == -1, "shifts to the right must keep the sign");

// a b in 64 bits. nvcc would rather widen a factor early and then multiply twice as wide.
SSM_ALWAYS int64_t product(int32_t a, int32_t b) noexcept {
#if defined(__CUDA_ARCH__)
    int64_t c;
    asm("mul.wide.s32 %0, %1, %2;" : "=l"(c) : "r"(a), "r"(b));
    return c;
#else
    return int64_t(a) * b;
#endif
}
SSM_ALWAYS uint64_t product(uint32_t a, uint32_t b) noexcept {
#if defined(__CUDA_ARCH__)
    uint64_t c;
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(c) : "r"(a), "r"(b));
    return c;
#else
    return uint64_t(a) * b;
#endif
}

// A lane holds 64 bits. mul() and mulu() read the lower 32 of each factor, signed and unsigned; `low` results promise
// those 32 alone. A mask has all bits set or none.
template <class W> struct wide;
template <> struct wide<int64_t> {
    static constexpr int32_t  count = 1;
    static SSM_ALWAYS int64_t set(int64_t x) noexcept { return x; }
    static SSM_ALWAYS int64_t mul(int64_t a, int64_t b) noexcept { return product(int32_t(a), int32_t(b)); }
    static SSM_ALWAYS int64_t mulu(int64_t a, int64_t b) noexcept { return int64_t(product(uint32_t(a), uint32_t(b))); }
    static SSM_ALWAYS int64_t less(int64_t a, int64_t b) noexcept { return -int64_t(a < b); }
    static SSM_ALWAYS int64_t choose(int64_t mask, int64_t a, int64_t b) noexcept { return mask != 0 ? a : b; }
    static SSM_ALWAYS int64_t least(int64_t a, int64_t b) noexcept { return a < b ? a : b; }
    static SSM_ALWAYS int64_t most(int64_t a, int64_t b) noexcept { return a < b ? b : a; }
    // Of numbers that fit int32: |x|, `low`; and the nearest in -m..m, m >= 0.
    static SSM_ALWAYS int64_t size_low(int64_t x) noexcept { return x < 0 ? -x : x; }
    static SSM_ALWAYS int64_t clamp(int64_t x, int32_t m) noexcept { return x > m ? m : x < -m ? -m : x; }
    static SSM_ALWAYS int64_t shr(int64_t a, int s) noexcept { return a >> s; }                        // keeps the sign
    static SSM_ALWAYS int64_t rs(int64_t a, int s, int64_t half) noexcept { return (a + half) >> s; }  // and so does it
    static SSM_ALWAYS int64_t lsr(int64_t a, int64_t s) noexcept { return int64_t(uint64_t(a) >> s); } // fills with 0
    static SSM_ALWAYS int64_t shl(int64_t a, int64_t s) noexcept { return int64_t(uint64_t(a) << s); }
    static SSM_ALWAYS int64_t up(int64_t a, int s) noexcept { return int64_t(uint64_t(a) << s); }
    static SSM_ALWAYS int64_t load(const int32_t* p, int32_t) noexcept { return *p; }
    static SSM_ALWAYS void    store(int32_t* p, int64_t v, int32_t) noexcept { *p = int32_t(v); }
};
// K vectors abreast. One chain of products waits for itself, and the next is too many instructions away for a processor
// to begin with it, so that it idles half of the time; eight side by side keep it busy.
template <class W, int K> struct abreast {
    W                                            v[size_t(K)];
    template <class F> static SSM_ALWAYS abreast of(const F& f) noexcept {
        abreast all;
        SSM_UNROLL_8
        for (int32_t k = 0; k < K; ++k) all.v[k] = f(k);
        return all;
    }
};
#define SSM_EACH(f) abreast<W, K>::of([&](int32_t k) SSM_BODY { return W(f); })
#define SSM_ABREAST(op)                                                                                                \
    template <class W, int K>                                                                                          \
    SSM_ALWAYS abreast<W, K> operator op(const abreast<W, K>& a, const abreast<W, K>& b) noexcept {                    \
        return SSM_EACH(a.v[k] op b.v[k]);                                                                             \
    }                                                                                                                  \
    template <class W, int K> SSM_ALWAYS abreast<W, K> operator op(const abreast<W, K>& a, int64_t b) noexcept {       \
        return SSM_EACH(a.v[k] op b);                                                                                  \
    }                                                                                                                  \
    template <class W, int K> SSM_ALWAYS abreast<W, K> operator op(int64_t a, const abreast<W, K>& b) noexcept {       \
        return SSM_EACH(a op b.v[k]);                                                                                  \
    }
SSM_ABREAST(+)
SSM_ABREAST(-)
SSM_ABREAST(&)
#undef SSM_ABREAST
template <class W, int K> struct wide<abreast<W, K>> {
    using L = wide<W>;
    using A = abreast<W, K>;
    static constexpr int32_t count = K * L::count;
#define SSM_ABREAST(f, Second, b)                                                                                      \
    static SSM_ALWAYS A f(const A& x, Second y) noexcept { return SSM_EACH(L::f(x.v[k], b)); }
    SSM_ABREAST(mul, const A&, y.v[k])
    SSM_ABREAST(mulu, const A&, y.v[k])
    SSM_ABREAST(less, const A&, y.v[k])
    SSM_ABREAST(least, const A&, y.v[k])
    SSM_ABREAST(most, const A&, y.v[k])
    SSM_ABREAST(lsr, const A&, y.v[k])
    SSM_ABREAST(shl, const A&, y.v[k])
    SSM_ABREAST(lsr, int32_t, y)
    SSM_ABREAST(up, int32_t, y)
    SSM_ABREAST(clamp, int32_t, y)
#undef SSM_ABREAST
    static SSM_ALWAYS A rs(const A& x, int32_t s, int64_t half) noexcept { return SSM_EACH(L::rs(x.v[k], s, half)); }
    static SSM_ALWAYS A size_low(const A& x) noexcept { return SSM_EACH(L::size_low(x.v[k])); }
    static SSM_ALWAYS A choose(const A& mask, const A& x, const A& y) noexcept {
        return SSM_EACH(L::choose(mask.v[k], x.v[k], y.v[k]));
    }
    static SSM_ALWAYS A set(int64_t x) noexcept {
        const W w = L::set(x);
        return A::of([&](int32_t) SSM_BODY { return w; });
    }
    static SSM_ALWAYS A load(const int32_t* p, int32_t) noexcept { // always all of them
        return SSM_EACH(L::load(p + k * L::count, L::count));
    }
    static SSM_ALWAYS void store(int32_t* p, const A& x, int32_t) noexcept {
        SSM_UNROLL_8
        for (int32_t k = 0; k < K; ++k) L::store(p + k * L::count, x.v[k], L::count);
    }
};
#undef SSM_EACH
#if defined(__OPTIMIZE_SIZE__)
constexpr bool eights_in_build = false; // they take 15 KB a back-end
#else
constexpr bool eights_in_build = true;
#endif
// body(kind<W>{}, i) for all n numbers from i on, eight vectors at a time and then one.
template <class W> struct kind { using type = W; };
template <class W, class Body> SSM_ALWAYS void by_eights(int32_t n, const Body& body) noexcept {
    int32_t i = 0;
    if constexpr (eights_in_build && wide<W>::count > 1)
        for (; n - i >= 8 * wide<W>::count; i += 8 * wide<W>::count) body(kind<abreast<W, 8>>{}, i);
    for (; i < n; i += wide<W>::count) body(kind<W>{}, i);
}
// For SSM_ASSERT: low <= x <= high; |x| <= m; |a + b| <= m and |a b| <= m, without the sum (|a| <= m) or the product.
SSM_INLINE bool between(int64_t x, int64_t low, int64_t high) noexcept { return x >= low && x <= high; }
SSM_INLINE bool at_most(int64_t x, int64_t m) noexcept { return between(x, -m, m); }
SSM_INLINE bool sum_at_most(int64_t a, int64_t b, int64_t m) noexcept { return b < 0 ? a >= -m - b : a <= m - b; }
SSM_INLINE bool product_at_most(int64_t a, int64_t b, int64_t m) noexcept {
    return b == 0 || at_most(a, b < 0 ? m / -b : m / b);
}
template <class W, int32_t = wide<W>::count> SSM_INLINE bool between(const W&, int64_t, int64_t) noexcept {
    return true;
}
template <class W, int32_t = wide<W>::count> SSM_INLINE bool at_most(const W&, int64_t) noexcept { return true; }
template <class W, int32_t = wide<W>::count> SSM_INLINE bool sum_at_most(const W&, const W&, int64_t) noexcept {
    return true;
}
template <class W, int32_t = wide<W>::count> SSM_INLINE bool product_at_most(const W&, const W&, int64_t) noexcept {
    return true;
}

template <class W> SSM_ALWAYS W least(const W& a, const W& b) noexcept { return wide<W>::least(a, b); }
template <class W> SSM_ALWAYS W most(const W& a, const W& b) noexcept { return wide<W>::most(a, b); }
template <class W> SSM_ALWAYS W within(const W& x, int64_t m) noexcept {
    return most(least(x, wide<W>::set(m)), wide<W>::set(-m));
}
template <int S, class W> SSM_ALWAYS W rs(const W& x) noexcept {
    SSM_ASSERT(between(x, INT64_MIN, INT64_MAX - (int64_t(1) << (S - 1))));
    return wide<W>::rs(x, S, int64_t(1) << (S - 1));
}
template <int S, class W> SSM_ALWAYS W rs_low(const W& x) noexcept { // of a number >= 0 all bits are right
    SSM_ASSERT(between(x, INT64_MIN, INT64_MAX - (int64_t(1) << (S - 1))));
    return wide<W>::lsr(x + wide<W>::set(int64_t(1) << (S - 1)), S);
}

// The same for a shift known at run time: 0 past 62, a shift to the left below 0.
SSM_ALWAYS int64_t rs(int64_t x, int32_t s) noexcept {
    SSM_ASSERT(s > 62 || (s > 0     ? x <= INT64_MAX - (int64_t(1) << (s - 1))
                          : s > -63 ? product_at_most(x, int64_t(1) << -s, INT64_MAX)
                                    : false));
    return s > 62 ? 0 : s > 0 ? (x + (int64_t(1) << (s - 1))) >> s : x * (int64_t(1) << -s);
}
constexpr int32_t   int_max = 0x7fffffff;
SSM_ALWAYS int32_t  sat(int64_t x, int64_t m = int_max) noexcept { // m <= int_max
#if defined(__CUDA_ARCH__) // half the instructions: what leaves 32 bits becomes one of their ends first
    const int32_t low = int32_t(x), high = int32_t(x >> 32), n = int32_t(m);
    const int32_t y = high == low >> 31 ? low : high >> 31 ^ int_max;
    return y > n ? n : y < -n ? -n : y;
#else
    return int32_t(x > m ? m : x < -m ? -m : x);
#endif
}
SSM_INLINE uint32_t size_of(int64_t x) noexcept { // |x| < 2^32
    SSM_ASSERT(at_most(x, 0xffffffff));
    return uint32_t(x < 0 ? -x : x);
}
SSM_INLINE int64_t wide_of(const int32_t* p) noexcept { // lower word first
    return int64_t(uint64_t(uint32_t(p[0])) | uint64_t(uint32_t(p[1])) << 32);
}
SSM_INLINE int32_t bit_length(uint64_t x) noexcept {
#if defined(__CUDA_ARCH__)
    return x == 0 ? 0 : 64 - __clzll(int64_t(x));
#elif defined(__GNUC__)
    return x == 0 ? 0 : 64 - __builtin_clzll(x);
#else
    int32_t n = 0;
    for (; x != 0; x >>= 1) ++n;
    return n;
#endif
}

// Bits of a float to Q16: 0 for denormals, +-(2^31 - 1) from 32768 on. NaN and Inf: see finite_bits().
SSM_INLINE bool    finite_bits(uint32_t bits) noexcept { return (bits >> 23 & 255u) != 255u; }
SSM_INLINE int32_t to_q16(uint32_t bits) noexcept {
    const int32_t E = int32_t(bits >> 23 & 255u), m = int32_t((bits & 0x7fffffu) | 0x800000u);
    if (E == 0) return 0;
    if (E >= 142) return (bits >> 31) != 0 ? -int_max : int_max;
    return int32_t(rs((bits >> 31) != 0 ? -int64_t(m) : int64_t(m), 134 - E));
}
// The bits of the float nearest to v 2^-16, ties to even.
SSM_INLINE uint32_t q16_bits(int32_t v) noexcept {
    uint32_t a = size_of(v), sign = v < 0 ? 0x80000000u : 0;
    if (a == 0) return 0;
    int32_t b = bit_length(a);
    if (b > 24) {
        const int32_t  drop = b - 24;
        const uint32_t rest = a & ((1u << drop) - 1), half = 1u << (drop - 1);
        a >>= drop;
        a += rest > half || (rest == half && (a & 1u) != 0);
        if (a >> 24 != 0) a >>= 1, ++b;
    } else a <<= 24 - b;
    return sign | ((uint32_t(b + 110) << 23) + (a & 0x7fffffu));
}

// A float32 scale in (0, 1): m 2^-e with 2^23 <= m < 2^24, by its bits.
struct Scale {
    int32_t m, e;
    SSM_ALWAYS explicit Scale(uint32_t bits) noexcept
        : m(int32_t((bits & 0x7fffffu) | 0x800000u)), e(150 - int32_t(bits >> 23)) {}
};

// Polynomials in Q30, lowest power first; the last product's sum is `low`.
constexpr int32_t exp2_q30[] = {1073741824, -744261114, 257941162, -59596389, 10324635, -1425708, 158122, -11619};
constexpr int32_t log1p_q30[] = {1073741823, -536870692, 357904967, -268290463, 213522369, -172739536,
                                 132907716,  -87918417,  44030470,  -14160320,  2133199};
constexpr int32_t sin_q30[] = {1686629713, -693598666, 85569282, -5026892, 172072, -3685};
constexpr int32_t erf_q30[] = {0, 273621191, -305476044, 1526231383, -1560310108, 1139675401};
// r = rs(r x, 30) + c[k], with c[k] added in front of the shift. `low`.
template <const auto& c, size_t k = 0, class W> SSM_ALWAYS W horner(const W& x) noexcept {
    using L = wide<W>;
    constexpr int32_t own = c[k]; // nvcc knows no arrays of the host
    if constexpr (k == sizeof c / sizeof c[0] - 1) return L::set(own);
    else return L::lsr(L::mul(horner<c, k + 1>(x), x) + L::set(own * (int64_t(1) << 30) + (1 << 29)), 30);
}
constexpr int64_t one_q30 = int64_t(1) << 30, dt_limit = int64_t(22) << 26; // dt_limit: Q26, of every step size
template <class W> SSM_ALWAYS W positive(const W& low) noexcept { return low & int64_t(0xffffffff); }

// exp(-t), t in Q26, 0 <= t <= 22, `low`. Q30, 0 .. 2^30. The power of two is at most 31 by itself.
template <class W> SSM_INLINE W exp_neg(const W& t) noexcept {
    using L = wide<W>;
    SSM_ASSERT(between(t, 0, dt_limit));
    const W y = rs_low<30>(L::mul(t, L::set(1549082005))), n = L::lsr(y, 26); // t / ln 2
    const W p = positive(horner<exp2_q30>(L::up(y & int64_t(0x3ffffff), 4)));
    return L::lsr(p + L::lsr(L::shl(L::set(1), n), 1), n);
}
// a - rs(x, 30), a >= 0 below 2^32; x and the result too.
template <class W> SSM_ALWAYS W less_rs30(int64_t a, const W& x) noexcept {
    return wide<W>::lsr(wide<W>::set(a * (int64_t(1) << 30) + (1 << 29) - 1) - x, 30);
}
template <class W> SSM_ALWAYS W refined(const W& d, const W& r) noexcept { // a step of Newton's towards 1 / d
    SSM_ASSERT(between(d, one_q30, 2 * one_q30) && between(r, 0, 0xffffffff));
    return rs_low<30>(wide<W>::mulu(r, less_rs30(2 * one_q30, wide<W>::mulu(d, r))));
}
// 1 / d, d in Q30, 2^30 <= d <= 2^31. Q30. Factors and sums stay in 0 .. 2^32.
template <class W> SSM_ALWAYS W recip(const W& d) noexcept {
    using L = wide<W>;
    const W first = less_rs30(1515870810, L::mulu(d, L::set(505290270)));
    return refined(d, refined(d, refined(d, first)));
}
// 1 / (1 + exp(-x)), x in Q26, |x| <= 22. Q30.
template <class W> SSM_INLINE W sigmoid_q(const W& x) noexcept {
    using L = wide<W>;
    SSM_ASSERT(at_most(x, dt_limit));
    const W e = exp_neg(L::size_low(x)), r = recip(W(e + one_q30));
    return L::choose(L::less(x, L::set(0)), rs_low<30>(L::mul(e, r)), r);
}
template <class W> SSM_INLINE W tanh_q(const W& x) noexcept {
    return wide<W>::up(sigmoid_q(wide<W>::up(wide<W>::clamp(x, 11 << 26), 1)), 1) - one_q30;
}
// log(1 + exp(x)), x in Q26, |x| <= 22. Q26, 0 .. 22.
template <class W> SSM_INLINE W softplus_q(const W& x) noexcept {
    using L = wide<W>;
    SSM_ASSERT(at_most(x, dt_limit));
    const W zero = L::set(0), e = exp_neg(L::size_low(x));
    return most(x, zero) + rs_low<4>(rs_low<30>(L::mul(e, horner<log1p_q30>(e))));
}
// sin and cos of p turns / 2^32. Q30, at most 2^30 + 1 in size.
template <class W> SSM_INLINE W sin_turn(const W& p) noexcept {
    using L = wide<W>;
    W       s = L::shr(L::shl(p, L::set(32)), 32); // as int32
    const W over = L::less(L::set(one_q30), s), under = L::less(s, L::set(-one_q30));
    s = L::choose(over, W(2 * one_q30 - s), L::choose(under, W(-2 * one_q30 - s), s));
    return rs<30>(L::mul(s, horner<sin_q30>(rs_low<30>(L::mul(s, s)))));
}
template <class W> SSM_INLINE W cos_turn(const W& p) noexcept { return sin_turn(W(p + one_q30)); }
// The normal distribution function, x in Q26, |x| <= 8. Q30.
template <class W> SSM_INLINE W phi_q(const W& x) noexcept {
    using L = wide<W>;
    SSM_ASSERT(at_most(x, int64_t(8) << 26));
    const W z = rs_low<30>(L::mul(L::size_low(x), L::set(759250125))); // |x| / sqrt 2, Q26, below 5.7
    const W D = rs_low<26>(L::mul(z, L::set(351748265))) + one_q30;    // below 2^31.6
    const W over = L::less(L::set(2 * one_q30), D), r = recip(L::choose(over, rs_low<1>(D), D));
    const W t = L::choose(over, rs_low<1>(r), r), decay = exp_neg(least(rs_low<26>(L::mul(z, z)), L::set(dt_limit)));
    const W q = rs_low<1>(rs_low<30>(L::mul(horner<erf_q30>(t), decay)));
    return L::choose(L::less(x, L::set(0)), q, W(one_q30 - q));
}
template <class W> SSM_INLINE W to26(const W& x) noexcept {
    return wide<W>::up(wide<W>::clamp(x, 22 << 16), 10);
} // of Q16
template <class W> SSM_INLINE W silu_q(const W& z) noexcept { // Q16 to Q16, `low`
    SSM_ASSERT(at_most(z, int_max));
    return rs_low<30>(wide<W>::mul(z, sigmoid_q(to26(z))));
}
template <class W> SSM_INLINE W gelu_q(const W& s) noexcept { // Q16 to Q16, `low`
    SSM_ASSERT(at_most(s, int_max));
    return rs_low<30>(wide<W>::mul(s, phi_q(wide<W>::up(wide<W>::clamp(s, 8 << 16), 10))));
}

// 1 / sqrt(v) = r 2^-30 2^-E, 0 < v <= 2^61.
SSM_LOCAL SSM_HD int64_t rsqrt_q(int64_t v, int32_t* E) noexcept {
    SSM_ASSERT(between(v, 1, int64_t(1) << 61));
    const int32_t b = bit_length(uint64_t(v)), sh = 31 - b + ((31 - b) % 2 != 0);
    const int64_t m = sh >= 0 ? v << sh : rs(v, -sh); // 2^30 .. 2^32
    int64_t       r = 1315011543 - rs<30>(m * 241269783);
    if (r < 357913941) r = 357913941;
    SSM_ASSERT(between(m, one_q30, 4 * one_q30));
    using L = wide<int64_t>;
    for (int k = 0; k < 5; ++k) { // factors below 2^32, but for m = 2^32
        const int64_t a = rs<30>(L::mulu(r, r)), am = L::mulu(a, m) + (m >> 32 != 0 ? a * (int64_t(1) << 32) : 0);
        r = rs<31>(L::mulu(r, 3 * one_q30 - rs<30>(am)));
    }
    SSM_ASSERT(between(r, one_q30 / 2 - 2, one_q30 + 2));
    *E = (30 - sh) / 2;
    return r;
}

#if defined(__CUDA_ARCH__)
__device__ inline double inverse(double x) noexcept { // 1 / x to 2^-44
    const double r = static_cast<double>(__frcp_rn(static_cast<float>(x)));
    return r * (2.0 - x * r);
}
#endif
// a / b, rounded down; a < 2^62, b < 2^32, the result below 2^32.
SSM_INLINE uint64_t quotient(uint64_t a, uint64_t b) noexcept {
#if defined(__CUDA_ARCH__) // few instructions: nearly, then exactly
    uint64_t q = uint64_t(static_cast<double>(a) * inverse(static_cast<double>(b)));
    if (q * b > a) --q;
    if (a - q * b >= b) ++q;
    return q;
#else
    return a / b;
#endif
}
// sum / n, rounded down; |sum| < 2^63 - 2^31.
SSM_INLINE int64_t floor_quotient(int64_t sum, int32_t n) noexcept {
#if defined(__CUDA_ARCH__) // the rest of a near quotient fits 32 bits
    const double  by = inverse(static_cast<double>(n));
    int64_t       q = int64_t(static_cast<double>(sum) * by);
    const int64_t rest = sum - q * n;
    q += int32_t(static_cast<double>(rest) * by); // now at most one off
    if (q * n > sum) --q;
    if (sum - q * n >= n) ++q;
    return q;
#else
    return (sum - (sum < 0 ? n - 1 : 0)) / n;
#endif
}
// What makes codes of a token and numbers of codes again: x ~ code num 2^-den, code = x R 2^-shift.
struct Quotients {
    int64_t R = 0;                    // x's factor; below 2^31
    int32_t sh = 0, num = 0, den = 0; // num below 2^31
    SSM_HD Quotients(uint32_t largest, int32_t bits) noexcept {
        SSM_ASSERT(largest <= uint32_t(int_max));
        if (largest == 0) return;
        sh = 31 - bit_length(largest);
        const uint64_t an = uint64_t(largest) << sh, top = bits == 8 ? 127u : 32767u;
        const int32_t  up = bits == 8 ? 6 : 14;
        R = int64_t(quotient(top << (60 - up), an));
        SSM_ASSERT(between(R, 1, int_max) && (an << up) / top <= uint32_t(int_max));
        num = int32_t(quotient(an << up, top)), den = sh + up;
    }
    // The code of x: |x| 2^sh < 2^31, times R < 2^62.
    SSM_INLINE int32_t code(int32_t x, int32_t bits) const noexcept {
        SSM_ASSERT(at_most(int64_t(x) * (int64_t(1) << sh), int_max));
        const int64_t scaled = product(int32_t(uint32_t(x) << sh), int32_t(R));
        SSM_ASSERT(at_most(scaled, int64_t(1) << 61));
        return bits == 8 ? sat(rs<54>(scaled), 127) : sat(rs<46>(scaled), 32767);
    }
};
SSM_DETAIL_END

// log2(v) in Q16, 1 <= v < 2^63: n + log2(1 + f), with f + f (1 - f) c(f) for the latter; off by at most 0.7 of 2^-16.
SSM_DETAIL_BEGIN
SSM_INLINE int32_t log2_of(uint64_t v) noexcept {
    SSM_ASSERT(v != 0 && v >> 63 == 0);
    const int32_t n = bit_length(v) - 1;
    const int64_t f = int64_t(v << (63 - n) >> 32) - (int64_t(1) << 31); // Q31
    int64_t       c = rs<31>(27747045 * f) - 103032465;                  // Q30, below 2^29
    c = rs<31>(c * f) + 195366126, c = rs<31>(c * f) - 295923583, c = rs<31>(c * f) + 475179015;
    const int64_t bend = rs<31>(f * ((int64_t(1) << 31) - f)); // at most 2^29
    return n * 65536 + int32_t(rs<15>(f + rs<30>(bend * c)));
}
SSM_DETAIL_END
SSM_API int32_t log2_q16(uint64_t v) noexcept { return detail::log2_of(v); }
SSM_API int32_t to_q16(float x) noexcept { return detail::to_q16(uint32_t(detail::bits_of(x))); }
SSM_API float   from_q16(int32_t v) noexcept { return detail::float_of(int32_t(detail::q16_bits(v))); }

// ---- 6. Kernels -----------------------------------------------------------------------------------------------------
//
// The loops that carry the work, each with its contract. The scalar version *is* the specification: a back-end must
// give its bits. No kernel allocates, keeps state or needs alignment; all lengths work. Sums over inputs run in eight
// interleaved partial sums joined by one fixed tree (sum_lanes); sums over modes run in order. Exports Kernels,
// EngineKernels, the Tokens and S4dScan they take, and scalar.

template <class T> struct Row;
struct BankQ;
struct HeadScanQ;
struct S4dScanQ;
// The S4D recurrence for T steps. Channels come in blocks of eight; ab is [block][mode][ar ai br bi][8], c is
// [block][mode][cr ci][8] (with the factor 2 of the conjugate modes), D is [H padded]; the state h_in, h_out is
// [block][mode][re im][8]. u and s are [T][stride]. Per step, channel and mode:
//     xr' = clip((ar xr - ai xi) + br u),  xi' = clip((ar xi + ai xr) + bi u),  s = sum_j (cr xr' - ci xi') + D u
// h_in may be h_out. clip > 0; NaN is clipped to 0.
struct S4dScan {
    const float *ab, *c, *D, *h_in, *u;
    float *      h_out, *s;
    ptrdiff_t    stride;
    int32_t      T, blocks, modes;
    float        clip;
};
// Outputs and codes of the first of some tokens; strides in numbers and in bytes; {num, den} of each.
struct Tokens {
    int32_t*             y;
    ptrdiff_t            y_stride;
    const unsigned char* q;
    ptrdiff_t            stride;
    const int32_t*       scales;
    bool                 again = false; // the rows were just read, for tokens before
    SSM_INLINE Tokens    from(ptrdiff_t i) const noexcept {
           return {y + i * y_stride, y_stride, q + i * stride, stride, scales + 2 * i, true};
    }
};
// What both engines ask of a back-end, on their numbers: T is float, or int32_t in Q16, whose sums saturate.
template <class T> struct EngineKernels {
    void (*add)(T* r, const T* v, int32_t n);                                        // r += v
    void (*gelu)(T* y, const T* x, int32_t n);                                       // y = x Phi(x); y may be x
    void (*glu)(T* r, const T* v, int32_t n);                                        // r += v[0..n) * sigmoid(v[n..2n))
    void (*layer_norm)(T* y, const T* x, const T* weight, const T* bias, int32_t n); // y may be x
    void (*rms_norm)(T* y, const T* x, const T* weight, int32_t n, int32_t s); // integers: y in Q(40 - s); y may be x
    void (*gate)(T* y, const T* x, const T* z, int32_t n);                     // y = x z sigmoid(z); y may be x

    // y[j] = silu(sum_k taps[k][j] w[k][j] + bias[j]), K taps, oldest first; bias may be null; y may be a tap.
    void (*conv)(T* y, const T* const* taps, const T* w, const T* bias, int32_t K, int32_t n);

    // What a Mamba mixer does with one row between its projections; sections 7 and 8. Whether a state was limited.
    bool (*mamba1)(const Row<T>& row);
    bool (*mamba2)(const Row<T>& row);
    bool (*mamba3)(const Row<T>& row);
};
// All of a back-end.
struct Kernels : EngineKernels<float>, EngineKernels<int32_t> {
    const char* name;

    // y[i * y_stride + o] = sum_k W[o][k] x[i * x_stride + k] + bias[o], for i < n; bias may be null.
    void (*matmul)(float* y, int32_t y_stride, const Matrix& W, const float* bias, const float* x, int32_t x_stride,
                   int32_t n);

    bool (*s4d_scan)(const S4dScan& a); // whether anything was clipped
    // ab for a step of dt times the trained one: zoh from rates (rho = Re z, turns = Im z / 2 pi) and gain (B / A),
    // bilinear from rates (Re z / 2, turns: Im z / 2) and gain (B dt). z = A dt. rho, gain: as ab's layout with 1 and 2
    // planes.
    void (*s4d_discretize)(float* ab, const float* rho, const double* turns, const float* gain, float dt, Disc disc,
                           int32_t count); // count: blocks * modes

    // Of integer models; sections 5 and 8. Q16 where nothing else is said.
    //
    // Codes of one token: code_i ~ x_i 2^den / num, of 8 or 16 bits (int16 in this machine's order), zeros from n to
    // padded_n; scale is {num, den}.
    void (*quantize)(unsigned char* codes, int32_t* scale, const int32_t* x, int32_t n, int32_t padded_n, int32_t bits);
    // y[i y_stride + o] = sat(rs(acc T, den + e_o - 24) + bias_o), acc = sum_k W[o][k] code_i[k], T = rs(num m_o, 24),
    // for i < n; with 16-bit codes rs(acc rs(T, 13), den + e_o - 37). |acc| < 2^31 with 8 bits, 2^45 with 16;
    // acc T <= 2^61.1.
    void (*matmul_q)(const Matrix& W, const Tokens& t, int32_t n, int32_t bits);
    bool (*s4d_scan_q)(const S4dScanQ& a);
    void (*bank_q)(const BankQ& a); // the samples of one frame; both engines
    bool (*scan_q)(const HeadScanQ& a);
    void (*mamba3_heads_q)(const Row<int32_t>& row); // first of all in mamba3: numbers of a head
};

SSM_DETAIL_BEGIN

constexpr float norm_eps = 1e-5f; // of every LayerNorm

SSM_INLINE float sum_lanes(const float s[8]) noexcept {
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

// Half precision to float, exact. BF16 is the upper half of a float.
SSM_INLINE float f16_to_f32(uint16_t h) noexcept {
    int32_t sign = int32_t(uint32_t(h & 0x8000u) << 16), exponent = h >> 10 & 31, m = h & 1023;
    if (exponent == 31) return float_of(sign | 0x7f800000 | m << 13);
    if (exponent != 0) return float_of(sign | (exponent + 112) << 23 | m << 13);
    float tiny = static_cast<float>(m) * 5.9604644775390625e-8f; // m * 2^-24
    return sign != 0 ? -tiny : tiny;
}
SSM_INLINE float element(const unsigned char* data, DType t, size_t i) noexcept {
    if (t == DType::f32) return load_f32(data + 4 * i);
    uint16_t h = load_u16(data + 2 * i);
    return t == DType::f16 ? f16_to_f32(h) : float_of(int32_t(uint32_t(h) << 16));
}

// Eight floats at a time for F = f32x8, four for f32x4, one for float; a short last group is filled up with zeros.
template <class F> constexpr int32_t width = int32_t(sizeof(F) / sizeof(float));
template <class F> SSM_INLINE F      load(const float* p, int32_t count) noexcept {
         F v = lanes<F>::set(0.0f);
         if (count >= width<F>) SSM_MEMCPY(&v, p, sizeof(F));
    else
        for (int32_t k = 0; k < count; ++k) SSM_MEMCPY(reinterpret_cast<unsigned char*>(&v) + 4 * k, p + k, 4);
    return v;
}
template <class F> SSM_INLINE void store(float* p, const F& v, int32_t count) noexcept {
    if (count >= width<F>) SSM_MEMCPY(p, &v, sizeof(F));
    else
        for (int32_t k = 0; k < count; ++k) SSM_MEMCPY(p + k, reinterpret_cast<const unsigned char*>(&v) + 4 * k, 4);
}

// The element-wise kernels, for any F.
template <class F> SSM_INLINE void add_loop(float* r, const float* v, int32_t n) noexcept {
    for (int32_t i = 0; i < n; i += width<F>) store(r + i, F(load<F>(r + i, n - i) + load<F>(v + i, n - i)), n - i);
}
template <class F> SSM_INLINE void gelu_loop(float* y, const float* x, int32_t n) noexcept {
    for (int32_t i = 0; i < n; i += width<F>) {
        F v = load<F>(x + i, n - i);
        store(y + i, F(v * normal_cdf(v)), n - i);
    }
}
template <class F> SSM_INLINE void glu_loop(float* r, const float* v, int32_t n) noexcept {
    for (int32_t i = 0; i < n; i += width<F>) {
        F gated = load<F>(v + i, n - i) * sigmoid(load<F>(v + n + i, n - i));
        store(r + i, F(load<F>(r + i, n - i) + gated), n - i);
    }
}
template <class F>
SSM_INLINE void layer_norm_loop(float* y, const float* x, const float* weight, const float* bias, int32_t n) noexcept {
    constexpr int32_t groups = 8 / width<F>; // eight partial sums in all
    F                 acc[size_t(groups)];
    float             part[8];
    for (int32_t g = 0; g < groups; ++g) acc[g] = lanes<F>::set(0.0f);
    for (int32_t i = 0, g = 0; i < n; i += width<F>, g = (g + 1) % groups) acc[g] = acc[g] + load<F>(x + i, n - i);
    SSM_MEMCPY(part, acc, sizeof part);
    const float mean = sum_lanes(part) / static_cast<float>(n);
    for (int32_t g = 0; g < groups; ++g) acc[g] = lanes<F>::set(0.0f);
    for (int32_t i = 0, g = 0; i < n; i += width<F>, g = (g + 1) % groups) {
        F d = load<F>(x + i, n - i) - mean;
        if (n - i < width<F>) { // lanes past the end hold zero, not a channel
            float lane[size_t(width<F>)];
            SSM_MEMCPY(lane, &d, sizeof d);
            for (int32_t k = n - i; k < width<F>; ++k) lane[k] = 0.0f;
            SSM_MEMCPY(&d, lane, sizeof d);
        }
        acc[g] = acc[g] + d * d;
    }
    SSM_MEMCPY(part, acc, sizeof part);
    const float scale = rsqrt(sum_lanes(part) / static_cast<float>(n) + norm_eps);
    for (int32_t i = 0; i < n; i += width<F>) {
        F v = (load<F>(x + i, n - i) - mean) * scale;
        store(y + i, F(v * load<F>(weight + i, n - i) + load<F>(bias + i, n - i)), n - i);
    }
}
template <class F> SSM_INLINE void rms_norm_loop(float* y, const float* x, const float* weight, int32_t n) noexcept {
    constexpr int32_t groups = 8 / width<F>;
    F                 acc[size_t(groups)];
    float             part[8];
    for (int32_t g = 0; g < groups; ++g) acc[g] = lanes<F>::set(0.0f);
    for (int32_t i = 0, g = 0; i < n; i += width<F>, g = (g + 1) % groups) {
        const F v = load<F>(x + i, n - i);
        acc[g] = acc[g] + v * v;
    }
    SSM_MEMCPY(part, acc, sizeof part);
    const float scale = rsqrt(sum_lanes(part) / static_cast<float>(n) + norm_eps);
    for (int32_t i = 0; i < n; i += width<F>)
        store(y + i, F((load<F>(x + i, n - i) * scale) * load<F>(weight + i, n - i)), n - i);
}
template <class F> SSM_INLINE F    silu(const F& z) noexcept { return z * sigmoid(z); }
template <class F> SSM_INLINE void gate_loop(float* y, const float* x, const float* z, int32_t n) noexcept {
    for (int32_t i = 0; i < n; i += width<F>)
        store(y + i, F(load<F>(x + i, n - i) * silu(load<F>(z + i, n - i))), n - i);
}
template <class F>
SSM_INLINE void conv_loop(float* y, const float* const* taps, const float* w, const float* bias, int32_t K,
                          int32_t n) noexcept {
    for (int32_t i = 0; i < n; i += width<F>) {
        F sum = load<F>(taps[0] + i, n - i) * load<F>(w + i, n - i);
        for (int32_t k = 1; k < K; ++k)
            sum = sum + load<F>(taps[k] + i, n - i) * load<F>(w + ptrdiff_t(k) * n + i, n - i);
        if (bias != nullptr) sum = sum + load<F>(bias + i, n - i);
        store(y + i, silu(sum), n - i);
    }
}

SSM_INLINE float angle_of(double turns, float dt, Disc disc) noexcept {
    return disc == Disc::zoh ? turn_fraction(turns, dt) : static_cast<float>(turns) * dt;
}
// a and b of a mode, or of width<F> of them, for a step of dt; t: its angle_of().
template <class F> struct ModeOf {
    F ar, ai, br, bi;
    SSM_INLINE ModeOf(const F& rho, const F& t, const F& gr, const F& gi, float dt, Disc disc) noexcept {
        using L = lanes<F>;
        const F x = rho * dt;
        if (disc == Disc::zoh) { // a = exp(z dt), b = (B / A) (exp(z dt) - 1), without cancellation
            F e, em, s, c, s2, c2;
            exp_and_expm1(x, &e, &em);
            sincos_turns(t, &s, &c);
            sincos_turns(F(t * 0.5f), &s2, &c2);
            ar = e * c;
            ai = e * s;
            F dr = em * c - (s2 * s2) * 2.0f; // Re(exp(z dt) - 1)
            br = gr * dr - gi * ai;
            bi = gr * ai + gi * dr;
        } else { // a = (1 + w) / (1 - w), b = B dt / (1 - w), w = z dt / 2 = x + i t
            F d = L::set(1.0f) - x;
            F q = L::set(1.0f) / (d * d + t * t);
            ar = ((L::set(1.0f) - x * x) - t * t) * q;
            ai = (t * q) * 2.0f;
            F p = (d * q) * dt, o = (t * q) * dt;
            br = gr * p - gi * o;
            bi = gr * o + gi * p;
        }
    }
};
// a, b of eight channels of one mode.
template <class F>
SSM_INLINE void discretize_loop(float* ab, const float* rho, const double* turns, const float* gain, float dt,
                                Disc disc, int32_t count) noexcept {
    for (int32_t i = 0; i < count; ++i, ab += 32, rho += 8, turns += 8, gain += 16) {
        float angle[8];
        for (int k = 0; k < 8; ++k) angle[k] = angle_of(turns[k], dt, disc);
        for (int32_t k = 0; k < 8; k += width<F>) {
            const ModeOf<F> m(load<F>(rho + k, 8), load<F>(angle + k, 8), load<F>(gain + k, 8),
                              load<F>(gain + 8 + k, 8), dt, disc);
            store(ab + k, m.ar, 8), store(ab + 8 + k, m.ai, 8), store(ab + 16 + k, m.br, 8);
            store(ab + 24 + k, m.bi, 8);
        }
    }
}

// The clip: NaN becomes 0. Notes in `hit` that something changed.
SSM_INLINE float limit(float x, float clip, bool* hit) noexcept {
    float y = x > clip ? clip : x < -clip ? -clip : x == x ? x : 0.0f;
    *hit |= !(y == x);
    return y;
}

// Float states do not fade into denormal numbers, with which many processors are slow: what is below 2^-100 after a
// step whose number is a multiple of settle_steps becomes 0. settled() is for one number of h.
constexpr uint64_t settle_steps = 64;
SSM_INLINE bool    settles(uint64_t steps) noexcept { return steps % settle_steps == 0; }
SSM_INLINE float   settled(float x, bool due = true) noexcept {
    return due && (bits_of(x) & int_max) < (127 - 100) << 23 ? 0.0f : x;
}

SSM_DETAIL_END
// ---- 7. Recurrences -------------------------------------------------------------------------------------------------
//
// The four cells as formulas, the tables load() makes of their tensors, and the loops of the Mamba cells, written once
// for F = float (the specification), f32x8 and f32x4 (the back-ends). S4D's loop is the kernel s4d_scan. Exports
// S4dLayer, MambaLayer, Row, mamba1_row, mamba2_row, mamba3_row.
//
// In a model with a state clip every new h is limited to it before it is read. A row's dt multiplies the step size:
// time since the previous event, in training steps; the product is at most 22 in Mamba.
//
// S4D (Gu et al. 2022, arXiv 2206.11893): per channel h and mode j, with z = dt A, dt = exp(log_dt),
// A = -exp(log_A_real) + i A_imag; zoh: a = exp(z), b = B (a - 1) / A; bilinear: a = (1 + z/2) / (1 - z/2),
// b = B dt / (1 - z/2):
//
//     x_hj <- a_hj x_hj + b_hj u_h;   s_h = 2 sum_j Re(C_hj x_hj) + D_h u_h
//     v = W gelu(s) + bias;           o = v[0:H] sigmoid(v[H:2H])
//
//     tensor                                     shape        here
//     s4_layers.i.kernel.log_dt                  (H)          folded into ab
//     s4_layers.i.kernel.log_A_real, A_imag      (H, N/2)     folded into ab; rho, turns, gain for other dt
//     s4_layers.i.kernel.C                       (H, N/2, 2)  c
//     s4_layers.i.D                              (H)          D
//     s4_layers.i.output_linear.0.weight, bias   (2H, H), (2H) mix, mix_bias
//
// Mamba-1 (Gu and Dao 2023, arXiv 2312.00752): with c channels of d_inner, A = -exp(A_log):
//
//     (x, z) = in_proj u;  x <- silu(conv1d(x));  (r, B, C) = x_proj x;  dt = softplus(dt_proj r)
//     h_cn <- exp(dt_c A_cn) h_cn + dt_c x_c B_n;   y_c = sum_n h_cn C_n + D_c x_c;   out_proj(y silu(z))
//
//     layers.i.mixer.in_proj.weight     (2 di, d)          in_proj, in_bias (optional in_proj.bias)
//     layers.i.mixer.conv1d.weight      (di, 1, K)         conv_w [K][di], conv_bias (optional conv1d.bias)
//     layers.i.mixer.x_proj.weight      (dt_rank + 2N, di) x_proj
//     layers.i.mixer.dt_proj.weight     (di, dt_rank)      dt_proj, dt_bias
//     layers.i.mixer.A_log, D           (di, N), (di)      A = exp(A_log) [block of 8][N][8], D
//     layers.i.mixer.out_proj.weight    (d, di)            out_proj, out_bias (optional out_proj.bias)
//
// Mamba-2 (Dao and Gu 2024, arXiv 2405.21060): with heads h of P channels, groups g = h / (H / G), A = -exp(A_log):
//
//     (z0, x0, z, xBC, dt) = in_proj u;  (x, B, C) = silu(conv1d(xBC));  dt = softplus(dt + dt_bias)
//     h_hpn <- exp(dt_h A_h) h_hpn + dt_h x_hp B_gn;   y_hp = sum_n h_hpn C_gn + D_h x_hp
//     y <- norm(y silu(z)), or norm(y) silu(z), or y silu(z);   out_proj(silu(z0) x0, y)
//
//     layers.i.mixer.in_proj.weight     (2 di + 2GN + H, d)  in_proj, in_bias
//     layers.i.mixer.conv1d.weight      (ds + 2GN, 1, K)     conv_w [K][ds + 2GN], conv_bias
//     layers.i.mixer.dt_bias, A_log     (H)                  dt_bias, A = exp(A_log)
//     layers.i.mixer.D                  (H) or (ds)          D [ds]
//     layers.i.mixer.norm.weight        (ds)                 gate_norm (optional)
//     layers.i.mixer.out_proj.weight    (d, di)              out_proj, out_bias
//
// Mamba-3 (Lahoti et al. 2026, arXiv 2603.15569): with ranks r (one in SISO), rotation pairs s:
//
//     (z, x, B, C, dd_dt, dd_A, trap, angle) = in_proj u;   B_rg <- rms(B_rg) B_norm,  C likewise
//     dt = softplus(dd_dt + dt_bias);  A = -max(f(dd_A), A_floor), f(a) = 1 + a or 1 / (1 - a) below 0, or softplus
//     lambda = sigmoid(trap);  phi_hs <- phi_hs + tanh(angle_s) pi dt_h
//     k_rh = rotate(B_rg + B_bias_hr, phi_h),  q_rh = rotate(C_rg + C_bias_hr, phi_h)
//     alpha = exp(A dt),  beta = alpha dt (1 - lambda),  gamma = dt lambda,  v_rhp = x_hp mimo_x_hrp
//     h_hpn <- alpha h_hpn + beta sum_r v'_rhp k'_rhn + gamma sum_r v_rhp k_rhn        (v', k': of the step before)
//     o_rhp = sum_n h_hpn q_rhn + D_h v_rhp;   g = [rms over p](o) silu(z_hp mimo_z_hrp);  y_hp = sum_r g_rhp
//     mimo_o_hrp
//
//     layers.i.mixer.in_proj.weight     (2 di + 2RGN + 3H + S, d)  in_proj
//     layers.i.mixer.dt_bias, D         (H)                dt_bias, D
//     layers.i.mixer.B_norm.weight, C.. (N)                B_norm, C_norm
//     layers.i.mixer.B_bias, C_bias     (H, R, N)          B_bias, C_bias [block of 8 heads][R][N'][8]
//     layers.i.mixer.mimo_x, _z, _o     (H, R, P)          mimo_x, mimo_z, mimo_o (MIMO only)
//     layers.i.mixer.norm.weight        (di)               gate_norm (optional)
//     layers.i.mixer.out_proj.weight    (d, di)            out_proj
//
// The rotation pairs are n = 2s, 2s + 1 in SISO and n = s, s + N/2 in MIMO. Here N' holds the first of every pair, then
// the second of every pair, then the rest, so that both rotate alike; place() says where n went. Sums over n run in the
// order of N', sums over p and d_model in eight interleaved partial sums. Angles are unsigned 32-bit, 2^32 to a turn:
// they wrap by themselves and do not drift.

template <> struct S4dLayer<float> {
    const float*  norm_weight = nullptr; // [d_model]
    const float*  norm_bias = nullptr;   // [d_model]; null for RMSNorm
    const float*  ab = nullptr;          // [block][mode][ar ai br bi][8], for dt = 1
    const float*  c = nullptr;           // [block][mode][2 cr, 2 ci][8]
    const float*  rho = nullptr;         // [block][mode][8]     what s4d_discretize makes a and b of
    const double* turns = nullptr;       // [block][mode][8]
    const float*  gain = nullptr;        // [block][mode][re im][8]
    const float*  D = nullptr;           // [d_model padded]
    Matrix        mix;                   // output_linear [2H][H]
    const float*  mix_bias = nullptr;    // [2H]
};
template <> struct S4dLayer<int32_t> { // of integers; tables of bytes as in the file
    const int32_t *      norm_weight = nullptr, *norm_bias = nullptr, *D = nullptr; // [H], Q16
    const unsigned char *a = nullptr, *b = nullptr;       // [H][modes][2], int32, Q30 and Q(b_frac), for dt = 1
    const unsigned char *C = nullptr, *C_scale = nullptr; // [H][modes][2] int16, [H] float32
    const unsigned char *rho = nullptr, *phase = nullptr; // [H][modes], int32 Q26 and int64 turns 2^32, for other dt
    const unsigned char* gain = nullptr;                  // [H][modes][2], int32 Q(g_frac)
    Matrix               mix;
};
template <class T> struct MambaLayer {
    const T *norm_weight = nullptr, *norm_bias = nullptr;   // [d_model]
    const T *norm2_weight = nullptr, *norm2_bias = nullptr; // [d_model], in front of the MLP
    Matrix   in_proj, out_proj, x_proj, dt_proj, fc1, fc2;
    const T *in_bias = nullptr, *out_bias = nullptr; // floats; integers have them with their Matrix
    const T *conv_w = nullptr, *conv_bias = nullptr;
    const T *dt_bias = nullptr, *A = nullptr, *D = nullptr, *gate_norm = nullptr; // A of integers: Q24
    const T *B_norm = nullptr, *C_norm = nullptr, *B_bias = nullptr,
            *C_bias = nullptr;                                       // biases of integers: [H][R][N']
    const T *mimo_x = nullptr, *mimo_z = nullptr, *mimo_o = nullptr; // [H][R][P]
};

// One row of one layer, between its projections.
template <class T> struct Row {
    const Config*        c = nullptr;
    const Kernels*       kernels = nullptr;
    const MambaLayer<T>* layer = nullptr;
    T*                   p = nullptr;     // what in_proj gave (Mamba-1: then x_proj, dt_proj); conv1d is done
    T*                   y = nullptr;     // [d_inner]: what out_proj reads
    const T*             state = nullptr; // the layer's parts, see parts_of()
    T*                   next = nullptr;  // may be `state`; null: the new state is dropped
    T*                   work = nullptr;  // one_row() words
    T                    dt = T();        // of integers: Q16
    bool                 traced = false;  // keep B_biased and C_biased
    // A row may be done in three calls: what comes before its heads (Mamba-1: blocks of eight channels), they, or some
    // of them, and what comes after.
    enum : uint8_t { before = 1, heads = 2, after = 4, all = 7 };
    uint8_t what = all;
    int32_t                 first = 0, end = 0; // the heads, unless it is all
    T*                      own = nullptr;      // own_words() for them; null: in `work`
    SSM_HD bool             does(uint8_t which) const noexcept { return !detail::team_in_build || (what & which) != 0; }
    SSM_HD bool             has_own() const noexcept { return detail::team_in_build && own != nullptr; }
    SSM_HD const EngineKernels<T>& engine() const noexcept { return *kernels; }
#ifdef SSM_DEBUG
    Counts* counts = nullptr; // of the stream; null: not counted
#endif
};

SSM_DETAIL_BEGIN

constexpr float max_scaled_dt = 22.0f;

// The step size: softplus, times the time since the previous event.
template <class F> SSM_INLINE F step_size(const F& raw, float dt) noexcept {
    const F v = softplus(raw);
    if (bits_of(dt) == bits_of(1.0f)) return v;
    const F scaled = v * dt;
    return select(lanes<F>::less(lanes<F>::set(max_scaled_dt), scaled), lanes<F>::set(max_scaled_dt), scaled);
}

// What one block of eight rows of h (or width<F> of them) has of its ranks: inputs scaled by beta and gamma, and sums.
// A list and not an array, so that compilers keep all of it in registers.
template <class F, int R> struct Ranks {
    Ranks<F, R - 1> before;
    F               w, v, sum;
    SSM_INLINE void start(const float* w_at, const float* v_at, ptrdiff_t stride) noexcept {
        before.start(w_at, v_at, stride);
        w = load<F>(w_at + (R - 1) * stride, 8), v = load<F>(v_at + (R - 1) * stride, 8);
        sum = lanes<F>::set(0.0f);
    }
    SSM_INLINE F add_old(const F& x, const float* k, ptrdiff_t rank) const noexcept {
        return before.add_old(x, k, rank) + w * lanes<F>::set(k[(R - 1) * rank]);
    }
    SSM_INLINE F add_new(const F& x, const float* k, ptrdiff_t rank) const noexcept {
        return before.add_new(x, k, rank) + v * lanes<F>::set(k[(R - 1) * rank]);
    }
    SSM_INLINE void read(const F& x, const float* q, ptrdiff_t rank) noexcept {
        before.read(x, q, rank);
        sum = sum + x * lanes<F>::set(q[(R - 1) * rank]);
    }
    // The sums to o; whether one of them is not finite.
    SSM_INLINE typename lanes<F>::I finish(float* o, ptrdiff_t stride) const noexcept {
        const typename lanes<F>::I earlier = before.finish(o, stride);
        store(o + (R - 1) * stride, sum, 8);
        return earlier | ~lanes<F>::less(magnitude(sum), lanes<F>::set(FLT_MAX));
    }
};
template <class F> struct Ranks<F, 0> {
    SSM_INLINE void                 start(const float*, const float*, ptrdiff_t) noexcept {}
    SSM_INLINE F                    add_old(const F& x, const float*, ptrdiff_t) const noexcept { return x; }
    SSM_INLINE F                    add_new(const F& x, const float*, ptrdiff_t) const noexcept { return x; }
    SSM_INLINE void                 read(const F&, const float*, ptrdiff_t) noexcept {}
    SSM_INLINE typename lanes<F>::I finish(float*, ptrdiff_t) const noexcept {
        return lanes<F>::bits(lanes<F>::set(0.0f));
    }
};

// What a head's update reads. w, v, o: [R][stride]; k0, k, q: element (r, n) at (r N + n) ks.
struct HeadScan {
    const float *w, *k0, *v, *k, *q;
    float        alpha, clip;
    int32_t      N, ks, ranks, stride;
};

// The update and read-out of B blocks (1 or 2) of eight rows of h, or of both halves (2) of one, for R ranks:
//     h <- alpha h + sum_r w_r k0_r + sum_r v_r k_r,   o_r = sum_n h q_r
// h: [block][N][8]; p: the first row; lane: of the first block, where F is one lane. h_in may be h_out. Returns a mask
// of what has to be limited.
template <class F, int R, int B, bool Prev, bool Clip>
SSM_INLINE typename lanes<F>::I scan_block(const HeadScan& a, float* o, const float* h_in, float* h_out,
                                           ptrdiff_t p) noexcept {
    using L = lanes<F>;
    const ptrdiff_t rank = ptrdiff_t(a.N) * a.ks, block = width<F> == 4 ? 4 : ptrdiff_t(a.N) * 8;
    const F         bound = L::set(a.clip);
    typename L::I   outside = L::bits(L::set(0.0f));
    Ranks<F, R>     first, second;
    first.start(a.w + p, a.v + p, a.stride);
    second.start(a.w + p + (B - 1) * width<F>, a.v + p + (B - 1) * width<F>, a.stride);
    const float *k0 = a.k0, *k = a.k, *q = a.q;
    for (int32_t n = 0; n < a.N; ++n, k0 += a.ks, k += a.ks, q += a.ks, h_in += 8, h_out += 8) {
        F x = load<F>(h_in, 8) * a.alpha, y = B == 2 ? load<F>(h_in + block, 8) * a.alpha : x;
        if (Prev) x = first.add_old(x, k0, rank);
        if (Prev && B == 2) y = second.add_old(y, k0, rank);
        x = first.add_new(x, k, rank);
        if (B == 2) y = second.add_new(y, k, rank);
        first.read(x, q, rank);
        if (B == 2) second.read(y, q, rank);
        store(h_out, x, 8);
        if (B == 2) store(h_out + block, y, 8);
        if (Clip) outside = outside | ~(L::less(magnitude(x), bound) | L::equal(magnitude(x), bound));
        if (Clip && B == 2) outside = outside | ~(L::less(magnitude(y), bound) | L::equal(magnitude(y), bound));
    }
    // Without a clip only NaN and Inf are limited, and those always reach a sum.
    const typename L::I wild = first.finish(o + p, a.stride);
    const typename L::I wild2 = B == 2 ? second.finish(o + p + width<F>, a.stride) : wild;
    return Clip ? outside : wild | wild2;
}
template <class F, int R, int B, bool Prev>
SSM_INLINE bool scan_clip(const HeadScan& a, float* o, const float* h_in, float* h_out, ptrdiff_t p) noexcept {
    using L = lanes<F>;
    return a.clip < FLT_MAX ? L::any(scan_block<F, R, B, Prev, true>(a, o, h_in, h_out, p))
                            : L::any(scan_block<F, R, B, Prev, false>(a, o, h_in, h_out, p));
}
// The same for any number of ranks, one row of h at a time; limits as it goes.
SSM_LOCAL bool scan_row(const HeadScan& a, bool prev, float* o, const float* h_in, float* h_out, ptrdiff_t p) noexcept {
    bool            hit = false;
    const ptrdiff_t rank = ptrdiff_t(a.N) * a.ks;
    for (int32_t r = 0; r < a.ranks; ++r) o[ptrdiff_t(r) * a.stride + p] = 0.0f;
    for (ptrdiff_t n = 0; n < a.N; ++n) {
        float x = h_in[n * 8] * a.alpha;
        for (ptrdiff_t r = 0; prev && r < a.ranks; ++r) x += a.w[r * a.stride + p] * a.k0[r * rank + n * a.ks];
        for (ptrdiff_t r = 0; r < a.ranks; ++r) x += a.v[r * a.stride + p] * a.k[r * rank + n * a.ks];
        x = limit(x, a.clip, &hit);
        h_out[n * 8] = x;
        for (ptrdiff_t r = 0; r < a.ranks; ++r) o[r * a.stride + p] += x * a.q[r * rank + n * a.ks];
    }
    return hit;
}

// One head: all its blocks, and the clip where a block needs it. Limiting is element-wise, so limiting the new state
// and reading it again is the specified step. h_out null: the new state goes to `dropped`, [2][N][8]. Whether anything
// was limited.
template <class F, bool Prev>
SSM_INLINE bool scan_head(const HeadScan& a, float* o, const float* h_in, float* h_out, float* dropped) noexcept {
    bool hit = false;
    for (int32_t p = 0; p < a.stride;) {
        const ptrdiff_t at = ptrdiff_t(p) * a.N;
        float*          to = h_out != nullptr ? h_out + at : dropped;
        int32_t         rows = 8;
        bool            outside = false;
        if (width<F> == 8 && a.ranks == 1 && p + 16 <= a.stride)
            rows = 16, outside = scan_clip<F, 1, 2, Prev>(a, o, h_in + at, to, p);
        else if (width<F> == 8 && a.ranks == 1) outside = scan_clip<F, 1, 1, Prev>(a, o, h_in + at, to, p);
        else if (width<F> == 8 && Prev && a.ranks == 2) outside = scan_clip<F, 2, 1, Prev>(a, o, h_in + at, to, p);
        else if (width<F> == 8 && Prev && a.ranks == 4) outside = scan_clip<F, 4, 1, Prev>(a, o, h_in + at, to, p);
        else if (width<F> == 4 && a.ranks == 1) outside = scan_clip<F, 1, 2, Prev>(a, o, h_in + at, to, p);
        else if (width<F> == 4 && Prev && a.ranks == 2) outside = scan_clip<F, 2, 2, Prev>(a, o, h_in + at, to, p);
        else if (width<F> == 4 && Prev && a.ranks == 4) outside = scan_clip<F, 4, 2, Prev>(a, o, h_in + at, to, p);
        else
            for (int32_t lane = 0; lane < 8; ++lane) hit |= scan_row(a, Prev, o, h_in + at + lane, to + lane, p + lane);
        for (int32_t lane = 0; outside && lane < rows; ++lane)
            for (int32_t r = 0; r < a.ranks; ++r) {
                float sum = 0.0f;
                for (int32_t n = 0; n < a.N; ++n) {
                    float* x = to + (ptrdiff_t(lane / 8) * a.N + n) * 8 + lane % 8;
                    *x = limit(*x, a.clip, &hit);
                    sum += *x * a.q[(ptrdiff_t(r) * a.N + n) * a.ks];
                }
                o[ptrdiff_t(r) * a.stride + p + lane] = sum;
            }
        p += rows;
    }
    return hit;
}

template <class F> SSM_INLINE bool mamba1_row(const Row<float>& a) noexcept {
    using L = lanes<F>;
    const Config&            c = SSM_KNOWN(*a.c);
    const MambaLayer<float>& l = *a.layer;
    const int32_t            di = c.d_inner, N = c.d_state;
    const float *            x = a.p, *z = x + di, *B = z + di + c.dt_rank, *C = B + N, *raw = C + N;
    const float*             h_in = a.state + parts_of(c).h;
    float*                   h_out = a.next != nullptr ? a.next + parts_of(c).h : nullptr;
    const float              clip = c.state_clip > 0.0f ? c.state_clip : FLT_MAX;
    const int32_t            end = a.what == a.all || a.end * 8 > di ? di : a.end * 8;
    bool                     hit = false;
    for (int32_t i = a.first * 8; a.does(a.heads) && i < end; i += width<F>) {
        const int32_t   left = di - i;
        const ptrdiff_t at = ptrdiff_t(i / 8) * N * 8 + i % 8;
        float*          to = h_out != nullptr ? h_out + at : a.has_own() ? a.own : a.work;
        const F         dt = step_size(F(load<F>(raw + i, left) + load<F>(l.dt_bias + i, 8)), a.dt);
        const F         v = load<F>(x + i, left), in = dt * v;
        F               sum = L::set(0.0f);
        typename L::I   outside = L::bits(sum);
        for (int32_t n = 0; n < N; ++n) {
            const F decay = exp_f32(F(-(dt * load<F>(l.A + at + n * 8, 8))));
            const F s = decay * load<F>(h_in + at + n * 8, 8) + in * B[n];
            store(to + n * 8, s, 8);
            outside = outside | ~(L::less(magnitude(s), L::set(clip)) | L::equal(magnitude(s), L::set(clip)));
            sum = sum + s * C[n];
        }
        if (L::any(outside)) {
            float lane[size_t(width<F>)];
            for (int32_t k = 0; k < width<F>; ++k) {
                lane[k] = 0.0f;
                for (int32_t n = 0; n < N; ++n) {
                    to[n * 8 + k] = limit(to[n * 8 + k], clip, &hit);
                    lane[k] += to[n * 8 + k] * C[n];
                }
            }
            SSM_MEMCPY(&sum, lane, sizeof sum);
        }
        store(a.y + i, F((sum + load<F>(l.D + i, 8) * v) * silu(load<F>(z + i, left))), left);
    }
    return hit;
}

// y, whose first part is the MLP's, gated and normed.
template <class T> SSM_INLINE void gate_mamba2(const Row<T>& a) noexcept {
    const EngineKernels<T>& k = a.engine();
    const Config&           c = SSM_KNOWN(*a.c);
    const int32_t           m = c.d_inner - c.d_ssm, group = c.d_ssm / c.ngroups;
    const T *               z0 = a.p, *x0 = z0 + m, *z = x0 + m;
    T* const                y = a.y + m;
    if (!c.rmsnorm || !c.norm_before_gate) k.gate(y, y, z, c.d_ssm);
    for (int32_t g = 0; c.rmsnorm && g < c.d_ssm; g += group)
        k.rms_norm(y + g, y + g, a.layer->gate_norm + g, group, 24);
    if (c.rmsnorm && c.norm_before_gate) k.gate(y, y, z, c.d_ssm);
    k.gate(a.y, x0, z0, m);
}
template <class F> SSM_INLINE bool mamba2_row(const Row<float>& a) noexcept {
    const Config&            c = SSM_KNOWN(*a.c);
    const MambaLayer<float>& l = *a.layer;
    const int32_t            m = c.d_inner - c.d_ssm, H = c.nheads, P = c.headdim, N = c.d_state;
    const size_t             Hp = padded(H), Pp = padded(P), h_size = Pp * size_t(N);
    const ptrdiff_t          GN = ptrdiff_t(c.ngroups) * N;
    const float *            x = a.p + 2 * m + c.d_ssm, *B = x + c.d_ssm, *C = B + GN, *raw = C + GN;
    float *dropped = a.work, *dt = dropped + size_t(N) * 16, *alpha = dt + Hp, *v = alpha + Hp, *o = v + Pp;
    if (a.has_own()) dropped = a.own, v = dropped + size_t(N) * 16, o = v + Pp;
    float*        y = a.y + m;
    const float   clip = c.state_clip > 0.0f ? c.state_clip : FLT_MAX;
    const int32_t end = a.what == a.all ? H : a.end;
    bool          hit = false;
    for (int32_t h = 0; a.does(a.before) && h < int32_t(Hp); h += width<F>) {
        const F step = step_size(F(load<F>(raw + h, H - h) + load<F>(l.dt_bias + h, 8)), a.dt);
        store(dt + h, step, 8);
        store(alpha + h, exp_f32(F(-(step * load<F>(l.A + h, 8)))), 8);
    }
    for (int32_t h = a.first; a.does(a.heads) && h < end; ++h) {
        const float*    xh = x + ptrdiff_t(h) * P;
        const ptrdiff_t g = ptrdiff_t(h / (H / c.ngroups)) * N;
        const size_t    at = parts_of(c).h + size_t(h) * h_size;
        for (int32_t p = 0; p < int32_t(Pp); p += width<F>) store(v + p, F(load<F>(xh + p, P - p) * dt[h]), 8);
        const HeadScan scan{v, B + g, v, B + g, C + g, alpha[h], clip, N, 1, 1, int32_t(Pp)};
        hit |= scan_head<F, false>(scan, o, a.state + at, a.next != nullptr ? a.next + at : nullptr, dropped);
        for (int32_t p = 0; p < P; p += width<F>)
            store(y + ptrdiff_t(h) * P + p,
                  F(load<F>(o + p, 8) + load<F>(l.D + ptrdiff_t(h) * P + p, P - p) * load<F>(xh + p, P - p)), P - p);
    }
    if (a.does(a.after)) gate_mamba2(a);
    return hit;
}

// Where n of N stands in N'.
SSM_INLINE int32_t place(const Config& c, int32_t n) noexcept {
    const int32_t S = c.rope_angles, half = c.d_state / 2;
    if (!c.is_mimo) return n >= 2 * S ? n : n % 2 == 0 ? n / 2 : S + n / 2;
    if (n < half) return n < S ? n : S + n;
    return n - half < S ? S + n - half : n;
}

// What mamba3_row() leaves in a row's work space; the tracer reads it.
struct Mamba3Work {
    float *dropped, *dt, *A, *lambda, *alpha, *beta, *gamma; // [16][N], [H padded] each
    float *turn, *normed, *B, *C;                            // [S], [N], [R][G][N'] each
    float *k, *q, *B_biased, *C_biased;                      // [block of 8 heads][R][N'][8] each
    float *w, *v, *o;                                        // [R][P padded] each
    SSM_HD Mamba3Work(const Config& c, float* at, float* own = nullptr) noexcept {
        const size_t N = size_t(c.d_state), H = padded(c.nheads), RP = size_t(c.mimo_rank) * padded(c.headdim);
        const size_t RGN = size_t(c.mimo_rank) * size_t(c.ngroups) * N, kn = head_kn(c);
        dropped = at, dt = dropped + N * 16, A = dt + H, lambda = A + H, alpha = lambda + H, beta = alpha + H;
        gamma = beta + H, turn = gamma + H, normed = turn + padded(c.rope_angles), B = normed + padded(c.d_state);
        C = B + RGN, k = C + RGN, q = k + kn, B_biased = q + kn, C_biased = B_biased + kn;
        w = C_biased + kn;
        if (own != nullptr) dropped = own, w = own + N * 16;
        v = w + RP, o = v + RP;
    }
};

template <class F> SSM_INLINE typename lanes<F>::I load_phase(const float* p) noexcept {
    typename lanes<F>::I v;
    SSM_MEMCPY(&v, p, sizeof v);
    return v;
}

// A number of B or C, at i in group 0, for each of the heads from h on: that of its group.
template <class F> SSM_INLINE F of_heads(const Config& c, const float* v, ptrdiff_t i, ptrdiff_t h) noexcept {
    if (c.ngroups == 1) return lanes<F>::set(v[i]);
    float each[size_t(width<F>)];
    for (int32_t j = 0; j < width<F>; ++j) {
        const ptrdiff_t head = h + j < c.nheads ? h + j : c.nheads - 1;
        each[j] = v[i + head / (c.nheads / c.ngroups) * c.d_state];
    }
    return load<F>(each, width<F>);
}
// The angles at i of a layer's state, `turns` further, and their sine and cosine.
template <class F> SSM_INLINE void move_angle(const Row<float>& a, ptrdiff_t i, const F& by, F* sin, F* cos) noexcept {
    using L = lanes<F>;
    const int32_t       sign = -0x7fffffff - 1;
    const F             whole = (by + L::set(round_magic)) - round_magic; // right below 2^22 turns; beyond: none
    const F             turns = select(L::less(magnitude(by), L::set(4194304.0f)), F(by - whole), L::set(0.0f));
    const F             moved = turns * 2147483648.0f;
    const F             half = L::from_bits(L::bits(L::set(0.5f)) | (L::bits(moved) & sign));
    const typename L::I phase = L::add(load_phase<F>(a.state + i), L::shl(L::to_int(F(moved + half)), 1));
    if (a.next != nullptr) SSM_MEMCPY(a.next + i, &phase, sizeof phase);
    sincos_turns(F(L::to_float(phase) * 2.3283064365386963e-10f), sin, cos); // 2^-32
}
// Bias and rotation of one pair of B or C.
template <class F>
SSM_INLINE void turn_pair(const Row<float>& a, ptrdiff_t h, ptrdiff_t from, ptrdiff_t to, const float* normed,
                          const float* bias, float* biased, float* out, const F& sin, const F& cos) noexcept {
    const ptrdiff_t S = a.c->rope_angles;
    const F         u = of_heads<F>(SSM_KNOWN(*a.c), normed, from, h) + load<F>(bias + to, 8);
    const F         v = of_heads<F>(SSM_KNOWN(*a.c), normed, from + S, h) + load<F>(bias + to + S * 8, 8);
    store(out + to, F(u * cos - v * sin), 8), store(out + to + S * 8, F(u * sin + v * cos), 8);
    if (a.traced) store(biased + to, u, 8), store(biased + to + S * 8, v, 8);
}

// One rank of one head, and its three loops over width<F> rows from p on, of which `count` are in the head.
struct Mamba3Head {
    const Config&            c;
    const MambaLayer<float>& l;
    const float *            x, *z, *v_old; // [P]
    float *                  y, *v, *w, *o; // [P]
    ptrdiff_t                mimo;          // where this head and rank begin in mimo_x, mimo_z, mimo_o
    float                    gamma, beta, D;
    void next_rank(ptrdiff_t padded_P, ptrdiff_t P) noexcept { v += padded_P, w += padded_P, o += padded_P, mimo += P; }
};
template <class F> SSM_INLINE void head_inputs(const Mamba3Head& a, int32_t p, int32_t count) noexcept {
    F now = load<F>(a.x + p, count), before = load<F>(a.v_old + p, count);
    if (a.c.is_mimo) {
        const F mimo = load<F>(a.l.mimo_x + a.mimo + p, count);
        now = now * mimo, before = before * mimo;
    }
    store(a.v + p, F(now * a.gamma), 8), store(a.w + p, F(before * a.beta), 8);
}
template <class F> SSM_INLINE void head_skip(const Mamba3Head& a, int32_t p, int32_t count) noexcept {
    F v = load<F>(a.x + p, count);
    if (a.c.is_mimo) v = v * load<F>(a.l.mimo_x + a.mimo + p, count);
    store(a.o + p, F(load<F>(a.o + p, 8) + v * a.D), 8);
}
template <class F> SSM_INLINE void head_gate(const Mamba3Head& a, int32_t r, int32_t p, int32_t count) noexcept {
    F gate = load<F>(a.z + p, count);
    if (a.c.is_mimo) gate = gate * load<F>(a.l.mimo_z + a.mimo + p, count);
    F y = load<F>(a.o + p, 8) * silu(gate);
    if (a.c.is_mimo) y = y * load<F>(a.l.mimo_o + a.mimo + p, count);
    if (r > 0) y = load<F>(a.y + p, count) + y;
    store(a.y + p, y, count);
}

// The parts of what Mamba-3's in_proj gives.
template <class T> struct Mamba3In {
    const Config& c;
    const T*      z;
    const T *     x = z + c.d_inner, *B = x + c.d_inner, *C = B + ptrdiff_t(c.mimo_rank) * c.ngroups * c.d_state,
            *dd_dt = C + (C - B), *dd_A = dd_dt + c.nheads, *trap = dd_A + c.nheads, *angle = trap + c.nheads;
};
// B and C of each rank and group, normed (integers: to Q20) and put in the order of N'.
template <class T, class Work>
SSM_INLINE void norm_B_C(const Row<T>& a, const Mamba3In<T>& in, const Work& w) noexcept {
    const Config& c = SSM_KNOWN(*a.c);
    for (ptrdiff_t i = 0; i < ptrdiff_t(c.mimo_rank) * c.ngroups; ++i)
        for (int which = 0; which < 2; ++which) {
            T* const to = (which == 0 ? w.B : w.C) + i * c.d_state;
            a.engine().rms_norm(w.normed, (which == 0 ? in.B : in.C) + i * c.d_state,
                                which == 0 ? a.layer->B_norm : a.layer->C_norm, c.d_state, 20);
            for (int32_t n = 0; n < c.d_state; ++n) to[place(c, n)] = w.normed[n];
        }
}

// Numbers of a head, or of width<F> heads.
template <class F> struct HeadNumbers {
    F dt, A, lambda, alpha, beta, gamma;
    SSM_INLINE HeadNumbers(const Config& c, const F& raw_dt, const F& bias, const F& raw, const F& trap,
                           float since) noexcept {
        using L = lanes<F>;
        dt = step_size(F(raw_dt + bias), since);
        const F one = L::set(1.0f), floor = L::set(c.A_floor);
        const F heavy = select(L::less(raw, L::set(0.0f)), F(one / (one - raw)), F(one + raw));
        A = c.softplus_A ? softplus(raw) : heavy;
        A = select(L::less(A, floor), floor, A);
        lambda = sigmoid(trap), alpha = exp_f32(F(-(A * dt)));
        beta = (alpha * dt) * (one - lambda), gamma = dt * lambda;
    }
};

template <class F> SSM_INLINE bool mamba3_row(const Row<float>& a) noexcept {
    const Config&            c = SSM_KNOWN(*a.c);
    const MambaLayer<float>& l = *a.layer;
    const int32_t   H = c.nheads, P = c.headdim, N = c.d_state, R = c.mimo_rank, G = c.ngroups, S = c.rope_angles;
    const ptrdiff_t          Hp = ptrdiff_t(padded(H)), Pp = ptrdiff_t(padded(P));
    const Mamba3In<float>    in{c, a.p};
    const Mamba3Work w(c, a.work, a.own);
    const Parts      at = parts_of(c);
    const float *    k_old = a.state + at.k, *v_old = a.state + at.v;
    const float      clip = c.state_clip > 0.0f ? c.state_clip : FLT_MAX;
    const bool               before = a.does(a.before);
    bool                     hit = false;

    // 1. B and C.
    if (before) norm_B_C(a, in, w);

    // 2. Numbers of a head.
    for (int32_t s = 0; before && s < S; s += width<F>)
        store(w.turn + s, F(tanh(load<F>(in.angle + s, S - s)) * 0.5f), 8);
    for (int32_t h = 0; before && h < int32_t(Hp); h += width<F>) {
        const HeadNumbers<F> of(c, load<F>(in.dd_dt + h, H - h), load<F>(l.dt_bias + h, 8), load<F>(in.dd_A + h, H - h),
                                load<F>(in.trap + h, H - h), a.dt);
        store(w.dt + h, of.dt, 8), store(w.A + h, of.A, 8), store(w.lambda + h, of.lambda, 8);
        store(w.alpha + h, of.alpha, 8), store(w.beta + h, of.beta, 8), store(w.gamma + h, of.gamma, 8);
    }

    // 3. Angles move on, B and C get their biases and turn: eight heads at a time.
    for (ptrdiff_t h = 0; before && h < Hp; h += width<F>) {
        const ptrdiff_t block = h / 8, lane = h % 8;
        const F         dt = load<F>(w.dt + h, 8);
        for (int32_t s = 0; s < S; ++s) {
            const ptrdiff_t i = ptrdiff_t(at.angle) + (block * S + s) * 8 + lane;
            F               sin, cos;
            move_angle<F>(a, i, F(dt * w.turn[s]), &sin, &cos);
            for (int32_t r = 0; r < R; ++r) {
                const ptrdiff_t from = ptrdiff_t(r) * G * N + s, to = ((block * R + r) * N + s) * 8 + lane;
                turn_pair<F>(a, h, from, to, w.B, l.B_bias, w.B_biased, w.k, sin, cos);
                turn_pair<F>(a, h, from, to, w.C, l.C_bias, w.C_biased, w.q, sin, cos);
            }
        }
        for (int32_t r = 0; r < R; ++r)
            for (int32_t n = 2 * S; n < N; ++n) {
                const ptrdiff_t from = ptrdiff_t(r) * G * N + n, to = ((block * R + r) * N + n) * 8 + lane;
                const F         u = of_heads<F>(c, w.B, from, h) + load<F>(l.B_bias + to, 8);
                const F         v = of_heads<F>(c, w.C, from, h) + load<F>(l.C_bias + to, 8);
                store(w.k + to, u, 8), store(w.q + to, v, 8);
                if (a.traced) store(w.B_biased + to, u, 8), store(w.C_biased + to, v, 8);
            }
    }

    // 4. Head by head: update, read out, gate. All but the last few rows of a head in whole groups of eight.
    const int32_t whole = P / 8 * 8, end = a.what == a.all ? H : a.end;
    for (int32_t h = a.first; a.does(a.heads) && h < end; ++h) {
        const ptrdiff_t hp = ptrdiff_t(h) * P, kn = ptrdiff_t(h / 8) * R * N * 8 + h % 8;
        const size_t    state_at = at.h + size_t(h) * size_t(Pp) * size_t(N);
        Mamba3Head      head{c,   l,   in.x + hp, in.z + hp,  v_old + hp, a.y + hp, w.v,
                        w.w, w.o, hp * R,    w.gamma[h], w.beta[h],  l.D[h]};
        for (int32_t r = 0; r < R; ++r, head.next_rank(Pp, P)) {
            for (int32_t p = 0; p < whole; p += width<F>) head_inputs<F>(head, p, 8);
            for (int32_t p = whole; p < int32_t(Pp); p += width<F>) head_inputs<F>(head, p, P - p);
        }
        const HeadScan scan{w.w, k_old + kn, w.v, w.k + kn, w.q + kn, w.alpha[h], clip, N, 8, R, int32_t(Pp)};
        hit |= scan_head<F, true>(scan, w.o, a.state + state_at, a.next != nullptr ? a.next + state_at : nullptr,
                                  w.dropped);
        head.o = w.o, head.mimo = hp * R;
        for (int32_t r = 0; r < R; ++r, head.next_rank(Pp, P)) {
            for (int32_t p = 0; p < whole; p += width<F>) head_skip<F>(head, p, 8);
            for (int32_t p = whole; p < int32_t(Pp); p += width<F>) head_skip<F>(head, p, P - p);
            if (c.is_outproj_norm) a.engine().rms_norm(head.o, head.o, l.gate_norm + hp, P, 24);
            for (int32_t p = 0; p < whole; p += width<F>) head_gate<F>(head, r, p, 8);
            for (int32_t p = whole; p < P; p += width<F>) head_gate<F>(head, r, p, P - p);
        }
    }
    if (a.does(a.after) && a.next != nullptr)
        copy(a.next + at.k, w.k, head_kn(c) * 4), copy(a.next + at.v, in.x, size_t(c.d_inner) * 4);
    return hit;
}

// The row of an architecture that this build has.
template <Arch A, class F> SSM_INLINE bool mamba_row(const Row<float>& row) noexcept {
    if constexpr (!in_build(A)) return (void)row, false;
    else if constexpr (A == Arch::mamba1) return mamba1_row<F>(row);
    else if constexpr (A == Arch::mamba2) return mamba2_row<F>(row);
    else return mamba3_row<F>(row);
}
SSM_DETAIL_END
// ---- 8. Recurrences in integers -------------------------------------------------------------------------------------
//
// The four cells once more, for models of integers; formulas and tensors as in section 7. Products of int32 are taken
// in 64 bits; the comments give formats and largest sizes. Sums of integers have no order, so states keep the same
// order of n as the float cells and every back-end may add as it likes. Exports BankQ, HeadScanQ, S4dScanQ, mamba1_q,
// mamba2_q, mamba3_q and the element-wise loops.

// The rows p of one head: with add = sum_r (w_rp k0_rn + v_rp k_rn), Q46, at most 2^62.51 for 8 ranks,
//     h' = sat(rs(rs(alpha h, 9) + add, 21), clip);   o_rp = sat(rs(sum_n h'_n q_rn, 25) + rs(D_p x_rp, 16))
// |h| < 2^31, so alpha h <= 2^61, and the sum over at most 256 n is at most 2^62.51. Or, where rows are codes of 16
// bits with an exponent, h = code 2^-X:
//     v_n = sat(rs(alpha code_n, X - 16) + add, clip 2^21), Q46;  s = max(bit length of the largest |v| - 15, 6)
//     code_n' = sat(rs(v_n, s), 32767);  X' = 46 - s;  o as above, from rs(sum_n code_n' q_rn, X')
// Two codes share a word of the state and four exponents another, kept as 40 - X, so that a fresh state is all zero.
struct HeadScanQ {
    const int32_t *h_in, *w, *k0, *v, *k, *q, *x, *D; // w, v, x, o: [R][P]; k0, k, q: [R][N], ranks k_stride apart
    int32_t *      h_out, *o;                         // h_out may be h_in; null: the new state is dropped
    const int32_t* alpha_each;                        // [N], or null: alpha for all
    const int32_t* X_in;                              // null: no codes
    int32_t*       X_out;
    int64_t*       wide_row; // [N], for codes
    ptrdiff_t      row;      // of the codes in h_in and X_in where p = 0; without codes 0
    ptrdiff_t      k_stride;
    int32_t        alpha, clip, N, P, ranks, D_step; // w null: no step before
};
// T steps of S4D's state [H][modes][re im], by a and b in Q30 and Q(b_frac), int32 in the file's byte order:
//     x' = sat(rs(a x, 30) + rs(b u, b_shift), clip), part by part; complex products, exact: |ar xr - ai xi| <= 2^62
//     s = sat(rs(rs(2 sum_j Re(C_j x_j'), 18) C_scale) + rs(D u, 16));   |sum| <= 2^55, the next product <= 2^62
struct S4dScanQ {
    const unsigned char *a, *b;       // [H][modes][2]
    const unsigned char *C, *C_scale; // int16 [H][modes][2], float32 [H]
    const int32_t *      D, *h_in, *u;
    int32_t *            h_out, *s; // u, s: [T][stride]
    int32_t              stride, T, H, modes, b_shift, clip;
};

// What a model of sound has in front of its encoder: a bank of K resonators, the logarithms of their powers, and what
// is usual subtracted. In integers for both engines. x_t are a frame's samples in Q16, limited to one in magnitude; p_k
// are complex poles in Q31; all is exact but for the roundings written down:
//
//     u_t = (32 x_t - 29 x_t-1) >> band_shift;   y <- p y + u,  z <- p z + y (the new y), for each sample, where
//     Re p y = 2 (high(pr, yr) + high(-pi, yi)),  Im p y = 2 (high(pi, yr) + high(pr, yi)),  high(a, b) = rs(a b, 32)
//     e <- e + ((|z|^2 >> 12) - e >> band_leak), for each fourth sample
//
// and at the end of a frame, in Q16 with the mean m in Q24:
//
//     l_k = log2(e_k + 1) - full_k;  top = max l_k;  peak <- max(peak - band_fall, top)
//     m_k <- m_k + rs((prior_k - m_k) min(rise >> band_forget, 1), 16), where rise is what the peak has gained
//     d_k = max(l_k - peak, -band_floor);   if top > peak - band_gate and top > -band_quiet,
//     m_k <- m_k + rs((d_k - m_k) band_mean, 16);   feature_k = rs(d_k - m_k, 1)
//
// with peak = top and m_k = prior_k in the first frame. So the features do not depend on the level, begin at what is
// usual of speech, follow the room and the voice while there is any, and forget a quiet room when it gets louder.
//
// |u| <= 61 2^16 >> band_shift, and load() sees to it that |u| / (1 - |p|)^2 + 16 < 2^31: no part of y or z leaves 32
// bits, |z|^2 stays below 2^62. Of a restored state, which may hold any y and z, sums wrap. A bank's words in a state:
// [K]{yr, yi, zr, zi, e low, e high, m}, the last sample, peak, and whether there was a frame.
struct BankQ {
    const unsigned char* poles; // [K][re im]
    const int32_t*       u;     // [n]
    int32_t*             state; // [K][7]
    int32_t              K, n, leak;
};

SSM_DETAIL_BEGIN

// The largest k after its rotation, 2^27.51, and so the largest sum of 16 int32 times k or 256 int32 times q: 2^62.51.
// Up to 2^63 there is room for all that joins it: alpha h in Q46, at most 2^52, and halves of roundings.
constexpr int32_t k_bound = 190'000'000;
constexpr int64_t most_sum = int64_t(2 * max_mimo_rank) * int_max * k_bound;
static_assert(int64_t(max_d_state / 2) * int_max * (k_bound / 16) <= most_sum &&
                  most_sum <= INT64_MAX - (int64_t(1) << 60),
              "sums of the scans stay in 64 bits");

// What one update of h gives, before the clip; add: see above. And with 2^20 in the sum already, for the rounding.
SSM_ALWAYS int64_t next_h_of(int32_t alpha, int32_t h, int64_t add_and_half) noexcept {
    return (rs<9>(product(alpha, h)) + add_and_half) >> 21;
}
SSM_ALWAYS int64_t next_h(int32_t alpha, int32_t h, int64_t add) noexcept {
    SSM_ASSERT(between(alpha, 0, one_q30) && at_most(add, most_sum));
    return next_h_of(alpha, h, add + (int64_t(1) << 20));
}
SSM_ALWAYS int32_t limit_q(int64_t x, int32_t clip, bool* hit) noexcept {
    const int32_t y = sat(x, clip);
    *hit |= y != x;
    return y;
}
// What one step adds to h_n, Q46.
SSM_ALWAYS int64_t head_add(const HeadScanQ& a, ptrdiff_t p, ptrdiff_t n) noexcept {
    int64_t add = 0;
    for (ptrdiff_t r = 0; r < a.ranks; ++r) {
        SSM_ASSERT(a.w == nullptr || sum_at_most(add, product(a.w[r * a.P + p], a.k0[r * a.k_stride + n]), most_sum));
        if (a.w != nullptr) add += product(a.w[r * a.P + p], a.k0[r * a.k_stride + n]);
        SSM_ASSERT(sum_at_most(add, product(a.v[r * a.P + p], a.k[r * a.k_stride + n]), most_sum));
        add += product(a.v[r * a.P + p], a.k[r * a.k_stride + n]);
    }
    return add;
}
// o of the rows from p on, of which `left` are in the head. sum: of h' q, with `s` fraction bits more than Q16.
template <class W>
SSM_ALWAYS void head_read(const HeadScanQ& a, ptrdiff_t r, ptrdiff_t p, int32_t left, const W& sum,
                          int32_t s) noexcept {
    using L = wide<W>;
    const W D = a.D_step == 0 ? L::set(a.D[0]) : L::load(a.D + p, left), x = L::load(a.x + r * a.P + p, left);
    SSM_ASSERT(between(s, 9, 40) && at_most(sum, most_sum));
    const int64_t half = int64_t(1) << (s - 1);
    L::store(a.o + r * a.P + p, within(W(L::rs(sum, s, half) + rs<16>(L::mul(D, x))), int_max), left);
}
// Row p of numbers: the definition.
SSM_INLINE bool scan_row_q(const HeadScanQ& a, ptrdiff_t p) noexcept {
    bool           hit = false;
    int64_t        sum[max_mimo_rank] = {};
    const int32_t* h = a.h_in + p * a.N;
    for (ptrdiff_t n = 0; n < a.N; ++n) {
        const int32_t alpha = a.alpha_each != nullptr ? a.alpha_each[n] : a.alpha;
        const int32_t x = limit_q(next_h(alpha, h[n], head_add(a, p, n)), a.clip, &hit);
        if (a.h_out != nullptr) a.h_out[p * a.N + n] = x;
        for (ptrdiff_t r = 0; r < a.ranks; ++r) {
            SSM_ASSERT(sum_at_most(sum[r], product(x, a.q[r * a.k_stride + n]), most_sum));
            sum[r] += product(x, a.q[r * a.k_stride + n]);
        }
    }
    for (ptrdiff_t r = 0; r < a.ranks; ++r) head_read<int64_t>(a, r, p, 1, sum[r], 25);
    return hit;
}

// Parts of words, so that a state's bytes mean the same on every machine.
SSM_INLINE int32_t code_at(const int32_t* words, size_t i) noexcept {
    return int16_t(uint32_t(words[i / 2]) >> 16 * (i % 2));
}
SSM_INLINE void set_code(int32_t* words, size_t i, int32_t v) noexcept {
    const int      shift = int(16 * (i % 2));
    const uint32_t w = uint32_t(words[i / 2]) & ~(0xffffu << shift);
    words[i / 2] = int32_t(w | (uint32_t(v) & 0xffffu) << shift);
}
SSM_INLINE int32_t exponent_at(const int32_t* words, size_t i) noexcept {
    return int32_t(uint32_t(words[i / 4]) >> 8 * (i % 4) & 255u);
}
SSM_INLINE void set_exponent(int32_t* words, size_t i, int32_t v) noexcept {
    const int      shift = int(8 * (i % 4));
    const uint32_t w = uint32_t(words[i / 4]) & ~(0xffu << shift);
    words[i / 4] = int32_t(w | uint32_t(v) << shift);
}
// Row p of codes. |alpha code| <= 2^45, shifted left by at most 7 bits.
SSM_LOCAL bool scan_codes(const HeadScanQ& a, ptrdiff_t p) noexcept {
    const int64_t bound = int64_t(a.clip) << 21;
    const size_t  row = size_t(a.row + p), first = row * size_t(a.N);
    const int32_t X = 40 - exponent_at(a.X_in, row);
    uint64_t      top = 0;
    bool          hit = false;
    int64_t       sum[max_mimo_rank] = {};
    SSM_ASSERT(between(X, 9, 40));
    for (ptrdiff_t n = 0; n < a.N; ++n) {
        const int32_t alpha = a.alpha_each != nullptr ? a.alpha_each[n] : a.alpha;
        SSM_ASSERT(between(alpha, 0, one_q30) && at_most(code_at(a.h_in, first + size_t(n)), 32767));
        const int64_t x = rs(product(alpha, code_at(a.h_in, first + size_t(n))), X - 16) + head_add(a, p, n);
        const int64_t v = x > bound ? bound : x < -bound ? -bound : x;
        hit |= v != x;
        a.wide_row[n] = v;
        top |= uint64_t(v < 0 ? -v : v); // its bit length is that of the largest
    }
    const int32_t s = bit_length(top) > 21 ? bit_length(top) - 15 : 6;
    SSM_ASSERT(between(s, 6, 37)); // the new exponent, 46 - s: 9 .. 40
    for (ptrdiff_t n = 0; n < a.N; ++n) {
        const int32_t code = sat(rs(a.wide_row[n], s), 32767);
        if (a.h_out != nullptr) set_code(a.h_out, first + size_t(n), code);
        for (ptrdiff_t r = 0; r < a.ranks; ++r) {
            SSM_ASSERT(sum_at_most(sum[r], product(code, a.q[r * a.k_stride + n]), most_sum));
            sum[r] += product(code, a.q[r * a.k_stride + n]);
        }
    }
    if (a.h_out != nullptr) set_exponent(a.X_out, row, s - 6);
    for (ptrdiff_t r = 0; r < a.ranks; ++r) head_read<int64_t>(a, r, p, 1, sum[r], 46 - s);
    return hit;
}

#ifdef SSM_DEBUG
// How many numbers a scan will limit. The state has not moved yet.
SSM_LOCAL uint64_t clips_of(const HeadScanQ& a) noexcept {
    uint64_t count = 0;
    for (ptrdiff_t p = 0; p < a.P; ++p)
        for (ptrdiff_t n = 0; n < a.N; ++n) {
            const int32_t alpha = a.alpha_each != nullptr ? a.alpha_each[n] : a.alpha;
            const int64_t add = head_add(a, p, n);
            const size_t  row = size_t(a.row + p), i = row * size_t(a.N) + size_t(n);
            count += a.X_in == nullptr
                         ? !at_most(next_h(alpha, a.h_in[p * a.N + n], add), a.clip)
                         : !at_most(rs(product(alpha, code_at(a.h_in, i)), 24 - exponent_at(a.X_in, row)) + add,
                                    int64_t(a.clip) << 21);
        }
    return count;
}
SSM_LOCAL uint64_t clips_of(const S4dScanQ& a) noexcept {
    uint64_t count = 0;
    int32_t  x[max_d_state];
    for (ptrdiff_t h = 0; h < a.H; ++h) {
        copy(x, a.h_in + h * a.modes * 2, size_t(a.modes) * 8);
        for (ptrdiff_t t = 0; t < a.T; ++t)
            for (ptrdiff_t k = 0, at = h * a.modes * 8; k < 2 * a.modes; k += 2, at += 8) {
                const int32_t ar = int32_t(load_u32(a.a + at)), ai = int32_t(load_u32(a.a + at + 4));
                const int32_t br = int32_t(load_u32(a.b + at)), bi = int32_t(load_u32(a.b + at + 4));
                const int32_t u = a.u[t * a.stride + h];
                const int64_t r = rs<30>(product(ar, x[k]) - product(ai, x[k + 1])) + rs(product(br, u), a.b_shift);
                const int64_t i = rs<30>(product(ar, x[k + 1]) + product(ai, x[k])) + rs(product(bi, u), a.b_shift);
                count += uint64_t(!at_most(r, a.clip)) + uint64_t(!at_most(i, a.clip));
                x[k] = sat(r, a.clip), x[k + 1] = sat(i, a.clip);
            }
    }
    return count;
}
#endif
SSM_INLINE void count_clips(const Row<int32_t>& a, const HeadScanQ& s) noexcept {
#ifdef SSM_DEBUG
    if (a.counts != nullptr) a.counts->clipped += clips_of(s);
#endif
    (void)a, (void)s;
}

// ---- Loops over numbers

template <class W> SSM_INLINE W sat_q(const W& x) noexcept {
#if defined(__CUDA_ARCH__)
    return sat(x);
#else
    return within(x, int_max);
#endif
}

// The largest |x| of n int32 in the file's byte order.
template <class W> SSM_INLINE uint32_t largest_q(const void* x, ptrdiff_t n) noexcept {
    using L = wide<W>;
    using V = typename L::halves;
    const unsigned char* p = static_cast<const unsigned char*>(x);
    V                    top = {}, low = {};
    ptrdiff_t            i = 0;
    uint32_t             out = 0;
    for (; i + 2 * L::count <= n; i += 2 * L::count) L::widen(&top, &low, L::raw(p + i * 4));
    out = L::largest(L::sizes(top, low));
    for (; i < n; ++i) {
        const uint32_t v = size_of(int32_t(load_u32(p + i * 4)));
        out = v > out ? v : out;
    }
    return out;
}
// r = sat(r + v).
template <class W> SSM_INLINE void add_loop_q(int32_t* r, const int32_t* v, int32_t n) noexcept {
    using L = wide<W>;
    for (int32_t i = 0; i < n; i += L::count)
        L::store(r + i, sat_q(W(L::load(r + i, n - i) + L::load(v + i, n - i))), n - i);
}
template <class W> SSM_INLINE void gelu_loop_q(int32_t* y, const int32_t* x, int32_t n) noexcept {
    by_eights<W>(n, [=](auto as, int32_t i) SSM_BODY {
        using L = wide<typename decltype(as)::type>;
        L::store(y + i, gelu_q(L::load(x + i, n - i)), n - i);
    });
}
// r = sat(r + rs(v[0..n) sigmoid(v[n..2n)), 30)).
template <class W> SSM_INLINE void glu_loop_q(int32_t* r, const int32_t* v, int32_t n) noexcept {
    by_eights<W>(n, [=](auto as, int32_t i) SSM_BODY {
        using L = wide<typename decltype(as)::type>;
        const auto gated = rs<30>(L::mul(L::load(v + i, n - i), sigmoid_q(to26(L::load(v + n + i, n - i)))));
        L::store(r + i, sat_q(L::load(r + i, n - i) + gated), n - i);
    });
}
// x silu(z), Q16: |x silu(z)| <= 2^62.
template <class W> SSM_INLINE W gated_q(const W& x, const W& z) noexcept {
    SSM_ASSERT(at_most(x, int_max));
    return sat_q(rs<16>(wide<W>::mul(x, silu_q(z))));
}
template <class W> SSM_INLINE void gate_loop_q(int32_t* y, const int32_t* x, const int32_t* z, int32_t n) noexcept {
    by_eights<W>(n, [=](auto as, int32_t i) SSM_BODY {
        using L = wide<typename decltype(as)::type>;
        L::store(y + i, gated_q(L::load(x + i, n - i), L::load(z + i, n - i)), n - i);
    });
}
template <class W>
SSM_INLINE void conv_loop_q(int32_t* y, const int32_t* const* taps, const int32_t* w, const int32_t* bias, int32_t K,
                            int32_t n) noexcept {
    by_eights<W>(n, [=](auto as, int32_t i) SSM_BODY {
        using L = wide<typename decltype(as)::type>;
        auto sum = L::set(0);
        for (int32_t k = 0; k < K; ++k)
            sum = sum + rs<16>(L::mul(L::load(taps[k] + i, n - i), L::load(w + ptrdiff_t(k) * n + i, n - i)));
        SSM_ASSERT(at_most(sum, int64_t(max_d_conv) << 46));
        if (bias != nullptr) sum = sum + L::load(bias + i, n - i);
        L::store(y + i, silu_q(sat_q(sum)), n - i);
    });
}

// The norms: with c = x - mean (or x), at most 33 bits, w = rs(c, k) at most 2^24, n <= 16,384:
//     ss = sum w^2 / n + eps, eps 1e-5 in Q32;  y = sat(rs(rs(w / sqrt(ss)) g, s) + b)
// sum w^2 <= 2^62; w / sqrt(ss) is Q24 and at most 2^24 sqrt(n), with a mean 2^24 sqrt(n - 1): int32, but of a widest
// row without a mean, for which W is int64_t.
SSM_INLINE int64_t mean_q(int64_t sum, int32_t n) noexcept { // rounded down from a half more
    SSM_ASSERT(at_most(sum, int64_t(1) << 45));
    return floor_quotient(sum + n / 2, n);
}
// k, then 1 / sqrt(ss) = r 2^-30 2^-E, then y of each c.
struct NormQ {
    int64_t half, r = 0, unit_half = 0, y_half;
    int32_t k, E = 0, s;
    SSM_INLINE NormQ(int32_t length, int32_t y_shift) noexcept : s(y_shift) { // bits of the largest |c|
        k = length > 24 ? length - 24 : 0, half = k > 0 ? int64_t(1) << (k - 1) : 0, y_half = int64_t(1) << (s - 1);
    }
    template <class W> SSM_ALWAYS W small(const W& c) const noexcept { return wide<W>::rs(c, k, half); } // w
    SSM_INLINE void                 finish(int64_t sum, int32_t n) noexcept { // of w^2
        const int64_t ss = floor_quotient(sum, n) + (42950 >> 2 * k);
        r = rsqrt_q(ss > 0 ? ss : 1, &E), unit_half = int64_t(1) << (5 + E);
    }
    template <class W, bool narrow = (wide<W>::count > 1)> // narrow: c root fits 32 bits
    SSM_ALWAYS W number(const W& c, const W& root, const W& g, const W& b) const noexcept {
        using L = wide<W>;
        const W p = L::mul(small(c), root) + unit_half, unit = narrow ? L::lsr(p, 6 + E) : L::shr(p, 6 + E);
        SSM_ASSERT(product_at_most(unit, g, (int64_t(1) << 62) + (int64_t(1) << 36)));
        return sat_q(W(L::rs(narrow ? L::mul(unit, g) : W(unit * g), s, y_half) + b));
    }
};
template <class W, bool Centred>
SSM_INLINE W centred_q(const int32_t* x, int32_t i, int32_t n, int64_t mean) noexcept { // past the end: nothing
    using L = wide<W>;
    W v = L::load(x + i, n - i);
    if (!Centred) return v;
    v = v - mean;
    if (n - i < L::count) {
        int64_t lane[size_t(L::count)];
        SSM_MEMCPY(lane, &v, sizeof v);
        for (int32_t k = n - i; k < L::count; ++k) lane[k] = 0;
        SSM_MEMCPY(&v, lane, sizeof v);
    }
    return v;
}
template <class W, bool Centred>
SSM_INLINE void norm_loop_q(int32_t* y, const int32_t* x, const int32_t* g, const int32_t* b, int32_t n,
                            int32_t s) noexcept {
    using L = wide<W>;
    int64_t mean = 0, lane[size_t(L::count)];
    for (int32_t i = 0; Centred && i < n; ++i) mean += x[i];
    if (Centred) mean = mean_q(mean, n);
    const auto joined = [&](const W& v, auto op) {
        SSM_MEMCPY(lane, &v, sizeof v);
        for (int32_t k = 1; k < L::count; ++k) lane[0] = op(lane[0], lane[k]);
        return lane[0];
    };
    W bits = L::set(0), sum = L::set(0);
    for (int32_t i = 0; i < n; i += L::count) {
        const W v = centred_q<W, Centred>(x, i, n, mean);
        SSM_ASSERT(at_most(v, int64_t(1) << 32));
        bits = bits | most(v, W(-v)); // the bit length is that of the largest
    }
    NormQ norm(bit_length(uint64_t(joined(bits, [](int64_t p, int64_t q) { return p | q; }))), s);
    for (int32_t i = 0; i < n; i += L::count) {
        const W w = norm.small(centred_q<W, Centred>(x, i, n, mean));
        SSM_ASSERT(at_most(w, 1 << 24) && sum_at_most(sum, L::mul(w, w), int64_t(1) << 62));
        sum = sum + L::mul(w, w);
    }
    norm.finish(joined(sum, [](int64_t p, int64_t q) { return p + q; }), n);
    const W r = L::set(norm.r), none = L::set(0);
    for (int32_t i = 0; i < n; i += L::count)
        L::store(y + i,
                 norm.number(centred_q<W, Centred>(x, i, n, mean), r, L::load(g + i, n - i),
                             b != nullptr ? L::load(b + i, n - i) : none),
                 n - i);
}
template <class W>
SSM_INLINE void rms_norm_loop_q(int32_t* y, const int32_t* x, const int32_t* g, int32_t n, int32_t s) noexcept {
    if (n == max_width) norm_loop_q<int64_t, false>(y, x, g, nullptr, n, s);
    else norm_loop_q<W, false>(y, x, g, nullptr, n, s);
}

// ---- Mamba cells

// dt of W heads or channels: Q26, 0 .. 22.
template <class W> SSM_INLINE W step_size_q(const W& raw, const W& bias, int32_t dt) noexcept {
    using L = wide<W>;
    const W v = softplus_q(within(W(to26(raw) + bias), dt_limit));
    SSM_ASSERT(between(v, 0, dt_limit) && between(dt, 1, int_max));
    return least(rs_low<16>(L::mul(v, L::set(dt))), L::set(dt_limit)); // the product is at most 2^61.5
}
// exp(-rate dt), Q30; rate in Q(s), int32.
template <int S, class W> SSM_INLINE W decay_q(const W& rate, const W& dt) noexcept {
    SSM_ASSERT(between(rate, 0, int_max) && between(dt, 0, dt_limit)); // their product is at most 2^61.5
    return exp_neg(least(rs_low<S>(wide<W>::mul(rate, dt)), wide<W>::set(dt_limit)));
}
// a b, Q16 each or `s` fraction bits to drop; at most 2^62.
template <int S, class W> SSM_INLINE W times_q(const W& a, const W& b) noexcept {
    SSM_ASSERT(at_most(a, int_max) && at_most(b, int_max));
    return sat_q(rs<S>(wide<W>::mul(a, b)));
}
// y = sat(rs(x by, 16)) for n numbers, by >= 0. Where nothing saturates, 32 bits of what is shifted are all.
template <class W> SSM_INLINE void times_loop_q(int32_t* y, const int32_t* x, int32_t by, int32_t n) noexcept {
    using L = wide<W>;
    const W factor = L::set(by);
    int32_t i = 0;
    if constexpr (L::count > 1)
        if (uint64_t(largest_q<W>(x, n)) * uint64_t(by) < uint64_t(1) << 46) {
            const W half = L::set(1 << 15);
            for (; n - i >= 2 * L::count; i += 2 * L::count) {
                const W v = L::raw(x + i), even = L::mul(v, factor) + half, odd = L::mul(L::odd(v), factor) + half;
                L::put(y + i, L::blend(L::lsr(even, 16), L::up(odd, 16)));
            }
        }
    for (; i < n; i += L::count) L::store(y + i, times_q<16>(L::load(x + i, n - i), factor), n - i);
}
// Mamba-3's numbers of a head: dt, beta, gamma in Q26, alpha and lambda in Q30; A in Q26.
template <class W> struct HeadNumbersQ {
    W dt, alpha, beta, gamma;
    SSM_ALWAYS HeadNumbersQ(const W& raw, const W& bias, const W& A, const W& trap, int32_t since) noexcept {
        using L = wide<W>;
        dt = step_size_q(raw, bias, since), alpha = decay_q<26>(A, dt);
        const W lambda = sigmoid_q(to26(trap));
        gamma = rs_low<30>(L::mul(lambda, dt));
        beta = rs_low<30>(L::mul(rs_low<30>(L::mul(alpha, dt)), W(one_q30 - lambda)));
    }
};
SSM_INLINE int64_t* wide_at(int32_t* p) noexcept { // the next place for a 64-bit number
    return reinterpret_cast<int64_t*>((reinterpret_cast<uintptr_t>(p) + 7) / 8 * 8);
}
// A scan of one rank without a step before, over the layer's rows of N from `row` on; the caller fills in the rest.
SSM_INLINE void of_state(HeadScanQ* s, const Row<int32_t>& a, size_t row) noexcept {
    const Config& c = SSM_KNOWN(*a.c);
    const Parts   at = parts_of(c);
    const bool    codes = c.state == StateType::i16rowexp;
    const size_t  first = codes ? at.h : at.h + row * size_t(c.d_state);
    s->h_in = a.state + first, s->h_out = a.next != nullptr ? a.next + first : nullptr;
    s->X_in = codes ? a.state + at.exponents : nullptr;
    s->X_out = codes && a.next != nullptr ? a.next + at.exponents : nullptr;
    s->row = codes ? ptrdiff_t(row) : 0;
    s->w = s->k0 = s->alpha_each = nullptr, s->alpha = 0, s->D_step = 0, s->k_stride = 0;
    s->clip = c.clip_q25, s->N = c.d_state, s->P = c.headdim, s->ranks = 1;
}

template <class W> SSM_INLINE bool mamba1_q(const Row<int32_t>& a) noexcept {
    using L = wide<W>;
    const Config&              c = SSM_KNOWN(*a.c);
    const MambaLayer<int32_t>& l = *a.layer;
    const int32_t              di = c.d_inner, N = c.d_state;
    const int32_t *            x = a.p, *z = x + di, *B = z + di + c.dt_rank, *C = B + N, *raw = C + N;
    int64_t*                   row = wide_at(a.work);
    int32_t *                  k = reinterpret_cast<int32_t*>(row + N), *q = k + N, *alpha = q + N, *dt = alpha + N;
    const bool                 before = a.does(a.before);
    const int32_t              end = a.what == a.all || a.end * 8 > di ? di : a.end * 8;
    bool                       hit = false;
    if (a.has_own()) row = wide_at(a.own), alpha = reinterpret_cast<int32_t*>(row + N);
    for (int32_t n = 0; before && n < N; ++n) k[n] = sat(int64_t(B[n]) * 16, 1 << 27), q[n] = sat(C[n], 1 << 23);
    for (int32_t i = 0; before && i < di; i += L::count)
        L::store(dt + i, step_size_q(L::load(raw + i, di - i), L::load(l.dt_bias + i, di - i), a.dt), di - i);
    for (int32_t i = a.first * 8; a.does(a.heads) && i < end; ++i) {
        int32_t v = sat(rs<16>(product(dt[i], x[i])));
        for (int32_t n = 0; n < N; n += L::count)
            L::store(alpha + n, decay_q<24>(L::load(l.A + ptrdiff_t(i) * N + n, N - n), L::set(dt[i])), N - n);
        HeadScanQ s;
        of_state(&s, a, size_t(i));
        s.v = &v, s.k = k, s.q = q, s.x = x + i, s.D = l.D + i, s.o = a.y + i, s.alpha_each = alpha, s.wide_row = row;
        s.P = 1;
        count_clips(a, s);
        hit |= a.kernels->scan_q(s);
    }
    if (a.does(a.after)) a.engine().gate(a.y, a.y, z, di);
    return hit;
}

template <class W> SSM_INLINE bool mamba2_q(const Row<int32_t>& a) noexcept {
    using L = wide<W>;
    const Config&              c = SSM_KNOWN(*a.c);
    const MambaLayer<int32_t>& l = *a.layer;
    const int32_t              m = c.d_inner - c.d_ssm, H = c.nheads, P = c.headdim, N = c.d_state;
    const ptrdiff_t            GN = ptrdiff_t(c.ngroups) * N;
    const int32_t *            x = a.p + 2 * m + c.d_ssm, *B = x + c.d_ssm, *C = B + GN, *raw = C + GN;
    int64_t*                   row = wide_at(a.work);
    int32_t *k = reinterpret_cast<int32_t*>(row + N), *q = k + GN, *dt = q + GN, *alpha = dt + padded(H),
            *v = alpha + padded(H);
    int32_t*      y = a.y + m;
    const bool    before = a.does(a.before);
    const int32_t end = a.what == a.all ? H : a.end;
    bool          hit = false;
    if (a.has_own()) row = wide_at(a.own), v = reinterpret_cast<int32_t*>(row + N);
    for (ptrdiff_t n = 0; before && n < GN; ++n) k[n] = sat(int64_t(B[n]) * 16, 1 << 27), q[n] = sat(C[n], 1 << 23);
    for (int32_t h = 0; before && h < H; h += L::count) {
        const W step = step_size_q(L::load(raw + h, H - h), L::load(l.dt_bias + h, H - h), a.dt);
        L::store(dt + h, step, H - h);
        L::store(alpha + h, decay_q<24>(L::load(l.A + h, H - h), step), H - h);
    }
    for (int32_t h = a.first; a.does(a.heads) && h < end; ++h) {
        const ptrdiff_t hp = ptrdiff_t(h) * P, g = ptrdiff_t(h / (H / c.ngroups)) * N;
        times_loop_q<W>(v, x + hp, dt[h], P);
        HeadScanQ s;
        of_state(&s, a, size_t(hp));
        s.v = v, s.k = k + g, s.q = q + g, s.x = x + hp, s.D = l.D + hp, s.D_step = 1, s.o = y + hp, s.wide_row = row;
        s.alpha = alpha[h];
        count_clips(a, s);
        hit |= a.kernels->scan_q(s);
    }
    if (a.does(a.after)) gate_mamba2(a);
    return hit;
}

// What mamba3_q() leaves in a row's work space; the tracer reads it.
struct Mamba3WorkQ {
    int64_t* row;                           // [N]
    int32_t *dt, *A, *alpha, *beta, *gamma; // [H padded] each
    int32_t *turn, *theta, *normed, *B, *C; // [S] each, [N], [R][G][N'] each
    int32_t *k, *q;                         // [R][H][N'] each
    int32_t *x, *before, *v, *w, *o;        // [R][P padded] each
    SSM_HD Mamba3WorkQ([[maybe_unused]] const Config& config, int32_t* at, int32_t* own = nullptr) noexcept {
        const Config& c = SSM_KNOWN(config);
        const size_t  N = size_t(c.d_state), H = padded(c.nheads), RP = size_t(c.mimo_rank) * padded(c.headdim);
        const size_t RGN = size_t(c.mimo_rank) * size_t(c.ngroups) * N, kn = head_kn(c);
        row = wide_at(at), dt = reinterpret_cast<int32_t*>(row + N), A = dt + H, alpha = A + H, beta = alpha + H;
        gamma = beta + H, turn = gamma + H, theta = turn + padded(c.rope_angles),
        normed = theta + padded(c.rope_angles), B = normed + padded(c.d_state);
        C = B + RGN, k = C + RGN, q = k + kn, x = q + kn;
        if (own != nullptr)
            row = wide_at(own), theta = reinterpret_cast<int32_t*>(row + N), x = theta + padded(c.rope_angles);
        before = x + RP, v = before + RP, w = v + RP, o = w + RP;
    }
};
// 1 + dd_A, or 1 / (1 - dd_A) below 0, or softplus; at least the floor. Q26, int32.
SSM_INLINE int32_t rate_q(const Config& c, int32_t dd_A) noexcept {
    int64_t A;
    if (c.softplus_A) A = softplus_q<int64_t>(to26(int64_t(dd_A)));
    else if (dd_A >= 0) A = (65536 + int64_t(dd_A < 31 * 65536 - 1 ? dd_A : 31 * 65536 - 1)) * 1024;
    else A = int64_t(quotient(uint64_t(1) << 42, uint64_t(65536 - int64_t(dd_A > -(1 << 29) ? dd_A : -(1 << 29)))));
    SSM_ASSERT(between(A, 0, int_max));
    return int32_t(A > c.A_floor_q26 ? A : c.A_floor_q26);
}
template <class W> SSM_INLINE W biased_q(const int32_t* normed, const int32_t* bias, int32_t n, int32_t left) noexcept {
    return within(W(wide<W>::load(normed + n, left) + wide<W>::load(bias + n, left)), int64_t(1) << 27);
}
template <class W> SSM_INLINE W moved_q(const W& theta, const W& turn, const W& dt) noexcept { // `low`
    return W(theta + rs<25>(wide<W>::mul(turn, dt)));
}
// Bias and rotation of one pair of B (bits = 0: Q20) or C (4: Q16); numbers n and n + S of a rank.
template <class W, int bits>
SSM_ALWAYS void turn_pair_q(int32_t* to, const int32_t* normed, const int32_t* bias, int32_t n, int32_t S, const W& sin,
                            const W& cos) noexcept {
    using L = wide<W>;
    const W u = biased_q<W>(normed, bias, n, S - n), v = biased_q<W>(normed, bias, S + n, S - n);
    const W first = L::mul(u, cos) - L::mul(v, sin), second = L::mul(u, sin) + L::mul(v, cos); // at most 2^57.51
    SSM_ASSERT(at_most(first, k_bound * one_q30) && at_most(second, k_bound * one_q30));
    L::store(to + n, bits == 0 ? rs_low<30>(first) : rs_low<4>(rs<30>(first)), S - n);
    L::store(to + S + n, bits == 0 ? rs_low<30>(second) : rs_low<4>(rs<30>(second)), S - n);
}
// Bias and rotation of B and C of head h, of all ranks: k in Q20, q in Q16. theta: the head's new angles.
template <class W>
SSM_INLINE void turn_head_q(const Row<int32_t>& a, const Mamba3WorkQ& w, int32_t h, const int32_t* theta) noexcept {
    using L = wide<W>;
    const Config&              c = SSM_KNOWN(*a.c);
    const MambaLayer<int32_t>& l = *a.layer;
    const int32_t              S = c.rope_angles, N = c.d_state, R = c.mimo_rank;
    const ptrdiff_t            G = c.ngroups, g = h / (c.nheads / c.ngroups);
    for (int32_t s = 0; s < S; s += L::count) {
        const W p = L::load(theta + s, S - s), sin = sin_turn(p), cos = cos_turn(p);
        for (ptrdiff_t r = 0; r < R; ++r) {
            const ptrdiff_t from = (r * G + g) * N, bias = (ptrdiff_t(h) * R + r) * N, to = (r * c.nheads + h) * N;
            turn_pair_q<W, 0>(w.k + to, w.B + from, l.B_bias + bias, s, S, sin, cos);
            turn_pair_q<W, 4>(w.q + to, w.C + from, l.C_bias + bias, s, S, sin, cos);
        }
    }
    for (ptrdiff_t r = 0; r < R; ++r) {
        const ptrdiff_t from = (r * G + g) * N, bias = (ptrdiff_t(h) * R + r) * N, to = (r * c.nheads + h) * N;
        for (int32_t n = 2 * S; n < N; n += L::count) {
            L::store(w.k + to + n, biased_q<W>(w.B + from, l.B_bias + bias, n, N - n), N - n);
            L::store(w.q + to + n, rs_low<4>(biased_q<W>(w.C + from, l.C_bias + bias, n, N - n)), N - n);
        }
    }
}

// The numbers of all heads and tanh(angle). A kernel of its own: its constants are many, and leave the stack with it.
template <class W> SSM_INLINE void head_numbers_q(const Row<int32_t>& a) noexcept {
    using L = wide<W>;
    const Config&              c = SSM_KNOWN(*a.c);
    const MambaLayer<int32_t>& l = *a.layer;
    const int32_t              H = c.nheads, S = c.rope_angles;
    const Mamba3In<int32_t>    in{c, a.p};
    const Mamba3WorkQ          w(c, a.work, a.own);
    for (int32_t s = 0; s < S; s += L::count) L::store(w.turn + s, tanh_q(to26(L::load(in.angle + s, S - s))), S - s);
    for (int32_t h = 0; h < H; ++h) w.A[h] = rate_q(c, in.dd_A[h]);
    for (int32_t h = 0; h < H; h += L::count) {
        const HeadNumbersQ<W> of(L::load(in.dd_dt + h, H - h), L::load(l.dt_bias + h, H - h), L::load(w.A + h, H - h),
                                 L::load(in.trap + h, H - h), a.dt);
        L::store(w.dt + h, of.dt, H - h), L::store(w.alpha + h, of.alpha, H - h);
        L::store(w.gamma + h, of.gamma, H - h), L::store(w.beta + h, of.beta, H - h);
    }
}
template <class W> SSM_INLINE bool mamba3_q(const Row<int32_t>& a) noexcept {
    using L = wide<W>;
    const Config&              c = SSM_KNOWN(*a.c);
    const MambaLayer<int32_t>& l = *a.layer;
    const int32_t              H = c.nheads, P = c.headdim, N = c.d_state, R = c.mimo_rank, S = c.rope_angles;
    const ptrdiff_t            HN = ptrdiff_t(H) * N;
    const Mamba3In<int32_t>    in{c, a.p};
    const Mamba3WorkQ w(c, a.work, a.own);
    const Parts                at = parts_of(c);
    const int32_t     end = a.what == a.all ? H : a.end;
    bool                       hit = false;

    // 1. B and C, in Q20; numbers of the heads.
    if (a.does(a.before)) {
        norm_B_C(a, in, w);
        a.kernels->mamba3_heads_q(a);
    }

    // 2. Angles move on by tanh(angle) dt / 2 turns, B and C get their biases and turn.
    for (int32_t h = a.first; a.does(a.heads) && h < end; ++h) {
        int32_t* const to = a.next != nullptr ? a.next + at.angle + ptrdiff_t(h) * S : w.theta;
        for (int32_t s = 0; s < S; s += L::count) {
            const W from = L::load(a.state + at.angle + ptrdiff_t(h) * S + s, S - s);
            L::store(to + s, moved_q(from, L::load(w.turn + s, S - s), L::set(w.dt[h])), S - s);
        }
        turn_head_q<W>(a, w, h, to);
    }

    // 3. Head by head: inputs in Q26, update and read-out, gate.
    for (int32_t h = a.first; a.does(a.heads) && h < end; ++h) {
        const ptrdiff_t hp = ptrdiff_t(h) * P, mimo = hp * R;
        const int32_t * x = in.x + hp, *old = a.state + at.v + hp;
        if (c.is_mimo) {
            for (int32_t r = 0; r < R; ++r)
                for (int32_t p = 0; p < P; p += L::count) {
                    const ptrdiff_t i = ptrdiff_t(r) * P + p;
                    const W         by = L::load(l.mimo_x + mimo + i, P - p);
                    L::store(w.x + i, times_q<16>(L::load(x + p, P - p), by), P - p);
                    L::store(w.w + i, times_q<16>(L::load(old + p, P - p), by), P - p);
                }
            x = w.x, old = w.w;
        }
        times_loop_q<W>(w.v, x, w.gamma[h], R * P), times_loop_q<W>(w.w, old, w.beta[h], R * P);
        HeadScanQ s;
        of_state(&s, a, size_t(hp));
        s.w = w.w, s.v = w.v, s.x = x, s.k0 = a.state + at.k + ptrdiff_t(h) * N, s.k = w.k + ptrdiff_t(h) * N;
        s.q = w.q + ptrdiff_t(h) * N, s.k_stride = HN, s.D = l.D + h, s.o = c.is_mimo ? w.o : a.y + hp,
        s.wide_row = w.row;
        s.alpha = w.alpha[h], s.ranks = R;
        count_clips(a, s);
        hit |= a.kernels->scan_q(s);
        for (ptrdiff_t r = 0; c.is_outproj_norm && r < R; ++r)
            a.engine().rms_norm(s.o + r * P, s.o + r * P, l.gate_norm + hp, P, 24);
        if (!c.is_mimo) continue;
        // The gates take the place of the inputs, which are done with.
        for (int32_t r = 0; r < R; ++r)
            for (int32_t p = 0; p < P; p += L::count) {
                const ptrdiff_t i = ptrdiff_t(r) * P + p;
                L::store(w.x + i, times_q<16>(L::load(in.z + hp + p, P - p), L::load(l.mimo_z + mimo + i, P - p)),
                         P - p);
            }
        a.engine().gate(w.o, w.o, w.x, R * P);
        for (int32_t p = 0; p < P; p += L::count) {
            W sum = L::set(0);
            for (int32_t r = 0; r < R; ++r) {
                const ptrdiff_t i = ptrdiff_t(r) * P + p;
                sum = sum + rs<16>(L::mul(L::load(w.o + i, P - p), L::load(l.mimo_o + mimo + i, P - p)));
            }
            SSM_ASSERT(at_most(sum, int64_t(max_mimo_rank) << 46));
            L::store(a.y + hp + p, sat_q(sum), P - p);
        }
    }
    if (!a.does(a.after)) return hit;
    if (!c.is_mimo) a.engine().gate(a.y, a.y, in.z, c.d_inner);
    if (a.next != nullptr)
        copy(a.next + at.k, w.k, size_t(R * HN) * 4), copy(a.next + at.v, in.x, size_t(c.d_inner) * 4);
    return hit;
}

template <Arch A, class W> SSM_INLINE bool mamba_row_q(const Row<int32_t>& row) noexcept {
    if constexpr (!in_build(A)) return (void)row, false;
    else if constexpr (A == Arch::mamba1) return mamba1_q<W>(row);
    else if constexpr (A == Arch::mamba2) return mamba2_q<W>(row);
    else return mamba3_q<W>(row);
}
SSM_DETAIL_END
// ---- 9. Back-ends ---------------------------------------------------------------------------------------------------
//
// Each is a struct that inherits the scalar kernels and hides those it does better, with the same bits. The only place
// in this file with an intrinsic. Exports scalar, avx2, avxvnni, avx512, sse42, neon, dotprod, i8mm,
// simd128, and of integer models alone dsp, helium, rvv.
//
// To add one:
//  1. Here, its struct: `name`, and as static functions, called as Kernels and EngineKernels say (of integers with a
//     _q behind), the kernels it does better; it inherits all others. If its vectors have 128 bits, most of it is
//     there: inherit vectors128, having said how 64-bit lanes multiply (wide<i64x2>) and how codes do (Dot); all loops
//     follow from that.
//  2. In section 2, when it can be built, and what its functions need to be compiled with.
//  3. A place at the end of Isa, a name in isa_name(), and a line in kernels_of() before what is slower.
//  4. A word in the Manual; in tests/cross.sh a target that has it, best beside one that falls back.
// Tests ask isa_runs_here(), so they find it: tests/kernels.cpp and tests/int_kernels.cpp hold every kernel against the
// scalar one or plain loops, at all lengths, alignments and limits, at the end of memory; tests/back_ends.cpp changes
// back-ends in mid-stream, and has a toy that is made this way; `ssm selftest` and `make cross` compare models. Where
// no operating system is, `make cross CROSS=kernels` runs the kernels.

SSM_DETAIL_BEGIN

// The kernels that are one loop for any type of number, said once: ATTR is what lets a function use the instructions.
#define SSM_FLOAT_LOOPS(ATTR, TYPE)                                                                                    \
    static ATTR void s4d_discretize(float* ab, const float* rho, const double* turns, const float* gain, float dt,     \
                                    Disc disc, int32_t count) {                                                        \
        discretize_loop<TYPE>(ab, rho, turns, gain, dt, disc, count);                                                  \
    }                                                                                                                  \
    static ATTR void add(float* r, const float* v, int32_t n) { add_loop<TYPE>(r, v, n); }                             \
    static ATTR void gelu(float* y, const float* x, int32_t n) { gelu_loop<TYPE>(y, x, n); }                           \
    static ATTR void glu(float* r, const float* v, int32_t n) { glu_loop<TYPE>(r, v, n); }                             \
    static ATTR void layer_norm(float* y, const float* x, const float* weight, const float* bias, int32_t n) {         \
        layer_norm_loop<TYPE>(y, x, weight, bias, n);                                                                  \
    }                                                                                                                  \
    static ATTR void rms_norm(float* y, const float* x, const float* weight, int32_t n, int32_t) {                     \
        rms_norm_loop<TYPE>(y, x, weight, n);                                                                          \
    }                                                                                                                  \
    static ATTR void gate(float* y, const float* x, const float* z, int32_t n) { gate_loop<TYPE>(y, x, z, n); }        \
    static ATTR void conv(float* y, const float* const* taps, const float* w, const float* bias, int32_t K,            \
                          int32_t n) {                                                                                 \
        conv_loop<TYPE>(y, taps, w, bias, K, n);                                                                       \
    }
#define SSM_FLOAT_CELLS(ATTR, TYPE)                                                                                    \
    static ATTR bool mamba1(const Row<float>& row) { return mamba_row<Arch::mamba1, TYPE>(row); }                      \
    static ATTR bool mamba2(const Row<float>& row) { return mamba_row<Arch::mamba2, TYPE>(row); }                      \
    static ATTR bool mamba3(const Row<float>& row) { return mamba_row<Arch::mamba3, TYPE>(row); }
#define SSM_INTEGER_LOOPS(ATTR, TYPE)                                                                                  \
    static ATTR void add_q(int32_t* r, const int32_t* v, int32_t n) { add_loop_q<TYPE>(r, v, n); }                     \
    static ATTR void gelu_q(int32_t* y, const int32_t* x, int32_t n) { gelu_loop_q<TYPE>(y, x, n); }                   \
    static ATTR void glu_q(int32_t* r, const int32_t* v, int32_t n) { glu_loop_q<TYPE>(r, v, n); }                     \
    static ATTR void layer_norm_q(int32_t* y, const int32_t* x, const int32_t* weight, const int32_t* bias,            \
                                  int32_t n) {                                                                         \
        norm_loop_q<TYPE, true>(y, x, weight, bias, n, 24);                                                            \
    }                                                                                                                  \
    static ATTR void rms_norm_q(int32_t* y, const int32_t* x, const int32_t* weight, int32_t n, int32_t s) {           \
        rms_norm_loop_q<TYPE>(y, x, weight, n, s);                                                                     \
    }                                                                                                                  \
    static ATTR void gate_q(int32_t* y, const int32_t* x, const int32_t* z, int32_t n) {                               \
        gate_loop_q<TYPE>(y, x, z, n);                                                                                 \
    }                                                                                                                  \
    static ATTR void conv_q(int32_t* y, const int32_t* const* taps, const int32_t* w, const int32_t* bias, int32_t K,  \
                            int32_t n) {                                                                               \
        conv_loop_q<TYPE>(y, taps, w, bias, K, n);                                                                     \
    }                                                                                                                  \
    static ATTR bool mamba1_q(const Row<int32_t>& row) { return mamba_row_q<Arch::mamba1, TYPE>(row); }                \
    static ATTR bool mamba2_q(const Row<int32_t>& row) { return mamba_row_q<Arch::mamba2, TYPE>(row); }                \
    static ATTR bool mamba3_q(const Row<int32_t>& row) { return mamba_row_q<Arch::mamba3, TYPE>(row); }                \
    static ATTR void mamba3_heads_q(const Row<int32_t>& row) { head_numbers_q<TYPE>(row); }

// One resonator, and a bank of them, by K's high() and leaked().
template <class K> struct Resonator {
    uint32_t        yr, yi, zr, zi;
    SSM_ALWAYS void hear(int32_t pr, int32_t pi, int32_t u) noexcept {
        const uint32_t r = K::high_sub(pi, yi, K::high(pr, yr)), i = K::high_add(pr, yi, K::high(pi, yr));
        const uint32_t v = K::high_sub(pi, zi, K::high(pr, zr)), w = K::high_add(pr, zi, K::high(pi, zr));
        yr = uint32_t(u) + 2 * r, yi = 2 * i, zr = yr + 2 * v, zi = yi + 2 * w;
    }
};
template <class K> SSM_ALWAYS void bank_by(const BankQ& a) noexcept {
    for (int32_t k = 0; k < a.K; ++k) {
        int32_t*      s = a.state + 7 * k;
        const int32_t pr = int32_t(load_u32(a.poles + 8 * k)), pi = int32_t(load_u32(a.poles + 8 * k + 4));
        Resonator<K>  one{uint32_t(s[0]), uint32_t(s[1]), uint32_t(s[2]), uint32_t(s[3])};
        int64_t       e = wide_of(s + 4);
        for (const int32_t *u = a.u, *const end = u + a.n; u < end; u += 4) {
            one.hear(pr, pi, u[0]), one.hear(pr, pi, u[1]), one.hear(pr, pi, u[2]), one.hear(pr, pi, u[3]);
            const int32_t zr = int32_t(one.zr), zi = int32_t(one.zi);
            e = K::leaked(e, uint64_t(product(zr, zr)) + uint64_t(product(zi, zi)), a.leak);
        }
        s[0] = int32_t(one.yr), s[1] = int32_t(one.yi), s[2] = int32_t(one.zr), s[3] = int32_t(one.zi);
        s[4] = int32_t(uint32_t(uint64_t(e))), s[5] = int32_t(e >> 32);
    }
}

struct scalar {
    static constexpr const char* name = "scalar";

    static void matmul(float* y, int32_t y_stride, const Matrix& W, const float* bias, const float* x, int32_t x_stride,
                       int32_t n) {
        const size_t row_bytes = size_t(W.cols) * (W.dtype == DType::f32 ? 4 : 2);
        for (int32_t o = 0; o < W.rows; ++o) {
            const unsigned char* w = W.data + size_t(o) * row_bytes;
            for (int32_t i = 0; i < n; ++i) {
                const float* xi = x + ptrdiff_t(i) * x_stride;
                float        s[8] = {0, 0, 0, 0, 0, 0, 0, 0};
                for (int32_t k = 0; k < W.cols; ++k) s[k % 8] += element(w, W.dtype, size_t(k)) * xi[k];
                y[ptrdiff_t(i) * y_stride + o] = sum_lanes(s) + (bias != nullptr ? bias[o] : 0.0f);
            }
        }
    }

    static bool s4d_scan(const S4dScan& a) {
        const float clip = a.clip;
        bool        hit = false;
        for (ptrdiff_t b = 0; b < a.blocks; ++b)
            for (ptrdiff_t t = 0; t < a.T; ++t) {
                const float* h_old = t == 0 ? a.h_in : a.h_out;
                for (ptrdiff_t k = 0; k < 8; ++k) {
                    const float u = a.u[t * a.stride + b * 8 + k];
                    float       sum = 0.0f;
                    for (ptrdiff_t j = b * a.modes; j < (b + 1) * a.modes; ++j) {
                        const float *p = a.ab + j * 32 + k, *q = a.c + j * 16 + k, *x = h_old + j * 16 + k;
                        const float  xr = x[0], xi = x[8];
                        const float  r = limit((p[0] * xr - p[8] * xi) + p[16] * u, clip, &hit);
                        const float  i = limit((p[0] * xi + p[8] * xr) + p[24] * u, clip, &hit);
                        float* const to = a.h_out + j * 16 + k;
                        to[0] = r, to[8] = i;
                        sum += q[0] * r - q[8] * i;
                    }
                    a.s[t * a.stride + b * 8 + k] = sum + a.D[b * 8 + k] * u;
                }
            }
        return hit;
    }

    SSM_FLOAT_LOOPS(, float)
    SSM_FLOAT_CELLS(, float)

    static void quantize(unsigned char* codes, int32_t* scale, const int32_t* x, int32_t n, int32_t padded_n,
                         int32_t bits) {
        uint32_t top = 0;
        bits = known_bits(bits);
        for (int32_t i = 0; i < n; ++i) top = size_of(x[i]) > top ? size_of(x[i]) : top;
        const Quotients t(top, bits);
        int16_t* const  codes16 = static_cast<int16_t*>(static_cast<void*>(codes));
        for (int32_t i = 0; i < padded_n; ++i) {
            const int32_t code = i < n ? t.code(x[i], bits) : 0;
            if (bits == 8) codes[i] = static_cast<unsigned char>(code);
            else codes16[i] = int16_t(code);
        }
        scale[0] = t.num, scale[1] = t.den;
    }
    // From a sum of codes to Q16.
    static SSM_INLINE int32_t rescaled(int64_t acc, int32_t num, int32_t den, const Scale& s, int64_t bias,
                                       int32_t bits) noexcept {
        const int64_t T = rs<24>(int64_t(num) * s.m);
        const int32_t shift = den + s.e - (bits == 8 ? 24 : 37);
        SSM_ASSERT(between(T, 0, int_max) && product_at_most(acc, bits == 8 ? T : rs<13>(T), 9 * (int64_t(1) << 58)));
        return sat(rs(acc * (bits == 8 ? T : rs<13>(T)), shift) + bias);
    }
    static SSM_INLINE int32_t requantize(int64_t acc, const int32_t* scale, const Matrix& W, int32_t o,
                                         int32_t bits) noexcept {
        const int64_t bias = W.bias != nullptr ? int32_t(load_u32(W.bias + ptrdiff_t(o) * 4)) : 0;
        return rescaled(acc, scale[0], scale[1], Scale(load_u32(W.scale + ptrdiff_t(o) * 4)), bias, bits);
    }
    template <class Code> static SSM_INLINE int64_t dot4(const Matrix& W, int32_t o, const Code* q) noexcept {
        const ptrdiff_t      groups = (W.cols + 31) / 32;
        const unsigned char *w = W.data4 + o * groups * 16, *sub = W.sub + o * groups;
        int64_t              acc = 0;
        for (ptrdiff_t g = 0; g < groups; ++g, w += 16, q += 32) {
            int32_t part = 0; // |part| <= 32 * 8 * 32767
            for (int j = 0; j < 16; ++j)
                part += ((w[j] & 15) ^ 8) * q[j] + ((w[j] >> 4) ^ 8) * q[j + 16] - 8 * (q[j] + q[j + 16]);
            SSM_ASSERT(at_most(part, 32 * 8 * (sizeof(Code) == 1 ? 127 : 32767)));
            acc += int64_t(part) * static_cast<signed char>(sub[g]);
        }
        SSM_ASSERT(at_most(acc, sizeof(Code) == 1 ? int_max : int64_t(1) << 45));
        return acc;
    }
    template <class Code> static SSM_INLINE int64_t dot8(const Matrix& W, int32_t o, const Code* q) noexcept {
        const unsigned char* w = W.data + ptrdiff_t(o - W.rows4) * W.cols;
        if constexpr (sizeof(Code) == 1) {
            int32_t acc = 0; // at most 16,384 * 127 * 127
            SSM_ASSERT(W.cols <= int_max / (127 * 127));
            for (int32_t k = 0; k < W.cols; ++k) acc += static_cast<signed char>(w[k]) * q[k];
            return acc;
        }
        int64_t acc = 0;
        for (int32_t k = 0; k < W.cols; ++k) acc += static_cast<signed char>(w[k]) * int32_t(q[k]);
        return acc;
    }
    static void matmul_q(const Matrix& W, const Tokens& t, int32_t n, int32_t bits) {
        bits = known_bits(bits);
        for (int32_t o = 0; o < W.rows; ++o)
            for (ptrdiff_t i = 0; i < n; ++i) {
                const unsigned char* q = t.q + i * t.stride;
                const signed char*   q8 = reinterpret_cast<const signed char*>(q);
                const int16_t*       q16 = static_cast<const int16_t*>(static_cast<const void*>(q));
                const int64_t        acc = o < W.rows4 ? (bits == 8 ? dot4(W, o, q8) : dot4(W, o, q16))
                                           : bits == 8 ? dot8(W, o, q8)
                                                       : dot8(W, o, q16);
                t.y[i * t.y_stride + o] = requantize(acc, t.scales + i * 2, W, o, bits);
            }
    }
    // Of BankQ: high(a, b), sum + high(a, b), sum + high(-a, b), halves going up; and e after a fourth sample.
    static SSM_INLINE uint32_t high(int32_t a, uint32_t b) noexcept {
        return uint32_t(uint64_t(product(a, int32_t(b)) + (int64_t(1) << 31)) >> 32);
    }
    static SSM_INLINE uint32_t high_add(int32_t a, uint32_t b, uint32_t sum) noexcept { return sum + high(a, b); }
    static SSM_INLINE uint32_t high_sub(int32_t a, uint32_t b, uint32_t sum) noexcept { return sum + high(-a, b); }
    static SSM_INLINE int64_t  leaked(int64_t e, uint64_t power, int32_t leak) noexcept {
         return e + ((int64_t(power >> 12) - e) >> leak);
    }
    static void bank_q(const BankQ& a) { bank_by<scalar>(a); }
    // The new state of one mode.
    static SSM_INLINE void s4d_mode(int32_t ar, int32_t ai, int32_t br, int32_t bi, int32_t xr, int32_t xi, int32_t u,
                                    int32_t b_shift, int32_t clip, int32_t* r, int32_t* i, bool* hit) noexcept {
        SSM_ASSERT(sum_at_most(product(ar, xr), -product(ai, xi), int64_t(1) << 62) &&
                   sum_at_most(product(ar, xi), product(ai, xr), int64_t(1) << 62));
        *r = limit_q(rs<30>(product(ar, xr) - product(ai, xi)) + rs(product(br, u), b_shift), clip, hit);
        *i = limit_q(rs<30>(product(ar, xi) + product(ai, xr)) + rs(product(bi, u), b_shift), clip, hit);
    }
    // The modes j to end of channel h: new states, and the sum of Re(C x').
    static int64_t s4d_modes(const S4dScanQ& a, const int32_t* h_in, ptrdiff_t h, ptrdiff_t j, ptrdiff_t end, int32_t u,
                             bool* hit) noexcept {
        int64_t sum = 0;
        for (ptrdiff_t k = (h * a.modes + j) * 2; k < (h * a.modes + end) * 2; k += 2) {
            const int32_t ar = int32_t(load_u32(a.a + k * 4)), ai = int32_t(load_u32(a.a + k * 4 + 4));
            const int32_t br = int32_t(load_u32(a.b + k * 4)), bi = int32_t(load_u32(a.b + k * 4 + 4));
            const int32_t xr = h_in[k], xi = h_in[k + 1];
            int32_t       r, i;
            s4d_mode(ar, ai, br, bi, xr, xi, u, a.b_shift, a.clip, &r, &i, hit);
            if (a.h_out != nullptr) a.h_out[k] = r, a.h_out[k + 1] = i;
            sum += product(int16_t(load_u16(a.C + k * 2)), r) - product(int16_t(load_u16(a.C + k * 2 + 2)), i);
        }
        return sum;
    }
    // s of channel h from the sum over its modes.
    static SSM_INLINE int32_t s4d_read(const Scale& scale, int32_t D, int64_t sum, int32_t u) noexcept {
        SSM_ASSERT(at_most(sum, int64_t(1) << 55));
        const int64_t acc = rs<18>(2 * sum);
        SSM_ASSERT(product_at_most(acc, scale.m, int64_t(1) << 62));
        return sat(rs(acc * scale.m, scale.e - 9) + rs<16>(product(D, u)));
    }
    static SSM_INLINE int32_t s4d_read(const S4dScanQ& a, ptrdiff_t h, int64_t sum, int32_t u) noexcept {
        return s4d_read(Scale(load_u32(a.C_scale + h * 4)), a.D[h], sum, u);
    }
    static bool s4d_scan_q(const S4dScanQ& a) {
        bool hit = false;
        for (ptrdiff_t h = 0; h < a.H; ++h)
            for (ptrdiff_t t = 0; t < a.T; ++t) {
                const int32_t *h_in = t == 0 || a.h_out == nullptr ? a.h_in : a.h_out, u = a.u[t * a.stride + h];
                a.s[t * a.stride + h] = s4d_read(a, h, s4d_modes(a, h_in, h, 0, a.modes, u, &hit), u);
            }
        return hit;
    }
    static bool scan_q(const HeadScanQ& a) {
        bool hit = false;
        for (int32_t p = 0; p < a.P; ++p)
            hit |= codes_in_build && a.X_in != nullptr ? scan_codes(a, p) : scan_row_q(a, p);
        return hit;
    }
    SSM_INTEGER_LOOPS(, int64_t)
};

#if defined(SSM_HAS_128) || defined(SSM_HAS_DSP) || defined(SSM_HAS_RVV)
// ---- Projections in integers for any vectors
//
// K says how: `rows` of one kind at once for `tokens`, after what its Ready makes of these. What is left goes to
// K::Fewer (of rows) and K::Single (of tokens).

SSM_INLINE bool in_order(const Matrix& W, const Tokens& t) noexcept { return W.in_order && !t.again; }
struct NothingReady {
    SSM_INLINE NothingReady(const Matrix&, const Tokens&, bool) noexcept {}
};
template <int Bits> struct one_by_one {
    static constexpr int rows = 1, tokens = 1;
    using Ready = NothingReady;
    static SSM_INLINE void all(const Matrix& W, int32_t o, int32_t end, const Tokens& t, const Ready&) noexcept {
        const auto with = [&](const auto* q) {
            for (; o < end; ++o)
                t.y[o] = scalar::requantize(o < W.rows4 ? scalar::dot4(W, o, q) : scalar::dot8(W, o, q), t.scales, W, o,
                                            Bits);
        };
        if constexpr (Bits == 8) with(reinterpret_cast<const signed char*>(t.q));
        else with(static_cast<const int16_t*>(static_cast<const void*>(t.q)));
    }
};
// Rows o to end, all of one kind; the last few may begin among those before.
template <class K, class... Ready>
SSM_INLINE void all_rows(const Matrix& W, int32_t o, int32_t end, const Tokens& t, const Ready&... ready) noexcept {
    for (; o < end; o += K::rows) K::rows_at(W, o + K::rows <= end ? o : end - K::rows, t, ready...);
}
template <class K> SSM_INLINE void some_rows(const Matrix& W, int32_t o, int32_t end, const Tokens& t) noexcept {
    while (o < end) {
        const int32_t stop = o < W.rows4 && W.rows4 < end ? W.rows4 : end;
        bool          few = false;
        if constexpr (K::rows > 1)
            if ((few = stop - o < K::rows)) some_rows<typename K::Fewer>(W, o, stop, t);
        if (!few) {
            const typename K::Ready ready(W, t, o < W.rows4);
            K::all(W, o, stop, t, ready);
        }
        o = stop;
    }
}
template <class K> SSM_INLINE void some_tokens(const Matrix& W, int32_t o, int32_t end, Tokens t, int32_t n) noexcept {
    for (; n >= K::tokens; n -= K::tokens, t = t.from(K::tokens)) some_rows<K>(W, o, end, t);
    if constexpr (K::tokens > 1) some_tokens<typename K::Single>(W, o, end, t, n);
}
// Some rows at a time for all tokens, so that their weights stay in the first-level cache.
template <class K> SSM_INLINE void matmul_codes(const Matrix& W, const Tokens& t, int32_t n) noexcept {
    const int32_t rows = n == 1 ? W.rows : 32;
    for (int32_t o = 0; o < W.rows; o += rows) some_tokens<K>(W, o, o + rows < W.rows ? o + rows : W.rows, t, n);
}
// The bytes of int8 rows from row o on: how many may be read.
SSM_INLINE ptrdiff_t room_behind(const Matrix& W, ptrdiff_t o) noexcept { return (W.rows - o) * ptrdiff_t(W.cols); }
// R int8 rows, `stride` apart, of which `left` columns from `from` on are left: where they stand as N bytes each. What
// follows is other rows', and meets codes that are 0; behind `room` bytes nothing may be read, so there they are
// copied.
template <int R, int N> struct last_columns {
    const unsigned char* row[size_t(R)];
    unsigned char        copies[size_t(R)][size_t(N)];
    SSM_INLINE last_columns(const unsigned char* from, ptrdiff_t stride, ptrdiff_t left, ptrdiff_t room) noexcept {
        SSM_UNROLL_8
        for (ptrdiff_t r = 0; r < R; ++r) row[r] = from + r * stride;
        if ((R - 1) * stride + N <= room) return;
        for (ptrdiff_t r = 0; r < R; ++r) {
            fill_zero(copies[r], size_t(N)), copy(copies[r], row[r], size_t(left));
            row[r] = copies[r];
        }
    }
};
#endif

#if defined(SSM_HAS_128)
template <class V> SSM_INLINE V vector_at(const void* p) noexcept {
    V v;
    SSM_MEMCPY(&v, p, sizeof v);
    return v;
}
typedef int16_t i16x4 __attribute__((vector_size(8)));
typedef int16_t i16x8 __attribute__((vector_size(16)));
// Lanes of 64 bits: what vector types of the compiler say by themselves. W as int64, U unsigned, V in halves of 32
// bits.
template <class W, class U, class V> struct lanes64 {
    static constexpr int32_t count = int32_t(sizeof(W) / 8);
    static SSM_INLINE W      set(int64_t x) noexcept {
             W v = {};
             if (__builtin_constant_p(x)) {
                 if (x == 0) return v;
                 v = v + x;
#if defined(SSM_HAS_AVX2) && !defined(__clang__)
                 // gcc, which does not see where it comes from, makes it before a loop and not in it
                 __asm__("" : "+v"(v));
#endif
                 return v;
             }
#if !defined(__clang__)
#pragma GCC unroll 1
#endif
        for (int k = 0; k < count; ++k) v[k] = x;
        return v;
    }
    static SSM_INLINE W less(const W& a, const W& b) noexcept { return a < b; }
    static SSM_INLINE W choose(const W& mask, const W& a, const W& b) noexcept { return mask ? a : b; }
    static SSM_ALWAYS W least(const W& a, const W& b) noexcept { return a < b ? a : b; }
    static SSM_ALWAYS W most(const W& a, const W& b) noexcept { return a < b ? b : a; }
    static SSM_INLINE W size_low(const W& a) noexcept { // the upper halves are of no use
        const V x = reinterpret_cast<V>(a), minus = -x;
        return reinterpret_cast<W>(x > minus ? x : minus);
    }
    static SSM_INLINE W clamp(const W& a, int32_t m) noexcept { // an upper half is 0 or -1, and stays
        return clamp_halves(a, V{} + m, V{} - m);
    }
    static SSM_INLINE W shr(const W& a, int s) noexcept { return a >> s; }
    static SSM_INLINE W rs(const W& a, int s, int64_t half) noexcept { return wide<W>::shr(a + half, s); }
    static SSM_INLINE W rs_unsigned(const W& a, int s, int64_t half) noexcept { // where a >> s is many instructions
        constexpr uint64_t top = uint64_t(1) << 63;
        const W            up = set(int64_t(uint64_t(half) + top)), back = set(int64_t(top >> s));
        return reinterpret_cast<W>(((reinterpret_cast<U>(a) + reinterpret_cast<U>(up)) >> s) -
                                   reinterpret_cast<U>(back));
    }
    static SSM_INLINE W lsr(const W& a, int s) noexcept { return reinterpret_cast<W>(reinterpret_cast<U>(a) >> s); }
    static SSM_INLINE W lsr(const W& a, const W& s) noexcept {
        return reinterpret_cast<W>(reinterpret_cast<U>(a) >> reinterpret_cast<U>(s));
    }
    static SSM_INLINE W shl(const W& a, const W& s) noexcept { return a << s; }
    static SSM_INLINE W up(const W& a, int s) noexcept { return a << s; }

    // Twice as many int32, the even ones in the lower halves.
    using halves = V;
    static SSM_INLINE W raw(const void* p) noexcept {
        W v;
        SSM_MEMCPY(&v, p, sizeof v);
        return v;
    }
    static SSM_INLINE void put(void* p, const W& v) noexcept { SSM_MEMCPY(p, &v, sizeof v); }
    static SSM_INLINE W    clamp_halves(const W& a, const V& top, const V& low) noexcept {
           const V x = reinterpret_cast<V>(a), y = x < top ? x : top;
           return reinterpret_cast<W>(y > low ? y : low);
    }
    static SSM_INLINE W add_halves(const W& a, const W& b) noexcept {
        return reinterpret_cast<W>(reinterpret_cast<V>(a) + reinterpret_cast<V>(b));
    }
    static SSM_INLINE W up_halves(const W& a, int s) noexcept {
        return reinterpret_cast<W>(reinterpret_cast<V>(a) << s);
    }
    static SSM_INLINE W    all_halves(int32_t x) noexcept { return reinterpret_cast<W>(V{} + x); }
    static SSM_INLINE void widen(V* top, V* low, const W& a) noexcept { // to the largest and the least halves
        const V x = reinterpret_cast<V>(a);
        *top = x > *top ? x : *top, *low = x < *low ? x : *low;
    }
    static SSM_INLINE V sizes(const V& top, const V& low) noexcept { // the largest |x| of what widen() saw
        const V minus = -low;
        return top > minus ? top : minus;
    }
};
typedef int64_t  i64x2 __attribute__((vector_size(16)));
typedef uint64_t u64x2 __attribute__((vector_size(16)));
typedef int32_t  i32x2 __attribute__((vector_size(8)));
// Two: SSE4.2, NEON, WebAssembly. As above, what compilers have no way to say or do not find.
template <> struct wide<i64x2> : lanes64<i64x2, u64x2, i32x4> {
#if defined(SSM_HAS_NEON)
    static SSM_INLINE i64x2 mul(const i64x2& a, const i64x2& b) noexcept {
        return vmull_s32(vmovn_s64(a), vmovn_s64(b));
    }
    static SSM_INLINE i64x2 mulu(const i64x2& a, const i64x2& b) noexcept {
        return reinterpret_cast<i64x2>(
            vmull_u32(reinterpret_cast<uint32x2_t>(vmovn_s64(a)), reinterpret_cast<uint32x2_t>(vmovn_s64(b))));
    }
    static SSM_INLINE i64x2 extend(const i32x2& v) noexcept { return vmovl_s32(v); }
    static SSM_INLINE i32x4 extend(const i16x4& v) noexcept { return vmovl_s16(v); }
    static SSM_INLINE i64x2 choose(const i64x2& mask, const i64x2& a, const i64x2& b) noexcept {
        return vbslq_s64(reinterpret_cast<uint64x2_t>(mask), a, b);
    }
    static SSM_INLINE i64x2 blend(const i64x2& even, const i64x2& odd) noexcept {
        return choose(set(0xffffffff), even, odd);
    }
#if !defined(__aarch64__) // no comparison in 64 bits, and shifts by one register of counts alone
    static SSM_INLINE i64x2 less(const i64x2& a, const i64x2& b) noexcept { return shr(vqsubq_s64(a, b), 63); }
    static SSM_INLINE i64x2 least(const i64x2& a, const i64x2& b) noexcept { return choose(less(a, b), a, b); }
    static SSM_INLINE i64x2 most(const i64x2& a, const i64x2& b) noexcept { return choose(less(a, b), b, a); }
    static SSM_INLINE i64x2 shr(const i64x2& a, int s) noexcept { return vshlq_s64(a, vdupq_n_s64(-s)); }
    static SSM_INLINE i64x2 shl(const i64x2& a, const i64x2& s) noexcept { return vshlq_s64(a, s); }
    static SSM_INLINE i64x2 up(const i64x2& a, int s) noexcept { return vshlq_s64(a, vdupq_n_s64(s)); }
    static SSM_INLINE i64x2 lsr(const i64x2& a, const i64x2& s) noexcept {
        return reinterpret_cast<i64x2>(vshlq_u64(reinterpret_cast<uint64x2_t>(a), -s));
    }
    static SSM_INLINE i64x2 lsr(const i64x2& a, int s) noexcept { return lsr(a, vdupq_n_s64(s)); }
#endif
#elif defined(SSM_HAS_AVX2) && !defined(__clang__)
    static SSM_INLINE i64x2 mul(const i64x2& a, const i64x2& b) noexcept {
        return reinterpret_cast<i64x2>(
            __builtin_ia32_pmuldq128(reinterpret_cast<i32x4>(a), reinterpret_cast<i32x4>(b)));
    }
    static SSM_INLINE i64x2 mulu(const i64x2& a, const i64x2& b) noexcept {
        return reinterpret_cast<i64x2>(
            __builtin_ia32_pmuludq128(reinterpret_cast<i32x4>(a), reinterpret_cast<i32x4>(b)));
    }
    static SSM_INLINE i64x2 extend(const i32x2& v) noexcept {
        return reinterpret_cast<i64x2>(__builtin_ia32_pmovsxdq128(__builtin_shufflevector(v, v, 0, 1, 0, 1)));
    }
    static SSM_INLINE i32x4 extend(const i16x4& v) noexcept {
        return __builtin_ia32_pmovsxwd128(__builtin_shufflevector(v, v, 0, 1, 2, 3, 0, 1, 2, 3));
    }
#else
#if defined(SSM_HAS_SIMD128)
    static SSM_INLINE i64x2 mul(const i64x2& a, const i64x2& b) noexcept {
        return reinterpret_cast<i64x2>(wasm_i64x2_extmul_low_i32x4(low(a), low(b)));
    }
    static SSM_INLINE i64x2 mulu(const i64x2& a, const i64x2& b) noexcept {
        return reinterpret_cast<i64x2>(wasm_u64x2_extmul_low_u32x4(low(a), low(b)));
    }
    static SSM_INLINE v128_t low(const i64x2& a) noexcept {
        i32x4 v = reinterpret_cast<i32x4>(a);
        v = __builtin_shufflevector(v, v, 0, 2, 0, 2);
        __asm__("" : "+r"(v)); // or clang makes a product of 64 bits again, which is slow
        return reinterpret_cast<v128_t>(v);
    }
#else
    static SSM_INLINE i64x2 mul(const i64x2& a, const i64x2& b) noexcept {
        return ((a << 32) >> 32) * ((b << 32) >> 32);
    }
    static SSM_INLINE i64x2 mulu(const i64x2& a, const i64x2& b) noexcept {
        return (a & 0xffffffff) * (b & 0xffffffff);
    }
#endif
    static SSM_INLINE i64x2 extend(const i32x2& v) noexcept { return __builtin_convertvector(v, i64x2); }
    static SSM_INLINE i32x4 extend(const i16x4& v) noexcept { return __builtin_convertvector(v, i32x4); }
#endif
    static SSM_INLINE i64x2 load(const int32_t* p, int32_t n) noexcept {
        i32x2 v = {};
        if (n >= 2) SSM_MEMCPY(&v, p, sizeof v);
        else if (n == 1) v[0] = *p;
        return extend(v);
    }
    static SSM_INLINE void store(int32_t* p, const i64x2& a, int32_t n) noexcept {
        const i32x4 halves = reinterpret_cast<i32x4>(a);
        const i32x2 v = __builtin_shufflevector(halves, halves, 0, 2);
        if (n >= 2) SSM_MEMCPY(p, &v, sizeof v);
        else if (n == 1) *p = v[0];
    }
    static SSM_INLINE i64x2 load16(const void* p, int32_t n) noexcept {
        int32_t both = 0;
        if (n >= 2) SSM_MEMCPY(&both, p, 4);
        else SSM_MEMCPY(&both, p, 2);
        const i32x4 v = extend(reinterpret_cast<i16x4>(i32x2{both, 0}));
        return extend(__builtin_shufflevector(v, v, 0, 1));
    }
    static SSM_INLINE void store16(void* p, const i64x2& a, int32_t n) noexcept {
        const i16x8   v = reinterpret_cast<i16x8>(a);
        const int16_t both[2] = {v[0], v[4]};
        if (n >= 2) SSM_MEMCPY(p, both, 4);
        else SSM_MEMCPY(p, both, 2);
    }
    static SSM_INLINE i64x2 odd(const i64x2& a) noexcept {
        const i32x4 v = reinterpret_cast<i32x4>(a);
        return reinterpret_cast<i64x2>(__builtin_shufflevector(v, v, 1, 1, 3, 3));
    }
#if defined(SSM_HAS_AVX2)
    static SSM_INLINE i64x2 rs(const i64x2& a, int s, int64_t half) noexcept { return rs_unsigned(a, s, half); }
#endif
#if !defined(SSM_HAS_NEON)
    static SSM_INLINE i64x2 blend(const i64x2& even, const i64x2& odd) noexcept {
        return reinterpret_cast<i64x2>(
            __builtin_shufflevector(reinterpret_cast<i32x4>(even), reinterpret_cast<i32x4>(odd), 0, 5, 2, 7));
    }
#endif
    static SSM_INLINE i64x2 shorts(const void* p) noexcept {
        i16x4 v;
        SSM_MEMCPY(&v, p, sizeof v);
        return reinterpret_cast<i64x2>(extend(v));
    }
    static SSM_INLINE uint32_t largest(const i32x4& v) noexcept {
        i32x4 w = __builtin_shufflevector(v, v, 2, 3, 0, 1), m = v > w ? v : w;
        w = __builtin_shufflevector(m, m, 1, 0, 3, 2), m = m > w ? m : w;
        return uint32_t(m[0]);
    }
    static SSM_INLINE int64_t sum(const i64x2& v) noexcept { return v[0] + v[1]; }
    static SSM_INLINE i64x2   sums(const i64x2* s) noexcept {
          return __builtin_shufflevector(s[0], s[1], 0, 2) + __builtin_shufflevector(s[0], s[1], 1, 3);
    }
};

#if defined(SSM_HAS_AVX2)
typedef int64_t  i64x4 __attribute__((vector_size(32)));
typedef uint64_t u64x4 __attribute__((vector_size(32)));
typedef int16_t  i16x16 __attribute__((vector_size(32)));
// Four. What gcc has no way to say without the builtin, clang finds in plain code.
template <> struct wide<i64x4> : lanes64<i64x4, u64x4, i32x8> {
#if defined(__clang__)
    static SSM_INLINE i64x4 mul(const i64x4& a, const i64x4& b) noexcept {
        return ((a << 32) >> 32) * ((b << 32) >> 32);
    }
    static SSM_INLINE i64x4 mulu(const i64x4& a, const i64x4& b) noexcept {
        return (a & 0xffffffff) * (b & 0xffffffff);
    }
    static SSM_INLINE i64x4 extend(const i32x4& v) noexcept { return __builtin_convertvector(v, i64x4); }
    static SSM_INLINE i32x8 extend(const i16x8& v) noexcept { return __builtin_convertvector(v, i32x8); }
#else
    static SSM_INLINE i64x4 mul(const i64x4& a, const i64x4& b) noexcept {
        return reinterpret_cast<i64x4>(
            __builtin_ia32_pmuldq256(reinterpret_cast<i32x8>(a), reinterpret_cast<i32x8>(b)));
    }
    static SSM_INLINE i64x4 mulu(const i64x4& a, const i64x4& b) noexcept {
        return reinterpret_cast<i64x4>(
            __builtin_ia32_pmuludq256(reinterpret_cast<i32x8>(a), reinterpret_cast<i32x8>(b)));
    }
    static SSM_INLINE i64x4 extend(const i32x4& v) noexcept {
        return reinterpret_cast<i64x4>(__builtin_ia32_pmovsxdq256(v));
    }
    static SSM_INLINE i32x8 extend(const i16x8& v) noexcept {
        return reinterpret_cast<i32x8>(__builtin_ia32_pmovsxwd256(v));
    }
#endif
    static SSM_INLINE i64x4 rs(const i64x4& a, int s, int64_t half) noexcept { return rs_unsigned(a, s, half); }
    static SSM_INLINE i64x4 load(const int32_t* p, int32_t n) noexcept { // zeros past the n-th
        if (n >= 4) return extend(vector_at<i32x4>(p));
        i32x4 v = {};
        for (int32_t k = 0; k < n; ++k) v[k] = p[k];
        return extend(v);
    }
    static SSM_INLINE void store(int32_t* p, const i64x4& a, int32_t n) noexcept {
        const i32x8 halves = reinterpret_cast<i32x8>(a);
        const i32x4 v = __builtin_shufflevector(halves, halves, 0, 2, 4, 6);
        if (n >= 4) SSM_MEMCPY(p, &v, sizeof v);
        else {
            if (n > 0) p[0] = v[0];
            if (n > 1) p[1] = v[1];
            if (n > 2) p[2] = v[2];
        }
    }
    static SSM_INLINE i64x4 load16(const void* p, int32_t n) noexcept { // n int16, the first four of them
        i16x4 v = {};
        if (n >= 4) SSM_MEMCPY(&v, p, sizeof v);
        else copy(&v, p, size_t(n) * 2);
        return __builtin_convertvector(v, i64x4);
    }
    static SSM_INLINE void store16(void* p, const i64x4& a, int32_t n) noexcept {
        const i16x16 all = reinterpret_cast<i16x16>(a);
        const i16x4  v = __builtin_shufflevector(all, all, 0, 4, 8, 12);
        if (n >= 4) SSM_MEMCPY(p, &v, sizeof v);
        else copy(p, &v, size_t(n) * 2);
    }
    static SSM_INLINE i64x4 odd(const i64x4& a) noexcept { // the upper halves in the lower ones
        const i32x8 v = reinterpret_cast<i32x8>(a);
        return reinterpret_cast<i64x4>(__builtin_shufflevector(v, v, 1, 1, 3, 3, 5, 5, 7, 7));
    }
    static SSM_INLINE i64x4 blend(const i64x4& even, const i64x4& odd) noexcept { // lower halves of one, upper ones
        return reinterpret_cast<i64x4>(__builtin_shufflevector(
            reinterpret_cast<i32x8>(even), reinterpret_cast<i32x8>(odd), 0, 9, 2, 11, 4, 13, 6, 15));
    }
    static SSM_INLINE i64x4 shorts(const void* p) noexcept { // eight of 16 bits
        i16x8 v;
        SSM_MEMCPY(&v, p, sizeof v);
        return reinterpret_cast<i64x4>(extend(v));
    }
    static SSM_INLINE uint32_t largest(const i32x8& v) noexcept { // of numbers >= 0
        i32x8 w = __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3), m = v > w ? v : w;
        w = __builtin_shufflevector(m, m, 2, 3, 0, 1, 6, 7, 4, 5), m = m > w ? m : w;
        w = __builtin_shufflevector(m, m, 1, 0, 3, 2, 5, 4, 7, 6), m = m > w ? m : w;
        return uint32_t(m[0]);
    }
    static SSM_INLINE int64_t sum(const i64x4& v) noexcept {
        const i64x4 two = v + __builtin_shufflevector(v, v, 2, 3, 0, 1);
        return two[0] + two[1];
    }
    static SSM_INLINE i64x4 sums(const i64x4* s) noexcept { // of each of four
        const i64x4 ab =
            __builtin_shufflevector(s[0], s[1], 0, 4, 2, 6) + __builtin_shufflevector(s[0], s[1], 1, 5, 3, 7);
        const i64x4 cd =
            __builtin_shufflevector(s[2], s[3], 0, 4, 2, 6) + __builtin_shufflevector(s[2], s[3], 1, 5, 3, 7);
        return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    }
};

typedef int64_t  i64x8 __attribute__((vector_size(64)));
typedef uint64_t u64x8 __attribute__((vector_size(64)));
typedef int32_t  i32x16 __attribute__((vector_size(64)));
// Eight.
template <> struct wide<i64x8> : lanes64<i64x8, u64x8, i32x16> {
#if defined(__clang__)
    static SSM_INLINE i64x8 mul(const i64x8& a, const i64x8& b) noexcept {
        return ((a << 32) >> 32) * ((b << 32) >> 32);
    }
    static SSM_INLINE i64x8 mulu(const i64x8& a, const i64x8& b) noexcept {
        return (a & 0xffffffff) * (b & 0xffffffff);
    }
    static SSM_INLINE i32x16 extend(const i16x16& v) noexcept { return __builtin_convertvector(v, i32x16); }
    static SSM_INLINE i64x8  load(const int32_t* p, int32_t n) noexcept {
         i32x8 v = {};
         if (n >= 8) SSM_MEMCPY(&v, p, sizeof v);
        else
            for (int32_t k = 0; k < n; ++k) v[k] = p[k];
        return __builtin_convertvector(v, i64x8);
    }
    static SSM_INLINE void store(int32_t* p, const i64x8& a, int32_t n) noexcept {
        const i32x8 v = __builtin_convertvector(a, i32x8);
        if (n >= 8) SSM_MEMCPY(p, &v, sizeof v);
        else
            for (int32_t k = 0; k < n; ++k) p[k] = v[k];
    }
    static SSM_INLINE i64x8 load16(const void* p, int32_t n) noexcept {
        i16x8 v = {};
        if (n >= 8) SSM_MEMCPY(&v, p, sizeof v);
        else copy(&v, p, size_t(n) * 2);
        return __builtin_convertvector(v, i64x8);
    }
    static SSM_INLINE void store16(void* p, const i64x8& a, int32_t n) noexcept {
        const i16x8 v = __builtin_convertvector(a, i16x8);
        if (n >= 8) SSM_MEMCPY(p, &v, sizeof v);
        else copy(p, &v, size_t(n) * 2);
    }
#else
    static SSM_INLINE i64x8 mul(const i64x8& a, const i64x8& b) noexcept {
        return reinterpret_cast<i64x8>(__builtin_ia32_pmuldq512_mask(
            reinterpret_cast<i32x16>(a), reinterpret_cast<i32x16>(b), as_v8di(a), static_cast<unsigned char>(-1)));
    }
    static SSM_INLINE i64x8 mulu(const i64x8& a, const i64x8& b) noexcept {
        return reinterpret_cast<i64x8>(__builtin_ia32_pmuludq512_mask(
            reinterpret_cast<i32x16>(a), reinterpret_cast<i32x16>(b), as_v8di(a), static_cast<unsigned char>(-1)));
    }
    static SSM_INLINE i64x8 least(const i64x8& a, const i64x8& b) noexcept {
        return reinterpret_cast<i64x8>(__builtin_ia32_pminsq512_mask(as_v8di(a), as_v8di(b), as_v8di(a), 255));
    }
    static SSM_INLINE i64x8 most(const i64x8& a, const i64x8& b) noexcept {
        return reinterpret_cast<i64x8>(__builtin_ia32_pmaxsq512_mask(as_v8di(a), as_v8di(b), as_v8di(a), 255));
    }
    static SSM_INLINE i64x8 less(const i64x8& a, const i64x8& b) noexcept {
        return reinterpret_cast<i64x8>(
            __builtin_ia32_cvtmask2q512(__builtin_ia32_cmpq512_mask(as_v8di(a), as_v8di(b), 1, 255)));
    }
    static SSM_INLINE i64x8 choose(const i64x8& mask, const i64x8& a, const i64x8& b) noexcept {
        return (mask & a) | (~mask & b);
    }
    static SSM_INLINE i32x16 extend(const i16x16& v) noexcept {
        return reinterpret_cast<i32x16>(__builtin_ia32_pmovsxwd512_mask(v, reinterpret_cast<v16si>(i32x16{}), 65535));
    }
    typedef int                     v16si __attribute__((vector_size(64)));
    static SSM_INLINE unsigned char first(int32_t n) noexcept { // a mask
        return static_cast<unsigned char>(n < 8 ? (1u << n) - 1 : 255u);
    }
    static SSM_INLINE i64x8 load(const int32_t* p, int32_t n) noexcept {
        return extend(__builtin_ia32_loaddqusi256_mask(p, v8si{}, first(n)));
    }
    static SSM_INLINE void store(int32_t* p, const i64x8& a, int32_t n) noexcept {
        __builtin_ia32_pmovqd512mem_mask(reinterpret_cast<v8si*>(p), as_v8di(a), first(n));
    }
    static SSM_INLINE i64x8 load16(const void* p, int32_t n) noexcept {
        i16x8 v = {};
        if (n >= 8) SSM_MEMCPY(&v, p, sizeof v);
        else copy(&v, p, size_t(n) * 2);
        return reinterpret_cast<i64x8>(__builtin_ia32_pmovsxwq512_mask(v, v8di{}, 255));
    }
    static SSM_INLINE void store16(void* p, const i64x8& a, int32_t n) noexcept {
        const i16x8 v = reinterpret_cast<i16x8>(__builtin_ia32_pmovqw512_mask(as_v8di(a), i16x8{}, 255));
        if (n >= 8) SSM_MEMCPY(p, &v, sizeof v);
        else copy(p, &v, size_t(n) * 2);
    }
    typedef int             v8si __attribute__((vector_size(32)));
    static SSM_INLINE i64x8 extend(const v8si& v) noexcept {
        return reinterpret_cast<i64x8>(__builtin_ia32_pmovsxdq512_mask(v, v8di{}, 255));
    }
    typedef long long      v8di __attribute__((vector_size(64)));
    static SSM_INLINE v8di as_v8di(const i64x8& a) noexcept { return reinterpret_cast<v8di>(a); }
#endif
    static SSM_INLINE i64x8 odd(const i64x8& a) noexcept { return lsr(a, 32); }
    static SSM_INLINE i64x8 blend(const i64x8& even, const i64x8& odd) noexcept {
        return reinterpret_cast<i64x8>(__builtin_shufflevector(reinterpret_cast<i32x16>(even),
                                                               reinterpret_cast<i32x16>(odd), 0, 17, 2, 19, 4, 21, 6,
                                                               23, 8, 25, 10, 27, 12, 29, 14, 31));
    }
    static SSM_INLINE i64x8 shorts(const void* p) noexcept {
        i16x16 v;
        SSM_MEMCPY(&v, p, sizeof v);
        return reinterpret_cast<i64x8>(extend(v));
    }
    static SSM_INLINE uint32_t largest(const i32x16& v) noexcept {
        const i32x8 a = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
                    b = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
        return wide<i64x4>::largest(a > b ? a : b);
    }
    static SSM_INLINE int64_t sum(const i64x8& v) noexcept {
        return wide<i64x4>::sum(__builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7));
    }
    static SSM_INLINE i64x8 pairs(const i64x8& a, const i64x8& b) noexcept { // sums of two, a's and b's in turn
        return __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14) +
               __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
    }
    static SSM_INLINE i64x8 fours(const i64x8& ab, const i64x8& cd) noexcept {
        return __builtin_shufflevector(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) +
               __builtin_shufflevector(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
    }
    static SSM_INLINE i64x8 sums(const i64x8* s) noexcept {
        const i64x8 low = fours(pairs(s[0], s[1]), pairs(s[2], s[3])),
                    high = fours(pairs(s[4], s[5]), pairs(s[6], s[7]));
        return __builtin_shufflevector(low, high, 0, 1, 2, 3, 8, 9, 10, 11) +
               __builtin_shufflevector(low, high, 4, 5, 6, 7, 12, 13, 14, 15);
    }
};
#endif

// ---- Recurrences in integers for any vector of 64-bit lanes

// The rows of h where |h'| is known to stay below 64 before the clip. With k times 2^up_k and v times 2^(9 - up_k), and
// so k0 and w, `add` comes times 2^9: rs(rs(alpha h, 9) + add, 21) is (alpha h + 2^8 + 2^29 + 2^9 add) >> 30, of which
// 32 bits are all, so shifts may be logical. Even and odd numbers in 64 bits each. Some rows at a time, as many as stay
// in the first-level cache, and of them the same few columns of all, whose k, k0 and q are in registers. The clip is
// looked at once, in the end.
template <class W, int R, bool Prev> SSM_INLINE bool scan_rows(const HeadScanQ& given, int32_t up_k) noexcept {
    using L = wide<W>;
    using V = typename L::halves;
    constexpr ptrdiff_t most = R == 1 ? 32 : 16; // rows
    struct Each {                                // of them: v and w, and the sum of h' q
        W       sum[size_t(R)];
        int32_t v[size_t(R)], w[size_t(R)];
    } each[size_t(most)];
    const HeadScanQ a = given; // not written to through h_out
    const W         alpha = L::set(a.alpha), round = L::set((1 << 29) + (1 << 8));
    const ptrdiff_t N = a.N, step = 2 * L::count, whole = N / step * step, to_next = a.h_out != nullptr ? N : 0;
    const ptrdiff_t fit = 2048 / N / L::count * L::count;
    const ptrdiff_t at_once = fit < L::count ? L::count : fit < most ? fit : most;
    int32_t         dropped[max_d_state / 2];
    V               top = {}, low = {};
    bool            hit = false;
    for (ptrdiff_t first = 0, rows; first < a.P; first += rows) {
        rows = a.P - first < at_once ? a.P - first : at_once;
        for (ptrdiff_t p = 0; p < rows; ++p) {
            SSM_UNROLL_8
            for (ptrdiff_t r = 0; r < R; ++r) {
                each[p].sum[r] = L::set(0);
                each[p].v[r] = a.v[r * a.P + first + p] * (1 << (9 - up_k));
                if (Prev) each[p].w[r] = a.w[r * a.P + first + p] * (1 << (9 - up_k));
            }
        }
        for (ptrdiff_t p = rows; p % L::count != 0; ++p) {
            SSM_UNROLL_8
            for (ptrdiff_t r = 0; r < R; ++r) each[p].sum[r] = L::set(0);
        }
        const int32_t* const h = a.h_in + first * N;
        int32_t* const       to = a.h_out != nullptr ? a.h_out + first * N : dropped;
        for (ptrdiff_t n = 0; n < whole; n += step) {
            W even_k[size_t(R)], even_k0[size_t(R)], even_q[size_t(R)];
            W odd_k[size_t(R)], odd_k0[size_t(R)], odd_q[size_t(R)];
            SSM_UNROLL_8
            for (ptrdiff_t r = 0; r < R; ++r) {
                even_k[r] = L::up_halves(L::raw(a.k + r * a.k_stride + n), up_k), odd_k[r] = L::odd(even_k[r]);
                if (Prev) {
                    even_k0[r] = L::up_halves(L::raw(a.k0 + r * a.k_stride + n), up_k);
                    odd_k0[r] = L::odd(even_k0[r]);
                }
                even_q[r] = L::raw(a.q + r * a.k_stride + n), odd_q[r] = L::odd(even_q[r]);
            }
            const int32_t* from = h + n;
            int32_t*       out = to + n;
            for (Each *row = each, *const end = each + rows; row != end; ++row, from += N, out += to_next) {
                const W old = L::raw(from);
                W       even = L::mul(alpha, old) + round, odd = L::mul(alpha, L::odd(old)) + round;
                SSM_UNROLL_8
                for (ptrdiff_t r = 0; r < R; ++r) {
                    const W v = L::all_halves(row->v[r]);
                    even = even + L::mul(v, even_k[r]), odd = odd + L::mul(v, odd_k[r]);
                    if (Prev) {
                        const W w = L::all_halves(row->w[r]);
                        even = even + L::mul(w, even_k0[r]), odd = odd + L::mul(w, odd_k0[r]);
                    }
                }
                const W x = L::lsr(even, 30), next = L::blend(x, L::up(odd, 2));
                odd = L::lsr(odd, 30);
                L::widen(&top, &low, next);
                L::put(out, next);
                SSM_UNROLL_8
                for (ptrdiff_t r = 0; r < R; ++r)
                    row->sum[r] = row->sum[r] + (L::mul(x, even_q[r]) + L::mul(odd, odd_q[r]));
            }
        }
        for (ptrdiff_t p = 0; whole < N && p < rows; ++p) {
            int64_t rest[size_t(R)] = {};
            for (ptrdiff_t n = whole; n < N; ++n) {
                const int32_t x = limit_q(next_h(a.alpha, h[p * N + n], head_add(a, first + p, n)), a.clip, &hit);
                to[p * to_next + n] = x;
                for (ptrdiff_t r = 0; r < R; ++r) rest[r] += product(x, a.q[r * a.k_stride + n]);
            }
            for (ptrdiff_t r = 0; r < R; ++r) {
                W more = L::set(0); // in a register: a store of one lane would stall the load of all
                more[0] = rest[r], each[p].sum[r] = each[p].sum[r] + more;
            }
        }
        for (ptrdiff_t r = 0; r < R; ++r)
            for (ptrdiff_t p = 0; p < rows; p += L::count) {
                W sums[size_t(L::count)];
                SSM_UNROLL_8
                for (ptrdiff_t k = 0; k < L::count; ++k) sums[k] = each[p + k].sum[r];
                head_read<W>(a, r, first + p, int32_t(rows - p), L::sums(sums), 25);
            }
    }
    if (L::largest(L::sizes(top, low)) <= uint32_t(a.clip)) return hit;
    if (a.h_out == nullptr) return scalar::scan_q(a);
    for (ptrdiff_t p = 0; p < a.P; ++p) { // the numbers as they came out are in h_out
        int32_t* const h = a.h_out + p * N;
        for (ptrdiff_t n = 0; n < N; ++n) h[n] = sat(h[n], a.clip);
        for (ptrdiff_t r = 0; r < R; ++r) {
            int64_t sum = 0;
            for (ptrdiff_t n = 0; n < N; ++n) sum += product(h[n], a.q[r * a.k_stride + n]);
            head_read<int64_t>(a, r, p, 1, sum, 25);
        }
    }
    return true;
}
// Row p of codes, as scan_codes().
template <class W, int R, bool Prev> SSM_INLINE bool code_row(const HeadScanQ& a, ptrdiff_t p) noexcept {
    using L = wide<W>;
    const int64_t bound = int64_t(a.clip) << 21;
    const size_t  row = size_t(a.row + p), first = row * size_t(a.N);
    const int32_t X = 40 - exponent_at(a.X_in, row), down = X > 16 ? X - 16 : 0, up = X < 16 ? 16 - X : 0;
    const int64_t half = down > 0 ? int64_t(1) << (down - 1) : 0;
    const auto*   from = reinterpret_cast<const unsigned char*>(a.h_in) + first * 2;
    auto*         to = a.h_out != nullptr ? reinterpret_cast<unsigned char*>(a.h_out) + first * 2 : nullptr;
    W             tops = L::set(0), hits = tops, alpha = L::set(a.alpha), sums[size_t(R)], v[size_t(R)], w[size_t(R)];
    SSM_UNROLL_8
    for (int r = 0; r < R; ++r) {
        sums[r] = L::set(0), v[r] = L::set(a.v[r * a.P + p]);
        if (Prev) w[r] = L::set(a.w[r * a.P + p]);
    }
    for (int32_t n = 0; n < a.N; n += L::count) {
        const int32_t left = a.N - n;
        if (a.alpha_each != nullptr) alpha = L::load(a.alpha_each + n, left);
        W x = L::up(L::rs(L::mul(alpha, L::load16(from + ptrdiff_t(n) * 2, left)), down, half), up);
        SSM_UNROLL_8
        for (int r = 0; r < R; ++r) {
            x = x + L::mul(v[r], L::load(a.k + r * a.k_stride + n, left));
            if (Prev) x = x + L::mul(w[r], L::load(a.k0 + r * a.k_stride + n, left));
        }
        const W limited = within(x, bound);
        hits = hits | (limited ^ x), tops = tops | most(limited, W(-limited));
        if (left >= L::count) L::put(a.wide_row + n, limited);
        else copy(a.wide_row + n, &limited, size_t(left) * 8);
    }
    uint64_t top = 0;
    int64_t  hit = 0;
    for (int k = 0; k < L::count; ++k) top |= uint64_t(tops[k]), hit |= hits[k];
    const int32_t s = bit_length(top) > 21 ? bit_length(top) - 15 : 6;
    for (int32_t n = 0; n < a.N; n += L::count) {
        const int32_t left = a.N - n;
        W             x = L::set(0);
        if (left >= L::count) x = L::raw(a.wide_row + n);
        else copy(&x, a.wide_row + n, size_t(left) * 8);
        const W code = L::clamp(L::rs(x, s, int64_t(1) << (s - 1)), 32767);
        if (to != nullptr) L::store16(to + ptrdiff_t(n) * 2, code, left);
        SSM_UNROLL_8
        for (int r = 0; r < R; ++r) sums[r] = sums[r] + L::mul(code, L::load(a.q + r * a.k_stride + n, left));
    }
    if (to != nullptr) set_exponent(a.X_out, row, s - 6);
    for (int r = 0; r < R; ++r) head_read<int64_t>(a, r, p, 1, L::sum(sums[r]), 46 - s);
    return hit != 0;
}
template <class W, int R, bool Prev>
SSM_INLINE bool scan_either(const HeadScanQ& a, int32_t up_k) noexcept { // codes or numbers
    if (a.X_in == nullptr) return scan_rows<W, R, Prev>(a, up_k);
    bool hit = false;
    for (ptrdiff_t p = 0; p < a.P; ++p) hit |= code_row<W, R, Prev>(a, p);
    return hit;
}
template <class W> SSM_INLINE bool scan_vectors(const HeadScanQ& a) noexcept {
    if ((a.ranks != 1 && a.ranks != 2 && a.ranks != 4) || (a.w == nullptr && a.ranks != 1)) return scalar::scan_q(a);
    int32_t up_k = 0;
    if (a.X_in == nullptr) {
        if (a.alpha_each != nullptr) return scalar::scan_q(a);
        // 64 in Q46 less what is added must leave room for the h there is: for every h up to a clip of 50, or as it is.
        const uint64_t most_h = a.clip <= 50 << 25 ? uint64_t(a.clip) : largest_q<W>(a.h_in, ptrdiff_t(a.P) * a.N);
        uint64_t       bound = (most_h + 1) << 21;
        uint32_t       all_k = 0, all_v = 0;
        for (ptrdiff_t r = 0; r < a.ranks && bound < uint64_t(1) << 52; ++r) { // each product is below 2^62
            const uint32_t k = largest_q<W>(a.k + r * a.k_stride, a.N), v = largest_q<W>(a.v + r * a.P, a.P);
            bound += uint64_t(v) * k, all_k |= k, all_v |= v;
            if (a.w == nullptr) continue;
            const uint32_t k0 = largest_q<W>(a.k0 + r * a.k_stride, a.N), w = largest_q<W>(a.w + r * a.P, a.P);
            bound += uint64_t(w) * k0, all_k |= k0, all_v |= w;
        }
        up_k = 31 - bit_length(all_k) < 9 ? 31 - bit_length(all_k) : 9;
        if (bound >= uint64_t(1) << 52 || bit_length(all_v) + 9 - up_k > 31) return scalar::scan_q(a);
    }
    if (a.w == nullptr) return scan_either<W, 1, false>(a, up_k);
    return a.ranks == 1   ? scan_either<W, 1, true>(a, up_k)
           : a.ranks == 2 ? scan_either<W, 2, true>(a, up_k)
                          : scan_either<W, 4, true>(a, up_k);
}

// S4D: one mode in 64 bits, its real part in the lower half. Where |x| of a channel is at most 35 and |b u| at most 12,
// |x'| stays below 64 before the limit: bits 30 to 61 of a x and 32 bits of b u are all of it.
template <class W> struct ModesQ {
    using L = wide<W>;
    W            half, b_half;
    int          down; // of b u
    SSM_INLINE W next(const int32_t* h, const unsigned char* a, const unsigned char* b, const W& u) const noexcept {
        const W x = L::raw(h), A = L::raw(a), B = L::raw(b), x_odd = L::odd(x), A_odd = L::odd(A);
        const W re = L::mul(A, x) + half - L::mul(A_odd, x_odd), im = L::mul(A, x_odd) + half + L::mul(A_odd, x);
        const W b_re = L::mul(B, u) + b_half, b_im = L::mul(L::odd(B), u) + b_half;
        return L::add_halves(L::blend(L::lsr(re, 30), L::up(im, 2)),
                             L::blend(L::lsr(b_re, down), L::up(b_im, 32 - down)));
    }
    static SSM_INLINE W read(const W& sum, const unsigned char* C, const W& x) noexcept { // + Re(C x)
        const W c = L::shorts(C);
        return sum + (L::mul(c, x) - L::mul(L::odd(c), L::odd(x)));
    }
    static SSM_INLINE uint32_t largest(const int32_t* x, ptrdiff_t n) noexcept { // n: whole vectors
        typename L::halves top = {}, low = {};
        for (ptrdiff_t i = 0; i < n; i += 2 * L::count) L::widen(&top, &low, L::raw(x + i));
        return L::largest(L::sizes(top, low));
    }
};
// The first `count` numbers of a channel's new state as they came out, limited; their part of the sum.
SSM_LOCAL int64_t limit_modes(int32_t* x, const unsigned char* C, ptrdiff_t count, int32_t clip, bool* hit) noexcept {
    int64_t sum = 0;
    for (ptrdiff_t k = 0; k < count; ++k) {
        x[k] = limit_q(x[k], clip, hit);
        const int64_t part = product(int16_t(load_u16(C + k * 2)), x[k]);
        sum += k % 2 == 0 ? part : -part;
    }
    return sum;
}
template <class W> SSM_INLINE bool s4d_vectors(const S4dScanQ& a) noexcept {
    using L = wide<W>;
    using V = typename L::halves;
    const ModesQ<W> v{L::set(1 << 29), L::set(int64_t(1) << (a.b_shift - 1)), a.b_shift};
    // Up to `calm` nothing is limited. Since |b| < 2^31, a |u| up to small_u is small enough for every channel.
    const uint32_t  calm = uint32_t(a.clip < 35 << 25 ? a.clip : 35 << 25);
    const uint32_t  small_u = (uint32_t(12) << 16) >> (22 - a.b_shift);
    const ptrdiff_t step = 2 * L::count, whole = a.modes * 2 / step * step; // numbers, those in vectors
    int32_t         dropped[max_d_state];
    bool            hit = false;
    for (ptrdiff_t h = 0; h < a.H; ++h) {
        const ptrdiff_t      first = h * a.modes * 2;
        const unsigned char *A = a.a + first * 4, *B = a.b + first * 4, *C = a.C + first * 2;
        const int32_t*       from = a.h_in;
        int32_t* const       to = a.h_out != nullptr ? a.h_out + first : dropped;
        bool                 fast = ModesQ<W>::largest(from + first, whole) <= calm;
        for (ptrdiff_t t = 0; t < a.T; ++t) {
            const int32_t u = a.u[t * a.stride + h];
            int64_t       sum = 0;
            ptrdiff_t     done = 0;
            if (fast && (size_of(u) <= small_u ||
                         uint64_t(size_of(u)) * largest_q<W>(B, whole) <= uint64_t(12) << (25 + a.b_shift))) {
                const W U = L::set(u);
                W       sums = L::set(0);
                V       top = {}, low = {};
                for (ptrdiff_t k = 0; k < whole; k += step) {
                    const W x = v.next(from + first + k, A + k * 4, B + k * 4, U);
                    L::put(to + k, x);
                    L::widen(&top, &low, x);
                    sums = ModesQ<W>::read(sums, C + k * 2, x);
                }
                fast = L::largest(L::sizes(top, low)) <= calm;
                sum = fast ? L::sum(sums) : limit_modes(to, C, whole, a.clip, &hit), done = whole;
            } else fast = false;
            if (done < a.modes * 2) sum += scalar::s4d_modes(a, from, h, done / 2, a.modes, u, &hit);
            if (a.h_out != nullptr) from = a.h_out;
            if (!fast) fast = ModesQ<W>::largest(from + first, whole) <= calm;
            a.s[t * a.stride + h] = scalar::s4d_read(a, h, sum, u);
        }
    }
    return hit;
}

// ---- Products and S4D in floats, for vectors of four and of eight

// Eight columns of a row are `parts` vectors; `rows` rows are taken at once. bf16() and f16() up-cast as many weights
// as a vector has; sums() are sum_lanes() of each of `rows` rows.
template <class F> struct columns;
template <> struct columns<f32x4> {
    static constexpr int    rows = 4, parts = 2;
    static SSM_INLINE f32x4 bf16(const unsigned char* p) noexcept {
        return reinterpret_cast<f32x4>(wide<i64x2>::extend(vector_at<i16x4>(p)) << 16);
    }
    static SSM_INLINE f32x4 pair(const f32x4* s) noexcept { // of two rows: 0+4+2+6 and 1+5+3+7 of either
        const f32x4 p = s[0] + s[1], q = s[2] + s[3];
        return __builtin_shufflevector(p, q, 0, 1, 4, 5) + __builtin_shufflevector(p, q, 2, 3, 6, 7);
    }
    static SSM_INLINE f32x4 sums(const f32x4* s) noexcept {
        const f32x4 ab = pair(s), cd = pair(s + 4);
        return __builtin_shufflevector(ab, cd, 0, 2, 4, 6) + __builtin_shufflevector(ab, cd, 1, 3, 5, 7);
    }
};
#if defined(SSM_HAS_AVX2)
template <> struct columns<f32x8> {
    static constexpr int    rows = 8, parts = 1;
    static SSM_INLINE f32x8 bf16(const unsigned char* p) noexcept {
        return reinterpret_cast<f32x8>(wide<i64x4>::extend(vector_at<i16x8>(p)) << 16);
    }
    static SSM_INLINE f32x8 f16(const unsigned char* p) noexcept {
#if defined(__clang__)
        typedef __fp16 f16x8 __attribute__((vector_size(16)));
        return __builtin_convertvector(vector_at<f16x8>(p), f32x8);
#else
        return __builtin_ia32_vcvtph2ps256(vector_at<i16x8>(p));
#endif
    }
    static SSM_INLINE f32x8 fold(const f32x8& a, const f32x8& b) noexcept { // 0+4 1+5 2+6 3+7 of a, then of b
        return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
               __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    }
    static SSM_INLINE f32x8 pair(const f32x8& a, const f32x8& b) noexcept { // in each half: 0+2 of a and of b, then 1+3
        return __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13) +
               __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
    }
    static SSM_INLINE f32x8 sums(const f32x8* s) noexcept {
        const f32x8 p = pair(fold(s[0], s[4]), fold(s[1], s[5])), q = pair(fold(s[2], s[6]), fold(s[3], s[7]));
        return __builtin_shufflevector(p, q, 0, 1, 8, 9, 4, 5, 12, 13) +
               __builtin_shufflevector(p, q, 2, 3, 10, 11, 6, 7, 14, 15);
    }
};
#endif
template <class F, DType T> SSM_INLINE F weights(const unsigned char* p) noexcept {
    if constexpr (T == DType::f32) return vector_at<F>(p);
    else if constexpr (T == DType::bf16) return columns<F>::bf16(p);
    else return columns<F>::f16(p);
}
template <class F, DType T, int R>
SSM_INLINE void multiply(F* s, const unsigned char* w, size_t row_bytes, const float* x) noexcept {
    constexpr int parts = columns<F>::parts;
    F             v[size_t(parts)];
    SSM_UNROLL_8
    for (int i = 0; i < parts; ++i) v[i] = vector_at<F>(x + i * width<F>);
    SSM_UNROLL_8
    for (int r = 0; r < R; ++r, w += row_bytes, s += parts) SSM_UNROLL_8
    for (int i = 0; i < parts; ++i) s[i] = s[i] + weights<F, T>(w + i * width<F> * (T == DType::f32 ? 4 : 2)) * v[i];
}
// R rows (1 or all) of one product, each N of them one after the other; `fetch`: have the cache bring in what stands
// `ahead`, where vectors are long. The last group of columns is read through a zero-padded copy.
constexpr size_t ahead = 6144;
template <class F, DType T, int R, int N>
SSM_INLINE void float_rows(float* y, const unsigned char* w, size_t row_bytes, const float* bias, const float* x,
                           int32_t cols, bool fetch) noexcept {
    constexpr size_t     size = T == DType::f32 ? 4 : 2;
    const unsigned char* next = w + ahead;
    F                    s[size_t(columns<F>::rows * columns<F>::parts)] = {};
    int32_t              k = 0;
    SSM_UNROLL_8
    for (size_t first = 0; first < R; first += N)
        for (k = 0; k + 8 <= cols; k += 8, next += N * 8 * size) {
            if (N == 8 && fetch) {
                SSM_UNROLL_8
                for (size_t line = 0; line < size; ++line) __builtin_prefetch(next + line * 64);
            }
            multiply<F, T, N>(s + first * columns<F>::parts, w + first * row_bytes + size_t(k) * size, row_bytes,
                              x + k);
        }
    if (k < cols) {
        float         x8[8] = {};
        unsigned char w8[size_t(R)][32] = {};
        copy(x8, x + k, size_t(cols - k) * 4);
        for (size_t r = 0; r < R; ++r) copy(w8[r], w + r * row_bytes + size_t(k) * size, size_t(cols - k) * size);
        multiply<F, T, R>(s, w8[0], 32, x8);
    }
    const F sums = columns<F>::sums(s);
    if constexpr (R == 1) *y = sums[0] + (bias != nullptr ? *bias : 0.0f);
    else store(y, F(sums + (bias != nullptr ? vector_at<F>(bias) : F{})), R);
}
// Groups of R rows over all n inputs, so that a group stays in the first-level cache. The last group may begin inside
// the one before. Rows of large models are read one by one where fetching ahead is not enough.
template <class F, DType T, int R>
SSM_INLINE void float_groups(float* y, ptrdiff_t y_stride, const Matrix& W, const float* bias, const float* x,
                             ptrdiff_t x_stride, int32_t n) noexcept {
    const size_t row_bytes = size_t(W.cols) * (T == DType::f32 ? 4 : 2);
    const bool   one_by_one = R == 8 && W.in_order && R * row_bytes > ahead;
    for (int32_t first = 0; first < W.rows; first += R) {
        const int32_t              o = first + R <= W.rows ? first : W.rows - R;
        const unsigned char* const w = W.data + size_t(o) * row_bytes;
        const float* const         b = bias != nullptr ? bias + o : nullptr;
        int32_t                    i = 0;
        if (one_by_one && n > 0) float_rows<F, T, R, 1>(y + o, w, row_bytes, b, x, W.cols, false), i = 1;
        for (; i < n; ++i)
            float_rows<F, T, R, R>(y + i * y_stride + o, w, row_bytes, b, x + i * x_stride, W.cols, i == 0);
    }
}
template <class F, DType T>
SSM_INLINE void matmul_of(float* y, int32_t y_stride, const Matrix& W, const float* bias, const float* x,
                          int32_t x_stride, int32_t n) noexcept {
    if (W.rows < columns<F>::rows) float_groups<F, T, 1>(y, y_stride, W, bias, x, x_stride, n);
    else float_groups<F, T, columns<F>::rows>(y, y_stride, W, bias, x, x_stride, n);
}
// What the clip limits of a block's new state, `lanes` channels of it; what these read out.
SSM_LOCAL bool limit_block(float* h, const float* c, int32_t modes, int32_t lanes, float clip, float* sum) noexcept {
    bool hit = false;
    for (int32_t j = 0; j < modes; ++j, h += 16, c += 16)
        for (int32_t k = 0; k < lanes; ++k) {
            h[k] = limit(h[k], clip, &hit), h[k + 8] = limit(h[k + 8], clip, &hit);
            sum[k] += c[k] * h[k] - c[k + 8] * h[k + 8];
        }
    return hit;
}
// One step of a block, or half of one, without the clip, watching the largest magnitude; where that passes the clip (or
// is NaN) the new state is walked again, limited and read out. Limiting is element-wise, so this is the specified step.
template <class F> SSM_INLINE bool s4d_floats(const S4dScan& given) noexcept {
    using L = lanes<F>;
    const S4dScan       a = given; // not written to through h_out
    bool                hit = false;
    const typename L::I bound = L::bits(L::set(a.clip));
    for (ptrdiff_t k = 0; k < a.blocks * 8; k += width<F>) {
        const ptrdiff_t    at = k / 8 * a.modes, lane = k % 8;
        const F            d = vector_at<F>(a.D + k);
        float* const       first = a.h_out + at * 16 + lane;
        const float *const p_end = a.ab + (at + a.modes) * 32 + lane, *h = a.h_in + at * 16 + lane;
        for (ptrdiff_t t = 0; t < a.T; ++t, h = first) {
            const F       v = vector_at<F>(a.u + t * a.stride + k);
            F             sum = {};
            typename L::I top = {};
            const float * q = a.c + at * 16 + lane, *x = h;
            float*        to = first;
            for (const float* p = a.ab + at * 32 + lane; p != p_end; p += 32, q += 16, x += 16, to += 16) {
                const F xr = vector_at<F>(x), xi = vector_at<F>(x + 8), ar = vector_at<F>(p), ai = vector_at<F>(p + 8);
                const F r = (ar * xr - ai * xi) + vector_at<F>(p + 16) * v;
                const F i = (ar * xi + ai * xr) + vector_at<F>(p + 24) * v;
                store(to, r, width<F>), store(to + 8, i, width<F>);
                const typename L::I m = L::bits(magnitude(r)), n = L::bits(magnitude(i));
                top = m > top ? m : top, top = n > top ? n : top;
                sum = sum + (vector_at<F>(q) * r - vector_at<F>(q + 8) * i);
            }
            if (L::any(top > bound)) {
                float each[size_t(width<F>)] = {};
                hit |= limit_block(first, a.c + at * 16 + lane, a.modes, width<F>, a.clip, each);
                sum = vector_at<F>(each);
            }
            store(a.s + t * a.stride + k, F(sum + d * v), width<F>);
        }
    }
    return hit;
}

// ---- 128 bits: SSE4.2, NEON, WebAssembly
//
// One body for all. What differs is how 64-bit lanes multiply (wide<i64x2>) and how codes do (a Dot).

typedef int8_t i8x16 __attribute__((vector_size(16)));
// Sixteen codes within +-127 (as `add` wants them), and sums of their products: four int32 that gain sixteen. `many`:
// as many vectors a row are read at once; `rows`: so many rows share what is read of a token.
struct Dot {
#if defined(SSM_HAS_NEON)
    using Codes = i8x16;
    static SSM_INLINE i8x16 codes(const i8x16& q) noexcept { return q; }
    static SSM_INLINE i32x4 add(const i32x4& sum, const i8x16& w, const i8x16& q) noexcept { // pairs at most 32,258
        return vpadalq_s16(sum, vmlal_s8(vmull_s8(vget_low_s8(w), vget_low_s8(q)), vget_high_s8(w), vget_high_s8(q)));
    }
    static SSM_INLINE i32x4 add(const i32x4& sum, const i16x8& w, const i16x8& q) noexcept {
        return vmlal_s16(vmlal_s16(sum, vget_low_s16(w), vget_low_s16(q)), vget_high_s16(w), vget_high_s16(q));
    }
    static SSM_INLINE i16x8 low(const i8x16& v) noexcept { return vmovl_s8(vget_low_s8(v)); }
    static SSM_INLINE i16x8 high(const i8x16& v) noexcept { return vmovl_s8(vget_high_s8(v)); }
#else
    struct Codes {
        i16x8 low, high;
    };
    static SSM_INLINE Codes codes(const i8x16& q) noexcept { return {low(q), high(q)}; }
    static SSM_INLINE i32x4 add(const i32x4& sum, const i8x16& w, const Codes& q) noexcept {
        return add(add(sum, low(w), q.low), high(w), q.high);
    }
#if defined(SSM_HAS_SIMD128)
    static SSM_INLINE i32x4 add(const i32x4& sum, const i16x8& w, const i16x8& q) noexcept {
        return sum + wasm_i32x4_dot_i16x8(w, q);
    }
#else
    static SSM_INLINE i32x4 add(const i32x4& sum, const i16x8& w, const i16x8& q) noexcept {
        return sum +
               reinterpret_cast<i32x4>(_mm_madd_epi16(reinterpret_cast<__m128i>(w), reinterpret_cast<__m128i>(q)));
    }
#endif
#if defined(__clang__)
    typedef int8_t          i8x8 __attribute__((vector_size(8)));
    static SSM_INLINE i16x8 low(const i8x16& v) noexcept {
        return __builtin_convertvector(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7), i16x8);
    }
    static SSM_INLINE i16x8 high(const i8x16& v) noexcept {
        return __builtin_convertvector(__builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15), i16x8);
    }
#else
    typedef char            v16qi __attribute__((vector_size(16)));
    static SSM_INLINE i16x8 low(const i8x16& v) noexcept {
        return reinterpret_cast<i16x8>(__builtin_ia32_pmovsxbw128(reinterpret_cast<v16qi>(v)));
    }
    static SSM_INLINE i16x8 high(const i8x16& v) noexcept {
        return low(__builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15));
    }
#endif
#endif
#if defined(__aarch64__)
    static constexpr int many = 4, rows = 8;
#else
    static constexpr int many = 1, rows = 4;
#endif
    static SSM_INLINE i8x16 low_nibbles(const i8x16& v) noexcept { return (v << 4) >> 4; }
    static SSM_INLINE i8x16 high_nibbles(const i8x16& v) noexcept { return v >> 4; }
};
#if defined(SSM_HAS_DOTPROD)
struct Sdot : Dot {
    static SSM_INLINE i32x4 add(i32x4 sum, const i8x16& w, const i8x16& q) noexcept {
        __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(w), "w"(q)); // in functions without SSM_DOTPROD, too
        return sum;
    }
};
#endif

// N vectors of R rows.
template <int N> SSM_INLINE void next(i8x16* v, const unsigned char** p) noexcept { // moves on
#if defined(__aarch64__) // one instruction with what moves on, if the compiler does not see that all rows move alike
    if constexpr (N == 4) {
        const int8x16x4_t all = vld1q_s8_x4(reinterpret_cast<const int8_t*>(*p));
        SSM_MEMCPY(v, &all, sizeof all);
    } else if constexpr (N == 2) {
        const int8x16x2_t all = vld1q_s8_x2(reinterpret_cast<const int8_t*>(*p));
        SSM_MEMCPY(v, &all, sizeof all);
    } else v[0] = vector_at<i8x16>(*p);
    *p += 16 * N;
    __asm__("" : "+r"(*p));
#else
    SSM_UNROLL_8
    for (int k = 0; k < N; ++k) v[k] = vector_at<i8x16>(*p + 16 * k);
    *p += 16 * N;
#endif
}
template <class D, int R, int N>
SSM_INLINE void add_codes(i32x4* s, const unsigned char** w, const unsigned char** q) noexcept {
    typename D::Codes v[size_t(N)];
    i8x16             u[size_t(N)];
    next<N>(u, q);
    SSM_UNROLL_8
    for (int k = 0; k < N; ++k) v[k] = D::codes(u[k]);
    SSM_UNROLL_8
    for (ptrdiff_t r = 0; r < R; ++r) {
        next<N>(u, w + r);
        SSM_UNROLL_8
        for (int k = 0; k < N; ++k) s[r] = D::add(s[r], u[k], v[k]);
    }
}
// R rows of int8 from o on.
template <class D, int R>
SSM_INLINE void dot8_rows(i32x4* s, const Matrix& W, ptrdiff_t o, const unsigned char* q) noexcept {
    const ptrdiff_t      cols = W.cols;
    const unsigned char* row[size_t(R)];
    SSM_UNROLL_8
    for (ptrdiff_t r = 0; r < R; ++r) row[r] = W.data + (o - W.rows4 + r) * cols;
    ptrdiff_t left = cols;
    for (; left >= 16 * D::many; left -= 16 * D::many) add_codes<D, R, D::many>(s, row, &q);
    for (; left >= 16; left -= 16) add_codes<D, R, 1>(s, row, &q);
    if (left <= 0) return;
    const last_columns<R, 16> last(row[0], cols, left, room_behind(W, o) - (cols - left));
    SSM_UNROLL_8
    for (ptrdiff_t r = 0; r < R; ++r) row[r] = last.row[r];
    add_codes<D, R, 1>(s, row, &q);
}
// R rows of int4: a group's lower nibbles belong to its first 16 codes.
template <class D, int R>
SSM_INLINE void dot4_rows(i32x4* s, const unsigned char* w, const unsigned char* sub, ptrdiff_t groups,
                          const unsigned char* q) noexcept {
    for (ptrdiff_t g = 0; g < groups; ++g) {
        const auto low = D::codes(vector_at<i8x16>(q + g * 32)), high = D::codes(vector_at<i8x16>(q + g * 32 + 16));
        SSM_UNROLL_8
        for (ptrdiff_t r = 0; r < R; ++r) {
            const i8x16 both = vector_at<i8x16>(w + (r * groups + g) * 16);
            const i32x4 part = D::add(D::add(i32x4{}, D::low_nibbles(both), low), D::high_nibbles(both), high);
            s[r] = s[r] + part * int32_t(static_cast<signed char>(sub[r * groups + g]));
        }
    }
}
// From two rows' sums to Q16, as requantize(): rs(p, s) = rs(p >> (s - 1), 1), with 2^62 on top so that the first shift
// may be logical. Past 62 it leaves 0.
SSM_INLINE void give2(int32_t* y, const i32x2& sums, const int32_t* scale, const Matrix& W, ptrdiff_t o) noexcept {
    using L = wide<i64x2>;
    const i64x2 s = L::extend(vector_at<i32x2>(W.scale + o * 4));
    const i64x2 shift = L::clamp(i64x2(L::set(scale[1] + 150 - 24 - 1) - L::lsr(s, 23)), 63),
                top = L::set(one_q30 << 32);
    const i64x2 T = rs_low<24>(L::mul((s & 0x7fffff) | 0x800000, L::set(scale[0])));
    const i64x2 p = L::mul(L::extend(sums), T) + top;
    i64x2       v = rs<1>(i64x2(L::lsr(p, shift) - L::lsr(top, shift)));
    if (W.bias != nullptr) v = v + L::extend(vector_at<i32x2>(W.bias + o * 4));
    L::store(y + o, sat_q(v), 2);
}
SSM_INLINE i32x4 pairs(const i32x4& a, const i32x4& b) noexcept { // sums of two, a's and b's in turn
    return __builtin_shufflevector(a, b, 0, 4, 2, 6) + __builtin_shufflevector(a, b, 1, 5, 3, 7);
}
template <class D, int R = D::rows> struct rows128 {
    static constexpr int rows = R, tokens = 1;
    using Fewer = rows128<D, 1>;
    using Ready = NothingReady;
    static SSM_INLINE void all(const Matrix& W, int32_t o, int32_t end, const Tokens& t, const Ready&) noexcept {
        all_rows<rows128>(W, o, end, t);
    }
    static SSM_INLINE void rows_at(const Matrix& W, int32_t o, const Tokens& t) noexcept {
        const ptrdiff_t groups = (W.cols + 31) / 32;
        i32x4           s[size_t(R)] = {};
        if (o < W.rows4) dot4_rows<D, R>(s, W.data4 + o * groups * 16, W.sub + o * groups, groups, t.q);
        else dot8_rows<D, R>(s, W, o, t.q);
        if constexpr (R == 1) t.y[o] = scalar::requantize((s[0][0] + s[0][1]) + (s[0][2] + s[0][3]), t.scales, W, o, 8);
        SSM_UNROLL_8
        for (int r = 0; r + 4 <= R; r += 4) {
            const i32x4 ab = pairs(s[r], s[r + 1]), cd = pairs(s[r + 2], s[r + 3]);
            const i32x4 sums =
                __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
            give2(t.y, __builtin_shufflevector(sums, sums, 0, 1), t.scales, W, o + r);
            give2(t.y, __builtin_shufflevector(sums, sums, 2, 3), t.scales, W, o + r + 2);
        }
    }
};
// From the halves of four vectors to codes in their order.
template <class W> struct packed;
template <> struct packed<i64x2> {
    static SSM_INLINE i16x8 lower(const i32x4& a, const i32x4& b) noexcept {
        return __builtin_shufflevector(reinterpret_cast<i16x8>(a), reinterpret_cast<i16x8>(b), 0, 2, 4, 6, 8, 10, 12,
                                       14);
    }
    static SSM_INLINE void put16(unsigned char* to, const i32x4* c) noexcept {
        const i16x8 v[2] = {lower(c[0], c[1]), lower(c[2], c[3])};
        SSM_MEMCPY(to, v, sizeof v);
    }
    static SSM_INLINE void put8(unsigned char* to, const i32x4* c) noexcept {
        const i8x16 p = reinterpret_cast<i8x16>(lower(c[0], c[1])), q = reinterpret_cast<i8x16>(lower(c[2], c[3]));
        const i8x16 v = __builtin_shufflevector(p, q, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        SSM_MEMCPY(to, &v, sizeof v);
    }
};
#if defined(SSM_HAS_AVX2)
template <> struct packed<i64x4> {                                           // inlined late
    static inline SSM_TARGET("avx2") __m256i pack(const i32x8* c) noexcept { // lanes interleaved
        return _mm256_packs_epi32(reinterpret_cast<__m256i>(c[0]), reinterpret_cast<__m256i>(c[1]));
    }
    static inline SSM_TARGET("avx2") void put16(unsigned char* to, const i32x8* c) noexcept {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute4x64_epi64(pack(c), 0xd8));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 32), _mm256_permute4x64_epi64(pack(c + 2), 0xd8));
    }
    static inline SSM_TARGET("avx2") void put8(unsigned char* to, const i32x8* c) noexcept {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                            _mm256_permutevar8x32_epi32(_mm256_packs_epi16(pack(c), pack(c + 2)),
                                                        _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    }
};
#endif
// A code is the upper half of (x << sh) R + half, shifted on. They stay within +-127 or +-32767 by themselves.
template <class W>
SSM_INLINE void quantize_vectors(unsigned char* codes, int32_t* scale, const int32_t* x, int32_t n, int32_t padded_n,
                                 int32_t bits) noexcept {
    using L = wide<W>;
    using V = typename L::halves;
    constexpr int32_t at_once = 8 * L::count; // four vectors
    const Quotients   t(largest_q<W>(x, n), bits);
    const W           R = L::set(t.R), half = L::set(int64_t(1) << (bits == 8 ? 53 : 45));
    const int         sh = t.sh, down = bits == 8 ? 22 : 14;
    int32_t           last[size_t(at_once)];
    for (int32_t i = 0; i < padded_n; i += at_once) {
        const int32_t* from = x + i;
        if (n - i < at_once) {
            fill_zero(last, sizeof last), copy(last, from, size_t(n > i ? n - i : 0) * 4);
            from = last;
        }
        V c[4];
        SSM_UNROLL_8
        for (int k = 0; k < 4; ++k) {
            const W v = L::up_halves(L::raw(from + k * 2 * L::count), sh);
            const W even = L::mul(v, R) + half, other = L::mul(L::odd(v), R) + half;
            c[k] = reinterpret_cast<V>(L::blend(L::odd(even), other)) >> down;
        }
        if (bits == 8) packed<W>::put8(codes + i, c);
        else packed<W>::put16(codes + 2 * i, c);
    }
    scale[0] = t.num, scale[1] = t.den;
}

// Codes of 16 bits: `count` to a vector, pairs of whose products join sums of 32 bits.
template <class V> struct codes16;
template <> struct codes16<i16x8> {
    using sums = i32x4;
    static SSM_INLINE void    widen(i16x8* to, const i8x16& v) noexcept { to[0] = Dot::low(v), to[1] = Dot::high(v); }
    static SSM_INLINE void    add(i32x4* s, const i16x8& w, const i16x8& q) noexcept { *s = Dot::add(*s, w, q); }
    static SSM_INLINE int64_t total(const i32x4& s) noexcept { // no sum of two fits surely
        return wide<i64x2>::sum(wide<i64x2>::extend(__builtin_shufflevector(s, s, 0, 1)) +
                                wide<i64x2>::extend(__builtin_shufflevector(s, s, 2, 3)));
    }
};
#if defined(SSM_HAS_AVX2)
template <> struct codes16<i16x16> {
    using sums = i32x8;
    static inline SSM_TARGET("avx2") void add(i32x8* s, const i16x16& w, const i16x16& q) noexcept { // inlined late
        *s =
            *s + reinterpret_cast<i32x8>(_mm256_madd_epi16(reinterpret_cast<__m256i>(w), reinterpret_cast<__m256i>(q)));
    }
    static inline SSM_TARGET("avx2") void widen(i16x16* to, const i8x16& v) noexcept {
        *to = reinterpret_cast<i16x16>(_mm256_cvtepi8_epi16(reinterpret_cast<__m128i>(v)));
    }
    static SSM_INLINE int64_t total(const i32x8& s) noexcept {
        return wide<i64x4>::sum(wide<i64x4>::extend(__builtin_shufflevector(s, s, 0, 1, 2, 3)) +
                                wide<i64x4>::extend(__builtin_shufflevector(s, s, 4, 5, 6, 7)));
    }
};
#endif
// R rows. Pairs of products are below 2^23, with int4 codes and sub-scales below 2^26: 256 or 32 of them fit 32 bits.
template <class V, int R = 4> struct rows16 {
    static constexpr int rows = R, tokens = 1, count = int(sizeof(V) / 2), parts = 16 / count;
    using Fewer = rows16<V, 1>;
    using Ready = NothingReady;
    using K = codes16<V>;
    static SSM_INLINE void all(const Matrix& W, int32_t o, int32_t end, const Tokens& t, const Ready&) noexcept {
        all_rows<rows16>(W, o, end, t);
    }
    struct Sums {
        typename K::sums of[size_t(R)] = {};
        SSM_INLINE void add(int r, const i8x16& v, const unsigned char* q, int32_t by) noexcept { // sixteen, times `by`
            V w[size_t(parts)];
            K::widen(w, v);
            SSM_UNROLL_8
            for (int k = 0; k < parts; ++k) {
                if (by != 1) w[k] = w[k] * int16_t(by);
                K::add(&of[r], w[k], vector_at<V>(q + k * ptrdiff_t(sizeof(V))));
            }
        }
        SSM_INLINE void join(int64_t* acc) const noexcept {
            SSM_UNROLL_8
            for (int r = 0; r < R; ++r) acc[r] += K::total(of[r]);
        }
    };
    static SSM_INLINE void rows8(int64_t* acc, const Matrix& W, ptrdiff_t o, const unsigned char* q) noexcept {
        const ptrdiff_t            cols = W.cols, whole = cols / 16 * 16;
        const unsigned char* const row = W.data + (o - W.rows4) * cols;
        for (ptrdiff_t k = 0; k < cols;) {
            const ptrdiff_t stop = whole - k < 256 * count ? whole : k + 256 * count;
            Sums            s;
            for (; k < stop; k += 16) SSM_UNROLL_8
            for (int r = 0; r < R; ++r) s.add(r, vector_at<i8x16>(row + r * cols + k), q + 2 * k, 1);
            if (k == whole && whole < cols) { // at most 16 more: a last vector below 256
                const last_columns<R, 16> last(row + k, cols, cols - k, room_behind(W, o) - k);
                if (k % (256 * count) == 0) s.join(acc), s = Sums();
                SSM_UNROLL_8
                for (int r = 0; r < R; ++r) s.add(r, vector_at<i8x16>(last.row[r]), q + 2 * k, 1);
                k = cols;
            }
            s.join(acc);
        }
    }
    static SSM_INLINE void rows4(int64_t* acc, const Matrix& W, ptrdiff_t o, const unsigned char* q) noexcept {
        const ptrdiff_t            groups = (W.cols + 31) / 32;
        const unsigned char *const w = W.data4 + o * groups * 16, *const sub = W.sub + o * groups;
        for (ptrdiff_t g = 0; g < groups;) {
            const ptrdiff_t stop = groups - g < count ? groups : g + count;
            Sums            s;
            for (; g < stop; ++g) SSM_UNROLL_8
            for (int r = 0; r < R; ++r) {
                const i8x16   both = vector_at<i8x16>(w + (r * groups + g) * 16);
                const int32_t by = static_cast<signed char>(sub[r * groups + g]);
                s.add(r, Dot::low_nibbles(both), q + g * 64, by);
                s.add(r, Dot::high_nibbles(both), q + g * 64 + 32, by);
            }
            s.join(acc);
        }
    }
    static SSM_INLINE void rows_at(const Matrix& W, int32_t o, const Tokens& t) noexcept {
        int64_t acc[size_t(R)] = {};
        if (o < W.rows4) rows4(acc, W, o, t.q);
        else rows8(acc, W, o, t.q);
        for (int r = 0; r < R; ++r) t.y[o + r] = scalar::requantize(acc[r], t.scales, W, o + r, 16);
    }
};

#if defined(SSM_HAS_AVX2)
#define SSM_128 SSM_TARGET("sse4.2")
#else
#define SSM_128
#endif
struct vectors128 : scalar {
#if !defined(__arm__) // whose vectors lose denormals
    static SSM_128 void matmul(float* y, int32_t y_stride, const Matrix& W, const float* bias, const float* x,
                               int32_t x_stride, int32_t n) {
        if (W.dtype == DType::f32) matmul_of<f32x4, DType::f32>(y, y_stride, W, bias, x, x_stride, n);
        else if (W.dtype == DType::bf16) matmul_of<f32x4, DType::bf16>(y, y_stride, W, bias, x, x_stride, n);
        else scalar::matmul(y, y_stride, W, bias, x, x_stride, n);
    }
    static SSM_128 bool s4d_scan(const S4dScan& a) { return s4d_floats<f32x4>(a); }
    SSM_FLOAT_LOOPS(SSM_128, f32x4)
#if !defined(SSM_HAS_SIMD128) // there one at a time is faster, up to 3 times in node
    SSM_FLOAT_CELLS(SSM_128, f32x4)
#endif
#endif

    static SSM_128 void quantize(unsigned char* codes, int32_t* scale, const int32_t* x, int32_t n, int32_t padded_n,
                                 int32_t bits) {
        quantize_vectors<i64x2>(codes, scale, x, n, padded_n, bits);
    }
    static SSM_128 __attribute__((noinline)) void matmul_q16(const Matrix& W, const Tokens& t, int32_t n) {
        matmul_codes<rows16<i16x8>>(W, t, n);
    }
    static SSM_128 void matmul_q(const Matrix& W, const Tokens& t, int32_t n, int32_t bits) {
        if (bits == 8) matmul_codes<rows128<Dot>>(W, t, n);
        else matmul_q16(W, t, n);
    }
    static SSM_128 bool scan_q(const HeadScanQ& a) { return scan_vectors<i64x2>(a); }
    static SSM_128 bool s4d_scan_q(const S4dScanQ& a) { return s4d_vectors<i64x2>(a); }
    SSM_INTEGER_LOOPS(SSM_128, i64x2)
};
#undef SSM_128
#if defined(SSM_HAS_AVX2)
struct sse42 : vectors128 {
    static constexpr const char* name = "sse42";
};
#elif defined(SSM_HAS_SIMD128)
struct simd128 : vectors128 {
    static constexpr const char* name = "simd128";
};
#else
struct neon : vectors128 {
    static constexpr const char* name = "neon";
};
#endif
#if defined(SSM_HAS_DOTPROD)
struct dotprod : neon {
    static constexpr const char* name = "dotprod";

    static SSM_DOTPROD void matmul_q(const Matrix& W, const Tokens& t, int32_t n, int32_t bits) {
        if (bits == 8) matmul_codes<rows128<Sdot>>(W, t, n);
        else neon::matmul_q(W, t, n, bits);
    }
};
#if defined(SSM_HAS_I8MM)
// Eight rows for two or four tokens: of two rows and two tokens, eight codes each, one instruction adds all four sums.
template <int T> struct rows_of_pairs {
    static constexpr int rows = 8, tokens = T;
    struct Fewer : rows128<Sdot, 1> { // for each token
        static constexpr int   tokens = T;
        static SSM_INLINE void all(const Matrix& W, int32_t o, int32_t end, const Tokens& t, const Ready&) noexcept {
            for (int i = 0; i < T; ++i) all_rows<rows128<Sdot, 1>>(W, o, end, t.from(i));
        }
    };
    using Single = rows_of_pairs<T / 2>;
    using Ready = NothingReady;
    struct Sums { // of rows 2 p and tokens 2 u: first row first token, first second, second first, second second
        i32x4 of[4][size_t(T / 2)] = {};
    };
    struct Sixteen { // codes of two rows or tokens: the first eight of either, the last eight
        i8x16           low, high;
        SSM_INLINE void set(const i8x16& a, const i8x16& b) noexcept {
            const i64x2 x = reinterpret_cast<i64x2>(a), y = reinterpret_cast<i64x2>(b);
            low = reinterpret_cast<i8x16>(__builtin_shufflevector(x, y, 0, 2));
            high = reinterpret_cast<i8x16>(__builtin_shufflevector(x, y, 1, 3));
        }
    };
    static SSM_INLINE i32x4 add(i32x4 sum, const Sixteen& w, const Sixteen& q) noexcept {
        __asm__("smmla %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(w.low), "w"(q.low));
        __asm__("smmla %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(w.high), "w"(q.high));
        return sum;
    }
    template <int N>
    static SSM_INLINE void pair_of(Sixteen* to, const unsigned char** a, const unsigned char** b) noexcept {
        i8x16 x[size_t(N)], y[size_t(N)];
        next<N>(x, a), next<N>(y, b);
        SSM_UNROLL_8
        for (int k = 0; k < N; ++k) to[k].set(x[k], y[k]);
    }
    template <int N> // times sixteen columns
    static SSM_INLINE void columns(Sums* s, const unsigned char** row, const unsigned char** q) noexcept {
        Sixteen x[size_t(T / 2)][size_t(N)], w[size_t(N)];
        SSM_UNROLL_8
        for (int u = 0; u < T / 2; ++u) pair_of<N>(x[u], q + 2 * u, q + 2 * u + 1);
        SSM_UNROLL_8
        for (int p = 0; p < 4; ++p) {
            pair_of<N>(w, row + 2 * p, row + 2 * p + 1);
            SSM_UNROLL_8
            for (int u = 0; u < T / 2; ++u) SSM_UNROLL_8
            for (int k = 0; k < N; ++k) s->of[p][u] = add(s->of[p][u], w[k], x[u][k]);
        }
    }
    static SSM_INLINE void group(Sums* s, const unsigned char* w, const unsigned char* sub, ptrdiff_t groups,
                                 const unsigned char** q) noexcept { // of int4
        Sixteen x[size_t(T / 2)][2], low, high;
        SSM_UNROLL_8
        for (int u = 0; u < T / 2; ++u) pair_of<2>(x[u], q + 2 * u, q + 2 * u + 1);
        SSM_UNROLL_8
        for (ptrdiff_t p = 0; p < 4; ++p, w += groups * 32, sub += groups * 2) {
            const i8x16 a = vector_at<i8x16>(w), b = vector_at<i8x16>(w + groups * 16);
            low.set(Sdot::low_nibbles(a), Sdot::low_nibbles(b)), high.set(Sdot::high_nibbles(a), Sdot::high_nibbles(b));
            const int32_t first = static_cast<signed char>(sub[0]), second = static_cast<signed char>(sub[groups]);
            const i32x4   by = {first, first, second, second};
            SSM_UNROLL_8
            for (int u = 0; u < T / 2; ++u)
                s->of[p][u] = s->of[p][u] + by * add(add(i32x4{}, low, x[u][0]), high, x[u][1]);
        }
    }
    static SSM_INLINE void rows_at(const Matrix& W, int32_t o, const Tokens& t) noexcept {
        const ptrdiff_t      cols = W.cols, groups = (cols + 31) / 32;
        const unsigned char *q[size_t(T)], *row[8];
        Sums                 s;
        SSM_UNROLL_8
        for (int i = 0; i < T; ++i) q[i] = t.q + i * t.stride;
        if (o < W.rows4)
            for (ptrdiff_t g = 0; g < groups; ++g)
                group(&s, W.data4 + (o * groups + g) * 16, W.sub + o * groups + g, groups, q);
        else {
            SSM_UNROLL_8
            for (ptrdiff_t r = 0; r < 8; ++r) row[r] = W.data + (o - W.rows4 + r) * cols;
            ptrdiff_t left = cols;
            for (; left >= 32; left -= 32) columns<2>(&s, row, q);
            if (left >= 16) columns<1>(&s, row, q), left -= 16;
            if (left > 0) {
                last_columns<8, 16> last(row[0], cols, left, room_behind(W, o) - (cols - left));
                columns<1>(&s, last.row, q);
            }
        }
        SSM_UNROLL_8
        for (int p = 0; p < 4; ++p) SSM_UNROLL_8
        for (int u = 0; u < T / 2; ++u) {
            const i32x4  v = s.of[p][u];
            const Tokens a = t.from(2 * u), b = t.from(2 * u + 1);
            give2(a.y, __builtin_shufflevector(v, v, 0, 2), a.scales, W, o + 2 * p);
            give2(b.y, __builtin_shufflevector(v, v, 1, 3), b.scales, W, o + 2 * p);
        }
    }
    static SSM_INLINE void all(const Matrix& W, int32_t o, int32_t end, const Tokens& t, const Ready&) noexcept {
        all_rows<rows_of_pairs>(W, o, end, t);
    }
};
template <> struct rows_of_pairs<1> : rows128<Sdot> {};
struct i8mm : dotprod {
    static constexpr const char* name = "i8mm";

    static SSM_I8MM void matmul_q(const Matrix& W, const Tokens& t, int32_t n, int32_t bits) {
        if (bits == 8) matmul_codes<rows_of_pairs<4>>(W, t, n);
        else neon::matmul_q(W, t, n, bits);
    }
};
#undef SSM_I8MM
#endif
#undef SSM_DOTPROD
#undef SSM_ARMV8_2
#endif

#if defined(SSM_HAS_AVX2)
#define SSM_AVX2 SSM_TARGET("avx2,f16c")
#define SSM_AVX2_INLINE_ inline __attribute__((always_inline)) SSM_AVX2
#define SSM_AVX2_INLINE static SSM_AVX2_INLINE_
struct avx2 : scalar {
    static constexpr const char* name = "avx2";

    static SSM_AVX2 void matmul(float* y, int32_t y_stride, const Matrix& W, const float* bias, const float* x,
                                int32_t x_stride, int32_t n) {
        if (W.dtype == DType::f32) matmul_of<f32x8, DType::f32>(y, y_stride, W, bias, x, x_stride, n);
        else if (W.dtype == DType::f16) matmul_of<f32x8, DType::f16>(y, y_stride, W, bias, x, x_stride, n);
        else matmul_of<f32x8, DType::bf16>(y, y_stride, W, bias, x, x_stride, n);
    }
    static SSM_AVX2 bool s4d_scan(const S4dScan& a) { return s4d_floats<f32x8>(a); }
    SSM_FLOAT_LOOPS(SSM_AVX2, f32x8)
    SSM_FLOAT_CELLS(SSM_AVX2, f32x8)

    // ---- Of integers

    SSM_AVX2_INLINE __m256i load(const void* p) noexcept { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
    SSM_AVX2_INLINE void    store(void* p, __m256i v) noexcept { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
    static SSM_AVX2 void quantize(unsigned char* codes, int32_t* scale, const int32_t* x, int32_t n, int32_t padded_n,
                                  int32_t bits) {
        quantize_vectors<i64x4>(codes, scale, x, n, padded_n, bits);
    }

    // R int32, 8, or 4 in the lower half, and those of even and odd places in lanes of 64 bits.
    template <int R> SSM_AVX2_INLINE __m256i ints(const void* p, ptrdiff_t o) noexcept {
        const unsigned char* const at = static_cast<const unsigned char*>(p) + o * 4;
        if constexpr (R == 8) return load(at);
        else return _mm256_zextsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
    }
    SSM_AVX2_INLINE __m256i even(__m256i v) noexcept { return _mm256_blend_epi32(v, _mm256_setzero_si256(), 0xaa); }
    SSM_AVX2_INLINE __m256i odd(__m256i v) noexcept { return _mm256_srli_epi64(v, 32); }
    // The same in all lanes, made before a loop: see lanes64's set().
    SSM_AVX2_INLINE __m256i kept(__m256i v) noexcept {
#if !defined(__clang__)
        __asm__("" : "+x"(v));
#endif
        return v;
    }
    SSM_AVX2_INLINE __m256i all64(int64_t x) noexcept { return kept(_mm256_set1_epi64x(x)); }
    SSM_AVX2_INLINE __m256i all32(int32_t x) noexcept { return kept(_mm256_set1_epi32(x)); }
    // Where rows' sums go, with what is the same for all of them.
    struct Outputs {
        int32_t*             y;
        const int32_t*       scales;
        const Matrix&        W;
        const unsigned char *scale, *bias;
        __m256i              num, shift;
        SSM_AVX2_INLINE_     Outputs(const Matrix& of, const Tokens& t) noexcept
            : y(t.y), scales(t.scales), W(of), scale(of.scale), bias(of.bias), num(_mm256_set1_epi64x(t.scales[0])),
              shift(_mm256_set1_epi32(t.scales[1] + 150 - 24 - 1)) {}
    };
    // From R rows' sums to Q16, as requantize(). rs(p, s) = rs(p >> (s - 1), 1): p + 2^62 is shifted logically by
    // s - 1, and what became of 2^62 taken off again, which leaves 0 for shifts past 62. Results that reach 2^30 go
    // the long way, which saturates.
    SSM_AVX2_INLINE __m256i requantized(__m256i acc, __m256i m, __m256i num, __m256i shift) noexcept { // 2^33 more
        const __m256i bias62 = all64(1LL << 62);
        const __m256i T = _mm256_srli_epi64(_mm256_add_epi64(_mm256_mul_epu32(m, num), all64(1 << 23)), 24);
        const __m256i p = _mm256_add_epi64(_mm256_mul_epi32(acc, T), bias62);
        const __m256i up = all64((1LL << 34) + 1); // even but for the half, so that halving may be logical
        return _mm256_srli_epi64(
            _mm256_add_epi64(_mm256_sub_epi64(_mm256_srlv_epi64(p, shift), _mm256_srlv_epi64(bias62, shift)), up), 1);
    }
    template <int R> SSM_AVX2_INLINE void give(const Outputs& to, __m256i acc, ptrdiff_t o) noexcept {
        const __m256i s = ints<R>(to.scale, o);
        const __m256i m = _mm256_or_si256(_mm256_and_si256(s, all32(0x7fffff)), all32(0x800000));
        const __m256i shift = _mm256_sub_epi32(to.shift, _mm256_srli_epi32(s, 23));
        __m256i a = requantized(acc, m, to.num, even(shift)), b = requantized(odd(acc), odd(m), to.num, odd(shift));
        if (to.bias != nullptr) {
            const __m256i bias = _mm256_xor_si256(ints<R>(to.bias, o), _mm256_set1_epi32(-int_max - 1));
            const __m256i less = _mm256_set1_epi64x(-(1LL << 31)); // what that made of it
            a = _mm256_add_epi64(a, _mm256_add_epi64(even(bias), less));
            b = _mm256_add_epi64(b, _mm256_add_epi64(odd(bias), less));
        }
        const __m256i low = all64((1LL << 30) - (1LL << 33)); // to 0 .. 2^31
        const __m256i both = _mm256_or_si256(_mm256_add_epi64(a, low), _mm256_add_epi64(b, low));
        const __m256i out = _mm256_blend_epi32(a, _mm256_slli_epi64(b, 32), 0xaa);
        if constexpr (R == 8) store(to.y + o, out);
        else _mm_storeu_si128(reinterpret_cast<__m128i*>(to.y + o), _mm256_castsi256_si128(out));
        if (_mm256_testz_si256(both, all64(-(1LL << 31))) == 0) saturate(to, acc, o, R);
    }
    static SSM_AVX2 void saturate(const Outputs& to, __m256i acc, ptrdiff_t o, int32_t rows) noexcept {
        int32_t each[8];
        store(each, acc);
        for (int32_t r = 0; r < rows; ++r) to.y[o + r] = requantize(each[r], to.scales, to.W, int32_t(o) + r, 8);
    }
    // The sums of four vectors, in either half of their numbers; and of R vectors, 4 or 8.
    SSM_AVX2_INLINE __m256i pairs4(__m256i a, __m256i b) noexcept {
        return _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    }
    SSM_AVX2_INLINE __m256i halves4(__m256i a, __m256i b, __m256i c, __m256i d) noexcept {
        const __m256i p = pairs4(a, b), q = pairs4(c, d);
        return _mm256_add_epi32(_mm256_unpacklo_epi64(p, q), _mm256_unpackhi_epi64(p, q));
    }
    template <int R> SSM_AVX2_INLINE __m256i sums(const __m256i* s) noexcept {
        const __m256i a = halves4(s[0], s[1], s[2], s[3]);
        if constexpr (R == 4)
            return _mm256_zextsi128_si256(_mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)));
        else {
            const __m256i b = halves4(s[4], s[5], s[6], s[7]);
            return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
        }
    }
    SSM_AVX2_INLINE __m256i sums_of(__m256i q) noexcept { // of four codes each
        return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), q), _mm256_set1_epi16(1));
    }
    SSM_AVX2_INLINE int32_t total(__m256i s) noexcept {
        const __m256i all[4] = {s, s, s, s};
        return _mm_cvtsi128_si32(_mm256_castsi256_si128(sums<4>(all)));
    }
    // How 256 bits multiply: `bytes` adds 32 products of codes within +-127 to eight sums, `words` 16 of int16. Sums of
    // bytes() come out larger by what more() says of all codes of the token.
    struct Pairs { // |q|, the same for all rows, times w, or -w - 1 where q < 0; pairs within +-32,512
        SSM_AVX2_INLINE __m256i bytes(__m256i sum, const unsigned char* w, __m256i q) noexcept {
            const __m256i negative = _mm256_cmpgt_epi8(_mm256_setzero_si256(), q);
            const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_xor_si256(load(w), negative));
            return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
        SSM_AVX2_INLINE __m256i words(__m256i sum, __m256i a, __m256i b) noexcept {
            return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
        }
        SSM_AVX2_INLINE int32_t more(const unsigned char* q, ptrdiff_t groups) noexcept {
            __m256i s = _mm256_setzero_si256();
            for (ptrdiff_t g = 0; g < groups; ++g)
                s = _mm256_add_epi32(s, sums_of(_mm256_min_epi8(load(q + g * 32), _mm256_setzero_si256())));
            return total(s);
        }
    };
    // R rows, each N of them one after the other: N = 1 of large models, whose weights come from memory. That gives its
    // full rate to one reader in order, and 40 % to eight rows column by column.
    template <class D, int R, int N>
    SSM_AVX2_INLINE void dot8_rows(__m256i* s, const unsigned char* w, ptrdiff_t cols, const unsigned char* q,
                                   ptrdiff_t room) noexcept {
        ptrdiff_t   k = 0;
        const char* next = reinterpret_cast<const char*>(w) + ahead;
        SSM_UNROLL_8
        for (ptrdiff_t first = 0; first < R; first += N)
            for (k = 0; k + 32 <= cols; k += 32, next += N * 32) {
                const __m256i v = load(q + k);
                SSM_UNROLL_8
                for (int line = 0; line < N / 2; ++line) _mm_prefetch(next + line * 64, _MM_HINT_T0);
                SSM_UNROLL_8
                for (ptrdiff_t r = first; r < first + N; ++r) s[r] = D::bytes(s[r], w + r * cols + k, v);
            }
        if (k == cols) return;
        __m256i each[size_t(R)]; // in memory, where s should not be
        SSM_UNROLL_8
        for (int r = 0; r < R; ++r) each[r] = s[r];
        dot8_rest<D, R>(each, w + k, cols, cols - k, q + k, room - k);
        SSM_UNROLL_8
        for (int r = 0; r < R; ++r) s[r] = each[r];
    }
    template <class D, int R>
    static SSM_AVX2 __attribute__((noinline)) void dot8_rest(__m256i* s, const unsigned char* w, ptrdiff_t cols,
                                                             ptrdiff_t left, const unsigned char* q,
                                                             ptrdiff_t room) noexcept { // fewer than 32 columns
        const last_columns<R, 32> last(w, cols, left, room);
        const __m256i             v = load(q);
        SSM_UNROLL_8
        for (int r = 0; r < R; ++r) s[r] = D::bytes(s[r], last.row[r], v);
    }
    // Two groups of 32 weights of 4 bits at w, the first in the lower half: sums of (code + 8) q, at most 7,620 each in
    // 16 bits, times their sub-scales; added to eight sums.
    template <class D>
    SSM_AVX2_INLINE __m256i dot64(__m256i sum, __m256i w, __m256i low, __m256i high, __m256i subs) noexcept {
        const __m256i nibble = _mm256_set1_epi8(15), u = _mm256_xor_si256(w, _mm256_set1_epi8(-120)); // 0x88: code + 8
        const __m256i part =
            _mm256_add_epi16(_mm256_maddubs_epi16(_mm256_and_si256(u, nibble), low),
                             _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(u, 4), nibble), high));
        return D::words(sum, part, subs);
    }
    template <class D> struct Ready256;
    // Four rows of int4, `groups` groups each; behind `sub` so many bytes may be read.
    struct Rows4 {
        const unsigned char *    w, *sub;
        ptrdiff_t                groups, room;
        // Of eight groups, twice; other rows' meet zeros.
        SSM_AVX2_INLINE_ __m256i subs(int r, ptrdiff_t g, bool near_end) const noexcept {
            const unsigned char* at = sub + r * groups + g;
            unsigned char        eight[8] = {};
            if (near_end) copy(eight, at, size_t(groups - g < 8 ? groups - g : 8)), at = eight;
            return _mm256_broadcastsi128_si256(
                _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))));
        }
        SSM_AVX2_INLINE_ const unsigned char* codes(int r, ptrdiff_t g) const noexcept {
            return w + (r * groups + g) * 16;
        }
        SSM_AVX2_INLINE __m256i half(const unsigned char* at) noexcept { // zeros above
            return _mm256_inserti128_si256(_mm256_setzero_si256(),
                                           _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)), 0);
        }
        template <class D, int N> // as dot8_rows()
        SSM_AVX2_INLINE_ void dot(__m256i* s, const Ready256<D>& ready) const noexcept {
            __m256i by[4];
            SSM_UNROLL_8
            for (int first = 0; first < 4; first += N)
                for (ptrdiff_t g = 0; g < groups; g += 8) {
                    const ptrdiff_t end = groups - g < 8 ? groups : g + 8;
                    const bool      near_end = (first + N - 1) * groups + g + 8 > room;
                    const __m256i   eights =
                        _mm256_zextsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(ready.q8sum + g)));
                    SSM_UNROLL_8
                    for (int r = first; r < first + N; ++r) {
                        by[r] = subs(r, g, near_end);
                        s[r] = _mm256_add_epi32(s[r], _mm256_madd_epi16(by[r], eights));
                    }
                    __m256i pick = _mm256_set_epi64x(0x0302030203020302, 0x0302030203020302, 0x0100010001000100,
                                                     0x0100010001000100);
                    for (ptrdiff_t k = g; k < end; k += 2, pick = _mm256_add_epi8(pick, _mm256_set1_epi8(4))) {
                        const __m256i low = load(ready.halves + k * 32), high = load(ready.halves + k * 32 + 32);
                        if (k + 1 < groups) {
                            SSM_UNROLL_8
                            for (int r = first; r < first + N; ++r)
                                s[r] = dot64<D>(s[r], load(codes(r, k)), low, high, _mm256_shuffle_epi8(by[r], pick));
                        } else {
                            SSM_UNROLL_8
                            for (int r = first; r < first + N; ++r)
                                s[r] = dot64<D>(s[r], half(codes(r, k)), low, high, _mm256_shuffle_epi8(by[r], pick));
                        }
                    }
                }
        }
    };
    // What is made ready of a token: for int8 D's more(); for int4 q8sum, -8 times the sum of each group, and of
    // every two groups the lower halves, then the upper ones.
    template <class D> struct Ready256 {
        alignas(32) unsigned char halves[max_width]; // columns of a projection are no more
        alignas(32) int16_t q8sum[(max_width + 31) / 32 + 16];
        int32_t  more;
        SSM_AVX2 Ready256(const Matrix& W, const Tokens& t, bool four) noexcept {
            const ptrdiff_t groups = (W.cols + 31) / 32;
            if (!four) {
                more = D::more(t.q, groups);
                return;
            }
            for (ptrdiff_t g = 0; g < groups; g += 2) {
                const __m256i zero = _mm256_setzero_si256(), a = load(t.q + g * 32);
                const __m256i b = g + 1 < groups ? load(t.q + g * 32 + 32) : zero;
                const __m256i of[4] = {sums_of(a), sums_of(b), zero, zero};
                const __m128i s = _mm256_castsi256_si128(sums<4>(of));
                q8sum[g] = int16_t(-8 * _mm_cvtsi128_si32(s)), q8sum[g + 1] = int16_t(-8 * _mm_extract_epi32(s, 1));
                store(halves + g * 32, _mm256_permute2x128_si256(a, b, 0x20));
                store(halves + g * 32 + 32, _mm256_permute2x128_si256(a, b, 0x31));
            }
            store(q8sum + groups, _mm256_setzero_si256()); // so many more are read
        }
    };
    template <class D, int R> struct rows256 {
        static constexpr int rows = R, tokens = 1;
        using Ready = Ready256<D>;
        using Fewer = rows256<D, R / 2>;
        template <int N> // of R, as dot8_rows()
        static SSM_AVX2 void all8(const Matrix& W, int32_t o, int32_t end, const Tokens& t, int32_t more) noexcept {
            const ptrdiff_t            cols = W.cols, room = room_behind(W, 0);
            const unsigned char* const data = W.data - W.rows4 * cols;
            const Outputs              to(W, t);
            const unsigned char* const q = t.q;
            for (; o < end; o += R) {
                if (o + R > end) o = end - R; // as all_rows()
                __m256i s[size_t(R)] = {};
                dot8_rows<D, R, N>(s, data + o * cols, cols, q, room - o * cols);
                give<R>(to, _mm256_sub_epi32(sums<R>(s), _mm256_set1_epi32(more)), o);
            }
        }
        template <int N>
        static SSM_AVX2 void all4(const Matrix& W, int32_t o, int32_t end, const Tokens& t,
                                  const Ready& ready) noexcept {
            const ptrdiff_t groups = (W.cols + 31) / 32;
            const Outputs   to(W, t);
            for (; o < end; o += R) {
                if (o + R > end) o = end - R;
                __m256i s[size_t(R)] = {};
                SSM_UNROLL_8
                for (int32_t r = 0; r < R; r += 4) {
                    const ptrdiff_t row = o + r;
                    const Rows4     four{W.data4 + row * groups * 16, W.sub + row * groups, groups,
                                     (W.rows4 - row) * groups};
                    four.template dot<D, N>(s + r, ready);
                }
                give<R>(to, sums<R>(s), o);
            }
        }
        static SSM_AVX2 void all(const Matrix& W, int32_t o, int32_t end, const Tokens& t,
                                 const Ready& ready) noexcept {
            const bool one = in_order(W, t);
            if (o < W.rows4) (one ? all4<1> : all4<4>)(W, o, end, t, ready);
            else (one ? all8<1> : all8<R>)(W, o, end, t, ready.more);
        }
    };
    template <class D> struct rows256<D, 2> : one_by_one<8> {};
    static SSM_AVX2 void matmul_q(const Matrix& W, const Tokens& t, int32_t n, int32_t bits) {
        if (bits == 8) matmul_codes<rows256<Pairs, 8>>(W, t, n);
        else matmul_codes<rows16<i16x16>>(W, t, n);
    }

    static SSM_AVX2 bool scan_q(const HeadScanQ& a) { return scan_vectors<i64x4>(a); }
    static SSM_AVX2 bool s4d_scan_q(const S4dScanQ& a) { return s4d_vectors<i64x4>(a); }
    SSM_INTEGER_LOOPS(SSM_AVX2, i64x4)
};

// The instructions of VNNI, coded as AVX-VNNI has them, or as AVX-512 does: said to the assembler, so that functions
// compiled for AVX2 may use them. Weights are shifted up to 1 .. 255, and what that adds depends on the token alone.
template <bool Avx512> struct Dpbusd {
    SSM_AVX2_INLINE __m256i bytes(__m256i sum, const unsigned char* w, __m256i q) noexcept {
        const __m256i up = _mm256_xor_si256(avx2::load(w), _mm256_set1_epi8(-128));
        if constexpr (Avx512) __asm__("vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(up), "x"(q));
        else __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(up), "x"(q));
        return sum;
    }
    SSM_AVX2_INLINE __m256i words(__m256i sum, __m256i a, __m256i b) noexcept {
        if constexpr (Avx512) __asm__("vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
        else __asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
        return sum;
    }
    SSM_AVX2_INLINE int32_t more(const unsigned char* q, ptrdiff_t groups) noexcept { // 128 times the sum of all codes
        __m256i s = _mm256_setzero_si256();
        for (ptrdiff_t g = 0; g < groups; ++g) s = _mm256_add_epi32(s, avx2::sums_of(avx2::load(q + g * 32)));
        return 128 * avx2::total(s);
    }
};
template <bool Avx512> struct vnni256 : avx2 {
    static constexpr const char* name = "avxvnni";

    static SSM_AVX2 void matmul_q(const Matrix& W, const Tokens& t, int32_t n, int32_t bits) {
        if (bits == 8) matmul_codes<rows256<Dpbusd<Avx512>, 8>>(W, t, n);
        else avx2::matmul_q(W, t, n, bits);
    }
};
using avxvnni = vnni256<false>;

#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#define SSM_AVX512 SSM_TARGET("avx512f,avx512dq,avx512bw,avx512vl,avx512vnni,avx2,f16c")
#define SSM_AVX512_INLINE inline __attribute__((always_inline)) SSM_AVX512
// Twice as wide, with products of u8 and i8 that need no care: weights are shifted up to 0 .. 255 (or 0 .. 15), and
// what that adds to a row's sum depends on the token alone.
struct avx512 : avx2 {
    static constexpr const char* name = "avx512";

    static SSM_AVX512_INLINE __m512i load64(const void* p) noexcept { return _mm512_loadu_si512(p); }
    static SSM_AVX512_INLINE __m512i load64(const void* p, ptrdiff_t n) noexcept { // zeros past the n-th byte
        return n >= 64 ? load64(p) : _mm512_maskz_loadu_epi8((uint64_t(1) << n) - 1, p);
    }
    // The sums of eight vectors of int32.
    static SSM_AVX512_INLINE __m256i sums8(const __m512i* s) noexcept {
        __m512i two[4], four[2];
        SSM_UNROLL_8
        for (int i = 0; i < 4; ++i)
            two[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(s[2 * i], s[2 * i + 1]),
                                      _mm512_unpackhi_epi32(s[2 * i], s[2 * i + 1]));
        SSM_UNROLL_8
        for (int i = 0; i < 2; ++i)
            four[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(two[2 * i], two[2 * i + 1]),
                                       _mm512_unpackhi_epi64(two[2 * i], two[2 * i + 1]));
        const __m512i half = _mm512_add_epi32(_mm512_shuffle_i64x2(four[0], four[1], 0x88),
                                              _mm512_shuffle_i64x2(four[0], four[1], 0xdd)); // 0+1 2+3 of either
        const __m512i order = _mm512_setr_epi64(0, 1, 4, 5, 2, 3, 6, 7), v = _mm512_permutexvar_epi64(order, half);
        return _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    }
    // From eight rows' sums to Q16, as requantize().
    static SSM_AVX512_INLINE void give8(int32_t* y, __m256i acc, const int32_t* scale, const Matrix& W,
                                        int32_t o) noexcept {
        const __m512i s = _mm512_cvtepu32_epi64(load(W.scale + ptrdiff_t(o) * 4));
        const __m512i m =
            _mm512_or_si512(_mm512_and_si512(s, _mm512_set1_epi64(0x7fffff)), _mm512_set1_epi64(0x800000));
        const __m512i shift = _mm512_sub_epi64(_mm512_set1_epi64(scale[1] + 150 - 24 - 1), _mm512_srli_epi64(s, 23));
        const __m512i T = _mm512_srli_epi64(
            _mm512_add_epi64(_mm512_mul_epu32(m, _mm512_set1_epi64(scale[0])), _mm512_set1_epi64(1 << 23)), 24);
        // rs(p, shift + 1) = ((p >> shift) + 1) >> 1, which is 0 for shifts past 61, too
        const __m512i p = _mm512_srav_epi64(_mm512_mul_epi32(_mm512_cvtepi32_epi64(acc), T), shift);
        __m512i       v = _mm512_srai_epi64(_mm512_add_epi64(p, _mm512_set1_epi64(1)), 1);
        if (W.bias != nullptr) v = _mm512_add_epi64(v, _mm512_cvtepi32_epi64(load(W.bias + ptrdiff_t(o) * 4)));
        v = _mm512_max_epi64(_mm512_min_epi64(v, _mm512_set1_epi64(int_max)), _mm512_set1_epi64(-int_max));
        store(y, _mm512_cvtepi64_epi32(v));
    }
    // What is made ready of a token: for int8 128 times the sum of its codes; for int4 of every four groups the lower
    // halves, the upper ones, and in less8 -8 times a group's sum, spread over its lanes.
    struct Token4 {
        __m512i low, high, less8;
    };
    struct Ready512 {
        int32_t    more;
        Token4     of[max_width / 128]; // columns of a projection are no more
        SSM_AVX512 Ready512(const Matrix& W, const Tokens& t, bool four) noexcept {
            const ptrdiff_t groups = (W.cols + 31) / 32;
            if (!four) {
                more = Dpbusd<true>::more(t.q, groups);
                return;
            }
            const __m512i        eight = _mm512_set1_epi8(8), zero = _mm512_setzero_si512();
            const unsigned char* q = t.q;
            Token4*              to = of;
            for (ptrdiff_t left = groups; left > 0; left -= 4, q += 128, ++to) {
                const __m512i a = load64(q, left * 32), b = left > 2 ? load64(q + 64, left * 32 - 64) : zero;
                to->low = _mm512_shuffle_i64x2(a, b, 0x88), to->high = _mm512_shuffle_i64x2(a, b, 0xdd);
                const __m512i sum = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(zero, eight, to->low), eight, to->high);
                to->less8 = _mm512_sub_epi32(zero, sum);
            }
        }
    };
    static SSM_AVX512 void rows8(const Matrix& W, int32_t o, const Tokens& t, int32_t more) noexcept {
        const ptrdiff_t      cols = W.cols, whole = cols / 64 * 64;
        const unsigned char *w = W.data + ptrdiff_t(o - W.rows4) * cols, *q = t.q;
        const __m512i        up = _mm512_set1_epi8(-128);
        __m512i              s[8];
        SSM_UNROLL_8
        for (int r = 0; r < 8; ++r) s[r] = _mm512_setzero_si512();
        for (ptrdiff_t k = 0; k < whole; k += 64) {
            const __m512i v = load64(q + k);
            SSM_UNROLL_8
            for (int r = 0; r < 8; ++r)
                s[r] = _mm512_dpbusd_epi32(s[r], _mm512_xor_si512(load64(w + r * cols + k), up), v);
        }
        if (whole < cols) {
            const __m512i v = load64(q + whole, cols - whole);
            SSM_UNROLL_8
            for (int r = 0; r < 8; ++r)
                s[r] = _mm512_dpbusd_epi32(s[r], _mm512_xor_si512(load64(w + r * cols + whole, cols - whole), up), v);
        }
        give8(t.y + o, _mm256_sub_epi32(sums8(s), _mm256_set1_epi32(more)), t.scales, W, o);
    }
    // Four groups of a row of int4 at w.
    static SSM_AVX512_INLINE __m512i groups4(__m512i sum, const Token4& t, __m512i w, __m128i subs) noexcept {
        const __m512i nibble = _mm512_set1_epi8(15), u = _mm512_xor_si512(w, _mm512_set1_epi8(-120)); // 0x88: code + 8
        const __m128i each = _mm_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
        const __m512i part = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(t.less8, _mm512_and_si512(u, nibble), t.low),
                                                 _mm512_and_si512(_mm512_srli_epi16(u, 4), nibble), t.high);
        return _mm512_add_epi32(sum, _mm512_mullo_epi32(part, _mm512_cvtepi8_epi32(_mm_shuffle_epi8(subs, each))));
    }
    template <int N> // eight rows, as dot8_rows()
    static SSM_AVX512 void rows8_of4(const Matrix& W, int32_t o, const Tokens& t, const Token4* token) noexcept {
        const ptrdiff_t      groups = (W.cols + 31) / 32, whole = groups / 4 * 4, left = groups - whole;
        const unsigned char *w = W.data4 + o * groups * 16, *sub = W.sub + o * groups;
        __m512i              s[8];
        SSM_UNROLL_8
        for (int r = 0; r < 8; ++r) s[r] = _mm512_setzero_si512();
        SSM_UNROLL_8
        for (int first = 0; first < 8; first += N) {
            const Token4* four = token;
            for (ptrdiff_t g = 0; g < whole; g += 4, ++four) {
                SSM_UNROLL_8
                for (int r = first; r < first + N; ++r) {
                    int32_t subs;
                    SSM_MEMCPY(&subs, sub + r * groups + g, 4);
                    s[r] = groups4(s[r], *four, load64(w + (r * groups + g) * 16), _mm_cvtsi32_si128(subs));
                }
            }
        }
        if (left > 0) {
            SSM_UNROLL_8
            for (int r = 0; r < 8; ++r)
                s[r] = groups4(s[r], token[whole / 4], load64(w + (r * groups + whole) * 16, left * 16),
                               _mm_maskz_loadu_epi8(static_cast<__mmask16>((1 << left) - 1), sub + r * groups + whole));
        }
        give8(t.y + o, sums8(s), t.scales, W, o);
    }
    struct rows512 {
        static constexpr int rows = 8, tokens = 1;
        using Fewer = rows256<Pairs, 4>;
        using Ready = Ready512;
        static SSM_AVX512 void all(const Matrix& W, int32_t o, int32_t end, const Tokens& t,
                                   const Ready& ready) noexcept {
            // Memory is as fast for half a line at a time, or faster.
            if (in_order(W, t) && o >= W.rows4) rows256<Dpbusd<true>, 8>::all8<1>(W, o, end, t, ready.more);
            else all_rows<rows512>(W, o, end, t, ready);
        }
        static void rows_at(const Matrix& W, int32_t o, const Tokens& t, const Ready& ready) noexcept {
            if (o >= W.rows4) rows8(W, o, t, ready.more);
            else if (in_order(W, t)) rows8_of4<1>(W, o, t, ready.of);
            else rows8_of4<8>(W, o, t, ready.of);
        }
    };
    static void matmul_q(const Matrix& W, const Tokens& t, int32_t n, int32_t bits) {
        if (bits == 8) matmul_codes<rows512>(W, t, n);
        else avx2::matmul_q(W, t, n, bits);
    }
    static SSM_AVX512 bool scan_q(const HeadScanQ& a) {
        return a.N % 16 == 0 || a.X_in != nullptr ? scan_vectors<i64x8>(a) : avx2::scan_q(a);
    }
    static SSM_AVX512 bool s4d_scan_q(const S4dScanQ& a) {
        return a.modes % 8 == 0 ? s4d_vectors<i64x8>(a) : avx2::s4d_scan_q(a);
    }
    SSM_INTEGER_LOOPS(SSM_AVX512, i64x8)
};
#undef SSM_AVX2_INLINE
#undef SSM_AVX2_INLINE_
#undef SSM_AVX2
#undef SSM_AVX512
#undef SSM_AVX512_INLINE
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif
#endif

#if defined(SSM_HAS_DSP) || defined(SSM_HAS_RVV)
// Projections, four rows of one kind at a time: K::dots8 and K::dots4 give their sums, in 64 bits of 16-bit codes.
template <class K, class Base> struct rows_of : Base {
    template <int Bits> struct fours {
        static constexpr int rows = 4, tokens = 1;
        using Fewer = one_by_one<Bits>;
        using Ready = NothingReady;
        static SSM_INLINE void all(const Matrix& W, int32_t o, int32_t end, const Tokens& t, const Ready&) noexcept {
            all_rows<fours>(W, o, end, t);
        }
        template <class Sum>
        static SSM_INLINE void give(Sum* acc, const Matrix& W, int32_t o, const Tokens& t) noexcept {
            const ptrdiff_t cols = W.cols, groups = (cols + 31) / 32;
            if (o < W.rows4) K::dots4(acc, W.data4 + o * groups * 16, W.sub + o * groups, groups, t.q);
            else K::dots8(acc, W.data + (o - W.rows4) * cols, cols, t.q);
            for (int32_t r = 0; r < 4; ++r) t.y[o + r] = K::requantize(acc[r], t.scales, W, o + r, Bits);
        }
        static SSM_INLINE void rows_at(const Matrix& W, int32_t o, const Tokens& t) noexcept {
            int32_t sums[4];
            int64_t wide_sums[4];
            if constexpr (Bits == 8) give(sums, W, o, t);
            else give(wide_sums, W, o, t);
        }
    };
    static void matmul_q(const Matrix& W, const Tokens& t, int32_t n, int32_t bits) {
        if (known_bits(bits) == 8) matmul_codes<fours<8>>(W, t, n);
        else matmul_codes<fours<16>>(W, t, n);
    }
};
#endif

#if defined(SSM_HAS_DSP)
// Functions of section 5 in lanes of 32 bits, where the definition's numbers fit them, signed or not. F says how lanes
// multiply: mul30, mulu30: rs(x y, 30), signed and unsigned, as far as 32 bits go; mulu32: rs(x y, 32), unsigned;
// add32: c + rs(x y, 32).
template <class F, class V = typename F::V> SSM_ALWAYS V exp_neg32(const V& t) noexcept {
    const V y = F::mulu32(F::template up<1>(t), F::set(2u * 1549082005u)), n = F::template down<26>(y);
    const V x = F::template down<1>(F::template up<6>(y)); // Q31
    V       p = F::set(uint32_t(exp2_q30[7]));
    SSM_UNROLL_8
    for (int k = 6; k >= 0; --k) p = F::add32(exp2_q30[k], F::template up<1>(p), x);
    return F::rs(p, n);
}
template <class F, class V = typename F::V> SSM_ALWAYS V recip32(const V& d) noexcept {
    V r = F::set(1515870810) - F::mulu32(d, F::set(4u * 505290270u));
    SSM_UNROLL_8
    for (int k = 0; k < 3; ++k) r = F::mulu30(r, F::set(1u << 31) - F::mulu30(d, r));
    return r;
}
template <class F, class V = typename F::V> SSM_ALWAYS V sigmoid32(const V& x) noexcept {
    const V e = exp_neg32<F>(F::size(x)), r = recip32<F>(F::set(1u << 30) + e);
    return F::choose(F::negative(x), F::mul30(e, r), r);
}
// Not of 0, where t would be 1: 0 phi(0) = 0 all the same.
template <class F, class V = typename F::V> SSM_ALWAYS V phi32(const V& x) noexcept {
    const V z = F::mulu32(F::template up<1>(F::size(x)), F::set(2u * 759250125u)), z8 = F::template up<3>(z);
    const V D = F::set(1u << 30) + F::mulu32(z8, F::set(8u * 351748265u)),
            least = F::least(F::mulu32(z8, z8), 22u << 26);
    const auto over = F::above(D, 1u << 31);
    const V    r = recip32<F>(F::choose(over, F::half(D), D)), t = F::choose(over, F::half(r), r);
    V          p = F::set(uint32_t(erf_q30[5]));
    SSM_UNROLL_8
    for (int k = 4; k >= 0; --k) p = F::set(uint32_t(erf_q30[k])) + F::mul30(p, t);
    const V q = F::half(F::mul30(p, exp_neg32<F>(least)));
    return F::choose(F::negative(x), q, F::set(1u << 30) - q);
}
template <class F, class V = typename F::V> SSM_ALWAYS V gelu32(const V& s) noexcept {
    return F::mul30(s, phi32<F>(F::template up<10>(F::clamp(s, 8 << 16))));
}
template <class F, class V = typename F::V> SSM_ALWAYS V glu32(const V& r, const V& v, const V& z) noexcept {
    return F::add(r, F::mul30(v, sigmoid32<F>(F::template up<10>(F::clamp(z, 22 << 16)))));
}

// Words of four codes, as pairs of 16 bits: those of bytes 0 and 2, and those of bytes 1 and 3.
struct dsp : rows_of<dsp, scalar> {
    static constexpr const char* name = "dsp";

    // rs(x, S) as far as 32 bits go: the last bit that is shifted out is the carry.
    template <int S> static SSM_ALWAYS int32_t rs_low(int64_t x) noexcept {
        int32_t out;
        __asm__("lsrs %0, %1, %3\n\tadc %0, %0, %2, lsl %4"
                : "=&r"(out)
                : "r"(int32_t(x)), "r"(int32_t(x >> 32)), "i"(S), "i"(32 - S)
                : "cc");
        return out;
    }
    static SSM_ALWAYS int32_t add_rs32(int32_t sum, int32_t x, int32_t y) noexcept { // sum + rs(x y, 32)
        int32_t out;
        __asm__("smmlar %0, %1, %2, %3" : "=r"(out) : "r"(x), "r"(y), "r"(sum));
        return out;
    }
    struct Lane { // see exp_neg32()
        using V = uint32_t;
        static SSM_ALWAYS uint32_t                  set(uint32_t x) noexcept { return x; }
        template <int S> static SSM_ALWAYS uint32_t up(uint32_t x) noexcept { return x << S; }
        template <int S> static SSM_ALWAYS uint32_t down(uint32_t x) noexcept { return x >> S; }
        static SSM_ALWAYS uint32_t                  mul30(uint32_t x, uint32_t y) noexcept {
                             return uint32_t(rs_low<30>(product(int32_t(x), int32_t(y))));
        }
        static SSM_ALWAYS uint32_t mulu30(uint32_t x, uint32_t y) noexcept {
            return uint32_t(rs_low<30>(int64_t(uint64_t(x) * y)));
        }
        static SSM_ALWAYS uint32_t mulu32(uint32_t x, uint32_t y) noexcept {
            const uint64_t p = uint64_t(x) * y;
            return uint32_t(p >> 32) + (uint32_t(p) >> 31);
        }
        static SSM_ALWAYS uint32_t add32(int32_t c, uint32_t x, uint32_t y) noexcept {
            return uint32_t(add_rs32(c, int32_t(x), int32_t(y)));
        }
        static SSM_ALWAYS uint32_t rs(uint32_t x, uint32_t n) noexcept { return (x + ((1u << n) >> 1)) >> n; }
        static SSM_ALWAYS uint32_t half(uint32_t x) noexcept { return (x + 1) >> 1; }
        static SSM_ALWAYS uint32_t size(uint32_t x) noexcept { return size_of(int32_t(x)); }
        static SSM_ALWAYS uint32_t least(uint32_t x, uint32_t m) noexcept { return x < m ? x : m; }
        static SSM_ALWAYS uint32_t clamp(uint32_t x, int32_t m) noexcept {
            return uint32_t(int32_t(x) > m ? m : int32_t(x) < -m ? -m : int32_t(x));
        }
        static SSM_ALWAYS bool     above(uint32_t x, uint32_t m) noexcept { return x > m; }
        static SSM_ALWAYS bool     negative(uint32_t x) noexcept { return int32_t(x) < 0; }
        static SSM_ALWAYS uint32_t choose(bool which, uint32_t x, uint32_t y) noexcept { return which ? x : y; }
        static SSM_ALWAYS uint32_t add(uint32_t x, uint32_t y) noexcept { // sat(x + y)
            const int32_t sum = __qadd(int32_t(x), int32_t(y));
            return uint32_t(sum < -int_max ? -int_max : sum);
        }
    };
    static void gelu_q(int32_t* y, const int32_t* x, int32_t n) {
        for (int32_t i = 0; i < n; ++i) y[i] = int32_t(gelu32<Lane>(uint32_t(x[i])));
    }
    static void glu_q(int32_t* r, const int32_t* v, int32_t n) {
        for (int32_t i = 0; i < n; ++i) r[i] = int32_t(glu32<Lane>(uint32_t(r[i]), uint32_t(v[i]), uint32_t(v[n + i])));
    }
    // As norm_loop_q(), of at most 128 numbers below 2^23: k is 0, E at most 24, and w 2^(26 - E) below 2^31.
    template <bool Centred>
    static void norm(int32_t* y, const int32_t* x, const int32_t* g, const int32_t* b, int32_t n, int32_t s) noexcept {
        uint32_t all = 0, bits = 0;
        for (int32_t i = 0; i < n; ++i) all += uint32_t(x[i]), bits |= uint32_t(x[i] ^ x[i] >> 31);
        if (n > 128 || bits >> 23 != 0)
            return Centred ? scalar::layer_norm_q(y, x, g, b, n) : scalar::rms_norm_q(y, x, g, n, s);
        const int32_t sum = int32_t(all) + n / 2, mean = Centred ? (sum - (sum < 0 ? n - 1 : 0)) / n : 0;
        int64_t       squares = 0;
        for (int32_t i = 0; i < n; ++i) squares += product(x[i] - mean, x[i] - mean);
        int32_t       E = 0;
        const int32_t r = int32_t(rsqrt_q(squares / n + 42950, &E)), up = 26 - E;
        for (int32_t i = 0; i < n; ++i) {
            const int64_t p = product(add_rs32(0, int32_t(uint32_t(x[i] - mean) << up), r), g[i]);
            y[i] = give(p, s, Centred ? b[i] : 0);
        }
    }
    static void layer_norm_q(int32_t* y, const int32_t* x, const int32_t* g, const int32_t* b, int32_t n) {
        norm<true>(y, x, g, b, n, 24);
    }
    static void rms_norm_q(int32_t* y, const int32_t* x, const int32_t* g, int32_t n, int32_t s) {
        norm<false>(y, x, g, nullptr, n, s);
    }
    // The upper half of (x << sh) R, rounded on: codes stay within +-127 or +-32767 by themselves.
    static void quantize(unsigned char* codes, int32_t* scale, const int32_t* x, int32_t n, int32_t padded_n,
                         int32_t bits) {
        uint32_t top = 0;
        for (int32_t i = 0; i < n; ++i) top = size_of(x[i]) > top ? size_of(x[i]) : top;
        const Quotients t(top, bits);
        int16_t* const  codes16 = static_cast<int16_t*>(static_cast<void*>(codes));
        const auto      code = [&](int32_t i, int down) {
            return (int32_t(product(x[i] * (1 << t.sh), int32_t(t.R)) >> 32) + (1 << (down - 1))) >> down;
        };
        if (bits == 8) {
            for (int32_t i = 0; i < n; ++i) codes[i] = static_cast<unsigned char>(code(i, 22));
            fill_zero(codes + n, size_t(padded_n - n));
        } else {
            for (int32_t i = 0; i < n; ++i) codes16[i] = int16_t(code(i, 14));
            fill_zero(codes16 + n, size_t(padded_n - n) * 2);
        }
        scale[0] = t.num, scale[1] = t.den;
    }
    // Without a bit from k on, x < 2^(32 + k) in size.
    static SSM_ALWAYS uint32_t size_bits(int64_t x) noexcept {
        const int32_t high = int32_t(x >> 32);
        return uint32_t(high ^ high >> 31);
    }
    // sat(rs(p, s) + add), |p| < 2^62.
    static SSM_ALWAYS int32_t give(int64_t p, int32_t s, int32_t add) noexcept {
        const int32_t high = int32_t(p >> 32), low = int32_t(p);
        int32_t       v;
        if (s > 32) v = ((high >> (s < 64 ? s - 33 : 31)) + 1) >> 1;
        else if (s > 1 && s < 32 && size_bits(p) >> (s - 2) == 0)
            __asm__("lsrs %0, %1, %3\n\tadc %0, %0, %2"
                    : "=&r"(v)
                    : "r"(low), "r"(int32_t(uint32_t(high) << (32 - s))), "r"(s)
                    : "cc");
        else return sat(ssm::detail::rs(p, s) + add);
        return int32_t(Lane::add(uint32_t(v), uint32_t(add)));
    }
    static SSM_ALWAYS int32_t requantize(int32_t acc, const int32_t* scale, const Matrix& W, int32_t o,
                                         int32_t) noexcept {
        const Scale   s(load_u32(W.scale + ptrdiff_t(o) * 4));
        const int32_t bias = W.bias != nullptr ? int32_t(load_u32(W.bias + ptrdiff_t(o) * 4)) : 0;
        return give(product(acc, rs_low<24>(product(scale[0], s.m))), scale[1] + s.e - 24, bias);
    }
    static SSM_ALWAYS int32_t requantize(int64_t acc, const int32_t* scale, const Matrix& W, int32_t o,
                                         int32_t bits) noexcept {
        return scalar::requantize(acc, scale, W, o, bits);
    }
    static SSM_ALWAYS int32_t s4d_read(const S4dScanQ& a, ptrdiff_t h, int64_t sum, int32_t u) noexcept {
        const Scale   scale(load_u32(a.C_scale + h * 4));
        const int64_t Du = product(a.D[h], u);
        if ((size_bits(sum) >> 14 | size_bits(Du) >> 13) != 0) return scalar::s4d_read(a, h, sum, u);
        return give(product(rs_low<17>(sum), scale.m), scale.e - 9, rs_low<16>(Du));
    }

#if defined(__ARM_FEATURE_UNALIGNED)
    static constexpr bool any_alignment = true;
#else
    static constexpr bool any_alignment = false;
#endif
    template <bool Aligned> static SSM_ALWAYS uint32_t four(const unsigned char* p) noexcept {
        uint32_t v;
        if constexpr (Aligned) SSM_MEMCPY(&v, __builtin_assume_aligned(p, 4), 4);
        else SSM_MEMCPY(&v, p, 4);
        return v;
    }
    static SSM_ALWAYS int16x2_t even(uint32_t v) noexcept { return __sxtb16(int8x4_t(v)); }
    static SSM_ALWAYS int16x2_t odd(uint32_t v) noexcept {
        int16x2_t out; // gcc does not see that the rotation is part of it
        __asm__("sxtb16 %0, %1, ror #8" : "=r"(out) : "r"(v));
        return out;
    }
    // high(a, b) of BankQ, sum + high(a, b), sum + high(-a, b): an instruction each, which no compiler finds.
    static SSM_ALWAYS uint32_t high(int32_t a, uint32_t b) noexcept {
        uint32_t out;
        __asm__("smmulr %0, %1, %2" : "=r"(out) : "r"(a), "r"(b));
        return out;
    }
    static SSM_ALWAYS uint32_t high_add(int32_t a, uint32_t b, uint32_t sum) noexcept {
        __asm__("smmlar %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b));
        return sum;
    }
    static SSM_ALWAYS uint32_t high_sub(int32_t a, uint32_t b, uint32_t sum) noexcept {
        __asm__("smmlsr %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b));
        return sum;
    }
    static SSM_ALWAYS int64_t leaked(int64_t e, uint64_t power, int32_t leak) noexcept { // without a shift of 64 bits
        const uint64_t d = (power >> 12) - uint64_t(e);
        const uint32_t low = uint32_t(d), high = uint32_t(d >> 32), top = uint32_t(int32_t(high) >> leak);
        return int64_t(uint64_t(e) + (uint64_t(low >> leak | high << (32 - leak)) | uint64_t(top) << 32));
    }
    static void bank_q(const BankQ& a) { bank_by<dsp>(a); }
    // Four codes more: w of a row, e and o of the token.
    static SSM_ALWAYS int32_t dot(uint32_t w, int16x2_t e, int16x2_t o, int32_t sum) noexcept {
        return __smlad(odd(w), o, __smlad(even(w), e, sum));
    }
    static SSM_ALWAYS int64_t dot(uint32_t w, int16x2_t e, int16x2_t o, int64_t sum) noexcept {
        return __smlald(odd(w), o, __smlald(even(w), e, sum));
    }
    // Those of 16 bits, from two words.
    static SSM_ALWAYS int16x2_t even(uint32_t v, uint32_t u) noexcept { return int16x2_t((v & 0xffffu) | u << 16); }
    static SSM_ALWAYS int16x2_t odd(uint32_t v, uint32_t u) noexcept { return int16x2_t(v >> 16 | (u & 0xffff0000u)); }
    // Sums of four rows over `cols` codes, a multiple of 4. One row after the other, or registers do not suffice.
#define SSM_ONE_BY_ONE __asm__ volatile("" ::: "memory")
    template <bool Aligned>
    static __attribute__((noinline)) void words8(int32_t* out, const unsigned char* w0, ptrdiff_t stride,
                                                 const unsigned char* q, ptrdiff_t cols) noexcept {
        const unsigned char *w1 = w0 + stride, *w2 = w1 + stride, *w3 = w2 + stride, *const end = q + cols;
        int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        do {
            const uint32_t  v = four<Aligned>(q);
            const int16x2_t e = even(v), o = odd(v);
            s0 = dot(four<Aligned>(w0), e, o, s0), q += 4, w0 += 4;
            SSM_ONE_BY_ONE;
            s1 = dot(four<Aligned>(w1), e, o, s1), w1 += 4;
            SSM_ONE_BY_ONE;
            s2 = dot(four<Aligned>(w2), e, o, s2), w2 += 4;
            SSM_ONE_BY_ONE;
            s3 = dot(four<Aligned>(w3), e, o, s3), w3 += 4;
        } while (q < end);
        out[0] = s0, out[1] = s1, out[2] = s2, out[3] = s3;
    }
    template <bool Aligned> // the same of two and two, whose sums take twice the registers
    static __attribute__((noinline)) void words8(int64_t* out, const unsigned char* w0, ptrdiff_t stride,
                                                 const unsigned char* q, ptrdiff_t cols) noexcept {
        for (int64_t* const last = out + 4; out < last; out += 2, w0 += 2 * stride - cols, q -= 2 * cols) {
            const unsigned char *w1 = w0 + stride, *const end = w0 + cols;
            int64_t s0 = 0, s1 = 0;
            do {
                const uint32_t  v = four<Aligned>(q), u = four<Aligned>(q + 4);
                const int16x2_t e = even(v, u), o = odd(v, u);
                s0 = dot(four<Aligned>(w0), e, o, s0), q += 8, w0 += 4;
                SSM_ONE_BY_ONE;
                s1 = dot(four<Aligned>(w1), e, o, s1), w1 += 4;
            } while (w0 < end);
            out[0] = s0, out[1] = s1;
        }
    }
    static SSM_ALWAYS int32_t dot_nibbles(uint32_t w, int16x2_t e, int16x2_t o, int16x2_t e_high, int16x2_t o_high,
                                          int32_t sum) noexcept {
        return dot(w & 0xf0f0f0f0u, e_high, o_high, dot(w << 4 & 0xf0f0f0f0u, e, o, sum));
    }
    // The same of two rows of int4. Nibbles stay where they are: sums of a group are 16 times too large, at most
    // 16 * 32 * 8 * 127, or 32767.
    template <bool Aligned, class Sum>
    static __attribute__((noinline)) void words4(Sum* out, const unsigned char* w0, const unsigned char* sub,
                                                 ptrdiff_t groups, const unsigned char* q) noexcept {
        constexpr ptrdiff_t  step = sizeof(Sum); // bytes of four codes
        const unsigned char* w1 = w0 + groups * 16;
        Sum                  s0 = 0, s1 = 0;
        for (ptrdiff_t g = 0; g < groups; ++g, q += 4 * step) {
            int32_t                    part0 = 0, part1 = 0;
            const unsigned char* const end = q + 4 * step;
            do {
                const uint32_t low = four<Aligned>(q), high = four<Aligned>(q + 4 * step);
                if constexpr (step == 4) {
                    part0 = dot_nibbles(four<Aligned>(w0), even(low), odd(low), even(high), odd(high), part0);
                    q += 4, w0 += 4;
                    SSM_ONE_BY_ONE;
                    part1 = dot_nibbles(four<Aligned>(w1), even(low), odd(low), even(high), odd(high), part1), w1 += 4;
                } else {
                    const uint32_t  low2 = four<Aligned>(q + 4), high2 = four<Aligned>(q + 4 * step + 4);
                    const int16x2_t e = even(low, low2), o = odd(low, low2), E = even(high, high2),
                                    O = odd(high, high2);
                    part0 = dot_nibbles(four<Aligned>(w0), e, o, E, O, part0), q += 8, w0 += 4;
                    SSM_ONE_BY_ONE;
                    part1 = dot_nibbles(four<Aligned>(w1), e, o, E, O, part1), w1 += 4;
                }
            } while (q < end);
            s0 += (part0 >> 4) * static_cast<signed char>(sub[g]);
            s1 += (part1 >> 4) * static_cast<signed char>(sub[groups + g]);
        }
        out[0] = s0, out[1] = s1;
    }
#undef SSM_ONE_BY_ONE
    static SSM_ALWAYS bool aligned(const unsigned char* w, ptrdiff_t stride, const unsigned char* q) noexcept {
        return ((reinterpret_cast<uintptr_t>(w) | uintptr_t(stride) | reinterpret_cast<uintptr_t>(q)) & 3u) == 0;
    }
    template <class Sum>
    static void dots8(Sum* out, const unsigned char* w, ptrdiff_t cols, const unsigned char* q) noexcept {
        const bool      fits = aligned(w, cols, q);
        const ptrdiff_t whole = fits || any_alignment ? cols / 4 * 4 : 0;
        for (int r = 0; r < 4; ++r) out[r] = 0;
        if (whole > 0) words8<!any_alignment>(out, w, cols, q, whole);
        for (ptrdiff_t k = whole; k < cols; ++k) {
            const int32_t code = sizeof(Sum) == 4 ? static_cast<signed char>(q[k]) : int16_t(load_u16(q + 2 * k));
            for (int r = 0; r < 4; ++r) out[r] += static_cast<signed char>(w[r * cols + k]) * code;
        }
    }
    template <class Sum>
    static void dots4(Sum* out, const unsigned char* w, const unsigned char* sub, ptrdiff_t groups,
                      const unsigned char* q) noexcept {
        const auto of = !any_alignment && aligned(w, 0, q) ? words4<true, Sum> : words4<false, Sum>;
        of(out, w, sub, groups, q), of(out + 2, w + groups * 32, sub + groups * 2, groups, q);
    }

    // Row p of numbers, one rank, as scan_row_q(): 2^29 in front of the shift by 9 are the half of that by 21 behind
    // it, and h' that fit 32 bits meet their limit there.
    template <bool Prev, bool Each> static bool scan_row(const HeadScanQ& a, ptrdiff_t p) noexcept {
        const int32_t *h = a.h_in + p * a.N, *const h_end = h + a.N, *k = a.k, *k0 = a.k0, *q = a.q;
        const int32_t *each = a.alpha_each, v = a.v[p], w = Prev ? a.w[p] : 0, clip = a.clip;
        int32_t*       to = a.h_out != nullptr ? a.h_out + p * a.N : nullptr;
        int64_t        sum = 0;
        bool           hit = false;
        for (int32_t alpha = a.alpha; h < h_end; ++h) {
            if constexpr (Each) alpha = *each++;
            int64_t next = (product(alpha, *h) + ((1 << 29) + (1 << 8))) >> 9;
            next += product(v, *k++);
            if constexpr (Prev) next += product(w, *k0++);
            next >>= 21;
            int32_t x = int32_t(next);
            if (x != next || uint32_t(x) + uint32_t(clip) > 2 * uint32_t(clip)) x = limit_q(next, clip, &hit);
            if (to != nullptr) *to++ = x;
            sum += product(x, *q++);
        }
        head_read<int64_t>(a, 0, p, 1, sum, 25);
        return hit;
    }
    // Row p of codes, one rank, as scan_codes(), unless a number may reach the clip. Nothing is written before that is
    // known.
    template <bool Prev> static bool code_row(const HeadScanQ& a, ptrdiff_t p) noexcept {
        const size_t  row = size_t(a.row + p), first = row * size_t(a.N) * 2;
        const int32_t X = 40 - exponent_at(a.X_in, row), up = X < 16 ? 16 - X : 0, down = X > 16 ? X - 16 : 0;
        const int32_t alpha = a.alpha, v = a.v[p], w = Prev ? a.w[p] : 0;
        const int64_t half = down > 0 ? int64_t(1) << (down - 1) : 0;
        const auto*   from = reinterpret_cast<const unsigned char*>(a.h_in) + first;
        auto*         to = a.h_out != nullptr ? reinterpret_cast<unsigned char*>(a.h_out) + first : nullptr;
        const auto    add = [&](int64_t sum, ptrdiff_t n) {
            sum += product(v, a.k[n]);
            if constexpr (Prev) sum += product(w, a.k0[n]);
            a.wide_row[n] = sum;
            return uint64_t(sum < 0 ? -sum : sum);
        };
        const auto code = [&](ptrdiff_t n) {
            int16_t c;
            SSM_MEMCPY(&c, from + 2 * n, 2);
            return int32_t(uint32_t(c) << up);
        };
        uint64_t top = 0;
        if (down == 0)
            for (ptrdiff_t n = 0; n < a.N; ++n) top |= add(product(alpha, code(n)), n);
        else
            for (ptrdiff_t n = 0; n < a.N; ++n) top |= add((product(alpha, code(n)) + half) >> down, n);
        if (top >> (bit_length(uint64_t(a.clip)) + 20) != 0) return scan_codes(a, p);
        const int32_t s = bit_length(top) > 21 ? bit_length(top) - 15 : 6, m = s - 1; // first by m, then by one
        int64_t       sum = 0;
        for (ptrdiff_t n = 0; n < a.N; ++n) {
            const int64_t wide = a.wide_row[n];
            const int32_t high = int32_t(wide >> 32);
            const int32_t t = m < 32 ? int32_t(uint32_t(wide) >> m | uint32_t(high) << (32 - m)) : high >> (m - 32);
            const int32_t c = (t + 1) >> 1, now = c > 32767 ? 32767 : c < -32767 ? -32767 : c;
            const auto    bits = int16_t(now);
            if (to != nullptr) SSM_MEMCPY(to + 2 * n, &bits, 2);
            sum += product(now, a.q[n]);
        }
        if (to != nullptr) set_exponent(a.X_out, row, s - 6);
        head_read<int64_t>(a, 0, p, 1, sum, 46 - s);
        return false;
    }
    static bool scan_q(const HeadScanQ& a) {
        constexpr bool always = !in_build(Arch::mamba1) && !in_build(Arch::mamba2); // a step before
        const bool     prev = in_build(Arch::mamba3) && (always || a.w != nullptr);
        const bool     each = in_build(Arch::mamba1) && a.alpha_each != nullptr;
        const bool     codes = codes_in_build && a.X_in != nullptr;
        if ((ranks_in_build && a.ranks != 1) || (each && (prev || codes))) return scalar::scan_q(a);
        const auto row = codes  ? (prev ? code_row<true> : code_row<false>)
                         : prev ? scan_row<true, false>
                         : each ? scan_row<false, true>
                                : scan_row<false, false>;
        bool       hit = false;
        for (int32_t p = 0; p < a.P; ++p) hit |= row(a, p);
        return hit;
    }

    template <bool Aligned> static SSM_ALWAYS int32_t number(const unsigned char* p) noexcept {
        if constexpr (Aligned) p = static_cast<const unsigned char*>(__builtin_assume_aligned(p, 4));
        return int32_t(load_u32(p));
    }
    // One step of channel h, in place, with U = u 2^(32 - b_shift) below 2^30: then |b u| is below 16, and where |a x|
    // stays below 32 so does every part below 48, within 32 bits and the clip. Other modes are left to the definition.
    template <bool Aligned, bool Keep>
    static int64_t modes(const S4dScanQ& a, int32_t* x, ptrdiff_t h, int32_t u, int32_t U, bool* hit) noexcept {
        const unsigned char *A = a.a + h * a.modes * 8, *B = a.b + h * a.modes * 8, *C = a.C + h * a.modes * 4;
        int64_t              sum = 0;
        for (const unsigned char* const end = C + a.modes * 4; C < end; C += 4, x += 2) {
            const int32_t  ar = number<Aligned>(A), ai = number<Aligned>(A + 4), xr = x[0], xi = x[1];
            const int64_t  re = product(ar, xr) + product(-ai, xi), im = product(ar, xi) + product(ai, xr);
            const uint32_t most = (uint32_t(re >> 32) + (1u << 28)) | (uint32_t(im >> 32) + (1u << 28));
            A += 8;
            if (__builtin_expect(most >> 29 != 0, false)) {
                const ptrdiff_t j = (A - a.a) / 8 - 1 - h * a.modes;
                sum += scalar::s4d_modes(a, x - (h * a.modes + j) * 2, h, j, j + 1, u, hit), B += 8;
                continue;
            }
            const int32_t br = number<Aligned>(B), bi = number<Aligned>(B + 4);
            B += 8;
            const int32_t r = add_rs32(rs_low<30>(re), br, U);
            const int32_t i = add_rs32(rs_low<30>(im), bi, U);
            if constexpr (Keep) x[0] = r, x[1] = i;
            sum += product(int16_t(load_u16(C)), r);
            sum += product(-int16_t(load_u16(C + 2)), i);
        }
        return sum;
    }
    static bool                    s4d_scan_q(const S4dScanQ& a) { return s4d_scan_by<dsp>(a); }
    template <class K> static bool s4d_scan_by(const S4dScanQ& a) { // K::modes_of() says how
        const auto     modes = K::modes_of(a);
        const uint32_t small_u = a.clip < 48 << 25 ? 0 : (1u << a.b_shift) >> 2;
        bool           hit = false;
        for (ptrdiff_t h = 0; h < a.H; ++h)
            for (ptrdiff_t t = 0; t < a.T; ++t) {
                const ptrdiff_t first = h * a.modes * 2;
                const int32_t   u = a.u[t * a.stride + h], *from = a.h_in;
                if (a.h_out != nullptr) {
                    if (t == 0 && a.h_out != from) copy(a.h_out + first, from + first, size_t(a.modes) * 8);
                    from = a.h_out;
                }
                const int64_t sum = size_of(u) >= small_u ? s4d_modes(a, from, h, 0, a.modes, u, &hit)
                                                          : modes(a, const_cast<int32_t*>(from) + first, h, u,
                                                                  int32_t(uint32_t(u) << (32 - a.b_shift)), &hit);
                a.s[t * a.stride + h] = s4d_read(a, h, sum, u);
            }
        return hit;
    }
    static auto modes_of(const S4dScanQ& a) noexcept {
        const bool fits = aligned(a.a, 0, a.b);
        return a.h_out == nullptr ? modes<false, false> : fits ? modes<true, true> : modes<false, true>;
    }
};
#endif

#if defined(SSM_HAS_HELIUM) || defined(SSM_HAS_RVV)
// Those sums by vectors of N = K::count() codes: K says what one is and how products with two rows join one sum each;
// int4 codes come in groups, as 16 bytes.
template <class K, class Base> struct vectors_of : rows_of<K, Base> {
    static void dots8(int32_t* out, const unsigned char* w0, ptrdiff_t cols, const unsigned char* q) noexcept {
        const ptrdiff_t      N = K::count(), left = cols % N;
        const unsigned char *w1 = w0 + cols, *w2 = w1 + cols, *w3 = w2 + cols, *const end = w1 - left;
        auto s0 = K::zero(N), s1 = s0, s2 = s0, s3 = s0;
        for (; w0 < end; q += N, w0 += N) {
            const auto x = K::load(q, N);
            K::dot2(s0, s1, K::load(w0, N), K::load(w1, N), x, N), w1 += N;
            K::dot2(s2, s3, K::load(w2, N), K::load(w3, N), x, N), w2 += N, w3 += N;
        }
        if (left > 0) { // zeros past the end of a row
            const auto x = K::first(q, left, N);
            K::dot2(s0, s1, K::first(w0, left, N), K::first(w1, left, N), x, N);
            K::dot2(s2, s3, K::first(w2, left, N), K::first(w3, left, N), x, N);
        }
        out[0] = K::sum(s0, N), out[1] = K::sum(s1, N), out[2] = K::sum(s2, N), out[3] = K::sum(s3, N);
    }
    static void dots4(int32_t* out, const unsigned char* w, const unsigned char* sub, ptrdiff_t groups,
                      const unsigned char* q) noexcept {
        auto s0 = K::zero(16), s1 = s0, s2 = s0, s3 = s0;
        for (const unsigned char* end = sub + groups; sub < end; ++sub, w += 16, q += 32) {
            const auto low = K::sixteen(q), high = K::sixteen(q + 16);
            s0 = K::group(s0, w, *sub, low, high), s1 = K::group(s1, w + groups * 16, sub[groups], low, high);
            s2 = K::group(s2, w + groups * 32, sub[groups * 2], low, high);
            s3 = K::group(s3, w + groups * 48, sub[groups * 3], low, high);
        }
        out[0] = K::sum4(s0), out[1] = K::sum4(s1), out[2] = K::sum4(s2), out[3] = K::sum4(s3);
    }
    // Codes of 16 bits: a row at a time.
    static void dots8(int64_t* out, const unsigned char* w, ptrdiff_t cols, const unsigned char* q) noexcept {
        for (int r = 0; r < 4; ++r) out[r] = K::row8(w + r * cols, cols, reinterpret_cast<const int16_t*>(q));
    }
    static void dots4(int64_t* out, const unsigned char* w, const unsigned char* sub, ptrdiff_t groups,
                      const unsigned char* q) noexcept {
        for (ptrdiff_t r = 0; r < 4; ++r)
            out[r] = K::row4(w + r * groups * 16, sub + r * groups, groups, reinterpret_cast<const int16_t*>(q));
    }
};
#endif

#if defined(SSM_HAS_HELIUM)
// Vectors of 128 bits, whose products are summed up in general registers; scans as dsp.
struct helium : vectors_of<helium, dsp> {
    static constexpr const char* name = "helium";

    static constexpr ptrdiff_t  count() noexcept { return 16; }
    static SSM_ALWAYS int8x16_t sixteen(const unsigned char* p) noexcept {
        return vldrbq_s8(reinterpret_cast<const int8_t*>(p));
    }
    static SSM_ALWAYS int8x16_t load(const unsigned char* p, ptrdiff_t) noexcept { return sixteen(p); }
    static SSM_ALWAYS int8x16_t first(const unsigned char* p, ptrdiff_t n, ptrdiff_t) noexcept {
        return vldrbq_z_s8(reinterpret_cast<const int8_t*>(p), vctp8q(uint32_t(n)));
    }
    static SSM_ALWAYS int32_t zero(ptrdiff_t) noexcept { return 0; }
    static SSM_ALWAYS void    dot2(int32_t& s, int32_t& t, int8x16_t w, int8x16_t v, int8x16_t x, ptrdiff_t) noexcept {
           s = vmladavaq_s8(s, w, x), t = vmladavaq_s8(t, v, x);
    }
    static SSM_ALWAYS int32_t sum(int32_t s, ptrdiff_t) noexcept { return s; }
    // Nibbles stay where they are, as in words4().
    static SSM_ALWAYS int32_t group(int32_t s, const unsigned char* w, unsigned char sub, int8x16_t low,
                                    int8x16_t high) noexcept {
        const int8x16_t v = sixteen(w), upper = vandq_s8(v, vdupq_n_s8(static_cast<int8_t>(-16)));
        const int32_t   part = vmladavaq_s8(vmladavq_s8(vshlq_n_s8(v, 4), low), upper, high);
        return s + (part >> 4) * static_cast<signed char>(sub);
    }
    static SSM_ALWAYS int32_t sum4(int32_t s) noexcept { return s; }
    static SSM_ALWAYS int64_t row8(const unsigned char* w, ptrdiff_t cols, const int16_t* q) noexcept {
        const auto* p = reinterpret_cast<const int8_t*>(w);
        int64_t     s = 0;
        for (; cols >= 8; cols -= 8, p += 8, q += 8) s = vmlaldavaq_s16(s, vldrbq_s16(p), vldrhq_s16(q));
        return cols > 0 ? vmlaldavaq_s16(s, vldrbq_z_s16(p, vctp16q(uint32_t(cols))), vldrhq_s16(q)) : s;
    }
    static SSM_ALWAYS int64_t row4(const unsigned char* w, const unsigned char* sub, ptrdiff_t groups,
                                   const int16_t* q) noexcept {
        const auto* p = reinterpret_cast<const int8_t*>(w);
        int64_t     s = 0;
        for (const unsigned char* const end = sub + groups; sub < end; ++sub, p += 16, q += 32) {
            int32_t part = 0; // at most 16 * 32 * 8 * 32767: nibbles in the upper half of a byte
            for (int half = 0; half < 16; half += 8) {
                const int16x8_t v = vldrbq_s16(p + half);
                const int16x8_t low = vshrq_n_s16(vshlq_n_s16(v, 12), 8), high = vbicq_n_s16(v, 15);
                part = vmladavaq_s16(vmladavaq_s16(part, low, vldrhq_s16(q + half)), high, vldrhq_s16(q + 16 + half));
            }
            s += (part >> 4) * static_cast<signed char>(*sub);
        }
        return s;
    }
    struct Lanes { // see exp_neg32()
        using V = uint32x4_t;
        static SSM_ALWAYS int32x4_t          as_signed(V x) noexcept { return vreinterpretq_s32_u32(x); }
        static SSM_ALWAYS V                  of(int32x4_t x) noexcept { return vreinterpretq_u32_s32(x); }
        static SSM_ALWAYS V                  set(uint32_t x) noexcept { return vdupq_n_u32(x); }
        template <int S> static SSM_ALWAYS V up(V x) noexcept { return vshlq_n_u32(x, S); }
        template <int S> static SSM_ALWAYS V down(V x) noexcept { return vshrq_n_u32(x, S); }
        static SSM_ALWAYS V join30(V high, V low) noexcept { return up<2>(high) + vrshrq_n_u32(low, 30); }
        static SSM_ALWAYS V mul30(V x, V y) noexcept {
            return join30(of(vmulhq_s32(as_signed(x), as_signed(y))), vmulq_u32(x, y));
        }
        static SSM_ALWAYS V mulu30(V x, V y) noexcept { return join30(vmulhq_u32(x, y), vmulq_u32(x, y)); }
        static SSM_ALWAYS V mulu32(V x, V y) noexcept { return vrmulhq_u32(x, y); }
        static SSM_ALWAYS V add32(int32_t c, V x, V y) noexcept {
            return of(vaddq_n_s32(vrmulhq_s32(as_signed(x), as_signed(y)), c));
        }
        static SSM_ALWAYS V rs(V x, V n) noexcept { return vrshlq_u32(x, vnegq_s32(as_signed(n))); }
        static SSM_ALWAYS V half(V x) noexcept { return vrshrq_n_u32(x, 1); }
        static SSM_ALWAYS V size(V x) noexcept { return of(vabsq_s32(as_signed(x))); }
        static SSM_ALWAYS V least(V x, uint32_t m) noexcept { return vminq_u32(x, set(m)); }
        static SSM_ALWAYS V clamp(V x, int32_t m) noexcept {
            return of(vmaxq_s32(vminq_s32(as_signed(x), vdupq_n_s32(m)), vdupq_n_s32(-m)));
        }
        static SSM_ALWAYS mve_pred16_t above(V x, uint32_t m) noexcept { return vcmphiq_n_u32(x, m); }
        static SSM_ALWAYS mve_pred16_t negative(V x) noexcept { return vcmpltq_n_s32(as_signed(x), 0); }
        static SSM_ALWAYS V            choose(mve_pred16_t which, V x, V y) noexcept { return vpselq_u32(x, y, which); }
        static SSM_ALWAYS V            add(V x, V y) noexcept {
                       return of(vmaxq_s32(vqaddq_s32(as_signed(x), as_signed(y)), vdupq_n_s32(-int_max)));
        }
        static SSM_ALWAYS V    load(const int32_t* p, mve_pred16_t few) noexcept { return of(vldrwq_z_s32(p, few)); }
        static SSM_ALWAYS void store(int32_t* p, V x, mve_pred16_t few) noexcept { vstrwq_p_s32(p, as_signed(x), few); }
    };
    static void gelu_q(int32_t* y, const int32_t* x, int32_t n) {
        for (int32_t i = 0; i < n; i += 4) {
            const mve_pred16_t few = vctp32q(uint32_t(n - i));
            Lanes::store(y + i, gelu32<Lanes>(Lanes::load(x + i, few)), few);
        }
    }
    static void glu_q(int32_t* r, const int32_t* v, int32_t n) {
        for (int32_t i = 0; i < n; i += 4) {
            const mve_pred16_t few = vctp32q(uint32_t(n - i));
            const uint32x4_t   old = Lanes::load(r + i, few), x = Lanes::load(v + i, few);
            Lanes::store(r + i, glu32<Lanes>(old, x, Lanes::load(v + n + i, few)), few);
        }
    }
    // Two modes at once, as dsp: where |x| is below 16 |a x| is below 32. Multiplication and subtraction of pairs are
    // what the processor has for complex numbers: rs(2 (a b - c d), 32).
    template <bool Keep>
    static int64_t pairs(const S4dScanQ& a, int32_t* x, ptrdiff_t h, int32_t u, int32_t U, bool* hit) noexcept {
        const auto* A = reinterpret_cast<const int32_t*>(a.a) + h * a.modes * 2;
        const auto* B = reinterpret_cast<const int32_t*>(a.b) + h * a.modes * 2;
        const auto* C = reinterpret_cast<const int16_t*>(a.C) + h * a.modes * 2;
        int64_t     sum = 0;
        const auto  next = [&](int32x4_t v, int32x4_t va, int32x4_t vb) {
            const int32x4_t twice = vshlq_n_s32(v, 1);
            return vaddq_s32(vqrdmladhxq_s32(vqrdmlsdhq_s32(v, va, twice), va, twice), vrmulhq_s32(vb, vdupq_n_s32(U)));
        };
        ptrdiff_t left = a.modes * 2;
        for (; left > 0; left -= 4, A += 4, B += 4, C += 4, x += 4) {
            const mve_pred16_t few = vctp32q(uint32_t(left));
            const int32x4_t    v = left >= 4 ? vldrwq_s32(x) : vldrwq_z_s32(x, few);
            if (__builtin_expect(vmaxavq_s32(0, v) >> 29 != 0, false)) {
                const ptrdiff_t j = a.modes - left / 2;
                sum += s4d_modes(a, x - (h * a.modes + j) * 2, h, j, left >= 4 ? j + 2 : j + 1, u, hit);
            } else if (left >= 4) {
                const int32x4_t to = next(v, vldrwq_s32(A), vldrwq_s32(B));
                if constexpr (Keep) vstrwq_s32(x, to);
                sum = vmlsldavaq_s32(sum, vldrhq_s32(C), to);
            } else {
                const int32x4_t to = next(v, vldrwq_z_s32(A, few), vldrwq_z_s32(B, few));
                if constexpr (Keep) vstrwq_p_s32(x, to, few);
                sum = vmlsldavaq_s32(sum, vldrhq_z_s32(C, few), to);
            }
        }
        return sum;
    }
    static bool s4d_scan_q(const S4dScanQ& a) { return s4d_scan_by<helium>(a); }
    static auto modes_of(const S4dScanQ& a) noexcept {
        if (!aligned(a.a, 0, a.b) || reinterpret_cast<uintptr_t>(a.C) % 2 != 0) return dsp::modes_of(a);
        return a.h_out == nullptr ? pairs<false> : pairs<true>;
    }
    // The upper half of (x << sh) R, rounded on. Codes stay within +-127 or +-32767 by themselves.
    static void quantize(unsigned char* codes, int32_t* scale, const int32_t* x, int32_t n, int32_t padded_n,
                         int32_t bits) {
        uint32_t top = 0;
        for (int32_t i = 0; i < n; i += 4) top = vmaxavq_s32(top, vldrwq_z_s32(x + i, vctp32q(uint32_t(n - i))));
        const Quotients t(top, bits);
        const int32x4_t R = vdupq_n_s32(int32_t(t.R));
        for (int32_t i = 0; i < padded_n; i += 4) { // whole vectors: padded_n is a multiple of 32
            const int32x4_t v = vldrwq_z_s32(x + i, vctp32q(uint32_t(n > i ? n - i : 0)));
            const int32x4_t product = vmulhq_s32(vshlq_r_s32(v, t.sh), R);
            if (bits == 8) vstrbq_s32(reinterpret_cast<int8_t*>(codes + i), vrshrq_n_s32(product, 22));
            else vstrhq_s32(reinterpret_cast<int16_t*>(codes) + i, vrshrq_n_s32(product, 14));
        }
        scale[0] = t.num, scale[1] = t.den;
    }
};
#endif

#if defined(SSM_HAS_RVV)
// RISC-V's vectors, of any length from 128 bits on.
struct rvv : vectors_of<rvv, scalar> {
    static constexpr const char* name = "rvv";

    static SSM_INLINE ptrdiff_t count() noexcept { return ptrdiff_t(__riscv_vsetvlmax_e8m2()); }
    static SSM_INLINE vint8m2_t load(const unsigned char* p, ptrdiff_t N) noexcept {
        return __riscv_vle8_v_i8m2(reinterpret_cast<const int8_t*>(p), size_t(N));
    }
    static SSM_INLINE vint8m2_t first(const unsigned char* p, ptrdiff_t n, ptrdiff_t N) noexcept {
        return __riscv_vle8_v_i8m2_tu(__riscv_vmv_v_x_i8m2(0, size_t(N)), reinterpret_cast<const int8_t*>(p),
                                      size_t(n));
    }
    // Half as many sums as codes, each of two products: at most 2 * 128 * 127, which 16 bits hold.
    static SSM_INLINE vint32m4_t zero(ptrdiff_t) noexcept {
        return __riscv_vmv_v_x_i32m4(0, __riscv_vsetvlmax_e32m4());
    }
    static SSM_INLINE vint32m4_t plus(vint32m4_t s, vint16m4_t p, ptrdiff_t N) noexcept {
        const size_t n = size_t(N) / 2;
        return __riscv_vwadd_wv_i32m4(
            s, __riscv_vadd_vv_i16m2(__riscv_vget_v_i16m4_i16m2(p, 0), __riscv_vget_v_i16m4_i16m2(p, 1), n), n);
    }
    static SSM_INLINE void dot2(vint32m4_t& s, vint32m4_t& t, vint8m2_t w, vint8m2_t v, vint8m2_t x,
                                ptrdiff_t N) noexcept {
        const vint16m4_t p = __riscv_vwmul_vv_i16m4(w, x, size_t(N)), q = __riscv_vwmul_vv_i16m4(v, x, size_t(N));
        s = plus(s, p, N), t = plus(t, q, N);
    }
    static SSM_INLINE int64_t wide_sum(vint32m4_t v, size_t n) noexcept {
        return __riscv_vmv_x_s_i64m1_i64(__riscv_vwredsum_vs_i32m4_i64m1(v, __riscv_vmv_s_x_i64m1(0, 1), n));
    }
    static SSM_INLINE int32_t   sum(vint32m4_t s, ptrdiff_t N) noexcept { return int32_t(wide_sum(s, size_t(N) / 2)); }
    static SSM_INLINE vint8m1_t sixteen(const unsigned char* p) noexcept {
        return __riscv_vle8_v_i8m1(reinterpret_cast<const int8_t*>(p), 16);
    }
    // Sixteen sums of a row's groups, nibbles where they are: at most 512 * 127 * 2 * 128 * 127, below 2^31.
    static SSM_INLINE vint32m4_t group(vint32m4_t s, const unsigned char* w, unsigned char sub, vint8m1_t low,
                                       vint8m1_t high) noexcept {
        const vint8m1_t  v = sixteen(w), upper = __riscv_vand_vx_i8m1(v, -16, 16);
        const vint16m2_t part = __riscv_vwmul_vv_i16m2(__riscv_vsll_vx_i8m1(v, 4, 16), low, 16);
        return __riscv_vwmacc_vx_i32m4(s, static_cast<signed char>(sub), __riscv_vwmacc_vv_i16m2(part, upper, high, 16),
                                       16);
    }
    static SSM_INLINE int32_t sum4(vint32m4_t s) noexcept { return int32_t(wide_sum(s, 16) >> 4); }
    // Of 16-bit codes: products are below 2^22, so that 512 fit a sum of 32 bits.
    static SSM_INLINE int64_t row8(const unsigned char* w, ptrdiff_t cols, const int16_t* q) noexcept {
        const auto*  p = reinterpret_cast<const int8_t*>(w);
        const size_t N = __riscv_vsetvlmax_e16m2();
        int64_t      out = 0;
        while (cols > 0) {
            vint32m4_t s = zero(0);
            for (int times = 0; times < 512 && cols > 0; ++times) {
                const size_t n = __riscv_vsetvl_e16m2(size_t(cols));
                s = __riscv_vwmacc_vv_i32m4_tu(s, __riscv_vsext_vf2_i16m2(__riscv_vle8_v_i8m1(p, n), n),
                                               __riscv_vle16_v_i16m2(q, n), n);
                cols -= ptrdiff_t(n), p += n, q += n;
            }
            out += wide_sum(s, N);
        }
        return out;
    }
    static SSM_INLINE int64_t row4(const unsigned char* w, const unsigned char* sub, ptrdiff_t groups,
                                   const int16_t* q) noexcept {
        int64_t out = 0;
        while (groups > 0) { // code and sub-scale make 2^10, two products 2^26
            vint32m4_t s = __riscv_vmv_v_x_i32m4(0, 16);
            for (int times = 0; times < 32 && groups > 0; ++times, --groups, w += 16, ++sub, q += 32) {
                const vint8m1_t  v = sixteen(w), low = __riscv_vsra_vx_i8m1(__riscv_vsll_vx_i8m1(v, 4, 16), 4, 16);
                const vint8m1_t  high = __riscv_vsra_vx_i8m1(v, 4, 16);
                const int8_t     by = static_cast<int8_t>(*sub);
                const vint16m2_t a = __riscv_vwmul_vx_i16m2(low, by, 16), b = __riscv_vwmul_vx_i16m2(high, by, 16);
                s = __riscv_vwmacc_vv_i32m4(s, a, __riscv_vle16_v_i16m2(q, 16), 16);
                s = __riscv_vwmacc_vv_i32m4(s, b, __riscv_vle16_v_i16m2(q + 16, 16), 16);
            }
            out += wide_sum(s, 16);
        }
        return out;
    }

    // Rows of numbers as scan_row_q(), with any number of ranks, vl numbers at a time; see dsp for the roundings.
    static SSM_INLINE vint32m2_t words(const int32_t* p, size_t n) noexcept { return __riscv_vle32_v_i32m2(p, n); }

    static bool scan_row(const HeadScanQ& a, ptrdiff_t p) noexcept {
        int64_t sum[max_mimo_rank] = {};
        size_t  hits = 0;
        for (ptrdiff_t i = 0; i < a.N;) {
            const size_t     n = __riscv_vsetvl_e32m2(size_t(a.N - i));
            const vint32m2_t h = words(a.h_in + p * a.N + i, n);
            vint64m4_t       x = a.alpha_each == nullptr ? __riscv_vwmul_vx_i64m4(h, a.alpha, n)
                                                         : __riscv_vwmul_vv_i64m4(h, words(a.alpha_each + i, n), n);
            x = __riscv_vsra_vx_i64m4(__riscv_vadd_vx_i64m4(x, (1 << 29) + (1 << 8), n), 9, n);
            for (ptrdiff_t r = 0; r < a.ranks; ++r) {
                x = __riscv_vwmacc_vx_i64m4(x, a.v[r * a.P + p], words(a.k + r * a.k_stride + i, n), n);
                if (a.w == nullptr) continue;
                x = __riscv_vwmacc_vx_i64m4(x, a.w[r * a.P + p], words(a.k0 + r * a.k_stride + i, n), n);
            }
            x = __riscv_vsra_vx_i64m4(x, 21, n);
            const vint64m4_t limited = __riscv_vmax_vx_i64m4(__riscv_vmin_vx_i64m4(x, a.clip, n), -a.clip, n);
            const vint32m2_t to = __riscv_vncvt_x_x_w_i32m2(limited, n);
            hits += __riscv_vcpop_m_b16(__riscv_vmsne_vv_i64m4_b16(x, limited, n), n);
            if (a.h_out != nullptr) __riscv_vse32_v_i32m2(a.h_out + p * a.N + i, to, n);
            for (ptrdiff_t r = 0; r < a.ranks; ++r) {
                const vint64m4_t oq = __riscv_vwmul_vv_i64m4(to, words(a.q + r * a.k_stride + i, n), n);
                sum[r] += __riscv_vmv_x_s_i64m1_i64(
                    __riscv_vredsum_vs_i64m4_i64m1(oq, __riscv_vmv_s_x_i64m1(0, 1), n));
            }
            i += ptrdiff_t(n);
        }
        for (ptrdiff_t r = 0; r < a.ranks; ++r) head_read<int64_t>(a, r, p, 1, sum[r], 25);
        return hits > 0;
    }
    static bool scan_q(const HeadScanQ& a) {
        if (a.X_in != nullptr) return scalar::scan_q(a);
        bool hit = false;
        for (int32_t p = 0; p < a.P; ++p) hit |= scan_row(a, p);
        return hit;
    }

    // rs(x, s); and each second number of 32 bits.
    static SSM_INLINE vint64m4_t rounded(vint64m4_t x, int32_t s, size_t n) noexcept {
        return __riscv_vsra_vx_i64m4(__riscv_vadd_vx_i64m4(x, int64_t(1) << (s - 1), n), size_t(s), n);
    }
    static SSM_INLINE vint32m2_t each2(const int32_t* p, size_t n) noexcept { return __riscv_vlse32_v_i32m2(p, 8, n); }
    static SSM_INLINE vint32m2_t each2(const int16_t* p, size_t n) noexcept {
        return __riscv_vsext_vf2_i32m2(__riscv_vlse16_v_i16m1(p, 4, n), n);
    }
    // a x + b u limited, of one kind of part, to 32 bits.
    static SSM_INLINE vint32m2_t part(const S4dScanQ& a, vint64m4_t ax, vint32m2_t b, int32_t u, size_t n,
                                      size_t* hits) noexcept {
        const vint64m4_t bu = rounded(__riscv_vwmul_vx_i64m4(b, u, n), a.b_shift, n);
        const vint64m4_t x = __riscv_vadd_vv_i64m4(rounded(ax, 30, n), bu, n);
        const vint64m4_t limited = __riscv_vmax_vx_i64m4(__riscv_vmin_vx_i64m4(x, a.clip, n), -a.clip, n);
        *hits += __riscv_vcpop_m_b16(__riscv_vmsne_vv_i64m4_b16(x, limited, n), n);
        return __riscv_vncvt_x_x_w_i32m2(limited, n);
    }
    static bool s4d_scan_q(const S4dScanQ& a) {
        if ((reinterpret_cast<uintptr_t>(a.a) | reinterpret_cast<uintptr_t>(a.b)) % 4 != 0 ||
            reinterpret_cast<uintptr_t>(a.C) % 2 != 0)
            return scalar::s4d_scan_q(a);
        size_t hits = 0;
        for (ptrdiff_t h = 0; h < a.H; ++h)
            for (ptrdiff_t t = 0; t < a.T; ++t) {
                const int32_t *from = t == 0 || a.h_out == nullptr ? a.h_in : a.h_out, u = a.u[t * a.stride + h];
                const auto *   A = reinterpret_cast<const int32_t*>(a.a), *B = reinterpret_cast<const int32_t*>(a.b);
                const auto*    C = reinterpret_cast<const int16_t*>(a.C);
                int64_t        sum = 0;
                for (ptrdiff_t k = h * a.modes * 2, end = k + a.modes * 2; k < end;) {
                    const size_t     n = __riscv_vsetvl_e32m2(size_t(end - k) / 2);
                    const vint32m2_t ar = each2(A + k, n), ai = each2(A + k + 1, n);
                    const vint32m2_t xr = each2(from + k, n), xi = each2(from + k + 1, n);
                    const vint64m4_t re =
                        __riscv_vsub_vv_i64m4(__riscv_vwmul_vv_i64m4(ar, xr, n), __riscv_vwmul_vv_i64m4(ai, xi, n), n);
                    const vint64m4_t im = __riscv_vwmacc_vv_i64m4(__riscv_vwmul_vv_i64m4(ar, xi, n), ai, xr, n);
                    const vint32m2_t r = part(a, re, each2(B + k, n), u, n, &hits);
                    const vint32m2_t i = part(a, im, each2(B + k + 1, n), u, n, &hits);
                    if (a.h_out != nullptr) {
                        __riscv_vsse32_v_i32m2(a.h_out + k, 8, r, n);
                        __riscv_vsse32_v_i32m2(a.h_out + k + 1, 8, i, n);
                    }
                    const vint64m4_t read = __riscv_vsub_vv_i64m4(__riscv_vwmul_vv_i64m4(each2(C + k, n), r, n),
                                                                  __riscv_vwmul_vv_i64m4(each2(C + k + 1, n), i, n), n);
                    sum +=
                        __riscv_vmv_x_s_i64m1_i64(__riscv_vredsum_vs_i64m4_i64m1(read, __riscv_vmv_s_x_i64m1(0, 1), n));
                    k += ptrdiff_t(n) * 2;
                }
                a.s[t * a.stride + h] = s4d_read(a, h, sum, u);
            }
        return hits > 0;
    }
};
#endif
#undef SSM_UNROLL_8
#undef SSM_FLOAT_LOOPS
#undef SSM_FLOAT_CELLS
#undef SSM_INTEGER_LOOPS
SSM_DETAIL_END

// ---- 10. Choosing a back-end ----------------------------------------------------------------------------------------
//
// One table of function pointers a back-end, and the question what this CPU can run. load() asks once and keeps the
// answer in the Model: no global, nothing lazy. Exports kernels_of, isa_name, isa_runs_here.

SSM_DETAIL_BEGIN

// Of what a build leaves out no kernel stands in a table, so that a linker finds nothing of it.
template <class K> constexpr Kernels kernels_from() noexcept {
    constexpr bool          s4d = in_build(Arch::s4d), has_conv = in_build(Arch::mamba1) || in_build(Arch::mamba2);
    Kernels                 t{};
    EngineKernels<float>&   f = t;
    EngineKernels<int32_t>& q = t;
    t.name = K::name;
    if constexpr (float_in_build) {
        t.matmul = &K::matmul;
        if constexpr (layer_norm_in_build) f.layer_norm = &K::layer_norm;
        if constexpr (s4d) {
            t.s4d_scan = &K::s4d_scan, t.s4d_discretize = &K::s4d_discretize, f.gelu = &K::gelu, f.glu = &K::glu;
        }
        if constexpr (mamba_in_build) f.add = &K::add, f.rms_norm = &K::rms_norm, f.gate = &K::gate;
        if constexpr (has_conv) f.conv = &K::conv;
        if constexpr (in_build(Arch::mamba1)) f.mamba1 = &K::mamba1;
        if constexpr (in_build(Arch::mamba2)) f.mamba2 = &K::mamba2;
        if constexpr (in_build(Arch::mamba3)) f.mamba3 = &K::mamba3;
    }
    if constexpr (sound_in_build) t.bank_q = &K::bank_q;
    if constexpr (integer_in_build) {
        t.quantize = &K::quantize, t.matmul_q = &K::matmul_q;
        if constexpr (layer_norm_in_build) q.layer_norm = &K::layer_norm_q;
        if constexpr (s4d) t.s4d_scan_q = &K::s4d_scan_q, q.gelu = &K::gelu_q, q.glu = &K::glu_q;
        if constexpr (mamba_in_build) {
            t.scan_q = &K::scan_q, q.add = &K::add_q, q.rms_norm = &K::rms_norm_q, q.gate = &K::gate_q;
        }
        if constexpr (has_conv) q.conv = &K::conv_q;
        if constexpr (in_build(Arch::mamba1)) q.mamba1 = &K::mamba1_q;
        if constexpr (in_build(Arch::mamba2)) q.mamba2 = &K::mamba2_q;
        if constexpr (in_build(Arch::mamba3)) q.mamba3 = &K::mamba3_q, t.mamba3_heads_q = &K::mamba3_heads_q;
    }
    return t;
}
template <class K> inline constexpr Kernels table = kernels_from<K>();

#if defined(SSM_HAS_AVX2)
SSM_LOCAL bool cpu_has_sse42() noexcept {
    unsigned       a = 0, b = 0, c = 0, d = 0;
    const unsigned both = 1u << 19 | 1u << 20; // 4.1 and 4.2
    return __get_cpuid(1, &a, &b, &c, &d) && (c & both) == both;
}
// AVX2 and F16C in the CPU, and the operating system saves the wide registers.
SSM_LOCAL bool cpu_has_avx2() noexcept {
    unsigned a = 0, b = 0, c = 0, d = 0, lo = 0, hi = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return false;
    const unsigned osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    if ((c & (osxsave | avx | f16c)) != (osxsave | avx | f16c)) return false;
    __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (lo & 6u) == 6u && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1u << 5) != 0;
}
SSM_LOCAL bool cpu_has_avxvnni() noexcept {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return cpu_has_avx2() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && a >= 1 &&
           __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4) != 0;
}
// AVX-512 F, DQ, BW, VL and VNNI besides, and the system saves the 512-bit and mask registers.
SSM_LOCAL bool cpu_has_avx512() noexcept {
    unsigned a = 0, b = 0, c = 0, d = 0, lo = 0, hi = 0;
    if (!cpu_has_avx2() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    const unsigned f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31, all = f | dq | bw | vl, vnni = 1u << 11;
    return (lo & 0xe6u) == 0xe6u && (b & all) == all && (c & vnni) != 0;
}
#endif
#if defined(SSM_HAS_DOTPROD)
SSM_LOCAL bool cpu_has_dotprod() noexcept {
#if defined(__linux__) && defined(AT_HWCAP)
    return (getauxval(AT_HWCAP) >> 20 & 1u) != 0; // HWCAP_ASIMDDP
#else
    return true; // compiled for it
#endif
}
#endif
#if defined(SSM_HAS_I8MM)
SSM_LOCAL bool cpu_has_i8mm() noexcept {
#if defined(__linux__) && defined(AT_HWCAP2)
    return cpu_has_dotprod() && (getauxval(AT_HWCAP2) >> 13 & 1u) != 0; // HWCAP2_I8MM
#else
    return true;
#endif
}
#endif

SSM_LOCAL const Kernels* kernels_of(Isa isa) noexcept { // null: not on this machine or not in this build
    switch (isa) {
    case Isa::best:
#if defined(SSM_HAS_HELIUM)
    case Isa::helium:
        return &table<helium>;
#elif defined(SSM_HAS_DSP)
    case Isa::dsp:
        return &table<dsp>;
#elif defined(SSM_HAS_RVV)
    case Isa::rvv:
        return &table<rvv>;
#endif
#if defined(SSM_HAS_AVX2)
    case Isa::avx512:
        if (cpu_has_avx512()) return &table<avx512>;
        if (isa == Isa::avx512) return nullptr;
        [[fallthrough]];
    case Isa::avxvnni:
        if (cpu_has_avxvnni()) return &table<avxvnni>;
#if defined(SSM_AVXVNNI_TEST)
        if (isa == Isa::avxvnni && cpu_has_avx512()) return &table<vnni256<true>>;
#endif
        if (isa == Isa::avxvnni) return nullptr;
        [[fallthrough]];
    case Isa::avx2:
        if (cpu_has_avx2()) return &table<avx2>;
        if (isa == Isa::avx2) return nullptr;
        [[fallthrough]];
    case Isa::sse42:
        if (cpu_has_sse42()) return &table<sse42>;
        if (isa == Isa::sse42) return nullptr;
#elif defined(SSM_HAS_NEON)
#if defined(SSM_HAS_I8MM)
    case Isa::i8mm:
        if (cpu_has_i8mm()) return &table<i8mm>;
        if (isa == Isa::i8mm) return nullptr;
        [[fallthrough]];
#endif
#if defined(SSM_HAS_DOTPROD)
    case Isa::dotprod:
        if (cpu_has_dotprod()) return &table<dotprod>;
        if (isa == Isa::dotprod) return nullptr;
        [[fallthrough]];
#endif
    case Isa::neon:
        return &table<neon>;
#elif defined(SSM_HAS_SIMD128)
    case Isa::simd128:
        return &table<simd128>;
#endif
#if !defined(SSM_HAS_NEON) && !defined(SSM_HAS_SIMD128)
        return &table<scalar>;
#endif
#if !defined(SSM_FIXED_CONFIG) || !(defined(SSM_HAS_DSP) || defined(SSM_HAS_RVV))
    case Isa::scalar:
        return &table<scalar>;
#endif
    default:
        return nullptr;
    }
}
SSM_DETAIL_END

SSM_API const char* isa_name(Isa isa) noexcept {
    switch (isa) {
    case Isa::best:
        return "best";
    case Isa::scalar:
        return "scalar";
    case Isa::avx2:
        return "avx2";
    case Isa::avx512:
        return "avx512";
    case Isa::sse42:
        return "sse42";
    case Isa::neon:
        return "neon";
    case Isa::dotprod:
        return "dotprod";
    case Isa::simd128:
        return "simd128";
    case Isa::dsp:
        return "dsp";
    case Isa::helium:
        return "helium";
    case Isa::rvv:
        return "rvv";
    case Isa::avxvnni:
        return "avxvnni";
    case Isa::i8mm:
        return "i8mm";
    }
    return nullptr;
}
SSM_API bool isa_runs_here(Isa isa) noexcept { return detail::kernels_of(isa) != nullptr; }

// ---- 11. Model parts ------------------------------------------------------------------------------------------------
//
// What a loaded layer is, how a state and a scratch are laid out, and the small helpers that walk them.

SSM_DETAIL_BEGIN
static_assert(sizeof(S4dLayer<float>) <= layer_bytes && sizeof(S4dLayer<int32_t>) <= layer_bytes &&
                  sizeof(MambaLayer<float>) <= layer_bytes && sizeof(MambaLayer<int32_t>) <= layer_bytes,
              "detail::layer_bytes must cover every layer");

struct StateHeader {
    uint64_t steps;
    uint32_t flags, unused;
};
static_assert(sizeof(StateHeader) == state_header_bytes, "a state's bytes are the same on every machine");

SSM_LOCAL StateHeader header_of(const State& s) noexcept {
    StateHeader h;
    copy(&h, s.data, sizeof h);
    return h;
}
template <class T> SSM_INLINE T* words_of(const State& s) noexcept { // T: float or int32_t, the model's engine
    return static_cast<T*>(static_cast<void*>(static_cast<unsigned char*>(s.data) + state_header_bytes));
}

// The rows of one call: consecutive steps of one stream, candidates for one stream, or one row for each of many
// streams.
enum class Rows : uint8_t { steps, candidates, streams, stream_candidates };
struct Call {
    Rows         rows = Rows::steps;
    const State* states = nullptr; // one, or n for streams
    int32_t      n = 0;
    // Rows of four-byte numbers: floats, or Q16 of a call that says so.
    const unsigned char *x = nullptr, *dt = nullptr;
    unsigned char*       y = nullptr;
    bool                 q16 = false;
    const State&         of(int32_t i) const noexcept {
                return states[rows == Rows::streams || rows == Rows::stream_candidates ? i : 0];
    }
    bool moves() const noexcept { return rows == Rows::steps || rows == Rows::streams; }
    bool many() const noexcept { return rows == Rows::streams || rows == Rows::stream_candidates; }
};
SSM_INLINE uint32_t word_at(const unsigned char* p, size_t i) noexcept { // a number of this machine
    uint32_t word;
    SSM_MEMCPY(&word, p + 4 * i, 4);
    return word;
}
// The time before row i, as the model's engine takes it.
SSM_INLINE void dt_of(const Call& call, int32_t i, float* dt) noexcept {
    *dt = call.dt != nullptr ? float_of(int32_t(word_at(call.dt, size_t(i)))) : 1.0f;
}
SSM_INLINE void dt_of(const Call& call, int32_t i, int32_t* dt) noexcept {
    const uint32_t word = call.dt != nullptr ? word_at(call.dt, size_t(i)) : 65536u;
    *dt = call.q16 || call.dt == nullptr ? int32_t(word) : to_q16(word);
}

// Where things stand in a scratch of `batch` rows.
template <class T> struct Work {
    T *            r, *z, *p, *o, *one;
    unsigned char* codes;  // of integers: [batch][code_bytes]
    int32_t*       scales; // [batch]{num, den}
    const Team*    team;   // null: none
#ifdef SSM_DEBUG
    const Call* call = nullptr; // whose counts go up
#endif
    Work([[maybe_unused]] const Config& config, const Scratch& w) noexcept : team(w.team) {
        const Config& c = SSM_KNOWN(config);
        const size_t  batch = size_t(w.batch), rows = batch * padded(c.d_model);
        r = static_cast<T*>(w.data), z = r + rows, p = z + rows, o = p + batch * row_p(c), one = o + batch * row_o(c);
        codes = reinterpret_cast<unsigned char*>(one);
        one += batch * (code_bytes(c) / 4), scales = reinterpret_cast<int32_t*>(one);
        if (is_integer(c)) one += batch * 2;
    }
};

#ifdef SSM_DEBUG
// Of row i; null: not counted. A stream that moves came as State*.
SSM_LOCAL Counts* counts_of(const Call& call, int32_t i) noexcept {
    return call.moves() ? &const_cast<State&>(call.of(i)).counts : nullptr;
}
#endif

// f(first, end) over pieces of 0 .. n, by a team's threads if there is a team and the work is large enough; pieces are
// multiples of `step`. Handing out work costs a few microseconds. Float or int8 multiply-adds, and updates of a state,
// that take so long:
constexpr int64_t many_macs = 1 << 17, many_updates = 1 << 14;
template <class F>
SSM_LOCAL void in_parts(const Team* team, bool large, int32_t n, int32_t step, const F& f) noexcept {
    if (!team_in_build || team == nullptr || team->run == nullptr || !large) return f(0, n);
    const int32_t most = team->parts > max_parts ? max_parts : team->parts < 1 ? 1 : team->parts;
    const struct {
        const F& f;
        int32_t  n, size; // of a piece
    } job = {f, n, ((n - 1) / most / step + 1) * step};
    const auto part = [](void* p, int32_t i) {
        const auto&   j = *static_cast<decltype(&job)>(p);
        const int32_t first = i * j.size;
        j.f(first, j.n - first < j.size ? j.n : first + j.size);
    };
    team->run(team->self, part, const_cast<void*>(static_cast<const void*>(&job)), (n - 1) / job.size + 1);
}
// Rows first .. end of a matrix.
SSM_LOCAL Matrix slice(const Matrix& W, int32_t first, int32_t end) noexcept {
    Matrix          part = W;
    const ptrdiff_t four = first < W.rows4 ? first : W.rows4, groups = (W.cols + 31) / 32; // of int4, before `first`
    const ptrdiff_t size = W.dtype == DType::f32 ? 4 : W.dtype == DType::f16 || W.dtype == DType::bf16 ? 2 : 1;
    part.rows = end - first, part.rows4 = (end < W.rows4 ? end : W.rows4) - int32_t(four);
    part.data += (first - four) * W.cols * size;
    if (W.data4 != nullptr) part.data4 += four * groups * 16, part.sub += four * groups;
    if (W.scale != nullptr) part.scale += ptrdiff_t(first) * 4;
    if (W.bias != nullptr) part.bias += ptrdiff_t(first) * 4;
    return part;
}

// What a layer asks of a back-end, by the engine's type of number.
SSM_LOCAL void project(const Model& m, const Work<float>& work, float* y, ptrdiff_t y_stride, const Matrix& W,
                       const float* bias, const float* x, ptrdiff_t x_stride, int32_t n) noexcept {
    in_parts(work.team, int64_t(W.rows) * W.cols * n >= many_macs, W.rows, 8, [&](int32_t first, int32_t end) {
        m.kernels->matmul(y + first, int32_t(y_stride), slice(W, first, end), bias != nullptr ? bias + first : nullptr,
                          x, int32_t(x_stride), n);
    });
}
SSM_LOCAL void project(const Model& m, const Work<int32_t>& work, int32_t* y, ptrdiff_t y_stride, const Matrix& W,
                       const int32_t*, const int32_t* x, ptrdiff_t x_stride, int32_t n) noexcept {
    const Config& c = SSM_KNOWN(m.config);
    const int32_t stride = int32_t(code_bytes(c)), bits = c.act_bits, whole = (W.cols + 31) / 32 * 32;
    for (int32_t i = 0; i < n; ++i)
        m.kernels->quantize(work.codes + ptrdiff_t(i) * stride, work.scales + 2 * i, x + i * x_stride, W.cols, whole,
                            bits);
    if constexpr (!team_in_build) m.kernels->matmul_q(W, {y, y_stride, work.codes, stride, work.scales}, n, bits);
    else
        in_parts(work.team, int64_t(W.rows) * W.cols * n >= many_macs, W.rows, 8, [&](int32_t first, int32_t end) {
            m.kernels->matmul_q(slice(W, first, end), {y + first, y_stride, work.codes, stride, work.scales}, n, bits);
        });
#ifdef SSM_DEBUG
    for (int32_t i = 0; work.call->moves() && i < n; ++i)
        for (int32_t o = 0; o < W.rows; ++o)
            counts_of(*work.call, i)->saturated += size_of(y[i * y_stride + o]) == uint32_t(int_max);
#endif
}
template <class T> SSM_LOCAL void norm(const Model& m, T* y, const T* x, const T* weight, const T* bias) noexcept {
    const EngineKernels<T>& k = *m.kernels;
    const int32_t           d = SSM_KNOWN(m.config).d_model;
    if (layer_norm_in_build && bias != nullptr) k.layer_norm(y, x, weight, bias, d);
    else k.rms_norm(y, x, weight, d, 24);
}
template <class T> SSM_LOCAL bool cell(const Row<T>& row) noexcept {
    const EngineKernels<T>& k = row.engine();
    const Config&           c = SSM_KNOWN(*row.c);
    return is(c, Arch::mamba1) ? k.mamba1(row) : is(c, Arch::mamba2) ? k.mamba2(row) : k.mamba3(row);
}
// Words that heads need for themselves, see Row::own.
constexpr size_t own_words(const Config& c) noexcept {
    const size_t N = size_t(c.d_state), RP = size_t(c.mimo_rank) * padded(c.headdim);
    if (!is_integer(c)) return 16 * N + (c.arch == Arch::mamba2 ? 2 * padded(c.headdim) : 3 * RP);
    return 2 + 3 * N + (c.arch == Arch::mamba2 ? padded(c.headdim) : padded(c.rope_angles) + 5 * RP);
}
template <class T> SSM_LOCAL bool mix_row(const Team* team, const Row<T>& row) noexcept {
    constexpr size_t most = 4096;
    const Config&    c = SSM_KNOWN(*row.c);
    const int32_t    n = c.arch == Arch::mamba1 ? (c.d_inner + 7) / 8 : c.nheads; // heads, or blocks
    const int64_t    updates = int64_t(n) * c.d_state * (c.arch == Arch::mamba1 ? 8 : c.headdim);
    if (!team_in_build || team == nullptr || updates < many_updates || own_words(c) > most) return cell(row);
    Row<T> one = row;
    one.what = row.before, (void)cell(one);
    struct {
        bool hit = false;
#ifdef SSM_DEBUG
        Counts counts;
#endif
    } of_part[size_t(max_parts)];
    const int32_t size = (n - 1) / max_parts + 1; // so that first / size says which part it is
    in_parts(team, true, n, size, [&](int32_t first, int32_t end) {
        alignas(8) T own[most];
        Row<T>       part = row;
        part.what = row.heads, part.first = first, part.end = end, part.own = own;
#ifdef SSM_DEBUG
        if (row.counts != nullptr) part.counts = &of_part[first / size].counts;
#endif
        of_part[first / size].hit = cell(part);
    });
    one.what = row.after, (void)cell(one);
    bool hit = false;
    for (const auto& p : of_part) {
        hit |= p.hit;
#ifdef SSM_DEBUG
        if (row.counts != nullptr) row.counts->clipped += p.counts.clipped;
#endif
    }
    return hit;
}
SSM_LOCAL void see(const Trace* t, const char* stage, int32_t layer, int32_t row, const int32_t* v, size_t n) noexcept {
    if (t != nullptr && t->see_int != nullptr) t->see_int(t->user, stage, layer, row, v, int32_t(n));
}
SSM_LOCAL void           see(const Trace*, const char*, int32_t, int32_t, const float*, size_t) noexcept {}
SSM_LOCAL const float*   mix_bias(const S4dLayer<float>& l) noexcept { return l.mix_bias; }
SSM_LOCAL const int32_t* mix_bias(const S4dLayer<int32_t>&) noexcept { return nullptr; } // its Matrix has it

// Angles: 2^32 units to a turn, kept among the floats of a state.
SSM_LOCAL float phase_to_radians(const float* at) noexcept {
    uint32_t units;
    copy(&units, at, sizeof units);
    return static_cast<float>(static_cast<double>(units) * (6.283185307179586477 / 4294967296.0));
}
SSM_LOCAL uint32_t radians_to_phase(float radians) noexcept {
    const double turns = static_cast<double>(radians) / 6.283185307179586477, whole = 4503599627370496.0;
    double       part = turns - ((turns + whole) - whole);
    if (!(part >= -0.5 && part <= 0.5)) part = 0.0;
    return uint32_t(int64_t(part * 4294967296.0 + (part < 0.0 ? -0.5 : 0.5)));
}

SSM_LOCAL void set_flags(const State& s, uint32_t flags) noexcept {
    StateHeader h = header_of(s);
    h.flags |= flags;
    copy(s.data, &h, sizeof h);
}

// How many rows from i on are steps of equal dt, which go in one scan.
SSM_LOCAL int32_t equal_rows(const Call& call, int32_t i) noexcept {
    int32_t T = 1;
    if (call.rows == Rows::steps)
        while (i + T < call.n && (call.dt == nullptr || word_at(call.dt, size_t(i + T)) == word_at(call.dt, size_t(i))))
            ++T;
    return T;
}

// s[row] of one layer for every row of the call; `at`: where the layer's state begins, in floats. u may be s.
SSM_LOCAL void s4d_rows(const Model& m, const S4dLayer<float>& layer, const Call& call, ptrdiff_t at,
                        const Work<float>& work, const float* u, float* s) noexcept {
    const Config& c = SSM_KNOWN(m.config);
    const int32_t stride = int32_t(padded(c.d_model)), blocks = stride / 8, n_modes = c.d_state / 2;
    const float   clip = c.state_clip > 0.0f ? c.state_clip : FLT_MAX;
    float *       discarded = work.one, *made_ab = discarded + modes(c) * 2;
    float         made = 1.0f; // the dt that made_ab was made for; 1 stands for the layer's own
    for (int32_t i = 0; i < call.n;) {
        const int32_t T = equal_rows(call, i);
        float         dt;
        dt_of(call, i, &dt);
        const float* ab = layer.ab;
        if (bits_of(dt) != bits_of(1.0f)) {
            if (bits_of(dt) != bits_of(made))
                m.kernels->s4d_discretize(made_ab, layer.rho, layer.turns, layer.gain, dt, c.disc, blocks * n_modes);
            made = dt;
            ab = made_ab;
        }
        float*     h = words_of<float>(call.of(i)) + at;
        const bool hit =
            m.kernels->s4d_scan({ab, layer.c, layer.D, h, u + ptrdiff_t(i) * stride, call.moves() ? h : discarded,
                                 s + ptrdiff_t(i) * stride, stride, T, blocks, n_modes, clip});
        if (hit && call.moves()) set_flags(call.of(i), 1u);
        i += T;
    }
}

// a and b of an integer model for a dt other than 1, in the file's byte order: with d in Q16,
//     mag = exp(-rho d), p = bits 16..47 of phase d, a = mag (cos p, sin p), b = (a - 1) gain
struct ModeOfQ {
    int32_t ar, ai, br, bi;
    SSM_INLINE ModeOfQ(const unsigned char* rho, const unsigned char* phase, const unsigned char* gain, int32_t d,
                       int32_t t) noexcept { // t: 30 + g_frac - b_frac
        const int64_t  decay = rs<16>(product(int32_t(load_u32(rho)), d));
        const int64_t  mag = exp_neg(decay < dt_limit ? decay : int64_t(dt_limit));
        const uint64_t turns = load_u64(phase) * uint64_t(d);
        const int64_t  p = int64_t(turns >> 16 & 0xffffffffu);
        const int64_t  re = rs<30>(mag * cos_turn(p)), im = rs<30>(mag * sin_turn(p)), dr = re - one_q30;
        const int64_t  gr = int32_t(load_u32(gain)), gi = int32_t(load_u32(gain + 4));
        SSM_ASSERT(at_most(re, one_q30 + 1) && at_most(im, one_q30 + 1)); // dr gr - im gi: at most 2^62.6
        ar = int32_t(re), ai = int32_t(im), br = sat(rs(dr * gr - im * gi, t)), bi = sat(rs(dr * gi + im * gr, t));
    }
};
SSM_LOCAL void discretize_q(const Config& c, const S4dLayer<int32_t>& layer, int32_t d, unsigned char* a,
                            unsigned char* b) noexcept {
    for (size_t k = 0; k < modes(c); ++k, a += 8, b += 8) {
        const ModeOfQ m(layer.rho + k * 4, layer.phase + k * 8, layer.gain + k * 8, d, 30 + c.g_frac - c.b_frac);
        store_u32(a, uint32_t(m.ar)), store_u32(a + 4, uint32_t(m.ai));
        store_u32(b, uint32_t(m.br)), store_u32(b + 4, uint32_t(m.bi));
    }
}
SSM_LOCAL void s4d_rows(const Model& m, const S4dLayer<int32_t>& layer, const Call& call, ptrdiff_t at,
                        const Work<int32_t>& work, const int32_t* u, int32_t* s) noexcept {
    const Config&  c = SSM_KNOWN(m.config);
    unsigned char *made_a = reinterpret_cast<unsigned char*>(work.one), *made_b = made_a + modes(c) * 8;
    int32_t        made = 65536; // the dt that made_a and made_b are for; 65536 stands for the layer's own
    S4dScanQ       scan{};
    scan.C = layer.C, scan.C_scale = layer.C_scale, scan.D = layer.D, scan.stride = int32_t(padded(c.d_model));
    scan.H = c.d_model, scan.modes = c.d_state / 2, scan.b_shift = c.b_frac - 9, scan.clip = c.clip_q25;
    for (int32_t i = 0; i < call.n; i += scan.T) {
        int32_t dt;
        dt_of(call, i, &dt);
        scan.T = equal_rows(call, i);
        scan.a = layer.a, scan.b = layer.b;
        if (dt != 65536) {
            if (dt != made) discretize_q(c, layer, dt, made_a, made_b);
            made = dt, scan.a = made_a, scan.b = made_b;
        }
        int32_t* h = words_of<int32_t>(call.of(i)) + at;
        scan.h_in = h, scan.h_out = call.moves() ? h : nullptr;
        scan.u = u + ptrdiff_t(i) * scan.stride, scan.s = s + ptrdiff_t(i) * scan.stride;
#ifdef SSM_DEBUG
        if (call.moves()) counts_of(call, i)->clipped += clips_of(scan);
#endif
        if (m.kernels->s4d_scan_q(scan) && call.moves()) set_flags(call.of(i), 1u);
    }
}

// ---- 12. Running ----------------------------------------------------------------------------------------------------
//
// encoder -> layers with their residual sums and norms -> pooling -> decoder, for all rows of a call at once: Mamba's
//
//     r = encoder x, or x;   r <- r + mixer(norm(r)), r <- r + fc2(a silu(g)) with (a, g) = fc1 norm2(r), for each
//     layer y = head pool(norm_f(r))
//
// Checks come first: after them nothing can fail, so a state is moved whole or not at all. Also states: make, reset,
// save, restore.

SSM_INLINE void put_q16(int32_t* to, int32_t v) noexcept { *to = v; }
SSM_INLINE void put_q16(float* to, int32_t v) noexcept { *to = static_cast<float>(v) * (1.0f / 65536.0f); }

// The steps of BankQ around the resonators: u of a sample, l of a band, what a frame means for all bands, a feature.
SSM_INLINE int32_t heard(const Config& c, int32_t x, int32_t last) noexcept {
    return (32 * x - 29 * last) >> c.band_shift;
}
SSM_INLINE int32_t loudness(const int32_t* band, const unsigned char* full) noexcept {
    return log2_of(uint64_t(wide_of(band + 4)) + 1) - int32_t(load_u32(full));
}
struct BandFrame {
    int32_t peak;
    int64_t forget;
    bool    first, active;
    SSM_INLINE BandFrame(const Config& c, int32_t top, bool is_first, int32_t last_peak) noexcept : first(is_first) {
        const int32_t before = first ? top : last_peak;
        peak = top > before - c.band_fall ? top : before - c.band_fall;
        const int64_t rise = peak > before ? (int64_t(peak) - before) >> c.band_forget : 0;
        forget = rise < 65536 ? rise : 65536;
        active = top > peak - c.band_gate && top > -c.band_quiet;
    }
    SSM_INLINE int32_t feature(const Config& c, int32_t l, int32_t usual, int32_t* mean_at) const noexcept {
        const int32_t below = l - peak, d = (below > -c.band_floor ? below : -c.band_floor) * 256;
        const int32_t prior = usual * 256;
        int32_t       mean = first ? prior : *mean_at;
        mean += int32_t(rs<16>((int64_t(prior) - mean) * forget));
        if (active) mean += int32_t(rs<16>((int64_t(d) - mean) * c.band_mean));
        *mean_at = mean;
        return int32_t(rs<9>(int64_t(d) - mean));
    }
};
// The features of every row of a model of sound, Q16, into work.p.
template <class T>
SSM_LOCAL void sound_rows(const Model& m, const Call& call, const Work<T>& work, const Trace* trace) noexcept {
    const Config&   c = SSM_KNOWN(m.config);
    const ptrdiff_t K = c.n_bands;
    int32_t *       own = reinterpret_cast<int32_t*>(work.one), *u = own + bank_words(c);
    BankQ           bank{m.poles, u, nullptr, c.n_bands, c.d_input, c.band_leak};
    for (int32_t i = 0; i < call.n; ++i) {
        int32_t* s = words_of<int32_t>(call.of(i)) + pool_words(c);
        if (!call.moves()) copy(own, s, bank_words(c) * 4), s = own;
        int32_t *last = s + 7 * K, *peak = last + 1, *begun = last + 2, top = INT32_MIN;
        for (int32_t t = 0; t < c.d_input; ++t) {
            const uint32_t word = word_at(call.x, size_t(i) * size_t(c.d_input) + size_t(t));
            const int32_t  x = sat(call.q16 ? int32_t(word) : to_q16(word), 65536);
            u[t] = heard(c, x, *last);
            *last = x;
        }
        bank.state = s;
        m.kernels->bank_q(bank);
        T* const to = work.p + i * ptrdiff_t(row_p(c));
        for (ptrdiff_t k = 0; k < K; ++k) {
            u[k] = loudness(s + 7 * k, m.full + 4 * k);
            top = u[k] > top ? u[k] : top;
        }
        const BandFrame frame(c, top, *begun == 0, *peak);
        *peak = frame.peak;
        for (ptrdiff_t k = 0; k < K; ++k) {
            const int32_t f = frame.feature(c, u[k], int32_t(load_u32(m.prior + 4 * k)), &s[7 * k + 6]);
            put_q16(to + k, f);
            if constexpr (trace_in_build)
                if (trace != nullptr && trace->see_int != nullptr) trace->see_int(trace->user, "features", 0, i, &f, 1);
        }
        *begun = 1;
    }
}

SSM_INLINE float   pooled(float mean, float r, float part) noexcept { return mean + (r - mean) * part; }
SSM_INLINE int32_t kept_next(int32_t kept) noexcept { return (kept == int_max ? 1 << 30 : kept) + 1; }
// Adds r to a sum of `kept` rows and gives the mean.
SSM_INLINE int32_t pooled_q(int64_t* sum, int32_t r, int32_t kept) noexcept {
    const int32_t count = kept_next(kept);
    if (kept == int_max) *sum = rs<1>(*sum);
    SSM_ASSERT(sum_at_most(*sum, r, (int64_t(1) << 62) + int64_t(count) * int_max)); // more: of a restored one
    *sum += r;
    return sat(floor_quotient(*sum + count / 2, count));
}
// Pooling "mean" of row r, in place, with the row counted: a running mean, mean + (r - mean) / count.
SSM_LOCAL void pool_mean(const Config& c, const State& s, bool moves, float* r) noexcept {
    float*         mean = words_of<float>(s);
    const uint64_t steps = header_of(s).steps; // a restored count may be any
    const float    part = 1.0f / static_cast<float>(steps + (steps < UINT64_MAX ? 1 : 0));
    for (int32_t k = 0; k < c.d_model; ++k) {
        r[k] = pooled(mean[k], r[k], part);
        if (moves) mean[k] = r[k];
    }
}
// Integers keep the sum, |sum| <= 2^62: halved with its count when that reaches 2^31 - 1. r = floor of the rounded
// mean.
SSM_LOCAL void pool_mean(const Config& c, const State& s, bool moves, int32_t* r) noexcept {
    int32_t *     low = words_of<int32_t>(s), *high = low + padded(c.d_model), *kept = high + padded(c.d_model);
    for (int32_t k = 0; k < c.d_model; ++k) {
        int64_t sum = int64_t(uint64_t(uint32_t(low[k])) | uint64_t(uint32_t(high[k])) << 32);
        r[k] = pooled_q(&sum, r[k], *kept);
        if (moves) low[k] = int32_t(uint32_t(uint64_t(sum))), high[k] = int32_t(sum >> 32);
    }
    if (moves) *kept = kept_next(*kept);
}

template <class T>
SSM_LOCAL void run_s4d(const Model& m, const S4dLayer<T>* layers, const Call& call, const Work<T>& work,
                       const Trace* trace) noexcept {
    const Config&           c = SSM_KNOWN(m.config);
    const int32_t           H = c.d_model, stride = int32_t(padded(H)), n = call.n;
    T *                     r = work.r, *z = work.z;
    const EngineKernels<T>& engine = *m.kernels;
    for (int32_t i = 0; i < n; ++i)
        for (int32_t k = H; k < stride; ++k) r[i * stride + k] = z[i * stride + k] = 0;
    ptrdiff_t at = ptrdiff_t(head_words(c));
    for (int32_t l = 0; l < c.n_layers; ++l, at += ptrdiff_t(modes(c) * 2)) {
        const S4dLayer<T>& layer = layers[l];
        if (c.prenorm)
            for (int32_t i = 0; i < n; ++i) norm(m, z + i * stride, r + i * stride, layer.norm_weight, layer.norm_bias);
        for (int32_t i = 0; i < n; ++i) see(trace, "u", l, i, (c.prenorm ? z : r) + i * stride, size_t(H));
        s4d_rows(m, layer, call, at, work, c.prenorm ? z : r, z);
        for (int32_t i = 0; i < n; ++i) see(trace, "s", l, i, z + i * stride, size_t(H));
        engine.gelu(z, z, n * stride);
        for (int32_t i = 0; i < n; ++i) see(trace, "g", l, i, z + i * stride, size_t(H));
        project(m, work, work.p, ptrdiff_t(row_p(c)), layer.mix, mix_bias(layer), z, stride, n);
        for (int32_t i = 0; i < n; ++i) {
            T* const v = work.p + i * ptrdiff_t(row_p(c));
            see(trace, "v", l, i, v, size_t(2 * H));
            engine.glu(r + i * stride, v, H);
            if (!c.prenorm) norm(m, r + i * stride, r + i * stride, layer.norm_weight, layer.norm_bias);
            see(trace, "block", l, i, r + i * stride, size_t(H));
        }
    }
}

// conv1d and its SiLU over the `n` columns of every row at x, in place, and the state's last K inputs.
template <class T>
SSM_LOCAL void conv_rows(const Model& m, const MambaLayer<T>& layer, const Call& call, ptrdiff_t at, T* x,
                         ptrdiff_t stride, T* recent) noexcept {
    const EngineKernels<T>& engine = *m.kernels;
    const int32_t           K = SSM_KNOWN(m.config).d_conv, C = int32_t(conv_dim(SSM_KNOWN(m.config)));
    const bool              steps = call.rows == Rows::steps;
    // Input k of K, oldest first, as row i sees it: its own, that of an earlier row of the same stream, or the state's.
    const auto tap = [&](int32_t i, int32_t k) -> const T* {
        const int32_t row = i - (K - 1 - k);
        if (k == K - 1 || (steps && row >= 0)) return x + row * stride;
        return words_of<T>(call.of(i)) + at + ptrdiff_t(steps ? K + row : k + 1) * C;
    };
    const auto remember = [&](int32_t i) { // the last K inputs up to row i
        for (int32_t k = 0; k < K; ++k) copy(recent + ptrdiff_t(k) * C, tap(i, k), size_t(C) * 4);
    };
    if (steps) remember(call.n - 1);
    for (int32_t i = call.n; i-- > 0;) { // later rows first: each is overwritten when no other needs it
        const T* taps[max_d_conv];
        for (int32_t k = 0; k < K; ++k) taps[k] = tap(i, k);
        if (call.rows == Rows::streams) remember(i);
        engine.conv(x + i * stride, taps, layer.conv_w, layer.conv_bias, K, C);
        if (call.rows == Rows::streams || (steps && i == 0))
            copy(words_of<T>(call.of(i)) + at, recent, size_t(K) * size_t(C) * 4);
    }
}

// Hands what mamba3_row() made of row i to the tracer, in the public code's layout.
SSM_LOCAL void trace_row(const Config& c, const Trace& t, int32_t layer, int32_t i, const Row<float>& row,
                         const float* phase) noexcept {
    if (c.arch != Arch::mamba3) return;
    const Mamba3Work w(c, row.work);
    const int32_t    H = c.nheads, N = c.d_state, S = c.rope_angles;
    t.see(t.user, "in_proj", layer, i, row.p, int32_t(in_rows(c)));
    const struct {
        const char*  name;
        const float* v;
    } heads[] = {{"dt", w.dt}, {"lambda", w.lambda}, {"alpha", w.alpha}, {"beta", w.beta}, {"gamma", w.gamma}};
    for (const auto& h : heads) t.see(t.user, h.name, layer, i, h.v, H);
    for (int32_t h = 0; h < H; ++h) {
        const float A = -w.A[h];
        t.see(t.user, "A", layer, i, &A, 1);
    }
    // The rest one number at a time: a tracer has no memory of its own here.
    for (int32_t h = 0; h < H; ++h)
        for (int32_t s = 0; s < S; ++s) {
            const float angle = phase_to_radians(phase + (ptrdiff_t(h / 8) * S + s) * 8 + h % 8);
            t.see(t.user, "angle", layer, i, &angle, 1);
        }
    const struct {
        const char*  name;
        const float* v;
    } rows[] = {{"B_biased", w.B_biased}, {"C_biased", w.C_biased}, {"k", w.k}, {"q", w.q}};
    for (const auto& v : rows)
        for (int32_t r = 0; r < c.mimo_rank; ++r)
            for (int32_t h = 0; h < H; ++h)
                for (int32_t n = 0; n < N; ++n)
                    t.see(t.user, v.name, layer, i,
                          v.v + ((ptrdiff_t(h / 8) * c.mimo_rank + r) * N + place(c, n)) * 8 + h % 8, 1);
}

SSM_LOCAL void trace_row(const Config& c, const Trace& t, int32_t layer, int32_t i, const Row<int32_t>& row,
                         const int32_t* state) noexcept {
    see(&t, "in_proj", layer, i, row.p, in_rows(c)), see(&t, "y", layer, i, row.y, size_t(c.d_inner));
    if (c.arch != Arch::mamba3) return;
    const Mamba3WorkQ w(c, row.work);
    const size_t H = size_t(c.nheads), RHN = size_t(c.mimo_rank) * H * size_t(c.d_state), S = size_t(c.rope_angles);
    see(&t, "dt", layer, i, w.dt, H), see(&t, "alpha", layer, i, w.alpha, H);
    see(&t, "theta", layer, i, state + parts_of(c).angle, H * S);
    for (size_t k = 0; k < RHN; ++k) { // in the public order, one number at a time
        const size_t n = k % size_t(c.d_state), at = k - n + size_t(place(c, int32_t(n)));
        see(&t, "k", layer, i, w.k + at, 1), see(&t, "q", layer, i, w.q + at, 1);
    }
}

template <class T>
SSM_LOCAL void run_mamba(const Model& m, const MambaLayer<T>* layers, const Call& call, const Work<T>& work,
                         const Trace* trace) noexcept {
    const Config&   c = SSM_KNOWN(m.config);
    const int32_t   d = c.d_model, n = call.n;
    const ptrdiff_t stride = ptrdiff_t(padded(d)), p_stride = ptrdiff_t(row_p(c)), o_stride = ptrdiff_t(row_o(c));
    T *             r = work.r, *z = work.z, *p = work.p, *o = work.o;
    const EngineKernels<T>& engine = *m.kernels;
    const auto              norm_rows = [&](T* to, const T* weight, const T* bias) {
        for (int32_t i = 0; i < n; ++i) norm(m, to + i * stride, r + i * stride, weight, bias);
    };
    const auto add_to_r = [&](const T* v) {
        for (int32_t i = 0; i < n; ++i) engine.add(r + i * stride, v + i * stride, d);
    };
    const T*  none = nullptr;
    ptrdiff_t at = ptrdiff_t(head_words(c));
    for (int32_t l = 0; l < c.n_layers; ++l, at += ptrdiff_t(parts_of(c).end)) {
        const MambaLayer<T>& layer = layers[l];
        if (!c.bare_mixer) norm_rows(z, layer.norm_weight, layer.norm_bias);
        project(m, work, p, p_stride, layer.in_proj, layer.in_bias, c.bare_mixer ? r : z, stride, n);
        if (is(c, Arch::mamba1)) {
            T *x = p, *rBC = p + 2 * c.d_inner;
            conv_rows(m, layer, call, at, x, p_stride, work.one);
            project(m, work, rBC, p_stride, layer.x_proj, none, x, p_stride, n);
            project(m, work, rBC + c.dt_rank + 2 * c.d_state, p_stride, layer.dt_proj, none, rBC, p_stride, n);
        } else if (is(c, Arch::mamba2))
            conv_rows(m, layer, call, at, p + 2 * (c.d_inner - c.d_ssm) + c.d_ssm, p_stride, work.one);
        for (int32_t i = 0; i < n; ++i) {
            Row<T> row;
            row.c = &c, row.kernels = m.kernels, row.layer = &layer, row.p = p + i * p_stride;
            row.y = o + i * o_stride, row.work = work.one;
            T* h = words_of<T>(call.of(i)) + at;
            row.state = h, row.next = call.moves() ? h : nullptr;
            dt_of(call, i, &row.dt);
            row.traced = trace != nullptr;
#ifdef SSM_DEBUG
            row.counts = counts_of(call, i);
#endif
            if (mix_row(work.team, row) && call.moves()) set_flags(call.of(i), 1u);
            if (trace != nullptr) trace_row(c, *trace, l, i, row, h);
        }
        project(m, work, c.bare_mixer ? r : z, stride, layer.out_proj, layer.out_bias, o, o_stride, n);
        if (!c.bare_mixer) add_to_r(z);
        if (c.mlp_hidden > 0) {
            norm_rows(z, layer.norm2_weight, layer.norm2_bias);
            project(m, work, p, p_stride, layer.fc1, none, z, stride, n);
            for (int32_t i = 0; i < n; ++i)
                engine.gate(o + i * o_stride, p + i * p_stride, p + i * p_stride + c.mlp_hidden, c.mlp_hidden);
            project(m, work, z, stride, layer.fc2, none, o, o_stride, n);
            add_to_r(z);
        }
    }
}

// The layers, the final norm and pooling of every row in work.r.
template <class T>
SSM_LOCAL void run_layers(const Model& m, const S4dLayer<T>* s4d, const MambaLayer<T>* mamba, const T* norm_weight,
                          const T* norm_bias, const Call& call, const Work<T>& work, const Trace* trace) noexcept {
    const Config& c = SSM_KNOWN(m.config);
    const int32_t stride = int32_t(padded(c.d_model));
    if constexpr (in_build(Arch::s4d))
        if (c.arch == Arch::s4d) run_s4d(m, s4d, call, work, trace);
    if constexpr (mamba_in_build)
        if (c.arch != Arch::s4d) run_mamba(m, mamba, call, work, trace);
    for (int32_t i = 0; i < call.n; ++i) {
        T* const     r = work.r + i * stride;
        const State& s = call.of(i);
        if (norm_weight != nullptr) norm(m, r, r, norm_weight, norm_bias);
        if (c.pool == Pool::mean) pool_mean(c, s, call.moves(), r);
        StateHeader head = header_of(s);
        head.steps += 1;
        if (call.moves()) copy(s.data, &head, sizeof head);
        if (trace != nullptr && trace->see != nullptr && !is_integer(c))
            trace->see(trace->user, "output", c.n_layers, i, reinterpret_cast<const float*>(r), c.d_model);
    }
}

SSM_LOCAL const Trace* trace_of(const Scratch& w) noexcept { return trace_in_build ? w.trace : nullptr; }

// A state's h, after its last step.
SSM_LOCAL void settle(const Config& c, const State& s) noexcept {
    if (!settles(header_of(s).steps)) return;
    const Parts at = parts_of(c);
    float*      layer = words_of<float>(s) + head_words(c);
    for (int32_t l = 0; l < c.n_layers; ++l, layer += at.end)
        for (size_t i = at.h; i < at.end; i += 8)
            for (size_t k = i; k < i + 8; ++k) layer[k] = settled(layer[k]); // eight at a time: for vectors
}

// A row of d_output for each row of the call, or for the last only when the rows are steps; y null: not wanted.
SSM_LOCAL void run(const Model& m, const Call& call, const Scratch& w) noexcept {
    const Config&     c = SSM_KNOWN(m.config);
    const Work<float> work(c, w);
    const float*      x = static_cast<const float*>(static_cast<const void*>(call.x));
    float *           y = static_cast<float*>(static_cast<void*>(call.y)), *r = work.r;
    const int32_t     d = c.d_model, stride = int32_t(padded(d)), n = call.n;
    if (c.n_bands > 0) {
        if constexpr (sound_in_build) sound_rows(m, call, work, trace_of(w));
        project(m, work, r, stride, m.encoder, m.encoder_bias, work.p, ptrdiff_t(row_p(c)), n);
    } else if (c.input == Input::features) project(m, work, r, stride, m.encoder, m.encoder_bias, x, c.d_input, n);
    else
        for (int32_t i = 0; i < n; ++i) copy(r + i * stride, x + ptrdiff_t(i) * d, size_t(d) * sizeof(float));
    run_layers(m, m.s4d, m.mamba, m.norm_f_weight, m.norm_f_bias, call, work, trace_of(w));
    for (int32_t i = 0; call.moves() && i < (call.many() ? n : 1); ++i) settle(c, call.states[i]);
    if (y == nullptr) return;
    const int32_t first = call.rows == Rows::steps ? n - 1 : 0;
    if (c.has_head) project(m, work, y, c.d_output, m.decoder, m.decoder_bias, r + first * stride, stride, n - first);
    else
        for (int32_t i = first; i < n; ++i)
            copy(y + ptrdiff_t(i - first) * d, r + i * stride, size_t(d) * sizeof(float));
}

// The same in integers: inputs to Q16 on the way in, floats again on the way out, both by their bits.
SSM_LOCAL void run_q(const Model& m, const Call& call, const Scratch& w) noexcept {
    const Config&   c = SSM_KNOWN(m.config);
    Work<int32_t>   work(c, w);
    const int32_t   d = c.d_model, stride = int32_t(padded(d)), n = call.n;
    const ptrdiff_t p_stride = ptrdiff_t(row_p(c));
    const bool      features = c.input == Input::features;
#ifdef SSM_DEBUG
    work.call = &call;
#endif
    if constexpr (sound_in_build)
        if (c.n_bands > 0) sound_rows(m, call, work, trace_of(w));
    for (int32_t i = 0; c.n_bands == 0 && i < n; ++i)
        for (int32_t k = 0; k < c.d_input; ++k) {
            const uint32_t word = word_at(call.x, size_t(i) * size_t(c.d_input) + size_t(k));
#ifdef SSM_DEBUG
            if (call.moves() && !call.q16) counts_of(call, i)->saturated += size_of(to_q16(word)) == uint32_t(int_max);
#endif
            (features ? work.p + i * p_stride : work.r + i * stride)[k] = call.q16 ? int32_t(word) : to_q16(word);
        }
    if (features) project(m, work, work.r, stride, m.encoder, nullptr, work.p, p_stride, n);
    run_layers(m, m.s4d_q, m.mamba_q, m.norm_f_weight_q, m.norm_f_bias_q, call, work, trace_of(w));
    if (call.y == nullptr) return;
    const int32_t first = call.rows == Rows::steps ? n - 1 : 0;
    const auto    give = [&](int32_t i, int32_t o, int32_t v) {
        const uint32_t word = call.q16 ? uint32_t(v) : q16_bits(v);
        copy(call.y + (ptrdiff_t(i - first) * c.d_output + o) * 4, &word, 4);
    };
    if (!c.has_head)
        for (int32_t i = first; i < n; ++i)
            for (int32_t k = 0; k < d; ++k) give(i, k, work.r[i * stride + k]);
    for (int32_t o = 0; c.has_head && o < c.d_output; o += head_rows) { // some rows of the head at a time
        const Matrix part = slice(m.decoder, o, c.d_output - o < head_rows ? c.d_output : o + head_rows);
        project(m, work, work.p, p_stride, part, nullptr, work.r + first * stride, stride, n - first);
        for (int32_t i = first; i < n; ++i)
            for (int32_t k = 0; k < part.rows; ++k) give(i, o + k, work.p[(i - first) * p_stride + k]);
    }
}

SSM_LOCAL bool good_state([[maybe_unused]] const Model& m, const State& s) noexcept {
    return s.data != nullptr && s.bytes >= state_bytes(SSM_KNOWN(m.config)) &&
           reinterpret_cast<uintptr_t>(s.data) % 4 == 0;
}

// What could be wrong with a call's numbers.
SSM_LOCAL Status check_numbers([[maybe_unused]] const Config& config, const Call& call) noexcept {
    const Config& c = SSM_KNOWN(config);
    const size_t  count = size_t(call.n) * size_t(c.d_input);
    // Magnitudes compare as their bits; Q16 has one number too many.
    const uint32_t mask = call.q16 ? ~0u : 0x7fffffffu, most = uint32_t(bits_of(is_integer(c) ? FLT_MAX : max_input));
    for (size_t i = 0; i < count;) {
        uint32_t     bad = 0;
        const size_t end = count - i < 64 ? count : i + 64;
        for (; i < end; ++i) {
            const uint32_t word = word_at(call.x, i) & mask;
            bad |= uint32_t(call.q16 ? word == 0x80000000u : word > most);
        }
        if (bad != 0) return Status::bad_input;
    }
    for (int32_t i = 0; call.dt != nullptr && i < call.n; ++i) {
        const uint32_t word = word_at(call.dt, size_t(i));
        if (!is_integer(c)) {
            if (int32_t(word) <= 0 || int32_t(word) > bits_of(max_dt)) return Status::bad_input;
            if (c.n_bands > 0 && int32_t(word) != bits_of(1.0f)) return Status::unsupported;
            continue;
        }
        if (!call.q16 && !finite_bits(word)) return Status::bad_input;
        const int32_t dt = call.q16 ? int32_t(word) : to_q16(word);
        if (dt < 1) return Status::bad_input;
        if (c.arch == Arch::s4d && (!c.has_gaps || c.n_bands > 0) && dt != 65536) return Status::unsupported;
    }
    return Status::ok;
}

// Everything that could be wrong with a call.
SSM_LOCAL Status check(const Model& m, const Call& call, const Scratch* w) noexcept {
    const Config& c = SSM_KNOWN(m.config);
    if (m.kernels == nullptr || call.states == nullptr || w == nullptr || w->data == nullptr || w->batch < 1 ||
        w->bytes < rows_and_one(scratch_row(c), one_row(c), w->batch) || call.n < 0 ||
        (call.n > 0 && call.x == nullptr) || (call.q16 && !is_integer(c)))
        return Status::bad_argument;
    for (int32_t i = 0; i < (call.many() ? call.n : 1); ++i)
        if (!good_state(m, call.states[i])) return Status::bad_argument;
    return check_numbers(c, call);
}

// All rows, a scratch full at a time.
SSM_LOCAL Status run_all(const Model& m, Call call, const Scratch* w) noexcept {
    const Status s = check(m, call, w);
    if (s != Status::ok) return s;
    unsigned char* const y = call.y;
    const bool           steps = call.rows == Rows::steps;
    for (int32_t left = call.n; left > 0;) {
        call.n = left < w->batch ? left : w->batch;
        if (steps && !is_integer(SSM_KNOWN(m.config))) { // up to where the state settles
            const int32_t next = int32_t(settle_steps - header_of(*call.states).steps % settle_steps);
            call.n = call.n < next ? call.n : next;
        }
        left -= call.n;
        call.y = steps && left > 0 ? nullptr : steps ? y : call.y;
        if constexpr (integer_in_build)
            if (is_integer(SSM_KNOWN(m.config))) run_q(m, call, *w);
        if constexpr (float_in_build)
            if (!is_integer(SSM_KNOWN(m.config))) run(m, call, *w);
        call.x += ptrdiff_t(call.n) * SSM_KNOWN(m.config).d_input * 4;
        if (call.y != nullptr && !steps) call.y += ptrdiff_t(call.n) * SSM_KNOWN(m.config).d_output * 4;
        if (call.dt != nullptr) call.dt += ptrdiff_t(call.n) * 4;
        if (call.many()) call.states += call.n;
    }
    return Status::ok;
}
constexpr bool is_q16(const float*) noexcept { return false; }
constexpr bool is_q16(const int32_t*) noexcept { return true; }
template <class T>
SSM_LOCAL Call call_of(Rows rows, const State* states, int32_t n, const T* x, T* y, const T* dt) noexcept {
    Call c;
    c.rows = rows, c.states = states, c.n = n, c.q16 = is_q16(x);
    c.x = reinterpret_cast<const unsigned char*>(x), c.dt = reinterpret_cast<const unsigned char*>(dt);
    c.y = reinterpret_cast<unsigned char*>(y);
    return c;
}

// The next `bytes` of an arena, 16-byte aligned; null if they do not fit.
SSM_LOCAL void* take(Arena* a, size_t bytes, Fault* fault = nullptr) noexcept {
    const size_t skew = (16 - (reinterpret_cast<uintptr_t>(a->data) + a->used) % 16) % 16;
    const size_t left = a->bytes - a->used;
    if (a->data == nullptr || a->used > a->bytes || skew > left || bytes > left - skew) {
        (void)blame(fault, Status::arena_too_small, "", 0, SSM_WHY("the arena is too small"), int64_t(bytes + skew),
                    a->used > a->bytes ? 0 : int64_t(left));
        return nullptr;
    }
    unsigned char* p = static_cast<unsigned char*>(a->data) + a->used + skew;
    a->used += skew + bytes;
    return p;
}

constexpr char     saved_magic[] = "SSMSTATE";
constexpr uint32_t saved_version = 1;
constexpr uint32_t saved_order = 0x01020304;

// CRC-32 (IEEE 802.3, reflected), four bits at a time.
SSM_LOCAL uint32_t crc32(const unsigned char* p, size_t n) noexcept {
    constexpr uint32_t table[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
                                    0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
                                    0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    uint32_t           crc = 0xffffffffu;
    for (size_t i = 0; i < n; ++i) {
        crc = table[(crc ^ p[i]) & 15] ^ crc >> 4;
        crc = table[(crc ^ uint32_t(p[i]) >> 4) & 15] ^ crc >> 4;
    }
    return ~crc;
}

// Layout of a saved state: magic[8], version, byte order mark, total bytes (64), fingerprint (64), arch, n_layers,
// d_model, d_state, element type, flags, steps (64), then the floats of the state, then the CRC-32 of all before it.
SSM_LOCAL void saved_header(const Model& m, const StateHeader& h, unsigned char* p) noexcept {
    const Config& c = SSM_KNOWN(m.config);
    copy(p, saved_magic, 8);
    store_u32(p + 8, saved_version);
    store_u32(p + 12, saved_order);
    store_u64(p + 16, saved_bytes(c));
    store_u64(p + 24, m.fingerprint);
    store_u32(p + 32, uint32_t(c.arch));
    store_u32(p + 36, uint32_t(c.n_layers));
    store_u32(p + 40, uint32_t(c.d_model));
    store_u32(p + 44, uint32_t(c.d_state));
    store_u32(p + 48, uint32_t(c.state) + 1);
    store_u32(p + 52, h.flags);
    store_u64(p + 56, h.steps);
}
SSM_DETAIL_END

SSM_API Status step(const Model& m, State* s, Scratch* w, const float* x, float* y, float dt) noexcept {
    return detail::run_all(m, detail::call_of<float>(detail::Rows::steps, s, 1, x, y, &dt), w);
}
SSM_API Status prefill(const Model& m, State* s, Scratch* w, const float* x, int32_t n, float* y,
                       const float* dt) noexcept {
    return detail::run_all(m, detail::call_of<float>(detail::Rows::steps, s, n, x, y, dt), w);
}
SSM_API Status step_batch(const Model& m, const State& from, Scratch* w, const float* x, int32_t n, float* y,
                          const float* dt) noexcept {
    return detail::run_all(m, detail::call_of<float>(detail::Rows::candidates, &from, n, x, y, dt), w);
}
SSM_API Status step_streams(const Model& m, State* states, int32_t n, Scratch* w, const float* x, float* y,
                            const float* dt) noexcept {
    return detail::run_all(m, detail::call_of<float>(detail::Rows::streams, states, n, x, y, dt), w);
}
SSM_API Status score_streams(const Model& m, const State* states, int32_t n, Scratch* w, const float* x, float* y,
                             const float* dt) noexcept {
    return detail::run_all(m, detail::call_of<float>(detail::Rows::stream_candidates, states, n, x, y, dt), w);
}
SSM_API Status step_q16(const Model& m, State* s, Scratch* w, const int32_t* x, int32_t* y, int32_t dt) noexcept {
    return detail::run_all(m, detail::call_of<int32_t>(detail::Rows::steps, s, 1, x, y, &dt), w);
}
SSM_API Status prefill_q16(const Model& m, State* s, Scratch* w, const int32_t* x, int32_t n, int32_t* y,
                           const int32_t* dt) noexcept {
    return detail::run_all(m, detail::call_of<int32_t>(detail::Rows::steps, s, n, x, y, dt), w);
}
SSM_API Status step_batch_q16(const Model& m, const State& from, Scratch* w, const int32_t* x, int32_t n, int32_t* y,
                              const int32_t* dt) noexcept {
    return detail::run_all(m, detail::call_of<int32_t>(detail::Rows::candidates, &from, n, x, y, dt), w);
}
SSM_API Status step_streams_q16(const Model& m, State* states, int32_t n, Scratch* w, const int32_t* x, int32_t* y,
                                const int32_t* dt) noexcept {
    return detail::run_all(m, detail::call_of<int32_t>(detail::Rows::streams, states, n, x, y, dt), w);
}
SSM_API Status score_streams_q16(const Model& m, const State* states, int32_t n, Scratch* w, const int32_t* x,
                                 int32_t* y, const int32_t* dt) noexcept {
    return detail::run_all(m, detail::call_of<int32_t>(detail::Rows::stream_candidates, states, n, x, y, dt), w);
}

SSM_API void reset(const Model& m, State* s) noexcept {
    if (s != nullptr && detail::good_state(m, *s)) detail::fill_zero(s->data, state_bytes(SSM_KNOWN(m.config)));
#ifdef SSM_DEBUG
    if (s != nullptr) s->counts = Counts();
#endif
}
SSM_API Status make_state(State* out, const Model& m, Arena* arena) noexcept {
    if (out == nullptr || arena == nullptr || m.kernels == nullptr) return Status::bad_argument;
    const size_t bytes = state_bytes(SSM_KNOWN(m.config));
    void*        p = detail::take(arena, bytes);
    if (p == nullptr) return Status::arena_too_small;
    *out = State{p, bytes};
    reset(m, out);
    return Status::ok;
}
SSM_API Status make_scratch(Scratch* out, const Model& m, int32_t batch, Arena* arena) noexcept {
    if (out == nullptr || arena == nullptr || m.kernels == nullptr || batch < 1 || batch > max_batch ||
        scratch_bytes(SSM_KNOWN(m.config), 1) > SIZE_MAX / 2 / size_t(batch))
        return Status::bad_argument;
    const Config& c = SSM_KNOWN(m.config);
    const size_t  bytes = detail::rows_and_one(detail::scratch_row(c), detail::one_row(c), batch);
    void*        p = detail::take(arena, bytes);
    if (p == nullptr) return Status::arena_too_small;
    *out = Scratch{p, bytes, batch};
    return Status::ok;
}

SSM_DETAIL_BEGIN
SSM_LOCAL Status check_token(const Model& m, int32_t token, const void* x) noexcept {
    if (m.kernels == nullptr || x == nullptr || SSM_KNOWN(m.config).input != Input::tokens) return Status::bad_argument;
    return token < 0 || token >= SSM_KNOWN(m.config).vocab_size ? Status::bad_input : Status::ok;
}
SSM_LOCAL int32_t embedding_q(const Model& m, int32_t token, int32_t k) noexcept { // below 127 2^16: exact in a float
    const Scale scale(load_u32(m.encoder.scale + ptrdiff_t(token) * 4));
    const auto  code = static_cast<signed char>(m.encoder.data[ptrdiff_t(token) * SSM_KNOWN(m.config).d_model + k]);
    return sat(rs(product(code, scale.m), scale.e - 16));
}
SSM_DETAIL_END
SSM_API Status embed_q16(const Model& m, int32_t token, int32_t* x) noexcept {
    const Status s = is_integer(SSM_KNOWN(m.config)) ? detail::check_token(m, token, x) : Status::bad_argument;
    for (int32_t k = 0; s == Status::ok && k < SSM_KNOWN(m.config).d_model; ++k)
        x[k] = detail::embedding_q(m, token, k);
    return s;
}
SSM_API Status embed(const Model& m, int32_t token, float* x) noexcept {
    const Status s = detail::check_token(m, token, x);
    const size_t d = size_t(SSM_KNOWN(m.config).d_model), first = size_t(token) * d;
    for (size_t k = 0; s == Status::ok && k < d; ++k) {
        if constexpr (detail::float_in_build)
            if (!is_integer(SSM_KNOWN(m.config))) x[k] = detail::element(m.encoder.data, m.encoder.dtype, first + k);
        if (is_integer(SSM_KNOWN(m.config))) x[k] = from_q16(detail::embedding_q(m, token, int32_t(k)));
    }
    return s;
}

SSM_DETAIL_BEGIN
// Calls f(index in the public layout, index in a state's words) for every number of a part that both engines have;
// returns how many. (Of 16-bit numbers: the index of a word if each had one.)
template <class F> SSM_LOCAL int32_t each_of_part(const Config& c, int32_t layer, Part part, F f) noexcept {
    if (layer < 0 || layer >= c.n_layers) return 0;
    const Parts   at = parts_of(c);
    const bool    q = is_integer(c), m3 = c.arch == Arch::mamba3, heads = m3 || c.arch == Arch::mamba2;
    const size_t  base = head_words(c) + size_t(layer) * at.end, N = size_t(c.d_state), S = size_t(c.rope_angles);
    const size_t  R = size_t(c.mimo_rank), K = size_t(c.d_conv), C = conv_dim(c), H = heads ? size_t(c.nheads) : 1;
    const int32_t P = heads ? c.headdim : c.arch == Arch::s4d ? c.d_model : c.d_inner;
    const auto    placed = [&](size_t n) { return m3 ? size_t(place(c, int32_t(n))) : n; };
    // Number n of `count` in a row: floats have eight rows side by side.
    const auto in_row = [&](size_t row, size_t n, size_t count) {
        return q ? row * count + n : (row / 8 * count + n) * 8 + row % 8;
    };
    size_t i = 0;
    if (part == Part::ssm_state)
        for (size_t h = 0; h < H; ++h)
            for (size_t p = 0; p < size_t(P); ++p)
                for (size_t n = 0; n < N; ++n)
                    f(i++, base + at.h + h * (q ? size_t(P) : padded(P)) * N + in_row(p, placed(n), N));
    else if (part == Part::conv_state)
        for (size_t k = 0; k < C; ++k)
            for (size_t t = 0; t < K; ++t) f(i++, base + at.conv + t * C + k);
    else if (part == Part::angle_state && m3)
        for (size_t h = 0; h < H; ++h)
            for (size_t s = 0; s < S; ++s) f(i++, base + at.angle + in_row(h, s, S));
    else if (part == Part::k_state && m3)
        for (size_t r = 0; r < R; ++r)
            for (size_t h = 0; h < H; ++h)
                for (size_t n = 0; n < N; ++n)
                    f(i++, base + at.k + (q ? (r * H + h) * N + placed(n) : in_row(h, r * N + placed(n), R * N)));
    else if (part == Part::v_state && m3)
        for (size_t v = 0; v < H * size_t(P); ++v) f(i++, base + at.v + v);
    return int32_t(i);
}
SSM_DETAIL_END

SSM_API int32_t get_state(const Model& m, const State& s, int32_t layer, Part part, float* out) noexcept {
    if (!detail::float_in_build || is_integer(SSM_KNOWN(m.config)) || !detail::good_state(m, s)) return 0;
    const float* from = detail::words_of<float>(s);
    return detail::each_of_part(SSM_KNOWN(m.config), layer, part, [&](size_t i, size_t at) {
        if (out != nullptr) out[i] = part == Part::angle_state ? detail::phase_to_radians(from + at) : from[at];
    });
}
SSM_API bool set_state(const Model& m, State* s, int32_t layer, Part part, const float* v, int32_t count) noexcept {
    if (!detail::float_in_build || s == nullptr || v == nullptr || count <= 0 || !detail::good_state(m, *s) ||
        count != get_state(m, *s, layer, part, nullptr))
        return false;
    for (int32_t i = 0; i < count; ++i)
        if (!detail::is_finite(v[i])) return false;
    float* to = detail::words_of<float>(*s);
    detail::each_of_part(SSM_KNOWN(m.config), layer, part, [&](size_t i, size_t at) {
        const uint32_t units = part == Part::angle_state ? detail::radians_to_phase(v[i]) : 0;
        detail::copy(to + at, part == Part::angle_state ? static_cast<const void*>(&units) : v + i, 4);
    });
    return true;
}

SSM_API int32_t get_state_int(const Model& m, const State& s, int32_t layer, Part part, int32_t* out) noexcept {
    using namespace detail;
    const Config& c = SSM_KNOWN(m.config);
    if (!good_state(m, s) || !is_integer(c) || layer < 0 || layer >= c.n_layers) return 0;
    const bool     rows = c.state == StateType::i16rowexp, codes = rows && part == Part::ssm_state;
    const Parts    at = parts_of(c);
    const int32_t* words = words_of<int32_t>(s);
    const size_t   d = size_t(c.d_model), first = head_words(c) + size_t(layer) * at.end, h = first + at.h;
    size_t         n = 0;
    const auto     give = [&](int32_t v) {
        if (out != nullptr) out[n] = v;
        ++n;
    };
    if (part == Part::exponents && rows)
        for (size_t i = 0; i < size_t(c.arch == Arch::mamba2 ? c.d_ssm : c.d_inner); ++i)
            give(40 - exponent_at(words + first + at.exponents, i));
    else if (part == Part::pool && layer == 0 && c.pool == Pool::mean) {
        for (size_t i = 0; i < 2 * d; ++i) give(words[i < d ? i : padded(c.d_model) + i - d]);
        give(words[2 * padded(c.d_model)]);
    } else each_of_part(c, layer, part, [&](size_t, size_t k) { give(codes ? code_at(words + h, k - h) : words[k]); });
    return int32_t(n);
}

SSM_API uint64_t steps_of(const Model& m, const State& s) noexcept {
    return detail::good_state(m, s) ? detail::header_of(s).steps : 0;
}
SSM_API bool clipped(const Model& m, const State& s) noexcept {
    return detail::good_state(m, s) && (detail::header_of(s).flags & 1u) != 0;
}

SSM_DETAIL_BEGIN
// What a word of an integer model's state may be, so that no later step overflows: k as far as a rotation reaches.
SSM_LOCAL bool good_word(const Config& c, const Parts& at, size_t k, uint32_t word) noexcept {
    const int64_t v = int32_t(word), size = v < 0 ? -v : v;
    if (k >= at.exponents) { // four of 31 at most: 40 - X, X from 9
        for (int i = 0; i < 4; ++i)
            if ((word >> 8 * i & 255u) > 31) return false;
        return true;
    }
    if (k >= at.h && c.state == StateType::i16rowexp) return (word & 0xffffu) != 0x8000u && word >> 16 != 0x8000u;
    return size <= (k >= at.h ? c.clip_q25 : k >= at.k && k < at.v ? k_bound : int_max);
}
// Word i of a bank: any y and z; e below 2^51, m below 2^30; the last sample; a peak; whether there was a frame.
SSM_LOCAL bool good_bank(const Config& c, size_t i, uint32_t word) noexcept {
    const size_t  own = 7 * size_t(c.n_bands), k = i % 7;
    const int64_t v = int32_t(word);
    if (i < own) return k < 5 || (k == 5 ? v >= 0 && v < 1 << 19 : at_most(v, 1 << 30));
    return i == own ? at_most(v, 65536) : i == own + 1 ? at_most(v, 1 << 22) : word <= 1;
}
// Whether word k of a layer's state of floats stands for no number: h comes in groups of eight rows. Not every back-end
// computes there, so only zeros stay the same on all of them. (Angles and k do so beyond the heads, alike on all.)
SSM_LOCAL bool is_padding(const Config& c, const Parts& at, size_t k) noexcept {
    if (k < at.h) return false;
    const size_t group = size_t(c.d_state) * 8, i = k - at.h;
    const auto   behind = [group](size_t j, int32_t count) { return j / group * 8 + j % 8 >= size_t(count); };
    if (c.arch == Arch::s4d) return behind(i, c.d_model);
    if (c.arch == Arch::mamba1) return behind(i, c.d_inner);
    return behind(i % (padded(c.headdim) * size_t(c.d_state)), c.headdim);
}
// Word i of the pool: half of a sum of as many numbers as the count says, or the count.
SSM_LOCAL bool good_sum(const Config& c, const unsigned char* words, size_t i) noexcept {
    const size_t   d = padded(c.d_model), k = i < d ? i : i - d;
    const int64_t  kept = int32_t(load_u32(words + 8 * d)), bound = kept < 0 ? 0 : kept * int_max;
    const uint64_t low = i < 2 * d ? load_u32(words + 4 * k) : 0, high = i < 2 * d ? load_u32(words + 4 * (d + k)) : 0;
    if (i < 2 * d) return at_most(int64_t(high << 32 | low), bound);
    return i == 2 * d ? kept >= 0 : load_u32(words + 4 * i) == 0;
}
// A state's words, from memory to a file, whose bytes are little-endian, or back: the bytes change places alike.
SSM_LOCAL void copy_words(const Config& c, unsigned char* to, const unsigned char* from) noexcept {
    for (size_t i = 0; i < state_bytes(c) - state_header_bytes; i += 4) {
        const uint32_t word = load_u32(from + i);
        copy(to + i, &word, sizeof word);
    }
}
// What is wrong with the words of a saved state, if anything is.
SSM_LOCAL Status check_words(const Config& c, const unsigned char* words, Fault* fault) noexcept {
    const auto   no = [&](Why why) { return blame(fault, Status::bad_state, "", 0, why); };
    const size_t pooled = pool_words(c), head = head_words(c), count = (state_bytes(c) - state_header_bytes) / 4;
    const Parts  parts = parts_of(c);
    for (size_t i = 0; i < count; ++i) {
        const uint32_t word = load_u32(words + 4 * i);
        const size_t   k = i < head ? 0 : (i - head) % parts.end;
        const bool     angle = i >= head && k >= parts.angle && k < parts.k, in_h = i >= head && k >= parts.h;
        if (i >= pooled && i < head) {
            if (!good_bank(c, i - pooled, word)) return no(SSM_WHY("holds a value beyond its format"));
            continue;
        }
        if (is_integer(c)) {
            if (i < pooled ? !good_sum(c, words, i) : !angle && !good_word(c, parts, k, word))
                return no(SSM_WHY("holds a value beyond its format"));
            continue;
        }
        if (word != 0 && (i < pooled ? i >= size_t(c.d_model) : is_padding(c, parts, k)))
            return no(SSM_WHY("holds a value where there is no number"));
        const int32_t own = bits_of(c.state_clip), clip = in_h && own > 0 ? own : bits_of(FLT_MAX);
        if (!angle && (word & 0x7fffffffu) > uint32_t(clip))
            return no(SSM_WHY("holds a value that is NaN or beyond the clip"));
    }
    return Status::ok;
}
SSM_DETAIL_END

SSM_API size_t save(const Model& m, const State& s, void* dst, size_t cap) noexcept {
    const size_t total = saved_bytes(SSM_KNOWN(m.config));
    if (dst == nullptr) return total;
    if (cap < total || m.kernels == nullptr || !detail::good_state(m, s)) return 0;
    unsigned char *const p = static_cast<unsigned char*>(dst), *const words = p + detail::saved_header_bytes;
    detail::saved_header(m, detail::header_of(s), p);
    detail::copy_words(SSM_KNOWN(m.config), words, detail::words_of<unsigned char>(s));
    detail::store_u32(p + total - 4, detail::crc32(p, total - 4));
    return detail::check_words(SSM_KNOWN(m.config), words, nullptr) == Status::ok ? total : 0;
}

SSM_API Status restore(const Model& m, State* s, const void* src, size_t bytes, Fault* fault) noexcept {
    using namespace detail;
    if (s == nullptr || src == nullptr || m.kernels == nullptr || !good_state(m, *s)) return Status::bad_argument;
    const auto    no = [&](Why why) { return blame(fault, Status::bad_state, "", 0, why); };
    const auto*   p = static_cast<const unsigned char*>(src);
    const Config& c = SSM_KNOWN(m.config);
    if (bytes < saved_header_bytes + 4) return no(SSM_WHY("shorter than a saved state's header"));
    if (!equal_bytes(p, saved_magic, 8)) return no(SSM_WHY("not a saved state"));
    if (load_u32(p + 12) != saved_order) return no(SSM_WHY("wrong byte order mark"));
    if (load_u32(p + 8) != saved_version) return no(SSM_WHY("saved by a version that this one does not know"));
    if (load_u64(p + 16) != bytes) return no(SSM_WHY("its length is not what its header says"));
    if (load_u32(p + bytes - 4) != crc32(p, bytes - 4))
        return no(SSM_WHY("checksum does not match: the file is damaged"));
    if (load_u32(p + 48) != uint32_t(c.state) + 1) return no(SSM_WHY("holds another element type"));
    if (load_u64(p + 24) != m.fingerprint) return no(SSM_WHY("belongs to another model"));
    StateHeader   h{load_u64(p + 56), load_u32(p + 52), 0};
    unsigned char expected[saved_header_bytes];
    saved_header(m, h, expected);
    if (bytes != saved_bytes(c) || !equal_bytes(p, expected, saved_header_bytes))
        return no(SSM_WHY("its shape is not this model's"));
    if (h.flags > 1u) return no(SSM_WHY("holds flags that this version does not know"));
    const Status words = check_words(c, p + saved_header_bytes, fault);
    if (words != Status::ok) return words;
    copy(s->data, &h, sizeof h);
#ifdef SSM_DEBUG
    s->counts = Counts();
#endif
    copy_words(c, words_of<unsigned char>(*s), p + saved_header_bytes);
    return Status::ok;
}

SSM_API const char* isa_name(const Model& m) noexcept { return m.kernels != nullptr ? m.kernels->name : "none"; }

// ---- 13. Files: JSON, numbers, safetensors --------------------------------------------------------------------------
//
// A strict JSON reader (RFC 8259) that hands out one token at a time, decimal text to the nearest float, and the
// complete check of a safetensors container. All of it reads text that may be hostile: every read follows a bounds
// check, nothing recurses, nothing is allocated, and every number from a file is unsigned 64-bit and checked before it
// is used.

// ---- Strings

SSM_DETAIL_BEGIN

SSM_LOCAL bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }

// Length of the valid UTF-8 sequence at p < end; 0 if there is none: cut short, overlong, a surrogate, above U+10FFFF.
SSM_LOCAL size_t utf8_length(const char* p, const char* end) noexcept {
    const auto byte = [p](int i) { return static_cast<unsigned char>(p[i]); };
    const auto tails = [&](int n) { // n bytes of 10xxxxxx behind the first
        if (end - p <= n) return false;
        for (int i = 1; i <= n; ++i)
            if ((byte(i) & 0xc0) != 0x80) return false;
        return true;
    };
    const uint8_t first = byte(0);
    if (first < 0x80) return 1;
    if (first >= 0xc2 && first <= 0xdf) return tails(1) ? 2 : 0;
    if (first >= 0xe0 && first <= 0xef) // E0 below A0 is overlong, ED from A0 is a surrogate
        return tails(2) && !(first == 0xe0 && byte(1) < 0xa0) && !(first == 0xed && byte(1) >= 0xa0) ? 3 : 0;
    if (first >= 0xf0 && first <= 0xf4) // F0 below 90 is overlong, F4 from 90 is above U+10FFFF
        return tails(3) && !(first == 0xf0 && byte(1) < 0x90) && !(first == 0xf4 && byte(1) >= 0x90) ? 4 : 0;
    return 0;
}

// Four hexadecimal digits at p.
SSM_LOCAL bool hex4(const char* p, uint32_t* out) noexcept {
    uint32_t v = 0;
    for (int i = 0; i < 4; ++i) {
        const char c = p[i];
        int        d = -1;
        if (is_digit(c)) d = c - '0';
        else if (c >= 'a' && c <= 'f') d = c - 'a' + 10;
        else if (c >= 'A' && c <= 'F') d = c - 'A' + 10;
        if (d < 0) return false;
        v = v << 4 | uint32_t(d);
    }
    *out = v;
    return true;
}

// The escape that begins with the backslash at p: its length and code point; 0 if it is none, or half a surrogate pair.
SSM_LOCAL size_t escape_at(const char* p, const char* end, uint32_t* code) noexcept {
    static constexpr char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    const size_t          left = size_t(end - p);
    if (left < 2) return 0;
    for (int i = 0; i < 8; ++i)
        if (p[1] == letters[i]) {
            *code = uint32_t(meanings[i]);
            return 2;
        }
    if (p[1] != 'u' || left < 6 || !hex4(p + 2, code)) return 0;
    if (*code < 0xd800 || *code > 0xdfff) return 6;
    uint32_t low = 0;
    if (*code > 0xdbff || left < 12 || p[6] != '\\' || p[7] != 'u' || !hex4(p + 8, &low)) return 0;
    if (low < 0xdc00 || low > 0xdfff) return 0;
    *code = 0x10000 + ((*code & 0x3ff) << 10) + (low & 0x3ff);
    return 12;
}

// Walks the bytes a string stands for. `escaped` is false for a C string, which has no escapes to undo.
struct Bytes {
    const char *  p, *end;
    bool          escaped;
    unsigned char pending[3] = {}; // the rest of a character that took an escape
    uint8_t       n_pending = 0, at = 0;

    Bytes(const char* text, size_t len, bool is_escaped = true) noexcept
        : p(text), end(text + len), escaped(is_escaped) {}
    int next() noexcept { // -1 at the end
        if (at < n_pending) return pending[at++];
        if (p == end) return -1;
        uint32_t     c = 0;
        const size_t n = escaped && *p == '\\' ? escape_at(p, end, &c) : 0;
        if (n == 0) return static_cast<unsigned char>(*p++);
        p += n;
        if (c < 0x80) return int(c);
        n_pending = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3, at = 0;
        for (int i = n_pending; i-- > 0; c >>= 6) pending[i] = static_cast<unsigned char>(0x80 | (c & 0x3f));
        return int((n_pending == 1 ? 0xc0u : n_pending == 2 ? 0xe0u : 0xf0u) | c);
    }
};
SSM_LOCAL int compare(Bytes a, Bytes b) noexcept { // -1, 0, 1
    for (;;) {
        const int x = a.next(), y = b.next();
        if (x != y) return x < y ? -1 : 1;
        if (x < 0) return 0;
    }
}
SSM_LOCAL uint64_t hash(Bytes b) noexcept {
    uint64_t h = 0xcbf29ce484222325u;
    for (int c = b.next(); c >= 0; c = b.next()) h = (h ^ uint64_t(c)) * 0x100000001b3u; // FNV-1a
    return h;
}
SSM_DETAIL_END

// ---- JSON

namespace json {

// Reader::expect: what may stand next.
enum : uint8_t { a_value, a_value_or_end, a_key, a_key_or_end, a_comma_or_end, only_blanks, after_error };

SSM_LOCAL Token fail(Reader* r, detail::Why why) noexcept {
    r->error = detail::sentence(why);
    r->expect = after_error;
    return Token{Kind::error, r->p, 0};
}
SSM_LOCAL Token finish(Reader* r, Kind kind, const char* text, size_t len) noexcept { // of a value
    r->expect = r->depth == 0 ? only_blanks : a_comma_or_end;
    return Token{kind, text, len};
}
SSM_LOCAL bool at_byte(const Reader* r, char c) noexcept { return r->p < r->end && *r->p == c; }
SSM_LOCAL void skip_blanks(Reader* r) noexcept {
    while (at_byte(r, ' ') || at_byte(r, '\n') || at_byte(r, '\r') || at_byte(r, '\t')) ++r->p;
}

// From the quote on. Leaves `p` behind the closing quote; no sentence, or what is wrong at `p`.
SSM_LOCAL detail::Why read_string(Reader* r) noexcept {
    for (++r->p;;) {
        if (r->p >= r->end) return SSM_WHY("a string does not end");
        const unsigned char c = static_cast<unsigned char>(*r->p);
        size_t              n = 1;
        if (c == '"') break;
        if (c < 0x20) return SSM_WHY("a control character stands in a string");
        if (c == '\\') {
            uint32_t code = 0;
            if ((n = detail::escape_at(r->p, r->end, &code)) == 0)
                return SSM_WHY("an escape is wrong, cut short or half a surrogate pair");
        } else if (c >= 0x80 && (n = detail::utf8_length(r->p, r->end)) == 0) return SSM_WHY("not valid UTF-8");
        r->p += n;
    }
    ++r->p;
    return detail::Why();
}

// - (0 | [1-9][0-9]*) [. digits] [e [+-] digits]. As read_string().
SSM_LOCAL detail::Why read_number(Reader* r) noexcept {
    const auto digits = [r] {
        const char* from = r->p;
        while (r->p < r->end && detail::is_digit(*r->p)) ++r->p;
        return r->p != from;
    };
    if (at_byte(r, '-')) ++r->p;
    if (at_byte(r, '0')) ++r->p;
    else if (!digits()) return SSM_WHY("a number has no digits");
    if (at_byte(r, '.')) {
        ++r->p;
        if (!digits()) return SSM_WHY("a number has no digits behind its point");
    }
    if (at_byte(r, 'e') || at_byte(r, 'E')) {
        ++r->p;
        if (at_byte(r, '+') || at_byte(r, '-')) ++r->p;
        if (!digits()) return SSM_WHY("a number has no digits in its exponent");
    }
    return detail::Why();
}

SSM_API Reader open(const void* text, size_t bytes) noexcept {
    Reader r;
    r.p = static_cast<const char*>(text);
    r.end = r.p + bytes;
    return r;
}

SSM_API Token next(Reader* r) noexcept {
    if (r->expect == after_error) return Token{Kind::error, r->p, 0};
    skip_blanks(r);
    const bool in_object = r->depth > 0 && (r->is_object >> (r->depth - 1) & 1u) != 0;

    // 1. The end of the text, of an object or array, or a comma.
    if (r->expect == only_blanks)
        return r->p < r->end ? fail(r, SSM_WHY("text follows the end of the value")) : Token{Kind::end, r->p, 0};
    if (r->p >= r->end) return fail(r, SSM_WHY("the text ends too early"));
    if (r->expect == a_value_or_end || r->expect == a_key_or_end || r->expect == a_comma_or_end) {
        if (at_byte(r, in_object ? '}' : ']')) {
            --r->depth;
            return finish(r, in_object ? Kind::end_object : Kind::end_array, r->p++, 1);
        }
        if (r->expect == a_comma_or_end) {
            if (!at_byte(r, ','))
                return fail(r, in_object ? SSM_WHY("expected a comma or }") : SSM_WHY("expected a comma or ]"));
            ++r->p;
            skip_blanks(r);
            r->expect = in_object ? a_key : a_value;
        }
    }
    if (r->p >= r->end) return fail(r, SSM_WHY("the text ends too early"));
    const char* const start = r->p;
    const char        c = *start;

    // 2. A name and its colon.
    if (r->expect == a_key || r->expect == a_key_or_end) {
        if (c != '"') return fail(r, SSM_WHY("expected a name in quotes"));
        if (const detail::Why why = read_string(r)) return fail(r, why);
        const Token key{Kind::key, start + 1, size_t(r->p - start) - 2};
        skip_blanks(r);
        if (!at_byte(r, ':')) return fail(r, SSM_WHY("expected a colon"));
        ++r->p;
        r->expect = a_value;
        return key;
    }

    // 3. A value.
    if (c == '{' || c == '[') {
        if (r->depth == max_depth) return fail(r, SSM_WHY("nested deeper than the limit of 32"));
        const uint32_t bit = uint32_t(1) << r->depth++;
        r->is_object = c == '{' ? r->is_object | bit : r->is_object & ~bit;
        r->expect = c == '{' ? a_key_or_end : a_value_or_end;
        return Token{c == '{' ? Kind::object : Kind::array, r->p++, 1};
    }
    if (c == '"') {
        const detail::Why why = read_string(r);
        return why ? fail(r, why) : finish(r, Kind::string, start + 1, size_t(r->p - start) - 2);
    }
    if (c == '-' || detail::is_digit(c)) {
        const detail::Why why = read_number(r);
        return why ? fail(r, why) : finish(r, Kind::number, start, size_t(r->p - start));
    }
    const Token words[] = {{Kind::true_, "true", 4}, {Kind::false_, "false", 5}, {Kind::null, "null", 4}};
    for (const Token& w : words)
        if (size_t(r->end - start) >= w.len && detail::equal_bytes(start, w.text, w.len)) {
            r->p += w.len;
            return finish(r, w.kind, start, w.len);
        }
    return fail(r, SSM_WHY("expected a value"));
}
static_assert(max_depth == 32, "Reader::is_object has 32 bits, and a message says so");

SSM_API bool skip(Reader* r, const Token& first) noexcept {
    if (first.kind == Kind::error) return false;
    if (first.kind != Kind::object && first.kind != Kind::array) return true;
    for (const int32_t outside = r->depth - 1; r->depth > outside;)
        if (next(r).kind == Kind::error) return false;
    return true;
}

SSM_API bool equals(const Token& t, const char* text) noexcept {
    detail::Bytes b(t.text, t.len);
    for (int c = b.next(); c >= 0; c = b.next(), ++text)
        if (c == 0 || c != static_cast<unsigned char>(*text)) return false;
    return *text == 0;
}

SSM_API size_t unescape(const Token& t, char* out, size_t cap) noexcept {
    detail::Bytes b(t.text, t.len);
    size_t        n = 0;
    for (int c = b.next(); c >= 0; c = b.next(), ++n)
        if (n < cap) out[n] = static_cast<char>(c);
    return n;
}

SSM_API bool to_uint(const Token& t, uint64_t* out) noexcept {
    uint64_t v = 0;
    if (t.len == 0 || (t.text[0] == '0' && t.len > 1)) return false;
    for (size_t i = 0; i < t.len; ++i) {
        if (!detail::is_digit(t.text[i])) return false;
        const uint64_t d = uint64_t(t.text[i] - '0');
        if (v > (UINT64_MAX - d) / 10) return false;
        v = v * 10 + d;
    }
    *out = v;
    return true;
}
} // namespace json

// ---- Decimal numbers
//
// Integers only, so that neither the rounding mode nor the unit for floats has a say. The first 19 digits times a power
// of ten known to 64 bits give an interval that all but always rounds to one float. Where it does not, the text is
// compared with the point halfway between two floats, exactly.

SSM_DETAIL_BEGIN

SSM_LOCAL void multiply(uint64_t a, uint64_t b, uint64_t* high, uint64_t* low) noexcept {
    const uint64_t a0 = uint32_t(a), a1 = a >> 32, b0 = uint32_t(b), b1 = b >> 32;
    const uint64_t middle = a1 * b0 + (a0 * b0 >> 32), other = a0 * b1 + uint32_t(middle);
    *high = a1 * b1 + (middle >> 32) + (other >> 32);
    *low = a * b;
}

// The bits of the float nearest to p * 2^x, p >= 2^63. Ties go to even.
SSM_LOCAL uint32_t nearest_float(uint64_t p, int32_t x) noexcept {
    const int32_t e = x + 63; // the value lies in [2^e, 2^(e+1))
    if (e > 127) return 0x7f800000u;
    if (e < -150) return 0;
    const uint64_t v = p >> 1 | (p & 1u); // a bit shorter, so that the shift is below 64; no tie is made or lost
    const int32_t  shift = 39 + (e < -126 ? -126 - e : 0);
    const uint64_t half = uint64_t(1) << (shift - 1), rest = v & (2 * half - 1);
    uint32_t       m = uint32_t(v >> shift);
    // A carry out of the fraction makes the next exponent, and above the largest float the bits of infinity.
    if (rest > half || (rest == half && (m & 1u) != 0)) ++m;
    return e >= -126 ? (uint32_t(e + 126) << 23) + m : m;
}

// An unsigned integer of up to 576 bits. In the comparison below none needs more than 430: 121 digits, or 25 bits times
// 5^166, and the comparison scales two numbers that are nearly equal.
struct Big {
    uint32_t limb[18] = {};
    int32_t  n = 0; // limbs in use

    explicit Big(uint32_t v = 0) noexcept { multiply_add(0, v); }
    void multiply_add(uint32_t m, uint32_t a) noexcept {
        uint64_t carry = a;
        for (int32_t i = 0; i < n; ++i, carry >>= 32) {
            carry += uint64_t(limb[i]) * m;
            limb[i] = uint32_t(carry);
        }
        if (carry != 0) limb[n++] = uint32_t(carry);
    }
    void times_5_to(int64_t k) noexcept {
        for (; k >= 13; k -= 13) multiply_add(1220703125u, 0);
        for (; k > 0; --k) multiply_add(5, 0);
    }
    void times_2_to(int64_t k) noexcept {
        for (; k >= 31; k -= 31) multiply_add(uint32_t(1) << 31, 0);
        if (k > 0) multiply_add(uint32_t(1) << k, 0);
    }
};
SSM_LOCAL int compare(const Big& a, const Big& b) noexcept {
    for (int32_t i = 18; i-- > 0;)
        if (a.limb[i] != b.limb[i]) return a.limb[i] < b.limb[i] ? -1 : 1;
    return 0;
}

// Compares a decimal with the point halfway between the float `bits` and the next one up. `text` are its digits,
// perhaps with a point; the first `n_used` of them (without leading zeros), as an integer, times 10^q are it, cut off
// there.
SSM_LOCAL int compare_with_half(const char* text, const char* end, int32_t n_used, int64_t q, uint32_t bits) noexcept {
    // 1. The decimal: digits * 10^q. No halfway point has more than 113 digits; behind 120 only "not all zero" matters.
    Big     digits;
    int32_t n = 0;
    bool    rest = false;
    for (; text < end; ++text) {
        if (*text == '.' || (n == 0 && *text == '0')) continue;
        if (n < 120) digits.multiply_add(10, uint32_t(*text - '0')), ++n;
        else rest |= *text != '0';
    }
    if (rest) digits.multiply_add(10, 1), ++n;
    q -= n - n_used;

    // 2. The halfway point: (2m + 1) * 2^x.
    const uint32_t biased = bits >> 23, fraction = bits & 0x7fffffu;
    Big            half(biased == 0 ? 2 * fraction + 1 : 2 * (fraction | 0x800000u) + 1);
    const int32_t  x = (biased == 0 ? 1 : int32_t(biased)) - 151;

    // 3. Both as integers: negative powers of one side are positive ones of the other.
    if (q > 0) digits.times_5_to(q);
    else half.times_5_to(-q);
    if (q > x) digits.times_2_to(q - x);
    else half.times_2_to(x - q);
    return compare(digits, half);
}

// The bits of the float nearest to w * 10^q, or to a number less than a unit of w above it if `more`. `text`: see
// above.
SSM_LOCAL uint32_t decimal_to_float(uint64_t w, int64_t q, bool more, int32_t n_used, const char* text,
                                    const char* end) noexcept {
    // 10^q = 2^q * 5^(16 i - 64) * 5^j; the middle factor is coarse[i].m * 2^coarse[i].x, cut off behind 64 bits.
    static constexpr struct {
        uint64_t m;
        int32_t  x;
    } coarse[] = {{0xa87fea27a539e9a5u, -212}, {0xbb127c53b17ec159u, -175}, {0xcfb11ead453994bau, -138},
                  {0xe69594bec44de15bu, -101}, {0x8000000000000000u, -63},  {0x8e1bc9bf04000000u, -26},
                  {0x9dc5ada82b70b59du, 11}};
    static constexpr uint64_t fine[] = {1,         5,          25,         125,        625,     3125,
                                        15625,     78125,      390625,     1953125,    9765625, 48828125,
                                        244140625, 1220703125, 6103515625, 30517578125};
    if (w == 0 || q < -64) return 0; // below 10^-45.4, half of the least float, as w < 10^19
    if (q > 38) return 0x7f800000u;

    // 1. The product, as p * 2^x with p >= 2^63. What was cut off makes it too small by less than 5 units, and `more`
    // by less than another 19.
    const unsigned k = unsigned(q + 64);
    uint64_t       p, low;
    int32_t        x = int32_t(q) + 64;
    multiply(w, fine[k % 16], &p, &low);
    if (p == 0) p = low, low = 0, x -= 64;
    for (int32_t s = 32; s > 0; s /= 2)
        if (p >> (64 - s) == 0) p = p << s | low >> (64 - s), low <<= s, x -= s;
    multiply(p, coarse[k / 16].m, &p, &low);
    x += coarse[k / 16].x + 64;
    if (p >> 63 == 0) p = p << 1 | low >> 63, --x;

    // 2. Both ends of the interval.
    const uint64_t top = p + (more ? 32 : 8);
    const uint32_t lower = nearest_float(p, x);
    const uint32_t upper = top >= p ? nearest_float(top, x) : nearest_float(uint64_t(1) << 63 | (top >> 1) | 1u, x + 1);
    if (lower == upper) return lower;

    // 3. They are neighbours.
    const int side = compare_with_half(text, end, n_used, q, lower);
    return side > 0 || (side == 0 && (lower & 1u) != 0) ? upper : lower;
}
SSM_DETAIL_END

SSM_API size_t parse_float(const char* text, size_t bytes, float* out) noexcept {
    using detail::is_digit;
    const char *p = text, *const end = text + bytes;
    const bool negative = p < end && *p == '-';
    if (p < end && (*p == '-' || *p == '+')) ++p;

    // 1. Digits: the first 19 that count make w; q is the power of ten that goes with it.
    const char* const digits = p;
    uint64_t          w = 0;
    int64_t           q = 0;
    int32_t           n_used = 0;
    bool              any = false, point = false, more = false;
    for (; p < end; ++p) {
        if (is_digit(*p)) {
            const uint32_t d = uint32_t(*p - '0');
            any = true;
            if (n_used < 19) {
                w = w * 10 + d;
                n_used += w != 0;
                q -= point;
            } else {
                more |= d != 0;
                q += !point;
            }
        } else if (*p == '.' && !point) point = true;
        else break;
    }
    if (!any) return 0;
    const char* const digits_end = p;

    // 2. The exponent. Without digits behind it, an e is not part of the number. No text is so long as to outweigh
    // 10^17.
    if (p < end && (*p == 'e' || *p == 'E')) {
        const char* at = p + 1;
        const bool  down = at < end && *at == '-';
        int64_t     e = 0;
        if (at < end && (*at == '-' || *at == '+')) ++at;
        if (at < end && is_digit(*at)) {
            for (; at < end && is_digit(*at); ++at)
                if (e < 100'000'000'000'000'000) e = e * 10 + (*at - '0');
            q += down ? -e : e;
            p = at;
        }
    }
    const uint32_t bits = detail::decimal_to_float(w, q, more, n_used, digits, digits_end);
    *out = detail::float_of(int32_t(bits | (negative ? 0x80000000u : 0)));
    return size_t(p - text);
}

// ---- Safetensors

SSM_DETAIL_BEGIN

struct DTypeInfo {
    const char* name;
    int32_t     bits;
};
constexpr DTypeInfo dtypes[] = {{"BOOL", 8},    {"U8", 8},          {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8},
                                {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},
                                {"F16", 16},    {"BF16", 16},       {"I32", 32},        {"U32", 32},    {"F32", 32},
                                {"C64", 64},    {"F64", 64},        {"I64", 64},        {"U64", 64},    {"F4", 4},
                                {"F6_E2M3", 6}, {"F6_E3M2", 6}};
constexpr uint8_t   n_dtypes = sizeof dtypes / sizeof dtypes[0];

SSM_LOCAL bool    overflows(uint64_t a, uint64_t b) noexcept { return b != 0 && a > UINT64_MAX / b; } // a * b
SSM_LOCAL bool    fits_size_t(uint64_t n) noexcept { return n >> (sizeof(size_t) * 8 - 1) >> 1 == 0; }
SSM_LOCAL int64_t for_fault(uint64_t v) noexcept { return v > uint64_t(INT64_MAX) ? INT64_MAX : int64_t(v); }

// Finds the header's text. Tested by subtraction: a length near 2^64 plus 8 would wrap.
SSM_LOCAL Status find_header(const Blob& blob, const char** text, size_t* bytes, Fault* fault) noexcept {
    const unsigned char* data = static_cast<const unsigned char*>(blob.data);
    if (blob.bytes < 8)
        return blame(fault, Status::truncated, "", 0,
                     SSM_WHY("shorter than the 8 bytes every safetensors file begins with"), 8, int64_t(blob.bytes));
    if (data == nullptr) return blame(fault, Status::bad_argument, "", 0, SSM_WHY("no data given"));
    const uint64_t n = load_u64(data);
    if (n > max_header_bytes)
        return blame(fault, Status::bad_header, "", 0, SSM_WHY("the header is longer than the format's limit"),
                     int64_t(max_header_bytes), for_fault(n));
    if (n > blob.bytes - 8)
        return blame(fault, Status::truncated, "", 0, SSM_WHY("the file ends inside its header"), int64_t(n),
                     for_fault(blob.bytes - 8));
    *text = static_cast<const char*>(blob.data) + 8;
    *bytes = size_t(n);
    return Status::ok;
}

// Reads the header as JSON from end to end and counts the entries it will take: tensors and metadata keys.
SSM_LOCAL Status count_entries(const char* text, size_t bytes, int32_t* n_entries, Fault* fault) noexcept {
    using json::Kind;
    json::Reader r = json::open(text, bytes);
    json::Token  t = json::next(&r);
    if (t.kind != Kind::object && t.kind != Kind::error)
        return blame(fault, Status::bad_header, "", 0, SSM_WHY("the header is not a JSON object"));
    int32_t n = 0;
    bool    metadata = false; // inside it, or at the value of that name
    while (t.kind != Kind::end && t.kind != Kind::error) {
        t = json::next(&r);
        if (t.kind != Kind::key || r.depth > 2) continue;
        if (r.depth == 1) metadata = json::equals(t, "__metadata__");
        n += (r.depth == 2) == metadata;
    }
    *n_entries = n;
    if (t.kind == Kind::end) return Status::ok;
    const Status s = blame(fault, Status::bad_header, "", 0, SSM_WHY(r.error));
    if (fault != nullptr) fault->got = int64_t(size_t(r.p - text) + 8); // where: the byte in the file
    return s;
}
static_assert(max_header_bytes / 5 * sizeof(Entry) < UINT32_MAX,
              "`\"\":0,` is the shortest entry: no count or size overflows");

// The value of one tensor's name, the reader standing in front of it. The text is known to be well-formed.
SSM_APART Status read_tensor(json::Reader* r, Entry* e, Fault* fault) noexcept {
    using json::Kind;
    using json::Token;
    const auto refuse = [&](Status s, Why why) { return blame(fault, s, e->name, size_t(e->name_len), why); };
    const auto unlike = [&](Status s, Why why, uint64_t want, uint64_t got) {
        return blame(fault, s, e->name, size_t(e->name_len), why, for_fault(want), for_fault(got));
    };
    const auto quote = [fault](Status s, const char* text, size_t len) { // adds to the fault what stands in the file
        if (fault == nullptr) return s;
        size_t n = length_of(fault->found);
        for (; len > 0 && n < sizeof fault->found - 1; --len) fault->found[n++] = *text++;
        fault->found[n] = 0;
        return s;
    };
    size_t      shape_len = 0;
    const char* seen[max_fields]; // names of the fields so far, to find one that stands twice
    uint32_t    seen_len[max_fields];
    int32_t     n_seen = 0;
    bool        has_dtype = false, has_shape = false, has_offsets = false, too_large = false;
    uint64_t    product = 1, rank = 0;

    // 1. The fields, each by itself. Unknown ones are passed over.
    if (json::next(r).kind != Kind::object) return refuse(Status::bad_header, SSM_WHY("its entry is not an object"));
    for (Token key = json::next(r); key.kind == Kind::key; key = json::next(r)) {
        for (int32_t i = 0; i < n_seen; ++i)
            if (compare(Bytes(seen[i], seen_len[i]), Bytes(key.text, key.len)) == 0)
                return refuse(Status::bad_header, SSM_WHY("a field stands twice in its entry"));
        if (n_seen == max_fields)
            return unlike(Status::bad_header, SSM_WHY("its entry has more fields than the limit"), max_fields,
                          max_fields + 1);
        seen[n_seen] = key.text;
        seen_len[n_seen++] = uint32_t(key.len);

        const Token v = json::next(r);
        if (json::equals(key, "dtype")) {
            has_dtype = true;
            if (v.kind != Kind::string) return refuse(Status::bad_header, SSM_WHY("its dtype is not a string"));
            while (e->dtype < n_dtypes && !json::equals(v, dtypes[e->dtype].name)) ++e->dtype;
            if (e->dtype == n_dtypes)
                return quote(refuse(Status::bad_dtype,
                                    SSM_WHY("its dtype is unknown; expected one of BOOL, U8, I8, F8_E5M2, F8_E4M3, "
                                            "F8_E8M0, F8_E4M3FNUZ, F8_E5M2FNUZ, I16, U16, F16, BF16, I32, "
                                            "U32, F32, C64, F64, I64, U64, F4, F6_E2M3, F6_E3M2")),
                             v.text - 1, v.len + 2);
        } else if (json::equals(key, "shape")) {
            has_shape = true;
            if (v.kind != Kind::array) return refuse(Status::bad_header, SSM_WHY("its shape is not an array"));
            e->shape_text = v.text;
            for (Token d = json::next(r); d.kind != Kind::end_array; d = json::next(r), ++rank) {
                uint64_t n = 0;
                if (d.kind != Kind::number || !json::to_uint(d, &n))
                    return refuse(Status::bad_header,
                                  SSM_WHY("its shape holds something other than an integer from 0 to 2^64 - 1"));
                if (overflows(product, n)) too_large = true;
                else product *= n;
            }
            shape_len = size_t(r->p - v.text);
        } else if (json::equals(key, "data_offsets")) {
            has_offsets = true;
            const Token list[3] = {json::next(r), v.kind == Kind::array ? json::next(r) : Token(),
                                   v.kind == Kind::array ? json::next(r) : Token()};
            if (v.kind != Kind::array || list[0].kind != Kind::number || list[1].kind != Kind::number ||
                list[2].kind != Kind::end_array || !json::to_uint(list[0], &e->begin) ||
                !json::to_uint(list[1], &e->end))
                return refuse(Status::bad_header, SSM_WHY("its data_offsets are not two integers from 0 to 2^64 - 1"));
        } else json::skip(r, v);
    }

    // 2. What they say together.
    if (!has_dtype) return refuse(Status::bad_header, SSM_WHY("its dtype is missing"));
    if (!has_shape) return refuse(Status::bad_header, SSM_WHY("its shape is missing"));
    if (!has_offsets) return refuse(Status::bad_header, SSM_WHY("its data_offsets are missing"));
    const auto in_shape = [&](Status s) { // "[2,3] F32"
        const char* const dtype = dtypes[e->dtype].name;
        return quote(quote(quote(s, e->shape_text, shape_len), " ", 1), dtype, length_of(dtype));
    };
    if (rank > uint64_t(max_rank))
        return in_shape(unlike(Status::bad_shape, SSM_WHY("it has more dimensions than the limit"), max_rank, rank));
    e->rank = uint8_t(rank);
    const uint64_t bits = uint64_t(dtypes[e->dtype].bits);
    if (too_large || overflows(product, bits))
        return in_shape(refuse(Status::bad_shape, SSM_WHY("its shape makes a size beyond 64 bits")));
    if (product * bits % 8 != 0)
        return in_shape(unlike(Status::bad_shape, SSM_WHY("its size in bits is not a multiple of 8"),
                               (product * bits | 7) + 1, product * bits));
    if (e->begin > e->end)
        return unlike(Status::bad_header, SSM_WHY("its data_offsets run backwards"), e->begin, e->end);
    if (e->end - e->begin != product * bits / 8)
        return in_shape(unlike(Status::bad_shape,
                               SSM_WHY("its data_offsets do not span the bytes its shape and dtype need"),
                               product * bits / 8, e->end - e->begin));
    return Status::ok;
}

// Every entry of a well-formed header by itself: tensors from the front of `entries`, metadata from the back.
SSM_LOCAL Status read_entries(const char* text, size_t bytes, Entry* entries, int32_t n_entries, int32_t* n_tensors,
                              Fault* fault) noexcept {
    using json::Kind;
    using json::Token;
    json::Reader r = json::open(text, bytes);
    int32_t      n = 0, n_metadata = 0;
    bool         metadata_seen = false;
    const auto   add = [](Entry* to, const Token& key) {
        *to = Entry();
        to->name = key.text;
        to->name_len = int32_t(key.len);
        to->hash = hash(Bytes(key.text, key.len));
        return to;
    };
    json::next(&r);
    for (Token key = json::next(&r); key.kind == Kind::key; key = json::next(&r)) {
        if (!json::equals(key, "__metadata__")) {
            const Status s = read_tensor(&r, add(&entries[n++], key), fault);
            if (s != Status::ok) return s;
            continue;
        }
        if (metadata_seen)
            return blame(fault, Status::bad_header, "__metadata__", 12,
                         SSM_WHY("the metadata stands twice in the header"));
        metadata_seen = true;
        const Token v = json::next(&r);
        if (v.kind == Kind::null) continue; // as good as none
        if (v.kind != Kind::object)
            return blame(fault, Status::bad_header, "__metadata__", 12, SSM_WHY("the metadata is not an object"));
        for (Token k = json::next(&r); k.kind == Kind::key; k = json::next(&r)) {
            const Token s = json::next(&r);
            if (s.kind != Kind::string)
                return blame(fault, Status::bad_header, k.text, k.len, SSM_WHY("its metadata value is not a string"));
            Entry* e = add(&entries[n_entries - ++n_metadata], k);
            e->value = s.text;
            e->value_len = int32_t(s.len);
        }
    }
    *n_tensors = n;
    return Status::ok;
}

// Heapsort: in place, without recursion, n log n whatever the order was.
SSM_LOCAL void sort_entries(Entry* e, int32_t n, bool (*before)(const Entry&, const Entry&)) noexcept {
    const auto swap = [e](int32_t i, int32_t j) {
        const Entry t = e[i];
        e[i] = e[j], e[j] = t;
    };
    const auto sink = [&](int32_t i, int32_t end) { // e[i] to where no child comes behind it
        for (int32_t child; i < end / 2; i = child) {
            child = 2 * i + 1;
            if (child + 1 < end && before(e[child], e[child + 1])) ++child;
            if (!before(e[i], e[child])) return;
            swap(i, child);
        }
    };
    for (int32_t i = n / 2; i-- > 0;) sink(i, n);
    for (int32_t end = n; end-- > 1;) swap(0, end), sink(0, end);
}

// The order in the data; those on the very same place as in the header, so that messages do not depend on the sort.
SSM_LOCAL bool before_in_data(const Entry& a, const Entry& b) noexcept {
    if (a.begin != b.begin) return a.begin < b.begin;
    return a.end != b.end ? a.end < b.end : a.name < b.name;
}

// The order of an index: by hash, then by name, then tensors in front of metadata.
SSM_LOCAL int order(const Entry& a, uint64_t h, const Bytes& name, bool is_metadata) noexcept {
    if (a.hash != h) return a.hash < h ? -1 : 1;
    const int c = compare(Bytes(a.name, size_t(a.name_len)), name);
    return c != 0 ? c : int(a.value != nullptr) - int(is_metadata);
}
SSM_LOCAL int order(const Entry& a, const Entry& b) noexcept {
    return order(a, b.hash, Bytes(b.name, size_t(b.name_len)), b.value != nullptr);
}

SSM_LOCAL const Entry* find(const Index& ix, const char* name, bool is_metadata) noexcept {
    const Bytes    bytes(name, length_of(name), false);
    const uint64_t h = hash(bytes);
    int32_t        lo = 0, hi = ix.n_entries;
    while (lo < hi) {
        const int32_t middle = lo + (hi - lo) / 2;
        const int     c = order(ix.entries[middle], h, bytes, is_metadata);
        if (c == 0) return &ix.entries[middle];
        if (c < 0) lo = middle + 1;
        else hi = middle;
    }
    return nullptr;
}
SSM_DETAIL_END

SSM_API size_t index_bytes(Blob blob) noexcept {
    const char* text = nullptr;
    size_t      bytes = 0;
    int32_t     n = 0;
    if (detail::find_header(blob, &text, &bytes, nullptr) != Status::ok) return 0;
    if (detail::count_entries(text, bytes, &n, nullptr) != Status::ok) return 0;
    return size_t(n) * sizeof(Entry) + alignof(Entry);
}

SSM_API Status read_index(Index* out, Blob blob, void* memory, size_t bytes, Fault* fault) noexcept {
    using namespace detail;
    if (out == nullptr) return blame(fault, Status::bad_argument, "", 0, SSM_WHY("no index given"));

    // 1. Length, limit, file size, UTF-8, JSON.
    const char* text = nullptr;
    size_t      text_bytes = 0, length = 0;
    int32_t     n = 0, n_tensors = 0;
    Status      s = find_header(blob, &text, &text_bytes, fault);
    if (s != Status::ok) return s;
    for (size_t i = 0; i < text_bytes; i += length)
        if ((length = utf8_length(text + i, text + text_bytes)) == 0) {
            (void)blame(fault, Status::bad_header, "", 0, SSM_WHY("the header is not valid UTF-8"));
            if (fault != nullptr) fault->got = int64_t(i + 8);
            return Status::bad_header;
        }
    if ((s = count_entries(text, text_bytes, &n, fault)) != Status::ok) return s;

    // 2. Room for the entries.
    const size_t need = size_t(n) * sizeof(Entry) + alignof(Entry);
    if (memory == nullptr || bytes < need)
        return blame(fault, Status::arena_too_small, "", 0,
                     SSM_WHY("the memory for the index of the file is too small"), int64_t(need),
                     memory == nullptr ? 0 : for_fault(bytes));
    const size_t past = reinterpret_cast<uintptr_t>(memory) % alignof(Entry);
    Entry*       entries = static_cast<Entry*>(
        static_cast<void*>(static_cast<unsigned char*>(memory) + (alignof(Entry) - past) % alignof(Entry)));

    // 3. Every entry by itself.
    if ((s = read_entries(text, text_bytes, entries, n, &n_tensors, fault)) != Status::ok) return s;

    // 4. Together, tensors cover the data buffer without a hole or an overlap.
    const uint64_t data_bytes = blob.bytes - 8 - text_bytes;
    sort_entries(entries, n_tensors, before_in_data);
    uint64_t at = 0;
    for (int32_t i = 0; i < n_tensors; at = entries[i++].end) {
        const Entry& e = entries[i];
        if (e.begin < at)
            return blame(fault, Status::bad_header, e.name, size_t(e.name_len), SSM_WHY("begins inside another tensor"),
                         for_fault(at), for_fault(e.begin));
        if (e.begin > at)
            return blame(fault, Status::bad_header, e.name, size_t(e.name_len),
                         SSM_WHY("begins behind a hole in the data"), for_fault(at), for_fault(e.begin));
        if (!fits_size_t(e.end))
            return blame(fault, Status::unsupported, e.name, size_t(e.name_len),
                         SSM_WHY("ends beyond what this machine can address"), for_fault(SIZE_MAX), for_fault(e.end));
        if (e.end > data_bytes)
            return blame(fault, Status::truncated, e.name, size_t(e.name_len),
                         SSM_WHY("ends behind the end of the file"), for_fault(e.end), for_fault(data_bytes));
    }
    if (at != data_bytes)
        return blame(fault, Status::bad_header, "", 0, SSM_WHY("bytes follow the last tensor"), for_fault(at),
                     for_fault(data_bytes));

    // 5. No name stands twice.
    sort_entries(entries, n, [](const Entry& a, const Entry& b) { return order(a, b) < 0; });
    for (int32_t i = 1; i < n; ++i)
        if (order(entries[i - 1], entries[i]) == 0)
            return blame(fault, Status::bad_header, entries[i].name, size_t(entries[i].name_len),
                         entries[i].value != nullptr ? SSM_WHY("this metadata key stands twice")
                                                     : SSM_WHY("a tensor of this name stands twice"));

    out->entries = entries;
    out->n_entries = n;
    out->n_tensors = n_tensors;
    out->data = static_cast<const unsigned char*>(blob.data) + 8 + text_bytes;
    out->data_bytes = data_bytes;
    return Status::ok;
}

SSM_API const Entry* find_tensor(const Index& ix, const char* name) noexcept { return detail::find(ix, name, false); }
SSM_API const Entry* find_metadata(const Index& ix, const char* key) noexcept { return detail::find(ix, key, true); }

SSM_API int64_t shape_of(const Entry& e, int64_t dims[max_rank]) noexcept {
    const char* p = e.shape_text; // known to be good: integers, commas and blanks
    int64_t     product = 1;
    for (int32_t k = 0; k < e.rank; ++k) {
        uint64_t d = 0;
        while (!detail::is_digit(*p)) ++p;
        for (; detail::is_digit(*p); ++p) d = d * 10 + uint64_t(*p - '0');
        dims[k] = detail::for_fault(d); // beyond int64 only beside a 0
        product = d == 0 || product == 0 ? 0 : product * dims[k];
    }
    return product;
}
SSM_API const char* dtype_name(uint8_t dtype) noexcept {
    return dtype < detail::n_dtypes ? detail::dtypes[dtype].name : nullptr;
}
SSM_API int32_t dtype_bits(uint8_t dtype) noexcept { return dtype < detail::n_dtypes ? detail::dtypes[dtype].bits : 0; }

// ---- 14. Mapping a file ---------------------------------------------------------------------------------------------
//
// A read-only mapping of a regular file; the only place that knows an operating system. If another program cuts the
// file short while it is mapped, the system ends this one at the first touch of a lost page: replace model files by
// renaming.

#ifndef SSM_NO_FILES
#if defined(_WIN32)
SSM_API Status map_file(Blob* out, const char* path) noexcept {
    if (out == nullptr || path == nullptr) return Status::bad_argument;
    HANDLE file =
        CreateFileA(path, GENERIC_READ, FILE_SHARE_READ, nullptr, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
    if (file == INVALID_HANDLE_VALUE) return Status::io;
    LARGE_INTEGER size = {};
    Status        s = Status::io;
    HANDLE        mapping = nullptr;
    void*         data = nullptr;
    if (GetFileType(file) == FILE_TYPE_DISK && GetFileSizeEx(file, &size) && size.QuadPart > 0) {
        if (uint64_t(size.QuadPart) > SIZE_MAX) s = Status::unsupported;
        else mapping = CreateFileMappingA(file, nullptr, PAGE_READONLY, 0, 0, nullptr);
    }
    if (mapping != nullptr) {
        data = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0);
        CloseHandle(mapping); // the view keeps it
    }
    CloseHandle(file);
    if (data == nullptr) return s;
    *out = Blob{data, size_t(size.QuadPart)};
    return Status::ok;
}
SSM_API void unmap_file(Blob* blob) noexcept {
    if (blob == nullptr || blob->data == nullptr) return;
    UnmapViewOfFile(blob->data);
    *blob = Blob();
}
#elif defined(__unix__) || defined(__APPLE__)
SSM_API Status map_file(Blob* out, const char* path) noexcept {
    if (out == nullptr || path == nullptr) return Status::bad_argument;
    const int file = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // not to wait for the writer of a FIFO
    if (file < 0) return Status::io;
    struct stat info;
    Status s = Status::io;
    void* data = MAP_FAILED;
    if (::fstat(file, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0) {
        const uint64_t size = uint64_t(info.st_size);
        if (!detail::fits_size_t(size)) s = Status::unsupported;
        else data = ::mmap(nullptr, size_t(size), PROT_READ, MAP_PRIVATE, file, 0);
    }
    const bool closed = ::close(file) == 0;
    if (data == MAP_FAILED) return s;
    if (!closed) {
        ::munmap(data, size_t(info.st_size));
        return Status::io;
    }
    *out = Blob{data, size_t(info.st_size)};
    return Status::ok;
}
SSM_API void unmap_file(Blob* blob) noexcept {
    if (blob == nullptr || blob->data == nullptr) return;
    ::munmap(const_cast<void*>(blob->data), blob->bytes);
    *blob = Blob();
}
#else // no files known here
SSM_API Status map_file(Blob*, const char*) noexcept { return Status::unsupported; }
SSM_API void unmap_file(Blob* blob) noexcept {
    if (blob != nullptr) *blob = Blob();
}
#endif
#endif // SSM_NO_FILES
// ---- 15. Loading ----------------------------------------------------------------------------------------------------
//
// From an index of tensors to a model: config from metadata and shapes, every tensor checked by name, dtype, shape and
// value, S4D parameters made into a and b in double. Two spellings of an S4D layer are known: that of the minimal
// public code ("kernel.log_dt", ...) and that of the full one ("layer.kernel.inv_dt", ...), whose A_imag has the
// opposite sign. Exports valid, inspect, load, message.

SSM_DETAIL_BEGIN
constexpr bool valid_shape(const Config& c) noexcept { // but for its floats
    const auto in = [](int32_t v, int32_t lo, int32_t hi) { return v >= lo && v <= hi; };
    const bool tokens = c.input == Input::tokens;
    if (state_floats(c) > max_state_floats) return false;
    if (is_integer(c) && !((c.act_bits == 8 || c.act_bits == 16) && c.clip_q25 >= 1 && c.A_floor_q26 >= 0 &&
                           c.state <= StateType::i16rowexp && in(c.d_inner, 0, max_width) &&
                           in(c.mlp_hidden, 0, max_width) && !c.bare_mixer &&
                           (c.arch != Arch::s4d || (c.state == StateType::i32 && in(c.b_frac, 10, 31) &&
                                                    (!c.has_gaps || in(c.g_frac, c.b_frac - 29, c.b_frac + 21))))))
        return false;
    if (!(c.arch <= Arch::mamba3 && c.disc <= Disc::bilinear && c.pool <= Pool::mean && c.norm <= Norm::rms &&
          c.input <= Input::vectors && in(c.n_layers, 1, max_layers) && in(c.d_input, 1, max_width) &&
          in(c.d_output, 1, tokens ? max_vocab : max_width) && in(c.d_model, 1, max_width)))
        return false;
    const bool bank = c.d_input % 4 == 0 && in(c.d_input, c.n_bands, max_frame) && in(c.band_shift, 0, 15) &&
                      in(c.band_gate, 0, 1 << 22) && in(c.band_quiet, 0, 1 << 22) && in(c.band_forget, 0, 15) &&
                      in(c.band_leak, 1, 15) && in(c.band_mean, 0, 65536) && in(c.band_floor, 0, 1 << 22) &&
                      in(c.band_fall, 0, 1 << 22) && c.arch == Arch::s4d;
    if (!in(c.n_bands, 0, max_bands) || (c.n_bands > 0 && !bank)) return false;
    if (c.arch == Arch::s4d)
        return in(c.d_state, 2, max_d_state) && c.d_state % 2 == 0 && c.input == Input::features && c.has_head;
    if (!in(c.d_state, 1, max_d_state / 2) || !in(c.d_inner, 1, 4 * max_width) || !in(c.mlp_hidden, 0, 4 * max_width) ||
        (tokens && !in(c.vocab_size, 1, max_vocab)) || (c.bare_mixer && (c.n_layers != 1 || c.mlp_hidden != 0)) ||
        (c.input != Input::features && c.d_input != c.d_model) || (!c.has_head && c.d_output != c.d_model))
        return false;
    if (c.arch == Arch::mamba1) return in(c.d_conv, 1, max_d_conv) && in(c.dt_rank, 1, max_width);
    if (!in(c.nheads, 1, c.d_inner) || !in(c.ngroups, 1, c.nheads) || c.nheads % c.ngroups != 0 ||
        !in(c.headdim, 1, max_width))
        return false;
    if (c.arch == Arch::mamba2)
        return in(c.d_conv, 1, max_d_conv) && in(c.d_ssm, 1, c.d_inner) && c.nheads * c.headdim == c.d_ssm;
    return c.nheads * c.headdim == c.d_inner && in(c.mimo_rank, 1, c.is_mimo ? max_mimo_rank : 1) &&
           in(c.rope_angles, 1, c.d_state / 2) && (!c.is_mimo || c.d_state % 2 == 0);
}
SSM_DETAIL_END

SSM_API bool valid(const Config& c) noexcept {
    const auto from_0 = [](float v) { return detail::bits_of(v) >= 0 && detail::bits_of(v) < 0x7f800000; }; // finite
    return detail::valid_shape(c) && from_0(c.state_clip) && (c.arch != Arch::mamba3 || from_0(c.A_floor));
}

SSM_DETAIL_BEGIN

// A tensor's name, built up in place.
struct Name {
    char   text[96] = "";
    size_t len = 0;
    Name&  add(const char* s) noexcept {
         for (; *s != 0 && len < sizeof text - 1; ++s) text[len++] = *s;
        text[len] = 0;
         return *this;
    }
    Name& add(int32_t n) noexcept {
        char    digits[12] = "";
        size_t  at = sizeof digits - 1;
        int32_t rest = n;
        do digits[--at] = static_cast<char>('0' + rest % 10);
        while ((rest /= 10) > 0);
        return add(digits + at);
    }
};
SSM_LOCAL Name layer_name(const char* stem, int32_t i, const char* rest) noexcept {
    return Name().add(stem).add(i).add(".").add(rest);
}

// Whether a metadata key is there, under its own name or where a flattened config.json of the public code has it; if
// so, its value.
SSM_LOCAL bool metadata(const Index& ix, const char* key, json::Token* value) noexcept {
    const Entry* e = find_metadata(ix, key);
    if (e == nullptr) e = find_metadata(ix, Name().add("cfg.").add(key).text);
    if (e == nullptr) e = find_metadata(ix, Name().add("cfg.ssm_cfg.").add(key).text);
    if (e == nullptr) return false;
    *value = json::Token{json::Kind::string, e->value, size_t(e->value_len)};
    return true;
}
// One of several words; -1 if it is another. `missing` where the key is not there.
SSM_LOCAL int choice(const Index& ix, const char* key, const char* const* words, int count, int missing) noexcept {
    json::Token v;
    if (!metadata(ix, key, &v)) return missing;
    for (int i = 0; i < count; ++i)
        if (json::equals(v, words[i])) return i;
    return -1;
}
SSM_LOCAL Status bad_key(Fault* fault, const char* key, Why why) noexcept {
    return blame(fault, Status::bad_config, key, length_of(key), why);
}
// A key that repeats what shapes already say must agree with them.
SSM_LOCAL Status agrees(const Index& ix, const char* key, int32_t found, Fault* fault) noexcept {
    json::Token v;
    uint64_t    n = 0;
    if (!metadata(ix, key, &v)) return Status::ok;
    if (!json::to_uint(v, &n)) return bad_key(fault, key, SSM_WHY("metadata is not a whole number"));
    if (n == uint64_t(found)) return Status::ok;
    return blame(fault, Status::bad_config, key, length_of(key),
                 SSM_WHY("metadata does not agree with the tensors' shapes"), for_fault(n), found);
}

// Dimension k of a tensor that must exist; 0 if it has another rank.
SSM_LOCAL Status dimension(const Index& ix, const char* name, int32_t rank, int32_t k, int32_t lo, int32_t hi,
                           int32_t* out, Fault* fault) noexcept {
    const Entry* e = find_tensor(ix, name);
    const size_t len = length_of(name);
    if (e == nullptr) return blame(fault, Status::missing_tensor, name, len, SSM_WHY("missing"));
    int64_t dims[max_rank] = {};
    shape_of(*e, dims);
    if (e->rank != rank)
        return blame(fault, Status::bad_shape, name, len, SSM_WHY("wrong number of dimensions"), rank, e->rank);
    if (dims[k] < lo || dims[k] > hi)
        return blame(fault, Status::bad_shape, name, len,
                     dims[k] < lo ? SSM_WHY("a dimension is too small")
                                  : SSM_WHY("a dimension is beyond this build's limit"),
                     dims[k] < lo ? lo : hi, dims[k]);
    *out = int32_t(dims[k]);
    return Status::ok;
}

// Which spelling of S4D a file uses.
SSM_LOCAL bool full_form(const Index& ix) noexcept { return find_tensor(ix, "s4_layers.0.layer.D") != nullptr; }

constexpr const char* bools[] = {"false", "true", "False", "True"};
constexpr const char* pools[] = {"none", "last", "mean"};
constexpr const char* archs[] = {"s4d", "mamba1", "mamba2", "mamba3"};
constexpr const char* norm_kinds[] = {"layer", "rms"};
constexpr const char* activations[] = {"heavy_tail", "softplus"};

SSM_LOCAL Status read_clip(Config* c, const Index& ix, Fault* fault) noexcept {
    json::Token v;
    if (!metadata(ix, "clip", &v)) return Status::ok;
    if (parse_float(v.text, v.len, &c->state_clip) == v.len && v.len != 0 && c->state_clip >= 0.0f &&
        c->state_clip <= FLT_MAX)
        return Status::ok;
    return bad_key(fault, "clip", SSM_WHY("metadata not understood, expected a limit for the state, or 0 for none"));
}

SSM_LOCAL bool same_config(const Config& a, const Config& b) noexcept {
    if constexpr (!float_in_build) return same_shape(a, b); // its floats are not in use
    return a == b;
}
// What was read, if it is a shape that this build can run.
SSM_LOCAL Status give_config(Config* out, const Config& c, Fault* fault) noexcept {
    static_assert(any_config || valid_shape(SSM_KNOWN(no_config)), "SSM_FIXED_CONFIG is outside the limits");
    if (!in_build(c.arch)) return Status::unsupported; // read_config() says so
    if (any_config && !valid(c)) return bad_key(fault, "", SSM_WHY("the model's shape is outside this build's limits"));
    if (!any_config && !same_config(c, SSM_KNOWN(c)))
        return blame(fault, Status::config_mismatch, "", 0,
                     SSM_WHY("not the shape that this program was compiled for"));
    *out = c;
    return Status::ok;
}

// A whole number of the metadata within limits.
SSM_LOCAL Status whole(const Index& ix, const char* key, int32_t lo, int32_t hi, int32_t* to, Fault* fault) noexcept {
    uint64_t     n = 0;
    const Entry* e = find_metadata(ix, key);
    if (e == nullptr) return bad_key(fault, key, SSM_WHY("metadata missing, expected a whole number"));
    if (!json::to_uint(json::Token{json::Kind::string, e->value, size_t(e->value_len)}, &n))
        return bad_key(fault, key, SSM_WHY("metadata is not a whole number"));
    if (n < uint64_t(lo) || n > uint64_t(hi))
        return blame(fault, Status::bad_config, key, length_of(key),
                     n < uint64_t(lo) ? SSM_WHY("metadata is below the least that this model can have")
                                      : SSM_WHY("metadata is beyond this build's limit"),
                     n < uint64_t(lo) ? lo : hi, for_fault(n));
    *to = int32_t(n);
    return Status::ok;
}
// The bank of a model of sound, if it is one.
SSM_LOCAL Status read_bank(Config* c, const Index& ix, Fault* fault) noexcept {
    if (find_tensor(ix, "frontend.poles") == nullptr) return Status::ok;
    Status s = dimension(ix, "frontend.poles", 2, 0, 1, max_bands, &c->n_bands, fault);
    if (s == Status::ok) s = whole(ix, "d_input", 4, max_frame, &c->d_input, fault);
    const struct {
        const char* key;
        int32_t     least, most, *to;
    } keys[] = {{"band_shift", 0, 15, &c->band_shift},      {"band_leak", 1, 15, &c->band_leak},
                {"band_mean", 0, 65536, &c->band_mean},     {"band_floor", 0, 1 << 22, &c->band_floor},
                {"band_fall", 0, 1 << 22, &c->band_fall},   {"band_gate", 0, 1 << 22, &c->band_gate},
                {"band_quiet", 0, 1 << 22, &c->band_quiet}, {"band_forget", 0, 15, &c->band_forget}};
    for (const auto& k : keys)
        if (s == Status::ok) s = whole(ix, k.key, k.least, k.most, k.to, fault);
    if (s == Status::ok && (c->d_input % 4 != 0 || c->d_input < c->n_bands))
        return bad_key(
            fault, "d_input",
            SSM_WHY(
                "samples a step of a model of sound: expected a multiple of 4 that is not below the number of bands"));
    return s;
}

SSM_APART Status read_s4d(Config* out, const Index& ix, Fault* fault) noexcept {
    Config c;
    c.n_entries = ix.n_entries;
    static const char* const discs[] = {"zoh", "bilinear"};
    const bool               full = full_form(ix);

    const int pre = choice(ix, "prenorm", bools, 4, -2), pool = choice(ix, "pool", pools, 3, -2),
              disc = choice(ix, "disc", discs, 2, -2);
    if (pre < 0)
        return bad_key(fault, "prenorm",
                       pre == -2 ? SSM_WHY("metadata missing, expected true or false")
                                 : SSM_WHY("metadata not understood, expected true or false"));
    if (pool < 0)
        return bad_key(fault, "pool",
                       pool == -2 ? SSM_WHY("metadata missing, expected mean, last or none")
                                  : SSM_WHY("metadata not understood, expected mean, last or none"));
    if (disc < 0)
        return bad_key(fault, "disc",
                       disc == -2 ? SSM_WHY("metadata missing, expected zoh or bilinear")
                                  : SSM_WHY("metadata not understood, expected zoh or bilinear"));
    if (choice(ix, "arch", archs, 1, 0) != 0)
        return bad_key(fault, "arch", SSM_WHY("metadata does not agree with the tensors"));
    c.prenorm = pre % 2 == 1, c.pool = Pool(pool), c.disc = Disc(disc);
    if (Status bad = read_clip(&c, ix, fault); bad != Status::ok) return bad;

    Status  s = Status::ok;
    int32_t n = 0;
    if ((s = dimension(ix, "encoder.weight", 2, 0, 1, max_width, &c.d_model, fault)) != Status::ok) return s;
    if ((s = read_bank(&c, ix, fault)) != Status::ok) return s;
    if (c.n_bands == 0 && (s = dimension(ix, "encoder.weight", 2, 1, 1, max_width, &c.d_input, fault)) != Status::ok)
        return s;
    if ((s = dimension(ix, "decoder.weight", 2, 0, 1, max_width, &c.d_output, fault)) != Status::ok) return s;
    const char* a = full ? "s4_layers.0.layer.kernel.A_imag" : "s4_layers.0.kernel.A_imag";
    if ((s = dimension(ix, a, 2, 1, 1, max_d_state / 2, &n, fault)) != Status::ok) return s;
    c.d_state = 2 * n;
    for (c.n_layers = 0; find_tensor(ix, layer_name("s4_layers.", c.n_layers, full ? "layer.D" : "D").text) != nullptr;)
        if (++c.n_layers > max_layers)
            return blame(fault, Status::bad_config, "n_layers", 8, SSM_WHY("more layers than this build's limit"),
                         max_layers, c.n_layers);
    const struct {
        const char* key;
        int32_t     value;
    } keys[] = {{"d_model", c.d_model},
                {"d_state", c.d_state},
                {"n_layers", c.n_layers},
                {"d_input", c.d_input},
                {"d_output", c.d_output}};
    for (const auto& k : keys)
        if ((s = agrees(ix, k.key, k.value, fault)) != Status::ok) return s;
    return give_config(out, c, fault);
}

// How a Mamba file names its tensors: with or without "backbone.", "embedding" or "embeddings".
struct Names {
    const char* prefix = "";
    const char* embedding = nullptr; // null: there is none
    const char* head = nullptr;
    explicit Names(const Index& ix) noexcept {
        static const char* const embeddings[] = {"embedding.weight", "embeddings.weight", "backbone.embedding.weight",
                                                 "backbone.embeddings.weight"};
        static const char* const heads[] = {"head.weight", "lm_head.weight"};
        if (find_tensor(ix, "backbone.layers.0.mixer.out_proj.weight") != nullptr) prefix = "backbone.";
        for (const char* name : embeddings)
            if (embedding == nullptr && find_tensor(ix, name) != nullptr) embedding = name;
        for (const char* name : heads)
            if (head == nullptr && find_tensor(ix, name) != nullptr) head = name;
    }
    Name top(const char* rest) const noexcept { return Name().add(prefix).add(rest); }
    Name layer(int32_t i, const char* rest) const noexcept {
        return Name().add(prefix).add("layers.").add(i).add(".").add(rest);
    }
};

// An unsigned metadata value, 2^31 if it is larger, or `missing` where the key is not there; -1 if it is not a number.
SSM_LOCAL int64_t number(const Index& ix, const char* key, int64_t missing) noexcept {
    json::Token v;
    uint64_t    n = 0;
    if (!metadata(ix, key, &v)) return missing;
    if (!json::to_uint(v, &n)) return -1;
    return n <= uint64_t(INT32_MAX) ? int64_t(n) : int64_t(INT32_MAX) + 1;
}

// Shapes say all they can; metadata says the rest and must not contradict them.
SSM_APART Status read_mamba(Config* out, const Index& ix, Fault* fault) noexcept {
    static const char* const kinds[] = {"Mamba1", "Mamba2", "Mamba3"};
    const Names              names(ix);
    Config                   c;
    Status                   s = Status::ok;
    json::Token              v;
    int32_t                  rows = 0, rows_of_embedding = 0, n = 0;
    const auto               mixer = [&](const char* rest) { return names.layer(0, "mixer.").add(rest); };
    const auto               has = [&](const Name& name) { return find_tensor(ix, name.text) != nullptr; };
    const auto               dim = [&](const char* rest, int32_t rank, int32_t k, int32_t hi, int32_t* to) {
        if (s == Status::ok) s = dimension(ix, mixer(rest).text, rank, k, 1, hi, to, fault);
    };
    const auto wrong = [&](const char* rest, Why why, int64_t want, int64_t got) {
        const Name name = mixer(rest);
        return blame(fault, Status::bad_shape, name.text, name.len, why, want, got);
    };
    c.n_entries = ix.n_entries, c.pool = Pool::none;

    // 1. Which Mamba, and what stands around the mixers.
    const Entry* A_log = find_tensor(ix, mixer("A_log").text);
    c.arch = has(mixer("B_bias")) ? Arch::mamba3 : A_log != nullptr && A_log->rank == 2 ? Arch::mamba1 : Arch::mamba2;
    if (metadata(ix, "attn_layer_idx", &v) && !json::equals(v, "[]"))
        return bad_key(fault, "attn_layer_idx", SSM_WHY("attention layers are not supported"));
    if (c.arch == Arch::mamba2 && A_log == nullptr)
        return bad_key(fault, "",
                       SSM_WHY("not a model this build knows: layer 0 has neither s4_layers.0.D, "
                               "s4_layers.0.layer.D, B_bias nor A_log"));
    const int which = int(c.arch) - int(Arch::mamba1);
    const bool is_arch = choice(ix, "arch", archs + 1, 3, which) == which;
    if (!is_arch || choice(ix, "layer", kinds, 3, which) != which)
        return bad_key(fault, is_arch ? "layer" : "arch", SSM_WHY("metadata does not agree with the tensors"));
    while (c.n_layers < max_layers && has(names.layer(c.n_layers, "mixer.out_proj.weight"))) ++c.n_layers;
    dim("out_proj.weight", 2, 0, max_width, &c.d_model);
    dim("out_proj.weight", 2, 1, 4 * max_width, &c.d_inner);
    dim("in_proj.weight", 2, 0, INT32_MAX, &rows);
    if (s != Status::ok) return s;
    c.bare_mixer = metadata(ix, "scope", &v) && json::equals(v, "mixer");
    c.norm = has(names.layer(0, "norm.bias")) ? Norm::layer : Norm::rms;
    const bool is_norm = choice(ix, "norm", norm_kinds, 2, int(c.norm)) == int(c.norm);
    if (!is_norm || (!c.bare_mixer && choice(ix, "rms_norm", bools, 4, int(c.norm)) % 2 != int(c.norm)))
        return bad_key(fault, is_norm ? "rms_norm" : "norm",
                       SSM_WHY("metadata does not agree with the tensors: a norm.bias belongs to LayerNorm alone"));
    if (has(names.layer(0, "mlp.fc2.weight")) && (s = dimension(ix, names.layer(0, "mlp.fc2.weight").text, 2, 1, 1,
                                                                4 * max_width, &c.mlp_hidden, fault)) != Status::ok)
        return s;
    const int pool = choice(ix, "pool", pools, 3, 0);
    if (pool < 0) return bad_key(fault, "pool", SSM_WHY("metadata not understood, expected mean, last or none"));
    c.pool = Pool(pool);
    if ((s = read_clip(&c, ix, fault)) != Status::ok) return s;

    // 2. Input and head.
    c.d_input = c.d_output = c.d_model, c.input = Input::vectors, c.has_head = names.head != nullptr;
    if (names.embedding != nullptr) {
        if ((s = dimension(ix, names.embedding, 2, 0, 1, max_vocab, &rows, fault)) != Status::ok) return s;
        c.input = Input::tokens, c.has_head = true, rows_of_embedding = rows;
        const int64_t vocabulary = number(ix, "vocab_size", rows);
        if (vocabulary < 0) return bad_key(fault, "vocab_size", SSM_WHY("metadata is not a whole number"));
        if (vocabulary < 1 || vocabulary > rows)
            return blame(fault, Status::bad_config, "vocab_size", 10,
                         SSM_WHY("metadata does not agree with the rows of the embedding"), rows, vocabulary);
        c.vocab_size = c.d_output = int32_t(vocabulary);
        if (metadata(ix, "head", &v) && json::equals(v, "none")) {
            if (names.head != nullptr)
                return bad_key(fault, "head", SSM_WHY("metadata does not agree with the tensors: there is a head"));
            c.has_head = false, c.d_output = c.d_model;
        }
        dim("in_proj.weight", 2, 0, INT32_MAX, &rows);
    } else if (has(names.top("input_proj.weight"))) {
        c.input = Input::features;
        s = dimension(ix, names.top("input_proj.weight").text, 2, 1, 1, max_width, &c.d_input, fault);
    }
    if (s == Status::ok && names.head != nullptr) {
        s = dimension(ix, names.head, 2, 0, 1, max_vocab, &n, fault);
        const bool words = c.input == Input::tokens && n == rows_of_embedding; // padded alike
        c.d_output = words ? c.vocab_size : n;
    }

    // 3. The mixer.
    if (c.arch == Arch::mamba1) {
        dim("A_log", 2, 1, max_d_state / 2, &c.d_state);
        dim("conv1d.weight", 3, 2, max_d_conv, &c.d_conv);
        dim("dt_proj.weight", 2, 1, max_width, &c.dt_rank);
        c.d_ssm = c.d_inner;
    } else if (c.arch == Arch::mamba2) {
        dim("A_log", 1, 0, c.d_inner, &c.nheads);
        dim("conv1d.weight", 3, 0, INT32_MAX, &n);
        dim("conv1d.weight", 3, 2, max_d_conv, &c.d_conv);
        if (s != Status::ok) return s;
        const int64_t GN2 = int64_t(rows) - 2 * int64_t(c.d_inner) - c.nheads, ds = int64_t(n) - GN2;
        if (GN2 < 2 || GN2 % 2 != 0)
            return wrong("in_proj.weight", SSM_WHY("its rows do not fit d_inner and A_log"),
                         2 * c.d_inner + c.nheads + 2, rows);
        if (ds < 1 || ds > c.d_inner || ds % c.nheads != 0)
            return wrong("conv1d.weight", SSM_WHY("its channels do not fit in_proj and A_log"), GN2 + c.d_inner, n);
        const int64_t N = number(ix, "d_state", 128), G = number(ix, "ngroups", 1);
        if (N < 0 || G < 0)
            return bad_key(fault, N < 0 ? "d_state" : "ngroups", SSM_WHY("metadata is not a whole number"));
        if (N < 1 || G < 1 || N * G != GN2 / 2)
            return blame(fault, Status::bad_config, "d_state", 7,
                         SSM_WHY("metadata, or the default of 128 in 1 group, does not agree with the rows of in_proj"),
                         GN2 / 2, N * G);
        c.d_ssm = int32_t(ds), c.headdim = int32_t(ds / c.nheads), c.d_state = int32_t(N), c.ngroups = int32_t(G);
        c.rmsnorm = has(mixer("norm.weight"));
        const int before = choice(ix, "norm_before_gate", bools, 4, 0);
        if (before < 0)
            return bad_key(fault, "norm_before_gate", SSM_WHY("metadata not understood, expected true or false"));
        c.norm_before_gate = before % 2 == 1;
    } else {
        dim("B_bias", 3, 0, c.d_inner, &c.nheads);
        dim("B_bias", 3, 1, max_mimo_rank, &c.mimo_rank);
        dim("B_bias", 3, 2, max_d_state / 2, &c.d_state);
        if (s != Status::ok) return s;
        c.is_mimo = has(mixer("mimo_x")), c.is_outproj_norm = has(mixer("norm.weight"));
        if (!c.is_mimo && c.mimo_rank > 1) {
            const Name name = mixer("mimo_x");
            return blame(fault, Status::missing_tensor, name.text, name.len, SSM_WHY("missing"));
        }
        if (c.d_inner % c.nheads != 0)
            return wrong("B_bias", SSM_WHY("its heads do not divide d_inner"), c.d_inner, c.nheads);
        c.headdim = c.d_inner / c.nheads;
        float fraction = 0.5f;
        if (metadata(ix, "rope_fraction", &v) &&
            (parse_float(v.text, v.len, &fraction) != v.len || v.len == 0 || !(fraction == 0.5f || fraction == 1.0f)))
            return bad_key(fault, "rope_fraction", SSM_WHY("metadata not understood, expected 0.5 or 1.0"));
        const int64_t S = number(ix, "rope_angles", fraction == 1.0f ? c.d_state / 2 : c.d_state / 2 / 2);
        const int64_t row_of_group = 2 * int64_t(c.mimo_rank) * c.d_state;
        const int64_t GN = int64_t(rows) - 2 * int64_t(c.d_inner) - 3 * int64_t(c.nheads) - S;
        if (S < 0) return bad_key(fault, "rope_angles", SSM_WHY("metadata is not a whole number"));
        if (S < 1 || S > c.d_state / 2)
            return blame(fault, Status::bad_config, "rope_angles", 11, SSM_WHY("more angles than pairs"), c.d_state / 2,
                         S);
        if (GN < row_of_group || GN % row_of_group != 0)
            return wrong("in_proj.weight", SSM_WHY("its rows do not fit d_inner, B_bias and the rope fraction"),
                         2 * int64_t(c.d_inner) + row_of_group + 3 * int64_t(c.nheads) + S, rows);
        c.rope_angles = int32_t(S), c.ngroups = int32_t(GN / row_of_group);
        const int activation =
            choice(ix, "a_activation", activations, 2, choice(ix, "A_activation", activations, 2, 0));
        if (activation < 0)
            return bad_key(fault, "a_activation", SSM_WHY("metadata not understood, expected heavy_tail or softplus"));
        c.softplus_A = activation == 1, c.A_floor = 1e-4f;
        if ((metadata(ix, "a_floor", &v) || metadata(ix, "A_floor", &v)) &&
            (parse_float(v.text, v.len, &c.A_floor) != v.len || v.len == 0 ||
             !(c.A_floor >= 0.0f && c.A_floor <= FLT_MAX)))
            return bad_key(fault, "a_floor", SSM_WHY("metadata not understood, expected a number from 0 up"));
        if (c.is_mimo && (s = agrees(ix, "mimo_rank", c.mimo_rank, fault)) != Status::ok) return s;
    }
    if (s != Status::ok) return s;

    // 4. What metadata repeats.
    const struct {
        const char* key;
        int32_t     value;
    } keys[] = {{"d_model", c.d_model}, {"n_layer", c.n_layers}, {"d_inner", c.d_inner},      {"d_state", c.d_state},
                {"d_input", c.d_input}, {"headdim", c.headdim},  {"d_output", c.d_output},    {"ngroups", c.ngroups},
                {"d_conv", c.d_conv},   {"d_ssm", c.d_ssm},      {"mlp_hidden", c.mlp_hidden}};
    for (const auto& k : keys)
        if (k.value > 0 && (s = agrees(ix, k.key, k.value, fault)) != Status::ok) return s;
    return give_config(out, c, fault);
}

// The config of an integer model: all of it stands in its metadata. load() holds every tensor against it.
SSM_APART Status read_integer(Config* out, const Index& ix, Fault* fault) noexcept {
    static const char* const states[] = {"i32", "i16rowexp"};
    static const char* const inputs[] = {"features", "tokens", "none"};
    static const char* const heads[] = {"none", "linear", "tied"};
    Status                   s = Status::ok;
    const auto               integer = [&](const char* key, int32_t lo, int32_t hi, int32_t* to) {
        if (s == Status::ok) s = whole(ix, key, lo, hi, to, fault);
    };
    const auto one_of = [&](const char* key, const char* const* words, int count, Why expected) {
        const int i = s == Status::ok ? choice(ix, key, words, count, -1) : 0;
        if (i < 0) s = bad_key(fault, key, expected);
        return i < 0 ? 0 : i;
    };
    const auto flag = [&](const char* key) {
        return one_of(key, bools, 4, SSM_WHY("metadata missing or not understood, expected true or false")) % 2 == 1;
    };
    Config  c;
    int32_t version = 0;
    c.n_entries = ix.n_entries;
    integer("format_version", 1, 1, &version);
    c.arch = Arch(one_of("arch", archs, 4,
                         SSM_WHY("metadata missing or not understood, expected s4d, mamba1, mamba2 or mamba3")));
    integer("act_bits", 8, 16, &c.act_bits);
    if (s == Status::ok && c.act_bits != 8 && c.act_bits != 16)
        return blame(fault, Status::bad_config, "act_bits", 8, SSM_WHY("metadata not understood, expected 8 or 16"), 8,
                     c.act_bits);
    const bool s4d = c.arch == Arch::s4d;
    c.state = StateType(1 + one_of("state", states, s4d ? 1 : 2,
                                   s4d ? SSM_WHY("metadata missing or not understood, expected i32")
                                       : SSM_WHY("metadata missing or not understood, expected i32 or i16rowexp")));
    integer("clip_q25", 1, int_max, &c.clip_q25);
    integer("d_model", 1, max_width, &c.d_model), integer(s4d ? "n_layers" : "n_layer", 1, max_layers, &c.n_layers);
    integer("d_input", 1, max_width, &c.d_input), integer("d_output", 1, max_vocab, &c.d_output);
    integer("d_state", 1, s4d ? max_d_state : max_d_state / 2, &c.d_state);
    c.pool = Pool::none;
    if (s4d || find_metadata(ix, "pool") != nullptr)
        c.pool =
            Pool(one_of("pool", pools, 3, SSM_WHY("metadata missing or not understood, expected mean, last or none")));
    if (s4d) {
        c.prenorm = flag("prenorm");
        integer("b_frac", 10, 31, &c.b_frac);
        c.has_gaps = find_tensor(ix, "s4_layers.0.kernel.g") != nullptr;
        if (c.has_gaps && s == Status::ok) // b is shifted by 30 + g_frac - b_frac: 1 to 51
            integer("g_frac", c.b_frac > 29 ? c.b_frac - 29 : 0, c.b_frac + 21, &c.g_frac);
        if (s == Status::ok) s = read_bank(&c, ix, fault);
    } else {
        c.norm = Norm(one_of("norm", norm_kinds, 2,
                             SSM_WHY("metadata missing or not understood, expected rms or layer")));
        integer("mlp_hidden", 0, max_width, &c.mlp_hidden), integer("d_inner", 1, max_width, &c.d_inner);
        c.input = Input(one_of("input", inputs, 3,
                               SSM_WHY("metadata missing or not understood, expected features, tokens or none")));
        const int head =
            one_of("head", heads, 3, SSM_WHY("metadata missing or not understood, expected linear, tied or none"));
        c.has_head = head != 0;
        if (c.input == Input::tokens) integer("vocab_size", 1, max_vocab, &c.vocab_size);
        if (s == Status::ok && (head == 2 ? c.d_output != c.vocab_size : head == 0 && c.d_output != c.d_model))
            return blame(fault, Status::bad_config, "d_output", 8, SSM_WHY("metadata does not agree with the head"),
                         head == 2 ? c.vocab_size : c.d_model, c.d_output);
    }
    if (c.arch == Arch::mamba1) {
        integer("d_conv", 1, max_d_conv, &c.d_conv), integer("dt_rank", 1, max_width, &c.dt_rank);
        c.d_ssm = c.d_inner;
    } else if (!s4d) {
        integer("headdim", 1, max_width, &c.headdim), integer("ngroups", 1, max_width, &c.ngroups);
        c.d_ssm = c.d_inner;
        if (c.arch == Arch::mamba2)
            integer("d_conv", 1, max_d_conv, &c.d_conv), integer("d_ssm", 1, max_width, &c.d_ssm);
        if (s == Status::ok && c.d_ssm % c.headdim != 0)
            return blame(fault, Status::bad_config, "headdim", 7,
                         SSM_WHY("metadata does not divide the width of the mixer"), c.d_ssm, c.headdim);
        if (s == Status::ok) c.nheads = c.d_ssm / c.headdim;
    }
    if (c.arch == Arch::mamba2) {
        c.norm_before_gate = flag("norm_before_gate");
        c.rmsnorm = find_tensor(ix, "layers.0.mixer.norm.weight") != nullptr;
    } else if (c.arch == Arch::mamba3) {
        c.d_ssm = 0, c.is_mimo = flag("is_mimo"), c.is_outproj_norm = flag("is_outproj_norm");
        integer("mimo_rank", 1, c.is_mimo ? max_mimo_rank : 1, &c.mimo_rank);
        integer("rope_angles", 1, c.d_state / 2, &c.rope_angles), integer("a_floor_q26", 0, int_max, &c.A_floor_q26);
        c.softplus_A = one_of("a_activation", activations, 2,
                              SSM_WHY("metadata missing or not understood, expected heavy_tail or softplus")) == 1;
    }
    if (s == Status::ok && (s4d || c.is_mimo) && c.d_state % 2 != 0)
        return bad_key(fault, "d_state",
                       SSM_WHY("metadata is odd, expected an even number of states for S4D and MIMO"));
    if (s != Status::ok) return s;
    return give_config(out, c, fault);
}

SSM_APART Status read_config(Config* out, const Index& ix, Fault* fault) noexcept {
    if (choice(ix, "arch", archs, 4, 0) < 0)
        return bad_key(fault, "arch",
                       SSM_WHY("not an architecture of this build, expected s4d, mamba1, mamba2 or mamba3"));
    const bool  s4d = full_form(ix) || find_tensor(ix, "s4_layers.0.D") != nullptr;
    Config      c;
    Status      s = Status::unsupported;
    json::Token format;
    const bool  integer = metadata(ix, "format", &format) && json::equals(format, "ssm-int");
    if constexpr (integer_in_build)
        if (integer) s = read_integer(&c, ix, fault);
    if constexpr (float_in_build && in_build(Arch::s4d))
        if (s4d && !integer) s = read_s4d(&c, ix, fault);
    if constexpr (float_in_build && mamba_in_build)
        if (!s4d && !integer) s = read_mamba(&c, ix, fault);
    if (s == Status::unsupported)
        return blame(fault, Status::unsupported, "arch", 4,
                     SSM_WHY("this architecture or engine was left out of this build"));
    if (s == Status::ok) *out = c;
    return s;
}

// Looks tensors up, checks them, and remembers the first fault and how many tensors are missing.
struct Binder {
    const Index& ix;
    bool         check_values;
    Fault*       fault;       // null: nobody asks
    const char*  prefix = ""; // of the names of a Mamba model's layers
    Status       status = Status::ok;
    int32_t      missing = 0;

    Binder(const Index& index, bool check, Fault* first) noexcept : ix(index), check_values(check), fault(first) {}

    void fail(Status s, const Name& name, Why why, int64_t want, int64_t got) noexcept {
        if (status == Status::ok) status = blame(fault, s, name.text, name.len, why, want, got);
    }
    void bad_dtype(const Name& name, const Entry& e, Why why) noexcept {
        if (status != Status::ok) return;
        status = blame(fault, Status::bad_dtype, name.text, name.len, why);
        const char* found = dtypes[e.dtype].name; // read_index() takes no other
        if (fault != nullptr) copy(fault->found, found, length_of(found));
    }
    // A tensor of exactly this shape. A dimension of -1 may be anything from 1 up. Null if something is wrong with it.
    const Entry* shaped(const Name& name, int32_t rank, const int64_t* want) noexcept {
        const Entry* found = find_tensor(ix, name.text);
        if (found == nullptr) {
            if (missing++ == 0 && status == Status::ok)
                status = blame(fault, Status::missing_tensor, name.text, name.len, SSM_WHY("missing"));
            return nullptr;
        }
        Entry* e = ix.entries + (found - ix.entries);
        e->used = 1;
        int64_t got[max_rank] = {};
        shape_of(*e, got);
        if (e->rank != rank)
            return fail(Status::bad_shape, name, SSM_WHY("wrong number of dimensions"), rank, e->rank), nullptr;
        for (int32_t k = 0; k < rank; ++k)
            if (got[k] != want[k] && !(want[k] < 0 && got[k] > 0))
                return fail(Status::bad_shape, name, SSM_WHY("a dimension does not fit the model"),
                            want[k] < 0 ? 1 : want[k], got[k]),
                       nullptr;
        return e;
    }
    // Of floats: F32, F16 or BF16, all finite.
    const Entry* tensor(const Name& name, int32_t rank, const int64_t* want) noexcept {
        const Entry* e = shaped(name, rank, want);
        DType        t;
        if (e == nullptr) return nullptr;
        if (!dtype_of(*e, &t)) {
            bad_dtype(name, *e, SSM_WHY("expected dtype F32, F16 or BF16"));
            return nullptr;
        }
        const size_t count = size_t(e->end - e->begin) / (t == DType::f32 ? 4 : 2);
        if (check_values)
            for (size_t i = 0; i < count; ++i)
                if (!is_finite(element(ix.data + e->begin, t, i)))
                    return fail(Status::bad_value, name, SSM_WHY("holds NaN or Inf, at the index given"), 0,
                                int64_t(i)),
                           nullptr;
        return e;
    }
    static bool dtype_of(const Entry& e, DType* t) noexcept {
        static const char* const names[] = {"F32", "F16", "BF16"};
        for (int i = 0; i < 3; ++i)
            if (equal_text(dtypes[e.dtype].name, names[i])) return *t = DType(i), true;
        return false;
    }
    static bool equal_text(const char* a, const char* b) noexcept {
        while (*a != 0 && *a == *b) ++a, ++b;
        return *a == *b;
    }
    float value(const Entry* e, size_t i) const noexcept {
        DType t = DType::f32;
        dtype_of(*e, &t);
        return element(ix.data + e->begin, t, i);
    }
    // Whether a step finds its weights in memory, or nearly so. From the caches, all rows at once are a little faster.
    bool   large() const noexcept { return ix.data_bytes >= uint64_t(8) << 20; }
    Matrix matrix(const Name& name, int64_t rows, int64_t cols,
                  bool conv = false) noexcept { // conv: a third dimension of 1
        const int64_t want[3] = {rows, cols, 1};
        const Entry*  e = tensor(name, conv ? 3 : 2, want);
        Matrix        m;
        if (e == nullptr) return m;
        m.data = ix.data + e->begin, m.rows = int32_t(rows), m.cols = int32_t(cols), m.in_order = large();
        dtype_of(*e, &m.dtype);
        return m;
    }
    // Number k of a tensor of this shape goes to to[at(k)]: up-cast to float, or of I32, from `least` on.
    template <class At>
    float* numbers(const Name& name, int32_t rank, const int64_t* shape, float* to, const At& at,
                   int64_t = INT64_MIN) noexcept {
        const Entry* e = tensor(name, rank, shape);
        for (int64_t k = 0, n = product_of(rank, shape); e != nullptr && k < n; ++k) to[at(k)] = value(e, size_t(k));
        return to;
    }
    template <class At>
    int32_t* numbers(const Name& name, int32_t rank, const int64_t* shape, int32_t* to, const At& at,
                     int64_t least = INT64_MIN) noexcept {
        const unsigned char* p = integers(name, rank, shape, "I32", least);
        for (int64_t k = 0, n = product_of(rank, shape); p != nullptr && k < n; ++k)
            to[at(k)] = int32_t(load_u32(p + 4 * k));
        return to;
    }
    template <class T> T* vector(const Name& name, int64_t n, T* to) noexcept {
        return numbers(name, 1, &n, to, [](int64_t k) { return k; });
    }
    static int64_t product_of(int32_t rank, const int64_t* shape) noexcept {
        int64_t n = 1;
        for (int32_t k = 0; k < rank; ++k) n *= shape[k];
        return n;
    }

    // ---- Of integer models: bytes as in the file, their values checked once.

    // `dtype`: "I8", "I16", "I32", "I64" or "U8". Whole numbers from `least` on, never the least of their type.
    const unsigned char* integers(const Name& name, int32_t rank, const int64_t* want, const char* dtype,
                                  int64_t least = INT64_MIN) noexcept {
        const Entry* e = shaped(name, rank, want);
        if (e == nullptr) return nullptr;
        if (!equal_text(dtypes[e->dtype].name, dtype)) {
            bad_dtype(name, *e,
                      dtype[0] == 'U'   ? SSM_WHY("expected dtype U8 in an integer model")
                      : dtype[0] == 'F' ? SSM_WHY("expected dtype F32 in an integer model")
                      : dtype[1] == '8' ? SSM_WHY("expected dtype I8 in an integer model")
                      : dtype[1] == '1' ? SSM_WHY("expected dtype I16 in an integer model")
                      : dtype[1] == '3' ? SSM_WHY("expected dtype I32 in an integer model")
                                        : SSM_WHY("expected dtype I64 in an integer model"));
            return nullptr;
        }
        const unsigned char* p = ix.data + e->begin;
        const size_t         size = size_t(dtype_bits(e->dtype)) / 8, count = size_t(e->end - e->begin) / size;
        for (size_t i = 0; check_values && dtype[0] == 'I' && size < 8 && i < count; ++i) {
            const unsigned char* at = p + i * size;
            const int64_t        v = size == 1   ? int64_t(static_cast<signed char>(*at))
                                     : size == 2 ? int64_t(int16_t(load_u16(at)))
                                                 : int64_t(int32_t(load_u32(at)));
            if (v == -(int64_t(1) << (8 * size - 1)) || v < least)
                return fail(Status::bad_value, name,
                            SSM_WHY("holds a number that integer models cannot have, at the index given"), 0,
                            int64_t(i)),
                       nullptr;
        }
        return p;
    }
    // float32 scales: normal, positive, below 1. `rows` of them.
    const unsigned char* scales(const Name& name, int64_t rows) noexcept {
        const unsigned char* p = shaped_as(name, rows, "F32");
        for (int64_t i = 0; p != nullptr && i < rows; ++i) {
            const uint32_t E = load_u32(p + 4 * i) >> 23;
            if (E < 1 || E > 126)
                return fail(Status::bad_value, name, SSM_WHY("holds a scale outside (0, 1), at the index given"), 0, i),
                       nullptr;
        }
        return p;
    }
    const unsigned char* shaped_as(const Name& name, int64_t n, const char* dtype) noexcept {
        return integers(name, 1, &n, dtype);
    }
    // A projection NAME: NAME.q4 and .sub for its first rows, .q8 for the others, .scale, perhaps .bias.
    Matrix codes(const Name& name, int64_t rows, int64_t cols) noexcept {
        const auto   part = [&](const char* suffix) { return Name(name).add(suffix); };
        const Entry* e4 = find_tensor(ix, part(".q4").text);
        int64_t      dims[max_rank] = {}, groups = (cols + 31) / 32;
        Matrix       m;
        if (e4 != nullptr) shape_of(*e4, dims);
        const int64_t rows4 = e4 == nullptr ? 0 : dims[0] < rows ? dims[0] : rows;
        const int64_t q4[] = {rows4, groups * 16}, sub[] = {rows4, groups}, q8[] = {rows - rows4, cols};
        m.dtype = e4 != nullptr ? DType::i4 : DType::i8, m.rows = int32_t(rows), m.cols = int32_t(cols),
        m.rows4 = int32_t(rows4), m.in_order = large();
        if (e4 != nullptr) m.data4 = integers(part(".q4"), 2, q4, "U8"), m.sub = integers(part(".sub"), 2, sub, "I8");
        if (rows4 < rows) m.data = integers(part(".q8"), 2, q8, "I8");
        m.scale = scales(part(".scale"), rows);
        if (find_tensor(ix, part(".bias").text) != nullptr) m.bias = shaped_as(part(".bias"), rows, "I32");
        return m;
    }
    bool has_rank(const Name& name, int32_t rank) const noexcept {
        const Entry* e = find_tensor(ix, name.text);
        return e != nullptr && e->rank == rank;
    }
};

SSM_LOCAL int64_t shape0(const Entry& e) noexcept { // rows
    int64_t dims[max_rank] = {};
    shape_of(e, dims);
    return dims[0];
}

// One layer's continuous parameters, whichever spelling the file uses.
struct S4dParameters {
    const Entry *log_dt, *log_A_real, *A_imag, *B, *C;
    int32_t      dt_modes,
        sets;    // log_dt has one number a channel or one a mode; A and B come in `sets`, channel h uses h % sets
    double sign; // of A_imag
};

// a and b of every mode, in double, rounded once.
SSM_LOCAL void prepare_s4d(const Config& c, Binder& bind, const S4dParameters& p, const Name& dt_name,
                           const Name& A_name, const Name& A_imag_name, float* ab, float* cc, float* rho, double* turns,
                           float* gain) noexcept {
    const int32_t H = c.d_model, n = c.d_state / 2;
    fill_zero(ab, modes(c) * 16), fill_zero(cc, modes(c) * 8), fill_zero(rho, modes(c) * 4);
    fill_zero(turns, modes(c) * 8), fill_zero(gain, modes(c) * 8);
    for (int32_t h = 0; h < H; ++h)
        for (int32_t j = 0; j < n; ++j) {
            const size_t at = size_t(h / 8) * size_t(n) + size_t(j), k = size_t(h % 8);
            const size_t from = size_t(h % p.sets) * size_t(n) + size_t(j);
            const double log_dt = static_cast<double>(
                bind.value(p.log_dt, p.dt_modes == 1 ? size_t(h) : size_t(h) * size_t(n) + size_t(j)));
            const double log_A = static_cast<double>(bind.value(p.log_A_real, from));
            if (!(log_dt >= -60.0 && log_dt <= 60.0))
                return bind.fail(Status::bad_value, dt_name, SSM_WHY("a step size is out of range, at the index given"),
                                 0, h);
            if (!(log_A >= -60.0 && log_A <= 60.0))
                return bind.fail(Status::bad_value, A_name,
                                 SSM_WHY("the logarithm of a decay rate is out of range, at the index given"), 0,
                                 int64_t(from));
            double dt, Ar, unused;
            exp_and_expm1_f64(log_dt, &dt, &unused);
            exp_and_expm1_f64(log_A, &Ar, &unused);
            Ar = -Ar;
            const double Ai = p.sign * static_cast<double>(bind.value(p.A_imag, from));
            const double Br = p.B != nullptr ? static_cast<double>(bind.value(p.B, 2 * from)) : 1.0;
            const double Bi = p.B != nullptr ? static_cast<double>(bind.value(p.B, 2 * from + 1)) : 0.0;
            const double x = dt * Ar, y = dt * Ai;
            double       ar, ai, br, bi, gr, gi;
            if (!(y >= -1e9 && y <= 1e9))
                return bind.fail(Status::bad_value, A_imag_name, SSM_WHY("a mode turns too fast, at the index given"),
                                 0, int64_t(from));
            if (c.disc == Disc::zoh) {
                double       e, em, s, co, s2, c2;
                const double t = y / 6.283185307179586477;
                exp_and_expm1_f64(x, &e, &em);
                sincos_turns_f64(t, &s, &co);
                sincos_turns_f64(t / 2, &s2, &c2);
                const double dr = em * co - 2 * s2 * s2, di = e * s, q = 1.0 / (Ar * Ar + Ai * Ai);
                ar = e * co, ai = di;
                gr = (Br * Ar + Bi * Ai) * q, gi = (Bi * Ar - Br * Ai) * q; // B / A
                br = gr * dr - gi * di, bi = gr * di + gi * dr;
                rho[at * 8 + k] = static_cast<float>(x), turns[at * 8 + k] = t;
            } else {
                const double wr = x / 2, wi = y / 2, q = 1.0 / ((1 - wr) * (1 - wr) + wi * wi);
                ar = (1 - wr * wr - wi * wi) * q, ai = 2 * wi * q;
                gr = Br * dt, gi = Bi * dt;
                br = (gr * (1 - wr) - gi * wi) * q, bi = (gr * wi + gi * (1 - wr)) * q;
                rho[at * 8 + k] = static_cast<float>(wr), turns[at * 8 + k] = wi;
            }
            float* to = ab + at * 32 + k;
            to[0] = static_cast<float>(ar), to[8] = static_cast<float>(ai);
            to[16] = static_cast<float>(br), to[24] = static_cast<float>(bi);
            // Rounding must not push |a| past 1: a mode would grow for ever.
            for (;;) {
                const double r = static_cast<double>(to[0]), i = static_cast<double>(to[8]);
                if (r * r + i * i <= 1.0) break;
                float& larger = r * r >= i * i ? to[0] : to[8];
                larger = float_of(bits_of(larger) - 1);
            }
            float* g = gain + at * 16 + k;
            g[0] = static_cast<float>(gr), g[8] = static_cast<float>(gi);
            if (!is_finite(to[16]) || !is_finite(to[24]) || !is_finite(g[0]) || !is_finite(g[8]))
                return bind.fail(Status::bad_value, A_name,
                                 SSM_WHY("makes an input weight that is not finite, at the index given"), 0,
                                 int64_t(from));
            const size_t C_at = (size_t(h) * size_t(n) + size_t(j)) * 2;
            cc[at * 16 + k] = 2.0f * bind.value(p.C, C_at), cc[at * 16 + 8 + k] = 2.0f * bind.value(p.C, C_at + 1);
        }
}

SSM_LOCAL void load_layer(S4dLayer<float>* layer, const Config& c, Binder& bind, int32_t i, Arena* a) noexcept {
    const int64_t H = c.d_model, n = c.d_state / 2;
    const size_t  m = modes(c);
    const bool    full = full_form(bind.ix);
    const auto    floats = [&](size_t count) { return static_cast<float*>(take(a, count * sizeof(float))); };
    const auto    name = [&](const char* rest) { return layer_name("s4_layers.", i, rest); };

    S4dParameters p{};
    const Name    dt_name = name(full ? "layer.kernel.inv_dt" : "kernel.log_dt"),
               A_name = name(full ? "layer.kernel.A_real" : "kernel.log_A_real"),
               A_imag_name = name(full ? "layer.kernel.A_imag" : "kernel.A_imag");
    const int64_t HN2[] = {H, n, 2}, HN[] = {H, n};
    if (full) {
        const Name    B_name = name("layer.kernel.B");
        const int64_t SN[] = {-1, n}, CHN2[] = {1, H, n, 2}, HX[] = {H, -1};
        p.log_dt = bind.tensor(dt_name, 2, HX);
        p.log_A_real = bind.tensor(A_name, 2, SN);
        int64_t dims[max_rank] = {};
        if (p.log_A_real != nullptr) shape_of(*p.log_A_real, dims);
        p.sets = int32_t(dims[0] > 0 && dims[0] <= H ? dims[0] : 1);
        if (dims[0] > H)
            bind.fail(Status::bad_shape, A_name, SSM_WHY("a dimension does not fit the model"), H, dims[0]);
        const int64_t sets_n[] = {p.sets, n}, B_shape[] = {1, p.sets, n, 2};
        p.A_imag = bind.tensor(A_imag_name, 2, sets_n);
        p.B = bind.tensor(B_name, 4, B_shape);
        p.C = bind.tensor(name("layer.kernel.C"), 4, CHN2);
        if (p.log_dt != nullptr) shape_of(*p.log_dt, dims);
        p.dt_modes = int32_t(dims[1]);
        if (p.log_dt != nullptr && dims[1] != 1 && dims[1] != n)
            bind.fail(Status::bad_shape, dt_name, SSM_WHY("a dimension does not fit the model"), n, dims[1]);
        p.sign = -1.0;
    } else {
        p = S4dParameters{bind.tensor(dt_name, 1, &H),
                          bind.tensor(A_name, 2, HN),
                          bind.tensor(A_imag_name, 2, HN),
                          nullptr,
                          bind.tensor(name("kernel.C"), 3, HN2),
                          1,
                          int32_t(H),
                          1.0};
    }
    float * ab = floats(m * 4), *cc = floats(m * 2), *rho = floats(m), *gain = floats(m * 2);
    double* turns = static_cast<double*>(take(a, m * sizeof(double)));
    if (bind.status == Status::ok) prepare_s4d(c, bind, p, dt_name, A_name, A_imag_name, ab, cc, rho, turns, gain);
    layer->ab = ab, layer->c = cc, layer->rho = rho, layer->turns = turns, layer->gain = gain;

    float* D = floats(padded(c.d_model));
    fill_zero(D, padded(c.d_model) * 4);
    const int64_t one_H[] = {1, H};
    if (full) { // D is [1][H] there
        const Entry* e = bind.tensor(name("layer.D"), 2, one_H);
        for (int64_t k = 0; e != nullptr && k < H; ++k) D[k] = bind.value(e, size_t(k));
    } else bind.vector(name("D"), H, D);
    layer->D = D;
    const Name mix = name("output_linear.0.weight");
    layer->mix = bind.matrix(mix, 2 * H, H, bind.has_rank(mix, 3));
    layer->mix_bias = bind.vector(name("output_linear.0.bias"), 2 * H, floats(2 * size_t(H)));
    layer->norm_weight = bind.vector(layer_name("norms.", i, "weight"), H, floats(size_t(H)));
    layer->norm_bias = bind.vector(layer_name("norms.", i, "bias"), H, floats(size_t(H)));
}

SSM_LOCAL void load_layer(S4dLayer<int32_t>* l, const Config& c, Binder& bind, int32_t i, Arena* a) noexcept {
    const int64_t H = c.d_model, n = c.d_state / 2, pairs[] = {H, n, 2};
    const auto    name = [&](const char* rest) { return layer_name("s4_layers.", i, rest); };
    const auto    vector = [&](const Name& of) {
        return bind.vector(of, H, static_cast<int32_t*>(take(a, size_t(H) * 4)));
    };
    l->norm_weight = vector(layer_name("norms.", i, "weight")), l->norm_bias = vector(layer_name("norms.", i, "bias"));
    l->D = vector(name("D"));
    l->a = bind.integers(name("kernel.a"), 3, pairs, "I32"), l->b = bind.integers(name("kernel.b"), 3, pairs, "I32");
    l->C = bind.integers(name("kernel.C"), 3, pairs, "I16"), l->C_scale = bind.scales(name("kernel.C.scale"), H);
    for (int64_t k = 0; l->a != nullptr && k < H * n; ++k) { // |a| <= 1
        const int64_t r = int32_t(load_u32(l->a + 8 * k)), im = int32_t(load_u32(l->a + 8 * k + 4));
        if (r * r > (int64_t(1) << 60) - im * im)
            return bind.fail(Status::bad_value, name("kernel.a"), SSM_WHY("a mode that grows, at the index given"), 0,
                             k);
    }
    if (c.has_gaps) {
        l->rho = bind.integers(name("kernel.rho"), 2, pairs, "I32", 0),
        l->phase = bind.integers(name("kernel.phase"), 2, pairs, "I64");
        l->gain = bind.integers(name("kernel.g"), 3, pairs, "I32");
    }
    l->mix = bind.codes(name("output_linear.0"), 2 * H, H);
}
template <class Layer> SSM_LOCAL const Layer* load_layers(const Config& c, Binder& bind, Arena* a) noexcept {
    auto* const layers = static_cast<Layer*>(take(a, size_t(c.n_layers) * layer_bytes));
    for (int32_t i = 0; i < c.n_layers; ++i) layers[i] = Layer(), load_layer(&layers[i], c, bind, i, a);
    return layers;
}

SSM_LOCAL void load_s4d(Model* m, Binder& bind, Arena* a) noexcept {
    const Config& c = SSM_KNOWN(m->config);
    const auto    floats = [&](int32_t count) { return static_cast<float*>(take(a, size_t(count) * sizeof(float))); };
    m->encoder = bind.matrix(Name().add("encoder.weight"), c.d_model, features_of(c));
    m->encoder_bias = bind.vector(Name().add("encoder.bias"), c.d_model, floats(c.d_model));
    m->s4d = load_layers<S4dLayer<float>>(c, bind, a);
    m->decoder = bind.matrix(Name().add("decoder.weight"), c.d_output, c.d_model);
    m->decoder_bias = bind.vector(Name().add("decoder.bias"), c.d_output, floats(c.d_output));
}

// A Mamba model's layers, in floats or integers T: matrices in place, small tensors in the order of section 7 or 8.
template <class T> struct MambaLoader {
    static constexpr bool integers = !(T(1) / 2 > 0);

    const Config& config;
    Binder&       bind;
    Arena*        arena;
    int32_t       i = 0; // the layer

    T* room(size_t count) noexcept { // zeroed: lanes past the end must not matter
        T* const to = static_cast<T*>(take(arena, count * sizeof(T)));
        fill_zero(to, count * sizeof(T));
        return to;
    }
    Name name(const char* rest) const noexcept {
        return Name().add(bind.prefix).add(layer_name("layers.", i, rest).text);
    }
    T* vector(const Name& of, int64_t n) noexcept { return bind.vector(of, n, room(padded(int32_t(n)))); }
    T* optional(const Name& of, int64_t n) noexcept {
        return find_tensor(bind.ix, of.text) != nullptr ? vector(of, n) : nullptr;
    }
    // Of the layer.
    T*     vector(const char* rest, int64_t n) noexcept { return vector(name(rest), n); }
    T*     optional(const char* rest, int64_t n) noexcept { return optional(name(rest), n); }
    Matrix matrix(const char* rest, int64_t rows, int64_t cols) noexcept {
        if constexpr (integers) return bind.codes(name(rest), rows, cols);
        else return bind.matrix(name(rest).add(".weight"), rows, cols);
    }
    template <class At>
    T* table(const char* rest, int32_t rank, const int64_t* shape, size_t count, const At& at) noexcept {
        return bind.numbers(name(rest), rank, shape, room(count), at);
    }
    // A, number k at at(k): files of floats have its logarithm.
    template <class At> T* rates(int32_t rank, const int64_t* shape, size_t count, const At& at) noexcept {
        const Name of = name(integers ? "mixer.A" : "mixer.A_log");
        T* const   A = bind.numbers(of, rank, shape, room(count), at, 1);
        for (int64_t k = 0, n = Binder::product_of(rank, shape); !integers && k < n; ++k) {
            double       rate, unused;
            const double log_A = static_cast<double>(A[at(k)]);
            if (!(log_A >= -80.0 && log_A <= 80.0)) {
                bind.fail(Status::bad_value, of,
                          SSM_WHY("the logarithm of a decay rate is out of range, at the index given"), 0, k);
                break;
            }
            exp_and_expm1_f64(log_A, &rate, &unused);
            A[at(k)] = static_cast<T>(rate);
        }
        return A;
    }

    void layer(MambaLayer<T>* l) noexcept {
        const Config& c = SSM_KNOWN(config);
        const int64_t d = c.d_model, di = c.d_inner, ds = c.d_ssm, H = c.nheads, P = c.headdim, N = c.d_state;
        const int64_t C = int64_t(conv_dim(c)), K = c.d_conv, rows = int64_t(in_rows(c));
        const int64_t R = config.mimo_rank; // 0 in other cells: no compiler should see that it divides
        const auto    as_it_is = [](int64_t k) { return k; };

        // 1. Around the mixer.
        const auto norm = [&](const char* weight, const char* bias, const T** w, const T** b) {
            *w = vector(weight, d);
            if (c.norm == Norm::layer) *b = vector(bias, d);
        };
        if (!c.bare_mixer) norm("norm.weight", "norm.bias", &l->norm_weight, &l->norm_bias);
        if (c.mlp_hidden > 0) {
            norm("norm2.weight", "norm2.bias", &l->norm2_weight, &l->norm2_bias);
            l->fc1 = matrix("mlp.fc1", 2 * int64_t(c.mlp_hidden), d);
            l->fc2 = matrix("mlp.fc2", d, c.mlp_hidden);
        }
        l->in_proj = matrix("mixer.in_proj", rows, d), l->out_proj = matrix("mixer.out_proj", d, di);

        // 2. Mamba-1 and Mamba-2: biases, conv1d [K][C], decay rates.
        if (!is(c, Arch::mamba3)) {
            if constexpr (!integers) // which have them with their Matrix
                l->in_bias = optional("mixer.in_proj.bias", rows), l->out_bias = optional("mixer.out_proj.bias", d);
            l->conv_bias = optional("mixer.conv1d.bias", C);
            const int64_t shape[] = {C, 1, K}, A_shape[] = {di, N};
            l->conv_w =
                table("mixer.conv1d.weight", 3, shape, size_t(C * K), [&](int64_t k) { return k % K * C + k / K; });

            if (is(c, Arch::mamba1)) {
                l->x_proj = matrix("mixer.x_proj", c.dt_rank + 2 * N, di);
                l->dt_proj = matrix("mixer.dt_proj", di, c.dt_rank);
                l->dt_bias = vector(integers ? "mixer.dt_bias" : "mixer.dt_proj.bias", di);
                l->D = vector("mixer.D", di);
                l->A = rates(2, A_shape, padded(c.d_inner) * size_t(N),
                             [&](int64_t k) { return integers ? k : ((k / N / 8) * N + k % N) * 8 + k / N % 8; });
                return;
            }
            l->dt_bias = vector("mixer.dt_bias", H);
            l->A = rates(1, &H, padded(c.nheads), as_it_is);
            const Entry*  e = find_tensor(bind.ix, name("mixer.D").text);
            int64_t       dims[max_rank] = {};
            const int64_t n = e != nullptr && shape_of(*e, dims) == ds ? ds : H;
            T* const      D = table("mixer.D", 1, &n, padded(c.d_ssm), as_it_is);
            for (int64_t k = ds; n != ds && k-- > 0;) D[k] = D[k / P]; // one for each of a head
            l->D = D;
            if (c.rmsnorm) l->gate_norm = vector("mixer.norm.weight", ds);
            return;
        }

        // 3. Mamba-3: biases of B and C with n in the order of N', of floats in blocks of eight heads.
        const int64_t HRN[] = {H, R, N}, HRP[] = {H, R, P};
        const auto    bias_at = [&](int64_t k) {
            const int64_t h = k / (R * N), r = k / N % R, n = place(c, int32_t(k % N));
            return integers ? k - k % N + n : ((h / 8 * R + r) * N + n) * 8 + h % 8;
        };
        const auto biases = [&](const char* rest) { return table(rest, 3, HRN, head_kn(c), bias_at); };
        const auto ranks = [&](const char* rest) { return table(rest, 3, HRP, size_t(H * R * P), as_it_is); };
        l->dt_bias = vector("mixer.dt_bias", H), l->D = vector("mixer.D", H);
        l->B_norm = vector("mixer.B_norm.weight", N), l->C_norm = vector("mixer.C_norm.weight", N);
        l->B_bias = biases("mixer.B_bias"), l->C_bias = biases("mixer.C_bias");
        if (c.is_outproj_norm) l->gate_norm = vector("mixer.norm.weight", di);
        if (c.is_mimo)
            l->mimo_x = ranks("mixer.mimo_x"), l->mimo_z = ranks("mixer.mimo_z"), l->mimo_o = ranks("mixer.mimo_o");
    }
};
template <class T>
SSM_APART void load_layer(MambaLayer<T>* layer, const Config& c, Binder& bind, int32_t i, Arena* a) noexcept {
    MambaLoader<T>{c, bind, a, i}.layer(layer);
}
SSM_LOCAL void load_mamba(Model* m, Binder& bind, Arena* a) noexcept {
    const Config&      c = SSM_KNOWN(m->config);
    const Names        names(bind.ix);
    MambaLoader<float> load{c, bind, a};
    bind.prefix = names.prefix;
    m->mamba = load_layers<MambaLayer<float>>(c, bind, a);
    if (c.input == Input::tokens) {
        const int64_t rows[] = {-1, c.d_model}; // padded at will
        const Entry*  e = bind.tensor(Name().add(names.embedding), 2, rows);
        if (e != nullptr) m->encoder = bind.matrix(Name().add(names.embedding), shape0(*e), c.d_model);
    } else if (c.input == Input::features) {
        m->encoder = bind.matrix(names.top("input_proj.weight"), c.d_model, c.d_input);
        m->encoder_bias = load.optional(names.top("input_proj.bias"), c.d_model);
    }
    if (!c.bare_mixer) {
        m->norm_f_weight = load.vector(names.top("norm_f.weight"), c.d_model);
        if (c.norm == Norm::layer) m->norm_f_bias = load.vector(names.top("norm_f.bias"), c.d_model);
    }
    if (names.head != nullptr) {
        const int64_t any[] = {-1, c.d_model};
        const Entry*  e = bind.tensor(Name().add(names.head), 2, any);
        if (e != nullptr) m->decoder = bind.matrix(Name().add(names.head), shape0(*e), c.d_model);
        m->decoder.rows = c.d_output; // past these: padding of the vocabulary
        m->decoder_bias = load.optional(Name().add("head.bias"), c.d_output);
    } else if (c.has_head) m->decoder = m->encoder, m->decoder.rows = c.d_output;
}
// An integer model.
SSM_LOCAL void load_integer(Model* m, Binder& bind, Arena* a) noexcept {
    const Config& c = SSM_KNOWN(m->config);
    const int64_t d = c.d_model;
    if (is(c, Arch::s4d)) {
        m->encoder = bind.codes(Name().add("encoder"), d, features_of(c)),
        m->decoder = bind.codes(Name().add("decoder"), c.d_output, d);
        m->s4d_q = load_layers<S4dLayer<int32_t>>(c, bind, a);
    } else if constexpr (mamba_in_build) {
        MambaLoader<int32_t> load{c, bind, a};
        m->mamba_q = load_layers<MambaLayer<int32_t>>(c, bind, a);
        m->norm_f_weight_q = load.vector(Name().add("norm_f.weight"), d);
        if (c.norm == Norm::layer) m->norm_f_bias_q = load.vector(Name().add("norm_f.bias"), d);
        if (c.input == Input::features) m->encoder = bind.codes(Name().add("input_proj"), d, c.d_input);
        if (c.input == Input::tokens) m->encoder = bind.codes(Name().add("embedding"), c.vocab_size, d);
        json::Token head;
        if (c.has_head && metadata(bind.ix, "head", &head) && json::equals(head, "linear"))
            m->decoder = bind.codes(Name().add("head"), c.d_output, d);
        else if (c.has_head) m->decoder = m->encoder, m->decoder.bias = nullptr;
    }
    if (m->encoder.rows4 > 0 || m->decoder.rows4 > 0) // the head goes by parts, an embedding by rows
        bind.fail(Status::unsupported, Name(), SSM_WHY("int4 rows are not for the ends of a model"), 0, 1);
}

// The bank of a model of sound: tables in place. Poles keep y and z in 32 bits, see BankQ.
SSM_APART void load_bank(Model* m, Binder& bind) noexcept {
    const Config& c = SSM_KNOWN(m->config);
    const int64_t shape[] = {c.n_bands, 2}, one = int64_t(1) << 31, most = ((61 << 16) >> c.band_shift) + 16;
    const Name    name = Name().add("frontend.poles");
    m->poles = bind.integers(name, 2, shape, "I32");
    for (int64_t k = 0; m->poles != nullptr && k < c.n_bands; ++k) {
        const int64_t  r = int32_t(load_u32(m->poles + 8 * k)), i = int32_t(load_u32(m->poles + 8 * k + 4));
        const uint64_t square = uint64_t(r * r) + uint64_t(i * i); // |p|^2, Q62
        int64_t        size = 0;                                   // floor of |p|, Q31
        for (int64_t bit = one; bit > 0; bit >>= 1)
            if (uint64_t(size + bit) * uint64_t(size + bit) <= square) size += bit;
        const int64_t g = one - size - 1; // below 1 - |p|
        if (g <= 0 || g * g >> 31 <= most)
            return bind.fail(Status::bad_value, name, SSM_WHY("a resonator too narrow for 32 bits, at the index given"),
                             0, k);
    }
    const auto levels = [&](const char* rest, int64_t lo, int64_t hi) { // Q16
        const Name           of = Name().add("frontend.").add(rest);
        const unsigned char* p = bind.integers(of, 1, shape, "I32");
        for (int64_t k = 0; p != nullptr && k < c.n_bands; ++k)
            if (!between(int32_t(load_u32(p + 4 * k)), lo * 65536, hi * 65536))
                bind.fail(Status::bad_value, of, SSM_WHY("a level that no sound has, at the index given"), 0, k);
        return p;
    };
    m->full = levels("full", 0, 64), m->prior = levels("prior", -64, 0);
}

// Tensors that the model has no place for. Names that golden files use for their expected values are passed over.
SSM_APART Status no_extras(const Index& ix, Fault* fault) noexcept {
    static const char* const passed[] = {"test.", "grad.", "trace.", "golden.", "final.", "state."};
    const Entry*             first = nullptr;
    int64_t                  count = 0;
    for (int32_t i = 0; i < ix.n_entries; ++i) {
        const Entry& e = ix.entries[i];
        bool         pass = e.value != nullptr || e.used != 0;
        for (const char* prefix : passed) {
            const size_t len = length_of(prefix);
            pass |= size_t(e.name_len) >= len && equal_bytes(e.name, prefix, len);
        }
        if (pass) continue;
        ++count;
        if (first == nullptr || e.begin < first->begin) first = &e;
    }
    if (first == nullptr) return Status::ok;
    return blame(fault, Status::extra_tensor, first->name, size_t(first->name_len),
                 SSM_WHY("the model has no place for this tensor; number of such tensors given"), 0, count);
}

SSM_APART Status load_tensors(Model* m, const Index& ix, const LoadOptions& opt, Arena* a, Fault* fault) noexcept {
    const Config& c = SSM_KNOWN(m->config);
    Binder        bind(ix, opt.check_values, fault);
    if constexpr (sound_in_build)
        if (c.n_bands > 0) load_bank(m, bind);
    if constexpr (float_in_build && in_build(Arch::s4d))
        if (is(c, Arch::s4d) && !is_integer(c)) load_s4d(m, bind, a);
    if constexpr (float_in_build && mamba_in_build)
        if (!is(c, Arch::s4d) && !is_integer(c)) load_mamba(m, bind, a);
    if constexpr (integer_in_build)
        if (is_integer(c)) load_integer(m, bind, a);
    if (bind.missing > 0 && bind.status == Status::missing_tensor && fault != nullptr) {
        explain(fault, SSM_WHY("missing; number of missing tensors given"));
        fault->has_numbers = true, fault->got = bind.missing;
    }
    return bind.status;
}

// A hash of every byte of the file, eight at a time: the model's identity in saved states.
SSM_LOCAL uint64_t fingerprint_of(const Blob& b) noexcept {
    const unsigned char* p = static_cast<const unsigned char*>(b.data);
    uint64_t             h = 0x9e3779b97f4a7c15u ^ b.bytes;
    size_t               i = 0;
    const auto           mix = [&h](uint64_t w) { h = (h ^ w) * 0xff51afd7ed558ccdu, h ^= h >> 32; };
    for (; i + 8 <= b.bytes; i += 8) mix(load_u64(p + i));
    uint64_t last = 0;
    for (unsigned k = 0; i < b.bytes; ++i, k += 8) last |= uint64_t(p[i]) << k;
    mix(last);
    return h;
}
SSM_DETAIL_END

SSM_API Status inspect(Config* out, Blob blob, void* memory, size_t bytes, Fault* fault) noexcept {
    Index ix;
    if (out == nullptr) return Status::bad_argument;
    const Status s = read_index(&ix, blob, memory, bytes, fault);
    return s != Status::ok ? s : detail::read_config(out, ix, fault);
}

SSM_API Status load(Model* out, Blob blob, Arena* arena, const LoadOptions& opt, Fault* fault) noexcept {
    using namespace detail;
    if (out == nullptr || arena == nullptr || arena->data == nullptr || arena->used > arena->bytes)
        return Status::bad_argument;
    const Kernels* kernels = kernels_of(opt.isa);
    if (kernels == nullptr)
        return blame(fault, Status::unsupported, "", 0,
                     SSM_WHY("this back-end is not in this build or not on this CPU"));

    // 1. The index stands at the far end of the arena until load() returns.
    Arena        a = *arena;
    const size_t need = index_bytes(blob), left = a.bytes - a.used;
    if (need > left)
        return blame(fault, Status::arena_too_small, "", 0, SSM_WHY("the arena is too small"), int64_t(need),
                     int64_t(left));
    a.bytes -= need;
    Index  ix;
    Status s = read_index(&ix, blob, static_cast<unsigned char*>(a.data) + a.bytes, need, fault);
    if (s != Status::ok) return s;

    // 2. The shape, and room for the tables.
    Model m;
    if ((s = read_config(&m.config, ix, fault)) != Status::ok) return s;
    const Config& c = SSM_KNOWN(m.config);
    if (opt.softplus_A && (c.arch != Arch::mamba3 || is_integer(c)))
        return blame(fault, Status::unsupported, "", 0,
                     SSM_WHY("only a float Mamba-3 model can be told to have a softplus A"));
    m.config.softplus_A |= opt.softplus_A;
    if (opt.expect != nullptr && !same_config(*opt.expect, c))
        return blame(fault, Status::config_mismatch, "", 0,
                     SSM_WHY("the file's shape is not the one this program expects"));
    if (a.bytes - a.used < 16 || a.bytes - a.used - 16 < model_bytes(c))
        return blame(fault, Status::arena_too_small, "", 0, SSM_WHY("the arena is too small"),
                     int64_t(model_bytes(c) + 16 + need), int64_t(left));

    // 3. Every tensor.
    if ((s = load_tensors(&m, ix, opt, &a, fault)) != Status::ok) return s;
    if ((s = no_extras(ix, fault)) != Status::ok) return s;

    // 4. All is well: only now does anything of the caller's change.
    m.kernels = kernels, m.fingerprint = fingerprint_of(blob);
    arena->used = a.used;
    *out = m;
    return Status::ok;
}

SSM_API const char* message(Status s) noexcept {
    switch (s) {
    case Status::ok:
        return "ok";
    case Status::bad_argument:
        return "bad argument";
    case Status::truncated:
        return "the file is shorter than its header says";
    case Status::bad_header:
        return "not a valid safetensors file";
    case Status::bad_config:
        return "does not describe a model this build can run";
    case Status::config_mismatch:
        return "not the model this program was built for";
    case Status::missing_tensor:
        return "a tensor is missing";
    case Status::extra_tensor:
        return "a tensor is unexpected";
    case Status::bad_shape:
        return "a tensor has the wrong shape";
    case Status::bad_dtype:
        return "a tensor has the wrong dtype";
    case Status::bad_value:
        return "a weight cannot be used";
    case Status::arena_too_small:
        return "the memory given is too small";
    case Status::bad_state:
        return "not a state that can be restored";
    case Status::bad_input:
        return "an input is NaN, infinite or out of range";
    case Status::unsupported:
        return "not supported by this build or this model";
    case Status::io:
        return "cannot be read";
    case Status::gpu:
        return "the GPU cannot do it";
    }
    return "unknown status";
}

} // namespace ssm

#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#pragma GCC pop_options
#endif
#pragma pop_macro("F")
#undef SSM_LOCAL
#undef SSM_INLINE
#undef SSM_ALWAYS
#undef SSM_APART
#undef SSM_WHY
#undef SSM_KNOWN
#undef SSM_MEMCPY
#ifdef SSM_TARGET
#undef SSM_TARGET
#endif
#endif // SSM_IMPLEMENTATION

// ---- Licence --------------------------------------------------------------------------------------------------------
//
// MIT License
//
// Copyright (c) the ssm.hpp authors
//
// Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
// documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
// rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to
// permit persons to whom the Software is furnished to do so, subject to the following conditions:
//
// The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
// Software.
//
// THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
// WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
// COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
// OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
