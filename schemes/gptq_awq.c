/* SPDX-License-Identifier: MIT
 *
 * The two int4 checkpoint layouts of the first wave: eight unsigned codes to an int32, a scale in
 * binary16 and a zero point per group of g elements, all stored transposed, [K,N]. Written here as
 * the libraries write them when nothing is calibrated: round to nearest. (GPTQ's compensation of
 * errors and AWQ's scaling of channels change the weights before these steps, and need inputs.)
 * R16(.) is a rounding to binary16, R(.) one to the tensor's dtype; what carries neither is
 * binary32.
 *
 * gptq: codes[k/8][n] holds eight k, the first in the lowest bits; zeros[k/g][n/8] eight n.
 *
 *     [min, max] = the group's range with 0 in it; sym: min = -max where min < 0 (else 0 stays)
 *     s = (max - min) / 15,  z = round(-min / s), sym: 8      a range of 0 counts as [-1, 1]
 *     q = clamp(round(w / s) + z, 0, 15),  Q = R(s (q - z))   the quantizer; Q becomes the weight
 *
 * The packer finds the code again in Q, and here the writers part:
 *
 *     autogptq       round((Q + z s) / R16(s)), not clamped: where the scale is subnormal in
 *                    binary16, a code beyond 15 runs into the next one, with OR
 *     gptqmodel*     clamp(round((Q + z s) / s), 0, 15)
 *
 * and once more over the zero points of "format v1", which are stored as z - 1:
 *
 *     autogptq       nibble by nibble. z = 0 becomes the word -1: it sets its own nibble and those
 *                    of all later rows in the word. Read back as (nibble + 1) & 15.
 *     gptqmodel      the whole word less 0x11111111, with borrow; read back by adding it
 *     gptqmodel-v2   z itself (format v2)
 *
 * The three agree where no z is 0, as in all symmetric checkpoints. g_idx[k] names the group of
 * column k: k/g as written here, permuted by "activation order", which dequant follows.
 *
 *     w' = R(R16(R16(s) (q - z)))
 *
 * Prepare is the quantizer's own Q, with the scale in binary32: what GPTQ calibrates with.
 *
 * awq: codes[k][n/8] and zeros[k/g][n/8] hold eight n in the order 0 2 4 6 1 3 5 7 from the lowest
 * bits. The weight becomes binary16 first, and every operation rounds to it:
 *
 *     s = R16(max(R16(max w - min w), 1e-5) / 15)              0 need not be in the range
 *     z = clamp(-round(R16(min w / s)), 0, 15)
 *     q = clamp(R16(round(R16(w / s)) + z), 0, 15),  Q = R16(s (q - z))
 *     stored: round(R16(R16(Q + R16(z s)) / s))
 *     w' = R(R16(s (q - z)))
 *
 * Prepare is the same quantizer in the tensor's own dtype, as AWQ's search for scales applies it.
 * The matmul is one of binary16, whatever dtype x has and y is returned in.
 *
 * Sources: autogptq:auto_gptq/quantization/quantizer.py, gptq.py,
 * auto_gptq/nn_modules/qlinear/qlinear_exllama.py pack, qlinear_cuda_old.py forward;
 * gptqmodel:gptqmodel/quantization/rtn.py, gptqmodel/nn_modules/qlinear/__init__.py pack_original,
 * gptqmodel/utils/model.py convert_gptq_v2_to_v1_format_module;
 * autoawq:awq/quantize/quantizer.py pseudo_quantize_tensor, awq/modules/linear/gemm.py from_linear,
 * awq/utils/packing_utils.py dequantize_gemm.
 */
#include "schemes/interval.h"

enum { GROUP, WRITER, SYM }; /* parameters; awq has the first */
enum writer { AUTOGPTQ, GPTQMODEL, GPTQMODEL_V2 };

static const char *const writer_words[] = {"autogptq", "gptqmodel", "gptqmodel-v2", NULL};
static const char *const sym_words[] = {"no", "yes", NULL};

