/* SPDX-License-Identifier: MIT
 *
 * e4m3 with one scale to a row, a tile or a tensor: what the kernels of fp8, fp8-block and fp8-int4
 * share.
 */
#ifndef QG_FP8_CUH
#define QG_FP8_CUH

#include "kernels/cuda/narrow.cuh"

/* The nearest e4m3 number, 448 at most; NaN stays. */
static __device__ __forceinline__ float qg_e4m3_nearest(float x)
{
    return qg_e4m3_decode(qg_e4m3_encode(x));
}

/* --- quantizers ------------------------------------------------------------------------------ */

/* What a converter multiplies with, or divides by `scale` when it is 0; and the scale that is
 * stored. */
struct qg_fp8_factor {
    float factor, scale;

    __device__ __forceinline__ qg_e4m3 code(float x) const
    {
        return qg_e4m3_encode(factor != 0 ? qg_mul(x, factor) : qg_div(x, scale));
    }
};

/* How a block's largest magnitude becomes its factor: see schemes/fp8.h. */
enum qg_fp8_kind {
    QG_BY_FBGEMM,
    QG_BY_FBGEMM_CPU,
    QG_BY_MSLK,
    QG_BY_TORCH,
    QG_BY_DEEPSEEK,
    QG_BY_UNSLOTH,
    QG_BY_HF,
    QG_BY_TRAINING
};

struct qg_fp8_quantizer {
    enum qg_fp8_kind kind;
    enum qg_dtype dtype; /* of what is quantized */
    float eps;

    static __device__ struct qg_fp8_factor by_factor(float f)
    {
        return {f, qg_div(1.0f, f)};
    }
    static __device__ float times_448(float m)
    {
        return qg_mul(qg_div(1.0f, m), QG_E4M3_MAX);
    }
    __device__ struct qg_fp8_factor of(float amax) const
    {
        float s = qg_div(amax, QG_E4M3_MAX), f;
        switch (kind) {
        case QG_BY_FBGEMM:
            return by_factor(qg_div(QG_E4M3_MAX, qg_max(amax, eps)));
        case QG_BY_FBGEMM_CPU:
            f = times_448(qg_max(amax, qg_round_float(dtype, eps)));
            return by_factor(f == INFINITY ? 1.0f : f);
        case QG_BY_MSLK:
            return {0, qg_div(qg_max(amax, eps), QG_E4M3_MAX)};
        case QG_BY_TORCH:
            return {0, qg_round_float(dtype, s)};
        case QG_BY_DEEPSEEK:
            return {0, s};
        case QG_BY_UNSLOTH:
            return {0, s == 0 ? 1.0f : s};
        case QG_BY_HF:
            return by_factor(amax > 0 ? times_448(amax) : 1.0f);
        default:
            return by_factor((float)(448.0 / (double)qg_max(amax, eps)));
        }
    }
};

/* Converts units: y gets codes, or (F32) the numbers that they stand for. */
struct qg_fp8_storing {
    struct qg_tensor x, y;
    float *scales;
    size_t per_row; /* scales to a row */
    struct qg_fp8_quantizer by;
    typedef struct qg_amax measure;

    __device__ struct qg_fp8_factor make(struct qg_unit, measure m) const
    {
        return by.of(m.amax);
    }
    __device__ void put(struct qg_unit u, struct qg_fp8_factor f) const
    {
        scales[u.row * per_row + u.of_row] = f.scale;
    }
    __device__ void piece(struct qg_unit, struct qg_fp8_factor f, size_t at, size_t n,
                          const struct qg_piece *p) const
    {
        struct qg_codes q;
        struct qg_piece v;
        for (int i = 0; i < QG_PIECE; i++) {
            const qg_e4m3 code = f.code(p->v[i]);
            q.c[i] = code.v;
            v.v[i] = qg_e4m3_decode(code);
        }
        if (y.dtype == QG_F32)
            qg_store_piece(&y, at, n, &v);
        else
            qg_store_bytes(y.data, at, n, &q);
    }
};

/* Of x of a matmul, the numbers that its codes stand for go to a->work, then its scales. */
static inline struct qg_fp8_storing qg_fp8_inputs(const struct qg_args *a,
                                                  struct qg_fp8_quantizer by)
{
    float *at = a->work;
    const struct qg_tensor y = qg_scratch(QG_F32, a->m, a->cols, &at);
    return {a->in[0], y, at, 1, by};
}

/* The same with its codes, `rows` of them: scales at *at, then codes. */
static inline struct qg_fp8_storing qg_fp8_input_codes(const struct qg_args *a,
                                                       struct qg_fp8_quantizer by, size_t scales,
                                                       float **at)
{
    float *of_x = (float *)qg_scratch(QG_F32, 1, scales, at).data;
    return {a->in[0], qg_scratch(QG_E4M3, a->m, a->cols, at), of_x, 1, by};
}

/* --- what was stored ------------------------------------------------------------------------- */

/* Codes [rows, cols] with a scale to a tile of `height` rows by `width` columns, a multiple of
 * QG_PIECE or all of them. */
struct qg_fp8_stored {
    const uint8_t *codes;
    const float *scales;
    enum qg_dtype dtype; /* of the weights that come out */
    size_t cols, height, width;

