/* SPDX-License-Identifier: MIT
 *
 * The journal of a run, see journal.h.
 */
#include "harness/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "harness/io/file.h"

#define LIMIT ((size_t)1 << 36) /* of a whole journal */

static const char magic[8] = {'Q', 'G', 'J', 'R', 'N', 'L', '0', '1'};

struct entry {
    uint32_t kind, crc;
    uint64_t bytes;
};
_Static_assert(sizeof(struct entry) == 16, "no padding inside a journal entry's head");

/* Payloads are padded to this, so that each is aligned in memory. */
static size_t padded(size_t bytes)
{
    return (bytes + 7) / 8 * 8;
}

// crc32_z takes a size_t; crc32 would cut lengths at 4 GiB.
static uint32_t entry_crc(const struct entry *e)
{
    uLong crc = crc32_z(0, (const Bytef *)&e->kind, sizeof e->kind);
    return (uint32_t)crc32_z(crc, (const Bytef *)&e->bytes, sizeof e->bytes);
}

enum qg_status qg_write_all(int fd, const char *path, const void *data, size_t bytes,
                            struct qg_error *err)
{
    for (const char *p = data; bytes;) {
        ssize_t n = write(fd, p, bytes < 1u << 30 ? bytes : 1u << 30);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return qg_fail(err, QG_EIO, "%s: write: %s", path, strerror(errno));
        p += n;
        bytes -= (size_t)n;
    }
    return QG_OK;
}

enum qg_status qg_read_all(int fd, const char *path, size_t limit, void **ret_data,
                           size_t *ret_bytes, struct qg_error *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return qg_fail(err, QG_EIO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return qg_fail(err, QG_EFORMAT, "%s: is no regular file", path);
    if ((uintmax_t)st.st_size > limit)
        return qg_fail(err, QG_EFORMAT, "%s: %jd bytes, more than the %zu that are read", path,
                       (intmax_t)st.st_size, limit);
    size_t size = (size_t)st.st_size, got = 0;
    char *data = malloc(size ? size : 1);
    if (!data)
        return qg_fail(err, QG_ENOMEM, "%s: no memory for %zu bytes", path, size);
    while (got < size) {
        ssize_t n = pread(fd, data + got, size - got, (off_t)got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            free(data);
            return qg_fail(err, QG_EIO, "%s: read: %s", path,
                           n < 0 ? strerror(errno) : "cut short");
        }
        got += (size_t)n;
    }
    *ret_data = data;
    *ret_bytes = size;
    return QG_OK;
}

enum qg_status qg_journal_create(const char *path, int *ret_fd, struct qg_error *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0 && errno == EEXIST)
        return qg_fail(
            err, QG_EIO,
            "%s: the journal of an earlier run is here: go on with --resume, or remove it", path);
    if (fd < 0)
        return qg_fail(err, QG_EIO, "%s: %s", path, strerror(errno));
    if (qg_file_lock(fd, path, err) != QG_OK ||
        qg_write_all(fd, path, magic, sizeof magic, err) != QG_OK) {
        close(fd);
        unlink(path);
        return err->status;
    }
    *ret_fd = fd;
    return QG_OK;
}

/* Walks the entries; *ret_good becomes the offset behind the last whole one. */
static enum qg_status walk(const char *path, const char *data, size_t size, qg_journal_fn *each,
                           void *context, size_t *ret_good, struct qg_error *err)
{
    if (size < sizeof magic || memcmp(data, magic, sizeof magic) != 0)
        return qg_fail(err, QG_EFORMAT, "%s: is no journal of a run; remove it to start again",
                       path);
    size_t at = sizeof magic;
    for (struct entry e; size - at >= sizeof e;) {
        memcpy(&e, data + at, sizeof e);
        const char *payload = data + at + sizeof e;
        size_t left = size - at - sizeof e;
        if (e.bytes > left || padded((size_t)e.bytes) > left)
            break;
        size_t next = at + sizeof e + padded((size_t)e.bytes);
        uint32_t crc =
            (uint32_t)crc32_z(entry_crc(&e), (const Bytef *)payload, padded((size_t)e.bytes));
        if (crc != e.crc && next == size)
            break;
        if (crc != e.crc)
            return qg_fail(err, QG_EFORMAT,
                           "%s: the entry at byte %zu is damaged; remove the file to start again",
                           path, at);
        if (each(context, e.kind, payload, (size_t)e.bytes, err) != QG_OK)
            return qg_context(err, "%s", path);
        at = next;
    }
    *ret_good = at;
    return QG_OK;
}

enum qg_status qg_journal_resume(const char *path, qg_journal_fn *each, void *context, int *ret_fd,
                                 struct qg_error *err)
{
    size_t size, good = 0;
    void *data;
    int fd = open(path, O_RDWR | O_APPEND | O_CLOEXEC);
    if (fd < 0)
        return qg_fail(err, QG_EIO, "%s: %s", path, strerror(errno));
    if (qg_file_lock(fd, path, err) != QG_OK ||
        qg_read_all(fd, path, LIMIT, &data, &size, err) != QG_OK)
        goto fail;
    enum qg_status status = walk(path, data, size, each, context, &good, err);
    free(data);
    if (status != QG_OK)
        goto fail;
    if (good < size && ftruncate(fd, (off_t)good) != 0) {
        qg_fail(err, QG_EIO, "%s: truncate: %s", path, strerror(errno));
        goto fail;
    }
    *ret_fd = fd;
    return QG_OK;
fail:
    close(fd);
    return err->status;
}

enum qg_status qg_journal_append(int fd, const char *path, uint32_t kind,
                                 const struct qg_piece *piece, int n, struct qg_error *err)
{
    static const char zeros[8];
    struct entry e = {.kind = kind};
    off_t before = lseek(fd, 0, SEEK_END);
    for (int i = 0; i < n; i++)
        e.bytes += piece[i].bytes;
    struct qg_piece pad = {zeros, padded((size_t)e.bytes) - (size_t)e.bytes};
    uLong crc = entry_crc(&e);
    for (int i = 0; i < n; i++)
        if (piece[i].bytes) // crc32_z(crc, NULL, 0) would start anew
            crc = crc32_z(crc, piece[i].data, piece[i].bytes);
    e.crc = (uint32_t)crc32_z(crc, pad.data, pad.bytes);
    enum qg_status status = qg_write_all(fd, path, &e, sizeof e, err);
    for (int i = 0; i < n && status == QG_OK; i++)
        status = qg_write_all(fd, path, piece[i].data, piece[i].bytes, err);
    if (status == QG_OK)
        status = qg_write_all(fd, path, pad.data, pad.bytes, err);
    // Half an entry in the middle would hide all that follow it.
    if (status != QG_OK && (before < 0 || ftruncate(fd, before) != 0))
        return qg_fail(err, QG_EIO, "%s: cannot be written, nor cut back: %s", path,
                       strerror(errno));
    return status;
}

bool qg_read_exactly(int fd, void *data, size_t bytes)
{
    for (char *p = data; bytes;) {
        ssize_t n = read(fd, p, bytes < 1u << 30 ? bytes : 1u << 30);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        p += n;
        bytes -= (size_t)n;
    }
    return true;
}
