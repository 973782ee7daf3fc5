/* SPDX-License-Identifier: MIT
 *
 * qgauge recipe: which scheme goes on which tensor of a model, before any work is done.
 */
#define _GNU_SOURCE /* getopt_long */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "harness/cli/cli.h"
#include "harness/recipe/recipe.h"

const struct qg_command qg_command_recipe;

static const char help[] =
    "usage: qgauge recipe list\n"
    "       qgauge recipe show RECIPE\n"
    "       qgauge recipe check RECIPE MODEL [--format text|json]\n"
    "\n"
    "A recipe says which scheme each tensor of a model gets, by name, kind of layer and shape.\n"
    "RECIPE is the name of a shipped one, or the path of a .yaml file; `show` prints it, with its\n"
    "comments. MODEL is a safetensors file, a Hugging Face folder (one file or shards), or a GGUF\n"
    "file; only headers are read.\n"
    "\n"
    "`check` prints the plan: tensor, kind, rule, scheme and parameters, shape, bytes before and\n"
    "after, bits per weight, what training sees where it is not the same, what is left and why, "
    "and\n"
    "totals. It refuses, each reason on a line of its own, what must not be converted: two rules "
    "for\n"
    "one tensor, a rule or an exclude pattern that matched nothing, columns that a scheme's "
    "groups\n"
    "do not divide, a scheme that an embedding cannot take, a checkpoint that is quantized "
    "already.\n"
    "\n"
    "  --format FORMAT  text, or json for programs: the same keys always (text)\n"
    "\n"
    "Exit 0 when the recipe fits, 2 when it does not, 1 when MODEL is not what it says it is.\n"
    "\n"
    "A recipe, save it as mine.yaml (it fits Llama and its like):\n"
    "\n"
    "  name: mine\n"
    "  summary: int4 for the linear layers, int8 for the embedding table\n"
    "  training: post-training\n"
    "  exclude: ['lm_head']          # names that are left; each must be found in the model\n"
    "  rules:\n"
    "    - about: groups of 32       # no match: the linear layers and the head that no\n"
    "      scheme: int4              # other rule takes\n"
    "      set: group=32\n"
    "      on-indivisible: skip      # leave layers whose columns 32 does not divide\n"
    "    - match: {kind: [embedding]}\n"
    "      scheme: int8\n"
    "\n"
    "Keys of a recipe; name, summary and rules must be there:\n"
    "  name, summary     one word, one line\n"
    "  source            where it is from\n"
    "  training          qat (left out: this), on fake-quantized weights; frozen-base, adapters "
    "on\n"
    "                    the converted weights; post-training, which sees nothing of it\n"
    "  overlap           two rules for one tensor: refuse (left out: this), or first wins\n"
    "  transforms        [untie-embeddings] or [untie-head]: the head gets a copy of the table "
    "that\n"
    "                    it shares, always or when a rule quantizes it\n"
    "  dtype             cast tensors to bf16, f16 or f32 first\n"
    "  requantize        yes: tensors that are quantized already may be quantized again\n"
    "  exclude           list of POSIX extended expressions: names that no rule takes\n"
    "  rules             list; each begins with '- '\n"
    "\n"
    "Keys of a rule; scheme must be there:\n"
    "  about             what it does and why\n"
    "  match             what it takes; all that is named must hold: name (expression), kind (list "
    "of\n"
    "                    linear, head, embedding, experts, router), min-cols, min-rows,\n"
    "                    cols-multiple-of, rows-multiple-of\n"
    "  optional          yes: it may match nothing\n"
    "  scheme, set       one of `qgauge list schemes -v`, and its parameters; none: leave it\n"
    "  operand           weight: an embedding table is stored as a linear weight is\n"
    "  activation        scheme of the layer's inputs, where it is not the scheme's own\n"
    "  weight-only       yes: inputs are not quantized; no: they are\n"
    "  prepare           {scheme: NAME, set: ...}: what training sees, where it is not the same\n"
    "  on-indivisible    columns that groups do not divide: error (left out: this), skip, or pad\n"
    "  dtype             instead of the recipe's\n";

