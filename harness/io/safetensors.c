/* SPDX-License-Identifier: MIT
 *
 * Reading and writing safetensors. The header is read into memory and parsed by cJSON; everything
 * it claims is then checked here, before anybody sees a tensor.
 */
#include "harness/io/safetensors.h"

#include <assert.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/io/json.h"
#include "schemes/scheme.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensor data is written as it lies");

#define HEADER_LIMIT 100000000u /* bytes, as in the reference implementation */

struct entry {
    struct qg_tensor t; /* name lives in qg_safetensors.header */
    struct qg_stored stored;
    size_t *shape;
    char word[48];     /* dtype as people should read it */
    size_t begin, end; /* in the data */
    size_t order;      /* in the header */
};

struct qg_safetensors {
    struct qg_file file;
    cJSON *header;
    size_t data_at; /* where in the file the data begins */
    struct entry *entry;
    size_t n;
};

static const struct {
    const char *word;
    unsigned bits;
} dtypes[] = {
    {"BOOL", 8},    {"U8", 8},   {"I8", 8},      {"F8_E4M3", 8}, {"F8_E5M2", 8},
    {"F8_E8M0", 8}, {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U16", 16},
    {"I16", 16},    {"F16", 16}, {"BF16", 16},   {"U32", 32},    {"I32", 32},
    {"F32", 32},    {"U64", 64}, {"I64", 64},    {"F64", 64},    {"C64", 64},
};

/* 0 for a dtype that is not known: then the size cannot be checked. */
static unsigned dtype_bits(const char *word)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (strcmp(dtypes[i].word, word) == 0)
            return dtypes[i].bits;
    return 0;
}

/* Like qg_dtype_parse, but only the exact word: a file that says "bf16" is not safetensors. */
static enum qg_dtype exact_dtype(const char *word)
{
    enum qg_dtype t = qg_dtype_parse(word);
    return t != QG_DTYPE_COUNT && strcmp(qg_dtype_name(t), word) == 0 ? t : QG_DTYPE_COUNT;
}

/* --- reading --------------------------------------------------------------------------------- */

/* A JSON number that is a whole one and that a double holds exactly. */
static bool is_size(const cJSON *j, size_t *ret)
{
    if (!cJSON_IsNumber(j) || !(j->valuedouble >= 0 && j->valuedouble < 0x1p53))
        return false;
    *ret = (size_t)j->valuedouble;
    return (double)*ret == j->valuedouble;
}

static enum qg_status parse_shape(const cJSON *tensor, struct entry *e, size_t *ret_count,
                                  struct qg_error *err)
{
    const cJSON *shape = qg_json_member(tensor, "shape", cJSON_Array, "a list", err), *j;
    size_t count = 1, rank = 0, extent;
    if (!shape)
        return err->status;
    e->shape = calloc((size_t)cJSON_GetArraySize(shape) + 1, sizeof *e->shape);
    if (!e->shape)
        return qg_fail(err, QG_ENOMEM, "no memory for its shape");
    cJSON_ArrayForEach(j, shape)
    {
        if (!is_size(j, &extent))
            return qg_fail(err, QG_EFORMAT,
                           "dimension %zu of the shape is not a whole number from 0", rank);
        if (extent && count > SIZE_MAX / 64 / extent)
            return qg_fail(err, QG_EFORMAT, "the shape has more elements than can be addressed");
        count *= extent;
        e->shape[rank++] = extent;
    }
    *ret_count = count;
    e->stored.shape = e->shape;
    e->stored.rank = (int)rank;
    return QG_OK;
}

/* What can be computed with, and how people should read it. */
static void set_view(struct entry *e)
{
    int rank = e->stored.rank;
    e->t.name = e->stored.name;
    e->t.dtype = rank <= QG_MAX_RANK ? exact_dtype(e->stored.dtype) : QG_DTYPE_COUNT;
    e->t.rank = rank <= QG_MAX_RANK ? rank : 0;
    for (int d = 0; d < e->t.rank; d++)
        e->t.shape[d] = e->shape[d];
    snprintf(e->word, sizeof e->word, rank <= QG_MAX_RANK ? "%.20s" : "%.20s of rank %d",
             e->stored.dtype, rank);
}

