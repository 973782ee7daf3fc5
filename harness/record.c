/* SPDX-License-Identifier: MIT
 *
 * The fields of a record and the facts of a run, see result.h.
 */
#include "harness/result_image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE(type, field) sizeof(((type *)0)->field)
#define FIELD(type, field, name, kind)                          \
    {                                                           \
        name, kind, offsetof(type, field), SIZE(type, field), 1 \
    }

#define TEXT(field)             FIELD(struct qg_record, field, #field, QG_FIELD_TEXT)
#define U64(field)              FIELD(struct qg_record, field, #field, QG_FIELD_U64)
#define I64(field)              FIELD(struct qg_record, field, #field, QG_FIELD_I64)
#define F64(field)              FIELD(struct qg_record, field, #field, QG_FIELD_F64)
#define TIME(run, field)        FIELD(struct qg_record, run.field, #run "_" #field, QG_FIELD_F64)
#define SAMPLES(run)            FIELD(struct qg_record, run.samples, #run "_samples", QG_FIELD_U32)
#define UNDER(run, field, kind) FIELD(struct qg_record, run.under.field, #run "_" #field, kind)
#define CONDITIONS(run)                                                          \
    UNDER(run, sm_mhz_low, QG_FIELD_F64), UNDER(run, sm_mhz_high, QG_FIELD_F64), \
        UNDER(run, memory_mhz, QG_FIELD_F64), UNDER(run, celsius, QG_FIELD_F64), \
        UNDER(run, watts, QG_FIELD_F64), UNDER(run, discarded, QG_FIELD_U32),    \
        UNDER(run, lowered_by, QG_FIELD_TEXT)

const struct qg_field qg_record_fields[] = {
    TEXT(spelling),
    TEXT(scheme),
    TEXT(op),
    TEXT(operand),
    TEXT(backend),
    TEXT(variant),
    TEXT(dtype),
    TEXT(data),
    TEXT(params),
    U64(m),
    U64(rows),
    U64(cols),
    U64(seed),
    FIELD(struct qg_record, verdict, "verdict", QG_FIELD_VERDICT),
    TEXT(reason),
    TEXT(algorithm),
    U64(count),
    U64(mismatches),
    U64(class_mismatches),
    I64(first_bad),
    U64(codes),
    U64(codes_changed),
    F64(max_ulp),
    F64(bound_used),
    F64(sqnr_db),
    F64(nmse),
    F64(bytes),
    F64(flops),
    TIME(warm, median_s),
    TIME(warm, low_s),
    TIME(warm, high_s),
    SAMPLES(warm),
    CONDITIONS(warm),
    TIME(cold, median_s),
    TIME(cold, low_s),
    TIME(cold, high_s),
    SAMPLES(cold),
    CONDITIONS(cold),
    F64(overhead_s),
    U64(output_hash),
    U64(input_hash),
    {"error_histogram", QG_FIELD_U32, offsetof(struct qg_record, error_histogram), sizeof(uint32_t),
     QG_HISTOGRAM_BINS},
    U64(samples_at),
    U64(samples_n),
    U64(output_at),
    U64(output_n),
    {NULL},
};

#define GAP(field, kind) FIELD(struct qg_gap, field, #field, kind)

const struct qg_field qg_gap_fields[] = {
    GAP(scheme, QG_FIELD_TEXT),      GAP(params, QG_FIELD_TEXT), GAP(source, QG_FIELD_TEXT),
    GAP(what, QG_FIELD_TEXT),        GAP(seed, QG_FIELD_U64),    GAP(sqnr_db, QG_FIELD_F64),
    GAP(sqnr_bf16_db, QG_FIELD_F64), GAP(count, QG_FIELD_U64),   GAP(differ, QG_FIELD_U64),
    GAP(first, QG_FIELD_I64),        GAP(cause, QG_FIELD_TEXT),  {NULL},
};

#define ATLAS(field, kind) FIELD(struct qg_atlas, field, #field, kind)