/* The integer of a float that should be a small one. C leaves open what NaN and inf become. */
static uint32_t integer_of(float x)
{
    return x >= 0 && x < 0x1p31f ? (uint32_t)x : 0;
}

/* Where a code or a zero point lies: the word, and its lowest bit. */
struct place {
    size_t word;
    unsigned shift;
};

static uint32_t *words_of(const struct qg_tensor *t)
{
    return t->data;
}

static unsigned nibble_at(const struct qg_tensor *t, struct place p)
{
    return words_of(t)[p.word] >> p.shift & 15u;
}

/* --- gptq: prepare --------------------------------------------------------------------------- */

struct affine {
    float scale, zero;
};

/* The grid of x[at .. at+n). */
static struct affine gptq_grid(const struct qg_tensor *x, size_t at, size_t n, bool sym)
{
    float min = 0.0f, max = 0.0f;
    for (size_t i = at; i < at + n; i++) {
        min = qg_min(min, qg_get(x, i));
        max = qg_max(max, qg_get(x, i));
    }
    if (sym)
        max = qg_max(qg_abs(min), max);
    if (sym && min < 0)
        min = -max;
    if (min == 0 && max == 0)
        min = -1.0f, max = 1.0f;
    float scale = qg_div(qg_sub(max, min), 15.0f);
    return (struct affine){scale, sym ? 8.0f : qg_rint(qg_div(-min, scale))};
}

/* q - z of x. A scale of 0 counts as the smallest normal number, a zero point that it made
 * infinite as 0. */
static float gptq_quantize(float x, struct affine grid)
{
    float scale = grid.scale, zero = grid.zero;
    if (scale == 0) {
        scale = 0x1p-126f;
        zero = zero - zero == 0 ? zero : 0.0f;
    }
    float q = qg_clamp(qg_add(qg_rint(qg_div(x, scale)), zero), 0.0f, 15.0f);
    return qg_mul(scale, qg_sub(q, zero));
}

static void gptq_fake_quant(const struct qg_args *a)
{
    const struct qg_tensor *x = &a->in[0], *y = &a->out[0];
    size_t group = qg_group(a);
    for (size_t at = 0; at < a->rows * a->cols; at += group) {
        struct affine grid = gptq_grid(x, at, group, a->param[SYM] != 0);
        for (size_t i = at; i < at + group; i++) {
            qg_put(y, i, gptq_quantize(qg_get(x, i), grid));
            qg_note(a, i, "scale", grid.scale);
            qg_note(a, i, "zero point", grid.zero);
            qg_note(a, i, "y", qg_get(y, i));
        }
    }
}

/* --- gptq: convert --------------------------------------------------------------------------- */

static struct place gptq_code_place(const struct qg_args *a, size_t row, size_t k)
{
    return (struct place){k / 8 * a->rows + row, (unsigned)(k % 8) * 4};
}

static struct place gptq_zero_place(const struct qg_args *a, size_t row, size_t group)
{
    return (struct place){group * (a->rows / 8) + row / 8, (unsigned)(row % 8) * 4};
}

static unsigned gptq_code(const struct qg_args *a, size_t i)
{
    return nibble_at(&a->out[0], gptq_code_place(a, i / a->cols, i % a->cols));
}

/* What the packer makes of x: the code, which need not fit four bits. */
static uint32_t gptq_packed(const struct qg_args *a, float x, struct affine grid)
{
    bool clamps = a->param[WRITER] != AUTOGPTQ;
    float stored = clamps ? grid.scale : qg_round(QG_F16, grid.scale);
    float weight = qg_round(a->dtype, gptq_quantize(x, grid));
    float q = qg_rint(qg_div(qg_add(weight, qg_mul(grid.zero, grid.scale)), stored));
    return integer_of(clamps ? qg_clamp(q, 0.0f, 15.0f) : q);
}

/* The zero point as bits to be shifted into its place. */
static uint32_t gptq_zero_bits(const struct qg_args *a, float zero)
{
    return integer_of(zero) - (a->param[WRITER] == AUTOGPTQ ? 1u : 0u);
}

