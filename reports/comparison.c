/* SPDX-License-Identifier: MIT
 *
 * What moved between two runs, see comparison.h.
 *
 * Time. Each run gives one sample of medians; the samples of one process share its luck with memory
 * layout and the machine's mood, so two runs of the same program differ by more than their
 * intervals say. Hence: (1) the interval of the ratio is the rectangle of two 97.5 %
 * order-statistic intervals of the medians, which holds for any distribution; (2) it must clear a
 * margin, the largest of what the caller asks for and of three standard deviations of the noise
 * seen between these very runs: the spread of that half of all ratios that agrees best, which a
 * change that touches fewer than half of the cases cannot inflate; (3) the difference of the two
 * runs' call overheads is added to it.
 */
#include "reports/comparison.h"

#include <gsl/gsl_cdf.h>
#include <gsl/gsl_sort.h>
#include <gsl/gsl_statistics_double.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "reports/put.h"

enum { ENOUGH_FOR_NOISE = 8 }; /* ratios that a spread between runs is estimated from */

// Two medians at 97.5 % each: their ratio at 95 % at least.
static const double each_tail = 0.0125;
static const double any_false_alarm = 0.01;

const char *qg_shift_name(enum qg_shift s)
{
    static const char *const names[] = {"no output",  "other input", "same bits",
                                        "other bits", "quality up",  "quality down"};
    return names[s];
}

const char *qg_pace_name(enum qg_pace p)
{
    static const char *const names[] = {"untimed", "same", "undecided", "faster", "slower"};
    return names[p];
}

unsigned qg_on_parse(const char *word)
{
    static const char *const words[] = {"verdict",   "quality", "slower",   "bits",
                                        "undecided", "missing", "resources"};
    for (unsigned i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcmp(word, words[i]) == 0)
            return 1u << i;
    return 0;
}

/* --- matching -------------------------------------------------------------------------------- */

static int by_kernel(const struct qg_record *a, const struct qg_record *b)
{
    int d = strcmp(a->scheme, b->scheme);
    d = d ? d : strcmp(a->op, b->op);
    d = d ? d : strcmp(a->operand, b->operand);
    d = d ? d : strcmp(a->backend, b->backend);
    return d ? d : strcmp(a->variant, b->variant);
}

static int by_case(const void *x, const void *y)
{
    const struct qg_record *a = *(const struct qg_record *const *)x;
    const struct qg_record *b = *(const struct qg_record *const *)y;
    int d = by_kernel(a, b);
    d = d ? d : strcmp(a->spelling, b->spelling);
    return d ? d : (a > b) - (a < b); // the same case twice: in the order of the file
}

static const struct qg_record **sorted(const struct qg_result *r)
{
    const struct qg_record **list = malloc((r->n_cases + 1) * sizeof *list);
    for (size_t i = 0; list && i < r->n_cases; i++)
        list[i] = &r->cases[i];
    if (list)
        qsort(list, r->n_cases, sizeof *list, by_case);
    return list;
}

/* Fills c->pair from two sorted lists. */
static void match(struct qg_comparison *c, const struct qg_record **b, size_t nb,
                  const struct qg_record **h, size_t nh)
{
    for (size_t i = 0, k = 0; i < nb || k < nh;) {
        int d = i == nb ? 1 : k == nh ? -1 : by_kernel(b[i], h[k]);
        if (d == 0)
            d = strcmp(b[i]->spelling, h[k]->spelling);
        struct qg_pair *p = &c->pair[c->n_pairs++];
        *p = (struct qg_pair){.base = d <= 0 ? b[i++] : NULL,
                              .head = d >= 0 ? h[k++] : NULL,
                              .sqnr_change_db = NAN,
                              .first_changed = -1,
                              .ratio = NAN,
                              .low = NAN,
                              .high = NAN,
                              .margin = NAN,
                              .visible = NAN};
    }
}

/* --- bits, quality, verdicts ----------------------------------------------------------------- */

static bool is_fine(const struct qg_record *r)
{
    return r->verdict == QG_PASS || r->verdict == QG_MARGINAL;
}

static bool has_output(const struct qg_record *r)
{
    return is_fine(r) || r->verdict == QG_FAIL || r->verdict == QG_MISTRUSTED;
}

