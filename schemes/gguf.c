/* SPDX-License-Identifier: MIT
 *
 * The walk over blocks that all ggml formats share, and the three 8-bit formats that activations
 * are quantized to:
 *
 *     q8_0   d fp16, 32 int8                   d = amax/127
 *     q8_1   d fp16, s fp16, 32 int8           d = amax/127, s = d sum(q)
 *     q8_K   d fp32, 256 int8, 16 int16        d = 1/is, is = -127/(element of largest magnitude);
 *                                              then the sums of 16 codes each
 *
 * q8_0 and q8_1 have two quantizers that differ in a code of some blocks, never in d:
 *
 *     act=x86   q = x (127/amax), to nearest even, saturated at -128 .. 127
 *     act=ref   q = x (1/d), to nearest, halves away from zero
 *
 * The first is what a build for x86 runs, so it is the default; the second is ggml's reference,
 * which also quantizes weights to q8_0. q8_K has one: q = is x to nearest even, and since is < 0
 * for a positive extreme, the extreme becomes -127 whatever its sign. Halves: s of q8_1 overflows
 * to inf when |sum x| > 65504. d is rounded to binary16 after the codes were chosen.
 *
 * Sources: ggml:src/ggml-quants.c quantize_row_q8_{0,1,K}_ref, ggml:src/ggml-cpu/arch/x86/quants.c
 * quantize_row_q8_{0,1}, ggml:src/ggml-common.h for the layouts.
 */
#include "schemes/gguf.h"

/* --- blocks ---------------------------------------------------------------------------------- */

static void encode_rows(const struct qg_args *a, const struct qg_gguf *f, size_t rows,
                        uint8_t *block)
{
    float x[QG_GGUF_LARGEST];
    for (size_t at = 0; at < rows * a->cols; at += f->elements, block += f->bytes) {
        for (size_t i = 0; i < f->elements; i++)
            x[i] = qg_get(&a->in[0], at + i);
        f->encode(a, at, x, block);
    }
}

void qg_gguf_convert(const struct qg_args *a, const struct qg_gguf *f)
{
    encode_rows(a, f, a->rows, a->out[0].data);
}

void qg_gguf_dequant(const struct qg_args *a, const struct qg_gguf *f)
{
    const uint8_t *blocks = a->in[0].data;
    for (size_t i = 0; i < a->rows * a->cols; i++) {
        const uint8_t *block = blocks + i / f->elements * f->bytes;
        size_t j = i % f->elements;
        qg_put(&a->out[0], i, f->value(block, j));
        qg_note(a, i, "scale (stored)", f->scale(block, j));
        qg_note(a, i, "code (stored)", (float)f->code(block, j));
        qg_note(a, i, "y", qg_get(&a->out[0], i));
    }
}

unsigned qg_gguf_code(const struct qg_args *a, const struct qg_gguf *f, size_t i)
{
    const uint8_t *blocks = a->out[0].data;
    return f->code(blocks + i / f->elements * f->bytes, i % f->elements);
}

/* An element takes part in at most two terms (one with the weight's minimum), and a term has four
 * roundings: dx dy, the conversion of an integer sum, their product, and here that of binary64. */
void qg_gguf_matmul(const struct qg_args *a, const struct qg_gguf *f)
{
    const struct qg_gguf *partner = f->partner;
    size_t w_row = a->cols / f->elements * f->bytes;
    size_t x_row = a->cols / partner->elements * partner->bytes;
    size_t x_step = f->elements / partner->elements * partner->bytes;
    uint8_t *x = (uint8_t *)a->work;
    encode_rows(a, partner, a->m, x);
    for (size_t i = 0; i < a->m * a->rows; i++) {
        const uint8_t *w = (const uint8_t *)a->in[1].data + i % a->rows * w_row;
        struct qg_gguf_sum s = {0};
        for (size_t b = 0; b < a->cols / f->elements; b++)
            f->dot(w + b * f->bytes, x + i / a->rows * x_row + b * x_step, &s);
        double exact = qg_sum_value(&s.terms);
        qg_emit(a, i, (float)exact, exact,
                qg_sum_bound(&s.terms, 2 * a->cols, a->depth, 4) + s.lost);
    }
}

const char *qg_gguf_refuse(const struct qg_args *a)
{
    return a->cols % qg_group(a) == 0
               ? NULL
               : "rows are whole blocks; ggml asserts it (a release build drops the rest of a row) "
                 "and does not load GGUF files with such rows; pad K";
}

const char *qg_gguf_uniform(const struct qg_args *a, const struct qg_gguf *f)
{
    const uint8_t *blocks = a->op == QG_CONVERT ? a->out[0].data : a->in[a->op == QG_MATMUL].data;
    for (size_t i = 0; i < a->rows * a->cols; i += 16) {
        float scale = f->scale(blocks + i / f->elements * f->bytes, i % f->elements);
        if (scale != 0 && scale - scale == 0)
            return NULL;
    }
    return "no scale is a finite number other than 0: ggml's binary16, or its sums of squares, "
           "overflow or vanish";
}

