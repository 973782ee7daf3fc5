/* SPDX-License-Identifier: MIT
 *
 * qgauge ppl: what schemes do to a language model's predictions of a text.
 */
#define _GNU_SOURCE /* getopt_long */
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/processors.h"
#include "harness/bench.h"
#include "harness/case.h"
#include "harness/cli/ppl.h"
#include "harness/lm/base.h"
#include "harness/lm/heldout.h"
#include "reports/report.h"

const struct qg_command qg_command_ppl;

enum { MOST_THREADS = 64, MOST_CONTEXT = 1 << 20 };

/* What is put on the model: one of the two, or nothing. */
struct candidate {
    const struct qg_scheme *scheme;
    const char *set, *recipe;
};

struct request {
    const char *model, *tokens, *set, *pattern, *backend, *cache, *out;
    char *lists[64]; /* copies that candidates point into */
    size_t n_lists;
    struct candidate *candidate;
    size_t n;
    bool side[QG_GAP]; /* that are wanted */
    enum qg_result_mode mode;
    bool no_separator, has_separator, no_cache, resume, json, verbose;
    uint32_t separator;
    enum qg_dtype dtype; /* QG_INPUT: the checkpoint's */
    uint64_t context, documents, threads, bytes, words;
    double level;
};

/* The model as one of the two paths has it. */
struct side {
    struct qg_lm *m;
    bool untied;
};

struct session {
    const struct request *q;
    struct qg_model *model;
    struct side side[QG_GAP];
    struct qg_heldout held;
    struct qg_evaluation e;
    struct qg_logits *base;
    struct qg_ppl_text text;
    double params, base_bytes;
    struct qg_modelled common; /* what all rows share */
    struct qg_result_writer *writer;
    struct qg_modelled *row; /* of this run, for JSON */
    size_t n_rows, printed, faults, evaluated;
    bool stopped, headed;
    double start, shown; /* seconds: of the pass, of the last bar */
    bool bar;
    char doing[160];
};

/* --- progress -------------------------------------------------------------------------------- */

static void clear_bar(const struct session *s)
{
    if (s->bar)
        qg_bar_clear();
}

static bool progress(void *user, size_t done, size_t total)
{
    struct session *s = user;
    char amount[64];
    double now = qg_clock_now();
    if (!s->bar || now - s->shown < 0.1)
        return qg_signal_seen() != 0;
    snprintf(amount, sizeof amount, "%zu/%zu tokens", done, total);
    qg_bar_draw((double)done / (double)total, amount,
                (now - s->start) / (double)done * (double)(total - done), s->doing);
    s->shown = now;
    return qg_signal_seen() != 0;
}

static void note(void *user, const char *sentence)
{
    clear_bar(user);
    fprintf(stderr, "qgauge ppl: %s\n", sentence);
}

static void begin(struct session *s, const char *what)
{
    snprintf(s->doing, sizeof s->doing, "%s", what);
    s->start = qg_clock_now();
}

/* --- the model and the text ------------------------------------------------------------------ */

/* The model of a side, as it is; with a head of its own where `untied`. */
static enum qg_status load_side(struct session *s, int i, bool untied, struct qg_error *err)
{
    struct side *side = &s->side[i];
    if (side->m && side->untied == untied)
        return QG_OK;
    qg_lm_free(&side->m);
    side->untied = untied;
    return qg_lm_load(s->model, untied, &side->m, err);
}

static enum qg_status read_text(struct session *s, const struct qg_lm_config *c,
                                struct qg_error *err)
{
    const struct request *q = s->q;
    uint32_t separator = q->has_separator ? q->separator : c->separator;
    bool has = q->has_separator || (c->has_separator && !q->no_separator);
    size_t context = q->context ? (size_t)q->context : c->context;
    if (context > c->context)
        return qg_fail(err, QG_EINVAL, "--context %zu: the model was made for %zu", context,
                       c->context);
    if (has && separator >= c->vocab)
        return qg_fail(err, QG_EINVAL, "separator %u: the model's vocabulary ends at %zu",
                       separator, c->vocab - 1);
    return qg_heldout_read(q->tokens, c, has ? &separator : NULL, (size_t)q->documents, context,
                           &s->held, err);
}

