/* SPDX-License-Identifier: MIT
 *
 * GGUF files, see gguf.h. The head's length is told nowhere: it is read in growing pieces while it
 * is parsed, and nothing in it is believed before it was found inside the file.
 */
#include "harness/io/gguf.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/io/json.h"

#define HEAD_LIMIT      ((size_t)1 << 28) /* bytes; a large tokenizer takes 2^24 */
#define NEST_LIMIT      4                 /* arrays within arrays */
#define NAME_LIMIT      63                /* bytes of a tensor's name, as in ggml */
#define MAX_RANK        4                 /* as in ggml */
#define ALIGNMENT       32                /* unless the metadata says otherwise */
#define SMALLEST_KV     (8 + 4 + 1)       /* bytes of a piece of metadata */
#define SMALLEST_TENSOR (8 + 4 + 4 + 8)

/* --- types ----------------------------------------------------------------------------------- */

/* Ids and sizes as in ggml's enum ggml_type and its type traits. */
static const struct qg_gguf_type types[] = {
    {0, "F32", 1, 4, QG_F32, NULL},
    {1, "F16", 1, 2, QG_F16, NULL},
    {2, "Q4_0", 32, 18, QG_F32, "q4_0"},
    {3, "Q4_1", 32, 20, QG_F32, "q4_1"},
    {6, "Q5_0", 32, 22, QG_F32, "q5_0"},
    {7, "Q5_1", 32, 24, QG_F32, "q5_1"},
    {8, "Q8_0", 32, 34, QG_F32, "q8_0"},
    {10, "Q2_K", 256, 84, QG_DTYPE_COUNT, NULL},
    {11, "Q3_K", 256, 110, QG_DTYPE_COUNT, NULL},
    {12, "Q4_K", 256, 144, QG_F32, "q4_K"},
    {13, "Q5_K", 256, 176, QG_DTYPE_COUNT, NULL},
    {14, "Q6_K", 256, 210, QG_F32, "q6_K"},
    {15, "Q8_K", 256, 292, QG_DTYPE_COUNT, NULL},
    {16, "IQ2_XXS", 256, 66, QG_DTYPE_COUNT, NULL},
    {17, "IQ2_XS", 256, 74, QG_DTYPE_COUNT, NULL},
    {18, "IQ3_XXS", 256, 98, QG_DTYPE_COUNT, NULL},
    {19, "IQ1_S", 256, 50, QG_DTYPE_COUNT, NULL},
    {20, "IQ4_NL", 32, 18, QG_DTYPE_COUNT, NULL},
    {21, "IQ3_S", 256, 110, QG_DTYPE_COUNT, NULL},
    {22, "IQ2_S", 256, 82, QG_DTYPE_COUNT, NULL},
    {23, "IQ4_XS", 256, 136, QG_DTYPE_COUNT, NULL},
    {24, "I8", 1, 1, QG_I8, NULL},
    {25, "I16", 1, 2, QG_I16, NULL},
    {26, "I32", 1, 4, QG_I32, NULL},
    {27, "I64", 1, 8, QG_DTYPE_COUNT, NULL},
    {28, "F64", 1, 8, QG_DTYPE_COUNT, NULL},
    {29, "IQ1_M", 256, 56, QG_DTYPE_COUNT, NULL},
    {30, "BF16", 1, 2, QG_BF16, NULL},
    {34, "TQ1_0", 256, 54, QG_F32, "tq1_0"},
    {35, "TQ2_0", 256, 66, QG_F32, "tq2_0"},
    {39, "MXFP4", 32, 17, QG_F32, "mxfp4-ggml"},
    {40, "NVFP4", 64, 36, QG_F32, "nvfp4-ggml"},
    {41, "Q1_0", 128, 18, QG_DTYPE_COUNT, NULL},
};
#define N_TYPES (sizeof types / sizeof types[0])

const struct qg_gguf_type *qg_gguf_type_at(size_t i)
{
    return i < N_TYPES ? &types[i] : NULL;
}

const struct qg_gguf_type *qg_gguf_type_find(const char *word)
{
    for (size_t i = 0; i < N_TYPES; i++)
        if (strcmp(types[i].word, word) == 0)
            return &types[i];
    return NULL;
}

const struct qg_gguf_type *qg_gguf_type_of_scheme(const struct qg_scheme *s)
{
    for (size_t i = 0; i < N_TYPES; i++)
        if (types[i].scheme && strcmp(types[i].scheme, s->name) == 0)
            return &types[i];
    return NULL;
}

