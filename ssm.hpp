// ssm.hpp - small recurrent state-space models, anywhere: one header, no dependency, no heap.
//
// ---- 0. Manual ------------------------------------------------------------------------------------------------------
//
// What it is. A runtime for trained state-space sequence models. It loads a safetensors file in place, keeps the
// model's state in memory that you own, and advances it one event at a time. This version runs S4D (diagonal state
// spaces with the GELU + GLU block of the public code) in float.
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
// a Scratch one user at a time.
//
// Determinism. Sums run in one fixed order on every back-end, multiplications and additions are never fused, and exp,
// sin, erf are made of IEEE operations here, so a model gives the same bits on every CPU with IEEE floats and
// denormals, for every batch size and split. If the host turns on flush-to-zero, results may differ by what it flushes,
// numbers below 1.2e-38.
//
// States. If a model's metadata has `clip`, every part of the state is limited to it after each update; NaN becomes 0.
// Without clip the limit is the largest float. Either way clipped() says if it ever happened. Discretised decays have
// |a| <= 1. Inputs that are NaN, infinite or beyond 1e9 are refused before anything changes, and so are time steps
// outside (0, 2^20].
//
// Files. safetensors with F32, F16 or BF16 tensors under the public names of S4D, either spelling (see section 9), and
// this metadata: prenorm (true, false), pool (mean, last, none), disc (zoh, bilinear), optional clip and arch (s4d).
// Shapes give all else. Tensors whose names begin with test. grad. trace. golden. final. state. are passed over, any
// other surplus tensor is refused. Limits are named constants in section 1.
//
// Macros, all of them:
//
//     SSM_IMPLEMENTATION   code here
//     SSM_STATIC           with the former: a private copy, for this file only
//     SSM_NO_SIMD          scalar kernels only
//     SSM_NO_FILES         without map_file
//
// Back-ends: scalar (everywhere), avx2 (x86-64, chosen at run time). GCC 12 and clang 14 or later; other C++17
// compilers get scalar. 32-bit x86 needs -msse2 -mfpmath=sse; -ffast-math is refused.
//
// Not here yet: other cells than S4D, integer models, other SIMD back-ends, GPUs, Windows beyond map_file (untested).
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

#ifdef SSM_STATIC
#define SSM_API [[maybe_unused]] static
#else
#define SSM_API
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
};
SSM_API const char* message(Status s) noexcept; // a short English phrase; static storage, never null

// Optional detail of a failure. `name`: the tensor or metadata key it is about, as it stands in the file (still
// escaped), cut to fit, NUL-terminated; empty if it is about the whole. `detail`: a constant sentence. `want` and
// `got`: numbers that belong to the sentence, where has_numbers is set.
struct Fault {
    char name[96] = "";
    char found[48] = ""; // what stands there, as in the file and cut to fit: an unknown dtype, a shape; mostly empty
    const char* detail = "";
    bool        has_numbers = false;
    int64_t     want = 0, got = 0;
};

// ---- Config

enum class Arch : uint8_t { s4d };
enum class DType : uint8_t { f32, f16, bf16 };  // of a weight matrix that is used in place
enum class Disc : uint8_t { zoh, bilinear };    // how S4D turns continuous parameters into a step
enum class Pool : uint8_t { none, last, mean }; // what the decoder reads: each step, the last step, the running mean

// Limits, in one place. A file beyond one of them is refused with a message that names it.
constexpr uint64_t max_header_bytes = 100'000'000; // of a safetensors header; the format's own limit
constexpr int32_t  max_depth = 32;                 // nesting of JSON
constexpr int32_t  max_rank = 8;                   // dimensions of a tensor
constexpr int32_t  max_fields = 32;                // fields of one tensor's entry in the header
constexpr int32_t  max_layers = 256;
constexpr int32_t  max_width = 16384; // d_model, d_input, d_output
constexpr int32_t  max_d_state = 512; // N; N/2 modes are stored
constexpr int32_t  max_batch = 65536;
constexpr float    max_input = 1e9f;    // magnitude of an input number
constexpr float    max_dt = 1048576.0f; // time since the previous event, in training steps

// The shape of a model, in the names of the papers. Read from the blob, or a constexpr written by `ssm convert`.
struct Config {
    Arch    arch = Arch::s4d;
    Disc    disc = Disc::zoh;
    Pool    pool = Pool::mean;
    bool    prenorm = false; // LayerNorm in front of each layer (true) or behind its residual sum (false)
    int32_t n_layers = 1;
    int32_t d_input = 1;       // floats per step given by the caller
    int32_t d_output = 1;      // floats per step returned
    int32_t d_model = 8;       // H, channels
    int32_t d_state = 4;       // N, real state size of a channel; N/2 complex modes are stored
    float   state_clip = 0.0f; // every real and imaginary part of the state stays in [-clip, +clip]; 0: off
    int32_t n_entries = 0;     // entries in the file's header (tensors and metadata); only sizes load()'s workspace
};
constexpr bool operator==(const Config& a, const Config& b) noexcept {
    return a.arch == b.arch && a.disc == b.disc && a.pool == b.pool && a.prenorm == b.prenorm &&
           a.n_layers == b.n_layers && a.d_input == b.d_input && a.d_output == b.d_output && a.d_model == b.d_model &&
           a.d_state == b.d_state && a.state_clip == b.state_clip;
}
SSM_API bool valid(const Config& c) noexcept; // ranges, and that no size below can overflow

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
struct State {
    void*  data = nullptr;
    size_t bytes = 0;
}; // plain bytes, no pointers; one writer at a time
struct Scratch {
    void*   data = nullptr;
    size_t  bytes = 0;
    int32_t batch = 0;
}; // holds nothing between calls; one a thread

struct Layer;   // weights of one layer: pointers into blob and arena
struct Kernels; // the functions of one back-end

// A weight matrix used in place: [rows][cols], row-major, little-endian, at any alignment.
struct Matrix {
    const unsigned char* data = nullptr;
    int32_t              rows = 0, cols = 0;
    DType                dtype = DType::f32;
};

struct Model { // read-only after load(); any number of threads may share it
    Config         config;
    Matrix         encoder, decoder;
    const float*   encoder_bias = nullptr;
    const float*   decoder_bias = nullptr;
    const Layer*   layers = nullptr;
    const Kernels* kernels = nullptr; // the back-end for this CPU
    uint64_t       fingerprint = 0;   // of every byte of the blob; stamped into saved states
};

// Sizes. constexpr, so firmware can declare its buffers statically. `batch`: rows one call may work on at a time.
constexpr size_t state_bytes(const Config& c) noexcept;                      // one stream
constexpr size_t scratch_bytes(const Config& c, int32_t batch = 1) noexcept; // temporaries
constexpr size_t model_bytes(const Config& c) noexcept;                      // the tables load() builds
constexpr size_t saved_bytes(const Config& c) noexcept;                      // what save() writes
constexpr size_t arena_bytes(const Config& c, int32_t n_states = 1, int32_t batch = 1) noexcept; // all of it

// ---- Loading

enum class Isa : uint8_t { best, scalar, avx2 };
struct LoadOptions {
    Isa           isa = Isa::best;     // tests force a back-end here
    const Config* expect = nullptr;    // firmware: refuse any blob whose shape is not exactly this
    bool          check_values = true; // look for NaN and Inf in every weight (reads the whole file once)
};
SSM_API const char* isa_name(Isa isa) noexcept;      // "best", "scalar", "avx2"; null past the last
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

// Back to the all-zero state of a fresh stream. To fork a stream, memcpy its bytes.
SSM_API void reset(const Model& m, State* s) noexcept;

SSM_API uint64_t steps_of(const Model& m, const State& s) noexcept; // events since the last reset
SSM_API bool     clipped(const Model& m, const State& s) noexcept; // sticky: a part of the state was limited or was NaN

// Little-endian bytes with a header (magic, version, fingerprint, shape) and a CRC-32, which guards against accidents,
// not against intent. save() returns the bytes written; the bytes needed if dst is null; 0 if cap is too small. A saved
// state restores to bit-identical scores on any machine. restore() refuses anything else and then leaves `s` as it was.
SSM_API size_t save(const Model& m, const State& s, void* dst, size_t cap) noexcept;
SSM_API Status restore(const Model& m, State* s, const void* src, size_t bytes, Fault* fault = nullptr) noexcept;

SSM_API const char* isa_name(const Model& m) noexcept; // "scalar", "avx2", ...

// ---- Files (not under SSM_NO_FILES)

#ifndef SSM_NO_FILES
SSM_API Status map_file(Blob* out, const char* path) noexcept; // a read-only mapping of a regular, non-empty file
SSM_API void   unmap_file(Blob* blob) noexcept;
#endif

// ---- Sizes, spelled out

namespace detail {
constexpr size_t padded(int32_t n) noexcept { return (size_t(n) + 7) / 8 * 8; } // channels come in blocks of eight
constexpr size_t modes(const Config& c) noexcept { return size_t(c.d_state / 2) * padded(c.d_model); } // of one layer
constexpr size_t aligned(size_t bytes) noexcept { return (bytes + 15) / 16 * 16; }
constexpr size_t state_header_bytes = 16; // uint64 steps, uint32 flags, uint32 unused
constexpr size_t saved_header_bytes = 64;
constexpr size_t layer_bytes = 16 * sizeof(void*); // at least sizeof(Layer)
constexpr size_t pool_floats(const Config& c) noexcept { return c.pool == Pool::mean ? padded(c.d_model) : 0; }
} // namespace detail

