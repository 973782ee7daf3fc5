/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of int4-tinygemm: a team of threads to a group. Codes go through bytes of scratch,
 * for a word of the tiles holds columns of four pieces.
 */
#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/units.cuh"

namespace
{

enum { GROUP, EPS, DEQUANT };
enum { CUDA, TORCHAO, CPU };
enum { TILE_ROWS = 8, TILE_COLS = 128, PAD_COLS = 1024, TILE_THREADS = 32 };

__device__ __forceinline__ float bf(float x)
{
    return qg_round(QG_BF16, x);
}

/* Groups of a row, and the sides of the padded matrix. */
struct layout {
    size_t rows, cols, group;
    size_t padded_rows, col_tiles;

    size_t padded_groups(void) const
    {
        return col_tiles * TILE_COLS / group;
    }
    /* Of a pair of scale and zero. */
    __device__ size_t pair(size_t of_row, size_t row) const
    {
        return 2 * (of_row * padded_rows + row);
    }
};

struct layout layout_of(const struct qg_args *a)
{
    return {a->rows, a->cols, (size_t)a->param[GROUP], qg_ceil_div(a->rows, TILE_ROWS) * TILE_ROWS,
            qg_ceil_div(a->cols, PAD_COLS) * PAD_COLS / TILE_COLS};
}

struct qg_units groups_of(const struct qg_args *a)
{
    return {a->rows, a->cols, (size_t)a->param[GROUP]};
}

/* --- codes and scales ------------------------------------------------------------------------ */

/* See schemes/tinygemm.c; min is R(z - R(8 s)). */
struct grid {
    float scale, zero, min;

    /* The code before it is clamped. */
    __device__ float count(float w) const
    {
        return qg_rint(bf(qg_div(bf(qg_sub(w, min)), scale)));
    }
    __device__ float code(float w) const
    {
        return qg_clamp(count(w), 0.0f, 15.0f);
    }
};

__device__ struct grid grid_of(struct qg_least_most m, float eps)
{
    const float scale = qg_max(bf(qg_div(bf(qg_sub(m.max, m.min)), 15.0f)), eps);
    const float half = bf(qg_mul(scale, 8.0f)), zero = bf(qg_add(m.min, half));
    return {scale, zero, bf(qg_sub(zero, half))};
}

/* Prepare, or (of dL/dy = g) its gradient: straight through where codes were not clamped. */
struct prepare {
    struct qg_tensor x, g, y;
    float eps;
    bool back;
    typedef struct qg_least_most measure;

    __device__ struct grid make(struct qg_unit, measure m) const
    {
        return grid_of(m, eps);
    }
    __device__ void put(struct qg_unit, struct grid) const
    {
    }
    __device__ void piece(struct qg_unit, struct grid r, size_t at, size_t n,
                          const struct qg_piece *p) const
    {
        struct qg_piece w = qg_load_piece(&g, at, back ? n : 0);
        for (int i = 0; i < QG_PIECE; i++) {
            const float q = r.count(p->v[i]);
            const bool inside = q >= 0.0f && q <= 15.0f;
            if (back)
                w.v[i] = qg_div(inside ? bf(qg_mul(w.v[i], r.scale)) : 0.0f, r.scale);
            else
                w.v[i] = qg_add(bf(qg_mul(qg_sub(r.code(p->v[i]), 8.0f), r.scale)), r.zero);
        }
        qg_store_piece(&y, at, n, &w);
    }
};

void prepared(const struct qg_args *a, bool back)
{
    const float eps = qg_round(QG_BF16, 1e-6f);
    qg_quantize(prepare{a->in[0], a->in[back], a->out[0], eps, back}, groups_of(a));
}

void fake_quant(const struct qg_args *a)
{
    prepared(a, false);
}

void fake_quant_grad(const struct qg_args *a)
{
    prepared(a, true);
}

/* --- convert --------------------------------------------------------------------------------- */

struct storing {
    struct qg_tensor x, pairs;
    uint8_t *bytes;
    struct layout to;
    float eps;
    typedef struct qg_least_most measure;

    __device__ struct grid make(struct qg_unit, measure m) const
    {
        return grid_of(m, eps);
    }
    __device__ void put(struct qg_unit u, struct grid r) const
    {
        qg_put_float(&pairs, to.pair(u.of_row, u.row), r.scale);
        qg_put_float(&pairs, to.pair(u.of_row, u.row) + 1, r.zero);
    }
    __device__ void piece(struct qg_unit, struct grid r, size_t at, size_t n,
                          const struct qg_piece *p) const
    {
        struct qg_codes q;
        for (int i = 0; i < QG_PIECE; i++) {
            const float code = r.code(p->v[i]);
            q.c[i] = (uint8_t)(code == code ? (int)code : 0);
        }
        qg_store_bytes(bytes, at, n, &q);
    }
};

/* Scales and zeros of groups of zeros, which is what the padding is: of rows at .. at+n. */
struct padding {
    struct qg_tensor pairs;
    struct layout to;
    float eps;

