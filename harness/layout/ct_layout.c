/* SPDX-License-Identifier: MIT
 *
 * compressed-tensors, as llm-compressor writes it and vLLM and transformers load it: a module's
 * weight_packed (ct-fp8: weight), weight_scale and, where codes are packed, weight_shape; in the
 * configuration one group per set of parameters, and the modules that are left alone.
 */
#include <stdio.h>
#include <string.h>

#include "harness/layout/layout.h"

static bool is_fp8(const struct qg_scheme *s)
{
    return strcmp(s->name, "ct-fp8") == 0;
}

static const char *format_of(const struct qg_scheme *s)
{
    return is_fp8(s) ? "float-quantized" : "pack-quantized";
}

static const char *refuse(const struct qg_assignment *as, const struct qg_args *convert)
{
    (void)convert;
    return strncmp(as->convert.scheme->name, "ct-", 3) == 0
               ? qg_layout_linear(as)
               : "compressed-tensors computes its codes otherwise; schemes ct-* are its own";
}

static enum qg_status store(const struct qg_recipe_plan *plan, const struct qg_assignment *as,
                            const struct qg_args *convert, struct qg_slots *s, struct qg_error *err)
{
    (void)plan;
    bool packed = !is_fp8(convert->scheme);
    if (qg_layout_plane(s, as->name, packed ? ".weight_packed" : ".weight", convert, 0, err) !=
            QG_OK ||
        qg_layout_plane(s, as->name, ".weight_scale", convert, 1, err) != QG_OK)
        return err->status;
    return packed ? qg_layout_made(s, as->name, ".weight_shape", "I64", 8, 1, (size_t[]){2}, err)
                  : QG_OK;
}

/* weight_shape. */
static void fill(const struct qg_args *convert, const struct qg_slot *t, void *dst)
{
    const int64_t shape[2] = {(int64_t)convert->rows, (int64_t)convert->cols};
    memcpy(dst, shape, t->bytes);
}

/* What a group says of weights or, with `dynamic`, of inputs. */
static cJSON *arguments(const struct qg_args *a, bool dynamic)
{
    cJSON *o = cJSON_CreateObject();
    size_t group = qg_group(a);
    bool grouped = strcmp(a->scheme->name, "ct-int4") == 0;
    cJSON_AddNumberToObject(o, "num_bits", a->scheme->operand[QG_WEIGHT].code_bits);
    cJSON_AddStringToObject(o, "type", is_fp8(a->scheme) ? "float" : "int");
    cJSON_AddBoolToObject(o, "symmetric", true);
    cJSON_AddStringToObject(o, "strategy", dynamic ? "token" : grouped ? "group" : "channel");
    if (grouped)
        cJSON_AddNumberToObject(o, "group_size", (double)group);
    else
        cJSON_AddNullToObject(o, "group_size");
    cJSON_AddBoolToObject(o, "dynamic", dynamic);
    return o;
}

static bool same_group(const struct qg_assignment *a, const struct qg_assignment *b)
{
    return a->convert.scheme == b->convert.scheme &&
           strcmp(a->convert.params, b->convert.params) == 0;
}

/* Whether assignment i is the first of its scheme and parameters. */
static bool begins_group(const struct qg_recipe_plan *plan, size_t i)
{
    for (size_t j = 0; j < i; j++)
        if (plan->of[j].convert.scheme && same_group(&plan->of[j], &plan->of[i]))
            return false;
    return plan->of[i].convert.scheme != NULL;
}

/* "Linear" says all there are; where there are several groups, each names its modules. */
static cJSON *targets(const struct qg_recipe_plan *plan, size_t first, bool all)
{
    cJSON *list = cJSON_CreateArray();
    if (all)
        cJSON_AddItemToArray(list, cJSON_CreateString("Linear"));
    for (size_t i = first; i < plan->n && !all; i++) {
        char module[1024];
        int length;
        if (!plan->of[i].convert.scheme || !same_group(&plan->of[first], &plan->of[i]) ||
            !qg_layout_module(plan->of[i].name, &length))
            continue;
        snprintf(module, sizeof module, "%.*s", length, plan->of[i].name);
        cJSON_AddItemToArray(list, cJSON_CreateString(module));
    }
    return list;
}

static enum qg_status add_group(cJSON *groups, const struct qg_recipe_plan *plan, size_t first,
                                bool all, struct qg_error *err)
{
    struct qg_args a;
    char name[32];
    const struct qg_scheme *s = plan->of[first].convert.scheme;
    if (qg_layout_args(&plan->of[first], &a, err) != QG_OK)
        return err->status;
    snprintf(name, sizeof name, "group_%d", cJSON_GetArraySize(groups));
    cJSON *group = cJSON_AddObjectToObject(groups, name);
    cJSON_AddItemToObject(group, "targets", targets(plan, first, all));
    cJSON_AddItemToObject(group, "weights", arguments(&a, false));
    if (is_fp8(s))
        cJSON_AddItemToObject(group, "input_activations", arguments(&a, true));
    else
        cJSON_AddNullToObject(group, "input_activations");
    cJSON_AddNullToObject(group, "output_activations");
    cJSON_AddStringToObject(group, "format", format_of(s));
    return QG_OK;
}

static enum qg_status config(const struct qg_recipe_plan *plan, cJSON **ret_config,
                             struct qg_error *err)
{
    size_t n = 0;
    const char *format = NULL;
    for (size_t i = 0; i < plan->n; i++) {
        if (!begins_group(plan, i))
            continue;
        const char *own = format_of(plan->of[i].convert.scheme);
        format = format && strcmp(format, own) != 0 ? "mixed-precision" : own;
        n++;
    }
    if (!n)
        return qg_fail(err, QG_EINVAL, "the plan quantizes no tensor");
    cJSON *c = cJSON_CreateObject(), *groups;
    cJSON_AddStringToObject(c, "quant_method", "compressed-tensors");
    cJSON_AddStringToObject(c, "format", format);
    cJSON_AddStringToObject(c, "quantization_status", "compressed");
    cJSON_AddItemToObject(c, "ignore", qg_layout_kept(plan));
    groups = cJSON_AddObjectToObject(c, "config_groups");
    for (size_t i = 0; i < plan->n; i++)
        if (begins_group(plan, i) && add_group(groups, plan, i, n == 1, err) != QG_OK) {
            cJSON_Delete(c);
            return err->status;
        }
    *ret_config = c;
    return QG_OK;
}

const struct qg_layout qg_layouts_ct_layout[] = {
    {
        .name = "compressed-tensors",
        .summary =
            "compressed-tensors' pack-quantized and float-quantized modules (vLLM, transformers)",
        .source = "compressed-tensors:src/compressed_tensors/compressors/pack_quantized, "
                  "naive_quantized; .../quantization/quant_config.py",
        .refuse = refuse,
        .store = store,
        .fill = fill,
        .config = config,
    },
    {.name = NULL},
};
