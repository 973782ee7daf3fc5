/* SPDX-License-Identifier: MIT
 *
 * A stand-in for the CUDA runtime, so that kernels/cuda compiles unmodified as host C++20 and runs
 * on the CPU: see tests/simt/README.md. Names, signatures and layouts are those of CUDA 13; what a
 * function does and when it fails is in NVIDIA's documentation of the function of that name, and
 * only differences are said here. __CUDACC__ and __CUDA_ARCH__ stay undefined: schemes/num takes
 * its host text.
 */
#ifndef QG_SIMT_CUDA_RUNTIME_H
#define QG_SIMT_CUDA_RUNTIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utility>

#define CUDART_VERSION 13000

/* --- qualifiers ------------------------------------------------------------------------------ */

/* Shared memory is thread_local: all fibers run on one thread of the host, a local so declared is
 * static, a template may hold it, and `extern __shared__` is right at any scope. */
#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__      thread_local
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__    __attribute__((noinline))
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__

#define SIMT_INLINE static inline __attribute__((always_inline, unused))

/* --- vector types ---------------------------------------------------------------------------- */

#define SIMT_VECTORS(type, name, align2, align4)                       \
    struct name##1                                                     \
    {                                                                  \
        type x;                                                        \
    };                                                                 \
    struct __align__(align2) name##2                                   \
    {                                                                  \
        type x, y;                                                     \
    };                                                                 \
    struct name##3                                                     \
    {                                                                  \
        type x, y, z;                                                  \
    };                                                                 \
    struct __align__(align4) name##4                                   \
    {                                                                  \
        type x, y, z, w;                                               \
    };                                                                 \
    SIMT_INLINE name##1 make_##name##1(type x)                         \
    {                                                                  \
        return {x};                                                    \
    }                                                                  \
    SIMT_INLINE name##2 make_##name##2(type x, type y)                 \
    {                                                                  \
        return {x, y};                                                 \
    }                                                                  \
    SIMT_INLINE name##3 make_##name##3(type x, type y, type z)         \
    {                                                                  \
        return {x, y, z};                                              \
    }                                                                  \
    SIMT_INLINE name##4 make_##name##4(type x, type y, type z, type w) \
    {                                                                  \
        return {x, y, z, w};                                           \
    }

SIMT_VECTORS(signed char, char, 2, 4)
SIMT_VECTORS(unsigned char, uchar, 2, 4)
SIMT_VECTORS(short, short, 4, 8)
SIMT_VECTORS(unsigned short, ushort, 4, 8)
SIMT_VECTORS(int, int, 8, 16)
SIMT_VECTORS(unsigned, uint, 8, 16)
SIMT_VECTORS(long long, longlong, 16, 16)
SIMT_VECTORS(unsigned long long, ulonglong, 16, 16)
SIMT_VECTORS(float, float, 8, 16)
SIMT_VECTORS(double, double, 16, 16)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz)
    {
    }
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z)
    {
    }
};

/* Of the thread that runs. Kernels only read them. */
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
static const int warpSize = 32;

/* --- barriers and the warp ------------------------------------------------------------------- */

void __syncthreads(void);
int __syncthreads_or(int p);
int __syncthreads_and(int p);
int __syncthreads_count(int p);
void __syncwarp(unsigned mask = 0xffffffffu);
unsigned __activemask(void); /* every lane that has not returned: there is no divergence to see */

SIMT_INLINE void __threadfence(void)
{
}
SIMT_INLINE void __threadfence_block(void)
{
}
SIMT_INLINE void __threadfence_system(void)
{
}
[[noreturn]] void __trap(void);

enum simt_op {
    SIMT_SYNC,
    SIMT_SHUFFLE,
    SIMT_SHUFFLE_UP,
    SIMT_SHUFFLE_DOWN,
    SIMT_SHUFFLE_XOR,
    SIMT_BALLOT,
    SIMT_ANY,
    SIMT_ALL,
    SIMT_MATCH_ANY,
    SIMT_MATCH_ALL,
    SIMT_ADD,
    SIMT_MIN,
    SIMT_MIN_SIGNED,
    SIMT_MAX,
    SIMT_MAX_SIGNED,
    SIMT_AND,
    SIMT_OR,
    SIMT_XOR,
};

