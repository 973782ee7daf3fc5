/* SPDX-License-Identifier: MIT */
#include "harness/lm/linear.h"

#include <assert.h>
#include <cblas.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/c/rows.h"

void qg_product(bool ta, bool tb, size_t m, size_t n, size_t k, float alpha, const float *a,
                size_t lda, const float *b, size_t ldb, bool add, float *c, size_t ldc)
{
    assert(m <= INT_MAX && n <= INT_MAX && k <= INT_MAX && lda <= INT_MAX && ldb <= INT_MAX &&
           ldc <= INT_MAX);
    cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans,
                (int)m, (int)n, (int)k, alpha, a, (int)lda, b, (int)ldb, add ? 1.0f : 0.0f, c,
                (int)ldc);
}

enum { PLANES_APART = 4096 }; /* room between the planes of activations */

/* --- memory of a thread ---------------------------------------------------------------------- */

enum qg_status qg_linear_scratch_make(size_t numbers, size_t floats,
                                      struct qg_linear_scratch *ret_s, struct qg_error *err)
{
    struct qg_linear_scratch s = {.left = malloc(numbers * sizeof *s.left),
                                  .right = malloc(numbers * sizeof *s.right)};
    size_t bytes = numbers * sizeof(float);
    if (!s.left || !s.right)
        qg_fail(err, QG_ENOMEM, "no memory for products of %zu numbers", numbers);
    else if (qg_buffer_alloc(&s.x, bytes, err) == QG_OK &&
             qg_buffer_alloc(&s.y, bytes, err) == QG_OK &&
             qg_buffer_alloc(&s.planes, bytes + PLANES_APART, err) == QG_OK &&
             qg_buffer_alloc(&s.work, floats * sizeof(float), err) == QG_OK) {
        *ret_s = s;
        return QG_OK;
    }
    qg_linear_scratch_free(&s);
    return err->status;
}

void qg_linear_scratch_free(struct qg_linear_scratch *s)
{
    qg_buffer_free(&s->x);
    qg_buffer_free(&s->y);
    qg_buffer_free(&s->planes);
    qg_buffer_free(&s->work);
    free(s->left);
    free(s->right);
    *s = (struct qg_linear_scratch){0};
}

/* --- calls ----------------------------------------------------------------------------------- */

static qg_op_fn *function(const struct qg_args *a)
{
    const struct qg_kernel *k = qg_kernel_pick(a->scheme, a->operand, a->op, NULL);
    return k ? k->fn : qg_definition(a->scheme, a->operand, a->op);
}

static bool init(struct qg_args *a, const struct qg_linear *l, enum qg_op op,
                 enum qg_operand operand, size_t m, struct qg_error *err)
{
    const struct qg_scheme *s =
        operand == QG_ACTIVATION ? l->order.activation : l->order.choice.scheme;
    char why[256];
    *a = (struct qg_args){0};
    qg_params_default(a, s);
    if (s == l->order.choice.scheme && qg_params_parse(a, s, l->order.choice.params, err) != QG_OK)
        return false;
    if (qg_args_init(a, s, op, operand, l->order.dtype, op == QG_MATMUL ? m : 0,
                     operand == QG_ACTIVATION ? m : l->rows, l->cols, why, sizeof why))
        return true;
    qg_fail(err, QG_EINVAL, "scheme '%s': %s", s->name, why);
    return false;
}

/* A call that qg_linear_put has tried before. */
static struct qg_args call(const struct qg_linear *l, enum qg_op op, enum qg_operand operand,
                           size_t m)
{
    struct qg_error err;
    struct qg_args a;
    bool good = init(&a, l, op, operand, m, &err);
    assert(good);
    (void)good;
    return a;
}

static void load(enum qg_dtype t, const void *data, size_t n, float *f)
{
    struct qg_tensor x = {.dtype = t, .rank = 1, .shape = {n}, .data = (void *)data};
    qg_load(&x, 0, n, f);
}

static void store(enum qg_dtype t, void *data, size_t n, const float *f)
{
    struct qg_tensor x = {.dtype = t, .rank = 1, .shape = {n}, .data = data};
    qg_store(&x, 0, n, f);
}

/* R(x), by way of a typed buffer. */
static void round_to(enum qg_dtype t, size_t n, const float *x, void *typed, float *y)
{
    store(t, typed, n, x);
    load(t, typed, n, y);
}

/* --- states ---------------------------------------------------------------------------------- */

