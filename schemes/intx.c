/* SPDX-License-Identifier: MIT
 *
 * torchao's integer quantizers with every operation in the tensor's own dtype: bf16 weights are
 * quantized in bf16 arithmetic, which is why codes differ from an exact division in up to 9 % of
 * int8 cases. R(.) is a rounding to the dtype.
 *
 *     s = max(R(max|w| / 127.5), eps)            symmetric; (2^bits - 1) / 2 for other widths
 *     q = clamp(round(R(w R(1/s))), -128, 127)   the reciprocal is an operation of its own
 *     w' = R(q s)
 *
 * A positive extreme lands on 127.5 and is clipped; a negative one maps to -128. Prepare and
 * convert take the same steps in the same dtypes: they agree to the bit (SQNR inf), unless
 * scale-dtype holds the scale in binary32, where the products of prepare and convert round
 * differently.
 *
 * One bit (codes -1 and 0) is a corner of the formula and no useful format: |w| / s is at most 1/2,
 * which rounds to 0, so every weight becomes 0, unless 1/s is subnormal and rounds up. Convert
 * takes it, QAT refuses it.
 *
 * Activations (int8-int4, intx-dynamic) are asymmetric int8 per token (row), zero included in the
 * range:
 *
 *     s = max(R(R(max - min) / 255), eps),  zp = clamp(-128 - round(R(min / s)), -128, 127)
 *     q = clamp(R(round(R(x R(1/s))) + zp), -128, 127),  x' = R((q - zp) s)
 *
 * Where an infinity makes the zero point inf/inf, it is the NaN's integer: prepare holds zero
 * points in int32, whose NaN is -2^31 on x86 (where the goldens were made), convert in int8, whose
 * NaN is 0.
 *
 * Both operands are dequantized to the dtype and an ordinary matmul follows; there is no integer
 * GEMM.
 *
 * Sources: ao:torchao/quantization/quant_primitives.py choose_qparams_affine, quantize_affine,
 * dequantize_affine, _fake_quantize_affine; ao:.../workflows/intx/intx_unpacked_to_int8_tensor.py;
 * unsloth:unsloth/models/_utils.py for the mapping of the names int8, int8-int4 and cactus.
 */
#include "schemes/intx.h"

#include "schemes/dot.h"
#include "schemes/num/int4.h"

enum { EPS, SCALE_DTYPE, GROUP, BITS }; /* parameters; the last two where a scheme has them */

/* The dtype of an operation between t and s: torch promotes to the wider one. */
static enum qg_dtype promote(enum qg_dtype t, enum qg_dtype s)
{
    return t == s ? t : QG_F32;
}

static float lowest(int bits)
{
    return -(float)(1 << (bits - 1));
}

/* How wide a symmetric code is: the parameter "bits" where there is one. */
static int code_bits(const struct qg_args *a)
{
    const struct qg_param *bits = qg_param_find(a->scheme, "bits");
    return bits ? (int)a->param[bits - a->scheme->params]
                : a->scheme->operand[a->operand].code_bits;
}

/* The lower bound of scales of tensors of dtype t. */
static float least_scale(const struct qg_intx_grid *grid, enum qg_dtype t)
{
    return grid->eps > 0 ? qg_round(t, (float)grid->eps) : qg_smallest_normal(t);
}

/* --- prepare --------------------------------------------------------------------------------- */

/* The scale of x[at .. at+group), computed in x's dtype, then held in grid->scale. */
static float prepare_scale(const struct qg_tensor *x, size_t at, const struct qg_intx_grid *grid)
{
    float amax = 0.0f;
    for (size_t i = at; i < at + grid->group; i++)
        amax = qg_max(amax, qg_abs(qg_get(x, i)));
    float half_range = (float)((1 << grid->bits) - 1) / 2;
    float scale = qg_round(x->dtype, qg_div(amax, half_range));
    scale = qg_max(scale, least_scale(grid, x->dtype));
    return qg_round(grid->scale, scale);
}

