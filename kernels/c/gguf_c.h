/* SPDX-License-Identifier: MIT
 *
 * What the plain C kernels of ggml's formats share. A format says how a block is encoded, and what
 * it unpacks to; decoding and multiplying work on what was unpacked and know no format.
 */
#ifndef QG_GGUF_C_H
#define QG_GGUF_C_H

#include "kernels/c/matmul.h"
#include "kernels/c/rows.h"
#include "kernels/kernel.h"

/* A block as numbers: element i is level[i] * (scale of its term * factor of its sixteen), plus the
 * term's min times the sixteen's min_factor. */
struct qg_gguf_numbers {
    int8_t level[256];
    float scale[8], min[8];             /* of each term */
    int32_t factor[16], min_factor[16]; /* of each 16 elements */
};

struct qg_gguf_kernel {
    size_t elements, bytes; /* of a block */
    size_t term;            /* elements that are multiplied and added as integers: 16, 32, 256 */
    bool has_min;
    void (*unpack)(const uint8_t *block, struct qg_gguf_numbers *n);
    void (*encode)(const float *x, uint8_t *block);
};

/* An activation format, whose quantizer may depend on the call's parameters. */
struct qg_gguf_partner {
    size_t elements, bytes, codes; /* of a block; first byte of the codes */
    void (*encode)(const struct qg_args *a, const float *x, uint8_t *block);
    float (*scale)(const uint8_t *block);
    /* What meets the minima of weights: the sum of the 16 codes at i, or, where sums are scaled
     * already, the block's for i = 0 and 0 for the others. */
    float (*sum)(const uint8_t *block, size_t i);
    bool sums_are_scaled;
};

extern const struct qg_gguf_partner qg_gguf_c_q8_0, qg_gguf_c_q8_1, qg_gguf_c_q8_K;

void qg_gguf_c_convert(const struct qg_args *a, const struct qg_gguf_kernel *f);
void qg_gguf_c_dequant(const struct qg_args *a, const struct qg_gguf_kernel *f);
void qg_gguf_c_matmul(const struct qg_args *a, const struct qg_gguf_kernel *f,
                      const struct qg_gguf_partner *p);
size_t qg_gguf_c_depth(size_t k);

/* The same by OpenBLAS. */
void qg_gguf_blas_matmul(const struct qg_args *a, const struct qg_gguf_kernel *f,
                         const struct qg_gguf_partner *p);
size_t qg_gguf_blas_depth(size_t k);

/* Operations of the partners. */
qg_op_fn qg_gguf_c_q8_0_convert, qg_gguf_c_q8_0_dequant, qg_gguf_c_q8_1_convert,
    qg_gguf_c_q8_K_convert, qg_gguf_c_q8_K_dequant;

/* Codes of q8_0 by the reference, and the unrounded d. */
float qg_gguf_c_codes_ref(const float *x, uint8_t *q);

#define QG_GGUF_C_FUNCTIONS(f, partner)              \
    static void f##_convert(const struct qg_args *a) \
    {                                                \
        qg_gguf_c_convert(a, &f);                    \
    }                                                \
    static void f##_dequant(const struct qg_args *a) \
    {                                                \
        qg_gguf_c_dequant(a, &f);                    \
    }                                                \
    static void f##_matmul(const struct qg_args *a)  \
    {                                                \
        qg_gguf_c_matmul(a, &f, &partner);           \
    }                                                \
    static void f##_blas(const struct qg_args *a)    \
    {                                                \
        qg_gguf_blas_matmul(a, &f, &partner);        \
    }

#define QG_GGUF_C_ROW(s, what, o, f)                                                  \
    {                                                                                 \
        .scheme = s, .backend = "c", .variant = "", .op = o, .operand = what, .fn = f \
    }
#define QG_GGUF_C_ROWS(s, f, partner)                                   \
    QG_GGUF_C_ROW(s, QG_WEIGHT, QG_CONVERT, f##_convert),               \
        QG_GGUF_C_ROW(s, QG_WEIGHT, QG_DEQUANT, f##_dequant),           \
        QG_GGUF_C_ROW(s, QG_ACTIVATION, QG_CONVERT, partner##_convert), \
        {.scheme = s,                                                   \
         .backend = "c",                                                \
         .variant = "",                                                 \
         .op = QG_MATMUL,                                               \
         .operand = QG_WEIGHT,                                          \
         .claim = QG_WITHIN_BOUND,                                      \
         .traits = QG_REORDERS,                                         \
         .depth = qg_gguf_c_depth,                                      \
         .fn = f##_matmul},                                             \
        QG_BLAS_ROW(s, qg_gguf_blas_depth, f##_blas)

/* --- numbers --------------------------------------------------------------------------------- */

/* Toward zero; INT_MIN for NaN and for what does not fit. */
QG_INLINE int32_t qg_whole(float x)
{
    bool fits = qg_magnitude(x) < 0x4f000000;
    int32_t k = (int32_t)qg_pick_f32(fits, x, 0.0f);
    return (int32_t)qg_pick(fits, (uint32_t)k, 0x80000000u);
}

/* To the nearest, halves away from zero: less than a half is added, so that the number below 0.5
 * does not get to 1, while at 0.5 the sum rounds up to it. */
QG_INLINE int32_t qg_whole_away(float x)
{
    return qg_whole(x + qg_f32_from_bits(qg_sign(x) | 0x3effffffu));
}

static inline void qg_put16(uint8_t *p, unsigned u)
{
    p[0] = (uint8_t)u;
    p[1] = (uint8_t)(u >> 8);
}

/* x as binary16; `nan` when it is one. */
static inline void qg_put_f16(uint8_t *p, float x, unsigned nan)
{
    qg_put16(p, x == x ? qg_f16_of(x) : nan);
}

static inline float qg_get_f16(const uint8_t *p)
{
    return qg_f16_value((uint16_t)(p[0] | p[1] << 8));
}

/* The first element of largest magnitude; NaN counts as 0, and 0 is what a block of these gives. */
static inline float qg_extreme(const float *x, size_t n)
{
    int32_t top = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t m = qg_magnitude(x[i]);
        m = m > 0x7f800000 ? 0 : m;
        top = m > top ? m : top;
    }
    for (size_t i = 0; top && i < n; i++)
        if (qg_magnitude(x[i]) == top)
            return x[i];
    return 0.0f;
}

/* The largest magnitude behind the last NaN; NaN when that is the last element. */
static inline float qg_amax_behind_nan(const float *x, size_t n)
{
    float amax = qg_amax_of(n, x);
    if (amax == amax)
        return amax;
    size_t i = n;
    while (x[i - 1] == x[i - 1])
        i--;
    return i == n ? NAN : qg_amax_of(n - i, x + i);
}

#endif
