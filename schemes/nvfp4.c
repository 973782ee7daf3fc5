/* SPDX-License-Identifier: MIT
 *
 * NVFP4: blocks of 16 elements along K, each element e2m1 (0 .5 1 1.5 2 3 4 6), each block with an
 * e4m3 scale, the tensor with a binary32 scale P above them. torchao's arithmetic, all of it in
 * binary32 (2688 = 6 448, the product of the largest numbers of both formats):
 *
 *     P  = max|x| of the tensor / 2688                   nvfp4-single: P = 1
 *     s  = e4m3(clamp((max|x| of the block / 6) / P, 2^-6, 448))
 *     q  = e2m1(clamp(x ((1/P) / s), +-6))               x' = R(q (P s))
 *
 * 2^-6 is e4m3's smallest normal number: block scales are never subnormal. With a tensor scale only
 * blocks below 3.5e-5 of the largest magnitude meet that bound, without it every block below
 * 0.094, which is most of a usual weight.
 *
 * Matmul (`matmul=scaled`): x is quantized at run time, with a P of its own over all of it. Tensor
 * cores sum q_x s_x q_w s_w in binary32; then y = R(R(sum) R(P_x P_w)), R being roundings to x's
 * dtype; without tensor scales y = R(sum). `matmul=weight-only` multiplies x by x'.
 *
 * Prepare and convert take the same steps: torchao trains on the very matmul that it ships
 * (trains_on_matmul). Backward, the quantizers pass the gradient straight through: no mask where
 * elements saturate, nothing for the scales.
 *
 * nvfp4-te is the same format as TransformerEngine writes it, which multiplies where torchao
 * divides and has no lower bound. A = max|x| of the tensor is what it keeps beside the block
 * scales; S = 2688 / A, and 1 where A is 0 or infinite:
 *
 *     s = e4m3(min(max|x| of the block f32(S f32(1/6)), 448))
 *     q = e2m1(clamp(x min(1 / (s f32(1/S)), the largest float), +-6))       x' = R(q ((s A)
 * f32(1/2688))) y = R(sum ((A_x A_w) f32(1/2688^2)))
 *
 * Sources: ao:torchao/prototype/mx_formats/nvfp4_tensor.py nvfp4_quantize,
 * per_tensor_amax_to_scale, _addmm_nvfp4_dispatch; ao:torchao/prototype/qat/nvfp4.py (the same in
 * 0.18.0 and at 36027d82); te:transformer_engine/pytorch/custom_recipes/reference_nvfp4.py
 * _quantize_blockwise_reference, te:transformer_engine/common/cast/nvfp4/dequantize_nvfp4.cuh,
 * te:.../recipe/nvfp4.cu (alpha).
 */
#include "schemes/blocked.h"
#include "schemes/interval.h"

enum { LAYOUT, MATMUL };
enum { SCALED, WEIGHT_ONLY };
enum { BLOCK = 16 };

#define E2M1_MAX   6.0f
#define TENSOR_MAX 2688.0f
#define SMALLEST   0x1p-6f

static const char *const matmul_words[] = {"scaled", "weight-only", NULL};

static size_t block(const struct qg_args *a)
{
    (void)a;
    return BLOCK;
}

static float amax_of(const struct qg_tensor *x, size_t at, size_t n)
{
    float amax = 0.0f;
    for (size_t i = at; i < at + n; i++)
        amax = qg_max(amax, qg_abs(qg_get(x, i)));
    return amax;
}

/* Whether there is a scale of the whole tensor. */
static bool two_level(const struct qg_args *a)
{
    return a->scheme->operand[a->operand].spans_rows;
}

/* --- prepare --------------------------------------------------------------------------------- */