void qg_intx_fake_quant(const struct qg_args *a, const struct qg_intx_grid *grid)
{
    const struct qg_tensor *x = &a->in[0], *y = &a->out[0];
    float low = lowest(grid->bits), high = -low - 1.0f;
    enum qg_dtype product = promote(x->dtype, grid->scale);
    for (size_t at = 0; at < a->rows * a->cols; at += grid->group) {
        float scale = prepare_scale(x, at, grid);
        float inverse = qg_round(grid->scale, qg_div(1.0f, scale));
        for (size_t i = at; i < at + grid->group; i++) {
            float u = qg_round(product, qg_mul(qg_get(x, i), inverse));
            float q = qg_clamp(qg_add(qg_rint(u), 0.0f), low, high); // + zero point: -0 becomes 0
            qg_put(y, i, qg_round(product, qg_mul(q, scale)));
            qg_note(a, i, "scale", scale);
            qg_note(a, i, "x * (1/scale)", u);
            qg_note(a, i, "code", q);
            qg_note(a, i, "y", qg_get(y, i));
        }
    }
}

/* Straight through, with the clip mask and autograd's two roundings. */
void qg_intx_fake_quant_grad(const struct qg_args *a, const struct qg_intx_grid *grid)
{
    const struct qg_tensor *x = &a->in[0], *dy = &a->in[1];
    float low = lowest(grid->bits), high = -low - 1.0f;
    enum qg_dtype product = promote(x->dtype, grid->scale);
    for (size_t at = 0; at < a->rows * a->cols; at += grid->group) {
        float scale = prepare_scale(x, at, grid);
        float inverse = qg_round(grid->scale, qg_div(1.0f, scale));
        for (size_t i = at; i < at + grid->group; i++) {
            float q = qg_rint(qg_round(product, qg_mul(qg_get(x, i), inverse)));
            bool inside = q >= low && q <= high;
            // Back through y = q s, then through the cast of q to x's dtype, then through x (1/s).
            float dq = qg_round(x->dtype, qg_round(product, qg_mul(qg_get(dy, i), scale)));
            float dx = qg_round(x->dtype, qg_round(product, qg_mul(inside ? dq : 0.0f, inverse)));
            qg_emit(a, i, dx, dx, 0);
        }
    }
}

/* Asymmetric scale and zero point of row x[at .. at+k). */
struct token {
    float scale, zero;
};

static struct token prepare_token(const struct qg_tensor *x, size_t at, size_t k,
                                  const struct qg_intx_grid *grid)
{
    enum qg_dtype t = x->dtype;
    float low = lowest(grid->bits), min = 0.0f, max = 0.0f;
    for (size_t i = at; i < at + k; i++) {
        min = qg_min(min, qg_get(x, i));
        max = qg_max(max, qg_get(x, i));
    }
    float range = qg_round(t, qg_sub(max, min));
    float scale = qg_round(t, qg_div(range, -2.0f * low - 1.0f));
    scale = qg_max(scale, least_scale(grid, t));
    float zero = qg_round(t, qg_sub(low, qg_rint(qg_round(t, qg_div(min, scale)))));
    zero = zero != zero ? grid->nan_zero : qg_clamp(zero, low, -low - 1.0f);
    return (struct token){qg_round(grid->scale, scale), zero};
}

/* The code before it is clamped, in the dtype of the product. */
static float prepare_code(enum qg_dtype product, float x, float inverse, float zero)
{
    float u = qg_rint(qg_round(product, qg_mul(x, inverse)));
    return qg_round(product, qg_add(u, qg_round(product, zero)));
}

void qg_token_fake_quant(const struct qg_args *a, const struct qg_intx_grid *grid)
{
    const struct qg_tensor *x = &a->in[0], *y = &a->out[0];
    enum qg_dtype t = x->dtype, product = promote(t, grid->scale);
    float low = lowest(grid->bits), high = -low - 1.0f;
    for (size_t at = 0; at < a->rows * a->cols; at += a->cols) {
        struct token p = prepare_token(x, at, a->cols, grid);
        float inverse = qg_round(grid->scale, qg_div(1.0f, p.scale));
        for (size_t i = at; i < at + a->cols; i++) {
            float q = qg_clamp(prepare_code(product, qg_get(x, i), inverse, p.zero), low, high);
            float from_zero = qg_round(t, qg_sub(q, qg_round(t, p.zero)));
            qg_put(y, i, qg_round(product, qg_mul(from_zero, p.scale)));
            qg_note(a, i, "scale", p.scale);
            qg_note(a, i, "zero point", p.zero);
            qg_note(a, i, "code", q);
            qg_note(a, i, "y", qg_get(y, i));
        }
    }
}

