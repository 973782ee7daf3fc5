/* SPDX-License-Identifier: MIT
 *
 * Near ties: how much of a real tensor's conversion hangs on the last bit of an intermediate
 * result. The tensor is converted once as it should be, then several times while every inexact
 * operation of the definition may come out as the other neighbour of its exact value
 * (schemes/num/nudge.h): what algebraically equal rewrites of a quantizer would have computed.
 */
#ifndef QG_CENSUS_H
#define QG_CENSUS_H

#include <stdint.h>

#include "harness/base/error.h"
#include "schemes/scheme.h"

struct qg_census {
    uint64_t blocks, near;         /* blocks of qg_group elements; those in which some draw moved a
                                      code */
    uint64_t codes, codes_moved;   /* codes of all draws, and how many were not the right ones */
    uint64_t scales, scales_moved; /* the same for the elements of all other planes; 0 when a scheme
                                      packs everything into blocks */
};

struct qg_census_request {
    const struct qg_scheme *scheme;
    const char *params; /* as in qg_params_parse */
    unsigned draws;
    uint64_t seed;
    void (*nudge)(uint64_t state); /* sets the state of the definitions' coins; 0: off */
};

/* Adds one weight [N,K] to *census. QG_EINVAL when the scheme refuses the tensor. */
QG_MUST_CHECK enum qg_status qg_census_add(const struct qg_census_request *r,
                                           const struct qg_tensor *w, struct qg_census *census,
                                           struct qg_error *err);

#endif
