// score.cpp - fuzz target: records, text and JSON, against a tiny model made in memory.
//
// Beside crashes it checks what the protocol promises: a bad record leaves the state as it was and is answered by
// exactly one line; a candidate leaves the state as it was; no record gets more than one line. SPDX-License-Identifier:
// MIT
#define SSM_IMPLEMENTATION
#include "../../ssm.hpp"

#include "../../tools/score.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

// A safetensors file of an S4D model: H = 3, N = 4, one layer, two inputs, two outputs.
std::string tiny_model() {
    const struct {
        const char*      name;
        std::vector<int> shape;
    } tensors[] = {
        {"encoder.weight", {3, 2}},
        {"encoder.bias", {3}},
        {"s4_layers.0.D", {3}},
        {"s4_layers.0.kernel.log_dt", {3}},
        {"s4_layers.0.kernel.log_A_real", {3, 2}},
        {"s4_layers.0.kernel.A_imag", {3, 2}},
        {"s4_layers.0.kernel.C", {3, 2, 2}},
        {"s4_layers.0.output_linear.0.weight", {6, 3, 1}},
        {"s4_layers.0.output_linear.0.bias", {6}},
        {"norms.0.weight", {3}},
        {"norms.0.bias", {3}},
        {"decoder.weight", {2, 3}},
        {"decoder.bias", {2}},
    };
    std::string header = "{\"__metadata__\":{\"prenorm\":\"false\",\"pool\":\"mean\",\"disc\":\"zoh\",\"clip\":\"50\"}",
                data;
    float v = 0.1f;
    for (const auto& t : tensors) {
        const size_t begin = data.size();
        size_t       count = 1;
        std::string  shape;
        for (int d : t.shape) count *= size_t(d), shape += (shape.empty() ? "" : ",") + std::to_string(d);
        for (size_t i = 0; i < count; ++i) {
            v = v > 0.7f ? v - 1.3f : v + 0.37f;
            unsigned char bytes[4];
            std::memcpy(bytes, &v, 4);
            data.append(reinterpret_cast<const char*>(bytes), 4);
        }
        header += std::string(",\"") + t.name + "\":{\"dtype\":\"F32\",\"shape\":[" + shape + "],\"data_offsets\":[" +
                  std::to_string(begin) + "," + std::to_string(data.size()) + "]}";
    }
    header += "}";
    std::string file(8, '\0');
    for (size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(header.size() >> 8 * i & 255);
    return file + header + data;
}

struct Rig {
    std::string                file = tiny_model();
    std::vector<unsigned char> memory;
    ssm::Model                 model;
    ssm::State                 state;
    ssm::Scratch               scratch;
    Rig() {
        const ssm::Blob            blob{file.data(), file.size()};
        std::vector<unsigned char> index(ssm::index_bytes(blob) + 1);
        ssm::Config                config;
        ssm::Fault                 fault;
        if (ssm::inspect(&config, blob, index.data(), index.size(), &fault) != ssm::Status::ok) fail(fault);
        memory.resize(ssm::arena_bytes(config, 1, 4));
        ssm::Arena arena{memory.data(), memory.size(), 0};
        if (ssm::load(&model, blob, &arena, {}, &fault) != ssm::Status::ok ||
            ssm::make_state(&state, model, &arena) != ssm::Status::ok ||
            ssm::make_scratch(&scratch, model, 4, &arena) != ssm::Status::ok)
            fail(fault);
    }
    static void fail(const ssm::Fault& fault) {
        std::fprintf(stderr, "the tiny model does not load: %s %s\n", fault.name, fault.detail);
        std::abort();
    }
    std::string bytes() const { return std::string(static_cast<const char*>(state.data), state.bytes); }
};

void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "violated: %s\n", what);
    std::abort();
}
} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static Rig   rig;
    tool::Output out(-1), err(-1);
    tool::Scorer scorer(rig.model, &rig.state, &rig.scratch, &out, &err);
    ssm::reset(rig.model, &rig.state);
    uint64_t number = 0;
    for (size_t at = 0; at <= size;) {
        // Each line in a block of its own size, so that a read past its end is seen.
        const uint8_t*          end = std::find(data + at, data + size, uint8_t('\n'));
        const size_t            n = size_t(end - (data + at));
        std::unique_ptr<char[]> line(new char[n]);
        if (n > 0) std::memcpy(line.get(), data + at, n);
        at += n + 1;

        const std::string before = rig.bytes();
        out.memory().clear(), err.memory().clear();
        const bool        good = scorer.line(std::string_view(line.get(), n), ++number);
        const std::string after = rig.bytes(), &answer = out.memory(), &complaint = err.memory();
        require(answer.empty() || answer.back() == '\n', "an answer is a whole line");
        require(std::count(answer.begin(), answer.end(), '\n') <= 1, "one answer at most");
        require(std::count(complaint.begin(), complaint.end(), '\n') <= 1 &&
                    complaint.size() <= tool::max_message_bytes,
                "one complaint at most");
        if (!good) {
            require(before == after, "a bad record does not move the state");
            require(answer.empty() != complaint.empty(), "a bad record has one error line");
            require(!complaint.empty() ||
                        answer.find("\"error\":\"line " + std::to_string(number) + ": ") != answer.npos,
                    "it names the line");
        } else require(complaint.empty(), "a good record has no error");
        if (!answer.empty() && answer[0] == '{') { // an answer to JSON is JSON
            ssm::json::Reader r = ssm::json::open(answer.data(), answer.size());
            ssm::json::Token  t;
            do t = ssm::json::next(&r);
            while (t.kind != ssm::json::Kind::error && t.kind != ssm::json::Kind::end);
            require(t.kind == ssm::json::Kind::end, "an answer to JSON is JSON");
        }
        for (char c : complaint)
            require(c == '\n' || static_cast<unsigned char>(c) >= 0x20, "no control character in a complaint");
    }
    return 0;
}
