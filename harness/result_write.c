/* SPDX-License-Identifier: MIT
 *
 * Writing results: a journal while the run goes on, then the file in one go. The file is made in
 * memory and written by us, so that a full disk is an error code and nothing worse.
 */
#include "harness/result_image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness/journal.h"

struct qg_result_writer {
    char *path, *journal;
    int fd;
    enum qg_result_mode mode;
    bool started;         /* the journal names its run */
    size_t resumed;       /* cases that an earlier run left */
    struct qg_result all; /* what the journal holds */
    size_t room[QG_TABLES], room_samples, room_output;
};

enum { ENTRY_RUN = 1, ENTRY_ROW }; // ENTRY_ROW + t: of table t

/* The first entry of a journal. */
struct run_entry {
    uint32_t schema, row_bytes[QG_TABLES];
    struct qg_meta meta;
};

/* Makes room for `more` elements behind the first n. */
static bool reserve(void **data, size_t *room, size_t n, size_t more, size_t size)
{
    if (more <= *room - n)
        return true;
    size_t want = n + more > 2 * *room ? n + more : 2 * *room;
    void *moved = want < SIZE_MAX / size ? realloc(*data, want * size) : NULL;
    if (!moved)
        return false;
    *data = moved;
    *room = want;
    return true;
}

static enum qg_status keep_row(struct qg_result_writer *w, enum qg_table_id t, const void *row,
                               struct qg_error *err)
{
    struct qg_rows rows = qg_result_rows(&w->all, t);
    size_t size = qg_tables[t].size;
    if (!reserve(&rows.at, &w->room[t], rows.n, 1, size))
        return qg_fail(err, QG_ENOMEM, "no memory for another result");
    memcpy((char *)rows.at + rows.n++ * size, row, size);
    qg_result_set_rows(&w->all, t, rows);
    return QG_OK;
}

static enum qg_status keep_case(struct qg_result_writer *w, const struct qg_record *r,
                                const double *samples, const void *output, struct qg_error *err)
{
    struct qg_result *all = &w->all;
    struct qg_record kept = *r;
    size_t ns = (size_t)r->samples_n, no = (size_t)r->output_n;
    kept.samples_at = all->n_samples;
    kept.output_at = all->n_output;
    if (!reserve((void **)&all->samples, &w->room_samples, all->n_samples, ns, sizeof *samples) ||
        !reserve((void **)&all->output, &w->room_output, all->n_output, no, 1))
        return qg_fail(err, QG_ENOMEM, "no memory for another result");
    if (keep_row(w, QG_TABLE_CASES, &kept, err) != QG_OK)
        return err->status;
    if (ns)
        memcpy(all->samples + all->n_samples, samples, ns * sizeof *samples);
    if (no)
        memcpy(all->output + all->n_output, output, no);
    all->n_samples += ns;
    all->n_output += no;
    return QG_OK;
}

/* Whether a record from a journal says of itself what an entry of that many bytes can hold. */
static bool case_fits(const struct qg_record *r, size_t bytes)
{
    size_t rest = bytes - sizeof *r;
    return r->output_n <= QG_OUTPUT_LIMIT && r->output_n <= rest &&
           (rest - r->output_n) % sizeof(double) == 0 &&
           r->samples_n == (rest - r->output_n) / sizeof(double) &&
           (uint64_t)r->warm.samples + r->cold.samples <= r->samples_n &&
           r->verdict < QG_VERDICT_COUNT;
}

static bool run_fits(const struct run_entry *run, size_t bytes)
{
    if (bytes != sizeof *run || run->schema != QG_SCHEMA_VERSION || run->meta.n > QG_META_ITEMS)
        return false;
    for (int t = 0; t < QG_TABLES; t++)
        if (run->row_bytes[t] != qg_tables[t].size)
            return false;
    return true;
}

static enum qg_status resume_entry(void *context, uint32_t kind, const void *payload, size_t bytes,
                                   struct qg_error *err)
{
    struct qg_result_writer *w = context;
    if (kind == ENTRY_RUN && !w->started && run_fits(payload, bytes)) {
        struct qg_meta *m = &w->all.meta;
        *m = ((const struct run_entry *)payload)->meta;
        for (size_t i = 0; i < m->n; i++)
            m->item[i].key[sizeof m->item[i].key - 1] =
                m->item[i].value[sizeof m->item[i].value - 1] = '\0';
        w->started = true;
        return QG_OK;
    }
    if (w->started && kind == ENTRY_ROW + QG_TABLE_CASES && bytes >= sizeof(struct qg_record) &&
        case_fits(payload, bytes)) {
        struct qg_record r = *(const struct qg_record *)payload;
        const double *samples = (const double *)((const struct qg_record *)payload + 1);
        qg_result_tidy(&r, qg_record_fields);
        return keep_case(w, &r, samples, samples + r.samples_n, err);
    }
    uint32_t t = kind - ENTRY_ROW;
    if (w->started && t != QG_TABLE_CASES && t < QG_TABLES && bytes == qg_tables[t].size) {
        enum qg_status status = keep_row(w, (enum qg_table_id)t, payload, err);
        struct qg_rows rows = qg_result_rows(&w->all, (enum qg_table_id)t);
        if (status == QG_OK)
            qg_result_tidy((char *)rows.at + (rows.n - 1) * bytes, qg_tables[t].fields);
        return status;
    }
    return qg_fail(err, QG_EFORMAT, "was written by another version; remove it to start again");
}

