/* SPDX-License-Identifier: MIT
 *
 * What other schemes take from torchao's integer quantizers, which intx.c explains.
 */
#ifndef QG_INTX_H
#define QG_INTX_H

#include "schemes/scheme.h"

/* Integer codes of one width, and what holds their scales and zero points. */
struct qg_intx_grid {
    size_t group;        /* elements of a row that share a scale */
    int bits;            /* codes -2^(bits-1) .. 2^(bits-1)-1 */
    double eps;          /* lower bound of the scale; 0: smallest normal number of x's dtype */
    enum qg_dtype scale; /* dtype that holds the scale: x's own, or F32 (the value stays x's) */
    float nan_zero;      /* what holds a zero point of NaN, in asymmetric grids */
};

/* NaN as a zero point, by the dtype that holds it: int32 (as on x86), int8, binary32. */
#define QG_NAN_I32 (-0x1p31f)
#define QG_NAN_I8  0.0f
#define QG_NAN_F32 NAN

/* Symmetric grids, the zero point is 0; planes are codes, scales, zeros. */
void qg_intx_fake_quant(const struct qg_args *a, const struct qg_intx_grid *grid);
void qg_intx_fake_quant_grad(const struct qg_args *a, const struct qg_intx_grid *grid);
void qg_intx_convert(const struct qg_args *a, const struct qg_intx_grid *grid);

/* Asymmetric grids of whole rows, zero included in the range. */
void qg_token_fake_quant(const struct qg_args *a, const struct qg_intx_grid *grid);
void qg_token_fake_quant_grad(const struct qg_args *a, const struct qg_intx_grid *grid);
void qg_token_convert(const struct qg_args *a, const struct qg_intx_grid *grid);

/* y = R((q - zp) s) of both kinds, and x . y^T, where x may go through a grid of tokens first. */
void qg_intx_dequant(const struct qg_args *a);
void qg_intx_matmul(const struct qg_args *a);
void qg_token_matmul(const struct qg_args *a, const struct qg_intx_grid *tokens);

/* What the parameter "bits" of int4 and fp8-int4 is: a width of codes that stay in nibbles. */
#define QG_INT4_BITS                                                                        \
    "width of a code; 2 and 3: the same formulas with fewer levels, codes still stored as " \
    "nibbles, "                                                                             \
    "an extension that no upstream ships a kernel for"

/* The prepare paths of int4-old and fp8-int4-old, as rows of their tables: symmetric codes of
 * "bits" bits in groups of qg_group(a), the scale at least the parameter "prepare-eps" and a
 * binary32 copy of a value in x's dtype. */
void qg_old_int4_fake_quant(const struct qg_args *a);
void qg_old_int4_fake_quant_grad(const struct qg_args *a);

#endif
