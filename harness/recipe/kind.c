/* SPDX-License-Identifier: MIT */
#include "harness/recipe/kind.h"

#include <regex.h>
#include <stdlib.h>
#include <string.h>

#include "harness/select.h"

static const char *const words[] = {"linear", "head", "embedding", "experts",
                                    "router", "norm", "bias",      "other"};

/* The table of kind.h. Ranks from `low` to `high`. */
static const struct line {
    const char *pattern;
    enum qg_layer_kind kind;
    int low, high;
} table[] = {
    {"(^|[._])bias$", QG_LAYER_BIAS, 0, QG_MAX_RANK},
    {"(norm|Norm|(^|\\.)ln_[a-z0-9]+)", QG_LAYER_NORM, 0, 1},
    {"((mlp|block_sparse_moe|feed_forward|moe)\\.gate(\\.wg)?|router(\\.(gate|layer|linear|proj))?|"
     "shared_expert_gate|ffn_gate_inp(_shexp)?)\\.weight$",
     QG_LAYER_ROUTER, 1, 2},
    {"(^|\\.)experts\\.[0-9]+\\..*\\.weight$", QG_LAYER_EXPERTS, 2, 2},
    {"(^|\\.)experts\\.(gate_up_proj|gate_proj|up_proj|down_proj|w[123])(\\.weight)?$",
     QG_LAYER_EXPERTS, 3, 3},
    {"ffn_(gate|up|down|gate_up)_exps\\.weight$", QG_LAYER_EXPERTS, 3, 3},
    {"(^|\\.)(embed_tokens(_per_layer)?|embed_positions|embed_in|tok_embeddings|(word|position|"
     "token_type)_embeddings|wte|wpe|shared|relative_attention_bias)\\.weight$",
     QG_LAYER_EMBEDDING, 2, 2},
    {"^((per_layer_)?token_embd|position_embd|token_types)\\.weight$", QG_LAYER_EMBEDDING, 2, 2},
    {"((^|\\.)(lm_head|embed_out)|predictions\\.decoder|^output)\\.weight$", QG_LAYER_HEAD, 2, 2},
    {"\\.weight$", QG_LAYER_LINEAR, 2, 2},
};

enum { LINES = sizeof table / sizeof table[0] };

struct qg_kinds {
    regex_t line[LINES], conv1d;
    int n; /* lines that are compiled */
};

const char *qg_layer_kind_name(enum qg_layer_kind kind)
{
    return words[kind];
}

enum qg_status qg_kinds_create(struct qg_kinds **ret_k, struct qg_error *err)
{
    struct qg_kinds *k = calloc(1, sizeof *k);
    if (!k)
        return qg_fail(err, QG_ENOMEM, "no memory for the table of layer kinds");
    enum qg_status status = qg_regex_compile(
        &k->conv1d, "(^|\\.)h\\.[0-9]+\\..*(c_attn|q_attn|c_proj|c_fc)\\.weight$", err);
    if (status != QG_OK) {
        free(k);
        return status;
    }
    for (; k->n < LINES && status == QG_OK; k->n += status == QG_OK)
        status = qg_regex_compile(&k->line[k->n], table[k->n].pattern, err);
    if (status != QG_OK)
        qg_kinds_free(&k);
    *ret_k = k;
    return status;
}

void qg_kinds_free(struct qg_kinds **k)
{
    if (!*k)
        return;
    for (int i = 0; i < (*k)->n; i++)
        regfree(&(*k)->line[i]);
    regfree(&(*k)->conv1d);
    free(*k);
    *k = NULL;
}

static bool is_one_of(const char *word, const char *const *list)
{
    for (; word && *list; list++)
        if (strcmp(word, *list) == 0)
            return true;
    return false;
}

/* Why the weight of a layer is not [N,K], or NULL. */
static const char *transposed(const struct qg_kinds *k, const char *model_type,
                              const struct qg_tensor *t, enum qg_layer_kind kind)
{
    // GPT-BigCode has GPT-2's names and ordinary linear layers.
    static const char *const not_conv1d[] = {"gpt_bigcode", NULL};
    static const char *const experts[] = {"gpt_oss", "llama4", "llama4_text", NULL};
    if (kind == QG_LAYER_LINEAR && qg_regex_fits(&k->conv1d, t->name) &&
        !is_one_of(model_type, not_conv1d))
        return "stored transposed, [K,N] (Conv1D): groups would run along the wrong side";
    if (kind == QG_LAYER_EXPERTS && t->rank == 3 && is_one_of(model_type, experts))
        return "stored transposed, [E,K,N]: groups would run along the wrong side";
    return NULL;
}

enum qg_layer_kind qg_layer_kind(const struct qg_kinds *k, const char *model_type,
                                 const struct qg_tensor *t, const char **ret_why)
{
    *ret_why = NULL;
    for (int i = 0; i < LINES; i++) {
        if (t->rank < table[i].low || t->rank > table[i].high ||
            !qg_regex_fits(&k->line[i], t->name))
            continue;
        *ret_why = transposed(k, model_type, t, table[i].kind);
        return *ret_why ? QG_LAYER_OTHER : table[i].kind;
    }
    return QG_LAYER_OTHER;
}
