/* SPDX-License-Identifier: MIT */
#include "harness/lm/logits.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness/compare.h"
#include "harness/io/quiet_hdf5.h"
#include "harness/journal.h"

enum {
    CHUNK_NUMBERS = 1 << 18, // of logits; a row of a large vocabulary may be more
    CHUNK_CACHE = 1 << 23,   // bytes: chunks that are half written
    KEY_MOST = 4096,
    BLOCK = 512, // bytes before HDF5's
};

struct qg_logits {
    pthread_mutex_t lock; // HDF5 takes one caller at a time
    hid_t file, set;
    char *path, *part; // path NULL: in memory; part: the file until it is finished
    struct qg_logits_shape shape;
    bool finished;
};

static enum qg_status make(const char *path, const struct qg_logits_shape *shape,
                           struct qg_logits **ret_l, struct qg_error *err)
{
    size_t size = (path ? strlen(path) : 0) + 48;
    struct qg_logits *l = calloc(1, sizeof *l);
    if (l) {
        l->file = l->set = H5I_INVALID_HID;
        l->shape = *shape;
        l->path = path ? strdup(path) : NULL;
        l->part = malloc(size);
        pthread_mutex_init(&l->lock, NULL);
    }
    if (!l || !l->part || (path && !l->path)) {
        qg_logits_close(&l);
        return qg_fail(err, QG_ENOMEM, "no memory for the logits of %zu windows", shape->windows);
    }
    if (path)
        snprintf(l->part, size, "%s.%ld.part", path, (long)getpid());
    else // HDF5 wants a name for a file in memory, and tells open files apart by it
        snprintf(l->part, size, "/dev/null/%p", (void *)l);
    *ret_l = l;
    return QG_OK;
}

static const char *name_of(const struct qg_logits *l)
{
    return l->path ? l->path : "logits in memory";
}

void qg_logits_close(struct qg_logits **l)
{
    if (!*l)
        return;
    struct qg_quiet quiet = qg_quiet_begin();
    qg_hdf5_drop((*l)->set);
    qg_hdf5_drop((*l)->file);
    qg_quiet_end(&quiet);
    if ((*l)->path && !(*l)->finished)
        unlink((*l)->part);
    pthread_mutex_destroy(&(*l)->lock);
    free((*l)->path);
    free((*l)->part);
    free(*l);
    *l = NULL;
}

/* --- making ---------------------------------------------------------------------------------- */

static hid_t text_type(size_t size)
{
    hid_t t = H5Tcopy(H5T_C_S1);
    H5Tset_size(t, size);
    return t;
}

static bool put_key(hid_t file, const char *key)
{
    hid_t type = text_type(strlen(key) + 1), space = H5Screate(H5S_SCALAR);
    hid_t a = H5Acreate2(file, "key", type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool ok = a >= 0 && H5Awrite(a, type, key) >= 0;
    qg_hdf5_drop(a);
    qg_hdf5_drop(space);
    qg_hdf5_drop(type);
    return ok;
}

static hid_t make_set(hid_t file, const struct qg_logits_shape *s)
{
    size_t fit = CHUNK_NUMBERS / s->vocab, rows = fit < 1 ? 1 : fit < s->context ? fit : s->context;
    hsize_t dim[] = {s->windows, s->context, s->vocab}, chunk[] = {1, rows, s->vocab};
    hid_t space = H5Screate_simple(3, dim, NULL), plist = H5Pcreate(H5P_DATASET_CREATE);
    hid_t access = H5Pcreate(H5P_DATASET_ACCESS), set = H5I_INVALID_HID;
    if (H5Pset_chunk(plist, 3, chunk) >= 0 && H5Pset_shuffle(plist) >= 0 &&
        H5Pset_deflate(plist, 1) >= 0 && H5Pset_fletcher32(plist) >= 0 &&
        H5Pset_chunk_cache(access, 521, CHUNK_CACHE, 1) >= 0)
        set = H5Dcreate2(file, "logits", H5T_NATIVE_FLOAT, space, H5P_DEFAULT, plist, access);
    qg_hdf5_drop(access);
    qg_hdf5_drop(plist);
    qg_hdf5_drop(space);
    return set;
}

enum qg_status qg_logits_create(const char *path, const char *key,
                                const struct qg_logits_shape *shape, struct qg_logits **ret_l,
                                struct qg_error *err)
{
    struct qg_logits *l;
    if (make(path, shape, &l, err) != QG_OK)
        return err->status;
    struct qg_quiet quiet = qg_quiet_begin();
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), create = H5Pcreate(H5P_FILE_CREATE);
    if ((path || H5Pset_fapl_core(access, (size_t)1 << 24, false) >= 0) &&
        H5Pset_userblock(create, BLOCK) >= 0)
        l->file = H5Fcreate(l->part, H5F_ACC_TRUNC, create, access);
    if (l->file >= 0 && put_key(l->file, key))
        l->set = make_set(l->file, shape);
    qg_hdf5_drop(create);
    qg_hdf5_drop(access);
    qg_quiet_end(&quiet);
    if (l->set < 0) {
        qg_fail(err, QG_EIO, "%s: cannot be made: %s", name_of(l), strerror(errno));
        qg_logits_close(&l);
        return err->status;
    }
    *ret_l = l;
    return QG_OK;
}

