/* SPDX-License-Identifier: MIT
 *
 * fp8 activations x int4 weights: activations go to e4m3 per row at run time, weights to int4 in
 * two stages, first e4m3 per row, then 4 bits per group of the e4m3 codes. torchao's
 * Float8DynamicActivationInt4Weight with the preshuffled FBGEMM / MSLK kernel.
 *
 * Convert, on a row and then on a group of its codes:
 *
 *     r = 448 / max(max|w|, 1e-12)      c = e4m3(clamp(w r, +-448))      row scale 1/r, binary32
 *     s = max(max|c|, 1e-6) / 8         q = clamp(round(c / s), -8, 7)   group scale e4m3(s), exact
 *
 * Dividing by 8 makes the negative extreme exact and clips the positive one to 7. The kernel looks
 * up |q| s in a table that was rounded to e4m3 when the weights were packed, so the weight it
 * multiplies with is sign(q) e4m3(|q| s): exact for |q| = 1, 2, 4, 8, up to 4.8 % off for 3, 5,
 * 6, 7. That table, not the 4 bits, is most of the gap between prepare and convert (product=exact
 * leaves it out). A positive weight is stored as the negative of its table entry, so q = 0 is -0.
 *
 * Matmul: x by the same row quantizer; e4m3 x e4m3 products, binary32 sum; then
 * y = R(row scale of w * (scale of x * sum)), both products rounded to binary32, in this order.
 *
 * Prepare mimics the two stages in the weight's dtype, R(.) being a rounding to it: the row scale
 * is R(max|w| / 448), the group scale max(R(max|w8| / 8), eps) with eps after the division, and the
 * quotient is a product with R(1/s).
 *
 * Sources: prepare ao:torchao/quantization/qat/fake_quantizer.py _fp8_activations_forward and
 * Float8FakeQuantizer (pytorch/ao#2937); convert fbgemm:fbgemm_gpu/experimental/gen_ai/gen_ai/
 * quantize.py quantize_int4_preshuffle, fbgemm:.../triton_gemm/fp8_gemm.py quantize_fp8_row,
 * mslk:mslk/quantize/triton/fp8_quantize.py; table cutlass:tools/util/include/cutlass/util/
 * mixed_dtype_utils.hpp; matmul fbgemm:.../cutlass_extensions/f8i4bf16_shuffled.cu; plain
 * ao:torchao/quantization/quantize_/workflows/int4/int4_tensor.py, mslk:mslk/quantize/shuffle.py
 * int4_row_quantize, mslk:csrc/gemm/cutlass/f8i4bf16_rowwise.
 *
 * fp8-int4-plain is the same configuration in torchao's plain packing, whose convert is another
 * one: int4 of the weights themselves, with no e4m3 and no row scale between, R(.) a rounding to
 * the weight's dtype:
 *
 *     s = max(max|w|, 1e-6) / 8         q = clamp(round(w / s), -8, 7)   group scale R(s)
 *
 * Its kernel multiplies with e4m3(R(q R(s))). Without a scale that lifts them, weights of usual
 * size reach into e4m3's subnormal numbers below 2^-6, where the step is 2^-9 (product=exact leaves
 * that rounding out); y = R(scale of x * sum). QAT does not look at the packing: prepare is
 * fp8-int4's.
 *
 * bits = b of 2 or 3 is all of this with 2^(b-1) in the place of 8 and codes -2^(b-1) .. 2^(b-1) -
 * 1, still in nibbles and with the same table.
 *
 * fp8-int4-nocast is prepare without the e4m3 roundings; fp8-int4-old is the prepare before #2937:
 * symmetric int4 with max|w| / 7.5, eps 2^-7, and activations that are not rounded to e4m3.
 */
#include "schemes/fp8.h"
#include "schemes/intx.h"
#include "schemes/num/int4.h"

enum { GROUP, ROW, ROW_EPS, PRODUCT, GRAD, BITS, PREPARE_EPS, CAST = PREPARE_EPS };

