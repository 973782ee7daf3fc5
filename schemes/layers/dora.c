/* SPDX-License-Identifier: MIT
 *
 * DoRA on a frozen base weight W [N,K]: LoRA whose rows are brought to the length of a learned
 * magnitude,
 *
 *     y = m / |W + s B A| (x W^T + s (x A^T) B^T) + bias
 *
 * where |.| is the Euclidean norm of each row, a constant to the gradient. T is the dtype of x, U
 * that of the adapter. Backward: g is dL/dy, and no gradient goes to W. PEFT has no lora_bias with
 * DoRA, so there is none.
 */
#include "schemes/layers/adapter.h"

enum { NORM = QG_ADAPTER_PARAMS };
enum { TORCH, TRITON, TRITON_CACHED };

static size_t values(const struct qg_args *a)
{
    size_t m = qg_extent_of(a, 'M'), n = qg_extent_of(a, 'N'), k = qg_extent_of(a, 'K'),
           r = qg_extent_of(a, 'R');
    return 12 * m * (n + k + r) + (r + 12) * (n + k) + 6 * n * k;
}

/* What PyTorch makes of operands in dtypes t and u. */
static enum qg_dtype promoted(enum qg_dtype t, enum qg_dtype u)
{
    return t == u ? t : QG_F32;
}

/* R(|R(w + R(s R(B A)))|), a number per row: every step in t. */
static struct qg_matrix stepwise_norms(struct qg_pool *p, enum qg_dtype t, struct qg_matrix w,
                                       float s, struct qg_matrix A, struct qg_matrix B)
{
    struct qg_matrix delta = qg_scaled(p, t, qg_product(p, t, B, A), s);
    return qg_row_norms(p, t, qg_added(p, t, w, delta), 0);
}

/* --- axolotl -------------------------------------------------------------------------------- */

/* m / |W + s B A|, a row. norm=torch: in T, nothing added. norm=triton: in binary32 with 1e-12
 * under the root (correctly rounded here, approximate on a GPU), stored in T. norm=triton-cached:
 * what the next call makes of it, for what is kept is the quotient R(m / R(m / |.|)). */
static struct qg_matrix axolotl_scales(struct qg_pool *p, struct qg_matrix w, struct qg_matrix A,
                                       struct qg_matrix B)
{
    const struct qg_args *a = p->a;
    enum qg_dtype t = a->dtype, u = qg_adapter_dtype(a);
    float s = qg_adapter_scale(a);
    struct qg_matrix m = qg_matrix_in(p, "magnitude", u), rounded = qg_scaled(p, t, m, 1);
    if (a->param[NORM] == TORCH)
        return qg_over(p, t, rounded, stepwise_norms(p, t, w, s, A, B));
    struct qg_matrix merged = qg_added_product(p, QG_F32, w, s, B, A);
    struct qg_matrix scales = qg_over(p, t, m, qg_row_norms(p, QG_F32, merged, 1e-12f));
    if (a->param[NORM] == TRITON)
        return scales;
    return qg_over(p, t, rounded, qg_over(p, t, rounded, scales));
}

/* What forward computes and keeps for backward. */
struct axolotl {
    struct qg_matrix w, A, B, xd, scales, combined;
};

static struct axolotl axolotl_combine(struct qg_pool *p)
{
    const struct qg_args *a = p->a;
    enum qg_dtype t = a->dtype;
    float s = qg_adapter_scale(a);
    struct qg_matrix x = qg_matrix_in(p, "x", t);
    struct axolotl d = {.w = qg_matrix_in(p, "w", t),
                        .A = qg_matrix_in(p, "a", t),
                        .B = qg_matrix_in(p, "b", t),
                        .xd = qg_adapter_input(p, x)};
    struct qg_matrix base = qg_product(p, t, x, qg_transposed(d.w));
    // s multiplies x, not the product as without DoRA
    struct qg_matrix xa = qg_product(p, t, qg_scaled(p, t, d.xd, s), qg_transposed(d.A));
    struct qg_matrix lora = qg_product(p, t, xa, qg_transposed(d.B));
    d.combined = qg_added(p, t, base, lora);
    d.scales = axolotl_scales(p, d.w, d.A, d.B);
    return d;
}

static void axolotl_forward(const struct qg_args *a)
{
    enum qg_dtype t = a->dtype;
    struct qg_pool pool = qg_pool_of(a), *p = &pool;
    struct axolotl d = axolotl_combine(p);
    struct qg_matrix y = qg_times(p, t, d.combined, d.scales);
    if (qg_is_on(a, QG_BIAS))
        y = qg_added(p, t, y, qg_matrix_in(p, "bias", t));
    qg_matrix_out(a, "y", y);
}

