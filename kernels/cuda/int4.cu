/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of int4 and int4-old: a team of threads to a group, which stays in registers.
 */
#include "kernels/cuda/intx.cuh"
#include "kernels/cuda/matmul.cuh"

namespace
{

enum { GROUP, EPS, SCALE_DTYPE, DEQUANT, RAGGED, BITS };

size_t group(const struct qg_args *a)
{
    return (size_t)a->param[GROUP];
}

struct qg_units groups_of(const struct qg_args *a)
{
    return {a->rows, a->cols, group(a)};
}

/* --- codes and scales ------------------------------------------------------------------------ */

/* How a group becomes codes: see schemes/int4.c. */
struct grid {
    float min, scale, zero;
};

struct rule {
    float eps, half, top;

    __device__ struct grid grid_of(struct qg_least_most m) const
    {
        const float scale = qg_div(qg_max(qg_sub(m.max, m.min), eps), top);
        return {m.min, scale, qg_add(m.min, qg_mul(scale, half))};
    }

    __device__ float steps(struct grid g, float w) const
    {
        return qg_div(qg_sub(w, g.min), g.scale);
    }
    /* -half .. half - 1, or NaN. */
    __device__ float code(struct grid g, float w) const
    {
        return qg_sub(qg_clamp(qg_rint(steps(g, w)), 0.0f, top), half);
    }
};

struct rule rule_of(const struct qg_args *a)
{
    const float half = (float)(1 << ((int)a->param[BITS] - 1));
    return {(float)a->param[EPS], half, 2.0f * half - 1.0f};
}

struct prepare {
    struct qg_tensor x, y;
    struct rule rule;
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
        for (int i = 0; i < QG_PIECE; i++)
            w.v[i] = qg_add(qg_mul(rule.code(g, p->v[i]), g.scale), g.zero);
        qg_store_piece(&y, at, n, &w);
    }
};

void fake_quant(const struct qg_args *a)
{
    qg_quantize(prepare{a->in[0], a->out[0], rule_of(a)}, groups_of(a));
}

/* Its gradient, with scale and zero point in the graph: see schemes/int4.c. */
struct gradient {
    struct qg_tensor x, g, y;
    struct rule rule;
    typedef struct qg_least_most measure;

    struct grid_and_range {
        struct grid grid;
        struct qg_least_most range;
    };
    enum { BY_CODE, BY_SLOPE, ALL, THROUGH, AT_MAX, AT_MIN, COUNT };
    typedef struct qg_sums<COUNT> sums;
    struct back {
        struct grid_and_range of;
        float up, down; // what a largest and a smallest element receive
    };

    __device__ struct grid_and_range make(struct qg_unit, measure m) const
    {
        return {rule.grid_of(m), m};
    }
    /* g s where u rounds to a code. */
    __device__ float behind(struct grid r, float u, float g) const
    {
        const float code = qg_rint(u);
        return code >= 0.0f && code <= rule.top ? qg_mul(g, r.scale) : 0.0f;
    }
    __device__ void add(struct grid_and_range r, sums *s, float x, float g) const
    {
        const float u = rule.steps(r.grid, x), dq = behind(r.grid, u, g);
        s->of[BY_CODE] += (double)g * qg_clamp(qg_rint(u), 0.0f, rule.top);
        s->of[BY_SLOPE] += (double)dq * qg_div(u, r.grid.scale);
        s->of[ALL] += g;
        s->of[THROUGH] += qg_div(dq, r.grid.scale);
        s->of[AT_MAX] += x == r.range.max;
        s->of[AT_MIN] += x == r.range.min;
    }
    __device__ struct back finish(struct grid_and_range r, sums s) const
    {
        const bool by_range = qg_sub(r.range.max, r.range.min) >= rule.eps;
        const double t = by_range ? (s.of[BY_CODE] - s.of[BY_SLOPE]) / (double)rule.top : 0;
        return {r, (float)(t / s.of[AT_MAX]),
                (float)((s.of[ALL] - s.of[THROUGH] - t) / s.of[AT_MIN])};
    }
    /* Masks multiply, as in autograd: 0 * inf is NaN. */
    __device__ void piece(struct back b, size_t at, size_t n, const struct qg_piece *x,
                          const struct qg_piece *g) const
    {
        const struct grid r = b.of.grid;
        struct qg_piece d;
#pragma unroll
        for (int i = 0; i < QG_PIECE; i++) {
            const float is_max = x->v[i] == b.of.range.max ? 1.0f : 0.0f,
                        is_min = x->v[i] == b.of.range.min ? 1.0f : 0.0f;
            const float through = qg_div(behind(r, rule.steps(r, x->v[i]), g->v[i]), r.scale);
            d.v[i] = qg_add(qg_add(through, qg_mul(b.up, is_max)), qg_mul(b.down, is_min));
        }
        qg_store_piece(&y, at, n, &d);
    }
};