static size_t element_bytes(const struct qg_record *r)
{
    if (strcmp(r->op, "convert") == 0)
        return 1;
    return strcmp(r->dtype, "F32") == 0 ? 4 : 2;
}

static void count_changed(const struct qg_comparison *c, struct qg_pair *p)
{
    const uint8_t *b = c->base->output + p->base->output_at;
    const uint8_t *h = c->head->output + p->head->output_at;
    size_t size = element_bytes(p->base), n = (size_t)p->base->output_n / size;
    if (n == 0 || p->base->output_n != p->head->output_n)
        return;
    p->both_stored = true;
    p->compared = n;
    if (p->base->output_hash == p->head->output_hash)
        return; // NaN of other bits at most
    for (size_t i = 0; i < n; i++) {
        if (memcmp(b + i * size, h + i * size, size) == 0)
            continue;
        if (p->changed++ == 0)
            p->first_changed = (int64_t)i;
    }
}

/* Two standard errors of an SQNR in dB that is estimated from n normal errors: the sum of n squares
 * has the relative standard error sqrt(2 / n). */
static double sqnr_noise_db(uint64_t n)
{
    return n ? 2 * (10 / log(10)) * sqrt(2.0 / (double)n) : 0;
}

static enum qg_shift judge_quality(const struct qg_pair *p)
{
    double b = p->base->sqnr_db, h = p->head->sqnr_db, noise = sqnr_noise_db(p->head->count);
    if (isnan(b) || isnan(h))
        return isnan(h) && !isnan(b)   ? QG_SHIFT_DOWN
               : isnan(b) && !isnan(h) ? QG_SHIFT_UP
                                       : QG_SHIFT_OTHER_BITS;
    if (h > b + noise)
        return QG_SHIFT_UP;
    return h < b - noise ? QG_SHIFT_DOWN : QG_SHIFT_OTHER_BITS;
}

static void judge_output(const struct qg_comparison *c, struct qg_pair *p)
{
    if (!has_output(p->base) || !has_output(p->head))
        return;
    if (p->base->input_hash != p->head->input_hash) {
        p->shift = QG_SHIFT_INPUT;
        return;
    }
    // inf - inf is no change
    p->sqnr_change_db =
        p->base->sqnr_db == p->head->sqnr_db ? 0 : p->head->sqnr_db - p->base->sqnr_db;
    count_changed(c, p);
    p->shift = p->base->output_hash == p->head->output_hash ? QG_SHIFT_SAME_BITS : judge_quality(p);
}

/* --- time ------------------------------------------------------------------------------------ */

struct median {
    double at, low, high, overhead;
};

/* The median of n samples (sorted in place) and its order-statistic interval; false when there are
 * too few for one, or when they are no times. */
static bool take_median(double *x, size_t n, double overhead, struct median *ret_m)
{
    gsl_sort(x, 1, n);
    size_t k = 0; // the k-th from either end is outside the interval with probability each_tail
    while (k < n / 2 && gsl_cdf_binomial_P((unsigned)k, 0.5, (unsigned)n) <= each_tail)
        k++;
    if (k == 0 || !(x[k - 1] > 0) || !isfinite(x[n - 1]))
        return false;
    *ret_m =
        (struct median){gsl_stats_median_from_sorted_data(x, 1, n), x[k - 1], x[n - k], overhead};
    return true;
}

/* Warm samples where both runs have them, else cold ones. */
static bool median_of(const struct qg_result *r, const struct qg_record *c, bool warm,
                      struct median *ret_m)
{
    size_t n = warm ? c->warm.samples : c->cold.samples;
    const double *from = r->samples + c->samples_at + (warm ? 0 : c->warm.samples);
    double *x = n ? malloc(n * sizeof *x) : NULL;
    if (!x)
        return false;
    memcpy(x, from, n * sizeof *x);
    bool ok = take_median(x, n, c->overhead_s, ret_m);
    free(x);
    return ok;
}

