/* SPDX-License-Identifier: MIT */
#include "harness/convert/split.h"

#include <string.h>

#define MANY      4096 /* pieces: as many as the longest block has elements shows any remainder */
#define MOST_ROWS ((size_t)1 << 16) /* that a piece may have to have, before it is the whole */

/* The same call on `rows` rows; false when the scheme refuses them. */
static bool with_rows(const struct qg_args *a, size_t rows, struct qg_args *ret)
{
    char why[256];
    *ret = *a;
    return qg_args_init(ret, a->scheme, a->op, a->operand, a->dtype, 0, rows, a->cols, why,
                        sizeof why);
}

/* The one dimension in which two tensors differ, -1 when in none, -2 when in several. */
static int differing_dimension(const struct qg_tensor *a, const struct qg_tensor *b)
{
    int found = -1;
    for (int d = 0; d < a->rank; d++)
        if (a->shape[d] != b->shape[d])
            found = found == -1 ? d : -2;
    return found;
}

/* Whether pieces of `rows` rows add up to the whole, plane by plane; fills in .along. */
static bool adds_up(const struct qg_args *whole, size_t rows, struct qg_split *s)
{
    struct qg_args one, many, rest = {0};
    size_t pieces = whole->rows / rows, left = whole->rows % rows;
    bool spans = whole->scheme->operand[whole->operand].spans_rows, grows = false;
    if (!with_rows(whole, rows, &one) || !with_rows(whole, MANY * rows, &many) ||
        (left && !with_rows(whole, left, &rest)))
        return false;
    for (int p = 0; p < whole->n_out; p++) {
        int d = s->along[p] = differing_dimension(&one.out[p], &many.out[p]);
        grows |= d >= 0;
        if (d == -2 || (d == -1 && spans) ||
            (d == -1 && differing_dimension(&one.out[p], &whole->out[p]) != -1))
            return false;
        if (d >= 0 && (many.out[p].shape[d] != MANY * one.out[p].shape[d] ||
                       whole->out[p].shape[d] !=
                           pieces * one.out[p].shape[d] + (left ? rest.out[p].shape[d] : 0)))
            return false;
    }
    s->rows = rows;
    return grows;
}

struct qg_split qg_split_of(const struct qg_args *whole)
{
    struct qg_split s = {0};
    for (size_t rows = 1; rows <= MOST_ROWS && rows < whole->rows; rows *= 2)
        if (adds_up(whole, rows, &s))
            return s;
    return (struct qg_split){0};
}

/* Elements before and behind one step along dimension d. */
static size_t product(const struct qg_tensor *t, int from, int to)
{
    size_t n = 1;
    for (int d = from; d < to; d++)
        n *= t->shape[d];
    return n;
}

/* Where the piece that begins at row `first` begins along the plane's dimension. */
static size_t start_along(const struct qg_split *s, const struct qg_args *whole, int p,
                          size_t first)
{
    struct qg_args one;
    return first && with_rows(whole, first, &one) ? one.out[p].shape[s->along[p]] : 0;
}

struct qg_args qg_split_piece(const struct qg_split *s, const struct qg_args *whole, size_t first,
                              size_t n)
{
    struct qg_args piece;
    with_rows(whole, n, &piece); // it cannot refuse: adds_up has asked
    for (int p = 0; p < piece.n_out; p++) {
        const struct qg_tensor *t = &whole->out[p];
        int d = n == whole->rows ? 0 : s->along[p];
        if (t->data && d >= 0 && product(t, 0, d) == 1)
            piece.out[p].data =
                (char *)t->data + (n == whole->rows ? 0 : start_along(s, whole, p, first)) *
                                      product(t, d + 1, t->rank) * qg_dtype_bytes(t->dtype);
    }
    return piece;
}

void qg_split_place(const struct qg_split *s, const struct qg_args *whole, size_t first,
                    const struct qg_args *piece)
{
    for (int p = 0; p < piece->n_out && piece->rows < whole->rows; p++) {
        const struct qg_tensor *t = &whole->out[p], *from = &piece->out[p];
        int d = s->along[p];
        if (d < 0 && first == 0)
            memcpy(t->data, from->data, qg_bytes(t));
        if (d < 0 || product(t, 0, d) == 1)
            continue;
        size_t inner = product(t, d + 1, t->rank) * qg_dtype_bytes(t->dtype);
        size_t run = from->shape[d] * inner, stride = t->shape[d] * inner;
        char *to = (char *)t->data + start_along(s, whole, p, first) * inner;
        for (size_t i = 0; i < product(t, 0, d); i++)
            memcpy(to + i * stride, (const char *)from->data + i * run, run);
    }
}
