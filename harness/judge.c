/* SPDX-License-Identifier: MIT */
#include "harness/judge.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOSTLY 0.9 /* of the results (MISTRUSTED), of the bound (MARGINAL) */
#define FEW    10  /* results that are all the same show nothing yet */

/* --- names ----------------------------------------------------------------------------------- */

/* The names and numbers of a case, before anything has run. */
static enum qg_status init_record(struct qg_record *r, const struct qg_case *c,
                                  struct qg_error *err)
{
    struct qg_args a = {.scheme = c->scheme};
    memcpy(a.param, c->param, sizeof a.param);
    *r = (struct qg_record){.m = c->m,
                            .rows = c->rows,
                            .cols = c->cols,
                            .seed = c->seed,
                            .first_bad = -1,
                            .max_ulp = NAN,
                            .bound_used = NAN,
                            .sqnr_db = NAN,
                            .nmse = NAN,
                            .bytes = NAN,
                            .flops = NAN,
                            .warm = qg_bench_none.warm,
                            .cold = qg_bench_none.cold,
                            .overhead_s = NAN};
    snprintf(r->scheme, sizeof r->scheme, "%s", c->scheme->name);
    snprintf(r->op, sizeof r->op, "%s", qg_op_name(c->kernel->op));
    snprintf(r->operand, sizeof r->operand, "%s", qg_operand_name(c->kernel->operand));
    snprintf(r->backend, sizeof r->backend, "%s", c->kernel->backend);
    snprintf(r->variant, sizeof r->variant, "%s", c->kernel->variant);
    snprintf(r->dtype, sizeof r->dtype, "%s", qg_dtype_name(c->dtype));
    static_assert(sizeof r->data >= QG_DATA_SIZE, "a record holds the names whole");
    qg_case_data(c, r->data);
    qg_params_format(&a, r->params, sizeof r->params);
    return qg_case_format(c, r->spelling, sizeof r->spelling, err);
}

/* The least that a call moves and computes, of tensors that need not be there. */
static void measure_size(struct qg_record *r, const struct qg_args *a)
{
    r->bytes = 0;
    for (int i = 0; i < a->n_in; i++)
        r->bytes += (double)qg_bytes(&a->in[i]);
    for (int i = 0; i < a->n_out; i++)
        r->bytes += (double)qg_bytes(&a->out[i]);
    if (qg_is_product(a->op))
        r->flops =
            2.0 * (double)a->m *
            ((double)a->rows * (double)a->cols + (double)a->rank * (double)(a->rows + a->cols));
}

enum qg_status qg_judge_name(const struct qg_case *c, struct qg_record *ret, struct qg_error *err)
{
    struct qg_args a;
    if (init_record(ret, c, err) != QG_OK)
        return err->status;
    if (qg_case_args(c, &a, ret->reason, sizeof ret->reason))
        measure_size(ret, &a);
    return QG_OK;
}

/* --- input ----------------------------------------------------------------------------------- */

static double sigma_of(enum qg_operand operand)
{
    return operand == QG_ACTIVATION ? 1.0 : 0.02;
}

/* The tensor that is quantized: the file's values, or the fill's. */
static enum qg_status fill_original(const struct qg_case *c, const struct qg_args *a,
                                    const struct qg_tensor *t, struct qg_error *err)
{
    if (c->values)
        return qg_case_load(c, t->data, err);
    qg_fill_again(c->fill, c->seed, qg_group(a), sigma_of(a->operand), t);
    return QG_OK;
}

/* x of a product, a, b and s of an adapter, g of the gradient. Rows of g take turns at sigma 16,
 * 256, 4096 and 1: gradients span orders of magnitude, and where they pass through an 8-bit cast
 * small ones become zero. */
static void fill_beside(const struct qg_case *c, const struct qg_args *a, const struct qg_tensor *t,
                        double sigma)
{
    const struct qg_fill *f = c->fill && c->fill->distribution ? c->fill : qg_fill_find("normal");
    qg_fill_again(f, c->seed, qg_group(a), sigma, t);
    for (size_t i = 0; a->op == QG_FAKE_QUANT_GRAD && i < qg_count(t); i++)
        qg_put(t, i, ldexpf(qg_get(t, i), 4 * (int)((i / a->cols + 1) % 4)));
}

