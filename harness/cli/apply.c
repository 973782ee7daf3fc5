/* SPDX-License-Identifier: MIT
 *
 * qgauge apply: one operation of one scheme, or one direction of a layer, on the tensors of a
 * safetensors file. The door for every other language.
 */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "harness/case.h"
#include "harness/cli/apply.h"
#include "harness/cli/cli.h"
#include "kernels/kernel.h"

const struct qg_command qg_command_apply;

/* A text that grows by pieces and ends in "..." when there is no more room. */
struct list {
    char text[320];
    size_t n;
};

static void list_add(struct list *l, const char *piece)
{
    size_t room = sizeof l->text - l->n - sizeof ", ...";
    if (l->n && strcmp(l->text + l->n - 3, "...") == 0)
        return;
    if (strlen(piece) > room)
        piece = "...";
    l->n +=
        (size_t)snprintf(l->text + l->n, sizeof l->text - l->n, "%s%s", l->n ? ", " : "", piece);
}

/* --- the input ------------------------------------------------------------------------------- */

struct qg_tensor_name qg_prefixed(const char *prefix, const char *name)
{
    struct qg_tensor_name n;
    snprintf(n.text, sizeof n.text, "%s%s", prefix, name);
    return n;
}

const char *qg_shape_text(const struct qg_tensor *t, char text[96])
{
    size_t n = (size_t)snprintf(text, 96, "[");
    for (int d = 0; d < t->rank; d++)
        n += (size_t)snprintf(text + n, 96 - n, "%s%zu", d ? ", " : "", t->shape[d]);
    snprintf(text + n, 96 - n, "]");
    return text;
}

const struct qg_tensor *qg_request_find(const struct qg_request *q, const struct qg_safetensors *f,
                                        const char *name, struct qg_error *err)
{
    struct list have = {""};
    const struct qg_tensor *t = qg_safetensors_find(f, name);
    for (size_t i = 0; !t && i < qg_safetensors_count(f); i++) {
        char piece[80];
        snprintf(piece, sizeof piece, "'%.70s'", qg_safetensors_at(f, i)->name);
        list_add(&have, piece);
    }
    if (!t)
        qg_fail(err, QG_EABSENT, "%s: there is no tensor '%s', which %s reads; the file has %s",
                q->in, name, qg_op_name(q->op), have.n ? have.text : "no tensor at all");
    return t;
}

static const char *dtype_word(const struct qg_safetensors *f, const struct qg_tensor *t)
{
    size_t i = 0;
    while (qg_safetensors_at(f, i) != t)
        i++;
    return qg_safetensors_dtype_word(f, i);
}

const struct qg_tensor *qg_request_matrix(const struct qg_request *q,
                                          const struct qg_safetensors *f, const char *name,
                                          struct qg_error *err)
{
    char shape[96];
    const struct qg_tensor *t = qg_request_find(q, f, name, err);
    if (!t)
        return NULL;
    if (t->dtype != QG_F32 && t->dtype != QG_BF16 && t->dtype != QG_F16)
        qg_fail(err, QG_EFORMAT, "%s: tensor '%s' is %s; it must be F32, BF16 or F16 and of rank 2",
                q->in, name, dtype_word(f, t));
    else if (t->rank != 2)
        qg_fail(
            err, QG_EFORMAT,
            "%s: tensor '%s' has shape %s; it must have two dimensions: flatten it to [rows, K]",
            q->in, name, qg_shape_text(t, shape));
    else if (qg_count(t) == 0)
        qg_fail(err, QG_EFORMAT, "%s: tensor '%s' has shape %s: it is empty", q->in, name,
                qg_shape_text(t, shape));
    else
        return t;
    return NULL;
}

/* What to do about a plane of another dtype, where a parameter says which it has. */
static void dtype_hint(const struct qg_request *q, const char *name, char *text, size_t size)
{
    const struct qg_plane *p = q->scheme ? q->scheme->operand[q->operand].planes : NULL;
    text[0] = '\0';
    for (; p && p->name; p++)
        if (p->dtype_param && strcmp(p->name, name) == 0)
            snprintf(text, size, "; see --set %s", q->scheme->params[p->dtype_param - 1].name);
}

