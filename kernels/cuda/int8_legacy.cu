/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of int8-int4-legacy and 8da4w: those of intx.cu with other scales.
 */
#include "kernels/cuda/intx.cuh"

namespace
{

enum { GROUP, PREPARE_SCALE, EPS };

/* A row's function: `run` with the levels that `of` asks for. */
#define KERNEL(name, run, of)          \
    void name(const struct qg_args *a) \
    {                                  \
        run(a, of(a));                 \
    }

/* --- int8-int4-legacy ------------------------------------------------------------------------- */

/* torch's default lower bound of a scale. */
float default_least(const struct qg_args *a)
{
    return a->param[EPS] > 0 ? qg_least_scale(0, a->dtype)
                             : ldexpf(1.0f, -qg_mantissa_bits(a->dtype));
}

struct qg_levels prepared(const struct qg_args *a)
{
    const enum qg_dtype held = a->param[PREPARE_SCALE] > 0 ? a->dtype : QG_F32;
    return {(size_t)a->param[GROUP], 4, default_least(a), held, 0.0f};
}

struct qg_levels converted(const struct qg_args *a)
{
    return {(size_t)a->param[GROUP], 4, default_least(a), a->dtype, 0.0f};
}

struct qg_levels prepared_tokens(const struct qg_args *a)
{
    return {a->cols, 8, default_least(a), QG_F32, -0x1p31f};
}

struct qg_levels converted_tokens(const struct qg_args *a)
{
    return {a->cols, 8, qg_least_scale(0x1p-23, a->dtype), QG_F32, 0.0f};
}

KERNEL(fake_quant, qg_symmetric_fake_quant_cuda, prepared)
KERNEL(fake_quant_grad, qg_symmetric_grad_cuda, prepared)
KERNEL(convert, qg_symmetric_convert_cuda, converted)
KERNEL(token_fake_quant, qg_token_fake_quant_cuda, prepared_tokens)
KERNEL(token_grad, qg_token_grad_cuda, prepared_tokens)
KERNEL(token_convert, qg_token_convert_cuda, converted_tokens)
KERNEL(matmul, qg_token_matmul_cuda, converted_tokens)
KERNEL(matmul_cublas, qg_token_matmul_cublas, converted_tokens)

/* --- 8da4w ------------------------------------------------------------------------------------ */

struct qg_levels weights_8da4w(const struct qg_args *a)
{
    return {(size_t)a->param[GROUP], 4, qg_least_scale(0, a->dtype), QG_F32, 0.0f};
}

struct qg_levels tokens_8da4w(const struct qg_args *a)
{
    return {a->cols, 8, qg_least_scale(0x1p-23, a->dtype), QG_F32, NAN};
}

KERNEL(fake_quant_8da4w, qg_symmetric_fake_quant_cuda, weights_8da4w)
KERNEL(fake_quant_grad_8da4w, qg_symmetric_grad_cuda, weights_8da4w)
KERNEL(convert_8da4w, qg_symmetric_convert_cuda, weights_8da4w)
KERNEL(token_fake_quant_8da4w, qg_token_fake_quant_cuda, tokens_8da4w)
KERNEL(token_grad_8da4w, qg_token_grad_cuda, tokens_8da4w)
KERNEL(token_convert_8da4w, qg_token_convert_cuda, tokens_8da4w)
KERNEL(matmul_8da4w, qg_token_matmul_cuda, tokens_8da4w)
KERNEL(matmul_cublas_8da4w, qg_token_matmul_cublas, tokens_8da4w)

} // namespace

extern "C" const struct qg_kernel qg_kernels_int8_legacy_cuda[] = {
    QG_CUDA_ROW("int8-int4-legacy", QG_WEIGHT, QG_FAKE_QUANT, fake_quant),
    QG_CUDA_ROW("int8-int4-legacy", QG_WEIGHT, QG_FAKE_QUANT_GRAD, fake_quant_grad),
    QG_CUDA_ROW("int8-int4-legacy", QG_WEIGHT, QG_CONVERT, convert),
    QG_CUDA_ROW("int8-int4-legacy", QG_WEIGHT, QG_DEQUANT, qg_codes_dequant_cuda),
    QG_CUDA_ROW("int8-int4-legacy", QG_ACTIVATION, QG_FAKE_QUANT, token_fake_quant),
    QG_CUDA_ROW("int8-int4-legacy", QG_ACTIVATION, QG_FAKE_QUANT_GRAD, token_grad),
    QG_CUDA_ROW("int8-int4-legacy", QG_ACTIVATION, QG_CONVERT, token_convert),
    QG_CUDA_ROW("int8-int4-legacy", QG_ACTIVATION, QG_DEQUANT, qg_codes_dequant_cuda),
    QG_CUDA_MATMULS("int8-int4-legacy", matmul, matmul_cublas),
    QG_CUDA_ROW("8da4w", QG_WEIGHT, QG_FAKE_QUANT, fake_quant_8da4w),
    QG_CUDA_ROW("8da4w", QG_WEIGHT, QG_FAKE_QUANT_GRAD, fake_quant_grad_8da4w),
    QG_CUDA_ROW("8da4w", QG_WEIGHT, QG_CONVERT, convert_8da4w),
    QG_CUDA_ROW("8da4w", QG_WEIGHT, QG_DEQUANT, qg_codes_dequant_cuda),
    QG_CUDA_ROW("8da4w", QG_ACTIVATION, QG_FAKE_QUANT, token_fake_quant_8da4w),
    QG_CUDA_ROW("8da4w", QG_ACTIVATION, QG_FAKE_QUANT_GRAD, token_grad_8da4w),
    QG_CUDA_ROW("8da4w", QG_ACTIVATION, QG_CONVERT, token_convert_8da4w),
    QG_CUDA_ROW("8da4w", QG_ACTIVATION, QG_DEQUANT, qg_codes_dequant_cuda),
    QG_CUDA_MATMULS("8da4w", matmul_8da4w, matmul_cublas_8da4w),
    QG_CUDA_END,
};
