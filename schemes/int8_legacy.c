/* SPDX-License-Identifier: MIT
 *
 * torchao's two older int8 activation x int4 weight schemes: the formulas of intx.c, with scales in
 * other dtypes. R is a rounding to the tensor's dtype.
 *
 * int8-int4-legacy, Int8DynamicActivationInt4WeightConfig, whose QAT test asserts 30 dB:
 *
 *                       prepare                           convert
 *     weight            s binary32 (a value in R),        s in R,
 *                       w' = R(q s), q from a binary32    w' = R(q s), q from R(w R(1/s))
 *                       product with a binary32 1/s
 *     activation        s binary32, at least eps,         s binary32, at least 2^-23,
 *                       zero point in int32               zero point in int8
 *
 * On torchao's test model under seed 123 the weight's binary32 scale alone makes the gap: with
 * prepare-scale=input it is closed. Under most other seeds the activations' eps leaves some 40 dB
 * then: the last layer's input has a range below 255 / 2^7.
 *
 * Where neither side names an eps it was the dtype's step at 1 (2^-7 for bf16) until 0.18.0 and is
 * the smallest normal number since. 2^-7 is a coarse bound: bf16 weights below 7.5 / 2^7 = 0.0586
 * all get this one scale.
 *
 * 8da4w, Int8DynActInt4WeightQATQuantizer: both sides hold all scales and zero points in binary32,
 * eps of activations is 2^-23 on both, of weights the smallest normal number on both; they agree to
 * the bit.
 *
 * Sources: ao (before #3491):torchao/quantization/quant_api.py
 * Int8DynamicActivationInt4WeightConfig and _int8_asymm_per_token_quant;
 * ao:torchao/quantization/qat/linear.py Int8DynActInt4WeightQATQuantizer;
 * ao:torchao/quantization/linear_quant_modules.py linear_forward_8da4w.
 */
#include "schemes/intx.h"

enum { GROUP, PREPARE_SCALE, EPS }; /* parameters; the last two of int8-int4-legacy */

#define F32_EPS 0x1p-23

static size_t group(const struct qg_args *a)
{
    return (size_t)a->param[GROUP];
}

static size_t whole_row(const struct qg_args *a)
{
    return a->cols;
}

static const char *refuse(const struct qg_args *a)
{
    if (a->operand == QG_ACTIVATION || a->cols % group(a) == 0)
        return NULL;
    return "the group does not divide K; upstream raises in prepare and leaves the layer "
           "unquantized in convert; choose a group that divides K";
}

static const char *refuse_8da4w(const struct qg_args *a)
{
    if (a->operand == QG_ACTIVATION || a->cols % group(a) == 0)
        return NULL;
    return "the group does not divide K; upstream's linear module asserts; choose a group that "
           "divides K";
}

/* --- int8-int4-legacy ------------------------------------------------------------------------ */

/* torch's default lower bound of a scale. */
static double default_eps(const struct qg_args *a)
{
    return a->param[EPS] == 0 ? ldexp(1, -qg_mantissa_bits(a->dtype)) : 0;
}

static struct qg_intx_grid prepare_grid(const struct qg_args *a)
{
    return (struct qg_intx_grid){group(a), 4, default_eps(a),
                                 a->param[PREPARE_SCALE] == 0 ? QG_F32 : a->dtype, 0};
}

static void legacy_fake_quant(const struct qg_args *a)
{
    struct qg_intx_grid grid = prepare_grid(a);
    qg_intx_fake_quant(a, &grid);
}

static void legacy_fake_quant_grad(const struct qg_args *a)
{
    struct qg_intx_grid grid = prepare_grid(a);
    qg_intx_fake_quant_grad(a, &grid);
}

static void legacy_convert(const struct qg_args *a)
{
    struct qg_intx_grid grid = {group(a), 4, default_eps(a), a->dtype, 0};
    qg_intx_convert(a, &grid);
}

static void legacy_token_fake_quant(const struct qg_args *a)
{
    struct qg_intx_grid grid = {a->cols, 8, default_eps(a), QG_F32, QG_NAN_I32};
    qg_token_fake_quant(a, &grid);
}

static void legacy_token_fake_quant_grad(const struct qg_args *a)
{
    struct qg_intx_grid grid = {a->cols, 8, default_eps(a), QG_F32, QG_NAN_I32};
    qg_token_fake_quant_grad(a, &grid);
}

static struct qg_intx_grid legacy_tokens(const struct qg_args *a)
{
    return (struct qg_intx_grid){a->cols, 8, F32_EPS, QG_F32, QG_NAN_I8};
}

static void legacy_token_convert(const struct qg_args *a)
{
    struct qg_intx_grid grid = legacy_tokens(a);
    qg_token_convert(a, &grid);
}

static void legacy_matmul(const struct qg_args *a)
{
    struct qg_intx_grid grid = legacy_tokens(a);
    qg_token_matmul(a, &grid);
}

/* --- 8da4w ----------------------------------------------------------------------------------- */

static struct qg_intx_grid weights_8da4w(const struct qg_args *a)
{
    return (struct qg_intx_grid){group(a), 4, 0, QG_F32, 0};
}

static struct qg_intx_grid tokens_8da4w(const struct qg_args *a)
{
    return (struct qg_intx_grid){a->cols, 8, F32_EPS, QG_F32, QG_NAN_F32};
}

