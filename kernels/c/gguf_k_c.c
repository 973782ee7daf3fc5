/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of q4_K and q6_K. Codes are found in loops that vectorise; sums keep upstream's
 * order, one element after the other.
 */
#include "kernels/c/gguf_c.h"

/* The integer that the sum with 1.5 2^23 holds in its 23 low bits: to nearest even below 2^22. 0
 * for NaN. */
QG_INLINE int32_t low_bits(float x)
{
    float sum = x + 0x1.8p23f;
    int32_t k = (int32_t)(qg_f32_bits(sum) & 0x7fffffu) - 0x400000;
    return (int32_t)qg_pick(sum == sum, (uint32_t)k, 0);
}

QG_INLINE int32_t within(int32_t k, int32_t low, int32_t high)
{
    k = k < low ? low : k;
    return k > high ? high : k;
}

/* --- q4_K ------------------------------------------------------------------------------------ */

struct part {
    float x[32], w[32], sum_w, sum_wx;
    float scale, min, error; /* of the best grid so far */
    float q[32];             /* its codes */
};

static void grid_codes(const float *restrict x, float inverse, float min, float *restrict q)
{
    for (size_t i = 0; i < 32; i++)
        q[i] = (float)within(low_bits(inverse * (x[i] - min)), 0, 15);
}

static float grid_error(const struct part *p, const float *restrict q, float scale, float min)
{
    float e[32], error = 0.0f;
    for (size_t i = 0; i < 32; i++) {
        float d = (scale * q[i] + min) - p->x[i];
        e[i] = p->w[i] * (d * d);
    }
    for (size_t i = 0; i < 32; i++)
        error += e[i];
    return error;
}

static void weights_of(struct part *p)
{
    float squares = 0.0f;
    for (size_t i = 0; i < 32; i++)
        squares += p->x[i] * p->x[i];
    float mean = sqrtf(squares * 0.03125f);
    for (size_t i = 0; i < 32; i++)
        p->w[i] = mean + qg_abs(p->x[i]);
    p->sum_w = p->w[0];
    p->sum_wx = p->w[0] * p->x[0];
    for (size_t i = 1; i < 32; i++) {
        p->sum_w += p->w[i];
        p->sum_wx += p->w[i] * p->x[i];
    }
}

/* Least squares for the codes q, taken when it is better than what there was. */
static void improve(struct part *p, const float *q)
{
    float l = 0.0f, ll = 0.0f, xl = 0.0f;
    for (size_t i = 0; i < 32; i++) {
        float wl = p->w[i] * q[i];
        l += wl;
        ll += wl * q[i];
        xl += wl * p->x[i];
    }
    float det = p->sum_w * ll - l * l;
    if (!(det > 0))
        return;
    float scale = (p->sum_w * xl - p->sum_wx * l) / det;
    float min = (ll * p->sum_wx - l * xl) / det;
    if (min > 0) {
        scale = xl / ll;
        min = 0.0f;
    }
    float error = grid_error(p, q, scale, min);
    if (error < p->error) {
        p->scale = scale;
        p->min = min;
        p->error = error;
        memcpy(p->q, q, sizeof p->q);
    }
}

static void fit(struct part *p)
{
    float q[32], max = p->x[0];
    p->min = p->x[0];
    p->scale = 0.0f;
    for (size_t i = 1; i < 32; i++) {
        p->min = qg_pick_f32(p->x[i] < p->min, p->x[i], p->min);
        max = qg_pick_f32(p->x[i] > max, p->x[i], max);
    }
    if (p->min > 0)
        p->min = 0.0f;
    memset(p->q, 0, sizeof p->q);
    if (p->min == max)
        return;
    weights_of(p);
    float inverse = 15.0f / (max - p->min);
    p->scale = 1.0f / inverse;
    grid_codes(p->x, inverse, p->min, p->q);
    p->error = grid_error(p, p->q, p->scale, p->min);
    for (int t = 0; t <= 20; t++) {
        float steps = (0.1f * (float)t - 1.0f) + 15.0f;
        grid_codes(p->x, steps / (max - p->min), p->min, q);
        improve(p, q);
    }
}

