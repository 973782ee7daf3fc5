/* SPDX-License-Identifier: MIT
 *
 * ggml's two 4-bit floating-point formats. Elements are e2m1 (0 .5 1 1.5 2 3 4 6 and a sign), kept
 * as twice their value k, so scales are half of what they are called:
 *
 *     mxfp4   e, an e8m0 byte for 32 elements; 16 bytes       w = k 2^(e - 128)
 *     nvfp4   4 ue4m3 bytes, one for 16 elements each;        w = k (u / 2)
 *             4 x 8 bytes
 *
 * Byte j holds element j in its low nibble and in its high one element j + 16 (mxfp4) or j + 8 of
 * the same 16 (nvfp4). A code is the first of 0..15 whose value comes closest to x in binary32, so
 * halfway values go to the smaller magnitude, not to the even code, and code 8, the negative zero,
 * is never written.
 *
 *     mxfp4   e = floor(log2(amax)) - 2 + 127. The logarithm is rounded to binary32 first: numbers
 *             just below 2^n count as 2^n for most n. Values up to 8 2^(e-127) become 6 2^(e-127).
 *     nvfp4   u = ue4m3(amax / 6), and the codes are those of u as it is stored. No scale of the
 *             whole tensor: below 6 2^-10 a part of 16 is 0, and above 6 448 it is cut off.
 *
 * ue4m3 is an unsigned e4m3 with a rounding of its own: normal numbers round half up by the first
 * bit that is dropped; below 2^-6 to a multiple of 2^-9, half up, at most 7 of them; and whatever
 * comes to 256 or above is 448, so that bytes 0x78..0x7d never occur.
 *
 * There is no prepare path upstream.
 *
 * Sources: ggml:src/ggml-quants.c quantize_row_{mxfp4,nvfp4}_ref, dequantize_row_{mxfp4,nvfp4},
 * best_index_mxfp4; ggml:src/ggml-impl.h ggml_e8m0_to_fp32_half, ggml_fp32_to_ue4m3,
 * ggml_ue4m3_to_fp32; ggml:src/ggml-cpu/quants.c ggml_vec_dot_{mxfp4,nvfp4}_q8_0_generic.
 */
#include "schemes/gguf.h"

/* --- elements -------------------------------------------------------------------------------- */

/* Twice the values of e2m1. */
static const int8_t twice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* The first code that comes closest to x; 0 when all are as far, or x is NaN. */
static unsigned nearest_code(float x, float half_scale)
{
    unsigned best = 0;
    float least = qg_abs(qg_sub(qg_mul(twice[0], half_scale), x));
    for (unsigned q = 1; q < 16; q++) {
        float error = qg_abs(qg_sub(qg_mul(twice[q], half_scale), x));
        if (error < least) {
            least = error;
            best = q;
        }
    }
    return best;
}

/* The largest magnitude; NaN is passed over. */
static float amax_of(const float *x, size_t n)
{
    return qg_abs(qg_gguf_extreme(x, n));
}

/* A sum of products of codes with int8 codes x. */
static void dot_part(struct qg_gguf_sum *s, const uint8_t *w,
                     unsigned (*code)(const uint8_t *, size_t), size_t at, size_t n,
                     float half_scale, const uint8_t *x, float x_scale)
{
    int32_t isum = 0, magnitude = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t product = twice[code(w, at + i)] * (int8_t)x[i];
        isum += product;
        magnitude += product < 0 ? -product : product;
    }
    qg_gguf_term(s, half_scale, x_scale, isum, magnitude);
}

/* --- mxfp4 ----------------------------------------------------------------------------------- */

/* 2^(e - 128), subnormal for e = 0 and 1. 255 is 2^127 here, and no NaN. */
static float half_e8m0(uint8_t e)
{
    return ldexpf(1.0f, e - 128);
}

/* A byte of an integer below 0 (amax < 2^-125) is what x86 makes of upstream's cast, which is
 * undefined; so is the 0 of inf. */
