// coverage.cpp - decisions that no other test takes both ways: every limit of a config, every key of a model file said
// wrongly, every argument that may not be null. SPDX-License-Identifier: MIT
#include "int_models.hpp"

#include <climits>

using namespace test;
using ssm::Config;
using ssm::Status;

namespace {
// A file with one piece of its header's text replaced, its length made right again. The data stays as it is.
Bytes patched(const Bytes& file, const std::string& from, const std::string& to) {
    uint64_t size = 0;
    for (unsigned k = 0; k < 8; ++k) size |= uint64_t(file[k]) << 8 * k;
    std::string  header(file.begin() + 8, file.begin() + 8 + ptrdiff_t(size));
    const size_t at = header.find(from);
    REQUIRE_MESSAGE(at != std::string::npos, from, " is not in the header");
    header.replace(at, from.size(), to);
    Bytes out;
    for (unsigned k = 0; k < 8; ++k) out.push_back(static_cast<unsigned char>(uint64_t(header.size()) >> 8 * k));
    out.insert(out.end(), header.begin(), header.end());
    out.insert(out.end(), file.begin() + 8 + ptrdiff_t(size), file.end());
    return out;
}
struct Outcome {
    Status      status = Status::ok;
    std::string name, detail;
};
Outcome outcome(const Bytes& file, ssm::LoadOptions options = ssm::LoadOptions()) {
    Bytes        memory(1 << 22, 0xff);
    ssm::Arena   arena{memory.data(), memory.size(), 0};
    ssm::Model   model;
    ssm::Fault   fault;
    const Status s = ssm::load(&model, {file.data(), file.size()}, &arena, options, &fault);
    CHECK((s == Status::ok) == (arena.used > 0)); // all or nothing
    // Nobody to tell: the same verdict.
    arena.used = 0;
    CHECK(ssm::load(&model, {file.data(), file.size()}, &arena, options) == s);
    return {s, fault.name, fault.detail};
}
void refused(const Bytes& file, Status status, const std::string& name) {
    const Outcome o = outcome(file);
    CHECK_MESSAGE(o.status == status, name, ": ", o.name, ": ", o.detail);
    CHECK(o.name == name);
    CHECK((o.status == Status::ok || !o.detail.empty()));
}
Config config_of(const Bytes& file) {
    Bytes  memory(ssm::index_bytes({file.data(), file.size()}));
    Config c;
    REQUIRE(ssm::inspect(&c, {file.data(), file.size()}, memory.data(), memory.size()) == Status::ok);
    return c;
}
Bytes             cell(const char* text) { return random_file(spec(text)); }
const char* const one_of_each[] = {"s4d,d_model=8,n_layer=1,d_state=4,d_input=2,d_output=3",
                                   "mamba1,d_model=8,n_layer=1,d_state=4,d_input=2,d_output=3",
                                   "mamba2,d_model=8,n_layer=1,d_state=4,headdim=8,d_input=2,d_output=3",
                                   "mamba3,d_model=8,n_layer=1,d_state=4,headdim=8,d_input=2,d_output=3"};
void              takes(bool want, const Config& c) { CHECK(ssm::valid(c) == want); }
const char* const with_bank = "s4d,d_model=8,n_layer=1,d_state=4,d_input=16,bands=5,d_output=3,pool=mean";
} // namespace