void qg_token_fake_quant_grad(const struct qg_args *a, const struct qg_intx_grid *grid)
{
    const struct qg_tensor *x = &a->in[0], *dy = &a->in[1];
    enum qg_dtype t = x->dtype, product = promote(t, grid->scale);
    float low = lowest(grid->bits), high = -low - 1.0f;
    for (size_t at = 0; at < a->rows * a->cols; at += a->cols) {
        struct token p = prepare_token(x, at, a->cols, grid);
        float inverse = qg_round(grid->scale, qg_div(1.0f, p.scale));
        for (size_t i = at; i < at + a->cols; i++) {
            float q = prepare_code(product, qg_get(x, i), inverse, p.zero);
            bool inside = q >= low && q <= high;
            float dq = qg_round(t, qg_round(product, qg_mul(qg_get(dy, i), p.scale)));
            float dx = qg_round(t, qg_round(product, qg_mul(inside ? dq : 0.0f, inverse)));
            qg_emit(a, i, dx, dx, 0);
        }
    }
}

/* --- convert --------------------------------------------------------------------------------- */

void qg_intx_convert(const struct qg_args *a, const struct qg_intx_grid *grid)
{
    const struct qg_tensor *x = &a->in[0], *codes = &a->out[0], *scales = &a->out[1];
    enum qg_dtype t = x->dtype, st = grid->scale, product = promote(t, st);
    float low = lowest(grid->bits), high = -low - 1.0f;
    float half_range = (float)((1 << grid->bits) - 1) / 2;
    for (size_t at = 0; at < a->rows * a->cols; at += grid->group) {
        float amax = 0.0f;
        for (size_t i = at; i < at + grid->group; i++)
            amax = qg_max(amax, qg_abs(qg_get(x, i)));
        float exact = qg_max(qg_round(t, qg_div(amax, half_range)), least_scale(grid, t));
        float scale = qg_round(st, exact), inverse = qg_round(st, qg_div(1.0f, scale));
        for (size_t i = at; i < at + grid->group; i++) {
            float u = qg_round(product, qg_mul(qg_get(x, i), inverse));
            qg_put(codes, i, qg_clamp(qg_rint(u), low, high));
            qg_note(a, i, "scale", scale);
            qg_note(a, i, "x * (1/scale)", u);
            qg_note(a, i, "code", qg_get(codes, i));
        }
        qg_put(scales, at / grid->group, scale);
        qg_put(&a->out[2], at / grid->group, 0.0f);
    }
}

/* Element i of the dequantized tensor: R((q - zp) s) in the promoted dtype, then the output's. */
static float value_at(const struct qg_args *a, const struct qg_tensor *planes, size_t group,
                      size_t i)
{
    float s = qg_get(&planes[1], i / group), zero = qg_get(&planes[2], i / group);
    float q = qg_round(a->dtype, qg_sub(qg_get(&planes[0], i), qg_round(a->dtype, zero)));
    qg_note(a, i, "scale (stored)", s);
    return qg_round(a->dtype, qg_round(promote(a->dtype, planes[1].dtype), qg_mul(q, s)));
}

void qg_intx_dequant(const struct qg_args *a)
{
    for (size_t i = 0; i < a->rows * a->cols; i++) {
        qg_put(&a->out[0], i, value_at(a, a->in, qg_group(a), i));
        qg_note(a, i, "y", qg_get(&a->out[0], i));
    }
}

static struct token convert_token(const struct qg_tensor *x, size_t at, size_t k,
                                  const struct qg_intx_grid *grid)
{
    enum qg_dtype t = x->dtype;
    float low = lowest(grid->bits), high = -low - 1.0f, min = 0.0f, max = 0.0f;
    for (size_t i = at; i < at + k; i++) {
        min = qg_min(min, qg_get(x, i));
        max = qg_max(max, qg_get(x, i));
    }
    float range = qg_round(t, qg_sub(max, min));
    float scale = qg_max(qg_round(t, qg_div(range, high - low)), least_scale(grid, t));
    float zero = qg_round(t, qg_sub(low, qg_rint(qg_round(t, qg_div(min, scale)))));
    return (struct token){qg_round(grid->scale, scale),
                          zero != zero ? grid->nan_zero : qg_clamp(zero, low, high)};
}

