/* SPDX-License-Identifier: MIT
 *
 * What other kernels take from those of the integer schemes: one function per operation, for all
 * widths and all dtypes of scales.
 */
#ifndef QG_INTX_C_H
#define QG_INTX_C_H

#include "schemes/scheme.h"

/* Codes of `bits` bits, a scale to `group` elements, at least eps (0: the smallest normal number of
 * x's dtype) and held in dtype `scale`. A zero point of NaN becomes `nan`. */
struct qg_codes {
    size_t group;
    int bits;
    double eps;
    enum qg_dtype scale;
    float nan;
};

void qg_symmetric_fake_quant_c(const struct qg_args *a, const struct qg_codes *codes);
void qg_symmetric_grad_c(const struct qg_args *a, const struct qg_codes *codes);
void qg_symmetric_convert_c(const struct qg_args *a, const struct qg_codes *codes);

/* One scale and one zero point to a row. */
void qg_token_fake_quant_c(const struct qg_args *a, const struct qg_codes *codes);
void qg_token_grad_c(const struct qg_args *a, const struct qg_codes *codes);
void qg_token_convert_c(const struct qg_args *a, const struct qg_codes *codes);

/* Both. */
void qg_codes_dequant_c(const struct qg_args *a);

/* Pieces of products: a row of dequantized weights; x through a grid of tokens. */
void qg_codes_weights(const struct qg_args *a, size_t row, size_t at, size_t n, float *w);
void qg_token_inputs(const struct qg_args *a, const struct qg_codes *codes, float *x);

/* The prepare kernels of int4-old and fp8-int4-old, which are one: symmetric codes of "bits" bits.
 */
void qg_old_int4_fake_quant_c(const struct qg_args *a);
void qg_old_int4_fake_quant_grad_c(const struct qg_args *a);

#endif
