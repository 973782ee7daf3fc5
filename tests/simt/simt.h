/* SPDX-License-Identifier: MIT
 *
 * What a test tells the stand-in for the CUDA runtime and asks it. C and C++.
 */
#ifndef QG_SIMT_H
#define QG_SIMT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The order of blocks and threads in launches from now on: 0 is first to last, any other a random
 * order of its own. Starts as QG_SIMT_SEED of the environment, or 0. */
void simt_set_seed(uint64_t seed);

/* The first mistake found in a kernel since the start or the last simt_reset: one sentence with
 * kernel, block, thread and place, valid until simt_reset; NULL when there was none. */
const char *simt_finding(void);

/* For the stand-in of a library that works on device memory: it is about to read or write n bytes.
 * false, and a finding, when they are not all there or, to be read, not all have a value. */
bool simt_library_touches(const char *library, const void *p, size_t n, bool writes);

/* For the same: a finding about what it was given, and the device is broken. */
void simt_library_finds(const char *library, const char *what);

/* For the same: does work(copy of context), now or, in a capture, whenever the graph is launched.
 * false: it did not come to that, or the work made a finding. */
bool simt_library_calls(void (*work)(void *), const void *context, size_t size);

/* Forgets the finding and the error of the device that came of it; allocations stay. */
void simt_reset(void);

#ifdef __cplusplus
}
#endif
#endif
