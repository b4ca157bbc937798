// hostile_models.cpp - model files that are wrong in one way each: the verdict and every word of the message. Small
// enough tables to be read: a model, what is changed in it, what load() must say. SPDX-License-Identifier: MIT
#include "hostile_models.hpp"
#include "int_models.hpp"
#include "../tools/tool.hpp"

#include <cstdio>
#include <cstdlib>
#include <fstream>

using namespace test;

namespace {

// ---- The models, a letter each; integer models in capitals and digits from golden files

Builder float_model(const std::string& text, bool softer = false) {
    Builder            b;
    random_model::Spec s = spec(text);
    if (softer) s.outproj_norm = true, s.a_activation = "softplus";
    random_model::Maker maker(s, [&](const std::string& name, const std::vector<int64_t>& shape,
                                     const std::vector<float>& v,
                                     const std::string&        dtype) { b.add(name, shape, v, dtype); });
    b.metadata = maker.make();
    return b;
}
Builder model(char letter) {
    S4dSpec s4d;
    s4d.H = 4, s4d.n = 2, s4d.layers = 2, s4d.full = letter == 'f';
    const char* const sound = "s4d,d_model=4,n_layer=1,d_state=4,d_input=16,bands=5,d_output=3,pool=mean";
    switch (letter) {
    case 's': // S4D
    case 'f': // S4D in its full spelling
        return s4d_model(s4d);
    case 'v': // of sound
        return parts_of_file(random_file(spec(sound)));
    case '1': // Mamba-1
        return float_model("mamba1,d_model=8,n_layer=1,d_state=4,d_input=3,d_output=2");
    case '2': // Mamba-2: 2 heads, 16 channels, C of 16 + 2 * 8
        return float_model("mamba2,d_model=8,n_layer=1,d_state=8,headdim=8");
    case '3': // Mamba-3: 2 heads, 2 layers, 4 pairs of which 2 turn
        return float_model("mamba3,d_model=8,n_layer=2,d_state=8,headdim=8,d_input=3,d_output=2");
    case 'm': // Mamba-3, MIMO of rank 2, a norm before its output
        return float_model("mamba3,d_model=8,n_layer=1,d_state=8,headdim=16,mimo_rank=2", true);
    case 't': // Mamba-3 of 11 tokens in 16 rows, with an MLP and LayerNorm
        return float_model("mamba3,d_model=8,n_layer=1,d_state=8,headdim=8,vocab_size=11,norm=layer,mlp_hidden=6");
    case 'S': // integer S4D with gaps
        return golden_parts("05_s4d_w8a8_gap");
    case 'V': // integer, of sound
        return parts_of_file(int_model(spec(sound)));
    case 'M': // integer Mamba-3 with a head
        return golden_parts("14_m3_l2_features_head");
    case 'O': // integer Mamba-3, MIMO
        return golden_parts("12_m3_mimo_r4_rope10_outnorm");
    case 'T': // integer Mamba-3 of tokens
        return golden_parts("17_m3_l2_tokens_mlp_layernorm_tied_softA");
    case '4': // integer Mamba-3 with int4 rows
        return golden_parts("09_m3_siso_w4a8_gates8");
    case 'N': // integer Mamba-2
        return golden_parts("18_m2_w8a8");
    default: // 'K': integer Mamba-1
        return golden_parts("19_m1_w8a8");
    }
}

// ---- Changes, separated by "; ":
//   key=value  -key                   metadata set, taken out
//   !name  +name DTYPE 2,3            a tensor taken out, put in (of zeros)
//   name:DTYPE  name:[2,3]            another dtype or shape, with bytes to match
//   name@5=value                      one number: nan, inf, -inf, a decimal

size_t bytes_of(const std::string& dtype) {
    static const std::map<std::string, size_t> sizes = {{"I16", 2}, {"U16", 2}, {"F16", 2}, {"BF16", 2}, {"I32", 4},
                                                        {"F32", 4}, {"C64", 8}, {"F64", 8}, {"I64", 8}};
    const auto                                 found = sizes.find(dtype);
    return found == sizes.end() ? 1 : found->second;
}
std::vector<int64_t> dimensions(const std::string& text) { // "2,3"; "" is a scalar
    std::vector<int64_t> d;
    for (size_t at = 0; at < text.size(); at = text.find(',', at) == text.npos ? text.size() : text.find(',', at) + 1)
        d.push_back(std::atoll(text.c_str() + at));
    return d;
}
void resize(Builder::Tensor* t) {
    size_t n = bytes_of(t->dtype);
    for (int64_t d : t->shape) n *= size_t(d);
    t->data.resize(n, 0);
}
void put(Builder::Tensor* t, size_t index, const std::string& value) {
    const size_t width = bytes_of(t->dtype);
    REQUIRE(width * (index + 1) <= t->data.size());
    if (t->dtype == "F32") {
        float f = value == "nan" ? NAN : value == "inf" ? HUGE_VALF : value == "-inf" ? -HUGE_VALF : 0.0f;
        if (f == 0.0f) f = std::strtof(value.c_str(), nullptr);
        std::memcpy(&t->data[4 * index], &f, 4);
    } else {
        const int64_t v = std::atoll(value.c_str());
        std::memcpy(&t->data[width * index], &v, width); // these machines are little-endian
    }
}
void change(Builder* b, const std::string& one) {
    const size_t at = one.find('@'), colon = one.find(':'), equals = one.find('=');
    if (one[0] == '-') {
        REQUIRE_MESSAGE(b->metadata.erase(one.substr(1)) == 1, one);
    } else if (one[0] == '!') {
        REQUIRE_MESSAGE(b->tensors.erase(one.substr(1)) == 1, one);
    } else if (one[0] == '+') {
        const size_t    dtype = one.find(' '), shape = one.find(' ', dtype + 1);
        Builder::Tensor t{one.substr(dtype + 1, shape - dtype - 1), dimensions(one.substr(shape + 1)), {}};
        resize(&t), b->tensors[one.substr(1, dtype - 1)] = t;
    } else if (at != one.npos) {
        put(&b->tensors.at(one.substr(0, at)), size_t(std::atoll(one.c_str() + at + 1)), one.substr(equals + 1));
    } else if (equals != one.npos) {
        b->metadata[one.substr(0, equals)] = one.substr(equals + 1);
    } else {
        Builder::Tensor& t = b->tensors.at(one.substr(0, colon));
        if (one[colon + 1] == '[') t.shape = dimensions(one.substr(colon + 2, one.size() - colon - 3));
        else t.dtype = one.substr(colon + 1);
        resize(&t);
    }
}
Bytes changed(char letter, const std::string& text) {
    Builder b = model(letter);
    for (size_t at = 0; at < text.size();) {
        const size_t end = std::min(text.find("; ", at), text.size());
        change(&b, text.substr(at, end - at));
        at = end + 2;
    }
    return b.file();
}

// ---- What load() says

std::string name_of(ssm::Status s) {
    static const char* const names[] = {"ok",         "bad_argument",    "truncated",      "bad_header",
                                        "bad_config", "config_mismatch", "missing_tensor", "extra_tensor",
                                        "bad_shape",  "bad_dtype",       "bad_value",      "arena_too_small",
                                        "bad_state",  "bad_input",       "unsupported",    "io"};
    return names[int(s)];
}
// "ok", or the status and the sentence that the program prints. What F-02, F-05 and ST-24 say holds each time.
std::string verdict(const Bytes& file) {
    static Bytes      room(size_t(1) << 24);
    const ssm::Blob   blob{file.data(), file.size()};
    ssm::Arena        arena{room.data(), room.size(), 64};
    ssm::Model        m;
    ssm::Fault        fault;
    const ssm::Status s = ssm::load(&m, blob, &arena, {}, &fault);
    if (s == ssm::Status::ok) return "ok";
    CHECK(arena.used == 64);
    CHECK(m.kernels == nullptr);
    CHECK(ssm::load(&m, blob, &arena) == s); // without anyone to tell, the same
    const std::string said = tool::describe(s, fault);
    CHECK(said.size() <= 320); // of a line of 400 bytes
    for (char c : said) CHECK(static_cast<unsigned char>(c) >= 0x20);
    return name_of(s) + " " + said;
}

Bytes container(const std::string& header, size_t bytes) {
    Bytes b;
    for (unsigned k = 0; k < 8; ++k) b.push_back(static_cast<unsigned char>(uint64_t(header.size()) >> 8 * k));
    b.insert(b.end(), header.begin(), header.end());
    b.resize(b.size() + bytes, 0x3f);
    return b;
}

// Where SSM_HOSTILE_MODELS names a folder, each file is left there with what must be said of it, for hostile.sh.
void keep(size_t number, const Bytes& file, const std::string& want) {
    const char* folder = std::getenv("SSM_HOSTILE_MODELS");
    if (folder == nullptr) return;
    const std::string path = std::string(folder) + "/" + std::to_string(number);
    std::ofstream(path + ".st", std::ios::binary).write(reinterpret_cast<const char*>(file.data()), long(file.size()));
    std::ofstream(path + ".want") << want << "\n";
}
} // namespace

