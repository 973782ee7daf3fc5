/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* renameat2 */
#include "harness/convert/output.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/io/file.h"
#include "harness/io/gguf.h"
#include "harness/io/safetensors.h"
#include "harness/io/writer.h"
#include "harness/journal.h"

enum { KIND_INPUTS = 1, KIND_PLAN, KIND_DONE };

/* A finished assignment, in the journal. */
struct done {
    uint64_t owner;
    struct qg_quality quality;
};

struct noted {
    bool is;
    struct qg_quality quality;
};

/* A file that holds tensors: number first .. first + n. */
struct part {
    char *path; /* where it lies until the folder has its name */
    size_t first, n;
    struct qg_writer *writer; /* NULL: an earlier run has finished the file */
    bool fresh;               /* made by this run */
};

struct qg_output {
    struct qg_output_request q;
    const struct qg_output_tensor *t;
    size_t n;
    char *path, *part_path, *journal_path, *inputs;
    int journal; /* -1: not open */
    struct part *part;
    size_t n_parts, *part_of; /* of tensor i */
    struct noted *noted;      /* of each assignment, by an earlier run */
    size_t n_noted;
    int seen; /* entries of the journal */
    bool finished;
};

/* --- text ------------------------------------------------------------------------------------ */

static char *join(const char *a, const char *between, const char *b)
{
    size_t room = strlen(a) + strlen(between) + strlen(b) + 1;
    char *s = malloc(room);
    if (s)
        snprintf(s, room, "%s%s%s", a, between, b);
    return s;
}

/* Which boot of the machine this is; "" where the system does not tell. */
static void boot_of(char *text, size_t size)
{
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    text[0] = '\0';
    if (f && !fgets(text, (int)size, f))
        text[0] = '\0';
    if (f)
        fclose(f);
}

/* A line for each file of the model: size and time of modification; and the boot. */
static char *inputs_text(const struct qg_model *m)
{
    char *text = NULL, boot[64];
    size_t size;
    const char *path;
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return NULL;
    for (size_t i = 0; (path = qg_model_file(m, i)); i++) {
        struct stat st = {0};
        const char *name = strrchr(path, '/');
        if (stat(path, &st) != 0)
            st.st_size = -1;
        fprintf(f, "%s %lld %lld.%09ld\n", name ? name + 1 : path, (long long)st.st_size,
                (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    }
    boot_of(boot, sizeof boot);
    fprintf(f, "boot %s", boot);
    return fclose(f) == 0 ? text : NULL;
}

/* --- what is there --------------------------------------------------------------------------- */

enum qg_output_kind qg_output_kind_of(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot && strcmp(dot, ".gguf") == 0          ? QG_OUTPUT_GGUF
           : dot && strcmp(dot, ".safetensors") == 0 ? QG_OUTPUT_SAFETENSORS
                                                     : QG_OUTPUT_FOLDER;
}

bool qg_output_is_weights(const char *name)
{
    static const char *const endings[] = {
        ".safetensors", ".index.json", ".bin",  ".pt",   ".pth",  ".ckpt",   ".h5",
        ".npz",         ".msgpack",    ".onnx", ".gguf", ".part", ".journal"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        size_t e = strlen(endings[i]);
        if (n >= e && strcmp(name + n - e, endings[i]) == 0)
            return true;
    }
    return false;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Whether a conversion of the model writes a file of that name: weights as we name them, their
 * index, config.json, or a copy of what lies beside the model. */
static bool is_ours(const char *name, const char *beside)
{
    size_t n = strlen(name), e = strlen(".safetensors");
    char copied[4096];
    return strcmp(name, "config.json") == 0 || strcmp(name, "model.safetensors.index.json") == 0 ||
           (strncmp(name, "model", 5) == 0 && n > e && strcmp(name + n - e, ".safetensors") == 0) ||
           (snprintf(copied, sizeof copied, "%s/%s", beside, name) < (int)sizeof copied &&
            !qg_output_is_weights(name) && access(copied, F_OK) == 0);
}

/* A folder is replaced as a whole, so it must hold nothing but what a conversion wrote. */
static enum qg_status check_replaced(const char *path, const char *beside, struct qg_error *err)
{
    DIR *d = opendir(path);
    const struct dirent *e;
    enum qg_status status = d ? QG_OK : qg_fail(err, QG_EIO, "%s: %s", path, strerror(errno));
    while (status == QG_OK && (e = readdir(d))) {
        struct stat st;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode) ||
            !is_ours(e->d_name, beside))
            status = qg_fail(err, QG_EINVAL,
                             "%s: it holds '%.80s', which no conversion of this model writes; "
                             "nothing was written. Move it away, or choose another -o",
                             path, e->d_name);
    }
    if (d)
        closedir(d);
    return status;
}

/* The folder of a file, to be freed; NULL without memory. */
static char *folder_of(const char *file)
{
    const char *slash = strrchr(file, '/');
    return slash ? strndup(file, slash == file ? 1 : (size_t)(slash - file)) : strdup(".");
}

static enum qg_status check_folder(const char *path, const struct stat *out,
                                   const struct qg_model *model, struct qg_error *err)
{
    struct stat in;
    char *beside = folder_of(qg_model_file(model, 0));
    enum qg_status status = QG_OK;
    if (!beside)
        return qg_fail(err, QG_ENOMEM, "%s: no memory", path);
    if (stat(beside, &in) == 0 && same_file(&in, out))
        status = qg_fail(err, QG_EINVAL,
                         "%s: the model itself lies there, nothing was written; choose another -o",
                         path);
    else
        status = check_replaced(path, beside, err);
    free(beside);
    return status;
}

static enum qg_status check_file(const char *path, const struct stat *out,
                                 const struct qg_model *model, struct qg_error *err)
{
    const char *file;
    struct stat in;
    for (size_t i = 0; (file = qg_model_file(model, i)); i++)
        if (stat(file, &in) == 0 && same_file(&in, out))
            return qg_fail(
                err, QG_EINVAL,
                "%s: the model itself lies there, nothing was written; choose another -o", path);
    return QG_OK;
}

enum qg_status qg_output_may_write(const char *path, bool force, const struct qg_model *model,
                                   struct qg_error *err)
{
    struct stat out;
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    bool folder = qg_output_kind_of(path) == QG_OUTPUT_FOLDER;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(path, "/") == 0)
        return qg_fail(err, QG_EINVAL, "-o %s: name a folder that is to be made", path);
    if (lstat(path, &out) != 0)
        return errno == ENOENT ? QG_OK : qg_fail(err, QG_EIO, "%s: %s", path, strerror(errno));
    if (S_ISLNK(out.st_mode))
        return qg_fail(err, QG_EINVAL,
                       "%s: it is a symbolic link, nothing was written; name what it leads to",
                       path);
    if (!force)
        return qg_fail(err, QG_EIO, "%s: it exists, nothing was written; --force replaces it",
                       path);
    if (folder ? !S_ISDIR(out.st_mode) : !S_ISREG(out.st_mode))
        return qg_fail(err, QG_EINVAL, "%s: it exists and is no %s, nothing was written", path,
                       folder ? "folder" : "regular file");
    return folder ? check_folder(path, &out, model, err) : check_file(path, &out, model, err);
}