static const struct qg_gguf_type *type_by_id(uint32_t id)
{
    for (size_t i = 0; i < N_TYPES; i++)
        if (types[i].id == id)
            return &types[i];
    return NULL;
}

/* Bytes of a tensor, from its type and shape. */
static enum qg_status size_of(const struct qg_gguf_type *type, const size_t *shape, int rank,
                              size_t *ret_bytes, struct qg_error *err)
{
    size_t count = 1, row = rank ? shape[rank - 1] : 1;
    for (int d = 0; d < rank; d++) {
        if (shape[d] && count > SIZE_MAX / 512 / shape[d])
            return qg_fail(err, QG_EFORMAT, "the shape has more elements than can be addressed");
        count *= shape[d];
    }
    if (row % type->elements)
        return qg_fail(err, QG_EFORMAT, "rows of %zu are not whole blocks of %zu (%s)", row,
                       type->elements, type->word);
    *ret_bytes = count / type->elements * type->bytes;
    return QG_OK;
}

static size_t align_up(size_t n, size_t alignment)
{
    return (n + alignment - 1) & ~(alignment - 1);
}

/* --- the head, as it is read ----------------------------------------------------------------- */

struct tensor {
    struct qg_stored stored;
    size_t shape[MAX_RANK];
};

struct qg_gguf_file {
    struct qg_file file;
    unsigned char *head;
    size_t have, at; /* read of the head, parsed of it */
    struct qg_gguf_entry *entry;
    size_t n_entries;
    struct tensor *tensor;
    size_t n;
};

/* Makes sure that the next n bytes of the head are in memory. */
static enum qg_status need(struct qg_gguf_file *f, uint64_t n, struct qg_error *err)
{
    if (n > f->file.size - f->at)
        return qg_fail(err, QG_EFORMAT,
                       "truncated: %ju bytes should follow byte %zu of the %zu that there are",
                       (uintmax_t)n, f->at, f->file.size);
    size_t wanted = f->at + (size_t)n;
    if (wanted <= f->have)
        return QG_OK;
    if (wanted > HEAD_LIMIT)
        return qg_fail(err, QG_EFORMAT, "a header of more than %zu bytes is not read", HEAD_LIMIT);
    wanted = wanted > 2 * f->have ? wanted : 2 * f->have;
    wanted = wanted > 1 << 16 ? wanted : 1 << 16;
    wanted = wanted < f->file.size ? wanted : f->file.size;
    unsigned char *grown = realloc(f->head, wanted);
    if (!grown)
        return qg_fail(err, QG_ENOMEM, "no memory for a header of %zu bytes", wanted);
    f->head = grown;
    if (qg_file_read(&f->file, f->head + f->have, wanted - f->have, f->have, err) != QG_OK)
        return err->status;
    f->have = wanted;
    return QG_OK;
}

/* A little-endian number of `bytes` bytes. */
static enum qg_status take(struct qg_gguf_file *f, int bytes, uint64_t *ret, struct qg_error *err)
{
    *ret = 0;
    if (need(f, (uint64_t)bytes, err) != QG_OK)
        return err->status;
    for (int i = bytes - 1; i >= 0; i--)
        *ret = *ret << 8 | f->head[f->at + (size_t)i];
    f->at += (size_t)bytes;
    return QG_OK;
}

static enum qg_status skip(struct qg_gguf_file *f, uint64_t n, struct qg_error *err)
{
    if (need(f, n, err) != QG_OK)
        return err->status;
    f->at += (size_t)n;
    return QG_OK;
}

/* A key or a name, to be freed: text that can be printed. */
static enum qg_status take_name(struct qg_gguf_file *f, const char **ret_name, struct qg_error *err)
{
    uint64_t n;
    if (take(f, 8, &n, err) != QG_OK || skip(f, n, err) != QG_OK)
        return err->status;
    const char *text = (const char *)f->head + f->at - n;
    char *name = strndup(text, (size_t)n);
    if (!name)
        return qg_fail(err, QG_ENOMEM, "no memory for a name of %ju bytes", (uintmax_t)n);
    *ret_name = name;
    return strlen(name) == n && qg_is_plain_text(name)
               ? QG_OK
               : qg_fail(err, QG_EFORMAT, "the name before byte %zu is not printable text", f->at);
}

