/* SPDX-License-Identifier: MIT
 *
 * Sums that do not round, for definitions of operations whose upstream kernels add up in an order
 * that nobody promises: the value is the exact sum, and beside it stands the sum of the magnitudes
 * of its terms, from which a bound for every order follows.
 */
#ifndef QG_DOT_H
#define QG_DOT_H

#include "schemes/scheme.h"

/* A sum in about 106 bits (Knuth's TwoSum, both parts kept). */
struct qg_sum {
    double high, low, magnitude;
};

static inline void qg_sum_add(struct qg_sum *s, double term)
{
    double t = s->high + term, z = t - s->high;
    s->low += (s->high - (t - z)) + (term - z);
    s->high = t;
    s->magnitude += fabs(term);
}

static inline double qg_sum_value(const struct qg_sum *s)
{
    // inf - inf in the correction must not turn an infinite sum into NaN
    return s->low == s->low ? s->high + s->low : s->high;
}

/* What a binary32 evaluation of a sum of `terms` terms may be off by, when each term carries at
 * most `roundings` roundings of its own and no term passes through more than `depth` additions (0:
 * terms). With n = depth + roundings and u = 2^-24 every term is multiplied by factors whose
 * product lies in (1 +- u)^n, so the error is at most n u / (1 - n u) sum|term| (Higham, Accuracy
 * and Stability, section 3.1 and 4.2); each rounding of a subnormal adds at most 2^-150. Infinite
 * when some order may overflow on its way. */
static inline double qg_sum_bound(const struct qg_sum *s, size_t terms, size_t depth,
                                  unsigned roundings)
{
    double n = (double)((depth ? depth : terms) + roundings), nu = n * 0x1p-24;
    double bound = nu / (1 - nu) * s->magnitude + ((double)terms + n) * 0x1p-149;
    return s->magnitude + bound < 0x1p128 ? bound : (double)INFINITY;
}

/* Stores y as element i of out[n], and what a judge wants to know of it. */
static inline void qg_emit_to(const struct qg_args *a, int n, size_t i, float y, double exact,
                              double bound)
{
    qg_put(&a->out[n], i, y);
    while (n-- > 0)
        i += qg_count(&a->out[n]);
    if (a->exact)
        a->exact[i] = exact;
    if (a->bound)
        a->bound[i] = bound;
}

static inline void qg_emit(const struct qg_args *a, size_t i, float y, double exact, double bound)
{
    qg_emit_to(a, 0, i, y, exact, bound);
}

/* dx = g: a fake quantizer whose upstream hands the gradient on as it is. */
static inline void qg_straight_through(const struct qg_args *a)
{
    for (size_t i = 0; i < a->rows * a->cols; i++) {
        float g = qg_get(&a->in[1], i);
        qg_emit(a, i, g, g, 0);
    }
}

/* What the product of x and w may lose where both are read as TF32, with 11 bits of significand
 * instead of 24. Nobody says how what does not fit is taken away: cut off, it is less than 2^-10 of
 * the factor, and rounding may overflow; whether what is below 2^-126 is kept is not said either.
 * With factors x' and w' that lie so near,
 *
 *     |x' w' - x w| < (2^-9 + 2^-20) |x w| + 2^-125 (|x| + |w|) + 2^-252
 *
 * (NVIDIA A100 Tensor Core GPU Architecture, white paper, "TF32"; PTX ISA, "Alternate
 * Floating-Point Data Formats": tf32.) */
static inline double qg_tf32_loss(double x, double w)
{
    const double overflows = 0x1p128 - 0x1p116; // to nearest, with 11 bits
    x = fabs(x), w = fabs(w);
    if (!(x < INFINITY && w < INFINITY))
        return 0; // they stay what they are
    if (x >= overflows || w >= overflows)
        return INFINITY;
    return (0x1p-9 + 0x1p-20) * x * w + 0x1p-125 * (x + w) + 0x1p-252;
}

/* Column n of y = x . w^T for one row w[K] of weights: the exact sum, rounded to binary32 (the
 * accumulator), rounded to y's dtype. One rounding per term: the product. */
static inline void qg_matmul_row(const struct qg_args *a, size_t n, const float *w)
{
    for (size_t m = 0; m < a->m; m++) {
        struct qg_sum s = {0};
        double lost = 0;
        for (size_t k = 0; k < a->cols; k++)
            qg_sum_add(&s, (double)qg_get(&a->in[0], m * a->cols + k) * w[k]);
        for (size_t k = 0; a->tf32 && k < a->cols; k++)
            lost += qg_tf32_loss(qg_get(&a->in[0], m * a->cols + k), w[k]);
        double exact = qg_sum_value(&s);
        s.magnitude += lost;
        qg_emit(a, m * a->rows + n, (float)exact, exact,
                qg_sum_bound(&s, a->cols, a->depth, 1) + lost);
    }
}

#endif
