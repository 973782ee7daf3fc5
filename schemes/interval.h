/* SPDX-License-Identifier: MIT
 *
 * Intervals, for what follows a sum whose order nobody promises (dot.h). Upstream rounds each step
 * to nearest even in dtype t, and so do we, at both ends: a rounding never turns x <= y into
 * R(x) > R(y), and adding, scaling and dividing are monotonic, so whatever value of the interval
 * upstream had, its rounded result lies between our rounded ends. Nothing is rounded outwards, for
 * nothing is off but the sum.
 */
#ifndef QG_INTERVAL_H
#define QG_INTERVAL_H

#include "schemes/dot.h"

/* mid: from the exact sum; lo <= mid <= hi: from the least and the greatest value that a sum in
 * some order can have. */
struct qg_interval {
    float lo, mid, hi;
};

/* The binary32 result of a sum that is off by at most e. */
static inline struct qg_interval qg_interval_of(const struct qg_sum *s, double e)
{
    double v = qg_sum_value(s);
    return (struct qg_interval){(float)(v - e), (float)v, (float)(v + e)};
}

static inline struct qg_interval qg_interval_round(enum qg_dtype t, struct qg_interval x)
{
    return (struct qg_interval){qg_round(t, x.lo), qg_round(t, x.mid), qg_round(t, x.hi)};
}

static inline struct qg_interval qg_interval_add(enum qg_dtype t, struct qg_interval x,
                                                 struct qg_interval y)
{
    return qg_interval_round(
        t, (struct qg_interval){qg_add(x.lo, y.lo), qg_add(x.mid, y.mid), qg_add(x.hi, y.hi)});
}

static inline struct qg_interval qg_interval_mul(enum qg_dtype t, struct qg_interval x,
                                                 float factor)
{
    struct qg_interval y = {qg_mul(x.lo, factor), qg_mul(x.mid, factor), qg_mul(x.hi, factor)};
    if (factor < 0)
        y = (struct qg_interval){y.hi, y.mid, y.lo};
    return qg_interval_round(t, y);
}

/* By a divisor that is not negative. */
static inline struct qg_interval qg_interval_div(enum qg_dtype t, struct qg_interval x,
                                                 float divisor)
{
    return qg_interval_round(t, (struct qg_interval){qg_div(x.lo, divisor), qg_div(x.mid, divisor),
                                                     qg_div(x.hi, divisor)});
}

/* How far mid may be off: not 0 when only the sign of a zero is open, infinite when an end is. */
static inline double qg_interval_off(struct qg_interval x)
{
    double below = (double)x.mid - x.lo, above = (double)x.hi - x.mid;
    if (x.lo == 0 && x.hi == 0)
        return signbit(x.lo) != signbit(x.hi) ? 0x1p-1074 : 0;
    if (x.mid - x.mid == 0 && !(below < INFINITY && above < INFINITY))
        return (double)INFINITY;
    return below > above ? below : above;
}

/* Stores x.mid as element i of out[n]. Where a sum in some order overflows and in another does not,
 * nothing can be said. */
static inline void qg_emit_interval(const struct qg_args *a, int n, size_t i, struct qg_interval x)
{
    bool open = isinf(x.mid) && (x.lo < x.mid || x.mid < x.hi);
    double off = open ? (double)INFINITY : qg_interval_off(x);
    qg_emit_to(a, n, i, x.mid, open ? 0 : x.mid, off);
}

#endif