/* --- metadata -------------------------------------------------------------------------------- */

/* Bytes of a value; 0 for those that say themselves how long they are. */
static const unsigned char value_bytes[QG_GGUF_VALUE_COUNT] = {
    [QG_GGUF_U8] = 1,  [QG_GGUF_I8] = 1,  [QG_GGUF_U16] = 2, [QG_GGUF_I16] = 2,
    [QG_GGUF_U32] = 4, [QG_GGUF_I32] = 4, [QG_GGUF_F32] = 4, [QG_GGUF_BOOL] = 1,
    [QG_GGUF_U64] = 8, [QG_GGUF_I64] = 8, [QG_GGUF_F64] = 8,
};

static enum qg_status skip_value(struct qg_gguf_file *f, uint64_t type, int depth,
                                 struct qg_error *err)
{
    uint64_t n, of;
    if (type >= QG_GGUF_VALUE_COUNT)
        return qg_fail(err, QG_EFORMAT, "there is no type %ju of values (before byte %zu)",
                       (uintmax_t)type, f->at);
    if (value_bytes[type])
        return skip(f, value_bytes[type], err);
    if (type == QG_GGUF_STRING)
        return take(f, 8, &n, err) == QG_OK ? skip(f, n, err) : err->status;
    if (depth == NEST_LIMIT)
        return qg_fail(err, QG_EFORMAT, "arrays are nested more than %d deep", NEST_LIMIT);
    if (take(f, 4, &of, err) != QG_OK || take(f, 8, &n, err) != QG_OK)
        return err->status;
    if (of < QG_GGUF_VALUE_COUNT && value_bytes[of])
        return skip(f, n > UINT64_MAX / 8 ? n : n * value_bytes[of], err);
    for (; n; n--)
        if (skip_value(f, of, depth + 1, err) != QG_OK)
            return err->status;
    return QG_OK;
}

/* Until the head is read as a whole, value is its offset there. */
static enum qg_status take_entry(struct qg_gguf_file *f, struct qg_gguf_entry *e, size_t *ret_at,
                                 struct qg_error *err)
{
    uint64_t type;
    if (take_name(f, &e->key, err) != QG_OK)
        return qg_context(err, "metadata %zu", f->n_entries);
    size_t at = f->at + 4;
    if (take(f, 4, &type, err) != QG_OK || skip_value(f, type, 0, err) != QG_OK)
        return qg_context(err, "metadata '%.80s'", e->key);
    e->type = (enum qg_gguf_value)type;
    e->bytes = f->at - at;
    *ret_at = at;
    return QG_OK;
}

static int entry_by_key(const void *a, const void *b)
{
    const struct qg_gguf_entry *const *x = a, *const *y = b;
    return strcmp((*x)->key, (*y)->key);
}

/* Keys are there once. */
static enum qg_status check_keys(const struct qg_gguf_entry *e, size_t n, struct qg_error *err)
{
    const struct qg_gguf_entry **sorted = calloc(n + 1, sizeof *sorted);
    if (!sorted)
        return qg_fail(err, QG_ENOMEM, "no memory for %zu pieces of metadata", n);
    enum qg_status status = QG_OK;
    for (size_t i = 0; i < n; i++)
        sorted[i] = &e[i];
    qsort(sorted, n, sizeof *sorted, entry_by_key);
    for (size_t i = 1; i < n && status == QG_OK; i++)
        if (strcmp(sorted[i - 1]->key, sorted[i]->key) == 0)
            status = qg_fail(err, QG_EFORMAT, "metadata '%.80s' is there twice", sorted[i]->key);
    free(sorted);
    return status;
}

static enum qg_status take_metadata(struct qg_gguf_file *f, uint64_t n, size_t *value_at,
                                    struct qg_error *err)
{
    for (; f->n_entries < n; f->n_entries++)
        if (take_entry(f, &f->entry[f->n_entries], &value_at[f->n_entries], err) != QG_OK) {
            f->n_entries++; // its key may be there, to be freed
            return err->status;
        }
    return check_keys(f->entry, f->n_entries, err);
}

/* The metadata's alignment, or the usual one; 0 with an error. */
static size_t alignment_of(const struct qg_gguf_entry *e, size_t n, struct qg_error *err)
{
    for (size_t i = 0; i < n; i++) {
        const unsigned char *p = e[i].value;
        if (strcmp(e[i].key, "general.alignment") != 0)
            continue;
        size_t a = e[i].type == QG_GGUF_U32
                       ? p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24
                       : 0;
        if (a == 0 || (a & (a - 1)) != 0) {
            qg_fail(err, QG_EFORMAT, "general.alignment is no uint32 that is a power of two");
            return 0;
        }
        return a;
    }
    return ALIGNMENT;
}