static void describe_text(struct session *s)
{
    const struct request *q = s->q;
    struct qg_ppl_text *t = &s->text;
    *t = (struct qg_ppl_text){(double)s->held.windows.scored, (double)s->held.tokens.n_documents, 0,
                              0};
    for (size_t d = 0; d < s->held.tokens.n_documents; d++) {
        t->bytes += (double)s->held.tokens.document[d].bytes;
        t->words += (double)s->held.tokens.document[d].words;
    }
    if (!s->held.tokens.text) {
        t->bytes = q->bytes ? (double)q->bytes : (double)NAN;
        t->words = q->words ? (double)q->words : (double)NAN;
    }
}

static void describe_rows(struct session *s)
{
    const struct qg_lm *m = s->side[QG_CONVERTED].m;
    struct qg_modelled *r = &s->common;
    *r = (struct qg_modelled){.context = s->held.windows.context,
                              .documents = s->held.tokens.n_documents,
                              .tokens = s->held.windows.scored,
                              .clusters = s->held.clusters,
                              .level = s->q->level};
    for (const struct qg_field *f = qg_modelled_fields; f->name; f++)
        if (f->kind == QG_FIELD_F64 && f->offset != offsetof(struct qg_modelled, level))
            *(double *)(void *)((char *)r + f->offset) = (double)NAN;
    snprintf(r->model, sizeof r->model, "%s", s->q->model);
    snprintf(r->text, sizeof r->text, "%s", s->q->tokens);
    snprintf(r->model_hash, sizeof r->model_hash, "%016" PRIx64, qg_lm_hash(m));
    snprintf(r->text_hash, sizeof r->text_hash, "%016" PRIx64, qg_text_hash(&s->held.tokens));
    snprintf(r->clusters_of, sizeof r->clusters_of, "%s", s->held.clusters_of);
    snprintf(r->backend, sizeof r->backend, "%s", s->q->backend ? s->q->backend : "");
    snprintf(r->dtype, sizeof r->dtype, "%s", qg_dtype_name(m->linear[qg_lm_head(m)].order.dtype));
}

static enum qg_status open_all(struct session *s, struct qg_error *err)
{
    const struct request *q = s->q;
    char folder[1024];
    bool kept = !q->no_cache && (q->cache || qg_cache_folder(folder, sizeof folder));
    if (qg_model_open(q->model, &s->model, err) != QG_OK ||
        load_side(s, QG_CONVERTED, false, err) != QG_OK)
        return err->status;
    struct qg_lm *m = s->side[QG_CONVERTED].m;
    if (read_text(s, &m->config, err) != QG_OK ||
        qg_lm_put(m, NULL, QG_LINEAR_PLAIN, NULL, q->dtype, false, (int)q->threads, err) != QG_OK)
        return err->status;
    describe_text(s);
    describe_rows(s);
    s->params = (double)m->n_params;
    s->base_bytes = (double)qg_lm_bytes(m);
    s->e = (struct qg_evaluation){&s->held.tokens, &s->held.windows, (int)q->threads, progress, s};
    begin(s, "the model as it is");
    return qg_base_logits(&s->e, m, kept ? (q->cache ? q->cache : folder) : NULL, note, s, &s->base,
                          &s->stopped, err);
}

static void close_all(struct session *s)
{
    qg_logits_close(&s->base);
    qg_heldout_free(&s->held);
    for (int i = 0; i < QG_GAP; i++)
        qg_lm_free(&s->side[i].m);
    qg_model_close(&s->model);
    free(s->row);
}

/* --- candidates ------------------------------------------------------------------------------ */

/* The plan of a candidate, which the caller drops, also after a failure; none for the model as it
 * is. */
static enum qg_status make_plan(const struct session *s, const struct candidate *c,
                                struct qg_prescription *p, struct qg_error *err)
{
    enum qg_status status = QG_OK;
    if (c->scheme)
        status = qg_recipe_make(c->scheme, c->set, s->q->pattern, &p->recipe, err);
    else if (c->recipe)
        status = qg_recipe_open(c->recipe, &p->recipe, err);
    if (status != QG_OK || !p->recipe)
        return status;
    return qg_recipe_apply(p->recipe, s->model, NULL, NULL, &p->plan, err);
}

static bool plan_unties(const struct qg_recipe_plan *p)
{
    for (size_t i = 0; i < p->n; i++)
        if (p->of[i].name != p->of[i].tensor->t.name)
            return true;
    return false;
}

static bool quantizes(const struct qg_recipe_plan *p)
{
    for (size_t i = 0; i < p->n; i++)
        if (p->of[i].prepare.scheme || p->of[i].convert.scheme)
            return true;
    return false;
}

