/* SPDX-License-Identifier: MIT */
#include "harness/gap.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
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
    struct qg_call prepare, convert, dequant; /* none of a side without a scheme */
    struct qg_tensor w, prepared, converted;
};

static void pair_free(struct pair *p)
{
    qg_call_free(&p->prepare);
    qg_call_free(&p->convert);
    qg_call_free(&p->dequant);
}

static void run_pair(struct pair *p)
{
    if (p->convert.args.scheme)
        compute(&p->convert);
    if (p->prepare.args.scheme) {
        qg_call_learn(&p->prepare.args, &p->convert.args);
        compute(&p->prepare);
    }
    for (int i = 0; i < p->convert.args.n_out; i++)
        set_input(&p->dequant, i, p->convert.args.out[i].data);
    if (p->dequant.args.scheme)
        compute(&p->dequant);
}

static enum qg_status make(const struct qg_choice *c, enum qg_op op, enum qg_operand operand,
                           const struct qg_tensor *w, struct qg_call *ret_c, struct qg_error *err)
{
    return qg_call_make(c->scheme, c->params, op, operand, w->dtype, 0, w->shape[0], w->shape[1],
                        ret_c, err);
}

static enum qg_status pair_create(const struct qg_gap_sides *s, const struct qg_tensor *w,
                                  struct pair *ret_p, struct qg_error *err)
{
    struct pair p = {.w = *w, .prepared = *w, .converted = *w};
    if ((s->prepare.scheme &&
         make(&s->prepare, QG_FAKE_QUANT, s->operand, w, &p.prepare, err) != QG_OK) ||
        (s->convert.scheme &&
         (make(&s->convert, QG_CONVERT, s->operand, w, &p.convert, err) != QG_OK ||
          make(&s->convert, QG_DEQUANT, s->operand, w, &p.dequant, err) != QG_OK))) {
        pair_free(&p);
        return err->status;
    }
    if (s->prepare.scheme) {
        set_input(&p.prepare, 0, w->data);
        p.prepared = p.prepare.args.out[0];
    }
    if (s->convert.scheme) {
        set_input(&p.convert, 0, w->data);
        p.converted = p.dequant.args.out[0];
    }
    run_pair(&p);
    *ret_p = p;
    return QG_OK;
}

/* Both sides of one scheme. */
static struct qg_gap_sides sides_of(const struct qg_scheme *s, const char *params)
{
    struct qg_gap_sides both = {.prepare = {.scheme = s}, .operand = QG_WEIGHT};
    snprintf(both.prepare.params, sizeof both.prepare.params, "%s", params);
    both.convert = both.prepare;
    return both;
}

bool qg_gap_has(const struct qg_scheme *s)
{
    const struct qg_operand_def *w = &s->operand[QG_WEIGHT];
    return w->fake_quant && w->convert && w->dequant && s->matmul;
}

/* --- weights --------------------------------------------------------------------------------- */

static const struct qg_gap_sum no_sum = {.first = -1};

static void add_pair(const struct pair *p, struct qg_gap_sum *sum)
{
    const struct qg_tensor *a = &p->prepared, *b = &p->converted;
    for (size_t i = 0; i < qg_count(a); i++, sum->count++) {
        double x = qg_get(a, i), y = qg_get(b, i), e = x - y;
        sum->signal += x * x;
        sum->noise += e * e;
        if (x == y || (x != x && y != y))
            continue;
        if (sum->differ++ == 0)
            sum->first = (int64_t)sum->count;
    }
}

double qg_gap_db(const struct qg_gap_sum *sum)
{
    if (!isfinite(sum->signal) || !isfinite(sum->noise))
        return (double)NAN;
    return sum->noise == 0 ? (double)INFINITY : 10 * log10(sum->signal / sum->noise);
}

enum qg_status qg_gap_add(const struct qg_gap_sides *sides, const struct qg_tensor *w,
                          struct qg_gap_sum *sum, struct qg_error *err)
{
    struct pair p;
    if (pair_create(sides, w, &p, err) != QG_OK)
        return err->status;
    add_pair(&p, sum);
    pair_free(&p);
    return QG_OK;
}

static void put_sum(struct qg_gap *g, const struct qg_gap_sum *sum)
{
    g->count = sum->count;
    g->differ = sum->differ;
    g->first = sum->first;
    g->sqnr_db = qg_gap_db(sum);
}

