/* SPDX-License-Identifier: MIT
 *
 * The base model's logits on a text, from a folder that keeps them from one run to the next. Files
 * there can be removed at any time; nothing removes them by itself.
 */
#ifndef QG_BASE_H
#define QG_BASE_H

#include "harness/lm/evaluate.h"

/* $XDG_CACHE_HOME/qgauge, else $HOME/.cache/qgauge; false when neither variable is set. */
bool qg_cache_folder(char *text, size_t size);

/* Takes the logits of `m`, whose matrices are plain, from `folder` when they are there: of this
 * model, text, context and dtype, by this OpenBLAS core; and when the first batch still comes out
 * as it was, bit for bit. Else computes and keeps them. What is wrong with a file, or that the
 * folder cannot be written and they stay in memory, goes to `note` as a sentence. `folder` NULL: in
 * memory. Errors as of qg_evaluate_base; *ret_stopped: progress said so, then there are none. The
 * caller closes. */
QG_MUST_CHECK enum qg_status qg_base_logits(const struct qg_evaluation *e, const struct qg_lm *m,
                                            const char *folder,
                                            void (*note)(void *user, const char *sentence),
                                            void *user, struct qg_logits **ret_l, bool *ret_stopped,
                                            struct qg_error *err);

#endif
