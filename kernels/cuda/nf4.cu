/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of torchao's NF4: eight threads to a block of 64, which find its scaler and its
 * codes in one pass; then the mean of all scalers, in torch's order, and a warp to 256 of them.
 */
#include "kernels/cuda/codebooks.cuh"

namespace
{

enum { BLOCK = 64, BLOCKS = 256 }; /* elements to a scaler, scalers to a factor */

/* --- convert --------------------------------------------------------------------------------- */

/* Codes, and the largest magnitude of every block. */
struct encoding {
    struct qg_tensor x;
    uint8_t *codes;
    float *absmax;
    typedef struct qg_amax measure;

    /* Distances as they are: for |u| <= 1 their roundings decide nothing. */
    __device__ unsigned nearest(float u) const
    {
        unsigned best = 0;
        float least = INFINITY;
#pragma unroll
        for (unsigned k = 0; k < 16; k++) {
            const float distance = qg_abs(qg_sub(u, qg_round_float(x.dtype, qg_nf4_short(k))));
            best = distance < least ? k : best;
            least = distance < least ? distance : least;
        }
        return best;
    }
    __device__ float make(struct qg_unit, measure m) const
    {
        return m.amax;
    }
    __device__ void put(struct qg_unit u, float amax) const
    {
        absmax[u.of_row] = amax;
    }
    __device__ void piece(struct qg_unit, float amax, size_t at, size_t n,
                          const struct qg_piece *p) const
    {
        struct qg_codes q;
#pragma unroll
        for (int i = 0; i < QG_PIECE; i++)
            q.c[i] = (uint8_t)nearest(qg_round_float(x.dtype, qg_div(p->v[i], amax)));
        qg_store_nibbles(codes, at, n, &q, true);
    }
};

/* Scalers less their mean to int8, with a factor for 256 of them. */
struct scaling {
    struct qg_tensor x, factors, mean_plane;
    uint8_t *scalers;
    const float *mean;
    enum qg_dtype dtype;
    typedef struct qg_least_most measure;

    __device__ float less(float absmax) const
    {
        return qg_round_float(dtype, qg_sub(absmax, *mean));
    }
    /* 256 / (2 top): torch divides a number by a tensor by way of the reciprocal. */
    __device__ float make(struct qg_unit, measure m) const
    {
        const float top = qg_max(qg_abs(less(m.min)), qg_abs(less(m.max)));
        const float inverse =
            qg_round_float(dtype, qg_div(1.0f, qg_round_float(dtype, qg_mul(2.0f, top))));
        return qg_round_float(dtype, qg_mul(inverse, 256.0f));
    }
    __device__ void put(struct qg_unit u, float factor) const
    {
        qg_put_float(&factors, u.of_row, factor);
        if (u.begin == 0)
            qg_put_float(&mean_plane, 0, *mean);
    }
    __device__ void piece(struct qg_unit, float factor, size_t at, size_t n,
                          const struct qg_piece *p) const
    {
        struct qg_codes q;
#pragma unroll
        for (int i = 0; i < QG_PIECE; i++) {
            const float s = qg_rint(qg_round_float(dtype, qg_mul(less(p->v[i]), factor)));
            q.c[i] = (uint8_t)(s == s ? (int)qg_clamp(s, -128.0f, 127.0f) : 0);
        }
        qg_store_bytes(scalers, at, n, &q);
    }
};

/* a->work: the scalers, their mean, scratch for that. */
void convert(const struct qg_args *a)
{
    const size_t total = a->rows * a->cols, n = total / BLOCK;
    float *absmax = a->work, *mean = absmax + n;
    const struct qg_tensor scalers = {NULL, QG_F32, 1, {n}, absmax};
    qg_quantize(encoding{a->in[0], (uint8_t *)a->out[0].data, absmax}, {1, total, BLOCK});
    qg_mean_by_torch(absmax, n, a->dtype, mean, mean + 1);
    qg_quantize(scaling{scalers, a->out[2], a->out[3], (uint8_t *)a->out[1].data, mean, a->dtype},
                {1, n, BLOCKS});
}

/* --- dequant and matmul ---------------------------------------------------------------------- */

struct rounded {
    static constexpr bool nibbles = true;
    enum qg_dtype dtype;

    __device__ float value(unsigned code) const
    {
        return qg_round_float(dtype, qg_nf4_short(code));
    }
};

struct scaler {
    struct qg_tensor factors, mean;
    const int8_t *scalers;
    enum qg_dtype dtype;

    __device__ float of(size_t block) const
    {
        const float factor = qg_get_float(&factors, block / BLOCKS);
        const float s = qg_round_float(dtype, qg_div((float)scalers[block], factor));
        return qg_round_float(dtype, qg_add(s, qg_get_float(&mean, 0)));
    }
};

typedef qg_listed<struct rounded, struct scaler> stored;

stored stored_of(const struct qg_args *a, const struct qg_tensor *planes)
{
    return {{a->dtype},
            {planes[2], planes[3], (const int8_t *)planes[1].data, a->dtype},
            (const uint8_t *)planes[0].data,
            a->dtype,
            BLOCK,
            a->cols};
}

void dequant(const struct qg_args *a)
{
    qg_unpack(stored_of(a, a->in), a);
}

struct qg_plain_product<stored> product_of(const struct qg_args *a) {
    return {stored_of(a, a->in + 1), a->in[0], a->out[0], a->cols};
}

} // namespace

extern "C" const struct qg_kernel qg_kernels_nf4_cuda[] = {
    QG_CUDA_ROW("nf4", QG_WEIGHT, QG_CONVERT, convert),
    QG_CUDA_ROW("nf4", QG_WEIGHT, QG_DEQUANT, dequant),
    QG_CUDA_PRODUCT("nf4", product_of),
    QG_CUDA_LORA("nf4", product_of),
    QG_CUDA_END,
};
