/* SPDX-License-Identifier: MIT
 *
 * The list of layouts, and what they share.
 */
#include "harness/layout/layout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/call.h"

#define QG_LAYOUTS(file) extern const struct qg_layout qg_layouts_##file[];
#include "harness/layout_list.h"
#undef QG_LAYOUTS

static const struct qg_layout *const tables[] = {
#define QG_LAYOUTS(file) qg_layouts_##file,
#include "harness/layout_list.h"

#define SPELT 1200 /* of a plane's name, suffix and all: a longer one is refused */
#undef QG_LAYOUTS
};

const struct qg_layout *qg_layout_at(size_t i)
{
    for (size_t t = 0; t < sizeof tables / sizeof tables[0]; t++)
        for (const struct qg_layout *l = tables[t]; l->name; l++)
            if (i-- == 0)
                return l;
    return NULL;
}

const struct qg_layout *qg_layout_find(const char *name)
{
    for (size_t i = 0; qg_layout_at(i); i++)
        if (strcmp(qg_layout_at(i)->name, name) == 0)
            return qg_layout_at(i);
    return NULL;
}

enum qg_status qg_layout_args(const struct qg_assignment *as, struct qg_args *ret_a,
                              struct qg_error *err)
{
    char why[256];
    struct qg_args a = {0};
    if (strlen(as->name) > SPELT - 100)
        return qg_fail(err, QG_EINVAL, "tensor '%.80s...': %zu characters are too many for a name",
                       as->name, strlen(as->name));
    qg_params_default(&a, as->convert.scheme);
    if (qg_params_parse(&a, as->convert.scheme, as->convert.params, err) != QG_OK)
        return qg_context(err, "tensor '%.80s'", as->name);
    if (!qg_args_init(&a, as->convert.scheme, QG_CONVERT, as->operand, as->dtype, 0, as->rows,
                      as->cols + as->padded, why, sizeof why))
        return qg_fail(err, QG_EINVAL, "tensor '%.80s', scheme '%s': %s", as->name,
                       as->convert.scheme->name, why);
    *ret_a = a;
    return QG_OK;
}

enum qg_status qg_layout_check(const struct qg_layout *l, const struct qg_recipe_plan *plan,
                               struct qg_error *err)
{
    struct qg_args a;
    cJSON *config = NULL;
    for (size_t i = 0; i < plan->n; i++) {
        const struct qg_assignment *as = &plan->of[i];
        if (!as->convert.scheme)
            continue;
        if (qg_layout_args(as, &a, err) != QG_OK)
            return err->status;
        const char *why = l->refuse(as, &a);
        if (why)
            return qg_fail(err, QG_EINVAL, "layout '%s' cannot hold tensor '%.80s' as %s: %s",
                           l->name, as->name, as->convert.scheme->name, why);
    }
    enum qg_status status = l->config(plan, &config, err);
    cJSON_Delete(config);
    return status;
}

void qg_slots_free(struct qg_slots *s)
{
    for (int i = 0; i < s->n; i++)
        free(s->at[i].name);
    s->n = 0;
}

/* --- for the layouts ------------------------------------------------------------------------- */

const char *qg_layout_module(const char *name, int *ret_length)
{
    static const char ending[] = ".weight";
    size_t n = strlen(name), e = sizeof ending - 1;
    if (n <= e || n - e > 1000 || strcmp(name + n - e, ending) != 0)
        return NULL;
    *ret_length = (int)(n - e);
    return name;
}

const char *qg_layout_linear(const struct qg_assignment *as)
{
    int length;
    if (as->operand != QG_WEIGHT || as->kind == QG_LAYER_EMBEDDING)
        return "its loader quantizes linear layers, no embeddings";
    if (as->tensor->t.rank != 2)
        return "its loader takes matrices only";
    if (!qg_layout_module(as->name, &length))
        return "its loader finds weights by names that end in .weight";
    if (as->padded)
        return "its loader has no padded columns";
    return NULL;
}