static void gptq_convert_group(const struct qg_args *a, size_t row, size_t at, size_t group)
{
    const struct qg_tensor *x = &a->in[0];
    size_t first = row * a->cols + at, index = at / group;
    struct affine grid = gptq_grid(x, first, group, a->param[SYM] != 0);
    for (size_t k = at; k < at + group; k++) {
        struct place p = gptq_code_place(a, row, k);
        uint32_t q = gptq_packed(a, qg_get(x, first + k - at), grid);
        words_of(&a->out[0])[p.word] |= q << p.shift;
        qg_note(a, first + k - at, "scale", grid.scale);
        qg_note(a, first + k - at, "zero point", grid.zero);
        qg_note(a, first + k - at, "code", (float)q);
    }
    struct place p = gptq_zero_place(a, row, index);
    words_of(&a->out[1])[p.word] |= gptq_zero_bits(a, grid.zero) << p.shift;
    qg_put(&a->out[2], index * a->rows + row, grid.scale);
}

static void gptq_convert(const struct qg_args *a)
{
    size_t group = qg_group(a);
    memset(a->out[0].data, 0, qg_bytes(&a->out[0]));
    memset(a->out[1].data, 0, qg_bytes(&a->out[1]));
    for (size_t row = 0; row < a->rows; row++)
        for (size_t at = 0; at < a->cols; at += group)
            gptq_convert_group(a, row, at, group);
    if (a->param[WRITER] == GPTQMODEL)
        for (size_t i = 0; i < qg_count(&a->out[1]); i++)
            words_of(&a->out[1])[i] -= 0x11111111u;
    for (size_t k = 0; k < a->cols; k++)
        ((int32_t *)a->out[3].data)[k] = (int32_t)(k / group);
}

/* --- gptq: dequant and matmul ---------------------------------------------------------------- */

static unsigned gptq_zero(const struct qg_args *a, const struct qg_tensor *zeros, struct place p)
{
    uint32_t word = words_of(zeros)[p.word];
    if (a->param[WRITER] == AUTOGPTQ)
        return ((word >> p.shift & 15u) + 1) & 15u;
    uint32_t borrowed = a->param[WRITER] == GPTQMODEL ? 0x11111111u : 0u;
    return (word + borrowed) >> p.shift & 15u;
}

/* NaN where g_idx names no group (upstream raises IndexError). */
static float gptq_value(const struct qg_args *a, const struct qg_tensor *planes, size_t row,
                        size_t k)
{
    size_t group = words_of(&planes[3])[k], i = row * a->cols + k;
    if (group >= planes[2].shape[0])
        return NAN;
    float scale = qg_get(&planes[2], group * a->rows + row);
    int q = (int)nibble_at(&planes[0], gptq_code_place(a, row, k));
    int zero = (int)gptq_zero(a, &planes[1], gptq_zero_place(a, row, group));
    qg_note(a, i, "scale (stored)", scale);
    qg_note(a, i, "code (stored)", (float)q);
    qg_note(a, i, "zero point (stored)", (float)zero);
    return qg_round(a->dtype, qg_round(QG_F16, qg_mul(scale, (float)(q - zero))));
}

static void gptq_dequant(const struct qg_args *a)
{
    for (size_t i = 0; i < a->rows * a->cols; i++) {
        qg_put(&a->out[0], i, gptq_value(a, a->in, i / a->cols, i % a->cols));
        qg_note(a, i, "y", qg_get(&a->out[0], i));
    }
}

static void gptq_matmul(const struct qg_args *a)
{
    for (size_t n = 0; n < a->rows; n++) {
        for (size_t k = 0; k < a->cols; k++)
            a->work[k] = gptq_value(a, a->in + 1, n, k);
        qg_matmul_row(a, n, a->work);
    }
}

/* --- awq: prepare ---------------------------------------------------------------------------- */

