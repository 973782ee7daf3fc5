/* SPDX-License-Identifier: MIT
 *
 * Tensors in and out of safetensors files: 8 bytes of little-endian header length, a JSON header
 * {"name": {"dtype": "BF16", "shape": [N, K], "data_offsets": [begin, end]}, "__metadata__":
 * {...}}, then the data (https://github.com/huggingface/safetensors, format description).
 *
 * Files are hostile until proved otherwise: the header is at most 100 MB and inside the file, names
 * are unique, every shape's product is checked for overflow, offsets are inside the data, agree
 * with dtype and shape, do not overlap and leave no holes.
 */
#ifndef QG_SAFETENSORS_H
#define QG_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>

#include <cjson/cJSON.h>

#include "harness/base/error.h"
#include "harness/io/writer.h"
#include "schemes/num/tensor.h"

struct qg_safetensors;

/* Reads and checks all of the header, and no data. Errors name the file, the tensor and what is
 * wrong. */
QG_MUST_CHECK enum qg_status qg_safetensors_open(const char *path, struct qg_safetensors **ret_f,
                                                 struct qg_error *err);
void qg_safetensors_close(struct qg_safetensors **f);

/* Number of tensors; tensor i in the order of their offsets, with data NULL, until the file is
 * closed. Tensors of a dtype that enum qg_dtype does not know, or of rank > QG_MAX_RANK, are listed
 * with dtype QG_DTYPE_COUNT (dtype_word tells what it is, for people: "I64", "F32 of rank 5"), rank
 * 0 where that does not fit: they may be there, they just cannot be computed with. */
size_t qg_safetensors_count(const struct qg_safetensors *f);
const struct qg_tensor *qg_safetensors_at(const struct qg_safetensors *f, size_t i);
const char *qg_safetensors_dtype_word(const struct qg_safetensors *f, size_t i);
const struct qg_tensor *qg_safetensors_find(const struct qg_safetensors *f, const char *name);

/* Tensor i as the file holds it, whatever its dtype and rank; NULL past the end. */
const struct qg_stored *qg_safetensors_stored(const struct qg_safetensors *f, size_t i);

/* The file itself, to read from. */
const struct qg_file *qg_safetensors_file(const struct qg_safetensors *f);

/* Copies the bytes of a tensor of this file, by the very pointer that qg_safetensors_at or _find
 * returned (QG_EINVAL for another). QG_EIO when the file cannot be read or has changed. */
QG_MUST_CHECK enum qg_status qg_safetensors_load(const struct qg_safetensors *f,
                                                 const struct qg_tensor *t, void *dst,
                                                 struct qg_error *err);

/* A writer of tensors, in that order without gaps; `at` of each is set. Any dtype word will do, so
 * that tensors can be copied, but bytes must agree with a word that is known. `metadata` is an
 * object of strings, or NULL; flags are those of qg_write_flags. QG_EINVAL for what a reader would
 * refuse; otherwise as qg_writer_open. */
QG_MUST_CHECK enum qg_status qg_safetensors_create(const char *path, struct qg_stored *t, size_t n,
                                                   const cJSON *metadata, unsigned flags,
                                                   struct qg_writer **ret_w, struct qg_error *err);

/* Writes tensors to a new file: PATH.part first, then renamed. QG_EIO when PATH exists and not
 * `overwrite`, or when the disk is full (nothing is left behind). Same input, same bytes. */
QG_MUST_CHECK enum qg_status qg_safetensors_write(const char *path, const struct qg_tensor *tensors,
                                                  size_t n, bool overwrite, struct qg_error *err);

#endif
