// selftest_mamba.cpp - replays golden files of the Mamba cells: outputs, states, and intermediate values.
// SPDX-License-Identifier: MIT
#include "selftest.hpp"

#include <map>

namespace tool {
namespace {

// What a traced call leaves: every stage's values in the order they came.
struct Seen {
    std::map<std::string, std::vector<float>> stages;
    static void see(void* user, const char* stage, int32_t, int32_t, const float* values, int32_t count) {
        std::vector<float>& v = static_cast<Seen*>(user)->stages[stage];
        v.insert(v.end(), values, values + count);
    }
};

double largest(const std::vector<double>& v) {
    double top = 0.0;
    for (double x : v) top = std::max(top, std::fabs(x));
    return top;
}

struct Part {
    const char* name;
    ssm::Part   part;
};
constexpr Part parts[] = {{"ssm_state", ssm::Part::ssm_state},
                          {"conv_state", ssm::Part::conv_state},
                          {"angle_state", ssm::Part::angle_state},
                          {"k_state", ssm::Part::k_state},
                          {"v_state", ssm::Part::v_state}};

double difference(double got, double want, bool angle) {
    double d = std::fabs(got - want);
    if (angle) d = std::min(d, std::fabs(6.283185307179586477 - d));
    return d;
}

struct Replay {
    const OpenModel& m;
    const Container& file;
    Result*          out;
    std::string      problem; // the file is not what it should be

