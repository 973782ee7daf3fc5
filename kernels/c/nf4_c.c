/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of torchao's NF4. All distances of a piece to one number of the list at a time,
 * the nearest so far kept beside: a straight loop.
 */
#include "kernels/c/matmul.h"
#include "kernels/c/rows.h"
#include "kernels/kernel.h"
#include "schemes/num/codebook.h"
#include "schemes/num/torch_sum.h"

enum { BLOCK = 64, GROUP = 256 * BLOCK };

/* f: elements of whole blocks, absmax: one per block. */
QG_INLINE void nearest(enum qg_dtype t, size_t n, float *restrict f, const float *restrict absmax,
                       uint32_t *restrict code)
{
    float least[QG_CHUNK];
    for (size_t i = 0; i < n; i += BLOCK)
        for (size_t k = 0; k < BLOCK; k++)
            f[i + k] = qg_round_as(t, f[i + k] / absmax[i / BLOCK]);
    for (size_t i = 0; i < n; i++) {
        least[i] = fabsf(qg_round_as(t, f[i] + 1.0f));
        code[i] = 0;
    }
    for (uint32_t c = 1; c < 16; c++) {
        float place = qg_round_as(t, qg_nf4_short(c));
        for (size_t i = 0; i < n; i++) {
            float distance = fabsf(qg_round_as(t, f[i] - place));
            bool nearer = distance < least[i];
            least[i] = qg_pick_f32(nearer, distance, least[i]);
            code[i] = qg_pick(nearer, c, code[i]);
        }
    }
}

static void encode(const struct qg_args *a, const float *absmax)
{
    float f[QG_CHUNK];
    uint32_t code[QG_CHUNK];
    uint8_t *packed = a->out[0].data;
    for (size_t at = 0; at < a->rows * a->cols; at += QG_CHUNK) {
        qg_load(&a->in[0], at, QG_CHUNK, f);
        QG_FOR_DTYPE(T, a->dtype, nearest(T, QG_CHUNK, f, absmax + at / BLOCK, code));
        for (size_t j = 0; j < QG_CHUNK / 2; j++)
            packed[at / 2 + j] = (uint8_t)(code[2 * j] << 4 | code[2 * j + 1]);
    }
}

/* 256 scalers, less their mean, to int8; returns their factor. */
static float encode_scalers(enum qg_dtype t, const float *absmax, float mean, int8_t *scalers)
{
    float less[GROUP / BLOCK];
    for (size_t j = 0; j < GROUP / BLOCK; j++)
        less[j] = qg_round_as(t, absmax[j] - mean);
    float twice = qg_round_as(t, 2.0f * qg_amax_of(GROUP / BLOCK, less));
    float factor = qg_round_as(t, qg_round_as(t, 1.0f / twice) * 256.0f);
    for (size_t j = 0; j < GROUP / BLOCK; j++)
        scalers[j] = (int8_t)qg_int_small(qg_limit(qg_round_as(t, less[j] * factor), -128, 127));
    return factor;
}

static void convert(const struct qg_args *a)
{
    enum qg_dtype t = a->dtype;
    size_t n = a->rows * a->cols / BLOCK;
    float *absmax = a->work;
    for (size_t j = 0; j < n; j++)
        absmax[j] = qg_amax_at(&a->in[0], j * BLOCK, BLOCK);
    float mean = qg_round_as(t, qg_torch_mean(absmax, n));
    qg_put(&a->out[3], 0, mean);
    for (size_t j = 0; j < n; j += GROUP / BLOCK)
        qg_put(&a->out[2], j / (GROUP / BLOCK),
               encode_scalers(t, absmax + j, mean, (int8_t *)a->out[1].data + j));
    encode(a, absmax);
}

/* Elements at .. at+n of the flattened tensor, in part of a block. */
static void decode_part(const struct qg_args *a, const struct qg_tensor *planes, size_t at,
                        size_t n, float *restrict f)
{
    enum qg_dtype t = a->dtype;
    const uint8_t *packed = planes[0].data;
    float value[16], scaler = ((const int8_t *)planes[1].data)[at / BLOCK];
    scaler = qg_round_as(t, scaler / qg_get(&planes[2], at / GROUP));
    scaler = qg_round_as(t, scaler + qg_get(&planes[3], 0));
    for (unsigned c = 0; c < 16; c++)
        value[c] = qg_round_as(t, qg_round_as(t, qg_nf4_short(c)) * scaler);
    for (size_t i = 0; i < n; i++)
        f[i] = value[packed[(at + i) / 2] >> (4 - (at + i) % 2 * 4) & 15];
}

static void decode(const struct qg_args *a, const struct qg_tensor *planes, size_t at, size_t n,
                   float *f)
{
    for (size_t i = 0; i < n;) {
        size_t part = qg_smaller(BLOCK - (at + i) % BLOCK, n - i);
        decode_part(a, planes, at + i, part, f + i);
        i += part;
    }
}

static void dequant(const struct qg_args *a)
{
    float f[QG_CHUNK];
    for (size_t at = 0; at < a->rows * a->cols; at += QG_CHUNK) {
        decode(a, a->in, at, QG_CHUNK, f);
        qg_store(&a->out[0], at, QG_CHUNK, f);
    }
}

static void weights(const struct qg_args *a, size_t row, size_t at, size_t n, float *w)
{
    decode(a, a->in + 1, row * a->cols + at, n, w);
}

static const struct qg_product product = {weights, qg_inputs_plain, NULL};
QG_MATMUL(product)
QG_LORA(product)

#define ROW(o, f)                                                                              \
    {                                                                                          \
        .scheme = "nf4", .backend = "c", .variant = "", .op = o, .operand = QG_WEIGHT, .fn = f \
    }

const struct qg_kernel qg_kernels_nf4_c[] = {
    ROW(QG_CONVERT, convert),     ROW(QG_DEQUANT, dequant), QG_MATMUL_ROWS("nf4", product),
    QG_LORA_ROWS("nf4", product), {.scheme = NULL},
};
