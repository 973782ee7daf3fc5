/* SPDX-License-Identifier: MIT
 *
 * qgauge run: every case of a suite into a result file: untimed ones side by side, timed ones one
 * after the other.
 */
#define _GNU_SOURCE /* getopt_long */
#include <assert.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/atlas.h"
#include "harness/cli/cli.h"
#include "harness/cli/version.h"
#include "harness/crew.h"
#include "harness/gap.h"
#include "harness/judge.h"
#include "harness/plan.h"
#include "harness/resources.h"

extern const struct qg_command qg_command_run;

struct request {
    const char *suite, *weights, *out;
    struct qg_plan_options plan;
    uint64_t seed;
    bool no_time, resume, force, strict, list;
};

/* What a run holds on to. */
struct execution {
    const struct request *q;
    struct qg_plan plan;
    struct qg_model *weights;
    struct qg_result_writer *writer;
    double start;
    size_t done, fresh; /* cases behind us; of these, not from an earlier run */
    bool bar;
};

/* --- options --------------------------------------------------------------------------------- */

enum {
    OPT_SUITE = 1,
    OPT_MATCH,
    OPT_WEIGHTS,
    OPT_TENSORS,
    OPT_SEED,
    OPT_NO_TIME,
    OPT_RESUME,
    OPT_FORCE,
    OPT_STRICT,
    OPT_LIST
};

static const struct option options[] = {
    {"suite", required_argument, NULL, OPT_SUITE},
    {"match", required_argument, NULL, OPT_MATCH},
    {"weights", required_argument, NULL, OPT_WEIGHTS},
    {"tensors", required_argument, NULL, OPT_TENSORS},
    {"seed", required_argument, NULL, OPT_SEED},
    {"no-time", no_argument, NULL, OPT_NO_TIME},
    {"resume", no_argument, NULL, OPT_RESUME},
    {"force", no_argument, NULL, OPT_FORCE},
    {"strict", no_argument, NULL, OPT_STRICT},
    {"list", no_argument, NULL, OPT_LIST},
    {"output", required_argument, NULL, 'o'},
    {NULL, 0, NULL, 0},
};

static int take_option(struct request *q, int option)
{
    switch (option) {
    case OPT_SUITE:
        q->suite = optarg;
        return QG_EXIT_OK;
    case OPT_MATCH:
        q->plan.match = optarg;
        return QG_EXIT_OK;
    case OPT_WEIGHTS:
        q->weights = optarg;
        return QG_EXIT_OK;
    case OPT_TENSORS:
        q->plan.tensors = optarg;
        return QG_EXIT_OK;
    case OPT_SEED:
        q->plan.seed = &q->seed;
        if (qg_whole_parse(optarg, UINT64_MAX, &q->seed))
            return QG_EXIT_OK;
        return qg_usage_error(&qg_command_run, "'%s' is not a seed: a whole number", optarg);
    case OPT_NO_TIME:
        q->no_time = true;
        return QG_EXIT_OK;
    case OPT_RESUME:
        q->resume = true;
        return QG_EXIT_OK;
    case OPT_FORCE:
        q->force = true;
        return QG_EXIT_OK;
    case OPT_STRICT:
        q->strict = true;
        return QG_EXIT_OK;
    case OPT_LIST:
        q->list = true;
        return QG_EXIT_OK;
    case 'o':
        q->out = optarg;
        return QG_EXIT_OK;
    default:
        return qg_usage_error(&qg_command_run, "bad option");
    }
}

static int parse(struct request *q, int argc, char **argv)
{
    int option;
    *q = (struct request){.suite = "smoke"};
    optind = 1;
    while ((option = getopt_long(argc, argv, "o:", options, NULL)) != -1) {
        int code = take_option(q, option);
        if (code != QG_EXIT_OK)
            return code;
    }
    if (optind < argc)
        return qg_usage_error(&qg_command_run, "'%s' is one word too many", argv[optind]);
    if (!q->out && !q->list)
        return qg_usage_error(&qg_command_run, "where to? give -o results.h5");
    struct stat there;
    if (q->out && (!*q->out || (stat(q->out, &there) == 0 && S_ISDIR(there.st_mode))))
        return qg_usage_error(&qg_command_run, "-o '%s' is not a file name", q->out);
    if (q->plan.tensors && !q->weights)
        return qg_usage_error(&qg_command_run, "--tensors needs --weights");
    return QG_EXIT_OK;
}

