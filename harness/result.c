/* SPDX-License-Identifier: MIT
 *
 * The bytes of a result file, to and from memory: the only part of the store that knows HDF5. The
 * library's own complaints are kept quiet and become sentences of ours; nothing depends on the
 * clock.
 */
#include "harness/result_image.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/io/quiet_hdf5.h"

/* HDF5 wants a name for a file in memory, and looks whether there is one on disk: there is none. */
#define IMAGE "/dev/null/results"

#define CHUNK_ROWS    64
#define CHUNK_BYTES   65536
#define MAX_CHUNK     ((size_t)1 << 26)
#define MAX_TYPE      ((size_t)1 << 16)
#define DEFLATE_RATIO 1040 /* deflate cannot do better than 1032 : 1 */

/* --- types --------------------------------------------------------------------------------- */

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
            qg_hdf5_drop(t);
            t = array;
        }
        H5Tinsert(row, f->name, f->offset, t);
        qg_hdf5_drop(t);
    }
    return row;
}

/* --- writing --------------------------------------------------------------------------------- */

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
    qg_hdf5_drop(set);
    qg_hdf5_drop(plist);
    qg_hdf5_drop(space);
    qg_hdf5_drop(type);
    return ok;
}

static bool put_tables(hid_t file, const struct qg_result *r)
{
    bool ok = true;
    for (int i = 0; ok && i < QG_TABLES; i++) {
        const struct qg_table *t = &qg_tables[i];
        struct qg_rows rows = qg_result_rows(r, (enum qg_table_id)i);
        hid_t type = row_type(t->fields, t->size);
        ok = put_dataset(file, t->name, type, rows.n, CHUNK_ROWS, rows.at);
        qg_hdf5_drop(type);
    }
    return ok;
}

static bool put_attribute(hid_t group, const char *name, hid_t type, const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t a = H5Acreate2(group, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool ok = a >= 0 && H5Awrite(a, type, value) >= 0;
    qg_hdf5_drop(a);
    qg_hdf5_drop(space);
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
        qg_hdf5_drop(type);
    }
    qg_hdf5_drop(group);
    qg_hdf5_drop(plist);
    return ok;
}

enum qg_status qg_result_image_make(const struct qg_result *r, void **ret_image, size_t *ret_bytes,
                                    struct qg_error *err)
{
    struct qg_quiet quiet = qg_quiet_begin();
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), create = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_fapl_core(access, 1 << 20, false);
    H5Pset_obj_track_times(create, false);
    hid_t file = H5Fcreate(IMAGE, H5F_ACC_TRUNC, create, access);
    bool ok = file >= 0 && put_meta(file, &r->meta) && put_tables(file, r) &&
              put_dataset(file, "samples", H5T_NATIVE_DOUBLE, r->n_samples,
                          CHUNK_BYTES / sizeof(double), r->samples) &&
              put_dataset(file, "outputs", H5T_NATIVE_UINT8, r->n_output, CHUNK_BYTES, r->output) &&
              H5Fflush(file, H5F_SCOPE_GLOBAL) >= 0;
    ssize_t n = ok ? H5Fget_file_image(file, NULL, 0) : -1;
    void *image = n > 0 ? malloc((size_t)n) : NULL;
    if (image && H5Fget_file_image(file, image, (size_t)n) != n) {
        free(image);
        image = NULL;
    }
    qg_hdf5_drop(file);
    qg_hdf5_drop(access);
    qg_hdf5_drop(create);
    qg_quiet_end(&quiet);
    if (!image)
        return qg_fail(err, QG_ENOMEM, "HDF5 could not make the file in memory");
    *ret_image = image;
    *ret_bytes = (size_t)n;
    return QG_OK;
}

