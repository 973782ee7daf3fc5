/* SPDX-License-Identifier: MIT
 *
 * What CUDA kernels take of a multiprocessor: the report that nvcc's assembler (ptxas -v) gave when
 * the program was built, as rows, and how many warps fit at a time.
 *
 * Occupancy is theoretical: that of blocks of QG_BLOCK threads (kernels/cuda/backend.h), with the
 * shared memory that the report knows, which is the static one (no kernel asks for dynamic shared
 * memory; of one that did, fewer blocks might fit). Its formula and the limits are
 * those of NVIDIA's calculator, <cuda_occupancy.h> of the CUDA toolkit (13.0), with the table
 * "Technical Specifications per Compute Capability" of the CUDA C++ Programming Guide; each
 * constant has its place there beside it in resources.c.
 */
#ifndef QG_RESOURCES_H
#define QG_RESOURCES_H

#include <stddef.h>

#include "harness/base/error.h"
#include "harness/result.h"

struct qg_resources {
    struct qg_resource *at; /* the caller's to free */
    size_t n;
};

/* Adds the kernels of one report, one row for each target: `text` is what ptxas -v said while it
 * compiled `file`, with names as c++filt prints them. Lines of other kinds are skipped. QG_EFORMAT
 * when a kernel lacks one of its numbers, as when two assemblers wrote over each other; *list then
 * is as it was. QG_ENOMEM. */
QG_MUST_CHECK enum qg_status qg_resources_add(struct qg_resources *list, const char *file,
                                              const char *text, struct qg_error *err);

/* Adds every kernel of this program; none, and *ret_why is a sentence, when nvcc did not compile
 * it. *ret_why is NULL otherwise. */
QG_MUST_CHECK enum qg_status qg_resources_built(struct qg_resources *list, const char **ret_why,
                                                struct qg_error *err);

/* Sets .warps, .most_warps and .limit from the rest of the row. */
void qg_resource_occupancy(struct qg_resource *r);

#endif
