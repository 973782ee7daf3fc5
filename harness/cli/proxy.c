/* SPDX-License-Identifier: MIT
 *
 * qgauge proxy: what schemes will cost a model, foretold from the errors of its matrices.
 */
#define _GNU_SOURCE /* getopt_long */
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness/base/processors.h"
#include "harness/bench.h"
#include "harness/cli/proxy.h"
#include "harness/lm/base.h"
#include "harness/lm/heldout.h"
#include "harness/lm/proxy.h"

const struct qg_command qg_command_proxy;

enum { MOST_CHOICES = 64, INPUT_WINDOWS = 4 };

struct request {
    const char *model, *tokens, *factors, *measured, *out;
    enum qg_result_mode mode;
    const char *scheme[MOST_CHOICES]; /* "int4 group=32" */
    size_t n_schemes;
    uint64_t documents, threads, bits;
    bool check, refit, verbose;
};

struct session {
    const struct request *q;
    struct qg_model *model;
    struct qg_lm *lm;
    struct qg_heldout text;
    struct qg_logits *base;
    struct qg_proxy_inputs *inputs;
    struct qg_proxy proxy;
    struct qg_measured_table measured;
    struct qg_result_writer *writer;
    double started;
    bool bar;
};

static struct qg_evaluation evaluation(const struct session *s)
{
    return (struct qg_evaluation){
        .tokens = &s->text.tokens, .windows = &s->text.windows, .threads = (int)s->q->threads};
}

/* --- what it needs --------------------------------------------------------------------------- */

static enum qg_status open_all(struct session *s, struct qg_error *err)
{
    const struct request *q = s->q;
    if (qg_model_open(q->model, &s->model, err) != QG_OK ||
        qg_lm_load(s->model, false, &s->lm, err) != QG_OK)
        return err->status;
    const struct qg_lm_config *c = &s->lm->config;
    if (qg_heldout_read(q->tokens, c, qg_lm_separator(c), q->documents, c->context, &s->text,
                        err) != QG_OK)
        return err->status;
    return qg_lm_put(s->lm, NULL, QG_LINEAR_PLAIN, NULL, QG_F32, false, (int)q->threads, err);
}

static enum qg_status compute_base(struct session *s, struct qg_error *err)
{
    const struct qg_evaluation e = evaluation(s);
    bool stopped; // nothing asks for it
    return qg_base_logits(&e, s->lm, NULL, NULL, NULL, &s->base, &stopped, err);
}

/* What goes into the matrices: of the first batch of windows. */
static enum qg_status make_inputs(struct session *s, struct qg_error *err)
{
    const struct qg_batch *b = &s->text.windows.batch[0];
    const struct qg_window *w = &s->text.windows.of[b->first];
    size_t n = b->n < INPUT_WINDOWS ? b->n : INPUT_WINDOWS;
    uint32_t *tokens = malloc(n * w->length * sizeof *tokens);
    if (!tokens)
        return qg_fail(err, QG_ENOMEM, "no memory for %zu windows", n);
    for (size_t i = 0; i < n; i++)
        memcpy(tokens + i * w->length, s->text.tokens.id + w[i].first - 1,
               w->length * sizeof *tokens);
    enum qg_status status = qg_proxy_inputs_make(s->lm, tokens, n, w->length, &s->inputs, err);
    free(tokens);
    return status;
}

/* --- factors --------------------------------------------------------------------------------- */

static enum qg_status measure(struct session *s, struct qg_quality *ret_q, struct qg_error *err)
{
    const struct qg_evaluation e = evaluation(s);
    struct qg_trial t = {.model = {[QG_CONVERTED] = s->lm}};
    enum qg_status status = qg_trial_run(&e, s->base, &t, err);
    if (status == QG_OK && t.fault[QG_CONVERTED][0])
        status = qg_fail(err, QG_EFORMAT, "%s", t.fault[QG_CONVERTED]);
    if (status == QG_OK)
        status = qg_score_sum(t.score[QG_CONVERTED], s->text.cluster, s->text.windows.scored,
                              s->text.clusters, 0.95, ret_q, err);
    qg_trial_free(&t);
    return status;
}

static enum qg_status cost(void *user, struct qg_cost *ret_c, struct qg_error *err)
{
    struct qg_quality q;
    if (qg_signal_seen())
        return qg_fail(err, QG_EIO, "stopped by a signal");
    if (measure(user, &q, err) != QG_OK)
        return err->status;
    *ret_c = (struct qg_cost){q.delta.value, q.kl.value};
    return QG_OK;
}