/* --- progress -------------------------------------------------------------------------------- */

static void clear_bar(const struct execution *s)
{
    if (s->bar)
        qg_bar_clear();
}

static void draw_bar(const struct execution *s, const char *spelling)
{
    char amount[64];
    size_t n = s->plan.n;
    double each = s->fresh ? (qg_clock_now() - s->start) / (double)s->fresh : (double)NAN;
    if (!s->bar)
        return;
    snprintf(amount, sizeof amount, "%zu/%zu", s->done, n);
    qg_bar_draw((double)s->done / (double)n, amount, each * (double)(n - s->done), spelling);
}

static void print_case(const struct execution *s, const struct qg_record *r)
{
    if (r->verdict == QG_PASS)
        return;
    clear_bar(s);
    printf("%-10s qgauge repro '%s'  # %s\n", qg_verdict_name((enum qg_verdict)r->verdict),
           r->spelling, r->reason);
    fflush(stdout);
}

/* --- the cases ------------------------------------------------------------------------------- */

static enum qg_status keep(struct execution *s, struct qg_outcome *o, struct qg_error *err)
{
    size_t n = (size_t)o->times.n_warm + o->times.n_cold;
    enum qg_status status =
        qg_result_append(s->writer, &o->record, o->times.s, n, o->output, o->output_bytes, err);
    if (status == QG_OK)
        print_case(s, &o->record);
    free(o->output);
    s->fresh++;
    s->done++;
    return status;
}

static bool is_timed(const struct execution *s, const struct qg_planned *p)
{
    return p->timed && !s->q->no_time && s->plan.bench.budget_s > 0;
}

/* SIGINT and SIGTERM are blocked while a run lasts: they are looked at between cases. */
static int pending_signal(void)
{
    sigset_t set;
    sigpending(&set);
    return sigismember(&set, SIGINT) ? SIGINT : sigismember(&set, SIGTERM) ? SIGTERM : 0;
}

/* The cases that are still to do, timed or not, of a device or not. */
static size_t list_open(const struct execution *s, bool timed, bool device,
                        const struct qg_planned **list)
{
    size_t n = 0;
    for (size_t i = 0; i < s->plan.n; i++) {
        const struct qg_planned *p = &s->plan.cases[i];
        if (is_timed(s, p) == timed && (p->c.kernel->launch != NULL) == device &&
            !qg_result_has(s->writer, p->spelling))
            list[n++] = p;
    }
    return n;
}

static enum qg_status run_crew(struct execution *s, struct qg_crew *crew,
                               const struct qg_planned **list, size_t n, int *ret_signal,
                               struct qg_error *err)
{
    struct qg_outcome o;
    enum qg_status status = crew ? QG_OK : qg_fail(err, QG_ENOMEM, "no memory for a crew");
    for (size_t i = 0; i < n && status == QG_OK && !(*ret_signal = pending_signal()); i++) {
        draw_bar(s, list[i]->spelling);
        qg_crew_next(crew, &o);
        status = keep(s, &o, err);
    }
    if (crew)
        qg_crew_end(&crew);
    return status;
}

/* Side by side: nothing is measured here but bits, or a device measures. */
static enum qg_status run_beside(struct execution *s, const struct qg_planned **list, size_t n,
                                 bool timed, bool device, int *ret_signal, struct qg_error *err)
{
    const struct qg_bench untimed = {0};
    if (n == 0 || *ret_signal)
        return QG_OK;
    return run_crew(
        s,
        device ? qg_crew_on_device(list, n, timed ? &s->plan.bench : &untimed, s->plan.timeout_s)
               : qg_crew_start(list, n, s->plan.timeout_s),
        list, n, ret_signal, err);
}

