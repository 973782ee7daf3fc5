/* SPDX-License-Identifier: MIT
 *
 * Runs a kernel where it can do no harm: in a forked child, its inputs read-only, its outputs and
 * scratch poisoned, with an inaccessible page behind the last byte of each and before the first
 * page, and with marked bytes between that page and the first byte. It runs twice on differently
 * poisoned memory and, when timed, many times more; all runs must leave the same bytes.
 */
#ifndef QG_ISOLATE_H
#define QG_ISOLATE_H

#include "harness/bench.h"
#include "harness/call.h"

struct qg_trial {
    enum qg_verdict verdict; /* PASS: it ran and kept to its memory; FAIL, CRASH, TIMEOUT; of a
                              * device also ERROR (no memory) and SKIP (nothing for this call) */
    char reason[200];        /* unless PASS: what it did, and where; why not */
    struct qg_chosen choice; /* of a library behind the kernel; "" when none told */
    bool device_failed;      /* which may not work again in the process that it ran in */
    struct qg_bench_result times;
};

/* Runs fn on c->args, whose inputs are filled. On return c's outputs hold what the kernel made of
 * them (also after FAIL). A child that is not done after timeout_s is killed. An error is the
 * harness's own: no memory, no process. SIGINT and SIGTERM should be blocked by callers that want
 * to finish the case in flight.
 *
 * With b->turn it runs in the caller's own process, for kernels that work on a device's memory:
 * what they do wrong to the process ends it, and SIGALRM does when it is not done after timeout_s.
 */
QG_MUST_CHECK enum qg_status qg_isolate_run(qg_op_fn *fn, struct qg_call *c,
                                            const struct qg_bench *b, double timeout_s,
                                            struct qg_trial *ret, struct qg_error *err);

#endif
