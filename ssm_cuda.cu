// ssm_cuda.cu - batches of state-space models on one GPU, with the bits of ssm.hpp.
//
// The calls are described in section 1 of ssm.hpp, under SSM_CUDA. To build: nvcc 12 or 13 with -std=c++17 -fmad=false
// --expt-relaxed-constexpr, for compute capability 7.5 and later; `make cuda` does it.
//
// How it works. A state lies on the GPU as on the CPU, byte for byte, so moving one is a copy. A call's rows are taken
// in tiles of up to 16. What happens to a tile is a sequence of stages (program_of()), each a function of one block of
// threads for one part of the tile: projections (part: some of the matrix's rows), recurrences (part: some heads of
// some streams), norms. A stage reads what others left in global memory. `fused` runs all stages of a tile in one
// block, in one launch: the least latency, as long as the weights come from the L2 cache. Otherwise each stage is a
// launch over tiles and parts. Both are the same functions.
//
// Where the bits come from. Everything done to one number is a function of ssm.hpp. What is said anew here is which
// thread does which numbers and how sums come together: of integers in any order; of floats in the header's, eight
// interleaved partial sums in eight lanes of a warp and one fixed tree, sums over n and modes in order by one thread.
//
// Integer projections run on the tensor cores: mma.m16n8k32 (from sm_80; on sm_75 four m8n8k16) of 16 rows of weights
// and 8 rows of codes, 32 columns at a time. Weights lie in the order in which the lanes of a warp want them. 16-bit
// codes are two planes, the upper half signed and the lower unsigned. int4 weights are kept as int8 beside their
// sub-scales: no more bytes than the int8 model's.
//
// tests/cuda_emulator.hpp stands in for the GPU and its library in tests/cuda_emulated.cpp, which compiles this file
// with any C++ compiler: every thread of every block runs, one after the other, up to the next barrier.
//
// SPDX-License-Identifier: MIT
#ifndef SSM_CUDA_EMULATED
#include <cuda_runtime.h>
#define SSM_LAUNCH(kernel, grid, block, bytes, stream, ...) kernel<<<grid, block, bytes, stream>>>(__VA_ARGS__)
#define SSM_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#define SSM_LOOP _Pragma("unroll")
#define SSM_LOOP_1 _Pragma("unroll 1")
#define SSM_LOOP_4 _Pragma("unroll 4")
#define SSM_LOOP_8 _Pragma("unroll 8")
#endif
#ifndef SSM_CUDA
#define SSM_CUDA
#endif
#define SSM_STATIC
#define SSM_NO_SIMD
#define SSM_NO_FILES
#define SSM_IMPLEMENTATION
#include "ssm.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

