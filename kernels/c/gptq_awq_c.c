/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of gptq and awq. Both store their planes transposed: convert works on one row of
 * the weight at a time and scatters it, dequant gathers a row.
 *
 * R(.) of what is stored in the dtype that it rounds to is left to the store.
 */
#include "kernels/c/matmul.h"
#include "kernels/c/rows.h"
#include "kernels/kernel.h"

enum { GROUP, WRITER, SYM };
enum writer { AUTOGPTQ, GPTQMODEL, GPTQMODEL_V2 };

/* The grid of a group: codes are of x / scale, and zero stands for 0. */
struct grid {
    float scale, zero;
};

static uint32_t whole(float x)
{
    return x >= 0 && x < 0x1p31f ? (uint32_t)x : 0;
}

/* The smallest and the largest of n > 0 elements, first rounded to binary16 where `half`. */
static struct qg_span span_at(const struct qg_tensor *x, size_t at, size_t n, bool half)
{
    float f[QG_CHUNK];
    struct qg_span all = {INFINITY, -INFINITY};
    for (size_t i = 0; i < n; i += QG_CHUNK) {
        size_t part = qg_smaller(n - i, QG_CHUNK);
        qg_load(x, at + i, part, f);
        for (size_t j = 0; half && j < part; j++)
            f[j] = qg_f16_round(f[j]);
        struct qg_span span = qg_span_of(part, f);
        all.min = qg_min(all.min, span.min);
        all.max = qg_max(all.max, span.max);
    }
    return all;
}

/* --- gptq ------------------------------------------------------------------------------------ */

static struct grid gptq_grid(const struct qg_args *a, size_t at)
{
    struct qg_span span = span_at(&a->in[0], at, qg_group(a), false);
    float low = qg_min(span.min, 0.0f), high = qg_max(span.max, 0.0f);
    if (a->param[SYM] == 1) {
        high = qg_max(-low, high);
        low = low < 0 ? -high : low;
    }
    if ((low == 0) & (high == 0))
        low = -1.0f, high = 1.0f;
    float scale = (high - low) / 15.0f, zero = qg_rint(-low / scale);
    return (struct grid){scale, a->param[SYM] == 1 ? 8.0f : zero};
}

/* s (q - z). */
static void gptq_round(size_t n, float *restrict f, struct grid g)
{
    float scale = g.scale == 0 ? 0x1p-126f : g.scale;
    float zero = g.scale == 0 && g.zero - g.zero != 0 ? 0.0f : g.zero;
    for (size_t i = 0; i < n; i++)
        f[i] = scale * (qg_limit(qg_rint_small(f[i] / scale) + zero, 0.0f, 15.0f) - zero);
}

static void gptq_fake_quant(const struct qg_args *a)
{
    size_t group = qg_group(a);
    float f[QG_CHUNK];
    for (size_t at = 0; at < a->rows * a->cols; at += group) {
        struct grid g = gptq_grid(a, at);
        for (size_t i = 0; i < group; i += QG_CHUNK) {
            size_t n = qg_smaller(group - i, QG_CHUNK);
            qg_load(&a->in[0], at + i, n, f);
            gptq_round(n, f, g);
            qg_store(&a->out[0], at + i, n, f);
        }
    }
}

/* Codes of n elements that gptq_round and R(.) have rounded. */
QG_INLINE void gptq_encode(enum qg_dtype t, size_t n, const float *restrict f, struct grid g,
                           bool clamps, uint32_t *restrict codes)
{
    float zero = g.zero * g.scale, divisor = clamps ? g.scale : qg_f16_round(g.scale);
    for (size_t i = 0; i < n; i++) {
        float q = qg_rint_small((qg_round_as(t, f[i]) + zero) / divisor);
        codes[i] = whole(clamps ? qg_limit(q, 0.0f, 15.0f) : q);
    }
}

