/* SPDX-License-Identifier: MIT
 *
 * qgauge lm qat: fine-tuning under schemes, and what it recovers.
 */
#define _GNU_SOURCE /* getopt_long */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "harness/base/processors.h"
#include "harness/bench.h"
#include "harness/cli/lm.h"
#include "harness/lm/heldout.h"
#include "harness/lm/qat.h"
#include "reports/put.h"

enum { MOST_CHOICES = 32, MOST_SEEDS = 32, MOST_PREDICTED = 4096 };

static const char *const side_names[] = {
    [QG_QAT_BASE] = "base",         [QG_QAT_PTQ] = "ptq",
    [QG_QAT_CONTROL] = "control",   [QG_QAT_CONTROL_PTQ] = "control ptq",
    [QG_QAT_PREPARED] = "prepared", [QG_QAT_CONVERTED] = "converted"};

struct request {
    struct qg_lm_request common;
    const char *model, *prompt, *backend;
    struct {
        char *word; /* as it was given: "int4 group=32", or a recipe's name */
        bool is_recipe;
    } choice[MOST_CHOICES];
    size_t n_choices;
    size_t rank;
    double alpha;
    uint64_t seeds, documents, predict;
    bool untie;
};

/* A choice on the model. */
struct candidate {
    const char *word;
    struct qg_recipe *recipe;
    struct qg_recipe_plan plan;
};

struct session {
    const struct request *q;
    struct qg_model *model;
    struct candidate of[MOST_CHOICES];
    struct qg_tokens text;
    struct qg_heldout holdout;
    struct qg_logits *logits; /* of the base, of the held-out text */
    struct qg_lm *base;
    double *base_nll;
    struct {
        uint64_t model, text, holdout;
    } hash;
    struct {
        struct qg_lm *lm;
        double *nll;
    } control[MOST_SEEDS];
    char *done; /* rows of an earlier run */
    FILE *out;
    double start, shown;
    bool bar;
    char task[96]; /* what is being done, for the bar */
};

static bool is_adapted(const struct request *q)
{
    return q->rank != 0;
}

/* --- progress -------------------------------------------------------------------------------- */

static void tell(struct session *s, double share, const char *amount)
{
    double now = qg_clock_now();
    if (!s->bar || now - s->shown < 0.3)
        return;
    qg_bar_draw(share, amount, (double)NAN, s->task);
    s->shown = now;
}

static bool on_step(void *user, const struct qg_train_step *step, uint64_t done)
{
    struct session *s = user;
    char amount[64];
    snprintf(amount, sizeof amount, "%" PRIu64 "/%" PRIu64 " steps, %.4f bits", done,
             s->q->common.train.steps, step->loss / log(2));
    tell(s, (double)done / (double)s->q->common.train.steps, amount);
    return qg_signal_seen() != 0;
}

static bool on_tokens(void *user, size_t done, size_t total)
{
    char amount[64];
    snprintf(amount, sizeof amount, "%zu/%zu tokens", done, total);
    tell(user, (double)done / (double)total, amount);
    return qg_signal_seen() != 0;
}

/* --- scoring --------------------------------------------------------------------------------- */

static struct qg_evaluation evaluation(struct session *s)
{
    return (struct qg_evaluation){.tokens = &s->holdout.tokens,
                                  .windows = &s->holdout.windows,
                                  .threads = (int)s->q->common.threads,
                                  .progress = on_tokens,
                                  .user = s};
}

/* -ln p of every scored token, which the caller frees; infinite where logits are not finite. */
static enum qg_status score(struct session *s, const struct qg_lm *m, double **ret_nll,
                            struct qg_error *err)
{
    const struct qg_evaluation e = evaluation(s);
    struct qg_trial t = {.model = {[QG_CONVERTED] = m}};
    enum qg_status status = qg_trial_run(&e, s->logits, &t, err);
    double *nll = status == QG_OK ? malloc(s->holdout.windows.scored * sizeof *nll) : NULL;
    if (status == QG_OK && !nll)
        status = qg_fail(err, QG_ENOMEM, "no memory for scores");
    for (size_t i = 0; nll && !t.stopped && i < s->holdout.windows.scored; i++)
        nll[i] = t.fault[QG_CONVERTED][0] ? (double)INFINITY : t.score[QG_CONVERTED][i].nll;
    qg_trial_free(&t);
    if (status == QG_OK)
        *ret_nll = nll;
    return status;
}

