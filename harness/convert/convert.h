/* SPDX-License-Identifier: MIT
 *
 * Converting a whole checkpoint by a plan: tensor after tensor, each in pieces by several threads,
 * straight into the files of the output. Memory: the planes of one tensor and a piece per thread
 * (the tensor itself, where a scheme needs it whole or where it is copied); see convert_tensor.h.
 */
#ifndef QG_CONVERT_H
#define QG_CONVERT_H

#include "harness/convert/output.h"

/* What became of one tensor of the plan. */
struct qg_converted {
    const struct qg_assignment *as;
    char kernel[128]; /* what converted it; "" for one that was copied, or by an earlier run */
    const struct qg_layout *layout;
    size_t bytes; /* of all that stands for it */
    struct qg_quality quality;
};

struct qg_convert_options {
    const char *model, *out; /* paths; out: see qg_output_kind_of */
    const char *layout;      /* NULL: qg_convert_layout chooses */
    const char *version;     /* of the program, for the journal */
    size_t shard;
    int threads;
    bool force, resume, measure;

    /* Called before each tensor, and while it lasts, with what is done of the model's bytes and how
     * many of them this run has done. True ends the conversion, so that it can be resumed. */
    bool (*progress)(void *user, const struct qg_assignment *as, double done, double fresh,
                     double total);
    /* Called after each tensor, in the order of the plan, those of an earlier run included. */
    enum qg_status (*each)(void *user, const struct qg_converted *c, struct qg_error *err);
    /* Called with a sentence for what is not carried over. */
    void (*note)(void *user, const char *sentence);
    void *user;
};

struct qg_convert_summary {
    const struct qg_layout *layout;
    size_t converted, copied, files, bytes_in, bytes_out;
    size_t earlier; /* of converted and copied: finished by the run that this one resumes */
    bool stopped;   /* by progress: nothing has its name yet */
    bool kept;      /* set on failure, too: what is done can be resumed */
};

/* The layout for a plan: of that name, or the first that can hold all of the plan. QG_EINVAL with
 * the reason when the named one cannot, or is of the other kind of file. */
QG_MUST_CHECK enum qg_status qg_convert_layout(const struct qg_recipe_plan *plan, const char *name,
                                               enum qg_output_kind kind,
                                               const struct qg_layout **ret_l,
                                               struct qg_error *err);

/* Converts. After a failure nothing is left behind, unless the system refused to read or write when
 * tensors were finished already: these are kept, to be resumed. *ret_s is always set. */
QG_MUST_CHECK enum qg_status qg_convert(const struct qg_recipe_plan *plan,
                                        const struct qg_convert_options *o,
                                        struct qg_convert_summary *ret_s, struct qg_error *err);

#endif
