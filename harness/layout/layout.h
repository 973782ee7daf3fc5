/* SPDX-License-Identifier: MIT
 *
 * How a converted tensor lies in a checkpoint: names, dtypes and shapes of what is written in its
 * place, and what the checkpoint says about itself, as the loader of one public format expects it.
 * A family of layouts is one file that ends in its table
 *
 *     const struct qg_layout qg_layouts_FILE[] = {{.name = "gptq", ...}, {.name = NULL}};
 *
 * plus one word in harness/meson.build.
 */
#ifndef QG_LAYOUT_H
#define QG_LAYOUT_H

#include "harness/recipe/recipe.h"

/* One tensor of the output. */
struct qg_slot {
    char *name;             /* own memory */
    const char *dtype_word; /* of the file format: "I32", "BF16"; of GGUF: "Q4_0" */
    int rank;
    size_t shape[QG_MAX_RANK];
    size_t bytes;
    int plane; /* of convert, whose bytes it is; -1: layout.fill makes them */
};

/* What stands for one tensor of the model: itself, or its planes and what the loader needs beside
 * them. */
struct qg_slots {
    struct qg_slot at[8];
    int n;
};

struct qg_layout {
    const char *name, *summary;
    const char *source; /* whose loader was read */
    enum qg_model_format container;

    /* Whether the layout can hold this quantized tensor; `convert` are the arguments of the whole
     * conversion. NULL when it can, else why not. */
    const char *(*refuse)(const struct qg_assignment *as, const struct qg_args *convert);
    /* The tensors that stand for it, which the caller frees. */
    enum qg_status (*store)(const struct qg_recipe_plan *plan, const struct qg_assignment *as,
                            const struct qg_args *convert, struct qg_slots *ret,
                            struct qg_error *err);
    /* The same of a tensor that is not quantized; nothing for one that the format leaves out. A
     * word for another dtype than the tensor's asks for a cast. NULL: it stays as it is. */
    enum qg_status (*keep)(const struct qg_recipe_plan *plan, const struct qg_assignment *as,
                           struct qg_slots *ret, struct qg_error *err);
    /* The rows of a head, where the format interleaves its halves (see qg_conversion.head); else 0.
     * May be NULL. */
    size_t (*head)(const struct qg_recipe_plan *plan, const struct qg_assignment *as);
    /* The bytes of a tensor whose plane is -1, once `convert` has run. May be NULL. */
    void (*fill)(const struct qg_args *convert, const struct qg_slot *t, void *dst);
    /* quantization_config for config.json; the caller deletes. QG_EINVAL when the plan cannot be
     * said in the format: its configuration holds one set of parameters, and the plan has two. */
    enum qg_status (*config)(const struct qg_recipe_plan *plan, cJSON **ret_config,
                             struct qg_error *err);
    /* Of safetensors: adds strings to the __metadata__ of every file. May be NULL. */
    enum qg_status (*about)(const struct qg_recipe_plan *plan, cJSON *metadata,
                            struct qg_error *err);
    /* Of GGUF: its metadata; the caller frees. */
    enum qg_status (*meta)(const struct qg_recipe_plan *plan, struct qg_gguf_meta **ret_m,
                           struct qg_error *err);
};

/* The layouts, in the order in which a default is looked for. NULL past the end. */
const struct qg_layout *qg_layout_at(size_t i);
const struct qg_layout *qg_layout_find(const char *name);

/* The arguments of the conversion that an assignment asks for. QG_EINVAL when the scheme refuses.
 */
QG_MUST_CHECK enum qg_status qg_layout_args(const struct qg_assignment *as, struct qg_args *ret_a,
                                            struct qg_error *err);

/* QG_OK when the layout can hold every quantized tensor of the plan and say so in its
 * configuration; QG_EINVAL names the first tensor that it cannot, and why. */
QG_MUST_CHECK enum qg_status qg_layout_check(const struct qg_layout *l,
                                             const struct qg_recipe_plan *plan,
                                             struct qg_error *err);

void qg_slots_free(struct qg_slots *s);

/* --- for the layouts themselves -------------------------------------------------------------- */

/* The name of the module that owns a weight: NAME without ".weight", as printf's %.*s takes it.
 * NULL when the name ends in something else. */
const char *qg_layout_module(const char *name, int *ret_length);

/* Reasons to refuse that loaders of linear layers share: embeddings, tensors that are no matrices,
 * names that do not end in .weight, columns that were padded. */
const char *qg_layout_linear(const struct qg_assignment *as);

/* Appends a tensor. */
QG_MUST_CHECK enum qg_status qg_layout_add(struct qg_slots *s, const char *name,
                                           const char *dtype_word, int rank, const size_t *shape,
                                           size_t bytes, int plane, struct qg_error *err);

/* Appends plane `plane` of `convert` under MODULE + suffix. */
QG_MUST_CHECK enum qg_status qg_layout_plane(struct qg_slots *s, const char *name,
                                             const char *suffix, const struct qg_args *convert,
                                             int plane, struct qg_error *err);

/* Appends a tensor that fill makes. Shape: `rank` extents. */
QG_MUST_CHECK enum qg_status qg_layout_made(struct qg_slots *s, const char *name,
                                            const char *suffix, const char *dtype_word,
                                            size_t element, int rank, const size_t *shape,
                                            struct qg_error *err);

/* A list of the modules whose weights are matrices of linear layers and stay as they are, the head
 * of a tied model among them, which no file holds. */
cJSON *qg_layout_kept(const struct qg_recipe_plan *plan);

/* The arguments of the first conversion of the plan; QG_EINVAL when another one has another scheme
 * or other parameters. */
QG_MUST_CHECK enum qg_status qg_layout_uniform(const struct qg_recipe_plan *plan,
                                               struct qg_args *ret_a, struct qg_error *err);

#endif
