/* SPDX-License-Identifier: MIT
 *
 * Scales that are powers of two, in bits: which byte (E8M0, 2^(b - 127), 255 NaN) a block's largest
 * magnitude becomes, and what the block's elements are then multiplied with. For kernels in C and
 * in CUDA; definitions say the same in logarithms (schemes/mx.c, schemes/microxcaling.c).
 */
#ifndef QG_POWERS_H
#define QG_POWERS_H

#include <stdbool.h>

#include "schemes/num/tensor.h"

/* floor((ln 2) 2^l) of l < 8. A logarithm near n, 2^l <= |n| < 2^(l+1), rounds to n when it is off
 * by half a step at most: 2^(l-24), and half of that where |n| = 2^l and the logarithm is nearer to
 * zero. The argument is then off by less than that many steps of 2^-24. */
QG_FN uint32_t qg_log2_slack(int l)
{
    return l < 0 ? 0 : 45426u >> (16 - l);
}

/* The l of above: places of |n|, less one where the logarithm is nearer to zero than |n| = 2^l. */
QG_FN int qg_log2_places(int n, bool toward_zero)
{
    int magnitude = n < 0 ? -n : n, l = -1;
    while (magnitude >> (l + 1))
        l++;
    return toward_zero && magnitude == 1 << l ? l - 1 : l;
}

/* --- torchao --------------------------------------------------------------------------------- */

enum qg_power_rule { QG_POWER_FLOOR, QG_POWER_CEIL, QG_POWER_EVEN, QG_POWER_RCEIL };

/* How torchao scales blocks of an element with that largest number, its exponent and mantissa bits.
 * old: release 0.18. */
struct qg_powers {
    int rule;
    bool old;
    float max;
    uint32_t power, mbits;
};

/* The smallest power of two that is not below amax / max. */
QG_FN uint32_t qg_power_above(struct qg_powers p, float amax)
{
    float quotient = p.old ? qg_div(amax, p.max) : qg_mul(amax, qg_div(1.0f, p.max));
    uint32_t u = qg_f32_bits(quotient), field = u >> 23;
    if (field == 255)
        return p.old && u == 0x7f800000u ? 254 : 255;
    if (field == 0)
        return u > 0x400000u;
    // Steps above a power of two are 2^-23, and the old version takes a rounded logarithm.
    int n = (int)field - 127;
    uint32_t slack = p.old ? qg_log2_slack(qg_log2_places(n, n < 0) - 1) : 0;
    return (u + 0x7fffffu - slack) >> 23;
}

/* The byte of a block's scale. */
QG_FN uint32_t qg_power_of(struct qg_powers p, float amax)
{
    uint32_t u = qg_f32_bits(amax), up = 0;
    if (p.rule == QG_POWER_RCEIL)
        return qg_power_above(p, amax);
    if (p.rule == QG_POWER_CEIL && u < 0x7f800000u)
        up = 0x7fffffu;
    if (p.rule == QG_POWER_EVEN)
        up = 1u << (22 - p.mbits);
    uint32_t field = (u + up) >> 23;
    if (u > 0x7f800000u || (!p.old && (p.rule == QG_POWER_EVEN ? field : u >> 23) == 255))
        return 255;
    return field < p.power ? 0 : field - p.power;
}

/* What the elements of a block with that byte are multiplied with: division by a power of two that
 * has a reciprocal is that product. */
QG_FN float qg_power_factor(struct qg_powers p, uint32_t byte)
{
    bool rceil = p.rule == QG_POWER_RCEIL;
    if (byte == 255)
        return p.old && !rceil ? 0.0f : NAN; // x / inf
    if (byte == 0 && p.old)
        return rceil ? 1.0f : 0x1p126f;
    return qg_f32_from_bits(byte == 254 ? 0x400000u : (254 - byte) << 23);
}

/* --- microxcaling ---------------------------------------------------------------------------- */

/* Byte of 2^(floor(R(log2 amax)) - 2), R being roundings to dtype t, F32 or BF16. In BF16 steps
 * below a power of two are 2^-8 of it, too wide for the logarithm to be a line: by l, the steps
 * within which 2^(-2^(l-8)) lies. */
QG_FN uint32_t qg_power_by_log2(enum qg_dtype t, float amax)
{
    uint32_t u = qg_f32_bits(amax), field = u >> 23;
    if (field == 255)
        return 255;
    int n = (int)field - 126, l = qg_log2_places(n, n > 0);
    uint32_t below = 0x800000u - (u & 0x7fffffu);
    uint32_t wide = l < 0 ? 0 : (uint32_t)(0x28150a05020100ull >> 8 * l & 255u) << 16;
    uint32_t slack = t == QG_BF16 ? wide : qg_log2_slack(l);
    field += below <= slack;
    return field < 2 ? 0 : field - 2;
}

/* The lowest magnitude that becomes the number 1/2 of E2M1: one place of the dtype below 1/4, which
 * doubled and added to 1/2 rounds to 1. */
QG_FN float qg_e2m1_lowest(enum qg_dtype t)
{
    return t == QG_BF16 ? 0x1.fep-3f : 0x1.fffffep-3f;
}

/* The code of E2M1, halves away from zero: how many thresholds, the midpoints of the grid, the
 * magnitude reaches, with bit 3 for u below 0. A NaN is 0. */
QG_FN uint32_t qg_e2m1_away(float lowest, float u)
{
    float m = qg_abs(u);
    uint32_t code = (uint32_t)(m >= lowest) + (m >= 0.75f) + (m >= 1.25f) + (m >= 1.75f) +
                    (m >= 2.5f) + (m >= 3.5f) + (m >= 5.0f);
    return code | (uint32_t)(u < 0) << 3;
}

#endif
