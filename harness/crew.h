/* SPDX-License-Identifier: MIT
 *
 * Several processes that judge the cases of a plan side by side. Results come back in the order of
 * the list, whoever made them, so that a run writes the same file with any number of workers.
 *
 * Kernels of processors run in a child for each case (isolate.h), untimed. What a process first
 * asks of a device takes much longer than most cases, so those of a device, timed or not, run in
 * the worker itself, and it stays for its whole share. Kernels take turns on the device;
 * definitions are computed meanwhile. A worker that dies, or whose device has failed, is followed
 * by another, which goes on behind the case that it was at.
 */
#ifndef QG_CREW_H
#define QG_CREW_H

#include "harness/plan.h"
#include "harness/result.h"

/* What is kept of one judged case. */
struct qg_outcome {
    struct qg_record record;
    struct qg_bench_result times;
    bool device_failed;
    void *output; /* the bytes of the first output, at most QG_OUTPUT_LIMIT, or NULL */
    size_t output_bytes;
};

/* Judges one case here; what the harness itself could not do is the verdict ERROR. The caller frees
 * output. */
void qg_outcome_make(const struct qg_planned *p, const struct qg_bench *b, double timeout_s,
                     struct qg_outcome *ret);

struct qg_crew;

/* Starts workers for list[0 .. n), as many as there are processors beside this one (none is fine
 * too). The list must live as long as the crew. NULL when there is no memory. */
struct qg_crew *qg_crew_start(const struct qg_planned *const *list, size_t n, double timeout_s);

/* The same for cases of devices (kernels with launch), which may be timed. At least two workers, at
 * most twelve, for each has memory of its own on the device; one where the device allows no more.
 */
struct qg_crew *qg_crew_on_device(const struct qg_planned *const *list, size_t n,
                                  const struct qg_bench *b, double timeout_s);

/* The outcome of the next case of the list: from its worker, or made here when it is this process's
 * turn or the worker is gone. */
void qg_crew_next(struct qg_crew *c, struct qg_outcome *ret);

/* Ends the workers, also before the end of the list. */
void qg_crew_end(struct qg_crew **c);

#endif
