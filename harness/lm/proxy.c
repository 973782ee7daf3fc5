/* SPDX-License-Identifier: MIT */
#include "harness/lm/proxy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/io/json.h"
#include "harness/io/writer.h"
#include "harness/lm/evaluate.h"
#include "kernels/c/rows.h"

enum { GROUP = 128 };

/* --- inputs ---------------------------------------------------------------------------------- */

struct qg_proxy_inputs {
    size_t rows, n; /* at most so many rows of each; tensors */
    struct kept {
        float *x; /* [rows, cols]; NULL: nothing was multiplied with this tensor */
        size_t rows;
    } * kept;
    uint32_t *tokens; /* [rows] */
    float *y, *y2;    /* [rows, rows of the largest matrix] */
    struct qg_linear_scratch scratch;
    const struct qg_lm *model; /* while it runs */
    bool failed;
};

void qg_proxy_inputs_free(struct qg_proxy_inputs **i)
{
    struct qg_proxy_inputs *p = *i;
    if (!p)
        return;
    for (size_t t = 0; p->kept && t < p->n; t++)
        free(p->kept[t].x);
    qg_linear_scratch_free(&p->scratch);
    free(p->kept);
    free(p->tokens);
    free(p->y);
    free(p->y2);
    free(p);
    *i = NULL;
}

/* Keeps x of a product; that of the head comes in pieces. */
static void keep(void *user, size_t tensor, size_t m, const float *x, const float *y)
{
    struct qg_proxy_inputs *p = user;
    struct kept *k = &p->kept[tensor];
    size_t cols = p->model->tensor[tensor].cols;
    (void)y;
    if (!k->x)
        k->x = malloc(p->rows * cols * sizeof *k->x);
    p->failed |= !k->x;
    m = qg_smaller(m, p->rows - k->rows);
    if (k->x)
        memcpy(k->x + k->rows * cols, x, m * cols * sizeof *x);
    k->rows += m;
}

/* Room to multiply `rows` rows with any matrix. */
static enum qg_status make_room(struct qg_proxy_inputs *p, struct qg_error *err)
{
    size_t widest = 0;
    for (size_t i = 0; i < p->n; i++)
        widest = p->model->tensor[i].rows > widest ? p->model->tensor[i].rows : widest;
    p->y = malloc(p->rows * widest * sizeof *p->y);
    p->y2 = malloc(p->rows * widest * sizeof *p->y2);
    if (!p->y || !p->y2)
        return qg_fail(err, QG_ENOMEM, "no memory for products of %zu rows", p->rows);
    return qg_lm_scratch_make(p->model, p->rows, p->rows, &p->scratch, err);
}

static enum qg_status run(struct qg_proxy_inputs *p, const uint32_t *tokens, size_t batch,
                          size_t length, struct qg_error *err)
{
    struct qg_lm_work *w;
    if (qg_lm_work_make(p->model, batch, length, false, &w, err) != QG_OK)
        return err->status;
    w->tap = keep;
    w->user = p;
    qg_lm_forward(p->model, w, tokens, batch, length);
    for (size_t at = 0; at < p->rows; at += w->logit_rows)
        qg_lm_logits(p->model, w, at, qg_smaller(p->rows - at, w->logit_rows));
    qg_lm_work_free(&w);
    return p->failed ? qg_fail(err, QG_ENOMEM, "no memory for the inputs of the matrices") : QG_OK;
}

enum qg_status qg_proxy_inputs_make(const struct qg_lm *m, const uint32_t *tokens, size_t batch,
                                    size_t length, struct qg_proxy_inputs **ret_i,
                                    struct qg_error *err)
{
    struct qg_proxy_inputs *p = calloc(1, sizeof *p);
    if (!p)
        return qg_fail(err, QG_ENOMEM, "no memory for the inputs of the matrices");
    p->rows = batch * length;
    p->n = m->n_tensors;
    p->model = m;
    p->kept = calloc(p->n, sizeof *p->kept);
    p->tokens = malloc(p->rows * sizeof *p->tokens);
    enum qg_status status = p->kept && p->tokens
                                ? make_room(p, err)
                                : qg_fail(err, QG_ENOMEM, "no memory for %zu inputs", p->rows);
    if (status == QG_OK) {
        memcpy(p->tokens, tokens, p->rows * sizeof *tokens);
        status = run(p, tokens, batch, length, err);
    }
    if (status != QG_OK)
        qg_proxy_inputs_free(&p);
    *ret_i = p;
    return status;
}

