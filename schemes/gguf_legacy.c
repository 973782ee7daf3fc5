/* SPDX-License-Identifier: MIT
 *
 * ggml's first weight formats: blocks of 32 elements. Codes come from the unrounded d (and min),
 * which are then stored in binary16.
 *
 *     q8_0   d fp16, 32 int8          d = amax/127           q = round(x (1/d)), halves away
 *     q4_0   d fp16, 16 bytes         d = v/-8               q = min(15, trunc(x (1/d) + 8.5))
 *     q5_0   d fp16, high, 16 bytes   d = v/-16              q = min(31, trunc(x (1/d) + 16.5))
 *     q4_1   d, m fp16, 16 bytes      d = (max - min)/15     q = min(15, trunc((x-min)(1/d) + .5))
 *     q5_1   d, m, high, 16 bytes     d = (max - min)/31     q = trunc((x - min)(1/d) + 0.5)
 *
 * v is the element of largest magnitude, the first of those, with its sign: it becomes code 0, so d
 * has the opposite sign and the other side has one level less.
 *
 *     w = q d  |  (q - 8) d  |  (q - 16) d  |  q d + m
 *
 * Byte j (0..15) holds element j in its low nibble and element j + 16 in its high one. The fifth
 * bit of element i is bit i of `high`, 32 bits, little-endian.
 *
 * There is no prepare path upstream. The quantizers are those without an importance matrix.
 *
 * Sources: ggml:src/ggml-quants.c quantize_row_q*_ref, dequantize_row_q*;
 * ggml:src/ggml-cpu/quants.c ggml_vec_dot_*_generic for the products.
 */
#include "schemes/gguf.h"

static float half_scale(const uint8_t *block, size_t i)
{
    (void)i;
    return qg_gguf_half(block);
}

/* Sums of products of codes with the int8 codes x, and of their magnitudes. */
struct isum {
    int32_t sum, magnitude;
};

static void isum_add(struct isum *s, int32_t w, uint8_t x)
{
    int32_t product = w * (int8_t)x;
    s->sum += product;
    s->magnitude += product < 0 ? -product : product;
}

/* --- q8_0 ------------------------------------------------------------------------------------ */

static unsigned code_q8_0(const uint8_t *block, size_t i)
{
    return block[2 + i];
}

static float value_q8_0(const uint8_t *block, size_t i)
{
    return qg_mul((int8_t)block[2 + i], qg_gguf_half(block));
}

static void dot_q8_0(const uint8_t *w, const uint8_t *x, struct qg_gguf_sum *s)
{
    struct isum isum = {0};
    for (size_t i = 0; i < 32; i++)
        isum_add(&isum, (int8_t)w[2 + i], x[2 + i]);
    qg_gguf_term(s, qg_gguf_half(w), qg_gguf_half(x), isum.sum, isum.magnitude);
}

/* --- 4 and 5 bits ---------------------------------------------------------------------------- */

/* Where a block keeps its codes. */
struct layout {
    unsigned bits;       /* 4 or 5 */
    size_t high, nibble; /* first byte of the fifth bits (of 5 bits only) and of the nibbles */
};
static const struct layout q4_0_layout = {4, 0, 2}, q4_1_layout = {4, 0, 4},
                           q5_0_layout = {5, 2, 6}, q5_1_layout = {5, 4, 8};

static unsigned get_code(const struct layout *l, const uint8_t *block, size_t i)
{
    unsigned q = (unsigned)block[l->nibble + i % 16] >> (i / 16 * 4) & 15u;
    if (l->bits == 5)
        q |= ((unsigned)block[l->high + i / 8] >> i % 8 & 1u) << 4;
    return q;
}

/* Sets a code in a block whose codes are 0 so far. */
static void set_code(const struct layout *l, uint8_t *block, size_t i, unsigned q)
{
    block[l->nibble + i % 16] |= (uint8_t)((q & 15u) << (i / 16 * 4));
    if (l->bits == 5)
        block[l->high + i / 8] |= (uint8_t)((q >> 4 & 1u) << i % 8);
}

