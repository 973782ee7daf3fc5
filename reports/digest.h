/* SPDX-License-Identifier: MIT
 *
 * What pages and plots look up again and again: the distinct names of a run, in the order in which
 * they appear, and small sums over cases.
 */
#ifndef QG_DIGEST_H
#define QG_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/error.h"
#include "harness/result.h"

#define QG_NAMES_MAX 256 /* a file of a stranger may have more: the rest is counted, not shown */

struct qg_names {
    size_t n, lost; /* lost: names that found no room */
    char name[QG_NAMES_MAX][96];
};

struct qg_digest {
    const struct qg_result *r; /* borrowed */
    struct qg_names row;  /* "int8-int4:activation", "int4 group=32": scheme, operand, parameters */
    struct qg_names data; /* fills; of a checkpoint the file, not its tensors */
    struct qg_names how;  /* "fake-quant c": operation, backend, variant */
    uint16_t (*at)[3];    /* of each case: its row, data and how; QG_NAMES_MAX: lost */
};

/* The caller frees *ret_d before the result. */
QG_MUST_CHECK enum qg_status qg_digest_make(const struct qg_result *r, struct qg_digest **ret_d,
                                            struct qg_error *err);
void qg_digest_free(struct qg_digest **d);

/* Median SQNR of the cases of a row with that operation and data; *ret_n of them. NaN values count
 * only when all are. */
double qg_digest_sqnr(const struct qg_digest *d, size_t row, const char *op, size_t data,
                      size_t *ret_n);

/* Whether a device computed it. */
bool qg_is_of_device(const struct qg_record *r);

/* Whether it was timed warm. */
bool qg_is_timed(const struct qg_record *r);

/* The largest case of a row, operation and backend that is wanted, or NULL. */
const struct qg_record *qg_digest_largest(const struct qg_digest *d, size_t row, size_t how,
                                          bool (*is_wanted)(const struct qg_record *r));

/* What the unquantized weight costs: the fastest case of the same product, shape and dtype, on a
 * device if `r` is of one, whose factors are not cut to TF32. NULL: there is none, or `r` is no
 * timed product. */
const struct qg_record *qg_unquantized_of(const struct qg_result *results,
                                          const struct qg_record *r);

/* How many cases the run set out to do: more than r->n_cases when it was interrupted, and n_cases
 * when the file does not say. */
uint64_t qg_cases_planned(const struct qg_result *r);

/* The KL that was measured of what was foretold: by a row of /lm (the converted model), else what
 * stands beside the prediction; value NaN when nobody measured it. */
struct qg_measured_kl {
    double value, low, high;
};
struct qg_measured_kl qg_kl_measured(const struct qg_result *r, const struct qg_foretold *f);

/* Whether a prediction of KL is off by more than 10 %. */
bool qg_is_off(const struct qg_foretold *f, const struct qg_measured_kl *measured);

/* What stands for the data of a case: a fill's name, or the file (without folders) of
 * "FILE:TENSOR". */
void qg_data_label(const char *data, char *text, size_t size);

#endif
