/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <string.h>

#include "harness/lm/lm.h"

enum { MOST_SIZE = 1 << 24 }; /* of any size in a config: keeps products of two in range */

struct reader {
    const char *path;
    struct qg_error *err;
};

static enum qg_status wrong(const struct reader *r, const char *key, const char *must)
{
    return qg_fail(r->err, QG_EFORMAT, "'%s': config.json's \"%s\" must be %s", r->path, key, must);
}

/* A number, `fallback` where it is absent or null. False: it is no number. */
static bool number(const cJSON *json, const char *key, double fallback, double *ret)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    *ret = fallback;
    if (!item || cJSON_IsNull(item))
        return true;
    *ret = item->valuedouble;
    return cJSON_IsNumber(item) && isfinite(item->valuedouble);
}

/* A size from 1 to MOST_SIZE; fallback 0: it must be there. */
static enum qg_status size(const struct reader *r, const cJSON *json, const char *key,
                           size_t fallback, size_t *ret)
{
    double x;
    if (!number(json, key, (double)fallback, &x) || x < 1 || x > MOST_SIZE || x != floor(x))
        return wrong(r, key, "a whole number from 1 to 16777216");
    *ret = (size_t)x;
    return QG_OK;
}

static enum qg_status positive(const struct reader *r, const cJSON *json, const char *key,
                               double fallback, double *ret)
{
    if (!number(json, key, fallback, ret) || !(*ret > 0))
        return wrong(r, key, "a number above 0");
    return QG_OK;
}

static const char *word(const cJSON *json, const char *key, const char *fallback)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    return cJSON_IsString(item) ? item->valuestring : fallback;
}

static bool is_true(const cJSON *json, const char *key)
{
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, key));
}

/* rope_parameters (transformers 5), or rope_theta and rope_scaling. */
static enum qg_status read_rope(const struct reader *r, const cJSON *json, struct qg_lm_config *c)
{
    const cJSON *p = cJSON_GetObjectItemCaseSensitive(json, "rope_parameters");
    const cJSON *scaling = cJSON_GetObjectItemCaseSensitive(json, "rope_scaling");
    scaling = cJSON_IsObject(p) ? p : scaling;
    if (positive(r, cJSON_IsObject(p) ? p : json, "rope_theta", 10000, &c->rope_theta) != QG_OK)
        return r->err->status;
    if (!scaling || cJSON_IsNull(scaling))
        return QG_OK;
    const char *type = word(scaling, "rope_type", word(scaling, "type", "default"));
    if (strcmp(type, "default") == 0)
        return QG_OK;
    if (strcmp(type, "llama3") != 0)
        return qg_fail(r->err, QG_EFORMAT,
                       "'%s': config.json's rope_type is '%s'; there are default and llama3",
                       r->path, type);
    if (positive(r, scaling, "factor", 0, &c->rope_factor) != QG_OK ||
        positive(r, scaling, "low_freq_factor", 0, &c->rope_low) != QG_OK ||
        positive(r, scaling, "high_freq_factor", 0, &c->rope_high) != QG_OK ||
        size(r, scaling, "original_max_position_embeddings", 0, &c->rope_original) != QG_OK)
        return r->err->status;
    return c->rope_high > c->rope_low ? QG_OK
                                      : wrong(r, "high_freq_factor", "above low_freq_factor");
}

static enum qg_status read_kind(const struct reader *r, const cJSON *json)
{
    const char *type = word(json, "model_type", "");
    if (strcmp(type, "llama") != 0 && strcmp(type, "mistral") != 0)
        return wrong(r, "model_type", "llama or mistral: no other kind of model is known");
    const char *act = word(json, "hidden_act", "silu");
    if (strcmp(act, "silu") != 0)
        return wrong(r, "hidden_act", "silu");
    if (is_true(json, "attention_bias") || is_true(json, "mlp_bias"))
        return wrong(r, is_true(json, "mlp_bias") ? "mlp_bias" : "attention_bias",
                     "false: biases are not modelled");
    if (cJSON_IsNumber(cJSON_GetObjectItemCaseSensitive(json, "sliding_window")))
        return wrong(r, "sliding_window", "null: attention always sees the whole context");
    return QG_OK;
}

enum qg_status qg_lm_config_read(const cJSON *json, const char *path, struct qg_lm_config *ret_c,
                                 struct qg_error *err)
{
    struct reader r = {path, err};
    struct qg_lm_config c = {0};
    double separator;
    if (!cJSON_IsObject(json))
        return qg_fail(err, QG_EFORMAT,
                       "'%s' has no config.json, which says what the model looks like", path);
    if (read_kind(&r, json) != QG_OK || size(&r, json, "vocab_size", 0, &c.vocab) != QG_OK ||
        size(&r, json, "hidden_size", 0, &c.width) != QG_OK ||
        size(&r, json, "intermediate_size", 0, &c.hidden) != QG_OK ||
        size(&r, json, "num_hidden_layers", 0, &c.layers) != QG_OK ||
        size(&r, json, "num_attention_heads", 0, &c.heads) != QG_OK ||
        size(&r, json, "num_key_value_heads", c.heads, &c.kv_heads) != QG_OK ||
        size(&r, json, "head_dim", c.width / c.heads, &c.head) != QG_OK ||
        size(&r, json, "max_position_embeddings", 2048, &c.context) != QG_OK ||
        positive(&r, json, "rms_norm_eps", 1e-6, &c.norm_eps) != QG_OK ||
        read_rope(&r, json, &c) != QG_OK)
        return err->status;
    if (c.layers > 4096)
        return wrong(&r, "num_hidden_layers", "at most 4096");
    if (c.heads % c.kv_heads)
        return wrong(&r, "num_key_value_heads", "a divisor of num_attention_heads");
    if (c.head % 2)
        return wrong(&r, "head_dim", "even: positions turn pairs of numbers");
    if (c.heads > MOST_SIZE / c.head)
        return wrong(&r, "head_dim", "such that all heads have at most 16777216 numbers");
    c.tied = is_true(json, "tie_word_embeddings");
    if (!number(json, "bos_token_id", -1, &separator) || separator >= (double)c.vocab)
        return wrong(&r, "bos_token_id", "a token below vocab_size, or null");
    c.has_separator = separator >= 0;
    c.separator = c.has_separator ? (uint32_t)separator : 0;
    *ret_c = c;
    return QG_OK;
}
