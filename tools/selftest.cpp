// selftest.cpp - `ssm selftest`: replays golden files on every back-end of this machine.
// SPDX-License-Identifier: MIT
#include "selftest.hpp"

#include <cinttypes>
#include <cstdio>

namespace {
using namespace tool;

const char help[] =
    "usage: ssm selftest FILE... [--isa NAME]\n"
    "\n"
    "Replays golden files on every back-end of this machine, or on the one named. A line each:\n"
    "\n"
    "  FILE BACK-END ok|FAIL err=... tol=... digest=...\n"
    "\n"
    "err and tol are the difference from the reference and what is allowed there, at the worst place. S4D files "
    "(format\n"
    "s4d-golden-1): 1e-4 max(1, max|reference|), with a state clip 1e-4 max|reference|, for outputs and for the state\n"
    "after the last step. Mamba files (tensors golden.*): ten times the error of a plain float evaluation, which the\n"
    "file states for every step, and 1e-6 max|reference|; for outputs, for states in the middle and at the end, for a\n"
    "run that starts in the middle, and for every intermediate value the file has. Integer models (format ssm-int, "
    "tensors\n"
    "test.*): every integer must be the same.\n"
    "The digest is the 64-bit FNV-1a hash of all outputs, floats or Q16. Every back-end must give the same digest, and so must\n"
    "the same steps in uneven pieces and as candidates.\n"
    "Exit status 1 if anything fails.\n";

// One file on one back-end. False if the file is not what it should be: the message is out by then.
int replay_s4d(const char* path, const Container& file, ssm::Isa isa, Result* out) {
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
        const size_t first = ssm::detail::pool_words(c) + size_t(l) * ssm::detail::modes(c) * 2;
        for (size_t h = 0; h < H; ++h)
            for (size_t j = 0; j < n; ++j)
                for (size_t part = 0; part < 2; ++part)
                    std::memcpy(&got[(h * n + j) * 2 + part],
                                bytes + (first + ((h / 8 * n + j) * 2 + part) * 8 + h % 8) * sizeof(float),
                                sizeof(float));
        out->worst.compare(got.data(), want, relative);
    }

    // 4. The same in uneven pieces, beyond and below the scratch's batch; and each step as a candidate first.
    same_in_pieces(m, state, &other, &scratch, x, y, &out->problem);
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
        const bool mamba = status == done && ssm::find_tensor(file.index, "golden.f32_err_output") != nullptr;
        const bool integer = status == done && file.metadata("format", &format) && format == "ssm-int";
        if (status == done && !mamba && !integer && format != "s4d-golden-1")
            status = fail(bad_file, "selftest",
                          escape(path, 160) + ": metadata \"format\": got \"" + escape(format) +
                              "\", expected s4d-golden-1 or ssm-int, or a tensor \"golden.f32_err_output\"");
        bool     first = true;
        uint64_t digest = 0;
        for (size_t i = 0; i < all.size() && status == done; ++i) {
            Result r;
            if ((status = (mamba ? replay_mamba : integer ? replay_integer : replay_s4d)(path, file, all[i], &r)) != done) break;
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
