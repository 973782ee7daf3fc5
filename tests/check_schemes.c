/* SPDX-License-Identifier: MIT
 *
 * What every scheme in the table must keep to (loops over the table: a new scheme adds no code
 * here), and the published worked examples.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/rng.h"
#include "harness/call.h"
#include "schemes/num/int4.h"
#include "tests/suite.h"

static struct qg_call call_of(const struct qg_scheme *s, const char *params, enum qg_op op,
                              enum qg_operand operand, enum qg_dtype t, size_t rows, size_t cols)
{
    struct qg_args a = {.rank = 4};
    struct qg_call c;
    struct qg_error err;
    char why[256] = "";
    qg_params_default(&a, s);
    ck_assert_msg(qg_params_parse(&a, s, params, &err) == QG_OK, "%s", err.message);
    ck_assert_msg(qg_args_init(&a, s, op, operand, t, 3, rows, cols, why, sizeof why), "%s", why);
    ck_assert(qg_call_alloc(&c, &a, true, &err) == QG_OK);
    return c;
}

/* Learned scales of prepare are those that convert finds in x. */
static void learn(struct qg_call *c)
{
    const struct qg_args *a = &c->args;
    bool prepares = a->op == QG_FAKE_QUANT || a->op == QG_FAKE_QUANT_GRAD;
    if (!prepares || !a->scheme->operand[a->operand].learned)
        return;
    struct qg_call found =
        call_of(a->scheme, "", QG_CONVERT, a->operand, a->dtype, a->rows, a->cols);
    memcpy(found.args.in[0].data, a->in[0].data, qg_bytes(&a->in[0]));
    qg_definition(a->scheme, a->operand, QG_CONVERT)(&found.args);
    qg_call_learn(a, &found.args);
    qg_call_free(&found);
}

static void compute(struct qg_call *c)
{
    learn(c);
    qg_definition(c->args.scheme, c->args.operand, c->args.op)(&c->args);
}

static void fill(const struct qg_tensor *t, uint64_t seed, double sigma)
{
    for (size_t i = 0; i < qg_count(t); i++)
        qg_put(t, i, (float)(sigma * qg_rng_normal(seed, 0, i)));
}

/* --- the worked examples --------------------------------------------------------------------- */

/* One group of eight bf16 weights, four times over: the same extremes, so the same scales. */
static const uint16_t example[8] = {0x3cfe, 0xbce1, 0x3c9c, 0xbb90, 0x3a38, 0x3d2e, 0xbd33, 0x3c4d};

static void check_bits(const struct qg_tensor *y, const uint16_t *want, const char *what)
{
    for (size_t i = 0; i < 32; i++)
        ck_assert_msg(((const uint16_t *)y->data)[i] == want[i % 8],
                      "%s: element %zu is %04x, not %04x", what, i, ((const uint16_t *)y->data)[i],
                      want[i % 8]);
}

static void check_prepare(const char *scheme, const char *params, const uint16_t *want)
{
    struct qg_call c =
        call_of(qg_scheme_find(scheme), params, QG_FAKE_QUANT, QG_WEIGHT, QG_BF16, 1, 32);
    for (size_t i = 0; i < 32; i++)
        ((uint16_t *)c.args.in[0].data)[i] = example[i % 8];
    compute(&c);
    check_bits(&c.args.out[0], want, scheme);
    qg_call_free(&c);
}

/* Converts the example, checks codes, and leaves the planes in the dequant call it returns. */
static struct qg_call check_convert(const char *scheme, const char *params, const int *codes)
{
    const struct qg_scheme *s = qg_scheme_find(scheme);
    struct qg_call c = call_of(s, params, QG_CONVERT, QG_WEIGHT, QG_BF16, 1, 32);
    struct qg_call d = call_of(s, params, QG_DEQUANT, QG_WEIGHT, QG_BF16, 1, 32);
    for (size_t i = 0; i < 32; i++)
        ((uint16_t *)c.args.in[0].data)[i] = example[i % 8];
    compute(&c);
    for (size_t i = 0; i < 32; i++)
        ck_assert_int_eq(qg_int4_get(c.args.out[0].data, i), codes[i % 8]);
    for (int i = 0; i < c.args.n_out; i++)
        memcpy(d.args.in[i].data, c.args.out[i].data, qg_bytes(&c.args.out[i]));
    qg_call_free(&c);
    compute(&d);
    return d;
}

