/* SPDX-License-Identifier: MIT
 *
 * Parameters of schemes and layers: named values that are parsed, listed and written in one way.
 */
#ifndef QG_PARAM_H
#define QG_PARAM_H

#include <stdbool.h>
#include <stddef.h>

/* Values are doubles: a number, or the index of a choice. */
struct qg_param {
    const char *name, *doc;
    double def, min, max;       /* default and range; for choices the default is an index */
    const char *const *choices; /* NULL-terminated words, or NULL for a number */
    bool integer;               /* a number without a fraction */
};

/* In what follows `list` ends with name NULL and value[i] belongs to list[i]. */

/* The defaults. */
void qg_param_list_default(const struct qg_param *list, double *value);

/* A parameter by name, NULL when there is none. */
const struct qg_param *qg_param_list_find(const struct qg_param *list, const char *name);

/* Sets one parameter from text. False, with a sentence that lists what is allowed, for an unknown
 * name or a value that does not parse or is out of range; `owner` ("scheme 'int4'") is whose
 * parameters the sentence is about. */
bool qg_param_list_set(const struct qg_param *list, const char *owner, double *value,
                       const char *name, const char *text, char *why, size_t why_size);

/* Writes those that differ from the default as "group=32 eps=1e-05" (empty when none do). Numbers
 * are written so that they read back to the same double. */
void qg_param_list_format(const struct qg_param *list, const double *value, char *text,
                          size_t size);

#endif
