/* SPDX-License-Identifier: MIT
 *
 * mxfp4 as microxcaling has it, the library that came with the MX paper: an emulation, which rounds
 * tensors to the values of the format and keeps their dtype. What it does otherwise than torchao's
 * mxfp4 (mx.c), with every operation rounded to the tensor's dtype, R(.):
 *
 *     e = floor(R(log2 amax)) - 2      the OCP floor rule, by a logarithm that rounds: an amax just
 *                                      below a power of two gets the exponent of that power. In
 * bf16 255 is such an amax, and its block's scale is doubled u = R(x / 2^e), x' = 2^e sign(u)
 * min(6, half away(u))
 *
 * where half away rounds to the element's grid by floor(R(m + 1/2)) on the mantissa: ties go away
 * from zero, in torchao to the even code. Both are the library's defaults (round "nearest").
 *
 * The codes are those of E2M1 that stand for u rounded, two to a byte, the even element low; the
 * library itself packs nothing.
 *
 * Sources: mxc:mx/mx_ops.py _shared_exponents, _quantize_mx; mxc:mx/elemwise_ops.py
 * _quantize_elemwise_core, _round_mantissa (microsoft/microxcaling, commit 7bc41952).
 */
#include "schemes/dot.h"

enum { BLOCK = 32, NAN_BYTE = 255 };

/* floor(log2 x) of a positive x as a tensor of dtype t comes to it. */
static float floor_log2(enum qg_dtype t, float x)
{
    return floorf(qg_round(t, log2f(x)));
}

static float largest(const struct qg_tensor *x, size_t at)
{
    float amax = 0.0f;
    for (size_t i = at; i < at + BLOCK; i++)
        amax = qg_max(amax, qg_abs(qg_get(x, i)));
    return amax;
}

/* --- prepare --------------------------------------------------------------------------------- */

/* 2^e of the block at `at`; NaN for a block with NaN or inf. */
static float prepare_scale(const struct qg_tensor *x, size_t at)
{
    float amax = largest(x, at);
    float e = floor_log2(x->dtype, amax == 0.0f ? 0x1p-126f : amax) - 2.0f;
    if (!(e <= 127.0f))
        return NAN;
    return ldexpf(1.0f, e < -127.0f ? -127 : (int)e);
}

/* u rounded to 0, 0.5, 1, 1.5, 2, 3, 4, 6; -0 becomes +0, negatives that round to 0 become -0. */
static float prepare_element(enum qg_dtype t, float u)
{
    if (u == 0.0f || u != u)
        return u == 0.0f ? 0.0f : u;
    float e = floor_log2(t, qg_abs(u));
    int exponent = e > 0.0f ? (int)e : 0;
    float mantissa = ldexpf(qg_abs(u), 1 - exponent);
    float whole = floorf(qg_round(t, qg_add(mantissa, 0.5f)));
    return copysignf(qg_min(ldexpf(whole, exponent - 1), 6.0f), u);
}

static void fake_quant(const struct qg_args *a)
{
    const struct qg_tensor *x = &a->in[0], *y = &a->out[0];
    for (size_t at = 0; at < a->rows * a->cols; at += BLOCK) {
        float scale = prepare_scale(x, at);
        for (size_t i = at; i < at + BLOCK; i++) {
            float u = qg_round(x->dtype, qg_div(qg_get(x, i), scale));
            float v = prepare_element(x->dtype, u);
            qg_put(y, i, qg_mul(v, scale));
            qg_note(a, i, "scale", scale);
            qg_note(a, i, "x / scale", u);
            qg_note(a, i, "element", v);
            qg_note(a, i, "y", qg_get(y, i));
        }
    }
}

/* --- convert --------------------------------------------------------------------------------- */

/* The byte of the block's scale. */
static unsigned convert_scale(const struct qg_tensor *x, size_t at)
{
    float amax = largest(x, at);
    if (amax - amax != 0.0f)
        return NAN_BYTE;
    float byte = floor_log2(x->dtype, amax > 0.0f ? amax : 0x1p-126f) + 125.0f;
    return byte < 0.0f ? 0 : (unsigned)byte;
}

