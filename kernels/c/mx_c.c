/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of the MX formats. A scale is a byte that comes from bits alone, and so does its
 * reciprocal, the factor that all 32 elements of a block are multiplied with: division by a power
 * of two that has a reciprocal is that product. Elements are encoded and decoded in loops without
 * branches, compiled once per element format.
 */
#include "kernels/c/matmul.h"
#include "kernels/c/small_floats.h"
#include "kernels/kernel.h"
#include "kernels/powers.h"

enum { SCALE, VERSION, LAYOUT };
enum { BLOCK = 32 };

/* --- elements -------------------------------------------------------------------------------- */

static const struct qg_small formats[] = {QG_SMALL_E2M1, QG_SMALL_E2M3, QG_SMALL_E3M2,
                                          QG_SMALL_E4M3, QG_SMALL_E5M2};
enum { E2M1, E2M3, E3M2, E4M3, E5M2 };

static unsigned format_number(const struct qg_args *a)
{
    static const char *const names[] = {"mxfp4", "mxfp6-e2m3", "mxfp6-e3m2", "mxfp8-e4m3"};
    unsigned i = 0;
    while (i < E5M2 && strcmp(names[i], a->scheme->name) != 0)
        i++;
    return i;
}

/* Runs `statement` with F a constant format, so that its loops are compiled once for each. */
#define FOR_FORMAT(F, a, statement)                  \
    do {                                             \
        switch (format_number(a)) {                  \
        case E2M1: {                                 \
            const struct qg_small F = QG_SMALL_E2M1; \
            statement;                               \
        } break;                                     \
        case E2M3: {                                 \
            const struct qg_small F = QG_SMALL_E2M3; \
            statement;                               \
        } break;                                     \
        case E3M2: {                                 \
            const struct qg_small F = QG_SMALL_E3M2; \
            statement;                               \
        } break;                                     \
        case E4M3: {                                 \
            const struct qg_small F = QG_SMALL_E4M3; \
            statement;                               \
        } break;                                     \
        default: {                                   \
            const struct qg_small F = QG_SMALL_E5M2; \
            statement;                               \
        }                                            \
        }                                            \
    } while (0)

/* --- scales ---------------------------------------------------------------------------------- */

static struct qg_powers powers_of(const struct qg_args *a)
{
    const struct qg_small *f = &formats[format_number(a)];
    return (struct qg_powers){(int)a->param[SCALE], a->param[VERSION] == 0, f->max,
                              (uint32_t)f->power, f->mbits};
}

static float scale_value(uint32_t byte)
{
    return qg_e8m0_decode((qg_e8m0){(uint8_t)byte});
}

static size_t scale_at(const struct qg_args *a, size_t row, size_t j)
{
    size_t blocks = a->cols / BLOCK;
    return a->param[LAYOUT] == 0 ? row * blocks + j : qg_tile_at(blocks, row, j);
}

/* --- pieces of rows -------------------------------------------------------------------------- */

QG_INLINE void encode_block(struct qg_small f, const float *restrict x, float factor,
                            uint8_t *restrict codes)
{
    for (size_t i = 0; i < BLOCK; i++)
        codes[i] = qg_small_of(f, x[i] * factor);
}

QG_INLINE void decode_block(struct qg_small f, const uint8_t *restrict codes, float scale,
                            float *restrict y)
{
    for (size_t i = 0; i < BLOCK; i++)
        y[i] = qg_small_value(f, codes[i]) * scale;
}

/* Codes and scales of n elements (whole blocks, at most QG_CHUNK). */
static void quantize(const struct qg_args *a, size_t n, const float *x, uint8_t *codes,
                     uint8_t *bytes)
{
    const struct qg_powers powers = powers_of(a);
    float factor[QG_CHUNK / BLOCK];
    for (size_t j = 0; j < n / BLOCK; j++) {
        bytes[j] = (uint8_t)qg_power_of(powers, qg_amax_of(BLOCK, x + j * BLOCK));
        factor[j] = qg_power_factor(powers, bytes[j]);
    }
    FOR_FORMAT(F, a,
               for (size_t j = 0; j < n / BLOCK; j++)
                   encode_block(F, x + j * BLOCK, factor[j], codes + j * BLOCK));
}

static void dequantize(const struct qg_args *a, size_t n, const uint8_t *codes,
                       const uint8_t *bytes, float *y)
{
    FOR_FORMAT(F, a,
               for (size_t j = 0; j < n / BLOCK; j++)
                   decode_block(F, codes + j * BLOCK, scale_value(bytes[j]), y + j * BLOCK));
}

static void fake_quant(const struct qg_args *a)
{
    float f[QG_CHUNK];
    uint8_t codes[QG_CHUNK], bytes[QG_CHUNK / BLOCK];
    size_t total = a->rows * a->cols;
    for (size_t at = 0; at < total; at += QG_CHUNK) {
        size_t n = qg_smaller(total - at, QG_CHUNK);
        qg_load(&a->in[0], at, n, f);
        quantize(a, n, f, codes, bytes);
        dequantize(a, n, codes, bytes, f);
        qg_store(&a->out[0], at, n, f);
    }
}