/* In the order of enum qg_fp8_quantizer. */
static const char *const row_words[] = {"fbgemm", "fbgemm-cpu", "mslk", NULL};
static const char *const product_words[] = {"e4m3", "exact", NULL};
static const char *const cast_words[] = {"e4m3", "none", NULL};
static const char *const grad_words[] = {"torch", "ideal", NULL};

static size_t group(const struct qg_args *a)
{
    return (size_t)a->param[GROUP];
}

/* Codes are -half .. half - 1. */
static float half_of(const struct qg_args *a)
{
    return (float)(1 << ((int)a->param[BITS] - 1));
}

static float code_of(const struct qg_args *a, float u)
{
    return qg_clamp(qg_rint(u), -half_of(a), half_of(a) - 1);
}

static size_t whole_row(const struct qg_args *a)
{
    return a->cols;
}

static const char *refuse(const struct qg_args *a)
{
    return a->operand == QG_ACTIVATION || a->cols % group(a) == 0
               ? NULL
               : "the group does not divide K; upstream raises in prepare and its kernel has no "
                 "check; choose another scheme for this layer or pad K";
}

/* --- prepare --------------------------------------------------------------------------------- */

/* The row quantizer of stage 1, and of activations, which have no lower bound: a zero row is NaN.
 */
static struct qg_fp8_fake fake_row(const struct qg_args *a, bool cast)
{
    float lower_bound = a->operand == QG_WEIGHT ? qg_round(a->dtype, 1e-12f) : 0.0f;
    return (struct qg_fp8_fake){lower_bound, cast, a->param[GRAD] != 0};
}

static void fake_activation(const struct qg_args *a, bool cast)
{
    struct qg_fp8_fake f = fake_row(a, cast);
    for (size_t at = 0; at < a->rows * a->cols; at += a->cols)
        qg_fp8_fake_quant(&f, a, at, a->cols);
}

/* Stage 1 of the row at `at`; its scale. */
static float fake_stage1(const struct qg_fp8_fake *f, const struct qg_args *a, size_t at, float *w8)
{
    float scale = qg_fp8_fake_scale(f, &a->in[0], at, a->cols);
    for (size_t k = 0; k < a->cols; k++)
        w8[k] = qg_round(a->dtype,
                         qg_mul(qg_fp8_fake_code(f, qg_get(&a->in[0], at + k), scale), scale));
    return scale;
}

/* Stage 2 of a group of the weights w8 that stage 1 left. */
struct stage2 {
    float amax, scale, inverse;
};

static struct stage2 fake_group(const struct qg_args *a, const float *w8)
{
    enum qg_dtype t = a->dtype;
    struct stage2 g = {0};
    for (size_t i = 0; i < group(a); i++)
        g.amax = qg_max(g.amax, qg_abs(w8[i]));
    g.scale = qg_max(qg_round(t, qg_div(g.amax, half_of(a))), qg_round(t, 1e-6f));
    g.inverse = qg_round(t, qg_div(1.0f, g.scale));
    return g;
}

static float fake_code(enum qg_dtype t, float w8, const struct stage2 *g)
{
    return qg_add(qg_rint(qg_round(t, qg_mul(w8, g->inverse))), 0.0f); // + zero point: -0 becomes 0
}

static void fake_stage2(const struct qg_args *a, size_t at, float scale8, const float *w8)
{
    enum qg_dtype t = a->dtype;
    struct stage2 g = fake_group(a, w8);
    float half = half_of(a);
    for (size_t j = 0; j < group(a); j++) {
        float q = qg_clamp(fake_code(t, w8[j], &g), -half, half - 1);
        qg_put(&a->out[0], at + j, qg_mul(q, g.scale));
        qg_note(a, at + j, "row scale", scale8);
        qg_note(a, at + j, "after e4m3", w8[j]);
        qg_note(a, at + j, "group scale", g.scale);
        qg_note(a, at + j, "code", q);
        qg_note(a, at + j, "y", qg_get(&a->out[0], at + j));
    }
}