/* Meets the lanes of mask in one operation and returns this lane's result. lane: the shuffle's
 * operand (source lane, delta or lane mask). */
uint64_t simt_warp(enum simt_op op, unsigned mask, uint64_t value, int lane, int width);

template <typename T>
SIMT_INLINE T simt_shuffle(enum simt_op op, unsigned mask, T value, int lane, int width)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 32 or 64 bits");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = simt_warp(op, mask, bits, lane, width);
    memcpy(&value, &bits, sizeof value);
    return value;
}
#define SIMT_SHUFFLES(T)                                                                   \
    SIMT_INLINE T __shfl_sync(unsigned mask, T value, int lane, int width = 32)            \
    {                                                                                      \
        return simt_shuffle(SIMT_SHUFFLE, mask, value, lane, width);                       \
    }                                                                                      \
    SIMT_INLINE T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32)   \
    {                                                                                      \
        return simt_shuffle(SIMT_SHUFFLE_UP, mask, value, (int)delta, width);              \
    }                                                                                      \
    SIMT_INLINE T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) \
    {                                                                                      \
        return simt_shuffle(SIMT_SHUFFLE_DOWN, mask, value, (int)delta, width);            \
    }                                                                                      \
    SIMT_INLINE T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32)   \
    {                                                                                      \
        return simt_shuffle(SIMT_SHUFFLE_XOR, mask, value, lane_mask, width);              \
    }
SIMT_SHUFFLES(int)
SIMT_SHUFFLES(unsigned)
SIMT_SHUFFLES(long)
SIMT_SHUFFLES(unsigned long)
SIMT_SHUFFLES(long long)
SIMT_SHUFFLES(unsigned long long)
SIMT_SHUFFLES(float)
SIMT_SHUFFLES(double)

SIMT_INLINE unsigned __ballot_sync(unsigned mask, int p)
{
    return (unsigned)simt_warp(SIMT_BALLOT, mask, p != 0, 0, 32);
}
SIMT_INLINE int __any_sync(unsigned mask, int p)
{
    return (int)simt_warp(SIMT_ANY, mask, p != 0, 0, 32);
}
SIMT_INLINE int __all_sync(unsigned mask, int p)
{
    return (int)simt_warp(SIMT_ALL, mask, p != 0, 0, 32);
}
template <typename T> SIMT_INLINE unsigned __match_any_sync(unsigned mask, T value)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "matches compare 32 or 64 bits");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return (unsigned)simt_warp(SIMT_MATCH_ANY, mask, bits, 0, 32);
}
template <typename T> SIMT_INLINE unsigned __match_all_sync(unsigned mask, T value, int *all)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "matches compare 32 or 64 bits");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    unsigned same = (unsigned)simt_warp(SIMT_MATCH_ALL, mask, bits, 0, 32);
    *all = same != 0;
    return same;
}

#define SIMT_REDUCE(T, name, op)                                         \
    SIMT_INLINE T __reduce_##name##_sync(unsigned mask, T value)         \
    {                                                                    \
        return (T)simt_warp(op, mask, (uint64_t)(unsigned)value, 0, 32); \
    }
SIMT_REDUCE(unsigned, add, SIMT_ADD)
SIMT_REDUCE(unsigned, min, SIMT_MIN)
SIMT_REDUCE(unsigned, max, SIMT_MAX)
SIMT_REDUCE(unsigned, and, SIMT_AND)
SIMT_REDUCE(unsigned, or, SIMT_OR)
SIMT_REDUCE(unsigned, xor, SIMT_XOR)
SIMT_REDUCE(int, add, SIMT_ADD)
SIMT_REDUCE(int, min, SIMT_MIN_SIGNED)
SIMT_REDUCE(int, max, SIMT_MAX_SIGNED)

/* --- atomics (all with relaxed order, as CUDA's) --------------------------------------------- */

/* A float added to global memory loses its subnormals, as with red.add.f32; in shared memory it
 * does not. */
