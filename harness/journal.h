/* SPDX-License-Identifier: MIT
 *
 * An append-only file of checksummed entries: what survives a kill at any moment. It knows nothing
 * of what the entries mean.
 *
 *     "QGJRNL01", then per entry: uint32 kind, uint32 CRC-32 (zlib's, of kind, length and payload),
 *     uint64 length, the payload; all in the byte order of the machine that resumes
 */
#ifndef QG_JOURNAL_H
#define QG_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/error.h"

/* Called for each whole entry; the payload is 8-byte aligned and borrowed until the call returns.
 */
typedef enum qg_status qg_journal_fn(void *context, uint32_t kind, const void *payload,
                                     size_t bytes, struct qg_error *err);

/* A piece of a payload. */
struct qg_piece {
    const void *data;
    size_t bytes;
};

/* Creates `path`, which must not exist, and locks it against other writers. */
QG_MUST_CHECK enum qg_status qg_journal_create(const char *path, int *ret_fd, struct qg_error *err);

/* Opens and locks an existing journal, calls `each` for its entries in order and cuts off a torn
 * last one. QG_EFORMAT for a file that is no journal, and for a wrong checksum before the last
 * entry. */
QG_MUST_CHECK enum qg_status qg_journal_resume(const char *path, qg_journal_fn *each, void *context,
                                               int *ret_fd, struct qg_error *err);

/* Appends one entry made of `n` pieces and hands it to the system (a kill of this process no longer
 * loses it). On failure the file is cut back to what it held before. */
QG_MUST_CHECK enum qg_status qg_journal_append(int fd, const char *path, uint32_t kind,
                                               const struct qg_piece *piece, int n,
                                               struct qg_error *err);

/* write() until all of it is written; QG_EIO with the system's reason. */
QG_MUST_CHECK enum qg_status qg_write_all(int fd, const char *path, const void *data, size_t bytes,
                                          struct qg_error *err);

/* Reads exactly that much from a pipe; false when the other side ends before. */
bool qg_read_exactly(int fd, void *data, size_t bytes);

/* Reads a whole open file of at most `limit` bytes into memory that the caller frees. */
QG_MUST_CHECK enum qg_status qg_read_all(int fd, const char *path, size_t limit, void **ret_data,
                                         size_t *ret_bytes, struct qg_error *err);

#endif
