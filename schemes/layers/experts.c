/* SPDX-License-Identifier: MIT
 *
 * A matmul with experts (mixture of experts): token m goes to the experts ids[m,p], p < P, and what
 * they make of it is weighted and added:
 *
 *     z[m,p] = R(x[m] W_e^T),  e = ids[m,p],   v[m,p] = R_P(z[m,p] weights[m,p])
 *
 * R rounds to x's dtype, R_P to the wider of that and the router's weights' own, which for two
 * different ones is binary32.
 *
 *     combine=grouped   y = R(R_P(sum over p of v)), in binary32 and any order
 *     combine=eager     y = 0, then y = R(y + R(v)) expert by expert, the lowest first
 *
 * Backward: g is dL/dy; a pick hands R(R(g weight) W_e) back to its token, and these are added
 * one by one, each sum rounded: grouped the lowest expert first, eager the highest.
 *
 * Sources: transformers:integrations/moe.py grouped_mm_experts_forward;
 * transformers:models/mixtral/modeling_mixtral.py MixtralExperts; PyTorch's autograd.
 */
#include "schemes/layers/matrix.h"

enum { COMBINE, WEIGHTS_DTYPE };
enum { GROUPED, EAGER };

struct experts {
    struct qg_pool pool;
    enum qg_dtype t, wide;
    struct qg_matrix x, w, weights; /* w: [E N,K] */
    const struct qg_tensor *ids;
    size_t tokens, picks, experts, n;
};

static struct experts experts_of(const struct qg_args *a)
{
    enum qg_dtype u = qg_layer_in(a, "weights")->dtype;
    struct experts s = {.pool = qg_pool_of(a), .t = a->dtype, .ids = qg_layer_in(a, "ids")};
    s.wide = u == s.t ? s.t : QG_F32; // torch.result_type
    s.x = qg_matrix_in(&s.pool, "x", s.t);
    s.w = qg_matrix_in(&s.pool, "w", s.t);
    s.weights = qg_matrix_in(&s.pool, "weights", u);
    s.tokens = qg_extent_of(a, 'M');
    s.picks = qg_extent_of(a, 'P');
    s.experts = qg_extent_of(a, 'E');
    s.n = qg_extent_of(a, 'N');
    return s;
}

/* W_e [N,K]. */
static struct qg_matrix expert(const struct experts *s, size_t e)
{
    struct qg_matrix w = s->w;
    w.rows = s->n;
    w.v += e * s->n * w.down;
    return w;
}

static struct qg_matrix row(struct qg_matrix x, size_t i)
{
    x.v += i * x.down;
    x.rows = 1;
    return x;
}

static bool picks(const struct experts *s, size_t m, size_t p, size_t e)
{
    return qg_get(s->ids, m * s->picks + p) == (float)e;
}

/* v[m,p] of one pick. */
static struct qg_matrix weighted(struct experts *s, size_t m, size_t p, size_t e)
{
    struct qg_matrix z = qg_product(&s->pool, s->t, row(s->x, m), qg_transposed(expert(s, e)));
    return qg_scaled(&s->pool, s->wide, z, qg_at(s->weights, m, p)->mid);
}

static struct qg_matrix zeros(struct experts *s, size_t rows, size_t cols)
{
    struct qg_matrix z = qg_matrix_new(&s->pool, rows, cols);
    for (size_t i = 0; i < rows * cols; i++)
        z.v[i] = qg_interval_at(0);
    return z;
}

/* y of token m, expert by expert. */
static struct qg_matrix eager(struct experts *s, size_t m)
{
    struct qg_matrix y = zeros(s, 1, s->n);
    for (size_t e = 0; e < s->experts; e++)
        for (size_t p = 0; p < s->picks; p++)
            if (picks(s, m, p, e)) {
                struct qg_matrix v = qg_scaled(&s->pool, s->t, weighted(s, m, p, e), 1);
                y = qg_added(&s->pool, s->t, y, v);
            }
    return y;
}

/* y of token m, all picks at once. */
static struct qg_matrix grouped(struct experts *s, size_t m)
{
    struct qg_matrix all = zeros(s, s->picks, s->n);
    for (size_t p = 0; p < s->picks; p++)
        for (size_t e = 0; e < s->experts; e++)
            if (picks(s, m, p, e)) {
                struct qg_matrix v = weighted(s, m, p, e);
                for (size_t n = 0; n < s->n; n++)
                    *qg_at(all, p, n) = *qg_at(v, 0, n);
            }
    return qg_scaled(&s->pool, s->t, qg_column_sums(&s->pool, s->wide, all), 1);
}