enum qg_status qg_layout_add(struct qg_slots *s, const char *name, const char *dtype_word, int rank,
                             const size_t *shape, size_t bytes, int plane, struct qg_error *err)
{
    struct qg_slot t = {.dtype_word = dtype_word, .rank = rank, .bytes = bytes, .plane = plane};
    if (rank > QG_MAX_RANK)
        return qg_fail(err, QG_EINVAL, "tensor '%.80s' has %d dimensions, %d are the most", name,
                       rank, QG_MAX_RANK);
    if (rank)
        memcpy(t.shape, shape, (size_t)rank * sizeof *shape);
    if (!(t.name = strdup(name)))
        return qg_fail(err, QG_ENOMEM, "no memory for a name");
    s->at[s->n++] = t;
    return QG_OK;
}

/* MODULE + suffix; the whole name + suffix where it is not that of a module's weight. */
static void spell(const char *name, const char *suffix, char *text, size_t size)
{
    int length = (int)strlen(name);
    qg_layout_module(name, &length);
    snprintf(text, size, "%.*s%s", length, name, suffix);
}

enum qg_status qg_layout_plane(struct qg_slots *s, const char *name, const char *suffix,
                               const struct qg_args *convert, int plane, struct qg_error *err)
{
    const struct qg_tensor *p = &convert->out[plane];
    char text[SPELT];
    spell(name, suffix, text, sizeof text);
    return qg_layout_add(s, text, qg_dtype_name(p->dtype), p->rank, p->shape, qg_bytes(p), plane,
                         err);
}

enum qg_status qg_layout_made(struct qg_slots *s, const char *name, const char *suffix,
                              const char *dtype_word, size_t element, int rank, const size_t *shape,
                              struct qg_error *err)
{
    char text[SPELT];
    size_t bytes = element;
    for (int d = 0; d < rank; d++)
        bytes *= shape[d];
    spell(name, suffix, text, sizeof text);
    return qg_layout_add(s, text, dtype_word, rank, shape, bytes, -1, err);
}

cJSON *qg_layout_kept(const struct qg_recipe_plan *plan)
{
    cJSON *list = cJSON_CreateArray();
    bool head = false;
    for (size_t i = 0; i < plan->n; i++) {
        const struct qg_assignment *as = &plan->of[i];
        char module[1024];
        int length;
        head |= as->kind == QG_LAYER_HEAD;
        if (as->convert.scheme || as->kind > QG_LAYER_ROUTER || as->kind == QG_LAYER_EMBEDDING ||
            !qg_layout_module(as->name, &length))
            continue;
        snprintf(module, sizeof module, "%.*s", length, as->name);
        cJSON_AddItemToArray(list, cJSON_CreateString(module));
    }
    if (!head && qg_model_tied(plan->model))
        cJSON_AddItemToArray(list, cJSON_CreateString("lm_head"));
    return list;
}

enum qg_status qg_layout_uniform(const struct qg_recipe_plan *plan, struct qg_args *ret_a,
                                 struct qg_error *err)
{
    const struct qg_assignment *first = NULL;
    for (size_t i = 0; i < plan->n; i++) {
        const struct qg_assignment *as = &plan->of[i];
        if (!as->convert.scheme)
            continue;
        first = first ? first : as;
        if (as->convert.scheme != first->convert.scheme ||
            strcmp(as->convert.params, first->convert.params) != 0)
            return qg_fail(err, QG_EINVAL,
                           "the format's configuration holds one scheme, and the plan has two: "
                           "'%.80s' is %s %s, '%.80s' is %s %s",
                           first->name, first->convert.scheme->name, first->convert.params,
                           as->name, as->convert.scheme->name, as->convert.params);
    }
    if (!first)
        return qg_fail(err, QG_EINVAL, "the plan quantizes no tensor");
    return qg_layout_args(first, ret_a, err);
}
