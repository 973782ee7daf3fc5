/* SPDX-License-Identifier: MIT
 *
 * A comparison as one screen of text.
 */
#include <math.h>
#include <string.h>

#include "reports/digest.h"
#include "reports/put.h"
#include "reports/report.h"

enum { MOST_GROUPS = 12, MOST_CASES = 4, MOST_FACTS = 6 };

static void put_run(FILE *out, const char *which, const struct qg_result *r)
{
    static const char *const keys[] = {"version", "commit", "cpu", "time_utc"};
    fprintf(out, "%s", which);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const char *value = qg_meta_get(&r->meta, keys[i]);
        fputs(i ? ", " : "  ", out);
        fputs(*value ? value : "?", out);
    }
    fprintf(out, ", %zu cases\n", r->n_cases);
    if (qg_cases_planned(r) > r->n_cases)
        fprintf(out, "! %s is incomplete: %zu of %llu cases\n", which, r->n_cases,
                (unsigned long long)qg_cases_planned(r));
}

static void put_facts(FILE *out, const struct qg_comparison *c, size_t most)
{
    for (size_t i = 0; i < c->n_facts && i < most; i++) {
        const struct qg_fact *f = &c->fact[i];
        fputs("! ", out);
        fputs(f->key, out);
        fputs(" differs: ", out);
        fputs(*f->base ? f->base : "(none)", out);
        fputs("  ->  ", out);
        fputs(*f->head ? f->head : "(none)", out);
        putc('\n', out);
    }
    if (c->n_facts > most)
        fprintf(out, "! and %zu more facts of the runs differ (-v)\n", c->n_facts - most);
    if (c->other_machine)
        fputs("! times are from different machines: none is decided\n", out);
}

static void put_time(FILE *out, const struct qg_pair_group *g)
{
    static const enum qg_pace loud[] = {QG_PACE_SLOWER, QG_PACE_FASTER, QG_PACE_UNDECIDED};
    const char *separator = "  ";
    if (!g->slowest) {
        fputs("-", out);
        return;
    }
    if (g->slowest == g->fastest)
        fprintf(out, "%.3f [%.3f, %.3f]", g->slowest->ratio, g->slowest->low, g->slowest->high);
    else
        fprintf(out, "%.3f .. %.3f", g->fastest->ratio, g->slowest->ratio);
    for (size_t i = 0; i < sizeof loud / sizeof loud[0]; i++) {
        if (!g->pace[loud[i]])
            continue;
        fprintf(out, "%s%zu %s", separator, g->pace[loud[i]], qg_pace_name(loud[i]));
        separator = ", ";
    }
    if (g->other_clocks)
        fprintf(out, "%s%zu at other clocks", separator, g->other_clocks);
}

/* Columns that the longest name needs. */
static int name_width(const struct qg_comparison *c, bool verbose)
{
    size_t width = 12, n;
    for (size_t i = 0; i < c->n_groups; i++)
        if ((verbose || !qg_group_is_quiet(&c->group[i])) && (n = strlen(c->group[i].name)) > width)
            width = n;
    return (int)width;
}

static void put_group(FILE *out, const struct qg_pair_group *g, int width)
{
    char quality[48] = "-";
    size_t moved = g->shift[QG_SHIFT_OTHER_BITS] + g->shift[QG_SHIFT_UP] + g->shift[QG_SHIFT_DOWN];
    if (moved && g->sqnr_low <= g->sqnr_high)
        snprintf(quality, sizeof quality, "%s..%s", qg_text_rounded(g->sqnr_low, 2, 1).s,
                 qg_text_rounded(g->sqnr_high, 2, 1).s);
    fprintf(out, "%-*s %5zu  %-24s %5zu  %-14s %4zu %4zu  ", width, g->name, g->n,
            qg_group_class(g), moved, quality, g->newly_bad, g->newly_good);
    put_time(out, g);
    putc('\n', out);
}

static void put_groups(FILE *out, const struct qg_comparison *c, bool verbose)
{
    size_t shown = 0, quiet = 0, hidden = 0;
    int width = name_width(c, verbose);
    for (size_t i = 0; i < c->n_groups; i++) {
        const struct qg_pair_group *g = &c->group[i];
        bool is_quiet = qg_group_is_quiet(g);
        if (!verbose && (is_quiet || shown == MOST_GROUPS)) {
            quiet += is_quiet;
            hidden += !is_quiet;
            continue;
        }
        if (shown++ == 0)
            fprintf(out, "\n%-*s %5s  %-24s %5s  %-14s %4s %4s  %s\n", width, "kernel", "cases",
                    "output", "moved", "SQNR dB", "bad+", "bad-", "time HEAD/BASE");
        put_group(out, g, width);
    }
    if (hidden)
        fprintf(out, "and %zu more kernels where something moved (-v)\n", hidden);
    if (quiet)
        fprintf(out, "%s%zu kernel%s: nothing moved\n", shown ? "" : "\n", quiet,
                quiet == 1 ? "" : "s");
}

