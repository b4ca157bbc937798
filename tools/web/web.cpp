// web.cpp - what the page runs: ssm.hpp in WebAssembly, without a library.
// SPDX-License-Identifier: MIT
//
// The page writes a model to file(), calls open(), writes frames of samples to samples() and calls step(); scores()
// are Q16. Addresses are those of WebAssembly's memory. make.sh compiles this twice, with SIMD128 and without.
#define SSM_STATIC
#define SSM_IMPLEMENTATION
#define SSM_NO_FILES
#define SSM_NO_FLOAT
#define SSM_NO_MAMBA1
#define SSM_NO_MAMBA2
#define SSM_NO_MAMBA3
#include "../../ssm.hpp"

#define EXPORT(name) extern "C" __attribute__((export_name(#name), used))

extern "C" void* memcpy(void* to, const void* from, size_t n) {
    for (size_t i = 0; i < n; ++i) static_cast<char*>(to)[i] = static_cast<const char*>(from)[i];
    return to;
}
extern "C" void* memset(void* to, int value, size_t n) {
    for (size_t i = 0; i < n; ++i) static_cast<char*>(to)[i] = static_cast<char>(value);
    return to;
}

namespace {
alignas(16) unsigned char blob[4 << 20], work[1 << 20];
int32_t      x[ssm::max_frame], y[1024];
ssm::Model   net;
ssm::State   state;
ssm::Scratch scratch;
ssm::Fault   fault;
size_t       used = 0;
} // namespace

EXPORT(file) unsigned char* file() { return blob; }
EXPORT(file_room) size_t file_room() { return sizeof blob; }
EXPORT(samples) int32_t* samples() { return x; }
EXPORT(scores) int32_t* scores() { return y; }
EXPORT(why) const char* why() { return fault.detail; }
EXPORT(isa) const char* isa() { return ssm::isa_name(net); }
EXPORT(message) const char* message(int status) { return ssm::message(static_cast<ssm::Status>(status)); }

// A model of sound in the first bytes of file(). 0, or a Status.
EXPORT(open) int open(size_t bytes) {
    ssm::Arena  arena{work, sizeof work, 0};
    ssm::Status s = bytes > sizeof blob ? ssm::Status::bad_argument : ssm::load(&net, {blob, bytes}, &arena, {}, &fault);
    if (s == ssm::Status::ok && (net.config.n_bands == 0 || net.config.d_output > 1024)) s = ssm::Status::unsupported;
    if (s == ssm::Status::ok) s = ssm::make_state(&state, net, &arena);
    if (s == ssm::Status::ok) s = ssm::make_scratch(&scratch, net, 1, &arena);
    used = arena.used;
    return static_cast<int>(s);
}
EXPORT(frame) int frame() { return net.config.d_input; }
EXPORT(classes) int classes() { return net.config.d_output; }
EXPORT(arena) size_t arena() { return used; }
EXPORT(reset) void reset() { ssm::reset(net, &state); }
EXPORT(step) int step() { return static_cast<int>(ssm::step_q16(net, &state, &scratch, x, y)); }

// FNV-1a-64 of the scores of 64 frames of made-up noise that swells: what tools/firmware-example prints for this model.
EXPORT(digest) uint64_t digest() {
    uint64_t d = 0xcbf29ce484222325u;
    uint32_t random = 2463534242u;
    reset();
    for (int event = 0; event < 64; ++event) {
        for (int k = 0; k < frame(); ++k) {
            random = random * 1664525u + 1013904223u;
            x[k] = (int32_t(random >> 15) - 65536) >> event / 8 % 8;
        }
        if (step() != 0) return 0;
        for (int k = 0; k < classes(); ++k) {
            uint32_t bits = uint32_t(y[k]);
            for (int i = 0; i < 4; ++i, bits >>= 8) d = (d ^ (bits & 255u)) * 0x100000001b3u;
        }
    }
    reset();
    return d;
}