TEST_CASE("F-01 F-02 F-05 F-06 N-01 N-02 ST-23: hostile model files, each with its verdict and its message") {
    size_t     right = 0, all = 0, good = 0;
    const auto judge = [&](const Bytes& file, const std::string& want, const std::string& what) {
        const std::string got = verdict(file);
        const bool        same =
            want.back() == '*' ? got.compare(0, want.size() - 1, want, 0, want.size() - 1) == 0 : got == want;
        CHECK_MESSAGE(same, what, "\n  got:  ", got, "\n  want: ", want);
        ++all, right += same, good += want == "ok";
        keep(all, file, want);
    };
    for (const HostileModel& r : hostile_models)
        judge(changed(r.letter, r.change), r.want, std::string(1, r.letter) + " " + r.change);
    for (const HostileContainer& c : hostile_containers) judge(container(c.header, c.bytes), c.want, c.header);
    // Lengths in front that lie, and files that hold no more than a part of one.
    const Bytes whole = model('s').file();
    for (const auto& [length, want] : std::vector<std::pair<uint64_t, const char*>>{
             {0, "bad_header the text ends too early at byte 8"},
             {1, "bad_header the text ends too early at byte 9"},
             {whole.size() - 7, "truncated the file ends inside its header: *"},
             {100'000'000, "truncated the file ends inside its header: expected 100000000, got *"},
             {100'000'001,
              "bad_header the header is longer than the format's limit: expected 100000000, got 100000001"},
             {uint64_t(1) << 63, "bad_header the header is longer than the format's limit: *"},
             {UINT64_MAX - 7, "bad_header the header is longer than the format's limit: *"},
             {UINT64_MAX, "bad_header the header is longer than the format's limit: *"}}) {
        Bytes file = whole;
        for (unsigned k = 0; k < 8; ++k) file[k] = static_cast<unsigned char>(length >> 8 * k);
        judge(file, want, "a length of " + std::to_string(length));
    }
    for (size_t n : {size_t(0), size_t(1), size_t(7)})
        judge(Bytes(whole.begin(), whole.begin() + long(n)),
              "truncated shorter than the 8 bytes every safetensors file begins with: expected 8, got " +
                  std::to_string(n),
              "a file of few bytes");
    Bytes longer = whole;
    longer.push_back(0), judge(longer, "bad_header bytes follow the last tensor: *", "a byte added");
    CHECK(all - good >= 300);
    CHECK(right == all);
    MESSAGE("counted: hostile model files ", right, " of ", all, " right, ", good, " of them good models");
}

