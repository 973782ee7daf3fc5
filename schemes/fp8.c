/* SPDX-License-Identifier: MIT
 *
 * e4m3 with one binary32 scale per row or per tensor.
 *
 * fp8-fp8 is torchao's Float8DynamicActivationFloat8Weight with PerRow, fp8-fp8-tensor the same
 * with PerTensor (torchao's default): weights are converted once, activations at run time, by the
 * same quantizer. fp8 is Float8WeightOnly: weights per row, and no QAT upstream.
 *
 * Prepare, R(.) rounding to x's dtype, with no lower bound (a zero block is 0/0 = NaN):
 *
 *     s = R(max|x| / 448)     y = R(e4m3(clamp(x / s, +-448)) s)
 *
 * Convert by PyTorch takes the very same scale (scale=torch, and always per tensor). Per row on an
 * H100 torchao calls MSLK's Triton kernel instead (scale=mslk, the default), whose scale
 * max(max|x|, 1/512) / 448 is not rounded to bf16: that is the gap between prepare and convert.
 * scale=fbgemm is what FBGEMM and MSLK 1.0 have in its place. Dequant: y = R(c s).
 *
 * Per tensor the codes and scales of both paths agree. What is left is that prepare rounds the
 * dequantized operands to x's dtype, and one ulp in a layer's output moves the next layer's codes.
 *
 * Matmul: e4m3 x e4m3 products, binary32 sum, then y = R(s_w (s_x sum)), both products rounded to
 * binary32, in this order. fp8 multiplies x with the dequantized weight.
 *
 * cast=none is the prepare before pytorch/ao#2937, without the rounding to e4m3: identity up to the
 * noise of a division and a product. torchao's converted layers want N and K to be multiples of 16
 * and leave other layers as they are, without a word; prepare and the formulas do not care.
 *
 * Sources: prepare ao:torchao/quantization/qat/fake_quantizer.py Float8FakeQuantizer and
 * ao:torchao/quantization/quant_primitives.py _choose_scale_float8, _quantize_affine_float8;
 * convert ao:torchao/quantization/quantize_/workflows/float8/float8_tensor.py Float8Tensor.from_hp,
 * mslk:mslk/quantize/triton/fp8_quantize.py, fbgemm:fbgemm_gpu/experimental/gemm/triton_gemm/
 * fp8_gemm.py; matmul mslk:csrc/gemm/cutlass/f8f8bf16_rowwise.
 */
#include "schemes/fp8.h"

enum { CAST, GRAD, SCALE };
enum { SCALE_MSLK, SCALE_FBGEMM, SCALE_TORCH };

static const char *const cast_words[] = {"e4m3", "none", NULL};
static const char *const grad_words[] = {"torch", "ideal", NULL};
static const char *const scale_words[] = {"mslk", "fbgemm", "torch", NULL};

static size_t whole_row(const struct qg_args *a)
{
    return a->cols;
}

float qg_amax(const struct qg_tensor *x, size_t at, size_t n)
{
    float amax = 0.0f;
    for (size_t i = at; i < at + n; i++)
        amax = qg_max(amax, qg_abs(qg_get(x, i)));
    return amax;
}

/* --- prepare --------------------------------------------------------------------------------- */

float qg_fp8_fake_scale(const struct qg_fp8_fake *f, const struct qg_tensor *x, size_t at, size_t n)
{
    return qg_round(x->dtype, qg_div(qg_max(qg_amax(x, at, n), f->lower_bound), QG_E4M3_MAX));
}

float qg_fp8_fake_code(const struct qg_fp8_fake *f, float x, float scale)
{
    float q = qg_clamp(qg_div(x, scale), -QG_E4M3_MAX, QG_E4M3_MAX);
    return f->cast ? qg_round(QG_E4M3, q) : q;
}

void qg_fp8_fake_quant(const struct qg_fp8_fake *f, const struct qg_args *a, size_t at, size_t n)
{
    float scale = qg_fp8_fake_scale(f, &a->in[0], at, n);
    for (size_t i = at; i < at + n; i++) {
        float q = qg_fp8_fake_code(f, qg_get(&a->in[0], i), scale);
        qg_put(&a->out[0], i, qg_mul(q, scale));
        qg_note(a, i, "scale", scale);
        qg_note(a, i, "code", q);
        qg_note(a, i, "y", qg_get(&a->out[0], i));
    }
}

