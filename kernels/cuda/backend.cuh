/* SPDX-License-Identifier: MIT
 *
 * Device memory for one call, for what runs and what times kernels.
 */
#ifndef QG_BACKEND_CUH
#define QG_BACKEND_CUH

#include "kernels/cuda/device.cuh"

/* *ret_d becomes `a` with tensors and scratch in device memory, each an allocation of its own,
 * those of in[] and out[] copied there. qg_cuda_take frees them, also after an error. */
cudaError_t qg_cuda_lend(const struct qg_args *a, struct qg_args *ret_d);
void qg_cuda_take(struct qg_args *d);

/* Copies d's out[] to a's. What was written that is not the call's to write, its inputs among it,
 * is said in a->failure. */
cudaError_t qg_cuda_take_back(const struct qg_args *a, const struct qg_args *d);

/* Says e in *f, unless f is NULL or something is said there. */
void qg_cuda_say(struct qg_failure *f, cudaError_t e);

#endif
