// random_model.hpp - made-up Mamba and S4D models of any shape, for measuring and testing.
// SPDX-License-Identifier: MIT
//
// The numbers are drawn like a fresh model's (projections uniform in +-1 / sqrt(fan-in), steps log-uniform), the same
// on every machine for a seed. Nothing here has learnt anything.
#ifndef SSM_RANDOM_MODEL_HPP
#define SSM_RANDOM_MODEL_HPP

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace random_model {

// Keys of a configuration text, `key=value` separated by commas; 0 where a default follows from others.
struct Spec {
    std::string arch = "mamba3", dtype = "F32", norm = "rms", pool = "none", a_activation = "heavy_tail", disc = "zoh";
    int64_t     d_model = 128, n_layer = 4, d_state = 16, headdim = 16, ngroups = 1, mimo_rank = 0, rope_angles = 0;
    int64_t     expand = 2, d_inner = 0, d_ssm = 0, d_conv = 4, dt_rank = 0, mlp_hidden = 0, seed = 1;
    int64_t     d_input = 0, d_output = 0, vocab_size = 0; // none of them: d_model numbers in, d_model numbers out
    int64_t     bands = 0;                                 // S4D: resonators in front, of d_input samples a step
    bool        outproj_norm = false, rmsnorm = true, norm_before_gate = false, bias = false, conv_bias = true;
    bool        D_has_hdim = false, tied = false, head_bias = false, prenorm = true, bare = false;
    double      rope_fraction = 0.5, clip = 0.0, a_floor = 1e-4;
};

// Where a tensor goes: name, shape, values, dtype.
using Add =
    std::function<void(const std::string&, const std::vector<int64_t>&, const std::vector<float>&, const std::string&)>;

// Reads `text` into a Spec; false and one line in `error` if it cannot be. "mamba3,d_model=64": a word alone is the
// arch.
inline bool parse(const std::string& text, Spec* s, std::string* error) {
    const std::map<std::string, int64_t*>     numbers = {{"d_model", &s->d_model},   {"n_layer", &s->n_layer},
                                                         {"d_state", &s->d_state},   {"headdim", &s->headdim},
                                                         {"ngroups", &s->ngroups},   {"mimo_rank", &s->mimo_rank},
                                                         {"expand", &s->expand},     {"d_inner", &s->d_inner},
                                                         {"d_ssm", &s->d_ssm},       {"d_conv", &s->d_conv},
                                                         {"dt_rank", &s->dt_rank},   {"mlp_hidden", &s->mlp_hidden},
                                                         {"seed", &s->seed},         {"d_input", &s->d_input},
                                                         {"d_output", &s->d_output}, {"vocab_size", &s->vocab_size},
                                                         {"bands", &s->bands},       {"rope_angles", &s->rope_angles}};
    const std::map<std::string, std::string*> words = {{"arch", &s->arch},
                                                       {"dtype", &s->dtype},
                                                       {"norm", &s->norm},
                                                       {"pool", &s->pool},
                                                       {"a_activation", &s->a_activation}};
    for (size_t at = 0; at <= text.size();) {
        const size_t      end = std::min(text.find(',', at), text.size());
        const std::string part = text.substr(at, end - at), key = part.substr(0, part.find('='));
        const std::string value = key.size() < part.size() ? part.substr(key.size() + 1) : "";
        at = end + 1;
        const auto n = numbers.find(key);
        const auto w = words.find(key);
        if (key == part && !part.empty()) s->arch = part;
        else if (n != numbers.end() && !value.empty() && value.size() < 8 &&
                 value.find_first_not_of("0123456789") == std::string::npos)
            *n->second = std::atoll(value.c_str());
        else if (w != words.end() && !value.empty()) *w->second = value;
        else if (key == "rope_fraction" && (value == "0.5" || value == "1.0"))
            s->rope_fraction = value == "1.0" ? 1.0 : 0.5;
        else if (key == "clip" && !value.empty() && value.find_first_not_of("0123456789") == std::string::npos)
            s->clip = std::atof(value.c_str()); // of the state, a whole number; 0: off
        else {
            *error = "\"" + part + "\": not a known key with a value of its kind";
            return false;
        }
    }
    for (char& c : s->dtype) c = static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c);
    const bool mamba = s->arch == "mamba1" || s->arch == "mamba2" || s->arch == "mamba3";
    if (!mamba && s->arch != "s4d") *error = "arch: expected s4d, mamba1, mamba2 or mamba3";
    else if (s->dtype != "F32" && s->dtype != "F16" && s->dtype != "BF16") *error = "dtype: expected f32, f16 or bf16";
    else if (s->d_model < 1 || s->d_model > 16384 || s->n_layer < 1 || s->n_layer > 256 || s->d_state < 1 ||
             s->expand < 1 || s->expand > 8 || s->headdim < 1 || s->ngroups < 1 || s->mimo_rank > 8)
        *error = "a size is out of range";
    else if (s->bands > 0 && (s->arch != "s4d" || s->bands > 64 || s->d_input % 4 != 0 || s->d_input < s->bands))
        *error = "bands: up to 64, of s4d, with d_input a multiple of 4 that is not below it";
    else if ((s->arch == "mamba2" || s->arch == "mamba3") &&
             ((s->d_inner > 0 ? s->d_inner : s->expand * s->d_model) % s->headdim != 0 ||
              (s->d_inner > 0 ? s->d_inner : s->expand * s->d_model) / s->headdim % s->ngroups != 0))
        *error = "headdim must divide expand * d_model, ngroups the number of heads";
    return error->empty();
}

