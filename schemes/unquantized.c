/* SPDX-License-Identifier: MIT
 *
 * No quantization: the product of every other scheme's numbers as they are, which says what a
 * scheme's kernels cost and save. W is kept in the dtype that it has, and R is a rounding to it:
 *
 *     y = R(x . W^T)
 *
 * Products and sums are binary32, in an order that nobody promises; products of BF16 and F16 are
 * exact in it. Some kernels read binary32 factors as TF32, with 11 bits of significand instead of
 * 24. Nobody says how what does not fit is taken away: cut off, it is less than 2^-10 of the
 * factor, and rounding may overflow; whether what is below 2^-126 is kept is not said either. With
 * factors x' and w' that lie so near,
 *
 *     |x' w' - x w| < (2^-9 + 2^-20) |x w| + 2^-125 (|x| + |w|) + 2^-252
 *
 * Sources: PyTorch, torch.nn.functional.linear; NVIDIA A100 Tensor Core GPU Architecture (white
 * paper), "TF32"; PTX ISA, "Alternate Floating-Point Data Formats": tf32.
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

/* What the product of x and w may lose where both are read as TF32. */
static double tf32_loss(double x, double w)
{
    const double overflows = 0x1p128 - 0x1p116; // to nearest, with 11 bits
    x = fabs(x), w = fabs(w);
    if (!(x < INFINITY && w < INFINITY))
        return 0; // they stay what they are
    if (x >= overflows || w >= overflows)
        return INFINITY;
    return (0x1p-9 + 0x1p-20) * x * w + 0x1p-125 * (x + w) + 0x1p-252;
}

static void matmul(const struct qg_args *a)
{
    for (size_t i = 0; i < a->m * a->rows; i++) {
        struct qg_sum s = {0};
        double lost = 0;
        for (size_t k = 0; k < a->cols; k++) {
            const double x = qg_get(&a->in[0], i / a->rows * a->cols + k),
                         w = qg_get(&a->in[1], i % a->rows * a->cols + k);
            qg_sum_add(&s, x * w);
            lost += a->tf32 ? tf32_loss(x, w) : 0;
        }
        const double exact = qg_sum_value(&s);
        s.magnitude += lost;
        qg_emit(a, i, (float)exact, exact, qg_sum_bound(&s, a->cols, a->depth, 1) + lost);
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
