/* SPDX-License-Identifier: MIT
 *
 * qgauge gap: prepare against convert, for every scheme.
 */
#define _GNU_SOURCE /* getopt_long */
#include <getopt.h>
#include <gsl/gsl_statistics_double.h>
#include <gsl/gsl_sort.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/processors.h"
#include "harness/case.h"
#include "harness/call.h"
#include "harness/checkpoint.h"
#include "harness/cli/cli.h"
#include "harness/gap.h"
#include "harness/recipe/agree.h"

enum { MAX_SEEDS = 1000, MAX_THREADS = 256 };

const struct qg_command qg_command_gap;

struct options {
    const char *scheme, *set, *weights, *tensors, *recipe, *model;
    enum qg_dtype dtype;  /* QG_INPUT: as the file has it */
    uint64_t seed, seeds; /* the seed whose figures stand first; how many others */
    uint64_t threads;     /* 0: one per processor */
    bool verbose;
};

static const char help[] =
    "usage: qgauge gap [--scheme NAME [--set \"NAME=VALUE ...\"]] [--seed N] [--seeds N] [-v]\n"
    "       qgauge gap --weights MODEL [--tensors REGEX] [--dtype BF16] [--scheme NAME] [-v]\n"
    "       qgauge gap --recipe RECIPE MODEL [--threads N] [-v]\n"
    "\n"
    "Runs every scheme's prepare path (fake quantization, what training sees) and convert path "
    "(real\n"
    "quantization, what is shipped) on the same weights and says how far apart they are.\n"
    "\n"
    "Without --weights the model is torchao's own: three linear layers 512->256->256->512 in "
    "bf16,\n"
    "PyTorch's random stream reproduced to the bit. Column 'bf16' is what torchao's compute_error\n"
    "prints (every step rounded to bf16), 'exact' the same ratio in double, both for --seed; then\n"
    "minimum, median and maximum over the other seeds 0, 1, 2 ...\n"
    "\n"
    "  --scheme NAME    only this scheme\n"
    "  --set PARAMS     with these parameters in place of the scheme's own variants\n"
    "  --seed N         the seed whose figures stand first (123, as upstream's tests)\n"
    "  --seeds N        how many other seeds (20)\n"
    "  --weights MODEL  compare on the rank-2 tensors of a checkpoint instead: a safetensors file, "
    "a\n"
    "                   Hugging Face folder, or a GGUF file, whose blocks are dequantized\n"
    "  --tensors REGEX  only tensors whose name matches (POSIX extended)\n"
    "  --dtype DTYPE    cast the checkpoint to F32, BF16 or F16 first, as loading it would\n"
    "  --recipe RECIPE  compare on every tensor of MODEL that the recipe quantizes (qgauge "
    "recipe)\n"
    "  --threads N      tensors at a time, with --recipe (one per processor)\n"
    "  -v, --verbose    every step of the first weight that differs, side by side;\n"
    "                   with --recipe every tensor on its own, also those that are equal\n"
    "\n"
    "'inf' means equal to the bit. A cause is named when changing one parameter brings the paths "
    "at\n"
    "least 3 dB closer, or another scheme's prepare path or dtype does. 'in the model' goes from "
    "the "
    "prepared\n"
    "to the converted model in steps (its weights, its activations, operands that are not "
    "rounded,\n"
    "its own matmul) and names those that close the gap by 3 dB or more. Exit 0 unless something "
    "could not be computed; 77 when every tensor was\n"
    "refused.\n"
    "\n"
    "With --recipe each tensor is taken in the form that training sees and in the form that is\n"
    "shipped; tensors of one rule with one reason stand together. A scheme's own gap is printed "
    "and is no failure. A MISTAKE of the mapping is, and "
    "the\n"
    "exit code is 1: other schemes or parameters on the two sides, or a layer that only one side\n"
    "quantizes. Beside it stands what the gap would be without the mistake. 77 when the recipe\n"
    "trains on the converted weights: there is nothing to compare.\n";

