/* SPDX-License-Identifier: MIT */
#include "harness/lm/heldout.h"

#include <stdlib.h>

enum qg_status qg_heldout_read(const char *path, const struct qg_lm_config *c,
                               const uint32_t *separator, size_t documents, size_t context,
                               struct qg_heldout *ret_h, struct qg_error *err)
{
    *ret_h = (struct qg_heldout){0};
    if (qg_tokens_read(path, c->vocab, separator, documents, &ret_h->tokens, err) != QG_OK ||
        qg_windows_make(&ret_h->tokens, context, &ret_h->windows, err) != QG_OK)
        return err->status;
    size_t n = ret_h->windows.scored;
    ret_h->cluster = calloc(n, sizeof *ret_h->cluster);
    if (!ret_h->cluster)
        return qg_fail(err, QG_ENOMEM, "no memory for %zu tokens", n);
    ret_h->clusters =
        qg_clusters(&ret_h->tokens, &ret_h->windows, ret_h->cluster, &ret_h->clusters_of);
    return QG_OK;
}

void qg_heldout_free(struct qg_heldout *h)
{
    qg_windows_free(&h->windows);
    qg_tokens_free(&h->tokens);
    free(h->cluster);
    *h = (struct qg_heldout){0};
}