void fake_quant_grad(const struct qg_args *a)
{
    qg_differentiate(gradient{a->in[0], a->in[1], a->out[0], rule_of(a)}, groups_of(a));
}

/* --- convert --------------------------------------------------------------------------------- */

struct storing {
    struct qg_tensor x, scales, zeros;
    struct rule rule;
    struct qg_nibble_writer codes;
    size_t rows;
    typedef struct qg_least_most measure;

    __device__ struct grid make(struct qg_unit, measure m) const
    {
        return rule.grid_of(m);
    }
    __device__ void put(struct qg_unit u, struct grid g) const
    {
        qg_put_float(&scales, u.of_row * rows + u.row, g.scale);
        qg_put_float(&zeros, u.of_row * rows + u.row, g.zero);
    }
    __device__ void piece(struct qg_unit, struct grid g, size_t at, size_t n,
                          const struct qg_piece *p) const
    {
        struct qg_codes q;
        for (int i = 0; i < QG_PIECE; i++) {
            const float code = rule.code(g, p->v[i]);
            q.c[i] = (uint8_t)(code == code ? (int)code : 0);
        }
        codes.put(at, n, &q);
    }
};

void convert(const struct qg_args *a)
{
    const struct qg_nibble_writer codes = qg_nibbles_of(a, group(a), a->work);
    qg_quantize(storing{a->in[0], a->out[1], a->out[2], rule_of(a), codes, a->rows}, groups_of(a));
    qg_finish_nibbles(a, codes);
}

/* --- dequant and matmul ---------------------------------------------------------------------- */

/* Weights from planes: R(q s + z) in the dtype of the scales, then in that of the weight. */
struct stored {
    struct qg_tensor codes, scales, zeros;
    enum qg_dtype dtype;
    bool two_step;
    size_t rows, cols, group;

    __device__ float weight(float q, float s, float z) const
    {
        const enum qg_dtype t = scales.dtype;
        float w;
        if (two_step)
            w = qg_round_float(t, qg_add(qg_round_float(t, qg_mul(q, s)), z));
        else
            w = t == QG_F32 ? qg_fma(q, s, z) : qg_round_float(t, qg_fma_odd(q, s, z));
        return qg_round_float(dtype, w);
    }

    __device__ struct qg_piece weights(size_t row, size_t at, size_t n) const
    {
        const struct qg_codes q = qg_load_nibbles((uint8_t *)codes.data + row * (cols / 2), at, n);
        struct qg_piece w;
        struct qg_cursor c = qg_cursor_at(at, group);
        float s = 0, z = 0;
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++) {
            if (i == 0 || (i < n && qg_cursor_next(&c))) {
                s = qg_get_float(&scales, c.group * rows + row);
                z = qg_get_float(&zeros, c.group * rows + row);
            }
            w.v[i] = i < n ? weight((float)((q.c[i] ^ 8) - 8), s, z) : 0.0f;
        }
        return w;
    }
};

struct stored stored_of(const struct qg_args *a, const struct qg_tensor *planes)
{
    return {planes[0], planes[1], planes[2], a->dtype, a->param[DEQUANT] == 1,
            a->rows,   a->cols,   group(a)};
}

void dequant(const struct qg_args *a)
{
    qg_unpack(stored_of(a, a->in), a);
}

struct qg_plain_product<struct stored> product_of(const struct qg_args *a) {
    return {stored_of(a, a->in + 1), a->in[0], a->out[0], a->cols};
}

} // namespace

extern "C" const struct qg_kernel qg_kernels_int4_cuda[] = {
    QG_CUDA_ROW("int4", QG_WEIGHT, QG_FAKE_QUANT, fake_quant),
    QG_CUDA_GRADIENT("int4", QG_WEIGHT, fake_quant_grad),
    QG_CUDA_ROW("int4", QG_WEIGHT, QG_CONVERT, convert),
    QG_CUDA_ROW("int4", QG_WEIGHT, QG_DEQUANT, dequant),
    QG_CUDA_ROW("int4-old", QG_WEIGHT, QG_FAKE_QUANT, qg_old_int4_fake_quant_cuda),
    QG_CUDA_ROW("int4-old", QG_WEIGHT, QG_FAKE_QUANT_GRAD, qg_old_int4_fake_quant_grad_cuda),
    QG_CUDA_ROW("int4-old", QG_WEIGHT, QG_CONVERT, convert),
    QG_CUDA_ROW("int4-old", QG_WEIGHT, QG_DEQUANT, dequant),
    QG_CUDA_PRODUCT("int4", product_of),
    QG_CUDA_LORA("int4", product_of),
    QG_CUDA_PRODUCT("int4-old", product_of),
    QG_CUDA_LORA("int4-old", product_of),
    QG_CUDA_END,
};
