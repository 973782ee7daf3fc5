/* SPDX-License-Identifier: MIT */
#include "harness/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/select.h"
#include "harness/yaml.h"

#define DEFAULT_TIMEOUT 20.0
#define DEFAULT_SEED    7

/* --- the file -------------------------------------------------------------------------------- */

/* One entry under "cases": indices into the registries and texts; a count of 0 means all. */
struct entry {
    unsigned *schemes, *ops, *operands, *backends, *dtypes, *fills;
    unsigned schemes_count, ops_count, operands_count, backends_count, dtypes_count, fills_count;
    char **shapes, **params;
    unsigned shapes_count, params_count;
    unsigned *timed;
};

struct suite {
    char *about;
    double time, timeout;
    unsigned cold, gap, gap_seeds, atlas;
    uint64_t *seed;
    struct entry *cases;
    unsigned cases_count;
};

struct words {
    struct qg_yaml_words list;
    cyaml_schema_value_t schema; /* of one word: libcyaml checks it */
};

struct grammar {
    struct words schemes, ops, operands, backends, dtypes, fills, yes_no;
    cyaml_schema_value_t text, entry, top;
    cyaml_schema_field_t entry_fields[10], fields[10];
};

static void add_word(struct words *w, const char *word, int64_t value)
{
    qg_yaml_add(&w->list, word, value);
}

static void close_words(struct words *w)
{
    w->schema = (cyaml_schema_value_t){CYAML_VALUE_ENUM(
        CYAML_FLAG_STRICT | CYAML_FLAG_CASE_INSENSITIVE, unsigned, w->list.word, w->list.n)};
}

static void collect_words(struct grammar *g)
{
    for (size_t i = 0; qg_scheme_at(i); i++)
        add_word(&g->schemes, qg_scheme_at(i)->name, (int64_t)i);
    for (unsigned op = 0; op < QG_OP_COUNT; op++)
        add_word(&g->ops, qg_op_name((enum qg_op)op), op);
    for (unsigned o = 0; o < QG_OPERAND_COUNT; o++)
        add_word(&g->operands, qg_operand_name((enum qg_operand)o), o);
    for (size_t i = 0; qg_backend_at(i); i++)
        add_word(&g->backends, qg_backend_at(i)->name, (int64_t)i);
    add_word(&g->dtypes, "bf16", QG_BF16);
    add_word(&g->dtypes, "f32", QG_F32);
    add_word(&g->dtypes, "f16", QG_F16);
    for (size_t i = 0; qg_fill_at(i); i++)
        add_word(&g->fills, qg_fill_at(i)->name, (int64_t)i);
    qg_yaml_yes_no(&g->yes_no.list);
    struct words *all[] = {&g->schemes, &g->ops,   &g->operands, &g->backends,
                           &g->dtypes,  &g->fills, &g->yes_no};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        close_words(all[i]);
}

#define LIST(key, entry_schema)                                                             \
    CYAML_FIELD_SEQUENCE(#key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct entry, key, \
                         entry_schema, 1, CYAML_UNLIMITED)
#define YES_NO(key)                                                                    \
    CYAML_FIELD_ENUM(#key, CYAML_FLAG_STRICT | CYAML_FLAG_OPTIONAL, struct suite, key, \
                     g->yes_no.list.word, g->yes_no.list.n)

