/* SPDX-License-Identifier: MIT */
#include "harness/merge.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/rng.h"
#include "harness/call.h"
#include "schemes/layers/layer.h"

enum { TOKENS = 16, SEED = 1 };

static const char *const words[QG_MERGE_WAYS] = {"legacy", "round-trip", "base"};

const char *qg_merge_way_name(enum qg_merge_way way)
{
    return words[way];
}

enum qg_merge_way qg_merge_way_parse(const char *word)
{
    enum qg_merge_way way = QG_MERGE_LEGACY;
    while (way < QG_MERGE_WAYS && strcmp(words[way], word) != 0)
        way++;
    return way;
}

/* --- tensors of our own ---------------------------------------------------------------------- */

static enum qg_status tensor_alloc(struct qg_tensor *ret_t, const struct qg_tensor *like,
                                   enum qg_dtype dtype, struct qg_error *err)
{
    *ret_t = *like;
    ret_t->dtype = dtype;
    ret_t->data = malloc(qg_bytes(ret_t));
    return ret_t->data ? QG_OK
                       : qg_fail(err, QG_ENOMEM, "no memory for %zu bytes", qg_bytes(ret_t));
}

static void cast(const struct qg_tensor *from, const struct qg_tensor *to)
{
    for (size_t i = 0; i < qg_count(from); i++)
        qg_put(to, i, qg_get(from, i));
}

/* x cast to dtype `as`, quantized, and dequantized to dtype y->dtype. */
static enum qg_status there_and_back(const struct qg_scheme *s, const char *params,
                                     const struct qg_tensor *x, enum qg_dtype as,
                                     const struct qg_tensor *y, struct qg_error *err)
{
    struct qg_call convert = {0}, dequant = {0};
    size_t rows = x->shape[0], cols = x->shape[1];
    enum qg_status status =
        qg_call_make(s, params, QG_CONVERT, QG_WEIGHT, as, 0, rows, cols, &convert, err);
    if (status == QG_OK)
        status =
            qg_call_make(s, params, QG_DEQUANT, QG_WEIGHT, y->dtype, 0, rows, cols, &dequant, err);
    if (status == QG_OK) {
        cast(x, &convert.args.in[0]);
        qg_definition(s, QG_WEIGHT, QG_CONVERT)(&convert.args);
        for (int i = 0; i < convert.args.n_out; i++)
            memcpy(dequant.args.in[i].data, convert.args.out[i].data,
                   qg_bytes(&convert.args.out[i]));
        qg_definition(s, QG_WEIGHT, QG_DEQUANT)(&dequant.args);
        cast(&dequant.args.out[0], y);
    }
    qg_call_free(&convert);
    qg_call_free(&dequant);
    return status;
}

/* axolotl's _simulate_nf4_roundtrip: bitsandbytes' defaults in binary32. */
static enum qg_status nf4_there_and_back(const struct qg_tensor *x, const struct qg_tensor *y,
                                         struct qg_error *err)
{
    struct qg_tensor wide;
    if (tensor_alloc(&wide, x, QG_F32, err) != QG_OK)
        return err->status;
    enum qg_status status =
        there_and_back(qg_scheme_find("nf4-bnb-double"), "", x, QG_F32, &wide, err);
    cast(&wide, y);
    free(wide.data);
    return status;
}

enum qg_status qg_merge_round_trip(const struct qg_tensor *w, struct qg_error *err)
{
    struct qg_tensor flat = {.dtype = w->dtype, .rank = 2, .data = w->data};
    flat.shape[1] = w->rank ? w->shape[w->rank - 1] : 1;
    flat.shape[0] = qg_count(w) / flat.shape[1];
    return nf4_there_and_back(&flat, &flat, err);
}

/* --- one matrix ------------------------------------------------------------------------------ */

/* The dtypes of merging into a quantized base, see schemes/layers/merge.c. */
struct stages {
    enum qg_dtype quantized, seen; /* the weight as it was quantized, and its dequantized form */
    enum qg_dtype sum;             /* W + D */
    enum qg_dtype again, out;      /* the sum as it is quantized, and its dequantized form */
    bool bitsandbytes;
};