enum qg_status qg_request_load(const struct qg_request *q, const struct qg_safetensors *f,
                               const char *prefix, const struct qg_tensor *want,
                               struct qg_error *err)
{
    char found[96], wanted[96], hint[64];
    struct qg_tensor_name name = qg_prefixed(prefix, want->name);
    const struct qg_tensor *t = qg_request_find(q, f, name.text, err);
    if (!t)
        return err->status;
    qg_shape_text(t, found);
    qg_shape_text(want, wanted);
    dtype_hint(q, want->name, hint, sizeof hint);
    if (t->dtype != want->dtype || strcmp(found, wanted) != 0)
        return qg_fail(err, QG_EFORMAT, "%s: tensor '%s' is %s %s, expected %s %s%s", q->in,
                       name.text, dtype_word(f, t), found, qg_dtype_name(want->dtype), wanted,
                       t->dtype != want->dtype ? hint : "");
    if (qg_safetensors_load(f, t, want->data, err) != QG_OK)
        return qg_context(err, "%s", q->in);
    return QG_OK;
}

/* Reads every in[] of the call, whose dtypes and shapes say what is expected. */
static enum qg_status load(const struct qg_request *q, const struct qg_safetensors *f,
                           const struct qg_args *a, struct qg_error *err)
{
    for (int i = 0; i < a->n_in; i++)
        if (qg_request_load(q, f, "", &a->in[i], err) != QG_OK)
            return err->status;
    return QG_OK;
}

enum qg_status qg_request_extents(const struct qg_request *q, const struct qg_safetensors *f,
                                  const char *prefix, size_t *ret_rows, size_t *ret_cols,
                                  struct qg_error *err)
{
    char shape[96];
    const struct qg_plane *codes = &q->scheme->operand[q->operand].planes[0];
    struct qg_tensor_name name = qg_prefixed(prefix, codes->name);
    const struct qg_tensor *t = qg_request_find(q, f, name.text, err);
    bool nibble = codes->shape[1] == &qg_ext_nibble;
    if (!t)
        return err->status;
    if (q->rows) {
        *ret_rows = q->rows;
        *ret_cols = q->cols;
        return QG_OK;
    }
    if (codes->shape[0] != &qg_ext_rows || (codes->shape[1] != &qg_ext_cols && !nibble))
        return qg_fail(err, QG_EINVAL,
                       "the shape of '%s' does not tell that of the weight; say it: --shape NxK",
                       name.text);
    if (t->rank != 2)
        return qg_fail(err, QG_EFORMAT, "%s: tensor '%s' has shape %s; codes have two dimensions",
                       q->in, name.text, qg_shape_text(t, shape));
    *ret_rows = t->shape[0];
    *ret_cols = t->shape[1] * (nibble ? 2 : 1);
    return QG_OK;
}

/* The dtype that dequantization returns: that of a plane that keeps the input's, or --dtype. */
static enum qg_status dequant_dtype(const struct qg_request *q, const struct qg_safetensors *f,
                                    enum qg_dtype *ret, struct qg_error *err)
{
    const struct qg_plane *p = q->scheme->operand[q->operand].planes;
    for (; p->name; p++) {
        bool kept = p->dtype_param ? q->param[p->dtype_param - 1] == 0 : p->dtype == QG_INPUT;
        const struct qg_tensor *t = kept ? qg_request_find(q, f, p->name, err) : NULL;
        if (!kept)
            continue;
        if (!t)
            return err->status;
        if (t->dtype != QG_F32 && t->dtype != QG_BF16 && t->dtype != QG_F16)
            return qg_fail(err, QG_EFORMAT, "%s: tensor '%s' is %s; it must be F32, BF16 or F16",
                           q->in, p->name, dtype_word(f, t));
        if (q->dtype != QG_DTYPE_COUNT && q->dtype != t->dtype)
            return qg_fail(
                err, QG_EINVAL,
                "--dtype %s, but '%s' in %s is %s, and that decides; for another dtype of "
                "the scales see --set scale-dtype",
                qg_dtype_name(q->dtype), p->name, q->in, qg_dtype_name(t->dtype));
        *ret = t->dtype;
        return QG_OK;
    }
    *ret = q->dtype != QG_DTYPE_COUNT ? q->dtype : QG_BF16;
    return QG_OK;
}