/* One at a time, on a machine that does nothing else of ours. */
static enum qg_status run_timed(struct execution *s, const struct qg_planned **list, size_t n,
                                int *ret_signal, struct qg_error *err)
{
    struct qg_outcome o;
    enum qg_status status = QG_OK;
    for (size_t i = 0; i < n && status == QG_OK && !(*ret_signal = pending_signal()); i++) {
        draw_bar(s, list[i]->spelling);
        qg_outcome_make(list[i], &s->plan.bench, s->plan.timeout_s, &o);
        status = keep(s, &o, err);
    }
    return status;
}

static enum qg_status run_cases(struct execution *s, int *ret_signal, struct qg_error *err)
{
    const struct qg_planned **list[4]; // untimed, timed; of these, of a device
    size_t n[4], all = 0;
    const struct qg_planned **whole = calloc(s->plan.n + 1, sizeof *whole);
    if (!whole)
        return qg_fail(err, QG_ENOMEM, "no memory for a list of %zu cases", s->plan.n);
    for (int i = 0; i < 4; i++) {
        list[i] = whole + all;
        n[i] = list_open(s, i >= 2, i % 2, list[i]);
        all += n[i];
    }
    s->done = s->plan.n - all;
    enum qg_status status = QG_OK;
    for (int i = 0; i < 4 && status == QG_OK && !*ret_signal; i++)
        status = i == 2 ? run_timed(s, list[i], n[i], ret_signal, err)
                        : run_beside(s, list[i], n[i], i >= 2, i % 2, ret_signal, err);
    clear_bar(s);
    free(whole);
    return status;
}

/* --- the gap --------------------------------------------------------------------------------- */

#define GAP_SEED 123 /* of torchao's test model, for which upstream has printed figures */

/* Whether an earlier part of the run has made this comparison. */
static bool has_gap(const struct execution *s, const struct qg_scheme *scheme, const char *params,
                    const char *source, uint64_t seed)
{
    struct qg_gap key = {.seed = seed, .what = "weights"};
    snprintf(key.scheme, sizeof key.scheme, "%s", scheme->name);
    snprintf(key.params, sizeof key.params, "%s", params);
    snprintf(key.source, sizeof key.source, "%s", source);
    return qg_result_has_gap(s->writer, &key);
}

/* The test model with one seed; the cause is looked for on upstream's own seed. */
static enum qg_status gap_of_seed(struct execution *s, const struct qg_scheme *scheme,
                                  const char *params, uint64_t seed, struct qg_error *err)
{
    struct qg_gap model, weights;
    struct qg_gap_detail detail;
    if (has_gap(s, scheme, params, "torch-model", seed))
        return QG_OK;
    if (qg_gap_model(scheme, params, seed, &model, &weights, seed == GAP_SEED ? &detail : NULL,
                     err) != QG_OK ||
        qg_result_append_row(s->writer, QG_TABLE_GAP, &model, err) != QG_OK)
        return err->status;
    return qg_result_append_row(s->writer, QG_TABLE_GAP, &weights, err);
}

static enum qg_status gap_of_model(struct execution *s, const struct qg_scheme *scheme,
                                   struct qg_error *err)
{
    enum qg_status status = gap_of_seed(s, scheme, "", GAP_SEED, err);
    for (int v = 0; scheme->variants && scheme->variants[v] && status == QG_OK; v++)
        status = gap_of_seed(s, scheme, scheme->variants[v], GAP_SEED, err);
    for (uint64_t seed = 0; seed < s->plan.gap_seeds && status == QG_OK; seed++)
        status = gap_of_seed(s, scheme, "", seed, err);
    return status;
}

