/* SPDX-License-Identifier: MIT
 *
 * What the subcommands of qgauge lm share; one file each.
 */
#ifndef QG_CLI_LM_H
#define QG_CLI_LM_H

#include "harness/cli/cli.h"
#include "harness/lm/train.h"

extern const struct qg_command qg_command_lm;

/* argv[0] is the subcommand's word; return exit codes. */
int qg_lm_train(int argc, char **argv);
int qg_lm_qat(int argc, char **argv);

/* Options that all of them have. */
struct qg_lm_request {
    const char *text, *holdout, *out;
    struct qg_train_options train; /* lr_end is a tenth of lr, once they are parsed */
    enum qg_dtype dtype;
    uint64_t threads;
    bool resume;
};

enum {
    QG_LM_TEXT = 1000,
    QG_LM_HOLDOUT,
    QG_LM_STEPS,
    QG_LM_BATCH,
    QG_LM_LENGTH,
    QG_LM_LR,
    QG_LM_WARMUP,
    QG_LM_SEED,
    QG_LM_DTYPE,
    QG_LM_THREADS,
    QG_LM_RESUME,
    QG_LM_OUT = 'o',
};

/* For a table of getopt_long, whose short options are "o:". */
#define QG_LM_OPTIONS                                        \
    {"text", required_argument, NULL, QG_LM_TEXT},           \
        {"holdout", required_argument, NULL, QG_LM_HOLDOUT}, \
        {"steps", required_argument, NULL, QG_LM_STEPS},     \
        {"batch", required_argument, NULL, QG_LM_BATCH},     \
        {"length", required_argument, NULL, QG_LM_LENGTH},   \
        {"lr", required_argument, NULL, QG_LM_LR},           \
        {"warmup", required_argument, NULL, QG_LM_WARMUP},   \
        {"seed", required_argument, NULL, QG_LM_SEED},       \
        {"dtype", required_argument, NULL, QG_LM_DTYPE},     \
        {"threads", required_argument, NULL, QG_LM_THREADS}, \
        {"resume", no_argument, NULL, QG_LM_RESUME},         \
    {                                                        \
        "output", required_argument, NULL, QG_LM_OUT         \
    }

/* Takes one of these, with getopt's optarg; any other option is a usage error. False after one. */
bool qg_lm_take(struct qg_lm_request *q, int option);

/* Parse a number of least .. most into *ret; false after a usage error that names the option. */
bool qg_lm_take_whole(const char *option, uint64_t least, uint64_t most, uint64_t *ret);
bool qg_lm_take_size(const char *option, uint64_t most, size_t *ret); /* from 1 */
bool qg_lm_take_real(const char *option, double least, double most, double *ret);

#endif