START_TEST(int4_example)
{
    const int codes[8] = {5, -5, 3, -1, 0, 7, -8, 2};
    const uint16_t prepared[8] = {0x3cfe, 0xbcd9, 0x3ca0, 0xbb64, 0x3b14, 0x3d2e, 0xbd33, 0x3c61};
    const uint16_t fused[8] = {0x3cfe, 0xbcd8, 0x3ca0, 0xbb64, 0x3b14, 0x3d2e, 0xbd33, 0x3c61};
    const uint16_t two_step[8] = {0x3cfe, 0xbcd8, 0x3ca0, 0xbb64, 0x3b14, 0x3d2d, 0xbd33, 0x3c61};
    check_prepare("int4", "group=32", prepared);
    struct qg_call d = check_convert("int4", "group=32", codes);
    ck_assert_uint_eq(((uint16_t *)d.args.in[1].data)[0], 0x3bbc);
    ck_assert_uint_eq(((uint16_t *)d.args.in[2].data)[0], 0x3b14);
    check_bits(&d.args.out[0], fused, "fused");
    qg_call_free(&d);
    d = check_convert("int4", "group=32 dequant=two-step", codes);
    check_bits(&d.args.out[0], two_step, "two-step");
    qg_call_free(&d);
}
END_TEST

START_TEST(int4_old_example)
{
    const uint16_t coarse[8] = {0x3d00, 0xbd00, 0x3c80, 0xbc00, 0x0000, 0x3d20, 0xbd40, 0x3c80};
    const uint16_t fine[8] = {0x3cef, 0xbcef, 0x3c8f, 0xbbbf, 0x0000, 0x3d27, 0xbd27, 0x3c3f};
    check_prepare("int4-old", "group=32", coarse);
    check_prepare("int4-old", "group=32 prepare-eps=0", fine);
}
END_TEST

START_TEST(fp8_int4_example)
{
    const int codes[8] = {6, -5, 3, -1, 0, 7, -8, 2};
    const float effective[8] = {320, -288, 160, -56, -0.0f, 384, -448, 112};
    const uint16_t prepared[8] = {0x3d06, 0xbce0, 0x3c86, 0xbbb3, 0x0000, 0x3d1d, 0xbd33, 0x3c33};
    check_prepare("fp8-int4", "group=32", prepared);
    struct qg_call d = check_convert("fp8-int4", "group=32", codes);
    float row_scale = qg_get(&d.args.in[2], 0);
    ck_assert_msg(row_scale == 9.754725761e-05f, "row scale %.9g", (double)row_scale);
    ck_assert(qg_get(&d.args.in[1], 0) == 56.0f);
    for (size_t i = 0; i < 32; i++) {
        float want = qg_round(QG_BF16, effective[i % 8] * row_scale),
              got = qg_get(&d.args.out[0], i);
        ck_assert(got == want && signbit(got) == signbit(want));
    }
    qg_call_free(&d);
}
END_TEST

/* --- properties of every scheme -------------------------------------------------------------- */

static bool takes(const struct qg_scheme *s, const char *params, enum qg_op op,
                  enum qg_operand operand, size_t rows)
{
    struct qg_args a = {.rank = 4};
    struct qg_error err;
    char why[256];
    qg_params_default(&a, s);
    return qg_params_parse(&a, s, params, &err) == QG_OK &&
           qg_args_init(&a, s, op, operand, QG_BF16, 3, rows, 256, why, sizeof why);
}

