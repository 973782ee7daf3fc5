/* SPDX-License-Identifier: MIT
 *
 * LoRA's second product in plain C and by OpenBLAS: what any scheme's matmul leaves in y, then two
 * products of matrices that are stored as they are, and an addition.
 */
#include "kernels/c/matmul.h"
#include "kernels/c/rows.h"

/* Rows of in[1], a matrix of numbers. */
static void weights(const struct qg_args *a, size_t row, size_t at, size_t n, float *w)
{
    qg_load(&a->in[1], row * a->cols + at, n, w);
}

static const struct qg_product numbers = {weights, qg_inputs_plain, NULL};

/* The call y = x . w^T with a's scratch. */
static struct qg_args product_of(const struct qg_args *a, struct qg_tensor x, struct qg_tensor w,
                                 struct qg_tensor y)
{
    return (struct qg_args){.dtype = a->dtype,
                            .m = a->m,
                            .rows = w.shape[0],
                            .cols = w.shape[1],
                            .in = {x, w},
                            .out = {y},
                            .work = a->work};
}

void qg_adapt(const struct qg_args *a, qg_op_fn *base,
              void (*multiply)(const struct qg_args *a, const struct qg_product *p))
{
    const struct qg_tensor *adapter = &a->in[a->n_in - 3], *y = &a->out[0];
    float *room = qg_adapter_work(a), s = qg_get(&adapter[2], 0);
    struct qg_tensor xa = {"xa", a->dtype, 2, {a->m, a->rank}, room},
                     lora = {"lora", a->dtype, 2, {a->m, a->rows}, room + a->m * a->rank};
    const struct qg_args of_a = product_of(a, a->in[0], adapter[0], xa),
                         of_b = product_of(a, xa, adapter[1], lora), of_w = qg_base_of(a);
    base(&of_w);
    multiply(&of_a, &numbers);
    multiply(&of_b, &numbers);
    for (size_t i = 0; i < a->m * a->rows; i++)
        qg_put(y, i, qg_get(y, i) + qg_round(a->dtype, qg_get(&lora, i) * s));
}
