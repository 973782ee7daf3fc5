/* SPDX-License-Identifier: MIT
 *
 * The plain C matmul, which all schemes share, and its rows for those that bring nothing else.
 */
#include "kernels/c/matmul.h"

#include "kernels/c/rows.h"
#include "kernels/kernel.h"

/* Thirty-two partial sums in vectors of four: compilers keep these in registers, and an array not.
 */
typedef float four __attribute__((vector_size(16)));
enum { VECTORS = 8, LANES = 4 * VECTORS };

void qg_inputs_plain(const struct qg_args *a, float *x, float *scales)
{
    (void)scales;
    qg_load(&a->in[0], 0, a->m * a->cols, x);
}

QG_INLINE four load(const float *p)
{
    four v;
    memcpy(&v, p, sizeof v);
    return v;
}

QG_INLINE void add_products(four *restrict sum, const float *restrict x, const float *restrict w)
{
    for (int v = 0; v < VECTORS; v++)
        sum[v] += load(x + 4 * v) * load(w + 4 * v);
}

/* Every lane takes n / 32 products, rounded up; five rounds of halves join the lanes. */
static float dot(size_t n, const float *restrict x, const float *restrict w)
{
    four sum[VECTORS] = {{0}};
    size_t whole = n / LANES * LANES;
    for (size_t i = 0; i < whole; i += LANES)
        add_products(sum, x + i, w + i);
    if (whole < n) {
        float x_tail[LANES] = {0}, w_tail[LANES] = {0};
        memcpy(x_tail, x + whole, (n - whole) * sizeof *x);
        memcpy(w_tail, w + whole, (n - whole) * sizeof *w);
        add_products(sum, x_tail, w_tail);
    }
    for (int v = 0; v < 4; v++)
        sum[v] += sum[v + 4];
    four s = (sum[0] + sum[2]) + (sum[1] + sum[3]);
    return (s[0] + s[1]) + (s[2] + s[3]);
}

/* Most additions that a product passes through in multiply. */
static size_t depth(size_t k)
{
    // In a lane, then five rounds, then one addition per chunk of the row.
    size_t chunk = qg_smaller(k, QG_CHUNK);
    return (chunk + LANES - 1) / LANES + 5 + (k + QG_CHUNK - 1) / QG_CHUNK;
}

/* out[0] = x . w^T with thirty-two partial sums to a chunk; weights are unpacked once per row. */
static void multiply(const struct qg_args *a, const struct qg_product *p)
{
    float *x = a->work, *scales = x + a->m * a->cols, *sums = scales + a->m, w[QG_CHUNK];
    p->inputs(a, x, scales);
    for (size_t row = 0; row < a->rows; row++) {
        memset(sums, 0, a->m * sizeof *sums);
        for (size_t at = 0; at < a->cols; at += QG_CHUNK) {
            size_t n = qg_smaller(a->cols - at, QG_CHUNK);
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
    multiply(a, &qg_product_int4);
}
static void fp8_int4(const struct qg_args *a)
{
    multiply(a, &qg_product_fp8_int4);
}
static void intx(const struct qg_args *a)
{
    multiply(a, &qg_product_intx);
}
static void int8_int4(const struct qg_args *a)
{
    multiply(a, &qg_product_int8_int4);
}

#define ROW(s, f)                                                                          \
    {                                                                                      \
        .scheme = s, .backend = "c", .variant = "", .op = QG_MATMUL, .operand = QG_WEIGHT, \
        .claim = QG_WITHIN_BOUND, .traits = QG_REORDERS, .depth = depth, .fn = f           \
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
