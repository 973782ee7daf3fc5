/* SPDX-License-Identifier: MIT */
#include "harness/call.h"

#include <stdio.h>
#include <string.h>

void qg_choice_spell(const struct qg_choice *c, char *text, size_t size)
{
    snprintf(text, size, "%s%s%s", c->scheme ? c->scheme->name : "unquantized",
             c->params[0] ? " " : "", c->params);
}

static enum qg_status back(struct qg_tensor *t, int n, struct qg_buffer *buffers,
                           struct qg_error *err)
{
    for (int i = 0; i < n; i++) {
        if (qg_buffer_alloc(&buffers[i], qg_bytes(&t[i]), err) != QG_OK)
            return qg_context(err, "memory for '%s'", t[i].name);
        t[i].data = buffers[i].data;
    }
    return QG_OK;
}

enum qg_status qg_call_alloc(struct qg_call *ret_c, const struct qg_args *args, bool judge,
                             struct qg_error *err)
{
    struct qg_call c = {.args = *args};
    size_t n = 0;
    for (int i = 0; i < args->n_out; i++)
        n += qg_count(&args->out[i]);
    if (back(c.args.in, c.args.n_in, c.in, err) != QG_OK ||
        back(c.args.out, c.args.n_out, c.out, err) != QG_OK ||
        qg_buffer_alloc(&c.work, qg_work_floats(args) * sizeof(float), err) != QG_OK ||
        (judge && qg_buffer_alloc(&c.exact, n * sizeof(double), err) != QG_OK) ||
        (judge && qg_buffer_alloc(&c.bound, n * sizeof(double), err) != QG_OK)) {
        qg_call_free(&c);
        return err->status;
    }
    c.args.work = c.work.data;
    if (judge && (args->layer || qg_is_product(args->op) || args->op == QG_FAKE_QUANT_GRAD)) {
        c.args.exact = c.exact.data;
        c.args.bound = c.bound.data;
    }
    *ret_c = c;
    return QG_OK;
}

void qg_call_free(struct qg_call *c)
{
    for (int i = 0; i < QG_MAX_TENSORS; i++) {
        qg_buffer_free(&c->in[i]);
        qg_buffer_free(&c->out[i]);
    }
    qg_buffer_free(&c->work);
    qg_buffer_free(&c->exact);
    qg_buffer_free(&c->bound);
    *c = (struct qg_call){0};
}

void qg_call_learn(const struct qg_args *a, const struct qg_args *convert)
{
    for (int i = 0; i < a->n_in; i++)
        for (int p = 0; p < convert->n_out; p++)
            if (strcmp(a->in[i].name, convert->out[p].name) == 0)
                for (size_t k = 0; k < qg_count(&a->in[i]); k++)
                    qg_put(&a->in[i], k, qg_get(&convert->out[p], k));
}

/* Parses the words of "group=32 grad=torch" into value[]; each parameter at most once. */
static enum qg_status parse(const struct qg_param *list, const char *owner, double *value,
                            const char *text, struct qg_error *err)
{
    char copy[256], why[256], *save = NULL;
    bool seen[QG_MAX_PARAMS] = {false};
    if (snprintf(copy, sizeof copy, "%s", text) >= (int)sizeof copy)
        return qg_fail(err, QG_EINVAL, "parameters longer than %zu characters", sizeof copy - 1);
    for (char *word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
        char *equal = strchr(word, '=');
        if (!equal)
            return qg_fail(err, QG_EINVAL, "'%s' is not a parameter; write NAME=VALUE", word);
        *equal = '\0';
        if (!qg_param_list_set(list, owner, value, word, equal + 1, why, sizeof why))
            return qg_fail(err, QG_EINVAL, "%s", why);
        size_t i = (size_t)(qg_param_list_find(list, word) - list);
        if (seen[i])
            return qg_fail(err, QG_EINVAL, "parameter '%s' is given twice; keep one", word);
        seen[i] = true;
    }
    return QG_OK;
}

enum qg_status qg_params_parse(struct qg_args *a, const struct qg_scheme *s, const char *text,
                               struct qg_error *err)
{
    char owner[64];
    snprintf(owner, sizeof owner, "scheme '%s'", s->name);
    return parse(s->params, owner, a->param, text, err);
}

enum qg_status qg_layer_params_parse(struct qg_args *a, const struct qg_layer *l, const char *text,
                                     struct qg_error *err)
{
    char owner[64];
    snprintf(owner, sizeof owner, "layer '%s'", l->name);
    return parse(l->params, owner, a->param, text, err);
}

enum qg_status qg_call_make(const struct qg_scheme *s, const char *params, enum qg_op op,
                            enum qg_operand operand, enum qg_dtype t, size_t m, size_t rows,
                            size_t cols, struct qg_call *ret_c, struct qg_error *err)
{
    struct qg_args a = {0};
    char why[256];
    qg_params_default(&a, s);
    if (qg_params_parse(&a, s, params, err) != QG_OK)
        return err->status;
    if (!qg_args_init(&a, s, op, operand, t, m, rows, cols, why, sizeof why))
        return qg_fail(err, QG_EINVAL, "scheme '%s': %s", s->name, why);
    return qg_call_alloc(ret_c, &a, false, err);
}