static struct stages stages_of(const struct qg_scheme *s, enum qg_dtype w, enum qg_dtype adapter,
                               bool dora)
{
    enum qg_dtype wide = dora || w == adapter ? w : QG_F32;
    if (strcmp(s->name, "llm-int8") == 0)
        return (struct stages){QG_F16, QG_F32, dora ? QG_F32 : adapter, QG_F16, QG_F32, true};
    if (strncmp(s->name, "nf4-bnb", 7) == 0 || strcmp(s->name, "fp4-bnb") == 0)
        return (struct stages){w, w, wide, wide, wide, true};
    return (struct stages){w, w, w, w, w, false};
}

struct matrix {
    const struct qg_merge *how;
    const struct qg_adapter_pair *pair;
    const struct qg_tensor *w; /* as stored */
    struct stages stages;
    struct qg_tensor seen;   /* W^ */
    struct qg_tensor into;   /* W0: what the delta is added to */
    struct qg_tensor merged; /* M */
    size_t n, k;
};

/* Where element (n, k) of [N,K] is stored. */
static size_t place(const struct matrix *x, size_t n, size_t k)
{
    return x->how->fan_in_fan_out ? k * x->n + n : n * x->k + k;
}

/* The layer that adds, and its parameters. */
static enum qg_status layer_args(const struct matrix *x, struct qg_args *a, enum qg_dtype dtype,
                                 struct qg_error *err)
{
    const struct qg_adapter_pair *p = x->pair;
    const char *name = x->how->way == QG_MERGE_ROUND_TRIP ? "merge-axolotl" : x->how->layer;
    const struct qg_layer *l = qg_layer_find(name);
    static const char *const dtypes[] = {[QG_F32] = "f32", [QG_BF16] = "bf16", [QG_F16] = "f16"};
    struct qg_tensor given[4] = {{.name = "w", .rank = 2, .shape = {x->n, x->k}}, p->a, p->b, p->m};
    char params[160], why[512];
    bool dtype_product = x->how->way == QG_MERGE_LEGACY && x->stages.bitsandbytes;
    snprintf(params, sizeof params, "s=%.17g adapter-dtype=%s%s%s", p->scale, dtypes[p->a.dtype],
             p->m.data ? " dora=on" : "", dtype_product ? " product=dtype" : "");
    *a = (struct qg_args){0};
    qg_layer_params_default(a, l);
    if (qg_layer_params_parse(a, l, params, err) != QG_OK)
        return err->status;
    if (!qg_layer_init(a, l, QG_FORWARD, dtype, given, p->m.data ? 4 : 3, why, sizeof why))
        return qg_fail(err, QG_EINVAL, "%s", why);
    return QG_OK;
}

/* y = x->into merged with the pair, in dtype y->dtype. */
static enum qg_status add(const struct matrix *x, const struct qg_tensor *y, struct qg_error *err)
{
    struct qg_args a;
    struct qg_call c;
    const struct qg_tensor *pair[] = {&x->pair->a, &x->pair->b, &x->pair->m};
    if (layer_args(x, &a, y->dtype, err) != QG_OK || qg_call_alloc(&c, &a, false, err) != QG_OK)
        return err->status;
    for (size_t n = 0; n < x->n; n++)
        for (size_t k = 0; k < x->k; k++)
            qg_put(&c.args.in[0], n * x->k + k, qg_get(&x->into, place(x, n, k)));
    for (int i = 1; i < c.args.n_in; i++)
        memcpy(c.args.in[i].data, pair[i - 1]->data, qg_bytes(&c.args.in[i]));
    a.layer->forward(&c.args);
    for (size_t n = 0; n < x->n; n++)
        for (size_t k = 0; k < x->k; k++)
            qg_put(y, place(x, n, k), qg_get(&c.args.out[0], n * x->k + k));
    qg_call_free(&c);
    return QG_OK;
}

