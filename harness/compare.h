/* SPDX-License-Identifier: MIT
 *
 * Comparing results: class first, then bits, then a proved bound. Nothing here is a tolerance.
 */
#ifndef QG_COMPARE_H
#define QG_COMPARE_H

#include <stdbool.h>
#include <stdint.h>

#include "schemes/scheme.h"

struct qg_diff {
    uint64_t count;            /* elements compared */
    uint64_t mismatches;       /* bits differ; two NaNs of any payload and sign are equal */
    uint64_t class_mismatches; /* of those: NaN or inf against anything else, or another sign */
    uint64_t wrong;            /* mismatches that no bound excuses */
    uint64_t unjudged; /* elements whose bound is infinite: any order of the sum overflows */
    int64_t first_mismatch, first_wrong; /* element indices, or -1 */
    double max_ulp;    /* largest distance in places of want's dtype; inf across classes */
    double bound_used; /* largest share of the bound needed to explain an element; NaN when
                        * there is no bound */
};

/* An empty comparison: counts 0, first_* -1, bound_used NaN. */
extern const struct qg_diff qg_no_diff;

/* Adds the comparison of `got` with `want` (same dtype and count) to *d; indices count on from
 * d->count. Without `exact` and `bound` every mismatch is wrong. With them (see struct qg_args),
 * got is right when it is the rounding to want's dtype of some number within bound of exact. */
void qg_compare(const struct qg_tensor *want, const struct qg_tensor *got, const double *exact,
                const double *bound, struct qg_diff *d);

/* 20 log10(|x| / |x - y|) in double, inf when equal, NaN when either holds a non-finite value or x
 * is all zero. nmse, when wanted: |x - y|^2 / |x|^2. */
double qg_sqnr_db(const struct qg_tensor *x, const struct qg_tensor *y, double *nmse);

/* 64-bit FNV-1a of bytes, going on from `hash` (start: QG_HASH_START). */
#define QG_HASH_START 0xcbf29ce484222325u
uint64_t qg_hash(uint64_t hash, const void *bytes, size_t n);

/* The same of a tensor's elements, every NaN as the one whose bits are all set: which NaN it is
 * differs between processors, and qg_compare takes one for another, too. */
uint64_t qg_hash_tensor(uint64_t hash, const struct qg_tensor *t);

/* Whether convert wrote the same code for element i in two calls: equal, or both a NaN of fp8. */
bool qg_same_code(const struct qg_args *a, const struct qg_args *b, size_t i);

/* Whether a code of dtype E4M3 or E5M2 is a NaN; others have none. */
bool qg_is_nan_code(enum qg_dtype t, unsigned code);

#endif
