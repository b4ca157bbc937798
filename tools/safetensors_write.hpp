// safetensors_write.hpp - writes a safetensors file, all or nothing.
// SPDX-License-Identifier: MIT
//
// The header begins with '{' and is padded with spaces so that the data begin at a multiple of 64: rows of weights then
// lie in whole cache lines, which is worth up to a quarter of a step's time. Tensors stand in order of falling element
// size, then name, so every one is aligned to its element. The file is written beside its place, flushed to the disk
// and renamed over the old one; after a failure at any point the old file is as it was.

#ifndef SAFETENSORS_WRITE_HPP
#define SAFETENSORS_WRITE_HPP

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>
#include <fcntl.h>
#include <unistd.h>

struct TensorOut {
    std::string           name, dtype; // dtype: F64 F32 F16 BF16 I64 I32 I16 I8 U64 U32 U16 U8 BOOL
    std::vector<uint64_t> shape;
    const void*           data  = nullptr;
    size_t                bytes = 0;
};

// The calls a file is written with; a test puts failing ones in their place.
struct FileCalls {
    int (*open)(const char* path) = [](const char* path) {
        return ::open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    };
    ssize_t (*write)(int file, const void* p, size_t n) = [](int file, const void* p, size_t n) {
        return ::write(file, p, n);
    };
    int (*sync)(int file)                           = [](int file) { return ::fsync(file); };
    int (*close)(int file)                          = [](int file) { return ::close(file); };
    int (*rename)(const char* from, const char* to) = [](const char* from, const char* to) {
        return std::rename(from, to);
    };
};

inline std::string json_quoted(const std::string& s) {
    std::string out = "\"";
    for (char c : s) {
        if (c == '"' || c == '\\') out += '\\', out += c;
        else if (static_cast<unsigned char>(c) < 32) {
            char code[8];
            std::snprintf(code, sizeof code, "\\u%04x", unsigned(static_cast<unsigned char>(c)));
            out += code;
        } else out += c;
    }
    return out + '"';
}

// Writes the pieces, one after another, to `path` as one file. False and one line in `error` on failure.
inline bool write_file_atomically(const std::string& path, const std::vector<std::pair<const void*, size_t>>& pieces,
                                  std::string* error, const FileCalls& calls = FileCalls()) {
    const std::string temporary = path + ".tmp" + std::to_string(static_cast<long>(::getpid()));
    const auto        fail      = [&](const char* what, bool unlink) {
        const int code = errno;
        if (error != nullptr) *error = std::string(what) + ": " + std::strerror(code);
        if (unlink) ::unlink(temporary.c_str());
        return false;
    };
    ::unlink(temporary.c_str()); // left behind by a process of the same number
    const int file = calls.open(temporary.c_str());
    if (file < 0) return fail("cannot create", false);
    for (const auto& piece : pieces) {
        const char* p    = static_cast<const char*>(piece.first);
        size_t      left = piece.second;
        while (left > 0) {
            const ssize_t n = calls.write(file, p, left);
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) {
                if (n == 0) errno = ENOSPC;
                const int code = errno;
                calls.close(file);
                errno = code;
                return fail("cannot write", true);
            }
            p += n, left -= size_t(n);
        }
    }
    if (calls.sync(file) != 0) {
        const int code = errno;
        calls.close(file);
        errno = code;
        return fail("cannot flush", true);
    }
    if (calls.close(file) != 0) return fail("cannot close", true);
    if (calls.rename(temporary.c_str(), path.c_str()) != 0) return fail("cannot rename", true);
    // The rename itself reaches the disk with the folder. Some file systems cannot sync one; the file is whole either
    // way.
    const size_t slash  = path.rfind('/');
    const int    folder = ::open(slash == std::string::npos ? "."
                                 : slash == 0               ? "/"
                                                            : path.substr(0, slash).c_str(),
                              O_RDONLY | O_CLOEXEC);
    if (folder >= 0) {
        const bool synced = ::fsync(folder) == 0 || errno == EINVAL;
        const int  code   = errno;
        ::close(folder);
        errno = code;
        if (!synced) return fail("saved, but its folder cannot be synced", false);
    }
    return true;
}

inline size_t dtype_bytes(const std::string& dtype) {
    if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
    if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
    if (dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16") return 2;
    return dtype == "I8" || dtype == "U8" || dtype == "BOOL" ? 1 : 0;
}

// The front of a file: length and header. Puts the tensors into the order of their data.
inline bool safetensors_header(const std::map<std::string, std::string>& metadata, std::vector<TensorOut>* tensors,
                               std::string* out, std::string* error) {
    std::sort(tensors->begin(), tensors->end(), [](const TensorOut& a, const TensorOut& b) {
        const size_t x = dtype_bytes(a.dtype), y = dtype_bytes(b.dtype);
        return x != y ? x > y : a.name < b.name;
    });
    std::string header = "{\"__metadata__\":{";
    for (const auto& entry : metadata) {
        if (header.back() != '{') header += ',';
        header += json_quoted(entry.first) + ':' + json_quoted(entry.second);
    }
    header += '}';
    uint64_t         at       = 0;
    const TensorOut* previous = nullptr;
    for (const TensorOut& t : *tensors) {
        uint64_t elements = 1;
        for (uint64_t d : t.shape) elements *= d;
        if (dtype_bytes(t.dtype) == 0 || elements * dtype_bytes(t.dtype) != t.bytes ||
            (previous != nullptr && previous->name == t.name)) {
            if (error != nullptr)
                *error = "tensor \"" + t.name + "\": its name, dtype, shape and bytes do not belong together";
            return false;
        }
        header += ',' + json_quoted(t.name) + ":{\"dtype\":\"" + t.dtype + "\",\"shape\":[";
        for (size_t k = 0; k < t.shape.size(); ++k) header += (k > 0 ? "," : "") + std::to_string(t.shape[k]);
        header += "],\"data_offsets\":[" + std::to_string(at) + ',' + std::to_string(at + t.bytes) + "]}";
        at += t.bytes;
        previous = &t;
    }
    header += '}';
    header.resize((header.size() + 8 + 63) / 64 * 64 - 8, ' '); // data begin on a cache line
    out->clear();
    for (int i = 0; i < 8; ++i) *out += static_cast<char>(uint64_t(header.size()) >> (8 * i) & 255);
    *out += header;
    return true;
}

inline bool write_safetensors(const std::string& path, const std::map<std::string, std::string>& metadata,
                              std::vector<TensorOut> tensors, std::string* error,
                              const FileCalls& calls = FileCalls()) {
    std::string header;
    if (!safetensors_header(metadata, &tensors, &header, error)) return false;
    std::vector<std::pair<const void*, size_t>> pieces = {{header.data(), header.size()}};
    for (const TensorOut& t : tensors) pieces.emplace_back(t.data, t.bytes);
    return write_file_atomically(path, pieces, error, calls);
}

#endif
