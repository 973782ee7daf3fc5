/* SPDX-License-Identifier: MIT
 *
 * Inside `qgauge ppl`: what was asked for, and the table.
 */
#ifndef QG_CLI_PPL_H
#define QG_CLI_PPL_H

#include <stdio.h>

#include "harness/cli/cli.h"
#include "harness/lm/evaluate.h"

/* A text, as far as it is evaluated. */
struct qg_ppl_text {
    double tokens, documents, bytes, words; /* bytes, words: NAN when nobody knows them */
};

/* The head of the table, and under it the base model. */
void qg_ppl_print_head(const struct qg_ppl_text *t, const struct qg_quality *q,
                       const char *clusters_of, double level, double bits, double bytes);

/* A line of the table; `verbose`: two more. */
void qg_ppl_print_row(const struct qg_modelled *m, double bytes_per_token, bool verbose);

#endif
