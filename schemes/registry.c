/* SPDX-License-Identifier: MIT
 *
 * The catalogue of schemes, and what every scheme shares: words, parameters, shapes. The list of
 * files is in meson.build; scheme_list.h is made from it.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "schemes/layers/layer.h"
#include "schemes/scheme.h"

#define QG_SCHEMES(file) extern const struct qg_scheme qg_schemes_##file[];
#include "schemes/scheme_list.h"
#undef QG_SCHEMES

static const struct qg_scheme *const tables[] = {
#define QG_SCHEMES(file) qg_schemes_##file,
#include "schemes/scheme_list.h"
#undef QG_SCHEMES
};

const struct qg_scheme *qg_scheme_at(size_t i)
{
    for (size_t t = 0; t < sizeof tables / sizeof tables[0]; t++)
        for (const struct qg_scheme *s = tables[t]; s->name; s++)
            if (i-- == 0)
                return s;
    return NULL;
}

const struct qg_scheme *qg_scheme_find(const char *name)
{
    const struct qg_scheme *s;
    for (size_t i = 0; (s = qg_scheme_at(i)); i++)
        if (strcmp(s->name, name) == 0)
            return s;
    return NULL;
}

static const char *const op_words[] = {"fake-quant", "fake-quant-grad", "convert",
                                       "dequant",    "matmul",          "lora",
                                       "", // QG_OP_COUNT is no operation
                                       "forward",    "backward"};
static const char *const operand_words[] = {"weight", "activation", "embedding"};
static const char *const dtype_words[] = {"F32",     "BF16", "F16", "F8_E4M3", "F8_E5M2",
                                          "F8_E8M0", "I8",   "U8",  "I16",     "I32"};

const char *const qg_scale_dtypes[] = {"input", "bf16", "f16", "f32", NULL};
static const enum qg_dtype scale_dtypes[] = {QG_INPUT, QG_BF16, QG_F16, QG_F32};

const char *qg_op_name(enum qg_op op)
{
    return op_words[op];
}

const char *qg_operand_name(enum qg_operand operand)
{
    return operand_words[operand];
}

const char *qg_dtype_name(enum qg_dtype t)
{
    return dtype_words[t];
}

static int find_word(const char *const *words, int n, const char *word)
{
    for (int i = 0; i < n; i++)
        if (strcasecmp(words[i], word) == 0)
            return i;
    return n;
}

enum qg_op qg_op_parse(const char *word)
{
    int op = *word ? find_word(op_words, QG_ALL_OP_COUNT, word) : QG_ALL_OP_COUNT;
    return op == QG_ALL_OP_COUNT ? QG_OP_COUNT : (enum qg_op)op;
}

enum qg_operand qg_operand_parse(const char *word)
{
    return (enum qg_operand)find_word(operand_words, QG_OPERAND_COUNT, word);
}

enum qg_dtype qg_dtype_parse(const char *word)
{
    return (enum qg_dtype)find_word(dtype_words, QG_DTYPE_COUNT, word);
}

void qg_params_default(struct qg_args *a, const struct qg_scheme *s)
{
    qg_param_list_default(s->params, a->param);
}

const struct qg_param *qg_param_find(const struct qg_scheme *s, const char *name)
{
    return qg_param_list_find(s->params, name);
}

bool qg_param_set(struct qg_args *a, const struct qg_scheme *s, const char *name, const char *value,
                  char *why, size_t why_size)
{
    char owner[64];
    snprintf(owner, sizeof owner, "scheme '%s'", s->name);
    return qg_param_list_set(s->params, owner, a->param, name, value, why, why_size);
}

void qg_params_format(const struct qg_args *a, char *text, size_t size)
{
    qg_param_list_format(a->scheme->params, a->param, text, size);
}

qg_op_fn *qg_definition(const struct qg_scheme *s, enum qg_operand operand, enum qg_op op)
{
    const struct qg_operand_def *d = &s->operand[operand];
    switch (op) {
    case QG_FAKE_QUANT:
        return d->fake_quant;
    case QG_FAKE_QUANT_GRAD:
        return d->fake_quant_grad;
    case QG_CONVERT:
        return d->convert;
    case QG_DEQUANT:
        return d->dequant;
    case QG_MATMUL:
        return operand == QG_WEIGHT ? s->matmul : NULL;
    case QG_LORA:
        return operand == QG_WEIGHT && s->adapts ? qg_adapted_matmul : NULL;
    default:
        return NULL;
    }
}

size_t qg_group(const struct qg_args *a)
{
    return a->scheme->operand[a->operand].group(a);
}

size_t qg_groups(const struct qg_args *a)
{
    size_t g = qg_group(a);
    return (a->cols + g - 1) / g;
}

static size_t count_rows(const struct qg_args *a)
{
    return a->rows;
}

static size_t count_cols(const struct qg_args *a)
{
    return a->cols;
}

static size_t count_nibble(const struct qg_args *a)
{
    return a->cols / 2;
}

static size_t count_one(const struct qg_args *a)
{
    (void)a;
    return 1;
}

const struct qg_extent qg_ext_rows = {"R", count_rows}, qg_ext_cols = {"K", count_cols},
                       qg_ext_nibble = {"K/2", count_nibble}, qg_ext_groups = {"K/g", qg_groups},
                       qg_ext_one = {"1", count_one};

unsigned qg_code(const struct qg_args *a, size_t i)
{
    const struct qg_operand_def *d = &a->scheme->operand[a->operand];
    const uint8_t *codes = a->out[0].data;
    if (d->code)
        return d->code(a, i);
    if (d->planes[0].shape[1] != &qg_ext_nibble)
        return codes[i];
    return codes[i / a->cols * (a->cols / 2) + i % a->cols / 2] >> (i % a->cols % 2 * 4) & 15u;
}

int qg_plane_count(const struct qg_scheme *s, enum qg_operand operand)
{
    int n = 0;
    while (s->operand[operand].planes && s->operand[operand].planes[n].name)
        n++;
    return n;
}

/* What a matmul needs of a weight that holds W, a and b side by side, in whole pieces of 16 bytes.
 */
