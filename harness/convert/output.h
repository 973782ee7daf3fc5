/* SPDX-License-Identifier: MIT
 *
 * The files of a converted checkpoint: one safetensors or GGUF file, or a folder of shards, that
 * appear whole or not at all, and a journal beside them by which an interrupted conversion goes on.
 *
 *     OUT.part            the file, or the folder with its files, while they are being written
 *     OUT.part.journal    what was planned from which inputs, and which tensors are finished
 *
 * A kill of the process loses nothing that the journal tells of. After a restart of the machine
 * that is not certain, so a journal from before is refused.
 */
#ifndef QG_OUTPUT_H
#define QG_OUTPUT_H

#include "harness/convert/convert_tensor.h"
#include "harness/layout/layout.h"

/* A tensor of the output and whom it belongs to: the tensors of one assignment stand together. */
struct qg_output_tensor {
    struct qg_slot slot;
    size_t owner; /* index of the assignment */
};

enum qg_output_kind { QG_OUTPUT_FOLDER, QG_OUTPUT_SAFETENSORS, QG_OUTPUT_GGUF };

struct qg_output_request {
    const char *path; /* OUT */
    enum qg_output_kind kind;
    size_t shard; /* most bytes of data in a file of a folder, unless one assignment has more */
    bool force, resume;
    const char *plan; /* text in which everything stands that the output's bytes hang on */
    const struct qg_model *model;
    const cJSON *metadata;           /* of safetensors: strings */
    const struct qg_gguf_meta *gguf; /* of GGUF */
};

struct qg_output;

/* "x.gguf" and "x.safetensors" are files, all else is a folder. */
enum qg_output_kind qg_output_kind_of(const char *path);

/* Whether a file beside a checkpoint's holds weights, or lists them, in whatever format: it would
 * contradict what is written and is not copied. */
bool qg_output_is_weights(const char *name);

/* Removes the files of a folder, and the folder; QG_OK when there is none. A folder that holds
 * folders is none that was made here: QG_EIO. */
QG_MUST_CHECK enum qg_status qg_output_remove_folder(const char *path, struct qg_error *err);

/* Copies a file to a new name, onto the disk, piece by piece. */
QG_MUST_CHECK enum qg_status qg_output_copy_file(const char *from, const char *to,
                                                 struct qg_error *err);

/* QG_OK when nothing stands in the way of writing `path`: it does not exist, or may be replaced. A
 * folder may when it holds nothing but what a conversion of the model writes; never a symbolic
 * link, nor what holds the model. */
QG_MUST_CHECK enum qg_status qg_output_may_write(const char *path, bool force,
                                                 const struct qg_model *model,
                                                 struct qg_error *err);

/* Makes (or, to resume, opens) the files under their provisional names. The tensors must outlive
 * the output. QG_EINVAL when there is nothing to resume, or it was begun with another plan or
 * other inputs. */
QG_MUST_CHECK enum qg_status qg_output_open(const struct qg_output_request *q,
                                            const struct qg_output_tensor *t, size_t n,
                                            struct qg_output **ret_o, struct qg_error *err);

/* Whether an earlier part of the conversion has finished an assignment, and what it noted. */
bool qg_output_has(const struct qg_output *o, size_t owner, struct qg_quality *ret_q);

/* Writes all bytes of tensor i. */
QG_MUST_CHECK enum qg_status qg_output_put(struct qg_output *o, size_t i, const void *data,
                                           struct qg_error *err);

/* Notes that all tensors of an assignment are written. */
QG_MUST_CHECK enum qg_status qg_output_done(struct qg_output *o, size_t owner,
                                            const struct qg_quality *q, struct qg_error *err);

/* Of a folder: adds a file of that text, or a copy of another file. */
QG_MUST_CHECK enum qg_status qg_output_text(struct qg_output *o, const char *name, const char *text,
                                            struct qg_error *err);
QG_MUST_CHECK enum qg_status qg_output_copy(struct qg_output *o, const char *folder,
                                            const char *name, struct qg_error *err);

/* How many files hold tensors, and the bytes of all. */
size_t qg_output_files(const struct qg_output *o);
size_t qg_output_bytes(const struct qg_output *o);

/* Gives everything its name. */
QG_MUST_CHECK enum qg_status qg_output_finish(struct qg_output *o, struct qg_error *err);

/* Without qg_output_finish: removes what was made, unless it is kept for a later run. */
void qg_output_close(struct qg_output **o, bool keep);

#endif
