/* SPDX-License-Identifier: MIT
 *
 * Checkpoints as lists of tensors, see model.h. Files are opened by the readers of their formats,
 * which check everything within a file; what is checked here is how files belong together.
 */
#include "harness/io/model.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "harness/call.h"
#include "harness/io/gguf.h"
#include "harness/io/json.h"
#include "harness/io/safetensors.h"

#define CONFIG_LIMIT ((size_t)16 << 20)
#define INDEX_LIMIT  ((size_t)100 << 20) /* as a safetensors header */

#define INDEX_NAME "model.safetensors.index.json"

/* One file; the other format's is NULL. */
struct part {
    struct qg_safetensors *safetensors;
    struct qg_gguf_file *gguf;
};

struct qg_model {
    enum qg_model_format format;
    struct part *part;
    size_t n_parts;
    struct qg_model_tensor *tensor;
    const struct qg_model_tensor **by_name;
    size_t n;
    cJSON *config;
    const char *quant_method;
    bool tied;
};

/* --- paths ----------------------------------------------------------------------------------- */

/* FOLDER/NAME, to be freed; NULL without memory. */
static char *join(const char *folder, size_t length, const char *name)
{
    size_t size = length + strlen(name) + 2;
    char *path = malloc(size);
    if (path)
        snprintf(path, size, "%.*s%s%s", (int)length, folder, length ? "/" : "", name);
    return path;
}

/* Length of the folder's part of a path: 0 for the current one. */
static size_t folder_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + (slash == path) : 0;
}

static bool exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

/* A shard lies in the folder of its index, or below: neither absolute nor with "..". */
static bool stays_inside(const char *shard)
{
    if (!*shard || *shard == '/')
        return false;
    for (const char *part = shard; part; part = strchr(part, '/')) {
        part += *part == '/';
        if (strncmp(part, "..", 2) == 0 && (part[2] == '/' || !part[2]))
            return false;
    }
    return true;
}

static const struct qg_file *file_of(const struct part *p)
{
    return p->gguf ? qg_gguf_source(p->gguf) : qg_safetensors_file(p->safetensors);
}

static size_t count_of(const struct part *p)
{
    return p->gguf ? qg_gguf_count(p->gguf) : qg_safetensors_count(p->safetensors);
}

/* --- tensors --------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    const struct qg_model_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->t.name, (*y)->t.name);
}

/* What a tensor of a GGUF file is to those who compute with it. */
static void set_gguf(struct qg_model_tensor *t, const struct qg_stored *s)
{
    const struct qg_gguf_type *type = qg_gguf_type_find(s->dtype);
    t->t = (struct qg_tensor){.name = s->name, .dtype = type->dtype, .rank = s->rank};
    for (int d = 0; d < s->rank; d++)
        t->t.shape[d] = s->shape[d];
    t->scheme = type->scheme ? qg_scheme_find(type->scheme) : NULL;
}

static void add_part(struct qg_model *m, size_t file)
{
    const struct part *p = &m->part[file];
    for (size_t i = 0; i < count_of(p); i++) {
        const struct qg_stored *s =
            p->gguf ? qg_gguf_stored(p->gguf, i) : qg_safetensors_stored(p->safetensors, i);
        struct qg_model_tensor *t = &m->tensor[m->n++];
        *t = (struct qg_model_tensor){.dtype_word = s->dtype,
                                      .rank = s->rank,
                                      .shape = s->shape,
                                      .bytes = s->bytes,
                                      .file = file,
                                      .at = s->at};
        if (p->gguf) {
            set_gguf(t, s);
        } else {
            t->t = *qg_safetensors_at(p->safetensors, i);
        }
    }
}

/* Lists the tensors of all parts; a name is there once. */
static enum qg_status list_tensors(struct qg_model *m, struct qg_error *err)
{
    size_t n = 0;
    for (size_t i = 0; i < m->n_parts; i++)
        n += count_of(&m->part[i]);
    m->tensor = calloc(n + 1, sizeof *m->tensor);
    m->by_name = calloc(n + 1, sizeof *m->by_name);
    if (!m->tensor || !m->by_name)
        return qg_fail(err, QG_ENOMEM, "no memory for a list of %zu tensors", n);
    for (size_t i = 0; i < m->n_parts; i++)
        add_part(m, i);
    for (size_t i = 0; i < n; i++)
        m->by_name[i] = &m->tensor[i];
    qsort(m->by_name, n, sizeof *m->by_name, by_name);
    for (size_t i = 1; i < n; i++) {
        const struct qg_model_tensor *a = m->by_name[i - 1], *b = m->by_name[i];
        if (strcmp(a->t.name, b->t.name) == 0)
            return qg_fail(err, QG_EFORMAT, "%s: tensor '%.80s' is in %s as well",
                           qg_model_file(m, a->file), a->t.name, qg_model_file(m, b->file));
    }
    return QG_OK;
}

