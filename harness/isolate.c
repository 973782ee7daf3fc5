/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* sigaltstack, REG_ERR, prctl */
#include "harness/isolate.h"

#include <cblas.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define POISON_FIRST  0xa5
#define POISON_SECOND 0x5a
#define MARK          0xc3

/* What parent and child share. */
struct report {
    volatile int finished, signal;
    void *volatile address;
    volatile bool known_write, known_read;
    struct qg_failure failure; /* of a device */
    struct qg_chosen choice;
    struct qg_bench_result times;
};

/* What the signal handler of the child, and nobody else, needs to find. */
static struct report *child_report;

static void on_signal(int signo, siginfo_t *info, void *context)
{
    child_report->signal = signo;
    child_report->address = info->si_addr;
#ifdef __x86_64__
    const ucontext_t *u = context;
    bool write = u->uc_mcontext.gregs[REG_ERR] & 2; // page fault error code: bit 1 is a write
    child_report->known_write = signo == SIGSEGV && write;
    child_report->known_read = signo == SIGSEGV && !write;
#else
    (void)context;
#endif
    _exit(1);
}

static void catch_signals(struct report *r, void *stack, size_t size)
{
    const int fatal[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    stack_t alternative = {.ss_sp = stack, .ss_size = size}; // a kernel may have used up its own
    struct sigaction act = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    child_report = r;
    sigaltstack(&alternative, NULL);
    for (size_t i = 0; i < sizeof fatal / sizeof fatal[0]; i++)
        sigaction(fatal[i], &act, NULL);
}

/* --- memory ---------------------------------------------------------------------------------- */

/* The bytes between the lower guard page and the first byte of data. */
static size_t slack(const struct qg_buffer *b, unsigned char **ret_at)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    *ret_at = (unsigned char *)b->map + page;
    return b->map ? (size_t)((unsigned char *)b->data - *ret_at) : 0;
}

static void mark_slack(const struct qg_buffer *b)
{
    unsigned char *at;
    size_t n = slack(b, &at);
    if (n)
        memset(at, MARK, n);
}

/* How far before the data the last changed byte lies, or 0. */
static size_t underrun(const struct qg_buffer *b)
{
    unsigned char *at;
    size_t n = slack(b, &at);
    for (size_t i = n; i-- > 0;)
        if (at[i] != MARK)
            return n - i;
    return 0;
}

static void poison(struct qg_call *c, int pattern)
{
    for (int i = 0; i < c->args.n_out; i++)
        memset(c->out[i].data, pattern, c->out[i].bytes);
    memset(c->work.data, pattern, c->work.bytes);
}

static bool protect_inputs(const struct qg_call *c)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < c->args.n_in; i++)
        if (c->in[i].mapped > 2 * page &&
            mprotect((char *)c->in[i].map + page, c->in[i].mapped - 2 * page, PROT_READ) != 0)
            return false;
    return true;
}

/* Copies of all outputs, one behind the other. */
struct copies {
    struct qg_buffer first, second;
};

static void copy_outputs(const struct qg_call *c, const struct qg_buffer *to)
{
    size_t at = 0;
    for (int i = 0; i < c->args.n_out; at += c->out[i++].bytes)
        memcpy((char *)to->data + at, c->out[i].data, c->out[i].bytes);
}

/* --- the child ------------------------------------------------------------------------------- */

/* Twice on differently poisoned memory, then as often as its timing takes. */
static void exercise(qg_op_fn *fn, struct qg_call *c, const struct qg_bench *b,
                     const struct copies *copies, struct report *r)
{
    c->args.failure = &r->failure;
    c->args.choice = &r->choice;
    poison(c, POISON_FIRST);
    fn(&c->args);
    copy_outputs(c, &copies->first);
    poison(c, POISON_SECOND);
    fn(&c->args);
    copy_outputs(c, &copies->second);
    if (!r->failure.text[0])
        qg_bench_run(fn, &c->args, b, &r->times);
    c->args.failure = NULL;
    c->args.choice = NULL;
    r->finished = 1;
}

static _Noreturn void be_child(qg_op_fn *fn, struct qg_call *c, const struct qg_bench *b,
                               const struct copies *copies, struct report *r)
{
    static char stack[65536];
    prctl(PR_SET_PDEATHSIG, SIGKILL); // a killed run leaves no hanging kernel behind
    catch_signals(r, stack, sizeof stack);
    if (!protect_inputs(c))
        _exit(2);
    openblas_set_num_threads(1);
    exercise(fn, c, b, copies, r);
    _exit(0);
}

