/* SPDX-License-Identifier: MIT
 *
 * A recipe: rules that put schemes on the tensors of a model, as the systems that ship quantized
 * models do. A recipe is a YAML file (those that are shipped: schemes/recipes/NAME.yaml); put on a
 * model it gives a plan: one assignment for every tensor, or a refusal before any work.
 */
#ifndef QG_RECIPE_H
#define QG_RECIPE_H

#include "harness/io/model.h"

/* What a tensor is in its model, told by name and shape: checkpoints do not say. */
enum qg_layer_kind {
    QG_LAYER_LINEAR,    /* [N,K] weight of a linear layer */
    QG_LAYER_HEAD,      /* the linear layer that gives the logits */
    QG_LAYER_EMBEDDING, /* a table that rows are looked up in */
    QG_LAYER_EXPERTS,   /* weight of one expert, [N,K], or of all, [E,N,K] */
    QG_LAYER_ROUTER,    /* which expert a token goes to */
    QG_LAYER_NORM,
    QG_LAYER_BIAS,
    QG_LAYER_OTHER, /* convolutions, buffers, scales */
    QG_LAYER_COUNT
};

/* A scheme with its parameters, as qg_params_parse takes them. */
struct qg_choice {
    const struct qg_scheme *scheme; /* NULL: left as it is */
    char params[128];
};

struct qg_assignment {
    const struct qg_model_tensor *tensor;
    const char *name; /* in the output: the tensor's, but of an untied copy, which has its own */
    enum qg_layer_kind kind;
    int rule;                 /* of the recipe, from 0; -1: none */
    enum qg_operand operand;  /* QG_WEIGHT or QG_EMBEDDING */
    struct qg_choice convert; /* what is shipped */
    struct qg_choice prepare; /* what training sees: the same unless the recipe says otherwise */
    enum qg_dtype dtype;      /* that the tensor is quantized in */
    size_t rows, cols;        /* quantized as one [rows,cols]; of [E,N,K]: E*N rows */
    size_t padded;            /* zero columns appended to fit the scheme's groups */
    size_t bytes;             /* of what is written */
    char why[160];            /* why it is left as it is; "" when it is quantized */
};

struct qg_recipe;

struct qg_recipe_plan {
    const struct qg_recipe *recipe;
    const struct qg_model *model;
    struct qg_assignment *of; /* in the order of the model's tensors; untied copies at the end */
    size_t n;
};

/* Reads a recipe: a path, or the name of a shipped one. QG_EINVAL with file, line or rule and what
 * is allowed when it contradicts itself: two defaults, options that exclude each other, a scheme
 * that does not exist or cannot take what the rule matches. The caller frees. */
QG_MUST_CHECK enum qg_status qg_recipe_open(const char *name, struct qg_recipe **ret_r,
                                            struct qg_error *err);
void qg_recipe_close(struct qg_recipe **r);
const char *qg_recipe_name(const struct qg_recipe *r);

/* Puts a recipe on a model. QG_EINVAL, and every tensor concerned listed through `on_refusal` (one
 * whole sentence each; may be NULL), when the recipe must not be used on it: two rules for one
 * tensor, a rule that matched nothing, columns that the scheme's groups do not divide, a checkpoint
 * that is quantized already. Recipe and model must outlive the plan. */
QG_MUST_CHECK enum qg_status qg_recipe_apply(const struct qg_recipe *r, const struct qg_model *m,
                                             void (*on_refusal)(const char *sentence, void *user),
                                             void *user, struct qg_recipe_plan *ret_plan,
                                             struct qg_error *err);
void qg_recipe_plan_free(struct qg_recipe_plan *p);

#endif