static void fake_weight(const struct qg_args *a, bool cast)
{
    struct qg_fp8_fake f = fake_row(a, cast);
    float *w8 = a->work;
    for (size_t at = 0; at < a->rows * a->cols; at += a->cols) {
        float scale8 = fake_stage1(&f, a, at, w8);
        for (size_t k = 0; k < a->cols; k += group(a))
            fake_stage2(a, at + k, scale8, w8 + k);
    }
}

/* --- the gradient of prepare ----------------------------------------------------------------- */

/* As in fp8.c: autograd's steps in its order, values behind a sum are intervals. */

/* Room for intervals in a->work. */
static struct qg_interval *intervals(float *work)
{
    return (struct qg_interval *)work;
}

static void grad_activation(const struct qg_args *a, bool cast)
{
    struct qg_fp8_fake f = fake_row(a, cast);
    for (size_t at = 0; at < a->rows * a->cols; at += a->cols)
        qg_fp8_fake_grad(&f, a, at, a->cols, NULL);
}

/* Back through stage 2 of a group: h = dL/dw8 for y = R(q s), q = round(R(w8 inverse)),
 * inverse = R(1/s), s = max(R(max|w8| / 8), eps). */
static void grad_group(const struct qg_args *a, size_t at, const float *w8, struct qg_interval *h)
{
    const struct qg_tensor *dy = &a->in[1];
    enum qg_dtype t = a->dtype;
    size_t n = group(a);
    float half = half_of(a);
    struct stage2 g = fake_group(a, w8);
    struct qg_sum by_product = {0}, by_inverse = {0};
    double ties = 0;
    for (size_t j = 0; j < n; j++) {
        float code = fake_code(t, w8[j], &g), q = qg_clamp(code, -half, half - 1);
        float gj = qg_get(dy, at + j), dq = code == q ? qg_round(t, qg_mul(gj, g.scale)) : 0.0f;
        qg_sum_add(&by_product, qg_round(t, qg_mul(gj, q)));
        qg_sum_add(&by_inverse, qg_round(t, qg_mul(dq, w8[j])));
        h[j].lo = h[j].mid = h[j].hi = qg_round(t, qg_mul(dq, g.inverse));
        ties += qg_abs(w8[j]) == g.amax;
    }
    struct qg_interval ds = qg_interval_round(
        t, qg_interval_of(&by_product, qg_sum_bound(&by_product, n, a->depth, 0)));
    struct qg_interval dinverse = qg_interval_round(
        t, qg_interval_of(&by_inverse, qg_sum_bound(&by_inverse, n, a->depth, 0)));
    float squared = qg_round(t, qg_mul(g.inverse, g.inverse));
    ds = qg_interval_add(t, ds, qg_interval_mul(t, dinverse, -squared));
    if (!(qg_round(t, qg_div(g.amax, half)) >= qg_round(t, 1e-6f)))
        ds = (struct qg_interval){0}; // eps was the scale: no gradient through it
    struct qg_interval damax = qg_interval_div(t, ds, half);
    for (size_t j = 0; j < n; j++)
        h[j] = qg_interval_add(t, h[j], qg_amax_grad(t, damax, ties, w8[j], g.amax));
}

static void grad_weight(const struct qg_args *a, bool cast)
{
    struct qg_fp8_fake f = fake_row(a, cast);
    float *w8 = a->work;
    struct qg_interval *h = intervals(w8 + a->cols);
    for (size_t at = 0; at < a->rows * a->cols; at += a->cols) {
        fake_stage1(&f, a, at, w8);
        for (size_t k = 0; k < a->cols; k += group(a))
            grad_group(a, at + k, w8 + k, h + k);
        qg_fp8_fake_grad(&f, a, at, a->cols, h);
    }
}

/* --- convert --------------------------------------------------------------------------------- */

static struct qg_fp8_scale quantize_row(const struct qg_args *a, const struct qg_tensor *x,
                                        size_t at)
{
    return qg_fp8_scale_of((enum qg_fp8_quantizer)a->param[ROW], x->dtype, qg_amax(x, at, a->cols),
                           (float)a->param[ROW_EPS]);
}

