// selftest_integer.cpp - replays golden files of integer models: every integer must be the same.
// SPDX-License-Identifier: MIT
#include "selftest.hpp"

#include <map>

namespace tool {
namespace {

// A tensor of any integer dtype.
bool integers(const Container& file, const std::string& name, std::vector<int64_t>* out) {
    const ssm::Entry* e = ssm::find_tensor(file.index, name.c_str());
    if (e == nullptr) return false;
    const char*  dtype = ssm::dtype_name(e->dtype);
    const size_t size = size_t(ssm::dtype_bits(e->dtype)) / 8;
    if ((dtype[0] != 'I' && dtype[0] != 'U') || size == 0) return false;
    out->resize(size_t(e->end - e->begin) / size);
    for (size_t i = 0; i < out->size(); ++i) {
        uint64_t bits = 0;
        for (size_t k = 0; k < size; ++k) bits |= uint64_t(file.index.data[e->begin + i * size + k]) << 8 * k;
        const unsigned unused = unsigned(64 - 8 * size);
        (*out)[i] = dtype[0] == 'U' ? int64_t(bits) : int64_t(bits << unused) >> unused;
    }
    return true;
}

struct Replay {
    const OpenModel&                            m;
    const Container&                            file;
    Result*                                     out;
    std::string                                 missing; // a tensor the file should have
    std::map<std::string, std::vector<int32_t>> stages;  // of layer 0, in the order they came

