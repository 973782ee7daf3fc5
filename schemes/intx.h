/* SPDX-License-Identifier: MIT
 *
 * What other schemes take from torchao's integer quantizers (intx.c).
 */
#ifndef QG_INTX_H
#define QG_INTX_H

#include "schemes/scheme.h"

/* The prepare paths of int4-old and fp8-int4-old, as rows of their tables: symmetric int4 in groups
 * of qg_group(a), the scale at least the parameter "prepare-eps" and a binary32 copy of a value in
 * x's dtype. */
void qg_old_int4_fake_quant(const struct qg_args *a);
void qg_old_int4_fake_quant_grad(const struct qg_args *a);

#endif
