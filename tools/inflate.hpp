// inflate.hpp - reads gzip files (RFC 1952, RFC 1951).
// SPDX-License-Identifier: MIT
//
// For data sets that come compressed. Every length, distance and code is checked before it is used; the output never
// grows past the limit the caller gives; the CRC and the length at the end of each member must match.

#ifndef INFLATE_HPP
#define INFLATE_HPP

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace inflate {

inline uint32_t crc32(const unsigned char* p, size_t n) {
    static const std::vector<uint32_t> table = [] {
        std::vector<uint32_t> t(256);
        for (uint32_t i = 0; i < 256; ++i) {
            uint32_t c = i;
            for (int k = 0; k < 8; ++k) c = (c & 1) != 0 ? 0xedb88320u ^ (c >> 1) : c >> 1;
            t[i] = c;
        }
        return t;
    }();
    uint32_t c = 0xffffffffu;
    for (size_t i = 0; i < n; ++i) c = table[(c ^ p[i]) & 255] ^ (c >> 8);
    return c ^ 0xffffffffu;
}

struct Bits {
    const unsigned char* p    = nullptr;
    const unsigned char* end  = nullptr;
    uint64_t             hold = 0;
    int                  have = 0;
    bool                 bad  = false; // read past the end

    // The next n <= 16 bits, lowest first.
    uint32_t take(int n) {
        while (have < n) {
            if (p == end) {
                bad = true;
                return 0;
            }
            hold |= uint64_t(*p++) << have;
            have += 8;
        }
        const uint32_t v = uint32_t(hold & ((uint64_t(1) << n) - 1));
        hold >>= n;
        have -= n;
        return v;
    }
    void to_byte() {
        hold >>= have % 8;
        have -= have % 8;
    }
};

// A canonical Huffman code: how many codes there are of each length, and the symbols in order of their codes.
struct Huffman {
    uint16_t              count[16] = {};
    std::vector<uint16_t> symbols;

    // False if the lengths are no prefix code. One incomplete code is allowed: a single one of one bit.
    bool make(const uint8_t* lengths, int n) {
        for (uint16_t& c : count) c = 0;
        for (int i = 0; i < n; ++i) ++count[lengths[i]];
        count[0] = 0;
        int left = 1, used = 0;
        for (int l = 1; l < 16; ++l) {
            left = left * 2 - count[l];
            used += count[l];
            if (left < 0) return false;
        }
        if (left > 0 && !(used == 1 && count[1] == 1) && used != 0) return false;
        symbols.clear();
        for (int l = 1; l < 16; ++l)
            for (int i = 0; i < n; ++i)
                if (lengths[i] == l) symbols.push_back(uint16_t(i));
        return true;
    }
    // The next symbol, or -1.
    int next(Bits& in) const {
        int code = 0, first = 0, index = 0;
        for (int l = 1; l < 16; ++l) {
            code |= int(in.take(1));
            if (in.bad) return -1;
            const int n = count[l];
            if (code - first < n) return symbols[size_t(index + code - first)];
            index += n;
            first = (first + n) << 1;
            code <<= 1;
        }
        return -1;
    }
};

// One deflate stream, appended to `out`. Null if good, else what is wrong.
inline const char* stream(Bits& in, std::vector<unsigned char>& out, size_t limit) {
    static const uint16_t length_base[29]   = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                               31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static const uint8_t  length_bits[29]   = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                               2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    static const uint16_t distance_base[30] = {1,    2,    3,    4,    5,    7,    9,    13,    17,    25,
                                               33,   49,   65,   97,   129,  193,  257,  385,   513,   769,
                                               1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    static const uint8_t  order[19]         = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    const size_t          begin             = out.size();
    for (bool last = false; !last;) {
        last                = in.take(1) != 0;
        const uint32_t type = in.take(2);
        if (in.bad) return "compressed data ends early";
        if (type == 3) return "a block of unknown type";
        if (type == 0) {
            in.to_byte();
            const uint32_t n = in.take(16), inverse = in.take(16);
            if (in.bad || (n ^ inverse) != 0xffff) return "a stored block with a damaged length";
            if (n > limit - out.size()) return "more data than expected";
            for (uint32_t i = 0; i < n; ++i) out.push_back(static_cast<unsigned char>(in.take(8)));
            if (in.bad) return "compressed data ends early";
            continue;
        }
        uint8_t lengths[320] = {};
        int     n_length = 288, n_distance = 30;
        if (type == 1) {
            for (int i = 0; i < 288; ++i) lengths[i] = uint8_t(i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8);
        } else {
            n_length = int(in.take(5)) + 257, n_distance = int(in.take(5)) + 1;
            const int n_code = int(in.take(4)) + 4;
            if (in.bad || n_length > 286 || n_distance > 30) return "a block with too many codes";
            uint8_t code_lengths[19] = {};
            for (int i = 0; i < n_code; ++i) code_lengths[order[i]] = uint8_t(in.take(3));
            Huffman code;
            if (in.bad || !code.make(code_lengths, 19)) return "a damaged code table";
            for (int i = 0; i < n_length + n_distance;) {
                const int symbol = code.next(in);
                if (symbol < 0) return "a damaged code table";
                if (symbol < 16) {
                    lengths[i++] = uint8_t(symbol);
                    continue;
                }
                if (symbol == 16 && i == 0) return "a damaged code table";
                const uint8_t value  = symbol == 16 ? lengths[i - 1] : uint8_t(0);
                int           repeat = symbol == 16   ? 3 + int(in.take(2))
                                       : symbol == 17 ? 3 + int(in.take(3))
                                                      : 11 + int(in.take(7));
                if (in.bad || repeat > n_length + n_distance - i) return "a damaged code table";
                while (repeat-- > 0) lengths[i++] = value;
            }
        }
        Huffman literal, distance;
        uint8_t far_lengths[30];
        for (int i = 0; i < 30; ++i)
            far_lengths[i] = type == 1 ? uint8_t(5) : i < n_distance ? lengths[n_length + i] : uint8_t(0);
        // The fixed distance code has 32 codes of which the last two never occur: complete only with them, so it is
        // made by hand.
        if (type == 1) {
            distance.count[5] = 32;
            for (uint16_t i = 0; i < 32; ++i) distance.symbols.push_back(i);
        } else if (!distance.make(far_lengths, 30)) {
            return "a damaged code table";
        }
        if (!literal.make(lengths, n_length)) return "a damaged code table";
        for (;;) {
            const int symbol = literal.next(in);
            if (symbol < 0 || symbol > 285) return in.bad ? "compressed data ends early" : "a damaged code";
            if (symbol == 256) break;
            if (symbol < 256) {
                if (out.size() >= limit) return "more data than expected";
                out.push_back(static_cast<unsigned char>(symbol));
                continue;
            }
            const size_t length = size_t(length_base[symbol - 257]) + in.take(length_bits[symbol - 257]);
            const int    code   = distance.next(in);
            if (code < 0 || code > 29) return in.bad ? "compressed data ends early" : "a damaged code";
            const size_t back = size_t(distance_base[code]) + in.take(code < 2 ? 0 : code / 2 - 1);
            if (in.bad) return "compressed data ends early";
            if (back > out.size() - begin) return "a distance before the beginning";
            if (length > limit - out.size()) return "more data than expected";
            for (size_t i = 0; i < length; ++i) out.push_back(out[out.size() - back]);
        }
    }
    return nullptr;
}

// All members of a gzip file. Null if good, else what is wrong.
inline const char* gunzip(const unsigned char* data, size_t size, std::vector<unsigned char>& out, size_t limit) {
    const unsigned char *p = data, *end = data + size;
    out.clear();
    if (size == 0) return "an empty file";
    while (p != end) {
        if (end - p < 18 || p[0] != 0x1f || p[1] != 0x8b || p[2] != 8 || (p[3] & 0xe0) != 0) return "not a gzip file";
        const unsigned flags = p[3];
        p += 10;
        if ((flags & 4) != 0) {
            if (end - p < 2) return "a header that ends early";
            const std::ptrdiff_t n = p[0] + 256 * p[1];
            if (end - p - 2 < n) return "a header that ends early";
            p += 2 + n;
        }
        for (unsigned flag : {8u, 16u}) // name, comment
            if ((flags & flag) != 0) {
                while (p != end && *p != 0) ++p;
                if (p == end) return "a header that ends early";
                ++p;
            }
        if ((flags & 2) != 0) {
            if (end - p < 2) return "a header that ends early";
            p += 2;
        }
        Bits in;
        in.p = p, in.end = end;
        const size_t begin = out.size();
        if (const char* why = stream(in, out, limit)) return why;
        in.to_byte();
        const uint32_t crc_low = in.take(16), crc_high = in.take(16), size_low = in.take(16), size_high = in.take(16);
        if (in.bad) return "compressed data ends early";
        if ((crc_low | crc_high << 16) != crc32(out.data() + begin, out.size() - begin))
            return "a checksum that does not match";
        if ((size_low | size_high << 16) != uint32_t(out.size() - begin)) return "a length that does not match";
        p = in.p - in.have / 8;
    }
    return nullptr;
}

} // namespace inflate

#endif