static const char *verdict_of(const struct qg_record *r)
{
    return r ? qg_verdict_name(r->verdict) : "(absent)";
}

static void put_moved(FILE *out, const struct qg_pair *p)
{
    fprintf(out, "; %s", qg_shift_name(p->shift));
    if (p->shift < QG_SHIFT_OTHER_BITS)
        return;
    if (!isnan(p->base->sqnr_db) || !isnan(p->head->sqnr_db))
        fprintf(out, ", SQNR %s -> %s dB", qg_text_rounded(p->base->sqnr_db, 2, 0).s,
                qg_text_rounded(p->head->sqnr_db, 2, 0).s);
    if (p->both_stored)
        fprintf(out, ", %llu of %llu %s differ, the first at %lld", (unsigned long long)p->changed,
                (unsigned long long)p->compared,
                strcmp(p->base->op, "convert") == 0 ? "bytes of the first plane" : "elements",
                (long long)p->first_changed);
}

static void put_plain(FILE *out, const char *s)
{
    fputs(s, out);
}

static void put_algorithms(FILE *out, const struct qg_pair *p)
{
    const struct qg_record *r = p->head ? p->head : p->base;
    if (qg_pair_chose_otherwise(p))
        fprintf(out, "; cuBLASLt chose %s -> %s", p->base->algorithm, p->head->algorithm);
    else if (*r->algorithm)
        fprintf(out, "; cuBLASLt chose %s", r->algorithm);
}

static void put_pair(FILE *out, const struct qg_pair *p)
{
    const struct qg_record *r = p->head ? p->head : p->base;
    fprintf(out, "  %s -> %s", verdict_of(p->base), verdict_of(p->head));
    if (p->base && p->head) {
        put_moved(out, p);
        if (!isnan(p->ratio))
            fprintf(out, "; time %.3f [%.3f, %.3f] %s", p->ratio, p->low, p->high,
                    qg_pace_name(p->pace));
        qg_put_clocks(out, p, "->");
    }
    if (p->head && *p->head->reason) {
        fputs("; ", out);
        fputs(p->head->reason, out);
    }
    put_algorithms(out, p);
    fputs("\n      ", out);
    qg_put_repro(out, r, put_plain);
    putc('\n', out);
}

/* The cases that are regressions of one kind; 0: every case. */
static void put_list(FILE *out, const struct qg_comparison *c, const char *title, size_t n,
                     unsigned kind, bool verbose)
{
    size_t shown = 0;
    if (n == 0)
        return;
    fprintf(out, "\n%s: %zu\n", title, n);
    for (size_t i = 0; i < c->n_pairs && (verbose || shown < MOST_CASES); i++) {
        if (kind && !qg_pair_regressed(&c->pair[i], kind))
            continue;
        put_pair(out, &c->pair[i]);
        shown++;
    }
    if (shown < n)
        fprintf(out, "  and %zu more (-v)\n", n - shown);
}

/* Cases for which cuBLASLt now takes another algorithm: to know, not a regression. */
static void put_chosen(FILE *out, const struct qg_comparison *c, size_t most)
{
    size_t shown = 0, n = c->total.other_algorithm;
    if (n)
        fprintf(out, "\nanother algorithm of cuBLASLt, no regression by itself: %zu\n", n);
    for (size_t i = 0; i < c->n_pairs && shown < most; i++) {
        const struct qg_pair *p = &c->pair[i];
        if (!qg_pair_chose_otherwise(p))
            continue;
        fprintf(out, "  %s\n      %s\n   -> %s\n", p->head->spelling, p->base->algorithm,
                p->head->algorithm);
        shown++;
    }
    if (shown < n)
        fprintf(out, "  and %zu more (-v)\n", n - shown);
}

/* Cases that lost their times to lowered clocks: nobody knows what became of them. */
static void put_discarded(FILE *out, const struct qg_comparison *c, size_t most)
{
    size_t shown = 0, n = c->total.discarded;
    if (n)
        fprintf(out,
                "\ntimed in BASE, in HEAD always with lowered clocks, no regression by itself: "
                "%zu\n",
                n);
    for (size_t i = 0; i < c->n_pairs && shown < most; i++) {
        if (!qg_pair_was_discarded(&c->pair[i]))
            continue;
        put_pair(out, &c->pair[i]);
        shown++;
    }
    if (shown < n)
        fprintf(out, "  and %zu more (-v)\n", n - shown);
}

