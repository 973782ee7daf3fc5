/* SPDX-License-Identifier: MIT
 *
 * LoRA's second product on the device, for the files whose schemes have lora: compiled once, in
 * adapter.cu. All of it is queued. See schemes/adapted.c for the formula.
 */
#ifndef QG_CUDA_ADAPTER_H
#define QG_CUDA_ADAPTER_H

#include "kernels/cuda/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* R(x a^T) [m, r] of a call of lora, in its scratch, by CUDA's own kernels. */
struct qg_tensor qg_cuda_project(const struct qg_args *a);

/* The rest of a call of lora whose y holds what its matmul stores: x a^T, that times b^T, and the
 * addition to y; the two products by CUDA's own kernels, or by cuBLASLt. */
void qg_cuda_adapt(const struct qg_args *a);
void qg_cublas_adapt(const struct qg_args *a);

#ifdef __cplusplus
}
#endif

#endif
