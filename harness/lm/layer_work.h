/* SPDX-License-Identifier: MIT
 *
 * What forward.c keeps of a layer for backward.c. T: rows; D, H, F: width, heads, hidden; h: head.
 */
#ifndef QG_LAYER_WORK_H
#define QG_LAYER_WORK_H

#include "harness/lm/lm.h"

struct qg_lm_layer_work {
    float *in, *mid;           /* [T,D]: the stream before attention, and before the MLP */
    float *normed, *normed2;   /* [T,D]: what goes into q, k, v; into gate, up */
    float *inverse, *inverse2; /* [T]: 1 / rms of in and mid */
    float *q, *k, *v;          /* [T,H h], [T,kv h]: turned, and v */
    float *scores;             /* [batch,H,L,L]: softmax; or room for one head */
    float *attended;           /* [T,H h] */
    float *gate, *up, *act;    /* [T,F]: act = silu(gate) up */
};

enum { QG_LM_QUERIES = 64 }; /* of one head that attend at a time */

/* The scores of one head, [length, length]; columns past the block of a query are not set. */
static inline float *qg_lm_scores(const struct qg_lm_config *c, const struct qg_lm_work *w,
                                  const struct qg_lm_layer_work *l, size_t sequence, size_t head)
{
    return l->scores + (w->backward ? (sequence * c->heads + head) * w->length * w->length : 0);
}

/* Turns pairs (x[i], x[i + h/2]) of every head of every row by the angles of its position; by their
 * negatives with `back`. x [rows, heads h], rows in sequences of `length`. */
void qg_lm_turn(const struct qg_lm *m, const struct qg_lm_work *w, size_t heads, bool back,
                float *x);

#endif