static bool is_gguf(const char *path)
{
    struct qg_file f;
    struct qg_error ignored; // the reader will say it
    char magic[4] = "";
    bool is = qg_file_open(path, &f, &ignored) == QG_OK && f.size >= sizeof magic &&
              qg_file_read(&f, magic, sizeof magic, 0, &ignored) == QG_OK &&
              memcmp(magic, "GGUF", sizeof magic) == 0;
    qg_file_close(&f);
    return is;
}

static enum qg_status open_single(struct qg_model *m, const char *path, struct qg_error *err)
{
    m->part = calloc(1, sizeof *m->part);
    if (!m->part)
        return qg_fail(err, QG_ENOMEM, "no memory");
    m->format = is_gguf(path) ? QG_MODEL_GGUF : QG_MODEL_SAFETENSORS;
    enum qg_status status = m->format == QG_MODEL_GGUF
                                ? qg_gguf_open(path, &m->part[0].gguf, err)
                                : qg_safetensors_open(path, &m->part[0].safetensors, err);
    if (status != QG_OK)
        return status;
    m->n_parts = 1;
    return list_tensors(m, err);
}

/* --- the index of a sharded checkpoint ------------------------------------------------------- */

/* A member of weight_map. */
struct mapping {
    const char *tensor, *shard;
};

static int mapping_by_tensor(const void *a, const void *b)
{
    const struct mapping *x = a, *y = b;
    return strcmp(x->tensor, y->tensor);
}

static int mapping_by_shard(const void *a, const void *b)
{
    const struct mapping *x = a, *y = b;
    int order = strcmp(x->shard, y->shard);
    return order ? order : strcmp(x->tensor, y->tensor);
}

static enum qg_status read_mappings(const cJSON *map, struct mapping *w, struct qg_error *err)
{
    const cJSON *j;
    size_t i = 0;
    cJSON_ArrayForEach(j, map)
    {
        if (!qg_is_plain_text(j->string))
            return qg_fail(err, QG_EFORMAT, "the name of tensor %zu is not printable text", i);
        if (!cJSON_IsString(j) || !qg_is_plain_text(j->valuestring))
            return qg_fail(err, QG_EFORMAT, "the shard of tensor '%.80s' is not a file's name",
                           j->string);
        if (!stays_inside(j->valuestring))
            return qg_fail(err, QG_EFORMAT,
                           "the shard of tensor '%.80s', '%.80s', is not a file in this folder",
                           j->string, j->valuestring);
        w[i++] = (struct mapping){j->string, j->valuestring};
    }
    return QG_OK;
}

/* Opens each shard once, in the order of their names. */
static enum qg_status open_shards(struct qg_model *m, const char *index, const struct mapping *w,
                                  size_t n, struct qg_error *err)
{
    m->part = calloc(n + 1, sizeof *m->part);
    if (!m->part)
        return qg_fail(err, QG_ENOMEM, "%s: no memory for %zu shards", index, n);
    for (size_t i = 0; i < n; i++) {
        if (i && strcmp(w[i].shard, w[i - 1].shard) == 0)
            continue;
        char *path = join(index, folder_length(index), w[i].shard);
        if (!path)
            return qg_fail(err, QG_ENOMEM, "%s: no memory", index);
        enum qg_status status =
            exists(path) ? qg_safetensors_open(path, &m->part[m->n_parts].safetensors, err)
                         : qg_fail(err, QG_EFORMAT,
                                   "%s: shard '%.80s' is missing, which should hold tensor '%.80s'",
                                   index, w[i].shard, w[i].tensor);
        free(path);
        if (status != QG_OK)
            return status;
        m->n_parts++;
    }
    return QG_OK;
}

/* The name by which the index knows a file: what follows the folder. */
static const char *shard_name(const struct qg_model *m, const char *index, size_t file)
{
    size_t length = folder_length(index);
    return qg_model_file(m, file) + length + (length > 0);
}

