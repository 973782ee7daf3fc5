/* SPDX-License-Identifier: MIT
 *
 * A call with memory of its own: the arguments of one operation, and guarded buffers behind every
 * tensor. What apply, run, gap and golden verify all start from.
 */
#ifndef QG_CALL_H
#define QG_CALL_H

#include "harness/base/buffer.h"
#include "harness/base/error.h"
#include "schemes/layers/layer.h"

/* A scheme with its parameters, as qg_params_parse takes them and qg_params_format writes them. */
struct qg_choice {
    const struct qg_scheme *scheme; /* NULL: none, a tensor is left as it is */
    char params[128];
};

/* What a choice is called: "int4 group=32", "unquantized". */
void qg_choice_spell(const struct qg_choice *c, char *text, size_t size);

struct qg_call {
    struct qg_args args;
    struct qg_buffer in[QG_MAX_TENSORS], out[QG_MAX_TENSORS], work, exact, bound;
};

/* Takes arguments that qg_args_init or qg_layer_init has filled and puts memory behind every in[]
 * and out[] tensor and behind work; with `judge`, behind exact and bound as well. All zeroed, all
 * shared with children. */
QG_MUST_CHECK enum qg_status qg_call_alloc(struct qg_call *ret_c, const struct qg_args *args,
                                           bool judge, struct qg_error *err);
void qg_call_free(struct qg_call *c);

/* Copies the planes of a convert that has run to inputs of the same names: learned scales begin as
 * what convert finds. */
void qg_call_learn(const struct qg_args *a, const struct qg_args *convert);

/* Parses "group=32 grad=torch" into the parameters of `a`, which qg_params_default has set. */
QG_MUST_CHECK enum qg_status qg_params_parse(struct qg_args *a, const struct qg_scheme *s,
                                             const char *text, struct qg_error *err);

/* The same for a layer, after qg_layer_params_default. */
QG_MUST_CHECK enum qg_status qg_layer_params_parse(struct qg_args *a, const struct qg_layer *l,
                                                   const char *text, struct qg_error *err);

/* One operation of a scheme with parameters as above on a tensor of rows x cols (and m rows of x),
 * with memory. QG_EINVAL, with the reason, when the scheme refuses. */
QG_MUST_CHECK enum qg_status qg_call_make(const struct qg_scheme *s, const char *params,
                                          enum qg_op op, enum qg_operand operand, enum qg_dtype t,
                                          size_t m, size_t rows, size_t cols, struct qg_call *ret_c,
                                          struct qg_error *err);

#endif