/* --- the call -------------------------------------------------------------------------------- */

enum qg_status qg_request_call(const struct qg_request *q, enum qg_op op, const char *tensor,
                               enum qg_dtype dtype, size_t m, size_t rows, size_t cols, size_t rank,
                               struct qg_call *ret_c, struct qg_error *err)
{
    struct qg_args a = {.rank = rank};
    char why[256];
    memcpy(a.param, q->param, sizeof a.param);
    if (!qg_args_init(&a, q->scheme, op, q->operand, dtype, m, rows, cols, why, sizeof why))
        return qg_fail(err, QG_EFORMAT, "%s: tensor '%s': %s", q->in, tensor, why);
    if (qg_call_alloc(ret_c, &a, false, err) != QG_OK)
        return qg_context(err, "%s: tensor '%s'", q->in, tensor);
    return QG_OK;
}

enum qg_status qg_request_convert(const struct qg_request *q, const struct qg_safetensors *f,
                                  const struct qg_tensor *w, const struct qg_tensor *to,
                                  struct qg_error *err)
{
    struct qg_call c;
    if (qg_request_call(q, QG_CONVERT, w->name, w->dtype, 0, w->shape[0], w->shape[1], 0, &c,
                        err) != QG_OK)
        return err->status;
    enum qg_status status = qg_safetensors_load(f, w, c.args.in[0].data, err);
    if (status == QG_OK) {
        qg_definition(q->scheme, q->operand, QG_CONVERT)(&c.args);
        for (int i = 0; i < c.args.n_out; i++)
            memcpy(to[i].data, c.args.out[i].data, qg_bytes(&c.args.out[i]));
    }
    qg_call_free(&c);
    return status == QG_OK ? QG_OK : qg_context(err, "%s", q->in);
}

/* The tensors of a product that the file holds: all, or without the planes, which are made. */
static struct qg_args inputs_of(const struct qg_args *a, bool makes_planes)
{
    struct qg_args of_file = *a;
    int planes = makes_planes ? qg_plane_count(a->scheme, QG_WEIGHT) : 0;
    of_file.n_in -= planes;
    for (int i = 1; i < of_file.n_in; i++)
        of_file.in[i] = a->in[i + planes];
    return of_file;
}

static enum qg_status prepare_product(const struct qg_request *q, const struct qg_safetensors *f,
                                      struct qg_call *ret_c, struct qg_error *err)
{
    size_t rows = 0, cols = 0;
    const struct qg_tensor *x = qg_request_matrix(q, f, "x", err), *w = NULL, *down = NULL;
    if (!x || (q->op == QG_LORA && !(down = qg_request_matrix(q, f, "a", err))))
        return err->status;
    bool has_w = qg_safetensors_find(f, "w") != NULL;
    if (has_w && !(w = qg_request_matrix(q, f, "w", err)))
        return err->status;
    if (w && w->dtype != x->dtype)
        return qg_fail(err, QG_EFORMAT,
                       "%s: tensor 'x' is %s and 'w' is %s; they must share a dtype", q->in,
                       qg_dtype_name(x->dtype), qg_dtype_name(w->dtype));
    if (w)
        rows = w->shape[0], cols = w->shape[1];
    else if (qg_request_extents(q, f, "", &rows, &cols, err) != QG_OK)
        return qg_context(err, "no 'w' to convert, so the planes of a converted weight are needed");
    if (cols != x->shape[1])
        return qg_fail(err, QG_EFORMAT, "%s: 'x' has K = %zu and the weight has K = %zu", q->in,
                       x->shape[1], cols);
    struct qg_call c;
    if (qg_request_call(q, q->op, w ? "w" : "codes", x->dtype, x->shape[0], rows, cols,
                        down ? down->shape[0] : 0, &c, err) != QG_OK)
        return err->status;
    const struct qg_args inputs = inputs_of(&c.args, w != NULL);
    enum qg_status status = load(q, f, &inputs, err);
    if (status == QG_OK && w)
        status = qg_request_convert(q, f, w, &c.args.in[1], err);
    if (status != QG_OK)
        qg_call_free(&c);
    else
        *ret_c = c;
    return status;
}

