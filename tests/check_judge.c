/* SPDX-License-Identifier: MIT
 *
 * Judging: a kernel with one rounding changed fails in exactly the elements where that shows, right
 * ones pass, and agreement that shows nothing is not trusted.
 */
#include <stdio.h>
#include <string.h>

#include "harness/judge.h"
#include "tests/suite.h"

static struct qg_judgement j;

/* Judges fn as a kernel of its own on data of its own. */
static const struct qg_record *judge_fill(const char *scheme, enum qg_op op,
                                          enum qg_operand operand, enum qg_claim claim,
                                          qg_op_fn *fn, const char *shape,
                                          const struct qg_fill *fill)
{
    static struct qg_kernel k;
    struct qg_args defaults = {0};
    struct qg_error err = {.message = ""};
    const struct qg_bench none = {0};
    k = (struct qg_kernel){scheme, "c", "planted", op, operand, claim, 0, NULL, fn};
    struct qg_case c = {
        .scheme = qg_scheme_find(scheme), .kernel = &k, .dtype = QG_BF16, .seed = 7, .fill = fill};
    ck_assert(qg_shape_parse(shape, &c.m, &c.rows, &c.cols, &c.rank));
    qg_params_default(&defaults, c.scheme);
    memcpy(c.param, defaults.param, sizeof c.param);
    ck_assert_msg(qg_judge(&c, &none, 20, &j, &err) == QG_OK, "%s", err.message);
    return &j.record;
}

static const struct qg_record *judge(const char *scheme, enum qg_op op, enum qg_operand operand,
                                     enum qg_claim claim, qg_op_fn *fn, const char *shape,
                                     const char *fill)
{
    return judge_fill(scheme, op, operand, claim, fn, shape, qg_fill_find(fill));
}

static void expect(const struct qg_record *r, enum qg_verdict v, const char *reason)
{
    ck_assert_msg(r->verdict == v && strstr(r->reason, reason), "%s: %s: %s", r->spelling,
                  qg_verdict_name((enum qg_verdict)r->verdict), r->reason);
}

/* --- int8 fake-quant, written again, with the rounding to the code as a parameter ------------ */

static void int8_fake_quant(const struct qg_args *a, float (*round)(float))
{
    const struct qg_tensor *x = &a->in[0];
    for (size_t row = 0; row < a->rows; row++) {
        float amax = 0, *s = a->work;
        for (size_t k = 0; k < a->cols; k++)
            amax = qg_max(amax, qg_abs(qg_get(x, row * a->cols + k)));
        s[0] = qg_max(qg_round(a->dtype, amax / 127.5f), qg_smallest_normal(a->dtype));
        s[1] = qg_round(a->dtype, 1 / s[0]);
        for (size_t i = row * a->cols; i < (row + 1) * a->cols; i++) {
            float q = qg_clamp(round(qg_round(a->dtype, qg_get(x, i) * s[1])) + 0.0f, -128, 127);
            qg_put(&a->out[0], i, q * s[0]);
        }
    }
}

static float to_even(float x)
{
    return rintf(x);
}

static float away(float x)
{
    return roundf(x);
}

static void right(const struct qg_args *a)
{
    int8_fake_quant(a, to_even);
}

static void mutant(const struct qg_args *a)
{
    int8_fake_quant(a, away);
}

START_TEST(test_one_rounding)
{
    const struct qg_record *r;
    r = judge("int8", QG_FAKE_QUANT, QG_WEIGHT, QG_BIT_EXACT, right, "24x512", "ties");
    expect(r, QG_PASS, "");
    ck_assert_uint_eq(r->count, 24 * 512);
    qg_judgement_free(&j);

    r = judge("int8", QG_FAKE_QUANT, QG_WEIGHT, QG_BIT_EXACT, mutant, "24x512", "ties");
    expect(r, QG_FAIL, "elements are wrong, first 'y'[");
    // Run both here: as many differ, and the first at the same place.
    struct qg_call both[2];
    struct qg_error err;
    uint64_t differ = 0;
    int64_t first = -1;
    for (int i = 0; i < 2; i++) {
        ck_assert(qg_call_alloc(&both[i], &j.got.args, false, &err) == QG_OK);
        memcpy(both[i].in[0].data, j.got.in[0].data, j.got.in[0].bytes);
        (i ? mutant : right)(&both[i].args);
    }
    for (size_t i = 0; i < 24 * 512; i++)
        if (((uint16_t *)both[0].out[0].data)[i] != ((uint16_t *)both[1].out[0].data)[i]) {
            first = differ++ ? first : (int64_t)i;
        }
    ck_assert_uint_gt(differ, 10);
    ck_assert_uint_eq(r->mismatches, differ);
    ck_assert_int_eq(r->first_bad, first);
    ck_assert_uint_eq(j.wrong_at, (size_t)first);
    for (int i = 0; i < 2; i++)
        qg_call_free(&both[i]);
    qg_judgement_free(&j);
}
END_TEST

/* --- int4 convert ---------------------------------------------------------------------------- */

static void definition(const struct qg_args *a)
{
    qg_definition(a->scheme, a->operand, a->op)(a);
}

