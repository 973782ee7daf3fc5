/* SPDX-License-Identifier: MIT
 *
 * Reads golden files. A file is read into memory once, hashed there and opened from there, so what
 * HDF5 parses is what the manifest vouches for. Only plain datasets are followed: no links to other
 * files, no external storage, no loaded filters.
 */
#include "golden/golden.h"

#include <dirent.h>
#include <errno.h>
#include <hdf5.h>
#include <math.h>
#include <sha256.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT      1024                /* longest attribute */
#define NAME      128                 /* longest file, set, operation or tensor name */
#define MAX_FILE  ((long)256 << 20)   /* bytes */
#define MAX_COUNT ((hsize_t)64 << 20) /* elements of a dataset */
#define MAX_LINES 4096                /* of a manifest */

struct entry {
    char name[NAME], sha256[SHA256_DIGEST_STRING_LENGTH];
};

struct qg_golden {
    char folder[TEXT];
    const char *only;
    struct entry *entries;
    size_t n_entries, next_entry;
    hid_t file;
    hsize_t n_sets, next_set, n_ops, next_op;
    char set[NAME], op[NAME], scheme[TEXT], operand[TEXT], dtype[TEXT], params[TEXT], library[TEXT],
        function[TEXT], note[TEXT], date[TEXT];
    char names[2 * QG_GOLDEN_TENSORS][NAME];
    struct qg_golden_case c;
};

/* --- the manifest and the bytes of a file ---------------------------------------------------- */

static enum qg_status read_manifest(struct qg_golden *g, struct qg_error *err)
{
    char path[TEXT + NAME], line[2 * TEXT];
    snprintf(path, sizeof path, "%s/MANIFEST.tsv", g->folder);
    FILE *f = fopen(path, "r");
    if (!f)
        return qg_fail(err, QG_EABSENT, "golden manifest '%s': %s", path, strerror(errno));
    g->entries = calloc(MAX_LINES, sizeof *g->entries);
    enum qg_status status = QG_OK;
    if (!g->entries)
        status = qg_fail(err, QG_ENOMEM, "golden manifest '%s': no memory", path);
    for (int n = 1; status == QG_OK && fgets(line, sizeof line, f); n++) {
        struct entry *e = &g->entries[g->n_entries];
        if (n == 1) // the names of the columns
            continue;
        if (g->n_entries == MAX_LINES ||
            sscanf(line, "%127[^\t/]\t%64[0-9a-f]\t", e->name, e->sha256) != 2 ||
            strlen(e->sha256) != 64 || e->name[0] == '.')
            status = qg_fail(err, QG_EFORMAT,
                             "golden manifest '%s', line %d: want FILE, SHA256, ... "
                             "separated by tabs",
                             path, n);
        g->n_entries++;
    }
    if (status == QG_OK && ferror(f))
        status = qg_fail(err, QG_EIO, "golden manifest '%s': %s", path, strerror(errno));
    if (status == QG_OK && g->n_entries == 0)
        status = qg_fail(err, QG_EABSENT, "golden manifest '%s' lists no file", path);
    fclose(f);
    return status;
}

static bool is_listed(const struct qg_golden *g, const char *name)
{
    for (size_t i = 0; i < g->n_entries; i++)
        if (strcmp(g->entries[i].name, name) == 0)
            return true;
    return false;
}

static enum qg_status check_folder(const struct qg_golden *g, struct qg_error *err)
{
    DIR *d = opendir(g->folder);
    if (!d)
        return qg_fail(err, QG_EABSENT, "golden folder '%s': %s", g->folder, strerror(errno));
    enum qg_status status = QG_OK;
    for (struct dirent *e; status == QG_OK && (e = readdir(d));) {
        const char *dot = strrchr(e->d_name, '.');
        if (dot && strcmp(dot, ".h5") == 0 && !is_listed(g, e->d_name))
            status =
                qg_fail(err, QG_EFORMAT,
                        "golden '%s' is not in MANIFEST.tsv; nobody vouches for it", e->d_name);
    }
    closedir(d);
    return status;
}