float atomicAdd(float *p, float v);
double atomicAdd(double *p, double v);
float atomicExch(float *p, float v);
#define SIMT_ATOMICS(T)      \
    T atomicAdd(T *p, T v);  \
    T atomicMin(T *p, T v);  \
    T atomicMax(T *p, T v);  \
    T atomicAnd(T *p, T v);  \
    T atomicOr(T *p, T v);   \
    T atomicXor(T *p, T v);  \
    T atomicExch(T *p, T v); \
    T atomicCAS(T *p, T was, T v);
SIMT_ATOMICS(int)
SIMT_ATOMICS(unsigned)
SIMT_ATOMICS(unsigned long long)
int atomicSub(int *p, int v);
unsigned atomicSub(unsigned *p, unsigned v);
unsigned atomicInc(unsigned *p, unsigned top);
unsigned atomicDec(unsigned *p, unsigned top);

/* --- loads and stores with a cache hint ------------------------------------------------------ */

#define SIMT_LOAD(name)                                  \
    template <typename T> SIMT_INLINE T name(const T *p) \
    {                                                    \
        return *p;                                       \
    }
#define SIMT_STORE(name)                                   \
    template <typename T> SIMT_INLINE void name(T *p, T v) \
    {                                                      \
        *p = v;                                            \
    }
SIMT_LOAD(__ldg)
SIMT_LOAD(__ldca)
SIMT_LOAD(__ldcg)
SIMT_LOAD(__ldcs)
SIMT_LOAD(__ldlu)
SIMT_LOAD(__ldcv)
SIMT_STORE(__stwb)
SIMT_STORE(__stcg)
SIMT_STORE(__stcs)
SIMT_STORE(__stwt)

/* --- bits ------------------------------------------------------------------------------------ */

#define SIMT_COUNT(T, name, value) \
    SIMT_INLINE int name(T v)      \
    {                              \
        return value;              \
    }
SIMT_COUNT(unsigned, __popc, __builtin_popcount(v))
SIMT_COUNT(unsigned long long, __popcll, __builtin_popcountll(v))
SIMT_COUNT(int, __clz, v ? __builtin_clz((unsigned)v) : 32)
SIMT_COUNT(long long, __clzll, v ? __builtin_clzll((unsigned long long)v) : 64)
SIMT_COUNT(int, __ffs, __builtin_ffs(v))
SIMT_COUNT(long long, __ffsll, __builtin_ffsll(v))
SIMT_INLINE unsigned __brev(unsigned u)
{
    unsigned r = 0;
    for (int i = 0; i < 32; i++)
        r |= (u >> i & 1) << (31 - i);
    return r;
}
SIMT_INLINE unsigned long long __brevll(unsigned long long u)
{
    return (unsigned long long)__brev((unsigned)u) << 32 | __brev((unsigned)(u >> 32));
}
SIMT_INLINE unsigned __byte_perm(unsigned x, unsigned y, unsigned s)
{
    uint64_t bytes = (uint64_t)y << 32 | x;
    unsigned r = 0;
    for (int i = 0; i < 4; i++)
        r |= (unsigned)(bytes >> 8 * (s >> 4 * i & 7) & 0xff) << 8 * i;
    return r;
}
SIMT_INLINE unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned shift)
{
    return (unsigned)((((uint64_t)hi << 32 | lo) << (shift & 31)) >> 32);
}
SIMT_INLINE unsigned __funnelshift_lc(unsigned lo, unsigned hi, unsigned shift)
{
    return (unsigned)((((uint64_t)hi << 32 | lo) << (shift < 32 ? shift : 32)) >> 32);
}
SIMT_INLINE unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned shift)
{
    return (unsigned)(((uint64_t)hi << 32 | lo) >> (shift & 31));
}
SIMT_INLINE unsigned __funnelshift_rc(unsigned lo, unsigned hi, unsigned shift)
{
    return (unsigned)(((uint64_t)hi << 32 | lo) >> (shift < 32 ? shift : 32));
}
SIMT_INLINE int __mulhi(int a, int b)
{
    return (int)((long long)a * b >> 32);
}
SIMT_INLINE unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((unsigned long long)a * b >> 32);
}
SIMT_INLINE unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    __extension__ typedef unsigned __int128 wide;
    return (unsigned long long)((wide)a * b >> 64);
}
SIMT_INLINE unsigned __usad(unsigned a, unsigned b, unsigned sum)
{
    return sum + (a > b ? a - b : b - a);
}

