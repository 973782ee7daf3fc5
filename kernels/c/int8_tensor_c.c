/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of int8-row and int8-int8. The latter's products of codes are summed in int32.
 */
#include "kernels/c/intx_c.h"
#include "kernels/c/matmul.h"
#include "kernels/c/rows.h"
#include "kernels/kernel.h"

enum { ACT_MAPPING, REDUCE_RANGE };

static struct qg_codes codes_of(const struct qg_args *a)
{
    int bits = qg_param_find(a->scheme, "reduce-range") && a->param[REDUCE_RANGE] > 0 ? 7 : 8;
    return (struct qg_codes){a->cols, bits, 0x1p-23, QG_F32, 0};
}

static void convert(const struct qg_args *a)
{
    struct qg_codes codes = codes_of(a);
    qg_symmetric_convert_c(a, &codes);
}

static void convert_activation(const struct qg_args *a)
{
    struct qg_codes codes = codes_of(a);
    if (a->param[ACT_MAPPING] > 0)
        qg_token_convert_c(a, &codes);
    else
        qg_symmetric_convert_c(a, &codes);
}

/* --- int8-row -------------------------------------------------------------------------------- */

static void codes_as_they_are(const struct qg_args *a, size_t row, size_t at, size_t n, float *w)
{
    qg_codes_as_floats(n, (const int8_t *)a->in[1].data + row * a->cols + at, w);
}

QG_INLINE void multiply_rounded(enum qg_dtype t, size_t n, const float *restrict scale,
                                float *restrict sum)
{
    for (size_t i = 0; i < n; i++)
        sum[i] = qg_round_as(t, sum[i]) * qg_round_as(t, scale[i]);
}

static void scale_after(const struct qg_args *a, size_t row, size_t n, float x_scale, float *sum)
{
    const float *scales = (const float *)a->in[2].data + row;
    (void)x_scale;
    QG_FOR_DTYPE(T, a->dtype, multiply_rounded(T, n, scales, sum));
}

static const struct qg_product row = {codes_as_they_are, qg_inputs_plain, scale_after};
QG_MATMUL(row)
QG_LORA(row)

/* --- int8-int8 ------------------------------------------------------------------------------- */

/* Sums that wrap as int32 does. */
static int32_t dot(size_t n, const int8_t *restrict x, const int8_t *restrict w)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (uint32_t)(x[i] * w[i]);
    return (int32_t)sum;
}

static int32_t total(size_t n, const int8_t *restrict w)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (uint32_t)(int32_t)w[i];
    return (int32_t)sum;
}

/* y[.,n] of an integer sum; z: zero point of x's row, w_sum: of all codes of w's, or both 0. */
static float finish(const struct qg_args *a, size_t n, int32_t sum, float scale, float z,
                    float w_sum)
{
    enum qg_dtype t = a->dtype;
    float y = qg_round_as(t, (float)sum * scale);
    if (a->param[ACT_MAPPING] > 0)
        y = qg_round_as(t, y - qg_round_as(t, z * scale * w_sum));
    return y * qg_get(&a->in[2], n);
}

static float w_sum_of(const struct qg_args *a, size_t n)
{
    bool wanted = a->param[ACT_MAPPING] > 0;
    return wanted ? (float)total(a->cols, (const int8_t *)a->in[1].data + n * a->cols) : 0;
}

/* Rows m .. m+rows of x as codes, scales and zero points. */
static void quantize(const struct qg_args *a, size_t m, size_t rows, int8_t *codes, float *scales,
                     int8_t *zeros)
{
    struct qg_args of_x = *a;
    of_x.rows = rows;
    of_x.in[0].data = (char *)of_x.in[0].data + m * a->cols * qg_dtype_bytes(a->dtype);
    of_x.out[0] = (struct qg_tensor){.dtype = QG_I8, .data = codes};
    of_x.out[1] = (struct qg_tensor){.dtype = QG_F32, .data = scales};
    of_x.out[2] = (struct qg_tensor){.dtype = QG_I8, .rank = 1, .shape = {rows}, .data = zeros};
    convert_activation(&of_x);
}

/* a->work holds the planes of x: scales, codes, zero points. */
static void integer_matmul(const struct qg_args *a)
{
    float *scales = a->work;
    int8_t *x = (int8_t *)(scales + a->m), *zeros = x + a->m * a->cols;
    const int8_t *w = a->in[1].data;
    quantize(a, 0, a->m, x, scales, zeros);
    for (size_t n = 0; n < a->rows; n++) {
        float w_sum = w_sum_of(a, n);
        for (size_t m = 0; m < a->m; m++) {
            int32_t sum = dot(a->cols, x + m * a->cols, w + n * a->cols);
            qg_put(&a->out[0], m * a->rows + n, finish(a, n, sum, scales[m], zeros[m], w_sum));
        }
    }
}

/* What belongs to the rows of x and of w. */
struct of_rows {
    float *scales, *zeros, *w_sums;
};

static void take_sums(const struct qg_args *a, size_t m, size_t n, size_t count, const int64_t *sum,
                      const void *user)
{
    const struct of_rows *r = user;
    for (size_t i = 0; i < count; i++) {
        int32_t wrapped = (int32_t)(uint32_t)sum[i];
        float y = finish(a, n + i, wrapped, r->scales[m], r->zeros[m], r->w_sums[n + i]);
        qg_put(&a->out[0], m * a->rows + n + i, y);
    }
}

/* a->work: codes of x and of w as floats, what belongs to rows, codes of one row. */
static void integer_matmul_blas(const struct qg_args *a)
{
    size_t m = a->m, n = a->rows, k = a->cols;
    float *x = a->work, *w = x + m * k, *rest = w + n * k;
    struct of_rows r = {rest, rest + m, rest + 2 * m};
    int8_t *codes = (int8_t *)(r.w_sums + n), zero = 0;
    for (size_t i = 0; i < m; i++) {
        quantize(a, i, 1, codes, &r.scales[i], &zero);
        r.zeros[i] = zero;
        qg_codes_as_floats(k, codes, x + i * k);
    }
    qg_codes_as_floats(n * k, a->in[1].data, w);
    for (size_t i = 0; i < n; i++)
        r.w_sums[i] = w_sum_of(a, i);
    qg_multiply_integers(a, x, w, take_sums, &r);
}

#define ROW(s, what, o, f)                                                            \
    {                                                                                 \
        .scheme = s, .backend = "c", .variant = "", .op = o, .operand = what, .fn = f \
    }

const struct qg_kernel qg_kernels_int8_tensor_c[] = {
    ROW("int8-row", QG_WEIGHT, QG_CONVERT, convert),
    ROW("int8-row", QG_WEIGHT, QG_DEQUANT, qg_codes_dequant_c),
    QG_MATMUL_ROWS("int8-row", row),
    QG_LORA_ROWS("int8-row", row),
    ROW("int8-int8", QG_WEIGHT, QG_CONVERT, convert),
    ROW("int8-int8", QG_WEIGHT, QG_DEQUANT, qg_codes_dequant_c),
    ROW("int8-int8", QG_ACTIVATION, QG_CONVERT, convert_activation),
    ROW("int8-int8", QG_ACTIVATION, QG_DEQUANT, qg_codes_dequant_c),
    ROW("int8-int8", QG_WEIGHT, QG_MATMUL, integer_matmul),
    {.scheme = "int8-int8",
     .backend = "blas",
     .variant = "",
     .op = QG_MATMUL,
     .operand = QG_WEIGHT,
     .fn = integer_matmul_blas},
    {.scheme = NULL},
};
