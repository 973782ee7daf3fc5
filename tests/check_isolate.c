/* SPDX-License-Identifier: MIT
 *
 * Isolation: kernels that do every wrong thing, and what is said of each. Good ones pass; none of
 * them harms the process that judges it.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness/isolate.h"
#include "tests/suite.h"

enum { ROWS = 3, COLS = 70, N = ROWS * COLS }; // 420 bytes of bf16: not a whole page

/* The kernels: int8 fake-quant's place, in[0] x, out[0] y, both bf16. */

static void copy(const struct qg_args *a)
{
    memcpy(a->out[0].data, a->in[0].data, qg_bytes(&a->in[0]));
}

static void past_output(const struct qg_args *a)
{
    copy(a);
    ((volatile char *)a->out[0].data)[qg_bytes(&a->out[0])] = 1;
}

static void far_past_output(const struct qg_args *a)
{
    copy(a);
    ((volatile char *)a->out[0].data)[qg_bytes(&a->out[0]) + 99] = 1;
}

static void past_work(const struct qg_args *a)
{
    copy(a);
    ((volatile float *)a->work)[qg_work_floats(a)] = 1;
}

static void before_output(const struct qg_args *a)
{
    copy(a);
    ((volatile char *)a->out[0].data)[-3] = 1;
}

static void far_before_output(const struct qg_args *a)
{
    copy(a);
    ((volatile char *)a->out[0].data)[-4500] = 1;
}

static void read_past_input(const struct qg_args *a)
{
    copy(a);
    (void)((volatile char *)a->in[0].data)[qg_bytes(&a->in[0])];
}

static void write_input(const struct qg_args *a)
{
    copy(a);
    ((volatile char *)a->in[0].data)[5] = 1;
}

static void wild_pointer(const struct qg_args *a)
{
    volatile int *volatile nowhere = (volatile int *)16;
    copy(a);
    *nowhere = 1;
}

static void aborts(const struct qg_args *a)
{
    copy(a);
    abort();
}

static void illegal(const struct qg_args *a)
{
    copy(a);
    raise(SIGILL);
}

static void kills_itself(const struct qg_args *a)
{
    copy(a);
    raise(SIGKILL);
}

static void leaves(const struct qg_args *a)
{
    copy(a);
    _exit(3);
}

static void hangs(const struct qg_args *a)
{
    copy(a);
    for (;;)
        pause();
}

static void recurses(const struct qg_args *a)
{
    qg_op_fn *volatile again = recurses; // the compiler need not know
    volatile char big[100000];
    big[0] = 1;
    again(a);
    big[1] = big[0];
}

static void forgets_one(const struct qg_args *a)
{
    memcpy(a->out[0].data, a->in[0].data, 17 * 2);
    memcpy((char *)a->out[0].data + 18 * 2, (char *)a->in[0].data + 18 * 2, (N - 18) * 2);
}

static void forgets_all(const struct qg_args *a)
{
    (void)a;
}

static void wavers(const struct qg_args *a)
{
    static int calls;
    copy(a);
    ((unsigned char *)a->out[0].data)[12] ^= (unsigned char)(++calls % 2);
}

/* Right twice, as a first look would see it; wrong when it is called again and again. */
static void tires(const struct qg_args *a)
{
    static int calls;
    copy(a);
    ((unsigned char *)a->out[0].data)[12] ^= ++calls > 2;
}

static void reads_work(const struct qg_args *a)
{
    copy(a);
    ((unsigned char *)a->out[0].data)[0] = *(const unsigned char *)a->work;
}

static struct qg_call call;

static void set_up_call(void)
{
    struct qg_args a = {0};
    struct qg_error err;
    char why[256];
    const struct qg_scheme *s = qg_scheme_find("int8");
    qg_params_default(&a, s);
    a.scheme = s;
    ck_assert(
        qg_args_init(&a, s, QG_FAKE_QUANT, QG_WEIGHT, QG_BF16, 0, ROWS, COLS, why, sizeof why));
    ck_assert(qg_call_alloc(&call, &a, false, &err) == QG_OK);
    for (size_t i = 0; i < N; i++)
        qg_put(&call.args.in[0], i, (float)i);
}

/* Kernels of a device that could not do their part. */

static void fails(const struct qg_args *a)
{
    snprintf(a->failure->text, sizeof a->failure->text, "a planted failure");
}

static void finds_no_room(const struct qg_args *a)
{
    fails(a);
    a->failure->cause = QG_CAUSE_NO_ROOM;
}

static void is_refused(const struct qg_args *a)
{
    fails(a);
    a->failure->cause = QG_CAUSE_ABSENT;
}

static void expect(qg_op_fn *fn, double timeout, double budget, enum qg_verdict verdict,
                   const char *reason)
{
    static struct qg_trial t;
    struct qg_error err = {.message = ""};
    const struct qg_bench bench = {budget, true};
    set_up_call();
    ck_assert_msg(qg_isolate_run(fn, &call, &bench, timeout, &t, &err) == QG_OK, "%s", err.message);
    ck_assert_msg(t.verdict == verdict && strstr(t.reason, reason), "%s: %s, not %s",
                  qg_verdict_name(t.verdict), t.reason, reason);
    for (size_t i = 0; i < N; i++)
        ck_assert_float_eq(qg_get(&call.args.in[0], i), qg_round(QG_BF16, (float)i));
    qg_call_free(&call);
}

START_TEST(test_good)
{
    expect(copy, 20, 0, QG_PASS, "");
}
END_TEST