/* --- errors ---------------------------------------------------------------------------------- */

/* Sums that make |b - a|^2 / |a|^2. */
struct error_sums {
    double square, off;
};

static void add_errors(struct error_sums *s, size_t n, const float *a, const float *b)
{
    for (size_t i = 0; i < n; i++) {
        double d = (double)b[i] - a[i];
        s->square += (double)a[i] * a[i];
        s->off += d * d;
    }
}

/* 0 when nothing differs. */
static double relative(const struct error_sums *s)
{
    return s->off == 0 ? 0 : s->off / s->square;
}

enum qg_status qg_proxy_errors(const struct qg_lm *m, size_t tensor, struct qg_proxy_inputs *p,
                               double *ret_t2, double *ret_o2, struct qg_error *err)
{
    const struct qg_linear *l = &m->linear[tensor];
    const struct kept *k = &p->kept[tensor];
    struct error_sums weights = {0}, outputs = {0};
    add_errors(&weights, l->rows * l->cols, l->source, l->weights);
    *ret_t2 = relative(&weights);
    if (!k->x) { // a table: the rows that are looked up
        for (size_t r = 0; r < p->rows; r++)
            add_errors(&outputs, l->cols, l->source + p->tokens[r] * l->cols,
                       l->weights + p->tokens[r] * l->cols);
        *ret_o2 = relative(&outputs);
        return QG_OK;
    }
    struct qg_linear plain = {.rows = l->rows, .cols = l->cols, .source = l->source};
    struct qg_linear_order o = {.path = QG_LINEAR_PLAIN, .dtype = l->order.dtype};
    if (qg_linear_put(&plain, &o, err) != QG_OK || qg_linear_refresh(&plain, err) != QG_OK) {
        qg_linear_free(&plain);
        return err->status;
    }
    qg_linear_forward(&plain, k->rows, k->x, p->y, &p->scratch);
    qg_linear_forward(l, k->rows, k->x, p->y2, &p->scratch);
    add_errors(&outputs, k->rows * l->rows, p->y, p->y2);
    *ret_o2 = relative(&outputs);
    qg_linear_free(&plain);
    return QG_OK;
}

/* --- fitting --------------------------------------------------------------------------------- */

/* w + sign * noise: the error of rounding to a grid of 2^bits values from the least to the largest
 * of each group. */
static void perturb(const struct qg_lm_tensor *t, const float *w, float sign, int bits, float *ret)
{
    float levels = (float)((1 << bits) - 1);
    for (size_t row = 0; row < t->rows; row++)
        for (size_t n, at = 0; at < t->cols; at += n) {
            size_t first = row * t->cols + at;
            n = qg_smaller(t->cols - at, GROUP);
            struct qg_span s = qg_span_of(n, w + first);
            float step = (s.max - s.min) / levels;
            for (size_t i = first; i < first + n; i++) {
                float q = step > 0 ? s.min + rintf((w[i] - s.min) / step) * step : w[i];
                ret[i] = w[i] + sign * (q - w[i]);
            }
        }
}

/* The model's cost with matrix `tensor` off by sign * noise; its errors as well. */
static enum qg_status cost_off(struct qg_lm *m, size_t tensor, float sign, const float *w,
                               const struct qg_proxy_fit *f, struct qg_cost *ret,
                               struct qg_error *err)
{
    const struct qg_lm_tensor *t = &m->tensor[tensor];
    perturb(t, w, sign, f->bits, m->params + t->at);
    if (qg_linear_refresh(&m->linear[tensor], err) != QG_OK)
        return err->status;
    return f->cost(f->user, ret, err);
}

static enum qg_status measure(struct qg_lm *m, size_t tensor, const struct qg_proxy_fit *f,
                              struct qg_proxy_inputs *p, const float *w,
                              struct qg_proxy_matrix *ret, struct qg_error *err)
{
    struct qg_linear *l = &m->linear[tensor];
    struct qg_cost minus, plus;
    if (cost_off(m, tensor, -1, w, f, &minus, err) != QG_OK ||
        cost_off(m, tensor, 1, w, f, &plus, err) != QG_OK)
        return err->status;
    struct qg_linear noisy = *l;
    l->source = w;
    enum qg_status status = qg_proxy_errors(m, tensor, p, &ret->t2, &ret->o2, err);
    *l = noisy;
    ret->cost.ln_ppl = (minus.ln_ppl + plus.ln_ppl) / 2;
    ret->cost.kl = (minus.kl + plus.kl) / 2;
    return status;
}

