/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of ct-int4, ct-int8 and ct-fp8: a row at a time, in pieces of one group.
 *
 * R(q s) is left to the store where the output has the dtype that it rounds to.
 */
#include "kernels/c/matmul.h"
#include "kernels/c/rows.h"
#include "kernels/kernel.h"

/* A walk over a row in pieces that lie within one group and within QG_CHUNK elements. */
struct piece {
    size_t at, n;
};

static bool next_piece(struct piece *p, size_t group, size_t end)
{
    p->at += p->n;
    size_t in_group = group - p->at % group;
    p->n = qg_smaller(qg_smaller(in_group, QG_CHUNK), end - p->at);
    return p->n > 0;
}

static float scale_of(const struct qg_tensor *x, size_t at, size_t n, float half_range)
{
    float scale = qg_round_as(x->dtype, qg_amax_at(x, at, n) / half_range);
    float epsilon = x->dtype == QG_BF16 ? 0x1p-7f : x->dtype == QG_F16 ? 0x1p-10f : 0x1p-23f;
    return scale == 0 ? epsilon : scale;
}

/* Largest code of 4 or 8 bits and a half. */
static float half_range_of(const struct qg_args *a)
{
    return a->scheme->operand[a->operand].code_bits == 4 ? 7.5f : 127.5f;
}

QG_INLINE void quotients(enum qg_dtype t, size_t n, float *restrict f, float scale, float low,
                         float high)
{
    for (size_t i = 0; i < n; i++)
        f[i] = qg_limit(qg_round_as(t, f[i] / scale), low, high);
}

/* --- integers -------------------------------------------------------------------------------- */

/* round(f) s. The sign of what rounds to zero stays. */
static void round_and_scale(size_t n, float *restrict f, float scale)
{
    for (size_t i = 0; i < n; i++) {
        float q = qg_rint_small(f[i]);
        uint32_t lost = qg_pick((q == 0) & (f[i] != 0), qg_sign(f[i]), 0);
        f[i] = qg_f32_from_bits(qg_f32_bits(q) | lost) * scale;
    }
}

static void fake_quant_int(const struct qg_args *a)
{
    size_t group = qg_group(a);
    float f[QG_CHUNK], half = half_range_of(a), scale = 0;
    for (struct piece p = {0, 0}; next_piece(&p, group, a->rows * a->cols);) {
        if (p.at % group == 0)
            scale = scale_of(&a->in[0], p.at, group, half);
        qg_load(&a->in[0], p.at, p.n, f);
        QG_FOR_DTYPE(T, a->dtype, quotients(T, p.n, f, scale, -half - 0.5f, half - 0.5f));
        round_and_scale(p.n, f, scale);
        qg_store(&a->out[0], p.at, p.n, f);
    }
}

static void encode(size_t n, const float *restrict f, int offset, uint8_t *restrict codes)
{
    for (size_t i = 0; i < n; i++)
        codes[i] = (uint8_t)(qg_int_small(f[i]) + offset);
}

/* A row of codes to words of 32 / bits each; the last one is filled up with zeros. */
QG_INLINE void pack(size_t bits, size_t k, const uint8_t *restrict codes, uint32_t *restrict words)
{
    size_t per = 32 / bits;
    for (size_t w = 0; w < k / per; w++) {
        uint32_t word = 0;
        for (size_t j = 0; j < per; j++)
            word |= (uint32_t)codes[w * per + j] << (bits * j);
        words[w] = word;
    }
    if (k % per)
        words[k / per] = 0;
    for (size_t i = k / per * per; i < k; i++)
        words[k / per] |= (uint32_t)codes[i] << (bits * (i % per));
}

QG_INLINE void convert_int(const struct qg_args *a, size_t bits)
{
    size_t group = qg_group(a), k = a->cols, row_words = (k * bits + 31) / 32;
    float f[QG_CHUNK], half = half_range_of(a), scale = 0;
    uint8_t *codes = (uint8_t *)a->work;
    for (size_t row = 0; row < a->rows; row++) {
        for (struct piece p = {0, 0}; next_piece(&p, group, k);) {
            if (p.at % group == 0) {
                scale = scale_of(&a->in[0], row * k + p.at, group, half);
                qg_put(&a->out[1], (row * k + p.at) / group, scale);
            }
            qg_load(&a->in[0], row * k + p.at, p.n, f);
            QG_FOR_DTYPE(T, a->dtype, quotients(T, p.n, f, scale, -half - 0.5f, half - 0.5f));
            encode(p.n, f, 1 << (bits - 1), codes + p.at);
        }
        pack(bits, k, codes, (uint32_t *)a->out[0].data + row * row_words);
    }
}

static void convert_int4(const struct qg_args *a)
{
    convert_int(a, 4);
}

static void convert_int8(const struct qg_args *a)
{
    convert_int(a, 8);
}

QG_INLINE void decode_int(size_t bits, const uint32_t *restrict words, size_t at, size_t n,
                          float scale, float *restrict f)
{
    uint32_t per = 32 / (uint32_t)bits, mask = (1u << bits) - 1u;
    int offset = 1 << (bits - 1);
    for (size_t i = at; i < at + n; i++) {
        uint32_t shift = (uint32_t)i % per * (uint32_t)bits;
        f[i - at] = (float)((int)(words[i / per] >> shift & mask) - offset) * scale;
    }
}

/* --- e4m3 ------------------------------------------------------------------------------------ */

/* The e4m3 values of a piece of x; the code of -0 is that of 0. */
QG_INLINE void round_fp8(enum qg_dtype t, size_t n, float *restrict f, float scale)
{
    quotients(t, n, f, scale, -QG_E4M3_MAX, QG_E4M3_MAX);
    for (size_t i = 0; i < n; i++)
        f[i] = qg_e4m3_round(f[i] + 0.0f);
}