/* Reads the whole file and checks its sha256. The caller frees *ret_bytes. */
static enum qg_status load(const char *folder, const struct entry *e, unsigned char **ret_bytes,
                           size_t *ret_n, struct qg_error *err)
{
    char path[TEXT + 2 * NAME], sum[SHA256_DIGEST_STRING_LENGTH];
    snprintf(path, sizeof path, "%s/%s", folder, e->name);
    FILE *f = fopen(path, "rb");
    if (!f)
        return qg_fail(err, QG_EABSENT, "golden '%s': %s", path, strerror(errno));
    long n = fseek(f, 0, SEEK_END) == 0 ? ftell(f) : -1;
    if (n <= 0 || n > MAX_FILE || fseek(f, 0, SEEK_SET) != 0) {
        fclose(f);
        return qg_fail(err, QG_EFORMAT, "golden '%s': not a file of 1 byte to 256 MiB", path);
    }
    unsigned char *bytes = malloc((size_t)n);
    size_t got = bytes ? fread(bytes, 1, (size_t)n, f) : 0;
    fclose(f);
    if (got != (size_t)n) {
        free(bytes);
        return qg_fail(err, bytes ? QG_EIO : QG_ENOMEM, "golden '%s': cannot read %ld bytes", path,
                       n);
    }
    SHA256Data(bytes, got, sum);
    if (strcmp(sum, e->sha256) != 0) {
        free(bytes);
        return qg_fail(err, QG_EFORMAT,
                       "golden '%s': sha256 is %.16s..., the manifest says %.16s...; "
                       "restore the file or regenerate the goldens",
                       path, sum, e->sha256);
    }
    *ret_bytes = bytes;
    *ret_n = got;
    return QG_OK;
}

/* --- HDF5 ------------------------------------------------------------------------------------ */

static enum qg_status open_image(const char *folder, const struct entry *e, hid_t *ret_file,
                                 struct qg_error *err)
{
    unsigned char *bytes;
    size_t n;
    if (load(folder, e, &bytes, &n, err) != QG_OK)
        return err->status;
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    H5PLset_loading_state(0);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    hid_t file = H5I_INVALID_HID;
    if (H5Pset_fapl_core(access, 1 << 16, false) >= 0 && H5Pset_file_image(access, bytes, n) >= 0)
        file = H5Fopen("/dev/null/golden", H5F_ACC_RDONLY, access); // a name that no file has
    H5Pclose(access);
    free(bytes);
    if (file < 0)
        return qg_fail(err, QG_EFORMAT, "golden '%s' is not an HDF5 file", e->name);
    *ret_file = file;
    return QG_OK;
}

/* Name of link i of a group, which must be a hard link. False when it is not, or too long. */
static bool link_name(hid_t group, hsize_t i, char name[NAME])
{
    H5L_info_t info;
    ssize_t n =
        H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, name, NAME, H5P_DEFAULT);
    return n > 0 && n < NAME && H5Lget_info(group, name, &info, H5P_DEFAULT) >= 0 &&
           info.type == H5L_TYPE_HARD;
}

/* Opens a child that is a hard link to an object of that type, else H5I_INVALID_HID. */
static hid_t open_child(hid_t parent, const char *name, H5I_type_t type)
{
    H5L_info_t info;
    if (H5Lexists(parent, name, H5P_DEFAULT) <= 0 ||
        H5Lget_info(parent, name, &info, H5P_DEFAULT) < 0 || info.type != H5L_TYPE_HARD)
        return H5I_INVALID_HID;
    hid_t id = H5Oopen(parent, name, H5P_DEFAULT);
    if (id >= 0 && H5Iget_type(id) == type)
        return id;
    if (id >= 0)
        H5Oclose(id);
    return H5I_INVALID_HID;
}

