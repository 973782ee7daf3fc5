/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of int8, int8-g32, int8-int4, intx and intx-dynamic. A tensor is a flat run of
 * groups, since groups divide rows: as many whole groups as fit are worked on at once, a group that
 * is longer than that in two passes.
 *
 * R(.), a rounding to the dtype of an operation that promotes, is left out where a store to a
 * narrower or equal dtype follows: it is then the identity or the same rounding twice.
 */
#include "kernels/c/intx_c.h"

#include "kernels/c/matmul.h"
#include "kernels/c/rows.h"
#include "kernels/kernel.h"

enum { EPS, SCALE_DTYPE, GROUP, BITS };

static enum qg_dtype promote(enum qg_dtype t, enum qg_dtype s)
{
    return t == s ? t : QG_F32;
}

/* Codes are low .. high. */
struct scale {
    float scale, inverse, low, high;
};

static float least_scale(const struct qg_codes *grid, enum qg_dtype t)
{
    return grid->eps > 0 ? qg_round_as(t, (float)grid->eps) : qg_smallest_normal(t);
}

static struct scale scale_of(float amax, enum qg_dtype t, const struct qg_codes *grid)
{
    float low = -(float)(1 << (grid->bits - 1));
    float exact = qg_max(qg_round_as(t, amax / (-low - 0.5f)), least_scale(grid, t));
    float scale = qg_round_as(grid->scale, exact);
    return (struct scale){scale, qg_round_as(grid->scale, 1.0f / scale), low, -low - 1.0f};
}

/* A walk over the groups of a tensor in pieces of at most QG_CHUNK elements: whole groups, or parts
 * of a longer one. */
struct walk {
    size_t group, at, n; /* the piece: elements at .. at+n */
};

static bool next_piece(struct walk *w, size_t total)
{
    w->at += w->n;
    size_t left = total - w->at, whole = QG_CHUNK / w->group * w->group;
    size_t in_group = w->group - w->at % w->group;
    size_t most = whole ? whole : in_group < QG_CHUNK ? in_group : QG_CHUNK;
    w->n = left < most ? left : most;
    return left > 0;
}

/* The scale of the group that starts at element `at`, or `before` where a long group goes on. */
static struct scale piece_scale(const struct qg_args *a, const struct qg_codes *grid, size_t at,
                                const float *f, const struct scale *before)
{
    if (at % grid->group)
        return *before;
    float amax = grid->group > QG_CHUNK ? qg_amax_at(&a->in[0], at, grid->group)
                                        : qg_amax_of(grid->group, f);
    return scale_of(amax, a->in[0].dtype, grid);
}

QG_INLINE void quantize(enum qg_dtype product, size_t n, float *restrict f, const struct scale *s)
{
    float scale = s->scale, inverse = s->inverse, low = s->low, high = s->high;
    for (size_t i = 0; i < n; i++)
        f[i] = qg_rint_small(qg_limit(qg_round_as(product, f[i] * inverse), low, high)) * scale;
}

void qg_symmetric_fake_quant_c(const struct qg_args *a, const struct qg_codes *grid)
{
    float f[QG_CHUNK];
    enum qg_dtype product = promote(a->dtype, grid->scale);
    struct scale s = {0};
    for (struct walk w = {grid->group, 0, 0}; next_piece(&w, a->rows * a->cols);) {
        qg_load(&a->in[0], w.at, w.n, f);
        for (size_t i = 0; i < w.n; i += grid->group) {
            s = piece_scale(a, grid, w.at + i, f + i, &s);
            size_t n = qg_smaller(grid->group, w.n - i);
            QG_FOR_DTYPE(T, product, quantize(T, n, f + i, &s));
        }
        qg_store(&a->out[0], w.at, w.n, f);
    }
}

/* dx = R(R(g s) m (1/s)). round(u) is a code when u is from half below the lowest, a tie that goes
 * up to the even lowest, to short of half above the highest, a tie that goes up to an even
 * neighbour. */
