/* SPDX-License-Identifier: MIT */
#include "harness/convert/convert.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/journal.h"

/* Everything one conversion holds on to. */
struct job {
    const struct qg_recipe_plan *plan;
    const struct qg_convert_options *o;
    const struct qg_layout *layout;
    struct qg_output *output;
    struct qg_output_tensor *tensor;
    size_t n;
    double done, fresh, total; /* bytes of the model */
    const struct qg_assignment *now;
    bool stopped;
};

/* --- what is written ------------------------------------------------------------------------- */

enum qg_status qg_convert_layout(const struct qg_recipe_plan *plan, const char *name,
                                 enum qg_output_kind kind, const struct qg_layout **ret_l,
                                 struct qg_error *err)
{
    const struct qg_layout *l = name ? qg_layout_find(name) : NULL;
    enum qg_model_format container = kind == QG_OUTPUT_GGUF ? QG_MODEL_GGUF : QG_MODEL_SAFETENSORS;
    if (name && !l)
        return qg_fail(err, QG_EINVAL, "there is no layout '%s'", name);
    if (l && l->container != container)
        return qg_fail(err, QG_EINVAL, "layout '%s' is not one of %s", name,
                       kind == QG_OUTPUT_GGUF ? "GGUF files" : "safetensors files");
    if (l) {
        *ret_l = l;
        return qg_layout_check(l, plan, err);
    }
    qg_fail(err, QG_EABSENT, "there is no layout for this kind of file");
    for (size_t i = 0; (l = qg_layout_at(i)); i++)
        if (l->container == container && qg_layout_check(l, plan, err) == QG_OK) {
            *ret_l = l;
            return QG_OK;
        }
    return err->status;
}

/* The tensor of the model as it is. */
static enum qg_status keep(const struct qg_assignment *as, struct qg_slots *ret,
                           struct qg_error *err)
{
    const struct qg_model_tensor *t = as->tensor;
    if (t->scheme)
        return qg_fail(
            err, QG_EINVAL,
            "tensor '%.80s' is %s and stays as it is, and safetensors has no such dtype; "
            "write a GGUF file, or quantize it as well",
            as->name, t->dtype_word);
    return qg_layout_add(ret, as->name, t->dtype_word, t->rank, t->shape, t->bytes, -1, err);
}

static enum qg_status add_tensors(struct job *j, size_t owner, struct qg_error *err)
{
    const struct qg_assignment *as = &j->plan->of[owner];
    const struct qg_layout *l = j->layout;
    struct qg_slots slots = {.n = 0};
    struct qg_args a;
    enum qg_status status = QG_OK;
    if (!as->convert.scheme)
        status = l->keep ? l->keep(j->plan, as, &slots, err) : keep(as, &slots, err);
    else if ((status = qg_layout_args(as, &a, err)) == QG_OK)
        status = l->store(j->plan, as, &a, &slots, err);
    if (status != QG_OK) {
        qg_slots_free(&slots);
        return status;
    }
    for (int i = 0; i < slots.n; i++)
        j->tensor[j->n++] = (struct qg_output_tensor){slots.at[i], owner};
    return QG_OK;
}

static int by_name(const void *a, const void *b)
{
    const struct qg_output_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->slot.name, (*y)->slot.name);
}

/* A shard is checked by its writer; two shards are checked here. */
static enum qg_status check_names(const struct job *j, struct qg_error *err)
{
    const struct qg_output_tensor **sorted = calloc(j->n + 1, sizeof *sorted);
    enum qg_status status = sorted ? QG_OK : qg_fail(err, QG_ENOMEM, "no memory for names");
    for (size_t i = 0; sorted && i < j->n; i++)
        sorted[i] = &j->tensor[i];
    if (sorted)
        qsort(sorted, j->n, sizeof *sorted, by_name);
    for (size_t i = 1; i < j->n && status == QG_OK; i++)
        if (by_name(&sorted[i - 1], &sorted[i]) == 0)
            status = qg_fail(err, QG_EINVAL, "the output would hold two tensors '%.80s'",
                             sorted[i]->slot.name);
    free(sorted);
    return status;
}