/* W + D, quantized again. */
static enum qg_status add_and_quantize(const struct matrix *x, struct qg_error *err)
{
    struct qg_tensor sum = {0}, out = {0};
    enum qg_status status = tensor_alloc(&sum, x->w, x->stages.sum, err);
    if (status == QG_OK)
        status = tensor_alloc(&out, x->w, x->stages.out, err);
    if (status == QG_OK)
        status = add(x, &sum, err);
    if (status == QG_OK)
        status = there_and_back(x->how->scheme, x->how->params, &sum, x->stages.again, &out, err);
    if (status == QG_OK)
        cast(&out, &x->merged);
    free(sum.data);
    free(out.data);
    return status;
}

static enum qg_status merge(struct matrix *x, struct qg_error *err)
{
    const struct qg_merge *g = x->how;
    if (there_and_back(g->scheme, g->params, x->w, x->stages.quantized, &x->seen, err) != QG_OK)
        return err->status;
    switch (g->way) {
    case QG_MERGE_LEGACY:
        cast(&x->seen, &x->into);
        return add_and_quantize(x, err);
    case QG_MERGE_ROUND_TRIP:
        return nf4_there_and_back(x->w, &x->into, err) == QG_OK ? add(x, &x->merged, err)
                                                                : err->status;
    default:
        cast(x->w, &x->into);
        return add(x, &x->merged, err);
    }
}

/* --- what it costs --------------------------------------------------------------------------- */

static double square(const double *v, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += v[i] * v[i];
    return sum;
}

/* Row n of U: the trained matrix. */
static void trained_row(const struct matrix *x, size_t n, double *u)
{
    const struct qg_adapter_pair *p = x->pair;
    size_t rank = p->a.shape[0];
    for (size_t k = 0; k < x->k; k++)
        u[k] = qg_get(&x->seen, place(x, n, k));
    for (size_t r = 0; r < rank; r++) {
        double b = p->scale * (double)qg_get(&p->b, n * rank + r);
        for (size_t k = 0; k < x->k; k++)
            u[k] += b * (double)qg_get(&p->a, r * x->k + k);
    }
    if (!p->m.data)
        return;
    double factor = (double)qg_get(&p->m, n) / sqrt(square(u, x->k));
    for (size_t k = 0; k < x->k; k++)
        u[k] *= factor;
}