static hsize_t count_links(hid_t group)
{
    H5G_info_t info;
    return H5Gget_info(group, &info) < 0 ? 0 : info.nlinks;
}

/* A string attribute of fixed length. */
static bool read_text(hid_t object, const char *name, char text[TEXT])
{
    if (H5Aexists(object, name) <= 0)
        return false;
    hid_t a = H5Aopen(object, name, H5P_DEFAULT), space = H5Aget_space(a), type = H5Aget_type(a);
    size_t n = H5Tget_size(type);
    bool good = H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 && n < TEXT &&
                H5Sget_simple_extent_npoints(space) == 1;
    if (good) {
        memset(text, 0, TEXT);
        good = H5Aread(a, type, text) >= 0;
    }
    H5Tclose(type);
    H5Sclose(space);
    H5Aclose(a);
    return good;
}

/* A numeric attribute, as `memory` type, into *ret_value. */
static bool read_number(hid_t object, const char *name, H5T_class_t class, hid_t memory,
                        void *ret_value)
{
    if (H5Aexists(object, name) <= 0)
        return false;
    hid_t a = H5Aopen(object, name, H5P_DEFAULT), space = H5Aget_space(a), type = H5Aget_type(a);
    bool good = H5Tget_class(type) == class && H5Sget_simple_extent_npoints(space) == 1 &&
                H5Aread(a, memory, ret_value) >= 0;
    H5Tclose(type);
    H5Sclose(space);
    H5Aclose(a);
    return good;
}

/* The type in memory of a dtype's bits, when the dataset's type is the one that golden.h says. */
static hid_t memory_type(hid_t data, enum qg_dtype t)
{
    hid_t type = H5Dget_type(data);
    size_t size = H5Tget_size(type);
    bool real = H5Tget_class(type) == H5T_FLOAT;
    bool whole = H5Tget_class(type) == H5T_INTEGER;
    bool negative = whole && H5Tget_sign(type) != H5T_SGN_NONE;
    H5Tclose(type);
    if (size != qg_dtype_bytes(t) || real != (t == QG_F32) ||
        (!real && (!whole || negative != (t == QG_I8 || t == QG_I16 || t == QG_I32))))
        return H5I_INVALID_HID;
    return t == QG_F32                   ? H5T_NATIVE_FLOAT
           : t == QG_BF16 || t == QG_F16 ? H5T_NATIVE_UINT16
           : t == QG_I8                  ? H5T_NATIVE_INT8
           : t == QG_I16                 ? H5T_NATIVE_INT16
           : t == QG_I32                 ? H5T_NATIVE_INT32
                                         : H5T_NATIVE_UINT8;
}

static const char *const dtype_words[] = {"F32",     "BF16", "F16", "F8_E4M3", "F8_E5M2",
                                          "F8_E8M0", "I8",   "U8",  "I16",     "I32"};

static bool read_dtype(hid_t data, enum qg_dtype *ret_t)
{
    char word[TEXT];
    if (!read_text(data, "dtype", word))
        return false;
    for (int t = 0; t < QG_DTYPE_COUNT; t++)
        if (strcmp(word, dtype_words[t]) == 0) {
            *ret_t = (enum qg_dtype)t;
            return true;
        }
    return false;
}

/* Rank and shape of a chunked dataset. False for anything odd. */
static bool read_shape(hid_t data, int *ret_rank, size_t shape[QG_MAX_RANK])
{
    hid_t space = H5Dget_space(data), plist = H5Dget_create_plist(data);
    hsize_t extent[QG_MAX_RANK], count = 1;
    int rank = H5Sget_simple_extent_ndims(space);
    bool good = H5Pget_layout(plist) == H5D_CHUNKED && rank >= 1 && rank <= QG_MAX_RANK &&
                H5Sget_simple_extent_dims(space, extent, NULL) == rank;
    *ret_rank = good ? rank : 0;
    for (int d = 0; good && d < rank; d++) {
        good = extent[d] > 0 && extent[d] <= MAX_COUNT / count;
        count *= good ? extent[d] : 1;
        shape[d] = (size_t)extent[d];
    }
    H5Pclose(plist);
    H5Sclose(space);
    return good;
}

