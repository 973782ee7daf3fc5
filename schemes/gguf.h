/* SPDX-License-Identifier: MIT
 *
 * What the formats of ggml (llama.cpp, whisper.cpp, GGUF files) share. A tensor is one plane of
 * bytes, row after row of blocks that carry their own scales, exactly as a GGUF file holds it.
 * Quantizers take binary32, so other dtypes are widened first. Scales are rounded to binary16 after
 * the codes were chosen, unless a format says otherwise.
 *
 * Products are integer dots: the activation is quantized to the 8-bit partner of the weight's
 * format, integers are multiplied and added exactly, and scales meet the integer sums of blocks:
 *
 *     y = sum over blocks of dx dy sum(q_w q_x)
 *
 * in binary32, whose order upstream leaves to the machine (one float sum in block order, or eight
 * lanes with fused additions, or tiles), so sums of scaled parts of a block count too.
 *
 * What x86 makes of a conversion to an integer that does not fit (INT_MIN, of which a byte keeps
 * the lowest bits: 0) is part of these definitions: upstream's quantizers run into it with NaN,
 * infinities, and scales so small that 1/d overflows.
 */
#ifndef QG_GGUF_H
#define QG_GGUF_H

#include "schemes/dot.h"

#define QG_GGUF_LARGEST 256 /* elements of the largest block */

/* A sum of products of blocks. */
struct qg_gguf_sum {
    struct qg_sum terms;
    double lost; /* by scales dx dy that are subnormal numbers */
};

struct qg_gguf {
    size_t elements, bytes; /* of a block */
    /* x[elements] to a block; `at` is the index of x[0] in the tensor. */
    void (*encode)(const struct qg_args *a, size_t at, const float *x, uint8_t *block);
    float (*value)(const uint8_t *block, size_t i);   /* of element i */
    unsigned (*code)(const uint8_t *block, size_t i); /* as it is stored */
    float (*scale)(const uint8_t *block, size_t i);   /* as it is stored, of element i's part */
    /* Of weights: the format that x is quantized to, and what a block adds to a product: x points
     * to as many of its blocks as the weight's block has elements for. */
    const struct qg_gguf *partner;
    void (*dot)(const uint8_t *w, const uint8_t *x, struct qg_gguf_sum *s);
};

void qg_gguf_convert(const struct qg_args *a, const struct qg_gguf *f);
void qg_gguf_dequant(const struct qg_args *a, const struct qg_gguf *f);
void qg_gguf_matmul(const struct qg_args *a, const struct qg_gguf *f);
unsigned qg_gguf_code(const struct qg_args *a, const struct qg_gguf *f, size_t i);
const char *qg_gguf_refuse(const struct qg_args *a);

/* Says so when no scale of the call's blocks is a finite number other than 0. */
const char *qg_gguf_uniform(const struct qg_args *a, const struct qg_gguf *f);

/* The functions and the plane of an operand in format f, which is a struct qg_gguf. */
#define QG_GGUF_DECLARE(linkage, f)                        \
    linkage void f##_convert(const struct qg_args *a);     \
    linkage size_t f##_group(const struct qg_args *a);     \
    linkage size_t f##_row_bytes(const struct qg_args *a); \
    linkage unsigned f##_code(const struct qg_args *a, size_t i)

