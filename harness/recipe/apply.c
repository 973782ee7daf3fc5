/* SPDX-License-Identifier: MIT
 *
 * A recipe put on a model: which rule takes which tensor, whether the scheme takes its shape, and
 * what it weighs then. Only headers have been read; everything that must not be is found here.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/call.h"
#include "harness/recipe/rules.h"
#include "harness/select.h"

/* What is known of a rule once every tensor has been asked. */
struct tally {
    size_t fits, excluded,
        earlier; /* tensors it names; of these, excluded; of these, taken before */
};

struct applying {
    const struct qg_recipe *r;
    const struct qg_model *m;
    struct qg_recipe_plan plan;
    struct qg_kinds *kinds;
    const char *model_type;
    struct tally *tally;
    size_t *excluding;                 /* tensors that each exclude pattern matches */
    const struct qg_assignment *table; /* that serves as the head, NULL when none does */
    size_t requantized;
    const char *first_requantized;
    void (*on_refusal)(const char *sentence, void *user);
    void *user;
    size_t refusals;
    char first[700]; /* of them */
};

/* One reason why the recipe must not be used on the model; the rest is still looked at. */
static void __attribute__((format(printf, 2, 3)))
refuse(struct applying *p, const char *format, ...)
{
    char sentence[sizeof p->first];
    va_list ap;
    va_start(ap, format);
    int n = snprintf(sentence, sizeof sentence, "recipe '%s', ", p->r->path);
    if (n > 0 && (size_t)n < sizeof sentence)
        vsnprintf(sentence + n, sizeof sentence - (size_t)n, format, ap);
    va_end(ap);
    if (p->refusals++ == 0)
        memcpy(p->first, sentence, sizeof p->first);
    if (p->on_refusal)
        p->on_refusal(sentence, p->user);
}

static void leave(struct qg_assignment *a, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void leave(struct qg_assignment *a, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(a->why, sizeof a->why, format, ap);
    va_end(ap);
}

/* --- shapes ---------------------------------------------------------------------------------- */

static const char *word_in(const cJSON *config, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(config, key));
}

/* N and K of [N,K] and of [E,N,K]. */
static size_t last_rows(const struct qg_assignment *a)
{
    const struct qg_tensor *t = &a->tensor->t;
    return t->rank >= 2 ? t->shape[t->rank - 2] : 0;
}

static bool has_weights(const struct qg_assignment *a)
{
    enum qg_dtype t = a->tensor->t.dtype;
    return a->kind <= QG_LAYER_ROUTER && a->tensor->t.rank >= 2 &&
           (t == QG_F32 || t == QG_BF16 || t == QG_F16);
}

static void take_tensor(struct applying *p, const struct qg_model_tensor *t,
                        struct qg_assignment *a)
{
    const char *why;
    *a = (struct qg_assignment){.tensor = t,
                                .name = t->t.name,
                                .rule = -1,
                                .dtype = t->t.dtype,
                                .bytes = t->bytes,
                                .kind = qg_layer_kind(p->kinds, p->model_type, &t->t, &why)};
    a->cols = t->rank ? t->shape[t->rank - 1] : 1;
    a->rows = 1;
    for (int d = 0; d + 1 < t->rank; d++)
        a->rows *= t->shape[d];
    if (why)
        leave(a, "%s", why);
    else if (a->kind <= QG_LAYER_ROUTER && !has_weights(a))
        leave(a, "its dtype is %s, not F32, BF16 or F16", t->dtype_word);
    else if (a->kind > QG_LAYER_ROUTER)
        leave(a, "kind %s", qg_layer_kind_name(a->kind));
}

/* --- which rule ------------------------------------------------------------------------------ */

static bool fits(const struct qg_rule *r, const struct qg_assignment *a)
{
    size_t rows = last_rows(a);
    return r->kinds >> a->kind & 1 && a->cols >= r->min_cols && rows >= r->min_rows &&
           (!r->cols_multiple_of || a->cols % r->cols_multiple_of == 0) &&
           (!r->rows_multiple_of || rows % r->rows_multiple_of == 0) &&
           (!r->pattern || qg_regex_fits(&r->name, a->name));
}

/* The first exclude pattern that matches, NULL when none does. */
static const char *excluded(struct applying *p, const char *name)
{
    const char *by = NULL;
    for (size_t i = 0; i < p->r->n_exclude; i++)
        if (qg_regex_fits(&p->r->excluded[i], name)) {
            p->excluding[i]++;
            by = by ? by : p->r->exclude[i];
        }
    return by;
}