/* In this process, which is there for it: SIGALRM ends it when the time is up. */
static enum qg_status run_here(qg_op_fn *fn, struct qg_call *c, const struct qg_bench *b,
                               double timeout_s, const struct copies *copies, struct report *r,
                               struct qg_error *err)
{
    const time_t whole = (time_t)timeout_s;
    const struct timeval limit = {whole, (suseconds_t)(1e6 * (timeout_s - (double)whole))};
    const struct itimerval alarm = {.it_value = limit}, none = {0};
    if (lockf(b->turn, F_LOCK, 0) != 0)
        return qg_fail(err, QG_EIO, "the turn on a device: %s", strerror(errno));
    signal(SIGALRM, SIG_DFL);
    setitimer(ITIMER_REAL, &alarm, NULL);
    exercise(fn, c, b, copies, r);
    setitimer(ITIMER_REAL, &none, NULL);
    if (lockf(b->turn, F_ULOCK, 0) != 0)
        return qg_fail(err, QG_EIO, "the turn on a device: %s", strerror(errno));
    return QG_OK;
}

/* --- the verdict ----------------------------------------------------------------------------- */

static void verdict(struct qg_trial *t, enum qg_verdict v, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void verdict(struct qg_trial *t, enum qg_verdict v, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    t->verdict = v;
    vsnprintf(t->reason, sizeof t->reason, format, ap);
    va_end(ap);
}

static enum qg_verdict verdict_of(enum qg_cause c)
{
    return c == QG_CAUSE_NO_ROOM ? QG_ERROR : c == QG_CAUSE_ABSENT ? QG_SKIP : QG_FAIL;
}

/* What a library does not have breaks nothing. */
static bool may_break(const struct qg_failure *f)
{
    return f->text[0] && f->cause != QG_CAUSE_ABSENT;
}

static bool in_pages(const struct qg_buffer *b, const char *p)
{
    return b->map && p >= (char *)b->map && p < (char *)b->map + b->mapped;
}

/* Says where in buffer b the address of a trapped access lies; false when it is elsewhere. */
static bool explain_access(const struct report *r, const struct qg_buffer *b, const char *name,
                           bool input, struct qg_trial *t)
{
    const char *p = r->address, *data = b->data;
    const char *verb = r->known_write ? "writes" : r->known_read ? "reads" : "reaches";
    long past = qg_buffer_overrun(b, p);
    if (!in_pages(b, p))
        return false;
    if (past >= 0)
        verdict(t, QG_FAIL, "%s past the end of '%s', at byte %ld behind its last", verb, name,
                past + 1);
    else if (p < data)
        verdict(t, QG_FAIL, "%s %ld bytes before the start of '%s'", verb, (long)(data - p), name);
    else
        verdict(t, QG_FAIL, "writes to its %s '%s', at byte %ld", input ? "input" : "own memory",
                name, (long)(p - data));
    return true;
}

static void explain_signal(const struct report *r, const struct qg_call *c, struct qg_trial *t)
{
    for (int i = 0; i < c->args.n_out; i++)
        if (explain_access(r, &c->out[i], c->args.out[i].name, false, t))
            return;
    for (int i = 0; i < c->args.n_in; i++)
        if (explain_access(r, &c->in[i], c->args.in[i].name, true, t))
            return;
    if (explain_access(r, &c->work, "work", false, t))
        return;
    if (r->signal == SIGABRT)
        verdict(t, QG_CRASH, "aborts (SIGABRT)");
    else
        verdict(t, QG_CRASH, "dies of SIG%s at address %p", sigabbrev_np(r->signal), r->address);
}

static bool explain_underrun(const struct qg_call *c, struct qg_trial *t)
{
    for (int i = 0; i < c->args.n_out + 1; i++) {
        const struct qg_buffer *b = i < c->args.n_out ? &c->out[i] : &c->work;
        size_t n = underrun(b);
        if (!n)
            continue;
        verdict(t, QG_FAIL, "writes before the start of '%s', at byte %zu before its first",
                i < c->args.n_out ? c->args.out[i].name : "work", n);
        return true;
    }
    return false;
}

/* Whether element i (of `size` bytes) still holds the poison of both runs. */
static bool untouched(const unsigned char *first, const unsigned char *second, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (first[i] != POISON_FIRST || second[i] != POISON_SECOND)
            return false;
    return true;
}

/* The first byte at which two runs differ; n when they agree. */
static size_t first_difference(const unsigned char *a, const unsigned char *b, size_t n)
{
    size_t i = 0;
    if (memcmp(a, b, n) == 0)
        return n;
    while (a[i] == b[i])
        i++;
    return i;
}

static void compare_runs(const struct qg_call *c, const struct copies *copies, struct qg_trial *t)
{
    size_t at = 0;
    for (int o = 0; o < c->args.n_out; at += c->out[o++].bytes) {
        const struct qg_tensor *tensor = &c->args.out[o];
        const unsigned char *a = (unsigned char *)copies->first.data + at;
        const unsigned char *b = (unsigned char *)copies->second.data + at;
        size_t n = c->out[o].bytes, size = qg_dtype_bytes(tensor->dtype);
        size_t i = first_difference(a, b, n) / size;
        if (i < n / size && untouched(a + i * size, b + i * size, size)) {
            verdict(t, QG_FAIL, "leaves '%s'[%zu] unwritten", tensor->name, i);
            return;
        }
        if (i < n / size) {
            verdict(t, QG_FAIL, "two runs on the same input differ at '%s'[%zu]", tensor->name, i);
            return;
        }
        i = first_difference(b, c->out[o].data, n) / size;
        if (i < n / size) {
            verdict(t, QG_FAIL, "a later run on the same input differs at '%s'[%zu]", tensor->name,
                    i);
            return;
        }
    }
}

/* --- the parent ------------------------------------------------------------------------------ */

/* Waits until the child is gone or the time is up: its end of the pipe closes when it dies, however
 * it dies. */
static bool wait_for_end(int fd, double timeout_s)
{
    double until = qg_clock_now() + timeout_s;
    for (;;) {
        double left = until - qg_clock_now();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int n = poll(&p, 1, left > 0 ? (int)(left * 1000) + 1 : 0);
        if (n > 0)
            return true;
        if (n == 0 || (n < 0 && errno != EINTR))
            return false;
    }
}

static enum qg_status fork_and_wait(qg_op_fn *fn, struct qg_call *c, const struct qg_bench *b,
                                    double timeout_s, const struct copies *copies, struct report *r,
                                    bool *ret_in_time, int *ret_status, struct qg_error *err)
{
    int ends[2];
    if (pipe(ends) != 0)
        return qg_fail(err, QG_EIO, "a pipe: %s", strerror(errno));
    fflush(NULL); // or the child would hold a second copy of what is not written yet
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        be_child(fn, c, b, copies, r);
    }
    int failure = errno;
    close(ends[1]);
    if (child < 0) {
        close(ends[0]);
        return qg_fail(err, QG_EIO, "a child process: %s", strerror(failure));
    }
    *ret_in_time = wait_for_end(ends[0], timeout_s);
    close(ends[0]);
    if (!*ret_in_time)
        kill(child, SIGKILL);
    while (waitpid(child, ret_status, 0) < 0 && errno == EINTR)
        ;
    return QG_OK;
}