QG_INLINE void pass_back(enum qg_dtype t, enum qg_dtype product, size_t n, const float *restrict f,
                         float *restrict g, const struct scale *s)
{
    float scale = s->scale, inverse = s->inverse, from = s->low - 0.5f, to = s->high + 0.5f;
    for (size_t i = 0; i < n; i++) {
        float u = qg_round_as(product, f[i] * inverse);
        float dq = qg_round_as(t, g[i] * scale);
        g[i] = qg_pick_f32((u >= from) & (u < to), dq, 0.0f) * inverse;
    }
}

void qg_symmetric_grad_c(const struct qg_args *a, const struct qg_codes *grid)
{
    float f[QG_CHUNK], g[QG_CHUNK];
    enum qg_dtype t = a->dtype;
    bool same = promote(t, grid->scale) == t;
    struct scale s = {0};
    for (struct walk w = {grid->group, 0, 0}; next_piece(&w, a->rows * a->cols);) {
        qg_load(&a->in[0], w.at, w.n, f);
        qg_load(&a->in[1], w.at, w.n, g);
        for (size_t i = 0; i < w.n; i += grid->group) {
            s = piece_scale(a, grid, w.at + i, f + i, &s);
            size_t n = qg_smaller(grid->group, w.n - i);
            if (same)
                QG_FOR_DTYPE(T, t, pass_back(T, T, n, f + i, g + i, &s));
            else
                QG_FOR_DTYPE(T, t, pass_back(T, QG_F32, n, f + i, g + i, &s));
        }
        qg_store(&a->out[0], w.at, w.n, g);
    }
}

QG_INLINE void encode(enum qg_dtype product, size_t n, const float *restrict f,
                      int8_t *restrict codes, const struct scale *s)
{
    float inverse = s->inverse, low = s->low, high = s->high;
    for (size_t i = 0; i < n; i++)
        codes[i] = (int8_t)qg_int_small(qg_limit(qg_round_as(product, f[i] * inverse), low, high));
}

void qg_symmetric_convert_c(const struct qg_args *a, const struct qg_codes *grid)
{
    float f[QG_CHUNK];
    enum qg_dtype product = promote(a->dtype, grid->scale);
    struct scale s = {0};
    for (struct walk w = {grid->group, 0, 0}; next_piece(&w, a->rows * a->cols);) {
        qg_load(&a->in[0], w.at, w.n, f);
        for (size_t i = 0; i < w.n; i += grid->group) {
            s = piece_scale(a, grid, w.at + i, f + i, &s);
            size_t n = qg_smaller(grid->group, w.n - i);
            int8_t *codes = (int8_t *)a->out[0].data + w.at + i;
            QG_FOR_DTYPE(T, product, encode(T, n, f + i, codes, &s));
            qg_put(&a->out[1], (w.at + i) / grid->group, s.scale);
        }
    }
    memset(a->out[2].data, 0, qg_bytes(&a->out[2]));
}

/* R(q - R(zero)) s for n elements of one group, not rounded to t yet. Zero points are integers, so
 * that the rounding shows only in what no convert has written. */
QG_INLINE void decode(enum qg_dtype t, size_t n, const int8_t *restrict codes, float zero, float s,
                      float *restrict f)
{
    for (size_t i = 0; i < n; i++)
        f[i] = qg_round_as(t, (float)codes[i] - zero) * s;
}

static void decode_group(enum qg_dtype t, const struct qg_tensor *planes, size_t group, size_t at,
                         size_t n, float *f)
{
    const int8_t *codes = (const int8_t *)planes[0].data + at;
    float s = qg_get(&planes[1], at / group), zero = qg_round_as(t, qg_get(&planes[2], at / group));
    QG_FOR_DTYPE(T, t, decode(T, n, codes, zero, s, f));
}

void qg_codes_dequant_c(const struct qg_args *a)
{
    float f[QG_CHUNK];
    size_t group = qg_group(a);
    for (struct walk w = {group, 0, 0}; next_piece(&w, a->rows * a->cols);) {
        for (size_t i = 0; i < w.n; i += group)
            decode_group(a->dtype, a->in, group, w.at + i, qg_smaller(group, w.n - i), f + i);
        qg_store(&a->out[0], w.at, w.n, f);
    }
}

/* --- activations ----------------------------------------------------------------------------- */

struct token {
    float scale, inverse, zero, low, high;
};