/* q4_0 and q5_0: codes around 2^(bits-1). */
static void encode_symmetric(const struct qg_args *a, size_t at, const float *x, uint8_t *block,
                             const struct layout *l)
{
    float half = (float)(1u << (l->bits - 1));
    float d = qg_div(qg_gguf_extreme(x, 32), -half), inverse = qg_gguf_inverse(d);
    memset(block, 0, l->nibble + 16);
    qg_gguf_put_half(block, d);
    for (size_t i = 0; i < 32; i++) {
        float u = qg_add(qg_mul(x[i], inverse), half + 0.5f);
        // In range but for what x86 makes of NaN and inf; a byte of that is 0.
        unsigned q = (uint8_t)qg_gguf_int(u), most = (1u << l->bits) - 1u;
        set_code(l, block, i, q < most ? q : most);
        qg_note(a, at + i, "d, before it is stored", d);
        qg_note(a, at + i, "x (1/d) and a half", u);
        qg_note(a, at + i, "code", (float)get_code(l, block, i));
    }
}

/* q4_1 and q5_1: codes up from the minimum. Comparisons with a NaN are false. */
static void encode_affine(const struct qg_args *a, size_t at, const float *x, uint8_t *block,
                          const struct layout *l)
{
    unsigned most = (1u << l->bits) - 1u;
    float min = 0x1.fffffep127f, max = -0x1.fffffep127f;
    for (size_t i = 0; i < 32; i++) {
        min = x[i] < min ? x[i] : min;
        max = x[i] > max ? x[i] : max;
    }
    float d = qg_div(qg_gguf_new_nan(qg_sub(max, min)), (float)most);
    float inverse = qg_gguf_inverse(d);
    memset(block, 0, l->nibble + 16);
    qg_gguf_put_half(block, d);
    qg_gguf_put_half(block + 2, min);
    for (size_t i = 0; i < 32; i++) {
        float u = qg_add(qg_mul(qg_sub(x[i], min), inverse), 0.5f);
        unsigned q = (uint8_t)qg_gguf_int(u);
        set_code(l, block, i, l->bits == 4 && q > most ? most : q);
        qg_note(a, at + i, "d, before it is stored", d);
        qg_note(a, at + i, "min", min);
        qg_note(a, at + i, "(x - min)(1/d) and a half", u);
        qg_note(a, at + i, "code", (float)get_code(l, block, i));
    }
}

static float value_symmetric(const uint8_t *block, size_t i, const struct layout *l)
{
    int level = (int)get_code(l, block, i) - (1 << (l->bits - 1));
    return qg_mul((float)level, qg_gguf_half(block));
}

static float value_affine(const uint8_t *block, size_t i, const struct layout *l)
{
    float q = (float)get_code(l, block, i);
    return qg_add(qg_mul(q, qg_gguf_half(block)), qg_gguf_half(block + 2));
}

/* With q8_0: the offset is taken off the codes. */
static void dot_symmetric(const uint8_t *w, const uint8_t *x, struct qg_gguf_sum *s,
                          const struct layout *l)
{
    struct isum isum = {0};
    for (size_t i = 0; i < 32; i++)
        isum_add(&isum, (int)get_code(l, w, i) - (1 << (l->bits - 1)), x[2 + i]);
    qg_gguf_term(s, qg_gguf_half(w), qg_gguf_half(x), isum.sum, isum.magnitude);
}

/* With q8_1, whose s stands for the sum of x: dx dy isum + m s. */
static void dot_affine(const uint8_t *w, const uint8_t *x, struct qg_gguf_sum *s,
                       const struct layout *l)
{
    struct isum isum = {0};
    for (size_t i = 0; i < 32; i++)
        isum_add(&isum, (int)get_code(l, w, i), x[4 + i]);
    qg_gguf_term(s, qg_gguf_half(w), qg_gguf_half(x), isum.sum, isum.magnitude);
    qg_gguf_term(s, qg_gguf_half(w + 2), qg_gguf_half(x + 2), 1, 1);
}

