/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of mxfp4-mxc: scales and codes from bits and thresholds (kernels/powers.h), where
 * the library takes logarithms.
 */
#include "kernels/cuda/blocks.cuh"
#include "kernels/powers.h"

namespace
{

enum { BLOCK = 32 };

struct decoder {
    __device__ float step(uint8_t byte) const
    {
        return qg_e8m0_decode({byte});
    }
    __device__ float value(unsigned code, float step) const
    {
        return qg_mul(qg_e2m1_decode(code), step);
    }
};

struct rule {
    enum qg_dtype dtype;
    struct decoder decoder;
    struct grid {
        uint8_t byte;
        float scale;
    };

    __device__ struct grid make(struct qg_amax m) const
    {
        const uint8_t byte = (uint8_t)qg_power_by_log2(dtype, m.amax);
        return {byte, decoder.step(byte)};
    }
    __device__ uint8_t byte(struct grid g) const
    {
        return g.byte;
    }
    __device__ unsigned code(struct grid g, float x) const
    {
        return qg_e2m1_away(qg_e2m1_lowest(dtype), qg_round_float(dtype, qg_div(x, g.scale)));
    }
    __device__ float value(struct grid g, unsigned code) const
    {
        return decoder.value(code, g.scale);
    }
};

void fake_quant(const struct qg_args *a)
{
    qg_round_blocks(rule{a->dtype, {}}, a->in[0], a->out[0], {a->rows, a->cols, BLOCK});
}

void convert(const struct qg_args *a)
{
    qg_convert_blocks(rule{a->dtype, {}}, a, qg_block_layout_of(a, QG_PLAIN));
}

struct qg_block_stored<struct decoder> stored_of(const struct qg_args *a,
                                                 const struct qg_tensor *planes) {
    return qg_stored_blocks(decoder{}, a, planes, qg_block_layout_of(a, QG_PLAIN));
}

void dequant(const struct qg_args *a)
{
    qg_unpack(stored_of(a, a->in), a);
}

struct qg_plain_product<struct qg_block_stored<struct decoder>> product_of(
    const struct qg_args *a) {
    return {stored_of(a, a->in + 1), a->in[0], a->out[0], a->cols};
}

} // namespace

extern "C" const struct qg_kernel qg_kernels_microxcaling_cuda[] = {
    QG_CUDA_ROW("mxfp4-mxc", QG_WEIGHT, QG_FAKE_QUANT, fake_quant),
    QG_CUDA_ROW("mxfp4-mxc", QG_WEIGHT, QG_CONVERT, convert),
    QG_CUDA_ROW("mxfp4-mxc", QG_WEIGHT, QG_DEQUANT, dequant),
    QG_CUDA_PRODUCT("mxfp4-mxc", product_of),
    QG_CUDA_END,
};
