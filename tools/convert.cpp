// convert.cpp - `ssm convert`: a checkpoint of the public code becomes a file that this program runs.
// SPDX-License-Identifier: MIT
//
// Tensors keep their bytes and dtypes; only names change, and the config becomes flat metadata. Shapes decide every
// number they determine, and the config is checked against them. The input is mapped and written out from there.
#include "tool.hpp"
#include "c_array.hpp"
#include "safetensors_write.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <sys/stat.h>

namespace {
using namespace tool;

const char help[] =
    "usage: ssm convert IN OUT [--config config.json] [--a-activation heavy_tail|softplus]\n"
    "       ssm convert MODEL --c-array model.h\n"
    "\n"
    "Makes one file for this program from a safetensors checkpoint of Mamba-1, Mamba-2 or Mamba-3, with the names of\n"
    "the official code or those of \"-hf\" files. Tensors keep their bytes; their names lose \"backbone.\", and the\n"
    "config becomes metadata. Without --config it is looked for in the metadata of IN, then in config.json beside IN;\n"
    "if there is none, the shapes and the official defaults must do. Shapes win over the config, with a warning.\n"
    "S4D models and files converted before pass through.\n"
    "\n"
    "  --config FILE    a config.json, in the official or the \"-hf\" form\n"
    "  --a-activation   of Mamba-3: softplus for models trained before June 2026, which no file tells apart\n"
    "\n"
    "With --c-array: a model that runs here, float or integer, as a C++ header for firmware. model.h holds the bytes of\n"
    "the file as model[], model_bytes of them, model_config to load it with, and the bytes of memory it takes.\n"
    "\n"
    "Attention layers, checkpoints in several files, torch pickles and GGUF are refused.\n";

constexpr size_t  max_config_bytes = size_t(1) << 20;
constexpr int64_t max_whole = 2147483647; // of a number in a config, and of a dimension of a weight
constexpr char    join_first[] = "a checkpoint in several files is not supported, join them first";

bool        begins(std::string_view text, std::string_view with) { return text.substr(0, with.size()) == with; }
bool        has(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }
const char* word(bool b) { return b ? "true" : "false"; }
bool        ends(std::string_view text, std::string_view with) {
           return text.size() >= with.size() && text.substr(text.size() - with.size()) == with;
}

std::string text_of(const std::vector<int64_t>& dims) {
    std::string out = "[";
    for (size_t i = 0; i < dims.size(); ++i) out += (i > 0 ? "," : "") + std::to_string(dims[i]);
    return out + "]";
}
// The shortest decimal text that reads back as `v`.
std::string text_of(float v) {
    char text[32] = "";
    for (int digits = 1; digits <= 9; ++digits) {
        const int n = std::snprintf(text, sizeof text, "%.*g", digits, static_cast<double>(v));
        float     back = 0;
        if (ssm::parse_float(text, size_t(n), &back) == size_t(n) && back == v) break;
    }
    return text;
}

// ---- Configs

// A value as it stands in a config. `text`: of a string its content, else the JSON text.
struct Value {
    enum class Kind { null, boolean, number, text, list, object } kind = Kind::null;
    std::string text;
    bool        empty = true; // of a list or object
};

// Where a config comes from: its keys, members of ssm_cfg as "ssm_cfg.NAME".
struct Source {
    std::string                  lead;   // what messages about a key begin with: `FILE: `, `FILE: metadata `
    std::string                  prefix; // of the keys where they stand, not in `values`
    std::map<std::string, Value> values;
    enum class Form { none, official, hf, flat } form = Form::none;

