/* SPDX-License-Identifier: MIT
 *
 * The checkpoint formats of compressed-tensors (what llm-compressor writes and vLLM loads):
 * symmetric weights, every operation in the tensor's own dtype. R(.) is a rounding to that dtype.
 *
 *     s = R(max|w| / h), or the dtype's epsilon where that is 0      h = 7.5, 127.5 or 448
 *     u = R(w / s)                                                   a division, no reciprocal
 *     q = round(clamp(u, -8, 7)), round(clamp(u, -128, 127)), e4m3(clamp(u, -448, 448))
 *     w' = R(q s)
 *
 * ct-int4 and ct-int8 (pack-quantized) store q + 8 or q + 128, unsigned, from the lowest bits of an
 * int32 up along K; a row's last word is filled with zero bits. Beside the planes a file holds
 * weight_shape, two int64, which is the shape [R,K] itself. ct-fp8 (float-quantized) stores e4m3.
 *
 * Prepare is the library's fake quantization, with scales as an observer of minimum and maximum
 * gives them. It takes the same steps and differs from convert in one thing: a code of -0, which
 * prepare hands on and an integer cannot hold; ct-int* therefore differ in the sign of zeros and in
 * nothing else. The library runs it without gradients: there is no backward.
 *
 * Inputs of ct-fp8 go through the same grid, row by row, each with a scale of its own. (In an input
 * of rank 2 the library takes the whole matrix for one token; what follows is what it does with
 * [batch, token, K].) A linear layer multiplies the decompressed weight, in the dtype.
 *
 * Sources: compressed-tensors:src/compressed_tensors/quantization/utils/helpers.py
 * calculate_qparams, compute_dynamic_scales_and_zp; .../quantization/lifecycle/forward.py and
 * forward_helpers.py; .../compressors/pack_quantized, .../compressors/naive_quantized.
 */
#include "schemes/dot.h"

enum { GROUP }; /* parameter of ct-int4 */

static int code_bits(const struct qg_args *a)
{
    return a->scheme->operand[a->operand].code_bits;
}

/* --- prepare --------------------------------------------------------------------------------- */

/* Of elements at .. at+n of x, for a grid that reaches to `half_range`. */
static float scale_of(const struct qg_tensor *x, size_t at, size_t n, float half_range)
{
    float amax = 0.0f;
    for (size_t i = at; i < at + n; i++)
        amax = qg_max(amax, qg_abs(qg_get(x, i)));
    float scale = qg_round(x->dtype, qg_div(amax, half_range));
    return scale == 0 ? ldexpf(1.0f, -qg_mantissa_bits(x->dtype)) : scale;
}

/* Codes of b bits: 7.5 or 127.5. */
static float half_range_of(int bits)
{
    return (float)((1 << bits) - 1) / 2;
}

static void fake_quant_int(const struct qg_args *a)
{
    const struct qg_tensor *x = &a->in[0], *y = &a->out[0];
    float half_range = half_range_of(code_bits(a));
    size_t group = qg_group(a);
    for (size_t at = 0; at < a->rows * a->cols; at += group) {
        float scale = scale_of(x, at, group, half_range);
        for (size_t i = at; i < at + group; i++) {
            float u = qg_round(x->dtype, qg_div(qg_get(x, i), scale));
            u = qg_add(u, 0.0f); // the zero point that symmetric schemes have as well
            float q = qg_rint(qg_clamp(u, -half_range - 0.5f, half_range - 0.5f));
            qg_put(y, i, qg_mul(q, scale));
            qg_note(a, i, "scale", scale);
            qg_note(a, i, "x / scale", u);
            qg_note(a, i, "code", q);
            qg_note(a, i, "y", qg_get(y, i));
        }
    }
}

/* Row `row` of x to the e4m3 grid. */
static void fake_quant_fp8_row(const struct qg_args *a, const struct qg_tensor *x, size_t row,
                               const struct qg_tensor *y)
{
    float scale = scale_of(x, row * a->cols, a->cols, QG_E4M3_MAX);
    for (size_t i = row * a->cols; i < (row + 1) * a->cols; i++) {
        float u = qg_round(x->dtype, qg_div(qg_get(x, i), scale));
        u = qg_add(u, 0.0f); // a zero point again: -0 becomes 0
        float q = qg_round(QG_E4M3, qg_clamp(u, -QG_E4M3_MAX, QG_E4M3_MAX));
        qg_put(y, i, qg_round(x->dtype, qg_mul(q, scale)));
        qg_note(a, i, "scale", scale);
        qg_note(a, i, "x / scale", u);
        qg_note(a, i, "code", q);
        qg_note(a, i, "y", qg_get(y, i));
    }
}

