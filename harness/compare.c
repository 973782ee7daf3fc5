/* SPDX-License-Identifier: MIT */
#include "harness/compare.h"

#include <math.h>

const struct qg_diff qg_no_diff = {
    .first_mismatch = -1, .first_wrong = -1, .bound_used = (double)NAN};

/* The element's bits as an integer that orders like its value: -0 and +0 are neighbours. */
static int64_t place(const struct qg_tensor *t, size_t i)
{
    uint32_t bits, sign;
    switch (t->dtype) {
    case QG_F32:
        bits = ((const uint32_t *)t->data)[i], sign = 0x80000000u;
        break;
    case QG_BF16:
    case QG_F16:
        bits = ((const uint16_t *)t->data)[i], sign = 0x8000u;
        break;
    case QG_E4M3:
    case QG_E5M2:
        bits = ((const uint8_t *)t->data)[i], sign = 0x80u;
        break;
    case QG_I8:
        return ((const int8_t *)t->data)[i];
    case QG_I16:
        return ((const int16_t *)t->data)[i];
    case QG_I32:
        return ((const int32_t *)t->data)[i];
    default:
        return ((const uint8_t *)t->data)[i];
    }
    return bits & sign ? -(int64_t)(bits & (sign - 1)) - 1 : (int64_t)bits;
}

/* The rounding of a double to dtype t by way of binary32, as a kernel with a binary32 accumulator
 * does it. Monotonic. */
static double stored(enum qg_dtype t, double v)
{
    return qg_round(t, (float)v);
}

/* Half the distance to the neighbour of y in dtype t, or 0 for binary32's own roundings. */
static double half_step(enum qg_dtype t, double y)
{
    int digits = qg_mantissa_bits(t) + 1;
    int lowest = t == QG_F16 ? -24 : t == QG_BF16 ? -133 : -149, e;
    frexp(y, &e);
    return ldexp(0.5, e - digits > lowest ? e - digits : lowest);
}

/* Whether y is the rounding of a number within b of v; *used: the share of b that this needs. */
static bool explained(enum qg_dtype t, double y, double v, double b, double *used)
{
    double low = nextafter(v - b, -INFINITY), high = nextafter(v + b, INFINITY);
    double need = fabs(y - v) - half_step(t, y);
    *used = b > 0 && isfinite(y) ? (need > 0 ? need / b : 0) : 0;
    return stored(t, low) <= y && y <= stored(t, high);
}

void qg_compare(const struct qg_tensor *want, const struct qg_tensor *got, const double *exact,
                const double *bound, struct qg_diff *d)
{
    size_t n = qg_count(want);
    for (size_t i = 0; i < n; i++, d->count++) {
        int64_t p = place(want, i), q = place(got, i);
        float a = qg_get(want, i), b = qg_get(got, i);
        bool equal = p == q || (a != a && b != b);
        bool bounded = exact && bound && bound[i] > 0 && isfinite(exact[i]);
        double used = 0;
        if (bounded && !isfinite(bound[i])) {
            d->unjudged++;
            continue;
        }
        bool right = equal;
        if (bounded && b == b) {
            right = explained(want->dtype, b, exact[i], bound[i], &used) || equal;
            if (!(d->bound_used >= used))
                d->bound_used = used;
        }
        if (equal)
            continue;
        bool other_class = a != a || b != b || isinf(a) || isinf(b) || signbit(a) != signbit(b);
        double ulp =
            a != a || b != b || isinf(a) || isinf(b) ? (double)INFINITY : fabs((double)(p - q));
        d->class_mismatches += other_class;
        d->max_ulp = ulp > d->max_ulp ? ulp : d->max_ulp;
        if (d->mismatches++ == 0)
            d->first_mismatch = (int64_t)d->count;
        if (!right && d->wrong++ == 0)
            d->first_wrong = (int64_t)d->count;
    }
}

double qg_sqnr_db(const struct qg_tensor *x, const struct qg_tensor *y, double *nmse)
{
    double signal = 0, noise = 0;
    for (size_t i = 0; i < qg_count(x); i++) {
        double a = qg_get(x, i), e = a - qg_get(y, i);
        signal += a * a;
        noise += e * e;
    }
    if (nmse)
        *nmse = noise / signal;
    if (!isfinite(noise) || !isfinite(signal) || signal == 0)
        return (double)NAN;
    return noise == 0 ? (double)INFINITY : 10 * log10(signal / noise);
}

bool qg_is_nan_code(enum qg_dtype t, unsigned code)
{
    return t == QG_E4M3   ? isnan(qg_e4m3_decode((qg_e4m3){(uint8_t)code}))
           : t == QG_E5M2 ? isnan(qg_e5m2_decode((qg_e5m2){(uint8_t)code}))
                          : false;
}

bool qg_same_code(const struct qg_args *a, const struct qg_args *b, size_t i)
{
    const unsigned p = qg_code(a, i), q = qg_code(b, i);
    const enum qg_dtype t = a->out[0].dtype;
    return p == q || (qg_is_nan_code(t, p) && qg_is_nan_code(t, q));
}

uint64_t qg_hash_tensor(uint64_t hash, const struct qg_tensor *t)
{
    static const uint8_t nan[] = {0xff, 0xff, 0xff, 0xff};
    const size_t size = qg_dtype_bytes(t->dtype);
    for (size_t i = 0; i < qg_count(t); i++) {
        const float v = qg_get(t, i);
        hash = qg_hash(hash, v == v ? (const uint8_t *)t->data + i * size : nan, size);
    }
    return hash;
}

uint64_t qg_hash(uint64_t hash, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}
