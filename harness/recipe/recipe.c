/* SPDX-License-Identifier: MIT */
#include "harness/recipe/recipe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/call.h"
#include "harness/recipe/rules.h"
#include "harness/select.h"
#include "harness/yaml.h"

/* --- the file -------------------------------------------------------------------------------- */

/* Values of words start at 1, so that 0 is "left out". Of schemes, 1 is none. */
enum { NO_SCHEME = 1, FIRST_SCHEME = 2 };

struct match_text {
    char *name;
    unsigned *kind, kind_count;
    unsigned min_cols, min_rows, cols_multiple_of, rows_multiple_of;
};

struct prepare_text {
    unsigned scheme;
    char *set;
};

struct rule_text {
    char *about, *set;
    struct match_text *match;
    struct prepare_text *prepare;
    unsigned optional, scheme, operand, activation, weight_only, on_indivisible, dtype;
};

struct recipe_text {
    char *name, *summary, *source;
    unsigned training, overlap, dtype, requantize;
    unsigned *transforms, transforms_count;
    char **exclude;
    unsigned exclude_count;
    struct rule_text *rules;
    unsigned rules_count;
};

struct grammar {
    struct qg_yaml_words schemes, kinds, training, overlap, transforms, dtypes, yes_no, operand,
        indivisible;
    cyaml_schema_value_t text, kind, transform, rule, top;
    cyaml_schema_field_t match[7], prepare[3], rules[12], keys[11];
};

enum { NO = 1, YES = 2 };

static void collect_words(struct grammar *g)
{
    qg_yaml_add(&g->schemes, "none", NO_SCHEME);
    for (size_t i = 0; qg_scheme_at(i); i++)
        qg_yaml_add(&g->schemes, qg_scheme_at(i)->name, (int64_t)i + FIRST_SCHEME);
    for (int k = QG_LAYER_LINEAR; k <= QG_LAYER_ROUTER; k++)
        qg_yaml_add(&g->kinds, qg_layer_kind_name((enum qg_layer_kind)k), k);
    for (int t = QG_TRAINING_QAT; t <= QG_TRAINING_POST; t++)
        qg_yaml_add(&g->training, qg_training_name((enum qg_training)t), t);
    qg_yaml_add(&g->overlap, "refuse", 0);
    qg_yaml_add(&g->overlap, "first", 1);
    qg_yaml_add(&g->transforms, "untie-embeddings", QG_UNTIE_EMBEDDINGS);
    qg_yaml_add(&g->transforms, "untie-head", QG_UNTIE_HEAD);
    qg_yaml_add(&g->dtypes, "bf16", QG_BF16 + 1);
    qg_yaml_add(&g->dtypes, "f32", QG_F32 + 1);
    qg_yaml_add(&g->dtypes, "f16", QG_F16 + 1);
    qg_yaml_add(&g->operand, "weight", 1);
    qg_yaml_add(&g->yes_no, "no", NO);
    qg_yaml_add(&g->yes_no, "yes", YES);
    qg_yaml_add(&g->yes_no, "false", NO);
    qg_yaml_add(&g->yes_no, "true", YES);
    qg_yaml_add(&g->indivisible, "error", QG_INDIVISIBLE_ERROR);
    qg_yaml_add(&g->indivisible, "skip", QG_INDIVISIBLE_SKIP);
    qg_yaml_add(&g->indivisible, "pad", QG_INDIVISIBLE_PAD);
}

#define OPTIONAL CYAML_FLAG_OPTIONAL
#define TEXT(key, type, member) \
    CYAML_FIELD_STRING_PTR(key, CYAML_FLAG_POINTER | OPTIONAL, type, member, 0, 400)
#define WORD(key, type, member, words) \
    CYAML_FIELD_ENUM(key, CYAML_FLAG_STRICT | OPTIONAL, type, member, (words).word, (words).n)
#define COUNT(key, member) CYAML_FIELD_UINT(key, OPTIONAL, struct match_text, member)

