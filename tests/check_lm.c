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
#include "harness/compare.h"
#include "harness/io/safetensors.h"
#include "harness/lm/exponential.h"
#include "harness/lm/lm.h"
#include "kernels/c/rows.h"
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

static void expect_gradients(const char *group, const float *gradients)
{
    for (size_t i = 0; i < lm->n_tensors; i++) {
        const struct qg_lm_tensor *t = &lm->tensor[i];
        char name[112];
        snprintf(name, sizeof name, "gradient.%s", t->name);
        if (t->at >= lm->frozen)
            expect_floats_near(group, name, t->rows * t->cols, gradients + t->at - lm->frozen);
    }
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
    expect_gradients(group, gradients);
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

/* Adapters on a base that stays as it is under fake-quant: their gradients are those through the
 * quantized base. */
START_TEST(as_peft_on_prepared_by_torchao)
{
    open_golden("quantized");
    put_adapters();
    put_scheme("int4", "group=32", QG_LINEAR_PREPARED, true);
    expect_golden("int4-lora.");
    put_scheme("int8-int4", "group=32", QG_LINEAR_PREPARED, true);
    expect_golden("int8-int4-lora.");
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

/* A text's logits are the same beside another, alone, and cut short; not to the bit, for OpenBLAS
 * sums products of other shapes in another order. */
START_TEST(alone_and_together)
{
    open_golden("untied");
    size_t vocab = lm->config.vocab, one = length * vocab, some = 17;
    float *together = logits_of(tokens, 2, length), *again = logits_of(tokens, 2, length);
    float *first = logits_of(tokens, 1, length), *second = logits_of(tokens + length, 1, length);
    float *shorter = logits_of(tokens, 1, some);
    ck_assert_mem_eq(together, again, 2 * one * sizeof *together);
    memcpy(together, first, one * sizeof *together);
    memcpy(together + one, second, one * sizeof *together);
    expect_floats_near("", "logits", 2 * one, together);
    memcpy(together, shorter, some * vocab * sizeof *together);
    expect_floats_near("", "logits", 2 * one, together);
    free(together);
    free(again);
    free(first);
    free(second);
    free(shorter);
    close_golden();
}
END_TEST

/* Gradients add up, over calls as over sequences, and follow their factor. */
START_TEST(gradients_add_up)
{
    open_golden("untied");
    size_t n = lm->n_params;
    float *gradients = calloc(n, sizeof *gradients);
    struct qg_lm_work *w = work_for(1, length, true);
    for (size_t s = 0; s < 2; s++) {
        double apart = qg_lm_backward(lm, w, tokens + s * length, targets + s * length, 1, length,
                                      0.25f, gradients);
        ck_assert(apart > 0);
    }
    for (size_t i = 0; i < n; i++)
        gradients[i] *= 4;
    expect_gradients("", gradients);
    qg_lm_work_free(&w);
    free(gradients);
    close_golden();
}
END_TEST

/* --- finite differences ---------------------------------------------------------------------- */

/* The loss with tensor t moved by `step` times a random direction; puts the tensor back. moved[k]
 * is by how much each number moved, once rounded. */
static double loss_beside(struct qg_lm_work *w, const struct qg_lm_tensor *t, double step,
                          double *moved)
{
    size_t n = t->rows * t->cols, rows = batch * length, vocab = lm->config.vocab;
    float *x = lm->params + t->at, *kept = malloc(n * sizeof *kept);
    memcpy(kept, x, n * sizeof *kept);
    for (size_t k = 0; k < n; k++) {
        x[k] = (float)(kept[k] + step * qg_rng_normal(3, t->at, k));
        moved[k] = (double)x[k] - kept[k];
    }
    OK(qg_lm_refresh(lm, 1, &err));
    qg_lm_forward(lm, w, tokens, batch, length);
    const float *logits = qg_lm_logits(lm, w, 0, rows);
    double sum = 0;
    for (size_t r = 0; r < rows; r++)
        sum += qg_lm_nll(logits + r * vocab, vocab, targets[r]);
    memcpy(x, kept, n * sizeof *kept);
    free(kept);
    OK(qg_lm_refresh(lm, 1, &err));
    return sum;
}

/* L(+step) - L(-step); *slope gets what the gradient makes of it. */
static double difference(struct qg_lm_work *w, const struct qg_lm_tensor *t, double step,
                         const float *gradient, double *slope)
{
    size_t n = t->rows * t->cols;
    double *up = malloc(n * sizeof *up), *down = malloc(n * sizeof *down);
    double d = loss_beside(w, t, step, up) - loss_beside(w, t, -step, down);
    *slope = 0;
    for (size_t k = 0; k < n; k++)
        *slope += gradient[k] * (up[k] - down[k]);
    free(up);
    free(down);
    return d;
}

/* What rounding does to the loss: how far it is from a straight line over steps so small that the
 * line is straight. */
static double roundoff(struct qg_lm_work *w, const struct qg_lm_tensor *t, double step,
                       double *scratch)
{
    double worst = 0, middle = loss_beside(w, t, 0, scratch);
    for (int k = 1; k <= 8; k++) {
        double bent = loss_beside(w, t, k * step, scratch) + loss_beside(w, t, -k * step, scratch) -
                      2 * middle;
        worst = fmax(worst, fabs(bent));
    }
    return worst;
}

/* Along a random direction of every trained tensor, central differences of three steps: each is off
 * by about four times as much as the one of half the step, so that the smallest is off by less than
 * two neighbours are apart (of larger steps: a quarter of that), but for rounding. */
static void expect_slopes(void)
{
    struct qg_lm_work *w = work_for(batch, length, true);
    float *gradients = calloc(lm->n_params - lm->frozen, sizeof *gradients);
    double *scratch = malloc(lm->n_params * sizeof *scratch), step = 0x1p-10;
    qg_lm_backward(lm, w, tokens, targets, batch, length, 1, gradients);
    for (size_t i = 0; i < lm->n_tensors; i++) {
        const struct qg_lm_tensor *t = &lm->tensor[i];
        double slope, other;
        if (t->at < lm->frozen)
            continue;
        const float *g = gradients + t->at - lm->frozen;
        double d = difference(w, t, step, g, &slope);
        double far = difference(w, t, 2 * step, g, &other) / 2;
        double farther = difference(w, t, 4 * step, g, &other) / 4;
        double may = fmax(fabs(far - d), fabs(farther - far) / 4);
        may += roundoff(w, t, step / 1024, scratch);
        if (getenv("QG_VERBOSE"))
            fprintf(stderr, "%-50s slope %10.4g: off by %.2g, may be %.2g\n", t->name, slope,
                    fabs(d - slope), may);
        ck_assert_msg(fabs(d - slope) <= may, "%s: by differences %g, by the gradient %g; may: %g",
                      t->name, d, slope, may);
        ck_assert_msg(may < fabs(slope) / 16, "%s: the differences say nothing", t->name);
    }
    free(scratch);
    free(gradients);
    qg_lm_work_free(&w);
}

START_TEST(slopes)
{
    static const char *const sets[] = {"untied", "tied"};
    for (int i = 0; i < 2; i++) {
        open_golden(sets[i]);
        expect_slopes();
        close_golden();
    }
}
END_TEST

/* Adapters on a frozen base that was converted. */
START_TEST(slopes_on_a_quantized_base)
{
    static const char *const schemes[] = {"nf4-bnb", "int4"};
    for (int i = 0; i < 2; i++) {
        open_golden("quantized");
        put_adapters();
        put_scheme(schemes[i], i ? "group=32" : "", QG_LINEAR_CONVERTED, true);
        expect_slopes();
        close_golden();
    }
}
END_TEST

/* Under a recipe that trains adapters on a frozen base, prepared is what is shipped: the same
 * logits, and gradients through it. */
START_TEST(slopes_on_a_frozen_base)
{
    struct qg_recipe *recipe;
    struct qg_recipe_plan plan;
    open_golden("quantized");
    put_adapters();
    OK(qg_recipe_open("axolotl-nf4", &recipe, &err));
    OK(qg_recipe_apply(recipe, file, NULL, NULL, &plan, &err));
    ck_assert_int_eq(qg_recipe_training(recipe), QG_TRAINING_FROZEN_BASE);
    size_t n = batch * length * lm->config.vocab, quantized = 0;
    float *plain = logits_of(tokens, batch, length);
    OK(qg_lm_put(lm, &plan, QG_LINEAR_CONVERTED, NULL, QG_F32, true, 1, &err));
    float *converted = logits_of(tokens, batch, length);
    OK(qg_lm_put(lm, &plan, QG_LINEAR_PREPARED, NULL, QG_F32, true, 1, &err));
    float *prepared = logits_of(tokens, batch, length);
    ck_assert_mem_eq(prepared, converted, n * sizeof *prepared);
    ck_assert_mem_ne(prepared, plain, n * sizeof *prepared);
    for (size_t i = 0; i < lm->n_tensors; i++)
        quantized += qg_lm_is_matrix(&lm->tensor[i]) && lm->linear[i].order.choice.scheme;
    ck_assert_uint_eq(quantized, 7);
    expect_slopes();
    free(plain);
    free(converted);
    free(prepared);
    qg_recipe_plan_free(&plan);
    qg_recipe_close(&recipe);
    close_golden();
}
END_TEST

/* --- every product --------------------------------------------------------------------------- */

enum { LENGTH = 5, WIDE = 256 };

/* A random model whose matrices fit all schemes, saved and opened. */
static void open_random(enum qg_dtype dtype)
{
    static const struct qg_lm_config config = {.vocab = 64,
                                               .width = WIDE,
                                               .layers = 1,
                                               .heads = 4,
                                               .kv_heads = 4,
                                               .head = 64,
                                               .hidden = WIDE,
                                               .context = 32,
                                               .norm_eps = 1e-5,
                                               .rope_theta = 1e4};
    OK(qg_lm_make(&config, dtype, &lm, &err));
    for (size_t i = 0; i < lm->n_tensors; i++) {
        const struct qg_lm_tensor *t = &lm->tensor[i];
        for (size_t k = 0; k < t->rows * t->cols; k++)
            lm->params[t->at + k] =
                (float)(qg_lm_is_matrix(t) ? qg_rng_normal(5, i, k) / sqrt((double)t->cols)
                                           : 1 + 0.2 * qg_rng_normal(5, i, k));
    }
    enter();
    OK(qg_lm_save(lm, folder, dtype, false, &err));
    qg_lm_free(&lm);
    OK(qg_model_open(folder, &file, &err));
    OK(qg_lm_load(file, false, &lm, &err));
    batch = 1;
    length = LENGTH;
    for (uint32_t t = 0; t < LENGTH; t++)
        tokens[t] = 7 * t + 3;
}

/* The arguments of an operation of a matrix's scheme, with memory for what judges matmul. */
static void call_of(const struct qg_linear *l, enum qg_op op, enum qg_operand operand, size_t rows,
                    struct qg_call *c)
{
    const struct qg_scheme *s =
        operand == QG_ACTIVATION ? l->order.activation : l->order.choice.scheme;
    struct qg_call made;
    const char *params = s == l->order.choice.scheme ? l->order.choice.params : "";
    size_t m = op == QG_MATMUL ? rows : 0, r = operand == QG_ACTIVATION ? rows : l->rows;
    OK(qg_call_make(s, params, op, operand, l->order.dtype, m, r, l->cols, &made, &err));
    OK(qg_call_alloc(c, &made.args, op == QG_MATMUL || op == QG_FAKE_QUANT_GRAD, &err));
    qg_call_free(&made);
}

static void fill_from(struct qg_call *c, int first, const struct qg_call *planes)
{
    for (int i = first; i < c->args.n_in; i++)
        memcpy(c->args.in[i].data, planes->args.out[i - first].data, qg_bytes(&c->args.in[i]));
}

/* Convert by the definition. */
static void convert(const struct qg_linear *l, enum qg_operand operand, size_t rows, const float *x,
                    struct qg_call *c)
{
    call_of(l, QG_CONVERT, operand, rows, c);
    qg_store(&c->args.in[0], 0, rows * l->cols, x);
    qg_definition(c->args.scheme, operand, QG_CONVERT)(&c->args);
}

/* One operand of a product as definitions have it: rounded, fake-quantized, or converted and
 * dequantized. */
static void operand_of(const struct qg_linear *l, enum qg_operand operand, size_t rows,
                       const float *x, float *y)
{
    size_t n = rows * l->cols;
    bool quantized = operand != QG_ACTIVATION || l->order.activation;
    struct qg_call c, planes;
    if (l->order.path == QG_LINEAR_PLAIN || !quantized) {
        for (size_t i = 0; i < n; i++)
            y[i] = qg_round(l->order.dtype, x[i]);
        return;
    }
    if (l->order.path == QG_LINEAR_PREPARED) {
        call_of(l, QG_FAKE_QUANT, operand, rows, &c);
        qg_store(&c.args.in[0], 0, n, x);
    } else {
        convert(l, operand, rows, x, &planes);
        call_of(l, QG_DEQUANT, operand, rows, &c);
        fill_from(&c, 0, &planes);
        qg_call_free(&planes);
    }
    qg_definition(c.args.scheme, operand, c.args.op)(&c.args);
    qg_load(&c.args.out[0], 0, n, y);
    qg_call_free(&c);
}

/* y is the rounding of something within bound of exact. */
static void expect_within(const struct qg_linear *l, enum qg_dtype t, size_t n, const float *y,
                          const double *exact, const double *bound)
{
    struct qg_tensor want = {"want", t, 1, {n}, malloc(n * sizeof(float))};
    struct qg_tensor got = {"got", t, 1, {n}, malloc(n * sizeof(float))};
    struct qg_diff d = qg_no_diff;
    for (size_t i = 0; i < n; i++) {
        float x = (float)exact[i];
        qg_store(&want, i, 1, &x);
        ck_assert_msg(qg_round(t, y[i]) == y[i], "%s gives %g, which is not %s", l->name,
                      (double)y[i], qg_dtype_name(t));
    }
    qg_store(&got, 0, n, y);
    qg_compare(&want, &got, exact, bound, &d);
    ck_assert_msg(d.wrong == 0, "%s, %s: %zu of %zu outputs are out of bounds", l->name, l->kernel,
                  (size_t)d.wrong, n);
    free(want.data);
    free(got.data);
}

static int products;

/* By the definition of the scheme's matmul, on planes of the definition of convert. */
static void expect_matmul(const struct qg_linear *l, size_t m, const float *x, const float *y)
{
    struct qg_call planes, c;
    convert(l, QG_WEIGHT, l->rows, l->source, &planes);
    call_of(l, QG_MATMUL, QG_WEIGHT, m, &c);
    qg_store(&c.args.in[0], 0, m * l->cols, x);
    fill_from(&c, 1, &planes);
    qg_definition(c.args.scheme, QG_WEIGHT, QG_MATMUL)(&c.args);
    expect_within(l, l->order.dtype, m * l->rows, y, c.args.exact, c.args.bound);
    qg_call_free(&planes);
    qg_call_free(&c);
}

/* By a product in binary64, whose distance from one in binary32 in any order is at most K units of
 * rounding of the sum of magnitudes (Higham, Accuracy and Stability, 3.1). */
static void expect_product(const struct qg_linear *l, size_t m, const float *x, const float *y)
{
    size_t k = l->cols, n = l->rows;
    float *a = malloc(m * k * sizeof *a), *b = malloc(n * k * sizeof *b);
    double *exact = calloc(m * n, sizeof *exact), *bound = calloc(m * n, sizeof *bound);
    operand_of(l, QG_ACTIVATION, m, x, a);
    operand_of(l, l->order.operand, n, l->source, b);
    for (size_t i = 0; i < m * n; i++) {
        for (size_t j = 0; j < k; j++) {
            double p = (double)a[i / n * k + j] * b[i % n * k + j];
            exact[i] += p;
            bound[i] += fabs(p);
        }
        double units = (double)k * 0x1p-24;
        bound[i] *= units / (1 - units);
    }
    expect_within(l, l->order.dtype, m * n, y, exact, bound);
    free(a);
    free(b);
    free(exact);
    free(bound);
}

static void judge(void *user, size_t tensor, size_t m, const float *x, const float *y)
{
    const struct qg_linear *l = &lm->linear[tensor];
    (void)user;
    for (size_t i = 0; i < m * l->rows; i++)
        ck_assert_msg(isfinite(y[i]), "%s, %s: an output is %g", l->name, l->kernel, (double)y[i]);
    if (l->matmul)
        expect_matmul(l, m, x, y);
    else
        expect_product(l, m, x, y);
    products++;
}

static void judge_products(void)
{
    struct qg_lm_work *w = work_for(batch, length, false);
    w->tap = judge;
    products = 0;
    qg_lm_forward(lm, w, tokens, batch, length);
    qg_lm_logits(lm, w, 0, length);
    ck_assert_int_eq(products, 8);
    qg_lm_work_free(&w);
}

/* A plan that puts a scheme on all linear layers and the head; false when upstream refuses. */
static bool plan_for(const struct qg_scheme *s, struct qg_recipe **recipe,
                     struct qg_recipe_plan *plan)
{
    if (qg_recipe_make(s, NULL, "proj|lm_head", recipe, &err) != QG_OK)
        return false;
    if (qg_recipe_apply(*recipe, file, NULL, NULL, plan, &err) == QG_OK)
        return true;
    qg_recipe_close(recipe);
    return false;
}

static void judge_scheme(const struct qg_scheme *s, int *put, int *refused)
{
    static const char *const backends[] = {NULL, "c", "blas"};
    struct qg_recipe *recipe;
    struct qg_recipe_plan plan;
    if (!plan_for(s, &recipe, &plan)) {
        ++*refused;
        return;
    }
    for (int i = 0; i < 4; i++) {
        enum qg_linear_path path = i < 3 ? QG_LINEAR_CONVERTED : QG_LINEAR_PREPARED;
        const char *backend = backends[i % 3];
        if (qg_lm_put(lm, &plan, path, backend, QG_INPUT, false, 2, &err) != QG_OK) {
            bool absent = err.status == QG_EABSENT || path == QG_LINEAR_PREPARED;
            ck_assert_msg(absent, "%s: %s", s->name, err.message);
            continue;
        }
        judge_products();
        ++*put;
    }
    qg_recipe_plan_free(&plan);
    qg_recipe_close(&recipe);
}

START_TEST(every_product_of_every_scheme)
{
    int put = 0, refused = 0;
    const struct qg_scheme *s;
    open_random(QG_BF16);
    for (size_t i = 0; (s = qg_scheme_at(i)); i++)
        if (s->operand[QG_WEIGHT].convert)
            judge_scheme(s, &put, &refused);
    if (getenv("QG_VERBOSE"))
        fprintf(stderr, "%d states judged, %d schemes refused\n", put, refused);
    close_golden();
}
END_TEST

/* Where a recipe quantizes inputs that the scheme's kernel would not, dequantized operands are
 * multiplied. */
START_TEST(other_activation)
{
    static const char text[] =
        "name: mixed\nsummary: inputs by another scheme\ntraining: post-training\n"
        "rules:\n"
        "  - about: all\n"
        "    match: {name: 'proj|lm_head'}\n"
        "    scheme: int4\n"
        "    activation: int8-int4\n";
    static const char *const names[] = {"recipe.yaml", NULL};
    struct qg_recipe *recipe;
    struct qg_recipe_plan plan;
    open_random(QG_BF16);
    put_text(names[0], text);
    OK(qg_recipe_open(at(names[0]), &recipe, &err));
    OK(qg_recipe_apply(recipe, file, NULL, NULL, &plan, &err));
    OK(qg_lm_put(lm, &plan, QG_LINEAR_CONVERTED, NULL, QG_INPUT, false, 2, &err));
    ck_assert(!lm->linear[qg_lm_index(lm, QG_LM_Q, 0)].matmul);
    judge_products();
    qg_recipe_plan_free(&plan);
    qg_recipe_close(&recipe);
    unlink(at(names[0]));
    close_golden();
}
END_TEST

/* The gradient of what goes into a prepared matrix is dy . W through the fake-quant of x, and that
 * of its weights dy^T . x, with x as it is multiplied. */
static void judge_backward(const struct qg_linear *l, struct qg_linear_scratch *scratch)
{
    enum { M = LENGTH };
    size_t n = l->rows, k = l->cols;
    static float x[M * WIDE], taken[M * WIDE], dy[M * WIDE], g[M * WIDE], dx[M * WIDE];
    static double exact[WIDE * WIDE], bound[WIDE * WIDE];
    float *dw = calloc(n * k, sizeof *dw);
    struct qg_call c;
    for (size_t i = 0; i < M * WIDE; i++) {
        x[i] = (float)qg_rng_normal(8, 0, i);
        dy[i] = (float)qg_rng_normal(8, 1, i);
    }
    qg_linear_backward(l, M, x, dy, dx, dw, NULL, NULL, scratch);
    qg_product(false, false, M, k, n, 1, dy, n, l->weights, k, false, g, k);
    call_of(l, QG_FAKE_QUANT_GRAD, QG_ACTIVATION, M, &c);
    qg_store(&c.args.in[0], 0, M * k, x);
    qg_store(&c.args.in[1], 0, M * k, g);
    qg_definition(c.args.scheme, QG_ACTIVATION, QG_FAKE_QUANT_GRAD)(&c.args);
    expect_within(l, l->order.dtype, M * k, dx, c.args.exact, c.args.bound);
    qg_call_free(&c);

    operand_of(l, QG_ACTIVATION, M, x, taken);
    for (size_t i = 0; i < n * k; i++) {
        exact[i] = bound[i] = 0;
        for (size_t r = 0; r < M; r++) {
            double p = (double)dy[r * n + i / k] * taken[r * k + i % k];
            exact[i] += p;
            bound[i] += fabs(p) * M * 0x1p-24 / (1 - M * 0x1p-24);
        }
    }
    expect_within(l, QG_F32, n * k, dw, exact, bound);
    free(dw);
}

START_TEST(backward_of_prepared)
{
    const struct qg_scheme *s;
    struct qg_recipe *recipe;
    struct qg_recipe_plan plan;
    int judged = 0;
    open_random(QG_BF16);
    struct qg_lm_work *w = work_for(1, LENGTH, true);
    for (size_t i = 0; (s = qg_scheme_at(i)); i++) {
        if (!s->operand[QG_WEIGHT].fake_quant || !s->operand[QG_ACTIVATION].fake_quant_grad ||
            !plan_for(s, &recipe, &plan))
            continue;
        const struct qg_linear *l = &lm->linear[qg_lm_index(lm, QG_LM_Q, 0)];
        if (qg_lm_put(lm, &plan, QG_LINEAR_PREPARED, NULL, QG_INPUT, true, 1, &err) == QG_OK &&
            l->order.activation) {
            judge_backward(l, &w->scratch);
            judged++;
        }
        qg_recipe_plan_free(&plan);
        qg_recipe_close(&recipe);
    }
    ck_assert_int_gt(judged, 4);
    qg_lm_work_free(&w);
    close_golden();
}
END_TEST

START_TEST(plain_products)
{
    static const enum qg_dtype dtypes[] = {QG_F32, QG_BF16, QG_F16};
    for (int i = 0; i < 3; i++) {
        open_random(dtypes[i]);
        for (int j = 0; j < 3; j++) {
            OK(qg_lm_put(lm, NULL, QG_LINEAR_PLAIN, NULL, dtypes[j], false, 2, &err));
            judge_products();
        }
        close_golden();
    }
}
END_TEST

/* --- the exponential ------------------------------------------------------------------------- */

/* All floats in its range, or (by default) every 997th. */
START_TEST(exponential)
{
    uint32_t every = getenv("QG_SLOW") ? 1 : 997;
    double worst = 0;
    for (int sign = 0; sign < 2; sign++) {
        uint32_t last = qg_f32_bits(sign ? 87.0f : 88.0f);
        for (uint32_t bits = 0; bits <= last; bits += every) {
            float x = qg_f32_from_bits(bits | (uint32_t)sign << 31);
            double exact = exp(x), unit = ldexp(1, ilogb(exact) - 23);
            worst = fmax(worst, fabs(qg_exponential(x) - exact) / unit);
        }
    }
    if (getenv("QG_VERBOSE"))
        fprintf(stderr, "exponential: off by %.3f units at most\n", worst);
    ck_assert_msg(worst <= 1.05, "it is off by %g units of the last place", worst);
    ck_assert(qg_exponential(0) == 1);
    ck_assert(qg_exponential(-200) == qg_exponential(-87));
    ck_assert(qg_exponential(-INFINITY) == qg_exponential(-87));
    ck_assert(qg_exponential(INFINITY) == qg_exponential(88));
    ck_assert(isnan(qg_exponential(NAN)));
}
END_TEST

/* --- bad checkpoints ------------------------------------------------------------------------- */

#define BASE                                                                           \
    "\"model_type\": \"llama\", \"vocab_size\": 8, \"hidden_size\": 8, "               \
    "\"intermediate_size\": 6, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, " \
    "\"tie_word_embeddings\": false"

static const struct {
    const char *name;
    size_t rank, shape[2];
} small[] = {
    {"model.embed_tokens.weight", 2, {8, 8}},
    {"model.layers.0.input_layernorm.weight", 1, {8}},
    {"model.layers.0.self_attn.q_proj.weight", 2, {8, 8}},
    {"model.layers.0.self_attn.k_proj.weight", 2, {8, 8}},
    {"model.layers.0.self_attn.v_proj.weight", 2, {8, 8}},
    {"model.layers.0.self_attn.o_proj.weight", 2, {8, 8}},
    {"model.layers.0.post_attention_layernorm.weight", 1, {8}},
    {"model.layers.0.mlp.gate_proj.weight", 2, {6, 8}},
    {"model.layers.0.mlp.up_proj.weight", 2, {6, 8}},
    {"model.layers.0.mlp.down_proj.weight", 2, {8, 6}},
    {"model.norm.weight", 1, {8}},
    {"lm_head.weight", 2, {8, 8}},
};
enum { SMALL = sizeof small / sizeof *small };

/* The tensors of the small model, all numbers 1/2, to be changed and written. */
static size_t small_tensors(struct qg_tensor t[SMALL + 1], float *numbers)
{
    for (size_t i = 0; i < 64; i++)
        numbers[i] = 0.5f;
    for (size_t i = 0; i < SMALL; i++) {
        t[i] = (struct qg_tensor){small[i].name, QG_F32, (int)small[i].rank, {0}, numbers};
        memcpy(t[i].shape, small[i].shape, sizeof small[i].shape);
    }
    return SMALL;
}

static void put_small(const struct qg_tensor *t, size_t n, const char *config)
{
    OK(qg_safetensors_write(at("model.safetensors"), t, n, true, &err));
    put_text("config.json", config);
}

static void expect_loads(bool tied)
{
    OK(qg_model_open(folder, &file, &err));
    OK(qg_lm_load(file, false, &lm, &err));
    ck_assert(lm->config.tied == tied);
    qg_lm_free(&lm);
    qg_model_close(&file);
}

static void expect_refusal(const char *message)
{
    OK(qg_model_open(folder, &file, &err));
    ck_assert_msg(qg_lm_load(file, false, &lm, &err) != QG_OK, "it loads; expected: %s", message);
    ck_assert_ptr_null(lm);
    ck_assert_int_eq(err.status, QG_EFORMAT);
    ck_assert_msg(strstr(err.message, message) && strstr(err.message, folder),
                  "'%s' lacks '%s' or the folder", err.message, message);
    qg_model_close(&file);
}

START_TEST(bad_configs)
{
    static const char tensors_of_6[] = "is [8,8], by config.json it should be [8,16]";
    static const struct {
        const char *config, *message;
    } cases[] = {
        {"{}", "\"model_type\" must be llama or mistral"},
        {"[]", "JSON"},
        {"{\"model_type\": 7}", "\"model_type\" must be"},
        {"{\"model_type\": \"gpt2\"}", "\"model_type\" must be"},
        {"{\"model_type\": \"llama\"}", "\"vocab_size\" must be a whole number"},
        {"{" BASE ", \"head_dim\": 3}", "\"head_dim\" must be even"},
        {"{" BASE ", \"head_dim\": \"8\"}", "\"head_dim\" must be a whole number"},
        {"{" BASE ", \"head_dim\": 0}", "\"head_dim\" must be a whole number"},
        {"{" BASE ", \"head_dim\": 16777216}", "\"head_dim\" must be such that"},
        {"{" BASE ", \"head_dim\": 8}", "is [8,8], by config.json it should be [16,8]"},
        {"{" BASE ", \"num_key_value_heads\": 3}", "\"num_key_value_heads\" must be a divisor"},
        {"{" BASE ", \"num_key_value_heads\": -1}", "\"num_key_value_heads\" must be a whole"},
        {"{" BASE ", \"num_key_value_heads\": 1.5}", "\"num_key_value_heads\" must be a whole"},
        {"{" BASE ", \"num_key_value_heads\": 1e300}", "\"num_key_value_heads\" must be a whole"},
        {"{" BASE ", \"num_key_value_heads\": 1e999}", "\"num_key_value_heads\" must be a whole"},
        {"{" BASE ", \"num_key_value_heads\": []}", "\"num_key_value_heads\" must be a whole"},
        {"{" BASE ", \"num_key_value_heads\": 1}",
         "self_attn.k_proj.weight' is [8,8], by config.json it should be [4,8]"},
        {"{" BASE ", \"rms_norm_eps\": 0}", "\"rms_norm_eps\" must be a number above 0"},
        {"{" BASE ", \"rms_norm_eps\": \"1e-5\"}", "\"rms_norm_eps\" must be a number above 0"},
        {"{" BASE ", \"rope_theta\": -1}", "\"rope_theta\" must be a number above 0"},
        {"{" BASE ", \"rope_scaling\": 4}", "\"rope_scaling\" must be an object or null"},
        {"{" BASE ", \"rope_parameters\": \"\"}", "\"rope_parameters\" must be an object or null"},
        {"{" BASE ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}}",
         "\"rope_type\" must be default or llama3"},
        {"{" BASE ", \"rope_parameters\": {\"rope_type\": \"yarn\"}}", "\"rope_type\" must be"},
        {"{" BASE ", \"rope_parameters\": {\"rope_type\": 3}}", "\"rope_type\" must be"},
        {"{" BASE ", \"rope_parameters\": {\"rope_theta\": []}}", "\"rope_theta\" must be"},
        {"{" BASE ", \"rope_scaling\": {\"rope_type\": \"llama3\"}}", "\"factor\" must be"},
        {"{" BASE ", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, "
         "\"low_freq_factor\": 4, \"high_freq_factor\": 4, "
         "\"original_max_position_embeddings\": 8}}",
         "\"high_freq_factor\" must be above low_freq_factor"},
        {"{" BASE ", \"partial_rotary_factor\": 0.5}", "\"partial_rotary_factor\" must be 1"},
        {"{" BASE ", \"hidden_act\": \"gelu\"}", "\"hidden_act\" must be silu"},
        {"{" BASE ", \"hidden_act\": 5}", "\"hidden_act\" must be silu"},
        {"{" BASE ", \"attention_bias\": true}", "\"attention_bias\" must be false"},
        {"{" BASE ", \"attention_bias\": \"yes\"}", "\"attention_bias\" must be false"},
        {"{" BASE ", \"mlp_bias\": true}", "\"mlp_bias\" must be false"},
        {"{" BASE ", \"sliding_window\": 4096}", "\"sliding_window\" must be null"},
        {"{" BASE ", \"bos_token_id\": 8}", "\"bos_token_id\" must be a token below vocab_size"},
        {"{" BASE ", \"bos_token_id\": -1}", "\"bos_token_id\" must be a token below vocab_size"},
        {"{" BASE ", \"bos_token_id\": 0.5}", "\"bos_token_id\" must be a token below vocab_size"},
        {"{" BASE ", \"quantization_config\": {\"quant_method\": \"awq\"}}", "quantized by awq"},
        {"{\"num_hidden_layers\": 4096, \"vocab_size\": 16777216, \"hidden_size\": 16777216, "
         "\"intermediate_size\": 16777216, \"num_attention_heads\": 2, \"model_type\": \"llama\"}",
         "36855 tensors that config.json asks for are missing: "
         "model.layers.1.input_layernorm.weight, "},
        {"{\"num_hidden_layers\": 4097, \"vocab_size\": 8, \"hidden_size\": 8, "
         "\"intermediate_size\": 6, \"num_attention_heads\": 2, \"model_type\": \"llama\"}",
         "\"num_hidden_layers\" must be at most 4096"},
        {"{\"num_hidden_layers\": 1, \"vocab_size\": 8, \"hidden_size\": 8, "
         "\"intermediate_size\": 6, \"num_attention_heads\": 3, \"model_type\": \"llama\"}",
         "\"num_attention_heads\" must be a divisor of hidden_size, as there is no head_dim"},
        {"{\"num_hidden_layers\": 1, \"vocab_size\": 8, \"hidden_size\": 16, "
         "\"intermediate_size\": 6, \"num_attention_heads\": 2, \"model_type\": \"llama\"}",
         tensors_of_6},
    };
    struct qg_tensor t[SMALL + 1];
    float numbers[64];
    size_t n = small_tensors(t, numbers);
    enter();
    put_small(t, n, "{" BASE "}");
    expect_loads(false);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_text("config.json", cases[i].config);
        if (strcmp(cases[i].config, "[]") != 0)
            expect_refusal(cases[i].message);
    }
    unlink(at("config.json"));
    expect_refusal("has no config.json, which says what the model looks like");
    leave();
}
END_TEST

