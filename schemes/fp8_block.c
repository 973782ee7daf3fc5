/* SPDX-License-Identifier: MIT
 *
 * e4m3 with one binary32 scale per tile: weights in tiles of 128 x 128, activations in pieces of
 * 128 along a row. DeepSeek-V3's format, and that of checkpoints with weight_scale_inv.
 *
 * A tile becomes e4m3(clamp(x / s, +-448)) or e4m3(clamp(x r, +-448)); what s or r is depends on
 * whose code it is (fp8.h has the formulas):
 *
 *     flavour     weights             activations         sides that 128 does not divide
 *     hf          HF: r, 1 for zeros  DEEPSEEK            transformers: weight stays as it is
 *     deepseek    DEEPSEEK            DEEPSEEK            refused
 *     torchao     TORCH, s rounded    TORCH, s rounded    refused
 *     training    TRAINING            TRAINING            refused
 *     fbgemm      FBGEMM              FBGEMM              tiles at the edges are smaller
 *     unsloth     as hf               UNSLOTH             tiles at the edges are smaller
 *
 * hf (the default) is what transformers and its Triton kernels do with FineGrainedFP8; unsloth
 * takes converted weights and has a quantizer of activations alone. Here both, like fbgemm, take
 * every shape: a tile at the edge is what is left, as in DeepSeek's checkpoints (kv_a_proj has 576
 * rows) and as the product below reads them. No library here has a QAT for this.
 *
 * Dequant: y = R(c s). Matmul, per piece of 128 along K, in binary32:
 *
 *     sum += (dot(codes of x, codes of w) * scale of x) * scale of w
 *
 * and one rounding at the end. The last product and the sum may be fused on a GPU.
 *
 * Sources: transformers:src/transformers/integrations/finegrained_fp8.py Fp8Quantize;
 * ao:torchao/kernel/blockwise_quantization.py (DeepSeek-V3's inference/kernel.py; the product);
 * ao:torchao/quantization/quantize_/workflows/float8/float8_tensor.py with PerBlock;
 * ao:torchao/prototype/blockwise_fp8_training/kernels.py; fbgemm:fbgemm_gpu/experimental/gemm/
 * triton_gemm/fp8_gemm.py quantize_fp8_block; unsloth:unsloth/kernels/fp8.py.
 */
#include "schemes/fp8.h"

enum { FLAVOUR };
enum { TILE = 128 };

static const char *const flavour_words[] = {"hf",     "deepseek", "torchao", "training",
                                            "fbgemm", "unsloth",  NULL};

/* In the order of the words. */
static const struct flavour {
    enum qg_fp8_quantizer weights, activations;
    bool whole; /* refuses sides that 128 does not divide */
} flavours[] = {
    {QG_FP8_HF, QG_FP8_DEEPSEEK, false},   {QG_FP8_DEEPSEEK, QG_FP8_DEEPSEEK, true},
    {QG_FP8_TORCH, QG_FP8_TORCH, true},    {QG_FP8_TRAINING, QG_FP8_TRAINING, true},
    {QG_FP8_FBGEMM, QG_FP8_FBGEMM, false}, {QG_FP8_HF, QG_FP8_UNSLOTH, false},
};

static const struct flavour *flavour(const struct qg_args *a)
{
    return &flavours[(int)a->param[FLAVOUR]];
}

static size_t tile(const struct qg_args *a)
{
    (void)a;
    return TILE;
}

static size_t tiles(size_t n)
{
    return (n + TILE - 1) / TILE;
}

static size_t row_tiles(const struct qg_args *a)
{
    return tiles(a->rows);
}

static size_t col_tiles(const struct qg_args *a)
{
    return tiles(a->cols);
}

static const char *refuse(const struct qg_args *a)
{
    bool whole = a->cols % TILE == 0 && (a->operand == QG_ACTIVATION || a->rows % TILE == 0);
    return whole || !flavour(a)->whole
               ? NULL
               : "128 does not divide every side; upstream asserts that it does; take flavour=hf, "
                 "fbgemm or unsloth, or pad";
}

