/* SPDX-License-Identifier: MIT
 *
 * What moved between two runs: every kind of change lands in its class, and time is called
 * different neither too easily nor too late.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness/base/rng.h"
#include "harness/result.h"
#include "reports/comparison.h"
#include "reports/put.h"
#include "tests/suite.h"

enum { CASES = 12, SAMPLES = 40, OUTPUT = 64 };

static struct qg_error err;

/* A run in memory, with room for one case more. */
struct run {
    struct qg_result r;
    struct qg_record cases[CASES + 1];
    double samples[(CASES + 1) * SAMPLES];
    uint8_t output[(CASES + 1) * OUTPUT];
};

static void name_case(struct qg_record *c, unsigned i)
{
    snprintf(c->scheme, sizeof c->scheme, i < CASES / 2 ? "int4" : "int8");
    snprintf(c->op, sizeof c->op, "dequant");
    snprintf(c->operand, sizeof c->operand, "weight");
    snprintf(c->backend, sizeof c->backend, "c");
    snprintf(c->dtype, sizeof c->dtype, "F32");
    snprintf(c->spelling, sizeof c->spelling, "%s.dequant.c 64x64 f32 seed=%u", c->scheme, i);
}

/* Samples of `run`: 100 µs times `factor`, 1 % of offset of its own for each process and case, 2 %
 * of noise per sample. */
static void fill_times(struct run *run, uint64_t seed, double factor)
{
    for (size_t i = 0; i < CASES; i++) {
        double offset = exp(0.01 * qg_rng_normal(seed, 1, i));
        for (size_t k = 0; k < SAMPLES; k++)
            run->samples[i * SAMPLES + k] =
                1e-4 * factor * offset * exp(0.02 * qg_rng_normal(seed, 2 + i, k));
    }
}

static struct run *make_run(uint64_t seed, double factor)
{
    struct run *run = calloc(1, sizeof *run);
    ck_assert_ptr_nonnull(run);
    run->r.cases = run->cases;
    run->r.samples = run->samples;
    run->r.output = run->output;
    run->r.n_cases = CASES;
    run->r.n_samples = CASES * SAMPLES;
    run->r.n_output = CASES * OUTPUT;
    qg_meta_set(&run->r.meta, "cpu", "a cpu");
    qg_meta_set(&run->r.meta, "compiler", "gcc");
    for (unsigned i = 0; i < CASES; i++) {
        struct qg_record *c = &run->cases[i];
        name_case(c, i);
        c->count = 10000;
        c->sqnr_db = 20;
        c->output_hash = c->input_hash = i;
        c->warm.samples = SAMPLES;
        c->samples_at = i * SAMPLES, c->samples_n = SAMPLES;
        c->output_at = i * OUTPUT, c->output_n = OUTPUT;
    }
    fill_times(run, seed, factor);
    return run;
}

static struct qg_comparison *compare(const struct run *b, const struct run *h)
{
    struct qg_comparison *c;
    ck_assert_int_eq(qg_comparison_make(&b->r, &h->r, 0.05, &c, &err), QG_OK);
    return c;
}

/* The pair of case i of the first run. */
static const struct qg_pair *pair_of(const struct qg_comparison *c, const struct run *b, size_t i)
{
    for (size_t k = 0; k < c->n_pairs; k++)
        if (c->pair[k].base == &b->cases[i])
            return &c->pair[k];
    ck_abort_msg("case %zu has no pair", i);
    return NULL;
}

START_TEST(test_nothing_moved)
{
    struct run *a = make_run(1, 1);
    struct qg_comparison *c = compare(a, a);
    ck_assert_uint_eq(c->n_pairs, CASES);
    ck_assert_uint_eq(c->n_groups, 2);
    ck_assert_str_eq(c->group[0].name, "int4.dequant.c");
    ck_assert_uint_eq(c->total.shift[QG_SHIFT_SAME_BITS], CASES);
    ck_assert_uint_eq(c->total.pace[QG_PACE_SAME], CASES);
    ck_assert(qg_group_is_quiet(&c->total));
    ck_assert_str_eq(qg_group_class(&c->total), "same bits");
    ck_assert_uint_eq(c->n_facts, 0);
    ck_assert_uint_eq(qg_comparison_regressions(c, ~0u), 0);
    ck_assert(c->noise == 0 && c->common_ratio == 1);
    ck_assert(c->visible > 0.05 && c->visible < 0.1);
    qg_comparison_free(&c);
    free(a);
}
END_TEST

