/* SPDX-License-Identifier: MIT
 *
 * The MLP of a decoder layer with LoRA on its three frozen matrices, gate and up [H,K], down [N,H],
 * as unsloth and axolotl fuse it. L is the LoRA of lora.c (one addmm on top of the product):
 *
 *     e = L_gate(x),  u = L_up(x),  h = R(f(e) u),  y = L_down(h)
 *
 * f is computed in binary32 and rounded to the dtype T of x, once:
 *
 *     swiglu   e sigmoid(e),  sigmoid = 1 / (1 + exp(-e))
 *     geglu    1/2 e (erf(e / sqrt 2) + 1);   form=tanh (unsloth, Gemma's):
 *              1/2 e (tanh(c e (1 + 0.044715 e e)) + 1),  c = sqrt(2 / pi)
 *
 * Backward, d = R(dL/dh) by way of down and its LoRA, h computed anew:
 *
 *     du = R(d f),   de = R(R(d u) f'(e)), f' in binary32
 *
 * dx gathers four products, each rounded as it is added: unsloth up, up's LoRA, gate, gate's LoRA;
 * axolotl up, gate, up's LoRA, gate's LoRA.
 *
 * Sources: unsloth:kernels/fast_lora.py LoRA_MLP; unsloth:kernels/swiglu.py, geglu.py;
 * axolotl:kernels/lora.py LoRA_MLP; axolotl:kernels/swiglu.py, geglu.py.
 */
#include "schemes/layers/activation.h"
#include "schemes/layers/adapter.h"

enum { FORM = QG_ADAPTER_DTYPE + 1 };

/* One of the three matrices and its adapter. */
struct part {
    struct qg_matrix w, a, b;
};

struct mlp {
    struct qg_pool pool;
    enum qg_dtype t;
    float s;
    struct qg_matrix x;
    struct part gate, up, down;
};

static struct part part_of(struct qg_pool *p, const char *w, const char *a, const char *b)
{
    enum qg_dtype t = p->a->dtype; // upstream casts A and B to it
    return (struct part){qg_matrix_in(p, w, t), qg_matrix_in(p, a, t), qg_matrix_in(p, b, t)};
}

static struct mlp mlp_of(const struct qg_args *a)
{
    struct mlp m = {.pool = qg_pool_of(a), .t = a->dtype, .s = qg_adapter_scale(a)};
    m.x = qg_matrix_in(&m.pool, "x", m.t);
    m.gate = part_of(&m.pool, "gate_w", "gate_a", "gate_b");
    m.up = part_of(&m.pool, "up_w", "up_a", "up_b");
    m.down = part_of(&m.pool, "down_w", "down_a", "down_b");
    return m;
}

/* R(R(x W^T) + s R(x A^T) B^T). */
static struct qg_matrix lora(struct mlp *m, struct qg_matrix x, const struct part *l)
{
    struct qg_pool *p = &m->pool;
    struct qg_matrix y = qg_product(p, m->t, x, qg_transposed(l->w));
    struct qg_matrix xa = qg_product(p, m->t, x, qg_transposed(l->a));
    return qg_added_product(p, m->t, y, m->s, xa, qg_transposed(l->b));
}

/* --- activations ----------------------------------------------------------------------------- */

static struct qg_loose swish(struct qg_loose e)
{
    return qg_loose_mul(e, qg_loose_sigmoid(e));
}

/* What R(d u) is multiplied by comes in two factors: (R(d u) sigmoid) (1 + e (1 - sigmoid)). */
static struct qg_loose swish_gradient(struct qg_loose du, struct qg_loose e)
{
    struct qg_loose one = qg_loose_at(1), sigmoid = qg_loose_sigmoid(e);
    struct qg_loose rest = qg_loose_add(one, qg_loose_negative(sigmoid));
    return qg_loose_mul(qg_loose_mul(du, sigmoid), qg_loose_add(one, qg_loose_mul(e, rest)));
}

