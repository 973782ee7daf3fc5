/* SPDX-License-Identifier: MIT
 *
 * Reading and writing safetensors. The header is read into memory and parsed by cJSON; everything
 * it claims is then checked here, before anybody sees a tensor.
 */
#define _DEFAULT_SOURCE /* mmap, fsync */
#include "harness/io/safetensors.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "schemes/scheme.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensor data is written as it lies");

#define HEADER_LIMIT 100000000u /* bytes, as in the reference implementation */
#define VALUE_LIMIT                                                               \
    ((size_t)1 << 22) /* JSON values in a header: parsed, they take 64 bytes each \
                       */

struct entry {
    struct qg_tensor t; /* name lives in qg_safetensors.header */
    char word[48];      /* dtype as people should read it */
    size_t begin, end;  /* in the data */
    size_t order;       /* in the header */
};

struct qg_safetensors {
    int fd;
    cJSON *header;
    unsigned char *map;
    size_t size, data_at; /* of the file; where the data begins */
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

static enum qg_status read_at(int fd, void *dst, size_t n, size_t at, struct qg_error *err)
{
    char *p = dst;
    while (n > 0) {
        ssize_t got = pread(fd, p, n, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return qg_fail(err, QG_EIO, "%s", strerror(errno));
        if (got == 0)
            return qg_fail(err, QG_EIO, "the file became shorter while it was read");
        p += got, at += (size_t)got, n -= (size_t)got;
    }
    return QG_OK;
}

/* What cJSON would let pass or choke on: NUL, written out or as an escape, ends a C string early;
 * and millions of tiny values would take gigabytes. */
static enum qg_status scan_header(const char *text, size_t n, struct qg_error *err)
{
    bool in_string = false;
    size_t values = 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\0')
            return qg_fail(err, QG_EFORMAT, "the header holds a NUL byte (at byte %zu)", 8 + i);
        if (text[i] == '"')
            in_string = !in_string;
        else if (in_string && text[i] == '\\') {
            if (n - i > 5 && memcmp(text + i + 1, "u0000", 5) == 0)
                return qg_fail(err, QG_EFORMAT, "the header holds a NUL byte (\\u0000 at byte %zu)",
                               8 + i);
            i++;
        } else
            values += !in_string && text[i] == ',';
    }
    if (values > VALUE_LIMIT)
        return qg_fail(err, QG_EFORMAT, "the header holds more than %zu values", VALUE_LIMIT);
    return QG_OK;
}

/* Names are printed and compared: valid UTF-8 without control characters. */
static bool is_plain_text(const char *s)
{
    const unsigned char *p = (const unsigned char *)s;
    while (*p) {
        uint32_t c = *p++;
        int more = c < 0x80 ? 0 : c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
        if ((c >= 0x80 && c < 0xc2) || c > 0xf4)
            return false;
        c &= more ? 0x3fu >> more : 0x7fu;
        for (int i = 0; i < more; i++, p++) {
            if ((*p & 0xc0) != 0x80)
                return false;
            c = c << 6 | (*p & 0x3f);
        }
        bool overlong = (more == 2 && c < 0x800) || (more == 3 && c < 0x10000);
        if (overlong || c < 0x20 || (c >= 0x7f && c < 0xa0) || c > 0x10ffff || c >> 11 == 0x1b)
            return false;
    }
    return true;
}

/* A JSON number that is a whole one and that a double holds exactly. */
static bool is_size(const cJSON *j, size_t *ret)
{
    if (!cJSON_IsNumber(j) || !(j->valuedouble >= 0 && j->valuedouble < 0x1p53))
        return false;
    *ret = (size_t)j->valuedouble;
    return (double)*ret == j->valuedouble;
}

/* The member `key` of a tensor's object, of the given JSON type; NULL with an error when it is
 * absent, there twice, or of another type. */
static const cJSON *member(const cJSON *tensor, const char *key, int type, const char *type_word,
                           struct qg_error *err)
{
    const cJSON *found = NULL, *j;
    cJSON_ArrayForEach(j, tensor)
    {
        if (strcmp(j->string, key) != 0)
            continue;
        if (found) {
            qg_fail(err, QG_EFORMAT, "\"%s\" is there twice", key);
            return NULL;
        }
        found = j;
    }
    if (!found || (found->type & 0xff) != type) {
        qg_fail(err, QG_EFORMAT, found ? "\"%s\" is not %s" : "\"%s\" (%s) is missing", key,
                type_word);
        return NULL;
    }
    return found;
}

static enum qg_status parse_shape(const cJSON *tensor, struct entry *e, size_t *ret_count,
                                  size_t *ret_rank, struct qg_error *err)
{
    const cJSON *shape = member(tensor, "shape", cJSON_Array, "a list", err), *j;
    size_t count = 1, rank = 0, extent;
    if (!shape)
        return err->status;
    cJSON_ArrayForEach(j, shape)
    {
        if (!is_size(j, &extent))
            return qg_fail(err, QG_EFORMAT,
                           "dimension %zu of the shape is not a whole number from 0", rank);
        if (extent && count > SIZE_MAX / 64 / extent)
            return qg_fail(err, QG_EFORMAT, "the shape has more elements than can be addressed");
        count *= extent;
        if (rank < QG_MAX_RANK)
            e->t.shape[rank] = extent;
        rank++;
    }
    *ret_count = count;
    *ret_rank = rank;
    return QG_OK;
}

static enum qg_status parse_tensor(const cJSON *tensor, size_t data_bytes, struct entry *e,
                                   struct qg_error *err)
{
    const cJSON *dtype, *offsets;
    size_t count = 0, rank = 0;
    if (!cJSON_IsObject(tensor))
        return qg_fail(err, QG_EFORMAT, "its entry in the header is not an object");
    if (!(dtype = member(tensor, "dtype", cJSON_String, "a string", err)) ||
        parse_shape(tensor, e, &count, &rank, err) != QG_OK ||
        !(offsets = member(tensor, "data_offsets", cJSON_Array, "a list", err)))
        return err->status;
    if (!is_plain_text(dtype->valuestring))
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
    e->t.name = tensor->string;
    e->t.dtype = rank <= QG_MAX_RANK ? exact_dtype(dtype->valuestring) : QG_DTYPE_COUNT;
    e->t.rank = rank <= QG_MAX_RANK ? (int)rank : 0;
    snprintf(e->word, sizeof e->word, rank <= QG_MAX_RANK ? "%.20s" : "%.20s of rank %zu",
             dtype->valuestring, rank);
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
    if (at != f->size - f->data_at)
        return qg_fail(err, QG_EFORMAT, "the last %zu bytes belong to no tensor",
                       f->size - f->data_at - at);
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
        if (!is_plain_text(j->string))
            return qg_fail(err, QG_EFORMAT, "the name of tensor %zu is not printable text", f->n);
        if (strcmp(j->string, "__metadata__") == 0) {
            if (metadata || !cJSON_IsObject(j))
                return qg_fail(err, QG_EFORMAT, "__metadata__ is not one object");
            metadata = true;
            continue;
        }
        f->entry[f->n].order = f->n;
        if (parse_tensor(j, f->size - f->data_at, &f->entry[f->n], err) != QG_OK)
            return qg_context(err, "tensor '%.80s'", j->string);
        f->n++;
    }
    return check_layout(f, err);
}

