/* SPDX-License-Identifier: MIT
 *
 * int4 weight-only: bf16 activations x 4-bit weights, asymmetric, with a real (floating-point) zero
 * point per group. torchao's Int4WeightOnlyConfig version 2 over the FBGEMM / MSLK kernels.
 *
 *     s = max(max w - min w, eps) / 15        one scale and
 *     z = min w + 8 s                         one zero point per group of a row
 *     q = clamp(round((w - min w) / s), 0, 15) - 8
 *     w' = q s + z
 *
 * Zero is not forced into the grid: an all-positive group has no code for 0. Everything up to the
 * code is binary32, whatever the weight's dtype. The two paths differ in one thing only: prepare
 * keeps s and z in binary32, convert stores them in the weight's dtype. That is the whole gap
 * (about 45 dB).
 *
 * Sources: prepare ao:torchao/quantization/qat/fake_quantizer.py Int4WeightFakeQuantizer
 * (pytorch/ao#2986); convert fbgemm:fbgemm_gpu/experimental/gen_ai/gen_ai/quantize.py
 * int4_row_quantize_zp and pack_int4; dequant cutlass:include/cutlass/detail/collective/
 * mixed_input_utils.hpp (scale with zero).
 *
 * bits = b of 2 or 3 is the same with 2^b - 1 in the place of 15 and 2^(b-1) in that of 8: FBGEMM's
 * quantizer has its width as one number, torchao's fake quantizer as two. The codes stay in
 * nibbles, for which nobody has a kernel of that width.
 *
 * int4-old is the prepare path before that change: symmetric int4 with the scale max|w| / 7.5 of
 * the weight's dtype and eps 2^-7, a different grid from the one that convert uses.
 */
#include "schemes/interval.h"
#include "schemes/intx.h"
#include "schemes/num/int4.h"

enum { GROUP, EPS, SCALE_DTYPE, DEQUANT, RAGGED, BITS, PREPARE_EPS };

static const char *const dequant_words[] = {"fused", "two-step", NULL};
static const char *const ragged_words[] = {"refuse", "short", NULL};

#define SHARED_PARAMS                                                                             \
    [GROUP] = {"group", "elements of a row that share a scale", 128, 32, 256, NULL, true},        \
    [EPS] = {"eps", "lower bound of max - min of a group", 1e-6, 0, 1, NULL, false},              \
    [SCALE_DTYPE] = {"scale-dtype",                                                               \
                     "dtype in which convert stores scales and zeros",                            \
                     0,                                                                           \
                     0,                                                                           \
                     0,                                                                           \
                     qg_scale_dtypes,                                                             \
                     false},                                                                      \
    [DEQUANT] = {"dequant",                                                                       \
                 "q*s + z in the scale's dtype: one rounding (what the shipped kernel does) or "  \
                 "one for the product and one for the sum",                                       \
                 0,                                                                               \
                 0,                                                                               \
                 0,                                                                               \
                 dequant_words,                                                                   \
                 false},                                                                          \
    [RAGGED] = {"ragged",                                                                         \
                "K that the group does not divide, in convert: refuse, or let the last group be " \
                "short as the row quantizer itself does",                                         \
                0,                                                                                \
                0,                                                                                \
                0,                                                                                \
                ragged_words,                                                                     \
                false},                                                                           \
    [BITS] = {"bits", QG_INT4_BITS, 4, 2, 4, NULL, true}

static const struct qg_param int4_params[] = {SHARED_PARAMS, {NULL}};
static const struct qg_param old_params[] = {
    SHARED_PARAMS,
    [PREPARE_EPS] = {"prepare-eps", "lower bound of the scale in prepare; 2^-7 is bf16's epsilon",
                     0x1p-7, 0, 1, NULL, false},
    {NULL},
};

static size_t group(const struct qg_args *a)
{
    return (size_t)a->param[GROUP];
}

static const char *refuse(const struct qg_args *a)
{
    if (a->cols % group(a) == 0 ||
        (a->param[RAGGED] == 1 && a->op != QG_FAKE_QUANT && a->op != QG_FAKE_QUANT_GRAD))
        return NULL;
    return "the group does not divide K; upstream raises in prepare and leaves the layer "
           "unquantized in convert; choose a group that divides K, pad K, or for convert set "
           "ragged=short";
}