static void describe_rule(struct grammar *g)
{
    const cyaml_schema_field_t match[] = {
        TEXT("name", struct match_text, name),
        CYAML_FIELD_SEQUENCE("kind", CYAML_FLAG_POINTER | OPTIONAL, struct match_text, kind,
                             &g->kind, 1, CYAML_UNLIMITED),
        COUNT("min-cols", min_cols),
        COUNT("min-rows", min_rows),
        COUNT("cols-multiple-of", cols_multiple_of),
        COUNT("rows-multiple-of", rows_multiple_of),
        CYAML_FIELD_END,
    };
    const cyaml_schema_field_t prepare[] = {
        WORD("scheme", struct prepare_text, scheme, g->schemes),
        TEXT("set", struct prepare_text, set),
        CYAML_FIELD_END,
    };
    const cyaml_schema_field_t rule[] = {
        TEXT("about", struct rule_text, about),
        CYAML_FIELD_MAPPING_PTR("match", CYAML_FLAG_POINTER | OPTIONAL, struct rule_text, match,
                                g->match),
        WORD("optional", struct rule_text, optional, g->yes_no),
        CYAML_FIELD_ENUM("scheme", CYAML_FLAG_STRICT, struct rule_text, scheme, g->schemes.word,
                         g->schemes.n),
        TEXT("set", struct rule_text, set),
        WORD("operand", struct rule_text, operand, g->operand),
        WORD("activation", struct rule_text, activation, g->schemes),
        WORD("weight-only", struct rule_text, weight_only, g->yes_no),
        CYAML_FIELD_MAPPING_PTR("prepare", CYAML_FLAG_POINTER | OPTIONAL, struct rule_text, prepare,
                                g->prepare),
        WORD("on-indivisible", struct rule_text, on_indivisible, g->indivisible),
        WORD("dtype", struct rule_text, dtype, g->dtypes),
        CYAML_FIELD_END,
    };
    memcpy(g->match, match, sizeof match);
    memcpy(g->prepare, prepare, sizeof prepare);
    memcpy(g->rules, rule, sizeof rule);
    g->rule =
        (cyaml_schema_value_t){CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct rule_text, g->rules)};
}

static void build_grammar(struct grammar *g)
{
    *g = (struct grammar){0};
    collect_words(g);
    g->text = (cyaml_schema_value_t){CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char *, 0, 400)};
    g->kind = (cyaml_schema_value_t){
        CYAML_VALUE_ENUM(CYAML_FLAG_STRICT, unsigned, g->kinds.word, g->kinds.n)};
    g->transform = (cyaml_schema_value_t){
        CYAML_VALUE_ENUM(CYAML_FLAG_STRICT, unsigned, g->transforms.word, g->transforms.n)};
    describe_rule(g);
    const cyaml_schema_field_t keys[] = {
        CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, struct recipe_text, name, 1, 64),
        CYAML_FIELD_STRING_PTR("summary", CYAML_FLAG_POINTER, struct recipe_text, summary, 1, 120),
        TEXT("source", struct recipe_text, source),
        WORD("training", struct recipe_text, training, g->training),
        WORD("overlap", struct recipe_text, overlap, g->overlap),
        CYAML_FIELD_SEQUENCE("transforms", CYAML_FLAG_POINTER | OPTIONAL, struct recipe_text,
                             transforms, &g->transform, 0, CYAML_UNLIMITED),
        WORD("dtype", struct recipe_text, dtype, g->dtypes),
        WORD("requantize", struct recipe_text, requantize, g->yes_no),
        CYAML_FIELD_SEQUENCE("exclude", CYAML_FLAG_POINTER | OPTIONAL, struct recipe_text, exclude,
                             &g->text, 0, CYAML_UNLIMITED),
        CYAML_FIELD_SEQUENCE("rules", CYAML_FLAG_POINTER, struct recipe_text, rules, &g->rule, 1,
                             CYAML_UNLIMITED),
        CYAML_FIELD_END,
    };
    memcpy(g->keys, keys, sizeof keys);
    g->top = (cyaml_schema_value_t){
        CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct recipe_text, g->keys)};
}

static struct qg_yaml recipe_file(const struct grammar *g)
{
    return (struct qg_yaml){
        .what = "recipe",
        .top = &g->top,
        .keys = g->keys,
        .words = {{"scheme", &g->schemes},
                  {"activation", &g->schemes},
                  {"kind", &g->kinds},
                  {"training", &g->training},
                  {"overlap", &g->overlap},
                  {"transforms", &g->transforms},
                  {"dtype", &g->dtypes},
                  {"operand", &g->operand},
                  {"optional", &g->yes_no},
                  {"requantize", &g->yes_no},
                  {"weight-only", &g->yes_no},
                  {"on-indivisible", &g->indivisible}},
        .blocks = {{"match", g->match}, {"prepare", g->prepare}, {"rules", g->rules}},
    };
}

