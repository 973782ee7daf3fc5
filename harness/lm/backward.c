/* SPDX-License-Identifier: MIT
 *
 * The backward pass: forward.c's steps in reverse. In each function d... is the gradient of the
 * loss with respect to the value of that name.
 */
#include <math.h>
#include <string.h>

#include "harness/lm/exponential.h"
#include "harness/lm/layer_work.h"

/* Where the gradients of a tensor go; NULL when it is not trained. */
static float *gradient_of(const struct qg_lm *m, size_t tensor, float *gradients)
{
    size_t at = m->tensor[tensor].at;
    return at >= m->frozen ? gradients + (at - m->frozen) : NULL;
}

/* The gradient of an adapter's A, which stands behind its matrix in the order of adapters; B's
 * follows it. */
static float *adapter_of(const struct qg_lm *m, size_t tensor, float *gradients)
{
    const struct qg_linear *l = &m->linear[tensor];
    return l->rank ? gradients + ((size_t)(l->a - m->params) - m->frozen) : NULL;
}

static void multiply_back(const struct qg_lm *m, struct qg_lm_work *w, size_t tensor, size_t rows,
                          const float *x, const float *dy, float *dx, float *gradients)
{
    const struct qg_linear *l = &m->linear[tensor];
    float *da = adapter_of(m, tensor, gradients);
    qg_linear_backward(l, rows, x, dy, dx, gradient_of(m, tensor, gradients), da,
                       da ? da + l->rank * l->cols : NULL, &w->scratch);
}

/* Of y = x g r with r = 1 / sqrt(mean x^2 + eps): dg += sum dy x r, and
 * dx += r (dy g - x r^2 mean(dy g x)). */
static void norm_back(size_t rows, size_t n, const float *x, const float *g, const float *inverse,
                      const float *dy, float *dx, float *dg)
{
    for (size_t row = 0; row < rows; row++, x += n, dy += n, dx += n) {
        float r = inverse[row];
        double dot = 0;
        for (size_t i = 0; i < n; i++)
            dot += (double)dy[i] * g[i] * x[i];
        float back = (float)(dot / (double)n) * r * r * r;
        for (size_t i = 0; i < n; i++)
            dx[i] += dy[i] * g[i] * r - x[i] * back;
        for (size_t i = 0; dg && i < n; i++)
            dg[i] += dy[i] * x[i] * r;
    }
}

/* dp becomes the gradient of the scores before softmax, p (dp - sum p dp), of rows first .. end. */
QG_WIDEST static void softmax_back(size_t first, size_t end, size_t stride, const float *p,
                                   float *dp)
{
    for (size_t t = first; t < end; t++, p += stride, dp += stride) {
        float dot = 0;
        for (size_t i = 0; i <= t; i++)
            dot += p[i] * dp[i];
        for (size_t i = 0; i <= t; i++)
            dp[i] = p[i] * (dp[i] - dot);
        memset(dp + t + 1, 0, (end - t - 1) * sizeof *dp);
    }
}

/* One head of one sequence, the last queries first: they see all keys and so begin dk and dv,
 * unless an earlier head that shares them has. */
static void attend_back(const struct qg_lm_config *c, const struct qg_lm_work *w,
                        const struct qg_lm_layer_work *l, size_t sequence, size_t head,
                        const float *dattended, float *dq, float *dk, float *dv)
{
    size_t n = w->length, wide = c->heads * c->head, narrow = c->kv_heads * c->head;
    size_t group = c->heads / c->kv_heads, h = c->head;
    size_t of_q = sequence * n * wide + head * h, of_k = sequence * n * narrow + head / group * h;
    float scale = (float)(1 / sqrt((double)h)), *dp = w->scores;
    for (size_t first, end = n; end > 0; end = first) {
        first = (end - 1) / QG_LM_QUERIES * QG_LM_QUERIES;
        size_t rows = end - first, at = of_q + first * wide;
        const float *p = qg_lm_scores(c, w, l, sequence, head) + first * n, *dy = dattended + at;
        bool more = head % group != 0 || end < n;
        qg_product(false, true, rows, end, h, 1, dy, wide, l->v + of_k, narrow, false, dp, n);
        qg_product(true, false, end, h, rows, 1, p, n, dy, wide, more, dv + of_k, narrow);
        softmax_back(first, end, n, p, dp);
        qg_product(false, false, rows, h, end, scale, dp, n, l->k + of_k, narrow, false, dq + at,
                   wide);
        qg_product(true, false, end, h, rows, scale, dp, n, l->q + at, wide, more, dk + of_k,
                   narrow);
    }
}

/* Of act = silu(gate) up; dact may be one of the results. */
QG_WIDEST static void gated_back(size_t n, const float *gate, const float *up, const float *dact,
                                 float *dgate, float *dup)
{
    for (size_t i = 0; i < n; i++) {
        float sigmoid = 1 / (1 + qg_exponential(-gate[i])), silu = gate[i] * sigmoid, d = dact[i];
        dgate[i] = d * up[i] * (sigmoid + silu * (1 - sigmoid));
        dup[i] = d * silu;
    }
}

static void add_to(size_t n, const float *x, float *sum)
{
    for (size_t i = 0; i < n; i++)
        sum[i] += x[i];
}