/* Shape and dtype of a dataset into *t, whose data stays NULL. False for anything odd. */
static bool describe(hid_t data, struct qg_tensor *t)
{
    return read_dtype(data, &t->dtype) && read_shape(data, &t->rank, t->shape);
}

/* Reads a dataset into memory of its own, which the caller frees. */
static bool read_tensor(hid_t parent, const char *name, struct qg_tensor *t)
{
    hid_t data = open_child(parent, name, H5I_DATASET);
    if (data < 0)
        return false;
    bool good = describe(data, t);
    hid_t memory = good ? memory_type(data, t->dtype) : H5I_INVALID_HID;
    void *bytes = memory >= 0 ? malloc(qg_bytes(t)) : NULL;
    good = bytes && H5Dread(data, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes) >= 0;
    H5Dclose(data);
    if (!good)
        free(bytes);
    else
        t->data = bytes;
    return good;
}

/* --- cases ----------------------------------------------------------------------------------- */

static void clear_case(struct qg_golden *g)
{
    for (int i = 0; i < g->c.n_in; i++)
        free(g->c.in[i].data);
    for (int i = 0; i < g->c.n_out; i++)
        free(g->c.out[i].data);
    memset(&g->c, 0, sizeof g->c);
}

static enum qg_status bad(const struct qg_golden *g, const char *what, struct qg_error *err)
{
    return qg_fail(err, QG_EFORMAT, "golden '%s', set '%s', operation '%s': %s",
                   g->entries[g->next_entry - 1].name, g->set, g->op, what);
}

/* All tensors of OP/in or OP/out. */
static bool read_side(hid_t op, const char *side, char (*names)[NAME], struct qg_tensor *tensors,
                      int *n)
{
    hid_t group = open_child(op, side, H5I_GROUP);
    if (group < 0)
        return false;
    hsize_t links = count_links(group);
    bool good = links >= 1 && links <= QG_GOLDEN_TENSORS;
    for (hsize_t i = 0; good && i < links; i++) {
        struct qg_tensor t = {.name = names[i]};
        good = link_name(group, i, names[i]) && read_tensor(group, names[i], &t);
        if (good)
            tensors[(*n)++] = t;
    }
    H5Gclose(group);
    return good;
}

static enum qg_status read_case(struct qg_golden *g, hid_t set, struct qg_error *err)
{
    struct qg_golden_case *c = &g->c;
    hid_t op = open_child(set, g->op, H5I_GROUP);
    if (op < 0)
        return bad(g, "not a group", err);
    bool text = read_text(set, "operand", g->operand) && read_text(set, "dtype", g->dtype) &&
                read_text(set, "params", g->params) && read_text(set, "date", g->date) &&
                read_text(op, "library", g->library) && read_text(op, "function", g->function) &&
                read_text(op, "note", g->note) &&
                read_number(set, "seed", H5T_INTEGER, H5T_NATIVE_INT64, &c->seed);
    bool data = read_side(op, "in", g->names, c->in, &c->n_in) &&
                read_side(op, "out", g->names + QG_GOLDEN_TENSORS, c->out, &c->n_out);
    H5Gclose(op);
    if (!text)
        return bad(
            g, "an attribute is missing or not a string of fixed length; see golden/golden.h", err);
    if (!data)
        return bad(g, "the tensors of in/ and out/ are not as golden/golden.h says", err);
    c->file = g->entries[g->next_entry - 1].name;
    c->set = g->set;
    c->scheme = g->scheme;
    c->operand = g->operand;
    c->dtype = g->dtype;
    c->params = g->params;
    c->op = g->op;
    c->library = g->library;
    c->function = g->function;
    c->note = g->note;
    c->date = g->date;
    return QG_OK;
}

