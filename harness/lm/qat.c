/* SPDX-License-Identifier: MIT */
#include "harness/lm/qat.h"

#include <gsl/gsl_cdf.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- training -------------------------------------------------------------------------------- */

static enum qg_status put(const struct qg_qat *q, const struct qg_recipe_plan *plan,
                          struct qg_lm *m, struct qg_error *err)
{
    enum qg_linear_path path = !plan     ? QG_LINEAR_PLAIN
                               : q->rank ? QG_LINEAR_CONVERTED
                                         : QG_LINEAR_PREPARED;
    return qg_lm_put(m, plan, path, NULL, q->dtype, true, q->threads, err);
}

static size_t bytes_of(const struct qg_lm *m)
{
    size_t bytes = m->n_params * sizeof(float);
    for (size_t i = 0; i < m->n_tensors; i++)
        if (qg_lm_is_matrix(&m->tensor[i]) && m->linear[i].own)
            bytes += m->linear[i].rows * m->linear[i].cols * sizeof(float);
    return bytes;
}

static enum qg_status steps(const struct qg_qat *q, struct qg_trainer *t, struct qg_qat_run *r,
                            struct qg_error *err)
{
    while (r->steps < q->train.steps && !r->stopped) {
        struct qg_train_step s;
        if (qg_trainer_step(t, &s, err) != QG_OK)
            return err->status;
        r->loss = s.loss;
        if (qg_trainer_steps(t) == r->steps) // not finite
            return QG_OK;
        r->steps++;
        r->stopped = q->progress && q->progress(q->user, &s, r->steps);
    }
    return QG_OK;
}

enum qg_status qg_qat_train(const struct qg_qat *q, const struct qg_recipe_plan *plan,
                            struct qg_qat_run *ret_r, struct qg_error *err)
{
    struct qg_qat_run r = {.loss = (double)NAN};
    struct qg_trainer *t = NULL;
    enum qg_status status = qg_lm_load(q->model, q->untie, &r.lm, err);
    if (status == QG_OK && q->rank)
        status = qg_lm_adapt(r.lm, q->rank, q->alpha, q->train.seed, err);
    if (status == QG_OK)
        status = put(q, plan, r.lm, err);
    if (status == QG_OK)
        status = qg_trainer_make(r.lm, q->text, &q->train, q->threads, &t, err);
    if (status == QG_OK) {
        r.trainer_bytes = qg_trainer_bytes(t);
        r.model_bytes = bytes_of(r.lm);
        status = steps(q, t, &r, err);
    }
    qg_trainer_free(&t);
    if (status == QG_OK)
        *ret_r = r;
    else
        qg_lm_free(&r.lm);
    return status;
}

/* --- talking --------------------------------------------------------------------------------- */

enum qg_status qg_lm_continue(const struct qg_lm *m, uint32_t *tokens, size_t at, size_t n,
                              struct qg_error *err)
{
    struct qg_lm_work *w;
    size_t context = m->config.context, vocab = m->config.vocab;
    if (qg_lm_work_make(m, 1, context, false, &w, err) != QG_OK)
        return err->status;
    for (size_t i = at; i < at + n; i++) {
        size_t length = i < context ? i : context, best = 0;
        qg_lm_forward(m, w, tokens + i - length, 1, length);
        const float *logits = qg_lm_logits(m, w, length - 1, 1);
        for (size_t k = 1; k < vocab; k++)
            best = logits[k] > logits[best] ? k : best;
        tokens[i] = (uint32_t)best;
    }
    qg_lm_work_free(&w);
    return QG_OK;
}

/* --- comparing ------------------------------------------------------------------------------- */

