/* SPDX-License-Identifier: MIT
 *
 * IEEE binary16.
 *
 *     s eeeee mmmmmmmmmm     bias 15, e = 0 subnormal (step 2^-24), e = 31 inf and NaN
 *
 * Rounding is to nearest, ties to even; |x| >= 65520 goes to inf; -0 and subnormals are kept. A NaN
 * keeps its sign and its upper payload bits and is made quiet (what vcvtps2ph does).
 */
#ifndef QG_NUM_FP16_H
#define QG_NUM_FP16_H

#include "schemes/num/round.h"

typedef struct {
    uint16_t v;
} qg_fp16;

QG_FN float qg_fp16_decode(qg_fp16 x)
{
    uint32_t sign = (uint32_t)(x.v & 0x8000u) << 16, code = x.v & 0x7fffu;
    uint32_t bits = code == 0x7c00u  ? 0x7f800000u
                    : code > 0x7c00u ? 0x7fc00000u | (code & 0x3ffu) << 13
                                     : qg_f32_bits(qg_minifloat_value(code, 10, 15));
    return qg_f32_from_bits(sign | bits);
}

QG_FN qg_fp16 qg_fp16_encode(float f)
{
    uint32_t u = qg_f32_bits(f), a = u & 0x7fffffffu;
    uint32_t r = a > 0x7f800000u    ? 0x7e00u | (a >> 13 & 0x1ffu)
                 : a >= 0x477ff000u ? 0x7c00u // 65520, the tie between 65504 and 2^16, and above
                                    : qg_minifloat_round(a, 10, 15);
    qg_fp16 q = {(uint16_t)((u >> 16 & 0x8000u) | r)};
    return q;
}

#endif
