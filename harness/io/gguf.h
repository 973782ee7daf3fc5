/* SPDX-License-Identifier: MIT
 *
 * Tensors in and out of GGUF files (llama.cpp, whisper.cpp): "GGUF", uint32 version, uint64 counts
 * of tensors and of metadata; the metadata (key, type, value); per tensor its name, uint32 rank,
 * uint64 extents, contiguous one first, uint32 type, uint64 offset; then, aligned, the data. All
 * little-endian; versions 2 and 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
 *
 * Files are hostile until proved otherwise: counts, lengths and offsets are inside the file, keys
 * and names are unique, the alignment is a power of two, tensors do not overlap.
 */
#ifndef QG_IO_GGUF_H
#define QG_IO_GGUF_H

#include <cjson/cJSON.h>

#include "harness/io/writer.h"
#include "schemes/scheme.h"

/* --- types ----------------------------------------------------------------------------------- */

/* What a tensor's elements are. Of q8_1, which no file has, libraries do not agree how large a
 * block is: it is not here. */
struct qg_gguf_type {
    unsigned id;            /* in files */
    const char *word;       /* "F16", "Q4_K" */
    size_t elements, bytes; /* of a block */
    enum qg_dtype dtype;    /* what its values are read as; QG_DTYPE_COUNT: it can be copied only */
    const char *scheme;     /* whose blocks these are; NULL: plain numbers, or there is no scheme */
};

/* All of them, NULL past the end; by word; by scheme. NULL when not found. */
const struct qg_gguf_type *qg_gguf_type_at(size_t i);
const struct qg_gguf_type *qg_gguf_type_find(const char *word);
const struct qg_gguf_type *qg_gguf_type_of_scheme(const struct qg_scheme *s);

/* --- metadata -------------------------------------------------------------------------------- */

enum qg_gguf_value {
    QG_GGUF_U8,
    QG_GGUF_I8,
    QG_GGUF_U16,
    QG_GGUF_I16,
    QG_GGUF_U32,
    QG_GGUF_I32,
    QG_GGUF_F32,
    QG_GGUF_BOOL,
    QG_GGUF_STRING, /* uint64 length, then bytes */
    QG_GGUF_ARRAY,  /* uint32 type, uint64 length, then values */
    QG_GGUF_U64,
    QG_GGUF_I64,
    QG_GGUF_F64,
    QG_GGUF_VALUE_COUNT
};

/* A piece of metadata; the value is what a file holds, byte for byte, and may be unaligned. */
struct qg_gguf_entry {
    const char *key;
    enum qg_gguf_value type;
    const void *value;
    size_t bytes;
};

/* Metadata of a file that is to be written, in order. The caller frees. NULL without memory. */
struct qg_gguf_meta;
struct qg_gguf_meta *qg_gguf_meta_new(void);
void qg_gguf_meta_free(struct qg_gguf_meta **m);

/* Adds an entry, which is copied; a string without its length; a uint32. */
QG_MUST_CHECK enum qg_status qg_gguf_meta_add(struct qg_gguf_meta *m, const struct qg_gguf_entry *e,
                                              struct qg_error *err);
QG_MUST_CHECK enum qg_status qg_gguf_meta_string(struct qg_gguf_meta *m, const char *key,
                                                 const char *text, struct qg_error *err);
QG_MUST_CHECK enum qg_status qg_gguf_meta_u32(struct qg_gguf_meta *m, const char *key,
                                              uint32_t value, struct qg_error *err);

/* --- reading --------------------------------------------------------------------------------- */

struct qg_gguf_file;

/* Reads and checks everything but the data. Errors name the file, the key or tensor and what is
 * wrong. */
QG_MUST_CHECK enum qg_status qg_gguf_open(const char *path, struct qg_gguf_file **ret_f,
                                          struct qg_error *err);
void qg_gguf_close(struct qg_gguf_file **f);

/* Tensors in the order of their offsets, with shapes turned round so that the contiguous extent is
 * the last; NULL past the end. */
size_t qg_gguf_count(const struct qg_gguf_file *f);
const struct qg_stored *qg_gguf_stored(const struct qg_gguf_file *f, size_t i);

/* Metadata in the order of the file; NULL past the end, or when there is no such key. */
const struct qg_gguf_entry *qg_gguf_entry_at(const struct qg_gguf_file *f, size_t i);
const struct qg_gguf_entry *qg_gguf_entry_find(const struct qg_gguf_file *f, const char *key);

/* All metadata but arrays (and strings that hold a NUL) as a JSON object, numbers as doubles. The
 * caller frees; NULL without memory. */
cJSON *qg_gguf_json(const struct qg_gguf_file *f);

/* The file itself, to read from. */
const struct qg_file *qg_gguf_source(const struct qg_gguf_file *f);

/* --- writing --------------------------------------------------------------------------------- */

/* A writer of tensors in that order, version 3, aligned to the metadata's general.alignment or 32;
 * `at` of each is set. dtype is a word as in struct qg_gguf_type. QG_EINVAL for what llama.cpp or
 * this reader would refuse: names beyond 63 bytes, ranks above 4, rows that are not whole blocks, a
 * key that is there twice. Flags are those of qg_write_flags; otherwise as qg_writer_open. */
QG_MUST_CHECK enum qg_status qg_gguf_create(const char *path, struct qg_stored *t, size_t n,
                                            const struct qg_gguf_meta *meta, unsigned flags,
                                            struct qg_writer **ret_w, struct qg_error *err);

#endif
