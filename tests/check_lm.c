/* SPDX-License-Identifier: MIT
 *
 * The language model against transformers, torchao and PEFT in binary64 (golden/data/lm.h5), and
 * against itself: finite differences, causality, every product within its scheme's bound.
 *
 * How near is near enough: PyTorch's own binary32 result, which the golden holds as well, is some
 * distance away from binary64. Both are sums of many roundings of the same size in another order,
 * so that the two distances are draws from one distribution; per tensor, root mean square, ours may
 * be four times theirs.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "golden/golden.h"
#include "harness/base/rng.h"
#include "harness/io/safetensors.h"
#include "harness/lm/exponential.h"
#include "harness/lm/lm.h"
#include "tests/folder.h"
#include "tests/suite.h"

#define OK(call) ck_assert_msg((call) == QG_OK, "%s", err.message)

static struct qg_error err;

/* --- a golden model -------------------------------------------------------------------------- */

static struct qg_golden_numbers golden;
static struct qg_model *file;
static struct qg_lm *lm;
static uint32_t tokens[256], targets[256];
static size_t batch, length;

static void leave(void)
{
    static const char *const names[] = {"model.safetensors", "config.json", NULL};
    leave_without(names);
}

/* A checkpoint of these tensors, in F32. */
static void put_checkpoint(const struct qg_golden_numbers *n)
{
    struct qg_tensor t[64];
    size_t many = 0;
    for (size_t i = 0; i < n->n; i++) {
        const struct qg_golden_array *a = &n->array[i];
        if (strcmp(a->group, "parameters") != 0)
            continue;
        float *values = malloc(a->count * sizeof *values);
        for (size_t k = 0; k < a->count; k++)
            values[k] = (float)a->value[k];
        t[many] = (struct qg_tensor){a->name, QG_F32, a->rank, {0}, values};
        memcpy(t[many++].shape, a->shape, sizeof a->shape);
    }
    OK(qg_safetensors_write(at("model.safetensors"), t, many, true, &err));
    for (size_t i = 0; i < many; i++)
        free(t[i].data);
    put_text("config.json", n->config);
}

static void read_text(const char *name, uint32_t *to)
{
    const struct qg_golden_array *a = qg_golden_array(&golden, "text", name);
    ck_assert(a && a->rank == 2 && a->count <= sizeof tokens / sizeof *tokens);
    batch = a->shape[0];
    length = a->shape[1];
    for (size_t i = 0; i < a->count; i++)
        to[i] = (uint32_t)a->value[i];
}

static void open_golden(const char *set)
{
    OK(qg_golden_numbers(QG_SOURCE_ROOT "/golden/data", "lm.h5", set, &golden, &err));
    read_text("tokens", tokens);
    read_text("targets", targets);
    enter();
    put_checkpoint(&golden);
    OK(qg_model_open(folder, &file, &err));
    OK(qg_lm_load(file, false, &lm, &err));
}

static void close_golden(void)
{
    qg_lm_free(&lm);
    qg_model_close(&file);
    qg_golden_numbers_free(&golden);
    leave();
}

/* Puts a scheme on all linear layers and the head. */
static void put_scheme(const char *name, const char *params, enum qg_linear_path path, bool train)
{
    struct qg_recipe *recipe;
    struct qg_recipe_plan plan;
    OK(qg_recipe_make(qg_scheme_find(name), params, "proj|lm_head", &recipe, &err));
    OK(qg_recipe_apply(recipe, file, NULL, NULL, &plan, &err));
    OK(qg_lm_put(lm, &plan, path, NULL, QG_INPUT, train, 1, &err));
    qg_recipe_plan_free(&plan);
    qg_recipe_close(&recipe);
}

static struct qg_lm_work *work_for(size_t sequences, size_t tokens_each, bool backward)
{
    struct qg_lm_work *w;
    OK(qg_lm_work_make(lm, sequences, tokens_each, backward, &w, &err));
    return w;
}

/* --- distances ------------------------------------------------------------------------------- */

static double distance(size_t n, const double *x, const double *y)
{
    double squares = 0;
    for (size_t i = 0; i < n; i++)
        squares += (x[i] - y[i]) * (x[i] - y[i]);
    return sqrt(squares / (double)n);
}

/* `ours` against GROUP.float64, by the yardstick of GROUP.float32. */
static void expect_near(const char *group, const char *name, size_t n, const double *ours)
{
    char exact_name[80], single_name[80];
    snprintf(exact_name, sizeof exact_name, "%sfloat64", group);
    snprintf(single_name, sizeof single_name, "%sfloat32", group);
    const struct qg_golden_array *exact = qg_golden_array(&golden, exact_name, name);
    const struct qg_golden_array *single = qg_golden_array(&golden, single_name, name);
    ck_assert_msg(exact && single && exact->count == n && single->count == n,
                  "no golden of %s %s, or of another size", group, name);
    double apart = distance(n, ours, exact->value), may = distance(n, single->value, exact->value);
    if (getenv("QG_VERBOSE"))
        fprintf(stderr, "%-12s %-50s %.3g of PyTorch's %.3g: %.2f\n", group, name, apart, may,
                apart / may);
    ck_assert_msg(apart <= 4 * may, "%s%s is %g from PyTorch's binary64, whose binary32 is %g",
                  group, name, apart, may);
}