/* Row `row`: its codes to `codes`, its scales and zero points to their planes. */
static void gptq_row(const struct qg_args *a, size_t row, uint32_t *codes)
{
    size_t group = qg_group(a);
    uint32_t *zeros = a->out[1].data, shift = (uint32_t)(row % 8) * 4;
    bool clamps = a->param[WRITER] != AUTOGPTQ;
    float f[QG_CHUNK];
    for (size_t at = 0; at < a->cols; at += group) {
        struct grid g = gptq_grid(a, row * a->cols + at);
        qg_put(&a->out[2], at / group * a->rows + row, g.scale);
        zeros[at / group * (a->rows / 8) + row / 8] |= (whole(g.zero) - !clamps) << shift;
        for (size_t i = 0; i < group; i += QG_CHUNK) {
            size_t n = qg_smaller(group - i, QG_CHUNK);
            qg_load(&a->in[0], row * a->cols + at + i, n, f);
            gptq_round(n, f, g);
            QG_FOR_DTYPE(T, a->dtype, gptq_encode(T, n, f, g, clamps, codes + at + i));
        }
    }
}

static void gptq_convert(const struct qg_args *a)
{
    uint32_t *codes = (uint32_t *)a->work, *words = a->out[0].data, *zeros = a->out[1].data;
    int32_t *g_idx = a->out[3].data;
    memset(zeros, 0, qg_bytes(&a->out[1]));
    for (size_t row = 0; row < a->rows; row++) {
        gptq_row(a, row, codes);
        for (size_t k = 0; k < a->cols; k += 8) {
            uint32_t word = 0;
            for (size_t j = 0; j < 8; j++)
                word |= codes[k + j] << (4 * j);
            words[k / 8 * a->rows + row] = word;
        }
    }
    for (size_t i = 0; a->param[WRITER] == GPTQMODEL && i < qg_count(&a->out[1]); i++)
        zeros[i] -= 0x11111111u;
    for (size_t k = 0; k < a->cols; k++)
        g_idx[k] = (int32_t)(k / qg_group(a));
}

/* R16 of s (q - z) for all codes of a group of row `row`; NaN for a group that there is not. */
static void gptq_table(const struct qg_args *a, const struct qg_tensor *planes, size_t row,
                       size_t group, float *restrict table)
{
    const uint32_t *zeros = planes[1].data;
    const uint16_t *scales = planes[2].data;
    bool there = group < planes[2].shape[0];
    uint32_t before = a->param[WRITER] == GPTQMODEL ? 0x11111111u : 0;
    uint32_t word = there ? zeros[group * (a->rows / 8) + row / 8] + before : 0;
    uint32_t zero = ((word >> row % 8 * 4 & 15) + (a->param[WRITER] == AUTOGPTQ)) & 15;
    float scale = there ? qg_f16_value(scales[group * a->rows + row]) : NAN;
    for (int q = 0; q < 16; q++)
        table[q] = qg_f16_round(scale * (float)(q - (int)zero));
}

/* Elements at .. at+n of row `row`. */
static void gptq_decode(const struct qg_args *a, const struct qg_tensor *planes, size_t row,
                        size_t at, size_t n, float *f)
{
    const uint32_t *words = planes[0].data, *g_idx = planes[3].data;
    float table[16];
    for (size_t k = at; k < at + n; k++) {
        if (k == at || g_idx[k] != g_idx[k - 1])
            gptq_table(a, planes, row, g_idx[k], table);
        f[k - at] = table[words[k / 8 * a->rows + row] >> (k % 8 * 4) & 15];
    }
}

/* --- awq ------------------------------------------------------------------------------------- */

/* All in dtype t. Quotients beyond 32 end at a code's limit however large they are. */
QG_INLINE struct grid awq_grid(enum qg_dtype t, struct qg_span span)
{
    float range = qg_max(qg_round_as(t, span.max - span.min), qg_round_as(t, 1e-5f));
    float scale = qg_round_as(t, range / 15.0f);
    float low = qg_limit(qg_round_as(t, span.min / scale), -32.0f, 32.0f);
    return (struct grid){scale, qg_limit(-qg_rint_small(low), 0.0f, 15.0f)};
}

