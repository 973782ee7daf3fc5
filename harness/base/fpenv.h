/* SPDX-License-Identifier: MIT
 *
 * The floating-point environment that every number here assumes.
 */
#ifndef QG_FPENV_H
#define QG_FPENV_H

#include <stddef.h>

#include "harness/base/error.h"

/* QG_OK when rounding is to nearest even, subnormals are neither flushed nor read as zero, and one
 * division, one product-and-sum and one subnormal come out as IEEE 754 says; otherwise a sentence
 * that names the likely cause (a library or flag such as -Ofast that set FTZ/DAZ). */
QG_MUST_CHECK enum qg_status qg_fpenv_check(struct qg_error *err);

/* "round to nearest, subnormals kept": for the result file. */
void qg_fpenv_describe(char *text, size_t size);

#endif
