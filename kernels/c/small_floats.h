/* SPDX-License-Identifier: MIT
 *
 * Element formats of 4, 6 and 8 bits for the plain C kernels: encoded and decoded in loops without
 * branches, where the format is a constant. check_kernels judges them through the kernels.
 */
#ifndef QG_SMALL_FLOATS_H
#define QG_SMALL_FLOATS_H

#include "kernels/c/rows.h"

/* A format of `bits` bits, its largest magnitude as a code and as a number of exponent `power`. The
 * code of NaN is `top` where there is no NaN. */
struct qg_small {
    uint32_t bits, mbits, bias, top, nan;
    float max;
    int power;
};

/* Initializers. */
#define QG_SMALL_E2M1          \
    {                          \
        4, 1, 1, 7, 7, 6.0f, 2 \
    }
#define QG_SMALL_E2M3            \
    {                            \
        6, 3, 1, 31, 31, 7.5f, 2 \
    }
#define QG_SMALL_E3M2             \
    {                             \
        6, 2, 3, 31, 31, 28.0f, 4 \
    }
#define QG_SMALL_E4M3                  \
    {                                  \
        8, 3, 7, 0x7e, 0x7f, 448.0f, 8 \
    }
#define QG_SMALL_E5M2                      \
    {                                      \
        8, 2, 15, 0x7b, 0x7f, 57344.0f, 15 \
    }

/* The nearest code, saturating. Below the smallest normal number, the sum with a power of two whose
 * step is the format's does the rounding. A NaN keeps its sign where the format has NaN, and is
 * positive where not. */
QG_INLINE uint8_t qg_small_of(struct qg_small f, float x)
{
    const uint32_t drop = 23 - f.mbits, magic = (127 + 24 - f.bias - f.mbits) << 23;
    const int32_t tiny = (int32_t)((128 - f.bias) << 23), infinity = 0x7f800000;
    int32_t a = qg_magnitude(x);
    uint32_t u = (uint32_t)a, sign = qg_sign(x) >> (32 - f.bits);
    uint32_t normal =
        ((u + (1u << (drop - 1)) - 1 + (u >> drop & 1u)) >> drop) - ((127 - f.bias) << f.mbits);
    uint32_t small = qg_f32_bits(qg_f32_from_bits(u) + qg_f32_from_bits(magic)) - magic;
    uint32_t r = qg_pick(a < tiny, small, normal);
    r = qg_pick((int32_t)r > (int32_t)f.top, f.top, r);
    r = qg_pick(a > infinity, f.nan, r);
    sign = qg_pick((a > infinity) & (f.nan == f.top), 0, sign);
    return (uint8_t)(sign | r);
}

QG_INLINE float qg_small_value(struct qg_small f, uint8_t code)
{
    const uint32_t sign = (uint32_t)(code >> (f.bits - 1) & 1) << 31;
    const uint32_t a = code & ((1u << (f.bits - 1)) - 1);
    const float step = qg_f32_from_bits((128 - f.bias - f.mbits) << 23);
    uint32_t small = qg_f32_bits((float)(int32_t)a * step);
    uint32_t normal = (a << (23 - f.mbits)) + ((127 - f.bias) << 23);
    uint32_t r = qg_pick(a < 1u << f.mbits, small, normal);
    bool inf = f.bits == 8 && f.top == 0x7b && a == 0x7c;
    r = qg_pick(a > f.top, inf ? 0x7f800000u : 0x7fc00000u, r);
    return qg_f32_from_bits(sign | r);
}

/* Where scale j of a row lies when `blocks` scales per row are laid out in tiles of 128 x 4: rows
 * of 16 bytes, first the tile, then the row within a quarter of it, the quarter, the column. */
static inline size_t qg_tile_at(size_t blocks, size_t row, size_t j)
{
    size_t tiles = (blocks + 3) / 4, quarter = row / 32 % 4;
    return (((row / 128 * tiles + j / 4) * 32 + row % 32) * 4 + quarter) * 4 + j % 4;
}

/* Nibbles 0 .. n of a row, one per byte; n is even. */
static inline void qg_nibbles_unpack(size_t n, const uint8_t *restrict packed,
                                     uint8_t *restrict code)
{
    for (size_t j = 0; j < n / 2; j++) {
        code[2 * j] = packed[j] & 15;
        code[2 * j + 1] = packed[j] >> 4;
    }
}

#endif