static struct token token_of(const struct qg_tensor *x, size_t at, size_t k,
                             const struct qg_codes *grid)
{
    enum qg_dtype t = x->dtype;
    float f[QG_CHUNK], min = 0.0f, max = 0.0f;
    for (size_t i = 0; i < k; i += QG_CHUNK) {
        size_t n = qg_smaller(k - i, QG_CHUNK);
        qg_load(x, at + i, n, f);
        struct qg_span span = qg_span_of(n, f);
        min = qg_min(min, span.min);
        max = qg_max(max, span.max);
    }
    float low = -(float)(1 << (grid->bits - 1)), high = -low - 1.0f;
    float exact = qg_round_as(t, qg_round_as(t, max - min) / (high - low));
    exact = qg_max(exact, least_scale(grid, t));
    float zero = qg_round_as(t, low - qg_rint(qg_round_as(t, min / exact)));
    float scale = qg_round_as(grid->scale, exact);
    return (struct token){scale, qg_round_as(grid->scale, 1.0f / scale),
                          zero != zero ? grid->nan : qg_limit(zero, low, high), low, high};
}

/* The code before it is clamped. Zero belongs to the range, so |x| <= max - min and |x / s| is at
 * most 255 and a few roundings, or NaN: small enough for qg_rint_small. */
QG_INLINE float token_code(enum qg_dtype product, float x, float inverse, float zero)
{
    return qg_round_as(product, qg_rint_small(qg_round_as(product, x * inverse)) + zero);
}

QG_INLINE void token_quantize(enum qg_dtype t, enum qg_dtype product, size_t n, float *restrict f,
                              struct token p)
{
    float zero = qg_round_as(product, p.zero), away = qg_round_as(t, p.zero);
    for (size_t i = 0; i < n; i++) {
        float q = qg_limit(token_code(product, f[i], p.inverse, zero), p.low, p.high);
        f[i] = qg_round_as(t, q - away) * p.scale;
    }
}

QG_INLINE void token_encode(enum qg_dtype product, size_t n, const float *restrict f,
                            int8_t *restrict codes, struct token p)
{
    float zero = qg_round_as(product, p.zero);
    for (size_t i = 0; i < n; i++)
        codes[i] = (int8_t)qg_int_small(
            qg_limit(token_code(product, f[i], p.inverse, zero), p.low, p.high));
}

QG_INLINE void token_back(enum qg_dtype t, enum qg_dtype product, size_t n, const float *restrict f,
                          float *restrict g, struct token p)
{
    float zero = qg_round_as(product, p.zero);
    for (size_t i = 0; i < n; i++) {
        float q = token_code(product, f[i], p.inverse, zero);
        float dq = qg_round_as(t, g[i] * p.scale);
        g[i] = qg_pick_f32((q >= p.low) & (q <= p.high), dq, 0.0f) * p.inverse;
    }
}

/* One row of x to `y`, which holds the dequantized values in any dtype that holds x's. */
static void token_row(const struct qg_tensor *x, size_t at, size_t k, const struct qg_tensor *y,
                      const struct qg_codes *grid)
{
    float f[QG_CHUNK];
    enum qg_dtype product = promote(x->dtype, grid->scale);
    struct token p = token_of(x, at, k, grid);
    for (size_t i = 0; i < k; i += QG_CHUNK) {
        size_t n = qg_smaller(k - i, QG_CHUNK);
        qg_load(x, at + i, n, f);
        if (product == x->dtype)
            QG_FOR_DTYPE(T, x->dtype, token_quantize(T, T, n, f, p));
        else
            QG_FOR_DTYPE(T, x->dtype, token_quantize(T, QG_F32, n, f, p));
        qg_store(y, at + i, n, f);
    }
}

void qg_token_fake_quant_c(const struct qg_args *a, const struct qg_codes *grid)
{
    for (size_t row = 0; row < a->rows; row++)
        token_row(&a->in[0], row * a->cols, a->cols, &a->out[0], grid);
}