static void each_operation(const struct qg_scheme *s, const char *params,
                           void (*check)(struct qg_call *c))
{
    for (int operand = 0; operand < QG_OPERAND_COUNT; operand++)
        for (int op = 0; op < QG_OP_COUNT; op++) {
            if (!qg_definition(s, (enum qg_operand)operand, (enum qg_op)op))
                continue;
            // Whole blocks of any flat or tiled format for those that refuse four rows.
            size_t rows = 4;
            while (rows < 128 && !takes(s, params, (enum qg_op)op, (enum qg_operand)operand, rows))
                rows *= 2;
            struct qg_call c =
                call_of(s, params, (enum qg_op)op, (enum qg_operand)operand, QG_BF16, rows, 256);
            check(&c);
            qg_call_free(&c);
        }
}

/* Calls `check` for every scheme and each of its variants, operand and operation that exists, in
 * bf16. */
static void each_call(void (*check)(struct qg_call *c))
{
    const struct qg_scheme *s;
    for (size_t i = 0; (s = qg_scheme_at(i)); i++) {
        each_operation(s, "", check);
        for (int v = 0; s->variants && s->variants[v]; v++)
            each_operation(s, s->variants[v], check);
    }
}

/* Of a code: the scheme's, or what its parameter says. */
static size_t bits_of(const struct qg_args *a)
{
    const struct qg_param *bits = qg_param_find(a->scheme, "bits");
    return bits && a->operand != QG_ACTIVATION ? (size_t)a->param[bits - a->scheme->params]
                                               : (size_t)a->scheme->operand[a->operand].code_bits;
}

/* Rows never see each other, unless scales span rows: new values in row 2 of x leave every other
 * row's results alone. */
static void check_rows_are_independent(struct qg_call *c)
{
    const struct qg_operand_def *d = &c->args.scheme->operand[c->args.operand];
    if ((c->args.op != QG_FAKE_QUANT && c->args.op != QG_FAKE_QUANT_GRAD) || d->spans_rows)
        return;
    static uint16_t before[4 * 256];
    const uint16_t *y = c->args.out[0].data;
    fill(&c->args.in[0], 1, 0.02);
    if (c->args.n_in > 1)
        fill(&c->args.in[1], 2, 1.0);
    compute(c);
    memcpy(before, y, sizeof before);
    struct qg_tensor row = c->args.in[0];
    row.shape[0] = 1;
    row.data = (uint16_t *)row.data + 2 * 256;
    fill(&row, 3, 0.5);
    compute(c);
    ck_assert_msg(memcmp(before, y, 2 * 512) == 0 && memcmp(before + 768, y + 768, 512) == 0,
                  "%s: a row changed because another one did", c->args.scheme->name);
    // (A gradient that passes straight through does not depend on x at all.)
    ck_assert_msg(c->args.op == QG_FAKE_QUANT_GRAD || memcmp(before + 512, y + 512, 512) != 0,
                  "%s: row 2 did not change", c->args.scheme->name);
}

START_TEST(rows_are_independent)
{
    each_call(check_rows_are_independent);
}
END_TEST

/* Scaling a tensor by a power of two scales the result, away from eps, subnormals and overflow. */
static void check_scales_with_powers_of_two(struct qg_call *c)
{
    // microxcaling rounds a logarithm, which is coarser the larger it is.
    if (c->args.op != QG_FAKE_QUANT || strcmp(c->args.scheme->name, "mxfp4-mxc") == 0)
        return;
    static float before[4 * 256];
    fill(&c->args.in[0], 7, 1.0);
    compute(c);
    for (size_t i = 0; i < 4 * 256; i++) {
        before[i] = qg_get(&c->args.out[0], i);
        qg_put(&c->args.in[0], i, 16.0f * qg_get(&c->args.in[0], i));
    }
    compute(c);
    for (size_t i = 0; i < 4 * 256; i++)
        ck_assert_msg(qg_get(&c->args.out[0], i) == 16.0f * before[i], "%s: element %zu",
                      c->args.scheme->name, i);
}