/* --- totals ---------------------------------------------------------------------------------- */

struct totals {
    size_t tensors, quantized;         /* how many */
    double weights, quantized_weights; /* elements */
    double before, after;              /* bytes */
    double quantized_before, quantized_after;
};

static double count_of(const struct qg_assignment *a)
{
    return (double)a->rows * (double)a->cols;
}

/* An untied copy is not in the checkpoint. */
static size_t bytes_before(const struct qg_assignment *a)
{
    return a->name == a->tensor->t.name ? a->tensor->bytes : 0;
}

static struct totals sum_up(const struct qg_recipe_plan *p)
{
    struct totals t = {.tensors = p->n};
    for (size_t i = 0; i < p->n; i++) {
        const struct qg_assignment *a = &p->of[i];
        t.weights += count_of(a);
        t.before += (double)bytes_before(a);
        t.after += (double)a->bytes;
        if (!a->convert.scheme)
            continue;
        t.quantized++;
        t.quantized_weights += count_of(a);
        t.quantized_before += (double)bytes_before(a);
        t.quantized_after += (double)a->bytes;
    }
    return t;
}

static double bits_of(double bytes, double weights)
{
    return weights > 0 ? 8 * bytes / weights : 0;
}

/* --- text ------------------------------------------------------------------------------------ */

static bool same_choice(const struct qg_choice *a, const struct qg_choice *b)
{
    return a->scheme == b->scheme && strcmp(a->params, b->params) == 0;
}

/* "prepared as fp8-int4", where training sees something else than what is shipped. */
static void spell_prepare(const struct qg_recipe_plan *p, const struct qg_assignment *a, char *text,
                          size_t size)
{
    char choice[256];
    text[0] = '\0';
    if (qg_recipe_training(p->recipe) != QG_TRAINING_QAT || same_choice(&a->prepare, &a->convert))
        return;
    qg_choice_spell(&a->prepare, choice, sizeof choice);
    snprintf(text, size, "   prepared as %s", choice);
}

static void print_quantized(const struct qg_recipe_plan *p)
{
    char choice[256], shape[64], prepare[300], padded[40];
    printf("%4s %-9s %-26s %-15s %12s %12s %6s  %s\n", "rule", "kind", "scheme", "shape", "before",
           "after", "bits", "tensor");
    for (size_t i = 0; i < p->n; i++) {
        const struct qg_assignment *a = &p->of[i];
        if (!a->convert.scheme)
            continue;
        qg_choice_spell(&a->convert, choice, sizeof choice);
        spell_prepare(p, a, prepare, sizeof prepare);
        snprintf(shape, sizeof shape, "[%zu,%zu]", a->rows, a->cols);
        snprintf(padded, sizeof padded, "   %zu zero columns more", a->padded);
        printf("%4d %-9s %-26s %-15s %12zu %12zu %6.3f  %s%s%s\n", a->rule + 1,
               qg_layer_kind_name(a->kind), choice, shape, bytes_before(a), a->bytes,
               bits_of((double)a->bytes, count_of(a)), a->name, a->padded ? padded : "", prepare);
    }
}

/* Tensors that are left, those with one reason on one line. */
static void print_left(const struct qg_recipe_plan *p)
{
    char prepare[300];
    bool any = false;
    for (size_t i = 0; i < p->n; i++) {
        const struct qg_assignment *a = &p->of[i];
        bool seen = a->convert.scheme;
        for (size_t j = 0; j < i && !seen; j++)
            seen = !p->of[j].convert.scheme && strcmp(p->of[j].why, a->why) == 0;
        if (seen)
            continue;
        size_t n = 0, bytes = 0;
        for (size_t j = i; j < p->n; j++)
            if (!p->of[j].convert.scheme && strcmp(p->of[j].why, a->why) == 0)
                n++, bytes += p->of[j].bytes;
        spell_prepare(p, a, prepare, sizeof prepare);
        printf("%s%12zu bytes in %zu tensor%s: %s; %s%s%s\n", any ? "" : "\nleft as they are:\n",
               bytes, n, n == 1 ? "" : "s", a->why, a->name, n > 1 ? " ..." : "", prepare);
        any = true;
    }
}