static enum qg_status prepare(const struct qg_request *q, const struct qg_safetensors *f,
                              struct qg_call *ret_c, struct qg_error *err)
{
    enum qg_dtype dtype = QG_BF16;
    size_t rows = 0, cols = 0;
    const char *first = "x";
    if (q->layer)
        return qg_request_layer(q, f, ret_c, err);
    if (qg_is_product(q->op))
        return prepare_product(q, f, ret_c, err);
    if (q->op == QG_DEQUANT) {
        if (qg_request_extents(q, f, "", &rows, &cols, err) != QG_OK ||
            dequant_dtype(q, f, &dtype, err) != QG_OK)
            return err->status;
        first = q->scheme->operand[q->operand].planes[0].name;
    } else {
        const struct qg_tensor *x = qg_request_matrix(q, f, "x", err);
        if (!x)
            return err->status;
        dtype = x->dtype, rows = x->shape[0], cols = x->shape[1];
    }
    struct qg_call c;
    if (qg_request_call(q, q->op, first, dtype, 0, rows, cols, 0, &c, err) != QG_OK)
        return err->status;
    enum qg_status status = load(q, f, &c.args, err);
    if (status != QG_OK)
        qg_call_free(&c);
    else
        *ret_c = c;
    return status;
}

/* The kernel that was asked for; NULL with an error that lists those there are. */
static qg_op_fn *find_kernel(const struct qg_request *q, struct qg_error *err)
{
    struct list have = {""};
    const struct qg_kernel *k;
    qg_op_fn *found = NULL;
    int matches = 0;
    for (size_t i = 0; (k = qg_kernel_at(i)); i++) {
        if (strcmp(k->scheme, q->scheme->name) != 0 || k->op != q->op || k->operand != q->operand)
            continue;
        char name[128];
        qg_kernel_name(k, name, sizeof name);
        list_add(&have, name);
        if (strcmp(k->backend, q->backend) != 0 ||
            (q->variant && strcmp(k->variant, q->variant) != 0))
            continue;
        found = k->fn;
        matches++;
    }
    if (matches == 1)
        return found;
    qg_fail(err, QG_EABSENT, "%s for %s of scheme '%s' (%s) on backend '%s'%s%s; there is: %s",
            matches ? "more than one kernel, choose one by --variant," : "no kernel",
            qg_op_name(q->op), q->scheme->name, qg_operand_name(q->operand), q->backend,
            q->variant ? " variant " : "", q->variant ? q->variant : "",
            have.n ? have.text : "none, on any backend");
    return NULL;
}

static enum qg_status find_function(const struct qg_request *q, qg_op_fn **ret_fn,
                                    struct qg_error *err)
{
    if (!q->backend) {
        *ret_fn = q->layer ? qg_layer_definition(q->layer, q->op)
                           : qg_definition(q->scheme, q->operand, q->op);
        return QG_OK;
    }
    char why[128];
    const struct qg_backend *b = qg_backend_find(q->backend);
    if (!(*ret_fn = find_kernel(q, err)))
        return err->status;
    if (b && !b->probe(why, sizeof why))
        return qg_fail(err, QG_EABSENT, "backend '%s' does not run here: %s", q->backend, why);
    return QG_OK;
}

