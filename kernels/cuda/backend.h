/* SPDX-License-Identifier: MIT
 *
 * The backend cuda: memory on the device for one call, and every failure as a sentence.
 */
#ifndef QG_CUDA_BACKEND_H
#define QG_CUDA_BACKEND_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/kernel.h"

enum { QG_BLOCK = 256 }; /* threads of a block, in every launch */

/* What device is there, or why none is. Asked in a process of its own: one that has initialised
 * CUDA cannot share it with the children that kernels are judged in. */
bool qg_cuda_probe(char *text, size_t size);

/* Its architecture, 90 for sm_90; 0 without a device. Asked in the same way. */
int qg_cuda_arch(void);

/* Whether the device is for one process at a time: its compute mode. Asked in the same way. */
bool qg_cuda_is_alone(void);

/* The device's settings: see qg_stopwatch.settings. Asked in the same way, at every call. */
void qg_cuda_settings(char *text, size_t size);

/* Runs `launch` on copies of a's tensors in device memory, of which those of out[] come back. Each
 * is an allocation of its own, with marked bytes on both sides; scratch is filled with the first
 * byte of a's. What goes wrong, and a write to anything but outputs and scratch, is said in
 * a->failure. */
void qg_cuda_run(qg_op_fn *launch, const struct qg_args *a);

/* Events around launches in one graph; cold: after the second-level cache was filled with other
 * data. What the last launch left in out[] comes back when the session ends. What is known of
 * clocks, temperature and power is NVML's, where it is there. */
extern const struct qg_stopwatch qg_cuda_stopwatch;

#ifdef __cplusplus
}
#endif

#endif
