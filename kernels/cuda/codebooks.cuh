/* SPDX-License-Identifier: MIT
 *
 * Codes of the flattened tensor that are places in a list, 4-bit ones two to a byte with the first
 * high; blocks of 16 elements or more, across row ends, with a number each.
 *
 *     F   static constexpr bool nibbles; float value(unsigned code) const
 *     S   float of(size_t block) const;      what the block's values are multiplied with
 */
#ifndef QG_CODEBOOKS_CUH
#define QG_CODEBOOKS_CUH

#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/torch_sum.cuh"
#include "schemes/num/codebook.h"

template <class F, class S> struct qg_listed {
    F format;
    S scale;
    const uint8_t *codes;
    enum qg_dtype dtype;
    size_t block, cols;

    /* A piece lies in two blocks at most. */
    __device__ struct qg_piece weights(size_t row, size_t at, size_t n) const
    {
        const size_t begin = row * cols + at, j = begin / block, left = (j + 1) * block - begin;
        const struct qg_codes q =
            F::nibbles ? qg_load_nibbles(codes, begin, n, true) : qg_load_bytes(codes, begin, n);
        const float first = scale.of(j), second = left < n ? scale.of(j + 1) : 0.0f;
        struct qg_piece w;
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++) {
            const float v = qg_mul(format.value(q.c[i]), i < left ? first : second);
            w.v[i] = i < n ? qg_round_float(dtype, v) : 0.0f;
        }
        return w;
    }
};

#endif