/* The same of a model under a plan. */
static enum qg_status score_under(struct session *s, struct qg_lm *m,
                                  const struct qg_recipe_plan *plan, enum qg_linear_path path,
                                  double **ret_nll, struct qg_error *err)
{
    const struct request *q = s->q;
    if (qg_lm_put(m, plan, path, q->backend, q->common.dtype, false, (int)q->common.threads, err) !=
        QG_OK)
        return err->status;
    return score(s, m, ret_nll, err);
}

/* --- one candidate --------------------------------------------------------------------------- */

static enum qg_status train(struct session *s, const struct qg_recipe_plan *plan, uint64_t seed,
                            struct qg_qat_run *ret_r, struct qg_error *err)
{
    const struct request *q = s->q;
    struct qg_qat o = {
        .model = s->model,
        .untie = q->untie,
        .text = {s->text.id + s->text.document[0].first, s->text.n - s->text.document[0].first},
        .train = q->common.train,
        .rank = q->rank,
        .alpha = q->alpha,
        .dtype = q->common.dtype,
        .threads = (int)q->common.threads,
        .progress = on_step,
        .user = s};
    o.train.seed += seed;
    return qg_qat_train(&o, plan, ret_r, err);
}

/* The control of a seed, once for all candidates. */
static enum qg_status need_control(struct session *s, uint64_t seed, struct qg_error *err)
{
    struct qg_qat_run r;
    if (s->control[seed].lm)
        return QG_OK;
    snprintf(s->task, sizeof s->task, "control, seed %" PRIu64, s->q->common.train.seed + seed);
    if (train(s, NULL, seed, &r, err) != QG_OK)
        return err->status;
    s->control[seed].lm = r.lm;
    if (r.stopped)
        return QG_OK;
    if (r.steps < s->q->common.train.steps)
        return qg_fail(err, QG_EFORMAT, "the control diverged at step %" PRIu64 ": lower --lr",
                       r.steps + 1);
    return score_under(s, r.lm, NULL, QG_LINEAR_PLAIN, &s->control[seed].nll, err);
}

/* What is kept of a candidate's runs. */
struct runs {
    double *nll[MOST_SEEDS][QG_QAT_SIDES];
    uint64_t least_steps;
    struct qg_lm *first; /* of the first seed, converted */
    size_t shipped, model_bytes, trainer_bytes;
};

static enum qg_status run_seed(struct session *s, struct candidate *c, uint64_t seed,
                               struct runs *ret, struct qg_error *err)
{
    struct qg_qat_run r = {0};
    double **nll = ret->nll[seed];
    uint64_t number = s->q->common.train.seed + seed;
    if (need_control(s, seed, err) != QG_OK)
        return err->status;
    nll[QG_QAT_BASE] = s->base_nll;
    nll[QG_QAT_PTQ] = ret->nll[0][QG_QAT_PTQ];
    nll[QG_QAT_CONTROL] = s->control[seed].nll;
    snprintf(s->task, sizeof s->task, "%.60s, seed %" PRIu64, c->word, number);
    if (qg_signal_seen() ||
        score_under(s, s->control[seed].lm, &c->plan, QG_LINEAR_CONVERTED, &nll[QG_QAT_CONTROL_PTQ],
                    err) != QG_OK ||
        qg_signal_seen() || train(s, &c->plan, seed, &r, err) != QG_OK)
        return qg_signal_seen() ? QG_OK : err->status;
    ret->least_steps = r.steps < ret->least_steps ? r.steps : ret->least_steps;
    ret->model_bytes = r.model_bytes;
    ret->trainer_bytes = r.trainer_bytes;
    enum qg_status status = QG_OK;
    if (!is_adapted(s->q) && !r.stopped)
        status = score_under(s, r.lm, &c->plan, QG_LINEAR_PREPARED, &nll[QG_QAT_PREPARED], err);
    if (status == QG_OK && !r.stopped)
        status = score_under(s, r.lm, &c->plan, QG_LINEAR_CONVERTED, &nll[QG_QAT_CONVERTED], err);
    ret->shipped = qg_lm_bytes(r.lm);
    if (seed == 0 && status == QG_OK)
        ret->first = r.lm;
    else
        qg_lm_free(&r.lm);
    return status;
}

