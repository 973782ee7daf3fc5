/* SPDX-License-Identifier: MIT
 *
 * Signed 4-bit integers, two to a byte.
 *
 *     byte j = element 2j in bits 0..3, element 2j+1 in bits 4..7     (even element low)
 *
 * Nibbles are two's complement, -8..7. This is pack_int4 of FBGEMM and MSLK
 * (fbgemm:fbgemm_gpu/experimental/gen_ai/gen_ai/quantize.py:16-27).
 */
#ifndef QG_NUM_INT4_H
#define QG_NUM_INT4_H

#include "schemes/num/fn.h"

/* The nibble (0..15) as a number -8..7. */
QG_FN int qg_int4_decode(unsigned nibble)
{
    return (int)((nibble & 15u) ^ 8u) - 8;
}

/* Element i of a packed row. */
QG_FN int qg_int4_get(const uint8_t *row, size_t i)
{
    return qg_int4_decode((unsigned)row[i / 2] >> (i % 2 * 4));
}

/* Stores q (-8..7) as element i; the other nibble of the byte stays. */
QG_FN void qg_int4_put(uint8_t *row, size_t i, int q)
{
    unsigned shift = (unsigned)(i % 2) * 4u;
    row[i / 2] = (uint8_t)((row[i / 2] & ~(15u << shift)) | ((unsigned)q & 15u) << shift);
}

#endif