static struct qg_estimate over_seeds(const double *x, size_t n, double level)
{
    double mean = 0, squares = 0;
    for (size_t i = 0; i < n; i++)
        mean += x[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        squares += (x[i] - mean) * (x[i] - mean);
    if (n < 2)
        return (struct qg_estimate){mean, (double)NAN, (double)NAN};
    double t = gsl_cdf_tdist_Pinv(0.5 + level / 2, (double)(n - 1));
    double half = t * sqrt(squares / (double)(n - 1) / (double)n);
    return (struct qg_estimate){mean, mean - half, mean + half};
}

/* A comparison under way. */
struct comparison {
    double *const (*nll)[QG_QAT_SIDES];
    size_t seeds, n, m;
    const uint32_t *cluster;
    double level;
    double *sum, *count; /* of each cluster */
    double *mean;        /* of each seed */
};

static double side(const struct comparison *c, size_t seed, int s, size_t i)
{
    return s < 0 ? 0 : c->nll[seed][s] ? c->nll[seed][s][i] : (double)NAN;
}

/* Of side a less side b (-1: of a alone). */
static struct qg_qat_estimate difference(struct comparison *c, int a, int b)
{
    memset(c->sum, 0, c->m * sizeof *c->sum);
    for (size_t k = 0; k < c->seeds; k++) {
        double sum = 0;
        for (size_t i = 0; i < c->n; i++) {
            double d = side(c, k, a, i) - side(c, k, b, i);
            sum += d;
            c->sum[c->cluster[i]] += d / (double)c->seeds;
        }
        c->mean[k] = sum / (double)c->n;
    }
    return (struct qg_qat_estimate){over_seeds(c->mean, c->seeds, c->level),
                                    qg_estimate_ratio(c->sum, c->count, c->m, c->level)};
}

/* (P - Q) / (P - C). Over text its error is that of the mean of (P - Q) - R (P - C), which is 0,
 * divided by the mean of P - C. */
static struct qg_qat_estimate share(struct comparison *c)
{
    double all_lost = 0, all_won = 0;
    for (size_t k = 0; k < c->seeds; k++) {
        double lost = 0, won = 0;
        for (size_t i = 0; i < c->n; i++) {
            double p = side(c, k, QG_QAT_CONTROL_PTQ, i);
            lost += p - side(c, k, QG_QAT_CONTROL, i);
            won += p - side(c, k, QG_QAT_CONVERTED, i);
        }
        c->mean[k] = won / lost;
        all_lost += lost / (double)c->seeds;
        all_won += won / (double)c->seeds;
    }
    double r = all_won / all_lost, each = all_lost / (double)c->n;
    memset(c->sum, 0, c->m * sizeof *c->sum);
    for (size_t k = 0; k < c->seeds; k++)
        for (size_t i = 0; i < c->n; i++) {
            double p = side(c, k, QG_QAT_CONTROL_PTQ, i);
            c->sum[c->cluster[i]] +=
                (p - side(c, k, QG_QAT_CONVERTED, i) - r * (p - side(c, k, QG_QAT_CONTROL, i))) /
                (double)c->seeds;
        }
    struct qg_estimate e = qg_estimate_ratio(c->sum, c->count, c->m, c->level);
    double half = fabs((e.high - e.low) / 2 / each);
    return (struct qg_qat_estimate){over_seeds(c->mean, c->seeds, c->level),
                                    {r, r - half, r + half}};
}

enum qg_status qg_qat_compare(double *const nll[][QG_QAT_SIDES], size_t seeds,
                              const uint32_t *cluster, size_t n, size_t m, double level,
                              struct qg_qat_outcome *ret_o, struct qg_error *err)
{
    struct comparison c = {.nll = nll,
                           .seeds = seeds,
                           .n = n,
                           .m = m,
                           .cluster = cluster,
                           .level = level,
                           .sum = calloc(m, sizeof(double)),
                           .count = calloc(m, sizeof(double)),
                           .mean = calloc(seeds, sizeof(double))};
    bool good = c.sum && c.count && c.mean;
    if (good) {
        struct qg_qat_outcome o = {.seeds = seeds, .clusters = m};
        for (size_t i = 0; i < n; i++)
            c.count[cluster[i]]++;
        for (int s = 0; s < QG_QAT_SIDES; s++)
            o.loss[s] = difference(&c, s, -1);
        o.gain = difference(&c, QG_QAT_CONVERTED, QG_QAT_CONTROL_PTQ);
        o.cost = difference(&c, QG_QAT_CONTROL_PTQ, QG_QAT_CONTROL);
        o.gap = difference(&c, QG_QAT_CONVERTED, QG_QAT_PREPARED);
        o.recovered = share(&c);
        *ret_o = o;
    }
    free(c.sum);
    free(c.count);
    free(c.mean);
    return good ? QG_OK : qg_fail(err, QG_ENOMEM, "no memory to compare models");
}
