// int_models.hpp - integer models of any shape for tests: made-up float models through the converter, and the same with
// every number driven to the limits of its type. SPDX-License-Identifier: MIT
#pragma once
#include "random_cells.hpp"
#include "../tools/quantize.hpp"

namespace test {

inline Bytes quantized(const Bytes& file, const quantize::Settings& settings = quantize::Settings()) {
    quantize::Model model;
    std::string     error;
    const int       status = quantize::make({file.data(), file.size()}, settings, &model, &error);
    REQUIRE_MESSAGE(status == tool::done, error);
    const std::string bytes = quantize::file_bytes(model);
    return Bytes(bytes.begin(), bytes.end());
}
inline Bytes int_model(const random_model::Spec& s, const quantize::Settings& settings = quantize::Settings()) {
    return quantized(random_file(s), settings);
}

// Made-up models of every shape that the integer engine runs: whole ones, without Mamba's pooling.
inline std::vector<random_model::Spec> int_cells() {
    std::vector<random_model::Spec> all = all_cells();
    for (random_model::Spec& s : all) s.bare = false, s.pool = "none";
    for (const char* text : {"s4d,d_model=12,n_layer=1,d_state=6,d_input=2,d_output=3",
                             "s4d,d_model=20,n_layer=2,d_state=14,d_input=1,d_output=1,pool=mean",
                             "s4d,d_model=33,n_layer=3,d_state=2,d_input=40,d_output=5,pool=last",
                             "s4d,d_model=8,n_layer=1,d_state=64,d_input=3,d_output=2,pool=mean",
                             "s4d,d_model=12,n_layer=1,d_state=6,d_input=16,bands=5,d_output=3,pool=mean",
                             "s4d,d_model=9,n_layer=2,d_state=4,d_input=64,bands=33,d_output=2,pool=last"}) {
        random_model::Spec s = spec(text);
        for (const char* disc : {"zoh", "bilinear"})
            for (bool prenorm : {false, true}) s.disc = disc, s.prenorm = prenorm, all.push_back(s);
    }
    return all;
}
inline bool row_exponents_possible(const random_model::Spec& s) { return s.arch != "s4d"; }

// The same shape with other numbers: limits of the types, zeros, powers of two and anything between, as far as a loader
// takes them. What comes out means nothing; no operation may leave its range.
inline Bytes extreme(Bytes file, uint32_t seed) {
    std::mt19937 engine(seed);
    const auto   below = [&](uint32_t n) { return static_cast<uint32_t>(engine()) % n; };
    const auto   number = [&](int64_t most) { // of magnitude up to `most`
        const int64_t sign = below(2) == 0 ? -1 : 1;
        switch (below(5)) {
        case 0:
        case 1:
            return sign * most;
        case 2:
            return int64_t(0);
        case 3:
            return sign * std::min(most, int64_t(1) << below(32));
        default:
            return sign * int64_t((uint64_t(engine()) << 32 | engine()) % uint64_t(most + 1));
        }
    };
    Bytes      memory(ssm::index_bytes({file.data(), file.size()}));
    ssm::Index ix;
    REQUIRE(ssm::read_index(&ix, {file.data(), file.size()}, memory.data(), memory.size()) == ssm::Status::ok);
    for (int32_t i = 0; i < ix.n_entries; ++i) {
        const ssm::Entry& e = ix.entries[i];
        if (e.value != nullptr || std::string(e.name, size_t(e.name_len)).rfind("frontend.", 0) == 0) continue;
        const std::string name(e.name, size_t(e.name_len)), dtype = ssm::dtype_name(e.dtype);
        const auto        is = [&](const char* end) {
            const std::string with = end;
            return name.size() > with.size() && name.compare(name.size() - with.size(), with.size(), with) == 0;
        };
        unsigned char* at = file.data() + (ix.data - file.data()) + e.begin;
        const size_t   width = size_t(ssm::dtype_bits(e.dtype)) / 8, count = size_t(e.end - e.begin) / width;
        const auto     put = [&](size_t k, int64_t v) { std::memcpy(at + k * width, &v, width); };
        const auto     positive = [](int64_t v) { return v < 0 ? -v : v; };
        for (size_t k = 0; k < count; ++k) {
            if (dtype == "F32") { // a scale: any significand, mostly large
                const uint32_t exponent = below(2) == 0 ? 126 : below(4) == 0 ? 1 + below(126) : 110 + below(17);
                put(k, int64_t(exponent << 23 | (below(2) == 0 ? 0x7fffff : below(0x800000))));
            } else if (dtype == "U8") put(k, below(3) == 0 ? 0x88 : int64_t(below(256)));
            else if (is(".kernel.a")) { // both parts of a mode at once: |a| <= 1
                if (k % 2 != 0) continue;
                const int64_t one = int64_t(1) << 30, re = number(one);
                const double  rest = std::sqrt(double(one) * double(one) - double(re) * double(re));
                int64_t       im = number(std::max<int64_t>(0, int64_t(rest) - 1));
                put(k, re), put(k + 1, im);
            } else {
                const int64_t most = width == 1 ? 127 : width == 2 ? 32767 : width == 8 ? INT64_MAX : 2147483647;
                int64_t       v = width == 8 ? int64_t(uint64_t(engine()) << 32 | engine()) : number(most);
                if (is(".rho")) v = positive(v);
                if (is(".mixer.A")) v = std::max<int64_t>(1, positive(v));
                put(k, v);
            }
        }
    }
    return file;
}

// Inputs of every size: ordinary, huge, denormal, at the limit of the conversion.
inline std::vector<float> extreme_inputs(size_t count, uint32_t seed) {
    static const float kinds[] = {1.0f, 3e38f, 1e-42f, 32768.0f, 32767.998f, 0x1p-17f, 0.0f, 100.0f};
    std::mt19937       engine(seed);
    std::vector<float> v(count);
    for (float& f : v) {
        const float size = kinds[engine() % 8];
        f = engine() % 2 == 0 ? size : -size;
        if (engine() % 2 == 0) f *= float(double(engine()) / 4294967296.0);
    }
    return v;
}

// A file as its parts, to be changed and put together again. Tensors that hold expected results are left out.
inline Builder parts_of_file(const Bytes& file) {
    Builder    b;
    Bytes      memory(ssm::index_bytes({file.data(), file.size()}));
    ssm::Index ix;
    REQUIRE(ssm::read_index(&ix, {file.data(), file.size()}, memory.data(), memory.size()) == ssm::Status::ok);
    for (int32_t i = 0; i < ix.n_entries; ++i) {
        const ssm::Entry& e = ix.entries[i];
        const std::string name(e.name, size_t(e.name_len));
        if (e.value != nullptr) b.metadata[name] = std::string(e.value, size_t(e.value_len));
        else if (name.compare(0, 5, "test.") != 0 && name.compare(0, 6, "trace.") != 0 &&
                 name.compare(0, 6, "final.") != 0) {
            int64_t dims[ssm::max_rank] = {};
            ssm::shape_of(e, dims);
            b.tensors[name] = {ssm::dtype_name(e.dtype), std::vector<int64_t>(dims, dims + e.rank),
                               Bytes(ix.data + e.begin, ix.data + e.end)};
        }
    }
    return b;
}
inline Builder golden_parts(const char* name) {
    return parts_of_file(read_file(SSM_TEST_DIR "/golden/int/" + std::string(name) + ".safetensors"));
}

} // namespace test
