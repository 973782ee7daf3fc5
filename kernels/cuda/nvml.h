/* SPDX-License-Identifier: MIT
 *
 * What NVIDIA's management library says of the CUDA device in use. It belongs to the driver and is
 * looked for when the first question is asked, once in a process. A process that asks is not to be
 * forked afterwards.
 */
#ifndef QG_CUDA_NVML_H
#define QG_CUDA_NVML_H

#include "kernels/cuda/backend.h"

/* The state of the device: see qg_stopwatch.look. What the library, an old driver or the device
 * (MIG, vGPU) does not say is NaN, and 0 in .lowered. */
void qg_nvml_look(bool all, struct qg_device_state *ret);

/* See qg_stopwatch.settings. */
void qg_nvml_settings(char *text, size_t size);

#endif
