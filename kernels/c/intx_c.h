/* SPDX-License-Identifier: MIT
 *
 * The prepare kernels of int4-old and fp8-int4-old, which are one: symmetric int4. In intx_c.c,
 * since the int8 kernels share their parts.
 */
#ifndef QG_INTX_C_H
#define QG_INTX_C_H

#include "schemes/scheme.h"

/* in[0] x -> out[0] y. */
void qg_old_int4_fake_quant_c(const struct qg_args *a);

/* in[0] x, in[1] g -> out[0] dx. */
void qg_old_int4_fake_quant_grad_c(const struct qg_args *a);

#endif
