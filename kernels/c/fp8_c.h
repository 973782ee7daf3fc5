/* SPDX-License-Identifier: MIT
 *
 * e4m3 with one scale to a block of elements in one piece, a row or a tensor: what the kernels of
 * fp8-fp8, fp8-int4 and fp8-block share. In fp8_c.c.
 */
#ifndef QG_FP8_C_H
#define QG_FP8_C_H

#include "kernels/c/rows.h"

/* Largest magnitude of elements at .. at+n of in[0], n of any length, and prepare's scale. */
struct qg_fp8_range {
    float amax, scale;
};

struct qg_fp8_range qg_fp8_range_at(const struct qg_args *a, size_t at, size_t n,
                                    float lower_bound);

/* f = R_t(e4m3(clamp(f / scale)) scale), without the e4m3 unless `cast`. */
void qg_fp8_through(bool cast, enum qg_dtype t, size_t n, float *f, float scale);

/* Fake-quant of a block, with no lower bound. */
void qg_fp8_fake_c(const struct qg_args *a, size_t at, size_t n, bool cast);

/* Its gradient; h = dL/dy is overwritten. cast_back: the gradient is cast to e4m3 as the value was.
 */
void qg_fp8_grad_c(const struct qg_args *a, size_t at, size_t n, float *h, struct qg_fp8_range r,
                   float lower_bound, bool cast, bool cast_back);
size_t qg_fp8_grad_depth(size_t k);

/* An element's part of the gradient of max|x|: the ties' share times mask times sign, as autograd
 * multiplies, which makes a zero of a sign, or NaN of an infinite share, off the extremes. */
QG_INLINE float qg_part_of(float share, float x, float amax)
{
    float mask = fabsf(x) == amax ? 1.0f : 0.0f, sign = (float)((x > 0) - (x < 0));
    return share * mask * sign;
}

static inline size_t qg_count_ties(size_t n, const float *x, float amax)
{
    size_t ties = 0;
    for (size_t j = 0; j < n; j++)
        ties += fabsf(x[j]) == amax;
    return ties;
}

/* What convert multiplies with, or divides by `scale` when it is 0; and the scale that is stored.
 */
struct qg_fp8_factor {
    float factor, scale;
};

/* factor f, and scale 1/f; scale s, and a division. */
static inline struct qg_fp8_factor qg_fp8_by_factor(float f)
{
    return (struct qg_fp8_factor){f, 1.0f / f};
}

static inline struct qg_fp8_factor qg_fp8_by_scale(float s)
{
    return (struct qg_fp8_factor){0.0f, s};
}

/* f becomes the e4m3 values of f. */
void qg_fp8_values(size_t n, float *f, struct qg_fp8_factor r);

/* Elements at .. at+n of in[0] to codes of out[0], and back from codes of in[0] to out[0]. */
void qg_fp8_encode(const struct qg_args *a, size_t at, size_t n, struct qg_fp8_factor r);
void qg_fp8_decode(const struct qg_args *a, size_t at, size_t n, float scale);

#endif