/* Puts the plan on a side; `why` says why it has none, "" when it has. Only errors that are not of
 * the scheme end the run. */
static enum qg_status put_side(struct session *s, const struct qg_prescription *p, int i, char *why,
                               size_t size, struct qg_error *err)
{
    static const enum qg_linear_path paths[] = {QG_LINEAR_PREPARED, QG_LINEAR_CONVERTED};
    why[0] = '\0';
    if (p->recipe && !quantizes(&p->plan)) {
        snprintf(why, size, "it quantizes no tensor of this model");
        return QG_OK;
    }
    if (load_side(s, i, plan_unties(&p->plan), err) != QG_OK)
        return err->status;
    enum qg_status status =
        qg_lm_put(s->side[i].m, p->recipe ? &p->plan : NULL, p->recipe ? paths[i] : QG_LINEAR_PLAIN,
                  s->q->backend, s->q->dtype, false, (int)s->q->threads, err);
    if (status != QG_EINVAL && status != QG_EABSENT)
        return status;
    snprintf(why, size, "%.500s", err->message);
    return QG_OK;
}

static void fill_estimate(const struct qg_estimate *e, double *value, double *low, double *high)
{
    *value = e->value;
    *low = e->low;
    *high = e->high;
}

static void fill_row(const struct session *s, const struct qg_quality *q, struct qg_modelled *r)
{
    double nll = q->nll.value * s->text.tokens;
    r->ppl = exp(q->nll.value);
    r->ppl_low = exp(q->nll.low);
    r->ppl_high = exp(q->nll.high);
    r->bits_per_byte = nll / s->text.bytes / log(2);
    r->word_ppl = exp(nll / s->text.words);
    fill_estimate(&q->delta, &r->delta, &r->delta_low, &r->delta_high);
    fill_estimate(&q->kl, &r->kl, &r->kl_low, &r->kl_high);
    r->kl_median = q->kl_median;
    r->kl_90 = q->kl_90;
    r->kl_99 = q->kl_99;
    r->kl_999 = q->kl_999;
    r->kl_max = q->kl_max;
    r->same_top = q->same;
    r->change_mean = q->change_mean;
    r->change_rms = q->change_rms;
    snprintf(r->verdict, sizeof r->verdict, "%s", qg_verdict_of_difference(&q->delta));
}

static enum qg_status sum_up(const struct session *s, const struct qg_score *score,
                             struct qg_quality *ret_q, struct qg_error *err)
{
    return qg_score_sum(score, s->held.cluster, s->held.windows.scored, s->held.clusters,
                        s->q->level, ret_q, err);
}

/* Prints what is not printed yet; under the head, which comes with the first that was evaluated. */
static void print_rows(struct session *s)
{
    clear_bar(s);
    for (; !s->q->json && s->printed < s->n_rows; s->printed++)
        qg_ppl_print_row(&s->row[s->printed], s->text.bytes / s->text.tokens, s->q->verbose);
    fflush(stdout);
}

/* Keeps a row. */
static enum qg_status add_row(struct session *s, const struct qg_modelled *r, struct qg_error *err)
{
    struct qg_modelled *more = realloc(s->row, (s->n_rows + 1) * sizeof *more);
    if (!more)
        return qg_fail(err, QG_ENOMEM, "no memory for another row");
    s->row = more;
    more[s->n_rows++] = *r;
    s->evaluated += !r->reason[0];
    if (s->headed)
        print_rows(s);
    return QG_OK;
}

static enum qg_status keep_row(struct session *s, const struct qg_modelled *r, struct qg_error *err)
{
    if (s->writer && qg_result_append_row(s->writer, QG_TABLE_LM, r, err) != QG_OK)
        return err->status;
    return add_row(s, r, err);
}

/* The base model's line comes with the first candidate that was compared with it. */
static void print_head(struct session *s, const struct qg_quality *q)
{
    if (s->headed || s->q->json)
        return;
    s->headed = true;
    clear_bar(s);
    qg_ppl_print_head(&s->text, q, s->held.clusters_of, s->q->level, s->base_bytes * 8 / s->params,
                      s->base_bytes);
}

