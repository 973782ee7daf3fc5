/* SPDX-License-Identifier: MIT
 *
 * The result file: what result.h says, written and read with HDF5. The library's own complaints are
 * kept quiet and become sentences of ours. The file is made in memory and written by us, so that a
 * full disk is an error code and nothing worse; nothing in it depends on the clock.
 */
#include "harness/result.h"

#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/journal.h"

#define CHUNK_ROWS    64
#define CHUNK_BYTES   65536
#define MAX_CHUNK     ((size_t)1 << 26)
#define MAX_TYPE      ((size_t)1 << 16)
#define MAX_DATASET   ((uint64_t)1 << 33)
#define MAX_FILE      ((size_t)1 << 32)
#define DEFLATE_RATIO 1040 /* deflate cannot do better than 1032 : 1 */

/* --- HDF5 handles and complaints --- */

struct quiet {
    H5E_auto2_t print;
    void *data;
};

static struct quiet quiet_begin(void)
{
    struct quiet q = {0};
    H5Eget_auto2(H5E_DEFAULT, &q.print, &q.data);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    return q;
}

static void quiet_end(const struct quiet *q)
{
    H5Eset_auto2(H5E_DEFAULT, q->print, q->data);
}

/* Closes whatever kind of identifier it is; negative ones are failures and have nothing to close.
 */
static void drop(hid_t id)
{
    if (id >= 0)
        H5Idec_ref(id);
}

static hid_t text_type(size_t size)
{
    hid_t t = H5Tcopy(H5T_C_S1);
    H5Tset_size(t, size);
    H5Tset_strpad(t, H5T_STR_NULLPAD);
    H5Tset_cset(t, H5T_CSET_UTF8);
    return t;
}

static hid_t verdict_type(void)
{
    hid_t t = H5Tenum_create(H5T_NATIVE_UINT32);
    for (uint32_t v = 0; v < QG_VERDICT_COUNT; v++)
        H5Tenum_insert(t, qg_verdict_name(v), &v);
    return t;
}

static hid_t scalar_type(const struct qg_field *f)
{
    switch (f->kind) {
    case QG_FIELD_TEXT:
        return text_type(f->size);
    case QG_FIELD_VERDICT:
        return verdict_type();
    case QG_FIELD_U32:
        return H5Tcopy(H5T_NATIVE_UINT32);
    case QG_FIELD_U64:
        return H5Tcopy(H5T_NATIVE_UINT64);
    case QG_FIELD_I64:
        return H5Tcopy(H5T_NATIVE_INT64);
    default:
        return H5Tcopy(H5T_NATIVE_DOUBLE);
    }
}

/* The compound type of a row as it lies in memory. */
static hid_t row_type(const struct qg_field *fields, size_t size)
{
    hid_t row = H5Tcreate(H5T_COMPOUND, size);
    for (const struct qg_field *f = fields; f->name; f++) {
        hid_t t = scalar_type(f);
        if (f->count > 1) {
            hsize_t n = f->count;
            hid_t array = H5Tarray_create2(t, 1, &n);
            drop(t);
            t = array;
        }
        H5Tinsert(row, f->name, f->offset, t);
        drop(t);
    }
    return row;
}

/* --- writing --- */

struct qg_result_writer {
    char *path, *journal;
    int fd;
    bool overwrite, started; /* started: the journal names its run */
    struct qg_result all;    /* what the journal holds */
    size_t room_cases, room_gaps, room_samples, room_output;
};

enum { ENTRY_RUN = 1, ENTRY_CASE, ENTRY_GAP };

