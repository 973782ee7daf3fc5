/* SPDX-License-Identifier: MIT
 *
 * qgauge convert: a whole checkpoint by a recipe, in the layout that a public loader takes.
 */
#define _GNU_SOURCE /* getopt_long */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness/base/processors.h"
#include "harness/bench.h"
#include "harness/case.h"
#include "harness/cli/cli.h"
#include "harness/cli/version.h"
#include "harness/convert/convert.h"
#include "harness/io/writer.h"
#include "harness/result.h"

const struct qg_command qg_command_convert;

enum { MOST_THREADS = 256 };

struct request {
    const char *model, *recipe, *scheme, *set, *tensors, *out, *layout, *results;
    uint64_t shard, threads;
    bool force, resume, table, json, list;
};

/* What a conversion holds on to while it lasts. */
struct session {
    const struct request *q;
    double start, shown; /* seconds: of the beginning, of the last bar */
    bool bar;
    cJSON *rows;             /* with --format json */
    struct qg_shipped *kept; /* with --results: a row per tensor */
    size_t n_kept;
};

/* --- progress and table ---------------------------------------------------------------------- */

static void clear_bar(const struct session *s)
{
    if (s->bar)
        qg_bar_clear();
}

static bool progress(void *user, const struct qg_assignment *as, double done, double fresh,
                     double total)
{
    struct session *s = user;
    char amount[64];
    double now = qg_clock_now();
    if (!s->bar || now - s->shown < 0.1)
        return qg_signal_seen() != 0;
    double each = fresh > 0 ? (now - s->start) / fresh : (double)NAN;
    snprintf(amount, sizeof amount, "%.1f/%.1f MiB", done / 0x1p20, total / 0x1p20);
    qg_bar_draw(total > 0 ? done / total : 1, amount, each * (total - done), as->name);
    s->shown = now;
    return qg_signal_seen() != 0;
}

static void note(void *user, const char *sentence)
{
    clear_bar(user);
    fprintf(stderr, "qgauge convert: %s\n", sentence);
}

static void add_number(cJSON *o, const char *key, double x)
{
    if (isfinite(x))
        cJSON_AddNumberToObject(o, key, x);
    else // JSON has no word for it
        cJSON_AddStringToObject(o, key, isnan(x) ? "nan" : x > 0 ? "inf" : "-inf");
}

static double elements(const struct qg_assignment *as)
{
    double n = 1;
    for (int d = 0; d < as->tensor->rank; d++)
        n *= (double)as->tensor->shape[d];
    return n;
}

static void add_row(struct session *s, const struct qg_converted *c)
{
    const struct qg_assignment *as = c->as;
    cJSON *row = cJSON_CreateObject();
    cJSON_AddItemToArray(s->rows, row);
    cJSON_AddStringToObject(row, "tensor", as->name);
    cJSON_AddNumberToObject(row, "bytes", (double)c->bytes);
    cJSON_AddNumberToObject(row, "bytes_before", (double)as->tensor->bytes);
    add_number(row, "bits_per_weight", (double)c->bytes * 8 / elements(as));
    if (!as->convert.scheme)
        return;
    cJSON_AddStringToObject(row, "scheme", as->convert.scheme->name);
    cJSON_AddStringToObject(row, "params", as->convert.params);
    add_number(row, "sqnr_db", c->quality.sqnr_db);
    cJSON *worst = cJSON_AddObjectToObject(row, "worst_block");
    add_number(worst, "sqnr_db", c->quality.worst_db);
    cJSON_AddNumberToObject(worst, "row", (double)c->quality.worst_row);
    cJSON_AddNumberToObject(worst, "column", (double)c->quality.worst_col);
    cJSON_AddNumberToObject(worst, "columns", (double)c->quality.worst_cols);
}