/* Rows of what ran; row[i].reason is set where a side did not. */
static enum qg_status judge(struct session *s, const struct qg_trial *t, struct qg_modelled *row,
                            struct qg_error *err)
{
    struct qg_quality q;
    double bytes =
        t->model[QG_CONVERTED] ? (double)qg_lm_bytes(t->model[QG_CONVERTED]) : (double)NAN;
    bool good[QG_GAP];
    for (int i = 0; i < QG_GAP; i++) {
        good[i] = t->model[i] && !t->fault[i][0];
        if (!t->model[i])
            continue;
        snprintf(row[i].reason, sizeof row[i].reason, "%s", t->fault[i]);
        s->faults += !good[i];
        row[i].seconds = qg_clock_now() - s->start;
        row[i].bytes = bytes;
        row[i].bits_per_weight = bytes * 8 / s->params;
        if (!good[i])
            continue;
        if (sum_up(s, t->score[i], &q, err) != QG_OK)
            return err->status;
        fill_row(s, &q, &row[i]);
        print_head(s, &q);
    }
    if (!good[QG_PREPARED] || !good[QG_CONVERTED])
        return QG_OK;
    if (sum_up(s, t->score[QG_GAP], &q, err) != QG_OK)
        return err->status;
    struct qg_modelled *r = &row[QG_CONVERTED];
    fill_estimate(&q.delta, &r->gap, &r->gap_low, &r->gap_high);
    r->gap_kl = q.kl.value;
    return QG_OK;
}

static void name_rows(const struct session *s, const struct candidate *c, struct qg_modelled *row)
{
    static const char *const paths[] = {"prepared", "converted"};
    bool none = !c->scheme && !c->recipe;
    for (int i = 0; i < QG_GAP; i++) {
        row[i] = s->common;
        snprintf(row[i].what, sizeof row[i].what, "%s",
                 none        ? "none"
                 : c->scheme ? "scheme"
                             : "recipe");
        snprintf(row[i].name, sizeof row[i].name, "%s",
                 none        ? ""
                 : c->scheme ? c->scheme->name
                             : c->recipe);
        snprintf(row[i].params, sizeof row[i].params, "%s", c->set ? c->set : "");
        snprintf(row[i].path, sizeof row[i].path, "%s", none ? "plain" : paths[i]);
    }
}

/* Takes over the rows of an earlier run; whether all were there. */
static enum qg_status take_earlier(struct session *s, const struct qg_modelled *row,
                                   const bool *wanted, bool *ret_all, struct qg_error *err)
{
    const struct qg_modelled *had[QG_GAP] = {NULL, NULL};
    *ret_all = s->writer != NULL;
    for (int i = 0; i < QG_GAP && *ret_all; i++)
        if (wanted[i] && !(had[i] = qg_result_find_modelled(s->writer, &row[i])))
            *ret_all = false;
    for (int i = 0; i < QG_GAP && *ret_all; i++)
        if (had[i] && add_row(s, had[i], err) != QG_OK)
            return err->status;
    return QG_OK;
}

/* Runs the sides that can be run and makes the rows. */
static enum qg_status run_sides(struct session *s, const struct qg_prescription *p,
                                const bool *wanted, struct qg_modelled *row, struct qg_error *err)
{
    struct qg_trial t = {0};
    for (int i = 0; i < QG_GAP; i++) {
        if (!wanted[i])
            continue;
        if (put_side(s, p, i, row[i].reason, sizeof row[i].reason, err) != QG_OK)
            return err->status;
        t.model[i] = row[i].reason[0] ? NULL : s->side[i].m;
    }
    if (!t.model[QG_PREPARED] && !t.model[QG_CONVERTED])
        return QG_OK;
    enum qg_status status = qg_trial_run(&s->e, s->base, &t, err);
    s->stopped = status == QG_OK && t.stopped;
    if (status == QG_OK && !s->stopped)
        status = judge(s, &t, row, err);
    qg_trial_free(&t);
    return status;
}

