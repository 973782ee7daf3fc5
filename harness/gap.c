/* SPDX-License-Identifier: MIT */
#include "harness/gap.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/call.h"
#include "harness/compare.h"
#include "harness/torch_model.h"
#include "schemes/dot.h"

static float bf(double x)
{
    return qg_round(QG_BF16, (float)x);
}

float qg_compute_error_bf16(const qg_bf16 *x, const qg_bf16 *y, size_t n)
{
    double signal = 0, noise = 0;
    for (size_t i = 0; i < n; i++) {
        float a = qg_bf16_decode(x[i]), e = bf(qg_sub(a, qg_bf16_decode(y[i])));
        signal += (double)a * a;
        noise += (double)e * e;
    }
    return bf(20.0f * bf(log10((double)bf(bf(sqrt(signal)) / bf(sqrt(noise))))));
}

/* --- one operation of the scheme on tensors of ours ------------------------------------------ */

static void compute(const struct qg_call *c)
{
    qg_definition(c->args.scheme, c->args.operand, c->args.op)(&c->args);
}

static void set_input(struct qg_call *c, int i, const void *data)
{
    memcpy(c->args.in[i].data, data, qg_bytes(&c->args.in[i]));
}

/* The two forms of one weight tensor. */
struct pair {
    struct qg_call prepare, convert, dequant;
};

static void pair_free(struct pair *p)
{
    qg_call_free(&p->prepare);
    qg_call_free(&p->convert);
    qg_call_free(&p->dequant);
}

static void run_pair(struct pair *p)
{
    compute(&p->convert);
    qg_call_learn(&p->prepare.args, &p->convert.args);
    compute(&p->prepare);
    for (int i = 0; i < p->convert.args.n_out; i++)
        set_input(&p->dequant, i, p->convert.args.out[i].data);
    compute(&p->dequant);
}

static enum qg_status pair_create(const struct qg_scheme *s, const char *params,
                                  const struct qg_tensor *w, struct pair *ret_p,
                                  struct qg_error *err)
{
    struct pair p = {0};
    size_t n = w->shape[0], k = w->shape[1];
    if (qg_call_make(s, params, QG_FAKE_QUANT, QG_WEIGHT, w->dtype, 0, n, k, &p.prepare, err) ||
        qg_call_make(s, params, QG_CONVERT, QG_WEIGHT, w->dtype, 0, n, k, &p.convert, err) ||
        qg_call_make(s, params, QG_DEQUANT, QG_WEIGHT, w->dtype, 0, n, k, &p.dequant, err)) {
        pair_free(&p);
        return err->status;
    }
    set_input(&p.prepare, 0, w->data);
    set_input(&p.convert, 0, w->data);
    run_pair(&p);
    *ret_p = p;
    return QG_OK;
}

bool qg_gap_has(const struct qg_scheme *s)
{
    const struct qg_operand_def *w = &s->operand[QG_WEIGHT];
    return w->fake_quant && w->convert && w->dequant && s->matmul;
}

/* --- weights --------------------------------------------------------------------------------- */

/* Squares summed over one tensor or more. */
struct norms {
    double signal, noise;
};

/* Adds a tensor's comparison to a row and to the norms. */
static void add_pair(const struct pair *p, struct qg_gap *g, struct norms *sum)
{
    const struct qg_tensor *a = &p->prepare.args.out[0], *b = &p->dequant.args.out[0];
    for (size_t i = 0; i < qg_count(a); i++, g->count++) {
        double x = qg_get(a, i), y = qg_get(b, i), e = x - y;
        sum->signal += x * x;
        sum->noise += e * e;
        if (x == y || (x != x && y != y))
            continue;
        if (g->differ++ == 0)
            g->first = (int64_t)g->count;
    }
}

static double decibels(const struct norms *sum)
{
    if (!isfinite(sum->signal) || !isfinite(sum->noise))
        return (double)NAN;
    return sum->noise == 0 ? (double)INFINITY : 10 * log10(sum->signal / sum->noise);
}