/* Goes to the next operation of the open file's current set, or to the next set. *found is false at
 * the end of the file. */
static enum qg_status step(struct qg_golden *g, bool *found, struct qg_error *err)
{
    *found = false;
    while (g->next_op >= g->n_ops) {
        if (g->next_set >= g->n_sets)
            return QG_OK;
        g->op[0] = '\0';
        if (!link_name(g->file, g->next_set++, g->set))
            return bad(g, "the set's name is a link or too long", err);
        hid_t set = open_child(g->file, g->set, H5I_GROUP);
        if (set < 0)
            return bad(g, "not a group", err);
        bool named = read_text(set, "scheme", g->scheme);
        g->next_op = 0;
        const bool asked = g->only ? strcmp(g->scheme, g->only) == 0 : g->scheme[0];
        g->n_ops = named && asked ? count_links(set) : 0;
        H5Gclose(set);
        if (!named)
            return bad(g, "there is no attribute 'scheme'", err);
    }
    hid_t set = open_child(g->file, g->set, H5I_GROUP);
    enum qg_status status = set >= 0 && link_name(set, g->next_op++, g->op)
                                ? read_case(g, set, err)
                                : bad(g, "a link to elsewhere or a name too long", err);
    if (set >= 0)
        H5Gclose(set);
    *found = status == QG_OK;
    return status;
}

static void close_file(struct qg_golden *g)
{
    if (g->file >= 0)
        H5Fclose(g->file);
    g->file = H5I_INVALID_HID;
}

static enum qg_status next_file(struct qg_golden *g, struct qg_error *err)
{
    close_file(g);
    if (open_image(g->folder, &g->entries[g->next_entry++], &g->file, err) != QG_OK)
        return err->status;
    g->n_sets = count_links(g->file);
    g->next_set = g->next_op = g->n_ops = 0;
    return QG_OK;
}

enum qg_status qg_golden_open(const char *folder, const char *only, struct qg_golden **ret_g,
                              struct qg_error *err)
{
    struct qg_golden *g = calloc(1, sizeof *g);
    if (!g)
        return qg_fail(err, QG_ENOMEM, "golden folder '%s': no memory", folder);
    g->file = H5I_INVALID_HID;
    g->only = only;
    if (snprintf(g->folder, sizeof g->folder, "%s", folder) >= (int)sizeof g->folder) {
        free(g);
        return qg_fail(err, QG_EINVAL, "the golden folder's path is longer than %d characters",
                       TEXT - 1);
    }
    if (read_manifest(g, err) != QG_OK || check_folder(g, err) != QG_OK) {
        qg_golden_close(&g);
        return err->status;
    }
    *ret_g = g;
    return QG_OK;
}

enum qg_status qg_golden_next(struct qg_golden *g, const struct qg_golden_case **ret_case,
                              struct qg_error *err)
{
    clear_case(g);
    *ret_case = NULL;
    for (bool found = false; !found;) {
        if (g->file >= 0 && step(g, &found, err) != QG_OK)
            return err->status;
        if (found)
            *ret_case = &g->c;
        else if (g->next_entry == g->n_entries)
            return QG_OK;
        else if (next_file(g, err) != QG_OK)
            return err->status;
    }
    return QG_OK;
}

void qg_golden_close(struct qg_golden **g)
{
    if (!*g)
        return;
    clear_case(*g);
    close_file(*g);
    free((*g)->entries);
    free(*g);
    *g = NULL;
}

/* --- the test model -------------------------------------------------------------------------- */

