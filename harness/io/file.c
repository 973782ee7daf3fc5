/* SPDX-License-Identifier: MIT */
#include "harness/io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE ((size_t)1 << 30) /* Linux reads at most 2^31 - 4096 bytes at once */

enum qg_status qg_file_open(const char *path, struct qg_file *ret_f, struct qg_error *err)
{
    *ret_f = (struct qg_file){.fd = -1, .path = strdup(path)};
    if (!ret_f->path)
        return qg_fail(err, QG_ENOMEM, "no memory");
    ret_f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a FIFO must not keep us waiting
    if (ret_f->fd < 0 || fstat(ret_f->fd, &ret_f->was) != 0)
        return qg_fail(err, QG_EIO, "%s", strerror(errno));
    if (!S_ISREG(ret_f->was.st_mode))
        return qg_fail(err, QG_EFORMAT, "not a regular file");
    ret_f->size = (size_t)ret_f->was.st_size;
    return QG_OK;
}

void qg_file_close(struct qg_file *f)
{
    if (f->path && f->fd >= 0)
        close(f->fd);
    free(f->path);
    *f = (struct qg_file){.fd = -1};
}

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

enum qg_status qg_file_read(const struct qg_file *f, void *dst, size_t n, size_t at,
                            struct qg_error *err)
{
    struct stat open_one, named_one;
    char *p = dst;
    while (n > 0) {
        ssize_t got = pread(f->fd, p, n < PIECE ? n : PIECE, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return qg_fail(err, QG_EIO, "%s", strerror(errno));
        if (got == 0)
            return qg_fail(err, QG_EIO, "the file became shorter while it was read");
        p += got, at += (size_t)got, n -= (size_t)got;
    }
    // Asked afterwards, so that what was read is what the file held all the time.
    if (fstat(f->fd, &open_one) != 0 || stat(f->path, &named_one) != 0 ||
        !is_same(&f->was, &open_one) || !is_same(&f->was, &named_one))
        return qg_fail(err, QG_EIO,
                       "the file was changed or replaced while it was read; start again when "
                       "nobody writes it");
    return QG_OK;
}

enum qg_status qg_file_lock(int fd, const char *path, struct qg_error *err)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_SETLK, &whole) == 0)
        return QG_OK;
    if (errno == EACCES || errno == EAGAIN)
        return qg_fail(err, QG_EIO, "%s: another run is writing it", path);
    return qg_fail(err, QG_EIO, "%s: lock: %s", path, strerror(errno));
}
