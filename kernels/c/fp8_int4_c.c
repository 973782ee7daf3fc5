/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of fp8-int4, fp8-int4-plain, fp8-int4-nocast and fp8-int4-old: a row at a time,
 * since its scale comes first, in pieces that fit on the stack.
 */
#include "kernels/c/fp8_c.h"
#include "kernels/c/intx_c.h"
#include "kernels/c/matmul.h"
#include "kernels/kernel.h"

enum { GROUP, ROW, ROW_EPS, PRODUCT, GRAD, BITS, CAST };
enum { ROW_FBGEMM, ROW_FBGEMM_CPU, ROW_MSLK };
enum { GRAD_TORCH, GRAD_IDEAL };
#define MAX_GROUP 256

static size_t group(const struct qg_args *a)
{
    return (size_t)a->param[GROUP];
}

/* --- prepare --------------------------------------------------------------------------------- */

QG_INLINE void fake_activation(const struct qg_args *a, bool cast)
{
    for (size_t at = 0; at < a->rows * a->cols; at += a->cols)
        qg_fp8_fake_c(a, at, a->cols, cast);
}

/* Codes are -half .. half - 1. */
static float half_of(const struct qg_args *a)
{
    return (float)(1 << ((int)a->param[BITS] - 1));
}

/* Stage 2 of a group of weights. */
struct stage2 {
    float amax, scale, inverse, half;
    bool by_amax; /* not by the lower bound */
};

static struct stage2 group_of(const struct qg_args *a, size_t n, const float *w8)
{
    enum qg_dtype t = a->dtype;
    float amax = qg_amax_of(n, w8), half = half_of(a), step = qg_round_as(t, amax / half);
    float scale = qg_max(step, qg_round_as(t, 1e-6f));
    return (struct stage2){amax, scale, qg_round_as(t, 1.0f / scale), half,
                           step >= qg_round_as(t, 1e-6f)};
}

/* Clamped before it is rounded: the order does not matter, and what is rounded is small or NaN. */
QG_INLINE void quantize(enum qg_dtype t, size_t n, float *restrict w8, struct stage2 g)
{
    for (size_t i = 0; i < n; i++) {
        float u = qg_limit(qg_round_as(t, w8[i] * g.inverse), -g.half, g.half - 1.0f);
        w8[i] = qg_rint_small(u) * g.scale;
    }
}

QG_INLINE void fake_weight(const struct qg_args *a, bool cast)
{
    enum qg_dtype t = a->dtype;
    float w8[MAX_GROUP];
    size_t g = group(a);
    for (size_t at = 0; at < a->rows * a->cols; at += a->cols) {
        float scale = qg_fp8_range_at(a, at, a->cols, qg_round_as(t, 1e-12f)).scale;
        for (size_t i = at; i < at + a->cols; i += g) {
            qg_load(&a->in[0], i, g, w8);
            qg_fp8_through(cast, t, g, w8, scale);
            struct stage2 s = group_of(a, g, w8);
            QG_FOR_DTYPE(T, t, quantize(T, g, w8, s));
            qg_store(&a->out[0], i, g, w8);
        }
    }
}

/* --- the gradient of prepare ----------------------------------------------------------------- */

QG_INLINE void grad_activation(const struct qg_args *a, bool cast)
{
    for (size_t at = 0; at < a->rows * a->cols; at += a->cols) {
        qg_load(&a->in[1], at, a->cols, a->work);
        qg_fp8_grad_c(a, at, a->cols, a->work, qg_fp8_range_at(a, at, a->cols, 0.0f), 0.0f, cast,
                      a->param[GRAD] == GRAD_TORCH);
    }
}

/* The elementwise part of a group's gradient: h from g = dL/dy to dL/dw8 without the scale's share;
 * the terms R(g q) and R(dq w8). round(u) is a code from -half - 0.5, a tie to even, to short of
 * half - 0.5. */
QG_INLINE void group_back(enum qg_dtype t, size_t n, const float *restrict w8, float *restrict h,
                          struct stage2 s, float *restrict by_product, float *restrict by_inverse)
{
    for (size_t j = 0; j < n; j++) {
        float u = qg_round_as(t, w8[j] * s.inverse);
        float q = qg_rint_small(qg_limit(u, -s.half, s.half - 1.0f));
        bool inside = (u >= -s.half - 0.5f) & (u < s.half - 0.5f);
        float dq = qg_pick_f32(inside, qg_round_as(t, h[j] * s.scale), 0.0f);
        by_product[j] = qg_round_as(t, h[j] * q);
        by_inverse[j] = qg_round_as(t, dq * w8[j]);
        h[j] = qg_round_as(t, dq * s.inverse);
    }
}

