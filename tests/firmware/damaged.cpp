// damaged.cpp - a model with damage to its header, or cut short, a load after the other: each ends in a Status, on a
// board as on a computer, and whatever loads also runs. SPDX-License-Identifier: MIT
//
// Prints how often each Status came, and a digest of all of them in their order.
#define SSM_STATIC
#define SSM_IMPLEMENTATION
#include "ssm.hpp"
#include "model.h"

#if __STDC_HOSTED__
#include <stdio.h>
static void board_write(const char* text) { fputs(text, stdout); }
#else
extern "C" void board_write(const char* text);
#endif

alignas(16) static unsigned char ram[model_arena_bytes], copy[model_bytes];
static int32_t  x[model_config.d_input], y[model_config.d_output];
static uint32_t times[16], digest = 0x811c9dc5u;

static void print(const char* what, uint32_t n) {
    char  text[12] = "";
    char* p = text + 11;
    do *--p = static_cast<char>('0' + n % 10);
    while ((n /= 10) != 0);
    board_write(what), board_write(" "), board_write(p), board_write("\n");
}
static void load(size_t bytes) {
    ssm::Arena       arena{ram, sizeof ram, 0};
    ssm::LoadOptions options;
    ssm::Model       net;
    ssm::State       state;
    ssm::Scratch     scratch;
    options.expect = &model_config;
    ssm::Status s = ssm::load(&net, {copy, bytes}, &arena, options);
    if (s == ssm::Status::ok) s = ssm::make_state(&state, net, &arena);
    if (s == ssm::Status::ok) s = ssm::make_scratch(&scratch, net, 1, &arena);
    if (s == ssm::Status::ok) s = ssm::step_q16(net, &state, &scratch, x, y);
    ++times[unsigned(s) & 15u];
    digest = (digest ^ unsigned(s)) * 0x01000193u;
}
int main() {
    for (size_t i = 0; i < model_bytes; ++i) copy[i] = model[i];
    const size_t header = 8 + size_t(model[0]) + 256 * size_t(model[1]);
    for (size_t i = 0; i < header; ++i) { // a bit of each byte
        const unsigned bit = 1u << (i * 5 & 7);
        copy[i] = static_cast<unsigned char>(copy[i] ^ bit);
        load(model_bytes);
        copy[i] = model[i];
    }
    for (size_t bytes = 0; bytes < model_bytes; bytes += bytes < 16 ? 1 : 61) load(bytes);
    load(model_bytes);
    for (int s = 0; s < 16; ++s)
        if (times[s] != 0) print(ssm::message(ssm::Status(s)), times[s]);
    print("digest", digest);
    return 0;
}
