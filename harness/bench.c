/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* sched_setaffinity */
#include "harness/bench.h"

#include <gsl/gsl_cdf.h>
#include <gsl/gsl_sort.h>
#include <gsl/gsl_statistics_double.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#define MIN_SAMPLE_S 200e-6
#define MIN_SAMPLES  6 /* 2^-5 < 5 %: the whole range of 6 holds the median with 96.9 % */
#define PRECISION    0.005

const struct qg_bench_result qg_bench_none = {
    .warm = {NAN, NAN, NAN, 0}, .cold = {NAN, NAN, NAN, 0}, .overhead_s = NAN};

double qg_clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double qg_clock_resolution(void)
{
    double best = 1;
    for (int i = 0; i < 100; i++) {
        double start = qg_clock_now(), now = start;
        while (now == start)
            now = qg_clock_now();
        best = now - start < best ? now - start : best;
    }
    return best;
}

struct qg_timing qg_bench_summary(const double *samples, size_t n)
{
    struct qg_timing t = {NAN, NAN, NAN, (uint32_t)n};
    double sorted[QG_BENCH_SAMPLES];
    if (n == 0 || n > QG_BENCH_SAMPLES)
        return t;
    memcpy(sorted, samples, n * sizeof *sorted);
    gsl_sort(sorted, 1, n);
    t.median_s = gsl_stats_median_from_sorted_data(sorted, 1, n);
    if (n < MIN_SAMPLES)
        return t;
    // The largest `out` so that `out` samples may be left out at each end: P(fewer than out + 1 lie
    // below the median) <= 2.5 %.
    size_t out = 0;
    while (gsl_cdf_binomial_P((unsigned)out + 1, 0.5, (unsigned)n) <= 0.025)
        out++;
    t.low_s = sorted[out];
    t.high_s = sorted[n - 1 - out];
    return t;
}

#ifdef __x86_64__
const char *qg_bench_cold_method(void)
{
    return "every cache line of the call's tensors flushed (clflush)";
}

static void flush(const void *data, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 64)
        __builtin_ia32_clflush((const char *)data + at);
    __builtin_ia32_mfence();
}
#define CAN_FLUSH true
#else
const char *qg_bench_cold_method(void)
{
    return "not measured: no way to flush a cache line is known for this processor";
}

static void flush(const void *data, size_t bytes)
{
    (void)data;
    (void)bytes;
}
#define CAN_FLUSH false
#endif

static void flush_call(const struct qg_args *a)
{
    for (int i = 0; i < a->n_in; i++)
        flush(a->in[i].data, qg_bytes(&a->in[i]));
    for (int i = 0; i < a->n_out; i++)
        flush(a->out[i].data, qg_bytes(&a->out[i]));
    if (a->work)
        flush(a->work, qg_work_floats(a) * sizeof(float));
}

static void nothing(const struct qg_args *a)
{
    (void)a;
}

/* --- samples --------------------------------------------------------------------------------- */

/* What is timed: fn on the host, or a session on a device. */
struct timed {
    qg_op_fn *volatile fn; /* volatile so that the empty call stays a call */
    const struct qg_args *a;
    const struct qg_stopwatch *stopwatch;
    void *session;
    double overhead; /* of a call of nothing */
    uint32_t discarded;
};

/* Seconds for `repeat` calls. */
static double time_calls(const struct timed *t, size_t repeat, bool cold)
{
    if (t->stopwatch)
        return t->stopwatch->seconds(t->session, repeat, cold);
    if (cold)
        flush_call(t->a);
    double start = qg_clock_now();
    for (size_t i = 0; i < repeat; i++)
        t->fn(t->a);
    return qg_clock_now() - start;
}

static size_t repetitions(const struct timed *timed)
{
    size_t repeat = 1, most = timed->stopwatch ? 1000 : (size_t)1 << 24;
    for (;;) {
        double t = time_calls(timed, repeat, false);
        if (!(t < MIN_SAMPLE_S) || repeat >= most)
            return repeat;
        double factor = t > 0 ? 1.2 * MIN_SAMPLE_S / t : 10;
        repeat = (size_t)((double)repeat * (factor < 1.5 ? 1.5 : factor > 10 ? 10 : factor)) + 1;
    }
}

static bool enough(const double *samples, size_t n, double spent, double budget)
{
    if (n == QG_BENCH_SAMPLES || spent > 20 * budget)
        return true;
    if (n < MIN_SAMPLES)
        return false;
    if (spent > budget)
        return true;
    if (n % 8)
        return false;
    struct qg_timing t = qg_bench_summary(samples, n);
    return t.high_s - t.low_s <= PRECISION * t.median_s;
}

static double subtract(double t, double overhead)
{
    return t > overhead ? t - overhead : 0;
}

/* The least that `repeat` empty calls take, per call. Events on a device stand around its own work
 * alone. */
static double overhead_of(const struct timed *t, size_t repeat)
{
    const struct timed empty = {.fn = nothing, .a = t->a};
    double best = INFINITY;
    if (t->stopwatch)
        return 0;
    for (int i = 0; i < 20; i++)
        best = fmin(best, time_calls(&empty, repeat, false) / (double)repeat);
    return best;
}

static size_t take_samples(struct timed *t, size_t repeat, bool cold, double budget,
                           double *samples)
{
    size_t n = 0;
    double start = qg_clock_now();
    t->overhead = overhead_of(t, repeat < 10000 ? repeat : 10000);
    do {
        double s = time_calls(t, repeat, cold) / (double)repeat;
        if (s == s)
            samples[n++] = subtract(s, t->overhead);
        else
            t->discarded++;
    } while (!enough(samples, n, qg_clock_now() - start, budget));
    return n;
}

/* Keeps the process where it is while it is timed, and lets it go to where it might be before.
 * Where that is not allowed, nothing is lost but some noise. */
static cpu_set_t pin(void)
{
    cpu_set_t before, here;
    int cpu = sched_getcpu();
    CPU_ZERO(&before);
    if (cpu < 0 || sched_getaffinity(0, sizeof before, &before) != 0)
        return before;
    CPU_ZERO(&here);
    CPU_SET((unsigned)cpu, &here);
    (void)sched_setaffinity(0, sizeof here, &here);
    return before;
}

static void unpin(const cpu_set_t *before)
{
    if (CPU_COUNT(before))
        (void)sched_setaffinity(0, sizeof *before, before);
}

void qg_bench_run(qg_op_fn *fn, const struct qg_args *a, const struct qg_bench *b,
                  struct qg_bench_result *ret)
{
    struct timed t = {.fn = fn, .a = a, .stopwatch = b->stopwatch};
    *ret = qg_bench_none;
    if (b->budget_s <= 0)
        return;
    if (t.stopwatch && !(t.session = t.stopwatch->start(b->launch, a, &ret->untimed)))
        return;
    const cpu_set_t before = pin();
    ret->n_warm = (uint32_t)take_samples(&t, repetitions(&t), false, b->budget_s, ret->s);
    ret->overhead_s = t.overhead;
    if (b->cold && (t.stopwatch || CAN_FLUSH))
        ret->n_cold = (uint32_t)take_samples(&t, 1, true, b->budget_s, ret->s + ret->n_warm);
    ret->n_discarded = t.discarded;
    ret->warm = qg_bench_summary(ret->s, ret->n_warm);
    ret->cold = qg_bench_summary(ret->s + ret->n_warm, ret->n_cold);
    unpin(&before);
    if (t.stopwatch)
        t.stopwatch->stop(t.session, &ret->untimed);
}
