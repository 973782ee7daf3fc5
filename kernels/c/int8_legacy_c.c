/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of int8-int4-legacy and 8da4w: those of intx_c.c with other scales.
 */
#include "kernels/c/intx_c.h"
#include "kernels/c/matmul.h"
#include "kernels/kernel.h"

enum { GROUP, PREPARE_SCALE, EPS };

/* A kernel that is `function` with the codes of `of`. */
#define KERNEL(name, function, of)            \
    static void name(const struct qg_args *a) \
    {                                         \
        const struct qg_codes codes = of(a);  \
        function(a, &codes);                  \
    }

/* --- int8-int4-legacy ------------------------------------------------------------------------ */

static double default_eps(const struct qg_args *a)
{
    const double step[] = {[QG_F32] = 0x1p-23, [QG_BF16] = 0x1p-7, [QG_F16] = 0x1p-10};
    return a->param[EPS] > 0 ? 0 : step[a->dtype];
}

static struct qg_codes prepared(const struct qg_args *a)
{
    enum qg_dtype scale = a->param[PREPARE_SCALE] > 0 ? a->dtype : QG_F32;
    return (struct qg_codes){(size_t)a->param[GROUP], 4, default_eps(a), scale, 0};
}

static struct qg_codes converted(const struct qg_args *a)
{
    return (struct qg_codes){(size_t)a->param[GROUP], 4, default_eps(a), a->dtype, 0};
}

static struct qg_codes prepared_tokens(const struct qg_args *a)
{
    return (struct qg_codes){a->cols, 8, default_eps(a), QG_F32, -0x1p31f};
}

static struct qg_codes converted_tokens(const struct qg_args *a)
{
    return (struct qg_codes){a->cols, 8, 0x1p-23, QG_F32, 0};
}

KERNEL(fake_quant, qg_symmetric_fake_quant_c, prepared)
KERNEL(fake_quant_grad, qg_symmetric_grad_c, prepared)
KERNEL(convert, qg_symmetric_convert_c, converted)
KERNEL(token_fake_quant, qg_token_fake_quant_c, prepared_tokens)
KERNEL(token_grad, qg_token_grad_c, prepared_tokens)
KERNEL(token_convert, qg_token_convert_c, converted_tokens)

static void inputs(const struct qg_args *a, float *x, float *scales)
{
    (void)scales;
    struct qg_codes codes = converted_tokens(a);
    qg_token_inputs(a, &codes, x);
}

static const struct qg_product legacy = {qg_codes_weights, inputs, NULL};
QG_MATMUL(legacy)

/* --- 8da4w ----------------------------------------------------------------------------------- */

static struct qg_codes weights_8da4w(const struct qg_args *a)
{
    return (struct qg_codes){(size_t)a->param[GROUP], 4, 0, QG_F32, 0};
}

static struct qg_codes tokens_8da4w(const struct qg_args *a)
{
    return (struct qg_codes){a->cols, 8, 0x1p-23, QG_F32, NAN};
}

KERNEL(fake_quant_8da4w, qg_symmetric_fake_quant_c, weights_8da4w)
KERNEL(fake_quant_grad_8da4w, qg_symmetric_grad_c, weights_8da4w)
KERNEL(convert_8da4w, qg_symmetric_convert_c, weights_8da4w)
KERNEL(token_fake_quant_8da4w, qg_token_fake_quant_c, tokens_8da4w)
KERNEL(token_grad_8da4w, qg_token_grad_c, tokens_8da4w)
KERNEL(token_convert_8da4w, qg_token_convert_c, tokens_8da4w)

static void inputs_8da4w(const struct qg_args *a, float *x, float *scales)
{
    (void)scales;
    struct qg_codes codes = tokens_8da4w(a);
    qg_token_inputs(a, &codes, x);
}

static const struct qg_product all_f32 = {qg_codes_weights, inputs_8da4w, NULL};
QG_MATMUL(all_f32)

#define ROW(s, what, o, f)                                                            \
    {                                                                                 \
        .scheme = s, .backend = "c", .variant = "", .op = o, .operand = what, .fn = f \
    }

const struct qg_kernel qg_kernels_int8_legacy_c[] = {
    ROW("int8-int4-legacy", QG_WEIGHT, QG_FAKE_QUANT, fake_quant),
    ROW("int8-int4-legacy", QG_WEIGHT, QG_FAKE_QUANT_GRAD, fake_quant_grad),
    ROW("int8-int4-legacy", QG_WEIGHT, QG_CONVERT, convert),
    ROW("int8-int4-legacy", QG_WEIGHT, QG_DEQUANT, qg_codes_dequant_c),
    ROW("int8-int4-legacy", QG_ACTIVATION, QG_FAKE_QUANT, token_fake_quant),
    ROW("int8-int4-legacy", QG_ACTIVATION, QG_FAKE_QUANT_GRAD, token_grad),
    ROW("int8-int4-legacy", QG_ACTIVATION, QG_CONVERT, token_convert),
    ROW("int8-int4-legacy", QG_ACTIVATION, QG_DEQUANT, qg_codes_dequant_c),
    QG_MATMUL_ROWS("int8-int4-legacy", legacy),
    ROW("8da4w", QG_WEIGHT, QG_FAKE_QUANT, fake_quant_8da4w),
    ROW("8da4w", QG_WEIGHT, QG_FAKE_QUANT_GRAD, fake_quant_grad_8da4w),
    ROW("8da4w", QG_WEIGHT, QG_CONVERT, convert_8da4w),
    ROW("8da4w", QG_WEIGHT, QG_DEQUANT, qg_codes_dequant_c),
    ROW("8da4w", QG_ACTIVATION, QG_FAKE_QUANT, token_fake_quant_8da4w),
    ROW("8da4w", QG_ACTIVATION, QG_FAKE_QUANT_GRAD, token_grad_8da4w),
    ROW("8da4w", QG_ACTIVATION, QG_CONVERT, token_convert_8da4w),
    ROW("8da4w", QG_ACTIVATION, QG_DEQUANT, qg_codes_dequant_c),
    QG_MATMUL_ROWS("8da4w", all_f32),
    {.scheme = NULL},
};
