/* SPDX-License-Identifier: MIT
 *
 * One pass over a tensor whose elements share scales along rows: groups, or whole rows. A team of
 * threads reads a unit once, keeps it, measures it, and writes what becomes of it.
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

/* What a thread keeps of a unit, in 16 bytes: rows of 16 KiB are read once. */
enum { QG_HELD = 4 };

/* The pieces of a unit that fall to this thread, of a team's `rank`: every team-th. The first of
 * them stay in shared memory as they were read, in places of this thread alone, so nobody waits for
 * them; those beyond are read again each time, from the cache. In shared memory, for registers have
 * no addresses: a loop over them is as much code as it has turns, in every kernel. */
struct qg_share {
    struct qg_unit unit;
    unsigned rank, team;
    uint4 (*held)[QG_BLOCK];

    /* Calls f(at, n, piece) for each piece, elements at .. at+n of x; `first`: nothing is held yet.
     */
    template <bool first, class F>
    __device__ __forceinline__ void go(const struct qg_tensor *x, F f) const
    {
        const unsigned wide = x->dtype == QG_F32;
        unsigned k = 0;
#pragma unroll 1
        for (size_t at = (size_t)rank * QG_PIECE; at < unit.n; at += (size_t)team * QG_PIECE) {
            const size_t n = qg_least(unit.n - at, QG_PIECE);
            const bool keeps = k + wide < QG_HELD;
            struct qg_words w;
            if (first || !keeps)
                w = qg_load_words(x, unit.begin + at, n);
            else
                w = {held[k][threadIdx.x], held[k + wide][threadIdx.x]};
            if (first && keeps) {
                held[k][threadIdx.x] = w.low;
                if (wide)
                    held[k + 1][threadIdx.x] = w.high;
            }
            k += keeps ? 1 + wide : 0;
            f(unit.begin + at, n, qg_piece_of(x->dtype, w));
        }
    }
    template <class F> __device__ __forceinline__ void each(const struct qg_tensor *x, F f) const
    {
        go<false>(x, f);
    }
};

/* The unit of this thread's team. */
static __device__ __forceinline__ struct qg_share qg_share_of(const struct qg_units u,
                                                              const unsigned team)
{
    __shared__ uint4 held[QG_HELD][QG_BLOCK];
    return {qg_unit_at(u, qg_thread() / team), threadIdx.x % team, team, held};
}

/* What M measures of a unit, told to all of its team: the first pass over it. */
template <class M>
static __device__ __forceinline__ M qg_measure_share(const struct qg_share *s,
                                                     const struct qg_tensor *x)
{
    M m = M::none();
    s->template go<true>(x, [&](size_t, size_t n, const struct qg_piece &p) {
        for (unsigned i = 0; i < QG_PIECE; i++)
            if (i < n)
                m = M::join(m, M::of(p.v[i]));
    });
    return qg_team_join(m, s->team);
}

