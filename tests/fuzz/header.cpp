// header.cpp - fuzz target: the container of a safetensors file, its index and nothing behind it. As fast as can be;
// the target `load` holds it against a second reader.
//
// Beside crashes it checks what the index promises: entries in order, each found under its own name, tensors that tile
// the buffer and are as large as their shapes say; a refusal has a reason and leaves the index alone.
// SPDX-License-Identifier: MIT
#include "fuzz.hpp"

using fuzz::require;

namespace {

void check(const ssm::Index& ix) {
    uint64_t total = 0, last = 0;
    int32_t  tensors = 0;
    for (int32_t i = 0; i < ix.n_entries; ++i) {
        const ssm::Entry& e = ix.entries[i];
        require(e.hash >= last, "entries are in order");
        last = e.hash;
        char         name[256];
        const size_t n = ssm::json::unescape({ssm::json::Kind::string, e.name, size_t(e.name_len)}, name, sizeof name);
        if (n < sizeof name && std::memchr(name, 0, n) == nullptr) {
            name[n] = 0;
            require((e.value != nullptr ? ssm::find_metadata(ix, name) : ssm::find_tensor(ix, name)) == &e,
                    "an entry is found under its name");
        }
        if (e.value != nullptr) {
            fuzz::sink = fuzz::sink + ssm::json::unescape({ssm::json::Kind::string, e.value, size_t(e.value_len)}, name,
                                                          sizeof name);
            continue;
        }
        int64_t       dims[ssm::max_rank];
        const int64_t count = ssm::shape_of(e, dims);
        require(e.begin <= e.end && e.end <= ix.data_bytes, "a tensor lies in the buffer");
        require(count >= 0 && uint64_t(count) * uint64_t(ssm::dtype_bits(e.dtype)) == (e.end - e.begin) * 8,
                "a tensor is as large as its shape says");
        total += e.end - e.begin, ++tensors;
    }
    require(tensors == ix.n_tensors && total == ix.data_bytes, "tensors tile the buffer");
}
} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const fuzz::Indexed f(data, size);
    const ssm::Index&   index = f.index;
    const ssm::Fault&   fault = f.fault;
    if (f.status != ssm::Status::ok) {
        require(index.entries == nullptr && index.n_entries == 0, "a refusal leaves the index alone");
        require(fault.detail[0] != '\0', "a refusal has a reason");
        require(std::memchr(fault.name, 0, sizeof fault.name) != nullptr &&
                    std::memchr(fault.found, 0, sizeof fault.found) != nullptr,
                "a name has an end");
        return 0;
    }
    check(index);
    require(fuzz::Indexed(data, size - 1).status != ssm::Status::ok, "a file cut by a byte is refused");
    if (f.need > 0) {
        ssm::Index other;
        require(ssm::read_index(&other, f.blob, f.at(), f.need - 1) != ssm::Status::ok,
                "a short memory is refused");
    }
    return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
    size = LLVMFuzzerMutate(data, size, max_size);
    fuzz::repair_length(data, size, seed);
    return size;
}