START_TEST(test_bits_and_quality)
{
    struct run *a = make_run(1, 1), *b = make_run(1, 1);
    const double noise = 2 * 10 / log(10) * sqrt(2 / 1e4); // dB, for 10,000 elements
    b->cases[0].output_hash = 99;
    b->output[4 * 3] ^= 1; // one byte of element 3, one of element 9
    b->output[4 * 9 + 3] ^= 0x80;
    b->cases[0].sqnr_db = 20 - 0.99 * noise;
    b->cases[1].output_hash = 99;
    b->cases[1].sqnr_db = 20 - 1.01 * noise;
    b->cases[2].output_hash = 99;
    b->cases[2].sqnr_db = 20 + 1.01 * noise;
    b->cases[3].output_hash = 99;
    b->cases[3].sqnr_db = NAN;
    b->cases[4].output_hash = 99;
    b->cases[4].sqnr_db = a->cases[4].sqnr_db = INFINITY;
    b->cases[6].output_hash = b->cases[6].input_hash = 99;
    struct qg_comparison *c = compare(a, b);
    const enum qg_shift want[] = {QG_SHIFT_OTHER_BITS, QG_SHIFT_DOWN,       QG_SHIFT_UP,
                                  QG_SHIFT_DOWN,       QG_SHIFT_OTHER_BITS, QG_SHIFT_SAME_BITS,
                                  QG_SHIFT_INPUT};
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
        ck_assert_msg(pair_of(c, a, i)->shift == want[i], "case %zu: %s", i,
                      qg_shift_name(pair_of(c, a, i)->shift));
    const struct qg_pair *p = pair_of(c, a, 0);
    ck_assert(p->both_stored && p->changed == 2 && p->first_changed == 3 && p->compared == 16);
    ck_assert_str_eq(qg_group_class(&c->group[0]), "quality moved");
    ck_assert_uint_eq(qg_comparison_regressions(c, QG_ON_DEFAULT), 2);
    ck_assert_uint_eq(qg_comparison_regressions(c, QG_ON_BITS), 5);
    ck_assert(c->group[0].sqnr_low < -noise && c->group[0].sqnr_high > noise);
    qg_comparison_free(&c);
    // Bytes that the hash does not tell apart are those of NaN.
    b->cases[0].output_hash = a->cases[0].output_hash;
    c = compare(a, b);
    p = pair_of(c, a, 0);
    ck_assert(p->shift == QG_SHIFT_SAME_BITS && p->compared == 16 && p->changed == 0);
    qg_comparison_free(&c);
    b->cases[0].output_hash = 99;
    // The three answers one by one.
    b->cases[1].output_hash = 1, b->cases[2].output_hash = 2, b->cases[3].output_hash = 3;
    c = compare(a, b);
    ck_assert_str_eq(qg_group_class(&c->group[0]), "other bits, same quality");
    ck_assert_uint_eq(qg_comparison_regressions(c, QG_ON_DEFAULT), 0);
    ck_assert(!qg_group_is_quiet(&c->group[0]) && !qg_group_is_quiet(&c->group[1]));
    qg_comparison_free(&c);
    free(a);
    free(b);
}
END_TEST

START_TEST(test_verdicts)
{
    static const struct {
        enum qg_verdict base, head;
        bool bad, good;
    } table[] = {
        {QG_PASS, QG_FAIL, true, false},      {QG_PASS, QG_MISTRUSTED, true, false},
        {QG_MARGINAL, QG_CRASH, true, false}, {QG_PASS, QG_SKIP, true, false},
        {QG_PASS, QG_TIMEOUT, true, false},   {QG_PASS, QG_ERROR, true, false},
        {QG_PASS, QG_MARGINAL, false, false}, {QG_FAIL, QG_FAIL, false, false},
        {QG_FAIL, QG_CRASH, false, false},    {QG_FAIL, QG_PASS, false, true},
        {QG_SKIP, QG_FAIL, false, false},     {QG_SKIP, QG_PASS, false, true},
    };
    struct run *a = make_run(1, 1), *b = make_run(1, 1);
    for (size_t i = 0; i < CASES; i++) {
        a->cases[i].verdict = table[i].base;
        b->cases[i].verdict = table[i].head;
    }
    struct qg_comparison *c = compare(a, b);
    for (size_t i = 0; i < CASES; i++) {
        const struct qg_pair *p = pair_of(c, a, i);
        ck_assert_msg(p->newly_bad == table[i].bad && p->newly_good == table[i].good, "row %zu", i);
    }
    ck_assert_uint_eq(c->total.newly_bad, 6);
    ck_assert_uint_eq(c->total.newly_good, 2);
    ck_assert_uint_eq(c->total.other_verdict, 3);
    ck_assert_int_eq(pair_of(c, a, 2)->shift, QG_SHIFT_NONE); // a crash has no output
    ck_assert_uint_eq(qg_comparison_regressions(c, QG_ON_DEFAULT), 6);
    qg_comparison_free(&c);
    free(a);
    free(b);
}
END_TEST

