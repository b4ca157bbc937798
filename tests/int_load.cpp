// int_load.cpp - every limit that the loader of integer models checks: a file at it loads and runs, one past it is
// refused with its own status and a line that names the tensor or the key. SPDX-License-Identifier: MIT
#include "int_models.hpp"

#include <functional>

using namespace test;

namespace {

// One of every cell and form: S4D with gaps; Mamba-3 with int4 and int8 rows, MIMO with an outproj norm, tokens with an
// MLP, head and LayerNorm; Mamba-2; Mamba-1.
std::vector<Builder> models() {
    std::vector<Builder> all;
    for (const char* name :
         {"05_s4d_w8a8_gap", "09_m3_siso_w4a8_gates8", "12_m3_mimo_r4_rope10_outnorm",
          "17_m3_l2_tokens_mlp_layernorm_tied_softA", "14_m3_l2_features_head", "18_m2_w8a8", "19_m1_w8a8"})
        all.push_back(golden_parts(name));
    return all;
}
Builder made(const std::string& text, bool int4 = false) {
    quantize::Settings settings;
    settings.int4 = int4;
    return parts_of_file(int_model(spec(text), settings));
}

struct Outcome {
    ssm::Status status;
    ssm::Fault  fault;
};
// Loads the file and takes a step of it.
Outcome outcome(const Builder& b) {
    const Bytes     file = b.file();
    const ssm::Blob blob{file.data(), file.size()};
    Outcome         o;
    ssm::Config     c;
    Bytes           memory(ssm::index_bytes(blob));
    o.status = ssm::inspect(&c, blob, memory.data(), memory.size(), &o.fault);
    if (o.status != ssm::Status::ok) return o;
    Bytes        room(ssm::arena_bytes(c));
    ssm::Arena   arena{room.data(), room.size(), 0};
    ssm::Model   m;
    ssm::State   state;
    ssm::Scratch scratch;
    o.status = ssm::load(&m, blob, &arena, {}, &o.fault);
    if (o.status != ssm::Status::ok) {
        CHECK(arena.used == 0);
        CHECK(m.kernels == nullptr);
        return o;
    }
    REQUIRE(ssm::make_state(&state, m, &arena) == ssm::Status::ok);
    REQUIRE(ssm::make_scratch(&scratch, m, 1, &arena) == ssm::Status::ok);
    const std::vector<int32_t> x(size_t(c.d_input), 40000);
    std::vector<int32_t>       y(size_t(c.d_output));
    REQUIRE(ssm::step_q16(m, &state, &scratch, x.data(), y.data()) == ssm::Status::ok);
    return o;
}
void accepted(const Builder& b, const std::string& what) {
    const Outcome o = outcome(b);
    CHECK_MESSAGE(o.status == ssm::Status::ok, what, ": ", std::string(o.fault.name), ": ",
                  std::string(o.fault.detail));
}
void refused(const Builder& b, ssm::Status status, const std::string& name, const std::string& what) {
    const Outcome o = outcome(b);
    CHECK_MESSAGE(o.status == status, what, ": ", std::string(ssm::message(o.status)), ", ", std::string(o.fault.name),
                  ": ", std::string(o.fault.detail));
    CHECK_MESSAGE(std::string(o.fault.name) == name, what, ": ", std::string(o.fault.detail));
    const std::string detail = o.fault.detail;
    CHECK_MESSAGE(!detail.empty(), what);
    CHECK_MESSAGE(detail.find('\n') == std::string::npos, what);
}

int64_t count_of(const Builder::Tensor& t) {
    int64_t n = 1;
    for (int64_t d : t.shape) n *= d;
    return n;
}
size_t width_of(const std::string& dtype) {
    return dtype == "I8" || dtype == "U8" ? 1 : dtype == "I16" ? 2 : dtype == "I64" || dtype == "F64" ? 8 : 4;
}
void put(Builder& b, const std::string& name, int64_t index, int64_t value) {
    Builder::Tensor& t = b.tensors.at(name);
    const size_t     width = width_of(t.dtype);
    std::memcpy(t.data.data() + size_t(index) * width, &value, width); // these machines are little-endian
}
bool ends(const std::string& name, const char* with) {
    const std::string end = with;
    return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
}
// Every tensor of every model: f(the model, to be changed, the tensor's name).
void each_tensor(const std::function<void(Builder, const std::string&)>& f) {
    for (const Builder& b : models())
        for (const auto& t : b.tensors) f(b, t.first);
}
using ssm::Status;
} // namespace

