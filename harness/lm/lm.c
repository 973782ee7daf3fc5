/* SPDX-License-Identifier: MIT */
#include "harness/lm/lm.h"

#include <cblas.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/processors.h"
#include "harness/base/rng.h"
#include "harness/lm/parallel.h"
#include "harness/recipe/kind.h"

/* --- tensors --------------------------------------------------------------------------------- */

static const char *const in_layer[] = {
    [QG_LM_IN_NORM] = "input_layernorm", [QG_LM_Q] = "self_attn.q_proj",
    [QG_LM_K] = "self_attn.k_proj",      [QG_LM_V] = "self_attn.v_proj",
    [QG_LM_O] = "self_attn.o_proj",      [QG_LM_POST_NORM] = "post_attention_layernorm",
    [QG_LM_GATE] = "mlp.gate_proj",      [QG_LM_UP] = "mlp.up_proj",
    [QG_LM_DOWN] = "mlp.down_proj",
};
enum { PARTS = QG_LM_DOWN - QG_LM_IN_NORM + 1 };

static void extent(const struct qg_lm_config *c, enum qg_lm_part part, size_t *rows, size_t *cols)
{
    *rows = part == QG_LM_EMBED || part == QG_LM_HEAD ? c->vocab
            : part == QG_LM_Q                         ? c->heads * c->head
            : part == QG_LM_K || part == QG_LM_V      ? c->kv_heads * c->head
            : part == QG_LM_GATE || part == QG_LM_UP  ? c->hidden
            : part == QG_LM_IN_NORM || part == QG_LM_POST_NORM || part == QG_LM_NORM ? 1
                                                                                     : c->width;
    *cols = part == QG_LM_O ? c->heads * c->head : part == QG_LM_DOWN ? c->hidden : c->width;
}

static void add_tensor(struct qg_lm *m, enum qg_lm_part part, size_t layer)
{
    struct qg_lm_tensor *t = &m->tensor[m->n_tensors++];
    *t = (struct qg_lm_tensor){.part = part, .layer = layer, .at = m->n_params, .dtype = m->dtype};
    extent(&m->config, part, &t->rows, &t->cols);
    if (part >= QG_LM_IN_NORM && part <= QG_LM_DOWN)
        snprintf(t->name, sizeof t->name, "model.layers.%zu.%s.weight", layer, in_layer[part]);
    else
        snprintf(t->name, sizeof t->name, "%s.weight",
                 part == QG_LM_EMBED  ? "model.embed_tokens"
                 : part == QG_LM_NORM ? "model.norm"
                                      : "lm_head");
    m->n_params += t->rows * t->cols;
}

bool qg_lm_is_matrix(const struct qg_lm_tensor *t)
{
    return t->part != QG_LM_IN_NORM && t->part != QG_LM_POST_NORM && t->part != QG_LM_NORM &&
           t->part != QG_LM_A && t->part != QG_LM_B;
}

size_t qg_lm_index(const struct qg_lm *m, enum qg_lm_part part, size_t layer)
{
    if (part == QG_LM_EMBED)
        return 0;
    if (part >= QG_LM_NORM)
        return 1 + m->config.layers * PARTS + (part - QG_LM_NORM);
    return 1 + layer * PARTS + (part - QG_LM_IN_NORM);
}

size_t qg_lm_head(const struct qg_lm *m)
{
    return m->config.tied ? qg_lm_index(m, QG_LM_EMBED, 0) : qg_lm_index(m, QG_LM_HEAD, 0);
}

/* What matrices start from: their place in params, which may have moved. */
static void point_matrices(struct qg_lm *m)
{
    for (size_t i = 0; i < m->n_tensors; i++) {
        const struct qg_lm_tensor *t = &m->tensor[i];
        struct qg_linear *l = &m->linear[i];
        snprintf(l->name, sizeof l->name, "%s", t->name);
        l->rows = t->rows;
        l->cols = t->cols;
        l->source = m->params + t->at;
    }
}