static void print_text(const struct qg_recipe_plan *p)
{
    struct totals t = sum_up(p);
    printf("%s: %s\ntraining: %s\n\n", qg_recipe_name(p->recipe), qg_recipe_summary(p->recipe),
           qg_training_name(qg_recipe_training(p->recipe)));
    print_quantized(p);
    print_left(p);
    printf("\nquantized: %zu of %zu tensors, %.2f %% of the weights: %.0f -> %.0f bytes, %.3f bits "
           "per weight\n",
           t.quantized, t.tensors, t.weights > 0 ? 100 * t.quantized_weights / t.weights : 0,
           t.quantized_before, t.quantized_after, bits_of(t.quantized_after, t.quantized_weights));
    printf("whole model: %.0f -> %.0f bytes (%.2f %%), %.3f bits per weight\n", t.before, t.after,
           t.before > 0 ? 100 * t.after / t.before : 0, bits_of(t.after, t.weights));
}

/* --- JSON ------------------------------------------------------------------------------------ */

static void add_choice(cJSON *to, const char *key, const struct qg_choice *c)
{
    cJSON *o = c->scheme ? cJSON_AddObjectToObject(to, key) : cJSON_AddNullToObject(to, key);
    if (!c->scheme)
        return;
    cJSON_AddStringToObject(o, "scheme", c->scheme->name);
    cJSON_AddStringToObject(o, "set", c->params);
}

static cJSON *tensor_json(const struct qg_assignment *a)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "name", a->name);
    cJSON_AddStringToObject(o, "from", a->tensor->t.name);
    cJSON_AddStringToObject(o, "kind", qg_layer_kind_name(a->kind));
    cJSON_AddNumberToObject(o, "rule", a->rule + 1);
    add_choice(o, "convert", &a->convert);
    add_choice(o, "prepare", &a->prepare);
    if (a->activation)
        cJSON_AddStringToObject(o, "activation", a->activation->name);
    else
        cJSON_AddNullToObject(o, "activation");
    cJSON_AddStringToObject(o, "operand", qg_operand_name(a->operand));
    cJSON_AddStringToObject(o, "stored_dtype", a->tensor->dtype_word);
    cJSON_AddStringToObject(o, "dtype", a->dtype < QG_DTYPE_COUNT ? qg_dtype_name(a->dtype) : "");
    cJSON_AddNumberToObject(o, "rows", (double)a->rows);
    cJSON_AddNumberToObject(o, "cols", (double)a->cols);
    cJSON_AddNumberToObject(o, "padded", (double)a->padded);
    cJSON_AddNumberToObject(o, "bytes_before", (double)bytes_before(a));
    cJSON_AddNumberToObject(o, "bytes_after", (double)a->bytes);
    cJSON_AddNumberToObject(o, "bits_per_weight", bits_of((double)a->bytes, count_of(a)));
    cJSON_AddStringToObject(o, "why", a->why);
    return o;
}

