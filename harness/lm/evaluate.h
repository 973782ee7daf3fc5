/* SPDX-License-Identifier: MIT
 *
 * A text through a language model: the base model's logits, and how far candidates are from them.
 * Batches of windows run side by side, one per thread; numbers do not depend on the threads.
 */
#ifndef QG_EVALUATE_H
#define QG_EVALUATE_H

#include "harness/lm/lm.h"
#include "harness/lm/logits.h"
#include "harness/lm/score.h"
#include "harness/lm/windows.h"

/* What a text is evaluated with. */
struct qg_evaluation {
    const struct qg_tokens *tokens;
    const struct qg_windows *windows;
    int threads;
    /* Called now and then from the caller's thread, with tokens done and all; true: stop. NULL: is
     * not called. */
    bool (*progress)(void *user, size_t done, size_t total);
    void *user;
};

/* Puts the logits of every scored position. QG_EFORMAT, with the place as below, when they are not
 * all finite. *ret_stopped: progress said so, and not all are there. */
QG_MUST_CHECK enum qg_status qg_evaluate_base(const struct qg_evaluation *e, const struct qg_lm *m,
                                              struct qg_logits *base, bool *ret_stopped,
                                              struct qg_error *err);

/* Whether the first batch gives the logits that are kept, bit for bit. QG_EFORMAT when not. */
QG_MUST_CHECK enum qg_status qg_evaluate_check(const struct qg_evaluation *e, const struct qg_lm *m,
                                               struct qg_logits *base, struct qg_error *err);

/* One model as training sees it and as it is shipped, in one pass; either may be NULL. */
enum { QG_PREPARED, QG_CONVERTED, QG_GAP, QG_TRIAL_SIDES };
struct qg_trial {
    const struct qg_lm *model[QG_GAP];
    /* Of every scored token, in the order of the text, of the models against the base and (QG_GAP)
     * of the converted against the prepared. qg_trial_run makes those that there are models for. */
    struct qg_score *score[QG_TRIAL_SIDES];
    /* Why a model has no scores, though it ran: "document 3, position 17: the logits are not
     * finite; the first product that is not: ..." Else "". */
    char fault[QG_GAP][512];
    bool stopped; /* progress said so: scores are not whole */
};

/* The caller frees, also after a failure. */
QG_MUST_CHECK enum qg_status qg_trial_run(const struct qg_evaluation *e, struct qg_logits *base,
                                          struct qg_trial *t, struct qg_error *err);
void qg_trial_free(struct qg_trial *t);

/* What a model and a text are told apart by: of the shape and every parameter; of the tokens and
 * where documents begin. A tied head and its untied copy are two models. */
uint64_t qg_lm_hash(const struct qg_lm *m);
uint64_t qg_text_hash(const struct qg_tokens *t);

/* Clusters of tokens that are taken for independent of each other: documents where there are at
 * least 32, else windows. ret_cluster: of every scored token, in the order of the text. */
enum { QG_LEAST_CLUSTERS = 32 };
size_t qg_clusters(const struct qg_tokens *t, const struct qg_windows *w, uint32_t *ret_cluster,
                   const char **ret_what);

#endif
