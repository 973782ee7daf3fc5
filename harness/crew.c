/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* prctl */
#include "harness/crew.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/journal.h"
#include "harness/judge.h"
#include "harness/lm/parallel.h"

enum { MOST_WORKERS = 15 };

struct qg_crew {
    const struct qg_planned *const *list;
    size_t n, at; /* the next case to hand out */
    double timeout_s;
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
    *ret = (struct qg_outcome){.record = j.record, .times = j.times};
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

/* A worker: its share of the list, one outcome after the other. */
static void work(const struct qg_crew *c, int worker, int fd)
{
    const struct qg_bench untimed = {0};
    struct qg_error err;
    bool heard = true;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (size_t i = (size_t)worker + 1; i < c->n && heard; i += (size_t)c->workers + 1) {
        struct qg_outcome o;
        qg_outcome_make(c->list[i], &untimed, c->timeout_s, &o);
        heard = qg_write_all(fd, "crew", &o, sizeof o, &err) == QG_OK &&
                qg_write_all(fd, "crew", o.output, o.output_bytes, &err) == QG_OK;
        free(o.output);
    }
    _exit(0);
}

static bool hire(struct qg_crew *c, int worker)
{
    int ends[2];
    c->fd[worker] = -1;
    if (pipe(ends) != 0)
        return false;
    fflush(NULL); // or the worker would hold a second copy of what is not written yet
    c->pid[worker] = fork();
    if (c->pid[worker] == 0) {
        for (int w = 0; w < worker; w++)
            close(c->fd[w]);
        close(ends[0]);
        work(c, worker, ends[1]);
    }
    close(ends[1]);
    if (c->pid[worker] < 0)
        close(ends[0]);
    else
        c->fd[worker] = ends[0];
    return c->fd[worker] >= 0;
}

struct qg_crew *qg_crew_start(const struct qg_planned *const *list, size_t n, double timeout_s)
{
    struct qg_crew *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    int most = qg_processors() - 1;
    c->list = list;
    c->n = n;
    c->timeout_s = timeout_s;
    c->workers = most < 0 ? 0 : most < MOST_WORKERS ? most : MOST_WORKERS;
    if ((size_t)c->workers >= n)
        c->workers = n ? (int)n - 1 : 0;
    for (int w = 0; w < c->workers; w++)
        hire(c, w); // one that is not there is missed when its turn comes
    return c;
}

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

void qg_crew_next(struct qg_crew *c, struct qg_outcome *ret)
{
    const struct qg_bench untimed = {0};
    size_t i = c->at++;
    int worker = (int)(i % ((size_t)c->workers + 1)) - 1;
    if (worker >= 0 && c->fd[worker] >= 0) {
        if (receive(c->fd[worker], ret))
            return;
        close(c->fd[worker]);
        c->fd[worker] = -1;
    }
    qg_outcome_make(c->list[i], &untimed, c->timeout_s, ret);
}

void qg_crew_end(struct qg_crew **c)
{
    for (int w = 0; w < (*c)->workers; w++) {
        if ((*c)->fd[w] >= 0)
            close((*c)->fd[w]);
        if ((*c)->pid[w] > 0) {
            kill((*c)->pid[w], SIGKILL);
            while (waitpid((*c)->pid[w], NULL, 0) < 0 && errno == EINTR)
                ;
        }
    }
    free(*c);
    *c = NULL;
}
