// random_cells.hpp - made-up Mamba models, one of every shape that the code treats differently.
// SPDX-License-Identifier: MIT
#pragma once
#include "support.hpp"
#include "../tools/random_model.hpp"

namespace test {

inline Bytes random_file(const random_model::Spec& s) {
    const std::string f = random_model::file(s);
    return Bytes(f.begin(), f.end());
}
inline random_model::Spec spec(const std::string& text) {
    random_model::Spec s;
    std::string        error;
    REQUIRE_MESSAGE(random_model::parse(text, &s, &error), error);
    return s;
}

// Every shape a mixer can have that the code treats differently.
inline std::vector<random_model::Spec> all_cells() {
    std::vector<random_model::Spec> all;
    for (const char* text :
         {"mamba3,d_model=24,n_layer=2,d_state=8,headdim=8",
          "mamba3,d_model=16,n_layer=1,d_state=16,headdim=4,ngroups=2,rope_fraction=1.0",
          "mamba3,d_model=20,n_layer=2,d_state=10,headdim=5,ngroups=8,d_input=3,d_output=2,pool=mean",
          "mamba3,d_model=24,n_layer=1,d_state=18,headdim=16,rope_fraction=0.5,vocab_size=11",
          "mamba3,d_model=48,n_layer=1,d_state=6,headdim=24,rope_angles=1,norm=layer,mlp_hidden=20",
          "mamba3,d_model=16,n_layer=2,d_state=8,headdim=16,mimo_rank=1,rope_fraction=1.0",
          "mamba3,d_model=16,n_layer=1,d_state=8,headdim=16,mimo_rank=2,d_input=5,d_output=1,pool=last",
          "mamba3,d_model=24,n_layer=2,d_state=12,headdim=6,mimo_rank=3,ngroups=4",
          "mamba3,d_model=16,n_layer=1,d_state=16,headdim=8,mimo_rank=4",
          "mamba3,d_model=16,n_layer=1,d_state=8,headdim=8,mimo_rank=5,rope_angles=3",
          "mamba3,d_model=16,n_layer=1,d_state=4,headdim=8,mimo_rank=8",
          "mamba3,d_model=16,n_layer=1,d_state=16,headdim=16,mimo_rank=2,dtype=bf16",
          "mamba3,d_model=32,n_layer=1,d_state=16,headdim=64,dtype=f16",
          "mamba2,d_model=24,n_layer=2,d_state=8,headdim=8",
          "mamba2,d_model=20,n_layer=1,d_state=7,headdim=5,ngroups=4,d_conv=2,norm=layer",
          "mamba2,d_model=16,n_layer=1,d_state=8,headdim=4,d_ssm=16,mlp_hidden=24",
          "mamba2,d_model=16,n_layer=2,d_state=16,headdim=16,d_input=4,d_output=3,pool=mean,d_conv=8",
          "mamba1,d_model=24,n_layer=2,d_state=5",
          "mamba1,d_model=20,n_layer=1,d_state=16,d_conv=3,dt_rank=7,norm=layer,d_input=2,d_output=2",
          "mamba1,d_model=12,n_layer=1,d_state=8,d_conv=1,vocab_size=9",
          "mamba3,d_model=4,n_layer=3,d_state=4,headdim=8,mimo_rank=2,mlp_hidden=3,norm=layer",
          "mamba3,d_model=2,n_layer=3,d_state=2,headdim=1,rope_fraction=1.0,d_input=1,d_output=1",
          "mamba2,d_model=3,n_layer=4,d_state=1,headdim=3,mlp_hidden=1,norm=layer",
          "mamba1,d_model=1,n_layer=5,d_state=1,dt_rank=1,norm=layer"})
        all.push_back(spec(text));
    random_model::Spec s = spec("mamba3,d_model=16,n_layer=1,d_state=8,headdim=8");
    s.outproj_norm = true, all.push_back(s);
    s.mimo_rank = 3, s.a_activation = "softplus", all.push_back(s);
    s = spec("mamba3,d_model=16,n_layer=1,d_state=8,headdim=8"), s.a_floor = 0.9, s.bare = true, all.push_back(s);
    s = spec("mamba3,d_model=16,n_layer=1,d_state=8,headdim=16"), s.clip = 0.25, all.push_back(s);
    s.mimo_rank = 4, all.push_back(s);
    s = spec("mamba2,d_model=16,n_layer=1,d_state=8,headdim=8,ngroups=2"), s.norm_before_gate = true, s.bias = true,
    all.push_back(s);
    s.rmsnorm = false, s.conv_bias = false, s.D_has_hdim = true, s.clip = 0.01, all.push_back(s);
    s = spec("mamba1,d_model=16,n_layer=2,d_state=4"), s.bias = true, s.conv_bias = false, s.clip = 0.01,
    all.push_back(s);
    s = spec("mamba3,d_model=16,n_layer=1,d_state=8,headdim=8,vocab_size=13"), s.tied = true, all.push_back(s);
    return all;
}

// The file with every weight of its float matrices and vectors changed.
template <class Change> inline Bytes reweighted(Bytes file, Change change) {
    Bytes      memory(ssm::index_bytes({file.data(), file.size()}));
    ssm::Index ix;
    REQUIRE(ssm::read_index(&ix, {file.data(), file.size()}, memory.data(), memory.size()) == ssm::Status::ok);
    for (int32_t i = 0; i < ix.n_entries; ++i) {
        const ssm::Entry& e = ix.entries[i];
        if (e.value != nullptr) continue;
        const std::string name(e.name, size_t(e.name_len));
        unsigned char*    at = file.data() + (ix.data - file.data()) + e.begin;
        for (size_t k = 0; k < size_t(e.end - e.begin) / 4; ++k) {
            float f;
            std::memcpy(&f, at + 4 * k, 4);
            f = change(name, f);
            std::memcpy(at + 4 * k, &f, 4);
        }
    }
    return file;
}
// Float models whose modes hardly decay and that nothing comes into: what is in the state stays there.
inline Bytes lasting(const char* text) {
    return reweighted(random_file(spec(text)), [](const std::string& name, float f) {
        if (name.find("log_A_real") != name.npos || name.find("A_log") != name.npos) return -20.0f;
        if (name.find("log_dt") != name.npos || name.find("dt_") != name.npos) return -8.0f;
        return name.find(".bias") != name.npos ? 0.0f : f;
    });
}

} // namespace test
