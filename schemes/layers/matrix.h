/* SPDX-License-Identifier: MIT
 *
 * Matrices of intervals: the steps that layers are made of. Each step is what a library does in one
 * operation: sums in binary32 in an order that nobody promises, then one rounding to dtype t. The
 * intervals (interval.h) carry along what the open orders may change, so that the last step knows
 * how far upstream may be off.
 */
#ifndef QG_MATRIX_H
#define QG_MATRIX_H

#include "schemes/interval.h"
#include "schemes/layers/layer.h"

/* A view: element (i, j) is v[i * down + j * right]. A vector is a row; with down 0 it is repeated
 * in every row. */
struct qg_matrix {
    size_t rows, cols, down, right;
    struct qg_interval *v;
};

/* Where matrices are put: the call's scratch, from its beginning. */
struct qg_pool {
    const struct qg_args *a;
    struct qg_interval *next;
};

static inline struct qg_pool qg_pool_of(const struct qg_args *a)
{
    return (struct qg_pool){a, (struct qg_interval *)a->work};
}

static inline struct qg_interval *qg_at(struct qg_matrix x, size_t i, size_t j)
{
    return &x.v[i * x.down + j * x.right];
}

static inline struct qg_matrix qg_transposed(struct qg_matrix x)
{
    return (struct qg_matrix){x.cols, x.rows, x.right, x.down, x.v};
}

static inline struct qg_matrix qg_matrix_new(struct qg_pool *p, size_t rows, size_t cols)
{
    struct qg_matrix x = {rows, cols, cols, 1, p->next};
    p->next += rows * cols;
    return x;
}

/* An input of the call, rounded to t. A vector [N] is a row. */
static inline struct qg_matrix qg_matrix_in(struct qg_pool *p, const char *name, enum qg_dtype t)
{
    const struct qg_tensor *in = qg_layer_in(p->a, name);
    size_t cols = in->shape[in->rank - 1];
    struct qg_matrix x = qg_matrix_new(p, qg_count(in) / cols, cols);
    for (size_t i = 0; i < qg_count(in); i++)
        x.v[i] = qg_interval_at(qg_round(t, qg_get(in, i)));
    if (in->rank == 1)
        x.down = 0;
    return x;
}

/* Stores x as the output of that name. */
static inline void qg_matrix_out(const struct qg_args *a, const char *name, struct qg_matrix x)
{
    int n = (int)(qg_layer_out(a, name) - a->out);
    for (size_t i = 0; i < x.rows; i++)
        for (size_t j = 0; j < x.cols; j++)
            qg_emit_interval(a, n, i * x.cols + j, *qg_at(x, i, j));
}

static inline struct qg_spread qg_row_times_column(struct qg_matrix x, size_t i, struct qg_matrix y,
                                                   size_t j)
{
    struct qg_spread s = qg_spread_empty;
    for (size_t k = 0; k < x.cols; k++)
        qg_spread_add_product(&s, *qg_at(x, i, k), *qg_at(y, k, j));
    return s;
}

/* R(scale x . y): a product of matrices whose accumulator is scaled before it is stored. Two
 * roundings per term at most: the product, and the scaling of the term or of the sum. */
static inline struct qg_matrix qg_scaled_product(struct qg_pool *p, enum qg_dtype t, float scale,
                                                 struct qg_matrix x, struct qg_matrix y)
{
    struct qg_matrix z = qg_matrix_new(p, x.rows, y.cols);
    for (size_t i = 0; i < z.rows; i++)
        for (size_t j = 0; j < z.cols; j++) {
            struct qg_spread s = qg_row_times_column(x, i, y, j);
            qg_spread_scale(&s, scale);
            *qg_at(z, i, j) = qg_interval_round(t, qg_spread_result(&s, p->a->depth, 2));
        }
    return z;
}

/* R(x . y). One rounding per term: the product. */
static inline struct qg_matrix qg_product(struct qg_pool *p, enum qg_dtype t, struct qg_matrix x,
                                          struct qg_matrix y)
{
    struct qg_matrix z = qg_matrix_new(p, x.rows, y.cols);
    for (size_t i = 0; i < z.rows; i++)
        for (size_t j = 0; j < z.cols; j++) {
            struct qg_spread s = qg_row_times_column(x, i, y, j);
            *qg_at(z, i, j) = qg_interval_round(t, qg_spread_result(&s, p->a->depth, 1));
        }
    return z;
}

/* R(c + scale x . y), one rounding at the end (addmm): c is one more term of the sum, wherever it
 * is added. c may be a row that is added to all. */
