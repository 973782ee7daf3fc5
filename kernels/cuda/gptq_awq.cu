/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of gptq and awq. Their planes are transposed and a word may hold codes of several
 * groups or rows: convert writes codes of a row side by side into scratch, and one thread to a word
 * gathers them.
 */
#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/units.cuh"

namespace
{

enum { GROUP, WRITER, SYM };
enum { AUTOGPTQ, GPTQMODEL, GPTQMODEL_V2 };

/* Of a float that should be a small integer; NaN and inf are 0. */
__device__ __forceinline__ uint32_t integer_of(float x)
{
    return x >= 0 && x < 0x1p31f ? (uint32_t)x : 0;
}

struct grid {
    float scale, zero;
};

/* --- gptq: see schemes/gptq_awq.c ------------------------------------------------------------- */

struct gptq {
    enum qg_dtype t;
    bool sym, clamps; // clamps: the packer, all but AutoGPTQ's

    __device__ struct grid grid_of(struct qg_least_most m) const
    {
        float min = qg_min(0.0f, m.min), max = qg_max(0.0f, m.max);
        if (sym)
            max = qg_max(qg_abs(min), max);
        if (sym && min < 0)
            min = -max;
        if (min == 0 && max == 0) {
            min = -1.0f;
            max = 1.0f;
        }
        const float scale = qg_div(qg_sub(max, min), 15.0f);
        return {scale, sym ? 8.0f : qg_rint(qg_div(-min, scale))};
    }
    __device__ float value(struct grid g, float x) const
    {
        if (g.scale == 0) {
            g.scale = 0x1p-126f;
            g.zero = g.zero - g.zero == 0 ? g.zero : 0.0f;
        }
        const float q = qg_clamp(qg_add(qg_rint(qg_div(x, g.scale)), g.zero), 0.0f, 15.0f);
        return qg_mul(g.scale, qg_sub(q, g.zero));
    }
    __device__ uint32_t code(struct grid g, float x) const
    {
        const float stored = clamps ? g.scale : qg_round_float(QG_F16, g.scale);
        const float weight = qg_round_float(t, value(g, x));
        const float q = qg_rint(qg_div(qg_add(weight, qg_mul(g.zero, g.scale)), stored));
        return integer_of(clamps ? qg_clamp(q, 0.0f, 15.0f) : q);
    }
    __device__ uint32_t zero_bits(struct grid g) const
    {
        return integer_of(g.zero) - (clamps ? 0u : 1u);
    }
    /* Where row `row` of eight lies in a word of zero points. */
    __device__ unsigned shift(size_t row) const
    {
        return (unsigned)(row % 8) * 4;
    }
};

struct gptq gptq_of(const struct qg_args *a)
{
    return {a->dtype, a->param[SYM] != 0, a->param[WRITER] > 0};
}

/* --- awq -------------------------------------------------------------------------------------- */

/* All in dtype t, that of x or binary16. */
struct awq {
    enum qg_dtype t;

    __device__ float round(float x) const
    {
        return qg_round_float(t, x);
    }
    /* Rounding keeps the order of numbers: the ends of what is rounded are the rounded ends. */
    __device__ struct grid grid_of(struct qg_least_most m) const
    {
        const float min = round(m.min), range = round(qg_sub(round(m.max), min));
        const float scale = round(qg_div(qg_max(range, round(1e-5f)), 15.0f));
        return {scale, qg_clamp(-qg_rint(round(qg_div(min, scale))), 0.0f, 15.0f)};
    }
    /* s (q - z), not rounded. */
    __device__ float value(struct grid g, float x) const
    {
        const float u = qg_rint(round(qg_div(round(x), g.scale)));
        const float q = qg_clamp(round(qg_add(u, g.zero)), 0.0f, 15.0f);
        return qg_mul(qg_sub(q, g.zero), g.scale);
    }
    __device__ uint32_t code(struct grid g, float x) const
    {
        const float raised = round(qg_add(round(value(g, x)), round(qg_mul(g.zero, g.scale))));
        return integer_of(qg_rint(round(qg_div(raised, g.scale))));
    }
    __device__ uint32_t zero_bits(struct grid g) const
    {
        return integer_of(g.zero);
    }
    __device__ unsigned shift(size_t row) const
    {
        return (unsigned)(row % 8 / 2 + row % 2 * 4) * 4;
    }
};

/* --- prepare and convert ---------------------------------------------------------------------- */

template <class S> struct prepare {
    struct qg_tensor x, y;
    S scheme;
    typedef struct qg_least_most measure;

    __device__ struct grid make(struct qg_unit, measure m) const
    {
        return scheme.grid_of(m);
    }
    __device__ void put(struct qg_unit, struct grid) const
    {
    }
    __device__ void piece(struct qg_unit, struct grid g, size_t at, size_t n,
                          const struct qg_piece *p) const
    {
        struct qg_piece w;
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++)
            w.v[i] = scheme.value(g, p->v[i]);
        qg_store_piece(&y, at, n, &w);
    }
};