static enum qg_status gap_of_tensor(struct execution *s, const struct qg_case *c,
                                    struct qg_error *err)
{
    char source[QG_DATA_SIZE], why[256];
    struct qg_args a = {.scheme = c->scheme};
    struct qg_call call;
    struct qg_gap gap;
    struct qg_gap_detail detail;
    static_assert(sizeof gap.source >= QG_DATA_SIZE, "a comparison holds the names whole");
    qg_case_data(c, source);
    qg_params_default(&a, c->scheme);
    // What the scheme refuses has said so as a SKIP of its case.
    if (has_gap(s, c->scheme, "", source, 0) ||
        !qg_args_init(&a, c->scheme, QG_CONVERT, QG_WEIGHT, c->dtype, 0, c->rows, c->cols, why,
                      sizeof why))
        return QG_OK;
    if (qg_call_alloc(&call, &a, false, err) != QG_OK)
        return err->status;
    enum qg_status status = qg_case_load(c, call.in[0].data, err);
    if (status == QG_OK)
        status = qg_gap_tensor(c->scheme, "", &call.args.in[0], source, &gap, &detail, err);
    if (status == QG_OK)
        status = qg_result_append_row(s->writer, QG_TABLE_GAP, &gap, err);
    qg_call_free(&call);
    return status;
}

/* Prepare against convert, for every scheme (and tensor) whose linear weights the plan converts. */
static enum qg_status run_gaps(struct execution *s, struct qg_error *err)
{
    for (size_t i = 0; i < s->plan.n && !pending_signal(); i++) {
        const struct qg_case *c = &s->plan.cases[i].c;
        if (c->kernel->operand != QG_WEIGHT || c->kernel->op != QG_CONVERT ||
            !qg_gap_has(c->scheme))
            continue;
        if ((c->values ? gap_of_tensor(s, c, err) : gap_of_model(s, c->scheme, err)) != QG_OK)
            return err->status;
    }
    return QG_OK;
}

/* --- the atlas ------------------------------------------------------------------------------- */

static bool plan_has(const struct qg_plan *p, const char *scheme)
{
    for (size_t i = 0; i < p->n; i++)
        if (strcmp(p->cases[i].c.scheme->name, scheme) == 0)
            return true;
    return false;
}

/* Every pair whose schemes both run, on weights of one fill. */
static enum qg_status atlas_of_fill(struct execution *s, const char *fill, struct qg_error *err)
{
    struct qg_tensor w;
    struct qg_atlas a;
    enum qg_status status = qg_atlas_weights(fill, s->plan.seed, &w, err);
    if (status != QG_OK)
        return status;
    const struct qg_atlas_pair *p;
    for (size_t i = 0; status == QG_OK && (p = qg_atlas_at(i)) && !pending_signal(); i++) {
        if (!plan_has(&s->plan, p->left) || !plan_has(&s->plan, p->right))
            continue;
        status = qg_atlas_compare(p, &w, fill, s->plan.seed, &a, err);
        if (status == QG_OK && !qg_result_has_atlas(s->writer, &a))
            status = qg_result_append_row(s->writer, QG_TABLE_ATLAS, &a, err);
    }
    free(w.data);
    return status;
}

/* A suite's atlas is drawn on data of its own; for a checkpoint there is `qgauge atlas`. */
static enum qg_status run_atlas(struct execution *s, struct qg_error *err)
{
    if (s->q->weights)
        return QG_OK;
    enum qg_status status = atlas_of_fill(s, "normal", err);
    return status == QG_OK ? atlas_of_fill(s, "ties", err) : status;
}

/* --- resources of CUDA kernels --------------------------------------------------------------- */

/* Those that the program was built with; the journal of an earlier run holds the first of them. */
static enum qg_status run_resources(struct execution *s, struct qg_error *err)
{
    struct qg_resources list = {NULL, 0};
    const char *why;
    enum qg_status status = qg_resources_built(&list, &why, err);
    for (size_t i = qg_result_count(s->writer, QG_TABLE_RESOURCES); status == QG_OK && i < list.n;
         i++)
        status = qg_result_append_row(s->writer, QG_TABLE_RESOURCES, &list.at[i], err);
    free(list.at);
    return status;
}