/* Twelve bytes as eight scales and eight minima, and back. */
static void unpack12(const uint8_t *b, uint8_t *scale, uint8_t *min)
{
    for (size_t j = 0; j < 4; j++) {
        scale[j] = b[j] & 63;
        min[j] = b[j + 4] & 63;
        scale[j + 4] = (uint8_t)((b[j + 8] & 15) | b[j] >> 6 << 4);
        min[j + 4] = (uint8_t)(b[j + 8] >> 4 | b[j + 4] >> 6 << 4);
    }
}

static void pack12(const uint8_t *scale, const uint8_t *min, uint8_t *b)
{
    for (size_t j = 0; j < 4; j++) {
        b[j] = (uint8_t)(scale[j] | scale[j + 4] >> 4 << 6);
        b[j + 4] = (uint8_t)(min[j] | min[j + 4] >> 4 << 6);
        b[j + 8] = (uint8_t)((scale[j + 4] & 15) | (min[j + 4] & 15) << 4);
    }
}

/* Codes of all eight parts once scales and minima are integers under d and dmin. */
static void final_codes(const struct part *p, float scale, float min, uint8_t *q)
{
    for (size_t i = 0; i < 32; i++)
        q[i] = (uint8_t)p->q[i];
    if (scale == 0)
        return;
    for (size_t i = 0; i < 32; i++)
        q[i] = (uint8_t)within(low_bits((p->x[i] + min) / scale), 0, 15);
}

static uint8_t six_bits(float v)
{
    uint8_t k = (uint8_t)low_bits(v);
    return k > 63 ? 63 : k;
}

static void encode_q4_K(const float *x, uint8_t *block)
{
    struct part p[8];
    uint8_t scale[8], min[8], q[64];
    float top = 0.0f, bottom = 0.0f;
    for (size_t j = 0; j < 8; j++) {
        memcpy(p[j].x, x + 32 * j, sizeof p[j].x);
        fit(&p[j]);
        top = p[j].scale > top ? p[j].scale : top;
        bottom = -p[j].min > bottom ? -p[j].min : bottom;
    }
    float per_scale = top > 0 ? 63.0f / top : 0.0f, per_min = bottom > 0 ? 63.0f / bottom : 0.0f;
    for (size_t j = 0; j < 8; j++) {
        scale[j] = six_bits(per_scale * p[j].scale);
        min[j] = six_bits(per_min * -p[j].min);
    }
    qg_put_f16(block, top / 63.0f, 0);
    qg_put_f16(block + 2, bottom / 63.0f, 0);
    pack12(scale, min, block + 4);
    float d = qg_get_f16(block), dmin = qg_get_f16(block + 2);
    for (size_t j = 0; j < 8; j++) {
        final_codes(&p[j], d * scale[j], dmin * min[j], q + j % 2 * 32);
        for (size_t i = 0; j % 2 && i < 32; i++)
            block[16 + j / 2 * 32 + i] = (uint8_t)(q[i] | q[i + 32] << 4);
    }
}

static void unpack_q4_K(const uint8_t *block, struct qg_gguf_numbers *n)
{
    uint8_t scale[8], min[8];
    unpack12(block + 4, scale, min);
    n->scale[0] = qg_get_f16(block);
    n->min[0] = -qg_get_f16(block + 2);
    for (size_t i = 0; i < 16; i++) {
        n->factor[i] = scale[i / 2];
        n->min_factor[i] = min[i / 2];
    }
    for (size_t j = 0; j < 4; j++)
        for (size_t i = 0; i < 32; i++) {
            n->level[64 * j + i] = block[16 + 32 * j + i] & 15;
            n->level[64 * j + 32 + i] = (int8_t)(block[16 + 32 * j + i] >> 4);
        }
}

/* --- q6_K ------------------------------------------------------------------------------------ */

struct part6 {
    float scale, best; /* of the best grid so far; best: qx^2 / qq */
    float q[16];
};

/* Whether the grid is taken: the first one always, the others when they fit better. */
static void try_grid6(struct part6 *p, const float *x, float inverse, bool first)
{
    float q[16], xl = 0.0f, ll = 0.0f;
    for (size_t i = 0; i < 16; i++)
        q[i] = (float)within(low_bits(inverse * x[i]), -32, 31);
    for (size_t i = 0; i < 16; i++) {
        float w = x[i] * x[i];
        xl += (w * x[i]) * q[i];
        ll += (w * q[i]) * q[i];
    }
    if (!first && !(ll > 0 && xl * xl > p->best * ll))
        return;
    p->scale = ll != 0 ? xl / ll : 0.0f;
    p->best = p->scale * xl;
    memcpy(p->q, q, sizeof q);
}

