/* SPDX-License-Identifier: MIT
 *
 * A recipe as it was read and found without contradiction: between recipe.c, which reads it, and
 * apply.c, which puts it on a model.
 */
#ifndef QG_RULES_H
#define QG_RULES_H

#include <regex.h>

#include "harness/recipe/recipe.h"

enum qg_indivisible { QG_INDIVISIBLE_ERROR, QG_INDIVISIBLE_SKIP, QG_INDIVISIBLE_PAD };

/* Transforms, as bits. */
enum { QG_UNTIE_EMBEDDINGS = 1, QG_UNTIE_HEAD = 2 };

struct qg_rule {
    const char *about, *pattern; /* pattern: of name, NULL when it has none */
    bool is_default, optional, as_weight;
    unsigned kinds; /* bits 1 << enum qg_layer_kind */
    regex_t name;   /* compiled when pattern is not NULL */
    size_t min_cols, min_rows, cols_multiple_of, rows_multiple_of; /* 0: any */
    struct qg_choice convert, prepare;
    const struct qg_scheme *activation;
    enum qg_indivisible on_indivisible;
    enum qg_dtype dtype; /* QG_INPUT: as the tensor is */
};

struct qg_recipe {
    char path[512];
    const char *name, *summary, *source;
    enum qg_training training;
    bool first_wins, requantize;
    unsigned transforms;
    struct qg_rule *rule;
    size_t n_rules;
    const char *const *exclude; /* patterns; the same compiled */
    regex_t *excluded;
    size_t n_exclude;
    void *file; /* what the strings belong to */
};

#endif
