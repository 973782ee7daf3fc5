/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of int8, int8-g32, int8-int4, intx and intx-dynamic: a team of threads to a group or
 * to a token. A symmetric grid is an asymmetric one whose zero point is 0: the same steps then, for
 * adding 0 to a code and taking it away again rounds nothing.
 *
 * R(.), a rounding to the dtype of an operation that promotes, is left out where one to a narrower
 * or equal dtype follows: it is then the identity or the same rounding twice.
 */
#include "kernels/cuda/intx.cuh"

namespace
{

enum { EPS, SCALE_DTYPE, GROUP, BITS };

/* --- codes ------------------------------------------------------------------------------------ */

struct grid {
    float scale, inverse, zero;
};

/* struct qg_levels on the device, for tensors of dtype t. */
struct rule {
    bool tokens;                    // asymmetric
    enum qg_dtype t, held, product; // product: of the two, promoted
    float low, high, least, nan;

    __device__ struct grid grid_at(float exact, float zero) const
    {
        const float scale = qg_round_float(held, exact);
        return {scale, qg_round_float(held, qg_div(1.0f, scale)), zero};
    }
    __device__ struct grid grid_of(struct qg_least_most m) const
    {
        if (!tokens) {
            const float amax = qg_max(qg_abs(m.min), qg_abs(m.max)),
                        half_range = qg_add(high, 0.5f);
            return grid_at(qg_max(qg_round_float(t, qg_div(amax, half_range)), least), 0.0f);
        }
        const float min = qg_min(0.0f, m.min), max = qg_max(0.0f, m.max);
        const float range = qg_round_float(t, qg_sub(max, min));
        const float exact = qg_max(qg_round_float(t, qg_div(range, qg_sub(high, low))), least);
        const float below = qg_rint(qg_round_float(t, qg_div(min, exact)));
        const float zero = qg_round_float(t, qg_sub(low, below));
        return grid_at(exact, zero != zero ? nan : qg_clamp(zero, low, high));
    }

    /* The code before it is clamped. */
    __device__ float code(struct grid g, float x) const
    {
        const float u = qg_rint(qg_round_float(product, qg_mul(x, g.inverse)));
        return qg_round_float(product, qg_add(u, qg_round_float(product, g.zero)));
    }
    /* R(q - zero) s. */
    __device__ float value(struct grid g, float q) const
    {
        return qg_mul(qg_round_float(t, qg_sub(q, qg_round_float(t, g.zero))), g.scale);
    }
    __device__ bool holds(float q) const
    {
        return q >= low && q <= high;
    }
};

struct rule rule_of(enum qg_dtype t, const struct qg_levels &l, bool tokens)
{
    const float low = -(float)(1 << (l.bits - 1));
    return {tokens, t, l.held, t == l.held ? t : QG_F32, low, -low - 1.0f, l.least, l.nan};
}

/* --- prepare ---------------------------------------------------------------------------------- */

struct prepare {
    struct qg_tensor x, y;
    struct rule rule;
    bool stored; // codes pass through an int8, whose NaN is 0
    typedef struct qg_least_most measure;

    __device__ struct grid make(struct qg_unit, measure m) const
    {
        return rule.grid_of(m);
    }
    __device__ void put(struct qg_unit, struct grid) const
    {
    }
    __device__ void piece(struct qg_unit, struct grid g, size_t at, size_t n,
                          const struct qg_piece *p) const
    {
        struct qg_piece w;
#pragma unroll
        for (int i = 0; i < QG_PIECE; i++) {
            const float q = qg_clamp(rule.code(g, p->v[i]), rule.low, rule.high);
            w.v[i] = rule.value(g, stored && q != q ? 0.0f : q);
        }
        qg_store_piece(&y, at, n, &w);
    }
};

/* dx = R(R(g s) m (1/s)), m: the code needs no clamp. */
struct back {
    struct qg_tensor x, g, dx;
    struct rule rule;
    typedef struct qg_least_most measure;

    __device__ struct grid make(struct qg_unit, measure m) const
    {
        return rule.grid_of(m);
    }
    __device__ void put(struct qg_unit, struct grid) const
    {
    }
    __device__ void piece(struct qg_unit, struct grid grid, size_t at, size_t n,
                          const struct qg_piece *p) const
    {
        struct qg_piece d = qg_load_piece(&g, at, n);
#pragma unroll
        for (int i = 0; i < QG_PIECE; i++) {
            const float dq = qg_round_float(rule.t, qg_mul(d.v[i], grid.scale));
            const float inside = rule.holds(rule.code(grid, p->v[i])) ? dq : 0.0f;
            d.v[i] = qg_mul(inside, grid.inverse);
        }
        qg_store_piece(&dx, at, n, &d);
    }
};

/* --- convert ---------------------------------------------------------------------------------- */

struct storing {
    struct qg_tensor x, codes, scales, zeros;
    struct rule rule;
    size_t per_row; // groups
    typedef struct qg_least_most measure;

