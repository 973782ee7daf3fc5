/* SPDX-License-Identifier: MIT
 *
 * ggml's two ternary formats, for models whose weights are -d, 0 and d already (BitNet, TriLM).
 * Blocks of 256 elements; t = round(x (1/d)), halves away from zero, with d = amax, stored in
 * binary16; w = t d. On ordinary weights only |x| >= amax/2 survives.
 *
 *     tq2_0   64 bytes, d: element 128 h + 32 n + m is t + 1 in bits 2n of byte 32 h + m
 *     tq1_0   48 bytes, 4 bytes, d: five trits t + 1 to a byte, the first the most significant, as
 *             ceil(256 v / 243) for the number v that they make. Bytes 0..31 hold elements 32 n +
 * m, bytes 32..47 elements 160 + 16 n + m, and the last 4 bytes elements 240 + 4 n + m, four to a
 * byte and a 0 behind. Trit n is the integer part of 3 b / 256, where b is the byte times 3^n, of
 * which 8 bits are kept.
 *
 * There is no prepare path upstream.
 *
 * Sources: ggml:src/ggml-quants.c quantize_row_tq{1,2}_0_ref, dequantize_row_tq{1,2}_0;
 * ggml:src/ggml-cpu/quants.c ggml_vec_dot_tq{1,2}_0_q8_K_generic.
 */
#include "schemes/gguf.h"

/* t + 1 of 256 elements; returns d. */
static float ternary(const struct qg_args *a, size_t at, const float *x, uint8_t *t)
{
    float d = qg_gguf_amax(x, 256), inverse = qg_gguf_inverse(d);
    for (size_t i = 0; i < 256; i++) {
        float u = qg_mul(x[i], inverse);
        t[i] = (uint8_t)(qg_gguf_int(roundf(u)) & 255) + 1;
        qg_note(a, at + i, "d, before it is stored", d);
        qg_note(a, at + i, "x (1/d)", u);
        qg_note(a, at + i, "code", t[i]);
    }
    return d;
}

/* A code is t + 1 for 0 <= code <= 2. */
static float value_of(unsigned code, const uint8_t *d)
{
    return qg_mul((float)((int)code - 1), qg_gguf_half(d));
}

static void dot(const uint8_t *w, const uint8_t *d, unsigned (*code)(const uint8_t *, size_t),
                const uint8_t *x, struct qg_gguf_sum *s)
{
    int32_t isum = 0, magnitude = 0;
    for (size_t i = 0; i < 256; i++) {
        int32_t product = ((int32_t)code(w, i) - 1) * (int8_t)x[4 + i];
        isum += product;
        magnitude += product < 0 ? -product : product;
    }
    qg_gguf_term(s, qg_gguf_half(d), qg_gguf_q8_K_scale(x), isum, magnitude);
}

/* --- tq2_0 ----------------------------------------------------------------------------------- */

