/* SPDX-License-Identifier: MIT
 *
 * The report page: one file, no script, nothing from elsewhere. Every string of the result file
 * goes through put(); the pictures are gnuplot's SVG, whose texts gnuplot escapes.
 */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "reports/digest.h"
#include "reports/put.h"
#include "reports/report.h"
#include "reports/roofline.h"

enum { MOST_BAD = 200, MOST_GAPS = 400, FEW_GAPS = 40 };

static const char style[] =
    ":root{color-scheme:light dark;--ink:#1b1f23;--soft:#5c6670;--paper:#fff;--line:#d8dde2;"
    "--bad:#b3261e;--badbg:#fbe9e7;--ok:#1b6e45;--warn:#8a5a00}\n"
    "@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#a3adb6;--paper:#15181b;"
    "--line:#343a40;--bad:#ff8a80;--badbg:#3a1f1d;--ok:#7fd3a5;--warn:#f0b95a}}\n"
    "body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);"
    "max-width:76rem;margin:0 auto;padding:1.5rem}\n"
    "h1{font-size:1.6rem;margin:0 0 .3rem}h2{font-size:1.2rem;margin:2.2rem 0 .5rem;"
    "border-bottom:1px solid var(--line)}\n"
    "p,li{max-width:60rem}.soft{color:var(--soft)}.bad{color:var(--bad);font-weight:600}"
    ".ok{color:var(--ok)}.warn{color:var(--warn);font-weight:600}\n"
    "td.bad{background:var(--badbg)}code{font:13px/1.4 ui-monospace,monospace;"
    "overflow-wrap:anywhere}\n"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-size:13.5px}"
    "th,td{padding:.2rem .6rem;border-bottom:1px solid var(--line);text-align:right;"
    "white-space:nowrap}th{font-weight:600;vertical-align:bottom}"
    "th:first-child,td:first-child,.text{text-align:left}.wrap{white-space:normal}\n"
    "figure{margin:1rem 0;overflow-x:auto}figure svg{display:block;background:#fff;height:auto;"
    "max-width:100%;min-width:40rem}figcaption{color:var(--soft);font-size:13.5px;"
    "max-width:60rem}\n"
    "summary{cursor:pointer;margin:.5rem 0}nav a{margin-right:1rem}a{color:inherit}\n"
    "@media print{nav{display:none}body{max-width:none}}\n";

static void put(FILE *out, const char *s)
{
    for (; *s; s++) {
        switch (*s) {
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '&':
            fputs("&amp;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        case '\'':
            fputs("&#39;", out);
            break;
        default:
            putc(*s, out);
        }
    }
}

static void put_cell(FILE *out, const char *s)
{
    fputs("<td>", out);
    put(out, s);
    fputs("</td>", out);
}

static void put_lost(FILE *out, const struct qg_names *names, const char *what)
{
    if (names->lost)
        fprintf(out,
                "<p class=\"warn\">%zu cases have %s beyond the first %d; they are in the file "
                "but not on this page.</p>\n",
                names->lost, what, QG_NAMES_MAX);
}

/* --- sections -------------------------------------------------------------------------------- */

static void put_verdicts(FILE *out, const struct qg_result *r)
{
    size_t count[QG_VERDICT_COUNT] = {0}, fine;
    for (size_t i = 0; i < r->n_cases; i++)
        count[r->cases[i].verdict]++;
    fine = count[QG_PASS] + count[QG_MARGINAL];
    if (qg_cases_planned(r) > r->n_cases)
        fprintf(out, "<p><strong class=\"bad\">incomplete: %zu of %llu cases</strong></p>\n",
                r->n_cases, (unsigned long long)qg_cases_planned(r));
    fprintf(out, "<p><strong class=\"%s\">%zu of %zu cases pass.</strong>",
            fine == r->n_cases && fine ? "ok" : "bad", fine, r->n_cases);
    for (int v = QG_MARGINAL; v < QG_VERDICT_COUNT; v++)
        if (count[v])
            fprintf(out, " %zu %s.", count[v], qg_verdict_name((enum qg_verdict)v));
    fprintf(out, " %zu comparisons of prepare with convert.</p>\n", r->n_gaps);
}

static bool is_fine(const struct qg_record *c)
{
    return c->verdict == QG_PASS || c->verdict == QG_MARGINAL;
}

static void put_bad_cases(FILE *out, const struct qg_result *r)
{
    size_t bad = 0;
    fputs("<h2 id=\"bad\">Cases that do not pass</h2>\n", out);
    for (size_t i = 0; i < r->n_cases; i++) {
        const struct qg_record *c = &r->cases[i];
        if (is_fine(c) || bad++ >= MOST_BAD)
            continue;
        if (bad == 1)
            fputs("<div class=\"wide\"><table><tr><th>verdict</th><th class=\"text\">why, and the "
                  "line that repeats it</th></tr>\n",
                  out);
        fprintf(out, "<tr><td class=\"%s\">%s</td><td class=\"text wrap\">",
                c->verdict == QG_SKIP ? "warn" : "bad", qg_verdict_name(c->verdict));
        put(out, *c->reason ? c->reason : "no reason recorded");
        fputs("<br><code>", out);
        qg_put_repro(out, c, put);
        fputs("</code></td></tr>\n", out);
    }
    fputs(bad ? "</table></div>\n" : "<p>None.</p>\n", out);
    if (bad > MOST_BAD)
        fprintf(out, "<p class=\"warn\">and %zu more: qgauge export shows all.</p>\n",
                bad - MOST_BAD);
}

/* What cuBLASLt chose for each case that it multiplied. */
static void put_algorithms(FILE *out, const struct qg_result *r)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n_cases; i++)
        n += *r->cases[i].algorithm != '\0';
    if (!n)
        return;
    fputs("<details><summary>algorithms that cuBLASLt chose</summary>\n<div class=\"wide\"><table>"
          "<tr><th class=\"text\">case</th><th class=\"text\">algorithm, by the numbers of "
          "cublasLtMatmulAlgoConfigAttributes_t</th></tr>\n",
          out);
    for (size_t i = 0; i < r->n_cases; i++) {
        if (!*r->cases[i].algorithm)
            continue;
        fputs("<tr><td class=\"text wrap\"><code>", out);
        put(out, r->cases[i].spelling);
        fputs("</code></td><td class=\"text wrap\">", out);
        put(out, r->cases[i].algorithm);
        fputs("</td></tr>\n", out);
    }
    fputs("</table></div></details>\n", out);
}

