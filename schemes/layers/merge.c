/* SPDX-License-Identifier: MIT
 *
 * Merging an adapter into a weight: W' from W [N,K], A [R,K], B [N,R] and the scale s, as peft,
 * axolotl and unsloth round it. R() rounds to W's dtype, R_T to that of A and B, R_P to the wider
 * of both, which for two different ones is binary32.
 *
 *     merge-peft      D = R_T(s (B A))    its linear layers on a CPU, in binary32 before R_T; with
 *                                         product=dtype (its bitsandbytes layers, and all of its
 *                                         layers on a GPU) R_T(s R_T(B A))
 *                     W' = R(W + D)       safe_merge: R(W + R(D))
 *     merge-axolotl   the same D and, for plain pairs, the same sum
 *     merge-unsloth   W' = R(W + s B A)   one addmm in binary32
 *
 * DoRA, with magnitudes m [N] (unsloth's merge does not know them):
 *
 *     merge-peft      n = R_P(sqrt(sum over k of R_P(W + D)^2))
 *                     W' = R(R_P(R_P(m / n) R_P(W + D)))
 *     merge-axolotl   takes this W' and adds R(W' - W) to W again
 *
 * W is the base as the merge sees it: as published, or as a scheme's dequant gives it. Where the
 * base is quantized, W' is quantized again; in which dtype upstream adds there is the caller's to
 * know: 4 bits of bitsandbytes are added to D and quantized in R_P, LLM.int8() casts W to the
 * adapter's dtype, adds, and quantizes what of it fits into binary16, torchao adds in W's dtype.
 *
 * Sources: peft:tuners/lora/layer.py Linear.merge, get_delta_weight; peft:tuners/lora/bnb.py;
 * peft:tuners/lora/torchao.py; peft:tuners/lora/variants.py DoraLinearVariant;
 * axolotl:cli/utils/lora_merge.py _merge_tensor_with_lora; unsloth:save.py _merge_lora.
 */
#include "schemes/layers/adapter.h"

enum { DORA = QG_ADAPTER_DTYPE + 1, PRODUCT, SAFE };

/* A call, taken apart. */
struct merge {
    const struct qg_args *args;
    const struct qg_tensor *w, *a, *b, *m; /* m: NULL without DoRA */
    enum qg_dtype base, adapter, wide;     /* R, R_T and R_P */
    float s;
    bool safe; /* D is rounded to W's dtype before it is added */
    size_t rows, cols, rank;
};

static struct merge merge_of(const struct qg_args *args)
{
    struct merge g = {.args = args, .s = qg_adapter_scale(args)};
    g.w = qg_layer_in(args, "w");
    g.a = qg_layer_in(args, "a");
    g.b = qg_layer_in(args, "b");
    g.m = qg_layer_in(args, "m");
    g.base = g.w->dtype;
    g.adapter = g.a->dtype;
    g.wide = g.base == g.adapter ? g.base : QG_F32; // torch.result_type
    g.rows = qg_extent_of(args, 'N');
    g.cols = qg_extent_of(args, 'K');
    g.rank = qg_extent_of(args, 'R');
    return g;
}

/* Element k of row n of B A; nobody who merges a model asks how far upstream may be off. */
static struct qg_spread product_at(const struct merge *g, size_t n, size_t k)
{
    struct qg_spread sum = qg_spread_empty;
    for (size_t r = 0; r < g->rank; r++) {
        double term = (double)qg_get(g->b, n * g->rank + r) * qg_get(g->a, r * g->cols + k);
        if (g->args->bound)
            qg_spread_add(&sum, term, term, term);
        else
            qg_sum_add(&sum.sum, term);
    }
    return sum;
}

/* D: peft's get_delta_weight. */
static struct qg_interval delta_at(const struct merge *g, size_t n, size_t k)
{
    struct qg_spread sum = product_at(g, n, k);
    struct qg_interval d = qg_spread_result(&sum, g->args->depth, 1);
    if (g->args->param[PRODUCT])
        d = qg_interval_round(g->adapter, d);
    return qg_interval_mul(g->adapter, d, g->s);
}

static struct qg_interval weight_at(const struct merge *g, size_t n, size_t k)
{
    return qg_interval_at(qg_get(g->w, n * g->cols + k));
}

/* R_P(W + D). */
static struct qg_interval wide_sum_at(const struct merge *g, size_t n, size_t k)
{
    return qg_interval_add(g->wide, weight_at(g, n, k), delta_at(g, n, k));
}

static struct qg_interval plain_at(const struct merge *g, size_t n, size_t k)
{
    struct qg_interval d = delta_at(g, n, k);
    if (g->safe)
        d = qg_interval_round(g->base, d);
    return qg_interval_add(g->base, weight_at(g, n, k), d);
}

/* R_P(m / n) of row n. */
static struct qg_interval factor_of(const struct merge *g, size_t n)
{
    struct qg_spread squares = qg_spread_empty;
    for (size_t k = 0; k < g->cols; k++) {
        struct qg_interval v = wide_sum_at(g, n, k);
        qg_spread_add_product(&squares, v, v);
    }
    struct qg_interval sum = qg_spread_result(&squares, g->args->depth, 1);
    struct qg_interval norm = {sqrtf(qg_max(sum.lo, 0)), sqrtf(sum.mid), sqrtf(sum.hi)};
    return qg_interval_over(g->wide, qg_interval_at(qg_get(g->m, n)),
                            qg_interval_round(g->wide, norm));
}