/* Whether the index, in the order of tensors, and the shards say the same. The total_size of
 * "metadata" is not looked at: writers disagree about tied tensors. */
static enum qg_status compare_index(const struct qg_model *m, const char *index,
                                    const struct mapping *w, size_t n, struct qg_error *err)
{
    for (size_t i = 0, k = 0; i < n || k < m->n;) {
        const struct qg_model_tensor *t = k < m->n ? m->by_name[k] : NULL;
        int order = i == n ? 1 : !t ? -1 : strcmp(w[i].tensor, t->t.name);
        if (i && i < n && strcmp(w[i].tensor, w[i - 1].tensor) == 0)
            return qg_fail(err, QG_EFORMAT, "%s: tensor '%.80s' is there twice", index,
                           w[i].tensor);
        if (order < 0)
            return qg_fail(err, QG_EFORMAT, "%s: shard '%.80s' lacks tensor '%.80s'", index,
                           w[i].shard, w[i].tensor);
        const char *found = shard_name(m, index, t->file);
        if (order > 0)
            return qg_fail(err, QG_EFORMAT,
                           "%s: shard '%.80s' has tensor '%.80s', which the index does not know",
                           index, found, t->t.name);
        if (strcmp(w[i].shard, found) != 0)
            return qg_fail(err, QG_EFORMAT,
                           "%s: tensor '%.80s' should be in shard '%.80s', it is in '%.80s'", index,
                           t->t.name, w[i].shard, found);
        i++, k++;
    }
    return QG_OK;
}

/* A file named like a shard that no tensor of the index lies in: the index is of another download,
 * or was cut. Loaders pass over such a file without a word. */
static enum qg_status check_strays(const struct qg_model *m, const char *index,
                                   struct qg_error *err)
{
    char *folder = folder_length(index) ? strndup(index, folder_length(index)) : strdup(".");
    DIR *d = folder ? opendir(folder) : NULL;
    const struct dirent *e;
    enum qg_status status =
        d ? QG_OK : qg_fail(err, QG_EIO, "%s: its folder cannot be listed", index);
    while (status == QG_OK && (e = readdir(d))) {
        unsigned number, of;
        int end = 0;
        bool known = false;
        if (sscanf(e->d_name, "model-%5u-of-%5u.safetensors%n", &number, &of, &end) != 2 || !end ||
            e->d_name[end])
            continue;
        for (size_t i = 0; i < m->n_parts; i++)
            known = known || strcmp(shard_name(m, index, i), e->d_name) == 0;
        if (!known)
            status = qg_fail(err, QG_EFORMAT,
                             "%s: shard '%.80s' is here, and the index knows no tensor of it; get "
                             "the index that belongs to it, or remove it",
                             index, e->d_name);
    }
    if (d)
        closedir(d);
    free(folder);
    return status;
}

static enum qg_status open_mapped(struct qg_model *m, const char *index, const cJSON *map,
                                  struct qg_error *err)
{
    size_t n = (size_t)cJSON_GetArraySize(map);
    struct mapping *w = calloc(n + 1, sizeof *w);
    if (!w)
        return qg_fail(err, QG_ENOMEM, "%s: no memory for an index of %zu tensors", index, n);
    enum qg_status status = read_mappings(map, w, err);
    if (status != QG_OK) {
        free(w);
        return qg_context(err, "%s", index);
    }
    qsort(w, n, sizeof *w, mapping_by_shard);
    if ((status = open_shards(m, index, w, n, err)) == QG_OK &&
        (status = list_tensors(m, err)) == QG_OK) {
        qsort(w, n, sizeof *w, mapping_by_tensor);
        status = compare_index(m, index, w, n, err);
        if (status == QG_OK)
            status = check_strays(m, index, err);
    }
    free(w);
    return status;
}

static enum qg_status open_index(struct qg_model *m, const char *index, struct qg_error *err)
{
    cJSON *j = NULL;
    if (qg_json_read(index, INDEX_LIMIT, &j, err) != QG_OK)
        return err->status;
    const cJSON *map = qg_json_member(j, "weight_map", cJSON_Object, "an object", err);
    enum qg_status status = map ? open_mapped(m, index, map, err) : qg_context(err, "%s", index);
    cJSON_Delete(j);
    return status;
}

