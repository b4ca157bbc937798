// cuda_emulator.hpp - a GPU for ssm_cuda.cu on any CPU: its threads, its launches and the calls of its library.
//
// Every thread of a block is a fiber. They run one after the other, each up to its next barrier, shuffle or mma; blocks
// follow each other. Launches run at once, or when the graph does that captured them. The mma is computed from the
// layout that the PTX manual gives of its fragments. fail_in() makes one call of the library fail.
// SPDX-License-Identifier: MIT
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include <dlfcn.h>
#include <setjmp.h>
#include <ucontext.h>

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(8) int2 {
    int32_t x, y;
};
struct alignas(16) int4 {
    int32_t x, y, z, w;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline int2 make_int2(int32_t x, int32_t y) { return {x, y}; }
inline int4 make_int4(int32_t x, int32_t y, int32_t z, int32_t w) { return {x, y, z, w}; }

#define __global__
#define __device__
#define __noinline__
#define __grid_constant__
#define __launch_bounds__(...)
#define SSM_LOOP
#define SSM_LOOP_1
#define SSM_LOOP_4
#define SSM_LOOP_8
#define SSM_SHARED(name) unsigned char* const name = emulator::gpu().shared.data()
#define SSM_LAUNCH(kernel, grid, block, bytes, stream, ...)                                                            \
    emulator::launch(grid, block, bytes, [=] { kernel(__VA_ARGS__); })

namespace emulator {

struct Fiber {
    ucontext_t        context; // where it begins, once; from then on `at`, which takes no system call
    jmp_buf           at;
    std::vector<char> stack;
    bool              begun = false, done = true;
    int32_t           waits = 0; // 0: runs; 1: for its warp; 2: for its block
    uint64_t          word = 0;  // what it shows the others of its warp
    uint32_t          mma[6] = {};
};
struct Gpu {
    std::vector<unsigned char>          shared;
    std::vector<std::unique_ptr<Fiber>> fibers;
    jmp_buf                             scheduler;
    ucontext_t                          unused;
    size_t                              running = 0;
    std::function<void()>               body;
    dim3                                thread, block, grid;
    bool                                capturing = false;
    std::vector<std::function<void()>>  captured;
    int64_t                             fails_in = -1; // calls until one fails; below 0: never
    int32_t                             memory = 0;    // allocations not freed
    int32_t                             last_error = 0;
    uint64_t                            launches = 0;
    bool                                present = true;
};
inline Gpu& gpu() {
    static Gpu one;
    return one;
}
// The C library's own _longjmp(), and a call that a compiler takes to come back: AddressSanitizer's clears all stacks
// at each jump, as if their frames had ended, which takes twenty times as long as the threads themselves. Here every
// frame goes on.
inline void jump(jmp_buf to) {
    static const auto own = reinterpret_cast<void (*)(jmp_buf, int)>(dlsym(RTLD_NEXT, "_longjmp"));
    own(to, 1);
}
// One thread after the other, of as many blocks as there are.
inline void fiber_main() {
    Fiber& f = *gpu().fibers[gpu().running];
    for (;;) {
        gpu().body();
        f.done = true;
        if (_setjmp(f.at) == 0) jump(gpu().scheduler);
    }
}
inline void wait_for(int32_t whom) {
    Fiber& f = *gpu().fibers[gpu().running];
    f.waits = whom;
    if (_setjmp(f.at) == 0) jump(gpu().scheduler);
}
inline void resume(size_t i) {
    Gpu&   g = gpu();
    Fiber& f = *g.fibers[i];
    g.running = i, g.thread = dim3(unsigned(i));
    if (_setjmp(g.scheduler) != 0) return;
    if (f.begun) jump(f.at);
    f.begun = true;
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.data(), f.context.uc_stack.ss_size = f.stack.size();
    f.context.uc_link = nullptr;
    makecontext(&f.context, fiber_main, 0);
    swapcontext(&g.unused, &f.context);
}
// Runs the lanes of a warp until all of them have ended or wait for the block.
inline void run_warp(size_t first, size_t end) {
    Gpu& g = gpu();
    for (;;) {
        bool at_block = true;
        for (size_t i = first; i < end; ++i) {
            Fiber& f = *g.fibers[i];
            if (!f.done && f.waits == 0) resume(i);
        }
        for (size_t i = first; i < end; ++i) at_block = at_block && (g.fibers[i]->done || g.fibers[i]->waits == 2);
        if (at_block) return;
        for (size_t i = first; i < end; ++i) { // all who wait for the warp go on together, and all must be there
            Fiber& f = *g.fibers[i];
            if (f.done || f.waits != 1) std::abort();
            f.waits = 0;
        }
    }
}
inline void run_blocks(dim3 grid, dim3 block, size_t bytes, const std::function<void()>& body) {
    Gpu& g = gpu();
    g.body = body, g.grid = grid;
    std::vector<unsigned char>(bytes, 0xa5).swap(g.shared); // so large and no larger
    const size_t n = block.x;
    while (g.fibers.size() < n) {
        g.fibers.push_back(std::make_unique<Fiber>());
        g.fibers.back()->stack.resize(size_t(64) << 10);
    }
    for (unsigned y = 0; y < grid.y; ++y)
        for (unsigned x = 0; x < grid.x; ++x) {
            g.block = dim3(x, y);
            for (size_t i = 0; i < n; ++i) g.fibers[i]->done = false, g.fibers[i]->waits = 0;
            for (bool more = true; more;) {
                more = false;
                for (size_t w = 0; w < n; w += 32) run_warp(w, w + 32 < n ? w + 32 : n);
                size_t ended = 0;
                for (size_t i = 0; i < n; ++i) ended += g.fibers[i]->done;
                if (ended != 0 && ended != n) std::abort(); // a barrier that not all reach
                for (size_t i = 0; i < n; ++i) g.fibers[i]->waits = 0;
                more = ended == 0;
            }
        }
}
inline void launch(dim3 grid, dim3 block, size_t bytes, std::function<void()> body) {
    Gpu& g = gpu();
    ++g.launches;
    const auto work = [=] { run_blocks(grid, block, bytes, body); };
    if (g.capturing) g.captured.push_back(work);
    else work();
}
// Whether the next call of the library fails.
inline bool fails() {
    Gpu& g = gpu();
    if (g.fails_in < 0) return false;
    if (g.fails_in-- > 0) return false;
    return true;
}
} // namespace emulator

#define threadIdx (emulator::gpu().thread)
#define blockIdx (emulator::gpu().block)
#define gridDim (emulator::gpu().grid)

inline void          __syncthreads() { emulator::wait_for(2); }
inline void          __syncwarp() { emulator::wait_for(1); }
template <class V> V __shfl_xor_sync(unsigned, V v, int mask) {
    emulator::Gpu& g = emulator::gpu();
    const size_t   own = g.running;
    std::memcpy(&g.fibers[own]->word, &v, sizeof v);
    __syncwarp();
    V other;
    std::memcpy(&other, &g.fibers[own ^ size_t(mask)]->word, sizeof other);
    __syncwarp(); // before anyone shows the next
    return other;
}
inline unsigned atomicOr(unsigned* at, unsigned v) {
    const unsigned before = *at;
    *at |= v;
    return before;
}

namespace ssm {
namespace cuda {
namespace impl {
// D[16][8] += A[16][32] B[32][8]: of lane 4g + q, A's words are rows g, g + 8, g, g + 8 and columns 4q.. (the last two:
// 16 more), B's are rows 4q.. and 16 more of column g, D's are columns 2q, 2q + 1 of rows g and g + 8.
template <bool Unsigned> inline void mma(int32_t (&c)[4], const uint4& a, uint32_t b0, uint32_t b1) {
    emulator::Gpu& g = emulator::gpu();
    const size_t   own = g.running, warp = own / 32 * 32, lane = own % 32;
    const uint32_t words[6] = {a.x, a.y, a.z, a.w, b0, b1};
    std::memcpy(g.fibers[own]->mma, words, sizeof words);
    __syncwarp();
    const auto byte = [](uint32_t w, size_t i) {
        return static_cast<int32_t>(static_cast<signed char>(w >> 8 * i & 255u));
    };
    for (size_t i = 0; i < 4; ++i) {
        const size_t row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (size_t k = 0; k < 32; ++k) {
            const uint32_t w = g.fibers[warp + row % 8 * 4 + k % 16 / 4]->mma[row / 8 + k / 16 * 2];
            const uint32_t x = g.fibers[warp + column * 4 + k % 16 / 4]->mma[4 + k / 16];
            c[i] += byte(w, k % 4) * (Unsigned ? static_cast<int32_t>(x >> 8 * (k % 4) & 255u) : byte(x, k % 4));
        }
    }
    __syncwarp();
}
} // namespace impl
} // namespace cuda
} // namespace ssm

// ---- The library

using cudaError_t = int32_t;
using cudaStream_t = void*;
struct EmulatedGraph {
    std::vector<std::function<void()>> work;
};
using cudaGraph_t = EmulatedGraph*;
using cudaGraphExec_t = EmulatedGraph*;
using cudaEvent_t = int*;
enum : cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorNoDevice = 100, cudaErrorUnknown = 999 };
enum {
    cudaStreamNonBlocking = 1,
    cudaHostAllocMapped = 2,
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3
};
enum {
    cudaDevAttrComputeCapabilityMajor,
    cudaDevAttrComputeCapabilityMinor,
    cudaDevAttrMultiProcessorCount,
    cudaDevAttrMaxSharedMemoryPerBlockOptin
};
enum { cudaStreamCaptureModeThreadLocal, cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaDeviceProp {
    char name[256];
};

inline cudaError_t emulated(bool fail) {
    return emulator::gpu().last_error = fail ? cudaErrorMemoryAllocation : cudaSuccess;
}
inline cudaError_t cudaGetLastError() {
    const cudaError_t e = emulator::gpu().last_error;
    emulator::gpu().last_error = cudaSuccess;
    return e;
}
inline const char* cudaGetErrorString(cudaError_t e) {
    return e == cudaErrorMemoryAllocation ? "out of memory" : "unknown error";
}
inline cudaError_t cudaGetDeviceCount(int* n) {
    *n = 1;
    return emulator::gpu().present ? cudaSuccess : 35;
}
inline cudaError_t cudaGetDevice(int* d) { return *d = 0, emulated(emulator::fails()); }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* v, int what, int) {
    const int values[] = {9, 0, 4, 232448};
    return *v = values[what], emulated(emulator::fails());
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
    std::strcpy(p->name, "emulated");
    return emulated(emulator::fails());
}
inline cudaError_t emulated_take(void** p, size_t bytes) {
    if (emulator::fails() || bytes > size_t(4) << 30) return emulated(true);
    *p = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    std::memset(*p, 0xa5, bytes);
    ++emulator::gpu().memory;
    return emulated(*p == nullptr);
}
inline cudaError_t emulated_give(void* p) { return std::free(p), --emulator::gpu().memory, cudaSuccess; }
inline cudaError_t cudaMalloc(void** p, size_t bytes) { return emulated_take(p, bytes); }
inline cudaError_t cudaFree(void* p) { return emulated_give(p); }
inline cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) { return emulated_take(p, bytes); }
inline cudaError_t cudaFreeHost(void* p) { return emulated_give(p); }
inline cudaError_t cudaHostGetDevicePointer(void** to, void* p, unsigned) {
    return *to = p, emulated(emulator::fails());
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) {
    return *s = &emulator::gpu(), emulated(emulator::fails());
}
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return emulated(emulator::fails()); }
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, int, cudaStream_t) {
    if (emulator::fails()) return emulated(true);
    return std::memcpy(to, from, n), emulated(false);
}
inline cudaError_t cudaMemsetAsync(void* p, int v, size_t n, cudaStream_t) {
    if (emulator::fails()) return emulated(true);
    return std::memset(p, v, n), emulated(false);
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t, int) {
    if (emulator::fails()) return emulated(true);
    emulator::gpu().capturing = true, emulator::gpu().captured.clear();
    return emulated(false);
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* g) {
    emulator::gpu().capturing = false;
    if (emulator::fails()) return emulated(true);
    ++emulator::gpu().memory;
    *g = new EmulatedGraph{emulator::gpu().captured};
    return emulated(false);
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* e, cudaGraph_t g, unsigned long long) {
    if (emulator::fails()) return emulated(true);
    ++emulator::gpu().memory;
    *e = new EmulatedGraph(*g);
    return emulated(false);
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t) {
    if (emulator::fails()) return emulated(true);
    for (const auto& work : e->work) work();
    return emulated(false);
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t g) { return delete g, --emulator::gpu().memory, cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) { return delete g, --emulator::gpu().memory, cudaSuccess; }
inline cudaError_t cudaEventCreate(cudaEvent_t* e) {
    return *e = new int(0), ++emulator::gpu().memory, emulated(false);
}
inline cudaError_t cudaEventDestroy(cudaEvent_t e) { return delete e, --emulator::gpu().memory, cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return emulated(emulator::fails()); }
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return emulated(emulator::fails()); }
inline cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) {
    return *ms = 1.0f, emulated(emulator::fails());
}
inline cudaError_t cudaFuncSetAttribute(const void*, int, int) { return emulated(emulator::fails()); }