static uint8_t exponent_of(float amax)
{
    if (!(amax > 0))
        return 0;
    float power = floorf((float)log2((double)amax));
    return (uint8_t)qg_gguf_int(power - 2.0f + 127.0f);
}

static unsigned code_mxfp4(const uint8_t *block, size_t i)
{
    return (unsigned)block[1 + i % 16] >> (i / 16 * 4) & 15u;
}

static float scale_mxfp4(const uint8_t *block, size_t i)
{
    (void)i;
    return half_e8m0(block[0]);
}

static float value_mxfp4(const uint8_t *block, size_t i)
{
    return qg_mul(twice[code_mxfp4(block, i)], half_e8m0(block[0]));
}

static void encode_mxfp4(const struct qg_args *a, size_t at, const float *x, uint8_t *block)
{
    memset(block, 0, 17);
    block[0] = exponent_of(amax_of(x, 32));
    for (size_t i = 0; i < 32; i++) {
        unsigned q = nearest_code(x[i], half_e8m0(block[0]));
        block[1 + i % 16] |= (uint8_t)(q << (i / 16 * 4));
        qg_note(a, at + i, "e", block[0]);
        qg_note(a, at + i, "half of the scale", half_e8m0(block[0]));
        qg_note(a, at + i, "twice the element", twice[q]);
        qg_note(a, at + i, "code", (float)q);
    }
}

static void dot_mxfp4(const uint8_t *w, const uint8_t *x, struct qg_gguf_sum *s)
{
    dot_part(s, w, code_mxfp4, 0, 32, half_e8m0(w[0]), x + 2, qg_gguf_half(x));
}

/* --- nvfp4 ----------------------------------------------------------------------------------- */

static uint8_t ue4m3_of(float x)
{
    if (!(x > 0))
        return 0;
    if (x < 0x1p-6f) {
        int32_t m = qg_gguf_int(qg_add(qg_mul(x, 512.0f), 0.5f));
        return (uint8_t)(m < 7 ? m : 7);
    }
    // Exponent and three bits of the mantissa; the fourth rounds up. 2^-6 is byte 8.
    uint32_t u = qg_f32_bits(x), byte = (u >> 20) + (u >> 19 & 1u) - (121u << 3) + 8u;
    return (uint8_t)(byte < 0x78 ? byte : 0x7e);
}

/* Half of what the byte stands for; its highest bit does not count. */
static float half_ue4m3(uint8_t u)
{
    if (u == 0 || u == 0x7f)
        return 0.0f;
    return 0.5f * qg_minifloat_value(u & 0x7fu, 3, 7);
}

static unsigned code_nvfp4(const uint8_t *block, size_t i)
{
    return (unsigned)block[4 + i / 16 * 8 + i % 8] >> (i % 16 / 8 * 4) & 15u;
}

static float scale_nvfp4(const uint8_t *block, size_t i)
{
    return half_ue4m3(block[i / 16]);
}

static float value_nvfp4(const uint8_t *block, size_t i)
{
    return qg_mul(twice[code_nvfp4(block, i)], scale_nvfp4(block, i));
}

static void encode_nvfp4(const struct qg_args *a, size_t at, const float *x, uint8_t *block)
{
    memset(block, 0, 36);
    for (size_t i = 0; i < 64; i++) {
        float wanted = qg_div(amax_of(x + i / 16 * 16, 16), 6.0f);
        block[i / 16] = ue4m3_of(wanted);
        unsigned q = nearest_code(x[i], half_ue4m3(block[i / 16]));
        block[4 + i / 16 * 8 + i % 8] |= (uint8_t)(q << (i % 16 / 8 * 4));
        qg_note(a, at + i, "amax / 6", wanted);
        qg_note(a, at + i, "half of the scale", half_ue4m3(block[i / 16]));
        qg_note(a, at + i, "twice the element", twice[q]);
        qg_note(a, at + i, "code", (float)q);
    }
}

