/* SPDX-License-Identifier: MIT
 *
 * Which tensors of a checkpoint, and which cases of a suite, a user means.
 */
#ifndef QG_SELECT_H
#define QG_SELECT_H

#include <regex.h>
#include <stdbool.h>

#include "harness/base/error.h"
#include "schemes/num/tensor.h"

/* Compiles a POSIX extended expression that names are searched for; NULL fits every name. On QG_OK
 * the caller frees it with regfree; QG_EINVAL, with the reason, when it is none. */
QG_MUST_CHECK enum qg_status qg_regex_compile(regex_t *ret_re, const char *text,
                                              struct qg_error *err);

bool qg_regex_fits(const regex_t *re, const char *name);

/* Whether schemes can quantize the tensor: [N,K] of F32, BF16 or F16. */
bool qg_is_weight(const struct qg_tensor *t);

/* The name that a writer of `word` may have meant: the first that begins with it, else the nearest
 * that at most two edits of a character make of it; NULL when there is none. name(user, i) is name
 * i, NULL after the last. */
const char *qg_nearest_name(const char *word, const char *(*name)(const void *user, size_t i),
                            const void *user);

#endif