const struct qg_field qg_atlas_fields[] = {
    ATLAS(format, QG_FIELD_TEXT),       ATLAS(left, QG_FIELD_TEXT),
    ATLAS(right, QG_FIELD_TEXT),        ATLAS(source, QG_FIELD_TEXT),
    ATLAS(seed, QG_FIELD_U64),          ATLAS(count, QG_FIELD_U64),
    ATLAS(differ, QG_FIELD_U64),        ATLAS(same_value, QG_FIELD_U64),
    ATLAS(scale, QG_FIELD_U64),         ATLAS(clip, QG_FIELD_U64),
    ATLAS(tie, QG_FIELD_U64),           ATLAS(rounding, QG_FIELD_U64),
    ATLAS(other, QG_FIELD_U64),         ATLAS(blocks, QG_FIELD_U64),
    ATLAS(blocks_scaled, QG_FIELD_U64), ATLAS(first, QG_FIELD_I64),
    ATLAS(rule, QG_FIELD_TEXT),         {NULL},
};

#define SHIPPED(field, kind) FIELD(struct qg_shipped, field, #field, kind)

const struct qg_field qg_shipped_fields[] = {
    SHIPPED(tensor, QG_FIELD_TEXT),      SHIPPED(scheme, QG_FIELD_TEXT),
    SHIPPED(params, QG_FIELD_TEXT),      SHIPPED(kernel, QG_FIELD_TEXT),
    SHIPPED(layout, QG_FIELD_TEXT),      SHIPPED(dtype, QG_FIELD_TEXT),
    SHIPPED(rows, QG_FIELD_U64),         SHIPPED(cols, QG_FIELD_U64),
    SHIPPED(bytes_before, QG_FIELD_U64), SHIPPED(bytes, QG_FIELD_U64),
    SHIPPED(sqnr_db, QG_FIELD_F64),      SHIPPED(worst_db, QG_FIELD_F64),
    SHIPPED(worst_row, QG_FIELD_U64),    SHIPPED(worst_col, QG_FIELD_U64),
    SHIPPED(worst_cols, QG_FIELD_U64),   {NULL},
};

#define MODELLED(field)        FIELD(struct qg_modelled, field, #field, QG_FIELD_TEXT)
#define MODELLED_COUNT(field)  FIELD(struct qg_modelled, field, #field, QG_FIELD_U64)
#define MODELLED_NUMBER(field) FIELD(struct qg_modelled, field, #field, QG_FIELD_F64)

const struct qg_field qg_modelled_fields[] = {
    MODELLED(model),
    MODELLED(model_hash),
    MODELLED(text),
    MODELLED(text_hash),
    MODELLED(what),
    MODELLED(name),
    MODELLED(params),
    MODELLED(training),
    MODELLED(path),
    MODELLED(backend),
    MODELLED(dtype),
    MODELLED(clusters_of),
    MODELLED(verdict),
    MODELLED(reason),
    MODELLED_COUNT(seed),
    MODELLED_COUNT(context),
    MODELLED_COUNT(documents),
    MODELLED_COUNT(tokens),
    MODELLED_COUNT(clusters),
    MODELLED_NUMBER(level),
    MODELLED_NUMBER(bytes),
    MODELLED_NUMBER(bits_per_weight),
    MODELLED_NUMBER(ppl),
    MODELLED_NUMBER(ppl_low),
    MODELLED_NUMBER(ppl_high),
    MODELLED_NUMBER(bits_per_byte),
    MODELLED_NUMBER(word_ppl),
    MODELLED_NUMBER(delta),
    MODELLED_NUMBER(delta_low),
    MODELLED_NUMBER(delta_high),
    MODELLED_NUMBER(kl),
    MODELLED_NUMBER(kl_low),
    MODELLED_NUMBER(kl_high),
    MODELLED_NUMBER(kl_median),
    MODELLED_NUMBER(kl_90),
    MODELLED_NUMBER(kl_99),
    MODELLED_NUMBER(kl_999),
    MODELLED_NUMBER(kl_max),
    MODELLED_NUMBER(same_top),
    MODELLED_NUMBER(change_mean),
    MODELLED_NUMBER(change_rms),
    MODELLED_NUMBER(gap),
    MODELLED_NUMBER(gap_low),
    MODELLED_NUMBER(gap_high),
    MODELLED_NUMBER(gap_kl),
    MODELLED_NUMBER(seconds),
    {NULL},
};