// State: header, running mean [H padded] if pooling is mean, then per layer [block of 8 channels][mode][re im][8].
constexpr size_t state_bytes(const Config& c) noexcept {
    return detail::state_header_bytes + (detail::pool_floats(c) + size_t(c.n_layers) * detail::modes(c) * 2) * 4;
}
// Scratch: per row r, z [H padded] and v [2 H padded]; one layer's discarded state and its a, b for a given dt.
constexpr size_t scratch_bytes(const Config& c, int32_t batch) noexcept {
    return detail::aligned((size_t(batch) * 4 * detail::padded(c.d_model) + detail::modes(c) * 6) * 4);
}
constexpr size_t model_bytes(const Config& c) noexcept {
    const size_t h = size_t(c.d_model), per_layer = detail::layer_bytes + 2 * detail::aligned(4 * h) +
                                                    detail::aligned(8 * h) +
                                                    detail::aligned(4 * detail::padded(c.d_model)) +
                                                    detail::modes(c) * (4 + 2 + 1 + 2 + 2) * 4;
    return detail::aligned(4 * h) + detail::aligned(4 * size_t(c.d_output)) + size_t(c.n_layers) * per_layer;
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
// the code says so, because the same bits on every machine depend on it. Exports SSM_LOCAL, SSM_INLINE, SSM_TARGET,
// SSM_MEMCPY and SSM_HAS_* for the back-ends this compiler can build.

#include <float.h>
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0
#error "ssm.hpp needs float arithmetic in float precision; on 32-bit x86 compile with -msse2 -mfpmath=sse"
#endif
#if defined(__FAST_MATH__)
#error "ssm.hpp cannot keep its promises under -ffast-math"
#endif

#define SSM_LOCAL [[maybe_unused]] static
#if defined(__GNUC__)
#define SSM_INLINE inline __attribute__((always_inline))
#define SSM_MEMCPY __builtin_memcpy
#else
#include <string.h>
#define SSM_INLINE inline
#define SSM_MEMCPY memcpy
#endif
#if defined(__GNUC__) && defined(__x86_64__) && !defined(SSM_NO_SIMD)
#define SSM_HAS_AVX2 1
#define SSM_TARGET(features) __attribute__((target(features)))
#include <cpuid.h>
#include <immintrin.h>
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#endif
#if defined(__GNUC__) // vectors never cross a call that is not inlined; gcc says so at the end of the file, so never
                      // popped
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

#ifndef SSM_NO_FILES // used by section 12 alone
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
// ---- 3. Small things ------------------------------------------------------------------------------------------------
//
// Byte-wise memory access that works at any alignment and byte order, conversions between number formats, and the one
// way to fill a Fault. Exports copy, fill_zero, equal_bytes, load_*, store_*, f16_to_f32, bf16_to_f32, blame.

namespace detail {

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

// Little-endian numbers at any address. Compilers turn these into single loads where the target allows it.
SSM_INLINE uint16_t load_u16(const unsigned char* p) noexcept { return uint16_t(p[0] | unsigned(p[1]) << 8); }
SSM_INLINE uint32_t load_u32(const unsigned char* p) noexcept {
    return uint32_t(p[0]) | uint32_t(p[1]) << 8 | uint32_t(p[2]) << 16 | uint32_t(p[3]) << 24;
}
SSM_INLINE uint64_t load_u64(const unsigned char* p) noexcept { return load_u32(p) | uint64_t(load_u32(p + 4)) << 32; }
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

// Records what went wrong; `fault` may be null. Returns `s` so that callers can write `return blame(...)`.
SSM_LOCAL Status blame(Fault* fault, Status s, const char* name, size_t name_len, const char* detail) noexcept {
    if (fault != nullptr) {
        *fault = Fault();
        size_t n = name_len < sizeof fault->name - 1 ? name_len : sizeof fault->name - 1;
        copy(fault->name, name, n);
        fault->name[n] = 0;
        fault->detail = detail;
    }
    return s;
}
SSM_LOCAL Status blame(Fault* fault, Status s, const char* name, size_t name_len, const char* detail, int64_t want,
                       int64_t got) noexcept {
    (void)blame(fault, s, name, name_len, detail);
    if (fault != nullptr) {
        fault->has_numbers = true;
        fault->want = want;
        fault->got = got;
    }
    return s;
}
} // namespace detail
// ---- 4. Maths -------------------------------------------------------------------------------------------------------
//
// Elementary functions without libm, made of +, -, * and / alone, so that every machine gets the same bits. Each is
// written once, for F = float or for F = a vector of eight floats (a compiler vector type; the back-ends in section 6
// use it). The ..._f64 forms serve load(), which prepares parameters in double. Stated errors are against exact values;
// tests/maths.cpp measures them. Exports exp, expm1, sigmoid, normal_cdf, sincos_turns, rsqrt.

namespace detail {

// Lane operations that operators do not give. A mask has all bits set or none in each lane.
template <class F> struct lanes;
template <> struct lanes<float> {
    using I = int32_t;
    static SSM_INLINE float set(float x) noexcept { return x; }
    static SSM_INLINE I     bits(float x) noexcept { return bits_of(x); }
    static SSM_INLINE float from_bits(I i) noexcept { return float_of(i); }
    static SSM_INLINE I     less(float a, float b) noexcept { return -int32_t(a < b); }
    static SSM_INLINE I     shl(I i, int s) noexcept { return int32_t(uint32_t(i) << s); }
};
#if defined(__GNUC__)
typedef float   f32x8 __attribute__((vector_size(32)));
typedef int32_t i32x8 __attribute__((vector_size(32)));
template <> struct lanes<f32x8> {
    using I = i32x8;
    static SSM_INLINE f32x8 set(float x) noexcept { return f32x8{x, x, x, x, x, x, x, x}; }
    static SSM_INLINE I     bits(const f32x8& x) noexcept { return reinterpret_cast<i32x8>(x); }
    static SSM_INLINE f32x8 from_bits(const I& i) noexcept { return reinterpret_cast<f32x8>(i); }
    static SSM_INLINE I     less(const f32x8& a, const f32x8& b) noexcept { return a < b; }
    static SSM_INLINE I     shl(const I& i, int s) noexcept { return i << s; }
};
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

// 1 / (1 + exp(-x)). Relative error below 3e-7 for x > -87; monotone to 0 below.
template <class F> SSM_INLINE F sigmoid(const F& x) noexcept {
    using L = lanes<F>;
    F e = exp_f32(F(-magnitude(x)));
    F d = L::set(1.0f) / (e + 1.0f);
    return select(L::less(x, L::set(0.0f)), F(e * d), d);
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
} // namespace detail

// ---- 5. Kernels -----------------------------------------------------------------------------------------------------
//
// The loops that carry the work, each with its contract. The scalar version *is* the specification: a back-end must
// give its bits. No kernel allocates, keeps state or needs alignment; all lengths work. Sums over inputs run in eight
// interleaved partial sums joined by one fixed tree (sum_lanes); sums over modes run in order. Exports Kernels and
// scalar.

struct Kernels {
    const char* name;

    // y[i * y_stride + o] = sum_k W[o][k] x[i * x_stride + k] + bias[o], for i < n; bias may be null.
    void (*matmul)(float* y, int32_t y_stride, const Matrix& W, const float* bias, const float* x, int32_t x_stride,
                   int32_t n);

    // The S4D recurrence for T steps. Channels come in blocks of eight; ab is [block][mode][ar ai br bi][8], c is
    // [block][mode][cr ci][8] (with the factor 2 of the conjugate modes), D is [H padded]; the state h_in, h_out is
    // [block][mode][re im][8]. u and s are [T][stride]. Per step, channel and mode:
    //     xr' = clip((ar xr - ai xi) + br u),  xi' = clip((ar xi + ai xr) + bi u),  s = sum_j (cr xr' - ci xi') + D u
    // h_in may be h_out. clip > 0; NaN is clipped to 0. Returns whether anything was clipped.
    bool (*s4d_scan)(const float* ab, const float* c, const float* D, const float* h_in, float* h_out, const float* u,
                     float* s, int32_t stride, int32_t T, int32_t blocks, int32_t modes, float clip);

    // ab for a step of dt times the trained one: zoh from rates (rho = Re z, turns = Im z / 2 pi) and gain (B / A),
    // bilinear from rates (Re z / 2, turns: Im z / 2) and gain (B dt). z = A dt. rho, gain: as ab's layout with 1 and 2
    // planes.
    void (*s4d_discretize)(float* ab, const float* rho, const double* turns, const float* gain, float dt, Disc disc,
                           int32_t count); // count: blocks * modes

    void (*gelu)(float* y, const float* x, int32_t n); // y = x Phi(x); y may be x
    void (*glu)(float* r, const float* v, int32_t n);  // r += v[0..n) * sigmoid(v[n..2n))
    void (*layer_norm)(float* y, const float* x, const float* weight, const float* bias, int32_t n); // y may be x
};

namespace detail {

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

// Eight floats at a time for F = f32x8, one for F = float; a short last group is filled up with zeros.
template <class F> constexpr int32_t width = int32_t(sizeof(F) / sizeof(float));
template <class F> SSM_INLINE F      load(const float* p, int32_t count) noexcept {
         F v = lanes<F>::set(0.0f);
         if (width<F> == 1 || count >= width<F>) SSM_MEMCPY(&v, p, sizeof(F));
    else
        for (int32_t k = 0; k < count; ++k) SSM_MEMCPY(reinterpret_cast<unsigned char*>(&v) + 4 * k, p + k, 4);
    return v;
}
template <class F> SSM_INLINE void store(float* p, const F& v, int32_t count) noexcept {
    if (width<F> == 1 || count >= width<F>) SSM_MEMCPY(p, &v, sizeof(F));
    else
        for (int32_t k = 0; k < count; ++k) SSM_MEMCPY(p + k, reinterpret_cast<const unsigned char*>(&v) + 4 * k, 4);
}

// The element-wise kernels, for any F.
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

// a, b of eight channels of one mode.
template <class F>
SSM_INLINE void discretize_loop(float* ab, const float* rho, const double* turns, const float* gain, float dt,
                                Disc disc, int32_t count) noexcept {
    using L = lanes<F>;
    for (int32_t i = 0; i < count; ++i, ab += 32, rho += 8, turns += 8, gain += 16) {
        float angle[8];
        for (int k = 0; k < 8; ++k)
            angle[k] = disc == Disc::zoh ? turn_fraction(turns[k], dt) : static_cast<float>(turns[k]) * dt;
        for (int32_t k = 0; k < 8; k += width<F>) {
            const F gr = load<F>(gain + k, 8), gi = load<F>(gain + 8 + k, 8);
            F       x = load<F>(rho + k, 8) * dt, t = load<F>(angle + k, 8), ar, ai, br, bi;
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
            store(ab + k, ar, 8), store(ab + 8 + k, ai, 8), store(ab + 16 + k, br, 8), store(ab + 24 + k, bi, 8);
        }
    }
}

// The clip: NaN becomes 0. Notes in `hit` that something changed.
SSM_INLINE float limit(float x, float clip, bool* hit) noexcept {
    float y = x > clip ? clip : x < -clip ? -clip : x == x ? x : 0.0f;
    *hit |= !(y == x);
    return y;
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

    static bool s4d_scan(const float* ab, const float* c, const float* D, const float* h_in, float* h_out,
                         const float* u, float* s, int32_t stride, int32_t T, int32_t blocks, int32_t modes,
                         float clip) {
        bool hit = false;
        for (int32_t b = 0; b < blocks; ++b) {
            const ptrdiff_t at = ptrdiff_t(b) * modes;
            for (int32_t t = 0; t < T; ++t) {
                const float* h_old = t == 0 ? h_in : h_out;
                for (int32_t k = 0; k < 8; ++k) {
                    const float uk = u[ptrdiff_t(t) * stride + b * 8 + k];
                    float       sum = 0.0f;
                    for (int32_t j = 0; j < modes; ++j) {
                        const float *p = ab + (at + j) * 32 + k, *q = c + (at + j) * 16 + k;
                        const float* x = h_old + (at + j) * 16 + k;
                        float        xr = x[0], xi = x[8];
                        float        r = limit((p[0] * xr - p[8] * xi) + p[16] * uk, clip, &hit);
                        float        i = limit((p[0] * xi + p[8] * xr) + p[24] * uk, clip, &hit);
                        float*       to = h_out + (at + j) * 16 + k;
                        to[0] = r, to[8] = i;
                        sum += q[0] * r - q[8] * i;
                    }
                    s[ptrdiff_t(t) * stride + b * 8 + k] = sum + D[b * 8 + k] * uk;
                }
            }
        }
        return hit;
    }

    static void s4d_discretize(float* ab, const float* rho, const double* turns, const float* gain, float dt, Disc disc,
                               int32_t count) {
        discretize_loop<float>(ab, rho, turns, gain, dt, disc, count);
    }
    static void gelu(float* y, const float* x, int32_t n) { gelu_loop<float>(y, x, n); }
    static void glu(float* r, const float* v, int32_t n) { glu_loop<float>(r, v, n); }
    static void layer_norm(float* y, const float* x, const float* weight, const float* bias, int32_t n) {
        layer_norm_loop<float>(y, x, weight, bias, n);
    }
};
} // namespace detail

// ---- 6. Back-ends ---------------------------------------------------------------------------------------------------
//
// Each is a struct that inherits the scalar kernels and hides those it does better, with the same bits. The only place
// in this file with an intrinsic. Exports avx2.

namespace detail {

#if defined(SSM_HAS_AVX2)
#define SSM_AVX2 SSM_TARGET("avx2,f16c")
struct avx2 : scalar {
    static constexpr const char* name = "avx2";

    // Eight weights, up-cast.
    template <DType T>
    static inline __attribute__((always_inline)) SSM_AVX2 __m256 weights(const unsigned char* p) noexcept {
        if constexpr (T == DType::f32) return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
        else if constexpr (T == DType::f16)
            return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
        else
            return _mm256_castsi256_ps(
                _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
    }
    // The fixed tree over the eight partial sums of four rows at once: lane r of the result is row r's sum.
    static inline __attribute__((always_inline)) SSM_AVX2 __m128 join(__m256 a, __m256 b, __m256 c, __m256 d) noexcept {
        __m128 p = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)); // s0+s4 s1+s5 s2+s6 s3+s7
        __m128 q = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
        __m128 r = _mm_add_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1));
        __m128 s = _mm_add_ps(_mm256_castps256_ps128(d), _mm256_extractf128_ps(d, 1));
        _MM_TRANSPOSE4_PS(p, q, r, s);
        return _mm_add_ps(_mm_add_ps(p, r), _mm_add_ps(q, s));
    }
    // R rows (1, 4 or 8) of one product. The last group of columns is read through a zero-padded copy.
    template <DType T, int R>
    static inline __attribute__((always_inline)) SSM_AVX2 void
    rows(float* y, const unsigned char* w, size_t row_bytes, const float* bias, const float* x, int32_t cols) noexcept {
        constexpr int        size = T == DType::f32 ? 4 : 2;
        __m256               s0 = _mm256_setzero_ps(), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
        const size_t         step4 = R >= 4 ? row_bytes : 0, step8 = R == 8 ? row_bytes : 0;
        const unsigned char *w1 = w + step4, *w2 = w1 + step4, *w3 = w2 + step4;
        const unsigned char *w4 = w3 + step8, *w5 = w4 + step8, *w6 = w5 + step8, *w7 = w6 + step8;
        int32_t              k = 0;
        for (; k + 8 <= cols; k += 8) {
            const __m256    v = _mm256_loadu_ps(x + k);
            const ptrdiff_t at = ptrdiff_t(k) * size;
            s0 = _mm256_add_ps(s0, _mm256_mul_ps(weights<T>(w + at), v));
            if constexpr (R >= 4) {
                s1 = _mm256_add_ps(s1, _mm256_mul_ps(weights<T>(w1 + at), v));
                s2 = _mm256_add_ps(s2, _mm256_mul_ps(weights<T>(w2 + at), v));
                s3 = _mm256_add_ps(s3, _mm256_mul_ps(weights<T>(w3 + at), v));
            }
            if constexpr (R == 8) {
                s4 = _mm256_add_ps(s4, _mm256_mul_ps(weights<T>(w4 + at), v));
                s5 = _mm256_add_ps(s5, _mm256_mul_ps(weights<T>(w5 + at), v));
                s6 = _mm256_add_ps(s6, _mm256_mul_ps(weights<T>(w6 + at), v));
                s7 = _mm256_add_ps(s7, _mm256_mul_ps(weights<T>(w7 + at), v));
            }
        }
        if (k < cols) {
            alignas(32) float         v8[8] = {0, 0, 0, 0, 0, 0, 0, 0};
            alignas(32) unsigned char tail[8][32] = {};
            const size_t              bytes = size_t(cols - k) * size;
            copy(v8, x + k, size_t(cols - k) * 4);
            for (int r = 0; r < R; ++r) copy(tail[r], w + size_t(r) * row_bytes + size_t(k) * size, bytes);
            const __m256 v = _mm256_load_ps(v8);
            s0 = _mm256_add_ps(s0, _mm256_mul_ps(weights<T>(tail[0]), v));
            if constexpr (R >= 4) {
                s1 = _mm256_add_ps(s1, _mm256_mul_ps(weights<T>(tail[1]), v));
                s2 = _mm256_add_ps(s2, _mm256_mul_ps(weights<T>(tail[2]), v));
                s3 = _mm256_add_ps(s3, _mm256_mul_ps(weights<T>(tail[3]), v));
            }
            if constexpr (R == 8) {
                s4 = _mm256_add_ps(s4, _mm256_mul_ps(weights<T>(tail[4]), v));
                s5 = _mm256_add_ps(s5, _mm256_mul_ps(weights<T>(tail[5]), v));
                s6 = _mm256_add_ps(s6, _mm256_mul_ps(weights<T>(tail[6]), v));
                s7 = _mm256_add_ps(s7, _mm256_mul_ps(weights<T>(tail[7]), v));
            }
        }
        if constexpr (R == 1) {
            *y = _mm_cvtss_f32(join(s0, s0, s0, s0)) + (bias != nullptr ? *bias : 0.0f);
            return;
        }
        const __m128 zero = _mm_setzero_ps();
        if constexpr (R >= 4)
            _mm_storeu_ps(y, _mm_add_ps(join(s0, s1, s2, s3), bias != nullptr ? _mm_loadu_ps(bias) : zero));
        if constexpr (R == 8)
            _mm_storeu_ps(y + 4, _mm_add_ps(join(s4, s5, s6, s7), bias != nullptr ? _mm_loadu_ps(bias + 4) : zero));
    }
    // Rows o.. in groups of R over all n inputs, so that a group stays in the first-level cache. Returns the next row.
    template <DType T, int R>
    static SSM_AVX2 int32_t groups(int32_t o, float* y, int32_t y_stride, const Matrix& W, const float* bias,
                                   const float* x, int32_t x_stride, int32_t n) noexcept {
        const size_t row_bytes = size_t(W.cols) * (T == DType::f32 ? 4 : 2);
        for (; o + R <= W.rows; o += R)
            for (int32_t i = 0; i < n; ++i)
                rows<T, R>(y + ptrdiff_t(i) * y_stride + o, W.data + size_t(o) * row_bytes, row_bytes,
                           bias != nullptr ? bias + o : nullptr, x + ptrdiff_t(i) * x_stride, W.cols);
        return o;
    }
    template <DType T>
    static SSM_AVX2 void matmul_of(float* y, int32_t y_stride, const Matrix& W, const float* bias, const float* x,
                                   int32_t x_stride, int32_t n) noexcept {
        int32_t o = groups<T, 8>(0, y, y_stride, W, bias, x, x_stride, n);
        o = groups<T, 4>(o, y, y_stride, W, bias, x, x_stride, n);
        groups<T, 1>(o, y, y_stride, W, bias, x, x_stride, n);
    }
    static void matmul(float* y, int32_t y_stride, const Matrix& W, const float* bias, const float* x, int32_t x_stride,
                       int32_t n) {
        switch (W.dtype) {
        case DType::f32:
            matmul_of<DType::f32>(y, y_stride, W, bias, x, x_stride, n);
            break;
        case DType::f16:
            matmul_of<DType::f16>(y, y_stride, W, bias, x, x_stride, n);
            break;
        case DType::bf16:
            matmul_of<DType::bf16>(y, y_stride, W, bias, x, x_stride, n);
            break;
        }
    }

    // One step of one block without the clip, watching the largest magnitude; where that passes the clip (or is NaN)
    // the new state is walked again, limited and read out. Limiting is element-wise, so this is the specified step.
    static SSM_AVX2 bool s4d_scan(const float* ab, const float* c, const float* D, const float* h_in, float* h_out,
                                  const float* u, float* s, int32_t stride, int32_t T, int32_t blocks, int32_t modes,
                                  float clip) {
        bool          hit = false;
        const __m256i abs = _mm256_set1_epi32(0x7fffffff);
        const __m256i bound = _mm256_set1_epi32(bits_of(clip));
        for (int32_t b = 0; b < blocks; ++b) {
            const ptrdiff_t at = ptrdiff_t(b) * modes;
            const float *   p_end = ab + (at + modes) * 32, *h = h_in + at * 16;
            const __m256    d = _mm256_loadu_ps(D + b * 8);
            float*          to_first = h_out + at * 16;
            for (int32_t t = 0; t < T; ++t, h = to_first) {
                const __m256 v = _mm256_loadu_ps(u + ptrdiff_t(t) * stride + b * 8);
                __m256       sum = _mm256_setzero_ps();
                __m256i      top = _mm256_setzero_si256();
                const float *q = c + at * 16, *x = h;
                float*       to = to_first;
                for (const float* p = ab + at * 32; p != p_end; p += 32, q += 16, x += 16, to += 16) {
                    const __m256 xr = _mm256_loadu_ps(x), xi = _mm256_loadu_ps(x + 8);
                    const __m256 ar = _mm256_loadu_ps(p), ai = _mm256_loadu_ps(p + 8);
                    const __m256 r = _mm256_add_ps(_mm256_sub_ps(_mm256_mul_ps(ar, xr), _mm256_mul_ps(ai, xi)),
                                                   _mm256_mul_ps(_mm256_loadu_ps(p + 16), v));
                    const __m256 i = _mm256_add_ps(_mm256_add_ps(_mm256_mul_ps(ar, xi), _mm256_mul_ps(ai, xr)),
                                                   _mm256_mul_ps(_mm256_loadu_ps(p + 24), v));
                    _mm256_storeu_ps(to, r);
                    _mm256_storeu_ps(to + 8, i);
                    top = _mm256_max_epi32(top, _mm256_and_si256(_mm256_castps_si256(r), abs));
                    top = _mm256_max_epi32(top, _mm256_and_si256(_mm256_castps_si256(i), abs));
                    sum = _mm256_add_ps(sum, _mm256_sub_ps(_mm256_mul_ps(_mm256_loadu_ps(q), r),
                                                           _mm256_mul_ps(_mm256_loadu_ps(q + 8), i)));
                }
                if (_mm256_movemask_epi8(_mm256_cmpgt_epi32(top, bound)) != 0)
                    sum = limited(to_first, c + at * 16, modes, clip, &hit);
                _mm256_storeu_ps(s + ptrdiff_t(t) * stride + b * 8, _mm256_add_ps(sum, _mm256_mul_ps(d, v)));
            }
        }
        return hit;
    }
    static SSM_AVX2 __m256 limited(float* h, const float* c, int32_t modes, float clip, bool* hit) noexcept {
        alignas(32) float sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        for (int32_t j = 0; j < modes; ++j, h += 16, c += 16)
            for (int k = 0; k < 8; ++k) {
                h[k] = limit(h[k], clip, hit);
                h[k + 8] = limit(h[k + 8], clip, hit);
                sum[k] += c[k] * h[k] - c[k + 8] * h[k + 8];
            }
        return _mm256_load_ps(sum);
    }
    static SSM_AVX2 void s4d_discretize(float* ab, const float* rho, const double* turns, const float* gain, float dt,
                                        Disc disc, int32_t count) {
        discretize_loop<f32x8>(ab, rho, turns, gain, dt, disc, count);
    }
    static SSM_AVX2 void gelu(float* y, const float* x, int32_t n) { gelu_loop<f32x8>(y, x, n); }
    static SSM_AVX2 void glu(float* r, const float* v, int32_t n) { glu_loop<f32x8>(r, v, n); }
    static SSM_AVX2 void layer_norm(float* y, const float* x, const float* weight, const float* bias, int32_t n) {
        layer_norm_loop<f32x8>(y, x, weight, bias, n);
    }
};
#undef SSM_AVX2
#endif
} // namespace detail

