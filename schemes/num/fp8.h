/* SPDX-License-Identifier: MIT
 *
 * The two OCP 8-bit floating-point formats (OCP OFP8 specification 1.0; torch.float8_e4m3fn and
 * torch.float8_e5m2).
 *
 *     e4m3   s eeee mmm    bias 7, subnormal step 2^-9, max 448 (0x7e), NaN 0x7f, no inf
 *     e5m2   s eeeee mm    bias 15, subnormal step 2^-16, max 57344 (0x7b), inf 0x7c, NaN above
 *
 * Rounding is to nearest, ties to even, in one step from binary32; -0 is kept.
 * Overflow of e4m3: `encode` saturates, inf included, to +-448 as PyTorch has done since 2.13 and
 * as CUDA's __NV_SATFINITE does; `encode_nan` gives NaN above 464, as PyTorch did before and
 * ml_dtypes does. NaN stays NaN. e5m2 overflows to inf.
 */
#ifndef QG_NUM_FP8_H
#define QG_NUM_FP8_H

#include "schemes/num/round.h"

typedef struct {
    uint8_t v;
} qg_e4m3;
typedef struct {
    uint8_t v;
} qg_e5m2;

#define QG_E4M3_MAX 448.0f
#define QG_E5M2_MAX 57344.0f

QG_FN float qg_e4m3_decode(qg_e4m3 x)
{
    uint32_t sign = (uint32_t)(x.v & 0x80u) << 24, code = x.v & 0x7fu;
    uint32_t bits = code == 0x7fu ? 0x7fc00000u : qg_f32_bits(qg_minifloat_value(code, 3, 7));
    return qg_f32_from_bits(sign | bits);
}

/* Overflow (and inf) to NaN. 464 is the tie between 448 and 480 and goes to 448. */
QG_FN qg_e4m3 qg_e4m3_encode_nan(float f)
{
    uint32_t u = qg_f32_bits(f), a = u & 0x7fffffffu;
    uint32_t r = a > 0x43e80000u ? 0x7fu : qg_minifloat_round(a, 3, 7);
    qg_e4m3 q = {(uint8_t)((u >> 24 & 0x80u) | r)};
    return q;
}

/* Overflow to +-448, inf included. */
QG_FN qg_e4m3 qg_e4m3_encode(float f)
{
    uint32_t u = qg_f32_bits(f), a = u & 0x7fffffffu;
    uint32_t r = a > 0x7f800000u ? 0x7fu : a > 0x43e80000u ? 0x7eu : qg_minifloat_round(a, 3, 7);
    qg_e4m3 q = {(uint8_t)((u >> 24 & 0x80u) | r)};
    return q;
}

QG_FN float qg_e5m2_decode(qg_e5m2 x)
{
    uint32_t sign = (uint32_t)(x.v & 0x80u) << 24, code = x.v & 0x7fu;
    uint32_t bits = code == 0x7cu  ? 0x7f800000u
                    : code > 0x7cu ? 0x7fc00000u | (code & 3u) << 21
                                   : qg_f32_bits(qg_minifloat_value(code, 2, 15));
    return qg_f32_from_bits(sign | bits);
}

QG_FN qg_e5m2 qg_e5m2_encode(float f)
{
    uint32_t u = qg_f32_bits(f), a = u & 0x7fffffffu;
    // 61440 is the tie between 57344 and 65536: it goes to the even code, inf.
    uint32_t r = a > 0x7f800000u ? 0x7fu : a >= 0x47700000u ? 0x7cu : qg_minifloat_round(a, 2, 15);
    qg_e5m2 q = {(uint8_t)((u >> 24 & 0x80u) | r)};
    return q;
}

#endif
