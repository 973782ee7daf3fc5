/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of fp8-fp8, fp8-fp8-tensor and fp8: rows stay in a block's registers; a tensor is
 * measured first.
 */
#include "kernels/cuda/fp8.cuh"

namespace
{

enum { CAST, GRAD, SCALE };

/* One scale per row, or one. */
struct qg_units rows_of(const struct qg_args *a, size_t rows)
{
    return {rows, a->cols, a->cols};
}

/* --- prepare --------------------------------------------------------------------------------- */

struct qg_fp8_range range_of(const struct qg_args *a)
{
    return {a->dtype, 0.0f, a->param[CAST] == 0};
}

void fake_quant_row(const struct qg_args *a)
{
    qg_quantize(qg_fp8_fake{a->in[0], a->out[0], range_of(a)}, rows_of(a, a->rows));
}

void fake_quant_tensor(const struct qg_args *a)
{
    qg_quantize_tensor(qg_fp8_fake{a->in[0], a->out[0], range_of(a)}, a->work);
}

struct qg_fp8_gradient gradient_of(const struct qg_args *a)
{
    const bool cast_back = a->param[CAST] == 0 && a->param[GRAD] == 0;
    return {a->in[0], a->in[1], a->out[0], range_of(a), cast_back};
}

void grad_row(const struct qg_args *a)
{
    qg_differentiate(gradient_of(a), rows_of(a, a->rows));
}

void grad_tensor(const struct qg_args *a)
{
    qg_differentiate_tensor(gradient_of(a), a->work);
}

/* --- convert and dequant --------------------------------------------------------------------- */

/* What the parameter `scale` says. */
struct qg_fp8_quantizer quantizer_of(enum qg_dtype t, double scale)
{
    static const struct {
        enum qg_fp8_kind kind;
        float eps;
    } words[] = {{QG_BY_MSLK, 0x1p-9f}, {QG_BY_FBGEMM, 1e-12f}, {QG_BY_TORCH, 0}};
    return {words[(int)scale].kind, t, words[(int)scale].eps};
}

struct qg_fp8_quantizer by_torch(const struct qg_args *a)
{
    return {QG_BY_TORCH, a->dtype, 0};
}

void convert_by(const struct qg_args *a, double scale)
{
    qg_quantize(qg_fp8_storing{a->in[0], a->out[0], (float *)a->out[1].data, 1,
                               quantizer_of(a->dtype, scale)},
                rows_of(a, a->rows));
}

void convert_row(const struct qg_args *a)
{
    convert_by(a, a->param[SCALE]);
}

void convert_weight_only(const struct qg_args *a)
{
    convert_by(a, a->param[0]);
}

void convert_tensor(const struct qg_args *a)
{
    qg_quantize_tensor(qg_fp8_storing{a->in[0], a->out[0], (float *)a->out[1].data, 1, by_torch(a)},
                       a->work);
}

void dequant_row(const struct qg_args *a)
{
    qg_fp8_dequant(a, 1, a->cols);
}

void dequant_tensor(const struct qg_args *a)
{
    qg_fp8_dequant(a, a->rows, a->cols);
}

/* --- matmul ---------------------------------------------------------------------------------- */

/* Codes times codes; behind the sum first the scale of x, then that of the weight. */
struct product {
    struct qg_fp8_stored w;
    struct qg_tensor x, y;
    const float *x_scales;
    bool one_scale; // for all of x