/* dL/dmax|w8| of a group, from the two sums, as autograd rounds it. */
static float share_of(enum qg_dtype t, struct stage2 s, float by_product, float by_inverse,
                      size_t ties)
{
    float squared = qg_round_as(t, s.inverse * s.inverse);
    float ds = qg_round_as(t, by_product + qg_round_as(t, -by_inverse * squared));
    return qg_round_as(t, qg_round_as(t, (s.by_amax ? ds : 0.0f) / s.half) /
                              qg_round_as(t, (float)ties));
}

static void grad_group(const struct qg_args *a, size_t n, const float *w8, float *h)
{
    enum qg_dtype t = a->dtype;
    float by_product[MAX_GROUP], by_inverse[MAX_GROUP];
    struct stage2 s = group_of(a, n, w8);
    QG_FOR_DTYPE(T, t, group_back(T, n, w8, h, s, by_product, by_inverse));
    float share =
        share_of(t, s, qg_round_as(t, (float)qg_sum_of(n, by_product)),
                 qg_round_as(t, (float)qg_sum_of(n, by_inverse)), qg_count_ties(n, w8, s.amax));
    QG_FOR_DTYPE(T, t,
                 for (size_t j = 0; j < n; j++) h[j] =
                     qg_round_as(T, h[j] + qg_part_of(share, w8[j], s.amax)));
}

QG_INLINE void grad_weight(const struct qg_args *a, bool cast)
{
    enum qg_dtype t = a->dtype;
    float w8[MAX_GROUP], *h = a->work, lower_bound = qg_round_as(t, 1e-12f);
    size_t g = group(a);
    for (size_t at = 0; at < a->rows * a->cols; at += a->cols) {
        struct qg_fp8_range r = qg_fp8_range_at(a, at, a->cols, lower_bound);
        qg_load(&a->in[1], at, a->cols, h);
        for (size_t i = 0; i < a->cols; i += g) {
            qg_load(&a->in[0], at + i, g, w8);
            qg_fp8_through(cast, t, g, w8, r.scale);
            grad_group(a, g, w8, h + i);
        }
        qg_fp8_grad_c(a, at, a->cols, h, r, lower_bound, cast, a->param[GRAD] == GRAD_TORCH);
    }
}

/* --- convert --------------------------------------------------------------------------------- */

static struct qg_fp8_factor row_factor(const struct qg_args *a, size_t at)
{
    float amax = qg_amax_at(&a->in[0], at, a->cols), eps = (float)a->param[ROW_EPS];
    if (a->param[ROW] == ROW_MSLK)
        return qg_fp8_by_scale(qg_max(amax, eps) / QG_E4M3_MAX);
    if (a->param[ROW] == ROW_FBGEMM)
        return qg_fp8_by_factor(QG_E4M3_MAX / qg_max(amax, eps));
    float factor = 1.0f / qg_max(amax, qg_round_as(a->dtype, eps)) * QG_E4M3_MAX;
    return qg_fp8_by_factor(factor == INFINITY ? 1.0f : factor);
}

static void encode(size_t n, const float *restrict f, float scale, float half,
                   uint8_t *restrict codes)
{
    for (size_t i = 0; i < n; i++)
        codes[i] = (uint8_t)qg_int_small(qg_limit(f[i] / scale, -half, half - 1.0f));
}

static void convert_weight(const struct qg_args *a)
{
    size_t g = group(a), k = a->cols;
    uint8_t *codes = (uint8_t *)a->work; // of a row: an odd group ends within a byte
    float f[MAX_GROUP];
    for (size_t row = 0; row < a->rows; row++) {
        struct qg_fp8_factor r = row_factor(a, row * k);
        qg_put(&a->out[2], row, r.scale);
        for (size_t at = 0; at < k; at += g) {
            qg_load(&a->in[0], row * k + at, g, f);
            qg_fp8_values(g, f, r);
            float scale = qg_max(qg_amax_of(g, f), 1e-6f) / half_of(a);
            encode(g, f, scale, half_of(a), codes + at);
            qg_put(&a->out[1], at / g * a->rows + row, scale);
        }
        qg_nibbles_pack(k, codes, (uint8_t *)a->out[0].data + row * (k / 2));
    }
}

static void convert_activation(const struct qg_args *a)
{
    for (size_t row = 0; row < a->rows; row++) {
        struct qg_fp8_factor r = row_factor(a, row * a->cols);
        ((float *)a->out[1].data)[row] = r.scale;
        qg_fp8_encode(a, row * a->cols, a->cols, r);
    }
}

/* --- dequant and matmul ---------------------------------------------------------------------- */

