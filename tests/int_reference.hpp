// int_reference.hpp - the integer engine as plain loops straight from its definition: slow, independent of ssm.hpp's
// own, and every sum and product checked. SPDX-License-Identifier: MIT
//
// The oracle for models beyond the golden files. It shares nothing with the runtime but read_index(). Numbers are
// int64_t throughout; an operation whose result would not fit throws OutOfRange, which fails the test that met it.
// "Qf" is an integer with f fraction bits. Sections are those of the definition.
#pragma once
#include "../ssm.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace int_reference {

using I = int64_t;
using Vec = std::vector<I>;

struct OutOfRange : std::logic_error {
    using std::logic_error::logic_error;
};

// ---- 2. Arithmetic

inline I add(I a, I b) {
    I r = 0;
    if (__builtin_add_overflow(a, b, &r)) throw OutOfRange("a sum beyond 64 bits");
    return r;
}
inline I sub(I a, I b) {
    I r = 0;
    if (__builtin_sub_overflow(a, b, &r)) throw OutOfRange("a difference beyond 64 bits");
    return r;
}
inline I mul(I a, I b) {
    I r = 0;
    if (__builtin_mul_overflow(a, b, &r)) throw OutOfRange("a product beyond 64 bits");
    return r;
}
inline I below(I x, I limit, const char* what) { // |x| < limit, which a kernel relies on
    if (x >= limit || x <= -limit) throw OutOfRange(what);
    return x;
}
constexpr I pow2(I n) { return I(1) << n; }
constexpr I largest = 2147483647; // of a stored number
constexpr I one30 = pow2(30), limit26 = 22 * pow2(26);

inline I floor_div(I a, I b) { // b > 0
    const I q = a / b;
    return a % b < 0 ? q - 1 : q;
}
inline I rs(I x, I s) { // rounding shift right, ties up
    if (s > 62) return 0;
    if (s <= 0) return mul(x, pow2(-s));
    return floor_div(add(x, pow2(s - 1)), pow2(s));
}
inline I sat(I x, I m = largest) { return std::min(std::max(x, -m), m); }
inline I magnitude(I x) { return x < 0 ? sub(0, x) : x; }
inline I bitlength(I x) {
    I n = 0;
    for (; x > 0; x /= 2) ++n;
    return n;
}
inline I largest_of(const Vec& v) {
    I m = 0;
    for (I x : v) m = std::max(m, magnitude(x));
    return m;
}

struct Scale { // value m 2^-e
    I m = 0, e = 0;
};
inline uint32_t bits_of(float f) {
    uint32_t u;
    std::memcpy(&u, &f, 4);
    return u;
}
inline Scale scale_of(float f) {
    const uint32_t u = bits_of(f);
    const I        E = I(u >> 23 & 255);
    if ((u >> 31) != 0 || E < 1 || E > 126) throw OutOfRange("a scale outside (0, 1)");
    return {pow2(23) + I(u & 0x7fffff), 150 - E};
}

// ---- 3. Projections

struct Codes { // of one vector entering a projection; value q num 2^-den
    Vec q;
    I   num = 0, den = 0;
};
inline Codes quantize(const Vec& x, I act_bits) {
    Codes   c;
    const I amax = largest_of(x);
    c.q.assign(x.size(), 0);
    if (amax == 0) return c;
    const I sh = 31 - bitlength(below(amax, pow2(31), "an activation of 32 bits")), an = amax * pow2(sh);
    const I top = act_bits == 8 ? 127 : 32767, frac = act_bits == 8 ? 54 : 46, more = act_bits == 8 ? 6 : 14;
    const I R = floor_div(mul(top, pow2(frac)), an);
    for (size_t i = 0; i < x.size(); ++i) c.q[i] = sat(rs(mul(mul(x[i], pow2(sh)), R), frac), top);
    c.num = floor_div(mul(an, pow2(more)), top), c.den = sh + more;
    return c;
}

struct Projection {
    I                  O = 0, K = 0, Kp = 0, rows4 = 0; // the first rows4 rows are int4, Kp wide
    Vec                q8, q4, subs, bias;              // [O - rows4][K], [rows4][Kp] codes, [rows4][Kp / 32], [O]
    std::vector<Scale> scale;

    // Codes of a row of 16-byte groups: element j in the low nibble of byte j, element j + 16 in the high one.
    void unpack(const std::vector<uint8_t>& bytes) {
        q4.assign(bytes.size() * 2, 0);
        for (size_t i = 0; i < bytes.size(); ++i) {
            const size_t at = i / 16 * 32 + i % 16;
            const I      low = bytes[i] & 15, high = bytes[i] >> 4;
            q4[at] = low < 8 ? low : low - 16;
            q4[at + 16] = high < 8 ? high : high - 16;
        }
    }
    Vec operator()(const Vec& x, I act_bits) const {
        if (rows4 < O && K != I(x.size())) throw std::runtime_error("a projection meets a vector of another width");
        const Codes c = quantize(x, act_bits);
        const I     width = I(x.size()); // a file of int4 rows alone knows it only up to its padding
        Vec         y;
        for (I o = 0; o < O; ++o) {
            I acc = 0;
            if (o < rows4)
                for (I g = 0; g < Kp / 32; ++g) {
                    I group = 0;
                    for (I k = 32 * g; k < 32 * g + 32 && k < width; ++k)
                        group = add(group, mul(q4[size_t(o * Kp + k)], c.q[size_t(k)]));
                    if (act_bits == 8) below(group, 32768, "a group's sum beyond 16 bits");
                    acc = add(acc, mul(group, subs[size_t(o * (Kp / 32) + g)]));
                }
            else
                for (I k = 0; k < K; ++k) acc = add(acc, mul(q8[size_t((o - rows4) * K + k)], c.q[size_t(k)]));
            if (act_bits == 8) below(acc, pow2(31), "an accumulator beyond 32 bits");
            const Scale s = scale[size_t(o)];
            const I     T = below(rs(mul(c.num, s.m), 24), pow2(31), "a row factor beyond 32 bits");
            const I     b = bias.empty() ? 0 : bias[size_t(o)];
            y.push_back(act_bits == 8 ? sat(add(rs(mul(acc, T), c.den + s.e - 24), b))
                                      : sat(add(rs(mul(acc, rs(T, 13)), c.den + s.e - 37), b)));
        }
        return y;
    }
};

