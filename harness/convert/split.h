/* SPDX-License-Identifier: MIT
 *
 * A convert in pieces of rows: which rows of a tensor can be converted on their own, and where the
 * planes of a piece lie in those of the whole.
 */
#ifndef QG_SPLIT_H
#define QG_SPLIT_H

#include "schemes/scheme.h"

struct qg_split {
    size_t rows; /* pieces begin at multiples of it; 0: only the whole tensor can be converted */
    /* Per plane the dimension along which pieces lie one after the other; -1: the plane is the same
     * in all pieces (gptq's g_idx). */
    int along[QG_MAX_TENSORS];
};

/* How the convert `whole`, which qg_args_init has filled, splits. Its rows are what it is asked
 * for: a tensor of no more rows than .rows is one piece. What must be whole: tensors with a number
 * of their own (a scale per tensor, a mean), told by a plane that does not grow with the rows in a
 * scheme whose scales span rows; and shapes whose pieces do not add up. */
struct qg_split qg_split_of(const struct qg_args *whole);

/* The convert of rows first .. first + n of `whole`; first is a multiple of .rows, and so is n
 * unless the piece is the last. Data pointers: as qg_args_init leaves them, but for planes that lie
 * in one run of bytes in `whole` and whose data there is not NULL: these point into it. */
struct qg_args qg_split_piece(const struct qg_split *s, const struct qg_args *whole, size_t first,
                              size_t n);

/* Copies the planes of a converted piece that have memory of their own to their place in `whole`.
 */
void qg_split_place(const struct qg_split *s, const struct qg_args *whole, size_t first,
                    const struct qg_args *piece);

#endif