/* --- the gradient of prepare ----------------------------------------------------------------- */

/* Autograd's steps in its order, each rounded as there. Only the order inside a sum is not known:
 * from there on values are intervals. */

/* The gradient that leaves the e4m3 cast. PyTorch differentiates a cast by casting the gradient to
 * the source's dtype (pytorch:tools/autograd/derivatives.yaml, _to_copy), and the source of the
 * cast back to binary32 is e4m3: unscaled, so gradients below 2^-10 vanish. Of weights N(0, 0.02)
 * under gradients N(0, 1e-3) 99.9 % receive exactly 0; only the row's largest receive anything.
 * grad=ideal passes them through. */
static struct qg_interval cast_grad(const struct qg_fp8_fake *f, struct qg_interval g)
{
    return f->cast && !f->ideal ? qg_interval_round(QG_E4M3, g) : g;
}

/* torch.sgn: 0 for zeros of either sign; NaN stays. */
static float sgn(float x)
{
    return x > 0 ? 1.0f : x < 0 ? -1.0f : x == 0 ? 0.0f : x;
}

/* amax divides by the number of ties (an integer that is rounded to the dtype) and multiplies with
 * its mask, abs with the sign. */
struct qg_interval qg_amax_grad(enum qg_dtype t, struct qg_interval damax, double ties, float x,
                                float amax)
{
    struct qg_interval share = qg_interval_div(t, damax, qg_round(t, (float)ties));
    return qg_interval_mul(t, qg_interval_mul(t, share, qg_abs(x) == amax ? 1.0f : 0.0f), sgn(x));
}

/* One element of a block y = R(c s), c = e4m3(clamp(v)), v = x/s. */
struct step {
    float v, c;
    struct qg_interval gamma; /* behind the cast and the clamp, given dL/dy */
};

static struct step step_of(const struct qg_fp8_fake *f, float x, float scale, struct qg_interval h)
{
    struct step e = {.v = qg_div(x, scale), .c = qg_fp8_fake_code(f, x, scale)};
    if (e.v >= -QG_E4M3_MAX && e.v <= QG_E4M3_MAX)
        e.gamma = cast_grad(f, qg_interval_mul(QG_F32, h, scale));
    return e;
}

static struct qg_interval given(const struct qg_args *a, const struct qg_interval *h, size_t at,
                                size_t j)
{
    float g = qg_get(&a->in[1], at + j);
    return h ? h[j] : (struct qg_interval){g, g, g};
}

/* With k = [|v| <= 448] and gamma the gradient behind the cast:
 *
 *     dx_i = R(gamma_i k_i / s) + [|x_i| = max|x|] / n sign(x_i) R(R(ds) / 448)
 *     ds = sum_j h_j c_j - gamma_j k_j v_j / s
 */
void qg_fp8_fake_grad(const struct qg_fp8_fake *f, const struct qg_args *a, size_t at, size_t n,
                      const struct qg_interval *h)
{
    const struct qg_tensor *x = &a->in[0];
    enum qg_dtype t = x->dtype;
    float amax = qg_amax(x, at, n), scale = qg_fp8_fake_scale(f, x, at, n);
    struct qg_sum ds = {0};
    double ties = 0, off = 0;
    for (size_t j = 0; j < n; j++) {
        float xj = qg_get(x, at + j);
        struct qg_interval hj = given(a, h, at, j);
        struct step e = step_of(f, xj, scale, hj);
        double slope = qg_div(e.v, scale);
        qg_sum_add(&ds, (double)hj.mid * e.c);
        qg_sum_add(&ds, -(double)e.gamma.mid * slope);
        off += qg_interval_off(hj) > 0 ? qg_interval_off(hj) * fabs((double)e.c) : 0;
        off += qg_interval_off(e.gamma) > 0 ? qg_interval_off(e.gamma) * fabs(slope) : 0;
        ties += qg_abs(xj) == amax;
    }
    // Two sums of products, then one addition.
    off = off * (1 + 0x1p-20) + qg_sum_bound(&ds, n, a->depth, 2);
    struct qg_interval damax = qg_interval_round(t, qg_interval_of(&ds, off));
    damax = qg_interval_div(t, damax, QG_E4M3_MAX);
    if (!(amax >= f->lower_bound))
        damax = (struct qg_interval){0};
    for (size_t j = 0; j < n; j++) {
        float xj = qg_get(x, at + j);
        struct step e = step_of(f, xj, scale, given(a, h, at, j));
        struct qg_interval dx = qg_interval_add(QG_F32, qg_interval_div(t, e.gamma, scale),
                                                qg_amax_grad(t, damax, ties, xj, amax));
        qg_emit(a, at + j, dx.mid, dx.mid, qg_interval_off(dx));
    }
}

