/* SPDX-License-Identifier: MIT
 *
 * The weights of a checkpoint in memory, for commands that go through all of them again and again.
 */
#ifndef QG_CHECKPOINT_H
#define QG_CHECKPOINT_H

#include "harness/io/model.h"

struct qg_checkpoint {
    struct qg_model *model;
    struct qg_tensor *tensor; /* [N,K] of F32, BF16 or F16 */
    size_t n, left_out;       /* left out: wanted, but of another dtype or rank, or empty */
};

/* Reads the tensors whose name `tensors` (a POSIX extended expression, or NULL) is found in, cast
 * to `dtype` as loading would (QG_INPUT: as they are; F32 for blocks of GGUF, dequantized).
 * QG_EABSENT when none can be used. The caller closes, also after a failure. */
QG_MUST_CHECK enum qg_status qg_checkpoint_open(const char *path, const char *tensors,
                                                enum qg_dtype dtype, struct qg_checkpoint *ret_c,
                                                struct qg_error *err);
void qg_checkpoint_close(struct qg_checkpoint *c);

#endif