static void fake_quant(const struct qg_args *a)
{
    const struct qg_tensor *x = &a->in[0];
    float p = two_level(a) ? qg_div(amax_of(x, 0, qg_count(x)), TENSOR_MAX) : 1.0f;
    for (size_t at = 0; at < a->rows * a->cols; at += BLOCK) {
        float wanted = qg_div(qg_div(amax_of(x, at, BLOCK), E2M1_MAX), p);
        float scale = qg_round(QG_E4M3, qg_clamp(wanted, SMALLEST, QG_E4M3_MAX));
        float inverse = qg_div(qg_div(1.0f, p), scale), step = qg_mul(p, scale);
        for (size_t i = at; i < at + BLOCK; i++) {
            float v = qg_mul(qg_get(x, i), inverse);
            float q = qg_e2m1_decode(qg_e2m1_encode(qg_clamp(v, -E2M1_MAX, E2M1_MAX)));
            qg_put(&a->out[0], i, qg_mul(q, step));
            qg_note(a, i, "tensor scale", p);
            qg_note(a, i, "block scale, exact", wanted);
            qg_note(a, i, "block scale", scale);
            qg_note(a, i, "x / scale", v);
            qg_note(a, i, "element", q);
            qg_note(a, i, "y", qg_get(&a->out[0], i));
        }
    }
}

/* --- convert --------------------------------------------------------------------------------- */

/* What a block of x becomes, given what the tensor has: codes for its elements and an e4m3 scale.
 * The quantizer of torchao (tensor: P) or TransformerEngine (tensor: A). */
struct quantized {
    float wanted, scale, factor; /* elements are multiplied with the factor */
};
typedef struct quantized quantizer(const struct qg_tensor *x, size_t at, float tensor);

static struct quantized torchao_block(const struct qg_tensor *x, size_t at, float p)
{
    struct quantized b;
    b.wanted = qg_div(qg_div(amax_of(x, at, BLOCK), E2M1_MAX), p);
    b.scale = qg_round(QG_E4M3, qg_clamp(b.wanted, SMALLEST, QG_E4M3_MAX));
    b.factor = qg_div(qg_div(1.0f, p), b.scale);
    return b;
}

static struct quantized te_block(const struct qg_tensor *x, size_t at, float amax)
{
    const float largest = 0x1.fffffep127f;
    struct quantized b;
    float s = qg_min(qg_div(TENSOR_MAX, amax), largest);
    if (amax == 0 || s == 0)
        s = 1.0f;
    b.wanted = qg_mul(amax_of(x, at, BLOCK), qg_mul(s, qg_div(1.0f, E2M1_MAX)));
    b.scale = qg_round(QG_E4M3, qg_min(b.wanted, QG_E4M3_MAX));
    b.factor = qg_min(qg_div(1.0f, qg_mul(b.scale, qg_div(1.0f, s))), largest);
    return b;
}

static unsigned code_of(const struct quantized *b, float x)
{
    return qg_e2m1_encode(qg_clamp(qg_mul(x, b->factor), -E2M1_MAX, E2M1_MAX));
}

/* Where the scale of block j of a row lies in its plane. */
static size_t scale_at(const struct qg_args *a, size_t row, size_t j)
{
    return qg_layout_at(a->param[LAYOUT], a->cols / BLOCK, row, j);
}

static unsigned get_code(const struct qg_tensor *plane, size_t i)
{
    return ((const uint8_t *)plane->data)[i / 2] >> (i % 2 * 4) & 15u;
}

static unsigned code(const struct qg_args *a, size_t i)
{
    return get_code(&a->out[0], i);
}

/* The planes, given what is kept of the tensor. */
static void write_planes(const struct qg_args *a, float tensor, quantizer *quantize)
{
    uint8_t *codes = a->out[0].data;
    memset(a->out[1].data, 0, qg_bytes(&a->out[1])); // what pads the last tiles
    for (size_t at = 0; at < a->rows * a->cols; at += BLOCK) {
        struct quantized b = quantize(&a->in[0], at, tensor);
        qg_put(&a->out[1], scale_at(a, at / a->cols, at % a->cols / BLOCK), b.scale);
        for (size_t i = at; i < at + BLOCK; i++) {
            unsigned q = code_of(&b, qg_get(&a->in[0], i));
            codes[i / 2] = (uint8_t)(i % 2 ? codes[i / 2] | q << 4 : q);
            qg_note(a, i, "of the tensor", tensor);
            qg_note(a, i, "block scale, exact", b.wanted);
            qg_note(a, i, "block scale", b.scale);
            qg_note(a, i, "x / scale", qg_mul(qg_get(&a->in[0], i), b.factor));
            qg_note(a, i, "code", (float)q);
        }
    }
}