/* A model with the list of its tensors, and no parameters yet. */
static enum qg_status make_list(const struct qg_lm_config *c, enum qg_dtype dtype,
                                struct qg_lm **ret_m, struct qg_error *err)
{
    struct qg_lm *m = calloc(1, sizeof *m);
    size_t most = 3 + c->layers * PARTS;
    if (m) {
        m->config = *c;
        m->dtype = dtype;
        m->tensor = calloc(most, sizeof *m->tensor);
        m->linear = calloc(most, sizeof *m->linear);
    }
    if (!m || !m->tensor || !m->linear) {
        qg_lm_free(&m);
        return qg_fail(err, QG_ENOMEM, "no memory for a model of %zu layers", c->layers);
    }
    add_tensor(m, QG_LM_EMBED, 0);
    for (size_t l = 0; l < c->layers; l++)
        for (int part = QG_LM_IN_NORM; part <= QG_LM_DOWN; part++)
            add_tensor(m, (enum qg_lm_part)part, l);
    add_tensor(m, QG_LM_NORM, 0);
    if (!c->tied)
        add_tensor(m, QG_LM_HEAD, 0);
    *ret_m = m;
    return QG_OK;
}

static enum qg_status give_params(struct qg_lm *m, struct qg_error *err)
{
    m->params = calloc(m->n_params, sizeof *m->params);
    if (!m->params)
        return qg_fail(err, QG_ENOMEM, "no memory for the %zu parameters of a model", m->n_params);
    point_matrices(m);
    openblas_set_num_threads(1); // what runs side by side are sequences
    return QG_OK;
}

enum qg_status qg_lm_make(const struct qg_lm_config *c, enum qg_dtype dtype, struct qg_lm **ret_m,
                          struct qg_error *err)
{
    struct qg_lm *m;
    if (make_list(c, dtype, &m, err) != QG_OK)
        return err->status;
    if (give_params(m, err) != QG_OK ||
        qg_lm_put(m, NULL, QG_LINEAR_PLAIN, NULL, QG_INPUT, false, 1, err) != QG_OK) {
        qg_lm_free(&m);
        return err->status;
    }
    *ret_m = m;
    return QG_OK;
}

void qg_lm_free(struct qg_lm **m)
{
    if (!*m)
        return;
    for (size_t i = 0; i < (*m)->n_tensors; i++)
        qg_linear_free(&(*m)->linear[i]);
    free((*m)->linear);
    free((*m)->tensor);
    free((*m)->params);
    free(*m);
    *m = NULL;
}

/* --- loading --------------------------------------------------------------------------------- */

enum { NAMED = 8 }; /* tensors in one message at most */

/* Names tensors in a list, as long as there is room. */
static void name_one(char *list, size_t size, size_t nth, const char *name)
{
    size_t n = strlen(list);
    if (nth < NAMED)
        snprintf(list + n, size - n, "%s%.80s", nth ? ", " : "", name);
    else if (nth == NAMED)
        snprintf(list + n, size - n, ", ...");
}

static enum qg_status check_missing(const struct qg_model *model, const struct qg_lm *m,
                                    struct qg_error *err)
{
    char list[768] = "";
    size_t missing = 0;
    for (size_t i = 0; i < m->n_tensors; i++)
        if (!qg_model_find(model, m->tensor[i].name))
            name_one(list, sizeof list, missing++, m->tensor[i].name);
    return missing ? qg_fail(err, QG_EFORMAT,
                             "'%s': %zu tensors that config.json asks for are missing: %s", m->path,
                             missing, list)
                   : QG_OK;
}

static bool ends_in(const char *name, const char *end)
{
    size_t n = strlen(name), k = strlen(end);
    return n >= k && strcmp(name + n - k, end) == 0;
}

/* Whether the model computes with a tensor; frequencies that old checkpoints hold it computes
 * itself, and a tied head is compared with the table. */
static bool is_known(const struct qg_lm *m, const char *name)
{
    for (size_t i = 0; i < m->n_tensors; i++)
        if (strcmp(m->tensor[i].name, name) == 0)
            return true;
    return ends_in(name, ".rotary_emb.inv_freq") || strcmp(name, "lm_head.weight") == 0;
}

