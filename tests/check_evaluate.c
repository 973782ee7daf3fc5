/* SPDX-License-Identifier: MIT
 *
 * A text through a model: every token is scored once, after what stands before it, whatever the
 * windows and threads; kept logits come back or are refused; what is not finite is found.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "harness/base/rng.h"
#include "harness/lm/evaluate.h"
#include "tests/folder.h"
#include "tests/suite.h"

enum { VOCAB = 16, CONTEXT = 8, TEXT = 200 };

static void must(enum qg_status status, const struct qg_error *err)
{
    ck_assert_msg(status == QG_OK, "%s", err->message);
}

/* --- kept logits ----------------------------------------------------------------------------- */

static const struct qg_logits_shape shape = {3, 4, 5};

static void fill_rows(float *rows, size_t window)
{
    for (size_t i = 0; i < 20; i++)
        rows[i] = (float)qg_rng_normal(1, window, i);
}

/* Windows 0 and 2 whole, of window 1 the last row. */
static void put_all(struct qg_logits *l)
{
    struct qg_error err;
    float rows[20];
    for (size_t w = 0; w < 3; w++) {
        fill_rows(rows, w);
        size_t first = w == 1 ? 3 : 0;
        must(qg_logits_put(l, w, first, 4 - first, rows + 5 * first, &err), &err);
    }
    must(qg_logits_finish(l, &err), &err);
}

static void expect_all(struct qg_logits *l)
{
    struct qg_error err;
    float rows[20], got[20];
    for (size_t w = 0; w < 3; w++) {
        fill_rows(rows, w);
        must(qg_logits_get(l, w, 3, 1, got, &err), &err);
        ck_assert_mem_eq(got, rows + 15, 5 * sizeof *got);
    }
    must(qg_logits_get(l, 2, 0, 4, got, &err), &err);
    ck_assert_mem_eq(got, rows, sizeof got);
}

static void leave(void)
{
    static const char *const names[] = {"base", NULL};
    leave_without(names);
}

START_TEST(test_logits)
{
    struct qg_logits *l = NULL;
    struct qg_error err;
    float got[20];
    enter();
    must(qg_logits_create(NULL, "key", &shape, &l, &err), &err);
    put_all(l);
    expect_all(l);
    ck_assert_uint_gt(qg_logits_bytes(l), 0);
    must(qg_logits_get(l, 1, 0, 1, got, &err), &err); // was never put
    ck_assert(got[0] == 0 && got[4] == 0);
    qg_logits_close(&l);
    must(qg_logits_create(at("base"), "key", &shape, &l, &err), &err);
    qg_logits_close(&l);
    ck_assert_int_eq(qg_logits_open(at("base"), "key", &shape, &l, &err), QG_EABSENT);
    must(qg_logits_create(at("base"), "key", &shape, &l, &err), &err);
    put_all(l);
    expect_all(l);
    qg_logits_close(&l);
    must(qg_logits_open(at("base"), "key", &shape, &l, &err), &err);
    expect_all(l);
    qg_logits_close(&l);
    ck_assert_int_eq(qg_logits_open(at("base"), "kez", &shape, &l, &err), QG_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.message, "holds the logits of something else"));
    struct qg_logits_shape other = {3, 4, 6};
    ck_assert_int_eq(qg_logits_open(at("base"), "key", &other, &l, &err), QG_EFORMAT);
    ck_assert_ptr_null(l);
    ck_assert_int_eq(qg_logits_create(at("no/folder"), "key", &shape, &l, &err), QG_EIO);
    leave();
}
END_TEST

/* Whether every row of a file reads as it was put. */
static bool reads_well(void)
{
    struct qg_logits *l = NULL;
    struct qg_error err;
    float rows[20], got[20];
    bool ok = qg_logits_open(at("base"), "key", &shape, &l, &err) == QG_OK;
    for (size_t w = 0; ok && w < 3; w++) {
        size_t first = w == 1 ? 3 : 0;
        fill_rows(rows, w);
        ok = qg_logits_get(l, w, first, 4 - first, got, &err) == QG_OK;
        if (ok)
            ck_assert_mem_eq(got, rows + 5 * first, (4 - first) * 5 * sizeof *got);
    }
    qg_logits_close(&l);
    return ok;
}

