// support.hpp - what the tests share: files read into memory, models made up in memory, a loaded model with its
// buffers. SPDX-License-Identifier: MIT
#pragma once
#include "../ssm.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace test {

using Bytes = std::vector<unsigned char>;

inline std::string       golden(const std::string& name) { return std::string(SSM_TEST_DIR "/golden/s4d/") + name; }
inline const char* const golden_files[] = {
    "01_zoh_h8_n4.safetensors", "02_bilinear_h8_n8_inv.safetensors", "03_postnorm_mean_h16_n8_l2.safetensors",
    "04_prenorm_last_h12_n16_legs_l2.safetensors", "08_clip50_h16_n8.safetensors"};

inline Bytes read_file(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    REQUIRE_MESSAGE(in.good(), path);
    return Bytes(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}

inline std::vector<ssm::Isa> all_back_ends() {
    std::vector<ssm::Isa> all;
    for (int i = 1; ssm::isa_name(ssm::Isa(i)) != nullptr; ++i)
        if (ssm::isa_runs_here(ssm::Isa(i))) all.push_back(ssm::Isa(i));
    return all;
}

// A model with its buffers. Everything lives in `arena`, sized exactly by arena_bytes().
struct Loaded {
    Bytes        bytes, arena_memory;
    ssm::Config  config;
    ssm::Arena   arena;
    ssm::Model   model;
    ssm::State   state;
    ssm::Scratch scratch;
    ssm::Fault   fault;

    explicit Loaded(Bytes file, int32_t batch = 16, ssm::Isa isa = ssm::Isa::best, int32_t n_states = 1)
        : bytes(std::move(file)) {
        Bytes memory(ssm::index_bytes(blob()));
        REQUIRE_MESSAGE(ssm::inspect(&config, blob(), memory.data(), memory.size(), &fault) == ssm::Status::ok,
                        fault.name, ": ", fault.detail);
        arena_memory.assign(ssm::arena_bytes(config, n_states, batch), 0xff);
        arena = ssm::Arena{arena_memory.data(), arena_memory.size(), 0};
        ssm::LoadOptions options;
        options.isa = isa;
        REQUIRE_MESSAGE(ssm::load(&model, blob(), &arena, options, &fault) == ssm::Status::ok, fault.name, ": ",
                        fault.detail);
        REQUIRE(ssm::make_state(&state, model, &arena) == ssm::Status::ok);
        REQUIRE(ssm::make_scratch(&scratch, model, batch, &arena) == ssm::Status::ok);
    }
    Loaded(const Loaded&) = delete;
    Loaded&   operator=(const Loaded&) = delete;
    ssm::Blob blob() const { return {bytes.data(), bytes.size()}; }
};

// The bytes of its state.
inline Bytes state_of(const Loaded& m) {
    const auto* p = static_cast<const unsigned char*>(m.state.data);
    return Bytes(p, p + ssm::state_bytes(m.config));
}

// A state of its own memory.
struct OwnState {
    Bytes      bytes;
    ssm::State state;
    explicit OwnState(const ssm::Model& m) : bytes(ssm::state_bytes(m.config)) { state = {bytes.data(), bytes.size()}; }
    OwnState(const ssm::Model& m, const ssm::State& from) : OwnState(m) {
        std::memcpy(bytes.data(), from.data, bytes.size());
    }
    OwnState(const OwnState& o) : bytes(o.bytes) { state = {bytes.data(), bytes.size()}; }
    OwnState& operator=(const OwnState&) = delete;
};

// The last four bytes of a saved state made right again.
inline void repair_checksum(Bytes* b) {
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i + 4 < b->size(); ++i) {
        crc ^= (*b)[i];
        for (int k = 0; k < 8; ++k) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xedb88320u : 0);
    }
    for (unsigned k = 0; k < 4; ++k) (*b)[b->size() - 4 + k] = static_cast<unsigned char>(~crc >> 8 * k);
}

// A part of one layer's state in the public layout; empty if the model has no such part.
inline std::vector<float> part_of(const ssm::Model& m, const ssm::State& s, int32_t layer, ssm::Part part) {
    const int32_t      n = ssm::get_state(m, s, layer, part, nullptr);
    std::vector<float> out(n > 0 ? size_t(n) : 0);
    if (n > 0) CHECK(ssm::get_state(m, s, layer, part, out.data()) == n);
    return out;
}

