/* SPDX-License-Identifier: MIT
 *
 * What the parts of the stand-in share: runtime.cc (memory, errors, devices), block.cc (threads
 * as fibers), finder.cc (mistakes).
 */
#ifndef QG_SIMT_INSIDE_H
#define QG_SIMT_INSIDE_H

#include <cuda_runtime.h>

#include "tests/simt/simt.h"

#define SIMT_SHARED_MAX (227 * 1024) /* dynamic shared memory of the largest device */
#define SIMT_THREADS    1024         /* of a block, on every device */

/* What QG_SIMT_ARCH names: sm_80, sm_90 (the default) or sm_100. */
struct simt_arch {
    const char *arch, *name;
    int major, minor, processors, shared_optin, shared_processor, l2_bytes;
    int threads_processor; /* resident */
};
const struct simt_arch *simt_device(void);

/* The error that every call from now on returns; cudaSuccess: none. */
void simt_break(cudaError_t e);
cudaError_t simt_broken(void);

/* How much dynamic shared memory the kernel was allowed by cudaFuncSetAttribute. */
size_t simt_dynamic_limit(const void *kernel);

/* Runs the grid of a launch whose configuration was found right. */
void simt_run_grid(const cudaLaunchConfig_t *c, void (*thread)(void *), void *context);

/* Keeps and prints a finding: the sentence says what, to which the place is added. pc: in the
 * kernel. */
void simt_found(const void *pc, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Leaves the running kernel for good, from whatever fiber, and breaks the device with e. */
[[noreturn]] void simt_abandon(cudaError_t e);

#endif