static void keep_row(struct session *s, const struct qg_converted *c)
{
    const struct qg_assignment *as = c->as;
    struct qg_shipped *r = &s->kept[s->n_kept++];
    *r = (struct qg_shipped){.rows = as->rows,
                             .cols = as->cols,
                             .bytes_before = as->name == as->tensor->t.name ? as->tensor->bytes : 0,
                             .bytes = c->bytes,
                             .sqnr_db = c->quality.sqnr_db,
                             .worst_db = c->quality.worst_db,
                             .worst_row = c->quality.worst_row,
                             .worst_col = c->quality.worst_col,
                             .worst_cols = c->quality.worst_cols};
    snprintf(r->tensor, sizeof r->tensor, "%s", as->name);
    snprintf(r->scheme, sizeof r->scheme, "%s", as->convert.scheme ? as->convert.scheme->name : "");
    snprintf(r->params, sizeof r->params, "%s", as->convert.params);
    snprintf(r->kernel, sizeof r->kernel, "%s", c->kernel);
    snprintf(r->layout, sizeof r->layout, "%s", c->layout->name);
    snprintf(r->dtype, sizeof r->dtype, "%s",
             as->convert.scheme ? qg_dtype_name(as->dtype) : as->tensor->dtype_word);
}

/* --force replaces result files by a result file, and nothing else. */
static enum qg_status check_results(const struct request *q, struct qg_error *err)
{
    struct qg_result *old = NULL;
    struct qg_error ignored;
    if (strcmp(q->results, q->out) == 0)
        return qg_fail(err, QG_EINVAL, "--results %s: -o is the same", q->results);
    if (qg_may_write(q->results, q->force, err) != QG_OK)
        return err->status;
    bool is = access(q->results, F_OK) != 0 || qg_result_open(q->results, &old, &ignored) == QG_OK;
    qg_result_free(&old);
    return is ? QG_OK
              : qg_fail(err, QG_EINVAL,
                        "--results %s: it exists and is no result file, nothing was written",
                        q->results);
}

static enum qg_status write_results(const struct session *s, struct qg_error *err)
{
    const struct request *q = s->q;
    struct qg_result_writer *w;
    struct qg_meta meta = {0};
    qg_describe_program(&meta);
    qg_meta_set(&meta, "suite", "convert");
    qg_meta_set(&meta, "weights", q->model);
    qg_meta_set(&meta, "recipe", q->recipe ? q->recipe : q->scheme);
    if (qg_result_create(q->results, &meta, false, q->force ? QG_RESULT_REPLACE : QG_RESULT_NEW, &w,
                         err) != QG_OK)
        return err->status;
    enum qg_status status = QG_OK;
    for (size_t i = 0; i < s->n_kept && status == QG_OK; i++)
        status = qg_result_append_row(w, QG_TABLE_CONVERT, &s->kept[i], err);
    if (status == QG_OK)
        return qg_result_close(&w, err);
    qg_result_abandon(&w);
    return status;
}

static enum qg_status each(void *user, const struct qg_converted *c, struct qg_error *err)
{
    struct session *s = user;
    const struct qg_quality *q = &c->quality;
    (void)err;
    if (c->as->convert.scheme && (s->kept || s->rows || s->q->table) && q->sqnr_db != q->sqnr_db) {
        clear_bar(s);
        fprintf(
            stderr,
            "qgauge convert: '%s' has no SQNR: it, or what became of it, holds NaN or infinity, "
            "or is zero everywhere\n",
            c->as->name);
    }
    if (s->kept)
        keep_row(s, c);
    if (s->rows)
        add_row(s, c);
    else if (s->q->table) {
        char scheme[160];
        clear_bar(s);
        snprintf(scheme, sizeof scheme, "%s %s",
                 c->as->convert.scheme ? c->as->convert.scheme->name : "-", c->as->convert.params);
        printf("%-52s %-16s %12zu %6.3f", c->as->name, scheme, c->bytes,
               (double)c->bytes * 8 / elements(c->as));
        if (c->as->convert.scheme)
            printf(" %8.2f %8.2f  [%zu, %zu..%zu]", q->sqnr_db, q->worst_db, q->worst_row,
                   q->worst_col, q->worst_col + q->worst_cols);
        putchar('\n');
        fflush(stdout);
    }
    return QG_OK;
}

/* --- options --------------------------------------------------------------------------------- */

enum {
    OPT_RECIPE = 1,
    OPT_SCHEME,
    OPT_SET,
    OPT_TENSORS,
    OPT_LAYOUT,
    OPT_SHARD,
    OPT_THREADS,
    OPT_FORCE,
    OPT_RESUME,
    OPT_RESULTS,
    OPT_TABLE,
    OPT_FORMAT,
    OPT_LIST,
};

