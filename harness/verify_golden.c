/* SPDX-License-Identifier: MIT */
#include "harness/verify_golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/call.h"

/* --- the rows -------------------------------------------------------------------------------- */

/* Appends a row; counts only when rows is NULL. */
static void add_row(struct qg_verify *v, struct qg_verify_row row)
{
    if (v->rows)
        v->rows[v->n_rows] = row;
    v->n_rows++;
}

static void add_codes(struct qg_verify *v, const struct qg_scheme *s, enum qg_operand operand)
{
    const struct qg_operand_def *d = &s->operand[operand];
    if (v->codes)
        v->codes[v->n_codes] = (struct qg_verify_codes){
            s, operand, .possible = d->codes ? d->codes : 1 << d->code_bits};
    v->n_codes++;
}

static void add_scheme(struct qg_verify *v, const struct qg_scheme *s)
{
    for (int operand = 0; operand < QG_OPERAND_COUNT; operand++) {
        for (int op = 0; op < QG_OP_COUNT; op++)
            if (qg_definition(s, operand, op))
                add_row(v, (struct qg_verify_row){s, NULL, operand, op, NULL});
        if (s->operand[operand].convert && s->operand[operand].code_bits)
            add_codes(v, s, operand);
    }
}

static bool is_wanted(const struct qg_verify_request *r, const char *name)
{
    return !r->name || strcmp(r->name, name) == 0;
}

static bool is_here(const struct qg_verify_request *r, const struct qg_kernel *k)
{
    char why[256];
    return (!r->backend || strcmp(r->backend, k->backend) == 0) &&
           qg_backend_find(k->backend)->probe(why, sizeof why);
}

static void add_kernel(struct qg_verify *v, const struct qg_kernel *k)
{
    struct qg_verify_row row = {qg_scheme_find(k->scheme), NULL, k->operand, k->op, k};
    if (qg_kernel_runs(k, NULL, row.why, sizeof row.why))
        row.why[0] = '\0';
    row.absent = row.why[0] != '\0';
    add_row(v, row);
}

static void add_rows(struct qg_verify *v, const struct qg_verify_request *r)
{
    const struct qg_scheme *s;
    const struct qg_layer *l;
    const struct qg_kernel *k;
    v->n_rows = v->n_codes = 0;
    for (size_t i = 0; !r->backend && (s = qg_scheme_at(i)); i++)
        if (is_wanted(r, s->name))
            add_scheme(v, s);
    for (size_t i = 0; !r->backend && (l = qg_layer_at(i)); i++)
        for (int op = QG_FORWARD; op <= QG_BACKWARD; op++)
            if (is_wanted(r, l->name) && qg_layer_definition(l, op))
                add_row(v, (struct qg_verify_row){NULL, l, QG_WEIGHT, op, NULL});
    for (size_t i = 0; r->kernels && (k = qg_kernel_at(i)); i++)
        if (is_wanted(r, k->scheme) && is_here(r, k))
            add_kernel(v, k);
}

static enum qg_status make_rows(struct qg_verify *v, const struct qg_verify_request *r,
                                struct qg_error *err)
{
    if (r->name && !qg_scheme_find(r->name) && !qg_layer_find(r->name))
        return qg_fail(err, QG_EINVAL, "there is no scheme or layer '%s'; qgauge list names them",
                       r->name);
    add_rows(v, r);
    v->rows = calloc(v->n_rows, sizeof *v->rows);
    v->codes = calloc(v->n_codes, sizeof *v->codes);
    if (!v->rows || !v->codes)
        return qg_fail(err, QG_ENOMEM, "no memory for %zu rows", v->n_rows);
    add_rows(v, r);
    return QG_OK;
}

/* --- one case -------------------------------------------------------------------------------- */

static enum qg_status misfit(const struct qg_golden_case *c, const char *why, struct qg_error *err)
{
    return qg_fail(err, QG_EFORMAT, "golden '%s', set '%s', %s: %s", c->file, c->set, c->op, why);
}

static const struct qg_tensor *find(const struct qg_tensor *t, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (strcmp(t[i].name, name) == 0)
            return &t[i];
    return NULL;
}