namespace ssm {
namespace cuda {
namespace impl {
using namespace ssm::detail;

constexpr int32_t block_threads = 256, warps = block_threads / 32, tile_rows = 16;

// ---- What the kernels know ------------------------------------------------------------------------------------------

// A projection. Integers: frag is [block of 16 rows][32 columns][lane], the four words of a lane's part of an mma; sub
// [block][32 columns][16 rows] for the blocks with int4 rows, which come first; scale [rows] float bits. Floats: data
// as in the file. `pair`: rows o and o + rows / 2 are wanted together, so a block has 8 of each.
struct Mat {
    const uint4*         frag = nullptr;
    const signed char*   sub = nullptr;
    const uint32_t*      scale = nullptr;
    const int32_t*       bias_q = nullptr;
    const unsigned char* data = nullptr;
    const float*         bias = nullptr;
    int32_t              rows = 0, cols = 0, blocks4 = 0;
    DType                dtype = DType::f32;
    bool                 pair = false;
};
SSM_HD inline int32_t columns32(const Mat& W) { return (W.cols + 31) / 32; }
SSM_HD inline int32_t blocks_of(const Mat& W) { return W.pair ? (W.rows / 2 + 7) / 8 : (W.rows + 15) / 16; }

template <class T> struct Layer {
    S4dLayer<T>   s4d; // their pointers, but for those of matrices, point to the GPU's memory
    MambaLayer<T> mamba;
    Mat           in, out, x_proj, dt_proj, fc1, fc2; // S4D: in is output_linear
};

SSM_HD inline int32_t up4(int32_t n) { return (n + 3) / 4 * 4; }
SSM_HD inline int32_t up8(int32_t n) { return (n + 7) / 8 * 8; }

// Where things stand in a row's workspace: numbers of heads, B and C of groups, [R][H] rows of k, q and, of floats, of
// the step before (k0), each of N and a multiple of four; v, w and x: [R][d_inner].
struct MixAt {
    int32_t alpha = 0, dt = 0, beta = 0, gamma = 0, turn = 0, B = 0, C = 0, k = 0, q = 0, k0 = 0, v = 0, w = 0, x = 0,
            words = 0;
};
inline MixAt mix_at(const Config& c) {
    MixAt         a;
    const int32_t N4 = up4(c.d_state), H = c.nheads, R = c.mimo_rank, di = c.d_inner;
    const bool    q = is_integer(c);
    const auto    take = [&a](int32_t n) {
        const int32_t at = a.words;
        a.words += up4(n);
        return at;
    };
    if (c.arch == Arch::mamba3) {
        a.alpha = take(H), a.dt = take(H), a.beta = take(H), a.gamma = take(H), a.turn = take(c.rope_angles);
        a.B = take(R * c.ngroups * N4), a.C = take(R * c.ngroups * N4), a.k = take(R * H * N4), a.q = take(R * H * N4);
        if (!q) a.k0 = take(R * H * N4);
        a.v = take(R * di), a.w = take(R * di);
        if (q && c.is_mimo) a.x = take(R * di);
    } else if (q && c.arch == Arch::mamba2) {
        a.alpha = take(H), a.dt = take(H), a.k = take(c.ngroups * N4), a.q = take(c.ngroups * N4), a.v = take(c.d_ssm);
    } else if (q && c.arch == Arch::mamba1) a.dt = take(di), a.k = take(N4), a.q = take(N4), a.v = take(di);
    return a;
}
template <class T> struct Net {
    Config               c;
    const Layer<T>*      layers = nullptr;
    const Mat *          encoder = nullptr, *decoder = nullptr;
    const T *            norm_f_weight = nullptr, *norm_f_bias = nullptr;
    const unsigned char *poles = nullptr, *full = nullptr, *prior = nullptr;
    unsigned char*       states = nullptr;
    size_t               state_stride = 0;
    // Of a call, in memory that the host and the GPU see: x [rows][d_input], dt [rows] words, slots, y.
    const uint32_t *x = nullptr, *dt_in = nullptr;
    const int32_t*  slots_in = nullptr;
    uint32_t*       y = nullptr;
    // On the GPU, a row of the batch each: r and z [d_model padded], p, o; dt; and of a stream or a candidate its slot.
    T *         r = nullptr, *z = nullptr, *p = nullptr, *o = nullptr, *m = nullptr, *dt = nullptr;
    int32_t*    slots = nullptr;
    int32_t     p_stride = 0, o_stride = 0, m_stride = 0;
    MixAt       at;
    Parts       parts;                           // of a layer's state
    int32_t     head_words = 0, layer_words = 0; // of a state
    int32_t     scan_lanes = 1;                  // that share a row of N numbers
    const int2* program = nullptr;               // stage and layer
    // The call: n streams by T steps, or n candidates (T = 1) for one stream.
    int32_t n = 0, T_steps = 1, n_stages = 0;
    bool    moves = true, has_dt = false, q16 = false; // q16: x, dt and y are Q16, of integer models
    int32_t tile = tile_rows, heads_at_once = 1, channels_at_once = 1;
    bool    by_warps = false; // see mix()
};
template <class T> SSM_HD inline int32_t stride_of(const Net<T>& g) { return int32_t(padded(g.c.d_model)); }

enum Stage : int32_t {
    st_input,
    st_sound,
    st_encode,
    st_s4d_scan,
    st_s4d_mix,
    st_post_norm,
    st_in,
    st_conv,
    st_x_proj,
    st_dt_proj,
    st_prepare,
    st_mix,
    st_gates,
    st_out,
    st_fc1,
    st_fc2,
    st_finish,
    st_head
};
// The piece of work of one block: rows first .. first + count of the call, whole streams, and which part of it.
struct Piece {
    int32_t        first, count, part, parts, layer;
    unsigned char* shared;
};

// ---- Lanes and warps ------------------------------------------------------------------------------------------------

#define SSM_DEV static __device__ inline
SSM_DEV int32_t thread_id() { return int32_t(threadIdx.x); }
SSM_DEV int32_t thread_after(int32_t first) {
    return (thread_id() + block_threads - first) % block_threads;
} // 0 for `first`
SSM_DEV int32_t                               lane_id() { return int32_t(threadIdx.x) & 31; }
SSM_DEV int32_t                               warp_id() { return int32_t(threadIdx.x) >> 5; }
template <class V> static __device__ inline V from_lane_xor(V v, int32_t m) {
    return __shfl_xor_sync(0xffffffffu, v, m);
}
// Over `lanes` neighbouring lanes, a power of two. Of whole warps the hardware adds 32 bits at once: 64 bits are 22, 22
// and 20, whose sums over 32 lanes stay in 32.
SSM_DEV int64_t warp_sum(int64_t v, int32_t lanes = 32) {
#if __CUDA_ARCH__ >= 800
    if (lanes == 32) {
        const uint32_t low = __reduce_add_sync(0xffffffffu, uint32_t(v) & 0x3fffffu);
        const uint32_t mid = __reduce_add_sync(0xffffffffu, uint32_t(v >> 22) & 0x3fffffu);
        const int32_t  high = __reduce_add_sync(0xffffffffu, int32_t(v >> 44));
        return int64_t(uint64_t(int64_t(high)) << 44) + (int64_t(mid) << 22) + low;
    }
#endif
    for (int32_t m = lanes / 2; m > 0; m /= 2) v += from_lane_xor(static_cast<long long>(v), m);
    return v;
}
SSM_DEV uint32_t warp_max(uint32_t v, int32_t lanes = 32) {
#if __CUDA_ARCH__ >= 800
    if (lanes == 32) return __reduce_max_sync(0xffffffffu, v);
#endif
    for (int32_t m = lanes / 2; m > 0; m /= 2) {
        const uint32_t other = from_lane_xor(v, m);
        v = other > v ? other : v;
    }
    return v;
}
// sum_lanes() of what eight neighbouring lanes have.
SSM_DEV float eight_sum(float v) {
    for (int32_t m = 4; m > 0; m /= 2) v += from_lane_xor(v, m);
    return v;
}
// Into the cache, without waiting.
SSM_DEV void expect([[maybe_unused]] const void* at) {
#ifndef SSM_CUDA_EMULATED
    asm volatile("prefetch.global.L1 [%0];" ::"l"(at));
#endif
}
// c += a b: 16 rows of weights by 8 rows of codes over 32 columns.
#ifndef SSM_CUDA_EMULATED
template <bool Unsigned> static __device__ inline void mma(int32_t (&c)[4], const uint4& a, uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    if (Unsigned)
        asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
            : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
    else
        asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
            : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
#else
    const auto small = [](int32_t& p, int32_t& q, uint32_t w, uint32_t b) {
        if (Unsigned)
            asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.u8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
                : "+r"(p), "+r"(q)
                : "r"(w), "r"(b));
        else
            asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
                : "+r"(p), "+r"(q)
                : "r"(w), "r"(b));
    };
    small(c[0], c[1], a.x, b0), small(c[0], c[1], a.z, b1);
    small(c[2], c[3], a.y, b0), small(c[2], c[3], a.w, b1);
#endif
}
#endif

// Threads that do something together: a block's, or a warp's.
struct Gang {
    int32_t         warp, n_warps, thread, n_threads;
    __device__ void sync() const {
        if (n_warps == 1) __syncwarp();
        else __syncthreads();
    }
};

// ---- Rows, states, norms --------------------------------------------------------------------------------------------

template <class T> static __device__ inline unsigned char* state_at(const Net<T>& g, int32_t row) {
    return g.states + size_t(g.slots[g.T_steps == 1 ? row : row / g.T_steps]) * g.state_stride;
}
template <class T> static __device__ inline T* words_at(const Net<T>& g, int32_t row) { // behind the header
    return reinterpret_cast<T*>(state_at(g, row) + state_header_bytes);
}
// Whether floats settle after step t of this launch.
template <class T> static __device__ inline bool settles_at(const Net<T>& g, int32_t row0, int32_t t) {
    return settles(*reinterpret_cast<const uint64_t*>(state_at(g, row0)) + uint64_t(t) + 1);
}
template <class T> static __device__ inline T* layer_at(const Net<T>& g, int32_t row, int32_t layer) {
    return words_at(g, row) + g.head_words + ptrdiff_t(layer) * g.layer_words;
}
template <class T> static __device__ inline void note_hit(const Net<T>& g, int32_t row, bool hit) {
    if (hit && g.moves) atomicOr(reinterpret_cast<unsigned*>(state_at(g, row) + 8), 1u);
}
SSM_DEV float    word_as(uint32_t w, bool, const float*) { return float_of(int32_t(w)); }
SSM_DEV int32_t  word_as(uint32_t w, bool q16, const int32_t*) { return q16 ? int32_t(w) : to_q16(w); }
SSM_DEV uint32_t as_output(float v, bool) { return uint32_t(bits_of(v)); }
SSM_DEV uint32_t as_output(int32_t v, bool q16) { return q16 ? uint32_t(v) : q16_bits(v); }
SSM_DEV float    one_step(const float*) { return 1.0f; }
SSM_DEV int32_t  one_step(const int32_t*) { return 65536; }

// The norm of one row, by `lanes` neighbouring lanes, 8 to 32: made of all its numbers, then asked for one.
template <class T> struct RowNorm;
template <> struct RowNorm<int32_t> {
    int64_t    mean = 0;
    NormQ      q;
    bool       narrow;
    __device__ RowNorm(const int32_t* x, int32_t n, bool centred, int32_t shift = 24, int32_t lanes = 32)
        : q(0, shift), narrow(n <= 4096) {
        if (n == 0) return; // not asked for
        const int32_t first = lane_id() % lanes;
        int64_t       sum = 0;
        SSM_LOOP_4
        for (int32_t i = first; centred && i < n; i += lanes) sum += x[i];
        if (centred) mean = mean_q(warp_sum(sum, lanes), n);
        int32_t length = 0;
        SSM_LOOP_4
        for (int32_t i = first; i < n; i += lanes) {
            const int64_t v = x[i] - mean;
            const int32_t own = bit_length(uint64_t(v < 0 ? -v : v));
            length = own > length ? own : length;
        }
        q = NormQ(int32_t(warp_max(uint32_t(length), lanes)), shift);
        sum = 0;
        SSM_LOOP_4
        for (int32_t i = first; i < n; i += lanes) {
            const int64_t w = q.small<int64_t>(x[i] - mean);
            sum += wide<int64_t>::mul(w, w);
        }
        q.finish(warp_sum(sum, lanes), n);
    }
    __device__ int32_t at(int32_t x, int32_t g, int32_t b) const {
        return int32_t(narrow ? q.number<int64_t, true>(x - mean, q.r, g, b) : q.number<int64_t>(x - mean, q.r, g, b));
    }
};
template <> struct RowNorm<float> {
    float      mean = 0.0f, scale = 0.0f;
    bool       layer;
    __device__ RowNorm(const float* x, int32_t n, bool centred, int32_t = 0, int32_t = 32) : layer(centred) {
        if (n == 0) return;
        float sum = 0.0f;
        SSM_LOOP_8
        for (int32_t i = lane_id() % 8; centred && i < n; i += 8) sum += x[i];
        if (centred) mean = eight_sum(sum) / static_cast<float>(n);
        sum = 0.0f;
        SSM_LOOP_8
        for (int32_t i = lane_id() % 8; i < n; i += 8) {
            const float d = centred ? x[i] - mean : x[i];
            sum += d * d;
        }
        scale = rsqrt(eight_sum(sum) / static_cast<float>(n) + norm_eps);
    }
    __device__ float at(float x, float g, float b) const {
        return layer ? ((x - mean) * scale) * g + b : (x * scale) * g;
    }
};
template <class T> static __device__ inline T bias_at(const T* b, int32_t i) { return b != nullptr ? b[i] : T(); }

// ---- Projections ----------------------------------------------------------------------------------------------------
//
// First the rows of x, or their norms, go into shared memory, as codes or as floats; then each warp takes some rows of
// the matrix.

struct Source { // x: [rows][stride]; norm_weight null: as it is
    const void *x, *norm_weight, *norm_bias;
    int32_t     stride;
    bool        centred;
};
enum class Then : int32_t { store, add, glu, gate, give }; // what becomes of y, or of the pair (y, y2)
template <class T> struct Sink {
    Then      then;
    T*        to; // [rows][stride]
    uint32_t* y;  // give: the host's
    int32_t   stride;
    bool      q16;
};
SSM_DEV void sink(const Sink<int32_t>& s, int32_t t, int32_t o, int32_t v, int32_t v2) {
    int32_t* const at = s.to + ptrdiff_t(t) * s.stride + o;
    if (s.then == Then::store) *at = v;
    else if (s.then == Then::add) *at = int32_t(sat_q(int64_t(*at) + v));
    else if (s.then == Then::glu) *at = int32_t(sat_q(*at + rs<30>(product(v, int32_t(sigmoid_q(to26(int64_t(v2))))))));
    else if (s.then == Then::gate) *at = int32_t(gated_q(int64_t(v), int64_t(v2)));
    else s.y[ptrdiff_t(t) * s.stride + o] = as_output(v, s.q16);
}
SSM_DEV void sink(const Sink<float>& s, int32_t t, int32_t o, float v, float v2) {
    float* const at = s.to + ptrdiff_t(t) * s.stride + o;
    if (s.then == Then::store) *at = v;
    else if (s.then == Then::add) *at += v;
    else if (s.then == Then::glu) *at += v * sigmoid(v2);
    else if (s.then == Then::gate) *at = v * silu(v2);
    else s.y[ptrdiff_t(t) * s.stride + o] = as_output(v, s.q16);
}

SSM_HD inline int32_t code_stride(int32_t cols) { return (cols + 31) / 32 * 32 + 16; } // so that banks do not meet
constexpr int32_t     sums_at_once = 2048; // of one row, that wait in shared memory to become outputs
// Shared memory for projections of up to so many columns.
SSM_HD inline size_t project_bytes(const Config& c, int32_t cols, int32_t rows) {
    return is_integer(c) ? 256 + size_t(up8(rows)) * size_t(code_stride(cols) * (c.act_bits / 8) + 8) +
                               size_t(sums_at_once) * 8 // the last may be alone
                         : size_t(up4(rows)) * size_t(cols + 4) * 4;
}

// What all threads give, and what each of 8 warps has made of its own, in `at` [8].
template <class V, class F> static __device__ inline V of_block(V v, V* at, const F& f) {
    if (lane_id() == 0) at[warp_id()] = v;
    __syncthreads();
    v = at[0];
    SSM_LOOP
    for (int32_t w = 1; w < warps; ++w) v = f(v, at[w]);
    return v;
}
constexpr int32_t scratch_bytes_of_block = 256; // in front of the codes
// One row by the whole block.
SSM_DEV void load_row(int32_t bits, const Source& s, int32_t cols, unsigned char* shared) {
    const int32_t *x = static_cast<const int32_t*>(s.x), *weight = static_cast<const int32_t*>(s.norm_weight),
                  *bias = static_cast<const int32_t*>(s.norm_bias);
    int64_t* const scratch = reinterpret_cast<int64_t*>(shared);
    unsigned char *codes = shared + scratch_bytes_of_block + 64, *low = codes + 8 * code_stride(cols);
    const auto     sum_of = [](int64_t p, int64_t q) { return p + q; };
    const auto     most_of = [](uint32_t p, uint32_t q) { return p > q ? p : q; };
    int64_t        mean = 0, sum = 0;
    uint32_t       most = 0;
    NormQ          q(0, 24);
    if (weight != nullptr) {
        SSM_LOOP_1
        for (int32_t i = thread_id(); s.centred && i < cols; i += block_threads) sum += x[i];
        if (s.centred) mean = mean_q(of_block(warp_sum(sum), scratch, sum_of), cols);
        SSM_LOOP_1
        for (int32_t i = thread_id(); i < cols; i += block_threads) {
            const int64_t  v = x[i] - mean;
            const uint32_t length = uint32_t(bit_length(uint64_t(v < 0 ? -v : v)));
            most = length > most ? length : most;
        }
        q = NormQ(int32_t(of_block(warp_max(most), reinterpret_cast<uint32_t*>(scratch + 8), most_of)), 24);
        sum = 0;
        SSM_LOOP_1
        for (int32_t i = thread_id(); i < cols; i += block_threads) {
            const int64_t w = q.small<int64_t>(x[i] - mean);
            sum += wide<int64_t>::mul(w, w);
        }
        q.finish(of_block(warp_sum(sum), scratch + 16, sum_of), cols);
    }
    const bool narrow = cols <= 4096;
    const auto value = [&](int32_t i) {
        if (weight == nullptr) return x[i];
        const int64_t c = x[i] - mean, g = weight[i], b = bias_at(bias, i);
        return int32_t(narrow ? q.number<int64_t, true>(c, q.r, g, b) : q.number<int64_t>(c, q.r, g, b));
    };
    int32_t first = 0; // this thread's first number
    most = 0;
    SSM_LOOP_1
    for (int32_t i = thread_id(); i < cols; i += block_threads) {
        const int32_t v = value(i);
        if (i == thread_id()) first = v;
        most = size_of(v) > most ? size_of(v) : most;
    }
    const Quotients t(of_block(warp_max(most), reinterpret_cast<uint32_t*>(scratch + 24), most_of), bits);
    SSM_LOOP_1
    for (int32_t i = thread_id(); i < (cols + 31) / 32 * 32; i += block_threads) {
        const int32_t code = i >= cols ? 0 : t.code(i == thread_id() ? first : value(i), bits);
        codes[i] = static_cast<unsigned char>(bits == 8 ? code : code >> 8);
        if (bits != 8) low[i] = static_cast<unsigned char>(code & 255);
    }
    if (thread_id() == 0) *reinterpret_cast<int2*>(shared + scratch_bytes_of_block) = make_int2(t.num, t.den);
}
// Many rows, a warp each.
SSM_DEV void load_rows(int32_t bits, const Source& s, int32_t cols, int32_t rows, unsigned char* shared) {
    const int32_t  stride = code_stride(cols), whole = (cols + 31) / 32 * 32, all = up8(rows);
    const int32_t *weight = static_cast<const int32_t*>(s.norm_weight),
                  *bias = static_cast<const int32_t*>(s.norm_bias);
    shared += scratch_bytes_of_block;
    int2* const    scales = reinterpret_cast<int2*>(shared);
    unsigned char *high = shared + all * 8, *low = high + all * stride;
    SSM_LOOP_1
    for (int32_t t = warp_id(); t < all; t += warps) {
        if (t >= rows) { // rows that nobody has: zeros
            SSM_LOOP_1
            for (int32_t i = lane_id(); i < whole; i += 32) {
                high[t * stride + i] = 0;
                if (bits != 8) low[t * stride + i] = 0;
            }
            continue;
        }
        const int32_t*         x = static_cast<const int32_t*>(s.x) + ptrdiff_t(t) * s.stride;
        const RowNorm<int32_t> norm(x, weight != nullptr ? cols : 0, s.centred);
        const auto             value = [&](int32_t i) {
            return weight != nullptr ? norm.at(x[i], weight[i], bias_at(bias, i)) : x[i];
        };
        const auto put = [&](const Quotients& q, int32_t i, int32_t v) {
            const int32_t code = q.code(v, bits);
            high[t * stride + i] = static_cast<unsigned char>(bits == 8 ? code : code >> 8);
            if (bits != 8) low[t * stride + i] = static_cast<unsigned char>(code & 255);
        };
        uint32_t top = 0;
        int32_t  v[8];
        if (whole <= 256) { // each lane keeps its own
            SSM_LOOP
            for (int32_t j = 0; j < 8; ++j) {
                const int32_t i = lane_id() + j * 32;
                v[j] = i < cols ? value(i) : 0, top = size_of(v[j]) > top ? size_of(v[j]) : top;
            }
        } else {
            SSM_LOOP_4
            for (int32_t i = lane_id(); i < cols; i += 32) {
                const uint32_t size = size_of(value(i));
                top = size > top ? size : top;
            }
        }
        const Quotients q(warp_max(top), bits);
        if (whole <= 256) {
            SSM_LOOP
            for (int32_t j = 0; j < 8; ++j)
                if (j * 32 < whole) put(q, lane_id() + j * 32, v[j]);
        } else {
            SSM_LOOP_4
            for (int32_t i = lane_id(); i < whole; i += 32) put(q, i, i < cols ? value(i) : 0);
        }
        if (lane_id() == 0) scales[t] = make_int2(q.num, q.den);
    }
}
SSM_DEV void load_rows(int32_t, const Source& s, int32_t cols, int32_t rows, unsigned char* shared, const float*) {
    const int32_t stride = cols + 4, all = up4(rows);
    const float * weight = static_cast<const float*>(s.norm_weight), *bias = static_cast<const float*>(s.norm_bias);
    float* const  to = reinterpret_cast<float*>(shared);
    SSM_LOOP_1
    for (int32_t t = warp_id(); t < all; t += warps) {
        const float*   x = static_cast<const float*>(s.x) + ptrdiff_t(t < rows ? t : 0) * s.stride;
        RowNorm<float> norm(x, weight != nullptr ? cols : 0, s.centred);
        for (int32_t i = lane_id(); i < cols; i += 32)
            to[t * stride + i] = t >= rows           ? 0.0f
                                 : weight != nullptr ? norm.at(x[i], weight[i], bias_at(bias, i))
                                                     : x[i];
    }
}
SSM_DEV void load_rows(int32_t bits, const Source& s, int32_t cols, int32_t rows, unsigned char* shared,
                       const int32_t*) {
    if (rows == 1) load_row(bits, s, cols, shared);
    else load_rows(bits, s, cols, rows, shared);
}

// One block of 16 rows of weights by Tiles times 8 rows of codes.
template <int Tiles, int Planes, bool Grouped>
static __device__ inline void block_dots(const Mat& W, int32_t block, const unsigned char* codes, int32_t stride,
                                         int32_t plane, int64_t (&out)[Tiles][4]) {
    const int32_t lane = lane_id(), g = lane / 4, q = lane % 4, groups = columns32(W);
    const uint4*  a_at = W.frag + size_t(block) * size_t(groups) * 32 + lane;
    int32_t       acc[Planes][Tiles][4] = {};
    SSM_LOOP
    for (int32_t n = 0; n < Tiles; ++n)
        for (int32_t i = 0; i < 4; ++i) out[n][i] = 0;
    uint4 ahead[4];
    SSM_LOOP
    for (int32_t j = 0; j < 4; ++j)
        if (j < groups) ahead[j] = a_at[j * 32];
    for (int32_t k = 0; k < groups; ++k) {
        const uint4 a = ahead[0];
        ahead[0] = ahead[1], ahead[1] = ahead[2], ahead[2] = ahead[3];
        if (k + 4 < groups) ahead[3] = a_at[(k + 4) * 32];
        SSM_LOOP
        for (int32_t n = 0; n < Tiles; ++n) {
            const unsigned char* b = codes + (n * 8 + g) * stride + k * 32 + q * 4;
            mma<false>(acc[0][n], a, *reinterpret_cast<const uint32_t*>(b), *reinterpret_cast<const uint32_t*>(b + 16));
            if (Planes == 2) {
                b += plane;
                mma<true>(acc[Planes - 1][n], a, *reinterpret_cast<const uint32_t*>(b),
                          *reinterpret_cast<const uint32_t*>(b + 16));
            }
        }
        if (Grouped) {
            const signed char* sub = W.sub + (size_t(block) * size_t(groups) + size_t(k)) * 16 + g;
            SSM_LOOP
            for (int32_t n = 0; n < Tiles; ++n) SSM_LOOP
            for (int32_t i = 0; i < 4; ++i) {
                const int32_t part = Planes == 2 ? acc[0][n][i] * 256 + acc[Planes - 1][n][i] : acc[0][n][i];
                out[n][i] += product(part, i < 2 ? sub[0] : sub[8]);
                acc[0][n][i] = 0, acc[Planes - 1][n][i] = 0;
            }
        }
    }
    if (!Grouped) {
        SSM_LOOP
        for (int32_t n = 0; n < Tiles; ++n) SSM_LOOP
        for (int32_t i = 0; i < 4; ++i)
            out[n][i] = Planes == 2 ? int64_t(acc[0][n][i]) * 256 + acc[Planes - 1][n][i] : acc[0][n][i];
    }
}
template <int Tiles>
static __device__ inline void any_dots(int32_t bits, const Mat& W, int32_t block, const unsigned char* codes,
                                       int32_t stride, int32_t plane, int64_t (&out)[Tiles][4]) {
    const bool grouped = block < W.blocks4;
    if (bits == 8 && !grouped) block_dots<Tiles, 1, false>(W, block, codes, stride, 0, out);
    else if (bits == 8) block_dots<Tiles, 1, true>(W, block, codes, stride, 0, out);
    else if (!grouped) block_dots<Tiles, 2, false>(W, block, codes, stride, plane, out);
    else block_dots<Tiles, 2, true>(W, block, codes, stride, plane, out);
}
// scalar::rescaled() of a sum of codes of 8 bits, which has 32: products of 32 bits are enough.
SSM_DEV int32_t rescaled8(int32_t acc, int32_t num, int32_t den, const Scale& s, int32_t bias) {
    const int64_t y = product(acc, int32_t(rs<24>(product(num, s.m))));
    const int32_t shift = den + s.e - 24;
    return sat((shift > 0 && shift < 63 ? (y + (int64_t(1) << (shift - 1))) >> shift : rs(y, shift)) + bias);
}
SSM_DEV int32_t output_of(int32_t bits, int64_t acc, const int2& scale, const Scale& s, int32_t bias) {
    if (bits == 8) return rescaled8(int32_t(acc), scale.x, scale.y, s, bias);
    return scalar::rescaled(acc, scale.x, scale.y, s, bias, bits);
}
// Many rows of x: each lane makes outputs of the sums it has.
template <int Tiles>
static __device__ inline void multiply_tiles(int32_t bits, const Mat& W, int32_t rows, int32_t first, int32_t end,
                                             const Sink<int32_t>& to, const unsigned char* shared) {
    const int32_t        stride = code_stride(W.cols), all = up8(rows), lane = lane_id(), g = lane / 4, q = lane % 4;
    const int2* const    scales = reinterpret_cast<const int2*>(shared);
    const unsigned char* codes = shared + all * 8;
    SSM_LOOP_1
    for (int32_t block = first + warp_id(); block < end; block += warps) {
        const int32_t half = W.rows / 2, o = W.pair ? block * 8 + g : block * 16 + g, o2 = W.pair ? half + o : o + 8;
        const int32_t last = W.pair ? half : W.rows, safe = o < last ? o : 0;
        const bool    second = o < last && (W.pair || o2 < last);
        const Scale   s(W.scale[safe]), s2(W.scale[second ? o2 : safe]); // on their way while the sums are made
        const int32_t b = bias_at(W.bias_q, safe), b2 = second ? bias_at(W.bias_q, o2) : 0;
        int64_t       sums[Tiles][4];
        any_dots<Tiles>(bits, W, block, codes, stride, all * stride, sums);
        if (o >= last) continue; // all lanes meet again at the next mma: `block` is the warp's
        SSM_LOOP
        for (int32_t n = 0; n < Tiles; ++n) SSM_LOOP
        for (int32_t i = 0; i < 2; ++i) {
            const int32_t t = n * 8 + q * 2 + i;
            if (t >= rows) continue;
            const int32_t v = output_of(bits, sums[n][i], scales[t], s, b),
                          v2 = output_of(bits, sums[n][i + 2], scales[t], s2, b2);
            sink(to, t, o, v, v2);
            if (!W.pair && second) sink(to, t, o2, v2, 0);
        }
    }
}
// Blocks `block` and `block` + warps, int8, by one tile of codes.
SSM_DEV void two_dots(const Mat& W, int32_t block, const unsigned char* codes, int32_t (&out)[2][4]) {
    const int32_t lane = lane_id(), groups = columns32(W);
    const uint4*  a_at = W.frag + size_t(block) * size_t(groups) * 32 + lane;
    const size_t  apart = size_t(warps) * size_t(groups) * 32;
    codes += lane / 4 * code_stride(W.cols) + lane % 4 * 4;
    SSM_LOOP
    for (int32_t i = 0; i < 4; ++i) out[0][i] = out[1][i] = 0;
    SSM_LOOP_1
    for (int32_t k = 0; k < groups; k += 4) {
        uint4    a[2][4] = {};
        uint32_t x[2][4] = {};
        SSM_LOOP
        for (int32_t j = 0; j < 4; ++j) {
            if (k + j >= groups) continue;
            a[0][j] = a_at[(k + j) * 32], a[1][j] = a_at[apart + size_t(k + j) * 32];
            const unsigned char* const b = codes + (k + j) * 32;
            x[0][j] = *reinterpret_cast<const uint32_t*>(b), x[1][j] = *reinterpret_cast<const uint32_t*>(b + 16);
        }
        SSM_LOOP
        for (int32_t j = 0; j < 4; ++j)
            mma<false>(out[0], a[0][j], x[0][j], x[1][j]), mma<false>(out[1], a[1][j], x[0][j], x[1][j]);
    }
}
// One row of x: only two lanes of eight have sums of it, so these go to shared memory first, and then all threads make
// outputs.
SSM_DEV void multiply_row(int32_t bits, const Mat& W, int32_t first, int32_t end, const Sink<int32_t>& to,
                          unsigned char* shared) {
    const int32_t        stride = code_stride(W.cols), lane = lane_id(), g = lane / 4;
    const int2           scale = *reinterpret_cast<const int2*>(shared);
    const unsigned char* codes = shared + 64;
    int64_t* const       sums = reinterpret_cast<int64_t*>(shared + 64 + 8 * stride * (bits / 8)); // [block][row of 16]
    const int32_t        half = W.rows / 2, last = W.pair ? half : W.rows, of_block = W.pair ? 8 : 16,
                  at_once = sums_at_once / 16;
    SSM_LOOP_1
    for (int32_t from = first; from < end; from += at_once) {
        const int32_t count = end - from < at_once ? end - from : at_once;
        SSM_LOOP_1
        for (int32_t b = warp_id(); b < count; b += warps) {
            if (bits == 8 && from + b >= W.blocks4 && b + warps < count) { // two at once: their weights come together
                int32_t two[2][4];
                two_dots(W, from + b, codes, two);
                if (lane % 4 == 0) {
                    sums[b * 16 + g] = two[0][0], sums[b * 16 + g + 8] = two[0][2];
                    sums[(b + warps) * 16 + g] = two[1][0], sums[(b + warps) * 16 + g + 8] = two[1][2];
                }
                b += warps;
                continue;
            }
            int64_t out[1][4];
            any_dots<1>(bits, W, from + b, codes, stride, 8 * stride, out);
            if (lane % 4 == 0) sums[b * 16 + g] = out[0][0], sums[b * 16 + g + 8] = out[0][2];
        }
        __syncthreads();
        SSM_LOOP_1
        for (int32_t j = thread_id(); j < count * of_block; j += block_threads) {
            const int32_t o = from * of_block + j;
            if (o >= last) continue;
            const int64_t* const sum = sums + (W.pair ? j / 8 * 16 + j % 8 : j);
            int32_t              v[2] = {0, 0};
            SSM_LOOP_1
            for (int32_t k = 0; k <= int32_t(W.pair); ++k) {
                const int32_t row = k == 0 ? o : half + o;
                v[1] = v[0], v[0] = output_of(bits, sum[k * 8], scale, Scale(W.scale[row]), bias_at(W.bias_q, row));
            }
            sink(to, 0, o, W.pair ? v[1] : v[0], v[0]);
        }
        if (from + at_once < end) __syncthreads();
    }
}
static __device__ inline void multiply(int32_t bits, const Mat& W, int32_t rows, int32_t part, int32_t parts,
                                       const Sink<int32_t>& to, unsigned char* shared) {
    const int32_t blocks = blocks_of(W), first = int32_t(int64_t(blocks) * part / parts),
                  end = int32_t(int64_t(blocks) * (part + 1) / parts);
    shared += scratch_bytes_of_block;
    if (rows == 1) multiply_row(bits, W, first, end, to, shared);
    else if (rows <= 8) multiply_tiles<1>(bits, W, rows, first, end, to, shared);
    else multiply_tiles<2>(bits, W, rows, first, end, to, shared);
}

template <DType D> static __device__ inline float weight_at(const unsigned char* data, ptrdiff_t i) {
    if (D == DType::f32) return reinterpret_cast<const float*>(data)[i];
    const uint16_t h = reinterpret_cast<const uint16_t*>(data)[i];
    return D == DType::f16 ? f16_to_f32(h) : float_of(int32_t(uint32_t(h) << 16));
}
// Eight lanes have the eight partial sums of 4 rows of the matrix by 4 of x at a time.
template <DType D>
static __device__ inline void multiply_floats(const Mat& W, int32_t rows, int32_t first, int32_t end,
                                              const Sink<float>& to, const float* x) {
    const int32_t stride = W.cols + 4, lane = lane_id(), l = lane % 8, group = lane / 8, half = W.rows / 2;
    const int32_t last = W.pair ? half : W.rows;
    SSM_LOOP_1
    for (int32_t block = first + warp_id(); block < end; block += warps) {
        ptrdiff_t at[4];
        int32_t   o[4];
        SSM_LOOP
        for (int32_t j = 0; j < 4; ++j) {
            o[j] = W.pair ? block * 8 + group * 2 + j % 2 : block * 16 + group * 4 + j;
            at[j] = ptrdiff_t(o[j] < last ? o[j] : last - 1) + (W.pair && j >= 2 ? half : 0);
        }
        for (int32_t t = 0; t < rows; t += 4) {
            float acc[4][4] = {};
            SSM_LOOP_4
            for (int32_t k = l; k < W.cols; k += 8) {
                float w[4];
                SSM_LOOP
                for (int32_t j = 0; j < 4; ++j) w[j] = weight_at<D>(W.data, at[j] * W.cols + k);
                SSM_LOOP
                for (int32_t i = 0; i < 4; ++i) {
                    const float v = x[(t + i) * stride + k];
                    SSM_LOOP
                    for (int32_t j = 0; j < 4; ++j) acc[j][i] += w[j] * v;
                }
            }
            SSM_LOOP
            for (int32_t j = 0; j < 4; ++j) SSM_LOOP
            for (int32_t i = 0; i < 4; ++i)
                acc[j][i] = eight_sum(acc[j][i]) + (W.bias != nullptr ? W.bias[at[j]] : 0.0f);
            SSM_LOOP
            for (int32_t j = 0; j < 4; ++j) SSM_LOOP
            for (int32_t i = 0; i < 4; ++i)
                if ((j * 4 + i) % 8 == l && t + i < rows && o[j] < last && (!W.pair || j < 2))
                    sink(to, t + i, o[j], acc[j][i], acc[(j + 2) % 4][i]);
        }
    }
}
static __device__ inline void multiply(int32_t, const Mat& W, int32_t rows, int32_t part, int32_t parts,
                                       const Sink<float>& to, const unsigned char* shared) {
    const int32_t blocks = blocks_of(W), first = int32_t(int64_t(blocks) * part / parts),
                  end = int32_t(int64_t(blocks) * (part + 1) / parts);
    const float* x = reinterpret_cast<const float*>(shared);
    if (W.dtype == DType::f32) multiply_floats<DType::f32>(W, rows, first, end, to, x);
    else if (W.dtype == DType::f16) multiply_floats<DType::f16>(W, rows, first, end, to, x);
    else multiply_floats<DType::bf16>(W, rows, first, end, to, x);
}

// On their way into the cache while the row is made ready: what a block needs of the weights, up to 128 KB of them.
SSM_DEV void expect(const Mat& W, int32_t part, int32_t parts, const int32_t*) {
    const int32_t blocks = blocks_of(W), groups = columns32(W), first = int32_t(int64_t(blocks) * part / parts),
                  lines = (int32_t(int64_t(blocks) * (part + 1) / parts) - first) * groups * 4;
    const char* const at = reinterpret_cast<const char*>(W.frag + size_t(first) * size_t(groups) * 32);
    SSM_LOOP_1
    for (int32_t i = thread_id(); i < lines && i < 1024; i += block_threads) expect(at + i * 128);
    SSM_LOOP_1
    for (int32_t i = thread_id() * 32; i < W.rows; i += block_threads * 32) {
        expect(W.scale + i);
        if (W.bias_q != nullptr) expect(W.bias_q + i);
    }
}
SSM_DEV void expect(const Mat&, int32_t, int32_t, const float*) {}
// Once in a kernel, however often it is asked for.
template <class T>
static __device__ __noinline__ void project_rows(int32_t bits, const Source& s, const Mat& there, const Sink<T>& to,
                                                 int32_t rows, int32_t part, int32_t parts, unsigned char* shared) {
    const Mat W = there; // read once
    if (rows == 1) expect(W, part, parts, static_cast<const T*>(nullptr));
    load_rows(bits, s, W.cols, rows, shared, static_cast<const T*>(nullptr));
    __syncthreads();
    multiply(bits, W, rows, part, parts, to, shared);
    __syncthreads();
}
// y = W x for the rows of a piece: x at `from`, [row of the call][stride].
template <class T>
static __device__ inline void project(const Net<T>& g, const Piece& a, const Mat& W, const T* from, int32_t stride,
                                      const T* norm_weight, const T* norm_bias, const Sink<T>& to) {
    const Source s{from + ptrdiff_t(a.first) * stride, norm_weight, norm_bias, stride, norm_bias != nullptr};
    project_rows<T>(g.c.act_bits, s, W, to, a.count, a.part, a.parts, a.shared);
}
template <class T> static __device__ inline Sink<T> sink_of(Then then, T* to, int32_t stride, int32_t first) {
    return Sink<T>{then, to + ptrdiff_t(first) * stride, nullptr, stride, false};
}

// ---- S4D ------------------------------------------------------------------------------------------------------------

template <class T> struct Norms { // of each row of a piece, in shared memory, or none
    RowNorm<T>*  of;
    const T *    weight, *bias;
    __device__ T at(const T* r, int32_t t, int32_t k) const {
        return of != nullptr ? of[t].at(r[k], weight[k], bias_at(bias, k)) : r[k];
    }
};
template <class T>
static __device__ inline Norms<T> norms_of(const Net<T>& g, const Piece& a, const T* weight, const T* bias) {
    RowNorm<T>* of = reinterpret_cast<RowNorm<T>*>(a.shared);
    SSM_LOOP_1
    for (int32_t t = warp_id(); t < a.count; t += warps) {
        const RowNorm<T> norm(g.r + ptrdiff_t(a.first + t) * stride_of(g), g.c.d_model, bias != nullptr);
        if (lane_id() == 0) of[t] = norm;
    }
    __syncthreads();
    return Norms<T>{of, weight, bias};
}

// A channel's modes in `lanes` neighbouring lanes, up to Each in one, over all steps; z = gelu(s).
template <int Each>
static __device__ inline void s4d_channel(const Net<int32_t>& g, const Piece& a, const S4dLayer<int32_t>& l,
                                          const Norms<int32_t>& norms, int32_t row, int32_t h, int32_t lanes,
                                          bool real) {
    const int32_t m = g.c.d_state / 2, sub = lane_id() % lanes, t_frac = 30 + g.c.g_frac - g.c.b_frac,
                  stride = stride_of(g);
    int32_t* state = layer_at(g, row, a.layer) + ptrdiff_t(h) * m * 2;
    int32_t  xr[Each], xi[Each], ar[Each], ai[Each], br[Each], bi[Each], cr[Each], ci[Each], made = 65536;
    bool     hit = false;
    SSM_LOOP
    for (int32_t e = 0; e < Each; ++e) {
        const int32_t j = sub + e * lanes;
        const bool    on = real && j < m;
        xr[e] = on ? state[j * 2] : 0, xi[e] = on ? state[j * 2 + 1] : 0;
        const int16_t* C = reinterpret_cast<const int16_t*>(l.C) + (ptrdiff_t(h) * m + (on ? j : 0)) * 2;
        cr[e] = on ? C[0] : 0, ci[e] = on ? C[1] : 0;
        ar[e] = ai[e] = br[e] = bi[e] = 0;
    }
    bool fresh = true;
    SSM_LOOP_1
    for (int32_t t = 0; t < g.T_steps; ++t) {
        const int32_t i = row + t, dt = g.dt[i];
        const int32_t u = real ? norms.at(g.r + ptrdiff_t(i) * stride, i - a.first, h) : 0;
        if (fresh || dt != made) {
            SSM_LOOP
            for (int32_t e = 0; e < Each; ++e) {
                const int32_t   j = sub + e * lanes;
                const ptrdiff_t k = ptrdiff_t(h) * m + j;
                if (!real || j >= m) continue;
                if (dt == 65536) {
                    const int32_t *A = reinterpret_cast<const int32_t*>(l.a) + k * 2,
                                  *B = reinterpret_cast<const int32_t*>(l.b) + k * 2;
                    ar[e] = A[0], ai[e] = A[1], br[e] = B[0], bi[e] = B[1];
                } else {
                    const ModeOfQ mode(l.rho + k * 4, l.phase + k * 8, l.gain + k * 8, dt, t_frac);
                    ar[e] = mode.ar, ai[e] = mode.ai, br[e] = mode.br, bi[e] = mode.bi;
                }
            }
        }
        fresh = false, made = dt;
        int64_t sum = 0;
        SSM_LOOP
        for (int32_t e = 0; e < Each; ++e) {
            int32_t r, v;
            scalar::s4d_mode(ar[e], ai[e], br[e], bi[e], xr[e], xi[e], u, g.c.b_frac - 9, g.c.clip_q25, &r, &v, &hit);
            xr[e] = r, xi[e] = v;
            sum += product(cr[e], r) - product(ci[e], v);
        }
        sum = warp_sum(sum, lanes);
        if (real && sub == 0)
            g.z[ptrdiff_t(i) * stride + h] = int32_t(gelu_q(
                int64_t(scalar::s4d_read(Scale(reinterpret_cast<const uint32_t*>(l.C_scale)[h]), l.D[h], sum, u))));
    }
    SSM_LOOP
    for (int32_t e = 0; e < Each; ++e) {
        const int32_t j = sub + e * lanes;
        if (g.moves && real && j < m) state[j * 2] = xr[e], state[j * 2 + 1] = xi[e];
    }
    note_hit(g, row, hit);
}
SSM_DEV void s4d_scan(const Net<int32_t>& g, const Piece& a) {
    const S4dLayer<int32_t>& l = g.layers[a.layer].s4d;
    const int32_t            H = g.c.d_model, m = g.c.d_state / 2;
    Norms<int32_t>           norms{nullptr, nullptr, nullptr};
    if (g.c.prenorm) norms = norms_of(g, a, l.norm_weight, l.norm_bias);
    int32_t lanes = 1;
    while (lanes < 32 && lanes < m) lanes *= 2;
    const int32_t streams = a.count / g.T_steps, at_once = 32 / lanes, from = int32_t(int64_t(H) * a.part / a.parts),
                  count = int32_t(int64_t(H) * (a.part + 1) / a.parts) - from;
    SSM_LOOP_1
    for (int32_t i = warp_id() * at_once; i < streams * count; i += warps * at_once) { // the same for all of a warp
        const int32_t own = i + lane_id() / lanes, safe = own < streams * count ? own : i;
        const int32_t row = a.first + safe / count * g.T_steps, h = from + safe % count;
        if (m <= lanes) s4d_channel<1>(g, a, l, norms, row, h, lanes, own < streams * count);
        else s4d_channel<8>(g, a, l, norms, row, h, lanes, own < streams * count);
    }
    __syncthreads();
}
SSM_DEV void s4d_scan(const Net<float>& g, const Piece& a) {
    const S4dLayer<float>& l = g.layers[a.layer].s4d;
    const int32_t          H = g.c.d_model, m = g.c.d_state / 2, stride = stride_of(g);
    const float            clip = g.c.state_clip > 0.0f ? g.c.state_clip : FLT_MAX;
    Norms<float>           norms{nullptr, nullptr, nullptr};
    if (g.c.prenorm) norms = norms_of(g, a, l.norm_weight, l.norm_bias);
    const int32_t streams = a.count / g.T_steps, from = int32_t(int64_t(H) * a.part / a.parts),
                  count = int32_t(int64_t(H) * (a.part + 1) / a.parts) - from;
    SSM_LOOP_1
    for (int32_t i = thread_id(); i < streams * count; i += block_threads) {
        const int32_t   row = a.first + i / count * g.T_steps, h = from + i % count;
        const ptrdiff_t block = ptrdiff_t(h / 8) * m, lane = h % 8;
        float*          state = layer_at(g, row, a.layer) + block * 16 + lane;
        bool            hit = false;
        SSM_LOOP_1
        for (int32_t t = 0; t < g.T_steps; ++t) {
            const float  u = norms.at(g.r + ptrdiff_t(row + t) * stride, row + t - a.first, h), dt = g.dt[row + t];
            const float *ab = l.ab + block * 32 + lane, *c = l.c + block * 16 + lane;
            const bool   due = settles_at(g, row, t);
            float        sum = 0.0f;
            for (int32_t j = 0; j < m; ++j) {
                float ar, ai, br, bi;
                if (bits_of(dt) == bits_of(1.0f))
                    ar = ab[j * 32], ai = ab[j * 32 + 8], br = ab[j * 32 + 16], bi = ab[j * 32 + 24];
                else {
                    const ptrdiff_t     k = (block + j) * 8 + lane, k2 = (block + j) * 16 + lane;
                    const ModeOf<float> mode(l.rho[k], angle_of(l.turns[k], dt, g.c.disc), l.gain[k2], l.gain[k2 + 8],
                                             dt, g.c.disc);
                    ar = mode.ar, ai = mode.ai, br = mode.br, bi = mode.bi;
                }
                const float xr = state[j * 16], xi = state[j * 16 + 8];
                const float r = limit((ar * xr - ai * xi) + br * u, clip, &hit),
                            v = limit((ar * xi + ai * xr) + bi * u, clip, &hit);
                if (g.moves) state[j * 16] = settled(r, due), state[j * 16 + 8] = settled(v, due);
                sum += c[j * 16] * r - c[j * 16 + 8] * v;
            }
            const float s = sum + l.D[h] * u;
            g.z[ptrdiff_t(row + t) * stride + h] = s * normal_cdf(s);
        }
        note_hit(g, row, hit);
    }
    __syncthreads();
}

// ---- Recurrences: what comes before the state -----------------------------------------------------------------------
//
// The stage st_prepare does what concerns no number of h, for many rows at once, and leaves it in a row's workspace m;
// st_mix then goes through the states. Of Mamba-3, in both engines; of Mamba-1 and Mamba-2 in integers.

template <class T> static __device__ inline T* mixed_at(const Net<T>& g, int32_t row) {
    return g.m + ptrdiff_t(row) * g.m_stride;
}

template <class T> static __device__ inline Mamba3In<T> in_at(const Net<T>& g, int32_t row) {
    return {g.c, g.p + ptrdiff_t(row) * g.p_stride};
}
SSM_DEV void put_numbers(const Config& c, const MixAt& at, int32_t* m, const MambaLayer<int32_t>& l,
                         const Mamba3In<int32_t>& in, int32_t h, int32_t since) {
    const HeadNumbersQ<int64_t> of(in.dd_dt[h], l.dt_bias[h], rate_q(c, in.dd_A[h]), in.trap[h], since);
    m[at.alpha + h] = int32_t(of.alpha), m[at.dt + h] = int32_t(of.dt), m[at.beta + h] = int32_t(of.beta),
                 m[at.gamma + h] = int32_t(of.gamma);
}
SSM_DEV void put_numbers(const Config& c, const MixAt& at, float* m, const MambaLayer<float>& l,
                         const Mamba3In<float>& in, int32_t h, float since) {
    const HeadNumbers<float> of(c, in.dd_dt[h], l.dt_bias[h], in.dd_A[h], in.trap[h], since);
    m[at.alpha + h] = of.alpha, m[at.dt + h] = of.dt, m[at.beta + h] = of.beta, m[at.gamma + h] = of.gamma;
}
SSM_DEV int32_t turn_of(int32_t angle) { return int32_t(tanh_q(to26(int64_t(angle)))); }
SSM_DEV float   turn_of(float angle) { return ssm::detail::tanh(angle) * 0.5f; }

// A pair s of head h over the steps of a stream: the angle moves on, B and C of every rank get their biases and turn.
SSM_DEV void turn_pairs(const Net<int32_t>& g, const MambaLayer<int32_t>& l, int32_t* state, int32_t row, int32_t h,
                        int32_t s) {
    const Config& c = g.c;
    const int32_t N = c.d_state, N4 = up4(N), R = c.mimo_rank, G = c.ngroups, S = c.rope_angles, H = c.nheads,
                  group = h / (H / G);
    int32_t* const theta = state + g.parts.angle + ptrdiff_t(h) * S + s;
    int32_t        angle = *theta;
    SSM_LOOP_1
    for (int32_t t = 0; t < g.T_steps; ++t) {
        int32_t* const m = mixed_at(g, row + t);
        angle = int32_t(moved_q(int64_t(angle), int64_t(m[g.at.turn + s]), int64_t(m[g.at.dt + h])));
        const int64_t sin = sin_turn(int64_t(angle)), cos = cos_turn(int64_t(angle));
        SSM_LOOP_1
        for (int32_t r = 0; r < R; ++r) {
            const int32_t from = (r * G + group) * N4, bias = (h * R + r) * N, to = (r * H + h) * N4;
            turn_pair_q<int64_t, 0>(m + g.at.k + to, m + g.at.B + from, l.B_bias + bias, s, S, sin, cos);
            turn_pair_q<int64_t, 4>(m + g.at.q + to, m + g.at.C + from, l.C_bias + bias, s, S, sin, cos);
        }
    }
    if (g.moves) *theta = angle;
}
SSM_DEV void turn_rest(const Net<int32_t>& g, const MambaLayer<int32_t>& l, int32_t* m, int32_t r, int32_t h,
                       int32_t n) {
    const int32_t N = g.c.d_state, N4 = up4(N), from = (r * g.c.ngroups + h / (g.c.nheads / g.c.ngroups)) * N4,
                  bias = (h * g.c.mimo_rank + r) * N, to = (r * g.c.nheads + h) * N4 + n;
    m[g.at.k + to] = int32_t(biased_q<int64_t>(m + g.at.B + from, l.B_bias + bias, n, 1));
    m[g.at.q + to] = int32_t(rs_low<4>(biased_q<int64_t>(m + g.at.C + from, l.C_bias + bias, n, 1)));
}
SSM_DEV ptrdiff_t block_at(const Config& c, int32_t r, int32_t h, int32_t n) { // [block of 8 heads][R][N][8]
    return ((ptrdiff_t(h / 8) * c.mimo_rank + r) * c.d_state + n) * 8 + h % 8;
}
SSM_DEV void turn_pairs(const Net<float>& g, const MambaLayer<float>& l, float* state, int32_t row, int32_t h,
                        int32_t s) {
    const Config& c = g.c;
    const int32_t N4 = up4(c.d_state), R = c.mimo_rank, G = c.ngroups, S = c.rope_angles, H = c.nheads,
                  group = h / (H / G);
    const ptrdiff_t theta = ptrdiff_t(g.parts.angle) + (ptrdiff_t(h / 8) * S + s) * 8 + h % 8;
    Row<float>      move;
    float           units = state[theta]; // whose bits are an integer
    move.state = &units, move.next = &units;
    SSM_LOOP_1
    for (int32_t t = 0; t < g.T_steps; ++t) {
        float* const m = mixed_at(g, row + t);
        float        sin, cos;
        move_angle<float>(move, 0, m[g.at.dt + h] * m[g.at.turn + s], &sin, &cos);
        for (int32_t r = 0; r < R; ++r) {
            const int32_t   from = (r * G + group) * N4 + s, to = (r * H + h) * N4 + s;
            const ptrdiff_t bias = block_at(c, r, h, s);
            const float     b0 = m[g.at.B + from] + l.B_bias[bias], b1 = m[g.at.B + from + S] + l.B_bias[bias + S * 8];
            const float     c0 = m[g.at.C + from] + l.C_bias[bias], c1 = m[g.at.C + from + S] + l.C_bias[bias + S * 8];
            m[g.at.k + to] = b0 * cos - b1 * sin, m[g.at.k + to + S] = b0 * sin + b1 * cos;
            m[g.at.q + to] = c0 * cos - c1 * sin, m[g.at.q + to + S] = c0 * sin + c1 * cos;
        }
    }
    if (g.moves) state[theta] = units;
}
SSM_DEV void turn_rest(const Net<float>& g, const MambaLayer<float>& l, float* m, int32_t r, int32_t h, int32_t n) {
    const int32_t N4 = up4(g.c.d_state), from = (r * g.c.ngroups + h / (g.c.nheads / g.c.ngroups)) * N4 + n,
                  to = (r * g.c.nheads + h) * N4 + n;
    const ptrdiff_t bias = block_at(g.c, r, h, n);
    m[g.at.k + to] = m[g.at.B + from] + l.B_bias[bias];
    m[g.at.q + to] = m[g.at.C + from] + l.C_bias[bias];
}
// v, w and x of a rank and row of h: what came in now and a step before, by gamma and beta.
SSM_DEV void put_inputs(const Net<int32_t>& g, const MambaLayer<int32_t>& l, int32_t* m, int32_t r, int32_t i,
                        int32_t now_in, int32_t old_in) {
    const int32_t P = g.c.headdim, h = i / P, to = r * g.c.d_inner + i;
    int64_t       now = now_in, old = old_in;
    if (g.c.is_mimo) {
        const int64_t by = l.mimo_x[(ptrdiff_t(h) * g.c.mimo_rank + r) * P + i % P];
        now = times_q<16>(now, by), old = times_q<16>(old, by), m[g.at.x + to] = int32_t(now);
    }
    m[g.at.v + to] = int32_t(times_q<16>(now, int64_t(m[g.at.gamma + h])));
    m[g.at.w + to] = int32_t(times_q<16>(old, int64_t(m[g.at.beta + h])));
}
SSM_DEV void put_inputs(const Net<float>& g, const MambaLayer<float>& l, float* m, int32_t r, int32_t i, float now,
                        float old) {
    const int32_t P = g.c.headdim, h = i / P, to = r * g.c.d_inner + i;
    if (g.c.is_mimo) {
        const float by = l.mimo_x[(ptrdiff_t(h) * g.c.mimo_rank + r) * P + i % P];
        now = now * by, old = old * by;
    }
    m[g.at.v + to] = now * m[g.at.gamma + h], m[g.at.w + to] = old * m[g.at.beta + h];
}
SSM_DEV void keep_k(const Net<int32_t>&, const int32_t*, int32_t*) {} // is read where it stands
SSM_DEV void keep_k(const Net<float>& g, const float* state, float* m) {
    const int32_t N = g.c.d_state, N4 = up4(N), H = g.c.nheads;
    SSM_LOOP_1
    for (int32_t i = thread_id(); i < g.c.mimo_rank * H * N; i += block_threads)
        m[g.at.k0 + i / N * N4 + i % N] = state[ptrdiff_t(g.parts.k) + block_at(g.c, i / N / H, i / N % H, i % N)];
}

// Which streams of a piece belong to a part.
template <class T>
static __device__ inline void streams_of(const Net<T>& g, const Piece& a, int32_t* first, int32_t* count) {
    const int32_t all = a.count / g.T_steps;
    *first = int32_t(int64_t(all) * a.part / a.parts), *count = int32_t(int64_t(all) * (a.part + 1) / a.parts) - *first;
}
template <class T> static __device__ inline void prepare3(const Net<T>& g, const Piece& a) {
    const Config&        c = g.c;
    const MambaLayer<T>& l = g.layers[a.layer].mamba;
    const int32_t        H = c.nheads, N = c.d_state, N4 = up4(N), RG = c.mimo_rank * c.ngroups, S = c.rope_angles,
                  di = c.d_inner, R = c.mimo_rank;
    int32_t first, streams;
    streams_of(g, a, &first, &streams);
    const int32_t row0 = a.first + first * g.T_steps, rows = streams * g.T_steps;

    // 1. B and C of every rank and group, a warp each, in the order of N'; numbers of heads; how far angles turn.
    const int32_t lanes = N <= 8    ? 8
                          : N <= 16 ? 16
                                    : 32,
                  sub = lane_id() % lanes, at_once = 32 / lanes, norms = rows * 2 * RG;
    SSM_LOOP_1
    for (int32_t first_of = warp_id() * at_once; first_of < norms;
         first_of += warps * at_once) { // all lanes of a warp together
        const int32_t own = first_of + lane_id() / lanes, i = own < norms ? own : first_of, row = row0 + i / (2 * RG),
                      which = i % 2, rg = i / 2 % RG;
        const Mamba3In<T> in = in_at(g, row);
        const T *         from = (which == 0 ? in.B : in.C) + rg * N, *weight = which == 0 ? l.B_norm : l.C_norm;
        T* const          to = mixed_at(g, row) + (which == 0 ? g.at.B : g.at.C) + rg * N4;
        const RowNorm<T>  norm(from, N, false, 20, lanes);
        for (int32_t n = sub; own < norms && n < N; n += lanes) to[place(c, n)] = norm.at(from[n], weight[n], T());
    }
    // Each loop begins at other warps, so that with few rows they run side by side.
    SSM_LOOP_1
    for (int32_t i = thread_after(64); i < rows * S; i += block_threads)
        mixed_at(g, row0 + i / S)[g.at.turn + i % S] = turn_of(in_at(g, row0 + i / S).angle[i % S]);
    SSM_LOOP_1
    for (int32_t i = thread_after(128); i < rows * H; i += block_threads)
        put_numbers(c, g.at, mixed_at(g, row0 + i / H), l, in_at(g, row0 + i / H), i % H, g.dt[row0 + i / H]);
    __syncthreads();

    // 2. Turned B and C; inputs.
    SSM_LOOP_1
    for (int32_t i = thread_id(); i < streams * H * S; i += block_threads) {
        const int32_t row = row0 + i / (H * S) * g.T_steps;
        turn_pairs(g, l, layer_at(g, row, a.layer), row, i / S % H, i % S);
    }
    const int32_t rest = N - 2 * S, all = R * H * rest;
    SSM_LOOP_1
    for (int32_t i = thread_after(128); i < rows * all; i += block_threads)
        turn_rest(g, l, mixed_at(g, row0 + i / all), i % all / (H * rest), i / rest % H, 2 * S + i % rest);
    SSM_LOOP_1
    for (int32_t k = 0; k < rows; ++k) {
        const int32_t row = row0 + k;
        const bool    begins = k % g.T_steps == 0;
        const T *     x = in_at(g, row).x, *state = layer_at(g, row, a.layer),
                *before = begins ? state + g.parts.v : in_at(g, row - 1).x;
        for (int32_t r = 0; r < R; ++r) SSM_LOOP_1
        for (int32_t i = thread_id(); i < di; i += block_threads)
            put_inputs(g, l, mixed_at(g, row), r, i, x[i], before[i]);
        if (begins) keep_k(g, state, mixed_at(g, row));
    }
    __syncthreads();
}
SSM_DEV void prepare12(const Net<int32_t>& g, const Piece& a) {
    const Config&              c = g.c;
    const MambaLayer<int32_t>& l = g.layers[a.layer].mamba;
    const bool                 m1 = c.arch == Arch::mamba1;
    const int32_t              N = c.d_state, N4 = up4(N), G = m1 ? 1 : c.ngroups, m = c.d_inner - c.d_ssm,
                  H = m1 ? c.d_inner : c.nheads;
    int32_t first, streams;
    streams_of(g, a, &first, &streams);
    SSM_LOOP_1
    for (int32_t k = 0; k < streams * g.T_steps; ++k) {
        const int32_t  row = a.first + first * g.T_steps + k;
        const int32_t *p = g.p + ptrdiff_t(row) * g.p_stride, *x = m1 ? p : p + 2 * m + c.d_ssm,
                      *B = m1 ? p + 2 * H + c.dt_rank : x + c.d_ssm, *C = B + G * N, *raw = C + G * N;
        int32_t* const to = mixed_at(g, row);
        SSM_LOOP_1
        for (int32_t i = thread_id(); i < G * N; i += block_threads) {
            to[g.at.k + i / N * N4 + i % N] = sat(int64_t(B[i]) * 16, 1 << 27),
                                         to[g.at.q + i / N * N4 + i % N] = sat(C[i], 1 << 23);
        }
        SSM_LOOP_1
        for (int32_t i = thread_id(); i < H; i += block_threads) {
            const int64_t dt = step_size_q(int64_t(raw[i]), int64_t(l.dt_bias[i]), g.dt[row]);
            to[g.at.dt + i] = int32_t(dt);
            if (m1) to[g.at.v + i] = sat(rs<16>(product(int32_t(dt), x[i])));
            else to[g.at.alpha + i] = int32_t(decay_q<24>(int64_t(l.A[i]), dt));
        }
        __syncthreads();
        SSM_LOOP_1
        for (int32_t i = thread_id(); !m1 && i < c.d_ssm; i += block_threads)
            to[g.at.v + i] = int32_t(times_q<16>(int64_t(x[i]), int64_t(to[g.at.dt + i / c.headdim])));
    }
    __syncthreads();
}
SSM_DEV void prepare12(const Net<float>&, const Piece&) {} // each thread makes its own
template <class T> static __device__ inline void prepare(const Net<T>& g, const Piece& a) {
    if (g.c.arch == Arch::mamba3) prepare3(g, a);
    else prepare12(g, a);
}

// ---- Recurrences in integers ----------------------------------------------------------------------------------------

// Rows first .. first + count of one layer's h of one stream, and what they meet in each of T steps. Row i belongs to
// head i / per_head, which meets row head / share of k and q. Pointers are those of the first step.
struct RowsQ {
    int32_t *      h, *exponents;                               // exponents: null, or h has rows of codes
    const int32_t *alpha, *k, *q, *v, *w, *k0, *x, *D, *A, *dt; // w null: no step before. A: rows decay by n, with dt
    int32_t*       o;
    int32_t        T, m_stride, x_stride, o_stride; // from a step to the next
    int32_t        lanes, first, count, per_head, share, N, N4, ranks, k_rank, v_rank, x_rank, o_rank, clip;
    ptrdiff_t      k0_rank;
    bool           moves, D_of_head;
};
SSM_DEV int32_t sum_to_output(int32_t D, int32_t x, int64_t sum, int32_t s) {
    return int32_t(sat_q(((sum + (int64_t(1) << (s - 1))) >> s) + rs<16>(product(D, x))));
}
SSM_DEV void four(const int32_t* p, int32_t left, bool aligned, int32_t (&v)[4]) {
    if (aligned && left >= 4) {
        const int4 w = *reinterpret_cast<const int4*>(p);
        v[0] = w.x, v[1] = w.y, v[2] = w.z, v[3] = w.w;
        return;
    }
    SSM_LOOP
    for (int32_t j = 0; j < 4; ++j) v[j] = j < left ? p[j] : 0;
}
SSM_DEV void put_four(int32_t* p, int32_t left, bool aligned, const int32_t (&v)[4]) {
    if (aligned && left >= 4) {
        *reinterpret_cast<int4*>(p) = make_int4(v[0], v[1], v[2], v[3]);
        return;
    }
    SSM_LOOP
    for (int32_t j = 0; j < 4; ++j)
        if (j < left) p[j] = v[j];
}
// The same of codes.
SSM_DEV void four(const int16_t* p, int32_t left, bool aligned, int32_t (&v)[4]) {
    if (aligned && left >= 4) {
        const int2 w = *reinterpret_cast<const int2*>(p);
        v[0] = int16_t(w.x), v[1] = w.x >> 16, v[2] = int16_t(w.y), v[3] = w.y >> 16;
        return;
    }
    SSM_LOOP
    for (int32_t j = 0; j < 4; ++j) v[j] = j < left ? p[j] : 0;
}
SSM_DEV void put_four(int16_t* p, int32_t left, bool aligned, const int32_t (&v)[4]) {
    if (aligned && left >= 4) {
        const auto two = [](int32_t low, int32_t high) {
            return int32_t((uint32_t(low) & 0xffffu) | uint32_t(high) << 16);
        };
        *reinterpret_cast<int2*>(p) = make_int2(two(v[0], v[1]), two(v[2], v[3]));
        return;
    }
    SSM_LOOP
    for (int32_t j = 0; j < 4; ++j)
        if (j < left) p[j] = int16_t(v[j]);
}
SSM_DEV bool is_aligned(const void* p, size_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }
// One step of one rank; N <= 128 and heads of a multiple of four, aligned. `lanes` neighbouring lanes have a row, four
// numbers each. They take four rows at a time, while the next four are on their way; k0, k and q stay in registers for
// the rows of a head. Sums of four rows come together so that some lanes end up with each.
SSM_DEV bool can_scan_one(const RowsQ& a) {
    const size_t cell = a.exponents != nullptr ? 2 : 4;
    return a.T == 1 && a.ranks == 1 && a.N <= 128 && a.N % 4 == 0 && a.per_head % 4 == 0 && a.A == nullptr &&
           is_aligned(a.h, 4 * cell);
}
SSM_DEV void load_four(const int32_t* p, int32_t (&v)[4]) { four(p, 4, true, v); }
SSM_DEV void load_four(const int16_t* p, int32_t (&v)[4]) { four(p, 4, true, v); }
template <bool Codes> static __device__ inline bool scan_one(const RowsQ& a, const Gang& gang) {
    using Cell = typename std::conditional<Codes, int16_t, int32_t>::type;
    const int32_t lanes = a.lanes, groups = gang.n_warps * (32 / lanes), sub = lane_id() % lanes, n = sub * 4;
    const int32_t fours = (a.count / 4 + groups - 1) >> (bit_length(uint64_t(groups)) - 1),
                  begin = a.first + (gang.warp * (32 / lanes) + lane_id() / lanes) * fours * 4, end = a.first + a.count;
    const bool     has_n = n < a.N, old_aligned = is_aligned(a.k0, 16), has_w = a.w != nullptr;
    const int64_t  bound = int64_t(a.clip) << 21;
    const int32_t  N = a.N, per_head = a.per_head;
    const bool     moves = a.moves;
    Cell*          at = reinterpret_cast<Cell*>(a.h) + ptrdiff_t(begin) * N + n;
    unsigned char* exponents = reinterpret_cast<unsigned char*>(a.exponents);
    int32_t        k0[4] = {}, k[4] = {}, q[4] = {}, next[4][4] = {}, next_v[4] = {}, next_w[4] = {},
            next_X[4] = {40, 40, 40, 40};
    int32_t head = begin / per_head - 1, in_head = 0, alpha = 0; // rows from in_head on are another head's
    // Which of four rows' sums this lane ends up with, and in how many lanes it is.
    const bool    high = lanes >= 4 && (sub & lanes / 2) != 0, odd = lanes >= 4 && (sub & lanes / 4) != 0;
    const int32_t own = (high ? 2 : 0) + (odd ? 1 : 0);
    bool          hit = false;
    const auto    fetch = [&](int32_t i, const Cell* from) { // rows i .. i + 3
        four(a.v + i, 4, true, next_v);
        if (has_w) four(a.w + i, 4, true, next_w);
        SSM_LOOP
        for (int32_t j = 0; j < 4; ++j) {
               if (has_n) load_four(from + ptrdiff_t(j) * N, next[j]);
            if (Codes) next_X[j] = 40 - exponents[i + j];
        }
    };
    if (begin < end) fetch(begin, at);
    SSM_LOOP_1
    for (int32_t e = 0, i = begin; e < fours; ++e, i += 4, at += ptrdiff_t(N) * 4) {
        const bool on = i < end;
        int32_t    h[4][4], v[4], w[4], X[4];
        int64_t    sums[4];
        bool       limited = false;
        SSM_LOOP
        for (int32_t j = 0; j < 4; ++j) {
            SSM_LOOP
            for (int32_t c = 0; c < 4; ++c) h[j][c] = next[j][c];
            v[j] = next_v[j], w[j] = next_w[j], X[j] = next_X[j];
        }
        if (e + 1 < fours && i + 4 < end) fetch(i + 4, at + ptrdiff_t(N) * 4);
        const int32_t x_own = on ? a.x[i + own] : 0; // on its way
        if (i + 8 < end)
            expect(reinterpret_cast<const char*>(at - n + ptrdiff_t(N) * 8) + sub * int32_t(16 * sizeof(Cell)));
        if (on && i >= in_head) {
            ++head, in_head = (head + 1) * per_head;
            const ptrdiff_t row = ptrdiff_t(a.share == 1 ? head : head / a.share) * a.N4 + n;
            alpha = a.alpha[head];
            if (has_n) {
                if (has_w) four(a.k0 + ptrdiff_t(head) * N + n, 4, old_aligned, k0);
                load_four(a.k + row, k), load_four(a.q + row, q);
                if (in_head < end) { // the next head's
                    if (has_w) expect(a.k0 + ptrdiff_t(head + 1) * N + n);
                    expect(a.k + row + a.N4), expect(a.q + row + a.N4);
                }
            }
        }
        SSM_LOOP
        for (int32_t j = 0; j < 4; ++j) {
            int64_t sum = 0;
            if (Codes) {
                int64_t value[4];
                int32_t length = 0;
                SSM_LOOP
                for (int32_t c = 0; c < 4; ++c) {
                    const int64_t x =
                        rs(product(alpha, h[j][c]), X[j] - 16) + (product(w[j], k0[c]) + product(v[j], k[c]));
                    const int64_t y = x > bound ? bound : x < -bound ? -bound : x;
                    limited |= y != x;
                    value[c] = y;
                    const int32_t bits = bit_length(uint64_t(y < 0 ? -y : y));
                    length = bits > length ? bits : length;
                }
                length = int32_t(warp_max(uint32_t(length), lanes));
                const int32_t s = length > 21 ? length - 15 : 6;
                X[j] = 46 - s;
                SSM_LOOP
                for (int32_t c = 0; c < 4; ++c) {
                    h[j][c] = sat(rs(value[c], s), 32767);
                    sum += product(h[j][c], q[c]);
                }
            } else {
                SSM_LOOP
                for (int32_t c = 0; c < 4; ++c) {
                    h[j][c] = limit_q(
                        next_h_of(alpha, h[j][c], (int64_t(1) << 20) + product(w[j], k0[c]) + product(v[j], k[c])),
                        a.clip, &limited);
                    sum += product(h[j][c], q[c]);
                }
            }
            sums[j] = sum;
            if (on && moves && has_n) put_four(at + ptrdiff_t(j) * N, 4, true, h[j]);
            if (Codes && on && moves && sub == 0) exponents[i + j] = static_cast<unsigned char>(40 - X[j]);
        }
        hit |= limited && on; // behind the end stand old numbers

        const int32_t D_at = a.D_of_head ? head : i;
        if (lanes >= 4) {
            int64_t p = high ? sums[2] : sums[0], r = high ? sums[3] : sums[1];
            p += from_lane_xor(static_cast<long long>(high ? sums[0] : sums[2]), lanes / 2);
            r += from_lane_xor(static_cast<long long>(high ? sums[1] : sums[3]), lanes / 2);
            int64_t mine = (odd ? r : p) + from_lane_xor(static_cast<long long>(odd ? p : r), lanes / 4);
            for (int32_t m = lanes / 8; m > 0; m /= 2) mine += from_lane_xor(static_cast<long long>(mine), m);
            const int32_t bits = !Codes ? 25 : high ? (odd ? X[3] : X[2]) : odd ? X[1] : X[0];
            if (on && sub % (lanes / 4) == 0)
                a.o[i + own] = sum_to_output(a.D[a.D_of_head ? D_at : i + own], x_own, mine, bits);
        } else {
            SSM_LOOP
            for (int32_t j = 0; j < 4; ++j) {
                const int64_t all = warp_sum(sums[j], lanes);
                if (on && sub == 0)
                    a.o[i + j] = sum_to_output(a.D[a.D_of_head ? D_at : i + j], a.x[i + j], all, Codes ? X[j] : 25);
            }
        }
    }
    return hit;
}

// Any number of ranks, any N, decays of channels or of numbers.
template <bool Codes> static __device__ inline bool scan_any(const RowsQ& a, const Gang& gang) {
    using Cell = typename std::conditional<Codes, int16_t, int32_t>::type;
    const int32_t lanes = a.lanes, groups = gang.n_warps * (32 / lanes), n0 = lane_id() % lanes * 4;
    const int32_t each = (a.count + groups - 1) / groups, end = a.first + a.count,
                  begin = a.first + (gang.warp * (32 / lanes) + lane_id() / lanes) * each;
    const int64_t  bound = int64_t(a.clip) << 21;
    unsigned char* exponents = reinterpret_cast<unsigned char*>(a.exponents);
    bool           hit = false;
    SSM_LOOP_1
    for (int32_t e = 0; e < each; ++e) {
        const bool    on = begin + e < end;
        const int32_t i = on ? begin + e : a.first, head = i / a.per_head;
        Cell* const   at = reinterpret_cast<Cell*>(a.h) + ptrdiff_t(i) * a.N;
        int32_t       h[2][4] = {}, X = Codes ? 40 - exponents[i] : 40;
        SSM_LOOP
        for (int32_t half = 0; half < 2; ++half)
            if (on) four(at + n0 + half * 128, a.N - n0 - half * 128, false, h[half]);
        SSM_LOOP_1
        for (int32_t t = 0; t < a.T; ++t) {
            const ptrdiff_t m = ptrdiff_t(t) * a.m_stride, row = m + ptrdiff_t(head / a.share) * a.N4;
            const int32_t*  k0 = t == 0 ? a.k0 + ptrdiff_t(head) * a.N : a.k + row - a.m_stride;
            const ptrdiff_t k0_rank = t == 0 ? a.k0_rank : a.k_rank;
            int64_t         value[2][4] = {}, sum[max_mimo_rank] = {};
            int32_t         length = 0;
            SSM_LOOP
            for (int32_t half = 0; half < 2; ++half) SSM_LOOP
            for (int32_t j = 0; j < 4; ++j) {
                const int32_t n = n0 + half * 128 + j;
                if (!on || n >= a.N) continue;
                int64_t add = 0;
                for (int32_t r = 0; r < a.ranks; ++r) {
                    const ptrdiff_t in = m + ptrdiff_t(r) * a.v_rank + i;
                    if (a.w != nullptr) add += product(a.w[in], k0[r * k0_rank + n]);
                    add += product(a.v[in], a.k[row + ptrdiff_t(r) * a.k_rank + n]);
                }
                const int32_t alpha =
                    a.A == nullptr ? a.alpha[m + head]
                                   : int32_t(decay_q<24>(int64_t(a.A[ptrdiff_t(i) * a.N + n]), int64_t(a.dt[m + i])));
                if (Codes) {
                    const int64_t x = rs(product(alpha, h[half][j]), X - 16) + add;
                    const int64_t y = x > bound ? bound : x < -bound ? -bound : x;
                    hit |= y != x;
                    value[half][j] = y;
                    const int32_t bits = bit_length(uint64_t(y < 0 ? -y : y));
                    length = bits > length ? bits : length;
                } else value[half][j] = limit_q(next_h(alpha, h[half][j], add), a.clip, &hit);
            }
            int32_t s = 25;
            if (Codes)
                length = int32_t(warp_max(uint32_t(length), lanes)), s = length > 21 ? length - 15 : 6, X = 46 - s;
            SSM_LOOP
            for (int32_t half = 0; half < 2; ++half) SSM_LOOP
            for (int32_t j = 0; j < 4; ++j) {
                const int32_t n = n0 + half * 128 + j;
                if (!on || n >= a.N) continue;
                h[half][j] = Codes ? sat(rs(value[half][j], s), 32767) : int32_t(value[half][j]);
                SSM_LOOP
                for (int32_t r = 0; r < max_mimo_rank; ++r)
                    if (r < a.ranks) sum[r] += product(h[half][j], a.q[row + ptrdiff_t(r) * a.k_rank + n]);
            }
            SSM_LOOP
            for (int32_t r = 0; r < max_mimo_rank; ++r) {
                if (r >= a.ranks) continue;
                const int64_t all = warp_sum(sum[r], lanes);
                if (on && n0 == 0) // o may stand where v did: all lanes of this row have read it
                    a.o[ptrdiff_t(t) * a.o_stride + ptrdiff_t(r) * a.o_rank + i] = sum_to_output(
                        a.D[a.D_of_head ? head : i], a.x[ptrdiff_t(t) * a.x_stride + ptrdiff_t(r) * a.x_rank + i], all,
                        Codes ? X : 25);
            }
        }
        SSM_LOOP
        for (int32_t half = 0; half < 2; ++half)
            if (on && a.moves) put_four(at + n0 + half * 128, a.N - n0 - half * 128, false, h[half]);
        if (Codes && on && a.moves && n0 == 0) exponents[i] = static_cast<unsigned char>(40 - X);
    }
    return hit;
}

// The heads (Mamba-1: channels) h0 .. h0 + heads of one stream, whose first row is `row0`.
template <bool One, bool Codes>
static __device__ inline void mix_heads(const Net<int32_t>& g, const Piece& a, const Gang& gang, int32_t row0,
                                        int32_t h0, int32_t heads) {
    const Config&              c = g.c;
    const MambaLayer<int32_t>& l = g.layers[a.layer].mamba;
    const bool    m1 = c.arch == Arch::mamba1, m2 = c.arch == Arch::mamba2, mimo = c.arch == Arch::mamba3 && c.is_mimo;
    const int32_t H = c.nheads, P = m1 ? 1 : c.headdim, N = c.d_state, N4 = up4(N),
                  R = c.arch == Arch::mamba3 ? c.mimo_rank : 1, di = c.d_inner;
    const int32_t  skip = m2 ? di - c.d_ssm : 0, first = h0 * P, count = heads * P;
    int32_t* const state = layer_at(g, row0, a.layer);
    int32_t* const m = mixed_at(g, row0);
    int32_t* const p = g.p + ptrdiff_t(row0) * g.p_stride;
    const Parts&   at = g.parts;
    RowsQ          s;
    s.h = state + at.h, s.exponents = Codes ? state + at.exponents : nullptr;
    s.alpha = m + g.at.alpha, s.k = m + g.at.k, s.q = m + g.at.q, s.v = m + g.at.v, s.dt = m + g.at.dt,
    s.A = m1 ? l.A : nullptr, s.D = l.D;
    s.w = m1 || m2 ? nullptr : m + g.at.w, s.k0 = state + at.k, s.k0_rank = ptrdiff_t(H) * N;
    s.x = mimo ? m + g.at.x
          : m1 ? p
          : m2 ? p + 2 * skip + c.d_ssm
               : p + di,
    s.x_stride = mimo ? g.m_stride : g.p_stride, s.x_rank = di;
    s.o = mimo ? m + g.at.v : g.o + ptrdiff_t(row0) * g.o_stride + skip, s.o_stride = mimo ? g.m_stride : g.o_stride,
    s.o_rank = di;
    s.T = g.T_steps, s.m_stride = g.m_stride, s.first = first, s.count = count, s.per_head = P, s.N = N, s.N4 = N4,
    s.ranks = R;
    s.lanes = g.scan_lanes,
    s.share = m1   ? di
              : m2 ? H / c.ngroups
                   : 1,
    s.k_rank = H * N4, s.v_rank = di, s.clip = c.clip_q25, s.moves = g.moves;
    s.D_of_head = !m1 && !m2;
    bool hit;
    if constexpr (One) hit = scan_one<Codes>(s, gang);
    else hit = can_scan_one(s) ? scan_one<Codes>(s, gang) : scan_any<Codes>(s, gang);
    note_hit(g, row0, hit);
    gang.sync();
    if (m2) return;

    // Norm and gate; the step before, for the next.
    SSM_LOOP_1
    for (int32_t i = gang.warp; c.is_outproj_norm && i < s.T * R * heads; i += gang.n_warps) {
        const int32_t          t = i / (R * heads), head = h0 + i % heads;
        int32_t* const         of = s.o + ptrdiff_t(t) * s.o_stride + ptrdiff_t(i / heads % R) * s.o_rank + head * P;
        const RowNorm<int32_t> norm(of, P, false);
        for (int32_t k = lane_id(); k < P; k += 32) of[k] = norm.at(of[k], l.gate_norm[head * P + k], 0);
    }
    if (c.is_outproj_norm) gang.sync();
    SSM_LOOP_1
    for (int32_t t = 0; t < s.T; ++t) {
        int32_t* const       y = g.o + ptrdiff_t(row0 + t) * g.o_stride;
        const int32_t* const z = p + ptrdiff_t(t) * g.p_stride + (m1 ? di : 0);
        SSM_LOOP_1
        for (int32_t i = first + gang.thread; i < first + count; i += gang.n_threads) {
            const int64_t gate = z[i];
            int64_t       sum = 0;
            for (int32_t r = 0; mimo && r < R; ++r) {
                const ptrdiff_t by = (ptrdiff_t(i / P) * R + r) * P + i % P;
                sum += rs<16>(gated_q(int64_t(s.o[ptrdiff_t(t) * s.o_stride + r * di + i]),
                                      times_q<16>(gate, int64_t(l.mimo_z[by]))) *
                              l.mimo_o[by]);
            }
            y[i] = int32_t(mimo ? sat_q(sum) : gated_q(int64_t(y[i]), gate));
        }
    }
    if (m1 || !g.moves) return;
    const int32_t* const last = m + ptrdiff_t(s.T - 1) * g.m_stride;
    for (int32_t r = 0; r < R; ++r) SSM_LOOP_1
    for (int32_t h = r * H + h0 + gang.thread / s.lanes; h < r * H + h0 + heads;
         h += gang.n_threads / s.lanes) // s.lanes: a power of two
        SSM_LOOP_1
    for (int32_t n = gang.thread % s.lanes; n < N; n += s.lanes)
        state[at.k + size_t(h) * size_t(N) + size_t(n)] = last[g.at.k + h * N4 + n];
    SSM_LOOP_1
    for (int32_t i = first + gang.thread; i < first + count; i += gang.n_threads)
        state[at.v + size_t(i)] = p[ptrdiff_t(s.T - 1) * g.p_stride + di + i];
}

// ---- Recurrences in floats ------------------------------------------------------------------------------------------
//
// A thread has a row of h, [N][8], and goes through n in order, eight at a time: they are on their way while the eight
// before are worked on. k0, k, q: [N], ranks k_rank apart, aligned to four or not.

template <int R, bool Aligned> static __device__ inline void eight(const float* p, int32_t left, float (&v)[8]) {
    if (Aligned && left >= 8) {
        const float4 a = *reinterpret_cast<const float4*>(p), b = *reinterpret_cast<const float4*>(p + 4);
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
        return;
    }
    SSM_LOOP
    for (int32_t j = 0; j < 8; ++j) v[j] = j < left ? p[j] : 0.0f;
}
struct RowF {
    float *      h, *o;      // o: ranks o_rank apart
    const float *k0, *k, *q; // k0 null: no step before
    const float *v, *w;      // ranks v_rank apart
    int32_t      N, ranks, k_rank, v_rank, o_rank;
    float        alpha, clip;
    bool         moves, due; // due: h settles after this step
};
template <bool Prev, int R, bool Aligned> static __device__ inline bool scan_floats(const RowF& a) {
    float sum[R], wr[R], vr[R], next[8];
    bool  hit = false;
    SSM_LOOP
    for (int32_t r = 0; r < R; ++r) {
        sum[r] = 0.0f, vr[r] = r < a.ranks ? a.v[r * a.v_rank] : 0.0f;
        wr[r] = Prev && r < a.ranks ? a.w[r * a.v_rank] : 0.0f;
    }
    SSM_LOOP
    for (int32_t j = 0; j < 8; ++j) next[j] = j < a.N ? a.h[j * 8] : 0.0f;
    for (int32_t n = 0; n < a.N; n += 8) {
        const int32_t left = a.N - n;
        float         x[8], k[8];
        SSM_LOOP
        for (int32_t j = 0; j < 8; ++j) x[j] = next[j] * a.alpha;
        SSM_LOOP
        for (int32_t j = 0; j < 8; ++j) next[j] = j + 8 < left ? a.h[(n + 8 + j) * 8] : 0.0f;
        SSM_LOOP
        for (int32_t r = 0; r < R; ++r) {
            if (!Prev || (R > 1 && r >= a.ranks)) continue;
            eight<R, Aligned>(a.k0 + r * a.k_rank + n, left, k);
            SSM_LOOP
            for (int32_t j = 0; j < 8; ++j) x[j] += wr[r] * k[j];
        }
        SSM_LOOP
        for (int32_t r = 0; r < R; ++r) {
            if (R > 1 && r >= a.ranks) continue;
            eight<R, Aligned>(a.k + r * a.k_rank + n, left, k);
            SSM_LOOP
            for (int32_t j = 0; j < 8; ++j) x[j] += vr[r] * k[j];
        }
        SSM_LOOP
        for (int32_t j = 0; j < 8; ++j)
            if (j < left) x[j] = limit(x[j], a.clip, &hit);
        SSM_LOOP
        for (int32_t r = 0; r < R; ++r) {
            if (R > 1 && r >= a.ranks) continue;
            eight<R, Aligned>(a.q + r * a.k_rank + n, left, k);
            SSM_LOOP
            for (int32_t j = 0; j < 8; ++j)
                if (j < left) sum[r] += x[j] * k[j];
        }
        SSM_LOOP
        for (int32_t j = 0; j < 8; ++j)
            if (a.moves && j < left) a.h[(n + j) * 8] = settled(x[j], a.due);
    }
    SSM_LOOP
    for (int32_t r = 0; r < R; ++r)
        if (r < a.ranks) a.o[r * a.o_rank] = sum[r];
    return hit;
}

template <bool One, bool>
static __device__ inline void mix_heads3(const Net<float>& g, const Piece& a, const Gang& gang, int32_t row0,
                                         int32_t h0, int32_t heads) {
    const Config&            c = g.c;
    const MambaLayer<float>& l = g.layers[a.layer].mamba;
    const int32_t            H = c.nheads, P = c.headdim, N = c.d_state, N4 = up4(N), R = c.mimo_rank, di = c.d_inner;
    const int32_t            first = h0 * P, count = heads * P;
    const ptrdiff_t          Pp = ptrdiff_t(padded(P));
    float* const             state = layer_at(g, row0, a.layer);
    const Parts&             at = g.parts;
    bool                     hit = false;
    RowF                     s;
    s.clip = c.state_clip > 0.0f ? c.state_clip : FLT_MAX, s.moves = g.moves, s.N = N, s.ranks = R, s.k_rank = H * N4,
    s.v_rank = s.o_rank = di;
    SSM_LOOP_1
    for (int32_t t = 0; t < g.T_steps; ++t) {
        float* const          m = mixed_at(g, row0 + t);
        const Mamba3In<float> in = in_at(g, row0 + t);
        s.due = settles_at(g, row0, t);
        SSM_LOOP_1
        for (int32_t i = first + gang.thread; i < first + count; i += gang.n_threads) {
            const int32_t h = i / P, own = i % P;
            s.h = state + at.h + ptrdiff_t(h) * Pp * N + ptrdiff_t(own / 8) * N * 8 + own % 8;
            s.k = m + g.at.k + h * N4, s.q = m + g.at.q + h * N4,
            s.k0 = t == 0 ? m + g.at.k0 + h * N4 : s.k - g.m_stride;
            s.v = m + g.at.v + i, s.w = m + g.at.w + i, s.o = m + g.at.v + i,
            s.alpha = m[g.at.alpha + h]; // o takes the place of v
            if (One || R == 1) hit |= scan_floats<true, 1, true>(s);
            else hit |= scan_floats<true, max_mimo_rank, true>(s);
            for (int32_t r = 0; r < R; ++r) {
                float x = in.x[i];
                if (c.is_mimo) x = x * l.mimo_x[(ptrdiff_t(h) * R + r) * P + own];
                s.o[r * di] = s.o[r * di] + x * l.D[h];
            }
        }
    }
    note_hit(g, row0, hit);
    gang.sync();

    // Norm and gate; the step before, for the next.
    SSM_LOOP_1
    for (int32_t i = gang.warp; c.is_outproj_norm && i < g.T_steps * R * heads; i += gang.n_warps) {
        const int32_t        t = i / (R * heads), head = h0 + i % heads;
        float* const         of = mixed_at(g, row0 + t) + g.at.v + i / heads % R * di + head * P;
        const RowNorm<float> norm(of, P, false);
        for (int32_t k = lane_id(); k < P; k += 32) of[k] = norm.at(of[k], l.gate_norm[head * P + k], 0.0f);
    }
    if (c.is_outproj_norm) gang.sync();
    SSM_LOOP_1
    for (int32_t t = 0; t < g.T_steps; ++t) {
        const float* const    o = mixed_at(g, row0 + t) + g.at.v;
        const Mamba3In<float> in = in_at(g, row0 + t);
        SSM_LOOP_1
        for (int32_t i = first + gang.thread; i < first + count; i += gang.n_threads) {
            float sum = 0.0f;
            for (int32_t r = 0; r < R; ++r) {
                const ptrdiff_t by = (ptrdiff_t(i / P) * R + r) * P + i % P;
                float           gate = in.z[i];
                if (c.is_mimo) gate = gate * l.mimo_z[by];
                float y = o[r * di + i] * silu(gate);
                if (c.is_mimo) y = y * l.mimo_o[by];
                sum = r > 0 ? sum + y : y;
            }
            g.o[ptrdiff_t(row0 + t) * g.o_stride + i] = sum;
            if (g.moves && t + 1 == g.T_steps) state[at.v + size_t(i)] = in.x[i];
        }
    }
    const float* const last = mixed_at(g, row0 + g.T_steps - 1) + g.at.k;
    SSM_LOOP_1
    for (int32_t i = gang.thread; g.moves && i < R * heads * N; i += gang.n_threads) {
        const int32_t n = i % N, h = h0 + i / N % heads, r = i / N / heads;
        state[ptrdiff_t(at.k) + block_at(c, r, h, n)] = last[(r * H + h) * N4 + n];
    }
}
SSM_DEV void mamba2_heads(const Net<float>& g, const Piece& a, const Gang& gang, int32_t row0, int32_t h0,
                          int32_t heads) {
    const Config&            c = g.c;
    const MambaLayer<float>& l = g.layers[a.layer].mamba;
    const int32_t            m = c.d_inner - c.d_ssm, H = c.nheads, P = c.headdim, N = c.d_state, GN = c.ngroups * N;
    const ptrdiff_t          Pp = ptrdiff_t(padded(P));
    float* const             state = layer_at(g, row0, a.layer) + parts_of(c).h;
    bool                     hit = false;
    RowF                     s;
    s.clip = c.state_clip > 0.0f ? c.state_clip : FLT_MAX, s.moves = g.moves, s.N = N, s.ranks = 1,
    s.k_rank = s.v_rank = s.o_rank = 0;
    s.k0 = s.w = nullptr;
    SSM_LOOP_1
    for (int32_t t = 0; t < g.T_steps; ++t) {
        const int32_t row = row0 + t;
        const float * x = g.p + ptrdiff_t(row) * g.p_stride + 2 * m + c.d_ssm, *B = x + c.d_ssm, *C = B + GN,
                    *raw = C + GN;
        s.due = settles_at(g, row0, t);
        SSM_LOOP_1
        for (int32_t p = gang.thread; p < heads * P;
             p += gang.n_threads) { // each thread: the numbers of its head again
            const int32_t h = h0 + p / P, own = p % P, hp = h0 * P + p, at = h / (H / c.ngroups) * N;
            const float   dt = step_size(raw[h] + l.dt_bias[h], g.dt[row]), v = x[hp] * dt;
            float         o;
            s.h = state + ptrdiff_t(h) * Pp * N + ptrdiff_t(own / 8) * N * 8 + own % 8, s.k = B + at, s.q = C + at,
            s.v = &v, s.o = &o;
            s.alpha = exp_f32(-(dt * l.A[h]));
            hit |= scan_floats<false, 1, false>(s);
            g.o[ptrdiff_t(row) * g.o_stride + m + hp] = o + l.D[hp] * x[hp];
        }
    }
    note_hit(g, row0, hit);
}
SSM_DEV void mamba1_channels(const Net<float>& g, const Piece& a, const Gang& gang, int32_t row0, int32_t first,
                             int32_t count) {
    const Config&            c = g.c;
    const MambaLayer<float>& l = g.layers[a.layer].mamba;
    const int32_t            di = c.d_inner, N = c.d_state;
    const float              clip = c.state_clip > 0.0f ? c.state_clip : FLT_MAX;
    float* const             state = layer_at(g, row0, a.layer) + parts_of(c).h;
    bool                     hit = false;
    SSM_LOOP_1
    for (int32_t t = 0; t < g.T_steps; ++t) {
        const int32_t row = row0 + t;
        const float * x = g.p + ptrdiff_t(row) * g.p_stride, *z = x + di, *B = z + di + c.dt_rank, *C = B + N,
                    *raw = C + N;
        const bool due = settles_at(g, row0, t);
        SSM_LOOP_1
        for (int32_t i = first + gang.thread; i < first + count; i += gang.n_threads) {
            const ptrdiff_t at = ptrdiff_t(i / 8) * N * 8 + i % 8;
            const float     dt = step_size(raw[i] + l.dt_bias[i], g.dt[row]), in = dt * x[i];
            float           sum = 0.0f;
            for (int32_t n = 0; n < N; ++n) {
                const float s = limit(exp_f32(-(dt * l.A[at + n * 8])) * state[at + n * 8] + in * B[n], clip, &hit);
                if (g.moves) state[at + n * 8] = settled(s, due);
                sum += s * C[n];
            }
            g.o[ptrdiff_t(row) * g.o_stride + i] = (sum + l.D[i] * x[i]) * silu(z[i]);
        }
    }
    note_hit(g, row0, hit);
}
template <bool One, bool Codes>
static __device__ inline void mix_heads(const Net<float>& g, const Piece& a, const Gang& gang, int32_t row0, int32_t h0,
                                        int32_t heads) {
    if constexpr (One) mix_heads3<true, false>(g, a, gang, row0, h0, heads);
    else if (g.c.arch == Arch::mamba1) mamba1_channels(g, a, gang, row0, h0, heads);
    else if (g.c.arch == Arch::mamba2) mamba2_heads(g, a, gang, row0, h0, heads);
    else mix_heads3<false, false>(g, a, gang, row0, h0, heads);
}

// ---- What Mamba-1 and Mamba-2 do around them ------------------------------------------------------------------------

SSM_DEV float conv_at(const float* taps, const float* w, const float* bias, int32_t K, int32_t C, int32_t i) {
    float sum = taps[0] * w[i];
    for (int32_t k = 1; k < K; ++k) sum = sum + taps[k] * w[ptrdiff_t(k) * C + i];
    return silu(bias != nullptr ? sum + bias[i] : sum);
}
SSM_DEV int32_t conv_at(const int32_t* taps, const int32_t* w, const int32_t* bias, int32_t K, int32_t C, int32_t i) {
    int64_t sum = bias_at(bias, i);
    for (int32_t k = 0; k < K; ++k) sum += rs<16>(product(taps[k], w[ptrdiff_t(k) * C + i]));
    return int32_t(silu_q(sat_q(sum)));
}
template <class T> static __device__ inline void conv(const Net<T>& g, const Piece& a) {
    const Config&        c = g.c;
    const MambaLayer<T>& l = g.layers[a.layer].mamba;
    const int32_t        C = int32_t(conv_dim(c)), K = c.d_conv,
                  first = c.arch == Arch::mamba2 ? 2 * (c.d_inner - c.d_ssm) + c.d_ssm : 0;
    const int32_t streams = a.count / g.T_steps;
    SSM_LOOP_1
    for (int32_t i = a.part * block_threads + thread_id(); i < streams * C; i += a.parts * block_threads) {
        const int32_t row = a.first + i / C * g.T_steps, col = i % C;
        T* const      recent = layer_at(g, row, a.layer) + g.parts.conv;
        T             taps[max_d_conv];
        for (int32_t k = 0; k < K; ++k) taps[k] = recent[ptrdiff_t(k) * C + col];
        SSM_LOOP_1
        for (int32_t t = 0; t < g.T_steps; ++t) {
            T* const x = g.p + ptrdiff_t(row + t) * g.p_stride + first + col;
            for (int32_t k = 0; k + 1 < K; ++k) taps[k] = taps[k + 1];
            taps[K - 1] = *x;
            *x = conv_at(taps, l.conv_w, l.conv_bias, K, C, col);
        }
        for (int32_t k = 0; g.moves && k < K; ++k) recent[ptrdiff_t(k) * C + col] = taps[k];
    }
    __syncthreads();
}
SSM_DEV float   gated(float x, float z) { return x * silu(z); }
SSM_DEV int32_t gated(int32_t x, int32_t z) { return int32_t(gated_q(int64_t(x), int64_t(z))); }

// Mamba-2's gates and norms, a warp for a row's group; parts: rows.
template <class T> static __device__ inline void gates(const Net<T>& g, const Piece& a) {
    const Config&        c = g.c;
    const MambaLayer<T>& l = g.layers[a.layer].mamba;
    const int32_t        m = c.d_inner - c.d_ssm, G = c.ngroups, size = c.d_ssm / G;
    SSM_LOOP_1
    for (int32_t i = a.part * warps + warp_id(); i < a.count * G; i += a.parts * warps) {
        const int32_t row = a.first + i / G, from = i % G * size;
        const T *     z0 = g.p + ptrdiff_t(row) * g.p_stride, *x0 = z0 + m, *z = x0 + m + from;
        T *           out = g.o + ptrdiff_t(row) * g.o_stride, *y = out + m + from;
        for (int32_t k = lane_id(); (!c.rmsnorm || !c.norm_before_gate) && k < size; k += 32) y[k] = gated(y[k], z[k]);
        __syncwarp();
        if (c.rmsnorm) {
            const RowNorm<T> norm(y, size, false);
            __syncwarp();
            for (int32_t k = lane_id(); k < size; k += 32) y[k] = norm.at(y[k], l.gate_norm[from + k], T());
        }
        __syncwarp();
        for (int32_t k = lane_id(); c.rmsnorm && c.norm_before_gate && k < size; k += 32) y[k] = gated(y[k], z[k]);
        for (int32_t k = lane_id(); i % G == 0 && k < m; k += 32) out[k] = gated(x0[k], z0[k]);
    }
    __syncthreads();
}

// ---- Into the layers and out of them --------------------------------------------------------------------------------

template <class T> static __device__ inline void input(const Net<T>& g, const Piece& a) {
    const Config&  c = g.c;
    const bool     features = c.input == Input::features;
    const int32_t  stride = stride_of(g);
    const T* const kind = nullptr;
    SSM_LOOP_1
    for (int32_t i = thread_id(); a.part == 0 && i < a.count; i += block_threads) {
        const int32_t row = a.first + i;
        g.dt[row] = g.has_dt ? word_as(g.dt_in[row], g.q16, kind) : one_step(kind);
        if (row % g.T_steps == 0) g.slots[row / g.T_steps] = g.slots_in[g.moves ? row / g.T_steps : 0];
    }
    const int32_t numbers = c.n_bands > 0 ? 0 : a.count * c.d_input;
    SSM_LOOP_1
    for (int32_t i = a.part * block_threads + thread_id(); i < numbers; i += a.parts * block_threads) {
        const int32_t row = a.first + i / c.d_input, k = i % c.d_input;
        (features ? g.p + ptrdiff_t(row) * g.p_stride : g.r + ptrdiff_t(row) * stride)[k] =
            word_as(g.x[ptrdiff_t(row) * c.d_input + k], g.q16, kind);
    }
    __syncthreads();
}
// A bank of resonators, a thread each; parts: streams.
template <class T> static __device__ inline void sound(const Net<T>& g, const Piece& a) {
    const Config& c = g.c;
    const int32_t K = c.n_bands, n = c.d_input, streams = a.count / g.T_steps;
    const auto    sample = [&](uint32_t word) { return sat(g.q16 ? int32_t(word) : to_q16(word), 65536); };
    int32_t *     u = reinterpret_cast<int32_t*>(a.shared), *loud = u + n, *own = loud + K, *top = own + bank_words(c);
    SSM_LOOP_1
    for (int32_t i = a.part; i < streams; i += a.parts) SSM_LOOP_1
    for (int32_t t = 0; t < g.T_steps; ++t) {
        const int32_t   row = a.first + i * g.T_steps + t;
        const uint32_t* x = g.x + ptrdiff_t(row) * n;
        int32_t*        bank = reinterpret_cast<int32_t*>(words_at(g, row)) + pool_words(c);
        SSM_LOOP_1
        for (int32_t k = thread_id(); k < int32_t(bank_words(c)); k += block_threads) own[k] = bank[k];
        __syncthreads();
        SSM_LOOP_1
        for (int32_t k = thread_id(); k < n; k += block_threads)
            u[k] = heard(c, sample(x[k]), k > 0 ? sample(x[k - 1]) : own[7 * K]);
        __syncthreads();
        SSM_LOOP_1
        for (int32_t k = thread_id(); k < K; k += block_threads) {
            bank_by<scalar>(BankQ{g.poles + 8 * k, u, own + 7 * k, 1, n, c.band_leak});
            loud[k] = loudness(own + 7 * k, g.full + 4 * k);
        }
        __syncthreads();
        if (thread_id() == 0) {
            *top = INT32_MIN;
            for (int32_t k = 0; k < K; ++k) *top = loud[k] > *top ? loud[k] : *top;
        }
        __syncthreads();
        const BandFrame frame(c, *top, own[7 * K + 2] == 0, own[7 * K + 1]);
        SSM_LOOP_1
        for (int32_t k = thread_id(); k < K; k += block_threads)
            put_q16(g.p + ptrdiff_t(row) * g.p_stride + k,
                    frame.feature(c, loud[k], int32_t(load_u32(g.prior + 4 * k)), &own[7 * k + 6]));
        __syncthreads();
        if (thread_id() == 0) own[7 * K] = sample(x[n - 1]), own[7 * K + 1] = frame.peak, own[7 * K + 2] = 1;
        __syncthreads();
        SSM_LOOP_1
        for (int32_t k = thread_id(); g.moves && k < int32_t(bank_words(c)); k += block_threads) bank[k] = own[k];
        __syncthreads();
    }
}
// r = norm(r); parts: rows.
template <class T> static __device__ inline void post_norm(const Net<T>& g, const Piece& a) {
    const S4dLayer<T>& l = g.layers[a.layer].s4d;
    SSM_LOOP_1
    for (int32_t i = a.part * warps + warp_id(); i < a.count; i += a.parts * warps) {
        T* const         r = g.r + ptrdiff_t(a.first + i) * stride_of(g);
        const RowNorm<T> norm(r, g.c.d_model, l.norm_bias != nullptr);
        __syncwarp();
        for (int32_t k = lane_id(); k < g.c.d_model; k += 32)
            r[k] = norm.at(r[k], l.norm_weight[k], bias_at(l.norm_bias, k));
    }
    __syncthreads();
}
SSM_DEV float pool_at(const Net<float>&, float* words, int32_t k, float r, float part, int32_t, bool moves) {
    const float mean = pooled(words[k], r, part);
    if (moves) words[k] = mean;
    return mean;
}
SSM_DEV int32_t pool_at(const Net<int32_t>& g, int32_t* low, int32_t k, int32_t r, float, int32_t kept, bool moves) {
    int32_t* const high = low + stride_of(g);
    int64_t        sum = int64_t(uint64_t(uint32_t(low[k])) | uint64_t(uint32_t(high[k])) << 32);
    const int32_t  mean = pooled_q(&sum, r, kept);
    if (moves) low[k] = int32_t(uint32_t(uint64_t(sum))), high[k] = int32_t(sum >> 32);
    return mean;
}
// The final norm and pooling, and the steps counted; a warp has a stream, parts: streams.
template <class T> static __device__ inline void finish(const Net<T>& g, const Piece& a) {
    const Config& c = g.c;
    const int32_t streams = a.count / g.T_steps, d = c.d_model;
    SSM_LOOP_1
    for (int32_t i = a.part * warps + warp_id(); i < streams; i += a.parts * warps) {
        const int32_t   row0 = a.first + i * g.T_steps;
        T* const        words = words_at(g, row0);
        uint64_t* const steps = reinterpret_cast<uint64_t*>(state_at(g, row0));
        const uint64_t  before = *steps;
        int32_t         kept = 0;
        if (is_integer(c) && c.pool == Pool::mean) kept = reinterpret_cast<const int32_t*>(words)[2 * stride_of(g)];
        __syncwarp();
        SSM_LOOP_1
        for (int32_t t = 0; t < g.T_steps; ++t) {
            T* const         r = g.r + ptrdiff_t(row0 + t) * stride_of(g);
            const uint64_t   counted = before + uint64_t(t);
            const float      part = 1.0f / static_cast<float>(counted + (counted < UINT64_MAX ? 1 : 0));
            const RowNorm<T> norm(r, g.norm_f_weight != nullptr ? d : 0, g.norm_f_bias != nullptr);
            __syncwarp();
            for (int32_t k = lane_id(); k < d; k += 32) {
                T v = r[k];
                if (g.norm_f_weight != nullptr) v = norm.at(v, g.norm_f_weight[k], bias_at(g.norm_f_bias, k));
                if (c.pool == Pool::mean) v = pool_at(g, words, k, v, part, kept, g.moves);
                r[k] = v;
            }
            kept = kept_next(kept);
            __syncwarp();
        }
        if (lane_id() == 0 && g.moves) {
            *steps = before + uint64_t(g.T_steps);
            if (is_integer(c) && c.pool == Pool::mean) reinterpret_cast<int32_t*>(words)[2 * stride_of(g)] = kept;
        }
    }
    __syncthreads();
}
// y of each stream's last row.
template <class T> static __device__ inline void head(const Net<T>& g, const Piece& a) {
    const Config& c = g.c;
    const int32_t streams = a.count / g.T_steps, first = a.first / g.T_steps, last = g.T_steps - 1;
    if (c.has_head) {
        Piece b = a;
        b.first = first, b.count = streams;
        Sink<T> s{Then::give, nullptr, g.y + ptrdiff_t(first) * c.d_output, c.d_output, g.q16};
        s.to = g.r;
        project<T>(g, b, *g.decoder, g.r + ptrdiff_t(last) * stride_of(g), g.T_steps * stride_of(g), nullptr, nullptr,
                   s);
        return;
    }
    SSM_LOOP_1
    for (int32_t i = a.part * block_threads + thread_id(); i < streams * c.d_model; i += a.parts * block_threads) {
        const int32_t stream = first + i / c.d_model, k = i % c.d_model;
        g.y[ptrdiff_t(stream) * c.d_model + k] =
            as_output(g.r[ptrdiff_t(stream * g.T_steps + last) * stride_of(g) + k], g.q16);
    }
    __syncthreads();
}
// The recurrences of some heads of some streams; parts: pieces of `heads_at_once` heads of one stream.
template <bool One, bool Codes, class T> static __device__ inline void mix(const Net<T>& g, const Piece& a) {
    const bool    m1 = g.c.arch == Arch::mamba1;
    const int32_t all = m1 ? g.c.d_inner : g.c.nheads, at_once = m1 ? g.channels_at_once : g.heads_at_once;
    const int32_t pieces = all <= at_once ? 1 : (all + at_once - 1) / at_once,
                  streams = g.T_steps == 1 ? a.count : a.count / g.T_steps;
    // By blocks, or where a stream's state is small and there are many, by warps: half of the work is getting ready.
    const Gang    gang = g.by_warps ? Gang{0, 1, lane_id(), 32} : Gang{warp_id(), warps, thread_id(), block_threads};
    const int32_t first_item = g.by_warps ? a.part * warps + warp_id() : a.part,
                  step = g.by_warps ? a.parts * warps : a.parts;
    SSM_LOOP_1
    for (int32_t i = first_item; i < streams * pieces; i += step) {
        const int32_t stream = pieces == 1 ? i : i / pieces, first = pieces == 1 ? 0 : i % pieces * at_once;
        mix_heads<One, Codes>(g, a, gang, a.first + stream * g.T_steps, first,
                              all - first < at_once ? all - first : at_once);
    }
    __syncthreads();
}
SSM_DEV void mix_any(const Net<int32_t>& g, const Piece& a) {
    if (g.c.state == StateType::i16rowexp) mix<false, true>(g, a);
    else mix<false, false>(g, a);
}
SSM_DEV void mix_any(const Net<float>& g, const Piece& a) { mix<false, false>(g, a); }

// ---- Stages ---------------------------------------------------------------------------------------------------------

template <class T, bool All> static __device__ inline void run_stage(const Net<T>& g, Stage stage, const Piece& a) {
    const Config&   c = g.c;
    const Layer<T>& l = g.layers[a.layer];
    const int32_t   d = stride_of(g), di = c.d_inner;
    const T*        none = nullptr;
    T* const        rBC = g.p + 2 * di; // Mamba-1
    switch (stage) {
    case st_input:
        return input(g, a);
    case st_sound:
        return sound(g, a);
    case st_encode:
        return project(g, a, *g.encoder, g.p, g.p_stride, none, none, sink_of(Then::store, g.r, d, a.first));
    case st_s4d_scan:
        if constexpr (All) s4d_scan(g, a);
        return;
    case st_s4d_mix:
        return project(g, a, l.in, g.z, d, none, none, sink_of(Then::glu, g.r, d, a.first));
    case st_post_norm:
        return post_norm(g, a);
    case st_in:
        return project(g, a, l.in, g.r, d, l.mamba.norm_weight, l.mamba.norm_bias,
                       sink_of(Then::store, g.p, g.p_stride, a.first));
    case st_conv:
        return conv(g, a);
    case st_x_proj:
        return project(g, a, l.x_proj, g.p, g.p_stride, none, none, sink_of(Then::store, rBC, g.p_stride, a.first));
    case st_dt_proj:
        return project(g, a, l.dt_proj, rBC, g.p_stride, none, none,
                       sink_of(Then::store, rBC + c.dt_rank + 2 * c.d_state, g.p_stride, a.first));
    case st_prepare:
        if constexpr (All) prepare(g, a);
        return;
    case st_mix:
        if constexpr (All) mix_any(g, a);
        return;
    case st_gates:
        return gates(g, a);
    case st_out:
        return project(g, a, l.out, g.o, g.o_stride, none, none,
                       sink_of(c.bare_mixer ? Then::store : Then::add, g.r, d, a.first));
    case st_fc1:
        return project(g, a, l.fc1, g.r, d, l.mamba.norm2_weight, l.mamba.norm2_bias,
                       sink_of(Then::gate, g.o, g.o_stride, a.first));
    case st_fc2:
        return project(g, a, l.fc2, g.o, g.o_stride, none, none, sink_of(Then::add, g.r, d, a.first));
    case st_finish:
        return finish(g, a);
    case st_head:
        return head(g, a);
    }
}
template <class T>
static __device__ inline Piece piece_of(const Net<T>& g, int32_t part, int32_t parts, int32_t layer,
                                        unsigned char* shared) {
    const int32_t rows = g.n * g.T_steps, first = int32_t(blockIdx.x) * g.tile;
    return Piece{first, rows - first < g.tile ? rows - first : g.tile, part, parts, layer, shared};
}
// Which stages a kernel has: all, in a row; those that are not the next; what comes before heads' states; S4D's scan;
// recurrences of heads of any kind;
// and those with one rank and N <= 128, for which many blocks fit a processor: with a state of numbers or of codes.
enum Kernel : int32_t { k_fused, k_rest, k_prepare, k_s4d, k_mix, k_mix_one, k_mix_codes, n_kernels };
template <class T, int K>
__global__ void __launch_bounds__(block_threads, K == k_prepare ? 4
                                                 : K >= k_rest  ? 2
                                                                : 1)
    run_kernel(const __grid_constant__ Net<T> g, int32_t stage, int32_t layer) {
    SSM_SHARED(shared);
    Piece a = piece_of(g, int32_t(blockIdx.y), int32_t(gridDim.y), layer, shared);
    if constexpr (K == k_s4d) s4d_scan(g, a);
    else if constexpr (K == k_prepare) prepare(g, a);
    else if constexpr (K == k_mix) mix_any(g, a);
    else if constexpr (K == k_mix_one) mix<true, false>(g, a);
    else if constexpr (K == k_mix_codes) {
        if constexpr (std::is_same<T, int32_t>::value) mix<true, true>(g, a);
    } else if constexpr (K == k_rest) run_stage<T, false>(g, Stage(stage), a);
    else
        for (int32_t i = 0; i < g.n_stages; ++i) {
            const int2 next = g.program[i];
            a.layer = next.y;
            run_stage<T, true>(g, Stage(next.x), a);
        }
}
// Whether the compiler fused a product and a sum: (1 + 2^-12)^2 - (1 + 2^-11) is 2^-24 where it did, else 0.
__global__ void fused_sum_kernel(const float* in, float* out) { *out = in[0] * in[0] - in[1]; }

// ---- The host's side ------------------------------------------------------------------------------------------------

using Program = int2[size_t(max_layers) * 10 + 8];
// What happens to a tile, in order; returns how many stages. The last is the head.
int32_t program_of(const Config& c, int2* to) {
    int32_t    n = 0;
    const auto add = [&](Stage stage, int32_t layer) {
        if (to != nullptr) to[n] = make_int2(stage, layer);
        ++n;
    };
    add(st_input, 0);
    if (c.n_bands > 0) add(st_sound, 0);
    if (c.input == Input::features) add(st_encode, 0);
    for (int32_t l = 0; l < c.n_layers; ++l) {
        if (c.arch == Arch::s4d) {
            add(st_s4d_scan, l), add(st_s4d_mix, l);
            if (!c.prenorm) add(st_post_norm, l);
            continue;
        }
        add(st_in, l);
        if (c.arch != Arch::mamba3) add(st_conv, l);
        if (c.arch == Arch::mamba1) add(st_x_proj, l), add(st_dt_proj, l);
        if (is_integer(c) || c.arch == Arch::mamba3) add(st_prepare, l);
        add(st_mix, l);
        if (c.arch == Arch::mamba2) add(st_gates, l);
        add(st_out, l);
        if (c.mlp_hidden > 0) add(st_fc1, l), add(st_fc2, l);
    }
    add(st_finish, 0), add(st_head, 0);
    return n;
}

// The GPU's memory, handed out front to back: once to count, once with a copy at the host to be filled.
struct Memory {
    uintptr_t             base = 0;
    unsigned char*        host = nullptr;
    size_t                used = 0;
    template <class V> V* take(size_t count) {
        used = (used + 255) / 256 * 256;
        V* const at = reinterpret_cast<V*>(base + used);
        used += count * sizeof(V);
        return at;
    }
    template <class V> V* image_of(const V* at) const { // in the host's copy; null while counting
        return host == nullptr ? nullptr : reinterpret_cast<V*>(host + (reinterpret_cast<uintptr_t>(at) - base));
    }
    template <class V> const V* put(const V* from, size_t count) {
        if (from == nullptr) return nullptr;
        V* const at = take<V>(count);
        if (V* const to = image_of(at)) std::memcpy(to, from, count * sizeof(V));
        return at;
    }
};

int32_t weight_code(const Matrix& W, int32_t row, int32_t k) { // of an integer matrix
    if (k >= W.cols) return 0;
    if (row >= W.rows4) return static_cast<signed char>(W.data[ptrdiff_t(row - W.rows4) * W.cols + k]);
    const int32_t       groups = (W.cols + 31) / 32, j = k % 32;
    const unsigned char two = W.data4[(ptrdiff_t(row) * groups + k / 32) * 16 + j % 16];
    return ((j < 16 ? two & 15 : two >> 4) ^ 8) - 8;
}
Mat put_matrix(Memory& to, const Matrix& W, const float* bias, size_t n_bias, bool pair, bool integer) {
    Mat m;
    if (W.rows == 0) return m;
    m.rows = W.rows, m.cols = W.cols, m.dtype = W.dtype, m.pair = pair;
    if (!integer) {
        m.data = to.put(W.data, size_t(W.rows) * size_t(W.cols) * (W.dtype == DType::f32 ? 4 : 2));
        m.bias = to.put(bias, n_bias);
        return m;
    }
    const int32_t blocks = blocks_of(m), groups = columns32(m), half = W.rows / 2;
    m.blocks4 = pair ? (std::min(W.rows4, half) + 7) / 8 : (W.rows4 + 15) / 16;
    const auto row_of = [&](int32_t block, int32_t i) { // -1: none
        const int32_t row = !pair ? block * 16 + i : block * 8 + i % 8;
        return row >= (pair ? half : W.rows) ? -1 : pair && i >= 8 ? half + row : row;
    };
    uint4* const       frag = to.take<uint4>(size_t(blocks) * size_t(groups) * 32);
    signed char* const sub = to.take<signed char>(size_t(m.blocks4) * size_t(groups) * 16);
    uint32_t* const    scale = to.take<uint32_t>(size_t(W.rows));
    int32_t* const     bias_q = W.bias != nullptr ? to.take<int32_t>(size_t(W.rows)) : nullptr;
    m.frag = frag, m.sub = sub, m.scale = scale, m.bias_q = bias_q;
    if (to.host == nullptr) return m;
    unsigned char* code = reinterpret_cast<unsigned char*>(to.image_of(frag));
    signed char*   sub_code = to.image_of(sub);
    for (int32_t b = 0; b < blocks; ++b)
        for (int32_t g = 0; g < groups; ++g) {
            for (int32_t lane = 0; lane < 32; ++lane)
                for (int32_t i = 0; i < 16; ++i) { // word i / 4: rows 0 to 7 or 8 to 15, columns 0 to 15 or 16 to 31
                    const int32_t row = row_of(b, lane / 4 + i / 4 % 2 * 8),
                                  k = g * 32 + i / 8 * 16 + lane % 4 * 4 + i % 4;
                    *code++ = static_cast<unsigned char>(row < 0 ? 0 : weight_code(W, row, k));
                }
            for (int32_t i = 0; b < m.blocks4 && i < 16; ++i) {
                const int32_t row = row_of(b, i);
                *sub_code++ = row < 0 || row >= W.rows4 ? static_cast<signed char>(1)
                                                        : static_cast<signed char>(W.sub[ptrdiff_t(row) * groups + g]);
            }
        }
    for (int32_t row = 0; row < W.rows; ++row) {
        to.image_of(scale)[row] = load_u32(W.scale + ptrdiff_t(row) * 4);
        if (bias_q != nullptr) to.image_of(bias_q)[row] = int32_t(load_u32(W.bias + ptrdiff_t(row) * 4));
    }
    return m;
}
const float* float_bias(const float* b) { return b; }
const float* float_bias(const int32_t*) { return nullptr; } // with their Matrix

void put_s4d(Memory& to, const Config& c, const S4dLayer<float>& from, Layer<float>* l) {
    const size_t m = modes(c), d = size_t(c.d_model);
    l->s4d.ab = to.put(from.ab, m * 4), l->s4d.c = to.put(from.c, m * 2), l->s4d.rho = to.put(from.rho, m);
    l->s4d.turns = to.put(from.turns, m), l->s4d.gain = to.put(from.gain, m * 2),
    l->s4d.D = to.put(from.D, padded(c.d_model));
    l->in = put_matrix(to, from.mix, from.mix_bias, 2 * d, true, false);
}
void put_s4d(Memory& to, const Config& c, const S4dLayer<int32_t>& from, Layer<int32_t>* l) {
    const size_t m = modes(c), d = size_t(c.d_model);
    l->s4d.a = to.put(from.a, m * 8), l->s4d.b = to.put(from.b, m * 8), l->s4d.C = to.put(from.C, m * 4);
    l->s4d.C_scale = to.put(from.C_scale, d * 4), l->s4d.rho = to.put(from.rho, m * 4),
    l->s4d.phase = to.put(from.phase, m * 8);
    l->s4d.gain = to.put(from.gain, m * 8), l->s4d.D = to.put(from.D, d);
    l->in = put_matrix(to, from.mix, nullptr, 0, true, true);
}
template <class T> void put_mamba(Memory& to, const Config& c, const MambaLayer<T>& from, Layer<T>* l) {
    const size_t d = size_t(c.d_model), C = conv_dim(c), N = size_t(c.d_state), H = size_t(c.nheads),
                 di = size_t(c.d_inner);
    const size_t   HRP = H * size_t(c.mimo_rank) * size_t(c.headdim), ds = size_t(c.d_ssm);
    const bool     q = is_integer(c), m1 = c.arch == Arch::mamba1, m2 = c.arch == Arch::mamba2;
    const size_t   biases = q ? H * size_t(c.mimo_rank) * N : head_kn(c);
    MambaLayer<T>& m = l->mamba;
    m.norm_weight = to.put(from.norm_weight, d), m.norm_bias = to.put(from.norm_bias, d);
    m.norm2_weight = to.put(from.norm2_weight, d), m.norm2_bias = to.put(from.norm2_bias, d);
    m.conv_w = to.put(from.conv_w, C * size_t(c.d_conv)), m.conv_bias = to.put(from.conv_bias, C);
    m.dt_bias = to.put(from.dt_bias, m1 ? di : H);
    m.A = to.put(from.A, m1 ? (q ? di : padded(c.d_inner)) * N : H), m.D = to.put(from.D, m1 ? di : m2 ? ds : H);
    m.gate_norm = to.put(from.gate_norm, m2 ? ds : di);
    m.B_norm = to.put(from.B_norm, N), m.C_norm = to.put(from.C_norm, N);
    m.B_bias = to.put(from.B_bias, biases), m.C_bias = to.put(from.C_bias, biases);
    m.mimo_x = to.put(from.mimo_x, HRP), m.mimo_z = to.put(from.mimo_z, HRP), m.mimo_o = to.put(from.mimo_o, HRP);
    l->in = put_matrix(to, from.in_proj, float_bias(from.in_bias), in_rows(c), false, q);
    l->out = put_matrix(to, from.out_proj, float_bias(from.out_bias), d, false, q);
    l->x_proj = put_matrix(to, from.x_proj, nullptr, 0, false, q),
    l->dt_proj = put_matrix(to, from.dt_proj, nullptr, 0, false, q);
    l->fc1 = put_matrix(to, from.fc1, nullptr, 0, true, q), l->fc2 = put_matrix(to, from.fc2, nullptr, 0, false, q);
}

// The tables of one engine, by the type of its numbers.
const S4dLayer<float>*     s4d_of(const Model& m, const float*) { return m.s4d; }
const S4dLayer<int32_t>*   s4d_of(const Model& m, const int32_t*) { return m.s4d_q; }
const MambaLayer<float>*   mamba_of(const Model& m, const float*) { return m.mamba; }
const MambaLayer<int32_t>* mamba_of(const Model& m, const int32_t*) { return m.mamba_q; }
const float*   norm_of(const Model& m, const float*, bool bias) { return bias ? m.norm_f_bias : m.norm_f_weight; }
const int32_t* norm_of(const Model& m, const int32_t*, bool bias) { return bias ? m.norm_f_bias_q : m.norm_f_weight_q; }

// How large things are for a model.
struct Sizes {
    int32_t widest = 0;      // columns of a projection
    size_t  other_bytes = 0; // shared memory of a stage other than a projection
    int32_t p_stride = 0, o_stride = 0, heads_at_once = 1, channels_at_once = block_threads;
};
constexpr size_t tile_shared = 96 * 1024;
Sizes sizes_of(const Config& c) {
    Sizes         s;
    const int32_t features = features_of(c);
    s.p_stride = int32_t(larger(row_p(c), padded(std::max(c.d_input, features)))),
    s.o_stride = int32_t(larger(row_o(c), 8));
    s.widest = std::max(std::max(c.d_model, c.input == Input::features ? features : 1),
                        std::max(c.arch == Arch::s4d ? 1 : c.d_inner, std::max(c.mlp_hidden, c.dt_rank)));
    s.other_bytes = sizeof(RowNorm<int32_t>) * tile_rows;
    if (c.n_bands > 0) s.other_bytes = larger(s.other_bytes, (size_t(c.d_input + c.n_bands) + bank_words(c) + 1) * 4);
    if (c.arch == Arch::mamba1) s.channels_at_once = std::min(c.d_inner, block_threads);
    else if (c.arch != Arch::s4d) { // about 32768 numbers of a state to a block
        const int32_t of_head = c.headdim * c.d_state;
        s.heads_at_once = std::min(c.nheads, is_integer(c) ? 32768 / of_head : block_threads / c.headdim);
        s.heads_at_once = std::max(1, s.heads_at_once);
    }
    return s;
}

// Everything on the GPU, for counting (to.base 0) or for use. `weights` is set where they end.
template <class T>
Net<T> plan(Memory& to, const Model& m, const Options& o, size_t* weights, Layer<T>* first,
            Mat* ends) { // ends: encoder and decoder
    const Config& c = m.config;
    const T*      kind = nullptr;
    const Sizes   sizes = sizes_of(c);
    const bool    q = is_integer(c);
    Net<T>        g;
    g.c = c;
    if (c.input == Input::features) ends[0] = put_matrix(to, m.encoder, m.encoder_bias, size_t(c.d_model), false, q);
    if (c.has_head) ends[1] = put_matrix(to, m.decoder, m.decoder_bias, size_t(c.d_output), false, q);
    g.encoder = to.put(ends, 2), g.decoder = g.encoder != nullptr ? g.encoder + 1 : nullptr; // null: it counts
    g.norm_f_weight = to.put(norm_of(m, kind, false), size_t(c.d_model)),
    g.norm_f_bias = to.put(norm_of(m, kind, true), size_t(c.d_model));
    const size_t K = size_t(c.n_bands);
    g.poles = to.put(m.poles, 8 * K), g.full = to.put(m.full, 4 * K), g.prior = to.put(m.prior, 4 * K);
    Layer<T>* const layers = to.take<Layer<T>>(size_t(c.n_layers));
    g.layers = layers;
    for (int32_t i = 0; i < c.n_layers; ++i) {
        Layer<T> l;
        if (c.arch == Arch::s4d) {
            const auto& from = s4d_of(m, kind)[i];
            put_s4d(to, c, from, &l);
            l.s4d.norm_weight = to.put(from.norm_weight, size_t(c.d_model)),
            l.s4d.norm_bias = to.put(from.norm_bias, size_t(c.d_model));
        } else put_mamba(to, c, mamba_of(m, kind)[i], &l);
        if (to.host != nullptr) to.image_of(layers)[i] = l;
        if (i == 0) *first = l;
    }
    const size_t n_stages = size_t(program_of(c, nullptr));
    int2* const  program = to.take<int2>(n_stages);
    if (to.host != nullptr) (void)program_of(c, to.image_of(program));
    g.program = program, g.n_stages = int32_t(n_stages);
    *weights = to.used;

    const size_t rows = size_t(o.max_batch), d = padded(c.d_model);
    g.state_stride = (state_bytes(c) + 255) / 256 * 256;
    g.states = to.take<unsigned char>(size_t(o.slots) * g.state_stride);
    g.p_stride = sizes.p_stride, g.o_stride = sizes.o_stride, g.at = mix_at(c), g.m_stride = g.at.words;
    if (c.arch != Arch::s4d) g.parts = parts_of(c);
    g.head_words = int32_t(ssm::detail::head_words(c)),
    g.layer_words = int32_t(c.arch == Arch::s4d ? modes(c) * 2 : g.parts.end);
    while (g.scan_lanes < 32 && g.scan_lanes * 4 < c.d_state) g.scan_lanes *= 2;
    g.heads_at_once = sizes.heads_at_once, g.channels_at_once = sizes.channels_at_once;
    g.r = to.take<T>(rows * d), g.z = to.take<T>(rows * d), g.p = to.take<T>(rows * size_t(g.p_stride));
    g.o = to.take<T>(rows * size_t(g.o_stride)), g.m = to.take<T>(rows * size_t(g.m_stride)), g.dt = to.take<T>(rows),
    g.slots = to.take<int32_t>(rows);
    return g;
}

bool fits(const Model& m, const Options& o) {
    return m.kernels != nullptr && o.slots > 0 && o.slots <= 1 << 24 && o.max_batch > 0 && o.max_batch <= max_batch &&
           o.device >= 0 && o.fused >= -1 && o.fused <= 1;
}
template <class T> size_t count_bytes(const Model& m, const Options& o) {
    Memory   count;
    size_t   weights;
    Layer<T> first;
    Mat      ends[2];
    (void)plan<T>(count, m, o, &weights, &first, ends);
    return count.used;
}

Status say(Fault* fault, cudaError_t e) {
    (void)cudaGetLastError(); // or the next call would meet it again
    if (fault != nullptr) *fault = Fault(), fault->detail = cudaGetErrorString(e);
    return Status::gpu;
}
Status say(Fault* fault, Status s, const char* why) {
    if (fault != nullptr) *fault = Fault(), fault->detail = why;
    return s;
}
#define SSM_TRY(call)                                                                                                  \
    if (const cudaError_t error_of_call = (call); error_of_call != cudaSuccess) return say(fault, error_of_call)

// The thread's current device, put back at the end.
struct Current {
    int         before = 0;
    cudaError_t error;
    explicit Current(int device) {
        error = cudaGetDevice(&before);
        if (error == cudaSuccess) error = cudaSetDevice(device);
    }
    ~Current() { (void)cudaSetDevice(before); }
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;
};

struct Graph { // of a call of this kind and size
    cudaGraphExec_t exec = nullptr;
    int32_t         n = 0, T_steps = 0;
    bool            moves = false, has_dt = false, q16 = false, wants_y = false;
    uint64_t        last_use = 0;
};
} // namespace impl