/* --- convert --------------------------------------------------------------------------------- */

static struct qg_fp8_scale divide_by(float scale)
{
    return (struct qg_fp8_scale){0, scale};
}

static struct qg_fp8_scale multiply_by(float factor)
{
    return (struct qg_fp8_scale){factor, qg_div(1.0f, factor)};
}

/* 448 / m as PyTorch computes a number divided by a tensor. */
static float reciprocal_times_448(float m)
{
    return qg_mul(qg_div(1.0f, m), QG_E4M3_MAX);
}

struct qg_fp8_scale qg_fp8_scale_of(enum qg_fp8_quantizer q, enum qg_dtype t, float amax, float eps)
{
    float factor;
    switch (q) {
    case QG_FP8_FBGEMM:
        return multiply_by(qg_div(QG_E4M3_MAX, qg_max(amax, eps)));
    case QG_FP8_FBGEMM_CPU:
        factor = reciprocal_times_448(qg_max(amax, qg_round(t, eps)));
        return multiply_by(factor > 0x1.fffffep127f ? 1.0f : factor);
    case QG_FP8_MSLK:
        return divide_by(qg_div(qg_max(amax, eps), QG_E4M3_MAX));
    case QG_FP8_TORCH:
        return divide_by(qg_round(t, qg_div(amax, QG_E4M3_MAX)));
    case QG_FP8_DEEPSEEK:
        return divide_by(qg_div(amax, QG_E4M3_MAX));
    case QG_FP8_UNSLOTH: // the quotient may be 0 where amax is not
        factor = qg_div(amax, QG_E4M3_MAX);
        return divide_by(factor == 0 ? 1.0f : factor);
    case QG_FP8_HF:
        return multiply_by(amax > 0 ? reciprocal_times_448(amax) : 1.0f);
    default:
        return multiply_by((float)(448.0 / (double)qg_max(amax, eps)));
    }
}

float qg_fp8_code(const struct qg_fp8_scale *s, float x)
{
    float v = s->factor != 0 ? qg_mul(x, s->factor) : qg_div(x, s->scale);
    return qg_round(QG_E4M3, qg_clamp(v, -QG_E4M3_MAX, QG_E4M3_MAX));
}

/* --- matmul ---------------------------------------------------------------------------------- */

void qg_fp8_column(const struct qg_args *a, size_t n, const float *w, float w_scale,
                   const float *codes, const float *x_scales)
{
    for (size_t m = 0; m < a->m; m++) {
        struct qg_sum s = {0};
        for (size_t k = 0; k < a->cols; k++)
            qg_sum_add(&s, (double)codes[m * a->cols + k] * w[k]);
        double sum = qg_sum_value(&s), both = (double)x_scales[m] * w_scale;
        float y = qg_mul(w_scale, qg_mul(x_scales[m], (float)sum));
        // Two more roundings behind the sum; the first may be of a subnormal, or overflow.
        double bound = qg_sum_bound(&s, a->cols, a->depth, 3) * fabs(both) +
                       0x1p-149 * (fabs((double)w_scale) + 1.0);
        if (s.magnitude * fabs((double)x_scales[m]) >= 0x1p127)
            bound = (double)INFINITY;
        qg_emit(a, m * a->rows + n, y, sum * both, bound);
    }
}

/* --- the rows -------------------------------------------------------------------------------- */

/* Rows of x[rows,K] that share a scale. */
static size_t block_rows(const struct qg_args *a, size_t rows)
{
    return a->scheme->operand[QG_WEIGHT].spans_rows ? rows : 1;
}

static struct qg_fp8_fake fake(const struct qg_args *a)
{
    return (struct qg_fp8_fake){0.0f, a->param[CAST] == 0, a->param[GRAD] != 0};
}

