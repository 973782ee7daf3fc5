/* SPDX-License-Identifier: MIT
 *
 * qgauge merge: an adapter into a checkpoint, and what that costs.
 */
#define _GNU_SOURCE /* getopt_long */
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "harness/call.h"
#include "harness/cli/cli.h"
#include "harness/merge.h"
#include "harness/rewrite.h"
#include "harness/select.h"

const struct qg_command qg_command_merge;

struct options {
    const char *model, *adapter, *out, *scheme, *set, *by;
    enum qg_merge_way way;
    bool way_given, compare, json;
};

static const char help[] =
    "usage: qgauge merge MODEL ADAPTER -o OUT [--way WAY] [--scheme NAME [--set PARAMS]]\n"
    "       qgauge merge MODEL ADAPTER --compare [--scheme NAME [--set PARAMS]]\n"
    "\n"
    "Merges a LoRA or DoRA adapter, as peft saves it (adapter_config.json and\n"
    "adapter_model.safetensors), into the checkpoint that it was trained on, and says what that\n"
    "costs. MODEL is an unquantized checkpoint, a safetensors file or a folder; OUT becomes the\n"
    "same with other numbers in the adapter's matrices, all else bit for bit.\n"
    "\n"
    "  --way legacy      dequantize the base, add, quantize again with the same scheme (peft on a\n"
    "                    quantized model); OUT holds what the new codes are worth, in MODEL's\n"
    "                    dtypes\n"
    "  --way round-trip  every matrix of the model, touched or not, to NF4 and back, then add\n"
    "                    (axolotl, memory-efficient)\n"
    "  --way base        add to the unquantized weights (the default)\n"
    "  --by WHO          whose roundings in --way base: peft (the default) or unsloth\n"
    "  --scheme NAME     what the base was quantized with in training (nf4-bnb-double)\n"
    "  --set PARAMS      its parameters, as \"group=128 ...\"\n"
    "  --compare         all three ways side by side; nothing is written\n"
    "  --format WORD     text (default) or json\n"
    "\n"
    "The measure is the unmerged adapter on the quantized base that it was trained on, W^ + s B A\n"
    "in double (DoRA: its rows scaled to m):\n"
    "  weight      SQNR of the merged matrix against it\n"
    "  output      the same of x W^T for 16 seeded Gaussian rows x\n"
    "  delta       the adapter's delta against the error of merging it: below 0 dB the merge\n"
    "              changes the layer more than the training did\n"
    "  swallowed   elements that the merge moved by less than half of their delta in its\n"
    "              direction, (M - M0) D < D^2 / 2; in a BF16 model the rounding of M alone\n"
    "              swallows small deltas\n"
    "  lost        the part of the delta that did not arrive: 1 - <M - M0, D> / |D|^2\n"
    "M is the merged matrix, M0 what the delta D was added to, both rounded to MODEL's dtype. A "
    "row\n"
    "that is not finite, as DoRA makes it of a norm of 0, is left out of the figures and counted.\n"
    "\n"
    "Exit 0; 1 when MODEL or ADAPTER is not what it says it is or the one does not belong to the\n"
    "other; 2 when an adapter, scheme or model cannot be merged.\n";

/* --- the two together ------------------------------------------------------------------------ */

/* Where the rows go: to the terminal as they come, or into an object for the end. */
struct table {
    cJSON *root, *matrices, *totals; /* NULL: text */
    int width;
};

struct job {
    const struct options *o;
    struct qg_model *model;
    struct qg_adapter adapter;
    struct qg_merge how;
    struct table table;
    struct qg_merge_cost total;
    size_t rest; /* tensors that the adapter leaves alone and NF4 does not */
};

/* The weight of a pair's module. */
static const struct qg_model_tensor *weight_of(const struct job *j, const char *module,
                                               struct qg_error *err)
{
    char name[1024];
    const struct qg_model_tensor *t = NULL;
    if (snprintf(name, sizeof name, "%s.weight", module) < (int)sizeof name)
        t = qg_model_find(j->model, name);
    if (!t) {
        bool head = qg_model_tied(j->model) && strstr(module, "lm_head");
        qg_fail(err, QG_EFORMAT, "the adapter has a pair for '%s', the model no tensor '%s'%s",
                module, name,
                head ? ": its head is the embedding table (tie_word_embeddings); untie it first"
                     : ": the adapter belongs to another model, or to one saved with other names");
    } else if (!qg_is_weight(&t->t)) {
        qg_fail(err, QG_EINVAL,
                "'%s' is %s of rank %d: adapters are merged into matrices of F32, "
                "BF16 or F16",
                name, t->dtype_word, t->rank);
        t = NULL;
    }
    return t;
}

