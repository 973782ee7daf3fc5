/* SPDX-License-Identifier: MIT
 *
 * What a scheme must provide to be multiplied by any backend of this folder or of blas/: its
 * operands as the binary32 numbers that enter the product.
 */
#ifndef QG_MATMUL_H
#define QG_MATMUL_H

#include "schemes/scheme.h"

struct qg_product {
    /* Weights at .. at+n of row `row`, from the planes in[1..]. */
    void (*weights)(const struct qg_args *a, size_t row, size_t at, size_t n, float *w);
    /* All of x[m,K], from in[0]; with `scaled` also one scale per row. */
    void (*inputs)(const struct qg_args *a, float *x, float *scales);
    /* y = row scale of the weight, in[3], times (scale of x times the sum), rounded after each. */
    bool scaled;
};

extern const struct qg_product qg_product_int4, qg_product_fp8_int4, qg_product_intx,
    qg_product_int8_int4;

/* x as it is. */
void qg_inputs_plain(const struct qg_args *a, float *x, float *scales);

#endif