/* Runs both paths again with the trace switched on for the first difference. */
static void look_closer(struct pair *p, size_t i, struct qg_gap_detail *d)
{
    *d = (struct qg_gap_detail){.row = i / p->w.shape[1], .col = i % p->w.shape[1]};
    d->prepare.index = d->convert.index = i;
    p->prepare.args.trace = &d->prepare;
    p->convert.args.trace = p->dequant.args.trace = &d->convert;
    run_pair(p);
    p->prepare.args.trace = p->convert.args.trace = p->dequant.args.trace = NULL;
    d->x = qg_get(&p->w, i);
    d->prepared = qg_get(&p->prepared, i);
    d->converted = qg_get(&p->converted, i);
}

/* What the pair would differ by with other sides; the best so far is the cause, when it is better
 * by 3 dB or more. */
static enum qg_status try_cause(const struct qg_gap_sides *other, const char *name,
                                const struct qg_tensor *w, double *best, struct qg_gap *g,
                                struct qg_error *err)
{
    struct qg_gap_sum sum = no_sum;
    enum qg_status status = qg_gap_add(other, w, &sum, err);
    if (status != QG_OK)
        return status == QG_EINVAL ? QG_OK : status; // refused: it is not that
    double db = qg_gap_db(&sum);
    if (!(db > *best))
        return QG_OK;
    *best = db;
    snprintf(g->cause, sizeof g->cause, "%s would make it %.4g dB (%.2f %% differ)", name, db,
             100.0 * (double)sum.differ / (double)sum.count);
    return QG_OK;
}

/* Looks in the traces of the first difference for a value of prepare's that convert rounded when it
 * stored it: "scale" beside "scale (stored)". */
static bool name_stored(const struct qg_gap_detail *d, struct qg_gap *g)
{
    for (int i = 0; i < d->prepare.n; i++)
        for (int j = 0; j < d->convert.n; j++) {
            char stored[64];
            const char *what = d->prepare.step[i].what;
            snprintf(stored, sizeof stored, "%s (stored)", what);
            if (strcmp(stored, d->convert.step[j].what) != 0 ||
                d->prepare.step[i].value == d->convert.step[j].value)
                continue;
            snprintf(g->cause, sizeof g->cause, "the %s is rounded when it is stored: %.9g, %.9g",
                     what, (double)d->prepare.step[i].value, (double)d->convert.step[j].value);
            return true;
        }
    return false;
}

/* The same weights held in dtype t. */
static enum qg_status try_dtype(const struct qg_gap_sides *sides, enum qg_dtype t,
                                const struct qg_tensor *w, double *best, struct qg_gap *g,
                                struct qg_error *err)
{
    struct qg_tensor cast = *w;
    char name[32];
    cast.dtype = t;
    cast.data = malloc(qg_bytes(&cast));
    if (!cast.data)
        return qg_fail(err, QG_ENOMEM, "no memory for '%s'", w->name);
    for (size_t i = 0; i < qg_count(w); i++)
        qg_put(&cast, i, qg_get(w, i));
    snprintf(name, sizeof name, "weights in %s", qg_dtype_name(t));
    enum qg_status status = try_cause(sides, name, &cast, best, g, err);
    free(cast.data);
    return status;
}

/* Tries every other choice of every choice parameter, one at a time; when none is the cause, the
 * prepare paths of all other schemes in the place of this one's, and weights in other dtypes. */