/* The pair whose weight that tensor is; NULL when it has none. */
static const struct qg_adapter_pair *pair_of(const struct job *j, const char *name)
{
    static const char ending[] = ".weight";
    size_t n = strlen(name), e = sizeof ending - 1;
    if (n < e || strcmp(name + n - e, ending) != 0)
        return NULL;
    for (size_t i = 0; i < j->adapter.n; i++) {
        const char *module = j->adapter.pair[i].module;
        if (strlen(module) == n - e && memcmp(module, name, n - e) == 0)
            return &j->adapter.pair[i];
    }
    return NULL;
}

/* --- what is printed ------------------------------------------------------------------------- */

static void print_head(int width)
{
    printf("%-*s  %-10s %9s %9s %9s %10s %9s\n", width, "matrix", "way", "weight dB", "output dB",
           "delta dB", "swallowed", "lost");
}

static void print_row(int width, const char *name, enum qg_merge_way way,
                      const struct qg_merge_cost *c)
{
    struct qg_merge_figures f = qg_merge_figures(c);
    printf("%-*s  %-10s %9.2f %9.2f %9.2f %8.3f %% %7.3f %%", width, name, qg_merge_way_name(way),
           f.weight_db, f.output_db, f.delta_db, 100 * f.swallowed, 100 * f.lost);
    if (c->left_out)
        printf("  rows without a finite norm, left out: %" PRIu64, c->left_out);
    putchar('\n');
}

/* JSON has no inf and no NaN: null. */
static void add_figures(cJSON *o, const struct qg_merge_cost *c)
{
    struct qg_merge_figures f = qg_merge_figures(c);
    cJSON_AddNumberToObject(o, "elements", (double)c->count);
    cJSON_AddNumberToObject(o, "weight_sqnr_db", f.weight_db);
    cJSON_AddNumberToObject(o, "output_sqnr_db", f.output_db);
    cJSON_AddNumberToObject(o, "delta_to_error_db", f.delta_db);
    cJSON_AddNumberToObject(o, "swallowed", f.swallowed);
    cJSON_AddNumberToObject(o, "lost", f.lost);
    cJSON_AddNumberToObject(o, "rows_left_out", (double)c->left_out);
}

static cJSON *json_row(cJSON *list, const char *name, enum qg_merge_way way)
{
    cJSON *row = cJSON_CreateObject();
    cJSON_AddStringToObject(row, "name", name);
    cJSON_AddStringToObject(row, "way", qg_merge_way_name(way));
    cJSON_AddItemToArray(list, row);
    return row;
}

static void show(const struct table *t, bool total, const char *name, enum qg_merge_way way,
                 const struct qg_merge_cost *c)
{
    if (t->root)
        add_figures(json_row(total ? t->totals : t->matrices, name, way), c);
    else
        print_row(t->width, name, way, c);
}

static void show_refusal(const struct table *t, const char *name, enum qg_merge_way way,
                         const struct qg_error *err)
{
    if (t->root)
        cJSON_AddStringToObject(json_row(t->matrices, name, way), "refused", err->message);
    else
        printf("%-*s  %-10s refused: %s\n", t->width, name, qg_merge_way_name(way), err->message);
}

static struct table begin_table(const struct job *j)
{
    struct table t = {.width = 5};
    for (size_t i = 0; i < j->adapter.n; i++)
        if ((int)strlen(j->adapter.pair[i].module) > t.width)
            t.width = (int)strlen(j->adapter.pair[i].module);
    if (!j->o->json) {
        printf("base in training: %s%s%s; %zu matrices\n\n", j->how.scheme->name,
               *j->how.params ? " " : "", j->how.params, j->adapter.n);
        print_head(t.width);
        return t;
    }
    t.root = cJSON_CreateObject();
    cJSON_AddStringToObject(t.root, "scheme", j->how.scheme->name);
    cJSON_AddStringToObject(t.root, "params", j->how.params);
    t.matrices = cJSON_AddArrayToObject(t.root, "matrices");
    t.totals = cJSON_AddArrayToObject(t.root, "totals");
    return t;
}

static void end_table(const struct table *t)
{
    char *text = t->root ? cJSON_Print(t->root) : NULL;
    if (text)
        puts(text);
    free(text);
    cJSON_Delete(t->root);
}

/* --- the command ----------------------------------------------------------------------------- */

/* One pair in all ways. */
static enum qg_status compare_pair(struct job *j, const struct qg_adapter_pair *p,
                                   const struct qg_tensor *w, void *merged,
                                   struct qg_merge_cost *total, struct qg_error *err)
{
    for (int way = 0; way < QG_MERGE_WAYS; way++) {
        struct qg_merge_cost one = {0};
        j->how.way = (enum qg_merge_way)way;
        enum qg_status status = qg_merge_matrix(&j->how, p, w, merged, &one, err);
        if (status == QG_OK) {
            show(&j->table, false, p->module, j->how.way, &one);
            qg_merge_cost_add(&total[way], &one);
        } else if (status == QG_EINVAL)
            show_refusal(&j->table, p->module, j->how.way, err);
        else
            return status;
    }
    return QG_OK;
}