TEST_CASE("N-06 integer loader: a number at the least of its type is refused, the next one not, in every tensor") {
    each_tensor([](Builder b, const std::string& name) {
        const std::string dtype = b.tensors.at(name).dtype;
        const int64_t     last = count_of(b.tensors.at(name)) - 1;
        if (dtype == "F32") return;
        const int64_t least = dtype == "U8" ? 0 : -(int64_t(1) << (8 * width_of(dtype) - 2)) * 2;
        put(b, name, last, least);
        if (dtype == "U8" || dtype == "I64") return accepted(b, name); // any bits are two codes, or an angle
        refused(b, Status::bad_value, name, name + " at its type's least");
        const bool bounded = ends(name, ".kernel.a") || ends(name, ".rho") || ends(name, ".mixer.A");
        put(b, name, last, least + 1);
        if (bounded) refused(b, Status::bad_value, name, name + " past its own bound");
        else accepted(b, name + " one above its type's least");
        put(b, name, last, bounded && ends(name, ".a") ? 0 : -(least + 1));
        accepted(b, name + " at its type's most");
    });
}

TEST_CASE("N-01 integer loader: scales are normal floats between 0 and 1") {
    each_tensor([](Builder b, const std::string& name) {
        if (b.tensors.at(name).dtype != "F32") return;
        const int64_t last = count_of(b.tensors.at(name)) - 1;
        for (uint32_t good : {0x3f7fffffu, 0x00800000u, 0x3f000000u}) // below 1; the least normal one; a half
            put(b, name, last, good), accepted(b, name);
        for (uint32_t bad : {0x3f800000u, 0x40000000u, 0x7f7fffffu, 0x00000000u, 0x80000000u, 0x00000001u, 0x007fffffu,
                             0x7fc00000u, 0x7f800000u, 0xff800000u, 0xbf000000u, 0x80800000u, 0xffffffffu})
            put(b, name, last, bad), refused(b, Status::bad_value, name, name + " with bits " + std::to_string(bad));
    });
}

TEST_CASE("N-02 integer loader: decay rates are positive, rho is not negative, no mode grows") {
    each_tensor([](Builder b, const std::string& name) {
        const bool A = ends(name, ".mixer.A"), rho = ends(name, ".rho"), a = ends(name, ".kernel.a");
        if (A || rho)
            for (int64_t v : {-1, 0, 1}) {
                put(b, name, 1, v);
                if (v >= (A ? 1 : 0)) accepted(b, name);
                else refused(b, Status::bad_value, name, name);
            }
        if (!a) return;
        const int64_t one = int64_t(1) << 30, half = 759250124; // half^2 = 2^59, rounded down
        REQUIRE(half * half <= int64_t(1) << 59);
        REQUIRE((half + 1) * (half + 1) > int64_t(1) << 59);
        struct {
            int64_t re, im;
            bool    good;
        } const cases[] = {{one, 0, true},         {0, -one, true},  {-one, 0, true},     {half, -half, true},
                           {one, 1, false},        {-1, one, false}, {one + 1, 0, false}, {half + 1, half + 1, false},
                           {0, 1 - 2 * one, false}};
        for (const auto& c : cases) {
            put(b, name, 2, c.re), put(b, name, 3, c.im);
            if (c.good) accepted(b, name);
            else refused(b, Status::bad_value, name, name);
        }
    });
}

