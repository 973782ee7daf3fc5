/* SPDX-License-Identifier: MIT
 *
 * Two of ggml's K-quants: super-blocks of 256 elements, whose parts have integer scales under one
 * or two binary16 numbers.
 *
 *     q4_K   d, dmin fp16; 8 x (6-bit scale s, 6-bit minimum m); 256 x 4 bits
 *            w = (d s) q - dmin m                       parts of 32
 *     q6_K   256 x (low 4 bits, high 2 bits); 16 x int8 scale s; d fp16
 *            w = (d s) (q - 32)                         parts of 16
 *
 * Each part is fitted first: of some twenty grids around the obvious one, each with the scale (and
 * minimum) that is best for it by weighted least squares, the one of least error is kept. Then the
 * parts' scales become integers, and with these, and the rounded d, all codes are computed anew;
 * parts whose rounded scale is 0 keep the codes of their fit, which have no meaning any more.
 *
 *     q4_K   weights sqrt(mean x^2) + |x|; grids of 14, 14.1, ... 16 steps from min to max; the
 *            minimum is 0 or below, and stays what the best grid so far made of it
 *     q6_K   weights x^2; grids on which the element of largest magnitude is -32, then -31.1,
 *            -31.2, ... -32.9
 *
 * Every product and sum is rounded by itself and in the order written here: with fused operations
 * about 1 block in 50 comes out differently.
 *
 * There is no prepare path upstream. The quantizers are those without an importance matrix.
 *
 * Sources: ggml:src/ggml-quants.c quantize_row_q4_K_ref, make_qkx2_quants, quantize_row_q6_K_ref,
 * make_qx_quants, dequantize_row_q{4,6}_K; ggml:src/ggml-common.h;
 * ggml:src/ggml-cpu/quants.c ggml_vec_dot_q{4,6}_K_q8_K_generic.
 */
#include "schemes/gguf.h"

static int32_t clamp_int(int32_t q, int32_t low, int32_t high)
{
    return q < low ? low : q > high ? high : q;
}

/* --- q4_K: the fit --------------------------------------------------------------------------- */

/* A part of 32 and the grid scale q + min that was found for it. */
struct fit {
    float x[32], weight[32];
    float scale, min;
    uint8_t q[32];
};

static void weigh(struct fit *f)
{
    float squares = 0.0f;
    for (size_t i = 0; i < 32; i++)
        squares = qg_add(squares, qg_mul(f->x[i], f->x[i]));
    float mean = sqrtf(qg_div(squares, 32.0f));
    for (size_t i = 0; i < 32; i++)
        f->weight[i] = qg_add(mean, qg_abs(f->x[i]));
}

/* Codes of the grid with 1/scale = inverse. */
static void codes_of(const struct fit *f, float inverse, float min, uint8_t *q)
{
    for (size_t i = 0; i < 32; i++)
        q[i] = (uint8_t)clamp_int(qg_gguf_nearest(qg_mul(inverse, qg_sub(f->x[i], min))), 0, 15);
}

/* The weighted sum of squared errors. */
static float error_of(const struct fit *f, float scale, float min, const uint8_t *q)
{
    float error = 0.0f;
    for (size_t i = 0; i < 32; i++) {
        float e = qg_sub(qg_add(qg_mul(scale, q[i]), min), f->x[i]);
        error = qg_add(error, qg_mul(f->weight[i], qg_mul(e, e)));
    }
    return error;
}

/* Sums over a part, of w and w x, and for given codes of w q, w q q and w q x. */
struct sums {
    float w, x, q, qq, qx;
};

static void sum_codes(const struct fit *f, const uint8_t *q, struct sums *s)
{
    s->q = s->qq = s->qx = 0.0f;
    for (size_t i = 0; i < 32; i++) {
        float wq = qg_mul(f->weight[i], q[i]);
        s->q = qg_add(s->q, wq);
        s->qq = qg_add(s->qq, qg_mul(wq, q[i]));
        s->qx = qg_add(s->qx, qg_mul(wq, f->x[i]));
    }
}