/* One cell: how many of a row's cases with one operation and backend are fine. */
static void put_verdict_cell(FILE *out, const struct qg_digest *d, size_t row, size_t how)
{
    size_t n = 0, fine = 0;
    uint32_t worst = QG_PASS;
    for (size_t i = 0; i < d->r->n_cases; i++) {
        const struct qg_record *c = &d->r->cases[i];
        if (d->at[i][0] != row || d->at[i][2] != how)
            continue;
        n++;
        fine += is_fine(c);
        if (!is_fine(c) && (worst == QG_PASS || c->verdict < worst))
            worst = c->verdict;
    }
    if (n == 0)
        fputs("<td></td>", out);
    else if (fine == n)
        fprintf(out, "<td class=\"ok\">%zu</td>", n);
    else
        fprintf(out, "<td class=\"bad\">%zu of %zu, %s</td>", fine, n,
                qg_verdict_name((enum qg_verdict)worst));
}

static void put_verdict_table(FILE *out, const struct qg_digest *d)
{
    fputs("<h2 id=\"verdicts\">Verdicts</h2>\n<p>Passing cases per scheme, operation and backend. "
          "Where some do not pass: how many do, and the worst verdict.</p>\n<div class=\"wide\">"
          "<table><tr><th>scheme</th>",
          out);
    for (size_t how = 0; how < d->how.n; how++) {
        fputs("<th>", out);
        put(out, d->how.name[how]);
        fputs("</th>", out);
    }
    fputs("</tr>\n", out);
    for (size_t row = 0; row < d->row.n; row++) {
        fputs("<tr>", out);
        put_cell(out, d->row.name[row]);
        for (size_t how = 0; how < d->how.n; how++)
            put_verdict_cell(out, d, row, how);
        fputs("</tr>\n", out);
    }
    fputs("</table></div>\n", out);
}

static void put_sqnr_row(FILE *out, const struct qg_digest *d, size_t row, const char *op)
{
    size_t n[QG_NAMES_MAX], all = 0;
    double db[QG_NAMES_MAX];
    for (size_t data = 0; data < d->data.n; data++) {
        db[data] = qg_digest_sqnr(d, row, op, data, &n[data]);
        all += n[data] && !isnan(db[data]);
    }
    if (!all)
        return;
    fputs("<tr>", out);
    put_cell(out, d->row.name[row]);
    fprintf(out, "<td class=\"text\">%s</td>", op);
    for (size_t data = 0; data < d->data.n; data++)
        fprintf(out, "<td>%s</td>", n[data] ? qg_text_rounded(db[data], 2, 0).s : "");
    fputs("</tr>\n", out);
}

static void put_sqnr_table(FILE *out, const struct qg_digest *d)
{
    static const char *const ops[] = {"fake-quant", "dequant", "matmul"};
    fputs("<details><summary>SQNR in dB, all operations (median over shapes, types and "
          "seeds)</summary>\n<div class=\"wide\"><table><tr><th>scheme</th>"
          "<th class=\"text\">operation</th>",
          out);
    for (size_t data = 0; data < d->data.n; data++) {
        fputs("<th>", out);
        put(out, d->data.name[data]);
        fputs("</th>", out);
    }
    fputs("</tr>\n", out);
    for (size_t row = 0; row < d->row.n; row++)
        for (size_t o = 0; o < sizeof ops / sizeof ops[0]; o++)
            put_sqnr_row(out, d, row, ops[o]);
    fputs("</table></div></details>\n", out);
}

