/* SPDX-License-Identifier: MIT
 *
 * Memory with a guard page behind the last byte: a write past the end is a trap, not a surprise.
 */
#ifndef QG_BUFFER_H
#define QG_BUFFER_H

#include <stddef.h>

#include "harness/base/error.h"

struct qg_buffer {
    void *data; /* 64-byte aligned at its start when bytes is a multiple of 64, see below */
    size_t bytes;
    void *map; /* the whole mapping, guard pages included */
    size_t mapped;
};

/* Allocates `bytes` (0 is allowed) that end directly before an inaccessible page, with another one
 * before the first page. data is aligned to 64 where `bytes` is a multiple of 64, else to the
 * largest power of two that divides `bytes`. The memory is shared with children made by fork()
 * later, and zeroed. The caller frees with qg_buffer_free. QG_ENOMEM when the system has no room.
 */
QG_MUST_CHECK enum qg_status qg_buffer_alloc(struct qg_buffer *ret_b, size_t bytes,
                                             struct qg_error *err);

/* Frees and clears; a cleared buffer is allowed. */
void qg_buffer_free(struct qg_buffer *b);

/* How far past the end of b the address lies (0 for its first byte past the end), or -1 when the
 * address is not in the guard page behind b. */
long qg_buffer_overrun(const struct qg_buffer *b, const void *address);

#endif