static void judge_end(const struct qg_call *c, const struct copies *copies, const struct report *r,
                      bool in_time, int status, double timeout_s, struct qg_trial *t)
{
    if (explain_underrun(c, t))
        return;
    if (!in_time)
        verdict(t, QG_TIMEOUT, "not done after %g s", timeout_s);
    else if (r->signal)
        explain_signal(r, c, t);
    else if (WIFSIGNALED(status))
        verdict(t, QG_CRASH, "dies of signal %d (%s)", WTERMSIG(status),
                strsignal(WTERMSIG(status)));
    else if (r->failure.text[0])
        verdict(t, verdict_of(r->failure.cause), "%s", r->failure.text);
    else if (!r->finished)
        verdict(t, QG_CRASH, "ends the process with exit code %d", WEXITSTATUS(status));
    else if (r->times.untimed.text[0] && r->times.untimed.cause == QG_CAUSE_KERNEL)
        verdict(t, QG_FAIL, "%s", r->times.untimed.text);
    else
        compare_runs(c, copies, t);
}

enum qg_status qg_isolate_run(qg_op_fn *fn, struct qg_call *c, const struct qg_bench *b,
                              double timeout_s, struct qg_trial *ret, struct qg_error *err)
{
    struct copies copies = {0};
    struct qg_buffer shared = {0};
    size_t bytes = 0;
    bool in_time = true;
    int status = 0;
    for (int i = 0; i < c->args.n_out; i++) {
        mark_slack(&c->out[i]);
        bytes += c->out[i].bytes;
    }
    mark_slack(&c->work);
    if (qg_buffer_alloc(&copies.first, bytes, err) == QG_OK &&
        qg_buffer_alloc(&copies.second, bytes, err) == QG_OK &&
        qg_buffer_alloc(&shared, sizeof(struct report), err) == QG_OK &&
        (b->turn ? run_here(fn, c, b, timeout_s, &copies, shared.data, err)
                 : fork_and_wait(fn, c, b, timeout_s, &copies, shared.data, &in_time, &status,
                                 err)) == QG_OK) {
        struct report *r = shared.data;
        *ret = (struct qg_trial){.verdict = QG_PASS,
                                 .choice = r->choice,
                                 .device_failed =
                                     may_break(&r->failure) || may_break(&r->times.untimed),
                                 .times = qg_bench_none};
        if (r->finished && !r->failure.text[0])
            ret->times = r->times;
        judge_end(c, &copies, r, in_time, status, timeout_s, ret);
        err->status = QG_OK;
    }
    qg_buffer_free(&copies.first);
    qg_buffer_free(&copies.second);
    qg_buffer_free(&shared);
    return err->status;
}
