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

/* Symmetric codes of `bits` bits, the scale at least eps (0: the smallest normal number of x's
 * dtype) and held in dtype `scale`. */
struct grid {
    size_t group;
    int bits;
    double eps;
    enum qg_dtype scale;
};

/* Codes are low .. high. */
struct scale {
    float scale, inverse, low, high;
};

static struct scale scale_of(float amax, enum qg_dtype t, const struct grid *grid)
{
    float low = -(float)(1 << (grid->bits - 1));
    float eps = grid->eps > 0 ? qg_round_as(t, (float)grid->eps) : qg_smallest_normal(t);
    float exact = qg_max(qg_round_as(t, amax / (-low - 0.5f)), eps);
    float scale = qg_round_as(grid->scale, exact);
    return (struct scale){scale, qg_round_as(grid->scale, 1.0f / scale), low, -low - 1.0f};
}

/* The grid that the scheme's parameters ask for. */
static struct grid grid_of(const struct qg_args *a)
{
    const enum qg_dtype held[] = {a->dtype, QG_BF16, QG_F16, QG_F32};
    int bits = a->scheme->operand[a->operand].code_bits;
    if (qg_param_find(a->scheme, "bits"))
        bits = (int)a->param[BITS];
    return (struct grid){qg_group(a), bits, a->param[EPS], held[(int)a->param[SCALE_DTYPE]]};
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
static struct scale piece_scale(const struct qg_args *a, const struct grid *grid, size_t at,
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

static void round_to_grid(const struct qg_args *a, const struct grid *grid)
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

static void round_to_grid_grad(const struct qg_args *a, const struct grid *grid)
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

static void fake_quant(const struct qg_args *a)
{
    struct grid grid = grid_of(a);
    round_to_grid(a, &grid);
}

static void fake_quant_grad(const struct qg_args *a)
{
    struct grid grid = grid_of(a);
    round_to_grid_grad(a, &grid);
}

static struct grid old_int4_grid(const struct qg_args *a)
{
    const struct qg_param *eps = qg_param_find(a->scheme, "prepare-eps");
    return (struct grid){qg_group(a), 4, a->param[eps - a->scheme->params], QG_F32};
}

void qg_old_int4_fake_quant_c(const struct qg_args *a)
{
    struct grid grid = old_int4_grid(a);
    round_to_grid(a, &grid);
}

void qg_old_int4_fake_quant_grad_c(const struct qg_args *a)
{
    struct grid grid = old_int4_grid(a);
    round_to_grid_grad(a, &grid);
}

QG_INLINE void encode(enum qg_dtype product, size_t n, const float *restrict f,
                      int8_t *restrict codes, const struct scale *s)
{
    float inverse = s->inverse, low = s->low, high = s->high;
    for (size_t i = 0; i < n; i++)
        codes[i] = (int8_t)qg_int_small(qg_limit(qg_round_as(product, f[i] * inverse), low, high));
}

static void convert(const struct qg_args *a)
{
    float f[QG_CHUNK];
    struct grid grid = grid_of(a);
    enum qg_dtype product = promote(a->dtype, grid.scale);
    struct scale s = {0};
    for (struct walk w = {grid.group, 0, 0}; next_piece(&w, a->rows * a->cols);) {
        qg_load(&a->in[0], w.at, w.n, f);
        for (size_t i = 0; i < w.n; i += grid.group) {
            s = piece_scale(a, &grid, w.at + i, f + i, &s);
            size_t n = qg_smaller(grid.group, w.n - i);
            int8_t *codes = (int8_t *)a->out[0].data + w.at + i;
            QG_FOR_DTYPE(T, product, encode(T, n, f + i, codes, &s));
            qg_put(&a->out[1], (w.at + i) / grid.group, s.scale);
        }
    }
    memset(a->out[2].data, 0, qg_bytes(&a->out[2]));
}

/* (q - zero) s for n elements of one group. */
static void decode(const struct qg_tensor *planes, size_t group, size_t at, size_t n,
                   float *restrict f)
{
    const int8_t *restrict codes = (const int8_t *)planes[0].data + at;
    float s = qg_get(&planes[1], at / group);
    int zero = ((const int8_t *)planes[2].data)[at / group];
    for (size_t i = 0; i < n; i++)
        f[i] = (float)(codes[i] - zero) * s;
}

static void dequant(const struct qg_args *a)
{
    float f[QG_CHUNK];
    size_t group = qg_group(a);
    for (struct walk w = {group, 0, 0}; next_piece(&w, a->rows * a->cols);) {
        for (size_t i = 0; i < w.n; i += group)
            decode(a->in, group, w.at + i, qg_smaller(group, w.n - i), f + i);
        qg_store(&a->out[0], w.at, w.n, f);
    }
}

/* --- activations ----------------------------------------------------------------------------- */

struct token {
    float scale, inverse, zero;
};

/* What a zero point of inf/inf becomes: the NaN of the int32 that prepare holds it in (on x86), and
 * of the int8 of convert. */
#define PREPARE_NAN (-0x1p31f)
#define CONVERT_NAN 0.0f

static struct token token_of(const struct qg_tensor *x, size_t at, size_t k, float nan)
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
    float scale = qg_round_as(t, qg_round_as(t, max - min) / 255.0f);
    scale = qg_max(scale, qg_smallest_normal(t));
    float zero = qg_round_as(t, -128.0f - qg_rint(qg_round_as(t, min / scale)));
    zero = zero != zero ? qg_round_as(t, nan) : qg_limit(zero, -128.0f, 127.0f);
    return (struct token){scale, qg_round_as(t, 1.0f / scale), zero};
}

/* The code before it is clamped. Zero belongs to the range, so |x| <= max - min and |x / s| is at
 * most 255 and a few roundings, or NaN: small enough for qg_rint_small. */
QG_INLINE float token_code(enum qg_dtype t, float x, const struct token *p)
{
    return qg_round_as(t, qg_rint_small(qg_round_as(t, x * p->inverse)) + p->zero);
}

QG_INLINE void token_quantize(enum qg_dtype t, size_t n, float *restrict f, struct token p)
{
    for (size_t i = 0; i < n; i++)
        f[i] = (qg_limit(token_code(t, f[i], &p), -128.0f, 127.0f) - p.zero) * p.scale;
}

QG_INLINE void token_encode(enum qg_dtype t, size_t n, const float *restrict f,
                            int8_t *restrict codes, struct token p)
{
    for (size_t i = 0; i < n; i++)
        codes[i] = (int8_t)qg_int_small(qg_limit(token_code(t, f[i], &p), -128.0f, 127.0f));
}

QG_INLINE void token_back(enum qg_dtype t, size_t n, const float *restrict f, float *restrict g,
                          struct token p)
{
    for (size_t i = 0; i < n; i++) {
        float q = token_code(t, f[i], &p);
        float dq = qg_round_as(t, g[i] * p.scale);
        g[i] = qg_pick_f32((q >= -128.0f) & (q <= 127.0f), dq, 0.0f) * p.inverse;
    }
}

/* One row of x to `y`, which holds the dequantized values in any dtype that holds x's. */
static void token_row(const struct qg_tensor *x, size_t at, size_t k, const struct qg_tensor *y,
                      float nan)
{
    float f[QG_CHUNK];
    struct token p = token_of(x, at, k, nan);
    for (size_t i = 0; i < k; i += QG_CHUNK) {
        size_t n = qg_smaller(k - i, QG_CHUNK);
        qg_load(x, at + i, n, f);
        QG_FOR_DTYPE(T, x->dtype, token_quantize(T, n, f, p));
        qg_store(y, at + i, n, f);
    }
}

static void token_fake_quant(const struct qg_args *a)
{
    for (size_t row = 0; row < a->rows; row++)
        token_row(&a->in[0], row * a->cols, a->cols, &a->out[0], PREPARE_NAN);
}

static void token_fake_quant_grad(const struct qg_args *a)
{
    float f[QG_CHUNK], g[QG_CHUNK];
    size_t k = a->cols;
    for (size_t at = 0; at < a->rows * k; at += k) {
        struct token p = token_of(&a->in[0], at, k, PREPARE_NAN);
        for (size_t i = 0; i < k; i += QG_CHUNK) {
            size_t n = qg_smaller(k - i, QG_CHUNK);
            qg_load(&a->in[0], at + i, n, f);
            qg_load(&a->in[1], at + i, n, g);
            QG_FOR_DTYPE(T, a->dtype, token_back(T, n, f, g, p));
            qg_store(&a->out[0], at + i, n, g);
        }
    }
}

static void token_convert(const struct qg_args *a)
{
    float f[QG_CHUNK];
    size_t k = a->cols;
    for (size_t row = 0; row < a->rows; row++) {
        struct token p = token_of(&a->in[0], row * k, k, CONVERT_NAN);
        for (size_t i = 0; i < k; i += QG_CHUNK) {
            size_t n = qg_smaller(k - i, QG_CHUNK);
            qg_load(&a->in[0], row * k + i, n, f);
            int8_t *codes = (int8_t *)a->out[0].data + row * k + i;
            QG_FOR_DTYPE(T, a->dtype, token_encode(T, n, f, codes, p));
        }
        qg_put(&a->out[1], row, p.scale);
        qg_put(&a->out[2], row, p.zero);
    }
}

/* --- matmul ---------------------------------------------------------------------------------- */

static void weights(const struct qg_args *a, size_t row, size_t at, size_t n, float *w)
{
    size_t group = qg_group(a), first = row * a->cols + at;
    for (size_t i = 0; i < n;) {
        size_t part = qg_smaller(group - (at + i) % group, n - i);
        decode(a->in + 1, group, first + i, part, w + i);
        i += part;
    }
    QG_FOR_DTYPE(T, a->dtype, for (size_t i = 0; i < n; i++) w[i] = qg_round_as(T, w[i]));
}

static void dynamic_inputs(const struct qg_args *a, float *x, float *scales)
{
    (void)scales;
    struct qg_tensor y = {.dtype = QG_F32, .data = x};
    for (size_t at = 0; at < a->m * a->cols; at += a->cols)
        token_row(&a->in[0], at, a->cols, &y, CONVERT_NAN);
    size_t n = a->m * a->cols;
    QG_FOR_DTYPE(T, a->dtype, for (size_t i = 0; i < n; i++) x[i] = qg_round_as(T, x[i]));
}

static const struct qg_product plain = {weights, qg_inputs_plain, NULL};
static const struct qg_product dynamic = {weights, dynamic_inputs, NULL};
QG_MATMUL(plain)
QG_MATMUL(dynamic)

#define ROW(s, what, o, f)                                                            \
    {                                                                                 \
        .scheme = s, .backend = "c", .variant = "", .op = o, .operand = what, .fn = f \
    }
#define SYMMETRIC(s, what)                                                                      \
    ROW(s, what, QG_FAKE_QUANT, fake_quant), ROW(s, what, QG_FAKE_QUANT_GRAD, fake_quant_grad), \
        ROW(s, what, QG_CONVERT, convert), ROW(s, what, QG_DEQUANT, dequant)
#define TOKENS(s)                                                         \
    ROW(s, QG_ACTIVATION, QG_FAKE_QUANT, token_fake_quant),               \
        ROW(s, QG_ACTIVATION, QG_FAKE_QUANT_GRAD, token_fake_quant_grad), \
        ROW(s, QG_ACTIVATION, QG_CONVERT, token_convert),                 \
        ROW(s, QG_ACTIVATION, QG_DEQUANT, dequant)

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
    QG_MATMUL_ROWS("int8-g32", plain),
    QG_MATMUL_ROWS("int8-int4", dynamic),
    QG_MATMUL_ROWS("intx", plain),
    QG_MATMUL_ROWS("intx-dynamic", dynamic),
    {.scheme = NULL},
};