/* R(s (q - z)), without R for binary32. */
QG_INLINE void awq_round(enum qg_dtype t, size_t n, float *restrict f, struct grid g)
{
    for (size_t i = 0; i < n; i++) {
        float u = qg_limit(qg_round_as(t, f[i] / g.scale), -32.0f, 32.0f);
        float q = qg_limit(qg_rint_small(u) + g.zero, 0.0f, 15.0f);
        f[i] = qg_round_as(t, (q - g.zero) * g.scale);
    }
}

QG_INLINE void awq_fake_group(const struct qg_args *a, enum qg_dtype t, size_t at, size_t group)
{
    float f[QG_CHUNK];
    struct grid g = awq_grid(t, span_at(&a->in[0], at, group, false));
    for (size_t i = 0; i < group; i += QG_CHUNK) {
        size_t n = qg_smaller(group - i, QG_CHUNK);
        qg_load(&a->in[0], at + i, n, f);
        awq_round(t, n, f, g);
        qg_store(&a->out[0], at + i, n, f);
    }
}

static void awq_fake_quant(const struct qg_args *a)
{
    size_t group = qg_group(a);
    for (size_t at = 0; at < a->rows * a->cols; at += group)
        QG_FOR_DTYPE(T, a->dtype, awq_fake_group(a, T, at, group));
}

/* Where row n of eight lies in a word. */
static uint32_t awq_shift(size_t row)
{
    static const uint8_t nibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    return nibble[row % 8] * 4u;
}

static void awq_encode(size_t n, float *restrict f, struct grid g, uint32_t *restrict codes)
{
    float zero = qg_f16_round(g.zero * g.scale);
    for (size_t i = 0; i < n; i++)
        f[i] = qg_f16_round(f[i]);
    awq_round(QG_F16, n, f, g);
    for (size_t i = 0; i < n; i++)
        codes[i] = whole(qg_rint_small(qg_f16_round(qg_f16_round(f[i] + zero) / g.scale)));
}

static void awq_row(const struct qg_args *a, size_t row, uint32_t *codes)
{
    size_t group = qg_group(a), k = a->cols;
    uint32_t *zeros = (uint32_t *)a->out[1].data + row / 8;
    float f[QG_CHUNK];
    for (size_t at = 0; at < k; at += group) {
        struct grid g = awq_grid(QG_F16, span_at(&a->in[0], row * k + at, group, true));
        qg_put(&a->out[2], at / group * a->rows + row, g.scale);
        zeros[at / group * (a->rows / 8)] |= whole(g.zero) << awq_shift(row);
        for (size_t i = 0; i < group; i += QG_CHUNK) {
            size_t n = qg_smaller(group - i, QG_CHUNK);
            qg_load(&a->in[0], row * k + at + i, n, f);
            awq_encode(n, f, g, codes + at + i);
        }
    }
}

static void awq_convert(const struct qg_args *a)
{
    uint32_t *codes = (uint32_t *)a->work, *words = a->out[0].data;
    memset(a->out[0].data, 0, qg_bytes(&a->out[0]));
    memset(a->out[1].data, 0, qg_bytes(&a->out[1]));
    for (size_t row = 0; row < a->rows; row++) {
        awq_row(a, row, codes);
        for (size_t k = 0; k < a->cols; k++)
            words[k * (a->rows / 8) + row / 8] |= codes[k] << awq_shift(row);
    }
}

/* What the codes of a group stand for. */
static void awq_table(uint16_t scale, uint32_t zero, float *restrict table)
{
    for (int q = 0; q < 16; q++)
        table[q] = qg_f16_round((float)(q - (int)zero) * qg_f16_value(scale));
}