template <class S> void run_prepare(const struct qg_args *a, const S &scheme)
{
    qg_quantize(prepare<S>{a->in[0], a->out[0], scheme}, {a->rows, a->cols, qg_group(a)});
}

template <class S> struct storing {
    struct qg_tensor x, scales;
    S scheme;
    uint32_t *codes, *zeros;
    size_t rows;
    typedef struct qg_least_most measure;

    __device__ struct grid make(struct qg_unit, measure m) const
    {
        return scheme.grid_of(m);
    }
    /* Eight rows share a word of zero points, whose bits may run into one another. */
    __device__ void put(struct qg_unit u, struct grid g) const
    {
        qg_put_float(&scales, u.of_row * rows + u.row, g.scale);
        atomicOr(&zeros[u.of_row * (rows / 8) + u.row / 8], scheme.zero_bits(g)
                                                                << scheme.shift(u.row));
    }
    __device__ void piece(struct qg_unit, struct grid g, size_t at, size_t n,
                          const struct qg_piece *p) const
    {
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++)
            if (i < n)
                codes[at + i] = scheme.code(g, p->v[i]);
    }
};

/* Codes to scratch, all else where it belongs. */
template <class S> void run_storing(const struct qg_args *a, const S &scheme)
{
    const struct storing<S> q = {
        a->in[0], a->out[2], scheme, (uint32_t *)a->work, (uint32_t *)a->out[1].data, a->rows
    };
    qg_clear(&a->out[1]);
    qg_quantize(q, {a->rows, a->cols, qg_group(a)});
}

/* Eight codes of a row to a word [K/8, N]; thread by thread along N. */
struct gptq_packing {
    const uint32_t *codes;
    uint32_t *words;
    size_t rows, cols;

    __device__ void piece(size_t line, size_t at, size_t n) const
    {
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++) {
            const uint32_t *from = codes + (at + i) * cols + line * 8;
            uint32_t word = 0;
            for (unsigned j = 0; i < n && j < 8; j++)
                word |= from[j] << 4 * j;
            if (i < n)
                words[line * rows + at + i] = word;
        }
    }
};

/* The zero points less one in every nibble, with borrow; the group of each column. */
struct gptq_finishing {
    uint32_t *zeros;
    int32_t *g_idx;
    size_t zero_words, cols, group;
    bool borrows;

    __device__ void piece(size_t, size_t at, size_t n) const
    {
        for (size_t i = at; i < at + n; i++) {
            if (i < cols)
                g_idx[i] = (int32_t)(i / group);
            if (borrows && i < zero_words)
                zeros[i] -= 0x11111111u;
        }
    }
};

void gptq_fake_quant(const struct qg_args *a)
{
    run_prepare(a, gptq_of(a));
}

void gptq_convert(const struct qg_args *a)
{
    const size_t zero_words = qg_count(&a->out[1]);
    const struct gptq_finishing f = {(uint32_t *)a->out[1].data,
                                     (int32_t *)a->out[3].data,
                                     zero_words,
                                     a->cols,
                                     qg_group(a),
                                     a->param[WRITER] == (double)GPTQMODEL};
    run_storing(a, gptq_of(a));
    qg_pieces(gptq_packing{(const uint32_t *)a->work, (uint32_t *)a->out[0].data, a->rows, a->cols},
              a->cols / 8, a->rows);
    qg_pieces(f, 1, zero_words > a->cols ? zero_words : a->cols);
}

/* A column's codes of eight rows to a word [K, N/8]: a piece is of one word's rows. */
struct awq_packing {
    const uint32_t *codes;
    uint32_t *words;
    struct awq scheme;
    size_t rows, cols;

    __device__ void piece(size_t eight, size_t at, size_t n) const
    {
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++) {
            uint32_t word = 0;
            for (unsigned j = 0; i < n && j < 8; j++)
                word |= codes[(eight * 8 + j) * cols + at + i] << scheme.shift(j);
            if (i < n)
                words[(at + i) * (rows / 8) + eight] = word;
        }
    }
};

void awq_fake_quant(const struct qg_args *a)
{
    run_prepare(a, awq{a->dtype});
}

void awq_convert(const struct qg_args *a)
{
    const struct awq scheme = {QG_F16};
    run_storing(a, scheme);
    qg_pieces(awq_packing{(const uint32_t *)a->work, (uint32_t *)a->out[0].data, scheme, a->rows,
                          a->cols},
              a->rows / 8, a->cols);
}

/* --- dequant and matmul ----------------------------------------------------------------------- */

/* R16(R16(s) (q - z)), NaN where g_idx names no group, then R. */
struct gptq_numbers {
    struct qg_tensor scales;
    const uint32_t *codes, *zeros, *g_idx;
    enum qg_dtype dtype;
    size_t rows, groups;
    uint32_t borrowed, added; // to a word of zero points, then to one of them

