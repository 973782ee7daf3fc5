/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of bitsandbytes' blockwise formats. Codes are found for a piece of a block at a
 * time, by adding up the comparisons with every limit: straight loops over the piece.
 */
#include <float.h>

#include "kernels/c/matmul.h"
#include "kernels/c/rows.h"
#include "kernels/kernel.h"
#include "schemes/num/codebook.h"

enum { GROUP, IMPL };
enum { CPU, CUDA };

/* --- blocks ---------------------------------------------------------------------------------- */

/* One block of the flattened tensor and how its elements are scaled. */
struct block {
    size_t at, n;
    float stored, factor, divisor; /* x * factor, or x / divisor where that is not 0 */
};

/* Largest magnitude that is a number; `none` when there is none. */
static float largest_number(const struct qg_tensor *x, size_t at, size_t n, float none)
{
    float f[QG_CHUNK];
    int32_t high = -1;
    for (size_t i = 0; i < n; i += QG_CHUNK) {
        size_t part = qg_smaller(n - i, QG_CHUNK);
        qg_load(x, at + i, part, f);
        for (size_t k = 0; k < part; k++) {
            int32_t m = qg_magnitude(f[k]);
            m = m > 0x7f800000 ? -1 : m;
            high = m > high ? m : high;
        }
    }
    return high < 0 ? none : qg_f32_from_bits((uint32_t)high);
}

static size_t block_length(const struct qg_args *a, size_t at)
{
    return qg_smaller(qg_group(a), a->rows * a->cols - at);
}

static struct block torch_block(const struct qg_args *a, size_t at)
{
    size_t n = block_length(a, at);
    float absmax = qg_amax_at(&a->in[0], at, n), divisor = qg_max(absmax, 1e-38f);
    if (n < qg_group(a))
        return (struct block){at, n, divisor, 0, divisor};
    return (struct block){at, n, absmax, 1.0f / divisor, 0};
}

static struct block cuda_block(const struct qg_args *a, size_t at)
{
    size_t n = block_length(a, at);
    float absmax = largest_number(&a->in[0], at, n, -FLT_MAX);
    return (struct block){at, n, absmax, 1.0f / absmax, 0};
}

/* Elements at .. at+n of the block, scaled. */
static void load_scaled(const struct qg_args *a, const struct block *b, size_t at, size_t n,
                        float *restrict f)
{
    qg_load(&a->in[0], b->at + at, n, f);
    if (b->divisor != 0)
        for (size_t i = 0; i < n; i++)
            f[i] /= b->divisor;
    else
        for (size_t i = 0; i < n; i++)
            f[i] *= b->factor;
}

/* --- 4 bits ---------------------------------------------------------------------------------- */

/* Places of numbers in a rising list: how many of the limits are below f[i]; of a NaN all when
 * nan_is_last, else none. */
QG_INLINE void places(size_t n, const float *restrict f, const float *limit, size_t limits,
                      bool nan_is_last, uint8_t *restrict place)
{
    memset(place, 0, n);
    for (size_t l = 0; l < limits; l++)
        for (size_t i = 0; i < n; i++)
            place[i] = (uint8_t)(place[i] + (nan_is_last ? !(f[i] <= limit[l]) : f[i] > limit[l]));
}

/* A format: its numbers by code, the limits of a rising list and the code of each place. */
struct format {
    float value[16], limit[15];
    uint8_t code[16];
    bool is_signed; /* limits and codes of magnitudes; a sign goes to bit 3 */
    int limits;
};

static struct format nf4(bool cuda)
{
    struct format f = {.limits = 15};
    (void)cuda;
    memcpy(f.value, qg_nf4, sizeof qg_nf4);
    for (uint8_t i = 0; i < 16; i++)
        f.code[i] = i;
    for (int i = 0; i < 15; i++)
        f.limit[i] = (qg_nf4[i] + qg_nf4[i + 1]) * 0.5f;
    return f;
}

static struct format fp4(bool cuda)
{
    static const uint8_t rising[8] = {0, 1, 6, 7, 4, 5, 2, 3};
    static const struct format kernel = {.limit = {0.00260417f, 0.0859375f, 0.20833333f,
                                                   0.29166667f, 0.4166667f, 0.583333f, 0.8333333f},
                                         .code = {0, 1, 6, 7, 4, 5, 2, 3},
                                         .is_signed = true,
                                         .limits = 7};
    struct format f = cuda ? kernel : (struct format){.limits = 15};
    for (int i = 0; i < 8; i++) {
        f.value[i] = qg_fp4[i];
        f.value[i + 8] = i || cuda ? -qg_fp4[i] : 0.0f;
    }
    if (cuda)
        return f;
    for (int i = 0; i < 8; i++) {
        f.code[8 + i] = rising[i] ? rising[i] : 8;
        f.code[7 - i] = rising[i] ? rising[i] + 8 : 0;
    }
    for (int i = 0; i < 15; i++)
        f.limit[i] = (f.value[f.code[i]] + f.value[f.code[i + 1]]) * 0.5f;
    return f;
}

