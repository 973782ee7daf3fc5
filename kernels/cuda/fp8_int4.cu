/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of fp8-int4, fp8-int4-plain, fp8-int4-nocast and fp8-int4-old: weights are measured
 * by row, then worked on by group. What a group's numbers are after the row's stage never falls
 * when a magnitude rises, so its largest comes from the largest before, or (0/0) the least.
 */
#include "kernels/cuda/fp8.cuh"
#include "kernels/cuda/intx.cuh"

namespace
{

enum { GROUP, ROW, ROW_EPS, PRODUCT, GRAD, BITS, CAST };

size_t group(const struct qg_args *a)
{
    return (size_t)a->param[GROUP];
}

struct qg_units groups_of(const struct qg_args *a)
{
    return {a->rows, a->cols, group(a)};
}

struct qg_units rows_of(const struct qg_args *a)
{
    return {a->rows, a->cols, a->cols};
}

/* Codes are -half .. half - 1. */
float half_of(const struct qg_args *a)
{
    return (float)(1 << ((int)a->param[BITS] - 1));
}

/* Smallest and largest magnitude; both NaN when an element is. */
struct magnitudes {
    float least, most;
    static __device__ struct magnitudes none(void)
    {
        return {INFINITY, 0.0f};
    }
    static __device__ struct magnitudes join(struct magnitudes a, struct magnitudes b)
    {
        return {qg_min(a.least, b.least), qg_max(a.most, b.most)};
    }
    static __device__ struct magnitudes of(float x)
    {
        return {qg_abs(x), qg_abs(x)};
    }
};

/* Largest magnitudes of rows, for the launch that follows. */
struct measuring {
    struct qg_tensor x;
    float *amax;
    typedef struct qg_amax measure;

    __device__ measure make(struct qg_unit, measure m) const
    {
        return m;
    }
    __device__ void put(struct qg_unit u, measure m) const
    {
        amax[u.row] = m.amax;
    }
    __device__ void piece(struct qg_unit, measure, size_t, size_t, const struct qg_piece *) const
    {
    }
};

/* Of the rows of in[0]; they lie at *at, which moves behind them. */
const float *measure_rows(const struct qg_args *a, float **at)
{
    const struct qg_tensor amax = qg_scratch(QG_F32, a->rows, 1, at);
    qg_quantize(measuring{a->in[0], (float *)amax.data}, rows_of(a));
    return (const float *)amax.data;
}

/* --- prepare --------------------------------------------------------------------------------- */

/* Whether numbers go through e4m3. */
enum casting { NEVER, ALWAYS, ASKED };

bool casts(const struct qg_args *a, enum casting c)
{
    return c == ASKED ? a->param[CAST] == 0 : c == ALWAYS;
}

struct qg_fp8_range range_of(const struct qg_args *a, enum casting c)
{
    return {a->dtype, a->operand == QG_WEIGHT ? qg_round(a->dtype, 1e-12f) : 0.0f, casts(a, c)};
}

template <enum casting cast> void fake_activation(const struct qg_args *a)
{
    qg_quantize(qg_fp8_fake{a->in[0], a->out[0], range_of(a, cast)}, rows_of(a));
}

/* A group of weights through the e4m3 of its row, w8, and into codes of its own. */
struct grid {
    float row_scale, amax, scale, inverse;
    bool by_amax; // not by the lower bound
};

struct stages {
    struct qg_fp8_range range;
    const float *row_amax;
    float half;

    __device__ float round(float x) const
    {
        return qg_round_float(range.dtype, x);
    }
    __device__ float w8(float x, float row_scale) const
    {
        return round(qg_mul(range.code(x, row_scale), row_scale));
    }
    __device__ struct grid grid_of(size_t row, struct magnitudes m) const
    {
        const float s = range.scale(row_amax[row]), eps = round(1e-6f);
        const float amax = qg_max(w8(m.most, s), w8(m.least, s));
        const float step = round(qg_div(amax, half)), scale = qg_max(step, eps);
        return {s, amax, scale, round(qg_div(1.0f, scale)), step >= eps};
    }
    /* The code before it is clamped; -0 becomes 0. */
    __device__ float code(struct grid r, float w) const
    {
        return qg_add(qg_rint(round(qg_mul(w, r.inverse))), 0.0f);
    }
    __device__ float clamp(float code) const
    {
        return qg_clamp(code, -half, half - 1.0f);
    }
};

struct prepare {
    struct qg_tensor x, y;
    struct stages by;
    typedef struct magnitudes measure;