    __device__ float scale(size_t row, size_t at) const
    {
        return scales[row / height * qg_ceil_div(cols, width) + at / width];
    }
    /* What the codes stand for without the scale. */
    __device__ struct qg_piece numbers(size_t row, size_t at, size_t n) const
    {
        const struct qg_codes q = qg_load_bytes(codes, row * cols + at, n);
        struct qg_piece w;
        for (int i = 0; i < QG_PIECE; i++)
            w.v[i] = qg_e4m3_decode(qg_e4m3{q.c[i]});
        return w;
    }
    __device__ struct qg_piece weights(size_t row, size_t at, size_t n) const
    {
        struct qg_piece w = numbers(row, at, n);
        const float s = scale(row, at);
        for (int i = 0; i < QG_PIECE; i++)
            w.v[i] = qg_round_float(dtype, qg_mul(w.v[i], s));
        return w;
    }
};

static inline struct qg_fp8_stored qg_fp8_stored_of(const struct qg_args *a,
                                                    const struct qg_tensor *planes, size_t height,
                                                    size_t width)
{
    return {(const uint8_t *)planes[0].data,
            (const float *)planes[1].data,
            a->dtype,
            a->cols,
            height,
            width};
}

static inline void qg_fp8_dequant(const struct qg_args *a, size_t height, size_t width)
{
    qg_unpack(qg_fp8_stored_of(a, a->in, height, width), a);
}

/* --- prepare --------------------------------------------------------------------------------- */

/* There and back: R(e4m3(clamp(x / s, +-448)) s), the e4m3 left out unless `cast`, with the scale
 * s = R(max(max|x|, lower bound) / 448). */
struct qg_fp8_range {
    enum qg_dtype dtype;
    float lower_bound;
    bool cast;

    __device__ __forceinline__ float scale(float amax) const
    {
        return qg_round_float(dtype, qg_div(qg_max(amax, lower_bound), QG_E4M3_MAX));
    }
    __device__ __forceinline__ float code(float x, float scale) const
    {
        const float q = qg_div(x, scale);
        return cast ? qg_e4m3_nearest(q) : qg_clamp(q, -QG_E4M3_MAX, QG_E4M3_MAX);
    }
};

struct qg_fp8_fake {
    struct qg_tensor x, y;
    struct qg_fp8_range range;
    typedef struct qg_amax measure;

    __device__ float make(struct qg_unit, measure m) const
    {
        return range.scale(m.amax);
    }
    __device__ void put(struct qg_unit, float) const
    {
    }
    __device__ void piece(struct qg_unit, float scale, size_t at, size_t n,
                          const struct qg_piece *p) const
    {
        struct qg_piece w;
        for (int i = 0; i < QG_PIECE; i++)
            w.v[i] = qg_mul(range.code(p->v[i], scale), scale);
        qg_store_piece(&y, at, n, &w);
    }
};

/* What extremes receive of dL/dmax|x|: the ties' share times mask times sign, as autograd
 * multiplies, which makes a zero of a sign, or NaN of an infinite share, off the extremes. */
static __device__ __forceinline__ float qg_part_of(float share, float x, float amax)
{
    const float mask = qg_abs(x) == amax ? 1.0f : 0.0f, sign = (float)((x > 0) - (x < 0));
    return qg_mul(qg_mul(share, mask), sign);
}

/* Its gradient, see qg_fp8_fake_grad in schemes/fp8.c. g is in x's dtype or binary32. */
struct qg_fp8_gradient {
    struct qg_tensor x, g, y;
    struct qg_fp8_range range;
    bool cast_back; /* the gradient is cast to e4m3 as the value was */
    typedef struct qg_amax measure;

    struct grid {
        float amax, scale;
    };
    enum { BY_CODE, BY_RANGE, TIES, COUNT };
    typedef struct qg_sums<COUNT> sums;
    struct back {
        struct grid grid;
        float share; /* of an extreme */
    };

    __device__ struct grid make(struct qg_unit, measure m) const
    {
        return {m.amax, range.scale(m.amax)};
    }
    /* Behind the casts and the clamp. */
    __device__ __forceinline__ float behind(float v, float g, float scale) const
    {
        const float h = qg_mul(g, scale);
        if (!(v >= -QG_E4M3_MAX && v <= QG_E4M3_MAX))
            return 0.0f;
        return cast_back ? qg_e4m3_nearest(h) : h;
    }
    __device__ __forceinline__ void add(struct grid r, sums *s, float x, float g) const
    {
        const float v = qg_div(x, r.scale);
        s->of[BY_CODE] += (double)g * range.code(x, r.scale);
        s->of[BY_RANGE] += (double)behind(v, g, r.scale) * qg_div(v, r.scale);
        s->of[TIES] += qg_abs(x) == r.amax;
    }
    __device__ struct back finish(struct grid r, sums s) const
    {
        const enum qg_dtype t = range.dtype;
        const float ds = qg_round_float(t, (float)(s.of[BY_CODE] - s.of[BY_RANGE]));
        const float da =
            r.amax >= range.lower_bound ? qg_round_float(t, qg_div(ds, QG_E4M3_MAX)) : 0.0f;
        return {r, qg_round_float(t, qg_div(da, qg_round_float(t, (float)s.of[TIES])))};
    }
    __device__ void piece(struct back b, size_t at, size_t n, const struct qg_piece *x,
                          const struct qg_piece *g) const
    {
        const float scale = b.grid.scale;
        struct qg_piece d;
#pragma unroll
        for (int i = 0; i < QG_PIECE; i++) {
            const float gamma = behind(qg_div(x->v[i], scale), g->v[i], scale);
            d.v[i] = qg_add(qg_round_float(range.dtype, qg_div(gamma, scale)),
                            qg_part_of(b.share, x->v[i], b.grid.amax));
        }
        qg_store_piece(&y, at, n, &d);
    }
};

#endif
