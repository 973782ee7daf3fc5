/* SPDX-License-Identifier: MIT
 *
 * Merging adapters: numbers that can be worked out by hand, what each way costs, and checkpoints
 * that are written again.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/base/rng.h"
#include "harness/io/safetensors.h"
#include "harness/merge.h"
#include "harness/rewrite.h"
#include "tests/folder.h"
#include "tests/suite.h"

enum { N = 8, K = 64, R = 2 };

/* A weight of few bits, so that W + s B A is exact, and a pair for it. */
static float w[N * K], a[R * K], b[N * R], m[N], merged[N * K];
static struct qg_tensor weight;
static struct qg_adapter_pair pair;

static void set_up(void)
{
    for (size_t i = 0; i < N * K; i++)
        w[i] = (float)((double)(qg_rng_bits(1, 0, i) % 15) - 7) / 8;
    for (size_t i = 0; i < R * K; i++)
        a[i] = (float)((double)(qg_rng_bits(1, 1, i) % 7) - 3) / 4;
    for (size_t i = 0; i < N * R; i++)
        b[i] = (float)((double)(qg_rng_bits(1, 2, i) % 5) - 2) / 16;
    weight = (struct qg_tensor){"q.weight", QG_F32, 2, {N, K}, w};
    pair = (struct qg_adapter_pair){.module = (char *)"q",
                                    .a = {"a", QG_F32, 2, {R, K}, a},
                                    .b = {"b", QG_F32, 2, {N, R}, b},
                                    .scale = 0.5};
}

static struct qg_merge how(enum qg_merge_way way, const char *scheme)
{
    return (struct qg_merge){
        .way = way, .scheme = qg_scheme_find(scheme), .params = "", .layer = "merge-peft"};
}

static struct qg_merge_cost run(const struct qg_merge *g)
{
    struct qg_merge_cost cost = {0};
    struct qg_error err = {QG_OK, ""};
    ck_assert_msg(qg_merge_matrix(g, &pair, &weight, merged, &cost, &err) == QG_OK, "%s",
                  err.message);
    return cost;
}

static double expected(size_t n, size_t k)
{
    double sum = 0;
    for (size_t r = 0; r < R; r++)
        sum += (double)b[n * R + r] * a[r * K + k];
    return w[n * K + k] + 0.5 * sum;
}

START_TEST(into_base)
{
    set_up();
    const char *const layers[] = {"merge-peft", "merge-unsloth"};
    for (int i = 0; i < 2; i++) {
        struct qg_merge g = how(QG_MERGE_BASE, "int8-row");
        g.layer = layers[i];
        struct qg_merge_cost c = run(&g);
        for (size_t k = 0; k < N * K; k++)
            ck_assert_double_eq(merged[k], expected(k / K, k % K));
        // Nothing of the delta is lost, and the error is that of quantizing W.
        ck_assert_double_eq_tol(qg_merge_figures(&c).lost, 0, 1e-12);
        ck_assert_uint_eq(c.count, N * K);
        ck_assert_uint_eq(c.swallowed, 0);
        ck_assert(c.noise > 0);
    }
}
END_TEST

/* Each block of q8_0 has a largest number of 127 here, so its step is 1 and its base exact. A delta
 * below half a step is lost in whole, one of a whole step arrives in whole. */