static void fake_quant(const struct qg_args *a)
{
    struct qg_fp8_fake f = fake(a);
    size_t n = block_rows(a, a->rows) * a->cols;
    for (size_t at = 0; at < a->rows * a->cols; at += n)
        qg_fp8_fake_quant(&f, a, at, n);
}

static void fake_quant_grad(const struct qg_args *a)
{
    struct qg_fp8_fake f = fake(a);
    size_t n = block_rows(a, a->rows) * a->cols;
    for (size_t at = 0; at < a->rows * a->cols; at += n)
        qg_fp8_fake_grad(&f, a, at, n, NULL);
}

/* Elements at .. at+n, as the parameter or the lack of one says. */
static struct qg_fp8_scale scale_of(const struct qg_args *a, const struct qg_tensor *x, size_t at,
                                    size_t n)
{
    float amax = qg_amax(x, at, n);
    const struct qg_param *p = qg_param_find(a->scheme, "scale");
    switch (p ? (int)a->param[p - a->scheme->params] : SCALE_TORCH) {
    case SCALE_MSLK:
        return qg_fp8_scale_of(QG_FP8_MSLK, x->dtype, amax, 0x1p-9f);
    case SCALE_FBGEMM:
        return qg_fp8_scale_of(QG_FP8_FBGEMM, x->dtype, amax, 1e-12f);
    default:
        return qg_fp8_scale_of(QG_FP8_TORCH, x->dtype, amax, 0);
    }
}

static void convert(const struct qg_args *a)
{
    const struct qg_tensor *x = &a->in[0];
    size_t n = block_rows(a, a->rows) * a->cols;
    for (size_t at = 0; at < a->rows * a->cols; at += n) {
        struct qg_fp8_scale s = scale_of(a, x, at, n);
        qg_put(&a->out[1], at / n, s.scale);
        for (size_t i = at; i < at + n; i++) {
            qg_put(&a->out[0], i, qg_fp8_code(&s, qg_get(x, i)));
            qg_note(a, i, "scale", s.scale);
            qg_note(a, i, "code", qg_get(&a->out[0], i));
        }
    }
}

/* c s in binary32; planes are those of a weight or an activation. */
static float value(const struct qg_args *a, const struct qg_tensor *planes, size_t i)
{
    size_t block = a->scheme->operand[QG_WEIGHT].spans_rows ? 0 : i / a->cols;
    qg_note(a, i, "scale (stored)", qg_get(&planes[1], block));
    return qg_mul(qg_get(&planes[0], i), qg_get(&planes[1], block));
}

static void dequant(const struct qg_args *a)
{
    for (size_t i = 0; i < a->rows * a->cols; i++) {
        qg_put(&a->out[0], i, value(a, a->in, i));
        qg_note(a, i, "y", qg_get(&a->out[0], i));
    }
}

static void matmul(const struct qg_args *a)
{
    float *w = a->work, *codes = w + a->cols, *scales = codes + a->m * a->cols;
    size_t k = a->cols, block = block_rows(a, a->m);
    for (size_t m = 0; m < a->m; m++) {
        struct qg_fp8_scale s = scale_of(a, &a->in[0], m / block * block * k, block * k);
        scales[m] = s.scale;
        for (size_t i = m * k; i < (m + 1) * k; i++)
            codes[i] = qg_fp8_code(&s, qg_get(&a->in[0], i));
    }
    for (size_t n = 0; n < a->rows; n++) {
        for (size_t i = 0; i < k; i++)
            w[i] = qg_get(&a->in[1], n * k + i);
        qg_fp8_column(a, n, w, qg_get(&a->in[2], n / block_rows(a, a->rows)), codes, scales);
    }
}

static void weight_only_matmul(const struct qg_args *a)
{
    float *w = a->work;
    for (size_t n = 0; n < a->rows; n++) {
        for (size_t k = 0; k < a->cols; k++)
            w[k] = qg_round(a->dtype, value(a, a->in + 1, n * a->cols + k));
        qg_matmul_row(a, n, w);
    }
}

/* What upstream's own arithmetic makes uniform. */
static const char *uniform(const struct qg_args *a)
{
    if (a->op == QG_FAKE_QUANT && a->param[CAST] != 0)
        return "this prepare path does not round";
    return a->op == QG_FAKE_QUANT_GRAD && a->param[GRAD] == 0
               ? "PyTorch casts the gradient to e4m3, unscaled: below 2^-10 it is 0 (grad=ideal is "
                 "not)"
               : NULL;
}