    std::string name(const std::string& key) const { return lead + quoted(prefix + key); }
    bool        given(const char* key) const {
               const auto at = values.find(key);
               return at != values.end() && at->second.kind != Value::Kind::null;
    }
};

// The public code writes an infinite number as a bare word, which is no JSON. The word becomes a number of the same
// length that is too large for any float.
void replace_infinity(std::string* text) {
    bool in_string = false;
    for (size_t i = 0; i < text->size(); ++i) {
        const char c = (*text)[i];
        if (in_string && c == '\\') ++i;
        else if (c == '"') in_string = !in_string;
        else if (!in_string && c == 'I' && text->compare(i, 8, "Infinity") == 0) {
            const auto apart = [](char b) { return std::strchr(" \t\r\n,:[]{}", b) != nullptr && b != 0; };
            const char before = i == 0 ? ' ' : (*text)[i - 1], behind = i + 8 < text->size() ? (*text)[i + 8] : ' ';
            if ((apart(before) || before == '-') && apart(behind)) text->replace(i, 8, "1e999999");
        }
    }
}

// Reads the text of a config.json. False after the message is out.
bool read_json(std::string text, Source* to) {
    using ssm::json::Kind;
    struct Level {
        std::set<std::string> names; // of an object
        std::string           key;   // the member the reader stands in
        Value*                value; // the value that is read, if it is wanted
        const char*           begin;
        bool                  empty = true;
    };
    const auto refuse = [&](const std::string& what) { return fail(bad_file, "convert", to->lead + what), false; };
    if (text.size() > max_config_bytes)
        return refuse("longer than the " + std::to_string(max_config_bytes) + " bytes expected");
    replace_infinity(&text);
    ssm::json::Reader  r = ssm::json::open(text.data(), text.size());
    std::vector<Level> levels; // as deep as the reader allows
    for (;;) {
        const ssm::json::Token t = ssm::json::next(&r);
        if (t.kind == Kind::error)
            return refuse(std::string("not valid JSON: ") + r.error + " at byte " + std::to_string(r.p - text.data()));
        if (t.kind == Kind::end) return true;
        if (t.kind == Kind::end_object || t.kind == Kind::end_array) {
            const Level& l = levels.back();
            if (l.value != nullptr) l.value->text.assign(l.begin, t.text + t.len), l.value->empty = l.empty;
            levels.pop_back();
            continue;
        }
        if (t.kind == Kind::key) {
            levels.back().key = unescape(t.text, t.len);
            levels.back().empty = false;
            if (!levels.back().names.insert(levels.back().key).second)
                return refuse("key " + quoted(levels.back().key) + " stands twice, expected every key once");
            continue;
        }
        if (levels.empty() && t.kind != Kind::object) return refuse("not a JSON object, expected { ... }");
        Value* value = nullptr;
        if (levels.size() == 1 && !has(levels[0].key, ".")) value = &to->values[levels[0].key];
        if (levels.size() == 2 && levels[0].key == "ssm_cfg" && levels[1].begin[0] == '{')
            value = &to->values["ssm_cfg." + levels[1].key];
        if (!levels.empty()) levels.back().empty = false;
        if (value != nullptr) {
            value->kind = t.kind == Kind::string   ? Value::Kind::text
                          : t.kind == Kind::number ? Value::Kind::number
                          : t.kind == Kind::array  ? Value::Kind::list
                          : t.kind == Kind::object ? Value::Kind::object
                          : t.kind == Kind::null   ? Value::Kind::null
                                                   : Value::Kind::boolean;
            value->text = t.kind == Kind::string ? unescape(t.text, t.len) : std::string(t.text, t.len);
        }
        if (t.kind == Kind::object || t.kind == Kind::array) {
            levels.emplace_back();
            levels.back().value = value, levels.back().begin = t.text;
        }
    }
}

// A metadata string as the value it stands for: numbers and booleans are written as in JSON.
Value from_metadata(const std::string& text) {
    Value v;
    float number = 0;
    v.text = text;
    if (text == "true" || text == "false") v.kind = Value::Kind::boolean;
    else if (text == "null") v.kind = Value::Kind::null;
    else if (begins(text, "[")) v.kind = Value::Kind::list, v.empty = text == "[]";
    else if (begins(text, "{")) v.kind = Value::Kind::object, v.empty = text == "{}";
    else if (!text.empty() && ssm::parse_float(text.data(), text.size(), &number) == text.size())
        v.kind = Value::Kind::number;
    else v.kind = Value::Kind::text;
    return v;
}

template <class T> struct Key { // what a config says about one thing
    bool        given = false;
    T           value = T();
    std::string name, text; // for messages
};
using Whole = Key<int64_t>;
using Flag = Key<bool>;
using Word = Key<std::string>;
using Real = Key<float>;

// Everything a config of any form can say.
struct Said {
    Whole   d_model, n_layer, d_inner, d_state, d_intermediate, mlp_hidden, vocab_size, pad, d_input, d_output;
    Whole   nheads, headdim, ngroups, mimo_rank, rope_angles, d_conv, d_ssm, dt_rank;
    Flag    rms_norm, tie, is_mimo, is_outproj_norm, norm_before_gate, bias, conv_bias, rmsnorm;
    Word    arch, input, head, a_activation;
    Real    expand, rope_fraction, a_floor;
    bool    hf = false, flat = false;             // the form
    int64_t pad_default = 1, ngroups_default = 1; // where the key is absent
};

// Reads keys and checks their types. The first fault is reported; `good` is false from then on.
class ConfigReader {
  public:
    explicit ConfigReader(const Source& source) : s_(source) {}
    bool good = true;
    bool refuse(const std::string& key, const std::string& expected) {
        if (good) fail(bad_file, "convert", s_.name(key) + ": found " + found(key) + ", expected " + expected);
        return good = false;
    }
    void whole(Whole* out, const char* key, int64_t least) {
        const Value* v = take(out, key);
        uint64_t     n = 0;
        if (v == nullptr) return;
        if (v->kind != Value::Kind::number ||
            !ssm::json::to_uint({ssm::json::Kind::number, v->text.data(), v->text.size()}, &n) ||
            n > uint64_t(max_whole) || int64_t(n) < least)
            refuse(key, "a whole number from " + std::to_string(least) + " to " + std::to_string(max_whole));
        out->value = int64_t(n);
    }
    void flag(Flag* out, const char* key) {
        const Value* v = take(out, key);
        if (v == nullptr) return;
        if (v->kind != Value::Kind::boolean) refuse(key, "true or false");
        out->value = v->text == "true";
    }
    void real(Real* out, const char* key, bool zero_too) {
        const Value* v = take(out, key);
        if (v == nullptr) return;
        if (v->kind != Value::Kind::number ||
            ssm::parse_float(v->text.data(), v->text.size(), &out->value) != v->text.size() ||
            !std::isfinite(out->value) || out->value < 0.0f || (!zero_too && !(out->value > 0.0f)))
            refuse(key, zero_too ? "a number from 0" : "a number above 0");
    }
    void choice(Word* out, const char* key, std::initializer_list<const char*> words) {
        const Value* v = take(out, key);
        std::string  all;
        if (v == nullptr) return;
        if (v->kind == Value::Kind::text)
            for (const char* w : words)
                if (v->text == w) return void(out->value = v->text);
        for (const char* w : words)
            all += (all.empty() ? "" : w == *(words.end() - 1) ? " or " : ", ") + std::string(w);
        refuse(key, all);
    }
    // A list that must be empty: layers of a kind this program does not run.
    void no_attention(const char* key) {
        const auto at = s_.values.find(key);
        if (!s_.given(key) || (at->second.empty && at->second.kind == Value::Kind::list)) return;
        if (at->second.kind != Value::Kind::list) refuse(key, "a list");
        else refuse(key, "[]: attention layers are not supported");
    }
    void nothing(const char* key, const char* why) {
        const auto at = s_.values.find(key);
        if (s_.given(key) && !(at->second.kind == Value::Kind::object && at->second.empty)) refuse(key, why);
    }
    void only(const char* key, std::initializer_list<const char*> words) {
        Word w;
        choice(&w, key, words);
    }
    void epsilon(const char* key) {
        Real r;
        real(&r, key, true);
        if (r.given && r.value != 1e-5f) refuse(key, "1e-05, the only one supported");
    }
    void no_limit(const char* key); // of the time step