/* Half a file, and every 31st bit turned: nothing of it is read. */
START_TEST(test_damage)
{
    struct qg_logits *l;
    struct qg_error err;
    static unsigned char bytes[65536];
    enter();
    must(qg_logits_create(at("base"), "key", &shape, &l, &err), &err);
    put_all(l);
    qg_logits_close(&l);
    FILE *f = fopen(at("base"), "rb");
    ck_assert_ptr_nonnull(f);
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    ck_assert(reads_well());
    put_bytes("base", bytes, n / 2);
    ck_assert(!reads_well());
    put_bytes("base", bytes, 3);
    ck_assert(!reads_well());
    for (size_t bit = 0; bit < 8 * n; bit += 31) {
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
        put_bytes("base", bytes, n);
        ck_assert(!reads_well());
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    leave();
}
END_TEST

/* --- a model whose answers are known --------------------------------------------------------- */

static struct qg_tokens text;
static struct qg_windows windows;
static struct qg_lm *model;

/* Attention and MLP give nothing, embeddings are one number each: what comes next depends on the
 * last token alone, and every product is one term, exact in any order. */
static void make_model(void)
{
    struct qg_error err;
    const struct qg_lm_config c = {.vocab = VOCAB,
                                   .width = VOCAB,
                                   .layers = 2,
                                   .heads = 2,
                                   .kv_heads = 1,
                                   .head = 8,
                                   .hidden = 24,
                                   .context = CONTEXT,
                                   .norm_eps = 1e-5,
                                   .rope_theta = 10000};
    must(qg_lm_make(&c, QG_F32, &model, &err), &err);
    for (size_t i = 0; i < model->n_tensors; i++) {
        const struct qg_lm_tensor *t = &model->tensor[i];
        float *w = model->params + t->at;
        for (size_t k = 0; k < t->rows * t->cols; k++)
            w[k] = t->part == QG_LM_EMBED                        ? k / VOCAB == k % VOCAB
                   : t->part == QG_LM_O || t->part == QG_LM_DOWN ? 0
                   : !qg_lm_is_matrix(t)                         ? 1
                                                                 : (float)qg_rng_normal(9, i, k);
    }
    must(qg_lm_put(model, NULL, QG_LINEAR_PLAIN, NULL, QG_INPUT, false, 1, &err), &err);
}

/* Documents of many lengths; token 0 separates. */
static void make_text(void)
{
    struct qg_error err;
    uint8_t raw[4 * TEXT] = {0};
    const uint32_t separator = 0;
    for (size_t i = 0; i < TEXT; i++)
        raw[4 * i] = (uint8_t)(qg_rng_bits(7, 0, i) % VOCAB);
    enter();
    put_bytes("text.u32", raw, sizeof raw);
    must(qg_tokens_read(at("text.u32"), VOCAB, &separator, 0, &text, &err), &err);
    static const char *const names[] = {"text.u32", NULL};
    leave_without(names);
    must(qg_windows_make(&text, CONTEXT, &windows, &err), &err);
}

static void drop_all(void)
{
    qg_windows_free(&windows);
    qg_tokens_free(&text);
    qg_lm_free(&model);
}

static bool count_calls(void *user, size_t done, size_t total)
{
    ck_assert(done <= total && total == windows.scored);
    ++*(size_t *)user;
    return false;
}

static bool stop_at_once(void *user, size_t done, size_t total)
{
    (void)user, (void)done, (void)total;
    return true;
}

static struct qg_logits *base_of(const struct qg_evaluation *e)
{
    struct qg_logits *base;
    struct qg_error err;
    bool stopped;
    const struct qg_logits_shape s = {windows.n, CONTEXT, VOCAB};
    must(qg_logits_create(NULL, "key", &s, &base, &err), &err);
    must(qg_evaluate_base(e, model, base, &stopped, &err), &err);
    ck_assert(!stopped);
    must(qg_logits_finish(base, &err), &err);
    return base;
}

START_TEST(test_every_token)
{
    double nll[VOCAB][VOCAB];
    struct qg_error err;
    struct qg_lm_work *work;
    size_t calls = 0, next = 0;
    make_model();
    make_text();
    must(qg_lm_work_make(model, 1, 1, false, &work, &err), &err);
    for (uint32_t i = 0; i < VOCAB; i++) {
        qg_lm_forward(model, work, &i, 1, 1);
        for (uint32_t k = 0; k < VOCAB; k++)
            nll[i][k] = qg_lm_nll(qg_lm_logits(model, work, 0, 1), VOCAB, k);
    }
    qg_lm_work_free(&work);
    struct qg_evaluation e = {&text, &windows, 1, count_calls, &calls};
    struct qg_logits *base = base_of(&e);
    ck_assert_uint_gt(calls, 0);
    must(qg_evaluate_check(&e, model, base, &err), &err);
    for (e.threads = 1; e.threads <= 4; e.threads += 3) {
        struct qg_trial t = {.model = {model, model}};
        must(qg_trial_run(&e, base, &t, &err), &err);
        ck_assert(!t.stopped && !t.fault[0][0] && !t.fault[1][0]);
        next = 0;
        for (size_t d = 0; d < text.n_documents; d++)
            for (size_t i = 0; i < text.document[d].n; i++, next++) {
                const uint32_t *id = text.id + text.document[d].first + i;
                for (int side = 0; side < QG_TRIAL_SIDES; side++) {
                    const struct qg_score *s = &t.score[side][next];
                    ck_assert(s->nll == nll[id[-1]][id[0]] && s->base == s->nll);
                    ck_assert(s->kl == 0 && s->change == 0 && s->same);
                }
            }
        ck_assert_uint_eq(next, windows.scored);
        qg_trial_free(&t);
    }
    model->params[model->tensor[qg_lm_head(model)].at] += 1; // other weights, other logits
    ck_assert_int_eq(qg_evaluate_check(&e, model, base, &err), QG_EFORMAT);
    e.progress = stop_at_once;
    e.threads = 1;
    struct qg_trial t = {.model = {[QG_CONVERTED] = model}};
    must(qg_trial_run(&e, base, &t, &err), &err);
    ck_assert(t.stopped && !t.score[QG_PREPARED] && !t.score[QG_GAP]);
    qg_trial_free(&t);
    qg_logits_close(&base);
    drop_all();
}
END_TEST

/* A token that blows a layer up: the first of the text is named, and the matrix. */
START_TEST(test_not_finite)
{
    struct qg_error err;
    char where[80];
    make_model();
    make_text();
    struct qg_evaluation e = {&text, &windows, 2, NULL, NULL};
    struct qg_logits *base = base_of(&e);
    uint32_t bad = text.id[text.document[2].first];
    size_t document = 0, token = 0;
    for (size_t i = 0; i < 24; i++) // column `bad`: their product is too large
        for (int part = QG_LM_GATE; part <= QG_LM_UP; part++)
            model->params[model->tensor[qg_lm_index(model, (enum qg_lm_part)part, 1)].at +
                          i * VOCAB + bad] = 1e30f;
    while (text.id[text.document[document].first + token - 1] != bad)
        if (++token == text.document[document].n)
            token = 0, document++;
    struct qg_trial t = {.model = {NULL, model}};
    must(qg_trial_run(&e, base, &t, &err), &err);
    snprintf(where, sizeof where, "document %zu, token %zu: the logits are not finite", document,
             token);
    ck_assert_msg(strstr(t.fault[QG_CONVERTED], where) != NULL, "'%s' is not in '%s'", where,
                  t.fault[QG_CONVERTED]);
    ck_assert_ptr_nonnull(
        strstr(t.fault[QG_CONVERTED], "what 'model.layers.1.mlp.down_proj.weight' takes"));
    ck_assert_str_eq(t.fault[QG_PREPARED], "");
    qg_trial_free(&t);
    struct qg_logits *again;
    bool stopped;
    const struct qg_logits_shape s = {windows.n, CONTEXT, VOCAB};
    must(qg_logits_create(NULL, "key", &s, &again, &err), &err);
    ck_assert_int_eq(qg_evaluate_base(&e, model, again, &stopped, &err), QG_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.message, "without any scheme"));
    qg_logits_close(&again);
    qg_logits_close(&base);
    drop_all();
}
END_TEST