/* Magnitudes of E2M1 come in steps of 1/2 up to 2, of 1 up to 4, then 6: with `whole` half steps of
 * 2^exponent the code is whole + 2 exponent. */
static unsigned convert_element(enum qg_dtype t, float u)
{
    if (u == 0.0f || u != u)
        return 0;
    float e = floor_log2(t, qg_abs(u));
    unsigned exponent = e < 0.0f ? 0 : (unsigned)e;
    float half_steps = qg_abs(u) * 2.0f / (float)(1u << exponent);
    unsigned code = (unsigned)qg_round(t, qg_add(half_steps, 0.5f)) + 2 * exponent;
    return (code < 7 ? code : 7) | (u < 0.0f ? 8u : 0u);
}

static void convert(const struct qg_args *a)
{
    const struct qg_tensor *x = &a->in[0];
    uint8_t *codes = a->out[0].data, *scales = a->out[1].data;
    for (size_t at = 0; at < a->rows * a->cols; at += BLOCK) {
        unsigned byte = convert_scale(x, at);
        float scale = qg_e8m0_decode((qg_e8m0){(uint8_t)byte});
        scales[at / BLOCK] = (uint8_t)byte;
        for (size_t i = at; i < at + BLOCK; i++) {
            float u = qg_round(x->dtype, qg_div(qg_get(x, i), scale));
            unsigned code = convert_element(x->dtype, u);
            codes[i / 2] = (uint8_t)(i % 2 ? codes[i / 2] | code << 4 : code);
            qg_note(a, i, "scale", scale);
            qg_note(a, i, "x / scale", u);
            qg_note(a, i, "code", (float)code);
        }
    }
}

static float value_at(const struct qg_args *a, const struct qg_tensor *planes, size_t i)
{
    unsigned code = ((const uint8_t *)planes[0].data)[i / 2] >> (i % 2 * 4) & 15u;
    return qg_round(a->dtype, qg_mul(qg_e2m1_decode(code), qg_get(&planes[1], i / BLOCK)));
}

static void dequant(const struct qg_args *a)
{
    for (size_t i = 0; i < a->rows * a->cols; i++)
        qg_put(&a->out[0], i, value_at(a, a->in, i));
}

/* The library multiplies the rounded tensors by an ordinary matmul. */
static void matmul(const struct qg_args *a)
{
    for (size_t n = 0; n < a->rows; n++) {
        for (size_t k = 0; k < a->cols; k++)
            a->work[k] = value_at(a, a->in + 1, n * a->cols + k);
        qg_matmul_row(a, n, a->work);
    }
}

/* --- the table ------------------------------------------------------------------------------- */

static size_t group(const struct qg_args *a)
{
    (void)a;
    return BLOCK;
}

static const char *refuse(const struct qg_args *a)
{
    return a->cols % BLOCK == 0 ? NULL
                                : "blocks of 32 do not divide K; upstream pads the last block with "
                                  "zeros: pad K to a multiple of 32";
}

static const struct qg_param params[] = {{NULL}};

static const struct qg_plane planes[] = {
    {"codes", QG_U8, 0, {&qg_ext_rows, &qg_ext_nibble}, "E2M1, even element low"},
    {"scales", QG_E8M0, 0, {&qg_ext_rows, &qg_ext_groups}, "row-major"},
    {NULL},
};

const struct qg_scheme qg_schemes_microxcaling[] = {
    {.name = "mxfp4-mxc",
     .summary = "MXFP4 as microxcaling emulates it: floor by log2, ties away from zero",
     .upstream = "mxc:mx/mx_ops.py _quantize_mx; mxc:mx/elemwise_ops.py _quantize_elemwise_core",
     .nonfinite =
         "NaN or inf in a block: the scale is NaN (byte 255), prepared values NaN, codes 0. "
         "All-zero block: byte 0, codes 0.",
     .params = params,
     .dtypes = 1 << QG_F32 | 1 << QG_BF16,
     .operand[QG_WEIGHT] = {fake_quant, NULL, convert, dequant, group, planes, 4},
     .matmul = matmul,
     .refuse = refuse},
    {NULL},
};
