/* SPDX-License-Identifier: MIT
 *
 * int4-tinygemm: int4 weights for PyTorch's tinygemm kernels, bf16 only, asymmetric codes 0 .. 15
 * with a zero point that is a number of the weights' kind and not a code. R rounds to bf16, and
 * every operation does:
 *
 *     s = max(R(R(max - min) / 15), eps),   z = R(min + R(8 s))       z stands for code 8
 *     q = clamp(round(R(R(w - R(z - R(8 s))) / s)), 0, 15)            a division
 *     w' = (q - 8) s + z
 *
 * No zero is forced into the range. How w' rounds depends on who computes it (dequant):
 *
 *     cuda      R((q - 8) s + z)        one rounding: __hfma2 in the kernel's registers
 *     torchao   R(R((q - 8) s) + z)     torchao's dequantize, and prepare
 *     cpu       (q - 8) s + z           rounded to binary32 (AVX512) and multiplied as such;
 *                                       dequant stores it in bf16
 *
 * Matmul: bf16 x, binary32 sums, one rounding to bf16.
 *
 * Convert pads N to a multiple of 8 and K to one of 1024 with zeros before it looks for ranges;
 * padded groups have s = eps, z = 8 eps and codes 0, which stand for 0. Words of eight codes lie as
 * a warp's 32 threads want them for m16n8k16 multiplications, [N/8][K/128][thread][4]: word j of
 * thread t in tile (a, b) holds row 8 a + t/4 and, with k = 128 b + 32 j + 2 (t mod 4), from bit 0
 * up columns
 *
 *     k, k + 8, k + 16, k + 24, k + 1, k + 9, k + 17, k + 25
 *
 * Prepare is that of the older quantizer for QAT, whose eps is 1e-6 in its convert too (eps=1e-6);
 * the newer QAT has no such format.
 *
 * Sources: ao:torchao/quantization/quantize_/workflows/int4/int4_tile_packed_to_4d_tensor.py;
 * ao:torchao/quantization/quant_primitives.py _choose_qparams_affine_tinygemm,
 * _quantize_affine_tinygemm, _dequantize_affine_tinygemm; ao:torchao/quantization/qat/linear.py
 * Int4WeightOnlyQATQuantizer; pytorch:aten/src/ATen/native/cuda/int4mm.cu,
 * .../native/cpu/int4mm_kernel.cpp.
 */
#include "schemes/dot.h"

enum { GROUP, EPS, DEQUANT }; /* parameters */
enum { CUDA, TORCHAO, CPU };  /* of DEQUANT */

#define PREPARE_EPS 1e-6
#define MIDDLE      8.0f

static float bf(float x)
{
    return qg_round(QG_BF16, x);
}

static size_t multiple(size_t n, size_t of)
{
    return (n + of - 1) / of * of;
}

static size_t padded_rows(const struct qg_args *a)
{
    return multiple(a->rows, 8);
}

static size_t padded_cols(const struct qg_args *a)
{
    return multiple(a->cols, 1024);
}

static size_t group(const struct qg_args *a)
{
    return (size_t)a->param[GROUP];
}

static const char *refuse(const struct qg_args *a)
{
    size_t g = group(a);
    if (g & (g - 1))
        return "upstream's kernel takes groups of 32, 64, 128 and 256";
    if (a->cols % g)
        return "the group does not divide K; upstream leaves the layer unquantized; choose a "
               "group that divides K";
    if ((a->op == QG_FAKE_QUANT || a->op == QG_FAKE_QUANT_GRAD) && a->cols % 128)
        return "upstream's linear module for QAT takes K in multiples of 128 (ValueError)";
    return NULL;
}

/* --- prepare --------------------------------------------------------------------------------- */

struct range {
    float scale, zero, min; /* min: what is subtracted, R(z - R(8 s)) */
};

static struct range prepare_range(const struct qg_tensor *x, size_t at, size_t n)
{
    float min = qg_get(x, at), max = min;
    for (size_t i = at; i < at + n; i++) {
        min = qg_min(min, qg_get(x, i));
        max = qg_max(max, qg_get(x, i));
    }
    float scale = qg_max(bf(qg_div(bf(qg_sub(max, min)), 15.0f)), bf((float)PREPARE_EPS));
    float half = bf(qg_mul(scale, MIDDLE)), zero = bf(qg_add(min, half));
    return (struct range){scale, zero, bf(qg_sub(zero, half))};
}

/* The code before it is clamped. */
static float prepare_code(float x, const struct range *r)
{
    return qg_rint(bf(qg_div(bf(qg_sub(x, r->min)), r->scale)));
}