static void forward(const struct qg_args *a)
{
    struct experts s = experts_of(a);
    struct qg_matrix y = qg_matrix_new(&s.pool, s.tokens, s.n);
    struct qg_pool start = s.pool;
    for (size_t m = 0; m < s.tokens; m++, s.pool = start) {
        struct qg_matrix one = a->param[COMBINE] == EAGER ? eager(&s, m) : grouped(&s, m);
        for (size_t n = 0; n < s.n; n++)
            *qg_at(y, m, n) = *qg_at(one, 0, n);
    }
    qg_matrix_out(a, "y", y);
}

/* dx of token m; `turn` counts experts in the order of the sum. */
static struct qg_matrix token_gradient(struct experts *s, struct qg_matrix g, size_t m)
{
    struct qg_matrix dx = zeros(s, 1, s->x.cols);
    bool last_first = s->pool.a->param[COMBINE] == EAGER;
    for (size_t turn = 0; turn < s->experts; turn++) {
        size_t e = last_first ? s->experts - 1 - turn : turn;
        for (size_t p = 0; p < s->picks; p++)
            if (picks(s, m, p, e)) {
                struct qg_matrix dz =
                    qg_scaled(&s->pool, s->t, row(g, m), qg_at(s->weights, m, p)->mid);
                struct qg_matrix back = qg_product(&s->pool, s->t, dz, expert(s, e));
                dx = qg_added(&s->pool, s->t, dx, back);
            }
    }
    return dx;
}

static void backward(const struct qg_args *a)
{
    struct experts s = experts_of(a);
    struct qg_matrix g = qg_matrix_in(&s.pool, "g", s.t);
    struct qg_matrix dx = qg_matrix_new(&s.pool, s.tokens, s.x.cols);
    struct qg_pool start = s.pool;
    for (size_t m = 0; m < s.tokens; m++, s.pool = start) {
        struct qg_matrix one = token_gradient(&s, g, m);
        for (size_t k = 0; k < s.x.cols; k++)
            *qg_at(dx, m, k) = *qg_at(one, 0, k);
    }
    qg_matrix_out(a, "dx", dx);
}

/* --- the table ------------------------------------------------------------------------------- */

static size_t values(const struct qg_args *a)
{
    size_t m = qg_extent_of(a, 'M'), n = qg_extent_of(a, 'N'), k = qg_extent_of(a, 'K'),
           p = qg_extent_of(a, 'P');
    return m * (n + k) + (4 * p + 3) * (n + k);
}

static const char *const combines[] = {"grouped", "eager", NULL};

static const struct qg_param params[] = {
    [COMBINE] = {"combine", "all picks of a token at once, or expert by expert", 0, 0, 0, combines,
                 false},
    [WEIGHTS_DTYPE] = {"weights-dtype", "of the router's weights", 0, 0, 0, qg_scale_dtypes, false},
    {.name = NULL},
};

static const struct qg_layer_tensor in[] = {
    {"x", "MK", QG_INPUT, 0, 0, 0, "the tokens", false},
    {"w", "ENK", QG_INPUT, 0, 0, 0, "the experts' weights", false},
    {"ids", "MP", QG_I32, 0, 0, 0, "which experts a token goes to", false},
    {"weights", "MP", QG_F32, WEIGHTS_DTYPE + 1, 0, 0, "what the router gives each", false},
    {"g", "MN", QG_INPUT, 0, QG_BACKWARD, 0, "dL/dy", false},
    {.name = NULL},
};

static const struct qg_layer_tensor out[] = {
    {"y", "MN", QG_INPUT, 0, QG_FORWARD, 0, "what the experts make of the tokens", false},
    {"dx", "MK", QG_INPUT, 0, QG_BACKWARD, 0, "dL/dx", false},
    {.name = NULL},
};

const struct qg_layer qg_layers_experts[] = {
    {.name = "experts",
     .summary = "tokens times the matrices of their experts, weighted and added",
     .upstream =
         "huggingface/transformers:src/transformers/integrations/moe.py "
         "(grouped_mm_experts_forward), models/mixtral/modeling_mixtral.py (MixtralExperts)",
     .nonfinite = "as arithmetic has it; an id that is no expert's (E is upstream's own word for "
                  "none) adds nothing",
     .params = params,
     .in = in,
     .out = out,
     .forward = forward,
     .backward = backward,
     .values = values},
    {.name = NULL},
};
