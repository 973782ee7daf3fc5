/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of mxfp4-ggml and nvfp4-ggml.
 */
#include "kernels/c/gguf_c.h"

static const int8_t doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* Codes of n elements: of magnitudes 0..7 the first that is nearest to |x|, and the sign unless
 * that is 0, because a negative x is nearer to 0 than to any positive number. */
static void nearest_codes(const float *restrict x, size_t n, float half_scale, uint8_t *restrict q)
{
    for (size_t i = 0; i < n; i++) {
        float m = qg_abs(x[i]), least = m;
        uint32_t best = 0;
        for (uint32_t c = 1; c < 8; c++) {
            float error = qg_abs((float)doubled[c] * half_scale - m);
            best = qg_pick(error < least, c, best);
            least = qg_pick_f32(error < least, error, least);
        }
        q[i] = (uint8_t)(best | (qg_pick(best > 0, qg_sign(x[i]), 0) >> 28));
    }
}

static float amax_without_nan(const float *x, size_t n)
{
    return qg_abs(qg_extreme(x, n));
}

/* Half the elements low, the others high. */
static void pack(const uint8_t *restrict q, size_t half, uint8_t *restrict bytes)
{
    for (size_t j = 0; j < half; j++)
        bytes[j] = (uint8_t)(q[j] | q[j + half] << 4);
}

static void unpack(const uint8_t *restrict bytes, size_t half, int8_t *restrict level)
{
    for (size_t j = 0; j < half; j++) {
        level[j] = doubled[bytes[j] & 15];
        level[j + half] = doubled[bytes[j] >> 4];
    }
}

/* --- mxfp4 ----------------------------------------------------------------------------------- */

/* floor of log2(x), x > 0 finite, as it is after the logarithm was rounded to binary32: one more
 * where x lies so little below 2^n that log2(x) rounds to n. That is when 2^n - x, relative to 2^n,
 * is below half a step of binary32 below n, times ln 2. */
static int32_t floor_log2(float x)
{
    int e;
    double m = frexp((double)x, &e); // x = m 2^e, 1/2 <= m < 1: the floor is e - 1, or e
    if (e == 0)
        return -1; // numbers next to 0 have steps enough
    double n = e, step = ldexp(1.0, ilogb(fabs(n)) - 23);
    if (n > 0 && fabs(n) == ldexp(1.0, ilogb(n))) // below a power of two, steps are half as wide
        step /= 2;
    return (1 - m) * 1.4426950408889634 * (1 + (1 - m) / 2) <= step / 2 ? e : e - 1;
}

static float half_power(unsigned e)
{
    return qg_f32_from_bits(e < 2 ? 0x200000u << e : (e - 1) << 23);
}

static void encode_mxfp4(const float *x, uint8_t *block)
{
    uint8_t q[32];
    float amax = amax_without_nan(x, 32);
    bool positive = amax > 0 && amax <= 0x1.fffffep127f;
    block[0] = positive ? (uint8_t)(floor_log2(amax) + 125) : 0;
    nearest_codes(x, 32, half_power(block[0]), q);
    pack(q, 16, block + 1);
}

static void unpack_mxfp4(const uint8_t *block, struct qg_gguf_numbers *n)
{
    n->factor[0] = n->factor[1] = 1;
    n->scale[0] = half_power(block[0]);
    unpack(block + 1, 16, n->level);
}

/* --- nvfp4 ----------------------------------------------------------------------------------- */

/* Bytes of the rounding that ggml gives an unsigned e4m3, by the places where they change. */
static uint8_t ue4m3_byte(float x)
{
    if (x >= 248.0f)
        return 0x7e;
    if (x < 0x1p-6f) {
        int32_t m = qg_whole(x * 512.0f + 0.5f);
        return (uint8_t)(m > 7 ? 7 : m);
    }
    int e;
    float m = frexpf(x, &e) * 16.0f; // 8 <= m < 16
    int32_t steps = qg_whole(m + 0.5f);
    return (uint8_t)(8 * (e + 5) + steps);
}

static float ue4m3_half(uint8_t u)
{
    float m = (float)(u & 7), normal = ldexpf(m + 8.0f, (u >> 3 & 15) - 11);
    float v = u >> 3 & 15 ? normal : m * 0x1p-10f;
    return u == 0x7f ? 0.0f : v;
}

static void encode_nvfp4(const float *x, uint8_t *block)
{
    uint8_t q[16];
    for (size_t p = 0; p < 4; p++) {
        block[p] = ue4m3_byte(amax_without_nan(x + 16 * p, 16) / 6.0f);
        nearest_codes(x + 16 * p, 16, ue4m3_half(block[p]), q);
        pack(q, 8, block + 4 + 8 * p);
    }
}

static void unpack_nvfp4(const uint8_t *block, struct qg_gguf_numbers *n)
{
    for (size_t p = 0; p < 4; p++) {
        n->factor[p] = 1;
        n->scale[p] = ue4m3_half(block[p]);
        unpack(block + 4 + 8 * p, 8, n->level + 16 * p);
    }
}

static const struct qg_gguf_kernel mxfp4 = {32, 17, 32, false, unpack_mxfp4, encode_mxfp4};
static const struct qg_gguf_kernel nvfp4 = {64, 36, 16, false, unpack_nvfp4, encode_nvfp4};
QG_GGUF_C_FUNCTIONS(mxfp4, qg_gguf_c_q8_0)
QG_GGUF_C_FUNCTIONS(nvfp4, qg_gguf_c_q8_0)

const struct qg_kernel qg_kernels_gguf_fp4_c[] = {
    QG_GGUF_C_ROWS("mxfp4-ggml", mxfp4, qg_gguf_c_q8_0),
    QG_GGUF_C_ROW("mxfp4-ggml", QG_ACTIVATION, QG_DEQUANT, qg_gguf_c_q8_0_dequant),
    QG_GGUF_C_ROWS("nvfp4-ggml", nvfp4, qg_gguf_c_q8_0),
    QG_GGUF_C_ROW("nvfp4-ggml", QG_ACTIVATION, QG_DEQUANT, qg_gguf_c_q8_0_dequant),
    {.scheme = NULL},
};