static enum qg_status apply(const struct qg_request *q, struct qg_error *err)
{
    struct qg_safetensors *f = NULL;
    struct qg_call c;
    qg_op_fn *fn;
    if (find_function(q, &fn, err) != QG_OK || qg_may_write(q->out, q->overwrite, err) != QG_OK ||
        qg_safetensors_open(q->in, &f, err) != QG_OK)
        return err->status;
    enum qg_status status = prepare(q, f, &c, err);
    if (status == QG_OK) {
        struct qg_failure failure = {0};
        c.args.failure = &failure;
        fn(&c.args);
        status =
            failure.text[0]
                ? qg_fail(err, QG_EABSENT, "backend '%s': %s", q->backend, failure.text)
                : qg_safetensors_write(q->out, c.args.out, (size_t)c.args.n_out, q->overwrite, err);
        qg_call_free(&c);
    }
    qg_safetensors_close(&f);
    return status;
}

/* --- the command line ------------------------------------------------------------------------ */

static bool set_op(struct qg_request *q, const char *word)
{
    struct list have = {""};
    q->op = qg_op_parse(word);
    for (int op = 0; op < QG_ALL_OP_COUNT; op++)
        if (op != QG_OP_COUNT)
            list_add(&have, qg_op_name((enum qg_op)op));
    if (q->op == QG_OP_COUNT)
        qg_usage_error(&qg_command_apply, "there is no operation '%s'; there are: %s", word,
                       have.text);
    return q->op != QG_OP_COUNT;
}

static bool set_operand(struct qg_request *q, const char *word)
{
    q->operand = qg_operand_parse(word);
    if (q->operand == QG_OPERAND_COUNT)
        qg_usage_error(&qg_command_apply, "--operand is weight, activation or embedding, not '%s'",
                       word);
    return q->operand != QG_OPERAND_COUNT;
}

/* Whether the scheme does what is asked; if not, says what it does. */
static bool check_supported(const struct qg_request *q)
{
    struct list have = {""};
    if (q->layer && !qg_layer_definition(q->layer, q->op))
        return qg_usage_error(&qg_command_apply, "layer '%s' has no %s; see qgauge list layers -v",
                              q->layer->name, qg_op_name(q->op)),
               false;
    if (q->layer || qg_definition(q->scheme, q->operand, q->op))
        return true;
    for (int operand = 0; operand < QG_OPERAND_COUNT; operand++)
        for (int op = 0; op < QG_OP_COUNT; op++) {
            char piece[64];
            snprintf(piece, sizeof piece, "%s of %s", qg_op_name((enum qg_op)op),
                     qg_operand_name((enum qg_operand)operand));
            if (qg_definition(q->scheme, (enum qg_operand)operand, (enum qg_op)op))
                list_add(&have, piece);
        }
    qg_usage_error(&qg_command_apply, "scheme '%s' has no %s of %s; it has: %s", q->scheme->name,
                   qg_op_name(q->op), qg_operand_name(q->operand), have.text);
    return false;
}

static bool set_shape(struct qg_request *q, const char *word)
{
    size_t m, rank;
    if (qg_shape_parse(word, &m, &q->rows, &q->cols, &rank) && m == 0)
        return true;
    qg_usage_error(&qg_command_apply, "'%s' is not a shape: write 256x1024, rows by columns", word);
    return false;
}

enum {
    OPT_SCHEME = 256,
    OPT_LAYER,
    OPT_OP,
    OPT_OPERAND,
    OPT_BACKEND,
    OPT_VARIANT,
    OPT_SET,
    OPT_DTYPE,
    OPT_SHAPE,
    OPT_FORCE
};

