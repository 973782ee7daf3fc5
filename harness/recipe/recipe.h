/* SPDX-License-Identifier: MIT
 *
 * A recipe: rules that put schemes on the tensors of a model, as the systems that ship quantized
 * models do. A recipe is a YAML file (those that are shipped: schemes/recipes/NAME.yaml); put on a
 * model it gives a plan: one assignment for every tensor, or a refusal before any work.
 *
 *     name: unsloth-int4
 *     summary: one line
 *     source: repo:path, and what of it   # left out: none
 *     training: qat            # how the model is trained before it is converted:
 *                              #   qat            on fake-quantized weights (left out: this)
 *                              #   frozen-base    adapters, on the converted weights
 *                              #   post-training  training sees nothing of the quantization
 *     overlap: refuse          # two rules for one tensor: refuse (left out: this), or first wins
 *     transforms: [untie-head] # of a model whose head is its embedding table:
 *                              #   untie-embeddings  the head gets a copy of its own, always
 *                              #   untie-head        when a rule quantizes the head, and only then
 *     dtype: bf16              # what tensors are cast to before; left out: as they are
 *     requantize: no           # whether tensors that are quantized already may be quantized again
 *     exclude: ['router']      # POSIX extended expressions; each must match a tensor
 *     rules:
 *       - about: what it does and why, for the plan
 *         match:               # all that is named must hold; no match: the default, which takes
 *                              # the linear layers and the head that no other rule takes
 *           name: 'mlp\.'      # POSIX extended expression, searched for
 *           kind: [linear, head, embedding, experts, router]   # see kind.h
 *           min-cols: 128      # of [N,K]: K; min-rows: N
 *           cols-multiple-of: 16   # rows-multiple-of: of N
 *         optional: no         # yes: it may match nothing
 *         scheme: int4         # none: leave it as it is
 *         set: group=128
 *         operand: weight      # an embedding table is stored as a linear weight is
 *         activation: int8     # scheme for the layer's inputs, where it is not the scheme's own
 *         weight-only: yes     # inputs are not quantized; no: they are
 *         prepare: {scheme: fp8-int4, set: group=128}   # what training sees where it is not the
 *                              # same; none: it sees the tensor as it is (training: qat alone)
 *         on-indivisible: skip # what becomes of a tensor that the scheme's groups do not divide:
 *                              # error (left out: this), skip, or pad with zero columns
 *         dtype: f16           # instead of the recipe's
 *
 * Unknown keys and words are refused with their line and what there is.
 */
#ifndef QG_RECIPE_H
#define QG_RECIPE_H

#include "harness/call.h"
#include "harness/io/model.h"
#include "harness/recipe/kind.h"

enum qg_training { QG_TRAINING_QAT, QG_TRAINING_FROZEN_BASE, QG_TRAINING_POST };

struct qg_assignment {
    const struct qg_model_tensor *tensor;
    const char *name; /* in the output: the tensor's, but of an untied copy, which has its own */
    enum qg_layer_kind kind;
    int rule;                 /* of the recipe, from 0; -1: none */
    enum qg_operand operand;  /* QG_WEIGHT or QG_EMBEDDING */
    struct qg_choice convert; /* what is shipped */
    struct qg_choice prepare; /* what training sees: with training post-training nothing */
    const struct qg_scheme *activation; /* quantizes the layer's inputs; NULL: nothing does */
    enum qg_dtype dtype;                /* that the tensor is quantized in */
    size_t rows, cols;                  /* quantized as one [rows,cols]; of [E,N,K]: E*N rows */
    size_t padded;                      /* zero columns appended to fit the scheme's groups */
    size_t bytes;                       /* of what is written */
    char why[160];                      /* why it is left as it is; "" when it is quantized */
};

struct qg_recipe;

struct qg_recipe_plan {
    const struct qg_recipe *recipe;
    const struct qg_model *model;
    struct qg_assignment *of; /* in the order of the model's tensors; untied copies at the end */
    size_t n;
};

/* Reads a recipe: a path (with a slash or ".yaml"), or the name of a shipped one. QG_EINVAL with
 * file, line or rule and what is allowed when it contradicts itself: two defaults, options that
 * exclude each other, a scheme that does not exist or cannot take what the rule matches. The caller
 * closes. */
QG_MUST_CHECK enum qg_status qg_recipe_open(const char *name, struct qg_recipe **ret_r,
                                            struct qg_error *err);
/* A recipe of one rule: this scheme, with parameters as text (or NULL), for all linear layers
 * but the head; or, with `pattern`, for every weight whose name matches. Strings must outlive it.
 */
QG_MUST_CHECK enum qg_status qg_recipe_make(const struct qg_scheme *s, const char *set,
                                            const char *pattern, struct qg_recipe **ret_r,
                                            struct qg_error *err);
void qg_recipe_close(struct qg_recipe **r);

const char *qg_recipe_name(const struct qg_recipe *r);
const char *qg_recipe_summary(const struct qg_recipe *r);
const char *qg_recipe_source(const struct qg_recipe *r);
const char *qg_recipe_path(const struct qg_recipe *r);
enum qg_training qg_recipe_training(const struct qg_recipe *r);

/* The word of a kind of training, "qat"; what rule i, from 0, is about ("" when it does not say).
 */
const char *qg_training_name(enum qg_training t);
const char *qg_recipe_about(const struct qg_recipe *r, int i);

/* The names of the shipped recipes; NULL past the end. */
const char *qg_recipe_at(size_t i);

/* Puts a recipe on a model. QG_EINVAL, and every tensor concerned listed through `on_refusal` (one
 * whole sentence each; may be NULL), when the recipe must not be used on it: two rules for one
 * tensor, a rule or an exclude pattern that matched nothing, columns that the scheme's groups do
 * not divide, a checkpoint that is quantized already. Recipe and model must outlive the plan. */
QG_MUST_CHECK enum qg_status qg_recipe_apply(const struct qg_recipe *r, const struct qg_model *m,
                                             void (*on_refusal)(const char *sentence, void *user),
                                             void *user, struct qg_recipe_plan *ret_plan,
                                             struct qg_error *err);
void qg_recipe_plan_free(struct qg_recipe_plan *p);

#endif
