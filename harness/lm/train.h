/* SPDX-License-Identifier: MIT
 *
 * Training a language model: AdamW on random stretches of a text, the same bits for any number of
 * threads. A step's sequences are dealt out to a fixed number of lanes; each lane adds up the
 * gradients of its sequences in order, in memory of its own, and lanes are added up in order.
 * Everything random is drawn by counting: sequence i of step s does not depend on what came before.
 *
 * Gradients of prepared matrices go through their scheme's fake-quant once per step, and matrices
 * are quantized anew behind it.
 */
#ifndef QG_TRAIN_H
#define QG_TRAIN_H

#include "harness/lm/adamw.h"
#include "harness/lm/lm.h"

/* What decides every bit of a run, beside model and text. */
struct qg_train_options {
    size_t batch, length; /* sequences per step; tokens of a sequence */
    uint64_t steps, warmup, seed;
    double lr, lr_end; /* after the warm-up, which is linear from 0; at the end, along a cosine */
    struct qg_adamw adamw;
    double decay; /* of matrices; norms do not decay */
    double clip;  /* gradients are scaled down to this norm over all of them */
};

/* 16 sequences, 2000 steps of which 100 warm up, lr 2e-3 to a tenth of it, beta 0.9 and 0.95, eps
 * 1e-8, decay 0.1, clip 1; length 0. */
extern const struct qg_train_options qg_train_defaults;

struct qg_train_text {
    const uint32_t *id; /* all below the model's vocab */
    size_t n;
};

/* What a step did. */
struct qg_train_step {
    double loss; /* mean -ln p of its tokens, before the step */
    double norm; /* of the gradients, before clipping */
    double lr;
};

struct qg_trainer;

/* Random parameters: matrices normal with deviation 0.02, those that add to the residual stream (o
 * and down) with 0.02 / sqrt(2 layers); norms 1. Call qg_lm_put or qg_lm_refresh afterwards. */
void qg_lm_initialize(struct qg_lm *m, uint64_t seed);

/* A trainer of all parameters that are not frozen. Model, tokens and (as they are now) options are
 * kept until it is freed; matrices have been put with `train`. QG_EINVAL: a text shorter than a
 * sequence and its last target, options that make no sense. */
QG_MUST_CHECK enum qg_status qg_trainer_make(struct qg_lm *m, struct qg_train_text text,
                                             const struct qg_train_options *o, int threads,
                                             struct qg_trainer **ret_t, struct qg_error *err);
void qg_trainer_free(struct qg_trainer **t);

/* Steps done. */
uint64_t qg_trainer_steps(const struct qg_trainer *t);

/* The next step. Where loss or norm is not finite parameters stay as they are, and it does not
 * count. QG_ENOMEM. */
QG_MUST_CHECK enum qg_status qg_trainer_step(struct qg_trainer *t, struct qg_train_step *ret_s,
                                             struct qg_error *err);

/* Mean -ln p of the model as it is now over n random sequences of a text, always the same ones,
 * drawn as those of a step are; NaN for a text that is too short. */
double qg_trainer_loss(struct qg_trainer *t, struct qg_train_text text, size_t n);

/* Writes what a run needs to go on, with the caller's log of it, to a file that is replaced as a
 * whole. */
QG_MUST_CHECK enum qg_status qg_trainer_save(const struct qg_trainer *t, const char *path,
                                             const char *log, struct qg_error *err);

/* Goes on where the file was written: the bits of a run that was never interrupted. The caller
 * frees the log. QG_EINVAL when it is of another run: other options, model or text; QG_EFORMAT when
 * it is no such file. */
QG_MUST_CHECK enum qg_status qg_trainer_resume(struct qg_trainer *t, const char *path,
                                               char **ret_log, struct qg_error *err);

/* Bytes of gradients (of every lane, and their sum) and moments. */
size_t qg_trainer_bytes(const struct qg_trainer *t);

#endif