static enum qg_status try_candidate(struct session *s, const struct candidate *c,
                                    struct qg_error *err)
{
    struct qg_modelled row[QG_GAP];
    struct qg_prescription p = {0};
    bool none = !c->scheme && !c->recipe, all;
    const bool wanted[] = {s->q->side[QG_PREPARED] && !none, s->q->side[QG_CONVERTED] || none};
    name_rows(s, c, row);
    if (take_earlier(s, row, wanted, &all, err) != QG_OK || all)
        return err->status;
    begin(s, row[QG_CONVERTED].name);
    enum qg_status status = make_plan(s, c, &p, err);
    if (status == QG_EINVAL || status == QG_EABSENT || status == QG_EFORMAT) {
        for (int i = 0; i < QG_GAP; i++)
            snprintf(row[i].reason, sizeof row[i].reason, "%.500s", err->message);
        status = QG_OK;
    } else if (status == QG_OK) {
        status = run_sides(s, &p, wanted, row, err);
    }
    for (int i = 0; i < QG_GAP && status == QG_OK && !s->stopped; i++)
        if (wanted[i])
            status = keep_row(s, &row[i], err);
    qg_recipe_plan_free(&p.plan);
    qg_recipe_close(&p.recipe);
    return status;
}

/* --- options --------------------------------------------------------------------------------- */

enum {
    OPT_TOKENS = 1,
    OPT_SEPARATOR,
    OPT_SCHEME,
    OPT_RECIPE,
    OPT_ALL,
    OPT_SET,
    OPT_TENSORS,
    OPT_PATH,
    OPT_BACKEND,
    OPT_DTYPE,
    OPT_CONTEXT,
    OPT_DOCUMENTS,
    OPT_THREADS,
    OPT_BYTES,
    OPT_WORDS,
    OPT_LEVEL,
    OPT_CACHE,
    OPT_NO_CACHE,
    OPT_FORMAT,
    OPT_RESUME,
    OPT_FORCE,
    OPT_ADD,
};

static const struct option options[] = {
    {"tokens", required_argument, NULL, OPT_TOKENS},
    {"separator", required_argument, NULL, OPT_SEPARATOR},
    {"scheme", required_argument, NULL, OPT_SCHEME},
    {"recipe", required_argument, NULL, OPT_RECIPE},
    {"all", no_argument, NULL, OPT_ALL},
    {"set", required_argument, NULL, OPT_SET},
    {"tensors", required_argument, NULL, OPT_TENSORS},
    {"path", required_argument, NULL, OPT_PATH},
    {"backend", required_argument, NULL, OPT_BACKEND},
    {"dtype", required_argument, NULL, OPT_DTYPE},
    {"context", required_argument, NULL, OPT_CONTEXT},
    {"documents", required_argument, NULL, OPT_DOCUMENTS},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"bytes", required_argument, NULL, OPT_BYTES},
    {"words", required_argument, NULL, OPT_WORDS},
    {"level", required_argument, NULL, OPT_LEVEL},
    {"cache", required_argument, NULL, OPT_CACHE},
    {"no-cache", no_argument, NULL, OPT_NO_CACHE},
    {"format", required_argument, NULL, OPT_FORMAT},
    {"resume", no_argument, NULL, OPT_RESUME},
    {"force", no_argument, NULL, OPT_FORCE},
    {"add", no_argument, NULL, OPT_ADD},
    {"output", required_argument, NULL, 'o'},
    {"verbose", no_argument, NULL, 'v'},
    {NULL, 0, NULL, 0},
};

static int add_candidate(struct request *q, struct candidate c)
{
    struct candidate *more = realloc(q->candidate, (q->n + 1) * sizeof *more);
    if (!more)
        return qg_usage_error(&qg_command_ppl, "no memory for another scheme");
    q->candidate = more;
    more[q->n++] = c;
    return QG_EXIT_OK;
}

/* "int4,intx bits=3,none": schemes, each with parameters behind a space; or recipes. */
static int add_list(struct request *q, const char *text, bool recipes)
{
    char *save, *list = strdup(text);
    int code = QG_EXIT_OK;
    if (!list || q->n_lists == sizeof q->lists / sizeof *q->lists) {
        free(list);
        return qg_usage_error(&qg_command_ppl, "too many lists: write one, with commas");
    }
    q->lists[q->n_lists++] = list;
    for (char *w = strtok_r(list, ",", &save); w && !code; w = strtok_r(NULL, ",", &save)) {
        char *space = recipes ? NULL : strchr(w, ' ');
        struct candidate c = {.recipe = recipes ? w : NULL, .set = space ? space + 1 : NULL};
        if (space)
            *space = '\0';
        if (!recipes && strcmp(w, "none") != 0 && !(c.scheme = qg_take_scheme(&qg_command_ppl, w)))
            return QG_EXIT_USAGE;
        code = add_candidate(q, c);
    }
    return code;
}

