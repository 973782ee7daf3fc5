/* SPDX-License-Identifier: MIT
 *
 * A language model of the Llama family, in plain C: RMSNorm, rotary positions, grouped-query
 * attention, SwiGLU, tied or untied embeddings. Every matrix (linear layers, embedding table, head)
 * goes through the schemes and kernels of the registry as a recipe's plan puts them there (see
 * linear.h), so that a whole model says what a scheme costs.
 *
 * One sequence runs on one thread, in memory of its own (struct qg_lm_work); callers run several
 * side by side (parallel.h). All arithmetic between matrices is binary32, whatever the dtype that
 * matrices take and give; sums of a product are OpenBLAS's on one thread, so that equal calls give
 * equal bits, whatever runs beside them.
 *
 * Sources: RMSNorm arXiv 1910.07467; rotary positions arXiv 2104.09864, in halves as Hugging Face
 * stores them (transformers:src/transformers/models/llama/modeling_llama.py), Llama 3's scaling of
 * frequencies as transformers:src/transformers/modeling_rope_utils.py; grouped queries arXiv
 * 2305.13245; SwiGLU arXiv 2002.05202.
 */
#ifndef QG_LM_H
#define QG_LM_H

#include <stdint.h>

#include "harness/io/model.h"
#include "harness/lm/linear.h"
#include "harness/recipe/recipe.h"

struct qg_lm_config {
    size_t vocab, width, layers, heads, kv_heads, head, hidden; /* head: numbers of one head */
    size_t context;                                             /* max_position_embeddings */
    double norm_eps, rope_theta;
    double rope_factor, rope_low, rope_high; /* Llama 3's scaling; rope_factor 0: none */
    size_t rope_original;
    bool tied;          /* the head is the embedding table */
    uint32_t separator; /* bos_token_id: stands before a text; 0 when config has none */
    bool has_separator;
};

/* Reads a config.json as qg_model_config gives it. QG_EFORMAT with the key and what it must be:
 * another model_type than llama or mistral; biases; another activation than silu; heads that do not
 * divide; a kind of rope scaling other than llama3; a sliding window. */
QG_MUST_CHECK enum qg_status qg_lm_config_read(const cJSON *json, const char *path,
                                               struct qg_lm_config *ret_c, struct qg_error *err);

/* The token that stands before a text, and between texts: in *c, or NULL when config has none. */
const uint32_t *qg_lm_separator(const struct qg_lm_config *c);

/* What a parameter tensor is, in the order of the parameters: embedding, layer after layer, norm,
 * head, then adapters. */
enum qg_lm_part {
    QG_LM_EMBED,   /* [vocab, width] */
    QG_LM_IN_NORM, /* [1, width], the first of a layer */
    QG_LM_Q,       /* [heads * head, width] */
    QG_LM_K,       /* [kv_heads * head, width] */
    QG_LM_V,
    QG_LM_O, /* [width, heads * head] */
    QG_LM_POST_NORM,
    QG_LM_GATE, /* [hidden, width] */
    QG_LM_UP,
    QG_LM_DOWN, /* [width, hidden], the last of a layer */
    QG_LM_NORM,
    QG_LM_HEAD, /* [vocab, width]; absent when tied */
    QG_LM_A,    /* of an adapter: [r, cols] */
    QG_LM_B,    /* [rows, r] */
};

struct qg_lm_tensor {
    char name[96]; /* "model.layers.0.self_attn.q_proj.weight", as in the checkpoint */
    enum qg_lm_part part;
    size_t layer, rows, cols;
    size_t at;           /* its first number in params, and in gradients */
    enum qg_dtype dtype; /* as in the checkpoint */
};

struct qg_lm {
    struct qg_lm_config config;
    char path[512];
    enum qg_dtype dtype; /* of the checkpoint's embedding table */
    float *params;       /* all parameters, one tensor after the other, in binary32 */
    size_t n_params;
    size_t frozen; /* so many of the first parameters are not trained: 0, or all but adapters */
    struct qg_lm_tensor *tensor;
    size_t n_tensors;
    struct qg_linear *linear; /* one per tensor; not used for norms and adapters */
};

/* Makes a model of this shape with all parameters 0, matrices plain in `dtype` and not refreshed.
 * The caller frees. */
QG_MUST_CHECK enum qg_status qg_lm_make(const struct qg_lm_config *c, enum qg_dtype dtype,
                                        struct qg_lm **ret_m, struct qg_error *err);

/* Loads a checkpoint's parameters; matrices are plain, in their own dtype. `untie`: a tied head
 * becomes a tensor of its own. QG_EFORMAT: no config.json; tensors that are missing, or that such a
 * model does not have, of another shape than config.json says, or quantized; a head beside a table
 * that config.json ties it to, with other numbers; numbers that are not finite. */
QG_MUST_CHECK enum qg_status qg_lm_load(const struct qg_model *model, bool untie,
                                        struct qg_lm **ret_m, struct qg_error *err);
void qg_lm_free(struct qg_lm **m);

/* Writes config.json and model.safetensors, parameters rounded to `dtype`, into an existing folder;
 * adapters are left out. */
QG_MUST_CHECK enum qg_status qg_lm_save(const struct qg_lm *m, const char *folder,
                                        enum qg_dtype dtype, bool overwrite, struct qg_error *err);

/* Appends adapters of rank r to every linear layer (not to embedding and head) and freezes all
 * else: A normal with deviation 1 / sqrt(cols) from `seed`, B zero; s = alpha / r. Once per model.
 */