static void free_runs(struct session *s, struct runs *r)
{
    free(r->nll[0][QG_QAT_PTQ]);
    for (uint64_t k = 0; k < s->q->seeds; k++) {
        free(r->nll[k][QG_QAT_CONTROL_PTQ]);
        free(r->nll[k][QG_QAT_PREPARED]);
        free(r->nll[k][QG_QAT_CONVERTED]);
    }
    qg_lm_free(&r->first);
}

/* --- what it says ---------------------------------------------------------------------------- */

static double bits(double nats)
{
    return nats / log(2);
}

/* Worse or better by both intervals, or nobody can tell. */
static const char *verdict(const struct qg_qat_estimate *e)
{
    const char *seeds = qg_verdict_of_difference(&e->seeds);
    return strcmp(seeds, qg_verdict_of_difference(&e->text)) == 0 ? seeds : "cannot tell";
}

static void print_difference(const char *what, const struct qg_qat_estimate *e)
{
    printf("  %-26s %+.4f  [%+.4f, %+.4f] over seeds  [%+.4f, %+.4f] over text  %s\n", what,
           bits(e->seeds.value), bits(e->seeds.low), bits(e->seeds.high), bits(e->text.low),
           bits(e->text.high), verdict(e));
}

static void print_outcome(const struct session *s, const struct candidate *c, const struct runs *r,
                          const struct qg_qat_outcome *o)
{
    const struct request *q = s->q;
    if (s->bar)
        qg_bar_clear();
    printf("%s", c->word);
    if (is_adapted(q))
        printf(", adapters of rank %zu", q->rank);
    printf(": %" PRIu64 " seeds, %" PRIu64 " steps of %zu x %zu, lr %g\n", q->seeds,
           q->common.train.steps, q->common.train.batch, q->common.train.length,
           q->common.train.lr);
    for (int i = 0; i < QG_QAT_SIDES; i++)
        if (o->loss[i].seeds.value == o->loss[i].seeds.value)
            printf("  %-26s  %.4f bits per token\n", side_names[i], bits(o->loss[i].seeds.value));
    print_difference("control ptq - control", &o->cost);
    print_difference("converted - control ptq", &o->gain);
    if (!is_adapted(q))
        print_difference("converted - prepared", &o->gap);
    printf("  %-26s  %.1f %%  [%.1f, %.1f] over seeds  [%.1f, %.1f] over text\n",
           "recovered of PTQ's loss", 100 * o->recovered.seeds.value, 100 * o->recovered.seeds.low,
           100 * o->recovered.seeds.high, 100 * o->recovered.text.low,
           100 * o->recovered.text.high);
    printf("  %.2f MiB shipped; training held %.1f MiB of parameters, %.1f MiB of gradients and "
           "moments\n",
           (double)r->shipped / 0x1p20, (double)r->model_bytes / 0x1p20,
           (double)r->trainer_bytes / 0x1p20);
    if (r->least_steps < q->common.train.steps)
        printf("  diverged after %" PRIu64 " steps\n", r->least_steps);
    fflush(stdout);
}

/* What decides every number of a row: its first columns. */
enum {
    KEY_SCHEME,
    KEY_RANK,
    KEY_ALPHA,
    KEY_SEEDS,
    KEY_FIRST_SEED,
    KEY_STEPS,
    KEY_BATCH,
    KEY_LENGTH,
    KEY_LR,
    KEY_WARMUP,
    KEY_DTYPE,
    KEY_BACKEND,
    KEY_MODEL,
    KEY_TEXT,
    KEY_HOLDOUT,
    KEYS
};
static const char *const key_names[KEYS] = {"scheme", "rank",    "alpha",  "seeds", "first_seed",
                                            "steps",  "batch",   "length", "lr",    "warmup",
                                            "dtype",  "backend", "model",  "text",  "holdout"};