/* "0.0033 [0.0032, 0.0034] -> 0.0041 [0.0040, 0.0042]" */
static void put_change(FILE *out, const char *what, const double was[3], const double is[3])
{
    if (memcmp(was, is, 3 * sizeof *was) != 0)
        fprintf(out, "; %s %.6g [%.6g, %.6g] -> %.6g [%.6g, %.6g]", what, was[0], was[1], was[2],
                is[0], is[1], is[2]);
}

static void put_modelled_pair(FILE *out, const struct qg_modelled_pair *p)
{
    const struct qg_modelled *b = p->base, *h = p->head, *any = h ? h : b;
    fprintf(out, "  %s%s%s, %s: ", any->name, any->params[0] ? " " : "", any->params, any->path);
    if (!b || !h) {
        fprintf(out, "only in %s\n", h ? "HEAD" : "BASE");
        return;
    }
    fputs(qg_drift_name(p->drift), out);
    if (b->reason[0] || h->reason[0]) {
        fprintf(out, "; %s: %s\n", h->reason[0] ? "not evaluated" : "was not evaluated",
                h->reason[0] ? h->reason : b->reason);
        return;
    }
    put_change(out, "ppl", (double[]){b->ppl, b->ppl_low, b->ppl_high},
               (double[]){h->ppl, h->ppl_low, h->ppl_high});
    put_change(out, "ln ppl", (double[]){b->delta, b->delta_low, b->delta_high},
               (double[]){h->delta, h->delta_low, h->delta_high});
    put_change(out, "KL", (double[]){b->kl, b->kl_low, b->kl_high},
               (double[]){h->kl, h->kl_low, h->kl_high});
    putc('\n', out);
}

static void put_foretold_pair(FILE *out, const struct qg_foretold_pair *p)
{
    const struct qg_foretold *b = p->base, *h = p->head, *any = h ? h : b;
    fprintf(out, "  %s%s%s: ", any->name, any->params[0] ? " " : "", any->params);
    if (!b || !h)
        fprintf(out, "only in %s\n", h ? "HEAD" : "BASE");
    else
        fprintf(out, "KL by weights %.9g -> %.9g, by outputs %.9g -> %.9g\n", b->kl_by_weights,
                h->kl_by_weights, b->kl_by_outputs, h->kl_by_outputs);
}

/* Rows that moved or are missing, the worst first; `verbose`: all of them. */
static void put_modelled(FILE *out, const struct qg_comparison *c, bool verbose)
{
    static const enum qg_drift order[] = {QG_DRIFT_WORSE, QG_DRIFT_BETTER, QG_DRIFT_OTHER,
                                          QG_DRIFT_NONE, QG_DRIFT_SAME};
    size_t shown = 0, most = verbose ? c->n_modelled : MOST_CASES;
    size_t loud = c->n_modelled - c->drift[QG_DRIFT_SAME] - c->drift[QG_DRIFT_NONE];
    if (!c->n_modelled)
        return;
    qg_put_models(out, c);
    for (size_t k = 0; k < sizeof order / sizeof order[0]; k++)
        for (size_t i = 0; i < c->n_modelled; i++) {
            const struct qg_modelled_pair *p = &c->modelled[i];
            bool quiet = p->base && p->head && p->drift <= QG_DRIFT_SAME;
            if (p->drift != order[k] || (quiet && !verbose) || shown == most)
                continue;
            put_modelled_pair(out, p);
            shown++;
        }
    if (shown < loud)
        fprintf(out, "  and %zu more (-v)\n", loud - shown);
}

static void put_foretold(FILE *out, const struct qg_comparison *c, bool verbose)
{
    size_t shown = 0, most = verbose ? c->n_foretold : MOST_CASES;
    size_t loud = c->foretold_changed + c->foretold_only_base + c->foretold_only_head;
    if (!c->n_foretold)
        return;
    qg_put_predictions(out, c);
    for (size_t i = 0; i < c->n_foretold && shown < most; i++) {
        const struct qg_foretold_pair *p = &c->foretold[i];
        if (p->changed || !p->base || !p->head) {
            put_foretold_pair(out, p);
            shown++;
        }
    }
    if (shown < loud)
        fprintf(out, "  and %zu more (-v)\n", loud - shown);
}

/* Kernels whose burden is another or that are missing, the heavier first; `verbose`: all of them.
 */
