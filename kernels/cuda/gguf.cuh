/* SPDX-License-Identifier: MIT
 *
 * What the CUDA kernels of ggml's formats share. A tensor is one plane of bytes, row after row of
 * blocks that carry their scales, whose bytes fit no access of 16. So blocks are made in shared
 * memory, by a team of threads each, and leave from there together with those of the other teams;
 * blocks that are read come the same way. Products are sums of integers over all elements that
 * share a scale on both sides: an infinite scale must not meet parts of such a sum.
 *
 * A format F is a struct (of plain values, which are passed to kernels) that has
 *
 *     elements, bytes        of a block
 *     share                  elements of a block that one thread encodes: 8, 16 or 32
 *     void encode(x, rank, block) const   by all threads of a team, x[share] being the share of
 *                            thread `rank`: every byte of the block is written by one of them
 *     static qg_gguf_part part(block, at)   elements at .. at+8 of a block
 *     has_min                elements have a minimum
 *     partner, term          of weights: the format that x is quantized to in products, and the
 *                            elements that are added up as integers there: 16, 32 or 256
 *     static float min_term(min, block, sum)   of the partners of weights with minima: what becomes
 *                            of a minimum and the integer sum of x's codes beside it
 */
#ifndef QG_GGUF_CUH
#define QG_GGUF_CUH

#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/units.cuh"

/* --- numbers --------------------------------------------------------------------------------- */

/* (int32_t)x as x86 converts: toward zero, and INT_MIN for all that does not fit. */
static __device__ __forceinline__ int32_t qg_x86_int(float x)
{
    return x >= -0x1p31f && x < 0x1p31f ? (int32_t)x : INT32_MIN;
}

/* The integer in the low bits of x + 1.5 2^23: the nearest, ties to even, below 2^22; beyond, some
 * other; 0 for NaN. */
static __device__ __forceinline__ int32_t qg_low_bits(float x)
{
    const float sum = qg_add(x, 0x1.8p23f);
    return sum != sum ? 0 : (int32_t)(qg_f32_bits(sum) & 0x7fffffu) - 0x400000;
}

static __device__ __forceinline__ int32_t qg_within(int32_t k, int32_t low, int32_t high)
{
    return k < low ? low : k > high ? high : k;
}

/* 1/d, or 0 for d = 0. */
static __device__ __forceinline__ float qg_inverse(float d)
{
    return d != 0 ? qg_div(1.0f, d) : 0.0f;
}

/* x as binary16, little-endian at any address; `nan` when it is one. */
static __device__ __forceinline__ void qg_put_half(uint8_t *to, float x, unsigned nan)
{
    const unsigned h = x == x ? qg_fp16_encode(x).v : nan;
    to[0] = (uint8_t)h;
    to[1] = (uint8_t)(h >> 8);
}

static __device__ __forceinline__ float qg_half_at(const uint8_t *from)
{
    return qg_half_value(QG_F16, from[0] | (uint32_t)from[1] << 8);
}

/* Eight bytes at a multiple of `align` bytes. */
template <unsigned align> static __device__ __forceinline__ uint2 qg_bytes_at(const uint8_t *from)
{
    uint2 w;
    memcpy(&w, __builtin_assume_aligned(from, align), sizeof w);
    return w;
}

template <unsigned align>
static __device__ __forceinline__ void qg_put_bytes(uint8_t *to, const struct qg_codes *q)
{
    memcpy(__builtin_assume_aligned(to, align), q->c, sizeof q->c);
}

/* Of each of eight bytes the bits of `mask` (1, 3 or 15) from bit `shift` on. */
static __device__ __forceinline__ uint2 qg_bits_of(uint2 w, unsigned shift, unsigned mask)
{
    return make_uint2(w.x >> shift & 0x01010101u * mask, w.y >> shift & 0x01010101u * mask);
}

/* Bytes 0 .. 127 less `zero`, 0 .. 128, as int8. */
static __device__ __forceinline__ uint2 qg_bytes_less(uint2 w, unsigned zero)
{
    const uint32_t high = 0x80808080u, less = 0x01010101u * zero;
    return make_uint2(((w.x | high) - less) ^ high, ((w.y | high) - less) ^ high);
}

static __device__ __forceinline__ int qg_int8_of(uint2 w, unsigned i)
{
    return (int8_t)((i < 4 ? w.x : w.y) >> 8 * (i % 4));
}

