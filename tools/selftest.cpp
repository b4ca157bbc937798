// selftest.cpp - `ssm selftest`: replays golden files on every back-end of this machine.
// SPDX-License-Identifier: MIT
#include "tool.hpp"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace {
using namespace tool;

const char help[] =
    "usage: ssm selftest FILE... [--isa NAME]\n"
    "\n"
    "Replays golden files (format s4d-golden-1) on every back-end of this machine, or on the one named. A line each:\n"
    "\n"
    "  FILE BACK-END ok|FAIL err=... tol=... digest=...\n"
    "\n"
    "err is the largest difference from the reference, tol what is allowed there: 1e-4 max(1, max|reference|), with a "
    "state\n"
    "clip 1e-4 max|reference|, for outputs and for the state after the last step. The digest is the 64-bit FNV-1a hash "
    "of all\n"
    "output floats. Every back-end must give the same digest, and so must the same steps in uneven pieces.\n"
    "Exit status 1 if anything fails.\n";

// An F32 or F64 tensor as doubles. False if it is not there, or of another dtype or size.
bool values(const Container& file, const char* name, size_t count, std::vector<double>* out) {
    const ssm::Entry* e = ssm::find_tensor(file.index, name);
    if (e == nullptr) return false;
    const bool wide = std::strcmp(ssm::dtype_name(e->dtype), "F64") == 0;
    if (!wide && std::strcmp(ssm::dtype_name(e->dtype), "F32") != 0) return false;
    const size_t size = wide ? 8 : 4;
    if ((e->end - e->begin) / size != count) return false;
    out->resize(count);
    for (size_t i = 0; i < count; ++i) {
        const unsigned char* p = file.index.data + e->begin + i * size;
        uint64_t             bits = 0;
        for (size_t k = 0; k < size; ++k) bits |= uint64_t(p[k]) << 8 * k;
        if (wide) std::memcpy(&(*out)[i], &bits, 8);
        else {
            const uint32_t half = uint32_t(bits);
            float          v;
            std::memcpy(&v, &half, 4);
            (*out)[i] = static_cast<double>(v);
        }
    }
    return true;
}

// The worst of several comparisons, measured in tolerances.
struct Worst {
    double err = 0.0, tol = 0.0, ratio = -1.0;
    void   compare(const float* got, const std::vector<double>& want, bool relative) {
          double top = relative ? 0.0 : 1.0, difference = 0.0;
          for (size_t i = 0; i < want.size(); ++i) {
              top = std::max(top, std::fabs(want[i]));
              const double d = std::fabs(static_cast<double>(got[i]) - want[i]);
              difference = d <= difference ? difference : d; // NaN stays
        }
          const double allowed = 1e-4 * top, r = allowed > 0.0 ? difference / allowed : difference;
          if (!(r <= ratio)) err = difference, tol = allowed, ratio = r;
    }
    bool good() const { return ratio >= 0.0 && err <= tol; }
};

struct Digest {
    uint64_t h = 0xcbf29ce484222325u; // FNV-1a
    void     add(const float* y, size_t n) {
            for (size_t i = 0; i < n; ++i) {
                uint32_t bits;
                std::memcpy(&bits, y + i, 4);
                for (int k = 0; k < 4; ++k) h = (h ^ (bits >> 8 * k & 255u)) * 0x100000001b3u;
        }
    }
};

struct Result {
    Worst       worst;
    uint64_t    digest = 0;
    std::string problem; // what else is wrong; empty: nothing
};

