/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of ct-int4, ct-int8 and ct-fp8: a team of threads to a group or a row. Codes are
 * packed by the thread that makes them, but for groups that end within its piece.
 */
#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/units.cuh"

namespace
{

/* --- scales and codes: see schemes/compressed_tensors.c --------------------------------------- */

/* For tensors of dtype t: codes of x / s lie between low and high. */
struct rule {
    enum qg_dtype t;
    float half_range, low, high;
    bool fp8; // e4m3, else integers

    __device__ float scale(struct qg_amax m) const
    {
        const float s = qg_round_float(t, qg_div(m.amax, half_range));
        const float step = t == QG_F32 ? 0x1p-23f : t == QG_BF16 ? 0x1p-7f : 0x1p-10f;
        return s == 0 ? step : s;
    }
    /* R(x / s); the zero point that is added makes 0 of -0. */
    __device__ float clamped(float scale, float x) const
    {
        return qg_clamp(qg_add(qg_round_float(t, qg_div(x, scale)), 0.0f), low, high);
    }
    __device__ float number(float scale, float x) const
    {
        const float u = clamped(scale, x);
        return fp8 ? qg_e4m3_decode(qg_e4m3_encode(u)) : qg_rint(u);
    }
    /* As it is stored: e4m3, or q + 8 or q + 128, where a NaN is 0. */
    __device__ uint8_t code(float scale, float x) const
    {
        const float u = clamped(scale, x);
        if (fp8)
            return qg_e4m3_encode(u).v;
        return (uint8_t)((u == u ? (int)qg_rint(u) : 0) - (int)low);
    }
};

bool is_fp8(const struct qg_args *a)
{
    return a->scheme->operand[a->operand].planes[0].dtype == QG_E4M3;
}

int code_bits(const struct qg_args *a)
{
    return a->scheme->operand[a->operand].code_bits;
}

struct rule rule_of(const struct qg_args *a)
{
    if (is_fp8(a))
        return {a->dtype, QG_E4M3_MAX, -QG_E4M3_MAX, QG_E4M3_MAX, true};
    const float low = -(float)(1 << (code_bits(a) - 1));
    return {a->dtype, -low - 0.5f, low, -low - 1.0f, false};
}

struct prepare {
    struct qg_tensor x, y;
    struct rule rule;
    typedef struct qg_amax measure;

    __device__ float make(struct qg_unit, measure m) const
    {
        return rule.scale(m);
    }
    __device__ void put(struct qg_unit, float) const
    {
    }
    __device__ void piece(struct qg_unit, float scale, size_t at, size_t n,
                          const struct qg_piece *p) const
    {
        struct qg_piece w;
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++)
            w.v[i] = qg_mul(rule.number(scale, p->v[i]), scale);
        qg_store_piece(&y, at, n, &w);
    }
};

void fake_quant(const struct qg_args *a)
{
    qg_quantize(prepare{a->in[0], a->out[0], rule_of(a)}, {a->rows, a->cols, qg_group(a)});
}

/* --- convert ---------------------------------------------------------------------------------- */

/* Rows of words of codes, from the lowest bits up, where a piece fills words of its own; the last
 * word of a row ends in zero bits. */
struct words {
    uint32_t *data;
    size_t per_row;
    unsigned bits;

    __device__ void store(size_t row, size_t at, size_t n, const struct qg_codes *q) const
    {
        uint32_t *to = data + row * per_row + at * bits / 32;
        uint64_t w = 0;
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++)
            w |= i < n ? (uint64_t)q->c[i] << i * bits : 0;
        to[0] = (uint32_t)w;
        if (n * bits > 32)
            to[1] = (uint32_t)(w >> 32);
    }
    __device__ struct qg_codes load(size_t row, size_t at, size_t n) const
    {
        const uint32_t *from = data + row * per_row + at * bits / 32;
        const uint64_t w = from[0] | (n * bits > 32 ? (uint64_t)from[1] << 32 : 0);
        struct qg_codes q;
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++)
            q.c[i] = (uint8_t)(w >> i * bits & ((1u << bits) - 1u));
        return q;
    }
};

struct words words_of(const struct qg_args *a, const struct qg_tensor &codes)
{
    return {(uint32_t *)codes.data, codes.shape[1], (unsigned)code_bits(a)};
}

struct storing {
    struct qg_tensor x, scales;
    struct rule rule;
    uint8_t *bytes; // NULL: words
    struct words words;
    size_t cols, per_row; // per_row: groups
    typedef struct qg_amax measure;