static void put_gap_table(FILE *out, const struct qg_result *r)
{
    if (!r->n_gaps)
        return;
    fprintf(out, "<details%s>", r->n_gaps > FEW_GAPS ? "" : " open");
    fputs("<summary>every comparison</summary>\n<div class=\"wide\"><table><tr>"
          "<th>scheme</th><th class=\"text\">of</th><th>seed</th><th>SQNR, dB</th>"
          "<th>as upstream prints it (bf16)</th><th>elements that differ</th><th>first</th>"
          "<th class=\"text\">cause</th></tr>\n",
          out);
    for (size_t i = 0; i < r->n_gaps && i < MOST_GAPS; i++) {
        const struct qg_gap *g = &r->gaps[i];
        fputs("<tr><td>", out);
        put(out, g->scheme);
        putc(' ', out);
        put(out, g->params);
        fputs("</td><td class=\"text\">", out);
        put(out, g->source);
        fputs(", ", out);
        put(out, g->what);
        fprintf(out, "</td><td>%llu</td><td>%s</td><td>%s</td><td>%llu of %llu</td><td>",
                (unsigned long long)g->seed, qg_text_rounded(g->sqnr_db, 3, 0).s,
                qg_text_rounded(g->sqnr_bf16_db, 3, 0).s, (unsigned long long)g->differ,
                (unsigned long long)g->count);
        if (g->first >= 0)
            fprintf(out, "%lld", (long long)g->first);
        fputs("</td><td class=\"text wrap\">", out);
        put(out, g->cause);
        fputs("</td></tr>\n", out);
    }
    fputs("</table></div></details>\n", out);
    if (r->n_gaps > MOST_GAPS)
        fprintf(out, "<p class=\"warn\">and %zu more: qgauge export shows all.</p>\n",
                r->n_gaps - MOST_GAPS);
}

/* A share of codes that differ, as a bar would show it: "62 %", nothing for none. */
static void put_share(FILE *out, uint64_t part, uint64_t whole)
{
    fputs("<td>", out);
    if (part)
        fprintf(out, "%.3g %%", 100.0 * (double)part / (double)whole);
    fputs("</td>", out);
}

static void put_text_cell(FILE *out, const char *s)
{
    fputs("<td class=\"text\">", out);
    put(out, s);
    fputs("</td>", out);
}

static void put_atlas_row(FILE *out, const struct qg_atlas *a)
{
    fputs("<tr>", out);
    put_cell(out, a->format);
    put_text_cell(out, a->left);
    put_text_cell(out, a->right);
    put_text_cell(out, a->source);
    fprintf(out, "<td>%.4f %%</td><td>%.4f %%</td>", 100.0 * (double)a->differ / (double)a->count,
            100.0 * (double)a->blocks_scaled / (double)a->blocks);
    const uint64_t part[] = {a->scale, a->tie, a->rounding, a->clip, a->same_value, a->other};
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++)
        put_share(out, part[i], a->differ);
    fputs("</tr>\n<tr><td></td><td class=\"text wrap\" colspan=\"11\">", out);
    put(out, a->rule);
    fputs("</td></tr>\n", out);
}

static void put_atlas(FILE *out, const struct qg_result *r)
{
    if (!r->n_atlas)
        return;
    fputs(
        "<h2 id=\"atlas\">Atlas: schemes that claim one format</h2>\n"
        "<p>Both sides quantize the same weights. Of the codes that differ, each counts once: its "
        "block has another scale; x lies exactly half-way (a tie), or would but for a rounding on "
        "the way; one side clips; both codes stand for one value; or none of these.</p>\n"
        "<div class=\"wide\"><table><tr><th>format</th><th class=\"text\">left</th>"
        "<th class=\"text\">right</th><th class=\"text\">weights</th><th>codes differ</th>"
        "<th>scales differ</th><th>by scale</th><th>ties</th><th>near ties</th><th>clip</th>"
        "<th>same value</th><th>other</th></tr>\n",
        out);
    for (size_t i = 0; i < r->n_atlas; i++)
        if (r->atlas[i].count && r->atlas[i].blocks)
            put_atlas_row(out, &r->atlas[i]);
    fputs("</table></div>\n", out);
}

/* How many of the warps of a multiprocessor fit; less than half is marked. */
static void put_occupancy(FILE *out, const struct qg_resource *r)
{
    if (!r->most_warps) {
        fputs("<td>not known</td><td></td>", out);
        return;
    }
    fprintf(out, "<td%s>%u of %u, %.0f %%</td>",
            2 * (uint64_t)r->warps < r->most_warps ? " class=\"warn\"" : "", r->warps,
            r->most_warps, 100.0 * r->warps / r->most_warps);
    put_text_cell(out, r->limit);
}

