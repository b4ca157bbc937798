// selftest.cpp - `ssm selftest`: replays golden files on every back-end of this machine.
// SPDX-License-Identifier: MIT
#include "gpu.hpp"
#include "selftest.hpp"

#include <cinttypes>
#include <cstdio>

namespace {
using namespace tool;

const char help[] =
    "usage: ssm selftest FILE... [--isa NAME] [--cuda]\n"
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
    "--cuda: then on the first GPU as well, in batches of 1, 7, 64 and 4096 streams and candidates and by prefill: a "
    "line\n"
    "is ok, and repeats the digest, if all outputs and states have the CPU's bits.\n"
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
    out->before = bytes_of(state), out->x = x;
    for (size_t t = 0; t < steps; ++t)
        if (ssm::step(m.model, &state, &scratch, &x[t * d_in], &y[t * d_out]) != ssm::Status::ok)
            return bad("a step was refused");
    out->after = bytes_of(state), out->y = y;
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

// What `r` says was run, on the GPU in batches of n. done, or a status with its message.
template <class N>
int replay_gpu(const OpenModel& m, const Result& r, const std::vector<N>& input, const std::vector<N>& dt,
               const std::vector<N>& output, int32_t n, std::string* problem) {
    const size_t d_in = size_t(m.config.d_input), d_out = size_t(m.config.d_output), T = output.size() / d_out,
                 rows = size_t(n);
    const bool                 integer = ssm::is_integer(m.config);
    std::vector<unsigned char> memory(r.after.size()), start = r.before;
    const ssm::State           before{start.data(), start.size()};
    ssm::State                 after{memory.data(), memory.size()};
    std::vector<int32_t>       slots(rows);
    std::vector<N>             x(rows * d_in), y(rows * d_out), each(rows);
    Digest                     digest;
    Gpu                        gpu;
    if (const int status = gpu.open("selftest", m.model, n, n)) return status;
    const auto put = [&] {
        bool ok = true;
        for (int32_t i = 0; i < n; ++i)
            slots[size_t(i)] = i, ok = ok && gpu.put_state(i, before) == ssm::Status::ok;
        return ok;
    };
    const auto same = [&](size_t t, const char* what) {
        for (size_t i = 0; i < rows; ++i)
            if (std::memcmp(&y[i * d_out], &output[t * d_out], d_out * 4) != 0)
                *problem = std::string(what) + " in a batch of " + std::to_string(n) + " gives other bits than the CPU";
    };
    const auto same_states = [&](const char* what) {
        bool ok = true;
        for (int32_t i = 0; integer && i < n; i += n > 64 ? 63 : 1) {
            ok = ok && gpu.get_state(i, &after) == ssm::Status::ok;
            if (memory != r.after)
                *problem =
                    std::string(what) + " in a batch of " + std::to_string(n) + " leaves another state than the CPU";
        }
        return ok;
    };
    if (!put()) return io_error;
    for (size_t t = 0; t < T; ++t) {
        for (size_t i = 0; i < rows; ++i) {
            std::memcpy(&x[i * d_in], &input[t * d_in], d_in * 4);
            if (!dt.empty()) each[i] = dt[t];
        }
        const N* since = dt.empty() ? nullptr : each.data();
        if (t % 8 == 3) {
            if (gpu.candidates(n - 1, x.data(), n, y.data(), since) != ssm::Status::ok) return io_error;
            same(t, "step_batch");
        }
        if (gpu.step(slots.data(), x.data(), n, y.data(), since) != ssm::Status::ok) return io_error;
        same(t, "step");
        digest.add(&y[(rows - 1) * d_out], d_out);
    }
    if (digest.h != r.digest) *problem = "another digest than the CPU's in a batch of " + std::to_string(n);
    if (!same_states("step") || !put()) return io_error;
    if (n > 64) return done;
    std::vector<N> all, all_dt;
    for (size_t i = 0; i < rows; ++i) {
        all.insert(all.end(), input.begin(), input.end());
        all_dt.insert(all_dt.end(), dt.begin(), dt.end());
    }
    const N* since = dt.empty() ? nullptr : all_dt.data();
    if (gpu.prefill(slots.data(), all.data(), n, int32_t(T), y.data(), since) != ssm::Status::ok) return io_error;
    same(T - 1, "prefill");
    return same_states("prefill") ? done : io_error;
}
} // namespace

int verb_selftest(int argc, char** argv) {
    ssm::Isa isa = ssm::Isa::best;
    bool     cuda = false;
    Options  options("selftest", help);
    options.isa(&isa).flag("--cuda", &cuda);
    int status = options.read(argc, argv, 1, SIZE_MAX);
    if (status != go_on) return status;
    std::vector<ssm::Isa> all = back_ends();
    if (isa != ssm::Isa::best) all = {isa};
    if (cuda && (status = Gpu::available("selftest")) != done) return status;

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
        Result   last;
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
            last = r;
        }
        if (cuda && status == done) {
            OpenModel   m;
            std::string problem;
            if ((status = open_model("selftest", path, file, all[0], 1, 1, &m)) != done) break;
            for (int32_t n : {1, 7, 64, 4096})
                if (status == done)
                    status = last.x_q16.empty()
                                 ? replay_gpu<float>(m, last, last.x, {}, last.y, n, &problem)
                                 : replay_gpu<int32_t>(m, last, last.x_q16, last.dt_q16, last.y_q16, n, &problem);
            if (status != done) return status;
            char text[80];
            std::snprintf(text, sizeof text, "ok digest=%016" PRIx64, last.digest);
            out.write(escape(path, 160) + " cuda " + (problem.empty() ? text : "FAIL (" + problem + ")") + "\n");
            if (!problem.empty()) worst = std::max(worst, some_failed);
        }
        worst = std::max(worst, status);
    }
    const int written = finish("selftest", &out);
    return written != done ? written : worst;
}
