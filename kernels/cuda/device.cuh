/* SPDX-License-Identifier: MIT
 *
 * What all CUDA kernels stand on: launches, eight elements at a time, teams of threads that share a
 * unit. Compiled by nvcc, and by the host's compiler against tests/simt/include.
 *
 * A piece is eight consecutive elements: 16 bytes of BF16 or F16, 32 of F32, which one thread reads
 * and writes with accesses of 16 bytes where the address allows it.
 */
#ifndef QG_DEVICE_CUH
#define QG_DEVICE_CUH

#include <cuda_runtime.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/backend.h"

enum { QG_PIECE = 8, QG_WARP = 32 }; // QG_BLOCK is in backend.h

/* Of kernels that keep pieces: with two blocks to a multiprocessor a thread has 128 registers. Told
 * nothing but the size of a block, the compiler stops at 64 and spills. */
#define QG_BOUNDS __launch_bounds__(QG_BLOCK, 2)

/* Every launch and copy goes here. It can be captured into a graph, which the legacy stream cannot.
 */
static inline cudaStream_t qg_cuda_stream(void)
{
    return cudaStreamPerThread;
}

/* Starts `threads` threads or more in blocks of QG_BLOCK. What goes wrong is kept by the runtime
 * (cudaGetLastError), where the backend asks for it. */
template <class... P, class... A>
static void qg_launch(void (*kernel)(P...), size_t threads, A... args)
{
    cudaLaunchConfig_t c = {};
    c.gridDim = dim3((unsigned)((threads + QG_BLOCK - 1) / QG_BLOCK));
    c.blockDim = dim3(QG_BLOCK);
    c.stream = qg_cuda_stream();
    if (threads)
        (void)cudaLaunchKernelEx(&c, kernel, P(args)...);
}

/* This thread's number in the whole launch. */
static __device__ __forceinline__ size_t qg_thread(void)
{
    return (size_t)blockIdx.x * blockDim.x + threadIdx.x;
}