static enum qg_status parse_header(struct qg_safetensors *f, const char *text, size_t n,
                                   struct qg_error *err)
{
    if (text[0] != '{')
        return qg_fail(err, QG_EFORMAT, "the header does not begin with '{'");
    if (scan_header(text, n, err) != QG_OK)
        return err->status;
    const char *end = text;
    f->header = cJSON_ParseWithLengthOpts(text, n, &end, false);
    if (!f->header)
        return qg_fail(err, QG_EFORMAT,
                       "the header is not JSON, or nested too deeply (near byte %zu)",
                       8 + (size_t)(end - text));
    while (end < text + n && strchr(" \t\r\n", *end))
        end++;
    if (end != text + n)
        return qg_fail(err, QG_EFORMAT, "text after the header's JSON (at byte %zu)",
                       8 + (size_t)(end - text));
    return parse_entries(f, err);
}

static enum qg_status read_header(struct qg_safetensors *f, struct qg_error *err)
{
    unsigned char head[8];
    uint64_t n = 0;
    if (f->size < sizeof head)
        return qg_fail(err, QG_EFORMAT, "%zu bytes are too few for a safetensors file", f->size);
    if (read_at(f->fd, head, sizeof head, 0, err) != QG_OK)
        return err->status;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | head[i];
    if (n < 2 || n > HEADER_LIMIT)
        return qg_fail(err, QG_EFORMAT,
                       "not a safetensors file: a header of %" PRIu64
                       " bytes (2 to %u are allowed)",
                       n, HEADER_LIMIT);
    if (n > f->size - 8)
        return qg_fail(err, QG_EFORMAT,
                       "truncated: the header should have %" PRIu64
                       " bytes, the file ends after %zu",
                       n, f->size - 8);
    f->data_at = 8 + (size_t)n;
    char *text = malloc((size_t)n);
    if (!text)
        return qg_fail(err, QG_ENOMEM, "no memory for a header of %" PRIu64 " bytes", n);
    if (read_at(f->fd, text, (size_t)n, 8, err) == QG_OK)
        (void)parse_header(f, text, (size_t)n, err);
    free(text);
    return err->status;
}

