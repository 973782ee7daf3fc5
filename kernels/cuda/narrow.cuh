/* SPDX-License-Identifier: MIT
 *
 * Products of narrow codes by cuBLASLt: int8, e4m3, e2m1. It wants rows of whole 16 bytes and 16 of
 * them in W: what has other extents is copied to where it has, with zeros at its ends.
 *
 * How tensor cores add narrow floats is documented by nobody who makes them. On sm_90 an
 * instruction aligns 32 products of e4m3 and the sum so far to the largest exponent among them and
 * cuts off what lies behind 13 binary places, of the result as well (P. Xie et al., MMA-Sim,
 * arXiv:2511.10909, and its source, which has the hardware's bits; DeepSeek-V3 Technical Report,
 * arXiv:2412.19437, section 3.5.2: "the highest 14 bits"). Sums leave the tensor cores for binary32
 * "periodically" unless CUBLASLT_MATMUL_DESC_FAST_ACCUM is set, which it is not here (cublasLt.h):
 * in CUTLASS (mma_promotion_interval) and in DeepSeek's kernels every four instructions, 128
 * elements of K. That cuBLASLt does as well is assumed; NVIDIA does not say. On sm_100 there are 25
 * places, 35 of e2m1 (MMA-Sim). The bound of these rows stands on that, and is as much wider than
 * that of binary32 sums.
 *
 * In which order the scales of both sides are multiplied is not documented either: where the
 * product of two scales leaves binary32 though that of the sum with both does not, a device may
 * differ.
 */
#ifndef QG_NARROW_CUH
#define QG_NARROW_CUH

#include <stdio.h>

#include "kernels/cuda/matmul.cuh"

enum { QG_NARROW = 16, QG_MOST_INTEGERS = 1 << 17 };

/* Additions of binary32 that err as much as those of K products of narrow floats: four instructions
 * between two visits to binary32, in each of which all numbers but the largest, then the result,
 * lose less than 2^-13 = 2^11 2^-24 of the largest, and one addition behind each visit. Not
 * counted: a subnormal factor has the least normal number's exponent, so that a product may stand
 * for one of eight times its size; where it is an instruction's largest, more is cut off (MMA-Sim).
 */
static inline size_t qg_narrow_depth(size_t k)
{
    return qg_least(qg_ceil_div(k, 32), 4) * 33 * 2048 + qg_ceil_div(k, 128);
}

/* --- extents --------------------------------------------------------------------------------- */

/* t with that many rows of so many elements: itself, or a copy at *at. */
struct qg_tensor qg_widened(const struct qg_tensor &t, size_t rows, size_t cols, float **at);

static inline size_t qg_round_up(size_t n, size_t to)
{
    return qg_ceil_div(n, to) * to;
}

/* Codes of a byte [rows, cols], or nibbles as bytes, as a factor's rows: `multiple` of them. */
static inline struct qg_tensor qg_narrow_codes(const struct qg_tensor &t, size_t multiple,
                                               float **at)
{
    return qg_widened(t, qg_round_up(t.shape[0], multiple), qg_round_up(t.shape[1], QG_NARROW), at);
}

/* The same of int8, which has no scales. */
static inline struct qg_factor qg_integer_factor(const struct qg_tensor &t, size_t multiple,
                                                 float **at)
{
    return {qg_narrow_codes(t, multiple, at), QG_SCALE_NONE, NULL};
}

/* --- products -------------------------------------------------------------------------------- */

/* Sums, then what p.finish makes of them. T: float, or int32_t, whose sums do not leave it for the
 * calls that qg_takes_integers takes. */
template <class T, class P>
static void qg_multiply_narrow(const P &p, const struct qg_args *a, const struct qg_factor &x,
                               const struct qg_factor &w, float *scratch)
{
    constexpr enum qg_dtype sums = (T)0.5f == 0 ? QG_I32 : QG_F32;
    const struct qg_tensor y = qg_scratch(sums, x.t.shape[0], w.t.shape[0], &scratch);
    qg_cublas_product(a, &x, &w, &y);
    qg_pieces(qg_finishing<P, T>{p, (const T *)y.data, w.t.shape[0]}, a->m, a->rows);
}

/* Where nothing comes behind the scaled product: y itself, unless the factors were widened. */
void qg_multiply_scaled(const struct qg_args *a, const struct qg_factor &x,
                        const struct qg_factor &w, float *scratch);

/* --- rows ------------------------------------------------------------------------------------ */

static inline bool qg_takes_integers(const struct qg_args *a, char *text, size_t size)
{
    if (!a || a->cols < QG_MOST_INTEGERS)
        return true;
    snprintf(text, size, "sums of %zu products of int8 may leave int32", a->cols);
    return false;
}
static inline bool qg_takes_fp8(const struct qg_args *, char *text, size_t size)
{
    return qg_cublas_has_fp8(text, size);
}
static inline bool qg_takes_float_scales(const struct qg_args *, char *text, size_t size)
{
    return qg_cublas_has_float_scales(text, size);
}
static inline bool qg_takes_block_scales(const struct qg_args *, char *text, size_t size)
{
    return qg_cublas_has_block_scales(text, size);
}

#define QG_NARROW_FLOATS(s, word, f, p)                                                          \
    QG_CUBLAS_ROW(s, word, QG_WITHIN_BOUND, QG_FUSES | QG_REORDERS | QG_WIDENS, qg_narrow_depth, \
                  f, p)

#endif