using namespace impl;

struct Device {
    Config         config;
    Options        options;
    bool           own_stream = false;
    cudaStream_t   stream = nullptr;
    unsigned char* memory = nullptr;  // the GPU's
    unsigned char* staging = nullptr; // the host's, that the GPU sees: slots, dt, x, y
    int32_t*       slots = nullptr;
    unsigned char *x = nullptr, *dt = nullptr, *y = nullptr;
    uint32_t*      seen = nullptr; // [slots]: the number of the last call that named it
    uint32_t       calls = 0;
    uint64_t       uses = 0;
    int32_t        processors = 1;
    size_t         shared_limit = 0, weights = 0;
    Sizes          sizes;
    Net<float>     f; // of the model's engine one is used
    Net<int32_t>   q;
    Mat            ends[2];
    Layer<float>   layer_f; // the first
    Layer<int32_t> layer_q;
    Graph          graphs[32];
    char           name[256] = "";
};

namespace impl {
Net<float>&     net_of(Device* d, const float*) { return d->f; }
Net<int32_t>&   net_of(Device* d, const int32_t*) { return d->q; }
Layer<float>&   layer_of(Device* d, const float*) { return d->layer_f; }
Layer<int32_t>& layer_of(Device* d, const int32_t*) { return d->layer_q; }

// f(kernel) for every kernel of an engine.
template <class T, int K = 0, class F> cudaError_t each_kernel(const F& f) {
    if constexpr (K == n_kernels) return cudaSuccess;
    else {
        const cudaError_t e = f(reinterpret_cast<const void*>(&run_kernel<T, K>));
        return e != cudaSuccess ? e : each_kernel<T, K + 1>(f);
    }
}
struct Shape {
    int32_t tiles, parts;
    size_t  bytes;
};
template <class T, int K = 0>
void launch_kernel(int32_t kernel, const Net<T>& g, int32_t stage, int32_t layer, const Shape& s, cudaStream_t stream) {
    if constexpr (K < n_kernels) {
        if (kernel != K) return launch_kernel<T, K + 1>(kernel, g, stage, layer, s, stream);
        const auto run = &run_kernel<T, K>;
        SSM_LAUNCH(run, dim3(unsigned(s.tiles), unsigned(s.parts)), dim3(block_threads), s.bytes, stream, g, stage,
                   layer);
    }
}
Kernel kernel_of(const Config& c, Stage stage, int32_t steps) {
    if (stage == st_s4d_scan) return k_s4d;
    if (stage == st_prepare) return k_prepare;
    if (stage != st_mix) return k_rest;
    const bool one =
        (c.arch == Arch::mamba3 ? c.mimo_rank == 1 : c.arch == Arch::mamba2 && is_integer(c)) && c.d_state <= 128;
    if (!one) return k_mix;
    if (!is_integer(c)) return k_mix_one;
    // scan_one() wants rows of four numbers, aligned as in every slot.
    const bool   codes = c.state == StateType::i16rowexp;
    const Parts  at = parts_of(c);
    const size_t first = state_header_bytes + (head_words(c) + at.h) * 4, size = codes ? 8 : 16;
    if (steps != 1 || c.d_state % 4 != 0 || c.headdim % 4 != 0 || first % size != 0 ||
        (c.n_layers > 1 && at.end * 4 % size != 0))
        return k_mix;
    return codes ? k_mix_codes : k_mix_one;
}
int32_t least_of(int64_t a, int64_t b) { return int32_t(a < b ? a : b); }
// In how many parts a stage of a tile is done, and the shared memory of a block.
template <class T>
int32_t parts_of_stage(const Device& d, const Net<T>& g, Stage stage, const Layer<T>& l, int32_t tiles, size_t* bytes) {
    const Config& c = g.c;
    const int32_t streams = std::max(1, g.tile / g.T_steps), wanted = std::max(1, 2 * d.processors / tiles);
    *bytes = d.sizes.other_bytes;
    const auto of = [&](const Mat& W) {
        *bytes = project_bytes(c, W.cols, g.tile);
        return std::max(1, least_of(wanted, (blocks_of(W) + warps - 1) / warps));
    };
    const auto pieces = [](int64_t n, int64_t of_one) {
        return std::max(1, least_of((n + of_one - 1) / of_one, 65535));
    };
    switch (stage) {
    case st_input:
        return pieces(int64_t(g.tile) * c.d_input, 4 * block_threads);
    case st_sound:
        return streams;
    case st_encode:
        return of(d.ends[0]);
    case st_s4d_scan:
        return std::max(1, least_of(wanted, (c.d_model + 7) / 8));
    case st_s4d_mix:
    case st_in:
        return of(l.in);
    case st_conv:
        return pieces(int64_t(streams) * int64_t(conv_dim(c)), block_threads);
    case st_x_proj:
        return of(l.x_proj);
    case st_dt_proj:
        return of(l.dt_proj);
    case st_prepare:
        return pieces(streams, std::max(1, 512 / std::max(1, c.nheads * c.rope_angles)));
    case st_mix: {
        const int32_t all = c.arch == Arch::mamba1 ? c.d_inner : c.nheads,
                      one = c.arch == Arch::mamba1 ? g.channels_at_once : g.heads_at_once;
        return pieces(int64_t(streams) * ((all + one - 1) / one), g.by_warps ? warps : 1);
    }
    case st_out:
        return of(l.out);
    case st_fc1:
        return of(l.fc1);
    case st_fc2:
        return of(l.fc2);
    case st_head:
        if (c.has_head) return of(d.ends[1]);
        return pieces(int64_t(streams) * c.d_model, 4 * block_threads);
    case st_post_norm:
    case st_gates:
    case st_finish:
        break;
    }
    return pieces(g.tile, warps);
}
template <class T> bool is_fused(const Device& d, const Net<T>& g) {
    if (d.options.fused >= 0) return d.options.fused != 0;
    return int64_t(g.n) * g.T_steps <= int64_t(d.processors) * 4 && d.weights <= size_t(4) << 20;
}
// A tile's rows: whole streams, as many as fit the shared memory; fewer where that keeps more processors busy.
template <class T> int32_t tile_of(const Device& d, const Net<T>& g, bool fused) {
    int32_t tile = tile_rows;
    while (tile > 1 && project_bytes(g.c, d.sizes.widest, tile) > tile_shared) tile /= 2;
    if (fused)
        tile = std::min(tile, std::max(1, int32_t((int64_t(g.n) * g.T_steps + d.processors - 1) / d.processors)));
    return std::max(1, tile / g.T_steps) * g.T_steps;
}
// Whether a warp should have a stream of its own.
template <class T> bool is_by_warps(const Device& d, const Net<T>& g) {
    return g.c.arch != Arch::s4d && is_integer(g.c) && state_floats(g.c) / uint64_t(g.c.n_layers) <= 16384 &&
           g.n >= d.processors * 2 * warps;
}
// All launches of a call.
template <class T> void enqueue(const Device& d, Net<T> g, const Layer<T>& any) { // all layers have the same shapes
    const bool fused = is_fused(d, g);
    g.tile = tile_of(d, g, fused);
    g.by_warps = !fused && is_by_warps(d, g);
    const int32_t tiles = int32_t((int64_t(g.n) * g.T_steps + g.tile - 1) / g.tile);
    if (fused) {
        const Shape all{tiles, 1, larger(d.sizes.other_bytes, project_bytes(g.c, d.sizes.widest, g.tile))};
        return launch_kernel<T>(k_fused, g, 0, 0, all, d.stream);
    }
    Program program;
    (void)program_of(g.c, program);
    for (int32_t i = 0; i < g.n_stages; ++i) {
        const Stage stage = Stage(program[i].x);
        Shape       s{tiles, 1, 0};
        s.parts = parts_of_stage(d, g, stage, any, tiles, &s.bytes);
        launch_kernel<T>(kernel_of(g.c, stage, g.T_steps), g, stage, program[i].y, s, d.stream);
    }
}

// Launches of a call as one graph, made when a call of its kind and size comes for the first time.
template <class T> Status launch(Device* d, const Net<T>& g, bool wants_y, Fault* fault) {
    Graph* slot = &d->graphs[0];
    for (Graph& each : d->graphs) {
        if (each.exec != nullptr && each.n == g.n && each.T_steps == g.T_steps && each.moves == g.moves &&
            each.q16 == g.q16 && each.has_dt == g.has_dt && each.wants_y == wants_y) {
            each.last_use = ++d->uses;
            SSM_TRY(cudaGraphLaunch(each.exec, d->stream));
            return Status::ok;
        }
        if (each.last_use < slot->last_use) slot = &each;
    }
    SSM_TRY(cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal));
    const T* kind = nullptr;
    enqueue(*d, g, layer_of(d, kind));
    const cudaError_t launched = cudaGetLastError();
    cudaGraph_t       graph = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(d->stream, &graph);
    if (launched != cudaSuccess || ended != cudaSuccess) {
        if (graph != nullptr) (void)cudaGraphDestroy(graph);
        return say(fault, launched != cudaSuccess ? launched : ended);
    }
    cudaGraphExec_t   exec = nullptr;
    const cudaError_t made = cudaGraphInstantiate(&exec, graph, 0);
    (void)cudaGraphDestroy(graph);
    SSM_TRY(made);
    if (slot->exec != nullptr) (void)cudaGraphExecDestroy(slot->exec);
    slot->exec = exec, slot->n = g.n, slot->T_steps = g.T_steps, slot->moves = g.moves, slot->has_dt = g.has_dt,
    slot->q16 = g.q16, slot->wants_y = wants_y;
    slot->last_use = ++d->uses;
    SSM_TRY(cudaGraphLaunch(exec, d->stream));
    return Status::ok;
}

