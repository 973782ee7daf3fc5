/* SPDX-License-Identifier: MIT
 *
 * Monte Carlo arithmetic (Parker, Pierce, Eggert 2000) for the definitions: while nudging is on,
 * every binary32 operation whose result is inexact, and every inexact rounding to bf16 or fp16, may
 * come out as the neighbour on the other side of the exact value instead of the nearer one. One
 * draw is what some algebraically equal rewrite could have computed (a reciprocal for a division, a
 * fused multiply-add, another order): results that change under it hang on the last bit.
 *
 * Exact operations stay exact, and the decisions themselves (rounding to a code) are never nudged.
 * Only a second build of the definitions (QG_NUDGE, for `qgauge census`) has this in it. The state
 * is per thread; 0 switches nudging off.
 */
#ifndef QG_NUM_NUDGE_H
#define QG_NUM_NUDGE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* The state of the stream of coins; 0: off. */
extern _Thread_local uint64_t qg_nudge_state;

/* The next coin (xorshift64*, Vigna 2016). */
static inline int qg_nudge_coin(void)
{
    uint64_t x = qg_nudge_state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    qg_nudge_state = x;
    return (int)((x * 0x2545f4914f6cdd1du) >> 63);
}

/* r is the nearest binary32 number to r + error; half of the time the neighbour in the direction of
 * the error. */
static inline float qg_nudge(float r, double error)
{
    if (!(error != 0) || r - r != 0 || !qg_nudge_coin())
        return r;
    return nextafterf(r, error > 0 ? INFINITY : -INFINITY);
}

/* a + b - r, its sign at least, for r the rounded sum. */
static inline double qg_nudge_rest(double a, double b, double r)
{
    return fabs(a) > fabs(b) ? (a - r) + b : (b - r) + a;
}

/* The same for x rounded to a 16-bit format, whose code of the result is `code` and whose value
 * `value`: the code, or its neighbour on x's side. */
static inline uint16_t qg_nudge_code(uint16_t code, float value, float x)
{
    if (qg_nudge_state == 0 || value == x || value - value != 0 || x != x || !qg_nudge_coin())
        return code;
    if (value == 0)
        return (uint16_t)((x < 0 ? 0x8000 : 0) | 1);
    return (uint16_t)((x > value) == (value > 0) ? code + 1 : code - 1);
}

#endif
