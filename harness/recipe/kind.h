/* SPDX-License-Identifier: MIT
 *
 * What a tensor is in its model, told by its name and shape: checkpoints do not say. The table, of
 * which the first line that fits counts:
 *
 *     kind       names                                                             of
 *     bias       ...bias, ..._bias                                                 all
 *     norm       ...norm..., ln_1, ln_f, LayerNorm, of rank 1                      all
 *     router     mlp.gate, block_sparse_moe.gate, feed_forward.gate, ...router,    Qwen, Mixtral,
 *                shared_expert_gate, router.proj, ffn_gate_inp                     gpt-oss, GGUF
 *     experts    experts.N.w1, experts.N.gate_proj, experts.gate_up_proj,          Mixtral, Qwen,
 *                ffn_{gate,up,down,gate_up}_exps                                   GGUF
 *     embedding  embed_tokens, word_embeddings, position_embeddings,               Llama, BERT,
 *                token_type_embeddings, wte, wpe, tok_embeddings, embed_in,        GPT-2, T5,
 *                token_embd, position_embd, token_types, shared,                   GGUF
 *                relative_attention_bias
 *     head       lm_head, embed_out, predictions.decoder, output (at the top)      all, GGUF
 *     linear     every other ....weight of rank 2; shared experts are linear layers
 *     other      all else, and what is stored transposed
 *
 * Experts and routers are no linear layers: transformers 5 holds them as parameters that are not
 * nn.Linear (experts of all layers in one [E,N,K], written as one tensor each), so the filters of
 * torchao and unsloth pass them by.
 *
 * Stored transposed, [K,N] with the inputs first, are GPT-2's Conv1D layers (c_attn, c_proj, c_fc,
 * q_attn) and the experts of gpt-oss and Llama 4 ([E,K,N], gate_up_proj and down_proj). A scheme
 * would take its groups along the wrong side, so these are left as they are, with that reason:
 * torchao's and unsloth's filters pass Conv1D by as well.
 */
#ifndef QG_KIND_H
#define QG_KIND_H

#include "harness/base/error.h"
#include "schemes/num/tensor.h"

enum qg_layer_kind {
    QG_LAYER_LINEAR,    /* [N,K] weight of a linear layer */
    QG_LAYER_HEAD,      /* the linear layer that gives the logits */
    QG_LAYER_EMBEDDING, /* a table that rows are looked up in */
    QG_LAYER_EXPERTS,   /* weight of one expert, [N,K], or of all, [E,N,K] */
    QG_LAYER_ROUTER,    /* which expert a token goes to */
    QG_LAYER_NORM,
    QG_LAYER_BIAS,
    QG_LAYER_OTHER, /* convolutions, buffers, scales */
    QG_LAYER_COUNT
};

/* "linear", "head", ...: as recipes spell them. */
const char *qg_layer_kind_name(enum qg_layer_kind kind);

/* The table, compiled. */
struct qg_kinds;

QG_MUST_CHECK enum qg_status qg_kinds_create(struct qg_kinds **ret_k, struct qg_error *err);
void qg_kinds_free(struct qg_kinds **k);

/* The kind of a tensor. `model_type` is that of config.json, NULL when there is none. *ret_why is a
 * reason when the tensor is a layer's weight that cannot be quantized, NULL otherwise. */
enum qg_layer_kind qg_layer_kind(const struct qg_kinds *k, const char *model_type,
                                 const struct qg_tensor *t, const char **ret_why);

#endif