    double metadata_number(const std::string& key) {
        std::string text;
        float       v = 0.0f;
        if (!file.metadata(key.c_str(), &text) || ssm::parse_float(text.data(), text.size(), &v) != text.size())
            problem = "metadata \"" + key + "\": missing, or not a number";
        return static_cast<double>(v);
    }
    std::string tensor_of(const char* when, int32_t layer, const char* part) const {
        return std::string("golden.") + when + ".layers." + std::to_string(layer) + "." + part;
    }
    void put_state(ssm::State* s, const char* when) {
        for (int32_t l = 0; l < m.config.n_layers; ++l)
            for (const Part& p : parts) {
                const int32_t       n = ssm::get_state(m.model, *s, l, p.part, nullptr);
                std::vector<double> wide;
                const std::string   name = tensor_of(when, l, p.name);
                if (n == 0) continue;
                if (!values(file, name.c_str(), size_t(n), &wide)) {
                    problem = "tensor \"" + name + "\": missing, or not F32 of the state's size";
                    return;
                }
                std::vector<float> v(wide.begin(), wide.end());
                if (!ssm::set_state(m.model, s, l, p.part, v.data(), n)) problem = "tensor \"" + name + "\": refused";
            }
    }
    void compare_state(const ssm::State& s, const char* when) {
        for (int32_t l = 0; l < m.config.n_layers; ++l)
            for (const Part& p : parts) {
                std::vector<float>  got(size_t(ssm::get_state(m.model, s, l, p.part, nullptr)));
                std::vector<double> want;
                const std::string   name = tensor_of(when, l, p.name);
                if (got.empty()) continue;
                if (!values(file, name.c_str(), got.size(), &want)) {
                    problem = "tensor \"" + name + "\": missing, or not F32 of the state's size";
                    return;
                }
                ssm::get_state(m.model, s, l, p.part, got.data());
                const double tol =
                    10.0 * metadata_number(std::string("f32_max_abs_err_") + p.name) + 1e-6 * largest(want);
                const bool angle = p.part == ssm::Part::angle_state;
                for (size_t i = 0; i < want.size(); ++i)
                    out->worst.note(difference(static_cast<double>(got[i]), want[i], angle), tol);
            }
    }
    // got [T][n] from step `first` on, against want [T][n] and one error a step.
    void compare_rows(const std::vector<float>& got, const std::vector<double>& want, const std::vector<double>& errors,
                      size_t first, size_t n) {
        for (size_t t = first; t < errors.size(); ++t) {
            double top = 0.0;
            for (size_t i = 0; i < n; ++i) top = std::max(top, std::fabs(want[t * n + i]));
            for (size_t i = 0; i < n; ++i)
                out->worst.note(std::fabs(static_cast<double>(got[(t - first) * n + i]) - want[t * n + i]),
                                10.0 * errors[t] + 1e-6 * top);
        }
    }
};

// Integers of an I32 tensor.
bool integers(const Container& file, const char* name, std::vector<int32_t>* out) {
    const ssm::Entry* e = ssm::find_tensor(file.index, name);
    if (e == nullptr || e->rank != 1 || std::strcmp(ssm::dtype_name(e->dtype), "I32") != 0) return false;
    out->resize(size_t(e->end - e->begin) / 4);
    for (size_t i = 0; i < out->size(); ++i) {
        const unsigned char* p = file.index.data + e->begin + 4 * i;
        (*out)[i] = int32_t(uint32_t(p[0]) | uint32_t(p[1]) << 8 | uint32_t(p[2]) << 16 | uint32_t(p[3]) << 24);
    }
    return true;
}
} // namespace

int replay_mamba(const char* path, const Container& file, ssm::Isa isa, Result* out) {
    const auto bad = [&](const std::string& what) {
        return fail(bad_file, "selftest", escape(path, 160) + ": " + what);
    };
    constexpr int32_t batch = 16;
    OpenModel         m;
    const int         status = open_model("selftest", path, file, isa, 3, batch, &m);
    if (status != done) return status;
    const ssm::Config& c = m.config;
    ssm::State         state, other, middle;
    ssm::Scratch       scratch;
    if (ssm::make_state(&state, m.model, &m.arena) != ssm::Status::ok ||
        ssm::make_state(&other, m.model, &m.arena) != ssm::Status::ok ||
        ssm::make_state(&middle, m.model, &m.arena) != ssm::Status::ok ||
        ssm::make_scratch(&scratch, m.model, batch, &m.arena) != ssm::Status::ok)
        return bad("the memory for it is too small");
    const size_t d = size_t(c.d_model), d_out = size_t(c.d_output);
    Replay       replay{m, file, out, ""};

    // 1. The input, and what should come out.
    std::vector<double>  wide, want, errors;
    std::vector<int32_t> ids;
    std::vector<float>   x;
    if (c.input == ssm::Input::tokens) {
        if (!integers(file, "golden.input_ids", &ids))
            return bad("tensor \"golden.input_ids\": missing, or not I32 [T]");
        x.resize(ids.size() * d);
        for (size_t t = 0; t < ids.size(); ++t)
            if (ssm::embed(m.model, ids[t], &x[t * d]) != ssm::Status::ok) return bad("a token is out of range");
    } else {
        const ssm::Entry* e = ssm::find_tensor(file.index, "golden.input");
        int64_t           dims[ssm::max_rank];
        if (e == nullptr || c.input != ssm::Input::vectors || ssm::shape_of(*e, dims) <= 0 || e->rank != 2 ||
            dims[1] != c.d_model || !values(file, "golden.input", size_t(dims[0] * dims[1]), &wide))
            return bad("tensor \"golden.input\": missing, or not F32 [T, d_model]");
        x.assign(wide.begin(), wide.end());
    }
    const size_t T = x.size() / d, mid = size_t(replay.metadata_number("mid_steps"));
    const bool   tokens = c.input == ssm::Input::tokens; // then the file has logits, else the last norm's output
    const size_t n = tokens ? d_out : d;
    if (!tokens && !values(file, "golden.output", T * d, &want))
        return bad("tensor \"golden.output\": missing, or not F32 [T, d_model]");
    if (tokens) { // without the padding of the vocabulary
        const ssm::Entry* e = ssm::find_tensor(file.index, "golden.logits");
        int64_t           dims[ssm::max_rank];
        if (e == nullptr || e->rank != 2 || ssm::shape_of(*e, dims) < int64_t(T * d_out) || dims[1] < c.d_output ||
            !values(file, "golden.logits", T * size_t(dims[1]), &wide))
            return bad("tensor \"golden.logits\": missing, or not F32 [T, vocabulary]");
        for (size_t t = 0; t < T; ++t)
            for (size_t i = 0; i < d_out; ++i) want.push_back(wide[t * size_t(dims[1]) + i]);
    }
    if (!values(file, "golden.f32_err_output", T, &errors))
        return bad("tensor \"golden.f32_err_output\": missing, or not F32 [T]");
    if (mid == 0 || mid >= T) return bad("metadata \"mid_steps\": outside the run");

    // 2. One step at a time, watched; the states half way and at the end.
    if (ssm::find_tensor(file.index, "golden.initial.layers.0.ssm_state") != nullptr)
        replay.put_state(&state, "initial"), replay.put_state(&other, "initial");
    out->before = bytes_of(state), out->x = x;
    Seen         seen;
    ssm::Trace   trace{Seen::see, &seen};
    ssm::Scratch watched = scratch;
    watched.trace = &trace;
    std::vector<float> y(T * d_out);
    for (size_t t = 0; t < T; ++t) {
        if (ssm::step(m.model, &state, &watched, &x[t * d], &y[t * d_out]) != ssm::Status::ok)
            return bad("a step was refused");
        if (t + 1 == mid) replay.compare_state(state, "mid");
    }
    out->after = bytes_of(state), out->y = y;
    replay.compare_state(state, "final");
    replay.compare_rows(tokens ? y : seen.stages["output"], want, errors, 0, n);
    Digest digest;
    digest.add(y.data(), y.size());
    out->digest = digest.h;

    // 3. Every intermediate value the file has. What a stage may be off: as the state it goes into, else 1e-5.
    for (const ssm::Entry* e = file.index.entries; e != file.index.entries + file.index.n_entries; ++e) {
        const std::string name = unescape(e->name, size_t(e->name_len));
        if (e->value != nullptr || name.compare(0, 13, "golden.trace.") != 0) continue;
        const std::string   stage = name.substr(13);
        std::vector<double> wanted;
        int64_t             dims[ssm::max_rank];
        if (!values(file, name.c_str(), size_t(ssm::shape_of(*e, dims)), &wanted))
            return bad("tensor \"" + name + "\": not F32");
        const std::vector<float>& got = seen.stages[stage];
        if (got.size() != wanted.size()) {
            out->problem = "the stage " + stage + " is missing or of another size";
            continue;
        }
        const bool   angle = stage == "angle";
        const char*  like = angle ? "angle_state" : stage == "k" || stage == "q" ? "k_state" : nullptr;
        const double tol =
            (like != nullptr ? 10.0 * replay.metadata_number(std::string("f32_max_abs_err_") + like) : 0.0) +
            (like != nullptr ? 1e-6 : 1e-5) * largest(wanted);
        for (size_t i = 0; i < wanted.size(); ++i)
            out->worst.note(difference(static_cast<double>(got[i]), wanted[i], angle), tol);
    }

    // 4. From the middle of the file's run, and the whole run in uneven pieces.
    replay.put_state(&middle, "mid");
    std::vector<float> second((T - mid) * d_out);
    for (size_t t = mid; t < T; ++t)
        if (ssm::step(m.model, &middle, &scratch, &x[t * d], &second[(t - mid) * d_out]) != ssm::Status::ok)
            return bad("a step was refused");
    replay.compare_rows(second, want, errors, mid, n);
    replay.compare_state(middle, "final");
    if (!replay.problem.empty()) return bad(replay.problem);
    same_in_pieces(m, state, &other, &scratch, x, y, &out->problem);
    return done;
}
} // namespace tool
