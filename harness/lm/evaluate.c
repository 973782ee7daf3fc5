/* SPDX-License-Identifier: MIT */
#include "harness/lm/evaluate.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/compare.h"
#include "harness/lm/parallel.h"

/* Where logits are not finite. */
struct place {
    bool found;
    size_t batch, window; /* of windows->batch, of windows->of */
    size_t position;      /* in the window */
};

/* Memory of one thread. */
struct lane {
    struct qg_lm_work *work[QG_GAP];
    float *base;      /* [rows of a piece, vocab] */
    uint32_t *tokens; /* of a batch */
};

/* Scored rows of a window: positions `position` .. position + n. */
struct piece {
    size_t batch, window; /* of windows->batch, of windows->of */
    size_t position, n;
    size_t row; /* of the batch, where they begin */
};

/* A pass of one or two models over the text. */
struct pass {
    const struct qg_evaluation *e;
    const struct qg_lm *model[QG_GAP];
    struct qg_logits *base;
    void (*each)(struct pass *p, struct lane *lane, const struct piece *at);
    struct qg_score *const *score;
    struct lane *lane;  /* one per thread */
    atomic_size_t done; /* scored tokens */
    atomic_bool stop;
    pthread_mutex_t lock; /* of what follows */
    struct qg_error err;  /* the first one */
    struct place bad[QG_GAP];
};

static void fail(struct pass *p, const struct qg_error *err)
{
    pthread_mutex_lock(&p->lock);
    if (p->err.status == QG_OK)
        p->err = *err;
    pthread_mutex_unlock(&p->lock);
    atomic_store(&p->stop, true);
}

/* The first in the text of all that are found. */
static void note_bad(struct pass *p, int side, size_t batch, size_t window, size_t position)
{
    const struct qg_window *of = p->e->windows->of;
    struct place *b = &p->bad[side];
    pthread_mutex_lock(&p->lock);
    size_t at = of[window].first + position;
    if (!b->found || at < of[b->window].first + b->position)
        *b = (struct place){true, batch, window, position};
    pthread_mutex_unlock(&p->lock);
}