/* Whether the scheme's matmul treats x as the order wants it. */
static bool matmul_fits(const struct qg_linear_order *o)
{
    bool quantizes = o->choice.scheme->operand[QG_ACTIVATION].convert != NULL;
    return o->operand == QG_WEIGHT && o->choice.scheme->matmul &&
           (quantizes ? o->activation == o->choice.scheme : !o->activation);
}

static enum qg_status pick_matmul(struct qg_linear *l, struct qg_error *err)
{
    const struct qg_linear_order *o = &l->order;
    const struct qg_kernel *k = qg_kernel_pick(o->choice.scheme, QG_WEIGHT, QG_MATMUL, o->backend);
    if (!k && o->backend)
        return qg_fail(err, QG_EABSENT, "there is no kernel %s.matmul.%s here",
                       o->choice.scheme->name, o->backend);
    if (k && k->launch)
        return qg_fail(err, QG_EABSENT,
                       "backend '%s': a model's layers run on host memory alone; use c or blas",
                       o->backend);
    l->matmul = k ? k->fn : o->choice.scheme->matmul;
    if (k)
        qg_kernel_name(k, l->kernel, sizeof l->kernel);
    else
        snprintf(l->kernel, sizeof l->kernel, "%s.matmul, the definition", o->choice.scheme->name);
    return QG_OK;
}

static enum qg_status put_converted(struct qg_linear *l, struct qg_error *err)
{
    const struct qg_linear_order *o = &l->order;
    struct qg_args a;
    if (matmul_fits(o) && pick_matmul(l, err) != QG_OK)
        return err->status;
    if (!init(&a, l, QG_DEQUANT, o->operand, 0, err) ||
        (o->activation && !l->matmul &&
         (!init(&a, l, QG_CONVERT, QG_ACTIVATION, 1, err) ||
          !init(&a, l, QG_DEQUANT, QG_ACTIVATION, 1, err))))
        return err->status;
    if (!init(&a, l, QG_CONVERT, o->operand, 0, err))
        return err->status;
    return qg_call_alloc(&l->planes, &a, false, err);
}

static enum qg_status put_prepared(struct qg_linear *l, struct qg_error *err)
{
    const struct qg_linear_order *o = &l->order;
    struct qg_args a;
    if (o->choice.scheme->operand[o->operand].learned)
        return qg_fail(err, QG_EINVAL, "scheme '%s' learns its scales, which a model here does not",
                       o->choice.scheme->name);
    bool good = init(&a, l, QG_FAKE_QUANT, o->operand, 0, err) &&
                (!o->activation || init(&a, l, QG_FAKE_QUANT, QG_ACTIVATION, 1, err));
    return good ? QG_OK : err->status;
}

static enum qg_status own_memory(struct qg_linear *l, struct qg_error *err)
{
    l->own = malloc(l->rows * l->cols * sizeof *l->own);
    return l->own ? QG_OK : qg_fail(err, QG_ENOMEM, "no memory for [%zu,%zu]", l->rows, l->cols);
}

static enum qg_status put(struct qg_linear *l, struct qg_error *err)
{
    const struct qg_linear_order *o = &l->order;
    if (o->path == QG_LINEAR_CONVERTED && put_converted(l, err) != QG_OK)
        return err->status;
    if (o->path == QG_LINEAR_PREPARED && put_prepared(l, err) != QG_OK)
        return err->status;
    if (o->path == QG_LINEAR_PLAIN || (l->matmul && !o->dense))
        return QG_OK;
    return own_memory(l, err);
}

enum qg_status qg_linear_put(struct qg_linear *l, const struct qg_linear_order *o,
                             struct qg_error *err)
{
    qg_linear_free(l);
    l->order = *o;
    if (!o->choice.scheme)
        l->order.path = QG_LINEAR_PLAIN;
    snprintf(l->kernel, sizeof l->kernel, "products in binary32 by OpenBLAS");
    if (put(l, err) == QG_OK)
        return QG_OK;
    qg_linear_free(l);
    return qg_context(err, "tensor '%s'", l->name);
}

void qg_linear_free(struct qg_linear *l)
{
    qg_call_free(&l->planes);
    free(l->own);
    l->own = NULL;
    l->weights = NULL;
    l->matmul = NULL;
}

/* --- quantizing ------------------------------------------------------------------------------ */

static enum qg_status make(const struct qg_linear *l, enum qg_op op, struct qg_call *ret_c,
                           struct qg_error *err)
{
    struct qg_args a = call(l, op, l->order.operand, 0);
    return qg_call_alloc(ret_c, &a, false, err);
}

