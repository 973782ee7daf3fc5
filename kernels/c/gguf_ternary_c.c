/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of tq1_0 and tq2_0.
 */
#include "kernels/c/gguf_c.h"

/* Elements as bytes 0, 1, 2, and d. */
static float trits(const float *restrict x, uint8_t *restrict t)
{
    float d = qg_amax_behind_nan(x, 256), inverse = d != 0 ? 1.0f / d : 0.0f;
    for (size_t i = 0; i < 256; i++)
        t[i] = (uint8_t)((uint32_t)qg_whole_away(x[i] * inverse) + 1u);
    return d;
}

static void one_factor(struct qg_gguf_numbers *n, float d)
{
    for (size_t i = 0; i < 16; i++)
        n->factor[i] = 1;
    n->scale[0] = d;
}

/* --- tq2_0: four rows of 32 elements to 32 bytes --------------------------------------------- */

static void encode_tq2_0(const float *x, uint8_t *block)
{
    uint8_t t[256];
    qg_put_f16(block + 64, trits(x, t), 0x7e00);
    for (size_t half = 0; half < 2; half++) {
        const uint8_t *row = t + 128 * half;
        for (size_t m = 0; m < 32; m++)
            block[32 * half + m] = (uint8_t)((row[m] & 3) | (row[32 + m] & 3) << 2 |
                                             (row[64 + m] & 3) << 4 | (row[96 + m] & 3) << 6);
    }
}

static void unpack_tq2_0(const uint8_t *block, struct qg_gguf_numbers *n)
{
    one_factor(n, qg_get_f16(block + 64));
    for (size_t half = 0; half < 2; half++)
        for (size_t row = 0; row < 4; row++)
            for (size_t m = 0; m < 32; m++)
                n->level[128 * half + 32 * row + m] =
                    (int8_t)((block[32 * half + m] >> 2 * row & 3) - 1);
}

/* --- tq1_0: `rows` rows of `width` elements to `width` bytes --------------------------------- */

static void pack(const uint8_t *restrict t, size_t width, size_t rows, uint8_t *restrict bytes)
{
    for (size_t m = 0; m < width; m++) {
        unsigned v = 0;
        for (size_t row = 0; row < 5; row++)
            v = (3 * v + (row < rows ? t[row * width + m] : 0)) & 255u;
        bytes[m] = (uint8_t)((256 * v + 242) / 243);
    }
}

static void unpack(const uint8_t *restrict bytes, size_t width, size_t rows, int8_t *restrict level)
{
    for (size_t m = 0; m < width; m++) {
        unsigned rest = bytes[m]; // the trits that are left, as a fraction of 256
        for (size_t row = 0; row < rows; row++) {
            level[row * width + m] = (int8_t)((int)(3 * rest >> 8) - 1);
            rest = 3 * rest & 255u;
        }
    }
}

static void encode_tq1_0(const float *x, uint8_t *block)
{
    uint8_t t[256];
    qg_put_f16(block + 52, trits(x, t), 0x7e00);
    pack(t, 32, 5, block);
    pack(t + 160, 16, 5, block + 32);
    pack(t + 240, 4, 4, block + 48);
}

static void unpack_tq1_0(const uint8_t *block, struct qg_gguf_numbers *n)
{
    one_factor(n, qg_get_f16(block + 52));
    unpack(block, 32, 5, n->level);
    unpack(block + 32, 16, 5, n->level + 160);
    unpack(block + 48, 4, 4, n->level + 240);
}

static const struct qg_gguf_kernel tq1_0 = {256, 54, 256, false, unpack_tq1_0, encode_tq1_0};
static const struct qg_gguf_kernel tq2_0 = {256, 66, 256, false, unpack_tq2_0, encode_tq2_0};
QG_GGUF_C_FUNCTIONS(tq1_0, qg_gguf_c_q8_K)
QG_GGUF_C_FUNCTIONS(tq2_0, qg_gguf_c_q8_K)

const struct qg_kernel qg_kernels_gguf_ternary_c[] = {
    QG_GGUF_C_ROWS("tq1_0", tq1_0, qg_gguf_c_q8_K),
    QG_GGUF_C_ROW("tq1_0", QG_ACTIVATION, QG_DEQUANT, qg_gguf_c_q8_K_dequant),
    QG_GGUF_C_ROWS("tq2_0", tq2_0, qg_gguf_c_q8_K),
    QG_GGUF_C_ROW("tq2_0", QG_ACTIVATION, QG_DEQUANT, qg_gguf_c_q8_K_dequant),
    {.scheme = NULL},
};