static enum qg_status name_cause(const struct qg_scheme *s, const char *params,
                                 const struct qg_tensor *w, const struct qg_gap_detail *detail,
                                 struct qg_gap *g, struct qg_error *err)
{
    const struct qg_scheme *t;
    double best = g->sqnr_db + 3;
    struct qg_gap_sides other;
    struct qg_args a = {.scheme = s};
    char text[192], name[96];
    for (int i = 0; s->params[i].name; i++)
        for (int c = 0; s->params[i].choices && s->params[i].choices[c]; c++) {
            snprintf(name, sizeof name, "%s=%s", s->params[i].name, s->params[i].choices[c]);
            qg_params_default(&a, s);
            if (qg_params_parse(&a, s, params, err) != QG_OK)
                return err->status;
            a.param[i] = c;
            qg_params_format(&a, text, sizeof text);
            other = sides_of(s, text);
            if (try_cause(&other, name, w, &best, g, err) != QG_OK)
                return err->status;
        }
    bool by_parameter = g->cause[0];
    for (size_t i = 0; !by_parameter && (t = qg_scheme_at(i)); i++) {
        const struct qg_operand_def *d = &t->operand[QG_WEIGHT];
        snprintf(name, sizeof name, "the prepare path of %s", t->name);
        other = sides_of(s, params);
        other.prepare = (struct qg_choice){.scheme = t};
        if (t != s && d->fake_quant && !d->learned &&
            try_cause(&other, name, w, &best, g, err) != QG_OK)
            return err->status;
    }
    other = sides_of(s, params);
    for (enum qg_dtype dtype = QG_F32; !by_parameter && dtype <= QG_F16; dtype++)
        if (dtype != w->dtype && try_dtype(&other, dtype, w, &best, g, err) != QG_OK)
            return err->status;
    if (!g->cause[0] && g->differ && !name_stored(detail, g))
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
    const struct qg_gap_sides sides = sides_of(s, params);
    struct qg_gap_sum sum = no_sum;
    struct pair p;
    if (pair_create(&sides, w, &p, err) != QG_OK)
        return err->status;
    add_pair(&p, &sum);
    put_sum(&g, &sum);
    if (detail && g.first >= 0)
        look_closer(&p, (size_t)g.first, detail);
    pair_free(&p);
    if (detail && g.differ && name_cause(s, params, w, detail, &g, err) != QG_OK)
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

/* From the prepared to the converted layer, one difference at a time: what each of them costs tells
 * where a gap comes from. */
enum stage {
    PREPARED,     /* fake-quantized weights and inputs, an ordinary linear */
    WITH_WEIGHTS, /* the same with the weights that convert stored */
    WITH_INPUTS,  /* and with inputs through the real quantizer */
    UNROUNDED,    /* and with both dequantized to binary32, not to bf16 */
    CONVERTED,    /* the scheme's own matmul */
    STAGES
};

/* Whether an operand's planes are the same for tensors of any dtype, so that they can be
 * dequantized to binary32. */
static bool planes_keep_dtype(const struct qg_args *convert)
{
    if (convert->scheme->dtypes && !(convert->scheme->dtypes >> QG_F32 & 1))
        return false;
    for (int i = 0; i < convert->n_out; i++) {
        const struct qg_plane *p = &convert->scheme->operand[convert->operand].planes[i];
        if (p->dtype == QG_INPUT || p->dtype_param)
            return false;
    }
    return true;
}

/* What a converted tensor stands for, in dtype t. */
static enum qg_status dequantize(const struct qg_args *convert, const char *params, enum qg_dtype t,
                                 struct qg_call *ret_c, struct qg_error *err)
{
    if (!planes_keep_dtype(convert))
        t = convert->dtype;
    if (qg_call_make(convert->scheme, params, QG_DEQUANT, convert->operand, t, 0, convert->rows,
                     convert->cols, ret_c, err))
        return err->status;
    for (int i = 0; i < convert->n_out; i++)
        set_input(ret_c, i, convert->out[i].data);
    compute(ret_c);
    return QG_OK;
}

/* The input as the layer of that stage sees it, in out[0] of a call that the caller frees; no call
 * (NULL scheme) when it stays as it is. */
static enum qg_status quantized_input(const struct qg_scheme *s, const char *params,
                                      enum stage stage, const struct qg_tensor *x,
                                      struct qg_call *ret_c, struct qg_error *err)
{
    const struct qg_operand_def *d = &s->operand[QG_ACTIVATION];
    bool real = stage >= WITH_INPUTS && d->convert && d->dequant;
    struct qg_call c;
    *ret_c = (struct qg_call){0};
    if (!real && !d->fake_quant)
        return QG_OK;
    if (qg_call_make(s, params, real ? QG_CONVERT : QG_FAKE_QUANT, QG_ACTIVATION, QG_BF16, 0, 1,
                     x->shape[1], &c, err))
        return err->status;
    set_input(&c, 0, x->data);
    compute(&c);
    if (!real) {
        *ret_c = c;
        return QG_OK;
    }
    enum qg_dtype t = stage == UNROUNDED ? QG_F32 : QG_BF16;
    enum qg_status status = dequantize(&c.args, params, t, ret_c, err);
    qg_call_free(&c);
    return status;
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

/* One layer before the last stage: dequantized operands, an ordinary linear; or, prepared, the
 * quantized matmul where upstream trains on that. */
static enum qg_status plain_layer(const struct pair *p, const char *params, enum stage stage,
                                  qg_bf16 *h, struct qg_error *err)
{
    const struct qg_args *w = &p->convert.args;
    if (stage == PREPARED && w->scheme->trains_on_matmul)
        return converted_layer(p, params, h, err);
    struct qg_tensor x = {"x", QG_BF16, 2, {1, w->cols}, h};
    struct qg_call input, wide = {0};
    qg_bf16 y[QG_MODEL_WIDTH];
    if (stage == UNROUNDED && dequantize(w, params, QG_F32, &wide, err) != QG_OK)
        return err->status;
    enum qg_status status = quantized_input(w->scheme, params, stage, &x, &input, err);
    if (status == QG_OK) {
        const struct qg_tensor *weights = stage == PREPARED    ? &p->prepared
                                          : stage == UNROUNDED ? &wide.args.out[0]
                                                               : &p->converted;
        linear(input.args.scheme ? &input.args.out[0] : &x, weights, y);
        memcpy(h, y, w->rows * sizeof *y);
        qg_call_free(&input);
    }
    qg_call_free(&wide);
    return status;
}

static struct qg_tensor model_output(qg_bf16 *h)
{
    return (struct qg_tensor){"y", QG_BF16, 1, {QG_MODEL_WIDTH}, h};
}

/* Says which of the stages close the gap, each by 3 dB or more, and whether something is left. */
static void name_stages(qg_bf16 h[STAGES][QG_MODEL_WIDTH], struct qg_gap *model)
{
    static const char *const words[STAGES] = {[WITH_WEIGHTS] = "convert's weights",
                                              [WITH_INPUTS] = "convert's activations",
                                              [UNROUNDED] = "operands not rounded to bf16"};
    struct qg_tensor y = model_output(h[CONVERTED]);
    double before = model->sqnr_db;
    size_t n = 0, room = sizeof model->cause;
    for (int stage = WITH_WEIGHTS; stage < CONVERTED; stage++) {
        struct qg_tensor x = model_output(h[stage]);
        double db = qg_sqnr_db(&x, &y, NULL);
        if (!isfinite(before) || !(db >= before + 3) || n >= room)
            continue;
        n += (size_t)snprintf(model->cause + n, room - n, "%s%s %s %.4g dB", n ? ", with " : "",
                              words[stage], n ? "as well" : "would make it", db);
        before = db;
    }
    if (isfinite(before) && n < room)
        snprintf(model->cause + n, room - n, "%sthe matmul's own roundings%s", n ? "; " : "",
                 n ? " are the rest" : "");
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
    const struct qg_gap_sides sides = sides_of(s, params);
    struct qg_gap_sum sum = no_sum;
    qg_bf16 h[STAGES][QG_MODEL_WIDTH];
    for (int stage = 0; stage < STAGES; stage++)
        memcpy(h[stage], m->x, sizeof h[stage]);
    enum qg_status status = QG_OK;
    for (int l = 0; l < QG_MODEL_LAYERS && status == QG_OK; l++) {
        struct qg_tensor w = {"w", QG_BF16, 2, {m->rows[l], m->cols[l]}, m->weight[l]};
        struct pair p;
        if ((status = pair_create(&sides, &w, &p, err)) != QG_OK)
            break;
        bool was_equal = weights.first < 0;
        uint64_t before = weights.count;
        add_pair(&p, &sum);
        put_sum(&weights, &sum);
        for (int stage = PREPARED; stage < CONVERTED && status == QG_OK; stage++)
            if (detail || stage == PREPARED)
                status = plain_layer(&p, params, (enum stage)stage, h[stage], err);
        if (status == QG_OK)
            status = converted_layer(&p, params, h[CONVERTED], err);
        if (detail && was_equal && weights.first >= 0)
            look_closer(&p, (size_t)(weights.first - (int64_t)before), detail);
        pair_free(&p);
        if (status == QG_OK && detail && was_equal && weights.first >= 0)
            status = name_cause(s, params, &w, detail, &weights, err);
    }
    qg_torch_model_free(&m);
    if (status != QG_OK)
        return status;
    struct qg_tensor a = model_output(h[PREPARED]), b = model_output(h[CONVERTED]);
    struct qg_diff d = qg_no_diff;
    qg_compare(&a, &b, NULL, NULL, &d);
    model.count = d.count;
    model.differ = d.mismatches;
    model.first = d.first_mismatch;
    model.sqnr_db = qg_sqnr_db(&a, &b, NULL);
    model.sqnr_bf16_db = (double)qg_compute_error_bf16(h[PREPARED], h[CONVERTED], QG_MODEL_WIDTH);
    if (detail)
        name_stages(h, &model);
    *ret_model = model;
    *ret_weights = weights;
    return QG_OK;
}