static void run(const struct qg_args *a)
{
    function(a)(a);
}

static enum qg_status dequantize(struct qg_linear *l, struct qg_error *err)
{
    struct qg_call c;
    if (make(l, QG_DEQUANT, &c, err) != QG_OK)
        return err->status;
    for (int i = 0; i < c.args.n_in; i++)
        memcpy(c.args.in[i].data, l->planes.args.out[i].data, qg_bytes(&c.args.in[i]));
    run(&c.args);
    qg_load(&c.args.out[0], 0, l->rows * l->cols, l->own);
    qg_call_free(&c);
    return QG_OK;
}

static enum qg_status prepare(struct qg_linear *l, struct qg_error *err)
{
    struct qg_call c;
    if (make(l, QG_FAKE_QUANT, &c, err) != QG_OK)
        return err->status;
    qg_store(&c.args.in[0], 0, l->rows * l->cols, l->source);
    run(&c.args);
    qg_load(&c.args.out[0], 0, l->rows * l->cols, l->own);
    qg_call_free(&c);
    return QG_OK;
}

/* R(W), and no copy where that is W, as in a checkpoint of that dtype. */
static enum qg_status round_plain(struct qg_linear *l, struct qg_error *err)
{
    size_t i = 0, n = l->rows * l->cols;
    while (i < n && qg_round(l->order.dtype, l->source[i]) == l->source[i])
        i++;
    if (i == n) {
        free(l->own);
        l->own = NULL;
        return QG_OK;
    }
    if (!l->own && own_memory(l, err) != QG_OK)
        return err->status;
    for (i = 0; i < n; i++)
        l->own[i] = qg_round(l->order.dtype, l->source[i]);
    return QG_OK;
}

enum qg_status qg_linear_refresh(struct qg_linear *l, struct qg_error *err)
{
    if (l->order.path == QG_LINEAR_CONVERTED) {
        qg_store(&l->planes.args.in[0], 0, l->rows * l->cols, l->source);
        run(&l->planes.args);
        if (l->own && dequantize(l, err) != QG_OK)
            return err->status;
    } else if (l->order.path == QG_LINEAR_PREPARED && prepare(l, err) != QG_OK) {
        return err->status;
    } else if (l->order.path == QG_LINEAR_PLAIN && round_plain(l, err) != QG_OK) {
        return err->status;
    }
    l->weights = l->own ? l->own : l->order.path == QG_LINEAR_PLAIN ? l->source : NULL;
    return QG_OK;
}

enum qg_status qg_linear_through(const struct qg_linear *l, float *dw, struct qg_error *err)
{
    struct qg_call c;
    if (l->order.path != QG_LINEAR_PREPARED)
        return QG_OK;
    if (make(l, QG_FAKE_QUANT_GRAD, &c, err) != QG_OK)
        return err->status;
    size_t n = l->rows * l->cols;
    qg_store(&c.args.in[0], 0, n, l->source);
    qg_store(&c.args.in[1], 0, n, dw);
    run(&c.args);
    qg_load(&c.args.out[0], 0, n, dw);
    qg_call_free(&c);
    return QG_OK;
}

size_t qg_linear_bytes(const struct qg_linear *l)
{
    size_t bytes = 0;
    for (int i = 0; i < l->planes.args.n_out; i++)
        bytes += qg_bytes(&l->planes.args.out[i]);
    size_t plain = l->rows * l->cols * qg_dtype_bytes(l->order.dtype);
    size_t adapter = l->rank * (l->rows + l->cols) * sizeof(float);
    return (l->order.path == QG_LINEAR_CONVERTED ? bytes : plain) + adapter;
}

/* --- products -------------------------------------------------------------------------------- */