static enum qg_status parse_tensor(const cJSON *tensor, size_t data_bytes, struct entry *e,
                                   struct qg_error *err)
{
    const cJSON *dtype, *offsets;
    size_t count = 0;
    if (!cJSON_IsObject(tensor))
        return qg_fail(err, QG_EFORMAT, "its entry in the header is not an object");
    if (!(dtype = qg_json_member(tensor, "dtype", cJSON_String, "a string", err)) ||
        parse_shape(tensor, e, &count, err) != QG_OK ||
        !(offsets = qg_json_member(tensor, "data_offsets", cJSON_Array, "a list", err)))
        return err->status;
    if (!qg_is_plain_text(dtype->valuestring))
        return qg_fail(err, QG_EFORMAT, "its dtype is not printable text");
    if (cJSON_GetArraySize(offsets) != 2 || !is_size(offsets->child, &e->begin) ||
        !is_size(offsets->child->next, &e->end))
        return qg_fail(err, QG_EFORMAT, "\"data_offsets\" are not two whole numbers from 0");
    if (e->begin > e->end || e->end > data_bytes)
        return qg_fail(err, QG_EFORMAT, "its offsets %zu..%zu are not inside the %zu bytes of data",
                       e->begin, e->end, data_bytes);
    unsigned bits = dtype_bits(dtype->valuestring);
    if (bits && (count * bits % 8 || count * bits / 8 != e->end - e->begin))
        return qg_fail(err, QG_EFORMAT, "%zu elements of %s do not fill the %zu bytes at %zu..%zu",
                       count, dtype->valuestring, e->end - e->begin, e->begin, e->end);
    e->stored.name = tensor->string;
    e->stored.dtype = dtype->valuestring;
    e->stored.bytes = e->end - e->begin;
    set_view(e);
    return QG_OK;
}

static int by_name(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return strcmp(x->t.name, y->t.name);
}

static int by_offset(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end)
        return x->end < y->end ? -1 : 1;
    return x->order < y->order ? -1 : 1;
}

/* Unique names; data without overlaps and holes. Leaves the entries in the order of their offsets.
 */
static enum qg_status check_layout(struct qg_safetensors *f, struct qg_error *err)
{
    struct entry *e = f->entry;
    qsort(e, f->n, sizeof *e, by_name);
    for (size_t i = 1; i < f->n; i++)
        if (strcmp(e[i - 1].t.name, e[i].t.name) == 0)
            return qg_fail(err, QG_EFORMAT, "tensor '%.80s' is there twice", e[i].t.name);
    qsort(e, f->n, sizeof *e, by_offset);
    size_t at = 0;
    for (size_t i = 0; i < f->n; at = e[i++].end) {
        if (e[i].begin < at)
            return qg_fail(err, QG_EFORMAT, "tensors '%.80s' and '%.80s' overlap", e[i - 1].t.name,
                           e[i].t.name);
        if (e[i].begin > at)
            return qg_fail(err, QG_EFORMAT, "%zu bytes before tensor '%.80s' belong to no tensor",
                           e[i].begin - at, e[i].t.name);
    }
    if (at != f->file.size - f->data_at)
        return qg_fail(err, QG_EFORMAT, "the last %zu bytes belong to no tensor",
                       f->file.size - f->data_at - at);
    return QG_OK;
}

static enum qg_status parse_entries(struct qg_safetensors *f, struct qg_error *err)
{
    const cJSON *j;
    size_t members = (size_t)cJSON_GetArraySize(f->header);
    bool metadata = false;
    f->entry = calloc(members + 1, sizeof *f->entry); // + 1: {} is a valid header
    if (!f->entry)
        return qg_fail(err, QG_ENOMEM, "no memory for %zu tensors", members);
    cJSON_ArrayForEach(j, f->header)
    {
        if (!qg_is_plain_text(j->string))
            return qg_fail(err, QG_EFORMAT, "the name of tensor %zu is not printable text", f->n);
        if (strcmp(j->string, "__metadata__") == 0) {
            if (metadata || !cJSON_IsObject(j))
                return qg_fail(err, QG_EFORMAT, "__metadata__ is not one object");
            metadata = true;
            continue;
        }
        f->entry[f->n].order = f->n;
        if (parse_tensor(j, f->file.size - f->data_at, &f->entry[f->n++], err) != QG_OK)
            return qg_context(err, "tensor '%.80s'", j->string);
    }
    return check_layout(f, err);
}

static enum qg_status parse_header(struct qg_safetensors *f, const char *text, size_t n,
                                   struct qg_error *err)
{
    if (text[0] != '{')
        return qg_fail(err, QG_EFORMAT, "the header does not begin with '{'");
    return qg_json_parse(text, n, "the header", 8, &f->header, err) == QG_OK ? parse_entries(f, err)
                                                                             : err->status;
}

