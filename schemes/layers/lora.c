/* SPDX-License-Identifier: MIT
 *
 * LoRA on a frozen base weight W [N,K], with A [R,K] and B [N,R] as PEFT keeps them:
 *
 *     y = x W^T + s (x A^T) B^T
 *
 * in the ways of three libraries. T is the dtype of x and R(...) rounds to it; matrices are
 * multiplied in binary32 and rounded once. Backward: g is dL/dy, and no gradient goes to W.
 */
#include <stdio.h>

#include "schemes/layers/adapter.h"

enum { LORA_BIAS = QG_ADAPTER_PARAMS, QAT, QAT_GROUP, QAT_INDIVISIBLE };

static size_t values(const struct qg_args *a)
{
    size_t m = qg_extent_of(a, 'M'), n = qg_extent_of(a, 'N'), k = qg_extent_of(a, 'K'),
           r = qg_extent_of(a, 'R');
    return 6 * m * (n + k + r) + (r + 3) * (n + k) + n * k + n + k + r; // the last for fake_quant
}

/* --- unsloth -------------------------------------------------------------------------------- */

static const char *const qat_schemes[] = {"none", "int4", "int8", "int8-g32", NULL};
static const char *const qat_indivisible[] = {"error", "skip", NULL};

/* Why a base layer's bias does not go with the rest; NULL when it does. */
static const char *refuse_bias(const struct qg_args *a)
{
    return a->op == QG_BACKWARD      ? "unsloth adds a base layer's bias only when it generates "
                                       "(fast_linear_forward), which has no backward; set bias=off"
           : qg_is_on(a, QG_DROPOUT) ? "unsloth has no dropout where it adds a base layer's bias "
                                       "(it generates there); set p=0 or bias=off"
           : qg_is_on(a, LORA_BIAS)  ? "unsloth hands an adapter with a bias to PEFT where it adds "
                                       "a base layer's bias; see lora-peft"
                                     : NULL;
}

/* The fake quantizer of one weight, as QAT sets it up; false when the scheme refuses the weight. */
static bool fake_quantizer(const struct qg_args *a, enum qg_dtype t, size_t rows, size_t cols,
                           struct qg_args *ret_f, char *why, size_t why_size)
{
    const struct qg_scheme *s = qg_scheme_find(qat_schemes[(int)a->param[QAT]]);
    char group[32];
    *ret_f = (struct qg_args){0};
    qg_params_default(ret_f, s);
    snprintf(group, sizeof group, "%.0f", a->param[QAT_GROUP]);
    if (qg_is_on(a, QAT_GROUP) && !qg_param_set(ret_f, s, "group", group, why, why_size))
        return false;
    return qg_args_init(ret_f, s, QG_FAKE_QUANT, QG_WEIGHT, t, 0, rows, cols, why, why_size);
}

/* W, A and B go through fake quantizers of their own: for B the elements of a row are the rank. */
static bool accepts_qat(const struct qg_args *a, char *why, size_t why_size)
{
    size_t n = qg_extent_of(a, 'N'), k = qg_extent_of(a, 'K'), r = qg_extent_of(a, 'R');
    enum qg_dtype t = a->dtype, u = qg_adapter_dtype(a);
    struct qg_args f;
    char refusal[192];
    const char *name = !fake_quantizer(a, t, n, k, &f, refusal, sizeof refusal)   ? "w [N,K]"
                       : !fake_quantizer(a, u, r, k, &f, refusal, sizeof refusal) ? "a [R,K]"
                       : !fake_quantizer(a, u, n, r, &f, refusal, sizeof refusal) ? "b [N,R]"
                                                                                  : NULL;
    if (name)
        snprintf(why, why_size,
                 "qat of %s: %s (unsloth leaves such a weight as it is: qat-indivisible=skip)",
                 name, refusal);
    return !name;
}

static bool unsloth_accepts(const struct qg_args *a, char *why, size_t why_size)
{
    const char *refusal = qg_is_on(a, QG_BIAS) ? refuse_bias(a) : NULL;
    if (qg_is_on(a, QAT) && a->op == QG_BACKWARD)
        refusal =
            "with qat the gradients of a and b go on through the fake quantizers: give w, a and b "
            "fake-quantized, with qat=none, then take fake-quant-grad of the scheme";
    if (refusal)
        snprintf(why, why_size, "%s", refusal);
    return !refusal &&
           (!qg_is_on(a, QAT) || qg_is_on(a, QAT_INDIVISIBLE) || accepts_qat(a, why, why_size));
}

