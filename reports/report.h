/* SPDX-License-Identifier: MIT
 *
 * The output formats: one file each. All write to a FILE of the caller's, who looks at ferror.
 */
#ifndef QG_REPORT_H
#define QG_REPORT_H

#include <stdbool.h>
#include <stdio.h>

#include "harness/base/error.h"
#include "harness/result.h"
#include "reports/comparison.h"
#include "reports/plot.h"

/* text.c: what moved on one screen; `verbose`: every case. `on`: what counts as a regression. */
void qg_compare_text(const struct qg_comparison *c, unsigned on, bool verbose, FILE *out);

/* markdown.c: the same for a pull request. */
void qg_compare_markdown(const struct qg_comparison *c, unsigned on, bool verbose, FILE *out);

/* csv.c: a header line, then one line per row of a table. */
void qg_export_csv(const struct qg_result *r, enum qg_table_id table, FILE *out);

/* json.c: {"schema_version", "meta", "cases", "gaps", "atlas", "convert", "lm", "proxy",
 * "resources"}. QG_ENOMEM. */
QG_MUST_CHECK enum qg_status qg_export_json(const struct qg_result *r, FILE *out,
                                            struct qg_error *err);

/* html.c: DIR/index.html, which needs neither network nor scripts, with the plots of plot.h beside
 * it. DIR is an empty folder, `source` the name of the result file. QG_EIO, QG_ENOMEM. */
QG_MUST_CHECK enum qg_status qg_report_html(const struct qg_result *r, const char *source,
                                            const char *dir, struct qg_plot ret_plot[QG_PLOTS],
                                            struct qg_error *err);

/* The names of all files that a report may consist of, in no folder, the page last: false past the
 * end. */
bool qg_report_file(size_t i, char *name, size_t size);

#endif
