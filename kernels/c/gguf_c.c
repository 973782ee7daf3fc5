/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels for ggml's formats: walks over blocks, products, and the activation formats q8_0,
 * q8_1 and q8_K.
 */
#include "kernels/c/gguf_c.h"

/* --- blocks ---------------------------------------------------------------------------------- */

void qg_gguf_c_convert(const struct qg_args *a, const struct qg_gguf_kernel *f)
{
    float x[256];
    uint8_t *block = a->out[0].data;
    for (size_t at = 0; at < a->rows * a->cols; at += f->elements, block += f->bytes) {
        qg_load(&a->in[0], at, f->elements, x);
        f->encode(x, block);
    }
}

static void decode(const struct qg_gguf_kernel *f, const struct qg_gguf_numbers *n, float *y)
{
    for (size_t i = 0; i < f->elements; i += 16) {
        size_t t = i / f->term;
        float scale = n->scale[t] * (float)n->factor[i / 16];
        float min = n->min[t] * (float)n->min_factor[i / 16];
        for (size_t j = i; j < i + 16; j++)
            y[j] = f->has_min ? (float)n->level[j] * scale + min : (float)n->level[j] * scale;
    }
}

void qg_gguf_c_dequant(const struct qg_args *a, const struct qg_gguf_kernel *f)
{
    float y[256];
    struct qg_gguf_numbers n = {0};
    const uint8_t *block = a->in[0].data;
    for (size_t at = 0; at < a->rows * a->cols; at += f->elements, block += f->bytes) {
        f->unpack(block, &n);
        decode(f, &n, y);
        qg_store(&a->out[0], at, f->elements, y);
    }
}

static void encode_partner(const struct qg_args *a, const struct qg_gguf_partner *p, size_t rows,
                           uint8_t *block)
{
    float x[256];
    for (size_t at = 0; at < rows * a->cols; at += p->elements, block += p->bytes) {
        qg_load(&a->in[0], at, p->elements, x);
        p->encode(a, x, block);
    }
}

/* --- products -------------------------------------------------------------------------------- */

static int32_t sixteen(const int8_t *restrict w, const uint8_t *restrict x)
{
    int32_t sum = 0;
    for (int i = 0; i < 16; i++)
        sum += w[i] * (int8_t)x[i];
    return sum;
}

/* One block of weights with the same elements of one row of x. */
static float block_product(const struct qg_gguf_kernel *f, const struct qg_gguf_numbers *n,
                           const struct qg_gguf_partner *p, const uint8_t *x)
{
    float y = 0.0f;
    for (size_t at = 0; at < f->elements; at += f->term) {
        const uint8_t *block = x + at / p->elements * p->bytes;
        const uint8_t *codes = block + p->codes + at % p->elements;
        int32_t sum = 0;
        float mins = 0.0f;
        for (size_t i = 0; i < f->term; i += 16) {
            sum += n->factor[(at + i) / 16] * sixteen(n->level + at + i, codes + i);
            if (f->has_min)
                mins += (float)n->min_factor[(at + i) / 16] * p->sum(block, i);
        }
        size_t t = at / f->term;
        y += (n->scale[t] * p->scale(block)) * (float)sum;
        if (f->has_min)
            y += (p->sums_are_scaled ? n->min[t] : n->min[t] * p->scale(block)) * mins;
    }
    return y;
}

/* Additions that a product passes through, in floats: 16 at a time in a block, then block by block,
 * and as many minima. */
size_t qg_gguf_c_depth(size_t k)
{
    return k / 8 + 2;
}

