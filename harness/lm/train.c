/* SPDX-License-Identifier: MIT */
#include "harness/lm/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/rng.h"
#include "harness/lm/parallel.h"
#include "harness/lm/trainer.h"
#include "schemes/num/fn.h"

/* Streams of random numbers; that of a tensor's first values is its index. */
enum { STREAM_TRAIN = 1 << 20, STREAM_LOSS };

enum { PIECE = 1 << 15 }; /* most numbers of a piece */

const struct qg_train_options qg_train_defaults = {.batch = 16,
                                                   .steps = 2000,
                                                   .warmup = 100,
                                                   .seed = 1,
                                                   .lr = 2e-3,
                                                   .lr_end = 2e-4,
                                                   .adamw = {0.9, 0.95, 1e-8},
                                                   .decay = 0.1,
                                                   .clip = 1};

static bool is_norm(const struct qg_lm_tensor *t)
{
    return t->part == QG_LM_IN_NORM || t->part == QG_LM_POST_NORM || t->part == QG_LM_NORM;
}

void qg_lm_initialize(struct qg_lm *m, uint64_t seed)
{
    for (size_t i = 0; i < m->n_tensors; i++) {
        const struct qg_lm_tensor *t = &m->tensor[i];
        bool adds = t->part == QG_LM_O || t->part == QG_LM_DOWN;
        double deviation = adds ? 0.02 / sqrt(2 * (double)m->config.layers) : 0.02;
        for (size_t j = 0; j < t->rows * t->cols; j++)
            m->params[t->at + j] = is_norm(t) ? 1 : (float)(deviation * qg_rng_normal(seed, i, j));
    }
}

/* --- making ---------------------------------------------------------------------------------- */

/* Cuts the trained tensors into pieces, none of which is of two tensors. */
static bool cut(struct qg_trainer *t)
{
    const struct qg_lm *m = t->lm;
    size_t most = m->n_tensors + t->n / PIECE + 1;
    t->piece = calloc(most, sizeof *t->piece);
    for (size_t i = 0; t->piece && i < m->n_tensors; i++) {
        const struct qg_lm_tensor *tensor = &m->tensor[i];
        size_t n = tensor->rows * tensor->cols;
        if (tensor->at < m->frozen)
            continue;
        for (size_t at = 0; at < n; at += PIECE)
            t->piece[t->n_pieces++] =
                (struct qg_piece){.at = tensor->at - m->frozen + at,
                                  .n = n - at < PIECE ? n - at : PIECE,
                                  .decay = is_norm(tensor) ? 0 : t->options.decay};
    }
    return t->piece;
}

static bool allocate(struct qg_trainer *t)
{
    size_t length = t->options.length;
    bool good = cut(t);
    t->gradient = calloc(t->n, sizeof(float));
    t->m = calloc(t->n, sizeof(float));
    t->v = calloc(t->n, sizeof(float));
    for (size_t l = 0; l < t->lanes; l++) {
        t->lane[l].gradient = calloc(t->n, sizeof(float));
        good = good && t->lane[l].gradient;
    }
    t->work = calloc((size_t)t->threads, sizeof *t->work);
    t->tokens = calloc((size_t)t->threads, sizeof *t->tokens);
    for (int i = 0; t->tokens && i < t->threads; i++) {
        t->tokens[i] = calloc(length + 1, sizeof **t->tokens);
        good = good && t->tokens[i];
    }
    return good && t->gradient && t->m && t->v && t->work && t->tokens;
}

static enum qg_status check(const struct qg_lm *m, struct qg_train_text text,
                            const struct qg_train_options *o, struct qg_error *err)
{
    if (o->batch == 0 || o->length == 0 || o->steps == 0)
        return qg_fail(err, QG_EINVAL, "training needs steps, sequences and tokens in them");
    if (o->length > m->config.context)
        return qg_fail(err, QG_EINVAL, "sequences of %zu tokens: the model's context is %zu",
                       o->length, m->config.context);
    if (text.n <= o->length)
        return qg_fail(err, QG_EINVAL,
                       "a text of %zu tokens: a sequence and its last target need %zu", text.n,
                       o->length + 1);
    if (!(o->lr > 0) || !(o->lr_end >= 0) || !(o->decay >= 0) || !(o->clip > 0) ||
        !(o->adamw.beta1 > 0.5 && o->adamw.beta1 < 1) ||
        !(o->adamw.beta2 > 0 && o->adamw.beta2 < 1) || !(o->adamw.eps > 0))
        return qg_fail(err, QG_EINVAL,
                       "AdamW needs lr, eps and clip above 0, 1/2 < beta1 < 1, 0 < beta2 < 1");
    return QG_OK;
}