    __device__ struct grid make(struct qg_unit u, measure m) const
    {
        return by.grid_of(u.row, m);
    }
    __device__ void put(struct qg_unit, struct grid) const
    {
    }
    __device__ void piece(struct qg_unit, struct grid r, size_t at, size_t n,
                          const struct qg_piece *p) const
    {
        struct qg_piece w;
#pragma unroll
        for (int i = 0; i < QG_PIECE; i++)
            w.v[i] = qg_mul(by.clamp(by.code(r, by.w8(p->v[i], r.row_scale))), r.scale);
        qg_store_piece(&y, at, n, &w);
    }
};

template <enum casting cast> void fake_weight(const struct qg_args *a)
{
    float *at = a->work;
    const struct stages by = {range_of(a, cast), measure_rows(a, &at), half_of(a)};
    qg_quantize(prepare{a->in[0], a->out[0], by}, groups_of(a));
}

/* --- the gradient of prepare ----------------------------------------------------------------- */

struct qg_fp8_gradient row_gradient(const struct qg_args *a, const struct qg_tensor &g,
                                    enum casting c)
{
    const bool cast_back = casts(a, c) && a->param[GRAD] == 0; // torch, not ideal
    return {a->in[0], g, a->out[0], range_of(a, c), cast_back};
}

template <enum casting cast> void grad_activation(const struct qg_args *a)
{
    qg_differentiate(row_gradient(a, a->in[1], cast), rows_of(a));
}

/* From dL/dy to y = dL/dw8, which is the row's dL/dy. See grad_group in schemes/fp8_int4.c. */
struct group_gradient {
    struct qg_tensor x, g, y;
    struct stages by;
    typedef struct magnitudes measure;

    enum { BY_PRODUCT, BY_INVERSE, TIES, COUNT };
    typedef struct qg_sums<COUNT> sums;
    struct back {
        struct grid grid;
        float share; // of an extreme
    };

    __device__ struct grid make(struct qg_unit u, measure m) const
    {
        return by.grid_of(u.row, m);
    }
    __device__ float behind(struct grid r, float w8, float g) const
    {
        const float code = by.code(r, w8);
        return code == by.clamp(code) ? by.round(qg_mul(g, r.scale)) : 0.0f;
    }
    __device__ void add(struct grid r, sums *s, float x, float g) const
    {
        const float w8 = by.w8(x, r.row_scale);
        s->of[BY_PRODUCT] += by.round(qg_mul(g, by.clamp(by.code(r, w8))));
        s->of[BY_INVERSE] += by.round(qg_mul(behind(r, w8, g), w8));
        s->of[TIES] += qg_abs(w8) == r.amax;
    }
    __device__ struct back finish(struct grid r, sums s) const
    {
        const float product = by.round((float)s.of[BY_PRODUCT]),
                    inverse = by.round((float)s.of[BY_INVERSE]);
        const float through = by.round(qg_mul(-inverse, by.round(qg_mul(r.inverse, r.inverse))));
        const float ds = r.by_amax ? by.round(qg_add(product, through)) : 0.0f;
        const float ties = by.round((float)s.of[TIES]);
        return {r, by.round(qg_div(by.round(qg_div(ds, by.half)), ties))};
    }
    __device__ void piece(struct back b, size_t at, size_t n, const struct qg_piece *x,
                          const struct qg_piece *g) const
    {
        struct qg_piece h;
#pragma unroll
        for (int i = 0; i < QG_PIECE; i++) {
            const float w8 = by.w8(x->v[i], b.grid.row_scale);
            const float through = by.round(qg_mul(behind(b.grid, w8, g->v[i]), b.grid.inverse));
            h.v[i] = by.round(qg_add(through, qg_part_of(b.share, w8, b.grid.amax)));
        }
        qg_store_piece(&y, at, n, &h);
    }
};

template <enum casting cast> void grad_weight(const struct qg_args *a)
{
    float *at = a->work;
    const struct stages by = {range_of(a, cast), measure_rows(a, &at), half_of(a)};
    const struct qg_tensor h = qg_scratch(QG_F32, a->rows, a->cols, &at);
    qg_differentiate(group_gradient{a->in[0], a->in[1], h, by}, groups_of(a));
    qg_differentiate(row_gradient(a, h, cast), rows_of(a));
}

/* --- convert --------------------------------------------------------------------------------- */

struct qg_fp8_quantizer quantizer_of(const struct qg_args *a)
{
    static const enum qg_fp8_kind kinds[] = {QG_BY_FBGEMM, QG_BY_FBGEMM_CPU, QG_BY_MSLK};
    return {kinds[(int)a->param[ROW]], a->dtype, (float)a->param[ROW_EPS]};
}

void convert_activation(const struct qg_args *a)
{
    qg_quantize(qg_fp8_storing{a->in[0], a->out[0], (float *)a->out[1].data, 1, quantizer_of(a)},
                rows_of(a));
}

void dequant_activation(const struct qg_args *a)
{
    qg_fp8_dequant(a, 1, a->cols);
}

/* What codes are made of: weights, or where there is a scale per row the e4m3 codes that they have
 * with it. */
struct coding {
    struct qg_fp8_factor row;
    bool plain;
    float scale; // of the group