/* "0x1.8p-7 (0.0117)" is what a reader needs to redo a step by hand. */
static void print_step(const char *what, float left, float right, bool has_left, bool has_right)
{
    char a[48] = "", b[48] = "";
    if (has_left)
        snprintf(a, sizeof a, "%-13.7g %a", (double)left, (double)left);
    if (has_right)
        snprintf(b, sizeof b, "%-13.7g %a", (double)right, (double)right);
    printf("      %-20s %-32s %s\n", what, a, b);
}

/* Both traces, steps of the same name on one line, in the order in which they happened. */
static void print_side_by_side(const struct qg_gap_detail *d)
{
    bool shown[24] = {false};
    printf("      %-20s %-32s %s\n", "step", "prepare", "convert");
    print_step("weight", d->x, d->x, true, true);
    for (int i = 0; i < d->prepare.n; i++) {
        int match = -1;
        for (int j = 0; j < d->convert.n && match < 0; j++)
            if (!shown[j] && strcmp(d->prepare.step[i].what, d->convert.step[j].what) == 0)
                match = j;
        for (int j = 0; j < match; j++) // what convert did before, prepare has no word for
            if (!shown[j]) {
                print_step(d->convert.step[j].what, 0, d->convert.step[j].value, false, true);
                shown[j] = true;
            }
        print_step(d->prepare.step[i].what, d->prepare.step[i].value,
                   match < 0 ? 0 : d->convert.step[match].value, true, match >= 0);
        if (match >= 0)
            shown[match] = true;
    }
    for (int j = 0; j < d->convert.n; j++)
        if (!shown[j])
            print_step(d->convert.step[j].what, 0, d->convert.step[j].value, false, true);
}

static void print_detail(const struct qg_gap *g, const struct qg_gap_detail *d, bool verbose)
{
    if (!g->differ)
        return;
    printf("    first difference: w[%zu,%zu] = %.7g: prepared %.7g, converted %.7g\n", d->row,
           d->col, (double)d->x, (double)d->prepared, (double)d->converted);
    if (verbose)
        print_side_by_side(d);
    if (g->cause[0])
        printf("    cause: %s\n", g->cause);
}

/* Whether there is anything to compare; says so when not. */
static bool has_prepare(const struct qg_scheme *s)
{
    if (!qg_gap_has(s))
        printf("%-16s no prepare path upstream: nothing to compare\n", s->name);
    return qg_gap_has(s);
}

/* The scheme with one set of parameters over all seeds. */
static enum qg_status model_row(const struct qg_scheme *s, const char *params,
                                const struct options *o, struct qg_error *err)
{
    struct qg_gap model, weights, other, other_weights;
    struct qg_gap_detail detail;
    double db[MAX_SEEDS];
    if (!has_prepare(s))
        return QG_OK;
    size_t n = 0, equal = 0;
    if (qg_gap_model(s, params, o->seed, &model, &weights, &detail, err) != QG_OK)
        return err->status;
    for (uint64_t seed = 0; n < o->seeds; seed++) {
        if (seed == o->seed)
            continue;
        if (qg_gap_model(s, params, seed, &other, &other_weights, NULL, err) != QG_OK)
            return err->status;
        equal += isinf(other.sqnr_db) != 0;
        db[n++] = other.sqnr_db;
    }
    char range[64] = "-";
    if (n && equal == n)
        snprintf(range, sizeof range, "inf on all %zu", n);
    else if (n) {
        gsl_sort(db, 1, n);
        snprintf(range, sizeof range, "%.2f / %.2f / %.2f", db[0],
                 gsl_stats_median_from_sorted_data(db, 1, n), db[n - 1]);
    }
    printf("%-16s %-17s %8.6g %8.2f   %-22s %8.3f %% %8.2f\n", s->name, params, model.sqnr_bf16_db,
           model.sqnr_db, range, 100.0 * (double)weights.differ / (double)weights.count,
           weights.sqnr_db);
    print_detail(&weights, &detail, o->verbose);
    if (model.cause[0])
        printf("    in the model: %s\n", model.cause);
    return QG_OK;
}

