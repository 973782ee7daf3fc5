/* SPDX-License-Identifier: MIT
 *
 * The nonlinear functions of MLPs, for which no library promises bits: exp, erf and tanh differ
 * between a GPU's instructions, libdevice, NumPy and Sleef, and compilers may fuse the steps around
 * them. A loose number is an interval that holds what any of them may have at that step; `mid` is
 * our own value, each step rounded once.
 *
 * The errors that are granted, in ulps of the result:
 *
 *     + - *    1/2, or none where the compiler fused the step
 *     /        2: div.full.f32, which Triton emits (PTX ISA, "div": maximum relative error 2^-22)
 *     exp      3 + 1.173 |x|: CUDA's __expf has 2 + floor(1.173 |x|) (CUDA C++ Programming Guide,
 *              intrinsic functions), NumPy's AVX-512 exp 2.52 (numpy:umath/loops_exponent_log),
 * Sleef's 1 erf      2: CUDA's erff (same guide); Sleef's and NumPy's are better tanh     2: CUDA's
 * tanhf (same guide) rsqrt    2: rsqrt.approx.f32 (PTX ISA: maximum relative error 2^-22.9)
 *
 * GPUs' exp flushes subnormal results to zero: 2^-126 more.
 */
#ifndef QG_ACTIVATION_H
#define QG_ACTIVATION_H

#include "schemes/layers/matrix.h"

struct qg_loose {
    double lo, hi;
    float mid;
};

/* [lo, hi] with room for an error of that many ulps (2^-23 of the magnitude at most) and `flush`;
 * an end that is infinite or no number tells nothing. */
static inline struct qg_loose qg_loosen(double lo, float mid, double hi, double ulps, double flush)
{
    double room = ulps * 0x1p-23 * fmax(fabs(lo), fabs(hi)) + 0x1p-149 + flush;
    if (!(room < (double)INFINITY))
        return (struct qg_loose){(double)-INFINITY, (double)INFINITY, mid};
    return (struct qg_loose){lo - room, hi + room, mid};
}

static inline struct qg_loose qg_loose_of(struct qg_interval x)
{
    return (struct qg_loose){x.lo, x.hi, x.mid};
}

static inline struct qg_loose qg_loose_at(float x)
{
    return (struct qg_loose){x, x, x};
}

/* Rounded to dtype t. */
static inline struct qg_interval qg_loose_round(enum qg_dtype t, struct qg_loose x)
{
    return qg_interval_round(t, (struct qg_interval){(float)x.lo, x.mid, (float)x.hi});
}

static inline struct qg_loose qg_loose_add(struct qg_loose x, struct qg_loose y)
{
    return qg_loosen(x.lo + y.lo, qg_add(x.mid, y.mid), x.hi + y.hi, 0.5, 0);
}

static inline struct qg_loose qg_loose_negative(struct qg_loose x)
{
    return (struct qg_loose){-x.hi, -x.lo, -x.mid};
}

static inline struct qg_loose qg_loose_mul(struct qg_loose x, struct qg_loose y)
{
    double a = x.lo * y.lo, b = x.lo * y.hi, c = x.hi * y.lo, d = x.hi * y.hi;
    bool open = a != a || b != b || c != c || d != d;
    double lo = open ? (double)NAN : fmin(fmin(a, b), fmin(c, d));
    return qg_loosen(lo, qg_mul(x.mid, y.mid), fmax(fmax(a, b), fmax(c, d)), 0.5, 0);
}

/* 1 / x for x > 0. */
static inline struct qg_loose qg_loose_reciprocal(struct qg_loose x)
{
    double hi = x.lo > 0 ? 1 / x.lo : (double)INFINITY;
    return qg_loosen(1 / x.hi, qg_div(1, x.mid), hi, 2, 0x1p-126);
}

static inline struct qg_loose qg_loose_exp(struct qg_loose x)
{
    double far = fmax(fabs(x.lo), fabs(x.hi));
    return qg_loosen(exp(x.lo), (float)exp(x.mid), exp(x.hi), 3 + 1.173 * far, 0x1p-126);
}

static inline struct qg_loose qg_loose_erf(struct qg_loose x)
{
    return qg_loosen(erf(x.lo), (float)erf(x.mid), erf(x.hi), 2, 0);
}

static inline struct qg_loose qg_loose_tanh(struct qg_loose x)
{
    return qg_loosen(tanh(x.lo), (float)tanh(x.mid), tanh(x.hi), 2, 0);
}

/* 1 / (1 + exp(-x)). */
static inline struct qg_loose qg_loose_sigmoid(struct qg_loose x)
{
    struct qg_loose e = qg_loose_exp(qg_loose_negative(x));
    return qg_loose_reciprocal(qg_loose_add(qg_loose_at(1), e));
}

#endif
