/* SPDX-License-Identifier: MIT */
#include "harness/checkpoint.h"

#include <stdlib.h>

#include "harness/select.h"

void qg_checkpoint_close(struct qg_checkpoint *c)
{
    for (size_t i = 0; i < c->n; i++)
        free(c->tensor[i].data);
    free(c->tensor);
    qg_safetensors_close(&c->file);
    *c = (struct qg_checkpoint){0};
}

static enum qg_status load(const struct qg_checkpoint *c, const struct qg_tensor *t,
                           enum qg_dtype dtype, struct qg_tensor *ret_t, struct qg_error *err)
{
    struct qg_tensor from = *t, to = *t;
    to.dtype = dtype == QG_INPUT ? t->dtype : dtype;
    from.data = malloc(qg_bytes(&from));
    to.data = malloc(qg_bytes(&to));
    enum qg_status status = from.data && to.data
                                ? qg_safetensors_load(c->file, t, from.data, err)
                                : qg_fail(err, QG_ENOMEM, "no memory for '%s'", t->name);
    for (size_t i = 0; status == QG_OK && i < qg_count(t); i++)
        qg_put(&to, i, qg_get(&from, i));
    free(from.data);
    if (status != QG_OK)
        free(to.data);
    else
        *ret_t = to;
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
    enum qg_status status = qg_safetensors_open(path, &c->file, err);
    size_t n = c->file ? qg_safetensors_count(c->file) : 0;
    c->tensor = calloc(n + 1, sizeof *c->tensor);
    if (status == QG_OK && !c->tensor)
        status = qg_fail(err, QG_ENOMEM, "no memory for a list of %zu tensors", n);
    for (size_t i = 0; i < n && status == QG_OK; i++) {
        const struct qg_tensor *t = qg_safetensors_at(c->file, i);
        if (!qg_regex_fits(&wanted, t->name))
            continue;
        if (!qg_is_weight(t) || qg_count(t) == 0) {
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