/* --- what it says ---------------------------------------------------------------------------- */

#define QUANTIZABLE                                                           \
    (1u << QG_LAYER_LINEAR | 1u << QG_LAYER_HEAD | 1u << QG_LAYER_EMBEDDING | \
     1u << QG_LAYER_EXPERTS | 1u << QG_LAYER_ROUTER)
#define BY_DEFAULT (1u << QG_LAYER_LINEAR | 1u << QG_LAYER_HEAD)

static const struct qg_scheme *scheme_of(unsigned word)
{
    return word >= FIRST_SCHEME ? qg_scheme_at(word - FIRST_SCHEME) : NULL;
}

static enum qg_dtype dtype_of(unsigned word, enum qg_dtype otherwise)
{
    return word ? (enum qg_dtype)(word - 1) : otherwise;
}

/* Sets a choice from its words; its parameters are written as qg_params_format does. */
static enum qg_status choose(const struct qg_scheme *s, const char *set, struct qg_choice *ret_c,
                             struct qg_error *err)
{
    struct qg_args a = {.scheme = s};
    *ret_c = (struct qg_choice){.scheme = s};
    if (!s)
        return set && set[0]
                   ? qg_fail(err, QG_EINVAL, "parameters ('%s') without a scheme; remove them", set)
                   : QG_OK;
    qg_params_default(&a, s);
    if (qg_params_parse(&a, s, set ? set : "", err) != QG_OK)
        return err->status;
    qg_params_format(&a, ret_c->params, sizeof ret_c->params);
    return QG_OK;
}

static bool quantizes_inputs(const struct qg_scheme *s)
{
    const struct qg_operand_def *d = &s->operand[QG_ACTIVATION];
    return d->convert || d->fake_quant;
}

/* The parameter of a scheme that has a flavour without quantized inputs, and that word. */
static const struct qg_param *weight_only_param(const struct qg_scheme *s)
{
    for (const struct qg_param *p = s->params; p->name; p++)
        for (int c = 0; p->choices && p->choices[c]; c++)
            if (strcmp(p->choices[c], "weight-only") == 0)
                return p;
    return NULL;
}

static bool says_weight_only(const struct qg_choice *c)
{
    return strstr(c->params, "=weight-only") != NULL;
}

/* weight-only: yes, of a scheme that quantizes inputs: its parameter for that, or a refusal. */
static enum qg_status drop_inputs(struct qg_rule *r, const char *set, struct qg_error *err)
{
    const struct qg_scheme *s = r->convert.scheme;
    const struct qg_param *p = weight_only_param(s);
    char more[256];
    if (!quantizes_inputs(s) || says_weight_only(&r->convert))
        return QG_OK;
    if (!p)
        return qg_fail(err, QG_EINVAL,
                       "weight-only: yes, but upstream has no such flavour of '%s': it quantizes "
                       "the layer's inputs as well; remove weight-only, or take another scheme",
                       s->name);
    snprintf(more, sizeof more, "%s %s=weight-only", set ? set : "", p->name);
    if (choose(s, more, &r->convert, err) != QG_OK)
        return qg_context(err, "weight-only: yes means %s=weight-only", p->name);
    return QG_OK;
}

/* Which scheme quantizes the layer's inputs, and whether that may be. */
static enum qg_status take_inputs(const struct rule_text *t, struct qg_rule *r,
                                  struct qg_error *err)
{
    const struct qg_scheme *s = r->convert.scheme, *x = scheme_of(t->activation);
    if (t->weight_only == YES && t->activation)
        return qg_fail(err, QG_EINVAL,
                       "weight-only: yes and activation exclude each other; keep one of them");
    if (x && !quantizes_inputs(x))
        return qg_fail(err, QG_EINVAL,
                       "activation: '%s' cannot take activations, upstream has no such thing; name "
                       "a scheme that does (qgauge list schemes -v), or remove it",
                       x->name);
    if (x && r->kinds == 1u << QG_LAYER_EMBEDDING)
        return qg_fail(err, QG_EINVAL,
                       "activation on an embedding: a table is looked up, it has no inputs to "
                       "quantize; remove activation");
    if (t->weight_only == YES && drop_inputs(r, t->set, err) != QG_OK)
        return err->status;
    bool own = quantizes_inputs(s) && !says_weight_only(&r->convert);
    if (t->weight_only == NO && !own && !x)
        return qg_fail(err, QG_EINVAL,
                       "weight-only: no, but '%s' does not quantize the layer's inputs; name the "
                       "scheme that does as activation",
                       s->name);
    r->activation = x ? x : own && t->activation != NO_SCHEME ? s : NULL;
    if (own && t->activation == NO_SCHEME)
        return qg_fail(err, QG_EINVAL,
                       "activation: none, but '%s' quantizes the layer's inputs; say weight-only: "
                       "yes where upstream has that flavour",
                       s->name);
    return QG_OK;
}

