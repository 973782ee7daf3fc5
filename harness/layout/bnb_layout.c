/* SPDX-License-Identifier: MIT
 *
 * bitsandbytes' state dict, as transformers saves and loads it. 4 bits: beside the packed weight,
 * [numel/2, 1], the parts of its QuantState: absmax, the list of numbers that codes stand for, and
 * what is no tensor as the bytes of a JSON text; double quantization adds a second level. 8 bits:
 * CB as weight, SCB, and the format's number (0: rows).
 *
 * The JSON text holds the mean of all absmax, whose length is not known beforehand: it is as long
 * as the longest can be, filled up with spaces.
 */
#include <float.h>
#include <stdio.h>
#include <string.h>

#include "harness/layout/layout.h"
#include "schemes/num/codebook.h"

enum { TEXT_ROOM = 320 };

static bool is_nested(const struct qg_scheme *s)
{
    return strcmp(s->name, "nf4-bnb-double") == 0;
}

static bool is_int8(const struct qg_scheme *s)
{
    return strcmp(s->name, "llm-int8") == 0;
}

/* "nf4", "fp4"; NULL for what is not of 4 bits. */
static const char *type_of(const struct qg_scheme *s)
{
    return strncmp(s->name, "nf4-bnb", 7) == 0 ? "nf4"
           : strcmp(s->name, "fp4-bnb") == 0   ? "fp4"
                                               : NULL;
}

static const char *refuse(const struct qg_assignment *as, const struct qg_args *convert)
{
    (void)convert;
    if (strcmp(as->convert.scheme->name, "int8-bnb") == 0)
        return "bitsandbytes stores no weights so, only the state of its optimizers";
    return type_of(as->convert.scheme) || is_int8(as->convert.scheme)
               ? qg_layout_linear(as)
               : "it is no scheme of bitsandbytes";
}

static const char *torch_dtype(enum qg_dtype t)
{
    return t == QG_F32 ? "float32" : t == QG_BF16 ? "bfloat16" : "float16";
}

/* The text of a QuantState with `offset` as the mean; its length. */
static int state_text(const struct qg_args *a, float offset, char *text)
{
    int n = snprintf(
        text, TEXT_ROOM,
        "{\"quant_type\": \"%s\", \"blocksize\": %zu, \"dtype\": \"%s\", \"shape\": [%zu, %zu]",
        type_of(a->scheme), qg_group(a), torch_dtype(a->dtype), a->rows, a->cols);
    char number[32];
    snprintf(number, sizeof number, "%.17g", (double)offset); // what Python's json calls them:
    const char *word = offset != offset ? "NaN" : offset - offset != 0 ? "Infinity" : number;
    if (is_nested(a->scheme))
        n += snprintf(text + n, (size_t)(TEXT_ROOM - n),
                      ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", "
                      "\"nested_offset\": %s",
                      word);
    n += snprintf(text + n, (size_t)(TEXT_ROOM - n), "}");
    return n;
}

static enum qg_status store_int8(const struct qg_assignment *as, const struct qg_args *convert,
                                 struct qg_slots *s, struct qg_error *err)
{
    if (qg_layout_plane(s, as->name, ".weight", convert, 0, err) != QG_OK ||
        qg_layout_plane(s, as->name, ".SCB", convert, 1, err) != QG_OK)
        return err->status;
    return qg_layout_made(s, as->name, ".weight_format", "U8", 1, 0, NULL, err);
}

