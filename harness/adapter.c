/* SPDX-License-Identifier: MIT */
#include "harness/adapter.h"

#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/io/json.h"
#include "harness/io/safetensors.h"
#include "harness/select.h"

enum { CONFIG_LIMIT = 16 << 20 };

/* --- the configuration ----------------------------------------------------------------------- */

/* null, false, "none", [] and {} all say that an option is not used. */
static bool is_unset(const cJSON *j)
{
    return !j || cJSON_IsNull(j) || cJSON_IsFalse(j) ||
           (cJSON_IsString(j) && strcmp(j->valuestring, "none") == 0) ||
           ((cJSON_IsArray(j) || cJSON_IsObject(j)) && !j->child);
}

/* Options under which an adapter is more, or something else, than a low-rank pair per module. */
static const struct {
    const char *key, *why;
} refused[] = {
    {"modules_to_save", "it holds whole modules, which are not merged but replace the base's"},
    {"bias", "it trained biases of the base model, which are not low-rank pairs"},
    {"lora_bias", "lora_B has biases of its own"},
    {"trainable_token_indices", "it trained rows of the embedding"},
    {"target_parameters", "its pairs belong to parameters of experts, not to linear modules"},
    {"layer_replication", "its modules are copies of the base's layers"},
    {"megatron_config", "its modules are Megatron's parallel layers"},
    {"use_qalora", "its A works on pooled inputs (QALoRA)"},
    {"use_bdlora", "its matrices are block-diagonal (BD-LoRA)"},
    {"alora_invocation_tokens", "it acts on some tokens only (aLoRA) and has no merged form"},
    {"arrow_config", "it is a mixture of adapters (Arrow)"},
    {"kasa_config", "it has singular values besides A and B (KaSA)"},
    {"monteclora_config", "its A is drawn at random (MonteCLoRA)"},
    {"velora_config", "its gradient was compressed, and peft gives it no merged form (VeLoRA)"},
};

/* Initializations that put W - s B A in the place of W: the adapter belongs to that base. */
static bool changed_base(const char *initialization)
{
    static const char *const words[] = {"pissa", "olora", "corda", "loftq"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strncmp(initialization, words[i], strlen(words[i])) == 0)
            return true;
    return false;
}

static enum qg_status check_config(const cJSON *config, struct qg_error *err)
{
    const cJSON *type = qg_json_member(config, "peft_type", cJSON_String, "a word", err);
    const cJSON *init = cJSON_GetObjectItemCaseSensitive(config, "init_lora_weights");
    if (!type)
        return err->status;
    if (strcmp(type->valuestring, "LORA") != 0)
        return qg_fail(err, QG_EINVAL,
                       "peft_type is '%.40s': only LORA can be merged; merge it with peft",
                       type->valuestring);
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (!is_unset(cJSON_GetObjectItemCaseSensitive(config, refused[i].key)))
            return qg_fail(err, QG_EINVAL, "\"%s\" is set: %s; merge it with peft", refused[i].key,
                           refused[i].why);
    if (cJSON_IsString(init) && changed_base(init->valuestring))
        return qg_fail(err, QG_EINVAL,
                       "init_lora_weights is '%.40s', which changed the base weights before "
                       "training: the pair does not belong to the base as published",
                       init->valuestring);
    return QG_OK;
}

/* peft:utils/other.py get_pattern_key: the first pattern that is the module's name or its end
 * behind a dot. */
static enum qg_status pattern_value(const cJSON *patterns, const char *module, double *value,
                                    struct qg_error *err)
{
    const cJSON *j;
    cJSON_ArrayForEach(j, patterns)
    {
        char text[512];
        regex_t re;
        if (!cJSON_IsNumber(j) ||
            snprintf(text, sizeof text, "^(.*\\.)?(%s)$", j->string) >= (int)sizeof text)
            return qg_fail(err, QG_EFORMAT, "the pattern '%.80s' is too long, or not for a number",
                           j->string);
        if (qg_regex_compile(&re, text, err) != QG_OK)
            return qg_context(err, "pattern");
        bool fits = qg_regex_fits(&re, module);
        regfree(&re);
        if (fits) {
            *value = j->valuedouble;
            return QG_OK;
        }
    }
    return QG_OK;
}