    __device__ struct qg_piece weights(size_t row, size_t at, size_t n) const
    {
        return w.numbers(row, at, n);
    }
    __device__ struct qg_piece inputs(size_t m, size_t at, size_t n) const
    {
        return qg_load_piece(&x, m * w.cols + at, n);
    }
    __device__ float finish(size_t m, size_t row, float sum) const
    {
        return qg_mul(w.scale(row, 0), qg_mul(x_scales[one_scale ? 0 : m], sum));
    }
};

void matmul_row(const struct qg_args *a)
{
    const struct qg_fp8_storing x = qg_fp8_inputs(a, quantizer_of(a->dtype, a->param[SCALE]));
    qg_quantize(x, rows_of(a, a->m));
    qg_multiply(
        product{qg_fp8_stored_of(a, a->in + 1, 1, a->cols), x.y, a->out[0], x.scales, false}, a);
}

void matmul_tensor(const struct qg_args *a)
{
    const struct qg_fp8_storing x = qg_fp8_inputs(a, by_torch(a));
    qg_quantize_tensor(x, x.scales + 1);
    qg_multiply(
        product{qg_fp8_stored_of(a, a->in + 1, a->rows, a->cols), x.y, a->out[0], x.scales, true},
        a);
}

/* --- the same by cuBLASLt --------------------------------------------------------------------- */

/* Scales of w's rows as they are, or of more rows. */
const void *row_scales(const struct qg_tensor &scales, size_t rows, float **at)
{
    const struct qg_tensor flat = {NULL, QG_F32, 2, {1, qg_count(&scales)}, scales.data};
    return qg_widened(flat, 1, rows, at).data;
}

void matmul_row_cublas(const struct qg_args *a)
{
    float *at = a->work;
    const struct qg_fp8_storing q =
        qg_fp8_input_codes(a, quantizer_of(a->dtype, a->param[SCALE]), a->m, &at);
    qg_quantize(q, rows_of(a, a->m));
    const struct qg_tensor w = qg_narrow_codes(a->in[1], QG_NARROW, &at);
    const struct qg_factor of_w = {w, QG_SCALE_ROWS, row_scales(a->in[2], w.shape[0], &at)},
                           of_x = {qg_narrow_codes(q.y, 1, &at), QG_SCALE_ROWS, q.scales};
    qg_multiply_scaled(a, of_x, of_w, at);
}

void matmul_tensor_cublas(const struct qg_args *a)
{
    float *at = a->work;
    const struct qg_fp8_storing q = qg_fp8_input_codes(a, by_torch(a), 1, &at);
    qg_quantize_tensor(q, at);
    const struct qg_factor of_w = {qg_narrow_codes(a->in[1], QG_NARROW, &at), QG_SCALE_TENSOR,
                                   a->in[2].data},
                           of_x = {qg_narrow_codes(q.y, 1, &at), QG_SCALE_TENSOR, q.scales};
    qg_multiply_scaled(a, of_x, of_w, at);
}

/* The weight is dequantized to the dtype of x. */
struct qg_plain_product<struct qg_fp8_stored> weight_only(const struct qg_args *a) {
    return {qg_fp8_stored_of(a, a->in + 1, 1, a->cols), a->in[0], a->out[0], a->cols};
}

#define OPERAND(s, what, kind)                                                                    \
    QG_CUDA_ROW(s, what, QG_FAKE_QUANT, fake_quant_##kind),                                       \
        QG_CUDA_GRADIENT(s, what, grad_##kind), QG_CUDA_ROW(s, what, QG_CONVERT, convert_##kind), \
        QG_CUDA_ROW(s, what, QG_DEQUANT, dequant_##kind)

} // namespace

extern "C" const struct qg_kernel qg_kernels_fp8_cuda[] = {
    OPERAND("fp8-fp8", QG_WEIGHT, row),
    OPERAND("fp8-fp8", QG_ACTIVATION, row),
    QG_CUDA_MATMUL("fp8-fp8", matmul_row),
    QG_NARROW_FLOATS("fp8-fp8", "", matmul_row_cublas, qg_takes_float_scales),
    OPERAND("fp8-fp8-tensor", QG_WEIGHT, tensor),
    OPERAND("fp8-fp8-tensor", QG_ACTIVATION, tensor),
    QG_CUDA_MATMUL("fp8-fp8-tensor", matmul_tensor),
    QG_NARROW_FLOATS("fp8-fp8-tensor", "", matmul_tensor_cublas, qg_takes_fp8),
    QG_CUDA_ROW("fp8", QG_WEIGHT, QG_CONVERT, convert_weight_only),
    QG_CUDA_ROW("fp8", QG_WEIGHT, QG_DEQUANT, dequant_row),
    QG_CUDA_PRODUCT("fp8", weight_only),
    QG_CUDA_LORA("fp8", weight_only),
    QG_CUDA_END,
};
