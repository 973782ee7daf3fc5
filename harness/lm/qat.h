/* SPDX-License-Identifier: MIT
 *
 * Fine-tuning under a scheme, and what it recovers of the loss that quantizing costs.
 *
 * Four ways to train from one checkpoint, all on the same batches:
 *
 *     prepared    all parameters, matrices fake-quantized as the scheme's training does (QAT)
 *     control     all parameters, nothing quantized: what QAT must be compared with, for the extra
 *                 steps alone move the model
 *     adapters    low-rank adapters on the frozen, converted model (arXiv 2305.14314, QLoRA)
 *     control     of that: the same adapters on the frozen model, nothing quantized
 *
 * The control is quantized afterwards (PTQ). Of losses C of the control, P of its PTQ and Q of the
 * trained and converted model, (P - Q) / (P - C) is the share of PTQ's loss that was recovered: 1
 * when quantizing costs nothing after all, below 0 when training was worse than none.
 */
#ifndef QG_QAT_H
#define QG_QAT_H

#include "harness/lm/score.h"
#include "harness/lm/train.h"

struct qg_qat {
    const struct qg_model *model; /* where training starts */
    bool untie;
    struct qg_train_text text;
    struct qg_train_options train;
    size_t rank; /* of adapters; 0: all parameters are trained */
    double alpha;
    enum qg_dtype dtype; /* of what matrices take and give */
    int threads;
    /* Called after every step; true: stop. May be NULL. */
    bool (*progress)(void *user, const struct qg_train_step *s, uint64_t done);
    void *user;
};

struct qg_qat_run {
    struct qg_lm *lm;
    uint64_t steps; /* fewer than asked for: the next one was not finite, or progress said stop */
    bool stopped;
    double loss;          /* of the last step */
    size_t trainer_bytes; /* gradients, moments: qg_trainer_bytes */
    size_t model_bytes;   /* parameters in binary32, and matrices as training multiplies them */
};

/* Trains under a plan, or (NULL) the control. A run that diverges is no error. The caller frees
 * ret_r->lm. */
QG_MUST_CHECK enum qg_status qg_qat_train(const struct qg_qat *q, const struct qg_recipe_plan *plan,
                                          struct qg_qat_run *ret_r, struct qg_error *err);

/* Continues a text by the most probable token, n times: tokens [at + n], of which the first `at` >
 * 0 are there. With more than the context only its last tokens are read. QG_ENOMEM. */
QG_MUST_CHECK enum qg_status qg_lm_continue(const struct qg_lm *m, uint32_t *tokens, size_t at,
                                            size_t n, struct qg_error *err);

/* The models that are compared; -ln p of every scored token of each. */
enum qg_qat_side {
    QG_QAT_BASE,
    QG_QAT_PTQ, /* the base, converted */
    QG_QAT_CONTROL,
    QG_QAT_CONTROL_PTQ,
    QG_QAT_PREPARED, /* NULL with adapters: they are trained on what is shipped */
    QG_QAT_CONVERTED,
    QG_QAT_SIDES
};

/* Over seeds (how the next run will differ) and over text (how the next text will). */
struct qg_qat_estimate {
    struct qg_estimate seeds, text;
};

struct qg_qat_outcome {
    size_t seeds, clusters;
    struct qg_qat_estimate loss[QG_QAT_SIDES]; /* mean -ln p per token */
    struct qg_qat_estimate gain;               /* converted less PTQ of the control */
    struct qg_qat_estimate cost;               /* PTQ of the control less the control */
    struct qg_qat_estimate gap;                /* converted less prepared */
    struct qg_qat_estimate recovered;          /* share, see above */
};

/* nll[seed][side] of n tokens (a NULL side's estimates are NaN); cluster[i] < m is that of token i.
 * Seeds: Student's t over the seeds' means. Text: clusters of tokens, see score.h, of the mean over
 * seeds; the share's by its linearization. A model that diverged has infinite nll: estimates with
 * it are infinite or NaN. QG_ENOMEM. */
QG_MUST_CHECK enum qg_status qg_qat_compare(double *const nll[][QG_QAT_SIDES], size_t seeds,
                                            const uint32_t *cluster, size_t n, size_t m,
                                            double level, struct qg_qat_outcome *ret_o,
                                            struct qg_error *err);

#endif