TEST_CASE("ST-16 ST-01 ST-03 F-05: every strict prefix of model files of all kinds is refused (slow)") {
    std::vector<Bytes> files;
    for (char letter : {'s', 'f', 'v', '1', '2', '3', 'm', 't'}) files.push_back(model(letter).file());
    for (const char* text : {"s4d,d_model=2,n_layer=1,d_state=4,d_input=1,d_output=1,pool=mean",
                             "s4d,d_model=2,n_layer=1,d_state=4,d_input=8,bands=2,d_output=1,pool=last",
                             "mamba1,d_model=2,n_layer=1,d_inner=2,d_state=2,dt_rank=1,d_conv=2",
                             "mamba2,d_model=2,n_layer=1,d_inner=4,d_state=2,headdim=2,d_conv=2",
                             "mamba3,d_model=2,n_layer=1,d_inner=2,d_state=2,headdim=2,mimo_rank=2,rope_fraction=1.0"})
        files.push_back(int_model(spec(text)));
    size_t prefixes = 0, refused = 0;
    Bytes  room(size_t(1) << 20), memory(size_t(1) << 16);
    for (const Bytes& file : files) {
        REQUIRE(verdict(file) == "ok");
        for (size_t n = 0; n < file.size(); ++n) {
            const Bytes     part(file.begin(), file.begin() + long(n)); // of its own: a read past it is seen
            const ssm::Blob blob{part.data(), n};
            ssm::Arena      arena{room.data(), room.size(), 0};
            ssm::Model      m;
            ssm::Config     c;
            refused += ssm::load(&m, blob, &arena) != ssm::Status::ok && arena.used == 0 && m.kernels == nullptr &&
                       ssm::inspect(&c, blob, memory.data(), memory.size()) != ssm::Status::ok;
            ++prefixes;
        }
    }
    CHECK(refused == prefixes);
    MESSAGE("counted: strict prefixes of ", files.size(), " model files ", refused, " of ", prefixes, " refused");
}