/* The ratio and its interval; the margin so far is what the call overheads may explain. */
static void measure_time(const struct qg_comparison *c, struct qg_pair *p)
{
    struct median b, h;
    bool warm = p->base->warm.samples && p->head->warm.samples;
    bool timed = warm || (p->base->cold.samples && p->head->cold.samples);
    if (!timed)
        return;
    p->pace = QG_PACE_UNDECIDED;
    p->was = warm ? &p->base->warm : &p->base->cold;
    p->is = warm ? &p->head->warm : &p->head->cold;
    if (!median_of(c->base, p->base, warm, &b) || !median_of(c->head, p->head, warm, &h))
        return;
    p->ratio = h.at / b.at;
    p->low = h.low / b.high;
    p->high = h.high / b.low;
    p->margin = fabs(h.overhead - b.overhead) / b.at;
    if (!isfinite(p->margin)) // a file without overheads
        p->margin = 0;
}

/* Half of the sorted values, the half that lies closest together: its middle and, from its width,
 * the standard deviation of a normal distribution. */
static void closest_half(const double *x, size_t n, double *ret_middle, double *ret_deviation)
{
    size_t half = n / 2 + 1, best = 0;
    for (size_t i = 0; i + half <= n; i++)
        if (x[i + half - 1] - x[i] < x[best + half - 1] - x[best])
            best = i;
    double low = x[best], high = x[best + half - 1];
    *ret_middle = (low + high) / 2;
    *ret_deviation = (high - low) / 2 / gsl_cdf_ugaussian_Pinv(0.75);
}

static bool estimate_noise(struct qg_comparison *c)
{
    double *x = malloc((c->n_pairs + 1) * sizeof *x), middle, deviation;
    size_t n = 0;
    if (!x)
        return false;
    for (size_t i = 0; i < c->n_pairs; i++)
        if (!isnan(c->pair[i].ratio))
            x[n++] = log(c->pair[i].ratio);
    gsl_sort(x, 1, n);
    if (n >= ENOUGH_FOR_NOISE) {
        closest_half(x, n, &middle, &deviation);
        c->noise = expm1(deviation);
        c->noise_margin = expm1(deviation * gsl_cdf_ugaussian_Qinv(any_false_alarm / (double)n));
        c->common_ratio = exp(middle);
    }
    free(x);
    return true;
}

static void judge_time(const struct qg_comparison *c, struct qg_pair *p, double margin)
{
    if (isnan(p->ratio))
        return;
    p->margin += margin > c->noise_margin ? margin : c->noise_margin;
    p->visible = (1 + p->margin) * p->ratio / p->low - 1;
    double slow = 1 + p->margin, fast = 1 / slow;
    if (c->other_machine)
        p->pace = QG_PACE_UNDECIDED;
    else if (p->low > slow)
        p->pace = QG_PACE_SLOWER;
    else if (p->high < fast)
        p->pace = QG_PACE_FASTER;
    else
        p->pace = p->low > fast && p->high < slow ? QG_PACE_SAME : QG_PACE_UNDECIDED;
}

static bool smallest_visible(struct qg_comparison *c)
{
    double *x = malloc((c->n_pairs + 1) * sizeof *x);
    size_t n = 0;
    if (!x)
        return false;
    for (size_t i = 0; i < c->n_pairs; i++)
        if (!isnan(c->pair[i].visible))
            x[n++] = c->pair[i].visible;
    gsl_sort(x, 1, n);
    c->visible = n ? gsl_stats_median_from_sorted_data(x, 1, n) : NAN;
    free(x);
    return true;
}

/* --- summing up ------------------------------------------------------------------------------ */

bool qg_pair_chose_otherwise(const struct qg_pair *p)
{
    return p->base && p->head && *p->base->algorithm && *p->head->algorithm &&
           strcmp(p->base->algorithm, p->head->algorithm) != 0;
}

bool qg_is_other_clock(double was, double is)
{
    return fabs(is - was) > 0.02 * fmax(was, is);
}

bool qg_pair_at_other_clocks(const struct qg_pair *p)
{
    if (!p->was || !p->is)
        return false;
    const struct qg_conditions *b = &p->was->under, *h = &p->is->under;
    return qg_is_other_clock(b->sm_mhz_low, h->sm_mhz_low) ||
           qg_is_other_clock(b->sm_mhz_high, h->sm_mhz_high) ||
           qg_is_other_clock(b->memory_mhz, h->memory_mhz);
}