/* The convert call that stands before this case's own: j->source. */
static enum qg_status make_source(const struct qg_case *c, struct qg_judgement *j,
                                  struct qg_error *err)
{
    struct qg_args a = {.scheme = c->scheme};
    char why[256];
    memcpy(a.param, c->param, sizeof a.param);
    if (!qg_args_init(&a, c->scheme, QG_CONVERT, j->got.args.operand, c->dtype, 0, c->rows, c->cols,
                      why, sizeof why))
        return qg_fail(err, QG_EINVAL, "%s", why);
    return qg_call_alloc(&j->source, &a, false, err);
}

/* Dequant and matmul take what the scheme's own convert makes of the original tensor. */
static enum qg_status convert_original(const struct qg_case *c, struct qg_judgement *j,
                                       struct qg_error *err)
{
    const struct qg_args *g = &j->got.args;
    if (make_source(c, j, err) != QG_OK)
        return err->status;
    j->original = j->source.args.in[0];
    if (qg_is_product(g->op))
        j->original.name = "w"; // in a product "x" is the activation: not the same numbers
    if (fill_original(c, &j->source.args, &j->original, err) != QG_OK)
        return err->status;
    qg_definition(c->scheme, g->operand, QG_CONVERT)(&j->source.args);
    for (int i = 0; i < j->source.args.n_out; i++)
        memcpy(g->in[qg_is_product(g->op) + i].data, j->source.args.out[i].data,
               qg_bytes(&j->source.args.out[i]));
    return QG_OK;
}

/* Learned scales begin as what convert finds in the tensor. */
static enum qg_status fill_learned(const struct qg_case *c, struct qg_judgement *j,
                                   struct qg_error *err)
{
    const struct qg_args *g = &j->got.args;
    if (make_source(c, j, err) != QG_OK)
        return err->status;
    memcpy(j->source.args.in[0].data, j->original.data, qg_bytes(&j->original));
    qg_definition(c->scheme, g->operand, QG_CONVERT)(&j->source.args);
    qg_call_learn(g, &j->source.args);
    return QG_OK;
}

static enum qg_status fill_inputs(const struct qg_case *c, struct qg_judgement *j,
                                  struct qg_error *err)
{
    struct qg_args *g = &j->got.args;
    if (qg_is_product(g->op))
        fill_beside(c, g, &g->in[0], 1.0);
    for (int i = g->n_in - 3; g->op == QG_LORA && i < g->n_in; i++)
        fill_beside(c, g, &g->in[i], i < g->n_in - 1 ? sigma_of(QG_WEIGHT) : 1.0);
    if (qg_is_product(g->op) || g->op == QG_DEQUANT)
        return convert_original(c, j, err);
    j->original = g->in[0];
    if (fill_original(c, g, &g->in[0], err) != QG_OK)
        return err->status;
    if (g->op == QG_FAKE_QUANT_GRAD)
        fill_beside(c, g, &g->in[1], 1.0);
    return c->scheme->operand[g->operand].learned && g->op != QG_CONVERT ? fill_learned(c, j, err)
                                                                         : QG_OK;
}

/* --- expected -------------------------------------------------------------------------------- */

static void run_definition(const struct qg_case *c, struct qg_judgement *j)
{
    struct qg_args *w = &j->want.args;
    for (int i = 0; i < w->n_in; i++)
        w->in[i].data = j->got.args.in[i].data;
    qg_kernel_claims(c->kernel, w);
    qg_definition(c->scheme, w->operand, w->op)(w);
}

/* --- uniformity ------------------------------------------------------------------------------ */

struct values { /* the elements of an output; of convert's first output the codes, one by one */
    const struct qg_args *a;
    const struct qg_tensor *t;
    bool codes;
    size_t n;
};

/* Whether the call writes codes. */
static bool has_codes(const struct qg_args *a)
{
    return a->op == QG_CONVERT && a->scheme->operand[a->operand].code_bits;
}

static struct values values_of(const struct qg_args *a, const struct qg_tensor *t)
{
    bool floats = t->dtype == QG_E4M3 || t->dtype == QG_E5M2;
    bool codes = has_codes(a) && t == &a->out[0] && !floats;
    return (struct values){a, t, codes, codes ? a->rows * a->cols : qg_count(t)};
}

static float value_at(const struct values *v, size_t i)
{
    return v->codes ? (float)qg_code(v->a, i) : qg_get(v->t, i);
}