static void convert(const struct qg_args *a)
{
    float p = 1.0f;
    if (two_level(a)) {
        p = qg_div(amax_of(&a->in[0], 0, qg_count(&a->in[0])), TENSOR_MAX);
        qg_put(&a->out[2], 0, p);
    }
    write_planes(a, p, torchao_block);
}

static void te_convert(const struct qg_args *a)
{
    float amax = amax_of(&a->in[0], 0, qg_count(&a->in[0]));
    qg_put(&a->out[2], 0, amax);
    write_planes(a, amax, te_block);
}

/* The stored scale of the block of element (row, col). */
static float stored_scale(const struct qg_args *a, const struct qg_tensor *planes, size_t row,
                          size_t col)
{
    return qg_get(&planes[1], scale_at(a, row, col / BLOCK));
}

/* Element (row, col) of a dequantized operand. */
static float value_at(const struct qg_args *a, const struct qg_tensor *planes, size_t row,
                      size_t col)
{
    float s = stored_scale(a, planes, row, col), p = two_level(a) ? qg_get(&planes[2], 0) : 1.0f;
    size_t i = row * a->cols + col;
    qg_note(a, i, "block scale (stored)", s);
    return qg_round(a->dtype, qg_mul(qg_e2m1_decode(get_code(&planes[0], i)), qg_mul(p, s)));
}

static float te_value_at(const struct qg_args *a, const struct qg_tensor *planes, size_t row,
                         size_t col)
{
    float s = stored_scale(a, planes, row, col), amax = qg_get(&planes[2], 0);
    float step = qg_mul(qg_mul(s, amax), qg_div(1.0f, TENSOR_MAX));
    size_t i = row * a->cols + col;
    qg_note(a, i, "block scale (stored)", s);
    return qg_round(a->dtype, qg_mul(qg_e2m1_decode(get_code(&planes[0], i)), step));
}

static void each_value(const struct qg_args *a,
                       float (*value)(const struct qg_args *, const struct qg_tensor *, size_t,
                                      size_t))
{
    for (size_t row = 0; row < a->rows; row++)
        for (size_t col = 0; col < a->cols; col++) {
            size_t i = row * a->cols + col;
            qg_put(&a->out[0], i, value(a, a->in, row, col));
            qg_note(a, i, "y", qg_get(&a->out[0], i));
        }
}

static void dequant(const struct qg_args *a)
{
    each_value(a, value_at);
}

static void te_dequant(const struct qg_args *a)
{
    each_value(a, te_value_at);
}

/* --- matmul ---------------------------------------------------------------------------------- */

/* x and one row of W without their tensors' scales: q s, exact. */
static void scaled_input(const struct qg_args *a, float tensor, quantizer *quantize, float *x)
{
    for (size_t at = 0; at < a->m * a->cols; at += BLOCK) {
        struct quantized b = quantize(&a->in[0], at, tensor);
        for (size_t i = at; i < at + BLOCK; i++)
            x[i] = qg_mul(qg_e2m1_decode(code_of(&b, qg_get(&a->in[0], i))), b.scale);
    }
}

static void scaled_weight(const struct qg_args *a, size_t row, float *w)
{
    for (size_t k = 0; k < a->cols; k++)
        w[k] = qg_mul(qg_e2m1_decode(get_code(&a->in[1], row * a->cols + k)),
                      stored_scale(a, a->in + 1, row, k));
}

