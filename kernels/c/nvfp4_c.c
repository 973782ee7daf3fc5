/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of NVFP4, torchao's and TransformerEngine's. A block is one scale and one factor,
 * found for a piece of a row at once; the elements follow in loops without branches.
 */
#include "kernels/c/matmul.h"
#include "kernels/c/small_floats.h"
#include "kernels/kernel.h"

enum { LAYOUT, MATMUL };
enum { BLOCK = 16, BLOCKS = QG_CHUNK / BLOCK };

static const struct qg_small e2m1 = QG_SMALL_E2M1;

static bool is_te(const struct qg_args *a)
{
    return strcmp(a->scheme->name, "nvfp4-te") == 0;
}

static bool two_level(const struct qg_args *a)
{
    return strcmp(a->scheme->name, "nvfp4-single") != 0;
}

static size_t scale_at(const struct qg_args *a, size_t row, size_t j)
{
    size_t blocks = a->cols / BLOCK;
    return a->param[LAYOUT] == 0 ? row * blocks + j : qg_tile_at(blocks, row, j);
}

/* --- scales ---------------------------------------------------------------------------------- */

/* What blocks of one tensor share. */
struct tensor {
    bool te;
    float amax, p, enc; /* torchao: P and 1/P; TransformerEngine: 1/S and S */
    float enc_sixth;
};

static struct tensor tensor_of(const struct qg_args *a, const struct qg_tensor *x)
{
    struct tensor t = {.te = is_te(a), .p = 1.0f, .enc = 1.0f};
    if (two_level(a))
        t.amax = qg_amax_at(x, 0, qg_count(x));
    if (t.te) {
        float s = 2688.0f / t.amax;
        bool none = t.amax == 0 || s == 0;
        t.enc = none ? 1.0f : qg_limit(s, 0.0f, 0x1.fffffep127f);
        t.p = 1.0f / t.enc;
        t.enc_sixth = t.enc * (1.0f / 6.0f);
    } else if (two_level(a)) {
        t.p = t.amax / 2688.0f;
        t.enc = 1.0f / t.p;
    }
    return t;
}

/* Scales of n elements (whole blocks), and what their elements are multiplied with. */
static void block_scales(const struct tensor *t, size_t n, const float *x, float *scale,
                         float *factor)
{
    for (size_t j = 0; j < n / BLOCK; j++) {
        float amax = qg_amax_of(BLOCK, x + j * BLOCK);
        if (t->te) {
            scale[j] = qg_e4m3_round(qg_limit(amax * t->enc_sixth, 0.0f, 448.0f));
            factor[j] = qg_limit(1.0f / (scale[j] * t->p), 0.0f, 0x1.fffffep127f);
        } else {
            scale[j] = qg_e4m3_round(qg_limit(amax / 6.0f / t->p, 0x1p-6f, 448.0f));
            factor[j] = t->enc / scale[j];
        }
    }
}

/* --- pieces of rows -------------------------------------------------------------------------- */

QG_INLINE void encode_block(const float *restrict x, float factor, uint8_t *restrict codes)
{
    for (size_t i = 0; i < BLOCK; i++)
        codes[i] = qg_small_of(e2m1, x[i] * factor);
}

QG_INLINE void decode_block(const uint8_t *restrict codes, float step, float *restrict y)
{
    for (size_t i = 0; i < BLOCK; i++)
        y[i] = qg_small_value(e2m1, codes[i]) * step;
}

/* Codes and scales of n elements (whole blocks, at most QG_CHUNK). */
static void quantize(const struct tensor *t, size_t n, const float *x, uint8_t *codes, float *scale)
{
    float factor[BLOCKS];
    block_scales(t, n, x, scale, factor);
    for (size_t j = 0; j < n / BLOCK; j++)
        encode_block(x + j * BLOCK, factor[j], codes + j * BLOCK);
}

static void fake_quant(const struct qg_args *a)
{
    float f[QG_CHUNK], scale[BLOCKS];
    uint8_t codes[QG_CHUNK];
    size_t total = a->rows * a->cols;
    struct tensor t = tensor_of(a, &a->in[0]);
    for (size_t at = 0; at < total; at += QG_CHUNK) {
        size_t n = qg_smaller(total - at, QG_CHUNK);
        qg_load(&a->in[0], at, n, f);
        quantize(&t, n, f, codes, scale);
        for (size_t j = 0; j < n / BLOCK; j++)
            decode_block(codes + j * BLOCK, t.p * scale[j], f + j * BLOCK);
        qg_store(&a->out[0], at, n, f);
    }
}

static void convert(const struct qg_args *a)
{
    float f[QG_CHUNK], scale[BLOCKS];
    uint8_t codes[QG_CHUNK], *scales = a->out[1].data;
    struct tensor t = tensor_of(a, &a->in[0]);
    memset(scales, 0, qg_bytes(&a->out[1]));
    for (size_t row = 0; row < a->rows; row++)
        for (size_t at = 0; at < a->cols; at += QG_CHUNK) {
            size_t n = qg_smaller(a->cols - at, QG_CHUNK), i = row * a->cols + at;
            qg_load(&a->in[0], i, n, f);
            quantize(&t, n, f, codes, scale);
            qg_nibbles_pack(n, codes, (uint8_t *)a->out[0].data + i / 2);
            for (size_t j = 0; j < n / BLOCK; j++)
                scales[scale_at(a, row, at / BLOCK + j)] = qg_e4m3_of(scale[j]);
        }
    if (two_level(a))
        qg_put(&a->out[2], 0, t.te ? t.amax : t.p);
}