/* What the sixteen nibbles of a group stand for in the kernel's table. */
static void group_table(const struct qg_args *a, const struct qg_tensor *planes, size_t index,
                        float *restrict table)
{
    static const float magnitude[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 7, 6, 5, 4, 3, 2, 1};
    float s = qg_e4m3_value(((const uint8_t *)planes[1].data)[index]);
    bool exact = a->param[PRODUCT] == 1;
    for (uint32_t i = 0; i < 16; i++) {
        float product = magnitude[i] * s, rounded = qg_e4m3_round(product);
        uint32_t value = qg_f32_bits(exact ? product : rounded);
        uint32_t flip = i == 0 || i >= 8 ? 0x80000000u : 0; // -|q| s, also of q = 0
        table[i] = qg_f32_from_bits(value ^ flip);
    }
}

static void dequant_weight(const struct qg_args *a)
{
    size_t g = group(a), k = a->cols;
    float table[16];
    for (size_t row = 0; row < a->rows; row++)
        for (size_t at = 0; at < k; at += g) {
            group_table(a, a->in, at / g * a->rows + row, table);
            for (int i = 0; i < 16; i++)
                table[i] *= ((const float *)a->in[2].data)[row];
            qg_nibbles_store(&a->out[0], row * k + at,
                             (const uint8_t *)a->in[0].data + row * (k / 2), at, g, table);
        }
}

static void dequant_activation(const struct qg_args *a)
{
    for (size_t row = 0; row < a->rows; row++)
        qg_fp8_decode(a, row * a->cols, a->cols, ((const float *)a->in[1].data)[row]);
}

typedef void table_fn(const struct qg_args *a, const struct qg_tensor *planes, size_t index,
                      float *restrict table);

static void weights_by(table_fn *fill, const struct qg_args *a, size_t row, size_t at, size_t n,
                       float *w)
{
    size_t g = group(a), end = at + n;
    const uint8_t *codes = (const uint8_t *)a->in[1].data + row * (a->cols / 2);
    float table[16];
    while (at < end) {
        size_t part = qg_smaller((at / g + 1) * g, end) - at;
        fill(a, a->in + 1, at / g * a->rows + row, table);
        qg_nibbles_f32(codes, at, part, table, w);
        w += part;
        at += part;
    }
}

static void weights(const struct qg_args *a, size_t row, size_t at, size_t n, float *w)
{
    weights_by(group_table, a, row, at, n, w);
}

static void inputs(const struct qg_args *a, float *x, float *scales)
{
    for (size_t m = 0; m < a->m; m++) {
        struct qg_fp8_factor r = row_factor(a, m * a->cols);
        scales[m] = r.scale;
        qg_load(&a->in[0], m * a->cols, a->cols, x + m * a->cols);
        qg_fp8_values(a->cols, x + m * a->cols, r);
    }
}

/* First the scale of x, then that of the weight's row. */
static void finish(const struct qg_args *a, size_t row, size_t n, float x_scale, float *sum)
{
    const float *w_scales = (const float *)a->in[3].data + row;
    for (size_t i = 0; i < n; i++)
        sum[i] = w_scales[i] * (x_scale * sum[i]);
}

static const struct qg_product product = {weights, inputs, finish};
QG_MATMUL(product)

/* --- the plain packing ----------------------------------------------------------------------- */

static void convert_plain(const struct qg_args *a)
{
    size_t g = group(a), k = a->cols;
    uint8_t *codes = (uint8_t *)a->work; // of a row: an odd group ends within a byte
    float f[MAX_GROUP];
    for (size_t row = 0; row < a->rows; row++) {
        for (size_t at = 0; at < k; at += g) {
            qg_load(&a->in[0], row * k + at, g, f);
            float scale = qg_max(qg_amax_of(g, f), 1e-6f) / half_of(a);
            encode(g, f, scale, half_of(a), codes + at);
            qg_put(&a->out[1], at / g * a->rows + row, scale);
        }
        qg_nibbles_pack(k, codes, (uint8_t *)a->out[0].data + row * (k / 2));
    }
}

/* What the sixteen nibbles of a group stand for. */
static void plain_table(const struct qg_args *a, const struct qg_tensor *planes, size_t index,
                        float *restrict table)
{
    float s = qg_get(&planes[1], index);
    for (int i = 0; i < 16; i++) {
        float v = qg_round_as(planes[1].dtype, (float)(i < 8 ? i : i - 16) * s);
        table[i] = a->param[PRODUCT] == 1 ? v : qg_e4m3_round(v);
    }
}

static void dequant_plain(const struct qg_args *a)
{
    size_t g = group(a), k = a->cols;
    float table[16];
    for (size_t row = 0; row < a->rows; row++)
        for (size_t at = 0; at < k; at += g) {
            plain_table(a, a->in, at / g * a->rows + row, table);
            qg_nibbles_store(&a->out[0], row * k + at,
                             (const uint8_t *)a->in[0].data + row * (k / 2), at, g, table);
        }
}

