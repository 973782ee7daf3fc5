/* SPDX-License-Identifier: MIT
 *
 * A counter-based generator: element i depends on (seed, stream, i) and nothing else, so data does
 * not depend on order, threads or shape. SplitMix64's finalizer (Steele, Lea, Flood 2014) twice.
 */
#ifndef QG_RNG_H
#define QG_RNG_H

#include <stdint.h>

/* 64 random bits. */
uint64_t qg_rng_bits(uint64_t seed, uint64_t stream, uint64_t i);

/* Uniform in (0, 1), never 0 or 1; 53 bits. */
double qg_rng_uniform(uint64_t seed, uint64_t stream, uint64_t i);

/* Standard normal (Box-Muller in double). */
double qg_rng_normal(uint64_t seed, uint64_t stream, uint64_t i);

#endif