/* --- before and after ------------------------------------------------------------------------ */

static void set_meta(const struct execution *s, struct qg_meta *m)
{
    char text[256];
    *m = (struct qg_meta){0};
    qg_describe_program(m);
    qg_meta_set(m, "suite", s->q->suite);
    qg_meta_set(m, "weights", s->q->weights ? s->q->weights : "");
    qg_meta_set(m, "tensors", s->q->plan.tensors ? s->q->plan.tensors : "");
    snprintf(text, sizeof text, "%zu", s->plan.n);
    qg_meta_set(m, "cases_planned", text);
    qg_meta_set(m, "match", s->q->plan.match ? s->q->plan.match : "");
    snprintf(text, sizeof text, "%" PRIu64, s->plan.seed);
    qg_meta_set(m, "seed", text);
}

static void print_start(const struct execution *s)
{
    const struct qg_plan *p = &s->plan;
    printf("qgauge %s (%s), suite %s, seed %" PRIu64 ": %zu cases\n", QG_VERSION, QG_COMMIT,
           s->q->suite, p->seed, p->n);
    if (p->no_kernel)
        printf("without a kernel, not run: %zu operations (%s%s)\n", p->no_kernel,
               p->no_kernel_names, p->no_kernel > 4 ? ", ..." : "");
    if (p->no_dtype)
        printf("upstream refuses the dtype, not run: %zu combinations\n", p->no_dtype);
    if (p->no_param)
        printf("the scheme lacks the parameter, not run: %zu combinations\n", p->no_param);
    if (p->wrong_rank || p->wrong_dtype)
        printf("tensors left out: %zu not of rank 2, %zu not F32, BF16 or F16; of %zu\n",
               p->wrong_rank, p->wrong_dtype, p->tensors);
    fflush(stdout);
}

/* "22 of 24", or "24" when all pass. */
static void print_cell(const struct qg_result *r, const char *scheme, const char *op)
{
    size_t all = 0, pass = 0;
    char cell[48] = "-";
    for (size_t i = 0; i < r->n_cases; i++) {
        bool here = strcmp(r->cases[i].scheme, scheme) == 0 && strcmp(r->cases[i].op, op) == 0;
        all += here;
        pass += here && r->cases[i].verdict == QG_PASS;
    }
    if (all)
        snprintf(cell, sizeof cell, pass == all ? "%zu" : "%zu of %zu", pass, all);
    printf(" %15s", cell);
}

/* How far the converted test model is from the prepared one, as upstream prints it. */
static void print_gap(const struct qg_result *r, const char *scheme)
{
    for (size_t i = 0; i < r->n_gaps; i++)
        if (strcmp(r->gaps[i].scheme, scheme) == 0 && strcmp(r->gaps[i].what, "model") == 0 &&
            r->gaps[i].seed == GAP_SEED && !r->gaps[i].params[0])
            printf(" %8.3f dB", r->gaps[i].sqnr_bf16_db);
}

/* How many of all cases PASS, per scheme and operation; beside it the gap. */
static void print_matrix(const struct qg_result *r)
{
    printf("\n%-16s", "PASS of all");
    for (int op = 0; op < QG_OP_COUNT; op++)
        printf(" %15s", qg_op_name((enum qg_op)op));
    puts(r->n_gaps && strcmp(r->gaps[0].what, "model") == 0 ? "  prepare-convert" : "");
    for (size_t s = 0; qg_scheme_at(s); s++) {
        const char *name = qg_scheme_at(s)->name;
        printf("%-16s", name);
        for (int op = 0; op < QG_OP_COUNT; op++)
            print_cell(r, name, qg_op_name((enum qg_op)op));
        print_gap(r, name);
        puts("");
    }
}

/* GB/s, or GFLOP/s for matmul; NaN when not timed. */
static double speed(const struct qg_record *r)
{
    return 1e-9 * (isnan(r->flops) ? r->bytes : r->flops) / r->warm.median_s;
}

