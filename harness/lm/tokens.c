/* SPDX-License-Identifier: MIT */
#include "harness/lm/tokens.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness/journal.h"

enum { BYTES = 256 }; /* the vocabulary of a model of bytes */

#define MAX_FILE ((size_t)1 << 32)

/* Numbers that lie one behind the other in a file. */
struct stored {
    const uint8_t *at;
    size_t n, size; /* numbers, bytes of each */
    bool is_signed;
};

/* --- kinds of files -------------------------------------------------------------------------- */

static const char magic[] = "\x93NUMPY";

enum { MAGIC = sizeof magic - 1, HEADER_MOST = 65536 };

static bool is_numpy(const uint8_t *data, size_t bytes)
{
    return bytes >= MAGIC && memcmp(data, magic, MAGIC) == 0;
}

/* Takes "'descr': '<u2', 'fortran_order': False, 'shape': (123,), " apart, as numpy.save writes it
 * (numpy:lib/format.py). */
static bool take_header(const char *header, struct stored *s)
{
    static const char pattern[] = "^\\{'descr': '([<|])([iu])([1248])', 'fortran_order': "
                                  "(True|False), 'shape': \\(([0-9]+),\\), \\} *\n?$";
    regex_t re;
    regmatch_t part[6];
    if (regcomp(&re, pattern, REG_EXTENDED) != 0)
        return false;
    bool ok = regexec(&re, header, 6, part, 0) == 0;
    regfree(&re);
    if (!ok)
        return false;
    s->is_signed = header[part[2].rm_so] == 'i';
    s->size = (size_t)(header[part[3].rm_so] - '0');
    errno = 0;
    unsigned long long n = strtoull(header + part[5].rm_so, NULL, 10);
    s->n = (size_t)n;
    bool unsigned_kind = !s->is_signed && s->size <= 4, signed_kind = s->is_signed && s->size >= 4;
    return errno == 0 && n <= SIZE_MAX / 8 && (unsigned_kind || signed_kind);
}

static enum qg_status open_numpy(const char *path, const uint8_t *data, size_t bytes,
                                 struct stored *ret, struct qg_error *err)
{
    // Magic, version, length of the header (two bytes in version 1, then four), the header.
    size_t wide = bytes > MAGIC && data[MAGIC] >= 2 ? 4 : 2, at = MAGIC + 2 + wide, n = 0;
    for (size_t i = 0; i < wide && at <= bytes; i++)
        n |= (size_t)data[MAGIC + 2 + i] << 8 * i;
    if (at > bytes || n > bytes - at || n > HEADER_MOST)
        return qg_fail(err, QG_EFORMAT, "%s: ends within the header of a NumPy array", path);
    char *header = strndup((const char *)data + at, n);
    if (!header)
        return qg_fail(err, QG_ENOMEM, "%s: no memory for a header", path);
    bool ok = take_header(header, ret);
    free(header);
    if (!ok)
        return qg_fail(err, QG_EFORMAT,
                       "%s: is no NumPy array of one dimension of u1, u2, u4, i4 or i8, "
                       "little-endian: save numpy.asarray(tokens, 'uint32')",
                       path);
    ret->at = data + at + n;
    if (ret->n != (bytes - at - n) / ret->size || (bytes - at - n) % ret->size)
        return qg_fail(err, QG_EFORMAT, "%s: the header says %zu numbers, there are bytes for %zu",
                       path, ret->n, (bytes - at - n) / ret->size);
    return QG_OK;
}

static enum qg_status open_raw(const char *path, const uint8_t *data, size_t bytes, size_t size,
                               struct stored *ret, struct qg_error *err)
{
    *ret = (struct stored){.at = data, .n = bytes / size, .size = size};
    if (bytes % size)
        return qg_fail(err, QG_EFORMAT, "%s: %zu bytes are no whole count of numbers of %zu bytes",
                       path, bytes, size);
    return QG_OK;
}

static bool ends_in(const char *path, const char *end)
{
    size_t n = strlen(path), k = strlen(end);
    return n >= k && strcmp(path + n - k, end) == 0;
}

static enum qg_status open_stored(const char *path, const uint8_t *data, size_t bytes, size_t vocab,
                                  struct stored *ret, bool *ret_text, struct qg_error *err)
{
    *ret_text = false;
    if (is_numpy(data, bytes))
        return open_numpy(path, data, bytes, ret, err);
    if (ends_in(path, ".npy"))
        return qg_fail(err, QG_EFORMAT, "%s: does not begin as a NumPy array does", path);
    if (ends_in(path, ".u16") || ends_in(path, ".u32"))
        return open_raw(path, data, bytes, ends_in(path, ".u16") ? 2 : 4, ret, err);
    if (vocab != BYTES)
        return qg_fail(err, QG_EFORMAT,
                       "%s: a text, but this model's %zu tokens are not bytes: give token ids as "
                       ".npy, .u16 or .u32",
                       path, vocab);
    *ret_text = true;
    return open_raw(path, data, bytes, 1, ret, err);
}

static uint64_t number(const struct stored *s, size_t i)
{
    uint64_t x = 0;
    for (size_t b = 0; b < s->size; b++)
        x |= (uint64_t)s->at[i * s->size + b] << 8 * b;
    return x;
}

