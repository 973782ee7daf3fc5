/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of q4_K and q6_K: a thread to a part, whose sums keep upstream's order, and whose
 * grids follow one another because each starts from the minimum that the last one left. The codes
 * of a grid are computed when they are asked for, so that a part stays in registers.
 */
#include "kernels/cuda/gguf.cuh"

namespace
{

/* Of the parts' numbers the first of largest magnitude; NaN is passed over. */
template <unsigned team> __device__ float largest(float x)
{
    return qg_team_fold<team>(qg_extreme::of(x)).v;
}

/* --- q4_K ------------------------------------------------------------------------------------ */

/* Codes of a part, of which 0 .. 15 there are. */
struct grid {
    float inverse, from;

    __device__ __forceinline__ float code(float x) const
    {
        return (float)qg_within(qg_low_bits(qg_mul(inverse, qg_sub(x, from))), 0, 15);
    }
};

/* What a part of 32 is fitted by: weights mean + |x|, and the sums of w and w x. */
struct weighing {
    float mean, w, wx;

    __device__ __forceinline__ float weight(float x) const
    {
        return qg_add(mean, qg_abs(x));
    }
};

__device__ __forceinline__ struct weighing weigh(const float (&x)[32])
{
    float squares = 0.0f;
#pragma unroll
    for (unsigned i = 0; i < 32; i++)
        squares = qg_add(squares, qg_mul(x[i], x[i]));
    struct weighing s = {__fsqrt_rn(qg_mul(squares, 0.03125f)), 0.0f, 0.0f};
    s.w = s.weight(x[0]);
    s.wx = qg_mul(s.w, x[0]);
#pragma unroll
    for (unsigned i = 1; i < 32; i++) {
        s.w = qg_add(s.w, s.weight(x[i]));
        s.wx = qg_add(s.wx, qg_mul(s.weight(x[i]), x[i]));
    }
    return s;
}

/* The grid that is kept, and the scale and minimum that are best for it. */
struct fit {
    struct grid grid;
    float scale, min, error;
};

__device__ __forceinline__ float error_of(const float (&x)[32], const struct weighing &s,
                                          struct grid g, float scale, float min)
{
    float error = 0.0f;
#pragma unroll
    for (unsigned i = 0; i < 32; i++) {
        const float e = qg_sub(qg_add(qg_mul(scale, g.code(x[i])), min), x[i]);
        error = qg_add(error, qg_mul(s.weight(x[i]), qg_mul(e, e)));
    }
    return error;
}

/* Least squares for the codes of g, taken when it is better than what there was. */
__device__ __forceinline__ void improve(struct fit *f, const float (&x)[32],
                                        const struct weighing &s, struct grid g)
{
    float q = 0.0f, qq = 0.0f, qx = 0.0f;
#pragma unroll
    for (unsigned i = 0; i < 32; i++) {
        const float code = g.code(x[i]), wq = qg_mul(s.weight(x[i]), code);
        q = qg_add(q, wq);
        qq = qg_add(qq, qg_mul(wq, code));
        qx = qg_add(qx, qg_mul(wq, x[i]));
    }
    const float det = qg_sub(qg_mul(s.w, qq), qg_mul(q, q));
    if (!(det > 0))
        return;
    float scale = qg_div(qg_sub(qg_mul(s.w, qx), qg_mul(s.wx, q)), det);
    float min = qg_div(qg_sub(qg_mul(qq, s.wx), qg_mul(q, qx)), det);
    if (min > 0) {
        scale = qg_div(qx, qq);
        min = 0.0f;
    }
    const float error = error_of(x, s, g, scale, min);
    if (error < f->error)
        *f = {g, scale, min, error};
}

/* All codes are 0 where there is nothing to fit: of inverse 0. */
__device__ __forceinline__ struct fit fit_part(const float (&x)[32])
{
    float low = x[0], max = x[0];
#pragma unroll
    for (unsigned i = 1; i < 32; i++) {
        low = x[i] < low ? x[i] : low;
        max = x[i] > max ? x[i] : max;
    }
    const float min = low > 0 ? 0.0f : low;
    struct fit f = {{0.0f, min}, 0.0f, min, 0.0f};
    if (max == min)
        return f;
    const struct weighing s = weigh(x);
    f.grid.inverse = qg_div(15.0f, qg_sub(max, min));
    f.scale = qg_div(1.0f, f.grid.inverse);
    f.error = error_of(x, s, f.grid, f.scale, min);
#pragma unroll 1
    for (int t = 0; t <= 20; t++) {
        const float steps = qg_add(qg_add(-1.0f, qg_mul(0.1f, (float)t)), 15.0f);
        improve(&f, x, s, {qg_div(steps, qg_sub(max, f.min)), f.min});
    }
    return f;
}

__device__ __forceinline__ uint8_t six_bits(float v)
{
    const uint8_t k = (uint8_t)qg_low_bits(v);
    return k > 63 ? 63 : k;
}

struct q4_K {
    static constexpr unsigned elements = 256, bytes = 144, share = 32, term = 256;
    static constexpr bool has_min = true;
    typedef struct qg_cuda_q8_K partner;