static void fake_quant(const struct qg_args *a)
{
    const struct qg_tensor *x = &a->in[0], *y = &a->out[0];
    size_t n = group(a);
    for (size_t at = 0; at < a->rows * a->cols; at += n) {
        struct range r = prepare_range(x, at, n);
        for (size_t i = at; i < at + n; i++) {
            float q = qg_clamp(prepare_code(qg_get(x, i), &r), 0.0f, 15.0f);
            qg_put(y, i, qg_add(bf(qg_mul(qg_sub(q, MIDDLE), r.scale)), r.zero));
            qg_note(a, i, "scale", r.scale);
            qg_note(a, i, "zero", r.zero);
            qg_note(a, i, "code", q);
            qg_note(a, i, "y", qg_get(y, i));
        }
    }
}

/* Straight through with the clip mask; scale and zero are constants to autograd. */
static void fake_quant_grad(const struct qg_args *a)
{
    const struct qg_tensor *x = &a->in[0], *dy = &a->in[1];
    size_t n = group(a);
    for (size_t at = 0; at < a->rows * a->cols; at += n) {
        struct range r = prepare_range(x, at, n);
        for (size_t i = at; i < at + n; i++) {
            float q = prepare_code(qg_get(x, i), &r);
            bool inside = q >= 0.0f && q <= 15.0f;
            float dq = bf(qg_mul(qg_get(dy, i), r.scale));
            float dx = bf(qg_div(inside ? dq : 0.0f, r.scale));
            qg_emit(a, i, dx, dx, 0);
        }
    }
}

/* --- convert --------------------------------------------------------------------------------- */

/* Where the code of (row, col) lies. */
struct place {
    size_t word;
    unsigned shift;
};

static struct place place_of(const struct qg_args *a, size_t row, size_t col)
{
    size_t tile = row / 8 * (padded_cols(a) / 128) + col / 128;
    size_t j = col % 128 / 32, in_word = col % 32, thread = row % 8 * 4 + in_word % 8 / 2;
    return (struct place){(tile * 32 + thread) * 4 + j,
                          (unsigned)(in_word / 8 + in_word % 2 * 4) * 4};
}

static unsigned code_at(const struct qg_args *a, const struct qg_tensor *codes, size_t row,
                        size_t col)
{
    struct place p = place_of(a, row, col);
    return ((const uint32_t *)codes->data)[p.word] >> p.shift & 15u;
}

static unsigned code(const struct qg_args *a, size_t i)
{
    return code_at(a, &a->out[0], i / a->cols, i % a->cols);
}

/* x of the padded matrix. */
static float padded(const struct qg_args *a, size_t row, size_t col)
{
    return row < a->rows && col < a->cols ? qg_get(&a->in[0], row * a->cols + col) : 0.0f;
}

static struct range convert_range(const struct qg_args *a, size_t row, size_t at, size_t n)
{
    float min = padded(a, row, at), max = min;
    for (size_t k = at; k < at + n; k++) {
        min = qg_min(min, padded(a, row, k));
        max = qg_max(max, padded(a, row, k));
    }
    float eps = a->param[EPS] > 0 ? bf((float)a->param[EPS]) : qg_smallest_normal(QG_BF16);
    float scale = qg_max(bf(qg_div(bf(qg_sub(max, min)), 15.0f)), eps);
    float zero = bf(qg_add(min, bf(qg_mul(MIDDLE, scale))));
    return (struct range){scale, zero, bf(qg_sub(zero, bf(qg_mul(scale, MIDDLE))))};
}

static void convert_group(const struct qg_args *a, size_t row, size_t at, size_t n)
{
    uint32_t *words = a->out[0].data;
    struct range r = convert_range(a, row, at, n);
    size_t pair = 2 * (at / n * padded_rows(a) + row);
    qg_put(&a->out[1], pair, r.scale);
    qg_put(&a->out[1], pair + 1, r.zero);
    for (size_t k = at; k < at + n; k++) {
        float u = bf(qg_div(bf(qg_sub(padded(a, row, k), r.min)), r.scale));
        float q = qg_clamp(qg_rint(u), 0.0f, 15.0f);
        struct place p = place_of(a, row, k);
        words[p.word] |= (q == q ? (uint32_t)q : 0u) << p.shift; // the last bits of a NaN's int32
        if (row < a->rows && k < a->cols) {
            qg_note(a, row * a->cols + k, "scale", r.scale);
            qg_note(a, row * a->cols + k, "zero", r.zero);
            qg_note(a, row * a->cols + k, "(x - min) / scale", u);
            qg_note(a, row * a->cols + k, "code", q);
        }
    }
}