class Maker {
  public:
    Maker(const Spec& s, Add add) : s_(s), add_(std::move(add)), state_(uint64_t(s.seed) * 0x9e3779b97f4a7c15u + 1) {}

    std::map<std::string, std::string> make() {
        std::map<std::string, std::string> m = {
            {"format", "ssm-float"}, {"format_version", "1"}, {"arch", s_.arch}, {"pool", s_.pool}};
        if (s_.clip > 0) m["clip"] = std::to_string(s_.clip);
        if (s_.arch == "s4d") s4d(&m);
        else mamba(&m);
        return m;
    }

  private:
    std::vector<float> uniform(int64_t count, double low, double high) {
        std::vector<float> v(static_cast<size_t>(count));
        for (float& x : v) {
            state_ = state_ * 6364136223846793005u + 1442695040888963407u;
            x = static_cast<float>(low + (high - low) * static_cast<double>(state_ >> 40) / 16777216.0);
        }
        return v;
    }
    void matrix(const std::string& name, int64_t rows, int64_t cols) {
        const double r = 1.0 / std::sqrt(static_cast<double>(cols));
        add_(name, {rows, cols}, uniform(rows * cols, -r, r), s_.dtype);
    }
    void small(const std::string& name, const std::vector<int64_t>& shape, double low, double high) {
        int64_t n = 1;
        for (int64_t d : shape) n *= d;
        add_(name, shape, uniform(n, low, high), "F32");
    }
    void norm(const std::string& name) {
        small(name + ".weight", {s_.d_model}, 0.5, 1.5);
        if (s_.norm == "layer") small(name + ".bias", {s_.d_model}, -0.5, 0.5);
    }
    void s4d(std::map<std::string, std::string>* m) {
        const int64_t H = s_.d_model, n = s_.d_state / 2, in = s_.d_input > 0 ? s_.d_input : 1;
        const int64_t out = s_.d_output > 0 ? s_.d_output : 1;
        (*m)["prenorm"] = s_.prenorm ? "true" : "false", (*m)["disc"] = s_.disc;
        if (s_.bands > 0) bank(m);
        matrix("encoder.weight", H, s_.bands > 0 ? s_.bands : in), small("encoder.bias", {H}, -1, 1);
        matrix("decoder.weight", out, H), small("decoder.bias", {out}, -1, 1);
        for (int64_t i = 0; i < s_.n_layer; ++i) {
            const std::string p = "s4_layers." + std::to_string(i) + ".", q = "norms." + std::to_string(i);
            small(p + "D", {H}, -1, 1), small(p + "kernel.log_dt", {H}, -5, -1),
                small(p + "kernel.C", {H, n, 2}, -1, 1);
            small(p + "kernel.log_A_real", {H, n}, -1, 1), small(p + "kernel.A_imag", {H, n}, -20, 20);
            matrix(p + "output_linear.0.weight", 2 * H, H), small(p + "output_linear.0.bias", {2 * H}, -1, 1);
            small(q + ".weight", {H}, 0.5, 1.5), small(q + ".bias", {H}, -0.5, 0.5);
        }
    }
    // Resonators from low to high, none so narrow that it needs more than 32 bits.
    void bank(std::map<std::string, std::string>* m) {
        const auto         at = static_cast<size_t>(s_.bands);
        const auto         sizes = uniform(s_.bands, 0.5, 0.96), turns = uniform(s_.bands, 0.02, 3.0);
        std::vector<float> poles, full;
        for (size_t k = 0; k < at; ++k) {
            const double size = static_cast<double>(sizes[k]) * 2147483648.0, turn = static_cast<double>(turns[k]);
            poles.push_back(static_cast<float>(size * std::cos(turn)));
            poles.push_back(static_cast<float>(size * std::sin(turn)));
            full.push_back(
                static_cast<float>(static_cast<int>((28 - 4 * std::log2(1 - static_cast<double>(sizes[k]))) * 65536)));
        }
        add_("frontend.poles", {s_.bands, 2}, poles, "I32"), add_("frontend.full", {s_.bands}, full, "I32");
        add_("frontend.prior", {s_.bands}, std::vector<float>(at, -400000.0f), "I32");
        (*m)["d_input"] = std::to_string(s_.d_input), (*m)["sample_rate"] = "8000";
        (*m)["band_shift"] = "1", (*m)["band_leak"] = "5", (*m)["band_mean"] = "2621";
        (*m)["band_floor"] = "1000000", (*m)["band_fall"] = "1300", (*m)["band_gate"] = "600000";
        (*m)["band_quiet"] = "1400000", (*m)["band_forget"] = "3";
    }
    void mamba(std::map<std::string, std::string>* m) {
        const int64_t d = s_.d_model, di = s_.d_inner > 0 ? s_.d_inner : s_.expand * d, N = s_.d_state, G = s_.ngroups;
        const int64_t ds = s_.d_ssm > 0 ? s_.d_ssm : di, K = s_.d_conv, P = s_.headdim;
        (*m)["d_state"] = std::to_string(N);
        if (s_.bare) (*m)["scope"] = "mixer";
        if (s_.d_input > 0) matrix("input_proj.weight", d, s_.d_input), small("input_proj.bias", {d}, -1, 1);
        else if (s_.vocab_size > 0) {
            (*m)["vocab_size"] = std::to_string(s_.vocab_size);
            small("embedding.weight", {(s_.vocab_size + 7) / 8 * 8, d}, -1, 1);
        }
        for (int64_t i = 0; i < s_.n_layer; ++i) {
            const std::string layer = "layers." + std::to_string(i) + ".", p = layer + "mixer.";
            if (!s_.bare) norm(layer + "norm");
            if (s_.mlp_hidden > 0)
                norm(layer + "norm2"), matrix(layer + "mlp.fc1.weight", 2 * s_.mlp_hidden, d),
                    matrix(layer + "mlp.fc2.weight", d, s_.mlp_hidden);
            matrix(p + "out_proj.weight", d, di);
            if (s_.bias) small(p + "out_proj.bias", {d}, -0.5, 0.5);
            if (s_.arch == "mamba1") {
                const int64_t r = s_.dt_rank > 0 ? s_.dt_rank : (d + 15) / 16;
                matrix(p + "in_proj.weight", 2 * di, d), matrix(p + "x_proj.weight", r + 2 * N, di);
                matrix(p + "dt_proj.weight", di, r), small(p + "dt_proj.bias", {di}, -5, -1);
                if (s_.bias) small(p + "in_proj.bias", {2 * di}, -0.5, 0.5);
                small(p + "conv1d.weight", {di, 1, K}, -0.5, 0.5);
                if (s_.conv_bias) small(p + "conv1d.bias", {di}, -0.5, 0.5);
                small(p + "A_log", {di, N}, -1, 2), small(p + "D", {di}, 0.5, 1.5);
            } else if (s_.arch == "mamba2") {
                const int64_t H = ds / P, C = ds + 2 * G * N;
                matrix(p + "in_proj.weight", 2 * di + 2 * G * N + H, d);
                if (s_.bias) small(p + "in_proj.bias", {2 * di + 2 * G * N + H}, -0.5, 0.5);
                small(p + "conv1d.weight", {C, 1, K}, -0.5, 0.5);
                if (s_.conv_bias) small(p + "conv1d.bias", {C}, -0.5, 0.5);
                small(p + "dt_bias", {H}, -5, -1), small(p + "A_log", {H}, 0, 2.7);
                small(p + "D", {s_.D_has_hdim ? ds : H}, 0.5, 1.5);
                if (s_.rmsnorm) small(p + "norm.weight", {ds}, 0.5, 1.5);
                (*m)["ngroups"] = std::to_string(G);
                (*m)["norm_before_gate"] = s_.norm_before_gate ? "true" : "false";
            } else {
                const int64_t H = di / P, R = s_.mimo_rank > 0 ? s_.mimo_rank : 1;
                const int64_t S = s_.rope_angles > 0
                                      ? s_.rope_angles
                                      : static_cast<int64_t>(static_cast<double>(N) * s_.rope_fraction) / 2;
                matrix(p + "in_proj.weight", 2 * di + 2 * R * G * N + 3 * H + S, d);
                small(p + "dt_bias", {H}, -5, -0.5), small(p + "D", {H}, 0.5, 1.5);
                small(p + "B_norm.weight", {N}, 0.5, 1.5), small(p + "C_norm.weight", {N}, 0.5, 1.5);
                small(p + "B_bias", {H, R, N}, 0.5, 1.5), small(p + "C_bias", {H, R, N}, 0.5, 1.5);
                if (s_.mimo_rank > 0)
                    small(p + "mimo_x", {H, R, P}, 0, 1), small(p + "mimo_z", {H, R, P}, 0.5, 1.5),
                        small(p + "mimo_o", {H, R, P}, 0, 1);
                if (s_.outproj_norm) small(p + "norm.weight", {di}, 0.5, 1.5);
                (*m)["rope_angles"] = std::to_string(S), (*m)["ngroups"] = std::to_string(G);
                (*m)["a_activation"] = s_.a_activation, (*m)["a_floor"] = std::to_string(s_.a_floor);
            }
        }
        if (s_.bare) return;
        norm("norm_f");
        if (s_.d_output > 0 && s_.vocab_size == 0) {
            matrix("head.weight", s_.d_output, d);
            if (s_.head_bias) small("head.bias", {s_.d_output}, -1, 1);
        } else if (s_.vocab_size > 0 && !s_.tied) matrix("lm_head.weight", (s_.vocab_size + 7) / 8 * 8, d);
    }
    const Spec& s_;
    Add         add_;
    uint64_t    state_;
};