static enum qg_status read_header(struct qg_safetensors *f, struct qg_error *err)
{
    unsigned char head[8];
    uint64_t n = 0;
    if (f->file.size < sizeof head)
        return qg_fail(err, QG_EFORMAT, "%zu bytes are too few for a safetensors file",
                       f->file.size);
    if (qg_file_read(&f->file, head, sizeof head, 0, err) != QG_OK)
        return err->status;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | head[i];
    if (n < 2 || n > HEADER_LIMIT)
        return qg_fail(err, QG_EFORMAT,
                       "not a safetensors file: a header of %" PRIu64
                       " bytes (2 to %u are allowed)",
                       n, HEADER_LIMIT);
    if (n > f->file.size - 8)
        return qg_fail(err, QG_EFORMAT,
                       "truncated: the header should have %" PRIu64
                       " bytes, the file ends after %zu",
                       n, f->file.size - 8);
    f->data_at = 8 + (size_t)n;
    char *text = malloc((size_t)n);
    if (!text)
        return qg_fail(err, QG_ENOMEM, "no memory for a header of %" PRIu64 " bytes", n);
    if (qg_file_read(&f->file, text, (size_t)n, 8, err) == QG_OK)
        (void)parse_header(f, text, (size_t)n, err);
    free(text);
    return err->status;
}

static enum qg_status open_file(struct qg_safetensors *f, const char *path, struct qg_error *err)
{
    if (qg_file_open(path, &f->file, err) != QG_OK || read_header(f, err) != QG_OK)
        return err->status;
    for (size_t i = 0; i < f->n; i++)
        f->entry[i].stored.at = f->data_at + f->entry[i].begin;
    return QG_OK;
}

enum qg_status qg_safetensors_open(const char *path, struct qg_safetensors **ret_f,
                                   struct qg_error *err)
{
    struct qg_safetensors *f = calloc(1, sizeof *f);
    struct qg_error inner = {QG_OK, ""};
    if (!f)
        return qg_fail(err, QG_ENOMEM, "%s: no memory", path);
    if (open_file(f, path, &inner) != QG_OK) {
        *err = inner;
        qg_safetensors_close(&f);
        return qg_context(err, "%s", path);
    }
    *ret_f = f;
    return QG_OK;
}

void qg_safetensors_close(struct qg_safetensors **f)
{
    if (!*f)
        return;
    qg_file_close(&(*f)->file);
    cJSON_Delete((*f)->header);
    for (size_t i = 0; i < (*f)->n; i++)
        free((*f)->entry[i].shape);
    free((*f)->entry);
    free(*f);
    *f = NULL;
}

size_t qg_safetensors_count(const struct qg_safetensors *f)
{
    return f->n;
}

const struct qg_tensor *qg_safetensors_at(const struct qg_safetensors *f, size_t i)
{
    return i < f->n ? &f->entry[i].t : NULL;
}

const char *qg_safetensors_dtype_word(const struct qg_safetensors *f, size_t i)
{
    return f->entry[i].word;
}

const struct qg_stored *qg_safetensors_stored(const struct qg_safetensors *f, size_t i)
{
    return i < f->n ? &f->entry[i].stored : NULL;
}

const struct qg_file *qg_safetensors_file(const struct qg_safetensors *f)
{
    return &f->file;
}

const struct qg_tensor *qg_safetensors_find(const struct qg_safetensors *f, const char *name)
{
    for (size_t i = 0; i < f->n; i++)
        if (strcmp(f->entry[i].t.name, name) == 0)
            return &f->entry[i].t;
    return NULL;
}

enum qg_status qg_safetensors_load(const struct qg_safetensors *f, const struct qg_tensor *t,
                                   void *dst, struct qg_error *err)
{
    size_t i = 0;
    while (i < f->n && &f->entry[i].t != t)
        i++;
    if (i == f->n)
        return qg_fail(err, QG_EINVAL, "tensor '%.80s' is none of this file", t->name);
    const struct qg_stored *s = &f->entry[i].stored;
    return qg_file_read(&f->file, dst, s->bytes, s->at, err) == QG_OK
               ? QG_OK
               : qg_context(err, "tensor '%.80s'", t->name);
}

/* --- writing --------------------------------------------------------------------------------- */

/* What a reader would refuse, and metadata other than strings. */
static enum qg_status check_new(const struct qg_stored *t, size_t n, const cJSON *metadata,
                                struct qg_error *err)
{
    const cJSON *j;
    cJSON_ArrayForEach(j, metadata)
    {
        if (!cJSON_IsString(j))
            return qg_fail(err, QG_EINVAL, "metadata '%.80s' is not a string", j->string);
    }
    for (size_t i = 0; i < n; i++) {
        unsigned bits = dtype_bits(t[i].dtype);
        size_t count = 1;
        for (int d = 0; d < t[i].rank; d++)
            count *= t[i].shape[d];
        if (!qg_is_plain_text(t[i].name) || strcmp(t[i].name, "__metadata__") == 0)
            return qg_fail(err, QG_EINVAL, "tensor %zu cannot have its name in safetensors", i);
        if (bits && (count * bits % 8 || count * bits / 8 != t[i].bytes))
            return qg_fail(err, QG_EINVAL, "tensor '%.80s': %zu elements of %s are not %zu bytes",
                           t[i].name, count, t[i].dtype, t[i].bytes);
    }
    return QG_OK;
}

