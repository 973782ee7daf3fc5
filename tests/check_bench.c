/* SPDX-License-Identifier: MIT
 *
 * Timing with a device's stopwatch: which samples count, what is known of the device while they are
 * taken, and that asking it leaves time for them.
 */
#include <math.h>
#include <string.h>

#include "harness/bench.h"
#include "tests/suite.h"

#define BUDGET 0.02

/* A device of the test's: what it says at its next look, and what it was asked. */
static struct {
    struct qg_device_state say;
    double sample_s, look_s;                     /* what a sample and a look take */
    unsigned lowered_from, lowered_to, fails_at; /* looks, and the sample; counted from 1 */
    unsigned samples, looks, all;
    double sampled_s, looked_s, last_look_s;
    double all_at, least_gap_s, watts; /* of looks at all: the last, the least time from one to the
                                          next, and the sum of what they saw */
    bool wavers;                       /* no time is like the one before */
    bool between;                      /* whether a sample is not being taken */
} device;

/* Lets time pass and returns how much, which on a busy machine is more. */
static double pass(double seconds)
{
    const double begin = qg_clock_now();
    while (qg_clock_now() < begin + seconds)
        ;
    return qg_clock_now() - begin;
}

static void *start(qg_op_fn *launch, const struct qg_args *a, struct qg_failure *ret)
{
    (void)launch, (void)a, (void)ret;
    device.between = true;
    return &device;
}

static double seconds(void *session, size_t runs, bool cold)
{
    ck_assert_ptr_eq(session, &device);
    device.between = false;
    device.sampled_s += pass(device.sample_s);
    device.between = true;
    if (++device.samples == device.fails_at)
        return NAN;
    const double factor = device.wavers ? 1 + 0.1 * (device.samples % 7) : 1;
    return (cold ? 2 : 1) * 1e-3 * factor * (double)runs;
}

static void stop(void *session, struct qg_failure *ret)
{
    (void)session, (void)ret;
}

static void look(void *session, bool all, struct qg_device_state *ret)
{
    ck_assert_ptr_eq(session, &device);
    ck_assert(device.between);
    device.last_look_s = pass(device.look_s);
    device.looked_s += device.last_look_s;
    device.looks++;
    if (all) {
        const double now = qg_clock_now();
        device.least_gap_s =
            device.all++ ? fmin(device.least_gap_s, now - device.all_at) : INFINITY;
        device.all_at = now;
        device.watts += device.say.watts;
    }
    *ret = all ? device.say : (struct qg_device_state){NAN, NAN, NAN, NAN, 0};
    if (device.looks >= device.lowered_from && device.looks <= device.lowered_to)
        ret->lowered = device.say.lowered;
    else
        ret->lowered = 0;
    device.say.sm_mhz += 15;
    device.say.memory_mhz += 1;
    device.say.celsius -= 1;
    device.say.watts += 2;
}

static const struct qg_stopwatch stopwatch = {start, seconds, stop, look, NULL};

static struct qg_bench_result result;

/* Times with the device as it is set. */
static const struct qg_bench_result *measure(bool cold)
{
    const struct qg_args none = {0};
    const struct qg_bench b = {.budget_s = BUDGET, .cold = cold, .stopwatch = &stopwatch};
    qg_bench_run(NULL, &none, &b, &result);
    return &result;
}

static void set_up_device(double sample_s, double look_s)
{
    memset(&device, 0, sizeof device);
    device.say = (struct qg_device_state){1500, 2600, 60, 300, 0};
    device.sample_s = sample_s;
    device.look_s = look_s;
}

START_TEST(test_conditions)
{
    set_up_device(1e-3, 1e-6);
    device.say.lowered = QG_LOWERED_THERMAL; // which it says never
    const struct qg_bench_result *r = measure(true);
    const struct qg_conditions *w = &r->warm.under, *c = &r->cold.under;
    ck_assert_uint_ge(r->n_warm, 6);
    ck_assert_uint_ge(device.looks, r->n_warm + r->n_cold);
    ck_assert_uint_ge(device.all, 2);         // once at least for each kind
    ck_assert_double_eq(w->sm_mhz_low, 1500); // of the first look
    ck_assert_double_eq(w->memory_mhz, 2600); // the lowest
    ck_assert_double_eq(w->celsius, 60);      // the highest
    ck_assert(w->sm_mhz_high >= w->sm_mhz_low && w->watts >= 300);
    ck_assert(c->sm_mhz_low > w->sm_mhz_high); // what cold samples were taken under is theirs
    ck_assert_double_eq(c->memory_mhz, 2600 + (c->sm_mhz_low - 1500) / 15);
    ck_assert(w->discarded == 0 && c->discarded == 0 && !*w->lowered_by && !*c->lowered_by);
    ck_assert_double_eq(r->warm.median_s, 1e-3);
    ck_assert_double_eq(r->cold.median_s, 2e-3);
}
END_TEST