/* Arguments for a scheme's case: parameters, shapes from x and y. */
static enum qg_status scheme_args(const struct qg_golden_case *c, const struct qg_scheme *s,
                                  struct qg_args *a, struct qg_error *err)
{
    enum qg_op op = qg_op_parse(c->op);
    enum qg_operand operand = qg_operand_parse(c->operand);
    const struct qg_tensor *x = find(c->in, c->n_in, "x"), *y = find(c->out, c->n_out, "y");
    const struct qg_tensor *shape = op == QG_DEQUANT ? y : x, *down = find(c->in, c->n_in, "a");
    char why[256];
    if (operand == QG_OPERAND_COUNT)
        return misfit(c, "an operand that does not exist", err);
    if (!shape || shape->rank != 2 || (qg_is_product(op) && (!y || y->rank != 2)))
        return misfit(c, "x or y is missing or no matrix", err);
    qg_params_default(a, s);
    if (qg_params_parse(a, s, c->params, err) != QG_OK)
        return qg_context(err, "golden '%s', set '%s'", c->file, c->set);
    a->rank = op == QG_LORA && down ? down->shape[0] : 0;
    size_t rows = qg_is_product(op) ? y->shape[1] : shape->shape[0];
    if (!qg_args_init(a, s, op, operand, qg_dtype_parse(c->dtype), shape->shape[0], rows,
                      shape->shape[1], why, sizeof why))
        return misfit(c, why, err);
    return QG_OK;
}

/* Arguments for a layer's case: parameters, shapes from the inputs. */
static enum qg_status layer_args(const struct qg_golden_case *c, const struct qg_layer *l,
                                 struct qg_args *a, struct qg_error *err)
{
    char why[256];
    qg_layer_params_default(a, l);
    if (qg_layer_params_parse(a, l, c->params, err) != QG_OK)
        return qg_context(err, "golden '%s', set '%s'", c->file, c->set);
    if (!qg_layer_init(a, l, qg_op_parse(c->op), qg_dtype_parse(c->dtype), c->in, c->n_in, why,
                       sizeof why))
        return misfit(c, why, err);
    return QG_OK;
}

/* Whose case it is, and the arguments. */
static enum qg_status args_of(const struct qg_golden_case *c, struct qg_args *a,
                              struct qg_error *err)
{
    const struct qg_scheme *s = qg_scheme_find(c->scheme);
    const struct qg_layer *l = qg_layer_find(c->scheme);
    if (qg_op_parse(c->op) == QG_OP_COUNT || qg_dtype_parse(c->dtype) == QG_DTYPE_COUNT)
        return misfit(c, "an operation or dtype that does not exist", err);
    if (strcmp(c->operand, "layer") == 0)
        return l ? layer_args(c, l, a, err) : misfit(c, "a layer that does not exist", err);
    return s ? scheme_args(c, s, a, err) : misfit(c, "a scheme that does not exist", err);
}

static bool same_shape(const struct qg_tensor *a, const struct qg_tensor *b)
{
    if (a->dtype != b->dtype || a->rank != b->rank)
        return false;
    for (int d = 0; d < a->rank; d++)
        if (a->shape[d] != b->shape[d])
            return false;
    return true;
}

/* Every tensor of the call has its golden, of the same dtype and shape, and none is left over. */
static enum qg_status check_tensors(const struct qg_golden_case *c, const struct qg_tensor *ours,
                                    int n, const struct qg_tensor *theirs, int m,
                                    struct qg_error *err)
{
    if (n != m)
        return misfit(c, "not the number of tensors that the scheme or layer has", err);
    for (int i = 0; i < n; i++) {
        const struct qg_tensor *t = find(theirs, m, ours[i].name);
        if (!t || !same_shape(t, &ours[i]))
            return qg_fail(err, QG_EFORMAT,
                           "golden '%s', set '%s', %s: tensor '%s' is missing or has "
                           "another dtype or shape",
                           c->file, c->set, c->op, ours[i].name);
    }
    return QG_OK;
}

static void fill(struct qg_call *call, const struct qg_golden_case *c)
{
    struct qg_args *a = &call->args;
    for (int i = 0; i < a->n_in; i++)
        memcpy(a->in[i].data, find(c->in, c->n_in, a->in[i].name)->data, qg_bytes(&a->in[i]));
    for (int i = 0; i < a->n_out; i++) // an element that nobody writes must not look right
        memset(a->out[i].data, 0xa5, qg_bytes(&a->out[i]));
}

