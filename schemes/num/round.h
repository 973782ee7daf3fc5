/* SPDX-License-Identifier: MIT
 *
 * Rounding and clamping: to integers, and to any small binary floating-point format.
 */
#ifndef QG_NUM_ROUND_H
#define QG_NUM_ROUND_H

#include "schemes/num/fn.h"

/* Round half to even to an integral value (torch.round). |x| >= 2^23, inf and NaN pass through. */
QG_FN float qg_rint(float x)
{
    return rintf(x);
}

/* torch.clamp: a NaN stays NaN. */
QG_FN float qg_clamp(float x, float lo, float hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

/* torch.maximum, torch.amax, torch.clamp(min=): a NaN on either side wins. */
QG_FN float qg_max(float a, float b)
{
    return a != a ? a : b != b ? b : a > b ? a : b;
}

/* torch.minimum, torch.amin: a NaN on either side wins. */
QG_FN float qg_min(float a, float b)
{
    return a != a ? a : b != b ? b : a < b ? a : b;
}

QG_FN float qg_abs(float x)
{
    return qg_f32_from_bits(qg_f32_bits(x) & 0x7fffffffu);
}

/* a*b + c rounded once to binary32 "to odd": toward zero, then the last bit is set when anything
 * was lost. Rounding the result to nearest in a format of at most 22 significant bits gives what
 * one rounding of the exact a*b + c gives (Boldo, Melquiond 2008), so this is how a fused bf16 or
 * fp16 multiply-add is written. NaN and inf as in fma; for a, b, c whose product is exact in
 * binary64, which every pair of binary32 numbers is. */
QG_FN float qg_fma_odd(float a, float b, float c)
{
    double p = (double)a * b, s = p + c, t = s - p;
    double lost = (p - (s - t)) + (c - t); // exactly p + c - s (Knuth's TwoSum)
    float f = (float)s;
    double rest = (s - f) + lost; // sign and zeroness of (p + c) - f
    if (f != f || rest == 0 || f - f != 0)
        return f;
    uint32_t u = qg_f32_bits(f);
    if (f == 0) // everything was lost: the smallest odd number on the right side
        return qg_f32_from_bits((rest < 0 ? 0x80000000u : 0u) | 1u);
    if ((rest < 0) == (f > 0)) // f lies beyond the exact value: step toward zero
        u--;
    return qg_f32_from_bits(u | 1u);
}

/* Rounds a finite binary32 magnitude `a` (its bits, sign cleared) to a format with `mbits` mantissa
 * bits and exponent bias `bias`, to nearest, ties to even, subnormals included. Returns exponent
 * and mantissa as one integer; overflow is the caller's: the result simply runs on past the largest
 * code. */
QG_FN uint32_t qg_minifloat_round(uint32_t a, uint32_t mbits, uint32_t bias)
{
    uint32_t drop = 23u - mbits, e = a >> 23;
    if (e > 127u - bias) // normal in the target: rebias, then round away `drop` bits
        return (a - ((127u - bias) << 23) + (1u << (drop - 1)) - 1u + (a >> drop & 1u)) >> drop;
    uint32_t shift = drop + 128u - bias - e; // places down to the target's smallest subnormal
    if (shift > 24u)                         // below half of it (so is every binary32 subnormal)
        return 0;
    uint32_t m = (a & 0x7fffffu) | 0x800000u, kept = m >> shift;
    uint32_t rest = m & ((1u << shift) - 1u), half = 1u << (shift - 1);
    return kept + (rest > half || (rest == half && (kept & 1u)));
}

/* The magnitude that exponent-and-mantissa `code` stands for when it is a finite number. Exact. */
QG_FN float qg_minifloat_value(uint32_t code, uint32_t mbits, uint32_t bias)
{
    uint32_t e = code >> mbits, m = code & ((1u << mbits) - 1u);
    if (e == 0) // m times the smallest subnormal, 2^(1 - bias - mbits)
        return (float)m * qg_f32_from_bits((128u - bias - mbits) << 23);
    return qg_f32_from_bits((e + 127u - bias) << 23 | m << (23u - mbits));
}

#endif