/* 1/2 (erf(e / sqrt 2) + 1). */
static struct qg_loose normal_share(struct qg_loose e)
{
    double root = sqrt(0.5);
    struct qg_loose c = qg_loosen(root, (float)root, root, 2, 0);
    struct qg_loose phi = qg_loose_add(qg_loose_erf(qg_loose_mul(c, e)), qg_loose_at(1));
    return qg_loose_mul(qg_loose_at(0.5f), phi);
}

static struct qg_loose gelu(struct qg_loose e)
{
    return qg_loose_mul(normal_share(e), e);
}

static struct qg_loose gelu_gradient(struct qg_loose du, struct qg_loose e)
{
    struct qg_loose square = qg_loose_mul(qg_loose_mul(qg_loose_at(-0.5f), e), e);
    struct qg_loose density =
        qg_loose_mul(qg_loose_mul(qg_loose_at(0.3989422804014327f), e), qg_loose_exp(square));
    return qg_loose_mul(du, qg_loose_add(normal_share(e), density));
}

#define ROOT_2_PI 0.7978845608028654f
#define CUBIC     0.044715f

/* 1/2 e (tanh(c e (1 + 0.044715 e e)) + 1). */
static struct qg_loose gelu_tanh(struct qg_loose e)
{
    struct qg_loose one = qg_loose_at(1);
    struct qg_loose cubic = qg_loose_mul(qg_loose_mul(qg_loose_at(CUBIC), e), e);
    struct qg_loose in =
        qg_loose_mul(qg_loose_mul(qg_loose_at(ROOT_2_PI), e), qg_loose_add(one, cubic));
    struct qg_loose half = qg_loose_mul(qg_loose_at(0.5f), e);
    return qg_loose_mul(half, qg_loose_add(qg_loose_tanh(in), one));
}

/* Backward multiplies in another order: a = c e, b = a 0.044715 e e, T = 1 + tanh(a + b). */
struct tanh_parts {
    struct qg_loose a, b, t;
};

static struct tanh_parts tanh_parts(struct qg_loose e)
{
    struct tanh_parts p;
    p.a = qg_loose_mul(qg_loose_at(ROOT_2_PI), e);
    p.b = qg_loose_mul(qg_loose_mul(qg_loose_mul(p.a, qg_loose_at(CUBIC)), e), e);
    p.t = qg_loose_add(qg_loose_at(1), qg_loose_tanh(qg_loose_add(p.a, p.b)));
    return p;
}

static struct qg_loose gelu_tanh_again(struct qg_loose e)
{
    return qg_loose_mul(qg_loose_mul(qg_loose_at(0.5f), tanh_parts(e).t), e);
}

/* T/2 - T/2 (T - 2) (a + 3 b). */
static struct qg_loose gelu_tanh_gradient(struct qg_loose du, struct qg_loose e)
{
    struct tanh_parts p = tanh_parts(e);
    struct qg_loose half = qg_loose_mul(qg_loose_at(0.5f), p.t);
    struct qg_loose inner = qg_loose_add(p.a, qg_loose_mul(qg_loose_at(3), p.b));
    struct qg_loose less = qg_loose_add(p.t, qg_loose_at(-2));
    struct qg_loose q = qg_loose_mul(qg_loose_mul(qg_loose_negative(half), less), inner);
    return qg_loose_mul(du, qg_loose_add(half, q));
}

/* again: f as backward computes it. gradient: R(d u) f'(e). */
struct activation {
    struct qg_loose (*f)(struct qg_loose e), (*again)(struct qg_loose e);
    struct qg_loose (*gradient)(struct qg_loose du, struct qg_loose e);
};
static const struct activation swiglu = {swish, swish, swish_gradient},
                               geglu[] = {{gelu, gelu, gelu_gradient},
                                          {gelu_tanh, gelu_tanh_again, gelu_tanh_gradient}};

/* R(f(e)). */
static struct qg_matrix activated(struct mlp *m, struct qg_loose (*f)(struct qg_loose e),
                                  struct qg_matrix e)
{
    struct qg_matrix z = qg_matrix_new(&m->pool, e.rows, e.cols);
    for (size_t i = 0; i < e.rows * e.cols; i++)
        z.v[i] = qg_loose_round(m->t, f(qg_loose_of(e.v[i])));
    return z;
}

