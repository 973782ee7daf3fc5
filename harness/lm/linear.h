/* SPDX-License-Identifier: MIT
 *
 * One matrix of a language model, W [N,K], in the state that a scheme puts it in:
 *
 *     plain      y = R(R(x) . R(W)^T)
 *     prepared   y = R(fq(R(x)) . fq(R(W))^T)    fake-quant as training sees it; x as it is where
 *                                                activations are not quantized
 *     converted  y = matmul(R(x), convert(R(W))) the real kernel; products of dequantized operands
 *                                                where the plan takes activations otherwise than
 *                                                the scheme's matmul does
 *
 * R rounds to the matrix's dtype; sums are binary32. An adapter adds s (x A^T) B^T to y, in
 * binary32 (arXiv 2106.09685); then W is frozen.
 *
 * Backward of prepared is straight through R and, through fq, by the scheme's own gradient.
 * Backward of converted (a frozen base under an adapter) takes the dequantized W and lets x pass
 * straight.
 */
#ifndef QG_LINEAR_H
#define QG_LINEAR_H

#include "harness/call.h"
#include "kernels/kernel.h"

enum qg_linear_path { QG_LINEAR_PLAIN, QG_LINEAR_PREPARED, QG_LINEAR_CONVERTED };

/* What is to become of a matrix. */
struct qg_linear_order {
    enum qg_linear_path path;
    struct qg_choice choice;            /* scheme NULL: plain after all */
    const struct qg_scheme *activation; /* quantizes x; NULL: nothing does */
    enum qg_operand operand;            /* QG_WEIGHT or QG_EMBEDDING */
    enum qg_dtype dtype;                /* F32, BF16 or F16 */
    const char *backend;                /* of the matmul; NULL: blas where it is, else c */
    bool dense;                         /* keep W dequantized as well, for backward */
};

struct qg_linear {
    char name[80];
    size_t rows, cols;
    struct qg_linear_order order;
    const float *source;   /* W [N,K], the caller's */
    const float *weights;  /* [N,K] as a product takes them; NULL when only planes are kept */
    float *own;            /* its memory, NULL when weights is source */
    struct qg_call planes; /* of convert */
    qg_op_fn *matmul;      /* on the planes; NULL: products of weights */
    char kernel[96];       /* what multiplies, in words: "int4.matmul.blas" */
    size_t rank;           /* of the adapter; 0: none */
    float scale;           /* s */
    const float *a, *b;    /* A [r,K], B [N,r], the caller's */
};

/* Memory for the calls of one thread: x and y of at most `numbers` elements each, and `floats` of
 * scratch for one operation (qg_work_floats). */
struct qg_linear_scratch {
    struct qg_buffer x, y, planes, work;
    float *left, *right;
};
QG_MUST_CHECK enum qg_status qg_linear_scratch_make(size_t numbers, size_t floats,
                                                    struct qg_linear_scratch *ret_s,
                                                    struct qg_error *err);
void qg_linear_scratch_free(struct qg_linear_scratch *s);

/* Puts a matrix into a state; qg_linear_refresh then makes it so. Frees what was there. QG_EINVAL
 * with a reason when the scheme has no such path, or no kernel of that backend. */
QG_MUST_CHECK enum qg_status qg_linear_put(struct qg_linear *l, const struct qg_linear_order *o,
                                           struct qg_error *err);
void qg_linear_free(struct qg_linear *l);

/* Quantizes anew from the source; needed after qg_linear_put, too. QG_ENOMEM. */
QG_MUST_CHECK enum qg_status qg_linear_refresh(struct qg_linear *l, struct qg_error *err);

/* Bytes that are shipped of it: its planes, or numbers of its dtype. */
size_t qg_linear_bytes(const struct qg_linear *l);

/* x [m,K] -> y [m,N], y must not overlap x. */
void qg_linear_forward(const struct qg_linear *l, size_t m, const float *x, float *y,
                       struct qg_linear_scratch *s);

/* The same with the gradient dy [m,N] of y: sets dx [m,K], and adds to dw [N,K] (NULL: not wanted)
 * the gradient of the quantized weights, to da and db that of the adapter (not used without one).
 */
void qg_linear_backward(const struct qg_linear *l, size_t m, const float *x, const float *dy,
                        float *dx, float *dw, float *da, float *db, struct qg_linear_scratch *s);

/* dw, the gradient of the quantized weights, becomes that of the weights. QG_ENOMEM. */
QG_MUST_CHECK enum qg_status qg_linear_through(const struct qg_linear *l, float *dw,
                                               struct qg_error *err);

/* c [m,n] = a . b (+ c with add), of which `ta` and `tb` say that they are stored transposed; row
 * strides in numbers. OpenBLAS sgemm. */
void qg_product(bool ta, bool tb, size_t m, size_t n, size_t k, float alpha, const float *a,
                size_t lda, const float *b, size_t ldb, bool add, float *c, size_t ldc);

#endif