void qg_gguf_c_matmul(const struct qg_args *a, const struct qg_gguf_kernel *f,
                      const struct qg_gguf_partner *p)
{
    size_t blocks = a->cols / f->elements, x_row = a->cols / p->elements * p->bytes;
    size_t x_step = f->elements / p->elements * p->bytes;
    uint8_t *x = (uint8_t *)a->work;
    float *sums = a->work + (a->m * x_row + 3) / 4;
    encode_partner(a, p, a->m, x);
    const uint8_t *w = a->in[1].data;
    for (size_t row = 0; row < a->rows; row++) {
        struct qg_gguf_numbers n = {0};
        memset(sums, 0, a->m * sizeof *sums);
        for (size_t b = 0; b < blocks; b++, w += f->bytes) {
            f->unpack(w, &n);
            for (size_t m = 0; m < a->m; m++)
                sums[m] += block_product(f, &n, p, x + m * x_row + b * x_step);
        }
        for (size_t m = 0; m < a->m; m++)
            qg_put(&a->out[0], m * a->rows + row, sums[m]);
    }
}

/* --- q8_0 and q8_1 --------------------------------------------------------------------------- */

enum { ACT };
enum act { ACT_X86, ACT_REF };

float qg_gguf_c_codes_ref(const float *x, uint8_t *q)
{
    float d = qg_amax_behind_nan(x, 32) / 127.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
    for (size_t i = 0; i < 32; i++)
        q[i] = (uint8_t)qg_whole_away(x[i] * inverse);
    return d;
}

/* Halves of a tree of comparisons: where one side is NaN the right one is taken. */
static float amax_avx(const float *x)
{
    float m[32];
    for (size_t i = 0; i < 32; i++)
        m[i] = qg_abs(x[i]);
    for (size_t row = 8; row < 32; row += 8)
        for (size_t i = 0; i < 8; i++)
            m[i] = qg_pick_f32(m[i] > m[row + i], m[i], m[row + i]);
    for (size_t i = 0; i < 4; i++) // upper half first
        m[i] = qg_pick_f32(m[4 + i] > m[i], m[4 + i], m[i]);
    for (size_t n = 2; n > 0; n /= 2)
        for (size_t i = 0; i < n; i++)
            m[i] = qg_pick_f32(m[i] > m[n + i], m[i], m[n + i]);
    return m[0];
}

/* Codes of x86, the unrounded d, and the sum of the integers before they were saturated. */
static float codes_avx(const float *x, uint8_t *q, int32_t *sum)
{
    float amax = amax_avx(x), factor = amax != 0 ? 127.0f / amax : 0.0f;
    int32_t k[32], large = 0;
    for (size_t i = 0; i < 32; i++) {
        float v = x[i] * factor;
        k[i] = qg_int_small(v);
        large |= qg_magnitude(v) >= 0x4a000000; // 2^21
    }
    for (size_t i = 0; large && i < 32; i++)
        k[i] = qg_whole(rintf(x[i] * factor));
    uint32_t total = 0;
    for (size_t i = 0; i < 32; i++) {
        total += (uint32_t)k[i];
        int32_t low = k[i] < -128 ? -128 : k[i];
        q[i] = (uint8_t)(low > 127 ? 127 : low);
    }
    *sum = (int32_t)total;
    return amax / 127.0f;
}

static float act_codes(const struct qg_args *a, const float *x, uint8_t *q, int32_t *sum)
{
    if (a->param[ACT] == ACT_X86)
        return codes_avx(x, q, sum);
    float d = qg_gguf_c_codes_ref(x, q);
    *sum = 0;
    for (size_t i = 0; i < 32; i++)
        *sum += (int8_t)q[i];
    return d;
}

static void encode_q8_0(const struct qg_args *a, const float *x, uint8_t *block)
{
    int32_t sum;
    qg_put_f16(block, act_codes(a, x, block + 2, &sum), 0x7e00);
}

static void encode_q8_1(const struct qg_args *a, const float *x, uint8_t *block)
{
    int32_t sum;
    float d = act_codes(a, x, block + 4, &sum);
    qg_put_f16(block, d, 0x7e00);
    qg_put_f16(block + 2, d * (float)sum, d == d ? 0xfe00 : 0x7e00);
}

static float scale_f16(const uint8_t *block)
{
    return qg_get_f16(block);
}

