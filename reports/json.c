/* SPDX-License-Identifier: MIT
 *
 * Results as JSON. 64-bit integers are written with all their digits; inf and nan are the strings
 * "inf", "-inf" and "nan".
 */
#include <cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "reports/put.h"
#include "reports/report.h"

static cJSON *number(const struct qg_field *f, const char *at)
{
    char digits[24];
    switch (f->kind) {
    case QG_FIELD_VERDICT:
        return cJSON_CreateString(qg_verdict_name(*(const uint32_t *)(const void *)at));
    case QG_FIELD_F64: {
        double x = *(const double *)(const void *)at;
        struct qg_text t = qg_text_exact(x);
        return isfinite(x) ? cJSON_CreateRaw(t.s) : cJSON_CreateString(t.s);
    }
    case QG_FIELD_I64:
        snprintf(digits, sizeof digits, "%" PRId64, *(const int64_t *)(const void *)at);
        return cJSON_CreateRaw(digits);
    case QG_FIELD_U64:
        snprintf(digits, sizeof digits, "%" PRIu64, *(const uint64_t *)(const void *)at);
        return cJSON_CreateRaw(digits);
    default:
        snprintf(digits, sizeof digits, "%" PRIu32, *(const uint32_t *)(const void *)at);
        return cJSON_CreateRaw(digits);
    }
}

static cJSON *field(const struct qg_field *f, const char *at)
{
    if (f->kind == QG_FIELD_TEXT)
        return cJSON_CreateString(at);
    if (f->count == 1)
        return number(f, at);
    cJSON *array = cJSON_CreateArray();
    for (size_t i = 0; i < f->count; i++)
        cJSON_AddItemToArray(array, number(f, at + i * f->size));
    return array;
}

static void add_rows(cJSON *root, const char *name, const struct qg_table *t, struct qg_rows rows)
{
    cJSON *array = cJSON_AddArrayToObject(root, name);
    for (size_t i = 0; i < rows.n; i++) {
        cJSON *row = cJSON_CreateObject();
        for (const struct qg_field *f = t->fields; f->name; f++)
            cJSON_AddItemToObject(row, f->name,
                                  field(f, (const char *)rows.at + i * t->size + f->offset));
        cJSON_AddItemToArray(array, row);
    }
}

enum qg_status qg_export_json(const struct qg_result *r, FILE *out, struct qg_error *err)
{
    cJSON *root = cJSON_CreateObject(), *meta;
    cJSON_AddNumberToObject(root, "schema_version", QG_SCHEMA_VERSION);
    meta = cJSON_AddObjectToObject(root, "meta");
    for (size_t i = 0; i < r->meta.n; i++)
        cJSON_AddStringToObject(meta, r->meta.item[i].key, r->meta.item[i].value);
    for (int t = 0; t < QG_TABLES; t++)
        add_rows(root, t == QG_TABLE_GAP ? "gaps" : qg_tables[t].name, &qg_tables[t],
                 qg_result_rows(r, (enum qg_table_id)t));
    char *text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text)
        return qg_fail(err, QG_ENOMEM, "no memory for the JSON of %zu cases", r->n_cases);
    fputs(text, out);
    putc('\n', out);
    free(text);
    return QG_OK;
}