void qg_token_grad_c(const struct qg_args *a, const struct qg_codes *grid)
{
    float f[QG_CHUNK], g[QG_CHUNK];
    size_t k = a->cols;
    for (size_t at = 0; at < a->rows * k; at += k) {
        struct token p = token_of(&a->in[0], at, k, grid);
        for (size_t i = 0; i < k; i += QG_CHUNK) {
            size_t n = qg_smaller(k - i, QG_CHUNK);
            qg_load(&a->in[0], at + i, n, f);
            qg_load(&a->in[1], at + i, n, g);
            if (promote(a->dtype, grid->scale) == a->dtype)
                QG_FOR_DTYPE(T, a->dtype, token_back(T, T, n, f, g, p));
            else
                QG_FOR_DTYPE(T, a->dtype, token_back(T, QG_F32, n, f, g, p));
            qg_store(&a->out[0], at + i, n, g);
        }
    }
}

void qg_token_convert_c(const struct qg_args *a, const struct qg_codes *grid)
{
    float f[QG_CHUNK];
    size_t k = a->cols;
    enum qg_dtype product = promote(a->dtype, grid->scale);
    for (size_t row = 0; row < a->rows; row++) {
        struct token p = token_of(&a->in[0], row * k, k, grid);
        for (size_t i = 0; i < k; i += QG_CHUNK) {
            size_t n = qg_smaller(k - i, QG_CHUNK);
            qg_load(&a->in[0], row * k + i, n, f);
            int8_t *codes = (int8_t *)a->out[0].data + row * k + i;
            QG_FOR_DTYPE(T, product, token_encode(T, n, f, codes, p));
        }
        qg_put(&a->out[1], row, p.scale);
        qg_put(&a->out[2], row, p.zero);
    }
}

/* --- matmul ---------------------------------------------------------------------------------- */

QG_INLINE void round_all(enum qg_dtype t, size_t n, float *restrict f)
{
    for (size_t i = 0; i < n; i++)
        f[i] = qg_round_as(t, f[i]);
}

void qg_codes_weights(const struct qg_args *a, size_t row, size_t at, size_t n, float *w)
{
    size_t group = qg_group(a), first = row * a->cols + at;
    for (size_t i = 0; i < n;) {
        size_t part = qg_smaller(group - (at + i) % group, n - i);
        decode_group(a->dtype, a->in + 1, group, first + i, part, w + i);
        i += part;
    }
    QG_FOR_DTYPE(T, a->dtype, round_all(T, n, w));
}

void qg_token_inputs(const struct qg_args *a, const struct qg_codes *grid, float *x)
{
    struct qg_tensor y = {.dtype = QG_F32, .data = x};
    for (size_t at = 0; at < a->m * a->cols; at += a->cols)
        token_row(&a->in[0], at, a->cols, &y, grid);
    QG_FOR_DTYPE(T, a->dtype, round_all(T, a->m * a->cols, x));
}

/* --- the rows -------------------------------------------------------------------------------- */

/* The grid that the scheme's parameters ask for. */
static struct qg_codes grid_of(const struct qg_args *a)
{
    const enum qg_dtype held[] = {a->dtype, QG_BF16, QG_F16, QG_F32};
    int bits = a->scheme->operand[a->operand].code_bits;
    if (qg_param_find(a->scheme, "bits"))
        bits = (int)a->param[BITS];
    return (struct qg_codes){qg_group(a), bits, a->param[EPS], held[(int)a->param[SCALE_DTYPE]], 0};
}

static void fake_quant(const struct qg_args *a)
{
    struct qg_codes grid = grid_of(a);
    qg_symmetric_fake_quant_c(a, &grid);
}

static void fake_quant_grad(const struct qg_args *a)
{
    struct qg_codes grid = grid_of(a);
    qg_symmetric_grad_c(a, &grid);
}

static void convert(const struct qg_args *a)
{
    struct qg_codes grid = grid_of(a);
    qg_symmetric_convert_c(a, &grid);
}

/* What a zero point of inf/inf becomes: the NaN of the int32 that prepare holds it in (on x86), and
 * of the int8 of convert. */
#define PREPARE_NAN (-0x1p31f)
#define CONVERT_NAN 0.0f

static struct qg_codes tokens_of(const struct qg_args *a, float nan)
{
    return (struct qg_codes){a->cols, 8, 0, a->dtype, nan};
}

