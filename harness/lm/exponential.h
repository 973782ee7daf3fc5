/* SPDX-License-Identifier: MIT
 *
 * e^x in a form that compilers turn into vector code: 2^n e^r with n = round(x / ln 2) and a
 * polynomial for |r| <= ln 2 / 2 (Taylor to the seventh power: the next term is below 2^-27 of the
 * value). Within 1.05 units of the last place (check_lm; with QG_SLOW=1 over all floats). x outside
 * [-87, 88] counts as the nearest of these; NaN stays NaN.
 */
#ifndef QG_EXPONENTIAL_H
#define QG_EXPONENTIAL_H

#include <stdint.h>
#include <string.h>

/* One text for the widest vectors that the processor has. Same bits from all: nothing is fused. */
#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define QG_WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define QG_WIDEST
#endif

static inline float qg_exponential(float x)
{
    const float shift = 0x1.8p23f; // adding it rounds to a whole number, held in the lowest bits
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = x * 0x1.715476p0f + shift;
    uint32_t bits;
    memcpy(&bits, &n, sizeof bits);
    n -= shift;
    float r = x - n * 0x1.62ep-1f; // ln 2 in two parts: n times the first one is exact
    r -= n * 0x1.0bfbe8p-15f;
    float p = 0x1.a01a02p-13f;
    p = p * r + 0x1.6c16c2p-10f;
    p = p * r + 0x1.111112p-7f;
    p = p * r + 0x1.555556p-5f;
    p = p * r + 0x1.555556p-3f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    uint32_t power = (bits << 23) + 0x3f800000u;
    float scale;
    memcpy(&scale, &power, sizeof scale);
    return p * scale;
}

#endif
