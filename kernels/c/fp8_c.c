/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of fp8-fp8, fp8-fp8-tensor and fp8: a block at a time, since its scale comes
 * first, in pieces that fit on the stack.
 */
#include "kernels/c/fp8_c.h"
#include "kernels/c/matmul.h"
#include "kernels/kernel.h"

enum { CAST, GRAD, SCALE };
enum { SCALE_MSLK, SCALE_FBGEMM, SCALE_TORCH };

/* --- prepare --------------------------------------------------------------------------------- */

struct qg_fp8_range qg_fp8_range_at(const struct qg_args *a, size_t at, size_t n, float lower_bound)
{
    float amax = qg_amax_at(&a->in[0], at, n);
    return (struct qg_fp8_range){amax,
                                 qg_round_as(a->dtype, qg_max(amax, lower_bound) / QG_E4M3_MAX)};
}

/* e4m3(clamp(x / s, +-448)), or without e4m3. The rounding saturates: it needs no clamp before it.
 */
QG_INLINE float through_e4m3(bool cast, float x, float scale)
{
    float q = x / scale;
    return cast ? qg_e4m3_round(q) : qg_limit(q, -QG_E4M3_MAX, QG_E4M3_MAX);
}

QG_INLINE void through(bool cast, enum qg_dtype t, size_t n, float *restrict f, float scale)
{
    for (size_t i = 0; i < n; i++)
        f[i] = qg_round_as(t, through_e4m3(cast, f[i], scale) * scale);
}

void qg_fp8_through(bool cast, enum qg_dtype t, size_t n, float *f, float scale)
{
    if (cast)
        QG_FOR_DTYPE(T, t, through(true, T, n, f, scale));
    else
        QG_FOR_DTYPE(T, t, through(false, T, n, f, scale));
}

void qg_fp8_fake_c(const struct qg_args *a, size_t at, size_t n, bool cast)
{
    float f[QG_CHUNK], scale = qg_fp8_range_at(a, at, n, 0.0f).scale;
    for (size_t i = 0; i < n; i += QG_CHUNK) {
        size_t part = qg_smaller(n - i, QG_CHUNK);
        qg_load(&a->in[0], at + i, part, f);
        qg_fp8_through(cast, QG_F32, part, f, scale); // the store rounds
        qg_store(&a->out[0], at + i, part, f);
    }
}

/* --- the gradient of prepare ----------------------------------------------------------------- */

/* Two sums, each in pieces: the lanes of a piece, the rounds that join them, one addition per
 * piece. All in binary64, so the many pieces of a tensor are less than one addition of a row. */
size_t qg_fp8_grad_depth(size_t k)
{
    return QG_CHUNK / QG_LANES + 2 + 2 * ((k + QG_CHUNK - 1) / QG_CHUNK);
}

/* The gradient behind the cast to e4m3, which PyTorch casts as well. */
QG_INLINE float behind_cast(bool cast, float g)
{
    return cast ? qg_e4m3_round(g) : g;
}

/* What n elements of a block contribute to dL/dscale, the sum of h c - gamma v / s. */
QG_INLINE double scale_gradient(bool cast, bool cast_back, size_t n, const float *restrict x,
                                const float *restrict h, float scale)
{
    float c[QG_CHUNK], behind[QG_CHUNK], per_scale[QG_CHUNK];
    for (size_t j = 0; j < n; j++) {
        float v = x[j] / scale, gamma = behind_cast(cast_back, h[j] * scale);
        bool inside = (v >= -QG_E4M3_MAX) & (v <= QG_E4M3_MAX);
        c[j] = through_e4m3(cast, x[j], scale);
        behind[j] = qg_pick_f32(inside, gamma, 0.0f);
        per_scale[j] = v / scale;
    }
    return qg_sum_products(n, h, c) - qg_sum_products(n, behind, per_scale);
}

/* h = gamma / s in R, and the share of dL/dmax|x| at the extremes. */
QG_INLINE void pass_back(bool cast_back, enum qg_dtype t, size_t n, const float *restrict x,
                         float *restrict h, struct qg_fp8_range r, float share)
{
    for (size_t j = 0; j < n; j++) {
        float v = x[j] / r.scale, gamma = behind_cast(cast_back, h[j] * r.scale);
        bool inside = (v >= -QG_E4M3_MAX) & (v <= QG_E4M3_MAX);
        h[j] = qg_round_as(t, qg_pick_f32(inside, gamma, 0.0f) / r.scale);
    }
    for (size_t j = 0; j < n; j++)
        h[j] += qg_part_of(share, x[j], r.amax);
}

