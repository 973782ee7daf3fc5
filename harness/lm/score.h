/* SPDX-License-Identifier: MIT
 *
 * How far a candidate's predictions are from the base model's, token by token, and what that says
 * of all text of this kind. All in binary64, from logits.
 *
 * For a token t with log-probabilities p of the base and q of the candidate:
 *
 *     nll = -q[t], base = -p[t]     change = exp(q[t]) - exp(p[t])
 *     kl = sum over i of exp(p[i]) (p[i] - q[i])        exactly 0 for equal logits
 *     same = whether both give the first largest logit to the same token
 *
 * Means over tokens are ratios of sums, R = sum S_j / sum n_j, over clusters j (documents or
 * windows) whose tokens are not independent. Their intervals take the clusters as a sample:
 *
 *     v = sum e_j^2 / (1 - h_j) / N^2,   e_j = S_j - R n_j,  h_j = n_j / N,  N = sum n_j
 *
 * with Student's t and the degrees of freedom of Bell and McCaffrey (Survey Methodology 28, 2002,
 * 169-181; "CR2"), here for clusters whose tokens move together; clusters of one size give the
 * textbook interval of a mean with m - 1 degrees of freedom. Differences are paired: they are taken
 * token by token before.
 */
#ifndef QG_SCORE_H
#define QG_SCORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/error.h"

struct qg_score {
    double base, nll, kl, change;
    bool same;
};

/* Scores one token: `target` after rows of n logits, all finite. */
void qg_score_token(const float *base, const float *candidate, size_t n, uint32_t target,
                    struct qg_score *ret_s);

/* An estimate and its two-sided interval; without an interval (one cluster) low and high are NaN.
 */
struct qg_estimate {
    double value, low, high;
};

/* Intervals of R as above; `level`: 0.95. sum[j], n[j] of m clusters, n[j] > 0. */
struct qg_estimate qg_estimate_ratio(const double *sum, const double *n, size_t m, double level);

/* What one candidate did on one text. Logarithms are natural, of tokens. */
struct qg_quality {
    size_t tokens, clusters;
    struct qg_estimate base, nll; /* mean -ln p: ln of the perplexity per token */
    struct qg_estimate delta;     /* of the candidate against the base: mean of nll - base */
    struct qg_estimate kl;        /* mean, then quantiles and the largest */
    double kl_median, kl_90, kl_99, kl_999, kl_max;
    double same;                    /* share of tokens */
    double change_mean, change_rms; /* of the right token's probability */
};

/* Sums up n scores; cluster[i] < m is that of token i, and every cluster has a token. QG_ENOMEM. */
QG_MUST_CHECK enum qg_status qg_score_sum(const struct qg_score *s, const uint32_t *cluster,
                                          size_t n, size_t m, double level,
                                          struct qg_quality *ret_q, struct qg_error *err);

/* What an interval of a difference says: "equal" (nothing differs at all), "cannot tell" (it
 * contains 0, or there is none), "worse" (above) or "better" (below). */
const char *qg_verdict_of_difference(const struct qg_estimate *e);

#endif
