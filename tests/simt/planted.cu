/* SPDX-License-Identifier: MIT
 *
 * Kernels whose results are known, for check_simt.c.
 */
#include <cuda_runtime.h>

#include "tests/simt/planted.h"

extern __shared__ __align__(16) unsigned char qg_shared[];

template <typename... P, typename... A>
static cudaError_t launch(void (*kernel)(P...), unsigned blocks, unsigned threads, size_t shared,
                          A... args)
{
    cudaLaunchConfig_t c = {};
    c.gridDim = dim3(blocks);
    c.blockDim = dim3(threads);
    c.dynamicSmemBytes = shared;
    return cudaLaunchKernelEx(&c, kernel, args...);
}

static __device__ unsigned global_thread(void)
{
    return blockIdx.x * blockDim.x + threadIdx.x;
}

/* --- sound ----------------------------------------------------------------------------------- */

static __global__ void add_one(const unsigned *in, unsigned *out, size_t n)
{
    size_t i = global_thread();
    if (i < n)
        out[i] = in[i] + 1;
}

/* The sum of a block's numbers: warps by shuffles, then the first warp over shared memory. */
template <typename T> static __global__ void block_sum(const T *in, T *out)
{
    __shared__ T part[32];
    T v = in[global_thread()];
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int d = 16; d > 0; d /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, d);
    if (lane == 0)
        part[warp] = v;
    __syncthreads();
    if (warp > 0)
        return;
    v = lane < blockDim.x / 32 ? part[lane] : T(0);
    for (int d = 16; d > 0; d /= 2)
        v += __shfl_down_sync(0xffffffffu, v, (unsigned)d);
    if (lane == 0)
        out[blockIdx.x] = v;
}

/* Sums of all numbers before and at each, over a block, in dynamic shared memory. */
static __global__ void block_scan(const unsigned *in, unsigned *out)
{
    unsigned *sum = (unsigned *)qg_shared, t = threadIdx.x;
    sum[t] = in[global_thread()];
    __syncthreads();
    for (unsigned d = 1; d < blockDim.x; d *= 2) {
        unsigned before = t >= d ? sum[t - d] : 0;
        __syncthreads();
        sum[t] += before;
        __syncthreads();
    }
    out[global_thread()] = sum[t];
}

static __global__ void histogram(const unsigned *in, unsigned *counts)
{
    __shared__ unsigned mine[16];
    if (threadIdx.x < 16)
        mine[threadIdx.x] = 0;
    __syncthreads();
    atomicAdd(&mine[in[global_thread()] % 16], 1u);
    __syncthreads();
    if (threadIdx.x < 16)
        atomicAdd(&counts[threadIdx.x], mine[threadIdx.x]);
}

/* One bit of out[i] per operation of a warp that gave what it must. */
static __global__ void warp_operations(unsigned *out)
{
    unsigned lane = threadIdx.x % 32, all = 0xffffffffu, ok = 0, bit = 0;
    int any;
    ok |= (__shfl_sync(all, lane * 3, 5) == 15u) << bit++;
    ok |= (__shfl_sync(all, lane, 9, 8) == (lane & ~7u) + 1) << bit++;
    ok |= (__shfl_up_sync(all, lane, 3) == (lane < 3 ? lane : lane - 3)) << bit++;
    ok |= (__shfl_down_sync(all, lane, 3, 16) == (lane % 16 + 3 < 16 ? lane + 3 : lane)) << bit++;
    ok |= (__shfl_xor_sync(all, (double)lane, 1) == (double)(lane ^ 1)) << bit++;
    ok |= (__ballot_sync(all, lane % 2) == 0xaaaaaaaau) << bit++;
    ok |= (__any_sync(all, lane == 7) && !__any_sync(all, 0)) << bit++;
    ok |= (__all_sync(all, 1) && !__all_sync(all, lane != 7)) << bit++;
    ok |= (__match_any_sync(all, lane % 4) == 0x11111111u << lane % 4) << bit++;
    ok |= (__match_all_sync(all, 3, &any) == all && any) << bit++;
    ok |= (__reduce_add_sync(all, lane) == 496u) << bit++;
    ok |= (__reduce_min_sync(all, (int)lane - 9) == -9) << bit++;
    ok |= (__reduce_max_sync(all, (int)lane - 40) == -9) << bit++;
    ok |= (__reduce_min_sync(all, lane + 4) == 4u) << bit++;
    ok |= (__reduce_and_sync(all, lane | 64u) == 64u) << bit++;
    ok |= (__reduce_or_sync(all, lane) == 31u) << bit++;
    ok |= (__reduce_xor_sync(all, lane == 3 ? 5u : 0u) == 5u) << bit++;
    if (lane < 4) // the lanes of a mask meet without the others
        ok |= (__reduce_add_sync(0xfu, 1u) == 4u) << bit;
    else
        ok |= (__reduce_add_sync(~0xfu, 1u) == 28u) << bit;
    bit++;
    ok |= (__syncthreads_count(lane == 0) == (int)blockDim.x / 32) << bit++;
    ok |= (__syncthreads_or(threadIdx.x == 1) && !__syncthreads_or(0)) << bit++;
    ok |= (__syncthreads_and(1) && !__syncthreads_and(threadIdx.x != 1)) << bit++;
    out[global_thread()] = ok == (1u << bit) - 1;
}

int simt_add_one(const unsigned *in, unsigned *out, size_t n)
{
    return launch(add_one, (unsigned)((n + 255) / 256), 256, 0, in, out, n);
}

int simt_block_sums(const float *in, float *out, unsigned blocks)
{
    return launch(block_sum<float>, blocks, 1024, 0, in, out);
}

int simt_block_scan(const unsigned *in, unsigned *out, unsigned blocks, unsigned threads)
{
    return launch(block_scan, blocks, threads, threads * sizeof *in, in, out);
}

int simt_histogram(const unsigned *in, unsigned *counts, unsigned blocks)
{
    return launch(histogram, blocks, 512, 0, in, counts);
}

int simt_warp_operations(unsigned *out, unsigned blocks)
{
    return launch(warp_operations, blocks, 96, 0, out);
}

/* --- memory, for a test in C ----------------------------------------------------------------- */

void *simt_to_device(const void *from, size_t n)
{
    void *p;
    if (cudaMalloc(&p, n) != cudaSuccess)
        return NULL;
    return !from || cudaMemcpy(p, from, n, cudaMemcpyHostToDevice) == cudaSuccess ? p : NULL;
}

int simt_from_device(void *to, const void *from, size_t n)
{
    return cudaMemcpy(to, from, n, cudaMemcpyDeviceToHost);
}
