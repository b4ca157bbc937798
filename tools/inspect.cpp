// inspect.cpp - `ssm inspect` (any safetensors file) and `ssm info` (a model).
// SPDX-License-Identifier: MIT
#include "tool.hpp"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>

namespace {
using namespace tool;

const char inspect_help[] =
    "usage: ssm inspect FILE\n"
    "\n"
    "What a safetensors file holds, model or not. First its metadata, `# key: value` a line, then a line a tensor in\n"
    "the order of the data: name dtype shape bytes. Blanks, quotes and control characters in names are escaped.\n"
    "Exit status 3 if the file breaks a rule of the format.\n";
const char info_help[] =
    "usage: ssm info MODEL [--isa NAME]\n"
    "\n"
    "What a model is (architecture, shape, parameters), the memory it needs, and the back-ends of this CPU.\n";

constexpr size_t no_cut = SIZE_MAX / 2;

// A name or value on one line, whole. Names are one word, so that the line can be split at blanks.
std::string printable(const char* text, size_t bytes, bool word) {
    std::string s = escape(unescape(text, bytes), no_cut, word ? "" : "'\"");
    if (!word) return s;
    std::string out;
    for (char c : s)
        if (c == ' ') out += "\\x20";
        else out += c;
    return out;
}

std::vector<const ssm::Entry*> tensors(const ssm::Index& ix) {
    std::vector<const ssm::Entry*> all;
    for (int32_t i = 0; i < ix.n_entries; ++i)
        if (ix.entries[i].value == nullptr) all.push_back(&ix.entries[i]);
    return all;
}

// Whether a tensor belongs to the model proper. Golden files hold others beside it.
bool of_the_model(const ssm::Entry& e) {
    const std::string_view name(e.name, size_t(e.name_len));
    for (const std::string_view prefix : {"test.", "grad.", "trace.", "golden.", "final.", "state."}) // as load() does
        if (name.substr(0, prefix.size()) == prefix) return false;
    return true;
}
} // namespace

int verb_inspect(int argc, char** argv) {
    Options options("inspect", inspect_help);
    int     status = options.read(argc, argv, 1, 1);
    if (status != go_on) return status;
    Container file;
    if ((status = open_container("inspect", options.operands[0], &file)) != done) return status;

    std::vector<std::string> lines;
    for (int32_t i = 0; i < file.index.n_entries; ++i) {
        const ssm::Entry& e = file.index.entries[i];
        if (e.value != nullptr)
            lines.push_back("# " + printable(e.name, size_t(e.name_len), true) + ": " +
                            printable(e.value, size_t(e.value_len), false) + "\n");
    }
    std::sort(lines.begin(), lines.end());
    Output out(1);
    for (const std::string& line : lines) out.write(line);

    // Tensors of no bytes share their place with the next: name order decides there.
    std::vector<const ssm::Entry*> all = tensors(file.index);
    std::sort(all.begin(), all.end(), [](const ssm::Entry* a, const ssm::Entry* b) {
        if (a->begin != b->begin) return a->begin < b->begin;
        if (a->end != b->end) return a->end < b->end;
        return std::string_view(a->name, size_t(a->name_len)) < std::string_view(b->name, size_t(b->name_len));
    });
    for (const ssm::Entry* e : all) {
        std::string line = printable(e->name, size_t(e->name_len), true) + " " + ssm::dtype_name(e->dtype) + " [";
        for (const char* p = e->shape_text + 1; *p != ']'; ++p) // checked by read_index(): digits, commas and blanks
            if (*p == ',' || (*p >= '0' && *p <= '9')) line += *p;
        out.write(line + "] " + std::to_string(e->end - e->begin) + "\n");
    }
    return finish("inspect", &out);
}