/* The rule that takes the tensor, -1 when none does. Two are a refusal unless the first wins; a
 * default stands back. */
static int choose_rule(struct applying *p, const struct qg_assignment *a, bool out)
{
    int taken = -1, by_default = -1;
    for (size_t i = 0; i < p->r->n_rules; i++) {
        const struct qg_rule *r = &p->r->rule[i];
        if (!fits(r, a))
            continue;
        p->tally[i].fits++;
        p->tally[i].excluded += out;
        p->tally[i].earlier += !out && taken >= 0;
        if (r->is_default)
            by_default = (int)i;
        else if (taken < 0)
            taken = (int)i;
        else if (!out && !p->r->first_wins)
            refuse(p,
                   "rules %d and %zu, tensor '%s': both take it; narrow one of them, or say "
                   "overlap: first",
                   taken + 1, i + 1, a->name);
    }
    if (taken >= 0 && by_default >= 0)
        p->tally[by_default].earlier += !out && by_default < taken;
    return taken >= 0 ? taken : by_default;
}

/* --- whether it fits ------------------------------------------------------------------------- */

/* The call that a choice makes of an assignment. False, with a sentence, when the scheme refuses;
 * *ret_shape says whether it is the shape that it does not take. */
static bool call_of(const struct qg_choice *c, enum qg_op op, const struct qg_assignment *a,
                    size_t cols, struct qg_args *ret_a, bool *ret_shape, char *why, size_t size)
{
    struct qg_error err;
    const struct qg_scheme *s = c->scheme;
    *ret_a = (struct qg_args){.scheme = s};
    qg_params_default(ret_a, s);
    if (qg_params_parse(ret_a, s, c->params, &err) != QG_OK) {
        snprintf(why, size, "%s", err.message);
        return false;
    }
    *ret_shape = qg_definition(s, a->operand, op) && (!s->dtypes || s->dtypes >> a->dtype & 1) &&
                 a->rows && a->cols;
    return qg_args_init(ret_a, s, op, a->operand, a->dtype, 0, a->rows, cols, why, size);
}

/* Zero columns until the scheme takes the shape; false when whole groups do not help. */
static bool pad(const struct qg_choice *c, struct qg_assignment *a, struct qg_args *call)
{
    char why[256];
    bool shape;
    size_t group = qg_group(call);
    size_t cols = group ? (a->cols + group - 1) / group * group : a->cols;
    a->padded = cols - a->cols;
    return call_of(c, QG_CONVERT, a, cols, call, &shape, why, sizeof why);
}

static void count_bytes(struct qg_assignment *a, const struct qg_args *call)
{
    a->bytes = 0;
    for (int i = 0; i < call->n_out; i++)
        a->bytes += qg_bytes(&call->out[i]);
}

/* Leaves a tensor on both sides. */
static void drop(struct qg_assignment *a)
{
    a->convert = a->prepare = (struct qg_choice){0};
    a->activation = NULL;
    a->dtype = a->tensor->t.dtype;
    a->padded = 0;
}

static void refuse_scheme(struct applying *p, const struct qg_assignment *a, const char *side,
                          const struct qg_choice *c, const char *why)
{
    const struct qg_scheme *s = c->scheme;
    const char *help = s->dtypes && !(s->dtypes >> a->dtype & 1)
                           ? "; say dtype: bf16, f16 or f32, as upstream casts"
                       : a->operand == QG_EMBEDDING && !s->operand[QG_EMBEDDING].convert
                           ? "; keep the rule off embeddings (kind), or, where the table is stored "
                             "as a linear weight is, say operand: weight"
                           : "";
    refuse(p, "rule %d, tensor '%s' [%zu,%zu]: %s'%s': %s%s", a->rule + 1, a->name, a->rows,
           a->cols, side, s->name, why, help);
}

/* Sees that convert takes the tensor, or does as on-indivisible says. */
static bool fit_convert(struct applying *p, struct qg_assignment *a, const struct qg_rule *r)
{
    struct qg_args call;
    char why[256];
    bool shape = false;
    if (call_of(&a->convert, QG_CONVERT, a, a->cols, &call, &shape, why, sizeof why) ||
        (shape && r->on_indivisible == QG_INDIVISIBLE_PAD && pad(&a->convert, a, &call))) {
        count_bytes(a, &call);
        return true;
    }
    if (!shape || r->on_indivisible != QG_INDIVISIBLE_SKIP) {
        refuse_scheme(p, a, "", &a->convert, why);
        return false;
    }
    leave(a, "rule %d skips it: %s", a->rule + 1, why);
    drop(a);
    return true;
}

