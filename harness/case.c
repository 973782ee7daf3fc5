/* SPDX-License-Identifier: MIT */
#include "harness/case.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/call.h"

/* Takes digits at *at as a number of 1 .. 2^40. */
static bool take_extent(const char **at, size_t *ret)
{
    char *end;
    if (!isdigit((unsigned char)**at))
        return false;
    errno = 0;
    unsigned long long v = strtoull(*at, &end, 10);
    if (errno || v == 0 || v > 1ull << 40 || **at == '0')
        return false;
    *ret = (size_t)v;
    *at = end;
    return true;
}

bool qg_whole_parse(const char *text, uint64_t most, uint64_t *ret)
{
    char *end;
    errno = 0;
    *ret = strtoull(text, &end, 10);
    return !errno && !*end && isdigit((unsigned char)*text) && *ret <= most;
}

bool qg_shape_parse(const char *text, size_t *ret_m, size_t *ret_rows, size_t *ret_cols,
                    size_t *ret_rank)
{
    size_t e[4], n = 0;
    for (;;) {
        if (n == 4 || !take_extent(&text, &e[n++]))
            return false;
        if (!*text)
            break;
        if (*text++ != 'x')
            return false;
    }
    if (n < 2)
        return false;
    *ret_m = n > 2 ? e[0] : 0;
    *ret_rows = e[n > 2];
    *ret_cols = e[n > 2 ? 2 : 1];
    *ret_rank = n > 3 ? e[3] : 0;
    return true;
}

bool qg_shape_suits(enum qg_op op, size_t m, size_t rank)
{
    return qg_is_product(op) == (m > 0) && (op == QG_LORA) == (rank > 0);
}

static bool needs_escape(unsigned char c)
{
    return c <= ' ' || c == 0x7f || c == '%' || c == '\'';
}

static void escape(const char *name, char *text, size_t size)
{
    size_t n = 0;
    for (; *name && n + 4 < size; name++)
        n += (size_t)snprintf(text + n, size - n,
                              needs_escape((unsigned char)*name) ? "%%%02x" : "%c",
                              (unsigned char)*name);
    text[n] = '\0';
}

/* The inverse of escape. False for a bad escape or when there is no room. */
static bool unescape(const char *text, char *name, size_t size)
{
    size_t n = 0;
    for (; *text; n++) {
        unsigned value = (unsigned char)*text;
        int used = 1;
        if (*text == '%' && (!isxdigit((unsigned char)text[1]) ||
                             sscanf(text + 1, "%2x%n", &value, &used) != 1 || used != 2))
            return false;
        text += *text == '%' ? 3 : 1;
        if (n + 1 >= size || value == 0)
            return false;
        name[n] = (char)value;
    }
    name[n] = '\0';
    return n > 0;
}

static void list_fills(char *text, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; qg_fill_at(i) && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s%s", i ? ", " : "", qg_fill_at(i)->name);
}

static enum qg_status find_kernel(struct qg_case *c, const char *word, struct qg_error *err)
{
    char name[128], scheme[64];
    for (size_t i = 0; qg_kernel_at(i); i++) {
        qg_kernel_name(qg_kernel_at(i), name, sizeof name);
        if (strcmp(name, word) != 0)
            continue;
        c->kernel = qg_kernel_at(i);
        c->scheme = qg_scheme_find(c->kernel->scheme);
        if (c->scheme)
            return QG_OK;
    }
    snprintf(scheme, sizeof scheme, "%.*s", (int)strcspn(word, "."), word);
    if (!qg_scheme_find(scheme))
        return qg_fail(err, QG_EINVAL, "'%s': there is no scheme '%s'", word, scheme);
    return qg_fail(err, QG_EINVAL,
                   "there is no kernel '%s'; it is written SCHEME.OP.BACKEND, as in "
                   "int4.convert.c or int8-int4.convert:activation.c",
                   word);
}

static enum qg_status take_name(const char *value, char *name, size_t size, const char *what,
                                struct qg_error *err)
{
    return unescape(value, name, size)
               ? QG_OK
               : qg_fail(err, QG_EINVAL, "%s=%s: the name is empty, too long or has a bad %%", what,
                         value);
}