/* Compares the outputs of a call with the golden's. `judge` holds exact and bound of the
 * definition, or NULL. A definition lies within its own bound: there it is upstream's value that
 * must be explained. */
static void compare(const struct qg_args *ours, const struct qg_args *judge,
                    const struct qg_golden_case *c, const struct qg_verify_request *r,
                    struct qg_verify_row *row)
{
    bool wrong = false;
    size_t at = 0; // of the output among all of them
    for (int i = 0; i < ours->n_out; at += qg_count(&ours->out[i]), i++) {
        const struct qg_tensor *got = &ours->out[i], *want = find(c->out, c->n_out, got->name);
        struct qg_diff d = qg_no_diff;
        const double *exact = judge->exact ? judge->exact + at : NULL;
        const double *bound = judge->bound ? judge->bound + at : NULL;
        qg_compare(row->kernel ? want : got, row->kernel ? got : want, exact, bound, &d);
        row->elements += d.count;
        row->unequal += d.mismatches;
        row->wrong += d.wrong;
        row->unjudged += d.unjudged;
        if (d.wrong > 0 && !wrong && r->on_wrong)
            r->on_wrong(&(struct qg_verify_wrong){c, ours, exact, bound, row->kernel, want, got,
                                                  (size_t)d.first_wrong, d.wrong, d.count},
                        r->user);
        wrong |= d.wrong > 0;
    }
    row->sets++;
}

/* The codes in upstream's planes; a NaN of fp8 is none. */
static void count_codes(struct qg_verify_codes *codes, const struct qg_args *ours,
                        const struct qg_golden_case *c)
{
    struct qg_args a = *ours;
    for (int i = 0; i < a.n_out; i++)
        a.out[i].data = find(c->out, c->n_out, a.out[i].name)->data;
    for (size_t i = 0; i < a.rows * a.cols; i++) {
        unsigned code = qg_code(&a, i);
        if (!qg_is_nan_code(a.out[0].dtype, code))
            codes->seen[code] = true;
    }
    codes->reached = 0;
    for (int i = 0; i < 256; i++)
        codes->reached += codes->seen[i];
}

static void compute(const struct qg_args *a)
{
    if (a->layer)
        qg_layer_definition(a->layer, a->op)(a);
    else
        qg_definition(a->scheme, a->operand, a->op)(a);
}

/* The definition's bound is that of any order, in which upstream's value lies, too; for a product
 * whose sums are worse, that of k's. */
static void widen(struct qg_args *a, const struct qg_kernel *k)
{
    const size_t depth = a->depth;
    const bool wide = a->wide, tf32 = a->tf32;
    if (!qg_is_product(a->op))
        return;
    qg_kernel_claims(k, a);
    if (a->depth <= a->cols)
        a->depth = 0;
    if (a->depth != depth || a->wide != wide || a->tf32 != tf32)
        compute(a);
}

static bool concerns(const struct qg_verify_row *row, const struct qg_args *a)
{
    return row->scheme == a->scheme && row->layer == a->layer && row->operand == a->operand &&
           row->op == a->op && !row->absent;
}

static bool any_concerns(const struct qg_verify *v, const struct qg_args *a)
{
    size_t i = 0;
    while (i < v->n_rows && !concerns(&v->rows[i], a))
        i++;
    return i < v->n_rows;
}

static void note_skip(struct qg_verify_row *row, const char *why)
{
    row->skipped++;
    if (!row->failed)
        snprintf(row->why, sizeof row->why, "%s", why);
}

/* What the kernel could not do; with the others it goes on while the device does. */
static void note_failure(struct qg_verify *v, struct qg_verify_row *row, const struct qg_failure *f)
{
    if (f->broken)
        v->broke = row->kernel;
    if (f->cause == QG_CAUSE_ABSENT) {
        row->refused = true;
        note_skip(row, f->text);
        return;
    }
    if (row->failed++ == 0)
        snprintf(row->why, sizeof row->why, "%s", f->text);
}