/* That the scheme takes what the rule's kinds are, and has a prepare path where `trained`. */
static enum qg_status check_operands(const struct qg_rule *r, const struct qg_scheme *s,
                                     bool trained, struct qg_error *err)
{
    for (int k = QG_LAYER_LINEAR; s && k <= QG_LAYER_ROUTER; k++) {
        bool table = k == QG_LAYER_EMBEDDING && !r->as_weight;
        const struct qg_operand_def *d = &s->operand[table ? QG_EMBEDDING : QG_WEIGHT];
        // A rule by name alone may still meet none: that is known with the model.
        if (!(r->kinds >> k & 1) || (table && r->kinds == QUANTIZABLE))
            continue;
        if (!d->convert || !d->dequant)
            return qg_fail(err, QG_EINVAL,
                           "'%s' cannot take %s, upstream has no such thing; name a scheme that "
                           "does (qgauge list schemes -v)%s",
                           s->name, table ? "an embedding" : "weights",
                           table ? ", or, where the table is stored as a linear weight is, say "
                                   "operand: weight"
                                 : "");
        if (trained && !d->fake_quant)
            return qg_fail(err, QG_EINVAL,
                           "training is qat, but '%s' has no prepare path upstream; say prepare: "
                           "{scheme: ...}, or training: post-training or frozen-base",
                           s->name);
    }
    return QG_OK;
}

/* What training sees of what the rule converts. */
static enum qg_status take_prepare(const struct rule_text *t, enum qg_training training,
                                   struct qg_rule *r, struct qg_error *err)
{
    const struct prepare_text *p = t->prepare;
    if (p && training != QG_TRAINING_QAT)
        return qg_fail(err, QG_EINVAL,
                       "prepare and training: %s exclude each other: training sees %s; remove one",
                       qg_training_name(training),
                       training == QG_TRAINING_POST ? "nothing of the quantization"
                                                    : "the converted weights");
    if (p && !p->scheme)
        return qg_fail(err, QG_EINVAL,
                       "prepare names no scheme; none: training sees the tensor "
                       "as it is");
    r->prepare = r->convert;
    if (training == QG_TRAINING_POST)
        r->prepare = (struct qg_choice){0};
    if (p && choose(scheme_of(p->scheme), p->set, &r->prepare, err) != QG_OK)
        return qg_context(err, "prepare");
    if (check_operands(r, r->prepare.scheme, training == QG_TRAINING_QAT, err) != QG_OK)
        return err->status;
    return check_operands(r, r->convert.scheme, false, err);
}

/* A rule that converts nothing has no options of a scheme. */
static enum qg_status check_none(const struct rule_text *t, struct qg_error *err)
{
    const char *what = t->set              ? "set"
                       : t->activation     ? "activation"
                       : t->weight_only    ? "weight-only"
                       : t->on_indivisible ? "on-indivisible"
                       : t->operand        ? "operand"
                                           : NULL;
    if (what)
        return qg_fail(err, QG_EINVAL, "scheme: none and %s exclude each other; remove one of them",
                       what);
    return QG_OK;
}

static enum qg_status take_match(const struct match_text *m, struct qg_rule *r,
                                 struct qg_error *err)
{
    r->is_default = !m;
    r->kinds = m ? m->kind_count ? 0 : QUANTIZABLE : BY_DEFAULT;
    if (!m)
        return QG_OK;
    for (unsigned k = 0; k < m->kind_count; k++)
        r->kinds |= 1u << m->kind[k];
    r->min_cols = m->min_cols;
    r->min_rows = m->min_rows;
    r->cols_multiple_of = m->cols_multiple_of;
    r->rows_multiple_of = m->rows_multiple_of;
    if (!m->name)
        return QG_OK;
    if (qg_regex_compile(&r->name, m->name, err) != QG_OK)
        return err->status;
    r->pattern = m->name; // from here on it is compiled
    return QG_OK;
}

