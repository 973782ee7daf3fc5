/* SPDX-License-Identifier: MIT
 *
 * e4m3 with one binary32 scale to a block of elements that lie in one piece, a row or a tensor:
 * what fp8-int4 and fp8-block take from fp8.c.
 */
#ifndef QG_FP8_H
#define QG_FP8_H

#include "schemes/interval.h"

/* max|x| of elements at .. at+n; NaN when one is. */
float qg_amax(const struct qg_tensor *x, size_t at, size_t n);

/* --- prepare --------------------------------------------------------------------------------- */

/* One block through e4m3 and back, R(.) rounding to x's dtype:
 *
 *     s = R(max(max|x|, lower bound) / 448)     y = R(e4m3(clamp(x / s, +-448)) s)
 *
 * Without `cast` the rounding to e4m3 is left out. */
struct qg_fp8_fake {
    float lower_bound; /* 0: an all-zero block is 0/0 = NaN */
    bool cast;
    bool ideal; /* its gradient passes the cast as it is, see qg_fp8_fake_grad */
};

float qg_fp8_fake_scale(const struct qg_fp8_fake *f, const struct qg_tensor *x, size_t at,
                        size_t n);
float qg_fp8_fake_code(const struct qg_fp8_fake *f, float x, float scale);
void qg_fp8_fake_quant(const struct qg_fp8_fake *f, const struct qg_args *a, size_t at, size_t n);

/* dL/dx of one block, given h = dL/dy of its n elements; NULL: dL/dy is in[1]. */
void qg_fp8_fake_grad(const struct qg_fp8_fake *f, const struct qg_args *a, size_t at, size_t n,
                      const struct qg_interval *h);

/* What element x of a block receives of dL/dmax|x|, given how many elements share the maximum. */
struct qg_interval qg_amax_grad(enum qg_dtype t, struct qg_interval damax, double ties, float x,
                                float amax);

/* --- convert --------------------------------------------------------------------------------- */

/* The quantizers of a block, by what they make of m = max|x|; x is in dtype t:
 *
 *     FBGEMM       r = 448 / max(m, eps)            c = e4m3(x r)    stored 1/r
 *     FBGEMM_CPU   r = 1 / max(m, eps) * 448, 1 where that is infinite; eps is rounded to t
 *     MSLK         s = max(m, eps) / 448            c = e4m3(x / s)  stored s
 *     TORCH        s = R_t(m / 448)                 c = e4m3(x / s)  stored s
 *     DEEPSEEK     s = m / 448                      c = e4m3(x / s)  stored s
 *     UNSLOTH      DEEPSEEK, with s = 1 where m is 0
 *     HF           r = 1 / m * 448, 1 unless m > 0  c = e4m3(x r)    stored 1/r
 *     TRAINING     r = 448 / max(m, eps), divided in binary64 and then rounded to binary32
 *
 * All other steps in binary32, codes limited to +-448. A zero block is finite where there is an eps
 * or a 1; with TORCH and DEEPSEEK it is 0/0 = NaN. FBGEMM's, DeepSeek's and unsloth's are Triton
 * kernels that divide approximately on a GPU (2 ulp), which is not modelled. */
enum qg_fp8_quantizer {
    QG_FP8_FBGEMM,
    QG_FP8_FBGEMM_CPU,
    QG_FP8_MSLK,
    QG_FP8_TORCH,
    QG_FP8_DEEPSEEK,
    QG_FP8_UNSLOTH,
    QG_FP8_HF,
    QG_FP8_TRAINING
};

struct qg_fp8_scale {
    float factor; /* codes are e4m3 of x * factor, or of x / scale when factor is 0 */
    float scale;  /* stored */
};

struct qg_fp8_scale qg_fp8_scale_of(enum qg_fp8_quantizer q, enum qg_dtype t, float amax,
                                    float eps);

/* The e4m3 number that x becomes. */
float qg_fp8_code(const struct qg_fp8_scale *s, float x);

/* --- matmul ---------------------------------------------------------------------------------- */

/* Column n of y = R(w_scale (x_scale sum)), the products in binary32 and in this order, for e4m3
 * numbers codes[m,K] with one scale to a row, and numbers w[K] of at most 8 bits. */
void qg_fp8_column(const struct qg_args *a, size_t n, const float *w, float w_scale,
                   const float *codes, const float *x_scales);

#endif