static enum qg_status list_tensors(struct job *j, struct qg_error *err)
{
    const size_t most = sizeof((struct qg_slots *)NULL)->at / sizeof(struct qg_slot);
    j->tensor = calloc(j->plan->n * most + 1, sizeof *j->tensor);
    if (!j->tensor)
        return qg_fail(err, QG_ENOMEM, "no memory for %zu tensors", j->plan->n);
    for (size_t i = 0; i < j->plan->n; i++) {
        j->total += (double)j->plan->of[i].tensor->bytes;
        if (add_tensors(j, i, err) != QG_OK)
            return err->status;
    }
    return check_names(j, err);
}

/* Everything that the bytes of the output hang on, as text. */
static char *plan_text(const struct job *j, const cJSON *config)
{
    char *text = NULL, *json = cJSON_PrintUnformatted(config);
    size_t size;
    FILE *f = open_memstream(&text, &size);
    if (f) {
        fprintf(f, "%s %s shard=%zu measure=%d %s\n", j->o->version, j->layout->name, j->o->shard,
                j->o->measure, json ? json : "");
        for (size_t i = 0; i < j->plan->n; i++) {
            const struct qg_assignment *as = &j->plan->of[i];
            fprintf(f, "%s %s %s %s %zu %zu %zu\n", as->name,
                    as->convert.scheme ? as->convert.scheme->name : "-", as->convert.params,
                    as->convert.scheme ? qg_dtype_name(as->dtype) : "-", as->rows, as->cols,
                    as->padded);
        }
        for (size_t i = 0; i < j->n; i++)
            fprintf(f, "%s %s %zu\n", j->tensor[i].slot.name, j->tensor[i].slot.dtype_word,
                    j->tensor[i].slot.bytes);
        fclose(f);
    }
    cJSON_free(json);
    return text;
}

/* __metadata__: transformers asks for "format"; a single file has no config.json. */
static cJSON *metadata_of(const struct job *j, const cJSON *config)
{
    cJSON *m = cJSON_CreateObject();
    cJSON_AddStringToObject(m, "format", "pt");
    char *text = cJSON_PrintUnformatted(config);
    if (text && qg_output_kind_of(j->o->out) == QG_OUTPUT_SAFETENSORS)
        cJSON_AddStringToObject(m, "quantization_config", text);
    cJSON_free(text);
    return m;
}

static enum qg_status open_output(struct job *j, const cJSON *config, struct qg_error *err)
{
    char *plan = plan_text(j, config);
    cJSON *metadata = metadata_of(j, config);
    struct qg_gguf_meta *gguf = NULL;
    enum qg_status status =
        plan && metadata ? QG_OK : qg_fail(err, QG_ENOMEM, "no memory for the plan");
    if (status == QG_OK && j->layout->about)
        status = j->layout->about(j->plan, metadata, err);
    if (status == QG_OK && j->layout->meta)
        status = j->layout->meta(j->plan, &gguf, err);
    const struct qg_output_request q = {.path = j->o->out,
                                        .kind = qg_output_kind_of(j->o->out),
                                        .shard = j->o->shard,
                                        .force = j->o->force,
                                        .resume = j->o->resume,
                                        .plan = plan,
                                        .model = j->plan->model,
                                        .metadata = metadata,
                                        .gguf = gguf};
    if (status == QG_OK)
        status = qg_output_open(&q, j->tensor, j->n, &j->output, err);
    qg_gguf_meta_free(&gguf);
    cJSON_Delete(metadata);
    free(plan);
    return status;
}

/* --- tensors --------------------------------------------------------------------------------- */

