/* SPDX-License-Identifier: MIT
 *
 * qgauge lm train: a model from random numbers.
 */
#define _GNU_SOURCE /* getopt_long */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/base/processors.h"
#include "harness/bench.h"
#include "harness/cli/lm.h"
#include "harness/io/json.h"
#include "harness/lm/tokens.h"

enum { HELD_OUT = 64 /* sequences */, ROWS_PER_HELD_OUT = 10 };

static const struct qg_lm_config shape = {.vocab = 256,
                                          .width = 256,
                                          .layers = 4,
                                          .heads = 8,
                                          .kv_heads = 4,
                                          .head = 32,
                                          .hidden = 768,
                                          .context = 256,
                                          .norm_eps = 1e-5,
                                          .rope_theta = 10000,
                                          .separator = '\f',
                                          .has_separator = true};

struct request {
    struct qg_lm_request common;
    const char *config;
    struct qg_lm_config shape;
    uint64_t log_every, save_every;
    bool force;
};

struct session {
    const struct request *q;
    struct qg_lm *lm;
    struct qg_trainer *trainer;
    struct qg_tokens text, holdout;
    FILE *file, *log; /* train.tsv, and the same in memory: log_text */
    char *log_text;
    size_t log_bytes;
    double start, saved, shown;
    uint64_t first; /* steps that an earlier run did */
    bool bar;
};

/* --- files ----------------------------------------------------------------------------------- */

struct path {
    char text[1024];
};

static struct path in_folder(const struct request *q, const char *name)
{
    struct path p;
    snprintf(p.text, sizeof p.text, "%s/%s", q->common.out, name);
    return p;
}

/* A text from its first token on. */
static struct qg_train_text text_of(const struct qg_tokens *t)
{
    size_t first = t->document[0].first;
    return (struct qg_train_text){t->id + first, t->n - first};
}

static enum qg_status check_folder(const struct request *q, struct qg_error *err)
{
    bool begun = access(in_folder(q, "checkpoint.safetensors").text, F_OK) == 0;
    bool done = access(in_folder(q, "model.safetensors").text, F_OK) == 0;
    if (q->common.resume && !begun)
        return qg_fail(err, QG_EINVAL, "--resume: there is no %s",
                       in_folder(q, "checkpoint.safetensors").text);
    if (!q->common.resume && !q->force && (begun || done))
        return qg_fail(err, QG_EINVAL, "%s holds a %s: --force begins anew%s", q->common.out,
                       begun ? "checkpoint" : "model", begun ? ", --resume goes on with it" : "");
    return QG_OK;
}

static enum qg_status read_config(const struct request *q, struct qg_lm_config *ret_c,
                                  struct qg_error *err)
{
    enum { LIMIT = 16 << 20 };
    cJSON *json;
    *ret_c = q->shape;
    if (!q->config)
        return QG_OK;
    if (qg_json_read(q->config, LIMIT, &json, err) != QG_OK)
        return err->status;
    enum qg_status status = qg_lm_config_read(json, q->config, ret_c, err);
    cJSON_Delete(json);
    return status;
}

/* --- the log --------------------------------------------------------------------------------- */

static enum qg_status open_log(struct session *s, const char *earlier, struct qg_error *err)
{
    struct path p = in_folder(s->q, "train.tsv");
    if (mkdir(s->q->common.out, 0777) != 0 && errno != EEXIST)
        return qg_fail(err, QG_EIO, "%s: %s", s->q->common.out, strerror(errno));
    s->log = open_memstream(&s->log_text, &s->log_bytes);
    s->file = fopen(p.text, "w");
    if (!s->log || !s->file)
        return qg_fail(err, QG_EIO, "%s: %s", p.text, strerror(errno));
    const char *head = earlier ? earlier
                               : "step\ttokens\tbits\tholdout_bits\tlr\tgradient_norm\t"
                                 "tokens_per_s\n";
    fputs(head, s->log);
    fputs(head, s->file);
    printf("%.*s", (int)(strcspn(head, "\n") + 1), head);
    return QG_OK;
}

static enum qg_status log_row(struct session *s, const struct qg_train_step *step, bool hold,
                              struct qg_error *err)
{
    uint64_t done = qg_trainer_steps(s->trainer);
    const struct qg_train_options *o = &s->q->common.train;
    double each = (double)(o->batch * o->length), bits = 1 / log(2);
    double speed = each * (double)(done - s->first) / (qg_clock_now() - s->start);
    char row[256], held[32] = "";
    if (hold && s->holdout.n)
        snprintf(held, sizeof held, "%.4f",
                 bits * qg_trainer_loss(s->trainer, text_of(&s->holdout), HELD_OUT));
    snprintf(row, sizeof row, "%" PRIu64 "\t%.0f\t%.4f\t%s\t%.4g\t%.4g\t%.0f\n", done,
             each * (double)done, bits * step->loss, held, step->lr, step->norm, speed);
    if (s->bar)
        qg_bar_clear();
    fputs(row, stdout);
    fputs(row, s->log);
    fputs(row, s->file);
    fflush(stdout);
    if (fflush(s->file) != 0 || fflush(s->log) != 0)
        return qg_fail(err, QG_EIO, "%s: %s", in_folder(s->q, "train.tsv").text, strerror(errno));
    return QG_OK;
}

