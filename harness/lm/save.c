/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/io/safetensors.h"
#include "harness/lm/lm.h"
#include "kernels/c/rows.h"

static cJSON *config_of(const struct qg_lm *m, enum qg_dtype dtype)
{
    const struct qg_lm_config *c = &m->config;
    cJSON *json = cJSON_CreateObject(), *names = cJSON_AddArrayToObject(json, "architectures");
    cJSON_AddItemToArray(names, cJSON_CreateString("LlamaForCausalLM"));
    cJSON_AddStringToObject(json, "model_type", "llama");
    cJSON_AddStringToObject(json, "hidden_act", "silu");
    cJSON_AddStringToObject(json, "torch_dtype",
                            dtype == QG_F32   ? "float32"
                            : dtype == QG_F16 ? "float16"
                                              : "bfloat16");
    cJSON_AddBoolToObject(json, "attention_bias", false);
    cJSON_AddBoolToObject(json, "mlp_bias", false);
    cJSON_AddNumberToObject(json, "vocab_size", (double)c->vocab);
    cJSON_AddNumberToObject(json, "hidden_size", (double)c->width);
    cJSON_AddNumberToObject(json, "intermediate_size", (double)c->hidden);
    cJSON_AddNumberToObject(json, "num_hidden_layers", (double)c->layers);
    cJSON_AddNumberToObject(json, "num_attention_heads", (double)c->heads);
    cJSON_AddNumberToObject(json, "num_key_value_heads", (double)c->kv_heads);
    cJSON_AddNumberToObject(json, "head_dim", (double)c->head);
    cJSON_AddNumberToObject(json, "max_position_embeddings", (double)c->context);
    cJSON_AddNumberToObject(json, "rms_norm_eps", c->norm_eps);
    cJSON_AddNumberToObject(json, "rope_theta", c->rope_theta);
    cJSON_AddBoolToObject(json, "tie_word_embeddings", c->tied);
    if (c->has_separator) {
        cJSON_AddNumberToObject(json, "bos_token_id", c->separator);
        cJSON_AddNumberToObject(json, "eos_token_id", c->separator);
    }
    if (c->rope_factor != 0) {
        cJSON *rope = cJSON_AddObjectToObject(json, "rope_scaling");
        cJSON_AddStringToObject(rope, "rope_type", "llama3");
        cJSON_AddNumberToObject(rope, "factor", c->rope_factor);
        cJSON_AddNumberToObject(rope, "low_freq_factor", c->rope_low);
        cJSON_AddNumberToObject(rope, "high_freq_factor", c->rope_high);
        cJSON_AddNumberToObject(rope, "original_max_position_embeddings", (double)c->rope_original);
    }
    return json;
}

static enum qg_status write_config(const struct qg_lm *m, const char *folder, enum qg_dtype dtype,
                                   bool overwrite, struct qg_error *err)
{
    char path[1024], *text = NULL;
    cJSON *json = config_of(m, dtype);
    char *printed = cJSON_Print(json);
    cJSON_Delete(json);
    size_t n = printed ? strlen(printed) : 0;
    if (!printed || !(text = malloc(n + 2))) {
        cJSON_free(printed);
        return qg_fail(err, QG_ENOMEM, "no memory for config.json");
    }
    snprintf(text, n + 2, "%s\n", printed);
    cJSON_free(printed);
    snprintf(path, sizeof path, "%s/config.json", folder);
    enum qg_status status = qg_write_text(path, text, overwrite ? QG_WRITE_OVER : 0, err);
    free(text);
    return status;
}

enum qg_status qg_lm_save(const struct qg_lm *m, const char *folder, enum qg_dtype dtype,
                          bool overwrite, struct qg_error *err)
{
    char path[1024];
    struct qg_tensor *t = calloc(m->n_tensors, sizeof *t);
    char *data = malloc(m->n_params * qg_dtype_bytes(dtype));
    enum qg_status status = QG_OK;
    size_t n = 0;
    if (!t || !data)
        status = qg_fail(err, QG_ENOMEM, "no memory to write a model");
    for (size_t i = 0; i < m->n_tensors && status == QG_OK; i++) {
        const struct qg_lm_tensor *s = &m->tensor[i];
        if (s->part == QG_LM_A || s->part == QG_LM_B)
            continue;
        bool matrix = qg_lm_is_matrix(s);
        t[n] = (struct qg_tensor){s->name, dtype, matrix ? 2 : 1, {matrix ? s->rows : s->cols}, 0};
        t[n].shape[1] = matrix ? s->cols : 0;
        t[n].data = data + s->at * qg_dtype_bytes(dtype);
        qg_store(&t[n++], 0, s->rows * s->cols, m->params + s->at);
    }
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    if (status == QG_OK)
        status = qg_safetensors_write(path, t, n, overwrite, err);
    if (status == QG_OK)
        status = write_config(m, folder, dtype, overwrite, err);
    free(t);
    free(data);
    return status;
}
