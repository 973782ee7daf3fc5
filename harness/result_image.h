/* SPDX-License-Identifier: MIT
 *
 * Inside the result store: the bytes of a result file, to and from memory.
 */
#ifndef QG_RESULT_IMAGE_H
#define QG_RESULT_IMAGE_H

#include "harness/result.h"

#define QG_RESULT_LIMIT ((uint64_t)1 << 33) /* bytes of one dataset that are read */

/* The whole file in memory that the caller frees. Equal results give equal bytes. */
QG_MUST_CHECK enum qg_status qg_result_image_make(const struct qg_result *r, void **ret_image,
                                                  size_t *ret_bytes, struct qg_error *err);

/* The reverse. Sizes, storage and types are checked before HDF5 acts on them, values are not, and
 * HDF5 itself may crash on an image that was made to crash it. `path` is for sentences. */
QG_MUST_CHECK enum qg_status qg_result_image_parse(void *image, size_t bytes, const char *path,
                                                   struct qg_result **ret_r, struct qg_error *err);

/* Gives a result the rows of one of its tables. */
void qg_result_set_rows(struct qg_result *r, enum qg_table_id t, struct qg_rows rows);

/* Terminates every text of a row and zeroes what lies behind it. */
void qg_result_tidy(void *row, const struct qg_field *fields);

#endif