/* Scale and minimum of least weighted error for the codes; false when they do not tell. */
static bool solve(const struct sums *s, float *scale, float *min)
{
    float det = qg_sub(qg_mul(s->w, s->qq), qg_mul(s->q, s->q));
    if (!(det > 0))
        return false;
    *scale = qg_div(qg_sub(qg_mul(s->w, s->qx), qg_mul(s->x, s->q)), det);
    *min = qg_div(qg_sub(qg_mul(s->qq, s->x), qg_mul(s->q, s->qx)), det);
    if (*min > 0) { // minima are 0 or below: fit the scale alone
        *min = 0.0f;
        *scale = qg_div(s->qx, s->qq);
    }
    return true;
}

static void fit_part(struct fit *f)
{
    weigh(f);
    struct sums s = {.w = f->weight[0], .x = qg_mul(f->weight[0], f->x[0])};
    float min = f->x[0], max = f->x[0];
    for (size_t i = 1; i < 32; i++) {
        min = f->x[i] < min ? f->x[i] : min;
        max = f->x[i] > max ? f->x[i] : max;
        s.w = qg_add(s.w, f->weight[i]);
        s.x = qg_add(s.x, qg_mul(f->weight[i], f->x[i]));
    }
    f->min = min > 0 ? 0.0f : min;
    f->scale = 0.0f;
    memset(f->q, 0, sizeof f->q);
    if (max == f->min)
        return;
    float inverse = qg_div(15.0f, qg_sub(max, f->min));
    f->scale = qg_div(1.0f, inverse);
    codes_of(f, inverse, f->min, f->q);
    float least = error_of(f, f->scale, f->min, f->q);
    for (int t = 0; t <= 20; t++) {
        float steps = qg_add(qg_add(-1.0f, qg_mul(0.1f, (float)t)), 15.0f);
        uint8_t q[32];
        float scale_t, min_t;
        codes_of(f, qg_div(steps, qg_sub(max, f->min)), f->min, q);
        sum_codes(f, q, &s);
        if (!solve(&s, &scale_t, &min_t))
            continue;
        float error = error_of(f, scale_t, min_t, q);
        if (!(error < least))
            continue;
        least = error;
        f->scale = scale_t;
        f->min = min_t;
        memcpy(f->q, q, sizeof q);
    }
}

/* --- q4_K: the block ------------------------------------------------------------------------- */

/* 6-bit scales (0) and minima (1) of 8 parts in 12 bytes: those of the first four parts in the low
 * six bits of bytes 0..3 and 4..7, the low four bits of the others as nibbles of bytes 8..11, their
 * high two bits on top of the former. */
static unsigned get6(const uint8_t *packed, size_t part, size_t which)
{
    if (part < 4)
        return packed[part + 4 * which] & 63u;
    return ((unsigned)packed[part + 4] >> 4 * which & 15u) |
           (unsigned)packed[part - 4 + 4 * which] >> 6 << 4;
}

/* Into bytes that are 0 where they were not set. */
static void put6(uint8_t *packed, size_t part, size_t which, unsigned v)
{
    if (part < 4) {
        packed[part + 4 * which] |= (uint8_t)v;
        return;
    }
    packed[part + 4] |= (uint8_t)((v & 15u) << 4 * which);
    packed[part - 4 + 4 * which] |= (uint8_t)(v >> 4 << 6);
}