static enum qg_status check_unknown(const struct qg_model *model, const struct qg_lm *m,
                                    struct qg_error *err)
{
    char list[768] = "";
    size_t unknown = 0;
    bool biases = false;
    for (size_t i = 0; i < qg_model_count(model); i++) {
        const char *name = qg_model_at(model, i)->t.name;
        if (is_known(m, name))
            continue;
        name_one(list, sizeof list, unknown++, name);
        biases |= ends_in(name, ".bias");
    }
    return unknown ? qg_fail(err, QG_EFORMAT,
                             "'%s': a model of %zu layers by config.json has no place for %zu of "
                             "the tensors%s: %s",
                             m->path, m->config.layers, unknown,
                             biases ? " (biases are not modelled)" : "", list)
                   : QG_OK;
}

static enum qg_status check_tensor(const struct qg_lm *m, const struct qg_lm_tensor *t,
                                   const struct qg_model_tensor *s, struct qg_error *err)
{
    char is[128] = "[";
    bool vector = !qg_lm_is_matrix(t);
    if (s->scheme || s->t.dtype > QG_F16)
        return qg_fail(err, QG_EFORMAT,
                       "'%s': tensor '%s' is %s; F32, BF16 and F16 can be run: name the checkpoint "
                       "that this was quantized from",
                       m->path, t->name, s->dtype_word);
    if (vector ? s->rank == 1 && s->shape[0] == t->cols
               : s->rank == 2 && s->shape[0] == t->rows && s->shape[1] == t->cols)
        return QG_OK;
    for (int d = 0; d < s->rank && d < 4; d++)
        snprintf(is + strlen(is), sizeof is - strlen(is), "%s%zu", d ? "," : "", s->shape[d]);
    char want[64] = "";
    if (!vector)
        snprintf(want, sizeof want, "%zu,", t->rows);
    return qg_fail(err, QG_EFORMAT, "'%s': tensor '%s' is %s], by config.json it should be [%s%zu]",
                   m->path, t->name, is, want, t->cols);
}

/* Everything that headers tell, before memory is taken. */
static enum qg_status check_tensors(const struct qg_model *model, struct qg_lm *m,
                                    struct qg_error *err)
{
    if (check_missing(model, m, err) != QG_OK || check_unknown(model, m, err) != QG_OK)
        return err->status;
    for (size_t i = 0; i < m->n_tensors; i++) {
        const struct qg_model_tensor *s = qg_model_find(model, m->tensor[i].name);
        if (check_tensor(m, &m->tensor[i], s, err) != QG_OK)
            return err->status;
        m->tensor[i].dtype = s->t.dtype;
    }
    m->dtype = m->tensor[0].dtype;
    return QG_OK;
}

static enum qg_status load_tensor(const struct qg_model *model, struct qg_lm *m, size_t i,
                                  struct qg_error *err)
{
    const struct qg_lm_tensor *t = &m->tensor[i];
    float *x = m->params + t->at;
    if (qg_model_rows(model, qg_model_find(model, t->name), 0, t->rows, QG_F32, x, err) != QG_OK)
        return err->status;
    for (size_t k = 0; k < t->rows * t->cols; k++)
        if (!isfinite(x[k]))
            return qg_fail(err, QG_EFORMAT, "'%s': tensor '%s': number [%zu,%zu] is %g", m->path,
                           t->name, k / t->cols, k % t->cols, (double)x[k]);
    return QG_OK;
}

/* A head that stands beside the table it is tied to must be the same. */
static enum qg_status check_tied(const struct qg_model *model, const struct qg_lm *m,
                                 struct qg_error *err)
{
    struct qg_lm_tensor head = m->tensor[0];
    const struct qg_model_tensor *s = qg_model_find(model, "lm_head.weight");
    if (!m->config.tied || !s)
        return QG_OK;
    snprintf(head.name, sizeof head.name, "%s", s->t.name);
    float *row = malloc(head.cols * sizeof *row);
    enum qg_status status = row ? check_tensor(m, &head, s, err)
                                : qg_fail(err, QG_ENOMEM, "no memory for a row of the head");
    for (size_t r = 0; status == QG_OK && r < head.rows; r++) {
        status = qg_model_rows(model, s, r, 1, QG_F32, row, err);
        if (status == QG_OK && memcmp(row, m->params + r * head.cols, head.cols * sizeof *row) != 0)
            status = qg_fail(err, QG_EFORMAT,
                             "'%s': config.json ties the head to the embedding table, but row %zu "
                             "of lm_head.weight is another; set tie_word_embeddings to false",
                             m->path, r);
    }
    free(row);
    return status;
}