static void plain_weights(const struct qg_args *a, size_t row, size_t at, size_t n, float *w)
{
    weights_by(plain_table, a, row, at, n, w);
}

static void plain_finish(const struct qg_args *a, size_t row, size_t n, float x_scale, float *sum)
{
    (void)a, (void)row;
    for (size_t i = 0; i < n; i++)
        sum[i] = x_scale * sum[i];
}

static const struct qg_product plain = {plain_weights, inputs, plain_finish};
QG_MATMUL(plain)

/* --- the rows -------------------------------------------------------------------------------- */

static void cast_fake_weight(const struct qg_args *a)
{
    fake_weight(a, true);
}
static void cast_grad_weight(const struct qg_args *a)
{
    grad_weight(a, true);
}
static void cast_fake_activation(const struct qg_args *a)
{
    fake_activation(a, true);
}
static void cast_grad_activation(const struct qg_args *a)
{
    grad_activation(a, true);
}
static void nocast_fake_weight(const struct qg_args *a)
{
    fake_weight(a, false);
}
static void nocast_grad_weight(const struct qg_args *a)
{
    grad_weight(a, false);
}
static void nocast_fake_activation(const struct qg_args *a)
{
    fake_activation(a, false);
}
static void nocast_grad_activation(const struct qg_args *a)
{
    grad_activation(a, false);
}

static void plain_fake_weight(const struct qg_args *a)
{
    fake_weight(a, a->param[CAST] == 0);
}
static void plain_grad_weight(const struct qg_args *a)
{
    grad_weight(a, a->param[CAST] == 0);
}
static void plain_fake_activation(const struct qg_args *a)
{
    fake_activation(a, a->param[CAST] == 0);
}
static void plain_grad_activation(const struct qg_args *a)
{
    grad_activation(a, a->param[CAST] == 0);
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
#define CONVERT(s)                                              \
    BITS(s, QG_WEIGHT, QG_CONVERT, convert_weight),             \
        BITS(s, QG_WEIGHT, QG_DEQUANT, dequant_weight),         \
        BITS(s, QG_ACTIVATION, QG_CONVERT, convert_activation), \
        BITS(s, QG_ACTIVATION, QG_DEQUANT, dequant_activation), QG_MATMUL_ROWS(s, product)

const struct qg_kernel qg_kernels_fp8_int4_c[] = {
    BITS("fp8-int4", QG_WEIGHT, QG_FAKE_QUANT, cast_fake_weight),
    BOUND("fp8-int4", QG_WEIGHT, cast_grad_weight),
    BITS("fp8-int4", QG_ACTIVATION, QG_FAKE_QUANT, cast_fake_activation),
    BOUND("fp8-int4", QG_ACTIVATION, cast_grad_activation),
    CONVERT("fp8-int4"),
    BITS("fp8-int4-plain", QG_WEIGHT, QG_FAKE_QUANT, plain_fake_weight),
    BOUND("fp8-int4-plain", QG_WEIGHT, plain_grad_weight),
    BITS("fp8-int4-plain", QG_ACTIVATION, QG_FAKE_QUANT, plain_fake_activation),
    BOUND("fp8-int4-plain", QG_ACTIVATION, plain_grad_activation),
    BITS("fp8-int4-plain", QG_WEIGHT, QG_CONVERT, convert_plain),
    BITS("fp8-int4-plain", QG_WEIGHT, QG_DEQUANT, dequant_plain),
    BITS("fp8-int4-plain", QG_ACTIVATION, QG_CONVERT, convert_activation),
    BITS("fp8-int4-plain", QG_ACTIVATION, QG_DEQUANT, dequant_activation),
    QG_MATMUL_ROWS("fp8-int4-plain", plain),
    BITS("fp8-int4-nocast", QG_WEIGHT, QG_FAKE_QUANT, nocast_fake_weight),
    BOUND("fp8-int4-nocast", QG_WEIGHT, nocast_grad_weight),
    BITS("fp8-int4-nocast", QG_ACTIVATION, QG_FAKE_QUANT, nocast_fake_activation),
    BOUND("fp8-int4-nocast", QG_ACTIVATION, nocast_grad_activation),
    CONVERT("fp8-int4-nocast"),
    BITS("fp8-int4-old", QG_WEIGHT, QG_FAKE_QUANT, qg_old_int4_fake_quant_c),
    BITS("fp8-int4-old", QG_WEIGHT, QG_FAKE_QUANT_GRAD, qg_old_int4_fake_quant_grad_c),
    BITS("fp8-int4-old", QG_ACTIVATION, QG_FAKE_QUANT, nocast_fake_activation),
    BOUND("fp8-int4-old", QG_ACTIVATION, nocast_grad_activation),
    CONVERT("fp8-int4-old"),
    {.scheme = NULL},
};