    __device__ float number(float w) const
    {
        return plain ? w : qg_e4m3_decode(row.code(w));
    }
};

struct storing {
    struct qg_tensor x, scales;
    float *row_scales;     // NULL: plain
    const float *row_amax; // NULL: plain
    struct qg_fp8_quantizer by;
    struct qg_nibble_writer codes;
    float half;
    typedef struct magnitudes measure;

    __device__ struct coding make(struct qg_unit u, measure m) const
    {
        struct coding c = {{}, !row_amax, 0};
        if (row_amax)
            c.row = by.of(row_amax[u.row]);
        const float amax = qg_max(c.number(m.most), c.number(m.least));
        c.scale = qg_div(qg_max(amax, 1e-6f), half);
        return c;
    }
    __device__ void put(struct qg_unit u, struct coding c) const
    {
        qg_put(&scales, u.of_row * scales.shape[1] + u.row, c.scale);
        if (row_scales && u.of_row == 0)
            row_scales[u.row] = c.row.scale;
    }
    __device__ void piece(struct qg_unit, struct coding c, size_t at, size_t n,
                          const struct qg_piece *p) const
    {
        struct qg_codes q;
        for (int i = 0; i < QG_PIECE; i++) {
            const float u = qg_rint(qg_div(c.number(p->v[i]), c.scale));
            const float code = qg_clamp(u, -half, half - 1.0f);
            q.c[i] = (uint8_t)(code == code ? (int)code : 0);
        }
        codes.put(at, n, &q);
    }
};

void convert_weight(const struct qg_args *a)
{
    float *at = a->work;
    const float *row_amax = measure_rows(a, &at);
    const struct qg_nibble_writer codes = qg_nibbles_of(a, group(a), at);
    qg_quantize(storing{a->in[0], a->out[1], (float *)a->out[2].data, row_amax, quantizer_of(a),
                        codes, half_of(a)},
                groups_of(a));
    qg_finish_nibbles(a, codes);
}

void convert_plain(const struct qg_args *a)
{
    const struct qg_nibble_writer codes = qg_nibbles_of(a, group(a), a->work);
    qg_quantize(storing{a->in[0], a->out[1], NULL, NULL, {}, codes, half_of(a)}, groups_of(a));
    qg_finish_nibbles(a, codes);
}

/* --- dequant and matmul ---------------------------------------------------------------------- */

/* The numbers that the kernels multiply with. */
struct stored {
    const uint8_t *codes;
    struct qg_tensor scales;
    const float *row_scales; // NULL: plain
    size_t rows, cols, group;
    bool exact;