static void put_resource_row(FILE *out, const struct qg_resource *r)
{
    static const char warn[] = " class=\"warn\"";
    const bool spills = r->spill_stores || r->spill_loads;
    fputs("<tr>", out);
    put_cell(out, r->file);
    put_text_cell(out, r->kernel);
    put_text_cell(out, r->target);
    fprintf(out, "<td>%u</td><td%s>%u</td><td%s>%u + %u</td><td>%u</td><td>%u</td><td>%u</td>",
            r->registers, r->stack ? warn : "", r->stack, spills ? warn : "", r->spill_stores,
            r->spill_loads, r->shared, r->barriers, r->block);
    put_occupancy(out, r);
    fputs("</tr>\n", out);
}

static void put_resources(FILE *out, const struct qg_result *r)
{
    fputs("<h2 id=\"resources\">Resources of CUDA kernels</h2>\n", out);
    if (!r->n_resources) {
        const char *nvcc = qg_meta_get(&r->meta, "nvcc");
        fputs("<p>None: ", out);
        if (*nvcc) {
            fputs("nvcc of the program that made this file: ", out);
            put(out, nvcc);
        } else
            fputs("the file is of a program that did not keep them", out);
        fputs(".</p>\n", out);
        return;
    }
    fputs("<p>What a kernel takes of a multiprocessor, by the report of the assembler that made "
          "it: registers, and bytes of stack, that a thread has; bytes that it moves for want of "
          "registers (spilled: stored + loaded); shared memory that is known at compile time, and "
          "barriers, of a block. From that: how many warps fit at a time, and what keeps more "
          "out. No device was asked.</p>\n<div class=\"wide\"><table><tr><th>file</th>"
          "<th class=\"text\">kernel</th><th class=\"text\">target</th><th>registers</th>"
          "<th>stack</th><th>spilled</th><th>shared</th><th>barriers</th><th>threads</th>"
          "<th>warps that fit</th><th class=\"text\">bound by</th></tr>\n",
          out);
    for (size_t i = 0; i < r->n_resources; i++)
        put_resource_row(out, &r->resources[i]);
    fputs("</table></div>\n", out);
}

/* The scheme, operation, backend and shape of a case. */
static void put_case_cells(FILE *out, const struct qg_digest *d, size_t row, size_t how,
                           const struct qg_record *c)
{
    put_cell(out, d->row.name[row]);
    put_text_cell(out, d->how.name[how]);
    fputs("<td>", out);
    if (c->m)
        fprintf(out, "%llu×", (unsigned long long)c->m);
    fprintf(out, "%llu×%llu</td>", (unsigned long long)c->rows, (unsigned long long)c->cols);
}

static bool has_least_time(const struct qg_record *r)
{
    bool any = false;
    for (int i = 0; i < QG_DEVICES; i++)
        any |= !isnan(qg_least_time(r, &qg_devices[i]).seconds);
    return any;
}

static void put_least_row(FILE *out, const struct qg_digest *d, size_t row, size_t how)
{
    const struct qg_record *c = qg_digest_largest(d, row, how, has_least_time);
    if (!c)
        return;
    fputs("<tr>", out);
    put_case_cells(out, d, row, how, c);
    put_text_cell(out, c->dtype);
    fprintf(out, "<td>%s</td>", qg_text_rate(c->bytes, "B").s);
    if (isnan(c->flops))
        fputs("<td></td>", out);
    else
        fprintf(out, "<td>%s</td>", qg_text_rate(c->flops, "FLOP").s);
    for (int i = 0; i < QG_DEVICES; i++) {
        const struct qg_least_time t = qg_least_time(c, &qg_devices[i]);
        if (isnan(t.seconds))
            fputs("<td></td>", out);
        else
            fprintf(out, "<td>%s, %s</td>", qg_text_time(t.seconds).s,
                    t.by_memory ? "memory" : qg_cores_name(t.cores));
    }
    fputs("</tr>\n", out);
}

