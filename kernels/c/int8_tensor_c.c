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
    const int8_t *codes = (const int8_t *)a->in[1].data + row * a->cols + at;
    for (size_t i = 0; i < n; i++)
        w[i] = codes[i];
}

static float scale_after(const struct qg_args *a, size_t row, float x_scale, float sum)
{
    (void)x_scale;
    return qg_round_as(a->dtype, sum) * qg_round_as(a->dtype, qg_get(&a->in[2], row));
}

static const struct qg_product row = {codes_as_they_are, qg_inputs_plain, scale_after};
QG_MATMUL(row)

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

/* a->work holds the planes of x: scales, codes, zero points. */
static void integer_matmul(const struct qg_args *a)
{
    enum qg_dtype t = a->dtype;
    float *scales = a->work;
    int8_t *x = (int8_t *)(scales + a->m), *zeros = x + a->m * a->cols;
    const int8_t *w = a->in[1].data;
    bool asymmetric = a->param[ACT_MAPPING] > 0;
    struct qg_args of_x = *a;
    of_x.rows = a->m;
    of_x.out[0] = (struct qg_tensor){.dtype = QG_I8, .data = x};
    of_x.out[1] = (struct qg_tensor){.dtype = QG_F32, .data = scales};
    of_x.out[2] = (struct qg_tensor){.dtype = QG_I8, .rank = 1, .shape = {a->m}, .data = zeros};
    convert_activation(&of_x);
    for (size_t n = 0; n < a->rows; n++) {
        float w_scale = qg_get(&a->in[2], n);
        float w_sum = asymmetric ? (float)total(a->cols, w + n * a->cols) : 0;
        for (size_t m = 0; m < a->m; m++) {
            int32_t sum = dot(a->cols, x + m * a->cols, w + n * a->cols);
            float y = qg_round_as(t, (float)sum * scales[m]);
            if (asymmetric)
                y = qg_round_as(t, y - qg_round_as(t, (float)zeros[m] * scales[m] * w_sum));
            qg_put(&a->out[0], m * a->rows + n, y * w_scale);
        }
    }
}

#define ROW(s, what, o, f)                                                            \
    {                                                                                 \
        .scheme = s, .backend = "c", .variant = "", .op = o, .operand = what, .fn = f \
    }

const struct qg_kernel qg_kernels_int8_tensor_c[] = {
    ROW("int8-row", QG_WEIGHT, QG_CONVERT, convert),
    ROW("int8-row", QG_WEIGHT, QG_DEQUANT, qg_codes_dequant_c),
    QG_MATMUL_ROWS("int8-row", row),
    ROW("int8-int8", QG_WEIGHT, QG_CONVERT, convert),
    ROW("int8-int8", QG_WEIGHT, QG_DEQUANT, qg_codes_dequant_c),
    ROW("int8-int8", QG_ACTIVATION, QG_CONVERT, convert_activation),
    ROW("int8-int8", QG_ACTIVATION, QG_DEQUANT, qg_codes_dequant_c),
    ROW("int8-int8", QG_WEIGHT, QG_MATMUL, integer_matmul),
    {.scheme = NULL},
};
