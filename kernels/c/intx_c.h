/* SPDX-License-Identifier: MIT
 *
 * The symmetric integer prepare kernels, which the old prepare paths of int4 and fp8-int4 share.
 */
#ifndef QG_INTX_C_H
#define QG_INTX_C_H

#include "schemes/intx.h"

/* in[0] x -> out[0] y. */
void qg_intx_fake_quant_c(const struct qg_args *a, const struct qg_intx *grid);

/* in[0] x, in[1] g -> out[0] dx. */
void qg_intx_fake_quant_grad_c(const struct qg_args *a, const struct qg_intx *grid);

#endif
