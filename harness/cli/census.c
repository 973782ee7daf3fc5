/* SPDX-License-Identifier: MIT
 *
 * qgauge census: near ties in a real checkpoint. The definitions of qgauge itself cannot be nudged;
 * the same program built on definitions that can (QG_NUDGE) lies beside it as qgauge-census, and
 * does the work.
 */
#define _GNU_SOURCE /* getopt_long */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "harness/call.h"
#include "harness/case.h"
#include "harness/census.h"
#include "harness/checkpoint.h"
#include "harness/cli/cli.h"
#ifdef QG_NUDGE
#include "schemes/num/nudge.h"
#endif

const struct qg_command qg_command_census;

#ifdef QG_NUDGE

enum { MAX_DRAWS = 1000 };

struct options {
    const char *model, *tensors;
    struct qg_census_request request;
    enum qg_dtype dtype; /* QG_INPUT: as the file has it */
    uint64_t draws;
    bool verbose;
};

static void nudge(uint64_t state)
{
    qg_nudge_state = state;
}

static void put_share(uint64_t part, uint64_t whole)
{
    if (whole)
        printf(" %10.4f %%", 100.0 * (double)part / (double)whole);
    else
        printf(" %12s", "-");
}

static void put_row(const char *name, const char *params, const struct qg_census *c)
{
    printf("%-16s %-20s %10" PRIu64 " %10" PRIu64, name, params, c->blocks, c->near);
    put_share(c->near, c->blocks);
    put_share(c->codes_moved, c->codes);
    put_share(c->scales_moved, c->scales);
    puts("");
}

/* One scheme over all tensors. */
static enum qg_status put_scheme(const struct options *o, const struct qg_checkpoint *model,
                                 const struct qg_scheme *s, struct qg_error *err)
{
    struct qg_census_request r = o->request;
    struct qg_census sum = {0};
    size_t refused = 0;
    char why[sizeof err->message] = "";
    r.scheme = s;
    for (size_t i = 0; i < model->n; i++) {
        struct qg_census one = sum;
        enum qg_status status = qg_census_add(&r, &model->tensor[i], &sum, err);
        if (status == QG_EINVAL && ++refused == 1)
            snprintf(why, sizeof why, "'%.100s': %.250s", model->tensor[i].name, err->message);
        else if (status != QG_OK && status != QG_EINVAL)
            return status;
        one = (struct qg_census){sum.blocks - one.blocks, sum.near - one.near,
                                 sum.codes - one.codes,   sum.codes_moved - one.codes_moved,
                                 sum.scales - one.scales, sum.scales_moved - one.scales_moved};
        if (o->verbose && status == QG_OK)
            put_row(s->name, model->tensor[i].name, &one);
    }
    put_row(s->name, r.params, &sum);
    if (refused)
        printf("    refused %zu of %zu tensors, first %s\n", refused, model->n, why);
    return QG_OK;
}

static int census(const struct options *o)
{
    const struct qg_command *c = &qg_command_census;
    struct qg_error err;
    struct qg_checkpoint model;
    const struct qg_scheme *s;
    enum qg_status status = qg_take_checkpoint(o->model, o->tensors, o->dtype, &model, &err);
    if (status == QG_OK)
        printf("%zu tensors, %u draws, seed %" PRIu64 "\n\n%-16s %-20s %10s %10s %12s %12s %12s\n",
               model.n, o->request.draws, o->request.seed, "scheme", "parameters", "blocks",
               "near ties", "of blocks", "codes move", "scales move");
    for (size_t i = 0; status == QG_OK && (s = qg_scheme_at(i)); i++)
        if (o->request.scheme ? s == o->request.scheme : s->operand[QG_WEIGHT].code_bits)
            status = put_scheme(o, &model, s, &err);
    qg_checkpoint_close(&model);
    return status == QG_OK ? QG_EXIT_OK : qg_report_error(c, &err);
}

static int take_option(struct options *o, int option)
{
    const struct qg_command *c = &qg_command_census;
    switch (option) {
    case 's':
        o->request.scheme = qg_take_scheme(c, optarg);
        return o->request.scheme ? QG_EXIT_OK : QG_EXIT_USAGE;
    case 'p':
        o->request.params = optarg;
        return QG_EXIT_OK;
    case 't':
        o->tensors = optarg;
        return QG_EXIT_OK;
    case 'v':
        o->verbose = true;
        return QG_EXIT_OK;
    case 'd':
        return qg_take_dtype(c, optarg, &o->dtype) ? QG_EXIT_OK : QG_EXIT_USAGE;
    case 'n':
        if (qg_whole_parse(optarg, MAX_DRAWS, &o->draws) && o->draws > 0)
            return QG_EXIT_OK;
        return qg_usage_error(c, "--draws is a whole number from 1 to %d, not '%s'", MAX_DRAWS,
                              optarg);
    case 'r':
        if (qg_whole_parse(optarg, UINT64_MAX, &o->request.seed))
            return QG_EXIT_OK;
        return qg_usage_error(c, "--seed is a whole number, not '%s'", optarg);
    default:
        return qg_usage_error(c, "bad option");
    }
}