static enum qg_status check_same_run(const struct qg_result_writer *w, const struct qg_meta *meta,
                                     struct qg_error *err)
{
    static const char *const keys[] = {"suite", "weights", "tensors", "match", "seed", "binary"};
    if (!w->started)
        return qg_fail(err, QG_EFORMAT, "%s: holds no run; remove it to start again", w->journal);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const char *then = qg_meta_get(&w->all.meta, keys[i]), *now = qg_meta_get(meta, keys[i]);
        if (strcmp(then, now) != 0)
            return qg_fail(err, QG_EFORMAT,
                           "%s: belongs to a run with %s '%s', not '%s'; remove it to start again",
                           w->journal, keys[i], then, now);
    }
    return QG_OK;
}

static enum qg_status start_journal(struct qg_result_writer *w, const struct qg_meta *meta,
                                    struct qg_error *err)
{
    struct run_entry *run = calloc(1, sizeof *run);
    if (!run)
        return qg_fail(err, QG_ENOMEM, "no memory for a result");
    run->schema = QG_SCHEMA_VERSION;
    for (int t = 0; t < QG_TABLES; t++)
        run->row_bytes[t] = (uint32_t)qg_tables[t].size;
    run->meta = *meta;
    w->all.meta = *meta;
    w->started = true;
    enum qg_status status = qg_journal_create(w->journal, &w->fd, err);
    if (status == QG_OK)
        status = qg_journal_append(w->fd, w->journal, ENTRY_RUN,
                                   &(struct qg_piece){run, sizeof *run}, 1, err);
    if (status != QG_OK && w->fd >= 0)
        unlink(w->journal);
    free(run);
    return status;
}

static char *join(const char *a, const char *b)
{
    size_t n = strlen(a) + strlen(b) + 1;
    char *s = malloc(n);
    if (s)
        snprintf(s, n, "%s%s", a, b);
    return s;
}

/* Opens the file that rows are added to. */
static enum qg_status open_old(const char *path, const struct qg_meta *meta,
                               struct qg_result **ret_r, struct qg_error *err)
{
    if (qg_result_open(path, ret_r, err) != QG_OK)
        return err->status;
    if (strcmp(qg_meta_get(&(*ret_r)->meta, "binary"), qg_meta_get(meta, "binary")) == 0)
        return QG_OK;
    qg_result_free(ret_r);
    return qg_fail(err, QG_EFORMAT,
                   "%s: another build of qgauge made it, whose results are not to be mixed with "
                   "these; give another file",
                   path);
}

static enum qg_status check_old(const struct qg_result_writer *w, const struct qg_meta *meta,
                                struct qg_error *err)
{
    struct qg_result *old = NULL;
    if (access(w->path, F_OK) != 0)
        return QG_OK;
    if (w->mode == QG_RESULT_NEW)
        return qg_fail(err, QG_EIO, "%s: exists already; give another name or --force", w->path);
    enum qg_status status = w->mode == QG_RESULT_ADD ? open_old(w->path, meta, &old, err) : QG_OK;
    qg_result_free(&old);
    return status;
}

enum qg_status qg_result_create(const char *path, const struct qg_meta *meta, bool resume,
                                enum qg_result_mode mode, struct qg_result_writer **ret_w,
                                struct qg_error *err)
{
    char suffix[64] = ".journal";
    struct qg_result_writer *w = calloc(1, sizeof *w);
    if (!w)
        return qg_fail(err, QG_ENOMEM, "no memory for a result");
    if (mode == QG_RESULT_ADD)
        snprintf(suffix, sizeof suffix, ".%.32s.journal", qg_meta_get(meta, "suite"));
    w->fd = -1;
    w->mode = mode;
    w->path = join(path, "");
    w->journal = join(path, suffix);
    enum qg_status status = QG_OK;
    if (!w->path || !w->journal)
        status = qg_fail(err, QG_ENOMEM, "no memory for a result");
    else if (check_old(w, meta, err) != QG_OK)
        status = err->status;
    else if (resume && access(w->journal, F_OK) == 0) {
        status = qg_journal_resume(w->journal, resume_entry, w, &w->fd, err);
        w->resumed = w->all.n_cases;
        if (status == QG_OK)
            status = check_same_run(w, meta, err);
    } else
        status = start_journal(w, meta, err);
    if (status != QG_OK)
        qg_result_abandon(&w);
    else
        *ret_w = w;
    return status;
}

