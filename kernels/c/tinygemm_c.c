/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of int4-tinygemm. Codes are worked on in runs of a row of 16 columns, whose eight
 * places within a word repeat.
 */
#include "kernels/c/matmul.h"
#include "kernels/c/rows.h"
#include "kernels/kernel.h"

enum { GROUP, EPS, DEQUANT };
enum { CUDA, TORCHAO, CPU };

enum { MOST = 256 }; /* elements of a group */

struct range {
    float scale, zero, min;
};

static struct range range_of(size_t n, const float *f, float eps)
{
    struct qg_span span = qg_span_of(n, f);
    float scale = qg_max(qg_bf16_round(qg_bf16_round(span.max - span.min) / 15), eps);
    float half = qg_bf16_round(8 * scale), zero = qg_bf16_round(span.min + half);
    return (struct range){scale, zero, qg_bf16_round(zero - half)};
}

/* Whole codes before they are clamped, NaN where x has no code. They are small: x lies in the range
 * that scale and min were made of. */
static void quotients(size_t n, float *restrict f, struct range r)
{
    for (size_t i = 0; i < n; i++)
        f[i] = qg_rint_small(qg_bf16_round(qg_bf16_round(f[i] - r.min) / r.scale));
}

/* --- prepare --------------------------------------------------------------------------------- */

static void fake_quant(const struct qg_args *a)
{
    float f[MOST];
    size_t n = (size_t)a->param[GROUP];
    for (size_t at = 0; at < a->rows * a->cols; at += n) {
        qg_load(&a->in[0], at, n, f);
        struct range r = range_of(n, f, qg_bf16_round(1e-6f));
        quotients(n, f, r);
        for (size_t i = 0; i < n; i++)
            f[i] = qg_bf16_round((qg_limit(f[i], 0, 15) - 8) * r.scale) + r.zero;
        qg_store(&a->out[0], at, n, f);
    }
}

static void fake_quant_grad(const struct qg_args *a)
{
    float f[MOST], g[MOST];
    size_t n = (size_t)a->param[GROUP];
    for (size_t at = 0; at < a->rows * a->cols; at += n) {
        qg_load(&a->in[0], at, n, f);
        qg_load(&a->in[1], at, n, g);
        struct range r = range_of(n, f, qg_bf16_round(1e-6f));
        quotients(n, f, r);
        for (size_t i = 0; i < n; i++) {
            float dq = qg_bf16_round(g[i] * r.scale);
            g[i] = qg_pick_f32((f[i] >= 0) & (f[i] <= 15), dq, 0) / r.scale;
        }
        qg_store(&a->out[0], at, n, g);
    }
}

/* --- tiles ----------------------------------------------------------------------------------- */

struct layout {
    size_t rows, cols, tiles; /* padded; tiles of 128 columns to a row */
};

static struct layout layout_of(const struct qg_args *a)
{
    size_t cols = (a->cols + 1023) / 1024 * 1024;
    return (struct layout){(a->rows + 7) / 8 * 8, cols, cols / 128};
}

/* Of columns col .. col+16 of a row, col a multiple of 16: the first of four words, four apart,
 * that hold a pair of columns and the pair eight columns on; and how far up they begin. */
struct run {
    size_t word;
    unsigned shift;
};

static struct run run_of(const struct layout *l, size_t row, size_t col)
{
    size_t tile = row / 8 * l->tiles + col / 128;
    return (struct run){tile * 128 + row % 8 * 16 + col % 128 / 32, (unsigned)(col / 16 % 2) * 8};
}

static void pack(uint32_t *words, struct run r, const uint32_t *code)
{
    for (size_t t = 0; t < 4; t++) {
        const uint32_t *c = code + 2 * t;
        words[r.word + 4 * t] |= (c[0] | c[8] << 4 | c[1] << 16 | c[9] << 20) << r.shift;
    }
}

static void unpack(const uint32_t *words, struct run r, uint32_t *code)
{
    for (size_t t = 0; t < 4; t++) {
        uint32_t four = words[r.word + 4 * t] >> r.shift, *c = code + 2 * t;
        c[0] = four & 15, c[8] = four >> 4 & 15, c[1] = four >> 16 & 15, c[9] = four >> 20 & 15;
    }
}