// ---- 4. Nonlinear functions

const Vec EXP2 = {1073741824, -744261114, 257941162, -59596389, 10324635, -1425708, 158122, -11619};
const Vec LOG1P = {1073741823, -536870692, 357904967, -268290463, 213522369, -172739536,
                   132907716,  -87918417,  44030470,  -14160320,  2133199};
const Vec SIN = {1686629713, -693598666, 85569282, -5026892, 172072, -3685};
const Vec ERF = {0, 273621191, -305476044, 1526231383, -1560310108, 1139675401};

inline I horner(const Vec& c, I x) {
    I r = c.back();
    for (size_t k = c.size() - 1; k-- > 0;) r = add(rs(mul(r, x), 30), c[k]);
    return r;
}
inline I exp_neg(I t) { // t >= 0
    const I y = rs(mul(std::min(t, limit26), 1549082005), 30), n = std::min(y / pow2(26), I(31));
    return rs(horner(EXP2, y % pow2(26) * 16), n);
}
inline I recip(I d) {
    I r = 1515870810 - rs(mul(d, 505290270), 30);
    for (int i = 0; i < 3; ++i) r = rs(mul(r, pow2(31) - rs(mul(d, r), 30)), 30);
    return r;
}
inline I sigmoid(I x) {
    x = sat(x, limit26);
    const I e = exp_neg(magnitude(x)), r = recip(one30 + e);
    return x >= 0 ? r : rs(mul(e, r), 30);
}
inline I tanh(I x) { return 2 * sigmoid(sat(2 * sat(x, limit26), limit26)) - one30; }
inline I softplus(I x) {
    x = sat(x, limit26);
    const I e = exp_neg(magnitude(x));
    return std::max(x, I(0)) + rs(rs(mul(e, horner(LOG1P, e)), 30), 4);
}
inline I sin_turn(uint32_t p) {
    I s = p < 0x80000000u ? I(p) : I(p) - pow2(32);
    if (s > one30) s = pow2(31) - s;
    if (s < -one30) s = -pow2(31) - s;
    return rs(mul(s, horner(SIN, rs(mul(s, s), 30))), 30);
}
inline I cos_turn(uint32_t p) { return sin_turn(p + 0x40000000u); }
inline I Phi(I x) {
    const I a = std::min(magnitude(x), 8 * pow2(26)), z = rs(mul(a, 759250125), 30);
    const I D = one30 + rs(mul(z, 351748265), 26), t = D > pow2(31) ? rs(recip(rs(D, 1)), 1) : recip(D);
    const I q = rs(rs(mul(horner(ERF, t), exp_neg(std::min(rs(mul(z, z), 26), limit26))), 30), 1);
    return x >= 0 ? one30 - q : q;
}
struct Root { // 1 / sqrt(v) = r 2^-30 2^-E
    I r = 0, E = 0;
};
inline Root rsqrt(I v) {
    const I b = bitlength(v), sh = 31 - b + (magnitude(b - 31) % 2), m = sh >= 0 ? mul(v, pow2(sh)) : rs(v, -sh);
    I       r = std::max(1315011543 - rs(mul(m, 241269783), 30), I(357913941));
    for (int i = 0; i < 5; ++i) {
        const I t = rs(mul(rs(mul(r, r), 30), m), 30);
        r = rs(mul(r, 3 * one30 - t), 31);
    }
    return {r, (30 - sh) / 2};
}
inline I to26(I x) { return sat(mul(x, 1024), limit26); }
inline I SiLU(I z) { return rs(mul(z, sigmoid(to26(z))), 30); }
inline I GELU(I s) { return rs(mul(s, Phi(sat(mul(s, 1024), 8 * pow2(26)))), 30); }

inline Vec core(const Vec& c) { // of a norm: Q24
    const I k = std::max(bitlength(largest_of(c)) - 24, I(0)), n = I(c.size());
    Vec     w;
    I       sum = 0;
    for (I x : c) w.push_back(rs(x, k)), sum = add(sum, mul(w.back(), w.back()));
    const Root root = rsqrt(std::max(floor_div(sum, n) + 42950 / pow2(2 * k), I(1)));
    for (I& x : w) x = rs(mul(x, root.r), 6 + root.E);
    return w;
}
inline Vec rms_norm(const Vec& v, const Vec& g, I s, bool limit = true) { // s = 24: Q16; s = 20: Q20
    Vec y = core(v);
    for (size_t i = 0; i < y.size(); ++i) {
        y[i] = rs(mul(y[i], g[i]), s);
        if (limit) y[i] = sat(y[i]);
    }
    return y;
}
inline Vec layer_norm(Vec v, const Vec& g, const Vec& b) {
    const I n = I(v.size());
    I       sum = n / 2;
    for (I x : v) sum = add(sum, x);
    const I mean = floor_div(sum, n);
    for (I& x : v) x = sub(x, mean);
    v = core(v);
    for (size_t i = 0; i < v.size(); ++i) v[i] = sat(add(rs(mul(v[i], g[i]), 24), b[i]));
    return v;
}

// ---- 5. S4D