static size_t base_floats(const struct qg_args *a)
{
    size_t rows = a->rows + a->rank, cols = a->cols > a->rank ? a->cols : a->rank;
    size_t n = (a->m + rows + 16) * (cols + cols / 16 + 16) + (a->m + 2) * (rows + 18);
    return (n + 3) / 4 * 4;
}

size_t qg_work_floats(const struct qg_args *a)
{
    if (a->layer)
        return qg_layer_work_floats(a);
    return base_floats(a) + (a->rank ? a->m * (3 * a->rank + 2 * a->rows) + 16 : 0);
}

float *qg_adapter_work(const struct qg_args *a)
{
    return a->work + base_floats(a);
}

static struct qg_tensor matrix(const char *name, enum qg_dtype t, size_t rows, size_t cols)
{
    return (struct qg_tensor){.name = name, .dtype = t, .rank = 2, .shape = {rows, cols}};
}

enum qg_dtype qg_dtype_by(const struct qg_args *a, enum qg_dtype t, int dtype_param)
{
    if (dtype_param > 0)
        t = scale_dtypes[(int)a->param[dtype_param - 1]];
    return t == QG_INPUT ? a->dtype : t;
}

static struct qg_tensor plane_tensor(const struct qg_args *a, const struct qg_plane *p)
{
    struct qg_tensor t = {.name = p->name, .dtype = qg_dtype_by(a, p->dtype, p->dtype_param)};
    for (int d = 0; d < QG_MAX_RANK && p->shape[d]; d++)
        t.shape[t.rank++] = p->shape[d]->of(a);
    return t;
}

/* Appends tensors for `planes`, which may be NULL. */
static void add_planes(const struct qg_args *a, const struct qg_plane *planes, struct qg_tensor *t,
                       int *n)
{
    for (; planes && planes->name; planes++)
        t[(*n)++] = plane_tensor(a, planes);
}

/* a and b as PEFT keeps them, and the factor, s = lora_alpha / r. */
static void add_adapter(struct qg_args *a)
{
    a->in[a->n_in++] = matrix("a", a->dtype, a->rank, a->cols);
    a->in[a->n_in++] = matrix("b", a->dtype, a->rows, a->rank);
    a->in[a->n_in++] = (struct qg_tensor){.name = "s", .dtype = QG_F32, .rank = 1, .shape = {1}};
}