START_TEST(bad_tensors)
{
    static float other[64], bad[64] = {[13] = NAN};
    static uint8_t bytes[64];
    struct qg_tensor t[SMALL + 1];
    float numbers[64];
    enter();
    size_t n = small_tensors(t, numbers);
    put_small(t, n - 1, "{" BASE "}");
    expect_refusal("1 tensors that config.json asks for are missing: lm_head.weight");
    put_small(t, 1, "{" BASE "}");
    expect_refusal("11 tensors that config.json asks for are missing: "
                   "model.layers.0.input_layernorm.weight, model.layers.0.self_attn.q_proj.weight");
    ck_assert(strstr(err.message, "mlp.up_proj.weight, ..."));

    t[n] = (struct qg_tensor){"model.layers.0.self_attn.q_proj.bias", QG_F32, 1, {8}, numbers};
    put_small(t, n + 1, "{" BASE "}");
    expect_refusal("has no place for 1 of the tensors (biases are not modelled): "
                   "model.layers.0.self_attn.q_proj.bias");
    t[n].name = "model.layers.1.self_attn.q_norm.weight";
    put_small(t, n + 1, "{" BASE "}");
    expect_refusal("a model of 1 layers by config.json has no place for 1 of the tensors: "
                   "model.layers.1.self_attn.q_norm.weight");
    t[n].name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    put_small(t, n + 1, "{" BASE "}");
    expect_loads(false);

    put_small(t, n - 1, "{" BASE ", \"architectures\": [\"LlamaForCausalLM\"]}");
    expect_refusal("missing: lm_head.weight");
    put_small(t, n, "{\"tie_word_embeddings\": true, " BASE "}");
    expect_loads(true); // the head is there, and is the table
    t[n - 1].data = other;
    put_small(t, n, "{\"tie_word_embeddings\": true, " BASE "}");
    expect_refusal("ties the head to the embedding table, but row 0 of lm_head.weight is another");

    n = small_tensors(t, numbers);
    t[7].data = bad;
    put_small(t, n, "{" BASE "}");
    expect_refusal("tensor 'model.layers.0.mlp.gate_proj.weight': number [1,5] is nan");
    bad[13] = -INFINITY;
    put_small(t, n, "{" BASE "}");
    expect_refusal("number [1,5] is -inf");
    n = small_tensors(t, numbers);
    t[10].shape[0] = 7;
    put_small(t, n, "{" BASE "}");
    expect_refusal("'model.norm.weight' is [7], by config.json it should be [8]");
    t[10] = (struct qg_tensor){small[10].name, QG_F32, 2, {1, 8}, numbers};
    put_small(t, n, "{" BASE "}");
    expect_refusal("'model.norm.weight' is [1,8], by config.json it should be [8]");
    t[10] = (struct qg_tensor){small[10].name, QG_U8, 1, {8}, bytes};
    put_small(t, n, "{" BASE "}");
    expect_refusal("'model.norm.weight' is U8; F32, BF16 and F16 can be run");
    leave();
}
END_TEST

