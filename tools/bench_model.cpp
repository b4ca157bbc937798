// bench_model.cpp - made-up models of any shape and number format, as files. SPDX-License-Identifier: MIT
#include "bench.hpp"
#include "quantize.hpp"
#include "random_model.hpp"

#include <cerrno>
#include <cstdlib>

#include <unistd.h>

namespace bench {
using namespace tool;

namespace {
std::vector<std::string> split(const std::string& text) { // at commas
    std::vector<std::string> parts(1);
    for (char c : text)
        if (c == ',') parts.emplace_back();
        else parts.back() += c;
    return parts;
}

} // namespace

MadeUp::~MadeUp() {
    if (!path.empty() && !kept) ::unlink(path.c_str());
}
int MadeUp::write(const char* text, const char* keep) {
    random_model::Spec spec;
    std::string        why;
    quantize::Settings settings;
    bool               integer = false;
    std::string        rest;
    for (std::string part : split(text)) {
        const auto one_of = [&](const char* key, const char* off, const char* on, bool* to) {
            if (part != std::string(key) + off && part != std::string(key) + on) return false;
            *to = part == std::string(key) + on;
            return integer = true;
        };
        if (!one_of("weights=", "i8", "i4", &settings.int4) && !one_of("activations=", "i8", "i16", &settings.act16) &&
            !one_of("state=", "i32", "i16rowexp", &settings.row_exponents))
            rest += (rest.empty() ? "" : ",") + part;
    }
    if (!random_model::parse(rest, &spec, &why)) return fail(bad_usage, "bench", "--config: " + escape(why, 200, "\""));
    std::string file = random_model::file(spec);
    if (integer) {
        quantize::Model m;
        if (const int bad = quantize::make({file.data(), file.size()}, settings, &m, &why))
            return fail(bad, "bench", "--config: " + why);
        file = quantize::file_bytes(m);
    }
    if (keep != nullptr) {
        path = keep, kept = true;
        return save_file("bench", keep, file);
    }
    const char* folder = std::getenv("TMPDIR");
    std::string name = std::string(folder != nullptr && *folder != 0 ? folder : "/tmp") + "/ssm-bench-XXXXXX";
    const int   fd = ::mkstemp(name.data());
    if (fd < 0) return fail(io_error, "bench", escape(name, 160) + ": cannot be created: " + system_error(errno));
    ::close(fd);
    path = name;
    return save_file("bench", path.c_str(), file);
}

} // namespace bench