    __device__ struct grid make(struct qg_unit, measure m) const
    {
        return rule.grid_of(m);
    }
    __device__ void put(struct qg_unit u, struct grid g) const
    {
        qg_put_float(&scales, u.row * per_row + u.of_row, g.scale);
        qg_put(&zeros, u.row * per_row + u.of_row, g.zero);
    }
    __device__ void piece(struct qg_unit, struct grid g, size_t at, size_t n,
                          const struct qg_piece *p) const
    {
        struct qg_codes c;
#pragma unroll
        for (int i = 0; i < QG_PIECE; i++) {
            const float q = qg_clamp(rule.code(g, p->v[i]), rule.low, rule.high);
            c.c[i] = (uint8_t)(q == q ? (int)q : 0);
        }
        qg_store_bytes(codes.data, at, n, &c);
    }
};

/* --- dequant and matmul ----------------------------------------------------------------------- */

/* The planes as numbers: R((q - z) s). */
struct numbers {
    struct qg_tensor codes, scales, zeros;
    enum qg_dtype dtype;
    size_t cols, group;

    __device__ struct qg_piece weights(size_t row, size_t at, size_t n) const
    {
        const size_t first = row * cols + at;
        const struct qg_codes q = qg_load_bytes(codes.data, first, n);
        struct qg_piece w;
        struct qg_cursor c = qg_cursor_at(first, group);
        float s = 0, zero = 0;
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++) {
            if (i == 0 || (i < n && qg_cursor_next(&c))) {
                s = qg_get_float(&scales, c.group);
                zero = qg_round_float(dtype, qg_get(&zeros, c.group));
            }
            const float away = qg_round_float(dtype, qg_sub((float)(int8_t)q.c[i], zero));
            w.v[i] = i < n ? qg_round_float(dtype, qg_mul(away, s)) : 0.0f;
        }
        return w;
    }
};

struct numbers numbers_of(const struct qg_args *a, const struct qg_tensor *planes)
{
    return {planes[0], planes[1], planes[2], a->dtype, a->cols, qg_group(a)};
}

typedef struct qg_plain_product<struct numbers> product;

product product_of(const struct qg_args *a)
{
    return {numbers_of(a, a->in + 1), a->in[0], a->out[0], a->cols};
}

/* The same of x as its tokens stand for it. */
product token_product(const struct qg_args *a, const struct qg_levels &tokens)
{
    const struct qg_tensor x = qg_made_x(a);
    const struct prepare q = {a->in[0], x, rule_of(a->dtype, tokens, true), true};
    qg_quantize(q, {a->m, a->cols, a->cols});
    return {numbers_of(a, a->in + 1), x, a->out[0], a->cols};
}

/* --- what the rows ask for -------------------------------------------------------------------- */

struct qg_levels levels_of(const struct qg_args *a)
{
    const enum qg_dtype held[] = {a->dtype, QG_BF16, QG_F16, QG_F32}; // as in qg_scale_dtypes
    const int bits = qg_param_find(a->scheme, "bits") ? (int)a->param[BITS]
                                                      : a->scheme->operand[a->operand].code_bits;
    return {qg_group(a), bits, qg_least_scale(a->param[EPS], a->dtype),
            held[(int)a->param[SCALE_DTYPE]], 0.0f};
}

void fake_quant(const struct qg_args *a)
{
    qg_symmetric_fake_quant_cuda(a, levels_of(a));
}

void fake_quant_grad(const struct qg_args *a)
{
    qg_symmetric_grad_cuda(a, levels_of(a));
}

void convert(const struct qg_args *a)
{
    qg_symmetric_convert_cuda(a, levels_of(a));
}

/* nan: of the int32 that prepare holds zero points in (on x86), or of the int8 of convert. */
struct qg_levels tokens_of(const struct qg_args *a, float nan)
{
    return {a->cols, 8, qg_least_scale(0, a->dtype), a->dtype, nan};
}

void token_fake_quant(const struct qg_args *a)
{
    qg_token_fake_quant_cuda(a, tokens_of(a, -0x1p31f));
}

void token_grad(const struct qg_args *a)
{
    qg_token_grad_cuda(a, tokens_of(a, -0x1p31f));
}

void token_convert(const struct qg_args *a)
{
    qg_token_convert_cuda(a, tokens_of(a, 0.0f));
}

void token_matmul(const struct qg_args *a)
{
    qg_token_matmul_cuda(a, tokens_of(a, 0.0f));
}

void token_matmul_cublas(const struct qg_args *a)
{
    qg_token_matmul_cublas(a, tokens_of(a, 0.0f));
}