// One run over rows that were copied to the staging memory: n streams by T steps, or n candidates.
struct Run {
    int32_t n = 0, steps = 1;
    bool    moves = true, has_dt = false, q16 = false, wants_y = true;
};
template <class T> Status run_rows(Device* d, const Run& r, Fault* fault) {
    const T* kind = nullptr;
    Net<T>   g = net_of(d, kind);
    g.n = r.n, g.T_steps = r.steps, g.moves = r.moves, g.has_dt = r.has_dt, g.q16 = r.q16;
    if (!r.wants_y) g.n_stages -= 1;
    const Status s = launch(d, g, r.wants_y, fault);
    if (s != Status::ok) return s;
    SSM_TRY(cudaStreamSynchronize(d->stream));
    return Status::ok;
}
Status run_any(Device* d, const Run& r, Fault* fault) {
    return is_integer(d->config) ? run_rows<int32_t>(d, r, fault) : run_rows<float>(d, r, fault);
}

// Everything that could be wrong with a call but for the numbers, which check_numbers() looks at.
Status check_slots(Device* d, const int32_t* slots, int32_t n, Fault* fault) {
    if (n < 0 || (n > 0 && slots == nullptr))
        return say(fault, Status::bad_argument, "n is negative, or slots is null");
    if (d->calls == UINT32_MAX) std::memset(d->seen, 0, size_t(d->options.slots) * 4), d->calls = 0;
    ++d->calls;
    for (int32_t i = 0; i < n; ++i) {
        if (slots[i] < 0 || slots[i] >= d->options.slots)
            return say(fault, Status::bad_argument, "there is no such slot");
        if (d->seen[slots[i]] == d->calls) return say(fault, Status::bad_argument, "a slot is given twice");
        d->seen[slots[i]] = d->calls;
    }
    return Status::ok;
}
template <class N> Status check_rows(const Device& d, const N* x, int64_t rows, const N* dt, Fault* fault) {
    if (rows > INT32_MAX || (rows > 0 && x == nullptr))
        return say(fault, Status::bad_argument, "x is null, or there are too many rows");
    if (is_q16(x) && !is_integer(d.config)) return say(fault, Status::bad_argument, "Q16 is for integer models");
    N* const     y = nullptr;
    const Call   call = call_of<N>(Rows::steps, nullptr, int32_t(rows), x, y, dt);
    const Status s = check_numbers(d.config, call);
    return s == Status::ok ? s : say(fault, s, message(s));
}

