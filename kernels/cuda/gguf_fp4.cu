/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of mxfp4-ggml and nvfp4-ggml: four threads to a block of 32, two to a part of 16.
 */
#include "kernels/cuda/gguf.cuh"

namespace
{

/* --- elements: e2m1, as twice their value ---------------------------------------------------- */

/* 0 1 2 3 4 6 8 12 of a code without its sign. */
__device__ __forceinline__ unsigned doubled(unsigned code)
{
    return 0xc8643210u >> 4 * code & 15u;
}

/* The same of four codes with signs, a byte each, as int8. */
__device__ __forceinline__ uint32_t levels(uint32_t codes)
{
    const uint32_t negative = (codes >> 3 & 0x01010101u) * 255u, c = codes & 0x07070707u,
                   pick = c | c >> 4, which = (pick & 0xffu) | (pick >> 8 & 0xff00u);
    const uint32_t plus = __byte_perm(0x03020100u, 0x0c080604u, which),
                   minus = __byte_perm(0xfdfeff00u, 0xf4f8fafcu, which);
    return (plus & ~negative) | (minus & negative);
}

/* Of magnitudes the first that is nearest to |x|, and the sign unless that is 0: a negative x is
 * nearer to 0 than to any positive number. */
__device__ __forceinline__ uint8_t nearest_code(float x, float half_scale)
{
    const float m = qg_abs(x);
    float least = m;
    unsigned best = 0;
#pragma unroll
    for (unsigned c = 1; c < 8; c++) {
        const float error = qg_abs(qg_sub(qg_mul((float)doubled(c), half_scale), m));
        best = error < least ? c : best;
        least = error < least ? error : least;
    }
    return (uint8_t)(best && x < 0 ? best | 8u : best);
}

/* Codes of eight elements and, high, those of the thread `away`. */
__device__ __forceinline__ struct qg_codes encode_pair(const float (&x)[8], float half_scale,
                                                       int away)
{
    struct qg_codes q;
    for (unsigned i = 0; i < QG_PIECE; i++)
        q.c[i] = nearest_code(x[i], half_scale);
    const struct qg_codes other = qg_shuffle_xor(q, away);
    for (unsigned i = 0; i < QG_PIECE; i++)
        q.c[i] = (uint8_t)(q.c[i] | other.c[i] << 4);
    return q;
}

__device__ __forceinline__ uint2 levels_at(uint2 bytes, unsigned shift)
{
    const uint2 codes = qg_bits_of(bytes, shift, 15);
    return make_uint2(levels(codes.x), levels(codes.y));
}

/* --- mxfp4: a power of two for 32 ------------------------------------------------------------- */

/* floor of log2(x), x > 0 finite, as it is after the logarithm was rounded to binary32: one more
 * where x lies so little below 2^e that log2(x) rounds to e. With x = 2^e (1 - j 2^-24) that is
 * where j log2(e) is at most half a step of binary32 below e, in units of 2^-24; j is below 90
 * then.
 */
__device__ __forceinline__ int floor_log2(float x)
{
    const bool subnormal = x < 0x1p-126f;
    const uint32_t u = qg_f32_bits(subnormal ? qg_mul(x, 0x1p24f) : x);
    const int e = (int)(u >> 23) - (subnormal ? 150 : 126);
    const float j = (float)(0x1000000u - ((u & 0x7fffffu) | 0x800000u));
    if (e == 0)
        return -1; // numbers next to 0 have steps enough
    const int n = e < 0 ? -e : e, floor_n = 1 << (31 - __clz(n));
    // Below a power of two steps are half as wide.
    const float limit = e == floor_n ? 0.5f * (float)floor_n : (float)floor_n;
    return qg_mul(j, 1.442695f) <= limit ? e : e - 1;
}

__device__ __forceinline__ float half_power(unsigned e)
{
    return qg_f32_from_bits(e < 2 ? 0x200000u << e : (e - 1) << 23);
}

struct mxfp4 {
    static constexpr unsigned elements = 32, bytes = 17, share = 8, term = 32;
    static constexpr bool has_min = false;
    typedef struct qg_cuda_q8_0 partner;

    __device__ void encode(const float (&x)[8], unsigned rank, uint8_t *block) const
    {
        const float amax = qg_abs(qg_fold<4, struct qg_extreme>(x).v);
        const bool normal = amax > 0 && amax <= 0x1.fffffep127f;
        const uint8_t e = normal ? (uint8_t)(floor_log2(amax) + 125) : 0;
        const struct qg_codes q = encode_pair(x, half_power(e), 2);
        if (rank == 0)
            block[0] = e;
        if (rank < 2)
            qg_put_bytes<1>(block + 1 + QG_PIECE * rank, &q);
    }

    static __device__ struct qg_gguf_part part(const uint8_t *block, unsigned at)
    {
        return {levels_at(qg_bytes_at<1>(block + 1 + at % 16), at / 16 * 4), half_power(block[0]),
                1};
    }
};

/* --- nvfp4: an unsigned e4m3 for each 16 ------------------------------------------------------ */

/* Rounded half up by the first bit that is dropped; from 256 on it is 448. x >= 0. */
__device__ __forceinline__ uint8_t ue4m3_of(float x)
{
    if (x < 0x1p-6f) {
        const int m = (int)qg_add(qg_mul(x, 512.0f), 0.5f);
        return (uint8_t)(m < 7 ? m : 7);
    }
    const uint32_t u = qg_f32_bits(x), byte = (u >> 20) + (u >> 19 & 1u) - 960u;
    return (uint8_t)(byte < 0x78 ? byte : 0x7e);
}

/* Half of what the byte stands for. */
__device__ __forceinline__ float ue4m3_half(unsigned u)
{
    return u == 0x7f ? 0.0f : qg_mul(0.5f, qg_minifloat_value(u & 0x7fu, 3, 7));
}

struct nvfp4 {
    static constexpr unsigned elements = 64, bytes = 36, share = 8, term = 16;
    static constexpr bool has_min = false;
    typedef struct qg_cuda_q8_0 partner;

    __device__ void encode(const float (&x)[8], unsigned rank, uint8_t *block) const
    {
        const float amax = qg_abs(qg_fold<2, struct qg_extreme>(x).v);
        const uint8_t u = ue4m3_of(qg_div(amax, 6.0f));
        const struct qg_codes q = encode_pair(x, ue4m3_half(u), 1);
        if (rank % 2)
            return;
        block[rank / 2] = u;
        qg_put_bytes<4>(block + 4 + rank / 2 * QG_PIECE, &q);
    }

    static __device__ struct qg_gguf_part part(const uint8_t *block, unsigned at)
    {
        return {levels_at(qg_bytes_at<4>(block + 4 + at / 16 * 8), at % 16 / 8 * 4),
                ue4m3_half(block[at / 16]), 1};
    }
};

} // namespace

extern "C" const struct qg_kernel qg_kernels_gguf_fp4_cuda[] = {
    QG_GGUF_CUDA_ROWS("mxfp4-ggml", mxfp4),
    QG_GGUF_CUDA_DEQUANT_X("mxfp4-ggml", qg_cuda_q8_0),
    QG_GGUF_CUDA_ROWS("nvfp4-ggml", nvfp4),
    QG_GGUF_CUDA_DEQUANT_X("nvfp4-ggml", qg_cuda_q8_0),
    QG_CUDA_END,
};