/* Rows of a window in the file and in memory. */
static bool select_rows(const struct qg_logits *l, size_t window, size_t first, size_t n,
                        hid_t *ret_file, hid_t *ret_memory)
{
    hsize_t at[] = {window, first, 0}, dim[] = {1, n, l->shape.vocab};
    *ret_file = H5Dget_space(l->set);
    *ret_memory = H5Screate_simple(3, dim, NULL);
    return *ret_memory >= 0 &&
           H5Sselect_hyperslab(*ret_file, H5S_SELECT_SET, at, NULL, dim, NULL) >= 0;
}

/* Moves rows in or out, one caller at a time. */
static bool transfer(struct qg_logits *l, size_t window, size_t first, size_t n, const float *in,
                     float *out)
{
    hid_t file, memory;
    pthread_mutex_lock(&l->lock);
    struct qg_quiet quiet = qg_quiet_begin();
    bool ok = select_rows(l, window, first, n, &file, &memory);
    if (ok && in)
        ok = H5Dwrite(l->set, H5T_NATIVE_FLOAT, memory, file, H5P_DEFAULT, in) >= 0;
    else if (ok)
        ok = H5Dread(l->set, H5T_NATIVE_FLOAT, memory, file, H5P_DEFAULT, out) >= 0;
    qg_hdf5_drop(memory);
    qg_hdf5_drop(file);
    qg_quiet_end(&quiet);
    pthread_mutex_unlock(&l->lock);
    return ok;
}

enum qg_status qg_logits_put(struct qg_logits *l, size_t window, size_t first, size_t n,
                             const float *rows, struct qg_error *err)
{
    return transfer(l, window, first, n, rows, NULL)
               ? QG_OK
               : qg_fail(err, QG_EIO, "%s: cannot be written: %s", name_of(l), strerror(errno));
}

/* What the first bytes of a finished file must be: the hash of all others. */
static enum qg_status spell_block(int fd, const char *path, char *block, struct qg_error *err)
{
    uint64_t hash = QG_HASH_START;
    unsigned char piece[1 << 14];
    off_t at = BLOCK;
    for (ssize_t n; (n = pread(fd, piece, sizeof piece, at)) != 0; at += n) {
        if (n < 0)
            return qg_fail(err, QG_EIO, "%s: %s", path, strerror(errno));
        hash = qg_hash(hash, piece, (size_t)n);
    }
    memset(block, 0, BLOCK);
    snprintf(block, BLOCK, "qgauge logits %016" PRIx64 "\n", hash);
    return QG_OK;
}

static enum qg_status stamp(const char *path, struct qg_error *err)
{
    char block[BLOCK];
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return qg_fail(err, QG_EIO, "%s: %s", path, strerror(errno));
    enum qg_status status = spell_block(fd, path, block, err);
    if (status == QG_OK)
        status = qg_write_all(fd, path, block, BLOCK, err);
    close(fd);
    return status;
}

static enum qg_status read_again(struct qg_logits *l, const char *path, struct qg_error *err)
{
    l->file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    l->set = l->file < 0 ? H5I_INVALID_HID : H5Dopen2(l->file, "logits", H5P_DEFAULT);
    return l->set >= 0 ? QG_OK : qg_fail(err, QG_EIO, "%s: cannot be read again", path);
}