    static void see(void* user, const char* stage, int32_t layer, int32_t, const int32_t* values, int32_t count) {
        std::vector<int32_t>& v = static_cast<Replay*>(user)->stages[stage];
        if (layer == 0) v.insert(v.end(), values, values + count);
    }
    std::vector<int32_t> part(const ssm::State& s, int32_t layer, ssm::Part p) const {
        const int32_t        n = ssm::get_state_int(m.model, s, layer, p, nullptr);
        std::vector<int32_t> v(n > 0 ? size_t(n) : 0);
        if (n > 0) ssm::get_state_int(m.model, s, layer, p, v.data());
        return v;
    }
    void compare(const std::string& name, const std::vector<int64_t>& got) {
        std::vector<int64_t> want;
        if (!integers(file, name, &want) || want.size() != got.size()) {
            if (missing.empty()) missing = name;
            return;
        }
        for (size_t i = 0; i < want.size(); ++i)
            out->worst.note(std::fabs(static_cast<double>(got[i]) - static_cast<double>(want[i])), 0.0);
    }
    void compare(const std::string& name, const std::vector<int32_t>& got, bool turns = false) {
        std::vector<int64_t> wide(got.begin(), got.end());
        for (int64_t& v : wide)
            if (turns) v &= 0xffffffff;
        compare(name, wide);
    }
    void compare_state(const ssm::State& s) {
        const ssm::Config& c = m.config;
        const bool         codes = c.state == ssm::StateType::i16rowexp;
        for (int32_t l = 0; l < c.n_layers; ++l) {
            const std::string at = "final.layers." + std::to_string(l) + ".";
            if (c.arch == ssm::Arch::s4d) {
                compare("final.s4_layers." + std::to_string(l) + ".x", part(s, l, ssm::Part::ssm_state));
                continue;
            }
            compare(at + (codes ? "h16" : "h"), part(s, l, ssm::Part::ssm_state));
            if (codes) compare(at + "hexp", part(s, l, ssm::Part::exponents));
            if (c.arch != ssm::Arch::mamba3) {
                compare(at + "conv", part(s, l, ssm::Part::conv_state));
                continue;
            }
            compare(at + "theta", part(s, l, ssm::Part::angle_state), true);
            compare(at + "k", part(s, l, ssm::Part::k_state)), compare(at + "v", part(s, l, ssm::Part::v_state));
        }
        const std::vector<int32_t> pool = part(s, 0, ssm::Part::pool);
        if (pool.empty()) return;
        const size_t         d = size_t(c.d_model);
        std::vector<int64_t> sums(d);
        for (size_t k = 0; k < d; ++k)
            sums[k] = int64_t(uint64_t(uint32_t(pool[k])) | uint64_t(uint32_t(pool[d + k])) << 32);
        compare("final.pool.sum", sums), compare("final.pool.count", std::vector<int64_t>{pool[2 * d]});
    }
};
} // namespace

int replay_integer(const char* path, const Container& file, ssm::Isa isa, Result* out) {
    const auto bad = [&](const std::string& what) {
        return fail(bad_file, "selftest", escape(path, 160) + ": " + what);
    };
    constexpr int32_t batch = 16;
    OpenModel         m;
    const int         status = open_model("selftest", path, file, isa, 2, batch, &m);
    if (status != done) return status;
    const ssm::Config& c = m.config;
    ssm::State         state, other;
    ssm::Scratch       scratch;
    if (ssm::make_state(&state, m.model, &m.arena) != ssm::Status::ok ||
        ssm::make_state(&other, m.model, &m.arena) != ssm::Status::ok ||
        ssm::make_scratch(&scratch, m.model, batch, &m.arena) != ssm::Status::ok)
        return bad("the memory for it is too small");

    // 1. The input: tokens, or floats; and the time between.
    const size_t         d_in = size_t(c.d_input), d_out = size_t(c.d_output);
    std::vector<int64_t> ids, gaps;
    std::vector<float>   x;
    const ssm::Entry*    input = ssm::find_tensor(file.index, "test.input");
    if (input == nullptr) return bad("tensor \"test.input\": missing");
    if (c.input == ssm::Input::tokens) {
        if (!integers(file, "test.input", &ids)) return bad("tensor \"test.input\": expected I32 [T]");
        x.resize(ids.size() * d_in);
        for (size_t t = 0; t < ids.size(); ++t)
            if (ssm::embed(m.model, int32_t(ids[t]), &x[t * d_in]) != ssm::Status::ok)
                return bad("a token is out of range");
    } else {
        int64_t             dims[ssm::max_rank];
        std::vector<double> wide;
        if (ssm::shape_of(*input, dims) <= 0 || input->rank != 2 || dims[1] != c.d_input ||
            !values(file, "test.input", size_t(dims[0] * dims[1]), &wide))
            return bad("tensor \"test.input\": expected F32 [T, d_input]");
        x.assign(wide.begin(), wide.end());
    }
    const size_t         T = x.size() / d_in;
    std::vector<int32_t> dt(T, 65536);
    if (integers(file, "test.dt_scale", &gaps)) {
        if (gaps.size() != T) return bad("tensor \"test.dt_scale\": expected I32 [T]");
        dt.assign(gaps.begin(), gaps.end());
    }

    // 2. One step at a time, watched, in the engine's own numbers.
    out->before = bytes_of(state);
    Replay               replay{m, file, out, "", {}};
    ssm::Trace           trace{};
    ssm::Scratch         watched = scratch;
    std::vector<int32_t> in(x.size()), y(T * d_out);
    for (size_t i = 0; i < x.size(); ++i) in[i] = ssm::to_q16(x[i]);
    trace.user = &replay, trace.see_int = Replay::see, watched.trace = &trace;
    Digest digest;
    for (size_t t = 0; t < T; ++t) {
        if (ssm::step_q16(m.model, &state, &watched, &in[t * d_in], &y[t * d_out], dt[t]) != ssm::Status::ok)
            return bad("a step was refused");
        if (c.arch == ssm::Arch::mamba3 || c.arch == ssm::Arch::s4d) {
            const std::vector<int32_t> h = replay.part(state, 0, ssm::Part::ssm_state);
            Replay::see(&replay, c.arch == ssm::Arch::s4d ? "state0" : "h_row", 0, 0, h.data(), c.d_state);
        }
    }
    digest.add(y.data(), y.size());
    out->digest = digest.h;
    out->after = bytes_of(state);
    out->x_q16 = in, out->y_q16 = y;
    if (!gaps.empty()) out->dt_q16 = dt;
    replay.compare("test.output", y);
    replay.compare_state(state);
    for (const ssm::Entry* e = file.index.entries; e != file.index.entries + file.index.n_entries; ++e) {
        const std::string name = unescape(e->name, size_t(e->name_len));
        if (e->value != nullptr || name.compare(0, 6, "trace.") != 0) continue;
        replay.compare(name, replay.stages[name.substr(6)], name == "trace.theta");
    }
    if (!replay.missing.empty()) return bad("tensor \"" + replay.missing + "\": missing, or of another size");
    std::string stated;
    char        text[24];
    std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(out->digest));
    if (file.metadata("digest", &stated) && stated != text) out->problem = "the file says digest " + stated;
    if (gaps.empty()) { // the same in floats, which say the same as long as they hold 24 bits
        std::vector<float> outputs(T * d_out);
        for (size_t i = 0; i < y.size(); ++i) outputs[i] = ssm::from_q16(y[i]);
        same_in_pieces(m, state, &other, &scratch, x, outputs, &out->problem);
    }
    return done;
}
} // namespace tool