static void set_tensors(struct qg_args *a)
{
    struct qg_tensor x = matrix("x", a->dtype, a->rows, a->cols);
    const struct qg_operand_def *d = &a->scheme->operand[a->operand];
    a->n_in = a->n_out = 0;
    switch (a->op) {
    case QG_FAKE_QUANT:
        a->in[a->n_in++] = x;
        add_planes(a, d->learned, a->in, &a->n_in);
        a->out[a->n_out++] = matrix("y", a->dtype, a->rows, a->cols);
        return;
    case QG_FAKE_QUANT_GRAD:
        a->in[a->n_in++] = x;
        a->in[a->n_in++] = matrix("g", a->dtype, a->rows, a->cols);
        add_planes(a, d->learned, a->in, &a->n_in);
        a->out[a->n_out++] = matrix("dx", a->dtype, a->rows, a->cols);
        add_planes(a, d->learned_grad, a->out, &a->n_out);
        return;
    case QG_CONVERT:
        a->in[a->n_in++] = x;
        add_planes(a, d->planes, a->out, &a->n_out);
        return;
    case QG_DEQUANT:
        a->out[a->n_out++] = matrix("y", a->dtype, a->rows, a->cols);
        add_planes(a, d->planes, a->in, &a->n_in);
        return;
    default:
        a->in[a->n_in++] = matrix("x", a->dtype, a->m, a->cols);
        a->out[a->n_out++] = matrix("y", a->dtype, a->m, a->rows);
        add_planes(a, d->planes, a->in, &a->n_in);
        if (a->op == QG_LORA)
            add_adapter(a);
    }
}

bool qg_args_init(struct qg_args *a, const struct qg_scheme *s, enum qg_op op,
                  enum qg_operand operand, enum qg_dtype dtype, size_t m, size_t rows, size_t cols,
                  char *why, size_t why_size)
{
    const size_t limit = (size_t)1 << 40;
    a->scheme = s;
    a->layer = NULL;
    a->op = op;
    a->operand = operand;
    a->dtype = dtype;
    a->m = qg_is_product(op) ? m : 0;
    a->rank = op == QG_LORA ? a->rank : 0;
    a->rows = rows;
    a->cols = cols;
    a->work = NULL;
    a->exact = a->bound = NULL;
    a->depth = 0;
    a->wide = a->tf32 = false;
    a->trace = NULL;
    if (!qg_definition(s, operand, op)) {
        snprintf(why, why_size, "scheme '%s' has no %s for %s", s->name, qg_op_name(op),
                 operand == QG_EMBEDDING ? "embeddings"
                 : operand == QG_WEIGHT  ? "weights"
                                         : "activations");
        return false;
    }
    if (dtype != QG_F32 && dtype != QG_BF16 && dtype != QG_F16) {
        snprintf(why, why_size,
                 "%s is not a dtype that can be quantized; it takes F32, BF16 or F16",
                 dtype < QG_DTYPE_COUNT ? qg_dtype_name(dtype) : "that");
        return false;
    }
    if (s->dtypes && !(s->dtypes >> dtype & 1)) {
        snprintf(why, why_size, "scheme '%s' does not take %s, upstream refuses it", s->name,
                 qg_dtype_name(dtype));
        return false;
    }
    if (rows == 0 || cols == 0 || (qg_is_product(op) && m == 0)) {
        snprintf(why, why_size, "the tensor is empty (%zu x %zu)",
                 qg_is_product(op) && !m ? m : rows, cols);
        return false;
    }
    if (op == QG_LORA &&
        (a->rank == 0 || a->rank > limit / rows || a->rank > limit / cols || a->rank > limit / m)) {
        snprintf(why, why_size, "the adapter's rank is %zu; it is 1 or more", a->rank);
        return false;
    }
    if (rows > limit / cols || (m && (m > limit / cols || m > limit / rows))) {
        snprintf(why, why_size, "%zu x %zu is more than 2^40 elements", rows, cols);
        return false;
    }
    const char *refusal = s->refuse ? s->refuse(a) : NULL;
    if (refusal) {
        snprintf(why, why_size, "K = %zu, group = %zu: %s", cols, qg_group(a), refusal);
        return false;
    }
    const struct qg_plane *codes = s->operand[operand].planes;
    if (op != QG_FAKE_QUANT && op != QG_FAKE_QUANT_GRAD && codes &&
        codes[0].shape[1] == &qg_ext_nibble && cols % 2) {
        snprintf(why, why_size, "K = %zu is odd: two 4-bit codes share a byte; pad K to even",
                 cols);
        return false;
    }
    set_tensors(a);
    return true;
}