TEST_CASE("F-06 integer loader: a tensor of another dtype, another shape, missing or without a place") {
    each_tensor([](Builder b, const std::string& name) {
        const Builder::Tensor t = b.tensors.at(name);
        Builder::Tensor&      now = b.tensors.at(name);
        for (const char* dtype : {"I8", "U8", "I16", "I32", "I64", "F32", "BF16", "U32"}) {
            if (t.dtype == dtype) continue;
            const size_t width = std::string(dtype) == "BF16" ? 2 : width_of(dtype);
            now = {dtype, t.shape, Bytes(size_t(count_of(t)) * width, 0x11)};
            refused(b, Status::bad_dtype, name, name + " as " + dtype);
        }
        const auto shaped = [&](const std::vector<int64_t>& shape) {
            now = {t.dtype, shape, {}};
            now.data.assign(size_t(count_of(now)) * width_of(t.dtype), 0x11);
            refused(b, Status::bad_shape, name, name + " of another shape");
        };
        std::vector<int64_t> shape = t.shape;
        shape.back() += 1, shaped(shape);
        shape.back() -= 2, shaped(shape);
        shape = t.shape, shape.push_back(1), shaped(shape);
        b.tensors.erase(name);
        const Outcome o = outcome(b);
        const bool    projection_bias =
            ends(name, ".bias") && b.tensors.count(name.substr(0, name.size() - 5) + ".scale") != 0;
        if (projection_bias || ends(name, "conv1d.bias") ||
            (name == "layers.0.mixer.norm.weight" && b.metadata.at("arch") == "mamba2"))
            return accepted(b, name); // may be left out
        CHECK_MESSAGE(o.status != Status::ok, name);
        CHECK_MESSAGE(o.fault.name[0] != '\0', name);
        // Without these, the model is another one, and the tensors that go with them are in its way.
        if (ends(name, ".q4") || ends(name, ".kernel.g")) return;
        refused(b, Status::missing_tensor, name, name + " missing");
    });
    for (Builder b : models()) {
        b.tensors["layers.0.spare.q8"] = {"I8", {2, 2}, Bytes(4, 1)};
        refused(b, Status::extra_tensor, "layers.0.spare.q8", "surplus");
        b.tensors.erase("layers.0.spare.q8");
        for (const char* passed : {"test.x", "trace.x", "final.x", "state.x"})
            b.tensors[passed] = {"I32", {1}, Bytes(4, 1)};
        accepted(b, "names that the engine passes over");
    }
}

TEST_CASE("F-06 F-07 integer loader: numbers and words of the metadata, at their limits and past them") {
    const auto with = [](Builder b, const char* key, const std::string& value) {
        b.metadata[key] = value;
        return b;
    };
    for (const Builder& b : models()) {
        for (const char* version : {"0", "2", "1.0", "", "x"})
            refused(with(b, "format_version", version), Status::bad_config, "format_version", version);
        for (const char* bits : {"0", "4", "7", "9", "15", "17", "32"})
            refused(with(b, "act_bits", bits), Status::bad_config, "act_bits", bits);
        accepted(with(b, "act_bits", "16"), "16 bits"), accepted(with(b, "act_bits", "8"), "8 bits");
        for (const char* clip : {"0", "-1", "2147483648", "99999999999999999999", "1.5"})
            refused(with(b, "clip_q25", clip), Status::bad_config, "clip_q25", clip);
        accepted(with(b, "clip_q25", "1"), "the least clip"), accepted(with(b, "clip_q25", "2147483647"), "no clip");
        refused(with(b, "state", "i8"), Status::bad_config, "state", "i8");
        refused(with(b, "arch", "s5"), Status::bad_config, "arch", "s5");
        const bool s4d = b.metadata.at("arch") == "s4d";
        if (s4d) refused(with(b, "state", "i16rowexp"), Status::bad_config, "state", "i16rowexp of S4D");
        else accepted(with(b, "state", "i16rowexp"), "i16rowexp"), accepted(with(b, "state", "i32"), "i32");
        for (const auto& m : b.metadata) { // every key that this model needs, left out
            Builder less = b;
            less.metadata.erase(m.first);
            const Outcome o = outcome(less);
            if (o.status == Status::ok) continue;
            if (m.first == "format") continue; // then it is a float model, or none
            CHECK_MESSAGE(o.status == Status::bad_config, m.first);
            CHECK_MESSAGE(std::string(o.fault.name) == m.first, o.fault.name);
        }
    }

    // A_floor of Mamba-3, the fractions of S4D.
    const Builder m3 = golden_parts("07_m3_siso_w8a8_tiny_trace"), gaps = golden_parts("05_s4d_w8a8_gap");
    accepted(with(m3, "a_floor_q26", "0"), "no floor"),
        accepted(with(m3, "a_floor_q26", "2147483647"), "the highest floor");
    refused(with(m3, "a_floor_q26", "-1"), Status::bad_config, "a_floor_q26", "-1");
    refused(with(m3, "a_floor_q26", "2147483648"), Status::bad_config, "a_floor_q26", "2^31");
    Builder plain = gaps;
    for (const char* name : {"rho", "phase", "g"}) plain.tensors.erase("s4_layers.0.kernel." + std::string(name));
    accepted(with(plain, "b_frac", "10"), "b_frac 10"), accepted(with(plain, "b_frac", "31"), "b_frac 31");
    refused(with(plain, "b_frac", "9"), Status::bad_config, "b_frac", "9");
    refused(with(plain, "b_frac", "32"), Status::bad_config, "b_frac", "32");
    accepted(with(with(gaps, "b_frac", "31"), "g_frac", "2"), "a shift by 1");
    refused(with(with(gaps, "b_frac", "31"), "g_frac", "1"), Status::bad_config, "g_frac", "a shift by 0");
    accepted(with(with(gaps, "b_frac", "10"), "g_frac", "29"), "a shift by 49");
    accepted(with(with(gaps, "b_frac", "10"), "g_frac", "31"), "a shift by 51");
    refused(with(with(gaps, "b_frac", "10"), "g_frac", "32"), Status::bad_config, "g_frac", "a shift by 52");
}