static double dot(const double *x, const double *y, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

/* Whether the delta in element k of row n arrives, and how much of it. */
static void add_element(const struct matrix *x, size_t n, size_t k, double u,
                        struct qg_merge_cost *c)
{
    size_t i = place(x, n, k);
    // The merged weight has been rounded to W's dtype: so must be what it is compared with.
    double without = qg_round(x->w->dtype, qg_get(&x->into, i));
    double moved = qg_get(&x->merged, i) - without, delta = u - qg_get(&x->seen, i);
    c->count++;
    c->delta += delta * delta;
    c->arrived += moved * delta;
    c->swallowed += delta != 0 && moved * delta < delta * delta / 2;
}

static void add_row(const struct matrix *x, size_t n, const double *u, double *error,
                    const double *tokens, struct qg_merge_cost *c)
{
    for (size_t k = 0; k < x->k; k++)
        error[k] = qg_get(&x->merged, place(x, n, k)) - u[k];
    double signal = square(u, x->k), noise = square(error, x->k);
    if (!isfinite(signal) || !isfinite(noise)) {
        c->left_out++;
        return;
    }
    c->signal += signal;
    c->noise += noise;
    for (size_t k = 0; k < x->k; k++)
        add_element(x, n, k, u[k], c);
    for (size_t t = 0; t < TOKENS; t++) {
        double y = dot(u, tokens + t * x->k, x->k), e = dot(error, tokens + t * x->k, x->k);
        c->out_signal += y * y;
        c->out_noise += e * e;
    }
}

static enum qg_status add_cost(const struct matrix *x, struct qg_merge_cost *c,
                               struct qg_error *err)
{
    double *room = malloc((2 + TOKENS) * x->k * sizeof *room);
    if (!room)
        return qg_fail(err, QG_ENOMEM, "no memory for %d rows of %zu", 2 + TOKENS, x->k);
    double *u = room, *error = room + x->k, *tokens = room + 2 * x->k;
    for (size_t i = 0; i < TOKENS * x->k; i++)
        tokens[i] = qg_rng_normal(SEED, 0, i);
    for (size_t n = 0; n < x->n; n++) {
        trained_row(x, n, u);
        add_row(x, n, u, error, tokens, c);
    }
    free(room);
    return QG_OK;
}

static enum qg_status check(const struct matrix *x, struct qg_error *err)
{
    const struct qg_tensor *a = &x->pair->a, *b = &x->pair->b;
    if (x->n != b->shape[0] || x->k != a->shape[1])
        return qg_fail(err, QG_EINVAL,
                       "the adapter's lora_B lora_A is [%zu,%zu], the weight is stored as "
                       "[%zu,%zu]%s: the adapter belongs to another model",
                       b->shape[0], a->shape[1], x->w->shape[0], x->w->shape[1],
                       x->how->fan_in_fan_out ? " (fan_in_fan_out)" : "");
    if (x->how->way == QG_MERGE_LEGACY && x->pair->m.data && !x->stages.bitsandbytes)
        return qg_fail(err, QG_EINVAL,
                       "DoRA into a base of '%s': peft's merge leaves the magnitudes out there; "
                       "merge into the unquantized base (--way base)",
                       x->how->scheme->name);
    if (x->how->way == QG_MERGE_BASE && x->pair->m.data &&
        strcmp(x->how->layer, "merge-unsloth") == 0)
        return qg_fail(err, QG_EINVAL, "unsloth's merge leaves DoRA's magnitudes out; use peft's");
    return QG_OK;
}

enum qg_status qg_merge_matrix(const struct qg_merge *g, const struct qg_adapter_pair *pair,
                               const struct qg_tensor *w, void *merged, struct qg_merge_cost *cost,
                               struct qg_error *err)
{
    struct matrix x = {.how = g, .pair = pair, .w = w, .merged = *w};
    x.merged.data = merged;
    x.n = w->shape[g->fan_in_fan_out];
    x.k = w->shape[!g->fan_in_fan_out];
    x.stages = stages_of(g->scheme, w->dtype, pair->a.dtype, pair->m.data != NULL);
    enum qg_status status = check(&x, err);
    if (status == QG_OK)
        status = tensor_alloc(&x.seen, w, x.stages.seen, err);
    if (status == QG_OK)
        status =
            tensor_alloc(&x.into, w, g->way == QG_MERGE_LEGACY ? x.stages.seen : w->dtype, err);
    if (status == QG_OK)
        status = merge(&x, err);
    if (status == QG_OK)
        status = add_cost(&x, cost, err);
    free(x.seen.data);
    free(x.into.data);
    return status == QG_OK ? QG_OK : qg_context(err, "%s", pair->module);
}

void qg_merge_cost_add(struct qg_merge_cost *c, const struct qg_merge_cost *other)
{
    c->count += other->count;
    c->swallowed += other->swallowed;
    c->left_out += other->left_out;
    c->signal += other->signal;
    c->noise += other->noise;
    c->delta += other->delta;
    c->arrived += other->arrived;
    c->out_signal += other->out_signal;
    c->out_noise += other->out_noise;
}

static double decibels(double signal, double noise)
{
    return signal > 0 && noise == 0 ? (double)INFINITY : 10 * log10(signal / noise);
}

struct qg_merge_figures qg_merge_figures(const struct qg_merge_cost *c)
{
    return (struct qg_merge_figures){
        .weight_db = decibels(c->signal, c->noise),
        .output_db = decibels(c->out_signal, c->out_noise),
        .delta_db = decibels(c->delta, c->noise),
        .swallowed = (double)c->swallowed / (double)c->count,
        .lost = 1 - c->arrived / c->delta,
    };
}
