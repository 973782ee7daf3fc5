/* SPDX-License-Identifier: MIT
 *
 * The two int4 layouts of the first wave, under the names that AutoGPTQ, GPTQModel and AutoAWQ
 * give to the buffers of a module: qweight, qzeros, scales, and for gptq g_idx.
 */
#include <string.h>

#include "harness/layout/layout.h"

static const char *refuse(const struct qg_assignment *as, const char *own)
{
    return strcmp(as->convert.scheme->name, own) == 0 ? qg_layout_linear(as)
                                                      : "its codes are those of another scheme";
}

static enum qg_status store(const struct qg_recipe_plan *plan, const struct qg_assignment *as,
                            const struct qg_args *convert, struct qg_slots *s, struct qg_error *err)
{
    (void)plan;
    static const char *const suffixes[] = {".qweight", ".qzeros", ".scales", ".g_idx"};
    for (int p = 0; p < convert->n_out; p++)
        if (qg_layout_plane(s, as->name, suffixes[p], convert, p, err) != QG_OK)
            return err->status;
    return QG_OK;
}

/* --- gptq ------------------------------------------------------------------------------------ */

static const char *choice(const struct qg_args *a, const char *name)
{
    const struct qg_param *p = qg_param_find(a->scheme, name);
    return p->choices[(int)a->param[p - a->scheme->params]];
}

static const char *gptq_refuse(const struct qg_assignment *as, const struct qg_args *convert)
{
    const char *other = refuse(as, "gptq");
    if (other)
        return other;
    if (strcmp(choice(convert, "writer"), "autogptq") == 0 && as->kind == QG_LAYER_HEAD)
        return "AutoGPTQ never looks for a quantized head; leave the head as it is, or set a "
               "writer of gptqmodel";
    return NULL;
}

/* Modules left alone, as GPTQModel spells it: "-:" and an expression that the module's name must
 * match. */
static cJSON *dynamic_of(const struct qg_recipe_plan *plan)
{
    cJSON *kept = qg_layout_kept(plan), *rules = cJSON_CreateObject(), *module;
    cJSON_ArrayForEach(module, kept)
    {
        char rule[2100] = "-:^";
        size_t n = strlen(rule);
        for (const char *p = module->valuestring; *p && n < sizeof rule - 4; p++) {
            if (strchr(".^$*+?()[]{}|\\", *p))
                rule[n++] = '\\';
            rule[n++] = *p;
        }
        rule[n++] = '$';
        rule[n] = '\0';
        cJSON_AddObjectToObject(rules, rule);
    }
    cJSON_Delete(kept);
    return rules;
}

static enum qg_status gptq_config(const struct qg_recipe_plan *plan, cJSON **ret_config,
                                  struct qg_error *err)
{
    struct qg_args a;
    if (qg_layout_uniform(plan, &a, err) != QG_OK)
        return err->status;
    bool head = false;
    for (size_t i = 0; i < plan->n; i++)
        head |= plan->of[i].convert.scheme && plan->of[i].kind == QG_LAYER_HEAD;
    cJSON *c = cJSON_CreateObject();
    bool v2 = strcmp(choice(&a, "writer"), "gptqmodel-v2") == 0;
    cJSON_AddStringToObject(c, "quant_method", "gptq");
    cJSON_AddNumberToObject(c, "bits", 4);
    cJSON_AddNumberToObject(c, "group_size", (double)qg_group(&a));
    cJSON_AddBoolToObject(c, "sym", strcmp(choice(&a, "sym"), "yes") == 0);
    cJSON_AddBoolToObject(c, "desc_act", false);
    cJSON_AddBoolToObject(c, "lm_head", head);
    cJSON_AddStringToObject(c, "checkpoint_format", v2 ? "gptq_v2" : "gptq");
    cJSON_AddItemToObject(c, "dynamic", dynamic_of(plan));
    // GPTQModel believes asymmetric codes of format v1 only of itself.
    if (strcmp(choice(&a, "writer"), "autogptq") != 0)
        cJSON_AddItemToArray(
            cJSON_AddArrayToObject(cJSON_AddObjectToObject(c, "meta"), "quantizer"),
            cJSON_CreateString("gptqmodel:7.7.0"));
    *ret_config = c;
    return QG_OK;
}

/* --- awq ------------------------------------------------------------------------------------- */

static const char *awq_refuse(const struct qg_assignment *as, const struct qg_args *convert)
{
    (void)convert;
    if (as->kind == QG_LAYER_HEAD)
        return "its loaders never look for a quantized head; leave the head as it is";
    return refuse(as, "awq");
}

static enum qg_status awq_config(const struct qg_recipe_plan *plan, cJSON **ret_config,
                                 struct qg_error *err)
{
    struct qg_args a;
    if (qg_layout_uniform(plan, &a, err) != QG_OK)
        return err->status;
    cJSON *c = cJSON_CreateObject();
    cJSON_AddStringToObject(c, "quant_method", "awq");
    cJSON_AddNumberToObject(c, "bits", 4);
    cJSON_AddNumberToObject(c, "group_size", (double)qg_group(&a));
    cJSON_AddBoolToObject(c, "zero_point", true);
    cJSON_AddStringToObject(c, "version", "gemm");
    cJSON_AddItemToObject(c, "modules_to_not_convert", qg_layout_kept(plan));
    *ret_config = c;
    return QG_OK;
}

const struct qg_layout qg_layouts_gptq_awq_layout[] = {
    {
        .name = "gptq",
        .summary = "AutoGPTQ's and GPTQModel's modules",
        .source =
            "gptqmodel:gptqmodel/nn_modules/qlinear/__init__.py, gptqmodel/quantization/config.py",
        .refuse = gptq_refuse,
        .store = store,
        .config = gptq_config,
    },
    {
        .name = "awq",
        .summary = "AutoAWQ's modules (version gemm)",
        .source = "autoawq:awq/modules/linear/gemm.py, awq/models/_config.py",
        .refuse = awq_refuse,
        .store = store,
        .config = awq_config,
    },
    {.name = NULL},
};