static enum qg_status open_folder(struct qg_model *m, const char *path, struct qg_error *err)
{
    char *single = join(path, strlen(path), "model.safetensors");
    char *index = join(path, strlen(path), INDEX_NAME);
    enum qg_status status;
    if (!single || !index)
        status = qg_fail(err, QG_ENOMEM, "%s: no memory", path);
    else if (exists(single) && exists(index))
        status = qg_fail(err, QG_EFORMAT,
                         "%s: both model.safetensors and " INDEX_NAME
                         " are here; remove the one that is not meant, or name the file",
                         path);
    else if (exists(single))
        status = open_single(m, single, err);
    else if (exists(index))
        status = open_index(m, index, err);
    else
        status = qg_fail(err, QG_EFORMAT,
                         "%s: neither model.safetensors nor " INDEX_NAME
                         " is here; of other files, name the one",
                         path);
    free(single);
    free(index);
    return status;
}

/* --- config.json ----------------------------------------------------------------------------- */

/* The member of config, or of the text_config of a model with several parts; NULL when absent. */
static const cJSON *config_member(const cJSON *config, const char *key)
{
    const cJSON *j = cJSON_GetObjectItemCaseSensitive(config, key);
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(config, "text_config");
    return j ? j : cJSON_GetObjectItemCaseSensitive(text, key);
}

/* Configurations of bitsandbytes had no quant_method at first. */
static const char *find_quant_method(const cJSON *config)
{
    const cJSON *q = config_member(config, "quantization_config");
    if (!q || cJSON_IsNull(q))
        return NULL;
    const cJSON *method = cJSON_GetObjectItemCaseSensitive(q, "quant_method");
    if (cJSON_IsString(method) && qg_is_plain_text(method->valuestring))
        return method->valuestring;
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(q, "load_in_4bit")) ||
                   cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(q, "load_in_8bit"))
               ? "bitsandbytes"
               : "unknown";
}

/* Configurations say what differs from the model's class, so that silence means the class's way;
 * then the tensors tell: a model that makes text and has no head uses the table. */
static bool find_tied(const struct qg_model *m)
{
    const cJSON *tie = config_member(m->config, "tie_word_embeddings");
    const cJSON *name =
        cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(m->config, "architectures"), 0);
    if (cJSON_IsBool(tie))
        return cJSON_IsTrue(tie);
    bool makes_text = cJSON_IsString(name) && (strstr(name->valuestring, "ForCausalLM") ||
                                               strstr(name->valuestring, "LMHeadModel") ||
                                               strstr(name->valuestring, "ForConditionalGen"));
    for (size_t i = 0; i < m->n; i++)
        if (strstr(m->tensor[i].t.name, "lm_head"))
            return false;
    return makes_text;
}

static enum qg_status read_config(struct qg_model *m, const char *folder, size_t length,
                                  struct qg_error *err)
{
    char *path = join(folder, length, "config.json");
    if (!path)
        return qg_fail(err, QG_ENOMEM, "%.*s: no memory", (int)length, folder);
    enum qg_status status =
        exists(path) ? qg_json_read(path, CONFIG_LIMIT, &m->config, err) : QG_OK;
    free(path);
    m->quant_method = find_quant_method(m->config);
    m->tied = find_tied(m);
    return status;
}

/* Models that make text, which look to the past only, and have no head of their own. */
static bool find_tied_gguf(const struct qg_model *m)
{
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(m->config, "general.architecture");
    char key[128];
    snprintf(key, sizeof key, "%.80s.attention.causal",
             cJSON_IsString(name) ? name->valuestring : "");
    return qg_model_find(m, "token_embd.weight") && !qg_model_find(m, "output.weight") &&
           !cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(m->config, key));
}

/* Metadata in the place of config.json. A file of several says so there and holds a part only. */
static enum qg_status take_metadata(struct qg_model *m, const char *path, struct qg_error *err)
{
    m->config = qg_gguf_json(m->part[0].gguf);
    if (!m->config)
        return qg_fail(err, QG_ENOMEM, "%s: no memory for its metadata", path);
    const cJSON *split = cJSON_GetObjectItemCaseSensitive(m->config, "split.count");
    if (cJSON_IsNumber(split) && split->valuedouble > 1)
        return qg_fail(err, QG_EFORMAT,
                       "%s: one of the %g files of a split model; join them with llama-gguf-split",
                       path, split->valuedouble);
    m->tied = find_tied_gguf(m);
    return QG_OK;
}