/* The stored code of x: an int8, so NaN is 0. */
static float convert_code(enum qg_dtype t, const struct qg_intx_grid *grid, float x,
                          const struct token *p)
{
    enum qg_dtype product = promote(t, grid->scale);
    float low = lowest(grid->bits), inverse = qg_round(grid->scale, qg_div(1.0f, p->scale));
    float u = qg_rint(qg_round(product, qg_mul(x, inverse)));
    float q = qg_round(product, qg_add(u, p->zero));
    return q != q ? 0.0f : qg_clamp(q, low, -low - 1.0f);
}

void qg_token_convert(const struct qg_args *a, const struct qg_intx_grid *grid)
{
    const struct qg_tensor *x = &a->in[0];
    size_t k = a->cols;
    for (size_t row = 0; row < a->rows; row++) {
        struct token p = convert_token(x, row * k, k, grid);
        for (size_t i = row * k; i < (row + 1) * k; i++) {
            qg_put(&a->out[0], i, convert_code(x->dtype, grid, qg_get(x, i), &p));
            qg_note(a, i, "scale", p.scale);
            qg_note(a, i, "zero point", p.zero);
            qg_note(a, i, "code", qg_get(&a->out[0], i));
        }
        qg_put(&a->out[1], row, p.scale);
        qg_put(&a->out[2], row, p.zero);
    }
}

void qg_intx_matmul(const struct qg_args *a)
{
    size_t group = qg_group(a);
    for (size_t n = 0; n < a->rows; n++) {
        for (size_t k = 0; k < a->cols; k++)
            a->work[k] = value_at(a, a->in + 1, group, n * a->cols + k);
        qg_matmul_row(a, n, a->work);
    }
}

/* a->work holds a row of W, then x. */
void qg_token_matmul(const struct qg_args *a, const struct qg_intx_grid *tokens)
{
    enum qg_dtype t = a->dtype;
    float *x = a->work + a->cols;
    for (size_t m = 0; m < a->m; m++) {
        struct token p = convert_token(&a->in[0], m * a->cols, a->cols, tokens);
        for (size_t i = m * a->cols; i < (m + 1) * a->cols; i++) {
            float q = convert_code(t, tokens, qg_get(&a->in[0], i), &p);
            float from_zero = qg_round(t, qg_sub(q, qg_round(t, p.zero)));
            x[i] = qg_round(t, qg_round(promote(t, tokens->scale), qg_mul(from_zero, p.scale)));
        }
    }
    struct qg_args b = *a;
    b.in[0].dtype = QG_F32;
    b.in[0].data = x;
    qg_intx_matmul(&b);
}

/* --- what the rows below ask for ------------------------------------------------------------- */

/* What fake_quant and convert take from the parameters of int8, int8-g32, int8-int4, intx. */
static struct qg_intx_grid grid_of(const struct qg_args *a)
{
    const enum qg_dtype held[] = {a->dtype, QG_BF16, QG_F16, QG_F32}; // as in qg_scale_dtypes
    return (struct qg_intx_grid){qg_group(a), code_bits(a), a->param[EPS],
                                 held[(int)a->param[SCALE_DTYPE]], 0};
}

static void fake_quant(const struct qg_args *a)
{
    struct qg_intx_grid grid = grid_of(a);
    qg_intx_fake_quant(a, &grid);
}

static void fake_quant_grad(const struct qg_args *a)
{
    struct qg_intx_grid grid = grid_of(a);
    qg_intx_fake_quant_grad(a, &grid);
}

static void convert(const struct qg_args *a)
{
    struct qg_intx_grid grid = grid_of(a);
    qg_intx_convert(a, &grid);
}

static struct qg_intx_grid tokens_of(const struct qg_args *a, float nan_zero)
{
    return (struct qg_intx_grid){a->cols, 8, 0, a->dtype, nan_zero};
}

static void token_fake_quant(const struct qg_args *a)
{
    struct qg_intx_grid grid = tokens_of(a, QG_NAN_I32);
    qg_token_fake_quant(a, &grid);
}

static void token_fake_quant_grad(const struct qg_args *a)
{
    struct qg_intx_grid grid = tokens_of(a, QG_NAN_I32);
    qg_token_fake_quant_grad(a, &grid);
}

static void token_convert(const struct qg_args *a)
{
    struct qg_intx_grid grid = tokens_of(a, QG_NAN_I8);
    qg_token_convert(a, &grid);
}

static void token_matmul(const struct qg_args *a)
{
    struct qg_intx_grid grid = tokens_of(a, QG_NAN_I8);
    qg_token_matmul(a, &grid);
}

