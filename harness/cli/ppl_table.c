/* SPDX-License-Identifier: MIT */
#include "harness/cli/ppl.h"

#include <math.h>
#include <string.h>

/* "x ±y" or "x" without an interval, in a column. */
static void print_estimate(double value, double low, double high, int width, const char *format)
{
    char text[96], number[32], half[32];
    snprintf(number, sizeof number, format, value);
    snprintf(half, sizeof half, format, (high - low) / 2);
    if (isnan(value))
        snprintf(text, sizeof text, "-");
    else if (isnan(low))
        snprintf(text, sizeof text, "%s", number);
    else
        snprintf(text, sizeof text, "%s ±%s", number, half[0] == '+' ? half + 1 : half);
    // Two bytes of ± are one column.
    printf(" %*s", width + (strchr(text, '\xc2') != NULL), text);
}

static void print_share(double x, int width)
{
    if (isnan(x))
        printf(" %*s", width, "-");
    else
        printf(" %*.3f %%", width - 2, 100 * x);
}

static void print_number(const char *format, int width, double x)
{
    char text[48];
    snprintf(text, sizeof text, format, x);
    printf(" %*s", width, isnan(x) ? "-" : text);
}

enum {
    NAME = 30,
    PATH = 9,
    BITS = 7,
    MIB = 8,
    PPL = 19,
    DELTA = 20,
    KL = 19,
    TAIL = 9,
    SAME = 10,
    GAP = 20
};

void qg_ppl_print_head(const struct qg_ppl_text *t, const struct qg_quality *q,
                       const char *clusters_of, double level, double bits, double bytes)
{
    double nll = q->base.value;
    printf("%.0f tokens in %.0f document%s; ", t->tokens, t->documents,
           t->documents == 1 ? "" : "s");
    if (isnan(t->bytes))
        printf("bits per byte -, word perplexity -: the file holds ids; --bytes and --words say "
               "what of\n");
    else
        printf("base: %.5f bits per byte, word perplexity %.4f\n",
               nll * t->tokens / t->bytes / log(2), exp(nll * t->tokens / t->words));
    printf("intervals: %g %%, over %zu %s\n\n", 100 * level, q->clusters, clusters_of);
    printf("%-*s %-*s %*s %*s %*s %*s %*s %*s %*s %*s  %s\n", NAME, "scheme", PATH, "path", BITS,
           "bits", MIB, "MiB", PPL, "ppl", DELTA, "delta ln ppl", KL, "KL", TAIL, "KL 99.9 %", SAME,
           "same top", GAP, isnan(t->bytes) ? "gap bits/token" : "gap bits/byte", "verdict");
    printf("%-*s %-*s", NAME, "-", PATH, "plain");
    print_number("%.3f", BITS, bits);
    print_number("%.3f", MIB, bytes / 0x1p20);
    print_estimate(exp(nll), exp(q->base.low), exp(q->base.high), PPL, "%.4f");
    puts("");
}

static void print_more(const struct qg_modelled *m)
{
    printf("    KL median %.3g, 90 %% %.3g, 99 %% %.3g, largest %.3g; probability of the right "
           "token %+.3g in the mean, %.3g rms\n",
           m->kl_median, m->kl_90, m->kl_99, m->kl_max, m->change_mean, m->change_rms);
    printf("    %.5f bits per byte, word perplexity %.4f", m->bits_per_byte, m->word_ppl);
    if (!isnan(m->gap_kl))
        printf("; KL of prepared to converted %.3g", m->gap_kl);
    printf("; %.1f s\n", m->seconds);
}

void qg_ppl_print_row(const struct qg_modelled *m, double bytes_per_token, bool verbose)
{
    char name[256];
    double unit = 1 / log(2) / (isnan(bytes_per_token) ? 1 : bytes_per_token);
    snprintf(name, sizeof name, "%s%s%s", strcmp(m->what, "none") == 0 ? m->what : m->name,
             m->params[0] ? " " : "", m->params);
    printf("%-*s %-*s", NAME, name, PATH, m->path);
    if (m->reason[0]) {
        printf(" -");
        if (verbose || strncmp(m->reason, "document", 8) == 0)
            printf("  %s", m->reason);
        puts("");
        return;
    }
    print_number("%.3f", BITS, m->bits_per_weight);
    print_number("%.3f", MIB, m->bytes / 0x1p20);
    print_estimate(m->ppl, m->ppl_low, m->ppl_high, PPL, "%.4f");
    print_estimate(m->delta, m->delta_low, m->delta_high, DELTA, "%+.6f");
    print_estimate(m->kl, m->kl_low, m->kl_high, KL, "%.6f");
    print_number("%.4f", TAIL, m->kl_999);
    print_share(m->same_top, SAME);
    print_estimate(m->gap * unit, m->gap_low * unit, m->gap_high * unit, GAP, "%+.6f");
    printf("  %s\n", m->verdict);
    if (verbose)
        print_more(m);
}
