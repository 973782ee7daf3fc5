/* SPDX-License-Identifier: MIT
 *
 * What quantization will cost a model, foretold without running it. A matrix that is off by a
 * relative error t^2 = |W' - W|^2 / |W|^2 raises the model's ln PPL by about alpha t^2, and the
 * costs of all matrices add up (HIGGS, arXiv 2411.17525, "linearity theorem"):
 *
 *     predicted change of ln PPL = sum over matrices of alpha_l t_l^2
 *
 * The same with the error of what a matrix puts out, o^2 = |y' - y|^2 / |y|^2 on inputs of the
 * unquantized model, and factors beta_l of its own: that sees quantized activations, too. And the
 * same for KL(model || quantized model), which a small text tells far more exactly than the change
 * of ln PPL: it has no part that is linear in the error.
 *
 * Factors are found by taking one matrix at a time off by the error of a quantizer, rounding to the
 * 2^bits values of a grid over the range of each group of 128, and measuring what that costs (noise
 * of one size for all rows foretells two to three times too much). The error is added once and
 * subtracted once, and the mean of the two counts: what is linear in it drops out.
 */
#ifndef QG_PROXY_H
#define QG_PROXY_H

#include "harness/lm/lm.h"

/* What something costs per token: the rise of ln PPL, and KL. */
struct qg_cost {
    double ln_ppl, kl;
};

/* What noise on one matrix did to the model: alpha is cost / t2, beta is cost / o2. */
struct qg_proxy_matrix {
    char name[96];
    double t2, o2; /* of the noise */
    struct qg_cost cost;
};

struct qg_proxy {
    uint64_t model;          /* qg_lm_hash of what it was fitted on */
    struct qg_cost rounding; /* of the model in its own dtype against binary32 */
    size_t n;
    struct qg_proxy_matrix *matrix; /* in the order of the model's tensors, matrices alone */
};

/* Inputs of every matrix in the unquantized model, and what comes out. */
struct qg_proxy_inputs;

/* Runs the model, all plain, over tokens [batch, length] and keeps what goes into each matrix. The
 * caller frees. */
QG_MUST_CHECK enum qg_status qg_proxy_inputs_make(const struct qg_lm *m, const uint32_t *tokens,
                                                  size_t batch, size_t length,
                                                  struct qg_proxy_inputs **ret_i,
                                                  struct qg_error *err);
void qg_proxy_inputs_free(struct qg_proxy_inputs **i);

/* The relative errors of a matrix as it has been put (with `train`, so that its weights are there)
 * against its parameters. o2 of a table that is only looked up: over the rows of the inputs'
 * tokens. QG_ENOMEM. */
QG_MUST_CHECK enum qg_status qg_proxy_errors(const struct qg_lm *m, size_t tensor,
                                             struct qg_proxy_inputs *i, double *ret_t2,
                                             double *ret_o2, struct qg_error *err);

struct qg_proxy_fit {
    int bits; /* of the grid: 4 */
    /* The cost of the model as it is now against what it was; any error ends the fit. */
    enum qg_status (*cost)(void *user, struct qg_cost *ret_c, struct qg_error *err);
    void (*done)(void *user, size_t matrices, size_t of); /* progress; may be NULL */
    void *user;
};

/* Fits all factors. The model must be plain in binary32, and costs are against that: in 16 bits
 * every change, however small, turns roundings over all layers, which would count once per matrix.
 * It is plain in its own dtype afterwards. The caller frees. */
QG_MUST_CHECK enum qg_status qg_proxy_fit(struct qg_lm *m, const struct qg_proxy_fit *f,
                                          struct qg_proxy_inputs *i, struct qg_proxy *ret_p,
                                          struct qg_error *err);
void qg_proxy_free(struct qg_proxy *p);

/* Writes and reads the factors as JSON. Reading: QG_EFORMAT for what is no such file; QG_EINVAL for
 * one of another model. */
QG_MUST_CHECK enum qg_status qg_proxy_save(const struct qg_proxy *p, const char *path,
                                           struct qg_error *err);
QG_MUST_CHECK enum qg_status qg_proxy_load(const char *path, const struct qg_lm *m,
                                           struct qg_proxy *ret_p, struct qg_error *err);

/* The cost foretold for the model as it has been put, against binary32: from the errors of weights,
 * or from those of outputs, and that of its dtype. */
struct qg_prediction {
    struct qg_cost by_weights, by_outputs;
};
QG_MUST_CHECK enum qg_status qg_proxy_predict(const struct qg_proxy *p, const struct qg_lm *m,
                                              struct qg_proxy_inputs *i,
                                              struct qg_prediction *ret_p, struct qg_error *err);

#endif