    __device__ float make(struct qg_unit, measure m) const
    {
        return rule.scale(m);
    }
    __device__ void put(struct qg_unit u, float scale) const
    {
        qg_put_float(&scales, u.row * per_row + u.of_row, scale);
    }
    __device__ void piece(struct qg_unit u, float scale, size_t at, size_t n,
                          const struct qg_piece *p) const
    {
        struct qg_codes q;
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++)
            q.c[i] = rule.code(scale, p->v[i]);
        if (bytes)
            qg_store_bytes(bytes, at, n, &q);
        else
            words.store(u.row, at - u.row * cols, n, &q);
    }
};

struct packing {
    const uint8_t *bytes;
    struct words words;
    size_t cols;

    __device__ void piece(size_t row, size_t at, size_t n) const
    {
        const struct qg_codes q = qg_load_bytes(bytes, row * cols + at, n);
        words.store(row, at, n, &q);
    }
};

void convert(const struct qg_args *a)
{
    const size_t group = qg_group(a);
    const bool whole = group % QG_PIECE == 0 || group == a->cols; // a word has codes of one group
    uint8_t *bytes = is_fp8(a) ? (uint8_t *)a->out[0].data : whole ? NULL : (uint8_t *)a->work;
    const struct words words = words_of(a, a->out[0]);
    qg_quantize(storing{a->in[0], a->out[1], rule_of(a), bytes, words, a->cols, qg_groups(a)},
                {a->rows, a->cols, group});
    if (bytes && !is_fp8(a))
        qg_pieces(packing{bytes, words, a->cols}, a->rows, a->cols);
}

/* --- dequant and matmul ----------------------------------------------------------------------- */

/* R(q s). */
struct numbers {
    struct qg_tensor codes, scales;
    struct words words;
    enum qg_dtype dtype;
    size_t cols, group;

    __device__ float number(uint8_t code) const
    {
        if (codes.dtype == QG_E4M3)
            return qg_e4m3_decode({code});
        return (float)((int)code - (1 << (words.bits - 1)));
    }
    __device__ struct qg_piece weights(size_t row, size_t at, size_t n) const
    {
        const size_t first = row * cols + at;
        const struct qg_codes q =
            codes.dtype == QG_E4M3 ? qg_load_bytes(codes.data, first, n) : words.load(row, at, n);
        struct qg_cursor c = qg_cursor_at(first, group);
        float s = 0;
        struct qg_piece w;
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++) {
            if (i == 0 || (i < n && qg_cursor_next(&c)))
                s = qg_get_float(&scales, c.group);
            w.v[i] = i < n ? qg_round_float(dtype, qg_mul(number(q.c[i]), s)) : 0.0f;
        }
        return w;
    }
};

struct numbers numbers_of(const struct qg_args *a, const struct qg_tensor *planes)
{
    return {planes[0], planes[1], words_of(a, planes[0]), a->dtype, a->cols, qg_group(a)};
}

void dequant(const struct qg_args *a)
{
    qg_unpack(numbers_of(a, a->in), a);
}

typedef struct qg_plain_product<struct numbers> product;

product product_of(const struct qg_args *a)
{
    return {numbers_of(a, a->in + 1), a->in[0], a->out[0], a->cols};
}

/* x goes through the grid first. */
product dynamic_product_of(const struct qg_args *a)
{
    const struct qg_tensor x = qg_made_x(a);
    qg_quantize(prepare{a->in[0], x, rule_of(a)}, {a->m, a->cols, a->cols});
    return {numbers_of(a, a->in + 1), x, a->out[0], a->cols};
}

} // namespace

#define ROWS(s, what)                                                                           \
    QG_CUDA_ROW(s, what, QG_FAKE_QUANT, fake_quant), QG_CUDA_ROW(s, what, QG_CONVERT, convert), \
        QG_CUDA_ROW(s, what, QG_DEQUANT, dequant)

extern "C" const struct qg_kernel qg_kernels_compressed_tensors_cuda[] = {
    ROWS("ct-int4", QG_WEIGHT),
    ROWS("ct-int8", QG_WEIGHT),
    ROWS("ct-fp8", QG_WEIGHT),
    ROWS("ct-fp8", QG_ACTIVATION),
    QG_CUDA_PRODUCT("ct-int4", product_of),
    QG_CUDA_LORA("ct-int4", product_of),
    QG_CUDA_PRODUCT("ct-int8", product_of),
    QG_CUDA_LORA("ct-int8", product_of),
    QG_CUDA_PRODUCT("ct-fp8", dynamic_product_of),
    QG_CUDA_END,
};
