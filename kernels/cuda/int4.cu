/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of int4 and int4-old: a team of threads to a group, which stays in registers.
 */
#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/units.cuh"

namespace
{

enum { GROUP, EPS, SCALE_DTYPE, DEQUANT, RAGGED, BITS };

size_t group(const struct qg_args *a)
{
    return (size_t)a->param[GROUP];
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

    /* -half .. half - 1, or NaN. */
    __device__ float code(struct grid g, float w) const
    {
        const float u = qg_div(qg_sub(w, g.min), g.scale);
        return qg_sub(qg_clamp(qg_rint(u), 0.0f, top), half);
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
    const struct prepare q = {a->in[0], a->out[0], rule_of(a)};
    qg_quantize(q, {a->rows, a->cols, group(a)});
}

struct storing {
    struct qg_tensor x, scales, zeros;
    struct rule rule;
    uint8_t *codes; // nibbles, or bytes where groups end within a byte
    bool packed;
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
        if (packed)
            qg_store_nibbles(codes, at, n, &q);
        else
            qg_store_bytes(codes, at, n, &q);
    }
};

struct packing {
    const uint8_t *bytes;
    uint8_t *nibbles;
    size_t cols;

    __device__ void piece(size_t row, size_t at, size_t n) const
    {
        const struct qg_codes q = qg_load_bytes(bytes, row * cols + at, n);
        qg_store_nibbles(nibbles, row * cols + at, n, &q);
    }
};

void convert(const struct qg_args *a)
{
    const bool packed = group(a) % 2 == 0;
    uint8_t *nibbles = (uint8_t *)a->out[0].data, *bytes = (uint8_t *)a->work;
    const struct storing q = {a->in[0], a->out[1], a->out[2], rule_of(a), packed ? nibbles : bytes,
                              packed,   a->rows};
    qg_quantize(q, {a->rows, a->cols, group(a)});
    if (!packed)
        qg_pieces(packing{bytes, nibbles, a->cols}, a->rows, a->cols);
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
            w = qg_round(t, qg_add(qg_round(t, qg_mul(q, s)), z));
        else
            w = t == QG_F32 ? qg_fma(q, s, z) : qg_round(t, qg_fma_odd(q, s, z));
        return qg_round(dtype, w);
    }

    __device__ struct qg_piece weights(size_t row, size_t at, size_t n) const
    {
        const struct qg_codes q = qg_load_nibbles((uint8_t *)codes.data + row * (cols / 2), at, n);
        struct qg_piece w;
        size_t known = SIZE_MAX;
        float s = 0, z = 0;
        for (unsigned i = 0; i < QG_PIECE; i++) {
            const size_t j = (at + i) / group;
            if (i < n && j != known) {
                s = qg_get_float(&scales, j * rows + row);
                z = qg_get_float(&zeros, j * rows + row);
                known = j;
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

struct restoring {
    struct stored w;
    struct qg_tensor y;

    __device__ void piece(size_t row, size_t at, size_t n) const
    {
        const struct qg_piece p = w.weights(row, at, n);
        qg_store_piece(&y, row * w.cols + at, n, &p);
    }
};

void dequant(const struct qg_args *a)
{
    qg_pieces(restoring{stored_of(a, a->in), a->out[0]}, a->rows, a->cols);
}

struct product {
    static constexpr bool halves = true;
    struct stored w;
    struct qg_tensor x, y;

    __device__ struct qg_piece weights(size_t row, size_t at, size_t n) const
    {
        return w.weights(row, at, n);
    }
    __device__ struct qg_piece inputs(size_t m, size_t at, size_t n) const
    {
        return qg_load_piece(&x, m * w.cols + at, n);
    }
    __device__ float finish(size_t, size_t, float sum) const
    {
        return sum;
    }
};

struct product product_of(const struct qg_args *a)
{
    return {stored_of(a, a->in + 1), a->in[0], a->out[0]};
}

} // namespace

extern "C" const struct qg_kernel qg_kernels_int4_cuda[] = {
    QG_CUDA_ROW("int4", QG_WEIGHT, QG_FAKE_QUANT, fake_quant),
    QG_CUDA_ROW("int4", QG_WEIGHT, QG_CONVERT, convert),
    QG_CUDA_ROW("int4", QG_WEIGHT, QG_DEQUANT, dequant),
    QG_CUDA_ROW("int4-old", QG_WEIGHT, QG_CONVERT, convert),
    QG_CUDA_ROW("int4-old", QG_WEIGHT, QG_DEQUANT, dequant),
    QG_CUDA_PRODUCT("int4", product_of),
    QG_CUDA_PRODUCT("int4-old", product_of),
    QG_CUDA_END,
};
