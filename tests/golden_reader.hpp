// golden_reader.hpp - reads tensors and metadata from a trusted safetensors file, for tests.
// SPDX-License-Identifier: MIT
//
// Independent of ssm.hpp on purpose: it checks the training code against files that the runtime has not touched. Knows
// F32 and F64 and the plain JSON of such files, nothing else.

#ifndef GOLDEN_READER_HPP
#define GOLDEN_READER_HPP

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

struct GoldenFile {
    std::map<std::string, std::string>           metadata;
    std::map<std::string, std::vector<double>>   tensors;
    std::map<std::string, std::vector<uint64_t>> shapes;
    std::string                                  header;
    bool                                         good = false;

    explicit GoldenFile(const std::string& path) {
        std::ifstream     in(path, std::ios::binary);
        const std::string all((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
        if (all.size() < 8) return;
        uint64_t n = 0;
        std::memcpy(&n, all.data(), 8);
        if (n > all.size() - 8) return;
        header = all.substr(8, n);
        data   = all.data() + 8 + n;
        size   = all.size() - 8 - n;
        p      = 0;
        skip('{');
        while (p < header.size() && peek() == '"') {
            const std::string name = string();
            skip(':');
            if (name == "__metadata__") read_metadata();
            else if (!read_tensor(name)) return;
            if (peek() == ',') skip(',');
        }
        good = peek() == '}';
        data = nullptr;
    }
    bool has(const std::string& name) const { return tensors.count(name) != 0; }

private:
    const char* data = nullptr;
    size_t      size = 0, p = 0;

    char peek() {
        while (p < header.size() && (header[p] == ' ' || header[p] == '\n')) ++p;
        return p < header.size() ? header[p] : '\0';
    }
    void        skip(char c) { peek() == c ? ++p : p = header.size(); }
    std::string string() {
        std::string s;
        skip('"');
        for (; p < header.size() && header[p] != '"'; ++p) {
            if (header[p] == '\\' && p + 1 < header.size()) ++p;
            s += header[p];
        }
        skip('"');
        return s;
    }
    std::vector<uint64_t> numbers() {
        std::vector<uint64_t> v;
        skip('[');
        while (peek() != ']' && p < header.size()) {
            uint64_t x = 0;
            for (peek(); p < header.size() && header[p] >= '0' && header[p] <= '9'; ++p)
                x = x * 10 + uint64_t(header[p] - '0');
            v.push_back(x);
            if (peek() == ',') skip(',');
            else if (peek() != ']') p = header.size();
        }
        skip(']');
        return v;
    }
    void read_metadata() {
        skip('{');
        while (peek() == '"') {
            const std::string key = string();
            skip(':');
            metadata[key] = string();
            if (peek() == ',') skip(',');
        }
        skip('}');
    }
    bool read_tensor(const std::string& name) {
        std::string           dtype;
        std::vector<uint64_t> offsets;
        skip('{');
        while (peek() == '"') {
            const std::string key = string();
            skip(':');
            if (key == "dtype") dtype = string();
            else (key == "shape" ? shapes[name] : offsets) = numbers();
            if (peek() == ',') skip(',');
        }
        skip('}');
        if (offsets.size() != 2 || offsets[1] > size || offsets[0] > offsets[1]) return false;
        const size_t         width = dtype == "F32" ? 4 : 8;
        std::vector<double>& out   = tensors[name];
        for (size_t at = offsets[0]; at + width <= offsets[1]; at += width) {
            float  f = 0;
            double d = 0;
            if (width == 4) std::memcpy(&f, data + at, 4);
            else std::memcpy(&d, data + at, 8);
            out.push_back(width == 4 ? double(f) : d);
        }
        return true;
    }
};

#endif
