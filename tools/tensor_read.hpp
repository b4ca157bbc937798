// tensor_read.hpp - the numbers of a tensor, whatever plain dtype it has, as doubles.
// SPDX-License-Identifier: MIT
#ifndef SSM_TOOLS_TENSOR_READ_HPP
#define SSM_TOOLS_TENSOR_READ_HPP

#include "../ssm.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace tool {

inline double half_to_double(uint16_t u) { // sign, 5 bits of exponent, 10 of fraction
    const int    exponent = u >> 10 & 31;
    const double fraction = u & 1023;
    const double size = exponent == 0    ? std::ldexp(fraction, -24)
                        : exponent == 31 ? (fraction > 0 ? static_cast<double>(NAN) : HUGE_VAL)
                                         : std::ldexp(1024.0 + fraction, exponent - 25);
    return (u & 0x8000) != 0 ? -size : size;
}
inline double bfloat_to_double(uint16_t u) {
    const uint32_t wide = uint32_t(u) << 16;
    float          f;
    std::memcpy(&f, &wide, 4);
    return static_cast<double>(f);
}

// False: this dtype has no plain numbers (BOOL, 8-bit floats, packed ones). 64-bit integers are rounded.
inline bool read_numbers(const ssm::Index& index, const ssm::Entry& e, std::vector<double>* out) {
    const std::string_view dtype = ssm::dtype_name(e.dtype);
    const unsigned char*   data = index.data + e.begin;
    const size_t           bytes = size_t(e.end - e.begin);
    const auto             as = [&](auto zero, auto value) {
        out->resize(bytes / sizeof zero);
        for (size_t i = 0; i < out->size(); ++i) {
            auto x = zero;
            std::memcpy(&x, data + i * sizeof x, sizeof x); // little-endian hosts
            (*out)[i] = value(x);
        }
        return true;
    };
    const auto plain = [](auto x) { return static_cast<double>(x); };
    if (dtype == "F32") return as(float(), plain);
    if (dtype == "F64") return as(double(), plain);
    if (dtype == "F16") return as(uint16_t(), half_to_double);
    if (dtype == "BF16") return as(uint16_t(), bfloat_to_double);
    if (dtype == "I8") return as(int8_t(), plain);
    if (dtype == "U8") return as(uint8_t(), plain);
    if (dtype == "I16") return as(int16_t(), plain);
    if (dtype == "U16") return as(uint16_t(), plain);
    if (dtype == "I32") return as(int32_t(), plain);
    if (dtype == "U32") return as(uint32_t(), plain);
    if (dtype == "I64") return as(int64_t(), plain);
    if (dtype == "U64") return as(uint64_t(), plain);
    return false;
}

inline std::vector<int64_t> shape_of(const ssm::Entry& e) {
    int64_t dims[ssm::max_rank] = {};
    ssm::shape_of(e, dims);
    return std::vector<int64_t>(dims, dims + e.rank);
}

} // namespace tool
#endif