static void fitted(void *user, size_t done, size_t of)
{
    const struct session *s = user;
    char amount[64];
    double took = qg_clock_now() - s->started;
    if (!s->bar)
        return;
    snprintf(amount, sizeof amount, "%zu/%zu matrices", done, of);
    qg_bar_draw((double)done / (double)of, amount, took / (double)done * (double)(of - done),
                "rounding one matrix at a time");
}

static enum qg_status need_factors(struct session *s, struct qg_error *err)
{
    const struct request *q = s->q;
    if (q->factors && !q->refit) {
        enum qg_status status = qg_proxy_load(q->factors, s->lm, &s->proxy, err);
        if (status == QG_OK || status != QG_EIO)
            return status;
    }
    const struct qg_proxy_fit fit = {.bits = (int)q->bits, .cost = cost, .done = fitted, .user = s};
    s->started = qg_clock_now();
    enum qg_status status = qg_proxy_fit(s->lm, &fit, s->inputs, &s->proxy, err);
    if (s->bar)
        qg_bar_clear();
    if (status == QG_OK && q->factors)
        status = qg_proxy_save(&s->proxy, q->factors, err);
    return status;
}

static void print_factors(const struct session *s)
{
    printf("%-44s %10s %10s %10s %10s %10s\n", "one unit of relative error costs", "alpha", "beta",
           "KL alpha", "KL beta", "t2 fitted");
    for (size_t i = 0; i < s->proxy.n; i++) {
        const struct qg_proxy_matrix *x = &s->proxy.matrix[i];
        printf("%-44s %10.4g %10.4g %10.4g %10.4g %10.3g\n", x->name, x->cost.ln_ppl / x->t2,
               x->cost.ln_ppl / x->o2, x->cost.kl / x->t2, x->cost.kl / x->o2, x->t2);
    }
    printf("%-44s rise of ln PPL %.3g, KL %.3g\n\n", "the model's dtype in place of binary32",
           s->proxy.rounding.ln_ppl, s->proxy.rounding.kl);
}

/* --- schemes --------------------------------------------------------------------------------- */

static enum qg_status put(struct session *s, const char *choice, struct qg_error *err)
{
    char name[64];
    size_t n = strcspn(choice, " ");
    snprintf(name, sizeof name, "%.*s", (int)n, choice);
    const struct qg_scheme *scheme = qg_scheme_find(name);
    const char *set = choice[n] ? choice + n + 1 : NULL;
    struct qg_recipe *r = NULL;
    struct qg_recipe_plan plan = {0};
    if (!scheme)
        return qg_fail(err, QG_EINVAL, "there is no scheme '%s'; qgauge list schemes", name);
    enum qg_status status = qg_recipe_make(scheme, set, NULL, &r, err);
    if (status == QG_OK)
        status = qg_recipe_apply(r, s->model, NULL, NULL, &plan, err);
    if (status == QG_OK)
        status = qg_lm_put(s->lm, &plan, QG_LINEAR_CONVERTED, NULL, QG_INPUT, true,
                           (int)s->q->threads, err);
    qg_recipe_plan_free(&plan);
    qg_recipe_close(&r);
    return status;
}

/* Whether anything is quantized before it multiplies. */
static bool quantizes_inputs(const struct qg_lm *m)
{
    for (size_t i = 0; i < m->n_tensors; i++)
        if (qg_lm_is_matrix(&m->tensor[i]) && m->linear[i].order.activation)
            return true;
    return false;
}

/* Everything of a row that is the same for all schemes or follows from the choice. */
static void name_row(const struct session *s, const char *choice, struct qg_foretold *r)
{
    size_t n = strcspn(choice, " ");
    *r = (struct qg_foretold){.documents = s->text.tokens.n_documents};
    for (const struct qg_field *f = qg_foretold_fields; f->name; f++)
        if (f->kind == QG_FIELD_F64)
            *(double *)(void *)((char *)r + f->offset) = (double)NAN;
    snprintf(r->model, sizeof r->model, "%s", s->q->model);
    snprintf(r->model_hash, sizeof r->model_hash, "%016" PRIx64, s->proxy.model);
    snprintf(r->text, sizeof r->text, "%s", s->q->tokens);
    snprintf(r->text_hash, sizeof r->text_hash, "%016" PRIx64, qg_text_hash(&s->text.tokens));
    snprintf(r->what, sizeof r->what, "scheme");
    snprintf(r->name, sizeof r->name, "%.*s", (int)n, choice);
    snprintf(r->params, sizeof r->params, "%s", choice[n] ? choice + n + 1 : "");
    snprintf(r->dtype, sizeof r->dtype, "%s",
             qg_dtype_name(s->lm->tensor[qg_lm_head(s->lm)].dtype));
}

