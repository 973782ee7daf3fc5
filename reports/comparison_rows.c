/* SPDX-License-Identifier: MIT
 *
 * Rows of two files side by side, and what moved in those of /resources, see comparison.h.
 */
#include "reports/comparison.h"

#include <stdlib.h>
#include <string.h>

#include "reports/put.h"

/* --- matching --------------------------------------------------------------------------------- */

struct entry {
    const void *row;
    qg_row_order *order;
};

/* Rows of one thing stay in the order of the file. */
static int by_order(const void *x, const void *y)
{
    const struct entry *a = x, *b = y;
    int d = a->order(a->row, b->row);
    const char *p = a->row, *q = b->row;
    return d ? d : (p > q) - (p < q);
}

/* The rows of a table, sorted; the caller frees. */
static struct entry *sorted(struct qg_rows rows, size_t size, qg_row_order *order)
{
    struct entry *list = malloc((rows.n + 1) * sizeof *list);
    for (size_t i = 0; list && i < rows.n; i++)
        list[i] = (struct entry){(const char *)rows.at + i * size, order};
    if (list)
        qsort(list, rows.n, sizeof *list, by_order);
    return list;
}

bool qg_match_rows(struct qg_comparison *c, enum qg_table_id t, qg_row_order *order,
                   void (*add)(struct qg_comparison *c, const void *base, const void *head))
{
    const size_t size = qg_tables[t].size;
    const struct qg_rows base = qg_result_rows(c->base, t), head = qg_result_rows(c->head, t);
    struct entry *b = sorted(base, size, order), *h = sorted(head, size, order);
    bool ok = b && h;
    for (size_t i = 0, k = 0; ok && (i < base.n || k < head.n);) {
        int d = i == base.n ? 1 : k == head.n ? -1 : order(b[i].row, h[k].row);
        const void *was = d <= 0 ? b[i++].row : NULL, *is = d >= 0 ? h[k++].row : NULL;
        add(c, was, is);
    }
    free(b);
    free(h);
    return ok;
}

/* --- resources of CUDA kernels ---------------------------------------------------------------- */

static int by_kernel(const void *x, const void *y)
{
    const struct qg_resource *a = x, *b = y;
    int d = strcmp(a->file, b->file);
    d = d ? d : strcmp(a->kernel, b->kernel);
    return d ? d : strcmp(a->target, b->target);
}

static uint64_t spilled(const struct qg_resource *r)
{
    return (uint64_t)r->spill_stores + r->spill_loads;
}

static bool is_other(const struct qg_field *f, const struct qg_resource *b,
                     const struct qg_resource *h)
{
    return memcmp((const char *)b + f->offset, (const char *)h + f->offset, f->size) != 0;
}

/* Whether a thread has or moves more bytes of its own memory, or fewer warps fit. */
static bool is_heavier(const struct qg_resource *r, const struct qg_resource *than)
{
    const bool known = than->most_warps && than->most_warps == r->most_warps;
    return r->stack > than->stack || spilled(r) > spilled(than) ||
           (known && r->warps < than->warps);
}

/* Heavier in one thing counts, whatever the others do. */
static enum qg_burden judge(const struct qg_resource *b, const struct qg_resource *h)
{
    if (is_heavier(h, b))
        return QG_BURDEN_HEAVIER;
    if (is_heavier(b, h))
        return QG_BURDEN_LIGHTER;
    for (const struct qg_field *f = qg_resource_fields; f->name; f++)
        if (is_other(f, b, h))
            return QG_BURDEN_OTHER;
    return QG_BURDEN_SAME;
}

static void add_resource(struct qg_comparison *c, const void *base, const void *head)
{
    struct qg_resource_pair *p = &c->resource[c->n_resources++];
    *p = (struct qg_resource_pair){base, head, QG_BURDEN_NONE};
    if (base && head)
        p->burden = judge(base, head);
    c->burden[p->burden]++;
    c->resources_only_base += !head;
    c->resources_only_head += !base;
}

enum qg_status qg_comparison_resources(struct qg_comparison *c, struct qg_error *err)
{
    c->resource = calloc(c->base->n_resources + c->head->n_resources + 1, sizeof *c->resource);
    if (!c->resource || !qg_match_rows(c, QG_TABLE_RESOURCES, by_kernel, add_resource))
        return qg_fail(err, QG_ENOMEM, "no memory to compare resources of kernels");
    return QG_OK;
}

size_t qg_resource_regressions(const struct qg_comparison *c, unsigned on)
{
    return (on & QG_ON_RESOURCES ? c->burden[QG_BURDEN_HEAVIER] : 0) +
           (on & QG_ON_MISSING ? c->resources_only_base : 0);
}

/* --- in words -------------------------------------------------------------------------------- */

void qg_put_missing(FILE *out, size_t only_base, size_t only_head)
{
    if (only_base || only_head)
        fprintf(out, ", %zu only in BASE, %zu only in HEAD", only_base, only_head);
}

const char *qg_burden_name(enum qg_burden b)
{
    static const char *const names[] = {"not compared", "same numbers", "other numbers", "lighter",
                                        "heavier"};
    return names[b];
}

void qg_put_resources(FILE *out, const struct qg_comparison *c)
{
    fprintf(out, "\nresources of CUDA kernels: %zu in both",
            c->n_resources - c->resources_only_base - c->resources_only_head);
    qg_put_missing(out, c->resources_only_base, c->resources_only_head);
    for (int b = QG_BURDEN_COUNT - 1; b > QG_BURDEN_NONE; b--)
        if (c->burden[b])
            fprintf(out, "; %zu %s", c->burden[b], qg_burden_name((enum qg_burden)b));
    putc('\n', out);
}

void qg_put_burden(FILE *out, const struct qg_resource_pair *p, const char *arrow,
                   void (*put)(FILE *out, const char *s))
{
    const struct qg_resource *b = p->base, *h = p->head;
    fputs(qg_burden_name(p->burden), out);
    for (const struct qg_field *f = qg_resource_fields; f->name; f++) {
        const void *was = (const char *)b + f->offset, *is = (const char *)h + f->offset;
        if (!is_other(f, b, h))
            continue;
        fputs(", ", out);
        put(out, f->name);
        putc(' ', out);
        if (f->kind == QG_FIELD_TEXT) {
            put(out, was);
            fprintf(out, " %s ", arrow);
            put(out, is);
        } else
            fprintf(out, "%u %s %u", *(const uint32_t *)was, arrow, *(const uint32_t *)is);
    }
}

void qg_put_regressions(FILE *out, const struct qg_comparison *c, unsigned on)
{
    size_t models = qg_model_regressions(c, on), resources = qg_resource_regressions(c, on);
    if (models)
        fprintf(out, ", %zu of language models", models);
    if (resources)
        fprintf(out, ", %zu of CUDA kernels' resources", resources);
}
