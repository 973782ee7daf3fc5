/* SPDX-License-Identifier: MIT
 *
 * A checkpoint again, with other numbers in some of its tensors: names, dtypes, shapes and order
 * stay, so the heads of its files are copied as they are. Tensors that nobody changes stay bit for
 * bit, and so do the other files of a folder (config.json, the index, the tokenizer), but those
 * that hold weights in other formats, which would be the old ones.
 */
#ifndef QG_REWRITE_H
#define QG_REWRITE_H

#include "harness/io/model.h"

/* Changes the t->bytes bytes of a tensor in place, or leaves them. */
typedef enum qg_status qg_rewrite_fn(const struct qg_model_tensor *t, void *data, void *user,
                                     struct qg_error *err);

/* Writes the safetensors checkpoint `m`, opened from `path`, to `out`, a file or a folder as `path`
 * is, through `change`, tensor by tensor in the model's order; no more than one is in memory. `out`
 * appears whole or not at all. QG_EIO when it exists, or OUT.part does, when the system refuses,
 * when a file changes meanwhile; or what `change` returns. */
QG_MUST_CHECK enum qg_status qg_rewrite(const struct qg_model *m, const char *path, const char *out,
                                        qg_rewrite_fn *change, void *user, struct qg_error *err);

#endif