START_TEST(swallowed)
{
    set_up();
    for (size_t i = 0; i < N * K; i++)
        w[i] = i % 32 ? (float)(i % 100) : 127;
    for (size_t i = 0; i < R * K; i++)
        a[i] = i % 32 ? 1 : 0;
    struct qg_merge g = how(QG_MERGE_LEGACY, "q8_0");
    for (size_t i = 0; i < N * R; i++)
        b[i] = 0.25f;
    struct qg_merge_cost c = run(&g);
    ck_assert_uint_eq(c.swallowed, N * (K - 2)); // s B A = 1/4
    ck_assert_double_eq(qg_merge_figures(&c).lost, 1);
    ck_assert_double_eq(qg_merge_figures(&c).delta_db, 0);
    for (size_t i = 0; i < N * R; i++)
        b[i] = 1;
    c = run(&g);
    ck_assert_uint_eq(c.swallowed, 0);
    ck_assert_double_eq(qg_merge_figures(&c).lost, 0);
    ck_assert(isinf(qg_merge_figures(&c).weight_db) && isinf(qg_merge_figures(&c).output_db));
    // 127 + 1/8 moves the block's scale by an ulp, and with it every element, by less than 1/8.
    for (size_t i = 0; i < R * K; i++)
        a[i] = i % 32 ? 1 : 0.5f;
    for (size_t i = 0; i < N * R; i++)
        b[i] = 0.25f;
    c = run(&g);
    ck_assert(merged[1] > w[1] && merged[1] < w[1] + 0.125f);
    ck_assert_uint_eq(c.swallowed, N * (K - 2));
}
END_TEST

/* An adapter that moves no code is swallowed in whole, whatever the model's dtype. */
START_TEST(swallowed_in_any_dtype)
{
    static const enum qg_dtype dtypes[] = {QG_F32, QG_BF16, QG_F16};
    uint16_t narrow[N * K], out[N * K];
    uint64_t deltas = 0;
    set_up();
    for (size_t i = 0; i < N * K; i++)
        deltas += expected(i / K, i % K) != w[i];
    for (size_t i = 0; i < N * R; i++)
        b[i] *= 1e-6f;
    struct qg_merge g = how(QG_MERGE_LEGACY, "llm-int8");
    for (int d = 0; d < 3; d++) {
        struct qg_tensor x = {"q.weight", dtypes[d], 2, {N, K}, d ? (void *)narrow : w};
        struct qg_merge_cost c = {0};
        struct qg_error err = {QG_OK, ""};
        for (size_t i = 0; i < N * K; i++)
            qg_put(&x, i, w[i]);
        ck_assert_msg(qg_merge_matrix(&g, &pair, &x, d ? (void *)out : merged, &c, &err) == QG_OK,
                      "%s", err.message);
        ck_assert_uint_eq(c.swallowed, deltas);
    }
}
END_TEST

/* Without delta every way gives what it makes of the base. */
START_TEST(no_delta)
{
    set_up();
    memset(b, 0, sizeof b);
    struct qg_merge g = how(QG_MERGE_BASE, "nf4-bnb-double");
    run(&g);
    ck_assert_mem_eq(merged, w, sizeof w);
    g.way = QG_MERGE_ROUND_TRIP;
    struct qg_merge_cost c = run(&g);
    struct qg_error err;
    ck_assert_int_eq(qg_merge_round_trip(&weight, &err), QG_OK);
    ck_assert_mem_eq(merged, w, sizeof w);
    ck_assert(c.noise == 0 && c.delta == 0 && c.swallowed == 0);
    ck_assert(isnan(qg_merge_figures(&c).lost));
}
END_TEST

/* A weight that is stored transposed is merged into what the other one, transposed, is. */
START_TEST(transposed)
{
    float turned[N * K], first[N * K];
    set_up();
    struct qg_merge g = how(QG_MERGE_BASE, "int8-row");
    run(&g);
    memcpy(first, merged, sizeof first);
    for (size_t i = 0; i < N * K; i++)
        turned[i % K * N + i / K] = w[i];
    weight = (struct qg_tensor){"q.weight", QG_F32, 2, {K, N}, turned};
    g.fan_in_fan_out = true;
    run(&g);
    for (size_t i = 0; i < N * K; i++)
        ck_assert_double_eq(merged[i % K * N + i / K], first[i]);
}
END_TEST