    /* Scales and minima as 6 bits; of the parts 4 to 7 the high two bits are with the others. */
    static __device__ void put_scales(uint8_t *to, unsigned rank, uint8_t scale, uint8_t min)
    {
        const unsigned other =
            __shfl_xor_sync(0xffffffffu, (unsigned)scale | (unsigned)min << 8, 4);
        if (rank >= 4)
            return;
        to[rank] = (uint8_t)(scale | (other >> 4 & 3) << 6);
        to[4 + rank] = (uint8_t)(min | (other >> 12 & 3) << 6);
        to[8 + rank] = (uint8_t)((other & 15) | (other >> 8 & 15) << 4);
    }

    /* Byte j of a pair of parts holds element j of the first and, high, of the second. */
    static __device__ void put_codes(uint8_t *to, unsigned rank, const float (&x)[32],
                                     const struct fit &f, float scale, float min)
    {
#pragma unroll
        for (unsigned k = 0; k < 32; k += QG_PIECE) {
            struct qg_codes q;
            for (unsigned i = 0; i < QG_PIECE; i++) {
                const float u = qg_div(qg_add(x[k + i], min), scale);
                q.c[i] = scale != 0 ? (uint8_t)qg_within(qg_low_bits(u), 0, 15)
                                    : (uint8_t)f.grid.code(x[k + i]);
            }
            const struct qg_codes other = qg_shuffle_xor(q, 1);
            for (unsigned i = 0; i < QG_PIECE; i++)
                q.c[i] = (uint8_t)(q.c[i] | other.c[i] << 4);
            if (rank % 2 == 0)
                qg_put_bytes<8>(to + rank / 2 * 32 + k, &q);
        }
    }

    __device__ void encode(const float (&x)[32], unsigned rank, uint8_t *block) const
    {
        const struct fit f = fit_part(x);
        const float top = largest<8>(f.scale > 0 ? f.scale : 0.0f),
                    bottom = largest<8>(-f.min > 0 ? -f.min : 0.0f),
                    per_scale = top > 0 ? qg_div(63.0f, top) : 0.0f,
                    per_min = bottom > 0 ? qg_div(63.0f, bottom) : 0.0f;
        const float d = qg_div(top, 63.0f), dmin = qg_div(bottom, 63.0f);
        const uint8_t scale = six_bits(qg_mul(per_scale, f.scale)),
                      min = six_bits(qg_mul(per_min, -f.min));
        if (rank == 0) {
            qg_put_half(block, d, 0);
            qg_put_half(block + 2, dmin, 0);
        }
        put_scales(block + 4, rank, scale, min);
        put_codes(block + 16, rank, x, f, qg_mul(qg_round(QG_F16, d), scale),
                  qg_mul(qg_round(QG_F16, dmin), min));
    }

    static __device__ int six_bits_at(const uint8_t *from, unsigned part, unsigned which)
    {
        if (part < 4)
            return from[part + 4 * which] & 63;
        return (from[part + 4] >> 4 * which & 15) | from[part - 4 + 4 * which] >> 6 << 4;
    }

    static __device__ struct qg_gguf_part part(const uint8_t *block, unsigned at)
    {
        const uint2 q = qg_bytes_at<8>(block + 16 + at / 64 * 32 + at % 32);
        return {qg_bits_of(q, at % 64 / 32 * 4, 15), qg_half_at(block),
                six_bits_at(block + 4, at / 32, 0), -qg_half_at(block + 2),
                six_bits_at(block + 4, at / 32, 1)};
    }
};

/* --- q6_K ------------------------------------------------------------------------------------ */

/* The grid that is kept, if any, its scale, and how well it fits: qx^2 / qq. */
struct fit6 {
    float inverse, scale, best;
    bool found;
};

__device__ __forceinline__ int code6(float u)
{
    return qg_within(qg_low_bits(u), -32, 31);
}

/* The first grid is taken in any case, the others when they fit better. */
__device__ __forceinline__ void try_grid(struct fit6 *f, const float (&x)[16], float inverse)
{
    float qx = 0.0f, qq = 0.0f;
#pragma unroll
    for (unsigned i = 0; i < 16; i++) {
        const float w = qg_mul(x[i], x[i]), q = (float)code6(qg_mul(inverse, x[i]));
        qx = qg_add(qx, qg_mul(qg_mul(w, x[i]), q));
        qq = qg_add(qq, qg_mul(qg_mul(w, q), q));
    }
    if (f->found && !(qq > 0 && qg_mul(qx, qx) > qg_mul(f->best, qq)))
        return;
    f->found = true;
    f->inverse = inverse;
    f->scale = qq != 0 ? qg_div(qx, qq) : 0.0f;
    f->best = qg_mul(f->scale, qx);
}

__device__ __forceinline__ struct fit6 fit_part6(const float (&x)[16])
{
    const float extreme = qg_fold<1, struct qg_extreme>(x).v;
    struct fit6 f = {0.0f, 0.0f, 0.0f, false};
    if (qg_abs(extreme) < 1e-15f)
        return f;
    try_grid(&f, x, qg_div(-32.0f, extreme));
#pragma unroll 1
    for (int t = -9; t <= 9; t++)
        if (t != 0)
            try_grid(&f, x, qg_div(-qg_add(32.0f, qg_mul(0.1f, (float)t)), extreme));
    return f;
}

struct q6_K {
    static constexpr unsigned elements = 256, bytes = 210, share = 16, term = 256;
    static constexpr bool has_min = false;
    typedef struct qg_cuda_q8_K partner;

