/* SPDX-License-Identifier: MIT
 *
 * Inside `qgauge proxy`: what was measured elsewhere.
 */
#ifndef QG_CLI_PROXY_H
#define QG_CLI_PROXY_H

#include "harness/cli/cli.h"
#include "harness/lm/score.h"

/* What a scheme did to the model; without a row there is no such thing. */
struct qg_measured {
    char scheme[160]; /* "int4 group=32" */
    struct qg_estimate delta, kl;
};

struct qg_measured_table {
    struct qg_measured *row;
    size_t n;
};

/* Reads a table with the columns scheme, delta_ln_ppl, delta_low, delta_high, kl, kl_low and
 * kl_high, in any order among any others, fields apart by tabs (golden/lm/quality.tsv). QG_EFORMAT
 * names what is missing, or the line with no number. The caller frees, also after a failure. */
QG_MUST_CHECK enum qg_status qg_measured_read(const char *path, struct qg_measured_table *ret_t,
                                              struct qg_error *err);
void qg_measured_free(struct qg_measured_table *t);

/* The row of a scheme, or NULL. */
const struct qg_measured *qg_measured_find(const struct qg_measured_table *t, const char *scheme);

#endif