/* R(R(d u) f'(e)). */
static struct qg_matrix gate_gradient(struct mlp *m, const struct activation *f,
                                      struct qg_matrix du, struct qg_matrix e)
{
    struct qg_matrix z = qg_matrix_new(&m->pool, e.rows, e.cols);
    for (size_t i = 0; i < e.rows * e.cols; i++)
        z.v[i] = qg_loose_round(m->t, f->gradient(qg_loose_of(du.v[i]), qg_loose_of(e.v[i])));
    return z;
}

/* --- forward and backward -------------------------------------------------------------------- */

static void forward(const struct qg_args *a, const struct activation *f)
{
    struct mlp m = mlp_of(a);
    struct qg_matrix e = lora(&m, m.x, &m.gate), u = lora(&m, m.x, &m.up);
    struct qg_matrix h = qg_times(&m.pool, m.t, activated(&m, f->f, e), u);
    qg_matrix_out(a, "y", lora(&m, h, &m.down));
}

/* adapter_last: axolotl's order of the sum that is dx. */
static void backward(const struct qg_args *a, const struct activation *f, bool adapter_last)
{
    struct mlp m = mlp_of(a);
    struct qg_pool *p = &m.pool;
    enum qg_dtype t = m.t;
    struct qg_matrix g = qg_matrix_in(p, "g", t);
    struct qg_matrix e = lora(&m, m.x, &m.gate), u = lora(&m, m.x, &m.up);

    struct qg_matrix d = qg_product(p, t, g, m.down.w);
    d = qg_added_product(p, t, d, m.s, qg_product(p, t, g, m.down.b), m.down.a);
    struct qg_matrix fe = activated(&m, f->again, e);
    struct qg_matrix h = qg_times(p, t, fe, u), du = qg_times(p, t, d, fe);
    struct qg_matrix de = gate_gradient(&m, f, qg_times(p, t, d, u), e);

    qg_adapter_gradients(p, h, m.down.a, m.down.b, g, "ddown_a", "ddown_b");
    struct qg_matrix up = qg_adapter_gradients(p, m.x, m.up.a, m.up.b, du, "dup_a", "dup_b");
    struct qg_matrix gate =
        qg_adapter_gradients(p, m.x, m.gate.a, m.gate.b, de, "dgate_a", "dgate_b");

    struct qg_matrix dx = qg_product(p, t, du, m.up.w);
    if (!adapter_last)
        dx = qg_added_product(p, t, dx, m.s, up, m.up.a);
    dx = qg_added_product(p, t, dx, 1, de, m.gate.w);
    if (adapter_last)
        dx = qg_added_product(p, t, dx, m.s, up, m.up.a);
    qg_matrix_out(a, "dx", qg_added_product(p, t, dx, m.s, gate, m.gate.a));
}

static void swiglu_forward(const struct qg_args *a)
{
    forward(a, &swiglu);
}

static void geglu_forward(const struct qg_args *a)
{
    forward(a, &geglu[0]);
}

static void geglu_form_forward(const struct qg_args *a)
{
    forward(a, &geglu[(int)a->param[FORM]]);
}

static void swiglu_unsloth(const struct qg_args *a)
{
    backward(a, &swiglu, false);
}

static void swiglu_axolotl(const struct qg_args *a)
{
    backward(a, &swiglu, true);
}

static void geglu_unsloth(const struct qg_args *a)
{
    backward(a, &geglu[(int)a->param[FORM]], false);
}

static void geglu_axolotl(const struct qg_args *a)
{
    backward(a, &geglu[0], true);
}

/* --- the tables ------------------------------------------------------------------------------ */

static size_t values(const struct qg_args *a)
{
    size_t m = qg_extent_of(a, 'M'), n = qg_extent_of(a, 'N'), k = qg_extent_of(a, 'K'),
           h = qg_extent_of(a, 'H'), r = qg_extent_of(a, 'R');
    return m * (4 * k + 12 * h + 2 * n + 10 * r) + r * (2 * k + 3 * h + n);
}

static const char *const forms[] = {"erf", "tanh", NULL};

