/* SPDX-License-Identifier: MIT
 *
 * Whether prepare and convert agree: every tensor of a plan in the form that training sees against
 * the form that is shipped. A scheme may have a gap of its own (see harness/gap.h); a mistake of
 * the mapping is something else: other schemes, other parameters, or a layer that is quantized on
 * one side only.
 */
#ifndef QG_AGREE_H
#define QG_AGREE_H

#include "harness/gap.h"
#include "harness/recipe/recipe.h"

struct qg_agreement {
    const struct qg_assignment *of;
    bool mistake;          /* the mapping itself disagrees */
    struct qg_gap_sum sum; /* prepared against converted; zero columns that were appended count */
    struct qg_gap_sum own; /* of a mistake: had it been prepared as it is shipped; count 0:
                            * convert's scheme has no prepare path, or there is none */
    char cause[400];       /* "" when equal */
};

/* Compares the tensors of a plan that either side quantizes, in its order, `threads` (at least 1)
 * of them at a time; rows of a tensor in pieces where the schemes allow it. Returns after the last
 * call of `on_tensor`, which comes from the calling thread. QG_TRAINING_FROZEN_BASE has nothing to
 * compare: training runs on the converted weights. */
QG_MUST_CHECK enum qg_status qg_recipe_agree(const struct qg_recipe_plan *p, int threads,
                                             void (*on_tensor)(const struct qg_agreement *a,
                                                               void *user),
                                             void *user, struct qg_error *err);

#endif