START_TEST(scales_with_powers_of_two)
{
    each_call(check_scales_with_powers_of_two);
}
END_TEST

/* Fake quantization rounds to a grid: a row holds at most 2^bits values per group, and not x
 * itself. */
static void check_lands_on_a_grid(struct qg_call *c)
{
    const struct qg_scheme *s = c->args.scheme;
    size_t group = qg_group(&c->args), bits = bits_of(&c->args);
    fill(&c->args.in[0], 11, 0.02);
    if (c->args.op != QG_FAKE_QUANT || (s->uniform && s->uniform(&c->args)))
        return;
    compute(c);
    size_t distinct = 0, same = 0;
    for (size_t i = 0; i < group; i++) {
        bool seen = false;
        for (size_t j = 0; j < i && !seen; j++)
            seen = qg_get(&c->args.out[0], i) == qg_get(&c->args.out[0], j);
        distinct += !seen;
        same += qg_get(&c->args.out[0], i) == qg_get(&c->args.in[0], i);
    }
    ck_assert_msg(distinct > 1 && distinct <= (size_t)1 << bits, "%s: %zu values in a group of %zu",
                  c->args.scheme->name, distinct, group);
    ck_assert_msg(same < group * 3 / 4, "%s: %zu of %zu weights came through unchanged",
                  c->args.scheme->name, same, group);
}

START_TEST(lands_on_a_grid)
{
    each_call(check_lands_on_a_grid);
}
END_TEST

/* The trace records steps of the element that was asked about, and changes no bit. */
static void check_trace(struct qg_call *c)
{
    if (c->args.op != QG_FAKE_QUANT && c->args.op != QG_CONVERT)
        return;
    struct qg_trace trace = {.index = 300};
    fill(&c->args.in[0], 5, 0.02);
    c->args.trace = &trace;
    compute(c);
    const int least = c->args.scheme->operand[c->args.operand].code_bits ? 2 : 1;
    ck_assert_msg(trace.n >= least, "%s %s: %d steps", c->args.scheme->name, qg_op_name(c->args.op),
                  trace.n);
    if (c->args.op == QG_FAKE_QUANT) {
        ck_assert_str_eq(trace.step[trace.n - 1].what, "y");
        ck_assert(trace.step[trace.n - 1].value == qg_get(&c->args.out[0], 300));
    }
}

START_TEST(traces_tell_the_steps)
{
    each_call(check_trace);
}
END_TEST

/* --- parameters and refusals ----------------------------------------------------------------- */

START_TEST(parameters_read_back)
{
    const struct qg_scheme *s;
    for (size_t i = 0; (s = qg_scheme_at(i)); i++) {
        struct qg_args a = {.scheme = s}, b = {.scheme = s};
        struct qg_error err;
        char text[256];
        qg_params_default(&a, s);
        qg_params_format(&a, text, sizeof text);
        ck_assert_str_eq(text, "");
        for (int p = 0; s->params[p].name; p++) {
            int last = 0;
            while (s->params[p].choices && s->params[p].choices[last + 1])
                last++;
            a.param[p] = s->params[p].choices   ? last
                         : s->params[p].integer ? s->params[p].max
                                                : 0.1 + 0.2 * s->params[p].def;
        }
        qg_params_format(&a, text, sizeof text);
        qg_params_default(&b, s);
        ck_assert_msg(qg_params_parse(&b, s, text, &err) == QG_OK, "%s: %s", text, err.message);
        for (int p = 0; s->params[p].name; p++)
            ck_assert_msg(a.param[p] == b.param[p], "%s: %s of '%s'", s->name, s->params[p].name,
                          text);
    }
}
END_TEST

