/* SPDX-License-Identifier: MIT
 *
 * A comparison as Markdown for a pull request: the answer first, details folded.
 */
#include <math.h>
#include <string.h>

#include "reports/digest.h"
#include "reports/put.h"
#include "reports/report.h"

/* Text in a table cell or a line: nothing in it may be markup. */
static void put_safe(FILE *out, const char *s)
{
    for (; *s; s++) {
        if (*s == '<')
            fputs("&lt;", out);
        else if (*s == '&')
            fputs("&amp;", out);
        else if (strchr("\\`*_{}[]()#+!|>~@", *s))
            fprintf(out, "\\%c", *s);
        else
            putc(*s, out);
    }
}

/* Text inside <code>: HTML rules, and no character that Markdown would look at. */
static void put_code(FILE *out, const char *s)
{
    for (; *s; s++) {
        if (strchr("<>&\"`*_|\\[]~@", *s))
            fprintf(out, "&#%d;", *s);
        else
            putc(*s, out);
    }
}

static void put_facts(FILE *out, const struct qg_comparison *c)
{
    for (size_t i = 0; i < c->n_facts; i++) {
        fputs("- **", out);
        put_safe(out, c->fact[i].key);
        fputs("** differs: ", out);
        put_safe(out, *c->fact[i].base ? c->fact[i].base : "(none)");
        fputs(" → ", out);
        put_safe(out, *c->fact[i].head ? c->fact[i].head : "(none)");
        putc('\n', out);
    }
    if (c->other_machine)
        fputs("- times are from different machines: none is decided\n", out);
    if (c->n_facts)
        putc('\n', out);
}

static void put_incomplete(FILE *out, const char *which, const struct qg_result *r)
{
    if (qg_cases_planned(r) > r->n_cases)
        fprintf(out, "**%s is incomplete: %zu of %llu cases.**\n\n", which, r->n_cases,
                (unsigned long long)qg_cases_planned(r));
}

static void put_group(FILE *out, const struct qg_pair_group *g)
{
    fputs("| ", out);
    put_safe(out, g->name);
    fprintf(out, " | %zu | %s |", g->n, qg_group_class(g));
    if (g->sqnr_low <= g->sqnr_high)
        fprintf(out, " %s … %s", qg_text_rounded(g->sqnr_low, 2, 1).s,
                qg_text_rounded(g->sqnr_high, 2, 1).s);
    fprintf(out, " | %zu | %zu |", g->newly_bad, g->newly_good);
    if (g->slowest)
        fprintf(out, " %.3f … %.3f", g->fastest->ratio, g->slowest->ratio);
    for (int p = QG_PACE_UNDECIDED; p < QG_PACE_COUNT; p++)
        if (g->pace[p])
            fprintf(out, " (%zu %s)", g->pace[p], qg_pace_name(p));
    fputs(" |\n", out);
}

static void put_groups(FILE *out, const struct qg_comparison *c, bool quiet)
{
    fputs("| kernel | cases | output | SQNR change, dB | newly bad | newly good | time HEAD/BASE "
          "|\n|---|--:|---|--:|--:|--:|---|\n",
          out);
    for (size_t i = 0; i < c->n_groups; i++)
        if (qg_group_is_quiet(&c->group[i]) == quiet)
            put_group(out, &c->group[i]);
    putc('\n', out);
}

static size_t count_quiet(const struct qg_comparison *c)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_groups; i++)
        n += qg_group_is_quiet(&c->group[i]);
    return n;
}

static void put_case(FILE *out, const struct qg_pair *p)
{
    const struct qg_record *r = p->head ? p->head : p->base;
    fprintf(out, "- %s → %s", p->base ? qg_verdict_name(p->base->verdict) : "absent",
            p->head ? qg_verdict_name(p->head->verdict) : "absent");
    if (p->shift >= QG_SHIFT_OTHER_BITS && (!isnan(p->base->sqnr_db) || !isnan(p->head->sqnr_db)))
        fprintf(out, ", SQNR %s → %s dB", qg_text_rounded(p->base->sqnr_db, 2, 0).s,
                qg_text_rounded(p->head->sqnr_db, 2, 0).s);
    if (!isnan(p->ratio))
        fprintf(out, ", time %.3f \\[%.3f, %.3f\\] %s", p->ratio, p->low, p->high,
                qg_pace_name(p->pace));
    qg_put_clocks(out, p, "→");
    if (p->head && *p->head->reason) {
        fputs(": ", out);
        put_safe(out, p->head->reason);
    }
    fputs("<br><code>", out);
    qg_put_repro(out, r, put_code);
    fputs("</code>\n", out);
}