/* What does not go together. */
static int check_options(struct options *o)
{
    const struct qg_command *c = &qg_command_census;
    struct qg_args a = {0};
    struct qg_error err;
    const struct qg_scheme *s = o->request.scheme;
    if (!o->model)
        return qg_usage_error(c, "MODEL is missing");
    if (s && !s->operand[QG_WEIGHT].convert)
        return qg_usage_error(c, "scheme '%s' converts no weights", s->name);
    if (*o->request.params && !s)
        return qg_usage_error(c, "--set needs --scheme: parameters belong to a scheme");
    if (s && qg_params_parse(&a, s, o->request.params, &err) != QG_OK)
        return qg_usage_error(c, "%s", err.message);
    o->request.draws = (unsigned)o->draws;
    return QG_EXIT_OK;
}

static int run(int argc, char **argv)
{
    static const struct option longs[] = {
        {"scheme", required_argument, NULL, 's'},  {"set", required_argument, NULL, 'p'},
        {"tensors", required_argument, NULL, 't'}, {"dtype", required_argument, NULL, 'd'},
        {"draws", required_argument, NULL, 'n'},   {"seed", required_argument, NULL, 'r'},
        {"verbose", no_argument, NULL, 'v'},       {0},
    };
    struct options o = {
        .dtype = QG_INPUT, .draws = 8, .request = {.params = "", .seed = 7, .nudge = nudge}};
    for (int option; (option = getopt_long(argc, argv, "v", longs, NULL)) != -1;) {
        int code = take_option(&o, option);
        if (code != QG_EXIT_OK)
            return code;
    }
    if (optind < argc)
        o.model = argv[optind++];
    if (optind < argc)
        return qg_usage_error(&qg_command_census, "'%s' was not expected", argv[optind]);
    int code = check_options(&o);
    return code == QG_EXIT_OK ? census(&o) : code;
}

#else

static int run(int argc, char **argv)
{
    char path[PATH_MAX];
    struct qg_error err;
    enum { MAX_WORDS = 62 };
    char *arguments[MAX_WORDS + 2] = {path};
    if (argc > MAX_WORDS)
        return qg_usage_error(&qg_command_census, "more than %d words", MAX_WORDS);
    memcpy(arguments + 1, argv, (size_t)argc * sizeof *argv);
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - sizeof "-census");
    if (n > 0) {
        path[n] = '\0';
        char *slash = strrchr(path, '/');
        snprintf(slash + 1, sizeof path - (size_t)(slash + 1 - path), "qgauge-census");
        execv(path, arguments);
    }
    qg_fail(&err, QG_EIO, "the program qgauge-census, which does this, is not beside qgauge: %s",
            strerror(errno));
    return qg_report_error(&qg_command_census, &err);
}

#endif

const struct qg_command qg_command_census = {
    .name = "census",
    .summary = "near ties: how much of a checkpoint hangs on the last bit",
    .help =
        "usage: qgauge census [--scheme NAME [--set \"NAME=VALUE ...\"]] [--tensors REGEX]\n"
        "                     [--dtype BF16] [--draws N] [--seed N] [-v] MODEL\n"
        "\n"
        "MODEL is a safetensors file, a Hugging Face folder, or a GGUF file, whose blocks are\n"
        "dequantized.\n"
        "\n"
        "Converts every weight of a checkpoint as the scheme's definition says, and again while "
        "every\n"
        "inexact operation of the definition may round to the other neighbour: what an "
        "algebraically\n"
        "equal rewrite of the quantizer (a reciprocal for a division, a fused multiply-add) could\n"
        "have computed. What moves hangs on the last bit, and two correct implementations may\n"
        "disagree about it.\n"
        "\n"
        "  --scheme NAME    only this scheme (all that convert weights)\n"
        "  --set PARAMS     its parameters\n"
        "  --tensors REGEX  only tensors whose name matches (POSIX extended)\n"
        "  --dtype DTYPE    cast the checkpoint to F32, BF16 or F16 first, as loading it would\n"
        "  --draws N        how many rewrites to try (8)\n"
        "  --seed N         of the draws (7)\n"
        "  -v, --verbose    a line per tensor\n"
        "\n"
        "near ties: blocks (elements that share a scale) in which some draw moved a code. 'codes\n"
        "move' and 'scales move' are shares per draw. Exit 0.\n",
    .run = run,
};