/* Calls `row` for the scheme's default and its variants, or for the parameters that were asked for.
 */
static enum qg_status each_variant(const struct qg_scheme *s, const struct options *o,
                                   enum qg_status (*row)(const struct qg_scheme *, const char *,
                                                         const struct options *, struct qg_error *),
                                   struct qg_error *err)
{
    if (row(s, o->set ? o->set : "", o, err) != QG_OK)
        return err->status;
    for (int i = 0; !o->set && qg_gap_has(s) && s->variants && s->variants[i]; i++)
        if (row(s, s->variants[i], o, err) != QG_OK)
            return err->status;
    return QG_OK;
}

static int gap_of_model(const struct qg_command *c, const struct options *o)
{
    struct qg_error err;
    printf("torchao's test model, seed %" PRIu64 " and %" PRIu64
           " others; SQNR of the outputs in dB; then the "
           "weights\n\n%-16s %-17s %8s %8s   %-22s %10s %8s\n",
           o->seed, o->seeds, "scheme", "parameters", "bf16", "exact", "min / median / max",
           "differ", "SQNR dB");
    const struct qg_scheme *s;
    for (size_t i = 0; (s = qg_scheme_at(i)); i++)
        if ((!o->scheme || strcmp(s->name, o->scheme) == 0) &&
            each_variant(s, o, model_row, &err) != QG_OK)
            return qg_report_error(c, &err);
    return QG_EXIT_OK;
}

/* --- a checkpoint ---------------------------------------------------------------------------- */

/* One scheme over all tensors: what it refuses, the sum, and a closer look at the worst tensor. */
static enum qg_status checkpoint_row(const struct qg_scheme *s, const char *params,
                                     const struct qg_checkpoint *w, bool verbose, size_t *ret_used,
                                     struct qg_error *err)
{
    struct qg_gap g, worst = {.sqnr_db = INFINITY};
    struct qg_gap_detail detail;
    size_t used = 0, worst_at = 0;
    uint64_t count = 0, differ = 0;
    if (!has_prepare(s))
        return QG_OK;
    printf("%s%s%s\n", s->name, params[0] ? " " : "", params);
    for (size_t i = 0; i < w->n; i++) {
        const struct qg_tensor *t = &w->tensor[i];
        enum qg_status status =
            qg_gap_tensor(s, params, t, t->name, &g, verbose ? &detail : NULL, err);
        if (status == QG_EINVAL) // the scheme says why
            printf("    %s: refused: %s\n", t->name, err->message);
        if (status != QG_OK && status != QG_EINVAL)
            return status;
        if (status != QG_OK)
            continue;
        used++;
        count += g.count;
        differ += g.differ;
        if (!(g.sqnr_db >= worst.sqnr_db))
            worst = g, worst_at = i;
        if (verbose) {
            printf("  %s [%zu,%zu] %s: %.3f %% differ, %.2f dB\n", t->name, t->shape[0],
                   t->shape[1], qg_dtype_name(t->dtype), 100.0 * (double)g.differ / (double)g.count,
                   g.sqnr_db);
            print_detail(&g, &detail, true);
        }
    }
    *ret_used += used;
    printf("    %zu tensor%s, %llu weights, %.3f %% differ", used, used == 1 ? "" : "s",
           (unsigned long long)count, count ? 100.0 * (double)differ / (double)count : 0.0);
    if (!differ) {
        puts(count ? ": equal to the bit" : "");
        return QG_OK;
    }
    printf("; worst %.2f dB in %s\n", worst.sqnr_db, worst.source);
    if (verbose)
        return QG_OK;
    if (qg_gap_tensor(s, params, &w->tensor[worst_at], worst.source, &g, &detail, err) != QG_OK)
        return err->status;
    print_detail(&g, &detail, false);
    return QG_OK;
}