/* rank and s of a module. */
static enum qg_status take_scale(const cJSON *config, const char *module, double *ret_rank,
                                 double *ret_scale, struct qg_error *err)
{
    const cJSON *r = qg_json_member(config, "r", cJSON_Number, "a number", err);
    const cJSON *alpha =
        r ? qg_json_member(config, "lora_alpha", cJSON_Number, "a number", err) : NULL;
    if (!alpha)
        return err->status;
    double rank = r->valuedouble, a = alpha->valuedouble;
    if (pattern_value(cJSON_GetObjectItemCaseSensitive(config, "rank_pattern"), module, &rank,
                      err) != QG_OK ||
        pattern_value(cJSON_GetObjectItemCaseSensitive(config, "alpha_pattern"), module, &a, err) !=
            QG_OK)
        return err->status;
    if (!(rank >= 1) || rank != floor(rank) || !isfinite(a))
        return qg_fail(err, QG_EFORMAT, "r = %g, lora_alpha = %g give no scale", rank, a);
    bool rslora = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(config, "use_rslora"));
    *ret_rank = rank;
    *ret_scale = a / (rslora ? sqrt(rank) : rank);
    return QG_OK;
}

/* --- the tensors ----------------------------------------------------------------------------- */

enum part { PART_A, PART_B, PART_M, PART_COUNT };
static const char prefix[] = "base_model.model.";
static const char *const endings[PART_COUNT] = {".lora_A.weight", ".lora_B.weight",
                                                ".lora_magnitude_vector"};

/* Which part of which module a tensor is: the length of the module's name, 0 when it is none. */
static size_t take_apart(const char *name, enum part *ret_part)
{
    size_t skip = sizeof prefix - 1, n = strlen(name);
    if (strncmp(name, prefix, skip) != 0)
        return 0;
    for (int p = 0; p < PART_COUNT; p++) {
        size_t e = strlen(endings[p]);
        if (n > skip + e && strcmp(name + n - e, endings[p]) == 0) {
            *ret_part = (enum part)p;
            return n - skip - e;
        }
    }
    return 0;
}

static bool is_finite(const struct qg_tensor *t)
{
    for (size_t i = 0; i < qg_count(t); i++)
        if (!isfinite(qg_get(t, i)))
            return false;
    return true;
}

static enum qg_status load_part(const struct qg_safetensors *f, const struct qg_tensor *t,
                                enum part part, struct qg_tensor *ret_t, struct qg_error *err)
{
    if (t->rank != (part == PART_M ? 1 : 2) || qg_count(t) == 0 ||
        (t->dtype != QG_F32 && t->dtype != QG_BF16 && t->dtype != QG_F16))
        return qg_fail(err, QG_EFORMAT, "tensor '%s' is not a %s of F32, BF16 or F16", t->name,
                       part == PART_M ? "vector" : "matrix");
    *ret_t = *t;
    ret_t->data = malloc(qg_bytes(t));
    if (!ret_t->data)
        return qg_fail(err, QG_ENOMEM, "no memory for '%s'", t->name);
    if (qg_safetensors_load(f, t, ret_t->data, err) != QG_OK)
        return err->status;
    if (!is_finite(ret_t))
        return qg_fail(err, QG_EFORMAT, "tensor '%s' holds NaN or inf: the adapter is broken",
                       t->name);
    ret_t->name = part == PART_A ? "a" : part == PART_B ? "b" : "m";
    return QG_OK;
}

static struct qg_adapter_pair *find_pair(const struct qg_adapter *a, const char *module, size_t n)
{
    for (size_t i = 0; i < a->n; i++)
        if (strncmp(a->pair[i].module, module, n) == 0 && !a->pair[i].module[n])
            return &a->pair[i];
    return NULL;
}

static enum qg_status add_tensor(struct qg_adapter *a, const struct qg_safetensors *f,
                                 const struct qg_tensor *t, struct qg_error *err)
{
    enum part part = PART_COUNT;
    size_t n = take_apart(t->name, &part);
    if (!n)
        return qg_fail(err, QG_EFORMAT,
                       "tensor '%s' is no lora_A, lora_B or lora_magnitude_vector of a linear "
                       "module: merge this adapter with peft",
                       t->name);
    const char *module = t->name + sizeof prefix - 1;
    struct qg_adapter_pair *p = find_pair(a, module, n);
    if (!p) {
        p = &a->pair[a->n];
        p->module = strndup(module, n);
        if (!p->module)
            return qg_fail(err, QG_ENOMEM, "no memory for a name");
        a->n++;
    }
    return load_part(f, t, part, part == PART_A ? &p->a : part == PART_B ? &p->b : &p->m, err);
}

