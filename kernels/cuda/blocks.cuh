/* SPDX-License-Identifier: MIT
 *
 * Formats whose blocks along K have a byte for a scale, row-major or in the tiles of tensor cores:
 * NVFP4, MX. K is a multiple of the block, a block one of 16 or 32 elements, and so a piece lies in
 * one block.
 *
 * How x becomes codes is a rule R, a struct of plain values that is passed to the kernel:
 *
 *     struct grid;                           what a block's largest magnitude makes of it
 *     grid make(qg_amax) const;
 *     uint8_t byte(grid) const;              the scale as it is stored
 *     unsigned code(grid, float x) const;
 *     float value(grid, unsigned code) const;
 *
 * What planes stand for is a decoder D: float step(uint8_t byte) const makes of a block's scale
 * what float value(unsigned code, float step) const needs.
 */
#ifndef QG_BLOCKS_CUH
#define QG_BLOCKS_CUH

#include "kernels/cuda/narrow.cuh"
#include "schemes/blocked.h"

/* Where the bytes of scales lie, and whether codes are nibbles. */
struct qg_block_layout {
    size_t cols, block;
    double layout; /* QG_PLAIN or QG_SWIZZLED */
    bool nibbles;

    __device__ size_t scale_at(size_t row, size_t j) const
    {
        return qg_layout_at(layout, cols / block, row, j);
    }
};

static inline struct qg_block_layout qg_block_layout_of(const struct qg_args *a, double layout)
{
    const struct qg_operand_def *o = &a->scheme->operand[a->operand];
    return {a->cols, o->group(a), layout, o->code_bits == 4};
}

/* --- x to values ----------------------------------------------------------------------------- */

template <class R> struct qg_block_rounding {
    struct qg_tensor x, y;
    R rule;
    typedef struct qg_amax measure;

    __device__ auto make(struct qg_unit, measure m) const
    {
        return rule.make(m);
    }
    __device__ void put(struct qg_unit, typename R::grid) const
    {
    }
    __device__ void piece(struct qg_unit, typename R::grid g, size_t at, size_t n,
                          const struct qg_piece *p) const
    {
        struct qg_piece w;
        for (int i = 0; i < QG_PIECE; i++)
            w.v[i] = rule.value(g, rule.code(g, p->v[i]));
        qg_store_piece(&y, at, n, &w);
    }
};

/* y [rows, cols] becomes what x's codes stand for. */
template <class R>
static void qg_round_blocks(const R &rule, const struct qg_tensor &x, const struct qg_tensor &y,
                            struct qg_units u)
{
    qg_quantize(qg_block_rounding<R>{x, y, rule}, u);
}

/* --- x to planes ----------------------------------------------------------------------------- */

template <class R> struct qg_block_storing {
    struct qg_tensor x;
    uint8_t *codes, *scales;
    struct qg_block_layout layout;
    R rule;
    typedef struct qg_amax measure;

    __device__ auto make(struct qg_unit, measure m) const
    {
        return rule.make(m);
    }
    __device__ void put(struct qg_unit u, typename R::grid g) const
    {
        scales[layout.scale_at(u.row, u.of_row)] = rule.byte(g);
    }
    __device__ void piece(struct qg_unit, typename R::grid g, size_t at, size_t n,
                          const struct qg_piece *p) const
    {
        struct qg_codes q;
        for (int i = 0; i < QG_PIECE; i++)
            q.c[i] = (uint8_t)rule.code(g, p->v[i]);
        if (layout.nibbles)
            qg_store_nibbles(codes, at, n, &q);
        else
            qg_store_bytes(codes, at, n, &q);
    }
};

/* Codes to out[0], scales to out[1]. */
template <class R>
static void qg_convert_blocks(const R &rule, const struct qg_args *a, struct qg_block_layout layout)
{
    qg_clear(&a->out[1]); // what pads the last tiles
    qg_quantize(qg_block_storing<R>{a->in[0], (uint8_t *)a->out[0].data, (uint8_t *)a->out[1].data,
                                    layout, rule},
                {a->rows, a->cols, layout.block});
}

/* --- planes to values ------------------------------------------------------------------------ */

template <class D> struct qg_block_stored {
    const uint8_t *codes, *scales;
    struct qg_block_layout layout;
    enum qg_dtype dtype;
    D decoder;

    __device__ struct qg_piece weights(size_t row, size_t at, size_t n) const
    {
        const size_t i = row * layout.cols + at;
        const struct qg_codes q =
            layout.nibbles ? qg_load_nibbles(codes, i, n) : qg_load_bytes(codes, i, n);
        const auto step = decoder.step(scales[layout.scale_at(row, at / layout.block)]);
        struct qg_piece w;
        for (int j = 0; j < QG_PIECE; j++)
            w.v[j] = qg_round_float(dtype, decoder.value(q.c[j], step));
        return w;
    }
};

/* The operand whose planes these are, in the call's dtype. */
template <class D>
static struct qg_block_stored<D> qg_stored_blocks(const D &decoder, const struct qg_args *a,
                                                  const struct qg_tensor *planes,
                                                  struct qg_block_layout layout) {
    return {(const uint8_t *)planes[0].data, (const uint8_t *)planes[1].data, layout, a->dtype,
            decoder};
}

/* --- factors for cuBLASLt -------------------------------------------------------------------- */

/* Room at *at for scales of that many rows in the tiles of tensor cores. */
static inline struct qg_tensor
qg_tiled_scales(size_t rows, size_t per_row, float **at)
{
    return qg_scratch(QG_U8, qg_layout_rows(QG_SWIZZLED, rows),
                      qg_layout_cols(QG_SWIZZLED, per_row), at);
}

#endif