/* The largest and smallest value that an element can take; of codes only integers in two's
 * complement are known to have such. */
static bool saturated(const struct qg_args *a, const struct values *v, float x)
{
    enum qg_dtype t = v->t->dtype;
    const struct qg_operand_def *d = &a->scheme->operand[a->operand];
    float top = t == QG_F16 ? 65504.0f : t == QG_BF16 ? 0x1.fep127f : 0x1.fffffep127f;
    if (!v->codes)
        return fabsf(x) == top;
    unsigned code = (unsigned)x & ((1u << d->code_bits) - 1u);
    return !d->code &&
           (code == 1u << (d->code_bits - 1) || code == (1u << (d->code_bits - 1)) - 1u);
}

/* The most frequent value if it fills more than half of the elements (Boyer and Moore's vote). */
static float majority(const struct values *v)
{
    float candidate = 0;
    size_t votes = 0;
    for (size_t i = 0; i < v->n; i++) {
        float x = value_at(v, i);
        if (votes == 0)
            candidate = x;
        votes = x == candidate ? votes + 1 : votes - (votes > 0);
    }
    return candidate;
}

/* Why agreement on this output shows little; false when it does show something. */
static bool uniform(const struct qg_args *a, const struct qg_tensor *t, char *why, size_t size)
{
    struct values v = values_of(a, t);
    size_t same = 0, strange = 0, at_end = 0;
    float most = majority(&v);
    for (size_t i = 0; i < v.n; i++) {
        float x = value_at(&v, i);
        same += x == most;
        strange += !isfinite(x);
        at_end += saturated(a, &v, x);
    }
    const double limit = MOSTLY * (double)v.n;
    if ((double)strange > limit)
        snprintf(why, size, "%zu of %zu results are not finite", strange, v.n);
    else if ((double)same > limit && v.n > FEW)
        snprintf(why, size, "%zu of %zu results are %g", same, v.n, (double)most);
    else if ((double)at_end > limit)
        snprintf(why, size, "%zu of %zu results are saturated", at_end, v.n);
    else
        return false;
    return true;
}

static bool same_bytes(const struct qg_tensor *a, const struct qg_tensor *b)
{
    return a->dtype == b->dtype && qg_bytes(a) == qg_bytes(b) &&
           memcmp(a->data, b->data, qg_bytes(a)) == 0;
}

/* --- quality --------------------------------------------------------------------------------- */

/* y against the exact product of the unquantized operands. All m rows of x go side by side, so that
 * their sums, each in the order of k, are vectors to the compiler. */
static enum qg_status matmul_sqnr(const struct qg_judgement *j, double *sqnr, double *nmse,
                                  struct qg_error *err)
{
    const struct qg_args *g = &j->got.args;
    double signal = 0, noise = 0, *x = malloc((g->cols + 1) * g->m * sizeof *x);
    if (!x)
        return qg_fail(err, QG_ENOMEM, "no memory for %zu x %zu numbers", g->m, g->cols);
    double *exact = x + g->cols * g->m;
    for (size_t i = 0; i < g->m * g->cols; i++)
        x[i % g->cols * g->m + i / g->cols] = qg_get(&g->in[0], i);
    for (size_t n = 0; n < g->rows; n++) {
        memset(exact, 0, g->m * sizeof *exact);
        for (size_t k = 0; k < g->cols; k++) {
            const double w = qg_get(&j->original, n * g->cols + k);
            for (size_t m = 0; m < g->m; m++)
                exact[m] += x[k * g->m + m] * w;
        }
        for (size_t m = 0; m < g->m; m++) {
            const double e = exact[m] - qg_get(&g->out[0], m * g->rows + n);
            signal += exact[m] * exact[m];
            noise += e * e;
        }
    }
    free(x);
    const bool finite = isfinite(noise) && isfinite(signal) && signal != 0;
    *nmse = noise / signal;
    *sqnr = !finite ? (double)NAN : noise == 0 ? (double)INFINITY : 10 * log10(signal / noise);
    return QG_OK;
}

