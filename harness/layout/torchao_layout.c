/* SPDX-License-Identifier: MIT
 *
 * torchao's tensors in safetensors, as its flatten_tensor_state_dict writes and transformers loads
 * them: MODULE.weight becomes MODULE._weight_qdata, _weight_scale and (integers)
 * _weight_zero_point. The class of the tensor and what is no tensor of it stand in __metadata__,
 * under the weight's name, as JSON; "tensor_names" lists all. The configuration names the quantizer
 * of each module (FqnToConfig).
 *
 *     int8, int8-g32, int8-int4, intx, intx-dynamic      IntxUnpackedToInt8Tensor
 *     int8-row                                           Int8Tensor
 *     fp8                                                Float8Tensor
 */
#include <stdio.h>
#include <string.h>

#include "harness/layout/layout.h"

enum kind { NONE, INTX, INT8, FLOAT8 };

static enum kind kind_of(const struct qg_scheme *s)
{
    static const struct {
        const char *scheme;
        enum kind kind;
    } kinds[] = {{"int8", INTX},         {"int8-g32", INTX}, {"int8-int4", INTX}, {"intx", INTX},
                 {"intx-dynamic", INTX}, {"int8-row", INT8}, {"fp8", FLOAT8}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(kinds[i].scheme, s->name) == 0)
            return kinds[i].kind;
    return NONE;
}

static const char *refuse(const struct qg_assignment *as, const struct qg_args *convert)
{
    int length;
    (void)convert;
    if (kind_of(as->convert.scheme) == NONE)
        return "its tensor is not among those of torchao that are known here";
    if (as->tensor->t.rank != 2)
        return "torchao's tensors are matrices here";
    if (!qg_layout_module(as->name, &length))
        return "torchao's names are made from those that end in .weight";
    return as->padded ? "torchao's tensors have no padded columns" : NULL;
}

static enum qg_status store(const struct qg_recipe_plan *plan, const struct qg_assignment *as,
                            const struct qg_args *convert, struct qg_slots *s, struct qg_error *err)
{
    static const char *const suffixes[] = {"._weight_qdata", "._weight_scale",
                                           "._weight_zero_point"};
    (void)plan;
    for (int p = 0; p < convert->n_out; p++)
        if (qg_layout_plane(s, as->name, suffixes[p], convert, p, err) != QG_OK)
            return err->status;
    return QG_OK;
}

/* --- what is no tensor ----------------------------------------------------------------------- */

/* {"_type": TYPE, "_data": DATA}, as torchao writes everything; DATA is taken over. */
static cJSON *typed(const char *type, cJSON *data)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "_type", type);
    cJSON_AddItemToObject(o, "_data", data);
    return o;
}

static cJSON *torch_dtype(const char *name)
{
    return typed("torch.dtype", cJSON_CreateString(name));
}

static cJSON *dtype_of(const struct qg_args *a)
{
    return torch_dtype(a->dtype == QG_F32    ? "float32"
                       : a->dtype == QG_BF16 ? "bfloat16"
                                             : "float16");
}

/* "int4": what codes are meant as. */
static cJSON *target_of(const struct qg_args *a)
{
    char name[16];
    const struct qg_param *bits = qg_param_find(a->scheme, "bits");
    snprintf(name, sizeof name, "int%d",
             bits ? (int)a->param[bits - a->scheme->params]
                  : a->scheme->operand[a->operand].code_bits);
    return torch_dtype(name);
}

/* Whether the layer's inputs are quantized, too. */
static bool is_dynamic(const struct qg_assignment *as)
{
    return as->kind != QG_LAYER_EMBEDDING &&
           as->convert.scheme->operand[QG_ACTIVATION].convert != NULL;
}

static cJSON *describe(const struct qg_assignment *as, const struct qg_args *a)
{
    static const char *const types[] = {
        [INTX] = "IntxUnpackedToInt8Tensor", [INT8] = "Int8Tensor", [FLOAT8] = "Float8Tensor"};
    enum kind kind = kind_of(a->scheme);
    cJSON *data = cJSON_CreateObject(), *tensor = typed(types[kind], data);
    const double block[2] = {1, (double)qg_group(a)};
    cJSON_AddItemToObject(data, "block_size", cJSON_CreateDoubleArray(block, 2));
    cJSON_AddItemToObject(data, "dtype", dtype_of(a));
    if (kind == INTX) {
        cJSON_AddItemToObject(data, "target_dtype", target_of(a));
        if (is_dynamic(as))
            cJSON_AddStringToObject(data, "activation_quantization", "int8_asym_per_token");
        else
            cJSON_AddNullToObject(data, "activation_quantization");
    } else
        cJSON_AddNullToObject(data, "act_quant_kwargs");
    if (kind == INT8)
        cJSON_AddBoolToObject(data, "reduce_range", false);
    if (kind == FLOAT8) {
        cJSON_AddNullToObject(data, "mm_config");
        cJSON_AddItemToObject(data, "kernel_preference",
                              typed("KernelPreference", cJSON_CreateString("AUTO")));
    }
    const char *const names[] = {"qdata", "scale", "zero_point"};
    cJSON_AddItemToObject(tensor, "_tensor_data_names",
                          cJSON_CreateStringArray(names, kind == FLOAT8 ? 2 : 3));
    return tensor;
}