static enum qg_status take_seed(struct qg_case *c, const char *value, struct qg_error *err)
{
    if (!qg_whole_parse(value, UINT64_MAX, &c->seed))
        return qg_fail(err, QG_EINVAL, "seed=%s: a seed is a whole number from 0 to 2^64 - 1",
                       value);
    return QG_OK;
}

static enum qg_status take_fill(struct qg_case *c, const char *value, struct qg_error *err)
{
    char known[256];
    c->fill = qg_fill_find(value);
    if (c->fill)
        return QG_OK;
    list_fills(known, sizeof known);
    return qg_fail(err, QG_EINVAL, "there is no fill '%s'; there are: %s", value, known);
}

/* One NAME=VALUE word after the dtype. */
static enum qg_status take_setting(struct qg_case *c, char *word, bool *ret_seed,
                                   struct qg_error *err)
{
    char why[256];
    struct qg_args a = {.scheme = c->scheme};
    char *value = strchr(word, '=');
    if (!value)
        return qg_fail(err, QG_EINVAL, "'%s' is not NAME=VALUE", word);
    *value++ = '\0';
    if (strcmp(word, "fill") == 0)
        return take_fill(c, value, err);
    if (strcmp(word, "weights") == 0)
        return take_name(value, c->file, sizeof c->file, word, err);
    if (strcmp(word, "tensor") == 0)
        return take_name(value, c->tensor, sizeof c->tensor, word, err);
    if (strcmp(word, "seed") == 0) {
        *ret_seed = true;
        return take_seed(c, value, err);
    }
    memcpy(a.param, c->param, sizeof a.param);
    if (!qg_param_set(&a, c->scheme, word, value, why, sizeof why))
        return qg_fail(err, QG_EINVAL, "%s", why);
    memcpy(c->param, a.param, sizeof a.param);
    return QG_OK;
}

static enum qg_status take_shape(struct qg_case *c, const char *word, struct qg_error *err)
{
    enum qg_op op = c->kernel->op;
    if (!word || !qg_shape_parse(word, &c->m, &c->rows, &c->cols, &c->rank) ||
        !qg_shape_suits(op, c->m, c->rank))
        return qg_fail(err, QG_EINVAL, "'%s' is not a shape: %s takes %s", word ? word : "",
                       qg_op_name(op),
                       op == QG_LORA     ? "MxNxKxr"
                       : op == QG_MATMUL ? "MxNxK"
                                         : "RxK");
    return QG_OK;
}

static enum qg_status take_dtype(struct qg_case *c, const char *word, struct qg_error *err)
{
    c->dtype = word ? qg_dtype_parse(word) : QG_DTYPE_COUNT;
    if (c->dtype != QG_F32 && c->dtype != QG_BF16 && c->dtype != QG_F16)
        return qg_fail(err, QG_EINVAL, "'%s' is not a dtype of x: it is f32, bf16 or f16",
                       word ? word : "");
    return QG_OK;
}

enum qg_status qg_case_parse(struct qg_case *ret_c, const char *spelling, struct qg_error *err)
{
    char copy[2 * QG_SPELLING_SIZE], *save = NULL;
    struct qg_case c = {0};
    struct qg_args defaults = {0};
    bool seed = false;
    if (snprintf(copy, sizeof copy, "%s", spelling) >= (int)sizeof copy)
        return qg_fail(err, QG_EINVAL, "a case of more than %zu characters", sizeof copy - 1);
    char *word = strtok_r(copy, " ", &save);
    if (!word)
        return qg_fail(err, QG_EINVAL,
                       "an empty case; write, for instance: int4.convert.c 256x4096 bf16 "
                       "fill=normal seed=7");
    if (find_kernel(&c, word, err) != QG_OK ||
        take_shape(&c, strtok_r(NULL, " ", &save), err) != QG_OK ||
        take_dtype(&c, strtok_r(NULL, " ", &save), err) != QG_OK)
        return err->status;
    qg_params_default(&defaults, c.scheme);
    memcpy(c.param, defaults.param, sizeof c.param);
    while ((word = strtok_r(NULL, " ", &save)))
        if (take_setting(&c, word, &seed, err) != QG_OK)
            return err->status;
    if (!c.fill == !c.file[0] || !c.file[0] != !c.tensor[0])
        return qg_fail(err, QG_EINVAL, "data is either fill=NAME or weights=FILE tensor=NAME");
    if (!seed)
        return qg_fail(err, QG_EINVAL, "the seed is missing; write seed=7");
    *ret_c = c;
    return QG_OK;
}

