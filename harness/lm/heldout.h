/* SPDX-License-Identifier: MIT
 *
 * A text as a model is measured on it: its tokens, the windows they are read in, and the clusters
 * of them that intervals take for independent.
 */
#ifndef QG_HELDOUT_H
#define QG_HELDOUT_H

#include "harness/lm/evaluate.h"

struct qg_heldout {
    struct qg_tokens tokens;
    struct qg_windows windows;
    uint32_t *cluster; /* of every scored token, see qg_clusters */
    size_t clusters;
    const char *clusters_of; /* "documents" or "windows" */
};

/* Reads the first `documents` documents (0: all) of a text for models of this kind, in windows of
 * `context` tokens; `separator` as of qg_tokens_read. Errors as of qg_tokens_read and
 * qg_windows_make. The caller frees, also after a failure. */
QG_MUST_CHECK enum qg_status qg_heldout_read(const char *path, const struct qg_lm_config *c,
                                             const uint32_t *separator, size_t documents,
                                             size_t context, struct qg_heldout *ret_h,
                                             struct qg_error *err);
void qg_heldout_free(struct qg_heldout *h);

#endif