// The median of `repeats` times of f(), which puts work on the stream.
template <class F> Status time_of(Device* d, int32_t repeats, double* seconds, Fault* fault, const F& f) {
    cudaEvent_t events[2] = {nullptr, nullptr};
    float       best[101];
    cudaError_t e = cudaSuccess;
    const auto  keep = [&](cudaError_t next) { e = e == cudaSuccess ? next : e; };
    keep(cudaEventCreate(&events[0]));
    keep(cudaEventCreate(&events[1]));
    repeats = std::min(repeats, 101);
    for (int32_t i = 0; i < repeats && e == cudaSuccess; ++i) {
        keep(cudaEventRecord(events[0], d->stream));
        keep(f());
        keep(cudaEventRecord(events[1], d->stream));
        keep(cudaEventSynchronize(events[1]));
        if (e == cudaSuccess) keep(cudaEventElapsedTime(&best[i], events[0], events[1]));
    }
    for (cudaEvent_t event : events)
        if (event != nullptr) (void)cudaEventDestroy(event);
    SSM_TRY(e);
    std::sort(best, best + repeats);
    *seconds = static_cast<double>(best[repeats / 2]) * 1e-3;
    return Status::ok;
}
template <class T>
Status measure_net(Device* d, int32_t n, bool candidates, int32_t repeats, Times* out, Fault* fault) {
    const T*      kind = nullptr;
    const Config& c = d->config;
    Net<T>        g = net_of(d, kind);
    g.n = n, g.moves = !candidates;
    for (int32_t i = 0; i < 3; ++i) { // makes the graph, and everything warm
        const Status s = launch(d, g, true, fault);
        if (s != Status::ok) return s;
    }
    Status s = time_of(d, repeats, &out->step, fault, [&] {
        Fault ignored;
        return launch(d, g, true, &ignored) == Status::ok ? cudaSuccess : cudaErrorUnknown;
    });
    if (s != Status::ok) return s;
    const bool s4d = c.arch == Arch::s4d;
    g.tile = tile_of(*d, g, false), g.by_warps = is_by_warps(*d, g);
    const int32_t tiles = (n + g.tile - 1) / g.tile;
    const Stage   stage = s4d ? st_s4d_scan : st_mix;
    Shape         shape{tiles, 1, 0};
    shape.parts = parts_of_stage(*d, g, stage, layer_of(d, kind), tiles, &shape.bytes);
    s = time_of(d, repeats, &out->scan, fault, [&] {
        launch_kernel<T>(kernel_of(c, stage, 1), g, stage, 0, shape, d->stream);
        return cudaGetLastError();
    });
    const size_t words = s4d ? modes(c) * 2 : parts_of(c).end - g.parts.angle;
    out->scan_bytes = words * 4 * (candidates ? 1 : 2 * size_t(n));
    return s;
}
} // namespace impl

