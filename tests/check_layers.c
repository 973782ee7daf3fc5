/* SPDX-License-Identifier: MIT
 *
 * What every layer in the table must keep to (loops over the table: a new layer adds no code here),
 * and the sums of intervals that their bounds rest on.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/rng.h"
#include "harness/call.h"
#include "schemes/interval.h"
#include "tests/suite.h"

/* Every letter has an extent of its own, so that a swapped pair of dimensions shows. */
static size_t extent(char letter)
{
    return letter == 'M' ? 3 : letter == 'N' ? 5 : letter == 'K' ? 32 : letter == 'R' ? 2 : 4;
}

/* Shapes of all inputs that the layer may have. */
static int shapes(const struct qg_layer *l, struct qg_tensor given[QG_MAX_TENSORS])
{
    int n = 0;
    for (const struct qg_layer_tensor *t = l->in; t->name; t++, n++) {
        given[n] = (struct qg_tensor){.name = t->name, .rank = (int)strlen(t->shape)};
        for (int i = 0; i < given[n].rank; i++)
            given[n].shape[i] = extent(t->shape[i]);
    }
    return n;
}

static struct qg_call call_of(const struct qg_layer *l, const char *params, enum qg_op op,
                              enum qg_dtype t)
{
    struct qg_args a = {0};
    struct qg_tensor given[QG_MAX_TENSORS];
    struct qg_call c;
    struct qg_error err;
    char why[256] = "";
    int n = shapes(l, given);
    qg_layer_params_default(&a, l);
    ck_assert_msg(qg_layer_params_parse(&a, l, params, &err) == QG_OK, "%s", err.message);
    ck_assert_msg(qg_layer_init(&a, l, op, t, given, n, why, sizeof why), "%s: %s", l->name, why);
    ck_assert(qg_call_alloc(&c, &a, true, &err) == QG_OK);
    return c;
}

static void compute(struct qg_call *c)
{
    qg_layer_definition(c->args.layer, c->args.op)(&c->args);
}

static void fill_normal(struct qg_call *c, uint64_t seed)
{
    for (int t = 0; t < c->args.n_in; t++)
        for (size_t i = 0; i < qg_count(&c->args.in[t]); i++)
            qg_put(&c->args.in[t], i,
                   c->args.in[t].dtype == QG_U8 ? (float)(i % 3 > 0)
                                                : (float)qg_rng_normal(seed, (uint64_t)t, i));
}

static size_t outputs(const struct qg_args *a)
{
    size_t n = 0;
    for (int t = 0; t < a->n_out; t++)
        n += qg_count(&a->out[t]);
    return n;
}

/* --- every layer ---------------------------------------------------------------------------------
 */

/* Both directions, in each dtype, write every element and say how far it may be off. */
START_TEST(writes_everything)
{
    const struct qg_layer *l;
    for (size_t i = 0; (l = qg_layer_at(i)); i++)
        for (int op = QG_FORWARD; op <= QG_BACKWARD; op++)
            for (int t = QG_F32; t <= QG_F16 && qg_layer_definition(l, (enum qg_op)op); t++) {
                struct qg_call c = call_of(l, "", (enum qg_op)op, (enum qg_dtype)t);
                fill_normal(&c, 1);
                for (int n = 0; n < c.args.n_out; n++)
                    memset(c.args.out[n].data, 0xff, qg_bytes(&c.args.out[n])); // NaN
                for (size_t n = 0; n < outputs(&c.args); n++)
                    c.args.bound[n] = -1;
                compute(&c);
                for (int n = 0; n < c.args.n_out; n++)
                    for (size_t e = 0; e < qg_count(&c.args.out[n]); e++)
                        ck_assert_msg(isfinite(qg_get(&c.args.out[n], e)), "%s %s %zu", l->name,
                                      c.args.out[n].name, e);
                for (size_t n = 0; n < outputs(&c.args); n++)
                    ck_assert_msg(c.args.bound[n] >= 0 && isfinite(c.args.bound[n]), "%s %zu",
                                  l->name, n);
                qg_call_free(&c);
            }
}
END_TEST