bool qg_pair_was_discarded(const struct qg_pair *p)
{
    return p->base && p->head && !p->was &&
           ((p->base->warm.samples && qg_is_discarded(&p->head->warm)) ||
            (p->base->cold.samples && qg_is_discarded(&p->head->cold)));
}

static void tally(struct qg_pair_group *g, const struct qg_pair *p)
{
    g->n++;
    g->newly_bad += p->newly_bad;
    g->newly_good += p->newly_good;
    g->other_verdict += p->base && p->head && p->base->verdict != p->head->verdict &&
                        !p->newly_bad && !p->newly_good;
    g->only_base += !p->head;
    g->only_head += !p->base;
    if (!p->base || !p->head)
        return;
    g->shift[p->shift]++;
    g->pace[p->pace]++;
    g->other_algorithm += qg_pair_chose_otherwise(p);
    g->other_clocks += qg_pair_at_other_clocks(p);
    g->discarded += qg_pair_was_discarded(p);
    g->changed += p->changed;
    g->compared += p->compared;
    if (p->shift >= QG_SHIFT_OTHER_BITS && !isnan(p->sqnr_change_db)) {
        g->sqnr_low = fmin(g->sqnr_low, p->sqnr_change_db);
        g->sqnr_high = fmax(g->sqnr_high, p->sqnr_change_db);
    }
    if (isnan(p->ratio))
        return;
    if (!g->slowest || p->ratio > g->slowest->ratio)
        g->slowest = p;
    if (!g->fastest || p->ratio < g->fastest->ratio)
        g->fastest = p;
}

static const struct qg_record *either(const struct qg_pair *p)
{
    return p->head ? p->head : p->base;
}

static const struct qg_pair_group empty_group = {.sqnr_low = INFINITY, .sqnr_high = -INFINITY};

static void sum_up(struct qg_comparison *c)
{
    c->total = empty_group;
    for (size_t i = 0; i < c->n_pairs; i++) {
        const struct qg_pair *p = &c->pair[i];
        if (i == 0 || by_kernel(either(p), either(p - 1)) != 0) {
            struct qg_pair_group *g = &c->group[c->n_groups++];
            *g = empty_group;
            g->first = i;
            qg_kernel_of(either(p), g->name, sizeof g->name);
        }
        tally(&c->group[c->n_groups - 1], p);
        tally(&c->total, p);
    }
}

static void judge_pair(const struct qg_comparison *c, struct qg_pair *p)
{
    if (!p->base) {
        p->newly_bad = !is_fine(p->head) && p->head->verdict != QG_SKIP;
        return;
    }
    if (!p->head)
        return;
    p->newly_bad = is_fine(p->base) && !is_fine(p->head);
    p->newly_good = !is_fine(p->base) && is_fine(p->head);
    judge_output(c, p);
    measure_time(c, p);
}

/* Whether a fact only says which run this was, or was measured in it. */
static bool names_the_run(const char *key)
{
    static const char *const keys[] = {
        "commit", "version", "binary", "time_utc", "load", "clock_resolution_s", "cases_planned"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (strcmp(key, keys[i]) == 0)
            return true;
    return false;
}

/* Facts that differ, as BASE lists them, then those that only HEAD has. */
static void compare_facts(struct qg_comparison *c)
{
    const struct qg_meta *meta[2] = {&c->base->meta, &c->head->meta};
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < meta[side]->n; i++) {
            const char *key = meta[side]->item[i].key;
            struct qg_fact f = {key, qg_meta_get(meta[0], key), qg_meta_get(meta[1], key)};
            bool seen = side == 1 && *f.base;
            if (!seen && !names_the_run(key) && strcmp(f.base, f.head) != 0)
                c->fact[c->n_facts++] = f;
        }
    }
}