static void convert_weight(const struct qg_args *a)
{
    const struct qg_tensor *w = &a->in[0];
    uint8_t *codes = a->out[0].data;
    size_t g = group(a), k = a->cols;
    for (size_t row = 0; row < a->rows; row++) {
        struct qg_fp8_scale r = quantize_row(a, w, row * k);
        qg_put(&a->out[2], row, r.scale);
        for (size_t at = 0; at < k; at += g) {
            float amax = 0.0f;
            for (size_t j = at; j < at + g; j++)
                amax = qg_max(amax, qg_abs(qg_fp8_code(&r, qg_get(w, row * k + j))));
            float scale = qg_div(qg_max(amax, 1e-6f), half_of(a));
            qg_put(&a->out[1], at / g * a->rows + row, scale);
            for (size_t j = at; j < at + g; j++) {
                float c = qg_fp8_code(&r, qg_get(w, row * k + j));
                float q = code_of(a, qg_div(c, scale));
                qg_int4_put(codes + row * (k / 2), j, q == q ? (int)q : 0);
                qg_note(a, row * k + j, "row scale", r.scale);
                qg_note(a, row * k + j, "e4m3 code", c);
                qg_note(a, row * k + j, "group scale", scale);
                qg_note(a, row * k + j, "code", q);
            }
        }
    }
}

static void convert_activation(const struct qg_args *a)
{
    const struct qg_tensor *x = &a->in[0];
    for (size_t row = 0; row < a->rows; row++) {
        struct qg_fp8_scale r = quantize_row(a, x, row * a->cols);
        qg_put(&a->out[1], row, r.scale);
        for (size_t i = row * a->cols; i < (row + 1) * a->cols; i++) {
            qg_put(&a->out[0], i, qg_fp8_code(&r, qg_get(x, i)));
            qg_note(a, i, "scale", r.scale);
            qg_note(a, i, "code", qg_get(&a->out[0], i));
        }
    }
}

/* The e4m3 number that the kernel multiplies with, without the row scale. */
static float table_value(const struct qg_args *a, const struct qg_tensor *planes, size_t row,
                         size_t col)
{
    int q = qg_int4_get((const uint8_t *)planes[0].data + row * (a->cols / 2), col);
    float s = qg_get(&planes[1], col / group(a) * a->rows + row);
    float magnitude = qg_mul(qg_abs((float)q), s);
    if (a->param[PRODUCT] == 0)
        magnitude = qg_round(QG_E4M3, magnitude);
    qg_note(a, row * a->cols + col, "group scale (stored)", s);
    qg_note(a, row * a->cols + col, "table value", q > 0 ? magnitude : -magnitude);
    return q > 0 ? magnitude : -magnitude;
}

static void dequant_weight(const struct qg_args *a)
{
    for (size_t row = 0; row < a->rows; row++)
        for (size_t col = 0; col < a->cols; col++) {
            size_t i = row * a->cols + col;
            qg_note(a, i, "row scale (stored)", qg_get(&a->in[2], row));
            qg_put(&a->out[0], i, qg_mul(table_value(a, a->in, row, col), qg_get(&a->in[2], row)));
            qg_note(a, i, "y", qg_get(&a->out[0], i));
        }
}

static void dequant_activation(const struct qg_args *a)
{
    for (size_t i = 0; i < a->rows * a->cols; i++) {
        qg_put(&a->out[0], i, qg_mul(qg_get(&a->in[0], i), qg_get(&a->in[1], i / a->cols)));
        qg_note(a, i, "scale (stored)", qg_get(&a->in[1], i / a->cols));
        qg_note(a, i, "y", qg_get(&a->out[0], i));
    }
}

