/* SPDX-License-Identifier: MIT
 *
 * Weights as they are, see schemes/unquantized.c.
 */
#include "kernels/c/matmul.h"
#include "kernels/c/rows.h"
#include "kernels/kernel.h"

static void keep(const struct qg_args *a)
{
    memcpy(a->out[0].data, a->in[0].data, qg_bytes(&a->in[0]));
}

static void weights(const struct qg_args *a, size_t row, size_t at, size_t n, float *w)
{
    qg_load(&a->in[1], row * a->cols + at, n, w);
}

static const struct qg_product product = {weights, qg_inputs_plain, NULL};
QG_MATMUL(product)
QG_LORA(product)

#define ROW(o)                                                                      \
    {                                                                               \
        .scheme = "unquantized", .backend = "c", .variant = "", .op = o, .fn = keep \
    }

const struct qg_kernel qg_kernels_unquantized_c[] = {
    ROW(QG_CONVERT),
    ROW(QG_DEQUANT),
    QG_MATMUL_ROWS("unquantized", product),
    QG_LORA_ROWS("unquantized", product),
    {.scheme = NULL},
};