static void fake_quant_fp8(const struct qg_args *a)
{
    for (size_t row = 0; row < a->rows; row++)
        fake_quant_fp8_row(a, &a->in[0], row, &a->out[0]);
}

/* --- convert --------------------------------------------------------------------------------- */

static size_t words_per_row(const struct qg_args *a)
{
    return (a->cols * (size_t)code_bits(a) + 31) / 32;
}

/* Where element i of [R,K] lies: the word, and its lowest bit. */
static uint32_t *word_of(const struct qg_args *a, const struct qg_tensor *codes, size_t i,
                         unsigned *shift)
{
    size_t bits = (size_t)code_bits(a), k = i % a->cols;
    *shift = (unsigned)(k * bits % 32);
    return (uint32_t *)codes->data + i / a->cols * words_per_row(a) + k * bits / 32;
}

static unsigned packed_code(const struct qg_args *a, const struct qg_tensor *codes, size_t i)
{
    unsigned shift, word = *word_of(a, codes, i, &shift);
    return word >> shift & ((1u << code_bits(a)) - 1u);
}

static unsigned code(const struct qg_args *a, size_t i)
{
    return packed_code(a, &a->out[0], i);
}

static void convert_int(const struct qg_args *a)
{
    const struct qg_tensor *x = &a->in[0], *codes = &a->out[0];
    float half_range = half_range_of(code_bits(a));
    int offset = 1 << (code_bits(a) - 1);
    size_t group = qg_group(a);
    memset(codes->data, 0, qg_bytes(codes));
    for (size_t at = 0; at < a->rows * a->cols; at += group) {
        float scale = scale_of(x, at, group, half_range);
        for (size_t i = at; i < at + group; i++) {
            float u = qg_round(x->dtype, qg_div(qg_get(x, i), scale));
            float q = qg_rint(qg_clamp(u, -half_range - 0.5f, half_range - 0.5f));
            unsigned shift;
            uint32_t *word = word_of(a, codes, i, &shift);
            *word |= (uint32_t)(q == q ? (int)q + offset : offset) << shift;
            qg_note(a, i, "scale", scale);
            qg_note(a, i, "x / scale", u);
            qg_note(a, i, "code", q);
        }
        qg_put(&a->out[1], at / group, scale);
    }
}

static void convert_fp8(const struct qg_args *a)
{
    const struct qg_tensor *x = &a->in[0], *codes = &a->out[0];
    for (size_t row = 0; row < a->rows; row++) {
        float scale = scale_of(x, row * a->cols, a->cols, QG_E4M3_MAX);
        for (size_t i = row * a->cols; i < (row + 1) * a->cols; i++) {
            float u = qg_add(qg_round(x->dtype, qg_div(qg_get(x, i), scale)), 0.0f);
            qg_put(codes, i, qg_clamp(u, -QG_E4M3_MAX, QG_E4M3_MAX));
            qg_note(a, i, "scale", scale);
            qg_note(a, i, "x / scale", u);
            qg_note(a, i, "code", qg_get(codes, i));
        }
        qg_put(&a->out[1], row, scale);
    }
}

/* --- dequant and matmul ---------------------------------------------------------------------- */

/* Element i of the decompressed tensor. */
static float value_at(const struct qg_args *a, const struct qg_tensor *planes, size_t i)
{
    float scale = qg_get(&planes[1], i / qg_group(a)), q;
    if (planes[0].dtype == QG_E4M3)
        q = qg_get(&planes[0], i);
    else
        q = (float)((int)packed_code(a, &planes[0], i) - (1 << (code_bits(a) - 1)));
    qg_note(a, i, "scale (stored)", scale);
    qg_note(a, i, "code (stored)", q);
    return qg_round(a->dtype, qg_mul(q, scale));
}

static void dequant(const struct qg_args *a)
{
    for (size_t i = 0; i < a->rows * a->cols; i++) {
        qg_put(&a->out[0], i, value_at(a, a->in, i));
        qg_note(a, i, "y", qg_get(&a->out[0], i));
    }
}

static void matmul(const struct qg_args *a)
{
    for (size_t n = 0; n < a->rows; n++) {
        for (size_t k = 0; k < a->cols; k++)
            a->work[k] = value_at(a, a->in + 1, n * a->cols + k);
        qg_matmul_row(a, n, a->work);
    }
}

