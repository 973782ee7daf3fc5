/* SPDX-License-Identifier: MIT
 *
 * The baseline that every matmul kernel has to beat: the whole weight to binary32, then OpenBLAS
 * sgemm on one thread. Nothing is known about the order of its sums, so no depth is claimed.
 */
#include <assert.h>
#include <cblas.h>
#include <limits.h>

#include "kernels/c/matmul.h"
#include "kernels/c/rows.h"
#include "kernels/kernel.h"

static void sgemm(const struct qg_args *a, const struct qg_product *p)
{
    size_t m = a->m, n = a->rows, k = a->cols;
    float *x = a->work, *w = x + m * k, *y = w + n * k, *scales = y + m * n;
    assert(m <= INT_MAX && n <= INT_MAX && k <= INT_MAX);
    p->inputs(a, x, scales);
    for (size_t row = 0; row < n; row++)
        p->weights(a, row, 0, k, w + row * k);
    openblas_set_num_threads(1);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)m, (int)n, (int)k, 1.0f, x, (int)k, w,
                (int)k, 0.0f, y, (int)n);
    for (size_t i = 0; i < m && p->scaled; i++)
        for (size_t j = 0; j < n; j++)
            y[i * n + j] = ((const float *)a->in[3].data)[j] * (scales[i] * y[i * n + j]);
    qg_store(&a->out[0], 0, m * n, y);
}

static void int4(const struct qg_args *a)
{
    sgemm(a, &qg_product_int4);
}
static void fp8_int4(const struct qg_args *a)
{
    sgemm(a, &qg_product_fp8_int4);
}
static void intx(const struct qg_args *a)
{
    sgemm(a, &qg_product_intx);
}
static void int8_int4(const struct qg_args *a)
{
    sgemm(a, &qg_product_int8_int4);
}

#define ROW(s, f)                                                                             \
    {                                                                                         \
        .scheme = s, .backend = "blas", .variant = "", .op = QG_MATMUL, .operand = QG_WEIGHT, \
        .claim = QG_WITHIN_BOUND, .traits = QG_FUSES | QG_REORDERS, .fn = f                   \
    }

const struct qg_kernel qg_kernels_sgemm[] = {
    ROW("int4", int4),
    ROW("int4-old", int4),
    ROW("fp8-int4", fp8_int4),
    ROW("fp8-int4-old", fp8_int4),
    ROW("fp8-int4-nocast", fp8_int4),
    ROW("int8", intx),
    ROW("int8-g32", intx),
    ROW("int8-int4", int8_int4),
    {.scheme = NULL},
};
