/* SPDX-License-Identifier: MIT */
#include "harness/lm/adamw.h"

#include <math.h>

#include "schemes/num/fn.h"

void qg_adamw_step(const struct qg_adamw *o, uint64_t t, double lr, double decay, size_t n,
                   const float *g, float *p, float *m, float *v)
{
    const double corrected1 = 1 - pow(o->beta1, (double)t),
                 corrected2 = 1 - pow(o->beta2, (double)t);
    const float shrink = (float)(1 - lr * decay), rest1 = (float)(1 - o->beta1);
    const float keep2 = (float)o->beta2, rest2 = (float)(1 - o->beta2);
    const float size = (float)(-(lr / corrected1)), root = (float)sqrt(corrected2);
    const float eps = (float)o->eps;
    for (size_t i = 0; i < n; i++) {
        m[i] = qg_fma(rest1, qg_sub(g[i], m[i]), m[i]);
        v[i] = qg_fma(qg_mul(rest2, g[i]), g[i], qg_mul(v[i], keep2));
        float below = qg_add(qg_div(sqrtf(v[i]), root), eps);
        p[i] = qg_add(qg_mul(p[i], shrink), qg_div(qg_mul(size, m[i]), below));
    }
}