/* Two blocks of q8_0 for one of these. */
static void dot_nvfp4(const uint8_t *w, const uint8_t *x, struct qg_gguf_sum *s)
{
    for (size_t part = 0; part < 4; part++) {
        const uint8_t *block = x + part / 2 * 34;
        dot_part(s, w, code_nvfp4, 16 * part, 16, half_ue4m3(w[part]), block + 2 + part % 2 * 16,
                 qg_gguf_half(block));
    }
}

/* --- the table ------------------------------------------------------------------------------- */

static const struct qg_gguf mxfp4 = {32,         17,          encode_mxfp4, value_mxfp4,
                                     code_mxfp4, scale_mxfp4, &qg_q8_0,     dot_mxfp4};
static const struct qg_gguf nvfp4 = {64,         36,          encode_nvfp4, value_nvfp4,
                                     code_nvfp4, scale_nvfp4, &qg_q8_0,     dot_nvfp4};
QG_GGUF_WEIGHT(mxfp4, "K/32*17", "blocks of 32: e e8m0; 16 bytes of e2m1, element j low, j+16 high")
QG_GGUF_WEIGHT(nvfp4, "K/64*36",
               "blocks of 64: 4 ue4m3; 4 x 8 bytes of e2m1, element j low and j+8 high")

/* Far above the largest scale every code is as far away as 0, in binary32. */
static const char *nvfp4_saturated(const struct qg_args *a)
{
    const uint8_t *blocks = a->op == QG_CONVERT ? a->out[0].data : a->in[a->op == QG_MATMUL].data;
    for (size_t i = 0; i < a->rows * a->cols; i += 16)
        if (a->operand == QG_ACTIVATION || blocks[i / 64 * 36 + i % 64 / 16] != 0x7e)
            return nvfp4_uniform(a);
    return "every scale is 448, the largest; values above 2^24 times that become 0";
}

const struct qg_scheme qg_schemes_gguf_fp4[] = {
    {.name = "mxfp4-ggml",
     .summary = "GGUF MXFP4: e2m1 in blocks of 32 with power-of-two scales, ggml's rounding",
     .upstream = "ggml:src/ggml-quants.c quantize_row_mxfp4_ref, dequantize_row_mxfp4; "
                 "ggml:src/ggml-cpu/quants.c ggml_vec_dot_mxfp4_q8_0_generic",
     .nonfinite = "NaN: code 0, the others as if it were not there. inf: e = 0 and all codes 0, as "
                  "x86 casts it; likewise a byte of a negative exponent for amax < 2^-125, whose "
                  "values become 0. All-zero block: all bytes 0." QG_GGUF_ACT_NONFINITE,
     .params = qg_gguf_params,
     .variants = qg_gguf_variants,
     // All but -0.
     .operand = {[QG_WEIGHT] = QG_GGUF_OPERAND(mxfp4, mxfp4_dequant, 4, 15),
                 [QG_ACTIVATION] = QG_GGUF_Q8_0},
     .matmul = mxfp4_matmul,
     .refuse = qg_gguf_refuse,
     .uniform = mxfp4_uniform},
    {.name = "nvfp4-ggml",
     .summary = "GGUF NVFP4: e2m1 with unsigned e4m3 scales per 16, no scale of the tensor",
     .upstream = "ggml:src/ggml-quants.c quantize_row_nvfp4_ref, dequantize_row_nvfp4; "
                 "ggml:src/ggml-cpu/quants.c ggml_vec_dot_nvfp4_q8_0_generic",
     .nonfinite = "NaN: code 0, the others as if it were not there. inf: scale 448, its part's "
                  "codes as near as that goes, the inf itself 0. All-zero block: all bytes 0." //
     QG_GGUF_ACT_NONFINITE,
     .params = qg_gguf_params,
     .variants = qg_gguf_variants,
     .operand = {[QG_WEIGHT] = QG_GGUF_OPERAND(nvfp4, nvfp4_dequant, 4, 15),
                 [QG_ACTIVATION] = QG_GGUF_Q8_0},
     .matmul = nvfp4_matmul,
     .refuse = qg_gguf_refuse,
     .uniform = nvfp4_saturated},
    {NULL},
};
