/* SPDX-License-Identifier: MIT
 *
 * Products of int8 codes: exact sums, a warp to a weight row as in matmul.cuh.
 *
 * A product P is a struct of plain values that is passed to the kernel:
 *
 *     struct sums { join };                            what is summed up
 *     weights(row, at, n) const;                       of any type: weights at .. at+n of a row
 *     void add(sums *, weights, row, m, at, n) const;  their part of y's element (m, row)
 *     float finish(m, row, sums) const;                what becomes of sums before the store
 *     struct qg_tensor y;                              [M, N]
 */
#ifndef QG_INTEGERS_CUH
#define QG_INTEGERS_CUH

#include "kernels/cuda/matmul.cuh"

/* Eight int8 codes. */
struct qg_octet {
    int word[2];
};

static __device__ __forceinline__ struct qg_octet qg_octet_of(struct qg_codes q)
{
    struct qg_octet o;
    memcpy(o.word, q.c, sizeof o.word);
    return o;
}

/* Codes at .. at+n of `from`; zeros behind them. */
static __device__ __forceinline__ struct qg_octet qg_load_octet(const void *from, size_t at,
                                                                size_t n)
{
    return qg_octet_of(qg_load_bytes(from, at, n));
}

/* The sum of eight products. */
static __device__ __forceinline__ int qg_octet_dot(struct qg_octet x, struct qg_octet y)
{
    return __dp4a(x.word[1], y.word[1], __dp4a(x.word[0], y.word[0], 0));
}

template <class P>
static __global__ void QG_BOUNDS qg_multiply_code_rows(const P p, const size_t m, const size_t rows,
                                                       const size_t cols)
{
    const auto [row, first] = qg_warp_place(rows);
    const unsigned lane = threadIdx.x % QG_WARP;
    typename P::sums sums[QG_M_TILE] = {};
    if (first >= m)
        return; // the whole warp
    for (size_t at = (size_t)lane * QG_PIECE; at < cols; at += QG_PIECE * QG_WARP) {
        const size_t n = qg_least(cols - at, QG_PIECE);
        const auto w = p.weights(row, at, n);
#pragma unroll
        for (unsigned i = 0; i < QG_M_TILE; i++)
            if (first + i < m)
                p.add(&sums[i], w, row, first + i, at, n);
    }
#pragma unroll
    for (unsigned i = 0; i < QG_M_TILE; i++) {
        const typename P::sums total = qg_team_join(sums[i], QG_WARP);
        if (lane == i && first + i < m)
            qg_put_float(&p.y, (first + i) * rows + row, p.finish(first + i, row, total));
    }
}

/* y of a call of matmul. */
template <class P> static void qg_multiply_codes(const P &p, const struct qg_args *a)
{
    qg_launch(qg_multiply_code_rows<P>, qg_warp_threads(a), p, a->m, a->rows, a->cols);
}

#endif