static void convert(const struct qg_args *a)
{
    size_t n = group(a);
    memset(a->out[0].data, 0, qg_bytes(&a->out[0]));
    for (size_t row = 0; row < padded_rows(a); row++)
        for (size_t at = 0; at < padded_cols(a); at += n)
            convert_group(a, row, at, n);
}

/* Element (row, col) as it enters the product. */
static float value_at(const struct qg_args *a, const struct qg_tensor *planes, size_t row,
                      size_t col)
{
    size_t pair = 2 * (col / group(a) * padded_rows(a) + row);
    float s = qg_get(&planes[1], pair), z = qg_get(&planes[1], pair + 1);
    float q = (float)code_at(a, &planes[0], row, col) - MIDDLE;
    qg_note(a, row * a->cols + col, "scale (stored)", s);
    if (a->param[DEQUANT] == TORCHAO)
        return bf(qg_add(bf(qg_mul(q, s)), z));
    return a->param[DEQUANT] == CPU ? qg_fma(q, s, z) : bf(qg_fma_odd(q, s, z));
}

static void dequant(const struct qg_args *a)
{
    for (size_t i = 0; i < a->rows * a->cols; i++) {
        qg_put(&a->out[0], i, value_at(a, a->in, i / a->cols, i % a->cols));
        qg_note(a, i, "y", qg_get(&a->out[0], i));
    }
}

/* Padded columns add nothing: there x is 0 and so is w'. */
static void matmul(const struct qg_args *a)
{
    for (size_t n = 0; n < a->rows; n++) {
        for (size_t k = 0; k < a->cols; k++)
            a->work[k] = value_at(a, a->in + 1, n, k);
        qg_matmul_row(a, n, a->work);
    }
}

/* --- the table ------------------------------------------------------------------------------- */

static size_t count_row_tiles(const struct qg_args *a)
{
    return padded_rows(a) / 8;
}

static size_t count_col_tiles(const struct qg_args *a)
{
    return padded_cols(a) / 128;
}

static size_t count_threads(const struct qg_args *a)
{
    (void)a;
    return 32;
}

static size_t count_words(const struct qg_args *a)
{
    (void)a;
    return 4;
}

static size_t count_groups(const struct qg_args *a)
{
    return padded_cols(a) / group(a);
}

static size_t count_pair(const struct qg_args *a)
{
    (void)a;
    return 2;
}

static const struct qg_extent row_tiles = {"R/8", count_row_tiles},
                              col_tiles = {"K/128", count_col_tiles},
                              threads = {"32", count_threads}, words = {"4", count_words},
                              groups = {"K/g", count_groups}, rows = {"R", padded_rows},
                              pair = {"2", count_pair};

static const struct qg_plane planes[] = {
    {"codes",
     QG_I32,
     0,
     {&row_tiles, &col_tiles, &threads, &words},
     "eight codes to a word in the order of a warp's threads; R padded to 8, K to 1024"},
    {"scale_and_zero",
     QG_BF16,
     0,
     {&groups, &rows, &pair},
     "scale, then zero; R padded to 8, K to 1024"},
    {NULL},
};

static const char *const dequant_words[] = {"cuda", "torchao", "cpu", NULL};
static const char *const variants[] = {"dequant=torchao", "dequant=cpu",
                                       "dequant=torchao eps=1e-06", NULL};

static const struct qg_param params[] = {
    [GROUP] = {"group", "elements of a row that share a scale: 32, 64, 128, 256", 128, 32, 256,
               NULL, true},
    [EPS] = {"eps", "lower bound of convert's scale; 0: bf16's smallest normal number", 0, 0, 1,
             NULL, false},
    [DEQUANT] = {"dequant", "who computes (q - 8) s + z", 0, 0, 0, dequant_words, false},
    {NULL},
};

const struct qg_scheme qg_schemes_tinygemm[] = {
    {.name = "int4-tinygemm",
     .summary = "int4 weight-only, asymmetric with real zero points, tiles of tinygemm",
     .upstream = "ao:torchao/quantization/quantize_/workflows/int4/"
                 "int4_tile_packed_to_4d_tensor.py; pytorch:aten/src/ATen/native/cuda/int4mm.cu",
     .nonfinite = "NaN or inf in a group: scale or zero NaN or inf, codes 0 wherever a NaN is "
                  "converted to an integer, values NaN. All-equal group: scale eps.",
     .params = params,
     .variants = variants,
     .dtypes = 1u << QG_BF16,
     .operand[QG_WEIGHT] = {fake_quant, fake_quant_grad, convert, dequant, group, planes, 4, code},
     .matmul = matmul,
     .adapts = true,
     .refuse = refuse},
    {NULL},
};