const char *qg_result_journal(const struct qg_result_writer *w)
{
    return w->journal;
}

bool qg_result_has(const struct qg_result_writer *w, const char *spelling)
{
    for (size_t i = 0; i < w->resumed; i++)
        if (strcmp(w->all.cases[i].spelling, spelling) == 0)
            return true;
    return false;
}

bool qg_result_has_gap(const struct qg_result_writer *w, const struct qg_gap *g)
{
    for (size_t i = 0; i < w->all.n_gaps; i++) {
        const struct qg_gap *h = &w->all.gaps[i];
        if (strcmp(g->scheme, h->scheme) == 0 && strcmp(g->params, h->params) == 0 &&
            strcmp(g->source, h->source) == 0 && strcmp(g->what, h->what) == 0 &&
            g->seed == h->seed)
            return true;
    }
    return false;
}

enum qg_status qg_result_append(struct qg_result_writer *w, const struct qg_record *r,
                                const double *samples, size_t n_samples, const void *output,
                                size_t output_bytes, struct qg_error *err)
{
    struct qg_record kept = *r;
    qg_result_tidy(&kept, qg_record_fields);
    if ((uint64_t)r->warm.samples + r->cold.samples > n_samples)
        return qg_fail(err, QG_EINVAL, "case '%s' counts more timing samples than it brings",
                       kept.spelling);
    if (r->verdict >= QG_VERDICT_COUNT)
        return qg_fail(err, QG_EINVAL, "case '%s' has no verdict", kept.spelling);
    kept.samples_n = n_samples;
    kept.output_n = output_bytes <= QG_OUTPUT_LIMIT ? output_bytes : 0;
    kept.samples_at = kept.output_at = 0;
    const struct qg_piece piece[] = {{&kept, sizeof kept},
                                     {samples, n_samples * sizeof *samples},
                                     {output, (size_t)kept.output_n}};
    if (qg_journal_append(w->fd, w->journal, ENTRY_ROW + QG_TABLE_CASES, piece, 3, err) != QG_OK)
        return err->status;
    return keep_case(w, &kept, samples, output, err);
}

enum qg_status qg_result_append_row(struct qg_result_writer *w, enum qg_table_id t, const void *row,
                                    struct qg_error *err)
{
    const struct qg_table *table = &qg_tables[t];
    void *kept = malloc(table->size);
    if (!kept)
        return qg_fail(err, QG_ENOMEM, "no memory for another result");
    memcpy(kept, row, table->size);
    qg_result_tidy(kept, table->fields);
    const struct qg_piece piece = {kept, table->size};
    enum qg_status status =
        qg_journal_append(w->fd, w->journal, ENTRY_ROW + (uint32_t)t, &piece, 1, err);
    if (status == QG_OK)
        status = keep_row(w, t, kept, err);
    free(kept);
    return status;
}

size_t qg_result_count(const struct qg_result_writer *w, enum qg_table_id t)
{
    return qg_result_rows(&w->all, t).n;
}

bool qg_result_has_atlas(const struct qg_result_writer *w, const struct qg_atlas *a)
{
    for (size_t i = 0; i < w->all.n_atlas; i++) {
        const struct qg_atlas *b = &w->all.atlas[i];
        if (strcmp(a->format, b->format) == 0 && strcmp(a->left, b->left) == 0 &&
            strcmp(a->right, b->right) == 0 && strcmp(a->source, b->source) == 0 &&
            a->seed == b->seed)
            return true;
    }
    return false;
}

const struct qg_modelled *qg_result_find_modelled(const struct qg_result_writer *w,
                                                  const struct qg_modelled *like)
{
    for (size_t i = 0; i < w->all.n_modelled; i++)
        if (qg_modelled_order(&w->all.modelled[i], like) == 0)
            return &w->all.modelled[i];
    return NULL;
}

void qg_result_abandon(struct qg_result_writer **w)
{
    if (!*w)
        return;
    if ((*w)->fd >= 0)
        close((*w)->fd);
    for (int t = 0; t < QG_TABLES; t++)
        free(qg_result_rows(&(*w)->all, (enum qg_table_id)t).at);
    free((*w)->all.samples);
    free((*w)->all.output);
    free((*w)->path);
    free((*w)->journal);
    free(*w);
    *w = NULL;
}

/* Makes the rename itself survive a loss of power. File systems that cannot do that are left alone.
 */