/* Four products of 8-bit numbers and an addend, modulo 2^32. */
SIMT_INLINE int __dp4a(int a, int b, int c)
{
    unsigned sum = (unsigned)c;
    for (int i = 0; i < 32; i += 8)
        sum += (unsigned)((int8_t)(a >> i) * (int8_t)(b >> i));
    return (int)sum;
}
SIMT_INLINE unsigned __dp4a(unsigned a, unsigned b, unsigned c)
{
    for (int i = 0; i < 32; i += 8)
        c += (a >> i & 0xff) * (b >> i & 0xff);
    return c;
}

/* The bits of a number as another type. */
#define SIMT_AS(From, To, name)   \
    SIMT_INLINE To name(From v)   \
    {                             \
        To r;                     \
        memcpy(&r, &v, sizeof r); \
        return r;                 \
    }
SIMT_AS(float, unsigned, __float_as_uint)
SIMT_AS(float, int, __float_as_int)
SIMT_AS(unsigned, float, __uint_as_float)
SIMT_AS(int, float, __int_as_float)
SIMT_AS(double, long long, __double_as_longlong)
SIMT_AS(long long, double, __longlong_as_double)

/* --- arithmetic ------------------------------------------------------------------------------ */

#define SIMT_BINARY(T, name, value) \
    SIMT_INLINE T name(T a, T b)    \
    {                               \
        return value;               \
    }
#define SIMT_UNARY(T, name, value) \
    SIMT_INLINE T name(T a)        \
    {                              \
        return value;              \
    }
SIMT_BINARY(float, __fadd_rn, a + b)
SIMT_BINARY(float, __fsub_rn, a - b)
SIMT_BINARY(float, __fmul_rn, a *b)
SIMT_BINARY(float, __fdiv_rn, a / b)
SIMT_UNARY(float, __frcp_rn, 1.0f / a)
SIMT_UNARY(float, __fsqrt_rn, sqrtf(a))
SIMT_UNARY(float, __saturatef, a > 0.0f ? a < 1.0f ? a : 1.0f : 0.0f) // of a NaN: 0
SIMT_BINARY(double, __dadd_rn, a + b)
SIMT_BINARY(double, __dsub_rn, a - b)
SIMT_BINARY(double, __dmul_rn, a *b)
SIMT_BINARY(double, __ddiv_rn, a / b)
SIMT_UNARY(double, __drcp_rn, 1.0 / a)
SIMT_UNARY(double, __dsqrt_rn, sqrt(a))
SIMT_INLINE float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
SIMT_INLINE double __fma_rn(double a, double b, double c)
{
    return fma(a, b, c);
}

/* To an integer: limited to its range, a NaN gives 0 (of a 64-bit integer: only the sign bit). */
#define SIMT_TO_INTEGER(From, from, To, to, least, beyond, nan)                                    \
    SIMT_INLINE To __##from##2##to##_rz(From v)                                                    \
    {                                                                                              \
        if (v != v)                                                                                \
            return nan;                                                                            \
        return v <= (From)(least) ? (To)(least) : v >= (From)(beyond) ? (To) ~(To)(least) : (To)v; \
    }                                                                                              \
    SIMT_INLINE To __##from##2##to##_rn(From v)                                                    \
    {                                                                                              \
        return __##from##2##to##_rz(v + 0 == v ? (From)rint((double)v) : v);                       \
    }                                                                                              \
    SIMT_INLINE To __##from##2##to##_rd(From v)                                                    \
    {                                                                                              \
        return __##from##2##to##_rz((From)floor((double)v));                                       \
    }                                                                                              \
    SIMT_INLINE To __##from##2##to##_ru(From v)                                                    \
    {                                                                                              \
        return __##from##2##to##_rz((From)ceil((double)v));                                        \
    }