static struct qg_interval dora_at(const struct merge *g, struct qg_interval factor, size_t n,
                                  size_t k)
{
    return qg_interval_round(g->base, qg_interval_times(g->wide, factor, wide_sum_at(g, n, k)));
}

static void peft(const struct qg_args *args)
{
    struct merge g = merge_of(args);
    g.safe = args->param[SAFE] != 0;
    for (size_t n = 0; n < g.rows; n++) {
        struct qg_interval factor = g.m ? factor_of(&g, n) : qg_interval_at(1);
        for (size_t k = 0; k < g.cols; k++)
            qg_emit_interval(args, 0, n * g.cols + k,
                             g.m ? dora_at(&g, factor, n, k) : plain_at(&g, n, k));
    }
}

/* W' of DoRA less W, added to W: W' comes back unless its difference from W does not fit R. */
static struct qg_interval added_again(const struct merge *g, struct qg_interval merged, size_t n,
                                      size_t k)
{
    struct qg_interval w = weight_at(g, n, k), minus = qg_interval_at(-w.mid);
    return qg_interval_add(g->base, w, qg_interval_add(g->base, merged, minus));
}

static void axolotl(const struct qg_args *args)
{
    struct merge g = merge_of(args);
    for (size_t n = 0; n < g.rows; n++) {
        struct qg_interval factor = g.m ? factor_of(&g, n) : qg_interval_at(1);
        for (size_t k = 0; k < g.cols; k++)
            qg_emit_interval(args, 0, n * g.cols + k,
                             g.m ? added_again(&g, dora_at(&g, factor, n, k), n, k)
                                 : plain_at(&g, n, k));
    }
}

/* Two roundings per term: of the product, and of s times it or times the sum. */
static void unsloth(const struct qg_args *args)
{
    struct merge g = merge_of(args);
    for (size_t n = 0; n < g.rows; n++)
        for (size_t k = 0; k < g.cols; k++) {
            struct qg_spread sum = product_at(&g, n, k);
            double w = qg_get(g.w, n * g.cols + k);
            qg_spread_scale(&sum, g.s);
            qg_spread_add(&sum, w, w, w);
            struct qg_interval y = qg_spread_result(&sum, args->depth, 2);
            qg_emit_interval(args, 0, n * g.cols + k, qg_interval_round(g.base, y));
        }
}

/* --- the table ------------------------------------------------------------------------------- */

static size_t no_values(const struct qg_args *a)
{
    (void)a;
    return 0;
}

static const char *const products[] = {"float", "dtype", NULL};

#define DORA_PARAMS                                                                         \
    QG_PARAM_S, QG_PARAM_ADAPTER_DTYPE,                                                     \
        [DORA] = {"dora", "whether there are magnitudes m", 0, 0, 0, qg_off_on, false},     \
        [PRODUCT] = {                                                                       \
            "product", "whether B A is rounded to the adapter's dtype before it is scaled", \
            0,         0,                                                                   \
            0,         products,                                                            \
            false}

static const struct qg_param peft_params[] = {
    DORA_PARAMS,
    [SAFE] = {"safe", "safe_merge: D is rounded to W's dtype before it is added", 0, 0, 0,
              qg_off_on, false},
    {.name = NULL},
};
static const struct qg_param axolotl_params[] = {DORA_PARAMS, {.name = NULL}};
static const struct qg_param unsloth_params[] = {
    QG_PARAM_S, QG_PARAM_ADAPTER_DTYPE, {.name = NULL}};

static const struct qg_layer_tensor pair[] = {
    QG_TENSOR_W, QG_TENSOR_A, QG_TENSOR_B, {.name = NULL}};
static const struct qg_layer_tensor triple[] = {
    QG_TENSOR_W,    QG_TENSOR_A,
    QG_TENSOR_B,    {"m", "N", QG_OF_ADAPTER, 0, DORA + 1, "lora_magnitude_vector", false},
    {.name = NULL},
};
static const struct qg_layer_tensor merged[] = {
    {.name = "y", .shape = "NK", .dtype = QG_INPUT, .doc = "the merged weight"},
    {.name = NULL},
};

#define DORA_NONFINITE "DoRA: a row of W + D that is all zero has a norm of 0: m / 0 times 0, NaN"

const struct qg_layer qg_layers_merge[] = {
    {.name = "merge-peft",
     .summary = "an adapter merged into its weight by peft: W + s B A, or DoRA's m / n times it",
     .upstream = "huggingface/peft:src/peft/tuners/lora/layer.py (Linear.merge), bnb.py, "
                 "torchao.py, variants.py (DoraLinearVariant)",
     .nonfinite = DORA_NONFINITE,
     .params = peft_params,
     .in = triple,
     .out = merged,
     .forward = peft,
     .values = no_values},
    {.name = "merge-axolotl",
     .summary = "the same, shard by shard, by axolotl's merge-lora",
     .upstream = "axolotl-ai-cloud/axolotl:src/axolotl/cli/utils/lora_merge.py "
                 "(_merge_tensor_with_lora)",
     .nonfinite = DORA_NONFINITE,
     .params = axolotl_params,
     .in = triple,
     .out = merged,
     .forward = axolotl,
     .values = no_values},
    {.name = "merge-unsloth",
     .summary = "the same by unsloth's save_pretrained_merged: one addmm in binary32",
     .upstream = "unslothai/unsloth:unsloth/save.py (_merge_lora)",
     .nonfinite = "as arithmetic has it; upstream raises ValueError for inf and NaN",
     .params = unsloth_params,
     .in = pair,
     .out = merged,
     .forward = unsloth,
     .values = no_values},
    {.name = NULL},
};