/* --- against transformers -------------------------------------------------------------------- */

enum { DOCUMENTS = 2, MOST_TOKENS = 4096 };

/* The lines "nll" of rolling.tsv: -ln p of every token, in binary64 and in binary32. */
static size_t read_losses(double *wide, double *single)
{
    char path[512], line[4096];
    size_t n = 0;
    snprintf(path, sizeof path, "%s/golden/lm/rolling.tsv", getenv("QG_SOURCE"));
    FILE *f = fopen(path, "r");
    ck_assert_ptr_nonnull(f);
    while (fgets(line, sizeof line, f))
        if (strncmp(line, "nll\t", 4) == 0) {
            ck_assert_uint_lt(n, MOST_TOKENS);
            ck_assert_int_eq(sscanf(line, "nll %la %la", &wide[n], &single[n]), 2);
            n++;
        }
    fclose(f);
    return n;
}

static double distance(size_t n, const double *x, const double *y)
{
    double squares = 0;
    for (size_t i = 0; i < n; i++)
        squares += (x[i] - y[i]) * (x[i] - y[i]);
    return sqrt(squares / (double)n);
}

/* Perplexity of the shipped model on its held-out text: every token's loss is as near to that of
 * transformers in binary64 as rounding to binary32 lets it be, by the yardstick of transformers in
 * binary32; four times that for another order of sums. */