static void check_refusal(const char *scheme, const char *params, enum qg_op op,
                          enum qg_operand operand, enum qg_dtype t, size_t rows, size_t cols,
                          const char *part)
{
    const struct qg_scheme *s = qg_scheme_find(scheme);
    struct qg_args a = {0};
    struct qg_error err;
    char why[256] = "";
    qg_params_default(&a, s);
    if (qg_params_parse(&a, s, params, &err) == QG_OK)
        ck_assert(!qg_args_init(&a, s, op, operand, t, 1, rows, cols, why, sizeof why));
    else
        snprintf(why, sizeof why, "%s", err.message);
    ck_assert_msg(strstr(why, part), "'%s' does not say '%s'", why, part);
}

START_TEST(refuses_with_a_sentence)
{
    check_refusal("int4", "", QG_CONVERT, QG_WEIGHT, QG_BF16, 2, 200, "K = 200, group = 128");
    check_refusal("int4", "ragged=short", QG_FAKE_QUANT, QG_WEIGHT, QG_BF16, 2, 200,
                  "does not divide");
    check_refusal("int4", "ragged=short", QG_CONVERT, QG_WEIGHT, QG_BF16, 2, 199, "odd");
    check_refusal("int8-g32", "", QG_FAKE_QUANT, QG_EMBEDDING, QG_F32, 2, 40, "ValueError");
    check_refusal("intx", "bits=1", QG_FAKE_QUANT, QG_WEIGHT, QG_BF16, 2, 64,
                  "QAT takes 2 to 8 bits");
    check_refusal("intx", "group=1", QG_FAKE_QUANT, QG_WEIGHT, QG_BF16, 2, 64,
                  "groups of at least 2");
    check_refusal("fp8-int4", "", QG_MATMUL, QG_WEIGHT, QG_BF16, 2, 130, "does not divide K");
    check_refusal("q4_0", "", QG_CONVERT, QG_WEIGHT, QG_F32, 2, 48, "rows are whole blocks");
    check_refusal("q8_1", "", QG_DEQUANT, QG_ACTIVATION, QG_F32, 2, 64, "no dequant for activ");
    check_refusal("int8", "", QG_CONVERT, QG_WEIGHT, QG_BF16, 0, 128, "empty");
    check_refusal("int8", "", QG_CONVERT, QG_WEIGHT, QG_I8, 4, 128, "F32, BF16 or F16");
    check_refusal("int8", "", QG_CONVERT, QG_ACTIVATION, QG_F32, 4, 128,
                  "no convert for activations");
    check_refusal("int8", "", QG_CONVERT, QG_WEIGHT, QG_F32, (size_t)1 << 40, 4, "2^40");
    check_refusal("int4", "grop=32", QG_CONVERT, QG_WEIGHT, QG_F32, 1, 128, "it has: group eps");
    check_refusal("int4", "group=33.5", QG_CONVERT, QG_WEIGHT, QG_F32, 1, 128,
                  "whole number from 32");
    check_refusal("int4", "dequant=fast", QG_CONVERT, QG_WEIGHT, QG_F32, 1, 128, "fused, two-step");
    check_refusal("int4", "group", QG_CONVERT, QG_WEIGHT, QG_F32, 1, 128, "NAME=VALUE");
}
END_TEST

START_TEST(ragged_group_is_short)
{
    struct qg_call c =
        call_of(qg_scheme_find("int4"), "ragged=short", QG_CONVERT, QG_WEIGHT, QG_F32, 2, 200);
    ck_assert_uint_eq(c.args.out[1].shape[0], 2);
    for (size_t i = 0; i < 400; i++)
        qg_put(&c.args.in[0], i, i % 200 < 128 ? (float)(i % 16) : (float)(i % 2));
    compute(&c);
    ck_assert(qg_get(&c.args.out[1], 0) == 1.0f);         // the whole group: 15 / 15
    ck_assert(qg_get(&c.args.out[1], 2) == 1.0f / 15.0f); // the short one: 1 / 15
    qg_call_free(&c);
}
END_TEST

QG_SUITE(schemes, int4_example, int4_old_example, fp8_int4_example, rows_are_independent,
         scales_with_powers_of_two, lands_on_a_grid, traces_tell_the_steps, parameters_read_back,
         refuses_with_a_sentence, ragged_group_is_short)