static enum qg_status refuse_token(const char *path, const struct stored *s, size_t i, size_t vocab,
                                   struct qg_error *err)
{
    uint64_t x = number(s, i);
    int64_t as_signed = s->size == 4 ? (int64_t)(int32_t)x : (int64_t)x;
    if (s->is_signed && as_signed < 0)
        return qg_fail(err, QG_EFORMAT, "%s: token %zu is %" PRId64, path, i, as_signed);
    return qg_fail(err, QG_EFORMAT,
                   "%s: token %zu is %" PRIu64 ", the model's vocabulary ends at %zu", path, i, x,
                   vocab - 1);
}

/* --- documents ------------------------------------------------------------------------------- */

/* The code point at text[i] and its length; 0 for what is no UTF-8. */
static uint32_t code_point(const uint8_t *text, size_t n, size_t i, size_t *ret_length)
{
    static const uint8_t mask[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    uint8_t c = text[i];
    size_t length = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    *ret_length = 1;
    if (c >= 0xf8 || (c >= 0x80 && c < 0xc0) || length > n - i)
        return 0;
    uint32_t x = c & mask[length];
    for (size_t k = 1; k < length; k++) {
        if ((text[i + k] & 0xc0) != 0x80)
            return 0;
        x = x << 6 | (text[i + k] & 0x3f);
    }
    *ret_length = length;
    return x;
}

/* What \s matches in Python. */
static bool is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

uint64_t qg_words(const uint8_t *text, size_t n)
{
    uint64_t words = 1;
    bool before = false;
    for (size_t i = 0, length; i < n; i += length) {
        bool space = is_space(code_point(text, n, i, &length));
        words += space && !before;
        before = space;
    }
    return words;
}

static void end_document(const struct stored *s, size_t end, struct qg_tokens *t)
{
    struct qg_document *d = &t->document[t->n_documents];
    d->n = t->n - d->first;
    if (d->n == 0)
        return;
    d->bytes = t->text ? d->n : 0;
    d->words = t->text ? qg_words(s->at + end - d->n, d->n) : 0;
    t->n_documents++;
}

static size_t end_of_last(const struct qg_tokens *t)
{
    const struct qg_document *d = t->document + t->n_documents;
    return t->n_documents ? d[-1].first + d[-1].n : 0;
}

/* Begins a document behind the token that stands before it. */
static void begin_document(uint32_t before, struct qg_tokens *t)
{
    t->n = end_of_last(t);
    t->id[t->n++] = before;
    t->document[t->n_documents].first = t->n;
}

static enum qg_status take_documents(const char *path, const struct stored *s, size_t vocab,
                                     const uint32_t *separator, size_t most, struct qg_tokens *t,
                                     struct qg_error *err)
{
    size_t i = separator || s->n == 0 ? 0 : 1;
    for (size_t k = 0; k < s->n; k++)
        if (number(s, k) >= vocab)
            return refuse_token(path, s, k, vocab, err);
    begin_document(separator ? *separator : s->n ? (uint32_t)number(s, 0) : 0, t);
    for (; i < s->n && t->n_documents != most; i++) {
        uint32_t x = (uint32_t)number(s, i);
        if (!separator || x != *separator) {
            t->id[t->n++] = x;
            continue;
        }
        end_document(s, i, t);
        begin_document(x, t);
    }
    if (t->n_documents != most)
        end_document(s, i, t);
    t->n = end_of_last(t);
    if (t->n_documents)
        return QG_OK;
    return qg_fail(err, QG_EFORMAT, "%s: holds %s", path,
                   s->n == 0   ? "no token"
                   : separator ? "nothing but separators"
                               : "one token: there is none to predict");
}

/* Most documents that there can be: the separators cut the file into that many stretches. */
static size_t count_stretches(const struct stored *s, const uint32_t *separator)
{
    size_t n = 1;
    for (size_t i = 0; separator && i < s->n; i++)
        n += number(s, i) == *separator;
    return n;
}

enum qg_status qg_tokens_read(const char *path, size_t vocab, const uint32_t *separator,
                              size_t most, struct qg_tokens *ret_t, struct qg_error *err)
{
    void *data = NULL;
    size_t bytes;
    struct stored s = {0};
    *ret_t = (struct qg_tokens){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return qg_fail(err, QG_EIO, "%s: %s", path, strerror(errno));
    enum qg_status status = qg_read_all(fd, path, MAX_FILE, &data, &bytes, err);
    close(fd);
    if (status == QG_OK)
        status = open_stored(path, data, bytes, vocab, &s, &ret_t->text, err);
    if (status == QG_OK) {
        // One more of each: what stands before the first document, a document that stays empty.
        ret_t->id = malloc((s.n + 2) * sizeof *ret_t->id);
        ret_t->document = calloc(count_stretches(&s, separator) + 1, sizeof *ret_t->document);
        status =
            ret_t->id && ret_t->document
                ? take_documents(path, &s, vocab, separator, most ? most : SIZE_MAX, ret_t, err)
                : qg_fail(err, QG_ENOMEM, "%s: no memory for %zu tokens", path, s.n);
    }
    free(data);
    return status;
}

void qg_tokens_free(struct qg_tokens *t)
{
    free(t->id);
    free(t->document);
    *t = (struct qg_tokens){0};
}