static enum qg_status fit_one(struct qg_lm *m, size_t tensor, const struct qg_proxy_fit *f,
                              struct qg_proxy_inputs *p, float *w, struct qg_proxy_matrix *ret,
                              struct qg_error *err)
{
    const struct qg_lm_tensor *t = &m->tensor[tensor];
    struct qg_linear *l = &m->linear[tensor];
    size_t bytes = t->rows * t->cols * sizeof *w;
    snprintf(ret->name, sizeof ret->name, "%s", t->name);
    memcpy(w, m->params + t->at, bytes);
    enum qg_status status = measure(m, tensor, f, p, w, ret, err);
    memcpy(m->params + t->at, w, bytes);
    if (status != QG_OK)
        return status;
    return qg_linear_refresh(l, err);
}

static size_t matrices(const struct qg_lm *m, size_t *ret_largest)
{
    size_t n = 0;
    *ret_largest = 0;
    for (size_t i = 0; i < m->n_tensors; i++) {
        size_t count = m->tensor[i].rows * m->tensor[i].cols;
        if (!qg_lm_is_matrix(&m->tensor[i]))
            continue;
        n++;
        *ret_largest = count > *ret_largest ? count : *ret_largest;
    }
    return n;
}

enum qg_status qg_proxy_fit(struct qg_lm *m, const struct qg_proxy_fit *f,
                            struct qg_proxy_inputs *p, struct qg_proxy *ret_p, struct qg_error *err)
{
    size_t largest, n = matrices(m, &largest), at = 0;
    struct qg_proxy proxy = {.model = qg_lm_hash(m), .n = n};
    float *w = malloc(largest * sizeof *w);
    proxy.matrix = calloc(n, sizeof *proxy.matrix);
    enum qg_status status =
        w && proxy.matrix ? QG_OK : qg_fail(err, QG_ENOMEM, "no memory for %zu factors", n);
    for (size_t i = 0; i < m->n_tensors && status == QG_OK; i++) {
        if (!qg_lm_is_matrix(&m->tensor[i]))
            continue;
        status = fit_one(m, i, f, p, w, &proxy.matrix[at++], err);
        if (f->done)
            f->done(f->user, at, n);
    }
    free(w);
    if (status == QG_OK)
        status = qg_lm_put(m, NULL, QG_LINEAR_PLAIN, NULL, QG_INPUT, false, 1, err);
    if (status == QG_OK)
        status = f->cost(f->user, &proxy.rounding, err);
    if (status != QG_OK)
        qg_proxy_free(&proxy);
    *ret_p = proxy;
    return status;
}

void qg_proxy_free(struct qg_proxy *p)
{
    free(p->matrix);
    *p = (struct qg_proxy){0};
}

/* --- files ----------------------------------------------------------------------------------- */

static cJSON *json_of(const struct qg_proxy *p)
{
    char hash[24];
    cJSON *json = cJSON_CreateObject();
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)p->model);
    cJSON_AddStringToObject(json, "what", "factors of qgauge proxy");
    cJSON_AddStringToObject(json, "model", hash);
    cJSON *rounding = cJSON_AddObjectToObject(json, "rounding");
    cJSON_AddNumberToObject(rounding, "ln_ppl", p->rounding.ln_ppl);
    cJSON_AddNumberToObject(rounding, "kl", p->rounding.kl);
    cJSON *list = cJSON_AddArrayToObject(json, "matrices");
    for (size_t i = 0; i < p->n; i++) {
        const struct qg_proxy_matrix *x = &p->matrix[i];
        cJSON *item = cJSON_CreateObject();
        cJSON_AddStringToObject(item, "name", x->name);
        cJSON_AddNumberToObject(item, "t2", x->t2);
        cJSON_AddNumberToObject(item, "o2", x->o2);
        cJSON_AddNumberToObject(item, "ln_ppl", x->cost.ln_ppl);
        cJSON_AddNumberToObject(item, "kl", x->cost.kl);
        cJSON_AddItemToArray(list, item);
    }
    return json;
}