#define FORETOLD(field)        FIELD(struct qg_foretold, field, #field, QG_FIELD_TEXT)
#define FORETOLD_NUMBER(field) FIELD(struct qg_foretold, field, #field, QG_FIELD_F64)

const struct qg_field qg_foretold_fields[] = {
    FORETOLD(model),
    FORETOLD(model_hash),
    FORETOLD(text),
    FORETOLD(text_hash),
    FORETOLD(what),
    FORETOLD(name),
    FORETOLD(params),
    FORETOLD(dtype),
    FORETOLD(inputs),
    FORETOLD(measured_in),
    FORETOLD(reason),
    FIELD(struct qg_foretold, documents, "documents", QG_FIELD_U64),
    FORETOLD_NUMBER(bytes),
    FORETOLD_NUMBER(bits_per_weight),
    FORETOLD_NUMBER(delta_by_weights),
    FORETOLD_NUMBER(delta_by_outputs),
    FORETOLD_NUMBER(kl_by_weights),
    FORETOLD_NUMBER(kl_by_outputs),
    FORETOLD_NUMBER(delta),
    FORETOLD_NUMBER(delta_low),
    FORETOLD_NUMBER(delta_high),
    FORETOLD_NUMBER(kl),
    FORETOLD_NUMBER(kl_low),
    FORETOLD_NUMBER(kl_high),
    {NULL},
};

#define RESOURCE(field)        FIELD(struct qg_resource, field, #field, QG_FIELD_TEXT)
#define RESOURCE_NUMBER(field) FIELD(struct qg_resource, field, #field, QG_FIELD_U32)

const struct qg_field qg_resource_fields[] = {
    RESOURCE(file),
    RESOURCE(kernel),
    RESOURCE(target),
    RESOURCE_NUMBER(registers),
    RESOURCE_NUMBER(stack),
    RESOURCE_NUMBER(spill_stores),
    RESOURCE_NUMBER(spill_loads),
    RESOURCE_NUMBER(shared),
    RESOURCE_NUMBER(barriers),
    RESOURCE_NUMBER(block),
    RESOURCE_NUMBER(warps),
    RESOURCE_NUMBER(most_warps),
    RESOURCE(limit),
    {NULL},
};

#define TABLE(dataset, type, version)                                                    \
    {                                                                                    \
        .name = dataset, .fields = qg_##type##_fields, .size = sizeof(struct qg_##type), \
        .since = (version),                                                              \
    }

const struct qg_table qg_tables[QG_TABLES] = {
    [QG_TABLE_CASES] = TABLE("cases", record, 1),
    [QG_TABLE_GAP] = TABLE("gap", gap, 1),
    [QG_TABLE_ATLAS] = TABLE("atlas", atlas, 2),
    [QG_TABLE_CONVERT] = TABLE("convert", shipped, 3),
    [QG_TABLE_LM] = TABLE("lm", modelled, 4),
    [QG_TABLE_PROXY] = TABLE("proxy", foretold, 5),
    [QG_TABLE_RESOURCES] = TABLE("resources", resource, 6),
};

struct qg_rows qg_result_rows(const struct qg_result *r, enum qg_table_id t)
{
    switch (t) {
    case QG_TABLE_CASES:
        return (struct qg_rows){r->cases, r->n_cases};
    case QG_TABLE_GAP:
        return (struct qg_rows){r->gaps, r->n_gaps};
    case QG_TABLE_ATLAS:
        return (struct qg_rows){r->atlas, r->n_atlas};
    case QG_TABLE_CONVERT:
        return (struct qg_rows){r->shipped, r->n_shipped};
    case QG_TABLE_LM:
        return (struct qg_rows){r->modelled, r->n_modelled};
    case QG_TABLE_PROXY:
        return (struct qg_rows){r->foretold, r->n_foretold};
    default:
        return (struct qg_rows){r->resources, r->n_resources};
    }
}