/* Sum of eight products of int8. */
static __device__ __forceinline__ int qg_int8_dot(uint2 a, uint2 b)
{
    return __dp4a((int)a.x, (int)b.x, __dp4a((int)a.y, (int)b.y, 0));
}

static __device__ __forceinline__ int qg_int8_sum(uint2 a)
{
    return qg_int8_dot(a, make_uint2(0x01010101u, 0x01010101u));
}

/* --- what a block is measured by: elements in their order ------------------------------------ */

/* The values of `team` neighbouring threads, up to a warp, joined in their order; each gets the
 * result. All threads of the warp call it. */
template <unsigned team, class T> static __device__ __forceinline__ T qg_team_fold(T value)
{
    static_assert(team <= QG_WARP, "threads of one warp");
#pragma unroll
    for (unsigned mask = 1; mask < team; mask *= 2) {
        const T other = qg_shuffle_xor(value, (int)mask);
        value = threadIdx.x & mask ? T::then(other, value) : T::then(value, other);
    }
    return value;
}

/* The same of the shares of a team. */
template <unsigned team, class T, size_t n>
static __device__ __forceinline__ T qg_fold(const float (&x)[n])
{
    T value = T::of(x[0]);
#pragma unroll
    for (unsigned i = 1; i < n; i++)
        value = T::then(value, T::of(x[i]));
    return qg_team_fold<team>(value);
}

/* The first element of largest magnitude; 0 when all are 0 or NaN. */
struct qg_extreme {
    float v;
    static __device__ __forceinline__ struct qg_extreme of(float x)
    {
        return {qg_abs(x) > 0 ? x : 0.0f};
    }
    static __device__ __forceinline__ struct qg_extreme then(struct qg_extreme a,
                                                             struct qg_extreme b)
    {
        return qg_abs(b.v) > qg_abs(a.v) ? b : a;
    }
};

/* Smallest and largest, the first of equals (0 and -0); a NaN is passed over. */
struct qg_range {
    float min, max;
    static __device__ __forceinline__ struct qg_range of(float x)
    {
        const float most = 0x1.fffffep127f;
        return {x < most ? x : most, x > -most ? x : -most};
    }
    static __device__ __forceinline__ struct qg_range then(struct qg_range a, struct qg_range b)
    {
        return {b.min < a.min ? b.min : a.min, b.max > a.max ? b.max : a.max};
    }
};

/* The largest magnitude behind the last NaN; NaN when that is the last element. Bit 31 says that
 * there was one. */
struct qg_behind_nan {
    uint32_t bits;
    static __device__ __forceinline__ struct qg_behind_nan of(float x)
    {
        const uint32_t m = qg_f32_bits(qg_abs(x));
        return {m > 0x7f800000u ? m | 0x80000000u : m};
    }
    static __device__ __forceinline__ struct qg_behind_nan then(struct qg_behind_nan a,
                                                                struct qg_behind_nan b)
    {
        const uint32_t m = a.bits & 0x7fffffffu, before = m > 0x7f800000u ? 0 : m;
        return {b.bits >> 31      ? b.bits
                : b.bits > before ? b.bits | (a.bits & 0x80000000u)
                                  : before | (a.bits & 0x80000000u)};
    }
    __device__ __forceinline__ float amax() const
    {
        return qg_f32_from_bits(bits & 0x7fffffffu);
    }
};

/* A sum of integers, modulo 2^32. */
struct qg_integer_sum {
    uint32_t v;
    static __device__ __forceinline__ struct qg_integer_sum then(struct qg_integer_sum a,
                                                                 struct qg_integer_sum b)
    {
        return {a.v + b.v};
    }
};

/* --- blocks by teams ------------------------------------------------------------------------- */

/* Threads that share a block when each has `share` of its elements, and blocks of a thread block.
 */
template <class F, unsigned share> struct qg_gguf_team {
    static constexpr unsigned threads = F::elements / share, blocks = QG_BLOCK / threads;
    static_assert(blocks * F::bytes % 16 == 0, "blocks of a thread block begin at 16 bytes");
};

/* By all threads of a block. */
static __device__ __forceinline__ void qg_copy_bytes(uint8_t *to, const uint8_t *from, size_t n)
{
    const bool aligned = qg_is_aligned(to, sizeof(uint4)) && qg_is_aligned(from, sizeof(uint4));
    const size_t words = aligned ? n / sizeof(uint4) : 0;
    for (size_t i = threadIdx.x; i < words; i += QG_BLOCK)
        ((uint4 *)to)[i] = ((const uint4 *)from)[i];
    for (size_t i = words * sizeof(uint4) + threadIdx.x; i < n; i += QG_BLOCK)
        to[i] = from[i];
}

