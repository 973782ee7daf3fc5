/* SPDX-License-Identifier: MIT
 *
 * JSON from files that nobody vouches for: cJSON, with what it would let pass or choke on refused
 * before.
 */
#ifndef QG_JSON_H
#define QG_JSON_H

#include <stdbool.h>
#include <stddef.h>

#include <cjson/cJSON.h>

#include "harness/base/error.h"

/* Parses n bytes, all of which must be one JSON object. QG_EFORMAT, with the
 * place as a byte of the file, of which the text begins at `at`: not JSON, nested too deeply (1000
 * levels), NUL bytes, more than 2^22 values, text behind the end. `what` names the text in
 * messages: "the header". The caller frees with cJSON_Delete. */
QG_MUST_CHECK enum qg_status qg_json_parse(const char *text, size_t n, const char *what, size_t at,
                                           cJSON **ret_j, struct qg_error *err);

/* Reads a file of at most `limit` bytes that holds one JSON object. Messages name the file. */
QG_MUST_CHECK enum qg_status qg_json_read(const char *path, size_t limit, cJSON **ret_j,
                                          struct qg_error *err);

/* The member `key` of an object, of the given JSON type (cJSON_String, ...), which type_word names
 * ("a string"). NULL with QG_EFORMAT when it is absent, there twice, or of another type. */
const cJSON *qg_json_member(const cJSON *object, const char *key, int type, const char *type_word,
                            struct qg_error *err);

/* Whether names may be printed and compared: valid UTF-8 without control characters. */
bool qg_is_plain_text(const char *s);

#endif