static inline __host__ __device__ size_t qg_ceil_div(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

static inline __host__ __device__ size_t qg_least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Rows of a table of kernels: bits, or a bound for the depth of its sums. */
template <qg_op_fn *launch> static void qg_on_device(const struct qg_args *a)
{
    qg_cuda_run(launch, a);
}

#define QG_DEVICE_ROW(s, what, o, where, c, t, d, f)                                        \
    {                                                                                       \
        .scheme = s, .backend = where, .variant = "", .op = o, .operand = what, .claim = c, \
        .traits = t, .depth = d, .fn = qg_on_device<f>, .launch = f                         \
    }
#define QG_CUDA_ROW(s, what, o, f) QG_DEVICE_ROW(s, what, o, "cuda", QG_BIT_EXACT, 0, NULL, f)
#define QG_CUDA_BOUNDED(s, what, o, t, d, f) \
    QG_DEVICE_ROW(s, what, o, "cuda", QG_WITHIN_BOUND, t, d, f)
#define QG_CUDA_END    \
    {                  \
        .scheme = NULL \
    }

/* --- pieces ---------------------------------------------------------------------------------- */

/* Up to eight numbers of a row. */
struct qg_piece {
    float v[QG_PIECE];
};

static __device__ __forceinline__ bool qg_is_aligned(const void *p, size_t bytes)
{
    return (uintptr_t)p % bytes == 0;
}

static __device__ __forceinline__ float qg_half_value(enum qg_dtype t, uint32_t bits)
{
    if (t == QG_BF16)
        return qg_f32_from_bits(bits << 16);
    qg_fp16 h = {(uint16_t)bits};
    return qg_fp16_decode(h);
}

static __device__ __forceinline__ uint32_t qg_half_bits(enum qg_dtype t, float x)
{
    return t == QG_BF16 ? qg_bf16_encode(x).v : qg_fp16_encode(x).v;
}

/* qg_round, qg_get and qg_put where the dtype is known to be F32, BF16 or F16: a tenth of the code.
 */
static __device__ __forceinline__ float qg_round_float(enum qg_dtype t, float x)
{
    return t == QG_F32 ? x : qg_half_value(t, qg_half_bits(t, x));
}

static __device__ __forceinline__ float qg_get_float(const struct qg_tensor *t, size_t i)
{
    return t->dtype == QG_F32 ? ((const float *)t->data)[i]
                              : qg_half_value(t->dtype, ((const uint16_t *)t->data)[i]);
}

static __device__ __forceinline__ void qg_put_float(const struct qg_tensor *t, size_t i, float x)
{
    if (t->dtype == QG_F32)
        ((float *)t->data)[i] = x;
    else
        ((uint16_t *)t->data)[i] = (uint16_t)qg_half_bits(t->dtype, x);
}

/* A piece as it is in memory: of BF16 and F16 `low` alone. */
struct qg_words {
    uint4 low, high;
};

static __device__ __forceinline__ struct qg_words qg_load_words(const struct qg_tensor *t,
                                                                size_t at, size_t n)
{
    const bool wide = t->dtype == QG_F32;
    const char *from = (const char *)t->data + at * qg_dtype_bytes(t->dtype);
    if (n == QG_PIECE && qg_is_aligned(from, sizeof(uint4)))
        return {((const uint4 *)from)[0], wide ? ((const uint4 *)from)[1] : uint4{}};
    uint32_t v[QG_PIECE];
    for (unsigned i = 0; i < QG_PIECE; i++)
        v[i] = i >= n ? 0 : wide ? ((const uint32_t *)from)[i] : ((const uint16_t *)from)[i];
    if (wide)
        return {make_uint4(v[0], v[1], v[2], v[3]), make_uint4(v[4], v[5], v[6], v[7])};
    return {make_uint4(v[0] | v[1] << 16, v[2] | v[3] << 16, v[4] | v[5] << 16, v[6] | v[7] << 16),
            uint4{}};
}

static __device__ __forceinline__ struct qg_piece qg_piece_of(enum qg_dtype t, struct qg_words w)
{
    const uint32_t v[] = {w.low.x,  w.low.y,  w.low.z,  w.low.w,
                          w.high.x, w.high.y, w.high.z, w.high.w};
    struct qg_piece p;
    for (int i = 0; i < QG_PIECE; i++)
        p.v[i] = t == QG_F32 ? qg_f32_from_bits(v[i])
                             : qg_half_value(t, v[i / 2] >> 16 * (i % 2) & 0xffffu);
    return p;
}

/* Elements at .. at+n of t (F32, BF16 or F16), n at most 8; zeros behind them. */
static __device__ __forceinline__ struct qg_piece qg_load_piece(const struct qg_tensor *t,
                                                                size_t at, size_t n)
{
    return qg_piece_of(t->dtype, qg_load_words(t, at, n));
}

/* The reverse, rounding once. */
static __device__ __forceinline__ void qg_store_piece(const struct qg_tensor *t, size_t at,
                                                      size_t n, const struct qg_piece *p)
{
    const bool wide = t->dtype == QG_F32;
    char *to = (char *)t->data + at * qg_dtype_bytes(t->dtype);
    uint32_t bits[QG_PIECE];
    for (int i = 0; i < QG_PIECE; i++)
        bits[i] = wide ? qg_f32_bits(p->v[i]) : qg_half_bits(t->dtype, p->v[i]);
    if (n < QG_PIECE || !qg_is_aligned(to, sizeof(uint4))) {
        for (unsigned i = 0; i < QG_PIECE; i++) // constant bounds keep pieces in registers
            if (i < n && wide)
                ((uint32_t *)to)[i] = bits[i];
            else if (i < n)
                ((uint16_t *)to)[i] = (uint16_t)bits[i];
        return;
    }
    if (wide) {
        ((uint4 *)to)[0] = make_uint4(bits[0], bits[1], bits[2], bits[3]);
        ((uint4 *)to)[1] = make_uint4(bits[4], bits[5], bits[6], bits[7]);
    } else {
        ((uint4 *)to)[0] = make_uint4(bits[0] | bits[1] << 16, bits[2] | bits[3] << 16,
                                      bits[4] | bits[5] << 16, bits[6] | bits[7] << 16);
    }
}

/* Codes of a piece, one to a byte; of 4-bit codes the low four bits count. */
struct qg_codes {
    uint8_t c[QG_PIECE];
};

/* Bytes at .. at+n of `to`. */
static __device__ __forceinline__ void qg_store_bytes(void *to, size_t at, size_t n,
                                                      const struct qg_codes *q)
{
    uint8_t *bytes = (uint8_t *)to + at;
    if (n == QG_PIECE && qg_is_aligned(bytes, sizeof(uint2))) {
        uint2 w;
        memcpy(&w, q->c, sizeof w);
        *(uint2 *)bytes = w;
        return;
    }
    for (unsigned i = 0; i < QG_PIECE; i++)
        if (i < n)
            bytes[i] = q->c[i];
}

static __device__ __forceinline__ struct qg_codes qg_load_bytes(const void *from, size_t at,
                                                                size_t n)
{
    const uint8_t *bytes = (const uint8_t *)from + at;
    struct qg_codes q;
    if (n == QG_PIECE && qg_is_aligned(bytes, sizeof(uint2))) {
        const uint2 w = *(const uint2 *)bytes;
        memcpy(q.c, &w, sizeof q.c);
        return q;
    }
    for (unsigned i = 0; i < QG_PIECE; i++)
        q.c[i] = i < n ? bytes[i] : 0;
    return q;
}

/* Nibbles at .. at+n of a row of them, the even element low, or high; at and n are even. */
static __device__ __forceinline__ void qg_store_nibbles(void *row, size_t at, size_t n,
                                                        const struct qg_codes *q,
                                                        bool even_high = false)
{
    uint8_t *bytes = (uint8_t *)row + at / 2, b[QG_PIECE / 2];
    for (int i = 0; i < QG_PIECE / 2; i++)
        b[i] = (uint8_t)((q->c[2 * i + even_high] & 15) | (q->c[2 * i + !even_high] & 15) << 4);
    if (n == QG_PIECE && qg_is_aligned(bytes, sizeof(uint32_t))) {
        memcpy(__builtin_assume_aligned(bytes, 4), b, sizeof b);
        return;
    }
    for (unsigned i = 0; i < QG_PIECE / 2; i++)
        if (i < n / 2)
            bytes[i] = b[i];
}

/* Nibbles at .. at+n as 0 .. 15, for any at and n. */
static __device__ __forceinline__ struct qg_codes qg_load_nibbles(const void *row, size_t at,
                                                                  size_t n, bool even_high = false)
{
    const uint8_t *bytes = (const uint8_t *)row + at / 2;
    struct qg_codes q;
    uint32_t w;
    if (n == QG_PIECE && at % 2 == 0 && qg_is_aligned(bytes, sizeof w)) {
        memcpy(&w, __builtin_assume_aligned(bytes, 4), sizeof w);
        for (int i = 0; i < QG_PIECE; i++)
            q.c[i] = (uint8_t)(w >> 4 * (i ^ even_high) & 15u);
        return q;
    }
    for (unsigned i = 0; i < QG_PIECE; i++)
        q.c[i] = i >= n
                     ? 0
                     : ((const uint8_t *)row)[(at + i) / 2] >> 4 * ((at + i + even_high) % 2) & 15;
    return q;
}

/* --- teams ----------------------------------------------------------------------------------- */

/* A value of any type of whole words from the lane whose number differs in `mask`. */
template <class T> static __device__ __forceinline__ T qg_shuffle_xor(T value, int mask)
{
    static_assert(sizeof(T) % 4 == 0, "whole words");
    uint32_t w[sizeof(T) / 4];
    memcpy(w, &value, sizeof w);
    for (unsigned i = 0; i < sizeof(T) / 4; i++)
        w[i] = __shfl_xor_sync(0xffffffffu, w[i], mask);
    memcpy(&value, w, sizeof w);
    return value;
}

/* Joins the values of `team` neighbouring threads, a power of two up to QG_BLOCK, so that each of
 * them gets the result; all threads of the block call it. The order of joins is that of a binary
 * tree over the threads' numbers: the same every time. */
template <class T> static __device__ T qg_team_join(T value, unsigned team)
{
    for (unsigned mask = 1; mask < team && mask < QG_WARP; mask *= 2)
        value = T::join(value, qg_shuffle_xor(value, (int)mask));
    if (team <= QG_WARP)
        return value;
    __shared__ T of_warp[(unsigned)QG_BLOCK / QG_WARP];
    const unsigned warp = threadIdx.x / QG_WARP, warps = team / QG_WARP;
    __syncthreads(); // of an earlier call all have read
    if (threadIdx.x % QG_WARP == 0)
        of_warp[warp] = value;
    __syncthreads();
    value = of_warp[threadIdx.x % warps + warp / warps * warps];
    for (unsigned mask = 1; mask < warps; mask *= 2)
        value = T::join(value, qg_shuffle_xor(value, (int)mask));
    return value;
}

/* What groups and rows are measured by. Their joins give the same bits in any order. */

/* Smallest and largest; both NaN when one is (torch.amin, torch.amax). -0 lies below +0. */
struct qg_least_most {
    float min, max;
    static __device__ __forceinline__ struct qg_least_most none(void)
    {
        return {INFINITY, -INFINITY};
    }
    static __device__ __forceinline__ float least(float a, float b)
    {
        return a == b ? qg_f32_from_bits(qg_f32_bits(a) | qg_f32_bits(b)) : qg_min(a, b);
    }
    static __device__ __forceinline__ float most(float a, float b)
    {
        return a == b ? qg_f32_from_bits(qg_f32_bits(a) & qg_f32_bits(b)) : qg_max(a, b);
    }
    static __device__ __forceinline__ struct qg_least_most join(struct qg_least_most a,
                                                                struct qg_least_most b)
    {
        return {least(a.min, b.min), most(a.max, b.max)};
    }
    static __device__ __forceinline__ struct qg_least_most of(float x)
    {
        return {x, x};
    }
};

/* Largest magnitude; NaN when one is. */
struct qg_amax {
    float amax;
    static __device__ __forceinline__ struct qg_amax none(void)
    {
        return {0.0f};
    }
    static __device__ __forceinline__ struct qg_amax join(struct qg_amax a, struct qg_amax b)
    {
        return {qg_max(a.amax, b.amax)};
    }
    static __device__ __forceinline__ struct qg_amax of(float x)
    {
        return {qg_abs(x)};
    }
};

#endif
