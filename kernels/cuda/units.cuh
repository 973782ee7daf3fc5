/* SPDX-License-Identifier: MIT
 *
 * One pass over a tensor whose elements share scales along rows: groups, or whole rows. A team of
 * threads reads a unit once, keeps it in registers, measures it, and writes what becomes of it.
 *
 * A quantizer Q is a struct of plain values that is passed to the kernel:
 *
 *     struct qg_tensor x;                      what is read
 *     struct measure { none, of, join };       how elements are measured (qg_amax, qg_least_most)
 *     struct grid;                             what the measure makes of a unit: scale, zero point
 *     grid make(qg_unit, measure) const;
 *     void put(qg_unit, grid) const;           by one thread per unit: stores scales
 *     void piece(qg_unit, grid, at, n, p) const;   elements at .. at+n of x, which are p
 */
#ifndef QG_UNITS_CUH
#define QG_UNITS_CUH

#include "kernels/cuda/device.cuh"

/* x [rows, cols] in units of `extent` elements of a row; the last of a row may be shorter. */
struct qg_units {
    size_t rows, cols, extent;
};

static inline __host__ __device__ size_t qg_units_per_row(struct qg_units u)
{
    return qg_ceil_div(u.cols, u.extent);
}

struct qg_unit {
    size_t row, of_row; /* which row, and which unit of it */
    size_t begin, n;    /* elements of x */
};

/* Threads of a team: a piece each where a warp suffices, else a block. */
static inline unsigned qg_team_for(size_t extent)
{
    unsigned team = 1;
    while (team < QG_WARP && team * QG_PIECE < extent)
        team *= 2;
    return team * QG_PIECE < extent ? unsigned{QG_BLOCK} : team;
}

static __device__ __forceinline__ struct qg_unit qg_unit_at(struct qg_units u, size_t index)
{
    const size_t per_row = qg_units_per_row(u), row = index / per_row, j = index % per_row;
    if (row >= u.rows)
        return {0, 0, 0, 0};
    return {row, j, row * u.cols + j * u.extent, qg_least(u.extent, u.cols - j * u.extent)};
}

enum { QG_HELD = 4 }; /* pieces of a unit that a thread keeps: rows of 8192 are read once */

/* Pieces beyond those that are kept are read a second time, from the cache. */
template <class Q>
static __global__ void __launch_bounds__(QG_BLOCK)
    qg_quantize_units(const Q q, const struct qg_units u, const unsigned team)
{
    const unsigned rank = threadIdx.x % team;
    const struct qg_unit unit = qg_unit_at(u, qg_thread() / team);
    const size_t pieces = qg_ceil_div(unit.n, QG_PIECE);
    struct qg_piece held[QG_HELD];
    auto m = Q::measure::none();
#pragma unroll
    for (unsigned k = 0; k < QG_HELD; k++) {
        const size_t at = (rank + (size_t)k * team) * QG_PIECE;
        if (at < unit.n) {
            const size_t n = qg_least(unit.n - at, QG_PIECE);
            held[k] = qg_load_piece(&q.x, unit.begin + at, n);
            for (unsigned i = 0; i < QG_PIECE; i++)
                if (i < n)
                    m = Q::measure::join(m, Q::measure::of(held[k].v[i]));
        }
    }
    for (size_t k = rank + (size_t)QG_HELD * team; k < pieces; k += team) {
        const size_t at = k * QG_PIECE, n = qg_least(unit.n - at, QG_PIECE);
        const struct qg_piece p = qg_load_piece(&q.x, unit.begin + at, n);
        for (unsigned i = 0; i < QG_PIECE; i++)
            if (i < n)
                m = Q::measure::join(m, Q::measure::of(p.v[i]));
    }
    m = qg_team_join(m, team);
    if (unit.n == 0)
        return;
    const auto grid = q.make(unit, m);
    if (rank == 0)
        q.put(unit, grid);
#pragma unroll
    for (unsigned k = 0; k < QG_HELD; k++) {
        const size_t at = (rank + (size_t)k * team) * QG_PIECE;
        if (at < unit.n)
            q.piece(unit, grid, unit.begin + at, qg_least(unit.n - at, QG_PIECE), &held[k]);
    }
    for (size_t k = rank + (size_t)QG_HELD * team; k < pieces; k += team) {
        const size_t at = k * QG_PIECE, n = qg_least(unit.n - at, QG_PIECE);
        const struct qg_piece p = qg_load_piece(&q.x, unit.begin + at, n);
        q.piece(unit, grid, unit.begin + at, n, &p);
    }
}

