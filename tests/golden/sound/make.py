# Makes bank.txt, vectors for the bank of resonators in front of a model of sound: python3 make.py > bank.txt
# SPDX-License-Identifier: MIT
#
# The definition in ssm.hpp (section 8, BankQ) once more, in Python's unbounded integers, for a bank of seven resonators
# and 32 frames of 16 samples: silence, an impulse, full scale in both directions, a sweep, noise.
import cmath
import math

K, FRAME, SHIFT, LEAK, MEAN, FLOOR, FALL, GATE, QUIET, FORGET = 7, 16, 2, 4, 2621, 1088000, 1300, 587000, 1400000, 3


def rs(x, s):  # add half, shift right
    return (x + (1 << (s - 1))) >> s


def log2_q16(v):
    n = v.bit_length() - 1
    f = (v << 63 - n >> 32) - (1 << 31)
    c = 27747045
    for following in (-103032465, 195366126, -295923583, 475179015):
        c = rs(c * f, 31) + following
    return n * 65536 + rs(f + rs(rs(f * ((1 << 31) - f), 31) * c, 30), 15)


poles, full = [], []
for k in range(K):
    p = cmath.rect(0.95 - 0.04 * k, 0.09 * 1.7**k)
    poles.append((round(p.real * 2**31), round(p.imag * 2**31)))
    full.append(round((2 * math.log2(2**21 / 2**SHIFT / (1 - abs(p)) ** 2) - 12) * 65536))

samples, noise = [], 1
for t in range(32 * FRAME):
    noise = noise * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
    part = t // (4 * FRAME)
    loud = round(65536 * math.sin(t * t * 0.001))
    samples.append([0, 65536 if t == 70 else 0, 65536, -65536, 65536 * (-1) ** t, loud, (noise >> 47) - 65536,
                    (noise >> 58) - 32][part])

prior = [-300000 - 20000 * k for k in range(K)]
state, features, last, peak = [[0] * 5 + [256 * p] for p in prior], [], 0, None
for begin in range(0, len(samples), FRAME):
    levels = []
    u = []
    for x in samples[begin:begin + FRAME]:
        u.append((32 * x - 29 * last) >> SHIFT)
        last = x
    for (pr, pi), s, f in zip(poles, state, full):
        yr, yi, zr, zi, e, _ = s
        for t in range(FRAME):
            a, b = 2 * (rs(pr * yr, 32) + rs(-pi * yi, 32)), 2 * (rs(pi * yr, 32) + rs(pr * yi, 32))
            c, d = 2 * (rs(pr * zr, 32) + rs(-pi * zi, 32)), 2 * (rs(pi * zr, 32) + rs(pr * zi, 32))
            yr, yi = a + u[t], b
            zr, zi = c + yr, d + yi
            assert max(abs(v) for v in (yr, yi, zr, zi)) < 1 << 31
            if t % 4 == 3:
                e += ((zr * zr + zi * zi >> 12) - e) >> LEAK
        s[:5] = yr, yi, zr, zi, e
        levels.append(log2_q16(e + 1) - f)
    top = max(levels)
    before = top if peak is None else peak
    peak = max(top, before - FALL)
    forget = min(65536, max(0, peak - before) >> FORGET)
    active = top > peak - GATE and top > -QUIET
    for s, l, p in zip(state, levels, prior):
        d = max(l - peak, -FLOOR) * 256
        s[5] += rs((p * 256 - s[5]) * forget, 16)
        if active:
            s[5] += rs((d - s[5]) * MEAN, 16)
        features.append(rs(d - s[5], 9))

print("Made by make.py: a bank's settings (bands, frame, shift, leak, mean, floor, fall, gate, quiet, forget), tables, and what it hears")
for name, v in (("settings", [K, FRAME, SHIFT, LEAK, MEAN, FLOOR, FALL, GATE, QUIET, FORGET]), ("poles", sum(map(list, poles), [])),
                ("full", full), ("prior", prior), ("samples", samples), ("features", features)):
    print(name, len(v), *v)