    /* Of each 128 elements byte j of 64 holds the low bits of element j and, high, of j + 64; byte
     * j of 32 the high bits of j, j + 32, j + 64 and j + 96. Thread r has elements 16 r and on. */
    static __device__ void put_codes(uint8_t *block, unsigned rank, struct qg_codes q, unsigned at)
    {
        const struct qg_codes next = qg_shuffle_xor(q, 2);
        struct qg_codes low, high;
        for (unsigned i = 0; i < QG_PIECE; i++)
            high.c[i] = (uint8_t)(q.c[i] >> 4 | next.c[i] >> 4 << 2);
        const struct qg_codes far = qg_shuffle_xor(q, 4), far_high = qg_shuffle_xor(high, 4);
        for (unsigned i = 0; i < QG_PIECE; i++) {
            low.c[i] = (uint8_t)((q.c[i] & 15) | far.c[i] << 4);
            high.c[i] = (uint8_t)(high.c[i] | far_high.c[i] << 4);
        }
        if (rank % 8 < 4)
            qg_put_bytes<2>(block + rank / 8 * 64 + rank % 4 * 16 + at, &low);
        if (rank % 8 < 2)
            qg_put_bytes<2>(block + 128 + rank / 8 * 32 + rank % 2 * 16 + at, &high);
    }

    /* Where no scale is worth storing all bytes are 0. */
    __device__ void encode(const float (&x)[16], unsigned rank, uint8_t *block) const
    {
        const struct fit6 f = fit_part6(x);
        const float top = largest<16>(f.scale);
        const bool empty = qg_abs(top) < 1e-15f;
        const float per_scale = empty ? 0.0f : qg_div(-128.0f, top),
                    d = empty ? 0.0f : qg_div(1.0f, per_scale);
        const int s = qg_low_bits(qg_mul(per_scale, f.scale));
        const int8_t stored = (int8_t)(empty ? 0 : s < 127 ? s : 127);
        const float scale = qg_mul(qg_round(QG_F16, d), stored);
        if (rank == 0)
            qg_put_half(block + 208, d, 0);
        block[192 + rank] = (uint8_t)stored;
#pragma unroll
        for (unsigned k = 0; k < 16; k += QG_PIECE) {
            struct qg_codes q;
            for (unsigned i = 0; i < QG_PIECE; i++) {
                const int fitted = f.found ? code6(qg_mul(f.inverse, x[k + i])) : -32,
                          code = code6(qg_div(x[k + i], scale));
                q.c[i] = empty ? 0 : (uint8_t)((scale != 0 ? code : fitted) + 32);
            }
            put_codes(block, rank, q, k);
        }
    }

    static __device__ struct qg_gguf_part part(const uint8_t *block, unsigned at)
    {
        const unsigned half = at / 128, quarter = at % 128 / 32;
        const uint2 low = qg_bits_of(qg_bytes_at<2>(block + 64 * half + at % 64), quarter / 2 * 4,
                                     15),
                    high = qg_bits_of(qg_bytes_at<2>(block + 128 + 32 * half + at % 32),
                                      2 * quarter, 3);
        return {qg_bytes_less(make_uint2(low.x | high.x << 4, low.y | high.y << 4), 32),
                qg_half_at(block + 208), (int8_t)block[192 + at / 16]};
    }
};

} // namespace

extern "C" const struct qg_kernel qg_kernels_gguf_k_cuda[] = {
    QG_GGUF_CUDA_ROWS("q4_K", q4_K),
    QG_GGUF_CUDA_DEQUANT_X("q4_K", qg_cuda_q8_K),
    QG_GGUF_CUDA_ROWS("q6_K", q6_K),
    QG_GGUF_CUDA_DEQUANT_X("q6_K", qg_cuda_q8_K),
    QG_CUDA_END,
};