TEST_CASE("F-07 N-06 integer loader: sizes at the limits of the format run, one more is refused by its key") {
    const auto larger = [](Builder b, const char* key, int64_t value) {
        b.metadata[key] = std::to_string(value);
        refused(b, Status::bad_config, key, key + (" of " + std::to_string(value)));
    };
    // N.
    for (const char* arch : {"mamba3", "mamba2", "mamba1"}) {
        const Builder b = made(std::string(arch) + ",d_model=4,n_layer=1,d_state=256,headdim=4,dt_rank=2");
        accepted(b, arch), larger(b, "d_state", 257), larger(b, "d_state", 0);
    }
    const Builder s4d = made("s4d,d_model=4,n_layer=1,d_state=512,d_input=2,d_output=2");
    accepted(s4d, "s4d"), larger(s4d, "d_state", 513), larger(s4d, "d_state", 514), larger(s4d, "d_state", 0);
    larger(s4d, "d_state", 511); // pairs of modes

    // Ranks, angles, an odd N.
    const Builder mimo = made("mamba3,d_model=4,n_layer=1,d_state=8,headdim=4,mimo_rank=8,rope_fraction=1.0");
    accepted(mimo, "8 ranks"), larger(mimo, "mimo_rank", 9), larger(mimo, "mimo_rank", 0), larger(mimo, "d_state", 9);
    larger(mimo, "rope_angles", 5), larger(mimo, "rope_angles", 0);
    const Builder siso = made("mamba3,d_model=4,n_layer=1,d_state=9,headdim=4,rope_angles=4");
    accepted(siso, "an odd N without ranks"), larger(siso, "rope_angles", 5), larger(siso, "mimo_rank", 2);

    // Widths: of every projection's columns and every norm.
    const Builder wide = made("mamba3,d_model=16384,n_layer=1,d_inner=4,d_state=2,headdim=4,rope_angles=1");
    accepted(wide, "16384 wide"), larger(wide, "d_model", 16385);
    const Builder inner = made("mamba1,d_model=2,n_layer=1,d_inner=16384,d_state=1,dt_rank=1", true);
    accepted(inner, "16384 channels"), larger(inner, "d_inner", 16385), larger(inner, "dt_rank", 16385);
    const Builder input = made("s4d,d_model=4,n_layer=1,d_state=2,d_input=16384,d_output=2");
    accepted(input, "16384 inputs"), larger(input, "d_input", 16385);
    const Builder hidden = made("mamba1,d_model=2,n_layer=1,d_inner=2,d_state=1,dt_rank=1,mlp_hidden=16384");
    accepted(hidden, "16384 hidden"), larger(hidden, "mlp_hidden", 16385);
}

