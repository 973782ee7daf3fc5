/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of intx-learned, group by group in pieces. Gradients of scales and zero points
 * are summed in binary64.
 */
#include "kernels/c/intx_c.h"
#include "kernels/c/matmul.h"
#include "kernels/c/rows.h"
#include "kernels/kernel.h"

enum { GROUP, BITS };

static size_t group_of(const struct qg_args *a)
{
    return a->param[GROUP] > 0 ? (size_t)a->param[GROUP] : a->cols;
}

/* Scale and zero point of a group, and what follows from them. */
struct learned {
    float scale, inverse, zero, away, low, high;
};

static struct learned learned_of(const struct qg_args *a, const struct qg_tensor *scales, size_t g)
{
    float s = qg_get(&scales[0], g), z = qg_get(&scales[1], g);
    float low = -(float)(1 << ((int)a->param[BITS] - 1));
    return (struct learned){s, 1.0f / s, z, qg_round_as(a->dtype, z), low, -low - 1.0f};
}

/* f: x -> R(R(q) - R(z)); v: q before the clamp. */
QG_INLINE void quantize(enum qg_dtype t, size_t n, float *restrict f, float *restrict v,
                        struct learned l)
{
    for (size_t i = 0; i < n; i++)
        v[i] = qg_rint(f[i] * l.inverse) + l.zero;
    for (size_t i = 0; i < n; i++)
        f[i] = qg_round_as(t, qg_round_as(t, qg_limit(v[i], l.low, l.high)) - l.away);
}

static void fake_quant(const struct qg_args *a)
{
    float f[QG_CHUNK], v[QG_CHUNK];
    size_t group = group_of(a);
    for (size_t at = 0, n; at < a->rows * a->cols; at += n) {
        n = qg_smaller(group - at % group, QG_CHUNK);
        struct learned l = learned_of(a, &a->in[1], at / group);
        qg_load(&a->in[0], at, n, f);
        QG_FOR_DTYPE(T, a->dtype, quantize(T, n, f, v, l));
        for (size_t i = 0; i < n; i++)
            f[i] *= l.scale;
        qg_store(&a->out[0], at, n, f);
    }
}

/* Sums of a group in binary64. */
struct sums {
    double ds, h, inside, dinverse;
};

/* g: dy -> dx. */
QG_INLINE void pass_back(enum qg_dtype t, size_t n, const float *restrict x,
                         const float *restrict away, const float *restrict v, float *restrict g,
                         struct learned l, struct sums *sums)
{
    for (size_t i = 0; i < n; i++) {
        float h = qg_round_as(t, g[i] * l.scale);
        float m = qg_pick_f32((v[i] >= l.low) & (v[i] <= l.high), h, 0);
        sums->ds += (double)g[i] * away[i];
        sums->h += h;
        sums->inside += m;
        sums->dinverse += (double)m * x[i];
        g[i] = m * l.inverse;
    }
}

/* The sums' own errors are below one rounding to binary32. */
static void store_sums(const struct qg_args *a, size_t g, const struct learned *l,
                       const struct sums *sums)
{
    float by_inverse = -((float)sums->dinverse * (l->inverse * l->inverse));
    qg_put(&a->out[1], g, (float)sums->ds + by_inverse);
    qg_put(&a->out[2], g, (float)sums->inside + qg_round_as(a->dtype, (float)-sums->h));
}

static void fake_quant_grad(const struct qg_args *a)
{
    float x[QG_CHUNK], f[QG_CHUNK], v[QG_CHUNK], g[QG_CHUNK];
    size_t group = group_of(a);
    struct sums sums = {0};
    for (size_t at = 0, n; at < a->rows * a->cols; at += n) {
        n = qg_smaller(group - at % group, QG_CHUNK);
        struct learned l = learned_of(a, &a->in[2], at / group);
        qg_load(&a->in[0], at, n, x);
        qg_load(&a->in[1], at, n, g);
        memcpy(f, x, n * sizeof *f);
        QG_FOR_DTYPE(T, a->dtype, quantize(T, n, f, v, l));
        QG_FOR_DTYPE(T, a->dtype, pass_back(T, n, x, f, v, g, l, &sums));
        qg_store(&a->out[0], at, n, g);
        if ((at + n) % group)
            continue;
        store_sums(a, at / group, &l, &sums);
        sums = (struct sums){0};
    }
}

static void convert(const struct qg_args *a)
{
    float f[QG_CHUNK];
    size_t group = group_of(a);
    float low = -(float)(1 << ((int)a->param[BITS] - 1)), scale = 0;
    for (size_t at = 0, n; at < a->rows * a->cols; at += n) {
        n = qg_smaller(group - at % group, QG_CHUNK);
        if (at % group == 0) {
            float exact = qg_round_as(a->dtype, qg_amax_at(&a->in[0], at, group) / (-low - 0.5f));
            scale = qg_max(qg_max(exact, qg_smallest_normal(a->dtype)), 1e-9f);
            qg_put(&a->out[1], at / group, scale);
        }
        qg_load(&a->in[0], at, n, f);
        int8_t *codes = (int8_t *)a->out[0].data + at;
        float inverse = 1.0f / scale;
        for (size_t i = 0; i < n; i++)
            codes[i] = (int8_t)qg_int_small(qg_limit(f[i] * inverse, low, -low - 1.0f));
    }
    memset(a->out[2].data, 0, qg_bytes(&a->out[2]));
}

static const struct qg_product learned = {qg_codes_weights, qg_inputs_plain, NULL};
QG_MATMUL(learned)

#define ROW(o, f) \
    .scheme = "intx-learned", .backend = "c", .variant = "", .op = o, .operand = QG_WEIGHT, .fn = f

const struct qg_kernel qg_kernels_intx_learned_c[] = {
    {ROW(QG_FAKE_QUANT, fake_quant)},
    {ROW(QG_FAKE_QUANT_GRAD, fake_quant_grad), .claim = QG_WITHIN_BOUND, .traits = QG_REORDERS},
    {ROW(QG_CONVERT, convert)},
    {ROW(QG_DEQUANT, qg_codes_dequant_c)},
    QG_MATMUL_ROWS("intx-learned", learned),
    {.scheme = NULL},
};
