// c_array.cpp - `ssm convert MODEL --c-array model.h`: a model as a C++ header, for firmware.
// SPDX-License-Identifier: MIT
#include "c_array.hpp"
#include "tool.hpp"

#include <cstring>
#include <initializer_list>
#include <string>

namespace tool {
namespace {

// ---- Names

// model.h gives "model", build/parity-i8.h "parity_i8".
std::string name_of(const std::string& path) {
    std::string  name = path.substr(path.rfind('/') + 1); // npos + 1 is 0
    const size_t dot = name.rfind('.');
    if (dot != name.npos && dot > 0) name.resize(dot);
    for (char& c : name)
        if (c == '-' || c == '.') c = '_';
    return name;
}

// Why a name cannot stand in a program, null if it can. The language keeps those with __ and those that begin with _.
const char* why_no_name(const std::string& name) {
    static const char taken[] =
        " alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t "
        "char8_t class co_await co_return co_yield compl concept const const_cast consteval constexpr "
        "constinit continue decltype default delete do double dynamic_cast else enum explicit export extern "
        "false float for friend goto if inline int long main mutable namespace new noexcept not not_eq "
        "nullptr operator or or_eq private protected public register reinterpret_cast requires return short "
        "signed sizeof ssm static static_assert static_cast std struct switch template this thread_local "
        "throw true try typedef typeid typename union unsigned using virtual void volatile wchar_t while xor "
        "xor_eq ";
    const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
    if (name.empty() || !is_letter(name[0])) return "a letter first";
    for (char c : name)
        if (!is_letter(c) && !(c >= '0' && c <= '9') && c != '_') return "letters, digits, - and _ only";
    if (name.find("__") != name.npos) return "no two of - and _ side by side";
    if (name.size() > 60) return "at most 60 bytes";
    return std::strstr(taken, (" " + name + " ").c_str()) != nullptr ? "none that C++ or this program keeps for itself"
                                                                     : nullptr;
}

// ---- The Config

std::string text_of(float v) { // as C++ writes it
    std::string text;
    append_float(&text, v);
    if (text.find_first_of(".e") == text.npos) text += ".0";
    return text + "f";
}

// Assignments for all that differs from Config(), a line each. n_entries sizes the arena.
std::string assignments(const ssm::Config& c) {
    const ssm::Config plain;
    std::string       out;
    const auto        say = [&](const char* field, const std::string& value) {
        out += std::string("    c.") + field + " = " + value + ";\n";
    };
    const auto word = [&](const char* field, auto value, auto usual, const char* type,
                          std::initializer_list<const char*> words) {
        if (value != usual) say(field, std::string("ssm::") + type + "::" + words.begin()[size_t(value)]);
    };
    const auto flag = [&](const char* field, bool value, bool usual) {
        if (value != usual) say(field, value ? "true" : "false");
    };
    const auto whole = [&](const char* field, int32_t value, int32_t usual) {
        if (value != usual) say(field, std::to_string(value));
    };
    const auto real = [&](const char* field, float value, float usual) {
        if (value < usual || value > usual) say(field, text_of(value));
    };
    word("arch", c.arch, plain.arch, "Arch", {"s4d", "mamba1", "mamba2", "mamba3"});
    word("disc", c.disc, plain.disc, "Disc", {"zoh", "bilinear"});
    word("pool", c.pool, plain.pool, "Pool", {"none", "last", "mean"});
    word("norm", c.norm, plain.norm, "Norm", {"layer", "rms"});
    word("input", c.input, plain.input, "Input", {"features", "tokens", "vectors"});
    word("state", c.state, plain.state, "StateType", {"f32", "i32", "i16rowexp"});
    flag("prenorm", c.prenorm, plain.prenorm);
    flag("has_head", c.has_head, plain.has_head);
    flag("bare_mixer", c.bare_mixer, plain.bare_mixer);
    flag("is_mimo", c.is_mimo, plain.is_mimo);
    flag("is_outproj_norm", c.is_outproj_norm, plain.is_outproj_norm);
    flag("softplus_A", c.softplus_A, plain.softplus_A);
    flag("rmsnorm", c.rmsnorm, plain.rmsnorm);
    flag("norm_before_gate", c.norm_before_gate, plain.norm_before_gate);
    flag("has_gaps", c.has_gaps, plain.has_gaps);
    whole("n_layers", c.n_layers, plain.n_layers);
    whole("d_input", c.d_input, plain.d_input);
    whole("d_output", c.d_output, plain.d_output);
    whole("d_model", c.d_model, plain.d_model);
    whole("d_state", c.d_state, plain.d_state);
    whole("vocab_size", c.vocab_size, plain.vocab_size);
    whole("mlp_hidden", c.mlp_hidden, plain.mlp_hidden);
    whole("d_inner", c.d_inner, plain.d_inner);
    whole("d_ssm", c.d_ssm, plain.d_ssm);
    whole("nheads", c.nheads, plain.nheads);
    whole("headdim", c.headdim, plain.headdim);
    whole("ngroups", c.ngroups, plain.ngroups);
    whole("mimo_rank", c.mimo_rank, plain.mimo_rank);
    whole("rope_angles", c.rope_angles, plain.rope_angles);
    whole("d_conv", c.d_conv, plain.d_conv);
    whole("dt_rank", c.dt_rank, plain.dt_rank);
    real("A_floor", c.A_floor, plain.A_floor);
    real("state_clip", c.state_clip, plain.state_clip);
    whole("act_bits", c.act_bits, plain.act_bits);
    whole("clip_q25", c.clip_q25, plain.clip_q25);
    whole("A_floor_q26", c.A_floor_q26, plain.A_floor_q26);
    whole("b_frac", c.b_frac, plain.b_frac);
    whole("g_frac", c.g_frac, plain.g_frac);
    whole("n_bands", c.n_bands, plain.n_bands);
    whole("band_shift", c.band_shift, plain.band_shift);
    whole("band_leak", c.band_leak, plain.band_leak);
    whole("band_mean", c.band_mean, plain.band_mean);
    whole("band_floor", c.band_floor, plain.band_floor);
    whole("band_fall", c.band_fall, plain.band_fall);
    whole("band_gate", c.band_gate, plain.band_gate);
    whole("band_quiet", c.band_quiet, plain.band_quiet);
    whole("band_forget", c.band_forget, plain.band_forget);
    whole("n_entries", c.n_entries, plain.n_entries);
    return out;
}

// ---- Sizes

// arena_bytes() of one state and one row, on a machine whose pointers have `pointer` bytes. The model's tables hold
// pointers; of the index of a file, an Entry is 64 bytes where they have 8 and at most 56 where they have 4.
size_t arena_with_pointers(size_t pointer, const ssm::Config& c) {
    static_assert(sizeof(ssm::Entry) == (sizeof(void*) == 8 ? 64 : 56) || sizeof(void*) == 4, "an Entry has grown");
    const size_t a_layer = ssm::detail::layer_bytes / sizeof(void*) * pointer, layers = size_t(c.n_layers);
    const size_t tables = ssm::model_bytes(c) - layers * ssm::detail::layer_bytes + layers * a_layer;
    const size_t index = size_t(c.n_entries) * (pointer == 8 ? 64 : 56) + 32;
    const size_t running = ssm::detail::aligned(ssm::state_bytes(c)) + ssm::scratch_bytes(c, 1);
    return 16 + tables + (index > running ? index : running);
}

std::string header(const std::string& name, const std::string& model, const std::string& to, const ssm::Config& c,
                   const unsigned char* data, size_t bytes) {
    static const char* const cells[] = {"S4D", "MAMBA1", "MAMBA2", "MAMBA3"};
    const auto               sized = [&](const char* what) { return name + "_" + what + "_bytes"; };
    const auto               line = [&](const char* what, const std::string& value, const char* comment) {
        return "constexpr size_t " + sized(what) + " = " + value + ";" + comment + "\n";
    };
    std::string out =
        "// " + quoted_path(to) + " - a model as an array, for firmware. Made by:\n//\n//     ssm convert " +
        quoted_path(model) + " --c-array " + quoted_path(to) +
        "\n//\n// Include ssm.hpp first. Switches that leave out of it what this model does not need:\n//\n"
        "//     -DSSM_NO_FILES";
    out += ssm::is_integer(c) ? " -DSSM_NO_FLOAT" : " -DSSM_NO_INTEGER";
    for (size_t i = 0; i < 4; ++i)
        if (i != size_t(c.arch)) out += std::string(" -DSSM_NO_") + cells[i];
    out += "\n#pragma once\n#include <stddef.h>\n\n";
    out += "constexpr size_t " + name + "_bytes = " + std::to_string(bytes) + ";\n";
    out += line("state", std::to_string(ssm::state_bytes(c)), " // one stream");
    out += line("scratch", std::to_string(ssm::scratch_bytes(c, 1)), " // one row a call");
    out += line("arena",
                "sizeof(void*) == 8 ? " + std::to_string(arena_with_pointers(8, c)) + " : " +
                    std::to_string(arena_with_pointers(4, c)),
                " // these two and the tables");
    const auto fits = [&](const char* what, const char* how) {
        return sized(what) + how + "ssm::" + what + "_bytes(" + name + "_config)";
    };
    out += "\n#ifdef SSM_HPP\nconstexpr ssm::Config " + name + "_config = [] {\n    ssm::Config c;\n" + assignments(c) +
           "    return c;\n}();\nstatic_assert(" + fits("state", " == ") + " &&\n                  " +
           fits("scratch", " == ") + " &&\n                  " + fits("arena", " >= ") +
           ",\n              \"made for another version of ssm.hpp: run the command above again\");\n#endif\n\n";
    out += "alignas(16) const unsigned char " + name + "[" + name + "_bytes] = {";
    out.reserve(out.size() + 4 * bytes + 100);
    for (size_t i = 0; i < bytes; ++i) {
        if (i % 28 == 0) out += "\n    ";
        out += std::to_string(int(data[i])) + ",";
    }
    return out + "\n};\n";
}
} // namespace

int write_c_array(const char* model, const char* to) {
    const std::string name = name_of(to);
    if (const char* why = why_no_name(name))
        return fail(bad_usage, "convert",
                    "--c-array " + quoted_path(to) + ": " + quoted(name) + " cannot name an array, expected " + why);
    if (same_file(model, to))
        return fail(bad_usage, "convert", "MODEL and --c-array are the same file, " + quoted_path(to));
    OpenModel m;
    const int status = open_model("convert", model, ssm::Isa::best, 1, 1, &m);
    if (status != done) return status;
    return save_file("convert", to,
                     header(name, model, to, m.config, static_cast<const unsigned char*>(m.blob.data), m.blob.bytes));
}

} // namespace tool