static const struct option options[] = {
    {"recipe", required_argument, NULL, OPT_RECIPE},
    {"scheme", required_argument, NULL, OPT_SCHEME},
    {"set", required_argument, NULL, OPT_SET},
    {"tensors", required_argument, NULL, OPT_TENSORS},
    {"layout", required_argument, NULL, OPT_LAYOUT},
    {"shard-size", required_argument, NULL, OPT_SHARD},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"force", no_argument, NULL, OPT_FORCE},
    {"resume", no_argument, NULL, OPT_RESUME},
    {"results", required_argument, NULL, OPT_RESULTS},
    {"table", no_argument, NULL, OPT_TABLE},
    {"format", required_argument, NULL, OPT_FORMAT},
    {"layouts", no_argument, NULL, OPT_LIST},
    {"output", required_argument, NULL, 'o'},
    {NULL, 0, NULL, 0},
};

/* "5GB", "300MB", "1000000": decimal, as Hugging Face counts. */
static bool size_parse(const char *text, uint64_t *ret)
{
    static const struct {
        const char *unit;
        double factor;
    } units[] = {{"", 1}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}};
    char *end;
    double x = strtod(text, &end);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (end != text && strcmp(end, units[i].unit) == 0 && x * units[i].factor >= 1 &&
            x * units[i].factor < 0x1p53) {
            *ret = (uint64_t)(x * units[i].factor);
            return true;
        }
    return false;
}

static int take(struct request *q, int option)
{
    const struct qg_command *c = &qg_command_convert;
    switch (option) {
    case OPT_RECIPE:
        q->recipe = optarg;
        return QG_EXIT_OK;
    case OPT_SCHEME:
        q->scheme = optarg;
        return QG_EXIT_OK;
    case OPT_SET:
        q->set = optarg;
        return QG_EXIT_OK;
    case OPT_TENSORS:
        q->tensors = optarg;
        return QG_EXIT_OK;
    case OPT_LAYOUT:
        q->layout = optarg;
        return QG_EXIT_OK;
    case OPT_SHARD:
        return size_parse(optarg, &q->shard)
                   ? QG_EXIT_OK
                   : qg_usage_error(c, "'%s' is not a size: write 5GB, 300MB or bytes", optarg);
    case OPT_THREADS:
        return qg_whole_parse(optarg, MOST_THREADS, &q->threads) && q->threads
                   ? QG_EXIT_OK
                   : qg_usage_error(c, "'%s' is not a number of threads: 1 to %d", optarg,
                                    MOST_THREADS);
    case OPT_FORCE:
        q->force = true;
        return QG_EXIT_OK;
    case OPT_RESUME:
        q->resume = true;
        return QG_EXIT_OK;
    case OPT_RESULTS:
        q->results = optarg;
        return QG_EXIT_OK;
    case OPT_TABLE:
        q->table = true;
        return QG_EXIT_OK;
    case OPT_FORMAT:
        q->json = strcmp(optarg, "json") == 0;
        return q->json || strcmp(optarg, "text") == 0
                   ? QG_EXIT_OK
                   : qg_usage_error(c, "--format is text or json, not '%s'", optarg);
    case OPT_LIST:
        q->list = true;
        return QG_EXIT_OK;
    case 'o':
        q->out = optarg;
        return QG_EXIT_OK;
    default:
        return qg_usage_error(c, "bad option");
    }
}

static int parse(struct request *q, int argc, char **argv)
{
    const struct qg_command *c = &qg_command_convert;
    int option;
    *q = (struct request){.shard = 5000000000u, .threads = (uint64_t)qg_processors()};
    optind = 1;
    while ((option = getopt_long(argc, argv, "o:", options, NULL)) != -1) {
        int code = take(q, option);
        if (code != QG_EXIT_OK)
            return code;
    }
    if (q->list)
        return QG_EXIT_OK;
    if (optind + 1 != argc)
        return optind == argc ? qg_usage_error(c, "which model? give a folder or a file")
                              : qg_usage_error(c, "'%s' is one word too many", argv[optind + 1]);
    q->model = argv[optind];
    if (!q->out || !*q->out)
        return qg_usage_error(c, "where to? give -o FOLDER, FILE.safetensors or FILE.gguf");
    if (!q->recipe == !q->scheme)
        return qg_usage_error(c, "give either --recipe or --scheme");
    if (!q->scheme && (q->set || q->tensors))
        return qg_usage_error(c, "--set and --tensors need --scheme");
    return QG_EXIT_OK;
}