static void axolotl_backward(const struct qg_args *a)
{
    enum qg_dtype t = a->dtype, u = qg_adapter_dtype(a);
    struct qg_pool pool = qg_pool_of(a), *p = &pool;
    struct axolotl d = axolotl_combine(p);
    struct qg_matrix g = qg_matrix_in(p, "g", t), m = qg_matrix_in(p, "magnitude", u);
    float s = qg_adapter_scale(a);

    struct qg_matrix along = qg_column_sums(p, t, qg_times(p, t, g, d.combined));
    along = qg_times(p, t, along, d.scales);
    qg_matrix_out(a, "dmagnitude", qg_over(p, promoted(t, u), along, m));

    g = qg_times(p, t, g, d.scales);
    struct qg_matrix gb = qg_adapter_gradients(p, d.xd, d.A, d.B, g, "da", "db");
    struct qg_matrix dx = qg_product(p, t, g, d.w);
    if (qg_is_on(a, QG_DROPOUT))
        qg_matrix_out(a, "dxd", qg_scaled(p, t, qg_product(p, t, gb, d.A), s));
    else
        dx = qg_added_product(p, t, dx, s, gb, d.A);
    qg_matrix_out(a, "dx", dx);
}

/* --- PEFT, differentiated by autograd ------------------------------------------------------- */

/* What forward computes and autograd keeps. */
struct peft {
    struct qg_matrix w, A, B, xd, xa, lora, norms, scales, less, result, base;
};

static struct peft peft_combine(struct qg_pool *p)
{
    const struct qg_args *a = p->a;
    enum qg_dtype t = a->dtype, u = qg_adapter_dtype(a);
    struct qg_matrix x = qg_matrix_in(p, "x", t);
    struct peft d = {
        .w = qg_matrix_in(p, "w", t), .A = qg_matrix_in(p, "a", u), .B = qg_matrix_in(p, "b", u)};
    struct qg_matrix wu = qg_scaled(p, u, d.w, 1), wt = qg_transposed(d.w);
    d.norms = stepwise_norms(p, u, wu, qg_adapter_scale(a), d.A, d.B);
    d.scales = qg_over(p, u, qg_matrix_in(p, "magnitude", u), d.norms);
    d.less = qg_added(p, u, d.scales, qg_constant(p, -1));

    d.xd = qg_dropped(p, u, qg_scaled(p, u, x, 1));
    d.xa = qg_product(p, u, d.xd, qg_transposed(d.A));
    d.lora = qg_product(p, u, d.xa, qg_transposed(d.B));

    d.result = d.base = qg_product(p, t, x, wt);
    if (qg_is_on(a, QG_BIAS)) { // it is added, and, without dropout, taken off again
        struct qg_matrix bias = qg_matrix_in(p, "bias", t);
        d.result = qg_added_product(p, t, bias, 1, x, wt);
        d.base = qg_added(p, t, d.result, qg_scaled(p, t, bias, -1));
    }
    if (qg_is_on(a, QG_DROPOUT)) // the base is computed again, from what dropout has left
        d.base = qg_product(p, u, d.xd, qg_transposed(wu));
    return d;
}

/* y = result + (scales - 1) base + scales lora s. */
static void peft_forward(const struct qg_args *a)
{
    enum qg_dtype t = a->dtype, u = qg_adapter_dtype(a), both = promoted(t, u);
    struct qg_pool pool = qg_pool_of(a), *p = &pool;
    struct peft d = peft_combine(p);
    struct qg_matrix lora = qg_times(p, u, d.lora, d.scales);
    lora = qg_scaled(p, u, lora, qg_adapter_scale(a));
    struct qg_matrix more = qg_times(p, qg_is_on(a, QG_DROPOUT) ? u : both, d.base, d.less);
    more = qg_added(p, qg_is_on(a, QG_DROPOUT) ? u : both, more, lora);
    qg_matrix_out(a, "y", qg_added(p, t, d.result, more));
}

static void peft_backward(const struct qg_args *a)
{
    enum qg_dtype t = a->dtype, u = qg_adapter_dtype(a),
                  b = qg_is_on(a, QG_DROPOUT) ? u : promoted(t, u);
    struct qg_pool pool = qg_pool_of(a), *p = &pool;
    struct peft d = peft_combine(p);
    struct qg_matrix g = qg_matrix_in(p, "g", t), gu = qg_scaled(p, u, g, 1);

    // of scales: by way of (scales - 1) base, and by way of scales lora s
    struct qg_matrix gb = qg_is_on(a, QG_DROPOUT) ? gu : g,
                     gs = qg_scaled(p, u, gu, qg_adapter_scale(a));
    struct qg_matrix one = qg_column_sums(p, b, qg_times(p, b, gb, d.base));
    struct qg_matrix two = qg_column_sums(p, u, qg_times(p, u, gs, d.lora));
    struct qg_matrix dscales = qg_added(p, u, qg_scaled(p, u, one, 1), two);
    qg_matrix_out(a, "dmagnitude", qg_over(p, u, dscales, d.norms));

    struct qg_matrix dlora = qg_times(p, u, gs, d.scales);
    struct qg_matrix dxa = qg_product(p, u, dlora, d.B);
    qg_matrix_out(a, "db", qg_product(p, u, qg_transposed(dlora), d.xa));
    qg_matrix_out(a, "da", qg_product(p, u, qg_transposed(dxa), d.xd));

    struct qg_matrix dxd = qg_product(p, u, dxa, d.A);
    struct qg_matrix dbase = qg_times(p, b, gb, d.less);
    struct qg_matrix dresult = g;
    if (qg_is_on(a, QG_DROPOUT)) {
        struct qg_matrix wu = qg_scaled(p, u, d.w, 1);
        dxd = qg_added(p, u, dxd, qg_product(p, u, dbase, wu));
        dxd = qg_dropped(p, u, dxd);
    } else {
        dresult = qg_added(p, t, g, qg_scaled(p, t, dbase, 1));
    }
    struct qg_matrix dx = qg_product(p, t, dresult, d.w);
    qg_matrix_out(a, "dx", qg_added(p, t, dx, qg_scaled(p, t, dxd, 1)));
}

