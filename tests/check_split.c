/* SPDX-License-Identifier: MIT
 *
 * Every convert of every scheme in pieces of rows, against the same convert of the whole tensor:
 * the planes must be equal to the byte, with any number of rows to a piece.
 */
#include <stdio.h>
#include <string.h>

#include "harness/call.h"
#include "harness/convert/split.h"
#include "harness/fill.h"
#include "tests/suite.h"

#define REQUIRE(call) ck_assert_msg((call) == QG_OK, "%s", err.message)

/* Converts a piece into memory of its own, and copies it to its place in `planes`. */
static void convert_piece(const struct qg_split *s, const struct qg_args *planes, size_t first,
                          size_t n)
{
    struct qg_error err;
    struct qg_call c;
    struct qg_args piece = qg_split_piece(s, planes, first, n);
    REQUIRE(qg_call_alloc(&c, &piece, false, &err));
    for (int p = 0; p < piece.n_out; p++)
        if (piece.out[p].data)
            c.args.out[p].data = piece.out[p].data;
    size_t row = planes->cols * qg_dtype_bytes(planes->dtype);
    memcpy(c.args.in[0].data, (const char *)planes->in[0].data + first * row, n * row);
    qg_definition(planes->scheme, planes->operand, QG_CONVERT)(&c.args);
    qg_split_place(s, planes, first, &c.args);
    qg_call_free(&c);
}

/* 1 when the scheme takes the shape and splits it, 0 when not. */
static int check_shape(const struct qg_scheme *s, const char *params, enum qg_operand operand,
                       size_t rows, size_t cols)
{
    struct qg_error err;
    struct qg_call whole, parts;
    if (qg_call_make(s, params, QG_CONVERT, operand, QG_BF16, 0, rows, cols, &whole, &err) != QG_OK)
        return 0;
    REQUIRE(qg_call_alloc(&parts, &whole.args, false, &err));
    struct qg_split split = qg_split_of(&whole.args);
    qg_fill_tensor(qg_fill_find("heavy"), 7, qg_group(&whole.args), 0.02, &whole.args.in[0]);
    memcpy(parts.args.in[0].data, whole.args.in[0].data, qg_bytes(&whole.args.in[0]));
    qg_definition(s, operand, QG_CONVERT)(&whole.args);
    for (size_t pieces = rows > 100 ? 7 : 1; split.rows && pieces <= 7; pieces += 6) {
        for (int p = 0; p < parts.args.n_out; p++)
            memset(parts.args.out[p].data, 0, qg_bytes(&parts.args.out[p]));
        for (size_t at = 0, n; at < rows; at += n) {
            n = split.rows * pieces < rows - at ? split.rows * pieces : rows - at;
            convert_piece(&split, &parts.args, at, n);
        }
        for (int p = 0; p < parts.args.n_out; p++)
            ck_assert_msg(memcmp(parts.args.out[p].data, whole.args.out[p].data,
                                 qg_bytes(&whole.args.out[p])) == 0,
                          "%s %s %zu x %zu in pieces of %zu rows: '%s' differs", s->name, params,
                          rows, cols, split.rows * pieces, whole.args.out[p].name);
    }
    qg_call_free(&parts);
    qg_call_free(&whole);
    return split.rows != 0;
}

static int check_shapes(const struct qg_scheme *s, const char *params, enum qg_operand operand)
{
    static const size_t rows[] = {1, 8, 96, 300}, cols[] = {64, 333, 512};
    int split = 0;
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++)
        for (size_t k = 0; k < sizeof cols / sizeof cols[0]; k++)
            split += check_shape(s, params, operand, rows[r], cols[k]);
    return split;
}

/* Each choice of each parameter apart: swizzled scales, writers, flavours. */
START_TEST(test_pieces)
{
    const struct qg_scheme *s;
    for (size_t i = 0; (s = qg_scheme_at(i)); i++)
        for (int operand = 0; operand < QG_OPERAND_COUNT; operand++) {
            if (!s->operand[operand].convert || operand == QG_ACTIVATION)
                continue;
            int split = check_shapes(s, "", (enum qg_operand)operand);
            for (const struct qg_param *p = s->params; p->name; p++)
                for (int c = 0; p->choices && p->choices[c]; c++) {
                    char params[64];
                    snprintf(params, sizeof params, "%s=%s", p->name, p->choices[c]);
                    split += check_shapes(s, params, (enum qg_operand)operand);
                }
            // Those with a number for the whole tensor, and no others.
            bool whole = strcmp(s->name, "fp8-fp8-tensor") == 0 || strcmp(s->name, "nf4") == 0 ||
                         strcmp(s->name, "nf4-bnb-double") == 0 || strcmp(s->name, "nvfp4") == 0 ||
                         strcmp(s->name, "nvfp4-te") == 0;
            ck_assert_msg((split == 0) == whole, "%s %s", s->name,
                          whole ? "was split" : "was never split");
        }
}
END_TEST

QG_SUITE(split, test_pieces)