static const struct qg_param params[] = {QG_PARAM_S, QG_PARAM_ADAPTER_DTYPE, {.name = NULL}};
static const struct qg_param form_params[] = {
    QG_PARAM_S,
    QG_PARAM_ADAPTER_DTYPE,
    [FORM] = {"form", "GELU itself, or Gemma's approximation by tanh", 0, 0, 0, forms, false},
    {.name = NULL},
};

static const struct qg_layer_tensor in[] = {
    QG_TENSOR_X,
    {"gate_w", "HK", QG_OF_X, 0, 0, "the base weight of gate_proj", true},
    {"gate_a", "RK", QG_OF_ADAPTER, 0, 0, "its lora_A.weight", false},
    {"gate_b", "HR", QG_OF_ADAPTER, 0, 0, "its lora_B.weight", false},
    {"up_w", "HK", QG_OF_X, 0, 0, "the base weight of up_proj", true},
    {"up_a", "RK", QG_OF_ADAPTER, 0, 0, "its lora_A.weight", false},
    {"up_b", "HR", QG_OF_ADAPTER, 0, 0, "its lora_B.weight", false},
    {"down_w", "NH", QG_OF_X, 0, 0, "the base weight of down_proj", true},
    {"down_a", "RH", QG_OF_ADAPTER, 0, 0, "its lora_A.weight", false},
    {"down_b", "NR", QG_OF_ADAPTER, 0, 0, "its lora_B.weight", false},
    QG_TENSOR_G,
    {.name = NULL},
};

static const struct qg_layer_tensor out[] = {
    QG_TENSOR_Y,
    QG_TENSOR_DX,
    {"dgate_a", "RK", QG_OF_ADAPTER, QG_BACKWARD, 0, "dL/dgate_a", false},
    {"dgate_b", "HR", QG_OF_ADAPTER, QG_BACKWARD, 0, "dL/dgate_b", false},
    {"dup_a", "RK", QG_OF_ADAPTER, QG_BACKWARD, 0, "dL/dup_a", false},
    {"dup_b", "HR", QG_OF_ADAPTER, QG_BACKWARD, 0, "dL/dup_b", false},
    {"ddown_a", "RH", QG_OF_ADAPTER, QG_BACKWARD, 0, "dL/ddown_a", false},
    {"ddown_b", "NR", QG_OF_ADAPTER, QG_BACKWARD, 0, "dL/ddown_b", false},
    {.name = NULL},
};

#define MLP(what, backward_, params_)                                                           \
    .nonfinite = "as arithmetic has it; of inf in the gate nothing is said", .params = params_, \
    .in = in, .out = out, .forward = what##_forward, .backward = backward_, .values = values

const struct qg_layer qg_layers_mlp[] = {
    {.name = "mlp-swiglu-unsloth",
     .summary = "SwiGLU MLP with LoRA on all three, as unsloth's LoRA_MLP rounds it",
     .upstream = "unslothai/unsloth:unsloth/kernels/fast_lora.py (LoRA_MLP), swiglu.py",
     MLP(swiglu, swiglu_unsloth, params)},
    {.name = "mlp-swiglu-axolotl",
     .summary = "SwiGLU MLP with LoRA on all three, as axolotl's LoRA_MLP rounds it",
     .upstream = "axolotl-ai-cloud/axolotl:src/axolotl/kernels/lora.py (LoRA_MLP), swiglu.py",
     MLP(swiglu, swiglu_axolotl, params)},
    {.name = "mlp-geglu-unsloth",
     .summary = "GeGLU MLP with LoRA on all three, as unsloth's LoRA_MLP rounds it",
     .upstream = "unslothai/unsloth:unsloth/kernels/fast_lora.py (LoRA_MLP), geglu.py",
     MLP(geglu_form, geglu_unsloth, form_params)},
    {.name = "mlp-geglu-axolotl",
     .summary = "GeGLU MLP with LoRA on all three, as axolotl's LoRA_MLP rounds it",
     .upstream = "axolotl-ai-cloud/axolotl:src/axolotl/kernels/lora.py (LoRA_MLP), geglu.py",
     MLP(geglu, geglu_axolotl, params)},
    {.name = NULL},
};