/* A weight of dtype u, through its fake quantizer if there is one, rounded to t. */
static struct qg_matrix weight_in(struct qg_pool *p, const char *name, enum qg_dtype u,
                                  enum qg_dtype t)
{
    const struct qg_tensor *w = qg_layer_in(p->a, name);
    struct qg_matrix x = qg_matrix_in(p, name, t);
    struct qg_args f;
    char why[256];
    if (!qg_is_on(p->a, QAT) ||
        !fake_quantizer(p->a, u, w->shape[0], w->shape[1], &f, why, sizeof why))
        return x;
    f.in[0].data = w->data;
    f.out[0].data = p->next; // scratch, for as long as it is read here
    f.work = (float *)p->next + qg_count(w);
    qg_definition(f.scheme, QG_WEIGHT, QG_FAKE_QUANT)(&f);
    for (size_t i = 0; i < qg_count(w); i++)
        x.v[i] = qg_interval_at(qg_round(t, qg_get(&f.out[0], i)));
    return x;
}

static void unsloth_forward(const struct qg_args *a)
{
    enum qg_dtype t = a->dtype, u = qg_adapter_dtype(a);
    struct qg_pool pool = qg_pool_of(a), *p = &pool;
    struct qg_matrix x = qg_matrix_in(p, "x", t), w = weight_in(p, "w", t, t);
    struct qg_matrix A = weight_in(p, "a", u, t), B = weight_in(p, "b", u, t);
    float s = qg_adapter_scale(a);

    struct qg_matrix y = qg_product(p, t, x, qg_transposed(w));
    struct qg_matrix xa = qg_product(p, t, qg_dropped(p, t, x), qg_transposed(A));
    if (qg_is_on(a, LORA_BIAS)) { // in PEFT's order, three roundings
        struct qg_matrix bias = qg_matrix_in(p, "lora_bias", t);
        struct qg_matrix lora = qg_added_product(p, t, bias, 1, xa, qg_transposed(B));
        y = qg_added(p, t, y, qg_scaled(p, t, lora, s));
    } else { // one
        y = qg_added_product(p, t, y, s, xa, qg_transposed(B));
    }
    if (qg_is_on(a, QG_BIAS))
        y = qg_added(p, t, y, qg_matrix_in(p, "bias", t));
    qg_matrix_out(a, "y", y);
}

static void unsloth_backward(const struct qg_args *a)
{
    enum qg_dtype t = a->dtype;
    struct qg_pool pool = qg_pool_of(a), *p = &pool;
    struct qg_matrix x = qg_matrix_in(p, "x", t), w = qg_matrix_in(p, "w", t);
    struct qg_matrix A = qg_matrix_in(p, "a", t), B = qg_matrix_in(p, "b", t);
    struct qg_matrix g = qg_matrix_in(p, "g", t);
    float s = qg_adapter_scale(a);

    struct qg_matrix gb = qg_adapter_gradients(p, qg_dropped(p, t, x), A, B, g, "da", "db");
    if (qg_is_on(a, LORA_BIAS)) // in binary32
        qg_matrix_out(a, "dlora_bias", qg_scaled(p, QG_F32, qg_column_sums(p, QG_F32, g), s));

    struct qg_matrix dx = qg_product(p, t, g, w);
    if (qg_is_on(a, QG_DROPOUT)) { // two roundings more, and one for s unless it is 1
        struct qg_matrix lora = qg_dropped(p, t, qg_product(p, t, gb, A));
        dx = qg_added(p, t, dx, s == 1 ? lora : qg_scaled(p, t, lora, s));
    } else {
        dx = qg_added_product(p, t, dx, s, gb, A);
    }
    qg_matrix_out(a, "dx", dx);
}

/* --- axolotl -------------------------------------------------------------------------------- */

static void axolotl_forward(const struct qg_args *a)
{
    enum qg_dtype t = a->dtype, u = qg_adapter_dtype(a);
    struct qg_pool pool = qg_pool_of(a), *p = &pool;
    struct qg_matrix x = qg_matrix_in(p, "x", t), w = qg_matrix_in(p, "w", t);
    struct qg_matrix A = qg_matrix_in(p, "a", t), B = qg_matrix_in(p, "b", t);
    float s = qg_adapter_scale(a);

    struct qg_matrix y = qg_product(p, t, x, qg_transposed(w));
    struct qg_matrix xa = qg_product(p, t, qg_adapter_input(p, x), qg_transposed(A));
    y = qg_added_product(p, t, y, s, xa, qg_transposed(B));
    if (qg_is_on(a, LORA_BIAS)) // s times the bias in the bias's own dtype
        y = qg_added(p, t, y, qg_scaled(p, u, qg_matrix_in(p, "lora_bias", u), s));
    if (qg_is_on(a, QG_BIAS))
        y = qg_added(p, t, y, qg_matrix_in(p, "bias", t));
    qg_matrix_out(a, "y", y);
}