/* y: pseudo_quantize_tensor in x's dtype. */
static void awq_fake_quant(const struct qg_args *a)
{
    const struct qg_tensor *x = &a->in[0], *y = &a->out[0];
    enum qg_dtype t = x->dtype;
    size_t group = qg_group(a);
    for (size_t at = 0; at < a->rows * a->cols; at += group) {
        float min = qg_get(x, at), max = min;
        for (size_t i = at; i < at + group; i++) {
            min = qg_min(min, qg_get(x, i));
            max = qg_max(max, qg_get(x, i));
        }
        float range = qg_max(qg_round(t, qg_sub(max, min)), qg_round(t, 1e-5f));
        float scale = qg_round(t, qg_div(range, 15.0f));
        float zero = qg_clamp(-qg_rint(qg_round(t, qg_div(min, scale))), 0.0f, 15.0f);
        for (size_t i = at; i < at + group; i++) {
            float u = qg_round(t, qg_div(qg_get(x, i), scale));
            float q = qg_clamp(qg_round(t, qg_add(qg_rint(u), zero)), 0.0f, 15.0f);
            qg_put(y, i, qg_mul(qg_sub(q, zero), scale));
            qg_note(a, i, "scale", scale);
            qg_note(a, i, "zero point", zero);
            qg_note(a, i, "code", q);
            qg_note(a, i, "y", qg_get(y, i));
        }
    }
}

/* --- awq: convert ---------------------------------------------------------------------------- */

/* Row n of eight lies in nibble n/2 when even, 4 + n/2 when odd. */
static struct place awq_place(const struct qg_args *a, size_t row, size_t line)
{
    return (struct place){line * (a->rows / 8) + row / 8,
                          (unsigned)(row % 8 / 2 + row % 2 * 4) * 4};
}

static unsigned awq_code(const struct qg_args *a, size_t i)
{
    return nibble_at(&a->out[0], awq_place(a, i / a->cols, i % a->cols));
}

static float r16(float x)
{
    return qg_round(QG_F16, x);
}

static struct affine awq_grid(const struct qg_tensor *x, size_t at, size_t n)
{
    float min = r16(qg_get(x, at)), max = min;
    for (size_t i = at; i < at + n; i++) {
        min = qg_min(min, r16(qg_get(x, i)));
        max = qg_max(max, r16(qg_get(x, i)));
    }
    float range = qg_max(r16(qg_sub(max, min)), r16(1e-5f));
    float scale = r16(qg_div(range, 15.0f));
    return (struct affine){scale, qg_clamp(-qg_rint(r16(qg_div(min, scale))), 0.0f, 15.0f)};
}

static uint32_t awq_packed(float x, struct affine grid)
{
    float q =
        qg_clamp(r16(qg_add(qg_rint(r16(qg_div(r16(x), grid.scale))), grid.zero)), 0.0f, 15.0f);
    float weight = r16(qg_mul(qg_sub(q, grid.zero), grid.scale));
    float raised = r16(qg_add(weight, r16(qg_mul(grid.zero, grid.scale))));
    return integer_of(qg_rint(r16(qg_div(raised, grid.scale))));
}

static void awq_convert_group(const struct qg_args *a, size_t row, size_t at, size_t group)
{
    const struct qg_tensor *x = &a->in[0];
    size_t first = row * a->cols + at, index = at / group;
    struct affine grid = awq_grid(x, first, group);
    for (size_t k = at; k < at + group; k++) {
        struct place p = awq_place(a, row, k);
        uint32_t q = awq_packed(qg_get(x, first + k - at), grid);
        words_of(&a->out[0])[p.word] |= q << p.shift;
        qg_note(a, first + k - at, "scale", grid.scale);
        qg_note(a, first + k - at, "zero point", grid.zero);
        qg_note(a, first + k - at, "code", (float)q);
    }
    struct place p = awq_place(a, row, index);
    words_of(&a->out[1])[p.word] |= integer_of(grid.zero) << p.shift;
    qg_put(&a->out[2], index * a->rows + row, grid.scale);
}