static void list_layouts(void)
{
    const struct qg_layout *l;
    for (size_t i = 0; (l = qg_layout_at(i)); i++)
        printf("%-20s %-12s %s\n%33s %s\n", l->name,
               l->container == QG_MODEL_GGUF ? "gguf" : "safetensors", l->summary, "", l->source);
}

/* --- converting ------------------------------------------------------------------------------ */

static int summarize(const struct session *s, const struct qg_convert_summary *m)
{
    double seconds = qg_clock_now() - s->start;
    char earlier[64] = "";
    if (m->earlier)
        snprintf(earlier, sizeof earlier, ", %zu of them by an earlier run", m->earlier);
    if (s->q->json) {
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "layout", m->layout->name);
        cJSON_AddNumberToObject(o, "files", (double)m->files);
        cJSON_AddNumberToObject(o, "converted", (double)m->converted);
        cJSON_AddNumberToObject(o, "copied", (double)m->copied);
        cJSON_AddNumberToObject(o, "bytes_before", (double)m->bytes_in);
        cJSON_AddNumberToObject(o, "bytes", (double)m->bytes_out);
        cJSON_AddItemReferenceToObject(o, "tensors", s->rows);
        char *text = cJSON_Print(o);
        puts(text ? text : "");
        cJSON_free(text);
        cJSON_Delete(o);
    } else
        printf("%s: %zu tensors converted, %zu copied%s; %.1f -> %.1f MiB in %zu file%s, layout %s "
               "(%.1f s)\n",
               s->q->out, m->converted, m->copied, earlier, (double)m->bytes_in / 0x1p20,
               (double)m->bytes_out / 0x1p20, m->files, m->files == 1 ? "" : "s", m->layout->name,
               seconds);
    return qg_finish_stdout(&qg_command_convert, QG_EXIT_OK);
}

static int convert(struct session *s, const struct qg_recipe_plan *plan)
{
    const struct request *q = s->q;
    struct qg_convert_summary summary;
    struct qg_error err;
    const struct qg_convert_options o = {.model = q->model,
                                         .out = q->out,
                                         .layout = q->layout,
                                         .version = QG_VERSION " " QG_COMMIT,
                                         .shard = q->shard,
                                         .threads = (int)q->threads,
                                         .force = q->force,
                                         .resume = q->resume,
                                         .measure = q->table || q->json || q->results,
                                         .progress = progress,
                                         .each = each,
                                         .note = note,
                                         .user = s};
    if (q->results && check_results(q, &err) != QG_OK)
        return qg_report_error(&qg_command_convert, &err);
    if (!q->layout && qg_output_kind_of(q->out) != QG_OUTPUT_GGUF &&
        qg_layout_check(qg_layout_find("gguf"), plan, &err) == QG_OK)
        note(s, "these are GGUF's types: with -o NAME.gguf they become a GGUF file");
    if (q->table && !q->json)
        printf("%-52s %-16s %12s %6s %8s %8s  %s\n", "tensor", "scheme", "bytes", "bits", "SQNR dB",
               "worst dB", "block");
    enum qg_status status = qg_convert(plan, &o, &summary, &err);
    clear_bar(s);
    if (status == QG_OK && !summary.stopped && s->kept)
        status = write_results(s, &err);
    if (status == QG_OK && !summary.stopped)
        return summarize(s, &summary);
    fflush(stdout);
    int code =
        status == QG_OK ? 128 + qg_signal_seen() : qg_report_error(&qg_command_convert, &err);
    if (summary.kept)
        fprintf(stderr,
                "qgauge convert: %s%s.part holds what is done; the same command with --resume goes "
                "on\n",
                summary.stopped ? "stopped by a signal; " : "", q->out);
    return code;
}

