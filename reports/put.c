/* SPDX-License-Identifier: MIT
 *
 * Numbers and strings, see put.h. The process stays in the "C" locale: the point is a point.
 */
#include "reports/put.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "harness/result.h"
#include "reports/comparison.h"

static bool is_special(double x, const char *nan, struct qg_text *t)
{
    if (isfinite(x))
        return false;
    snprintf(t->s, sizeof t->s, "%s", isnan(x) ? nan : x > 0 ? "inf" : "-inf");
    return true;
}

struct qg_text qg_text_exact(double x)
{
    struct qg_text t;
    if (is_special(x, "nan", &t))
        return t;
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(t.s, sizeof t.s, "%.*g", digits, x);
        if (strtod(t.s, NULL) == x)
            break;
    }
    return t;
}

struct qg_text qg_text_rounded(double x, int decimals, int sign)
{
    struct qg_text t;
    if (is_special(x, "-", &t))
        return t;
    if (fabs(x) >= 1e15)
        snprintf(t.s, sizeof t.s, "%.6g", x);
    else
        snprintf(t.s, sizeof t.s, sign ? "%+.*f" : "%.*f", decimals, x);
    return t;
}

/* Three significant digits of a number in [1, 1000). */
static void three_digits(char *s, size_t size, double x, const char *unit)
{
    snprintf(s, size, "%.*f %s", x < 9.995 ? 2 : x < 99.95 ? 1 : 0, x, unit);
}

struct qg_text qg_text_time(double seconds)
{
    static const char *const units[] = {"s", "ms", "µs", "ns"};
    struct qg_text t;
    size_t i = 0;
    if (is_special(seconds, "-", &t))
        return t;
    for (; i < 3 && fabs(seconds) < 0.9995; i++)
        seconds *= 1000;
    three_digits(t.s, sizeof t.s, seconds, units[i]);
    return t;
}

struct qg_text qg_text_rate(double x, const char *unit)
{
    static const char *const prefixes[] = {"", "k", "M", "G", "T", "P"};
    struct qg_text t;
    size_t i = 0;
    if (is_special(x, "-", &t))
        return t;
    for (; i < 5 && fabs(x) >= 999.5; i++)
        x /= 1000;
    char with_prefix[16];
    snprintf(with_prefix, sizeof with_prefix, "%s%s", prefixes[i], unit);
    three_digits(t.s, sizeof t.s, x, with_prefix);
    return t;
}

/* "1980", or "1410..1980" where the lowest and the highest are two. */
static struct qg_text clock_range(double low, double high)
{
    struct qg_text t;
    snprintf(t.s, sizeof t.s, low == high ? "%.6g" : "%.6g..%.6g", low, high);
    return t;
}

static void add(struct qg_conditions_text *t, bool known, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Appends what is known, behind a comma. */
static void add(struct qg_conditions_text *t, bool known, const char *format, ...)
{
    size_t n = strlen(t->s);
    va_list ap;
    if (!known)
        return;
    if (n && n + 2 < sizeof t->s)
        n = (size_t)(stpcpy(t->s + n, ", ") - t->s);
    va_start(ap, format);
    vsnprintf(t->s + n, sizeof t->s - n, format, ap);
    va_end(ap);
}

struct qg_conditions_text qg_text_conditions(const struct qg_conditions *c)
{
    struct qg_conditions_text t = {""};
    add(&t, isfinite(c->sm_mhz_low), "%s MHz", clock_range(c->sm_mhz_low, c->sm_mhz_high).s);
    add(&t, isfinite(c->memory_mhz), "memory %.6g MHz", c->memory_mhz);
    add(&t, isfinite(c->celsius), "%.6g °C", c->celsius);
    add(&t, isfinite(c->watts), "%.6g W", round(c->watts));
    add(&t, c->discarded > 0, "%u samples discarded (%s)", c->discarded, c->lowered_by);
    return t;
}

static void put_clock(FILE *out, const char *what, const double was[2], const double is[2],
                      const char *arrow)
{
    if (qg_is_other_clock(was[0], is[0]) || qg_is_other_clock(was[1], is[1]))
        fprintf(out, "; %s clock %s %s %s MHz", what, clock_range(was[0], was[1]).s, arrow,
                clock_range(is[0], is[1]).s);
}

void qg_put_clocks(FILE *out, const struct qg_pair *p, const char *arrow)
{
    if (!p->was || !p->is)
        return;
    const struct qg_conditions *b = &p->was->under, *h = &p->is->under;
    put_clock(out, "SM", (double[]){b->sm_mhz_low, b->sm_mhz_high},
              (double[]){h->sm_mhz_low, h->sm_mhz_high}, arrow);
    put_clock(out, "memory", (double[]){b->memory_mhz, b->memory_mhz},
              (double[]){h->memory_mhz, h->memory_mhz}, arrow);
}

void qg_put_repro(FILE *out, const struct qg_record *r, void (*put)(FILE *out, const char *s))
{
    char quoted[4 * sizeof r->spelling + 32];
    size_t n = (size_t)snprintf(quoted, sizeof quoted, "qgauge repro '");
    for (const char *s = r->spelling; *s; s++)
        n += (size_t)snprintf(quoted + n, sizeof quoted - n, *s == '\'' ? "'\\''" : "%c", *s);
    snprintf(quoted + n, sizeof quoted - n, "'");
    put(out, quoted);
}

void qg_kernel_of(const struct qg_record *r, char *text, size_t size)
{
    bool weight = strcmp(r->operand, "weight") == 0;
    snprintf(text, size, "%s.%s%s%s.%s%s%s", r->scheme, r->op, weight ? "" : ":",
             weight ? "" : r->operand, r->backend, *r->variant ? "." : "", r->variant);
}
