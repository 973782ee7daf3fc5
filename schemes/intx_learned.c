/* SPDX-License-Identifier: MIT
 *
 * intx-learned: torchao's range learning for QAT. Scales and zero points are found once, when
 * training starts, and are parameters from then on, held in binary32 and moved by the optimizer.
 * R is a rounding to x's dtype, what has no R is binary32:
 *
 *     v = round(x (1/s)) + z,  q = clamp(v, low, high)      z need not stay a whole number
 *     y = R(R(R(q) - R(z)) s)
 *
 * Backward, with h = R(g s), m = [low <= v <= high], sums over the group:
 *
 *     dx = R(h m (1/s))
 *     ds = sum g R(R(q) - R(z)) - (1/s)^2 sum h m x         no factor as in LSQ
 *     dz = sum h m - R(sum h)                               0 where nothing is clipped
 *
 * Autograd adds up in an order that nobody promises; everything else is rounded as it does.
 *
 * Convert is that of an untrained model: the scale of intx, held in binary32 and at least 1e-9,
 * z = 0. Upstream hands trained scales and zero points to the same formulas and cuts q off to an
 * int8, so that a z with a fraction leaves converted weights below prepared ones.
 *
 * Upstream learns z only where its grid is asymmetric. It begins there with the scale and the real
 * zero point of int4-tinygemm and rounds the latter as if it were a code, so that z is 0 for all
 * weights that are small compared to 1.
 *
 * Sources: ao:torchao/quantization/qat/fake_quantizer.py IntxFakeQuantizer;
 * ao:torchao/quantization/qat/api.py; quant_primitives.py as in intx.c.
 */
#include "schemes/interval.h"
#include "schemes/intx.h"

enum { GROUP, BITS }; /* parameters */
enum { X, FAKE_SCALES, FAKE_ZEROS };
enum { GRAD_SCALES = 2, GRAD_ZEROS };

#define LEAST_SCALE 1e-9f

static size_t group(const struct qg_args *a)
{
    return a->param[GROUP] > 0 ? (size_t)a->param[GROUP] : a->cols;
}

static float lowest(const struct qg_args *a)
{
    return -(float)(1 << ((int)a->param[BITS] - 1));
}

static const char *refuse(const struct qg_args *a)
{
    if (group(a) < 2)
        return "QAT takes groups of at least 2, upstream asserts";
    return a->cols % group(a) == 0
               ? NULL
               : "the group does not divide K; upstream raises; choose a group that divides K";
}

/* --- prepare --------------------------------------------------------------------------------- */

/* One element on its way. */
struct step {
    float v, q, away; /* before the clamp, after it, R(R(q) - R(z)) */
};

static struct step step_of(const struct qg_args *a, float x, float inverse, float z)
{
    enum qg_dtype t = a->dtype;
    float low = lowest(a);
    struct step e;
    e.v = qg_add(qg_rint(qg_mul(x, inverse)), z);
    e.q = qg_clamp(e.v, low, -low - 1.0f);
    e.away = qg_round(t, qg_sub(qg_round(t, e.q), qg_round(t, z)));
    return e;
}

static void fake_quant(const struct qg_args *a)
{
    size_t n = group(a);
    for (size_t i = 0; i < a->rows * a->cols; i++) {
        float s = qg_get(&a->in[FAKE_SCALES], i / n), z = qg_get(&a->in[FAKE_ZEROS], i / n);
        struct step e = step_of(a, qg_get(&a->in[X], i), qg_div(1.0f, s), z);
        qg_put(&a->out[0], i, qg_mul(e.away, s));
        qg_note(a, i, "scale (learned)", s);
        qg_note(a, i, "zero point (learned)", z);
        qg_note(a, i, "code", e.q);
        qg_note(a, i, "y", qg_get(&a->out[0], i));
    }
}

/* Sums of one group: g (R(q) - R(z)), h, h m, h m x. */
struct sums {
    struct qg_sum ds, h, inside, dinverse;
};

static void add_element(struct sums *to, float g, float h, float m, float x, const struct step *e)
{
    qg_sum_add(&to->ds, (double)g * e->away);
    qg_sum_add(&to->h, -(double)h);
    qg_sum_add(&to->inside, (double)m);
    qg_sum_add(&to->dinverse, (double)m * x);
}

static struct qg_interval between(const struct qg_args *a, const struct qg_sum *s,
                                  unsigned roundings)
{
    return qg_interval_of(s, qg_sum_bound(s, group(a), a->depth, roundings));
}