enum qg_status qg_trainer_make(struct qg_lm *m, struct qg_train_text text,
                               const struct qg_train_options *o, int threads,
                               struct qg_trainer **ret_t, struct qg_error *err)
{
    if (check(m, text, o, err) != QG_OK)
        return err->status;
    struct qg_trainer *t = calloc(1, sizeof *t);
    if (!t)
        return qg_fail(err, QG_ENOMEM, "no memory to train");
    *t = (struct qg_trainer){.lm = m,
                             .text = text,
                             .options = *o,
                             .start = qg_trainer_fingerprint(m),
                             .n = m->n_params - m->frozen,
                             .threads = threads > 1 ? threads : 1,
                             .lanes = o->batch < QG_LANES ? o->batch : QG_LANES};
    enum qg_status status = allocate(t) ? QG_OK : qg_fail(err, QG_ENOMEM, "no memory to train");
    for (int i = 0; i < t->threads && status == QG_OK; i++)
        status = qg_lm_work_make(m, 1, o->length, true, &t->work[i], err);
    if (status == QG_OK)
        *ret_t = t;
    else
        qg_trainer_free(&t);
    return status;
}

void qg_trainer_free(struct qg_trainer **ret_t)
{
    struct qg_trainer *t = *ret_t;
    if (!t)
        return;
    for (int i = 0; i < t->threads; i++) {
        if (t->work)
            qg_lm_work_free(&t->work[i]);
        if (t->tokens)
            free(t->tokens[i]);
    }
    for (size_t l = 0; l < t->lanes; l++)
        free(t->lane[l].gradient);
    free(t->work);
    free(t->tokens);
    free(t->piece);
    free(t->gradient);
    free(t->m);
    free(t->v);
    free(t);
    *ret_t = NULL;
}

uint64_t qg_trainer_steps(const struct qg_trainer *t)
{
    return t->step;
}

size_t qg_trainer_bytes(const struct qg_trainer *t)
{
    return t->n * (t->lanes + 3) * sizeof(float);
}

/* --- sequences ------------------------------------------------------------------------------- */

/* Sequence i of a stream: length + 1 tokens, the last `length` of which are the targets. One in two
 * begins with the separator, as a text does; the others in the midst of one. */
static void draw(const struct qg_trainer *t, struct qg_train_text text, uint64_t stream, uint64_t i,
                 uint32_t *tokens)
{
    const struct qg_lm_config *c = &t->lm->config;
    size_t length = t->options.length;
    size_t at = qg_rng_bits(t->options.seed, stream, i) % (text.n - length);
    memcpy(tokens, text.id + at, (length + 1) * sizeof *tokens);
    if (c->has_separator && i % 2 == 0)
        tokens[0] = c->separator;
}

static void run_lane(void *user, size_t l, int thread)
{
    struct qg_trainer *t = user;
    const struct qg_train_options *o = &t->options;
    float scale = (float)(1 / ((double)o->batch * (double)o->length));
    uint32_t *tokens = t->tokens[thread];
    t->lane[l].loss = 0;
    for (size_t i = l; i < o->batch; i += t->lanes) {
        draw(t, t->text, STREAM_TRAIN, t->step * o->batch + i, tokens);
        t->lane[l].loss += qg_lm_backward(t->lm, t->work[thread], tokens, tokens + 1, 1, o->length,
                                          scale, t->lane[l].gradient);
    }
}

/* --- a step ---------------------------------------------------------------------------------- */

/* Adds up the lanes, and clears them for the next step. */
static void gather(void *user, size_t i, int thread)
{
    const struct qg_trainer *t = user;
    const struct qg_piece *p = &t->piece[i];
    float *sum = t->gradient + p->at;
    (void)thread;
    for (size_t l = 0; l < t->lanes; l++) {
        float *lane = t->lane[l].gradient + p->at;
        for (size_t j = 0; j < p->n; j++)
            sum[j] = l ? qg_add(sum[j], lane[j]) : lane[j];
        memset(lane, 0, p->n * sizeof *lane);
    }
}

