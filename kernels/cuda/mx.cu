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

/* --- by cuBLASLt, as MXFP8 -------------------------------------------------------------------- */

/* cuBLASLt has blocks of 32 with E8M0 scales for numbers of 8 bits alone, not both of e5m2. Smaller
 * elements are numbers of e4m3. What is multiplied is R(q s) over s, which is q but where R(q s) is
 * subnormal in the dtype; it still is a number of e4m3. */
struct recoding {
    struct qg_block_stored<struct decoder> from;
    uint8_t *codes, *scales; // in tiles
    size_t rows;             // that there are; those behind are 0

    __device__ void piece(size_t row, size_t at, size_t n) const
    {
        const size_t cols = from.layout.cols;
        struct qg_codes q = {};
        if (row < rows) {
            const uint8_t byte = from.scales[from.layout.scale_at(row, at / BLOCK)];
            const float inverse = qg_e8m0_decode({(uint8_t)(254 - byte)});
            const struct qg_piece p = from.weights(row, at, n);
            for (int i = 0; i < QG_PIECE; i++)
                q.c[i] = qg_e4m3_encode(qg_mul(p.v[i], inverse)).v;
            if (at % BLOCK == 0)
                scales[qg_layout_at(QG_SWIZZLED, cols / BLOCK, row, at / BLOCK)] = byte;
        }
        qg_store_bytes(codes, row * cols + at, n, &q);
    }
};

struct qg_factor recode(const struct qg_block_stored<struct decoder> &from, size_t rows,
                        size_t multiple, float **at)
{
    const size_t cols = from.layout.cols;
    const struct qg_tensor codes = qg_scratch(QG_E4M3, qg_round_up(rows, multiple), cols, at),
                           scales = qg_tiled_scales(rows, cols / BLOCK, at);
    qg_clear(&scales);
    qg_pieces(recoding{from, (uint8_t *)codes.data, (uint8_t *)scales.data, rows}, codes.shape[0],
              cols);
    return {codes, QG_SCALE_E8M0, scales.data};
}

/* W in e4m3 with its scales in tiles is what cuBLASLt wants already, and is taken as it is: there
 * numbers that are subnormal in BF16 (below 2^-126) are not rounded to it. */
struct qg_factor weight_factor(const struct qg_args *a, float **at)
{
    const struct qg_block_stored<struct decoder> w = stored_of(a, a->in + 1);
    if ((int)w.layout.layout == QG_PLAIN || w.decoder.element.bits < 8 || a->rows % QG_NARROW != 0)
        return recode(w, a->rows, QG_NARROW, at);
    struct qg_tensor codes = a->in[1];
    codes.dtype = QG_E4M3;
    return {codes, QG_SCALE_E8M0, a->in[2].data};
}

/* x through its own codes. */
struct qg_factor input_factor(const struct qg_args *a, float **at)
{
    const struct qg_block_layout layout = qg_block_layout_of(a, QG_PLAIN);
    struct qg_args of_x = *a;
    of_x.rows = a->m;
    of_x.out[0] = qg_scratch(QG_U8, a->m, a->cols / (layout.nibbles ? 2 : 1), at);
    of_x.out[1] = qg_scratch(QG_U8, a->m, a->cols / BLOCK, at);
    qg_convert_blocks(rule_of(a), &of_x, layout);
    return recode(qg_stored_blocks(decoder{element_of(a)}, a, of_x.out, layout), a->m, 1, at);
}

void matmul_mxfp8(const struct qg_args *a)
{
    float *at = a->work;
    const struct qg_factor x = input_factor(a, &at), w = weight_factor(a, &at);
    qg_multiply_scaled(a, x, w, at);
}

#define MXFP8(s) QG_NARROW_FLOATS(s, "mxfp8", matmul_mxfp8, qg_takes_block_scales)

#define OPERAND(s, what)                                            \
    QG_CUDA_ROW(s, what, QG_FAKE_QUANT, fake_quant),                \
        QG_CUDA_ROW(s, what, QG_FAKE_QUANT_GRAD, qg_pass_gradient), \
        QG_CUDA_ROW(s, what, QG_CONVERT, convert), QG_CUDA_ROW(s, what, QG_DEQUANT, dequant)
#define SCHEME(s)                                                                     \
    OPERAND(s, QG_WEIGHT), OPERAND(s, QG_ACTIVATION), QG_CUDA_PRODUCT(s, product_of), \
        QG_CUDA_LORA(s, product_of)

} // namespace

extern "C" const struct qg_kernel qg_kernels_mx_cuda[] = {
    SCHEME("mxfp4"),      SCHEME("mxfp6-e2m3"), SCHEME("mxfp6-e3m2"), SCHEME("mxfp8-e4m3"),
    SCHEME("mxfp8-e5m2"), MXFP8("mxfp4"),       MXFP8("mxfp6-e2m3"),  MXFP8("mxfp6-e3m2"),
    MXFP8("mxfp8-e4m3"),  QG_CUDA_END,
};