enum qg_status qg_logits_finish(struct qg_logits *l, struct qg_error *err)
{
    enum qg_status status = QG_OK;
    if (!l->path)
        return QG_OK;
    struct qg_quiet quiet = qg_quiet_begin();
    bool whole = H5Fflush(l->file, H5F_SCOPE_LOCAL) >= 0;
    whole = H5Dclose(l->set) >= 0 && H5Fclose(l->file) >= 0 && whole;
    l->set = l->file = H5I_INVALID_HID;
    if (!whole)
        status = qg_fail(err, QG_EIO, "%s: cannot be written: %s", l->part, strerror(errno));
    if (status == QG_OK)
        status = stamp(l->part, err);
    if (status == QG_OK && rename(l->part, l->path) != 0)
        status = qg_fail(err, QG_EIO, "%s: %s", l->path, strerror(errno));
    l->finished = status == QG_OK;
    if (status == QG_OK)
        status = read_again(l, l->path, err);
    qg_quiet_end(&quiet);
    return status;
}

/* --- reading --------------------------------------------------------------------------------- */

static bool has_key(hid_t file, const char *key)
{
    char text[KEY_MOST] = "";
    size_t size = strlen(key) + 1;
    if (H5Aexists(file, "key") <= 0 || size > sizeof text)
        return false;
    hid_t a = H5Aopen(file, "key", H5P_DEFAULT), type = H5Aget_type(a), space = H5Aget_space(a);
    hid_t memory = text_type(size);
    bool ok = H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 &&
              H5Tget_size(type) == size && H5Sget_simple_extent_npoints(space) == 1 &&
              H5Aread(a, memory, text) >= 0 && strcmp(text, key) == 0;
    qg_hdf5_drop(memory);
    qg_hdf5_drop(space);
    qg_hdf5_drop(type);
    qg_hdf5_drop(a);
    return ok;
}

static bool has_shape(hid_t set, const struct qg_logits_shape *s)
{
    hsize_t dim[3] = {0};
    hid_t space = H5Dget_space(set);
    bool ok = H5Sget_simple_extent_ndims(space) == 3 &&
              H5Sget_simple_extent_dims(space, dim, NULL) == 3 && dim[0] == s->windows &&
              dim[1] == s->context && dim[2] == s->vocab;
    qg_hdf5_drop(space);
    return ok;
}

/* Whether the file is what was written, which HDF5 takes on trust. */
static enum qg_status check_block(const char *path, struct qg_error *err)
{
    char block[BLOCK], found[BLOCK];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return qg_fail(err, errno == ENOENT ? QG_EABSENT : QG_EIO, "%s: %s", path, strerror(errno));
    enum qg_status status = spell_block(fd, path, block, err);
    if (status == QG_OK &&
        (pread(fd, found, BLOCK, 0) != BLOCK || memcmp(block, found, BLOCK) != 0))
        status = qg_fail(err, QG_EFORMAT, "%s: is damaged, or not a file of logits", path);
    close(fd);
    return status;
}

enum qg_status qg_logits_open(const char *path, const char *key,
                              const struct qg_logits_shape *shape, struct qg_logits **ret_l,
                              struct qg_error *err)
{
    struct qg_logits *l;
    if (check_block(path, err) != QG_OK || make(path, shape, &l, err) != QG_OK)
        return err->status;
    struct qg_quiet quiet = qg_quiet_begin();
    l->finished = true;
    enum qg_status status = read_again(l, path, err);
    if (status == QG_OK && (!has_key(l->file, key) || !has_shape(l->set, shape)))
        status = qg_fail(err, QG_EFORMAT, "%s: holds the logits of something else", path);
    qg_quiet_end(&quiet);
    if (status == QG_OK)
        *ret_l = l;
    else
        qg_logits_close(&l);
    return status;
}

enum qg_status qg_logits_get(struct qg_logits *l, size_t window, size_t first, size_t n,
                             float *rows, struct qg_error *err)
{
    return transfer(l, window, first, n, NULL, rows)
               ? QG_OK
               : qg_fail(err, QG_EIO, "%s: window %zu, position %zu: cannot be read", name_of(l),
                         window, first);
}

size_t qg_logits_bytes(const struct qg_logits *l)
{
    return (size_t)H5Dget_storage_size(l->set);
}