static enum qg_status open_file(struct qg_safetensors *f, const char *path, struct qg_error *err)
{
    struct stat st;
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a FIFO must not keep us waiting
    if (f->fd < 0 || fstat(f->fd, &st) != 0)
        return qg_fail(err, QG_EIO, "%s", strerror(errno));
    if (!S_ISREG(st.st_mode))
        return qg_fail(err, QG_EFORMAT, "not a regular file");
    f->size = (size_t)st.st_size;
    if (read_header(f, err) != QG_OK)
        return err->status;
    void *map = mmap(NULL, f->size, PROT_READ, MAP_PRIVATE, f->fd, 0);
    if (map == MAP_FAILED)
        return qg_fail(err, QG_EIO, "%s", strerror(errno));
    f->map = map;
    for (size_t i = 0; i < f->n; i++)
        if (f->entry[i].t.dtype != QG_DTYPE_COUNT)
            f->entry[i].t.data = f->map + f->data_at + f->entry[i].begin;
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
    if ((*f)->map)
        munmap((*f)->map, (*f)->size);
    if ((*f)->fd >= 0)
        close((*f)->fd);
    cJSON_Delete((*f)->header);
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
    size_t at = (size_t)((unsigned char *)t->data - f->map);
    if (read_at(f->fd, dst, qg_bytes(t), at, err) != QG_OK)
        return qg_context(err, "tensor '%.80s'", t->name);
    return QG_OK;
}

/* --- writing --------------------------------------------------------------------------------- */

/* The header's JSON, to be freed with cJSON_free; NULL without memory. */
static char *format_header(const struct qg_tensor *tensors, size_t n)
{
    cJSON *header = cJSON_CreateObject();
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        const struct qg_tensor *t = &tensors[i];
        cJSON *entry = cJSON_AddObjectToObject(header, t->name);
        cJSON_AddStringToObject(entry, "dtype", qg_dtype_name(t->dtype));
        cJSON *shape = cJSON_AddArrayToObject(entry, "shape");
        for (int d = 0; d < t->rank; d++)
            cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)t->shape[d]));
        cJSON *offsets = cJSON_AddArrayToObject(entry, "data_offsets");
        cJSON_AddItemToArray(offsets, cJSON_CreateNumber((double)at));
        at += qg_bytes(t);
        cJSON_AddItemToArray(offsets, cJSON_CreateNumber((double)at));
    }
    char *text = cJSON_PrintUnformatted(header);
    cJSON_Delete(header);
    return text;
}

static enum qg_status write_all(int fd, const void *src, size_t n, struct qg_error *err)
{
    const char *p = src;
    while (n > 0) {
        ssize_t put = write(fd, p, n);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return qg_fail(err, QG_EIO, "%s", strerror(errno));
        p += put, n -= (size_t)put;
    }
    return QG_OK;
}

static enum qg_status write_tensors(int fd, const struct qg_tensor *tensors, size_t n,
                                    struct qg_error *err)
{
    char *text = format_header(tensors, n);
    if (!text)
        return qg_fail(err, QG_ENOMEM, "no memory for the header of %zu tensors", n);
    size_t length = strlen(text), padding = (8 - length % 8) % 8;
    unsigned char head[8];
    for (int i = 0; i < 8; i++)
        head[i] = (unsigned char)((uint64_t)(length + padding) >> 8 * i);
    enum qg_status status = write_all(fd, head, sizeof head, err);
    if (status == QG_OK)
        status = write_all(fd, text, length, err);
    if (status == QG_OK)
        status = write_all(fd, "       ", padding, err);
    cJSON_free(text);
    for (size_t i = 0; status == QG_OK && i < n; i++)
        status = write_all(fd, tensors[i].data, qg_bytes(&tensors[i]), err);
    if (status == QG_OK && fsync(fd) != 0)
        status = qg_fail(err, QG_EIO, "%s", strerror(errno));
    return status;
}

enum qg_status qg_safetensors_may_write(const char *path, bool overwrite, struct qg_error *err)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return errno == ENOENT ? QG_OK : qg_fail(err, QG_EIO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return qg_fail(err, QG_EIO, "%s: not a regular file, nothing was written", path);
    return overwrite ? QG_OK
                     : qg_fail(err, QG_EIO, "%s: the file exists, nothing was written", path);
}

enum qg_status qg_safetensors_write(const char *path, const struct qg_tensor *tensors, size_t n,
                                    bool overwrite, struct qg_error *err)
{
    if (qg_safetensors_may_write(path, overwrite, err) != QG_OK)
        return err->status;
    size_t room = strlen(path) + sizeof ".part";
    char *part = malloc(room);
    if (!part)
        return qg_fail(err, QG_ENOMEM, "%s: no memory", path);
    snprintf(part, room, "%s.part", path);
    unlink(part); // what an interrupted run left
    int fd = open(part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    enum qg_status status = fd < 0 ? qg_fail(err, QG_EIO, "%s: %s", part, strerror(errno)) : QG_OK;
    if (status == QG_OK && (status = write_tensors(fd, tensors, n, err)) != QG_OK)
        qg_context(err, "%s: nothing was written", path);
    if (fd >= 0 && close(fd) != 0 && status == QG_OK)
        status = qg_fail(err, QG_EIO, "%s: %s", part, strerror(errno));
    if (status == QG_OK && rename(part, path) != 0)
        status = qg_fail(err, QG_EIO, "%s: %s", path, strerror(errno));
    if (status != QG_OK && fd >= 0)
        unlink(part);
    free(part);
    return status;
}
