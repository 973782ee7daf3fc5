/* SPDX-License-Identifier: MIT
 *
 * The baseline that every matmul kernel has to beat: the whole weight to binary32, then OpenBLAS
 * sgemm on one thread. Nothing is known about the order of its sums, so no depth is claimed, but
 * for sums of integers that are exact in any order.
 */
#include <assert.h>
#include <cblas.h>
#include <limits.h>

#include "kernels/c/matmul.h"
#include "kernels/c/rows.h"
#include "kernels/kernel.h"

/* A matrix, or a part of one whose rows are `step` floats apart. */
struct matrix {
    const float *at;
    size_t step;
};

/* y[m,n] = x[m,k] . w[n,k]^T. */
static void multiply(size_t m, size_t n, size_t k, struct matrix x, struct matrix w, float *y)
{
    assert(m <= INT_MAX && n <= INT_MAX && x.step <= INT_MAX && w.step <= INT_MAX);
    if (openblas_get_num_threads() != 1)
        openblas_set_num_threads(1);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)m, (int)n, (int)k, 1.0f, x.at,
                (int)x.step, w.at, (int)w.step, 0.0f, y, (int)n);
}

void qg_sgemm(size_t m, size_t n, size_t k, const float *x, const float *w, float *y)
{
    multiply(m, n, k, (struct matrix){x, k}, (struct matrix){w, k}, y);
}

void qg_multiply_blas(const struct qg_args *a, const struct qg_product *p)
{
    size_t m = a->m, n = a->rows, k = a->cols;
    float *x = a->work, *w = x + m * k, *y = w + n * k, *scales = y + m * n;
    p->inputs(a, x, scales);
    for (size_t row = 0; row < n; row++)
        p->weights(a, row, 0, k, w + row * k);
    qg_sgemm(m, n, k, x, w, y);
    for (size_t i = 0; i < m && p->finish; i++)
        p->finish(a, 0, n, scales[i], y + i * n);
    qg_store(&a->out[0], 0, m * n, y);
}

/* --- sums of integers ------------------------------------------------------------------------ */

/* Products of int8 codes are at most 2^14, so that EXACT of them, in any order, never leave the
 * integers that binary32 holds. SIDE: of the tiles of y that longer sums are collected for. */
enum { EXACT = 1024, SIDE = 128 };

void qg_multiply_integers(const struct qg_args *a, const float *x, const float *w,
                          qg_take_sums_fn *take, const void *user)
{
    float y[SIDE * SIDE];
    int64_t sum[SIDE * SIDE];
    size_t k = a->cols;
    for (size_t m = 0; m < a->m; m += SIDE)
        for (size_t n = 0; n < a->rows; n += SIDE) {
            size_t height = qg_smaller(a->m - m, SIDE), width = qg_smaller(a->rows - n, SIDE);
            memset(sum, 0, sizeof sum);
            for (size_t at = 0; at < k; at += EXACT) {
                multiply(height, width, qg_smaller(k - at, EXACT),
                         (struct matrix){x + m * k + at, k}, (struct matrix){w + n * k + at, k}, y);
                for (size_t i = 0; i < height * width; i++)
                    sum[i] += (int32_t)y[i];
            }
            for (size_t i = 0; i < height; i++)
                take(a, m + i, n, width, sum + i * width, user);
        }
}