int verb_info(int argc, char** argv) {
    ssm::Isa isa = ssm::Isa::best;
    Options  options("info", info_help);
    options.isa(&isa);
    int status = options.read(argc, argv, 1, 1);
    if (status != go_on) return status;
    OpenModel m;
    if ((status = open_model("info", options.operands[0], isa, 1, 1, &m)) != done) return status;
    const ssm::Config& c = m.config;

    Output     out(1);
    const auto line = [&](const char* key, const std::string& value) {
        out.write(std::string(key) + ": " + value + "\n");
    };
    const auto               number = [&](const char* key, uint64_t value) { line(key, std::to_string(value)); };
    static const char* const archs[] = {"s4d", "mamba1", "mamba2", "mamba3"};
    const bool               s4d = c.arch == ssm::Arch::s4d;
    const auto               size = [&](const char* key, int32_t value) { // where the architecture has it
        if (value > 0) number(key, uint64_t(value));
    };
    line("architecture", std::string(archs[int(c.arch)]) + (c.is_mimo ? " (MIMO)" : ""));
    const bool integer = ssm::is_integer(c);
    line("engine", integer ? "integer" : "float");
    if (integer) {
        number("bits of activations", uint64_t(c.act_bits));
        line("state", c.state == ssm::StateType::i32 ? "i32" : "i16rowexp");
    }
    number("layers", uint64_t(c.n_layers));
    if (!s4d)
        line("input", c.input == ssm::Input::tokens     ? "tokens"
                      : c.input == ssm::Input::features ? "features"
                                                        : "vectors of d_model numbers");
    size("vocab_size", c.vocab_size);
    number("d_input", uint64_t(c.d_input));
    if (c.n_bands > 0) line("resonators in front", std::to_string(c.n_bands) + ", of sound, d_input samples a step");
    number("d_output", uint64_t(c.d_output));
    number("d_model", uint64_t(c.d_model));
    size("d_inner", c.d_inner);
    number("d_state", uint64_t(c.d_state));
    size("heads", c.nheads), size("headdim", c.headdim), size("ngroups", c.ngroups);
    if (c.is_mimo) size("mimo_rank", c.mimo_rank);
    size("rope_angles", c.rope_angles), size("d_conv", c.d_conv), size("dt_rank", c.dt_rank);
    size("mlp_hidden", c.mlp_hidden);
    if (c.arch == ssm::Arch::mamba3) {
        std::string floor;
        append_float(&floor, integer ? static_cast<float>(c.A_floor_q26) / 67108864.0f : c.A_floor);
        line("A", c.softplus_A ? "softplus" : "heavy tail");
        line("A_floor", floor);
        line("norm before the gate", c.is_outproj_norm ? "yes" : "no");
    }
    if (s4d && !integer) line("discretization", c.disc == ssm::Disc::zoh ? "zoh" : "bilinear");
    if (s4d && integer) line("time steps other than 1", c.has_gaps ? "yes" : "no");
    if (s4d) line("norm", c.prenorm ? "in front of each layer" : "behind each layer");
    else line("norm", c.norm == ssm::Norm::rms ? "RMSNorm" : "LayerNorm");
    line("pooling", c.pool == ssm::Pool::mean ? "mean" : c.pool == ssm::Pool::last ? "last" : "none");
    std::string clip;
    append_float(&clip, integer ? static_cast<float>(c.clip_q25) / 33554432.0f : c.state_clip);
    line("state clip", c.state_clip > 0.0f || (integer && c.clip_q25 < INT32_MAX) ? clip : "off");

    uint64_t parameters = 0, others = 0, total = 0, bytes[256] = {};
    for (const ssm::Entry* e : tensors(m.index)) {
        int64_t dims[ssm::max_rank];
        if (!of_the_model(*e)) {
            ++others;
            continue;
        }
        const uint64_t    count = uint64_t(ssm::shape_of(*e, dims));
        const std::string name(e->name, size_t(e->name_len));
        const auto        ends = [&](const std::string& with) {
            return integer && name.size() > with.size() &&
                   name.compare(name.size() - with.size(), with.size(), with) == 0;
        };
        if (ends(".q4")) parameters += 2 * count; // two codes a byte
        else if (!ends(".scale") && !ends(".sub")) parameters += count;
        total += e->end - e->begin;
        bytes[e->dtype] += e->end - e->begin;
    }
    number("parameters", parameters);
    for (int t = 0; t < 256; ++t)
        if (bytes[t] > 0) number((std::string("bytes of ") + ssm::dtype_name(uint8_t(t))).c_str(), bytes[t]);
    if (integer && parameters > 0) { // of its parameters in float
        char ratio[32];
        std::snprintf(ratio, sizeof ratio, "%.3f",
                      static_cast<double>(total) / (4.0 * static_cast<double>(parameters)));
        line("bytes beside F32", ratio);
    }
    if (others > 0) number("tensors that are not the model's", others);
    number("file bytes", m.blob.bytes);
    number("arena bytes", ssm::arena_bytes(c));
    number("table bytes", ssm::model_bytes(c));
    number("state bytes", ssm::state_bytes(c));
    number("scratch bytes", ssm::scratch_bytes(c));
    number("scratch bytes for a batch of 64", ssm::scratch_bytes(c, 64));
    number("saved state bytes", ssm::saved_bytes(c));
    std::string names;
    for (ssm::Isa i : back_ends()) names += (names.empty() ? "" : ", ") + std::string(ssm::isa_name(i));
    line("back-ends of this CPU", names);
    line("back-end", ssm::isa_name(m.model));
    line("same bits on every back-end", "yes");
    char text[32];
    std::snprintf(text, sizeof text, "%016" PRIx64, m.model.fingerprint);
    line("fingerprint", text);
    for (const char* key : {"format", "format_version", "task", "labels", "sample_rate", "provenance"}) {
        std::string value;
        if (m.metadata(key, &value)) line(key, escape(value, 300, "'\""));
    }
    return finish("info", &out);
}