static int gap_of_checkpoint(const struct qg_command *c, const struct options *o)
{
    struct qg_error err;
    struct qg_checkpoint w;
    enum qg_status status = qg_take_checkpoint(o->weights, o->tensors, o->dtype, &w, &err);
    const struct qg_scheme *s;
    size_t used = 0;
    for (size_t i = 0; status == QG_OK && (s = qg_scheme_at(i)); i++)
        if (!o->scheme || strcmp(s->name, o->scheme) == 0)
            status = checkpoint_row(s, o->set ? o->set : "", &w, o->verbose, &used, &err);
    qg_checkpoint_close(&w);
    if (status != QG_OK)
        return qg_report_error(c, &err);
    return used ? QG_EXIT_OK : QG_EXIT_SKIP;
}

/* --- a recipe -------------------------------------------------------------------------------- */

enum { NAMES = 3 };

/* Tensors of one rule, with one mistake or one reason why they differ. */
struct same_cause {
    struct qg_agreement first, worst;
    const char *name[NAMES]; /* of the first ones */
    size_t n;
    double best, own_worst, own_best; /* dB; own: had they been prepared as they are shipped */
    struct qg_gap_sum sum, own;       /* of all; own.count 0: there is none */
};

/* What has been compared so far. */
struct agreed {
    bool verbose;
    struct same_cause *group;
    size_t n_groups, tensors, equal, mistakes;
    double worst;
    const char *worst_name;
    bool no_memory;
};

static void print_sum(const char *before, const struct qg_gap_sum *s)
{
    printf("%s%.2f dB, %.3f %% differ\n", before, qg_gap_db(s),
           s->count ? 100.0 * (double)s->differ / (double)s->count : 0.0);
}

static void print_tensor(const struct qg_agreement *g)
{
    printf("rule %d  %s [%zu,%zu] %s  ", g->of->rule + 1, g->of->name, g->of->rows, g->of->cols,
           qg_dtype_name(g->of->dtype));
    print_sum(g->mistake ? "MISTAKE  " : "", &g->sum);
    if (g->cause[0])
        printf("    %s\n", g->cause);
    if (g->own.count)
        print_sum("    prepared as it is shipped it would be ", &g->own);
}

static void print_range(const char *before, double worst, double best, const struct qg_gap_sum *s)
{
    printf("%s%.2f dB (worst) to %.2f dB (best), %.3f %% differ", before, worst, best,
           s->count ? 100.0 * (double)s->differ / (double)s->count : 0.0);
}

static void print_group(const struct same_cause *g)
{
    printf("rule %d, %zu tensors: %s%s\n", g->first.of->rule + 1, g->n, g->first.cause,
           g->first.mistake ? "  MISTAKE" : "");
    print_range("    ", qg_gap_db(&g->worst.sum), g->best, &g->sum);
    printf("; worst in %s\n", g->worst.of->name);
    if (g->own.count) {
        print_range("    prepared as they are shipped it would be ", g->own_worst, g->own_best,
                    &g->own);
        puts("");
    }
    for (size_t i = 0; i < NAMES && i < g->n; i++)
        printf("%s%s", i ? ", " : "    ", g->name[i]);
    if (g->n > NAMES)
        printf(" and %zu more (-v: each)", g->n - NAMES);
    puts("");
}

static void add_sum(struct qg_gap_sum *to, const struct qg_gap_sum *s)
{
    to->count += s->count;
    to->differ += s->differ;
}

/* The group that a tensor belongs to, a new one when there is none; NULL: no memory. */
static struct same_cause *group_of(struct agreed *a, const struct qg_agreement *g)
{
    for (size_t i = 0; i < a->n_groups; i++) {
        const struct qg_agreement *first = &a->group[i].first;
        if (first->of->rule == g->of->rule && strcmp(first->cause, g->cause) == 0)
            return &a->group[i];
    }
    struct same_cause *more = realloc(a->group, (a->n_groups + 1) * sizeof *more);
    if (!more)
        return NULL;
    a->group = more;
    more[a->n_groups] = (struct same_cause){
        .first = *g, .worst = *g, .best = -INFINITY, .own_worst = INFINITY, .own_best = -INFINITY};
    return &more[a->n_groups++];
}