enum qg_status qg_output_remove_folder(const char *path, struct qg_error *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *e;
    if (!d) {
        int reason = errno;
        if (fd >= 0)
            close(fd);
        return reason == ENOENT ? QG_OK : qg_fail(err, QG_EIO, "%s: %s", path, strerror(reason));
    }
    while ((e = readdir(d)))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
    return rmdir(path) == 0
               ? QG_OK
               : qg_fail(err, QG_EIO, "%s: cannot be removed: %s", path, strerror(errno));
}

/* --- the journal ----------------------------------------------------------------------------- */

static enum qg_status compare(const void *payload, size_t bytes, const char *text, const char *what,
                              struct qg_error *err)
{
    if (bytes == strlen(text) && memcmp(payload, text, bytes) == 0)
        return QG_OK;
    return qg_fail(err, QG_EINVAL, "%s; start over without --resume", what);
}

static enum qg_status take_entry(void *context, uint32_t kind, const void *payload, size_t bytes,
                                 struct qg_error *err)
{
    struct qg_output *o = context;
    if (o->seen++ < 2 && kind == KIND_INPUTS)
        return compare(payload, bytes, o->inputs,
                       "the model's files changed since the conversion began, or the machine was "
                       "restarted",
                       err);
    if (kind == KIND_PLAN)
        return compare(payload, bytes, o->q.plan,
                       "the conversion was begun with another recipe, layout, option or version",
                       err);
    struct done d;
    if (kind != KIND_DONE || bytes != sizeof d)
        return qg_fail(err, QG_EFORMAT, "not the journal of a conversion");
    memcpy(&d, payload, sizeof d);
    if (d.owner >= o->n_noted)
        return qg_fail(err, QG_EFORMAT, "tensor %llu is none of the plan's",
                       (unsigned long long)d.owner);
    o->noted[d.owner] = (struct noted){true, d.quality};
    return QG_OK;
}