static void put_models(FILE *out, const struct qg_comparison *c)
{
    if (c->n_modelled)
        qg_put_models(out, c);
    if (c->n_modelled && c->n_foretold)
        putc('\n', out);
    if (c->n_foretold)
        qg_put_predictions(out, c);
    if (c->n_modelled || c->n_foretold)
        putc('\n', out);
    for (size_t i = 0; i < c->n_modelled; i++) {
        const struct qg_modelled_pair *p = &c->modelled[i];
        if (p->drift < QG_DRIFT_BETTER)
            continue;
        fputs("- ", out);
        put_safe(out, p->head->name);
        putc(' ', out);
        put_safe(out, p->head->params);
        fprintf(out, " %s: %s, KL %.6g → %.6g, perplexity %.6g → %.6g\n", p->head->path,
                qg_drift_name(p->drift), p->base->kl, p->head->kl, p->base->ppl, p->head->ppl);
    }
    if (c->drift[QG_DRIFT_BETTER] + c->drift[QG_DRIFT_WORSE])
        putc('\n', out);
}

static void put_resources(FILE *out, const struct qg_comparison *c)
{
    if (!c->n_resources)
        return;
    qg_put_resources(out, c);
    putc('\n', out);
    for (size_t i = 0; i < c->n_resources; i++) {
        const struct qg_resource_pair *p = &c->resource[i];
        if (p->burden < QG_BURDEN_LIGHTER)
            continue;
        fputs("- ", out);
        put_safe(out, p->head->file);
        putc(' ', out);
        put_safe(out, p->head->kernel);
        fputs(" for ", out);
        put_safe(out, p->head->target);
        fputs(": ", out);
        qg_put_burden(out, p, "→", put_safe);
        putc('\n', out);
    }
    if (c->burden[QG_BURDEN_LIGHTER] + c->burden[QG_BURDEN_HEAVIER])
        putc('\n', out);
}

void qg_compare_markdown(const struct qg_comparison *c, unsigned on, bool verbose, FILE *out)
{
    const struct qg_pair_group *t = &c->total;
    size_t common = c->n_pairs - t->only_base - t->only_head, quiet = count_quiet(c);
    size_t n = qg_comparison_regressions(c, on),
           rows = qg_model_regressions(c, on) + qg_resource_regressions(c, on);
    const char *nothing = qg_comparison_void(c);
    if (nothing)
        fprintf(out, "### qgauge: nothing was compared: %s\n\n", nothing);
    else if (n) {
        fprintf(out, "### qgauge: regression in %zu of %zu cases", n - rows, c->n_pairs);
        qg_put_regressions(out, c, on);
        fputs("\n\n", out);
    } else if (qg_cases_planned(c->head) > c->head->n_cases)
        fputs("### qgauge: no regression so far: HEAD is incomplete\n\n", out);
    else
        fputs("### qgauge: no regression\n\n", out);
    put_incomplete(out, "BASE", c->base);
    put_incomplete(out, "HEAD", c->head);
    fprintf(out, "%zu cases in both, %zu only in BASE, %zu only in HEAD", common, t->only_base,
            t->only_head);
    if (t->shift[QG_SHIFT_INPUT])
        fprintf(out, "; %zu have other inputs and are not compared", t->shift[QG_SHIFT_INPUT]);
    fprintf(out, "; %zu newly bad, quality of %zu down, %zu slower, %zu undecided.\n\n",
            t->newly_bad, t->shift[QG_SHIFT_DOWN], t->pace[QG_PACE_SLOWER],
            t->pace[QG_PACE_UNDECIDED]);
    if (t->other_algorithm)
        fprintf(out, "%zu cases took another algorithm of cuBLASLt (no regression by itself).\n\n",
                t->other_algorithm);
    if (t->other_clocks)
        fprintf(out,
                "In %zu cases the device's clocks differ by more than 2 %% (no regression by "
                "itself).\n\n",
                t->other_clocks);
    if (t->discarded)
        fprintf(
            out,
            "%zu cases that were timed in BASE have no times in HEAD: the device had lowered its "
            "clocks (no regression by itself).\n\n",
            t->discarded);
    put_facts(out, c);
    if (quiet < c->n_groups)
        put_groups(out, c, false);
    put_models(out, c);
    put_resources(out, c);
    size_t bad = nothing ? 0 : n - rows;
    if (bad) {
        fprintf(out, "<details><summary>%zu regressed case%s</summary>\n\n", bad,
                bad == 1 ? "" : "s");
        for (size_t i = 0; i < c->n_pairs; i++)
            if (qg_pair_regressed(&c->pair[i], on))
                put_case(out, &c->pair[i]);
        fputs("\n</details>\n\n", out);
    }
    if (quiet && verbose) {
        fprintf(out, "Nothing moved in %zu kernels:\n\n", quiet);
        put_groups(out, c, true);
    } else if (quiet)
        fprintf(out, "Nothing moved in %zu kernels.\n\n", quiet);
    if (t->slowest)
        fprintf(out, "Smallest slowdown that could have been called one: %+.1f %% (median case).\n",
                100 * c->visible);
}