static void build_grammar(struct grammar *g)
{
    *g = (struct grammar){0};
    collect_words(g);
    g->text = (cyaml_schema_value_t){CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char *, 0, 256)};
    const cyaml_schema_field_t entry_fields[] = {
        LIST(schemes, &g->schemes.schema),
        LIST(ops, &g->ops.schema),
        LIST(operands, &g->operands.schema),
        LIST(backends, &g->backends.schema),
        LIST(dtypes, &g->dtypes.schema),
        LIST(fills, &g->fills.schema),
        LIST(shapes, &g->text),
        LIST(params, &g->text),
        CYAML_FIELD_ENUM_PTR("timed", CYAML_FLAG_STRICT | CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL,
                             struct entry, timed, g->yes_no.list.word, g->yes_no.list.n),
        CYAML_FIELD_END,
    };
    memcpy(g->entry_fields, entry_fields, sizeof entry_fields);
    g->entry = (cyaml_schema_value_t){
        CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct entry, g->entry_fields)};
    const cyaml_schema_field_t fields[] = {
        CYAML_FIELD_STRING_PTR("about", CYAML_FLAG_POINTER, struct suite, about, 0, 120),
        CYAML_FIELD_FLOAT("time", CYAML_FLAG_OPTIONAL, struct suite, time),
        CYAML_FIELD_FLOAT("timeout", CYAML_FLAG_OPTIONAL, struct suite, timeout),
        YES_NO(cold),
        YES_NO(gap),
        YES_NO(atlas),
        CYAML_FIELD_UINT("gap_seeds", CYAML_FLAG_OPTIONAL, struct suite, gap_seeds),
        CYAML_FIELD_UINT_PTR("seed", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct suite, seed),
        CYAML_FIELD_SEQUENCE("cases", CYAML_FLAG_POINTER, struct suite, cases, &g->entry, 1,
                             CYAML_UNLIMITED),
        CYAML_FIELD_END,
    };
    memcpy(g->fields, fields, sizeof fields);
    g->top =
        (cyaml_schema_value_t){CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct suite, g->fields)};
}

static struct qg_yaml suite_file(const struct grammar *g)
{
    return (struct qg_yaml){
        .what = "suite",
        .top = &g->top,
        .keys = g->fields,
        .words = {{"schemes", &g->schemes.list},
                  {"ops", &g->ops.list},
                  {"operands", &g->operands.list},
                  {"backends", &g->backends.list},
                  {"dtypes", &g->dtypes.list},
                  {"fills", &g->fills.list},
                  {"cold", &g->yes_no.list},
                  {"timed", &g->yes_no.list},
                  {"gap", &g->yes_no.list},
                  {"atlas", &g->yes_no.list}},
        .blocks = {{"cases", g->entry_fields}},
    };
}

/* --- from entries to cases ------------------------------------------------------------------- */

struct builder {
    struct qg_plan *p;
    const struct qg_plan_options *o;
    const char *path;
    size_t entry; /* number of the entry, from 1 */
    bool timed;   /* its cases */
    size_t room;
    regex_t match, tensors;
    bool missing[QG_YAML_WORDS][QG_OP_COUNT][QG_OPERAND_COUNT]; /* counted already */
    struct qg_error *err;
};

static bool asked(const unsigned *list, unsigned n, size_t value)
{
    for (unsigned i = 0; i < n; i++)
        if (list[i] == value)
            return true;
    return n == 0;
}

static size_t index_of_scheme(const char *name)
{
    size_t i = 0;
    while (qg_scheme_at(i) && strcmp(qg_scheme_at(i)->name, name) != 0)
        i++;
    return i;
}

static size_t index_of_backend(const char *name)
{
    size_t i = 0;
    while (qg_backend_at(i) && strcmp(qg_backend_at(i)->name, name) != 0)
        i++;
    return i;
}

static bool wanted(const struct entry *e, const struct qg_kernel *k)
{
    return asked(e->schemes, e->schemes_count, index_of_scheme(k->scheme)) &&
           asked(e->ops, e->ops_count, k->op) &&
           asked(e->operands, e->operands_count, k->operand) &&
           asked(e->backends, e->backends_count, index_of_backend(k->backend));
}