static struct qg_intx_grid old_int4_grid(const struct qg_args *a)
{
    const struct qg_param *eps = qg_param_find(a->scheme, "prepare-eps");
    const struct qg_param *bits = qg_param_find(a->scheme, "bits");
    return (struct qg_intx_grid){qg_group(a), (int)a->param[bits - a->scheme->params],
                                 a->param[eps - a->scheme->params], QG_F32, 0};
}

void qg_old_int4_fake_quant(const struct qg_args *a)
{
    struct qg_intx_grid grid = old_int4_grid(a);
    qg_intx_fake_quant(a, &grid);
}

void qg_old_int4_fake_quant_grad(const struct qg_args *a)
{
    struct qg_intx_grid grid = old_int4_grid(a);
    qg_intx_fake_quant_grad(a, &grid);
}

/* --- the table ------------------------------------------------------------------------------- */

#define SHARED_PARAMS                                                                           \
    [EPS] =                                                                                     \
        {"eps", "lower bound of the scale; 0: the smallest normal number of the input's dtype", \
         0,     0,                                                                              \
         1,     NULL,                                                                           \
         false},                                                                                \
    [SCALE_DTYPE] = {"scale-dtype",                                                             \
                     "dtype that holds the scale; its value is the input's",                    \
                     0,                                                                         \
                     0,                                                                         \
                     0,                                                                         \
                     qg_scale_dtypes,                                                           \
                     false}

static const struct qg_param axis_params[] = {SHARED_PARAMS, {NULL}};
static const struct qg_param group_params[] = {
    SHARED_PARAMS,
    [GROUP] = {"group", "elements of a row that share a scale", 32, 2, 4096, NULL, true},
    {NULL},
};

#define BITS_PARAMS(bits)                                                                     \
    {                                                                                         \
        SHARED_PARAMS,                                                                        \
            [GROUP] = {"group", "elements of a row that share a scale; 0: the whole row",     \
                       32,      0,                                                            \
                       4096,    NULL,                                                         \
                       true},                                                                 \
            [BITS] = {                                                                        \
                "bits", "bits of a weight's code; QAT takes 2 to 8", bits, 1, 8, NULL, true}, \
        {                                                                                     \
            NULL                                                                              \
        }                                                                                     \
    }
static const struct qg_param intx_params[] = BITS_PARAMS(4);
static const struct qg_param dynamic_params[] = BITS_PARAMS(8);

static size_t whole_row(const struct qg_args *a)
{
    return a->cols;
}

static size_t group_param(const struct qg_args *a)
{
    return a->param[GROUP] > 0 ? (size_t)a->param[GROUP] : a->cols;
}

static const char *refuse(const struct qg_args *a)
{
    return a->cols % qg_group(a) == 0
               ? NULL
               : "the group does not divide K; upstream raises (ValueError in prepare, "
                 "AssertionError in convert); choose a group that divides K or pad K";
}

static const char *refuse_bits(const struct qg_args *a)
{
    bool prepares = a->op == QG_FAKE_QUANT || a->op == QG_FAKE_QUANT_GRAD;
    if (prepares && a->operand != QG_ACTIVATION && a->param[BITS] < 2)
        return "QAT takes 2 to 8 bits, upstream asserts; 1 bit is converted only";
    if (prepares && a->operand != QG_ACTIVATION && qg_group(a) < 2)
        return "QAT takes groups of at least 2, upstream asserts; a group of 1 is converted only";
    return refuse(a);
}

/* With 1 bit |x| / s is at most 1/2, which rounds to 0; with 2 bits it is at most 3/2. */
static const char *few_bits(const struct qg_args *a)
{
    return a->operand == QG_ACTIVATION || a->param[BITS] > 2
               ? NULL
               : "with 1 bit all but a few elements become 0, with 2 those within a third of the "
                 "largest";
}

#define PLANES(extent, what)                                                               \
    {                                                                                      \
        {"codes", QG_I8, 0, {&qg_ext_rows, &qg_ext_cols}, what},                           \
            {"scales", QG_INPUT, SCALE_DTYPE + 1, {&qg_ext_rows, extent}, "row-major"},    \
            {"zeros", QG_I8, 0, {&qg_ext_rows, extent}, "zero points, row-major"}, {NULL}, \
    }
