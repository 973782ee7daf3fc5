/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of int8-row and int8-int8: the convert of intx.cu, products with the codes, whose
 * scales come afterwards.
 */
#include "kernels/cuda/integers.cuh"
#include "kernels/cuda/intx.cuh"
#include "kernels/cuda/narrow.cuh"

namespace
{

enum { ACT_MAPPING, REDUCE_RANGE };

struct qg_levels levels_of(const struct qg_args *a)
{
    const bool reduced = qg_param_find(a->scheme, "reduce-range") && a->param[REDUCE_RANGE] > 0;
    return {a->cols, reduced ? 7 : 8, qg_least_scale(0x1p-23, a->dtype), QG_F32, 0.0f};
}

void convert(const struct qg_args *a)
{
    qg_symmetric_convert_cuda(a, levels_of(a));
}

void convert_activation(const struct qg_args *a)
{
    if (a->param[ACT_MAPPING] > 0)
        qg_token_convert_cuda(a, levels_of(a));
    else
        qg_symmetric_convert_cuda(a, levels_of(a));
}

/* --- int8-row --------------------------------------------------------------------------------- */

/* Codes, which are numbers of every dtype. */
struct row_codes {
    struct qg_tensor codes;

    __device__ struct qg_piece weights(size_t row, size_t at, size_t n) const
    {
        const struct qg_codes q = qg_load_bytes(codes.data, row * codes.shape[1] + at, n);
        struct qg_piece w;
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++)
            w.v[i] = (float)(int8_t)q.c[i];
        return w;
    }
};

/* y = R(R(x . q^T) R(s)). */
struct row_product : qg_plain_product<struct row_codes> {
    struct qg_tensor scales;

    __device__ float finish(size_t m, size_t row, float sum) const
    {
        const enum qg_dtype t = y.dtype;
        const float scaled =
            qg_mul(qg_round_float(t, sum), qg_round_float(t, qg_get_float(&scales, row)));
        return qg_plain_product::finish(m, row, scaled);
    }
};

struct row_product row_product_of(const struct qg_args *a)
{
    return {{{a->in[1]}, a->in[0], a->out[0], a->cols}, a->in[2]};
}

/* --- int8-int8 -------------------------------------------------------------------------------- */

struct octet_and_sum {
    struct qg_octet codes;
    int sum;
};

struct integer_product {
    const void *codes;
    const float *scales;
    const int8_t *zeros; // of x: one of each to a row
    struct qg_tensor w, w_scales, y;
    size_t cols;
    bool asymmetric;

    /* Of products of codes and of w's codes; they wrap as int32 do. */
    struct sums {
        uint32_t products, weights;
        static __device__ __forceinline__ struct sums join(struct sums a, struct sums b)
        {
            return {a.products + b.products, a.weights + b.weights};
        }
    };

    __device__ struct octet_and_sum weights(size_t row, size_t at, size_t n) const
    {
        const struct qg_octet q = qg_load_octet(w.data, row * cols + at, n);
        return {q, qg_octet_dot(q, {{0x01010101, 0x01010101}})};
    }
    __device__ void add(struct sums *s, struct octet_and_sum q, size_t, size_t m, size_t at,
                        size_t n) const
    {
        const struct qg_octet x = qg_load_octet(codes, m * cols + at, n);
        *s = sums::join(*s, {(uint32_t)qg_octet_dot(x, q.codes), (uint32_t)q.sum});
    }
    __device__ float finish(size_t m, size_t row, struct sums s) const
    {
        const enum qg_dtype t = y.dtype;
        float sum = qg_round_float(t, qg_mul((float)(int32_t)s.products, scales[m]));
        if (asymmetric) {
            const float at_zero = qg_mul((float)zeros[m], scales[m]);
            const float share = qg_mul(at_zero, (float)(int32_t)s.weights);
            sum = qg_round_float(t, qg_sub(sum, qg_round_float(t, share)));
        }
        return qg_mul(sum, qg_get_float(&w_scales, row));
    }
};

/* The planes of x at *at: scales, zero points, and codes with room for one more row. */
struct integer_product integer_product_of(const struct qg_args *a, float **at)
{
    const struct qg_tensor scales = qg_scratch(QG_F32, a->m, 1, at),
                           zeros = qg_scratch(QG_I8, a->m, 1, at),
                           codes = qg_scratch(QG_I8, a->m + 1, a->cols, at);
    struct qg_args of_x = *a;
    of_x.rows = a->m;
    of_x.out[0] = codes;
    of_x.out[1] = scales;
    of_x.out[2] = zeros;
    convert_activation(&of_x);
    return {codes.data,
            (const float *)scales.data,
            (const int8_t *)zeros.data,
            a->in[1],
            a->in[2],
            a->out[0],
            a->cols,
            a->param[ACT_MAPPING] > 0};
}

void integer_matmul(const struct qg_args *a)
{
    float *at = a->work;
    const struct integer_product p = integer_product_of(a, &at);
    qg_multiply_codes(p, a);
}

/* The same with sums that are there. */
struct summed {
    struct integer_product p;
    const int32_t *of_weights;
    struct qg_tensor y;

    __device__ float finish(size_t m, size_t row, int32_t products) const
    {
        return p.finish(m, row, {(uint32_t)products, p.asymmetric ? (uint32_t)of_weights[row] : 0});
    }
};

/* Where zero points want sums of w's codes, they are those with a row of ones. */
void integer_matmul_cublas(const struct qg_args *a)
{
    float *at = a->work;
    const struct integer_product p = integer_product_of(a, &at);
    const size_t m = a->m + p.asymmetric;
    const struct qg_tensor codes = {NULL, QG_I8, 2, {m, a->cols}, (void *)p.codes};
    if (p.asymmetric)
        (void)cudaMemsetAsync((char *)codes.data + a->m * a->cols, 1, a->cols, qg_cuda_stream());
    const struct qg_factor x = qg_integer_factor(codes, 1, &at),
                           w = qg_integer_factor(a->in[1], QG_NARROW, &at);
    qg_multiply_narrow<int32_t>(summed{p, (const int32_t *)at + a->m * w.t.shape[0], a->out[0]}, a,
                                x, w, at);
}

} // namespace

extern "C" const struct qg_kernel qg_kernels_int8_tensor_cuda[] = {
    QG_CUDA_ROW("int8-row", QG_WEIGHT, QG_CONVERT, convert),
    QG_CUDA_ROW("int8-row", QG_WEIGHT, QG_DEQUANT, qg_codes_dequant_cuda),
    QG_CUDA_PRODUCT("int8-row", row_product_of),
    QG_CUDA_LORA("int8-row", row_product_of),
    QG_CUDA_ROW("int8-int8", QG_WEIGHT, QG_CONVERT, convert),
    QG_CUDA_ROW("int8-int8", QG_WEIGHT, QG_DEQUANT, qg_codes_dequant_cuda),
    QG_CUDA_ROW("int8-int8", QG_ACTIVATION, QG_CONVERT, convert_activation),
    QG_CUDA_ROW("int8-int8", QG_ACTIVATION, QG_DEQUANT, qg_codes_dequant_cuda),
    QG_CUDA_ROW("int8-int8", QG_WEIGHT, QG_MATMUL, integer_matmul),
    QG_CUBLAS_ROW("int8-int8", "", QG_BIT_EXACT, 0, NULL, integer_matmul_cublas, qg_takes_integers),
    QG_CUDA_END,
};
