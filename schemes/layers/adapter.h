/* SPDX-License-Identifier: MIT
 *
 * What layers with a low-rank adapter share: their first parameters and tensors, and dropout.
 */
#ifndef QG_ADAPTER_H
#define QG_ADAPTER_H

#include "schemes/layers/matrix.h"

/* The first parameters of the table. Dropout is either a probability, with a mask among the
 * tensors, or a switch, when it happens outside of the layer. */
enum { QG_S, QG_ADAPTER_DTYPE, QG_DROPOUT, QG_BIAS, QG_ADAPTER_PARAMS };

#define QG_PARAM_S [QG_S] = {"s", "lora_alpha / r", 1, -65504, 65504, NULL, false}
#define QG_PARAM_ADAPTER_DTYPE \
    [QG_ADAPTER_DTYPE] = {     \
        "adapter-dtype", "of the adapter's tensors", 0, 0, 0, qg_scale_dtypes, false}
#define QG_PARAM_P                                                                               \
    [QG_DROPOUT] = {"p",  "probability of dropout; above 0 there is a mask", 0, 0, 0.9375, NULL, \
                    false}
#define QG_PARAM_DROPOUT                                                                       \
    [QG_DROPOUT] = {"dropout", "whether the adapter sees x after dropout", 0, 0, 0, qg_off_on, \
                    false}
#define QG_PARAM_BIAS \
    [QG_BIAS] = {"bias", "whether the base layer has a bias", 0, 0, 0, qg_off_on, false}

/* dtype and dtype_param of a tensor: that of x, that of the adapter. */
#define QG_OF_X       QG_INPUT, 0
#define QG_OF_ADAPTER QG_F32, QG_ADAPTER_DTYPE + 1

#define QG_TENSOR_X                                          \
    {                                                        \
        "x", "MK", QG_OF_X, 0, 0, "the layer's input", false \
    }
#define QG_TENSOR_W                                       \
    {                                                     \
        "w", "NK", QG_OF_X, 0, 0, "the base weight", true \
    }
#define QG_TENSOR_A                                            \
    {                                                          \
        "a", "RK", QG_OF_ADAPTER, 0, 0, "lora_A.weight", false \
    }
#define QG_TENSOR_B                                            \
    {                                                          \
        "b", "NR", QG_OF_ADAPTER, 0, 0, "lora_B.weight", false \
    }
#define QG_TENSOR_MASK                                                          \
    {                                                                           \
        "mask", "MK", QG_U8, 0, 0, QG_DROPOUT + 1, "1: kept, 0: dropped", false \
    }
#define QG_TENSOR_XD                                                     \
    {                                                                    \
        "xd", "MK", QG_OF_X, 0, QG_DROPOUT + 1, "x after dropout", false \
    }
#define QG_TENSOR_G                                        \
    {                                                      \
        "g", "MN", QG_OF_X, QG_BACKWARD, 0, "dL/dy", false \
    }
#define QG_TENSOR_Y                                                    \
    {                                                                  \
        "y", "MN", QG_OF_X, QG_FORWARD, 0, "the layer's output", false \
    }
#define QG_TENSOR_DX                                        \
    {                                                       \
        "dx", "MK", QG_OF_X, QG_BACKWARD, 0, "dL/dx", false \
    }
#define QG_TENSOR_DXD                                                                           \
    {                                                                                           \
        "dxd", "MK", QG_OF_X, QG_BACKWARD, QG_DROPOUT + 1, "dL/dxd; none of it is in dx", false \
    }
#define QG_TENSOR_DA                                              \
    {                                                             \
        "da", "RK", QG_OF_ADAPTER, QG_BACKWARD, 0, "dL/da", false \
    }
#define QG_TENSOR_DB                                              \
    {                                                             \
        "db", "NR", QG_OF_ADAPTER, QG_BACKWARD, 0, "dL/db", false \
    }

static inline bool qg_is_on(const struct qg_args *a, int param)
{
    return a->param[param] != 0;
}

static inline float qg_adapter_scale(const struct qg_args *a)
{
    return (float)a->param[QG_S];
}

static inline enum qg_dtype qg_adapter_dtype(const struct qg_args *a)
{
    return qg_dtype_by(a, QG_OF_ADAPTER);
}

/* PyTorch's dropout on a CPU, of x or of a gradient, where p is above 0: R(x R(mask / (1 - p))). */
static inline struct qg_matrix qg_dropped(struct qg_pool *p, enum qg_dtype t, struct qg_matrix x)
{
    if (!qg_is_on(p->a, QG_DROPOUT))
        return x;
    float kept = (float)(1 - p->a->param[QG_DROPOUT]);
    struct qg_matrix z = qg_matrix_new(p, x.rows, x.cols);
    const struct qg_tensor *mask = qg_layer_in(p->a, "mask");
    for (size_t i = 0; i < x.rows * x.cols; i++)
        z.v[i] = qg_interval_mul(t, x.v[i], qg_round(t, qg_div(qg_get(mask, i) != 0, kept)));
    return z;
}

/* What the adapter sees where dropout is a switch: xd, or x. */
static inline struct qg_matrix qg_adapter_input(struct qg_pool *p, struct qg_matrix x)
{
    return qg_is_on(p->a, QG_DROPOUT) ? qg_matrix_in(p, "xd", p->a->dtype) : x;
}

/* An adapter's gradients as unsloth and axolotl take them, stored as the outputs of these names,
 * from R(g B), which is returned: da = R(s R(g B)^T xd), db = R(s g^T R(A xd^T)^T). */
static inline struct qg_matrix qg_adapter_gradients(struct qg_pool *p, struct qg_matrix xd,
                                                    struct qg_matrix A, struct qg_matrix B,
                                                    struct qg_matrix g, const char *da,
                                                    const char *db)
{
    enum qg_dtype t = p->a->dtype;
    float s = qg_adapter_scale(p->a);
    struct qg_matrix gb = qg_product(p, t, g, B), xt = qg_transposed(xd);
    struct qg_matrix axt = qg_product(p, t, A, xt);
    qg_matrix_out(p->a, da, qg_transposed(qg_scaled_product(p, t, s, xt, gb)));
    qg_matrix_out(p->a, db, qg_transposed(qg_scaled_product(p, t, s, axt, g)));
    return gb;
}

#endif