static void add_to_group(struct same_cause *to, const struct qg_agreement *g)
{
    double db = qg_gap_db(&g->sum), own = qg_gap_db(&g->own);
    if (to->n < NAMES)
        to->name[to->n] = g->of->name;
    to->n++;
    if (!(db >= qg_gap_db(&to->worst.sum)))
        to->worst = *g;
    to->best = fmax(to->best, db);
    add_sum(&to->sum, &g->sum);
    if (!g->own.count)
        return;
    to->own_worst = fmin(to->own_worst, own);
    to->own_best = fmax(to->own_best, own);
    add_sum(&to->own, &g->own);
}

static void on_tensor(const struct qg_agreement *g, void *user)
{
    struct agreed *a = user;
    double db = qg_gap_db(&g->sum);
    bool equal = !g->sum.differ && !g->mistake;
    a->tensors++;
    a->equal += equal;
    a->mistakes += g->mistake;
    if (!equal && !(db >= a->worst)) {
        a->worst = db;
        a->worst_name = g->of->name;
    }
    if (a->verbose) {
        print_tensor(g);
        return;
    }
    struct same_cause *group = equal ? NULL : group_of(a, g);
    if (group)
        add_to_group(group, g);
    a->no_memory = a->no_memory || (!equal && !group);
}

/* Whether training sees of every tensor what is shipped, and how many there are. */
static void print_same(const struct qg_recipe_plan *p, const struct agreed *a)
{
    if (a->mistakes)
        printf("%zu MISTAKE%s: what training sees is not what is shipped\n", a->mistakes,
               a->mistakes == 1 ? "" : "S");
    else if (!a->tensors)
        puts("the recipe quantizes no tensor of this model: nothing to compare");
    else if (qg_recipe_training(p->recipe) == QG_TRAINING_QAT)
        printf("no mistake: on every tensor that it quantizes of this model, prepare and convert "
               "are the same scheme with the same parameters\n");
}

static int print_agreed(const struct qg_recipe_plan *p, const struct agreed *a)
{
    const char *name = qg_recipe_name(p->recipe);
    if (qg_recipe_training(p->recipe) == QG_TRAINING_FROZEN_BASE) {
        printf("%s: training runs on the converted weights: nothing to compare\n", name);
        return QG_EXIT_SKIP;
    }
    for (size_t i = 0; i < a->n_groups; i++)
        if (a->group[i].n == 1)
            print_tensor(&a->group[i].first);
        else
            print_group(&a->group[i]);
    printf("%s%s (%s): %zu tensors, %zu equal to the bit", a->tensors > a->equal ? "\n" : "", name,
           qg_training_name(qg_recipe_training(p->recipe)), a->tensors, a->equal);
    if (a->worst_name)
        printf("; worst %.2f dB in %s", a->worst, a->worst_name);
    puts("");
    print_same(p, a);
    return a->mistakes ? QG_EXIT_FAIL : QG_EXIT_OK;
}

static int gap_of_recipe(const struct qg_command *c, const struct options *o)
{
    struct agreed a = {.verbose = o->verbose, .worst = INFINITY};
    int threads = o->threads ? (int)o->threads : qg_processors();
    struct qg_error err;
    struct qg_prescription p;
    int code;
    if (qg_take_plan(o->recipe, o->model, &p, &err) != QG_OK ||
        qg_recipe_agree(&p.plan, threads, on_tensor, &a, &err) != QG_OK ||
        (a.no_memory && qg_fail(&err, QG_ENOMEM, "no memory to list tensors") != QG_OK))
        code = qg_report_error(c, &err);
    else
        code = print_agreed(&p.plan, &a);
    free(a.group);
    qg_drop_plan(&p);
    return code;
}

/* --- options --------------------------------------------------------------------------------- */

