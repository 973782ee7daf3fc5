/* SPDX-License-Identifier: MIT */
#include "harness/recipe/agree.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/convert/split.h"

#define PIECE ((size_t)1 << 18) /* elements that are compared at a time */

/* --- the mapping ----------------------------------------------------------------------------- */

static bool convert_args(const struct qg_choice *c, const struct qg_assignment *a,
                         struct qg_args *ret_a)
{
    struct qg_error err;
    char why[256];
    *ret_a = (struct qg_args){.scheme = c->scheme};
    qg_params_default(ret_a, c->scheme);
    return qg_params_parse(ret_a, c->scheme, c->params, &err) == QG_OK &&
           qg_args_init(ret_a, c->scheme, QG_CONVERT, a->operand, a->dtype, 0, a->rows,
                        a->cols + a->padded, why, sizeof why);
}

/* How many elements share a scale, in words; "" when unknown. */
static void spell_scales(const struct qg_choice *c, const struct qg_assignment *a, char *text,
                         size_t size)
{
    struct qg_args args;
    text[0] = '\0';
    if (!convert_args(c, a, &args))
        return;
    size_t group = qg_group(&args);
    if (c->scheme->operand[a->operand].spans_rows && group >= args.cols)
        snprintf(text, size, "per tensor");
    else if (group == args.cols)
        snprintf(text, size, "per row");
    else
        snprintf(text, size, "per %zu elements", group);
}

/* Says what the mapping does wrong; false when it does not. */
static bool find_mistake(const struct qg_recipe_plan *p, struct qg_agreement *g)
{
    const struct qg_assignment *a = g->of;
    char prepare[160], convert[160], before[48], after[48];
    if (qg_recipe_training(p->recipe) != QG_TRAINING_QAT ||
        (a->prepare.scheme == a->convert.scheme &&
         strcmp(a->prepare.params, a->convert.params) == 0))
        return false;
    qg_choice_spell(&a->prepare, prepare, sizeof prepare);
    qg_choice_spell(&a->convert, convert, sizeof convert);
    if (!a->convert.scheme) {
        snprintf(g->cause, sizeof g->cause, "prepare quantizes it (%s), convert skips it: %s",
                 prepare, a->why);
        return true;
    }
    if (!a->prepare.scheme) {
        snprintf(g->cause, sizeof g->cause, "convert quantizes it (%s), prepare does not", convert);
        return true;
    }
    spell_scales(&a->prepare, a, before, sizeof before);
    spell_scales(&a->convert, a, after, sizeof after);
    bool apart = strcmp(before, after) != 0;
    snprintf(g->cause, sizeof g->cause, "prepare is %s, convert is %s%s%s%s%s", prepare, convert,
             apart ? ": scales " : "", apart ? before : "", apart ? " against " : "",
             apart ? after : "");
    return true;
}

/* --- one tensor ------------------------------------------------------------------------------ */

/* The rows that can be compared on their own: a multiple of what either side needs, all when a
 * scale spans the tensor. */
static size_t piece_rows(const struct qg_gap_sides *s, const struct qg_assignment *a)
{
    const struct qg_choice *side[] = {&s->prepare, &s->convert};
    size_t step = 1;
    for (int i = 0; i < 2; i++) {
        struct qg_args args;
        if (!side[i]->scheme)
            continue;
        size_t rows = convert_args(side[i], a, &args) ? qg_split_of(&args).rows : 0;
        if (!rows)
            return a->rows;
        step = rows > step ? rows : step; // both are powers of two
    }
    size_t fit = PIECE / (a->cols + a->padded) / step * step;
    return fit > step ? fit : step;
}

/* Moves rows of `cols` elements apart, from the last one on, and puts zeros between. */
static void append_columns(unsigned char *data, size_t rows, size_t cols, size_t padded,
                           size_t size)
{
    for (size_t r = rows; padded && r-- > 0;) {
        memmove(data + r * (cols + padded) * size, data + r * cols * size, cols * size);
        memset(data + (r * (cols + padded) + cols) * size, 0, padded * size);
    }
}

static enum qg_status compare_sides(const struct qg_recipe_plan *p, const struct qg_gap_sides *s,
                                    const struct qg_assignment *a, struct qg_gap_sum *sum,
                                    struct qg_error *err)
{
    size_t rows = piece_rows(s, a), size = qg_dtype_bytes(a->dtype);
    rows = rows < a->rows ? rows : a->rows;
    struct qg_tensor w = {a->name, a->dtype, 2, {rows, a->cols + a->padded}, NULL};
    w.data = malloc(qg_bytes(&w));
    enum qg_status status = w.data ? QG_OK : qg_fail(err, QG_ENOMEM, "no memory for '%s'", a->name);
    for (size_t first = 0; first < a->rows && status == QG_OK; first += rows) {
        w.shape[0] = rows < a->rows - first ? rows : a->rows - first;
        status = qg_model_rows(p->model, a->tensor, first, w.shape[0], a->dtype, w.data, err);
        if (status != QG_OK)
            break;
        append_columns(w.data, w.shape[0], a->cols, a->padded, size);
        if ((status = qg_gap_add(s, &w, sum, err)) != QG_OK)
            status = qg_context(err, "tensor '%s'", a->name);
    }
    free(w.data);
    return status;
}