/* What block scales of stored planes are multiplied with on the way to values. */
static float step_of(const struct qg_args *a, const struct qg_tensor *planes, float scale)
{
    if (!two_level(a))
        return scale;
    float of_tensor = ((const float *)planes[2].data)[0];
    return is_te(a) ? scale * of_tensor * (1.0f / 2688.0f) : of_tensor * scale;
}

/* Elements at .. at+n (whole blocks, at most QG_CHUNK) of a row: q s, or whole values. */
static void load_planes(const struct qg_args *a, const struct qg_tensor *planes, size_t row,
                        size_t at, size_t n, bool whole, float *y)
{
    uint8_t codes[QG_CHUNK];
    const uint8_t *scales = planes[1].data;
    qg_nibbles_unpack(n, (const uint8_t *)planes[0].data + (row * a->cols + at) / 2, codes);
    for (size_t j = 0; j < n / BLOCK; j++) {
        float s = qg_e4m3_value(scales[scale_at(a, row, at / BLOCK + j)]);
        decode_block(codes + j * BLOCK, whole ? step_of(a, planes, s) : s, y + j * BLOCK);
    }
}

static void dequant(const struct qg_args *a)
{
    float f[QG_CHUNK];
    for (size_t row = 0; row < a->rows; row++)
        for (size_t at = 0; at < a->cols; at += QG_CHUNK) {
            size_t n = qg_smaller(a->cols - at, QG_CHUNK);
            load_planes(a, a->in, row, at, n, true, f);
            qg_store(&a->out[0], row * a->cols + at, n, f);
        }
}

/* --- matmul ---------------------------------------------------------------------------------- */

static bool weight_only(const struct qg_args *a)
{
    return !is_te(a) && a->param[MATMUL] == 1;
}

static void weights(const struct qg_args *a, size_t row, size_t at, size_t n, float *w)
{
    for (size_t i = 0; i < n; i += QG_CHUNK)
        load_planes(a, a->in + 1, row, at + i, qg_smaller(n - i, QG_CHUNK), weight_only(a), w + i);
    if (weight_only(a))
        QG_FOR_DTYPE(T, a->dtype, for (size_t i = 0; i < n; i++) w[i] = qg_round_as(T, w[i]));
}

/* What sums are multiplied with, one number for all. */
static float factor_of(const struct qg_args *a, const struct tensor *t)
{
    if (!two_level(a))
        return 1.0f;
    float of_weight = ((const float *)a->in[3].data)[0];
    return t->te ? t->amax * of_weight * (float)(1.0 / (2688.0 * 2688.0))
                 : qg_round(a->dtype, t->p * of_weight);
}

static void inputs(const struct qg_args *a, float *x, float *scales)
{
    float scale[BLOCKS], factor = 1.0f;
    uint8_t codes[QG_CHUNK];
    size_t total = a->m * a->cols;
    qg_load(&a->in[0], 0, total, x);
    if (!weight_only(a)) {
        struct tensor t = tensor_of(a, &a->in[0]);
        factor = factor_of(a, &t);
        for (size_t at = 0; at < total; at += QG_CHUNK) {
            size_t n = qg_smaller(total - at, QG_CHUNK);
            quantize(&t, n, x + at, codes, scale);
            for (size_t j = 0; j < n / BLOCK; j++)
                decode_block(codes + j * BLOCK, scale[j], x + at + j * BLOCK);
        }
    }
    for (size_t m = 0; m < a->m; m++)
        scales[m] = factor;
}

static void finish(const struct qg_args *a, size_t row, size_t n, float factor, float *sum)
{
    (void)row;
    if (!is_te(a))
        QG_FOR_DTYPE(T, a->dtype, for (size_t i = 0; i < n; i++) sum[i] = qg_round_as(T, sum[i]));
    for (size_t i = 0; i < n; i++)
        sum[i] *= factor;
}

static const struct qg_product product = {weights, inputs, finish};
QG_MATMUL(product)
QG_LORA(product)

#define ROW(s, what, o, f)                                                            \
    {                                                                                 \
        .scheme = s, .backend = "c", .variant = "", .op = o, .operand = what, .fn = f \
    }
#define STORED(s, what) ROW(s, what, QG_CONVERT, convert), ROW(s, what, QG_DEQUANT, dequant)
#define TRAINED(s, what)                                                                         \
    ROW(s, what, QG_FAKE_QUANT, fake_quant), ROW(s, what, QG_FAKE_QUANT_GRAD, qg_pass_gradient), \
        STORED(s, what)

const struct qg_kernel qg_kernels_nvfp4_c[] = {
    TRAINED("nvfp4", QG_WEIGHT),
    TRAINED("nvfp4", QG_ACTIVATION),
    TRAINED("nvfp4-single", QG_WEIGHT),
    TRAINED("nvfp4-single", QG_ACTIVATION),
    STORED("nvfp4-te", QG_WEIGHT),
    STORED("nvfp4-te", QG_ACTIVATION),
    QG_MATMUL_ROWS("nvfp4", product),
    QG_MATMUL_ROWS("nvfp4-single", product),
    QG_MATMUL_ROWS("nvfp4-te", product),
    QG_LORA_ROWS("nvfp4", product),
    QG_LORA_ROWS("nvfp4-single", product),
    QG_LORA_ROWS("nvfp4-te", product),
    {.scheme = NULL},
};