static void fill_measured(struct qg_foretold *r, const struct qg_estimate *delta,
                          const struct qg_estimate *kl, const char *where)
{
    snprintf(r->measured_in, sizeof r->measured_in, "%s", where);
    r->delta = delta->value, r->delta_low = delta->low, r->delta_high = delta->high;
    r->kl = kl->value, r->kl_low = kl->low, r->kl_high = kl->high;
}

/* What came, where that is asked for. */
static enum qg_status compare(struct session *s, const char *choice, struct qg_foretold *r,
                              struct qg_error *err)
{
    struct qg_quality q;
    const struct qg_measured *m = qg_measured_find(&s->measured, choice);
    if (m)
        fill_measured(r, &m->delta, &m->kl, s->q->measured);
    if (!s->q->check)
        return QG_OK;
    if (measure(s, &q, err) != QG_OK)
        return err->status;
    fill_measured(r, &q.delta, &q.kl, "qgauge proxy --check");
    return QG_OK;
}

static void print_row(const struct session *s, const char *choice, const struct qg_foretold *r)
{
    if (r->reason[0]) {
        printf("%-24s %s\n", choice, r->reason);
        return;
    }
    printf("%-24s %6.3f  %10.6f %10.6f  %10.6f %10.6f", choice, r->bits_per_weight,
           r->delta_by_weights, r->delta_by_outputs, r->kl_by_weights, r->kl_by_outputs);
    if (s->q->check || s->q->measured)
        printf("  %10.6f [%9.6f, %9.6f]  %9.6f [%9.6f, %9.6f] %6.2f %6.2f", r->delta, r->delta_low,
               r->delta_high, r->kl, r->kl_low, r->kl_high, r->kl_by_weights / r->kl,
               r->kl_by_outputs / r->kl);
    printf("\n");
    fflush(stdout);
}

static enum qg_status foretell(struct session *s, const char *choice, struct qg_foretold *r,
                               struct qg_error *err)
{
    struct qg_prediction p;
    if (put(s, choice, err) != QG_OK ||
        qg_proxy_predict(&s->proxy, s->lm, s->inputs, &p, err) != QG_OK)
        return err->status;
    snprintf(r->inputs, sizeof r->inputs, "%s", quantizes_inputs(s->lm) ? "quantized" : "plain");
    r->bytes = (double)qg_lm_bytes(s->lm);
    r->bits_per_weight = 8 * r->bytes / (double)s->lm->n_params;
    r->delta_by_weights = p.by_weights.ln_ppl, r->delta_by_outputs = p.by_outputs.ln_ppl;
    r->kl_by_weights = p.by_weights.kl, r->kl_by_outputs = p.by_outputs.kl;
    return compare(s, choice, r, err);
}

static void print_head(const struct session *s)
{
    bool measured = s->q->check || s->q->measured;
    printf("rise of ln PPL and KL per token, foretold; %zu documents, %zu tokens\n\n",
           s->text.tokens.n_documents, s->text.windows.scored);
    if (s->q->verbose)
        print_factors(s);
    printf("%-31s  %10s %10s  %10s %10s", "", "ln PPL by", "ln PPL by", "KL by", "KL by");
    if (measured)
        printf("  %34s  %33s %6s %6s", "ln PPL measured", "KL measured", "KL w/m", "KL o/m");
    printf("\n%-24s %6s  %10s %10s  %10s %10s\n", "scheme", "bits", "weights", "outputs", "weights",
           "outputs");
}

static enum qg_status foretell_all(struct session *s, struct qg_error *err)
{
    struct qg_foretold r;
    print_head(s);
    for (size_t i = 0; i < s->q->n_schemes && !qg_signal_seen(); i++) {
        const char *choice = s->q->scheme[i];
        name_row(s, choice, &r);
        enum qg_status status = foretell(s, choice, &r, err);
        if (status == QG_EINVAL && s->q->n_schemes > 1)
            snprintf(r.reason, sizeof r.reason, "%.500s", err->message);
        else if (status != QG_OK)
            return qg_context(err, "scheme '%s'", choice);
        print_row(s, choice, &r);
        if (s->writer && qg_result_append_row(s->writer, QG_TABLE_PROXY, &r, err) != QG_OK)
            return err->status;
    }
    return QG_OK;
}

