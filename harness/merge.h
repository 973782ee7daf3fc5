/* SPDX-License-Identifier: MIT
 *
 * Merging an adapter into a model, matrix by matrix, in the ways that are in use, and what each of
 * them costs: how far the merged matrix is from the unmerged adapter on the quantized base that it
 * was trained on.
 */
#ifndef QG_MERGE_H
#define QG_MERGE_H

#include "harness/adapter.h"
#include "schemes/scheme.h"

enum qg_merge_way {
    QG_MERGE_LEGACY,     /* dequantize the base, add, quantize again with the same scheme */
    QG_MERGE_ROUND_TRIP, /* quantize to NF4 and back whatever the base was, add, leave it so */
    QG_MERGE_BASE,       /* add to the unquantized weight */
    QG_MERGE_WAYS
};

/* "legacy", "round-trip", "base"; the inverse gives QG_MERGE_WAYS for an unknown word. */
const char *qg_merge_way_name(enum qg_merge_way way);
enum qg_merge_way qg_merge_way_parse(const char *word);

struct qg_merge {
    enum qg_merge_way way;
    const struct qg_scheme *scheme; /* of the base that the adapter was trained on */
    const char *params;             /* its parameters, as qg_params_parse takes them */
    const char *layer;              /* who adds: "merge-peft" or "merge-unsloth"; for the way
                                     * through NF4 it is always axolotl */
    bool fan_in_fan_out;            /* weights are stored [K,N] */
};

/* Sums over matrices. What^ is the quantized base in training, U = W^ + s B A (with DoRA m / |row|
 * times that) the trained matrix in double, D = U - W^, M the merged one as it is written, W0 what
 * the delta was added to, rounded to M's dtype as M was.
 *
 * The delta of an element is swallowed where D is not 0 and the merge moved the element by less
 * than half of it in its direction, (M - W0) D < D^2 / 2. In a BF16 model the rounding of M alone
 * swallows small deltas, in every way of merging.
 *
 * A row of U or M that is not finite is in none of the sums and counts as left out: with DoRA a
 * norm of 0 makes m / 0 times 0 of a row, upstream as here. */
struct qg_merge_cost {
    uint64_t count, swallowed;    /* elements; those of them whose delta is swallowed */
    uint64_t left_out;            /* rows */
    double signal, noise;         /* |U|^2, |M - U|^2 */
    double delta, arrived;        /* |U - W^|^2, <M - W0, U - W^> */
    double out_signal, out_noise; /* |x U^T|^2, |x (M - U)^T|^2, x seeded Gaussian [16,K] */
};

/* Merges `pair` into w (a matrix of F32, BF16 or F16, as stored) and writes the outcome, of the
 * same dtype and shape, to `merged`; adds to *cost. QG_EINVAL, with the reason, when the shapes do
 * not fit, the scheme refuses the matrix, or DoRA is asked of unsloth. */
QG_MUST_CHECK enum qg_status qg_merge_matrix(const struct qg_merge *g,
                                             const struct qg_adapter_pair *pair,
                                             const struct qg_tensor *w, void *merged,
                                             struct qg_merge_cost *cost, struct qg_error *err);

/* What the way through NF4 makes of a tensor that the adapter does not touch, of `rows` rows of
 * `cols` (all dimensions but the last count as rows). In place. */
QG_MUST_CHECK enum qg_status qg_merge_round_trip(const struct qg_tensor *w, struct qg_error *err);

/* Adds the sums of another cost. */
void qg_merge_cost_add(struct qg_merge_cost *c, const struct qg_merge_cost *other);

/* Figures of a cost: SQNR of the weights and of the layer's outputs in dB, how much stronger the
 * adapter's delta is than the error of merging it, in dB, the share of elements in which the
 * delta is swallowed, and the share of the delta that is lost: 1 - <M - W0, D> / |D|^2. NaN where
 * there is nothing to compare: no delta, or no row that is not left out. */
struct qg_merge_figures {
    double weight_db, output_db, delta_db, swallowed, lost;
};
struct qg_merge_figures qg_merge_figures(const struct qg_merge_cost *c);

#endif