static void grad_group(const struct qg_args *a, size_t at)
{
    enum qg_dtype t = a->dtype;
    size_t n = group(a), index = at / n;
    float low = lowest(a), s = qg_get(&a->in[GRAD_SCALES], index);
    float z = qg_get(&a->in[GRAD_ZEROS], index), inverse = qg_div(1.0f, s);
    struct sums sums = {{0}, {0}, {0}, {0}};
    for (size_t i = at; i < at + n; i++) {
        float x = qg_get(&a->in[X], i), g = qg_get(&a->in[1], i);
        struct step e = step_of(a, x, inverse, z);
        float h = qg_round(t, qg_mul(g, s));
        float m = e.v >= low && e.v <= -low - 1.0f ? h : 0.0f;
        float dx = qg_round(t, qg_mul(m, inverse));
        qg_emit(a, i, dx, dx, 0);
        add_element(&sums, g, h, m, x, &e);
    }
    struct qg_interval through_inverse =
        qg_interval_mul(QG_F32, between(a, &sums.dinverse, 1), -qg_mul(inverse, inverse));
    struct qg_interval ds = qg_interval_add(QG_F32, between(a, &sums.ds, 1), through_inverse);
    struct qg_interval behind = qg_interval_round(t, between(a, &sums.h, 0));
    qg_emit_interval(a, 1, index, ds);
    qg_emit_interval(a, 2, index, qg_interval_add(QG_F32, between(a, &sums.inside, 0), behind));
}

static void fake_quant_grad(const struct qg_args *a)
{
    for (size_t at = 0; at < a->rows * a->cols; at += group(a))
        grad_group(a, at);
}

/* --- convert --------------------------------------------------------------------------------- */

static float first_scale(const struct qg_args *a, size_t at)
{
    enum qg_dtype t = a->dtype;
    float amax = 0.0f, half_range = -lowest(a) - 0.5f;
    for (size_t i = at; i < at + group(a); i++)
        amax = qg_max(amax, qg_abs(qg_get(&a->in[0], i)));
    float scale = qg_max(qg_round(t, qg_div(amax, half_range)), qg_smallest_normal(t));
    return qg_max(scale, LEAST_SCALE);
}

static void convert(const struct qg_args *a)
{
    size_t n = group(a);
    float low = lowest(a);
    for (size_t at = 0; at < a->rows * a->cols; at += n) {
        float scale = first_scale(a, at), inverse = qg_div(1.0f, scale);
        for (size_t i = at; i < at + n; i++) {
            float q = qg_clamp(qg_rint(qg_mul(qg_get(&a->in[0], i), inverse)), low, -low - 1.0f);
            qg_put(&a->out[0], i, q);
            qg_note(a, i, "scale", scale);
            qg_note(a, i, "code", qg_get(&a->out[0], i));
        }
        qg_put(&a->out[1], at / n, scale);
        qg_put(&a->out[2], at / n, 0.0f);
    }
}

/* --- the table ------------------------------------------------------------------------------- */

#define PER_GROUP(name, what)                                 \
    {                                                         \
        name, QG_F32, 0, {&qg_ext_rows, &qg_ext_groups}, what \
    }
static const struct qg_plane planes[] = {
    {"codes", QG_I8, 0, {&qg_ext_rows, &qg_ext_cols}, "one code per byte"},
    PER_GROUP("scales", "row-major"),
    PER_GROUP("zeros", "zero points, row-major"),
    {NULL},
};
static const struct qg_plane learned[] = {
    PER_GROUP("scales", "learned"), PER_GROUP("zeros", "learned, any number"), {NULL}};
static const struct qg_plane learned_grad[] = {
    PER_GROUP("dscales", "gradient"), PER_GROUP("dzeros", "gradient"), {NULL}};

static const struct qg_param params[] = {
    [GROUP] = {"group", "elements of a row that share a scale; 0: the whole row", 32, 0, 4096, NULL,
               true},
    [BITS] = {"bits", "bits of a code", 4, 2, 8, NULL, true},
    {NULL},
};
static const char *const variants[] = {"bits=2", "bits=8 group=0", NULL};

const struct qg_scheme qg_schemes_intx_learned[] = {
    {.name = "intx-learned",
     .summary = "intx whose scales and zero points are learned, with their gradients",
     .upstream = "ao:torchao/quantization/qat/fake_quantizer.py IntxFakeQuantizer range_learning",
     .nonfinite =
         "As intx: NaN or inf in a group makes its first scale NaN or inf. A learned scale "
         "of 0 divides by 0: finite values over 0 are clipped, 0/0 is NaN.",
     .params = params,
     .variants = variants,
     .operand[QG_WEIGHT] = {.fake_quant = fake_quant,
                            .fake_quant_grad = fake_quant_grad,
                            .convert = convert,
                            .dequant = qg_intx_dequant,
                            .group = group,
                            .planes = planes,
                            .code_bits = 8,
                            .learned = learned,
                            .learned_grad = learned_grad},
     .matmul = qg_intx_matmul,
     .refuse = refuse},
    {NULL},
};
