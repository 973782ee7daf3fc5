/* SPDX-License-Identifier: MIT
 *
 * bfloat16: the upper half of a binary32.
 *
 *     s eeeeeeee mmmmmmm     bias 127, inf and NaN as in binary32, subnormals kept
 *
 * Rounding is to nearest, ties to even. Overflow goes to inf, -0 is kept. Every NaN becomes the
 * canonical 0x7fc0 of its sign-less form, as PyTorch's c10::detail::round_to_nearest_even does
 * (pytorch:c10/util/BFloat16.h), so that two correct implementations agree on all inputs.
 */
#ifndef QG_NUM_BF16_H
#define QG_NUM_BF16_H

#include "schemes/num/fn.h"

typedef struct {
    uint16_t v;
} qg_bf16;

QG_FN float qg_bf16_decode(qg_bf16 x)
{
    return qg_f32_from_bits((uint32_t)x.v << 16);
}

QG_FN qg_bf16 qg_bf16_encode(float f)
{
    uint32_t u = qg_f32_bits(f);
    qg_bf16 r = {0x7fc0};
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return r;
    // Half of the last kept place, less one when that place is even: a tie then stays below it.
    r.v = (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    return r;
}

#endif
