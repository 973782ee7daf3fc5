/* SPDX-License-Identifier: MIT
 *
 * One case from its input to its record: fill, definition, kernel in a child, comparison, verdict,
 * quality, time. Bits come first; where the kernel claims a bound, the proved bound of the
 * definition for the kernel's own depth of summation. Nothing here is tuned.
 *
 *     FAIL        wrong bits or bound exceeded; unwritten or unstable results; memory not its own
 *     MISTRUSTED  it agrees, but more than 90 % of the results are one value, non-finite,
 *                 saturated or without a finite bound, or the result is the unquantized input
 *     MARGINAL    right, with more than 90 % of the bound used
 */
#ifndef QG_JUDGE_H
#define QG_JUDGE_H

#include "harness/case.h"
#include "harness/compare.h"
#include "harness/isolate.h"
#include "harness/result.h"

struct qg_judgement {
    struct qg_record record;
    struct qg_bench_result times;
    struct qg_call want,
        got;               /* the definition's and the kernel's call; want borrows got's inputs */
    struct qg_call source; /* convert of the unquantized tensor, for dequant and matmul */
    struct qg_tensor original; /* the unquantized tensor, in got or source */
    int wrong_out;             /* index of the output that holds the first wrong element, or -1 */
    size_t wrong_at;           /* and the element's index in it */
    bool device_failed;        /* see isolate.h */
};

/* Judges one case; time it with a budget above 0. What a kernel does wrong is the verdict, not an
 * error; errors are the harness's own (no memory, a case without its tensor). The caller frees with
 * qg_judgement_free, in all cases. */
QG_MUST_CHECK enum qg_status qg_judge(const struct qg_case *c, const struct qg_bench *b,
                                      double timeout_s, struct qg_judgement *ret,
                                      struct qg_error *err);
void qg_judgement_free(struct qg_judgement *j);

/* The record of a case of which nothing is known but its name and size. */
QG_MUST_CHECK enum qg_status qg_judge_name(const struct qg_case *c, struct qg_record *ret,
                                           struct qg_error *err);

#endif