/* DoRA with m = the norm of its row changes nothing but roundings; with twice that, all doubles. */
START_TEST(magnitudes)
{
    set_up();
    for (size_t n = 0; n < N; n++) {
        double sum = 0;
        for (size_t k = 0; k < K; k++)
            sum += expected(n, k) * expected(n, k);
        m[n] = 2 * sqrtf((float)sum);
    }
    pair.m = (struct qg_tensor){"m", QG_F32, 1, {N}, m};
    struct qg_merge g = how(QG_MERGE_BASE, "int8-row");
    run(&g);
    for (size_t i = 0; i < N * K; i++)
        ck_assert_double_eq(merged[i], 2 * expected(i / K, i % K));
}
END_TEST

/* DoRA makes NaN of a row that is all zero: it is written so, and left out of the figures. */
START_TEST(rows_of_zeros)
{
    set_up();
    memset(w, 0, K * sizeof *w);
    memset(b, 0, R * sizeof *b);
    for (size_t n = 0; n < N; n++)
        m[n] = 1;
    pair.m = (struct qg_tensor){"m", QG_F32, 1, {N}, m};
    struct qg_merge g = how(QG_MERGE_BASE, "int8-row");
    struct qg_merge_cost c = run(&g), sum = {0};
    ck_assert(isnan(merged[0]) && isfinite(merged[K]));
    ck_assert(c.left_out == 1 && c.count == (N - 1) * K);
    struct qg_merge_figures f = qg_merge_figures(&c);
    ck_assert(isfinite(f.weight_db) && isfinite(f.output_db) && isfinite(f.delta_db));
    ck_assert(isfinite(f.swallowed) && isfinite(f.lost));
    qg_merge_cost_add(&sum, &c);
    qg_merge_cost_add(&sum, &c);
    ck_assert(sum.left_out == 2 && sum.count == 2 * c.count);
    memset(w, 0, sizeof w);
    memset(b, 0, sizeof b);
    c = run(&g);
    ck_assert(c.left_out == N && c.count == 0 && isnan(qg_merge_figures(&c).weight_db));
}
END_TEST

static void expect_refusal(const struct qg_merge *g, const char *why)
{
    struct qg_merge_cost cost = {0};
    struct qg_error err = {QG_OK, ""};
    ck_assert_int_eq(qg_merge_matrix(g, &pair, &weight, merged, &cost, &err), QG_EINVAL);
    ck_assert_msg(strncmp(err.message, "q: ", 3) == 0 && strstr(err.message, why),
                  "'%s' lacks '%s'", err.message, why);
}

START_TEST(refusals)
{
    set_up();
    struct qg_merge g = how(QG_MERGE_LEGACY, "int4");
    expect_refusal(&g, "K = 64, group = 128");
    pair.b.shape[0] = N - 1;
    expect_refusal(&g, "lora_B lora_A is [7,64], the weight is stored as [8,64]");
    pair.b.shape[0] = N;
    pair.m = (struct qg_tensor){"m", QG_F32, 1, {N}, m};
    expect_refusal(&g, "leaves the magnitudes out");
    g = how(QG_MERGE_BASE, "int8-row");
    g.layer = "merge-unsloth";
    expect_refusal(&g, "unsloth's merge leaves DoRA's magnitudes out");
    ck_assert_int_eq(qg_merge_way_parse("base"), QG_MERGE_BASE);
    ck_assert_int_eq(qg_merge_way_parse("basic"), QG_MERGE_WAYS);
}
END_TEST

/* --- checkpoints ----------------------------------------------------------------------------- */

static void expect_text(const char *name, const char *text)
{
    char got[64] = "";
    FILE *f = fopen(at(name), "r");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fread(got, 1, sizeof got - 1, f), strlen(text));
    fclose(f);
    ck_assert_str_eq(got, text);
}