/* Asked for everything every 10 ms and not more often; power is the mean of the answers. */
START_TEST(test_rare_looks)
{
    set_up_device(1e-3, 1e-6);
    device.wavers = true; // or a few samples would do
    const struct qg_bench_result *r = measure(false);
    ck_assert_uint_ge(device.all, 2);
    ck_assert(device.least_gap_s >= 0.01);
    ck_assert_double_eq_tol(r->warm.under.watts, device.watts / device.all, 1e-9);
    ck_assert_uint_gt(r->n_warm, device.all);
}
END_TEST

/* What a device does not say stays absent, number by number. */
START_TEST(test_silent_device)
{
    set_up_device(1e-4, 1e-6);
    device.say.sm_mhz = device.say.watts = NAN;
    const struct qg_conditions *w = &measure(false)->warm.under;
    ck_assert(isnan(w->sm_mhz_low) && isnan(w->sm_mhz_high) && isnan(w->watts));
    ck_assert(w->memory_mhz == 2600 && w->celsius == 60);
    ck_assert(isnan(result.cold.under.celsius) && isnan(qg_bench_none.warm.under.sm_mhz_low));
}
END_TEST

START_TEST(test_lowered_clocks)
{
    set_up_device(1e-3, 1e-6);
    device.say.lowered = QG_LOWERED_POWER_CAP | QG_LOWERED_THERMAL;
    device.lowered_from = 2, device.lowered_to = 3;
    const struct qg_bench_result *r = measure(false);
    const struct qg_conditions *w = &r->warm.under;
    ck_assert_uint_ge(w->discarded, 3); // the samples before looks 2 to 4: low at one of its ends
    ck_assert_uint_eq(r->n_warm + w->discarded, device.samples - 1); // the first finds `repeat`
    ck_assert_uint_ge(r->n_warm, 6);
    ck_assert_str_eq(w->lowered_by, "thermal, power cap");
    ck_assert_double_eq(w->sm_mhz_low, 1500);
}
END_TEST

/* One that is slow all the time is given up, and soon. */
START_TEST(test_never_fast)
{
    set_up_device(1e-3, 1e-6);
    device.say.lowered = QG_LOWERED_POWER_BRAKE | QG_LOWERED_HARDWARE;
    device.lowered_from = 1, device.lowered_to = UINT32_MAX;
    const double begin = qg_clock_now();
    const struct qg_bench_result *r = measure(true);
    ck_assert(qg_clock_now() - begin < 2 * 20 * BUDGET);
    ck_assert(r->n_warm == 0 && r->n_cold == 0 && isnan(r->warm.median_s));
    ck_assert_uint_ge(r->warm.under.discarded, 6);
    ck_assert_uint_ge(r->cold.under.discarded, 6);
    ck_assert_str_eq(r->cold.under.lowered_by, "power brake, hardware slowdown");
    ck_assert(isnan(r->warm.under.sm_mhz_low) && r->warm.under.celsius == 60);
}
END_TEST

/* A slow kernel is not given up for its first two samples. */
START_TEST(test_once_lowered)
{
    set_up_device(2.5 * BUDGET, 1e-6);
    device.say.lowered = QG_LOWERED_THERMAL;
    device.lowered_from = device.lowered_to = 1;
    ck_assert_uint_ge(measure(false)->n_warm, 3);
    ck_assert_uint_eq(result.warm.under.discarded, 2);
}
END_TEST

/* Looks that take fifty times as long as a sample leave it half of the time. */
START_TEST(test_slow_looks)
{
    set_up_device(1e-4, 5e-3);
    device.wavers = true;
    const struct qg_bench_result *r = measure(false);
    ck_assert_uint_ge(device.looks, 2);
    ck_assert_uint_ge(r->n_warm, 4 * device.looks);
    ck_assert(device.sampled_s > 0.5 * (device.looked_s - device.last_look_s));
}
END_TEST

/* A device that fails is not asked again and again. */
START_TEST(test_failing_device)
{
    set_up_device(1e-3, 1e-6);
    device.fails_at = 4;
    const struct qg_bench_result *r = measure(false);
    ck_assert_uint_eq(device.samples, 4);
    ck_assert_uint_lt(r->n_warm, 4);
}
END_TEST

QG_SUITE(bench, test_conditions, test_rare_looks, test_silent_device, test_lowered_clocks,
         test_never_fast, test_once_lowered, test_slow_looks, test_failing_device)
