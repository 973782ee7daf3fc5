/* SPDX-License-Identifier: MIT
 *
 * What the two halves of qgauge apply share: the request, and the tensors of the input file.
 */
#ifndef QG_APPLY_H
#define QG_APPLY_H

#include "harness/call.h"
#include "harness/io/safetensors.h"

struct qg_request {
    const char *in, *out, *backend, *variant;
    const struct qg_scheme *scheme; /* of a layer: what its base weight comes in, or NULL */
    const struct qg_layer *layer;   /* or NULL */
    enum qg_op op;
    enum qg_operand operand;
    enum qg_dtype dtype; /* QG_DTYPE_COUNT: not given */
    bool overwrite;
    size_t rows, cols; /* of the quantized tensor, where the planes do not tell; 0: not given */
    double param[QG_MAX_PARAMS], layer_param[QG_MAX_PARAMS];
};

/* A name with what stands before it ("w." of a base weight's planes), cut at the end. */
struct qg_tensor_name {
    char text[128];
};
struct qg_tensor_name qg_prefixed(const char *prefix, const char *name);

/* "[3, 4]" */
const char *qg_shape_text(const struct qg_tensor *t, char text[96]);

/* The tensor of that name, or NULL with an error that lists what the file has. */
const struct qg_tensor *qg_request_find(const struct qg_request *q, const struct qg_safetensors *f,
                                        const char *name, struct qg_error *err);

/* The same, of a tensor that can be quantized: two dimensions, not empty, floating point. */
const struct qg_tensor *qg_request_matrix(const struct qg_request *q,
                                          const struct qg_safetensors *f, const char *name,
                                          struct qg_error *err);

/* Reads the file's tensor `prefix` + want->name into want->data; dtype and shape must be those. */
QG_MUST_CHECK enum qg_status qg_request_load(const struct qg_request *q,
                                             const struct qg_safetensors *f, const char *prefix,
                                             const struct qg_tensor *want, struct qg_error *err);

/* The extents R and K of a quantized tensor, from its code plane (`prefix` before its name). */
QG_MUST_CHECK enum qg_status qg_request_extents(const struct qg_request *q,
                                                const struct qg_safetensors *f, const char *prefix,
                                                size_t *ret_rows, size_t *ret_cols,
                                                struct qg_error *err);

/* A call of the request's scheme with memory; `rank` of an adapter, else 0; `tensor` is what a
 * refusal is about. */
QG_MUST_CHECK enum qg_status qg_request_call(const struct qg_request *q, enum qg_op op,
                                             const char *tensor, enum qg_dtype dtype, size_t m,
                                             size_t rows, size_t cols, size_t rank,
                                             struct qg_call *ret_c, struct qg_error *err);

/* The tensor w of the file through the scheme's own convert: the planes are written to to[], one
 * after the other. */
QG_MUST_CHECK enum qg_status qg_request_convert(const struct qg_request *q,
                                                const struct qg_safetensors *f,
                                                const struct qg_tensor *w,
                                                const struct qg_tensor *to, struct qg_error *err);

/* A layer's call with every input read; base weights are dequantized, after the request's scheme
 * has converted them where the file has them unquantized. The caller frees it. */
QG_MUST_CHECK enum qg_status qg_request_layer(const struct qg_request *q,
                                              const struct qg_safetensors *f, struct qg_call *ret_c,
                                              struct qg_error *err);

#endif