static void put_least_times(FILE *out, const struct qg_digest *d)
{
    size_t n = 0;
    for (size_t i = 0; i < d->r->n_cases; i++)
        n += has_least_time(&d->r->cases[i]);
    if (!n)
        return;
    fputs("<details><summary>least times of CUDA kernels on their largest shape, by arithmetic"
          "</summary>\n<p>What a device needs at least to move the case's inputs and outputs once "
          "through its memory, or to multiply, whichever is longer: no device was asked and none "
          "reaches it.",
          out);
    for (int i = 0; i < QG_DEVICES; i++) {
        const struct qg_peaks *p = &qg_devices[i];
        fprintf(out, " %s: %s, ", p->name, qg_text_rate(p->bytes_per_s, "B/s").s);
        for (int c = 0; c < QG_CORES; c++)
            if (p->per_s[c] > 0)
                fprintf(out, "%s%s in %s", c ? ", " : "", qg_text_rate(p->per_s[c], "FLOP/s").s,
                        qg_cores_name((enum qg_cores)c));
        putc('.', out);
    }
    fputs("</p>\n<div class=\"wide\"><table><tr><th>scheme</th>"
          "<th class=\"text\">operation, backend</th><th>shape</th><th class=\"text\">dtype</th>"
          "<th>moves</th><th>work</th>",
          out);
    for (int i = 0; i < QG_DEVICES; i++)
        fprintf(out, "<th>%s, bound by</th>", qg_devices[i].name);
    fputs("</tr>\n", out);
    for (size_t row = 0; row < d->row.n; row++)
        for (size_t how = 0; how < d->how.n; how++)
            put_least_row(out, d, row, how);
    fputs("</table></div></details>\n", out);
}

/* Whether a device said anything while something was timed warm. */
static bool has_conditions(const struct qg_result *r)
{
    for (size_t i = 0; i < r->n_cases; i++)
        if (*qg_text_conditions(&r->cases[i].warm.under).s)
            return true;
    return false;
}

/* How many times as fast as the unquantized product, and its interval: by the ends of both. */
static void put_gain(FILE *out, const struct qg_digest *d, const struct qg_record *c)
{
    const struct qg_record *u = qg_unquantized_of(d->r, c);
    if (u && u != c)
        fprintf(out, "<td>%.2f (%.2f … %.2f)</td>", u->warm.median_s / c->warm.median_s,
                u->warm.low_s / c->warm.high_s, u->warm.high_s / c->warm.low_s);
    else
        fputs("<td></td>", out);
}

static void put_time_row(FILE *out, const struct qg_digest *d, size_t row, size_t how, bool device)
{
    const struct qg_record *c = qg_digest_largest(d, row, how, qg_is_timed);
    if (!c)
        return;
    const struct qg_timing *t = &c->warm;
    fputs("<tr>", out);
    put_case_cells(out, d, row, how, c);
    fprintf(out, "<td>%s</td><td>%s … %s</td>", qg_text_time(t->median_s).s,
            qg_text_time(t->low_s).s, qg_text_time(t->high_s).s);
    put_gain(out, d, c);
    fprintf(out, "<td>%u</td><td>%s</td>", t->samples, qg_text_time(c->cold.median_s).s);
    fprintf(out, "<td>%s</td><td>%s</td>", qg_text_rate(c->bytes / t->median_s, "B/s").s,
            qg_text_rate(c->flops / t->median_s, "FLOP/s").s);
    if (device) {
        fputs("<td class=\"text\">", out);
        put(out, qg_text_conditions(&t->under).s);
        fputs("</td>", out);
    }
    fputs("</tr>\n", out);
}

static bool is_timed(const struct qg_digest *d)
{
    for (size_t row = 0; row < d->row.n; row++)
        for (size_t how = 0; how < d->how.n; how++)
            if (qg_digest_largest(d, row, how, qg_is_timed))
                return true;
    return false;
}

/* Cases that have no times since the device had lowered its clocks, which no table would show. */
static void put_discarded(FILE *out, const struct qg_result *r)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n_cases; i++) {
        const struct qg_record *c = &r->cases[i];
        if (!qg_is_discarded(&c->warm) || n++ >= MOST_BAD)
            continue;
        fputs(n == 1 ? "<details><summary class=\"warn\">not timed</summary>\n<ul>\n<li><code>"
                     : "<li><code>",
              out);
        put(out, c->spelling);
        fputs("</code>: ", out);
        put(out, c->reason);
        fputs("</li>\n", out);
    }
    if (n > MOST_BAD)
        fprintf(out, "<li>and %zu more, which are in the file</li>\n", n - MOST_BAD);
    if (n)
        fputs("</ul></details>\n", out);
}

static void put_time_table(FILE *out, const struct qg_digest *d)
{
    const bool device = has_conditions(d->r);
    put_discarded(out, d->r);
    if (!is_timed(d))
        return;
    fputs(
        "<details><summary>times of every kernel on its largest shape</summary>\n"
        "<p>× unquantized: how many times as fast as the product of the unquantized weight of the "
        "same shape and dtype, by its fastest kernel, on the device for kernels there.</p>\n"
        "<div class=\"wide\"><table><tr><th>scheme</th><th class=\"text\">operation, backend</th>"
        "<th>shape</th><th>warm median</th><th>95 % interval</th><th>× unquantized</th>"
        "<th>samples</th><th>cold median</th><th>bandwidth</th><th>work</th>",
        out);
    if (device)
        fputs("<th class=\"text\">clock of a device (lowest and highest), temperature (highest), "
              "power (mean), warm</th>",
              out);
    fputs("</tr>\n", out);
    for (size_t row = 0; row < d->row.n; row++)
        for (size_t how = 0; how < d->how.n; how++)
            put_time_row(out, d, row, how, device);
    fputs("</table></div></details>\n", out);
}