/* Fastest and slowest case of an operation and backend. */
static void print_speed(const struct qg_result *r, const char *op, const char *backend)
{
    const struct qg_record *slow = NULL, *fast = NULL;
    for (size_t i = 0; i < r->n_cases; i++) {
        const struct qg_record *c = &r->cases[i];
        if (strcmp(c->op, op) != 0 || strcmp(c->backend, backend) != 0 || !isfinite(speed(c)))
            continue;
        slow = !slow || speed(c) < speed(slow) ? c : slow;
        fast = !fast || speed(c) > speed(fast) ? c : fast;
    }
    if (!slow)
        return;
    size_t shown = strcspn(slow->spelling, " ") + 1; // kernel and shape
    shown += strcspn(slow->spelling + shown, " ");
    printf("%-16s %-5s %8.3g .. %-8.3g %-8s slowest: %.*s\n", op, backend, speed(slow), speed(fast),
           isnan(slow->flops) ? "GB/s" : "GFLOP/s", (int)shown, slow->spelling);
}

static size_t count_discarded(const struct qg_result *r)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n_cases; i++)
        n += qg_is_discarded(&r->cases[i].warm) || qg_is_discarded(&r->cases[i].cold);
    return n;
}

static void print_verdicts(const struct qg_result *r, size_t counts[QG_VERDICT_COUNT])
{
    printf("\n%zu cases:", r->n_cases);
    for (int v = 0; v < QG_VERDICT_COUNT; v++)
        if (counts[v])
            printf(" %zu %s", counts[v], qg_verdict_name((enum qg_verdict)v));
    if (r->n_gaps)
        printf("; %zu comparisons of prepare with convert", r->n_gaps);
    if (r->n_atlas)
        printf("; %zu of schemes that claim one format", r->n_atlas);
    const size_t discarded = count_discarded(r);
    if (discarded)
        printf("; %zu without times: the device had lowered its clocks", discarded);
    puts("");
}

/* Everything in the file, also what an earlier run left there. */
static int summarize(const struct execution *s, struct qg_error *err)
{
    struct qg_result *r;
    size_t n[QG_VERDICT_COUNT] = {0};
    if (qg_result_open(s->q->out, &r, err) != QG_OK)
        return qg_report_error(&qg_command_run, err);
    for (size_t i = 0; i < r->n_cases; i++)
        n[r->cases[i].verdict]++;
    print_matrix(r);
    puts("");
    for (int op = 0; op < QG_OP_COUNT; op++)
        for (size_t b = 0; qg_backend_at(b); b++)
            print_speed(r, qg_op_name((enum qg_op)op), qg_backend_at(b)->name);
    print_verdicts(r, n);
    printf("%s is written (%.1f s). Next: qgauge report %s -o report\n", s->q->out,
           qg_clock_now() - s->start, s->q->out);
    qg_result_free(&r);
    bool bad = n[QG_FAIL] || n[QG_CRASH] || n[QG_TIMEOUT] || n[QG_ERROR];
    bool doubtful = n[QG_SKIP] || n[QG_MISTRUSTED] || n[QG_MARGINAL];
    if (bad || (s->q->strict && doubtful))
        return QG_EXIT_FAIL;
    return n[QG_SKIP] == s->plan.n ? QG_EXIT_SKIP : QG_EXIT_OK;
}

/* A failure while the result is written: what the journal holds is kept. */
static int keep_journal(struct execution *s, const struct qg_error *err)
{
    clear_bar(s);
    qg_report_error(&qg_command_run, err);
    qg_result_abandon(&s->writer);
    fprintf(stderr,
            "qgauge run: what was done is kept in %s.journal; when that is mended, go on with "
            "--resume\n",
            s->q->out);
    return QG_EXIT_HARD;
}