static enum qg_status compare(const struct qg_recipe_plan *p, struct qg_agreement *g,
                              struct qg_error *err)
{
    const struct qg_assignment *a = g->of;
    struct qg_gap_sides s = {a->prepare, a->convert, a->operand};
    g->mistake = find_mistake(p, g);
    if (compare_sides(p, &s, a, &g->sum, err) != QG_OK)
        return err->status;
    if (!g->mistake && g->sum.differ && a->prepare.scheme)
        snprintf(g->cause, sizeof g->cause, "the gap of %s itself", a->convert.scheme->name);
    else if (!g->mistake && g->sum.differ)
        snprintf(g->cause, sizeof g->cause, "training does not see %s", a->convert.scheme->name);
    s.prepare = s.convert;
    if (!g->mistake || !s.convert.scheme || !s.convert.scheme->operand[s.operand].fake_quant)
        return QG_OK;
    return compare_sides(p, &s, a, &g->own, err);
}

/* --- all of them ----------------------------------------------------------------------------- */

struct comparing {
    const struct qg_recipe_plan *p;
    struct qg_agreement *result;
    bool *done;
    size_t n, next; /* results; the first that nobody has taken */
    struct qg_error err;
    pthread_mutex_t lock;
    pthread_cond_t ready;
};

static void *work(void *user)
{
    struct comparing *c = user;
    pthread_mutex_lock(&c->lock);
    while (c->next < c->n && c->err.status == QG_OK) {
        struct qg_error err = {QG_OK, ""};
        size_t i = c->next++;
        pthread_mutex_unlock(&c->lock);
        enum qg_status status = compare(c->p, &c->result[i], &err);
        pthread_mutex_lock(&c->lock);
        if (status != QG_OK && c->err.status == QG_OK)
            c->err = err;
        c->done[i] = true;
        pthread_cond_broadcast(&c->ready);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

/* Waits for result i; false when something went wrong. */
static bool wait_for(struct comparing *c, size_t i)
{
    pthread_mutex_lock(&c->lock);
    while (!c->done[i] && c->err.status == QG_OK)
        pthread_cond_wait(&c->ready, &c->lock);
    bool good = c->err.status == QG_OK;
    pthread_mutex_unlock(&c->lock);
    return good;
}

static enum qg_status run_threads(struct comparing *c, int threads,
                                  void (*on_tensor)(const struct qg_agreement *a, void *user),
                                  void *user, struct qg_error *err)
{
    pthread_t *thread = calloc((size_t)threads, sizeof *thread);
    int started = 0;
    if (!thread)
        return qg_fail(err, QG_ENOMEM, "no memory for %d threads", threads);
    while (started < threads && pthread_create(&thread[started], NULL, work, c) == 0)
        started++;
    if (!started)
        work(c); // then all of it is done here
    for (size_t i = 0; i < c->n && wait_for(c, i); i++)
        on_tensor(&c->result[i], user);
    for (int i = 0; i < started; i++)
        pthread_join(thread[i], NULL);
    free(thread);
    if (c->err.status != QG_OK)
        *err = c->err;
    return c->err.status;
}

enum qg_status qg_recipe_agree(const struct qg_recipe_plan *p, int threads,
                               void (*on_tensor)(const struct qg_agreement *a, void *user),
                               void *user, struct qg_error *err)
{
    struct comparing c = {.p = p,
                          .result = calloc(p->n + 1, sizeof *c.result),
                          .done = calloc(p->n + 1, sizeof *c.done),
                          .lock = PTHREAD_MUTEX_INITIALIZER,
                          .ready = PTHREAD_COND_INITIALIZER};
    enum qg_status status = QG_OK;
    if (!c.result || !c.done)
        status = qg_fail(err, QG_ENOMEM, "no memory to compare %zu tensors", p->n);
    for (size_t i = 0; i < p->n && status == QG_OK; i++)
        if (qg_recipe_training(p->recipe) != QG_TRAINING_FROZEN_BASE &&
            (p->of[i].prepare.scheme || p->of[i].convert.scheme))
            c.result[c.n++] =
                (struct qg_agreement){.of = &p->of[i], .sum = {.first = -1}, .own = {.first = -1}};
    if (status == QG_OK && c.n)
        status = run_threads(&c, threads, on_tensor, user, err);
    free(c.result);
    free(c.done);
    return status;
}
