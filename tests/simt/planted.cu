/* SPDX-License-Identifier: MIT
 *
 * Kernels whose results are known, and kernels with one mistake each, for check_simt.c.
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

/* Right, and its bits depend on who comes first: no shadow can see that, other orders do. */
static __global__ void sum_as_they_come(const float *in, float *sum)
{
    atomicAdd(sum, in[global_thread()]);
}

int simt_sum_as_they_come(const float *in, float *sum, unsigned blocks)
{
    return launch(sum_as_they_come, blocks, 1024, 0, in, sum);
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

/* --- mistakes -------------------------------------------------------------------------------- */

/* Two blocks of 64 threads run each of these. Where wrong is 0 they are right. */
#define THREADS 64
#define N       128

struct memory {
    const float *in;    // N values
    const float *empty; // N without values
    const float *freed, *host;
    float *out; // N
    int wrong;
};

static __device__ float twice(float v)
{
    return v + v;
}

static __global__ void read_beyond(struct memory m)
{
    unsigned i = global_thread();
    m.out[i] = m.in[m.wrong && i == 70 ? N : i];
}

static __global__ void write_before(struct memory m)
{
    int i = (int)global_thread();
    m.out[m.wrong && i == 70 ? -1 : i] = 1.0f;
}

static __global__ void read_far(struct memory m)
{
    unsigned i = global_thread();
    m.out[i] = m.in[m.wrong && i == 70 ? (size_t)1 << 30 : i];
}

static __global__ void read_freed(struct memory m)
{
    m.out[global_thread()] = (m.wrong ? m.freed : m.in)[global_thread()];
}

static __global__ void read_host(struct memory m)
{
    m.out[global_thread()] = (m.wrong ? m.host : m.in)[global_thread()];
}

static __global__ void read_null(struct memory m)
{
    m.out[global_thread()] = (m.wrong ? NULL : m.in)[global_thread()];
}

static __global__ void copy_beyond(struct memory m)
{
    if (threadIdx.x % 8 == 0)
        memcpy(m.out + global_thread(), m.in + global_thread() + (m.wrong ? N - 64 : 0), 32);
}

static __global__ void dynamic_beyond(struct memory m)
{
    float *tile = (float *)qg_shared;
    unsigned t = threadIdx.x;
    tile[m.wrong && t == 5 ? THREADS : t] = 1.0f;
    __syncthreads();
    m.out[global_thread()] = m.wrong ? 0.0f : tile[t];
}

static __global__ void static_beyond(struct memory m)
{
    __shared__ float tile[THREADS];
    unsigned t = threadIdx.x;
    tile[t + (t == 5) * (unsigned)m.wrong * (THREADS - 5)] = 1.0f;
    __syncthreads();
    m.out[global_thread()] = m.wrong ? 0.0f : tile[t];
}

static __global__ void other_local(struct memory m)
{
    __shared__ float *leak;
    float mine[4];
    for (int i = 0; i < 4; i++)
        mine[i] = m.in[threadIdx.x + (unsigned)i];
    if (threadIdx.x == 0)
        leak = mine;
    __syncthreads();
    float *from = m.wrong ? leak : mine;
    __syncthreads();
    m.out[global_thread()] = from[threadIdx.x % 4];
    __syncthreads();
}

static __global__ void empty_global(struct memory m)
{
    m.out[global_thread()] = twice((m.wrong ? m.empty : m.in)[global_thread()]);
}

static __global__ void empty_shared(struct memory m)
{
    __shared__ float tile[THREADS];
    if (!m.wrong || threadIdx.x != 9)
        tile[threadIdx.x] = 1.0f;
    __syncthreads();
    m.out[global_thread()] = twice(tile[threadIdx.x]);
}

/* What the block before left there is no value. */
static __global__ void empty_next_block(struct memory m)
{
    __shared__ float tile[THREADS];
    if (!m.wrong || blockIdx.x == 0)
        tile[threadIdx.x] = 1.0f;
    m.out[global_thread()] = tile[threadIdx.x];
}

static __global__ void race_shared(struct memory m)
{
    __shared__ float tile[THREADS];
    tile[threadIdx.x] = 1.0f;
    if (m.wrong) // the other warp has not been waited for
        __syncwarp();
    else
        __syncthreads();
    m.out[global_thread()] = tile[THREADS - 1 - threadIdx.x];
}

static __global__ void race_after_read(struct memory m)
{
    __shared__ float tile[THREADS];
    tile[threadIdx.x] = m.in[threadIdx.x];
    __syncthreads();
    float v = tile[(threadIdx.x + 33) % THREADS];
    if (!m.wrong)
        __syncthreads();
    tile[threadIdx.x] = v;
    __syncthreads();
    m.out[global_thread()] = tile[threadIdx.x];
}

static __global__ void race_many_readers(struct memory m)
{
    __shared__ float sum;
    if (threadIdx.x == 0)
        sum = 1.0f;
    __syncthreads();
    float v = sum;
    if (!m.wrong)
        __syncthreads();
    if (threadIdx.x == THREADS - 1)
        sum = 2.0f;
    m.out[global_thread()] = v;
}

static __global__ void race_blocks(struct memory m)
{
    if (threadIdx.x == 3)
        m.out[m.wrong ? 7 : blockIdx.x] = 1.0f;
}

static __global__ void race_warp(struct memory m)
{
    __shared__ float tile[THREADS];
    tile[threadIdx.x] = 0.0f;
    __syncthreads();
    tile[threadIdx.x] = 1.0f;
    if (!m.wrong)
        __syncwarp();
    m.out[global_thread()] = tile[threadIdx.x ^ 1];
}

/* A shuffle moves values and orders nothing. */
static __global__ void race_shuffle(struct memory m)
{
    __shared__ float tile[THREADS];
    tile[threadIdx.x] = 1.0f;
    float v = __shfl_xor_sync(0xffffffffu, 2.0f, 1);
    if (!m.wrong)
        __syncwarp();
    m.out[global_thread()] = v + tile[threadIdx.x ^ 1];
}

static __global__ void race_half_warp(struct memory m)
{
    __shared__ float tile[THREADS];
    unsigned lane = threadIdx.x % 32;
    tile[threadIdx.x] = 1.0f;
    if (m.wrong) // each half has met itself alone
        __syncwarp(lane < 16 ? 0xffffu : 0xffff0000u);
    else
        __syncwarp();
    m.out[global_thread()] = tile[threadIdx.x ^ 16];
}

static __global__ void race_atomic(struct memory m)
{
    atomicAdd(&m.out[0], 1.0f);
    if (m.wrong && global_thread() == 70)
        m.out[0] = 0.0f;
}

static __global__ void barrier_two_places(struct memory m)
{
    if (m.wrong && threadIdx.x >= 32) {
        __syncthreads();
        m.out[global_thread()] = 1.0f;
    } else {
        __syncthreads();
        m.out[global_thread()] = m.in[threadIdx.x];
    }
}

static __global__ void barrier_not_all(struct memory m)
{
    if (m.wrong && threadIdx.x == 0)
        __syncwarp(3);
    __syncthreads();
    m.out[global_thread()] = 1.0f;
}

static __global__ void mask_without_caller(struct memory m)
{
    unsigned lane = threadIdx.x % 32, mask = m.wrong && lane == 5 ? ~(1u << 5) : ~0u;
    m.out[global_thread()] = __shfl_sync(mask, 1.0f, 0);
}

static __global__ void mask_names_returned(struct memory m)
{
    if (m.wrong && threadIdx.x == 40)
        return;
    m.out[global_thread()] = __shfl_sync(0xffffffffu, 1.0f, 0);
}

static __global__ void mask_names_returning(struct memory m)
{
    if (m.wrong && threadIdx.x == 63)
        return;
    m.out[global_thread()] = __shfl_sync(0xffffffffu, 1.0f, 0);
}

static __global__ void masks_differ(struct memory m)
{
    unsigned lane = threadIdx.x % 32;
    __syncwarp(m.wrong && lane == 1 ? 3u : 0xffffffffu);
    m.out[global_thread()] = 1.0f;
}

static __global__ void operations_differ(struct memory m)
{
    unsigned lane = threadIdx.x % 32;
    int p = m.wrong && lane == 1 ? __any_sync(0xffffffffu, 1) : __all_sync(0xffffffffu, 1);
    m.out[global_thread()] = (float)p;
}

static __global__ void lane_not_in_mask(struct memory m)
{
    unsigned lane = threadIdx.x % 32;
    if (lane < 16)
        m.out[global_thread()] = __shfl_sync(0xffffu, 1.0f, m.wrong ? 20 : 12);
}

static __global__ void odd_width(struct memory m)
{
    m.out[global_thread()] = __shfl_sync(0xffffffffu, 1.0f, 0, m.wrong ? 12 : 16);
}

static __global__ void misaligned_vector(struct memory m)
{
    if (global_thread() < 4) {
        const float *p = m.in + 4 * threadIdx.x + (m.wrong && threadIdx.x == 2);
        const uint4 *v = (const uint4 *)p;
        m.out[4 * global_thread()] = (float)(v->x ^ v->w);
    }
}

static __global__ void misaligned_store(struct memory m)
{
    char *p = (char *)(m.out + 2 * threadIdx.x) + (m.wrong && threadIdx.x == 2 ? 2 : 0);
    if (blockIdx.x == 0)
        *(float2 *)p = make_float2(1.0f, 2.0f);
}

static __global__ void shift_too_far(struct memory m)
{
    unsigned by = m.wrong ? threadIdx.x : threadIdx.x % 32;
    m.out[global_thread()] = (float)(1u << by);
}

static __global__ void cast_too_large(struct memory m)
{
    float v = m.in[threadIdx.x] + (m.wrong && threadIdx.x == 9 ? 3e9f : 0.0f);
    m.out[global_thread()] = (float)(int)v;
}

static __global__ void trapped(struct memory m)
{
    if (m.wrong && global_thread() == 70)
        __trap();
    m.out[global_thread()] = 1.0f;
}

/* Static and dynamic shared memory together. */
static __global__ void shared_sum(struct memory m)
{
    __shared__ float tile[4096];
    tile[threadIdx.x] = (float)sizeof tile;
    __syncthreads();
    m.out[global_thread()] = tile[THREADS - 1 - threadIdx.x];
}

#define PLANT(kernel)   \
    {                   \
#kernel, kernel \
    }

static const struct {
    const char *name;
    void (*kernel)(struct memory);
} planted[] = {
    PLANT(read_beyond),
    PLANT(write_before),
    PLANT(read_far),
    PLANT(read_freed),
    PLANT(read_host),
    PLANT(read_null),
    PLANT(copy_beyond),
    PLANT(dynamic_beyond),
    PLANT(static_beyond),
    PLANT(other_local),
    PLANT(empty_global),
    PLANT(empty_shared),
    PLANT(empty_next_block),
    PLANT(race_shared),
    PLANT(race_after_read),
    PLANT(race_many_readers),
    PLANT(race_blocks),
    PLANT(race_warp),
    PLANT(race_shuffle),
    PLANT(race_half_warp),
    PLANT(race_atomic),
    PLANT(barrier_two_places),
    PLANT(barrier_not_all),
    PLANT(mask_without_caller),
    PLANT(mask_names_returned),
    PLANT(mask_names_returning),
    PLANT(masks_differ),
    PLANT(operations_differ),
    PLANT(lane_not_in_mask),
    PLANT(odd_width),
    PLANT(misaligned_vector),
    PLANT(misaligned_store),
    PLANT(shift_too_far),
    PLANT(cast_too_large),
    PLANT(trapped),
    PLANT(shared_sum),
};

/* Memory for one launch; m->host is the caller's. */
static bool lend(struct memory *m, float *host)
{
    size_t n = N * sizeof *host;
    float *in = NULL, *empty = NULL, *freed = NULL;
    for (int i = 0; i < N; i++)
        host[i] = (float)i;
    if (cudaMalloc(&in, n) != cudaSuccess || cudaMalloc(&empty, n) != cudaSuccess ||
        cudaMalloc(&freed, n) != cudaSuccess || cudaMalloc(&m->out, n) != cudaSuccess ||
        cudaMemcpy(in, host, n, cudaMemcpyHostToDevice) != cudaSuccess ||
        cudaMemset(freed, 0, n) != cudaSuccess || cudaMemset(m->out, 0, n) != cudaSuccess ||
        cudaFree(freed) != cudaSuccess)
        return false;
    m->in = in;
    m->empty = empty;
    m->freed = freed;
    m->host = host;
    return true;
}

int simt_plant(const char *name, int wrong, const struct simt_shape *shape)
{
    float host[N];
    struct memory m = {};
    if (!lend(&m, host))
        return -1;
    m.wrong = wrong;
    for (const auto &p : planted) {
        if (strcmp(p.name, name) != 0)
            continue;
        if (shape->opt_in) {
            int e = cudaFuncSetAttribute(p.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         (int)shape->shared);
            if (e != cudaSuccess)
                return e;
        }
        cudaLaunchConfig_t c = {};
        c.gridDim = dim3(shape->blocks_x, shape->blocks_y);
        c.blockDim = dim3(shape->threads);
        c.dynamicSmemBytes = shape->shared;
        return cudaLaunchKernelEx(&c, p.kernel, m);
    }
    return -1;
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
