/* SPDX-License-Identifier: MIT */
#define _DEFAULT_SOURCE /* strsep */
#include "harness/cli/proxy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS = 7 };

static const char *const column_names[COLUMNS] = {
    "scheme", "delta_ln_ppl", "delta_low", "delta_high", "kl", "kl_low", "kl_high"};

/* Which field of a line each column is. */
static enum qg_status read_head(char *line, size_t at[COLUMNS], struct qg_error *err)
{
    bool there[COLUMNS] = {false};
    size_t i = 0;
    for (char *word; (word = strsep(&line, "\t\n")); i++)
        for (size_t k = 0; k < COLUMNS; k++)
            if (strcmp(word, column_names[k]) == 0) {
                at[k] = i;
                there[k] = true;
            }
    for (size_t k = 0; k < COLUMNS; k++)
        if (!there[k])
            return qg_fail(err, QG_EFORMAT, "there is no column '%s'", column_names[k]);
    return QG_OK;
}

static enum qg_status read_row(char *line, const size_t at[COLUMNS], struct qg_measured *ret_m,
                               struct qg_error *err)
{
    const char *word[COLUMNS] = {NULL};
    double x[COLUMNS];
    size_t i = 0;
    for (char *w; (w = strsep(&line, "\t\n")); i++)
        for (size_t k = 0; k < COLUMNS; k++)
            word[k] = at[k] == i ? w : word[k];
    for (size_t k = 1; k < COLUMNS; k++) {
        char *end = NULL;
        x[k] = word[k] ? strtod(word[k], &end) : 0;
        if (!word[k] || end == word[k] || *end)
            return qg_fail(err, QG_EFORMAT, "'%s' is no number of column '%s'",
                           word[k] ? word[k] : "", column_names[k]);
    }
    *ret_m = (struct qg_measured){.delta = {x[1], x[2], x[3]}, .kl = {x[4], x[5], x[6]}};
    snprintf(ret_m->scheme, sizeof ret_m->scheme, "%s", word[0]);
    return QG_OK;
}

static enum qg_status add_row(struct qg_measured_table *t, char *line, const size_t at[COLUMNS],
                              struct qg_error *err)
{
    struct qg_measured *more = realloc(t->row, (t->n + 1) * sizeof *more);
    if (!more)
        return qg_fail(err, QG_ENOMEM, "no memory for %zu lines", t->n + 1);
    t->row = more;
    if (read_row(line, at, &more[t->n], err) != QG_OK)
        return qg_context(err, "line %zu", t->n + 2);
    t->n++;
    return QG_OK;
}

enum qg_status qg_measured_read(const char *path, struct qg_measured_table *ret_t,
                                struct qg_error *err)
{
    size_t at[COLUMNS] = {0}, size = 0;
    char *line = NULL;
    FILE *in = fopen(path, "r");
    *ret_t = (struct qg_measured_table){0};
    if (!in)
        return qg_fail(err, QG_EIO, "%s: %s", path, strerror(errno));
    enum qg_status status = getline(&line, &size, in) < 0
                                ? qg_fail(err, QG_EFORMAT, "there is no head of a table")
                                : read_head(line, at, err);
    while (status == QG_OK && getline(&line, &size, in) >= 0)
        status = add_row(ret_t, line, at, err);
    if (status == QG_OK && ferror(in))
        status = qg_fail(err, QG_EIO, "read: %s", strerror(errno));
    fclose(in);
    free(line);
    return status == QG_OK ? QG_OK : qg_context(err, "%s", path);
}

void qg_measured_free(struct qg_measured_table *t)
{
    free(t->row);
    *t = (struct qg_measured_table){0};
}

const struct qg_measured *qg_measured_find(const struct qg_measured_table *t, const char *scheme)
{
    for (size_t i = 0; i < t->n; i++)
        if (strcmp(t->row[i].scheme, scheme) == 0)
            return &t->row[i];
    return NULL;
}
