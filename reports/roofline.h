/* SPDX-License-Identifier: MIT
 *
 * The static roofline: the least time in which a device could do what a case of the backends cuda
 * and cublas asks for, without a device. It must move the case's bytes (its inputs and outputs once
 * each) through the memory and do its flops; the longer of the two bounds it from below. Nothing
 * reaches it.
 *
 * What a kernel multiplies in: those of cuda add binary32 products (fused multiply-adds of
 * kernels/cuda/matmul.cuh), for which tensor cores have no format; cuBLASLt takes matrices of the
 * call's dtype, or of F32 where inputs are no values of that dtype. The record does not say which,
 * so that the faster one is assumed: the time may be too short, never too long.
 */
#ifndef QG_ROOFLINE_H
#define QG_ROOFLINE_H

#include <stdbool.h>

#include "harness/result.h"

enum { QG_DEVICES = 3 };

/* Peaks of a device, of one GPU and of dense matrices. */
struct qg_peaks {
    const char *name;
    double bytes_per_s; /* of its memory */
    double half_per_s;  /* BF16 or F16 products and additions, on tensor cores */
    double f32_per_s;   /* binary32, outside of them */
};

/* H100 SXM, H200 SXM and B200, by NVIDIA's documents (see roofline.c). */
extern const struct qg_peaks qg_devices[QG_DEVICES];

struct qg_least_time {
    double seconds; /* NaN: nothing is known of it, or the case is of another backend */
    bool by_memory; /* what takes longer: moving, or else computing */
    bool on_tensor_cores;
};
struct qg_least_time qg_least_time(const struct qg_record *r, const struct qg_peaks *device);

#endif