static const struct option options[] = {
    {"scheme", required_argument, NULL, OPT_SCHEME},
    {"layer", required_argument, NULL, OPT_LAYER},
    {"op", required_argument, NULL, OPT_OP},
    {"operand", required_argument, NULL, OPT_OPERAND},
    {"backend", required_argument, NULL, OPT_BACKEND},
    {"variant", required_argument, NULL, OPT_VARIANT},
    {"set", required_argument, NULL, OPT_SET},
    {"dtype", required_argument, NULL, OPT_DTYPE},
    {"shape", required_argument, NULL, OPT_SHAPE},
    {"force", no_argument, NULL, OPT_FORCE},
    {"input", required_argument, NULL, 'i'},
    {"output", required_argument, NULL, 'o'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

struct words {
    const char *op, *set[2 * QG_MAX_PARAMS];
    int n_set;
};

/* Takes one option; false after a usage message. */
static bool take(struct qg_request *q, struct words *w, int option)
{
    switch (option) {
    case OPT_LAYER:
        return (q->layer = qg_take_layer(&qg_command_apply, optarg)) != NULL;
    case OPT_SCHEME:
        return (q->scheme = qg_take_scheme(&qg_command_apply, optarg)) != NULL;
    case OPT_OP:
        w->op = optarg;
        return set_op(q, optarg);
    case OPT_OPERAND:
        return set_operand(q, optarg);
    case OPT_DTYPE:
        return qg_take_dtype(&qg_command_apply, optarg, &q->dtype);
    case OPT_SHAPE:
        return set_shape(q, optarg);
    case OPT_SET:
        if (w->n_set == 2 * QG_MAX_PARAMS) {
            qg_usage_error(&qg_command_apply, "more than %d --set", 2 * QG_MAX_PARAMS);
            return false;
        }
        w->set[w->n_set++] = optarg;
        return true;
    case OPT_BACKEND:
        q->backend = optarg;
        return true;
    case OPT_VARIANT:
        q->variant = optarg;
        return true;
    case OPT_FORCE:
        q->overwrite = true;
        return true;
    case 'i':
        q->in = optarg;
        return true;
    default:
        q->out = optarg;
        return true;
    }
}

/* One --set: a parameter of the layer, else of the scheme. */
static bool set(struct qg_request *q, const char *word, struct qg_error *err)
{
    struct qg_args a = {0};
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word, "="), word);
    bool of_layer = q->layer && (!q->scheme || qg_param_list_find(q->layer->params, name));
    double *value = of_layer ? q->layer_param : q->param;
    memcpy(a.param, value, sizeof a.param);
    enum qg_status status = of_layer ? qg_layer_params_parse(&a, q->layer, word, err)
                                     : qg_params_parse(&a, q->scheme, word, err);
    memcpy(value, a.param, sizeof a.param);
    return status == QG_OK;
}

static void set_defaults(struct qg_request *q)
{
    if (q->layer)
        qg_param_list_default(q->layer->params, q->layer_param);
    if (q->scheme)
        qg_param_list_default(q->scheme->params, q->param);
}

/* What the options mean together; false after a usage message. */
static bool check_request(struct qg_request *q, const struct words *w)
{
    const struct qg_command *c = &qg_command_apply;
    struct qg_error err;
    const char *missing = !q->scheme && !q->layer ? "--scheme NAME (or --layer NAME)"
                          : !w->op                ? "--op NAME"
                          : !q->in                ? "-i FILE"
                          : !q->out               ? "-o FILE"
                                                  : NULL;
    if (missing)
        return qg_usage_error(c, "%s is missing", missing), false;
    if (!check_supported(q))
        return false;
    if (q->variant && !q->backend)
        return qg_usage_error(c, "--variant needs --backend"), false;
    if (q->dtype != QG_DTYPE_COUNT && q->op != QG_DEQUANT)
        return qg_usage_error(c, "--dtype is for dequant; %s keeps the dtype of x", w->op), false;
    if (q->rows && q->op != QG_DEQUANT && !qg_is_product(q->op) && !q->layer)
        return qg_usage_error(c, "--shape is for dequant, matmul, lora and layers, of planes"),
               false;
    if (q->layer && (q->backend || q->operand != QG_WEIGHT))
        return qg_usage_error(c, "--backend and --operand are not for layers"), false;
    set_defaults(q);
    for (int i = 0; i < w->n_set; i++)
        if (!set(q, w->set[i], &err))
            return qg_usage_error(c, "--set %s: %s", w->set[i], err.message), false;
    return true;
}