QG_INLINE void grad(const struct qg_args *a, size_t at, size_t count, float *h,
                    struct qg_fp8_range r, float lower_bound, bool cast, bool cast_back)
{
    enum qg_dtype t = a->dtype;
    float x[QG_CHUNK];
    double sum = 0;
    size_t ties = 0;
    for (size_t i = 0; i < count; i += QG_CHUNK) {
        size_t n = qg_smaller(count - i, QG_CHUNK);
        qg_load(&a->in[0], at + i, n, x);
        sum += scale_gradient(cast, cast_back, n, x, h + i, r.scale);
        ties += qg_count_ties(n, x, r.amax);
    }
    float ds = qg_round_as(t, (float)sum);
    float da = r.amax >= lower_bound ? qg_round_as(t, ds / QG_E4M3_MAX) : 0.0f;
    float share = qg_round_as(t, da / qg_round_as(t, (float)ties));
    for (size_t i = 0; i < count; i += QG_CHUNK) {
        size_t n = qg_smaller(count - i, QG_CHUNK);
        qg_load(&a->in[0], at + i, n, x);
        QG_FOR_DTYPE(T, t, pass_back(cast_back, T, n, x, h + i, r, share));
    }
    qg_store(&a->out[0], at, count, h);
}

void qg_fp8_grad_c(const struct qg_args *a, size_t at, size_t n, float *h, struct qg_fp8_range r,
                   float lower_bound, bool cast, bool cast_back)
{
    if (cast && cast_back)
        grad(a, at, n, h, r, lower_bound, true, true);
    else if (cast)
        grad(a, at, n, h, r, lower_bound, true, false);
    else
        grad(a, at, n, h, r, lower_bound, false, false);
}

/* --- convert --------------------------------------------------------------------------------- */

void qg_fp8_values(size_t n, float *restrict f, struct qg_fp8_factor r)
{
    if (r.factor != 0)
        for (size_t i = 0; i < n; i++)
            f[i] = qg_e4m3_round(f[i] * r.factor);
    else
        for (size_t i = 0; i < n; i++)
            f[i] = qg_e4m3_round(f[i] / r.scale);
}

void qg_fp8_encode(const struct qg_args *a, size_t at, size_t n, struct qg_fp8_factor r)
{
    float f[QG_CHUNK];
    for (size_t i = 0; i < n; i += QG_CHUNK) {
        size_t part = qg_smaller(n - i, QG_CHUNK);
        uint8_t *restrict codes = (uint8_t *)a->out[0].data + at + i;
        qg_load(&a->in[0], at + i, part, f);
        qg_fp8_values(part, f, r);
        for (size_t j = 0; j < part; j++)
            codes[j] = qg_e4m3_of(f[j]);
    }
}

void qg_fp8_decode(const struct qg_args *a, size_t at, size_t n, float scale)
{
    float f[QG_CHUNK];
    for (size_t i = 0; i < n; i += QG_CHUNK) {
        size_t part = qg_smaller(n - i, QG_CHUNK);
        const uint8_t *restrict codes = (const uint8_t *)a->in[0].data + at + i;
        for (size_t j = 0; j < part; j++)
            f[j] = qg_e4m3_value(codes[j]) * scale;
        qg_store(&a->out[0], at + i, part, f);
    }
}

/* --- the rows -------------------------------------------------------------------------------- */

/* Elements of x[rows,K] that share a scale: a row, or all of them. */
QG_INLINE size_t block(const struct qg_args *a, bool tensor, size_t rows)
{
    return tensor ? rows * a->cols : a->cols;
}

QG_INLINE void fake_quant(const struct qg_args *a, bool tensor)
{
    size_t n = block(a, tensor, a->rows);
    for (size_t at = 0; at < a->rows * a->cols; at += n)
        qg_fp8_fake_c(a, at, n, a->param[CAST] == 0);
}

QG_INLINE void fake_quant_grad(const struct qg_args *a, bool tensor)
{
    size_t n = block(a, tensor, a->rows);
    for (size_t at = 0; at < a->rows * a->cols; at += n) {
        qg_load(&a->in[1], at, n, a->work);
        qg_fp8_grad_c(a, at, n, a->work, qg_fp8_range_at(a, at, n, 0.0f), 0.0f, a->param[CAST] == 0,
                      a->param[GRAD] == 0);
    }
}

/* Of n elements of x. */
static struct qg_fp8_factor factor_of(const struct qg_args *a, double scale, size_t at, size_t n)
{
    float amax = qg_amax_at(&a->in[0], at, n);
    if (scale == SCALE_MSLK)
        return qg_fp8_by_scale(qg_max(amax, 0x1p-9f) / QG_E4M3_MAX);
    if (scale == SCALE_FBGEMM)
        return qg_fp8_by_factor(QG_E4M3_MAX / qg_max(amax, 1e-12f));
    return qg_fp8_by_scale(qg_round_as(a->dtype, amax / QG_E4M3_MAX));
}

QG_INLINE void convert(const struct qg_args *a, bool tensor, double scale)
{
    size_t n = block(a, tensor, a->rows);
    for (size_t at = 0; at < a->rows * a->cols; at += n) {
        struct qg_fp8_factor r = factor_of(a, scale, at, n);
        ((float *)a->out[1].data)[at / n] = r.scale;
        qg_fp8_encode(a, at, n, r);
    }
}

QG_INLINE void dequant(const struct qg_args *a, bool tensor)
{
    size_t n = block(a, tensor, a->rows);
    for (size_t at = 0; at < a->rows * a->cols; at += n)
        qg_fp8_decode(a, at, n, ((const float *)a->in[1].data)[at / n]);
}

