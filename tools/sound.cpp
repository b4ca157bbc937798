// sound.cpp - recordings with labels, and the bank of resonators in front of a model of sound.
// SPDX-License-Identifier: MIT
#include "sound.hpp"
#include "../ssm.hpp"
#include "tool.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace sound {

// ---- Data

namespace {
// A number without a sign in `text` from *at on, up to a tab or the end. False: there is none.
bool next_number(const std::string& text, size_t* at, uint64_t most, uint64_t* out) {
    const size_t end = std::min(text.find('\t', *at), text.size());
    if (end == *at || end - *at > 18) return false;
    *out = 0;
    for (; *at < end; ++*at) {
        if (text[*at] < '0' || text[*at] > '9') return false;
        *out = *out * 10 + uint64_t(text[*at] - '0');
    }
    if (*at < text.size()) ++*at;
    return *out <= most;
}
} // namespace

bool read_recordings(const std::string& folder, const std::string& name, Recordings* to, std::string* error) {
    constexpr size_t  limit = size_t(1) << 30;
    const std::string table = folder + "/" + name + ".tsv", raw = folder + "/" + name + ".i16";
    std::string       text, bytes;
    const auto        read = [&](const std::string& path, std::string* out) {
        if (tool::read_file(path.c_str(), limit, out, error) == tool::done) return true;
        *error = tool::escape(path, 160) + ": " + *error;
        return false;
    };
    if (!read(table, &text) || !read(raw, &bytes)) return false;
    const size_t first = to->samples.size();
    if (bytes.size() % 2 != 0)
        return *error = tool::escape(raw, 160) + ": an odd number of bytes, expected samples of 16 bits", false;
    for (size_t i = 0; i < bytes.size(); i += 2)
        to->samples.push_back(int16_t(uint16_t(uint8_t(bytes[i]) | uint8_t(bytes[i + 1]) << 8)));
    size_t at = 0;
    for (uint64_t number = 1; at < text.size(); ++number) {
        const size_t end = std::min(text.find('\n', at), text.size());
        std::string  line = text.substr(at, end - at);
        at = end + 1;
        if (!line.empty() && line.back() == '\r') line.pop_back();
        if (number == 1 || line.empty()) continue; // names of the columns
        Recording    r;
        uint64_t     label = 0, index = 0, offset = 0, length = 0;
        size_t       k = 0;
        bool         good = next_number(line, &k, 9999, &label);
        const size_t tab = good ? line.find('\t', k) : line.npos;
        good = good && tab != line.npos && tab > k;
        if (good) r.speaker = line.substr(k, tab - k), k = tab + 1;
        good = good && next_number(line, &k, 1 << 30, &index) && next_number(line, &k, limit, &offset) &&
               next_number(line, &k, limit, &length) && k == line.size() && length > 0 &&
               offset + length <= bytes.size() / 2;
        if (!good)
            return *error = tool::escape(table, 160) + ": line " + std::to_string(number) +
                            ": expected label, speaker, index, offset and length, within the samples there are",
                   false;
        r.label = int(label), r.index = int(index), r.offset = first + size_t(offset), r.length = size_t(length);
        to->list.push_back(r);
    }
    if (to->list.empty()) return *error = tool::escape(table, 160) + ": holds no recording", false;
    return true;
}

// ---- The bank