    __device__ float number(float q, float s) const
    {
        if (!row_scales) {
            const float v = qg_round_float(scales.dtype, qg_mul(q, s));
            return exact ? v : qg_e4m3_nearest(v);
        }
        const float product = qg_mul(qg_abs(q), s), v = exact ? product : qg_e4m3_nearest(product);
        return q > 0 ? v : -v; // 0 is -0
    }
    __device__ float scale_of(size_t i) const
    {
        return row_scales ? qg_e4m3_decode(((const qg_e4m3 *)scales.data)[i])
                          : qg_get_float(&scales, i);
    }
    __device__ struct qg_piece weights(size_t row, size_t at, size_t n) const
    {
        const struct qg_codes q = qg_load_nibbles(codes + row * (cols / 2), at, n);
        struct qg_piece w;
        struct qg_cursor c = qg_cursor_at(at, group);
        float s = 0;
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++) {
            if (i == 0 || (i < n && qg_cursor_next(&c)))
                s = scale_of(c.group * rows + row);
            w.v[i] = i < n ? number((float)((q.c[i] ^ 8) - 8), s) : 0.0f;
        }
        return w;
    }
    __device__ float row_scale(size_t row) const
    {
        return row_scales ? row_scales[row] : 1.0f;
    }
};

struct stored stored_of(const struct qg_args *a, const struct qg_tensor *planes, bool plain)
{
    return {(const uint8_t *)planes[0].data,
            planes[1],
            plain ? NULL : (const float *)planes[2].data,
            a->rows,
            a->cols,
            group(a),
            a->param[PRODUCT] == 1};
}

/* With the row's scale. */
struct scaled {
    struct stored w;

    __device__ struct qg_piece weights(size_t row, size_t at, size_t n) const
    {
        struct qg_piece p = w.weights(row, at, n);
        for (int i = 0; i < QG_PIECE; i++)
            p.v[i] = qg_mul(p.v[i], w.row_scale(row));
        return p;
    }
};

template <bool plain> void dequant_weight(const struct qg_args *a)
{
    qg_unpack(scaled{stored_of(a, a->in, plain)}, a);
}

/* Behind the sum first the scale of x, then that of the weight's row. */
struct product {
    struct stored w;
    struct qg_tensor x, y;
    const float *x_scales;

    __device__ struct qg_piece weights(size_t row, size_t at, size_t n) const
    {
        return w.weights(row, at, n);
    }
    __device__ struct qg_piece inputs(size_t m, size_t at, size_t n) const
    {
        return qg_load_piece(&x, m * w.cols + at, n);
    }
    __device__ float finish(size_t m, size_t row, float sum) const
    {
        return qg_mul(w.row_scale(row), qg_mul(x_scales[m], sum));
    }
};

template <bool plain> void matmul(const struct qg_args *a)
{
    const struct qg_fp8_storing x = qg_fp8_inputs(a, quantizer_of(a));
    qg_quantize(x, {a->m, a->cols, a->cols});
    qg_multiply(product{stored_of(a, a->in + 1, plain), x.y, a->out[0], x.scales}, a);
}

/* --- the same by cuBLASLt --------------------------------------------------------------------- */

template <bool plain> void matmul_two_step(const struct qg_args *a)
{
    float *at = a->work, *scales = (float *)qg_scratch(QG_F32, 1, a->m, &at).data;
    const struct qg_fp8_storing x = {a->in[0], qg_scratch(QG_F32, a->m, a->cols, &at), scales, 1,
                                     quantizer_of(a)};
    qg_quantize(x, {a->m, a->cols, a->cols});
    qg_multiply_cublas(qg_with_x<product>{{stored_of(a, a->in + 1, plain), x.y, a->out[0], scales}},
                       a, at);
}

/* Weights that are numbers of e4m3, as such; rows and columns that w lacks are 0, and the scale of
 * a row that has none is 1. */
struct to_e4m3 {
    struct stored w;
    uint8_t *codes;
    float *scales;
    size_t cols; // of codes

    __device__ void piece(size_t row, size_t at, size_t n) const
    {
        struct qg_codes q = {};
        const bool there = row < w.rows && at < w.cols;
        if (there) {
            const struct qg_piece p = w.weights(row, at, qg_least(w.cols - at, n));
            for (int i = 0; i < QG_PIECE; i++)
                q.c[i] = qg_e4m3_encode(p.v[i]).v;
        }
        qg_store_bytes(codes, row * cols + at, n, &q);
        if (at == 0)
            scales[row] = there ? w.row_scale(row) : 0.0f;
    }
};

