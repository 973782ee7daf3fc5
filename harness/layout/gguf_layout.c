/* SPDX-License-Identifier: MIT
 *
 * GGUF, as llama.cpp reads it. From a GGUF file: names and metadata stay, but for the file's type.
 * From a Hugging Face checkpoint of Llama's architecture (llama, mistral), after llama.cpp's
 * converter: names are mapped,
 *
 *     model.embed_tokens       token_embd           self_attn.{q,k,v}_proj    attn_{q,k,v}
 *     model.norm               output_norm          self_attn.o_proj          attn_output
 *     lm_head                  output               mlp.{gate,up,down}_proj   ffn_{gate,up,down}
 *     model.layers.N.          blk.N.               input_layernorm           attn_norm
 *                                                   post_attention_layernorm  ffn_norm
 *
 * the rows of q and k are interleaved head by head (the two halves of a rotary pair become
 * neighbours), vectors become F32, which llama.cpp computes with, and the configuration becomes
 * metadata. The tokenizer is not carried over.
 */
#include <stdio.h>
#include <string.h>

#include "harness/io/gguf.h"
#include "harness/layout/layout.h"

static bool from_gguf(const struct qg_recipe_plan *plan)
{
    return qg_model_format(plan->model) == QG_MODEL_GGUF;
}

/* --- names ----------------------------------------------------------------------------------- */

static const struct {
    const char *module, *name;
} of_model[] = {{"model.embed_tokens", "token_embd"},
                {"model.norm", "output_norm"},
                {"lm_head", "output"}},
  of_layer[] = {{"self_attn.q_proj", "attn_q"},          {"self_attn.k_proj", "attn_k"},
                {"self_attn.v_proj", "attn_v"},          {"self_attn.o_proj", "attn_output"},
                {"mlp.gate_proj", "ffn_gate"},           {"mlp.up_proj", "ffn_up"},
                {"mlp.down_proj", "ffn_down"},           {"input_layernorm", "attn_norm"},
                {"post_attention_layernorm", "ffn_norm"}};

/* "model.layers.3.mlp.up_proj.weight" to "blk.3.ffn_up.weight"; false when there is no such thing.
 */
static bool map_name(const char *name, char *mapped, size_t size)
{
    int layer = 0, length = 0, n;
    if (!qg_layout_module(name, &length))
        return false;
    for (size_t i = 0; i < sizeof of_model / sizeof of_model[0]; i++)
        if ((size_t)length == strlen(of_model[i].module) &&
            strncmp(name, of_model[i].module, (size_t)length) == 0) {
            snprintf(mapped, size, "%s.weight", of_model[i].name);
            return true;
        }
    if (sscanf(name, "model.layers.%9d.%n", &layer, &n) != 1 || layer < 0)
        return false;
    for (size_t i = 0; i < sizeof of_layer / sizeof of_layer[0]; i++)
        if ((size_t)(length - n) == strlen(of_layer[i].module) &&
            strncmp(name + n, of_layer[i].module, (size_t)(length - n)) == 0) {
            snprintf(mapped, size, "blk.%d.%s.weight", layer, of_layer[i].name);
            return true;
        }
    return false;
}

static bool ends_in(const char *name, const char *ending)
{
    size_t n = strlen(name), e = strlen(ending);
    return n >= e && strcmp(name + n - e, ending) == 0;
}

/* --- the configuration ----------------------------------------------------------------------- */

static double number(const struct qg_recipe_plan *plan, const char *key, double otherwise)
{
    const cJSON *j = cJSON_GetObjectItemCaseSensitive(qg_model_config(plan->model), key);
    return cJSON_IsNumber(j) && j->valuedouble > 0 && j->valuedouble < 0x1p31 ? j->valuedouble
                                                                              : otherwise;
}

/* rope_parameters, or, before transformers 5, rope_scaling. */
static const cJSON *rope_of(const struct qg_recipe_plan *plan)
{
    const cJSON *config = qg_model_config(plan->model);
    const cJSON *j = cJSON_GetObjectItemCaseSensitive(config, "rope_parameters");
    return j ? j : cJSON_GetObjectItemCaseSensitive(config, "rope_scaling");
}

static double rope_base(const struct qg_recipe_plan *plan)
{
    const cJSON *j = cJSON_GetObjectItemCaseSensitive(rope_of(plan), "rope_theta");
    return cJSON_IsNumber(j) ? j->valuedouble : number(plan, "rope_theta", 10000);
}