struct qg_levels old_int4_levels(const struct qg_args *a)
{
    const struct qg_param *eps = qg_param_find(a->scheme, "prepare-eps");
    const struct qg_param *bits = qg_param_find(a->scheme, "bits");
    return {qg_group(a), (int)a->param[bits - a->scheme->params],
            qg_least_scale(a->param[eps - a->scheme->params], a->dtype), QG_F32, 0.0f};
}

} // namespace

/* --- launches --------------------------------------------------------------------------------- */

static void run_prepare(const struct qg_args *a, const struct qg_levels &l, bool tokens)
{
    const struct prepare q = {a->in[0], a->out[0], rule_of(a->dtype, l, tokens), false};
    qg_quantize(q, {a->rows, a->cols, l.group});
}

static void run_back(const struct qg_args *a, const struct qg_levels &l, bool tokens)
{
    const struct back q = {a->in[0], a->in[1], a->out[0], rule_of(a->dtype, l, tokens)};
    qg_quantize(q, {a->rows, a->cols, l.group});
}

static void run_storing(const struct qg_args *a, const struct qg_levels &l, bool tokens)
{
    const struct storing q = {
        a->in[0], a->out[0], a->out[1], a->out[2], rule_of(a->dtype, l, tokens), a->cols / l.group};
    qg_quantize(q, {a->rows, a->cols, l.group});
}

void qg_symmetric_fake_quant_cuda(const struct qg_args *a, const struct qg_levels &levels)
{
    run_prepare(a, levels, false);
}

void qg_symmetric_grad_cuda(const struct qg_args *a, const struct qg_levels &levels)
{
    run_back(a, levels, false);
}

void qg_symmetric_convert_cuda(const struct qg_args *a, const struct qg_levels &levels)
{
    run_storing(a, levels, false);
}

void qg_token_fake_quant_cuda(const struct qg_args *a, const struct qg_levels &levels)
{
    run_prepare(a, levels, true);
}

void qg_token_grad_cuda(const struct qg_args *a, const struct qg_levels &levels)
{
    run_back(a, levels, true);
}

void qg_token_convert_cuda(const struct qg_args *a, const struct qg_levels &levels)
{
    run_storing(a, levels, true);
}

void qg_codes_dequant_cuda(const struct qg_args *a)
{
    qg_unpack(numbers_of(a, a->in), a);
}

void qg_codes_matmul_cuda(const struct qg_args *a)
{
    qg_multiply(product_of(a), a);
}

void qg_codes_matmul_cublas(const struct qg_args *a)
{
    qg_multiply_cublas(product_of(a), a, a->work);
}

void qg_token_matmul_cuda(const struct qg_args *a, const struct qg_levels &tokens)
{
    qg_multiply(token_product(a, tokens), a);
}

void qg_token_matmul_cublas(const struct qg_args *a, const struct qg_levels &tokens)
{
    qg_multiply_cublas(token_product(a, tokens), a, a->work);
}

void qg_old_int4_fake_quant_cuda(const struct qg_args *a)
{
    qg_symmetric_fake_quant_cuda(a, old_int4_levels(a));
}

void qg_old_int4_fake_quant_grad_cuda(const struct qg_args *a)
{
    qg_symmetric_grad_cuda(a, old_int4_levels(a));
}

#define SYMMETRIC(s, what)                                         \
    QG_CUDA_ROW(s, what, QG_FAKE_QUANT, fake_quant),               \
        QG_CUDA_ROW(s, what, QG_FAKE_QUANT_GRAD, fake_quant_grad), \
        QG_CUDA_ROW(s, what, QG_CONVERT, convert),                 \
        QG_CUDA_ROW(s, what, QG_DEQUANT, qg_codes_dequant_cuda)
#define TOKENS(s)                                                      \
    QG_CUDA_ROW(s, QG_ACTIVATION, QG_FAKE_QUANT, token_fake_quant),    \
        QG_CUDA_ROW(s, QG_ACTIVATION, QG_FAKE_QUANT_GRAD, token_grad), \
        QG_CUDA_ROW(s, QG_ACTIVATION, QG_CONVERT, token_convert),      \
        QG_CUDA_ROW(s, QG_ACTIVATION, QG_DEQUANT, qg_codes_dequant_cuda)

extern "C" const struct qg_kernel qg_kernels_intx_cuda[] = {
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
    QG_CUDA_MATMULS("int8", qg_codes_matmul_cuda, qg_codes_matmul_cublas),
    QG_CUDA_LORA("int8", product_of),
    QG_CUDA_MATMULS("int8-g32", qg_codes_matmul_cuda, qg_codes_matmul_cublas),
    QG_CUDA_LORA("int8-g32", product_of),
    QG_CUDA_MATMULS("int8-int4", token_matmul, token_matmul_cublas),
    QG_CUDA_MATMULS("intx", qg_codes_matmul_cuda, qg_codes_matmul_cublas),
    QG_CUDA_LORA("intx", product_of),
    QG_CUDA_MATMULS("intx-dynamic", token_matmul, token_matmul_cublas),
    QG_CUDA_END,
};
