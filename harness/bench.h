/* SPDX-License-Identifier: MIT
 *
 * Timing one call. Warm: repeated calls on the same memory, as many to a sample as the clock needs.
 * Cold: one call per sample, after every line of its tensors was thrown out of all caches. What an
 * empty call costs is measured the same way and taken out. The statistic is the median, with the
 * order statistics that hold it with 95 % probability whatever the distribution (the binomial one
 * with p = 1/2): nothing is assumed about the noise but that samples are independent, which within
 * one process they are not quite; judge a change by several runs.
 */
#ifndef QG_BENCH_H
#define QG_BENCH_H

#include "harness/result.h"
#include "kernels/kernel.h"

#define QG_BENCH_SAMPLES 512 /* at most, of each kind */

struct qg_bench {
    double budget_s; /* for warm and for cold samples each; 0: do not time */
    bool cold;
    /* Of a kernel on a device, else NULL: what times it, and the kernel on tensors that lie there.
     */
    const struct qg_stopwatch *stopwatch;
    qg_op_fn *launch;
    /* Of a process that is there for a device's kernels and runs them itself (see crew.h): a file
     * that it locks while it does. 0: each runs in a child of its own. */
    int turn;
};

/* Plain memory without pointers: a child process fills it, its parent reads it. */
struct qg_bench_result {
    struct qg_timing warm, cold;
    double overhead_s;              /* of an empty call, taken out of warm samples */
    uint32_t n_warm, n_cold;        /* samples that count */
    struct qg_failure untimed;      /* what a device's stopwatch could not do, or "" */
    double s[2 * QG_BENCH_SAMPLES]; /* seconds per call: n_warm, then n_cold */
};

/* Nothing measured: no samples, NaN everywhere. */
extern const struct qg_bench_result qg_bench_none;

/* Times fn(a) on the current CPU. At least 6 samples of each kind (fewer have no 95 % interval)
 * unless they take 20 times the budget; stops early when the interval is within 0.5 % of the
 * median.
 *
 * A device is asked between samples whether it has lowered its clocks: after each one where the
 * answer comes fast, else as rarely as it takes for half of the time to go into samples. What was
 * timed between two answers counts when neither is yes; where none of six counts in four budgets,
 * the kernel is not timed. For clocks, temperature and power it is asked every 10 ms. */
void qg_bench_run(qg_op_fn *fn, const struct qg_args *a, const struct qg_bench *b,
                  struct qg_bench_result *ret);

/* Median and 95 % interval of n samples; low and high are NaN when n < 6. */
struct qg_timing qg_bench_summary(const double *samples, size_t n);

/* The clock's smallest visible step, in seconds. */
double qg_clock_resolution(void);

/* Seconds of a clock that only goes forward. */
double qg_clock_now(void);

/* How cold samples are made, in words. */
const char *qg_bench_cold_method(void);

#endif
