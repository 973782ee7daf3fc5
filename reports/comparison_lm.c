/* SPDX-License-Identifier: MIT
 *
 * What moved between two runs of language models, see comparison.h.
 */
#include "reports/comparison.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "reports/put.h"

const char *qg_drift_name(enum qg_drift d)
{
    static const char *const names[] = {"not compared", "same numbers", "other numbers", "better",
                                        "worse"};
    return names[d];
}

/* --- judging --------------------------------------------------------------------------------- */

struct interval {
    double value, low, high;
};

static bool is_equal(const struct interval *a, const struct interval *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

static enum qg_drift judge_measures(const struct qg_modelled *b, const struct qg_modelled *h)
{
    const struct interval measure[][2] = {
        {{b->ppl, b->ppl_low, b->ppl_high}, {h->ppl, h->ppl_low, h->ppl_high}},
        {{b->delta, b->delta_low, b->delta_high}, {h->delta, h->delta_low, h->delta_high}},
        {{b->kl, b->kl_low, b->kl_high}, {h->kl, h->kl_low, h->kl_high}}};
    enum qg_drift drift = QG_DRIFT_SAME, one;
    for (size_t i = 0; i < sizeof measure / sizeof measure[0]; i++) {
        const struct interval *was = &measure[i][0], *is = &measure[i][1];
        one = is_equal(was, is)     ? QG_DRIFT_SAME
              : is->low > was->high ? QG_DRIFT_WORSE
              : is->high < was->low ? QG_DRIFT_BETTER
                                    : QG_DRIFT_OTHER;
        drift = one > drift ? one : drift;
    }
    return drift;
}

static enum qg_drift judge(const struct qg_modelled *b, const struct qg_modelled *h)
{
    bool was = !b->reason[0], is = !h->reason[0];
    if (was && is)
        return judge_measures(b, h);
    return was ? QG_DRIFT_WORSE : is ? QG_DRIFT_BETTER : QG_DRIFT_NONE;
}

/* Whether every number that was foretold is the same; what was measured is none of them. */
static bool is_changed(const struct qg_foretold *b, const struct qg_foretold *h)
{
    const double was[] = {b->delta_by_weights, b->delta_by_outputs, b->kl_by_weights,
                          b->kl_by_outputs, b->bits_per_weight};
    const double is[] = {h->delta_by_weights, h->delta_by_outputs, h->kl_by_weights,
                         h->kl_by_outputs, h->bits_per_weight};
    return memcmp(was, is, sizeof was) != 0;
}

static int by_model(const void *a, const void *b)
{
    return qg_modelled_order(a, b);
}

static void add_modelled(struct qg_comparison *c, const void *b, const void *h)
{
    struct qg_modelled_pair *p = &c->modelled[c->n_modelled++];
    *p = (struct qg_modelled_pair){b, h, b && h ? judge(b, h) : QG_DRIFT_NONE};
    c->modelled_only_base += !h;
    c->modelled_only_head += !b;
    c->drift[p->drift] += b && h;
}

static int by_scheme(const void *a, const void *b)
{
    return qg_foretold_order(a, b);
}

static void add_foretold(struct qg_comparison *c, const void *b, const void *h)
{
    struct qg_foretold_pair *p = &c->foretold[c->n_foretold++];
    *p = (struct qg_foretold_pair){b, h, b && h && is_changed(b, h)};
    c->foretold_only_base += !h;
    c->foretold_only_head += !b;
    c->foretold_changed += p->changed;
}

enum qg_status qg_comparison_models(struct qg_comparison *c, struct qg_error *err)
{
    const struct qg_result *b = c->base, *h = c->head;
    c->modelled = calloc(b->n_modelled + h->n_modelled + 1, sizeof *c->modelled);
    c->foretold = calloc(b->n_foretold + h->n_foretold + 1, sizeof *c->foretold);
    if (!c->modelled || !c->foretold || !qg_match_rows(c, QG_TABLE_LM, by_model, add_modelled) ||
        !qg_match_rows(c, QG_TABLE_PROXY, by_scheme, add_foretold))
        return qg_fail(err, QG_ENOMEM, "no memory to compare language models");
    return QG_OK;
}

/* --- what counts ----------------------------------------------------------------------------- */

bool qg_modelled_pair_regressed(const struct qg_modelled_pair *p, unsigned on)
{
    return (on & QG_ON_QUALITY && p->drift == QG_DRIFT_WORSE) ||
           (on & QG_ON_BITS && p->drift >= QG_DRIFT_OTHER) || (on & QG_ON_MISSING && !p->head);
}

bool qg_foretold_pair_regressed(const struct qg_foretold_pair *p, unsigned on)
{
    return (on & QG_ON_BITS && p->changed) || (on & QG_ON_MISSING && !p->head);
}

size_t qg_model_regressions(const struct qg_comparison *c, unsigned on)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_modelled; i++)
        n += qg_modelled_pair_regressed(&c->modelled[i], on);
    for (size_t i = 0; i < c->n_foretold; i++)
        n += qg_foretold_pair_regressed(&c->foretold[i], on);
    return n;
}

/* --- in words -------------------------------------------------------------------------------- */

void qg_put_models(FILE *out, const struct qg_comparison *c)
{
    fprintf(out, "\nlanguage models: %zu rows in both",
            c->n_modelled - c->modelled_only_base - c->modelled_only_head);
    qg_put_missing(out, c->modelled_only_base, c->modelled_only_head);
    for (int d = QG_DRIFT_COUNT - 1; d >= QG_DRIFT_NONE; d--)
        if (c->drift[d])
            fprintf(out, "; %zu %s", c->drift[d], qg_drift_name((enum qg_drift)d));
    if (c->drift[QG_DRIFT_OTHER] + c->drift[QG_DRIFT_BETTER] + c->drift[QG_DRIFT_WORSE])
        fputs(" (better, worse: the two intervals of ppl, ln ppl or KL have no point in common)",
              out);
    putc('\n', out);
}

void qg_put_predictions(FILE *out, const struct qg_comparison *c)
{
    fprintf(out, "%spredictions: %zu in both", c->n_modelled ? "" : "\n",
            c->n_foretold - c->foretold_only_base - c->foretold_only_head);
    qg_put_missing(out, c->foretold_only_base, c->foretold_only_head);
    if (c->foretold_changed)
        fprintf(out, "; %zu are other numbers\n", c->foretold_changed);
    else
        fputs("; same numbers\n", out);
}
