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

#include "harness/bench.h"
#include "harness/cli/lm.h"
#include "harness/io/json.h"
#include "harness/lm/parallel.h"
#include "harness/lm/tokens.h"

enum { MOST_THREADS = 64, HELD_OUT = 64 /* sequences */, ROWS_PER_HELD_OUT = 10 };

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
    const char *text, *holdout, *out, *config;
    struct qg_lm_config shape;
    struct qg_train_options train;
    enum qg_dtype dtype;
    uint64_t threads, log_every, save_every;
    bool resume, force;
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
    snprintf(p.text, sizeof p.text, "%s/%s", q->out, name);
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
    if (q->resume && !begun)
        return qg_fail(err, QG_EINVAL, "--resume: there is no %s",
                       in_folder(q, "checkpoint.safetensors").text);
    if (!q->resume && !q->force && (begun || done))
        return qg_fail(err, QG_EINVAL, "%s holds a %s: --force begins anew%s", q->out,
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
    if (mkdir(s->q->out, 0777) != 0 && errno != EEXIST)
        return qg_fail(err, QG_EIO, "%s: %s", s->q->out, strerror(errno));
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
    const struct qg_train_options *o = &s->q->train;
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
    uint64_t done = qg_trainer_steps(s->trainer), all = s->q->train.steps;
    if (!s->bar || now - s->shown < 0.5)
        return;
    snprintf(amount, sizeof amount, "%" PRIu64 "/%" PRIu64 " steps", done, all);
    double each = (now - s->start) / (double)(done - s->first);
    qg_bar_draw((double)done / (double)all, amount, each * (double)(all - done), s->q->out);
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
    bool last = done == q->train.steps;
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
    while (status == QG_OK && qg_trainer_steps(s->trainer) < q->train.steps && !qg_signal_seen())
        status = one_step(s, err);
    if (s->bar)
        qg_bar_clear();
    if (status == QG_OK && qg_signal_seen())
        return save_state(s, err);
    if (status == QG_OK)
        status = qg_lm_save(s->lm, q->out, QG_BF16, true, err);
    if (status == QG_OK)
        unlink(in_folder(q, "checkpoint.safetensors").text);
    return status;
}

static enum qg_status begin(struct session *s, struct qg_error *err)
{
    const struct request *q = s->q;
    struct qg_lm_config c;
    struct qg_train_options o = q->train;
    char *earlier = NULL;
    if (check_folder(q, err) != QG_OK || read_config(q, &c, err) != QG_OK)
        return err->status;
    const uint32_t *separator = c.has_separator ? &c.separator : NULL;
    o.length = o.length ? o.length : c.context;
    if (qg_tokens_read(q->text, c.vocab, separator, 0, &s->text, err) != QG_OK ||
        (q->holdout &&
         qg_tokens_read(q->holdout, c.vocab, separator, 0, &s->holdout, err) != QG_OK) ||
        qg_lm_make(&c, QG_BF16, &s->lm, err) != QG_OK)
        return err->status;
    qg_lm_initialize(s->lm, o.seed);
    if (qg_lm_put(s->lm, NULL, QG_LINEAR_PLAIN, NULL, q->dtype, true, (int)q->threads, err) !=
            QG_OK ||
        qg_trainer_make(s->lm, text_of(&s->text), &o, (int)q->threads, &s->trainer, err) != QG_OK)
        return err->status;
    if (q->resume && qg_trainer_resume(s->trainer, in_folder(q, "checkpoint.safetensors").text,
                                       &earlier, err) != QG_OK)
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
    OPT_TEXT = 1,
    OPT_HOLDOUT,
    OPT_CONFIG,
    OPT_LAYERS,
    OPT_WIDTH,
    OPT_HEADS,
    OPT_KV_HEADS,
    OPT_HEAD,
    OPT_HIDDEN,
    OPT_CONTEXT,
    OPT_STEPS,
    OPT_BATCH,
    OPT_LENGTH,
    OPT_LR,
    OPT_WARMUP,
    OPT_DECAY,
    OPT_SEED,
    OPT_DTYPE,
    OPT_THREADS,
    OPT_LOG_EVERY,
    OPT_SAVE_EVERY,
    OPT_RESUME,
    OPT_FORCE,
};