static void draw_bar(struct session *s)
{
    char amount[64];
    double now = qg_clock_now();
    uint64_t done = qg_trainer_steps(s->trainer), all = s->q->common.train.steps;
    if (!s->bar || now - s->shown < 0.5)
        return;
    snprintf(amount, sizeof amount, "%" PRIu64 "/%" PRIu64 " steps", done, all);
    double each = (now - s->start) / (double)(done - s->first);
    qg_bar_draw((double)done / (double)all, amount, each * (double)(all - done), s->q->common.out);
    s->shown = now;
}

/* --- training -------------------------------------------------------------------------------- */

static enum qg_status save_state(struct session *s, struct qg_error *err)
{
    fflush(s->log);
    s->saved = qg_clock_now();
    return qg_trainer_save(s->trainer, in_folder(s->q, "checkpoint.safetensors").text, s->log_text,
                           err);
}

static enum qg_status one_step(struct session *s, struct qg_error *err)
{
    const struct request *q = s->q;
    struct qg_train_step step;
    if (qg_trainer_step(s->trainer, &step, err) != QG_OK)
        return err->status;
    uint64_t done = qg_trainer_steps(s->trainer);
    if (!isfinite(step.loss) || !isfinite(step.norm))
        return qg_fail(err, QG_EFORMAT,
                       "step %" PRIu64 ": loss %g, norm of the gradients %g; a lower --lr or a "
                       "longer --warmup may help",
                       done + 1, step.loss, step.norm);
    bool last = done == q->common.train.steps;
    if (done % q->log_every == 0 || last)
        if (log_row(s, &step, last || done % (q->log_every * ROWS_PER_HELD_OUT) == 0, err) != QG_OK)
            return err->status;
    draw_bar(s);
    if (!last && qg_clock_now() - s->saved > 60 * (double)q->save_every)
        return save_state(s, err);
    return QG_OK;
}

static enum qg_status train(struct session *s, struct qg_error *err)
{
    const struct request *q = s->q;
    enum qg_status status = QG_OK;
    s->first = qg_trainer_steps(s->trainer);
    s->start = s->saved = qg_clock_now();
    qg_catch_signals();
    while (status == QG_OK && qg_trainer_steps(s->trainer) < q->common.train.steps &&
           !qg_signal_seen())
        status = one_step(s, err);
    if (s->bar)
        qg_bar_clear();
    if (status == QG_OK && qg_signal_seen())
        return save_state(s, err);
    if (status == QG_OK)
        status = qg_lm_save(s->lm, q->common.out, QG_BF16, true, err);
    if (status == QG_OK)
        unlink(in_folder(q, "checkpoint.safetensors").text);
    return status;
}

static enum qg_status begin(struct session *s, struct qg_error *err)
{
    const struct request *q = s->q;
    struct qg_lm_config c;
    struct qg_train_options o = q->common.train;
    char *earlier = NULL;
    if (check_folder(q, err) != QG_OK || read_config(q, &c, err) != QG_OK)
        return err->status;
    const uint32_t *separator = qg_lm_separator(&c);
    o.length = o.length ? o.length : c.context;
    if (qg_tokens_read(q->common.text, c.vocab, separator, 0, &s->text, err) != QG_OK ||
        (q->common.holdout &&
         qg_tokens_read(q->common.holdout, c.vocab, separator, 0, &s->holdout, err) != QG_OK) ||
        qg_lm_make(&c, QG_BF16, &s->lm, err) != QG_OK)
        return err->status;
    qg_lm_initialize(s->lm, o.seed);
    if (qg_lm_put(s->lm, NULL, QG_LINEAR_PLAIN, NULL, q->common.dtype, true, (int)q->common.threads,
                  err) != QG_OK ||
        qg_trainer_make(s->lm, text_of(&s->text), &o, (int)q->common.threads, &s->trainer, err) !=
            QG_OK)
        return err->status;
    if (q->common.resume &&
        qg_trainer_resume(s->trainer, in_folder(q, "checkpoint.safetensors").text, &earlier, err) !=
            QG_OK)
        return err->status;
    enum qg_status status = open_log(s, earlier, err);
    free(earlier);
    return status;
}

