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

/* Seconds for `repeat` calls. The pointer is volatile so that the empty call stays a call. */
static double time_calls(qg_op_fn *volatile const *fn, const struct qg_args *a, size_t repeat)
{
    double start = qg_clock_now();
    for (size_t i = 0; i < repeat; i++)
        (*fn)(a);
    return qg_clock_now() - start;
}

static size_t repetitions(qg_op_fn *volatile const *fn, const struct qg_args *a)
{
    size_t repeat = 1;
    for (;;) {
        double t = time_calls(fn, a, repeat);
        if (t >= MIN_SAMPLE_S || repeat >= (size_t)1 << 24)
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

/* The least that `repeat` empty calls take, per call. */
static double overhead_of(const struct qg_args *a, size_t repeat)
{
    qg_op_fn *volatile empty = nothing;
    double best = INFINITY;
    for (int i = 0; i < 20; i++)
        best = fmin(best, time_calls(&empty, a, repeat) / (double)repeat);
    return best;
}

static size_t sample_warm(qg_op_fn *fn, const struct qg_args *a, double budget, double *samples,
                          double *ret_overhead)
{
    qg_op_fn *volatile call = fn;
    size_t repeat = repetitions(&call, a), n = 0;
    double overhead = overhead_of(a, repeat < 10000 ? repeat : 10000), start = qg_clock_now();
    do
        samples[n++] = subtract(time_calls(&call, a, repeat) / (double)repeat, overhead);
    while (!enough(samples, n, qg_clock_now() - start, budget));
    *ret_overhead = overhead;
    return n;
}

static size_t sample_cold(qg_op_fn *fn, const struct qg_args *a, double budget, double *samples)
{
    qg_op_fn *volatile call = fn;
    size_t n = 0;
    double overhead = overhead_of(a, 1), start = qg_clock_now();
    do {
        flush_call(a);
        samples[n++] = subtract(time_calls(&call, a, 1), overhead);
    } while (!enough(samples, n, qg_clock_now() - start, budget));
    return n;
}

/* Keeps the process where it is while it is timed; where that is not allowed, nothing is lost but
 * some noise. */
static void pin(void)
{
    cpu_set_t set;
    int cpu = sched_getcpu();
    if (cpu < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET((unsigned)cpu, &set);
    (void)sched_setaffinity(0, sizeof set, &set);
}

void qg_bench_run(qg_op_fn *fn, const struct qg_args *a, const struct qg_bench *b,
                  struct qg_bench_result *ret)
{
    *ret = qg_bench_none;
    if (b->budget_s <= 0)
        return;
    pin();
    ret->n_warm = (uint32_t)sample_warm(fn, a, b->budget_s, ret->s, &ret->overhead_s);
    if (b->cold && CAN_FLUSH)
        ret->n_cold = (uint32_t)sample_cold(fn, a, b->budget_s, ret->s + ret->n_warm);
    ret->warm = qg_bench_summary(ret->s, ret->n_warm);
    ret->cold = qg_bench_summary(ret->s + ret->n_warm, ret->n_cold);
}