struct key {
    char value[KEYS][160];
};

static void set_key(struct key *k, int i, const char *value)
{
    snprintf(k->value[i], sizeof k->value[i], "%s", value);
}

static void set_whole(struct key *k, int i, uint64_t value)
{
    snprintf(k->value[i], sizeof k->value[i], "%" PRIu64, value);
}

static void set_hash(struct key *k, int i, uint64_t hash)
{
    snprintf(k->value[i], sizeof k->value[i], "%016" PRIx64, hash);
}

/* Model and texts by their hashes: the held-out one as far as it is measured. */
static struct key make_key(const struct session *s, const struct candidate *c)
{
    const struct request *q = s->q;
    const struct qg_train_options *o = &q->common.train;
    struct key k;
    set_key(&k, KEY_SCHEME, c->word);
    set_whole(&k, KEY_RANK, q->rank);
    set_key(&k, KEY_ALPHA, is_adapted(q) ? qg_text_exact(q->alpha).s : "-");
    set_whole(&k, KEY_SEEDS, q->seeds);
    set_whole(&k, KEY_FIRST_SEED, o->seed);
    set_whole(&k, KEY_STEPS, o->steps);
    set_whole(&k, KEY_BATCH, o->batch);
    set_whole(&k, KEY_LENGTH, o->length);
    set_key(&k, KEY_LR, qg_text_exact(o->lr).s);
    set_whole(&k, KEY_WARMUP, o->warmup);
    set_key(&k, KEY_DTYPE, q->common.dtype == QG_INPUT ? "-" : qg_dtype_name(q->common.dtype));
    set_key(&k, KEY_BACKEND, q->backend ? q->backend : "-");
    set_hash(&k, KEY_MODEL, s->hash.model);
    set_hash(&k, KEY_TEXT, s->hash.text);
    set_hash(&k, KEY_HOLDOUT, s->hash.holdout);
    return k;
}

/* Columns of the table that -o writes; estimates in bits per token, the share as such. */
static void write_head(FILE *f)
{
    for (int i = 0; i < KEYS; i++)
        fprintf(f, "%s\t", key_names[i]);
    fputs("least_steps\ttokens", f);
    for (int i = 0; i < QG_QAT_SIDES; i++)
        fprintf(f, "\t%s", side_names[i]);
    static const char *const what[] = {"cost", "gain", "gap", "recovered"};
    for (size_t i = 0; i < sizeof what / sizeof what[0]; i++)
        fprintf(f, "\t%s\t%s_seeds_low\t%s_seeds_high\t%s_text_low\t%s_text_high", what[i], what[i],
                what[i], what[i], what[i]);
    fputs("\tshipped_bytes\tmodel_bytes\ttrainer_bytes\n", f);
}

static void write_estimate(FILE *f, const struct qg_qat_estimate *e, double unit)
{
    fprintf(f, "\t%.6g\t%.6g\t%.6g\t%.6g\t%.6g", e->seeds.value / unit, e->seeds.low / unit,
            e->seeds.high / unit, e->text.low / unit, e->text.high / unit);
}

static void write_row(const struct session *s, const struct candidate *c, const struct runs *r,
                      const struct qg_qat_outcome *o)
{
    const struct key k = make_key(s, c);
    for (int i = 0; i < KEYS; i++)
        fprintf(s->out, "%s\t", k.value[i]);
    fprintf(s->out, "%" PRIu64 "\t%zu", r->least_steps, s->holdout.windows.scored);
    for (int i = 0; i < QG_QAT_SIDES; i++)
        fprintf(s->out, "\t%.6g", bits(o->loss[i].seeds.value));
    write_estimate(s->out, &o->cost, log(2));
    write_estimate(s->out, &o->gain, log(2));
    write_estimate(s->out, &o->gap, log(2));
    write_estimate(s->out, &o->recovered, 1);
    fprintf(s->out, "\t%zu\t%zu\t%zu\n", r->shipped, r->model_bytes, r->trainer_bytes);
}

/* --- one prompt ------------------------------------------------------------------------------ */