/* Codes are -half .. half - 1, counted up from the minimum 0 .. top. */
static float half_of(const struct qg_args *a)
{
    return (float)(1 << ((int)a->param[BITS] - 1));
}

static float top_of(const struct qg_args *a)
{
    return (float)((1 << (int)a->param[BITS]) - 1);
}

/* Minimum, maximum and the scale of w[at .. at+n) in binary32. A NaN in the group makes all NaN. */
struct range {
    float min, max, scale;
};

static struct range prepare_range(const struct qg_args *a, size_t at, size_t n)
{
    const struct qg_tensor *w = &a->in[0];
    struct range r = {.min = qg_get(w, at), .max = qg_get(w, at)};
    for (size_t i = at; i < at + n; i++) {
        r.min = qg_min(r.min, qg_get(w, i));
        r.max = qg_max(r.max, qg_get(w, i));
    }
    r.scale = qg_div(qg_max(qg_sub(r.max, r.min), (float)a->param[EPS]), top_of(a));
    return r;
}

static void fake_quant(const struct qg_args *a)
{
    const struct qg_tensor *w = &a->in[0];
    float half = half_of(a), top = top_of(a);
    size_t g = group(a);
    for (size_t at = 0; at < a->rows * a->cols; at += g) {
        struct range r = prepare_range(a, at, g);
        float zero = qg_add(r.min, qg_mul(r.scale, half));
        for (size_t i = at; i < at + g; i++) {
            float u = qg_div(qg_sub(qg_get(w, i), r.min), r.scale);
            float q = qg_sub(qg_clamp(qg_rint(u), 0.0f, top), half);
            qg_note(a, i, "min (f32)", r.min);
            qg_note(a, i, "max (f32)", r.max);
            qg_note(a, i, "scale (f32)", r.scale);
            qg_note(a, i, "zero (f32)", zero);
            qg_note(a, i, "(w - min) / scale", u);
            qg_note(a, i, "code", q);
            qg_put(&a->out[0], i, qg_add(qg_mul(q, r.scale), zero));
            qg_note(a, i, "y", qg_get(&a->out[0], i));
        }
    }
}

/* What autograd sums up over a group of fake_quant: with u = (w - min)/s, m = [0 <= round(u) <= 15]
 * and q the code, 0..15,
 *
 *     ds   = sum g (q - 8) + 8 sum g - sum (g m s) (u / s)     towards the scale
 *     dmin = sum g - sum (g m s) / s                           towards the minimum, past the scale
 */
struct group_sums {
    struct qg_sum ds, dmin;
    double n_max, n_min;
};

/* g through y = q s + z, the clamp and the division: (g s) m / s, with both of its roundings. */
static float straight_through(float g, float u, float scale, float top)
{
    float code = qg_rint(u), dq = code >= 0.0f && code <= top ? qg_mul(g, scale) : 0.0f;
    return qg_div(dq, scale);
}

static struct group_sums sum_group(const struct qg_args *a, size_t at, size_t n,
                                   const struct range *r)
{
    const struct qg_tensor *w = &a->in[0], *dy = &a->in[1];
    float half = half_of(a), top = top_of(a);
    struct group_sums sums = {0};
    for (size_t i = at; i < at + n; i++) {
        float g = qg_get(dy, i), wi = qg_get(w, i), u = qg_div(qg_sub(wi, r->min), r->scale);
        float code = qg_rint(u), dq = code >= 0.0f && code <= top ? qg_mul(g, r->scale) : 0.0f;
        qg_sum_add(&sums.ds, (double)g * (qg_clamp(code, 0.0f, top) - half));
        qg_sum_add(&sums.ds, (double)g * half);
        qg_sum_add(&sums.ds, -(double)dq * qg_div(u, r->scale));
        qg_sum_add(&sums.dmin, g);
        qg_sum_add(&sums.dmin, -(double)qg_div(dq, r->scale));
        sums.n_max += wi == r->max;
        sums.n_min += wi == r->min;
    }
    return sums;
}

