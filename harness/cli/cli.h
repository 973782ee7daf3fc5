/* SPDX-License-Identifier: MIT
 *
 * The command line. One command per file: cli/<word>.c ends in `const struct qg_command
 * qg_command_<word>`, and <word> stands in the list in harness/cli/meson.build. Only files in this
 * folder print or exit.
 */
#ifndef QG_CLI_H
#define QG_CLI_H

#include "harness/base/error.h"
#include "harness/checkpoint.h"
#include "harness/result.h"
#include "harness/recipe/recipe.h"
#include "schemes/layers/layer.h"

/* Exit codes: what Meson and scripts understand. */
enum { QG_EXIT_OK = 0, QG_EXIT_FAIL = 1, QG_EXIT_USAGE = 2, QG_EXIT_SKIP = 77, QG_EXIT_HARD = 99 };

struct qg_command {
    const char *name, *summary;        /* one line for `qgauge help` */
    const char *help;                  /* the whole text for `qgauge NAME --help`, ends with \n */
    int (*run)(int argc, char **argv); /* argv[0] is the command's name; returns an exit code */
};

/* Prints "qgauge NAME: MESSAGE" and how to get help to stderr; returns QG_EXIT_USAGE. */
int qg_usage_error(const struct qg_command *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Prints "qgauge NAME: MESSAGE" to stderr; returns QG_EXIT_USAGE for QG_EINVAL, QG_EXIT_FAIL for
 * QG_EFORMAT and QG_EABSENT, QG_EXIT_HARD otherwise. */
int qg_report_error(const struct qg_command *c, const struct qg_error *err);

/* The scheme of that name, or NULL after a usage error that names all there are. */
const struct qg_scheme *qg_take_scheme(const struct qg_command *c, const char *name);

/* The same for a layer. */
const struct qg_layer *qg_take_layer(const struct qg_command *c, const char *name);

/* The backend of that name, here or not, or NULL after a usage error. */
const struct qg_backend *qg_take_backend(const struct qg_command *c, const char *name);

/* A dtype that tensors are quantized in; false after a usage error. */
bool qg_take_dtype(const struct qg_command *c, const char *word, enum qg_dtype *ret_t);

/* A whole number of least .. most, from getopt's optarg; false after a usage error that names the
 * option. */
bool qg_take_whole(const struct qg_command *c, const char *option, uint64_t least, uint64_t most,
                   uint64_t *ret);

/* qg_checkpoint_open, and a line on stderr about the tensors that are left out. */
QG_MUST_CHECK enum qg_status qg_take_checkpoint(const char *path, const char *tensors,
                                                enum qg_dtype dtype, struct qg_checkpoint *ret_c,
                                                struct qg_error *err);

/* Fills in what a result file says of the machine and of this program. */
void qg_describe_program(struct qg_meta *m);

/* A recipe put on a model. */
struct qg_prescription {
    struct qg_recipe *recipe;
    struct qg_model *model;
    struct qg_recipe_plan plan;
};

/* Opens both and puts one on the other; every refusal is a line on stderr. The caller drops it,
 * also after a failure. */
QG_MUST_CHECK enum qg_status qg_take_plan(const char *recipe, const char *model,
                                          struct qg_prescription *ret_p, struct qg_error *err);
/* The same for a recipe that the caller has opened into p->recipe. */
QG_MUST_CHECK enum qg_status qg_take_model(struct qg_prescription *p, const char *model,
                                           struct qg_error *err);
void qg_drop_plan(struct qg_prescription *p);

/* A progress bar, the last line of stderr: wanted where that is a terminal that can take a line
 * back. `share`: of the work, 0 to 1; `amount`: the same in words; `left`: seconds, or NAN when
 * nobody can tell yet; `what`: is being done. */
bool qg_bar_wanted(void);
void qg_bar_draw(double share, const char *amount, double left, const char *what);
void qg_bar_clear(void);

/* For long work that keeps what is done: from now on SIGINT and SIGTERM are only taken note of, and
 * SIGPIPE is ignored. The signal that came, or 0. */
void qg_catch_signals(void);
int qg_signal_seen(void);

/* Flushes stdout and checks that everything arrived: `code`, or QG_EXIT_HARD with a message. */
int qg_finish_stdout(const struct qg_command *c, int code);

#endif
