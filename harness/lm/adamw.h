/* SPDX-License-Identifier: MIT
 *
 * AdamW (arXiv 1711.05101) as torch.optim.AdamW computes it on a CPU in binary32, one number after
 * the other (pytorch:torch/optim/adam.py, _single_tensor_adam): scalars are worked out in binary64
 * and rounded once, and the moments are fused as ATen's loops fuse them.
 *
 *     p <- p * R(1 - lr decay)
 *     m <- fma(R(1 - beta1), g - m, m)
 *     v <- fma(R(1 - beta2) * g, g, v * R(beta2))
 *     p <- p + R(-lr / (1 - beta1^t)) * m / (sqrt(v) / R(sqrt(1 - beta2^t)) + R(eps))
 *
 * Square roots are correctly rounded here; those of PyTorch come from MKL, which may be off by one
 * in the last place.
 */
#ifndef QG_ADAMW_H
#define QG_ADAMW_H

#include <stddef.h>
#include <stdint.h>

struct qg_adamw {
    double beta1, beta2, eps; /* beta1 > 1/2 */
};

/* Step t, from 1, on n parameters p with gradients g and moments m and v, which begin as 0. */
void qg_adamw_step(const struct qg_adamw *o, uint64_t t, double lr, double decay, size_t n,
                   const float *g, float *p, float *m, float *v);

#endif
