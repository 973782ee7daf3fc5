/* SPDX-License-Identifier: MIT
 *
 * Matmul for every scheme that multiplies numbers, in CUDA's own kernels: a warp to a weight row,
 * which is unpacked once for up to eight rows of x. It reads packed weights once when M is small
 * (decode), which is what bounds it there; prompts are cuBLASLt's.
 *
 * A product P is a struct of plain values that is passed to the kernel:
 *
 *     qg_piece weights(row, at, n) const;    weights at .. at+n of a row as they enter the product
 *     qg_piece inputs(m, at, n) const;       the same of x
 *     float finish(m, row, sum) const;       what becomes of a sum before the store
 *     struct qg_tensor y;                    [M, N]
 *     bool halves;                           weights and inputs are values of the call's dtype
 *     double scale(m, row, at) const;        optional: of a piece's products, whose sum goes on in
 *                                            binary64, where nothing overflows or is subnormal
 */
#ifndef QG_MATMUL_CUH
#define QG_MATMUL_CUH

#include "kernels/cuda/adapter.h"
#include "kernels/cuda/cublas.h"
#include "kernels/cuda/units.cuh"

enum { QG_M_TILE = 8 };

/* Additions that a product passes through: eight per piece of its lane, then five rounds of halves.
 */
static inline size_t qg_warp_depth(size_t k)
{
    return qg_ceil_div(k, QG_PIECE * QG_WARP) * QG_PIECE + 5;
}

/* The same where pieces have scales; what is added up in binary64 counts as one. */
static inline size_t qg_piece_depth(size_t)
{
    return QG_PIECE + 1;
}

/* What a lane adds up of an element of y. */
template <class P> struct qg_lane {
    float value;
    __device__ __forceinline__ void add(const P &, size_t, size_t, size_t, const struct qg_piece &x,
                                        const struct qg_piece &w)
    {
        for (unsigned j = 0; j < QG_PIECE; j++)
            value = qg_fma(x.v[j], w.v[j], value);
    }
    __device__ __forceinline__ void join(struct qg_lane other)
    {
        value = qg_add(value, other.value);
    }
};

template <class P>
requires requires(const P p)
{
    p.scale((size_t)0, (size_t)0, (size_t)0);
}
struct qg_lane<P> {
    double value;
    __device__ __forceinline__ void add(const P &p, size_t m, size_t row, size_t at,
                                        const struct qg_piece &x, const struct qg_piece &w)
    {
        float dot = 0;
        for (unsigned j = 0; j < QG_PIECE; j++)
            dot = qg_fma(x.v[j], w.v[j], dot);
        value += dot * p.scale(m, row, at);
    }
    __device__ __forceinline__ void join(struct qg_lane other)
    {
        value += other.value;
    }
};

template <class L> static __device__ __forceinline__ float qg_warp_sum(L sum)
{
#pragma unroll 1
    for (int mask = QG_WARP / 2; mask; mask /= 2)
        sum.join(qg_shuffle_xor(sum, mask));
    return (float)sum.value;
}

/* The weight row of this thread's warp, and the first of its rows of x. */
struct qg_place {
    size_t row, first;
};

static __device__ __forceinline__ struct qg_place qg_warp_place(size_t rows)
{
    const size_t warp = qg_thread() / QG_WARP;
    return {warp % rows, warp / rows * QG_M_TILE};
}

static inline size_t qg_warp_threads(const struct qg_args *a)
{
    return qg_ceil_div(a->m, QG_M_TILE) * a->rows * QG_WARP;
}

/* Eight rows of weights, a warp each, by eight rows of x, of which each warp first makes one piece
 * by piece for all of them, in shared memory. */
enum { QG_ROWS_TILE = (int)QG_BLOCK / QG_WARP, QG_K_TILE = QG_PIECE * QG_WARP };
static_assert((int)QG_ROWS_TILE == (int)QG_M_TILE, "a warp makes a row of x");

struct qg_x_tile {
    float4 half[2][QG_WARP]; // of a lane's piece: neighbours in neighbouring banks
};

/* Zeros behind n; what a format makes of a zero code need not be one. */
static __device__ __forceinline__ struct qg_piece qg_cut(struct qg_piece p, size_t n)
{
    for (unsigned i = 0; i < QG_PIECE; i++)
        p.v[i] = i < n ? p.v[i] : 0.0f;
    return p;
}