// A golden file's tensors as doubles.
struct Golden {
    Bytes      bytes, memory;
    ssm::Index index;
    explicit Golden(const std::string& path) : Golden(read_file(path)) {}
    explicit Golden(Bytes content) : bytes(std::move(content)) {
        ssm::Blob b{bytes.data(), bytes.size()};
        memory.resize(ssm::index_bytes(b));
        REQUIRE(ssm::read_index(&index, b, memory.data(), memory.size()) == ssm::Status::ok);
    }
    bool                has(const std::string& name) const { return ssm::find_tensor(index, name.c_str()) != nullptr; }
    std::vector<double> tensor(const std::string& name) const {
        const ssm::Entry* e = ssm::find_tensor(index, name.c_str());
        REQUIRE_MESSAGE(e != nullptr, name);
        const bool          wide = std::string(ssm::dtype_name(e->dtype)) == "F64";
        std::vector<double> v(size_t(e->end - e->begin) / (wide ? 8 : 4));
        for (size_t i = 0; i < v.size(); ++i) {
            float f = 0;
            if (wide) std::memcpy(&v[i], index.data + e->begin + 8 * i, 8);
            else std::memcpy(&f, index.data + e->begin + 4 * i, 4), v[i] = double(f);
        }
        return v;
    }
    std::vector<double> numbers(const std::string& name) const { // of a weight: F32, F16 or BF16
        const ssm::Entry* e = ssm::find_tensor(index, name.c_str());
        REQUIRE_MESSAGE(e != nullptr, name);
        const std::string dtype = ssm::dtype_name(e->dtype);
        if (dtype == "F32" || dtype == "F64") return tensor(name);
        std::vector<double> v(size_t(e->end - e->begin) / 2);
        for (size_t i = 0; i < v.size(); ++i) {
            const unsigned char* p = index.data + e->begin + 2 * i;
            const uint32_t       u = uint32_t(p[0]) | uint32_t(p[1]) << 8;
            if (dtype == "BF16") {
                const uint32_t wide = u << 16;
                float          f;
                std::memcpy(&f, &wide, 4);
                v[i] = double(f);
            } else { // F16: sign, 5 bits of exponent, 10 of fraction
                const int    exponent = int(u >> 10 & 31);
                const double fraction = double(u & 1023);
                v[i] = (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024.0 + fraction, exponent - 25)) *
                       ((u & 0x8000) != 0 ? -1.0 : 1.0);
            }
        }
        return v;
    }
    std::vector<float> floats(const std::string& name) const {
        const std::vector<double> v = tensor(name);
        return std::vector<float>(v.begin(), v.end());
    }
};

// A safetensors file built by hand.
struct Builder {
    struct Tensor {
        std::string          dtype;
        std::vector<int64_t> shape;
        Bytes                data;
    };
    std::map<std::string, std::string> metadata;
    std::map<std::string, Tensor>      tensors;

    void add(const std::string& name, const std::vector<int64_t>& shape, const std::vector<float>& v,
             const std::string& dtype = "F32") {
        Tensor t{dtype, shape, {}};
        for (float f : v) {
            uint32_t u;
            std::memcpy(&u, &f, 4);
            if (dtype == "BF16") u >>= 16;
            for (size_t k = 0; k < (dtype == "BF16" ? 2u : 4u); ++k)
                t.data.push_back(static_cast<unsigned char>(u >> 8 * k));
        }
        tensors[name] = t;
    }
    Bytes file(size_t pad = 8) const {
        std::string header = "{\"__metadata__\":{";
        for (const auto& m : metadata)
            header += (header.back() == '{' ? "\"" : ",\"") + m.first + "\":\"" + m.second + "\"";
        header += "}";
        Bytes data;
        for (const auto& [name, t] : tensors) {
            header += ",\"" + name + "\":{\"dtype\":\"" + t.dtype + "\",\"shape\":[";
            for (size_t i = 0; i < t.shape.size(); ++i) header += (i ? "," : "") + std::to_string(t.shape[i]);
            header += "],\"data_offsets\":[" + std::to_string(data.size()) + "," +
                      std::to_string(data.size() + t.data.size()) + "]}";
            data.insert(data.end(), t.data.begin(), t.data.end());
        }
        header += "}";
        while (header.size() % pad != 0) header += ' ';
        Bytes all;
        for (unsigned k = 0; k < 8; ++k) all.push_back(static_cast<unsigned char>(uint64_t(header.size()) >> 8 * k));
        all.insert(all.end(), header.begin(), header.end());
        all.insert(all.end(), data.begin(), data.end());
        return all;
    }
};