enum qg_status qg_comparison_make(const struct qg_result *base, const struct qg_result *head,
                                  double margin, struct qg_comparison **ret_c, struct qg_error *err)
{
    struct qg_comparison *c = calloc(1, sizeof *c);
    const struct qg_record **b = sorted(base), **h = sorted(head);
    bool ok = c && b && h;
    if (ok) {
        size_t most = base->n_cases + head->n_cases + 1;
        c->base = base;
        c->head = head;
        c->noise = c->common_ratio = NAN;
        c->other_machine =
            strcmp(qg_meta_get(&base->meta, "cpu"), qg_meta_get(&head->meta, "cpu")) != 0;
        compare_facts(c);
        c->pair = calloc(most, sizeof *c->pair);
        c->group = calloc(most, sizeof *c->group);
        ok = c->pair && c->group;
    }
    if (ok) {
        match(c, b, base->n_cases, h, head->n_cases);
        for (size_t i = 0; i < c->n_pairs; i++)
            judge_pair(c, &c->pair[i]);
        ok = estimate_noise(c);
    }
    if (ok) {
        for (size_t i = 0; i < c->n_pairs; i++)
            judge_time(c, &c->pair[i], margin);
        sum_up(c);
        ok = smallest_visible(c) && qg_comparison_models(c, err) == QG_OK &&
             qg_comparison_resources(c, err) == QG_OK;
    }
    free(b);
    free(h);
    if (!ok) {
        qg_comparison_free(&c);
        return qg_fail(err, QG_ENOMEM, "no memory to compare %zu with %zu cases", base->n_cases,
                       head->n_cases);
    }
    *ret_c = c;
    return QG_OK;
}

void qg_comparison_free(struct qg_comparison **c)
{
    if (!*c)
        return;
    free((*c)->pair);
    free((*c)->group);
    free((*c)->modelled);
    free((*c)->foretold);
    free((*c)->resource);
    free(*c);
    *c = NULL;
}

bool qg_pair_regressed(const struct qg_pair *p, unsigned on)
{
    bool moved =
        p->shift == QG_SHIFT_OTHER_BITS || p->shift == QG_SHIFT_UP || p->shift == QG_SHIFT_DOWN;
    return (on & QG_ON_VERDICT && p->newly_bad) ||
           (on & QG_ON_QUALITY && p->shift == QG_SHIFT_DOWN) ||
           (on & QG_ON_SLOWER && p->pace == QG_PACE_SLOWER) || (on & QG_ON_BITS && moved) ||
           (on & QG_ON_UNDECIDED && p->pace == QG_PACE_UNDECIDED) ||
           (on & QG_ON_MISSING && !p->head);
}

static bool says_something(const struct qg_pair *p)
{
    return p->base && p->head && p->shift != QG_SHIFT_INPUT &&
           (p->base->verdict != QG_SKIP || p->head->verdict != QG_SKIP);
}

const char *qg_comparison_void(const struct qg_comparison *c)
{
    size_t modelled =
        c->n_modelled - c->drift[QG_DRIFT_NONE] - c->modelled_only_base - c->modelled_only_head;
    if (modelled || c->n_foretold - c->foretold_only_base - c->foretold_only_head)
        return NULL;
    bool resources = c->n_resources > c->burden[QG_BURDEN_NONE];
    if (c->total.only_base + c->total.only_head == c->n_pairs && (c->n_pairs || !resources))
        return "the files have no case in common";
    if (resources && !c->total.shift[QG_SHIFT_INPUT])
        return NULL;
    for (size_t i = 0; i < c->n_pairs; i++)
        if (says_something(&c->pair[i]))
            return NULL;
    return "every case in common has other inputs or was skipped";
}

size_t qg_comparison_regressions(const struct qg_comparison *c, unsigned on)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_pairs; i++)
        n += qg_pair_regressed(&c->pair[i], on);
    n += qg_model_regressions(c, on) + qg_resource_regressions(c, on);
    // agreement about nothing is no agreement
    return n == 0 && qg_comparison_void(c) ? 1 : n;
}

const char *qg_group_class(const struct qg_pair_group *g)
{
    if (g->shift[QG_SHIFT_UP] || g->shift[QG_SHIFT_DOWN])
        return "quality moved";
    if (g->shift[QG_SHIFT_OTHER_BITS])
        return "other bits, same quality";
    return g->shift[QG_SHIFT_SAME_BITS] ? "same bits" : "not comparable";
}

bool qg_group_is_quiet(const struct qg_pair_group *g)
{
    return g->shift[QG_SHIFT_NONE] + g->shift[QG_SHIFT_SAME_BITS] == g->n && !g->newly_bad &&
           !g->newly_good && !g->other_verdict && !g->pace[QG_PACE_SLOWER] &&
           !g->pace[QG_PACE_FASTER];
}