TEST_CASE("F-07 valid: a config at each of its limits is taken, one past it is not") {
    struct Limit {
        int32_t Config::*number;
        int64_t          least, most; // where the shape allows all between
    };
    const auto hold = [](const Config& good, const std::vector<Limit>& limits) {
        REQUIRE(ssm::valid(good));
        for (const Limit& l : limits) {
            for (const int64_t v : {l.least - 1, l.most + 1, int64_t(INT_MIN), int64_t(INT_MAX)}) {
                if (v < INT_MIN || v > INT_MAX || (v >= l.least && v <= l.most)) continue;
                Config c = good;
                c.*l.number = int32_t(v);
                CHECK_MESSAGE(!ssm::valid(c), "limit ", &l - limits.data(), ": ", v);
            }
            for (const int64_t v : {l.least, l.most}) {
                Config c = good;
                c.*l.number = int32_t(v);
                CHECK_MESSAGE(ssm::valid(c), "limit ", &l - limits.data(), ": ", v);
            }
        }
    };
    const auto enums = [](const Config& good) { // past the last of each
        Config c = good;
        c.arch = ssm::Arch(4), takes(false, c), c = good;
        c.disc = ssm::Disc(2), takes(false, c), c = good;
        c.pool = ssm::Pool(3), takes(false, c), c = good;
        c.norm = ssm::Norm(2), takes(false, c), c = good;
        c.input = ssm::Input(3), takes(false, c);
    };
    const int32_t width = ssm::max_width;
    Config        c = config_of(cell(one_of_each[0]));
    enums(c);
    hold(c, {{&Config::n_layers, 1, ssm::max_layers},
             {&Config::d_input, 1, width},
             {&Config::d_output, 1, width},
             {&Config::d_model, 1, width},
             {&Config::d_state, 2, ssm::max_d_state},
             {&Config::n_bands, 0, 0}});
    c.d_state = 5, takes(false, c), c.d_state = 4;
    c.input = ssm::Input::vectors, takes(false, c), c.input = ssm::Input::features;
    c.has_head = false, takes(false, c), c.has_head = true;
    for (const float clip : {-1.0f, -0.0f, float(INFINITY), float(NAN)}) c.state_clip = clip, takes(false, c);
    c.state_clip = 3e38f, takes(true, c);

    Config bank = config_of(cell(with_bank));
    hold(bank, {{&Config::n_bands, 0, 16},
                {&Config::band_shift, 0, 15},
                {&Config::band_leak, 1, 15},
                {&Config::band_mean, 0, 65536},
                {&Config::band_floor, 0, 1 << 22},
                {&Config::band_fall, 0, 1 << 22},
                {&Config::band_gate, 0, 1 << 22},
                {&Config::band_quiet, 0, 1 << 22},
                {&Config::band_forget, 0, 15},
                {&Config::d_input, 8, ssm::max_frame}});
    bank.d_input = 18, takes(false, bank);
    bank.d_input = 128, bank.n_bands = ssm::max_bands, takes(true, bank);
    bank.n_bands = ssm::max_bands + 1, takes(false, bank);
    Config other = config_of(cell(one_of_each[1]));
    other.d_input = 16, other.n_bands = 4, other.band_leak = 1, takes(false, other);

    c = config_of(cell(one_of_each[1]));
    enums(c);
    hold(c, {{&Config::d_state, 1, ssm::max_d_state / 2},
             {&Config::d_conv, 1, ssm::max_d_conv},
             {&Config::dt_rank, 1, width},
             {&Config::d_inner, 1, 4 * width},
             {&Config::mlp_hidden, 0, 4 * width}});
    c = config_of(cell(one_of_each[2]));
    hold(c, {{&Config::d_conv, 1, ssm::max_d_conv},
             {&Config::nheads, c.nheads, c.nheads},
             {&Config::ngroups, 1, c.nheads},
             {&Config::headdim, 8, 8},
             {&Config::d_ssm, c.d_ssm, c.d_ssm}});
    c.nheads = 1, c.headdim = width + 1, c.d_inner = c.d_ssm = width + 1, takes(false, c);
    c.ngroups = c.headdim = c.d_ssm = 1, takes(true, c);
    c = config_of(cell(one_of_each[3]));
    hold(c, {{&Config::mimo_rank, 1, 1}, {&Config::rope_angles, 1, c.d_state / 2}, {&Config::headdim, 8, 8}});
    Config wild = c;
    wild.d_conv = 65, takes(false, wild); // though no Mamba-3 has one
    c.is_mimo = true;
    hold(c, {{&Config::mimo_rank, 1, ssm::max_mimo_rank}});
    c.d_state = 5, takes(false, c), c.d_state = 4;
    for (const float floor : {-1.0f, float(INFINITY), float(NAN)}) c.A_floor = floor, takes(false, c);
    c.A_floor = 0, c.ngroups = 2, c.nheads = 3, takes(false, c); // groups that do not divide the heads

    c = config_of(cell("mamba3,d_model=8,n_layer=1,d_state=4,headdim=8,vocab_size=11"));
    hold(c,
         {{&Config::vocab_size, 1, ssm::max_vocab}, {&Config::d_output, 1, ssm::max_vocab}, {&Config::d_input, 8, 8}});
    c = config_of(cell("mamba3,d_model=8,n_layer=1,d_state=4,headdim=8"));
    hold(c, {{&Config::d_input, 8, 8}, {&Config::d_output, 8, 8}}); // vectors in, the norm's output out
    c.bare_mixer = true, takes(true, c);
    c.n_layers = 2, takes(false, c), c.n_layers = 1, c.mlp_hidden = 8, takes(false, c);

    for (const char* text : one_of_each) {
        c = config_of(int_model(spec(text)));
        hold(c, {{&Config::clip_q25, 1, INT_MAX}, {&Config::A_floor_q26, 0, INT_MAX}});
        for (const int32_t bits : {0, 7, 9, 32}) c.act_bits = bits, takes(false, c);
        c.act_bits = 16, takes(true, c);
        c.state = ssm::StateType(3), takes(false, c);
        c.state = ssm::StateType::i16rowexp, takes(c.arch != ssm::Arch::s4d, c);
        c.state = ssm::StateType::i32;
        if (c.arch != ssm::Arch::s4d) {
            c.bare_mixer = true, takes(false, c), c.bare_mixer = false;
            hold(c, {{&Config::d_inner, c.arch == ssm::Arch::mamba1 ? 1 : c.d_inner,
                      c.arch == ssm::Arch::mamba3 ? c.d_inner : width},
                     {&Config::mlp_hidden, 0, width}});
            continue;
        }
        hold(c, {{&Config::b_frac, 10, 31}});
        c.has_gaps = true; // 30 + g_frac - b_frac: 1 to 51
        hold(c, {{&Config::g_frac, c.b_frac - 29, c.b_frac + 21}});
    }
}

TEST_CASE("valid: a config with fraction bits near the ends of int overflows nothing") { // seen under UBSan alone
    Config c = config_of(int_model(spec(one_of_each[0])));
    c.has_gaps = true;
    for (const int32_t g : {INT_MIN, INT_MIN + 31, INT_MAX - 29, INT_MAX}) c.g_frac = g, takes(false, c);
}