/* y = R(R(sum) factor), where the sum itself is rounded to `rounded`. */
static void emit_scaled(const struct qg_args *a, size_t m, size_t n, const float *x, const float *w,
                        enum qg_dtype rounded, float factor)
{
    struct qg_sum s = {0};
    for (size_t k = 0; k < a->cols; k++)
        qg_sum_add(&s, (double)x[k] * w[k]);
    struct qg_interval y = qg_interval_of(&s, qg_sum_bound(&s, a->cols, a->depth, 1));
    y = qg_interval_mul(a->dtype, qg_interval_round(rounded, y), factor);
    qg_emit(a, m * a->rows + n, y.mid, y.mid, qg_interval_off(y));
}

/* a->work holds a row of W, then x. */
static void scaled_product(const struct qg_args *a, float tensor, quantizer *quantize,
                           enum qg_dtype rounded, float factor)
{
    float *w = a->work, *x = w + a->cols;
    scaled_input(a, tensor, quantize, x);
    for (size_t n = 0; n < a->rows; n++) {
        scaled_weight(a, n, w);
        for (size_t m = 0; m < a->m; m++)
            emit_scaled(a, m, n, x + m * a->cols, w, rounded, factor);
    }
}

static void matmul(const struct qg_args *a)
{
    if (a->param[MATMUL] == WEIGHT_ONLY) {
        for (size_t n = 0; n < a->rows; n++) {
            for (size_t k = 0; k < a->cols; k++)
                a->work[k] = value_at(a, a->in + 1, n, k);
            qg_matmul_row(a, n, a->work);
        }
        return;
    }
    float p = 1.0f, factor = 1.0f;
    if (two_level(a)) {
        p = qg_div(amax_of(&a->in[0], 0, qg_count(&a->in[0])), TENSOR_MAX);
        factor = qg_round(a->dtype, qg_mul(p, qg_get(&a->in[3], 0)));
    }
    scaled_product(a, p, torchao_block, a->dtype, factor);
}

static void te_matmul(const struct qg_args *a)
{
    float amax = amax_of(&a->in[0], 0, qg_count(&a->in[0]));
    float both = qg_mul(amax, qg_get(&a->in[3], 0));
    scaled_product(a, amax, te_block, QG_F32, qg_mul(both, (float)(1.0 / (2688.0 * 2688.0))));
}

/* --- the table ------------------------------------------------------------------------------- */

#define LAYOUT_PARAM                                                                           \
    [LAYOUT] = {                                                                               \
        "layout", "order of the block scales: row-major, or the tiles that tensor cores read", \
        QG_PLAIN, 0,                                                                           \
        0,        qg_layout_words,                                                             \
        false}
static const struct qg_param params[] = {
    LAYOUT_PARAM,
    [MATMUL] = {"matmul", "of quantized x, or of x as it is and the dequantized weight", SCALED, 0,
                0, matmul_words, false},
    {NULL},
};
static const struct qg_param te_params[] = {LAYOUT_PARAM, {NULL}};

static const char *const variants[] = {"matmul=weight-only", NULL};

static const char *refuse(const struct qg_args *a)
{
    return a->cols % BLOCK == 0 ? NULL
                                : "blocks of 16 do not divide K; upstream raises AssertionError "
                                  "(RuntimeError for weights of layers); pad K to a multiple of 16";
}

static size_t scale_rows(const struct qg_args *a)
{
    return qg_layout_rows(a->param[LAYOUT], a->rows);
}

static size_t scale_cols(const struct qg_args *a)
{
    return qg_layout_cols(a->param[LAYOUT], a->cols / BLOCK);
}

static const struct qg_extent ext_scale_rows = {"R (swizzled 32*ceil(R/128))", scale_rows},
                              ext_scale_cols = {"K/16 (swizzled 16*ceil(K/64))", scale_cols};

#define CODES                                                                       \
    {                                                                               \
        "codes", QG_U8, 0, {&qg_ext_rows, &qg_ext_nibble}, "e2m1, even element low" \
    }