static enum qg_status store(const struct qg_recipe_plan *plan, const struct qg_assignment *as,
                            const struct qg_args *convert, struct qg_slots *s, struct qg_error *err)
{
    (void)plan;
    char text[TEXT_ROOM], suffix[64];
    bool nested = is_nested(convert->scheme);
    if (is_int8(convert->scheme))
        return store_int8(as, convert, s, err);
    if (qg_layout_plane(s, as->name, ".weight", convert, 0, err) != QG_OK ||
        qg_layout_plane(s, as->name, ".weight.absmax", convert, 1, err) != QG_OK ||
        qg_layout_made(s, as->name, ".weight.quant_map", "F32", 4, 1, (size_t[]){16}, err) != QG_OK)
        return err->status;
    s->at[0].rank = 2;
    s->at[0].shape[1] = 1;
    if (nested &&
        (qg_layout_plane(s, as->name, ".weight.nested_absmax", convert, 2, err) != QG_OK ||
         qg_layout_made(s, as->name, ".weight.nested_quant_map", "F32", 4, 1, (size_t[]){256},
                        err) != QG_OK))
        return err->status;
    size_t length = (size_t)state_text(convert, -FLT_MIN * 1.0000001f, text);
    snprintf(suffix, sizeof suffix, ".weight.quant_state.bitsandbytes__%s",
             type_of(convert->scheme));
    return qg_layout_made(s, as->name, suffix, "U8", 1, 1, &length, err);
}

static void fill(const struct qg_args *convert, const struct qg_slot *t, void *dst)
{
    const struct qg_scheme *s = convert->scheme;
    char text[TEXT_ROOM];
    if (is_int8(s)) { // weight_format: rows
        memset(dst, 0, t->bytes);
        return;
    }
    if (strstr(t->name, ".quant_state.")) {
        int n = state_text(convert, is_nested(s) ? qg_get(&convert->out[3], 0) : 0, text);
        memset(dst, ' ', t->bytes);
        memcpy(dst, text, (size_t)n);
        return;
    }
    float map[256];
    if (strstr(t->name, ".nested_quant_map"))
        qg_dynamic_map(map);
    else
        for (int i = 0; i < 16; i++)
            map[i] = strcmp(type_of(s), "nf4") == 0 ? qg_nf4((unsigned)i)
                     : i <= 8 ? qg_fp4((unsigned)i % 8) // its second zero has no sign
                              : -qg_fp4((unsigned)i - 8);
    memcpy(dst, map, t->bytes);
}

static enum qg_status config(const struct qg_recipe_plan *plan, cJSON **ret_config,
                             struct qg_error *err)
{
    struct qg_args a;
    if (qg_layout_uniform(plan, &a, err) != QG_OK)
        return err->status;
    cJSON *c = cJSON_CreateObject();
    bool int8 = is_int8(a.scheme);
    cJSON_AddStringToObject(c, "quant_method", "bitsandbytes");
    cJSON_AddBoolToObject(c, "load_in_8bit", int8);
    cJSON_AddBoolToObject(c, "load_in_4bit", !int8);
    if (int8) { // transformers wants a number with a fraction
        char number[32];
        snprintf(number, sizeof number, "%#.17g", a.param[0]);
        cJSON_AddRawToObject(c, "llm_int8_threshold", number);
    } else {
        cJSON_AddStringToObject(c, "bnb_4bit_quant_type", type_of(a.scheme));
        cJSON_AddBoolToObject(c, "bnb_4bit_use_double_quant", is_nested(a.scheme));
        cJSON_AddStringToObject(c, "bnb_4bit_compute_dtype", torch_dtype(a.dtype));
        cJSON_AddStringToObject(c, "bnb_4bit_quant_storage", "uint8");
    }
    cJSON_AddItemToObject(c, "llm_int8_skip_modules", qg_layout_kept(plan));
    *ret_config = c;
    return QG_OK;
}

const struct qg_layout qg_layouts_bnb_layout[] = {
    {
        .name = "bitsandbytes",
        .summary = "bitsandbytes' Linear4bit and Linear8bitLt, as transformers saves them",
        .source = "bnb:bitsandbytes/functional.py QuantState.as_dict, from_dict; "
                  "bnb:bitsandbytes/nn/modules.py Linear8bitLt",
        .refuse = refuse,
        .store = store,
        .fill = fill,
        .config = config,
    },
    {.name = NULL},
};