static const struct qg_plane axis_planes[] = PLANES(&qg_ext_one, "one code per byte");
static const struct qg_plane group_planes[] =
    PLANES(&qg_ext_groups, "one code per byte, also for 4 bits");
static const struct qg_plane token_planes[] = PLANES(&qg_ext_one, "one code per byte, asymmetric");

/* Symmetric: per row (PerAxis(0)) or per group; asymmetric: per token. */
#define PER_ROW                                                                          \
    {                                                                                    \
        fake_quant, fake_quant_grad, convert, qg_intx_dequant, whole_row, axis_planes, 8 \
    }
#define GROUPED(bits)                                                                          \
    {                                                                                          \
        fake_quant, fake_quant_grad, convert, qg_intx_dequant, group_param, group_planes, bits \
    }
#define PER_TOKEN                                                                           \
    {                                                                                       \
        token_fake_quant, token_fake_quant_grad, token_convert, qg_intx_dequant, whole_row, \
            token_planes, 8                                                                 \
    }

#define NONFINITE                                                                                  \
    "NaN in a group: its scale is NaN, codes 0, values NaN. inf: scale inf, 1/scale 0, inf*0 NaN " \
    "and the group's finite values 0*inf NaN. All-zero group: scale eps, codes 0."

static const char nonfinite[] = NONFINITE;
static const char token_nonfinite[] = NONFINITE
    " Activations with -inf: the zero point is NaN, held as -2^31 in prepare's int32 (as on "
    "x86; values inf) and as 0 in convert's int8 (values NaN).";

static const char *const widths[] = {"bits=2", "bits=3", "bits=6", "bits=2 group=0", NULL};

const struct qg_scheme qg_schemes_intx[] = {
    {.name = "int8",
     .summary = "int8 weight-only, symmetric per row, for linear and embedding (unsloth int8)",
     .upstream = "ao:torchao/quantization/quant_api.py IntxWeightOnlyConfig int8 PerAxis(0)",
     .nonfinite = nonfinite,
     .params = axis_params,
     .operand = {[QG_WEIGHT] = PER_ROW, [QG_EMBEDDING] = PER_ROW},
     .matmul = qg_intx_matmul,
     .adapts = true},
    {.name = "int8-g32",
     .summary = "int8 weight-only, symmetric per group of 32 (unsloth cactus)",
     .upstream = "ao:torchao/quantization/quant_api.py IntxWeightOnlyConfig int8 PerGroup(32)",
     .nonfinite = nonfinite,
     .params = group_params,
     .operand = {[QG_WEIGHT] = GROUPED(8), [QG_EMBEDDING] = GROUPED(8)},
     .matmul = qg_intx_matmul,
     .adapts = true,
     .refuse = refuse},
    {.name = "int8-int4",
     .summary = "int8 per-token activations x int4 group-32 weights, int8 per-row embedding",
     .upstream = "ao:torchao/quantization/quant_api.py Int8DynamicActivationIntxWeightConfig; "
                 "unsloth:unsloth/models/_utils.py",
     .nonfinite = token_nonfinite,
     .params = group_params,
     .operand = {[QG_WEIGHT] = GROUPED(4), [QG_ACTIVATION] = PER_TOKEN, [QG_EMBEDDING] = PER_ROW},
     .matmul = token_matmul,
     .refuse = refuse},
    {.name = "intx",
     .summary = "weight-only, 1 to 8 bits, symmetric per group or per row, linear and embedding",
     .upstream = "ao:torchao/quantization/quant_api.py IntxWeightOnlyConfig",
     .nonfinite = nonfinite,
     .params = intx_params,
     .variants = widths,
     .operand = {[QG_WEIGHT] = GROUPED(8), [QG_EMBEDDING] = GROUPED(8)},
     .matmul = qg_intx_matmul,
     .adapts = true,
     .refuse = refuse_bits,
     .uniform = few_bits},
    {.name = "intx-dynamic",
     .summary = "int8 per-token activations x weights of 1 to 8 bits, per group or per row",
     .upstream = "ao:torchao/quantization/quant_api.py Int8DynamicActivationIntxWeightConfig",
     .nonfinite = token_nonfinite,
     .params = dynamic_params,
     .variants = widths,
     .operand = {[QG_WEIGHT] = GROUPED(8), [QG_ACTIVATION] = PER_TOKEN},
     .matmul = token_matmul,
     .refuse = refuse_bits,
     .uniform = few_bits},
    {NULL},
};