static int print_json(const struct qg_recipe_plan *p)
{
    struct totals t = sum_up(p);
    cJSON *top = cJSON_CreateObject();
    cJSON_AddStringToObject(top, "recipe", qg_recipe_name(p->recipe));
    cJSON_AddStringToObject(top, "training", qg_training_name(qg_recipe_training(p->recipe)));
    cJSON *list = cJSON_AddArrayToObject(top, "tensors");
    for (size_t i = 0; i < p->n; i++)
        cJSON_AddItemToArray(list, tensor_json(&p->of[i]));
    cJSON *sum = cJSON_AddObjectToObject(top, "totals");
    cJSON_AddNumberToObject(sum, "tensors", (double)t.tensors);
    cJSON_AddNumberToObject(sum, "quantized", (double)t.quantized);
    cJSON_AddNumberToObject(sum, "weights", t.weights);
    cJSON_AddNumberToObject(sum, "quantized_weights", t.quantized_weights);
    cJSON_AddNumberToObject(sum, "bytes_before", t.before);
    cJSON_AddNumberToObject(sum, "bytes_after", t.after);
    cJSON_AddNumberToObject(sum, "quantized_bytes_after", t.quantized_after);
    cJSON_AddNumberToObject(sum, "bits_per_weight", bits_of(t.after, t.weights));
    cJSON_AddNumberToObject(sum, "quantized_bits_per_weight",
                            bits_of(t.quantized_after, t.quantized_weights));
    char *text = cJSON_Print(top);
    cJSON_Delete(top);
    if (!text)
        return QG_EXIT_HARD;
    puts(text);
    cJSON_free(text);
    return QG_EXIT_OK;
}

/* --- the commands ---------------------------------------------------------------------------- */

static int list_recipes(void)
{
    const struct qg_command *c = &qg_command_recipe;
    struct qg_error err;
    for (size_t i = 0; qg_recipe_at(i); i++) {
        struct qg_recipe *r;
        if (qg_recipe_open(qg_recipe_at(i), &r, &err) != QG_OK)
            return qg_report_error(c, &err);
        printf("%-26s %-14s %s\n", qg_recipe_name(r), qg_training_name(qg_recipe_training(r)),
               qg_recipe_summary(r));
        qg_recipe_close(&r);
    }
    return QG_EXIT_OK;
}

static int show_recipe(const char *name)
{
    const struct qg_command *c = &qg_command_recipe;
    struct qg_error err;
    struct qg_recipe *r;
    char line[512];
    if (qg_recipe_open(name, &r, &err) != QG_OK)
        return qg_report_error(c, &err);
    FILE *f = fopen(qg_recipe_path(r), "r");
    while (f && fgets(line, sizeof line, f))
        fputs(line, stdout);
    if (f)
        fclose(f);
    qg_recipe_close(&r);
    return QG_EXIT_OK;
}

static int check_recipe(const char *name, const char *path, bool json)
{
    struct qg_error err;
    struct qg_prescription p;
    int code = QG_EXIT_OK;
    if (qg_take_plan(name, path, &p, &err) != QG_OK)
        code = qg_report_error(&qg_command_recipe, &err);
    else if (json)
        code = print_json(&p.plan);
    else
        print_text(&p.plan);
    qg_drop_plan(&p);
    return code;
}

/* Whether `word` is the command, with as many operands as it wants. */
static bool is(const char *word, const char *command, int operands, int want)
{
    return strcmp(word, command) == 0 && operands == want;
}

static int run(int argc, char **argv)
{
    static const struct option longs[] = {{"format", required_argument, NULL, 'f'}, {0}};
    const struct qg_command *c = &qg_command_recipe;
    bool json = false;
    int code;
    for (int option; (option = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        if (option != 'f')
            return qg_usage_error(c, "bad option");
        json = strcmp(optarg, "json") == 0;
        if (!json && strcmp(optarg, "text") != 0)
            return qg_usage_error(c, "--format is text or json, not '%s'", optarg);
    }
    int operands = argc - optind - 1;
    char **word = argv + optind;
    if (operands < 0)
        return qg_usage_error(c, "say list, show or check");
    if (is(word[0], "list", operands, 0))
        code = list_recipes();
    else if (is(word[0], "show", operands, 1))
        code = show_recipe(word[1]);
    else if (is(word[0], "check", operands, 2))
        code = check_recipe(word[1], word[2], json);
    else
        return qg_usage_error(c, "it is `list`, `show RECIPE` or `check RECIPE MODEL`");
    return code == QG_EXIT_OK ? qg_finish_stdout(c, code) : code;
}

const struct qg_command qg_command_recipe = {
    .name = "recipe",
    .summary = "which scheme each tensor of a model gets: the plan, or why not",
    .help = help,
    .run = run,
};
