/* SPDX-License-Identifier: MIT
 *
 * Matmul for every scheme that multiplies numbers: a family of kernels says what enters the product
 * and gets its rows on the backends c and blas.
 *
 *     static const struct qg_product product = {weights, qg_inputs_plain, NULL};
 *     QG_MATMUL(product)
 *     const struct qg_kernel qg_kernels_...[] = {..., QG_MATMUL_ROWS("int4", product), ...};
 */
#ifndef QG_MATMUL_H
#define QG_MATMUL_H

#include "kernels/kernel.h"

struct qg_product {
    /* Weights at .. at+n of row `row`, from the planes in[1..], as they enter the product. */
    void (*weights)(const struct qg_args *a, size_t row, size_t at, size_t n, float *w);
    /* All of x[m,K], from in[0]; also one scale per row where `finish` wants it. */
    void (*inputs)(const struct qg_args *a, float *x, float *scales);
    /* What becomes of the sums in columns row .. row+n, of one row of x, before the store; NULL:
     * nothing. */
    void (*finish)(const struct qg_args *a, size_t row, size_t n, float x_scale, float *sum);
};

/* x as it is. */
void qg_inputs_plain(const struct qg_args *a, float *x, float *scales);

/* out[0] = x . w^T in plain C, and by OpenBLAS; most additions that a term passes through in the
 * former, while nobody knows for the latter. */
void qg_multiply(const struct qg_args *a, const struct qg_product *p);
size_t qg_multiply_depth(size_t k);
void qg_multiply_blas(const struct qg_args *a, const struct qg_product *p);

/* y[m,n] = x[m,k] . w[n,k]^T by OpenBLAS, on one thread: no term passes through more than k - 1
 * additions that round. */
void qg_sgemm(size_t m, size_t n, size_t k, const float *x, const float *w, float *y);

/* By OpenBLAS the exact sums of products of the int8 codes x[m,K] and w[rows,K], which are held as
 * floats: `take` gets those of columns n .. n+count of row m of the product, for every part of it
 * once. */
typedef void qg_take_sums_fn(const struct qg_args *a, size_t m, size_t n, size_t count,
                             const int64_t *sum, const void *user);
void qg_multiply_integers(const struct qg_args *a, const float *x, const float *w,
                          qg_take_sums_fn *take, const void *user);

/* lora: `base` is a matmul, `multiply` one of the functions above; a's and b's products go through
 * it, too. */
void qg_adapt(const struct qg_args *a, qg_op_fn *base,
              void (*multiply)(const struct qg_args *a, const struct qg_product *p));

#define QG_MATMUL(product)                              \
    static void product##_c(const struct qg_args *a)    \
    {                                                   \
        qg_multiply(a, &product);                       \
    }                                                   \
    static void product##_blas(const struct qg_args *a) \
    {                                                   \
        qg_multiply_blas(a, &product);                  \
    }

/* A matmul by OpenBLAS; additions: as depth of struct qg_kernel. */
#define QG_BLAS_ROW(s, additions, f)                                                            \
    {                                                                                           \
        .scheme = s, .backend = "blas", .variant = "", .op = QG_MATMUL, .operand = QG_WEIGHT,   \
        .claim = QG_WITHIN_BOUND, .traits = QG_FUSES | QG_REORDERS, .depth = additions, .fn = f \
    }

#define QG_MATMUL_ROWS(s, product) \
    {.scheme = s,                  \
     .backend = "c",               \
     .variant = "",                \
     .op = QG_MATMUL,              \
     .operand = QG_WEIGHT,         \
     .claim = QG_WITHIN_BOUND,     \
     .traits = QG_REORDERS,        \
     .depth = qg_multiply_depth,   \
     .fn = product##_c},           \
        QG_BLAS_ROW(s, NULL, product##_blas)

/* The same with an adapter, for schemes that have lora:
 *
 *     QG_MATMUL(product)
 *     QG_LORA(product)
 *     ... QG_LORA_ROWS("nf4", product)
 */
#define QG_LORA(product)                                     \
    static void product##_lora_c(const struct qg_args *a)    \
    {                                                        \
        qg_adapt(a, product##_c, qg_multiply);               \
    }                                                        \
    static void product##_lora_blas(const struct qg_args *a) \
    {                                                        \
        qg_adapt(a, product##_blas, qg_multiply_blas);       \
    }

#define QG_LORA_ROW(s, where, additions, f)                                                \
    {                                                                                      \
        .scheme = s, .backend = where, .variant = "", .op = QG_LORA, .operand = QG_WEIGHT, \
        .claim = QG_WITHIN_BOUND, .traits = QG_REORDERS, .depth = additions, .fn = f       \
    }

#define QG_LORA_ROWS(s, product)                              \
    QG_LORA_ROW(s, "c", qg_multiply_depth, product##_lora_c), \
        QG_LORA_ROW(s, "blas", NULL, product##_lora_blas)

#endif