static void put_meta(FILE *out, const struct qg_result *r)
{
    fputs("<h2 id=\"facts\">Facts of the run</h2>\n<div class=\"wide\"><table>\n", out);
    for (size_t i = 0; i < r->meta.n; i++) {
        fputs("<tr>", out);
        put_cell(out, r->meta.item[i].key);
        fputs("<td class=\"text wrap\">", out);
        put(out, r->meta.item[i].value);
        fputs("</td></tr>\n", out);
    }
    fputs("</table></div>\n", out);
}

static const char guide[] =
    "<h2 id=\"guide\">How to read this page</h2>\n<ul>\n"
    "<li><strong>PASS</strong>: every byte is the definition's, or (matmul, lora, gradients) every "
    "value "
    "is "
    "within the proved rounding bound. <strong>MARGINAL</strong>: right, but more than 90 % of the "
    "bound was used.</li>\n"
    "<li><strong>FAIL</strong>: wrong bits, a bound exceeded, or a write outside the output. "
    "<strong>MISTRUSTED</strong>: it agrees, but the output is so uniform that agreement shows "
    "nothing. <strong>CRASH, TIMEOUT</strong>: what the kernel did in its own process. "
    "<strong>SKIP</strong>: not run, with the reason. <strong>ERROR</strong>: the harness could "
    "not "
    "do its part.</li>\n"
    "<li>A <code>qgauge repro</code> line repeats its case bit for bit, on any machine.</li>\n"
    "<li>SQNR is 20 log10(|x| / |x − y|), computed in double; inf: equal; a dash: no number.</li>\n"
    "<li>Times are per call, the cost of an empty call taken out. A call begins with the planes as "
    "they are stored: what a kernel dequantizes, unpacks or lays out anew before it multiplies "
    "(blas; cublas but for codes that it takes as they are) is in the time of every call. The "
    "interval is that of this "
    "run: "
    "another run may lie outside it. To compare runs use <code>qgauge compare</code>, which takes "
    "the "
    "noise between runs into account.</li>\n"
    "<li>Beside this page, each plot has its data (<code>.tsv</code>) and script "
    "(<code>.gp</code>): <code>gnuplot NAME.gp</code> draws it again.</li>\n</ul>\n";

/* "+0.0123 ± 0.0004", nothing where there is no number. */
static void put_estimate(FILE *out, double value, double low, double high, int decimals, int sign)
{
    fputs("<td>", out);
    if (!isnan(value))
        fputs(qg_text_rounded(value, decimals, sign).s, out);
    if (!isnan(value) && !isnan(low))
        fprintf(out, " ± %s", qg_text_rounded((high - low) / 2, decimals, 0).s);
    fputs("</td>", out);
}

static void put_number_cell(FILE *out, double x, int decimals)
{
    fprintf(out, "<td>%s</td>", isnan(x) ? "" : qg_text_rounded(x, decimals, 0).s);
}

static void put_modelled_row(FILE *out, const struct qg_modelled *m)
{
    fputs("<tr><td>", out);
    put(out, strcmp(m->what, "none") == 0 ? "none" : m->name);
    putc(' ', out);
    put(out, m->params);
    putc(' ', out);
    put(out, m->training);
    fputs("</td>", out);
    put_text_cell(out, m->path);
    if (m->reason[0]) {
        fputs("<td class=\"text wrap\" colspan=\"10\">", out);
        put(out, m->reason);
        fputs("</td></tr>\n", out);
        return;
    }
    put_number_cell(out, m->bits_per_weight, 3);
    put_number_cell(out, m->bytes / 0x1p20, 2);
    put_estimate(out, m->ppl, m->ppl_low, m->ppl_high, 4, 0);
    put_estimate(out, m->delta, m->delta_low, m->delta_high, 5, 1);
    put_estimate(out, m->kl, m->kl_low, m->kl_high, 6, 0);
    put_number_cell(out, m->kl_999, 4);
    put_number_cell(out, 100 * m->same_top, 2);
    put_estimate(out, m->gap, m->gap_low, m->gap_high, 5, 1);
    put_text_cell(out, m->verdict);
    fputs("</tr>\n", out);
}