static void format_data(const struct qg_case *c, char *text, size_t size)
{
    char file[3 * sizeof c->file + 1], tensor[3 * sizeof c->tensor + 1];
    if (c->fill) {
        snprintf(text, size, "fill=%s", c->fill->name);
        return;
    }
    escape(c->file, file, sizeof file);
    escape(c->tensor, tensor, sizeof tensor);
    snprintf(text, size, "weights=%s tensor=%s", file, tensor);
}

void qg_case_data(const struct qg_case *c, char text[QG_DATA_SIZE])
{
    if (c->fill)
        snprintf(text, QG_DATA_SIZE, "%s", c->fill->name);
    else
        snprintf(text, QG_DATA_SIZE, "%s:%s", c->file, c->tensor);
}

enum qg_status qg_case_format(const struct qg_case *c, char *text, size_t size,
                              struct qg_error *err)
{
    char kernel[128], m[32] = "", rank[32] = "", dtype[8], data[1024], params[128];
    struct qg_args a = {.scheme = c->scheme};
    memcpy(a.param, c->param, sizeof a.param);
    qg_kernel_name(c->kernel, kernel, sizeof kernel);
    if (c->m)
        snprintf(m, sizeof m, "%zux", c->m);
    if (c->rank)
        snprintf(rank, sizeof rank, "x%zu", c->rank);
    size_t n = 0;
    for (const char *w = qg_dtype_name(c->dtype); *w; w++)
        dtype[n++] = (char)tolower((unsigned char)*w);
    dtype[n] = '\0';
    format_data(c, data, sizeof data);
    qg_params_format(&a, params, sizeof params);
    int length = snprintf(text, size, "%s %s%zux%zu%s %s %s seed=%" PRIu64 "%s%s", kernel, m,
                          c->rows, c->cols, rank, dtype, data, c->seed, *params ? " " : "", params);
    if (length >= (int)size)
        return qg_fail(err, QG_EINVAL,
                       "'%.100s...' is spelt with %d characters, %zu are the limit; use a shorter "
                       "path",
                       text, length, size - 1);
    return QG_OK;
}

bool qg_case_args(const struct qg_case *c, struct qg_args *a, char *why, size_t why_size)
{
    char reason[384];
    const struct qg_kernel *k = c->kernel;
    *a = (struct qg_args){.scheme = c->scheme, .rank = c->rank};
    memcpy(a->param, c->param, sizeof a->param);
    bool good = qg_args_init(a, c->scheme, k->op, k->operand, c->dtype, c->m, c->rows, c->cols,
                             reason, sizeof reason);
    if (!good)
        snprintf(why, why_size, "%s%s%s%s", c->fill ? "" : "tensor '", c->tensor,
                 c->fill ? "" : "': ", reason);
    return good;
}

enum qg_status qg_case_bind(struct qg_case *c, const struct qg_model *source, struct qg_error *err)
{
    const struct qg_model_tensor *t = qg_model_find(source, c->tensor);
    if (!t)
        return qg_fail(err, QG_EABSENT, "there is no tensor '%s' in '%s'", c->tensor, c->file);
    if (t->t.rank != 2 || t->t.shape[0] != c->rows || t->t.shape[1] != c->cols)
        return qg_fail(err, QG_EINVAL, "tensor '%s' of '%s' is not %zu x %zu", c->tensor, c->file,
                       c->rows, c->cols);
    if (t->t.dtype != c->dtype)
        return qg_fail(err, QG_EINVAL, "tensor '%s' of '%s' is not %s", c->tensor, c->file,
                       qg_dtype_name(c->dtype));
    c->source = source;
    c->values = t;
    return QG_OK;
}

enum qg_status qg_case_load(const struct qg_case *c, void *dst, struct qg_error *err)
{
    return qg_model_rows(c->source, c->values, 0, c->rows, c->dtype, dst, err);
}