START_TEST(test_perplexity)
{
    static double wide[MOST_TOKENS], single[MOST_TOKENS], ours[MOST_TOKENS];
    char path[512];
    struct qg_error err;
    struct qg_model *file;
    size_t n = read_losses(wide, single);
    snprintf(path, sizeof path, "%s/golden/lm/model", getenv("QG_SOURCE"));
    must(qg_model_open(path, &file, &err), &err);
    must(qg_lm_load(file, false, &model, &err), &err);
    must(qg_lm_put(model, NULL, QG_LINEAR_PLAIN, NULL, QG_F32, false, 2, &err), &err);
    ck_assert(model->config.has_separator);
    snprintf(path, sizeof path, "%s/golden/lm/heldout.txt", getenv("QG_SOURCE"));
    must(
        qg_tokens_read(path, model->config.vocab, &model->config.separator, DOCUMENTS, &text, &err),
        &err);
    must(qg_windows_make(&text, model->config.context, &windows, &err), &err);
    ck_assert_uint_eq(windows.scored, n);
    const struct qg_logits_shape s = {windows.n, windows.context, model->config.vocab};
    struct qg_evaluation e = {&text, &windows, 2, NULL, NULL};
    struct qg_logits *base;
    bool stopped;
    must(qg_logits_create(NULL, "key", &s, &base, &err), &err);
    must(qg_evaluate_base(&e, model, base, &stopped, &err), &err);
    must(qg_logits_finish(base, &err), &err);
    struct qg_trial t = {.model = {NULL, model}};
    must(qg_trial_run(&e, base, &t, &err), &err);
    for (size_t i = 0; i < n; i++)
        ours[i] = t.score[QG_CONVERTED][i].nll;
    double apart = distance(n, ours, wide), may = distance(n, single, wide);
    ck_assert_msg(apart <= 4 * may, "%g from binary64, where transformers is %g", apart, may);
    qg_trial_free(&t);
    qg_logits_close(&base);
    qg_model_close(&file);
    drop_all();
}
END_TEST

START_TEST(test_clusters)
{
    uint32_t cluster[TEXT];
    const char *what;
    make_text();
    ck_assert_uint_lt(text.n_documents, QG_LEAST_CLUSTERS);
    ck_assert_uint_eq(qg_clusters(&text, &windows, cluster, &what), windows.n);
    ck_assert_str_eq(what, "windows");
    size_t seen = 0;
    for (size_t i = 1; i < windows.scored; i++)
        seen += cluster[i] != cluster[i - 1];
    ck_assert_uint_eq(seen + 1, windows.n);
    struct qg_document many[QG_LEAST_CLUSTERS];
    for (size_t d = 0; d < QG_LEAST_CLUSTERS; d++)
        many[d] = (struct qg_document){.first = 1 + 4 * d, .n = 3};
    struct qg_tokens t = {.document = many, .n_documents = QG_LEAST_CLUSTERS};
    struct qg_windows w;
    struct qg_error err;
    must(qg_windows_make(&t, 2, &w, &err), &err);
    ck_assert_uint_eq(qg_clusters(&t, &w, cluster, &what), QG_LEAST_CLUSTERS);
    ck_assert_str_eq(what, "documents");
    for (uint32_t i = 0; i < 3 * QG_LEAST_CLUSTERS; i++)
        ck_assert_uint_eq(cluster[i], i / 3);
    qg_windows_free(&w);
    qg_windows_free(&windows);
    qg_tokens_free(&text);
}
END_TEST

QG_SUITE(evaluate, test_logits, test_damage, test_every_token, test_not_finite, test_perplexity,
         test_clusters)
