/* SPDX-License-Identifier: MIT
 *
 * A regular file that is read piece by piece and must stay what it was when it was opened.
 */
#ifndef QG_FILE_H
#define QG_FILE_H

#include <stddef.h>
#include <sys/stat.h>

#include "harness/base/error.h"

/* A tensor as a file holds it, of any dtype and rank. */
struct qg_stored {
    const char *name, *dtype; /* the format's own word: "BF16", "I64", "Q4_K" */
    int rank;
    const size_t *shape; /* row-major: the last one is contiguous */
    size_t bytes, at;    /* at .. at + bytes of the file */
};

struct qg_file {
    int fd; /* -1: not open */
    char *path;
    size_t size;
    struct stat was; /* at opening */
};

/* Opens for reading. QG_EIO with the system's reason; QG_EFORMAT for what is no regular file.
 * Messages of these functions leave the path to the caller. The caller closes, also after a
 * failure. */
QG_MUST_CHECK enum qg_status qg_file_open(const char *path, struct qg_file *ret_f,
                                          struct qg_error *err);
void qg_file_close(struct qg_file *f);

/* Reads n bytes from offset `at`. QG_EIO when the file ends before, or is no longer the one that
 * was opened: its size, time of modification or place on disk changed, or another file has its
 * path. Safe to call from several threads. */
QG_MUST_CHECK enum qg_status qg_file_read(const struct qg_file *f, void *dst, size_t n, size_t at,
                                          struct qg_error *err);

/* Locks an open file against other processes that lock it, until it is closed. QG_EIO when another
 * one has it. */
QG_MUST_CHECK enum qg_status qg_file_lock(int fd, const char *path, struct qg_error *err);

#endif
