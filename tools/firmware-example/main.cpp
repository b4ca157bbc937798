// main.cpp - a model in firmware: weights in flash, every byte of RAM known to the compiler, no heap, no library.
// SPDX-License-Identifier: MIT
//
// model.h comes from `ssm convert MODEL --c-array model.h`, which also says what to leave out of ssm.hpp; an integer
// model without floats (SSM_NO_FLOAT) calls no float routine. The Makefile beside this file builds for boards and runs
// them in an emulator. The exit status is 0, or the Status that says why the model in flash was refused.
#define SSM_STATIC // no other file includes it: smaller, as by each of the next three
#define SSM_NO_TRACE
#define SSM_NO_MESSAGES // a Status says enough here; a Fault would name a line of ssm.hpp
#include "ssm.hpp"
#include "model.h"
#define SSM_FIXED_CONFIG model_config // any other shape is refused
#define SSM_IMPLEMENTATION
#include "ssm.hpp"

#if __STDC_HOSTED__ // on a computer, to see what a board should print
#include <stdio.h>
static void board_write(const char* text) { fputs(text, stdout); }
#else
extern "C" void board_write(const char* text); // of the board
#endif

// ---- Memory: one arena, checked here against what this board can give.

#ifndef RAM_FOR_MODEL
#define RAM_FOR_MODEL (12 * 1024)
#endif
static_assert(model_arena_bytes <= RAM_FOR_MODEL, "this model does not fit this board");
alignas(16) static unsigned char ram[model_arena_bytes];

// ---- Events, here made up: a token, numbers from -4 to 4, or for a model of sound noise that swells. With AUDIO a model
// of sound hears a recording in flash instead: 16-bit samples, low byte first (audio.c).

#ifdef SSM_NO_FLOAT
using Number = int32_t; // 2^16 to the unit
#else
using Number = float;
#endif
static Number x[model_config.d_input], y[model_config.d_output];

static uint32_t chance() {
    static uint32_t random = 2463534242u;
    return random = random * 1664525u + 1013904223u;
}
#ifdef AUDIO
extern "C" const unsigned char audio[], audio_end[];
static uint32_t                audio_events() { // the last one is filled with silence
    constexpr uint32_t frame = uint32_t(model_config.d_input) * 2;
    return (uint32_t(audio_end - audio) + frame - 1) / frame;
}
#else
static uint32_t audio_events() { return 64; }
#endif
static int32_t sample(int event, int k) { // 2^16 to full scale
#ifdef AUDIO
    const unsigned char* at = audio + (event * model_config.d_input + k) * 2;
    return at + 2 > audio_end ? 0 : int32_t(int16_t(at[0] | at[1] << 8)) * 2;
#else
    (void)k;
    return (int32_t(chance() >> 15) - 65536) >> event / 8 % 8;
#endif
}
static ssm::Status read_sensor(const ssm::Model& net, int event) {
    if (model_config.input == ssm::Input::tokens) {
        constexpr uint32_t n = model_config.vocab_size > 0 ? uint32_t(model_config.vocab_size) : 1;
        const int32_t      token = int32_t((chance() >> 8) % n);
#ifdef SSM_NO_FLOAT
        return ssm::embed_q16(net, token, x);
#else
        return ssm::embed(net, token, x);
#endif
    }
    for (int k = 0; k < model_config.d_input; ++k) {
        Number&       number = x[k];
        const int32_t q16 = model_config.n_bands > 0 ? sample(event, k) : int32_t(chance() >> 13) - (1 << 18);
#ifdef SSM_NO_FLOAT
        number = q16;
#else
        number = ssm::from_q16(q16);
#endif
    }
    return ssm::Status::ok;
}

// ---- Output

static void print(uint32_t n) {
    char  text[12] = "";
    char* p = text + 11;
    do *--p = static_cast<char>('0' + n % 10);
    while ((n /= 10) != 0);
    board_write(p);
}
static void print_hex(uint32_t n) {
    for (int k = 28; k >= 0; k -= 4) {
        const char digit[] = {"0123456789abcdef"[n >> k & 15u], 0};
        board_write(digit);
    }
}
static uint64_t digest = 0xcbf29ce484222325u; // FNV-1a-64 of all scores: the same on every machine

extern "C" __attribute__((noinline)) void print_scores() {
    board_write("score");
    for (const Number score : y) {
#ifdef SSM_NO_FLOAT
        const int32_t q16 = score;
        uint32_t      bits = uint32_t(score);
#else
        const int32_t q16 = ssm::to_q16(score);
        uint32_t      bits = 0;
        __builtin_memcpy(&bits, &score, sizeof bits);
#endif
        for (int k = 0; k < 4; ++k, bits >>= 8) digest = (digest ^ (bits & 255u)) * 0x100000001b3u;
        const uint32_t size = uint32_t(q16 < 0 ? -q16 : q16), fraction = ((size & 0xffffu) * 1000u) >> 16;
        board_write(q16 < 0 ? " -" : " ");
        print(size >> 16);
        board_write(fraction < 10 ? ".00" : fraction < 100 ? ".0" : ".");
        print(fraction);
    }
    board_write("\n");
}

// ---- The work of one event

extern "C" __attribute__((noinline)) ssm::Status score_event(const ssm::Model& net, ssm::State* s, ssm::Scratch* w) {
#ifdef SSM_NO_FLOAT
    return ssm::step_q16(net, s, w, x, y);
#else
    return ssm::step(net, s, w, x, y);
#endif
}

static ssm::Status run() {
    ssm::Arena   arena{ram, sizeof ram, 0};
    ssm::Model   net;
    ssm::State   state;
    ssm::Scratch scratch;
    ssm::Status  s = ssm::load(&net, {model, sizeof model}, &arena);
    if (s == ssm::Status::ok) s = ssm::make_state(&state, net, &arena);
    if (s == ssm::Status::ok) s = ssm::make_scratch(&scratch, net, 1, &arena);
    const int events = int(audio_events());
    for (int event = 0; event < events && s == ssm::Status::ok; ++event) {
        s = read_sensor(net, event);
        if (s == ssm::Status::ok) s = score_event(net, &state, &scratch);
        if (s == ssm::Status::ok) print_scores();
    }
    board_write("back-end ");
    board_write(s == ssm::Status::ok ? ssm::isa_name(net) : "none");
    board_write("\narena ");
    print(uint32_t(arena.used)); // less than load() needs while it runs, which is why model_arena_bytes are there
    board_write(" of ");
    print(uint32_t(sizeof ram));
    return s;
}
int main() {
    const ssm::Status s = run();
    board_write("\ndigest ");
    print_hex(uint32_t(digest >> 32));
    print_hex(uint32_t(digest));
    board_write("\nstatus ");
    board_write(ssm::message(s));
    board_write("\n");
    return int(s);
}