void qg_result_set_rows(struct qg_result *r, enum qg_table_id t, struct qg_rows rows)
{
    switch (t) {
    case QG_TABLE_CASES:
        r->cases = rows.at, r->n_cases = rows.n;
        break;
    case QG_TABLE_GAP:
        r->gaps = rows.at, r->n_gaps = rows.n;
        break;
    case QG_TABLE_ATLAS:
        r->atlas = rows.at, r->n_atlas = rows.n;
        break;
    case QG_TABLE_CONVERT:
        r->shipped = rows.at, r->n_shipped = rows.n;
        break;
    case QG_TABLE_LM:
        r->modelled = rows.at, r->n_modelled = rows.n;
        break;
    case QG_TABLE_PROXY:
        r->foretold = rows.at, r->n_foretold = rows.n;
        break;
    default:
        r->resources = rows.at, r->n_resources = rows.n;
    }
}

static int order_of(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

int qg_modelled_order(const struct qg_modelled *a, const struct qg_modelled *b)
{
    int d = strcmp(a->model_hash, b->model_hash);
    d = d ? d : strcmp(a->text_hash, b->text_hash);
    d = d ? d : order_of(a->context, b->context);
    d = d ? d : order_of(a->documents, b->documents);
    d = d ? d : strcmp(a->what, b->what);
    d = d ? d : strcmp(a->name, b->name);
    d = d ? d : strcmp(a->params, b->params);
    d = d ? d : strcmp(a->training, b->training);
    d = d ? d : order_of(a->seed, b->seed);
    d = d ? d : strcmp(a->path, b->path);
    d = d ? d : strcmp(a->backend, b->backend);
    return d ? d : strcmp(a->dtype, b->dtype);
}

int qg_foretold_order(const struct qg_foretold *a, const struct qg_foretold *b)
{
    int d = strcmp(a->model_hash, b->model_hash);
    d = d ? d : strcmp(a->text_hash, b->text_hash);
    d = d ? d : order_of(a->documents, b->documents);
    d = d ? d : strcmp(a->what, b->what);
    d = d ? d : strcmp(a->name, b->name);
    d = d ? d : strcmp(a->params, b->params);
    return d ? d : strcmp(a->dtype, b->dtype);
}

const char *qg_verdict_name(enum qg_verdict v)
{
    static const char *const names[QG_VERDICT_COUNT] = {
        [QG_PASS] = "PASS",       [QG_MARGINAL] = "MARGINAL",
        [QG_FAIL] = "FAIL",       [QG_MISTRUSTED] = "MISTRUSTED",
        [QG_SKIP] = "SKIP",       [QG_CRASH] = "CRASH",
        [QG_TIMEOUT] = "TIMEOUT", [QG_ERROR] = "ERROR"};
    return v < QG_VERDICT_COUNT ? names[v] : "?";
}

bool qg_is_discarded(const struct qg_timing *t)
{
    return !t->samples && t->under.discarded;
}

static size_t find(const struct qg_meta *m, const char *key)
{
    size_t i = 0;
    while (i < m->n && strcmp(m->item[i].key, key) != 0)
        i++;
    return i;
}

void qg_meta_set(struct qg_meta *m, const char *key, const char *value)
{
    size_t i = find(m, key);
    if (i == QG_META_ITEMS)
        return;
    if (i == m->n)
        m->n++;
    memset(&m->item[i], 0, sizeof m->item[i]);
    snprintf(m->item[i].key, sizeof m->item[i].key, "%s", key);
    snprintf(m->item[i].value, sizeof m->item[i].value, "%s", value);
}

const char *qg_meta_get(const struct qg_meta *m, const char *key)
{
    size_t i = find(m, key);
    return i < m->n ? m->item[i].value : "";
}

void qg_result_tidy(void *row, const struct qg_field *fields)
{
    for (const struct qg_field *f = fields; f->name; f++) {
        if (f->kind != QG_FIELD_TEXT)
            continue;
        char *text = (char *)row + f->offset;
        size_t n = strnlen(text, f->size - 1);
        memset(text + n, 0, f->size - n);
    }
}

void qg_result_free(struct qg_result **r)
{
    if (!*r)
        return;
    for (int t = 0; t < QG_TABLES; t++)
        free(qg_result_rows(*r, (enum qg_table_id)t).at);
    free((*r)->samples);
    free((*r)->output);
    free(*r);
    *r = NULL;
}