QG_MUST_CHECK enum qg_status qg_lm_adapt(struct qg_lm *m, size_t r, double alpha, uint64_t seed,
                                         struct qg_error *err);

/* The index of a tensor; `layer` counts for parts of a layer. */
size_t qg_lm_index(const struct qg_lm *m, enum qg_lm_part part, size_t layer);

/* The matrix that gives the logits: the head, or the embedding table when tied. */
size_t qg_lm_head(const struct qg_lm *m);

/* Whether a tensor is a matrix that a scheme can be put on: no norm, no adapter. */
bool qg_lm_is_matrix(const struct qg_lm_tensor *t);

/* Puts what a plan says on every matrix, on one side of it: as trained (prepare) or as shipped
 * (convert). A post-training recipe says nothing of training: prepared is what its schemes'
 * fake-quant would be; a base that is frozen while adapters are trained is the converted one.
 * Matrices that it does not assign stay plain, in `dtype` or (QG_INPUT) the checkpoint's. With a
 * NULL plan all are plain. `backend`: of the matmul kernels, NULL: the fastest there is. `train`:
 * keep what backward needs. Quantizes the parameters as they are now; call qg_lm_refresh when they
 * have changed. QG_EINVAL with the tensor's name where a scheme lacks that side, or for a plan that
 * pads columns or unties the head of a model that is not untied. */
QG_MUST_CHECK enum qg_status qg_lm_put(struct qg_lm *m, const struct qg_recipe_plan *plan,
                                       enum qg_linear_path path, const char *backend,
                                       enum qg_dtype dtype, bool train, int threads,
                                       struct qg_error *err);
QG_MUST_CHECK enum qg_status qg_lm_refresh(struct qg_lm *m, int threads, struct qg_error *err);

/* Bytes that all tensors take as they are now: planes, or plain numbers of their dtype (norms:
 * of the model's). */
size_t qg_lm_bytes(const struct qg_lm *m);

/* --- running --------------------------------------------------------------------------------- */

/* Called after every product: x [m, cols] is what went into matrix `tensor`, y [m, rows] what came
 * out. Not called for looking up embeddings. */
typedef void qg_lm_tap(void *user, size_t tensor, size_t m, const float *x, const float *y);

struct qg_lm_layer_work;

/* Memory of one thread, for several sequences of one length at a time. Rows below are positions of
 * all of them, sequence after sequence. */
struct qg_lm_work {
    size_t most;          /* rows at most */
    size_t batch, length; /* of the sequences that ran last */
    qg_lm_tap *tap;       /* may be NULL */
    void *user;
    const float *final; /* [rows, width], after qg_lm_forward: what the head multiplies */
    /* The rest is forward.c's and backward.c's own. */
    bool backward;
    float *memory, *rope, *hidden, *normed, *inverse, *scores, *logits, *grad[6];
    size_t logit_rows;
    struct qg_lm_layer_work *layer; /* one per layer, or one for all when nothing goes backward */
    struct qg_linear_scratch scratch;
};

/* Memory for up to `batch` sequences of up to `length` tokens; `backward`: for qg_lm_backward, too.
 * The caller frees. */
QG_MUST_CHECK enum qg_status qg_lm_work_make(const struct qg_lm *m, size_t batch, size_t length,
                                             bool backward, struct qg_lm_work **ret_w,
                                             struct qg_error *err);
void qg_lm_work_free(struct qg_lm_work **w);

/* Room to multiply `rows` rows with any matrix, `head_rows` with the one that gives the logits. The
 * caller frees with qg_linear_scratch_free. */
QG_MUST_CHECK enum qg_status qg_lm_scratch_make(const struct qg_lm *m, size_t rows,
                                                size_t head_rows, struct qg_linear_scratch *ret_s,
                                                struct qg_error *err);

/* Runs tokens [batch, length], all below vocab, every sequence from position 0. What stands behind
 * a position does not change it: shorter sequences can be filled up with anything. With another
 * batch or length the last bits may differ: OpenBLAS sums products of other shapes in another
 * order. */
void qg_lm_forward(const struct qg_lm *m, struct qg_lm_work *w, const uint32_t *tokens,
                   size_t batch, size_t length);

/* Logits of rows first .. first + n of what ran last, n <= w->logit_rows: [n, vocab]; valid until
 * the next call. */
const float *qg_lm_logits(const struct qg_lm *m, struct qg_lm_work *w, size_t first, size_t n);

/* Forward and backward: returns the sum of -ln p(target) over all rows and adds `scale` times its
 * gradient to gradients, [n_params - frozen]. That of a prepared matrix is the gradient of its
 * quantized weights: qg_lm_through takes the sum of all sequences to the weights themselves. */
double qg_lm_backward(const struct qg_lm *m, struct qg_lm_work *w, const uint32_t *tokens,
                      const uint32_t *targets, size_t batch, size_t length, float scale,
                      float *gradients);

/* Takes gradients of quantized weights to those of the weights, through the gradient of each
 * scheme's fake-quant; others stay as they are. */
QG_MUST_CHECK enum qg_status qg_lm_through(const struct qg_lm *m, float *gradients, int threads,
                                           struct qg_error *err);

/* -ln p(target) of a row of logits [n], in binary64: max + ln sum exp(l - max) - l[target]. */
double qg_lm_nll(const float *logits, size_t n, uint32_t target);

#endif