static enum qg_status push(struct builder *b, const struct qg_case *c)
{
    struct qg_plan *p = b->p;
    if (p->n == b->room) {
        b->room = b->room ? 2 * b->room : 64;
        void *more = realloc(p->cases, b->room * sizeof *p->cases);
        if (!more)
            return qg_fail(b->err, QG_ENOMEM, "%zu cases", b->room);
        p->cases = more;
    }
    struct qg_planned *q = &p->cases[p->n];
    q->c = *c;
    q->timed = b->timed;
    if (qg_case_format(c, q->spelling, sizeof q->spelling, b->err) != QG_OK)
        return b->err->status;
    p->n++;
    return QG_OK;
}

/* Sets the parameters of "group=32 eps=0"; *ret_fits is false when the scheme lacks one of them. A
 * value out of range is the suite's mistake. */
static enum qg_status set_params(struct builder *b, struct qg_case *c, const char *text,
                                 bool *ret_fits)
{
    struct qg_args a = {.scheme = c->scheme};
    char copy[260], why[256], *save = NULL;
    qg_params_default(&a, c->scheme);
    snprintf(copy, sizeof copy, "%s", text);
    *ret_fits = true;
    for (char *word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
        char *value = strchr(word, '=');
        if (!value)
            return qg_fail(b->err, QG_EINVAL, "suite '%s', entry %zu: '%s' is not NAME=VALUE",
                           b->path, b->entry, word);
        *value++ = '\0';
        // Schemes share words: what is no value of this one's may be one of another's.
        bool has = qg_param_find(c->scheme, word) != NULL;
        bool good = has && qg_param_set(&a, c->scheme, word, value, why, sizeof why);
        *ret_fits &= good;
        if (has && !good)
            qg_fail(b->err, QG_EINVAL, "suite '%s', entry %zu: %s", b->path, b->entry, why);
    }
    memcpy(c->param, a.param, sizeof c->param);
    return QG_OK;
}

static bool serves(const struct qg_tensor *t, enum qg_operand operand)
{
    return operand == QG_WEIGHT || (operand == QG_EMBEDDING && strstr(t->name, "emb"));
}

static enum qg_status push_tensors(struct builder *b, struct qg_case *c)
{
    size_t n = qg_model_count(b->o->weights);
    for (size_t i = 0; i < n; i++) {
        const struct qg_model_tensor *values = qg_model_at(b->o->weights, i);
        const struct qg_tensor *t = &values->t;
        if (!qg_is_weight(t) || !serves(t, c->kernel->operand) ||
            !qg_regex_fits(&b->tensors, t->name))
            continue;
        c->dtype = t->dtype;
        c->rows = t->shape[0];
        c->cols = t->shape[1];
        c->source = b->o->weights;
        c->values = values;
        if (snprintf(c->file, sizeof c->file, "%s", b->o->weights_path) >= (int)sizeof c->file ||
            snprintf(c->tensor, sizeof c->tensor, "%s", t->name) >= (int)sizeof c->tensor)
            return qg_fail(b->err, QG_EINVAL,
                           "'%s', tensor '%s': the names are too long to spell a case",
                           b->o->weights_path, t->name);
        if (push(b, c) != QG_OK)
            return b->err->status;
    }
    return QG_OK;
}

static enum qg_status push_fills(struct builder *b, const struct entry *e, struct qg_case *c)
{
    for (size_t d = 0; d < QG_DTYPE_COUNT; d++) {
        if (e->dtypes_count ? !asked(e->dtypes, e->dtypes_count, d) : d != QG_BF16)
            continue;
        if (c->scheme->dtypes && !(c->scheme->dtypes >> d & 1)) {
            b->p->no_dtype++;
            continue;
        }
        c->dtype = (enum qg_dtype)d;
        for (size_t f = 0; qg_fill_at(f); f++) {
            c->fill = qg_fill_at(f);
            bool wants = e->fills_count ? asked(e->fills, e->fills_count, f)
                                        : strcmp(c->fill->name, "normal") == 0;
            if (wants && push(b, c) != QG_OK)
                return b->err->status;
        }
    }
    return QG_OK;
}