/* Whether to stop, asked while a tensor is worked on. */
static bool asked(void *user, size_t rows_done)
{
    struct job *j = user;
    double part = (double)j->now->tensor->bytes / (double)j->now->rows * (double)rows_done;
    j->stopped = j->stopped || (j->o->progress && j->o->progress(j->o->user, j->now, j->done + part,
                                                                 j->fresh + part, j->total));
    return j->stopped;
}

static size_t head_of(const struct job *j)
{
    return j->layout->head ? j->layout->head(j->plan, j->now) : 0;
}

/* A tensor that is not quantized: its bytes, or where the layout asks for it cast and interleaved.
 */
static enum qg_status copy_tensor(struct job *j, size_t first, struct qg_error *err)
{
    const struct qg_slot *s = &j->tensor[first].slot;
    const struct qg_model_tensor *t = j->now->tensor;
    struct qg_conversion c = {.model = j->plan->model, .as = j->now, .head = head_of(j)};
    bool as_is = !c.head && strcmp(s->dtype_word, t->dtype_word) == 0;
    void *bytes = malloc(s->bytes + 1);
    if (!bytes)
        return qg_fail(err, QG_ENOMEM, "no memory for tensor '%.80s'", j->now->name);
    c.args.dtype = qg_dtype_parse(s->dtype_word);
    c.args.cols = j->now->cols;
    enum qg_status status = as_is ? qg_model_load(c.model, t, bytes, err)
                                  : qg_convert_rows(&c, 0, j->now->rows, bytes, err);
    if (status == QG_OK)
        status = qg_output_put(j->output, first, bytes, err);
    free(bytes);
    return status;
}

/* Writes the tensors first .. of one assignment from its planes. */
static enum qg_status put_planes(struct job *j, size_t first, const struct qg_args *planes,
                                 struct qg_error *err)
{
    size_t owner = j->tensor[first].owner;
    for (size_t i = first; i < j->n && j->tensor[i].owner == owner; i++) {
        const struct qg_slot *s = &j->tensor[i].slot;
        void *made = s->plane < 0 ? calloc(1, s->bytes + 1) : NULL;
        if (s->plane < 0 && !made)
            return qg_fail(err, QG_ENOMEM, "no memory for '%.80s'", s->name);
        if (made)
            j->layout->fill(planes, s, made);
        enum qg_status status =
            qg_output_put(j->output, i, made ? made : planes->out[s->plane].data, err);
        free(made);
        if (status != QG_OK)
            return status;
    }
    return QG_OK;
}

static enum qg_status convert_tensor(struct job *j, size_t first, struct qg_converted *ret,
                                     struct qg_error *err)
{
    struct qg_conversion c = {.model = j->plan->model,
                              .as = j->now,
                              .measure = j->o->measure,
                              .threads = j->o->threads,
                              .head = head_of(j),
                              .stop = asked,
                              .user = j};
    struct qg_call planes;
    if (qg_layout_args(j->now, &c.args, err) != QG_OK)
        return err->status;
    qg_conversion_kernels(&c, ret->kernel, sizeof ret->kernel);
    if (qg_convert_tensor(&c, &planes, &ret->quality, err) != QG_OK)
        return err->status;
    enum qg_status status = put_planes(j, first, &planes.args, err);
    qg_call_free(&planes);
    return status;
}