/* --- the run --------------------------------------------------------------------------------- */

static enum qg_status open_results(struct session *s, struct qg_error *err)
{
    struct qg_meta meta = {0};
    const struct request *q = s->q;
    if (q->measured && qg_measured_read(q->measured, &s->measured, err) != QG_OK)
        return err->status;
    if (!q->out)
        return QG_OK;
    qg_describe_program(&meta);
    qg_meta_set(&meta, "suite", "proxy");
    qg_meta_set(&meta, "weights", q->model);
    return qg_result_create(q->out, &meta, false, q->mode, &s->writer, err);
}

/* Nobody goes on with half of the predictions: they take seconds. */
static void drop_results(struct session *s)
{
    if (s->writer)
        unlink(qg_result_journal(s->writer));
    qg_result_abandon(&s->writer);
}

static enum qg_status work(struct session *s, struct qg_error *err)
{
    const struct request *q = s->q;
    bool fits = q->refit || !q->factors || access(q->factors, F_OK) != 0;
    if (open_results(s, err) != QG_OK || open_all(s, err) != QG_OK ||
        ((fits || q->check) && compute_base(s, err) != QG_OK) || make_inputs(s, err) != QG_OK ||
        need_factors(s, err) != QG_OK || foretell_all(s, err) != QG_OK)
        return err->status;
    return s->writer && !qg_signal_seen() ? qg_result_close(&s->writer, err) : QG_OK;
}

static void clean(struct session *s)
{
    drop_results(s);
    qg_measured_free(&s->measured);
    qg_proxy_free(&s->proxy);
    qg_proxy_inputs_free(&s->inputs);
    qg_logits_close(&s->base);
    qg_heldout_free(&s->text);
    qg_lm_free(&s->lm);
    if (s->model)
        qg_model_close(&s->model);
}

/* --- command line ---------------------------------------------------------------------------- */

static bool add_scheme(struct request *q, const char *choice)
{
    if (q->n_schemes == MOST_CHOICES) {
        qg_usage_error(&qg_command_proxy, "at most %d schemes at a time", MOST_CHOICES);
        return false;
    }
    q->scheme[q->n_schemes++] = choice;
    return true;
}

static bool add_all(struct request *q)
{
    const struct qg_scheme *s;
    for (size_t i = 0; (s = qg_scheme_at(i)); i++)
        if (s->operand[QG_WEIGHT].convert && s->matmul && !add_scheme(q, s->name))
            return false;
    return true;
}

static bool parse(int argc, char **argv, struct request *q)
{
    static const struct option options[] = {{"scheme", required_argument, NULL, 's'},
                                            {"all", no_argument, NULL, 'a'},
                                            {"tokens", required_argument, NULL, 't'},
                                            {"factors", required_argument, NULL, 'f'},
                                            {"documents", required_argument, NULL, 'd'},
                                            {"threads", required_argument, NULL, 'j'},
                                            {"bits", required_argument, NULL, 'b'},
                                            {"check", no_argument, NULL, 'c'},
                                            {"measured", required_argument, NULL, 'm'},
                                            {"output", required_argument, NULL, 'o'},
                                            {"force", no_argument, NULL, 'w'},
                                            {"add", no_argument, NULL, '+'},
                                            {"refit", no_argument, NULL, 'r'},
                                            {"verbose", no_argument, NULL, 'v'},
                                            {NULL, 0, NULL, 0}};
    bool good = true;
    for (int c; good && (c = getopt_long(argc, argv, "o:v", options, NULL)) != -1;) {
        switch (c) {
        case 's':
            good = add_scheme(q, optarg);
            break;
        case 'a':
            good = add_all(q);
            break;
        case 't':
            q->tokens = optarg;
            break;
        case 'f':
            q->factors = optarg;
            break;
        case 'd':
            good = qg_take_whole(&qg_command_proxy, "documents", 0, 1 << 30, &q->documents);
            break;
        case 'j':
            good = qg_take_whole(&qg_command_proxy, "threads", 1, 64, &q->threads);
            break;
        case 'b':
            good = qg_take_whole(&qg_command_proxy, "bits", 2, 12, &q->bits);
            break;
        case 'c':
            q->check = true;
            break;
        case 'm':
            q->measured = optarg;
            break;
        case 'o':
            q->out = optarg;
            break;
        case 'w':
            q->mode = QG_RESULT_REPLACE;
            break;
        case '+':
            q->mode = QG_RESULT_ADD;
            break;
        case 'r':
            q->refit = true;
            break;
        case 'v':
            q->verbose = true;
            break;
        default:
            return false;
        }
    }
    if (good && optind < argc)
        q->model = argv[optind++];
    if (good && optind < argc) {
        qg_usage_error(&qg_command_proxy, "one model at a time, not also '%s'", argv[optind]);
        return false;
    }
    if (good && !q->out && q->mode != QG_RESULT_NEW)
        good = !qg_usage_error(&qg_command_proxy, "--add and --force are of the file of -o");
    return good && (q->n_schemes || add_all(q));
}