static void axolotl_backward(const struct qg_args *a)
{
    enum qg_dtype t = a->dtype;
    struct qg_pool pool = qg_pool_of(a), *p = &pool;
    struct qg_matrix x = qg_matrix_in(p, "x", t), w = qg_matrix_in(p, "w", t);
    struct qg_matrix A = qg_matrix_in(p, "a", t), B = qg_matrix_in(p, "b", t);
    struct qg_matrix g = qg_matrix_in(p, "g", t);
    float s = qg_adapter_scale(a);

    struct qg_matrix gb = qg_adapter_gradients(p, qg_adapter_input(p, x), A, B, g, "da", "db");
    if (qg_is_on(a, LORA_BIAS))
        qg_matrix_out(a, "dlora_bias", qg_scaled(p, t, qg_column_sums(p, t, g), s));

    struct qg_matrix dx = qg_product(p, t, g, w);
    if (qg_is_on(a, QG_DROPOUT))
        qg_matrix_out(a, "dxd", qg_scaled(p, t, qg_product(p, t, gb, A), s));
    else
        dx = qg_added_product(p, t, dx, s, gb, A);
    qg_matrix_out(a, "dx", dx);
}

/* --- PEFT, differentiated by autograd ------------------------------------------------------- */

/* The adapter computes in its own dtype U, x is cast to it, and every step rounds. */
static void peft_forward(const struct qg_args *a)
{
    enum qg_dtype t = a->dtype, u = qg_adapter_dtype(a);
    struct qg_pool pool = qg_pool_of(a), *p = &pool;
    struct qg_matrix x = qg_matrix_in(p, "x", t), wt = qg_transposed(qg_matrix_in(p, "w", t));
    struct qg_matrix A = qg_matrix_in(p, "a", u), B = qg_matrix_in(p, "b", u);

    struct qg_matrix y = qg_is_on(a, QG_BIAS)
                             ? qg_added_product(p, t, qg_matrix_in(p, "bias", t), 1, x, wt)
                             : qg_product(p, t, x, wt);
    struct qg_matrix xa =
        qg_product(p, u, qg_dropped(p, u, qg_scaled(p, u, x, 1)), qg_transposed(A));
    struct qg_matrix lora =
        qg_is_on(a, LORA_BIAS)
            ? qg_added_product(p, u, qg_matrix_in(p, "lora_bias", u), 1, xa, qg_transposed(B))
            : qg_product(p, u, xa, qg_transposed(B));
    qg_matrix_out(a, "y", qg_added(p, t, y, qg_scaled(p, u, lora, qg_adapter_scale(a))));
}

static void peft_backward(const struct qg_args *a)
{
    enum qg_dtype t = a->dtype, u = qg_adapter_dtype(a);
    struct qg_pool pool = qg_pool_of(a), *p = &pool;
    struct qg_matrix x = qg_matrix_in(p, "x", t), w = qg_matrix_in(p, "w", t);
    struct qg_matrix A = qg_matrix_in(p, "a", u), B = qg_matrix_in(p, "b", u);
    struct qg_matrix g = qg_matrix_in(p, "g", t);

    struct qg_matrix xd = qg_dropped(p, u, qg_scaled(p, u, x, 1));
    struct qg_matrix xa = qg_product(p, u, xd, qg_transposed(A));
    struct qg_matrix dlora = qg_scaled(p, u, qg_scaled(p, u, g, 1), qg_adapter_scale(a));
    struct qg_matrix dxa = qg_product(p, u, dlora, B);
    qg_matrix_out(a, "db", qg_product(p, u, qg_transposed(dlora), xa));
    qg_matrix_out(a, "da", qg_product(p, u, qg_transposed(dxa), xd));
    if (qg_is_on(a, LORA_BIAS))
        qg_matrix_out(a, "dlora_bias", qg_column_sums(p, u, dlora));

    struct qg_matrix dx = qg_product(p, t, g, w);
    struct qg_matrix dx_lora = qg_dropped(p, u, qg_product(p, u, dxa, A));
    qg_matrix_out(a, "dx", qg_added(p, t, dx, qg_scaled(p, t, dx_lora, 1)));
}

/* --- the tables ----------------------------------------------------------------------------- */

#define PARAM_LORA_BIAS \
    [LORA_BIAS] = {"lora-bias", "whether lora_B has a bias", 0, 0, 0, qg_off_on, false}