static int take_option(struct options *o, int option)
{
    const struct qg_command *c = &qg_command_gap;
    switch (option) {
    case 's':
        o->scheme = optarg;
        return QG_EXIT_OK;
    case 'p':
        o->set = optarg;
        return QG_EXIT_OK;
    case 'w':
        o->weights = optarg;
        return QG_EXIT_OK;
    case 't':
        o->tensors = optarg;
        return QG_EXIT_OK;
    case 'm':
        o->recipe = optarg;
        return QG_EXIT_OK;
    case 'j':
        if (qg_whole_parse(optarg, MAX_THREADS, &o->threads) && o->threads)
            return QG_EXIT_OK;
        return qg_usage_error(c, "--threads is from 1 to %d, not '%s'", MAX_THREADS, optarg);
    case 'v':
        o->verbose = true;
        return QG_EXIT_OK;
    case 'd':
        return qg_take_dtype(c, optarg, &o->dtype) ? QG_EXIT_OK : QG_EXIT_USAGE;
    case 'r':
    case 'n':
        if (qg_whole_parse(optarg, option == 'r' ? UINT32_MAX : MAX_SEEDS,
                           option == 'r' ? &o->seed : &o->seeds))
            return QG_EXIT_OK;
        return qg_usage_error(c, "'%s' is not a whole number in range", optarg);
    default:
        return qg_usage_error(c, "bad option");
    }
}

/* What does not go together. */
static int check_options(const struct options *o, bool seeded)
{
    const struct qg_command *c = &qg_command_gap;
    struct qg_args a = {0};
    struct qg_error err;
    const struct qg_scheme *s = o->scheme ? qg_take_scheme(c, o->scheme) : NULL;
    if (o->scheme && !s)
        return QG_EXIT_USAGE;
    if (o->set && !s)
        return qg_usage_error(c, "--set needs --scheme: parameters belong to a scheme");
    if (o->set && qg_params_parse(&a, s, o->set, &err) != QG_OK)
        return qg_usage_error(c, "%s", err.message);
    if (!o->weights && (o->tensors || o->dtype != QG_INPUT))
        return qg_usage_error(c, "--tensors and --dtype need --weights");
    if (o->recipe && (o->scheme || o->weights || seeded))
        return qg_usage_error(c, "--recipe names scheme and parameters, and MODEL the weights: it "
                                 "goes with --threads and -v alone");
    if (o->threads && !o->recipe)
        return qg_usage_error(c, "--threads needs --recipe");
    if (o->weights && seeded)
        return qg_usage_error(c, "--seed and --seeds are of the test model, not of --weights");
    return QG_EXIT_OK;
}

static int run(int argc, char **argv)
{
    static const struct option longs[] = {
        {"scheme", required_argument, NULL, 's'},
        {"set", required_argument, NULL, 'p'},
        {"seed", required_argument, NULL, 'r'},
        {"seeds", required_argument, NULL, 'n'},
        {"weights", required_argument, NULL, 'w'},
        {"tensors", required_argument, NULL, 't'},
        {"verbose", no_argument, NULL, 'v'},
        {"dtype", required_argument, NULL, 'd'},
        {"recipe", required_argument, NULL, 'm'},
        {"threads", required_argument, NULL, 'j'},
        {0},
    };
    const struct qg_command *c = &qg_command_gap;
    struct options o = {.seed = 123, .seeds = 20, .dtype = QG_INPUT};
    bool seeded = false;
    for (int option; (option = getopt_long(argc, argv, "v", longs, NULL)) != -1;) {
        int code = take_option(&o, option);
        seeded = seeded || option == 'r' || option == 'n';
        if (code != QG_EXIT_OK)
            return code;
    }
    if (o.recipe && optind == argc - 1)
        o.model = argv[optind++];
    if (o.recipe && !o.model)
        return qg_usage_error(c, "--recipe needs one MODEL");
    if (optind < argc)
        return qg_usage_error(c, "'%s' is not an option", argv[optind]);
    int code = check_options(&o, seeded);
    if (code != QG_EXIT_OK)
        return code;
    return o.recipe    ? gap_of_recipe(c, &o)
           : o.weights ? gap_of_checkpoint(c, &o)
                       : gap_of_model(c, &o);
}

const struct qg_command qg_command_gap = {
    .name = "gap",
    .summary = "prepare against convert: what training sees and what is shipped",
    .help = help,
    .run = run,
};