static void encode_piece(const struct format *format, bool nan_is_last, size_t n, float *f,
                         uint8_t *codes)
{
    uint8_t sign[QG_CHUNK];
    memset(sign, 0, n);
    for (size_t i = 0; i < n && format->is_signed; i++) {
        sign[i] = f[i] < 0 ? 8 : 0;
        f[i] = qg_f32_from_bits(qg_f32_bits(f[i]) & 0x7fffffffu);
    }
    places(n, f, format->limit, (size_t)format->limits, nan_is_last, codes);
    for (size_t i = 0; i < n; i++)
        codes[i] = (uint8_t)(format->code[codes[i]] + sign[i]);
}

/* Codes to out[0], the number of every block to absmax. Blocks are of even length but the last. */
static void encode(const struct qg_args *a, const struct format *format, float *absmax)
{
    bool cuda = a->param[IMPL] == CUDA;
    float f[QG_CHUNK + 1];
    uint8_t codes[QG_CHUNK + 1], *packed = a->out[0].data;
    for (size_t at = 0; at < a->rows * a->cols; at += qg_group(a)) {
        struct block b = cuda ? cuda_block(a, at) : torch_block(a, at);
        *absmax++ = b.stored;
        for (size_t i = 0; i < b.n; i += QG_CHUNK) {
            size_t n = qg_smaller(b.n - i, QG_CHUNK);
            load_scaled(a, &b, i, n, f);
            f[n] = cuda ? 0 * b.factor : 0; // behind an odd last one
            encode_piece(format, !cuda, n % 2 ? n + 1 : n, f, codes);
            for (size_t j = 0; j < (n + 1) / 2; j++)
                packed[(at + i) / 2 + j] = (uint8_t)(codes[2 * j] << 4 | codes[2 * j + 1]);
        }
    }
}

/* Elements at .. at+n of the flattened tensor, not rounded; absmax as every block has it. */
static void decode(const struct format *format, const uint8_t *packed, const float *absmax,
                   size_t group, size_t at, size_t n, float *restrict f)
{
    for (size_t i = at; i < at + n;) {
        size_t end = qg_smaller((i / group + 1) * group, at + n);
        float scale = absmax[i / group];
        for (; i < end; i++)
            f[i - at] = format->value[packed[i / 2] >> (4 - i % 2 * 4) & 15] * scale;
    }
}

static void dequant(const struct qg_args *a, const struct format *format, const float *absmax)
{
    float f[QG_CHUNK];
    size_t total = a->rows * a->cols;
    for (size_t at = 0; at < total; at += QG_CHUNK) {
        size_t n = qg_smaller(total - at, QG_CHUNK);
        decode(format, a->in[0].data, absmax, qg_group(a), at, n, f);
        qg_store(&a->out[0], at, n, f);
    }
}

static void load_weights(const struct qg_args *a, const struct format *format, const float *absmax,
                         size_t at, size_t n, float *w)
{
    decode(format, a->in[1].data, absmax, qg_group(a), at, n, w);
    QG_FOR_DTYPE(T, a->dtype, for (size_t i = 0; i < n; i++) w[i] = qg_round_as(T, w[i]));
}

/* The three operations of a format whose absmax is plane 1. */
#define FOUR_BITS(name)                                                                            \
    static void name##_convert(const struct qg_args *a)                                            \
    {                                                                                              \
        struct format format = name(a->param[IMPL] == CUDA);                                       \
        encode(a, &format, a->out[1].data);                                                        \
    }                                                                                              \
    static void name##_dequant(const struct qg_args *a)                                            \
    {                                                                                              \
        struct format format = name(a->param[IMPL] == CUDA);                                       \
        dequant(a, &format, a->in[1].data);                                                        \
    }                                                                                              \
    static void name##_weights(const struct qg_args *a, size_t row, size_t at, size_t n, float *w) \
    {                                                                                              \
        struct format format = name(a->param[IMPL] == CUDA);                                       \
        load_weights(a, &format, a->in[2].data, row * a->cols + at, n, w);                         \
    }                                                                                              \
    static const struct qg_product name##_product = {name##_weights, qg_inputs_plain, NULL};       \
    QG_MATMUL(name##_product)
FOUR_BITS(nf4)
FOUR_BITS(fp4)

#define ROW(s, o, f)                                                                       \
    {                                                                                      \
        .scheme = s, .backend = "c", .variant = "", .op = o, .operand = QG_WEIGHT, .fn = f \
    }

const struct qg_kernel qg_kernels_bnb_c[] = {
    ROW("nf4-bnb", QG_CONVERT, nf4_convert),
    ROW("nf4-bnb", QG_DEQUANT, nf4_dequant),
    QG_MATMUL_ROWS("nf4-bnb", nf4_product),
    ROW("fp4-bnb", QG_CONVERT, fp4_convert),
    ROW("fp4-bnb", QG_DEQUANT, fp4_dequant),
    QG_MATMUL_ROWS("fp4-bnb", fp4_product),
    {.scheme = NULL},
};
