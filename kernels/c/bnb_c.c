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
#include "schemes/num/torch_sum.h"

enum { GROUP, IMPL };
enum { CPU, CUDA, TORCH };

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

/* The C++ library's, for 8 bits. */
static struct block cpu_block(const struct qg_args *a, size_t at)
{
    size_t n = block_length(a, at);
    float absmax = largest_number(&a->in[0], at, n, 0);
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
    for (uint8_t i = 0; i < 16; i++) {
        f.value[i] = qg_nf4(i);
        f.code[i] = i;
    }
    for (int i = 0; i < 15; i++)
        f.limit[i] = (f.value[i] + f.value[i + 1]) * 0.5f;
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
        f.value[i] = qg_fp4((unsigned)i);
        f.value[i + 8] = i || cuda ? -f.value[i] : 0.0f;
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

/* Elements at .. at+n of the flattened tensor, in one block, not rounded. */
static void decode_part(const struct format *format, const uint8_t *packed, float scale, size_t at,
                        size_t n, float *restrict f)
{
    float value[16];
    for (int c = 0; c < 16; c++)
        value[c] = format->value[c] * scale;
    for (size_t i = 0; i < n; i++)
        f[i] = value[packed[(at + i) / 2] >> (4 - (at + i) % 2 * 4) & 15];
}

/* The same anywhere; absmax has the number of every block. */
static void decode(const struct format *format, const uint8_t *packed, const float *absmax,
                   size_t group, size_t at, size_t n, float *f)
{
    for (size_t i = 0; i < n;) {
        size_t part = qg_smaller(group - (at + i) % group, n - i);
        decode_part(format, packed, absmax[(at + i) / group], at + i, part, f + i);
        i += part;
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

static void round_all(enum qg_dtype t, size_t n, float *restrict w)
{
    QG_FOR_DTYPE(T, t, for (size_t i = 0; i < n; i++) w[i] = qg_round_as(T, w[i]));
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
        decode(&format, a->in[1].data, a->in[2].data, qg_group(a), row * a->cols + at, n, w);      \
        round_all(a->dtype, n, w);                                                                 \
    }                                                                                              \
    static const struct qg_product name##_product = {name##_weights, qg_inputs_plain, NULL};       \
    QG_MATMUL(name##_product)                                                                      \
    QG_LORA(name##_product)
FOUR_BITS(nf4)
FOUR_BITS(fp4)

/* --- 8 bits ---------------------------------------------------------------------------------- */

/* How many of the 255 limits are below s; all of them for NaN. */
static uint8_t place_of(const float *limit, float s)
{
    unsigned place = 0;
    for (unsigned step = 128; step; step /= 2)
        place += limit[place + step - 1] >= s ? 0 : step;
    return (uint8_t)place;
}

/* s as one of 65536 points of [-1, 1], a NaN as the lowest. */
static float point_of(float s)
{
    float high = s > 1 ? 1 : s, inside = high >= -1 ? high : -1;
    float place = (inside + 1) * 0.5f * 65535 + 0.5f;
    return (float)(2 * (int32_t)place) / 65535 - 1;
}

/* Upwards where s is half-way and the lower code is odd. */
static uint8_t even_place_of(const float *limit, float s)
{
    unsigned place = place_of(limit, s), next = place < 255 && limit[place] == s ? place & 1 : 0;
    return (uint8_t)(s == s ? place + next : 0);
}

static void byte_convert(const struct qg_args *a)
{
    int impl = (int)a->param[IMPL];
    float f[QG_CHUNK], map[256], limit[255], *absmax = a->out[1].data;
    qg_dynamic_map(map);
    for (int i = 0; i < 255; i++)
        limit[i] = (map[i] + map[i + 1]) * 0.5f;
    for (size_t at = 0; at < a->rows * a->cols; at += qg_group(a)) {
        struct block b = impl == CPU    ? cpu_block(a, at)
                         : impl == CUDA ? cuda_block(a, at)
                                        : torch_block(a, at);
        *absmax++ = b.stored;
        for (size_t i = 0; i < b.n; i += QG_CHUNK) {
            size_t n = qg_smaller(b.n - i, QG_CHUNK);
            uint8_t *code = (uint8_t *)a->out[0].data + at + i;
            load_scaled(a, &b, i, n, f);
            for (size_t k = 0; k < n; k++)
                code[k] = impl == CPU    ? place_of(limit, point_of(f[k]))
                          : impl == CUDA ? even_place_of(limit, f[k])
                                         : place_of(limit, f[k]);
        }
    }
}

static void byte_dequant(const struct qg_args *a)
{
    float f[QG_CHUNK], map[256];
    const uint8_t *codes = a->in[0].data;
    const float *absmax = a->in[1].data;
    size_t total = a->rows * a->cols, group = qg_group(a);
    qg_dynamic_map(map);
    for (size_t at = 0; at < total; at += QG_CHUNK) {
        size_t n = qg_smaller(total - at, QG_CHUNK);
        for (size_t i = 0; i < n; i++)
            f[i] = map[codes[at + i]] * absmax[(at + i) / group];
        qg_store(&a->out[0], at, n, f);
    }
}

/* --- double quantization --------------------------------------------------------------------- */

static size_t count_blocks(const struct qg_args *a)
{
    return (a->rows * a->cols + qg_group(a) - 1) / qg_group(a);
}

static void double_convert(const struct qg_args *a)
{
    struct format format = nf4(a->param[IMPL] == CUDA);
    size_t n = count_blocks(a);
    encode(a, &format, a->work);
    float offset = qg_torch_mean(a->work, n);
    for (size_t j = 0; j < n; j++)
        a->work[j] -= offset;
    struct qg_args b = *a;
    b.rows = 1;
    b.cols = n;
    b.param[GROUP] = 256;
    b.in[0] = (struct qg_tensor){.dtype = QG_F32, .data = a->work};
    b.out[0] = a->out[1];
    b.out[1] = a->out[2];
    byte_convert(&b);
    *(float *)a->out[3].data = offset;
}

/* The number of one block, by the dynamic map. */
static float double_absmax(const struct qg_tensor *planes, const float *map, size_t block)
{
    const uint8_t *codes = planes[1].data;
    const float *nested = planes[2].data, *offset = planes[3].data;
    float product = map[codes[block]] * nested[block / 256];
    return product + *offset;
}

static void double_dequant(const struct qg_args *a)
{
    struct format format = nf4(a->param[IMPL] == CUDA);
    float map[256];
    qg_dynamic_map(map);
    for (size_t j = 0; j < count_blocks(a); j++)
        a->work[j] = double_absmax(a->in, map, j);
    dequant(a, &format, a->work);
}

static void double_weights(const struct qg_args *a, size_t row, size_t at, size_t n, float *w)
{
    struct format format = nf4(a->param[IMPL] == CUDA);
    float map[256];
    size_t group = qg_group(a), first = row * a->cols + at;
    qg_dynamic_map(map);
    for (size_t i = 0; i < n;) {
        size_t part = qg_smaller(group - (first + i) % group, n - i);
        float scale = double_absmax(a->in + 1, map, (first + i) / group);
        decode_part(&format, a->in[1].data, scale, first + i, part, w + i);
        i += part;
    }
    round_all(a->dtype, n, w);
}

static const struct qg_product double_product = {double_weights, qg_inputs_plain, NULL};
QG_MATMUL(double_product)
QG_LORA(double_product)

#define ROW(s, o, f)                                                                       \
    {                                                                                      \
        .scheme = s, .backend = "c", .variant = "", .op = o, .operand = QG_WEIGHT, .fn = f \
    }

const struct qg_kernel qg_kernels_bnb_c[] = {
    ROW("nf4-bnb", QG_CONVERT, nf4_convert),
    ROW("nf4-bnb", QG_DEQUANT, nf4_dequant),
    QG_MATMUL_ROWS("nf4-bnb", nf4_product),
    QG_LORA_ROWS("nf4-bnb", nf4_product),
    ROW("fp4-bnb", QG_CONVERT, fp4_convert),
    ROW("fp4-bnb", QG_DEQUANT, fp4_dequant),
    QG_MATMUL_ROWS("fp4-bnb", fp4_product),
    QG_LORA_ROWS("fp4-bnb", fp4_product),
    ROW("nf4-bnb-double", QG_CONVERT, double_convert),
    ROW("nf4-bnb-double", QG_DEQUANT, double_dequant),
    QG_MATMUL_ROWS("nf4-bnb-double", double_product),
    QG_LORA_ROWS("nf4-bnb-double", double_product),
    ROW("int8-bnb", QG_CONVERT, byte_convert),
    ROW("int8-bnb", QG_DEQUANT, byte_dequant),
    {.scheme = NULL},
};
