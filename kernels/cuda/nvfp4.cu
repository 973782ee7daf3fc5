/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of NVFP4, torchao's and TransformerEngine's: two threads to a block of 16. Where a
 * scale of the whole tensor stands above the blocks, one launch finds the largest magnitude and the
 * next reads it on the device.
 */
#include "kernels/cuda/blocks.cuh"

namespace
{

enum { LAYOUT, MATMUL };
enum { SCALED, WEIGHT_ONLY };
enum { BLOCK = 16 };
enum kind { SINGLE, TWO_LEVEL, TRANSFORMER_ENGINE };

const float LARGEST = 0x1.fffffep127f;

enum kind kind_of(const struct qg_args *a)
{
    return strcmp(a->scheme->name, "nvfp4-te") == 0 ? TRANSFORMER_ENGINE
           : strcmp(a->scheme->name, "nvfp4") == 0  ? TWO_LEVEL
                                                    : SINGLE;
}

/* --- scales ---------------------------------------------------------------------------------- */

/* How a tensor becomes codes: see schemes/nvfp4.c. */
struct rule {
    enum kind kind;
    bool whole;        /* values are q P s; else q s, the tensor's scale comes later */
    const float *amax; /* of the whole tensor, on the device */
    struct grid {
        float scale, factor, step; /* of the block, of its elements, of their codes */
    };

    __device__ struct grid torchao(float amax_of_block) const
    {
        const float p = kind == SINGLE ? 1.0f : qg_div(*amax, 2688.0f);
        const float wanted = qg_div(qg_div(amax_of_block, 6.0f), p);
        const float scale = qg_round(QG_E4M3, qg_clamp(wanted, 0x1p-6f, QG_E4M3_MAX));
        return {scale, qg_div(qg_div(1.0f, p), scale), whole ? qg_mul(p, scale) : scale};
    }
    __device__ struct grid transformer_engine(float amax_of_block) const
    {
        float s = qg_min(qg_div(2688.0f, *amax), LARGEST);
        if (*amax == 0 || s == 0)
            s = 1.0f;
        const float wanted = qg_mul(amax_of_block, qg_mul(s, 1.0f / 6.0f));
        const float scale = qg_round(QG_E4M3, qg_min(wanted, QG_E4M3_MAX));
        const float inverse = qg_div(1.0f, qg_mul(scale, qg_div(1.0f, s)));
        return {scale, qg_min(inverse, LARGEST), scale};
    }
    __device__ struct grid make(struct qg_amax m) const
    {
        return kind == TRANSFORMER_ENGINE ? transformer_engine(m.amax) : torchao(m.amax);
    }
    __device__ uint8_t byte(struct grid g) const
    {
        return qg_e4m3_encode(g.scale).v;
    }
    __device__ unsigned code(struct grid g, float x) const
    {
        return qg_e2m1_encode(qg_mul(x, g.factor));
    }
    __device__ float value(struct grid g, unsigned code) const
    {
        return qg_mul(qg_e2m1_decode(code), g.step);
    }
};

/* The rule for in[0], whose largest magnitude goes to `amax`. */
struct rule rule_of(const struct qg_args *a, bool whole, float *amax)
{
    const enum kind kind = kind_of(a);
    if (kind != SINGLE)
        qg_amax_of_tensor(&a->in[0], amax);
    return {kind, whole, amax};
}

void fake_quant(const struct qg_args *a)
{
    qg_round_blocks(rule_of(a, true, a->work), a->in[0], a->out[0], {a->rows, a->cols, BLOCK});
}

/* P from the largest magnitude. */
struct dividing {
    const float *amax;
    float *p;

    __device__ void piece(size_t, size_t, size_t) const
    {
        *p = qg_div(*amax, 2688.0f);
    }
};

void convert(const struct qg_args *a)
{
    const bool te = kind_of(a) == TRANSFORMER_ENGINE;
    float *of_tensor = (float *)a->out[2].data;
    const struct rule rule = rule_of(a, true, te ? of_tensor : a->work);
    if (rule.kind == TWO_LEVEL)
        qg_pieces(dividing{rule.amax, of_tensor}, 1, 1);
    qg_convert_blocks(rule, a, qg_block_layout_of(a, a->param[LAYOUT]));
}

/* --- dequant and matmul ---------------------------------------------------------------------- */

struct decoder {
    enum kind kind;
    bool whole;
    const float *of_tensor;

    __device__ float step(uint8_t byte) const
    {
        const float scale = qg_e4m3_decode({byte});
        if (!whole || kind == SINGLE)
            return scale;
        return kind == TWO_LEVEL ? qg_mul(*of_tensor, scale)
                                 : qg_mul(qg_mul(scale, *of_tensor), 1.0f / 2688.0f);
    }
    __device__ float value(unsigned code, float step) const
    {
        return qg_mul(qg_e2m1_decode(code), step);
    }
};

typedef struct qg_block_stored<struct decoder> stored;

stored stored_of(const struct qg_args *a, const struct qg_tensor *planes, bool whole)
{
    const struct decoder decoder = {kind_of(a), whole, (const float *)planes[2].data};
    return qg_stored_blocks(decoder, a, planes, qg_block_layout_of(a, a->param[LAYOUT]));
}

void dequant(const struct qg_args *a)
{
    qg_unpack(stored_of(a, a->in, true), a);
}

/* Sums of q s of both sides, which every dtype holds, then the tensors' scales. */
struct product : qg_plain_product<stored> {
    const float *amax; /* of x; NULL where whole values are multiplied */

