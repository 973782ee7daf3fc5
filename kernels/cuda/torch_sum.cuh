/* SPDX-License-Identifier: MIT
 *
 * The sum of schemes/num/torch_sum.h on a device, addition by addition in the same order. The 32
 * partial sums of that order are the lanes of a warp. Runs of rows, after which the lowest level
 * starts anew, do not depend on each other: a warp to each. One more warp adds up the runs, then
 * what no run has.
 */
#ifndef QG_TORCH_SUM_CUH
#define QG_TORCH_SUM_CUH

#include "kernels/cuda/device.cuh"
#include "schemes/num/torch_sum.h"

/* n numbers as rows of `width`, the first `runs` times 2^power of which are runs. */
struct qg_torch_rows {
    const float *x;
    size_t n, runs;
    unsigned power, lanes, width;
};

static __global__ void qg_torch_sum_runs(const struct qg_torch_rows r, float *const sums)
{
    const size_t run = qg_thread() / QG_WARP, lane = threadIdx.x % QG_WARP;
    if (run >= r.runs)
        return;
    float sum = 0;
    for (size_t i = run << r.power; i < (run + 1) << r.power; i++)
        sum = qg_add(sum, r.x[i * QG_WARP + lane]);
    sums[run * QG_WARP + lane] = sum;
}

/* The three levels above runs, joined with `sum`, that of the rows behind them. */
static __device__ __forceinline__ float qg_torch_levels(const struct qg_torch_rows r,
                                                        const float *sums, float sum)
{
    const size_t every = ((size_t)1 << r.power) - 1;
    float level1 = 0, level2 = 0, level3 = 0;
    for (size_t i = 0; i < r.runs;) {
        level1 = qg_add(level1, sums[i++ * QG_WARP + threadIdx.x]);
        if ((i & every) == 0) {
            level2 = qg_add(level2, level1);
            level1 = 0;
        }
        if ((i & ((every + 1) * (every + 1) - 1)) == 0) {
            level3 = qg_add(level3, level2);
            level2 = 0;
        }
    }
    return qg_add(qg_add(qg_add(sum, level1), level2), level3);
}

static __global__ void qg_torch_mean_of(const struct qg_torch_rows r, const float *const sums,
                                        const enum qg_dtype t, float *const mean)
{
    const unsigned lane = threadIdx.x;
    const size_t rows = r.n / r.width;
    float sum = 0, total = 0;
    if (lane >= QG_WARP)
        return;
    for (size_t i = r.runs << r.power; i < rows; i++)
        sum = lane < r.width ? qg_add(sum, r.x[i * r.width + lane]) : sum;
    sum = qg_torch_levels(r, sums, sum);
    size_t at = rows * r.width;
    for (; at + r.lanes <= r.n; at += r.lanes)
        sum = lane < r.lanes ? qg_add(sum, r.x[at + lane]) : sum;
    float joined = sum;
    for (unsigned k = r.lanes; k < r.width; k += r.lanes)
        joined = qg_add(joined, __shfl_down_sync(0xffffffffu, sum, k));
    for (; at < r.n; at++)
        total = qg_add(total, r.x[at]);
    for (unsigned k = 0; k < r.lanes; k++)
        total = qg_add(total, __shfl_sync(0xffffffffu, joined, (int)k));
    if (lane == 0)
        *mean = qg_round_float(t, qg_div(total, (float)r.n));
}

/* *mean becomes R_t(qg_torch_mean(x, n)). All in device memory; scratch: n / 16 floats. */
static inline void qg_mean_by_torch(const float *x, size_t n, enum qg_dtype t, float *mean,
                                    float *scratch)
{
    const unsigned lanes = n < 8 ? 1 : 8;
    struct qg_torch_rows r = {x, n, 0, 4, lanes, 4 * lanes};
    const size_t rows = n / r.width;
    while (rows > (size_t)1 << (4 * r.power + 3))
        r.power++;
    r.runs = rows >> r.power;
    qg_launch(qg_torch_sum_runs, r.runs * QG_WARP, r, scratch);
    qg_launch(qg_torch_mean_of, QG_WARP, r, (const float *)scratch, t, mean);
}

#endif