static unsigned code_q4_K(const uint8_t *block, size_t i)
{
    return (unsigned)block[16 + i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15u;
}

/* d s of element i's part. */
static float scale_q4_K(const uint8_t *block, size_t i)
{
    return qg_mul(qg_gguf_half(block), (float)get6(block + 4, i / 32, 0));
}

static float min_q4_K(const uint8_t *block, size_t i)
{
    return qg_mul(qg_gguf_half(block + 2), (float)get6(block + 4, i / 32, 1));
}

static float value_q4_K(const uint8_t *block, size_t i)
{
    return qg_sub(qg_mul(scale_q4_K(block, i), (float)code_q4_K(block, i)), min_q4_K(block, i));
}

/* v / unit as 6 bits; a byte is what upstream keeps before it takes the minimum. */
static unsigned six_bits(float inverse_unit, float v)
{
    unsigned k = (uint8_t)qg_gguf_nearest(qg_mul(inverse_unit, v));
    return k < 63 ? k : 63;
}

static void encode_q4_K(const struct qg_args *a, size_t at, const float *x, uint8_t *block)
{
    struct fit f[8];
    float most_scale = 0.0f, most_min = 0.0f;
    memset(block, 0, 144);
    for (size_t p = 0; p < 8; p++) {
        memcpy(f[p].x, x + 32 * p, sizeof f[p].x);
        fit_part(&f[p]);
        most_scale = f[p].scale > most_scale ? f[p].scale : most_scale;
        most_min = -f[p].min > most_min ? -f[p].min : most_min;
    }
    float inverse_scale = most_scale > 0 ? qg_div(63.0f, most_scale) : 0.0f;
    float inverse_min = most_min > 0 ? qg_div(63.0f, most_min) : 0.0f;
    qg_gguf_put_half(block, qg_div(most_scale, 63.0f));
    qg_gguf_put_half(block + 2, qg_div(most_min, 63.0f));
    for (size_t p = 0; p < 8; p++) {
        put6(block + 4, p, 0, six_bits(inverse_scale, f[p].scale));
        put6(block + 4, p, 1, six_bits(inverse_min, -f[p].min));
    }
    for (size_t i = 0; i < 256; i++) {
        float scale = scale_q4_K(block, i), u = qg_div(qg_add(x[i], min_q4_K(block, i)), scale);
        int32_t q = scale != 0 ? clamp_int(qg_gguf_nearest(u), 0, 15) : f[i / 32].q[i % 32];
        block[16 + i / 64 * 32 + i % 32] |= (uint8_t)(q << (i % 64 / 32 * 4));
        qg_note(a, at + i, "scale of the fit", f[i / 32].scale);
        qg_note(a, at + i, "minimum of the fit", f[i / 32].min);
        qg_note(a, at + i, "scale, stored", scale);
        qg_note(a, at + i, "(x - min) / scale", u);
        qg_note(a, at + i, "code", (float)q);
    }
}

/* With q8_K: d dx sum(s sum(q_w q_x)) - dmin dx sum(m sum(q_x)). */
static void dot_q4_K(const uint8_t *w, const uint8_t *x, struct qg_gguf_sum *s)
{
    int32_t isum = 0, magnitude = 0, mins = 0, mins_magnitude = 0;
    for (size_t i = 0; i < 256; i++) {
        int32_t q = (int8_t)x[4 + i], m = (int32_t)get6(w + 4, i / 32, 1);
        int32_t product = (int32_t)(get6(w + 4, i / 32, 0) * code_q4_K(w, i)) * q;
        isum += product;
        magnitude += product < 0 ? -product : product;
        mins += m * q;
        mins_magnitude += m * (q < 0 ? -q : q);
    }
    float dx = qg_gguf_q8_K_scale(x);
    qg_gguf_term(s, qg_gguf_half(w), dx, isum, magnitude);
    qg_gguf_term(s, -qg_gguf_half(w + 2), dx, mins, mins_magnitude);
}

/* --- q6_K ------------------------------------------------------------------------------------ */

/* Codes -32 .. 31 of 16 elements, and the scale of their grid. */
struct fit6 {
    float scale;
    int8_t q[16];
};

/* Sums of x^2 x q and x^2 q q for the grid with 1/scale = inverse. */
struct sums6 {
    float qx, qq;
};

static struct sums6 try_grid(const float *x, float inverse, int8_t *q)
{
    struct sums6 s = {0};
    for (size_t i = 0; i < 16; i++) {
        float w = qg_mul(x[i], x[i]);
        q[i] = (int8_t)clamp_int(qg_gguf_nearest(qg_mul(inverse, x[i])), -32, 31);
        s.qx = qg_add(s.qx, qg_mul(qg_mul(w, x[i]), q[i]));
        s.qq = qg_add(s.qq, qg_mul(qg_mul(w, q[i]), q[i]));
    }
    return s;
}

/* Keeps the grid with the largest qx^2 / qq, which is the one of least weighted error. */
static struct fit6 fit_part6(const float *x)
{
    struct fit6 f = {0};
    float extreme = qg_gguf_extreme(x, 16);
    memset(f.q, -32, sizeof f.q);
    if (qg_abs(extreme) < 1e-15f)
        return f;
    struct sums6 s = try_grid(x, qg_div(-32.0f, extreme), f.q);
    f.scale = s.qq != 0 ? qg_div(s.qx, s.qq) : 0.0f;
    float best = qg_mul(f.scale, s.qx);
    for (int t = -9; t <= 9; t++) {
        int8_t q[16];
        float steps = qg_add(32.0f, qg_mul(0.1f, (float)t));
        s = try_grid(x, qg_div(-steps, extreme), q);
        if (t == 0 || !(s.qq > 0 && qg_mul(s.qx, s.qx) > qg_mul(best, s.qq)))
            continue;
        f.scale = qg_div(s.qx, s.qq);
        best = qg_mul(f.scale, s.qx);
        memcpy(f.q, q, sizeof q);
    }
    return f;
}

/* Element i of 256: the nibble and the bit pair of its half. */
static unsigned code_q6_K(const uint8_t *block, size_t i)
{
    size_t half = i / 128, l = i % 32, quarter = i % 128 / 32;
    unsigned low = (unsigned)block[64 * half + 32 * (quarter % 2) + l] >> (quarter / 2 * 4) & 15u;
    return low | ((unsigned)block[128 + 32 * half + l] >> 2 * quarter & 3u) << 4;
}

/* Into a block whose codes are 0 so far. */
static void put_q6_K(uint8_t *block, size_t i, unsigned q)
{
    size_t half = i / 128, l = i % 32, quarter = i % 128 / 32;
    block[64 * half + 32 * (quarter % 2) + l] |= (uint8_t)((q & 15u) << (quarter / 2 * 4));
    block[128 + 32 * half + l] |= (uint8_t)(q >> 4 << 2 * quarter);
}

static float scale_q6_K(const uint8_t *block, size_t i)
{
    return qg_mul(qg_gguf_half(block + 208), (int8_t)block[192 + i / 16]);
}

static float value_q6_K(const uint8_t *block, size_t i)
{
    return qg_mul(scale_q6_K(block, i), (float)((int)code_q6_K(block, i) - 32));
}

/* The largest scale becomes -128. A block without any is all zero bytes, codes -32 of scale 0. */
static void encode_q6_K(const struct qg_args *a, size_t at, const float *x, uint8_t *block)
{
    struct fit6 f[16];
    float most = 0.0f;
    memset(block, 0, 210);
    for (size_t p = 0; p < 16; p++) {
        f[p] = fit_part6(x + 16 * p);
        most = qg_abs(f[p].scale) > qg_abs(most) ? f[p].scale : most;
    }
    bool empty = qg_abs(most) < 1e-15f;
    float inverse = empty ? 0.0f : qg_div(-128.0f, most);
    if (!empty)
        qg_gguf_put_half(block + 208, qg_div(1.0f, inverse));
    for (size_t p = 0; p < 16 && !empty; p++) {
        int32_t s = qg_gguf_nearest(qg_mul(inverse, f[p].scale));
        block[192 + p] = (uint8_t)(s < 127 ? s : 127);
    }
    for (size_t i = 0; i < 256; i++) {
        float scale = scale_q6_K(block, i), u = qg_div(x[i], scale);
        int32_t q = scale != 0 ? clamp_int(qg_gguf_nearest(u), -32, 31) : f[i / 16].q[i % 16];
        put_q6_K(block, i, empty ? 0 : (unsigned)(q + 32));
        qg_note(a, at + i, "scale of the fit", f[i / 16].scale);
        qg_note(a, at + i, "scale, stored", scale);
        qg_note(a, at + i, "x / scale", u);
        qg_note(a, at + i, "code", (float)code_q6_K(block, i));
    }
}

static void dot_q6_K(const uint8_t *w, const uint8_t *x, struct qg_gguf_sum *s)
{
    int32_t isum = 0, magnitude = 0;
    for (size_t i = 0; i < 256; i++) {
        int32_t q = ((int32_t)code_q6_K(w, i) - 32) * (int8_t)w[192 + i / 16];
        int32_t product = q * (int8_t)x[4 + i];
        isum += product;
        magnitude += product < 0 ? -product : product;
    }
    qg_gguf_term(s, qg_gguf_half(w + 208), qg_gguf_q8_K_scale(x), isum, magnitude);
}

/* --- the table ------------------------------------------------------------------------------- */

static const struct qg_gguf q4_K = {256,       144,        encode_q4_K, value_q4_K,
                                    code_q4_K, scale_q4_K, &qg_q8_K,    dot_q4_K};
static const struct qg_gguf q6_K = {256,       210,        encode_q6_K, value_q6_K,
                                    code_q6_K, scale_q6_K, &qg_q8_K,    dot_q6_K};
QG_GGUF_WEIGHT(q4_K, "K/256*144",
               "blocks of 256: d, dmin fp16; 12 bytes of 6-bit scales and minima; 4 x 32 bytes, "
               "element j low and j+32 high")
QG_GGUF_WEIGHT(q6_K, "K/256*210",
               "blocks of 256: 128 bytes of low nibbles; 64 of high bit pairs; 16 int8 scales; "
               "d fp16")

const struct qg_scheme qg_schemes_gguf_k[] = {
    {.name = "q4_K",
     .summary = "GGUF Q4_K: 4 bits, 6-bit scales and minima per 32, fitted in super-blocks of 256",
     .upstream = "ggml:src/ggml-quants.c quantize_row_q4_K_ref, dequantize_row_q4_K; "
                 "ggml:src/ggml-cpu/quants.c ggml_vec_dot_q4_K_q8_K_generic",
     .nonfinite = "NaN: code 0 (the NaN's integer is 0), and the codes of its part are those of "
                  "the first grid. inf: the part's scale or minimum is inf or NaN; values of the "
                  "block NaN. All-zero block: all bytes 0." QG_GGUF_ACT_NONFINITE,
     .params = qg_gguf_no_params,
     .operand =
         {[QG_WEIGHT] = QG_GGUF_OPERAND(q4_K, q4_K_dequant, 4, 16), [QG_ACTIVATION] = QG_GGUF_Q8_K},
     .matmul = q4_K_matmul,
     .refuse = qg_gguf_refuse,
     .uniform = q4_K_uniform},
    {.name = "q6_K",
     .summary = "GGUF Q6_K: 6 bits, int8 scales per 16, fitted in super-blocks of 256",
     .upstream = "ggml:src/ggml-quants.c quantize_row_q6_K_ref, dequantize_row_q6_K; "
                 "ggml:src/ggml-cpu/quants.c ggml_vec_dot_q6_K_q8_K_generic",
     .nonfinite = "NaN or inf: the part's scale is NaN, stored as 0, and its values 0; the others "
                  "as if it were not there. All-zero block: all bytes 0, values -0." //
     QG_GGUF_ACT_NONFINITE,
     .params = qg_gguf_no_params,
     .operand =
         {[QG_WEIGHT] = QG_GGUF_OPERAND(q6_K, q6_K_dequant, 6, 64), [QG_ACTIVATION] = QG_GGUF_Q8_K},
     .matmul = q6_K_matmul,
     .refuse = qg_gguf_refuse,
     .uniform = q6_K_uniform},
    {NULL},
};
