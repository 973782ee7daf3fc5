/* SPDX-License-Identifier: MIT
 *
 * A kernel under test: one row per (scheme, operand, op, backend, variant). It has the signature of
 * the definition it is judged against, so a kernel file is functions and a table:
 *
 *     const struct qg_kernel qg_kernels_int4_c[] = {
 *         {.scheme = "int4", .backend = "c", .variant = "", .op = QG_CONVERT, .fn = convert},
 *         {.scheme = NULL}};
 *
 * plus one word in kernels/meson.build. Kernels are pure: no allocation, no I/O; scratch is
 * a->work.
 */
#ifndef QG_KERNEL_H
#define QG_KERNEL_H

#include "schemes/scheme.h"

enum qg_claim {
    QG_BIT_EXACT,    /* every byte of every output equals the definition's */
    QG_WITHIN_BOUND, /* matmul, lora, gradients: within the proved rounding bound */
};

/* What a kernel does on purpose and its definition does not: for people, printed by `list`. */
enum qg_trait {
    QG_FUSES = 1,
    QG_REORDERS = 2,
    QG_FLUSHES = 4,
    QG_APPROXIMATES = 8,
    QG_WIDENS = 16,  /* multiplies codes and scales, whose product need not fit in the dtype */
    QG_SHORTENS = 32 /* reads binary32 factors as TF32 */
};

struct qg_kernel {
    const char *scheme, *backend, *variant; /* variant: "" when there is only one */
    enum qg_op op;
    enum qg_operand operand;
    enum qg_claim claim;
    unsigned traits;           /* of enum qg_trait */
    size_t (*depth)(size_t k); /* most additions any one product of K passes through; NULL: K */
    qg_op_fn *fn;              /* on tensors in host memory, whatever the backend */
    qg_op_fn *launch; /* of a device: the same on tensors in its memory, queued; else NULL */
    /* Where its backend is there and this row may still not run: a format that the device lacks
     * (a NULL), or a call that this kernel does not take (a). False, and text says why. NULL: it
     * runs. */
    bool (*probe)(const struct qg_args *a, char *text, size_t size);
};

/* Why a device has lowered its clocks by itself. */
enum qg_lowered {
    QG_LOWERED_THERMAL = 1,
    QG_LOWERED_POWER_CAP = 2,
    QG_LOWERED_POWER_BRAKE = 4, /* from outside, as by the power supply */
    QG_LOWERED_HARDWARE = 8     /* at once and by half or more, for one of these or for a current */
};

/* What a device says of itself at one moment; NaN: it does not say. */
struct qg_device_state {
    double sm_mhz, memory_mhz; /* clocks of the multiprocessors and of the memory */
    double celsius;
    double watts;     /* of the whole board; on most devices the mean of the last second */
    unsigned lowered; /* of enum qg_lowered; 0 also where nobody can say */
};

/* How a device times its kernels: a session keeps the tensors of one call in the device's memory.
 */
struct qg_stopwatch {
    /* NULL: *ret says why not. */
    void *(*start)(qg_op_fn *launch, const struct qg_args *a, struct qg_failure *ret);
    /* Of `runs` runs one after the other; `cold`: none of the tensors in a cache before. NaN when
     * the device failed. */
    double (*seconds)(void *session, size_t runs, bool cold);
    /* *ret says what the device failed at since start, when it did. */
    void (*stop)(void *session, struct qg_failure *ret);
    /* Asks the device, which may take milliseconds: between samples, never in one. Without `all`
     * for .lowered alone, and the rest is NaN. */
    void (*look)(void *session, bool all, struct qg_device_state *ret);
    /* Settings of the device that its times depend on, in words: "driver 580.65.06, persistence
     * mode on, SM clock up to 1980 MHz, power limit 700 W, ECC on"; "unknown: " and why. */
    void (*settings)(char *text, size_t size);
};

/* A place where kernels run. */
struct qg_backend {
    const char *name, *summary;
    bool (*probe)(char *text, size_t size); /* true: text says what is there; false: why not */
    const struct qg_stopwatch *stopwatch;   /* of a device; NULL: the host's clock */
    bool (*is_alone)(void); /* of a device: whether it is for one process at a time; else NULL */
};

const struct qg_kernel *qg_kernel_at(size_t i); /* NULL past the end */
const struct qg_backend *qg_backend_at(size_t i);
const struct qg_backend *qg_backend_find(const char *name);

/* Whether the kernel runs here at all (a NULL), or with the parameters and extents of this call:
 * its backend is there and it has no objection of its own. False, with the reason in `why`. */
bool qg_kernel_runs(const struct qg_kernel *k, const struct qg_args *a, char *why, size_t size);

/* Sets in `a`, a call of k's definition, what the definition's bound depends on: a->depth, a->wide
 * and a->tf32. */
void qg_kernel_claims(const struct qg_kernel *k, struct qg_args *a);

/* The kernel of this operation that runs here: of a backend, or (NULL) of blas, else of c, never of
 * a device. The
 * first of several variants. NULL when there is none. */
const struct qg_kernel *qg_kernel_pick(const struct qg_scheme *s, enum qg_operand operand,
                                       enum qg_op op, const char *backend);

/* What the assembler said of the kernels of one CUDA file when it was compiled (ptxas -v, with
 * names as c++filt prints them): registers, stack, spills, shared memory, barriers. */
struct qg_compiler_report {
    const char *file, *text; /* "int4", and whole lines */
};

/* All there are; ends with file NULL. Empty when nvcc did not compile this program. */
const struct qg_compiler_report *qg_compiler_reports(void);

/* Writes "int4.convert.c", "int8-int4.convert:activation.c", "int4.matmul.blas.two-step": scheme,
 * operation (with the operand unless it is the weight), backend, variant. */
void qg_kernel_name(const struct qg_kernel *k, char *text, size_t size);

#endif