// One channel's step: x [n][re im] with a, b, C of the same shape. Returns s before its sat.
inline I s4d_channel(I* x, const I* a, const I* b, const I* C, size_t n, Scale c_scale, I D, I u, I b_frac, I clip,
                     I* clipped) {
    I sum = 0;
    for (size_t j = 0; j < 2 * n; j += 2) {
        const I re = add(rs(sub(mul(a[j], x[j]), mul(a[j + 1], x[j + 1])), 30), rs(mul(b[j], u), b_frac + 16 - 25));
        const I im = add(rs(add(mul(a[j], x[j + 1]), mul(a[j + 1], x[j])), 30), rs(mul(b[j + 1], u), b_frac + 16 - 25));
        x[j] = sat(re, clip), x[j + 1] = sat(im, clip);
        *clipped += (x[j] != re) + (x[j + 1] != im);
        sum = add(sum, sub(mul(C[j], x[j]), mul(C[j + 1], x[j + 1])));
    }
    const I acc = rs(mul(2, sum), 18);
    return add(rs(mul(acc, c_scale.m), c_scale.e - 9), rs(mul(D, u), 16));
}
// a and b of one mode for a step of d = dt_scale (section 12).
inline void s4d_gap(I rho, I phase, const I g[2], I d, I b_frac, I g_frac, I a[2], I b[2]) {
    const I    mag = exp_neg(std::min(rs(mul(rho, d), 16), limit26));
    const auto p = static_cast<uint32_t>(uint64_t(phase) * uint64_t(d) >> 16);
    a[0] = rs(mul(mag, cos_turn(p)), 30), a[1] = rs(mul(mag, sin_turn(p)), 30);
    const I dr = a[0] - one30, t = 30 + g_frac - b_frac;
    b[0] = sat(rs(sub(mul(dr, g[0]), mul(a[1], g[1])), t));
    b[1] = sat(rs(add(mul(dr, g[1]), mul(a[1], g[0])), t));
}
// Mean pooling: the count that all channels share goes up, halved with the sums where it would leave its range; then
// one channel's number joins its sum, and the mean comes back.
inline void pool_advance(I* sums, size_t channels, I* count) {
    if (*count == largest) {
        for (size_t h = 0; h < channels; ++h) sums[h] = rs(sums[h], 1);
        *count = pow2(30);
    }
    ++*count;
}
inline I pool_mean(I* sum, I count, I r) {
    *sum = add(*sum, r);
    return floor_div(add(*sum, count / 2), count);
}

// ---- 6. Mamba-3's scalars

inline I step_size(I dd, I bias, I dt_scale) {
    return std::min(rs(mul(softplus(add(to26(dd), bias)), dt_scale), 16), limit26);
}
inline I decay_rate(I dd_A, bool softplus_A, I floor) {
    const I x = std::min(std::max(dd_A, -pow2(29)), 31 * pow2(16) - 1);
    const I A = softplus_A ? softplus(to26(dd_A)) : x >= 0 ? (pow2(16) + x) * 1024 : floor_div(pow2(42), pow2(16) - x);
    return std::max(A, floor);
}

// The state of one row of N numbers, in either form.
struct Row {
    Vec h;      // Q25, or codes
    I   X = 40; // of codes
    // Advances the row, adds the numbers that the clip changed to *clipped, and returns sum_n h_n q_n in Q16.
    I step(bool row_exponents, const Vec& alpha, const Vec& addend, const Vec& q, I clip, I* clipped) {
        const size_t N = h.size();
        I            sum = 0;
        if (!row_exponents) {
            for (size_t n = 0; n < N; ++n) {
                const I v = rs(add(rs(mul(alpha[n], h[n]), 9), addend[n]), 21);
                h[n] = sat(v, clip);
                *clipped += h[n] != v;
                sum = add(sum, mul(h[n], q[n]));
            }
            return rs(sum, 25);
        }
        Vec v(N);
        for (size_t n = 0; n < N; ++n) {
            const I raw = add(rs(mul(alpha[n], h[n]), X - 16), addend[n]);
            v[n] = sat(raw, mul(clip, pow2(21)));
            *clipped += v[n] != raw;
        }
        const I s = std::max(bitlength(largest_of(v)) - 15, I(6));
        X = 46 - s;
        if (X < 9 || X > 40) throw OutOfRange("a row exponent outside 9..40");
        for (size_t n = 0; n < N; ++n) h[n] = sat(rs(v[n], s), 32767), sum = add(sum, mul(h[n], q[n]));
        return rs(sum, X);
    }
};

// ---- 10. Numbers in and out

inline bool finite(float f) { return (bits_of(f) >> 23 & 255) != 255; }
inline I    to_q16(float f) {
       const uint32_t u = bits_of(f);
       const I        E = I(u >> 23 & 255), m = pow2(23) + I(u & 0x7fffff), sign = (u >> 31) != 0 ? -1 : 1;
       if (E == 255) throw std::invalid_argument("an input that is not finite");
    return E == 0 ? 0 : E >= 142 ? sign * largest : rs(sign * m, 134 - E);
}
inline float to_float(I v) { // nearest, ties to even, by integers alone
    if (v == 0) return 0.0f;
    I       m = magnitude(v);
    const I drop = std::max(bitlength(m) - 24, I(0));
    if (drop > 0) {
        const I low = m % pow2(drop), half = pow2(drop - 1);
        m /= pow2(drop);
        m += low > half || (low == half && m % 2 != 0);
    }
    I e = drop - 16; // value m 2^e
    while (m < pow2(23)) m *= 2, --e;
    if (m == pow2(24)) m /= 2, ++e;
    const auto u = static_cast<uint32_t>((v < 0 ? pow2(31) : 0) + (e + 150) * pow2(23) + (m - pow2(23)));
    float      f;
    std::memcpy(&f, &u, 4);
    return f;
}
struct Digest {
    uint64_t value = 0xcbf29ce484222325u;
    void     add(I v) {
            for (int i = 0; i < 4; ++i) value = (value ^ (static_cast<uint32_t>(v) >> 8 * i & 255)) * 0x100000001b3u;
    }
    std::string text() const {
        char out[17];
        for (int i = 0; i < 16; ++i) out[i] = "0123456789abcdef"[value >> (60 - 4 * i) & 15];
        return std::string(out, 16);
    }
};

