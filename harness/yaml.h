/* SPDX-License-Identifier: MIT
 *
 * YAML files that people write (suites, recipes), read by libcyaml: what is wrong with one is said
 * with its line and with what is allowed there.
 */
#ifndef QG_YAML_H
#define QG_YAML_H

#include <cyaml/cyaml.h>

#include "harness/base/error.h"

#define QG_YAML_WORDS 256

/* The words that a key takes, each with its value, for CYAML_FIELD_ENUM and the like. */
struct qg_yaml_words {
    cyaml_strval_t word[QG_YAML_WORDS];
    unsigned n;
};

/* Appends a word; what does not fit is left out, and then refused when it is used. */
void qg_yaml_add(struct qg_yaml_words *w, const char *word, int64_t value);

/* yes, no, true, false. */
void qg_yaml_yes_no(struct qg_yaml_words *w);

/* A kind of file. */
struct qg_yaml {
    const char *what;                 /* "suite": the first word of messages */
    const cyaml_schema_value_t *top;  /* a mapping, with CYAML_FLAG_POINTER */
    const cyaml_schema_field_t *keys; /* of the top, for messages */
    struct {
        const char *key; /* NULL ends */
        const struct qg_yaml_words *words;
    } words[16];
    struct {
        const char *key; /* NULL ends: a mapping, or a sequence of them, below this key */
        const cyaml_schema_field_t *keys;
    } blocks[4];
};

/* Reads a file into what the schema describes, to be freed by qg_yaml_free. QG_EINVAL with file,
 * line and what is allowed. */
QG_MUST_CHECK enum qg_status qg_yaml_load(const struct qg_yaml *y, const char *path, void **ret,
                                          struct qg_error *err);
void qg_yaml_free(const struct qg_yaml *y, void *data);

#endif