static int run_plan(const struct request *q, const struct qg_recipe_plan *plan)
{
    struct session s = {.q = q, .start = qg_clock_now(), .bar = qg_bar_wanted()};
    s.rows = q->json ? cJSON_CreateArray() : NULL;
    s.kept = q->results ? calloc(plan->n + 1, sizeof *s.kept) : NULL;
    qg_catch_signals();
    int code = convert(&s, plan);
    cJSON_Delete(s.rows);
    free(s.kept);
    return code;
}

static enum qg_status open_recipe(const struct request *q, const struct qg_scheme *s,
                                  struct qg_recipe **ret_r, struct qg_error *err)
{
    return s ? qg_recipe_make(s, q->set, q->tensors, ret_r, err)
             : qg_recipe_open(q->recipe, ret_r, err);
}

static int run(int argc, char **argv)
{
    const struct qg_command *c = &qg_command_convert;
    struct request q;
    struct qg_error err;
    struct qg_prescription p = {0};
    int code = parse(&q, argc, argv);
    if (code != QG_EXIT_OK)
        return code;
    if (q.list)
        return list_layouts(), qg_finish_stdout(c, QG_EXIT_OK);
    const struct qg_scheme *s = q.scheme ? qg_take_scheme(c, q.scheme) : NULL;
    if (q.scheme && !s)
        return QG_EXIT_USAGE;
    if (open_recipe(&q, s, &p.recipe, &err) != QG_OK || qg_take_model(&p, q.model, &err) != QG_OK)
        code = qg_report_error(c, &err);
    else
        code = run_plan(&q, &p.plan);
    qg_drop_plan(&p);
    return code;
}

const struct qg_command qg_command_convert = {
    .name = "convert",
    .summary = "quantize a whole checkpoint, in the layout of a public loader",
    .help =
        "usage: qgauge convert MODEL --recipe RECIPE -o OUT\n"
        "       qgauge convert MODEL --scheme NAME [--set \"NAME=VALUE ...\"] [--tensors REGEX] "
        "-o OUT\n"
        "       qgauge convert --layouts\n"
        "\n"
        "MODEL is a safetensors file, a Hugging Face folder or a GGUF file; OUT a folder, or a "
        "file\n"
        "that ends in .safetensors or .gguf. OUT appears whole or not at all; until then it is "
        "OUT.part.\n"
        "\n"
        "  --recipe RECIPE   the scheme of each tensor: a shipped recipe or a .yaml file (qgauge "
        "recipe)\n"
        "  --scheme NAME     instead: this scheme for the weights of all linear layers but the "
        "head\n"
        "  --set PARAMS      with these parameters\n"
        "  --tensors REGEX   instead for the matrices whose name matches (POSIX extended)\n"
        "  --layout NAME     how planes are named and laid out; otherwise the first that can hold\n"
        "                    them all (qgauge convert --layouts)\n"
        "  --shard-size N    most bytes in a file of a folder: 5GB (default), 300MB, ...\n"
        "  --threads N       default: one per processor; the output does not depend on it\n"
        "  --table           per tensor: scheme, bytes, bits per weight, SQNR, and the worst of "
        "the\n"
        "                    blocks that share a scale, as [row, columns]\n"
        "  --format json     all of that as JSON\n"
        "  --results R.h5    all of that into a result file, table /convert (qgauge export\n"
        "                    --format json prints it)\n"
        "  --resume          go on where an interrupted conversion stopped\n"
        "  --force           replace OUT\n"
        "  -o, --output OUT\n"
        "\n"
        "Tensors that are not quantized are copied bit for bit. Of a folder the small files "
        "(tokenizer,\n"
        "generation_config.json) are copied, and config.json gets a quantization_config.\n"
        "Memory: the planes of one tensor, and a piece of rows per thread; the largest tensor "
        "itself,\n"
        "where it is copied or has a number of its own (a scale per tensor).\n"
        "\n"
        "Exit codes: 0 done, 1 the model is not what it should be, 2 usage, or the model and the "
        "plan do\n"
        "not go together, 99 a file could not be read or written, 130 Ctrl-C.\n",
    .run = run,
};