static enum qg_status append_text(struct qg_output *o, uint32_t kind, const char *text,
                                  struct qg_error *err)
{
    const struct qg_piece piece = {text, strlen(text)};
    return qg_journal_append(o->journal, o->journal_path, kind, &piece, 1, err);
}

static enum qg_status open_journal(struct qg_output *o, struct qg_error *err)
{
    if (o->q.resume) {
        if (access(o->journal_path, F_OK) != 0)
            return qg_fail(err, QG_EINVAL, "%s: there is no conversion to resume", o->journal_path);
        return qg_journal_resume(o->journal_path, take_entry, o, &o->journal, err);
    }
    unlink(o->journal_path);
    if (qg_journal_create(o->journal_path, &o->journal, err) != QG_OK ||
        append_text(o, KIND_INPUTS, o->inputs, err) != QG_OK)
        return err->status;
    return append_text(o, KIND_PLAN, o->q.plan, err);
}

/* --- files ----------------------------------------------------------------------------------- */

/* Deals the tensors out to files, the tensors of one assignment to the same. */
static enum qg_status deal(struct qg_output *o, struct qg_error *err)
{
    size_t in_file = 0;
    o->part = calloc(o->n + 1, sizeof *o->part);
    o->part_of = calloc(o->n + 1, sizeof *o->part_of);
    if (!o->part || !o->part_of)
        return qg_fail(err, QG_ENOMEM, "no memory for %zu tensors", o->n);
    o->n_parts = 1;
    for (size_t i = 0, end; i < o->n; i = end) {
        size_t bytes = 0;
        for (end = i; end < o->n && o->t[end].owner == o->t[i].owner; end++)
            bytes += o->t[end].slot.bytes;
        if (o->q.kind == QG_OUTPUT_FOLDER && in_file && in_file + bytes > o->q.shard) {
            in_file = 0;
            o->part[o->n_parts++].first = i;
        }
        in_file += bytes;
        struct part *p = &o->part[o->n_parts - 1];
        for (; i < end; i++, p->n++)
            o->part_of[i] = o->n_parts - 1;
    }
    return QG_OK;
}

static void file_name(const struct qg_output *o, size_t part, char *name, size_t size)
{
    if (o->n_parts == 1)
        snprintf(name, size, "model.safetensors");
    else
        snprintf(name, size, "model-%05zu-of-%05zu.safetensors", part + 1, o->n_parts);
}

static enum qg_status open_part(struct qg_output *o, size_t i, struct qg_error *err)
{
    struct part *p = &o->part[i];
    char name[64];
    unsigned flags = (o->q.resume ? QG_WRITE_RESUME : 0u) | (o->q.force ? QG_WRITE_OVER : 0u);
    file_name(o, i, name, sizeof name);
    p->path = o->q.kind == QG_OUTPUT_FOLDER ? join(o->part_path, "/", name) : strdup(o->path);
    struct qg_stored *stored = calloc(p->n + 1, sizeof *stored);
    if (!p->path || !stored) {
        free(stored);
        return qg_fail(err, QG_ENOMEM, "no memory for %zu tensors", p->n);
    }
    for (size_t k = 0; k < p->n; k++) {
        const struct qg_slot *s = &o->t[p->first + k].slot;
        stored[k] = (struct qg_stored){.name = s->name,
                                       .dtype = s->dtype_word,
                                       .rank = s->rank,
                                       .shape = s->shape,
                                       .bytes = s->bytes};
    }
    enum qg_status status = QG_OK;
    // Files of a folder take their names only when all is written: one that has it is finished.
    if (o->q.kind != QG_OUTPUT_FOLDER || !o->q.resume || access(p->path, F_OK) != 0) {
        status = o->q.kind == QG_OUTPUT_GGUF
                     ? qg_gguf_create(p->path, stored, p->n, o->q.gguf, flags, &p->writer, err)
                     : qg_safetensors_create(p->path, stored, p->n, o->q.metadata, flags,
                                             &p->writer, err);
        p->fresh = status == QG_OK && !qg_writer_resumed(p->writer);
    }
    free(stored);
    return status;
}

static enum qg_status open_parts(struct qg_output *o, struct qg_error *err)
{
    if (o->q.kind == QG_OUTPUT_FOLDER) {
        if (!o->q.resume && qg_output_remove_folder(o->part_path, err) != QG_OK)
            return err->status;
        if (mkdir(o->part_path, 0777) != 0 && !(o->q.resume && errno == EEXIST))
            return qg_fail(err, QG_EIO, "%s: %s", o->part_path, strerror(errno));
    }
    for (size_t i = 0; i < o->n_parts; i++)
        if (open_part(o, i, err) != QG_OK)
            return err->status;
    for (size_t i = 0; i < o->n; i++) {
        struct part *p = &o->part[o->part_of[i]];
        if (p->fresh) // whatever the journal says
            o->noted[o->t[i].owner].is = false;
        else if (p->writer && o->noted[o->t[i].owner].is)
            qg_writer_done(p->writer, i - p->first);
    }
    return QG_OK;
}