// One file on one back-end. False if the file is not what it should be: the message is out by then.
int replay(const char* path, const Container& file, ssm::Isa isa, Result* out) {
    const auto bad = [&](const std::string& what) {
        return fail(bad_file, "selftest", escape(path, 160) + ": " + what);
    };
    constexpr int32_t batch = 16;
    OpenModel         m;
    int               status = open_model("selftest", path, file, isa, 2, batch, &m);
    if (status != done) return status;
    const ssm::Config& c = m.config;
    ssm::State         state, other;
    ssm::Scratch       scratch;
    if (ssm::make_state(&state, m.model, &m.arena) != ssm::Status::ok ||
        ssm::make_state(&other, m.model, &m.arena) != ssm::Status::ok ||
        ssm::make_scratch(&scratch, m.model, batch, &m.arena) != ssm::Status::ok)
        return bad("the memory for it is too small");

    // 1. The input, and what should come out.
    const ssm::Entry* input = ssm::find_tensor(file.index, "test.input");
    int64_t           dims[ssm::max_rank];
    if (input == nullptr) return bad("tensor \"test.input\": missing");
    const int64_t count = ssm::shape_of(*input, dims);
    if (input->rank != 2 || dims[1] != c.d_input || count <= 0)
        return bad("tensor \"test.input\": wrong shape, expected [L, d_input]");
    const size_t        steps = size_t(dims[0]), d_in = size_t(c.d_input), d_out = size_t(c.d_output);
    std::vector<double> wide, want;
    if (!values(file, "test.input", size_t(count), &wide)) return bad("tensor \"test.input\": expected dtype F32");
    std::vector<float> x(wide.size()), y(steps * d_out);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(wide[i]);
    const bool each = c.pool == ssm::Pool::none;
    if (!values(file, "test.output", each ? y.size() : d_out, &want))
        return bad("tensor \"test.output\": missing, or not F64 with a value for each output");

    // 2. One step at a time.
    for (size_t t = 0; t < steps; ++t)
        if (ssm::step(m.model, &state, &scratch, &x[t * d_in], &y[t * d_out]) != ssm::Status::ok)
            return bad("a step was refused");
    const bool relative = c.state_clip > 0.0f;
    out->worst.compare(each ? y.data() : &y[(steps - 1) * d_out], want, relative);
    Digest digest;
    digest.add(y.data(), y.size());
    out->digest = digest.h;

    // 3. The state after the last step: [H][N/2][re im] in the file, [block of 8][mode][re im][8] here.
    const size_t       H = size_t(c.d_model), n = size_t(c.d_state / 2);
    const char*        bytes = static_cast<const char*>(state.data) + ssm::detail::state_header_bytes;
    std::vector<float> got(H * n * 2);
    for (int32_t l = 0; l < c.n_layers; ++l) {
        const std::string name = "test.layer" + std::to_string(l) + ".state";
        if (!values(file, name.c_str(), got.size(), &want))
            return bad("tensor \"" + name + "\": missing, or not F64 [H, N/2, 2]");
        const size_t first = ssm::detail::pool_floats(c) + size_t(l) * ssm::detail::modes(c) * 2;
        for (size_t h = 0; h < H; ++h)
            for (size_t j = 0; j < n; ++j)
                for (size_t part = 0; part < 2; ++part)
                    std::memcpy(&got[(h * n + j) * 2 + part],
                                bytes + (first + ((h / 8 * n + j) * 2 + part) * 8 + h % 8) * sizeof(float),
                                sizeof(float));
        out->worst.compare(got.data(), want, relative);
    }

    // 4. The same in uneven pieces, beyond and below the scratch's batch; and each step as a candidate first.
    const size_t       pieces[] = {1, 3, 17, 2, 40, 5};
    std::vector<float> last(d_out);
    size_t             at = 0;
    for (size_t k = 0; at < steps; ++k) {
        const size_t piece = std::min(pieces[k % 6], steps - at);
        if (ssm::step_batch(m.model, other, &scratch, &x[at * d_in], 1, last.data()) != ssm::Status::ok ||
            std::memcmp(last.data(), &y[at * d_out], d_out * sizeof(float)) != 0)
            out->problem = "step_batch gives other bits than step";
        const ssm::Status s = ssm::prefill(m.model, &other, &scratch, &x[at * d_in], int32_t(piece), last.data());
        at += piece;
        if (s != ssm::Status::ok || std::memcmp(last.data(), &y[(at - 1) * d_out], d_out * sizeof(float)) != 0)
            out->problem = "prefill gives other bits than step";
    }
    if (std::memcmp(state.data, other.data, ssm::state_bytes(c)) != 0)
        out->problem = "prefill leaves another state than step";
    return done;
}
} // namespace

int verb_selftest(int argc, char** argv) {
    ssm::Isa isa = ssm::Isa::best;
    Options  options("selftest", help);
    options.isa(&isa);
    int status = options.read(argc, argv, 1, SIZE_MAX);
    if (status != go_on) return status;
    std::vector<ssm::Isa> all = back_ends();
    if (isa != ssm::Isa::best) all = {isa};

    Output out(1);
    int    worst = done;
    for (const char* path : options.operands) {
        Container   file;
        std::string format;
        status = open_container("selftest", path, &file);
        if (status == done && (!file.metadata("format", &format) || format != "s4d-golden-1"))
            status = fail(bad_file, "selftest",
                          escape(path, 160) + ": metadata \"format\": got \"" + escape(format) +
                              "\", expected s4d-golden-1");
        bool     first = true;
        uint64_t digest = 0;
        for (size_t i = 0; i < all.size() && status == done; ++i) {
            Result r;
            if ((status = replay(path, file, all[i], &r)) != done) break;
            if (!first && r.digest != digest) r.problem = "other bits than the first back-end";
            first = false, digest = r.digest;
            const bool good = r.worst.good() && r.problem.empty();
            char       text[128];
            std::snprintf(text, sizeof text, " %s %s err=%.3g tol=%.3g digest=%016" PRIx64, ssm::isa_name(all[i]),
                          good ? "ok" : "FAIL", r.worst.err, r.worst.tol, r.digest);
            out.write(escape(path, 160) + text + (r.problem.empty() ? "" : " (" + r.problem + ")") + "\n");
            if (!good) worst = std::max(worst, some_failed);
        }
        worst = std::max(worst, status);
    }
    const int written = finish("selftest", &out);
    return written != done ? written : worst;
}