#define QG_GGUF_ENCODER(linkage, f, symbol, packing)                    \
    QG_GGUF_DECLARE(linkage, f);                                        \
    linkage void f##_convert(const struct qg_args *a)                   \
    {                                                                   \
        qg_gguf_convert(a, &f);                                         \
    }                                                                   \
    linkage size_t f##_group(const struct qg_args *a)                   \
    {                                                                   \
        (void)a;                                                        \
        return f.elements;                                              \
    }                                                                   \
    linkage size_t f##_row_bytes(const struct qg_args *a)               \
    {                                                                   \
        return a->cols / f.elements * f.bytes;                          \
    }                                                                   \
    linkage unsigned f##_code(const struct qg_args *a, size_t i)        \
    {                                                                   \
        return qg_gguf_code(a, &f, i);                                  \
    }                                                                   \
    static const struct qg_extent f##_extent = {symbol, f##_row_bytes}; \
    linkage const struct qg_plane f##_planes[] = {                      \
        {"blocks", QG_U8, 0, {&qg_ext_rows, &f##_extent}, packing}, {NULL}}

#define QG_GGUF_DECODER(linkage, f)                   \
    linkage void f##_dequant(const struct qg_args *a) \
    {                                                 \
        qg_gguf_dequant(a, &f);                       \
    }

/* Weights, whose functions stay in their file. */
#define QG_GGUF_WEIGHT(f, symbol, packing)                                       \
    QG_GGUF_ENCODER(static, f, symbol, packing);                                 \
    QG_GGUF_DECODER(static, f)                                                   \
    static void f##_matmul(const struct qg_args *a)                              \
    {                                                                            \
        qg_gguf_matmul(a, &f);                                                   \
    }                                                                            \
    static const char *f##_uniform(const struct qg_args *a)                      \
    {                                                                            \
        return qg_gguf_uniform(a, a->operand == QG_ACTIVATION ? f.partner : &f); \
    }

/* Codes of `bits` bits, of which `n` different ones occur. */
#define QG_GGUF_OPERAND(f, decoder, bits, n)                                                  \
    {                                                                                         \
        .convert = f##_convert, .dequant = decoder, .group = f##_group, .planes = f##_planes, \
        .code_bits = bits, .code = f##_code, .codes = n                                       \
    }

/* The partners, which the weights' files name. */
extern const struct qg_gguf qg_q8_0, qg_q8_1, qg_q8_K;
extern const struct qg_plane qg_q8_0_planes[], qg_q8_1_planes[], qg_q8_K_planes[];
QG_GGUF_DECLARE(extern, qg_q8_0);
QG_GGUF_DECLARE(extern, qg_q8_1);
QG_GGUF_DECLARE(extern, qg_q8_K);
void qg_q8_0_dequant(const struct qg_args *a);
void qg_q8_K_dequant(const struct qg_args *a);

/* -128 comes from the x86 quantizers alone, from 127/amax = inf and NaN. Nothing upstream
 * dequantizes q8_1. */
#define QG_GGUF_Q8_0 QG_GGUF_OPERAND(qg_q8_0, qg_q8_0_dequant, 8, 256)
#define QG_GGUF_Q8_1 QG_GGUF_OPERAND(qg_q8_1, NULL, 8, 256)
#define QG_GGUF_Q8_K QG_GGUF_OPERAND(qg_q8_K, qg_q8_K_dequant, 8, 255) /* -127 .. 127 */

/* Parameters of schemes whose partner is q8_0 or q8_1. */
extern const struct qg_param qg_gguf_params[], qg_gguf_no_params[];
extern const char *const qg_gguf_variants[];

#define QG_GGUF_ACT_NONFINITE \
    " Activations: NaN and inf as in the scheme of the partner (q8_0, q8_1, q8_K)."

/* A whole q8_0 block of a weight or of an activation, rounding half away from zero. */
void qg_gguf_encode_q8_0(const struct qg_args *a, size_t at, const float *x, uint8_t *block);

/* --- numbers --------------------------------------------------------------------------------- */

/* (int32_t)x as x86 converts: toward zero, and INT_MIN for all that does not fit. */
static inline int32_t qg_gguf_int(float x)
{
    return x >= -0x1p31f && x < 0x1p31f ? (int32_t)x : INT32_MIN;
}

/* The integer nearest to x, ties to even: the lowest bits of x + 1.5 2^23, which are all that
 * upstream looks at, so that beyond 2^22 it is some other number of -2^22 .. 2^22 - 1. 0 for NaN
 * (of any payload, which upstream lets through). */
static inline int32_t qg_gguf_nearest(float x)
{
    float sum = x + 0x1.8p23f; // chooses a code, so it is no arithmetic to be nudged
    return sum != sum ? 0 : (int32_t)(qg_f32_bits(sum) & 0x7fffffu) - 0x400000;
}

/* Stores x as binary16, little-endian. The NaN is 0x7e00 and keeps its sign. */
static inline void qg_gguf_put_half(uint8_t *p, float x)
{
    uint16_t h = x != x ? (uint16_t)(0x7e00u | (signbit(x) ? 0x8000u : 0)) : qg_fp16_encode(x).v;
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

static inline float qg_gguf_half(const uint8_t *p)
{
    return qg_fp16_decode((qg_fp16){(uint16_t)(p[0] | p[1] << 8)});
}

/* Where two numbers gave a NaN (0 inf, inf - inf), it is the one of x86, which has the sign bit. */
static inline float qg_gguf_new_nan(float y)
{
    return y != y ? -qg_abs(y) : y;
}

/* The binary32 scale of a q8_K block. */
static inline float qg_gguf_q8_K_scale(const uint8_t *p)
{
    return qg_f32_from_bits(p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
                            (uint32_t)p[3] << 24);
}

/* The element of largest magnitude, the first of those, with its sign; 0 when all are 0 or NaN. */
static inline float qg_gguf_extreme(const float *x, size_t n)
{
    float amax = 0.0f, extreme = 0.0f;
    for (size_t i = 0; i < n; i++)
        if (amax < qg_abs(x[i])) {
            amax = qg_abs(x[i]);
            extreme = x[i];
        }
    return extreme;
}

/* The largest magnitude, as a > b ? a : b finds it: a NaN lasts until the next element. */
static inline float qg_gguf_amax(const float *x, size_t n)
{
    float amax = 0.0f;
    for (size_t i = 0; i < n; i++)
        amax = amax > qg_abs(x[i]) ? amax : qg_abs(x[i]);
    return amax;
}

/* 1/d, or 0 for d = 0. */
static inline float qg_gguf_inverse(float d)
{
    return d != 0 ? qg_div(1.0f, d) : 0.0f;
}

/* Adds dx dy isum, where isum is a sum of integers whose magnitudes add up to `magnitude`. */
static inline void qg_gguf_term(struct qg_gguf_sum *s, float dx, float dy, int32_t isum,
                                int32_t magnitude)
{
    double d = (double)dx * dy, parts = fabs(d) * (magnitude ? magnitude : 1);
    qg_sum_add(&s->terms, d * isum);
    // Parts of isum may be scaled one by one, and a product of scales may overflow before it meets
    // a zero.
    s->terms.magnitude += parts - fabs(d * isum);
    s->lost += 0x1p-149 * magnitude;
}

#endif
