# digits.awk - three quarters of a second of 16-bit samples, a tone that rises in noise: printf "$(awk -f digits.awk)" > digits.raw
# SPDX-License-Identifier: MIT
BEGIN {
    for (t = 0; t < 6000; ++t) {
        r = (r * 1103 + 12345) % 65536
        v = int(9000 * sin(t * (0.1 + t / 20000)) * sin(t / 6000 * 3.14159) + r / 128 - 256)
        if (v < 0) v += 65536
        printf "\\x%02x\\x%02x", v % 256, int(v / 256)
    }
}
