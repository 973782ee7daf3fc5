/* SPDX-License-Identifier: MIT
 *
 * A file of tensors that appears whole or not at all. Its head and the place of every tensor are
 * fixed first; then data is written in any order, by several threads, into PATH.part, which takes
 * PATH's name when nothing is missing. A .part that an interrupted run left can be gone on with.
 *
 * The formats make one: qg_safetensors_create, qg_gguf_create. Then
 *
 *     qg_writer_put(w, i, 0, data, bytes, err)...   every byte of every tensor, once
 *     qg_writer_finish(w, err)
 *     qg_writer_close(&w, keep)                     always
 */
#ifndef QG_WRITER_H
#define QG_WRITER_H

#include <stdbool.h>

#include "harness/io/file.h"

struct qg_writer;

/* What to do about files that are there already; bits. */
enum qg_write_flags {
    QG_WRITE_OVER = 1,   /* a file at PATH is replaced, in the end */
    QG_WRITE_RESUME = 2, /* a PATH.part of the same size and head is gone on with */
};

/* QG_OK when a writer would not refuse PATH: it does not exist, or is a regular file and may be
 * overwritten. To be asked before long work. */
QG_MUST_CHECK enum qg_status qg_may_write(const char *path, bool overwrite, struct qg_error *err);

/* Makes PATH.part of `size` bytes that begins with the head. `t` says where each tensor lies (name,
 * at, bytes; the names must outlive the writer); bytes that are nobody's are 0. QG_EINVAL when a
 * name is there twice; QG_EIO when PATH exists and is not to be overwritten, when another process
 * writes PATH.part, when the disk is full. */
QG_MUST_CHECK enum qg_status qg_writer_open(const char *path, unsigned flags, const void *head,
                                            size_t head_bytes, const struct qg_stored *t, size_t n,
                                            size_t size, struct qg_writer **ret_w,
                                            struct qg_error *err);

/* Writes a text, whole or not at all. Errors as above. */
QG_MUST_CHECK enum qg_status qg_write_text(const char *path, const char *text, unsigned flags,
                                           struct qg_error *err);

/* Whether a .part was found and gone on with. Then qg_writer_done says which tensors it holds: the
 * caller must know. */
bool qg_writer_resumed(const struct qg_writer *w);
void qg_writer_done(struct qg_writer *w, size_t i);

/* Writes n bytes of tensor i, from its byte `at`. Safe to call from several threads. */
QG_MUST_CHECK enum qg_status qg_writer_put(struct qg_writer *w, size_t i, size_t at,
                                           const void *src, size_t n, struct qg_error *err);

/* Gives the file its name, once it is on disk. QG_EINVAL, with the tensor's name, when one was not
 * written in full. */
QG_MUST_CHECK enum qg_status qg_writer_finish(struct qg_writer *w, struct qg_error *err);

/* Removes PATH.part, if the file was not finished and is not kept for a later run. */
void qg_writer_close(struct qg_writer **w, bool keep);

#endif