static const struct qg_param unsloth_params[] = {
    QG_PARAM_S,
    QG_PARAM_ADAPTER_DTYPE,
    QG_PARAM_P,
    QG_PARAM_BIAS,
    PARAM_LORA_BIAS,
    [QAT] = {"qat", "scheme of the fake quantizers of w, a and b, each for itself", 0, 0, 0,
             qat_schemes, false},
    [QAT_GROUP] = {"qat-group", "the scheme's group; 0: its default", 0, 0, 65536, NULL, true},
    [QAT_INDIVISIBLE] = {"qat-indivisible",
                         "what becomes of a weight that the group does not divide", 0, 0, 0,
                         qat_indivisible, false},
    {.name = NULL},
};

static const struct qg_param p_params[] = {QG_PARAM_S,    QG_PARAM_ADAPTER_DTYPE, QG_PARAM_P,
                                           QG_PARAM_BIAS, PARAM_LORA_BIAS,        {.name = NULL}};

static const struct qg_param dropout_params[] = {QG_PARAM_S,       QG_PARAM_ADAPTER_DTYPE,
                                                 QG_PARAM_DROPOUT, QG_PARAM_BIAS,
                                                 PARAM_LORA_BIAS,  {.name = NULL}};

#define TENSOR_LORA_BIAS                                                                 \
    {                                                                                    \
        "lora_bias", "N", QG_OF_ADAPTER, QG_FORWARD, LORA_BIAS + 1, "lora_B.bias", false \
    }
#define TENSOR_BIAS                                                                   \
    {                                                                                 \
        "bias", "N", QG_OF_X, QG_FORWARD, QG_BIAS + 1, "the base layer's bias", false \
    }
#define TENSOR_DLORA_BIAS                                                                    \
    {                                                                                        \
        "dlora_bias", "N", QG_OF_ADAPTER, QG_BACKWARD, LORA_BIAS + 1, "dL/dlora_bias", false \
    }

static const struct qg_layer_tensor p_in[] = {QG_TENSOR_X, QG_TENSOR_W,    QG_TENSOR_A,
                                              QG_TENSOR_B, QG_TENSOR_MASK, TENSOR_LORA_BIAS,
                                              TENSOR_BIAS, QG_TENSOR_G,    {.name = NULL}};

static const struct qg_layer_tensor p_out[] = {QG_TENSOR_Y,  QG_TENSOR_DX,      QG_TENSOR_DA,
                                               QG_TENSOR_DB, TENSOR_DLORA_BIAS, {.name = NULL}};

static const struct qg_layer_tensor dropout_in[] = {QG_TENSOR_X, QG_TENSOR_W,  QG_TENSOR_A,
                                                    QG_TENSOR_B, QG_TENSOR_XD, TENSOR_LORA_BIAS,
                                                    TENSOR_BIAS, QG_TENSOR_G,  {.name = NULL}};

static const struct qg_layer_tensor dropout_out[] = {QG_TENSOR_Y,   QG_TENSOR_DX, QG_TENSOR_DXD,
                                                     QG_TENSOR_DA,  QG_TENSOR_DB, TENSOR_DLORA_BIAS,
                                                     {.name = NULL}};

static const char arithmetic[] = "as arithmetic has it: NaN and inf spread along rows and columns";

const struct qg_layer qg_layers_lora[] = {
    {.name = "lora-unsloth",
     .summary = "LoRA as unsloth's matmul_lora and LoRA_W round it",
     .upstream = "unslothai/unsloth:unsloth/kernels/utils.py (matmul_lora, fast_linear_forward), "
                 "unsloth/kernels/fast_lora.py (LoRA_W, _matmul_lora_ext, _add_lora_dX)",
     .nonfinite = arithmetic,
     .params = unsloth_params,
     .in = p_in,
     .out = p_out,
     .forward = unsloth_forward,
     .backward = unsloth_backward,
     .values = values,
     .accepts = unsloth_accepts},
    {.name = "lora-axolotl",
     .summary = "LoRA as axolotl's matmul_lora and LoRA_O round it",
     .upstream = "axolotl-ai-cloud/axolotl:src/axolotl/kernels/lora.py (matmul_lora, LoRA_O)",
     .nonfinite = arithmetic,
     .params = dropout_params,
     .in = dropout_in,
     .out = dropout_out,
     .forward = axolotl_forward,
     .backward = axolotl_backward,
     .values = values},
    {.name = "lora-peft",
     .summary = "LoRA as PEFT's Linear computes it and autograd differentiates it",
     .upstream =
         "huggingface/peft:src/peft/tuners/lora/layer.py (Linear.forward); PyTorch autograd",
     .nonfinite = arithmetic,
     .params = p_params,
     .in = p_in,
     .out = p_out,
     .forward = peft_forward,
     .backward = peft_backward,
     .values = values},
    {.name = NULL},
};