static void awq_decode(const struct qg_args *a, const struct qg_tensor *planes, size_t row,
                       size_t at, size_t n, float *f)
{
    size_t group = qg_group(a), wide = a->rows / 8;
    const uint32_t *words = (const uint32_t *)planes[0].data + row / 8;
    const uint32_t *zeros = (const uint32_t *)planes[1].data + row / 8;
    const uint16_t *scales = planes[2].data;
    uint32_t shift = awq_shift(row);
    float table[16];
    for (size_t k = at; k < at + n; k++) {
        if (k == at || k % group == 0)
            awq_table(scales[k / group * a->rows + row], zeros[k / group * wide] >> shift & 15,
                      table);
        f[k - at] = table[words[k * wide] >> shift & 15];
    }
}

/* --- dequant and matmul ---------------------------------------------------------------------- */

typedef void decode_fn(const struct qg_args *a, const struct qg_tensor *planes, size_t row,
                       size_t at, size_t n, float *f);

static void dequant(const struct qg_args *a, decode_fn *decode)
{
    float f[QG_CHUNK];
    for (size_t row = 0; row < a->rows; row++)
        for (size_t at = 0; at < a->cols; at += QG_CHUNK) {
            size_t n = qg_smaller(a->cols - at, QG_CHUNK);
            decode(a, a->in, row, at, n, f);
            qg_store(&a->out[0], row * a->cols + at, n, f);
        }
}

static void gptq_dequant(const struct qg_args *a)
{
    dequant(a, gptq_decode);
}

static void awq_dequant(const struct qg_args *a)
{
    dequant(a, awq_decode);
}

static void gptq_weights(const struct qg_args *a, size_t row, size_t at, size_t n, float *w)
{
    gptq_decode(a, a->in + 1, row, at, n, w);
    QG_FOR_DTYPE(T, a->dtype, for (size_t i = 0; i < n; i++) w[i] = qg_round_as(T, w[i]));
}

static void awq_weights(const struct qg_args *a, size_t row, size_t at, size_t n, float *w)
{
    awq_decode(a, a->in + 1, row, at, n, w);
}

static void awq_inputs(const struct qg_args *a, float *x, float *scales)
{
    (void)scales;
    size_t n = a->m * a->cols;
    qg_load(&a->in[0], 0, n, x);
    for (size_t i = 0; i < n; i++)
        x[i] = qg_f16_round(x[i]);
}

static void awq_finish(const struct qg_args *a, size_t row, size_t n, float x_scale, float *sum)
{
    (void)a, (void)row, (void)x_scale;
    for (size_t i = 0; i < n; i++)
        sum[i] = qg_f16_round(sum[i]);
}

static const struct qg_product gptq = {gptq_weights, qg_inputs_plain, NULL};
static const struct qg_product awq = {awq_weights, awq_inputs, awq_finish};
QG_MATMUL(gptq)
QG_LORA(gptq)
QG_MATMUL(awq)
QG_LORA(awq)

#define ROW(s, o, f)                                                                       \
    {                                                                                      \
        .scheme = s, .backend = "c", .variant = "", .op = o, .operand = QG_WEIGHT, .fn = f \
    }
#define ROWS(s, fake, convert, dequant) \
    ROW(s, QG_FAKE_QUANT, fake), ROW(s, QG_CONVERT, convert), ROW(s, QG_DEQUANT, dequant)

const struct qg_kernel qg_kernels_gptq_awq_c[] = {
    ROWS("gptq", gptq_fake_quant, gptq_convert, gptq_dequant),
    ROWS("awq", awq_fake_quant, awq_convert, awq_dequant),
    QG_MATMUL_ROWS("gptq", gptq),
    QG_LORA_ROWS("gptq", gptq),
    QG_MATMUL_ROWS("awq", awq),
    QG_LORA_ROWS("awq", awq),
    {.scheme = NULL},
};