static enum qg_status take_rule(const struct recipe_text *f, const struct rule_text *t,
                                struct qg_rule *r, struct qg_error *err)
{
    const struct qg_scheme *s = scheme_of(t->scheme);
    r->about = t->about ? t->about : "";
    r->optional = t->optional == YES;
    r->as_weight = t->operand != 0;
    r->on_indivisible = (enum qg_indivisible)t->on_indivisible;
    r->dtype = dtype_of(t->dtype, dtype_of(f->dtype, QG_INPUT));
    if (take_match(t->match, r, err) != QG_OK || (!s && check_none(t, err) != QG_OK) ||
        choose(s, t->set, &r->convert, err) != QG_OK || (s && take_inputs(t, r, err) != QG_OK))
        return err->status;
    return take_prepare(t, (enum qg_training)f->training, r, err);
}

static enum qg_status take_rules(const struct recipe_text *f, struct qg_recipe *r,
                                 struct qg_error *err)
{
    size_t by_default = 0;
    r->rule = calloc(f->rules_count, sizeof *r->rule);
    if (!r->rule)
        return qg_fail(err, QG_ENOMEM, "%u rules", f->rules_count);
    r->n_rules = f->rules_count;
    for (size_t i = 0; i < r->n_rules; i++) {
        if (take_rule(f, &f->rules[i], &r->rule[i], err) != QG_OK)
            return qg_context(err, "rule %zu", i + 1);
        if (r->rule[i].is_default && by_default)
            return qg_fail(err, QG_EINVAL,
                           "rules %zu and %zu have no match: two defaults; give one of them a "
                           "match, or remove it",
                           by_default, i + 1);
        by_default = r->rule[i].is_default ? i + 1 : by_default;
    }
    return QG_OK;
}

static enum qg_status take_exclude(const struct recipe_text *f, struct qg_recipe *r,
                                   struct qg_error *err)
{
    r->exclude = (const char *const *)f->exclude;
    r->excluded = calloc(f->exclude_count + 1, sizeof *r->excluded);
    if (!r->excluded)
        return qg_fail(err, QG_ENOMEM, "%u patterns", f->exclude_count);
    for (; r->n_exclude < f->exclude_count; r->n_exclude++)
        if (qg_regex_compile(&r->excluded[r->n_exclude], f->exclude[r->n_exclude], err) != QG_OK)
            return qg_context(err, "exclude");
    return QG_OK;
}

static enum qg_status take_recipe(const struct recipe_text *f, struct qg_recipe *r,
                                  struct qg_error *err)
{
    r->name = f->name;
    r->summary = f->summary;
    r->source = f->source ? f->source : "none";
    r->training = (enum qg_training)f->training;
    r->first_wins = f->overlap != 0;
    r->requantize = f->requantize == YES;
    for (unsigned i = 0; i < f->transforms_count; i++)
        r->transforms |= f->transforms[i];
    if (r->transforms == (QG_UNTIE_EMBEDDINGS | QG_UNTIE_HEAD))
        return qg_fail(err, QG_EINVAL,
                       "transforms untie-embeddings and untie-head exclude each other: one always "
                       "copies the table, the other only for a rule that takes the head");
    if (take_exclude(f, r, err) != QG_OK)
        return err->status;
    return take_rules(f, r, err);
}

/* --- finding and opening --------------------------------------------------------------------- */

static const char *const shipped[] = {
#define QG_RECIPE(name) name,
#include "harness/recipe_list.h"
#undef QG_RECIPE
    NULL};

const char *qg_recipe_at(size_t i)
{
    return shipped[i < sizeof shipped / sizeof shipped[0] ? i
                                                          : sizeof shipped / sizeof shipped[0] - 1];
}