size_t device_bytes(const Model& m, const Options& o) noexcept {
    return !fits(m, o) ? 0 : is_integer(m.config) ? count_bytes<int32_t>(m, o) : count_bytes<float>(m, o);
}

Status available(int32_t device, Fault* fault) noexcept {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count <= 0) {
        (void)cudaGetLastError();
        return say(fault, Status::gpu, "no CUDA device");
    }
    if (device < 0 || device >= count) return say(fault, Status::gpu, "no CUDA device of that number");
    int major = 0, minor = 0;
    SSM_TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    SSM_TRY(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    if (major * 10 + minor < 75) return say(fault, Status::gpu, "the GPU is older than compute capability 7.5");
    return Status::ok;
}

namespace impl {
template <class T> Status fill(Device* d, const Model& m, Fault* fault) {
    const T* kind = nullptr;
    size_t   weights = 0;
    Memory   count;
    Layer<T> first;
    Mat      ends[2];
    (void)plan<T>(count, m, d->options, &weights, &first, ends);
    void* memory = nullptr;
    SSM_TRY(cudaMalloc(&memory, count.used));
    d->memory = static_cast<unsigned char*>(memory);
    unsigned char* const image = static_cast<unsigned char*>(std::calloc(weights, 1));
    if (image == nullptr) return say(fault, Status::gpu, "the host has no memory for a copy of the weights");
    Memory to;
    to.base = reinterpret_cast<uintptr_t>(memory), to.host = image;
    Net<T>& g = net_of(d, kind);
    g = plan<T>(to, m, d->options, &weights, &layer_of(d, kind), d->ends);
    d->weights = weights;
    g.slots_in = d->slots, g.dt_in = reinterpret_cast<const uint32_t*>(d->dt),
    g.x = reinterpret_cast<const uint32_t*>(d->x);
    g.y = reinterpret_cast<uint32_t*>(d->y);
    cudaError_t e = cudaMemcpyAsync(d->memory, image, weights, cudaMemcpyHostToDevice, d->stream);
    if (e == cudaSuccess) e = cudaMemsetAsync(d->memory + weights, 0, count.used - weights, d->stream);
    const cudaError_t done = cudaStreamSynchronize(d->stream);
    std::free(image);
    SSM_TRY(e != cudaSuccess ? e : done);
    const int limit = int(d->shared_limit);
    return each_kernel<T>([&](const void* kernel) {
               return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limit);
           }) == cudaSuccess
               ? Status::ok
               : say(fault, cudaGetLastError());
}
// Without -fmad=false floats would have other bits than the CPU's.
Status check_sums(Device* d, Fault* fault) {
    const float in[2] = {1.000244140625f, 1.00048828125f};
    float       out = 1.0f, *at = reinterpret_cast<float*>(d->memory + d->weights); // where states come to stand
    SSM_TRY(cudaMemcpyAsync(at, in, sizeof in, cudaMemcpyHostToDevice, d->stream));
    const auto kernel = &fused_sum_kernel;
    SSM_LAUNCH(kernel, dim3(1), dim3(1), 0, d->stream, at, at + 2);
    SSM_TRY(cudaGetLastError());
    SSM_TRY(cudaMemcpyAsync(&out, at + 2, sizeof out, cudaMemcpyDeviceToHost, d->stream));
    SSM_TRY(cudaMemsetAsync(at, 0, 16, d->stream));
    SSM_TRY(cudaStreamSynchronize(d->stream));
    return bits_of(out) == 0 ? Status::ok
                             : say(fault, Status::unsupported, "ssm_cuda.cu was compiled without -fmad=false");
}
Status start(Device* d, const Model& m, Fault* fault) {
    const Options& o = d->options;
    const Config&  c = m.config;
    int            value = 0;
    SSM_TRY(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, o.device));
    d->processors = std::max(1, value);
    SSM_TRY(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, o.device));
    d->shared_limit = size_t(value);
    cudaDeviceProp about;
    SSM_TRY(cudaGetDeviceProperties(&about, o.device));
    std::memcpy(d->name, about.name, sizeof d->name - 1);
    d->sizes = sizes_of(c);
    if (larger(d->sizes.other_bytes, project_bytes(c, d->sizes.widest, 1)) > d->shared_limit)
        return say(fault, Status::unsupported, "the model is too wide for this GPU's shared memory");
    if (o.stream != nullptr) d->stream = static_cast<cudaStream_t>(o.stream);
    else {
        SSM_TRY(cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking));
        d->own_stream = true;
    }
    const size_t rows = size_t(o.max_batch), at_dt = (rows * 4 + 255) / 256 * 256, at_x = 2 * at_dt,
                 at_y = at_x + (rows * size_t(c.d_input) * 4 + 255) / 256 * 256;
    void *staging = nullptr, *seen_there = nullptr;
    SSM_TRY(cudaHostAlloc(&staging, at_y + rows * size_t(c.d_output) * 4, cudaHostAllocMapped));
    d->staging = static_cast<unsigned char*>(staging);
    SSM_TRY(cudaHostGetDevicePointer(&seen_there, staging, 0));
    if (seen_there != staging) return say(fault, Status::gpu, "the GPU does not share the host's addresses");
    d->slots = reinterpret_cast<int32_t*>(d->staging), d->dt = d->staging + at_dt, d->x = d->staging + at_x,
    d->y = d->staging + at_y;
    d->seen = static_cast<uint32_t*>(std::calloc(size_t(o.slots), 4));
    if (d->seen == nullptr) return say(fault, Status::gpu, "the host has no memory for its list of slots");
    const Status s = is_integer(c) ? fill<int32_t>(d, m, fault) : fill<float>(d, m, fault);
    return s == Status::ok ? check_sums(d, fault) : s;
}
} // namespace impl