// ---- Files: tensors as integers, metadata as text

class File {
  public:
    explicit File(std::vector<unsigned char> content) : bytes_(std::move(content)) {
        const ssm::Blob blob{bytes_.data(), bytes_.size()};
        memory_.resize(ssm::index_bytes(blob) + 1);
        if (ssm::read_index(&index_, blob, memory_.data(), memory_.size()) != ssm::Status::ok)
            throw std::runtime_error("not a safetensors file");
    }
    File(const File&) = delete;
    File&             operator=(const File&) = delete;
    const ssm::Index& index() const { return index_; }
    bool              has(const std::string& name) const { return ssm::find_tensor(index_, name.c_str()) != nullptr; }
    std::string       dtype(const std::string& name) const { return ssm::dtype_name(entry(name).dtype); }
    std::vector<I>    shape(const std::string& name) const {
           I dims[ssm::max_rank] = {};
           ssm::shape_of(entry(name), dims);
           return Vec(dims, dims + entry(name).rank);
    }
    std::string text(const char* key) const {
        const ssm::Entry* e = ssm::find_metadata(index_, key);
        return e == nullptr ? "" : std::string(e->value, size_t(e->value_len));
    }
    I number(const char* key) const { return std::atoll(text(key).c_str()); }

    Vec integers(const std::string& name) const {
        const std::string d = dtype(name);
        return d == "I8"    ? read<int8_t>(name)
               : d == "U8"  ? read<uint8_t>(name)
               : d == "I16" ? read<int16_t>(name)
               : d == "I32" ? read<int32_t>(name)
               : d == "U32" ? read<uint32_t>(name)
               : d == "I64" ? read<int64_t>(name)
                            : throw std::runtime_error(name + " holds no integers");
    }
    std::vector<float> floats(const std::string& name) const {
        if (dtype(name) != "F32") throw std::runtime_error(name + " holds no floats");
        const ssm::Entry&  e = entry(name);
        std::vector<float> v(size_t(e.end - e.begin) / 4);
        if (!v.empty()) std::memcpy(v.data(), index_.data + e.begin, v.size() * 4);
        return v;
    }

  private:
    const ssm::Entry& entry(const std::string& name) const {
        const ssm::Entry* e = ssm::find_tensor(index_, name.c_str());
        if (e == nullptr) throw std::runtime_error("no tensor " + name);
        return *e;
    }
    template <class T> Vec read(const std::string& name) const {
        const ssm::Entry& e = entry(name);
        Vec               v(size_t(e.end - e.begin) / sizeof(T));
        for (size_t i = 0; i < v.size(); ++i) {
            T x;
            std::memcpy(&x, index_.data + e.begin + i * sizeof(T), sizeof(T));
            v[i] = static_cast<I>(x);
        }
        return v;
    }
    std::vector<unsigned char> bytes_, memory_;
    ssm::Index                 index_;
};

// ---- 11, 12. Whole models

inline I embedded(I code, Scale s) { return sat(rs(mul(code, s.m), s.e - 16)); } // one number of a token's row, Q16

class Model {
  public:
    struct Layer { // its state
        std::vector<Row>      rows;
        std::vector<uint32_t> theta; // [H][S]
        Vec                   k, v;  // [R][H][N] Q20 rotated, [H][P] Q16
        std::vector<Vec>      conv;  // [C][K] Q16, newest last
        Vec                   x;     // S4D [H][n][re im] Q25
    };
    struct Resonator { // of a model of sound: y, z, mean power; the mean of the logarithms, Q24
        I yr = 0, yi = 0, zr = 0, zi = 0, e = 0, m = 0;
    };
    std::vector<Layer>         layers;
    std::vector<Resonator>     resonators;
    I                          last_sample = 0, peak = 0;
    bool                       begun = false;
    Vec                        pool_sum;
    I                          pool_count = 0;
    I                          clipped = 0;   // state numbers that the clip changed since the start
    I                          saturated = 0; // floats read and results of projections at +-(2^31 - 1)
    std::map<std::string, Vec> trace;         // of layer 0, every step in turn, by the golden files' names
    bool                       tracing = false;

    explicit Model(std::vector<unsigned char> content) : f_(std::move(content)) {
        const std::string arch = f_.text("arch");
        if (f_.text("format") != "ssm-int") throw std::runtime_error("not an integer model");
        version_ = arch == "mamba1" ? 1 : arch == "mamba2" ? 2 : arch == "mamba3" ? 3 : 0;
        act_bits_ = f_.number("act_bits"), clip_ = f_.number("clip_q25"), row_exponents_ = f_.text("state") != "i32";
        d_ = f_.number("d_model"), N_ = f_.number("d_state");
        n_layers_ = f_.number(version_ == 0 ? "n_layers" : "n_layer");
        di_ = f_.number("d_inner"), P_ = f_.number("headdim"), G_ = f_.number("ngroups"), K_ = f_.number("d_conv");
        R_ = version_ == 3 ? f_.number("mimo_rank") : 1, S_ = f_.number("rope_angles"), ds_ = f_.number("d_ssm");
        r_ = f_.number("dt_rank"), mlp_ = f_.number("mlp_hidden");
        mimo_ = f_.text("is_mimo") == "true", prenorm_ = f_.text("prenorm") == "true";
        H_ = version_ == 3 ? di_ / P_ : version_ == 2 ? ds_ / P_ : 0;
        reset();
    }
    const File& file() const { return f_; }
    bool        tokens() const { return f_.text("input") == "tokens"; }
    I           d_input() const { return f_.number("d_input"); }