/* --- reading: nothing in the file is believed ------------------------------------------------ */

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
    qg_hdf5_drop(plist);
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
        qg_hdf5_drop(inner);
        qg_hdf5_drop(member);
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
    if (dim > QG_RESULT_LIMIT / size || (double)dim * (double)size > (double)stored * DEFLATE_RATIO)
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
    else if (n > QG_RESULT_LIMIT / size || !(data = calloc(n ? n : 1, size)))
        status = qg_fail(err, QG_ENOMEM, "%s: %s: no memory for %zu elements", path, name, n);
    for (size_t i = 0; fields && data && i < n; i++)
        set_defaults(data + i * size, fields);
    if (data && n && H5Dread(set, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0) {
        status = bad(path, name, "cannot be read: damaged, or of another type", err);
        free(data);
        data = NULL;
    }
    qg_hdf5_drop(type);
    qg_hdf5_drop(space);
    qg_hdf5_drop(set);
    if (status == QG_OK) {
        *ret_data = data;
        *ret_n = n;
    }
    return status;
}

static enum qg_status get_table(hid_t file, const char *path, enum qg_table_id i,
                                struct qg_result *r, struct qg_error *err)
{
    const struct qg_table *t = &qg_tables[i];
    struct qg_rows rows = {0};
    hid_t type = row_type(t->fields, t->size);
    enum qg_status status =
        get_dataset(file, path, t->name, type, t->fields, &rows.at, &rows.n, err);
    qg_hdf5_drop(type);
    qg_result_set_rows(r, i, rows);
    return status;
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
    qg_hdf5_drop(memory);
    qg_hdf5_drop(space);
    qg_hdf5_drop(type);
    qg_hdf5_drop(a);
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
    qg_hdf5_drop(space);
    qg_hdf5_drop(type);
    qg_hdf5_drop(a);
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
    if (m->n == QG_META_ITEMS || strlen(name) >= sizeof m->item[0].key ||
        info->data_size > MAX_TYPE)
        walk->what = "too many or too long attributes";
    else if (!get_text(group, name, m->item[m->n].value, sizeof m->item[0].value))
        walk->what = "an attribute is no text of fixed size";
    else
        snprintf(m->item[m->n++].key, sizeof m->item[0].key, "%s", name);
    return walk->what ? 1 : 0;
}

static enum qg_status get_meta(hid_t file, const char *path, struct qg_meta *m, int *ret_version,
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
    qg_hdf5_drop(group);
    *ret_version = version;
    return status;
}

static enum qg_status get_all(hid_t file, const char *path, struct qg_result *r,
                              struct qg_error *err)
{
    void *samples = NULL, *output = NULL;
    int version;
    enum qg_status status = get_meta(file, path, &r->meta, &version, err);
    for (int i = 0; i < QG_TABLES && status == QG_OK; i++)
        if (version >= qg_tables[i].since)
            status = get_table(file, path, (enum qg_table_id)i, r, err);
    if (status == QG_OK)
        status = get_dataset(file, path, "samples", H5T_NATIVE_DOUBLE, NULL, &samples,
                             &r->n_samples, err);
    if (status == QG_OK)
        status =
            get_dataset(file, path, "outputs", H5T_NATIVE_UINT8, NULL, &output, &r->n_output, err);
    r->samples = samples;
    r->output = output;
    return status;
}

static hid_t open_image(void *data, size_t bytes)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), file = H5I_INVALID_HID;
    if (H5Pset_fapl_core(access, 1 << 20, false) >= 0 &&
        H5Pset_file_image(access, data, bytes) >= 0)
        file = H5Fopen(IMAGE, H5F_ACC_RDONLY, access);
    qg_hdf5_drop(access);
    return file;
}

enum qg_status qg_result_image_parse(void *image, size_t bytes, const char *path,
                                     struct qg_result **ret_r, struct qg_error *err)
{
    struct qg_result *r = calloc(1, sizeof *r);
    if (!r)
        return qg_fail(err, QG_ENOMEM, "no memory for a result");
    struct qg_quiet quiet = qg_quiet_begin();
    hid_t file = open_image(image, bytes);
    enum qg_status status =
        file < 0 ? qg_fail(err, QG_EFORMAT, "%s: damaged or cut short: HDF5 cannot open it", path)
                 : get_all(file, path, r, err);
    qg_hdf5_drop(file);
    qg_quiet_end(&quiet);
    if (status != QG_OK)
        qg_result_free(&r);
    else
        *ret_r = r;
    return status;
}

void qg_result_library(char *text, size_t size)
{
    unsigned major, minor, release;
    H5get_libversion(&major, &minor, &release);
    snprintf(text, size, "HDF5 %u.%u.%u", major, minor, release);
}
