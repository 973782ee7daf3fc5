/* SPDX-License-Identifier: MIT
 *
 * qgauge atlas: where libraries that claim one format disagree.
 */
#define _GNU_SOURCE /* getopt_long */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/atlas.h"
#include "harness/case.h"
#include "harness/checkpoint.h"
#include "harness/cli/cli.h"

const struct qg_command qg_command_atlas;

struct options {
    const char *format, *weights, *tensors;
    enum qg_dtype dtype; /* QG_INPUT: as the file has it */
    uint64_t seed;
};

static void add(struct qg_atlas *sum, const struct qg_atlas *a)
{
    sum->count += a->count;
    sum->differ += a->differ;
    sum->same_value += a->same_value;
    sum->scale += a->scale;
    sum->clip += a->clip;
    sum->tie += a->tie;
    sum->rounding += a->rounding;
    sum->other += a->other;
    sum->blocks += a->blocks;
    sum->blocks_scaled += a->blocks_scaled;
}

static void put_part(const char *what, uint64_t part, uint64_t whole)
{
    if (part)
        printf("  %s %.3g %%", what, 100.0 * (double)part / (double)whole);
}

static void put_row(const struct qg_atlas *a)
{
    printf("%-10s %-30s %-30s %9.4f %%  %9.4f %%\n", a->format, a->left, a->right,
           100.0 * (double)a->differ / (double)a->count,
           100.0 * (double)a->blocks_scaled / (double)a->blocks);
    if (a->differ) {
        printf("    of these:");
        put_part("another scale", a->scale, a->differ);
        put_part("exact ties", a->tie, a->differ);
        put_part("ties but for a rounding", a->rounding, a->differ);
        put_part("clipped", a->clip, a->differ);
        put_part("two codes of one value", a->same_value, a->differ);
        put_part("other", a->other, a->differ);
        puts("");
    }
    printf("    %s\n", a->rule);
}

static void put_head(const char *source)
{
    printf("%s\n\n%-10s %-30s %-30s %11s  %11s\n", source, "format", "left", "right",
           "codes differ", "scales differ");
}

static bool wanted(const struct options *o, const struct qg_atlas_pair *p)
{
    return !o->format || strcmp(o->format, p->format) == 0;
}

static enum qg_status of_fill(const struct options *o, const char *fill, struct qg_error *err)
{
    struct qg_tensor w;
    struct qg_atlas a;
    const struct qg_atlas_pair *p;
    char source[96];
    if (qg_atlas_weights(fill, o->seed, &w, err) != QG_OK)
        return err->status;
    snprintf(source, sizeof source, "fill %s, 256 x 1024, seed %" PRIu64, fill, o->seed);
    put_head(source);
    enum qg_status status = QG_OK;
    for (size_t i = 0; status == QG_OK && (p = qg_atlas_at(i)); i++)
        if (wanted(o, p) && (status = qg_atlas_compare(p, &w, fill, o->seed, &a, err)) == QG_OK)
            put_row(&a);
    free(w.data);
    return status;
}

/* One pair over all tensors; those that a scheme refuses are counted. */
static enum qg_status of_pair(const struct qg_atlas_pair *p, const struct qg_checkpoint *model,
                              struct qg_error *err)
{
    struct qg_atlas a, sum = {0};
    size_t used = 0;
    for (size_t i = 0; i < model->n; i++) {
        enum qg_status status =
            qg_atlas_compare(p, &model->tensor[i], model->tensor[i].name, 0, &a, err);
        if (status != QG_OK && status != QG_EINVAL)
            return status;
        if (status != QG_OK)
            continue;
        if (used++)
            add(&sum, &a);
        else
            sum = a;
    }
    if (used)
        put_row(&sum);
    if (used < model->n)
        printf("    refused %zu of %zu tensors, the last: %s\n", model->n - used, model->n,
               err->message);
    return QG_OK;
}

static enum qg_status of_checkpoint(const struct options *o, struct qg_error *err)
{
    struct qg_checkpoint model;
    const struct qg_atlas_pair *p;
    enum qg_status status = qg_take_checkpoint(o->weights, o->tensors, o->dtype, &model, err);
    if (status == QG_OK)
        put_head(o->weights);
    for (size_t i = 0; status == QG_OK && (p = qg_atlas_at(i)); i++)
        if (wanted(o, p))
            status = of_pair(p, &model, err);
    qg_checkpoint_close(&model);
    return status;
}

