/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of intx-learned: elements by pieces, gradients of scales and zero points by a team
 * of threads to a group, in binary64; the rest is intx.cu's.
 */
#include "kernels/cuda/intx.cuh"

namespace
{

enum { GROUP, BITS };

size_t group(const struct qg_args *a)
{
    return a->param[GROUP] > 0 ? (size_t)a->param[GROUP] : a->cols;
}

/* --- one element on its way: see schemes/intx_learned.c --------------------------------------- */

struct learned {
    float scale, inverse, zero;
};

struct step {
    float v, away; // before the clamp; R(R(q) - R(z))
};

struct rule {
    struct qg_tensor scales, zeros;
    enum qg_dtype t;
    float low, high;

    __device__ struct learned at(size_t index) const
    {
        const float s = qg_get_float(&scales, index);
        return {s, qg_div(1.0f, s), qg_get_float(&zeros, index)};
    }
    __device__ struct step step_of(struct learned l, float x) const
    {
        const float v = qg_add(qg_rint(qg_mul(x, l.inverse)), l.zero);
        const float q = qg_round_float(t, qg_clamp(v, low, high));
        return {v, qg_round_float(t, qg_sub(q, qg_round_float(t, l.zero)))};
    }
};

struct rule rule_of(const struct qg_args *a, const struct qg_tensor *scales_and_zeros)
{
    const float low = -(float)(1 << ((int)a->param[BITS] - 1));
    return {scales_and_zeros[0], scales_and_zeros[1], a->dtype, low, -low - 1.0f};
}

/* --- prepare ---------------------------------------------------------------------------------- */

struct prepare {
    struct qg_tensor x, y;
    struct rule rule;
    size_t cols, group;

    __device__ void piece(size_t row, size_t at, size_t n) const
    {
        const size_t first = row * cols + at;
        struct qg_piece p = qg_load_piece(&x, first, n);
        struct learned l = {0, 0, 0};
        struct qg_cursor c = qg_cursor_at(first, group);
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++) {
            if (i == 0 || (i < n && qg_cursor_next(&c)))
                l = rule.at(c.group);
            p.v[i] = qg_mul(rule.step_of(l, p.v[i]).away, l.scale);
        }
        qg_store_piece(&y, first, n, &p);
    }
};

void fake_quant(const struct qg_args *a)
{
    qg_pieces(prepare{a->in[0], a->out[0], rule_of(a, a->in + 1), a->cols, group(a)}, a->rows,
              a->cols);
}

/* Sums of a group: g (R(q) - R(z)), h, h m, h m x. */
struct sums {
    double ds, h, inside, dinverse;
    static __device__ __forceinline__ struct sums join(struct sums a, struct sums b)
    {
        return {a.ds + b.ds, a.h + b.h, a.inside + b.inside, a.dinverse + b.dinverse};
    }
};

struct back {
    struct qg_tensor x, g, dx, dscales, dzeros;
    struct rule rule;

    /* Elements at .. at+n, of one group: dx, and what they add to the sums. */
    __device__ void piece(struct learned l, size_t at, size_t n, struct sums *s) const
    {
        const struct qg_piece p = qg_load_piece(&x, at, n);
        struct qg_piece d = qg_load_piece(&g, at, n);
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++) {
            const struct step e = rule.step_of(l, p.v[i]);
            const float h = qg_round_float(rule.t, qg_mul(d.v[i], l.scale));
            const float m = e.v >= rule.low && e.v <= rule.high ? h : 0.0f;
            if (i < n)
                *s = sums::join(*s, {(double)d.v[i] * e.away, h, m, (double)m * p.v[i]});
            d.v[i] = qg_mul(m, l.inverse);
        }
        qg_store_piece(&dx, at, n, &d);
    }
    __device__ void put(size_t index, struct learned l, struct sums s) const
    {
        const float by_inverse = qg_mul((float)s.dinverse, -qg_mul(l.inverse, l.inverse));
        const float behind = qg_round_float(rule.t, (float)-s.h);
        qg_put_float(&dscales, index, qg_add((float)s.ds, by_inverse));
        qg_put_float(&dzeros, index, qg_add((float)s.inside, behind));
    }
};

__global__ void __launch_bounds__(QG_BLOCK)
    differentiate(const struct back b, const struct qg_units u, const unsigned team)
{
    const struct qg_unit unit = qg_unit_at(u, qg_thread() / team);
    const unsigned rank = threadIdx.x % team;
    const size_t index = unit.row * qg_units_per_row(u) + unit.of_row;
    struct learned l = {0, 0, 0};
    struct sums s = {0, 0, 0, 0};
    if (unit.n)
        l = b.rule.at(index);
    for (size_t at = (size_t)rank * QG_PIECE; at < unit.n; at += (size_t)team * QG_PIECE)
        b.piece(l, unit.begin + at, qg_least(unit.n - at, QG_PIECE), &s);
    s = qg_team_join(s, team);
    if (unit.n && rank == 0)
        b.put(index, l, s);
}

void fake_quant_grad(const struct qg_args *a)
{
    const struct back b = {a->in[0],  a->in[1],  a->out[0],
                           a->out[1], a->out[2], rule_of(a, a->in + 2)};
    const struct qg_units u = {a->rows, a->cols, group(a)};
    const unsigned team = qg_team_for(u.extent);
    qg_launch(differentiate, u.rows * qg_units_per_row(u) * team, b, u, team);
}

/* One rounding to binary32 at the end; all of those to binary64 are less than another. */
size_t sums_depth(size_t)
{
    return 2;
}

/* --- convert ---------------------------------------------------------------------------------- */

void convert(const struct qg_args *a)
{
    const float least = qg_max(qg_least_scale(0, a->dtype), 1e-9f);
    qg_symmetric_convert_cuda(a, {group(a), (int)a->param[BITS], least, QG_F32, 0.0f});
}

} // namespace

extern "C" const struct qg_kernel qg_kernels_intx_learned_cuda[] = {
    QG_CUDA_ROW("intx-learned", QG_WEIGHT, QG_FAKE_QUANT, fake_quant),
    QG_CUDA_BOUNDED("intx-learned", QG_WEIGHT, QG_FAKE_QUANT_GRAD, QG_REORDERS, sums_depth,
                    fake_quant_grad),
    QG_CUDA_ROW("intx-learned", QG_WEIGHT, QG_CONVERT, convert),
    QG_CUDA_ROW("intx-learned", QG_WEIGHT, QG_DEQUANT, qg_codes_dequant_cuda),
    QG_CUDA_MATMULS("intx-learned", qg_codes_matmul_cuda, qg_codes_matmul_cublas),
    QG_CUDA_END,
};
