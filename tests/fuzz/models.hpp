// models.hpp - small models of every kind for the fuzz targets: each float cell, the same in integers, two of sound.
// SPDX-License-Identifier: MIT
#pragma once
#include "fuzz.hpp"

#include "../../tools/quantize.hpp"
#include "../../tools/random_model.hpp"

namespace fuzz {

inline const char* const shapes[] = {
    "s4d,d_model=3,n_layer=1,d_state=4,d_input=2,d_output=2,pool=mean,clip=50",
    "s4d,d_model=9,n_layer=2,d_state=2,d_input=1,d_output=1,pool=last",
    "s4d,d_model=4,n_layer=1,d_state=4,d_input=16,bands=5,d_output=3,pool=mean", // of sound, as the digits
    "mamba1,d_model=5,n_layer=1,d_state=3,d_conv=3,d_input=2,d_output=2",
    "mamba2,d_model=4,n_layer=1,d_state=5,headdim=4,d_conv=2,clip=1",
    "mamba3,d_model=4,n_layer=1,d_state=4,headdim=4,rope_fraction=1.0,d_input=3,d_output=1",
    "mamba3,d_model=4,n_layer=1,d_state=6,headdim=4,mimo_rank=2,vocab_size=9,clip=1",
};

inline random_model::Spec shape(const char* text) {
    random_model::Spec s;
    std::string        error;
    require(random_model::parse(text, &s, &error), "a shape of the targets' own");
    return s;
}
inline std::string integers(const std::string& file, const quantize::Settings& settings) {
    quantize::Model model;
    std::string     error;
    const int       status = quantize::make({file.data(), file.size()}, settings, &model, &error);
    if (status != tool::done) std::fprintf(stderr, "%s\n", error.c_str());
    require(status == tool::done, "a model of the targets' own becomes integers");
    return quantize::file_bytes(model);
}

// Files of models: all shapes in float, in int8, and in int4 with 16-bit states where those are possible.
inline std::vector<std::string> model_files() {
    std::vector<std::string> all;
    for (const char* text : shapes) {
        const random_model::Spec s = shape(text);
        const std::string        file = random_model::file(s);
        quantize::Settings       settings;
        all.push_back(file);
        all.push_back(integers(file, settings));
        settings.int4 = true, settings.row_exponents = s.arch != "s4d";
        all.push_back(integers(file, settings));
    }
    return all;
}

// A NaN has no one pattern of bits: any is as good as another.
inline bool same_floats(const std::vector<float>& a, const std::vector<float>& b) {
    for (size_t i = 0; i < a.size(); ++i)
        if (std::memcmp(&a[i], &b[i], sizeof(float)) != 0 && (a[i] == a[i] || b[i] == b[i])) return false;
    return a.size() == b.size();
}

} // namespace fuzz