SIMT_TO_INTEGER(float, float, int, int, INT32_MIN, 0x1p31, 0)
SIMT_TO_INTEGER(float, float, unsigned, uint, 0, 0x1p32, 0)
SIMT_TO_INTEGER(float, float, long long, ll, INT64_MIN, 0x1p63, INT64_MIN)
SIMT_TO_INTEGER(float, float, unsigned long long, ull, 0, 0x1p64, 1ull << 63)
SIMT_TO_INTEGER(double, double, int, int, INT32_MIN, 0x1p31, 0)
SIMT_TO_INTEGER(double, double, unsigned, uint, 0, 0x1p32, 0)
SIMT_TO_INTEGER(double, double, long long, ll, INT64_MIN, 0x1p63, INT64_MIN)
SIMT_TO_INTEGER(double, double, unsigned long long, ull, 0, 0x1p64, 1ull << 63)

#define SIMT_CAST(From, To, name) \
    SIMT_INLINE To name(From v)   \
    {                             \
        return (To)v;             \
    }
SIMT_CAST(int, float, __int2float_rn)
SIMT_CAST(unsigned, float, __uint2float_rn)
SIMT_CAST(long long, float, __ll2float_rn)
SIMT_CAST(unsigned long long, float, __ull2float_rn)
SIMT_CAST(int, double, __int2double_rn)
SIMT_CAST(unsigned, double, __uint2double_rn)
SIMT_CAST(long long, double, __ll2double_rn)
SIMT_CAST(unsigned long long, double, __ull2double_rn)
SIMT_CAST(double, float, __double2float_rn)

#define SIMT_MIN_MAX(T)                \
    SIMT_BINARY(T, min, a < b ? a : b) \
    SIMT_BINARY(T, max, a > b ? a : b)
SIMT_MIN_MAX(int)
SIMT_MIN_MAX(unsigned)
SIMT_MIN_MAX(long)
SIMT_MIN_MAX(unsigned long)
SIMT_MIN_MAX(long long)
SIMT_MIN_MAX(unsigned long long)
SIMT_BINARY(float, min, fminf(a, b))
SIMT_BINARY(float, max, fmaxf(a, b))
SIMT_BINARY(double, min, fmin(a, b))
SIMT_BINARY(double, max, fmax(a, b))

/* --- the runtime ----------------------------------------------------------------------------- */

#define SIMT_ERRORS(X)                                                               \
    X(cudaSuccess, 0, "no error")                                                    \
    X(cudaErrorInvalidValue, 1, "invalid argument")                                  \
    X(cudaErrorMemoryAllocation, 2, "out of memory")                                 \
    X(cudaErrorInitializationError, 3, "initialization error")                       \
    X(cudaErrorInvalidConfiguration, 9, "invalid configuration argument")            \
    X(cudaErrorInvalidMemcpyDirection, 21, "invalid copy direction for memcpy")      \
    X(cudaErrorInsufficientDriver, 35,                                               \
      "CUDA driver version is insufficient for CUDA runtime version")                \
    X(cudaErrorInvalidDeviceFunction, 98, "invalid device function")                 \
    X(cudaErrorNoDevice, 100, "no CUDA-capable device is detected")                  \
    X(cudaErrorInvalidDevice, 101, "invalid device ordinal")                         \
    X(cudaErrorNoKernelImageForDevice, 209,                                          \
      "no kernel image is available for execution on the device")                    \
    X(cudaErrorInvalidResourceHandle, 400, "invalid resource handle")                \
    X(cudaErrorNotReady, 600, "device not ready")                                    \
    X(cudaErrorIllegalAddress, 700, "an illegal memory access was encountered")      \
    X(cudaErrorLaunchOutOfResources, 701, "too many resources requested for launch") \
    X(cudaErrorLaunchTimeout, 702, "the launch timed out and was terminated")        \
    X(cudaErrorMisalignedAddress, 716, "misaligned address")                         \
    X(cudaErrorLaunchFailure, 719, "unspecified launch failure")                     \
    X(cudaErrorNotSupported, 801, "operation not supported")                         \
    X(cudaErrorIllegalState, 401, "the operation cannot be performed in this state") \
    X(cudaErrorStreamCaptureUnsupported, 900, "operation not permitted in capture")  \
    X(cudaErrorUnknown, 999, "unknown error")

