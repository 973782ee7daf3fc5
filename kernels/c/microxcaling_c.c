/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of mxfp4-mxc. An element's code is the number of thresholds that its magnitude
 * reaches: the midpoints of the grid. The lowest of them gives way by one place of the tensor's
 * dtype, because 1/2 added to the number just below it rounds to 1.
 */
#include "kernels/c/matmul.h"
#include "kernels/c/rows.h"
#include "kernels/kernel.h"

enum { BLOCK = 32 };

static float lowest_threshold(enum qg_dtype t)
{
    return t == QG_BF16 ? 0x1.fep-3f : 0x1.fffffep-3f;
}

/* 2^(exponent of the block's scale), and its byte; NaN and 255 for a block that is not finite. */
static float scale_of(enum qg_dtype t, const float *f, uint8_t *ret_byte)
{
    float amax = qg_amax_of(BLOCK, f);
    *ret_byte = 255;
    if (!(amax <= 0x1.fffffep127f))
        return NAN;
    float log = qg_round_as(t, log2f(amax > 0 ? amax : 0x1p-126f));
    int byte = (int)floorf(log) + 125;
    *ret_byte = (uint8_t)(byte > 0 ? byte : 0);
    return qg_f32_from_bits(byte > 0 ? (uint32_t)byte << 23 : 0x400000u);
}

/* Codes 0 .. 7, with bit 3 for x below 0; a NaN is 0. */
QG_INLINE uint32_t encode(float lowest, float u)
{
    float m = qg_f32_from_bits(qg_f32_bits(u) & 0x7fffffffu);
    uint32_t code = (uint32_t)(m >= lowest) + (m >= 0.75f) + (m >= 1.25f) + (m >= 1.75f) +
                    (m >= 2.5f) + (m >= 3.5f) + (m >= 5.0f);
    return code | (uint32_t)(u < 0) << 3;
}

QG_INLINE float decode(uint32_t code)
{
    static const float magnitude[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    float m = magnitude[code & 7u];
    return code & 8u ? -m : m;
}

static void fake_quant(const struct qg_args *a)
{
    float f[BLOCK], lowest = lowest_threshold(a->dtype);
    uint8_t byte;
    for (size_t at = 0; at < a->rows * a->cols; at += BLOCK) {
        qg_load(&a->in[0], at, BLOCK, f);
        float scale = scale_of(a->dtype, f, &byte);
        for (size_t i = 0; i < BLOCK; i++) {
            float u = qg_round_as(a->dtype, f[i] / scale);
            f[i] = u != u ? u : decode(encode(lowest, u)) * scale;
        }
        qg_store(&a->out[0], at, BLOCK, f);
    }
}

static void convert(const struct qg_args *a)
{
    float f[BLOCK], lowest = lowest_threshold(a->dtype);
    uint8_t *codes = a->out[0].data, *scales = a->out[1].data;
    for (size_t at = 0; at < a->rows * a->cols; at += BLOCK) {
        qg_load(&a->in[0], at, BLOCK, f);
        float scale = scale_of(a->dtype, f, &scales[at / BLOCK]);
        for (size_t i = 0; i < BLOCK; i += 2) {
            uint32_t even = encode(lowest, qg_round_as(a->dtype, f[i] / scale));
            uint32_t odd = encode(lowest, qg_round_as(a->dtype, f[i + 1] / scale));
            codes[(at + i) / 2] = (uint8_t)(even | odd << 4);
        }
    }
}

/* Elements at .. at+n of the tensor. */
static void values(const struct qg_tensor *planes, size_t at, size_t n, float *f)
{
    const uint8_t *codes = planes[0].data;
    for (size_t i = 0; i < n; i++)
        f[i] = decode((uint32_t)codes[(at + i) / 2] >> ((at + i) % 2 * 4) & 15u) *
               qg_get(&planes[1], (at + i) / BLOCK);
}

static void dequant(const struct qg_args *a)
{
    float f[BLOCK];
    for (size_t at = 0; at < a->rows * a->cols; at += BLOCK) {
        values(a->in, at, BLOCK, f);
        qg_store(&a->out[0], at, BLOCK, f);
    }
}

static void weights(const struct qg_args *a, size_t row, size_t at, size_t n, float *w)
{
    values(a->in + 1, row * a->cols + at, n, w);
    for (size_t i = 0; i < n; i++)
        w[i] = qg_round_as(a->dtype, w[i]);
}

static const struct qg_product product = {weights, qg_inputs_plain, NULL};
QG_MATMUL(product)

#define ROW(o, f)                                                                            \
    {                                                                                        \
        .scheme = "mxfp4-mxc", .backend = "c", .variant = "", .op = o, .operand = QG_WEIGHT, \
        .fn = f                                                                              \
    }

const struct qg_kernel qg_kernels_microxcaling_c[] = {
    ROW(QG_FAKE_QUANT, fake_quant),       ROW(QG_CONVERT, convert), ROW(QG_DEQUANT, dequant),
    QG_MATMUL_ROWS("mxfp4-mxc", product), {.scheme = NULL},
};
