/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of int4 and int4-old, one group of a row at a time.
 */
#include "kernels/c/intx_c.h"
#include "kernels/c/matmul.h"
#include "kernels/c/rows.h"
#include "kernels/kernel.h"

enum { GROUP, EPS, SCALE_DTYPE, DEQUANT, RAGGED, BITS };
#define MAX_GROUP 256

static size_t group(const struct qg_args *a)
{
    return (size_t)a->param[GROUP];
}

/* What a group's codes count from and in which steps; the largest count, and the count of code 0.
 */
struct grid {
    float min, max, scale, zero, top, half;
};

static struct grid grid_of(const struct qg_args *a, size_t n, const float *w)
{
    struct qg_span s = qg_span_of(n, w);
    float half = (float)(1 << ((int)a->param[BITS] - 1)), top = 2.0f * half - 1.0f;
    float scale = qg_max(s.max - s.min, (float)a->param[EPS]) / top;
    return (struct grid){s.min, s.max, scale, s.min + scale * half, top, half};
}

/* Codes are clamped before they are rounded, here and below: 0 and top are integers, so the order
 * does not matter, and what is rounded is small or NaN. */
static void quantize(size_t n, float *restrict w, struct grid g)
{
    for (size_t i = 0; i < n; i++) {
        float q = qg_rint_small(qg_limit((w[i] - g.min) / g.scale, 0.0f, g.top)) - g.half;
        w[i] = q * g.scale + g.zero;
    }
}

static void fake_quant(const struct qg_args *a)
{
    float w[MAX_GROUP];
    size_t g = group(a);
    for (size_t at = 0; at < a->rows * a->cols; at += g) {
        qg_load(&a->in[0], at, g, w);
        quantize(g, w, grid_of(a, g, w));
        qg_store(&a->out[0], at, g, w);
    }
}

/* --- the gradient of prepare ----------------------------------------------------------------- */

/* The sums that the gradient of a group is made of: of g q - (g s)(u / s) where round(u) is a code,
 * and of g - (g s) / s, which is 0 but for roundings; and how many elements are at the extremes. */
struct sums {
    double scale, min;
    double at_max, at_min;
};

/* Sets dy, which held dL/dy, to the gradient that passes straight through. A code is inside when it
 * rounds to at most top; it is never negative. */
static struct sums sums_of(size_t n, const float *restrict w, float *restrict dy, struct grid g)
{
    float q[MAX_GROUP], slope[MAX_GROUP], dq[MAX_GROUP], through[MAX_GROUP];
    int at_max = 0, at_min = 0;
    for (size_t i = 0; i < n; i++) {
        float u = (w[i] - g.min) / g.scale;
        q[i] = qg_rint_small(qg_limit(u, 0.0f, g.top));
        slope[i] = u / g.scale;
        dq[i] = qg_pick_f32(u < g.top + 0.5f, dy[i] * g.scale, 0.0f);
        through[i] = dq[i] / g.scale;
        at_max += w[i] == g.max;
        at_min += w[i] == g.min;
    }
    double scale = qg_sum_products(n, dy, q) - qg_sum_products(n, dq, slope);
    double min = qg_sum_of(n, dy) - qg_sum_of(n, through);
    memcpy(dy, through, n * sizeof *dy);
    return (struct sums){scale, min, at_max, at_min};
}

static void fake_quant_grad(const struct qg_args *a)
{
    float w[MAX_GROUP], dy[MAX_GROUP], eps = (float)a->param[EPS];
    size_t n = group(a);
    for (size_t at = 0; at < a->rows * a->cols; at += n) {
        qg_load(&a->in[0], at, n, w);
        qg_load(&a->in[1], at, n, dy);
        struct grid g = grid_of(a, n, w);
        struct sums s = sums_of(n, w, dy, g);
        double t = g.max - g.min >= eps ? s.scale / (double)g.top : 0;
        float up = (float)(t / s.at_max), down = (float)((s.min - t) / s.at_min);
        for (size_t i = 0; i < n; i++) { // masks multiply, as in autograd: 0 * inf is NaN
            float is_max = w[i] == g.max ? 1.0f : 0.0f, is_min = w[i] == g.min ? 1.0f : 0.0f;
            dy[i] = dy[i] + up * is_max + down * is_min;
        }
        qg_store(&a->out[0], at, n, dy);
    }
}

/* --- convert --------------------------------------------------------------------------------- */

static void encode(size_t n, const float *restrict w, struct grid g, uint8_t *restrict codes)
{
    for (size_t i = 0; i < n; i++) {
        float u = qg_limit((w[i] - g.min) / g.scale, 0.0f, g.top);
        codes[i] = (uint8_t)qg_pick(u == u, (uint32_t)qg_int_small(u) - (uint32_t)g.half, 0);
    }
}

