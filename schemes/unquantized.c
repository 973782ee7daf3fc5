/* SPDX-License-Identifier: MIT
 *
 * No quantization: the product of every other scheme's numbers as they are, which says what a
 * scheme's kernels cost and save. W is kept in the dtype that it has, and R is a rounding to it:
 *
 *     y = R(x . W^T)
 *
 * Products and sums are binary32, in an order that nobody promises; products of BF16 and F16 are
 * exact in it. Some kernels read binary32 factors as TF32 (dot.h).
 *
 * Source: PyTorch, torch.nn.functional.linear.
 */
#include "schemes/dot.h"

static void keep(const struct qg_args *a)
{
    memcpy(a->out[0].data, a->in[0].data, qg_bytes(&a->in[0]));
    if (a->trace)
        qg_note(a, a->trace->index, "w", qg_get(&a->in[0], a->trace->index));
}

static size_t one(const struct qg_args *a)
{
    (void)a;
    return 1;
}

static void matmul(const struct qg_args *a)
{
    for (size_t n = 0; n < a->rows; n++) {
        for (size_t k = 0; k < a->cols; k++)
            a->work[k] = qg_get(&a->in[1], n * a->cols + k);
        qg_matmul_row(a, n, a->work);
    }
}

static const char *uniform(const struct qg_args *a)
{
    return qg_is_product(a->op) ? NULL : "the tensor is kept as it is";
}

static const struct qg_param no_params[] = {{NULL}};

static const struct qg_plane planes[] = {
    {"weight", QG_INPUT, 0, {&qg_ext_rows, &qg_ext_cols}, "as it was"},
    {NULL},
};

const struct qg_scheme qg_schemes_unquantized[] = {
    {.name = "unquantized",
     .summary = "weights as they are: the product that all others are measured against",
     .upstream = "pytorch:torch/nn/functional.py linear",
     .nonfinite = "Kept.",
     .params = no_params,
     .operand = {[QG_WEIGHT] = {.convert = keep, .dequant = keep, .group = one, .planes = planes}},
     .matmul = matmul,
     .uniform = uniform,
     .adapts = true},
    {NULL},
};
