// load.cpp - fuzz target for model files: the container against a second opinion, then loading and a step.
//
// Build with clang -fsanitize=fuzzer,address,undefined, or with replay.cpp to run it over given files.
// SPDX-License-Identifier: MIT
#include "fuzz.hpp"

#include "../strict_checker.hpp"

using fuzz::require;
using fuzz::sink;

namespace {

// Every entry is found under its own name, lies in the buffer, and is what the second opinion read.
void compare(const ssm::Index& ix, const strict::File& second) {
    require(size_t(ix.n_tensors) == second.tensors.size(), "number of tensors");
    require(size_t(ix.n_entries) == second.tensors.size() + second.metadata.size(), "number of entries");
    for (int32_t i = 0; i < ix.n_entries; ++i) {
        const ssm::Entry&      e = ix.entries[i];
        const ssm::json::Token t{ssm::json::Kind::string, e.name, size_t(e.name_len)};
        std::string            name(ssm::json::unescape(t, nullptr, 0), '?');
        ssm::json::unescape(t, &name[0], name.size());
        if (name.find('\0') == std::string::npos)
            require((e.value != nullptr ? ssm::find_metadata(ix, name.c_str()) : ssm::find_tensor(ix, name.c_str())) ==
                        &e,
                    "find");
        if (e.value != nullptr) {
            require(second.metadata.count(name) == 1, "metadata key");
            continue;
        }
        const auto at = second.tensors.find(name);
        int64_t    dims[ssm::max_rank];
        require(at != second.tensors.end() && at->second.dtype == ssm::dtype_name(e.dtype) &&
                    at->second.begin == e.begin && at->second.end == e.end,
                "tensor");
        require(e.end <= ix.data_bytes && at->second.shape.size() == e.rank, "tensor");
        sink = sink + uint64_t(ssm::shape_of(e, dims));
        for (uint64_t k = e.begin; k < e.end; k += 1 + (e.end - e.begin) / 16) sink = sink + ix.data[k];
    }
}

// A model that loads must run. What comes out may be anything its weights say.
void run(const ssm::Blob& blob, const ssm::Config& c) {
    if (ssm::arena_bytes(c, 1, 2) > (size_t(1) << 26)) return; // the fuzzer's own limit of memory
    const size_t                     bytes = ssm::arena_bytes(c, 1, 2);
    std::unique_ptr<unsigned char[]> memory(new unsigned char[bytes]);
    ssm::Arena                       arena{memory.get(), bytes, 0};
    ssm::Model                       model;
    ssm::State                       state;
    ssm::Scratch                     scratch;
    if (ssm::load(&model, blob, &arena) != ssm::Status::ok) {
        require(arena.used == 0 && model.kernels == nullptr, "a failed load left something behind");
        return;
    }
    require(ssm::make_state(&state, model, &arena) == ssm::Status::ok, "make_state");
    require(ssm::make_scratch(&scratch, model, 2, &arena) == ssm::Status::ok, "make_scratch");
    std::vector<float> x(2 * size_t(c.d_input), 0.5f), y(2 * size_t(c.d_output));
    for (int i = 0; i < 2; ++i) sink = sink + uint64_t(ssm::step(model, &state, &scratch, x.data(), y.data()));
    sink = sink + uint64_t(ssm::step_batch(model, state, &scratch, x.data(), 2, y.data()));
}
} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    // Blocks of exactly the sizes needed, so that every read or write past them is seen.
    fuzz::Indexed     f(data, size);
    const ssm::Index& index = f.index;
    const ssm::Fault& fault = f.fault;
    const ssm::Status status = f.status;
    require(status == ssm::Status::ok || (index.entries == nullptr && fault.detail[0] != '\0'),
            "a refusal without a reason");
    require(std::memchr(fault.name, 0, sizeof fault.name) != nullptr, "a name without its end");

    strict::File second;
    bool         valid = true;
    try {
        second = strict::check(std::string(data, data + size));
    } catch (const strict::Refused&) {
        valid = false;
    }
    require(valid == (status == ssm::Status::ok), "the two readers disagree");

    // The header's text also goes to the number reader.
    float x = 0;
    if (size > 8) sink = sink + ssm::parse_float(f.copy.text() + 8, size - 8, &x);
    if (!valid) return 0;
    compare(index, second);
    ssm::Config c;
    if (ssm::inspect(&c, f.blob, f.at(), f.need, &f.fault) == ssm::Status::ok) run(f.blob, c);
    return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
    size = LLVMFuzzerMutate(data, size, max_size);
    fuzz::repair_length(data, size, seed);
    return size;
}