static void token_fake_quant(const struct qg_args *a)
{
    struct qg_codes grid = tokens_of(a, PREPARE_NAN);
    qg_token_fake_quant_c(a, &grid);
}

static void token_fake_quant_grad(const struct qg_args *a)
{
    struct qg_codes grid = tokens_of(a, PREPARE_NAN);
    qg_token_grad_c(a, &grid);
}

static void token_convert(const struct qg_args *a)
{
    struct qg_codes grid = tokens_of(a, CONVERT_NAN);
    qg_token_convert_c(a, &grid);
}

static void token_inputs(const struct qg_args *a, float *x, float *scales)
{
    (void)scales;
    struct qg_codes grid = tokens_of(a, CONVERT_NAN);
    qg_token_inputs(a, &grid, x);
}

static struct qg_codes old_int4_grid(const struct qg_args *a)
{
    const struct qg_param *eps = qg_param_find(a->scheme, "prepare-eps");
    const struct qg_param *bits = qg_param_find(a->scheme, "bits");
    return (struct qg_codes){qg_group(a), (int)a->param[bits - a->scheme->params],
                             a->param[eps - a->scheme->params], QG_F32, 0};
}

void qg_old_int4_fake_quant_c(const struct qg_args *a)
{
    struct qg_codes grid = old_int4_grid(a);
    qg_symmetric_fake_quant_c(a, &grid);
}

void qg_old_int4_fake_quant_grad_c(const struct qg_args *a)
{
    struct qg_codes grid = old_int4_grid(a);
    qg_symmetric_grad_c(a, &grid);
}

static const struct qg_product plain = {qg_codes_weights, qg_inputs_plain, NULL};
static const struct qg_product dynamic = {qg_codes_weights, token_inputs, NULL};
QG_MATMUL(plain)
QG_LORA(plain)
QG_MATMUL(dynamic)

#define ROW(s, what, o, f)                                                            \
    {                                                                                 \
        .scheme = s, .backend = "c", .variant = "", .op = o, .operand = what, .fn = f \
    }
#define SYMMETRIC(s, what)                                                                      \
    ROW(s, what, QG_FAKE_QUANT, fake_quant), ROW(s, what, QG_FAKE_QUANT_GRAD, fake_quant_grad), \
        ROW(s, what, QG_CONVERT, convert), ROW(s, what, QG_DEQUANT, qg_codes_dequant_c)
#define TOKENS(s)                                                         \
    ROW(s, QG_ACTIVATION, QG_FAKE_QUANT, token_fake_quant),               \
        ROW(s, QG_ACTIVATION, QG_FAKE_QUANT_GRAD, token_fake_quant_grad), \
        ROW(s, QG_ACTIVATION, QG_CONVERT, token_convert),                 \
        ROW(s, QG_ACTIVATION, QG_DEQUANT, qg_codes_dequant_c)

const struct qg_kernel qg_kernels_intx_c[] = {
    SYMMETRIC("int8", QG_WEIGHT),
    SYMMETRIC("int8", QG_EMBEDDING),
    SYMMETRIC("int8-g32", QG_WEIGHT),
    SYMMETRIC("int8-g32", QG_EMBEDDING),
    SYMMETRIC("int8-int4", QG_WEIGHT),
    SYMMETRIC("int8-int4", QG_EMBEDDING),
    TOKENS("int8-int4"),
    SYMMETRIC("intx", QG_WEIGHT),
    SYMMETRIC("intx", QG_EMBEDDING),
    SYMMETRIC("intx-dynamic", QG_WEIGHT),
    TOKENS("intx-dynamic"),
    QG_MATMUL_ROWS("int8", plain),
    QG_LORA_ROWS("int8", plain),
    QG_MATMUL_ROWS("int8-g32", plain),
    QG_LORA_ROWS("int8-g32", plain),
    QG_MATMUL_ROWS("int8-int4", dynamic),
    QG_MATMUL_ROWS("intx", plain),
    QG_LORA_ROWS("intx", plain),
    QG_MATMUL_ROWS("intx-dynamic", dynamic),
    {.scheme = NULL},
};
