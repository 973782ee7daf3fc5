/* SPDX-License-Identifier: MIT
 *
 * The element and scale formats of the OCP Microscaling Formats (MX) specification 1.0.
 *
 *     e8m0   eeeeeeee   2^(b - 127); b = 255 is NaN; no zero, no sign
 *     e2m1   s ee m     bias 1: 0 .5 1 1.5 2 3 4 6        no inf, no NaN
 *     e2m3   s ee mmm   bias 1: step 2^-3, max 7.5        no inf, no NaN
 *     e3m2   s eee mm   bias 3: step 2^-4, max 28         no inf, no NaN
 *
 * Elements round to nearest, ties to even, and saturate at the largest number; the sign of zero is
 * kept. A NaN, which these elements cannot hold, becomes the largest number, positive whatever the
 * NaN's sign: that of an invalid operation differs from processor to processor.
 */
#ifndef QG_NUM_MX_H
#define QG_NUM_MX_H

#include "schemes/num/round.h"

typedef struct {
    uint8_t v;
} qg_e8m0;

/* Byte 0 is 2^-127, a subnormal number of binary32. */
QG_FN float qg_e8m0_decode(qg_e8m0 x)
{
    return qg_f32_from_bits(x.v == 255 ? 0x7fc00000u : x.v ? (uint32_t)x.v << 23 : 0x400000u);
}

/* A power of two from 2^-127 to 2^127 exactly; NaN and inf become 255. */
QG_FN qg_e8m0 qg_e8m0_encode(float x)
{
    qg_e8m0 q = {(uint8_t)(qg_f32_bits(x) >> 23 & 255u)};
    return q;
}

/* The smallest power of two that is not below x >= 0, 2^-127 at least; beyond 2^127 it is NaN. */
QG_FN qg_e8m0 qg_e8m0_above(float x)
{
    uint32_t u = qg_f32_bits(x), field = u >> 23 & 255u;
    uint32_t floor = field ? 0 : 0x400000u; // the bits of 2^-127
    qg_e8m0 q = {(uint8_t)(field + (field < 255 && (u & 0x7fffffu) > floor))};
    return q;
}

/* x as sign, exponent and mantissa in `bits` bits, of which `mbits` are the mantissa. */
QG_FN unsigned qg_mx_encode(float x, unsigned bits, unsigned mbits, unsigned bias)
{
    uint32_t u = qg_f32_bits(x), a = u & 0x7fffffffu, top = (1u << (bits - 1)) - 1u;
    if (a > 0x7f800000u)
        return top;
    uint32_t r = a == 0x7f800000u ? top : qg_minifloat_round(a, mbits, bias);
    return (u >> 31) << (bits - 1) | (r < top ? r : top);
}

QG_FN float qg_mx_decode(unsigned code, unsigned bits, unsigned mbits, unsigned bias)
{
    uint32_t top = (1u << (bits - 1)) - 1u, sign = (uint32_t)(code >> (bits - 1) & 1u) << 31;
    return qg_f32_from_bits(sign | qg_f32_bits(qg_minifloat_value(code & top, mbits, bias)));
}

QG_FN unsigned qg_e2m1_encode(float x)
{
    return qg_mx_encode(x, 4, 1, 1);
}

QG_FN float qg_e2m1_decode(unsigned code)
{
    return qg_mx_decode(code, 4, 1, 1);
}

QG_FN unsigned qg_e2m3_encode(float x)
{
    return qg_mx_encode(x, 6, 3, 1);
}

QG_FN float qg_e2m3_decode(unsigned code)
{
    return qg_mx_decode(code, 6, 3, 1);
}

QG_FN unsigned qg_e3m2_encode(float x)
{
    return qg_mx_encode(x, 6, 2, 3);
}

QG_FN float qg_e3m2_decode(unsigned code)
{
    return qg_mx_decode(code, 6, 2, 3);
}

#endif
