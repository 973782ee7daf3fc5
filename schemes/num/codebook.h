/* SPDX-License-Identifier: MIT
 *
 * Codes that are places in a list of numbers: the two 4-bit lists and the 8-bit map of
 * bitsandbytes.
 *
 *     nf4        quantiles of the normal distribution, 0 and +-1 among them, in rising order
 *     fp4        a sign (bit 3) and eight magnitudes out of order, in twelfths:
 *                0, 1/16, 8, 12, 4, 6, 2, 3
 *     dynamic    256 numbers in rising order: for e = 0..6 the 2^e middles of equal parts of
 *                [0.1, 1], times 10^(e-6), of both signs; 0 (place 127); and +1, but not -1
 *
 * Sources: bnb:bitsandbytes/functional.py get_4bit_type, create_dynamic_map. nf4 and fp4 are
 * constants there. The dynamic map is computed by torch, whose linspace on a CPU fuses its multiply
 * and add, and so is this one: equal to the bit. Maps in old checkpoints may be 1 or 2 ulp off.
 */
#ifndef QG_NUM_CODEBOOK_H
#define QG_NUM_CODEBOOK_H

#include "schemes/num/fn.h"

/* nf4 of bitsandbytes by code. */
QG_FN float qg_nf4(unsigned code)
{
    static const float list[16] = {
        -1.0f,
        -0.6961928009986877f,
        -0.5250730514526367f,
        -0.39491748809814453f,
        -0.28444138169288635f,
        -0.18477343022823334f,
        -0.09105003625154495f,
        0.0f,
        0.07958029955625534f,
        0.16093020141124725f,
        0.24611230194568634f,
        0.33791524171829224f,
        0.44070982933044434f,
        0.5626170039176941f,
        0.7229568362236023f,
        1.0f,
    };
    return list[code];
}

/* The same to four decimals: torchao's. */
QG_FN float qg_nf4_short(unsigned code)
{
    static const float list[16] = {-1.0f,    -0.6962f, -0.5251f, -0.3949f, -0.2844f, -0.1848f,
                                   -0.0911f, 0.0f,     0.0796f,  0.1609f,  0.2461f,  0.3379f,
                                   0.4407f,  0.5626f,  0.7230f,  1.0f};
    return list[code];
}

/* fp4 of bitsandbytes by code without the sign. */
QG_FN float qg_fp4(unsigned code)
{
    static const float list[8] = {
        0.0f, 0.0625f / 12, 8.0f / 12, 1.0f, 4.0f / 12, 0.5f, 2.0f / 12, 0.25f,
    };
    return list[code];
}

/* Number i of torch.linspace(0.1, 1, n) in binary32: counted from the nearer end. */
QG_FN float qg_tenth_to_one(unsigned i, unsigned n)
{
    float step = qg_div(qg_sub(1.0f, 0.1f), (float)(n - 1));
    return i < n / 2 ? qg_fma(step, (float)i, 0.1f) : qg_fma(-step, (float)(n - 1 - i), 1.0f);
}

/* Number 0 .. 255 of the dynamic map. */
QG_FN float qg_dynamic(unsigned code)
{
    static const float tens[7] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
    unsigned k = code < 127 ? 127 - code : code - 127, e = 0; // distance from the zero
    if (k == 0 || k == 128)
        return k == 0 ? 0.0f : 1.0f;
    while (k >> (e + 1))
        e++;
    unsigned i = k - (1u << e), n = (1u << e) + 1;
    float middle = qg_add(qg_tenth_to_one(i, n), qg_tenth_to_one(i + 1, n)) / 2;
    float magnitude = qg_mul(tens[e], middle);
    return code < 127 ? -magnitude : magnitude;
}

/* All of it: map[0..255]. */
QG_FN void qg_dynamic_map(float *map)
{
    for (unsigned code = 0; code < 256; code++)
        map[code] = qg_dynamic(code);
}

#endif