static inline struct qg_matrix qg_added_product(struct qg_pool *p, enum qg_dtype t,
                                                struct qg_matrix c, float scale, struct qg_matrix x,
                                                struct qg_matrix y)
{
    struct qg_matrix z = qg_matrix_new(p, x.rows, y.cols);
    for (size_t i = 0; i < z.rows; i++)
        for (size_t j = 0; j < z.cols; j++) {
            struct qg_spread s = qg_row_times_column(x, i, y, j);
            struct qg_interval first = *qg_at(c, i, j);
            qg_spread_scale(&s, scale);
            s.sign_open = s.sign_open && first.mid == 0 && signbit(first.mid); // 0 + -0 is 0
            qg_spread_add(&s, first.lo, first.mid, first.hi);
            size_t depth = p->a->depth ? p->a->depth + 1 : 0;
            *qg_at(z, i, j) = qg_interval_round(t, qg_spread_result(&s, depth, 2));
        }
    return z;
}

/* op of x and y, element by element; y may be a row that goes with all, and of rows a row comes. */
static inline struct qg_matrix qg_elementwise(
    struct qg_pool *p, enum qg_dtype t, struct qg_matrix x, struct qg_matrix y,
    struct qg_interval (*op)(enum qg_dtype, struct qg_interval, struct qg_interval))
{
    struct qg_matrix z = qg_matrix_new(p, x.rows, x.cols);
    z.down = x.down;
    for (size_t i = 0; i < z.rows; i++)
        for (size_t j = 0; j < z.cols; j++)
            *qg_at(z, i, j) = op(t, *qg_at(x, i, j), *qg_at(y, i, j));
    return z;
}

/* R(x + y), R(x y) and R(x / y). */
static inline struct qg_matrix qg_added(struct qg_pool *p, enum qg_dtype t, struct qg_matrix x,
                                        struct qg_matrix y)
{
    return qg_elementwise(p, t, x, y, qg_interval_add);
}

static inline struct qg_matrix qg_times(struct qg_pool *p, enum qg_dtype t, struct qg_matrix x,
                                        struct qg_matrix y)
{
    return qg_elementwise(p, t, x, y, qg_interval_times);
}

static inline struct qg_matrix qg_over(struct qg_pool *p, enum qg_dtype t, struct qg_matrix x,
                                       struct qg_matrix y)
{
    return qg_elementwise(p, t, x, y, qg_interval_over);
}

/* R(x factor). */
static inline struct qg_matrix qg_scaled(struct qg_pool *p, enum qg_dtype t, struct qg_matrix x,
                                         float factor)
{
    struct qg_matrix z = qg_matrix_new(p, x.rows, x.cols);
    z.down = x.down; // a row that is repeated stays one
    for (size_t i = 0; i < z.rows; i++)
        for (size_t j = 0; j < z.cols; j++)
            *qg_at(z, i, j) = qg_interval_mul(t, *qg_at(x, i, j), factor);
    return z;
}

/* R(sum of each column): a row. */
static inline struct qg_matrix qg_column_sums(struct qg_pool *p, enum qg_dtype t,
                                              struct qg_matrix x)
{
    struct qg_matrix z = qg_matrix_new(p, 1, x.cols);
    for (size_t j = 0; j < z.cols; j++) {
        struct qg_spread s = qg_spread_empty;
        for (size_t i = 0; i < x.rows; i++)
            qg_spread_add(&s, qg_at(x, i, j)->lo, qg_at(x, i, j)->mid, qg_at(x, i, j)->hi);
        *qg_at(z, 0, j) = qg_interval_round(t, qg_spread_result(&s, p->a->depth, 0));
    }
    return z;
}

/* R(sqrt(sum of the squares of each row + more)): a row with a number for each. The sum, the
 * addition and the root are binary32's. */
static inline struct qg_matrix qg_row_norms(struct qg_pool *p, enum qg_dtype t, struct qg_matrix x,
                                            float more)
{
    struct qg_matrix z = qg_matrix_new(p, 1, x.rows);
    z.down = 0;
    for (size_t i = 0; i < x.rows; i++) {
        struct qg_spread s = qg_spread_empty;
        for (size_t j = 0; j < x.cols; j++)
            qg_spread_add_product(&s, *qg_at(x, i, j), *qg_at(x, i, j));
        struct qg_interval sum =
            qg_interval_add(QG_F32, qg_spread_result(&s, p->a->depth, 1), qg_interval_at(more));
        sum.lo = sum.lo < 0 ? 0 : sum.lo; // a sum of squares is not negative
        *qg_at(z, 0, i) = qg_interval_round(
            t, (struct qg_interval){sqrtf(sum.lo), sqrtf(sum.mid), sqrtf(sum.hi)});
    }
    return z;
}

/* One number, everywhere. */
static inline struct qg_matrix qg_constant(struct qg_pool *p, float x)
{
    struct qg_matrix z = qg_matrix_new(p, 1, 1);
    z.v[0] = qg_interval_at(x);
    z.down = z.right = 0;
    return z;
}

#endif