QG_INLINE void inputs(const struct qg_args *a, bool tensor, double scale, float *x, float *scales)
{
    size_t n = block(a, tensor, a->m);
    qg_load(&a->in[0], 0, a->m * a->cols, x);
    for (size_t at = 0; at < a->m * a->cols; at += n) {
        struct qg_fp8_factor r = factor_of(a, scale, at, n);
        qg_fp8_values(n, x + at, r);
        for (size_t i = at; i < at + n; i += a->cols)
            scales[i / a->cols] = r.scale;
    }
}

/* The codes' values alone. */
static void weights(const struct qg_args *a, size_t row, size_t at, size_t n, float *w)
{
    const uint8_t *restrict codes = (const uint8_t *)a->in[1].data + row * a->cols + at;
    for (size_t i = 0; i < n; i++)
        w[i] = qg_e4m3_value(codes[i]);
}

/* First the scale of x, then that of the weight. */
static void row_finish(const struct qg_args *a, size_t row, size_t n, float x_scale, float *sum)
{
    const float *w_scales = (const float *)a->in[2].data + row;
    for (size_t i = 0; i < n; i++)
        sum[i] = w_scales[i] * (x_scale * sum[i]);
}

static void tensor_finish(const struct qg_args *a, size_t row, size_t n, float x_scale, float *sum)
{
    float w_scale = ((const float *)a->in[2].data)[0];
    (void)row;
    for (size_t i = 0; i < n; i++)
        sum[i] = w_scale * (x_scale * sum[i]);
}

static void row_inputs(const struct qg_args *a, float *x, float *scales)
{
    inputs(a, false, a->param[SCALE], x, scales);
}

static void tensor_inputs(const struct qg_args *a, float *x, float *scales)
{
    inputs(a, true, SCALE_TORCH, x, scales);
}

/* Dequantized to the dtype of x. */
static void weights_only(const struct qg_args *a, size_t row, size_t at, size_t n, float *w)
{
    float scale = ((const float *)a->in[2].data)[row];
    weights(a, row, at, n, w);
    for (size_t i = 0; i < n; i++)
        w[i] = qg_round_as(a->dtype, w[i] * scale);
}

static const struct qg_product by_row = {weights, row_inputs, row_finish};
static const struct qg_product by_tensor = {weights, tensor_inputs, tensor_finish};
static const struct qg_product plain = {weights_only, qg_inputs_plain, NULL};
QG_MATMUL(by_row)
QG_MATMUL(by_tensor)
QG_MATMUL(plain)
QG_LORA(plain)

static void fake_quant_row(const struct qg_args *a)
{
    fake_quant(a, false);
}
static void fake_quant_tensor(const struct qg_args *a)
{
    fake_quant(a, true);
}
static void grad_row(const struct qg_args *a)
{
    fake_quant_grad(a, false);
}
static void grad_tensor(const struct qg_args *a)
{
    fake_quant_grad(a, true);
}
static void convert_row(const struct qg_args *a)
{
    convert(a, false, a->param[SCALE]);
}
static void convert_tensor(const struct qg_args *a)
{
    convert(a, true, SCALE_TORCH);
}
static void convert_weight_only(const struct qg_args *a)
{
    convert(a, false, a->param[0]);
}
static void dequant_row(const struct qg_args *a)
{
    dequant(a, false);
}
static void dequant_tensor(const struct qg_args *a)
{
    dequant(a, true);
}

#define BITS(s, what, o, f)                                                           \
    {                                                                                 \
        .scheme = s, .backend = "c", .variant = "", .op = o, .operand = what, .fn = f \
    }
#define BOUND(s, what, f)                                                                      \
    {                                                                                          \
        .scheme = s, .backend = "c", .variant = "", .op = QG_FAKE_QUANT_GRAD, .operand = what, \
        .claim = QG_WITHIN_BOUND, .traits = QG_REORDERS, .depth = qg_fp8_grad_depth, .fn = f   \
    }
#define OPERAND(s, what, kind)                                                    \
    BITS(s, what, QG_FAKE_QUANT, fake_quant_##kind), BOUND(s, what, grad_##kind), \
        BITS(s, what, QG_CONVERT, convert_##kind), BITS(s, what, QG_DEQUANT, dequant_##kind)

const struct qg_kernel qg_kernels_fp8_c[] = {
    OPERAND("fp8-fp8", QG_WEIGHT, row),
    OPERAND("fp8-fp8", QG_ACTIVATION, row),
    QG_MATMUL_ROWS("fp8-fp8", by_row),
    OPERAND("fp8-fp8-tensor", QG_WEIGHT, tensor),
    OPERAND("fp8-fp8-tensor", QG_ACTIVATION, tensor),
    QG_MATMUL_ROWS("fp8-fp8-tensor", by_tensor),
    BITS("fp8", QG_WEIGHT, QG_CONVERT, convert_weight_only),
    BITS("fp8", QG_WEIGHT, QG_DEQUANT, dequant_row),
    QG_MATMUL_ROWS("fp8", plain),
    QG_LORA_ROWS("fp8", plain),
    {.scheme = NULL},
};