TEST_CASE("F-06 a model file that says one thing wrongly is refused by the name of it") {
    const Bytes s4d = s4d_model(S4dSpec()).file();
    const auto  key = [](const Bytes& file, const char* from, const char* to, const char* name,
                        Status s = Status::bad_config) { refused(patched(file, from, to), s, name); };
    key(s4d, "\"prenorm\":\"false\"", "\"prenorm\":\"maybe\"", "prenorm");
    key(s4d, "\"prenorm\"", "\"before\"", "prenorm");
    key(s4d, "\"pool\":\"mean\"", "\"pool\":\"most\"", "pool");
    key(s4d, "\"pool\"", "\"poll\"", "pool");
    key(s4d, "\"disc\":\"zoh\"", "\"disc\":\"zero\"", "disc");
    key(s4d, "\"disc\"", "\"disk\"", "disc");
    for (const char* clip :
         {"\"clip\":\"\"", "\"clip\":\"-1\"", "\"clip\":\"1e39\"", "\"clip\":\"5 \"", "\"clip\":\"nan\""})
        key(s4d, "\"clip\":\"0\"", clip, "clip");
    for (const char* name : {"d_model", "d_state", "n_layers", "d_input", "d_output"}) {
        const std::string other = "\"clip\":\"0\",\"" + std::string(name) + "\":\"";
        for (const char* value : {"9999\"", "12x\"", "-3\"", "\""})
            key(s4d, "\"clip\":\"0\"", (other + value).c_str(), name);
    }
    key(s4d, "\"encoder.weight\":{\"dtype\":\"F32\",\"shape\":[12,3]",
        "\"encoder.weight\":{\"dtype\":\"F32\",\"shape\":[12,3,1]", "encoder.weight", Status::bad_shape);
    key(s4d, "\"decoder.weight\":{\"dtype\":\"F32\",\"shape\":[2,12]",
        "\"decoder.weight\":{\"dtype\":\"F32\",\"shape\":[24]", "decoder.weight", Status::bad_shape);
    key(s4d, "\"decoder.weight\"", "\"decoder.wait\"", "decoder.weight", Status::missing_tensor);
    key(s4d, "\"encoder.weight\":{\"dtype\":\"F32\",\"shape\":[12,3]",
        "\"encoder.weight\":{\"dtype\":\"F32\",\"shape\":[36,1]", "encoder.bias",
        Status::bad_shape); // another width than every other tensor has
    key(s4d, "\"s4_layers.0.kernel.A_imag\":{\"dtype\":\"F32\",\"shape\":[12,3]",
        "\"s4_layers.0.kernel.A_imag\":{\"dtype\":\"F32\",\"shape\":[36]", "s4_layers.0.kernel.A_imag",
        Status::bad_shape);

    { // the other spelling: sets of modes that channels share, more of them than channels; steps of another count
        S4dSpec other;
        other.full = true;
        const Bytes full = s4d_model(other).file();
        CHECK(outcome(full).status == Status::ok);
        key(full, "\"s4_layers.0.layer.kernel.A_real\":{\"dtype\":\"F32\",\"shape\":[12,3]",
            "\"s4_layers.0.layer.kernel.A_real\":{\"dtype\":\"F32\",\"shape\":[3,12]",
            "s4_layers.0.layer.kernel.A_real", Status::bad_shape);
        Builder b = s4d_model(other);
        b.add("s4_layers.1.layer.kernel.A_real", {13, 3}, std::vector<float>(39, -1.0f));
        refused(b.file(), Status::bad_shape, "s4_layers.1.layer.kernel.A_real");
        b = s4d_model(other), b.add("s4_layers.1.layer.kernel.inv_dt", {12, 2}, std::vector<float>(24, -1.0f));
        refused(b.file(), Status::bad_shape, "s4_layers.1.layer.kernel.inv_dt");
        b = s4d_model(other), b.tensors.erase("s4_layers.1.layer.kernel.inv_dt"),
        b.tensors.erase("s4_layers.1.layer.kernel.A_real");
        CHECK(outcome(b.file()).status == Status::missing_tensor);
        b = s4d_model(other), b.tensors.erase("s4_layers.1.layer.D");
        CHECK(outcome(b.file()).status == Status::extra_tensor); // all of that layer is
        // A weight of the input, B / A, that no float can hold.
        for (const float size : {3e38f, -3e38f}) {
            b = s4d_model(other), b.add("s4_layers.0.layer.kernel.B", {1, 12, 3, 2}, std::vector<float>(72, size));
            b.add("s4_layers.0.layer.kernel.A_real", {12, 3}, std::vector<float>(36, -20.0f));
            b.add("s4_layers.0.layer.kernel.A_imag", {12, 3}, std::vector<float>(36, 0.0f));
            refused(b.file(), Status::bad_value, "s4_layers.0.layer.kernel.A_real");
        }
    }
    { // numbers at the ends of what a discretisation takes
        const struct {
            const char* tensor;
            float       value;
            Status      status;
        } ends[] = {{"kernel.log_dt", 60.5f, Status::bad_value},
                    {"kernel.log_dt", -60.5f, Status::bad_value},
                    {"kernel.log_A_real", 60.5f, Status::bad_value},
                    {"kernel.log_A_real", -60.5f, Status::bad_value},
                    {"kernel.log_dt", -60.0f, Status::ok},
                    {"kernel.log_A_real", -60.0f, Status::ok},
                    {"kernel.log_dt", 60.0f, Status::ok}};
        for (const auto& e : ends) {
            Builder           b = s4d_model(S4dSpec());
            const std::string name = std::string("s4_layers.1.") + e.tensor;
            const bool        steps = e.tensor[7] == 'l' && e.tensor[11] == 'd';
            b.add(name, steps ? std::vector<int64_t>{12} : std::vector<int64_t>{12, 3},
                  std::vector<float>(steps ? 12 : 36, e.value));
            if (e.value == 60.0f) // and A small: what it turns and decays by in a step has limits of its own
                b.add("s4_layers.1.kernel.A_imag", {12, 3}, std::vector<float>(36, 0.0f)),
                    b.add("s4_layers.1.kernel.log_A_real", {12, 3}, std::vector<float>(36, -60.0f));
            refused(b.file(), e.status, e.status == Status::ok ? "" : name);
        }
        for (const float turn : {3e38f, -3e38f}) {
            Builder b = s4d_model(S4dSpec());
            b.add("s4_layers.1.kernel.A_imag", {12, 3}, std::vector<float>(36, turn));
            refused(b.file(), Status::bad_value, "s4_layers.1.kernel.A_imag");
        }
    }
    { // sound
        const Bytes bank = cell(with_bank);
        key(bank, "\"d_input\":\"16\"", "\"d_input\":\"18\"", "d_input");
        key(bank, "\"d_input\":\"16\"", "\"d_input\":\"4\"", "d_input");
        key(bank, "\"d_input\":\"16\"", "\"d_input\":\"4097\"", "d_input");
        key(bank, "\"d_input\":\"16\"", "\"d_input\":\"3\"", "d_input");
        key(bank, "\"d_input\":\"16\"", "\"d_input\":\"x\"", "d_input");
        key(bank, "\"d_input\"", "\"d_in\"", "d_input");
        key(bank, "\"frontend.poles\"", "\"frontend.holes\"", "d_input"); // 16 features then
    }
}

