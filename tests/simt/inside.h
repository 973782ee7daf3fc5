/* SPDX-License-Identifier: MIT
 *
 * What the parts of the stand-in share: runtime.cc (memory, errors, devices), block.cc (threads
 * as fibers), shadow.cc (what is known of each byte), finder.cc (what is said of a mistake),
 * graph.cc (captures).
 */
#ifndef QG_SIMT_INSIDE_H
#define QG_SIMT_INSIDE_H

#include <cuda_runtime.h>

#include "tests/simt/simt.h"

#define SIMT_SHARED_MAX (227 * 1024) /* dynamic shared memory of the largest device */
#define SIMT_THREADS    1024         /* of a block, on every device */

/* --- runtime.cc ------------------------------------------------------------------------------ */

/* What QG_SIMT_ARCH names: sm_75, sm_80, sm_90 (the default) or sm_100; NULL: it names no other. */
struct simt_arch {
    const char *arch, *name;
    int major, minor, processors, shared_optin, shared_processor, l2_bytes;
    int threads_processor; /* resident */
};
const struct simt_arch *simt_device(void);

/* The error that every call from now on returns; cudaSuccess: none. */
void simt_break(cudaError_t e);

/* Writes where p, an address in device memory, lies: inside, before, behind or in a freed one of
 * the allocations. Returns text. */
const char *simt_describe_global(const void *p, char *text, size_t size);

/* --- block.cc -------------------------------------------------------------------------------- */

/* A thread of a launch: both counted from 0, x first. */
struct simt_who {
    uint32_t block, thread;
};

/* What a running thread knows of the others. Its own clock counts the __syncwarp it has passed;
 * clock[i] is that of lane i when they last met. epoch counts the block's barriers. */
struct simt_thread_shadow {
    uint32_t segment; /* 0: none yet since the last meeting */
    uint32_t epoch, lane, clock[32];
};

extern bool simt_running;                      /* a kernel runs, on the fiber that asks */
extern struct simt_thread_shadow *simt_shadow; /* of its thread */

struct simt_who simt_who_runs(void);

bool simt_is_stack(const void *p);     /* of a fiber */
bool simt_is_own_stack(const void *p); /* of the fiber that runs */

/* What is queued while a capture is open (graph.cc). */
cudaError_t simt_keep_copy(void *to, const void *from, size_t n, enum cudaMemcpyKind kind);
cudaError_t simt_keep_fill(void *to, int value, size_t n);

/* Runs the grid of a launch whose configuration was found right. */
void simt_run_grid(const cudaLaunchConfig_t *c, void (*thread)(void *), void *context);

/* Leaves the running kernel for good, from whatever fiber, and breaks the device with e. */
[[noreturn]] void simt_abandon(cudaError_t e);

/* --- shadow.cc ------------------------------------------------------------------------------- */

void simt_shadow_open(void *base, size_t size); /* global memory: nothing is allocated */
void simt_shadow_allocated(const void *p, size_t n);
void simt_shadow_freed(const void *p, size_t n);
void simt_shadow_filled(const void *p, size_t n);
void simt_shadow_copied(const void *to, const void *from, size_t n); /* both in global memory */

void simt_shadow_launch(size_t dynamic); /* bytes of dynamic shared memory */
void simt_shadow_block(void);            /* begins: shared memory has no values */

/* An atomic operation on n bytes, 4 or 8. */
void simt_atomic(const void *p, size_t n, const void *pc);

/* --- finder.cc ------------------------------------------------------------------------------- */

/* The kernel that findings name from now on; NULL: none. */
void simt_find_in(const void *kernel);

/* Keeps and prints a finding: the sentence says what, to which kernel, thread and place are added.
 * pc: in the kernel, or NULL when none runs. */
void simt_found(const void *pc, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Writes file and line of a return address in a kernel, with those of the call in the kernel if
 * the place is in a function inlined into it. */
void simt_describe_place(const void *pc, char *text, size_t size);

/* Writes the name in the source of a symbol of the program. */
void simt_describe_symbol(const char *symbol, char *text, size_t size);

/* Whether two return addresses are of one place in the source: a compiler may copy a call. */
bool simt_same_place(const void *a, const void *b);

#endif
