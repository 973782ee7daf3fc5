/* SPDX-License-Identifier: MIT
 *
 * How numbers and strings are written, the same in every format.
 */
#ifndef QG_PUT_H
#define QG_PUT_H

#include <stddef.h>
#include <stdio.h>

struct qg_comparison;
struct qg_conditions;
struct qg_pair;
struct qg_record;
struct qg_resource_pair;

/* A place for one formatted number. */
struct qg_text {
    char s[40];
};

/* The shortest decimal that reads back to the same double; "inf", "-inf", "nan". */
struct qg_text qg_text_exact(double x);

/* `decimals` digits after the point, with a sign when asked for; "inf", "-inf", and "-" for NaN. */
struct qg_text qg_text_rounded(double x, int decimals, int sign);

/* Three digits and a unit: "12.3 µs"; "-" for NaN. */
struct qg_text qg_text_time(double seconds);

/* Three digits and a decimal prefix before the unit: ("1.23 GB/s"); "-" for NaN. */
struct qg_text qg_text_rate(double x, const char *unit);

/* qgauge repro 'SPELLING', quoted for a POSIX shell. Calls `put` for the text, so that every format
 * escapes it in its own way. */
void qg_put_repro(FILE *out, const struct qg_record *r, void (*put)(FILE *out, const char *s));

/* "1965..1980 MHz, memory 2619 MHz, 45 °C, 351 W, 5 samples discarded (thermal)": what is known of
 * a device while it was timed; "" when nothing is. */
struct qg_conditions_text {
    char s[192];
};
struct qg_conditions_text qg_text_conditions(const struct qg_conditions *c);

/* "; SM clock 1980 -> 1410 MHz; memory clock 2619 -> 1593 MHz": those that differ between the runs
 * (see qg_pair_at_other_clocks), with the arrow that is given. */
void qg_put_clocks(FILE *out, const struct qg_pair *p, const char *arrow);

/* ", 1 only in BASE, 0 only in HEAD", or nothing when all rows are in both. */
void qg_put_missing(FILE *out, size_t only_base, size_t only_head);

/* What became of rows of /lm and /proxy, counted, in one line each that ends in a newline. */
void qg_put_models(FILE *out, const struct qg_comparison *c);
void qg_put_predictions(FILE *out, const struct qg_comparison *c);

/* What became of rows of /resources, counted, in a line; and every number of a row in both files
 * that is another: "heavier, registers 80 -> 90, warps 24 -> 16", with texts written by `put`. */
void qg_put_resources(FILE *out, const struct qg_comparison *c);
void qg_put_burden(FILE *out, const struct qg_resource_pair *p, const char *arrow,
                   void (*put)(FILE *out, const char *s));

/* Of regressions that are none of cases: ", 2 of language models, 1 of CUDA kernels' resources". */
void qg_put_regressions(FILE *out, const struct qg_comparison *c, unsigned on);

/* "int4.convert.c": the part of a case that names the kernel. */
void qg_kernel_of(const struct qg_record *r, char *text, size_t size);

#endif