static enum qg_status load_all(const struct qg_model *model, struct qg_lm *m, struct qg_error *err)
{
    if (check_tensors(model, m, err) != QG_OK || give_params(m, err) != QG_OK)
        return err->status;
    for (size_t i = 0; i < m->n_tensors; i++)
        if (load_tensor(model, m, i, err) != QG_OK)
            return err->status;
    return check_tied(model, m, err);
}

/* Gives a tied model a head of its own, a copy of the table. */
static enum qg_status untie(struct qg_lm **m, struct qg_error *err)
{
    struct qg_lm_config c = (*m)->config;
    struct qg_lm *apart;
    c.tied = false;
    if (qg_lm_make(&c, (*m)->dtype, &apart, err) != QG_OK)
        return err->status;
    memcpy(apart->path, (*m)->path, sizeof apart->path);
    for (size_t i = 0; i < apart->n_tensors; i++)
        apart->tensor[i].dtype = (*m)->tensor[i < (*m)->n_tensors ? i : 0].dtype;
    memcpy(apart->params, (*m)->params, (*m)->n_params * sizeof *apart->params);
    memcpy(apart->params + (*m)->n_params, (*m)->params,
           (apart->n_params - (*m)->n_params) * sizeof *apart->params);
    qg_lm_free(m);
    *m = apart;
    return QG_OK;
}

enum qg_status qg_lm_load(const struct qg_model *model, bool untied, struct qg_lm **ret_m,
                          struct qg_error *err)
{
    struct qg_lm_config c;
    struct qg_lm *m = NULL;
    const char *path = qg_model_file(model, 0), *method = qg_model_quant_method(model);
    if (qg_model_format(model) != QG_MODEL_SAFETENSORS)
        return qg_fail(err, QG_EFORMAT,
                       "'%s' is a GGUF file; a model is run from a Hugging Face folder", path);
    if (method)
        return qg_fail(err, QG_EFORMAT,
                       "'%s' is quantized by %s; name the checkpoint that it was made from", path,
                       method);
    if (qg_lm_config_read(qg_model_config(model), path, &c, err) != QG_OK)
        return err->status;
    c.tied = qg_model_tied(model);
    if (make_list(&c, QG_F32, &m, err) != QG_OK)
        return err->status;
    snprintf(m->path, sizeof m->path, "%s", path);
    if (load_all(model, m, err) != QG_OK || (untied && c.tied && untie(&m, err) != QG_OK) ||
        qg_lm_put(m, NULL, QG_LINEAR_PLAIN, NULL, QG_INPUT, false, qg_processors(), err) != QG_OK) {
        qg_lm_free(&m);
        return err->status;
    }
    *ret_m = m;
    return QG_OK;
}

/* --- schemes --------------------------------------------------------------------------------- */

/* The first error of several threads. */
struct shared_error {
    atomic_flag taken;
    struct qg_error err;
};

static void share(struct shared_error *s, const struct qg_error *err)
{
    if (!atomic_flag_test_and_set(&s->taken))
        s->err = *err;
}

struct refreshing {
    struct qg_lm *m;
    struct shared_error failed;
};

static void refresh_one(void *user, size_t i, int thread)
{
    struct refreshing *r = user;
    struct qg_error err = {QG_OK, ""};
    (void)thread;
    if (qg_lm_is_matrix(&r->m->tensor[i]) && qg_linear_refresh(&r->m->linear[i], &err) != QG_OK)
        share(&r->failed, &err);
}

enum qg_status qg_lm_refresh(struct qg_lm *m, int threads, struct qg_error *err)
{
    struct refreshing r = {m, {ATOMIC_FLAG_INIT, {QG_OK, ""}}};
    qg_parallel(threads, m->n_tensors, refresh_one, &r);
    if (r.failed.err.status != QG_OK)
        *err = r.failed.err;
    return r.failed.err.status;
}

static const struct qg_assignment *assigned(const struct qg_recipe_plan *plan, const char *name)
{
    for (size_t i = 0; plan && i < plan->n; i++)
        if (strcmp(plan->of[i].name, name) == 0)
            return &plan->of[i];
    return NULL;
}

