/* SPDX-License-Identifier: MIT
 *
 * The catalogue of layers, and what every layer shares: parameters and shapes. The list of files is
 * in schemes/meson.build; layer_list.h is made from it.
 */
#include "schemes/layers/layer.h"

#include <stdio.h>
#include <string.h>

#include "schemes/interval.h"

#define QG_LAYERS(file) extern const struct qg_layer qg_layers_##file[];
#include "schemes/layer_list.h"
#undef QG_LAYERS

static const struct qg_layer *const tables[] = {
#define QG_LAYERS(file) qg_layers_##file,
#include "schemes/layer_list.h"
#undef QG_LAYERS
};

const char *const qg_off_on[] = {"off", "on", NULL};

const struct qg_layer *qg_layer_at(size_t i)
{
    for (size_t t = 0; t < sizeof tables / sizeof tables[0]; t++)
        for (const struct qg_layer *l = tables[t]; l->name; l++)
            if (i-- == 0)
                return l;
    return NULL;
}

const struct qg_layer *qg_layer_find(const char *name)
{
    const struct qg_layer *l;
    for (size_t i = 0; (l = qg_layer_at(i)); i++)
        if (strcmp(l->name, name) == 0)
            return l;
    return NULL;
}

qg_op_fn *qg_layer_definition(const struct qg_layer *l, enum qg_op op)
{
    return op == QG_FORWARD ? l->forward : op == QG_BACKWARD ? l->backward : NULL;
}

void qg_layer_params_default(struct qg_args *a, const struct qg_layer *l)
{
    qg_param_list_default(l->params, a->param);
}

bool qg_layer_has(const struct qg_args *a, const struct qg_layer_tensor *t)
{
    return (t->only == 0 || t->only == a->op) && (t->when == 0 || a->param[t->when - 1] != 0);
}

static const struct qg_tensor *find(const struct qg_tensor *t, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (strcmp(t[i].name, name) == 0)
            return &t[i];
    return NULL;
}

const struct qg_tensor *qg_layer_in(const struct qg_args *a, const char *name)
{
    return find(a->in, a->n_in, name);
}

const struct qg_tensor *qg_layer_out(const struct qg_args *a, const char *name)
{
    return find(a->out, a->n_out, name);
}

/* Takes the extents of one given tensor; false, with a sentence, when it does not fit. */
static bool bind(struct qg_args *a, const struct qg_layer_tensor *want,
                 const struct qg_tensor *have, char *why, size_t why_size)
{
    if (!have) {
        snprintf(why, why_size, "there is no tensor '%s', which %s reads: %s", want->name,
                 qg_op_name(a->op), want->doc);
        return false;
    }
    if (have->rank != (int)strlen(want->shape)) {
        snprintf(why, why_size, "'%s' has %d dimensions, expected [%s]", want->name, have->rank,
                 want->shape);
        return false;
    }
    for (int d = 0; d < have->rank; d++) {
        size_t *extent = &a->extent[want->shape[d] - 'A'];
        if (have->shape[d] == 0) {
            snprintf(why, why_size, "'%s' is empty", want->name);
            return false;
        }
        if (*extent && *extent != have->shape[d]) {
            snprintf(why, why_size, "'%s' [%s] says %c = %zu, others say %zu", want->name,
                     want->shape, want->shape[d], have->shape[d], *extent);
            return false;
        }
        *extent = have->shape[d];
    }
    return true;
}

/* Whether no two extents span more than 2^40 elements: no tensor and no intermediate result is
 * larger. */
static bool is_countable(const struct qg_args *a)
{
    const size_t limit = (size_t)1 << 40;
    for (int i = 0; i < 26; i++)
        for (int j = 0; j < 26; j++)
            if (a->extent[i] && a->extent[j] > limit / a->extent[i])
                return false;
    return true;
}

/* Appends the tensors of a table that are there. */
static void add(const struct qg_args *a, const struct qg_layer_tensor *table, struct qg_tensor *t,
                int *n)
{
    for (*n = 0; table->name; table++) {
        if (!qg_layer_has(a, table))
            continue;
        struct qg_tensor *new = &t[(*n)++];
        *new = (struct qg_tensor){.name = table->name,
                                  .dtype = qg_dtype_by(a, table->dtype, table->dtype_param)};
        for (const char *letter = table->shape; *letter; letter++)
            new->shape[new->rank++] = qg_extent_of(a, *letter);
    }
}

bool qg_layer_init(struct qg_args *a, const struct qg_layer *l, enum qg_op op, enum qg_dtype dtype,
                   const struct qg_tensor *given, int n, char *why, size_t why_size)
{
    struct qg_args keep = *a;
    *a = (struct qg_args){.layer = l, .op = op, .dtype = dtype};
    memcpy(a->param, keep.param, sizeof a->param);
    if (!qg_layer_definition(l, op)) {
        snprintf(why, why_size, "layer '%s' has no %s", l->name, qg_op_name(op));
        return false;
    }
    if (dtype != QG_F32 && dtype != QG_BF16 && dtype != QG_F16) {
        snprintf(why, why_size, "'x' must be F32, BF16 or F16");
        return false;
    }
    for (const struct qg_layer_tensor *t = l->in; t->name; t++)
        if (qg_layer_has(a, t) && !bind(a, t, find(given, n, t->name), why, why_size))
            return false;
    if (!is_countable(a)) {
        snprintf(why, why_size, "a tensor of more than 2^40 elements");
        return false;
    }
    if (l->accepts && !l->accepts(a, why, why_size))
        return false;
    add(a, l->in, a->in, &a->n_in);
    add(a, l->out, a->out, &a->n_out);
    return true;
}

size_t qg_layer_work_floats(const struct qg_args *a)
{
    size_t values = a->layer->values(a);
    for (int i = 0; i < a->n_in; i++)
        values += qg_count(&a->in[i]);
    return values * (sizeof(struct qg_interval) / sizeof(float));
}
