/* SPDX-License-Identifier: MIT
 *
 * What other families take from the integer schemes on a device: a launch per operation, for all
 * widths of codes and all dtypes of scales, and their planes as a side of a product. Formulas:
 * schemes/intx.c.
 */
#ifndef QG_INTX_CUH
#define QG_INTX_CUH

#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/units.cuh"

/* Codes of `bits` bits, a scale to `group` elements, at least `least` and held in dtype `held`. A
 * zero point of NaN becomes `nan`. */
struct qg_levels {
    size_t group;
    int bits;
    float least;
    enum qg_dtype held;
    float nan;
};

/* Lower bound of scales of tensors of dtype t: eps, or the smallest normal number where that is 0.
 */
static inline float qg_least_scale(double eps, enum qg_dtype t)
{
    return eps > 0 ? qg_round(t, (float)eps) : qg_smallest_normal(t);
}

/* Symmetric codes in groups; tensors of `a` as the operation has them. convert writes codes (one to
 * a byte), scales and zero points. */
void qg_symmetric_fake_quant_cuda(const struct qg_args *a, const struct qg_levels &levels);
void qg_symmetric_grad_cuda(const struct qg_args *a, const struct qg_levels &levels);
void qg_symmetric_convert_cuda(const struct qg_args *a, const struct qg_levels &levels);

/* Asymmetric codes, one scale and one zero point to a row. */
void qg_token_fake_quant_cuda(const struct qg_args *a, const struct qg_levels &levels);
void qg_token_grad_cuda(const struct qg_args *a, const struct qg_levels &levels);
void qg_token_convert_cuda(const struct qg_args *a, const struct qg_levels &levels);

/* What codes, scales and zero points of both kinds stand for. */
void qg_codes_dequant_cuda(const struct qg_args *a);

/* Products with that: of x, and of x through a grid of tokens. */
void qg_codes_matmul_cuda(const struct qg_args *a);
void qg_codes_matmul_cublas(const struct qg_args *a);
void qg_token_matmul_cuda(const struct qg_args *a, const struct qg_levels &tokens);
void qg_token_matmul_cublas(const struct qg_args *a, const struct qg_levels &tokens);

/* The prepare kernels of int4-old and fp8-int4-old, as rows of their tables. */
void qg_old_int4_fake_quant_cuda(const struct qg_args *a);
void qg_old_int4_fake_quant_grad_cuda(const struct qg_args *a);

#endif
