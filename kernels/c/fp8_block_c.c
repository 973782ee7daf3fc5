/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of fp8-block: a tile at a time.
 */
#include "kernels/c/fp8_c.h"
#include "kernels/c/matmul.h"
#include "kernels/kernel.h"

enum { HF, DEEPSEEK, TORCHAO, TRAINING, FBGEMM, UNSLOTH };
enum { SIDE = 128, LANES = 16 };

static size_t along(const struct qg_args *a)
{
    return (a->cols + SIDE - 1) / SIDE;
}

/* Of a tile with this largest magnitude. */
static struct qg_fp8_factor factor_of(const struct qg_args *a, bool weight, float amax)
{
    float scale = amax / QG_E4M3_MAX;
    switch ((int)a->param[0]) {
    case TORCHAO:
        return qg_fp8_by_scale(qg_round_as(a->dtype, scale));
    case TRAINING:
        return qg_fp8_by_factor((float)(448.0 / (double)qg_max(amax, 1e-12f)));
    case FBGEMM:
        return qg_fp8_by_factor(QG_E4M3_MAX / qg_max(amax, 1e-12f));
    case UNSLOTH:
        scale = scale == 0 ? 1.0f : scale;
        break;
    default:
        break;
    }
    if (weight && a->param[0] != DEEPSEEK)
        return qg_fp8_by_factor(amax > 0 ? 1.0f / amax * QG_E4M3_MAX : 1.0f);
    return qg_fp8_by_scale(scale);
}

/* --- convert and dequant --------------------------------------------------------------------- */

static void convert(const struct qg_args *a, bool weight)
{
    size_t height = weight ? SIDE : 1;
    float *scales = a->out[1].data;
    for (size_t top = 0; top < a->rows; top += height) {
        size_t rows = qg_smaller(a->rows - top, height);
        for (size_t left = 0; left < a->cols; left += SIDE) {
            size_t at = top * a->cols + left, n = qg_smaller(a->cols - left, SIDE);
            float amax = 0.0f;
            for (size_t r = 0; r < rows; r++)
                amax = qg_max(amax, qg_amax_at(&a->in[0], at + r * a->cols, n));
            struct qg_fp8_factor f = factor_of(a, weight, amax);
            for (size_t r = 0; r < rows; r++)
                qg_fp8_encode(a, at + r * a->cols, n, f);
            *scales++ = f.scale;
        }
    }
}

static void convert_weight(const struct qg_args *a)
{
    convert(a, true);
}

static void convert_activation(const struct qg_args *a)
{
    convert(a, false);
}

static void dequant(const struct qg_args *a, size_t height)
{
    for (size_t row = 0; row < a->rows; row++) {
        const float *scales = (const float *)a->in[1].data + row / height * along(a);
        for (size_t left = 0; left < a->cols; left += SIDE)
            qg_fp8_decode(a, row * a->cols + left, qg_smaller(a->cols - left, SIDE),
                          scales[left / SIDE]);
    }
}

static void dequant_weight(const struct qg_args *a)
{
    dequant(a, SIDE);
}

static void dequant_activation(const struct qg_args *a)
{
    dequant(a, 1);
}

/* --- matmul ---------------------------------------------------------------------------------- */

/* Sixteen partial sums, then four rounds of halves. */
static float dot(size_t n, const float *restrict x, const float *restrict w)
{
    float lane[LANES] = {0};
    size_t whole = n / LANES * LANES;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t l = 0; l < LANES; l++)
            lane[l] += x[i + l] * w[i + l];
    for (size_t i = whole; i < n; i++)
        lane[i - whole] += x[i] * w[i];
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t l = 0; l < half; l++)
            lane[l] += lane[l + half];
    return lane[0];
}

/* Within a tile, then tile by tile. */
static size_t matmul_depth(size_t k)
{
    return SIDE / LANES + 4 + (k + SIDE - 1) / SIDE;
}

static void quantize_row(const struct qg_args *a, size_t m, float *x, float *scales)
{
    qg_load(&a->in[0], m * a->cols, a->cols, x);
    for (size_t left = 0; left < a->cols; left += SIDE) {
        size_t n = qg_smaller(a->cols - left, SIDE);
        struct qg_fp8_factor f = factor_of(a, false, qg_amax_of(n, x + left));
        qg_fp8_values(n, x + left, f);
        scales[left / SIDE] = f.scale;
    }
}