static enum qg_status check_architecture(const struct qg_recipe_plan *plan, struct qg_error *err)
{
    const cJSON *config = qg_model_config(plan->model), *rope = rope_of(plan);
    const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(config, "model_type"));
    const char *scaling = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(rope, "rope_type"));
    if (!config)
        return qg_fail(err, QG_EINVAL,
                       "there is no config.json, which GGUF's metadata is made from");
    if (!type || (strcmp(type, "llama") != 0 && strcmp(type, "mistral") != 0))
        return qg_fail(
            err, QG_EINVAL,
            "model_type '%.40s': names and metadata of GGUF are known here for llama and "
            "mistral only; convert the model by llama.cpp's convert_hf_to_gguf.py first, "
            "unquantized, then its GGUF file here",
            type ? type : "(none)");
    scaling =
        scaling ? scaling : cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(rope, "type"));
    if (scaling && strcmp(scaling, "default") != 0)
        return qg_fail(err, QG_EINVAL,
                       "rotary embeddings are scaled by '%.40s', which GGUF stores as a tensor of "
                       "factors or further metadata; only the default is known here",
                       scaling);
    static const char *const keys[] = {"num_attention_heads", "num_hidden_layers", "hidden_size",
                                       "intermediate_size"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (number(plan, keys[i], 0) < 1)
            return qg_fail(err, QG_EINVAL, "config.json has no %s", keys[i]);
    return QG_OK;
}

/* --- tensors --------------------------------------------------------------------------------- */

static size_t head(const struct qg_recipe_plan *plan, const struct qg_assignment *as)
{
    if (from_gguf(plan))
        return 0;
    double heads = number(plan, "num_attention_heads", 1);
    if (ends_in(as->name, ".self_attn.k_proj.weight"))
        heads = number(plan, "num_key_value_heads", heads);
    else if (!ends_in(as->name, ".self_attn.q_proj.weight"))
        return 0;
    return as->rows / (size_t)heads;
}

static const char *refuse(const struct qg_assignment *as, const struct qg_args *convert)
{
    (void)convert;
    if (!qg_gguf_type_of_scheme(as->convert.scheme))
        return "GGUF has no such blocks; its schemes are q8_0, q4_0, q4_K, ...";
    return as->padded ? "GGUF has no padded columns" : NULL;
}

/* Appends a tensor of that type under its name in GGUF. */
static enum qg_status add(const struct qg_recipe_plan *plan, const struct qg_assignment *as,
                          const char *word, size_t bytes, int plane, struct qg_slots *s,
                          struct qg_error *err)
{
    char mapped[128];
    const struct qg_model_tensor *t = as->tensor;
    size_t rows = head(plan, as);
    if (from_gguf(plan))
        snprintf(mapped, sizeof mapped, "%s", as->name);
    else if (!map_name(as->name, mapped, sizeof mapped))
        return qg_fail(err, QG_EINVAL,
                       "tensor '%.80s' has no place in a GGUF file of Llama's "
                       "architecture",
                       as->name);
    if (rows && (rows % 2 || as->rows % rows))
        return qg_fail(err, QG_EINVAL, "tensor '%.80s': its %zu rows are not whole heads of pairs",
                       as->name, as->rows);
    return qg_layout_add(s, mapped, word, t->rank, t->shape, bytes, plane, err);
}

static enum qg_status store(const struct qg_recipe_plan *plan, const struct qg_assignment *as,
                            const struct qg_args *convert, struct qg_slots *s, struct qg_error *err)
{
    return add(plan, as, qg_gguf_type_of_scheme(as->convert.scheme)->word,
               qg_bytes(&convert->out[0]), 0, s, err);
}

static enum qg_status keep(const struct qg_recipe_plan *plan, const struct qg_assignment *as,
                           struct qg_slots *s, struct qg_error *err)
{
    const struct qg_model_tensor *t = as->tensor;
    if (from_gguf(plan))
        return add(plan, as, t->dtype_word, t->bytes, -1, s, err);
    if (ends_in(as->name, ".rotary_emb.inv_freq")) // computed from the base
        return QG_OK;
    if (t->t.dtype != QG_F32 && t->t.dtype != QG_BF16 && t->t.dtype != QG_F16)
        return qg_fail(err, QG_EINVAL,
                       "tensor '%.80s' is %s, which llama.cpp does not compute with", as->name,
                       t->dtype_word);
    bool vector = t->rank < 2;
    return add(plan, as, vector ? "F32" : t->dtype_word,
               vector ? qg_count(&t->t) * sizeof(float) : t->bytes, -1, s, err);
}

/* --- metadata -------------------------------------------------------------------------------- */

/* llama_ftype of the scheme that most weights have; 0 when none is quantized. */
static unsigned file_type(const struct qg_recipe_plan *plan)
{
    static const struct {
        const char *scheme;
        unsigned type;
    } types[] = {{"q4_0", 2},   {"q4_1", 3},        {"q8_0", 7},       {"q5_0", 8},
                 {"q5_1", 9},   {"q4_K", 14},       {"q6_K", 18},      {"tq1_0", 36},
                 {"tq2_0", 37}, {"mxfp4-ggml", 38}, {"nvfp4-ggml", 39}};
    double most = 0;
    unsigned found = 0;
    for (size_t k = 0; k < sizeof types / sizeof types[0]; k++) {
        double weights = 0;
        for (size_t i = 0; i < plan->n; i++) {
            const struct qg_assignment *as = &plan->of[i];
            const struct qg_scheme *scheme =
                as->convert.scheme ? as->convert.scheme : as->tensor->scheme;
            if (scheme && strcmp(scheme->name, types[k].scheme) == 0)
                weights += (double)as->rows * (double)as->cols;
        }
        if (weights > most)
            most = weights, found = types[k].type;
    }
    return found;
}