/* What the kernel's planes stand for, by the definition of dequant, against x. */
static enum qg_status convert_sqnr(struct qg_judgement *j, double *sqnr, double *nmse,
                                   struct qg_error *err)
{
    const struct qg_args *g = &j->got.args;
    struct qg_args a = {.scheme = g->scheme};
    struct qg_call d;
    char why[256];
    memcpy(a.param, g->param, sizeof a.param);
    if (!qg_args_init(&a, g->scheme, QG_DEQUANT, g->operand, g->dtype, 0, g->rows, g->cols, why,
                      sizeof why))
        return QG_OK; // the scheme has no dequant for it: no number
    if (qg_call_alloc(&d, &a, false, err) != QG_OK)
        return err->status;
    for (int i = 0; i < d.args.n_in; i++)
        memcpy(d.args.in[i].data, g->out[i].data, qg_bytes(&g->out[i]));
    qg_definition(g->scheme, g->operand, QG_DEQUANT)(&d.args);
    *sqnr = qg_sqnr_db(&j->original, &d.args.out[0], nmse);
    qg_call_free(&d);
    return QG_OK;
}

/* The distance of neighbouring codes at every element of y: dequant of the lowest code against that
 * of 0, with the scales that convert finds. False when the codes are not a uniform grid (e4m3) or
 * the scheme cannot say. */
static bool measure_steps(const struct qg_judgement *j, struct qg_call *planes, struct qg_call *low,
                          struct qg_call *zero)
{
    const struct qg_args *g = &j->got.args;
    int bits = g->scheme->operand[g->operand].code_bits;
    struct qg_call *const calls[] = {planes, low, zero};
    const int code[] = {0, -(1 << (bits - 1)), 0};
    struct qg_error err;
    char why[256];
    for (int i = 0; i < 3; i++) {
        struct qg_args a = {.scheme = g->scheme};
        memcpy(a.param, g->param, sizeof a.param);
        if (!qg_args_init(&a, g->scheme, i ? QG_DEQUANT : QG_CONVERT, g->operand, g->dtype, 0,
                          g->rows, g->cols, why, sizeof why) ||
            qg_call_alloc(calls[i], &a, false, &err) != QG_OK)
            return false;
        struct qg_tensor *codes = i ? &calls[i]->args.in[0] : &calls[i]->args.out[0];
        if (g->scheme->operand[g->operand].code || (codes->dtype != QG_U8 && codes->dtype != QG_I8))
            return false;
        if (i == 0)
            calls[i]->args.in[0].data = g->in[0].data;
        for (int p = 0; i && p < planes->args.n_out; p++)
            memcpy(calls[i]->args.in[p].data, planes->args.out[p].data,
                   qg_bytes(&planes->args.out[p]));
        if (i)
            memset(codes->data, codes->dtype == QG_U8 ? (code[i] & 15) * 17 : code[i],
                   qg_bytes(codes));
        qg_definition(g->scheme, g->operand, calls[i]->args.op)(&calls[i]->args);
    }
    return true;
}

/* Where y lies between the codes: see error_histogram in result.h. */
static void measure_errors(struct qg_judgement *j)
{
    struct qg_call planes = {0}, low = {0}, zero = {0};
    const struct qg_args *g = &j->got.args;
    const int half = QG_HISTOGRAM_BINS / 2;
    int bits = g->scheme->operand[g->operand].code_bits;
    bool known = measure_steps(j, &planes, &low, &zero);
    for (size_t i = 0; known && i < qg_count(&g->out[0]); i++) {
        double span = (double)qg_get(&zero.args.out[0], i) - qg_get(&low.args.out[0], i);
        double error = (double)qg_get(&g->in[0], i) - qg_get(&g->out[0], i);
        double bin = floor(error / ldexp(fabs(span), 1 - bits) * half) + half;
        if (bin == bin)
            j->record.error_histogram[(int)fmin(fmax(bin, 0), QG_HISTOGRAM_BINS - 1)]++;
    }
    qg_call_free(&planes);
    qg_call_free(&low);
    qg_call_free(&zero);
}

static enum qg_status measure_quality(struct qg_judgement *j, struct qg_error *err)
{
    const struct qg_args *g = &j->got.args;
    struct qg_record *r = &j->record;
    switch (g->op) {
    case QG_CONVERT:
        return convert_sqnr(j, &r->sqnr_db, &r->nmse, err);
    case QG_MATMUL:
        return matmul_sqnr(j, &r->sqnr_db, &r->nmse, err);
    case QG_FAKE_QUANT_GRAD:
    case QG_LORA:
        return QG_OK;
    case QG_FAKE_QUANT:
        measure_errors(j);
        // fall through
    default:
        r->sqnr_db = qg_sqnr_db(&j->original, &g->out[0], &r->nmse);
        return QG_OK;
    }
}

