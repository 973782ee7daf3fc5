/* SPDX-License-Identifier: MIT
 *
 * Judges the definitions (and, on request, the kernels) against the goldens. Convert, dequant and
 * fake-quant must give every bit; matmul, gradients and layers must lie within the bound that the
 * definition proves, and how many of their elements are equal to the bit is counted as well.
 */
#ifndef QG_VERIFY_GOLDEN_H
#define QG_VERIFY_GOLDEN_H

#include <stdbool.h>

#include "golden/golden.h"
#include "harness/compare.h"
#include "kernels/kernel.h"
#include "schemes/layers/layer.h"

/* One operation of one scheme or one direction of a layer, by its definition (kernel NULL) or by a
 * kernel. */
struct qg_verify_row {
    const struct qg_scheme *scheme; /* NULL for a layer's */
    const struct qg_layer *layer;   /* NULL for a scheme's */
    enum qg_operand operand;
    enum qg_op op;
    const struct qg_kernel *kernel;
    uint64_t sets, elements;
    uint64_t unequal;  /* bits differ */
    uint64_t wrong;    /* of those: not excused by a bound */
    uint64_t unjudged; /* the bound is infinite: any order of the sum overflows */
    bool absent;       /* this kernel does not run here though its backend does */
    uint64_t skipped;  /* sets that it does not take, or that a library has nothing for */
    bool refused;      /* by a library, a set at least */
    uint64_t failed;   /* sets that it has no results for */
    uint64_t lost;     /* sets that came after the device's end, see struct qg_verify */
    char why[256];     /* of the first that failed, else of the last that was skipped */
};

/* What convert wrote in all goldens of an operand. */
struct qg_verify_codes {
    const struct qg_scheme *scheme;
    enum qg_operand operand;
    bool seen[256];
    int reached, possible; /* distinct codes, of as many as the operand says */
};

struct qg_verify {
    struct qg_verify_row *rows; /* every definition there is, then the kernels */
    size_t n_rows;
    struct qg_verify_codes *codes;
    size_t n_codes;
    uint64_t sets, cases, elements, wrong, missing; /* missing: definitions without a golden */
    uint64_t failed;                                /* rows, kernels all of them */
    const struct qg_kernel *broke; /* after whom the device does nothing more, or NULL */
    int files;
};

/* The first wrong element of a case. */
struct qg_verify_wrong {
    const struct qg_golden_case *golden;
    const struct qg_args *args;  /* with all parameters */
    const double *exact, *bound; /* of the tensor, by the definition; NULL where every bit counts */
    const struct qg_kernel *kernel;
    const struct qg_tensor *want, *got;
    size_t index;
    uint64_t wrong, count; /* of this tensor */
};

struct qg_verify_request {
    const char *folder, *name; /* of a scheme or a layer; NULL: all */
    bool kernels;
    const char *backend; /* kernels of this one only, and no definitions; NULL: of all */
    void (*on_wrong)(const struct qg_verify_wrong *w, void *user); /* or NULL */
    void (*on_case)(const struct qg_golden_case *c, void *user);   /* before each case, or NULL */
    void *user;
};

/* Judges; of kernels those whose backend is here, where a row may still be one that was skipped.
 * QG_EINVAL for a name that neither a scheme nor a layer has; QG_EFORMAT when a golden names an
 * operation that does not exist or its tensors do not fit it. The caller frees with qg_verify_free.
 */
QG_MUST_CHECK enum qg_status qg_verify_golden(const struct qg_verify_request *r,
                                              struct qg_verify *ret_v, struct qg_error *err);
void qg_verify_free(struct qg_verify *v);

#endif