/* --- q8_0 and q8_1 --------------------------------------------------------------------------- */

enum { ACT };
enum act { ACT_X86, ACT_REF };
static const char *const act_words[] = {"x86", "ref", NULL};

const struct qg_param qg_gguf_params[] = {
    [ACT] = {"act", "quantizer of activations: that of x86 builds, or ggml's reference", ACT_X86, 0,
             0, act_words, false},
    {NULL},
};
const struct qg_param qg_gguf_no_params[] = {{NULL}};
const char *const qg_gguf_variants[] = {"act=ref", NULL};

/* Codes of 32 elements, and what they add up to (the sum may wrap where x86 gives INT_MIN). */
struct codes {
    float d;
    int32_t sum;
};

static struct codes codes_ref(const struct qg_args *a, size_t at, const float *x, uint8_t *q)
{
    struct codes c = {.d = qg_div(qg_gguf_amax(x, 32), 127.0f)};
    float inverse = qg_gguf_inverse(c.d);
    for (size_t i = 0; i < 32; i++) {
        q[i] = (uint8_t)qg_gguf_int(roundf(qg_mul(x[i], inverse)));
        c.sum += (int8_t)q[i];
        qg_note(a, at + i, "d, before it is stored", c.d);
        qg_note(a, at + i, "x (1/d)", qg_mul(x[i], inverse));
        qg_note(a, at + i, "code", (int8_t)q[i]);
    }
    return c;
}

/* The maximum as AVX finds it: of two, the second when one is NaN. Eight lanes go over the block;
 * then the upper half meets the lower, and so on. */
static float vector_max(float x, float y)
{
    return x > y ? x : y;
}

static float amax_x86(const float *x)
{
    float lane[8], four[4];
    for (size_t l = 0; l < 8; l++) {
        lane[l] = qg_abs(x[l]);
        for (size_t i = l + 8; i < 32; i += 8)
            lane[l] = vector_max(lane[l], qg_abs(x[i]));
    }
    for (size_t l = 0; l < 4; l++)
        four[l] = vector_max(lane[4 + l], lane[l]);
    return vector_max(vector_max(four[0], four[2]), vector_max(four[1], four[3]));
}

static struct codes codes_x86(const struct qg_args *a, size_t at, const float *x, uint8_t *q)
{
    float amax = amax_x86(x), factor = amax != 0 ? qg_div(127.0f, amax) : 0.0f;
    struct codes c = {.d = qg_div(amax, 127.0f)};
    uint32_t sum = 0;
    for (size_t i = 0; i < 32; i++) {
        int32_t k = qg_gguf_int(qg_rint(qg_mul(x[i], factor)));
        q[i] = (uint8_t)(k < -128 ? -128 : k > 127 ? 127 : k);
        sum += (uint32_t)k;
        qg_note(a, at + i, "d, before it is stored", c.d);
        qg_note(a, at + i, "x (127/amax)", qg_mul(x[i], factor));
        qg_note(a, at + i, "code", (int8_t)q[i]);
    }
    c.sum = (int32_t)sum;
    return c;
}

static struct codes act_codes(const struct qg_args *a, size_t at, const float *x, uint8_t *q)
{
    return a->param[ACT] == ACT_REF ? codes_ref(a, at, x, q) : codes_x86(a, at, x, q);
}

void qg_gguf_encode_q8_0(const struct qg_args *a, size_t at, const float *x, uint8_t *block)
{
    qg_gguf_put_half(block, codes_ref(a, at, x, block + 2).d);
}

static void encode_q8_0_act(const struct qg_args *a, size_t at, const float *x, uint8_t *block)
{
    qg_gguf_put_half(block, act_codes(a, at, x, block + 2).d);
}

static void encode_q8_1_act(const struct qg_args *a, size_t at, const float *x, uint8_t *block)
{
    struct codes c = act_codes(a, at, x, block + 4);
    float s = qg_mul((float)c.sum, c.d);
    qg_gguf_put_half(block, c.d);
    qg_gguf_put_half(block + 2, c.d == c.d ? qg_gguf_new_nan(s) : s);
}

static float half_scale(const uint8_t *block, size_t i)
{
    (void)i;
    return qg_gguf_half(block);
}

static unsigned code_q8_0(const uint8_t *block, size_t i)
{
    return block[2 + i];
}

static float value_q8_0(const uint8_t *block, size_t i)
{
    return qg_mul((int8_t)block[2 + i], qg_gguf_half(block));
}

static unsigned code_q8_1(const uint8_t *block, size_t i)
{
    return block[4 + i];
}