/* The block has one sum, which the first of its sixteens stands for. */
static float sum_q8_1(const uint8_t *block, size_t i)
{
    return i ? 0.0f : qg_get_f16(block + 2);
}

const struct qg_gguf_partner qg_gguf_c_q8_0 = {32, 34, 2, encode_q8_0, scale_f16, NULL, false};
const struct qg_gguf_partner qg_gguf_c_q8_1 = {32, 36, 4, encode_q8_1, scale_f16, sum_q8_1, true};

void qg_gguf_c_q8_0_convert(const struct qg_args *a)
{
    encode_partner(a, &qg_gguf_c_q8_0, a->rows, a->out[0].data);
}

void qg_gguf_c_q8_1_convert(const struct qg_args *a)
{
    encode_partner(a, &qg_gguf_c_q8_1, a->rows, a->out[0].data);
}

static void decode_codes(const struct qg_args *a, const struct qg_gguf_partner *p)
{
    float y[256];
    const uint8_t *block = a->in[0].data;
    for (size_t at = 0; at < a->rows * a->cols; at += p->elements, block += p->bytes) {
        float d = p->scale(block);
        for (size_t i = 0; i < p->elements; i++)
            y[i] = (float)(int8_t)block[p->codes + i] * d;
        qg_store(&a->out[0], at, p->elements, y);
    }
}

void qg_gguf_c_q8_0_dequant(const struct qg_args *a)
{
    decode_codes(a, &qg_gguf_c_q8_0);
}

/* --- q8_K ------------------------------------------------------------------------------------ */

static float scale_q8_K(const uint8_t *block)
{
    float d;
    memcpy(&d, block, sizeof d); // the bytes of a file are little-endian, as are the hosts
    return d;
}

static float sum_q8_K(const uint8_t *block, size_t i)
{
    const uint8_t *p = block + 260 + i / 16 * 2;
    return (float)(int16_t)(p[0] | p[1] << 8);
}

/* Codes lie in -127 .. 127 but for the integers of infinities, -2^22, whose lowest byte is 0. */
static void encode_q8_K(const struct qg_args *a, const float *x, uint8_t *block)
{
    (void)a;
    float v = qg_extreme(x, 256), factor = v != 0 ? -127.0f / v : 0.0f;
    float d = v != 0 ? 1.0f / factor : 0.0f;
    memcpy(block, &d, sizeof d);
    for (size_t i = 0; i < 256; i++) {
        float u = x[i] * factor;
        int32_t k = qg_int_small(qg_pick_f32(qg_magnitude(u) < 0x7f800000, u, 0.0f));
        block[4 + i] = (uint8_t)(k > 127 ? 127 : k);
    }
    for (size_t g = 0; g < 16; g++) {
        int32_t sum = 0;
        for (size_t i = 0; i < 16; i++)
            sum += (int8_t)block[4 + 16 * g + i];
        qg_put16(block + 260 + 2 * g, (unsigned)sum);
    }
}

const struct qg_gguf_partner qg_gguf_c_q8_K = {256,        292,      4,    encode_q8_K,
                                               scale_q8_K, sum_q8_K, false};

void qg_gguf_c_q8_K_convert(const struct qg_args *a)
{
    encode_partner(a, &qg_gguf_c_q8_K, a->rows, a->out[0].data);
}

void qg_gguf_c_q8_K_dequant(const struct qg_args *a)
{
    decode_codes(a, &qg_gguf_c_q8_K);
}

const struct qg_kernel qg_kernels_gguf_c[] = {
    QG_GGUF_C_ROW("q8_1", QG_ACTIVATION, QG_CONVERT, qg_gguf_c_q8_1_convert),
    QG_GGUF_C_ROW("q8_K", QG_ACTIVATION, QG_CONVERT, qg_gguf_c_q8_K_convert),
    QG_GGUF_C_ROW("q8_K", QG_ACTIVATION, QG_DEQUANT, qg_gguf_c_q8_K_dequant),
    {.scheme = NULL},
};
