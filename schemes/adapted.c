/* SPDX-License-Identifier: MIT
 *
 * LoRA's second product, beside the matmul of a scheme, as PEFT computes it: the base layer is
 * called first, whatever it is, and each step rounds to the dtype of x, which the adapter shares.
 *
 *     y = R(base(x) + R(s R(R(x a^T) b^T)))
 *
 * The products are binary32's in an order that nobody promises. No dropout, no bias: what a layer
 * does beside its products is in layers/lora.c, and the orders of other libraries are there, too.
 *
 * Source: huggingface/peft:src/peft/tuners/lora/layer.py Linear.forward
 * (result = result + lora_B(lora_A(dropout(x))) * scaling).
 */
#include "schemes/interval.h"

/* What the base may have stored as element i, when its definition has run. */
static struct qg_interval base_at(const struct qg_args *a, size_t i)
{
    float y = qg_get(&a->out[0], i);
    double exact = a->exact ? a->exact[i] : 0, bound = a->bound ? a->bound[i] : 0;
    if (!(bound > 0) || !(fabs(exact) < INFINITY)) // the very bits
        return qg_interval_at(y);
    if (!(bound < INFINITY))
        return (struct qg_interval){-INFINITY, y, INFINITY};
    return qg_interval_round(
        a->dtype, (struct qg_interval){(float)(exact - bound), y, (float)(exact + bound)});
}

/* R(row i of x . row j of w), where w is a tensor of as many columns. */
static struct qg_interval project(const struct qg_args *a, size_t i, const struct qg_tensor *w,
                                  size_t j)
{
    struct qg_spread s = qg_spread_empty;
    for (size_t k = 0; k < a->cols; k++)
        qg_spread_add_product(&s, qg_interval_at(qg_get(&a->in[0], i * a->cols + k)),
                              qg_interval_at(qg_get(w, j * a->cols + k)));
    return qg_interval_round(a->dtype, qg_spread_result(&s, a->depth, 1));
}

/* R(xa . row n of b), in any order. */
static struct qg_interval expand(const struct qg_args *a, const struct qg_interval *xa,
                                 const struct qg_tensor *b, size_t n)
{
    struct qg_spread s = qg_spread_empty;
    for (size_t r = 0; r < a->rank; r++)
        qg_spread_add_product(&s, xa[r], qg_interval_at(qg_get(b, n * a->rank + r)));
    return qg_interval_round(a->dtype, qg_spread_result(&s, 0, 1));
}

void qg_adapted_matmul(const struct qg_args *a)
{
    const struct qg_tensor *adapter = &a->in[a->n_in - 3];
    struct qg_interval *xa = (struct qg_interval *)qg_adapter_work(a);
    float s = qg_get(&adapter[2], 0);
    struct qg_args base = qg_base_of(a);
    a->scheme->matmul(&base);
    for (size_t m = 0; m < a->m; m++) {
        for (size_t r = 0; r < a->rank; r++)
            xa[r] = project(a, m, &adapter[0], r);
        for (size_t i = m * a->rows; i < (m + 1) * a->rows; i++) {
            struct qg_interval lora = expand(a, xa, &adapter[1], i % a->rows);
            qg_emit_interval(
                a, 0, i,
                qg_interval_add(a->dtype, base_at(a, i), qg_interval_mul(a->dtype, lora, s)));
        }
    }
}