// ---- 7. Choosing a back-end -----------------------------------------------------------------------------------------
//
// One table of function pointers a back-end, and the question what this CPU can run. load() asks once and keeps the
// answer in the Model: no global, nothing lazy. Exports kernels_of, isa_name, isa_runs_here.

namespace detail {

template <class K>
inline constexpr Kernels table{K::name,  &K::matmul, &K::s4d_scan,  &K::s4d_discretize,
                               &K::gelu, &K::glu,    &K::layer_norm};

#if defined(SSM_HAS_AVX2)
// AVX2 and F16C in the CPU, and the operating system saves the wide registers.
SSM_LOCAL bool cpu_has_avx2() noexcept {
    unsigned a = 0, b = 0, c = 0, d = 0, lo = 0, hi = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return false;
    const unsigned osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    if ((c & (osxsave | avx | f16c)) != (osxsave | avx | f16c)) return false;
    __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (lo & 6u) == 6u && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1u << 5) != 0;
}
#endif

SSM_LOCAL const Kernels* kernels_of(Isa isa) noexcept { // null: not on this machine or not in this build
    switch (isa) {
    case Isa::best:
#if defined(SSM_HAS_AVX2)
    case Isa::avx2:
        if (cpu_has_avx2()) return &table<avx2>;
        if (isa == Isa::avx2) return nullptr;
#endif
        return &table<scalar>;
    case Isa::scalar:
        return &table<scalar>;
    default:
        return nullptr;
    }
}
} // namespace detail