/* Numbers of few bits, whose sums are exact in every order: nothing is left open, by proof. */
START_TEST(few_bits_leave_nothing_open)
{
    const struct qg_layer *l;
    for (size_t i = 0; (l = qg_layer_at(i)); i++)
        for (int op = QG_FORWARD; op <= QG_BACKWARD; op++) {
            if (!qg_layer_definition(l, (enum qg_op)op) || strncmp(l->name, "lora-", 5) != 0)
                continue;
            struct qg_call c = call_of(l, "s=2", (enum qg_op)op, QG_BF16);
            for (int t = 0; t < c.args.n_in; t++)
                for (size_t e = 0; e < qg_count(&c.args.in[t]); e++)
                    qg_put(&c.args.in[t], e, (float)((int)(e * 7 + (size_t)t) % 9 - 4) / 4);
            compute(&c);
            for (size_t n = 0; n < outputs(&c.args); n++)
                ck_assert_msg(c.args.bound[n] == 0, "%s %s %zu", l->name, qg_op_name(c.args.op), n);
            qg_call_free(&c);
        }
}
END_TEST

/* --- the gradients -----------------------------------------------------------------------------
 */

static double inner(const struct qg_tensor *x, const struct qg_tensor *y)
{
    double sum = 0;
    for (size_t i = 0; i < qg_count(x); i++)
        sum += (double)qg_get(x, i) * qg_get(y, i);
    return sum;
}

/* How far inner(x, y) may be off when y is output number `out` of a. */
static double inner_bound(const struct qg_args *a, const struct qg_tensor *x, int out)
{
    double sum = 0;
    size_t at = 0;
    for (int i = 0; i < out; i++)
        at += qg_count(&a->out[i]);
    for (size_t i = 0; i < qg_count(x); i++)
        sum += fabs((double)qg_get(x, i)) * a->bound[at + i] + fabs((double)qg_get(x, i)) * 0x1p-40;
    return sum;
}

/* y is linear in the tensor, all else fixed. So inner(g, y) less the same where the tensor is zero
 * is the inner product of tensor and gradient: finite differences, whose step may be anything. */
static void check_gradient(const struct qg_layer *l, const char *name)
{
    char gradient[32];
    snprintf(gradient, sizeof gradient, "d%s", name);
    struct qg_call f = call_of(l, "s=1.5", QG_FORWARD, QG_F32),
                   zero = call_of(l, "s=1.5", QG_FORWARD, QG_F32),
                   b = call_of(l, "s=1.5", QG_BACKWARD, QG_F32);
    fill_normal(&f, 3);
    fill_normal(&b, 4);
    for (int i = 0; i < f.args.n_in; i++) {
        const struct qg_tensor *t = &f.args.in[i], *same = qg_layer_in(&b.args, t->name);
        memcpy(zero.args.in[i].data, t->data, qg_bytes(t));
        if (same)
            memcpy(same->data, t->data, qg_bytes(t));
        if (strcmp(t->name, name) == 0)
            memset(zero.args.in[i].data, 0, qg_bytes(t));
    }
    compute(&f);
    compute(&zero);
    compute(&b);
    const struct qg_tensor *g = qg_layer_in(&b.args, "g"), *t = qg_layer_in(&b.args, name),
                           *dt = qg_layer_out(&b.args, gradient);
    double along = inner(g, &f.args.out[0]) - inner(g, &zero.args.out[0]), slope = inner(t, dt);
    double off = inner_bound(&f.args, g, 0) + inner_bound(&zero.args, g, 0) +
                 inner_bound(&b.args, t, (int)(dt - b.args.out));
    ck_assert_msg(fabs(along - slope) <= off && off < fabs(along),
                  "%s %s: %.9g, slope %.9g, off by %.3g", l->name, name, along, slope, off);
    qg_call_free(&f);
    qg_call_free(&zero);
    qg_call_free(&b);
}

START_TEST(gradients_are_slopes)
{
    const struct qg_layer *l;
    for (size_t i = 0; (l = qg_layer_at(i)); i++) {
        bool dora = strncmp(l->name, "dora-", 5) == 0;
        if (!dora && strncmp(l->name, "lora-", 5) != 0)
            continue;
        check_gradient(l, "x");
        check_gradient(l, dora ? "magnitude" : "a"); // to DoRA's norm A and B are constants
        if (!dora)
            check_gradient(l, "b");
    }
}
END_TEST

/* --- the base and nothing else -------------------------------------------------------------------
 */