static enum qg_status compare_ways(struct job *j, struct qg_error *err)
{
    struct qg_merge_cost total[QG_MERGE_WAYS] = {{0}};
    const struct qg_model_tensor *t;
    for (size_t i = 0; (t = qg_model_at(j->model, i)); i++) {
        const struct qg_adapter_pair *p = pair_of(j, t->t.name);
        if (!p)
            continue;
        struct qg_tensor w = t->t;
        void *merged = malloc(t->bytes);
        w.data = malloc(t->bytes);
        enum qg_status status = w.data && merged
                                    ? qg_model_load(j->model, t, w.data, err)
                                    : qg_fail(err, QG_ENOMEM, "no memory for '%s'", t->t.name);
        if (status == QG_OK)
            status = compare_pair(j, p, &w, merged, total, err);
        free(w.data);
        free(merged);
        if (status != QG_OK)
            return status;
    }
    for (int way = 0; way < QG_MERGE_WAYS; way++)
        if (total[way].count || total[way].left_out)
            show(&j->table, true, "total", (enum qg_merge_way)way, &total[way]);
    return QG_OK;
}

static enum qg_status merge_tensor(struct job *j, const struct qg_adapter_pair *p,
                                   const struct qg_tensor *w, struct qg_error *err)
{
    struct qg_merge_cost one = {0};
    void *merged = malloc(qg_bytes(w));
    if (!merged)
        return qg_fail(err, QG_ENOMEM, "no memory for '%s'", w->name);
    enum qg_status status = qg_merge_matrix(&j->how, p, w, merged, &one, err);
    if (status == QG_OK) {
        memcpy(w->data, merged, qg_bytes(w));
        show(&j->table, false, p->module, j->how.way, &one);
        qg_merge_cost_add(&j->total, &one);
    }
    free(merged);
    return status;
}

/* What becomes of a tensor; a qg_rewrite_fn. */
static enum qg_status change(const struct qg_model_tensor *t, void *data, void *user,
                             struct qg_error *err)
{
    struct job *j = user;
    struct qg_tensor w = t->t;
    const struct qg_adapter_pair *p = pair_of(j, t->t.name);
    w.data = data;
    if (p)
        return merge_tensor(j, p, &w, err);
    if (j->how.way != QG_MERGE_ROUND_TRIP || t->rank < 2 || t->bytes == 0)
        return QG_OK;
    if (w.dtype != QG_F32 && w.dtype != QG_BF16 && w.dtype != QG_F16)
        return qg_fail(err, QG_EINVAL,
                       "'%s' is %s of rank %d: the way through NF4 takes F32, BF16 and F16",
                       t->t.name, t->dtype_word, t->rank);
    j->rest++;
    return qg_merge_round_trip(&w, err);
}

static enum qg_status merge_to_file(struct job *j, struct qg_error *err)
{
    if (qg_rewrite(j->model, j->o->model, j->o->out, change, j, err) != QG_OK)
        return err->status;
    show(&j->table, true, "total", j->how.way, &j->total);
    if (j->table.root)
        return QG_OK;
    if (j->rest)
        printf("%zu further tensors went through NF4 and back, as axolotl has it\n", j->rest);
    printf("%s is written: %zu of %zu tensors are new\n", j->o->out, j->adapter.n + j->rest,
           qg_model_count(j->model));
    return QG_OK;
}

/* Everything that can be said before any work. */
static enum qg_status check_job(const struct job *j, struct qg_error *err)
{
    const char *method = qg_model_quant_method(j->model);
    if (qg_model_format(j->model) != QG_MODEL_SAFETENSORS)
        return qg_fail(err, QG_EINVAL,
                       "'%s' is a GGUF file, whose names are not those of adapters; merge into the "
                       "Hugging Face checkpoint and convert that",
                       j->o->model);
    if (method)
        return qg_fail(
            err, QG_EINVAL,
            "'%s' is quantized already (%s): merge into the unquantized checkpoint, with "
            "--scheme for what it was quantized with",
            j->o->model, method);
    for (size_t i = 0; i < j->adapter.n; i++)
        if (!weight_of(j, j->adapter.pair[i].module, err))
            return err->status;
    return QG_OK;
}