/* The gradient of fake_quant. s and z are in the graph, so this is not a straight-through
 * estimator:
 *
 *     dw_i = g_i m_i + [w_i = max]/n_max T + [w_i = min]/n_min (dmin - T)
 *     T = ds / 15 = sum g (q - m u) / 15, and 0 where eps was the range
 *
 * amax and amin share their gradient evenly among ties. In exact arithmetic dmin is 0 unless
 * something was clamped; autograd's roundings leave a rest there, which the bound has to allow. Off
 * the extremes nothing is summed and every bit is asked for. */
static void fake_quant_grad(const struct qg_args *a)
{
    const struct qg_tensor *w = &a->in[0], *dy = &a->in[1];
    size_t n = group(a);
    for (size_t at = 0; at < a->rows * a->cols; at += n) {
        struct range r = prepare_range(a, at, n);
        struct group_sums sums = sum_group(a, at, n, &r);
        // Behind each of its sums a term of ds has one product before and two additions after.
        struct qg_interval t = qg_interval_of(&sums.ds, qg_sum_bound(&sums.ds, n, a->depth, 3));
        t = qg_interval_div(QG_F32, t, top_of(a));
        if (!(qg_sub(r.max, r.min) >= (float)a->param[EPS]))
            t = (struct qg_interval){0};
        // dmin and T come together in any order: each passes two additions.
        qg_sum_add(&sums.dmin, -(double)t.mid);
        double off = qg_sum_bound(&sums.dmin, n, a->depth, 2) + qg_interval_off(t);
        struct qg_interval to_max = qg_interval_div(QG_F32, t, (float)sums.n_max);
        struct qg_interval to_min =
            qg_interval_div(QG_F32, qg_interval_of(&sums.dmin, off), (float)sums.n_min);
        for (size_t i = at; i < at + n; i++) {
            float wi = qg_get(w, i), u = qg_div(qg_sub(wi, r.min), r.scale);
            float through = straight_through(qg_get(dy, i), u, r.scale, top_of(a));
            bool is_max = wi == r.max, is_min = wi == r.min;
            // The masks multiply: 0 * inf is NaN, and -0 + 0 is 0.
            double up = (double)to_max.mid * is_max, down = (double)to_min.mid * is_min;
            double exact = through + up + down, bound = 0;
            if (is_max || is_min)
                bound = qg_interval_off(to_max) * is_max + qg_interval_off(to_min) * is_min +
                        0x1p-23 * (fabs((double)through) + fabs(up) + fabs(down));
            qg_emit(a, i, (float)exact, exact, bound);
        }
    }
}

static void convert(const struct qg_args *a)
{
    const struct qg_tensor *w = &a->in[0], *codes = &a->out[0];
    float half = half_of(a), top = top_of(a);
    size_t g = group(a), k = a->cols;
    for (size_t row = 0; row < a->rows; row++) {
        for (size_t at = 0; at < k; at += g) {
            size_t end = at + g < k ? at + g : k; // the last group may be short
            float min = qg_get(w, row * k + at), max = min;
            for (size_t j = at; j < end; j++) {
                min = qg_min(min, qg_get(w, row * k + j));
                max = qg_max(max, qg_get(w, row * k + j));
            }
            float scale = qg_div(qg_max(qg_sub(max, min), (float)a->param[EPS]), top);
            float zero = qg_add(min, qg_mul(scale, half));
            for (size_t j = at; j < end; j++) {
                float u = qg_div(qg_sub(qg_get(w, row * k + j), min), scale);
                float q = qg_clamp(qg_rint(u), 0.0f, top);
                int code = q == q ? (int)(q - half) : 0; // NaN to int8 is 0, as on x86 and CUDA
                qg_int4_put((uint8_t *)codes->data + row * (k / 2), j, code);
                qg_note(a, row * k + j, "min (f32)", min);
                qg_note(a, row * k + j, "max (f32)", max);
                qg_note(a, row * k + j, "scale (f32)", scale);
                qg_note(a, row * k + j, "zero (f32)", zero);
                qg_note(a, row * k + j, "(w - min) / scale", u);
                qg_note(a, row * k + j, "code", (float)code);
            }
            // Column-major for the kernel: [K/g, N].
            qg_put(&a->out[1], at / g * a->rows + row, scale);
            qg_put(&a->out[2], at / g * a->rows + row, zero);
        }
    }
}