template <class Q>
static __global__ void QG_BOUNDS qg_quantize_units(const Q q, const struct qg_units u,
                                                   const unsigned team)
{
    const struct qg_share s = qg_share_of(u, team);
    const auto m = qg_measure_share<typename Q::measure>(&s, &q.x);
    if (s.unit.n == 0)
        return;
    const auto grid = q.make(s.unit, m);
    if (s.rank == 0)
        q.put(s.unit, grid);
    s.each(&q.x, [&](size_t at, size_t n, const struct qg_piece &p) {
        q.piece(s.unit, grid, at, n, &p);
    });
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

/* Runs q, which measures by qg_amax, over all of x as one unit; `amax` is scratch for one number.
 */
template <class Q>
static __global__ void QG_BOUNDS qg_quantize_whole(const Q q, const size_t count,
                                                   const float *const amax)
{
    const struct qg_unit all = {0, 0, 0, count};
    const auto grid = q.make(all, {*amax});
    const size_t at = qg_thread() * QG_PIECE, n = at < count ? qg_least(count - at, QG_PIECE) : 0;
    const struct qg_piece p = qg_load_piece(&q.x, at, n);
    if (at == 0)
        q.put(all, grid);
    if (n)
        q.piece(all, grid, at, n, &p);
}

template <class Q> static void qg_quantize_tensor(const Q &q, float *amax)
{
    const size_t count = qg_count(&q.x);
    qg_amax_of_tensor(&q.x, amax);
    qg_launch(qg_quantize_whole<Q>, qg_ceil_div(count, QG_PIECE), q, count, amax);
}

/* --- gradients that sum over a unit ---------------------------------------------------------- */

/* A gradient D is a struct of plain values like a quantizer, with x, measure, grid and make of one,
 * and with
 *
 *     struct qg_tensor g;                                dL/dy
 *     struct sums { none, join };                        what is summed over a unit, in binary64
 *     void add(grid, sums *, x, g) const;                the part of one element
 *     back finish(grid, sums) const;                     what the elements need of both
 *     void piece(back, at, n, x, g) const;               elements at .. at+n, of which x and g are
 */

/* Some sums for a gradient. */
template <unsigned count> struct qg_sums {
    double of[count];
    static __device__ __forceinline__ struct qg_sums none(void)
    {
        return {};
    }
    static __device__ __forceinline__ struct qg_sums join(struct qg_sums a, struct qg_sums b)
    {
        for (unsigned i = 0; i < count; i++)
            a.of[i] += b.of[i];
        return a;
    }
};

template <class D, class G>
static __device__ __forceinline__ void qg_add_piece(const D &d, const G &grid, size_t at, size_t n,
                                                    const struct qg_piece &x,
                                                    typename D::sums *sums)
{
    const struct qg_piece g = qg_load_piece(&d.g, at, n);
#pragma unroll
    for (unsigned i = 0; i < QG_PIECE; i++)
        if (i < n)
            d.add(grid, sums, x.v[i], g.v[i]);
}

/* g is read twice, the second time from the cache. */
template <class D>
static __global__ void QG_BOUNDS qg_differentiate_units(const D d, const struct qg_units u,
                                                        const unsigned team)
{
    const struct qg_share s = qg_share_of(u, team);
    const auto m = qg_measure_share<typename D::measure>(&s, &d.x);
    const auto grid = d.make(s.unit, m);
    auto sums = D::sums::none();
    s.each(&d.x, [&](size_t at, size_t n, const struct qg_piece &x) {
        qg_add_piece(d, grid, at, n, x, &sums);
    });
    const auto back = d.finish(grid, qg_team_join(sums, team));
    s.each(&d.x, [&](size_t at, size_t n, const struct qg_piece &x) {
        const struct qg_piece g = qg_load_piece(&d.g, at, n);
        d.piece(back, at, n, &x, &g);
    });
}

template <class D> static void qg_differentiate(const D &d, struct qg_units u)
{
    const unsigned team = qg_team_for(u.extent);
    qg_launch(qg_differentiate_units<D>, u.rows * qg_units_per_row(u) * team, d, u, team);
}

/* Additions that a term of a row passes through, at most: eight per piece of its thread, then
 * rounds of halves. A group has fewer; a tensor has more, which is nothing in binary64. */
static inline size_t qg_team_depth(size_t k)
{
    const size_t team = qg_team_for(k);
    size_t rounds = 0;
    while ((size_t)1 << rounds < team)
        rounds++;
    return qg_ceil_div(k, QG_PIECE * team) * QG_PIECE + rounds;
}

/* A row of a table for such a gradient. */
#define QG_CUDA_GRADIENT(s, what, f) \
    QG_CUDA_BOUNDED(s, what, QG_FAKE_QUANT_GRAD, QG_REORDERS, qg_team_depth, f)

/* The same of all of x as one unit: what each block sums up, then all of it in every block. */
template <class D>
static __global__ void QG_BOUNDS qg_sum_whole(const D d, const size_t count,
                                              const float *const amax,
                                              typename D::sums *const of_block)
{
    const auto grid = d.make({0, 0, 0, count}, {*amax});
    const size_t step = (size_t)gridDim.x * blockDim.x * QG_PIECE;
    auto sums = D::sums::none();
    for (size_t at = qg_thread() * QG_PIECE; at < count; at += step) {
        const size_t n = qg_least(count - at, QG_PIECE);
        qg_add_piece(d, grid, at, n, qg_load_piece(&d.x, at, n), &sums);
    }
    sums = qg_team_join(sums, QG_BLOCK);
    if (threadIdx.x == 0)
        of_block[blockIdx.x] = sums;
}

template <class D>
static __global__ void QG_BOUNDS qg_differentiate_whole(const D d, const size_t count,
                                                        const float *const amax,
                                                        const typename D::sums *const of_block,
                                                        const unsigned blocks)
{
    const auto grid = d.make({0, 0, 0, count}, {*amax});
    auto sums = threadIdx.x < blocks ? of_block[threadIdx.x] : D::sums::none();
    const auto back = d.finish(grid, qg_team_join(sums, QG_BLOCK));
    const size_t at = qg_thread() * QG_PIECE, n = at < count ? qg_least(count - at, QG_PIECE) : 0;
    const struct qg_piece x = qg_load_piece(&d.x, at, n), g = qg_load_piece(&d.g, at, n);
    if (n)
        d.piece(back, at, n, &x, &g);
}

/* work: four floats, then sums for every 2048 elements up to QG_BLOCK of them. */
template <class D> static void qg_differentiate_tensor(const D &d, float *work)
{
    const size_t count = qg_count(&d.x), threads = qg_ceil_div(count, QG_PIECE),
                 blocks = qg_least(qg_ceil_div(threads, QG_BLOCK), QG_BLOCK);
    typename D::sums *of_block = (typename D::sums *)(work + 4);
    qg_amax_of_tensor(&d.x, work);
    qg_launch(qg_sum_whole<D>, blocks * QG_BLOCK, d, count, work, of_block);
    qg_launch(qg_differentiate_whole<D>, threads, d, count, work, of_block, (unsigned)blocks);
}

/* --- piece by piece -------------------------------------------------------------------------- */

/* Calls q.piece(row, at, n) for pieces of rows of `cols` elements: dequant, straight-through
 * gradients. */
template <class Q>
static __global__ void QG_BOUNDS qg_each_piece(const Q q, const size_t rows, const size_t cols)
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

/* A walk over elements that share scales by groups, without a division for each. */
struct qg_cursor {
    size_t group, left, extent; /* left: of the group, with the element that is stood on */
};

static __device__ __forceinline__ struct qg_cursor qg_cursor_at(size_t first, size_t extent)
{
    return {first / extent, extent - first % extent, extent};
}

/* On to the next element: whether it is of another group. */
static __device__ __forceinline__ bool qg_cursor_next(struct qg_cursor *c)
{
    if (--c->left)
        return false;
    c->left = c->extent;
    c->group++;
    return true;
}

/* All bytes of t become 0: planes with padding that no thread writes. */
static inline void qg_clear(const struct qg_tensor *t)
{
    (void)cudaMemsetAsync(t->data, 0, qg_bytes(t), qg_cuda_stream());
}

/* Where convert puts nibbles: into out[0], or where groups may end within a byte, as bytes into
 * scratch first. */
struct qg_nibble_writer {
    uint8_t *nibbles, *bytes; /* bytes: NULL where they are not needed */
    size_t cols;

    __device__ void put(size_t at, size_t n, const struct qg_codes *q) const
    {
        if (bytes)
            qg_store_bytes(bytes, at, n, q);
        else
            qg_store_nibbles(nibbles, at, n, q);
    }
    /* From bytes to nibbles. */
    __device__ void piece(size_t row, size_t at, size_t n) const
    {
        const struct qg_codes q = qg_load_bytes(bytes, row * cols + at, n);
        qg_store_nibbles(nibbles, row * cols + at, n, &q);
    }
};

static inline struct qg_nibble_writer qg_nibbles_of(const struct qg_args *a, size_t group,
                                                    float *scratch)
{
    return {(uint8_t *)a->out[0].data, group % 2 ? (uint8_t *)scratch : NULL, a->cols};
}

/* When all codes were put. */
static inline void qg_finish_nibbles(const struct qg_args *a, const struct qg_nibble_writer &w)
{
    if (w.bytes)
        qg_pieces(w, a->rows, a->cols);
}

/* dx = g, where the gradient passes straight through. */
static inline void qg_pass_gradient(const struct qg_args *a)
{
    (void)cudaMemcpyAsync(a->out[0].data, a->in[1].data, qg_bytes(&a->in[1]),
                          cudaMemcpyDeviceToDevice, qg_cuda_stream());
}

#endif
