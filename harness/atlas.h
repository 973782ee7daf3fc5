/* SPDX-License-Identifier: MIT
 *
 * The atlas: where libraries that claim the same format disagree about it. Each pair names two
 * quantizers whose codes mean the same, and says in words what they do differently; the comparison
 * counts the codes that differ on the same weights and finds out for each which kind of difference
 * it is. The words are thereby checked by the numbers beside them.
 */
#ifndef QG_ATLAS_H
#define QG_ATLAS_H

#include "harness/base/error.h"
#include "harness/result.h"
#include "schemes/scheme.h"

struct qg_atlas_pair {
    const char *format;             /* "mxfp4" */
    const char *left, *left_params; /* a scheme and its parameters */
    const char *right, *right_params;
    const char *rule; /* what the two do differently */
};

const struct qg_atlas_pair *qg_atlas_at(size_t i); /* NULL past the end */

/* Compares a pair on one weight [N,K]. `source` and `seed` as in struct qg_atlas. QG_EINVAL, with
 * the reason, when one of the schemes refuses the tensor. */
QG_MUST_CHECK enum qg_status qg_atlas_compare(const struct qg_atlas_pair *p,
                                              const struct qg_tensor *w, const char *source,
                                              uint64_t seed, struct qg_atlas *ret,
                                              struct qg_error *err);

/* The weights that the atlas is drawn on when there is no checkpoint: 256 x 1024 of fill `name`
 * ("normal": bf16 numbers, as a checkpoint's are, held in F32 so that every scheme works in
 * binary32). The caller frees data. */
QG_MUST_CHECK enum qg_status qg_atlas_weights(const char *fill, uint64_t seed,
                                              struct qg_tensor *ret_w, struct qg_error *err);

#endif