static enum qg_status run_job(struct job *j, struct qg_error *err)
{
    const struct options *o = j->o;
    if (qg_model_open(o->model, &j->model, err) != QG_OK ||
        qg_adapter_open(o->adapter, &j->adapter, err) != QG_OK || check_job(j, err) != QG_OK)
        return err->status;
    j->how.fan_in_fan_out = j->adapter.fan_in_fan_out;
    j->table = begin_table(j);
    enum qg_status status = o->compare ? compare_ways(j, err) : merge_to_file(j, err);
    end_table(&j->table);
    return status;
}

static int take_option(struct options *o, int option)
{
    const struct qg_command *c = &qg_command_merge;
    switch (option) {
    case 'o':
        o->out = optarg;
        return QG_EXIT_OK;
    case 's':
        o->scheme = optarg;
        return QG_EXIT_OK;
    case 'p':
        o->set = optarg;
        return QG_EXIT_OK;
    case 'c':
        o->compare = true;
        return QG_EXIT_OK;
    case 'b':
        o->by = optarg;
        return strcmp(optarg, "peft") == 0 || strcmp(optarg, "unsloth") == 0
                   ? QG_EXIT_OK
                   : qg_usage_error(c, "--by is peft or unsloth, not '%s'", optarg);
    case 'w':
        o->way = qg_merge_way_parse(optarg);
        o->way_given = true;
        return o->way < QG_MERGE_WAYS
                   ? QG_EXIT_OK
                   : qg_usage_error(c, "--way is legacy, round-trip or base, not '%s'", optarg);
    case 'f':
        o->json = strcmp(optarg, "json") == 0;
        return o->json || strcmp(optarg, "text") == 0
                   ? QG_EXIT_OK
                   : qg_usage_error(c, "--format is text or json, not '%s'", optarg);
    default:
        return qg_usage_error(c, "bad option");
    }
}

/* What does not go together. */
static int check_options(const struct options *o)
{
    const struct qg_command *c = &qg_command_merge;
    if (!o->adapter)
        return qg_usage_error(c, "a model and an adapter are needed");
    if (o->compare && (o->out || o->way_given))
        return qg_usage_error(c, "--compare takes all ways and writes nothing: no -o, no --way");
    if (!o->compare && !o->out)
        return qg_usage_error(c, "-o OUT is needed, or --compare");
    if (o->by && !o->compare && o->way != QG_MERGE_BASE)
        return qg_usage_error(c, "--by is of --way base: the other ways are peft's and axolotl's");
    if (o->set && !o->scheme)
        return qg_usage_error(c, "--set needs --scheme: parameters belong to a scheme");
    return QG_EXIT_OK;
}

static int run(int argc, char **argv)
{
    static const struct option longs[] = {
        {"scheme", required_argument, NULL, 's'},
        {"set", required_argument, NULL, 'p'},
        {"way", required_argument, NULL, 'w'},
        {"by", required_argument, NULL, 'b'},
        {"compare", no_argument, NULL, 'c'},
        {"format", required_argument, NULL, 'f'},
        {0},
    };
    const struct qg_command *c = &qg_command_merge;
    struct options o = {.way = QG_MERGE_BASE};
    struct qg_args a = {0};
    struct qg_error err;
    int code = QG_EXIT_OK;
    for (int option;
         code == QG_EXIT_OK && (option = getopt_long(argc, argv, "o:", longs, NULL)) != -1;)
        code = take_option(&o, option);
    if (code != QG_EXIT_OK)
        return code;
    if (optind + 2 < argc)
        return qg_usage_error(c, "'%s' is one argument too many", argv[optind + 2]);
    o.model = optind < argc ? argv[optind] : NULL;
    o.adapter = optind + 1 < argc ? argv[optind + 1] : NULL;
    code = check_options(&o);
    if (code != QG_EXIT_OK)
        return code;
    struct job j = {.o = &o};
    j.how = (struct qg_merge){.way = o.way,
                              .scheme = qg_take_scheme(c, o.scheme ? o.scheme : "nf4-bnb-double"),
                              .params = o.set ? o.set : "",
                              .layer = o.by && strcmp(o.by, "unsloth") == 0 ? "merge-unsloth"
                                                                            : "merge-peft"};
    if (!j.how.scheme)
        return QG_EXIT_USAGE;
    qg_params_default(&a, j.how.scheme);
    if (qg_params_parse(&a, j.how.scheme, j.how.params, &err) != QG_OK)
        return qg_report_error(c, &err);
    if (run_job(&j, &err) != QG_OK)
        code = qg_report_error(c, &err);
    qg_adapter_close(&j.adapter);
    qg_model_close(&j.model);
    return qg_finish_stdout(c, code);
}

const struct qg_command qg_command_merge = {
    .name = "merge",
    .summary = "an adapter into a checkpoint, in the three ways in use, and what each costs",
    .help = help,
    .run = run,
};
