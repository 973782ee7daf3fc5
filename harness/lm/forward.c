/* SPDX-License-Identifier: MIT
 *
 * The forward pass, one layer after the other:
 *
 *     n = rms(x) g                              mid = x + o(attention(turn(q(n)), turn(k(n)),
 * v(n))) n2 = rms(mid) g2                          out = mid + down(silu(gate(n2)) up(n2))
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness/lm/exponential.h"
#include "harness/lm/layer_work.h"

static const double PI = 3.14159265358979323846;

/* --- memory ---------------------------------------------------------------------------------- */

static size_t most_of(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Takes n numbers from *at, or only counts them while `memory` is NULL. */
static float *take(float *memory, size_t *at, size_t n)
{
    float *p = memory ? memory + *at : NULL;
    *at += (n + 15) / 16 * 16; // whole cache lines
    return p;
}

/* Places everything; returns how many numbers that takes. */
static size_t place(const struct qg_lm *m, struct qg_lm_work *w, size_t batch, size_t length)
{
    const struct qg_lm_config *c = &m->config;
    size_t at = 0, rows = w->most, wide = c->heads * c->head, narrow = c->kv_heads * c->head;
    size_t square = length * length, most = most_of(most_of(c->width, c->hidden), wide);
    float *p = w->memory;
    w->rope = take(p, &at, length * c->head);
    w->hidden = take(p, &at, rows * c->width);
    w->normed = take(p, &at, rows * c->width);
    w->inverse = take(p, &at, rows);
    w->logits = take(p, &at, w->logit_rows * c->vocab);
    w->scores = take(p, &at, square);
    for (size_t i = 0; i < (w->backward ? c->layers : 1); i++) {
        struct qg_lm_layer_work *l = &w->layer[i];
        l->in = w->backward ? take(p, &at, rows * c->width) : w->hidden;
        l->mid = w->backward ? take(p, &at, rows * c->width) : w->hidden;
        l->normed = take(p, &at, rows * c->width);
        l->normed2 = take(p, &at, rows * c->width);
        l->inverse = take(p, &at, rows);
        l->inverse2 = take(p, &at, rows);
        l->q = take(p, &at, rows * wide);
        l->k = take(p, &at, rows * narrow);
        l->v = take(p, &at, rows * narrow);
        l->scores = w->backward ? take(p, &at, batch * c->heads * square) : w->scores;
        l->attended = take(p, &at, rows * wide);
        l->gate = take(p, &at, rows * c->hidden);
        l->up = take(p, &at, rows * c->hidden);
        l->act = take(p, &at, rows * c->hidden);
    }
    for (size_t i = 0; w->backward && i < sizeof w->grad / sizeof *w->grad; i++)
        w->grad[i] = take(p, &at, rows * most);
    return at;
}

/* Frequencies of pairs, Llama 3's scaled: those of long waves divided by `factor`, those of short
 * ones kept, those between blended. */
static double frequency(const struct qg_lm_config *c, size_t pair)
{
    double f = pow(c->rope_theta, -2.0 * (double)pair / (double)c->head);
    if (c->rope_factor == 0)
        return f;
    double turns = (double)c->rope_original * f / (2 * PI);
    double share = (turns - c->rope_low) / (c->rope_high - c->rope_low);
    share = fmin(1, fmax(0, share));
    return (1 - share) * f / c->rope_factor + share * f;
}

static void fill_rope(const struct qg_lm_config *c, size_t length, float *rope)
{
    for (size_t pair = 0; pair < c->head / 2; pair++) {
        double f = frequency(c, pair);
        for (size_t t = 0; t < length; t++) {
            rope[t * c->head + 2 * pair] = (float)cos((double)t * f);
            rope[t * c->head + 2 * pair + 1] = (float)sin((double)t * f);
        }
    }
}

enum qg_status qg_lm_scratch_make(const struct qg_lm *m, size_t rows, size_t head_rows,
                                  struct qg_linear_scratch *ret_s, struct qg_error *err)
{
    size_t numbers = 0, floats = 0;
    for (size_t i = 0; i < m->n_tensors; i++) {
        const struct qg_lm_tensor *t = &m->tensor[i];
        size_t n = t->part == QG_LM_EMBED || t->part == QG_LM_HEAD ? head_rows : rows;
        if (!qg_lm_is_matrix(t))
            continue;
        struct qg_args a = {.m = n, .rows = most_of(t->rows, n), .cols = t->cols};
        numbers = most_of(numbers, n * most_of(t->rows, t->cols));
        floats = most_of(floats, qg_work_floats(&a));
    }
    return qg_linear_scratch_make(numbers, floats, ret_s, err);
}

enum qg_status qg_lm_work_make(const struct qg_lm *m, size_t batch, size_t length, bool backward,
                               struct qg_lm_work **ret_w, struct qg_error *err)
{
    const struct qg_lm_config *c = &m->config;
    struct qg_lm_work *w = calloc(1, sizeof *w);
    if (!w)
        return qg_fail(err, QG_ENOMEM, "no memory to run a model");
    w->most = batch * length;
    w->backward = backward;
    size_t fit = ((size_t)1 << 22) / c->vocab; // 16 MiB of logits at a time
    w->logit_rows = fit < 1 ? 1 : fit < w->most ? fit : w->most;
    w->layer = calloc(backward ? c->layers : 1, sizeof *w->layer);
    size_t floats = w->layer ? place(m, w, batch, length) : 0;
    w->memory = floats ? aligned_alloc(64, floats * sizeof *w->memory) : NULL;
    if (!w->memory) {
        qg_lm_work_free(&w);
        return qg_fail(err, QG_ENOMEM, "no memory for %zu sequences of %zu tokens", batch, length);
    }
    place(m, w, batch, length);
    fill_rope(c, length, w->rope);
    if (qg_lm_scratch_make(m, w->most, w->logit_rows, &w->scratch, err) != QG_OK) {
        qg_lm_work_free(&w);
        return err->status;
    }
    *ret_w = w;
    return QG_OK;
}

void qg_lm_work_free(struct qg_lm_work **w)
{
    if (!*w)
        return;
    qg_linear_scratch_free(&(*w)->scratch);
    free((*w)->layer);
    free((*w)->memory);
    free(*w);
    *w = NULL;
}

/* --- steps ----------------------------------------------------------------------------------- */

static void multiply(const struct qg_lm *m, struct qg_lm_work *w, size_t tensor, size_t rows,
                     const float *x, float *y)
{
    qg_linear_forward(&m->linear[tensor], rows, x, y, &w->scratch);
    if (w->tap)
        w->tap(w->user, tensor, rows, x, y);
}

/* y = x g / rms(x) for every row [n]; inverse gets 1 / rms. */
static void norm(size_t rows, size_t n, double eps, const float *x, const float *g, float *y,
                 float *inverse)
{
    for (size_t r = 0; r < rows; r++, x += n, y += n) {
        double squares = 0;
        for (size_t i = 0; i < n; i++)
            squares += (double)x[i] * x[i];
        inverse[r] = (float)(1 / sqrt(squares / (double)n + eps));
        for (size_t i = 0; i < n; i++)
            y[i] = x[i] * inverse[r] * g[i];
    }
}

void qg_lm_turn(const struct qg_lm *m, const struct qg_lm_work *w, size_t heads, bool back,
                float *x)
{
    size_t head = m->config.head, half = head / 2;
    for (size_t r = 0; r < w->batch * w->length; r++) {
        const float *angle = w->rope + r % w->length * head;
        for (size_t h = 0; h < heads; h++, x += head)
            for (size_t i = 0; i < half; i++) {
                float c = angle[2 * i], s = back ? -angle[2 * i + 1] : angle[2 * i + 1];
                float a = x[i], b = x[i + half];
                x[i] = a * c - b * s;
                x[i + half] = b * c + a * s;
            }
    }
}

/* Softmax of the first t + 1 numbers of each row t in first .. end; up to `end` the rest is 0. */
QG_WIDEST static void causal_softmax(size_t first, size_t end, size_t stride, float *p)
{
    for (size_t t = first; t < end; t++, p += stride) {
        float most = p[0], sum = 0;
        for (size_t i = 1; i <= t; i++)
            most = p[i] > most ? p[i] : most;
        for (size_t i = 0; i <= t; i++)
            p[i] = qg_exponential(p[i] - most);
        for (size_t i = 0; i <= t; i++)
            sum += p[i];
        float inverse = 1 / sum;
        for (size_t i = 0; i <= t; i++)
            p[i] *= inverse;
        memset(p + t + 1, 0, (end - t - 1) * sizeof *p);
    }
}

/* One head of one sequence, some queries at a time with the keys that they may see; queries of a
 * group share keys and values. */
static void attend(const struct qg_lm_config *c, const struct qg_lm_work *w,
                   const struct qg_lm_layer_work *l, size_t sequence, size_t head)
{
    size_t n = w->length, wide = c->heads * c->head, narrow = c->kv_heads * c->head;
    size_t shared = head / (c->heads / c->kv_heads);
    const float *q = l->q + sequence * n * wide + head * c->head;
    const float *k = l->k + sequence * n * narrow + shared * c->head;
    const float *v = l->v + sequence * n * narrow + shared * c->head;
    float *y = l->attended + sequence * n * wide + head * c->head;
    float scale = (float)(1 / sqrt((double)c->head));
    for (size_t end, first = 0; first < n; first = end) {
        end = first + QG_LM_QUERIES < n ? first + QG_LM_QUERIES : n;
        float *p = qg_lm_scores(c, w, l, sequence, head) + first * n;
        qg_product(false, true, end - first, end, c->head, scale, q + first * wide, wide, k, narrow,
                   false, p, n);
        causal_softmax(first, end, n, p);
        qg_product(false, false, end - first, c->head, end, 1, p, n, v, narrow, false,
                   y + first * wide, wide);
    }
}

static void add(size_t n, const float *x, const float *y, float *sum)
{
    for (size_t i = 0; i < n; i++)
        sum[i] = x[i] + y[i];
}

QG_WIDEST static void gated(size_t n, const float *gate, const float *up, float *act)
{
    for (size_t i = 0; i < n; i++)
        act[i] = gate[i] / (1 + qg_exponential(-gate[i])) * up[i];
}

static void run_layer(const struct qg_lm *m, struct qg_lm_work *w, size_t layer, float *out)
{
    const struct qg_lm_config *c = &m->config;
    struct qg_lm_layer_work *l = &w->layer[w->backward ? layer : 0];
    size_t rows = w->batch * w->length, first = qg_lm_index(m, QG_LM_IN_NORM, layer);
    const struct qg_lm_tensor *t = m->tensor + first - QG_LM_IN_NORM; // by part, as below
    size_t at = first - QG_LM_IN_NORM;
    norm(rows, c->width, c->norm_eps, l->in, m->params + t[QG_LM_IN_NORM].at, l->normed,
         l->inverse);
    multiply(m, w, at + QG_LM_Q, rows, l->normed, l->q);
    multiply(m, w, at + QG_LM_K, rows, l->normed, l->k);
    multiply(m, w, at + QG_LM_V, rows, l->normed, l->v);
    qg_lm_turn(m, w, c->heads, false, l->q);
    qg_lm_turn(m, w, c->kv_heads, false, l->k);
    for (size_t s = 0; s < w->batch; s++)
        for (size_t h = 0; h < c->heads; h++)
            attend(c, w, l, s, h);
    multiply(m, w, at + QG_LM_O, rows, l->attended, w->normed);
    add(rows * c->width, l->in, w->normed, l->mid);
    norm(rows, c->width, c->norm_eps, l->mid, m->params + t[QG_LM_POST_NORM].at, l->normed2,
         l->inverse2);
    multiply(m, w, at + QG_LM_GATE, rows, l->normed2, l->gate);
    multiply(m, w, at + QG_LM_UP, rows, l->normed2, l->up);
    gated(rows * c->hidden, l->gate, l->up, l->act);
    multiply(m, w, at + QG_LM_DOWN, rows, l->act, w->normed);
    add(rows * c->width, l->mid, w->normed, out);
}

/* --- the model ------------------------------------------------------------------------------- */

void qg_lm_forward(const struct qg_lm *m, struct qg_lm_work *w, const uint32_t *tokens,
                   size_t batch, size_t length)
{
    size_t rows = batch * length, width = m->config.width;
    w->batch = batch;
    w->length = length;
    for (size_t r = 0; r < rows; r++)
        memcpy(w->layer[0].in + r * width, m->linear[0].weights + tokens[r] * width,
               width * sizeof(float));
    for (size_t l = 0; l < m->config.layers; l++)
        run_layer(m, w, l,
                  w->backward && l + 1 < m->config.layers ? w->layer[l + 1].in : w->hidden);
    const struct qg_lm_tensor *last = &m->tensor[qg_lm_index(m, QG_LM_NORM, 0)];
    norm(rows, width, m->config.norm_eps, w->hidden, m->params + last->at, w->normed, w->inverse);
    w->final = w->normed;
}

const float *qg_lm_logits(const struct qg_lm *m, struct qg_lm_work *w, size_t first, size_t n)
{
    multiply(m, w, qg_lm_head(m), n, w->final + first * m->config.width, w->logits);
    return w->logits;
}

double qg_lm_nll(const float *logits, size_t n, uint32_t target)
{
    double most = logits[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        most = logits[i] > most ? logits[i] : most;
    for (size_t i = 0; i < n; i++)
        sum += exp(logits[i] - most);
    return log(sum) + most - logits[target];
}
