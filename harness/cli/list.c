/* SPDX-License-Identifier: MIT
 *
 * qgauge list: what there is.
 */
#include <stdio.h>

#include "harness/cli/cli.h"
#include "schemes/scheme.h"

static int run(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    const struct qg_scheme *s;
    for (size_t i = 0; (s = qg_scheme_at(i)); i++)
        printf("%-16s %s\n", s->name, s->summary);
    return QG_EXIT_OK;
}

const struct qg_command qg_command_list = {
    .name = "list",
    .summary = "schemes, kernels and backends",
    .help = "usage: qgauge list\n",
    .run = run,
};
