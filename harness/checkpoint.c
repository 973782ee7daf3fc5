/* SPDX-License-Identifier: MIT */
#include "harness/checkpoint.h"

#include <stdlib.h>

#include "harness/select.h"

void qg_checkpoint_close(struct qg_checkpoint *c)
{
    for (size_t i = 0; i < c->n; i++)
        free(c->tensor[i].data);
    free(c->tensor);
    qg_model_close(&c->model);
    *c = (struct qg_checkpoint){0};
}

static enum qg_status load(const struct qg_checkpoint *c, const struct qg_model_tensor *t,
                           enum qg_dtype dtype, struct qg_tensor *ret_t, struct qg_error *err)
{
    *ret_t = t->t;
    ret_t->dtype = dtype == QG_INPUT ? t->t.dtype : dtype;
    ret_t->data = malloc(qg_bytes(ret_t));
    enum qg_status status =
        ret_t->data ? qg_model_rows(c->model, t, 0, t->t.shape[0], ret_t->dtype, ret_t->data, err)
                    : qg_fail(err, QG_ENOMEM, "no memory for '%s'", t->t.name);
    if (status != QG_OK)
        free(ret_t->data);
    return status;
}

enum qg_status qg_checkpoint_open(const char *path, const char *tensors, enum qg_dtype dtype,
                                  struct qg_checkpoint *ret_c, struct qg_error *err)
{
    regex_t wanted;
    struct qg_checkpoint *c = ret_c;
    *c = (struct qg_checkpoint){0};
    if (qg_regex_compile(&wanted, tensors, err) != QG_OK)
        return err->status;
    enum qg_status status = qg_model_open(path, &c->model, err);
    size_t n = c->model ? qg_model_count(c->model) : 0;
    c->tensor = calloc(n + 1, sizeof *c->tensor);
    if (status == QG_OK && !c->tensor)
        status = qg_fail(err, QG_ENOMEM, "no memory for a list of %zu tensors", n);
    for (size_t i = 0; i < n && status == QG_OK; i++) {
        const struct qg_model_tensor *t = qg_model_at(c->model, i);
        if (!qg_regex_fits(&wanted, t->t.name))
            continue;
        if (!qg_is_weight(&t->t) || qg_count(&t->t) == 0) {
            c->left_out++;
            continue;
        }
        status = load(c, t, dtype, &c->tensor[c->n], err);
        c->n += status == QG_OK;
    }
    regfree(&wanted);
    if (status == QG_OK && !c->n)
        status = qg_fail(err, QG_EABSENT, "no tensor of '%s' can be used; --tensors is '%s'", path,
                         tensors ? tensors : "");
    return status;
}