static __device__ __forceinline__ void qg_tile_put(struct qg_x_tile *t, unsigned lane,
                                                   const struct qg_piece &p)
{
    t->half[0][lane] = make_float4(p.v[0], p.v[1], p.v[2], p.v[3]);
    t->half[1][lane] = make_float4(p.v[4], p.v[5], p.v[6], p.v[7]);
}

static __device__ __forceinline__ struct qg_piece qg_tile_get(const struct qg_x_tile *t,
                                                              unsigned lane)
{
    const float4 a = t->half[0][lane], b = t->half[1][lane];
    return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

template <class P>
static __global__ void QG_BOUNDS qg_multiply_rows(const P p, const size_t m, const size_t rows,
                                                  const size_t cols)
{
    __shared__ struct qg_x_tile x[QG_M_TILE];
    const size_t tiles = qg_ceil_div(rows, QG_ROWS_TILE), first = blockIdx.x / tiles * QG_M_TILE;
    const unsigned lane = threadIdx.x % QG_WARP, warp = threadIdx.x / QG_WARP;
    const size_t row = blockIdx.x % tiles * QG_ROWS_TILE + warp;
    qg_lane<P> sum[QG_M_TILE] = {};
#pragma unroll 1
    for (size_t at = (size_t)lane * QG_PIECE; at - lane * QG_PIECE < cols; at += QG_K_TILE) {
        const size_t n = at < cols ? qg_least(cols - at, QG_PIECE) : 0;
        __syncthreads(); // of the tile before all have read
        if (n && first + warp < m)
            qg_tile_put(&x[warp], lane, qg_cut(p.inputs(first + warp, at, n), n));
        __syncthreads();
        if (n == 0 || row >= rows)
            continue;
        const struct qg_piece w = qg_cut(p.weights(row, at, n), n);
#pragma unroll
        for (unsigned i = 0; i < QG_M_TILE; i++)
            if (first + i < m)
                sum[i].add(p, first + i, row, at, qg_tile_get(&x[i], lane), w);
    }
#pragma unroll
    for (unsigned i = 0; i < QG_M_TILE; i++) {
        const float total = qg_warp_sum(sum[i]);
        if (lane == i && first + i < m && row < rows)
            qg_put_float(&p.y, (first + i) * rows + row, p.finish(first + i, row, total));
    }
}

/* y = x . w^T of a call of matmul. */
template <class P> static void qg_multiply(const P &p, const struct qg_args *a)
{
    const size_t blocks = qg_ceil_div(a->m, QG_M_TILE) * qg_ceil_div(a->rows, QG_ROWS_TILE);
    qg_launch(qg_multiply_rows<P>, blocks * QG_BLOCK, p, a->m, a->rows, a->cols);
}

/* --- operands that only need to be unpacked -------------------------------------------------- */

/* W is a struct of plain values that unpacks an operand: `weights` as above, of any rows. */

/* A matrix of numbers as it is. */
struct qg_numbers {
    struct qg_tensor w;

    __device__ struct qg_piece weights(size_t row, size_t at, size_t n) const
    {
        return qg_load_piece(&w, row * w.shape[1] + at, n);
    }
};

template <class W> struct qg_unpacking {
    W w;
    struct qg_tensor y;
    size_t cols;

    __device__ void piece(size_t row, size_t at, size_t n) const
    {
        const struct qg_piece p = w.weights(row, at, n);
        qg_store_piece(&y, row * cols + at, n, &p);
    }
};

/* Dequant: the operand w as out[0]. */
template <class W> static void qg_unpack(const W &w, const struct qg_args *a)
{
    qg_pieces(qg_unpacking<W>{w, a->out[0], a->cols}, a->rows, a->cols);
}

/* What a product adds to its sums in a call of lora: LoRA's second product, which is short. */
struct qg_adapter {
    struct qg_tensor xa, b; /* R(x a^T) [M, r] and b [N, r]; xa without data: no adapter */
    const float *s;

    __device__ __forceinline__ float added(size_t m, size_t row, float sum) const
    {
        const enum qg_dtype t = xa.dtype;
        const size_t rank = xa.shape[1];
        float lora = 0;
#pragma unroll 1
        for (size_t r = 0; r < rank; r++)
            lora = qg_fma(qg_get_float(&xa, m * rank + r), qg_get_float(&b, row * rank + r), lora);
        lora = qg_round_float(t, qg_mul(qg_round_float(t, lora), *s));
        return qg_add(qg_round_float(t, sum), lora);
    }
};

/* The product of w and the numbers of x [M, K], which is that of the call, or made from it in
 * scratch (qg_made_x); x has the call's dtype, and w's numbers are values of it. */
template <class W> struct qg_plain_product {
    static constexpr bool halves = true, plain = true;
    W w;
    struct qg_tensor x, y;
    size_t cols;
    struct qg_adapter adapter = {};

    __device__ struct qg_piece weights(size_t row, size_t at, size_t n) const
    {
        return w.weights(row, at, n);
    }
    __device__ struct qg_piece inputs(size_t m, size_t at, size_t n) const
    {
        return qg_load_piece(&x, m * cols + at, n);
    }
    __device__ float finish(size_t m, size_t row, float sum) const
    {
        return adapter.xa.data ? adapter.added(m, row, sum) : sum;
    }
};

/* Room for x as a launch makes it; a->work[0 .. 4) lies before it and is free. */
static inline struct qg_tensor qg_made_x(const struct qg_args *a)
{
    struct qg_tensor x = a->in[0];
    x.data = a->work + 4;
    return x;
}

/* Additions of binary32 that err as much as those of K products on tensor cores, of BF16, F16 or
 * TF32. Nobody who makes them says how they add. By measurement an instruction aligns eight
 * products (TF32: four) or more and the sum so far to the largest exponent among them, cuts off
 * what lies behind 24 places on sm_80 and 25 later, and the result behind 23: less than 11 halves
 * of a last place for eight products, 7 for four, and as much as two where parts of K are added up.
 * (P. Xie et al., MMA-Sim, arXiv:2511.10909, and its source; M. Fasi et al., PeerJ Computer Science
 * 7:e330, 2021, up to sm_80.) Not counted: products with a subnormal factor, as in narrow.cuh. */
static inline size_t qg_core_depth(size_t k)
{
    return 2 * k + 16;
}

/* --- the same by cuBLASLt -------------------------------------------------------------------- */

/* Weights or inputs as a matrix that cuBLASLt takes. */
template <class P, bool weights> struct qg_spreading {
    P p;
    struct qg_tensor to;

    __device__ void piece(size_t row, size_t at, size_t n) const
    {
        const struct qg_piece v = weights ? p.weights(row, at, n) : p.inputs(row, at, n);
        qg_store_piece(&to, row * to.shape[1] + at, n, &v);
    }
};

template <class P, class T> struct qg_finishing {
    P p;
    const T *sums;
    size_t stride; /* from one row of sums to the next */

    __device__ void piece(size_t m, size_t at, size_t n) const
    {
        const size_t rows = p.y.shape[1];
        for (unsigned i = 0; i < QG_PIECE; i++)
            if (i < n)
                qg_put_float(&p.y, m * rows + at + i,
                             p.finish(m, at + i, sums[m * stride + at + i]));
    }
};

/* A matrix at *at, which moves behind it to the next 16 bytes. */
static inline struct qg_tensor qg_scratch(enum qg_dtype t, size_t rows, size_t cols, float **at)
{
    struct qg_tensor s = {NULL, t, 2, {rows, cols}, *at};
    *at += qg_ceil_div(qg_bytes(&s), 16) * 4;
    return s;
}

template <class P> static constexpr bool qg_is_plain(void)
{
    if constexpr (requires { P::plain; })
        return P::plain;
    return false;
}

/* y of a call of matmul. The scratch holds x, w and the sums in binary32; where P says that weights
 * and inputs are values of the call's dtype (p.halves), x and w are multiplied as that. A plain
 * product has its x, in scratch or not. */
template <class P>
static void qg_multiply_cublas(const P &p, const struct qg_args *a, float *scratch)
{
    const enum qg_dtype t = p.halves ? a->dtype : QG_F32;
    struct qg_tensor x;
    if constexpr (qg_is_plain<P>()) {
        x = p.x;
        if (x.data != a->in[0].data) {
            scratch = (float *)x.data;
            (void)qg_scratch(t, a->m, a->cols, &scratch); // goes on behind it
        }
    } else {
        x = qg_scratch(t, a->m, a->cols, &scratch);
        qg_pieces(qg_spreading<P, false>{p, x}, a->m, a->cols);
    }
    const struct qg_tensor w = qg_scratch(t, a->rows, a->cols, &scratch),
                           y = qg_scratch(QG_F32, a->m, a->rows, &scratch);
    qg_pieces(qg_spreading<P, true>{p, w}, a->rows, a->cols);
    const struct qg_factor of_x = {x, QG_SCALE_NONE, NULL}, of_w = {w, QG_SCALE_NONE, NULL};
    qg_cublas_product(a, &of_x, &of_w, &y);
    qg_pieces(qg_finishing<P, float>{p, (const float *)y.data, a->rows}, a->m, a->rows);
}

/* A product of binary32 numbers whose x is in scratch already. */
template <class P> struct qg_with_x : P {
    static constexpr bool halves = false, plain = true;
};

/* Rows of both kinds for a product whose scratch cuBLASLt may have: of(a) makes it. */
template <auto of> static void qg_matmul(const struct qg_args *a)
{
    qg_multiply(of(a), a);
}
template <auto of> static void qg_matmul_cublas(const struct qg_args *a)
{
    qg_multiply_cublas(of(a), a, a->work);
}

#define QG_CUDA_MATMULS(s, own, by_cublas)                                                    \
    QG_CUDA_MATMUL(s, own), QG_DEVICE_ROW(s, QG_WEIGHT, QG_MATMUL, "cublas", QG_WITHIN_BOUND, \
                                          QG_FUSES | QG_REORDERS, qg_core_depth, by_cublas)
#define QG_CUDA_PRODUCT(s, of) QG_CUDA_MATMULS(s, qg_matmul<of>, qg_matmul_cublas<of>)

/* Another row by cuBLASLt; p: whether it runs, of struct qg_kernel. */
#define QG_CUBLAS_ROW(s, word, c, t, d, f, p)                                                     \
    {                                                                                             \
        .scheme = s, .backend = "cublas", .variant = word, .op = QG_MATMUL, .operand = QG_WEIGHT, \
        .claim = c, .traits = t, .depth = d, .fn = qg_on_device<f>, .launch = f, .probe = p       \
    }
/* Rows of lora, for schemes that have it: with the second product in the base's own launch, which
 * reads the packed weight once and y never (fused), or behind it (separate), and by cuBLASLt. of,
 * own, by_cublas: as above. */
template <auto of> static void qg_lora_fused(const struct qg_args *a)
{
    const struct qg_args base = qg_base_of(a);
    const struct qg_tensor *adapter = &a->in[a->n_in - 3];
    auto p = of(&base);
    p.adapter = {qg_cuda_project(a), adapter[1], (const float *)adapter[2].data};
    qg_multiply(p, &base);
}
template <qg_op_fn *matmul, qg_op_fn *adapt> static void qg_lora_separate(const struct qg_args *a)
{
    const struct qg_args base = qg_base_of(a);
    matmul(&base);
    adapt(a);
}

#define QG_CUDA_LORA_ROW(s, where, v, t, d, f)                                                \
    {                                                                                         \
        .scheme = s, .backend = where, .variant = v, .op = QG_LORA, .operand = QG_WEIGHT,     \
        .claim = QG_WITHIN_BOUND, .traits = t, .depth = d, .fn = qg_on_device<f>, .launch = f \
    }
#define QG_CUDA_LORAS(s, of, own, by_cublas)                                    \
    QG_CUDA_LORA_ROW(s, "cuda", "fused", QG_FUSES | QG_REORDERS, qg_warp_depth, \
                     qg_lora_fused<of>),                                        \
        QG_CUDA_LORA_ROW(s, "cuda", "separate", QG_REORDERS, qg_warp_depth,     \
                         (qg_lora_separate<own, qg_cuda_adapt>)),               \
        QG_CUDA_LORA_ROW(s, "cublas", "", QG_REORDERS, qg_core_depth,           \
                         (qg_lora_separate<by_cublas, qg_cublas_adapt>))
#define QG_CUDA_LORA(s, of) QG_CUDA_LORAS(s, of, qg_matmul<of>, qg_matmul_cublas<of>)

/* A row of a table: depth as above. */
#define QG_CUDA_MATMUL(s, f) \
    QG_CUDA_BOUNDED(s, QG_WEIGHT, QG_MATMUL, QG_FUSES | QG_REORDERS, qg_warp_depth, f)

#endif