/* Where the adapter's B is zero, y is x . w^T, which a scheme's matmul computes as well. */
START_TEST(zero_adapter_gives_the_base)
{
    struct qg_call c = call_of(qg_layer_find("lora-unsloth"), "s=2", QG_FORWARD, QG_F32);
    fill_normal(&c, 2);
    memset(qg_layer_in(&c.args, "b")->data, 0, qg_bytes(qg_layer_in(&c.args, "b")));
    compute(&c);
    const struct qg_tensor *x = qg_layer_in(&c.args, "x"), *w = qg_layer_in(&c.args, "w");
    for (size_t m = 0; m < extent('M'); m++)
        for (size_t n = 0; n < extent('N'); n++) {
            struct qg_sum s = {0};
            for (size_t k = 0; k < extent('K'); k++)
                qg_sum_add(&s,
                           (double)qg_get(x, m * extent('K') + k) * qg_get(w, n * extent('K') + k));
            ck_assert(qg_get(&c.args.out[0], m * extent('N') + n) == (float)qg_sum_value(&s));
        }
    qg_call_free(&c);
}
END_TEST

/* --- sums of intervals
 * ----------------------------------------------------------------------------- */

/* Terms drawn anywhere from their intervals and added in binary32, in some order, end within. */
START_TEST(spread_holds_what_it_says)
{
    for (uint64_t trial = 0; trial < 2000; trial++) {
        struct qg_spread s = qg_spread_empty;
        float got = 0, scale = (float)qg_rng_normal(5, trial, 0);
        for (uint64_t i = 0; i < 40; i++) {
            float x = (float)qg_rng_normal(1, trial, i), y = (float)qg_rng_normal(2, trial, i);
            float width = trial % 2 ? 0x1p-8f * qg_abs(x) : 0;
            struct qg_interval wide = {x - width, x, x + width};
            double share = 0.5 + 0.5 * sin((double)(trial * 40 + i)); // of the interval
            float drawn = (float)(wide.lo + share * ((double)wide.hi - wide.lo));
            qg_spread_add_product(&s, wide, qg_interval_at(y));
            got = qg_add(got, qg_mul(drawn, y));
        }
        qg_spread_scale(&s, scale);
        struct qg_interval r = qg_spread_result(&s, 0, 2);
        got = qg_mul(got, scale);
        ck_assert_msg(r.lo <= got && got <= r.hi && r.lo <= r.mid && r.mid <= r.hi,
                      "%g not in %g .. %g", (double)got, (double)r.lo, (double)r.hi);
    }
}
END_TEST

START_TEST(units_and_exactness)
{
    ck_assert(qg_unit_of(12) == 4 && qg_unit_of(-0.75) == 0.25 && qg_unit_of(0x1p-140) == 0x1p-140);
    ck_assert(isinf(qg_unit_of(0)) && qg_unit_of((double)INFINITY) == 0);
    struct qg_spread s = qg_spread_empty;
    qg_spread_add(&s, 0x1p23, 0x1p23, 0x1p23);
    qg_spread_add(&s, 1, 1, 1);
    ck_assert(qg_spread_is_exact(&s)); // 2^23 + 1 units
    qg_spread_add(&s, 0x1p23, 0x1p23, 0x1p23);
    ck_assert(!qg_spread_is_exact(&s)); // 2^24 + 1 has no binary32 number
    struct qg_interval r = qg_spread_result(&s, 0, 0);
    ck_assert(r.lo < 0x1p24f && r.hi > 0x1p24f);
}
END_TEST

/* --- refusals
 * ------------------------------------------------------------------------------------- */

static void refused(enum qg_op op, enum qg_dtype t, const char *change, size_t to, const char *word)
{
    struct qg_args a = {0};
    struct qg_tensor given[QG_MAX_TENSORS];
    char why[256] = "";
    const struct qg_layer *l = qg_layer_find("lora-unsloth");
    int n = shapes(l, given);
    qg_layer_params_default(&a, l);
    for (int i = 0; i < n; i++)
        if (change && strcmp(given[i].name, change) == 0)
            given[i].shape[0] = to;
    ck_assert(!qg_layer_init(&a, l, op, t, given, n, why, sizeof why));
    ck_assert_msg(strstr(why, word), "'%s' lacks '%s'", why, word);
}

START_TEST(refuses_with_a_sentence)
{
    refused(QG_MATMUL, QG_BF16, NULL, 0, "has no matmul");
    refused(QG_FORWARD, QG_I8, NULL, 0, "F32, BF16 or F16");
    refused(QG_FORWARD, QG_BF16, "b", 7, "says N = 7, others say 5");
    refused(QG_FORWARD, QG_BF16, "x", 0, "empty");
    refused(QG_FORWARD, QG_BF16, "x", (size_t)1 << 38, "2^40");
}
END_TEST

QG_SUITE(layers, writes_everything, few_bits_leave_nothing_open, zero_adapter_gives_the_base,
         gradients_are_slopes, spread_holds_what_it_says, units_and_exactness,
         refuses_with_a_sentence)