/* --- tensors --------------------------------------------------------------------------------- */

static enum qg_status take_shape(struct qg_gguf_file *f, struct tensor *t, struct qg_error *err)
{
    uint64_t rank, extent;
    if (take(f, 4, &rank, err) != QG_OK)
        return err->status;
    if (rank > MAX_RANK)
        return qg_fail(err, QG_EFORMAT, "it has %ju dimensions; at most %d are allowed",
                       (uintmax_t)rank, MAX_RANK);
    t->stored.rank = (int)rank;
    for (size_t d = (size_t)rank; d-- > 0; t->shape[d] = (size_t)extent)
        if (take(f, 8, &extent, err) != QG_OK)
            return err->status;
    return QG_OK;
}

/* All but the name; stored.at is the offset in the data. */
static enum qg_status take_tensor(struct qg_gguf_file *f, struct tensor *t, struct qg_error *err)
{
    uint64_t id, offset;
    if (take_shape(f, t, err) != QG_OK || take(f, 4, &id, err) != QG_OK ||
        take(f, 8, &offset, err) != QG_OK)
        return err->status;
    const struct qg_gguf_type *type = type_by_id((uint32_t)id);
    if (!type)
        return qg_fail(err, QG_EFORMAT, "its type, %ju, is not known, so neither is its size",
                       (uintmax_t)id);
    t->stored.dtype = type->word;
    t->stored.at = (size_t)offset;
    return size_of(type, t->shape, t->stored.rank, &t->stored.bytes, err);
}

static enum qg_status take_tensors(struct qg_gguf_file *f, uint64_t n, struct qg_error *err)
{
    while (f->n < n) {
        struct tensor *t = &f->tensor[f->n++];
        if (take_name(f, &t->stored.name, err) != QG_OK)
            return qg_context(err, "tensor %zu", f->n - 1);
        if (take_tensor(f, t, err) != QG_OK)
            return qg_context(err, "tensor '%.80s'", t->stored.name);
    }
    return QG_OK;
}

static int tensor_by_name(const void *a, const void *b)
{
    const struct tensor *x = a, *y = b;
    return strcmp(x->stored.name, y->stored.name);
}