static void convert_group(const struct qg_args *a, const struct layout *l, size_t row, size_t at)
{
    float f[MOST] = {0};
    uint32_t code[MOST];
    size_t n = (size_t)a->param[GROUP];
    float eps = a->param[EPS] > 0 ? qg_bf16_round((float)a->param[EPS]) : 0x1p-126f;
    if (row < a->rows && at < a->cols)
        qg_load(&a->in[0], row * a->cols + at, n, f);
    struct range r = range_of(n, f, eps);
    quotients(n, f, r);
    for (size_t i = 0; i < n; i++)
        code[i] = (uint32_t)qg_int_small(qg_limit(f[i], 0, 15));
    for (size_t i = 0; i < n; i += 16)
        pack(a->out[0].data, run_of(l, row, at + i), code + i);
    const float pair[] = {r.scale, r.zero};
    qg_store(&a->out[1], 2 * (at / n * l->rows + row), 2, pair);
}

static void convert(const struct qg_args *a)
{
    struct layout l = layout_of(a);
    memset(a->out[0].data, 0, qg_bytes(&a->out[0]));
    for (size_t row = 0; row < l.rows; row++)
        for (size_t at = 0; at < l.cols; at += (size_t)a->param[GROUP])
            convert_group(a, &l, row, at);
}

/* --- dequant and matmul ---------------------------------------------------------------------- */

/* What the sixteen codes of a group stand for. */
static void fill_table(const struct qg_args *a, float s, float z, float *value)
{
    for (int q = -8; q < 8; q++) {
        float two_steps = qg_bf16_round(qg_bf16_round((float)q * s) + z);
        float in_f32 = fmaf((float)q, s, z), fused = qg_bf16_round(qg_fma_odd((float)q, s, z));
        value[q + 8] = a->param[DEQUANT] == TORCHAO ? two_steps
                       : a->param[DEQUANT] == CPU   ? in_f32
                                                    : fused;
    }
}

/* Elements at .. at+n of a row; at begins a group or lies n groups on. */
static void decode(const struct qg_args *a, const struct qg_tensor *planes, size_t row, size_t at,
                   size_t n, float *w)
{
    float value[16], pair[2];
    uint32_t code[16];
    struct layout l = layout_of(a);
    size_t g = (size_t)a->param[GROUP];
    for (size_t i = 0; i < n; i += 16) {
        if ((at + i) % g == 0) {
            qg_load(&planes[1], 2 * ((at + i) / g * l.rows + row), 2, pair);
            fill_table(a, pair[0], pair[1], value);
        }
        unpack(planes[0].data, run_of(&l, row, at + i), code);
        for (size_t k = 0; k < 16; k++)
            w[i + k] = value[code[k]];
    }
}

static void dequant(const struct qg_args *a)
{
    float w[MOST];
    size_t n = (size_t)a->param[GROUP];
    for (size_t row = 0; row < a->rows; row++)
        for (size_t at = 0; at < a->cols; at += n) {
            decode(a, a->in, row, at, n, w);
            qg_store(&a->out[0], row * a->cols + at, n, w);
        }
}

/* at is a multiple of QG_CHUNK, which groups divide. */
static void weights(const struct qg_args *a, size_t row, size_t at, size_t n, float *w)
{
    decode(a, a->in + 1, row, at, n, w);
}

static const struct qg_product tiles = {weights, qg_inputs_plain, NULL};
QG_MATMUL(tiles)
QG_LORA(tiles)

#define ROW(o, f)                                                                                \
    {                                                                                            \
        .scheme = "int4-tinygemm", .backend = "c", .variant = "", .op = o, .operand = QG_WEIGHT, \
        .fn = f                                                                                  \
    }

const struct qg_kernel qg_kernels_tinygemm_c[] = {
    ROW(QG_FAKE_QUANT, fake_quant),
    ROW(QG_FAKE_QUANT_GRAD, fake_quant_grad),
    ROW(QG_CONVERT, convert),
    ROW(QG_DEQUANT, dequant),
    QG_MATMUL_ROWS("int4-tinygemm", tiles),
    QG_LORA_ROWS("int4-tinygemm", tiles),
    {.scheme = NULL},
};
