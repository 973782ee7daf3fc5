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

/* Parses a number of least .. most into *ret, false after a usage error that names the option. */
bool qg_lm_take_whole(const char *option, const char *text, uint64_t least, uint64_t most,
                      uint64_t *ret);
bool qg_lm_take_real(const char *option, const char *text, double least, double most, double *ret);

#endif