void destroy(Device* d) noexcept {
    if (d == nullptr) return;
    {
        const Current current(d->options.device);
        for (Graph& g : d->graphs)
            if (g.exec != nullptr) (void)cudaGraphExecDestroy(g.exec);
        if (d->memory != nullptr) (void)cudaFree(d->memory);
        if (d->staging != nullptr) (void)cudaFreeHost(d->staging);
        if (d->own_stream) (void)cudaStreamDestroy(d->stream);
        (void)cudaGetLastError();
    }
    std::free(d->seen);
    delete d;
}

Status create(Device** out, const Model& m, const Options& o, Fault* fault) noexcept {
    if (out == nullptr || !fits(m, o))
        return say(fault, Status::bad_argument, "the model is not loaded, or an option is out of range");
    Status s = available(o.device, fault);
    if (s != Status::ok) return s;
    Device* d = new (std::nothrow) Device;
    if (d == nullptr) return say(fault, Status::gpu, "the host has no memory");
    d->config = m.config, d->options = o;
    {
        const Current current(o.device);
        s = current.error != cudaSuccess ? say(fault, current.error) : start(d, m, fault);
    }
    if (s != Status::ok) destroy(d);
    else *out = d;
    return s;
}

namespace impl {
Status state_there(Device* d, int32_t slot, const State* s, Fault* fault) {
    if (d == nullptr || (s != nullptr && (s->data == nullptr || s->bytes < state_bytes(d->config))))
        return say(fault, Status::bad_argument, "no device, or a state that is not this model's");
    if (slot < 0 || slot >= d->options.slots) return say(fault, Status::bad_argument, "there is no such slot");
    return Status::ok;
}
unsigned char* slot_at(const Device& d, int32_t slot) {
    const bool q = is_integer(d.config);
    return (q ? d.q.states : d.f.states) + size_t(slot) * (q ? d.q.state_stride : d.f.state_stride);
}
} // namespace impl