// A random S4D model. `full`: the other spelling of its tensors, describing the same numbers.
struct S4dSpec {
    int32_t     d_input = 3, d_output = 2, H = 12, n = 3, layers = 2;
    bool        prenorm = false, full = false;
    const char *pool = "mean", *disc = "zoh", *clip = "0", *dtype = "F32";
    uint32_t    seed = 1;
};
inline Builder s4d_model(const S4dSpec& s) {
    std::mt19937 engine(s.seed);
    const auto   random = [&](size_t count, double lo, double hi) {
        std::vector<float> v(count);
        for (float& f : v) f = float(lo + (hi - lo) * double(engine()) / 4294967296.0);
        return v;
    };
    const auto negated = [](std::vector<float> v) {
        for (float& f : v) f = -f;
        return v;
    };
    Builder       b;
    const size_t  H = size_t(s.H), n = size_t(s.n);
    const int64_t h = s.H, m = s.n;
    b.metadata = {{"arch", "s4d"},
                  {"prenorm", s.prenorm ? "true" : "false"},
                  {"pool", s.pool},
                  {"disc", s.disc},
                  {"clip", s.clip}};
    b.add("encoder.weight", {h, s.d_input}, random(H * size_t(s.d_input), -1, 1), s.dtype);
    b.add("encoder.bias", {h}, random(H, -1, 1), s.dtype);
    b.add("decoder.weight", {s.d_output, h}, random(H * size_t(s.d_output), -1, 1), s.dtype);
    b.add("decoder.bias", {s.d_output}, random(size_t(s.d_output), -1, 1), s.dtype);
    for (int i = 0; i < s.layers; ++i) {
        const std::string p = "s4_layers." + std::to_string(i) + ".", q = "norms." + std::to_string(i) + ".";
        const auto        D = random(H, -1, 1), dt = random(H, -5, -1), C = random(H * n * 2, -1, 1),
                   Ar = random(H * n, -1, 1), Ai = random(H * n, -20, 20);
        if (s.full) {
            std::vector<float> ones(H * n * 2);
            for (size_t k = 0; k < ones.size(); k += 2) ones[k] = 1.0f;
            b.add(p + "layer.D", {1, h}, D), b.add(p + "layer.kernel.inv_dt", {h, 1}, dt),
                b.add(p + "layer.kernel.C", {1, h, m, 2}, C);
            b.add(p + "layer.kernel.A_real", {h, m}, Ar), b.add(p + "layer.kernel.A_imag", {h, m}, negated(Ai));
            b.add(p + "layer.kernel.B", {1, h, m, 2}, ones);
        } else {
            b.add(p + "D", {h}, D), b.add(p + "kernel.log_dt", {h}, dt), b.add(p + "kernel.C", {h, m, 2}, C);
            b.add(p + "kernel.log_A_real", {h, m}, Ar), b.add(p + "kernel.A_imag", {h, m}, Ai);
        }
        const auto W = random(2 * H * H, -0.5, 0.5);
        if (s.full) b.add(p + "output_linear.0.weight", {2 * h, h}, W, s.dtype);
        else b.add(p + "output_linear.0.weight", {2 * h, h, 1}, W, s.dtype);
        b.add(p + "output_linear.0.bias", {2 * h}, random(2 * H, -1, 1));
        b.add(q + "weight", {h}, random(H, 0.5, 1.5)), b.add(q + "bias", {h}, random(H, -0.5, 0.5));
    }
    return b;
}

inline std::vector<float> random_inputs(size_t count, uint32_t seed = 7) {
    std::mt19937       engine(seed);
    std::vector<float> v(count);
    for (float& f : v) f = float(double(engine()) / 2147483648.0 - 1.0);
    return v;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

} // namespace test