template <bool plain> void matmul_e4m3(const struct qg_args *a)
{
    float *at = a->work;
    const struct qg_fp8_storing q = qg_fp8_input_codes(a, quantizer_of(a), a->m, &at);
    qg_quantize(q, {a->m, a->cols, a->cols});
    const size_t rows = qg_round_up(a->rows, QG_NARROW), cols = qg_round_up(a->cols, QG_NARROW);
    const struct qg_tensor codes = qg_scratch(QG_E4M3, rows, cols, &at),
                           scales = qg_scratch(QG_F32, rows, 1, &at);
    qg_pieces(
        to_e4m3{stored_of(a, a->in + 1, plain), (uint8_t *)codes.data, (float *)scales.data, cols},
        rows, cols);
    const struct qg_factor of_w = {codes, QG_SCALE_ROWS, scales.data},
                           of_x = {qg_narrow_codes(q.y, 1, &at), QG_SCALE_ROWS, q.scales};
    qg_multiply_scaled(a, of_x, of_w, at);
}

bool takes_e4m3(const struct qg_args *a, char *text, size_t size)
{
    if (a && a->param[PRODUCT] == 1) {
        snprintf(text, size, "with product=exact weights are no numbers of e4m3");
        return false;
    }
    return qg_cublas_has_float_scales(text, size);
}

/* --- the rows -------------------------------------------------------------------------------- */

#define ACTIVATION(s, cast)                                              \
    QG_CUDA_ROW(s, QG_ACTIVATION, QG_FAKE_QUANT, fake_activation<cast>), \
        QG_CUDA_GRADIENT(s, QG_ACTIVATION, grad_activation<cast>),       \
        QG_CUDA_ROW(s, QG_ACTIVATION, QG_CONVERT, convert_activation),   \
        QG_CUDA_ROW(s, QG_ACTIVATION, QG_DEQUANT, dequant_activation)
#define PREPARE(s, cast)                                         \
    QG_CUDA_ROW(s, QG_WEIGHT, QG_FAKE_QUANT, fake_weight<cast>), \
        QG_CUDA_GRADIENT(s, QG_WEIGHT, grad_weight<cast>)
#define CONVERT(s, convert, plain)                                                                \
    QG_CUDA_ROW(s, QG_WEIGHT, QG_CONVERT, convert),                                               \
        QG_CUDA_ROW(s, QG_WEIGHT, QG_DEQUANT, dequant_weight<plain>),                             \
        QG_CUDA_MATMUL(s, matmul<plain>),                                                         \
        QG_DEVICE_ROW(s, QG_WEIGHT, QG_MATMUL, "cublas", QG_WITHIN_BOUND, QG_FUSES | QG_REORDERS, \
                      NULL, matmul_two_step<plain>),                                              \
        QG_NARROW_FLOATS(s, "e4m3", matmul_e4m3<plain>, takes_e4m3)

} // namespace

extern "C" const struct qg_kernel qg_kernels_fp8_int4_cuda[] = {
    PREPARE("fp8-int4", ALWAYS),
    ACTIVATION("fp8-int4", ALWAYS),
    CONVERT("fp8-int4", convert_weight, false),
    PREPARE("fp8-int4-plain", ASKED),
    ACTIVATION("fp8-int4-plain", ASKED),
    CONVERT("fp8-int4-plain", convert_plain, true),
    PREPARE("fp8-int4-nocast", NEVER),
    ACTIVATION("fp8-int4-nocast", NEVER),
    CONVERT("fp8-int4-nocast", convert_weight, false),
    QG_CUDA_ROW("fp8-int4-old", QG_WEIGHT, QG_FAKE_QUANT, qg_old_int4_fake_quant_cuda),
    QG_CUDA_ROW("fp8-int4-old", QG_WEIGHT, QG_FAKE_QUANT_GRAD, qg_old_int4_fake_quant_grad_cuda),
    ACTIVATION("fp8-int4-old", NEVER),
    CONVERT("fp8-int4-old", convert_weight, false),
    QG_CUDA_END,
};
