/* SPDX-License-Identifier: MIT
 *
 * A layer: what a training library computes around a quantized base weight, forward and backward.
 * One row in a table, whose functions ARE the definition, like those of a scheme: written to be
 * read, every rounding point written out, no memory of their own, no failure. The base weight comes
 * in dequantized, so any scheme's dequant may have made it.
 *
 * A family is one file that ends in its table:
 *
 *     const struct qg_layer qg_layers_lora[] = {{.name = "lora-unsloth", ...}, {.name = NULL}};
 *
 * plus one word in schemes/meson.build.
 */
#ifndef QG_LAYER_H
#define QG_LAYER_H

#include "schemes/scheme.h"

/* A tensor that a layer reads or writes. */
struct qg_layer_tensor {
    const char *name;    /* "x", "w", "a", ...; the gradient of it is called "dx", ... */
    const char *shape;   /* a letter per dimension: "MK", see qg_extent_of */
    enum qg_dtype dtype; /* QG_INPUT: that of x */
    int dtype_param;     /* > 0: param[dtype_param - 1] decides, see qg_scale_dtypes */
    enum qg_op only;     /* QG_FORWARD, QG_BACKWARD, or 0: both */
    int when;            /* > 0: there only when param[when - 1] is not 0 */
    const char *doc;     /* for people */
    bool base;           /* a base weight [rows, K]: may come as the planes of a scheme */
};

struct qg_layer {
    const char *name;      /* a key in goldens and results: never changes */
    const char *summary;   /* one line */
    const char *upstream;  /* where the formulas come from: repo:path */
    const char *nonfinite; /* what zeros, NaN and inf become, where that is not plain arithmetic */
    const struct qg_param *params;          /* ends with name NULL */
    const struct qg_layer_tensor *in, *out; /* each ends with name NULL; x is the first of in */
    qg_op_fn *forward, *backward;           /* NULL: the layer has no such thing */
    /* How many intermediate values the definitions keep, beside a copy of each input. */
    size_t (*values)(const struct qg_args *a);
    /* Whether extents and parameters make sense together, else a sentence why not; may be NULL. */
    bool (*accepts)(const struct qg_args *a, char *why, size_t why_size);
};

/* The extent that a letter stands for in this call: M tokens, K features in, N features out, R the
 * adapter's rank, H hidden features of an MLP, E experts. */
static inline size_t qg_extent_of(const struct qg_args *a, char letter)
{
    return a->extent[letter - 'A'];
}

/* The definition of forward or backward; NULL for an operation of schemes or one that is lacking.
 */
qg_op_fn *qg_layer_definition(const struct qg_layer *l, enum qg_op op);

/* The words of a parameter that is a switch. */
extern const char *const qg_off_on[];

/* Sets all parameters of `a` to the layer's defaults. */
void qg_layer_params_default(struct qg_args *a, const struct qg_layer *l);

/* Fills `a` for one direction of a layer: parameters were set before; the extents are taken from
 * the shapes of `given` (n tensors, found by name; data and dtypes are not looked at), then names,
 * dtypes and shapes of in[] and out[] are set, data pointers are left NULL. Returns false and
 * writes a sentence into `why` when the call makes no sense: a direction that the layer lacks, a
 * tensor that is missing or has another number of dimensions, two tensors that disagree about an
 * extent, an empty one, a dtype other than F32, BF16 and F16, sizes whose element count exceeds
 * 2^40. */
bool qg_layer_init(struct qg_args *a, const struct qg_layer *l, enum qg_op op, enum qg_dtype dtype,
                   const struct qg_tensor *given, int n, char *why, size_t why_size);

/* Whether a tensor of the table is there: by the direction and the parameters of `a`. */
bool qg_layer_has(const struct qg_args *a, const struct qg_layer_tensor *t);

/* The tensor of that name among in[] or out[]; NULL when the parameters leave it out. */
const struct qg_tensor *qg_layer_in(const struct qg_args *a, const char *name);
const struct qg_tensor *qg_layer_out(const struct qg_args *a, const char *name);

/* Floats of scratch that a call needs. */
size_t qg_layer_work_floats(const struct qg_args *a);

/* The catalogue, in the order of schemes/meson.build. NULL past the end; NULL when not found. */
const struct qg_layer *qg_layer_at(size_t i);
const struct qg_layer *qg_layer_find(const char *name);

#endif
