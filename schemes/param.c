/* SPDX-License-Identifier: MIT */
#include "schemes/param.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void qg_param_list_default(const struct qg_param *list, double *value)
{
    for (int i = 0; list[i].name; i++)
        value[i] = list[i].def;
}

const struct qg_param *qg_param_list_find(const struct qg_param *list, const char *name)
{
    for (; list->name; list++)
        if (strcmp(list->name, name) == 0)
            return list;
    return NULL;
}

/* "[a, b]" or "one of x, y": what a parameter takes. */
static void describe_range(const struct qg_param *p, char *text, size_t size)
{
    if (!p->choices) {
        snprintf(text, size, "%s from %g to %g", p->integer ? "a whole number" : "a number", p->min,
                 p->max);
        return;
    }
    size_t n = (size_t)snprintf(text, size, "one of");
    for (int c = 0; p->choices[c] && n < size; c++)
        n += (size_t)snprintf(text + n, size - n, "%s %s", c ? "," : "", p->choices[c]);
}

/* The value that the text stands for; false when it stands for none that is allowed. */
static bool parse(const struct qg_param *p, const char *text, double *ret_v)
{
    if (!p->choices) {
        char *end;
        *ret_v = strtod(text, &end);
        return end != text && !*end && *ret_v >= p->min && *ret_v <= p->max &&
               (!p->integer || *ret_v == (double)(long long)*ret_v);
    }
    for (int c = 0; p->choices[c]; c++)
        if (strcmp(p->choices[c], text) == 0) {
            *ret_v = c;
            return true;
        }
    return false;
}

bool qg_param_list_set(const struct qg_param *list, const char *owner, double *value,
                       const char *name, const char *text, char *why, size_t why_size)
{
    const struct qg_param *p = qg_param_list_find(list, name);
    if (!p) {
        size_t n =
            (size_t)snprintf(why, why_size, "%s has no parameter '%s'; it has:", owner, name);
        for (p = list; p->name && n < why_size; p++)
            n += (size_t)snprintf(why + n, why_size - n, " %s", p->name);
        return false;
    }
    double v;
    if (!parse(p, text, &v)) {
        char range[128];
        describe_range(p, range, sizeof range);
        snprintf(why, why_size, "parameter '%s' of %s is %s, not '%s'", name, owner, range, text);
        return false;
    }
    value[p - list] = v;
    return true;
}

void qg_param_list_format(const struct qg_param *list, const double *value, char *text, size_t size)
{
    size_t n = 0;
    text[0] = '\0';
    for (int i = 0; list[i].name; i++) {
        const struct qg_param *p = &list[i];
        if (value[i] == p->def || n >= size)
            continue;
        n += (size_t)snprintf(text + n, size - n, "%s%s=", n ? " " : "", p->name);
        if (n >= size)
            return;
        if (p->choices) {
            n += (size_t)snprintf(text + n, size - n, "%s", p->choices[(int)value[i]]);
            continue;
        }
        char number[32];
        for (int digits = 6; digits <= 17; digits++) { // the shortest text that reads back
            snprintf(number, sizeof number, "%.*g", digits, value[i]);
            if (strtod(number, NULL) == value[i])
                break;
        }
        n += (size_t)snprintf(text + n, size - n, "%s", number);
    }
}