/* The first `count` blocks' worth of x to blocks. */
template <class F>
static __global__ void __launch_bounds__(QG_BLOCK)
    qg_gguf_encode_blocks(const F f, const struct qg_tensor x, uint8_t *const blocks,
                          const size_t count)
{
    typedef struct qg_gguf_team<F, F::share> team;
    __shared__ __align__(16) uint8_t made[team::blocks * F::bytes];
    const size_t first = (size_t)blockIdx.x * team::blocks;
    const unsigned mine = threadIdx.x / team::threads, rank = threadIdx.x % team::threads;
    const size_t at = (first + mine) * F::elements + rank * F::share;
    float v[F::share];
#pragma unroll
    for (unsigned k = 0; k < F::share; k += QG_PIECE) {
        const size_t n = first + mine < count ? size_t{QG_PIECE} : 0;
        const struct qg_piece p = qg_load_piece(&x, at + k, n);
        for (unsigned i = 0; i < QG_PIECE; i++)
            v[k + i] = p.v[i];
    }
    f.encode(v, rank, made + mine * F::bytes);
    __syncthreads();
    qg_copy_bytes(blocks + first * F::bytes, made,
                  qg_least(count - first, team::blocks) * F::bytes);
}

/* All of x in format f. */
template <class F> static void qg_gguf_encode(const F &f, const struct qg_tensor *x, void *blocks)
{
    const size_t count = qg_count(x) / F::elements;
    qg_launch(qg_gguf_encode_blocks<F>, count * qg_gguf_team<F, F::share>::threads, f, *x,
              (uint8_t *)blocks, count);
}

/* Element i of eight is level[i] (scale factor), plus min min_factor where there are minima. */
struct qg_gguf_part {
    uint2 level; // int8
    float scale;
    int factor;
    float min;
    int min_factor;
};

template <class F>
static __device__ __forceinline__ float qg_gguf_value(const struct qg_gguf_part &p, unsigned i)
{
    const float v = qg_mul((float)qg_int8_of(p.level, i), qg_mul(p.scale, (float)p.factor));
    return F::has_min ? qg_add(v, qg_mul(p.min, (float)p.min_factor)) : v;
}

template <class F>
static __global__ void __launch_bounds__(QG_BLOCK)
    qg_gguf_decode_blocks(const uint8_t *const blocks, const size_t count, const struct qg_tensor y)
{
    typedef struct qg_gguf_team<F, QG_PIECE> team;
    __shared__ __align__(16) uint8_t held[team::blocks * F::bytes];
    const size_t first = (size_t)blockIdx.x * team::blocks;
    const unsigned mine = threadIdx.x / team::threads, at = threadIdx.x % team::threads * QG_PIECE;
    qg_copy_bytes(held, blocks + first * F::bytes,
                  qg_least(count - first, team::blocks) * F::bytes);
    __syncthreads();
    if (first + mine >= count)
        return;
    const struct qg_gguf_part part = F::part(held + mine * F::bytes, at);
    struct qg_piece p;
    for (unsigned i = 0; i < QG_PIECE; i++)
        p.v[i] = qg_gguf_value<F>(part, i);
    qg_store_piece(&y, (first + mine) * F::elements + at, QG_PIECE, &p);
}

/* --- operations ------------------------------------------------------------------------------ */

template <class F> void qg_gguf_convert(const struct qg_args *a)
{
    qg_gguf_encode(F{}, &a->in[0], a->out[0].data);
}

template <class F> void qg_gguf_dequant(const struct qg_args *a)
{
    const size_t count = qg_count(&a->out[0]) / F::elements;
    qg_launch(qg_gguf_decode_blocks<F>, count * qg_gguf_team<F, QG_PIECE>::threads,
              (const uint8_t *)a->in[0].data, count, a->out[0]);
}

/* in[0] to blocks of activations, by a quantizer that may depend on parameters. */
template <class X> void qg_gguf_encode_x(const struct qg_args *a, void *blocks)
{
    qg_gguf_encode(X::of(a), &a->in[0], blocks);
}

template <class X> void qg_gguf_convert_x(const struct qg_args *a)
{
    qg_gguf_encode_x<X>(a, a->out[0].data);
}

/* --- products -------------------------------------------------------------------------------- */

