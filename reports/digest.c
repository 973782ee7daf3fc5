/* SPDX-License-Identifier: MIT
 *
 * Names and sums of a run, see digest.h.
 */
#include "reports/digest.h"

#include <gsl/gsl_sort.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint16_t index_of(struct qg_names *names, const char *name)
{
    for (size_t i = 0; i < names->n; i++)
        if (strncmp(names->name[i], name, sizeof names->name[i] - 1) == 0)
            return (uint16_t)i;
    if (names->n == QG_NAMES_MAX) {
        names->lost++;
        return QG_NAMES_MAX;
    }
    snprintf(names->name[names->n], sizeof names->name[0], "%s", name);
    return (uint16_t)names->n++;
}

static uint16_t row_of(struct qg_names *names, const struct qg_record *r)
{
    char text[160];
    bool weight = strcmp(r->operand, "weight") == 0;
    snprintf(text, sizeof text, "%s%s%s%s%s", r->scheme, weight ? "" : ":",
             weight ? "" : r->operand, *r->params ? " " : "", r->params);
    return index_of(names, text);
}

void qg_data_label(const char *data, char *text, size_t size)
{
    size_t n = strcspn(data, ":");
    const char *from = data;
    for (const char *p = data; data[n] && p < data + n; p++)
        if (*p == '/')
            from = p + 1;
    snprintf(text, size, "%.*s", (int)(data + n - from), from);
}

static uint16_t data_of(struct qg_names *names, const struct qg_record *r)
{
    char text[sizeof r->data];
    qg_data_label(r->data, text, sizeof text);
    return index_of(names, text);
}

static uint16_t how_of(struct qg_names *names, const struct qg_record *r)
{
    char text[96];
    snprintf(text, sizeof text, "%s %s%s%s", r->op, r->backend, *r->variant ? "." : "", r->variant);
    return index_of(names, text);
}

enum qg_status qg_digest_make(const struct qg_result *r, struct qg_digest **ret_d,
                              struct qg_error *err)
{
    struct qg_digest *d = calloc(1, sizeof *d);
    if (d)
        d->at = calloc(r->n_cases + 1, sizeof *d->at);
    if (!d || !d->at) {
        qg_digest_free(&d);
        return qg_fail(err, QG_ENOMEM, "no memory to sum up %zu cases", r->n_cases);
    }
    d->r = r;
    for (size_t i = 0; i < r->n_cases; i++) {
        d->at[i][0] = row_of(&d->row, &r->cases[i]);
        d->at[i][1] = data_of(&d->data, &r->cases[i]);
        d->at[i][2] = how_of(&d->how, &r->cases[i]);
    }
    *ret_d = d;
    return QG_OK;
}

void qg_digest_free(struct qg_digest **d)
{
    if (!*d)
        return;
    free((*d)->at);
    free(*d);
    *d = NULL;
}

double qg_digest_sqnr(const struct qg_digest *d, size_t row, const char *op, size_t data,
                      size_t *ret_n)
{
    double *x = malloc((d->r->n_cases + 1) * sizeof *x), median = NAN;
    size_t n = 0;
    *ret_n = 0;
    for (size_t i = 0; x && i < d->r->n_cases; i++) {
        const struct qg_record *c = &d->r->cases[i];
        if (d->at[i][0] != row || d->at[i][1] != data || strcmp(c->op, op) != 0)
            continue;
        ++*ret_n;
        if (!isnan(c->sqnr_db))
            x[n++] = c->sqnr_db;
    }
    if (n) {
        gsl_sort(x, 1, n);
        // the middle of -inf and inf would be nothing: of an even number, take the lower one
        median = x[(n - 1) / 2];
    }
    free(x);
    return median;
}

/* Products or elements: what makes one case larger than another. */
static double case_size(const struct qg_record *r)
{
    return (r->m ? (double)r->m : 1) * (double)r->rows * (double)r->cols;
}

bool qg_is_timed(const struct qg_record *r)
{
    return r->warm.median_s > 0 && isfinite(r->warm.median_s);
}

const struct qg_record *qg_digest_largest(const struct qg_digest *d, size_t row, size_t how,
                                          bool (*is_wanted)(const struct qg_record *r))
{
    const struct qg_record *best = NULL;
    for (size_t i = 0; i < d->r->n_cases; i++) {
        const struct qg_record *c = &d->r->cases[i];
        if (d->at[i][0] == row && d->at[i][2] == how && is_wanted(c) &&
            (!best || case_size(c) > case_size(best)))
            best = c;
    }
    return best;
}

bool qg_is_of_device(const struct qg_record *r)
{
    return strcmp(r->backend, "cuda") == 0 || strcmp(r->backend, "cublas") == 0;
}

/* Whether operation, shape and dtype are the same; the rank of an adapter is in the spelling alone,
 * "int4.lora.c 4x64x1024x16 bf16 ...". */
static bool same_product(const struct qg_record *a, const struct qg_record *b)
{
    const char *x = strchr(a->spelling, ' '), *y = strchr(b->spelling, ' ');
    const size_t shape = x ? 1 + strcspn(x + 1, " ") : 0;
    return x && y && strncmp(x, y, shape + 1) == 0 && strcmp(a->op, b->op) == 0 &&
           strcmp(a->dtype, b->dtype) == 0 && qg_is_of_device(a) == qg_is_of_device(b);
}

const struct qg_record *qg_unquantized_of(const struct qg_result *results,
                                          const struct qg_record *r)
{
    const struct qg_record *best = NULL;
    for (size_t i = 0; r->m && qg_is_timed(r) && i < results->n_cases; i++) {
        const struct qg_record *c = &results->cases[i];
        if (strcmp(c->scheme, "unquantized") == 0 && !c->variant[0] && same_product(c, r) &&
            qg_is_timed(c) && (!best || c->warm.median_s < best->warm.median_s))
            best = c;
    }
    return best;
}

uint64_t qg_cases_planned(const struct qg_result *r)
{
    const char *text = qg_meta_get(&r->meta, "cases_planned");
    bool is_number = strspn(text, "0123456789") == strlen(text);
    uint64_t planned = is_number ? strtoull(text, NULL, 10) : 0;
    return planned > r->n_cases ? planned : r->n_cases;
}

struct qg_measured_kl qg_kl_measured(const struct qg_result *r, const struct qg_foretold *f)
{
    for (size_t i = 0; i < r->n_modelled; i++) {
        const struct qg_modelled *m = &r->modelled[i];
        if (strcmp(m->model_hash, f->model_hash) == 0 && strcmp(m->name, f->name) == 0 &&
            strcmp(m->params, f->params) == 0 && strcmp(m->dtype, f->dtype) == 0 &&
            strcmp(m->path, "converted") == 0 && !m->training[0] && !isnan(m->kl))
            return (struct qg_measured_kl){m->kl, m->kl_low, m->kl_high};
    }
    return (struct qg_measured_kl){f->kl, f->kl_low, f->kl_high};
}

bool qg_is_off(const struct qg_foretold *f, const struct qg_measured_kl *measured)
{
    return fabs(f->kl_by_outputs / measured->value - 1) > 0.1;
}
