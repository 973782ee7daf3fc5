/* SPDX-License-Identifier: MIT */
#include "harness/io/json.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "harness/io/file.h"

#define VALUE_LIMIT ((size_t)1 << 22) /* parsed, a value takes 64 bytes */

/* What cJSON would let pass or choke on: NUL, written out or as an escape, ends a C string early;
 * and millions of tiny values would take gigabytes. */
static enum qg_status scan(const char *text, size_t n, const char *what, size_t at,
                           struct qg_error *err)
{
    bool in_string = false;
    size_t values = 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\0')
            return qg_fail(err, QG_EFORMAT, "%s holds a NUL byte (at byte %zu)", what, at + i);
        if (text[i] == '"')
            in_string = !in_string;
        else if (in_string && text[i] == '\\') {
            if (n - i > 5 && memcmp(text + i + 1, "u0000", 5) == 0)
                return qg_fail(err, QG_EFORMAT, "%s holds a NUL byte (\\u0000 at byte %zu)", what,
                               at + i);
            i++;
        } else
            values += !in_string && text[i] == ',';
    }
    if (values > VALUE_LIMIT)
        return qg_fail(err, QG_EFORMAT, "%s holds more than %zu values", what, VALUE_LIMIT);
    return QG_OK;
}

enum qg_status qg_json_parse(const char *text, size_t n, const char *what, size_t at, cJSON **ret_j,
                             struct qg_error *err)
{
    const char *end = text;
    if (scan(text, n, what, at, err) != QG_OK)
        return err->status;
    cJSON *j = cJSON_ParseWithLengthOpts(text, n, &end, false);
    if (!j)
        return qg_fail(err, QG_EFORMAT, "%s is not JSON, or nested too deeply (near byte %zu)",
                       what, at + (size_t)(end - text));
    while (end < text + n && strchr(" \t\r\n", *end))
        end++;
    enum qg_status status = QG_OK;
    if (end != text + n)
        status = qg_fail(err, QG_EFORMAT, "text after %s's JSON (at byte %zu)", what,
                         at + (size_t)(end - text));
    else if (!cJSON_IsObject(j))
        status = qg_fail(err, QG_EFORMAT, "%s is not a JSON object", what);
    if (status == QG_OK)
        *ret_j = j;
    else
        cJSON_Delete(j);
    return status;
}

static enum qg_status read_object(struct qg_file *f, size_t limit, cJSON **ret_j,
                                  struct qg_error *err)
{
    if (f->size > limit)
        return qg_fail(err, QG_EFORMAT, "%zu bytes, more than the %zu that are read", f->size,
                       limit);
    char *text = malloc(f->size + 1);
    if (!text)
        return qg_fail(err, QG_ENOMEM, "no memory for %zu bytes", f->size);
    enum qg_status status = qg_file_read(f, text, f->size, 0, err);
    if (status == QG_OK)
        status = qg_json_parse(text, f->size, "the file", 0, ret_j, err);
    free(text);
    return status;
}

enum qg_status qg_json_read(const char *path, size_t limit, cJSON **ret_j, struct qg_error *err)
{
    struct qg_file f;
    enum qg_status status = qg_file_open(path, &f, err);
    if (status == QG_OK)
        status = read_object(&f, limit, ret_j, err);
    qg_file_close(&f);
    return status == QG_OK ? QG_OK : qg_context(err, "%s", path);
}

const cJSON *qg_json_member(const cJSON *object, const char *key, int type, const char *type_word,
                            struct qg_error *err)
{
    const cJSON *found = NULL, *j;
    cJSON_ArrayForEach(j, object)
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

bool qg_is_plain_text(const char *s)
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