/* Elements of a row that a lane multiplies at a time, and parts of that. */
static constexpr unsigned QG_STRIP = 32, QG_PARTS = QG_STRIP / QG_PIECE;

/* Block and place in it of element i of a tensor. */
template <class F>
static __device__ __forceinline__ const uint8_t *qg_gguf_at(const uint8_t *p, size_t i)
{
    return p + i / F::elements * F::bytes;
}

/* A strip in four parts; zeros where it is not there. */
template <class F> struct qg_gguf_strip {
    struct qg_gguf_part part[QG_PARTS];

    __device__ __forceinline__ qg_gguf_strip(const uint8_t *block, unsigned at, bool there)
    {
#pragma unroll
        for (unsigned i = 0; i < QG_PARTS; i++)
            part[i] = there ? F::part(block, at + i * QG_PIECE) : qg_gguf_part{};
    }
};

/* Adds the products of a strip of weights and one of x, which is in `block`. A term of several
 * lanes is added by the first of them. */
template <class F>
static __device__ __forceinline__ float qg_gguf_dot(
    const struct qg_gguf_strip<F> &w, const struct qg_gguf_strip<typename F::partner> &x,
    const uint8_t *block, bool there, float sum)
{
    constexpr unsigned term = F::term < QG_STRIP ? F::term : QG_STRIP, lanes = F::term / term;
    struct qg_integer_sum dot = {0}, codes = {0};
#pragma unroll
    for (unsigned i = 0; i < QG_PARTS; i++) {
        dot.v += (uint32_t)(w.part[i].factor * qg_int8_dot(w.part[i].level, x.part[i].level));
        if (F::has_min)
            codes.v += (uint32_t)(w.part[i].min_factor * qg_int8_sum(x.part[i].level));
        if ((i + 1) * QG_PIECE % term != 0)
            continue;
        dot = qg_team_fold<lanes>(dot);
        codes = qg_team_fold<lanes>(codes);
        if (there && threadIdx.x % lanes == 0) {
            const float scale = qg_mul(w.part[i].scale, x.part[i].scale);
            sum = qg_add(sum, qg_mul(scale, (float)(int32_t)dot.v));
            if constexpr (F::has_min)
                sum = qg_add(sum, F::partner::min_term(w.part[i].min, block, (int32_t)codes.v));
        }
        dot.v = codes.v = 0;
    }
    return sum;
}

/* A warp to a row of weights, which are unpacked once for up to eight rows of x. */
template <class F>
static __global__ void __launch_bounds__(QG_BLOCK)
    qg_gguf_multiply_rows(const uint8_t *const weights, const uint8_t *const inputs,
                          const struct qg_tensor y, const size_t m, const size_t rows,
                          const size_t cols)
{
    typedef typename F::partner X;
    const auto [row, first] = qg_warp_place(rows);
    const unsigned lane = threadIdx.x % QG_WARP;
    qg_lane<F> sum[QG_M_TILE] = {};
    if (first >= m)
        return; // the whole warp
    for (size_t strip = 0; strip < cols; strip += QG_STRIP * QG_WARP) {
        const size_t at = strip + lane * QG_STRIP;
        const struct qg_gguf_strip<F> w(qg_gguf_at<F>(weights, row * cols + at), at % F::elements,
                                        at < cols);
#pragma unroll
        for (unsigned i = 0; i < QG_M_TILE; i++) {
            if (first + i >= m)
                break;
            const uint8_t *block = qg_gguf_at<X>(inputs, (first + i) * cols + at);
            const struct qg_gguf_strip<X> x(block, at % X::elements, at < cols);
            sum[i].value = qg_gguf_dot<F>(w, x, block, at < cols, sum[i].value);
        }
    }
#pragma unroll
    for (unsigned i = 0; i < QG_M_TILE; i++) {
        const float total = qg_warp_sum(sum[i]);
        if (lane == i && first + i < m)
            qg_put_float(&y, (first + i) * rows + row, total);
    }
}

template <class F> static void qg_gguf_matmul(const struct qg_args *a)
{
    qg_gguf_encode_x<typename F::partner>(a, a->work);
    qg_launch(qg_gguf_multiply_rows<F>, qg_warp_threads(a), (const uint8_t *)a->in[1].data,
              (const uint8_t *)a->work, a->out[0], a->m, a->rows, a->cols);
}

/* Additions of a lane, at most two for a strip (of two terms, or a term and its minimum), then five
 * of lanes. */
static inline size_t qg_gguf_depth(size_t k)
{
    return 2 * qg_ceil_div(k, QG_STRIP * QG_WARP) + 5;
}