static enum qg_status continue_one(const struct session *s, const char *what, struct qg_lm *m,
                                   const struct qg_recipe_plan *plan, struct qg_error *err)
{
    const struct request *q = s->q;
    size_t n = strlen(q->prompt), at = 0;
    uint32_t *tokens = calloc(n + q->predict + 1, sizeof *tokens);
    if (!tokens)
        return qg_fail(err, QG_ENOMEM, "no memory for a prompt");
    if (m->config.has_separator)
        tokens[at++] = m->config.separator;
    for (size_t i = 0; i < n; i++)
        tokens[at++] = (unsigned char)q->prompt[i];
    enum qg_status status =
        qg_lm_put(m, plan, plan ? QG_LINEAR_CONVERTED : QG_LINEAR_PLAIN, q->backend,
                  q->common.dtype, false, (int)q->common.threads, err);
    if (status == QG_OK)
        status = qg_lm_continue(m, tokens, at, q->predict, err);
    printf("  %-12s| %s", what, q->prompt);
    for (size_t i = at; status == QG_OK && i < at + q->predict; i++)
        if (tokens[i] >= ' ' && tokens[i] < 127)
            putchar((int)tokens[i]);
        else
            printf("%s", tokens[i] == '\n' ? "\\n" : tokens[i] == '\f' ? "\\f" : ".");
    putchar('\n');
    free(tokens);
    return status;
}

static enum qg_status converse(struct session *s, const struct candidate *c, struct runs *r,
                               struct qg_error *err)
{
    if (!s->q->prompt)
        return QG_OK;
    if (s->bar)
        qg_bar_clear();
    if (continue_one(s, side_names[QG_QAT_BASE], s->base, NULL, err) != QG_OK ||
        continue_one(s, side_names[QG_QAT_PTQ], s->base, &c->plan, err) != QG_OK ||
        continue_one(s, side_names[QG_QAT_CONTROL], s->control[0].lm, NULL, err) != QG_OK ||
        continue_one(s, side_names[QG_QAT_CONTROL_PTQ], s->control[0].lm, &c->plan, err) != QG_OK)
        return err->status;
    return continue_one(s, side_names[QG_QAT_CONVERTED], r->first, &c->plan, err);
}

/* --- all of it ------------------------------------------------------------------------------- */

/* Says that a row of the same scheme is of another run. */
static void tell_difference(const struct key *was, const struct key *is)
{
    fprintf(stderr, "qgauge lm: there is a row of %s with", is->value[KEY_SCHEME]);
    const char *separator = " ";
    for (int i = 0; i < KEYS; i++)
        if (strcmp(was->value[i], is->value[i]) != 0) {
            fprintf(stderr, "%s%s %s in place of %s", separator, key_names[i], was->value[i],
                    is->value[i]);
            separator = ", ";
        }
    fputs(": it is done anew\n", stderr);
}

/* Reads the key of the row that begins at *rest, which goes to the next one; false at the end. */
static bool next_key(const char **rest, struct key *ret_k)
{
    size_t end = strcspn(*rest, "\n");
    const char *at = *rest, *behind = *rest + end;
    for (int i = 0; i < KEYS; i++) {
        size_t n = strcspn(at, "\t\n");
        snprintf(ret_k->value[i], sizeof ret_k->value[i], "%.*s", (int)n, at);
        at += n + (at + n < behind);
    }
    *rest = behind + (*behind == '\n');
    return end != 0;
}

static bool is_done(const struct session *s, const struct candidate *c)
{
    const struct key k = make_key(s, c);
    struct key row, nearest;
    int most = 0; // fields that a row of the same scheme shares
    for (const char *rest = s->done ? s->done : ""; next_key(&rest, &row);) {
        int same = 0;
        for (int i = 0; i < KEYS; i++)
            same += strcmp(row.value[i], k.value[i]) == 0;
        if (same == KEYS)
            return true;
        if (same > most && strcmp(row.value[KEY_SCHEME], k.value[KEY_SCHEME]) == 0) {
            most = same;
            nearest = row;
        }
    }
    if (most)
        tell_difference(&nearest, &k);
    return false;
}