static enum qg_status find_recipe(const char *name, struct qg_recipe *r, struct qg_error *err)
{
    size_t n = strlen(name);
    bool is_path = strchr(name, '/') || (n > 5 && strcmp(name + n - 5, ".yaml") == 0);
    bool known = is_path;
    for (size_t i = 0; shipped[i] && !known; i++)
        known = strcmp(shipped[i], name) == 0;
    if (!known)
        return qg_fail(err, QG_EINVAL,
                       "there is no recipe '%s'; qgauge recipe list prints those that are shipped, "
                       "and the path of a .yaml file is one too",
                       name);
    if (snprintf(r->path, sizeof r->path,
                 is_path ? "%s" : QG_SOURCE_ROOT "/schemes/recipes/%s.yaml",
                 name) >= (int)sizeof r->path)
        return qg_fail(err, QG_EINVAL, "recipe '%s': the path is too long", name);
    return QG_OK;
}

enum qg_status qg_recipe_open(const char *name, struct qg_recipe **ret_r, struct qg_error *err)
{
    struct grammar g;
    struct qg_recipe *r = calloc(1, sizeof *r);
    *ret_r = NULL;
    if (!r)
        return qg_fail(err, QG_ENOMEM, "no memory for recipe '%s'", name);
    build_grammar(&g);
    const struct qg_yaml file = recipe_file(&g);
    enum qg_status status = find_recipe(name, r, err);
    if (status == QG_OK)
        status = qg_yaml_load(&file, r->path, &r->file, err);
    if (status == QG_OK && take_recipe(r->file, r, err) != QG_OK)
        status = qg_context(err, "recipe '%s'", r->path);
    if (status != QG_OK)
        qg_recipe_close(&r);
    *ret_r = r;
    return status;
}

enum qg_status qg_recipe_make(const struct qg_scheme *s, const char *set, const char *pattern,
                              struct qg_recipe **ret_r, struct qg_error *err)
{
    unsigned linear = QG_LAYER_LINEAR;
    struct match_text match = {
        .name = (char *)pattern, .kind = pattern ? NULL : &linear, .kind_count = !pattern};
    struct rule_text rule = {.set = (char *)set,
                             .match = &match,
                             .scheme = FIRST_SCHEME,
                             .operand = s->operand[QG_EMBEDDING].convert ? 0 : 1};
    const struct recipe_text text = {.name = (char *)s->name,
                                     .summary = "one scheme",
                                     .source = "the command line",
                                     .training = QG_TRAINING_POST,
                                     .rules = &rule,
                                     .rules_count = 1};
    while (scheme_of(rule.scheme) != s)
        rule.scheme++;
    struct qg_recipe *r = calloc(1, sizeof *r);
    if (!r)
        return qg_fail(err, QG_ENOMEM, "no memory for a recipe");
    snprintf(r->path, sizeof r->path, "--scheme %s", s->name);
    if (take_recipe(&text, r, err) != QG_OK) {
        qg_recipe_close(&r);
        return qg_context(err, "--scheme %s", s->name);
    }
    *ret_r = r;
    return QG_OK;
}

void qg_recipe_close(struct qg_recipe **r)
{
    struct grammar g;
    if (!*r)
        return;
    build_grammar(&g);
    const struct qg_yaml file = recipe_file(&g);
    for (size_t i = 0; i < (*r)->n_rules; i++)
        if ((*r)->rule[i].pattern)
            regfree(&(*r)->rule[i].name);
    for (size_t i = 0; i < (*r)->n_exclude; i++)
        regfree(&(*r)->excluded[i]);
    free((*r)->rule);
    free((*r)->excluded);
    if ((*r)->file)
        qg_yaml_free(&file, (*r)->file);
    free(*r);
    *r = NULL;
}

/* --- what others ask ------------------------------------------------------------------------- */

const char *qg_training_name(enum qg_training t)
{
    static const char *const words[] = {"qat", "frozen-base", "post-training"};
    return words[t];
}

const char *qg_recipe_name(const struct qg_recipe *r)
{
    return r->name;
}

const char *qg_recipe_summary(const struct qg_recipe *r)
{
    return r->summary;
}

const char *qg_recipe_source(const struct qg_recipe *r)
{
    return r->source;
}

const char *qg_recipe_path(const struct qg_recipe *r)
{
    return r->path;
}

enum qg_training qg_recipe_training(const struct qg_recipe *r)
{
    return r->training;
}

const char *qg_recipe_about(const struct qg_recipe *r, int i)
{
    return i >= 0 && (size_t)i < r->n_rules ? r->rule[i].about : "";
}
