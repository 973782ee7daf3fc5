/* SPDX-License-Identifier: MIT
 *
 * The backend cublas: products by cuBLASLt, which is looked for when it is first wanted.
 */
#ifndef QG_CUBLAS_H
#define QG_CUBLAS_H

#include "kernels/cuda/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Which device and which cuBLASLt, or which of the two is not there. */
bool qg_cublas_probe(char *text, size_t size);

/* Queues y [m,n] = x [m,k] . w [n,k]^T for tensors in device memory, 16-byte aligned. dtypes of x
 * and w, which are alike, and of y: F32, BF16 or F16 to F32, summed in binary32 (never TF32) in an
 * order that nobody knows; I8 to I32, exactly, for k and n that 4 divides. No more than 32 MiB of
 * workspace. What cuBLASLt refuses is said in a->failure. */
void qg_cublas_product(const struct qg_args *a, const struct qg_tensor *x,
                       const struct qg_tensor *w, const struct qg_tensor *y);

#ifdef __cplusplus
}
#endif

#endif