static void convert(const struct qg_args *a)
{
    size_t g = group(a), k = a->cols;
    uint8_t *codes = (uint8_t *)a->work; // of a row: an odd group ends within a byte
    float w[MAX_GROUP];
    for (size_t row = 0; row < a->rows; row++) {
        for (size_t at = 0; at < k; at += g) {
            size_t n = k - at < g ? k - at : g; // the last group may be short
            qg_load(&a->in[0], row * k + at, n, w);
            struct grid grid = grid_of(a, n, w);
            encode(n, w, grid, codes + at);
            qg_put(&a->out[1], at / g * a->rows + row, grid.scale);
            qg_put(&a->out[2], at / g * a->rows + row, grid.zero);
        }
        qg_nibbles_pack(k, codes, (uint8_t *)a->out[0].data + row * (k / 2));
    }
}

/* --- dequant and matmul ---------------------------------------------------------------------- */

static const float nibble[16] = {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1};

/* R(q s + z) for the sixteen codes; t, the dtype of the scales, is a constant. */
QG_INLINE void fill_table(enum qg_dtype t, bool two_step, float s, float z, float *restrict table)
{
    if (two_step) {
        for (int i = 0; i < 16; i++)
            table[i] = qg_round_as(t, qg_round_as(t, nibble[i] * s) + z);
        return;
    }
    for (int i = 0; i < 16; i++)
        table[i] =
            t == QG_F32 ? qg_fma(nibble[i], s, z) : qg_round_as(t, qg_fma_odd(nibble[i], s, z));
}

/* The weights that the codes of a group stand for, rounded to the dtype of the weight. */
static void group_table(const struct qg_args *a, const struct qg_tensor *planes, size_t index,
                        float *restrict table)
{
    float s = qg_get(&planes[1], index), z = qg_get(&planes[2], index);
    bool two_step = a->param[DEQUANT] == 1;
    QG_FOR_DTYPE(T, planes[1].dtype, fill_table(T, two_step, s, z, table));
    if (planes[1].dtype != a->dtype)
        QG_FOR_DTYPE(T, a->dtype, for (int i = 0; i < 16; i++) table[i] = qg_round_as(T, table[i]));
}

static void dequant(const struct qg_args *a)
{
    size_t g = group(a), k = a->cols;
    float table[16];
    for (size_t row = 0; row < a->rows; row++)
        for (size_t at = 0; at < k; at += g) {
            group_table(a, a->in, at / g * a->rows + row, table);
            qg_nibbles_store(&a->out[0], row * k + at,
                             (const uint8_t *)a->in[0].data + row * (k / 2), at,
                             k - at < g ? k - at : g, table);
        }
}

static void weights(const struct qg_args *a, size_t row, size_t at, size_t n, float *w)
{
    size_t g = group(a), end = at + n;
    const uint8_t *codes = (const uint8_t *)a->in[1].data + row * (a->cols / 2);
    float table[16];
    while (at < end) {
        size_t stop = (at / g + 1) * g, part = (stop < end ? stop : end) - at;
        group_table(a, a->in + 1, at / g * a->rows + row, table);
        qg_nibbles_f32(codes, at, part, table, w);
        w += part;
        at += part;
    }
}

static const struct qg_product product = {weights, qg_inputs_plain, NULL};
QG_MATMUL(product)
QG_LORA(product)

#define ROW(s, o, f)                                                                       \
    {                                                                                      \
        .scheme = s, .backend = "c", .variant = "", .op = o, .operand = QG_WEIGHT, .fn = f \
    }
#define GRADIENT(s, f)                                                         \
    {                                                                          \
        .scheme = s, .backend = "c", .variant = "", .op = QG_FAKE_QUANT_GRAD,  \
        .operand = QG_WEIGHT, .claim = QG_WITHIN_BOUND, .traits = QG_REORDERS, \
        .depth = gradient_depth, .fn = f                                       \
    }

/* A lane of binary64 takes a quarter of a group of at most 256; then two rounds. */
static size_t gradient_depth(size_t k)
{
    (void)k;
    return MAX_GROUP / QG_LANES + 2;
}

const struct qg_kernel qg_kernels_int4_c[] = {
    ROW("int4", QG_FAKE_QUANT, fake_quant),
    GRADIENT("int4", fake_quant_grad),
    ROW("int4", QG_CONVERT, convert),
    ROW("int4", QG_DEQUANT, dequant),
    ROW("int4-old", QG_FAKE_QUANT, qg_old_int4_fake_quant_c),
    ROW("int4-old", QG_FAKE_QUANT_GRAD, qg_old_int4_fake_quant_grad_c),
    ROW("int4-old", QG_CONVERT, convert),
    ROW("int4-old", QG_DEQUANT, dequant),
    QG_MATMUL_ROWS("int4", product),
    QG_LORA_ROWS("int4", product),
    QG_MATMUL_ROWS("int4-old", product),
    QG_LORA_ROWS("int4-old", product),
    {.scheme = NULL},
};
