/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of the MX formats: four threads to a block of 32, whose scale comes from bits alone,
 * and so does the factor that its elements are multiplied with (kernels/powers.h).
 */
#include "kernels/cuda/blocks.cuh"
#include "kernels/powers.h"

namespace
{

enum { SCALE, VERSION, LAYOUT };
enum { BLOCK = 32 };

/* --- elements -------------------------------------------------------------------------------- */

struct element {
    unsigned bits, mbits, bias, power;
    float max;

    __device__ unsigned encode(float x) const
    {
        x = qg_clamp(x, -max, max);
        return bits < 8     ? qg_mx_encode(x, bits, mbits, bias)
               : mbits == 3 ? qg_e4m3_encode(x).v
                            : qg_e5m2_encode(x).v;
    }
    __device__ float decode(unsigned code) const
    {
        return bits < 8     ? qg_mx_decode(code, bits, mbits, bias)
               : mbits == 3 ? qg_e4m3_decode({(uint8_t)code})
                            : qg_e5m2_decode({(uint8_t)code});
    }
};

struct element element_of(const struct qg_args *a)
{
    static const struct {
        const char *scheme;
        struct element element;
    } table[] = {
        {"mxfp4", {4, 1, 1, 2, 6.0f}},
        {"mxfp6-e2m3", {6, 3, 1, 2, 7.5f}},
        {"mxfp6-e3m2", {6, 2, 3, 4, 28.0f}},
        {"mxfp8-e4m3", {8, 3, 7, 8, QG_E4M3_MAX}},
        {"mxfp8-e5m2", {8, 2, 15, 15, QG_E5M2_MAX}},
    };
    size_t i = 0;
    while (strcmp(table[i].scheme, a->scheme->name) != 0)
        i++;
    return table[i].element;
}

/* --- blocks ---------------------------------------------------------------------------------- */

struct decoder {
    struct element element;

    __device__ float step(uint8_t byte) const
    {
        return qg_e8m0_decode({byte});
    }
    __device__ float value(unsigned code, float step) const
    {
        return qg_mul(element.decode(code), step);
    }
};

struct rule {
    struct decoder decoder;
    struct qg_powers powers;
    struct grid {
        uint8_t byte;
        float factor;
    };

    __device__ struct grid make(struct qg_amax m) const
    {
        const uint32_t byte = qg_power_of(powers, m.amax);
        return {(uint8_t)byte, qg_power_factor(powers, byte)};
    }
    __device__ uint8_t byte(struct grid g) const
    {
        return g.byte;
    }
    __device__ unsigned code(struct grid g, float x) const
    {
        return decoder.element.encode(qg_mul(x, g.factor));
    }
    __device__ float value(struct grid g, unsigned code) const
    {
        return decoder.value(code, decoder.step(g.byte));
    }
};

struct rule rule_of(const struct qg_args *a)
{
    const struct element e = element_of(a);
    return {{e}, {(int)a->param[SCALE], (int)a->param[VERSION] == 0, e.max, e.power, e.mbits}};
}

struct qg_block_layout layout_of(const struct qg_args *a)
{
    return qg_block_layout_of(a, a->param[LAYOUT]);
}

void fake_quant(const struct qg_args *a)
{
    qg_round_blocks(rule_of(a), a->in[0], a->out[0], {a->rows, a->cols, BLOCK});
}

void convert(const struct qg_args *a)
{
    qg_convert_blocks(rule_of(a), a, layout_of(a));
}

struct qg_block_stored<struct decoder> stored_of(const struct qg_args *a,
                                                 const struct qg_tensor *planes) {
    return qg_stored_blocks(decoder{element_of(a)}, a, planes, layout_of(a));
}

void dequant(const struct qg_args *a)
{
    qg_unpack(stored_of(a, a->in), a);
}

/* Both sides in the dtype of x. */
struct qg_plain_product<struct qg_block_stored<struct decoder>> product_of(
    const struct qg_args *a) {
    const struct qg_tensor x = qg_made_x(a);
    qg_round_blocks(rule_of(a), a->in[0], x, {a->m, a->cols, BLOCK});
    return {stored_of(a, a->in + 1), x, a->out[0], a->cols};
}

#define OPERAND(s, what)                                            \
    QG_CUDA_ROW(s, what, QG_FAKE_QUANT, fake_quant),                \
        QG_CUDA_ROW(s, what, QG_FAKE_QUANT_GRAD, qg_pass_gradient), \
        QG_CUDA_ROW(s, what, QG_CONVERT, convert), QG_CUDA_ROW(s, what, QG_DEQUANT, dequant)
#define SCHEME(s) OPERAND(s, QG_WEIGHT), OPERAND(s, QG_ACTIVATION), QG_CUDA_PRODUCT(s, product_of)

} // namespace

extern "C" const struct qg_kernel qg_kernels_mx_cuda[] = {
    SCHEME("mxfp4"),      SCHEME("mxfp6-e2m3"), SCHEME("mxfp6-e3m2"),
    SCHEME("mxfp8-e4m3"), SCHEME("mxfp8-e5m2"), QG_CUDA_END,
};