static enum qg_status push_shapes(struct builder *b, const struct entry *e, struct qg_case *c)
{
    for (unsigned i = 0; i < e->shapes_count; i++) {
        if (!qg_shape_parse(e->shapes[i], &c->m, &c->rows, &c->cols, &c->rank))
            return qg_fail(b->err, QG_EINVAL,
                           "suite '%s', entry %zu: '%s' is not a shape; write 256x1024, "
                           "8x256x1024 for matmul, or 8x256x1024x16 for lora",
                           b->path, b->entry, e->shapes[i]);
        if (!qg_shape_suits(c->kernel->op, c->m, c->rank))
            continue;
        if ((b->o->weights ? push_tensors(b, c) : push_fills(b, e, c)) != QG_OK)
            return b->err->status;
    }
    return QG_OK;
}

static enum qg_status push_kernel(struct builder *b, const struct entry *e,
                                  const struct qg_kernel *k)
{
    static const char *const no_params[] = {""};
    const char *const *params = e->params_count ? (const char *const *)e->params : no_params;
    for (unsigned i = 0; i < (e->params_count ? e->params_count : 1); i++) {
        struct qg_case c = {.scheme = qg_scheme_find(k->scheme), .kernel = k, .seed = b->p->seed};
        bool fits;
        if (set_params(b, &c, params[i], &fits) != QG_OK)
            return b->err->status;
        b->p->no_param += !fits;
        if (fits && push_shapes(b, e, &c) != QG_OK)
            return b->err->status;
    }
    return QG_OK;
}

/* That every parameter is taken by some scheme of the entry, when any has it. */
static enum qg_status check_params(struct builder *b, const struct entry *e)
{
    const struct qg_kernel *k;
    for (unsigned i = 0; i < e->params_count; i++) {
        bool any = false, fits;
        b->err->status = QG_OK;
        for (size_t n = 0; (k = qg_kernel_at(n)) && !any; n++) {
            struct qg_case c = {.scheme = qg_scheme_find(k->scheme), .kernel = k};
            if (wanted(e, k) && set_params(b, &c, e->params[i], &fits) != QG_OK)
                return b->err->status;
            any = wanted(e, k) && fits;
        }
        if (!any && b->err->status != QG_OK)
            return b->err->status;
    }
    b->err->status = QG_OK;
    return QG_OK;
}

static bool has_kernel(const struct entry *e, const struct qg_kernel *like)
{
    const struct qg_kernel *k;
    for (size_t i = 0; (k = qg_kernel_at(i)); i++)
        if (k->op == like->op && k->operand == like->operand &&
            strcmp(k->scheme, like->scheme) == 0 && wanted(e, k))
            return true;
    return false;
}

static void note_missing(struct qg_plan *p, const struct qg_kernel *k)
{
    size_t n = strlen(p->no_kernel_names);
    if (p->no_kernel++ < 4)
        snprintf(p->no_kernel_names + n, sizeof p->no_kernel_names - n, "%s%s.%s of %s",
                 n ? ", " : "", k->scheme, qg_op_name(k->op), qg_operand_name(k->operand));
}

/* Counts what was asked for and is defined, but is computed by no kernel of the backends asked for.
 */
static void count_missing(struct builder *b, const struct entry *e, size_t s)
{
    const struct qg_scheme *scheme = qg_scheme_at(s);
    for (unsigned op = 0; op < QG_OP_COUNT; op++)
        for (unsigned operand = 0; operand < QG_OPERAND_COUNT; operand++) {
            const struct qg_kernel k = {
                .scheme = scheme->name, .op = (enum qg_op)op, .operand = (enum qg_operand)operand};
            if (!asked(e->schemes, e->schemes_count, s) || !asked(e->ops, e->ops_count, op) ||
                !asked(e->operands, e->operands_count, operand) ||
                !qg_definition(scheme, k.operand, k.op) || has_kernel(e, &k) ||
                b->missing[s][op][operand])
                continue;
            b->missing[s][op][operand] = true;
            note_missing(b->p, &k);
        }
}