    void reset() {
        layers.assign(size_t(n_layers_), Layer());
        for (Layer& l : layers) {
            Row row;
            row.h.assign(size_t(N_), 0);
            if (version_ == 0) l.x.assign(size_t(d_ * N_), 0);
            else l.rows.assign(size_t(version_ == 3 ? di_ : version_ == 2 ? ds_ : di_), row);
            if (version_ == 3)
                l.theta.assign(size_t(H_ * S_), 0), l.k.assign(size_t(R_ * H_ * N_), 0), l.v.assign(size_t(di_), 0);
            if (version_ == 1 || version_ == 2)
                l.conv.assign(size_t(version_ == 2 ? ds_ + 2 * G_ * N_ : di_), Vec(size_t(K_), 0));
        }
        pool_sum.assign(size_t(d_), 0);
        resonators.assign(f_.has("frontend.full") ? f_.integers("frontend.full").size() : 0, Resonator());
        last_sample = peak = 0, begun = false;
        pool_count = clipped = saturated = 0;
        trace.clear();
    }
    Vec step(const std::vector<float>& x, I dt_scale = 65536) {
        Vec q;
        for (float v : x) q.push_back(to_q16(v)), saturated += magnitude(q.back()) == largest;
        return step_q16(q, dt_scale);
    }
    Vec step_q16(const Vec& x, I dt_scale = 65536) {
        if (version_ == 0) return s4d(project("encoder", f_.has("frontend.poles") ? bank(x) : x), dt_scale);
        return mamba(f_.has("input_proj.scale") ? project("input_proj", x) : x, dt_scale);
    }
    Vec step_token(I token, I dt_scale = 65536) {
        const Projection& e = projection("embedding");
        Vec               r;
        for (I i = 0; i < d_; ++i) r.push_back(embedded(e.q8[size_t(token * d_ + i)], e.scale[size_t(token)]));
        return mamba(r, dt_scale);
    }

  private:
    // Weights, read when first asked for.
    const Vec& w(const std::string& name) {
        const auto at = tensors_.find(name);
        return at != tensors_.end() ? at->second : tensors_[name] = f_.integers(name);
    }
    const Projection& projection(const std::string& name) {
        const auto at = projections_.find(name);
        if (at != projections_.end()) return at->second;
        Projection p;
        for (float s : f_.floats(name + ".scale")) p.scale.push_back(scale_of(s));
        p.O = I(p.scale.size());
        if (f_.has(name + ".q4")) {
            const Vec            bytes = f_.integers(name + ".q4");
            std::vector<uint8_t> packed;
            for (I b : bytes) packed.push_back(static_cast<uint8_t>(b));
            p.unpack(packed);
            p.subs = f_.integers(name + ".sub");
            p.rows4 = f_.shape(name + ".q4")[0], p.Kp = 2 * f_.shape(name + ".q4")[1];
        }
        if (f_.has(name + ".q8")) p.q8 = f_.integers(name + ".q8"), p.K = f_.shape(name + ".q8")[1];
        if (f_.has(name + ".bias")) p.bias = f_.integers(name + ".bias");
        return projections_[name] = p;
    }
    Vec project(const std::string& name, const Vec& x) {
        const Vec y = projection(name)(x, act_bits_);
        for (I v : y) saturated += magnitude(v) == largest;
        return y;
    }
    Vec norm(const std::string& name, const Vec& x) {
        return f_.text("norm") == "layer" || version_ == 0 ? layer_norm(x, w(name + ".weight"), w(name + ".bias"))
                                                           : rms_norm(x, w(name + ".weight"), 24);
    }
    void see(I layer, const char* name, const Vec& v) {
        if (tracing && layer == 0) trace[name].insert(trace[name].end(), v.begin(), v.end());
    }
    static Vec part(const Vec& v, I begin, I count) {
        const auto first = v.begin() + std::ptrdiff_t(begin);
        return Vec(first, first + std::ptrdiff_t(count));
    }

    // log2 in Q16, by the polynomial that defines it.
    static I log2_q16(I v) {
        const I n = bitlength(v) - 1, f = n > 31 ? v / pow2(n - 31) - pow2(31) : mul(v, pow2(31 - n)) - pow2(31); // Q31
        I       c = 27747045;
        for (I next : {I(-103032465), I(195366126), I(-295923583), I(475179015)}) c = add(rs(mul(c, f), 31), next);
        return add(n * 65536, rs(add(f, rs(mul(rs(mul(f, pow2(31) - f), 31), c), 30)), 15));
    }
    // The features of a frame of samples.
    Vec bank(const Vec& x) {
        const Vec &poles = w("frontend.poles"), &full = w("frontend.full");
        const auto p = [](I a, I b) { return rs(mul(a, b), 32); };
        const auto word = [](I v) { return below(v, pow2(31), "a resonator beyond 32 bits"); };
        const Vec& prior = w("frontend.prior");
        Vec        u, l, out;
        for (I sample : x) {
            const I now = sat(sample, 65536);
            u.push_back(floor_div(32 * now - 29 * last_sample, pow2(f_.number("band_shift"))));
            last_sample = now;
        }
        for (size_t k = 0; k < full.size(); ++k) {
            Resonator& r = resonators[k];
            const I    pr = poles[2 * k], pi = poles[2 * k + 1];
            for (size_t t = 0; t < u.size(); ++t) {
                const I yr = 2 * (p(pr, r.yr) + p(-pi, r.yi)), yi = 2 * (p(pi, r.yr) + p(pr, r.yi));
                const I zr = 2 * (p(pr, r.zr) + p(-pi, r.zi)), zi = 2 * (p(pi, r.zr) + p(pr, r.zi));
                r.yr = word(yr + u[t]), r.yi = word(yi), r.zr = word(zr + r.yr), r.zi = word(zi + r.yi);
                if (t % 4 != 3) continue;
                const I power = floor_div(below(add(mul(r.zr, r.zr), mul(r.zi, r.zi)), pow2(62), "a power"), 4096);
                r.e = add(r.e, floor_div(sub(power, r.e), pow2(f_.number("band_leak"))));
            }
            l.push_back(log2_q16(add(r.e, 1)) - full[k]);
        }
        const I top = *std::max_element(l.begin(), l.end()), before = begun ? peak : top;
        peak = std::max(top, before - f_.number("band_fall"));
        const I forget = std::min(pow2(16), floor_div(std::max<I>(0, peak - before), pow2(f_.number("band_forget"))));
        const bool active = top > peak - f_.number("band_gate") && top > -f_.number("band_quiet");
        for (size_t k = 0; k < full.size(); ++k) {
            Resonator& r = resonators[k];
            const I    d = mul(std::max(l[k] - peak, -f_.number("band_floor")), 256), usual = mul(prior[k], 256);
            if (!begun) r.m = usual;
            r.m = add(r.m, rs(mul(usual - r.m, forget), 16));
            if (active) r.m = add(r.m, rs(mul(d - r.m, f_.number("band_mean")), 16));
            out.push_back(rs(sub(d, r.m), 9));
        }
        begun = true;
        see(0, "features", out);
        return out;
    }