/* Rows of a table: those of every format, and dequant of its partner where upstream has it. */
#define QG_GGUF_CUDA_ROWS(s, F)                                                   \
    QG_CUDA_ROW(s, QG_WEIGHT, QG_CONVERT, qg_gguf_convert<F>),                    \
        QG_CUDA_ROW(s, QG_WEIGHT, QG_DEQUANT, qg_gguf_dequant<F>),                \
        QG_CUDA_ROW(s, QG_ACTIVATION, QG_CONVERT, qg_gguf_convert_x<F::partner>), \
        QG_CUDA_BOUNDED(s, QG_WEIGHT, QG_MATMUL, QG_REORDERS, qg_gguf_depth, qg_gguf_matmul<F>)
#define QG_GGUF_CUDA_DEQUANT_X(s, X) QG_CUDA_ROW(s, QG_ACTIVATION, QG_DEQUANT, qg_gguf_dequant<X>)

/* --- the formats of activations -------------------------------------------------------------- */

/* Codes of 32 elements by a team of four, the unrounded d, and what the codes add up to. */
struct qg_q8_codes {
    struct qg_codes q;
    float d;
    int32_t sum;
};

/* ggml's reference: halves away from zero. */
static __device__ __forceinline__ struct qg_q8_codes qg_q8_ref(const float (&x)[8])
{
    struct qg_q8_codes c;
    struct qg_integer_sum sum = {0};
    c.d = qg_div(qg_fold<4, struct qg_behind_nan>(x).amax(), 127.0f);
    const float inverse = qg_inverse(c.d);
    for (unsigned i = 0; i < QG_PIECE; i++) {
        c.q.c[i] = (uint8_t)qg_x86_int(roundf(qg_mul(x[i], inverse)));
        sum.v += (uint32_t)(int8_t)c.q.c[i];
    }
    c.sum = (int32_t)qg_team_fold<4>(sum).v;
    return c;
}

/* The maximum as AVX finds it: each of eight lanes goes over the block, then halves meet. */
static __device__ __forceinline__ float qg_q8_amax_x86(const float (&x)[8])
{
    float lane[QG_PIECE];
#pragma unroll
    for (unsigned i = 0; i < QG_PIECE; i++)
        lane[i] = qg_team_fold<4>(qg_behind_nan::of(x[i])).amax();
#pragma unroll
    for (unsigned i = 0; i < 4; i++)
        lane[i] = lane[4 + i] > lane[i] ? lane[4 + i] : lane[i];
#pragma unroll
    for (unsigned n = 2; n > 0; n /= 2)
        for (unsigned i = 0; i < n; i++)
            lane[i] = lane[i] > lane[n + i] ? lane[i] : lane[n + i];
    return lane[0];
}

/* x86 builds: to nearest even, saturated; the sum is that of the integers before. */
static __device__ __forceinline__ struct qg_q8_codes qg_q8_x86(const float (&x)[8])
{
    struct qg_q8_codes c;
    struct qg_integer_sum sum = {0};
    const float amax = qg_q8_amax_x86(x), factor = amax != 0 ? qg_div(127.0f, amax) : 0.0f;
    c.d = qg_div(amax, 127.0f);
    for (unsigned i = 0; i < QG_PIECE; i++) {
        const int32_t k = qg_x86_int(qg_rint(qg_mul(x[i], factor)));
        c.q.c[i] = (uint8_t)qg_within(k, -128, 127);
        sum.v += (uint32_t)k;
    }
    c.sum = (int32_t)qg_team_fold<4>(sum).v;
    return c;
}

/* The parameter `act`: 0 x86, 1 ref. */
static inline bool qg_q8_is_ref(const struct qg_args *a)
{
    return a->param[0] == 1;
}

/* Of weights ref, of activations what the call wants. */
struct qg_cuda_q8_0 {
    static constexpr unsigned elements = 32, bytes = 34, share = 8, term = 32;
    static constexpr bool has_min = false;
    typedef struct qg_cuda_q8_0 partner;
    bool ref = true;

    static struct qg_cuda_q8_0 of(const struct qg_args *a)
    {
        return {qg_q8_is_ref(a)};
    }
    __device__ void encode(const float (&x)[8], unsigned rank, uint8_t *block) const
    {
        const struct qg_q8_codes c = ref ? qg_q8_ref(x) : qg_q8_x86(x);
        qg_put_bytes<2>(block + 2 + QG_PIECE * rank, &c.q);
        if (rank == 0)
            qg_put_half(block, c.d, 0x7e00);
    }
    static __device__ struct qg_gguf_part part(const uint8_t *block, unsigned at)
    {
        return {qg_bytes_at<2>(block + 2 + at), qg_half_at(block), 1};
    }
};