/* A vector of the model's width. */
static bool read_vector(hid_t parent, const char *name, uint16_t ret_bits[QG_GOLDEN_WIDTH])
{
    struct qg_tensor t = {.name = name};
    if (!read_tensor(parent, name, &t))
        return false;
    bool good = t.dtype == QG_BF16 && qg_count(&t) == QG_GOLDEN_WIDTH;
    if (good)
        memcpy(ret_bits, t.data, QG_GOLDEN_WIDTH * sizeof *ret_bits);
    free(t.data);
    return good;
}

static bool read_outputs(hid_t set, const char *group_name, int converted,
                         struct qg_golden_model *m)
{
    hid_t group = open_child(set, group_name, H5I_GROUP);
    if (group < 0)
        return H5Lexists(set, group_name, H5P_DEFAULT) == 0; // most seeds have no outputs
    bool good = true;
    for (hsize_t i = 0; good && i < count_links(group); i++) {
        char name[NAME];
        good = m->n_outputs < QG_GOLDEN_OUTPUTS && link_name(group, i, name) &&
               strlen(name) < sizeof m->output[0].scheme &&
               read_vector(group, name, m->output[m->n_outputs].y);
        if (!good)
            break;
        strcpy(m->output[m->n_outputs].scheme, name);
        m->output[m->n_outputs].converted = converted;
        m->output[m->n_outputs].compute_error = (double)NAN;
        hid_t data = open_child(group, name, H5I_DATASET);
        good = !converted || read_number(data, "compute_error", H5T_FLOAT, H5T_NATIVE_DOUBLE,
                                         &m->output[m->n_outputs].compute_error);
        H5Dclose(data);
        m->n_outputs++;
    }
    H5Gclose(group);
    return good;
}

static bool read_model(hid_t set, struct qg_golden_model *m)
{
    static const char *const weights[] = {"linear1", "sub.linear", "linear2"};
    for (int i = 0; i < 3; i++) {
        char text[TEXT];
        if (!read_text(set, weights[i], text) || strlen(text) != 64)
            return false;
        strcpy(m->weight_sha256[i], text);
    }
    return read_vector(set, "x", m->x) && read_outputs(set, "prepared", 0, m) &&
           read_outputs(set, "converted", 1, m);
}

/* Looks in the open file of g for the model of the seed. */
static enum qg_status find_model(struct qg_golden *g, int64_t seed, struct qg_golden_model *m,
                                 bool *found, struct qg_error *err)
{
    for (hsize_t i = 0; i < g->n_sets && !*found; i++) {
        int64_t its_seed = 0;
        g->op[0] = '\0';
        hid_t set = link_name(g->file, i, g->set) ? open_child(g->file, g->set, H5I_GROUP)
                                                  : H5I_INVALID_HID;
        if (set < 0)
            return bad(g, "not a group", err);
        bool is_model = read_text(set, "scheme", g->scheme) && !g->scheme[0] &&
                        read_number(set, "seed", H5T_INTEGER, H5T_NATIVE_INT64, &its_seed);
        *found = is_model && its_seed == seed;
        bool good = !*found || read_model(set, m);
        H5Gclose(set);
        if (!good)
            return bad(g, "the test model is not as golden/golden.h says", err);
    }
    return QG_OK;
}

enum qg_status qg_golden_model(const char *folder, int64_t seed, struct qg_golden_model *ret_m,
                               struct qg_error *err)
{
    struct qg_golden *g;
    if (qg_golden_open(folder, NULL, &g, err) != QG_OK)
        return err->status;
    struct qg_golden_model m = {.seed = seed};
    bool found = false;
    enum qg_status status = QG_OK;
    while (status == QG_OK && !found && g->next_entry < g->n_entries) {
        status = next_file(g, err);
        if (status == QG_OK)
            status = find_model(g, seed, &m, &found, err);
    }
    qg_golden_close(&g);
    if (status == QG_OK && !found)
        status = qg_fail(err, QG_EABSENT, "no golden holds the test model of seed %lld",
                         (long long)seed);
    if (status == QG_OK)
        *ret_m = m;
    return status;
}