static void one_bit_of_a_scale(const struct qg_args *a)
{
    definition(a);
    ((uint16_t *)a->out[1].data)[5] ^= 1;
}

static void one_code(const struct qg_args *a)
{
    definition(a);
    ((uint8_t *)a->out[0].data)[9] ^= 0x10;
}

/* The definition, but for the bits of its NaN. */
static void another_nan(const struct qg_args *a)
{
    definition(a);
    for (int o = 0; o < a->n_out; o++)
        for (size_t i = 0; i < qg_count(&a->out[o]); i++)
            if (isnan(qg_get(&a->out[o], i)))
                ((uint8_t *)a->out[o].data)[(i + 1) * qg_dtype_bytes(a->out[o].dtype) - 1] ^= 0x80;
}

static void number_for_nan(const struct qg_args *a)
{
    definition(a);
    for (size_t i = 0; i < qg_count(&a->out[0]); i++)
        if (isnan(qg_get(&a->out[0], i)))
            qg_put(&a->out[0], i, 448);
}

/* A NaN is a NaN, whatever its bits: processors make others. */
START_TEST(test_nan)
{
    const struct qg_record *r;
    r = judge("fp8", QG_CONVERT, QG_WEIGHT, QG_BIT_EXACT, definition, "8x512", "nonfinite");
    expect(r, QG_PASS, "");
    const uint64_t hash = r->output_hash;
    qg_judgement_free(&j);

    r = judge("fp8", QG_CONVERT, QG_WEIGHT, QG_BIT_EXACT, another_nan, "8x512", "nonfinite");
    expect(r, QG_PASS, "");
    ck_assert_uint_eq(r->codes_changed, 0);
    ck_assert(r->output_hash == hash);
    qg_judgement_free(&j);

    r = judge("fp8", QG_CONVERT, QG_WEIGHT, QG_BIT_EXACT, number_for_nan, "8x512", "nonfinite");
    expect(r, QG_FAIL, "first 'codes'[");
    ck_assert_uint_gt(r->codes_changed, 0);
    ck_assert(r->output_hash != hash);
    qg_judgement_free(&j);
}
END_TEST

START_TEST(test_convert)
{
    const struct qg_record *r;
    r = judge("int4", QG_CONVERT, QG_WEIGHT, QG_BIT_EXACT, definition, "8x512", "normal");
    expect(r, QG_PASS, "");
    ck_assert_uint_eq(r->codes, 8 * 512);
    ck_assert_uint_eq(r->codes_changed, 0);
    ck_assert_double_gt(r->sqnr_db, 15); // a 4-bit grid of Gaussian groups: about 20 dB
    ck_assert_double_lt(r->sqnr_db, 25);
    ck_assert_double_eq(r->bytes, 8 * 512 * 2 + 8 * 256 + 2 * 8 * 4 * 2);
    double sqnr = r->sqnr_db;
    qg_judgement_free(&j);

    r = judge("int4", QG_CONVERT, QG_WEIGHT, QG_BIT_EXACT, one_bit_of_a_scale, "8x512", "normal");
    expect(r, QG_FAIL, "1 of 2112 elements are wrong, first 'scales'[5]");
    ck_assert_uint_eq(r->codes_changed, 0);
    ck_assert(j.wrong_out == 1 && j.wrong_at == 5 && r->first_bad == 8 * 256 + 5);
    qg_judgement_free(&j);

    r = judge("int4", QG_CONVERT, QG_WEIGHT, QG_BIT_EXACT, one_code, "8x512", "normal");
    expect(r, QG_FAIL, "first 'codes'[9]");
    ck_assert_uint_eq(r->codes_changed, 1);
    ck_assert_double_ne(r->sqnr_db, sqnr); // of the kernel's codes, not of the definition's
    qg_judgement_free(&j);
}
END_TEST

START_TEST(test_skip)
{
    expect(judge("int4", QG_CONVERT, QG_WEIGHT, QG_BIT_EXACT, definition, "2x100", "normal"),
           QG_SKIP, "K = 100, group = 128");
    qg_judgement_free(&j);
}
END_TEST

/* --- matmul: y = x . dequant(w)^T in float, in order, over the k that `keep` leaves ---------- */

static void sgemm(const struct qg_args *a, size_t skip, bool half)
{
    size_t group = qg_group(a);
    for (size_t m = 0; m < a->m; m++)
        for (size_t n = 0; n < a->rows; n++) {
            float sum = 0;
            for (size_t k = 0; k < a->cols - skip; k++) {
                float s = qg_get(&a->in[2], n * (a->cols / group) + k / group);
                float w = qg_round(a->dtype, qg_get(&a->in[1], n * a->cols + k) * s);
                sum += qg_get(&a->in[0], m * a->cols + k) * w;
                sum = half ? qg_round(QG_F16, sum) : sum;
            }
            qg_put(&a->out[0], m * a->rows + n, sum);
        }
}

static void gemm(const struct qg_args *a)
{
    sgemm(a, 0, false);
}

static void loses_last_k(const struct qg_args *a)
{
    sgemm(a, 1, false);
}

static void half_accumulator(const struct qg_args *a)
{
    sgemm(a, 0, true);
}