static unsigned code_tq2_0(const uint8_t *block, size_t i)
{
    return (unsigned)block[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3u;
}

static float scale_tq2_0(const uint8_t *block, size_t i)
{
    (void)i;
    return qg_gguf_half(block + 64);
}

static float value_tq2_0(const uint8_t *block, size_t i)
{
    return value_of(code_tq2_0(block, i), block + 64);
}

static void encode_tq2_0(const struct qg_args *a, size_t at, const float *x, uint8_t *block)
{
    uint8_t t[256];
    memset(block, 0, 66);
    qg_gguf_put_half(block + 64, ternary(a, at, x, t));
    for (size_t i = 0; i < 256; i++)
        block[i / 128 * 32 + i % 32] |= (uint8_t)((t[i] & 3u) << (i % 128 / 32 * 2));
}

static void dot_tq2_0(const uint8_t *w, const uint8_t *x, struct qg_gguf_sum *s)
{
    dot(w, w + 64, code_tq2_0, x, s);
}

/* --- tq1_0 ----------------------------------------------------------------------------------- */

/* Where element i is: its byte, and which trit of that. */
struct trit {
    size_t byte, n;
};

static struct trit trit_of(size_t i)
{
    if (i < 160)
        return (struct trit){i % 32, i / 32};
    if (i < 240)
        return (struct trit){32 + i % 16, (i - 160) / 16};
    return (struct trit){48 + i % 4, (i - 240) / 4};
}

static unsigned code_tq1_0(const uint8_t *block, size_t i)
{
    static const unsigned power[5] = {1, 3, 9, 27, 81};
    struct trit t = trit_of(i);
    return (block[t.byte] * power[t.n] & 255u) * 3 >> 8;
}

static float scale_tq1_0(const uint8_t *block, size_t i)
{
    (void)i;
    return qg_gguf_half(block + 52);
}

static float value_tq1_0(const uint8_t *block, size_t i)
{
    return value_of(code_tq1_0(block, i), block + 52);
}

static void encode_tq1_0(const struct qg_args *a, size_t at, const float *x, uint8_t *block)
{
    uint8_t t[256];
    memset(block, 0, 54);
    qg_gguf_put_half(block + 52, ternary(a, at, x, t));
    for (size_t i = 0; i < 256; i++) { // a byte's elements come in the order of its trits
        uint8_t *v = &block[trit_of(i).byte];
        *v = (uint8_t)(*v * 3 + t[i]);
    }
    for (size_t j = 48; j < 52; j++)
        block[j] = (uint8_t)(block[j] * 3);
    for (size_t j = 0; j < 52; j++)
        block[j] = (uint8_t)((block[j] * 256 + 242) / 243);
}

static void dot_tq1_0(const uint8_t *w, const uint8_t *x, struct qg_gguf_sum *s)
{
    dot(w, w + 52, code_tq1_0, x, s);
}

/* --- the table ------------------------------------------------------------------------------- */

static const struct qg_gguf tq1_0 = {256,        54,          encode_tq1_0, value_tq1_0,
                                     code_tq1_0, scale_tq1_0, &qg_q8_K,     dot_tq1_0};
static const struct qg_gguf tq2_0 = {256,        66,          encode_tq2_0, value_tq2_0,
                                     code_tq2_0, scale_tq2_0, &qg_q8_K,     dot_tq2_0};
QG_GGUF_WEIGHT(tq1_0, "K/256*54", "blocks of 256: 48 bytes of five trits; 4 of four; d fp16")
QG_GGUF_WEIGHT(tq2_0, "K/256*66",
               "blocks of 256: 64 bytes of four codes, 32 elements apart; d fp16")

static const char *mostly_zero(const struct qg_args *a, const struct qg_gguf *f)
{
    const uint8_t *blocks = a->op == QG_CONVERT ? a->out[0].data : a->in[a->op == QG_MATMUL].data;
    size_t zeros = 0, n = a->rows * a->cols;
    for (size_t i = 0; i < n; i++)
        zeros += f->code(blocks + i / 256 * f->bytes, i % 256) == 1;
    return zeros > n / 10 * 9 ? "of ternary weights only those of at least amax/2 are not 0" : NULL;
}

#define FEW_SURVIVE(f)                                                         \
    static const char *f##_few(const struct qg_args *a)                        \
    {                                                                          \
        const char *few = a->operand == QG_WEIGHT ? mostly_zero(a, &f) : NULL; \
        return few ? few : f##_uniform(a);                                     \
    }
FEW_SURVIVE(tq1_0)
FEW_SURVIVE(tq2_0)

#define ROW(f, what)                                                                               \
    {                                                                                              \
        .name = #f, .summary = what,                                                               \
        .upstream = "ggml:src/ggml-quants.c quantize_row_" #f "_ref, dequantize_row_" #f           \
                    "; ggml:src/ggml-cpu/quants.c ggml_vec_dot_" #f "_q8_K_generic",               \
        .nonfinite =                                                                               \
            "NaN and inf: value 0 times d. A NaN hides the maximum before it (t may then "         \
            "be any number, of which the lowest bits are kept), and in the last place of "         \
            "a block makes d NaN; inf makes d inf and values NaN. All-zero block: d = 0, "         \
            "t = 0." QG_GGUF_ACT_NONFINITE,                                                        \
        .params = qg_gguf_no_params,                                                               \
        .operand =                                                                                 \
            {[QG_WEIGHT] = QG_GGUF_OPERAND(f, f##_dequant, 2, 3), [QG_ACTIVATION] = QG_GGUF_Q8_K}, \
        .matmul = f##_matmul, .refuse = qg_gguf_refuse, .uniform = f##_few                         \
    }

const struct qg_scheme qg_schemes_gguf_ternary[] = {
    ROW(tq1_0, "GGUF TQ1_0: ternary weights, five to a byte, blocks of 256"),
    ROW(tq2_0, "GGUF TQ2_0: ternary weights, four to a byte, blocks of 256"),
    {NULL},
};