static enum qg_status run_candidate(struct session *s, struct candidate *c, struct qg_error *err)
{
    struct runs r = {.least_steps = s->q->common.train.steps};
    struct qg_qat_outcome o;
    snprintf(s->task, sizeof s->task, "%.60s", c->word);
    enum qg_status status =
        score_under(s, s->base, &c->plan, QG_LINEAR_CONVERTED, &r.nll[0][QG_QAT_PTQ], err);
    for (uint64_t k = 0; k < s->q->seeds && status == QG_OK && !qg_signal_seen(); k++)
        status = run_seed(s, c, k, &r, err);
    if (status == QG_OK && !qg_signal_seen())
        status =
            qg_qat_compare((double *const(*)[QG_QAT_SIDES])r.nll, s->q->seeds, s->holdout.cluster,
                           s->holdout.windows.scored, s->holdout.clusters, 0.95, &o, err);
    if (status == QG_OK && !qg_signal_seen()) {
        print_outcome(s, c, &r, &o);
        if (s->out) {
            write_row(s, c, &r, &o);
            if (fflush(s->out) != 0)
                status = qg_fail(err, QG_EIO, "%s: %s", s->q->common.out, strerror(errno));
        }
        if (status == QG_OK)
            status = converse(s, c, &r, err);
    }
    free_runs(s, &r);
    return status == QG_OK ? QG_OK : qg_context(err, "%s", c->word);
}

static enum qg_status run_all(struct session *s, struct qg_error *err)
{
    const struct request *q = s->q;
    const struct qg_evaluation e = evaluation(s);
    bool stopped;
    snprintf(s->task, sizeof s->task, "base");
    if (qg_evaluate_base(&e, s->base, s->logits, &stopped, err) != QG_OK ||
        qg_logits_finish(s->logits, err) != QG_OK || score(s, s->base, &s->base_nll, err) != QG_OK)
        return err->status;
    for (size_t i = 0; i < q->n_choices && !qg_signal_seen(); i++) {
        if (is_done(s, &s->of[i]))
            fprintf(stderr, "qgauge lm: %s is done already\n", s->of[i].word);
        else if (run_candidate(s, &s->of[i], err) != QG_OK)
            return err->status;
    }
    return QG_OK;
}

static void print_refusal(const char *sentence, void *user)
{
    (void)user;
    fprintf(stderr, "qgauge lm: %s\n", sentence);
}

/* "int4 group=32" or a recipe's name, on the model. */
static enum qg_status open_candidate(struct session *s, size_t i, struct qg_error *err)
{
    struct candidate *c = &s->of[i];
    char *word = s->q->choice[i].word, name[64];
    c->word = word;
    if (s->q->choice[i].is_recipe) {
        if (qg_recipe_open(word, &c->recipe, err) != QG_OK)
            return err->status;
    } else {
        size_t n = strcspn(word, " ");
        snprintf(name, sizeof name, "%.*s", (int)n, word);
        const struct qg_scheme *scheme = qg_scheme_find(name);
        if (!scheme)
            return qg_fail(err, QG_EINVAL, "there is no scheme '%s' (qgauge list schemes)", name);
        if (qg_recipe_make(scheme, word[n] ? word + n + 1 : NULL, NULL, &c->recipe, err) != QG_OK)
            return err->status;
    }
    return qg_recipe_apply(c->recipe, s->model, print_refusal, NULL, &c->plan, err);
}

static enum qg_status open_texts(struct session *s, struct qg_error *err)
{
    const struct request *q = s->q;
    const struct qg_lm_config *c = &s->base->config;
    const uint32_t *separator = qg_lm_separator(c);
    if (qg_tokens_read(q->common.text, c->vocab, separator, 0, &s->text, err) != QG_OK ||
        qg_heldout_read(q->common.holdout, c, separator, (size_t)q->documents, c->context,
                        &s->holdout, err) != QG_OK)
        return err->status;
    const struct qg_logits_shape shape = {s->holdout.windows.n, s->holdout.windows.context,
                                          c->vocab};
    return qg_logits_create(NULL, "", &shape, &s->logits, err);
}

