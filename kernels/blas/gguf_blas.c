/* SPDX-License-Identifier: MIT
 *
 * Products of ggml's formats by OpenBLAS. The sum over blocks of dx dy sum(q_w q_x) becomes one sum
 * over elements of (dx q_w) (dy q_x), and each sixteen elements have a further term in which the
 * minimum of the weights meets the sum of the codes of x.
 *
 * Why that keeps the bound of schemes/gguf.c, which allows every term four roundings of its own:
 *
 *   dx q_w is exact: a scale of binary16 has 11 bits, the factor of a part 8 at most (7 where codes
 *   have 6, and -128 and -32 are powers of two), a code 7: 24 at most, above 2^-24. The powers of
 *   two of mxfp4 and the 4 bits of nvfp4's scales leave more. A minimum and its factor have 17.
 *   dy q_x is exact for the binary16 scales of q8_0 and q8_1. For the binary32 scales of q8_K it is
 *   rounded once, or exact where it is subnormal, as a whole multiple of the least number; the same
 *   goes for the scale times the sum of sixteen codes.
 *   The product in sgemm is the second rounding, and what it loses below 2^-126 is at most 2^-150,
 *   for which the bound has room.
 *
 * What is not finite is left to the plain kernel: a scale inf times a code 0 is no number, while
 * inf times a sum of products may be one.
 */
#include "kernels/c/gguf_c.h"
#include "kernels/c/matmul.h"

/* Of a row: elements, then the terms of minima. */
static size_t row_length(const struct qg_args *a, const struct qg_gguf_kernel *f)
{
    return a->cols + (f->has_min ? a->cols / 16 : 0);
}

static void fill_input(const struct qg_args *a, const struct qg_gguf_kernel *f,
                       const struct qg_gguf_partner *p, size_t m, float *x)
{
    float values[256], *sums = x + a->cols;
    uint8_t block[292]; // the longest, q8_K
    for (size_t at = 0; at < a->cols; at += p->elements, x += p->elements) {
        qg_load(&a->in[0], m * a->cols + at, p->elements, values);
        p->encode(a, values, block);
        float d = p->scale(block);
        for (size_t i = 0; i < p->elements; i++)
            x[i] = (float)(int8_t)block[p->codes + i] * d;
        for (size_t i = 0; i < p->elements && f->has_min; i += 16)
            *sums++ = p->sums_are_scaled ? p->sum(block, i) : p->sum(block, i) * d;
    }
}

static void fill_weights(const struct qg_args *a, const struct qg_gguf_kernel *f, size_t row,
                         float *w)
{
    struct qg_gguf_numbers n = {0};
    size_t blocks = a->cols / f->elements;
    float *mins = w + a->cols;
    const uint8_t *block = (const uint8_t *)a->in[1].data + row * blocks * f->bytes;
    for (size_t b = 0; b < blocks; b++, block += f->bytes) {
        f->unpack(block, &n);
        for (size_t i = 0; i < f->elements; i += 16, w += 16) {
            float scale = n.scale[i / f->term] * (float)n.factor[i / 16];
            for (size_t j = 0; j < 16; j++)
                w[j] = (float)n.level[i + j] * scale;
            if (f->has_min)
                *mins++ = n.min[i / f->term] * (float)n.min_factor[i / 16];
        }
    }
}

static bool is_finite(size_t n, const float *f)
{
    return qg_amax_of(n, f) < INFINITY;
}

void qg_gguf_blas_matmul(const struct qg_args *a, const struct qg_gguf_kernel *f,
                         const struct qg_gguf_partner *p)
{
    size_t m = a->m, n = a->rows, k = row_length(a, f);
    float *x = a->work, *w = x + m * k, *y = w + n * k;
    for (size_t i = 0; i < m; i++)
        fill_input(a, f, p, i, x + i * k);
    for (size_t i = 0; i < n; i++)
        fill_weights(a, f, i, w + i * k);
    if (!is_finite(m * k + n * k, x)) {
        qg_gguf_c_matmul(a, f, p);
        return;
    }
    qg_sgemm(m, n, k, x, w, y);
    qg_store(&a->out[0], 0, m * n, y);
}

size_t qg_gguf_blas_depth(size_t k)
{
    return k + k / 16;
}