enum qg_status qg_output_open(const struct qg_output_request *q, const struct qg_output_tensor *t,
                              size_t n, struct qg_output **ret_o, struct qg_error *err)
{
    struct qg_output *o = calloc(1, sizeof *o);
    if (!o)
        return qg_fail(err, QG_ENOMEM, "%s: no memory", q->path);
    *o = (struct qg_output){.q = *q, .t = t, .n = n, .journal = -1};
    size_t length = strlen(q->path);
    while (length > 1 && q->path[length - 1] == '/')
        length--;
    o->path = strndup(q->path, length);
    o->part_path = o->path ? join(o->path, ".part", "") : NULL;
    o->journal_path = o->path ? join(o->path, ".part.journal", "") : NULL;
    o->inputs = inputs_text(q->model);
    o->n_noted = n ? t[n - 1].owner + 1 : 0;
    o->noted = calloc(o->n_noted + 1, sizeof *o->noted);
    enum qg_status status = o->part_path && o->journal_path && o->inputs && o->noted
                                ? QG_OK
                                : qg_fail(err, QG_ENOMEM, "%s: no memory", q->path);
    if (status == QG_OK)
        status = open_journal(o, err);
    bool ours = status == QG_OK; // what is not ours to go on with is not ours to remove
    if (status == QG_OK)
        status = deal(o, err);
    if (status == QG_OK)
        status = open_parts(o, err);
    if (status == QG_OK)
        *ret_o = o;
    else
        qg_output_close(&o, q->resume || !ours);
    return status;
}

bool qg_output_has(const struct qg_output *o, size_t owner, struct qg_quality *ret_q)
{
    if (owner >= o->n_noted || !o->noted[owner].is)
        return false;
    *ret_q = o->noted[owner].quality;
    return true;
}

enum qg_status qg_output_put(struct qg_output *o, size_t i, const void *data, struct qg_error *err)
{
    const struct part *p = &o->part[o->part_of[i]];
    if (!p->writer)
        return qg_fail(err, QG_EFORMAT,
                       "%s: finished, but the journal misses '%.80s' of it; start "
                       "over without --resume",
                       p->path, o->t[i].slot.name);
    return qg_writer_put(p->writer, i - p->first, 0, data, o->t[i].slot.bytes, err);
}

enum qg_status qg_output_done(struct qg_output *o, size_t owner, const struct qg_quality *q,
                              struct qg_error *err)
{
    struct done d;
    memset(&d, 0, sizeof d); // no stray bytes between members
    d.owner = owner;
    d.quality = *q;
    const struct qg_piece piece = {&d, sizeof d};
    return qg_journal_append(o->journal, o->journal_path, KIND_DONE, &piece, 1, err);
}

/* --- other files ----------------------------------------------------------------------------- */

/* What has the name is overwritten: a run that is resumed may have left it unfinished. */
static enum qg_status open_new(const char *path, int *ret_fd, struct qg_error *err)
{
    *ret_fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    return *ret_fd < 0 ? qg_fail(err, QG_EIO, "%s: %s", path, strerror(errno)) : QG_OK;
}

/* Puts what was written on the disk, where that went well; closes. */
static enum qg_status close_new(int fd, const char *path, enum qg_status status,
                                struct qg_error *err)
{
    if (status == QG_OK && fsync(fd) != 0)
        status = qg_fail(err, QG_EIO, "%s: %s", path, strerror(errno));
    close(fd);
    return status;
}

enum qg_status qg_output_text(struct qg_output *o, const char *name, const char *text,
                              struct qg_error *err)
{
    char *path = join(o->part_path, "/", name);
    int fd = -1;
    enum qg_status status =
        path ? open_new(path, &fd, err) : qg_fail(err, QG_ENOMEM, "no memory for a path");
    if (status == QG_OK)
        status = close_new(fd, path, qg_write_all(fd, path, text, strlen(text), err), err);
    free(path);
    return status;
}

static enum qg_status copy_opened(const struct qg_file *f, const char *to, struct qg_error *err)
{
    char piece[1 << 16];
    int fd = -1;
    enum qg_status status = open_new(to, &fd, err);
    if (status != QG_OK)
        return status;
    for (size_t at = 0, n; at < f->size && status == QG_OK; at += n) {
        n = f->size - at < sizeof piece ? f->size - at : sizeof piece;
        status = qg_file_read(f, piece, n, at, err);
        status =
            status == QG_OK ? qg_write_all(fd, to, piece, n, err) : qg_context(err, "%s", f->path);
    }
    return close_new(fd, to, status, err);
}

