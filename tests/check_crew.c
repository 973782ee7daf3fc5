/* SPDX-License-Identifier: MIT
 *
 * A device's cases run many to a process: what one of them does to the process, or to the device,
 * is its own verdict and nobody else's, and nothing is lost behind it.
 */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "harness/base/buffer.h"
#include "harness/crew.h"
#include "tests/suite.h"

enum { CASES = 60, COLS = 64 };

/* Which process ran each case, and whether two ever ran at once: shared with the workers. */
static struct qg_buffer shared;
static struct {
    pid_t by[CASES];
    atomic_int inside, crowded;
} * seen;

/* --- kernels that stand for a device's: case i has i + 1 rows -------------------------------- */

static void good(const struct qg_args *a)
{
    const struct timespec moment = {.tv_nsec = 500000};
    seen->by[a->rows - 1] = getpid();
    if (atomic_fetch_add(&seen->inside, 1) > 0)
        atomic_store(&seen->crowded, 1);
    nanosleep(&moment, NULL);
    qg_kernel_pick(a->scheme, a->operand, a->op, "c")->fn(a);
    atomic_fetch_sub(&seen->inside, 1);
}

/* One that leaves is inside no more. */
static void dies(const struct qg_args *a)
{
    seen->by[a->rows - 1] = getpid();
    raise(SIGKILL);
}

static void leaves(const struct qg_args *a)
{
    seen->by[a->rows - 1] = getpid();
    _exit(0);
}

static void hangs(const struct qg_args *a)
{
    seen->by[a->rows - 1] = getpid();
    for (;;)
        pause();
}

/* What a device's backend does when the device fails; it stays so for whoever comes next. */
static bool broken;

static void breaks(const struct qg_args *a)
{
    seen->by[a->rows - 1] = getpid();
    broken = true;
    snprintf(a->failure->text, sizeof a->failure->text, "the device says: no more");
}

static void suffers(const struct qg_args *a)
{
    good(a);
    if (broken)
        snprintf(a->failure->text, sizeof a->failure->text, "broken by another");
}

/* What a library has nothing for. */
static void refused(const struct qg_args *a)
{
    good(a);
    a->failure->cause = QG_CAUSE_ABSENT;
    snprintf(a->failure->text, sizeof a->failure->text, "there is none");
}

static void wrong(const struct qg_args *a)
{
    good(a);
    ((unsigned char *)a->out[0].data)[0] ^= 1;
}

/* --- the test -------------------------------------------------------------------------------- */

static struct qg_planned cases[CASES];
static const struct qg_planned *list[CASES];

/* All good but `odd`, at cases 0, 7, 14 ...; what is `fragile` would suffer from a broken device.
 */
static void plan(qg_op_fn *odd)
{
    static struct qg_kernel kernels[2];
    struct qg_args defaults = {0};
    struct qg_error err;
    const struct qg_scheme *s = qg_scheme_find("int8");
    ck_assert(qg_buffer_alloc(&shared, sizeof *seen, &err) == QG_OK);
    seen = shared.data;
    qg_params_default(&defaults, s);
    for (int i = 0; i < 2; i++)
        kernels[i] = (struct qg_kernel){.scheme = "int8",
                                        .backend = "c",
                                        .variant = "planted",
                                        .op = QG_FAKE_QUANT,
                                        .fn = i ? odd : suffers,
                                        .launch = i ? odd : suffers};
    for (size_t i = 0; i < CASES; i++) {
        cases[i].c = (struct qg_case){.scheme = s,
                                      .kernel = &kernels[i % 7 == 0],
                                      .dtype = QG_F32,
                                      .rows = i + 1,
                                      .cols = COLS,
                                      .seed = 7,
                                      .fill = qg_fill_find("normal")};
        memcpy(cases[i].c.param, defaults.param, sizeof defaults.param);
        list[i] = &cases[i];
    }
}

static int distinct_processes(void)
{
    int n = 0;
    for (int i = 0; i < CASES; i++) {
        int before = 0;
        while (before < i && seen->by[before] != seen->by[i])
            before++;
        ck_assert_int_ne(seen->by[i], getpid());
        n += before == i;
    }
    return n;
}

/* Every case has its verdict, the odd ones theirs; returns how many processes that took. */
static int run(qg_op_fn *odd, double timeout_s, enum qg_verdict verdict, const char *reason)
{
    const struct qg_bench bench = {.budget_s = 0.001};
    struct qg_outcome o;
    plan(odd);
    struct qg_crew *crew = qg_crew_on_device(list, CASES, &bench, timeout_s);
    ck_assert(crew != NULL);
    for (size_t i = 0; i < CASES; i++) {
        const enum qg_verdict want = i % 7 ? QG_PASS : verdict;
        qg_crew_next(crew, &o);
        ck_assert_uint_eq(o.record.rows, i + 1);
        ck_assert_msg(o.record.verdict == want && strstr(o.record.reason, i % 7 ? "" : reason),
                      "case %zu: %s: %s", i, qg_verdict_name((enum qg_verdict)o.record.verdict),
                      o.record.reason);
        ck_assert(want != QG_PASS || (o.output_bytes == 4 * (i + 1) * COLS && o.times.n_warm > 0));
        free(o.output);
    }
    qg_crew_end(&crew);
    ck_assert(crew == NULL && !atomic_load(&seen->crowded));
    const int n = distinct_processes();
    qg_buffer_free(&shared);
    return n;
}

/* No more processes than workers where nothing happens. */
START_TEST(test_share)
{
    const int most = run(good, 20, QG_PASS, "");
    ck_assert_int_le(most, 12);
    ck_assert_int_eq(run(refused, 20, QG_SKIP, "there is none"), most);
    ck_assert_int_eq(run(wrong, 20, QG_FAIL, "elements are wrong"), most);
}
END_TEST

START_TEST(test_end)
{
    const int odd = (CASES + 6) / 7;
    const int most = run(good, 20, QG_PASS, ""), least = odd;
    const int n[] = {run(dies, 20, QG_CRASH, "dies of signal 9"),
                     run(leaves, 20, QG_CRASH, "ends the process with exit code 0"),
                     run(breaks, 20, QG_FAIL, "the device says: no more"),
                     run(hangs, 0.05, QG_TIMEOUT, "not done after 0.05 s")};
    for (size_t i = 0; i < sizeof n / sizeof n[0]; i++)
        ck_assert_msg(n[i] >= least && n[i] <= most + odd, "%d processes", n[i]);
}
END_TEST

/* What is left of the list when a run is stopped is nobody's any more. */
START_TEST(test_stop)
{
    const struct qg_bench none = {0};
    struct qg_outcome o;
    plan(hangs);
    struct qg_crew *crew = qg_crew_on_device(list + 1, 7, &none, 20);
    ck_assert(crew != NULL);
    qg_crew_next(crew, &o);
    ck_assert_int_eq(o.record.verdict, QG_PASS);
    free(o.output);
    qg_crew_end(&crew);
    const pid_t worker = seen->by[1];
    ck_assert(worker > 0 && kill(worker, 0) != 0);
    qg_buffer_free(&shared);
}
END_TEST

QG_SUITE(crew, test_share, test_end, test_stop)