static void awq_convert(const struct qg_args *a)
{
    size_t group = qg_group(a);
    memset(a->out[0].data, 0, qg_bytes(&a->out[0]));
    memset(a->out[1].data, 0, qg_bytes(&a->out[1]));
    for (size_t row = 0; row < a->rows; row++)
        for (size_t at = 0; at < a->cols; at += group)
            awq_convert_group(a, row, at, group);
}

/* --- awq: dequant and matmul ----------------------------------------------------------------- */

/* The weight in binary16. */
static float awq_value(const struct qg_args *a, const struct qg_tensor *planes, size_t row,
                       size_t k)
{
    size_t group = k / qg_group(a), i = row * a->cols + k;
    float scale = qg_get(&planes[2], group * a->rows + row);
    int q = (int)nibble_at(&planes[0], awq_place(a, row, k));
    int zero = (int)nibble_at(&planes[1], awq_place(a, row, group));
    qg_note(a, i, "scale (stored)", scale);
    qg_note(a, i, "code (stored)", (float)q);
    qg_note(a, i, "zero point (stored)", (float)zero);
    return r16(qg_mul((float)(q - zero), scale));
}

static void awq_dequant(const struct qg_args *a)
{
    for (size_t i = 0; i < a->rows * a->cols; i++) {
        qg_put(&a->out[0], i, awq_value(a, a->in, i / a->cols, i % a->cols));
        qg_note(a, i, "y", qg_get(&a->out[0], i));
    }
}

/* y[m][n] = R(R16(sum)). */
static void awq_product(const struct qg_args *a, size_t m, size_t n, const float *w)
{
    struct qg_sum s = {0};
    for (size_t k = 0; k < a->cols; k++)
        qg_sum_add(&s, (double)r16(qg_get(&a->in[0], m * a->cols + k)) * w[k]);
    double bound = qg_sum_bound(&s, a->cols, a->depth, 1);
    struct qg_interval y = qg_interval_round(QG_F16, qg_interval_of(&s, bound));
    qg_emit(a, m * a->rows + n, y.mid, y.mid, bound < INFINITY ? qg_interval_off(y) : bound);
}

static void awq_matmul(const struct qg_args *a)
{
    for (size_t n = 0; n < a->rows; n++) {
        for (size_t k = 0; k < a->cols; k++)
            a->work[k] = awq_value(a, a->in + 1, n, k);
        for (size_t m = 0; m < a->m; m++)
            awq_product(a, m, n, a->work);
    }
}

/* --- the table ------------------------------------------------------------------------------- */

static size_t group_param(const struct qg_args *a)
{
    return (size_t)a->param[GROUP];
}

static const char *awq_refuse(const struct qg_args *a)
{
    if (a->cols % qg_group(a))
        return "the group does not divide K; upstream raises AssertionError; choose a group that "
               "divides K or pad K";
    return a->op == QG_FAKE_QUANT || a->rows % 32 == 0
               ? NULL
               : "N is no multiple of 32; upstream loses rows or raises IndexError; pad N";
}

static const char *gptq_refuse(const struct qg_args *a)
{
    const char *why = awq_refuse(a);
    return why || a->op == QG_FAKE_QUANT || a->cols % 32 == 0
               ? why
               : "K is no multiple of 32; upstream loses columns; pad K";
}

static const char *uniform(const struct qg_args *a)
{
    if (a->op == QG_FAKE_QUANT)
        return NULL;
    const struct qg_tensor *scales = a->op == QG_CONVERT ? &a->out[2] : &a->in[2];
    if (qg_is_product(a->op))
        scales = &a->in[3];
    for (size_t i = 0; i < qg_count(scales); i++)
        if (!(qg_abs(qg_get(scales, i)) < INFINITY))
            return "binary16 has no scale for weights this large";
    return NULL;
}

#define GROUP_PARAM \
    [GROUP] = {"group", "elements of a row that share a scale", 128, 2, 4096, NULL, true}

