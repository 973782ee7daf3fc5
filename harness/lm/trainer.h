/* SPDX-License-Identifier: MIT
 *
 * What a trainer holds: for train.c and train_state.c alone.
 */
#ifndef QG_TRAINER_H
#define QG_TRAINER_H

#include "harness/lm/train.h"

enum { QG_LANES = 8 };

/* Trained numbers at .. at + n, all of one tensor. */
struct qg_piece {
    size_t at, n;
    double decay, squares; /* squares: the sum of squared gradients */
};

struct qg_trainer {
    struct qg_lm *lm;
    struct qg_train_text text;
    struct qg_train_options options;
    uint64_t step;  /* steps done */
    uint32_t start; /* fingerprint of the parameters before the first one */
    size_t n;       /* trained numbers: parameters from lm->frozen on */
    float *gradient, *m, *v;
    struct qg_piece *piece;
    size_t n_pieces, lanes;
    struct {
        float *gradient;
        double loss;
    } lane[QG_LANES];
    int threads;
    struct qg_lm_work **work; /* per thread, as are tokens [length + 1] */
    uint32_t **tokens;
    double lr; /* of the step under way, and what its gradients are multiplied by */
    float shrink;
};

/* CRC-32 of all parameters of a model. */
uint32_t qg_trainer_fingerprint(const struct qg_lm *m);

#endif