static void square(void *user, size_t i, int thread)
{
    const struct qg_trainer *t = user;
    struct qg_piece *p = &t->piece[i];
    (void)thread;
    p->squares = 0;
    for (size_t j = 0; j < p->n; j++)
        p->squares += (double)t->gradient[p->at + j] * (double)t->gradient[p->at + j];
}

static void update(void *user, size_t i, int thread)
{
    const struct qg_trainer *t = user;
    const struct qg_piece *p = &t->piece[i];
    float *g = t->gradient + p->at;
    (void)thread;
    for (size_t j = 0; j < p->n; j++)
        g[j] = qg_mul(g[j], t->shrink);
    qg_adamw_step(&t->options.adamw, t->step + 1, t->lr, p->decay, p->n, g,
                  t->lm->params + t->lm->frozen + p->at, t->m + p->at, t->v + p->at);
}

static double rate(const struct qg_train_options *o, uint64_t step)
{
    if (step < o->warmup)
        return o->lr * (double)(step + 1) / (double)o->warmup;
    double share = (double)(step - o->warmup) / (double)(o->steps - o->warmup);
    return o->lr_end + (o->lr - o->lr_end) * 0.5 * (1 + cos(3.14159265358979324 * share));
}

enum qg_status qg_trainer_step(struct qg_trainer *t, struct qg_train_step *ret_s,
                               struct qg_error *err)
{
    const struct qg_train_options *o = &t->options;
    qg_parallel(t->threads, t->lanes, run_lane, t);
    qg_parallel(t->threads, t->n_pieces, gather, t);
    if (qg_lm_through(t->lm, t->gradient, t->threads, err) != QG_OK)
        return err->status;
    qg_parallel(t->threads, t->n_pieces, square, t);
    double loss = 0, squares = 0;
    for (size_t l = 0; l < t->lanes; l++)
        loss += t->lane[l].loss;
    for (size_t i = 0; i < t->n_pieces; i++)
        squares += t->piece[i].squares;
    t->lr = rate(o, t->step);
    *ret_s = (struct qg_train_step){
        .loss = loss / ((double)o->batch * (double)o->length), .norm = sqrt(squares), .lr = t->lr};
    if (!isfinite(ret_s->loss) || !isfinite(ret_s->norm))
        return QG_OK;
    // as torch.nn.utils.clip_grad_norm_
    t->shrink = (float)fmin(1, o->clip / (ret_s->norm + 1e-6));
    qg_parallel(t->threads, t->n_pieces, update, t);
    t->step++;
    return qg_lm_refresh(t->lm, t->threads, err);
}

/* --- loss on another text -------------------------------------------------------------------- */

struct losses {
    struct qg_trainer *t;
    struct qg_train_text text;
    double *of;
};

static void measure(void *user, size_t i, int thread)
{
    const struct losses *s = user;
    const struct qg_trainer *t = s->t;
    struct qg_lm_work *w = t->work[thread];
    uint32_t *tokens = t->tokens[thread];
    size_t length = t->options.length, vocab = t->lm->config.vocab;
    draw(t, s->text, STREAM_LOSS, i, tokens);
    qg_lm_forward(t->lm, w, tokens, 1, length);
    s->of[i] = 0;
    for (size_t at = 0; at < length; at += w->logit_rows) {
        size_t n = length - at < w->logit_rows ? length - at : w->logit_rows;
        const float *logits = qg_lm_logits(t->lm, w, at, n);
        for (size_t j = 0; j < n; j++)
            s->of[i] += qg_lm_nll(logits + j * vocab, vocab, tokens[at + j + 1]);
    }
}

double qg_trainer_loss(struct qg_trainer *t, struct qg_train_text text, size_t n)
{
    struct losses s = {.t = t, .text = text, .of = calloc(n ? n : 1, sizeof(double))};
    double sum = 0;
    bool can = s.of && n && text.n > t->options.length;
    if (can)
        qg_parallel(t->threads, n, measure, &s);
    for (size_t i = 0; can && i < n; i++)
        sum += s.of[i];
    free(s.of);
    return can ? sum / ((double)n * (double)t->options.length) : (double)NAN;
}