static void hash_tensors(struct qg_judgement *j)
{
    const struct qg_args *g = &j->got.args;
    struct qg_record *r = &j->record;
    r->input_hash = r->output_hash = QG_HASH_START;
    for (int i = 0; i < g->n_in; i++)
        r->input_hash = qg_hash(r->input_hash, g->in[i].data, qg_bytes(&g->in[i]));
    for (int i = 0; i < g->n_out; i++)
        r->output_hash = qg_hash_tensor(r->output_hash, &g->out[i]);
}

/* --- verdict --------------------------------------------------------------------------------- */

static void compare_outputs(const struct qg_case *c, struct qg_judgement *j, struct qg_diff *d)
{
    const struct qg_args *w = &j->want.args, *g = &j->got.args;
    bool bounded = c->kernel->claim == QG_WITHIN_BOUND && w->exact;
    *d = qg_no_diff;
    j->wrong_out = -1;
    for (int i = 0; i < g->n_out; i++) {
        uint64_t before = d->wrong, at = d->count;
        qg_compare(&w->out[i], &g->out[i], bounded ? w->exact + at : NULL,
                   bounded ? w->bound + at : NULL, d);
        if (before == 0 && d->wrong > 0) {
            j->wrong_out = i;
            j->wrong_at = (size_t)d->first_wrong - at;
        }
    }
}

static void describe_wrong(struct qg_judgement *j, const struct qg_diff *d)
{
    struct qg_record *r = &j->record;
    const struct qg_tensor *w = &j->want.args.out[j->wrong_out],
                           *g = &j->got.args.out[j->wrong_out];
    snprintf(r->reason, sizeof r->reason,
             "%llu of %llu elements are wrong, first '%s'[%zu]: got %.9g, want %.9g%s",
             (unsigned long long)d->wrong, (unsigned long long)d->count, w->name, j->wrong_at,
             (double)qg_get(g, j->wrong_at), (double)qg_get(w, j->wrong_at),
             isnan(d->bound_used) ? "" : " (or within its bound)");
}

/* Agreement that shows little: MISTRUSTED unless scheme or fill announce it. */
static void mistrust(struct qg_record *r, const char *why, const char *excuse)
{
    r->verdict = excuse ? QG_PASS : QG_MISTRUSTED;
    snprintf(r->reason, sizeof r->reason, "%s%s%s", why, excuse ? "; as expected: " : "",
             excuse ? excuse : "");
}

/* The verdict on a kernel whose results are not wrong. */
static void doubt(struct qg_judgement *j, const struct qg_case *c, const struct qg_diff *d)
{
    const struct qg_args *g = &j->got.args;
    struct qg_record *r = &j->record;
    const char *scheme = c->scheme->uniform ? c->scheme->uniform(g) : NULL;
    const char *excuse = c->fill && c->fill->degenerate ? c->fill->degenerate : scheme;
    char why[160];
    if (uniform(g, &g->out[0], why, sizeof why)) {
        mistrust(r, why, excuse);
    } else if ((double)d->unjudged > MOSTLY * (double)d->count) {
        mistrust(r, "most results have no finite bound", excuse);
    } else if ((g->op == QG_FAKE_QUANT || g->op == QG_DEQUANT) &&
               same_bytes(&j->original, &g->out[0])) {
        mistrust(r, "the result is the unquantized input itself", scheme);
    } else if (d->bound_used > MOSTLY) {
        r->verdict = QG_MARGINAL;
        snprintf(r->reason, sizeof r->reason, "%.1f %% of the proved bound is used",
                 100 * d->bound_used);
    }
}

static void judge_outputs(const struct qg_case *c, struct qg_judgement *j)
{
    struct qg_record *r = &j->record;
    struct qg_diff d;
    compare_outputs(c, j, &d);
    r->count = d.count;
    r->mismatches = d.mismatches;
    r->class_mismatches = d.class_mismatches;
    r->first_bad = d.first_wrong;
    r->max_ulp = d.max_ulp;
    r->bound_used = d.bound_used;
    if (has_codes(&j->got.args)) {
        r->codes = (uint64_t)j->got.args.rows * j->got.args.cols;
        for (size_t i = 0; i < r->codes; i++)
            r->codes_changed += !qg_same_code(&j->want.args, &j->got.args, i);
    }
    if (r->verdict != QG_PASS)
        return;
    if (d.wrong == 0) {
        doubt(j, c, &d);
        return;
    }
    r->verdict = QG_FAIL;
    describe_wrong(j, &d);
}