/* The first entry of a journal. */
struct run_entry {
    uint32_t schema, record_bytes, gap_bytes, spare;
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

/* Zeroes what lies behind the terminators: equal records become equal bytes. */
static void tidy(void *row, const struct qg_field *fields)
{
    for (const struct qg_field *f = fields; f->name; f++) {
        if (f->kind != QG_FIELD_TEXT)
            continue;
        char *text = (char *)row + f->offset;
        size_t n = strnlen(text, f->size - 1);
        memset(text + n, 0, f->size - n);
    }
}

static enum qg_status keep_case(struct qg_result_writer *w, const struct qg_record *r,
                                const double *samples, const void *output, struct qg_error *err)
{
    struct qg_result *all = &w->all;
    size_t ns = (size_t)r->samples_n, no = (size_t)r->output_n;
    if (!reserve((void **)&all->cases, &w->room_cases, all->n_cases, 1, sizeof *r) ||
        !reserve((void **)&all->samples, &w->room_samples, all->n_samples, ns, sizeof *samples) ||
        !reserve((void **)&all->output, &w->room_output, all->n_output, no, 1))
        return qg_fail(err, QG_ENOMEM, "no memory for another result");
    if (ns)
        memcpy(all->samples + all->n_samples, samples, ns * sizeof *samples);
    if (no)
        memcpy(all->output + all->n_output, output, no);
    all->cases[all->n_cases] = *r;
    all->cases[all->n_cases].samples_at = all->n_samples;
    all->cases[all->n_cases].output_at = all->n_output;
    all->n_cases++;
    all->n_samples += ns;
    all->n_output += no;
    return QG_OK;
}

static enum qg_status keep_gap(struct qg_result_writer *w, const struct qg_gap *g,
                               struct qg_error *err)
{
    if (!reserve((void **)&w->all.gaps, &w->room_gaps, w->all.n_gaps, 1, sizeof *g))
        return qg_fail(err, QG_ENOMEM, "no memory for another result");
    w->all.gaps[w->all.n_gaps++] = *g;
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
    return bytes == sizeof *run && run->schema == QG_SCHEMA_VERSION &&
           run->record_bytes == sizeof(struct qg_record) &&
           run->gap_bytes == sizeof(struct qg_gap) &&
           run->meta.n <= sizeof run->meta.item / sizeof run->meta.item[0];
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
    if (w->started && kind == ENTRY_CASE && bytes >= sizeof(struct qg_record) &&
        case_fits(payload, bytes)) {
        struct qg_record r = *(const struct qg_record *)payload;
        const double *samples = (const double *)((const struct qg_record *)payload + 1);
        tidy(&r, qg_record_fields);
        return keep_case(w, &r, samples, samples + r.samples_n, err);
    }
    if (w->started && kind == ENTRY_GAP && bytes == sizeof(struct qg_gap)) {
        struct qg_gap g = *(const struct qg_gap *)payload;
        tidy(&g, qg_gap_fields);
        return keep_gap(w, &g, err);
    }
    return qg_fail(err, QG_EFORMAT, "was written by another version; remove it to start again");
}

static enum qg_status check_same_run(const struct qg_result_writer *w, const struct qg_meta *meta,
                                     struct qg_error *err)
{
    static const char *const keys[] = {"suite", "seed", "binary"};
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
    run->record_bytes = sizeof(struct qg_record);
    run->gap_bytes = sizeof(struct qg_gap);
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

enum qg_status qg_result_create(const char *path, const struct qg_meta *meta, bool resume,
                                bool overwrite, struct qg_result_writer **ret_w,
                                struct qg_error *err)
{
    struct qg_result_writer *w = calloc(1, sizeof *w);
    if (!w)
        return qg_fail(err, QG_ENOMEM, "no memory for a result");
    w->fd = -1;
    w->overwrite = overwrite;
    w->path = join(path, "");
    w->journal = join(path, ".journal");
    enum qg_status status = QG_OK;
    if (!w->path || !w->journal)
        status = qg_fail(err, QG_ENOMEM, "no memory for a result");
    else if (!overwrite && access(path, F_OK) == 0)
        status = qg_fail(err, QG_EIO, "%s: exists already; give another name or --force", path);
    else if (resume && access(w->journal, F_OK) == 0) {
        status = qg_journal_resume(w->journal, resume_entry, w, &w->fd, err);
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

bool qg_result_has(const struct qg_result_writer *w, const char *spelling)
{
    for (size_t i = 0; i < w->all.n_cases; i++)
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

void qg_result_library(char *text, size_t size)
{
    unsigned major, minor, release;
    H5get_libversion(&major, &minor, &release);
    snprintf(text, size, "HDF5 %u.%u.%u", major, minor, release);
}

enum qg_status qg_result_append(struct qg_result_writer *w, const struct qg_record *r,
                                const double *samples, size_t n_samples, const void *output,
                                size_t output_bytes, struct qg_error *err)
{
    struct qg_record kept = *r;
    tidy(&kept, qg_record_fields);
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
    if (qg_journal_append(w->fd, w->journal, ENTRY_CASE, piece, 3, err) != QG_OK)
        return err->status;
    return keep_case(w, &kept, samples, output, err);
}

enum qg_status qg_result_append_gap(struct qg_result_writer *w, const struct qg_gap *g,
                                    struct qg_error *err)
{
    struct qg_gap kept = *g;
    tidy(&kept, qg_gap_fields);
    const struct qg_piece piece = {&kept, sizeof kept};
    if (qg_journal_append(w->fd, w->journal, ENTRY_GAP, &piece, 1, err) != QG_OK)
        return err->status;
    return keep_gap(w, &kept, err);
}

void qg_result_abandon(struct qg_result_writer **w)
{
    if (!*w)
        return;
    if ((*w)->fd >= 0)
        close((*w)->fd);
    free((*w)->all.cases);
    free((*w)->all.gaps);
    free((*w)->all.samples);
    free((*w)->all.output);
    free((*w)->path);
    free((*w)->journal);
    free(*w);
    *w = NULL;
}

/* One dimension, chunked, compressed and checksummed, without a time stamp. `memory` is the type in
 * memory; in the file it is packed. */
static bool put_dataset(hid_t file, const char *name, hid_t memory, size_t n, size_t chunk,
                        const void *data)
{
    hsize_t dim = n, max = H5S_UNLIMITED, piece = chunk;
    hid_t type = H5Tcopy(memory), space = H5Screate_simple(1, &dim, &max);
    hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
    bool ok = H5Tget_class(type) != H5T_COMPOUND || H5Tpack(type) >= 0;
    ok = ok && H5Pset_chunk(plist, 1, &piece) >= 0 && H5Pset_shuffle(plist) >= 0 &&
         H5Pset_deflate(plist, 6) >= 0 && H5Pset_fletcher32(plist) >= 0 &&
         H5Pset_obj_track_times(plist, false) >= 0;
    hid_t set = ok ? H5Dcreate2(file, name, type, space, H5P_DEFAULT, plist, H5P_DEFAULT) : -1;
    ok = set >= 0 && (n == 0 || H5Dwrite(set, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
    drop(set);
    drop(plist);
    drop(space);
    drop(type);
    return ok;
}

static bool put_rows(hid_t file, const char *name, const struct qg_field *fields, size_t size,
                     size_t n, const void *rows)
{
    hid_t type = row_type(fields, size);
    bool ok = put_dataset(file, name, type, n, CHUNK_ROWS, rows);
    drop(type);
    return ok;
}

static bool put_attribute(hid_t group, const char *name, hid_t type, const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t a = H5Acreate2(group, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool ok = a >= 0 && H5Awrite(a, type, value) >= 0;
    drop(a);
    drop(space);
    return ok;
}

static bool put_meta(hid_t file, const struct qg_meta *m)
{
    int version = QG_SCHEMA_VERSION;
    hid_t plist = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(plist, false);
    hid_t group = H5Gcreate2(file, "meta", H5P_DEFAULT, plist, H5P_DEFAULT);
    bool ok = group >= 0 && put_attribute(group, "schema_version", H5T_NATIVE_INT, &version);
    for (size_t i = 0; ok && i < m->n; i++) {
        hid_t type = text_type(strlen(m->item[i].value) + 1);
        ok = put_attribute(group, m->item[i].key, type, m->item[i].value);
        drop(type);
    }
    drop(group);
    drop(plist);
    return ok;
}

/* The whole file in memory that the caller frees; NULL when HDF5 or memory fails. */
static void *make_image(const struct qg_result *r, size_t *ret_bytes)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), create = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_fapl_core(access, 1 << 20, false);
    H5Pset_obj_track_times(create, false);
    hid_t file = H5Fcreate("results", H5F_ACC_TRUNC, create, access);
    bool ok = file >= 0 && put_meta(file, &r->meta) &&
              put_rows(file, "cases", qg_record_fields, sizeof *r->cases, r->n_cases, r->cases) &&
              put_dataset(file, "samples", H5T_NATIVE_DOUBLE, r->n_samples,
                          CHUNK_BYTES / sizeof(double), r->samples) &&
              put_dataset(file, "outputs", H5T_NATIVE_UINT8, r->n_output, CHUNK_BYTES, r->output) &&
              put_rows(file, "gap", qg_gap_fields, sizeof *r->gaps, r->n_gaps, r->gaps) &&
              H5Fflush(file, H5F_SCOPE_GLOBAL) >= 0;
    ssize_t n = ok ? H5Fget_file_image(file, NULL, 0) : -1;
    void *image = n > 0 ? malloc((size_t)n) : NULL;
    if (image && H5Fget_file_image(file, image, (size_t)n) != n) {
        free(image);
        image = NULL;
    }
    drop(file);
    drop(access);
    drop(create);
    *ret_bytes = (size_t)n;
    return image;
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

enum qg_status qg_result_close(struct qg_result_writer **w, struct qg_error *err)
{
    size_t bytes;
    struct quiet quiet = quiet_begin();
    void *image = make_image(&(*w)->all, &bytes);
    quiet_end(&quiet);
    enum qg_status status =
        image ? write_in_place((*w)->path, (*w)->overwrite, image, bytes, err)
              : qg_fail(err, QG_ENOMEM, "%s: HDF5 could not make the file", (*w)->path);
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

/* --- reading: nothing in the file is believed --- */

static enum qg_status bad(const char *path, const char *name, const char *what,
                          struct qg_error *err)
{
    return qg_fail(err, QG_EFORMAT, "%s: %s: %s; is it a results file of qgauge?", path, name,
                   what);
}

/* Only a hard link: others lead out of the file. */
static bool is_plain_link(hid_t file, const char *name)
{
    H5L_info_t info;
    return H5Lexists(file, name, H5P_DEFAULT) > 0 &&
           H5Lget_info(file, name, &info, H5P_DEFAULT) >= 0 && info.type == H5L_TYPE_HARD;
}

/* NULL when the way in which a dataset is stored is one that we write, else what is wrong. */
static const char *refuse_storage(hid_t set)
{
    hid_t plist = H5Dget_create_plist(set);
    const char *why = NULL;
    H5D_layout_t layout = H5Pget_layout(plist);
    hsize_t chunk = 0;
    if (plist < 0 || layout == H5D_VIRTUAL || layout == H5D_LAYOUT_ERROR ||
        H5Pget_external_count(plist) != 0)
        why = "its data lie outside this file";
    else if (layout == H5D_CHUNKED && (H5Pget_chunk(plist, 1, &chunk) != 1 || chunk > MAX_CHUNK))
        why = "its chunks are too large";
    for (int i = 0, n = why ? 0 : H5Pget_nfilters(plist); i < n; i++) {
        size_t parameters = 0;
        H5Z_filter_t f = H5Pget_filter2(plist, (unsigned)i, NULL, &parameters, NULL, 0, NULL, NULL);
        if (f != H5Z_FILTER_DEFLATE && f != H5Z_FILTER_SHUFFLE && f != H5Z_FILTER_FLETCHER32)
            why = "it needs a filter that result files do not use";
    }
    drop(plist);
    return why;
}

/* Whether a compound's members lie inside it and are texts and numbers: HDF5 1.10 does not check
 * the former and reads where it is told. */
static bool is_row(hid_t type)
{
    int n = H5Tget_class(type) == H5T_COMPOUND ? H5Tget_nmembers(type) : 0;
    size_t whole = H5Tget_size(type);
    for (int i = 0; i < n; i++) {
        hid_t member = H5Tget_member_type(type, (unsigned)i);
        size_t size = H5Tget_size(member), at = H5Tget_member_offset(type, (unsigned)i);
        hid_t inner = H5Tget_class(member) == H5T_ARRAY ? H5Tget_super(member) : H5Tcopy(member);
        H5T_class_t kind = H5Tget_class(inner);
        bool ok =
            size && size <= whole && at <= whole - size && H5Tis_variable_str(inner) == 0 &&
            (kind == H5T_STRING || kind == H5T_INTEGER || kind == H5T_FLOAT || kind == H5T_ENUM);
        drop(inner);
        drop(member);
        if (!ok)
            return false;
    }
    return n > 0;
}

/* How many elements a dataset has, or why it cannot be read. */
static const char *measure(hid_t set, hid_t type, hid_t space, size_t *ret_n)
{
    hsize_t dim = 0, stored = H5Dget_storage_size(set);
    size_t size = H5Tget_size(type);
    const char *why = refuse_storage(set);
    if (why)
        return why;
    if (H5Sget_simple_extent_ndims(space) != 1 || H5Sget_simple_extent_dims(space, &dim, NULL) != 1)
        return "has not one dimension";
    if (size == 0 || size > MAX_TYPE)
        return "its elements are too large";
    if (dim > MAX_DATASET / size || (double)dim * (double)size > (double)stored * DEFLATE_RATIO)
        return "claims more data than the file can hold";
    *ret_n = (size_t)dim;
    return NULL;
}

/* What a field that an older file does not have reads as. */
static void set_defaults(char *row, const struct qg_field *fields)
{
    for (const struct qg_field *f = fields; f->name; f++) {
        if (f->kind == QG_FIELD_F64)
            *(double *)(void *)(row + f->offset) = NAN;
        if (f->kind == QG_FIELD_I64)
            *(int64_t *)(void *)(row + f->offset) = -1;
    }
}

/* Reads dataset `name` as elements of `memory`; rows get the defaults of `fields` first. *ret_data
 * is the caller's to free. */
static enum qg_status get_dataset(hid_t file, const char *path, const char *name, hid_t memory,
                                  const struct qg_field *fields, void **ret_data, size_t *ret_n,
                                  struct qg_error *err)
{
    if (!is_plain_link(file, name))
        return bad(path, name, "is missing", err);
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    if (set < 0)
        return bad(path, name, "is damaged, or no dataset", err);
    hid_t type = H5Dget_type(set), space = H5Dget_space(set);
    size_t n = 0, size = H5Tget_size(memory);
    char *data = NULL;
    enum qg_status status = QG_OK;
    const char *why = measure(set, type, space, &n);
    if (why)
        status = bad(path, name, why, err);
    else if (fields && (!is_row(type) || H5Tget_member_index(type, fields[0].name) < 0))
        status = bad(path, name, "has not the columns of result rows", err);
    else if (n > MAX_DATASET / size || !(data = calloc(n ? n : 1, size)))
        status = qg_fail(err, QG_ENOMEM, "%s: %s: no memory for %zu elements", path, name, n);
    for (size_t i = 0; fields && data && i < n; i++)
        set_defaults(data + i * size, fields);
    if (data && n && H5Dread(set, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0) {
        status = bad(path, name, "cannot be read: damaged, or of another type", err);
        free(data);
        data = NULL;
    }
    drop(type);
    drop(space);
    drop(set);
    if (status == QG_OK) {
        *ret_data = data;
        *ret_n = n;
    }
    return status;
}

static enum qg_status get_rows(hid_t file, const char *path, const char *name,
                               const struct qg_field *fields, size_t size, void **ret_rows,
                               size_t *ret_n, struct qg_error *err)
{
    hid_t type = row_type(fields, size);
    enum qg_status status = get_dataset(file, path, name, type, fields, ret_rows, ret_n, err);
    drop(type);
    if (status != QG_OK)
        return status;
    for (size_t i = 0; i < *ret_n; i++)
        tidy((char *)*ret_rows + i * size, fields);
    return QG_OK;
}

/* Reads an attribute of one fixed-size text into `text`. */
static bool get_text(hid_t group, const char *name, char *text, size_t size)
{
    hid_t a = H5Aopen(group, name, H5P_DEFAULT);
    hid_t type = a >= 0 ? H5Aget_type(a) : -1, space = a >= 0 ? H5Aget_space(a) : -1;
    hid_t memory = text_type(size);
    bool ok = type >= 0 && H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 &&
              H5Sget_simple_extent_npoints(space) == 1 && H5Aread(a, memory, text) >= 0;
    text[ok ? size - 1 : 0] = '\0';
    drop(memory);
    drop(space);
    drop(type);
    drop(a);
    return ok;
}

static bool get_version(hid_t group, int *ret_version)
{
    if (H5Aexists(group, "schema_version") <= 0)
        return false;
    hid_t a = H5Aopen(group, "schema_version", H5P_DEFAULT);
    hid_t type = a >= 0 ? H5Aget_type(a) : -1, space = a >= 0 ? H5Aget_space(a) : -1;
    bool ok = type >= 0 && H5Tget_class(type) == H5T_INTEGER &&
              H5Sget_simple_extent_npoints(space) == 1 &&
              H5Aread(a, H5T_NATIVE_INT, ret_version) >= 0;
    drop(space);
    drop(type);
    drop(a);
    return ok;
}

struct meta_walk {
    struct qg_meta *meta;
    const char *what; /* what is wrong, or NULL */
};

static herr_t one_attribute(hid_t group, const char *name, const H5A_info_t *info, void *context)
{
    struct meta_walk *walk = context;
    struct qg_meta *m = walk->meta;
    if (strcmp(name, "schema_version") == 0)
        return 0;
    if (m->n == sizeof m->item / sizeof m->item[0] || strlen(name) >= sizeof m->item[0].key ||
        info->data_size > MAX_TYPE)
        walk->what = "too many or too long attributes";
    else if (!get_text(group, name, m->item[m->n].value, sizeof m->item[0].value))
        walk->what = "an attribute is no text of fixed size";
    else
        snprintf(m->item[m->n++].key, sizeof m->item[0].key, "%s", name);
    return walk->what ? 1 : 0;
}

static enum qg_status get_meta(hid_t file, const char *path, struct qg_meta *m,
                               struct qg_error *err)
{
    int version = 0;
    struct meta_walk walk = {.meta = m};
    hid_t group =
        is_plain_link(file, "meta") ? H5Gopen2(file, "meta", H5P_DEFAULT) : H5I_INVALID_HID;
    enum qg_status status = QG_OK;
    if (group < 0 || !get_version(group, &version) || version < 1)
        status = bad(path, "meta", "no schema version", err);
    else if (version > QG_SCHEMA_VERSION)
        status = qg_fail(err, QG_EFORMAT,
                         "%s: has schema version %d, this qgauge knows up to %d: use a newer one",
                         path, version, QG_SCHEMA_VERSION);
    else if (H5Aiterate2(group, H5_INDEX_NAME, H5_ITER_INC, NULL, one_attribute, &walk) != 0)
        status = bad(path, "meta", walk.what ? walk.what : "is damaged", err);
    drop(group);
    return status;
}

static bool within(uint64_t at, uint64_t n, size_t total)
{
    return at <= total && n <= total - at;
}

static enum qg_status check_cases(const struct qg_result *r, const char *path, struct qg_error *err)
{
    for (size_t i = 0; i < r->n_cases; i++) {
        const struct qg_record *c = &r->cases[i];
        if (!within(c->samples_at, c->samples_n, r->n_samples) ||
            !within(c->output_at, c->output_n, r->n_output) ||
            (uint64_t)c->warm.samples + c->cold.samples > c->samples_n)
            return qg_fail(err, QG_EFORMAT, "%s: cases: row %zu points outside the file", path, i);
        if (c->verdict >= QG_VERDICT_COUNT)
            return qg_fail(err, QG_EFORMAT, "%s: cases: row %zu has verdict %u, which is none",
                           path, i, c->verdict);
    }
    return QG_OK;
}

static enum qg_status get_all(hid_t file, const char *path, struct qg_result *r,
                              struct qg_error *err)
{
    void *cases = NULL, *gaps = NULL, *samples = NULL, *output = NULL;
    enum qg_status status = get_meta(file, path, &r->meta, err);
    if (status == QG_OK)
        status = get_rows(file, path, "cases", qg_record_fields, sizeof *r->cases, &cases,
                          &r->n_cases, err);
    if (status == QG_OK)
        status =
            get_rows(file, path, "gap", qg_gap_fields, sizeof *r->gaps, &gaps, &r->n_gaps, err);
    if (status == QG_OK)
        status = get_dataset(file, path, "samples", H5T_NATIVE_DOUBLE, NULL, &samples,
                             &r->n_samples, err);
    if (status == QG_OK)
        status =
            get_dataset(file, path, "outputs", H5T_NATIVE_UINT8, NULL, &output, &r->n_output, err);
    r->cases = cases;
    r->gaps = gaps;
    r->samples = samples;
    r->output = output;
    return status == QG_OK ? check_cases(r, path, err) : status;
}

/* The file is read once and opened from memory: it cannot change under our checks. */
static hid_t open_image(void *data, size_t bytes)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), file = H5I_INVALID_HID;
    if (H5Pset_fapl_core(access, 1 << 20, false) >= 0 &&
        H5Pset_file_image(access, data, bytes) >= 0)
        file = H5Fopen("results", H5F_ACC_RDONLY, access);
    drop(access);
    return file;
}

enum qg_status qg_result_open(const char *path, struct qg_result **ret_r, struct qg_error *err)
{
    static const unsigned char signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    void *data;
    size_t bytes;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return qg_fail(err, QG_EIO, "%s: %s", path, strerror(errno));
    enum qg_status status = qg_read_all(fd, path, MAX_FILE, &data, &bytes, err);
    close(fd);
    if (status != QG_OK)
        return status;
    struct qg_result *r = calloc(1, sizeof *r);
    struct quiet quiet = quiet_begin();
    hid_t file = H5I_INVALID_HID;
    if (!r)
        status = qg_fail(err, QG_ENOMEM, "no memory for a result");
    else if (bytes < sizeof signature || memcmp(data, signature, sizeof signature) != 0)
        status = qg_fail(err, QG_EFORMAT, "%s: is no HDF5 file", path);
    else if ((file = open_image(data, bytes)) < 0)
        status = qg_fail(err, QG_EFORMAT, "%s: damaged or cut short: HDF5 cannot open it", path);
    else
        status = get_all(file, path, r, err);
    drop(file);
    quiet_end(&quiet);
    free(data);
    if (status != QG_OK)
        qg_result_free(&r);
    else
        *ret_r = r;
    return status;
}

void qg_result_free(struct qg_result **r)
{
    if (!*r)
        return;
    free((*r)->cases);
    free((*r)->gaps);
    free((*r)->samples);
    free((*r)->output);
    free(*r);
    *r = NULL;
}