static void put_modelled_table(FILE *out, const struct qg_digest *d)
{
    const struct qg_result *r = d->r;
    fputs("<p>Model <code>", out);
    put(out, r->modelled[0].model);
    fputs("</code>, text <code>", out);
    put(out, r->modelled[0].text);
    fprintf(out, "</code>: %llu tokens in %llu documents; intervals of %g %% over %llu ",
            (unsigned long long)r->modelled[0].tokens, (unsigned long long)r->modelled[0].documents,
            100 * r->modelled[0].level, (unsigned long long)r->modelled[0].clusters);
    put(out, r->modelled[0].clusters_of);
    fputs(", paired token by token with the model as it is.</p>\n<div class=\"wide\"><table><tr>"
          "<th>scheme</th><th class=\"text\">path</th><th>bits per parameter</th><th>MiB</th>"
          "<th>perplexity per token</th><th>change of ln ppl</th><th>KL, mean</th>"
          "<th>KL, 99.9 %</th><th>same top token, %</th><th>converted against prepared, ln "
          "ppl</th><th class=\"text\">ln ppl is</th></tr>\n",
          out);
    for (size_t i = 0; i < r->n_modelled; i++)
        put_modelled_row(out, &r->modelled[i]);
    fputs("</table></div>\n", out);
}

static void put_foretold_row(FILE *out, const struct qg_result *r, const struct qg_foretold *f)
{
    struct qg_measured_kl m = qg_kl_measured(r, f);
    fputs("<tr><td>", out);
    put(out, f->name);
    putc(' ', out);
    put(out, f->params);
    fputs("</td>", out);
    if (f->reason[0]) {
        fputs("<td class=\"text wrap\" colspan=\"8\">", out);
        put(out, f->reason);
        fputs("</td></tr>\n", out);
        return;
    }
    put_text_cell(out, f->inputs);
    put_number_cell(out, f->bits_per_weight, 3);
    put_number_cell(out, f->delta_by_weights, 6);
    put_number_cell(out, f->delta_by_outputs, 6);
    put_number_cell(out, f->kl_by_weights, 6);
    put_number_cell(out, f->kl_by_outputs, 6);
    put_estimate(out, m.value, m.low, m.high, 6, 0);
    fprintf(out, "<td%s>", qg_is_off(f, &m) ? " class=\"warn\"" : "");
    if (!isnan(m.value))
        fputs(qg_text_rounded(f->kl_by_outputs / m.value, 2, 0).s, out);
    fputs("</td></tr>\n", out);
}

static void put_foretold_table(FILE *out, const struct qg_digest *d)
{
    const struct qg_result *r = d->r;
    fputs("<p>Model <code>", out);
    put(out, r->foretold[0].model);
    fputs("</code>. What schemes cost, foretold from the relative errors of its matrices: of their "
          "weights, and of what they put out",
          out);
    if (r->foretold[0].measured_in[0]) {
        fputs("; what was measured is from <code>", out);
        put(out, r->foretold[0].measured_in);
        fputs("</code>, or from this file where it has the same", out);
    }
    fputs(".</p>\n<div class=\"wide\"><table><tr><th>scheme</th><th class=\"text\">inputs</th>"
          "<th>bits per parameter</th><th>ln ppl, by weights</th><th>by outputs</th>"
          "<th>KL, by weights</th><th>by outputs</th><th>KL measured</th>"
          "<th>by outputs / measured</th></tr>\n",
          out);
    for (size_t i = 0; i < r->n_foretold; i++)
        put_foretold_row(out, r, &r->foretold[i]);
    fputs("</table></div>\n", out);
}

/* --- pictures -------------------------------------------------------------------------------- */

/* Copies DIR/NAME.svg from its <svg> on. Identifiers get the plot's name in front: those of several
 * pictures on one page would clash. */
static bool put_svg(FILE *out, const char *dir, const char *name)
{
    static const char *const marks[] = {"id='", "id=\"", "href='#", "href=\"#", "url(#"};
    char path[4096], line[1 << 16];
    bool inside = false;
    snprintf(path, sizeof path, "%s/%s.svg", dir, name);
    FILE *in = fopen(path, "r");
    if (!in)
        return false;
    while (fgets(line, sizeof line, in)) {
        char *s = line;
        if (!inside && !(s = strstr(line, "<svg")))
            continue;
        inside = true;
        for (; *s; s++) {
            putc(*s, out);
            for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
                size_t n = strlen(marks[i]);
                if ((size_t)(s + 1 - line) >= n && strncmp(s + 1 - n, marks[i], n) == 0)
                    fprintf(out, "%s-", name);
            }
        }
    }
    fclose(in);
    return inside;
}

