/* SPDX-License-Identifier: MIT
 *
 * The windows in which a model reads a text for its perplexity, as lm-evaluation-harness's
 * loglikelihood_rolling cuts every document (lm_eval:utils.py, get_rolling_token_windows with
 * context_len 1 and make_disjoint_window): one behind the other, every token scored once; the first
 * begins with the separator, the last one is as long as the others and scores what is left.
 *
 * Windows of one length run side by side in batches, so that nothing is filled up. Which ones share
 * a batch follows from the text and the context alone, never from the number of threads: a scheme
 * with one scale for all activations of a call sees the same call every time.
 */
#ifndef QG_WINDOWS_H
#define QG_WINDOWS_H

#include "harness/lm/tokens.h"

/* The model reads id[first - 1] .. id[first + length - 2], and position i predicts id[first + i];
 * the last `scored` positions count. */
struct qg_window {
    size_t first, length, scored;
    size_t document, number; /* number: of the window, in the order of the text */
    size_t at;               /* of its first scored token among all scored ones, in that order */
};

/* Windows of[first] .. of[first + n), of one length. */
struct qg_batch {
    size_t first, n;
};

struct qg_windows {
    size_t context;       /* tokens that a window has at most */
    struct qg_window *of; /* in the order of the batches */
    size_t n;
    struct qg_batch *batch;
    size_t n_batches;
    size_t widest; /* windows in a batch, at most */
    size_t scored; /* tokens */
};

/* Cuts the documents. The caller frees, also after a failure. */
QG_MUST_CHECK enum qg_status qg_windows_make(const struct qg_tokens *t, size_t context,
                                             struct qg_windows *ret_w, struct qg_error *err);
void qg_windows_free(struct qg_windows *w);

#endif