/* --- sets of numbers ------------------------------------------------------------------------- */

/* Reads a dataset of floating point or whole numbers as binary64. */
static bool read_array(hid_t group, struct qg_golden_array *a)
{
    hid_t data = open_child(group, a->name, H5I_DATASET);
    if (data < 0)
        return false;
    bool good = read_shape(data, &a->rank, a->shape);
    a->count = 1;
    for (int d = 0; d < a->rank; d++)
        a->count *= a->shape[d];
    a->value = good ? malloc(a->count * sizeof *a->value) : NULL;
    good =
        a->value && H5Dread(data, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, a->value) >= 0;
    H5Dclose(data);
    return good;
}

/* Appends the arrays of a group. */
static bool read_arrays(hid_t set, const char *name, struct qg_golden_numbers *n)
{
    hid_t group = open_child(set, name, H5I_GROUP);
    if (group < 0)
        return false;
    hsize_t links = count_links(group);
    struct qg_golden_array *grown = realloc(n->array, (n->n + links) * sizeof *grown);
    bool good = grown && strlen(name) < sizeof grown->group;
    n->array = grown ? grown : n->array;
    for (hsize_t i = 0; good && i < links; i++) {
        char array[NAME];
        struct qg_golden_array *a = &n->array[n->n];
        *a = (struct qg_golden_array){.value = NULL};
        good = link_name(group, i, array) && strlen(array) < sizeof a->name;
        if (!good)
            break;
        strcpy(a->group, name);
        strcpy(a->name, array);
        good = read_array(group, a);
        n->n++;
    }
    H5Gclose(group);
    return good;
}

static bool read_numbers(hid_t set, struct qg_golden_numbers *n)
{
    char group[NAME];
    bool good = read_text(set, "config", n->config);
    for (hsize_t i = 0; good && i < count_links(set); i++)
        good = link_name(set, i, group) && read_arrays(set, group, n);
    return good;
}

enum qg_status qg_golden_numbers(const char *folder, const char *file, const char *set,
                                 struct qg_golden_numbers *ret_n, struct qg_error *err)
{
    struct qg_golden *g;
    struct qg_golden_numbers n = {.n = 0};
    if (qg_golden_open(folder, NULL, &g, err) != QG_OK)
        return err->status;
    while (g->next_entry < g->n_entries && strcmp(g->entries[g->next_entry].name, file) != 0)
        g->next_entry++;
    enum qg_status status = g->next_entry < g->n_entries
                                ? next_file(g, err)
                                : qg_fail(err, QG_EABSENT, "no golden is named '%s'", file);
    hid_t group = status == QG_OK ? open_child(g->file, set, H5I_GROUP) : H5I_INVALID_HID;
    if (status == QG_OK && group < 0)
        status = qg_fail(err, QG_EABSENT, "golden '%s' has no set '%s'", file, set);
    if (status == QG_OK && !read_numbers(group, &n))
        status = qg_fail(err, QG_EFORMAT,
                         "golden '%s', set '%s': the numbers are not as golden/golden.h says", file,
                         set);
    if (group >= 0)
        H5Gclose(group);
    qg_golden_close(&g);
    if (status == QG_OK)
        *ret_n = n;
    else
        qg_golden_numbers_free(&n);
    return status;
}

void qg_golden_numbers_free(struct qg_golden_numbers *n)
{
    for (size_t i = 0; i < n->n; i++)
        free(n->array[i].value);
    free(n->array);
    *n = (struct qg_golden_numbers){.n = 0};
}

const struct qg_golden_array *qg_golden_array(const struct qg_golden_numbers *n, const char *group,
                                              const char *name)
{
    for (size_t i = 0; i < n->n; i++)
        if (strcmp(n->array[i].group, group) == 0 && strcmp(n->array[i].name, name) == 0)
            return &n->array[i];
    return NULL;
}
