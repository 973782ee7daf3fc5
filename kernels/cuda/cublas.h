/* SPDX-License-Identifier: MIT
 *
 * The backend cublas: products by cuBLASLt, which is looked for when it is first wanted.
 *
 * Sources: NVIDIA's cuBLAS documentation, "cublasLtMatmul()" (types, alignment) and "Narrow
 * Precision Data Types Usage" (scales, their layouts, which device has which).
 */
#ifndef QG_CUBLAS_H
#define QG_CUBLAS_H

#include "kernels/cuda/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Which device and which cuBLASLt, or which of the two is not there. */
bool qg_cublas_probe(char *text, size_t size);

/* Whether the device has e4m3 (sm_89 and later), its scales by rows and by 128 (sm_90 alone), block
 * scales (sm_100 and later); else false, and text says so. */
bool qg_cublas_has_fp8(char *text, size_t size);
bool qg_cublas_has_float_scales(char *text, size_t size);
bool qg_cublas_has_block_scales(char *text, size_t size);

/* A factor [R,K] of a product, and what stands before its numbers. Scales lie in device memory,
 * 16-byte aligned, those of a factor's first row first:
 *
 *     NONE     BF16, F16, F32 and I8
 *     TENSOR   E4M3; one F32
 *     ROWS     E4M3; F32 [R]
 *     PIECES   E4M3; F32 [ceil(K/128), R], of pieces of 128 of a row
 *     TILES    E4M3; F32 [ceil(R/128), L], of tiles of 128 x 128: L = ceil(K/128) rounded up to 4
 *     E8M0     E4M3; one to 32 of a row, in the layout of schemes/blocked.h with zeros at its ends
 *     E4M3     U8 [R,K/2] of e2m1 codes, the even one low; one to 16, likewise
 *
 * Both factors have scales of the same kind, or x has PIECES and w TILES; both are tf32 or none. */
enum qg_scaling {
    QG_SCALE_NONE,
    QG_SCALE_TENSOR,
    QG_SCALE_ROWS,
    QG_SCALE_PIECES,
    QG_SCALE_TILES,
    QG_SCALE_E8M0,
    QG_SCALE_E4M3
};
struct qg_factor {
    struct qg_tensor t;
    enum qg_scaling by;
    const void *scales;
    bool tf32; /* F32, of which tensor cores take 11 bits of significand */
};

/* Queues y [m,n] = x [m,k] . w [n,k]^T for tensors in device memory, 16-byte aligned. dtypes of x
 * and w, which are alike, and of y: F32, BF16 or F16 to F32 or to themselves; I8 to I32, exactly,
 * for k and n that 4 divides; with scales to F32, BF16 or F16, for n and bytes of k that 16
 * divides, and m that 4 divides where x has PIECES. Sums are binary32 in an order that nobody
 * knows, their parts, too, when K is split; what is known of those of narrow numbers is in
 * narrow.cuh. No more than 32 MiB of workspace. What cuBLASLt refuses is said in a->failure (what
 * it has no kernel for as absent), the algorithm that it chose in a->choice. */
void qg_cublas_product(const struct qg_args *a, const struct qg_factor *x,
                       const struct qg_factor *w, const struct qg_tensor *y);

#ifdef __cplusplus
}
#endif

#endif