TEST_CASE("N-03 F-05: refused inputs leave the state of an integer model as it was, on every back-end") {
    for (Builder b : models())
        for (ssm::Isa isa : all_back_ends()) {
            const bool           s4d = b.metadata.at("arch") == "s4d", tokens = b.metadata["input"] == "tokens";
            Loaded               m(b.file(), 4, isa);
            const size_t         width = size_t(m.config.d_input);
            std::vector<float>   x(3 * width, 0.5f), y(3 * size_t(m.config.d_output), 7.0f);
            std::vector<int32_t> q(3 * width, 30000), yq(y.size(), 7);
            REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), 3, nullptr) == Status::ok);
            const Bytes before = state_of(m);
            const auto  unmoved = [&](Status got, Status want, const char* what) {
                CHECK_MESSAGE(got == want, b.metadata.at("arch"), " ", what, ": ", ssm::message(got));
                CHECK_MESSAGE(state_of(m) == before, what);
                for (float v : y) REQUIRE(v == 7.0f);
                for (int32_t v : yq) REQUIRE(v == 7);
            };
            for (float bad : {NAN, -NAN, HUGE_VALF, -HUGE_VALF})
                for (size_t at : {size_t(0), width - 1, 3 * width - 1}) {
                    std::vector<float> with = x;
                    with[at] = bad;
                    unmoved(ssm::prefill(m.model, &m.state, &m.scratch, with.data(), 3, y.data()), Status::bad_input,
                            "prefill");
                    if (at < width)
                        unmoved(ssm::step(m.model, &m.state, &m.scratch, with.data(), y.data()), Status::bad_input,
                                "x");
                    unmoved(ssm::step_batch(m.model, m.state, &m.scratch, with.data(), 3, y.data()), Status::bad_input,
                            "batch");
                }
            for (float dt : {0.0f, -0.0f, -1.0f, NAN, HUGE_VALF, -HUGE_VALF, 1e-6f, 1e-40f, 0x1p-18f})
                unmoved(ssm::step(m.model, &m.state, &m.scratch, x.data(), y.data(), dt), Status::bad_input, "dt");
            for (int32_t dt : {0, -1, -65536, INT32_MIN})
                unmoved(ssm::step_q16(m.model, &m.state, &m.scratch, q.data(), yq.data(), dt), Status::bad_input, "dt");
            for (size_t at : {size_t(0), width - 1}) {
                std::vector<int32_t> with = q;
                with[at] = INT32_MIN;
                unmoved(ssm::step_q16(m.model, &m.state, &m.scratch, with.data(), yq.data()), Status::bad_input,
                        "the least int32");
            }
            if (tokens)
                for (int32_t token : {-1, m.config.vocab_size, INT32_MAX, INT32_MIN})
                    unmoved(ssm::embed_q16(m.model, token, q.data()), Status::bad_input, "token");
            if (s4d) { // without gap tensors no other step than 1
                for (const char* name : {"rho", "phase", "g"})
                    b.tensors.erase("s4_layers.0.kernel." + std::string(name));
                Loaded         without(b.file(), 1, isa);
                const OwnState fresh(without.model, without.state);
                for (int32_t dt : {1, 65535, 65537, INT32_MAX})
                    CHECK(ssm::step_q16(without.model, &without.state, &without.scratch, q.data(), yq.data(), dt) ==
                          Status::unsupported);
                CHECK(std::memcmp(without.state.data, fresh.bytes.data(), fresh.bytes.size()) == 0);
                CHECK(ssm::step_q16(without.model, &without.state, &without.scratch, q.data(), yq.data(), 65536) ==
                      Status::ok);
                b = golden_parts("05_s4d_w8a8_gap");
            }
        }
}
