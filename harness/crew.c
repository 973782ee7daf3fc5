/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* prctl, memfd_create */
#include "harness/crew.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/base/processors.h"
#include "harness/journal.h"
#include "harness/judge.h"

enum { MOST_WORKERS = 15, MOST_ON_DEVICE = 12 };

struct qg_crew {
    const struct qg_planned *const *list;
    size_t n, at; /* the next case to hand out */
    struct qg_bench bench;
    double timeout_s;
    bool device; /* the workers make all cases, else all but every (workers + 1)st */
    int workers;
    pid_t pid[MOST_WORKERS];
    int fd[MOST_WORKERS]; /* -1: gone */
};

void qg_outcome_make(const struct qg_planned *p, const struct qg_bench *b, double timeout_s,
                     struct qg_outcome *ret)
{
    struct qg_judgement j;
    struct qg_error err;
    if (qg_judge(&p->c, b, timeout_s, &j, &err) != QG_OK) {
        j.record.verdict = QG_ERROR;
        snprintf(j.record.reason, sizeof j.record.reason, "%.255s", err.message);
        j.times = qg_bench_none;
    }
    *ret =
        (struct qg_outcome){.record = j.record, .times = j.times, .device_failed = j.device_failed};
    const struct qg_call *got = &j.got;
    bool ran = j.record.verdict != QG_SKIP && j.record.verdict != QG_ERROR && got->args.n_out > 0;
    if (ran && got->out[0].bytes <= QG_OUTPUT_LIMIT)
        ret->output = malloc(got->out[0].bytes);
    if (ret->output) {
        ret->output_bytes = got->out[0].bytes;
        memcpy(ret->output, got->out[0].data, ret->output_bytes);
    }
    qg_judgement_free(&j);
}

/* --- workers --------------------------------------------------------------------------------- */

/* Cases from one of a worker's to its next. */
static size_t stride(const struct qg_crew *c)
{
    return (size_t)c->workers + !c->device;
}

/* Who makes case i; -1: the process that asks. */
static int worker_of(const struct qg_crew *c, size_t i)
{
    return (int)(i % stride(c)) - !c->device;
}

/* A worker: its share of the list from case i on, one outcome after the other. One on a device goes
 * when the device has failed: what happens next in its process might be no fault of the kernel. */
static _Noreturn void work(const struct qg_crew *c, size_t i, int fd)
{
    struct qg_error err;
    bool good = true;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (; i < c->n && good; i += stride(c)) {
        struct qg_outcome o;
        qg_outcome_make(c->list[i], &c->bench, c->timeout_s, &o);
        good = qg_write_all(fd, "crew", &o, sizeof o, &err) == QG_OK &&
               qg_write_all(fd, "crew", o.output, o.output_bytes, &err) == QG_OK &&
               !(c->device && o.device_failed);
        free(o.output);
    }
    _exit(0);
}

/* Starts a worker at case i. */
static void hire(struct qg_crew *c, int worker, size_t i)
{
    int ends[2];
    c->fd[worker] = -1;
    c->pid[worker] = -1;
    if (i >= c->n || pipe(ends) != 0)
        return;
    fflush(NULL); // or the worker would hold a second copy of what is not written yet
    c->pid[worker] = fork();
    if (c->pid[worker] == 0) {
        for (int w = 0; w < c->workers; w++)
            if (c->fd[w] >= 0)
                close(c->fd[w]);
        close(ends[0]);
        work(c, i, ends[1]);
    }
    close(ends[1]);
    if (c->pid[worker] < 0)
        close(ends[0]);
    else
        c->fd[worker] = ends[0];
}

/* Ends a worker and says how it ended. */
static int dismiss(struct qg_crew *c, int worker, bool at_once)
{
    int status = 0;
    if (c->fd[worker] >= 0)
        close(c->fd[worker]);
    c->fd[worker] = -1;
    if (c->pid[worker] <= 0)
        return status;
    if (at_once)
        kill(c->pid[worker], SIGKILL);
    while (waitpid(c->pid[worker], &status, 0) < 0 && errno == EINTR)
        ;
    c->pid[worker] = -1;
    return status;
}

static bool is_alone(const struct qg_planned *p)
{
    const struct qg_backend *b = qg_backend_find(p->c.kernel->backend);
    return b->is_alone && b->is_alone();
}