/* Runs q over x [rows, cols]. */
template <class Q> static void qg_quantize(const Q &q, struct qg_units u)
{
    const unsigned team = qg_team_for(u.extent);
    qg_launch(qg_quantize_units<Q>, u.rows * qg_units_per_row(u) * team, q, u, team);
}

/* --- one measure for a whole tensor ---------------------------------------------------------- */

/* Bits of the largest magnitude so far: as integers they order like the magnitudes, with every NaN
 * on top. */
static __global__ void qg_measure_tensor(const struct qg_tensor x, const size_t count,
                                         unsigned *const amax)
{
    struct qg_amax m = qg_amax::none();
    const size_t step = (size_t)gridDim.x * blockDim.x * QG_PIECE;
    for (size_t at = qg_thread() * QG_PIECE; at < count; at += step) {
        const size_t n = qg_least(count - at, QG_PIECE);
        const struct qg_piece p = qg_load_piece(&x, at, n);
        for (unsigned i = 0; i < QG_PIECE; i++)
            if (i < n)
                m = qg_amax::join(m, qg_amax::of(p.v[i]));
    }
    m = qg_team_join(m, QG_BLOCK);
    if (threadIdx.x == 0)
        atomicMax(amax, qg_f32_bits(m.amax));
}

/* *amax, on the device, becomes the largest magnitude of x, or a NaN. */
static inline void qg_amax_of_tensor(const struct qg_tensor *x, float *amax)
{
    const size_t most = (size_t)1024 * QG_BLOCK, count = qg_count(x);
    (void)cudaMemsetAsync(amax, 0, sizeof *amax, qg_cuda_stream());
    qg_launch(qg_measure_tensor, qg_least(qg_ceil_div(count, QG_PIECE), most), *x, count,
              (unsigned *)amax);
}

/* --- piece by piece -------------------------------------------------------------------------- */

/* Calls q.piece(row, at, n) for pieces of rows of `cols` elements: dequant, straight-through
 * gradients. */
template <class Q>
static __global__ void __launch_bounds__(QG_BLOCK)
    qg_each_piece(const Q q, const size_t rows, const size_t cols)
{
    const size_t per_row = qg_ceil_div(cols, QG_PIECE), row = qg_thread() / per_row,
                 at = qg_thread() % per_row * QG_PIECE;
    if (row < rows)
        q.piece(row, at, qg_least(cols - at, QG_PIECE));
}

template <class Q> static void qg_pieces(const Q &q, size_t rows, size_t cols)
{
    qg_launch(qg_each_piece<Q>, rows * qg_ceil_div(cols, QG_PIECE), q, rows, cols);
}

/* All bytes of t become 0: planes with padding that no thread writes. */
static inline void qg_clear(const struct qg_tensor *t)
{
    (void)cudaMemsetAsync(t->data, 0, qg_bytes(t), qg_cuda_stream());
}

/* dx = g, where the gradient passes straight through. */
static inline void qg_pass_gradient(const struct qg_args *a)
{
    (void)cudaMemcpyAsync(a->out[0].data, a->in[1].data, qg_bytes(&a->in[1]),
                          cudaMemcpyDeviceToDevice, qg_cuda_stream());
}

#endif
