/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of fp8-block: a tile of 128 x 128 weights stays in a block's registers, 128 elements
 * of a row of activations in those of half a warp.
 */
#include "kernels/cuda/fp8.cuh"

namespace
{

enum { SIDE = 128 };

size_t along(const struct qg_args *a)
{
    return qg_ceil_div(a->cols, SIDE);
}

struct qg_fp8_quantizer quantizer_of(const struct qg_args *a, bool weight)
{
    // Of activations and of weights, in the order of the parameter's words.
    static const enum qg_fp8_kind kinds[][2] = {
        {QG_BY_DEEPSEEK, QG_BY_HF},   {QG_BY_DEEPSEEK, QG_BY_DEEPSEEK},
        {QG_BY_TORCH, QG_BY_TORCH},   {QG_BY_TRAINING, QG_BY_TRAINING},
        {QG_BY_FBGEMM, QG_BY_FBGEMM}, {QG_BY_UNSLOTH, QG_BY_HF},
    };
    return {kinds[(int)a->param[0]][weight], a->dtype, 1e-12f};
}

/* --- convert and dequant --------------------------------------------------------------------- */

struct qg_fp8_storing storing_of(const struct qg_args *a, bool weight)
{
    return {a->in[0], a->out[0], (float *)a->out[1].data, along(a), quantizer_of(a, weight)};
}

/* A block to a tile: sixteen threads to a row of it, sixteen rows at once. */
constexpr unsigned ACROSS = SIDE / unsigned{QG_PIECE}, DOWN = QG_BLOCK / ACROSS, HELD = SIDE / DOWN;

__global__ void QG_BOUNDS convert_tiles(const struct qg_fp8_storing q, const size_t rows,
                                        const size_t cols)
{
    const size_t top = blockIdx.x / q.per_row * SIDE + threadIdx.x / ACROSS,
                 at = blockIdx.x % q.per_row * SIDE + threadIdx.x % ACROSS * QG_PIECE,
                 n = at < cols ? qg_least(cols - at, QG_PIECE) : 0;
    struct qg_piece held[HELD];
    struct qg_amax m = qg_amax::none();
#pragma unroll
    for (unsigned k = 0; k < HELD; k++) {
        const size_t row = top + k * DOWN;
        held[k] = qg_load_piece(&q.x, row * cols + at, row < rows ? n : 0);
        for (unsigned i = 0; i < QG_PIECE; i++) // zeros behind n
            m = qg_amax::join(m, qg_amax::of(held[k].v[i]));
    }
    const struct qg_fp8_factor f = q.by.of(qg_team_join(m, QG_BLOCK).amax);
    if (threadIdx.x == 0)
        q.scales[blockIdx.x] = f.scale;
#pragma unroll
    for (unsigned k = 0; k < HELD; k++) {
        const size_t row = top + k * DOWN;
        if (row < rows && n)
            q.piece({}, f, row * cols + at, n, &held[k]);
    }
}

void convert_weight(const struct qg_args *a)
{
    qg_launch(convert_tiles, qg_ceil_div(a->rows, SIDE) * along(a) * QG_BLOCK, storing_of(a, true),
              a->rows, a->cols);
}

void convert_activation(const struct qg_args *a)
{
    qg_quantize(storing_of(a, false), {a->rows, a->cols, SIDE});
}

void dequant_weight(const struct qg_args *a)
{
    qg_fp8_dequant(a, SIDE, SIDE);
}

void dequant_activation(const struct qg_args *a)
{
    qg_fp8_dequant(a, 1, SIDE);
}

/* --- matmul ---------------------------------------------------------------------------------- */

/* Codes times codes, each piece times the scales of its tiles. */
struct product {
    struct qg_fp8_stored w;
    struct qg_tensor x, y;
    const float *x_scales;

    __device__ struct qg_piece weights(size_t row, size_t at, size_t n) const
    {
        return w.numbers(row, at, n);
    }
    __device__ struct qg_piece inputs(size_t m, size_t at, size_t n) const
    {
        return qg_load_piece(&x, m * w.cols + at, n);
    }
    __device__ double scale(size_t m, size_t row, size_t at) const
    {
        return (double)x_scales[m * qg_ceil_div(w.cols, SIDE) + at / SIDE] * w.scale(row, at);
    }
    __device__ float finish(size_t, size_t, float sum) const
    {
        return sum;
    }
};

void matmul(const struct qg_args *a)
{
    struct qg_fp8_storing x = qg_fp8_inputs(a, quantizer_of(a, false));
    x.per_row = along(a);
    qg_quantize(x, {a->m, a->cols, SIDE});
    qg_multiply(product{qg_fp8_stored_of(a, a->in + 1, SIDE, SIDE), x.y, a->out[0], x.scales}, a);
}

/* --- the same by cuBLASLt --------------------------------------------------------------------- */

/* Scales of x with those of a column of pieces together. */
struct by_columns : qg_fp8_storing {
    size_t rows; // that a column has room for

    __device__ void put(struct qg_unit u, struct qg_fp8_factor f) const
    {
        scales[u.of_row * rows + u.row] = f.scale;
    }
};

/* It wants four rows of x at once, and tiles in rows of four scales. */
void matmul_cublas(const struct qg_args *a)
{
    float *at = a->work;
    const size_t rows = qg_round_up(a->m, 4);
    const struct by_columns q = {
        qg_fp8_input_codes(a, quantizer_of(a, false), rows * along(a), &at), rows};
    if (rows > a->m)
        (void)cudaMemsetAsync(q.scales, 0, rows * along(a) * sizeof(float), qg_cuda_stream());
    qg_quantize(q, {a->m, a->cols, SIDE});
    const struct qg_tensor w_scales =
        qg_widened(a->in[2], a->in[2].shape[0], qg_round_up(along(a), 4), &at);
    const struct qg_factor of_w = {qg_narrow_codes(a->in[1], QG_NARROW, &at), QG_SCALE_TILES,
                                   w_scales.data},
                           of_x = {qg_narrow_codes(q.y, 4, &at), QG_SCALE_PIECES, q.scales};
    qg_multiply_scaled(a, of_x, of_w, at);
}

} // namespace

extern "C" const struct qg_kernel qg_kernels_fp8_block_cuda[] = {
    QG_CUDA_ROW("fp8-block", QG_WEIGHT, QG_CONVERT, convert_weight),
    QG_CUDA_ROW("fp8-block", QG_WEIGHT, QG_DEQUANT, dequant_weight),
    QG_CUDA_ROW("fp8-block", QG_ACTIVATION, QG_CONVERT, convert_activation),
    QG_CUDA_ROW("fp8-block", QG_ACTIVATION, QG_DEQUANT, dequant_activation),
    QG_CUDA_BOUNDED("fp8-block", QG_WEIGHT, QG_MATMUL, QG_FUSES | QG_REORDERS, qg_piece_depth,
                    matmul),
    QG_NARROW_FLOATS("fp8-block", "", matmul_cublas, qg_takes_float_scales),
    QG_CUDA_END,
};