static enum qg_status config(const struct qg_recipe_plan *plan, cJSON **ret_config,
                             struct qg_error *err)
{
    if (!from_gguf(plan) && check_architecture(plan, err) != QG_OK)
        return err->status;
    if (!file_type(plan))
        return qg_fail(err, QG_EINVAL, "the plan quantizes no tensor");
    *ret_config = cJSON_CreateObject();
    cJSON_AddNumberToObject(*ret_config, "general.file_type", file_type(plan));
    return QG_OK;
}

static enum qg_status add_float(struct qg_gguf_meta *m, const char *key, double value,
                                struct qg_error *err)
{
    const float f = (float)value;
    const struct qg_gguf_entry e = {key, QG_GGUF_F32, &f, sizeof f};
    return qg_gguf_meta_add(m, &e, err);
}

static enum qg_status add_whole(struct qg_gguf_meta *m, const char *key, double value,
                                struct qg_error *err)
{
    return value >= 1 ? qg_gguf_meta_u32(m, key, (uint32_t)value, err) : QG_OK;
}

/* What llama.cpp asks for of this architecture. */
static enum qg_status add_llama(const struct qg_recipe_plan *plan, struct qg_gguf_meta *m,
                                struct qg_error *err)
{
    double heads = number(plan, "num_attention_heads", 0), width = number(plan, "hidden_size", 0);
    double size = number(plan, "head_dim", (double)((size_t)width / (size_t)heads));
    const struct {
        const char *key;
        double value;
    } wholes[] = {{"llama.block_count", number(plan, "num_hidden_layers", 0)},
                  {"llama.context_length", number(plan, "max_position_embeddings", 0)},
                  {"llama.embedding_length", width},
                  {"llama.feed_forward_length", number(plan, "intermediate_size", 0)},
                  {"llama.attention.head_count", heads},
                  {"llama.attention.head_count_kv", number(plan, "num_key_value_heads", heads)},
                  {"llama.attention.key_length", size},
                  {"llama.attention.value_length", size},
                  {"llama.rope.dimension_count", size},
                  {"llama.attention.sliding_window", number(plan, "sliding_window", 0)},
                  {"llama.vocab_size", number(plan, "vocab_size", 0)}};
    if (qg_gguf_meta_string(m, "general.architecture", "llama", err) != QG_OK ||
        add_float(m, "llama.rope.freq_base", rope_base(plan), err) != QG_OK ||
        add_float(m, "llama.attention.layer_norm_rms_epsilon", number(plan, "rms_norm_eps", 1e-6),
                  err) != QG_OK)
        return err->status;
    for (size_t i = 0; i < sizeof wholes / sizeof wholes[0]; i++)
        if (add_whole(m, wholes[i].key, wholes[i].value, err) != QG_OK)
            return err->status;
    return QG_OK;
}

static enum qg_status copy_metadata(const struct qg_gguf_file *f, struct qg_gguf_meta *m,
                                    struct qg_error *err)
{
    const struct qg_gguf_entry *e;
    for (size_t i = 0; (e = qg_gguf_entry_at(f, i)); i++)
        if (strcmp(e->key, "general.file_type") != 0 &&
            strcmp(e->key, "general.quantization_version") != 0 &&
            qg_gguf_meta_add(m, e, err) != QG_OK)
            return err->status;
    return QG_OK;
}

static enum qg_status meta(const struct qg_recipe_plan *plan, struct qg_gguf_meta **ret_m,
                           struct qg_error *err)
{
    struct qg_gguf_meta *m = qg_gguf_meta_new();
    if (!m)
        return qg_fail(err, QG_ENOMEM, "no memory for metadata");
    enum qg_status status = from_gguf(plan) ? copy_metadata(qg_model_gguf(plan->model), m, err)
                                            : add_llama(plan, m, err);
    if (status == QG_OK)
        status = qg_gguf_meta_u32(m, "general.file_type", file_type(plan), err);
    if (status == QG_OK)
        status = qg_gguf_meta_u32(m, "general.quantization_version", 2, err);
    if (status == QG_OK)
        *ret_m = m;
    else
        qg_gguf_meta_free(&m);
    return status;
}

const struct qg_layout qg_layouts_gguf_layout[] = {
    {
        .name = "gguf",
        .summary = "GGUF files; from Hugging Face: Llama's architecture",
        .source = "gguf:gguf/tensor_mapping.py, gguf/constants.py; "
                  "llama.cpp:convert_hf_to_gguf.py LlamaModel",
        .container = QG_MODEL_GGUF,
        .refuse = refuse,
        .store = store,
        .keep = keep,
        .head = head,
        .config = config,
        .meta = meta,
    },
    {.name = NULL},
};
