/* SPDX-License-Identifier: MIT
 *
 * What planted.cu and planted_cublaslt.cc give check_simt.c: each function of the former launches a
 * kernel on device memory and returns the launch's cudaError_t.
 */
#ifndef QG_SIMT_PLANTED_H
#define QG_SIMT_PLANTED_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

int simt_add_one(const unsigned *in, unsigned *out, size_t n);
int simt_block_sums(const float *in, float *out, unsigned blocks);       /* of 1024 numbers each */
int simt_sum_as_they_come(const float *in, float *sum, unsigned blocks); /* the same, by atomics */
int simt_block_scan(const unsigned *in, unsigned *out, unsigned blocks, unsigned threads);
int simt_histogram(const unsigned *in, unsigned *counts, unsigned blocks); /* of 512; modulo 16 */
int simt_warp_operations(unsigned *out, unsigned blocks); /* 96 threads each write 1 when right */

/* Launches the kernel of this name, with its mistake or without; -1 when there is none or no memory
 * for it. opt_in: asks for the dynamic shared memory first. */
struct simt_shape {
    unsigned blocks_x, blocks_y, threads;
    size_t shared; /* bytes, dynamic */
    int opt_in;
};
int simt_plant(const char *name, int wrong, const struct simt_shape *shape);

/* Device memory of n bytes with a copy of from (NULL: without); NULL when there is none. */
void *simt_to_device(const void *from, size_t n);
int simt_from_device(void *to, const void *from, size_t n);

/* Products of the stand-in for cuBLASLt, planted_cublaslt.cc: a mistake that can be made in each.
 */
struct simt_product_case {
    const char *name;
    const char *arch; /* that it is made on */
    int status;       /* cublasStatus_t that it is answered with; 0: a finding, when it is done */
    const char *finding; /* a part of it */
};
const struct simt_product_case *simt_product_at(size_t i); /* NULL past the end */
const char *simt_product_arch(size_t i);                   /* that it is right on */

/* Asks for product i, as it should be or with its mistake, at once or through a graph. Its status;
 * -1: a success whose result is wrong. */
int simt_multiply(size_t i, int mistaken, int captured);

#ifdef __cplusplus
}
#endif
#endif