/* x as it enters a product with `weights`: rounded, and quantized where it is. */
static const float *inputs(const struct qg_linear *l, size_t m, const float *x,
                           struct qg_linear_scratch *s)
{
    const struct qg_linear_order *o = &l->order;
    size_t n = m * l->cols;
    if (o->path == QG_LINEAR_PLAIN || !o->activation || (l->matmul && o->dense)) {
        if (o->dtype == QG_F32)
            return x;
        round_to(o->dtype, n, x, s->x.data, s->left);
        return s->left;
    }
    store(o->dtype, s->x.data, n, x);
    bool prepared = o->path == QG_LINEAR_PREPARED;
    struct qg_args a = call(l, prepared ? QG_FAKE_QUANT : QG_CONVERT, QG_ACTIVATION, m);
    a.in[0].data = s->x.data;
    a.work = s->work.data;
    char *at = prepared ? s->y.data : s->planes.data;
    for (int i = 0; i < a.n_out; i++, at += (qg_bytes(&a.out[i - 1]) + 63) / 64 * 64)
        a.out[i].data = at;
    run(&a);
    if (!prepared) {
        struct qg_args d = call(l, QG_DEQUANT, QG_ACTIVATION, m);
        for (int i = 0; i < d.n_in; i++)
            d.in[i].data = a.out[i].data;
        d.out[0].data = s->y.data;
        d.work = s->work.data;
        run(&d);
    }
    load(o->dtype, s->y.data, n, s->left);
    return s->left;
}

static void multiply_planes(const struct qg_linear *l, size_t m, const float *x, float *y,
                            struct qg_linear_scratch *s)
{
    struct qg_args a = call(l, QG_MATMUL, QG_WEIGHT, m);
    store(l->order.dtype, s->x.data, m * l->cols, x);
    a.in[0].data = s->x.data;
    for (int i = 1; i < a.n_in; i++)
        a.in[i].data = l->planes.args.out[i - 1].data;
    a.out[0].data = s->y.data;
    a.work = s->work.data;
    l->matmul(&a);
    load(l->order.dtype, s->y.data, m * l->rows, y);
}

void qg_linear_forward(const struct qg_linear *l, size_t m, const float *x, float *y,
                       struct qg_linear_scratch *s)
{
    size_t n = l->rows, k = l->cols, r = l->rank;
    if (l->matmul) {
        multiply_planes(l, m, x, y, s);
    } else {
        qg_product(false, true, m, n, k, 1, inputs(l, m, x, s), k, l->weights, k, false, y, n);
        if (l->order.dtype != QG_F32)
            round_to(l->order.dtype, m * n, y, s->y.data, y);
    }
    if (!r)
        return;
    qg_product(false, true, m, r, k, 1, x, k, l->a, k, false, s->right, r);
    qg_product(false, true, m, n, r, l->scale, s->right, r, l->b, r, true, y, n);
}

/* dx = dy . W, through the quantization of x. */
static void backward_inputs(const struct qg_linear *l, size_t m, const float *x, const float *dy,
                            float *dx, struct qg_linear_scratch *s)
{
    enum qg_dtype t = l->order.dtype;
    size_t n = l->rows, k = l->cols;
    qg_product(false, false, m, k, n, 1, dy, n, l->weights, k, false, dx, k);
    if (l->order.path != QG_LINEAR_PREPARED || !l->order.activation)
        return;
    struct qg_args a = call(l, QG_FAKE_QUANT_GRAD, QG_ACTIVATION, m);
    store(t, s->x.data, m * k, x);
    store(t, s->planes.data, m * k, dx);
    a.in[0].data = s->x.data;
    a.in[1].data = s->planes.data;
    a.out[0].data = s->y.data;
    a.work = s->work.data;
    run(&a);
    load(t, s->y.data, m * k, dx);
}

/* Of s (x A^T) B^T, with u = x A^T: dB += s dy^T u, du = s dy B, dA += du^T x, dx += du A. */
static void backward_adapter(const struct qg_linear *l, size_t m, const float *x, const float *dy,
                             float *dx, float *da, float *db, struct qg_linear_scratch *s)
{
    size_t n = l->rows, k = l->cols, r = l->rank;
    float *u = s->right;
    qg_product(false, true, m, r, k, 1, x, k, l->a, k, false, u, r);
    qg_product(true, false, n, r, m, l->scale, dy, n, u, r, true, db, r);
    qg_product(false, false, m, r, n, l->scale, dy, n, l->b, r, false, u, r);
    qg_product(true, false, r, k, m, 1, u, r, x, k, true, da, k);
    qg_product(false, false, m, k, r, 1, u, r, l->a, k, true, dx, k);
}

void qg_linear_backward(const struct qg_linear *l, size_t m, const float *x, const float *dy,
                        float *dx, float *dw, float *da, float *db, struct qg_linear_scratch *s)
{
    size_t n = l->rows, k = l->cols;
    if (dw)
        qg_product(true, false, n, k, m, 1, dy, n, inputs(l, m, x, s), k, true, dw, k);
    backward_inputs(l, m, x, dy, dx, s);
    if (l->rank)
        backward_adapter(l, m, x, dy, dx, da, db, s);
}