/* One assignment, whose tensors begin at `first`: unless an earlier run has finished it. */
static enum qg_status one(struct job *j, size_t owner, size_t first, size_t end,
                          struct qg_convert_summary *s, struct qg_error *err)
{
    struct qg_converted c = {
        .as = &j->plan->of[owner], .layout = j->layout, .quality = {NAN, NAN, 0, 0, 0}};
    enum qg_status status = QG_OK;
    j->now = c.as;
    for (size_t i = first; i < end; i++)
        c.bytes += j->tensor[i].slot.bytes;
    bool earlier = qg_output_has(j->output, owner, &c.quality);
    if (asked(j, 0))
        return QG_OK;
    if (!earlier) {
        status =
            c.as->convert.scheme ? convert_tensor(j, first, &c, err) : copy_tensor(j, first, err);
        if (status == QG_OK)
            status = qg_output_done(j->output, owner, &c.quality, err);
        j->fresh += (double)c.as->tensor->bytes;
    }
    if (status != QG_OK)
        return status;
    s->earlier += earlier;
    s->converted += c.as->convert.scheme != NULL;
    s->copied += c.as->convert.scheme == NULL;
    // An untied copy is of a tensor that is counted already.
    s->bytes_in += c.as->name == c.as->tensor->t.name ? c.as->tensor->bytes : 0;
    s->bytes_out += c.bytes;
    j->done += (double)c.as->tensor->bytes;
    return j->o->each ? j->o->each(j->o->user, &c, err) : QG_OK;
}

static enum qg_status all(struct job *j, struct qg_convert_summary *s, struct qg_error *err)
{
    for (size_t first = 0, end; first < j->n && !j->stopped; first = end) {
        size_t owner = j->tensor[first].owner;
        for (end = first; end < j->n && j->tensor[end].owner == owner; end++)
            continue;
        if (one(j, owner, first, end, s, err) != QG_OK)
            return j->stopped ? QG_OK : err->status;
    }
    return QG_OK;
}

/* --- other files ----------------------------------------------------------------------------- */

/* Tokenizer, generation_config.json and what else lies beside the weights. */
static enum qg_status copy_files(struct job *j, struct qg_error *err)
{
    DIR *d = opendir(j->o->model);
    const struct dirent *e;
    enum qg_status status = QG_OK;
    char sentence[512];
    if (!d) // a single file has nothing beside it that is surely its own
        return QG_OK;
    while (status == QG_OK && (e = readdir(d))) {
        struct stat st;
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", j->o->model, e->d_name);
        if (e->d_name[0] == '.' || strcmp(e->d_name, "config.json") == 0 || stat(path, &st) != 0)
            continue;
        if (S_ISREG(st.st_mode) && !qg_output_is_weights(e->d_name)) {
            status = qg_output_copy(j->output, j->o->model, e->d_name, err);
            continue;
        }
        if (strstr(e->d_name, ".safetensors")) // the model's own, or of its kind
            continue;
        snprintf(sentence, sizeof sentence, "%s is not carried over", e->d_name);
        if (j->o->note)
            j->o->note(j->o->user, sentence);
    }
    closedir(d);
    return status;
}

/* The text of the model's config.json, to be freed; NULL when it has none. */
static char *config_text(const struct job *j)
{
    char path[4096];
    void *text = NULL;
    size_t bytes = 0;
    struct qg_error ignored;
    const char *first = qg_model_file(j->plan->model, 0), *slash = strrchr(first, '/');
    snprintf(path, sizeof path, "%.*sconfig.json", slash ? (int)(slash + 1 - first) : 0, first);
    int fd = qg_model_config(j->plan->model) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return NULL;
    if (qg_read_all(fd, path, (size_t)1 << 26, &text, &bytes, &ignored) == QG_OK) {
        char *whole = realloc(text, bytes + 1);
        text = whole ? whole : text;
        if (whole)
            whole[bytes] = '\0';
    }
    close(fd);
    return text;
}

/* Whether the plan gives the head a tensor of its own that the model does not have. */
static bool unties(const struct qg_recipe_plan *plan)
{
    for (size_t i = 0; i < plan->n; i++)
        if (plan->of[i].name != plan->of[i].tensor->t.name)
            return true;
    return false;
}

