/* SPDX-License-Identifier: MIT
 *
 * What the plain C kernels share: pieces of rows as binary32 on the stack, loaded, reduced, rounded
 * and stored in loops without branches, which compilers turn into vector code for any target.
 *
 * The formulas are derived from the formats anew and not taken from schemes/num, whose per-element
 * branches no compiler vectorises: check_kernels compares them with schemes/num over whole domains.
 * Every select picks between integers that were computed unconditionally.
 */
#ifndef QG_ROWS_H
#define QG_ROWS_H

#include <assert.h>

#include "schemes/scheme.h"

/* Floats of a row that are worked on at a time; at least the widest group / 4. */
#define QG_CHUNK 1024

#define QG_INLINE static inline __attribute__((always_inline))

static inline size_t qg_smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Runs `statement` with T a constant equal to the floating dtype `t`, so that loops in it are
 * compiled once per dtype with no test inside. */
#define QG_FOR_DTYPE(T, t, statement)        \
    do {                                     \
        if ((t) == QG_BF16) {                \
            const enum qg_dtype T = QG_BF16; \
            statement;                       \
        } else if ((t) == QG_F16) {          \
            const enum qg_dtype T = QG_F16;  \
            statement;                       \
        } else {                             \
            const enum qg_dtype T = QG_F32;  \
            statement;                       \
        }                                    \
    } while (0)

/* --- elements -------------------------------------------------------------------------------- */

/* x where `condition` holds, else y, by masks: compilers turn `?:` into jumps and then thread them
 * into one another, after which a loop has no straight form any more. */
QG_INLINE uint32_t qg_pick(bool condition, uint32_t x, uint32_t y)
{
    uint32_t mask = -(uint32_t)condition;
    return (x & mask) | (y & ~mask);
}

QG_INLINE float qg_pick_f32(bool condition, float x, float y)
{
    return qg_f32_from_bits(qg_pick(condition, qg_f32_bits(x), qg_f32_bits(y)));
}

/* x limited to lo .. hi; a NaN stays. */
QG_INLINE float qg_limit(float x, float lo, float hi)
{
    float least = qg_pick_f32(x < lo, lo, x);
    return qg_pick_f32(x > hi, hi, least);
}

/* Bits of |x|. As integers they order like the magnitudes, with every NaN on top. */
QG_INLINE int32_t qg_magnitude(float x)
{
    return (int32_t)(qg_f32_bits(x) & 0x7fffffffu);
}

QG_INLINE uint32_t qg_sign(float x)
{
    return qg_f32_bits(x) & 0x80000000u;
}

/* Rounds half to even; |x| < 2^22 or NaN, else the result is meaningless. The sum lies in [2^23,
 * 2^24], where the step is 1. A zero comes out as +0. */
QG_INLINE float qg_rint_small(float x)
{
    return (x + 0x1.8p23f) - 0x1.8p23f;
}

/* The same as an integer; 0 for NaN. */
QG_INLINE int32_t qg_int_small(float x)
{
    int32_t k = (int32_t)(qg_f32_bits(x + 0x1.8p23f) - 0x4b400000u);
    return (int32_t)qg_pick(x == x, (uint32_t)k, 0);
}

QG_INLINE uint16_t qg_bf16_of(float x)
{
    uint32_t u = qg_f32_bits(x), r = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
    return (uint16_t)(qg_pick(qg_magnitude(x) > 0x7f800000, 0x7fc0u, r));
}

QG_INLINE float qg_bf16_round(float x)
{
    uint32_t u = qg_f32_bits(x), r = (u + 0x7fffu + (u >> 16 & 1u)) & 0xffff0000u;
    return qg_f32_from_bits(qg_pick(qg_magnitude(x) > 0x7f800000, 0x7fc00000u, r));
}