static void convert(const struct qg_args *a)
{
    float f[QG_CHUNK];
    uint8_t codes[QG_CHUNK], bytes[QG_CHUNK / BLOCK], *scales = a->out[1].data;
    size_t k = a->cols, fp4 = a->out[0].shape[1] != k;
    memset(scales, 0, qg_bytes(&a->out[1]));
    for (size_t row = 0; row < a->rows; row++)
        for (size_t at = 0; at < k; at += QG_CHUNK) {
            size_t n = qg_smaller(k - at, QG_CHUNK);
            uint8_t *out = (uint8_t *)a->out[0].data + (row * k + at) / (fp4 ? 2 : 1);
            qg_load(&a->in[0], row * k + at, n, f);
            quantize(a, n, f, codes, bytes);
            if (fp4)
                qg_nibbles_pack(n, codes, out);
            else
                memcpy(out, codes, n);
            for (size_t j = 0; j < n / BLOCK; j++)
                scales[scale_at(a, row, at / BLOCK + j)] = bytes[j];
        }
}

/* Elements at .. at+n (whole blocks, at most QG_CHUNK) of a row, from planes. */
static void load_planes(const struct qg_args *a, const struct qg_tensor *planes, size_t row,
                        size_t at, size_t n, float *y)
{
    uint8_t codes[QG_CHUNK], bytes[QG_CHUNK / BLOCK];
    const uint8_t *in = planes[0].data, *scales = planes[1].data;
    size_t i = row * a->cols + at;
    if (planes[0].shape[1] == a->cols)
        memcpy(codes, in + i, n);
    else
        qg_nibbles_unpack(n, in + i / 2, codes);
    for (size_t j = 0; j < n / BLOCK; j++)
        bytes[j] = scales[scale_at(a, row, at / BLOCK + j)];
    dequantize(a, n, codes, bytes, y);
}

static void dequant(const struct qg_args *a)
{
    float f[QG_CHUNK];
    for (size_t row = 0; row < a->rows; row++)
        for (size_t at = 0; at < a->cols; at += QG_CHUNK) {
            size_t n = qg_smaller(a->cols - at, QG_CHUNK);
            load_planes(a, a->in, row, at, n, f);
            qg_store(&a->out[0], row * a->cols + at, n, f);
        }
}

/* --- matmul ---------------------------------------------------------------------------------- */

static void round_to_dtype(enum qg_dtype t, size_t n, float *restrict f)
{
    QG_FOR_DTYPE(T, t, for (size_t i = 0; i < n; i++) f[i] = qg_round_as(T, f[i]));
}

static void weights(const struct qg_args *a, size_t row, size_t at, size_t n, float *w)
{
    for (size_t i = 0; i < n; i += QG_CHUNK)
        load_planes(a, a->in + 1, row, at + i, qg_smaller(n - i, QG_CHUNK), w + i);
    round_to_dtype(a->dtype, n, w);
}

static void inputs(const struct qg_args *a, float *x, float *scales)
{
    uint8_t codes[QG_CHUNK], bytes[QG_CHUNK / BLOCK];
    size_t total = a->m * a->cols;
    (void)scales;
    qg_load(&a->in[0], 0, total, x);
    for (size_t at = 0; at < total; at += QG_CHUNK) {
        size_t n = qg_smaller(total - at, QG_CHUNK);
        quantize(a, n, x + at, codes, bytes);
        dequantize(a, n, codes, bytes, x + at);
    }
    round_to_dtype(a->dtype, total, x);
}

static const struct qg_product product = {weights, inputs, NULL};
QG_MATMUL(product)
QG_LORA(product)

#define ROW(s, what, o, f)                                                            \
    {                                                                                 \
        .scheme = s, .backend = "c", .variant = "", .op = o, .operand = what, .fn = f \
    }
#define OPERAND(s, what)                                                                         \
    ROW(s, what, QG_FAKE_QUANT, fake_quant), ROW(s, what, QG_FAKE_QUANT_GRAD, qg_pass_gradient), \
        ROW(s, what, QG_CONVERT, convert), ROW(s, what, QG_DEQUANT, dequant)
#define SCHEME(s)                                                                 \
    OPERAND(s, QG_WEIGHT), OPERAND(s, QG_ACTIVATION), QG_MATMUL_ROWS(s, product), \
        QG_LORA_ROWS(s, product)

const struct qg_kernel qg_kernels_mx_c[] = {
    SCHEME("mxfp4"),      SCHEME("mxfp6-e2m3"), SCHEME("mxfp6-e3m2"),
    SCHEME("mxfp8-e4m3"), SCHEME("mxfp8-e5m2"), {.scheme = NULL},
};