static int add_all(struct request *q)
{
    int code = QG_EXIT_OK;
    for (size_t i = 0; qg_scheme_at(i) && !code; i++)
        code = add_candidate(q, (struct candidate){.scheme = qg_scheme_at(i)});
    return code;
}

static int take_number(const char *what, uint64_t most, uint64_t *ret)
{
    if (qg_whole_parse(optarg, most, ret) && *ret)
        return QG_EXIT_OK;
    return qg_usage_error(&qg_command_ppl, "%s is from 1 to %" PRIu64 ", not '%s'", what, most,
                          optarg);
}

static int take_separator(struct request *q)
{
    uint64_t x;
    q->no_separator = strcmp(optarg, "none") == 0;
    q->has_separator = !q->no_separator;
    if (q->no_separator)
        return QG_EXIT_OK;
    if (!qg_whole_parse(optarg, UINT32_MAX, &x))
        return qg_usage_error(&qg_command_ppl, "--separator is a token or none, not '%s'", optarg);
    q->separator = (uint32_t)x;
    return QG_EXIT_OK;
}

static int take_path(struct request *q)
{
    q->side[QG_PREPARED] = strcmp(optarg, "convert") != 0;
    q->side[QG_CONVERTED] = strcmp(optarg, "prepare") != 0;
    if (strcmp(optarg, "both") == 0 || q->side[QG_PREPARED] != q->side[QG_CONVERTED])
        return QG_EXIT_OK;
    return qg_usage_error(&qg_command_ppl, "--path is prepare, convert or both, not '%s'", optarg);
}

static int take_level(struct request *q)
{
    char *end;
    q->level = strtod(optarg, &end);
    if (end != optarg && !*end && q->level > 0 && q->level < 1)
        return QG_EXIT_OK;
    return qg_usage_error(&qg_command_ppl, "--level is between 0 and 1, not '%s'", optarg);
}

static int take_backend(struct request *q)
{
    q->backend = optarg;
    return qg_take_backend(&qg_command_ppl, optarg) ? QG_EXIT_OK : QG_EXIT_USAGE;
}

static int take_words(struct request *q, int option)
{
    const struct qg_command *c = &qg_command_ppl;
    switch (option) {
    case OPT_SCHEME:
        return add_list(q, optarg, false);
    case OPT_RECIPE:
        return add_list(q, optarg, true);
    case OPT_ALL:
        return add_all(q);
    case OPT_PATH:
        return take_path(q);
    case OPT_SEPARATOR:
        return take_separator(q);
    case OPT_LEVEL:
        return take_level(q);
    case OPT_BACKEND:
        return take_backend(q);
    case OPT_DTYPE:
        return qg_take_dtype(c, optarg, &q->dtype) ? QG_EXIT_OK : QG_EXIT_USAGE;
    case OPT_FORMAT:
        q->json = strcmp(optarg, "json") == 0;
        return q->json || strcmp(optarg, "text") == 0
                   ? QG_EXIT_OK
                   : qg_usage_error(c, "--format is text or json, not '%s'", optarg);
    default:
        return qg_usage_error(c, "bad option");
    }
}

static int take(struct request *q, int option)
{
    switch (option) {
    case OPT_TOKENS:
        q->tokens = optarg;
        return QG_EXIT_OK;
    case OPT_SET:
        q->set = optarg;
        return QG_EXIT_OK;
    case OPT_TENSORS:
        q->pattern = optarg;
        return QG_EXIT_OK;
    case OPT_CONTEXT:
        return take_number("--context", MOST_CONTEXT, &q->context);
    case OPT_DOCUMENTS:
        return take_number("--documents", UINT32_MAX, &q->documents);
    case OPT_THREADS:
        return take_number("--threads", MOST_THREADS, &q->threads);
    case OPT_BYTES:
        return take_number("--bytes", (uint64_t)1 << 53, &q->bytes);
    case OPT_WORDS:
        return take_number("--words", (uint64_t)1 << 53, &q->words);
    case OPT_CACHE:
        q->cache = optarg;
        return QG_EXIT_OK;
    case OPT_NO_CACHE:
        q->no_cache = true;
        return QG_EXIT_OK;
    case OPT_RESUME:
        q->resume = true;
        return QG_EXIT_OK;
    case OPT_FORCE:
        q->mode = QG_RESULT_REPLACE;
        return QG_EXIT_OK;
    case OPT_ADD:
        q->mode = QG_RESULT_ADD;
        return QG_EXIT_OK;
    case 'o':
        q->out = optarg;
        return QG_EXIT_OK;
    case 'v':
        q->verbose = true;
        return QG_EXIT_OK;
    default:
        return take_words(q, option);
    }
}

