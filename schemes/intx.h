/* SPDX-License-Identifier: MIT
 *
 * The prepare side of torchao's symmetric integer quantizer, which several schemes share (int8,
 * int8-g32, int8-int4, and the old prepare paths of int4 and fp8-int4). Defined in intx.c.
 */
#ifndef QG_INTX_H
#define QG_INTX_H

#include "schemes/num/int4.h"
#include "schemes/scheme.h"

struct qg_intx {
    size_t group;
    int bits;            /* codes -2^(bits-1) .. 2^(bits-1)-1 */
    double eps;          /* lower bound of the scale; 0: smallest normal number of x's dtype */
    enum qg_dtype scale; /* dtype that holds the scale: x's own, or F32 (the value stays x's) */
};

/* in[0] x, out[0] y: every group of every row rounded to its grid. */
void qg_intx_fake_quant(const struct qg_args *a, const struct qg_intx *grid);

/* in[0] x, in[1] g, out[0] dx: straight through, with the clip mask and autograd's two roundings.
 */
void qg_intx_fake_quant_grad(const struct qg_args *a, const struct qg_intx *grid);

/* The smallest positive normal number of a floating dtype. */
float qg_smallest_normal(enum qg_dtype t);

#endif
