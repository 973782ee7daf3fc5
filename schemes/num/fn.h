/* SPDX-License-Identifier: MIT
 *
 * What every element-numerics header stands on: the function qualifier shared by host and device,
 * the bit casts, and the five named floating-point operations. Nothing else in the project may
 * depend on how a compiler feels about a*b+c.
 */
#ifndef QG_NUM_FN_H
#define QG_NUM_FN_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __FAST_MATH__
#error "qgauge measures roundings: it cannot be compiled with -ffast-math or -Ofast; drop the flag"
#endif

#ifdef __CUDACC__
#define QG_FN static __host__ __device__ __forceinline__
#else
#define QG_FN static inline
#endif

#ifdef QG_NUDGE /* the definitions, for `qgauge census` */
#include "schemes/num/nudge.h"
#endif

/* The 32 bits of a float, and the float of 32 bits. Exact; NaN payloads survive. */
QG_FN uint32_t qg_f32_bits(float f)
{
#ifdef __CUDA_ARCH__
    return __float_as_uint(f);
#else
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
#endif
}

QG_FN float qg_f32_from_bits(uint32_t u)
{
#ifdef __CUDA_ARCH__
    return __uint_as_float(u);
#else
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
#endif
}

/* Binary32 operations with exactly one rounding to nearest even each: what is written is what is
 * rounded. qg_fma is the only way to fuse. */
#ifdef __CUDA_ARCH__
QG_FN float qg_mul(float a, float b)
{
    return __fmul_rn(a, b);
}
QG_FN float qg_add(float a, float b)
{
    return __fadd_rn(a, b);
}
QG_FN float qg_sub(float a, float b)
{
    return __fsub_rn(a, b);
}
QG_FN float qg_div(float a, float b)
{
    return __fdiv_rn(a, b);
}
QG_FN float qg_fma(float a, float b, float c)
{
    return __fmaf_rn(a, b, c);
}
#elif defined QG_NUDGE
QG_FN float qg_mul(float a, float b)
{
    float r = a * b;
    return qg_nudge_state ? qg_nudge(r, (double)a * b - r) : r;
}
QG_FN float qg_add(float a, float b)
{
    float r = a + b;
    return qg_nudge_state ? qg_nudge(r, qg_nudge_rest(a, b, r)) : r;
}
QG_FN float qg_sub(float a, float b)
{
    float r = a - b;
    return qg_nudge_state ? qg_nudge(r, qg_nudge_rest(a, -b, r)) : r;
}
QG_FN float qg_div(float a, float b)
{
    float r = a / b;
    double rest = (double)a - (double)r * b;
    return qg_nudge_state ? qg_nudge(r, b < 0 ? -rest : rest) : r;
}
QG_FN float qg_fma(float a, float b, float c)
{
    float r = fmaf(a, b, c);
    return qg_nudge_state ? qg_nudge(r, qg_nudge_rest((double)a * b, c, r)) : r;
}
#else
QG_FN float qg_mul(float a, float b)
{
    return a * b;
}
QG_FN float qg_add(float a, float b)
{
    return a + b;
}
QG_FN float qg_sub(float a, float b)
{
    return a - b;
}
QG_FN float qg_div(float a, float b)
{
    return a / b;
}
QG_FN float qg_fma(float a, float b, float c)
{
    return fmaf(a, b, c);
}
#endif

#endif
