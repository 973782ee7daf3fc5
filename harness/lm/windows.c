/* SPDX-License-Identifier: MIT */
#include "harness/lm/windows.h"

#include <stdlib.h>

enum { BATCH_TOKENS = 1024 }; /* that a batch has room for, unless one window has more */

static size_t count(const struct qg_tokens *t, size_t context)
{
    size_t n = 0;
    for (size_t d = 0; d < t->n_documents; d++)
        n += (t->document[d].n + context - 1) / context;
    return n;
}

static void cut(const struct qg_tokens *t, struct qg_windows *w)
{
    for (size_t d = 0; d < t->n_documents; d++) {
        const struct qg_document *doc = &t->document[d];
        for (size_t done = 0; done < doc->n;) {
            size_t length = doc->n < w->context ? doc->n : w->context;
            size_t scored = doc->n - done < length ? doc->n - done : length;
            done += scored;
            w->of[w->n] = (struct qg_window){.first = doc->first + done - length,
                                             .length = length,
                                             .scored = scored,
                                             .document = d,
                                             .number = w->n,
                                             .at = w->scored};
            w->n++;
            w->scored += scored;
        }
    }
}

/* Long windows first: what takes longest is begun first. */
static int by_length(const void *a, const void *b)
{
    const struct qg_window *x = a, *y = b;
    if (x->length != y->length)
        return x->length > y->length ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

static void group(struct qg_windows *w)
{
    for (size_t i = 0; i < w->n;) {
        size_t length = w->of[i].length, most = BATCH_TOKENS / w->context, n = 1;
        while (n < most && i + n < w->n && w->of[i + n].length == length)
            n++;
        w->batch[w->n_batches++] = (struct qg_batch){i, n};
        w->widest = n > w->widest ? n : w->widest;
        i += n;
    }
}

enum qg_status qg_windows_make(const struct qg_tokens *t, size_t context, struct qg_windows *ret_w,
                               struct qg_error *err)
{
    size_t n = count(t, context);
    *ret_w = (struct qg_windows){.context = context};
    ret_w->of = calloc(n, sizeof *ret_w->of);
    ret_w->batch = calloc(n, sizeof *ret_w->batch);
    if (!ret_w->of || !ret_w->batch)
        return qg_fail(err, QG_ENOMEM, "no memory for %zu windows", n);
    cut(t, ret_w);
    qsort(ret_w->of, ret_w->n, sizeof *ret_w->of, by_length);
    group(ret_w);
    return QG_OK;
}

void qg_windows_free(struct qg_windows *w)
{
    free(w->of);
    free(w->batch);
    *w = (struct qg_windows){0};
}
