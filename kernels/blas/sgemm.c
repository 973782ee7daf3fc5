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

void qg_multiply_blas(const struct qg_args *a, const struct qg_product *p)
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
    for (size_t i = 0; i < m && p->finish; i++)
        for (size_t j = 0; j < n; j++)
            y[i * n + j] = p->finish(a, j, scales[i], y[i * n + j]);
    qg_store(&a->out[0], 0, m * n, y);
}
