/* SPDX-License-Identifier: MIT
 *
 * LoRA on a frozen base weight W [N,K], with A [R,K] and B [N,R] as PEFT keeps them:
 *
 *     y = x W^T + s (x A^T) B^T
 *
 * T is the dtype of x; R(...) rounds to it. All matrices are multiplied in binary32 and rounded
 * once.
 */
#include "schemes/layers/matrix.h"

enum { S, ADAPTER_DTYPE, P, LORA_BIAS, BIAS };

static const char *const off_on[] = {"off", "on", NULL};

static size_t values(const struct qg_args *a)
{
    size_t m = qg_extent_of(a, 'M'), n = qg_extent_of(a, 'N'), k = qg_extent_of(a, 'K'),
           r = qg_extent_of(a, 'R');
    return 4 * m * (n + k + r) + (r + 2) * (n + k);
}

/* --- unsloth ------------------------------------------------------------------------------------
 */

/* What the adapter sees of x, or of a gradient: R(x R(mask / (1 - p))), dropout as PyTorch does it
 * on a CPU: the mask is divided in T. */
static struct qg_matrix dropped(struct qg_pool *p, enum qg_dtype t, struct qg_matrix x)
{
    if (p->a->param[P] == 0)
        return x;
    float kept = (float)(1 - p->a->param[P]);
    struct qg_matrix z = qg_matrix_new(p, x.rows, x.cols);
    const struct qg_tensor *mask = qg_layer_in(p->a, "mask");
    for (size_t i = 0; i < x.rows * x.cols; i++) {
        float factor = qg_round(t, qg_div(qg_get(mask, i) != 0, kept));
        z.v[i] = qg_interval_mul(t, x.v[i], factor);
    }
    return z;
}

static void unsloth_forward(const struct qg_args *a)
{
    enum qg_dtype t = a->dtype;
    struct qg_pool pool = qg_pool_of(a), *p = &pool;
    struct qg_matrix x = qg_matrix_in(p, "x", t), w = qg_matrix_in(p, "w", t);
    struct qg_matrix A = qg_matrix_in(p, "a", t), B = qg_matrix_in(p, "b", t);
    float s = (float)a->param[S];

    struct qg_matrix y = qg_product(p, t, x, qg_transposed(w));
    struct qg_matrix xa = qg_product(p, t, dropped(p, t, x), qg_transposed(A));
    if (a->param[LORA_BIAS] != 0) { // three roundings, PEFT's order
        struct qg_matrix bias = qg_matrix_in(p, "lora_bias", t);
        struct qg_matrix lora = qg_added_product(p, t, bias, 1, xa, qg_transposed(B));
        y = qg_added(p, t, y, qg_scaled(p, t, lora, s));
    } else { // one
        y = qg_added_product(p, t, y, s, xa, qg_transposed(B));
    }
    if (a->param[BIAS] != 0)
        y = qg_added(p, t, y, qg_matrix_in(p, "bias", t));
    qg_matrix_out(a, "y", y);
}

static const struct qg_param unsloth_params[] = {
    {.name = "s", .doc = "lora_alpha / r", .def = 1, .min = -65504, .max = 65504},
    {.name = "adapter-dtype",
     .doc = "dtype of a, b, lora_bias and their gradients",
     .choices = qg_scale_dtypes},
    {.name = "p", .doc = "probability of dropout; above 0 there is a mask", .max = 0.9375},
    {.name = "lora-bias", .doc = "the adapter's B has a bias", .choices = off_on},
    {.name = "bias", .doc = "the base layer has a bias", .choices = off_on},
    {.name = NULL},
};

static const struct qg_layer_tensor unsloth_forward_in[] = {
    {.name = "x", .shape = "MK", .dtype = QG_INPUT, .doc = "the layer's input"},
    {.name = "w", .shape = "NK", .dtype = QG_INPUT, .base = true, .doc = "the base weight"},
    {.name = "a", .shape = "RK", .dtype_param = ADAPTER_DTYPE + 1, .doc = "lora_A.weight"},
    {.name = "b", .shape = "NR", .dtype_param = ADAPTER_DTYPE + 1, .doc = "lora_B.weight"},
    {.name = "mask", .shape = "MK", .dtype = QG_U8, .when = P + 1, .doc = "1: kept, 0: dropped"},
    {.name = "lora_bias",
     .shape = "N",
     .dtype_param = ADAPTER_DTYPE + 1,
     .when = LORA_BIAS + 1,
     .doc = "lora_B.bias"},
    {.name = "bias", .shape = "N", .dtype = QG_INPUT, .when = BIAS + 1, .doc = "the base's bias"},
    {.name = NULL},
};

static const struct qg_layer_tensor forward_out[] = {
    {.name = "y", .shape = "MN", .dtype = QG_INPUT, .doc = "the layer's output"},
    {.name = NULL},
};

const struct qg_layer qg_layers_lora[] = {
    {.name = "lora-unsloth",
     .summary = "LoRA on a frozen base, as unsloth's matmul_lora rounds",
     .upstream = "unslothai/unsloth:unsloth/kernels/utils.py (matmul_lora, fast_linear_forward), "
                 "unsloth/kernels/fast_lora.py (LoRA_W, _matmul_lora_ext)",
     .nonfinite = "as arithmetic has it",
     .params = unsloth_params,
     .forward = {unsloth_forward, unsloth_forward_in, forward_out, values}},
    {.name = NULL},
};
