// selftest.hpp - what replaying golden files of any layout needs.
// SPDX-License-Identifier: MIT
#ifndef SSM_SELFTEST_HPP
#define SSM_SELFTEST_HPP
#include "tool.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace tool {

// An F32 or F64 tensor as doubles. False if it is not there, or of another dtype or size.
inline bool values(const Container& file, const char* name, size_t count, std::vector<double>* out) {
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
    void note(double difference, double allowed) { // NaN stays
        const double r = allowed > 0.0 ? difference / allowed : difference;
        if (!(r <= ratio)) err = difference, tol = allowed, ratio = r;
    }
    bool good() const { return ratio >= 0.0 && err <= tol; }
};

struct Digest {
    uint64_t h = 0xcbf29ce484222325u; // FNV-1a
    template <class T> void add(const T* y, size_t n) { // of four bytes each
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
    // What was run, for the GPU to do the same: inputs, times between (empty: all 1), outputs of every step, of integer
    // models in Q16; the states before and after.
    std::vector<float>         x, y;
    std::vector<int32_t>       x_q16, dt_q16, y_q16;
    std::vector<unsigned char> before, after;
};
inline std::vector<unsigned char> bytes_of(const ssm::State& s) {
    const auto* p = static_cast<const unsigned char*>(s.data);
    return std::vector<unsigned char>(p, p + s.bytes);
}

// Runs x again on `other`, a fresh copy of the stream that gave y one step at a time and ended in `state`: in uneven
// pieces, beyond and below the scratch's batch, each first step as a candidate before that. `problem` gets what
// differs.
inline void same_in_pieces(const OpenModel& m, const ssm::State& state, ssm::State* other, ssm::Scratch* scratch,
                           const std::vector<float>& x, const std::vector<float>& y, std::string* problem) {
    const size_t       d_in = size_t(m.config.d_input), d_out = size_t(m.config.d_output), steps = x.size() / d_in;
    const size_t       pieces[] = {1, 3, 17, 2, 40, 5};
    std::vector<float> last(d_out);
    size_t             at = 0;
    for (size_t k = 0; at < steps; ++k) {
        const size_t piece = std::min(pieces[k % 6], steps - at);
        if (ssm::step_batch(m.model, *other, scratch, &x[at * d_in], 1, last.data()) != ssm::Status::ok ||
            std::memcmp(last.data(), &y[at * d_out], d_out * sizeof(float)) != 0)
            *problem = "step_batch gives other bits than step";
        const ssm::Status s = ssm::prefill(m.model, other, scratch, &x[at * d_in], int32_t(piece), last.data());
        at += piece;
        if (s != ssm::Status::ok || std::memcmp(last.data(), &y[(at - 1) * d_out], d_out * sizeof(float)) != 0)
            *problem = "prefill gives other bits than step";
    }
    if (std::memcmp(state.data, other->data, ssm::state_bytes(m.config)) != 0)
        *problem = "prefill leaves another state than step";
}

int replay_mamba(const char* path, const Container& file, ssm::Isa isa, Result* out);
int replay_integer(const char* path, const Container& file, ssm::Isa isa, Result* out);

} // namespace tool
#endif