TEST_CASE("F-06 a Mamba file that says one thing wrongly is refused by the name of it") {
    const Bytes m1 = cell(one_of_each[1]), m2 = cell(one_of_each[2]), m3 = cell(one_of_each[3]);
    const Bytes mimo = cell("mamba3,d_model=8,n_layer=1,d_state=4,headdim=8,mimo_rank=2,d_input=2,d_output=3");
    const Bytes words = cell("mamba3,d_model=8,n_layer=1,d_state=4,headdim=8,vocab_size=11");
    // One more key of metadata, in front of the others.
    const auto more = [](const Bytes& file, const std::string& key, const std::string& value) {
        return patched(file, "\"__metadata__\":{", "\"__metadata__\":{\"" + key + "\":\"" + value + "\",");
    };
    for (const Bytes& file : {m1, m2, m3}) {
        CHECK(outcome(file).status == Status::ok);
        CHECK(outcome(more(file, "attn_layer_idx", "[]")).status == Status::ok);
        refused(more(file, "attn_layer_idx", "[1]"), Status::bad_config, "attn_layer_idx");
        refused(more(file, "layer", "Mamba9"), Status::bad_config, "layer");
        refused(more(file, "norm", "batch"), Status::bad_config, "norm");
        refused(more(file, "rms_norm", "false"), Status::bad_config, "rms_norm");
        refused(more(file, "rms_norm", "maybe"), Status::bad_config, "rms_norm");
    }
    refused(patched(m1, "layers.0.mixer.A_log", "layers.0.mixer.A_lag"), Status::bad_config, "");
    refused(patched(m1, "layers.0.mixer.out_proj.weight", "layers.0.mixer.out.weight"), Status::missing_tensor,
            "layers.0.mixer.out_proj.weight");
    refused(patched(m2, "\"d_state\":\"4\"", "\"d_state\":\"0\""), Status::bad_config, "d_state");
    refused(patched(m2, "\"d_state\":\"4\"", "\"d_state\":\"x\""), Status::bad_config, "d_state");
    refused(patched(m2, "\"d_state\":\"4\"", "\"d_state\":\"4294967300\""), Status::bad_config, "d_state");
    refused(more(patched(m2, "\"ngroups\"", "\"ngroops\""), "ngroups", "0"), Status::bad_config, "d_state");
    refused(patched(m2, "\"norm_before_gate\":\"false\"", "\"norm_before_gate\":\"x\""), Status::bad_config,
            "norm_before_gate");
    refused(more(m3, "rope_fraction", "0.25"), Status::bad_config, "rope_fraction");
    refused(more(m3, "rope_fraction", "0.5x"), Status::bad_config, "rope_fraction");
    refused(more(patched(m3, "\"rope_angles\"", "\"rope_angels\""), "rope_angles", "0"), Status::bad_config,
            "rope_angles");
    refused(more(patched(m3, "\"rope_angles\"", "\"rope_angels\""), "rope_angles", "3"), Status::bad_config,
            "rope_angles");
    refused(more(patched(m3, "\"rope_angles\"", "\"rope_angels\""), "rope_angles", "-1"), Status::bad_config,
            "rope_angles");
    for (const char* floor : {"-1", "1e39", "x", "1e-4y"})
        refused(more(patched(m3, "\"a_floor\"", "\"a_flour\""), "a_floor", floor), Status::bad_config, "a_floor");
    refused(more(mimo, "mimo_rank", "3"), Status::bad_config, "mimo_rank");
    for (const char* size : {"0", "17", "x"})
        refused(patched(words, "\"vocab_size\":\"11\"", ("\"vocab_size\":\"" + std::string(size) + "\"").c_str()),
                Status::bad_config, "vocab_size");
    refused(patched(m3, "\"pool\":\"none\"", "\"pool\":\"sum\""), Status::bad_config, "pool");
    // Only the default is there, and only a number.
    ssm::LoadOptions soft;
    soft.softplus_A = true;
    CHECK(outcome(m3, soft).status == Status::ok);
    CHECK(outcome(m1, soft).status == Status::unsupported);
    CHECK(outcome(int_model(spec(one_of_each[3])), soft).status == Status::unsupported);
    const Config     expected = config_of(m3), another = config_of(m2);
    ssm::LoadOptions expect;
    expect.expect = &expected;
    CHECK(outcome(m3, expect).status == Status::ok);
    expect.expect = &another;
    CHECK(outcome(m3, expect).status == Status::config_mismatch);
    ssm::LoadOptions trust; // values are not looked at
    trust.check_values = false;
    for (const char* text : one_of_each) {
        CHECK(outcome(cell(text), trust).status == Status::ok);
        CHECK(outcome(int_model(spec(text)), trust).status == Status::ok);
    }
}