static enum qg_status check_pair(const struct qg_adapter *a, const cJSON *config,
                                 struct qg_adapter_pair *p, struct qg_error *err)
{
    double rank = 0;
    if (!p->a.data || !p->b.data)
        return qg_fail(err, QG_EFORMAT, "lora_%c of '%s' is missing", p->a.data ? 'B' : 'A',
                       p->module);
    if (a->dora != (p->m.data != NULL))
        return qg_fail(err, QG_EFORMAT, "use_dora is %s, but '%s' has %s lora_magnitude_vector",
                       a->dora ? "true" : "false", p->module, a->dora ? "no" : "a");
    if (p->a.shape[0] != p->b.shape[1] || p->a.dtype != p->b.dtype)
        return qg_fail(err, QG_EFORMAT,
                       "lora_A [%zu,%zu] and lora_B [%zu,%zu] of '%s' do not fit together, or are "
                       "of two dtypes",
                       p->a.shape[0], p->a.shape[1], p->b.shape[0], p->b.shape[1], p->module);
    if (p->m.data && p->m.shape[0] != p->b.shape[0])
        return qg_fail(err, QG_EFORMAT, "lora_magnitude_vector of '%s' has %zu elements, not %zu",
                       p->module, p->m.shape[0], p->b.shape[0]);
    enum qg_status status = take_scale(config, p->module, &rank, &p->scale, err);
    if (status != QG_OK)
        return status;
    if (rank != (double)p->a.shape[0])
        return qg_fail(err, QG_EFORMAT,
                       "'%s' has rank %zu, but adapter_config.json says r = %g (with rank_pattern)",
                       p->module, p->a.shape[0], rank);
    return QG_OK;
}

static int by_module(const void *a, const void *b)
{
    return strcmp(((const struct qg_adapter_pair *)a)->module,
                  ((const struct qg_adapter_pair *)b)->module);
}

static enum qg_status read_tensors(struct qg_adapter *a, const cJSON *config,
                                   const struct qg_safetensors *f, struct qg_error *err)
{
    size_t n = qg_safetensors_count(f);
    a->pair = calloc(n + 1, sizeof *a->pair);
    if (!a->pair)
        return qg_fail(err, QG_ENOMEM, "no memory for %zu tensors", n);
    for (size_t i = 0; i < n; i++)
        if (add_tensor(a, f, qg_safetensors_at(f, i), err) != QG_OK)
            return err->status;
    if (!a->n)
        return qg_fail(err, QG_EFORMAT, "it holds no tensor");
    for (size_t i = 0; i < a->n; i++)
        if (check_pair(a, config, &a->pair[i], err) != QG_OK)
            return err->status;
    qsort(a->pair, a->n, sizeof *a->pair, by_module);
    return QG_OK;
}

/* --- both ------------------------------------------------------------------------------------ */

static enum qg_status join(const char *folder, const char *name, char *path, size_t size,
                           struct qg_error *err)
{
    if (snprintf(path, size, "%s/%s", folder, name) >= (int)size)
        return qg_fail(err, QG_EINVAL, "the path '%.80s...' is too long", folder);
    return QG_OK;
}

static enum qg_status read_adapter(struct qg_adapter *a, const char *folder, cJSON **config,
                                   struct qg_safetensors **f, struct qg_error *err)
{
    char path[4096];
    if (join(folder, "adapter_config.json", path, sizeof path, err) != QG_OK ||
        qg_json_read(path, CONFIG_LIMIT, config, err) != QG_OK)
        return err->status;
    if (check_config(*config, err) != QG_OK)
        return qg_context(err, "%s", path);
    a->dora = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(*config, "use_dora"));
    a->fan_in_fan_out = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(*config, "fan_in_fan_out"));
    if (join(folder, "adapter_model.safetensors", path, sizeof path, err) != QG_OK ||
        qg_safetensors_open(path, f, err) != QG_OK)
        return err->status;
    if (read_tensors(a, *config, *f, err) != QG_OK)
        return qg_context(err, "%s", path);
    return QG_OK;
}

enum qg_status qg_adapter_open(const char *folder, struct qg_adapter *ret_a, struct qg_error *err)
{
    cJSON *config = NULL;
    struct qg_safetensors *f = NULL;
    *ret_a = (struct qg_adapter){0};
    enum qg_status status = read_adapter(ret_a, folder, &config, &f, err);
    cJSON_Delete(config);
    qg_safetensors_close(&f);
    if (status != QG_OK)
        qg_adapter_close(ret_a);
    return status;
}

void qg_adapter_close(struct qg_adapter *a)
{
    for (size_t i = 0; i < a->n; i++) {
        free(a->pair[i].module);
        free(a->pair[i].a.data);
        free(a->pair[i].b.data);
        free(a->pair[i].m.data);
    }
    free(a->pair);
    *a = (struct qg_adapter){0};
}