static int execute(struct execution *s, struct qg_error *err)
{
    struct qg_meta meta;
    int signo = 0;
    set_meta(s, &meta);
    if (qg_result_create(s->q->out, &meta, s->q->resume,
                         s->q->force ? QG_RESULT_REPLACE : QG_RESULT_NEW, &s->writer, err) != QG_OK)
        return qg_report_error(&qg_command_run, err);
    print_start(s);
    s->start = qg_clock_now();
    s->bar = qg_bar_wanted();
    // The resources first: a program whose table of them is damaged should say so at once.
    if (run_resources(s, err) != QG_OK || run_cases(s, &signo, err) != QG_OK ||
        (s->plan.gap && !signo && run_gaps(s, err) != QG_OK) ||
        (s->plan.atlas && !signo && run_atlas(s, err) != QG_OK))
        return keep_journal(s, err);
    if (signo && s->done == 0) {
        qg_result_abandon(&s->writer);
        return 128 + signo;
    }
    if (qg_result_close(&s->writer, err) != QG_OK)
        return keep_journal(s, err);
    int code = summarize(s, err);
    if (!signo)
        return code;
    fflush(stdout);
    fprintf(stderr, "qgauge run: stopped by a signal after %zu of %zu cases; %s holds those\n",
            s->done, s->plan.n, s->q->out);
    return 128 + signo;
}

static int list_cases(const struct qg_plan *p)
{
    for (size_t i = 0; i < p->n; i++)
        puts(p->cases[i].spelling);
    return QG_EXIT_OK;
}

static void block_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN); // a reader of stdout that goes away must not cost the results
}

static int run(int argc, char **argv)
{
    struct request q;
    struct qg_error err;
    int code = parse(&q, argc, argv);
    if (code != QG_EXIT_OK)
        return code;
    struct execution s = {.q = &q};
    q.plan.weights_path = q.weights;
    if (q.weights && qg_model_open(q.weights, &s.weights, &err) != QG_OK)
        return qg_report_error(&qg_command_run, &err);
    q.plan.weights = s.weights;
    if (qg_plan_load(q.suite, &q.plan, &s.plan, &err) != QG_OK) {
        code = qg_report_error(&qg_command_run, &err);
    } else if (q.list) {
        code = list_cases(&s.plan);
    } else {
        block_signals();
        code = execute(&s, &err);
    }
    qg_plan_free(&s.plan);
    qg_model_close(&s.weights);
    return code;
}

const struct qg_command qg_command_run = {
    .name = "run",
    .summary = "judge and time the kernels of a suite, into a result file",
    .help =
        "usage: qgauge run [OPTION]... -o results.h5\n"
        "\n"
        "  --suite NAME|FILE.yaml  smoke (default), ci, nightly, gpu, or a suite of your own\n"
        "  --match RE              only cases whose spelling matches (POSIX extended)\n"
        "  --weights MODEL         rank-2 tensors of a checkpoint instead of fills: a safetensors "
        "file, a\n"
        "                          Hugging Face folder, or a GGUF file, whose blocks are "
        "dequantized\n"
        "  --tensors RE            only those whose name matches\n"
        "  --seed N                instead of the suite's\n"
        "  --no-time               verdicts and quality only\n"
        "  --resume                go on where a killed run stopped\n"
        "  --force                 replace the output file\n"
        "  --strict                SKIP, MISTRUSTED and MARGINAL also end in exit code 1\n"
        "  --list                  print the cases and stop\n"
        "  -o, --output FILE       where the results go (HDF5)\n"
        "\n"
        "Every case that is not PASS is printed with the command that repeats it. Verdicts: PASS;\n"
        "MARGINAL, right but near the proved bound; FAIL, wrong bits or memory that is not its "
        "own;\n"
        "MISTRUSTED, agrees on results so uniform that it shows nothing; SKIP, with the reason;\n"
        "CRASH and TIMEOUT of the kernel; ERROR of the harness. Exit code 1 for FAIL, CRASH, "
        "TIMEOUT\n"
        "and ERROR, 2 for usage and for a selection that matches nothing, 77 when all is skipped. "
        "Ctrl-C finishes the case "
        "in\n"
        "flight and keeps what is done (exit code 130).\n",
    .run = run,
};