static int run(int argc, char **argv)
{
    struct qg_request q = {.dtype = QG_DTYPE_COUNT};
    struct words w = {0};
    struct qg_error err;
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":i:o:h", options, NULL)) != -1) {
        if (option == 'h') {
            fputs(qg_command_apply.help, stdout);
            return QG_EXIT_OK;
        }
        if (option == ':')
            return qg_usage_error(&qg_command_apply, "'%s' needs a value", argv[optind - 1]);
        if (option == '?')
            return qg_usage_error(&qg_command_apply, "there is no option '%s'", argv[optind - 1]);
        if (!take(&q, &w, option))
            return QG_EXIT_USAGE;
    }
    if (optind < argc)
        return qg_usage_error(
            &qg_command_apply, "'%s' was not expected%s", argv[optind],
            strchr(argv[optind], '=') ? "; parameters are written --set NAME=VALUE" : "");
    if (!check_request(&q, &w))
        return QG_EXIT_USAGE;
    return apply(&q, &err) == QG_OK ? QG_EXIT_OK : qg_report_error(&qg_command_apply, &err);
}

const struct qg_command qg_command_apply = {
    .name = "apply",
    .summary = "run one operation of a scheme, or a layer, on the tensors of a safetensors file",
    .help =
        "usage: qgauge apply --scheme NAME --op OP -i IN.safetensors -o OUT.safetensors "
        "[OPTION]...\n"
        "       qgauge apply --layer NAME --op forward|backward [--scheme NAME] -i IN -o OUT "
        "[OPTION]...\n"
        "\n"
        "Reads tensors by name, runs one operation, writes the result by name. Other tensors in "
        "IN\n"
        "are ignored.\n"
        "\n"
        "  OP               reads                              writes\n"
        "  fake-quant       x [R,K]                            y [R,K]\n"
        "  fake-quant-grad  x, g [R,K]  (g is dL/dy)           dx [R,K]\n"
        "  convert          x [R,K]                            the planes: codes, scales, ...\n"
        "  dequant          the planes                         y [R,K]\n"
        "  matmul           x [M,K] and w [N,K], or the        y [M,N]\n"
        "                   planes of a converted weight\n"
        "  lora             the same, a [r,K], b [N,r], s [1]  y [M,N]\n"
        "\n"
        "x, w, a, b and g are F32, BF16 or F16, have two dimensions and share one dtype; y and dx "
        "have it\n"
        "too; s is F32. When matmul or lora finds w, it converts w by the scheme's own convert and "
        "reads no planes.\n"
        "Names, dtypes, shapes and packings of planes: qgauge list schemes -v.\n"
        "\n"
        "A layer reads and writes what qgauge list layers -v says. Its base weights (w) come\n"
        "unquantized; with --scheme they are converted and dequantized by that scheme first, or\n"
        "dequantized where the file has the planes (w.codes, w.scales, ...).\n"
        "\n"
        "  --scheme NAME      the scheme (qgauge list schemes)\n"
        "  --layer NAME       the layer (qgauge list layers)\n"
        "  --op OP            the operation, see above\n"
        "  -i, --input FILE   safetensors to read\n"
        "  -o, --output FILE  safetensors to write, in one piece or not at all\n"
        "  --operand WHAT     what x is: weight (default), activation or embedding\n"
        "  --set NAME=VALUE   a parameter of the layer or the scheme; repeat for more (qgauge list "
        "-v)\n"
        "  --backend NAME     run that backend's kernel instead of the definition (qgauge list "
        "kernels)\n"
        "  --variant NAME     which of the backend's kernels, when there are several\n"
        "  --dtype TYPE       of dequant's y, where no plane has the dtype of the quantized "
        "tensor:\n"
        "                     F32, BF16 (default) or F16\n"
        "  --shape NxK        of the weight, where its planes do not tell (packed blocks)\n"
        "  --force            overwrite the output file\n"
        "\n"
        "Exit codes: 0 done, 1 the input does not fit (or there is no such kernel), 2 usage,\n"
        "99 a file could not be read or written.\n"
        "\n"
        "Example: qgauge apply --scheme int4 --op convert --set group=64 -i w.safetensors -o "
        "q.safetensors\n",
    .run = run,
};