/* --set is of the one scheme that there is. */
static int take_set(struct request *q)
{
    if (!q->set)
        return QG_EXIT_OK;
    if (q->n != 1 || !q->candidate[0].scheme || q->candidate[0].set)
        return qg_usage_error(&qg_command_ppl, "--set is of one --scheme; of several, write "
                                               "--scheme 'int4 group=32,int8'");
    q->candidate[0].set = q->set;
    return QG_EXIT_OK;
}

/* Parameters are checked before any work. */
static int check_params(const struct request *q)
{
    struct qg_error err;
    for (size_t i = 0; i < q->n; i++) {
        struct qg_args a = {0};
        const struct candidate *c = &q->candidate[i];
        if (c->set && !c->scheme)
            return qg_usage_error(&qg_command_ppl, "'none' has no parameters");
        if (c->scheme)
            qg_params_default(&a, c->scheme);
        if (c->set && qg_params_parse(&a, c->scheme, c->set, &err) != QG_OK)
            return qg_usage_error(&qg_command_ppl, "%s", err.message);
    }
    return QG_EXIT_OK;
}

static int parse(struct request *q, int argc, char **argv)
{
    int code = QG_EXIT_OK;
    *q = (struct request){.model = QG_SOURCE_ROOT "/golden/lm/model",
                          .tokens = QG_SOURCE_ROOT "/golden/lm/heldout.txt",
                          .side = {true, true},
                          .dtype = QG_INPUT,
                          .threads = (uint64_t)qg_processors(),
                          .level = 0.95};
    optind = 1;
    for (int o; !code && (o = getopt_long(argc, argv, "o:v", options, NULL)) != -1;)
        code = take(q, o);
    if (code != QG_EXIT_OK)
        return code;
    if (optind < argc)
        q->model = argv[optind++];
    if (optind < argc)
        return qg_usage_error(&qg_command_ppl, "'%s' is one word too many", argv[optind]);
    if ((q->resume || q->mode != QG_RESULT_NEW) && !q->out)
        return qg_usage_error(&qg_command_ppl, "--%s the file of -o",
                              q->resume                      ? "resume goes on with"
                              : q->mode == QG_RESULT_REPLACE ? "force replaces"
                                                             : "add adds to");
    if (q->n == 0 && (code = add_candidate(q, (struct candidate){0})) != QG_EXIT_OK)
        return code;
    code = take_set(q);
    return code == QG_EXIT_OK ? check_params(q) : code;
}

/* --- the run --------------------------------------------------------------------------------- */

static enum qg_status open_results(struct session *s, struct qg_meta *meta, struct qg_error *err)
{
    qg_describe_program(meta);
    qg_meta_set(meta, "suite", "ppl");
    qg_meta_set(meta, "weights", s->q->model);
    if (!s->q->out)
        return QG_OK;
    return qg_result_create(s->q->out, meta, s->q->resume, s->q->mode, &s->writer, err);
}

static enum qg_status run_all(struct session *s, struct qg_error *err)
{
    if (open_all(s, err) != QG_OK)
        return err->status;
    enum qg_status status = QG_OK;
    for (size_t i = 0; i < s->q->n && status == QG_OK && !s->stopped; i++)
        status = try_candidate(s, &s->q->candidate[i], err);
    return status;
}

static int finish(struct session *s, const struct qg_meta *meta)
{
    const struct qg_command *c = &qg_command_ppl;
    struct qg_error err;
    struct qg_result r = {.meta = *meta, .modelled = s->row, .n_modelled = s->n_rows};
    if (s->stopped) {
        print_rows(s);
        if (s->writer)
            fprintf(stderr,
                    "qgauge ppl: stopped by a signal; %s holds what is done; the same "
                    "command with --resume goes on\n",
                    qg_result_journal(s->writer));
        qg_result_abandon(&s->writer);
        return 128 + qg_signal_seen();
    }
    if ((s->writer && qg_result_close(&s->writer, &err) != QG_OK) ||
        (s->q->json && qg_export_json(&r, stdout, &err) != QG_OK))
        return qg_report_error(c, &err);
    print_rows(s);
    for (size_t i = 0; !s->q->json && !s->q->verbose && i < s->n_rows; i++)
        if (s->row[i].reason[0]) {
            puts("-: not evaluated; -v says why");
            break;
        }
    return s->faults ? QG_EXIT_FAIL : s->evaluated ? QG_EXIT_OK : QG_EXIT_SKIP;
}

