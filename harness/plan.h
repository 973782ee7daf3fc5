/* SPDX-License-Identifier: MIT
 *
 * From a suite to its cases. A suite is a YAML file:
 *
 *     about: one line
 *     time: 0.02          # seconds of timing per case, warm and cold each; left out: no timing
 *     cold: yes           # also with cold caches
 *     timeout: 20         # seconds until a kernel is killed
 *     gap: yes            # also compare prepare with convert for every scheme named
 *     gap_seeds: 20       # on so many random models besides torchao's own; left out: none
 *     atlas: yes          # also compare schemes that claim one format
 *     seed: 7
 *     cases:              # each entry is a product of its lists; what is left out means all
 *       - schemes: [int4, int8]
 *         ops: [convert, matmul]
 *         operands: [weight]
 *         backends: [c]
 *         dtypes: [bf16, f32]                # left out: bf16
 *         fills: [normal, ties]              # left out: normal
 *         shapes: [256x1024, 8x256x1024]     # RxK; MxNxK is for matmul, MxNxKxr for lora
 *         params: ["", "group=32"]           # "" is the defaults
 *         timed: no                          # left out: yes, when the suite times at all
 *
 * Unknown keys and words are refused with their line and what there is. A combination that no
 * kernel computes, or whose scheme lacks the parameter, is left out and counted; a case that is
 * asked for twice runs once.
 */
#ifndef QG_PLAN_H
#define QG_PLAN_H

#include "harness/bench.h"
#include "harness/case.h"
#include "harness/io/model.h"

struct qg_planned {
    struct qg_case c;
    bool timed;
    char spelling[QG_SPELLING_SIZE];
};

struct qg_plan {
    char about[128];
    uint64_t seed;
    struct qg_bench bench;
    double timeout_s;
    bool gap, atlas;
    unsigned gap_seeds;
    struct qg_planned *cases;
    size_t n;
    /* Left out: */
    size_t no_kernel; /* combinations of scheme, op, operand and backend */
    char no_kernel_names[256];
    size_t no_param;    /* combinations of kernel and parameters */
    size_t no_dtype;    /* of kernel, shape and a dtype that upstream refuses */
    size_t not_matched; /* cases, by --match */
    size_t tensors, wrong_rank, wrong_dtype; /* that --tensors matches; of these, not used */
};

struct qg_plan_options {
    const char *match;    /* POSIX ERE on the spelling, or NULL */
    const uint64_t *seed; /* instead of the suite's, or NULL */
    /* With weights, the rank-2 F32, BF16 and F16 tensors take the place of shapes, dtypes and
     * fills: each serves as a linear weight, and as an embedding table when "emb" is in its name.
     * Of a matmul's shape, M stays, and r of lora's. Activations are left out. */
    const struct qg_model *weights;
    const char *weights_path; /* as it stands in spellings */
    const char *tensors;      /* POSIX ERE on names, or NULL */
};

/* Reads a suite, by name ("smoke") or by path (with a slash or ".yaml"), and lists its cases; their
 * tensors borrow from options->weights. QG_EINVAL for a suite that is not there, a mistake in it, a
 * bad expression, or when nothing is left to run. */
QG_MUST_CHECK enum qg_status qg_plan_load(const char *suite, const struct qg_plan_options *options,
                                          struct qg_plan *ret_p, struct qg_error *err);
void qg_plan_free(struct qg_plan *p);

#endif