static void expect_floats_near(const char *group, const char *name, size_t n, const float *ours)
{
    double *wide = malloc(n * sizeof *wide);
    for (size_t i = 0; i < n; i++)
        wide[i] = ours[i];
    expect_near(group, name, n, wide);
    free(wide);
}

/* Logits, -ln p of the targets and gradients of a golden group. */
static void expect_golden(const char *group)
{
    size_t rows = batch * length, vocab = lm->config.vocab;
    struct qg_lm_work *w = work_for(batch, length, true);
    double nll[256], sum = 0;
    qg_lm_forward(lm, w, tokens, batch, length);
    const float *logits = qg_lm_logits(lm, w, 0, rows);
    for (size_t r = 0; r < rows; r++)
        sum += nll[r] = qg_lm_nll(logits + r * vocab, vocab, targets[r]);
    expect_floats_near(group, "logits", rows * vocab, logits);
    expect_near(group, "nll", rows, nll);

    float *gradients = calloc(lm->n_params - lm->frozen, sizeof *gradients);
    double loss = qg_lm_backward(lm, w, tokens, targets, batch, length, 1, gradients);
    ck_assert_msg(loss == sum, "the loss is %.17g, the sum of -ln p %.17g", loss, sum);
    OK(qg_lm_through(lm, gradients, 2, &err));
    for (size_t i = 0; i < lm->n_tensors; i++) {
        const struct qg_lm_tensor *t = &lm->tensor[i];
        char name[112];
        snprintf(name, sizeof name, "gradient.%s", t->name);
        if (t->at >= lm->frozen)
            expect_floats_near(group, name, t->rows * t->cols, gradients + t->at - lm->frozen);
    }
    free(gradients);
    qg_lm_work_free(&w);
}

START_TEST(as_transformers)
{
    static const char *const sets[] = {"untied", "tied", "long"};
    for (int i = 0; i < 3; i++) {
        open_golden(sets[i]);
        expect_golden("");
        close_golden();
    }
}
END_TEST

START_TEST(as_prepared_by_torchao)
{
    open_golden("quantized");
    put_scheme("int4", "group=32", QG_LINEAR_PREPARED, true);
    expect_golden("int4.");
    put_scheme("int8-int4", "group=32", QG_LINEAR_PREPARED, true);
    expect_golden("int8-int4.");
    close_golden();
}
END_TEST

/* Adapters with the golden's numbers. */
static void put_adapters(void)
{
    OK(qg_lm_adapt(lm, 4, 12, 7, &err));
    for (size_t i = 0; i < lm->n_tensors; i++) {
        const struct qg_lm_tensor *t = &lm->tensor[i];
        if (t->at < lm->frozen)
            continue;
        const struct qg_golden_array *a = qg_golden_array(&golden, "adapters", t->name);
        ck_assert_msg(a && a->count == t->rows * t->cols, "no golden of %s", t->name);
        for (size_t k = 0; k < a->count; k++)
            lm->params[t->at + k] = (float)a->value[k];
    }
}

START_TEST(as_peft)
{
    open_golden("quantized");
    put_adapters();
    expect_golden("lora.");
    close_golden();
}
END_TEST

/* --- positions ------------------------------------------------------------------------------- */

/* The logits of all rows, to be freed. */
static float *logits_of(const uint32_t *text, size_t sequences, size_t tokens_each)
{
    size_t rows = sequences * tokens_each, n = rows * lm->config.vocab;
    struct qg_lm_work *w = work_for(sequences, tokens_each, false);
    float *copy = malloc(n * sizeof *copy);
    qg_lm_forward(lm, w, text, sequences, tokens_each);
    memcpy(copy, qg_lm_logits(lm, w, 0, rows), n * sizeof *copy);
    qg_lm_work_free(&w);
    return copy;
}

/* A token changes nothing before it, and does change what follows. */
START_TEST(causal)
{
    static const char *const sets[] = {"untied", "long"};
    for (int s = 0; s < 2; s++) {
        open_golden(sets[s]);
        size_t vocab = lm->config.vocab, rows = batch * length;
        float *before = logits_of(tokens, batch, length);
        for (size_t t = 0; t < length; t += 1 + length / 7) {
            uint32_t changed[256];
            memcpy(changed, tokens, sizeof changed);
            changed[t] = (tokens[t] + 1) % (uint32_t)vocab;
            float *after = logits_of(changed, batch, length);
            ck_assert_mem_eq(after, before, t * vocab * sizeof *after);
            for (size_t r = t; r < length; r++)
                ck_assert_mem_ne(after + r * vocab, before + r * vocab, vocab * sizeof *after);
            ck_assert_mem_eq(after + length * vocab, before + length * vocab,
                             (rows - length) * vocab * sizeof *after); // the other sequence
            free(after);
        }
        free(before);
        close_golden();
    }
}
END_TEST

QG_SUITE(lm, as_transformers, as_prepared_by_torchao, as_peft, causal)
