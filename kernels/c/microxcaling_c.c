/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of mxfp4-mxc: scales and codes from bits and thresholds (kernels/powers.h).
 */
#include "kernels/c/matmul.h"
#include "kernels/c/rows.h"
#include "kernels/kernel.h"
#include "kernels/powers.h"

enum { BLOCK = 32 };

/* 2^(exponent of the block's scale), and its byte; NaN and 255 for a block that is not finite. */
static float scale_of(enum qg_dtype t, const float *f, uint8_t *ret_byte)
{
    *ret_byte = (uint8_t)qg_power_by_log2(t, qg_amax_of(BLOCK, f));
    return qg_e8m0_decode((qg_e8m0){*ret_byte});
}

QG_INLINE float decode(uint32_t code)
{
    static const float magnitude[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    float m = magnitude[code & 7u];
    return code & 8u ? -m : m;
}

static void fake_quant(const struct qg_args *a)
{
    float f[BLOCK], lowest = qg_e2m1_lowest(a->dtype);
    uint8_t byte;
    for (size_t at = 0; at < a->rows * a->cols; at += BLOCK) {
        qg_load(&a->in[0], at, BLOCK, f);
        float scale = scale_of(a->dtype, f, &byte);
        for (size_t i = 0; i < BLOCK; i++) {
            float u = qg_round_as(a->dtype, f[i] / scale);
            f[i] = u != u ? u : decode(qg_e2m1_away(lowest, u)) * scale;
        }
        qg_store(&a->out[0], at, BLOCK, f);
    }
}

static void convert(const struct qg_args *a)
{
    float f[BLOCK], lowest = qg_e2m1_lowest(a->dtype);
    uint8_t *codes = a->out[0].data, *scales = a->out[1].data;
    for (size_t at = 0; at < a->rows * a->cols; at += BLOCK) {
        qg_load(&a->in[0], at, BLOCK, f);
        float scale = scale_of(a->dtype, f, &scales[at / BLOCK]);
        for (size_t i = 0; i < BLOCK; i += 2) {
            uint32_t even = qg_e2m1_away(lowest, qg_round_as(a->dtype, f[i] / scale));
            uint32_t odd = qg_e2m1_away(lowest, qg_round_as(a->dtype, f[i + 1] / scale));
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