static struct qg_crew *start(const struct qg_planned *const *list, size_t n,
                             const struct qg_bench *b, double timeout_s, bool device)
{
    struct qg_crew *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    const int most = device ? MOST_ON_DEVICE : MOST_WORKERS, beside = qg_processors() - 1;
    *c = (struct qg_crew){.list = list, .n = n, .bench = *b, .timeout_s = timeout_s};
    c->device = device;
    c->workers = beside < most ? beside : most;
    if (device && c->workers < 2)
        c->workers = 2; // while the kernel of one runs, the other computes what it should
    if (device && n && is_alone(list[0]))
        c->workers = 1;
    if (stride(c) > n)
        c->workers = n ? (int)n - !device : 0;
    for (int w = 0; w < MOST_WORKERS; w++)
        c->fd[w] = c->pid[w] = -1;
    return c;
}

struct qg_crew *qg_crew_start(const struct qg_planned *const *list, size_t n, double timeout_s)
{
    const struct qg_bench untimed = {0};
    struct qg_crew *c = start(list, n, &untimed, timeout_s, false);
    for (int w = 0; c && w < c->workers; w++)
        hire(c, w, (size_t)w + 1); // one that is not there is missed when its turn comes
    return c;
}

struct qg_crew *qg_crew_on_device(const struct qg_planned *const *list, size_t n,
                                  const struct qg_bench *b, double timeout_s)
{
    struct qg_crew *c = start(list, n, b, timeout_s, true);
    if (!c)
        return NULL;
    c->bench.turn = memfd_create("qgauge", MFD_CLOEXEC);
    if (c->bench.turn <= 0) {
        free(c);
        return NULL;
    }
    for (int w = 0; w < c->workers; w++)
        hire(c, w, (size_t)w);
    return c;
}

/* --- outcomes -------------------------------------------------------------------------------- */

static bool receive(int fd, struct qg_outcome *o)
{
    if (!qg_read_exactly(fd, o, sizeof *o))
        return false;
    o->output = o->output_bytes ? malloc(o->output_bytes) : NULL;
    if (!o->output)
        return o->output_bytes == 0;
    if (qg_read_exactly(fd, o->output, o->output_bytes))
        return true;
    free(o->output);
    return false;
}

/* The outcome of a case that ended its worker. */
static void lose(const struct qg_crew *c, const struct qg_case *at, int status,
                 struct qg_outcome *ret)
{
    struct qg_error err;
    *ret = (struct qg_outcome){.times = qg_bench_none};
    struct qg_record *r = &ret->record;
    if (qg_judge_name(at, r, &err) != QG_OK) {
        r->verdict = QG_ERROR;
        snprintf(r->reason, sizeof r->reason, "%.255s", err.message);
    } else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
        r->verdict = QG_TIMEOUT;
        snprintf(r->reason, sizeof r->reason, "not done after %g s", c->timeout_s);
    } else if (WIFSIGNALED(status)) {
        r->verdict = QG_CRASH;
        snprintf(r->reason, sizeof r->reason, "dies of signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    } else {
        r->verdict = QG_CRASH;
        snprintf(r->reason, sizeof r->reason, "ends the process with exit code %d",
                 WEXITSTATUS(status));
    }
}

/* From the worker of a device, whose place another takes when it has ended. */
static void next_on_device(struct qg_crew *c, size_t i, int worker, struct qg_outcome *ret)
{
    if (c->fd[worker] < 0) { // no process could be had
        lose(c, &c->list[i]->c, 0, ret);
        ret->record.verdict = QG_ERROR;
        snprintf(ret->record.reason, sizeof ret->record.reason, "no process to run it in");
    } else if (!receive(c->fd[worker], ret)) {
        lose(c, &c->list[i]->c, dismiss(c, worker, false), ret);
    } else if (!ret->device_failed) {
        return;
    }
    dismiss(c, worker, false);
    hire(c, worker, i + stride(c));
}

void qg_crew_next(struct qg_crew *c, struct qg_outcome *ret)
{
    const size_t i = c->at++;
    const int worker = worker_of(c, i);
    if (c->device) {
        next_on_device(c, i, worker, ret);
        return;
    }
    if (worker >= 0 && c->fd[worker] >= 0) {
        if (receive(c->fd[worker], ret))
            return;
        dismiss(c, worker, true);
    }
    qg_outcome_make(c->list[i], &c->bench, c->timeout_s, ret);
}

void qg_crew_end(struct qg_crew **c)
{
    for (int w = 0; w < (*c)->workers; w++)
        dismiss(*c, w, true);
    if ((*c)->bench.turn)
        close((*c)->bench.turn);
    free(*c);
    *c = NULL;
}
