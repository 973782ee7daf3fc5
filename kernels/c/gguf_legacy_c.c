/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of q8_0, q4_0, q4_1, q5_0 and q5_1.
 */
#include "kernels/c/gguf_c.h"

static void one_factor(struct qg_gguf_numbers *n)
{
    n->factor[0] = n->factor[1] = n->min_factor[0] = n->min_factor[1] = 1;
}

static void encode_q8_0(const float *x, uint8_t *block)
{
    qg_put_f16(block, qg_gguf_c_codes_ref(x, block + 2), 0x7e00);
}

static void unpack_q8_0(const uint8_t *block, struct qg_gguf_numbers *n)
{
    one_factor(n);
    n->scale[0] = qg_get_f16(block);
    memcpy(n->level, block + 2, 32);
}

/* --- 4 and 5 bits: codes q[32] and their bytes ----------------------------------------------- */

static void pack(const uint8_t *restrict q, uint8_t *restrict nibbles, uint8_t *restrict high)
{
    for (size_t j = 0; j < 16; j++)
        nibbles[j] = (uint8_t)((q[j] & 15) | q[j + 16] << 4);
    for (size_t j = 0; high && j < 4; j++) {
        unsigned bits = 0;
        for (size_t i = 0; i < 8; i++)
            bits |= (q[8 * j + i] >> 4 & 1u) << i;
        high[j] = (uint8_t)bits;
    }
}

/* Levels are codes less `zero`. */
static void unpack(const uint8_t *restrict nibbles, const uint8_t *restrict high, int zero,
                   int8_t *restrict level)
{
    for (size_t j = 0; j < 16; j++) {
        level[j] = (int8_t)((nibbles[j] & 15) - zero);
        level[j + 16] = (int8_t)((nibbles[j] >> 4) - zero);
    }
    for (size_t i = 0; high && i < 32; i++)
        level[i] = (int8_t)(level[i] + (high[i / 8] >> i % 8 & 1) * 16);
}

/* x[i] * inverse + shift, as a byte no larger than `most`. */
static void quantize(const float *restrict x, float from, float inverse, float shift, unsigned most,
                     uint8_t *restrict q)
{
    for (size_t i = 0; i < 32; i++) {
        unsigned k = (unsigned)qg_whole((x[i] - from) * inverse + shift) & 255u;
        q[i] = (uint8_t)(k < most ? k : most);
    }
}

static void encode_around(const float *x, uint8_t *block, int half, uint8_t *nibbles, uint8_t *high)
{
    uint8_t q[32];
    float d = qg_extreme(x, 32) / (float)-half, inverse = d != 0 ? 1.0f / d : 0.0f;
    qg_put_f16(block, d, 0);
    quantize(x, 0.0f, inverse, (float)half + 0.5f, 2 * (unsigned)half - 1, q);
    pack(q, nibbles, high);
}

static void encode_above(const float *x, uint8_t *block, unsigned most, uint8_t *nibbles,
                         uint8_t *high)
{
    uint8_t q[32];
    float min = 0x1.fffffep127f, max = -min;
    for (size_t i = 0; i < 32; i++) {
        min = qg_pick_f32(x[i] < min, x[i], min);
        max = qg_pick_f32(x[i] > max, x[i], max);
    }
    float d = (max - min) / (float)most, inverse = d != 0 ? 1.0f / d : 0.0f;
    qg_put_f16(block, d, 0xfe00); // inf - inf
    qg_put_f16(block + 2, min, 0);
    quantize(x, min, inverse, 0.5f, most, q);
    pack(q, nibbles, high);
}

static void encode_q4_0(const float *x, uint8_t *block)
{
    encode_around(x, block, 8, block + 2, NULL);
}

static void encode_q5_0(const float *x, uint8_t *block)
{
    encode_around(x, block, 16, block + 6, block + 2);
}

static void encode_q4_1(const float *x, uint8_t *block)
{
    encode_above(x, block, 15, block + 4, NULL);
}

static void encode_q5_1(const float *x, uint8_t *block)
{
    encode_above(x, block, 31, block + 8, block + 4);
}

static void unpack_q4_0(const uint8_t *block, struct qg_gguf_numbers *n)
{
    one_factor(n);
    n->scale[0] = qg_get_f16(block);
    unpack(block + 2, NULL, 8, n->level);
}

static void unpack_q5_0(const uint8_t *block, struct qg_gguf_numbers *n)
{
    one_factor(n);
    n->scale[0] = qg_get_f16(block);
    unpack(block + 6, block + 2, 16, n->level);
}

static void unpack_q4_1(const uint8_t *block, struct qg_gguf_numbers *n)
{
    one_factor(n);
    n->scale[0] = qg_get_f16(block);
    n->min[0] = qg_get_f16(block + 2);
    unpack(block + 4, NULL, 0, n->level);
}

static void unpack_q5_1(const uint8_t *block, struct qg_gguf_numbers *n)
{
    one_factor(n);
    n->scale[0] = qg_get_f16(block);
    n->min[0] = qg_get_f16(block + 2);
    unpack(block + 8, block + 4, 0, n->level);
}

static const struct qg_gguf_kernel q8_0 = {32, 34, 32, false, unpack_q8_0, encode_q8_0};
static const struct qg_gguf_kernel q4_0 = {32, 18, 32, false, unpack_q4_0, encode_q4_0};
static const struct qg_gguf_kernel q4_1 = {32, 20, 32, true, unpack_q4_1, encode_q4_1};
static const struct qg_gguf_kernel q5_0 = {32, 22, 32, false, unpack_q5_0, encode_q5_0};
static const struct qg_gguf_kernel q5_1 = {32, 24, 32, true, unpack_q5_1, encode_q5_1};
QG_GGUF_C_FUNCTIONS(q8_0, qg_gguf_c_q8_0)
QG_GGUF_C_FUNCTIONS(q4_0, qg_gguf_c_q8_0)
QG_GGUF_C_FUNCTIONS(q4_1, qg_gguf_c_q8_1)
QG_GGUF_C_FUNCTIONS(q5_0, qg_gguf_c_q8_0)
QG_GGUF_C_FUNCTIONS(q5_1, qg_gguf_c_q8_1)

#define WITH_Q8_0(s, f)                   \
    QG_GGUF_C_ROWS(s, f, qg_gguf_c_q8_0), \
        QG_GGUF_C_ROW(s, QG_ACTIVATION, QG_DEQUANT, qg_gguf_c_q8_0_dequant)

const struct qg_kernel qg_kernels_gguf_legacy_c[] = {
    WITH_Q8_0("q8_0", q8_0),
    WITH_Q8_0("q4_0", q4_0),
    QG_GGUF_C_ROWS("q4_1", q4_1, qg_gguf_c_q8_1),
    WITH_Q8_0("q5_0", q5_0),
    QG_GGUF_C_ROWS("q5_1", q5_1, qg_gguf_c_q8_1),
    {.scheme = NULL},
};