/* Whatever stands in config.json is read or refused, with a sentence. */
START_TEST(mutated_configs)
{
    static const char base[] =
        "{" BASE ", \"num_key_value_heads\": 1, \"head_dim\": 4, \"rms_norm_eps\": 1e-5, "
        "\"bos_token_id\": 1, \"sliding_window\": null, \"rope_parameters\": {\"rope_theta\": 500, "
        "\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0, "
        "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 16}}";
    static const char alphabet[] = "0123456789-.eE[]{}\",: ntx\\u";
    size_t read = 0, refused = 0;
    for (uint64_t i = 0; i < 50000; i++) {
        char text[sizeof base];
        struct qg_lm_config c;
        memcpy(text, base, sizeof text);
        for (uint64_t k = 0; k <= i % 3; k++) {
            uint64_t bits = qg_rng_bits(11, i, k);
            text[bits % (sizeof base - 1)] = alphabet[(bits >> 32) % (sizeof alphabet - 1)];
        }
        cJSON *json = cJSON_Parse(text);
        if (json && qg_lm_config_read(json, "X", &c, &err) == QG_OK) {
            ck_assert(c.vocab && c.width && c.hidden && c.layers && c.context);
            ck_assert(c.heads % c.kv_heads == 0 && c.head % 2 == 0);
            ck_assert(c.norm_eps > 0 && c.rope_theta > 0);
            ck_assert(!c.has_separator || c.separator < c.vocab);
            read++;
        } else if (json) {
            ck_assert_int_eq(err.status, QG_EFORMAT);
            ck_assert(strncmp(err.message, "'X'", 3) == 0);
            refused++;
        }
        cJSON_Delete(json);
    }
    ck_assert_msg(read > 1000 && refused > 1000, "%zu read, %zu refused", read, refused);
}
END_TEST

QG_SUITE(lm, as_transformers, as_prepared_by_torchao, as_peft, as_peft_on_prepared_by_torchao,
         causal, alone_and_together, gradients_add_up, slopes, slopes_on_a_quantized_base,
         slopes_on_a_frozen_base, every_product_of_every_scheme, other_activation,
         backward_of_prepared, plain_products, exponential, bad_configs, bad_tensors,
         mutated_configs)