START_TEST(test_cases_in_one_file)
{
    struct run *a = make_run(1, 1), *b = make_run(1, 1);
    a->r.n_cases = CASES - 2;
    name_case(&b->cases[0], 1000); // 0 is gone, 1000 is new, and so are the last two
    b->cases[CASES - 1].verdict = QG_FAIL;
    b->cases[CASES - 2].verdict = QG_SKIP;
    struct qg_comparison *c = compare(a, b);
    ck_assert_uint_eq(c->total.only_base, 1);
    ck_assert_uint_eq(c->total.only_head, 3);
    ck_assert_uint_eq(qg_comparison_regressions(c, QG_ON_DEFAULT), 1); // new and failing
    ck_assert_uint_eq(qg_comparison_regressions(c, QG_ON_MISSING), 1);
    qg_comparison_free(&c);
    // Agreement about nothing is no agreement.
    for (unsigned i = 0; i < CASES; i++)
        snprintf(b->cases[i].spelling, sizeof b->cases[i].spelling, "other %u", i);
    b->cases[CASES - 1].verdict = QG_PASS;
    c = compare(a, b);
    ck_assert_uint_gt(qg_comparison_regressions(c, QG_ON_DEFAULT), 0);
    qg_comparison_free(&c);
    a->r.n_cases = b->r.n_cases = 0;
    c = compare(a, b);
    ck_assert_uint_gt(qg_comparison_regressions(c, QG_ON_DEFAULT), 0);
    qg_comparison_free(&c);
    free(a);
    free(b);
}
END_TEST

START_TEST(test_facts)
{
    struct run *a = make_run(1, 1), *b = make_run(1, 2);
    qg_meta_set(&b->r.meta, "compiler", "clang");
    qg_meta_set(&b->r.meta, "commit", "abc");
    qg_meta_set(&b->r.meta, "goldens", "new");
    qg_meta_set(&a->r.meta, "suite", "smoke");
    struct qg_comparison *c = compare(a, b);
    ck_assert_uint_eq(c->n_facts, 3);
    ck_assert_str_eq(c->fact[0].key, "compiler");
    ck_assert_str_eq(c->fact[1].key, "suite");
    ck_assert_str_eq(c->fact[1].head, "");
    ck_assert_str_eq(c->fact[2].key, "goldens");
    ck_assert_str_eq(c->fact[2].base, "");
    ck_assert_uint_eq(c->total.pace[QG_PACE_SLOWER], CASES);
    qg_comparison_free(&c);
    qg_meta_set(&b->r.meta, "cpu", "another");
    c = compare(a, b);
    ck_assert(c->other_machine);
    ck_assert_uint_eq(c->total.pace[QG_PACE_UNDECIDED], CASES);
    qg_comparison_free(&c);
    free(a);
    free(b);
}
END_TEST

START_TEST(test_time_needs_samples)
{
    struct run *a = make_run(1, 1), *b = make_run(1, 2);
    b->cases[0].warm.samples = 6; // no 97.5 % interval from six
    b->cases[1].warm.samples = 7;
    b->cases[2].warm.samples = 0;
    b->samples[3 * SAMPLES] = NAN; // times of a hostile file
    b->samples[4 * SAMPLES] = INFINITY;
    for (int k = 0; k < SAMPLES; k++)
        b->samples[5 * SAMPLES + k] = k < SAMPLES / 2 ? 0 : -1;
    a->cases[6].warm.samples = 0, a->cases[6].cold.samples = SAMPLES; // cold against cold
    b->cases[6].warm.samples = 0, b->cases[6].cold.samples = SAMPLES;
    struct qg_comparison *c = compare(a, b);
    ck_assert_int_eq(pair_of(c, a, 0)->pace, QG_PACE_UNDECIDED);
    ck_assert(isnan(pair_of(c, a, 0)->ratio));
    ck_assert_int_eq(pair_of(c, a, 1)->pace, QG_PACE_SLOWER);
    ck_assert_int_eq(pair_of(c, a, 2)->pace, QG_PACE_NONE);
    for (size_t i = 3; i < 6; i++)
        ck_assert_int_eq(pair_of(c, a, i)->pace, QG_PACE_UNDECIDED);
    ck_assert_int_eq(pair_of(c, a, 6)->pace, QG_PACE_SLOWER);
    qg_comparison_free(&c);
    free(a);
    free(b);
}
END_TEST