static void fit_prepare(struct applying *p, struct qg_assignment *a)
{
    struct qg_args call;
    char why[256];
    bool shape;
    if (p->r->training == QG_TRAINING_QAT && a->prepare.scheme &&
        !call_of(&a->prepare, QG_FAKE_QUANT, a, a->cols + a->padded, &call, &shape, why,
                 sizeof why))
        refuse_scheme(p, a, "prepare by ", &a->prepare, why);
}

static void take_rule(struct applying *p, struct qg_assignment *a, int rule)
{
    const struct qg_rule *r = &p->r->rule[rule];
    a->rule = rule;
    a->convert = r->convert;
    a->prepare = r->prepare;
    a->activation = a->kind == QG_LAYER_EMBEDDING ? NULL : r->activation;
    a->operand = a->kind == QG_LAYER_EMBEDDING && !r->as_weight ? QG_EMBEDDING : QG_WEIGHT;
    if ((a->convert.scheme || a->prepare.scheme) && a->tensor->scheme && !p->r->requantize &&
        p->requantized++ == 0)
        p->first_requantized = a->name;
    if ((a->convert.scheme || a->prepare.scheme) && r->dtype != QG_INPUT)
        a->dtype = r->dtype;
    if (!a->convert.scheme)
        leave(a, "rule %d leaves it%s%s", rule + 1, r->about[0] ? ": " : "", r->about);
    else if (!fit_convert(p, a, r))
        return;
    fit_prepare(p, a);
}

static void assign(struct applying *p, struct qg_assignment *a)
{
    const char *by = excluded(p, a->name);
    int rule = a->why[0] ? -1 : choose_rule(p, a, by != NULL);
    if (by)
        leave(a, "excluded by '%s'", by);
    else if (rule >= 0)
        take_rule(p, a, rule);
    else if (!a->why[0])
        leave(a, "no rule takes it: kind %s, [%zu,%zu]", qg_layer_kind_name(a->kind), a->rows,
              a->cols);
}

/* --- tied models ----------------------------------------------------------------------------- */

/* The table that serves as the head: the first embedding of a tied model without a head; NULL when
 * there is none. */
static struct qg_assignment *tied_table(struct applying *p)
{
    struct qg_assignment *table = NULL;
    if (!qg_model_tied(p->m))
        return NULL;
    for (size_t i = 0; i < p->plan.n; i++) {
        struct qg_assignment *a = &p->plan.of[i];
        if (a->kind == QG_LAYER_HEAD)
            return NULL;
        if (!table && a->kind == QG_LAYER_EMBEDDING && has_weights(a))
            table = a;
    }
    return table;
}

/* The head of a tied model as a tensor of its own, where the recipe unties it. */
static enum qg_status add_head(struct applying *p, struct qg_error *err)
{
    const char *word = qg_model_format(p->m) == QG_MODEL_GGUF ? "output.weight" : "lm_head.weight";
    struct qg_assignment *head = &p->plan.of[p->plan.n];
    if (!p->r->transforms) {
        (void)excluded(p, word); // a pattern for the head that shares the table is no mistake
        return QG_OK;
    }
    take_tensor(p, p->table->tensor, head);
    char *name = strdup(word);
    if (!name)
        return qg_fail(err, QG_ENOMEM, "no memory for '%s'", word);
    head->kind = QG_LAYER_HEAD;
    head->name = name;
    assign(p, head);
    bool wanted = head->convert.scheme || head->prepare.scheme;
    if (wanted || p->r->transforms & QG_UNTIE_EMBEDDINGS)
        p->plan.n++;
    else
        free(name);
    return QG_OK;
}

/* A rule that matched nothing: says so when tensors would match, but for their dtype. */
static void refuse_unmatched(struct applying *p, size_t rule)
{
    const struct qg_rule *r = &p->r->rule[rule];
    const struct qg_assignment *first = NULL;
    char dtype[400] = "";
    size_t n = 0;
    for (size_t i = 0; i < p->plan.n; i++) {
        const struct qg_assignment *a = &p->plan.of[i];
        if (a->kind > QG_LAYER_ROUTER || has_weights(a) || !fits(r, a))
            continue;
        first = first ? first : a;
        n++;
    }
    bool head = p->table && !p->r->transforms && r->kinds >> QG_LAYER_HEAD & 1;
    if (n)
        snprintf(dtype, sizeof dtype,
                 "; %zu would match, but cannot be computed with: '%s' is %s, not F32, BF16 or F16",
                 n, first->name, first->tensor->dtype_word);
    refuse(p,
           "rule %zu%s%s%s: it matched no tensor of the model%s; correct its match, remove it, or "
           "say optional: yes%s",
           rule + 1, r->pattern ? " ('" : "", r->pattern ? r->pattern : "", r->pattern ? "')" : "",
           dtype, head ? " (its head is its embedding table: say transforms: [untie-head])" : "");
}