/* --- the model ------------------------------------------------------------------------------- */

static enum qg_status open_path(struct qg_model *m, const char *path, struct qg_error *err)
{
    struct stat st;
    size_t length = strlen(path);
    if (stat(path, &st) != 0)
        return qg_fail(err, QG_EIO, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode)) {
        if (open_single(m, path, err) != QG_OK)
            return err->status;
        return m->format == QG_MODEL_GGUF ? take_metadata(m, path, err)
                                          : read_config(m, path, folder_length(path), err);
    }
    while (length > 1 && path[length - 1] == '/')
        length--;
    char *folder = strndup(path, length);
    if (!folder)
        return qg_fail(err, QG_ENOMEM, "%s: no memory", path);
    enum qg_status status = open_folder(m, folder, err);
    if (status == QG_OK)
        status = read_config(m, folder, length, err);
    free(folder);
    return status;
}

enum qg_status qg_model_open(const char *path, struct qg_model **ret_m, struct qg_error *err)
{
    struct qg_model *m = calloc(1, sizeof *m);
    if (!m)
        return qg_fail(err, QG_ENOMEM, "%s: no memory", path);
    enum qg_status status = open_path(m, path, err);
    if (status == QG_OK)
        *ret_m = m;
    else
        qg_model_close(&m);
    return status;
}

void qg_model_close(struct qg_model **m)
{
    if (!*m)
        return;
    for (size_t i = 0; i < (*m)->n_parts; i++) {
        qg_safetensors_close(&(*m)->part[i].safetensors);
        qg_gguf_close(&(*m)->part[i].gguf);
    }
    cJSON_Delete((*m)->config);
    free((*m)->part);
    free((*m)->tensor);
    free((*m)->by_name);
    free(*m);
    *m = NULL;
}

enum qg_model_format qg_model_format(const struct qg_model *m)
{
    return m->format;
}

const struct qg_gguf_file *qg_model_gguf(const struct qg_model *m)
{
    return m->format == QG_MODEL_GGUF ? m->part[0].gguf : NULL;
}

size_t qg_model_count(const struct qg_model *m)
{
    return m->n;
}

const struct qg_model_tensor *qg_model_at(const struct qg_model *m, size_t i)
{
    return i < m->n ? &m->tensor[i] : NULL;
}

const struct qg_model_tensor *qg_model_find(const struct qg_model *m, const char *name)
{
    const struct qg_model_tensor key = {.t.name = name}, *wanted = &key;
    const struct qg_model_tensor *const *found =
        bsearch(&wanted, m->by_name, m->n, sizeof *m->by_name, by_name);
    return found ? *found : NULL;
}

const char *qg_model_file(const struct qg_model *m, size_t i)
{
    return i < m->n_parts ? file_of(&m->part[i])->path : NULL;
}

const cJSON *qg_model_config(const struct qg_model *m)
{
    return m->config;
}

const char *qg_model_quant_method(const struct qg_model *m)
{
    return m->quant_method;
}

bool qg_model_tied(const struct qg_model *m)
{
    return m->tied;
}

/* --- data ------------------------------------------------------------------------------------ */

/* Reads n bytes of a tensor from its byte `at`. */
static enum qg_status read_part(const struct qg_model *m, const struct qg_model_tensor *t,
                                void *dst, size_t n, size_t at, struct qg_error *err)
{
    const struct qg_file *f = file_of(&m->part[t->file]);
    return qg_file_read(f, dst, n, t->at + at, err) == QG_OK
               ? QG_OK
               : qg_context(err, "%s: tensor '%.80s'", f->path, t->t.name);
}

enum qg_status qg_model_load(const struct qg_model *m, const struct qg_model_tensor *t, void *dst,
                             struct qg_error *err)
{
    return read_part(m, t, dst, t->bytes, 0, err);
}