/* Below 2^-14 the sum with 1/2, whose step is 2^-24, does the rounding of subnormals. */
QG_INLINE uint16_t qg_f16_of(float x)
{
    int32_t a = qg_magnitude(x);
    uint32_t u = (uint32_t)a, normal = ((u + 0xfffu + (u >> 13 & 1u)) >> 13) - (112u << 10);
    uint32_t small = qg_f32_bits(qg_f32_from_bits(u) + 0.5f) - 0x3f000000u;
    uint32_t nan = 0x7e00u | (u >> 13 & 0x1ffu);
    uint32_t r = qg_pick(a < 0x38800000, small, normal);
    r = qg_pick(a >= 0x477ff000, 0x7c00u, r);
    r = qg_pick(a > 0x7f800000, nan, r);
    return (uint16_t)(qg_sign(x) >> 16 | r);
}

QG_INLINE float qg_f16_value(uint16_t code)
{
    uint32_t a = code & 0x7fffu, sign = (uint32_t)(code & 0x8000u) << 16;
    uint32_t small = qg_f32_bits((float)(int32_t)a * 0x1p-24f), normal = (a << 13) + (112u << 23);
    uint32_t quiet = qg_pick((int32_t)a > 0x7c00, 0x7fc00000u, 0x7f800000u);
    uint32_t r = qg_pick((int32_t)a < 0x400, small, normal);
    r = qg_pick((int32_t)a >= 0x7c00, quiet | a << 13, r);
    return qg_f32_from_bits(sign | r);
}

QG_INLINE float qg_f16_round(float x)
{
    int32_t a = qg_magnitude(x);
    uint32_t u = (uint32_t)a, normal = (u + 0xfffu + (u >> 13 & 1u)) & ~0x1fffu;
    uint32_t small = qg_f32_bits((qg_f32_from_bits(u) + 0.5f) - 0.5f);
    uint32_t nan = 0x7fc00000u | (u & 0x3fe000u);
    uint32_t r = qg_pick(a < 0x38800000, small, normal);
    r = qg_pick(a >= 0x477ff000, 0x7f800000u, r);
    r = qg_pick(a > 0x7f800000, nan, r);
    return qg_f32_from_bits(qg_sign(x) | r);
}

/* Saturates at 448. Below 2^-6 the sum with 2^14, whose step is 2^-9, does the rounding. */
QG_INLINE uint8_t qg_e4m3_of(float x)
{
    int32_t a = qg_magnitude(x);
    uint32_t u = (uint32_t)a, normal = ((u + 0x7ffffu + (u >> 20 & 1u)) >> 20) - (120u << 3);
    uint32_t small = qg_f32_bits(qg_f32_from_bits(u) + 0x1p14f) - 0x46800000u;
    uint32_t r = qg_pick(a < 0x3c800000, small, normal);
    r = qg_pick(a > 0x43e80000, 0x7eu, r);
    r = qg_pick(a > 0x7f800000, 0x7fu, r);
    return (uint8_t)(qg_sign(x) >> 24 | r);
}

QG_INLINE float qg_e4m3_value(uint8_t code)
{
    uint32_t a = code & 0x7fu, sign = (uint32_t)(code & 0x80u) << 24;
    uint32_t small = qg_f32_bits((float)(int32_t)a * 0x1p-9f), normal = (a << 20) + (120u << 23);
    uint32_t r = qg_pick((int32_t)a < 8, small, normal);
    r = qg_pick((int32_t)a == 0x7f, 0x7fc00000u, r);
    return qg_f32_from_bits(sign | r);
}

QG_INLINE float qg_e4m3_round(float x)
{
    int32_t a = qg_magnitude(x);
    uint32_t u = (uint32_t)a, normal = (u + 0x7ffffu + (u >> 20 & 1u)) & ~0xfffffu;
    uint32_t small = qg_f32_bits((qg_f32_from_bits(u) + 0x1p14f) - 0x1p14f);
    uint32_t r = qg_pick(a < 0x3c800000, small, normal);
    r = qg_pick(a > 0x43e80000, 0x43e00000u, r);
    r = qg_pick(a > 0x7f800000, 0x7fc00000u, r);
    return qg_f32_from_bits(qg_sign(x) | r);
}