/* The e4m3 numbers of x[m,K] and the scales of its rows. */
static void quantize_inputs(const struct qg_args *a, float *codes, float *scales)
{
    for (size_t m = 0; m < a->m; m++) {
        struct qg_fp8_scale r = quantize_row(a, &a->in[0], m * a->cols);
        scales[m] = r.scale;
        for (size_t i = m * a->cols; i < (m + 1) * a->cols; i++)
            codes[i] = qg_fp8_code(&r, qg_get(&a->in[0], i));
    }
}

static void matmul(const struct qg_args *a)
{
    float *w = a->work, *codes = w + a->cols, *scales = codes + a->m * a->cols;
    quantize_inputs(a, codes, scales);
    for (size_t n = 0; n < a->rows; n++) {
        for (size_t k = 0; k < a->cols; k++)
            w[k] = table_value(a, a->in + 1, n, k);
        qg_fp8_column(a, n, w, qg_get(&a->in[3], n), codes, scales);
    }
}

/* --- convert, plain -------------------------------------------------------------------------- */

static void convert_plain(const struct qg_args *a)
{
    const struct qg_tensor *w = &a->in[0];
    uint8_t *codes = a->out[0].data;
    for (size_t row = 0; row < a->rows; row++)
        for (size_t at = 0; at < a->cols; at += group(a)) {
            float amax = qg_amax(w, row * a->cols + at, group(a));
            float scale = qg_div(qg_max(amax, 1e-6f), half_of(a));
            qg_put(&a->out[1], at / group(a) * a->rows + row, scale);
            for (size_t k = at; k < at + group(a); k++) {
                size_t i = row * a->cols + k;
                float q = code_of(a, qg_div(qg_get(w, i), scale));
                qg_int4_put(codes + row * (a->cols / 2), k, q == q ? (int)q : 0);
                qg_note(a, i, "group scale", scale);
                qg_note(a, i, "code", q);
            }
        }
}

/* The number that the plain kernel multiplies with. */
static float plain_value(const struct qg_args *a, const struct qg_tensor *planes, size_t row,
                         size_t col)
{
    int q = qg_int4_get((const uint8_t *)planes[0].data + row * (a->cols / 2), col);
    float s = qg_get(&planes[1], col / group(a) * a->rows + row);
    float v = qg_round(planes[1].dtype, qg_mul((float)q, s));
    qg_note(a, row * a->cols + col, "group scale (stored)", s);
    qg_note(a, row * a->cols + col, "code * scale", v);
    return a->param[PRODUCT] == 0 ? qg_round(QG_E4M3, v) : v;
}

static void dequant_plain(const struct qg_args *a)
{
    for (size_t row = 0; row < a->rows; row++)
        for (size_t col = 0; col < a->cols; col++) {
            qg_put(&a->out[0], row * a->cols + col, plain_value(a, a->in, row, col));
            qg_note(a, row * a->cols + col, "y", qg_get(&a->out[0], row * a->cols + col));
        }
}

static void matmul_plain(const struct qg_args *a)
{
    float *w = a->work, *codes = w + a->cols, *scales = codes + a->m * a->cols;
    quantize_inputs(a, codes, scales);
    for (size_t n = 0; n < a->rows; n++) {
        for (size_t k = 0; k < a->cols; k++)
            w[k] = plain_value(a, a->in + 1, n, k);
        qg_fp8_column(a, n, w, 1.0f, codes, scales);
    }
}

/* What upstream's own arithmetic makes uniform. */
static const char *uniform(const struct qg_args *a)
{
    return a->op == QG_FAKE_QUANT_GRAD && a->param[GRAD] == 0
               ? "PyTorch casts the gradient to e4m3, unscaled: below 2^-10 it is 0 (grad=ideal is "
                 "not)"
               : NULL;
}

static const char *unrounded(const struct qg_args *a)
{
    if (a->op == QG_FAKE_QUANT_GRAD && a->dtype == QG_F16)
        return "back through 1/s, its square overflows binary16 for scales below 2^-8, as in "
               "autograd";
    if (a->op == QG_FAKE_QUANT_GRAD && qg_amax(&a->in[0], 0, qg_count(&a->in[0])) > 0x1p60f)
        return "back through 1/s, g s w overflows binary32 for weights this large, as in autograd";
    return a->operand == QG_ACTIVATION && a->op == QG_FAKE_QUANT
               ? "this prepare path does not round activations"
               : NULL;
}