/* One row of x to `y` in any dtype that holds x's. */
QG_INLINE void fake_quant_row(const struct qg_args *a, enum qg_dtype t, size_t row,
                              const struct qg_tensor *y)
{
    float f[QG_CHUNK], scale = scale_of(&a->in[0], row * a->cols, a->cols, QG_E4M3_MAX);
    for (size_t at = 0; at < a->cols; at += QG_CHUNK) {
        size_t n = qg_smaller(a->cols - at, QG_CHUNK);
        qg_load(&a->in[0], row * a->cols + at, n, f);
        round_fp8(t, n, f, scale);
        for (size_t i = 0; i < n; i++)
            f[i] = qg_round_as(t, f[i] * scale);
        qg_store(y, row * a->cols + at, n, f);
    }
}

static void fake_quant_fp8(const struct qg_args *a)
{
    for (size_t row = 0; row < a->rows; row++)
        QG_FOR_DTYPE(T, a->dtype, fake_quant_row(a, T, row, &a->out[0]));
}

static void convert_fp8(const struct qg_args *a)
{
    float f[QG_CHUNK];
    for (size_t row = 0; row < a->rows; row++) {
        float scale = scale_of(&a->in[0], row * a->cols, a->cols, QG_E4M3_MAX);
        qg_put(&a->out[1], row, scale);
        for (size_t at = 0; at < a->cols; at += QG_CHUNK) {
            size_t n = qg_smaller(a->cols - at, QG_CHUNK), first = row * a->cols + at;
            uint8_t *restrict codes = (uint8_t *)a->out[0].data + first;
            qg_load(&a->in[0], first, n, f);
            QG_FOR_DTYPE(T, a->dtype, round_fp8(T, n, f, scale));
            for (size_t i = 0; i < n; i++)
                codes[i] = qg_e4m3_of(f[i]);
        }
    }
}

static void decode_fp8(const uint8_t *restrict codes, size_t n, float scale, float *restrict f)
{
    for (size_t i = 0; i < n; i++)
        f[i] = qg_e4m3_value(codes[i]) * scale;
}

/* --- dequant and matmul ---------------------------------------------------------------------- */

/* Elements at .. at+n of row `row`, which lie in one group, before R(.). */
static void decode(const struct qg_args *a, const struct qg_tensor *planes, size_t row, size_t at,
                   size_t n, float *f)
{
    size_t first = row * a->cols + at;
    float scale = qg_get(&planes[1], first / qg_group(a));
    const uint32_t *words = planes[0].data;
    if (planes[0].dtype == QG_E4M3)
        decode_fp8((const uint8_t *)planes[0].data + first, n, scale, f);
    else if (a->scheme->operand[a->operand].code_bits == 4)
        decode_int(4, words + row * planes[0].shape[1], at, n, scale, f);
    else
        decode_int(8, words + row * planes[0].shape[1], at, n, scale, f);
}

static void dequant(const struct qg_args *a)
{
    float f[QG_CHUNK];
    for (size_t row = 0; row < a->rows; row++)
        for (struct piece p = {0, 0}; next_piece(&p, qg_group(a), a->cols);) {
            decode(a, a->in, row, p.at, p.n, f);
            qg_store(&a->out[0], row * a->cols + p.at, p.n, f);
        }
}

static void weights(const struct qg_args *a, size_t row, size_t at, size_t n, float *w)
{
    for (struct piece p = {at, 0}; next_piece(&p, qg_group(a), at + n);)
        decode(a, a->in + 1, row, p.at, p.n, w + (p.at - at));
    QG_FOR_DTYPE(T, a->dtype, for (size_t i = 0; i < n; i++) w[i] = qg_round_as(T, w[i]));
}

static void inputs_fp8(const struct qg_args *a, float *x, float *scales)
{
    (void)scales;
    struct qg_tensor y = {.dtype = QG_F32, .data = x};
    for (size_t row = 0; row < a->m; row++)
        QG_FOR_DTYPE(T, a->dtype, fake_quant_row(a, T, row, &y));
}

static const struct qg_product plain = {weights, qg_inputs_plain, NULL};
static const struct qg_product dynamic = {weights, inputs_fp8, NULL};
QG_MATMUL(plain)
QG_LORA(plain)
QG_MATMUL(dynamic)

#define ROW(s, what, o, f)                                                            \
    {                                                                                 \
        .scheme = s, .backend = "c", .variant = "", .op = o, .operand = what, .fn = f \
    }
#define ROWS(s, what, fake, convert)                                      \
    ROW(s, what, QG_FAKE_QUANT, fake), ROW(s, what, QG_CONVERT, convert), \
        ROW(s, what, QG_DEQUANT, dequant)

const struct qg_kernel qg_kernels_compressed_tensors_c[] = {
    ROWS("ct-int4", QG_WEIGHT, fake_quant_int, convert_int4),
    ROWS("ct-int8", QG_WEIGHT, fake_quant_int, convert_int8),
    ROWS("ct-fp8", QG_WEIGHT, fake_quant_fp8, convert_fp8),
    ROWS("ct-fp8", QG_ACTIVATION, fake_quant_fp8, convert_fp8),
    QG_MATMUL_ROWS("ct-int4", plain),
    QG_LORA_ROWS("ct-int4", plain),
    QG_MATMUL_ROWS("ct-int8", plain),
    QG_LORA_ROWS("ct-int8", plain),
    QG_MATMUL_ROWS("ct-fp8", dynamic),
    {.scheme = NULL},
};