/* --- the tables ----------------------------------------------------------------------------- */

static const char *const norms[] = {"torch", "triton", "triton-cached", NULL};

static const struct qg_param axolotl_params[] = {
    QG_PARAM_S,
    QG_PARAM_ADAPTER_DTYPE,
    QG_PARAM_DROPOUT,
    QG_PARAM_BIAS,
    [NORM] = {"norm", "whose; on a GPU triton, and triton-cached until A or B changes", 0, 0, 0,
              norms, false},
    {.name = NULL}};

static const struct qg_param peft_params[] = {
    QG_PARAM_S, QG_PARAM_ADAPTER_DTYPE, QG_PARAM_P, QG_PARAM_BIAS, {.name = NULL}};

#define TENSOR_MAGNITUDE                                                             \
    {                                                                                \
        "magnitude", "N", QG_OF_ADAPTER, 0, 0, "lora_magnitude_vector.weight", false \
    }
#define TENSOR_DMAGNITUDE                                                        \
    {                                                                            \
        "dmagnitude", "N", QG_OF_ADAPTER, QG_BACKWARD, 0, "dL/dmagnitude", false \
    }

static const struct qg_layer_tensor axolotl_in[] = {
    QG_TENSOR_X,
    QG_TENSOR_W,
    QG_TENSOR_A,
    QG_TENSOR_B,
    TENSOR_MAGNITUDE,
    QG_TENSOR_XD,
    {"bias", "N", QG_OF_X, QG_FORWARD, QG_BIAS + 1, "the base layer's bias", false},
    QG_TENSOR_G,
    {.name = NULL}};

static const struct qg_layer_tensor axolotl_out[] = {QG_TENSOR_Y,   QG_TENSOR_DX, QG_TENSOR_DXD,
                                                     QG_TENSOR_DA,  QG_TENSOR_DB, TENSOR_DMAGNITUDE,
                                                     {.name = NULL}};

static const struct qg_layer_tensor peft_in[] = {
    QG_TENSOR_X,
    QG_TENSOR_W,
    QG_TENSOR_A,
    QG_TENSOR_B,
    TENSOR_MAGNITUDE,
    QG_TENSOR_MASK,
    {"bias", "N", QG_OF_X, 0, QG_BIAS + 1, "the base layer's bias", false},
    QG_TENSOR_G,
    {.name = NULL}};

static const struct qg_layer_tensor peft_out[] = {QG_TENSOR_Y,  QG_TENSOR_DX,      QG_TENSOR_DA,
                                                  QG_TENSOR_DB, TENSOR_DMAGNITUDE, {.name = NULL}};

const struct qg_layer qg_layers_dora[] = {
    {.name = "dora-axolotl",
     .summary = "DoRA as axolotl's LoRA_O rounds it, its norm by either of its two codes",
     .upstream = "axolotl-ai-cloud/axolotl:src/axolotl/kernels/lora.py (LoRA_O, _lora_only, "
                 "_compute_dora_scale), src/axolotl/kernels/dora.py",
     .nonfinite =
         "a row of W + s B A that is zero has the norm 0: with norm=torch its scale is inf "
         "(NaN for a magnitude of 0), and NaN times its zeros; with norm=triton the norm is "
         "1e-6",
     .params = axolotl_params,
     .in = axolotl_in,
     .out = axolotl_out,
     .forward = axolotl_forward,
     .backward = axolotl_backward,
     .values = values},
    {.name = "dora-peft",
     .summary = "DoRA as PEFT's Linear computes it and autograd differentiates it",
     .upstream = "huggingface/peft:src/peft/tuners/lora/dora.py (DoraLinearLayer), variants.py "
                 "(DoraLinearVariant); PyTorch autograd",
     .nonfinite = "a row of W + s B A that is zero has the norm 0: its scale is inf, NaN for a "
                  "magnitude of 0",
     .params = peft_params,
     .in = peft_in,
     .out = peft_out,
     .forward = peft_forward,
     .backward = peft_backward,
     .values = values},
    {.name = NULL},
};