const struct qg_gguf qg_q8_0 = {32,   34,  encode_q8_0_act, value_q8_0, code_q8_0, half_scale,
                                NULL, NULL};
QG_GGUF_ENCODER(, qg_q8_0, "K/32*34", "blocks of 32: d fp16; 32 int8");
QG_GGUF_DECODER(, qg_q8_0)

const struct qg_gguf qg_q8_1 = {32, 36, encode_q8_1_act, NULL, code_q8_1, half_scale, NULL, NULL};
QG_GGUF_ENCODER(, qg_q8_1, "K/32*36", "blocks of 32: d fp16; d sum(q) fp16; 32 int8");

/* --- q8_K ------------------------------------------------------------------------------------ */

static void put_f32(uint8_t *p, float x)
{
    uint32_t u = x != x ? 0x7fc00000u : qg_f32_bits(x);
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(u >> 8 * i);
}

/* Upstream leaves the sums of a zero block as the memory was; here they are 0, as they should. */
static void encode_q8_K(const struct qg_args *a, size_t at, const float *x, uint8_t *block)
{
    float extreme = qg_gguf_extreme(x, 256);
    memset(block, 0, 292);
    float is = extreme != 0 ? qg_div(-127.0f, extreme) : 0.0f;
    float d = extreme != 0 ? qg_div(1.0f, is) : 0.0f;
    put_f32(block, d);
    for (size_t i = 0; i < 256; i++) {
        int32_t k = extreme != 0 ? qg_gguf_nearest(qg_mul(is, x[i])) : 0;
        block[4 + i] = (uint8_t)(k > 127 ? 127 : k);
        qg_note(a, at + i, "d", d);
        qg_note(a, at + i, "is x", qg_mul(is, x[i]));
        qg_note(a, at + i, "code", (int8_t)block[4 + i]);
    }
    for (size_t g = 0; g < 16; g++) {
        int sum = 0;
        for (size_t i = 0; i < 16; i++)
            sum += (int8_t)block[4 + 16 * g + i];
        block[260 + 2 * g] = (uint8_t)sum;
        block[261 + 2 * g] = (uint8_t)((unsigned)sum >> 8);
    }
}

static float scale_q8_K(const uint8_t *block, size_t i)
{
    (void)i;
    return qg_gguf_q8_K_scale(block);
}

static unsigned code_q8_K(const uint8_t *block, size_t i)
{
    return block[4 + i];
}

static float value_q8_K(const uint8_t *block, size_t i)
{
    return qg_mul(qg_gguf_q8_K_scale(block), (int8_t)block[4 + i]);
}

const struct qg_gguf qg_q8_K = {256,       292,        encode_q8_K, value_q8_K,
                                code_q8_K, scale_q8_K, NULL,        NULL};
QG_GGUF_ENCODER(, qg_q8_K, "K/256*292", "blocks of 256: d fp32; 256 int8; 16 int16 sums of 16");
QG_GGUF_DECODER(, qg_q8_K)

/* --- the rows -------------------------------------------------------------------------------- */

static const char nonfinite[] =
    "act=x86: a NaN or inf element is -128, finite ones beside an inf 0; a NaN in the last vector "
    "lane makes d NaN and all codes -128, as does amax below 2^-121 (d is then 0). act=ref: NaN "
    "and inf are 0; a NaN hides the maximum before it, and in the last place makes d NaN. An inf "
    "makes d inf. All-zero block: all bytes 0 (s = 0).";
static const char nonfinite_k[] =
    "NaN: code 0, the others as if it were not there. inf: d = -0 or 0, codes of finite values 0, "
    "and all values 0 (upstream's 0 inf is a NaN whose integer is 0). All-zero block: d = 0, codes "
    "0; the sums, which upstream then leaves unwritten, are 0.";

const struct qg_scheme qg_schemes_gguf[] = {
    {.name = "q8_1",
     .summary = "ggml's activations for q4_1 and q5_1: int8, blocks of 32, with the block's sum",
     .upstream = "ggml:src/ggml-cpu/arch/x86/quants.c, ggml:src/ggml-quants.c quantize_row_q8_1",
     .nonfinite = nonfinite,
     .params = qg_gguf_params,
     .variants = qg_gguf_variants,
     .operand = {[QG_ACTIVATION] = QG_GGUF_Q8_1},
     .refuse = qg_gguf_refuse},
    {.name = "q8_K",
     .summary = "ggml's activations for K-quants and ternary weights: int8, blocks of 256",
     .upstream = "ggml:src/ggml-quants.c quantize_row_q8_K_ref",
     .nonfinite = nonfinite_k,
     .params = qg_gguf_no_params,
     .operand = {[QG_ACTIVATION] = QG_GGUF_Q8_K},
     .refuse = qg_gguf_refuse},
    {NULL},
};