  private:
    template <class T> const Value* take(Key<T>* out, const char* key) {
        if (!s_.given(key)) return nullptr;
        const Value& v = s_.values.find(key)->second;
        out->given = true;
        out->name = s_.name(key);
        out->text = found(key);
        return &v;
    }
    std::string found(const std::string& key) const {
        const Value& v = s_.values.find(key)->second;
        return v.kind == Value::Kind::text ? quoted(v.text) : escape(v.text, 40, "\"");
    }
    const Source& s_;
};

// [0, infinity], which newer files of the public code spell {"__float__": "Infinity"}.
void ConfigReader::no_limit(const char* key) {
    using ssm::json::Kind;
    if (!s_.given(key)) return;
    const Value&      v = s_.values.find(key)->second;
    ssm::json::Reader r = ssm::json::open(v.text.data(), v.text.size());
    ssm::json::Token  t = ssm::json::next(&r);
    float             low = 1, high = 0;
    if (t.kind == Kind::array) {
        t = ssm::json::next(&r);
        if (t.kind == Kind::number) ssm::parse_float(t.text, t.len, &low);
        t = ssm::json::next(&r);
        if (t.kind == Kind::number) ssm::parse_float(t.text, t.len, &high);
        if (t.kind == Kind::object) {
            t = ssm::json::next(&r);
            t = ssm::json::next(&r);
            if (t.kind == Kind::string && ssm::json::equals(t, "Infinity")) high = HUGE_VALF;
        }
    }
    if (low != 0 || !std::isinf(high)) refuse(key, "[0, Infinity]: limits of the time step are not supported");
}

void read_layer_keys(ConfigReader* r, Said* said) { // of ssm_cfg
    r->choice(&said->arch, "ssm_cfg.layer", {"Mamba1", "Mamba2", "Mamba3"});
    r->whole(&said->d_state, "ssm_cfg.d_state", 1);
    r->real(&said->expand, "ssm_cfg.expand", false);
    r->whole(&said->headdim, "ssm_cfg.headdim", 1);
    r->whole(&said->ngroups, "ssm_cfg.ngroups", 1);
    r->real(&said->rope_fraction, "ssm_cfg.rope_fraction", false);
    r->real(&said->a_floor, "ssm_cfg.A_floor", true);
    r->flag(&said->is_outproj_norm, "ssm_cfg.is_outproj_norm");
    r->flag(&said->is_mimo, "ssm_cfg.is_mimo");
    r->whole(&said->mimo_rank, "ssm_cfg.mimo_rank", 1);
    r->choice(&said->a_activation, "ssm_cfg.A_activation", {"heavy_tail", "softplus"});
    r->whole(&said->d_conv, "ssm_cfg.d_conv", 1);
    r->flag(&said->conv_bias, "ssm_cfg.conv_bias");
    r->flag(&said->bias, "ssm_cfg.bias");
    r->whole(&said->d_ssm, "ssm_cfg.d_ssm", 1);
    r->flag(&said->rmsnorm, "ssm_cfg.rmsnorm");
    r->flag(&said->norm_before_gate, "ssm_cfg.norm_before_gate");
    r->no_limit("ssm_cfg.dt_limit");
}

bool is_text(const Source& s, const char* key, const char* text) {
    const auto at = s.values.find(key);
    return at != s.values.end() && at->second.kind == Value::Kind::text && at->second.text == text;
}

bool read_config(const Source& source, Said* said) {
    ConfigReader r(source);
    for (const char* key : {"attn_layer_idx", "attn_layer_indices", "attention_layers_idx"}) r.no_attention(key);
    if (source.form == Source::Form::official) {
        if (source.given("ssm_cfg") && source.values.at("ssm_cfg").kind != Value::Kind::object)
            return r.refuse("ssm_cfg", "an object");
        read_layer_keys(&r, said);
        if (!is_text(source, "ssm_cfg.dt_rank", "auto")) r.whole(&said->dt_rank, "ssm_cfg.dt_rank", 1);
        r.whole(&said->d_model, "d_model", 1);
        r.whole(&said->n_layer, "n_layer", 1);
        r.whole(&said->d_intermediate, "d_intermediate", 0);
        r.whole(&said->vocab_size, "vocab_size", 1);
        r.whole(&said->pad, "pad_vocab_size_multiple", 1);
        r.flag(&said->rms_norm, "rms_norm");
        r.flag(&said->tie, "tie_embeddings");
        r.epsilon("norm_epsilon");
        said->pad_default = 8;
    }
    if (source.form == Source::Form::hf) {
        said->hf = true;
        r.choice(&said->arch, "model_type", {"mamba", "mamba2"});
        r.nothing("attn_cfg", "none: attention layers are not supported");
        r.whole(&said->d_model, "hidden_size", 1);
        r.whole(&said->n_layer, "num_hidden_layers", 1);
        r.whole(&said->d_state, "state_size", 1);
        r.whole(&said->d_conv, "conv_kernel", 1);
        r.whole(&said->d_inner, "intermediate_size", 1);
        r.real(&said->expand, "expand", false);
        r.flag(&said->bias, "use_bias");
        r.flag(&said->conv_bias, "use_conv_bias");
        r.epsilon("layer_norm_epsilon");
        r.flag(&said->tie, "tie_word_embeddings");
        r.whole(&said->vocab_size, "vocab_size", 1); // padded already
        r.only("hidden_act", {"silu", "swish"});
        r.whole(&said->nheads, "num_heads", 1);
        r.whole(&said->headdim, "head_dim", 1);
        r.whole(&said->ngroups, "n_groups", 1);
        r.flag(&said->norm_before_gate, "norm_before_gate");
        r.flag(&said->rmsnorm, "rms_norm"); // of the mixer, in this form
        r.no_limit("time_step_limit");
        if (!is_text(source, "time_step_rank", "auto")) r.whole(&said->dt_rank, "time_step_rank", 1);
        said->ngroups_default = 8;
    }
    if (source.form == Source::Form::flat) {
        Word norm;
        said->flat = true;
        r.choice(&said->arch, "arch", {"s4d", "mamba1", "mamba2", "mamba3"});
        r.whole(&said->d_model, "d_model", 1);
        r.whole(&said->n_layer, "n_layer", 1);
        r.whole(&said->d_inner, "d_inner", 1);
        r.whole(&said->d_state, "d_state", 1);
        r.whole(&said->mlp_hidden, "mlp_hidden", 0);
        r.whole(&said->vocab_size, "vocab_size", 1);
        r.whole(&said->d_input, "d_input", 1);
        r.whole(&said->d_output, "d_output", 1);
        r.whole(&said->headdim, "headdim", 1);
        r.whole(&said->ngroups, "ngroups", 1);
        r.whole(&said->mimo_rank, "mimo_rank", 1);
        r.whole(&said->rope_angles, "rope_angles", 1);
        r.whole(&said->d_conv, "d_conv", 1);
        r.whole(&said->d_ssm, "d_ssm", 1);
        r.whole(&said->dt_rank, "dt_rank", 1);
        r.flag(&said->is_mimo, "is_mimo");
        r.flag(&said->is_outproj_norm, "is_outproj_norm");
        r.flag(&said->norm_before_gate, "norm_before_gate");
        r.real(&said->a_floor, "a_floor", true);
        r.choice(&said->a_activation, "a_activation", {"heavy_tail", "softplus"});
        r.choice(&said->input, "input", {"tokens", "features", "none"});
        r.choice(&said->head, "head", {"linear", "tied", "none"});
        r.choice(&norm, "norm", {"rms", "layer"});
        said->rms_norm = {norm.given, norm.value == "rms", norm.name, norm.text};
        if (said->head.value != "none")
            said->tie = {said->head.given, said->head.value == "tied", said->head.name, said->head.text};
    }
    return r.good;
}

// The form of a config is known by its keys.
void find_form(Source* s) {
    s->form = s->given("model_type") || s->given("hidden_size") ? Source::Form::hf : Source::Form::official;
}

// ---- Checkpoints

struct Tensor {
    const ssm::Entry*    entry;
    std::string          from, to, shape; // names in and out; "[2,3]"
    std::vector<int64_t> dims;
    bool                 kept = false; // not the model's: carried along as it is
    bool                 used = false; // the architecture has a place for it
    bool                 dropped = false;
};
struct Want {
    std::string          name;
    std::vector<int64_t> dims;
};

class Converter {
  public:
    Converter(const char* in, const char* out, const char* config, const char* activation)
        : in_(in), out_(out), config_(config), activation_(activation) {}
    int run();

  private:
    int  known_to_be_else();
    int  find_config();
    bool collect();
    bool s4d();
    bool derive();
    bool derive_mamba1();
    bool derive_mamba2();
    bool derive_mamba3();
    bool derive_ends();
    bool check_all();
    bool keep_metadata();
    int  write();
    bool refuse(const std::string& what) { return fail(bad_file, "convert", quoted_path(in_) + ": " + what), false; }
    bool refuse(const Tensor& t, const std::string& what) { return refuse("tensor " + quoted(t.from) + ": " + what); }
    std::string in_file(const std::string& name) const; // how the file would call a tensor
    Tensor*     find(const std::string& name);
    bool        any(const std::string& rest) const { return rests_.count(rest) > 0; }
    Tensor*     need(const std::string& name, size_t rank); // null after the message
    void        want(const std::string& name, std::vector<int64_t> dims) { wants_.push_back({name, std::move(dims)}); }
    void        want_in_layers(const std::string& rest, const std::vector<int64_t>& dims) {
               for (int64_t i = 0; i < n_layer_; ++i) want("layers." + std::to_string(i) + "." + rest, dims);
    }
    // Compares what a config says with what the tensors say, which is used.
    template <class T, class U> void settle(const Key<T>& key, const U& found, const std::string& shown) {
        if (key.given && !(key.value == T(found)))
            warn(key.name + " is " + key.text + ", the tensors say " + shown + ": used " + shown);
    }
    void settle(const Whole& key, int64_t found) { settle(key, found, std::to_string(found)); }
    void settle(const Flag& key, bool found) { settle(key, found, word(found)); }
    // Warnings come out when nothing is left to refuse: a refusal is one line.
    void warn(std::string what) { warnings_.push_back(std::move(what)); }
    void say(const char* key, std::string value) { metadata_[key] = std::move(value); }
    void say(const char* key, int64_t value) { metadata_[key] = std::to_string(value); }