/* Runs both paths again with the trace switched on for the first difference. */
static void look_closer(struct pair *p, size_t i, struct qg_gap_detail *d)
{
    *d = (struct qg_gap_detail){.row = i / p->prepare.args.cols, .col = i % p->prepare.args.cols};
    d->prepare.index = d->convert.index = i;
    p->prepare.args.trace = &d->prepare;
    p->convert.args.trace = p->dequant.args.trace = &d->convert;
    run_pair(p);
    p->prepare.args.trace = p->convert.args.trace = p->dequant.args.trace = NULL;
    d->x = qg_get(&p->prepare.args.in[0], i);
    d->prepared = qg_get(&p->prepare.args.out[0], i);
    d->converted = qg_get(&p->dequant.args.out[0], i);
}

/* Tries every other choice of every choice parameter, one at a time: the one that brings the two
 * paths closest, if that is by 3 dB or more, is the cause. */
static enum qg_status name_cause(const struct qg_scheme *s, const char *params,
                                 const struct qg_tensor *w, struct qg_gap *g, struct qg_error *err)
{
    double best = g->sqnr_db + 3;
    for (int i = 0; s->params[i].name; i++)
        for (int c = 0; s->params[i].choices && s->params[i].choices[c]; c++) {
            char text[192];
            snprintf(text, sizeof text, "%s %s=%s", params, s->params[i].name,
                     s->params[i].choices[c]);
            struct qg_gap other = {.first = -1};
            struct norms sum = {0};
            struct pair p;
            if (pair_create(s, text, w, &p, err) != QG_OK)
                return err->status;
            add_pair(&p, &other, &sum);
            pair_free(&p);
            double db = decibels(&sum);
            if (!(db > best))
                continue;
            best = db;
            snprintf(g->cause, sizeof g->cause, "%s=%s would make it %.4g dB (%.2f %% differ)",
                     s->params[i].name, s->params[i].choices[c], db,
                     100.0 * (double)other.differ / (double)other.count);
        }
    if (!g->cause[0] && g->differ)
        snprintf(g->cause, sizeof g->cause, "no single parameter explains it");
    return QG_OK;
}

static struct qg_gap new_row(const struct qg_scheme *s, const char *params, const char *source,
                             const char *what, uint64_t seed)
{
    struct qg_gap g = {.seed = seed, .first = -1, .sqnr_bf16_db = (double)NAN};
    snprintf(g.scheme, sizeof g.scheme, "%s", s->name);
    snprintf(g.params, sizeof g.params, "%s", params);
    snprintf(g.source, sizeof g.source, "%s", source);
    snprintf(g.what, sizeof g.what, "%s", what);
    return g;
}

enum qg_status qg_gap_tensor(const struct qg_scheme *s, const char *params,
                             const struct qg_tensor *w, const char *source, struct qg_gap *ret_gap,
                             struct qg_gap_detail *detail, struct qg_error *err)
{
    struct qg_gap g = new_row(s, params, source, "weights", 0);
    struct norms sum = {0};
    struct pair p;
    if (pair_create(s, params, w, &p, err) != QG_OK)
        return err->status;
    add_pair(&p, &g, &sum);
    g.sqnr_db = decibels(&sum);
    if (detail && g.first >= 0)
        look_closer(&p, (size_t)g.first, detail);
    pair_free(&p);
    if (detail && g.differ && name_cause(s, params, w, &g, err) != QG_OK)
        return err->status;
    *ret_gap = g;
    return QG_OK;
}

/* --- the model ------------------------------------------------------------------------------- */

/* y[cols of w] = x . w^T in bf16 with a binary32 sum: torch.nn.functional.linear. */
static void linear(const struct qg_tensor *x, const struct qg_tensor *w, qg_bf16 *y)
{
    for (size_t n = 0; n < w->shape[0]; n++) {
        struct qg_sum s = {0};
        for (size_t k = 0; k < w->shape[1]; k++)
            qg_sum_add(&s, (double)qg_get(x, k) * qg_get(w, n * w->shape[1] + k));
        y[n] = qg_bf16_encode((float)qg_sum_value(&s));
    }
}