/* x goes through the grid first. a->work holds a row of W, then x. */
static void matmul_fp8(const struct qg_args *a)
{
    struct qg_tensor x = {.dtype = QG_F32, .data = a->work + a->cols};
    for (size_t m = 0; m < a->m; m++)
        fake_quant_fp8_row(a, &a->in[0], m, &x);
    struct qg_args b = *a;
    b.in[0] = x;
    matmul(&b);
}

/* --- the table ------------------------------------------------------------------------------- */

static size_t whole_row(const struct qg_args *a)
{
    return a->cols;
}

static size_t group_param(const struct qg_args *a)
{
    return (size_t)a->param[GROUP];
}

static const char *refuse_group(const struct qg_args *a)
{
    return a->cols % qg_group(a) == 0
               ? NULL
               : "the group does not divide K; upstream raises ValueError; choose a group that "
                 "divides K or pad K";
}

static const struct qg_param group_params[] = {
    [GROUP] = {"group", "elements of a row that share a scale", 128, 2, 4096, NULL, true},
    {NULL},
};
static const struct qg_param no_params[] = {{NULL}};

static const struct qg_extent words4 = {"ceil(K/8)", words_per_row},
                              words8 = {"ceil(K/4)", words_per_row};

static const struct qg_plane int4_planes[] = {
    {"codes",
     QG_I32,
     0,
     {&qg_ext_rows, &words4},
     "weight_packed: q + 8, eight to a word, the first element in the lowest bits"},
    {"scales", QG_INPUT, 0, {&qg_ext_rows, &qg_ext_groups}, "weight_scale"},
    {NULL},
};
static const struct qg_plane int8_planes[] = {
    {"codes",
     QG_I32,
     0,
     {&qg_ext_rows, &words8},
     "weight_packed: q + 128, four to a word, the first element in the lowest bits"},
    {"scales", QG_INPUT, 0, {&qg_ext_rows, &qg_ext_one}, "weight_scale"},
    {NULL},
};
static const struct qg_plane fp8_planes[] = {
    {"codes", QG_E4M3, 0, {&qg_ext_rows, &qg_ext_cols}, "weight: one e4m3 per element"},
    {"scales", QG_INPUT, 0, {&qg_ext_rows, &qg_ext_one}, "weight_scale; of inputs: one per row"},
    {NULL},
};

#define FP8                                                                                \
    {                                                                                      \
        fake_quant_fp8, NULL, convert_fp8, dequant, whole_row, fp8_planes, 8, .codes = 254 \
    }

static const char int_nonfinite[] =
    "NaN in a group: its scale is NaN, all codes are the integer of NaN (0, as on x86), values "
    "NaN. inf: scale inf, finite values 0*inf = NaN, codes 0. All-zero group: scale the dtype's "
    "epsilon, codes 0.";
static const char fp8_nonfinite[] =
    "NaN in a row: its scale and all codes are NaN. inf: scale inf, code of the inf NaN, of finite "
    "values 0, values NaN. All-zero row: scale the dtype's epsilon, codes 0.";

const struct qg_scheme qg_schemes_compressed_tensors[] = {
    {.name = "ct-int4",
     .summary = "compressed-tensors pack-quantized int4, symmetric per group (W4A16)",
     .upstream = "compressed-tensors:src/compressed_tensors/compressors/pack_quantized/base.py",
     .nonfinite = int_nonfinite,
     .params = group_params,
     .operand = {[QG_WEIGHT] = {fake_quant_int, NULL, convert_int, dequant, group_param,
                                int4_planes, 4, code}},
     .matmul = matmul,
     .adapts = true,
     .refuse = refuse_group},
    {.name = "ct-int8",
     .summary = "compressed-tensors pack-quantized int8, symmetric per row (weight only)",
     .upstream = "compressed-tensors:src/compressed_tensors/compressors/pack_quantized/base.py",
     .nonfinite = int_nonfinite,
     .params = no_params,
     .operand = {[QG_WEIGHT] = {fake_quant_int, NULL, convert_int, dequant, whole_row, int8_planes,
                                8, code}},
     .matmul = matmul,
     .adapts = true},
    {.name = "ct-fp8",
     .summary = "compressed-tensors float-quantized: e4m3 weights per row, inputs per token",
     .upstream = "compressed-tensors:src/compressed_tensors/compressors/naive_quantized/base.py",
     .nonfinite = fp8_nonfinite,
     .params = no_params,
     .operand = {[QG_WEIGHT] = FP8, [QG_ACTIVATION] = FP8},
     .matmul = matmul_fp8},
    {NULL},
};
