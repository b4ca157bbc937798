// Events.ino - scores a made-up event a second with a model of integers in flash. SPDX-License-Identifier: MIT
//
// First write model.h into this folder: ssm convert weights/next-i8.safetensors --c-array model.h
// Its third line of comment names what to leave out of ssm.hpp beyond the two below. Replace analogRead() by events of
// the kind that the model was trained on: features here, in 16.16.
#define SSM_NO_FILES
#define SSM_NO_FLOAT
#define SSM_STATIC
#define SSM_IMPLEMENTATION
#include <ssm.hpp>
#include "model.h"

static_assert(model_config.input != ssm::Input::tokens, "tokens go through ssm::embed_q16()");
alignas(16) static unsigned char ram[model_arena_bytes];
static ssm::Model   net;
static ssm::State   state;
static ssm::Scratch scratch;
static ssm::Status  status;

void setup() {
    ssm::Arena       arena{ram, sizeof ram, 0};
    ssm::LoadOptions options;
    options.expect = &model_config;
    Serial.begin(115200);
    status = ssm::load(&net, {model, sizeof model}, &arena, options);
    if (status == ssm::Status::ok) status = ssm::make_state(&state, net, &arena);
    if (status == ssm::Status::ok) status = ssm::make_scratch(&scratch, net, 1, &arena);
}

void loop() {
    static int32_t x[model_config.d_input], y[model_config.d_output];
    for (int32_t& number : x) number = int32_t(analogRead(A0)) * 64; // 0 to 1 of ten bits
    if (status == ssm::Status::ok) status = ssm::step_q16(net, &state, &scratch, x, y);
    if (status != ssm::Status::ok) Serial.println(ssm::message(status));
    else Serial.println(y[0] / 65536.0f);
    delay(1000);
}
