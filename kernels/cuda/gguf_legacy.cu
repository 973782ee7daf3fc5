/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of q8_0, q4_0, q4_1, q5_0 and q5_1: four threads to a block of 32.
 */
#include "kernels/cuda/gguf.cuh"

namespace
{

template <bool has_min> struct partner_of {
    typedef struct qg_cuda_q8_0 type;
};
template <> struct partner_of<true> {
    typedef struct qg_cuda_q8_1 type;
};

/* Codes of 4 or 5 bits around 2^(bits-1), or up from a minimum: d and the minimum, the fifth bits,
 * 16 bytes of nibbles. */
template <unsigned bits, bool minimum> struct nibbles {
    static constexpr bool has_min = minimum;
    static constexpr unsigned elements = 32, share = 8, term = 32, high = has_min ? 4 : 2,
                              low = high + (bits == 5 ? 4 : 0), bytes = low + 16,
                              align = has_min ? 4 : 2, half = 1 << (bits - 1), most = 2 * half - 1;
    typedef typename partner_of<has_min>::type partner;

    /* (x - from) inverse + shift as a byte no larger than `most`. */
    static __device__ struct qg_codes quantize(const float (&x)[8], float from, float inverse,
                                               float shift)
    {
        struct qg_codes q;
        for (unsigned i = 0; i < QG_PIECE; i++) {
            const float u = qg_add(qg_mul(qg_sub(x[i], from), inverse), shift);
            const unsigned k = (unsigned)qg_x86_int(u) & 255u;
            q.c[i] = (uint8_t)(k < most ? k : most);
        }
        return q;
    }

    static __device__ struct qg_codes around(const float (&x)[8], unsigned rank, uint8_t *block)
    {
        const float d = qg_div(qg_fold<4, struct qg_extreme>(x).v, -(float)half);
        if (rank == 0)
            qg_put_half(block, d, 0);
        return quantize(x, 0.0f, qg_inverse(d), (float)half + 0.5f);
    }

    static __device__ struct qg_codes above(const float (&x)[8], unsigned rank, uint8_t *block)
    {
        const struct qg_range r = qg_fold<4, struct qg_range>(x);
        const float d = qg_div(qg_sub(r.max, r.min), (float)most);
        if (rank == 0) {
            qg_put_half(block, d, 0xfe00); // inf - inf
            qg_put_half(block + 2, r.min, 0);
        }
        return quantize(x, r.min, qg_inverse(d), 0.5f);
    }

    /* Byte j holds element j and, high, element j + 16, which is two threads further. */
    __device__ void encode(const float (&x)[8], unsigned rank, uint8_t *block) const
    {
        struct qg_codes q = has_min ? above(x, rank, block) : around(x, rank, block);
        const struct qg_codes other = qg_shuffle_xor(q, 2);
        unsigned fifth = 0;
        for (unsigned i = 0; i < QG_PIECE; i++) {
            fifth |= (q.c[i] >> 4 & 1u) << i;
            q.c[i] = (uint8_t)((q.c[i] & 15) | other.c[i] << 4);
        }
        if (bits == 5)
            block[high + rank] = (uint8_t)fifth;
        if (rank < 2)
            qg_put_bytes<align>(block + low + QG_PIECE * rank, &q);
    }

    /* Codes at .. at+8. */
    static __device__ uint2 codes(const uint8_t *block, unsigned at)
    {
        uint2 q = qg_bits_of(qg_bytes_at<align>(block + low + at % 16), at / 16 * 4, 15);
        if (bits == 5) {
            const uint32_t fifth = block[high + at / 8]; // bit i to bit 4 of byte i
            q.x |= ((fifth & 15) * 0x00204081u & 0x01010101u) << 4;
            q.y |= ((fifth >> 4) * 0x00204081u & 0x01010101u) << 4;
        }
        return q;
    }

    static __device__ struct qg_gguf_part part(const uint8_t *block, unsigned at)
    {
        const uint2 q = codes(block, at);
        const float d = qg_half_at(block);
        if (has_min)
            return {q, d, 1, qg_half_at(block + 2), 1};
        return {qg_bytes_less(q, half), d, 1};
    }
};

typedef nibbles<4, false> q4_0;
typedef nibbles<5, false> q5_0;
typedef nibbles<4, true> q4_1;
typedef nibbles<5, true> q5_1;

} // namespace

#define WITH_Q8_0(s, F) QG_GGUF_CUDA_ROWS(s, F), QG_GGUF_CUDA_DEQUANT_X(s, qg_cuda_q8_0)

extern "C" const struct qg_kernel qg_kernels_gguf_legacy_cuda[] = {
    WITH_Q8_0("q8_0", qg_cuda_q8_0), WITH_Q8_0("q4_0", q4_0),
    QG_GGUF_CUDA_ROWS("q4_1", q4_1), WITH_Q8_0("q5_0", q5_0),
    QG_GGUF_CUDA_ROWS("q5_1", q5_1), QG_CUDA_END,
};