START_TEST(test_memory)
{
    expect(past_output, 20, 0, QG_FAIL, "writes past the end of 'y', at byte 1 behind its last");
    expect(far_past_output, 20, 0, QG_FAIL, "past the end of 'y', at byte 100 behind its last");
    expect(past_work, 20, 0, QG_FAIL, "past the end of 'work'");
    expect(before_output, 20, 0, QG_FAIL, "before the start of 'y', at byte 3 before its first");
    expect(far_before_output, 20, 0, QG_FAIL, "4500 bytes before the start of 'y'");
    expect(read_past_input, 20, 0, QG_FAIL, "reads past the end of 'x', at byte 1");
    expect(write_input, 20, 0, QG_FAIL, "writes to its input 'x', at byte 5");
}
END_TEST

START_TEST(test_crash)
{
    expect(wild_pointer, 20, 0, QG_CRASH, "SIGSEGV");
    expect(aborts, 20, 0, QG_CRASH, "SIGABRT");
    expect(illegal, 20, 0, QG_CRASH, "SIGILL");
    expect(kills_itself, 20, 0, QG_CRASH, "signal 9");
    expect(leaves, 20, 0, QG_CRASH, "exit code 3");
    expect(recurses, 20, 0, QG_CRASH, "SIGSEGV");
}
END_TEST

START_TEST(test_device)
{
    expect(fails, 20, 0, QG_FAIL, "a planted failure");
    expect(finds_no_room, 20, 0, QG_ERROR, "a planted failure");
    expect(is_refused, 20, 0, QG_SKIP, "a planted failure");
}
END_TEST

START_TEST(test_timeout)
{
    double start = qg_clock_now();
    expect(hangs, 0.2, 0, QG_TIMEOUT, "not done after 0.2 s");
    ck_assert_double_lt(qg_clock_now() - start, 10);
}
END_TEST

START_TEST(test_results)
{
    expect(forgets_one, 20, 0, QG_FAIL, "leaves 'y'[17] unwritten");
    expect(forgets_all, 20, 0, QG_FAIL, "leaves 'y'[0] unwritten");
    expect(wavers, 20, 0, QG_FAIL, "two runs on the same input differ at 'y'[6]");
    expect(reads_work, 20, 0, QG_FAIL, "two runs on the same input differ at 'y'[0]");
    expect(tires, 20, 0, QG_PASS, "");
    expect(tires, 20, 0.001, QG_FAIL, "a later run on the same input differs at 'y'[6]");
}
END_TEST

START_TEST(test_times)
{
    static struct qg_trial t;
    struct qg_error err;
    const struct qg_bench bench = {0.005, true}, none = {0};
    set_up_call();
    ck_assert(qg_isolate_run(copy, &call, &bench, 20, &t, &err) == QG_OK);
    const struct qg_bench_result *r = &t.times;
    ck_assert(r->n_warm >= 6 && r->n_cold >= 6);
    ck_assert(r->warm.low_s <= r->warm.median_s && r->warm.median_s <= r->warm.high_s);
    ck_assert(r->warm.median_s > 0 && r->warm.median_s < 1e-3 && r->cold.median_s < 1e-3);
    ck_assert(r->overhead_s > 0 && r->overhead_s < 1e-5);
    ck_assert(qg_isolate_run(copy, &call, &none, 20, &t, &err) == QG_OK);
    ck_assert(isnan(r->warm.median_s) && r->n_warm == 0);
    qg_call_free(&call);
}
END_TEST

/* 95 % intervals by order statistics, against the table of ranks (n = 6: 1..6, 10: 2..9, 20: 6..15,
 * 100: 40..61). */
START_TEST(test_interval)
{
    static const struct {
        size_t n;
        double low, high;
    } known[] = {{6, 1, 6},   {8, 1, 8},    {9, 2, 8},    {10, 2, 9},
                 {20, 6, 15}, {50, 18, 33}, {100, 40, 61}};
    double s[100];
    for (size_t k = 0; k < sizeof known / sizeof known[0]; k++) {
        for (size_t i = 0; i < known[k].n; i++)
            s[i] = (double)((7 * i + 3) % known[k].n) + 1;
        if (known[k].n % 7 == 0)
            continue;
        struct qg_timing t = qg_bench_summary(s, known[k].n);
        ck_assert_double_eq(t.low_s, known[k].low);
        ck_assert_double_eq(t.high_s, known[k].high);
        ck_assert_double_eq(t.median_s, (double)(known[k].n + 1) / 2);
    }
    struct qg_timing few = qg_bench_summary(s, 5);
    ck_assert(isfinite(few.median_s) && isnan(few.low_s) && isnan(few.high_s));
}
END_TEST

/* Thousands of cases must not use up mappings, processes or files. */
START_TEST(test_no_leak)
{
    static struct qg_trial t;
    struct qg_error err;
    const struct qg_bench none = {0};
    set_up_call();
    for (int i = 0; i < 1500; i++)
        ck_assert(qg_isolate_run(copy, &call, &none, 20, &t, &err) == QG_OK);
    qg_call_free(&call);
    FILE *f = fopen("/proc/self/maps", "r");
    int maps = 0;
    for (int c; f && (c = fgetc(f)) != EOF;)
        maps += c == '\n';
    if (f)
        fclose(f);
    ck_assert_int_lt(maps, 500);
}
END_TEST

QG_SUITE(isolate, test_good, test_memory, test_crash, test_device, test_timeout, test_results,
         test_times, test_interval, test_no_leak)
