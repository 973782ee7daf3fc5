/* SPDX-License-Identifier: MIT
 *
 * Results as CSV: one line per row of a table, one column per field, arrays as numbers with spaces
 * between.
 */
#include <inttypes.h>
#include <string.h>

#include "reports/put.h"
#include "reports/report.h"

static void put_quoted(FILE *out, const char *s)
{
    if (!s[strcspn(s, "\",\r\n")]) {
        fputs(s, out);
        return;
    }
    putc('"', out);
    for (; *s; s++) {
        if (*s == '"')
            putc('"', out);
        putc(*s, out);
    }
    putc('"', out);
}

static void put_number(FILE *out, const struct qg_field *f, const char *at)
{
    switch (f->kind) {
    case QG_FIELD_U32:
        fprintf(out, "%" PRIu32, *(const uint32_t *)(const void *)at);
        break;
    case QG_FIELD_U64:
        fprintf(out, "%" PRIu64, *(const uint64_t *)(const void *)at);
        break;
    case QG_FIELD_I64:
        fprintf(out, "%" PRId64, *(const int64_t *)(const void *)at);
        break;
    case QG_FIELD_VERDICT:
        fputs(qg_verdict_name(*(const uint32_t *)(const void *)at), out);
        break;
    default:
        fputs(qg_text_exact(*(const double *)(const void *)at).s, out);
    }
}

static void put_row(FILE *out, const struct qg_field *fields, const char *row)
{
    for (const struct qg_field *f = fields; f->name; f++) {
        const char *at = row + f->offset;
        if (f != fields)
            putc(',', out);
        if (f->kind == QG_FIELD_TEXT)
            put_quoted(out, at);
        for (size_t i = 0; f->kind != QG_FIELD_TEXT && i < f->count; i++) {
            if (i)
                putc(' ', out);
            put_number(out, f, at + i * f->size);
        }
    }
    fputs("\n", out);
}

void qg_export_csv(const struct qg_result *r, enum qg_table_id table, FILE *out)
{
    const struct qg_table *t = &qg_tables[table];
    struct qg_rows rows = qg_result_rows(r, table);
    for (const struct qg_field *f = t->fields; f->name; f++)
        fprintf(out, "%s%s", f == t->fields ? "" : ",", f->name);
    fputs("\n", out);
    for (size_t i = 0; i < rows.n; i++)
        put_row(out, t->fields, (const char *)rows.at + i * t->size);
}
