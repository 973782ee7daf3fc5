/* SPDX-License-Identifier: MIT */
#include "harness/base/rng.h"

#include <math.h>

static uint64_t mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t qg_rng_bits(uint64_t seed, uint64_t stream, uint64_t i)
{
    return mix(mix(mix(seed) ^ stream) ^ i);
}

double qg_rng_uniform(uint64_t seed, uint64_t stream, uint64_t i)
{
    return ((double)(qg_rng_bits(seed, stream, i) >> 11) + 0.5) * 0x1p-53;
}

double qg_rng_normal(uint64_t seed, uint64_t stream, uint64_t i)
{
    double r = sqrt(-2.0 * log(qg_rng_uniform(seed, stream, 2 * i)));
    return r * cos(6.283185307179586 * qg_rng_uniform(seed, stream, 2 * i + 1));
}