static const char *plain_uniform(const struct qg_args *a)
{
    return a->param[CAST] == 0 ? uniform(a) : unrounded(a);
}

/* --- the rows -------------------------------------------------------------------------------- */

static void new_fake_weight(const struct qg_args *a)
{
    fake_weight(a, true);
}
static void new_grad_weight(const struct qg_args *a)
{
    grad_weight(a, true);
}
static void new_fake_activation(const struct qg_args *a)
{
    fake_activation(a, true);
}
static void new_grad_activation(const struct qg_args *a)
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

#define SHARED_PARAMS                                                                              \
    [GROUP] = {"group", "elements of a row that share a scale; upstream allows only 128",          \
               128,     32,                                                                        \
               256,     NULL,                                                                      \
               true},                                                                              \
    [ROW] = {"row",                                                                                \
             "row quantizer of convert: FBGEMM's kernel, FBGEMM's CPU fallback, or MSLK's",        \
             QG_FP8_FBGEMM,                                                                        \
             0,                                                                                    \
             0,                                                                                    \
             row_words,                                                                            \
             false},                                                                               \
    [ROW_EPS] = {"row-eps", "lower bound of a row's max|w|; MSLK since 1.1.0: 0.001953125",        \
                 1e-12,     0,                                                                     \
                 1,         NULL,                                                                  \
                 false},                                                                           \
    [PRODUCT] = {"product", "weight in the kernel: |q|*scale rounded to e4m3, or exact",           \
                 0,         0,                                                                     \
                 0,         product_words,                                                         \
                 false},                                                                           \
    [GRAD] = {"grad", "torch: the gradient is cast to e4m3 where the value was; ideal: it passes", \
              0,      0,                                                                           \
              0,      grad_words,                                                                  \
              false},                                                                              \
    [BITS] = {"bits", QG_INT4_BITS, 4, 2, 4, NULL, true}

static const struct qg_param params[] = {SHARED_PARAMS, {NULL}};
static const struct qg_param old_params[] = {
    SHARED_PARAMS,
    [PREPARE_EPS] = {"prepare-eps", "lower bound of the scale in prepare; 2^-7 is bf16's epsilon",
                     0x1p-7, 0, 1, NULL, false},
    {NULL},
};

static const struct qg_param plain_params[] = {
    SHARED_PARAMS,
    [CAST] = {"cast",
              "prepare goes through e4m3 first, which upstream does though convert does not", 0, 0,
              0, cast_words, false},
    {NULL},
};

static const struct qg_plane weight_planes[] = {
    {"codes",
     QG_U8,
     0,
     {&qg_ext_rows, &qg_ext_nibble},
     "two's complement nibbles, even element low"},
    {"scales", QG_E4M3, 0, {&qg_ext_groups, &qg_ext_rows}, "of the group's e4m3 codes, [K/g, N]"},
    {"row_scales", QG_F32, 0, {&qg_ext_rows}, "of the row's weights"},
    {NULL},
};
static const struct qg_plane plain_planes[] = {
    {"codes",
     QG_U8,
     0,
     {&qg_ext_rows, &qg_ext_nibble},
     "two's complement nibbles, even element low"},
    {"scales", QG_INPUT, 0, {&qg_ext_groups, &qg_ext_rows}, "[K/g, N]; zero points are all 0"},
    {NULL},
};
static const struct qg_plane activation_planes[] = {
    {"codes", QG_E4M3, 0, {&qg_ext_rows, &qg_ext_cols}, "one e4m3 per element"},
    {"scales", QG_F32, 0, {&qg_ext_rows}, "one per row"},
    {NULL},
};

static const char *const plain_variants[] = {"cast=none", "cast=none product=exact", "bits=3",
                                             "bits=2", NULL};