/* --- convert --------------------------------------------------------------------------------- */

/* Elements of `rows` rows by `cols` columns, the first of which is x[row,col]. */
struct area {
    size_t row, col, rows, cols;
};

static struct qg_fp8_scale area_scale(const struct qg_args *a, const struct qg_tensor *x,
                                      enum qg_fp8_quantizer q, struct area t)
{
    float amax = 0.0f;
    for (size_t r = t.row; r < t.row + t.rows; r++)
        amax = qg_max(amax, qg_amax(x, r * a->cols + t.col, t.cols));
    return qg_fp8_scale_of(q, x->dtype, amax, 1e-12f);
}

static size_t part(size_t at, size_t n)
{
    return n - at < TILE ? n - at : TILE;
}

static void convert_area(const struct qg_args *a, enum qg_fp8_quantizer q, struct area t)
{
    struct qg_fp8_scale s = area_scale(a, &a->in[0], q, t);
    for (size_t r = t.row; r < t.row + t.rows; r++)
        for (size_t i = r * a->cols + t.col; i < r * a->cols + t.col + t.cols; i++) {
            qg_put(&a->out[0], i, qg_fp8_code(&s, qg_get(&a->in[0], i)));
            qg_note(a, i, "scale", s.scale);
            qg_note(a, i, "code", qg_get(&a->out[0], i));
        }
    size_t height = a->operand == QG_WEIGHT ? TILE : 1;
    qg_put(&a->out[1], t.row / height * tiles(a->cols) + t.col / TILE, s.scale);
}

static void convert_weight(const struct qg_args *a)
{
    for (size_t row = 0; row < a->rows; row += TILE)
        for (size_t col = 0; col < a->cols; col += TILE)
            convert_area(a, flavour(a)->weights,
                         (struct area){row, col, part(row, a->rows), part(col, a->cols)});
}

static void convert_activation(const struct qg_args *a)
{
    for (size_t row = 0; row < a->rows; row++)
        for (size_t col = 0; col < a->cols; col += TILE)
            convert_area(a, flavour(a)->activations,
                         (struct area){row, col, 1, part(col, a->cols)});
}

static void dequant_tiles(const struct qg_args *a, size_t height)
{
    for (size_t i = 0; i < a->rows * a->cols; i++) {
        size_t row = i / a->cols, col = i % a->cols;
        float scale = qg_get(&a->in[1], row / height * tiles(a->cols) + col / TILE);
        qg_put(&a->out[0], i, qg_mul(qg_get(&a->in[0], i), scale));
        qg_note(a, i, "scale (stored)", scale);
        qg_note(a, i, "y", qg_get(&a->out[0], i));
    }
}

static void dequant_weight(const struct qg_args *a)
{
    dequant_tiles(a, TILE);
}

static void dequant_activation(const struct qg_args *a)
{
    dequant_tiles(a, 1);
}

/* --- matmul ---------------------------------------------------------------------------------- */

/* One row of x: the numbers of its codes, and the scales of its pieces. */
static void quantize_input(const struct qg_args *a, size_t m, float *codes, float *scales)
{
    for (size_t col = 0; col < a->cols; col += TILE) {
        struct area t = {m, col, 1, part(col, a->cols)};
        struct qg_fp8_scale s = area_scale(a, &a->in[0], flavour(a)->activations, t);
        scales[col / TILE] = s.scale;
        for (size_t k = col; k < col + t.cols; k++)
            codes[k] = qg_fp8_code(&s, qg_get(&a->in[0], m * a->cols + k));
    }
}

/* y[m,n], and how far off a sum in any order may be. Each term passes through its tile's additions
 * and those of the tiles; two products round; a third rounding covers that of `exact` itself, which
 * is held in binary64. The first product may be of a subnormal, or overflow. */