static bool is_finite(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

/* --- a batch --------------------------------------------------------------------------------- */

static size_t load_tokens(const struct qg_evaluation *e, size_t batch, uint32_t *tokens)
{
    const struct qg_batch *b = &e->windows->batch[batch];
    const struct qg_window *w = &e->windows->of[b->first];
    for (size_t i = 0; i < b->n; i++)
        memcpy(tokens + i * w->length, e->tokens->id + w[i].first - 1, w->length * sizeof *tokens);
    return w->length;
}

/* The logits of a piece by one model; NULL when they are not finite. */
static const float *logits_of(struct pass *p, const struct lane *lane, int side,
                              const struct piece *at)
{
    size_t vocab = p->model[side]->config.vocab;
    const float *l = qg_lm_logits(p->model[side], lane->work[side], at->row, at->n);
    for (size_t i = 0; i < at->n; i++)
        if (!is_finite(l + i * vocab, vocab)) {
            note_bad(p, side, at->batch, at->window, at->position + i);
            return NULL;
        }
    return l;
}

static void score_rows(const struct pass *p, const struct piece *at, const float *base,
                       const float *candidate, size_t vocab, struct qg_score *score)
{
    const struct qg_window *w = &p->e->windows->of[at->window];
    size_t skipped = w->length - w->scored;
    for (size_t i = 0; i < at->n; i++)
        qg_score_token(base + i * vocab, candidate + i * vocab, vocab,
                       p->e->tokens->id[w->first + at->position + i],
                       &score[w->at + at->position + i - skipped]);
}

static bool take_base(struct pass *p, struct lane *lane, const struct piece *at)
{
    struct qg_error err;
    if (qg_logits_get(p->base, p->e->windows->of[at->window].number, at->position, at->n,
                      lane->base, &err) == QG_OK)
        return true;
    fail(p, &err);
    return false;
}

static void score_piece(struct pass *p, struct lane *lane, const struct piece *at)
{
    const float *l[QG_GAP] = {NULL, NULL};
    size_t vocab = 0;
    if (!take_base(p, lane, at))
        return;
    for (int side = 0; side < QG_GAP; side++) {
        if (!p->model[side] || !(l[side] = logits_of(p, lane, side, at)))
            continue;
        vocab = p->model[side]->config.vocab;
        score_rows(p, at, lane->base, l[side], vocab, p->score[side]);
    }
    if (l[QG_PREPARED] && l[QG_CONVERTED])
        score_rows(p, at, l[QG_PREPARED], l[QG_CONVERTED], vocab, p->score[QG_GAP]);
}

static void compare_piece(struct pass *p, struct lane *lane, const struct piece *at)
{
    struct qg_error err;
    const float *l = take_base(p, lane, at) ? logits_of(p, lane, 0, at) : NULL;
    size_t bytes = at->n * p->model[0]->config.vocab * sizeof *l;
    if (l && memcmp(l, lane->base, bytes) != 0) {
        qg_fail(&err, QG_EFORMAT, "this program and processor compute other logits");
        fail(p, &err);
    }
}

static void keep_piece(struct pass *p, struct lane *lane, const struct piece *at)
{
    struct qg_error err;
    const float *l = logits_of(p, lane, 0, at);
    if (l && qg_logits_put(p->base, p->e->windows->of[at->window].number, at->position, at->n, l,
                           &err) != QG_OK)
        fail(p, &err);
}

/* Rows of a piece at most: what all models give at once. */
static size_t rows_at_once(const struct lane *lane)
{
    return lane->work[0] ? lane->work[0]->logit_rows : lane->work[1]->logit_rows;
}

static void each_piece(struct pass *p, struct lane *lane, size_t batch)
{
    const struct qg_batch *b = &p->e->windows->batch[batch];
    for (size_t i = 0; i < b->n; i++) {
        const struct qg_window *w = &p->e->windows->of[b->first + i];
        struct piece at = {.batch = batch, .window = b->first + i};
        for (at.position = w->length - w->scored; at.position < w->length; at.position += at.n) {
            size_t left = w->length - at.position, most = rows_at_once(lane);
            at.n = left < most ? left : most;
            at.row = i * w->length + at.position;
            p->each(p, lane, &at);
        }
        atomic_fetch_add(&p->done, w->scored);
    }
}

static void run_batch(void *user, size_t batch, int thread)
{
    struct pass *p = user;
    struct lane *lane = &p->lane[thread];
    if (atomic_load(&p->stop))
        return;
    size_t length = load_tokens(p->e, batch, lane->tokens);
    for (int side = 0; side < QG_GAP; side++)
        if (p->model[side])
            qg_lm_forward(p->model[side], lane->work[side], lane->tokens,
                          p->e->windows->batch[batch].n, length);
    each_piece(p, lane, batch);
    if (thread == 0 && p->e->progress &&
        p->e->progress(p->e->user, atomic_load(&p->done), p->e->windows->scored))
        atomic_store(&p->stop, true);
}

/* --- a pass ---------------------------------------------------------------------------------- */

static void free_lanes(struct pass *p)
{
    for (int i = 0; p->lane && i < p->e->threads; i++) {
        for (int side = 0; side < QG_GAP; side++)
            qg_lm_work_free(&p->lane[i].work[side]);
        free(p->lane[i].base);
        free(p->lane[i].tokens);
    }
    free(p->lane);
    pthread_mutex_destroy(&p->lock);
}

static enum qg_status make_lane(const struct pass *p, struct lane *lane, struct qg_error *err)
{
    const struct qg_windows *w = p->e->windows;
    size_t longest = w->of[0].length, vocab = 0; // long ones come first
    for (int side = 0; side < QG_GAP; side++) {
        if (!p->model[side])
            continue;
        vocab = p->model[side]->config.vocab;
        if (qg_lm_work_make(p->model[side], w->widest, longest, false, &lane->work[side], err) !=
            QG_OK)
            return err->status;
    }
    lane->base = malloc(rows_at_once(lane) * vocab * sizeof *lane->base);
    lane->tokens = malloc(w->widest * longest * sizeof *lane->tokens);
    return lane->base && lane->tokens ? QG_OK : qg_fail(err, QG_ENOMEM, "no memory for a window");
}

/* Runs over the first n batches. */
static enum qg_status run_pass(struct pass *p, size_t n, struct qg_error *err)
{
    p->lane = calloc((size_t)p->e->threads, sizeof *p->lane);
    if (!p->lane)
        return qg_fail(err, QG_ENOMEM, "no memory for %d threads", p->e->threads);
    for (int i = 0; i < p->e->threads; i++)
        if (make_lane(p, &p->lane[i], err) != QG_OK)
            return err->status;
    qg_parallel(p->e->threads, n, run_batch, p);
    if (p->err.status != QG_OK)
        *err = p->err;
    return p->err.status;
}

/* --- what is not finite ---------------------------------------------------------------------- */

struct search {
    const struct qg_lm *m;
    char what[192]; /* "" while nothing is found */
};

static void look(void *user, size_t tensor, size_t rows, const float *x, const float *y)
{
    struct search *s = user;
    const struct qg_lm_tensor *t = &s->m->tensor[tensor];
    if (s->what[0])
        return;
    if (!is_finite(x, rows * t->cols))
        snprintf(s->what, sizeof s->what, "what '%s' takes", t->name);
    else if (!is_finite(y, rows * t->rows))
        snprintf(s->what, sizeof s->what, "what '%s' gives", t->name);
}

/* Runs the batch again and says where it begins. */
static void explain(struct pass *p, int side, char *text, size_t size)
{
    const struct place *b = &p->bad[side];
    const struct qg_window *w = &p->e->windows->of[b->window];
    const struct qg_document *d = &p->e->tokens->document[w->document];
    struct lane *lane = &p->lane[0];
    struct qg_lm_work *work = lane->work[side];
    struct search s = {.m = p->model[side]};
    size_t length = load_tokens(p->e, b->batch, lane->tokens);
    work->tap = look;
    work->user = &s;
    qg_lm_forward(p->model[side], work, lane->tokens, p->e->windows->batch[b->batch].n, length);
    qg_lm_logits(p->model[side], work,
                 (b->window - p->e->windows->batch[b->batch].first) * length + b->position, 1);
    work->tap = NULL;
    snprintf(text, size, "document %zu, token %zu: the logits are not finite; where it begins: %s",
             w->document, w->first + b->position - d->first,
             s.what[0] ? s.what : "the output head, on several rows at once");
}

/* --- passes ---------------------------------------------------------------------------------- */

enum qg_status qg_evaluate_base(const struct qg_evaluation *e, const struct qg_lm *m,
                                struct qg_logits *base, bool *ret_stopped, struct qg_error *err)
{
    struct pass p = {.e = e, .model = {m}, .base = base, .each = keep_piece};
    pthread_mutex_init(&p.lock, NULL);
    enum qg_status status = run_pass(&p, e->windows->n_batches, err);
    *ret_stopped = status == QG_OK && atomic_load(&p.stop);
    if (status == QG_OK && p.bad[0].found) {
        char why[512];
        explain(&p, 0, why, sizeof why);
        status = qg_fail(err, QG_EFORMAT, "%s, without any scheme: %s", m->path, why);
    }
    free_lanes(&p);
    return status;
}

enum qg_status qg_evaluate_check(const struct qg_evaluation *e, const struct qg_lm *m,
                                 struct qg_logits *base, struct qg_error *err)
{
    const struct qg_evaluation alone = {e->tokens, e->windows, 1, NULL, NULL};
    struct pass p = {.e = &alone, .model = {m}, .base = base, .each = compare_piece};
    pthread_mutex_init(&p.lock, NULL);
    enum qg_status status = run_pass(&p, 1, err);
    free_lanes(&p);
    return status;
}

enum qg_status qg_trial_run(const struct qg_evaluation *e, struct qg_logits *base,
                            struct qg_trial *t, struct qg_error *err)
{
    const bool wanted[QG_TRIAL_SIDES] = {t->model[QG_PREPARED], t->model[QG_CONVERTED],
                                         t->model[QG_PREPARED] && t->model[QG_CONVERTED]};
    struct pass p = {.e = e,
                     .model = {t->model[0], t->model[1]},
                     .base = base,
                     .each = score_piece,
                     .score = t->score};
    for (int i = 0; i < QG_TRIAL_SIDES; i++)
        if (wanted[i] && !(t->score[i] = calloc(e->windows->scored, sizeof *t->score[i])))
            return qg_fail(err, QG_ENOMEM, "no memory for the scores of %zu tokens",
                           e->windows->scored);
    pthread_mutex_init(&p.lock, NULL);
    enum qg_status status = run_pass(&p, e->windows->n_batches, err);
    t->stopped = status == QG_OK && atomic_load(&p.stop);
    for (int side = 0; side < QG_GAP; side++) {
        t->fault[side][0] = '\0';
        if (status == QG_OK && p.bad[side].found)
            explain(&p, side, t->fault[side], sizeof t->fault[side]);
    }
    free_lanes(&p);
    return status;
}

void qg_trial_free(struct qg_trial *t)
{
    for (int i = 0; i < QG_TRIAL_SIDES; i++) {
        free(t->score[i]);
        t->score[i] = NULL;
    }
}

uint64_t qg_lm_hash(const struct qg_lm *m)
{
    const struct qg_lm_config *c = &m->config;
    char text[512];
    int n = snprintf(text, sizeof text, "%zu %zu %zu %zu %zu %zu %zu %a %a %a %a %a %zu %s",
                     c->vocab, c->width, c->layers, c->heads, c->kv_heads, c->head, c->hidden,
                     c->norm_eps, c->rope_theta, c->rope_factor, c->rope_low, c->rope_high,
                     c->rope_original, qg_dtype_name(m->dtype));
    uint64_t hash = qg_hash(QG_HASH_START, text, (size_t)n);
    return qg_hash(hash, m->params, m->n_params * sizeof *m->params);
}

uint64_t qg_text_hash(const struct qg_tokens *t)
{
    uint64_t hash = qg_hash(QG_HASH_START, t->id, t->n * sizeof *t->id);
    for (size_t d = 0; d < t->n_documents; d++)
        hash = qg_hash(hash, &t->document[d].first, sizeof t->document[d].first);
    return hash;
}

size_t qg_clusters(const struct qg_tokens *t, const struct qg_windows *w, uint32_t *ret_cluster,
                   const char **ret_what)
{
    bool by_document = t->n_documents >= QG_LEAST_CLUSTERS;
    for (size_t i = 0; i < w->n; i++)
        for (size_t k = 0; k < w->of[i].scored; k++)
            ret_cluster[w->of[i].at + k] =
                (uint32_t)(by_document ? w->of[i].document : w->of[i].number);
    *ret_what = by_document ? "documents" : "windows";
    return by_document ? t->n_documents : w->n;
}