static const char *const variants[] = {"product=exact", "row=mslk", "bits=3", "bits=2", NULL};
static const char *const other_variants[] = {"bits=3", "bits=2", NULL};

static const char nonfinite[] =
    "NaN in a row: row scale NaN, codes 0 (a GPU kernel's maximum skips NaN, which is not "
    "modelled). "
    "inf: its factor is 0, codes of finite values 0. All-zero row: prepare of activations is "
    "0/0 = NaN; weights and convert give 0 (eps 1e-12).";

#define WEIGHT(fake, grad)                                                  \
    {                                                                       \
        fake, grad, convert_weight, dequant_weight, group, weight_planes, 4 \
    }
#define ACTIVATION(fake, grad)                                                               \
    {                                                                                        \
        fake, grad, convert_activation, dequant_activation, whole_row, activation_planes, 8, \
            .codes = 254                                                                     \
    }

const struct qg_scheme qg_schemes_fp8_int4[] = {
    {.name = "fp8-int4",
     .summary = "fp8 per-row activations x int4 weights through e4m3 (torchao, FBGEMM preshuffled)",
     .upstream =
         "ao:torchao/quantization/qat/fake_quantizer.py; "
         "fbgemm:fbgemm_gpu/experimental/gen_ai/gen_ai/quantize.py quantize_int4_preshuffle",
     .nonfinite = nonfinite,
     .params = params,
     .variants = variants,
     .operand = {[QG_WEIGHT] = WEIGHT(new_fake_weight, new_grad_weight),
                 [QG_ACTIVATION] = ACTIVATION(new_fake_activation, new_grad_activation)},
     .matmul = matmul,
     .refuse = refuse,
     .uniform = uniform},
    {.name = "fp8-int4-plain",
     .summary = "fp8 per-row activations x int4 weights in torchao's plain packing (MSLK)",
     .upstream = "ao:torchao/quantization/quantize_/workflows/int4/int4_tensor.py; "
                 "mslk:mslk/quantize/shuffle.py int4_row_quantize",
     .nonfinite =
         "NaN in a group: scale NaN, codes 0. inf: scale inf, codes of finite values 0 and "
         "of inf 0. All-zero group: scale 1.25e-7, codes 0. Prepare and activations as "
         "fp8-int4.",
     .params = plain_params,
     .variants = plain_variants,
     .operand = {[QG_WEIGHT] = {plain_fake_weight, plain_grad_weight, convert_plain, dequant_plain,
                                group, plain_planes, 4},
                 [QG_ACTIVATION] = ACTIVATION(plain_fake_activation, plain_grad_activation)},
     .matmul = matmul_plain,
     .refuse = refuse,
     .uniform = plain_uniform},
    {.name = "fp8-int4-old",
     .summary = "fp8-int4 with the prepare path before pytorch/ao#2937: symmetric int4, eps 2^-7",
     .upstream =
         "ao:torchao/quantization/qat/fake_quantizer.py IntxFakeQuantizer; convert as fp8-int4",
     .nonfinite = nonfinite,
     .params = old_params,
     .variants = other_variants,
     .operand = {[QG_WEIGHT] = WEIGHT(qg_old_int4_fake_quant, qg_old_int4_fake_quant_grad),
                 [QG_ACTIVATION] = ACTIVATION(nocast_fake_activation, nocast_grad_activation)},
     .matmul = matmul,
     .refuse = refuse,
     .uniform = unrounded},
    {.name = "fp8-int4-nocast",
     .summary = "fp8-int4 with a prepare path that leaves out the e4m3 roundings",
     .upstream = "ao:torchao/quantization/qat/fake_quantizer.py with the casts to float8 removed",
     .nonfinite = nonfinite,
     .params = params,
     .variants = other_variants,
     .operand = {[QG_WEIGHT] = WEIGHT(nocast_fake_weight, nocast_grad_weight),
                 [QG_ACTIVATION] = ACTIVATION(nocast_fake_activation, nocast_grad_activation)},
     .matmul = matmul,
     .refuse = refuse,
     .uniform = unrounded},
    {NULL},
};
