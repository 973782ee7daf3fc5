/* SPDX-License-Identifier: MIT
 *
 * A checkpoint as a list of named tensors, whatever files hold it: one safetensors file, a Hugging
 * Face folder (model.safetensors, or shards under model.safetensors.index.json, with config.json
 * beside them), or a GGUF file. Opening reads and checks every header and no data; tensors are
 * loaded one by one, so that memory does not grow with the checkpoint.
 *
 * Checkpoints are hostile until proved otherwise; every error names file, tensor and place. Files
 * that the index does not name are not looked at.
 */
#ifndef QG_MODEL_H
#define QG_MODEL_H

#include <cjson/cJSON.h>

#include "harness/base/error.h"
#include "harness/io/gguf.h"
#include "schemes/scheme.h"

enum qg_model_format { QG_MODEL_SAFETENSORS, QG_MODEL_GGUF };

/* A tensor of the checkpoint. Strings live as long as the model. */
struct qg_model_tensor {
    /* Name, dtype, rank and shape as a [N,K] weight has them (GGUF's reversed order is turned
     * round); data NULL. Of a quantized tensor: what it is dequantized to, F32. dtype
     * QG_DTYPE_COUNT: it can be copied, not computed with (then rank is 0 where QG_MAX_RANK does
     * not suffice). */
    struct qg_tensor t;
    const char *dtype_word;         /* as stored: "BF16", "I64", "Q4_K" */
    const struct qg_scheme *scheme; /* GGUF: whose dequant gives its values; NULL: plain dtypes */
    int rank;                       /* as stored, */
    const size_t *shape;            /* of any dtype and rank */
    size_t bytes;                   /* as stored */
    size_t file, at;                /* in qg_model_file(m, file), bytes at .. at + bytes */
};

struct qg_model;

/* Opens a file or a folder. QG_EFORMAT: a file is not what it says, a shard is missing or outside
 * the folder, the index and the shards disagree, a name is there twice, the folder has both
 * model.safetensors and an index. */
QG_MUST_CHECK enum qg_status qg_model_open(const char *path, struct qg_model **ret_m,
                                           struct qg_error *err);
void qg_model_close(struct qg_model **m);

enum qg_model_format qg_model_format(const struct qg_model *m);

/* The GGUF file, for its metadata; NULL for the other format. */
const struct qg_gguf_file *qg_model_gguf(const struct qg_model *m);

/* Tensors in the order of their files (shards by name), and of their offsets within. NULL when not
 * found. */
size_t qg_model_count(const struct qg_model *m);
const struct qg_model_tensor *qg_model_at(const struct qg_model *m, size_t i);
const struct qg_model_tensor *qg_model_find(const struct qg_model *m, const char *name);

/* The files that hold tensors, as paths; NULL past the end. */
const char *qg_model_file(const struct qg_model *m, size_t i);

/* config.json of a folder (or of the folder that a single safetensors file lies in); NULL when
 * there is none. For GGUF: an object of all metadata whose values are numbers, strings or booleans.
 */
const cJSON *qg_model_config(const struct qg_model *m);

/* The quant_method of config.json's quantization_config ("awq", "gptq", "bitsandbytes", "mxfp4",
 * "compressed-tensors", ...), "unknown" when it names none; NULL when there is no such thing. */
const char *qg_model_quant_method(const struct qg_model *m);

/* Whether the output head is the embedding table: config's tie_word_embeddings; where that is
 * absent, whether a model that makes text (by its architecture) has no tensor named lm_head. GGUF:
 * whether there is token_embd.weight without output.weight and the metadata does not say that the
 * model is an encoder (attention.causal). */
bool qg_model_tied(const struct qg_model *m);

/* Reads the stored bytes of a tensor of m. QG_EIO when the file cannot be read, or is no longer the
 * one that was opened (size, time of modification or inode changed). Safe to call from several
 * threads. */
QG_MUST_CHECK enum qg_status qg_model_load(const struct qg_model *m,
                                           const struct qg_model_tensor *t, void *dst,
                                           struct qg_error *err);

/* Reads rows first .. first + n of a tensor of rank 2 (of any rank >= 1: all but the last dimension
 * count as rows) into dst, [n,K] of `dtype`: cast, or dequantized and cast, as loading would. Safe
 * to call from several threads. QG_EINVAL for a tensor that cannot be computed with: of another
 * dtype or rank, or empty. */
QG_MUST_CHECK enum qg_status qg_model_rows(const struct qg_model *m,
                                           const struct qg_model_tensor *t, size_t first, size_t n,
                                           enum qg_dtype dtype, void *dst, struct qg_error *err);

#endif