#define FORMAT(f, kind)                                                                        \
    static void encode_##f(const struct qg_args *a, size_t at, const float *x, uint8_t *block) \
    {                                                                                          \
        encode_##kind(a, at, x, block, &f##_layout);                                           \
    }                                                                                          \
    static float value_##f(const uint8_t *block, size_t i)                                     \
    {                                                                                          \
        return value_##kind(block, i, &f##_layout);                                            \
    }                                                                                          \
    static unsigned code_##f(const uint8_t *block, size_t i)                                   \
    {                                                                                          \
        return get_code(&f##_layout, block, i);                                                \
    }                                                                                          \
    static void dot_##f(const uint8_t *w, const uint8_t *x, struct qg_gguf_sum *s)             \
    {                                                                                          \
        dot_##kind(w, x, s, &f##_layout);                                                      \
    }

FORMAT(q4_0, symmetric)
FORMAT(q4_1, affine)
FORMAT(q5_0, symmetric)
FORMAT(q5_1, affine)

/* --- the table ------------------------------------------------------------------------------- */

static const struct qg_gguf q8_0 = {
    32, 34, qg_gguf_encode_q8_0, value_q8_0, code_q8_0, half_scale, &qg_q8_0, dot_q8_0};
static const struct qg_gguf q4_0 = {32,        18,         encode_q4_0, value_q4_0,
                                    code_q4_0, half_scale, &qg_q8_0,    dot_q4_0};
static const struct qg_gguf q4_1 = {32,        20,         encode_q4_1, value_q4_1,
                                    code_q4_1, half_scale, &qg_q8_1,    dot_q4_1};
static const struct qg_gguf q5_0 = {32,        22,         encode_q5_0, value_q5_0,
                                    code_q5_0, half_scale, &qg_q8_0,    dot_q5_0};
static const struct qg_gguf q5_1 = {32,        24,         encode_q5_1, value_q5_1,
                                    code_q5_1, half_scale, &qg_q8_1,    dot_q5_1};

#define NIBBLES "16 bytes, element j low and j+16 high"
QG_GGUF_WEIGHT(q8_0, "K/32*34", "blocks of 32: d fp16; 32 int8")
QG_GGUF_WEIGHT(q4_0, "K/32*18", "blocks of 32: d fp16; " NIBBLES)
QG_GGUF_WEIGHT(q4_1, "K/32*20", "blocks of 32: d, m fp16; " NIBBLES)
QG_GGUF_WEIGHT(q5_0, "K/32*22", "blocks of 32: d fp16; 32 fifth bits; " NIBBLES)
QG_GGUF_WEIGHT(q5_1, "K/32*24", "blocks of 32: d, m fp16; 32 fifth bits; " NIBBLES)

#define ROW(f, what, bits, n, act, special)                                                  \
    {                                                                                        \
        .name = #f, .summary = what,                                                         \
        .upstream = "ggml:src/ggml-quants.c quantize_row_" #f "_ref, dequantize_row_" #f     \
                    "; ggml:src/ggml-cpu/quants.c ggml_vec_dot_" #f "_*_generic",            \
        .nonfinite = special QG_GGUF_ACT_NONFINITE, .params = qg_gguf_params,                \
        .variants = qg_gguf_variants,                                                        \
        .operand =                                                                           \
            {[QG_WEIGHT] = QG_GGUF_OPERAND(f, f##_dequant, bits, n), [QG_ACTIVATION] = act}, \
        .matmul = f##_matmul, .refuse = qg_gguf_refuse, .uniform = f##_uniform               \
    }

#define SYMMETRIC_SPECIAL                                                                      \
    "NaN: code 0 (the extreme), the others as if it were not there. inf: d is the other inf, " \
    "codes of finite values 8 or 16. All-zero block: d is -0, codes 8 or 16, values -0."
#define AFFINE_SPECIAL                                                                          \
    "NaN: code 0 (the minimum), the others as if it were not there. inf: d inf, codes 0; m is " \
    "-inf for -inf. A block of nothing but inf or NaN: d NaN or -inf. All-zero block: all 0."

const struct qg_scheme qg_schemes_gguf_legacy[] = {
    // -127 .. 127
    ROW(q8_0, "GGUF Q8_0: int8 in blocks of 32 with fp16 scales", 8, 255, QG_GGUF_Q8_0,
        "NaN and inf: code 0. A NaN hides the maximum before it, and in the last place of a block "
        "makes d NaN; inf makes d inf. All-zero block: all bytes 0."),
    ROW(q4_0, "GGUF Q4_0: 4 bits around 8 in blocks of 32 with signed fp16 scales", 4, 16,
        QG_GGUF_Q8_0, SYMMETRIC_SPECIAL),
    ROW(q4_1, "GGUF Q4_1: 4 bits above a minimum in blocks of 32", 4, 16, QG_GGUF_Q8_1,
        AFFINE_SPECIAL),
    ROW(q5_0, "GGUF Q5_0: 5 bits around 16 in blocks of 32 with signed fp16 scales", 5, 32,
        QG_GGUF_Q8_0, SYMMETRIC_SPECIAL),
    ROW(q5_1, "GGUF Q5_1: 5 bits above a minimum in blocks of 32", 5, 32, QG_GGUF_Q8_1,
        AFFINE_SPECIAL),
    {NULL},
};