Bank make_bank(const Geometry& g, double warp) {
    constexpr double pi = 3.14159265358979323846, one = 2147483648.0;
    const auto       mel = [](double f) { return 2595 * std::log10(1 + f / 700); };
    const auto       q16 = [](double v) { return int(std::lround(v * 65536)); };
    const auto       log2_of_db = [](double db) { return db * std::log2(10.0) / 10; };
    Bank             b;
    b.bands = g.bands, b.samples = g.samples;
    // 1. Poles. Full scale makes |z| its gain at the resonance, 16 2^16 2 2^-shift / (1 - |p|)^2.
    double narrowest = 1;
    for (int k = 0; k < g.bands; ++k) {
        const double m = mel(g.low) + (mel(g.high) - mel(g.low)) * (g.bands > 1 ? double(k) / (g.bands - 1) : 0.5);
        const double f = 700 * (std::pow(10, m / 2595) - 1), width = std::max(g.width, g.part * f) * warp;
        const double r = std::exp(-pi * width / g.rate), turn = 2 * pi * std::min(f * warp, 0.49 * g.rate) / g.rate;
        b.poles.push_back(int32_t(std::lround(r * std::cos(turn) * one)));
        b.poles.push_back(int32_t(std::lround(r * std::sin(turn) * one)));
        narrowest = std::min(narrowest, 1 - r);
    }
    while (b.shift < 15 && double((61 << 16) >> b.shift) + 24 >= narrowest * narrowest * one) ++b.shift;
    for (int k = 0; k < g.bands; ++k) {
        const double gap = 1 - std::hypot(b.poles[size_t(2 * k)], b.poles[size_t(2 * k + 1)]) / one;
        b.full.push_back(q16(2 * std::log2(65536.0 * 32 / double(1 << b.shift) / (gap * gap)) - 12));
    }
    // 2. The rest. Powers are looked at every fourth sample.
    b.leak = std::max(1, std::min(15, int(std::lround(std::log2(g.memory * g.rate / 4)))));
    b.mean = std::max(1, std::min(65536, q16(g.mean)));
    b.floor = q16(log2_of_db(g.floor)), b.gate = q16(log2_of_db(g.gate)), b.quiet = q16(log2_of_db(g.quiet));
    b.forget = std::max(0, std::min(15, int(std::lround(std::log2(log2_of_db(std::max(g.forget, 1.0)))))));
    b.prior.assign(size_t(g.bands), 0);

    b.fall = q16(log2_of_db(g.fall * g.samples / g.rate));
    return b;
}

void features(const Bank& b, const int32_t* x, int64_t n, const int32_t* shift, float* out, double* heard) {
    constexpr int most = ssm::max_bands;
    const int     K = b.bands;
    int32_t       pr[most], pi[most], mean[most] = {}, level[most];
    int32_t       yr[most] = {}, yi[most] = {}, zr[most] = {}, zi[most] = {}, last = 0, peak = 0;
    int64_t       e[most] = {};
    for (int k = 0; k < K; ++k) pr[k] = b.poles[size_t(2 * k)], pi[k] = b.poles[size_t(2 * k + 1)];
    const auto high = [](int32_t p, int32_t v) { return int32_t((int64_t(p) * v + (int64_t(1) << 31)) >> 32); };
    for (int64_t t = 0; t < n; ++t) {
        const int32_t now = std::max(-65536, std::min(65536, x[t])), u = (32 * now - 29 * last) >> b.shift;
        last = now;
        for (int k = 0; k < K; ++k) {
            const int32_t r = high(pr[k], yr[k]) + high(-pi[k], yi[k]), i = high(pi[k], yr[k]) + high(pr[k], yi[k]);
            const int32_t v = high(pr[k], zr[k]) + high(-pi[k], zi[k]), w = high(pi[k], zr[k]) + high(pr[k], zi[k]);
            yr[k] = u + 2 * r, yi[k] = 2 * i;
            zr[k] = yr[k] + 2 * v, zi[k] = yi[k] + 2 * w;
        }
        if (t % b.samples % 4 == 3)
            for (int k = 0; k < K; ++k)
                e[k] += (((int64_t(zr[k]) * zr[k] + int64_t(zi[k]) * zi[k]) >> 12) - e[k]) >> b.leak;
        if ((t + 1) % b.samples != 0) continue;
        int32_t top = INT32_MIN;
        for (int k = 0; k < K; ++k) {
            level[k] = ssm::log2_q16(uint64_t(e[k]) + 1) - b.full[size_t(k)] + (shift != nullptr ? shift[k] : 0);
            top = std::max(top, level[k]);
        }
        const bool    begun = t >= b.samples;
        const int32_t before = begun ? peak : top;
        peak = std::max(top, before - b.fall);
        const int64_t forget = std::min<int64_t>(65536, std::max(0, peak - before) >> b.forget);
        const bool    active = top > peak - b.gate && top > -b.quiet;
        for (int k = 0; k < K; ++k) {
            const int32_t d = std::max(level[k] - peak, -b.floor) * 256, prior = b.prior[size_t(k)] * 256;
            if (!begun) mean[k] = prior;
            mean[k] += int32_t((int64_t(prior - mean[k]) * forget + 32768) >> 16);
            if (active) mean[k] += int32_t((int64_t(d - mean[k]) * b.mean + 32768) >> 16);
            *out++ = static_cast<float>(int32_t((int64_t(d) - mean[k] + 256) >> 9)) * (1.0f / 65536.0f);
            if (active && heard != nullptr) heard[k] += d / 256.0;
        }
        if (active && heard != nullptr) heard[K] += 1;
    }
}

} // namespace sound
