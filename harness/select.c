/* SPDX-License-Identifier: MIT */
#include "harness/select.h"

#include <string.h>

enum qg_status qg_regex_compile(regex_t *ret_re, const char *text, struct qg_error *err)
{
    char why[128];
    int e = regcomp(ret_re, text ? text : "", REG_EXTENDED | REG_NOSUB);
    if (e == 0)
        return QG_OK;
    regerror(e, ret_re, why, sizeof why);
    return qg_fail(err, QG_EINVAL, "'%s' is not a regular expression: %s", text, why);
}

bool qg_regex_fits(const regex_t *re, const char *name)
{
    return regexec(re, name, 0, NULL, 0) == 0;
}

bool qg_is_weight(const struct qg_tensor *t)
{
    return t->rank == 2 && (t->dtype == QG_F32 || t->dtype == QG_BF16 || t->dtype == QG_F16);
}

#define LONGEST 64 /* of words that are compared */

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Insertions, deletions and replacements of a character that make b of a (Levenshtein). */
static size_t edits(const char *a, const char *b)
{
    size_t row[LONGEST + 1], n = strlen(b);
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0]; // of the row before
        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            size_t above = row[j + 1];
            row[j + 1] = least(least(above, row[j]) + 1, diagonal + (a[i] != b[j]));
            diagonal = above;
        }
    }
    return row[n];
}

const char *qg_nearest_name(const char *word, const char *(*name)(const void *user, size_t i),
                            const void *user)
{
    const char *nearest = NULL, *other;
    size_t length = strlen(word), best = length < 4 ? 2 : 3; // of three characters two are no hint
    if (!length || length > LONGEST)
        return NULL;
    for (size_t i = 0; (other = name(user, i)); i++) {
        if (strncmp(word, other, length) == 0)
            return other;
        if (strlen(other) > LONGEST || edits(word, other) >= best)
            continue;
        best = edits(word, other);
        nearest = other;
    }
    return nearest;
}