static enum qg_status push_entry(struct builder *b, const struct entry *e)
{
    const struct qg_kernel *k;
    if (e->shapes_count == 0)
        return qg_fail(b->err, QG_EINVAL, "suite '%s', entry %zu: it has no shapes", b->path,
                       b->entry);
    if (check_params(b, e) != QG_OK)
        return b->err->status;
    for (size_t s = 0; qg_scheme_at(s) && s < QG_YAML_WORDS; s++)
        count_missing(b, e, s);
    for (size_t i = 0; (k = qg_kernel_at(i)); i++)
        if (wanted(e, k) && push_kernel(b, e, k) != QG_OK)
            return b->err->status;
    return QG_OK;
}

/* --- filters --------------------------------------------------------------------------------- */

static int by_spelling(const void *a, const void *b)
{
    const struct qg_planned *p = *(struct qg_planned *const *)a,
                            *q = *(struct qg_planned *const *)b;
    int order = strcmp(p->spelling, q->spelling);
    return order ? order : (p > q) - (p < q);
}

/* Empties the spelling of every case that an earlier one repeats. */
static enum qg_status mark_repeats(struct qg_plan *p, struct qg_error *err)
{
    struct qg_planned **sorted = malloc((p->n + 1) * sizeof *sorted);
    if (!sorted)
        return qg_fail(err, QG_ENOMEM, "%zu cases", p->n);
    for (size_t i = 0; i < p->n; i++)
        sorted[i] = &p->cases[i];
    qsort(sorted, p->n, sizeof *sorted, by_spelling);
    for (size_t i = p->n; i-- > 1;)
        if (strcmp(sorted[i]->spelling, sorted[i - 1]->spelling) == 0) {
            sorted[i - 1]->timed |= sorted[i]->timed;
            sorted[i]->spelling[0] = '\0';
        }
    free(sorted);
    return QG_OK;
}

/* Leaves each case that matches once, in the order of the suite. */
static enum qg_status filter(struct builder *b)
{
    struct qg_plan *p = b->p;
    size_t kept = 0;
    if (mark_repeats(p, b->err) != QG_OK)
        return b->err->status;
    for (size_t i = 0; i < p->n; i++) {
        bool repeated = !p->cases[i].spelling[0];
        bool matches = !repeated && qg_regex_fits(&b->match, p->cases[i].spelling);
        p->not_matched += !repeated && !matches;
        if (matches)
            p->cases[kept++] = p->cases[i];
    }
    p->n = kept;
    return QG_OK;
}

static void count_tensors(struct builder *b)
{
    size_t n = b->o->weights ? qg_model_count(b->o->weights) : 0;
    for (size_t i = 0; i < n; i++) {
        const struct qg_tensor *t = &qg_model_at(b->o->weights, i)->t;
        if (!qg_regex_fits(&b->tensors, t->name))
            continue;
        b->p->tensors++;
        b->p->wrong_rank += t->rank != 2;
        b->p->wrong_dtype += t->rank == 2 && !qg_is_weight(t);
    }
}

static enum qg_status nothing_left(const struct builder *b)
{
    const struct qg_plan *p = b->p;
    if (p->not_matched)
        return qg_fail(b->err, QG_EINVAL, "'%s' matches none of the %zu cases; --list prints them",
                       b->o->match, p->not_matched);
    if (b->o->weights)
        return qg_fail(
            b->err, QG_EINVAL,
            "no tensor of '%s' can be used: %zu match, %zu of them are not of rank 2, %zu "
            "not F32, BF16 or F16",
            b->o->weights_path, p->tensors, p->wrong_rank, p->wrong_dtype);
    return qg_fail(b->err, QG_EINVAL,
                   "suite '%s' has no case to run: %zu combinations have no kernel, for %zu the "
                   "scheme lacks the parameter, and the other shapes do not suit their operations",
                   b->path, p->no_kernel, p->no_param);
}

