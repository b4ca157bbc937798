// main.cpp - integer models on every back-end of this machine: every integer that a golden file states must come out.
// SPDX-License-Identifier: MIT
//
// levels.sh builds it with several compilers and levels. It prints one line, the digest of all outputs and states, or
// what went wrong.
#include "../../tools/selftest.hpp"

#include <cstdio>

namespace {

// A model without inputs of its own, on a made-up stream: small numbers, large ones, and the limits.
int run_stream(const char* path, const tool::Container& file, ssm::Isa isa, tool::Result* out) {
    constexpr size_t steps = 400;
    tool::OpenModel  m;
    const int        status = tool::open_model("levels", path, file, isa, 1, 8, &m);
    if (status != tool::done) return status;
    ssm::State   state;
    ssm::Scratch scratch;
    if (ssm::make_state(&state, m.model, &m.arena) != ssm::Status::ok ||
        ssm::make_scratch(&scratch, m.model, 8, &m.arena) != ssm::Status::ok)
        return tool::fail(tool::bad_file, "levels", std::string(path) + ": the memory for it is too small");
    std::vector<int32_t> x(size_t(m.config.d_input)), y(size_t(m.config.d_output));
    uint64_t             random = 1;
    tool::Digest         digest;
    for (size_t t = 0; t < steps; ++t) {
        for (int32_t& v : x) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            const uint64_t any = random >> 33; // 31 bits
            const auto     size = int32_t(t % 16 == 15 ? INT32_MAX : t % 4 == 3 ? any : any >> 13);
            v = (random >> 32 & 1u) != 0 ? -size : size;
        }
        if (ssm::step_q16(m.model, &state, &scratch, x.data(), y.data()) != ssm::Status::ok)
            return tool::fail(tool::bad_file, "levels", std::string(path) + ": a step was refused");
        digest.add(y.data(), y.size());
    }
    std::vector<unsigned char> saved((ssm::saved_bytes(m.config) + 3) / 4 * 4);
    ssm::save(m.model, state, saved.data(), saved.size());
    digest.add(reinterpret_cast<const uint32_t*>(saved.data()), saved.size() / 4);
    out->digest = digest.h;
    out->worst.note(0.0, 0.0); // nothing is stated for it
    return tool::done;
}
} // namespace

int main(int argc, char** argv) {
    tool::Digest all;
    int          good = 0;
    for (int i = 1; i < argc; ++i) {
        uint64_t first = 0;
        size_t   n = 0;
        for (ssm::Isa isa : tool::back_ends()) {
            tool::Container file;
            tool::Result    r;
            if (tool::open_container("levels", argv[i], &file) != tool::done) return 1;
            const bool golden = ssm::find_tensor(file.index, "test.input") != nullptr;
            if ((golden ? tool::replay_integer : run_stream)(argv[i], file, isa, &r) != tool::done) return 1;
            if (n++ == 0) first = r.digest;
            if (!r.worst.good() || !r.problem.empty() || r.digest != first) {
                std::printf("%s %s: %s\n", argv[i], ssm::isa_name(isa),
                            !r.problem.empty()  ? r.problem.c_str()
                            : r.digest != first ? "other bits than scalar"
                                                : "not the integers that the file states");
                return 1;
            }
            ++good;
            const uint32_t halves[] = {uint32_t(r.digest), uint32_t(r.digest >> 32)};
            all.add(halves, 2);
        }
    }
    if (good == 0) return std::printf("no model\n"), 1;
    std::printf("%016llx\n", static_cast<unsigned long long>(all.h));
    return 0;
}