/* dx, the gradient of the layer's output, becomes that of its input. */
static void mlp_back(const struct qg_lm *m, struct qg_lm_work *w, size_t layer, float *dx,
                     float *gradients)
{
    const struct qg_lm_config *c = &m->config;
    const struct qg_lm_layer_work *l = &w->layer[layer];
    size_t rows = w->batch * w->length, norm = qg_lm_index(m, QG_LM_POST_NORM, layer);
    float *dact = w->grad[1], *dup = w->grad[2], *dn = w->grad[3], *more = w->grad[4];
    multiply_back(m, w, qg_lm_index(m, QG_LM_DOWN, layer), rows, l->act, dx, dact, gradients);
    gated_back(rows * c->hidden, l->gate, l->up, dact, dact, dup);
    multiply_back(m, w, qg_lm_index(m, QG_LM_GATE, layer), rows, l->normed2, dact, dn, gradients);
    multiply_back(m, w, qg_lm_index(m, QG_LM_UP, layer), rows, l->normed2, dup, more, gradients);
    add_to(rows * c->width, more, dn);
    norm_back(rows, c->width, l->mid, m->params + m->tensor[norm].at, l->inverse2, dn, dx,
              gradient_of(m, norm, gradients));
}

static void attention_back(const struct qg_lm *m, struct qg_lm_work *w, size_t layer, float *dx,
                           float *gradients)
{
    const struct qg_lm_config *c = &m->config;
    const struct qg_lm_layer_work *l = &w->layer[layer];
    size_t rows = w->batch * w->length, norm = qg_lm_index(m, QG_LM_IN_NORM, layer);
    float *dattended = w->grad[1], *dq = w->grad[2], *dk = w->grad[3], *dv = w->grad[4];
    float *dn = w->grad[5], *more = dattended; // dattended has been used by then
    multiply_back(m, w, qg_lm_index(m, QG_LM_O, layer), rows, l->attended, dx, dattended,
                  gradients);
    for (size_t s = 0; s < w->batch; s++)
        for (size_t h = 0; h < c->heads; h++)
            attend_back(c, w, l, s, h, dattended, dq, dk, dv);
    qg_lm_turn(m, w, c->heads, true, dq);
    qg_lm_turn(m, w, c->kv_heads, true, dk);
    multiply_back(m, w, qg_lm_index(m, QG_LM_Q, layer), rows, l->normed, dq, dn, gradients);
    multiply_back(m, w, qg_lm_index(m, QG_LM_K, layer), rows, l->normed, dk, more, gradients);
    add_to(rows * c->width, more, dn);
    multiply_back(m, w, qg_lm_index(m, QG_LM_V, layer), rows, l->normed, dv, more, gradients);
    add_to(rows * c->width, more, dn);
    norm_back(rows, c->width, l->in, m->params + m->tensor[norm].at, l->inverse, dn, dx,
              gradient_of(m, norm, gradients));
}

/* logits become scale (softmax - one at the target); returns -ln p(target). */
static double loss_back(size_t n, float *logits, uint32_t target, float scale)
{
    double nll = qg_lm_nll(logits, n, target), log_sum = nll + logits[target];
    for (size_t i = 0; i < n; i++)
        logits[i] = (float)exp(logits[i] - log_sum) * scale;
    logits[target] -= scale;
    return nll;
}

/* Head and loss, some rows at a time; dn is the gradient of what the head multiplies. */
static double head_back(const struct qg_lm *m, struct qg_lm_work *w, const uint32_t *targets,
                        float scale, float *dn, float *gradients)
{
    const struct qg_lm_config *c = &m->config;
    size_t rows = w->batch * w->length, head = qg_lm_head(m);
    double loss = 0;
    for (size_t n, at = 0; at < rows; at += n) {
        n = rows - at < w->logit_rows ? rows - at : w->logit_rows;
        qg_lm_logits(m, w, at, n);
        for (size_t i = 0; i < n; i++)
            loss += loss_back(c->vocab, w->logits + i * c->vocab, targets[at + i], scale);
        multiply_back(m, w, head, n, w->final + at * c->width, w->logits, dn + at * c->width,
                      gradients);
    }
    return loss;
}

double qg_lm_backward(const struct qg_lm *m, struct qg_lm_work *w, const uint32_t *tokens,
                      const uint32_t *targets, size_t batch, size_t length, float scale,
                      float *gradients)
{
    const struct qg_lm_config *c = &m->config;
    size_t rows = batch * length, norm = qg_lm_index(m, QG_LM_NORM, 0);
    float *dx = w->grad[0], *dn = w->grad[1], *table = gradient_of(m, 0, gradients);
    qg_lm_forward(m, w, tokens, batch, length);
    double loss = head_back(m, w, targets, scale, dn, gradients);
    memset(dx, 0, rows * c->width * sizeof *dx);
    norm_back(rows, c->width, w->hidden, m->params + m->tensor[norm].at, w->inverse, dn, dx,
              gradient_of(m, norm, gradients));
    for (size_t layer = c->layers; layer-- > 0;) {
        mlp_back(m, w, layer, dx, gradients);
        attention_back(m, w, layer, dx, gradients);
    }
    for (size_t r = 0; table && r < rows; r++)
        add_to(c->width, dx + r * c->width, table + tokens[r] * c->width);
    return loss;
}