static int run(int argc, char **argv)
{
    struct request q;
    struct qg_error err = {QG_OK, ""};
    struct qg_meta meta = {0};
    struct session s = {.q = &q, .bar = qg_bar_wanted()};
    int code = parse(&q, argc, argv);
    if (code == QG_EXIT_OK) {
        qg_catch_signals();
        enum qg_status status = open_results(&s, &meta, &err);
        if (status == QG_OK)
            status = run_all(&s, &err);
        clear_bar(&s);
        if (status == QG_OK) {
            code = finish(&s, &meta);
        } else {
            code = qg_report_error(&qg_command_ppl, &err);
            qg_result_abandon(&s.writer);
        }
    }
    close_all(&s);
    for (size_t i = 0; i < q.n_lists; i++)
        free(q.lists[i]);
    free(q.candidate);
    return code;
}

const struct qg_command qg_command_ppl = {
    .name = "ppl",
    .summary = "what schemes do to a language model: perplexity and KL, with intervals",
    .help =
        "usage: qgauge ppl [MODEL] [--scheme LIST] [--recipe LIST] [--all] [OPTION]...\n"
        "\n"
        "Runs a text through a language model (a Hugging Face folder of Llama's family) as it is "
        "and\n"
        "under schemes, through their own prepare paths and kernels. Without MODEL: the small "
        "model of\n"
        "bytes that comes with qgauge, and the text that it never saw.\n"
        "\n"
        "  --scheme LIST     schemes, each on all linear layers but the head: int8,'intx "
        "bits=3',none\n"
        "  --set PARAMS      with these parameters, of one scheme\n"
        "  --tensors REGEX   on the matrices whose name matches instead (POSIX extended)\n"
        "  --recipe LIST     recipes: shipped ones or .yaml files (qgauge recipe)\n"
        "  --all             every scheme\n"
        "  --path PATH       prepare (as training sees it), convert (as it is shipped) or both\n"
        "  --backend NAME    of the kernels that multiply; otherwise the fastest there is\n"
        "  --dtype DTYPE     that layers take and give: BF16, F16 or F32; otherwise the "
        "checkpoint's\n"
        "  --tokens FILE     the text: .npy, .u16 or .u32 token ids; for a model of bytes any "
        "file\n"
        "  --separator N     the token between documents (config.json's bos_token_id), or none\n"
        "  --documents N     the first N documents only\n"
        "  --context N       tokens in a window; otherwise as many as the model was made for\n"
        "  --bytes N         bytes, and\n"
        "  --words N         words of the text that the ids stand for\n"
        "  --level P         of the intervals: 0.95\n"
        "  --threads N       default: one per processor; numbers do not depend on it\n"
        "  --cache DIR       where base logits are kept: $XDG_CACHE_HOME/qgauge, "
        "~/.cache/qgauge\n"
        "  --no-cache        they are kept in memory\n"
        "  -o RESULTS.h5     all of it into a result file, table /lm; --force replaces the file,\n"
        "                    --add puts it beside what a run of this build left there\n"
        "  --resume          goes on where an interrupted run stopped\n"
        "  --format json     all of it as JSON\n"
        "  -v, --verbose     more of each line, and why a scheme has none\n"
        "\n"
        "Every token is scored once, in windows as lm-evaluation-harness cuts them. delta ln ppl "
        "and KL\n"
        "(of the base's predictions to the candidate's, in binary64: equal models give exactly 0) "
        "are\n"
        "paired token by token with the model as it is; ± is half of a two-sided interval over\n"
        "documents (over windows where there are less than 32 documents). bits: of the whole "
        "model per\n"
        "parameter. gap: what the converted model loses against the prepared one, paired.\n"
        "\n"
        "better, worse: the interval of delta ln ppl leaves 0 out; cannot tell: it does not; "
        "equal:\n"
        "not one token differs.\n"
        "\n"
        "Exit codes: 0 done, whatever the numbers; 1 the model or the text is not what it should "
        "be, or\n"
        "logits are not finite; 2 usage; 77 no scheme could be evaluated; 130 Ctrl-C.\n",
    .run = run,
};
