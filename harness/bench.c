/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* sched_setaffinity */
#include "harness/bench.h"

#include <gsl/gsl_cdf.h>
#include <gsl/gsl_sort.h>
#include <gsl/gsl_statistics_double.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define MIN_SAMPLE_S 200e-6
#define MIN_SAMPLES  6 /* 2^-5 < 5 %: the whole range of 6 holds the median with 96.9 % */
#define PRECISION    0.005
#define MOST_BUDGETS 20 /* that samples may take until there are MIN_SAMPLES */
#define VAIN_BUDGETS 4  /* that may pass without one that counts */
#define LOOK_EVERY_S 0.01

#define NOT_TIMED                          \
    {                                      \
        NAN, NAN, NAN, 0,                  \
        {                                  \
            NAN, NAN, NAN, NAN, NAN, 0, "" \
        }                                  \
    }

const struct qg_bench_result qg_bench_none = {
    .warm = NOT_TIMED, .cold = NOT_TIMED, .overhead_s = NAN};

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
    struct qg_timing t = NOT_TIMED;
    double sorted[QG_BENCH_SAMPLES];
    t.samples = (uint32_t)n;
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

/* Whether n samples are enough; `more` of them are new. */
static bool enough(const double *samples, size_t n, size_t more, size_t discarded, double spent,
                   double budget)
{
    if (n == QG_BENCH_SAMPLES || spent > MOST_BUDGETS * budget)
        return true;
    if (n < MIN_SAMPLES)
        return n == 0 && discarded >= MIN_SAMPLES && spent > VAIN_BUDGETS * budget;
    if (spent > budget)
        return true;
    if (n / 8 == (n - more) / 8)
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

/* What is known of a device from looks at it. */
struct watch {
    double took, all_at; /* the last look; when it was last asked for everything */
    unsigned now, ever;  /* why it had lowered its clocks, of enum qg_lowered */
    double watts;        /* the sum of the answers */
    unsigned n_watts;
    struct qg_conditions seen;
};

static void add_state(struct watch *w, const struct qg_device_state *s)
{
    struct qg_conditions *c = &w->seen;
    c->celsius = fmax(c->celsius, s->celsius); // the number, where one of the two is NaN
    if (s->watts == s->watts) {
        w->watts += s->watts;
        w->n_watts++;
        c->watts = w->watts / w->n_watts;
    }
    if (s->lowered)
        return;
    c->sm_mhz_low = fmin(c->sm_mhz_low, s->sm_mhz);
    c->sm_mhz_high = fmax(c->sm_mhz_high, s->sm_mhz);
    c->memory_mhz = fmin(c->memory_mhz, s->memory_mhz);
}

/* Looks at the device, if there is one: whether what was timed since the last look counts. Clocks
 * that were low at its begin or are at its end may have been low in between. */
static bool look(const struct timed *t, struct watch *w)
{
    struct qg_device_state s;
    const unsigned before = w->now;
    if (!t->stopwatch)
        return true;
    const double start = qg_clock_now();
    const bool all = start - w->all_at >= LOOK_EVERY_S;
    t->stopwatch->look(t->session, all, &s);
    const double end = qg_clock_now();
    w->took = end - start;
    w->all_at = all ? end : w->all_at;
    w->now = s.lowered;
    w->ever |= s.lowered;
    add_state(w, &s);
    return !before && !w->now;
}

/* Samples for as long as the last look took, one at least: looks take half of the time at most.
 * None: the device failed. */
static size_t take_some(const struct timed *t, size_t repeat, bool cold, const struct watch *w,
                        double *samples, size_t room)
{
    const double until = w->took > 0 ? qg_clock_now() + w->took : 0;
    size_t n = 0;
    do {
        const double s = time_calls(t, repeat, cold) / (double)repeat;
        if (s != s)
            return 0;
        samples[n++] = subtract(s, t->overhead);
    } while (n < room && until > 0 && qg_clock_now() < until);
    return n;
}

/* "thermal, power cap" */
static void put_reasons(unsigned lowered, char *text, size_t size)
{
    static const char *const words[] = {"thermal", "power cap", "power brake", "hardware slowdown"};
    size_t n = 0;
    text[0] = '\0';
    for (size_t i = 0; i < sizeof words / sizeof words[0] && n < size; i++)
        if (lowered >> i & 1)
            n += (size_t)snprintf(text + n, size - n, "%s%s", n ? ", " : "", words[i]);
}

static struct qg_timing take_samples(struct timed *t, size_t repeat, bool cold, double budget,
                                     double *samples)
{
    struct watch w = {.all_at = -INFINITY, .seen = qg_bench_none.warm.under};
    size_t n = 0, more;
    double start = qg_clock_now();
    t->overhead = overhead_of(t, repeat < 10000 ? repeat : 10000);
    do {
        more = take_some(t, repeat, cold, &w, samples + n, QG_BENCH_SAMPLES - n);
        if (!more)
            break;
        if (!look(t, &w)) {
            w.seen.discarded += (uint32_t)more;
            more = 0;
        }
        n += more;
    } while (!enough(samples, n, more, w.seen.discarded, qg_clock_now() - start, budget));
    put_reasons(w.ever, w.seen.lowered_by, sizeof w.seen.lowered_by);
    struct qg_timing timing = qg_bench_summary(samples, n);
    timing.under = w.seen;
    return timing;
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
    ret->warm = take_samples(&t, repetitions(&t), false, b->budget_s, ret->s);
    ret->n_warm = ret->warm.samples;
    ret->overhead_s = t.overhead;
    if (b->cold && (t.stopwatch || CAN_FLUSH))
        ret->cold = take_samples(&t, 1, true, b->budget_s, ret->s + ret->n_warm);
    ret->n_cold = ret->cold.samples;
    unpin(&before);
    if (t.stopwatch)
        t.stopwatch->stop(t.session, &ret->untimed);
}