    Vec s4d(Vec r, I dt_scale) {
        const I H = d_, n = N_ / 2;
        for (I i = 0; i < n_layers_; ++i) {
            const std::string p = "s4_layers." + std::to_string(i) + ".", q = "norms." + std::to_string(i);
            Layer&            l = layers[size_t(i)];
            const Vec         u = prenorm_ ? norm(q, r) : r;
            Vec               a = w(p + "kernel.a"), b = w(p + "kernel.b"), s, g, o;
            if (dt_scale != 65536)
                for (size_t m = 0; m < size_t(H * n); ++m)
                    s4d_gap(w(p + "kernel.rho")[m], w(p + "kernel.phase")[m], &w(p + "kernel.g")[2 * m], dt_scale,
                            f_.number("b_frac"), f_.number("g_frac"), &a[2 * m], &b[2 * m]);
            const auto scales = f_.floats(p + "kernel.C.scale");
            const Vec &C = w(p + "kernel.C"), &D = w(p + "D");
            const I    b_frac = f_.number("b_frac");
            for (I h = 0; h < H; ++h) {
                const size_t at = size_t(2 * h * n);
                s.push_back(sat(s4d_channel(&l.x[at], &a[at], &b[at], &C[at], size_t(n), scale_of(scales[size_t(h)]),
                                            D[size_t(h)], u[size_t(h)], b_frac, clip_, &clipped)));
                g.push_back(GELU(s.back()));
            }
            const Vec v = project(p + "output_linear.0", g);
            for (I h = 0; h < H; ++h) {
                o.push_back(rs(mul(v[size_t(h)], sigmoid(to26(v[size_t(H + h)]))), 30));
                r[size_t(h)] = sat(add(r[size_t(h)], o.back()));
            }
            if (!prenorm_) r = norm(q, r);
            see(i, "u", u), see(i, "s", s), see(i, "g", g), see(i, "v", v), see(i, "block", r);
            see(i, "state0", part(l.x, 0, 2 * n));
        }
        if (f_.text("pool") == "mean") {
            pool_advance(pool_sum.data(), pool_sum.size(), &pool_count);
            for (size_t h = 0; h < size_t(H); ++h) r[h] = pool_mean(&pool_sum[h], pool_count, r[h]);
        }
        return project("decoder", r);
    }

    Vec mamba(Vec r, I dt_scale) {
        for (I i = 0; i < n_layers_; ++i) {
            const std::string p = "layers." + std::to_string(i) + ".";
            const Vec         u = norm(p + "norm", r);
            const Vec         o = version_ == 3   ? mamba3(i, u, dt_scale)
                                  : version_ == 2 ? mamba2(i, u, dt_scale)
                                                  : mamba1(i, u, dt_scale);
            for (size_t j = 0; j < r.size(); ++j) r[j] = sat(add(r[j], o[j]));
            if (mlp_ == 0) continue;
            const Vec f = project(p + "mlp.fc1", norm(p + "norm2", r));
            Vec       hidden;
            for (size_t j = 0; j < size_t(mlp_); ++j)
                hidden.push_back(sat(rs(mul(f[j], SiLU(f[size_t(mlp_) + j])), 16)));
            const Vec out = project(p + "mlp.fc2", hidden);
            for (size_t j = 0; j < r.size(); ++j) r[j] = sat(add(r[j], out[j]));
        }
        const Vec         o = norm("norm_f", r);
        const std::string head = f_.text("head");
        return head == "linear" ? project("head", o) : head == "tied" ? project("embedding", o) : o;
    }