static void add_text(cJSON *metadata, const char *key, cJSON *value)
{
    char *text = cJSON_PrintUnformatted(value);
    cJSON_AddStringToObject(metadata, key, text ? text : "");
    cJSON_free(text);
    cJSON_Delete(value);
}

static enum qg_status about(const struct qg_recipe_plan *plan, cJSON *metadata,
                            struct qg_error *err)
{
    cJSON *names = cJSON_CreateArray();
    for (size_t i = 0; i < plan->n; i++) {
        const struct qg_assignment *as = &plan->of[i];
        struct qg_args a;
        cJSON *plain = cJSON_CreateObject();
        cJSON_AddStringToObject(plain, "_type", "Tensor");
        cJSON_AddItemToArray(names, cJSON_CreateString(as->name));
        if (as->convert.scheme && qg_layout_args(as, &a, err) != QG_OK) {
            cJSON_Delete(plain);
            cJSON_Delete(names);
            return err->status;
        }
        add_text(metadata, as->name, as->convert.scheme ? describe(as, &a) : plain);
        if (as->convert.scheme)
            cJSON_Delete(plain);
    }
    add_text(metadata, "tensor_names", names);
    return QG_OK;
}

/* --- quantization_config --------------------------------------------------------------------- */

static cJSON *versioned(const char *type, int version, cJSON *data)
{
    cJSON *o = typed(type, data);
    cJSON_AddNumberToObject(o, "_version", version);
    return o;
}

static cJSON *granularity_of(const struct qg_args *a)
{
    cJSON *data = cJSON_CreateObject();
    bool row = qg_group(a) == a->cols;
    cJSON_AddNumberToObject(data, row ? "axis" : "group_size", row ? 0 : (double)qg_group(a));
    return versioned(row ? "PerAxis" : "PerGroup", 1, data);
}

/* torchao's configuration that quantizes a module so. */
static cJSON *quantizer(const struct qg_assignment *as, const struct qg_args *a)
{
    cJSON *data = cJSON_CreateObject();
    if (kind_of(a->scheme) == INT8)
        return versioned("Int8WeightOnlyConfig", 2, data);
    if (kind_of(a->scheme) == FLOAT8)
        return versioned("Float8WeightOnlyConfig", 2, data);
    cJSON_AddItemToObject(data, "weight_dtype", target_of(a));
    cJSON_AddItemToObject(data, is_dynamic(as) ? "weight_granularity" : "granularity",
                          granularity_of(a));
    return versioned(
        is_dynamic(as) ? "Int8DynamicActivationIntxWeightConfig" : "IntxWeightOnlyConfig", 2, data);
}

static enum qg_status config(const struct qg_recipe_plan *plan, cJSON **ret_config,
                             struct qg_error *err)
{
    cJSON *modules = cJSON_CreateObject(), *data = cJSON_CreateObject();
    cJSON *c = cJSON_CreateObject(), *type = cJSON_CreateObject();
    bool ends = false;
    cJSON_AddItemToObject(data, "fqn_to_config", modules);
    cJSON_AddStringToObject(c, "quant_method", "torchao");
    cJSON_AddItemToObject(c, "quant_type", type);
    cJSON_AddItemToObject(type, "default", versioned("FqnToConfig", 1, data));
    cJSON_AddNullToObject(c, "modules_to_not_convert");
    for (size_t i = 0; i < plan->n; i++) {
        const struct qg_assignment *as = &plan->of[i];
        struct qg_args a;
        char module[1024];
        int length = 0;
        if (!as->convert.scheme)
            continue;
        if (qg_layout_args(as, &a, err) != QG_OK) {
            cJSON_Delete(c);
            return err->status;
        }
        ends |= as->kind == QG_LAYER_EMBEDDING || as->kind == QG_LAYER_HEAD;
        qg_layout_module(as->name, &length);
        snprintf(module, sizeof module, "%.*s", length, as->name);
        cJSON_AddItemToObject(modules, module, quantizer(as, &a));
    }
    cJSON_AddBoolToObject(c, "include_input_output_embeddings", ends);
    *ret_config = c;
    return QG_OK;
}

const struct qg_layout qg_layouts_torchao_layout[] = {
    {
        .name = "torchao",
        .summary = "torchao's integer and float8 tensors, flattened (transformers)",
        .source = "ao:torchao/prototype/safetensors; "
                  "transformers:src/transformers/quantizers/quantizer_torchao.py",
        .refuse = refuse,
        .store = store,
        .config = config,
        .about = about,
    },
    {.name = NULL},
};