/* Writes text[0 .. n) with "tie_word_embeddings": true turned to false; whether there was one. */
static bool write_untied(FILE *f, const char *text, size_t n)
{
    static const char key[] = "\"tie_word_embeddings\"";
    const char *end = text + n, *at = text, *p = text;
    bool found = false;
    while ((p = strstr(p, key)) && p < end) {
        p += sizeof key - 1;
        p += strspn(p, " \t\r\n:");
        if (strncmp(p, "true", 4) != 0)
            continue;
        fprintf(f, "%.*sfalse", (int)(p - at), at);
        at = p += 4;
        found = true;
    }
    fwrite(at, 1, (size_t)(end - at), f);
    return found;
}

/* config.json with a quantization_config as its last member. The text stays otherwise as it is: a
 * JSON library would make 10000 of 10000.0, and some readers ask for the fraction. */
static enum qg_status write_config(struct job *j, const cJSON *config, struct qg_error *err)
{
    bool hf = qg_model_format(j->plan->model) == QG_MODEL_SAFETENSORS;
    char *own = hf ? config_text(j) : NULL, *added = cJSON_Print(config), *text = NULL;
    char *end = own ? strrchr(own, '}') : NULL;
    size_t size, n = end ? (size_t)(end - own) : 0;
    while (n && strchr(" \t\r\n", own[n - 1]))
        n--;
    FILE *f = added ? open_memstream(&text, &size) : NULL;
    if (f) {
        bool untie = unties(j->plan), said = false;
        if (!n)
            fputc('{', f);
        else if (untie)
            said = write_untied(f, own, n);
        else
            fwrite(own, 1, n, f);
        fprintf(f, "%s\n%s  \"quantization_config\": %s\n}\n", n && own[n - 1] != '{' ? "," : "",
                untie && !said ? "  \"tie_word_embeddings\": false,\n" : "", added);
        fclose(f);
    }
    enum qg_status status = text ? qg_output_text(j->output, "config.json", text, err)
                                 : qg_fail(err, QG_ENOMEM, "no memory for config.json");
    cJSON_free(added);
    free(own);
    free(text);
    return status;
}

/* --- all of it ------------------------------------------------------------------------------- */

static enum qg_status convert(struct job *j, const cJSON *config, struct qg_convert_summary *s,
                              struct qg_error *err)
{
    if (list_tensors(j, err) != QG_OK || open_output(j, config, err) != QG_OK ||
        all(j, s, err) != QG_OK || j->stopped)
        return j->stopped ? QG_OK : err->status;
    s->files = qg_output_files(j->output);
    if (j->layout->container == QG_MODEL_GGUF && !qg_model_gguf(j->plan->model) && j->o->note)
        j->o->note(j->o->user, "the tokenizer is not carried over into GGUF: llama.cpp computes "
                               "with the file, but needs a vocabulary to speak text");
    if (qg_output_kind_of(j->o->out) == QG_OUTPUT_FOLDER &&
        (copy_files(j, err) != QG_OK || write_config(j, config, err) != QG_OK))
        return err->status;
    return qg_output_finish(j->output, err);
}

enum qg_status qg_convert(const struct qg_recipe_plan *plan, const struct qg_convert_options *o,
                          struct qg_convert_summary *ret_s, struct qg_error *err)
{
    struct job j = {.plan = plan, .o = o};
    struct qg_convert_summary s = {0};
    cJSON *config = NULL;
    err->status = QG_OK;
    *ret_s = s;
    if (qg_output_may_write(o->out, o->force, plan->model, err) != QG_OK ||
        qg_convert_layout(plan, o->layout, qg_output_kind_of(o->out), &j.layout, err) != QG_OK ||
        j.layout->config(plan, &config, err) != QG_OK)
        return err->status;
    s.layout = j.layout;
    enum qg_status status = convert(&j, config, &s, err);
    s.stopped = j.stopped;
    s.kept =
        j.output && (s.stopped || o->resume || (status == QG_EIO && s.converted + s.copied > 0));
    qg_output_close(&j.output, s.kept);
    for (size_t i = 0; i < j.n; i++)
        free(j.tensor[i].slot.name);
    free(j.tensor);
    cJSON_Delete(config);
    *ret_s = s;
    return status;
}
