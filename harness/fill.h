/* SPDX-License-Identifier: MIT
 *
 * Named data. Element i of a tensor depends on (seed, name of the tensor, i), the length of a row
 * and the length of a group, and on nothing else: not on order, threads or other tensors.
 *
 *     normal     Gaussian
 *     uniform    flat between -2 and 2 sigma
 *     heavy      Gaussian over the root of a uniform number; one channel in 64 twenty times larger
 *     ties       multiples of half a step of the common grids, a power of two; extremes repeated
 *     zeros      all-zero groups, groups of +0 and -0, half-zero groups, among Gaussian ones
 *     tiny       both sides of the smallest normal number, down into the subnormals
 *     huge       as large as goes with a finite sum over a row
 *     edges      at the clip edges and their neighbours; constant and one-signed groups
 *     nonfinite  NaN, inf and -inf in some groups of every third row, Gaussian elsewhere
 *
 * sigma is 0.02 for weights and embeddings, 1 for activations and gradients. A fill is about the
 * tensor that is quantized. The other input of an operation (x of matmul, g) takes the same fill
 * when it is a distribution, and is Gaussian when it is a collection of special values, which would
 * meet each other in every sum.
 */
#ifndef QG_FILL_H
#define QG_FILL_H

#include <stdbool.h>
#include <stdint.h>

#include "schemes/num/tensor.h"

/* Where an element stands and what surrounds it. */
struct qg_place {
    uint64_t seed, stream; /* stream: of the tensor's name */
    size_t i, row, col, cols;
    size_t group;    /* running number of the group */
    size_t in_group; /* position in it */
    size_t length;   /* of a group */
    enum qg_dtype dtype;
    double sigma;
};

struct qg_fill {
    const char *name, *summary;
    const char *degenerate; /* why nearly uniform output is right for this data, or NULL */
    bool distribution;      /* also for the tensor that is not quantized */
    bool groups;            /* values depend on where groups begin */
    double (*value)(const struct qg_place *p);
};

const struct qg_fill *qg_fill_at(size_t i); /* NULL past the end */
const struct qg_fill *qg_fill_find(const char *name);

/* Fills t, a floating-point tensor whose last extent is the length of a row, rounding each value to
 * its dtype. `group`: elements of a row that share a scale, at least 1. */
void qg_fill_tensor(const struct qg_fill *f, uint64_t seed, size_t group, double sigma,
                    const struct qg_tensor *t);

/* The same, for a suite whose kernels ask for the same large tensors one after the other: the last
 * ones are kept in memory, where there is any, and copied. Of one thread at a time. */
void qg_fill_again(const struct qg_fill *f, uint64_t seed, size_t group, double sigma,
                   const struct qg_tensor *t);

#endif