struct qg_cuda_q8_1 {
    static constexpr unsigned elements = 32, bytes = 36, share = 8;
    bool ref;

    static struct qg_cuda_q8_1 of(const struct qg_args *a)
    {
        return {qg_q8_is_ref(a)};
    }
    __device__ void encode(const float (&x)[8], unsigned rank, uint8_t *block) const
    {
        const struct qg_q8_codes c = ref ? qg_q8_ref(x) : qg_q8_x86(x);
        qg_put_bytes<4>(block + 4 + QG_PIECE * rank, &c.q);
        if (rank > 0)
            return;
        qg_put_half(block, c.d, 0x7e00);
        qg_put_half(block + 2, qg_mul((float)c.sum, c.d), c.d == c.d ? 0xfe00 : 0x7e00);
    }
    static __device__ struct qg_gguf_part part(const uint8_t *block, unsigned at)
    {
        return {qg_bytes_at<4>(block + 4 + at), qg_half_at(block), 1};
    }
    /* The block has its sum, scaled. */
    static __device__ float min_term(float min, const uint8_t *block, int32_t)
    {
        return qg_mul(min, qg_half_at(block + 2));
    }
};

struct qg_cuda_q8_K {
    static constexpr unsigned elements = 256, bytes = 292, share = 8;
    static constexpr bool has_min = false;

    static struct qg_cuda_q8_K of(const struct qg_args *)
    {
        return {};
    }
    __device__ void encode(const float (&x)[8], unsigned rank, uint8_t *block) const
    {
        const float extreme = qg_fold<QG_WARP, struct qg_extreme>(x).v;
        const float is = extreme != 0 ? qg_div(-127.0f, extreme) : 0.0f,
                    d = extreme != 0 ? qg_div(1.0f, is) : 0.0f;
        struct qg_codes q;
        struct qg_integer_sum sum = {0};
        for (unsigned i = 0; i < QG_PIECE; i++) {
            const int32_t k = extreme != 0 ? qg_low_bits(qg_mul(is, x[i])) : 0;
            q.c[i] = (uint8_t)k; // the extreme is -127, and none is beyond
            sum.v += (uint32_t)(int8_t)q.c[i];
        }
        qg_put_bytes<4>(block + 4 + QG_PIECE * rank, &q);
        sum = qg_team_fold<2>(sum); // of 16 codes
        if (rank % 2 == 0) {
            block[260 + rank] = (uint8_t)sum.v;
            block[261 + rank] = (uint8_t)(sum.v >> 8);
        }
        if (rank == 0)
            memcpy(__builtin_assume_aligned(block, 4), &d, sizeof d);
    }
    static __device__ float scale(const uint8_t *block)
    {
        float d;
        memcpy(&d, __builtin_assume_aligned(block, 4), sizeof d);
        return d;
    }
    static __device__ struct qg_gguf_part part(const uint8_t *block, unsigned at)
    {
        return {qg_bytes_at<4>(block + 4 + at), scale(block), 1};
    }
    static __device__ float min_term(float min, const uint8_t *block, int32_t sum)
    {
        return qg_mul(qg_mul(min, scale(block)), (float)sum);
    }
};

/* Their operations are compiled once, in gguf.cu. */
#define QG_GGUF_X(linkage, X)                                                     \
    linkage template void qg_gguf_encode_x<X>(const struct qg_args *a, void *to); \
    linkage template void qg_gguf_convert_x<X>(const struct qg_args *a)
#define QG_GGUF_X_BACK(linkage, X) linkage template void qg_gguf_dequant<X>(const struct qg_args *a)
#define QG_GGUF_ALL_X(linkage)             \
    QG_GGUF_X(linkage, qg_cuda_q8_0);      \
    QG_GGUF_X(linkage, qg_cuda_q8_1);      \
    QG_GGUF_X(linkage, qg_cuda_q8_K);      \
    QG_GGUF_X_BACK(linkage, qg_cuda_q8_0); \
    QG_GGUF_X_BACK(linkage, qg_cuda_q8_K); \
    linkage template void qg_gguf_convert<qg_cuda_q8_0>(const struct qg_args *a)
QG_GGUF_ALL_X(extern);

#endif