enum qg_status qg_output_copy_file(const char *from, const char *to, struct qg_error *err)
{
    struct qg_file f;
    enum qg_status status = qg_file_open(from, &f, err);
    status = status == QG_OK ? copy_opened(&f, to, err) : qg_context(err, "%s", from);
    qg_file_close(&f);
    return status;
}

enum qg_status qg_output_copy(struct qg_output *o, const char *folder, const char *name,
                              struct qg_error *err)
{
    char *from = join(folder, "/", name), *to = join(o->part_path, "/", name);
    enum qg_status status = from && to ? qg_output_copy_file(from, to, err)
                                       : qg_fail(err, QG_ENOMEM, "no memory for a path");
    free(from);
    free(to);
    return status;
}

/* --- the end --------------------------------------------------------------------------------- */

size_t qg_output_files(const struct qg_output *o)
{
    return o->n_parts;
}

size_t qg_output_bytes(const struct qg_output *o)
{
    size_t bytes = 0;
    for (size_t i = 0; i < o->n; i++)
        bytes += o->t[i].slot.bytes;
    return bytes;
}

static enum qg_status write_index(struct qg_output *o, struct qg_error *err)
{
    cJSON *index = cJSON_CreateObject();
    cJSON *about = cJSON_AddObjectToObject(index, "metadata");
    cJSON_AddNumberToObject(about, "total_size", (double)qg_output_bytes(o));
    cJSON *map = cJSON_AddObjectToObject(index, "weight_map");
    for (size_t i = 0; i < o->n; i++) {
        char name[64];
        file_name(o, o->part_of[i], name, sizeof name);
        cJSON_AddStringToObject(map, o->t[i].slot.name, name);
    }
    char *text = cJSON_Print(index);
    enum qg_status status = text ? qg_output_text(o, "model.safetensors.index.json", text, err)
                                 : qg_fail(err, QG_ENOMEM, "no memory for the index");
    cJSON_free(text);
    cJSON_Delete(index);
    return status;
}

/* The folder under its name, in one step also where another one has it. */
static enum qg_status name_folder(struct qg_output *o, struct qg_error *err)
{
    int fd = open(o->part_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool synced = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    if (!synced)
        return qg_fail(err, QG_EIO, "%s: %s", o->part_path, strerror(errno));
    if (access(o->path, F_OK) != 0)
        return rename(o->part_path, o->path) == 0
                   ? QG_OK
                   : qg_fail(err, QG_EIO, "%s: %s", o->path, strerror(errno));
    if (qg_output_may_write(o->path, o->q.force, o->q.model, err) != QG_OK)
        return err->status;
    if (renameat2(AT_FDCWD, o->part_path, AT_FDCWD, o->path, RENAME_EXCHANGE) != 0)
        return qg_fail(err, QG_EIO, "%s: %s", o->path, strerror(errno));
    return qg_output_remove_folder(o->part_path, err); // the old one, by now
}

enum qg_status qg_output_finish(struct qg_output *o, struct qg_error *err)
{
    for (size_t i = 0; i < o->n_parts; i++)
        if (o->part[i].writer && qg_writer_finish(o->part[i].writer, err) != QG_OK)
            return err->status;
    if (o->q.kind == QG_OUTPUT_FOLDER && o->n_parts > 1 && write_index(o, err) != QG_OK)
        return err->status;
    if (o->q.kind == QG_OUTPUT_FOLDER && name_folder(o, err) != QG_OK)
        return err->status;
    unlink(o->journal_path);
    o->finished = true;
    return QG_OK;
}

void qg_output_close(struct qg_output **output, bool keep)
{
    struct qg_output *o = *output;
    struct qg_error ignored;
    if (!o)
        return;
    for (size_t i = 0; i < o->n_parts && o->part; i++) {
        qg_writer_close(&o->part[i].writer, keep);
        free(o->part[i].path);
    }
    if (!o->finished && !keep) {
        if (o->q.kind == QG_OUTPUT_FOLDER)
            (void)!qg_output_remove_folder(o->part_path, &ignored);
        unlink(o->journal_path);
    }
    if (o->journal >= 0)
        close(o->journal);
    free(o->path);
    free(o->part_path);
    free(o->journal_path);
    free(o->inputs);
    free(o->part);
    free(o->part_of);
    free(o->noted);
    free(o);
    *output = NULL;
}