    const char *                       in_, *out_, *config_, *activation_;
    Container                          file_;
    std::vector<Tensor>                tensors_;
    std::map<std::string, size_t>      by_name_; // new name to place in tensors_
    std::set<std::string>              rests_;   // names behind "layers.N."
    std::set<int64_t>                  layers_;  // the N that stand there
    std::vector<Want>                  wants_;
    std::map<std::string, std::string> metadata_;
    Said                               said_;
    std::vector<std::string>           warnings_;
    std::string                        arch_;
    bool                               prefixed_ = false, plural_ = false, has_kept_ = false, bare_ = false;
    int64_t                            n_layer_ = 0, d_ = 0, di_ = 0;
};

// Files that are no safetensors but known by their first bytes or their name.
int Converter::known_to_be_else() {
    ssm::Blob blob;
    if (ssm::map_file(&blob, in_) != ssm::Status::ok) return go_on; // open_container() says why
    unsigned char first[8] = {};
    std::memcpy(first, blob.data, std::min(blob.bytes, sizeof first));
    ssm::unmap_file(&blob);
    const std::string file = quoted_path(in_) + ": ";
    if (std::memcmp(first, "GGUF", 4) == 0)
        return fail(bad_file, "convert", file + "GGUF is not supported by this version");
    uint64_t n = 0;
    for (int i = 8; i-- > 0;) n = n << 8 | first[i];
    const bool zip = first[0] == 'P' && first[1] == 'K', pickle = first[0] == 0x80 && first[1] >= 2 && first[1] <= 5;
    if (n > ssm::max_header_bytes && (zip || pickle)) // else it may well be a header's length
        return fail(bad_file, "convert",
                    file + "a torch pickle, expected safetensors; in Python: import torch, safetensors.torch as s; "
                           "s.save_file({k: v.clone() for k, v in torch.load(\"IN\", map_location=\"cpu\", "
                           "weights_only=True).items()}, \"model.safetensors\")");
    const std::string_view path = in_;
    if (ends(path, ".index.json")) return fail(bad_file, "convert", file + "the index of several files: " + join_first);
    // NAME-00001-of-00002.safetensors
    const size_t of = path.rfind("-of-");
    if (of != path.npos && of >= 6 && path.size() == of + 21 && ends(path, ".safetensors") && path[of - 6] == '-') {
        bool digits = true, one = true;
        for (size_t i = 0; i < 5; ++i) {
            const char a = path[of - 5 + i], b = path[of + 4 + i];
            digits = digits && a >= '0' && a <= '9' && b >= '0' && b <= '9';
            one = one && b == (i < 4 ? '0' : '1');
        }
        if (digits && !one) return fail(bad_file, "convert", file + "one file of several: " + join_first);
    }
    return go_on;
}

// From --config, the file's own metadata, or a config.json beside it.
int Converter::find_config() {
    Source      source;
    std::string value;
    const auto  load = [&](const std::string& path) {
        source.lead = quoted_path(path) + ": ";
        const int status = read_file("convert", path.c_str(), max_config_bytes, &value);
        if (status != done) return status;
        if (!read_json(std::move(value), &source)) return bad_file;
        find_form(&source);
        return done;
    };
    const auto from_entries = [&](const char* prefix) {
        source.lead = quoted_path(in_) + ": metadata ";
        source.prefix = prefix;
        for (int32_t i = 0; i < file_.index.n_entries; ++i) {
            const ssm::Entry& e = file_.index.entries[i];
            if (e.value == nullptr) continue;
            const std::string key = unescape(e.name, size_t(e.name_len));
            if (begins(key, prefix))
                source.values[key.substr(std::strlen(prefix))] = from_metadata(unescape(e.value, size_t(e.value_len)));
        }
        return !source.values.empty();
    };
    if (config_ != nullptr) {
        const int status = load(config_);
        if (status != done) return status;
    } else if (file_.metadata("arch", &value) || (file_.metadata("format", &value) && value == "ssm-float")) {
        from_entries("");
        source.form = Source::Form::flat;
    } else if (file_.metadata("config", &value)) {
        source.lead = quoted_path(in_) + ": metadata \"config\": ";
        if (!read_json(std::move(value), &source)) return bad_file;
        find_form(&source);
    } else if (from_entries("cfg.")) {
        source.values.emplace("ssm_cfg", from_metadata("{}"));
        find_form(&source);
    } else {
        const std::string path = in_;
        const size_t      slash = path.rfind('/');
        const std::string beside = (slash == path.npos ? "" : path.substr(0, slash + 1)) + "config.json";
        struct stat       info;
        if (::stat(beside.c_str(), &info) == 0) {
            warn(quoted_path(beside) + ": used, it stands beside " + quoted_path(in_));
            const int status = load(beside);
            if (status != done) return status;
        } else warn(quoted_path(in_) + ": no config given or found: official defaults where shapes do not decide");
    }
    if (!read_config(source, &said_)) return bad_file;
    if (said_.a_activation.given) return done;
    for (const char* key : {"a_activation", "cfg.ssm_cfg.A_activation"}) // --config has no official key for it
        if (file_.metadata(key, &value)) {
            Source own;
            own.lead = quoted_path(in_) + ": metadata ";
            own.values[key] = from_metadata(value);
            ConfigReader r(own);
            r.choice(&said_.a_activation, key, {"heavy_tail", "softplus"});
            return r.good ? done : bad_file;
        }
    return done;
}

// ---- Tensors by name

std::string Converter::in_file(const std::string& name) const {
    if (name == "head.weight" && !said_.flat) return "lm_head.weight";
    if (name == "embedding.weight" && plural_) return "backbone.embeddings.weight";
    return (prefixed_ && !begins(name, "head.") ? "backbone." : "") + name;
}
Tensor* Converter::find(const std::string& name) {
    const auto at = by_name_.find(name);
    return at == by_name_.end() ? nullptr : &tensors_[at->second];
}
Tensor* Converter::need(const std::string& name, size_t rank) {
    Tensor* t = find(name);
    if (t == nullptr) {
        const bool hole = begins(name, "layers.0.") && layers_.count(0) == 0;
        refuse("tensor " + quoted(in_file(name)) + ": missing, expected " + std::to_string(rank) + " dimensions" +
               (hole ? std::string(": ") + join_first : ""));
        return nullptr;
    }
    if (t->dims.size() != rank) {
        refuse(*t, "shape " + t->shape + ", expected " + std::to_string(rank) + " dimensions");
        return nullptr;
    }
    return t;
}

// Takes stock: every tensor under its new name, what stands in the layers, and which architecture that makes.
bool Converter::collect() {
    size_t n_s4 = 0;
    for (int32_t i = 0; i < file_.index.n_entries; ++i) {
        const ssm::Entry& e = file_.index.entries[i];
        if (e.value != nullptr) continue;
        Tensor t;
        t.entry = &e;
        t.from = t.to = unescape(e.name, size_t(e.name_len));
        for (const char* p = e.shape_text; *p != ']'; ++p) // checked by read_index(): digits, commas and blanks
            if (*p == ',' || *p == '[' || (*p >= '0' && *p <= '9')) t.shape += *p;
        t.shape += ']';
        int64_t dims[ssm::max_rank] = {};
        ssm::shape_of(e, dims);
        t.dims.assign(dims, dims + e.rank);
        for (const char* with : {"test.", "grad.", "trace.", "golden.", "final.", "state."})
            if (begins(t.from, with)) t.kept = has_kept_ = true;
        if (!t.kept && begins(t.from, "s4_layers.")) ++n_s4;
        tensors_.push_back(std::move(t));
    }
    if (n_s4 > 0) return arch_ = "s4d", true;

    for (size_t i = 0; i < tensors_.size(); ++i) {
        Tensor& t = tensors_[i];
        if (!t.kept) {
            if (begins(t.to, "backbone.")) t.to.erase(0, 9), prefixed_ = true;
            if (t.to == "embeddings.weight") t.to = "embedding.weight", plural_ = true;
            if (t.to == "lm_head.weight") t.to = "head.weight";
        }
        const auto other = by_name_.emplace(t.to, i);
        if (!other.second)
            return refuse(t, "becomes " + quoted(t.to) + " as tensor " + quoted(tensors_[other.first->second].from) +
                                 " does, expected only one of them");
        if (t.kept) continue;
        if (has(t.to, "attn") || has(t.to, "qkv") || has(t.to, "rotary_emb"))
            return refuse(t, "part of an attention layer, expected Mamba layers only");
        if (!begins(t.to, "layers.")) continue;
        const char* p = t.to.c_str() + 7;
        int64_t     n = 0;
        size_t      digits = 0;
        for (; p[digits] >= '0' && p[digits] <= '9' && digits < 9; ++digits) n = n * 10 + (p[digits] - '0');
        if (digits == 0 || p[digits] != '.' || (p[0] == '0' && digits > 1)) continue; // refused as unexpected
        if (n >= ssm::max_layers)
            return refuse(t, "layer " + std::to_string(n) + ", expected at most " + std::to_string(ssm::max_layers) +
                                 " layers");
        layers_.insert(n);
        rests_.insert(p + digits + 1);
    }
    n_layer_ = layers_.empty() ? 0 : *layers_.rbegin() + 1;
    if (any("mixer.B_bias") || any("mixer.B_norm.weight")) arch_ = "mamba3";
    else if (any("mixer.x_proj.weight")) arch_ = "mamba1";
    else if (any("mixer.A_log")) arch_ = "mamba2";
    else
        return refuse("not a model this program knows: found no tensors of Mamba layers (\"layers.0.mixer.A_log\", "
                      "\"layers.0.mixer.B_bias\") or S4D layers (\"s4_layers.0.D\")");
    return true;
}

// ---- Numbers from shapes

bool Converter::derive() {
    const std::string given = said_.arch.value == "mamba"     ? "mamba1"
                              : begins(said_.arch.value, "M") ? "m" + said_.arch.value.substr(1)
                                                              : said_.arch.value;
    if (said_.arch.given && given != arch_)
        warn(said_.arch.name + " is " + said_.arch.text + ", the tensors say " + arch_ + ": used " + arch_);

    if (said_.n_layer.given && said_.n_layer.value > n_layer_)
        return refuse("tensor " + quoted(in_file("layers." + std::to_string(n_layer_) + ".mixer.in_proj.weight")) +
                      ": missing, found " + std::to_string(n_layer_) + " layers, expected " +
                      std::to_string(said_.n_layer.value) + " as the config says: " + join_first);
    const Tensor* out = need("layers.0.mixer.out_proj.weight", 2);
    if (out == nullptr || need("layers.0.mixer.in_proj.weight", 2) == nullptr) return false;
    d_ = out->dims[0], di_ = out->dims[1];
    for (const Tensor& t : tensors_) // so that no product of a few of them overflows
        for (int64_t dim : t.dims)
            if (!t.kept && (dim < 1 || dim > max_whole))
                return refuse(t, "shape " + t.shape + ", expected dimensions from 1 to " + std::to_string(max_whole));
    want_in_layers("mixer.out_proj.weight", {d_, di_});
    if (!(arch_ == "mamba1" ? derive_mamba1() : arch_ == "mamba2" ? derive_mamba2() : derive_mamba3())) return false;

    // The mixer's d_inner is known now, so is what the rest of a layer must look like.
    settle(said_.d_model, d_);
    settle(said_.n_layer, n_layer_);
    settle(said_.d_inner, di_);
    if (said_.expand.given && std::fabs(double(said_.expand.value) * double(d_) - double(di_)) >= 1.0) {
        const std::string used = text_of(static_cast<float>(double(di_) / double(d_)));
        warn(said_.expand.name + " is " + said_.expand.text + ", the tensors say " + used + ": used " + used);
    }
    std::string scope; // golden files say what they hold
    bare_ = n_layer_ == 1 && !any("norm.weight") && !any("norm.bias") && find("norm_f.weight") == nullptr &&
            find("embedding.weight") == nullptr && find("input_proj.weight") == nullptr &&
            find("head.weight") == nullptr && !any("mlp.fc2.weight") &&
            (!file_.metadata("scope", &scope) || scope == "mixer");
    const bool denied = said_.rms_norm.given && !said_.rms_norm.value; // LayerNorm, so biases must be there
    const bool biases = any("norm.bias") || find("norm_f.bias") != nullptr || denied;
    if (!bare_)
        settle(said_.rms_norm, !biases,
               said_.rms_norm.text.find('"') == 0 ? (biases ? "layer" : "rms") : word(!biases));
    say("norm", biases && !bare_ ? "layer" : "rms");
    const auto norm = [&](const std::string& name, bool in_layers) {
        for (const char* part : {".weight", ".bias"}) {
            if (part[1] == 'b' && !biases) break;
            if (in_layers) want_in_layers(name + part, {d_});
            else want(name + part, {d_});
        }
    };
    if (!bare_) norm("norm", true), norm("norm_f", false);

    int64_t    hidden = 0;
    const bool mlp =
        any("mlp.fc1.weight") || any("mlp.fc2.weight") || said_.d_intermediate.value > 0 || said_.mlp_hidden.value > 0;
    if (mlp) {
        const Tensor* fc2 = need("layers.0.mlp.fc2.weight", 2);
        if (fc2 == nullptr) return false;
        hidden = fc2->dims[1];
        norm("norm2", true);
        want_in_layers("mlp.fc1.weight", {2 * hidden, d_});
        want_in_layers("mlp.fc2.weight", {d_, hidden});
    }
    Whole rounded = said_.d_intermediate;
    rounded.value = (rounded.value + 127) / 128 * 128;
    settle(rounded, hidden);
    settle(said_.mlp_hidden, hidden);

    say("format", "ssm-float");
    say("format_version", "1");
    say("arch", arch_);
    say("d_model", d_);
    say("n_layer", n_layer_);
    say("d_inner", di_);
    say("mlp_hidden", hidden);
    return derive_ends();
}

bool Converter::derive_mamba1() {
    const std::string at = "layers.0.mixer.";
    const Tensor *    A = need(at + "A_log", 2), *r = A == nullptr ? nullptr : need(at + "dt_proj.weight", 2),
                 *conv = r == nullptr ? nullptr : need(at + "conv1d.weight", 3);
    if (conv == nullptr) return false;
    const int64_t N = A->dims[1], dt_rank = r->dims[1], K = conv->dims[2];
    settle(said_.d_state, N);
    settle(said_.dt_rank, dt_rank);
    settle(said_.d_conv, K);
    const bool bias = any("mixer.in_proj.bias") || any("mixer.out_proj.bias") || (said_.bias.given && said_.bias.value);
    const bool conv_bias = any("mixer.conv1d.bias") || (said_.conv_bias.given && said_.conv_bias.value);
    settle(said_.bias, bias);
    settle(said_.conv_bias, conv_bias);
    want_in_layers("mixer.in_proj.weight", {2 * di_, d_});
    if (bias) want_in_layers("mixer.in_proj.bias", {2 * di_}), want_in_layers("mixer.out_proj.bias", {d_});
    want_in_layers("mixer.conv1d.weight", {di_, 1, K});
    if (conv_bias) want_in_layers("mixer.conv1d.bias", {di_});
    want_in_layers("mixer.x_proj.weight", {dt_rank + 2 * N, di_});
    want_in_layers("mixer.dt_proj.weight", {di_, dt_rank});
    want_in_layers("mixer.dt_proj.bias", {di_});
    want_in_layers("mixer.A_log", {di_, N});
    want_in_layers("mixer.D", {di_});
    say("d_state", N);
    say("d_conv", K);
    say("dt_rank", dt_rank);
    return true;
}

bool Converter::derive_mamba2() {
    const std::string at = "layers.0.mixer.";
    const Tensor *    in = find(at + "in_proj.weight"), *dt = need(at + "dt_bias", 1),
                 *conv = dt == nullptr ? nullptr : need(at + "conv1d.weight", 3);
    if (conv == nullptr) return false;
    const int64_t H = dt->dims[0], K = conv->dims[2], both = in->dims[0] - 2 * di_ - H; // both: rows of B and C
    if (both < 2 || both % 2 != 0)
        return refuse(*in, std::to_string(in->dims[0]) + " rows, expected 2 * " + std::to_string(di_) +
                               " + 2 * ngroups * d_state + " + std::to_string(H) + " (d_inner, heads)");
    const int64_t ds = conv->dims[0] - both;
    if (ds < 1 || ds > di_ || ds % H != 0)
        return refuse(*conv, std::to_string(conv->dims[0]) + " channels, expected " + std::to_string(both) +
                                 " for B and C and a multiple of " + std::to_string(H) + " heads, at most " +
                                 std::to_string(di_));
    // Shapes give the product of groups and states only.
    const int64_t G = said_.ngroups.given ? said_.ngroups.value : said_.ngroups_default;
    const int64_t N = said_.d_state.given ? said_.d_state.value : 128;
    if (N > both || G > both || G * N != both / 2)
        return refuse(*in, std::to_string(both / 2) + " rows each for B and C, expected " + std::to_string(G) + " * " +
                               std::to_string(N) + " (ngroups" + (said_.ngroups.given ? "" : " by default") +
                               " * d_state" + (said_.d_state.given ? ")" : " by default)"));
    if (H % G != 0 || ds % G != 0)
        return refuse(*dt, std::to_string(H) + " heads, expected a multiple of " + std::to_string(G) + " groups");
    settle(said_.nheads, H);
    settle(said_.headdim, ds / H);
    settle(said_.d_conv, K);
    settle(said_.d_ssm, ds);
    const bool bias = any("mixer.in_proj.bias") || any("mixer.out_proj.bias") || (said_.bias.given && said_.bias.value);
    const bool conv_bias = any("mixer.conv1d.bias") || (said_.conv_bias.given && said_.conv_bias.value);
    const bool gated = any("mixer.norm.weight") || (said_.rmsnorm.given && said_.rmsnorm.value);
    settle(said_.bias, bias);
    settle(said_.conv_bias, conv_bias);
    settle(said_.rmsnorm, gated);
    bool before = said_.norm_before_gate.value;
    if (before && said_.hf) { // its code gates first in every case; a default of its configs said otherwise
        warn(said_.norm_before_gate.name +
             " is true, but models of the \"-hf\" form gate first whatever it says: used false");
        before = false;
    }
    want_in_layers("mixer.in_proj.weight", {2 * di_ + both + H, d_});
    if (bias) want_in_layers("mixer.in_proj.bias", {2 * di_ + both + H}), want_in_layers("mixer.out_proj.bias", {d_});
    want_in_layers("mixer.conv1d.weight", {ds + both, 1, K});
    if (conv_bias) want_in_layers("mixer.conv1d.bias", {ds + both});
    want_in_layers("mixer.dt_bias", {H});
    want_in_layers("mixer.A_log", {H});
    const Tensor* D = find(at + "D"); // one number a head, or one a channel
    want_in_layers("mixer.D", {D != nullptr && D->dims == std::vector<int64_t>{ds} ? ds : H});
    if (gated) want_in_layers("mixer.norm.weight", {ds});
    say("d_state", N);
    say("headdim", ds / H);
    say("ngroups", G);
    say("d_conv", K);
    say("d_ssm", ds);
    say("norm_before_gate", word(before));
    return true;
}

bool Converter::derive_mamba3() {
    const std::string at = "layers.0.mixer.";
    const Tensor *in = find(at + "in_proj.weight"), *out = find(at + "out_proj.weight"), *B = need(at + "B_bias", 3);
    if (B == nullptr) return false;
    const int64_t H = B->dims[0], R = B->dims[1], N = B->dims[2];
    if (di_ % H != 0)
        return refuse(*out,
                      "shape " + out->shape + ", expected columns in a multiple of " + std::to_string(H) + " heads");
    // Angles take fewer rows than one group of B and C, so the rows of in_proj tell both numbers.
    const auto    angles = [&](float fraction) { return static_cast<int64_t>(double(N) * double(fraction)) / 2; };
    const int64_t rest = in->dims[0] - 2 * di_ - 3 * H, unit = 2 * N * R;
    const int64_t G = rest > 0 ? rest / unit : 0, S = rest > 0 ? rest % unit : 0;
    if (G < 1 || S < 1 || H % G != 0 || (S != angles(0.5f) && S != angles(1.0f))) {
        const int64_t wanted = said_.ngroups.given ? said_.ngroups.value : 1;
        const float   fraction = said_.rope_fraction.given && said_.rope_fraction.value >= 1.0f ? 1.0f : 0.5f;
        return refuse(*in, std::to_string(in->dims[0]) + " rows, expected " +
                               (wanted <= H ? std::to_string(2 * di_ + unit * wanted + 3 * H + angles(fraction)) + " "
                                            : "others ") +
                               "(d_inner " + std::to_string(di_) + ", d_state " + std::to_string(N) + ", " +
                               std::to_string(H) + " heads, rank " + std::to_string(R) + ", ngroups " +
                               std::to_string(wanted) + ", rope_fraction " + text_of(fraction) + ")");
    }
    const bool mimo = any("mixer.mimo_x") || any("mixer.mimo_z") || any("mixer.mimo_o") || said_.is_mimo.value || R > 1;
    const bool out_norm = any("mixer.norm.weight") || said_.is_outproj_norm.value;
    if (mimo && N % 2 != 0) return refuse(*B, "shape " + B->shape + ", expected an even d_state with MIMO");
    settle(said_.d_state, N);
    settle(said_.nheads, H);
    settle(said_.headdim, di_ / H);
    settle(said_.ngroups, G);
    settle(said_.is_mimo, mimo);
    if (mimo || said_.flat) settle(said_.mimo_rank, R); // an official config may hold a rank that is not used
    settle(said_.rope_angles, S);
    settle(said_.is_outproj_norm, out_norm);
    if (said_.rope_fraction.given && angles(said_.rope_fraction.value) != S) {
        const char* used = S == angles(0.5f) ? "0.5" : "1";
        warn(said_.rope_fraction.name + " is " + said_.rope_fraction.text + ", the tensors say " + used + ": used " +
             used);
    }
    want_in_layers("mixer.in_proj.weight", {in->dims[0], d_});
    want_in_layers("mixer.dt_bias", {H});
    for (const char* name : {"mixer.B_bias", "mixer.C_bias"}) want_in_layers(name, {H, R, N});
    for (const char* name : {"mixer.B_norm.weight", "mixer.C_norm.weight"}) want_in_layers(name, {N});
    want_in_layers("mixer.D", {H});
    if (mimo)
        for (const char* name : {"mixer.mimo_x", "mixer.mimo_z", "mixer.mimo_o"}) want_in_layers(name, {H, R, di_ / H});
    if (out_norm) want_in_layers("mixer.norm.weight", {di_});
    say("d_state", N);
    say("headdim", di_ / H);
    say("ngroups", G);
    say("is_mimo", word(mimo));
    say("mimo_rank", R);
    say("rope_angles", S);
    say("is_outproj_norm", word(out_norm));
    say("a_activation", activation_ != nullptr     ? activation_
                        : said_.a_activation.given ? said_.a_activation.value
                                                   : "heavy_tail");
    say("a_floor", text_of(said_.a_floor.given ? said_.a_floor.value : 1e-4f));
    return true;
}

// What stands in front of the layers and behind them.
bool Converter::derive_ends() {
    Tensor *embedding = find("embedding.weight"), *projection = find("input_proj.weight"), *head = find("head.weight");
    const bool tokens = embedding != nullptr || said_.vocab_size.given || said_.input.value == "tokens" ||
                        (head != nullptr && head->from == "lm_head.weight");
    const bool  features = !tokens && (projection != nullptr || said_.input.value == "features");
    const char* input = tokens ? "tokens" : features ? "features" : "none";
    settle(said_.input, std::string(input), input);
    say("input", input);
    int64_t V = 0;
    if (tokens) {
        if ((embedding = need("embedding.weight", 2)) == nullptr) return false;
        V = embedding->dims[0];
        want("embedding.weight", {V, d_});
        // Rows behind the vocabulary pad it to a multiple; only a config tells them from tokens.
        int64_t       size = V;
        const int64_t pad = said_.pad.given ? said_.pad.value : said_.pad_default, vocab = said_.vocab_size.value;
        if (said_.vocab_size.given) {
            const bool fits = said_.flat ? vocab <= V : (vocab + pad - 1) / pad * pad == V;
            if (fits) size = vocab;
            else
                warn(said_.vocab_size.name + " is " + said_.vocab_size.text +
                     (pad > 1 ? ", padded to a multiple of " + std::to_string(pad) : "") + ", the tensors say " +
                     std::to_string(V) + ": used " + std::to_string(V));
        }
        say("vocab_size", size);
    }
    if (features) {
        if ((projection = need("input_proj.weight", 2)) == nullptr) return false;
        want("input_proj.weight", {d_, projection->dims[1]});
        if (find("input_proj.bias") != nullptr) want("input_proj.bias", {d_});
        settle(said_.d_input, projection->dims[1]);
        say("d_input", projection->dims[1]);
    }

    // The head. A tied one is the embedding; its second copy is dropped where it is one.
    const bool  asked = said_.tie.given && !said_.tie.value; // for a head of its own
    bool        tied = false;
    const auto& t = said_.tie;
    if (head != nullptr && tokens && !asked && said_.head.value != "none") {
        const ssm::Entry &a = *embedding->entry, &b = *head->entry;
        tied = a.dtype == b.dtype && embedding->dims == head->dims && find("head.bias") == nullptr &&
               std::memcmp(file_.index.data + a.begin, file_.index.data + b.begin, size_t(a.end - a.begin)) == 0;
        settle(t, tied, begins(t.text, "\"") ? (tied ? "tied" : "linear") : word(tied));
        if (tied) {
            by_name_.erase("head.weight");
            head->dropped = true;
            head = nullptr;
        }
    } else if (head == nullptr && tokens && !asked && said_.head.value != "none") tied = true;
    const bool linear = head != nullptr || (asked && !bare_ && (tokens || said_.head.given));
    if (linear) {
        if ((head = need("head.weight", 2)) == nullptr) return false;
        const bool    public_code = head->from == "lm_head.weight";
        const int64_t rows = public_code && tokens ? V : head->dims[0];
        want("head.weight", {rows, d_});
        if (find("head.bias") != nullptr) want("head.bias", {rows});
        settle(said_.d_output, rows);
        if (rows != V) say("d_output", rows);
    } else if (features) say("d_output", d_);
    const char* kind = linear ? "linear" : tied ? "tied" : "none";
    if (said_.head.value == "none") settle(said_.head, std::string(kind), kind);
    say("head", kind);
    return true;
}

// ---- The whole

bool Converter::check_all() {
    const Want* first = nullptr;
    size_t      missing = 0, surplus = 0;
    for (const Want& w : wants_) {
        Tensor* t = find(w.name);
        if (t != nullptr) t->used = true;
        else if (missing++ == 0) first = &w;
    }
    if (missing > 0) {
        const size_t  dot = begins(first->name, "layers.") ? first->name.find('.', 7) : 0;
        const int64_t layer = dot > 7 ? std::stoll(first->name.substr(7, dot - 7)) : 0;
        const auto    stands = [&](const char* rest) {
            return find("layers." + std::to_string(layer) + ".mixer." + rest) != nullptr;
        };
        std::string why;
        if (dot > 7 && layers_.count(layer) == 0) why = std::string(": ") + join_first;
        else if (dot > 7 && stands("in_proj.weight") && !stands("D") && !stands("A_log") && !stands("B_bias"))
            why = ": attention layers are not supported, if this is one";
        return refuse("tensor " + quoted(in_file(first->name)) + ": missing, expected shape " + text_of(first->dims) +
                      (missing > 1 ? ", " + std::to_string(missing) + " missing in all" : "") + why);
    }
    const Tensor* extra = nullptr;
    for (const Tensor& t : tensors_)
        if (!t.kept && !t.used && !t.dropped) {
            ++surplus;
            if (extra == nullptr || t.from < extra->from) extra = &t;
        }
    if (surplus > 0)
        return refuse(*extra, "found, expected no such tensor in " + arch_ +
                                  (surplus > 1 ? ", " + std::to_string(surplus) + " such tensors in all" : ""));
    for (const Want& w : wants_) {
        const Tensor&          t = *find(w.name);
        const std::string_view dtype = ssm::dtype_name(t.entry->dtype);
        if (t.dims != w.dims) return refuse(t, "shape " + t.shape + ", expected " + text_of(w.dims));
        if (dtype != "F32" && dtype != "F16" && dtype != "BF16")
            return refuse(t, "dtype " + std::string(dtype) + ", expected F32, F16 or BF16");
    }
    return true;
}

// What the input says beside its config. What golden files say about their tensors stays with these.
bool Converter::keep_metadata() {
    static const std::set<std::string> kept = {"task", "labels", "provenance", "clip", "sample_rate"};
    static const std::set<std::string> of_golden = {
        "scope", "T", "mid_steps", "input_kind", "seed", "note", "weight_dtype", "vocab_padded", "rms_output"};
    Source source;
    source.lead = quoted_path(in_) + ": metadata ";
    for (int32_t i = 0; i < file_.index.n_entries; ++i) {
        const ssm::Entry& e = file_.index.entries[i];
        if (e.value == nullptr) continue;
        const std::string key = unescape(e.name, size_t(e.name_len)), value = unescape(e.value, size_t(e.value_len));
        if (key == "pool" || key == "clip") {
            Value& v = source.values[key] = from_metadata(value);
            if (v.kind == Value::Kind::null) v.kind = Value::Kind::text; // no value of these two
        }
        if (arch_ == "s4d" || kept.count(key) > 0 ||
            (has_kept_ && (of_golden.count(key) > 0 || begins(key, "absmax_") || begins(key, "f32_max_abs_err_"))))
            metadata_.emplace(key, value); // what is there already was derived
    }
    if (arch_ == "s4d") return true;
    ConfigReader r(source);
    Word         pool;
    Real         clip;
    r.choice(&pool, "pool", {"none", "last", "mean"});
    r.real(&clip, "clip", true);
    say("pool", pool.given ? pool.value : "none");
    if (bare_) say("scope", "mixer");
    else if (metadata_.count("scope") > 0 && metadata_["scope"] == "mixer") metadata_.erase("scope");
    return r.good;
}

// An S4D model is complete in itself; the loader knows what it must have.
bool Converter::s4d() {
    ssm::Config                      config;
    ssm::Fault                       fault;
    const size_t                     bytes = ssm::index_bytes(file_.blob);
    std::unique_ptr<unsigned char[]> memory(new unsigned char[bytes + 1]);
    const ssm::Status                s = ssm::inspect(&config, file_.blob, memory.get(), bytes, &fault);
    if (s != ssm::Status::ok) return refuse(describe(s, fault));
    say("format", "ssm-float");
    say("format_version", "1");
    say("arch", "s4d");
    return true;
}

int Converter::write() {
    struct stat info;
    if (::stat(out_, &info) == 0 && !S_ISREG(info.st_mode))
        return fail(io_error, "convert", quoted_path(out_) + ": is not a regular file, cannot be saved to");
    const auto size = [](const Tensor& t) { // of an element, in bytes
        const int32_t bits = ssm::dtype_bits(t.entry->dtype);
        return bits >= 8 ? bits / 8 : 1;
    };
    std::sort(tensors_.begin(), tensors_.end(),
              [&](const Tensor& a, const Tensor& b) { return size(a) != size(b) ? size(a) > size(b) : a.to < b.to; });
    std::string header = "{\"__metadata__\":{";
    for (const auto& entry : metadata_)
        header += (header.back() == '{' ? "" : ",") + json_quoted(entry.first) + ":" + json_quoted(entry.second);
    header += "}";
    std::vector<std::pair<const void*, size_t>> pieces(2);
    uint64_t                                    at = 0;
    for (const Tensor& t : tensors_) {
        if (t.dropped) continue;
        const uint64_t bytes = t.entry->end - t.entry->begin;
        header += "," + json_quoted(t.to) + ":{\"dtype\":\"" + ssm::dtype_name(t.entry->dtype) +
                  "\",\"shape\":" + t.shape + ",\"data_offsets\":[" + std::to_string(at) + "," +
                  std::to_string(at + bytes) + "]}";
        at += bytes;
        pieces.emplace_back(file_.index.data + t.entry->begin, size_t(bytes));
    }
    header += "}";
    header.resize((header.size() + 8 + 63) / 64 * 64 - 8, ' '); // data begin on a cache line
    if (header.size() > ssm::max_header_bytes)
        return refuse("its names make a header beyond the format's limit"), bad_file;
    unsigned char length[8];
    for (int i = 0; i < 8; ++i) length[i] = static_cast<unsigned char>(uint64_t(header.size()) >> (8 * i));
    pieces[0] = {length, sizeof length};
    pieces[1] = {header.data(), header.size()};
    std::string error;
    if (!write_file_atomically(out_, pieces, &error))
        return fail(io_error, "convert", quoted_path(out_) + ": " + error);
    return done;
}

int Converter::run() {
    if (same_file(in_, out_)) return fail(bad_usage, "convert", "IN and OUT are the same file, " + quoted_path(in_));
    if (config_ != nullptr && same_file(config_, out_))
        return fail(bad_usage, "convert", "--config and OUT are the same file, " + quoted_path(out_));
    int status = known_to_be_else();
    if (status != go_on) return status;
    if ((status = open_container("convert", in_, &file_)) != done) return status;
    std::string format;
    if (file_.metadata("format", &format) && format == "ssm-int")
        return refuse("metadata \"format\": found ssm-int, a quantized model, expected a float model"), bad_file;
    if (format == "ssm-float" && file_.metadata("format_version", &format) && format != "1")
        return refuse("metadata \"format_version\": found " + quoted(format) + ", expected 1"), bad_file;
    if (!collect()) return bad_file;
    if (arch_ == "s4d") {
        if (config_ != nullptr || activation_ != nullptr)
            return fail(bad_usage, "convert",
                        "--config and --a-activation go with Mamba models, " + quoted_path(in_) + " is an S4D model");
        if (!s4d()) return bad_file;
    } else {
        if (activation_ != nullptr && arch_ != "mamba3")
            return fail(bad_usage, "convert", "--a-activation goes with Mamba-3, " + quoted_path(in_) + " is " + arch_);
        if ((status = find_config()) != done) return status;
        if (!derive() || !check_all()) return bad_file;
    }
    if (!keep_metadata()) return bad_file;
    for (const std::string& warning : warnings_) complain("convert", warning);
    return write();
}
} // namespace

int verb_convert(int argc, char** argv) {
    const char *config = nullptr, *activation = nullptr, *array = nullptr;
    Options     options("convert", help);
    options.text("--config", &config).word("--a-activation", &activation, {"heavy_tail", "softplus"});
    const int status = options.text("--c-array", &array).read(argc, argv, 0, 2);
    if (status != go_on) return status;
    if (options.operands.size() != (array != nullptr ? 1 : 2))
        return fail(bad_usage, "convert",
                    (array != nullptr ? "expected 1 file with --c-array, got " : "expected 2 operands, got ") +
                        std::to_string(options.operands.size()) + "; see ssm convert --help");
    if (array != nullptr && (config != nullptr || activation != nullptr))
        return fail(bad_usage, "convert", "--config and --a-activation do not go with --c-array: convert first");
    if (array != nullptr) return write_c_array(options.operands[0], array);
    return Converter(options.operands[0], options.operands[1], config, activation).run();
}
