/* SPDX-License-Identifier: MIT */
#include "harness/census.h"

#include <stdlib.h>
#include <string.h>

#include "harness/base/rng.h"
#include "harness/call.h"

/* Counts what the nudged call has otherwise; marks blocks whose codes moved. */
static void compare(const struct qg_args *right, const struct qg_args *nudged, uint8_t *moved,
                    struct qg_census *c)
{
    size_t group = qg_group(right), in_row = qg_groups(right);
    for (size_t i = 0; i < right->rows * right->cols; i++, c->codes++) {
        if (qg_code(right, i) == qg_code(nudged, i))
            continue;
        c->codes_moved++;
        moved[i / right->cols * in_row + i % right->cols / group] = 1;
    }
    for (int p = 1; p < right->n_out; p++) {
        const struct qg_tensor *a = &right->out[p], *b = &nudged->out[p];
        size_t bytes = qg_dtype_bytes(a->dtype);
        for (size_t i = 0; i < qg_count(a); i++, c->scales++)
            c->scales_moved +=
                memcmp((char *)a->data + i * bytes, (char *)b->data + i * bytes, bytes) != 0;
    }
}

static enum qg_status census(const struct qg_census_request *r, struct qg_call *right,
                             struct qg_call *nudged, struct qg_census *c, struct qg_error *err)
{
    size_t blocks = right->args.rows * qg_groups(&right->args);
    qg_op_fn *convert = qg_definition(r->scheme, QG_WEIGHT, QG_CONVERT);
    uint8_t *moved = calloc(blocks, 1);
    if (!moved)
        return qg_fail(err, QG_ENOMEM, "no memory for %zu blocks", blocks);
    convert(&right->args);
    for (unsigned d = 0; d < r->draws; d++) {
        r->nudge(qg_rng_bits(r->seed, 0, d) | 1);
        convert(&nudged->args);
        r->nudge(0);
        compare(&right->args, &nudged->args, moved, c);
    }
    c->blocks += blocks;
    for (size_t i = 0; i < blocks; i++)
        c->near += moved[i];
    free(moved);
    return QG_OK;
}

enum qg_status qg_census_add(const struct qg_census_request *r, const struct qg_tensor *w,
                             struct qg_census *census_of, struct qg_error *err)
{
    struct qg_call right, nudged;
    size_t n = w->shape[0], k = w->shape[1];
    if (!r->scheme->operand[QG_WEIGHT].code_bits)
        return qg_fail(err, QG_EINVAL, "scheme '%s' has no codes", r->scheme->name);
    if (qg_call_make(r->scheme, r->params, QG_CONVERT, QG_WEIGHT, w->dtype, 0, n, k, &right, err))
        return err->status;
    enum qg_status status =
        qg_call_make(r->scheme, r->params, QG_CONVERT, QG_WEIGHT, w->dtype, 0, n, k, &nudged, err);
    if (status == QG_OK) {
        memcpy(right.args.in[0].data, w->data, qg_bytes(w));
        memcpy(nudged.args.in[0].data, w->data, qg_bytes(w));
        status = census(r, &right, &nudged, census_of, err);
        qg_call_free(&nudged);
    }
    qg_call_free(&right);
    return status;
}