enum qg_status qg_proxy_save(const struct qg_proxy *p, const char *path, struct qg_error *err)
{
    cJSON *json = json_of(p);
    char *text = cJSON_Print(json);
    cJSON_Delete(json);
    if (!text)
        return qg_fail(err, QG_ENOMEM, "no memory for '%s'", path);
    enum qg_status status = qg_write_text(path, text, QG_WRITE_OVER, err);
    cJSON_free(text);
    return status;
}

static bool take(const cJSON *item, const char *key, double *ret)
{
    const cJSON *x = cJSON_GetObjectItemCaseSensitive(item, key);
    *ret = cJSON_IsNumber(x) ? x->valuedouble : NAN;
    return isfinite(*ret);
}

static enum qg_status read_matrices(const cJSON *list, const char *path, const struct qg_lm *m,
                                    struct qg_proxy *p, struct qg_error *err)
{
    for (size_t i = 0; i < m->n_tensors; i++) {
        const cJSON *item = cJSON_GetArrayItem(list, (int)p->n);
        struct qg_proxy_matrix *x = &p->matrix[p->n];
        if (!qg_lm_is_matrix(&m->tensor[i]))
            continue;
        const cJSON *name = cJSON_GetObjectItemCaseSensitive(item, "name");
        if (!cJSON_IsString(name) || strcmp(name->valuestring, m->tensor[i].name) != 0 ||
            !take(item, "t2", &x->t2) || !take(item, "o2", &x->o2) ||
            !take(item, "ln_ppl", &x->cost.ln_ppl) || !take(item, "kl", &x->cost.kl))
            return qg_fail(err, QG_EFORMAT, "'%s': entry %zu of \"matrices\" should be '%s'", path,
                           p->n, m->tensor[i].name);
        snprintf(x->name, sizeof x->name, "%s", m->tensor[i].name);
        p->n++;
    }
    return QG_OK;
}

enum qg_status qg_proxy_load(const char *path, const struct qg_lm *m, struct qg_proxy *ret_p,
                             struct qg_error *err)
{
    struct qg_proxy p = {.model = qg_lm_hash(m)};
    size_t ignored;
    char hash[24];
    cJSON *json;
    if (qg_json_read(path, (size_t)1 << 26, &json, err) != QG_OK)
        return err->status;
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(json, "model");
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(json, "matrices");
    const cJSON *rounding = cJSON_GetObjectItemCaseSensitive(json, "rounding");
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)p.model);
    enum qg_status status = QG_OK;
    if (!cJSON_IsString(model) || !cJSON_IsArray(list) ||
        !take(rounding, "ln_ppl", &p.rounding.ln_ppl) || !take(rounding, "kl", &p.rounding.kl))
        status = qg_fail(err, QG_EFORMAT, "'%s' does not hold a model's factors", path);
    else if (strcmp(model->valuestring, hash) != 0)
        status = qg_fail(err, QG_EINVAL, "'%s' holds the factors of another model", path);
    else if (!(p.matrix = calloc(matrices(m, &ignored), sizeof *p.matrix)))
        status = qg_fail(err, QG_ENOMEM, "no memory for the factors");
    else
        status = read_matrices(list, path, m, &p, err);
    cJSON_Delete(json);
    if (status != QG_OK)
        qg_proxy_free(&p);
    *ret_p = p;
    return status;
}

/* --- predicting ------------------------------------------------------------------------------ */

static void add(struct qg_cost *sum, const struct qg_cost *c, double times)
{
    sum->ln_ppl += times * c->ln_ppl;
    sum->kl += times * c->kl;
}

enum qg_status qg_proxy_predict(const struct qg_proxy *p, const struct qg_lm *m,
                                struct qg_proxy_inputs *i, struct qg_prediction *ret_p,
                                struct qg_error *err)
{
    const struct qg_proxy_matrix *x = p->matrix;
    double t2, o2;
    *ret_p = (struct qg_prediction){p->rounding, p->rounding};
    for (size_t t = 0; t < m->n_tensors; t++) {
        if (!qg_lm_is_matrix(&m->tensor[t]))
            continue;
        if (m->linear[t].order.path != QG_LINEAR_PLAIN) {
            if (qg_proxy_errors(m, t, i, &t2, &o2, err) != QG_OK)
                return err->status;
            add(&ret_p->by_weights, &x->cost, x->t2 > 0 ? t2 / x->t2 : 0);
            add(&ret_p->by_outputs, &x->cost, x->o2 > 0 ? o2 / x->o2 : 0);
        }
        x++;
    }
    return QG_OK;
}
