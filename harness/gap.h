/* SPDX-License-Identifier: MIT
 *
 * The gap: what a scheme's prepare path (fake quantization, what training sees) and its convert
 * path (real quantization, what is shipped) make of the same weights, and of a whole model.
 */
#ifndef QG_GAP_H
#define QG_GAP_H

#include "harness/base/error.h"
#include "harness/call.h"
#include "harness/result.h"
#include "schemes/scheme.h"

/* The first weight that differs, with both computations. */
struct qg_gap_detail {
    size_t row, col;
    float x, prepared, converted;
    struct qg_trace prepare, convert; /* the latter holds convert's steps, then dequant's */
};

/* Whether the scheme has both paths: many upstream formats are never trained. */
bool qg_gap_has(const struct qg_scheme *s);

/* torchao's test model M with `seed` (harness/torch_model.h), bf16: `ret_model` compares the
 * outputs of the prepared and the converted model, also as torchao's compute_error prints it (every
 * step rounded to bf16); `ret_weights` compares all weights, and names the cause when one parameter
 * or another scheme's prepare path explains the difference. `params` as in qg_params_parse.
 * `detail`, when wanted, is filled when weights differ; then ret_model's cause names the steps from
 * the prepared to the converted model (its weights, its activations, operands that are not rounded,
 * its matmul) that close the gap. */
QG_MUST_CHECK enum qg_status qg_gap_model(const struct qg_scheme *s, const char *params,
                                          uint64_t seed, struct qg_gap *ret_model,
                                          struct qg_gap *ret_weights, struct qg_gap_detail *detail,
                                          struct qg_error *err);

/* One weight tensor [N,K] of any checkpoint; `detail` as above. QG_EINVAL when the scheme refuses
 * it, with its reason.
 */
QG_MUST_CHECK enum qg_status qg_gap_tensor(const struct qg_scheme *s, const char *params,
                                           const struct qg_tensor *w, const char *source,
                                           struct qg_gap *ret_gap, struct qg_gap_detail *detail,
                                           struct qg_error *err);

/* The two sides of a tensor: what training sees of it, and what is shipped. A side without a scheme
 * is the tensor as it is. */
struct qg_gap_sides {
    struct qg_choice prepare, convert;
    enum qg_operand operand; /* QG_WEIGHT or QG_EMBEDDING */
};

/* What prepared and converted elements add up to, over one tensor or more, or over its rows. */
struct qg_gap_sum {
    double signal, noise; /* squares of the prepared ones, and of the differences */
    uint64_t count, differ;
    int64_t first; /* the first that differs, -1 when none does: begin with -1 */
};

/* Adds rows of a tensor; where scales span rows it must be all of them. QG_EINVAL when a scheme
 * refuses it, with its reason. */
QG_MUST_CHECK enum qg_status qg_gap_add(const struct qg_gap_sides *sides, const struct qg_tensor *w,
                                        struct qg_gap_sum *sum, struct qg_error *err);

/* The ratio in dB: inf when all are equal, NaN when a sum is not finite. */
double qg_gap_db(const struct qg_gap_sum *sum);

/* 20 log10(|x| / |x - y|) over n numbers with every step rounded to bf16: the norms (accumulated
 * wider), the quotient, the logarithm, the product
 * (ao:torchao/quantization/utils.py compute_error on bf16 tensors). */
float qg_compute_error_bf16(const qg_bf16 *x, const qg_bf16 *y, size_t n);

#endif
