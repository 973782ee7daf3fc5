/* SPDX-License-Identifier: MIT
 *
 * torchao's Int8Tensor: int8 rows whose scales are applied after the matmul. R is a rounding to the
 * tensor's dtype; what has no R is binary32.
 *
 *     s = max(R(max|w| / 127.5), 2^-23)               held in binary32
 *     q = clamp(round(w (1/s)), -128, 127)            two binary32 roundings, unlike intx
 *     w' = R(q s)                                     dequant; no matmul computes it
 *
 * int8-row, weight-only: the product with the codes is rounded before the scale comes, so its sum
 * can overflow binary16 where x . w'^T does not, and the scale is rounded too:
 *
 *     y = R(R(x . q^T) R(s))
 *
 * int8-int8, dynamic: x becomes codes row by row by the same formulas, the sum of the products of
 * codes is an integer in int32, exact in every order:
 *
 *     t = R(sum s_x),  y = R(t s_w)                   sum is converted to binary32 first
 *
 * act-mapping=asymmetric takes int8 codes with a zero point for x instead, zero included in the
 * range, and takes the zero point's share away after the first rounding:
 *
 *     s = max(R(R(max - min) / 255), 2^-23),  zp = clamp(-128 - round(R(min / s)), -128, 127)
 *     t = R(R(sum s_x) - R((zp s_x) sum(q_w)))
 *
 * reduce-range=yes halves the grid of both (codes -64 .. 63, 63.5 and 127 in the divisors) for
 * CPUs whose 16-bit sums would saturate. There is no QAT for either.
 *
 * Sources: ao:torchao/quantization/quantize_/workflows/int8/int8_tensor.py;
 * ao:torchao/kernel/intmm.py int_scaled_matmul; quant_primitives.py as in intx.c.
 */
#include "schemes/interval.h"
#include "schemes/intx.h"

enum { ACT_MAPPING, REDUCE_RANGE }; /* parameters of int8-int8 */

#define EPS 0x1p-23

static struct qg_intx_grid grid_of(const struct qg_args *a)
{
    bool reduced = a->scheme->params[0].name && a->param[REDUCE_RANGE] > 0;
    return (struct qg_intx_grid){a->cols, reduced ? 7 : 8, EPS, QG_F32, QG_NAN_I8};
}

static size_t whole_row(const struct qg_args *a)
{
    return a->cols;
}

static void convert(const struct qg_args *a)
{
    struct qg_intx_grid grid = grid_of(a);
    qg_intx_convert(a, &grid);
}

static void convert_activation(const struct qg_args *a)
{
    struct qg_intx_grid grid = grid_of(a);
    if (a->param[ACT_MAPPING] > 0)
        qg_token_convert(a, &grid);
    else
        qg_intx_convert(a, &grid);
}

/* --- matmul ---------------------------------------------------------------------------------- */

static void row_matmul(const struct qg_args *a)
{
    const struct qg_tensor *x = &a->in[0], *q = &a->in[1];
    enum qg_dtype t = a->dtype;
    for (size_t n = 0; n < a->rows; n++) {
        float scale = qg_round(t, qg_get(&a->in[2], n));
        for (size_t m = 0; m < a->m; m++) {
            struct qg_sum s = {0};
            for (size_t k = 0; k < a->cols; k++)
                qg_sum_add(&s, (double)qg_get(x, m * a->cols + k) * qg_get(q, n * a->cols + k));
            double off = qg_sum_bound(&s, a->cols, a->depth, 1);
            struct qg_interval y = qg_interval_round(t, qg_interval_of(&s, off));
            qg_emit_interval(a, 0, m * a->rows + n, qg_interval_mul(t, y, scale));
        }
    }
}

/* The planes of x[m,K] in a->work: codes one by one, then scales and zero points. */
static void quantize_input(const struct qg_args *a, float *codes, float *scales, float *zeros)
{
    struct qg_args x = {.scheme = a->scheme,
                        .op = QG_CONVERT,
                        .operand = QG_ACTIVATION,
                        .dtype = a->dtype,
                        .rows = a->m,
                        .cols = a->cols,
                        .in = {a->in[0]},
                        .out = {{.dtype = QG_F32, .data = codes},
                                {.dtype = QG_F32, .data = scales},
                                {.dtype = QG_F32, .data = zeros}}};
    memcpy(x.param, a->param, sizeof x.param);
    convert_activation(&x);
    for (size_t i = 0; i < a->m * a->cols; i++)
        codes[i] = codes[i] == codes[i] ? codes[i] : 0.0f; // an int8 holds no NaN
}