/* --- all of it ------------------------------------------------------------------------------- */

static void check_rules(struct applying *p)
{
    for (size_t i = 0; i < p->r->n_rules; i++) {
        const struct tally *t = &p->tally[i];
        if (p->r->rule[i].optional || t->fits > t->excluded + t->earlier)
            continue;
        if (!t->fits)
            refuse_unmatched(p, i);
        else
            refuse(p,
                   "rule %zu: of the %zu tensors that it matches %zu are excluded and %zu taken by "
                   "earlier rules; nothing is left of it: remove it, or what stands against it",
                   i + 1, t->fits, t->excluded, t->earlier);
    }
    for (size_t i = 0; i < p->r->n_exclude; i++)
        if (!p->excluding[i])
            refuse(p,
                   "exclude: '%s' matched no tensor of the model, so what it was to protect may "
                   "have another name; correct it, remove it, or join spellings by |",
                   p->r->exclude[i]);
}

static enum qg_status check_model(const struct applying *p, struct qg_error *err)
{
    const char *method = qg_model_quant_method(p->m);
    if (!method)
        return QG_OK;
    return qg_fail(err, QG_EINVAL,
                   "recipe '%s': the checkpoint is quantized already (quantization_config of its "
                   "config.json: %s); take the checkpoint that it was made from",
                   p->r->path, method);
}

static enum qg_status walk(struct applying *p, struct qg_error *err)
{
    size_t n = qg_model_count(p->m);
    p->plan.of = calloc(n + 1, sizeof *p->plan.of);
    p->tally = calloc(p->r->n_rules, sizeof *p->tally);
    p->excluding = calloc(p->r->n_exclude + 1, sizeof *p->excluding);
    if (!p->plan.of || !p->tally || !p->excluding)
        return qg_fail(err, QG_ENOMEM, "no memory for a plan of %zu tensors", n);
    if (qg_kinds_create(&p->kinds, err) != QG_OK)
        return err->status;
    for (; p->plan.n < n; p->plan.n++)
        take_tensor(p, qg_model_at(p->m, p->plan.n), &p->plan.of[p->plan.n]);
    p->table = tied_table(p);
    for (size_t i = 0; i < n; i++)
        assign(p, &p->plan.of[i]);
    if (p->table && add_head(p, err) != QG_OK)
        return err->status;
    check_rules(p);
    if (p->requantized)
        refuse(p,
               "%zu tensors are quantized already, the first is '%s': quantizing them again adds "
               "error to error; take the unquantized model, or say requantize: yes",
               p->requantized, p->first_requantized);
    return QG_OK;
}

enum qg_status qg_recipe_apply(const struct qg_recipe *r, const struct qg_model *m,
                               void (*on_refusal)(const char *sentence, void *user), void *user,
                               struct qg_recipe_plan *ret_plan, struct qg_error *err)
{
    struct applying p = {.r = r,
                         .m = m,
                         .plan = {.recipe = r, .model = m},
                         .model_type = word_in(qg_model_config(m), "model_type"),
                         .on_refusal = on_refusal,
                         .user = user};
    *ret_plan = (struct qg_recipe_plan){0};
    enum qg_status status = check_model(&p, err);
    if (status == QG_OK)
        status = walk(&p, err);
    if (status == QG_OK && p.refusals > 1)
        status = qg_fail(err, QG_EINVAL, "%s (and %zu more)", p.first, p.refusals - 1);
    else if (status == QG_OK && p.refusals)
        status = qg_fail(err, QG_EINVAL, "%s", p.first);
    qg_kinds_free(&p.kinds);
    free(p.tally);
    free(p.excluding);
    if (status != QG_OK)
        qg_recipe_plan_free(&p.plan);
    *ret_plan = p.plan;
    return status;
}

void qg_recipe_plan_free(struct qg_recipe_plan *p)
{
    for (size_t i = 0; i < p->n; i++)
        if (p->of[i].name != p->of[i].tensor->t.name)
            free((char *)p->of[i].name);
    free(p->of);
    *p = (struct qg_recipe_plan){0};
}