/* Two shards, an index, and files beside them. */
static struct qg_model *put_checkpoint(void)
{
    struct qg_tensor x = {"x", QG_F32, 2, {N, K}, w}, y = {"y", QG_F32, 2, {N, R}, b};
    struct qg_model *model = NULL;
    struct qg_error err = {QG_OK, ""};
    enter();
    ck_assert_int_eq(mkdir(at("in"), 0777), 0);
    ck_assert_int_eq(qg_safetensors_write(at("in/s1.safetensors"), &x, 1, false, &err), 0);
    ck_assert_int_eq(qg_safetensors_write(at("in/s2.safetensors"), &y, 1, false, &err), 0);
    put_text("in/model.safetensors.index.json",
             "{\"weight_map\": {\"x\": \"s1.safetensors\", \"y\": \"s2.safetensors\"}}");
    put_text("in/config.json", "{\"a\": 1}");
    put_text("in/empty.txt", "");
    put_text("in/pytorch_model.bin", "old weights");
    put_text("in/.hidden", "hidden");
    ck_assert_msg(qg_model_open(at("in"), &model, &err) == QG_OK, "%s", err.message);
    return model;
}

static void delete_all(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    ck_assert_int_eq(system(command), 0);
}

/* Doubles y; fails at the tensor that `user` names. */
static enum qg_status change(const struct qg_model_tensor *t, void *data, void *user,
                             struct qg_error *err)
{
    float *v = data;
    if (user && strcmp(t->t.name, user) == 0)
        return qg_fail(err, QG_EINVAL, "not this one");
    for (size_t i = 0; t->t.name[0] == 'y' && i < qg_count(&t->t); i++)
        v[i] *= 2;
    return QG_OK;
}

START_TEST(written_again)
{
    struct qg_error err = {QG_OK, ""};
    set_up();
    struct qg_model *model = put_checkpoint(), *again = NULL;
    ck_assert_msg(qg_rewrite(model, at("in"), at("out/"), change, NULL, &err) == QG_OK, "%s",
                  err.message);
    ck_assert_int_eq(qg_model_open(at("out"), &again, &err), QG_OK);
    float x[N * K], y[N * R];
    ck_assert_int_eq(qg_model_load(again, qg_model_find(again, "x"), x, &err), QG_OK);
    ck_assert_int_eq(qg_model_load(again, qg_model_find(again, "y"), y, &err), QG_OK);
    ck_assert_mem_eq(x, w, sizeof w);
    for (size_t i = 0; i < N * R; i++)
        ck_assert_double_eq(y[i], 2 * (double)b[i]);
    expect_text("out/config.json", "{\"a\": 1}");
    expect_text("out/empty.txt", "");
    ck_assert_int_ne(access(at("out/pytorch_model.bin"), F_OK), 0);
    ck_assert_int_ne(access(at("out/.hidden"), F_OK), 0);
    qg_model_close(&again);
    qg_model_close(&model);
    delete_all();
}
END_TEST

START_TEST(not_written)
{
    struct qg_error err = {QG_OK, ""};
    set_up();
    struct qg_model *model = put_checkpoint();
    char last[] = "y";
    ck_assert_int_eq(qg_rewrite(model, at("in"), at("out"), change, last, &err), QG_EINVAL);
    ck_assert_str_eq(err.message, "not this one");
    ck_assert_int_ne(access(at("out"), F_OK), 0);
    ck_assert_int_ne(access(at("out.part"), F_OK), 0);
    put_text("out", "precious");
    ck_assert_int_eq(qg_rewrite(model, at("in"), at("out"), change, NULL, &err), QG_EIO);
    ck_assert_msg(strstr(err.message, "exists, nothing was written") != NULL, "%s", err.message);
    expect_text("out", "precious");
    ck_assert_int_eq(mkdir(at("new.part"), 0777), 0);
    ck_assert_int_eq(qg_rewrite(model, at("in"), at("new"), change, NULL, &err), QG_EIO);
    ck_assert_msg(strstr(err.message, "new.part is in the way") != NULL, "%s", err.message);
    qg_model_close(&model);
    delete_all();
}
END_TEST

QG_SUITE(merge, into_base, swallowed, swallowed_in_any_dtype, no_delta, transposed, magnitudes,
         rows_of_zeros, refusals, written_again, not_written)