static void end(struct session *s)
{
    if (s->file)
        fclose(s->file);
    if (s->log)
        fclose(s->log);
    free(s->log_text);
    qg_trainer_free(&s->trainer);
    qg_lm_free(&s->lm);
    qg_tokens_free(&s->text);
    qg_tokens_free(&s->holdout);
}

/* --- options --------------------------------------------------------------------------------- */

enum {
    OPT_CONFIG = 1,
    OPT_LAYERS,
    OPT_WIDTH,
    OPT_HEADS,
    OPT_KV_HEADS,
    OPT_HEAD,
    OPT_HIDDEN,
    OPT_CONTEXT,
    OPT_DECAY,
    OPT_LOG_EVERY,
    OPT_SAVE_EVERY,
    OPT_FORCE,
};

static const struct option options[] = {
    {"config", required_argument, NULL, OPT_CONFIG},
    {"layers", required_argument, NULL, OPT_LAYERS},
    {"width", required_argument, NULL, OPT_WIDTH},
    {"heads", required_argument, NULL, OPT_HEADS},
    {"kv-heads", required_argument, NULL, OPT_KV_HEADS},
    {"head", required_argument, NULL, OPT_HEAD},
    {"hidden", required_argument, NULL, OPT_HIDDEN},
    {"context", required_argument, NULL, OPT_CONTEXT},
    {"decay", required_argument, NULL, OPT_DECAY},
    {"log-every", required_argument, NULL, OPT_LOG_EVERY},
    {"save-every", required_argument, NULL, OPT_SAVE_EVERY},
    {"force", no_argument, NULL, OPT_FORCE},
    QG_LM_OPTIONS,
    {NULL, 0, NULL, 0},
};

static bool take(struct request *q, int option)
{
    switch (option) {
    case OPT_CONFIG:
        return (q->config = optarg) != NULL;
    case OPT_LAYERS:
        return qg_lm_take_size("layers", 1000, &q->shape.layers);
    case OPT_WIDTH:
        return qg_lm_take_size("width", 1 << 16, &q->shape.width);
    case OPT_HEADS:
        return qg_lm_take_size("heads", 1 << 10, &q->shape.heads);
    case OPT_KV_HEADS:
        return qg_lm_take_size("kv-heads", 1 << 10, &q->shape.kv_heads);
    case OPT_HEAD:
        return qg_lm_take_size("head", 1 << 10, &q->shape.head);
    case OPT_HIDDEN:
        return qg_lm_take_size("hidden", 1 << 18, &q->shape.hidden);
    case OPT_CONTEXT:
        return qg_lm_take_size("context", 1 << 20, &q->shape.context);
    case OPT_DECAY:
        return qg_lm_take_real("decay", 0, 100, &q->common.train.decay);
    case OPT_LOG_EVERY:
        return qg_lm_take_whole("log-every", 1, 1000000000, &q->log_every);
    case OPT_SAVE_EVERY:
        return qg_lm_take_whole("save-every", 0, 1000000, &q->save_every);
    case OPT_FORCE:
        return q->force = true;
    default:
        return qg_lm_take(&q->common, option);
    }
}

static int parse(struct request *q, int argc, char **argv)
{
    const struct qg_command *c = &qg_command_lm;
    int option;
    *q = (struct request){.common = {.train = qg_train_defaults,
                                     .dtype = QG_F32,
                                     .threads = (uint64_t)qg_processors()},
                          .shape = shape,
                          .log_every = 20,
                          .save_every = 5};
    optind = 1;
    while ((option = getopt_long(argc, argv, "o:", options, NULL)) != -1)
        if (!take(q, option))
            return QG_EXIT_USAGE;
    q->common.train.lr_end = q->common.train.lr / 10;
    if (optind < argc)
        return qg_usage_error(c, "'%s' is one word too many", argv[optind]);
    if (!q->common.text || !q->common.out || !*q->common.out)
        return qg_usage_error(c, "give --text FILE and -o FOLDER");
    if (q->common.resume && q->force)
        return qg_usage_error(c, "--resume goes on, --force begins anew: give one of them");
    return QG_EXIT_OK;
}

int qg_lm_train(int argc, char **argv)
{
    struct request q;
    struct qg_error err;
    int code = parse(&q, argc, argv);
    if (code != QG_EXIT_OK)
        return code;
    struct session s = {.q = &q, .bar = qg_bar_wanted()};
    enum qg_status status = begin(&s, &err);
    if (status == QG_OK) {
        size_t *length = &q.common.train.length;
        *length = *length ? *length : s.lm->config.context;
        status = train(&s, &err);
    }
    end(&s);
    if (status != QG_OK)
        return qg_report_error(&qg_command_lm, &err);
    if (!qg_signal_seen())
        return qg_finish_stdout(&qg_command_lm, QG_EXIT_OK);
    fprintf(stderr, "qgauge lm: stopped by a signal; the same command with --resume goes on\n");
    return 128 + qg_signal_seen();
}