static int atlas(const struct options *o)
{
    struct qg_error err;
    enum qg_status status = QG_OK;
    if (o->weights)
        status = of_checkpoint(o, &err);
    else if ((status = of_fill(o, "normal", &err)) == QG_OK) {
        puts("");
        status = of_fill(o, "ties", &err);
    }
    return status == QG_OK ? QG_EXIT_OK : qg_report_error(&qg_command_atlas, &err);
}

static int take_option(struct options *o, int option)
{
    const struct qg_command *c = &qg_command_atlas;
    switch (option) {
    case 'f':
        o->format = optarg;
        return QG_EXIT_OK;
    case 'w':
        o->weights = optarg;
        return QG_EXIT_OK;
    case 't':
        o->tensors = optarg;
        return QG_EXIT_OK;
    case 'd':
        return qg_take_dtype(c, optarg, &o->dtype) ? QG_EXIT_OK : QG_EXIT_USAGE;
    case 'r':
        if (qg_whole_parse(optarg, UINT64_MAX, &o->seed))
            return QG_EXIT_OK;
        return qg_usage_error(c, "--seed is a whole number, not '%s'", optarg);
    default:
        return qg_usage_error(c, "bad option");
    }
}

static int check_options(const struct options *o)
{
    const struct qg_command *c = &qg_command_atlas;
    char all[256] = "";
    size_t n = 0;
    bool known = !o->format;
    for (size_t i = 0; qg_atlas_at(i); i++) {
        known = known || strcmp(qg_atlas_at(i)->format, o->format) == 0;
        if (n < sizeof all && (!i || strcmp(qg_atlas_at(i)->format, qg_atlas_at(i - 1)->format)))
            n += (size_t)snprintf(all + n, sizeof all - n, " %s", qg_atlas_at(i)->format);
    }
    if (!known)
        return qg_usage_error(c, "no format '%s' in the atlas; there are:%s", o->format, all);
    if (!o->weights && (o->tensors || o->dtype != QG_INPUT))
        return qg_usage_error(c, "--tensors and --dtype need --weights");
    return QG_EXIT_OK;
}

static int run(int argc, char **argv)
{
    static const struct option longs[] = {
        {"format", required_argument, NULL, 'f'},  {"weights", required_argument, NULL, 'w'},
        {"tensors", required_argument, NULL, 't'}, {"dtype", required_argument, NULL, 'd'},
        {"seed", required_argument, NULL, 'r'},    {0},
    };
    struct options o = {.dtype = QG_INPUT, .seed = 7};
    for (int option; (option = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        int code = take_option(&o, option);
        if (code != QG_EXIT_OK)
            return code;
    }
    if (optind < argc)
        return qg_usage_error(&qg_command_atlas, "'%s' was not expected", argv[optind]);
    int code = check_options(&o);
    return code == QG_EXIT_OK ? atlas(&o) : code;
}

const struct qg_command qg_command_atlas = {
    .name = "atlas",
    .summary = "where libraries that claim one format disagree, and by which rule",
    .help =
        "usage: qgauge atlas [--format NAME] [--seed N]\n"
        "       qgauge atlas [--format NAME] --weights MODEL [--tensors REGEX]\n"
        "                    [--dtype BF16]\n"
        "\n"
        "Quantizes the same weights by two schemes that claim one format, and counts the codes "
        "that\n"
        "differ. Each such code is put down to one cause: its block got another scale; x lies "
        "exactly\n"
        "between the two values (ties); it would but for a rounding on the way; one side clips;\n"
        "both codes stand for one value (+0 and -0); or none of these. A sentence says what the "
        "two\n"
        "libraries do differently.\n"
        "\n"
        "Without --weights the weights are Gaussian bf16 numbers, then numbers made of ties, held "
        "in\n"
        "F32.\n"
        "\n"
        "  --format NAME    only pairs of this format\n"
        "  --weights MODEL  the rank-2 tensors of a checkpoint instead: a safetensors file, a "
        "Hugging "
        "Face\n"
        "                   folder, or a GGUF file, whose blocks are dequantized\n"
        "  --tensors REGEX  only tensors whose name matches (POSIX extended)\n"
        "  --dtype DTYPE    cast the checkpoint to F32, BF16 or F16 first, as loading it would\n"
        "  --seed N         of the fills (7)\n"
        "\n"
        "Exit 0; the differences are facts, not failures.\n",
    .run = run,
};