/* R_t(x); t is a constant where this stands in a loop. */
QG_INLINE float qg_round_as(enum qg_dtype t, float x)
{
    return t == QG_BF16 ? qg_bf16_round(x) : t == QG_F16 ? qg_f16_round(x) : x;
}

/* --- pieces of rows -------------------------------------------------------------------------- */

/* Elements at .. at+n of t as binary32. */
static inline void qg_load(const struct qg_tensor *t, size_t at, size_t n, float *restrict f)
{
    const uint16_t *restrict half =
        (const uint16_t *)t->data + (qg_dtype_bytes(t->dtype) == 2 ? at : 0);
    switch (t->dtype) {
    case QG_F32:
        memcpy(f, (const float *)t->data + at, n * sizeof *f);
        return;
    case QG_BF16:
        for (size_t i = 0; i < n; i++)
            f[i] = qg_f32_from_bits((uint32_t)half[i] << 16);
        return;
    case QG_F16:
        for (size_t i = 0; i < n; i++)
            f[i] = qg_f16_value(half[i]);
        return;
    default:
        assert(!"a floating dtype");
    }
}

/* The reverse, rounding once. */
static inline void qg_store(const struct qg_tensor *t, size_t at, size_t n, const float *restrict f)
{
    uint16_t *restrict half = (uint16_t *)t->data + (qg_dtype_bytes(t->dtype) == 2 ? at : 0);
    switch (t->dtype) {
    case QG_F32:
        memcpy((float *)t->data + at, f, n * sizeof *f);
        return;
    case QG_BF16:
        for (size_t i = 0; i < n; i++)
            half[i] = qg_bf16_of(f[i]);
        return;
    case QG_F16:
        for (size_t i = 0; i < n; i++)
            half[i] = qg_f16_of(f[i]);
        return;
    default:
        assert(!"a floating dtype");
    }
}

/* Smallest and largest of f[0..n), n > 0; both NaN when one is. -0 counts as below +0. */
struct qg_span {
    float min, max;
};

static inline struct qg_span qg_span_of(size_t n, const float *restrict f)
{
    // As integers with the negative half flipped, floats order like their values; a NaN lies beyond
    // the infinity of its sign, at one of the two ends.
    int32_t low = INT32_MAX, high = INT32_MIN;
    for (size_t i = 0; i < n; i++) {
        int32_t u = (int32_t)qg_f32_bits(f[i]), k = u < 0 ? u ^ 0x7fffffff : u;
        low = k < low ? k : low;
        high = k > high ? k : high;
    }
    if (high > 0x7f800000 || low < -0x7f800001)
        return (struct qg_span){NAN, NAN};
    return (struct qg_span){qg_f32_from_bits((uint32_t)(low < 0 ? low ^ 0x7fffffff : low)),
                            qg_f32_from_bits((uint32_t)(high < 0 ? high ^ 0x7fffffff : high))};
}

/* Largest |f[i]|, 0 for n = 0; NaN when one is. */
static inline float qg_amax_of(size_t n, const float *restrict f)
{
    int32_t high = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t a = qg_magnitude(f[i]);
        high = a > high ? a : high;
    }
    return qg_f32_from_bits((uint32_t)high);
}

/* The same of elements at .. at+n of a tensor, n of any length. */
static inline float qg_amax_at(const struct qg_tensor *x, size_t at, size_t n)
{
    float f[QG_CHUNK], amax = 0.0f;
    for (size_t i = 0; i < n; i += QG_CHUNK) {
        size_t part = qg_smaller(n - i, QG_CHUNK);
        qg_load(x, at + i, part, f);
        amax = qg_max(amax, qg_amax_of(part, f));
    }
    return amax;
}

