/* SPDX-License-Identifier: MIT
 *
 * A case: one kernel on one input. Its spelling repeats it bit for bit on another machine:
 *
 *     int4.convert.c 256x4096 bf16 fill=normal seed=7
 *     int8-int4.convert:activation.c 16x4096 f32 fill=ties seed=7
 *     int4.matmul.blas 16x4096x4096 bf16 fill=heavy seed=7 group=32
 *     int4.fake-quant.c 4096x4096 bf16 weights=model.safetensors tensor=layers.0.up seed=7
 *
 * Kernel name (see qg_kernel_name), shape (RxK, MxNxK for matmul, MxNxKxr for lora), dtype, data,
 * seed, and the parameters that differ from their defaults, in the scheme's order. In file and
 * tensor names a space, a quote, a percent sign and control characters are written as %20.
 */
#ifndef QG_CASE_H
#define QG_CASE_H

#include "harness/base/error.h"
#include "harness/fill.h"
#include "harness/io/model.h"
#include "kernels/kernel.h"

#define QG_SPELLING_SIZE 1024
#define QG_FILE_SIZE     512
#define QG_TENSOR_SIZE   256
#define QG_DATA_SIZE     (QG_FILE_SIZE + QG_TENSOR_SIZE) /* room for what qg_case_data writes */

struct qg_case {
    const struct qg_scheme *scheme;
    const struct qg_kernel *kernel;
    enum qg_dtype dtype;
    size_t m, rows, cols, rank; /* m is 0 but for products, rank but for lora */
    uint64_t seed;
    const struct qg_fill *fill;                      /* NULL: a tensor of a file */
    char file[QG_FILE_SIZE], tensor[QG_TENSOR_SIZE]; /* "" with a fill */
    const struct qg_model *source;                   /* the open file and its tensor: borrowed, */
    const struct qg_model_tensor *values;            /* NULL until qg_case_bind */
    double param[QG_MAX_PARAMS];
};

/* Parses a spelling. QG_EINVAL with a sentence that says which word is wrong and what would do. */
QG_MUST_CHECK enum qg_status qg_case_parse(struct qg_case *ret_c, const char *spelling,
                                           struct qg_error *err);

/* Writes the spelling. QG_EINVAL when it is longer than `size` (names of files and tensors). */
QG_MUST_CHECK enum qg_status qg_case_format(const struct qg_case *c, char *text, size_t size,
                                            struct qg_error *err);

/* Where the data comes from: the fill's name, or "FILE:TENSOR". Never cut: two cases of different
 * tensors have different texts. */
void qg_case_data(const struct qg_case *c, char text[QG_DATA_SIZE]);

/* Parses "256x4096", "16x256x4096" or "16x256x4096x8" into m, rows, cols and rank (m = 0 for two,
 * rank = 0 but for four). False when it is none of them. */
bool qg_shape_parse(const char *text, size_t *ret_m, size_t *ret_rows, size_t *ret_cols,
                    size_t *ret_rank);

/* Whether the operation takes shapes like this one. */
bool qg_shape_suits(enum qg_op op, size_t m, size_t rank);

/* Parses a whole number of 0 .. most, digits only. False when it is none. */
bool qg_whole_parse(const char *text, uint64_t most, uint64_t *ret);

/* Fills `a` for the case's call, as qg_args_init does; false, with the reason, when the scheme
 * refuses it (K and group; the tensor's name where it has one). */
bool qg_case_args(const struct qg_case *c, struct qg_args *a, char *why, size_t why_size);

/* Gives the case its tensor of its open file, which must outlive the case. QG_EABSENT when there is
 * no such tensor, QG_EINVAL when its shape or dtype are not those of the case. */
QG_MUST_CHECK enum qg_status qg_case_bind(struct qg_case *c, const struct qg_model *source,
                                          struct qg_error *err);

/* Reads the tensor that the case was given, [rows,cols] of its dtype. */
QG_MUST_CHECK enum qg_status qg_case_load(const struct qg_case *c, void *dst, struct qg_error *err);

#endif