/* The weight that the kernel multiplies with: q*s + z in the dtype of the scales. */
static float weight_at(const struct qg_args *a, const struct qg_tensor *planes, size_t row,
                       size_t col)
{
    const struct qg_tensor *scales = &planes[1], *zeros = &planes[2];
    size_t at = col / group(a) * a->rows + row;
    float q = (float)qg_int4_get((const uint8_t *)planes[0].data + row * (a->cols / 2), col);
    float s = qg_get(scales, at), z = qg_get(zeros, at);
    enum qg_dtype t = scales->dtype;
    qg_note(a, row * a->cols + col, "scale (stored)", s);
    qg_note(a, row * a->cols + col, "zero (stored)", z);
    if (a->param[DEQUANT] == 1) // two-step
        return qg_round(t, qg_add(qg_round(t, qg_mul(q, s)), z));
    return t == QG_F32 ? qg_fma(q, s, z) : qg_round(t, qg_fma_odd(q, s, z));
}

static void dequant(const struct qg_args *a)
{
    for (size_t row = 0; row < a->rows; row++)
        for (size_t col = 0; col < a->cols; col++) {
            qg_put(&a->out[0], row * a->cols + col, weight_at(a, a->in, row, col));
            qg_note(a, row * a->cols + col, "y", qg_get(&a->out[0], row * a->cols + col));
        }
}

/* x stays as it is; binary32 accumulation; one rounding to the output's dtype
 * (fbgemm:...cutlass_extensions/bf16i4bf16.cu). */
static void matmul(const struct qg_args *a)
{
    for (size_t n = 0; n < a->rows; n++) {
        for (size_t k = 0; k < a->cols; k++)
            a->work[k] = qg_round(a->dtype, weight_at(a, a->in + 1, n, k));
        qg_matmul_row(a, n, a->work);
    }
}

static const struct qg_plane planes[] = {
    {"codes",
     QG_U8,
     0,
     {&qg_ext_rows, &qg_ext_nibble},
     "two's complement nibbles, even element low"},
    {"scales",
     QG_INPUT,
     SCALE_DTYPE + 1,
     {&qg_ext_groups, &qg_ext_rows},
     "one per group, [K/g, N]"},
    {"zeros",
     QG_INPUT,
     SCALE_DTYPE + 1,
     {&qg_ext_groups, &qg_ext_rows},
     "min + 2^(bits-1) scale, [K/g, N]"},
    {NULL},
};

static const char *const variants[] = {"dequant=two-step", "bits=3", "bits=2", NULL};
static const char *const old_variants[] = {"bits=3", "bits=2", NULL};

static const char nonfinite[] =
    "NaN in a group: the group's scale, zero and prepared weights are NaN and its codes 0. inf: "
    "the "
    "range is inf, scale inf, (w - min)/scale NaN. All-equal group: scale eps/(2^bits - 1).";

const struct qg_scheme qg_schemes_int4[] = {
    {.name = "int4",
     .summary = "bf16 activations x int4 weights, real zero point per group (torchao v2, FBGEMM)",
     .upstream = "ao:torchao/quantization/qat/fake_quantizer.py Int4WeightFakeQuantizer; "
                 "fbgemm:fbgemm_gpu/experimental/gen_ai/gen_ai/quantize.py int4_row_quantize_zp",
     .nonfinite = nonfinite,
     .params = int4_params,
     .variants = variants,
     .operand[QG_WEIGHT] = {fake_quant, fake_quant_grad, convert, dequant, group, planes, 4},
     .matmul = matmul,
     .adapts = true,
     .refuse = refuse},
    {.name = "int4-old",
     .summary = "int4 with the prepare path before pytorch/ao#2986: symmetric, eps 2^-7",
     .upstream = "ao:torchao/quantization/qat/fake_quantizer.py IntxFakeQuantizer; convert as int4",
     .nonfinite = nonfinite,
     .params = old_params,
     .variants = old_variants,
     .operand[QG_WEIGHT] = {qg_old_int4_fake_quant, qg_old_int4_fake_quant_grad, convert, dequant,
                            group, planes, 4},
     .matmul = matmul,
     .adapts = true,
     .refuse = refuse},
    {NULL},
};