START_TEST(test_bound)
{
    const struct qg_record *r;
    r = judge("int8-g32", QG_MATMUL, QG_WEIGHT, QG_WITHIN_BOUND, gemm, "4x16x512", "normal");
    expect(r, QG_PASS, "");
    ck_assert(r->bound_used >= 0 && r->bound_used < 0.9);
    ck_assert_double_eq(r->flops, 2.0 * 4 * 16 * 512);
    ck_assert_double_gt(r->sqnr_db, 35);
    ck_assert_double_lt(r->sqnr_db, 60);
    qg_judgement_free(&j);
    expect(judge("int8-g32", QG_MATMUL, QG_WEIGHT, QG_WITHIN_BOUND, loses_last_k, "4x16x512",
                 "normal"),
           QG_FAIL, "elements are wrong");
    qg_judgement_free(&j);
    expect(judge("int8-g32", QG_MATMUL, QG_WEIGHT, QG_WITHIN_BOUND, half_accumulator, "4x16x512",
                 "normal"),
           QG_FAIL, "elements are wrong");
    qg_judgement_free(&j);
}
END_TEST

/* --- doubt ----------------------------------------------------------------------------------- */

static void identity(const struct qg_args *a)
{
    memcpy(a->out[0].data, a->in[0].data, qg_bytes(&a->in[0]));
}

/* Values that an int4 grid holds exactly: 16 steps of 2^-7 from end to end. */
static double code_value(const struct qg_place *p)
{
    return ((double)(p->in_group % 16) - 3) / 128;
}

static const struct qg_fill codes = {.name = "codes", .summary = "", .value = code_value};

START_TEST(test_doubt)
{
    const struct qg_record *r;
    // Quantization skipped: wrong, whatever its SQNR.
    r = judge("int8", QG_FAKE_QUANT, QG_WEIGHT, QG_BIT_EXACT, identity, "8x512", "normal");
    expect(r, QG_FAIL, "elements are wrong");
    ck_assert(isinf(r->sqnr_db));
    qg_judgement_free(&j);
    // The same where the definition itself changes nothing: right, and the scheme says why.
    expect(judge("fp8-int4-nocast", QG_FAKE_QUANT, QG_ACTIVATION, QG_BIT_EXACT, identity, "12x512",
                 "ties"),
           QG_PASS, "as expected: this prepare path does not round");
    qg_judgement_free(&j);
    // And where it does not.
    expect(judge_fill("int4", QG_FAKE_QUANT, QG_WEIGHT, QG_BIT_EXACT, identity, "12x512", &codes),
           QG_MISTRUSTED, "the unquantized input itself");
    qg_judgement_free(&j);
    // Below eps all codes are one: the fill says so itself.
    expect(judge("int4", QG_CONVERT, QG_WEIGHT, QG_BIT_EXACT, definition, "8x512", "tiny"), QG_PASS,
           "as expected: values below");
    qg_judgement_free(&j);
    // The same from a fill that does not announce it.
    struct qg_fill silent = *qg_fill_find("tiny");
    silent.degenerate = NULL;
    expect(judge_fill("int4", QG_CONVERT, QG_WEIGHT, QG_BIT_EXACT, definition, "8x512", &silent),
           QG_MISTRUSTED, "results are");
    qg_judgement_free(&j);
}
END_TEST

/* Errors in units of the step: within half a step of a code, but for the clipped upper end. */
START_TEST(test_histogram)
{
    const struct qg_record *r;
    uint64_t sum = 0, middle = 0;
    r = judge("int4", QG_FAKE_QUANT, QG_WEIGHT, QG_BIT_EXACT, definition, "16x1024", "normal");
    for (int i = 0; i < QG_HISTOGRAM_BINS; i++) {
        sum += r->error_histogram[i];
        middle += i >= 15 && i < 49 ? r->error_histogram[i] : 0;
    }
    ck_assert_uint_eq(sum, 16 * 1024);
    ck_assert_uint_eq(middle, sum); // rounding to bf16 may push one over the half step
    ck_assert_uint_lt(r->error_histogram[31] + r->error_histogram[32],
                      sum / 8); // flat, not a spike
    qg_judgement_free(&j);
}
END_TEST

/* The same case twice: the same record to the last byte. */
START_TEST(test_repeatable)
{
    struct qg_record first = *judge("int8-int4", QG_FAKE_QUANT, QG_ACTIVATION, QG_BIT_EXACT,
                                    definition, "8x512", "heavy");
    qg_judgement_free(&j);
    const struct qg_record *r = judge("int8-int4", QG_FAKE_QUANT, QG_ACTIVATION, QG_BIT_EXACT,
                                      definition, "8x512", "heavy");
    ck_assert_uint_eq(first.input_hash, r->input_hash);
    ck_assert_uint_eq(first.output_hash, r->output_hash);
    ck_assert_double_eq(first.sqnr_db, r->sqnr_db);
    qg_judgement_free(&j);
}
END_TEST

QG_SUITE(judge, test_one_rounding, test_convert, test_nan, test_skip, test_bound, test_doubt,
         test_histogram, test_repeatable)