static int tensor_by_offset(const void *a, const void *b)
{
    const struct qg_stored *x = a, *y = b; // the first member of struct tensor
    if (x->at != y->at)
        return x->at < y->at ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Names are there once; data is aligned, inside the file, nobody else's. Leaves the tensors in the
 * order of their offsets, which become those in the file. */
static enum qg_status check_layout(struct qg_gguf_file *f, size_t alignment, struct qg_error *err)
{
    size_t data_at = align_up(f->at, alignment), end = 0;
    size_t data_bytes = f->file.size > data_at ? f->file.size - data_at : 0;
    qsort(f->tensor, f->n, sizeof *f->tensor, tensor_by_name);
    for (size_t i = 1; i < f->n; i++)
        if (tensor_by_name(&f->tensor[i - 1], &f->tensor[i]) == 0)
            return qg_fail(err, QG_EFORMAT, "tensor '%.80s' is there twice",
                           f->tensor[i].stored.name);
    qsort(f->tensor, f->n, sizeof *f->tensor, tensor_by_offset);
    for (size_t i = 0; i < f->n; i++) {
        struct qg_stored *s = &f->tensor[i].stored;
        if (s->at % alignment)
            return qg_fail(err, QG_EFORMAT, "tensor '%.80s': its offset %zu is not aligned to %zu",
                           s->name, s->at, alignment);
        if (s->at > data_bytes || s->bytes > data_bytes - s->at)
            return qg_fail(err, QG_EFORMAT,
                           "tensor '%.80s': its %zu bytes at %zu are not inside the %zu of data",
                           s->name, s->bytes, s->at, data_bytes);
        if (s->at < end)
            return qg_fail(err, QG_EFORMAT, "tensors '%.80s' and '%.80s' overlap",
                           f->tensor[i - 1].stored.name, s->name);
        end = s->at + s->bytes;
        s->at += data_at;
        s->shape = f->tensor[i].shape;
    }
    return QG_OK;
}

/* --- opening --------------------------------------------------------------------------------- */

static enum qg_status take_counts(struct qg_gguf_file *f, uint64_t *ret_tensors,
                                  uint64_t *ret_entries, struct qg_error *err)
{
    uint64_t magic, version;
    if (take(f, 4, &magic, err) != QG_OK || take(f, 4, &version, err) != QG_OK)
        return err->status;
    if (magic != 0x46554747)
        return qg_fail(err, QG_EFORMAT, "not a GGUF file");
    if (version != 2 && version != 3)
        return qg_fail(err, QG_EFORMAT,
                       (version & 0xffff) == 0 ? "a big-endian file, which is not read"
                                               : "version %ju of GGUF; 2 and 3 are read",
                       (uintmax_t)version);
    if (take(f, 8, ret_tensors, err) != QG_OK || take(f, 8, ret_entries, err) != QG_OK)
        return err->status;
    size_t left = f->file.size - f->at;
    if (*ret_entries > left / SMALLEST_KV || *ret_tensors > left / SMALLEST_TENSOR)
        return qg_fail(err, QG_EFORMAT,
                       "%ju pieces of metadata and %ju tensors do not fit into %zu bytes",
                       (uintmax_t)*ret_entries, (uintmax_t)*ret_tensors, f->file.size);
    return QG_OK;
}

static enum qg_status read_head(struct qg_gguf_file *f, struct qg_error *err)
{
    uint64_t n, n_entries;
    if (take_counts(f, &n, &n_entries, err) != QG_OK)
        return err->status;
    f->entry = calloc((size_t)n_entries + 1, sizeof *f->entry);
    f->tensor = calloc((size_t)n + 1, sizeof *f->tensor);
    size_t *value_at = calloc((size_t)n_entries + 1, sizeof *value_at), alignment;
    enum qg_status status =
        f->entry && f->tensor && value_at
            ? take_metadata(f, n_entries, value_at, err)
            : qg_fail(err, QG_ENOMEM, "no memory for %ju tensors", (uintmax_t)n);
    if (status == QG_OK)
        status = take_tensors(f, n, err);
    for (size_t i = 0; status == QG_OK && i < f->n_entries; i++)
        f->entry[i].value = f->head + value_at[i];
    free(value_at);
    if (status != QG_OK)
        return status;
    alignment = alignment_of(f->entry, f->n_entries, err);
    return alignment ? check_layout(f, alignment, err) : err->status;
}

enum qg_status qg_gguf_open(const char *path, struct qg_gguf_file **ret_f, struct qg_error *err)
{
    struct qg_gguf_file *f = calloc(1, sizeof *f);
    if (!f)
        return qg_fail(err, QG_ENOMEM, "%s: no memory", path);
    if (qg_file_open(path, &f->file, err) != QG_OK || read_head(f, err) != QG_OK) {
        qg_gguf_close(&f);
        return qg_context(err, "%s", path);
    }
    *ret_f = f;
    return QG_OK;
}

void qg_gguf_close(struct qg_gguf_file **f)
{
    if (!*f)
        return;
    for (size_t i = 0; i < (*f)->n_entries; i++)
        free((char *)(*f)->entry[i].key);
    for (size_t i = 0; i < (*f)->n; i++)
        free((char *)(*f)->tensor[i].stored.name);
    qg_file_close(&(*f)->file);
    free((*f)->head);
    free((*f)->entry);
    free((*f)->tensor);
    free(*f);
    *f = NULL;
}

size_t qg_gguf_count(const struct qg_gguf_file *f)
{
    return f->n;
}

const struct qg_stored *qg_gguf_stored(const struct qg_gguf_file *f, size_t i)
{
    return i < f->n ? &f->tensor[i].stored : NULL;
}

const struct qg_gguf_entry *qg_gguf_entry_at(const struct qg_gguf_file *f, size_t i)
{
    return i < f->n_entries ? &f->entry[i] : NULL;
}

const struct qg_gguf_entry *qg_gguf_entry_find(const struct qg_gguf_file *f, const char *key)
{
    for (size_t i = 0; i < f->n_entries; i++)
        if (strcmp(f->entry[i].key, key) == 0)
            return &f->entry[i];
    return NULL;
}

const struct qg_file *qg_gguf_source(const struct qg_gguf_file *f)
{
    return &f->file;
}

/* --- metadata as JSON ------------------------------------------------------------------------ */

static double number_of(const struct qg_gguf_entry *e)
{
    union {
        uint64_t u;
        double d;
        float f;
    } v = {0};
    memcpy(&v, e->value, e->bytes);
    switch (e->type) {
    case QG_GGUF_I8:
        return (int8_t)v.u;
    case QG_GGUF_I16:
        return (int16_t)v.u;
    case QG_GGUF_I32:
        return (int32_t)v.u;
    case QG_GGUF_I64:
        return (double)(int64_t)v.u;
    case QG_GGUF_F32:
        return v.f;
    case QG_GGUF_F64:
        return v.d;
    default:
        return (double)v.u;
    }
}

/* A string; NULL, without memory, or where it holds a NUL. */
static cJSON *string_of(const struct qg_gguf_entry *e)
{
    size_t n = e->bytes - 8;
    char *text = strndup((const char *)e->value + 8, n);
    cJSON *j = text && strlen(text) == n ? cJSON_CreateString(text) : NULL;
    free(text);
    return j;
}

cJSON *qg_gguf_json(const struct qg_gguf_file *f)
{
    cJSON *all = cJSON_CreateObject();
    for (size_t i = 0; i < f->n_entries; i++) {
        const struct qg_gguf_entry *e = &f->entry[i];
        cJSON *j = e->type == QG_GGUF_ARRAY    ? NULL
                   : e->type == QG_GGUF_STRING ? string_of(e)
                   : e->type == QG_GGUF_BOOL   ? cJSON_CreateBool(*(const char *)e->value)
                                               : cJSON_CreateNumber(number_of(e));
        if (j)
            cJSON_AddItemToObject(all, e->key, j);
    }
    return all;
}

/* --- metadata to be written ------------------------------------------------------------------ */

struct qg_gguf_meta {
    struct qg_gguf_entry *entry;
    size_t n, room;
};

struct qg_gguf_meta *qg_gguf_meta_new(void)
{
    return calloc(1, sizeof(struct qg_gguf_meta));
}

void qg_gguf_meta_free(struct qg_gguf_meta **m)
{
    if (!*m)
        return;
    for (size_t i = 0; i < (*m)->n; i++) {
        free((char *)(*m)->entry[i].key);
        free((void *)(*m)->entry[i].value);
    }
    free((*m)->entry);
    free(*m);
    *m = NULL;
}

enum qg_status qg_gguf_meta_add(struct qg_gguf_meta *m, const struct qg_gguf_entry *e,
                                struct qg_error *err)
{
    if (!qg_is_plain_text(e->key))
        return qg_fail(err, QG_EINVAL, "the key of metadata %zu is not printable text", m->n);
    if (m->n == m->room) {
        size_t room = 2 * m->room + 16;
        struct qg_gguf_entry *grown = realloc(m->entry, room * sizeof *grown);
        if (!grown)
            return qg_fail(err, QG_ENOMEM, "no memory for %zu pieces of metadata", room);
        m->entry = grown;
        m->room = room;
    }
    char *key = strdup(e->key);
    void *value = malloc(e->bytes);
    if (!key || !value) {
        free(key);
        free(value);
        return qg_fail(err, QG_ENOMEM, "no memory for metadata '%.80s'", e->key);
    }
    memcpy(value, e->value, e->bytes);
    m->entry[m->n++] = (struct qg_gguf_entry){key, e->type, value, e->bytes};
    return QG_OK;
}

enum qg_status qg_gguf_meta_string(struct qg_gguf_meta *m, const char *key, const char *text,
                                   struct qg_error *err)
{
    uint64_t n = strlen(text);
    char *value = malloc(sizeof n + n);
    if (!value)
        return qg_fail(err, QG_ENOMEM, "no memory for metadata '%.80s'", key);
    memcpy(value, &n, sizeof n);
    memcpy(value + sizeof n, text, n);
    struct qg_gguf_entry e = {key, QG_GGUF_STRING, value, sizeof n + n};
    enum qg_status status = qg_gguf_meta_add(m, &e, err);
    free(value);
    return status;
}

enum qg_status qg_gguf_meta_u32(struct qg_gguf_meta *m, const char *key, uint32_t value,
                                struct qg_error *err)
{
    struct qg_gguf_entry e = {key, QG_GGUF_U32, &value, sizeof value};
    return qg_gguf_meta_add(m, &e, err);
}

/* --- writing --------------------------------------------------------------------------------- */

static void emit(FILE *out, uint64_t number, size_t bytes)
{
    fwrite(&number, bytes, 1, out); // writer.c has asserted that this machine is little-endian
}

static void emit_text(FILE *out, const char *text)
{
    emit(out, strlen(text), 8);
    fputs(text, out);
}

static void emit_head(FILE *out, const struct qg_stored *t, size_t n, const struct qg_gguf_meta *m)
{
    fputs("GGUF", out);
    emit(out, 3, 4);
    emit(out, n, 8);
    emit(out, m->n, 8);
    for (size_t i = 0; i < m->n; i++) {
        emit_text(out, m->entry[i].key);
        emit(out, m->entry[i].type, 4);
        fwrite(m->entry[i].value, 1, m->entry[i].bytes, out);
    }
    for (size_t i = 0; i < n; i++) {
        emit_text(out, t[i].name);
        emit(out, (uint64_t)t[i].rank, 4);
        for (int d = t[i].rank - 1; d >= 0; d--)
            emit(out, t[i].shape[d], 8);
        emit(out, qg_gguf_type_find(t[i].dtype)->id, 4);
        emit(out, t[i].at, 8);
    }
}

static enum qg_status check_new(const struct qg_stored *t, struct qg_error *err)
{
    const struct qg_gguf_type *type = qg_gguf_type_find(t->dtype);
    size_t bytes;
    if (!qg_is_plain_text(t->name) || strlen(t->name) > NAME_LIMIT)
        return qg_fail(err, QG_EINVAL, "names in GGUF are printable and at most %d bytes long",
                       NAME_LIMIT);
    if (!type)
        return qg_fail(err, QG_EINVAL, "GGUF has no type %.20s", t->dtype);
    if (t->rank > MAX_RANK)
        return qg_fail(err, QG_EINVAL, "it has %d dimensions; GGUF allows %d", t->rank, MAX_RANK);
    if (size_of(type, t->shape, t->rank, &bytes, err) != QG_OK)
        return err->status = QG_EINVAL;
    return bytes == t->bytes ? QG_OK
                             : qg_fail(err, QG_EINVAL, "it has %zu bytes, its shape and type %zu",
                                       t->bytes, bytes);
}

/* The head with its padding, to be freed; offsets of tensors become those in the file. */
static enum qg_status make_head(struct qg_stored *t, size_t n, const struct qg_gguf_meta *meta,
                                char **ret_head, size_t *ret_bytes, size_t *ret_size,
                                struct qg_error *err)
{
    size_t alignment = alignment_of(meta->entry, meta->n, err), at = 0;
    if (!alignment || check_keys(meta->entry, meta->n, err) != QG_OK)
        return err->status = QG_EINVAL;
    for (size_t i = 0; i < n; at += align_up(t[i++].bytes, alignment)) {
        if (check_new(&t[i], err) != QG_OK)
            return qg_context(err, "tensor '%.80s'", t[i].name);
        t[i].at = at;
    }
    FILE *out = open_memstream(ret_head, ret_bytes);
    if (!out)
        return qg_fail(err, QG_ENOMEM, "no memory for a header");
    emit_head(out, t, n, meta);
    bool whole = fflush(out) == 0 && !ferror(out);
    for (size_t i = *ret_bytes; whole && i % alignment; i++)
        fputc(0, out);
    if (fclose(out) != 0 || !whole)
        return qg_fail(err, QG_ENOMEM, "no memory for a header");
    for (size_t i = 0; i < n; i++)
        t[i].at += *ret_bytes;
    *ret_size = *ret_bytes + at;
    return QG_OK;
}

enum qg_status qg_gguf_create(const char *path, struct qg_stored *t, size_t n,
                              const struct qg_gguf_meta *meta, unsigned flags,
                              struct qg_writer **ret_w, struct qg_error *err)
{
    char *head = NULL;
    size_t bytes, size = 0;
    enum qg_status status = make_head(t, n, meta, &head, &bytes, &size, err);
    if (status != QG_OK)
        qg_context(err, "%s", path);
    else if (bytes > HEAD_LIMIT)
        status = qg_fail(err, QG_EINVAL, "%s: a header of %zu bytes; at most %zu are read", path,
                         bytes, HEAD_LIMIT);
    else
        status = qg_writer_open(path, flags, head, bytes, t, n, size, ret_w, err);
    free(head);
    return status;
}