#define SCALES                                                    \
    {                                                             \
        "scales", QG_E4M3, 0, {&ext_scale_rows, &ext_scale_cols}, \
            "of blocks; row-major or tiles of 128 x 4"            \
    }
static const struct qg_plane single_planes[] = {CODES, SCALES, {NULL}};
static const struct qg_plane two_level_planes[] = {
    CODES, SCALES, {"tensor_scale", QG_F32, 0, {&qg_ext_one}, "P, for all blocks"}, {NULL}};
static const struct qg_plane te_planes[] = {
    CODES, SCALES, {"tensor_amax", QG_F32, 0, {&qg_ext_one}, "A, 2688 tensor scales"}, {NULL}};

#define OPERAND(plane, whole)                                                                 \
    {                                                                                         \
        .fake_quant = fake_quant, .fake_quant_grad = qg_straight_through, .convert = convert, \
        .dequant = dequant, .group = block, .planes = plane, .code_bits = 4, .code = code,    \
        .spans_rows = whole                                                                   \
    }
#define TE_OPERAND                                                                         \
    {                                                                                      \
        .convert = te_convert, .dequant = te_dequant, .group = block, .planes = te_planes, \
        .code_bits = 4, .code = code, .spans_rows = true                                   \
    }

static const char nonfinite[] =
    "NaN: the scale of its block is NaN, and of every block where the tensor has one (inf too: x "
    "times 0); codes of NaN are the largest positive (torchao's are arbitrary), values NaN. An "
    "all-zero tensor with a tensor scale is 0/0: all NaN. Where 1/P overflows (max|x| below "
    "2^-116) codes are +-6, and 0 times infinity arbitrary. All-zero block: scale 2^-6, codes 0.";
static const char te_nonfinite[] =
    "NaN: all scales NaN, codes the largest positive (its reference writes 0), values NaN. inf: "
    "S = 1, the scale of its block 448, values inf or NaN. All-zero tensor or block: scale 0, "
    "codes 0 with their signs.";

const struct qg_scheme qg_schemes_nvfp4[] = {
    {.name = "nvfp4",
     .summary = "NVFP4 with a tensor scale: e2m1, an e4m3 scale per 16, both operands (torchao)",
     .upstream = "ao:torchao/prototype/mx_formats/nvfp4_tensor.py nvfp4_quantize",
     .nonfinite = nonfinite,
     .params = params,
     .variants = variants,
     .dtypes = 1u << QG_F32 | 1u << QG_BF16,
     .operand = {[QG_WEIGHT] = OPERAND(two_level_planes, true),
                 [QG_ACTIVATION] = OPERAND(two_level_planes, true)},
     .matmul = matmul,
     .refuse = refuse,
     .adapts = true,
     .trains_on_matmul = true},
    {.name = "nvfp4-single",
     .summary = "NVFP4 with block scales alone (torchao, use_dynamic_per_tensor_scale=False)",
     .upstream = "ao:torchao/prototype/mx_formats/nvfp4_tensor.py nvfp4_quantize",
     .nonfinite = nonfinite,
     .params = params,
     .variants = variants,
     .dtypes = 1u << QG_F32 | 1u << QG_BF16,
     .operand = {[QG_WEIGHT] = OPERAND(single_planes, false),
                 [QG_ACTIVATION] = OPERAND(single_planes, false)},
     .matmul = matmul,
     .refuse = refuse,
     .adapts = true,
     .trains_on_matmul = true},
    {.name = "nvfp4-te",
     .summary = "NVFP4 as TransformerEngine writes it: products for quotients, no lower bound",
     .upstream = "te:transformer_engine/pytorch/custom_recipes/reference_nvfp4.py",
     .nonfinite = te_nonfinite,
     .params = te_params,
     .operand = {[QG_WEIGHT] = TE_OPERAND, [QG_ACTIVATION] = TE_OPERAND},
     .matmul = te_matmul,
     .refuse = refuse,
     .adapts = true},
    {NULL},
};