/* Says which samples of a timing do not count. */
static void note_discarded(struct qg_record *r, const char *kind, const struct qg_timing *t)
{
    const size_t n = strlen(r->reason);
    const struct qg_conditions *c = &t->under;
    if (!c->discarded)
        return;
    snprintf(r->reason + n, sizeof r->reason - n,
             "%s%s%u of %u %s samples discarded: the device had lowered its clocks (%s)",
             n ? "; " : "", t->samples ? "" : "not timed: ", c->discarded,
             c->discarded + t->samples, kind, c->lowered_by);
}

/* Why there are fewer times than asked for, behind what else there is to say. */
static void note_times(struct qg_record *r, const struct qg_bench_result *t)
{
    const size_t n = strlen(r->reason);
    if (t->untimed.text[0] && t->untimed.cause != QG_CAUSE_KERNEL)
        snprintf(r->reason + n, sizeof r->reason - n, "%snot timed: %s", n ? "; " : "",
                 t->untimed.text);
    if (t->untimed.text[0])
        return;
    note_discarded(r, "warm", &t->warm);
    note_discarded(r, "cold", &t->cold);
}

/* Everything after the kernel has run. */
static enum qg_status conclude(const struct qg_case *c, const struct qg_trial *trial,
                               struct qg_judgement *j, struct qg_error *err)
{
    struct qg_record *r = &j->record;
    r->verdict = trial->verdict;
    snprintf(r->reason, sizeof r->reason, "%s", trial->reason);
    if (trial->verdict == QG_SKIP)
        return QG_OK;
    snprintf(r->algorithm, sizeof r->algorithm, "%s", trial->choice.text);
    hash_tensors(j);
    if (trial->verdict == QG_CRASH || trial->verdict == QG_TIMEOUT ||
        (trial->device_failed && trial->verdict != QG_PASS))
        return QG_OK; // what its outputs hold means nothing
    judge_outputs(c, j);
    r->warm = j->times.warm;
    r->cold = j->times.cold;
    r->overhead_s = j->times.overhead_s;
    note_times(r, &j->times);
    return measure_quality(j, err);
}

enum qg_status qg_judge(const struct qg_case *c, const struct qg_bench *b, double timeout_s,
                        struct qg_judgement *ret, struct qg_error *err)
{
    struct qg_args a;
    struct qg_trial trial;
    *ret = (struct qg_judgement){.wrong_out = -1, .times = qg_bench_none};
    if (init_record(&ret->record, c, err) != QG_OK)
        return err->status;
    if (!qg_case_args(c, &a, ret->record.reason, sizeof ret->record.reason)) {
        ret->record.verdict = QG_SKIP;
        return QG_OK;
    }
    measure_size(&ret->record, &a);
    if (!qg_kernel_runs(c->kernel, &a, ret->record.reason, sizeof ret->record.reason)) {
        ret->record.verdict = QG_SKIP;
        return QG_OK;
    }
    ret->record.reason[0] = '\0';
    if (!c->fill && !c->values)
        return qg_fail(err, QG_EINVAL, "the case has no tensor: bind one first");
    if (qg_call_alloc(&ret->got, &a, false, err) != QG_OK ||
        qg_call_alloc(&ret->want, &a, true, err) != QG_OK || fill_inputs(c, ret, err) != QG_OK)
        return err->status;
    run_definition(c, ret);
    struct qg_bench bench = *b;
    bench.stopwatch = qg_backend_find(c->kernel->backend)->stopwatch;
    bench.launch = c->kernel->launch;
    if (qg_isolate_run(c->kernel->fn, &ret->got, &bench, timeout_s, &trial, err) != QG_OK)
        return err->status;
    ret->times = trial.times;
    ret->device_failed = trial.device_failed;
    return conclude(c, &trial, ret, err);
}

void qg_judgement_free(struct qg_judgement *j)
{
    qg_call_free(&j->want);
    qg_call_free(&j->got);
    qg_call_free(&j->source);
}