/* Whether a table begins with our columns. */
static bool has_columns(const char *table)
{
    char *head = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&head, &n);
    if (!f)
        return false;
    write_head(f);
    bool same = fclose(f) == 0 && strncmp(table, head, n) == 0;
    free(head);
    return same;
}

static enum qg_status read_table(struct session *s, struct qg_error *err)
{
    const char *path = s->q->common.out;
    size_t size = 0;
    if (!path)
        return QG_OK;
    bool exists = access(path, F_OK) == 0;
    if (exists && !s->q->common.resume)
        return qg_fail(err, QG_EINVAL, "%s exists: --resume appends what it lacks", path);
    FILE *f = fopen(path, "a+");
    if (!f || (exists && getdelim(&s->done, &size, '\0', f) < 0 && ferror(f))) {
        if (f)
            fclose(f);
        return qg_fail(err, QG_EIO, "%s: %s", path, strerror(errno));
    }
    s->out = f;
    if (!s->done || !*s->done)
        write_head(f);
    else if (!has_columns(s->done))
        return qg_fail(err, QG_EFORMAT,
                       "%s: its columns are not those of this table; give another file", path);
    return QG_OK;
}

static enum qg_status begin(struct session *s, struct request *q, struct qg_error *err)
{
    if (qg_model_open(q->model, &s->model, err) != QG_OK ||
        qg_lm_load(s->model, q->untie, &s->base, err) != QG_OK)
        return err->status;
    q->common.train.length =
        q->common.train.length ? q->common.train.length : s->base->config.context;
    if (q->prompt && s->base->config.vocab != 256)
        return qg_fail(err, QG_EINVAL, "--prompt: the model's tokens are not bytes");
    for (size_t i = 0; i < q->n_choices; i++)
        if (open_candidate(s, i, err) != QG_OK)
            return err->status;
    if (open_texts(s, err) != QG_OK)
        return err->status;
    if (qg_lm_put(s->base, NULL, QG_LINEAR_PLAIN, NULL, q->common.dtype, false,
                  (int)q->common.threads, err) != QG_OK)
        return err->status;
    s->hash.model = qg_lm_hash(s->base);
    s->hash.text = qg_text_hash(&s->text);
    s->hash.holdout = qg_text_hash(&s->holdout.tokens);
    return read_table(s, err);
}

static void end(struct session *s)
{
    for (size_t i = 0; i < s->q->n_choices; i++) {
        qg_recipe_plan_free(&s->of[i].plan);
        qg_recipe_close(&s->of[i].recipe);
    }
    for (size_t i = 0; i < MOST_SEEDS; i++) {
        qg_lm_free(&s->control[i].lm);
        free(s->control[i].nll);
    }
    if (s->out)
        fclose(s->out);
    free(s->done);
    free(s->base_nll);
    qg_logits_close(&s->logits);
    qg_tokens_free(&s->text);
    qg_heldout_free(&s->holdout);
    qg_lm_free(&s->base);
    qg_model_close(&s->model);
}

/* --- options --------------------------------------------------------------------------------- */

enum {
    OPT_SCHEME = 1,
    OPT_RECIPE,
    OPT_SEEDS,
    OPT_LORA,
    OPT_ALPHA,
    OPT_BACKEND,
    OPT_DOCUMENTS,
    OPT_PROMPT,
    OPT_PREDICT,
    OPT_UNTIE,
};

static const struct option options[] = {
    {"scheme", required_argument, NULL, OPT_SCHEME},
    {"recipe", required_argument, NULL, OPT_RECIPE},
    {"seeds", required_argument, NULL, OPT_SEEDS},
    {"lora", required_argument, NULL, OPT_LORA},
    {"alpha", required_argument, NULL, OPT_ALPHA},
    {"backend", required_argument, NULL, OPT_BACKEND},
    {"documents", required_argument, NULL, OPT_DOCUMENTS},
    {"prompt", required_argument, NULL, OPT_PROMPT},
    {"predict", required_argument, NULL, OPT_PREDICT},
    {"untie", no_argument, NULL, OPT_UNTIE},
    QG_LM_OPTIONS,
    {NULL, 0, NULL, 0},
};

