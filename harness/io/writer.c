/* SPDX-License-Identifier: MIT */
#include "harness/io/writer.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensor data is written as it lies");

struct slot {
    const char *name;
    size_t at, bytes;
    _Atomic size_t written;
};

struct qg_writer {
    char *path, *part;
    unsigned flags;
    int fd;
    bool made, resumed, finished;
    struct slot *slot;
    size_t n, size;
};

/* Whether the folder that is to hold a file is there. */
static enum qg_status has_folder(const char *path, struct qg_error *err)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    struct stat st;
    bool is = folder && stat(folder, &st) == 0 && S_ISDIR(st.st_mode);
    free(folder);
    return is ? QG_OK : qg_fail(err, QG_EIO, "%s: there is no such folder to write into", path);
}

enum qg_status qg_may_write(const char *path, bool overwrite, struct qg_error *err)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return errno == ENOENT ? has_folder(path, err)
                               : qg_fail(err, QG_EIO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return qg_fail(err, QG_EIO, "%s: not a regular file, nothing was written", path);
    return overwrite ? QG_OK
                     : qg_fail(err, QG_EIO, "%s: the file exists, nothing was written", path);
}

static enum qg_status write_at(const struct qg_writer *w, const void *src, size_t n, size_t at,
                               struct qg_error *err)
{
    const char *p = src;
    while (n > 0) {
        ssize_t put = pwrite(w->fd, p, n < 1u << 30 ? n : 1u << 30, (off_t)at);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return qg_fail(err, QG_EIO, "%s: nothing was written: %s", w->path, strerror(errno));
        p += put, at += (size_t)put, n -= (size_t)put;
    }
    return QG_OK;
}

/* --- opening --------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    const struct qg_stored *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static enum qg_status check_unique(const struct qg_stored *t, size_t n, struct qg_error *err)
{
    struct qg_stored *sorted = malloc((n + 1) * sizeof *sorted);
    if (!sorted)
        return qg_fail(err, QG_ENOMEM, "no memory for %zu tensors", n);
    enum qg_status status = QG_OK;
    if (n)
        memcpy(sorted, t, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_name);
    for (size_t i = 1; i < n && status == QG_OK; i++)
        if (strcmp(sorted[i - 1].name, sorted[i].name) == 0)
            status = qg_fail(err, QG_EINVAL, "tensor '%.80s' is there twice", sorted[i].name);
    free(sorted);
    return status;
}

/* Whether the open .part has the size and the head of what is to be written. */
static bool is_same_file(const struct qg_writer *w, const void *head, size_t head_bytes)
{
    struct stat st;
    char piece[4096];
    if (fstat(w->fd, &st) != 0 || !S_ISREG(st.st_mode) || (size_t)st.st_size != w->size)
        return false;
    for (size_t at = 0; at < head_bytes;) {
        size_t left = head_bytes - at;
        ssize_t got = pread(w->fd, piece, left < sizeof piece ? left : sizeof piece, (off_t)at);
        if (got <= 0 || memcmp(piece, (const char *)head + at, (size_t)got) != 0)
            return false;
        at += (size_t)got;
    }
    return true;
}