static void put_resources(FILE *out, const struct qg_comparison *c, bool verbose)
{
    size_t shown = 0, most = verbose ? c->n_resources : MOST_CASES;
    size_t loud = c->n_resources - c->burden[QG_BURDEN_SAME];
    if (!c->n_resources)
        return;
    qg_put_resources(out, c);
    for (int b = QG_BURDEN_COUNT - 1; b >= QG_BURDEN_NONE; b--)
        for (size_t i = 0; i < c->n_resources && shown < most; i++) {
            const struct qg_resource_pair *p = &c->resource[i];
            const struct qg_resource *any = p->head ? p->head : p->base;
            if (p->burden != (enum qg_burden)b || (b == QG_BURDEN_SAME && !verbose))
                continue;
            fprintf(out, "  %s %s for %s: ", any->file, any->kernel, any->target);
            if (p->base && p->head)
                qg_put_burden(out, p, "->", put_plain);
            else
                fputs(p->head ? "only in HEAD" : "only in BASE", out);
            putc('\n', out);
            shown++;
        }
    if (shown < loud)
        fprintf(out, "  and %zu more (-v)\n", loud - shown);
}

static void put_noise(FILE *out, const struct qg_comparison *c)
{
    const size_t *pace = c->total.pace;
    if (pace[QG_PACE_NONE] == c->total.n || !c->total.slowest)
        return;
    fprintf(out, "\ntime: %zu same, %zu slower, %zu faster, %zu undecided", pace[QG_PACE_SAME],
            pace[QG_PACE_SLOWER], pace[QG_PACE_FASTER], pace[QG_PACE_UNDECIDED]);
    fprintf(out, ". The smallest slowdown this comparison could have called one: %+.1f %%\n",
            100 * c->visible);
    if (!isnan(c->noise))
        fprintf(out,
                "(median case). Noise between these two runs: %.1f %%, up to %.0f %% in one of all "
                "cases; "
                "half of all ratios lie around %.3f.\n",
                100 * c->noise, 100 * c->noise_margin, c->common_ratio);
    else
        fputs("(median case). Too few timed cases to estimate the noise between the runs.\n", out);
    if (c->total.other_clocks)
        fprintf(out,
                "The device's clocks differ by more than 2 %% in %zu, no regression by itself.\n",
                c->total.other_clocks);
}

void qg_compare_text(const struct qg_comparison *c, unsigned on, bool verbose, FILE *out)
{
    const struct qg_pair_group *t = &c->total;
    size_t common = c->n_pairs - t->only_base - t->only_head;
    put_run(out, "BASE", c->base);
    put_run(out, "HEAD", c->head);
    put_facts(out, c, verbose ? c->n_facts : MOST_FACTS);
    fprintf(out, "%zu cases in both", common);
    if (t->only_base || t->only_head)
        fprintf(out, "; %zu only in BASE, %zu only in HEAD", t->only_base, t->only_head);
    if (t->shift[QG_SHIFT_INPUT])
        fprintf(out, "; %zu have other inputs and are not compared", t->shift[QG_SHIFT_INPUT]);
    putc('\n', out);
    put_groups(out, c, verbose);
    put_list(out, c, "newly not passing", t->newly_bad, QG_ON_VERDICT, verbose);
    put_list(out, c, "quality down", t->shift[QG_SHIFT_DOWN], QG_ON_QUALITY, verbose);
    put_list(out, c, "slower", t->pace[QG_PACE_SLOWER], QG_ON_SLOWER, verbose);
    if (verbose)
        put_list(out, c, "all cases", c->n_pairs, 0, verbose);
    put_chosen(out, c, verbose ? c->n_pairs : MOST_CASES);
    put_discarded(out, c, verbose ? c->n_pairs : MOST_CASES);
    put_noise(out, c);
    put_modelled(out, c, verbose);
    put_foretold(out, c, verbose);
    put_resources(out, c, verbose);
    size_t rows = qg_model_regressions(c, on) + qg_resource_regressions(c, on);
    size_t n = qg_comparison_regressions(c, on);
    const char *nothing = qg_comparison_void(c);
    if (nothing)
        fprintf(out, "\nREGRESSION: nothing was compared: %s\n", nothing);
    else if (n) {
        fprintf(out, "\nREGRESSION: %zu case%s", n - rows, n - rows == 1 ? "" : "s");
        qg_put_regressions(out, c, on);
        putc('\n', out);
    } else if (qg_cases_planned(c->head) > c->head->n_cases)
        fputs("\nno regression so far: HEAD is incomplete\n", out);
    else
        fputs("\nno regression\n", out);
}