TEST_CASE("an argument that is null, of another model or past the end is refused, and nothing changes") {
    for (const bool integer : {false, true}) {
        const char*          text = "mamba3,d_model=8,n_layer=1,d_state=4,headdim=8,vocab_size=11";
        Loaded               m(integer ? int_model(spec(text)) : cell(text));
        const ssm::Model     none;
        ssm::State           no_state;
        std::vector<float>   x(8), y(11), part(4096);
        std::vector<int32_t> xq(8), yq(11), whole(4096);
        ssm::Arena           empty{m.arena_memory.data(), 8, 0}, over{m.arena_memory.data(), 8, 9},
            no_memory{nullptr, 1 << 20, 0};
        ssm::State   s;
        ssm::Scratch w;
        CHECK(ssm::make_state(nullptr, m.model, &empty) == Status::bad_argument);
        CHECK(ssm::make_state(&s, m.model, nullptr) == Status::bad_argument);
        CHECK(ssm::make_state(&s, none, &empty) == Status::bad_argument);
        for (ssm::Arena* a : {&empty, &over, &no_memory}) {
            CHECK(ssm::make_state(&s, m.model, a) == Status::arena_too_small);
            CHECK(ssm::make_scratch(&w, m.model, 1, a) == Status::arena_too_small);
        }
        CHECK(ssm::make_scratch(nullptr, m.model, 1, &empty) == Status::bad_argument);
        CHECK(ssm::make_scratch(&w, m.model, 1, nullptr) == Status::bad_argument);
        CHECK(ssm::make_scratch(&w, none, 1, &empty) == Status::bad_argument);
        for (const int32_t batch : {0, -1, ssm::max_batch + 1})
            CHECK(ssm::make_scratch(&w, m.model, batch, &empty) == Status::bad_argument);
        CHECK((s.data == nullptr && w.data == nullptr));

        CHECK(ssm::embed(none, 0, x.data()) == Status::bad_argument);
        CHECK(ssm::embed(m.model, 0, nullptr) == Status::bad_argument);
        for (const int32_t token : {-1, 11, INT_MAX}) {
            CHECK(ssm::embed(m.model, token, x.data()) != Status::ok);
            CHECK(ssm::embed_q16(m.model, token, xq.data()) != Status::ok);
        }
        CHECK(ssm::embed(m.model, 3, x.data()) == Status::ok);
        CHECK(ssm::embed_q16(m.model, 3, xq.data()) == (integer ? Status::ok : Status::bad_argument));
        if (integer)
            for (size_t k = 0; k < 8; ++k) CHECK(x[k] == ssm::from_q16(xq[k])); // exactly the same numbers

        // A call through every argument there is.
        const auto before = state_of(m);
        CHECK(ssm::step(none, &m.state, &m.scratch, x.data(), y.data()) == Status::bad_argument);
        CHECK(ssm::step(m.model, nullptr, &m.scratch, x.data(), y.data()) == Status::bad_argument);
        CHECK(ssm::step(m.model, &no_state, &m.scratch, x.data(), y.data()) == Status::bad_argument);
        CHECK(ssm::step(m.model, &m.state, nullptr, x.data(), y.data()) == Status::bad_argument);
        CHECK(ssm::step(m.model, &m.state, &w, x.data(), y.data()) == Status::bad_argument);
        CHECK(ssm::step(m.model, &m.state, &m.scratch, nullptr, y.data()) == Status::bad_argument);
        CHECK(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), -1, y.data()) == Status::bad_argument);
        CHECK(ssm::prefill(m.model, &m.state, &m.scratch, nullptr, 0, y.data()) == Status::ok);
        ssm::State short_state = m.state;
        short_state.bytes -= 1;
        CHECK(ssm::step(m.model, &short_state, &m.scratch, x.data(), y.data()) == Status::bad_argument);
        if (!integer) CHECK(ssm::step_q16(m.model, &m.state, &m.scratch, xq.data(), yq.data()) != Status::ok);
        else
            for (const int32_t dt : {0, -1, INT_MIN})
                CHECK(ssm::step_q16(m.model, &m.state, &m.scratch, xq.data(), yq.data(), dt) == Status::bad_input);
        CHECK(state_of(m) == before);

        // Reading, writing, saving, starting again.
        ssm::reset(m.model, nullptr), ssm::reset(m.model, &no_state);
        CHECK(ssm::steps_of(m.model, no_state) == 0);
        CHECK(!ssm::clipped(m.model, no_state));
        const ssm::Part all[] = {ssm::Part::ssm_state, ssm::Part::conv_state, ssm::Part::angle_state,
                                 ssm::Part::k_state,   ssm::Part::v_state,    ssm::Part::exponents,
                                 ssm::Part::pool};
        for (const ssm::Part p : all)
            for (const int32_t layer : {-1, 1, INT_MAX}) {
                CHECK(ssm::get_state(m.model, m.state, layer, p, part.data()) == 0);
                CHECK(ssm::get_state_int(m.model, m.state, layer, p, whole.data()) == 0);
                CHECK(!ssm::set_state(m.model, &m.state, layer, p, part.data(), 1));
            }
        CHECK((ssm::get_state(m.model, m.state, 0, ssm::Part::ssm_state, nullptr) > 0) == !integer);
        CHECK((ssm::get_state_int(m.model, m.state, 0, ssm::Part::ssm_state, nullptr) > 0) == integer);
        CHECK(ssm::get_state(m.model, no_state, 0, ssm::Part::ssm_state, nullptr) == 0);
        CHECK(ssm::get_state_int(m.model, no_state, 0, ssm::Part::ssm_state, nullptr) == 0);
        const int32_t count = ssm::get_state(m.model, m.state, 0, ssm::Part::ssm_state, nullptr);
        CHECK(!ssm::set_state(m.model, nullptr, 0, ssm::Part::ssm_state, part.data(), count));
        CHECK(!ssm::set_state(m.model, &m.state, 0, ssm::Part::ssm_state, nullptr, count));
        CHECK(!ssm::set_state(m.model, &m.state, 0, ssm::Part::ssm_state, part.data(), 0));
        CHECK(!ssm::set_state(m.model, &m.state, 0, ssm::Part::ssm_state, part.data(), count + 1));
        CHECK(!ssm::set_state(m.model, &no_state, 0, ssm::Part::ssm_state, part.data(), count));

        const size_t bytes = ssm::saved_bytes(m.config);
        Bytes        saved(bytes + 8);
        CHECK(ssm::save(m.model, m.state, nullptr, 0) == bytes);
        CHECK(ssm::save(m.model, m.state, saved.data(), bytes - 1) == 0);
        CHECK(ssm::save(none, m.state, saved.data(), bytes) == 0);
        CHECK(ssm::save(m.model, no_state, saved.data(), bytes) == 0);
        CHECK(ssm::save(m.model, m.state, saved.data(), bytes) == bytes);
        CHECK(ssm::restore(m.model, nullptr, saved.data(), bytes) == Status::bad_argument);
        CHECK(ssm::restore(m.model, &m.state, nullptr, bytes) == Status::bad_argument);
        CHECK(ssm::restore(none, &m.state, saved.data(), bytes) == Status::bad_argument);
        CHECK(ssm::restore(m.model, &no_state, saved.data(), bytes) == Status::bad_argument);
        CHECK(ssm::restore(m.model, &m.state, saved.data(), bytes + 1) == Status::bad_state);
        CHECK(ssm::restore(m.model, &m.state, saved.data(), bytes) == Status::ok);
        CHECK(state_of(m) == before);

        CHECK(std::string(ssm::isa_name(none)) == "none");
        CHECK(ssm::isa_name(ssm::Isa(200)) == nullptr);
        CHECK(!ssm::isa_runs_here(ssm::Isa(200)));
        CHECK(ssm::inspect(nullptr, m.blob(), saved.data(), saved.size()) == Status::bad_argument);
        ssm::Arena a{saved.data(), saved.size(), 0}, past{saved.data(), 8, 9}, nowhere{nullptr, 8, 0};
        ssm::Model out;
        CHECK(ssm::load(nullptr, m.blob(), &a) == Status::bad_argument);
        CHECK(ssm::load(&out, m.blob(), nullptr) == Status::bad_argument);
        CHECK(ssm::load(&out, m.blob(), &past) == Status::bad_argument);
        CHECK(ssm::load(&out, m.blob(), &nowhere) == Status::bad_argument);
        ssm::LoadOptions elsewhere;
        elsewhere.isa = ssm::Isa::neon;
        if (!ssm::isa_runs_here(ssm::Isa::neon)) CHECK(ssm::load(&out, m.blob(), &a, elsewhere) == Status::unsupported);
    }
    CHECK(std::string(ssm::message(Status::gpu)) == "the GPU cannot do it");
    CHECK(std::string(ssm::message(Status(200))) == "unknown status");
}