    __device__ float finish(size_t m, size_t row, float sum) const
    {
        return qg_plain_product<stored>::finish(m, row, scaled(sum));
    }

    __device__ float scaled(float sum) const
    {
        const struct decoder d = w.decoder;
        if (d.whole)
            return sum;
        if (d.kind == TRANSFORMER_ENGINE)
            return qg_mul(sum,
                          qg_mul(qg_mul(*amax, *d.of_tensor), (float)(1.0 / (2688.0 * 2688.0))));
        sum = qg_round_float(y.dtype, sum);
        if (d.kind == SINGLE)
            return sum;
        return qg_mul(sum, qg_round_float(y.dtype, qg_mul(qg_div(*amax, 2688.0f), *d.of_tensor)));
    }
};

struct product product_of(const struct qg_args *a)
{
    if (kind_of(a) != TRANSFORMER_ENGINE && (int)a->param[MATMUL] == WEIGHT_ONLY)
        return {{stored_of(a, a->in + 1, true), a->in[0], a->out[0], a->cols}, NULL};
    const struct qg_tensor x = qg_made_x(a);
    qg_round_blocks(rule_of(a, false, a->work), a->in[0], x, {a->m, a->cols, BLOCK});
    return {{stored_of(a, a->in + 1, false), x, a->out[0], a->cols}, a->work};
}

/* --- by cuBLASLt ------------------------------------------------------------------------------ */

/* Scales of rows one after the other to tiles. */
struct tiling {
    const uint8_t *from;
    uint8_t *to;
    size_t per_row;

    __device__ void piece(size_t row, size_t at, size_t n) const
    {
        for (size_t i = at; i < at + n; i++)
            to[qg_layout_at(QG_SWIZZLED, per_row, row, i)] = from[row * per_row + i];
    }
};

struct qg_factor weight_factor(const struct qg_args *a, float **at)
{
    struct qg_tensor scales = a->in[2];
    if ((int)a->param[LAYOUT] != QG_SWIZZLED) {
        scales = qg_tiled_scales(a->rows, a->cols / BLOCK, at);
        qg_clear(&scales);
        qg_pieces(tiling{(const uint8_t *)a->in[2].data, (uint8_t *)scales.data, a->cols / BLOCK},
                  a->rows, a->cols / BLOCK);
    }
    return {qg_narrow_codes(a->in[1], QG_NARROW, at), QG_SCALE_E4M3, scales.data};
}

struct qg_factor input_factor(const struct qg_args *a, float **at)
{
    struct qg_args of_x = *a;
    of_x.rows = a->m;
    of_x.out[0] = qg_scratch(QG_U8, a->m, a->cols / 2, at);
    of_x.out[1] = qg_tiled_scales(a->m, a->cols / BLOCK, at);
    qg_convert_blocks(rule_of(a, false, a->work), &of_x, qg_block_layout_of(a, QG_SWIZZLED));
    return {qg_narrow_codes(of_x.out[0], 1, at), QG_SCALE_E4M3, of_x.out[1].data};
}

/* The tensors' scales come behind R(sum), where the definition has them, not as alpha before it. */
void matmul_nvfp4(const struct qg_args *a)
{
    float *at = a->work + 4;
    const struct qg_factor x = input_factor(a, &at), w = weight_factor(a, &at);
    const struct product p = {{stored_of(a, a->in + 1, false), a->in[0], a->out[0], a->cols},
                              a->work};
    qg_multiply_narrow<float>(p, a, x, w, at);
}

bool takes_nvfp4(const struct qg_args *a, char *text, size_t size)
{
    if (a && kind_of(a) != TRANSFORMER_ENGINE && (int)a->param[MATMUL] == WEIGHT_ONLY) {
        snprintf(text, size, "with matmul=weight-only x has no codes");
        return false;
    }
    return qg_cublas_has_block_scales(text, size);
}

#define NVFP4(s) QG_NARROW_FLOATS(s, "nvfp4", matmul_nvfp4, takes_nvfp4)

#define STORED(s, what) \
    QG_CUDA_ROW(s, what, QG_CONVERT, convert), QG_CUDA_ROW(s, what, QG_DEQUANT, dequant)
#define TRAINED(s, what)                             \
    QG_CUDA_ROW(s, what, QG_FAKE_QUANT, fake_quant), \
        QG_CUDA_ROW(s, what, QG_FAKE_QUANT_GRAD, qg_pass_gradient), STORED(s, what)

} // namespace

extern "C" const struct qg_kernel qg_kernels_nvfp4_cuda[] = {
    TRAINED("nvfp4", QG_WEIGHT),
    TRAINED("nvfp4", QG_ACTIVATION),
    TRAINED("nvfp4-single", QG_WEIGHT),
    TRAINED("nvfp4-single", QG_ACTIVATION),
    STORED("nvfp4-te", QG_WEIGHT),
    STORED("nvfp4-te", QG_ACTIVATION),
    QG_CUDA_PRODUCT("nvfp4", product_of),
    QG_CUDA_LORA("nvfp4", product_of),
    QG_CUDA_PRODUCT("nvfp4-single", product_of),
    QG_CUDA_LORA("nvfp4-single", product_of),
    QG_CUDA_PRODUCT("nvfp4-te", product_of),
    QG_CUDA_LORA("nvfp4-te", product_of),
    NVFP4("nvfp4"),
    NVFP4("nvfp4-single"),
    NVFP4("nvfp4-te"),
    QG_CUDA_END,
};