#define SIMT_ERROR(name, value, text) name = value,
enum cudaError { SIMT_ERRORS(SIMT_ERROR) };
typedef enum cudaError cudaError_t;

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
typedef struct CUgraph_st *cudaGraph_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;
enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal = 0,
    cudaStreamCaptureModeThreadLocal = 1,
    cudaStreamCaptureModeRelaxed = 2
};
#define cudaStreamLegacy    ((cudaStream_t)1)
#define cudaStreamPerThread ((cudaStream_t)2)

enum cudaMemcpyKind {
    cudaMemcpyHostToHost = 0,
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3,
    cudaMemcpyDefault = 4
};

enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
enum { cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };

enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9
};

struct cudaFuncAttributes {
    size_t sharedSizeBytes, constSizeBytes, localSizeBytes;
    int maxThreadsPerBlock, numRegs, ptxVersion, binaryVersion, cacheModeCA;
    int maxDynamicSharedSizeBytes, preferredShmemCarveout;
};

enum cudaComputeMode {
    cudaComputeModeDefault = 0,
    cudaComputeModeProhibited = 2,
    cudaComputeModeExclusiveProcess = 3
};

enum cudaDeviceAttr {
    cudaDevAttrMaxThreadsPerBlock = 1,
    cudaDevAttrMaxBlockDimX = 2,
    cudaDevAttrMaxBlockDimY = 3,
    cudaDevAttrMaxBlockDimZ = 4,
    cudaDevAttrMaxGridDimX = 5,
    cudaDevAttrMaxGridDimY = 6,
    cudaDevAttrMaxGridDimZ = 7,
    cudaDevAttrMaxSharedMemoryPerBlock = 8,
    cudaDevAttrWarpSize = 10,
    cudaDevAttrMaxRegistersPerBlock = 12,
    cudaDevAttrClockRate = 13,
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeMode = 20,
    cudaDevAttrMemoryClockRate = 36,
    cudaDevAttrGlobalMemoryBusWidth = 37,
    cudaDevAttrL2CacheSize = 38,
    cudaDevAttrMaxThreadsPerMultiProcessor = 39,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};

/* The members that a program of this project may want; the real structure has more. */
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerMultiprocessor, sharedMemPerBlockOptin;
    int regsPerBlock, warpSize, maxThreadsPerBlock, maxThreadsDim[3], maxGridSize[3];
    int major, minor, multiProcessorCount, memoryBusWidth, l2CacheSize;
    int maxThreadsPerMultiProcessor, regsPerMultiprocessor;
};

enum cudaLaunchAttributeID { cudaLaunchAttributeIgnore = 0, cudaLaunchAttributeCooperative = 2 };
struct cudaLaunchAttribute {
    enum cudaLaunchAttributeID id;
    union {
        char pad[64];
        int cooperative;
    } val;
};

/* attrs: only cudaLaunchAttributeIgnore; any other is cudaErrorNotSupported. */
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    struct cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};

/* Everything is done when a call returns: streams order nothing and "async" is a name. A launch
 * itself returns the error of the kernel; it is sticky, as on the device. */
extern "C" {
cudaError_t cudaMalloc(void **p, size_t n);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocAsync(void **p, size_t n, cudaStream_t s);
cudaError_t cudaFreeAsync(void *p, cudaStream_t s);
cudaError_t cudaMallocHost(void **p, size_t n);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpy(void *to, const void *from, size_t n, enum cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind kind,
                            cudaStream_t s = 0);
cudaError_t cudaMemset(void *p, int value, size_t n);
cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t s = 0);
cudaError_t cudaMemGetInfo(size_t *available, size_t *total);

cudaError_t cudaStreamCreate(cudaStream_t *s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamQuery(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags = 0);
cudaError_t cudaEventCreate(cudaEvent_t *e);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s = 0);
enum { cudaEventRecordDefault = 0, cudaEventRecordExternal = 1 };
cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned flags);
cudaError_t cudaEventQuery(cudaEvent_t e);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end);

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                 unsigned long long flags = 0);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device);
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr which, int device);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaDeviceReset(void);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
const char *cudaGetErrorString(cudaError_t e);
const char *cudaGetErrorName(cudaError_t e);

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *kernel);
cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute which, int value);
}