static void add_numbers(cJSON *entry, const char *key, const size_t *number, int n)
{
    cJSON *list = cJSON_AddArrayToObject(entry, key);
    for (int i = 0; i < n; i++)
        cJSON_AddItemToArray(list, cJSON_CreateNumber((double)number[i]));
}

/* The header's JSON, to be freed with cJSON_free; NULL without memory. Offsets follow from the
 * order. */
static char *format_header(const struct qg_stored *t, size_t n, const cJSON *metadata)
{
    cJSON *header = cJSON_CreateObject();
    size_t offsets[2] = {0, 0};
    if (metadata)
        cJSON_AddItemToObject(header, "__metadata__", cJSON_Duplicate(metadata, true));
    for (size_t i = 0; i < n; i++, offsets[0] = offsets[1]) {
        cJSON *entry = cJSON_AddObjectToObject(header, t[i].name);
        offsets[1] += t[i].bytes;
        cJSON_AddStringToObject(entry, "dtype", t[i].dtype);
        add_numbers(entry, "shape", t[i].shape, t[i].rank);
        add_numbers(entry, "data_offsets", offsets, 2);
    }
    char *text = cJSON_PrintUnformatted(header);
    cJSON_Delete(header);
    return text;
}

/* The length, the header, spaces up to a multiple of 8; to be freed. */
static char *format_head(const struct qg_stored *t, size_t n, const cJSON *metadata,
                         size_t *ret_bytes)
{
    char *text = format_header(t, n, metadata);
    size_t length = text ? strlen(text) : 0, padded = (length + 7) / 8 * 8;
    char *head = text ? malloc(8 + padded) : NULL;
    if (head) {
        for (int i = 0; i < 8; i++)
            head[i] = (char)((uint64_t)padded >> 8 * i);
        memcpy(head + 8, text, length);
        memset(head + 8 + length, ' ', padded - length);
    }
    cJSON_free(text);
    *ret_bytes = 8 + padded;
    return head;
}

enum qg_status qg_safetensors_create(const char *path, struct qg_stored *t, size_t n,
                                     const cJSON *metadata, unsigned flags,
                                     struct qg_writer **ret_w, struct qg_error *err)
{
    size_t head_bytes;
    if (check_new(t, n, metadata, err) != QG_OK)
        return qg_context(err, "%s", path);
    char *head = format_head(t, n, metadata, &head_bytes);
    if (!head)
        return qg_fail(err, QG_ENOMEM, "%s: no memory for the header of %zu tensors", path, n);
    size_t at = head_bytes;
    for (size_t i = 0; i < n; at += t[i++].bytes)
        t[i].at = at;
    enum qg_status status =
        head_bytes - 8 <= HEADER_LIMIT
            ? qg_writer_open(path, flags, head, head_bytes, t, n, at, ret_w, err)
            : qg_fail(err, QG_EINVAL, "%s: a header of %zu bytes; at most %u are read", path,
                      head_bytes - 8, HEADER_LIMIT);
    free(head);
    return status;
}

static enum qg_status put_all(struct qg_writer *w, const struct qg_tensor *tensors, size_t n,
                              struct qg_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (qg_writer_put(w, i, 0, tensors[i].data, qg_bytes(&tensors[i]), err) != QG_OK)
            return err->status;
    return qg_writer_finish(w, err);
}

enum qg_status qg_safetensors_write(const char *path, const struct qg_tensor *tensors, size_t n,
                                    bool overwrite, struct qg_error *err)
{
    struct qg_writer *w = NULL;
    struct qg_stored *t = calloc(n + 1, sizeof *t);
    if (!t)
        return qg_fail(err, QG_ENOMEM, "%s: no memory", path);
    for (size_t i = 0; i < n; i++)
        t[i] = (struct qg_stored){.name = tensors[i].name,
                                  .dtype = qg_dtype_name(tensors[i].dtype),
                                  .rank = tensors[i].rank,
                                  .shape = tensors[i].shape,
                                  .bytes = qg_bytes(&tensors[i])};
    enum qg_status status =
        qg_safetensors_create(path, t, n, NULL, overwrite ? QG_WRITE_OVER : 0, &w, err);
    if (status == QG_OK)
        status = put_all(w, tensors, n, err);
    qg_writer_close(&w, false);
    free(t);
    return status;
}