/* A change of a third of the cases is neither noise nor hidden by it. */
START_TEST(test_noise_is_that_of_the_rest)
{
    struct run *a = make_run(1, 1), *b = make_run(2, 1);
    for (size_t i = 0; i < CASES / 3 * SAMPLES; i++)
        b->samples[i] *= 1.3;
    struct qg_comparison *c = compare(a, b);
    ck_assert(c->noise < 0.03);
    for (size_t i = 0; i < CASES; i++)
        ck_assert_int_eq(pair_of(c, a, i)->pace == QG_PACE_SLOWER, i < CASES / 3);
    qg_comparison_free(&c);
    free(a);
    free(b);
}
END_TEST

/* How many of 100 × CASES cases are called slower when all are, by `factor`. */
static size_t found(double factor, uint64_t seed)
{
    size_t n = 0;
    for (unsigned t = 0; t < 100; t++) {
        struct run *a = make_run(seed + 2 * t, 1), *b = make_run(seed + 2 * t + 1, factor);
        struct qg_comparison *c = compare(a, b);
        n += c->total.pace[QG_PACE_SLOWER];
        qg_comparison_free(&c);
        free(a);
        free(b);
    }
    return n;
}

/* In how many of `trials` comparisons of so many cases at least one is called slower, the truth
 * being `factor`. */
static unsigned called_slower(unsigned trials, double factor, size_t cases, uint64_t seed)
{
    unsigned slower = 0;
    for (unsigned t = 0; t < trials; t++) {
        struct run *a = make_run(seed + 2 * t, 1), *b = make_run(seed + 2 * t + 1, factor);
        a->r.n_cases = b->r.n_cases = cases;
        struct qg_comparison *c = compare(a, b);
        slower += c->total.pace[QG_PACE_SLOWER] > 0;
        qg_comparison_free(&c);
        free(a);
        free(b);
    }
    return slower;
}

START_TEST(test_false_alarms)
{
    ck_assert_uint_le(called_slower(500, 1, 1, 1000), 5);     // one case: no noise estimate
    ck_assert_uint_le(called_slower(500, 1, CASES, 9000), 5); // any of twelve
}
END_TEST

START_TEST(test_slowdowns_are_found)
{
    ck_assert_uint_ge(called_slower(500, 1.12, 1, 20000), 475);
    ck_assert_uint_ge(found(1.12, 30000), 95 * CASES);
    ck_assert_uint_eq(called_slower(100, 1 / 1.12, 1, 40000), 0);
}
END_TEST

START_TEST(test_numbers)
{
    static const struct {
        double x;
        const char *exact, *time, *rate;
    } table[] = {
        {0.1, "0.1", "100 ms", "0.10 B/s"},
        {1.0 / 3, "0.333333333333333315", "333 ms", "0.33 B/s"},
        {NAN, "nan", "-", "-"},
        {-NAN, "nan", "-", "-"},
        {INFINITY, "inf", "inf", "inf"},
        {-INFINITY, "-inf", "-inf", "-inf"},
        {12.3456e-6, "1.23456e-05", "12.3 µs", "0.00 B/s"},
        {0.9996e-3, "0.0009996", "1.00 ms", "0.00 B/s"},
        {4.5e-11, "4.5e-11", "0.04 ns", "0.00 B/s"},
        {1.5e9, "1500000000", "1500000000 s", "1.50 GB/s"},
        {0, "0", "0.00 ns", "0.00 B/s"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (i != 1)
            ck_assert_str_eq(qg_text_exact(table[i].x).s, table[i].exact);
        ck_assert_str_eq(qg_text_time(table[i].x).s, table[i].time);
        ck_assert_str_eq(qg_text_rate(table[i].x, "B/s").s, table[i].rate);
    }
    for (uint64_t i = 0; i < 1000; i++) {
        double x = ldexp(qg_rng_normal(3, 0, i), (int)(i % 200) - 100);
        ck_assert(strtod(qg_text_exact(x).s, NULL) == x);
    }
    ck_assert_str_eq(qg_text_rounded(1.005, 1, 1).s, "+1.0");
    ck_assert_str_eq(qg_text_rounded(1e300, 1, 0).s, "1e+300");
}
END_TEST

QG_SUITE(compare_runs, test_nothing_moved, test_bits_and_quality, test_verdicts,
         test_cases_in_one_file, test_facts, test_time_needs_samples,
         test_noise_is_that_of_the_rest, test_false_alarms, test_slowdowns_are_found, test_numbers)