template <typename T> SIMT_INLINE cudaError_t cudaMalloc(T **p, size_t n)
{
    return cudaMalloc((void **)p, n);
}
template <typename T> SIMT_INLINE cudaError_t cudaMallocAsync(T **p, size_t n, cudaStream_t s)
{
    return cudaMallocAsync((void **)p, n, s);
}
template <typename T> SIMT_INLINE cudaError_t cudaMallocHost(T **p, size_t n)
{
    return cudaMallocHost((void **)p, n);
}
template <typename... P>
SIMT_INLINE cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, void (*kernel)(P...))
{
    return cudaFuncGetAttributes(a, (const void *)kernel);
}
template <typename... P>
SIMT_INLINE cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), enum cudaFuncAttribute which,
                                             int value)
{
    return cudaFuncSetAttribute((const void *)kernel, which, value);
}

/* --- copies by the compiler --------------------------------------------------------------------
 */

/* A copy or fill in a kernel is seen by the finder, which the compiler asks for: as loads and
 * stores where it is one of a register, else as a call. */
#if defined __SANITIZE_THREAD__
#define SIMT_SEES_ACCESSES 1
#elif defined __has_feature
#define SIMT_SEES_ACCESSES __has_feature(thread_sanitizer)
#else
#define SIMT_SEES_ACCESSES 0
#endif
#if SIMT_SEES_ACCESSES
extern "C" {
void *__tsan_memcpy(void *to, const void *from, size_t n);
void *__tsan_memmove(void *to, const void *from, size_t n);
void *__tsan_memset(void *p, int value, size_t n);
}

SIMT_INLINE bool simt_is_word(size_t n)
{
    return __builtin_constant_p(n) && n <= 16 && (n & (n - 1)) == 0;
}
SIMT_INLINE void *simt_memcpy(void *to, const void *from, size_t n)
{
    return simt_is_word(n) ? __builtin_memcpy(to, from, n) : __tsan_memcpy(to, from, n);
}
SIMT_INLINE void *simt_memmove(void *to, const void *from, size_t n)
{
    return __tsan_memmove(to, from, n);
}
SIMT_INLINE void *simt_memset(void *p, int value, size_t n)
{
    return simt_is_word(n) ? __builtin_memset(p, value, n) : __tsan_memset(p, value, n);
}
#define memcpy(...)  simt_memcpy(__VA_ARGS__)
#define memmove(...) simt_memmove(__VA_ARGS__)
#define memset(...)  simt_memset(__VA_ARGS__)
#endif

/* --- launches -------------------------------------------------------------------------------- */

/* Runs thread(context) once per thread of the grid. kernel: for its name and attributes. */
cudaError_t simt_launch(const cudaLaunchConfig_t *c, const void *kernel, void (*thread)(void *),
                        void *context);

/* While a capture is open, a launch is kept with a copy of its context. */
bool simt_is_capturing(void);
cudaError_t simt_keep_launch(const cudaLaunchConfig_t *c, const void *kernel,
                             void (*thread)(void *), const void *context, size_t size);

template <typename F> __attribute__((no_sanitize("thread"))) void simt_thread(void *f)
{
    (*(F *)f)();
}

template <typename... P, typename... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(P...), A &&...args)
{
    return [&](P... p) {
        if (simt_is_capturing()) {
            auto kept = [=]() __attribute__((no_sanitize("thread"), always_inline))
            {
                kernel(p...);
            };
            return simt_keep_launch(config, (const void *)kernel, simt_thread<decltype(kept)>,
                                    &kept, sizeof kept);
        }
        auto thread = [&]() __attribute__((no_sanitize("thread"), always_inline))
        {
            kernel(p...); // each thread has its own copy of the arguments
        };
        return simt_launch(config, (const void *)kernel, simt_thread<decltype(thread)>, &thread);
    }(std::forward<A>(args)...);
}

#endif