/* Sums of x[i] y[i] and of x[i] in binary64, where no product of binary32 numbers rounds and no sum
 * of them overflows. QG_LANES partial sums, then two rounds that join them. */
enum { QG_LANES = 4 };

static inline double qg_sum_products(size_t n, const float *restrict x, const float *restrict y)
{
    double lane[QG_LANES] = {0}, tail[QG_LANES] = {0};
    size_t whole = n / QG_LANES * QG_LANES;
    for (size_t i = 0; i < whole; i += QG_LANES)
        for (size_t l = 0; l < QG_LANES; l++)
            lane[l] += (double)x[i + l] * y[i + l];
    for (size_t i = whole; i < n; i++)
        tail[i - whole] = (double)x[i] * y[i];
    for (size_t l = 0; l < QG_LANES; l++)
        lane[l] += tail[l];
    return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}

static inline double qg_sum_of(size_t n, const float *restrict x)
{
    double lane[QG_LANES] = {0}, tail[QG_LANES] = {0};
    size_t whole = n / QG_LANES * QG_LANES;
    for (size_t i = 0; i < whole; i += QG_LANES)
        for (size_t l = 0; l < QG_LANES; l++)
            lane[l] += x[i + l];
    for (size_t i = whole; i < n; i++)
        tail[i - whole] = x[i];
    for (size_t l = 0; l < QG_LANES; l++)
        lane[l] += tail[l];
    return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}

/* int8 codes as numbers. */
static inline void qg_codes_as_floats(size_t n, const int8_t *restrict codes, float *restrict f)
{
    for (size_t i = 0; i < n; i++)
        f[i] = codes[i];
}

/* dx = g, where the gradient passes straight through. */
static inline void qg_pass_gradient(const struct qg_args *a)
{
    memcpy(a->out[0].data, a->in[1].data, qg_bytes(&a->in[1]));
}

/* --- nibbles --------------------------------------------------------------------------------- */

/* Codes 0..255, of which the low four bits count, to a row of nibbles, the even element low. */
static inline void qg_nibbles_pack(size_t n, const uint8_t *restrict code, uint8_t *restrict packed)
{
    for (size_t j = 0; j < n / 2; j++)
        packed[j] = (uint8_t)((code[2 * j] & 15) | code[2 * j + 1] << 4);
}

/* y[i] = table[nibble at + i of the row]: sixteen values are all that a group of 4-bit codes has.
 */
#define QG_NIBBLES_LOOK_UP(name, type)                                        \
    static inline void name(const uint8_t *restrict row, size_t at, size_t n, \
                            const type *restrict table, type *restrict y)     \
    {                                                                         \
        if (n && at % 2) {                                                    \
            *y++ = table[row[at++ / 2] >> 4];                                 \
            n--;                                                              \
        }                                                                     \
        row += at / 2;                                                        \
        for (size_t j = 0; j < n / 2; j++) {                                  \
            y[2 * j] = table[row[j] & 15];                                    \
            y[2 * j + 1] = table[row[j] >> 4];                                \
        }                                                                     \
        if (n % 2)                                                            \
            y[n - 1] = table[row[n / 2] & 15];                                \
    }
QG_NIBBLES_LOOK_UP(qg_nibbles_f32, float)
QG_NIBBLES_LOOK_UP(qg_nibbles_16, uint16_t)

/* Stores table[nibble] for the nibbles at .. at+n of `row` as elements out .. out+n of t. */
static inline void qg_nibbles_store(const struct qg_tensor *t, size_t out, const uint8_t *row,
                                    size_t at, size_t n, const float *table)
{
    if (t->dtype == QG_F32) {
        qg_nibbles_f32(row, at, n, table, (float *)t->data + out);
        return;
    }
    uint16_t stored[16];
    struct qg_tensor sixteen = {.dtype = t->dtype, .data = stored};
    qg_store(&sixteen, 0, 16, table);
    qg_nibbles_16(row, at, n, stored, (uint16_t *)t->data + out);
}

#endif
