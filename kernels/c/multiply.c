/* SPDX-License-Identifier: MIT
 *
 * The plain C matmul, which all schemes that multiply dequantized numbers share.
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

size_t qg_multiply_depth(size_t k)
{
    // In a lane, then five rounds, then one addition per chunk of the row.
    size_t chunk = qg_smaller(k, QG_CHUNK);
    return (chunk + LANES - 1) / LANES + 5 + (k + QG_CHUNK - 1) / QG_CHUNK;
}

/* Thirty-two partial sums to a chunk; weights are unpacked once per row. */
void qg_multiply(const struct qg_args *a, const struct qg_product *p)
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
            if (p->finish)
                p->finish(a, row, 1, scales[m], &sums[m]);
            qg_put(&a->out[0], m * a->rows + row, sums[m]);
        }
    }
}