/* What a matrix is made of what the plan assigns to it. */
static enum qg_status order_of(const struct qg_lm_tensor *t, const struct qg_recipe_plan *plan,
                               const struct qg_assignment *a, struct qg_linear_order *o,
                               struct qg_error *err)
{
    enum qg_training training = qg_recipe_training(plan->recipe);
    bool trained = o->path == QG_LINEAR_PREPARED && training == QG_TRAINING_QAT;
    const struct qg_choice *c = trained ? &a->prepare : &a->convert;
    if (o->path == QG_LINEAR_PREPARED && training == QG_TRAINING_FROZEN_BASE)
        o->path = QG_LINEAR_CONVERTED; // that is what adapters are trained on
    if (a->padded && a->convert.scheme)
        return qg_fail(err, QG_EINVAL,
                       "tensor '%s' is padded by %zu columns, which a model here cannot run",
                       t->name, a->padded);
    if (c->scheme)
        o->choice = *c;
    // The plan speaks of what is shipped; training on another scheme takes inputs as that one does.
    if (c->scheme == a->convert.scheme)
        o->activation = a->activation;
    else if (c->scheme && c->scheme->operand[QG_ACTIVATION].fake_quant)
        o->activation = c->scheme;
    o->operand = a->operand;
    if (t->part != QG_LM_EMBED && t->part != QG_LM_HEAD && o->operand != QG_WEIGHT)
        return qg_fail(err, QG_EINVAL, "tensor '%s' is no embedding table", t->name);
    return QG_OK;
}

static enum qg_status put_one(struct qg_lm *m, size_t i, const struct qg_recipe_plan *plan,
                              const struct qg_linear_order *common, struct qg_error *err)
{
    const struct qg_lm_tensor *t = &m->tensor[i];
    const struct qg_assignment *a = assigned(plan, t->name);
    struct qg_linear_order o = *common;
    if (o.dtype == QG_INPUT)
        o.dtype = a && (a->convert.scheme || a->prepare.scheme) ? a->dtype : t->dtype;
    o.dense |= t->part == QG_LM_EMBED; // rows of it are looked up
    if (a && o.path != QG_LINEAR_PLAIN && order_of(t, plan, a, &o, err) != QG_OK)
        return err->status;
    return qg_linear_put(&m->linear[i], &o, err);
}

enum qg_status qg_lm_put(struct qg_lm *m, const struct qg_recipe_plan *plan,
                         enum qg_linear_path path, const char *backend, enum qg_dtype dtype,
                         bool train, int threads, struct qg_error *err)
{
    struct qg_linear_order common = {
        .path = path, .backend = backend, .dtype = dtype, .dense = train, .operand = QG_WEIGHT};
    for (size_t i = 0; plan && i < plan->n; i++)
        if (m->config.tied && plan->of[i].convert.scheme &&
            strcmp(plan->of[i].name, "lm_head.weight") == 0)
            return qg_fail(err, QG_EINVAL,
                           "the plan unties the head, but '%s' was loaded with its head tied",
                           m->path);
    for (size_t i = 0; i < m->n_tensors; i++)
        if (qg_lm_is_matrix(&m->tensor[i]) && put_one(m, i, plan, &common, err) != QG_OK)
            return err->status;
    return qg_lm_refresh(m, threads, err);
}

struct going_through {
    const struct qg_lm *m;
    float *gradients;
    struct shared_error failed;
};

static void through_one(void *user, size_t i, int thread)
{
    struct going_through *g = user;
    const struct qg_lm_tensor *t = &g->m->tensor[i];
    struct qg_error err = {QG_OK, ""};
    (void)thread;
    if (qg_lm_is_matrix(t) && t->at >= g->m->frozen &&
        qg_linear_through(&g->m->linear[i], g->gradients + t->at - g->m->frozen, &err) != QG_OK)
        share(&g->failed, &err);
}

enum qg_status qg_lm_through(const struct qg_lm *m, float *gradients, int threads,
                             struct qg_error *err)
{
    struct going_through g = {m, gradients, {ATOMIC_FLAG_INIT, {QG_OK, ""}}};
    qg_parallel(threads, m->n_tensors, through_one, &g);
    if (g.failed.err.status != QG_OK)
        *err = g.failed.err;
    return g.failed.err.status;
}