/* Without a model, the one that comes with qgauge, and what is known of it. */
static void set_defaults(struct request *q)
{
    if (!q->model && !q->factors && !q->refit)
        q->factors = QG_SOURCE_ROOT "/golden/lm/factors.json";
    if (!q->model)
        q->model = QG_SOURCE_ROOT "/golden/lm/model";
}

static int run(int argc, char **argv)
{
    struct qg_error err = {QG_OK, ""};
    struct request q = {.tokens = QG_SOURCE_ROOT "/golden/lm/heldout.txt",
                        .documents = 32,
                        .bits = 4,
                        .threads = (uint64_t)qg_processors()};
    struct session s = {.q = &q, .bar = qg_bar_wanted()};
    if (!parse(argc, argv, &q))
        return QG_EXIT_USAGE;
    set_defaults(&q);
    qg_catch_signals();
    enum qg_status status = work(&s, &err);
    clean(&s);
    if (qg_signal_seen())
        return 128 + qg_signal_seen();
    return qg_finish_stdout(
        &qg_command_proxy, status == QG_OK ? QG_EXIT_OK : qg_report_error(&qg_command_proxy, &err));
}

const struct qg_command qg_command_proxy = {
    .name = "proxy",
    .summary = "what schemes will cost a language model, foretold in seconds",
    .help =
        "usage: qgauge proxy [MODEL] [--scheme 'NAME PARAM=VALUE...']... [OPTION]...\n"
        "\n"
        "Foretells by how much ln PPL and KL rise against the model in binary32: the sum over\n"
        "matrices of a factor times the relative squared error, of the weights (alpha t2) and of\n"
        "what comes out (beta o2, which sees quantized activations as well), and the cost of the\n"
        "model's dtype. Factors are found once per model, by rounding one matrix at a time; then\n"
        "a scheme costs no run of the model.\n"
        "\n"
        "  MODEL             a Hugging Face folder of the Llama family (default: golden/lm/model)\n"
        "  --scheme S        with parameters, quoted; may be given often (default: all)\n"
        "  --tokens FILE     as of qgauge ppl (default: golden/lm/heldout.txt)\n"
        "  --documents N     fit on the first N documents: 32; 0: all\n"
        "  --factors FILE    read the factors from FILE; when it is not there, fit and write it\n"
        "                    (default without MODEL: those of the model that comes with qgauge)\n"
        "  --refit           fit, and write FILE anew\n"
        "  --bits N          of the grid that matrices are rounded to: 4\n"
        "  --check           also run the model: measured, with 95 % intervals, and foretold\n"
        "                    over measured\n"
        "  --measured FILE   put beside it what was measured before: a table with tabs between\n"
        "                    its columns, by name: scheme, delta_ln_ppl, kl, and the ends of\n"
        "                    intervals as in golden/lm/quality.tsv\n"
        "  -o RESULTS.h5     all of it into a result file, table /proxy; --force replaces the\n"
        "                    file, --add puts it beside what a run of this build left there:\n"
        "                    qgauge report draws it against what qgauge ppl measured\n"
        "  --threads N       default: one per processor\n"
        "  -v, --verbose     the factors of every matrix\n"
        "\n"
        "Exit codes: 0 done, 1 a file is not what it should be, 2 usage, 99 a file could not be\n"
        "read or written, 130 Ctrl-C.\n",
    .run = run,
};
