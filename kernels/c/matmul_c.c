/* SPDX-License-Identifier: MIT
 *
 * The plain C matmul, which all schemes share, and its rows for those that bring nothing else.
 */
#include "kernels/c/matmul.h"

#include "kernels/c/rows.h"
#include "kernels/kernel.h"

enum { LANES = 32 };

void qg_inputs_plain(const struct qg_args *a, float *x, float *scales)
{
    (void)scales;
    qg_load(&a->in[0], 0, a->m * a->cols, x);
}

/* Every lane takes n / 32 products, rounded up; then the lanes are added in five rounds of halves.
 */
static float dot(size_t n, const float *restrict x, const float *restrict w)
{
    float lane[LANES] = {0};
    size_t whole = n / LANES * LANES;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t l = 0; l < LANES; l++)
            lane[l] += x[i + l] * w[i + l];
    for (size_t i = whole; i < n; i++)
        lane[i - whole] += x[i] * w[i];
    for (size_t half = LANES / 2; half; half /= 2)
        for (size_t l = 0; l < half; l++)
            lane[l] += lane[l + half];
    return lane[0];
}

size_t qg_matmul_c_depth(size_t k)
{
    // In a lane, then five rounds, then one addition per chunk of the row.
    size_t chunk = k < QG_CHUNK ? k : QG_CHUNK;
    return (chunk + LANES - 1) / LANES + 5 + (k + QG_CHUNK - 1) / QG_CHUNK;
}

void qg_matmul_c(const struct qg_args *a, const struct qg_product *p)
{
    float *x = a->work, *scales = x + a->m * a->cols, *sums = scales + a->m, w[QG_CHUNK];
    p->inputs(a, x, scales);
    for (size_t row = 0; row < a->rows; row++) {
        memset(sums, 0, a->m * sizeof *sums);
        for (size_t at = 0; at < a->cols; at += QG_CHUNK) {
            size_t n = a->cols - at < QG_CHUNK ? a->cols - at : QG_CHUNK;
            p->weights(a, row, at, n, w);
            for (size_t m = 0; m < a->m; m++)
                sums[m] += dot(n, x + m * a->cols + at, w);
        }
        for (size_t m = 0; m < a->m; m++) {
            float y = p->scaled ? qg_get(&a->in[3], row) * (scales[m] * sums[m]) : sums[m];
            qg_put(&a->out[0], m * a->rows + row, y);
        }
    }
}

static void int4(const struct qg_args *a)
{
    qg_matmul_c(a, &qg_product_int4);
}
static void fp8_int4(const struct qg_args *a)
{
    qg_matmul_c(a, &qg_product_fp8_int4);
}
static void intx(const struct qg_args *a)
{
    qg_matmul_c(a, &qg_product_intx);
}
static void int8_int4(const struct qg_args *a)
{
    qg_matmul_c(a, &qg_product_int8_int4);
}

#define ROW(s, f)                                                                            \
    {                                                                                        \
        .scheme = s, .backend = "c", .variant = "", .op = QG_MATMUL, .operand = QG_WEIGHT,   \
        .claim = QG_WITHIN_BOUND, .traits = QG_REORDERS, .depth = qg_matmul_c_depth, .fn = f \
    }

const struct qg_kernel qg_kernels_matmul_c[] = {
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