static enum qg_status check_rows(const struct qg_model_tensor *t, size_t first, size_t n,
                                 enum qg_dtype dtype, struct qg_error *err)
{
    size_t cols = t->t.rank ? t->t.shape[t->t.rank - 1] : 0;
    if (t->t.dtype == QG_DTYPE_COUNT)
        return qg_fail(err, QG_EINVAL, "it is %s of rank %d, which can only be copied",
                       t->dtype_word, t->rank);
    if (t->t.rank == 0)
        return qg_fail(err, QG_EINVAL, "it is a single number, it has no rows");
    if (qg_count(&t->t) == 0)
        return qg_fail(err, QG_EINVAL, "it is empty: %zu rows of %zu",
                       cols ? (size_t)0 : t->t.shape[0], cols);
    if (dtype != QG_F32 && dtype != QG_BF16 && dtype != QG_F16)
        return qg_fail(err, QG_EINVAL, "rows are read as F32, BF16 or F16");
    size_t rows = qg_count(&t->t) / cols;
    if (first > rows || n > rows - first)
        return qg_fail(err, QG_EINVAL, "rows %zu to %zu were asked of its %zu", first, first + n,
                       rows);
    return QG_OK;
}

/* Reads `count` elements from element `first`, cast piece by piece. */
static enum qg_status read_cast(const struct qg_model *m, const struct qg_model_tensor *t,
                                size_t first, size_t count, enum qg_dtype dtype, void *dst,
                                struct qg_error *err)
{
    enum { PIECE = 1 << 16 };
    size_t wide = qg_dtype_bytes(t->t.dtype);
    struct qg_tensor from = {.dtype = t->t.dtype}, to = {.dtype = dtype, .data = dst};
    if (!(from.data = malloc(PIECE * wide)))
        return qg_fail(err, QG_ENOMEM, "no memory to cast '%.80s'", t->t.name);
    enum qg_status status = QG_OK;
    for (size_t at = 0; at < count && status == QG_OK; at += PIECE) {
        size_t n = count - at < PIECE ? count - at : PIECE;
        status = read_part(m, t, from.data, n * wide, (first + at) * wide, err);
        for (size_t i = 0; status == QG_OK && i < n; i++)
            qg_put(&to, at + i, qg_get(&from, i));
    }
    free(from.data);
    return status;
}

/* Reads rows first .. first + n through the scheme's dequant. */
static enum qg_status dequantize(const struct qg_model *m, const struct qg_model_tensor *t,
                                 size_t first, size_t n, enum qg_dtype dtype, void *dst,
                                 struct qg_error *err)
{
    struct qg_call c;
    size_t cols = t->t.shape[t->t.rank - 1];
    if (qg_call_make(t->scheme, "", QG_DEQUANT, QG_WEIGHT, dtype, 0, n, cols, &c, err) != QG_OK)
        return qg_context(err, "%s: tensor '%.80s'", qg_model_file(m, t->file), t->t.name);
    size_t bytes = qg_bytes(&c.args.in[0]);
    enum qg_status status = read_part(m, t, c.args.in[0].data, bytes, first * (bytes / n), err);
    if (status == QG_OK) {
        qg_definition(t->scheme, QG_WEIGHT, QG_DEQUANT)(&c.args);
        memcpy(dst, c.args.out[0].data, qg_bytes(&c.args.out[0]));
    }
    qg_call_free(&c);
    return status;
}

static enum qg_status read_blocks(const struct qg_model *m, const struct qg_model_tensor *t,
                                  size_t first, size_t n, enum qg_dtype dtype, char *dst,
                                  struct qg_error *err)
{
    size_t cols = t->t.shape[t->t.rank - 1], piece = ((size_t)1 << 20) / cols + 1;
    for (size_t at = 0; at < n; at += piece) {
        size_t rows = n - at < piece ? n - at : piece;
        if (dequantize(m, t, first + at, rows, dtype, dst + at * cols * qg_dtype_bytes(dtype),
                       err) != QG_OK)
            return err->status;
    }
    return QG_OK;
}

enum qg_status qg_model_rows(const struct qg_model *m, const struct qg_model_tensor *t,
                             size_t first, size_t n, enum qg_dtype dtype, void *dst,
                             struct qg_error *err)
{
    if (check_rows(t, first, n, dtype, err) != QG_OK)
        return qg_context(err, "%s: tensor '%.80s'", qg_model_file(m, t->file), t->t.name);
    size_t cols = t->t.shape[t->t.rank - 1], wide = qg_dtype_bytes(t->t.dtype);
    if (t->scheme)
        return read_blocks(m, t, first, n, dtype, dst, err);
    if (t->t.dtype == dtype)
        return read_part(m, t, dst, n * cols * wide, first * cols * wide, err);
    return read_cast(m, t, first * cols, n * cols, dtype, dst, err);
}