static void sync_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    int fd = folder ? open(folder, O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(folder);
}

/* PATH.part, then PATH: nobody ever sees half a file. */
static enum qg_status write_in_place(const char *path, bool overwrite, const void *data,
                                     size_t bytes, struct qg_error *err)
{
    char *part = join(path, ".part");
    if (!part)
        return qg_fail(err, QG_ENOMEM, "no memory for a result");
    enum qg_status status = QG_OK;
    int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        status = qg_fail(err, QG_EIO, "%s: %s", part, strerror(errno));
    else {
        status = qg_write_all(fd, part, data, bytes, err);
        if (status == QG_OK && fsync(fd) != 0)
            status = qg_fail(err, QG_EIO, "%s: sync: %s", part, strerror(errno));
        if (close(fd) != 0 && status == QG_OK)
            status = qg_fail(err, QG_EIO, "%s: close: %s", part, strerror(errno));
    }
    if (status == QG_OK && !overwrite && access(path, F_OK) == 0)
        status = qg_fail(err, QG_EIO, "%s: somebody else made it during the run", path);
    if (status == QG_OK && rename(part, path) != 0)
        status = qg_fail(err, QG_EIO, "%s: rename to %s: %s", part, path, strerror(errno));
    if (status != QG_OK && fd >= 0)
        unlink(part);
    if (status == QG_OK)
        sync_folder(path);
    free(part);
    return status;
}

static bool is_same(enum qg_table_id t, const void *a, const void *b)
{
    return (t == QG_TABLE_LM && qg_modelled_order(a, b) == 0) ||
           (t == QG_TABLE_PROXY && qg_foretold_order(a, b) == 0);
}

static bool has_row(const struct qg_result *r, enum qg_table_id t, const void *like)
{
    struct qg_rows rows = qg_result_rows(r, t);
    for (size_t i = 0; i < rows.n; i++)
        if (is_same(t, (const char *)rows.at + i * qg_tables[t].size, like))
            return true;
    return false;
}

/* Appends the rows of a table to the file's, whose rows of the same things go. */
static enum qg_status add_rows(const struct qg_result_writer *w, struct qg_result *old,
                               enum qg_table_id t, struct qg_error *err)
{
    struct qg_rows rows = qg_result_rows(old, t), new = qg_result_rows(&w->all, t);
    size_t size = qg_tables[t].size, n = 0;
    char *all = new.n ? malloc((rows.n + new.n) * size) : NULL;
    if (!new.n)
        return QG_OK;
    if (!all)
        return qg_fail(err, QG_ENOMEM, "no memory for %zu results", rows.n + new.n);
    for (size_t i = 0; i < rows.n; i++) {
        const char *row = (const char *)rows.at + i * size;
        if (!has_row(&w->all, t, row))
            memcpy(all + n++ * size, row, size);
    }
    memcpy(all + n * size, new.at, new.n *size);
    free(rows.at);
    qg_result_set_rows(old, t, (struct qg_rows){all, n + new.n});
    return QG_OK;
}

/* The bytes of the file: what the run found, or that and what the file holds already. */
static enum qg_status make_image(const struct qg_result_writer *w, void **ret_image, size_t *ret_n,
                                 struct qg_error *err)
{
    static const enum qg_table_id added[] = {QG_TABLE_LM, QG_TABLE_PROXY};
    struct qg_result *old = NULL;
    if (w->mode != QG_RESULT_ADD || access(w->path, F_OK) != 0)
        return qg_result_image_make(&w->all, ret_image, ret_n, err);
    enum qg_status status = open_old(w->path, &w->all.meta, &old, err);
    for (size_t i = 0; i < sizeof added / sizeof added[0] && status == QG_OK; i++)
        status = add_rows(w, old, added[i], err);
    if (status == QG_OK)
        status = qg_result_image_make(old, ret_image, ret_n, err);
    qg_result_free(&old);
    return status;
}

enum qg_status qg_result_close(struct qg_result_writer **w, struct qg_error *err)
{
    size_t bytes;
    void *image = NULL;
    enum qg_status status = make_image(*w, &image, &bytes, err);
    if (status == QG_OK)
        status = write_in_place((*w)->path, (*w)->mode != QG_RESULT_NEW, image, bytes, err);
    free(image);
    if (status == QG_OK && unlink((*w)->journal) != 0)
        status = qg_fail(err, QG_EIO, "%s: cannot be removed: %s", (*w)->journal, strerror(errno));
    else if (status != QG_OK) {
        char kept[sizeof err->message];
        memcpy(kept, err->message, sizeof kept);
        qg_fail(err, status, "%.300s; every result is kept in %.150s: go on with --resume", kept,
                (*w)->journal);
    }
    qg_result_abandon(w);
    return status;
}