static const struct option options[] = {
    {"text", required_argument, NULL, OPT_TEXT},
    {"holdout", required_argument, NULL, OPT_HOLDOUT},
    {"config", required_argument, NULL, OPT_CONFIG},
    {"layers", required_argument, NULL, OPT_LAYERS},
    {"width", required_argument, NULL, OPT_WIDTH},
    {"heads", required_argument, NULL, OPT_HEADS},
    {"kv-heads", required_argument, NULL, OPT_KV_HEADS},
    {"head", required_argument, NULL, OPT_HEAD},
    {"hidden", required_argument, NULL, OPT_HIDDEN},
    {"context", required_argument, NULL, OPT_CONTEXT},
    {"steps", required_argument, NULL, OPT_STEPS},
    {"batch", required_argument, NULL, OPT_BATCH},
    {"length", required_argument, NULL, OPT_LENGTH},
    {"lr", required_argument, NULL, OPT_LR},
    {"warmup", required_argument, NULL, OPT_WARMUP},
    {"decay", required_argument, NULL, OPT_DECAY},
    {"seed", required_argument, NULL, OPT_SEED},
    {"dtype", required_argument, NULL, OPT_DTYPE},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"log-every", required_argument, NULL, OPT_LOG_EVERY},
    {"save-every", required_argument, NULL, OPT_SAVE_EVERY},
    {"resume", no_argument, NULL, OPT_RESUME},
    {"force", no_argument, NULL, OPT_FORCE},
    {"output", required_argument, NULL, 'o'},
    {NULL, 0, NULL, 0},
};

static const char *option_name(int option)
{
    for (size_t i = 0; options[i].name; i++)
        if (options[i].val == option)
            return options[i].name;
    return "";
}

static bool take_size(int option, uint64_t most, size_t *ret)
{
    uint64_t x;
    if (!qg_lm_take_whole(option_name(option), optarg, 1, most, &x))
        return false;
    *ret = (size_t)x;
    return true;
}

static bool take_count(int option, uint64_t least, uint64_t most, uint64_t *ret)
{
    return qg_lm_take_whole(option_name(option), optarg, least, most, ret);
}

static bool take(struct request *q, int option)
{
    switch (option) {
    case OPT_TEXT:
        return (q->text = optarg) != NULL;
    case OPT_HOLDOUT:
        return (q->holdout = optarg) != NULL;
    case OPT_CONFIG:
        return (q->config = optarg) != NULL;
    case 'o':
        return (q->out = optarg) != NULL;
    case OPT_LAYERS:
        return take_size(option, 1000, &q->shape.layers);
    case OPT_WIDTH:
        return take_size(option, 1 << 16, &q->shape.width);
    case OPT_HEADS:
        return take_size(option, 1 << 10, &q->shape.heads);
    case OPT_KV_HEADS:
        return take_size(option, 1 << 10, &q->shape.kv_heads);
    case OPT_HEAD:
        return take_size(option, 1 << 10, &q->shape.head);
    case OPT_HIDDEN:
        return take_size(option, 1 << 18, &q->shape.hidden);
    case OPT_CONTEXT:
        return take_size(option, 1 << 20, &q->shape.context);
    case OPT_STEPS:
        return take_count(option, 1, 1000000000, &q->train.steps);
    case OPT_BATCH:
        return take_size(option, 1 << 20, &q->train.batch);
    case OPT_LENGTH:
        return take_size(option, 1 << 20, &q->train.length);
    case OPT_LR:
        if (!qg_lm_take_real("lr", optarg, 1e-12, 10, &q->train.lr))
            return false;
        q->train.lr_end = q->train.lr / 10;
        return true;
    case OPT_WARMUP:
        return take_count(option, 0, 1000000000, &q->train.warmup);
    case OPT_DECAY:
        return qg_lm_take_real("decay", optarg, 0, 100, &q->train.decay);
    case OPT_SEED:
        return take_count(option, 0, UINT64_MAX, &q->train.seed);
    case OPT_DTYPE:
        return qg_take_dtype(&qg_command_lm, optarg, &q->dtype);
    case OPT_THREADS:
        return take_count(option, 1, MOST_THREADS, &q->threads);
    case OPT_LOG_EVERY:
        return take_count(option, 1, 1000000000, &q->log_every);
    case OPT_SAVE_EVERY:
        return take_count(option, 0, 1000000, &q->save_every);
    case OPT_RESUME:
        return q->resume = true;
    case OPT_FORCE:
        return q->force = true;
    default:
        qg_usage_error(&qg_command_lm, "bad option");
        return false;
    }
}

static int parse(struct request *q, int argc, char **argv)
{
    const struct qg_command *c = &qg_command_lm;
    int option;
    *q = (struct request){.shape = shape,
                          .train = qg_train_defaults,
                          .dtype = QG_F32,
                          .threads = (uint64_t)qg_processors(),
                          .log_every = 20,
                          .save_every = 5};
    optind = 1;
    while ((option = getopt_long(argc, argv, "o:", options, NULL)) != -1)
        if (!take(q, option))
            return QG_EXIT_USAGE;
    if (optind < argc)
        return qg_usage_error(c, "'%s' is one word too many", argv[optind]);
    if (!q->text || !q->out || !*q->out)
        return qg_usage_error(c, "give --text FILE and -o FOLDER");
    if (q->resume && q->force)
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
        q.train.length = q.train.length ? q.train.length : s.lm->config.context;
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