static enum qg_status build(struct builder *b, const struct suite *s)
{
    count_tensors(b);
    for (unsigned i = 0; i < s->cases_count; i++) {
        b->entry = i + 1;
        b->timed = !s->cases[i].timed || *s->cases[i].timed;
        if (push_entry(b, &s->cases[i]) != QG_OK)
            return b->err->status;
    }
    if (filter(b) != QG_OK)
        return b->err->status;
    return b->p->n ? QG_OK : nothing_left(b);
}

static enum qg_status build_filtered(struct builder *b, const struct suite *s)
{
    if (qg_regex_compile(&b->match, b->o->match, b->err) != QG_OK)
        return b->err->status;
    if (qg_regex_compile(&b->tensors, b->o->tensors, b->err) == QG_OK) {
        b->err->status = QG_OK;
        (void)build(b, s);
        regfree(&b->tensors);
    }
    regfree(&b->match);
    return b->err->status;
}

/* --- the suite ------------------------------------------------------------------------------- */

static enum qg_status find_suite(const char *suite, char *path, size_t size, struct qg_error *err)
{
    size_t n = strlen(suite);
    bool is_path = strchr(suite, '/') || (n > 5 && strcmp(suite + n - 5, ".yaml") == 0);
    snprintf(path, size, is_path ? "%s" : QG_SOURCE_ROOT "/harness/suites/%s.yaml", suite);
    FILE *f = is_path ? NULL : fopen(path, "r");
    if (!is_path && !f)
        return qg_fail(
            err, QG_EINVAL,
            "there is no suite '%s'; there are smoke, ci, nightly and gpu, or the path of a "
            ".yaml file",
            suite);
    if (f)
        fclose(f);
    return QG_OK;
}

static enum qg_status check_numbers(const struct suite *s, const char *path, struct qg_error *err)
{
    if (!(s->time >= 0 && s->time <= 3600) || !(s->timeout >= 0 && s->timeout <= 86400))
        return qg_fail(err, QG_EINVAL,
                       "suite '%s': time is from 0 to 3600 seconds, timeout up to 86400", path);
    return QG_OK;
}

enum qg_status qg_plan_load(const char *suite, const struct qg_plan_options *options,
                            struct qg_plan *ret_p, struct qg_error *err)
{
    struct grammar grammar;
    struct suite *s = NULL;
    struct qg_plan p = {.timeout_s = DEFAULT_TIMEOUT};
    char path[512];
    if (find_suite(suite, path, sizeof path, err) != QG_OK)
        return err->status;
    build_grammar(&grammar);
    const struct qg_yaml file = suite_file(&grammar);
    if (qg_yaml_load(&file, path, (void **)&s, err) != QG_OK)
        return err->status;
    struct builder b = {.p = &p, .o = options, .path = path, .err = err};
    snprintf(p.about, sizeof p.about, "%s", s->about);
    p.seed = options->seed ? *options->seed : s->seed ? *s->seed : DEFAULT_SEED;
    p.bench = (struct qg_bench){s->time, s->cold != 0};
    p.timeout_s = s->timeout > 0 ? s->timeout : DEFAULT_TIMEOUT;
    p.gap = s->gap != 0;
    p.atlas = s->atlas != 0;
    p.gap_seeds = s->gap_seeds;
    enum qg_status status = check_numbers(s, path, err);
    if (status == QG_OK)
        status = build_filtered(&b, s);
    qg_yaml_free(&file, s);
    if (status != QG_OK)
        qg_plan_free(&p);
    *ret_p = p;
    return status;
}

void qg_plan_free(struct qg_plan *p)
{
    free(p->cases);
    *p = (struct qg_plan){0};
}
