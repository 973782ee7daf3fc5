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

static bool is_absent(const cJSON *item)
{
    return !item || cJSON_IsNull(item);
}

/* A number, `fallback` where it is absent or null. False: it is no number. */
static bool number(const cJSON *json, const char *key, double fallback, double *ret)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    *ret = fallback;
    if (is_absent(item))
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

/* A word, `fallback` where it is absent or null, "" where it is something else. */
static const char *word(const cJSON *json, const char *key, const char *fallback)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    return is_absent(item) ? fallback : cJSON_IsString(item) ? item->valuestring : "";
}

/* Llama 3's scaling of frequencies. */
static enum qg_status read_scaling(const struct reader *r, const cJSON *scaling,
                                   struct qg_lm_config *c)
{
    if (positive(r, scaling, "factor", 0, &c->rope_factor) != QG_OK ||
        positive(r, scaling, "low_freq_factor", 0, &c->rope_low) != QG_OK ||
        positive(r, scaling, "high_freq_factor", 0, &c->rope_high) != QG_OK ||
        size(r, scaling, "original_max_position_embeddings", 0, &c->rope_original) != QG_OK)
        return r->err->status;
    return c->rope_high > c->rope_low ? QG_OK
                                      : wrong(r, "high_freq_factor", "above low_freq_factor");
}

/* rope_parameters (transformers 5), or rope_theta and rope_scaling. */
static enum qg_status read_rope(const struct reader *r, const cJSON *json, struct qg_lm_config *c)
{
    const cJSON *all = cJSON_GetObjectItemCaseSensitive(json, "rope_parameters");
    const char *key = is_absent(all) ? "rope_scaling" : "rope_parameters";
    const cJSON *scaling = cJSON_GetObjectItemCaseSensitive(json, key);
    double share;
    if (!is_absent(scaling) && !cJSON_IsObject(scaling))
        return wrong(r, key, "an object or null");
    if (positive(r, is_absent(all) ? json : all, "rope_theta", 10000, &c->rope_theta) != QG_OK)
        return r->err->status;
    if (!number(json, "partial_rotary_factor", 1, &share) || share != 1 ||
        !number(scaling, "partial_rotary_factor", 1, &share) || share != 1)
        return wrong(r, "partial_rotary_factor", "1: positions turn all numbers of a head");
    const char *type = word(scaling, "rope_type", word(scaling, "type", "default"));
    if (strcmp(type, "default") == 0)
        return QG_OK;
    return strcmp(type, "llama3") == 0 ? read_scaling(r, scaling, c)
                                       : wrong(r, "rope_type", "default or llama3");
}

/* False, null or absent. */
static bool is_off(const cJSON *json, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    return is_absent(item) || cJSON_IsFalse(item);
}

static enum qg_status read_kind(const struct reader *r, const cJSON *json)
{
    const char *type = word(json, "model_type", "");
    if (strcmp(type, "llama") != 0 && strcmp(type, "mistral") != 0)
        return wrong(r, "model_type", "llama or mistral: no other kind of model is known");
    if (strcmp(word(json, "hidden_act", "silu"), "silu") != 0)
        return wrong(r, "hidden_act", "silu");
    if (!is_off(json, "attention_bias"))
        return wrong(r, "attention_bias", "false: biases are not modelled");
    if (!is_off(json, "mlp_bias"))
        return wrong(r, "mlp_bias", "false: biases are not modelled");
    if (!is_off(json, "sliding_window"))
        return wrong(r, "sliding_window", "null: attention always sees the whole context");
    return QG_OK;
}

/* The token that stands before a text, where there is one. */
static enum qg_status read_separator(const struct reader *r, const cJSON *json,
                                     struct qg_lm_config *c)
{
    double token;
    c->has_separator = !is_absent(cJSON_GetObjectItemCaseSensitive(json, "bos_token_id"));
    if (!number(json, "bos_token_id", 0, &token) || token < 0 || token >= (double)c->vocab ||
        token != floor(token))
        return wrong(r, "bos_token_id", "a token below vocab_size, or null");
    c->separator = (uint32_t)token;
    return QG_OK;
}

enum qg_status qg_lm_config_read(const cJSON *json, const char *path, struct qg_lm_config *ret_c,
                                 struct qg_error *err)
{
    struct reader r = {path, err};
    struct qg_lm_config c = {0};
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
        read_rope(&r, json, &c) != QG_OK || read_separator(&r, json, &c) != QG_OK)
        return err->status;
    if (c.width % c.heads && is_absent(cJSON_GetObjectItemCaseSensitive(json, "head_dim")))
        return wrong(&r, "num_attention_heads",
                     "a divisor of hidden_size, as there is no head_dim");
    if (c.layers > 4096)
        return wrong(&r, "num_hidden_layers", "at most 4096");
    if (c.heads % c.kv_heads)
        return wrong(&r, "num_key_value_heads", "a divisor of num_attention_heads");
    if (c.head % 2)
        return wrong(&r, "head_dim", "even: positions turn pairs of numbers");
    if (c.heads > MOST_SIZE / c.head)
        return wrong(&r, "head_dim", "such that all heads have at most 16777216 numbers");
    c.tied = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, "tie_word_embeddings"));
    *ret_c = c;
    return QG_OK;
}

const uint32_t *qg_lm_separator(const struct qg_lm_config *c)
{
    return c->has_separator ? &c->separator : NULL;
}