/* Appends the words of a list with commas; cuts the argument in place. */
static bool add_choices(struct request *q, char *list, bool recipes)
{
    char *rest = list;
    for (char *word; (word = strsep(&rest, ","));) {
        if (q->n_choices == MOST_CHOICES || !*word) {
            qg_usage_error(&qg_command_lm,
                           !*word ? "an empty name in the list of %ss" : "too many %ss",
                           recipes ? "recipe" : "scheme");
            return false;
        }
        q->choice[q->n_choices].word = word;
        q->choice[q->n_choices++].is_recipe = recipes;
    }
    return true;
}

static bool take(struct request *q, int option)
{
    switch (option) {
    case OPT_PROMPT:
        return (q->prompt = optarg) != NULL;
    case OPT_BACKEND:
        return (q->backend = optarg) != NULL;
    case OPT_SCHEME:
        return add_choices(q, optarg, false);
    case OPT_RECIPE:
        return add_choices(q, optarg, true);
    case OPT_SEEDS:
        return qg_lm_take_whole("seeds", 1, MOST_SEEDS, &q->seeds);
    case OPT_LORA:
        return qg_lm_take_size("lora", 1 << 10, &q->rank);
    case OPT_ALPHA:
        return qg_lm_take_real("alpha", 1e-6, 1e6, &q->alpha);
    case OPT_DOCUMENTS:
        return qg_lm_take_whole("documents", 1, 1000000000, &q->documents);
    case OPT_PREDICT:
        return qg_lm_take_whole("predict", 1, MOST_PREDICTED, &q->predict);
    case OPT_UNTIE:
        return q->untie = true;
    default:
        return qg_lm_take(&q->common, option);
    }
}

static int parse(struct request *q, int argc, char **argv)
{
    const struct qg_command *c = &qg_command_lm;
    int option;
    *q = (struct request){.common = {.holdout = QG_SOURCE_ROOT "/golden/lm/heldout.txt",
                                     .train = qg_train_defaults,
                                     .dtype = QG_INPUT,
                                     .threads = (uint64_t)qg_processors()},
                          .model = QG_SOURCE_ROOT "/golden/lm/model",
                          .alpha = 16,
                          .seeds = 3,
                          .predict = 100};
    struct qg_train_options *o = &q->common.train;
    o->steps = 300;
    o->batch = 8;
    o->warmup = 20;
    o->lr = 1e-4;
    o->decay = 0;
    optind = 1;
    while ((option = getopt_long(argc, argv, "o:", options, NULL)) != -1)
        if (!take(q, option))
            return QG_EXIT_USAGE;
    o->lr_end = o->lr / 10;
    if (optind + 1 < argc)
        return qg_usage_error(c, "'%s' is one word too many", argv[optind + 1]);
    if (optind < argc)
        q->model = argv[optind];
    if (!q->common.text)
        return qg_usage_error(c, "give --text FILE to train on");
    if (!q->n_choices)
        return qg_usage_error(c, "give --scheme or --recipe");
    if (q->common.resume && !q->common.out)
        return qg_usage_error(c, "--resume needs -o FILE");
    return QG_EXIT_OK;
}

int qg_lm_qat(int argc, char **argv)
{
    struct request q;
    struct qg_error err;
    struct rusage usage;
    int code = parse(&q, argc, argv);
    if (code != QG_EXIT_OK)
        return code;
    struct session s = {.q = &q, .bar = qg_bar_wanted()};
    enum qg_status status = begin(&s, &q, &err);
    qg_catch_signals();
    if (status == QG_OK)
        status = run_all(&s, &err);
    if (s.bar)
        qg_bar_clear();
    end(&s);
    if (status != QG_OK)
        return qg_report_error(&qg_command_lm, &err);
    if (qg_signal_seen()) {
        fprintf(stderr, "qgauge lm: stopped by a signal%s\n",
                q.common.out ? "; the same command with --resume does what is left" : "");
        return 128 + qg_signal_seen();
    }
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        printf("peak memory of all this: %.0f MiB\n", (double)usage.ru_maxrss / 1024);
    return qg_finish_stdout(&qg_command_lm, QG_EXIT_OK);
}