/* Takes up what an interrupted run left, or removes it; a link is never followed. */
static enum qg_status take_up(struct qg_writer *w, const void *head, size_t head_bytes,
                              struct qg_error *err)
{
    w->fd = open(w->part, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (w->fd >= 0 && qg_file_lock(w->fd, w->part, err) != QG_OK)
        return err->status;
    w->resumed = w->fd >= 0 && w->flags & QG_WRITE_RESUME && is_same_file(w, head, head_bytes);
    w->made = w->resumed;
    if (w->resumed)
        return QG_OK;
    if (w->fd >= 0)
        close(w->fd);
    w->fd = -1;
    unlink(w->part);
    return QG_OK;
}

static enum qg_status make(struct qg_writer *w, const void *head, size_t head_bytes,
                           struct qg_error *err)
{
    w->fd = open(w->part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (w->fd < 0)
        return qg_fail(err, QG_EIO, "%s: %s", w->part, strerror(errno));
    w->made = true;
    if (qg_file_lock(w->fd, w->part, err) != QG_OK)
        return err->status;
    // A disk that is too full says so now, not after hours.
    int full = posix_fallocate(w->fd, 0, (off_t)w->size);
    return full ? qg_fail(err, QG_EIO, "%s: nothing was written: %s", w->path, strerror(full))
                : write_at(w, head, head_bytes, 0, err);
}

static enum qg_status set_up(struct qg_writer *w, const char *path, const struct qg_stored *t,
                             struct qg_error *err)
{
    size_t room = strlen(path) + sizeof ".part";
    w->path = strdup(path);
    w->part = malloc(room);
    w->slot = calloc(w->n + 1, sizeof *w->slot);
    if (!w->path || !w->part || !w->slot)
        return qg_fail(err, QG_ENOMEM, "%s: no memory", path);
    snprintf(w->part, room, "%s.part", path);
    for (size_t i = 0; i < w->n; i++) {
        w->slot[i].name = t[i].name;
        w->slot[i].at = t[i].at;
        w->slot[i].bytes = t[i].bytes;
    }
    return QG_OK;
}

enum qg_status qg_writer_open(const char *path, unsigned flags, const void *head, size_t head_bytes,
                              const struct qg_stored *t, size_t n, size_t size,
                              struct qg_writer **ret_w, struct qg_error *err)
{
    if (qg_may_write(path, flags & QG_WRITE_OVER, err) != QG_OK)
        return err->status;
    if (check_unique(t, n, err) != QG_OK)
        return qg_context(err, "%s", path);
    struct qg_writer *w = calloc(1, sizeof *w);
    if (!w)
        return qg_fail(err, QG_ENOMEM, "%s: no memory", path);
    *w = (struct qg_writer){.flags = flags, .fd = -1, .n = n, .size = size};
    if (set_up(w, path, t, err) == QG_OK && take_up(w, head, head_bytes, err) == QG_OK &&
        (w->resumed || make(w, head, head_bytes, err) == QG_OK)) {
        *ret_w = w;
        return QG_OK;
    }
    qg_writer_close(&w, false);
    return err->status;
}

/* --- writing --------------------------------------------------------------------------------- */

bool qg_writer_resumed(const struct qg_writer *w)
{
    return w->resumed;
}

void qg_writer_done(struct qg_writer *w, size_t i)
{
    atomic_store(&w->slot[i].written, w->slot[i].bytes);
}

enum qg_status qg_writer_put(struct qg_writer *w, size_t i, size_t at, const void *src, size_t n,
                             struct qg_error *err)
{
    struct slot *s = &w->slot[i];
    if (at > s->bytes || n > s->bytes - at)
        return qg_fail(err, QG_EINVAL, "%s: bytes %zu to %zu do not fit into tensor '%.80s' of %zu",
                       w->path, at, at + n, s->name, s->bytes);
    if (write_at(w, src, n, s->at + at, err) != QG_OK)
        return err->status;
    atomic_fetch_add(&s->written, n);
    return QG_OK;
}

enum qg_status qg_writer_finish(struct qg_writer *w, struct qg_error *err)
{
    for (size_t i = 0; i < w->n; i++)
        if (w->slot[i].written != w->slot[i].bytes)
            return qg_fail(err, QG_EINVAL,
                           "%s: nothing was written: of tensor '%.80s' there are %zu of %zu bytes",
                           w->path, w->slot[i].name, (size_t)w->slot[i].written, w->slot[i].bytes);
    if (qg_may_write(w->path, w->flags & QG_WRITE_OVER, err) != QG_OK)
        return err->status;
    if (fsync(w->fd) != 0 || rename(w->part, w->path) != 0)
        return qg_fail(err, QG_EIO, "%s: nothing was written: %s", w->path, strerror(errno));
    w->finished = true;
    return QG_OK;
}

void qg_writer_close(struct qg_writer **w, bool keep)
{
    if (!*w)
        return;
    if ((*w)->made && !(*w)->finished && !keep)
        unlink((*w)->part);
    if ((*w)->fd >= 0)
        close((*w)->fd);
    free((*w)->path);
    free((*w)->part);
    free((*w)->slot);
    free(*w);
    *w = NULL;
}

enum qg_status qg_write_text(const char *path, const char *text, unsigned flags,
                             struct qg_error *err)
{
    struct qg_writer *w = NULL;
    size_t n = strlen(text);
    enum qg_status status = qg_writer_open(path, flags, text, n, NULL, 0, n, &w, err);
    if (status == QG_OK)
        status = qg_writer_finish(w, err);
    qg_writer_close(&w, false);
    return status;
}