TEST_CASE("N-01: the scan of weights can be skipped where the caller says so, and is not otherwise") {
    for (const auto& [letter, spoilt] :
         std::vector<std::pair<char, const char*>>{{'s', "encoder.weight@3=nan"}, {'3', "norm_f.weight@1=inf"}}) {
        const Bytes      file = changed(letter, spoilt);
        Bytes            room(size_t(1) << 20);
        ssm::Arena       arena{room.data(), room.size(), 0};
        ssm::Model       m;
        ssm::LoadOptions options;
        CHECK(options.check_values);
        CHECK(ssm::load(&m, {file.data(), file.size()}, &arena, options) == ssm::Status::bad_value);
        options.check_values = false;
        CHECK(ssm::load(&m, {file.data(), file.size()}, &arena, options) == ssm::Status::ok);
    }
}

TEST_CASE("F-02: a refusal blames the key, the tensor and the number that are at fault; an empty number is no default") {
    // Each was told otherwise once, or let in.
    const auto says = [](char letter, const char* what, const char* want) {
        CHECK(verdict(changed(letter, what)) == want);
    };
    says('3', "a_floor=", "bad_config metadata \"a_floor\": metadata not understood, expected a number from 0 up");
    says('3', "-rope_angles; rope_fraction=",
         "bad_config metadata \"rope_fraction\": metadata not understood, expected 0.5 or 1.0");
    says('s', "arch=mamba2", "bad_config metadata \"arch\": metadata does not agree with the tensors");
    says('1', "layer=Mamba2", "bad_config metadata \"layer\": metadata does not agree with the tensors");
    says('3', "norm=rms; rms_norm=false",
         "bad_config metadata \"rms_norm\": metadata does not agree with the tensors: a norm.bias belongs to LayerNorm "
         "alone");
    says('s', "d_model=x", "bad_config metadata \"d_model\": metadata is not a whole number");
    says('2', "ngroups=x", "bad_config metadata \"ngroups\": metadata is not a whole number");
    says('2', "d_state=x", "bad_config metadata \"d_state\": metadata is not a whole number");
    says('3', "rope_angles=x", "bad_config metadata \"rope_angles\": metadata is not a whole number");
    says('t', "vocab_size=-1", "bad_config metadata \"vocab_size\": metadata is not a whole number");
    says('t', "vocab_size=99999999999",
         "bad_config metadata \"vocab_size\": metadata does not agree with the rows of the embedding: expected 16, got "
         "2147483648");
    says('m', "!layers.0.mixer.mimo_x", "missing_tensor tensor \"layers.0.mixer.mimo_x\": missing");
    says('s', "s4_layers.1.kernel.A_imag@2=3e38",
         "bad_value tensor \"s4_layers.1.kernel.A_imag\": a mode turns too fast at index 2");
    says('f', "s4_layers.0.layer.kernel.A_real:[0,2]",
         "bad_shape tensor \"s4_layers.0.layer.kernel.A_real\": a dimension does not fit the model: expected 1, got 0");
    says('s', "decoder.weight:I32", "bad_dtype tensor \"decoder.weight\": I32: expected dtype F32, F16 or BF16");
    says('N', "layers.0.mixer.A:I16",
         "bad_dtype tensor \"layers.0.mixer.A\": I16: expected dtype I32 in an integer model");
}
