/* SPDX-License-Identifier: MIT
 *
 * qgauge apply --layer: the inputs of a layer from a safetensors file. A base weight called "w" is
 * read as it is; with --scheme it is converted and dequantized by that scheme first, or, where the
 * file has "w.codes" and so on, dequantized from these planes.
 */
#include "harness/cli/apply.h"

#include <stdio.h>
#include <string.h>

/* The shape of one input: that of the file's tensor, or what a base weight's planes stand for. */
static enum qg_status shape_of(const struct qg_request *q, const struct qg_safetensors *f,
                               const struct qg_layer_tensor *t, struct qg_tensor *ret,
                               struct qg_error *err)
{
    bool planes = t->base && q->scheme && !qg_safetensors_find(f, t->name);
    *ret = (struct qg_tensor){.name = t->name, .rank = 2};
    if (planes)
        return qg_request_extents(q, f, qg_prefixed(t->name, ".").text, &ret->shape[0],
                                  &ret->shape[1], err);
    const struct qg_tensor *have =
        t->base ? qg_request_matrix(q, f, t->name, err) : qg_request_find(q, f, t->name, err);
    if (!have)
        return err->status;
    *ret = *have;
    return QG_OK;
}

/* The base weight `to` through the request's scheme. */
static enum qg_status dequantize(const struct qg_request *q, const struct qg_safetensors *f,
                                 const struct qg_tensor *to, struct qg_error *err)
{
    struct qg_call c;
    const struct qg_tensor *w = qg_safetensors_find(f, to->name);
    if (w && w->dtype != to->dtype)
        return qg_fail(err, QG_EFORMAT, "%s: tensor '%s' is %s, expected %s", q->in, to->name,
                       qg_dtype_name(w->dtype), qg_dtype_name(to->dtype));
    if (qg_request_call(q, QG_DEQUANT, to->name, to->dtype, 0, to->shape[0], to->shape[1], 0, &c,
                        err) != QG_OK)
        return err->status;
    enum qg_status status = w ? qg_request_convert(q, f, w, c.args.in, err) : QG_OK;
    for (int i = 0; status == QG_OK && !w && i < c.args.n_in; i++)
        status = qg_request_load(q, f, qg_prefixed(to->name, ".").text, &c.args.in[i], err);
    if (status == QG_OK) {
        qg_definition(q->scheme, QG_WEIGHT, QG_DEQUANT)(&c.args);
        memcpy(to->data, c.args.out[0].data, qg_bytes(to));
    }
    qg_call_free(&c);
    return status;
}

static bool is_base(const struct qg_layer *l, const char *name)
{
    const struct qg_layer_tensor *t = l->in;
    while (strcmp(t->name, name) != 0)
        t++;
    return t->base;
}

enum qg_status qg_request_layer(const struct qg_request *q, const struct qg_safetensors *f,
                                struct qg_call *ret_c, struct qg_error *err)
{
    struct qg_args a = {.op = q->op};
    struct qg_tensor given[QG_MAX_TENSORS];
    struct qg_call c;
    char why[256];
    int n = 0;
    const struct qg_tensor *x = qg_request_find(q, f, q->layer->in[0].name, err);
    if (!x)
        return err->status;
    memcpy(a.param, q->layer_param, sizeof a.param);
    for (const struct qg_layer_tensor *t = q->layer->in; t->name; t++)
        if (qg_layer_has(&a, t) && shape_of(q, f, t, &given[n++], err) != QG_OK)
            return err->status;
    if (!qg_layer_init(&a, q->layer, q->op, x->dtype, given, n, why, sizeof why))
        return qg_fail(err, QG_EFORMAT, "%s: %s", q->in, why);
    if (qg_call_alloc(&c, &a, false, err) != QG_OK)
        return qg_context(err, "%s", q->in);
    enum qg_status status = QG_OK;
    for (int i = 0; status == QG_OK && i < a.n_in; i++)
        status = q->scheme && is_base(q->layer, a.in[i].name)
                     ? dequantize(q, f, &c.args.in[i], err)
                     : qg_request_load(q, f, "", &c.args.in[i], err);
    if (status != QG_OK)
        qg_call_free(&c);
    else
        *ret_c = c;
    return status;
}