static void element(const struct qg_args *a, size_t m, size_t n, const float *codes,
                    const float *x_scales)
{
    const struct qg_tensor *w = &a->in[1], *w_scales = &a->in[2];
    struct qg_sum sum = {0};
    double magnitude = 0, subnormal = 0;
    bool overflow = false;
    for (size_t col = 0; col < a->cols; col += TILE) {
        struct qg_sum dot = {0};
        double s = x_scales[col / TILE],
               t = qg_get(w_scales, n / TILE * tiles(a->cols) + col / TILE);
        for (size_t k = col; k < col + part(col, a->cols); k++)
            qg_sum_add(&dot, (double)codes[k] * qg_get(w, n * a->cols + k));
        qg_sum_add(&sum, qg_sum_value(&dot) * s * t);
        magnitude += dot.magnitude * fabs(s * t);
        subnormal += 0x1p-149 * fabs(t);
        overflow = overflow || dot.magnitude * fabs(s) >= 0x1p127;
    }
    double exact = qg_sum_value(&sum);
    sum.magnitude = magnitude;
    size_t pieces = tiles(a->cols);
    double bound = qg_sum_bound(&sum, a->cols + pieces, a->depth, 3) + subnormal;
    qg_emit(a, m * a->rows + n, (float)exact, exact, overflow ? (double)INFINITY : bound);
}

static void matmul(const struct qg_args *a)
{
    float *codes = a->work, *scales = codes + a->cols;
    for (size_t m = 0; m < a->m; m++) {
        quantize_input(a, m, codes, scales);
        for (size_t n = 0; n < a->rows; n++)
            element(a, m, n, codes, scales);
    }
}

/* --- the row --------------------------------------------------------------------------------- */

static const struct qg_extent ext_row_tiles = {"R/128", row_tiles},
                              ext_col_tiles = {"K/128", col_tiles};

static const struct qg_plane weight_planes[] = {
    {"codes", QG_E4M3, 0, {&qg_ext_rows, &qg_ext_cols}, "one e4m3 per element"},
    {"scales", QG_F32, 0, {&ext_row_tiles, &ext_col_tiles}, "one per 128 x 128 (weight_scale_inv)"},
    {NULL},
};
static const struct qg_plane activation_planes[] = {
    {"codes", QG_E4M3, 0, {&qg_ext_rows, &qg_ext_cols}, "one e4m3 per element"},
    {"scales", QG_F32, 0, {&qg_ext_rows, &ext_col_tiles}, "one per 128 elements of a row"},
    {NULL},
};

static const struct qg_param params[] = {
    [FLAVOUR] =
        {"flavour",
         "whose quantizers: transformers', DeepSeek's, torchao's three, FBGEMM's, unsloth's", 0, 0,
         0, flavour_words, false},
    {NULL},
};

static const char *const variants[] = {"flavour=torchao", "flavour=fbgemm", NULL};

const struct qg_scheme qg_schemes_fp8_block[] = {
    {.name = "fp8-block",
     .summary = "fp8 with one scale per 128 x 128 weights and per 128 activations (DeepSeek, HF)",
     .upstream = "transformers:src/transformers/integrations/finegrained_fp8.py; "
                 "ao:torchao/kernel/blockwise_quantization.py",
     .nonfinite =
         "NaN: the whole tile is NaN, but with hf and unsloth weights are then quantized with "
         "scale 1 (a GPU kernel's maximum skips NaN, which is not modelled). inf: scale inf, codes "
         "NaN for inf and 0 for the rest. All-zero tile: 0/0 = NaN with deepseek, torchao and for "
         "activations with hf; 0 with training, fbgemm, unsloth and for weights with hf.",
     .params = params,
     .variants = variants,
     .operand = {[QG_WEIGHT] = {.convert = convert_weight,
                                .dequant = dequant_weight,
                                .group = tile,
                                .planes = weight_planes,
                                .code_bits = 8,
                                .spans_rows = true,
                                .codes = 254 /* not 2 NaN */},
                 [QG_ACTIVATION] = {.convert = convert_activation,
                                    .dequant = dequant_activation,
                                    .group = tile,
                                    .planes = activation_planes,
                                    .code_bits = 8,
                                    .codes = 254 /* not 2 NaN */}},
     .matmul = matmul,
     .refuse = refuse},
    {NULL},
};