    Vec mamba3(I layer, const Vec& u, I dt_scale) {
        const std::string m = "layers." + std::to_string(layer) + ".mixer.";
        Layer&            l = layers[size_t(layer)];
        const I           H = H_, P = P_, N = N_, G = G_, R = R_, S = S_;
        const Vec         p = project(m + "in_proj", u);
        const I           x0 = di_, B0 = 2 * di_, C0 = B0 + R * G * N, dt0 = C0 + R * G * N;
        const auto        at = [&](I i) { return p[size_t(i)]; };
        const Vec         none, &B_bias = w(m + "B_bias"), &C_bias = w(m + "C_bias"), &D = w(m + "D");
        const Vec &       mimo_x = mimo_ ? w(m + "mimo_x") : none, &mimo_z = mimo_ ? w(m + "mimo_z") : none;
        const Vec&        mimo_o = mimo_ ? w(m + "mimo_o") : none;

        // B and C of each (rank, group), normed.
        std::vector<Vec> Bn, Cn;
        for (I rg = 0; rg < R * G; ++rg) {
            Bn.push_back(rms_norm(part(p, B0 + rg * N, N), w(m + "B_norm.weight"), 20));
            Cn.push_back(rms_norm(part(p, C0 + rg * N, N), w(m + "C_norm.weight"), 20));
        }
        Vec dts, alphas, ks(size_t(R * H * N)), qs(size_t(R * H * N)), y;
        for (I h = 0; h < H; ++h) {
            const I dt = step_size(at(dt0 + h), w(m + "dt_bias")[size_t(h)], dt_scale);
            const I A = decay_rate(at(dt0 + H + h), f_.text("a_activation") == "softplus", f_.number("a_floor_q26"));
            const I alpha = exp_neg(rs(mul(A, dt), 26)), lam = sigmoid(to26(at(dt0 + 2 * H + h)));
            const I gamma = rs(mul(lam, dt), 30), beta = rs(mul(rs(mul(alpha, dt), 30), one30 - lam), 30);
            dts.push_back(dt), alphas.push_back(alpha);
            for (I s = 0; s < S; ++s)
                l.theta[size_t(h * S + s)] += static_cast<uint32_t>(rs(mul(tanh(to26(at(dt0 + 3 * H + s))), dt), 25));

            // k and q of each rank, rotated; v and w; the terms of the state's sum.
            std::vector<Vec> gv, bv, v, q;
            for (I r = 0; r < R; ++r) {
                const auto& Bg = Bn[size_t(r * G + h / (H / G))];
                const auto& Cg = Cn[size_t(r * G + h / (H / G))];
                Vec         k, c;
                for (I n = 0; n < N; ++n) {
                    const size_t bias = size_t((h * R + r) * N + n);
                    k.push_back(sat(add(Bg[size_t(n)], B_bias[bias]), pow2(27)));
                    c.push_back(sat(add(Cg[size_t(n)], C_bias[bias]), pow2(27)));
                }
                for (I s = 0; s < S; ++s) {
                    const I    cs = cos_turn(l.theta[size_t(h * S + s)]), sn = sin_turn(l.theta[size_t(h * S + s)]);
                    const auto first = size_t(mimo_ ? s : 2 * s), second = size_t(mimo_ ? s + N / 2 : 2 * s + 1);
                    for (Vec* z : {&k, &c}) {
                        const I a = (*z)[first], b = (*z)[second];
                        (*z)[first] = rs(sub(mul(a, cs), mul(b, sn)), 30);
                        (*z)[second] = rs(add(mul(a, sn), mul(b, cs)), 30);
                    }
                }
                for (I& z : c) z = rs(z, 4);
                std::copy(k.begin(), k.end(), ks.begin() + std::ptrdiff_t((r * H + h) * N));
                std::copy(c.begin(), c.end(), qs.begin() + std::ptrdiff_t((r * H + h) * N));
                q.push_back(c);
                v.emplace_back(), gv.emplace_back(), bv.emplace_back();
                for (I i = 0; i < P; ++i) {
                    I now = at(x0 + h * P + i), before = l.v[size_t(h * P + i)];
                    if (mimo_) {
                        const I f = mimo_x[size_t((h * R + r) * P + i)];
                        now = sat(rs(mul(now, f), 16)), before = sat(rs(mul(before, f), 16));
                    }
                    v.back().push_back(now);
                    gv.back().push_back(sat(rs(mul(gamma, now), 16)));
                    bv.back().push_back(sat(rs(mul(beta, before), 16)));
                }
            }

            // The state of each row, its read-out by every rank.
            std::vector<Vec> o(static_cast<size_t>(R));
            for (I i = 0; i < P; ++i) {
                Vec addend(size_t(N), 0);
                for (I n = 0; n < N; ++n)
                    for (I r = 0; r < R; ++r) {
                        const size_t kn = size_t((r * H + h) * N + n);
                        addend[size_t(n)] = add(addend[size_t(n)], add(mul(bv[size_t(r)][size_t(i)], l.k[kn]),
                                                                       mul(gv[size_t(r)][size_t(i)], ks[kn])));
                    }
                Row& row = l.rows[size_t(h * P + i)];
                I    read = row.step(row_exponents_, Vec(size_t(N), alpha), addend, q[0], clip_, &clipped);
                if (h == 0 && i == 0) see(layer, "h_row", row.h);
                for (I r = 0; r < R; ++r) {
                    if (r > 0) {
                        read = 0;
                        for (size_t n = 0; n < size_t(N); ++n) read = add(read, mul(row.h[n], q[size_t(r)][n]));
                        read = rs(read, row_exponents_ ? row.X : 25);
                    }
                    const I skip = rs(mul(D[size_t(h)], v[size_t(r)][size_t(i)]), 16);
                    o[size_t(r)].push_back(sat(add(read, skip)));
                }
            }
            for (I r = 0; r < R && f_.has(m + "norm.weight"); ++r)
                o[size_t(r)] = rms_norm(o[size_t(r)], part(w(m + "norm.weight"), h * P, P), 24);
            for (I i = 0; i < P; ++i) {
                I sum = 0;
                for (I r = 0; r < R; ++r) {
                    const size_t f = size_t((h * R + r) * P + i);
                    I            z = at(h * P + i);
                    if (mimo_) z = sat(rs(mul(z, mimo_z[f]), 16));
                    const I g = sat(rs(mul(o[size_t(r)][size_t(i)], SiLU(z)), 16));
                    sum = add(sum, mimo_ ? rs(mul(g, mimo_o[f]), 16) : g);
                }
                y.push_back(sat(sum));
            }
        }
        l.k = ks, l.v = part(p, x0, di_);
        see(layer, "in_proj", p), see(layer, "dt", dts), see(layer, "alpha", alphas), see(layer, "k", ks);
        see(layer, "q", qs), see(layer, "y", y), see(layer, "theta", Vec(l.theta.begin(), l.theta.end()));
        return project(m + "out_proj", y);
    }

