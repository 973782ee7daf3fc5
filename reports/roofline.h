/* SPDX-License-Identifier: MIT
 *
 * The static roofline: the least time in which a device could do what a case of the backends cuda
 * and cublas asks for, without a device. It must move the case's bytes (its inputs and outputs once
 * each) through the memory and do its flops; the longer of the two bounds it from below. Nothing
 * reaches it.
 *
 * What a kernel multiplies in: those of cuda add binary32 products (fused multiply-adds of
 * kernels/cuda/matmul.cuh). cuBLASLt takes codes as they are where it has their format (the rows of
 * kernels/cuda/narrow.cuh, by scheme and variant), TF32 where it is asked to, else matrices of the
 * call's dtype, or of F32 where inputs are no values of that dtype. The record does not say which
 * of the last two, so that the faster one is assumed: the time may be too short, never too long.
 */
#ifndef QG_ROOFLINE_H
#define QG_ROOFLINE_H

#include <stdbool.h>

#include "harness/result.h"

enum { QG_DEVICES = 3 };

/* What products are added up in. */
enum qg_cores {
    QG_BINARY32, /* outside of tensor cores; the others are their inputs */
    QG_TF32,
    QG_HALVES, /* BF16, F16 */
    QG_INT8,
    QG_FP8,
    QG_FP4,
    QG_CORES
};
const char *qg_cores_name(enum qg_cores c); /* "binary32", "fp8 tensor cores" */

/* Peaks of a device, of one GPU and of dense matrices. */
struct qg_peaks {
    const char *name;
    int arch;               /* 90 for sm_90 */
    double bytes_per_s;     /* of its memory */
    double per_s[QG_CORES]; /* products and additions; 0: it has no such cores */
};

/* H100 SXM, H200 SXM and B200, by NVIDIA's documents (see roofline.c). */
extern const struct qg_peaks qg_devices[QG_DEVICES];

struct qg_least_time {
    double seconds; /* NaN: nothing is known of it, it is of another backend, or cannot run there */
    bool by_memory; /* what takes longer: moving, or else computing */
    enum qg_cores cores;
};
struct qg_least_time qg_least_time(const struct qg_record *r, const struct qg_peaks *device);

#endif