// Half precision or BF16 of a value well inside their range, rounded down in magnitude.
inline uint16_t narrow(float v, bool bf16) {
    uint32_t u;
    std::memcpy(&u, &v, 4);
    if (bf16) return static_cast<uint16_t>(u >> 16);
    const uint32_t exponent = u >> 23 & 255, sign = u >> 16 & 0x8000;
    return static_cast<uint16_t>(exponent <= 112 ? sign : sign | (exponent - 112) << 10 | (u >> 13 & 1023));
}

// The whole file. Tensors stand in the order they are made, each at a multiple of 8 bytes or at the end of the last.
inline std::string file(const Spec& s) {
    std::string header = "{", data;
    Maker       maker(s, [&](const std::string& name, const std::vector<int64_t>& shape, const std::vector<float>& v,
                       const std::string& dtype) {
        const size_t begin = data.size();
        if (dtype == "I32") // whole numbers
            for (float x : v) {
                const auto i = static_cast<int32_t>(x);
                data.append(reinterpret_cast<const char*>(&i), 4);
            }
        else if (dtype == "F32")
            data.append(reinterpret_cast<const char*>(v.data()), v.size() * 4); // little-endian hosts
        else
            for (float x : v) {
                const uint16_t u = narrow(x, dtype == "BF16");
                data.append(reinterpret_cast<const char*>(&u), 2);
            }
        header += "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[";
        for (size_t i = 0; i < shape.size(); ++i) header += (i > 0 ? "," : "") + std::to_string(shape[i]);
        header += "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(data.size()) + "]},";
    });
    const auto  metadata = maker.make();
    header += "\"__metadata__\":{";
    for (const auto& m : metadata)
        header += (header.back() == '{' ? "\"" : ",\"") + m.first + "\":\"" + m.second + "\"";
    header += "}}";
    header.resize((header.size() + 8 + 63) / 64 * 64 - 8, ' '); // data begin on a cache line
    std::string all(8, '\0');
    for (int i = 0; i < 8; ++i) all[static_cast<size_t>(i)] = static_cast<char>(header.size() >> 8 * i & 255);
    return all + header + data;
}

} // namespace random_model
#endif