/* `a`: what is called; `want`: the same with what the definition made of it. */
static enum qg_status judge_kernel(struct qg_verify *v, const struct qg_verify_request *r,
                                   const struct qg_golden_case *c, const struct qg_args *a,
                                   struct qg_args *want, struct qg_verify_row *row,
                                   struct qg_error *err)
{
    struct qg_call call;
    struct qg_failure failure = {0};
    char why[sizeof row->why];
    if (!qg_kernel_runs(row->kernel, a, why, sizeof why)) {
        note_skip(row, why);
        return QG_OK;
    }
    if (v->broke && row->kernel->launch) {
        row->lost++;
        return QG_OK;
    }
    if (qg_call_alloc(&call, a, false, err) != QG_OK)
        return err->status;
    fill(&call, c);
    call.args.failure = &failure;
    row->kernel->fn(&call.args);
    if (failure.text[0]) {
        note_failure(v, row, &failure);
    } else {
        widen(want, row->kernel);
        compare(&call.args, want, c, r, row);
    }
    qg_call_free(&call);
    return QG_OK;
}

static enum qg_status judge(struct qg_verify *v, const struct qg_verify_request *r,
                            const struct qg_golden_case *c, struct qg_error *err)
{
    struct qg_args a = {0};
    struct qg_call call;
    if (args_of(c, &a, err) != QG_OK)
        return err->status;
    if (!any_concerns(v, &a))
        return QG_OK;
    if (check_tensors(c, a.in, a.n_in, c->in, c->n_in, err) != QG_OK ||
        check_tensors(c, a.out, a.n_out, c->out, c->n_out, err) != QG_OK ||
        qg_call_alloc(&call, &a, true, err) != QG_OK)
        return err->status;
    fill(&call, c);
    compute(&call.args);
    enum qg_status status = QG_OK;
    for (size_t i = 0; i < v->n_rows && status == QG_OK; i++) {
        struct qg_verify_row *row = &v->rows[i];
        if (!concerns(row, &a))
            continue;
        if (!row->kernel) {
            compare(&call.args, &call.args, c, r, row);
            continue;
        }
        status = judge_kernel(v, r, c, &a, &call.args, row, err);
    }
    for (size_t i = 0; i < v->n_codes && a.op == QG_CONVERT; i++)
        if (v->codes[i].scheme == a.scheme && v->codes[i].operand == a.operand)
            count_codes(&v->codes[i], &a, c);
    qg_call_free(&call);
    return status;
}

static void total(struct qg_verify *v)
{
    for (size_t i = 0; i < v->n_rows; i++) {
        struct qg_verify_row *row = &v->rows[i];
        row->absent |= row->refused && row->sets + row->failed + row->lost == 0;
        v->elements += row->elements;
        v->wrong += row->wrong;
        v->failed += row->failed > 0;
        v->missing += row->sets + row->failed + row->lost == 0 && !row->absent;
    }
}

enum qg_status qg_verify_golden(const struct qg_verify_request *r, struct qg_verify *ret_v,
                                struct qg_error *err)
{
    struct qg_verify v = {0};
    struct qg_golden *g = NULL;
    const struct qg_golden_case *c = NULL;
    char set[512] = "", file[512] = "";
    enum qg_status status = make_rows(&v, r, err);
    if (status == QG_OK)
        status = qg_golden_open(r->folder, r->name, &g, err);
    while (status == QG_OK && (status = qg_golden_next(g, &c, err)) == QG_OK && c) {
        if (r->on_case)
            r->on_case(c, r->user);
        bool new_file = strcmp(file, c->file) != 0, new_set = new_file || strcmp(set, c->set) != 0;
        snprintf(file, sizeof file, "%s", c->file);
        snprintf(set, sizeof set, "%s", c->set);
        v.files += new_file;
        v.sets += new_set;
        v.cases++;
        status = judge(&v, r, c, err);
    }
    qg_golden_close(&g);
    total(&v);
    if (status == QG_OK)
        *ret_v = v;
    else
        qg_verify_free(&v);
    return status;
}

void qg_verify_free(struct qg_verify *v)
{
    free(v->rows);
    free(v->codes);
    *v = (struct qg_verify){0};
}