#if defined(__x86_64__) && !defined(SSM_NO_SIMD)
TEST_CASE("the back-ends that run here are those the processor has, as the compiler's library sees it") {
    const bool avx2 = __builtin_cpu_supports("avx2"); // and F16C, without which none was made
    CHECK(ssm::isa_runs_here(ssm::Isa::avx2) == avx2);
    CHECK(ssm::isa_runs_here(ssm::Isa::avx512) ==
          (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni")));
#if !defined(__clang__) // which does not know this one
    CHECK(ssm::isa_runs_here(ssm::Isa::avxvnni) == (avx2 && __builtin_cpu_supports("avxvnni")));
#endif
}
#endif

TEST_CASE("a traced step gives the bits of one that is not, and every number of a Mamba-3 cell is seen once") {
    struct Seen {
        std::map<std::string, int32_t> numbers;
        std::vector<float>             k, angle;
    };
    for (const char* text : {one_of_each[1], one_of_each[2], one_of_each[3],
                             "mamba3,d_model=40,n_layer=1,d_state=4,headdim=8,d_input=2,d_output=3"}) { // ten heads
        Loaded             m(cell(text));
        const Config&      c = m.config;
        OwnState           plain(m.model, m.state);
        std::vector<float> y(size_t(c.d_output)), traced(y);
        const float        x[2] = {0.5f, -1.0f};
        REQUIRE(ssm::step(m.model, &plain.state, &m.scratch, x, y.data()) == Status::ok);
        Seen       seen;
        ssm::Trace trace;
        trace.user = &seen;
        trace.see = [](void* user, const char* stage, int32_t layer, int32_t row, const float* v, int32_t n) {
            CHECK((layer <= 1 && row == 0)); // the last norm is of no layer
            const std::string is = stage;
            Seen* const       to = static_cast<Seen*>(user);
            to->numbers[is] += n;
            if (is == "k" || is == "angle") {
                std::vector<float>& all = is == "k" ? to->k : to->angle;
                all.insert(all.end(), v, v + n);
            }
            for (int32_t i = 0; i < n; ++i) CHECK(std::isfinite(v[i]));
        };
        m.scratch.trace = &trace;
        REQUIRE(ssm::step(m.model, &m.state, &m.scratch, x, traced.data()) == Status::ok);
        CHECK(same_bits(y, traced));
        CHECK(state_of(m) == plain.bytes);
        if (c.arch != ssm::Arch::mamba3) {
            const int32_t C = c.arch == ssm::Arch::mamba1 ? c.d_inner : c.d_ssm + 2 * c.ngroups * c.d_state;
            CHECK(ssm::get_state(m.model, m.state, 0, ssm::Part::conv_state, nullptr) == C * c.d_conv);
            continue;
        }
        const int32_t H = c.nheads, HN = H * c.d_state;
        for (const char* stage : {"dt", "lambda", "alpha", "beta", "gamma", "A"}) CHECK(seen.numbers[stage] == H);
        CHECK(seen.numbers["angle"] == H * c.rope_angles);
        for (const char* stage : {"B_biased", "C_biased", "k", "q"}) CHECK(seen.numbers[stage] == HN);
        std::vector<float> k(size_t(HN), NAN),
            angle(size_t(H * c.rope_angles), NAN); // what the step leaves for the next
        REQUIRE(ssm::get_state(m.model, m.state, 0, ssm::Part::k_state, k.data()) == HN);
        REQUIRE(ssm::get_state(m.model, m.state, 0, ssm::Part::angle_state, angle.data()) == H * c.rope_angles);
        CHECK(same_bits(seen.k, k));
        CHECK(same_bits(seen.angle, angle));
    }
}

TEST_CASE("a traced step of integers gives the bits of one that is not, and every number of an S4D cell is seen once") {
    Loaded               m(int_model(spec(one_of_each[0])));
    OwnState             plain(m.model, m.state);
    std::vector<int32_t> y(3), traced(3);
    const int32_t        x[2] = {30000, -70000}, H = m.config.d_model;
    REQUIRE(ssm::step_q16(m.model, &plain.state, &m.scratch, x, y.data()) == Status::ok);
    std::map<std::string, int32_t> seen;
    ssm::Trace                     trace;
    trace.user = &seen;
    trace.see_int = [](void* user, const char* stage, int32_t layer, int32_t row, const int32_t*, int32_t n) {
        CHECK((layer == 0 && row == 0));
        (*static_cast<std::map<std::string, int32_t>*>(user))[stage] += n;
    };
    m.scratch.trace = &trace;
    REQUIRE(ssm::step_q16(m.model, &m.state, &m.scratch, x, traced.data()) == Status::ok);
    CHECK(y == traced);
    CHECK(state_of(m) == plain.bytes);
    for (const char* stage : {"u", "s", "g", "block"}) CHECK_MESSAGE(seen[stage] == H, std::string(stage));
    CHECK(seen["v"] == 2 * H);
}

TEST_CASE("the state of an S4D model is read as it was written, and goes on from there") {
    Loaded       m(s4d_model(S4dSpec()).file());
    const float  x[3] = {1.0f, -0.5f, 0.25f};
    float        y[2], again[2];
    const size_t modes = 12 * 3 * 2;
    REQUIRE(ssm::step(m.model, &m.state, &m.scratch, x, y) == Status::ok);
    OwnState other(m.model);
    ssm::reset(m.model, &other.state);
    for (int32_t layer = 0; layer < 2; ++layer) {
        const std::vector<float> h = part_of(m.model, m.state, layer, ssm::Part::ssm_state);
        REQUIRE(h.size() == modes);
        CHECK(h != std::vector<float>(modes, 0.0f));
        CHECK(ssm::set_state(m.model, &other.state, layer, ssm::Part::ssm_state, h.data(), int32_t(modes)));
        CHECK(same_bits(part_of(m.model, other.state, layer, ssm::Part::ssm_state), h));
        std::vector<float> bad = h;
        bad[modes - 1] = float(NAN);
        CHECK(!ssm::set_state(m.model, &other.state, layer, ssm::Part::ssm_state, bad.data(), int32_t(modes)));
        CHECK(same_bits(part_of(m.model, other.state, layer, ssm::Part::ssm_state), h));
    }
    REQUIRE(ssm::step_batch(m.model, m.state, &m.scratch, x, 1, y) == Status::ok);
    REQUIRE(ssm::step_batch(m.model, other.state, &m.scratch, x, 1, again) == Status::ok);
    CHECK(y[0] != again[0]); // without the mean of the step before
}

TEST_CASE("F-05 an arena of the bytes it asks for holds a Mamba-1 or Mamba-2 with every bias and norm there may be") {
    for (const char* text : {"mamba1,d_model=8,n_layer=6,d_state=4,d_input=2,d_output=3,mlp_hidden=8",
                             "mamba2,d_model=8,n_layer=6,d_state=4,headdim=8,d_input=2,d_output=3,mlp_hidden=8"}) {
        Builder      b = parts_of_file(cell(text));
        const Config c = config_of(cell(text));
        const auto   zeros = [&](const std::string& name, int64_t n) {
            b.add(name, {n}, std::vector<float>(size_t(n), 0.0f));
        };
        for (int32_t i = 0; i < c.n_layers; ++i) {
            const std::string layer = "layers." + std::to_string(i) + ".", mixer = layer + "mixer.";
            zeros(layer + "norm.bias", c.d_model), zeros(layer + "norm2.bias", c.d_model);
            zeros(mixer + "in_proj.bias", b.tensors.at(mixer + "in_proj.weight").shape[0]);
            zeros(mixer + "out_proj.bias", c.d_model);
            zeros(mixer + "conv1d.bias", b.tensors.at(mixer + "conv1d.weight").shape[0]);
            if (c.arch == ssm::Arch::mamba2) zeros(mixer + "norm.weight", c.d_ssm);
        }
        zeros("norm_f.bias", c.d_model);
        b.metadata.erase("norm"), b.metadata.erase("rms_norm");
        const Loaded m(b.file(), 1);
        CHECK(m.config.norm == ssm::Norm::layer);
    }
}

TEST_CASE("F-07 more layers than the limit, a width of 0 or past it, heads that do not divide: refused by name") {
    S4dSpec tiny;
    tiny.H = 1, tiny.n = 1, tiny.layers = ssm::max_layers + 1;
    refused(s4d_model(tiny).file(), Status::bad_config, "n_layers");
    tiny.layers = ssm::max_layers;
    CHECK(outcome(s4d_model(tiny).file()).status == Status::ok);
    for (const int64_t inputs : {int64_t(0), int64_t(ssm::max_width) + 1}) {
        Builder b = s4d_model(S4dSpec());
        b.add("encoder.weight", {12, inputs}, std::vector<float>(size_t(12 * inputs), 0.5f));
        refused(b.file(), Status::bad_shape, "encoder.weight");
    }
    const Bytes m3 = int_model(spec(one_of_each[3]));
    refused(patched(m3, "\"headdim\":\"8\"", "\"headdim\":\"7\""), Status::bad_config, "headdim");
    const Bytes words = int_model(spec("mamba3,d_model=8,n_layer=1,d_state=4,headdim=8,vocab_size=11"));
    refused(patched(patched(words, "\"head\":\"linear\"", "\"head\":\"tied\""), "\"d_output\":\"11\"",
                    "\"d_output\":\"9\""),
            Status::bad_config, "d_output");
    refused(patched(words, "\"head\":\"linear\"", "\"head\":\"none\""), Status::bad_config, "d_output");
}

TEST_CASE("F-07 a Mamba of more layers than the limit is refused by the first layer that is too many") {
    Builder b = parts_of_file(cell("mamba1,d_model=1,d_state=1,dt_rank=1,n_layer=256"));
    CHECK(outcome(b.file()).status == Status::ok);
    const std::string last = "layers.255.";
    const auto        tensors = b.tensors;
    for (const auto& [name, t] : tensors)
        if (name.find(last) == 0) b.tensors["layers.256." + name.substr(last.size())] = t;
    const Outcome o = outcome(b.file());
    CHECK(o.status == Status::extra_tensor);
    CHECK_MESSAGE(o.name.find("layers.256.") == 0, o.name);
}

TEST_CASE("tokens may go in where no head is: the outputs are the last vectors") {
    random_model::Spec tied = spec("mamba1,d_model=8,n_layer=1,d_state=4,vocab_size=11");
    tied.tied = true;
    Builder b = parts_of_file(random_file(tied));
    Loaded  with(b.file());
    b.metadata["head"] = "none";
    Loaded without(b.file());
    CHECK(with.config.d_output == 11);
    CHECK(without.config.d_output == 8);
    std::vector<float> x(8), y(11), z(8);
    REQUIRE(ssm::embed(with.model, 7, x.data()) == Status::ok);
    REQUIRE(ssm::step(with.model, &with.state, &with.scratch, x.data(), y.data()) == Status::ok);
    REQUIRE(ssm::step(without.model, &without.state, &without.scratch, x.data(), z.data()) == Status::ok);
    std::vector<float> row(8);
    for (int32_t token = 0; token < 11; ++token) { // the head is the embedding again
        REQUIRE(ssm::embed(with.model, token, row.data()) == Status::ok);
        double sum = 0;
        for (size_t k = 0; k < 8; ++k) sum += double(row[k]) * double(z[k]);
        CHECK(double(y[size_t(token)]) == doctest::Approx(sum).epsilon(1e-4));
    }
}

TEST_CASE("F-04 an embedding where no tokens are, a scratch of no rows, an arena with an odd end: refused") {
    for (const bool integer : {false, true}) {
        Loaded               m(integer ? int_model(spec(one_of_each[3])) : cell(one_of_each[3]));
        std::vector<float>   x(8), y(3);
        std::vector<int32_t> xq(8);
        CHECK(ssm::embed(m.model, 0, x.data()) == Status::bad_argument);
        CHECK(ssm::embed_q16(m.model, 0, xq.data()) == Status::bad_argument);
        for (const int32_t batch : {0, -1}) {
            ssm::Scratch no_rows = m.scratch;
            no_rows.batch = batch;
            CHECK(ssm::step(m.model, &m.state, &no_rows, x.data(), y.data()) == Status::bad_argument);
        }
        ssm::Arena little{m.arena_memory.data(), m.arena_memory.size(), m.arena_memory.size() - 1};
        ssm::State s;
        CHECK(ssm::make_state(&s, m.model, &little) == Status::arena_too_small);
        CHECK(s.data == nullptr);
        ssm::Arena full{m.arena_memory.data(), m.arena_memory.size(), m.arena_memory.size()};
        ssm::Model other;
        CHECK(ssm::load(&other, m.blob(), &full, {}, nullptr) == Status::arena_too_small);
    }
}

TEST_CASE("the running mean of integers is read from layer 0 alone, and only where there is one") {
    Builder b = golden_parts("14_m3_l2_features_head");
    Loaded  without(b.file());
    b.metadata["pool"] = "mean";
    Loaded               with(b.file());
    const size_t         d = size_t(with.config.d_model);
    const auto           x = random_inputs(3 * size_t(with.config.d_input));
    std::vector<float>   y(size_t(with.config.d_output));
    std::vector<int32_t> pool(2 * d + 1);
    REQUIRE(ssm::prefill(with.model, &with.state, &with.scratch, x.data(), 3, y.data()) == Status::ok);
    REQUIRE(ssm::get_state_int(with.model, with.state, 0, ssm::Part::pool, pool.data()) == int32_t(pool.size()));
    CHECK(pool.back() == 3);
    CHECK(ssm::get_state_int(with.model, with.state, 1, ssm::Part::pool, nullptr) == 0);
    CHECK(ssm::get_state_int(without.model, without.state, 0, ssm::Part::pool, nullptr) == 0);
}

TEST_CASE("P-02 a saved state with a code of -32768 in either half of a word, or one number more, is refused") {
    quantize::Settings settings;
    settings.row_exponents = true;
    Loaded      m(int_model(spec("mamba3,d_model=8,n_layer=1,d_state=4,headdim=8,d_input=2,d_output=3"), settings));
    const float x[2] = {0.5f, -1.0f};
    std::vector<float> y(3);
    REQUIRE(ssm::step(m.model, &m.state, &m.scratch, x, y.data()) == Status::ok);
    Bytes saved(ssm::saved_bytes(m.config));
    REQUIRE(ssm::save(m.model, m.state, saved.data(), saved.size()) == saved.size());
    const auto refusal = [&](Bytes b) {
        ssm::Fault fault;
        repair_checksum(&b);
        const Bytes  before = state_of(m);
        const Status s = ssm::restore(m.model, &m.state, b.data(), b.size(), &fault);
        CHECK((s == Status::ok || state_of(m) == before));
        return s == Status::ok ? std::string() : std::string(fault.detail);
    };
    CHECK(refusal(saved).empty());
    const size_t h =
        ssm::detail::saved_header_bytes + 4 * (ssm::detail::head_words(m.config) + ssm::detail::parts_of(m.config).h);
    for (size_t half : {0u, 2u}) {
        Bytes b = saved;
        b[h + half] = 0, b[h + half + 1] = 0x80;
        CHECK(refusal(b) == "holds a value beyond its format");
        b[h + half] = 1; // -32767
        CHECK(refusal(b).empty());
    }
    Bytes longer = saved;
    longer.resize(saved.size() + 4);
    for (unsigned k = 0; k < 8; ++k) longer[16 + k] = static_cast<unsigned char>(uint64_t(longer.size()) >> 8 * k);
    CHECK(refusal(longer) == "its shape is not this model's");
}

TEST_CASE("P-02 a saved state whose first or last number of h is beyond the clip is refused") {
    Loaded       m(int_model(spec("mamba3,d_model=8,n_layer=1,d_state=4,headdim=8,d_input=2,d_output=3,clip=8")));
    const size_t bytes = ssm::saved_bytes(m.config), h = ssm::detail::parts_of(m.config).h;
    Bytes        saved(bytes);
    CHECK(m.config.clip_q25 == 8 << 25);
    REQUIRE(ssm::save(m.model, m.state, saved.data(), bytes) == bytes);
    for (const size_t word : {h, (bytes - ssm::detail::saved_header_bytes - 4) / 4 - 1})
        for (const int32_t sign : {1, -1})
            for (const int32_t over : {0, 1}) {
                const uint32_t v = static_cast<uint32_t>(sign * (m.config.clip_q25 + over));
                Bytes          b = saved;
                for (unsigned k = 0; k < 4; ++k)
                    b[ssm::detail::saved_header_bytes + 4 * word + k] = static_cast<unsigned char>(v >> 8 * k);
                repair_checksum(&b);
                CHECK(ssm::restore(m.model, &m.state, b.data(), bytes) == (over ? Status::bad_state : Status::ok));
            }
}

TEST_CASE("two configs are the same if every one of their fields is") {
    const Config c = config_of(int_model(spec("mamba2,d_model=8,n_layer=1,d_state=4,headdim=8,d_input=2,d_output=3")));
    CHECK(c == c);
    const auto differs = [&](auto change) {
        Config other = c;
        change(other);
        CHECK(!(other == c));
        CHECK(!(c == other));
    };
    differs([](Config& o) { o.arch = ssm::Arch::mamba1; });
    differs([](Config& o) { o.disc = ssm::Disc::bilinear; });
    differs([](Config& o) { o.pool = ssm::Pool::last; });
    differs([](Config& o) { o.norm = ssm::Norm::layer; });
    differs([](Config& o) { o.input = ssm::Input::tokens; });
    differs([](Config& o) { o.state = ssm::StateType::i16rowexp; });
    for (bool Config::*flag :
         {&Config::prenorm, &Config::has_head, &Config::bare_mixer, &Config::is_mimo, &Config::is_outproj_norm,
          &Config::softplus_A, &Config::rmsnorm, &Config::norm_before_gate, &Config::has_gaps})
        differs([flag](Config& o) { o.*flag = !(o.*flag); });
    differs([](Config& o) { o.A_floor += 0.5f; });
    differs([](Config& o) { o.state_clip += 1.0f; });
}