    __device__ void piece(size_t of_row, size_t at, size_t n) const
    {
        const struct grid r = grid_of({0.0f, 0.0f}, eps);
        for (unsigned i = 0; i < QG_PIECE; i++) {
            if (i >= n || (at + i < to.rows && of_row * to.group < to.cols))
                continue;
            qg_put_float(&pairs, to.pair(of_row, at + i), r.scale);
            qg_put_float(&pairs, to.pair(of_row, at + i) + 1, r.zero);
        }
    }
};

/* The four words of a thread of tinygemm from bytes [rows, cols]; codes of the padding are 0. */
__global__ void __launch_bounds__(QG_BLOCK)
    pack_tiles(const uint8_t *const bytes, uint4 *const words, const struct layout to)
{
    const size_t tile = qg_thread() / TILE_THREADS, thread = qg_thread() % TILE_THREADS,
                 row = tile / to.col_tiles * TILE_ROWS + thread / 4,
                 first = tile % to.col_tiles * TILE_COLS + 2 * (thread % 4);
    uint32_t w[4] = {0};
    if (row >= to.padded_rows)
        return;
    for (unsigned j = 0; j < 4; j++)
        for (unsigned k = 0; k < 4; k++) {
            const size_t col = first + 32 * j + 8 * k;
            if (row < to.rows && col < to.cols) {
                const uint32_t two = *(const uint16_t *)(bytes + row * to.cols + col);
                w[j] |= ((two & 15u) | (two >> 8 & 15u) << 16) << 4 * k;
            }
        }
    words[qg_thread()] = make_uint4(w[0], w[1], w[2], w[3]);
}

void convert(const struct qg_args *a)
{
    const struct layout to = layout_of(a);
    const float eps =
        a->param[EPS] > 0 ? qg_round(QG_BF16, (float)a->param[EPS]) : qg_smallest_normal(QG_BF16);
    uint8_t *bytes = (uint8_t *)a->work;
    qg_quantize(storing{a->in[0], a->out[1], bytes, to, eps}, groups_of(a));
    qg_pieces(padding{a->out[1], to, eps}, to.padded_groups(), to.padded_rows);
    qg_launch(pack_tiles, to.padded_rows / TILE_ROWS * to.col_tiles * TILE_THREADS, bytes,
              (uint4 *)a->out[0].data, to);
}

/* --- dequant and matmul ---------------------------------------------------------------------- */

struct stored {
    const uint32_t *words;
    struct qg_tensor pairs;
    struct layout from;
    int by;

    __device__ float weight(float q, float s, float z) const
    {
        if (by == TORCHAO)
            return bf(qg_add(bf(qg_mul(q, s)), z));
        return by == CPU ? qg_fma(q, s, z) : bf(qg_fma_odd(q, s, z));
    }

    /* at is a multiple of eight, which lie in four words. */
    __device__ struct qg_piece weights(size_t row, size_t at, size_t n) const
    {
        const size_t pair = from.pair(at / from.group, row),
                     tile = row / TILE_ROWS * from.col_tiles + at / TILE_COLS,
                     word = (tile * TILE_THREADS + row % TILE_ROWS * 4) * 4 + at % TILE_COLS / 32;
        const float s = qg_get_float(&pairs, pair), z = qg_get_float(&pairs, pair + 1);
        struct qg_piece w;
        for (unsigned t = 0; t < QG_PIECE / 2; t++) {
            const uint32_t two = words[word + 4 * t] >> at % 32 / 8 * 4;
            w.v[2 * t] = 2 * t < n ? weight((float)(two & 15u) - 8.0f, s, z) : 0.0f;
            w.v[2 * t + 1] = 2 * t + 1 < n ? weight((float)(two >> 16 & 15u) - 8.0f, s, z) : 0.0f;
        }
        return w;
    }
};

struct stored stored_of(const struct qg_args *a, const struct qg_tensor *planes)
{
    return {(const uint32_t *)planes[0].data, planes[1], layout_of(a), (int)a->param[DEQUANT]};
}

void dequant(const struct qg_args *a)
{
    qg_unpack(stored_of(a, a->in), a);
}

struct product : qg_plain_product<struct stored> {
    static constexpr bool plain = false; // x enters as binary32 where weights do
    bool halves;                         // weights are numbers of bf16: not with dequant=cpu
};

struct product product_of(const struct qg_args *a)
{
    return {{stored_of(a, a->in + 1), a->in[0], a->out[0], a->cols}, (int)a->param[DEQUANT] != CPU};
}

} // namespace

extern "C" const struct qg_kernel qg_kernels_tinygemm_cuda[] = {
    QG_CUDA_ROW("int4-tinygemm", QG_WEIGHT, QG_FAKE_QUANT, fake_quant),
    QG_CUDA_ROW("int4-tinygemm", QG_WEIGHT, QG_FAKE_QUANT_GRAD, fake_quant_grad),
    QG_CUDA_ROW("int4-tinygemm", QG_WEIGHT, QG_CONVERT, convert),
    QG_CUDA_ROW("int4-tinygemm", QG_WEIGHT, QG_DEQUANT, dequant),
    QG_CUDA_PRODUCT("int4-tinygemm", product_of),
    QG_CUDA_LORA("int4-tinygemm", product_of),
    QG_CUDA_END,
};
