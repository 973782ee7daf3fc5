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

/* An exact number, and whether an interval is one. */
static inline struct qg_interval qg_interval_at(float x)
{
    return (struct qg_interval){x, x, x};
}

static inline bool qg_interval_is_point(struct qg_interval x)
{
    return x.lo == x.hi || x.mid != x.mid;
}

/* The least and the greatest of four values that a monotonic operation gives at the corners; a NaN
 * among them (0 * inf, an end that overflowed) tells nothing, so everything is possible. */
static inline struct qg_interval qg_interval_hull(float a, float b, float mid, float c, float d)
{
    struct qg_interval y = {fminf(fminf(a, b), fminf(c, d)), mid, fmaxf(fmaxf(a, b), fmaxf(c, d))};
    bool open = a != a || b != b || c != c || d != d;
    return open && mid == mid ? (struct qg_interval){-INFINITY, mid, INFINITY} : y;
}

/* x * y: linear in each, so its extremes are at the corners. */
static inline struct qg_interval qg_interval_times(enum qg_dtype t, struct qg_interval x,
                                                   struct qg_interval y)
{
    return qg_interval_round(t, qg_interval_hull(qg_mul(x.lo, y.lo), qg_mul(x.lo, y.hi),
                                                 qg_mul(x.mid, y.mid), qg_mul(x.hi, y.lo),
                                                 qg_mul(x.hi, y.hi)));
}

/* x / y: likewise, where y has one sign; where it has not, everything is possible. */
static inline struct qg_interval qg_interval_over(enum qg_dtype t, struct qg_interval x,
                                                  struct qg_interval y)
{
    struct qg_interval z =
        qg_interval_hull(qg_div(x.lo, y.lo), qg_div(x.lo, y.hi), qg_div(x.mid, y.mid),
                         qg_div(x.hi, y.lo), qg_div(x.hi, y.hi));
    if (!qg_interval_is_point(y) && y.lo <= 0 && y.hi >= 0)
        z.lo = -INFINITY, z.hi = INFINITY;
    return qg_interval_round(t, z);
}

/* --- sums of terms that are not known exactly --------------------------------------------------
 */

/* A sum whose terms are themselves results of sums: term i lies between mid_i - below_i and
 * mid_i + above_i. `sum` adds the mid_i and the greatest magnitude that each may have; `below` and
 * `above` add the rest. With that, the exact sum of upstream's terms lies between
 * sum - below and sum + above, and its binary32 evaluation is off by qg_sum_bound at most, for the
 * magnitudes in it are not below upstream's.
 *
 * `unit` is the largest power of two of which every term is a multiple, 0 when a term is not known
 * exactly. When the magnitudes add up to no more than 2^24 units, every partial sum in every order
 * is a binary32 number, and so is every term: nothing rounds, and the sum is off by nothing. */
struct qg_spread {
    struct qg_sum sum;
    double below, above, unit;
    size_t terms;
    bool sign_open; /* of the sum, should it be 0 */
};

static const struct qg_spread qg_spread_empty = {.unit = INFINITY};

/* The largest power of two that divides x; inf for 0, which any does. */
static inline double qg_unit_of(double x)
{
    int e;
    if (x == 0)
        return (double)INFINITY;
    if (!(fabs(x) < INFINITY))
        return 0;
    int64_t digits = (int64_t)ldexp(frexp(x, &e), 53);
    return ldexp((double)(digits & -digits), e - 53);
}

static inline bool qg_spread_is_exact(const struct qg_spread *s)
{
    return s->unit >= 0x1p-149 && s->sum.magnitude <= 0x1p24 * s->unit;
}

/* Adds a term; lo <= mid <= hi. The products of binary32 numbers that come here are exact in
 * binary64. */
static inline void qg_spread_add(struct qg_spread *s, double lo, double mid, double hi)
{
    qg_sum_add(&s->sum, mid);
    s->sum.magnitude += fmax(fabs(lo), fabs(hi)) - fabs(mid);
    s->below += mid - lo;
    s->above += hi - mid;
    s->terms++;
    if (s->unit == 0 || !(lo == hi))
        s->unit = 0;
    else
        s->unit = fmin(s->unit, qg_unit_of(mid));
    if (!qg_spread_is_exact(s)) // and never again: the unit only falls, the magnitude only grows
        s->unit = 0;
}

static inline void qg_spread_add_product(struct qg_spread *s, struct qg_interval x,
                                         struct qg_interval y)
{
    double mid = (double)x.mid * y.mid;
    if (qg_interval_is_point(x) && qg_interval_is_point(y)) {
        qg_spread_add(s, mid, mid, mid);
        return;
    }
    double a = (double)x.lo * y.lo, b = (double)x.lo * y.hi, c = (double)x.hi * y.lo,
           d = (double)x.hi * y.hi;
    if (a != a || b != b || c != c || d != d) // inf * 0: an end overflowed
        qg_spread_add(s, -INFINITY, mid, INFINITY);
    else
        qg_spread_add(s, fmin(fmin(a, b), fmin(c, d)), mid, fmax(fmax(a, b), fmax(c, d)));
}

/* The whole sum times a number, upstream by the number at the end or each term by it: 0 times a
 * negative number is -0, a sum of negated terms that cancel is 0. */
static inline void qg_spread_scale(struct qg_spread *s, float factor)
{
    s->sign_open = !(factor > 0);
    double below = factor < 0 ? s->above : s->below, above = factor < 0 ? s->below : s->above;
    double f = fabs((double)factor), magnitude = s->sum.magnitude * f;
    double rounded = s->unit > 0 ? 0 : magnitude * 0x1p-50; // the product of 106 bits with 24
    s->sum = (struct qg_sum){.high = qg_sum_value(&s->sum) * factor, .magnitude = magnitude};
    s->below = below * f + rounded;
    s->above = above * f + rounded;
    if (s->unit > 0)
        s->unit *= qg_unit_of(factor);
    if (!qg_spread_is_exact(s))
        s->unit = 0;
}

/* The binary32 result, when each term carries at most `roundings` roundings of its own and passes
 * through no more than `depth` additions (0: any order). NaN and inf in the operands: NaN is
 * certain, inf is not, for finite terms may overflow to the other side. */
static inline struct qg_interval qg_spread_result(const struct qg_spread *s, size_t depth,
                                                  unsigned roundings)
{
    double v = qg_sum_value(&s->sum);
    double e = qg_spread_is_exact(s) ? 0 : qg_sum_bound(&s->sum, s->terms, depth, roundings);
    // `below` and `above` were added up in binary64: off by no more than 2^-52 per term
    double slack = 1 + (double)s->terms * 0x1p-51;
    if (!(fabs(v) < INFINITY))
        return (struct qg_interval){-INFINITY, (float)v, INFINITY};
    if (v == 0 && s->sign_open && s->below == 0 && s->above == 0 && e == 0)
        return (struct qg_interval){-0.0f, 0.0f, 0.0f};
    return (struct qg_interval){(float)(v - s->below * slack - e), (float)v,
                                (float)(v + s->above * slack + e)};
}

#endif