Status put_state(Device* d, int32_t slot, const State& s, Fault* fault) noexcept {
    const Status there = state_there(d, slot, &s, fault);
    if (there != Status::ok) return there;
    const Current current(d->options.device);
    SSM_TRY(current.error);
    SSM_TRY(cudaMemcpyAsync(slot_at(*d, slot), s.data, state_bytes(d->config), cudaMemcpyHostToDevice, d->stream));
    SSM_TRY(cudaStreamSynchronize(d->stream));
    return Status::ok;
}
Status get_state(Device* d, int32_t slot, State* s, Fault* fault) noexcept {
    if (s == nullptr) return say(fault, Status::bad_argument, "no state to write to");
    const Status there = state_there(d, slot, s, fault);
    if (there != Status::ok) return there;
    const Current current(d->options.device);
    SSM_TRY(current.error);
    SSM_TRY(cudaMemcpyAsync(s->data, slot_at(*d, slot), state_bytes(d->config), cudaMemcpyDeviceToHost, d->stream));
    SSM_TRY(cudaStreamSynchronize(d->stream));
    return Status::ok;
}
Status reset(Device* d, int32_t slot, Fault* fault) noexcept {
    const Status there = state_there(d, slot, nullptr, fault);
    if (there != Status::ok) return there;
    const Current current(d->options.device);
    SSM_TRY(current.error);
    SSM_TRY(cudaMemsetAsync(slot_at(*d, slot), 0, state_bytes(d->config), d->stream));
    SSM_TRY(cudaStreamSynchronize(d->stream));
    return Status::ok;
}

namespace impl {
template <class N>
Status prefill_of(Device* d, const int32_t* slots, const N* x, int32_t n, int32_t T, N* y, const N* dt, Fault* fault) {
    if (d == nullptr || T < 0) return say(fault, Status::bad_argument, "no device, or T is negative");
    Status s = check_slots(d, slots, n, fault);
    if (s == Status::ok) s = check_rows(*d, x, int64_t(n) * T, dt, fault);
    if (s != Status::ok || n == 0 || T == 0) return s;
    const Current current(d->options.device);
    SSM_TRY(current.error);
    const size_t  in = size_t(d->config.d_input), out = size_t(d->config.d_output);
    const int32_t streams = std::min(n, d->options.max_batch),
                  at_once = std::min(std::min(T, tile_rows), d->options.max_batch / streams);
    Run run;
    run.has_dt = dt != nullptr, run.q16 = is_q16(x);
    for (int32_t i = 0; i < n; i += streams) {
        run.n = std::min(streams, n - i);
        std::memcpy(d->slots, slots + i, size_t(run.n) * 4);
        for (int32_t t = 0; t < T; t += at_once) {
            run.steps = std::min(at_once, T - t), run.wants_y = y != nullptr && t + run.steps == T;
            for (int32_t k = 0; k < run.n; ++k) {
                const size_t from = size_t(i + k) * size_t(T) + size_t(t), to = size_t(k) * size_t(run.steps);
                std::memcpy(d->x + to * in * 4, x + from * in, size_t(run.steps) * in * 4);
                if (dt != nullptr) std::memcpy(d->dt + to * 4, dt + from, size_t(run.steps) * 4);
            }
            s = run_any(d, run, fault);
            if (s != Status::ok) return s;
            if (run.wants_y) std::memcpy(y + size_t(i) * out, d->y, size_t(run.n) * out * 4);
        }
    }
    return Status::ok;
}
template <class N>
Status step_batch_of(Device* d, int32_t slot, const N* x, int32_t n, N* y, const N* dt, Fault* fault) {
    Status s = state_there(d, slot, nullptr, fault);
    if (s == Status::ok && (n < 0 || (n > 0 && y == nullptr)))
        s = say(fault, Status::bad_argument, "n is negative, or y is null");
    if (s == Status::ok) s = check_rows(*d, x, n, dt, fault);
    if (s != Status::ok || n == 0) return s;
    const Current current(d->options.device);
    SSM_TRY(current.error);
    const size_t in = size_t(d->config.d_input), out = size_t(d->config.d_output);
    Run          run;
    run.moves = false, run.has_dt = dt != nullptr, run.q16 = is_q16(x);
    d->slots[0] = slot;
    for (int32_t i = 0; i < n; i += d->options.max_batch) {
        run.n = std::min(d->options.max_batch, n - i);
        std::memcpy(d->x, x + size_t(i) * in, size_t(run.n) * in * 4);
        if (dt != nullptr) std::memcpy(d->dt, dt + i, size_t(run.n) * 4);
        s = run_any(d, run, fault);
        if (s != Status::ok) return s;
        std::memcpy(y + size_t(i) * out, d->y, size_t(run.n) * out * 4);
    }
    return Status::ok;
}
} // namespace impl

Status prefill(Device* d, const int32_t* slots, const float* x, int32_t n, int32_t T, float* y, const float* dt,
               Fault* fault) noexcept {
    return prefill_of(d, slots, x, n, T, y, dt, fault);
}
Status step(Device* d, const int32_t* slots, const float* x, int32_t n, float* y, const float* dt,
            Fault* fault) noexcept {
    return prefill_of(d, slots, x, n, 1, y, dt, fault);
}
Status step_batch(Device* d, int32_t slot, const float* x, int32_t n, float* y, const float* dt,
                  Fault* fault) noexcept {
    return step_batch_of(d, slot, x, n, y, dt, fault);
}
Status prefill_q16(Device* d, const int32_t* slots, const int32_t* x, int32_t n, int32_t T, int32_t* y,
                   const int32_t* dt, Fault* fault) noexcept {
    return prefill_of(d, slots, x, n, T, y, dt, fault);
}
Status step_q16(Device* d, const int32_t* slots, const int32_t* x, int32_t n, int32_t* y, const int32_t* dt,
                Fault* fault) noexcept {
    return prefill_of(d, slots, x, n, 1, y, dt, fault);
}
Status step_batch_q16(Device* d, int32_t slot, const int32_t* x, int32_t n, int32_t* y, const int32_t* dt,
                      Fault* fault) noexcept {
    return step_batch_of(d, slot, x, n, y, dt, fault);
}

Status measure(Device* d, int32_t n, bool candidates, int32_t repeats, Times* out, Fault* fault) noexcept {
    if (d == nullptr || out == nullptr || n < 1 || n > d->options.max_batch || (!candidates && n > d->options.slots) ||
        repeats < 1)
        return say(fault, Status::bad_argument, "no device, or a number out of range");
    const Current current(d->options.device);
    SSM_TRY(current.error);
    uint32_t noise = 1; // inputs of a size as any, and not all alike
    for (size_t i = 0; i < size_t(n) * size_t(d->config.d_input); ++i) {
        noise = noise * 1664525u + 1013904223u;
        const float v = static_cast<float>(int32_t(noise >> 8)) * (2.0f / 16777216.0f) - 1.0f;
        std::memcpy(d->x + 4 * i, &v, 4);
    }
    for (int32_t i = 0; i < n; ++i) d->slots[i] = candidates ? 0 : i;
    const Status s = is_integer(d->config) ? measure_net<int32_t>(d, n, candidates, repeats, out, fault)
                                           : measure_net<float>(d, n, candidates, repeats, out, fault);
    if (s != Status::ok) return s;
    void*  memory = nullptr; // a copy of half a gigabyte, or of what there is
    size_t half = size_t(1) << 29;
    while (half > (size_t(1) << 20) && cudaMalloc(&memory, 2 * half) != cudaSuccess)
        half /= 2, (void)cudaGetLastError();
    if (memory == nullptr) return say(fault, Status::gpu, "no memory on the GPU to measure its copies with");
    double       seconds = 1.0;
    const Status copied = time_of(d, std::min(repeats, 11), &seconds, fault, [&] {
        return cudaMemcpyAsync(memory, static_cast<unsigned char*>(memory) + half, half, cudaMemcpyDeviceToDevice,
                               d->stream);
    });
    (void)cudaFree(memory);
    out->copy_rate = 2.0 * static_cast<double>(half) / seconds;
    return copied;
}
const char* name_of(const Device* d) noexcept { return d != nullptr ? d->name : ""; }
} // namespace cuda
} // namespace ssm