static const struct qg_param gptq_params[] = {
    GROUP_PARAM,
    [WRITER] = {"writer", "the library whose packer writes and whose loader reads the file", 0, 0,
                0, writer_words, false},
    [SYM] = {"sym", "zero points at 8 and a range of equal sides", 1, 0, 0, sym_words, false},
    {NULL},
};
static const struct qg_param awq_params[] = {GROUP_PARAM, {NULL}};

static size_t count_words(const struct qg_args *a)
{
    return a->rows / 8;
}

static size_t count_code_rows(const struct qg_args *a)
{
    return a->cols / 8;
}

static const struct qg_extent row_words = {"N/8", count_words},
                              code_rows = {"K/8", count_code_rows};

static const struct qg_plane gptq_planes[] = {
    {"codes",
     QG_I32,
     0,
     {&code_rows, &qg_ext_rows},
     "qweight: eight of K to a word, the first in the lowest bits"},
    {"zeros",
     QG_I32,
     0,
     {&qg_ext_groups, &row_words},
     "qzeros: eight of N to a word, the first in the lowest bits; less 1 but for format v2"},
    {"scales", QG_F16, 0, {&qg_ext_groups, &qg_ext_rows}, "transposed"},
    {"g_idx", QG_I32, 0, {&qg_ext_cols}, "the group of each column: k/g, or act-order"},
    {NULL},
};
static const struct qg_plane awq_planes[] = {
    {"codes",
     QG_I32,
     0,
     {&qg_ext_cols, &row_words},
     "qweight: eight of N to a word, in the order 0 2 4 6 1 3 5 7 from the lowest bits"},
    {"zeros", QG_I32, 0, {&qg_ext_groups, &row_words}, "qzeros: packed as codes"},
    {"scales", QG_F16, 0, {&qg_ext_groups, &qg_ext_rows}, "transposed"},
    {NULL},
};

static const char *const gptq_variants[] = {"sym=no", "writer=gptqmodel sym=no",
                                            "writer=gptqmodel-v2 sym=no", NULL};

const struct qg_scheme qg_schemes_gptq_awq[] = {
    {.name = "gptq",
     .summary = "GPTQ's int4 checkpoints, rounded to nearest: AutoGPTQ, GPTQModel (v1 and v2)",
     .upstream = "autogptq:auto_gptq/nn_modules/qlinear/qlinear_exllama.py; "
                 "gptqmodel:gptqmodel/nn_modules/qlinear/__init__.py",
     .nonfinite =
         "NaN or inf in a group: scale and prepared values NaN or inf; the integers of NaN and "
         "inf, which C leaves open upstream, are 0 here. So are codes where autogptq divides by a "
         "scale that is 0 in binary16. Scale 0 in binary32: AutoGPTQ leaves that group of all rows "
         "unrounded, which is not modelled. All-zero group: scale 2/15, codes 8 (sym=no: 7).",
     .params = gptq_params,
     .variants = gptq_variants,
     .operand = {[QG_WEIGHT] = {gptq_fake_quant, NULL, gptq_convert, gptq_dequant, group_param,
                                gptq_planes, 4, gptq_code}},
     .matmul = gptq_matmul,
     .adapts = true,
     .refuse = gptq_refuse,
     .uniform = uniform},
    {.name = "awq",
     .summary = "AWQ's int4 checkpoints (AutoAWQ GEMM), rounded to nearest with zero points",
     .upstream = "autoawq:awq/modules/linear/gemm.py; awq/quantize/quantizer.py",
     .nonfinite =
         "Upstream raises AssertionError for NaN and for a range that is infinite in the dtype. "
         "Here: scale and values NaN or inf, integers of NaN and inf 0. All-zero group: scale "
         "R(1e-5) / 15, zero point and codes 0.",
     .params = awq_params,
     .operand = {[QG_WEIGHT] = {awq_fake_quant, NULL, awq_convert, awq_dequant, group_param,
                                awq_planes, 4, awq_code}},
     .matmul = awq_matmul,
     .adapts = true,
     .refuse = awq_refuse,
     .uniform = uniform},
    {NULL},
};