static void fake_quant_8da4w(const struct qg_args *a)
{
    struct qg_intx_grid grid = weights_8da4w(a);
    qg_intx_fake_quant(a, &grid);
}

static void fake_quant_grad_8da4w(const struct qg_args *a)
{
    struct qg_intx_grid grid = weights_8da4w(a);
    qg_intx_fake_quant_grad(a, &grid);
}

static void convert_8da4w(const struct qg_args *a)
{
    struct qg_intx_grid grid = weights_8da4w(a);
    qg_intx_convert(a, &grid);
}

static void token_fake_quant_8da4w(const struct qg_args *a)
{
    struct qg_intx_grid grid = tokens_8da4w(a);
    qg_token_fake_quant(a, &grid);
}

static void token_fake_quant_grad_8da4w(const struct qg_args *a)
{
    struct qg_intx_grid grid = tokens_8da4w(a);
    qg_token_fake_quant_grad(a, &grid);
}

static void token_convert_8da4w(const struct qg_args *a)
{
    struct qg_intx_grid grid = tokens_8da4w(a);
    qg_token_convert(a, &grid);
}

static void matmul_8da4w(const struct qg_args *a)
{
    struct qg_intx_grid grid = tokens_8da4w(a);
    qg_token_matmul(a, &grid);
}

/* --- the table ------------------------------------------------------------------------------- */

static const char *const prepare_scales[] = {"f32", "input", NULL};
static const char *const defaults[] = {"step", "normal", NULL};

static const struct qg_param legacy_params[] = {
    [GROUP] = {"group", "weights of a row that share a scale", 32, 2, 4096, NULL, true},
    [PREPARE_SCALE] = {"prepare-scale", "dtype that holds the weight's scale in prepare", 0, 0, 0,
                       prepare_scales, false},
    [EPS] = {"eps", "default lower bound of scales: step at 1 (before 0.18.0), smallest normal", 0,
             0, 0, defaults, false},
    {NULL},
};
static const struct qg_param params_8da4w[] = {
    [GROUP] = {"group", "weights of a row that share a scale", 256, 2, 4096, NULL, true},
    {NULL},
};

#define PLANES(extent, scales, zeros, what)                                        \
    {                                                                              \
        {"codes", QG_I8, 0, {&qg_ext_rows, &qg_ext_cols}, what},                   \
            {"scales", scales, 0, {&qg_ext_rows, extent}, "row-major"},            \
            {"zeros", zeros, 0, {&qg_ext_rows, extent}, "zero points, row-major"}, \
        {                                                                          \
            NULL                                                                   \
        }                                                                          \
    }
static const struct qg_plane legacy_planes[] =
    PLANES(&qg_ext_groups, QG_INPUT, QG_I8, "one code per byte");
static const struct qg_plane legacy_token_planes[] =
    PLANES(&qg_ext_one, QG_F32, QG_I8, "one code per byte, asymmetric");
static const struct qg_plane planes_8da4w[] =
    PLANES(&qg_ext_groups, QG_F32, QG_F32, "one code per byte");
static const struct qg_plane token_planes_8da4w[] =
    PLANES(&qg_ext_one, QG_F32, QG_F32, "one code per byte, asymmetric");

#define NONFINITE                                                                                  \
    "NaN in a group: its scale is NaN, codes 0, values NaN. inf: scale inf, 1/scale 0, inf*0 NaN " \
    "and the group's finite values 0*inf NaN. All-zero group: scale eps, codes 0. Activations "    \
    "with -inf: the zero point is NaN, held as "

static const char *const variants[] = {"prepare-scale=input", "eps=normal", NULL};

const struct qg_scheme qg_schemes_int8_legacy[] = {
    {.name = "int8-int4-legacy",
     .summary = "int8-int4 as it was: scales in binary32, but not the converted weight's",
     .upstream = "ao (before #3491):torchao/quantization/quant_api.py "
                 "Int8DynamicActivationInt4WeightConfig",
     .nonfinite = NONFINITE "-2^31 in prepare's int32 (as on x86; values inf) and as 0 in "
                            "convert's int8 (values NaN).",
     .params = legacy_params,
     .variants = variants,
     .operand = {[QG_WEIGHT] = {legacy_fake_quant, legacy_fake_quant_grad, legacy_convert,
                                qg_intx_dequant, group, legacy_planes, 4},
                 [QG_ACTIVATION] = {legacy_token_fake_quant, legacy_token_fake_quant_grad,
                                    legacy_token_convert, qg_intx_dequant, whole_row,
                                    legacy_token_planes, 8}},
     .matmul = legacy_matmul,
     .refuse = refuse},
    {.name = "8da4w",
     .summary = "int8 per-token activations x int4 group-256 weights, all scales in binary32",
     .upstream = "ao:torchao/quantization/qat/linear.py Int8DynActInt4WeightQATQuantizer",
     .nonfinite = NONFINITE "NaN in binary32. Upstream's convert refuses NaN in weights.",
     .params = params_8da4w,
     .operand = {[QG_WEIGHT] = {fake_quant_8da4w, fake_quant_grad_8da4w, convert_8da4w,
                                qg_intx_dequant, group, planes_8da4w, 4},
                 [QG_ACTIVATION] = {token_fake_quant_8da4w, token_fake_quant_grad_8da4w,
                                    token_convert_8da4w, qg_intx_dequant, whole_row,
                                    token_planes_8da4w, 8}},
     .matmul = matmul_8da4w,
     .refuse = refuse_8da4w},
    {NULL},
};