#define PREPARE_PARAMS                                                                             \
    [CAST] = {"cast", "prepare rounds to e4m3, or (before pytorch/ao#2937) not",                   \
              0,      0,                                                                           \
              0,      cast_words,                                                                  \
              false},                                                                              \
    [GRAD] = {"grad", "torch: the gradient is cast to e4m3 where the value was; ideal: it passes", \
              0,      0,                                                                           \
              0,      grad_words,                                                                  \
              false}
#define SCALE_PARAM                                                                              \
    {                                                                                            \
        "scale", "quantizer of convert: MSLK's kernel, FBGEMM's (and MSLK 1.0's), or PyTorch's", \
            SCALE_MSLK, 0, 0, scale_words, false                                                 \
    }

static const struct qg_param row_params[] = {PREPARE_PARAMS, [SCALE] = SCALE_PARAM, {NULL}};
static const struct qg_param tensor_params[] = {PREPARE_PARAMS, {NULL}};
static const struct qg_param weight_only_params[] = {SCALE_PARAM, {NULL}};

static const struct qg_plane row_planes[] = {
    {"codes", QG_E4M3, 0, {&qg_ext_rows, &qg_ext_cols}, "one e4m3 per element"},
    {"scales", QG_F32, 0, {&qg_ext_rows, &qg_ext_one}, "one per row"},
    {NULL},
};
static const struct qg_plane tensor_planes[] = {
    {"codes", QG_E4M3, 0, {&qg_ext_rows, &qg_ext_cols}, "one e4m3 per element"},
    {"scales", QG_F32, 0, {&qg_ext_one, &qg_ext_one}, "one"},
    {NULL},
};

static const char *const row_variants[] = {"cast=none", "scale=torch", NULL};
static const char *const tensor_variants[] = {"cast=none", NULL};

static const char nonfinite[] =
    "NaN: the whole block is NaN (a GPU kernel's maximum skips NaN, which is not modelled). inf: "
    "scale inf, itself inf/inf = NaN, finite values 0; with scale=fbgemm the factor is 0. All-zero "
    "block: prepare and scale=torch are 0/0 = NaN, mslk and fbgemm give 0.";

#define BOTH                                                                          \
    .fake_quant = fake_quant, .fake_quant_grad = fake_quant_grad, .convert = convert, \
    .dequant = dequant, .group = whole_row, .code_bits = 8, .codes = 254 /* not 2 NaN */
#define ROW                        \
    {                              \
        BOTH, .planes = row_planes \
    }
#define TENSOR                                            \
    {                                                     \
        BOTH, .planes = tensor_planes, .spans_rows = true \
    }

const struct qg_scheme qg_schemes_fp8[] = {
    {.name = "fp8-fp8",
     .summary = "fp8 activations x fp8 weights, one scale per row (torchao, MSLK)",
     .upstream = "ao:torchao/quantization/quantize_/workflows/float8/float8_tensor.py; "
                 "mslk:mslk/quantize/triton/fp8_quantize.py",
     .nonfinite = nonfinite,
     .params = row_params,
     .variants = row_variants,
     .operand = {[QG_WEIGHT] = ROW, [QG_ACTIVATION] = ROW},
     .matmul = matmul,
     .uniform = uniform},
    {.name = "fp8-fp8-tensor",
     .summary = "fp8 activations x fp8 weights, one scale per tensor (torchao)",
     .upstream = "ao:torchao/quantization/quantize_/workflows/float8/float8_tensor.py",
     .nonfinite = nonfinite,
     .params = tensor_params,
     .variants = tensor_variants,
     .operand = {[QG_WEIGHT] = TENSOR, [QG_ACTIVATION] = TENSOR},
     .matmul = matmul,
     .uniform = uniform},
    {.name = "fp8",
     .summary = "fp8 weights, one scale per row, dequantized before the product (torchao)",
     .upstream = "ao:torchao/quantization/quantize_/workflows/float8/float8_tensor.py",
     .nonfinite = nonfinite,
     .params = weight_only_params,
     .operand = {[QG_WEIGHT] = {.convert = convert,
                                .dequant = dequant,
                                .group = whole_row,
                                .planes = row_planes,
                                .code_bits = 8,
                                .codes = 254}},
     .matmul = weight_only_matmul,
     .adapts = true},
    {NULL},
};