/* One converted layer: the scheme's own matmul on the planes. */
static enum qg_status converted_layer(const struct pair *p, const char *params, qg_bf16 *h,
                                      struct qg_error *err)
{
    const struct qg_args *w = &p->convert.args;
    struct qg_call c;
    if (qg_call_make(w->scheme, params, QG_MATMUL, QG_WEIGHT, QG_BF16, 1, w->rows, w->cols, &c,
                     err))
        return err->status;
    set_input(&c, 0, h);
    for (int i = 0; i < w->n_out; i++)
        set_input(&c, 1 + i, w->out[i].data);
    compute(&c);
    memcpy(h, c.args.out[0].data, qg_bytes(&c.args.out[0]));
    qg_call_free(&c);
    return QG_OK;
}

/* One prepared layer: x fake-quantized where the scheme does so, then an ordinary linear;
 * or the quantized matmul, where upstream trains on that. */
static enum qg_status prepared_layer(const struct pair *p, const char *params, qg_bf16 *h,
                                     struct qg_error *err)
{
    const struct qg_args *w = &p->prepare.args;
    if (w->scheme->trains_on_matmul)
        return converted_layer(p, params, h, err);
    struct qg_tensor x = {"x", QG_BF16, 2, {1, w->cols}, h};
    if (!qg_definition(w->scheme, QG_ACTIVATION, QG_FAKE_QUANT)) {
        qg_bf16 y[QG_MODEL_WIDTH];
        linear(&x, &w->out[0], y);
        memcpy(h, y, w->rows * sizeof *y);
        return QG_OK;
    }
    struct qg_call c;
    if (qg_call_make(w->scheme, params, QG_FAKE_QUANT, QG_ACTIVATION, QG_BF16, 0, 1, w->cols, &c,
                     err))
        return err->status;
    set_input(&c, 0, h);
    compute(&c);
    linear(&c.args.out[0], &w->out[0], h);
    qg_call_free(&c);
    return QG_OK;
}

enum qg_status qg_gap_model(const struct qg_scheme *s, const char *params, uint64_t seed,
                            struct qg_gap *ret_model, struct qg_gap *ret_weights,
                            struct qg_gap_detail *detail, struct qg_error *err)
{
    struct qg_torch_model *m = qg_torch_model_create(seed);
    if (!m)
        return qg_fail(err, QG_ENOMEM, "no memory for the test model");
    struct qg_gap weights = new_row(s, params, "torch-model", "weights", seed);
    struct qg_gap model = new_row(s, params, "torch-model", "model", seed);
    struct norms sum = {0};
    qg_bf16 prepared[QG_MODEL_WIDTH], converted[QG_MODEL_WIDTH];
    memcpy(prepared, m->x, sizeof prepared);
    memcpy(converted, m->x, sizeof converted);
    enum qg_status status = QG_OK;
    for (int l = 0; l < QG_MODEL_LAYERS && status == QG_OK; l++) {
        struct qg_tensor w = {"w", QG_BF16, 2, {m->rows[l], m->cols[l]}, m->weight[l]};
        struct pair p;
        if ((status = pair_create(s, params, &w, &p, err)) != QG_OK)
            break;
        bool was_equal = weights.first < 0;
        uint64_t before = weights.count;
        add_pair(&p, &weights, &sum);
        if ((status = prepared_layer(&p, params, prepared, err)) == QG_OK)
            status = converted_layer(&p, params, converted, err);
        if (detail && was_equal && weights.first >= 0)
            look_closer(&p, (size_t)(weights.first - (int64_t)before), detail);
        pair_free(&p);
        weights.sqnr_db = decibels(&sum);
        if (status == QG_OK && detail && was_equal && weights.first >= 0)
            status = name_cause(s, params, &w, &weights, err);
    }
    qg_torch_model_free(&m);
    if (status != QG_OK)
        return status;
    struct qg_tensor a = {"prepared", QG_BF16, 1, {QG_MODEL_WIDTH}, prepared};
    struct qg_tensor b = {"converted", QG_BF16, 1, {QG_MODEL_WIDTH}, converted};
    struct qg_diff d = qg_no_diff;
    qg_compare(&a, &b, NULL, NULL, &d);
    model.count = d.count;
    model.differ = d.mismatches;
    model.first = d.first_mismatch;
    model.sqnr_db = qg_sqnr_db(&a, &b, NULL);
    model.sqnr_bf16_db = (double)qg_compute_error_bf16(prepared, converted, QG_MODEL_WIDTH);
    *ret_model = model;
    *ret_weights = weights;
    return QG_OK;
}