static void matmul(const struct qg_args *a)
{
    size_t k = a->cols;
    const uint8_t *codes = a->in[1].data;
    float *w = a->work, *x = w + a->rows * k, *x_scales = x + k;
    for (size_t i = 0; i < a->rows * k; i++)
        w[i] = qg_e4m3_value(codes[i]);
    for (size_t m = 0; m < a->m; m++) {
        quantize_row(a, m, x, x_scales);
        for (size_t n = 0; n < a->rows; n++) {
            const float *scales = (const float *)a->in[2].data + n / SIDE * along(a);
            float sum = 0.0f;
            for (size_t at = 0; at < k; at += SIDE)
                sum += dot(qg_smaller(k - at, SIDE), x + at, w + n * k + at) * x_scales[at / SIDE] *
                       scales[at / SIDE];
            qg_put(&a->out[0], m * a->rows + n, sum);
        }
    }
}

/* Scales with which no element of a scaled tile is subnormal or overflows. */
static bool are_moderate(size_t n, const float *scales)
{
    bool all = true;
    for (size_t i = 0; i < n; i++)
        all &= scales[i] == 0 || (scales[i] >= 0x1p-100f && scales[i] <= 0x1p100f);
    return all;
}

/* f[i] *= the scale of i's piece. */
static void apply_scales(size_t n, float *restrict f, const float *scales)
{
    for (size_t at = 0; at < n; at += SIDE)
        for (size_t i = at; i < qg_smaller(at + SIDE, n); i++)
            f[i] *= scales[at / SIDE];
}

/* Each scale goes to its side of the product beforehand. Codes times moderate scales are numbers
 * rounded once, so with its own rounding a product of both has the three that the bound allows, and
 * what it loses below 2^-126 is at most 2^-150, as there. Other scales (0 times inf, a tile of
 * subnormal numbers) are left to the plain kernel. */
static void matmul_blas(const struct qg_args *a)
{
    size_t m = a->m, n = a->rows, k = a->cols;
    const uint8_t *codes = a->in[1].data;
    const float *w_scales = a->in[2].data;
    float *x = a->work, *w = x + m * k, *scales = w + n * k, *y = scales + along(a);
    bool moderate = are_moderate(qg_count(&a->in[2]), w_scales);
    for (size_t i = 0; i < m; i++) {
        quantize_row(a, i, x + i * k, scales);
        moderate = moderate && are_moderate(along(a), scales);
        apply_scales(k, x + i * k, scales);
    }
    if (!moderate) {
        matmul(a);
        return;
    }
    for (size_t i = 0; i < n * k; i++)
        w[i] = qg_e4m3_value(codes[i]);
    for (size_t i = 0; i < n; i++)
        apply_scales(k, w + i * k, w_scales + i / SIDE * along(a));
    qg_sgemm(m, n, k, x, w, y);
    qg_store(&a->out[0], 0, m * n, y);
}

/* --- the rows -------------------------------------------------------------------------------- */

#define BITS(what, o, f)                                                                        \
    {                                                                                           \
        .scheme = "fp8-block", .backend = "c", .variant = "", .op = o, .operand = what, .fn = f \
    }

const struct qg_kernel qg_kernels_fp8_block_c[] = {
    BITS(QG_WEIGHT, QG_CONVERT, convert_weight),
    BITS(QG_WEIGHT, QG_DEQUANT, dequant_weight),
    BITS(QG_ACTIVATION, QG_CONVERT, convert_activation),
    BITS(QG_ACTIVATION, QG_DEQUANT, dequant_activation),
    {.scheme = "fp8-block",
     .backend = "c",
     .variant = "",
     .op = QG_MATMUL,
     .operand = QG_WEIGHT,
     .claim = QG_WITHIN_BOUND,
     .traits = QG_REORDERS,
     .depth = matmul_depth,
     .fn = matmul},
    QG_BLAS_ROW("fp8-block", NULL, matmul_blas),
    {.scheme = NULL},
};
