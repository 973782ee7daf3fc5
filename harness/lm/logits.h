/* SPDX-License-Identifier: MIT
 *
 * The logits of a base model over a text, computed once and read by everything that is compared
 * with it. An HDF5 file, or the same in memory:
 *
 *     512 bytes  "qgauge logits " and, in 16 hexadecimal digits, qg_hash of all that follows: HDF5
 *                sees no file that is not as it was written
 *     /          attribute "key": what they are the logits of (qg_logits_open compares it)
 *     /logits    float32 [windows, context, vocab]; rows of positions that are not scored are 0.
 *                Shuffled, deflated, under Fletcher32: numbers that fit into 16 bits take 16 or
 * less
 *
 * Rows are put and taken by several threads.
 */
#ifndef QG_LOGITS_H
#define QG_LOGITS_H

#include <stddef.h>

#include "harness/base/error.h"

struct qg_logits_shape {
    size_t windows, context, vocab;
};

struct qg_logits;

/* Begins a file beside `path`, which takes that name when it is finished; NULL: in memory. QG_EIO
 * when it cannot be made. The caller closes. */
QG_MUST_CHECK enum qg_status qg_logits_create(const char *path, const char *key,
                                              const struct qg_logits_shape *shape,
                                              struct qg_logits **ret_l, struct qg_error *err);

/* Puts n rows [n, vocab] of a window, from position `first`. QG_EIO: no room. */
QG_MUST_CHECK enum qg_status qg_logits_put(struct qg_logits *l, size_t window, size_t first,
                                           size_t n, const float *rows, struct qg_error *err);

/* Gives the file its name; from now on it is read and not written. */
QG_MUST_CHECK enum qg_status qg_logits_finish(struct qg_logits *l, struct qg_error *err);

/* Opens a finished file. QG_EABSENT when there is none, QG_EFORMAT when it is damaged or belongs to
 * another key or shape. The caller closes. */
QG_MUST_CHECK enum qg_status qg_logits_open(const char *path, const char *key,
                                            const struct qg_logits_shape *shape,
                                            struct qg_logits **ret_l, struct qg_error *err);

/* Takes n rows of a window. QG_EIO: cannot be read. */
QG_MUST_CHECK enum qg_status qg_logits_get(struct qg_logits *l, size_t window, size_t first,
                                           size_t n, float *rows, struct qg_error *err);

/* Bytes that the logits take, compressed. */
size_t qg_logits_bytes(const struct qg_logits *l);

/* Removes what was not finished. */
void qg_logits_close(struct qg_logits **l);

#endif
