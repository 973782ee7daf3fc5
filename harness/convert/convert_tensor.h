/* SPDX-License-Identifier: MIT
 *
 * Converting one tensor of a model, in pieces of rows by several threads. Only the planes are held
 * whole; of the tensor itself each thread holds a piece, unless the scheme has a number for the
 * whole tensor (split.h): then it is held once, too.
 */
#ifndef QG_CONVERT_TENSOR_H
#define QG_CONVERT_TENSOR_H

#include "harness/call.h"
#include "harness/recipe/recipe.h"

/* How far the dequantized planes are from the tensor: 10 log10 of sum x^2 / sum (x - y)^2. The
 * worst block is the one of lowest such ratio among those that share a scale within a row, where
 * not all are 0; the first of equals. inf: equal to the bit. */
struct qg_quality {
    double sqnr_db, worst_db;
    size_t worst_row, worst_col, worst_cols; /* columns worst_col .. + worst_cols */
};

struct qg_conversion {
    const struct qg_model *model;
    const struct qg_assignment *as;
    struct qg_args args; /* of the whole conversion, see qg_layout_args */
    qg_op_fn *convert, *dequant;
    const char *kernel; /* what convert is, in words */
    bool measure;
    int threads;
    /* The rows of a head, whose halves are interleaved first (GGUF's order of rotary pairs): row
     * 2 j + s of a head is row s * head / 2 + j of the model. 0: rows stay where they are. */
    size_t head;
    /* Asked from time to time by the caller's own thread; true ends the conversion. May be NULL. */
    bool (*stop)(void *user, size_t rows_done);
    void *user;
};

/* Fills in the functions: the bit-exact kernels of the registry whose backend runs here, or the
 * definitions. */
void qg_conversion_kernels(struct qg_conversion *c, char *kernel, size_t kernel_size);

/* Converts. *ret_planes holds all planes until qg_call_free; *ret_q is what `measure` asked for.
 * QG_EABSENT when `stop` said so. Same bits and figures whatever the number of threads. */
QG_MUST_CHECK enum qg_status qg_convert_tensor(const struct qg_conversion *c,
                                               struct qg_call *ret_planes, struct qg_quality *ret_q,
                                               struct qg_error *err);

/* Rows first .. first + n of the tensor as they are quantized: cast, padded, in the order of
 * `head`. */
QG_MUST_CHECK enum qg_status qg_convert_rows(const struct qg_conversion *c, size_t first, size_t n,
                                             void *dst, struct qg_error *err);

#endif