size_t qg_lm_bytes(const struct qg_lm *m)
{
    size_t bytes = 0;
    for (size_t i = 0; i < m->n_tensors; i++) {
        const struct qg_lm_tensor *t = &m->tensor[i];
        if (qg_lm_is_matrix(t))
            bytes += qg_linear_bytes(&m->linear[i]);
        else if (t->part != QG_LM_A && t->part != QG_LM_B) // those count with their matrix
            bytes += t->cols * qg_dtype_bytes(t->dtype);
    }
    return bytes;
}

/* --- adapters -------------------------------------------------------------------------------- */

static bool takes_adapter(const struct qg_lm_tensor *t)
{
    return qg_lm_is_matrix(t) && t->part != QG_LM_EMBED && t->part != QG_LM_HEAD;
}

static void add_factor(struct qg_lm *m, enum qg_lm_part part, const struct qg_lm_tensor *of,
                       size_t rows, size_t cols)
{
    struct qg_lm_tensor *t = &m->tensor[m->n_tensors++];
    *t = (struct qg_lm_tensor){.part = part,
                               .layer = of->layer,
                               .rows = rows,
                               .cols = cols,
                               .at = m->n_params,
                               .dtype = QG_F32};
    const char *name = m->linear[of - m->tensor].name;
    int stem = (int)(strlen(name) - strlen(".weight"));
    snprintf(t->name, sizeof t->name, "%.*s.lora_%c.weight", stem, name,
             part == QG_LM_A ? 'A' : 'B');
    m->n_params += rows * cols;
}

static enum qg_status grow(struct qg_lm *m, size_t r, struct qg_error *err)
{
    size_t n = m->n_tensors, more = 0;
    for (size_t i = 0; i < n; i++)
        if (takes_adapter(&m->tensor[i]))
            more += r * (m->tensor[i].rows + m->tensor[i].cols);
    struct qg_lm_tensor *tensor = realloc(m->tensor, 3 * n * sizeof *tensor);
    m->tensor = tensor ? tensor : m->tensor;
    struct qg_linear *linear = realloc(m->linear, 3 * n * sizeof *linear);
    m->linear = linear ? linear : m->linear;
    float *params = realloc(m->params, (m->n_params + more) * sizeof *params);
    m->params = params ? params : m->params;
    if (!tensor || !linear || !params)
        return qg_fail(err, QG_ENOMEM, "no memory for adapters of rank %zu", r);
    memset(linear + n, 0, 2 * n * sizeof *linear);
    memset(params + m->n_params, 0, more * sizeof *params);
    return QG_OK;
}

enum qg_status qg_lm_adapt(struct qg_lm *m, size_t r, double alpha, uint64_t seed,
                           struct qg_error *err)
{
    size_t n = m->n_tensors;
    if (m->frozen || r == 0 || r > m->config.width)
        return qg_fail(err, QG_EINVAL, "a rank from 1 to %zu, once", m->config.width);
    if (grow(m, r, err) != QG_OK)
        return err->status;
    m->frozen = m->n_params;
    for (size_t i = 0; i < n; i++)
        if (takes_adapter(&m->tensor[i])) {
            add_factor(m, QG_LM_A, &m->tensor[i], r, m->tensor[i].cols);
            add_factor(m, QG_LM_B, &m->tensor[i], m->tensor[i].rows, r);
        }
    point_matrices(m);
    for (size_t i = 0, next = n; i < n; i++) {
        const struct qg_lm_tensor *t = &m->tensor[i], *a = &m->tensor[next];
        if (!takes_adapter(t))
            continue;
        next += 2;
        struct qg_linear *l = &m->linear[i];
        l->rank = r;
        l->scale = (float)(alpha / (double)r);
        l->a = m->params + a->at;
        l->b = m->params + a[1].at;
        for (size_t k = 0; k < a->rows * a->cols; k++)
            m->params[a->at + k] = (float)(qg_rng_normal(seed, i, k) / sqrt((double)a->cols));
    }
    return qg_lm_refresh(m, 1, err);
}
