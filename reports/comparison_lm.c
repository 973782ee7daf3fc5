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

/* --- matching: rows of a table in the order of what they are of ------------------------------ */

static int by_model(const void *x, const void *y)
{
    const struct qg_modelled *a = *(const struct qg_modelled *const *)x,
                             *b = *(const struct qg_modelled *const *)y;
    int d = qg_modelled_order(a, b);
    return d ? d : (a > b) - (a < b);
}

static int by_scheme(const void *x, const void *y)
{
    const struct qg_foretold *a = *(const struct qg_foretold *const *)x,
                             *b = *(const struct qg_foretold *const *)y;
    int d = qg_foretold_order(a, b);
    return d ? d : (a > b) - (a < b);
}

/* Pointers to the rows of a table, sorted; the caller frees. */
static const void **sorted(struct qg_rows rows, size_t size,
                           int (*order)(const void *x, const void *y))
{
    const void **list = malloc((rows.n + 1) * sizeof *list);
    for (size_t i = 0; list && i < rows.n; i++)
        list[i] = (const char *)rows.at + i * size;
    if (list)
        qsort(list, rows.n, sizeof *list, order);
    return list;
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

static void add_modelled(struct qg_comparison *c, const struct qg_modelled *b,
                         const struct qg_modelled *h)
{
    struct qg_modelled_pair *p = &c->modelled[c->n_modelled++];
    *p = (struct qg_modelled_pair){b, h, b && h ? judge(b, h) : QG_DRIFT_NONE};
    c->modelled_only_base += !h;
    c->modelled_only_head += !b;
    c->drift[p->drift] += b && h;
}

static void add_foretold(struct qg_comparison *c, const struct qg_foretold *b,
                         const struct qg_foretold *h)
{
    struct qg_foretold_pair *p = &c->foretold[c->n_foretold++];
    *p = (struct qg_foretold_pair){b, h, b && h && is_changed(b, h)};
    c->foretold_only_base += !h;
    c->foretold_only_head += !b;
    c->foretold_changed += p->changed;
}

/* Goes through two sorted lists side by side. */
static void match_modelled(struct qg_comparison *c, const void **b, size_t nb, const void **h,
                           size_t nh)
{
    for (size_t i = 0, k = 0; i < nb || k < nh;) {
        int d = i == nb ? 1 : k == nh ? -1 : qg_modelled_order(b[i], h[k]);
        const struct qg_modelled *base = d <= 0 ? b[i++] : NULL, *head = d >= 0 ? h[k++] : NULL;
        add_modelled(c, base, head);
    }
}

static void match_foretold(struct qg_comparison *c, const void **b, size_t nb, const void **h,
                           size_t nh)
{
    for (size_t i = 0, k = 0; i < nb || k < nh;) {
        int d = i == nb ? 1 : k == nh ? -1 : qg_foretold_order(b[i], h[k]);
        const struct qg_foretold *base = d <= 0 ? b[i++] : NULL, *head = d >= 0 ? h[k++] : NULL;
        add_foretold(c, base, head);
    }
}

enum qg_status qg_comparison_models(struct qg_comparison *c, struct qg_error *err)
{
    const struct qg_result *b = c->base, *h = c->head;
    const void **lists[] = {
        sorted((struct qg_rows){b->modelled, b->n_modelled}, sizeof *b->modelled, by_model),
        sorted((struct qg_rows){h->modelled, h->n_modelled}, sizeof *h->modelled, by_model),
        sorted((struct qg_rows){b->foretold, b->n_foretold}, sizeof *b->foretold, by_scheme),
        sorted((struct qg_rows){h->foretold, h->n_foretold}, sizeof *h->foretold, by_scheme)};
    c->modelled = calloc(b->n_modelled + h->n_modelled + 1, sizeof *c->modelled);
    c->foretold = calloc(b->n_foretold + h->n_foretold + 1, sizeof *c->foretold);
    bool ok = c->modelled && c->foretold;
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        ok = ok && lists[i];
    if (ok) {
        match_modelled(c, lists[0], b->n_modelled, lists[1], h->n_modelled);
        match_foretold(c, lists[2], b->n_foretold, lists[3], h->n_foretold);
    }
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        free(lists[i]);
    return ok ? QG_OK : qg_fail(err, QG_ENOMEM, "no memory to compare language models");
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

static void put_missing(FILE *out, size_t only_base, size_t only_head)
{
    if (only_base || only_head)
        fprintf(out, ", %zu only in BASE, %zu only in HEAD", only_base, only_head);
}

void qg_put_models(FILE *out, const struct qg_comparison *c)
{
    fprintf(out, "\nlanguage models: %zu rows in both",
            c->n_modelled - c->modelled_only_base - c->modelled_only_head);
    put_missing(out, c->modelled_only_base, c->modelled_only_head);
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
    put_missing(out, c->foretold_only_base, c->foretold_only_head);
    if (c->foretold_changed)
        fprintf(out, "; %zu are other numbers\n", c->foretold_changed);
    else
        fputs("; same numbers\n", out);
}