    // conv1d over the channels' last K inputs, and SiLU.
    Vec convolve(Layer* l, const std::string& m, const Vec& x) {
        Vec        y;
        const Vec  none, &weight = w(m + "conv1d.weight");
        const Vec& bias = f_.has(m + "conv1d.bias") ? w(m + "conv1d.bias") : none;
        for (size_t j = 0; j < x.size(); ++j) {
            Vec& past = l->conv[j];
            past.erase(past.begin());
            past.push_back(x[j]);
            I sum = bias.empty() ? 0 : bias[j];
            for (size_t k = 0; k < size_t(K_); ++k) sum = add(sum, rs(mul(past[k], weight[j * size_t(K_) + k]), 16));
            y.push_back(SiLU(sat(sum)));
        }
        return y;
    }
    // One row of Mamba-1 and Mamba-2: state, read-out, skip.
    I plain_row(Row* row, const Vec& alpha, const Vec& B, const Vec& C, I dt, I x, I D) {
        const I gv = sat(rs(mul(dt, x), 16));
        Vec     addend, q;
        for (I b : B) addend.push_back(mul(gv, sat(mul(b, 16), pow2(27))));
        for (I c : C) q.push_back(sat(c, pow2(23)));
        return sat(add(row->step(row_exponents_, alpha, addend, q, clip_, &clipped), rs(mul(D, x), 16)));
    }

    Vec mamba2(I layer, const Vec& u, I dt_scale) {
        const std::string m = "layers." + std::to_string(layer) + ".mixer.";
        Layer&            l = layers[size_t(layer)];
        const I           wide = di_ - ds_, C = ds_ + 2 * G_ * N_;
        const Vec         p = project(m + "in_proj", u), c = convolve(&l, m, part(p, 2 * wide + ds_, C));
        Vec               y, out;
        for (I h = 0; h < H_; ++h) {
            const I   dt = step_size(p[size_t(2 * wide + ds_ + C + h)], w(m + "dt_bias")[size_t(h)], dt_scale);
            const Vec alpha(size_t(N_), exp_neg(rs(mul(w(m + "A")[size_t(h)], dt), 24)));
            const I   g = h / (H_ / G_);
            for (I i = 0; i < P_; ++i) {
                const size_t ch = size_t(h * P_ + i);
                const Vec&   D = w(m + "D");
                y.push_back(plain_row(&l.rows[ch], alpha, part(c, ds_ + g * N_, N_), part(c, ds_ + (G_ + g) * N_, N_),
                                      dt, c[ch], D[I(D.size()) == H_ ? size_t(h) : ch]));
            }
        }
        const auto gate = [&] {
            for (size_t i = 0; i < y.size(); ++i) y[i] = sat(rs(mul(y[i], SiLU(p[size_t(2 * wide) + i])), 16));
        };
        const auto norm_groups = [&] {
            const I width = ds_ / G_;
            for (I g = 0; g < G_; ++g) {
                const Vec part_y =
                    rms_norm(part(y, g * width, width), part(w(m + "norm.weight"), g * width, width), 24);
                std::copy(part_y.begin(), part_y.end(), y.begin() + std::ptrdiff_t(g * width));
            }
        };
        if (!f_.has(m + "norm.weight")) gate();
        else if (f_.text("norm_before_gate") == "true") norm_groups(), gate();
        else gate(), norm_groups();
        for (size_t i = 0; i < size_t(wide); ++i) out.push_back(sat(rs(mul(SiLU(p[i]), p[size_t(wide) + i]), 16)));
        out.insert(out.end(), y.begin(), y.end());
        return project(m + "out_proj", out);
    }

    Vec mamba1(I layer, const Vec& u, I dt_scale) {
        const std::string m = "layers." + std::to_string(layer) + ".mixer.";
        Layer&            l = layers[size_t(layer)];
        const Vec         p = project(m + "in_proj", u), x = convolve(&l, m, part(p, 0, di_));
        const Vec         rBC = project(m + "x_proj", x), dd = project(m + "dt_proj", part(rBC, 0, r_));
        const Vec &       A = w(m + "A"), &D = w(m + "D"), &dt_bias = w(m + "dt_bias");
        Vec               y;
        for (I c = 0; c < di_; ++c) {
            const I dt = step_size(dd[size_t(c)], dt_bias[size_t(c)], dt_scale);
            Vec     alpha;
            for (I n = 0; n < N_; ++n) alpha.push_back(exp_neg(rs(mul(A[size_t(c * N_ + n)], dt), 24)));
            const I o = plain_row(&l.rows[size_t(c)], alpha, part(rBC, r_, N_), part(rBC, r_ + N_, N_), dt,
                                  x[size_t(c)], D[size_t(c)]);
            y.push_back(sat(rs(mul(o, SiLU(p[size_t(di_ + c)])), 16)));
        }
        return project(m + "out_proj", y);
    }

    File                              f_;
    std::map<std::string, Vec>        tensors_;
    std::map<std::string, Projection> projections_;
    int                               version_ = 0; // 0: S4D
    I    act_bits_ = 8, clip_ = 0, d_ = 0, N_ = 0, n_layers_ = 0, di_ = 0, P_ = 0, G_ = 0, R_ = 1, S_ = 0, H_ = 0;
    I    K_ = 0, ds_ = 0, r_ = 0, mlp_ = 0;
    bool mimo_ = false, prenorm_ = false, row_exponents_ = false;
};

} // namespace int_reference
