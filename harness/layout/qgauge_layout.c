/* SPDX-License-Identifier: MIT
 *
 * Our own layout, which holds every scheme: the planes that convert writes, with the names, dtypes,
 * shapes and packings that `qgauge list schemes -v` tells,
 *
 *     model.layers.0.mlp.up_proj.weight        becomes
 *     model.layers.0.mlp.up_proj.weight.codes, ....weight.scales, ...
 *
 * and as quantization_config (in config.json; in a single file under the same key of __metadata__)
 *
 *     {"quant_method": "qgauge", "version": 1, "tensors": {NAME: {
 *         "scheme": "int4", "params": "group=32", "operand": "weight", "dtype": "BF16",
 *         "shape": [N, K], "padded": 0}}}
 *
 * params: what differs from the scheme's defaults. shape: of the tensor before it was quantized;
 * "padded": zero columns that were appended to each row before. A tensor of more than two
 * dimensions is quantized as a matrix, all but the last being rows.
 */
#include "harness/layout/layout.h"

#include <stdio.h>

static const char *refuse(const struct qg_assignment *as, const struct qg_args *convert)
{
    (void)as, (void)convert;
    return NULL;
}

static enum qg_status store(const struct qg_recipe_plan *plan, const struct qg_assignment *as,
                            const struct qg_args *convert, struct qg_slots *s, struct qg_error *err)
{
    (void)plan;
    for (int p = 0; p < convert->n_out; p++) {
        char suffix[64];
        bool module = false;
        int length;
        module = qg_layout_module(as->name, &length) != NULL;
        snprintf(suffix, sizeof suffix, "%s.%s", module ? ".weight" : "", convert->out[p].name);
        if (qg_layout_plane(s, as->name, suffix, convert, p, err) != QG_OK)
            return err->status;
    }
    return QG_OK;
}

static enum qg_status config(const struct qg_recipe_plan *plan, cJSON **ret_config,
                             struct qg_error *err)
{
    cJSON *c = cJSON_CreateObject(), *tensors;
    struct qg_args a;
    char params[128];
    cJSON_AddStringToObject(c, "quant_method", "qgauge");
    cJSON_AddNumberToObject(c, "version", 1);
    tensors = cJSON_AddObjectToObject(c, "tensors");
    for (size_t i = 0; i < plan->n; i++) {
        const struct qg_assignment *as = &plan->of[i];
        if (!as->convert.scheme)
            continue;
        if (qg_layout_args(as, &a, err) != QG_OK) {
            cJSON_Delete(c);
            return err->status;
        }
        qg_params_format(&a, params, sizeof params);
        cJSON *t = cJSON_AddObjectToObject(tensors, as->name);
        cJSON_AddStringToObject(t, "scheme", a.scheme->name);
        cJSON_AddStringToObject(t, "params", params);
        cJSON_AddStringToObject(t, "operand", qg_operand_name(as->operand));
        cJSON_AddStringToObject(t, "dtype", qg_dtype_name(as->dtype));
        cJSON *shape = cJSON_AddArrayToObject(t, "shape");
        for (int d = 0; d < as->tensor->t.rank; d++)
            cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)as->tensor->t.shape[d]));
        cJSON_AddNumberToObject(t, "padded", (double)as->padded);
    }
    *ret_config = c;
    return QG_OK;
}

const struct qg_layout qg_layouts_qgauge_layout[] = {
    {
        .name = "qgauge",
        .summary = "ours: the planes of any scheme under NAME.codes, NAME.scales, ...",
        .source = "harness/layout/qgauge_layout.c",
        .refuse = refuse,
        .store = store,
        .config = config,
    },
    {.name = NULL},
};