    __device__ struct grid grid_at(size_t row, size_t group) const
    {
        if (group >= groups)
            return {NAN, 0};
        const uint32_t word = zeros[group * (rows / 8) + row / 8] + borrowed;
        const uint32_t zero = (word >> row % 8 * 4 & 15u) + added;
        return {qg_get_float(&scales, group * rows + row), (float)(zero & 15u)};
    }
    __device__ struct qg_piece weights(size_t row, size_t at, size_t n) const
    {
        const uint32_t word = codes[at / 8 * rows + row]; // K is a multiple of 32
        struct grid g = {0, 0};
        uint32_t known = 0;
        struct qg_piece w;
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++) {
            const uint32_t group = i < n ? g_idx[at + i] : known;
            if (i == 0 || group != known)
                g = grid_at(row, known = group);
            const float away = qg_sub((float)(word >> 4 * i & 15u), g.zero);
            const float half = qg_round_float(QG_F16, qg_mul(g.scale, away));
            w.v[i] = i < n ? qg_round_float(dtype, half) : 0.0f;
        }
        return w;
    }
};

struct gptq_numbers gptq_numbers_of(const struct qg_args *a, const struct qg_tensor *planes)
{
    const int writer = (int)a->param[WRITER];
    return {planes[2],
            (const uint32_t *)planes[0].data,
            (const uint32_t *)planes[1].data,
            (const uint32_t *)planes[3].data,
            a->dtype,
            a->rows,
            planes[2].shape[0],
            writer == GPTQMODEL ? 0x11111111u : 0u,
            writer == AUTOGPTQ ? 1u : 0u};
}

void gptq_dequant(const struct qg_args *a)
{
    qg_unpack(gptq_numbers_of(a, a->in), a);
}

struct qg_plain_product<struct gptq_numbers> gptq_product_of(const struct qg_args *a) {
    return {gptq_numbers_of(a, a->in + 1), a->in[0], a->out[0], a->cols};
}

/* R16(s (q - z)). */
struct awq_numbers {
    struct qg_tensor scales;
    const uint32_t *codes, *zeros;
    size_t rows, group;

    __device__ struct qg_piece weights(size_t row, size_t at, size_t n) const
    {
        const struct awq scheme = {QG_F16};
        const size_t wide = rows / 8, eight = row / 8;
        const unsigned shift = scheme.shift(row);
        struct qg_cursor c = qg_cursor_at(at, group);
        float s = 0, zero = 0;
        struct qg_piece w;
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++) {
            if (i == 0 || (i < n && qg_cursor_next(&c))) {
                s = qg_get_float(&scales, c.group * rows + row);
                zero = (float)(zeros[c.group * wide + eight] >> shift & 15u);
            }
            const uint32_t q = i < n ? codes[(at + i) * wide + eight] >> shift & 15u : 0;
            w.v[i] = i < n ? scheme.round(qg_mul(qg_sub((float)q, zero), s)) : 0.0f;
        }
        return w;
    }
};

struct awq_numbers awq_numbers_of(const struct qg_args *a, const struct qg_tensor *planes)
{
    return {planes[2], (const uint32_t *)planes[0].data, (const uint32_t *)planes[1].data, a->rows,
            qg_group(a)};
}

void awq_dequant(const struct qg_args *a)
{
    qg_unpack(awq_numbers_of(a, a->in), a);
}

/* One of binary16, whatever dtype x has. */
struct awq_product : qg_plain_product<struct awq_numbers> {
    static constexpr bool halves = false, plain = false;

    __device__ struct qg_piece inputs(size_t m, size_t at, size_t n) const
    {
        struct qg_piece p = qg_plain_product::inputs(m, at, n);
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++)
            p.v[i] = qg_round_float(QG_F16, p.v[i]);
        return p;
    }
    __device__ float finish(size_t m, size_t row, float sum) const
    {
        return qg_plain_product::finish(m, row, qg_round_float(QG_F16, sum));
    }
};

struct awq_product awq_product_of(const struct qg_args *a)
{
    return {{awq_numbers_of(a, a->in + 1), a->in[0], a->out[0], a->cols}};
}

} // namespace

extern "C" const struct qg_kernel qg_kernels_gptq_awq_cuda[] = {
    QG_CUDA_ROW("gptq", QG_WEIGHT, QG_FAKE_QUANT, gptq_fake_quant),
    QG_CUDA_ROW("gptq", QG_WEIGHT, QG_CONVERT, gptq_convert),
    QG_CUDA_ROW("gptq", QG_WEIGHT, QG_DEQUANT, gptq_dequant),
    QG_CUDA_ROW("awq", QG_WEIGHT, QG_FAKE_QUANT, awq_fake_quant),
    QG_CUDA_ROW("awq", QG_WEIGHT, QG_CONVERT, awq_convert),
    QG_CUDA_ROW("awq", QG_WEIGHT, QG_DEQUANT, awq_dequant),
    QG_CUDA_PRODUCT("gptq", gptq_product_of),
    QG_CUDA_LORA("gptq", gptq_product_of),
    QG_CUDA_PRODUCT("awq", awq_product_of),
    QG_CUDA_LORA("awq", awq_product_of),
    QG_CUDA_END,
};
