/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of tq1_0 and tq2_0: a warp to a block of 256.
 */
#include "kernels/cuda/gguf.cuh"

namespace
{

/* Elements as bytes 0, 1, 2 (or what x86 makes of others), and d. */
struct trits {
    struct qg_codes t;
    float d;
};

__device__ __forceinline__ struct trits trits_of(const float (&x)[8])
{
    struct trits r;
    r.d = qg_fold<QG_WARP, struct qg_behind_nan>(x).amax();
    const float inverse = qg_inverse(r.d);
    for (unsigned i = 0; i < QG_PIECE; i++)
        r.t.c[i] = (uint8_t)((uint32_t)qg_x86_int(roundf(qg_mul(x[i], inverse))) + 1u);
    return r;
}

/* --- tq2_0: four rows of 32 elements to 32 bytes --------------------------------------------- */

struct tq2_0 {
    static constexpr unsigned elements = 256, bytes = 66, share = 8, term = 256;
    static constexpr bool has_min = false;
    typedef struct qg_cuda_q8_K partner;

    /* Rows are four threads apart. */
    __device__ void encode(const float (&x)[8], unsigned rank, uint8_t *block) const
    {
        const struct trits r = trits_of(x);
        struct qg_codes q = r.t;
        const struct qg_codes next = qg_shuffle_xor(q, 4);
        for (unsigned i = 0; i < QG_PIECE; i++)
            q.c[i] = (uint8_t)((q.c[i] & 3) | (next.c[i] & 3) << 2);
        const struct qg_codes far = qg_shuffle_xor(q, 8);
        for (unsigned i = 0; i < QG_PIECE; i++)
            q.c[i] = (uint8_t)(q.c[i] | far.c[i] << 4);
        if (rank % 16 < 4)
            qg_put_bytes<2>(block + rank / 16 * 32 + rank % 4 * QG_PIECE, &q);
        if (rank == 0)
            qg_put_half(block + 64, r.d, 0x7e00);
    }

    static __device__ struct qg_gguf_part part(const uint8_t *block, unsigned at)
    {
        const uint2 q = qg_bytes_at<2>(block + at / 128 * 32 + at % 32);
        return {qg_bytes_less(qg_bits_of(q, at % 128 / 32 * 2, 3), 1), qg_half_at(block + 64), 1};
    }
};

/* --- tq1_0: five rows of 32 elements, five of 16, four of 4 ---------------------------------- */

/* Trit n of four bytes, as int8 -1, 0, 1: the integer part of 3 b / 256 for b the byte times 3^n,
 * of which 8 bits are kept. */
__device__ __forceinline__ uint32_t trit(uint32_t bytes, unsigned n)
{
    const uint32_t power = n == 4 ? 81u : 0x1b090301u >> 8 * n & 255u;
    uint32_t r = 0;
    for (unsigned i = 0; i < 32; i += 8) {
        const uint32_t b = (bytes >> i & 255u) * power & 255u;
        r |= ((3u * b / 256u - 1u) & 255u) << i;
    }
    return r;
}

struct tq1_0 {
    static constexpr unsigned elements = 256, bytes = 54, share = 8, term = 256;
    static constexpr bool has_min = false;
    typedef struct qg_cuda_q8_K partner;

    /* Byte j of the block, whose trits are `width` elements apart. */
    static __device__ uint8_t pack(const uint8_t *t, unsigned j)
    {
        const unsigned width = j < 32   ? 32
                               : j < 48 ? 16
                                        : 4,
                       rows = j < 48 ? 5 : 4,
                       first = j < 32   ? j
                               : j < 48 ? 160 + j - 32
                                        : 240 + j - 48;
        unsigned v = 0;
        for (unsigned n = 0; n < 5; n++)
            v = (3 * v + (n < rows ? t[first + n * width] : 0)) & 255u;
        return (uint8_t)((256 * v + 242) / 243);
    }

    __device__ void encode(const float (&x)[8], unsigned rank, uint8_t *block) const
    {
        __shared__ __align__(8) uint8_t of_warp[unsigned{QG_BLOCK} / QG_WARP][elements];
        uint8_t *t = of_warp[threadIdx.x / QG_WARP];
        const struct trits r = trits_of(x);
        qg_put_bytes<8>(t + QG_PIECE * rank, &r.t);
        __syncwarp();
        for (unsigned j = rank; j < 52; j += QG_WARP)
            block[j] = pack(t, j);
        if (rank == 0)
            qg_put_half(block + 52, r.d, 0x7e00);
    }

    static __device__ struct qg_gguf_part part(const uint8_t *block, unsigned at)
    {
        const float d = qg_half_at(block + 52);
        if (at >= 240) { // two rows of four
            const uint32_t last =
                block[48] | block[49] << 8 | block[50] << 16 | (uint32_t)block[51] << 24;
            const unsigned n = (at - 240) / 4;
            return {make_uint2(trit(last, n), trit(last, n + 1)), d, 1};
        }
        const unsigned n = at < 160 ? at / 32 : (at - 160) / 16;
        const uint2 b = qg_bytes_at<2>(block + (at < 160 ? at % 32 : 32 + at % 16));
        return {make_uint2(trit(b.x, n), trit(b.y, n)), d, 1};
    }
};

} // namespace

extern "C" const struct qg_kernel qg_kernels_gguf_ternary_cuda[] = {
    QG_GGUF_CUDA_ROWS("tq1_0", tq1_0),
    QG_GGUF_CUDA_DEQUANT_X("tq1_0", qg_cuda_q8_K),
    QG_GGUF_CUDA_ROWS("tq2_0", tq2_0),
    QG_GGUF_CUDA_DEQUANT_X("tq2_0", qg_cuda_q8_K),
    QG_CUDA_END,
};