static void fit6(struct part6 *p, const float *x)
{
    float v = qg_extreme(x, 16);
    *p = (struct part6){0};
    for (size_t i = 0; i < 16; i++)
        p->q[i] = -32.0f;
    if (qg_abs(v) < 1e-15f)
        return;
    try_grid6(p, x, -32.0f / v, true);
    for (int t = 1; t <= 19; t++)
        if (t != 10)
            try_grid6(p, x, -(32.0f + 0.1f * (float)(t - 10)) / v, false);
}

static void pack_q6(const uint8_t *restrict q, uint8_t *restrict low, uint8_t *restrict high)
{
    for (size_t i = 0; i < 64; i++)
        low[i] = (uint8_t)((q[i] & 15) | q[i + 64] << 4);
    for (size_t i = 0; i < 32; i++)
        high[i] =
            (uint8_t)(q[i] >> 4 | q[i + 32] >> 4 << 2 | q[i + 64] >> 4 << 4 | q[i + 96] >> 4 << 6);
}

static void encode_q6_K(const float *x, uint8_t *block)
{
    struct part6 p[16];
    uint8_t q[256];
    float top = 0.0f;
    for (size_t j = 0; j < 16; j++) {
        fit6(&p[j], x + 16 * j);
        top = qg_abs(p[j].scale) > qg_abs(top) ? p[j].scale : top;
    }
    if (qg_abs(top) < 1e-15f) {
        memset(block, 0, 210);
        return;
    }
    float per_scale = -128.0f / top;
    qg_put_f16(block + 208, 1.0f / per_scale, 0);
    float d = qg_get_f16(block + 208);
    for (size_t j = 0; j < 16; j++) {
        int32_t s = within(low_bits(per_scale * p[j].scale), INT32_MIN, 127);
        block[192 + j] = (uint8_t)s;
        float scale = d * (float)(int8_t)s;
        for (size_t i = 0; i < 16; i++) {
            int32_t k = within(low_bits(x[16 * j + i] / scale), -32, 31);
            q[16 * j + i] = (uint8_t)((scale == 0 ? (int32_t)p[j].q[i] : k) + 32);
        }
    }
    pack_q6(q, block, block + 128);
    pack_q6(q + 128, block + 64, block + 160);
}

static void unpack_q6_K(const uint8_t *block, struct qg_gguf_numbers *n)
{
    n->scale[0] = qg_get_f16(block + 208);
    for (size_t i = 0; i < 16; i++)
        n->factor[i] = (int8_t)block[192 + i];
    for (size_t half = 0; half < 2; half++) {
        const uint8_t *low = block + 64 * half, *high = block + 128 + 32 * half;
        int8_t *level = n->level + 128 * half;
        for (size_t i = 0; i < 128; i++) {
            int q = (low[i % 64] >> (i / 64 * 4) & 15) | (high[i % 32] >> (i / 32 * 2) & 3) << 4;
            level[i] = (int8_t)(q - 32);
        }
    }
}

static const struct qg_gguf_kernel q4_K = {256, 144, 256, true, unpack_q4_K, encode_q4_K};
static const struct qg_gguf_kernel q6_K = {256, 210, 256, false, unpack_q6_K, encode_q6_K};
QG_GGUF_C_FUNCTIONS(q4_K, qg_gguf_c_q8_K)
QG_GGUF_C_FUNCTIONS(q6_K, qg_gguf_c_q8_K)

const struct qg_kernel qg_kernels_gguf_k_c[] = {
    QG_GGUF_C_ROWS("q4_K", q4_K, qg_gguf_c_q8_K),
    QG_GGUF_C_ROW("q4_K", QG_ACTIVATION, QG_DEQUANT, qg_gguf_c_q8_K_dequant),
    QG_GGUF_C_ROWS("q6_K", q6_K, qg_gguf_c_q8_K),
    QG_GGUF_C_ROW("q6_K", QG_ACTIVATION, QG_DEQUANT, qg_gguf_c_q8_K_dequant),
    {.scheme = NULL},
};