static void put_plot(FILE *out, const char *dir, const struct qg_plot *p)
{
    fprintf(out, "<h2 id=\"%s\">%s</h2>\n<figure>\n", p->name, p->title);
    if (p->state == QG_PLOT_EMPTY)
        fputs("<p class=\"warn\">This run holds nothing that this plot shows.</p>\n", out);
    else if (p->state == QG_PLOT_NO_GNUPLOT)
        fputs("<p class=\"warn\">gnuplot is not installed: no picture. The data and the script are "
              "beside this page.</p>\n",
              out);
    else if (p->state == QG_PLOT_FAILED || !put_svg(out, dir, p->name))
        fprintf(
            out,
            "<p class=\"warn\">gnuplot failed: run <code>gnuplot %s.gp</code> in this folder to "
            "see why.</p>\n",
            p->name);
    fprintf(out,
            "<figcaption>%s Data: <a href=\"%s.tsv\">%s.tsv</a>, script: <a "
            "href=\"%s.gp\">%s.gp</a>.</figcaption>\n</figure>\n",
            p->caption, p->name, p->name, p->name, p->name);
}

static void put_head(FILE *out, const struct qg_result *r, const char *source)
{
    static const char *const keys[] = {"version", "commit", "suite", "seed", "cpu", "time_utc"};
    fputs(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>qgauge: ",
        out);
    put(out, source);
    fprintf(out, "</title>\n<style>\n%s</style>\n</head>\n<body>\n<h1>qgauge report</h1>\n", style);
    fputs("<p class=\"soft\">", out);
    put(out, source);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        fprintf(out, " · %s ", keys[i]);
        put(out, qg_meta_get(&r->meta, keys[i]));
    }
    fputs("</p>\n", out);
}

static void put_page(FILE *out, const struct qg_digest *d, const char *source, const char *dir,
                     const struct qg_plot plot[QG_PLOTS])
{
    static void (*const tables[QG_PLOTS])(FILE *, const struct qg_digest *) = {
        put_sqnr_table, NULL, NULL, put_time_table, put_modelled_table, put_foretold_table};
    bool cases = d->r->n_cases || d->r->n_resources || !(d->r->n_modelled || d->r->n_foretold);
    put_head(out, d->r, source);
    if (cases)
        put_verdicts(out, d->r);
    fputs("<nav>", out);
    if (cases)
        fputs("<a href=\"#bad\">not passing</a><a href=\"#verdicts\">verdicts</a>", out);
    for (size_t i = 0; i < QG_PLOTS; i++)
        if (plot[i].state != QG_PLOT_NOT_MEANT)
            fprintf(out, "<a href=\"#%s\">%s</a>", plot[i].name, plot[i].name);
    if (d->r->n_atlas)
        fputs("<a href=\"#atlas\">atlas</a>", out);
    if (cases)
        fputs("<a href=\"#resources\">resources</a>", out);
    fputs("<a href=\"#facts\">facts</a><a href=\"#guide\">how to read</a></nav>\n", out);
    put_lost(out, &d->row, "schemes");
    put_lost(out, &d->data, "kinds of data");
    put_lost(out, &d->how, "operations or backends");
    if (cases) {
        put_bad_cases(out, d->r);
        put_verdict_table(out, d);
    }
    for (size_t i = 0; i < QG_PLOTS; i++) {
        if (plot[i].state == QG_PLOT_NOT_MEANT)
            continue;
        put_plot(out, dir, &plot[i]);
        if (tables[i])
            tables[i](out, d);
        if (strcmp(plot[i].name, "gap") == 0)
            put_gap_table(out, d->r);
    }
    put_atlas(out, d->r);
    if (cases) {
        put_resources(out, d->r);
        put_least_times(out, d);
        put_algorithms(out, d->r);
    }
    put_meta(out, d->r);
    fprintf(out, "%s</body>\n</html>\n", guide);
}

enum qg_status qg_report_html(const struct qg_result *r, const char *source, const char *dir,
                              struct qg_plot ret_plot[QG_PLOTS], struct qg_error *err)
{
    char path[4096];
    struct qg_digest *d = NULL;
    if (qg_digest_make(r, &d, err) != QG_OK)
        return err->status;
    enum qg_status status = qg_plot_all(d, dir, ret_plot, err);
    snprintf(path, sizeof path, "%s/index.html", dir);
    FILE *out = status == QG_OK ? fopen(path, "w") : NULL;
    if (status == QG_OK && !out)
        status = qg_fail(err, QG_EIO, "%s: %s", path, strerror(errno));
    if (out) {
        put_page(out, d, source, dir, ret_plot);
        bool failed = ferror(out) != 0;
        if (fclose(out) != 0 || failed)
            status = qg_fail(err, QG_EIO, "%s: write: %s", path, strerror(errno));
    }
    qg_digest_free(&d);
    return status;
}

bool qg_report_file(size_t i, char *name, size_t size)
{
    static const char *const suffixes[] = {"tsv", "gp", "svg"};
    const size_t n = sizeof suffixes / sizeof suffixes[0];
    if (i < n * QG_PLOTS)
        snprintf(name, size, "%s.%s", qg_plot_name(i / n), suffixes[i % n]);
    else
        snprintf(name, size, "index.html");
    return i <= n * QG_PLOTS;
}
