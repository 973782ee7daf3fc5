/* SPDX-License-Identifier: MIT */
#include "harness/rewrite.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/convert/output.h"
#include "harness/io/writer.h"

enum { PATH_ROOM = 4096 };

struct rewrite {
    const struct qg_model *m;
    qg_rewrite_fn *change;
    void *user;
    size_t next; /* tensor of the model */
};

static enum qg_status system_refused(const char *path, struct qg_error *err)
{
    return qg_fail(err, QG_EIO, "%s: %s", path, strerror(errno));
}

static enum qg_status join(char *path, const char *folder, const char *name, struct qg_error *err)
{
    if (snprintf(path, PATH_ROOM, "%s/%s", folder, name) >= PATH_ROOM)
        return qg_fail(err, QG_EIO, "'%.200s/%.200s': the path is too long", folder, name);
    return QG_OK;
}

/* --- one file of tensors --------------------------------------------------------------------- */

static enum qg_status change_tensor(const struct rewrite *r, const struct qg_model_tensor *t,
                                    size_t i, struct qg_writer *w, struct qg_error *err)
{
    void *data = malloc(t->bytes + 1); // an empty tensor is no lack of memory
    enum qg_status status = data ? qg_model_load(r->m, t, data, err)
                                 : qg_fail(err, QG_ENOMEM, "no memory for '%s'", t->t.name);
    if (status == QG_OK)
        status = r->change(t, data, r->user, err);
    if (status == QG_OK)
        status = qg_writer_put(w, i, 0, data, t->bytes, err);
    free(data);
    return status;
}

/* The tensors of file number `file`, which are the model's next n, as a file holds them. */
static struct qg_stored *stored(const struct rewrite *r, size_t file, size_t *ret_n)
{
    const struct qg_model_tensor *t;
    size_t n = 0;
    while ((t = qg_model_at(r->m, r->next + n)) && t->file == file)
        n++;
    struct qg_stored *list = calloc(n + 1, sizeof *list);
    for (size_t i = 0; list && i < n; i++) {
        t = qg_model_at(r->m, r->next + i);
        list[i] = (struct qg_stored){t->t.name, t->dtype_word, t->rank, t->shape, t->bytes, t->at};
    }
    *ret_n = n;
    return list;
}

/* The bytes in front of the tensors, or all there are. */
static size_t head_bytes(const struct qg_file *f, const struct qg_stored *t, size_t n)
{
    size_t head = f->size;
    for (size_t i = 0; i < n; i++)
        head = t[i].at < head ? t[i].at : head;
    return head;
}

static enum qg_status rewrite_tensors(struct rewrite *r, struct qg_writer *w, size_t n,
                                      struct qg_error *err)
{
    for (size_t i = 0; i < n; i++, r->next++)
        if (change_tensor(r, qg_model_at(r->m, r->next), i, w, err) != QG_OK)
            return err->status;
    return qg_writer_finish(w, err);
}

static enum qg_status rewrite_opened(struct rewrite *r, const struct qg_file *f, size_t file,
                                     const char *to, struct qg_error *err)
{
    size_t n;
    struct qg_writer *w = NULL;
    struct qg_stored *t = stored(r, file, &n);
    size_t bytes = t ? head_bytes(f, t, n) : 0;
    char *head = malloc(bytes + 1);
    enum qg_status status = t && head ? qg_file_read(f, head, bytes, 0, err)
                                      : qg_fail(err, QG_ENOMEM, "%s: no memory", f->path);
    if (status == QG_OK)
        status = qg_writer_open(to, 0, head, bytes, t, n, f->size, &w, err);
    if (status == QG_OK)
        status = rewrite_tensors(r, w, n, err);
    qg_writer_close(&w, false);
    free(head);
    free(t);
    return status;
}

static enum qg_status rewrite_file(struct rewrite *r, size_t file, const char *to,
                                   struct qg_error *err)
{
    struct qg_file f;
    const char *from = qg_model_file(r->m, file);
    enum qg_status status = qg_file_open(from, &f, err);
    status = status == QG_OK ? rewrite_opened(r, &f, file, to, err) : qg_context(err, "%s", from);
    qg_file_close(&f);
    return status;
}

/* --- a folder -------------------------------------------------------------------------------- */

/* The files beside the weights; folders and hidden files stay behind. */
static enum qg_status copy_beside(const char *folder, const char *part, struct qg_error *err)
{
    DIR *d = opendir(folder);
    if (!d)
        return system_refused(folder, err);
    enum qg_status status = QG_OK;
    for (struct dirent *e; status == QG_OK && (e = readdir(d));) {
        char from[PATH_ROOM], to[PATH_ROOM];
        struct stat st;
        bool index = strstr(e->d_name, ".safetensors.index.json"); // it stays true
        if (e->d_name[0] == '.' || (qg_output_is_weights(e->d_name) && !index))
            continue;
        status = join(from, folder, e->d_name, err);
        if (status != QG_OK || stat(from, &st) != 0 || !S_ISREG(st.st_mode))
            continue;
        status = join(to, part, e->d_name, err);
        if (status == QG_OK)
            status = qg_output_copy_file(from, to, err);
    }
    closedir(d);
    return status;
}

static enum qg_status rewrite_shards(struct rewrite *r, const char *part, struct qg_error *err)
{
    const char *file;
    char to[PATH_ROOM];
    for (size_t i = 0; (file = qg_model_file(r->m, i)); i++) {
        const char *slash = strrchr(file, '/');
        if (join(to, part, slash ? slash + 1 : file, err) != QG_OK ||
            rewrite_file(r, i, to, err) != QG_OK)
            return err->status;
    }
    return QG_OK;
}

static enum qg_status rewrite_folder(struct rewrite *r, const char *path, const char *out,
                                     struct qg_error *err)
{
    char part[PATH_ROOM];
    struct stat st;
    if (snprintf(part, sizeof part, "%s.part", out) >= PATH_ROOM)
        return qg_fail(err, QG_EIO, "'%.200s...': the path is too long", out);
    if (lstat(out, &st) == 0)
        return qg_fail(err, QG_EIO, "%s exists, nothing was written", out);
    if (mkdir(part, 0777) != 0)
        return errno == EEXIST ? qg_fail(err, QG_EIO,
                                         "%s is in the way: delete what an "
                                         "interrupted run left there",
                                         part)
                               : system_refused(part, err);
    enum qg_status status = rewrite_shards(r, part, err);
    if (status == QG_OK)
        status = copy_beside(path, part, err);
    if (status == QG_OK && rename(part, out) != 0)
        status = system_refused(out, err);
    if (status != QG_OK)
        (void)!qg_output_remove_folder(part, &(struct qg_error){0});
    return status;
}

enum qg_status qg_rewrite(const struct qg_model *m, const char *path, const char *out,
                          qg_rewrite_fn *change, void *user, struct qg_error *err)
{
    struct rewrite r = {.m = m, .change = change, .user = user};
    struct stat st;
    char name[PATH_ROOM];
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/')
        n--;
    if (n >= sizeof name)
        return qg_fail(err, QG_EIO, "'%.200s...': the path is too long", out);
    memcpy(name, out, n);
    name[n] = '\0';
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode) ? rewrite_folder(&r, path, name, err)
                                                       : rewrite_file(&r, 0, name, err);
}