/* Sums in int32, which wrap; sum of x[i] w[i], and of w[i]. */
struct integers {
    uint32_t products, weights;
};

static struct integers sum_of(const float *x, const struct qg_tensor *w, size_t at, size_t k)
{
    struct integers s = {0};
    for (size_t i = 0; i < k; i++) {
        int32_t q = (int32_t)qg_get(w, at + i);
        s.products += (uint32_t)((int32_t)x[i] * q);
        s.weights += (uint32_t)q;
    }
    return s;
}

static void dynamic_matmul(const struct qg_args *a)
{
    enum qg_dtype t = a->dtype;
    float *codes = a->work, *scales = codes + a->m * a->cols, *zeros = scales + a->m;
    quantize_input(a, codes, scales, zeros);
    for (size_t m = 0; m < a->m; m++)
        for (size_t n = 0; n < a->rows; n++) {
            struct integers s = sum_of(codes + m * a->cols, &a->in[1], n * a->cols, a->cols);
            float y = qg_round(t, qg_mul((float)(int32_t)s.products, scales[m]));
            if (a->param[ACT_MAPPING] > 0) {
                float share = qg_mul(qg_mul(zeros[m], scales[m]), (float)(int32_t)s.weights);
                y = qg_round(t, qg_sub(y, qg_round(t, share)));
            }
            y = qg_round(t, qg_mul(y, qg_get(&a->in[2], n)));
            qg_emit(a, m * a->rows + n, y, y, 0);
        }
}

/* --- the table ------------------------------------------------------------------------------- */

static const char *const mappings[] = {"symmetric", "asymmetric", NULL};
static const char *const no_yes[] = {"no", "yes", NULL};

static const struct qg_param no_params[] = {{NULL}};
static const struct qg_param dynamic_params[] = {
    [ACT_MAPPING] = {"act-mapping", "grid of activations", 0, 0, 0, mappings, false},
    [REDUCE_RANGE] = {"reduce-range", "half as many codes", 0, 0, 0, no_yes, false},
    {NULL},
};

static const struct qg_plane planes[] = {
    {"codes", QG_I8, 0, {&qg_ext_rows, &qg_ext_cols}, "one code per byte"},
    {"scales", QG_F32, 0, {&qg_ext_rows, &qg_ext_one}, "per row; the value is the input's"},
    {"zeros", QG_I8, 0, {&qg_ext_rows, &qg_ext_one}, "zero points; of weights 0"},
    {NULL},
};

#define OPERAND(convert)                                           \
    {                                                              \
        NULL, NULL, convert, qg_intx_dequant, whole_row, planes, 8 \
    }

#define NONFINITE                                                                                \
    "NaN in a row: its scale is NaN, codes 0, values NaN. inf: scale inf, codes 0, values NaN. " \
    "All-zero row: scale 2^-23, codes 0."

static const char *const variants[] = {"act-mapping=asymmetric", "reduce-range=yes", NULL};

const struct qg_scheme qg_schemes_int8_tensor[] = {
    {.name = "int8-row",
     .summary = "int8 weight-only, symmetric per row, scale applied after the matmul",
     .upstream = "ao:torchao/quantization/quant_api.py Int8WeightOnlyConfig PerRow",
     .nonfinite = NONFINITE,
     .params = no_params,
     .operand = {[QG_WEIGHT] = OPERAND(convert)},
     .matmul = row_matmul,
     .adapts = true},
    {.name = "int8-int8",
     .summary = "int8 activations and weights per row, exact sums of integers",
     .upstream =
         "ao:torchao/quantization/quant_api.py Int8DynamicActivationInt8WeightConfig PerRow",
     .nonfinite = NONFINITE " Asymmetric activations with -inf: the zero point is NaN, held as 0.",
     .params = dynamic_params,
     .variants = variants,
     .operand = {[QG_WEIGHT] = OPERAND(convert), [QG_ACTIVATION] = OPERAND(convert_activation)},
     .matmul = dynamic_matmul},
    {NULL},
};