SSM_API const char* isa_name(Isa isa) noexcept {
    switch (isa) {
    case Isa::best:
        return "best";
    case Isa::scalar:
        return "scalar";
    case Isa::avx2:
        return "avx2";
    }
    return nullptr;
}
SSM_API bool isa_runs_here(Isa isa) noexcept { return detail::kernels_of(isa) != nullptr; }

// ---- 8. Model parts -------------------------------------------------------------------------------------------------
//
// What a loaded layer is, how a state and a scratch are laid out, and the small helpers that walk them.

struct Layer {
    const float*  norm_weight = nullptr; // [H]
    const float*  norm_bias = nullptr;   // [H]
    const float*  ab = nullptr;          // [block][mode][ar ai br bi][8], for dt = 1
    const float*  c = nullptr;           // [block][mode][2 cr, 2 ci][8]
    const float*  rho = nullptr;         // [block][mode][8]     what s4d_discretize makes a and b of
    const double* turns = nullptr;       // [block][mode][8]
    const float*  gain = nullptr;        // [block][mode][re im][8]
    const float*  D = nullptr;           // [H padded]
    Matrix        mix;                   // output_linear [2H][H]
    const float*  mix_bias = nullptr;    // [2H]
};

namespace detail {
static_assert(sizeof(Layer) <= layer_bytes, "detail::layer_bytes must cover Layer");

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
SSM_LOCAL float* floats_of(const State& s) noexcept {
    return reinterpret_cast<float*>(static_cast<unsigned char*>(s.data) + state_header_bytes);
}

// The rows of one call: consecutive steps of one stream, candidates for one stream, or one row for each of many
// streams.
enum class Rows : uint8_t { steps, candidates, streams, stream_candidates };
struct Call {
    Rows         rows = Rows::steps;
    const State* states = nullptr; // one, or n for streams
    int32_t      n = 0;
    const float* dt = nullptr;
    const State& of(int32_t i) const noexcept {
        return states[rows == Rows::streams || rows == Rows::stream_candidates ? i : 0];
    }
    bool moves() const noexcept { return rows == Rows::steps || rows == Rows::streams; }
};

// Where things stand in a scratch of `batch` rows.
struct Work {
    float *r, *z, *v, *discarded, *ab;
    Work(const Config& c, const Scratch& w) noexcept {
        const size_t rows = size_t(w.batch) * padded(c.d_model);
        r = static_cast<float*>(w.data), z = r + rows, v = z + rows, discarded = v + 2 * rows,
        ab = discarded + modes(c) * 2;
    }
};

SSM_LOCAL void set_flags(const State& s, uint32_t flags) noexcept {
    StateHeader h = header_of(s);
    h.flags |= flags;
    copy(s.data, &h, sizeof h);
}

// ---- 9. Recurrences -------------------------------------------------------------------------------------------------
//
// S4D: per channel h and mode j, with z = dt A, dt = exp(log_dt), A = -exp(log_A_real) + i A_imag:
//
//     x_hj <- clip(a_hj x_hj + b_hj u_h)          zoh: a = exp(z), b = B (exp(z) - 1) / A;  bilinear: a = (1 + z/2) /
//     (1 - z/2), s_h  =  2 sum_j Re(C_hj x_hj) + D_h u_h                b = B dt / (1 - z/2)        (Gu et al. 2022,
//     arXiv 2206.11893) v = W gelu(s) + bias;  o = v[0:H] sigmoid(v[H:2H])
//
//     tensor                                     shape        here
//     s4_layers.i.kernel.log_dt                  (H)          folded into ab
//     s4_layers.i.kernel.log_A_real, A_imag      (H, N/2)     folded into ab; rho, turns, gain for other dt
//     s4_layers.i.kernel.C                       (H, N/2, 2)  c
//     s4_layers.i.D                              (H)          D
//     s4_layers.i.output_linear.0.weight, bias   (2H, H), (2H) mix, mix_bias
//
// A row's dt multiplies the step size: time since the previous event, in training steps.

// s[row] of one layer for every row of the call; `at`: where the layer's state begins, in floats. u may be s.
SSM_LOCAL void s4d_rows(const Model& m, const Layer& layer, const Call& call, ptrdiff_t at, const Work& work,
                        const float* u, float* s) noexcept {
    const Config& c = m.config;
    const int32_t stride = int32_t(padded(c.d_model)), blocks = stride / 8, n_modes = c.d_state / 2;
    const float   clip = c.state_clip > 0.0f ? c.state_clip : FLT_MAX;
    float         made = 1.0f; // the dt that work.ab was made for; 1 stands for the layer's own
    for (int32_t i = 0; i < call.n;) {
        const float dt = call.dt != nullptr ? call.dt[i] : 1.0f;
        int32_t     T = 1;
        if (call.rows == Rows::steps) // rows of equal dt in one go
            while (i + T < call.n && (call.dt == nullptr || bits_of(call.dt[i + T]) == bits_of(dt))) ++T;
        const float* ab = layer.ab;
        if (bits_of(dt) != bits_of(1.0f)) {
            if (bits_of(dt) != bits_of(made))
                m.kernels->s4d_discretize(work.ab, layer.rho, layer.turns, layer.gain, dt, c.disc, blocks * n_modes);
            made = dt;
            ab = work.ab;
        }
        float*     h = floats_of(call.of(i)) + at;
        const bool hit =
            m.kernels->s4d_scan(ab, layer.c, layer.D, h, call.moves() ? h : work.discarded, u + ptrdiff_t(i) * stride,
                                s + ptrdiff_t(i) * stride, stride, T, blocks, n_modes, clip);
        if (hit && call.moves()) set_flags(call.of(i), 1u);
        i += T;
    }
}

// ---- 10. Running ----------------------------------------------------------------------------------------------------
//
// encoder -> layers with their residual sums and norms -> pooling -> decoder, for all rows of a call at once. Checks
// come first: after them nothing can fail, so a state is moved whole or not at all. Also states: make, reset, save,
// restore.

// Pooling "mean" keeps a running mean: out = mean + (r - mean) / count. out may be mean.
SSM_LOCAL void pool_mean(float* out, const float* mean, const float* r, uint64_t count, int32_t n) noexcept {
    const float part = 1.0f / static_cast<float>(count);
    for (int32_t k = 0; k < n; ++k) out[k] = mean[k] + (r[k] - mean[k]) * part;
}

// y: a row of d_output for each row of the call, or for the last only when the rows are steps; null: not wanted.
SSM_LOCAL void run(const Model& m, const Call& call, const Scratch& w, const float* x, float* y) noexcept {
    const Config&  c = m.config;
    const Kernels& K = *m.kernels;
    const Work     work(c, w);
    const int32_t  H = c.d_model, stride = int32_t(padded(H)), n = call.n;
    float *        r = work.r, *z = work.z;
    for (int32_t i = 0; i < n; ++i)
        for (int32_t k = H; k < stride; ++k) r[i * stride + k] = z[i * stride + k] = 0.0f;

    K.matmul(r, stride, m.encoder, m.encoder_bias, x, c.d_input, n);
    ptrdiff_t at = ptrdiff_t(pool_floats(c));
    for (int32_t l = 0; l < c.n_layers; ++l, at += ptrdiff_t(modes(c) * 2)) {
        const Layer& layer = m.layers[l];
        if (c.prenorm)
            for (int32_t i = 0; i < n; ++i)
                K.layer_norm(z + i * stride, r + i * stride, layer.norm_weight, layer.norm_bias, H);
        s4d_rows(m, layer, call, at, work, c.prenorm ? z : r, z);
        K.gelu(z, z, n * stride);
        K.matmul(work.v, 2 * stride, layer.mix, layer.mix_bias, z, stride, n);
        for (int32_t i = 0; i < n; ++i) {
            K.glu(r + i * stride, work.v + i * 2 * stride, H);
            if (!c.prenorm) K.layer_norm(r + i * stride, r + i * stride, layer.norm_weight, layer.norm_bias, H);
        }
    }

    for (int32_t i = 0; i < n; ++i) {
        StateHeader head = header_of(call.of(i));
        head.steps += 1;
        if (c.pool == Pool::mean) {
            float* mean = floats_of(call.of(i));
            float* out = call.moves() ? mean : r + i * stride;
            pool_mean(out, mean, r + i * stride, head.steps, H);
            if (call.moves()) copy(r + i * stride, mean, size_t(H) * sizeof(float));
        }
        if (call.moves()) copy(call.of(i).data, &head, sizeof head);
    }
    if (y == nullptr) return;
    const int32_t first = call.rows == Rows::steps ? n - 1 : 0;
    K.matmul(y, c.d_output, m.decoder, m.decoder_bias, r + first * stride, stride, n - first);
}

SSM_LOCAL bool good_state(const Model& m, const State& s) noexcept {
    return s.data != nullptr && s.bytes >= state_bytes(m.config) && reinterpret_cast<uintptr_t>(s.data) % 4 == 0;
}

// Everything that could be wrong with a call.
SSM_LOCAL Status check(const Model& m, const Call& call, const Scratch* w, const float* x) noexcept {
    if (m.kernels == nullptr || call.states == nullptr || w == nullptr || w->data == nullptr || w->batch < 1 ||
        w->bytes < scratch_bytes(m.config, w->batch) || call.n < 0 || (call.n > 0 && x == nullptr))
        return Status::bad_argument;
    const bool many = call.rows == Rows::streams || call.rows == Rows::stream_candidates;
    for (int32_t i = 0; i < (many ? call.n : 1); ++i)
        if (!good_state(m, call.states[i])) return Status::bad_argument;
    const size_t count = size_t(call.n) * size_t(m.config.d_input);
    for (size_t i = 0; i < count; ++i)
        if (!(x[i] >= -max_input && x[i] <= max_input)) return Status::bad_input;
    for (int32_t i = 0; call.dt != nullptr && i < call.n; ++i)
        if (!(call.dt[i] > 0.0f && call.dt[i] <= max_dt)) return Status::bad_input;
    return Status::ok;
}

// All rows, a scratch full at a time.
SSM_LOCAL Status run_all(const Model& m, Call call, const Scratch* w, const float* x, float* y) noexcept {
    const Status s = check(m, call, w, x);
    if (s != Status::ok) return s;
    const bool many = call.rows == Rows::streams || call.rows == Rows::stream_candidates;
    for (int32_t left = call.n; left > 0;) {
        call.n = left < w->batch ? left : w->batch;
        left -= call.n;
        const bool steps = call.rows == Rows::steps;
        run(m, call, *w, x, steps && left > 0 ? nullptr : y);
        x += ptrdiff_t(call.n) * m.config.d_input;
        if (y != nullptr && !steps) y += ptrdiff_t(call.n) * m.config.d_output;
        if (call.dt != nullptr) call.dt += call.n;
        if (many) call.states += call.n;
    }
    return Status::ok;
}

// The next `bytes` of an arena, 16-byte aligned; null if they do not fit.
SSM_LOCAL void* take(Arena* a, size_t bytes, Fault* fault = nullptr) noexcept {
    const size_t skew = (16 - (reinterpret_cast<uintptr_t>(a->data) + a->used) % 16) % 16;
    const size_t left = a->bytes - a->used;
    if (a->data == nullptr || a->used > a->bytes || skew > left || bytes > left - skew) {
        (void)blame(fault, Status::arena_too_small, "", 0, "the arena is too small", int64_t(bytes + skew),
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
constexpr uint32_t saved_type_f32 = 1;

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
    const Config& c = m.config;
    copy(p, saved_magic, 8);
    store_u32(p + 8, saved_version);
    store_u32(p + 12, saved_order);
    store_u64(p + 16, saved_bytes(c));
    store_u64(p + 24, m.fingerprint);
    store_u32(p + 32, uint32_t(c.arch));
    store_u32(p + 36, uint32_t(c.n_layers));
    store_u32(p + 40, uint32_t(c.d_model));
    store_u32(p + 44, uint32_t(c.d_state));
    store_u32(p + 48, saved_type_f32);
    store_u32(p + 52, h.flags);
    store_u64(p + 56, h.steps);
}
} // namespace detail

SSM_API Status step(const Model& m, State* s, Scratch* w, const float* x, float* y, float dt) noexcept {
    return detail::run_all(m, {detail::Rows::steps, s, 1, &dt}, w, x, y);
}
SSM_API Status prefill(const Model& m, State* s, Scratch* w, const float* x, int32_t n, float* y,
                       const float* dt) noexcept {
    return detail::run_all(m, {detail::Rows::steps, s, n, dt}, w, x, y);
}
SSM_API Status step_batch(const Model& m, const State& from, Scratch* w, const float* x, int32_t n, float* y,
                          const float* dt) noexcept {
    return detail::run_all(m, {detail::Rows::candidates, &from, n, dt}, w, x, y);
}
SSM_API Status step_streams(const Model& m, State* states, int32_t n, Scratch* w, const float* x, float* y,
                            const float* dt) noexcept {
    return detail::run_all(m, {detail::Rows::streams, states, n, dt}, w, x, y);
}
SSM_API Status score_streams(const Model& m, const State* states, int32_t n, Scratch* w, const float* x, float* y,
                             const float* dt) noexcept {
    return detail::run_all(m, {detail::Rows::stream_candidates, states, n, dt}, w, x, y);
}

SSM_API void reset(const Model& m, State* s) noexcept {
    if (s != nullptr && detail::good_state(m, *s)) detail::fill_zero(s->data, state_bytes(m.config));
}
SSM_API Status make_state(State* out, const Model& m, Arena* arena) noexcept {
    if (out == nullptr || arena == nullptr || m.kernels == nullptr) return Status::bad_argument;
    const size_t bytes = state_bytes(m.config);
    void*        p = detail::take(arena, bytes);
    if (p == nullptr) return Status::arena_too_small;
    *out = State{p, bytes};
    reset(m, out);
    return Status::ok;
}
SSM_API Status make_scratch(Scratch* out, const Model& m, int32_t batch, Arena* arena) noexcept {
    if (out == nullptr || arena == nullptr || m.kernels == nullptr || batch < 1 || batch > max_batch)
        return Status::bad_argument;
    const size_t bytes = scratch_bytes(m.config, batch);
    void*        p = detail::take(arena, bytes);
    if (p == nullptr) return Status::arena_too_small;
    *out = Scratch{p, bytes, batch};
    return Status::ok;
}

SSM_API uint64_t steps_of(const Model& m, const State& s) noexcept {
    return detail::good_state(m, s) ? detail::header_of(s).steps : 0;
}
SSM_API bool clipped(const Model& m, const State& s) noexcept {
    return detail::good_state(m, s) && (detail::header_of(s).flags & 1u) != 0;
}

SSM_API size_t save(const Model& m, const State& s, void* dst, size_t cap) noexcept {
    const size_t total = saved_bytes(m.config);
    if (dst == nullptr) return total;
    if (cap < total || m.kernels == nullptr || !detail::good_state(m, s)) return 0;
    unsigned char* p = static_cast<unsigned char*>(dst);
    detail::saved_header(m, detail::header_of(s), p);
    const float* v = detail::floats_of(s);
    size_t       i = detail::saved_header_bytes;
    for (; i < total - 4; i += 4) detail::store_u32(p + i, uint32_t(detail::bits_of(*v++)));
    detail::store_u32(p + i, detail::crc32(p, i));
    return total;
}

SSM_API Status restore(const Model& m, State* s, const void* src, size_t bytes, Fault* fault) noexcept {
    using namespace detail;
    if (s == nullptr || src == nullptr || m.kernels == nullptr || !good_state(m, *s)) return Status::bad_argument;
    const auto   no = [&](const char* why) { return blame(fault, Status::bad_state, "", 0, why); };
    const auto*  p = static_cast<const unsigned char*>(src);
    const size_t total = saved_bytes(m.config);
    if (bytes < saved_header_bytes + 4) return no("shorter than a saved state's header");
    if (!equal_bytes(p, saved_magic, 8)) return no("not a saved state");
    if (load_u32(p + 12) != saved_order) return no("wrong byte order mark");
    if (load_u32(p + 8) != saved_version) return no("saved by a version that this one does not know");
    if (load_u64(p + 16) != bytes) return no("its length is not what its header says");
    if (load_u32(p + bytes - 4) != crc32(p, bytes - 4)) return no("checksum does not match: the file is damaged");
    if (load_u32(p + 48) != saved_type_f32) return no("holds another element type");
    if (load_u64(p + 24) != m.fingerprint) return no("belongs to another model");
    StateHeader   h{load_u64(p + 56), load_u32(p + 52), 0};
    unsigned char expected[saved_header_bytes];
    saved_header(m, h, expected);
    if (bytes != total || !equal_bytes(p, expected, saved_header_bytes)) return no("its shape is not this model's");
    if (h.flags > 1u) return no("holds flags that this version does not know");
    const float  clip = m.config.state_clip > 0.0f ? m.config.state_clip : FLT_MAX;
    const size_t pooled = pool_floats(m.config), count = (total - 4 - saved_header_bytes) / 4;
    for (size_t i = 0; i < count; ++i) {
        const float v = load_f32(p + saved_header_bytes + 4 * i), bound = i < pooled ? FLT_MAX : clip;
        if (!(v >= -bound && v <= bound)) return no("holds a value that is NaN or beyond the clip");
    }
    copy(s->data, &h, sizeof h);
    float* to = floats_of(*s);
    for (size_t i = 0; i < count; ++i) to[i] = load_f32(p + saved_header_bytes + 4 * i);
    return Status::ok;
}

SSM_API const char* isa_name(const Model& m) noexcept { return m.kernels != nullptr ? m.kernels->name : "none"; }

// ---- 11. Files: JSON, numbers, safetensors --------------------------------------------------------------------------
//
// A strict JSON reader (RFC 8259) that hands out one token at a time, decimal text to the nearest float, and the
// complete check of a safetensors container. All of it reads text that may be hostile: every read follows a bounds
// check, nothing recurses, nothing is allocated, and every number from a file is unsigned 64-bit and checked before it
// is used.

// ---- Strings

namespace detail {

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
} // namespace detail

// ---- JSON

namespace json {

// Reader::expect: what may stand next.
enum : uint8_t { a_value, a_value_or_end, a_key, a_key_or_end, a_comma_or_end, only_blanks, after_error };

SSM_LOCAL Token fail(Reader* r, const char* why) noexcept {
    r->error = why;
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

// From the quote on. Leaves `p` behind the closing quote; null, or what is wrong at `p`.
SSM_LOCAL const char* read_string(Reader* r) noexcept {
    for (++r->p;;) {
        if (r->p >= r->end) return "a string does not end";
        const unsigned char c = static_cast<unsigned char>(*r->p);
        size_t              n = 1;
        if (c == '"') break;
        if (c < 0x20) return "a control character stands in a string";
        if (c == '\\') {
            uint32_t code = 0;
            if ((n = detail::escape_at(r->p, r->end, &code)) == 0)
                return "an escape is wrong, cut short or half a surrogate pair";
        } else if (c >= 0x80 && (n = detail::utf8_length(r->p, r->end)) == 0) return "not valid UTF-8";
        r->p += n;
    }
    ++r->p;
    return nullptr;
}

// - (0 | [1-9][0-9]*) [. digits] [e [+-] digits]. As read_string().
SSM_LOCAL const char* read_number(Reader* r) noexcept {
    const auto digits = [r] {
        const char* from = r->p;
        while (r->p < r->end && detail::is_digit(*r->p)) ++r->p;
        return r->p != from;
    };
    if (at_byte(r, '-')) ++r->p;
    if (at_byte(r, '0')) ++r->p;
    else if (!digits()) return "a number has no digits";
    if (at_byte(r, '.')) {
        ++r->p;
        if (!digits()) return "a number has no digits behind its point";
    }
    if (at_byte(r, 'e') || at_byte(r, 'E')) {
        ++r->p;
        if (at_byte(r, '+') || at_byte(r, '-')) ++r->p;
        if (!digits()) return "a number has no digits in its exponent";
    }
    return nullptr;
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
        return r->p < r->end ? fail(r, "text follows the end of the value") : Token{Kind::end, r->p, 0};
    if (r->p >= r->end) return fail(r, "the text ends too early");
    if (r->expect == a_value_or_end || r->expect == a_key_or_end || r->expect == a_comma_or_end) {
        if (at_byte(r, in_object ? '}' : ']')) {
            --r->depth;
            return finish(r, in_object ? Kind::end_object : Kind::end_array, r->p++, 1);
        }
        if (r->expect == a_comma_or_end) {
            if (!at_byte(r, ',')) return fail(r, in_object ? "expected a comma or }" : "expected a comma or ]");
            ++r->p;
            skip_blanks(r);
            r->expect = in_object ? a_key : a_value;
        }
    }
    if (r->p >= r->end) return fail(r, "the text ends too early");
    const char* const start = r->p;
    const char        c = *start;

    // 2. A name and its colon.
    if (r->expect == a_key || r->expect == a_key_or_end) {
        if (c != '"') return fail(r, "expected a name in quotes");
        if (const char* why = read_string(r)) return fail(r, why);
        const Token key{Kind::key, start + 1, size_t(r->p - start) - 2};
        skip_blanks(r);
        if (!at_byte(r, ':')) return fail(r, "expected a colon");
        ++r->p;
        r->expect = a_value;
        return key;
    }

    // 3. A value.
    if (c == '{' || c == '[') {
        if (r->depth == max_depth) return fail(r, "nested deeper than the limit of 32");
        const uint32_t bit = uint32_t(1) << r->depth++;
        r->is_object = c == '{' ? r->is_object | bit : r->is_object & ~bit;
        r->expect = c == '{' ? a_key_or_end : a_value_or_end;
        return Token{c == '{' ? Kind::object : Kind::array, r->p++, 1};
    }
    if (c == '"') {
        const char* why = read_string(r);
        return why != nullptr ? fail(r, why) : finish(r, Kind::string, start + 1, size_t(r->p - start) - 2);
    }
    if (c == '-' || detail::is_digit(c)) {
        const char* why = read_number(r);
        return why != nullptr ? fail(r, why) : finish(r, Kind::number, start, size_t(r->p - start));
    }
    const Token words[] = {{Kind::true_, "true", 4}, {Kind::false_, "false", 5}, {Kind::null, "null", 4}};
    for (const Token& w : words)
        if (size_t(r->end - start) >= w.len && detail::equal_bytes(start, w.text, w.len)) {
            r->p += w.len;
            return finish(r, w.kind, start, w.len);
        }
    return fail(r, "expected a value");
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

namespace detail {

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
} // namespace detail

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

namespace detail {

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
        return blame(fault, Status::truncated, "", 0, "shorter than the 8 bytes every safetensors file begins with", 8,
                     int64_t(blob.bytes));
    if (data == nullptr) return blame(fault, Status::bad_argument, "", 0, "no data given");
    const uint64_t n = load_u64(data);
    if (n > max_header_bytes)
        return blame(fault, Status::bad_header, "", 0, "the header is longer than the format's limit",
                     int64_t(max_header_bytes), for_fault(n));
    if (n > blob.bytes - 8)
        return blame(fault, Status::truncated, "", 0, "the file ends inside its header", int64_t(n),
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
        return blame(fault, Status::bad_header, "", 0, "the header is not a JSON object");
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
    const Status s = blame(fault, Status::bad_header, "", 0, r.error);
    if (fault != nullptr) fault->got = int64_t(size_t(r.p - text) + 8); // where: the byte in the file
    return s;
}
static_assert(max_header_bytes / 5 * sizeof(Entry) < UINT32_MAX,
              "`\"\":0,` is the shortest entry: no count or size overflows");

// The value of one tensor's name, the reader standing in front of it. The text is known to be well-formed.
SSM_LOCAL Status read_tensor(json::Reader* r, Entry* e, Fault* fault) noexcept {
    using json::Kind;
    using json::Token;
    const auto refuse = [&](Status s, const char* why) { return blame(fault, s, e->name, size_t(e->name_len), why); };
    const auto unlike = [&](Status s, const char* why, uint64_t want, uint64_t got) {
        return blame(fault, s, e->name, size_t(e->name_len), why, for_fault(want), for_fault(got));
    };
    const auto quote = [fault](Status s, const char* text, size_t len) { // adds to the fault what stands in the file
        if (fault == nullptr) return s;
        size_t n = 0;
        while (fault->found[n] != 0) ++n;
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
    if (json::next(r).kind != Kind::object) return refuse(Status::bad_header, "its entry is not an object");
    for (Token key = json::next(r); key.kind == Kind::key; key = json::next(r)) {
        for (int32_t i = 0; i < n_seen; ++i)
            if (compare(Bytes(seen[i], seen_len[i]), Bytes(key.text, key.len)) == 0)
                return refuse(Status::bad_header, "a field stands twice in its entry");
        if (n_seen == max_fields)
            return unlike(Status::bad_header, "its entry has more fields than the limit", max_fields, max_fields + 1);
        seen[n_seen] = key.text;
        seen_len[n_seen++] = uint32_t(key.len);

        const Token v = json::next(r);
        if (json::equals(key, "dtype")) {
            has_dtype = true;
            if (v.kind != Kind::string) return refuse(Status::bad_header, "its dtype is not a string");
            while (e->dtype < n_dtypes && !json::equals(v, dtypes[e->dtype].name)) ++e->dtype;
            if (e->dtype == n_dtypes)
                return quote(refuse(Status::bad_dtype,
                                    "its dtype is unknown; expected one of BOOL, U8, I8, F8_E5M2, F8_E4M3, F8_E8M0, "
                                    "F8_E4M3FNUZ, F8_E5M2FNUZ, "
                                    "I16, U16, F16, BF16, I32, U32, F32, C64, F64, I64, U64, F4, F6_E2M3, F6_E3M2"),
                             v.text - 1, v.len + 2);
        } else if (json::equals(key, "shape")) {
            has_shape = true;
            if (v.kind != Kind::array) return refuse(Status::bad_header, "its shape is not an array");
            e->shape_text = v.text;
            for (Token d = json::next(r); d.kind != Kind::end_array; d = json::next(r), ++rank) {
                uint64_t n = 0;
                if (d.kind != Kind::number || !json::to_uint(d, &n))
                    return refuse(Status::bad_header,
                                  "its shape holds something other than an integer from 0 to 2^64 - 1");
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
                return refuse(Status::bad_header, "its data_offsets are not two integers from 0 to 2^64 - 1");
        } else json::skip(r, v);
    }

    // 2. What they say together.
    if (!has_dtype) return refuse(Status::bad_header, "its dtype is missing");
    if (!has_shape) return refuse(Status::bad_header, "its shape is missing");
    if (!has_offsets) return refuse(Status::bad_header, "its data_offsets are missing");
    const auto in_shape = [&](Status s) { // "[2,3] F32"
        const char* const dtype = dtypes[e->dtype].name;
        size_t            len = 0;
        while (dtype[len] != 0) ++len;
        return quote(quote(quote(s, e->shape_text, shape_len), " ", 1), dtype, len);
    };
    if (rank > uint64_t(max_rank))
        return in_shape(unlike(Status::bad_shape, "it has more dimensions than the limit", max_rank, rank));
    e->rank = uint8_t(rank);
    const uint64_t bits = uint64_t(dtypes[e->dtype].bits);
    if (too_large || overflows(product, bits))
        return in_shape(refuse(Status::bad_shape, "its shape makes a size beyond 64 bits"));
    if (product * bits % 8 != 0)
        return in_shape(unlike(Status::bad_shape, "its size in bits is not a multiple of 8", (product * bits | 7) + 1,
                               product * bits));
    if (e->begin > e->end) return unlike(Status::bad_header, "its data_offsets run backwards", e->begin, e->end);
    if (e->end - e->begin != product * bits / 8)
        return in_shape(unlike(Status::bad_shape, "its data_offsets do not span the bytes its shape and dtype need",
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
            return blame(fault, Status::bad_header, "__metadata__", 12, "the metadata stands twice in the header");
        metadata_seen = true;
        const Token v = json::next(&r);
        if (v.kind == Kind::null) continue; // as good as none
        if (v.kind != Kind::object)
            return blame(fault, Status::bad_header, "__metadata__", 12, "the metadata is not an object");
        for (Token k = json::next(&r); k.kind == Kind::key; k = json::next(&r)) {
            const Token s = json::next(&r);
            if (s.kind != Kind::string)
                return blame(fault, Status::bad_header, k.text, k.len, "its metadata value is not a string");
            Entry* e = add(&entries[n_entries - ++n_metadata], k);
            e->value = s.text;
            e->value_len = int32_t(s.len);
        }
    }
    *n_tensors = n;
    return Status::ok;
}

// Heapsort: in place, without recursion, n log n whatever the order was.
template <class Before> SSM_LOCAL void sort_entries(Entry* e, int32_t n, Before before) noexcept {
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
    size_t len = 0;
    while (name[len] != 0) ++len;
    const Bytes    bytes(name, len, false);
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
} // namespace detail

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
    if (out == nullptr) return blame(fault, Status::bad_argument, "", 0, "no index given");

    // 1. Length, limit, file size, UTF-8, JSON.
    const char* text = nullptr;
    size_t      text_bytes = 0, length = 0;
    int32_t     n = 0, n_tensors = 0;
    Status      s = find_header(blob, &text, &text_bytes, fault);
    if (s != Status::ok) return s;
    for (size_t i = 0; i < text_bytes; i += length)
        if ((length = utf8_length(text + i, text + text_bytes)) == 0) {
            (void)blame(fault, Status::bad_header, "", 0, "the header is not valid UTF-8");
            if (fault != nullptr) fault->got = int64_t(i + 8);
            return Status::bad_header;
        }
    if ((s = count_entries(text, text_bytes, &n, fault)) != Status::ok) return s;

    // 2. Room for the entries.
    const size_t need = size_t(n) * sizeof(Entry) + alignof(Entry);
    if (memory == nullptr || bytes < need)
        return blame(fault, Status::arena_too_small, "", 0, "the memory for the index of the file is too small",
                     int64_t(need), memory == nullptr ? 0 : for_fault(bytes));
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
            return blame(fault, Status::bad_header, e.name, size_t(e.name_len), "begins inside another tensor",
                         for_fault(at), for_fault(e.begin));
        if (e.begin > at)
            return blame(fault, Status::bad_header, e.name, size_t(e.name_len), "begins behind a hole in the data",
                         for_fault(at), for_fault(e.begin));
        if (!fits_size_t(e.end))
            return blame(fault, Status::unsupported, e.name, size_t(e.name_len),
                         "ends beyond what this machine can address", for_fault(SIZE_MAX), for_fault(e.end));
        if (e.end > data_bytes)
            return blame(fault, Status::truncated, e.name, size_t(e.name_len), "ends behind the end of the file",
                         for_fault(e.end), for_fault(data_bytes));
    }
    if (at != data_bytes)
        return blame(fault, Status::bad_header, "", 0, "bytes follow the last tensor", for_fault(at),
                     for_fault(data_bytes));

    // 5. No name stands twice.
    sort_entries(entries, n, [](const Entry& a, const Entry& b) { return order(a, b) < 0; });
    for (int32_t i = 1; i < n; ++i)
        if (order(entries[i - 1], entries[i]) == 0)
            return blame(fault, Status::bad_header, entries[i].name, size_t(entries[i].name_len),
                         entries[i].value != nullptr ? "this metadata key stands twice"
                                                     : "a tensor of this name stands twice");

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

// ---- 12. Mapping a file ---------------------------------------------------------------------------------------------
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
    Status      s = Status::io;
    void*       data = MAP_FAILED;
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
SSM_API void   unmap_file(Blob* blob) noexcept {
      if (blob != nullptr) *blob = Blob();
}
#endif
#endif // SSM_NO_FILES
// ---- 13. Loading ----------------------------------------------------------------------------------------------------
//
// From an index of tensors to a model: config from metadata and shapes, every tensor checked by name, dtype, shape and
// value, S4D parameters made into a and b in double. Two spellings of an S4D layer are known: that of the minimal
// public code ("kernel.log_dt", ...) and that of the full one ("layer.kernel.inv_dt", ...), whose A_imag has the
// opposite sign. Exports valid, inspect, load, message.

SSM_API bool valid(const Config& c) noexcept {
    const auto in = [](int32_t v, int32_t lo, int32_t hi) { return v >= lo && v <= hi; };
    return c.arch == Arch::s4d && c.disc <= Disc::bilinear && c.pool <= Pool::mean && in(c.n_layers, 1, max_layers) &&
           in(c.d_input, 1, max_width) && in(c.d_output, 1, max_width) && in(c.d_model, 1, max_width) &&
           in(c.d_state, 2, max_d_state) && c.d_state % 2 == 0 && c.state_clip >= 0.0f && c.state_clip <= FLT_MAX;
}

namespace detail {

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

// Whether a metadata key is there; if so, its value.
SSM_LOCAL bool metadata(const Index& ix, const char* key, json::Token* value) noexcept {
    const Entry* e = find_metadata(ix, key);
    if (e == nullptr) return false;
    *value = json::Token{json::Kind::string, e->value, size_t(e->value_len)};
    return true;
}
// One of several words; -1 if it is another. `missing` where the key is not there.
SSM_LOCAL int word(const Index& ix, const char* key, const char* const* words, int count, int missing) noexcept {
    json::Token v;
    if (!metadata(ix, key, &v)) return missing;
    for (int i = 0; i < count; ++i)
        if (json::equals(v, words[i])) return i;
    return -1;
}
SSM_LOCAL Status bad_key(Fault* fault, const char* key, const char* why) noexcept {
    return blame(fault, Status::bad_config, key, Name().add(key).len, why);
}
// A key that repeats what shapes already say must agree with them.
SSM_LOCAL Status agrees(const Index& ix, const char* key, int32_t found, Fault* fault) noexcept {
    json::Token v;
    uint64_t    n = 0;
    if (!metadata(ix, key, &v)) return Status::ok;
    if (json::to_uint(v, &n) && n == uint64_t(found)) return Status::ok;
    return blame(fault, Status::bad_config, key, Name().add(key).len,
                 "metadata does not agree with the tensors' shapes", int64_t(n), found);
}

// Dimension k of a tensor that must exist; 0 if it has another rank.
SSM_LOCAL Status dimension(const Index& ix, const char* name, int32_t rank, int32_t k, int32_t lo, int32_t hi,
                           int32_t* out, Fault* fault) noexcept {
    const Entry* e = find_tensor(ix, name);
    const size_t len = Name().add(name).len;
    if (e == nullptr) return blame(fault, Status::missing_tensor, name, len, "missing");
    int64_t dims[max_rank] = {};
    shape_of(*e, dims);
    if (e->rank != rank) return blame(fault, Status::bad_shape, name, len, "wrong number of dimensions", rank, e->rank);
    if (dims[k] < lo || dims[k] > hi)
        return blame(fault, Status::bad_shape, name, len,
                     dims[k] < lo ? "a dimension is too small" : "a dimension is beyond this build's limit",
                     dims[k] < lo ? lo : hi, dims[k]);
    *out = int32_t(dims[k]);
    return Status::ok;
}

// Which spelling of S4D a file uses.
SSM_LOCAL bool full_form(const Index& ix) noexcept { return find_tensor(ix, "s4_layers.0.layer.D") != nullptr; }

SSM_LOCAL Status read_config(Config* out, const Index& ix, Fault* fault) noexcept {
    Config c;
    c.n_entries = ix.n_entries;
    static const char* const archs[] = {"s4d"};
    static const char* const bools[] = {"false", "true", "False", "True"};
    static const char* const pools[] = {"none", "last", "mean"};
    static const char* const discs[] = {"zoh", "bilinear"};
    if (word(ix, "arch", archs, 1, 0) < 0)
        return bad_key(fault, "arch", "not an architecture of this build, expected s4d");
    const bool full = full_form(ix);
    if (!full && find_tensor(ix, "s4_layers.0.D") == nullptr)
        return bad_key(fault, "",
                       "not a model this build knows: neither s4_layers.0.D nor s4_layers.0.layer.D is there");

    const int pre = word(ix, "prenorm", bools, 4, -2), pool = word(ix, "pool", pools, 3, -2),
              disc = word(ix, "disc", discs, 2, -2);
    if (pre < 0)
        return bad_key(fault, "prenorm",
                       pre == -2 ? "metadata missing, expected true or false"
                                 : "metadata not understood, expected true or false");
    if (pool < 0)
        return bad_key(fault, "pool",
                       pool == -2 ? "metadata missing, expected mean, last or none"
                                  : "metadata not understood, expected mean, last or none");
    if (disc < 0)
        return bad_key(fault, "disc",
                       disc == -2 ? "metadata missing, expected zoh or bilinear"
                                  : "metadata not understood, expected zoh or bilinear");
    c.prenorm = pre % 2 == 1, c.pool = Pool(pool), c.disc = Disc(disc);
    json::Token v;
    if (metadata(ix, "clip", &v)) {
        float clip = 0.0f;
        if (parse_float(v.text, v.len, &clip) != v.len || v.len == 0 || !(clip >= 0.0f && clip <= FLT_MAX))
            return bad_key(fault, "clip", "metadata not understood, expected a limit for the state, or 0 for none");
        c.state_clip = clip;
    }

    Status  s = Status::ok;
    int32_t n = 0;
    if ((s = dimension(ix, "encoder.weight", 2, 0, 1, max_width, &c.d_model, fault)) != Status::ok) return s;
    if ((s = dimension(ix, "encoder.weight", 2, 1, 1, max_width, &c.d_input, fault)) != Status::ok) return s;
    if ((s = dimension(ix, "decoder.weight", 2, 0, 1, max_width, &c.d_output, fault)) != Status::ok) return s;
    const char* a = full ? "s4_layers.0.layer.kernel.A_imag" : "s4_layers.0.kernel.A_imag";
    if ((s = dimension(ix, a, 2, 1, 1, max_d_state / 2, &n, fault)) != Status::ok) return s;
    c.d_state = 2 * n;
    for (c.n_layers = 0; find_tensor(ix, layer_name("s4_layers.", c.n_layers, full ? "layer.D" : "D").text) != nullptr;)
        if (++c.n_layers > max_layers)
            return blame(fault, Status::bad_config, "n_layers", 8, "more layers than this build's limit", max_layers,
                         c.n_layers);
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
    if (!valid(c)) return bad_key(fault, "", "the model's shape is outside this build's limits");
    *out = c;
    return Status::ok;
}

// Looks tensors up, checks them, and remembers the first fault and how many tensors are missing.
struct Binder {
    const Index& ix;
    bool         check_values;
    Status       status = Status::ok;
    Fault        first;
    int32_t      missing = 0;

    Binder(const Index& index, bool check) noexcept : ix(index), check_values(check) {}

    void fail(Status s, const Name& name, const char* why, int64_t want, int64_t got) noexcept {
        if (status == Status::ok) status = blame(&first, s, name.text, name.len, why, want, got);
    }
    // A tensor of exactly this shape. A dimension of -1 may be anything from 1 up. Null if something is wrong with it.
    const Entry* tensor(const Name& name, int32_t rank, const int64_t* want) noexcept {
        const Entry* found = find_tensor(ix, name.text);
        if (found == nullptr) {
            if (missing++ == 0 && status == Status::ok)
                status = blame(&first, Status::missing_tensor, name.text, name.len, "missing");
            return nullptr;
        }
        Entry* e = ix.entries + (found - ix.entries);
        e->used = 1;
        int64_t got[max_rank] = {};
        shape_of(*e, got);
        if (e->rank != rank) return fail(Status::bad_shape, name, "wrong number of dimensions", rank, e->rank), nullptr;
        for (int32_t k = 0; k < rank; ++k)
            if (got[k] != want[k] && !(want[k] < 0 && got[k] > 0))
                return fail(Status::bad_shape, name, "a dimension does not fit the model", want[k], got[k]), nullptr;
        DType t;
        if (!dtype_of(*e, &t)) {
            if (status == Status::ok)
                status = blame(&first, Status::bad_dtype, name.text, name.len, "expected dtype F32, F16 or BF16");
            return nullptr;
        }
        const size_t count = size_t(e->end - e->begin) / (t == DType::f32 ? 4 : 2);
        if (check_values)
            for (size_t i = 0; i < count; ++i)
                if (!is_finite(element(ix.data + e->begin, t, i)))
                    return fail(Status::bad_value, name, "holds NaN or Inf, at the index given", 0, int64_t(i)),
                           nullptr;
        return e;
    }
    static bool dtype_of(const Entry& e, DType* t) noexcept {
        static const char* const names[] = {"F32", "F16", "BF16"};
        const char*              name = dtype_name(e.dtype);
        for (int i = 0; i < 3; ++i)
            if (equal_text(name, names[i])) return *t = DType(i), true;
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
    Matrix matrix(const Name& name, int64_t rows, int64_t cols,
                  bool conv = false) noexcept { // conv: a third dimension of 1
        const int64_t want[3] = {rows, cols, 1};
        const Entry*  e = tensor(name, conv ? 3 : 2, want);
        Matrix        m;
        if (e == nullptr) return m;
        m.data = ix.data + e->begin, m.rows = int32_t(rows), m.cols = int32_t(cols);
        dtype_of(*e, &m.dtype);
        return m;
    }
    // A small vector, up-cast into `to`.
    const float* vector(const Name& name, int64_t n, float* to) noexcept {
        const Entry* e = tensor(name, 1, &n);
        for (int64_t i = 0; e != nullptr && i < n; ++i) to[i] = value(e, size_t(i));
        return to;
    }
    bool has_rank(const Name& name, int32_t rank) const noexcept {
        const Entry* e = find_tensor(ix, name.text);
        return e != nullptr && e->rank == rank;
    }
};

// One layer's continuous parameters, whichever spelling the file uses.
struct S4dParameters {
    const Entry *log_dt, *log_A_real, *A_imag, *B, *C;
    int32_t      dt_modes,
        sets;    // log_dt has one number a channel or one a mode; A and B come in `sets`, channel h uses h % sets
    double sign; // of A_imag
};

// a and b of every mode, in double, rounded once.
SSM_LOCAL void prepare_s4d(const Config& c, Binder& bind, const S4dParameters& p, const Name& dt_name,
                           const Name& A_name, float* ab, float* cc, float* rho, double* turns, float* gain) noexcept {
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
                return bind.fail(Status::bad_value, dt_name, "a step size is out of range, at the index given", 0, h);
            if (!(log_A >= -60.0 && log_A <= 60.0))
                return bind.fail(Status::bad_value, A_name,
                                 "the logarithm of a decay rate is out of range, at the index given", 0, int64_t(from));
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
                return bind.fail(Status::bad_value, A_name, "a mode turns too fast, at the index given", 0,
                                 int64_t(from));
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
                                 "makes an input weight that is not finite, at the index given", 0, int64_t(from));
            const size_t C_at = (size_t(h) * size_t(n) + size_t(j)) * 2;
            cc[at * 16 + k] = 2.0f * bind.value(p.C, C_at), cc[at * 16 + 8 + k] = 2.0f * bind.value(p.C, C_at + 1);
        }
}

SSM_LOCAL void load_layer(Layer* layer, const Config& c, Binder& bind, int32_t i, Arena* a) noexcept {
    const int64_t H = c.d_model, n = c.d_state / 2;
    const size_t  m = modes(c);
    const bool    full = full_form(bind.ix);
    const auto    floats = [&](size_t count) { return static_cast<float*>(take(a, count * sizeof(float))); };
    const auto    name = [&](const char* rest) { return layer_name("s4_layers.", i, rest); };

    S4dParameters p{};
    const Name    dt_name = name(full ? "layer.kernel.inv_dt" : "kernel.log_dt"),
               A_name = name(full ? "layer.kernel.A_real" : "kernel.log_A_real");
    const int64_t HN2[] = {H, n, 2}, HN[] = {H, n};
    if (full) {
        const Name    B_name = name("layer.kernel.B");
        const int64_t SN[] = {-1, n}, CHN2[] = {1, H, n, 2}, HX[] = {H, -1};
        p.log_dt = bind.tensor(dt_name, 2, HX);
        p.log_A_real = bind.tensor(A_name, 2, SN);
        int64_t dims[max_rank] = {};
        if (p.log_A_real != nullptr) shape_of(*p.log_A_real, dims);
        p.sets = int32_t(dims[0] > 0 && dims[0] <= H ? dims[0] : 1);
        if (dims[0] > H) bind.fail(Status::bad_shape, A_name, "a dimension does not fit the model", H, dims[0]);
        const int64_t sets_n[] = {p.sets, n}, B_shape[] = {1, p.sets, n, 2};
        p.A_imag = bind.tensor(name("layer.kernel.A_imag"), 2, sets_n);
        p.B = bind.tensor(B_name, 4, B_shape);
        p.C = bind.tensor(name("layer.kernel.C"), 4, CHN2);
        if (p.log_dt != nullptr) shape_of(*p.log_dt, dims);
        p.dt_modes = int32_t(dims[1]);
        if (p.log_dt != nullptr && dims[1] != 1 && dims[1] != n)
            bind.fail(Status::bad_shape, dt_name, "a dimension does not fit the model", n, dims[1]);
        p.sign = -1.0;
    } else {
        p = S4dParameters{bind.tensor(dt_name, 1, &H),
                          bind.tensor(A_name, 2, HN),
                          bind.tensor(name("kernel.A_imag"), 2, HN),
                          nullptr,
                          bind.tensor(name("kernel.C"), 3, HN2),
                          1,
                          int32_t(H),
                          1.0};
    }
    float * ab = floats(m * 4), *cc = floats(m * 2), *rho = floats(m), *gain = floats(m * 2);
    double* turns = static_cast<double*>(take(a, m * sizeof(double)));
    if (bind.status == Status::ok) prepare_s4d(c, bind, p, dt_name, A_name, ab, cc, rho, turns, gain);
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

// Tensors that the model has no place for. Names that golden files use for their expected values are passed over.
SSM_LOCAL Status no_extras(const Index& ix, Fault* fault) noexcept {
    static const char* const passed[] = {"test.", "grad.", "trace.", "golden.", "final.", "state."};
    const Entry*             first = nullptr;
    int64_t                  count = 0;
    for (int32_t i = 0; i < ix.n_entries; ++i) {
        const Entry& e = ix.entries[i];
        bool         pass = e.value != nullptr || e.used != 0;
        for (const char* prefix : passed) {
            const size_t len = Name().add(prefix).len;
            pass |= size_t(e.name_len) >= len && equal_bytes(e.name, prefix, len);
        }
        if (pass) continue;
        ++count;
        if (first == nullptr || e.begin < first->begin) first = &e;
    }
    if (first == nullptr) return Status::ok;
    return blame(fault, Status::extra_tensor, first->name, size_t(first->name_len),
                 "the model has no place for this tensor; number of such tensors given", 0, count);
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
} // namespace detail

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
        return blame(fault, Status::unsupported, "", 0, "this back-end is not in this build or not on this CPU");

    // 1. The index stands at the far end of the arena until load() returns.
    Arena        a = *arena;
    const size_t need = index_bytes(blob), left = a.bytes - a.used;
    if (need > left)
        return blame(fault, Status::arena_too_small, "", 0, "the arena is too small", int64_t(need), int64_t(left));
    a.bytes -= need;
    Index  ix;
    Status s = read_index(&ix, blob, static_cast<unsigned char*>(a.data) + a.bytes, need, fault);
    if (s != Status::ok) return s;

    // 2. The shape, and room for the tables.
    Model m;
    if ((s = read_config(&m.config, ix, fault)) != Status::ok) return s;
    const Config& c = m.config;
    if (opt.expect != nullptr && !(*opt.expect == c))
        return blame(fault, Status::config_mismatch, "", 0, "the file's shape is not the one this program expects");
    if (a.bytes - a.used < 16 || a.bytes - a.used - 16 < model_bytes(c))
        return blame(fault, Status::arena_too_small, "", 0, "the arena is too small",
                     int64_t(model_bytes(c) + 16 + need), int64_t(left));

    // 3. Every tensor.
    Binder     bind(ix, opt.check_values);
    const auto floats = [&](int32_t count) { return static_cast<float*>(take(&a, size_t(count) * sizeof(float))); };
    Layer*     layers = static_cast<Layer*>(take(&a, size_t(c.n_layers) * layer_bytes));
    m.encoder = bind.matrix(Name().add("encoder.weight"), c.d_model, c.d_input);
    m.encoder_bias = bind.vector(Name().add("encoder.bias"), c.d_model, floats(c.d_model));
    for (int32_t i = 0; i < c.n_layers; ++i) {
        layers[i] = Layer();
        load_layer(&layers[i], c, bind, i, &a);
    }
    m.decoder = bind.matrix(Name().add("decoder.weight"), c.d_output, c.d_model);
    m.decoder_bias = bind.vector(Name().add("decoder.bias"), c.d_output, floats(c.d_output));
    if (bind.status != Status::ok) {
        if (fault != nullptr) *fault = bind.first;
        if (bind.missing > 0 && bind.status == Status::missing_tensor && fault != nullptr)
            fault->has_numbers = true, fault->detail = "missing; number of missing tensors given",
            fault->got = bind.missing;
        return bind.status;
    }
    if ((s = no_extras(ix, fault)) != Status::ok) return s;

    // 4. All is well: only now does anything of the caller's change.
    m.layers = layers, m.kernels = kernels, m.fingerprint = fingerprint_of(blob);
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
    }
    return "unknown status";
}

} // namespace ssm

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif
#undef SSM_LOCAL
#undef SSM_INLINE
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
