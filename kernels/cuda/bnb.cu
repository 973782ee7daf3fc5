/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of bitsandbytes' blockwise formats, in the arithmetic that the parameter impl names:
 * a team of threads to a block of the flattened tensor, which stays in registers.
 */
#include <float.h>

#include "kernels/cuda/codebooks.cuh"

namespace
{

enum { GROUP, IMPL };
enum impl { CPU, CUDA, TORCH };
enum { NESTED = 256 }; /* numbers of blocks to a block of their own */

enum impl impl_of(const struct qg_args *a)
{
    return (enum impl)(int)a->param[IMPL];
}

size_t group(const struct qg_args *a)
{
    return (size_t)a->param[GROUP];
}

size_t count_blocks(const struct qg_args *a)
{
    return qg_ceil_div(a->rows * a->cols, group(a));
}

/* --- blocks ---------------------------------------------------------------------------------- */

/* Largest magnitude among those that are numbers, and whether all are. */
struct largest {
    float amax;
    uint32_t nan;
    static __device__ struct largest none(void)
    {
        return {-FLT_MAX, 0};
    }
    static __device__ struct largest join(struct largest a, struct largest b)
    {
        return {b.amax > a.amax ? b.amax : a.amax, a.nan | b.nan};
    }
    static __device__ struct largest of(float x)
    {
        return {x == x ? qg_abs(x) : -FLT_MAX, x != x};
    }
};

/* What a block stores, and how its elements are scaled: by a factor, or a divisor if that is not 0.
 */
struct grid {
    float stored, factor, divisor;
};

/* How blocks of `group` elements are scaled. */
struct rule {
    enum impl impl;
    size_t group;

    __device__ struct grid grid_of(size_t n, struct largest m) const
    {
        if (impl == CUDA)
            return {m.amax, qg_div(1.0f, m.amax), 0.0f};
        const float amax = m.amax < 0 ? 0.0f : m.amax;
        if (impl == CPU)
            return {amax, qg_div(1.0f, amax), 0.0f};
        const float divisor = m.nan ? NAN : qg_max(amax, 1e-38f);
        if (n < group)
            return {divisor, 0.0f, divisor};
        return {m.nan ? NAN : amax, qg_div(1.0f, divisor), 0.0f};
    }
    __device__ float scaled(struct grid g, float x) const
    {
        const float s = g.divisor != 0 ? qg_div(x, g.divisor) : qg_mul(x, g.factor);
        return impl == CUDA ? s : qg_clamp(s, -1.0f, 1.0f);
    }
};

/* Codes of a format F, a struct of plain values:
 *
 *     static constexpr bool nibbles;
 *     unsigned code(float s) const;      of a scaled element */
template <class F> struct encoding {
    struct qg_tensor x;
    uint8_t *codes;
    float *absmax;
    struct rule rule;
    F format;
    typedef struct largest measure;

    __device__ struct grid make(struct qg_unit u, measure m) const
    {
        return rule.grid_of(u.n, m);
    }
    __device__ void put(struct qg_unit u, struct grid g) const
    {
        absmax[u.of_row] = g.stored;
    }
    /* Behind an odd last element there is the code of 0. */
    __device__ void piece(struct qg_unit, struct grid g, size_t at, size_t n,
                          const struct qg_piece *p) const
    {
        struct qg_codes q;
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++) {
            const bool empty = i >= n && rule.impl != CUDA;
            q.c[i] = (uint8_t)format.code(empty ? 0.0f : rule.scaled(g, p->v[i]));
        }
        if (F::nibbles)
            qg_store_nibbles(codes, at, n + n % 2, &q, true);
        else
            qg_store_bytes(codes, at, n, &q);
    }
};

/* x [count] in blocks; the number of every block to absmax. */
template <class F>
void encode(const F &format, struct rule rule, const struct qg_tensor &x, size_t count, void *codes,
            void *absmax)
{
    qg_quantize(encoding<F>{x, (uint8_t *)codes, (float *)absmax, rule, format},
                {1, count, rule.group});
}

/* --- 4 bits ---------------------------------------------------------------------------------- */

/* Two zeros apart, NF4 is the list by its codes. */
struct nf4 {
    static constexpr bool nibbles = true;
    enum impl impl;

    /* How many middles of neighbours lie below s; of a NaN all, or none. */
    __device__ unsigned code(float s) const
    {
        unsigned below = 0;
#pragma unroll
        for (unsigned k = 0; k < 15; k++)
            below += !(s <= qg_add(qg_nf4(k), qg_nf4(k + 1)) / 2);
        return impl == CUDA && s != s ? 0 : below;
    }
    __device__ float value(unsigned code) const
    {
        return qg_nf4(code);
    }
};

/* FP4 goes by magnitudes, with the sign in bit 3. There are two zeros: cpu gives 8 to what is
 * positive, cuda to what is negative. */
struct fp4 {
    static constexpr bool nibbles = true;
    enum impl impl;

    /* Codes of magnitudes in rising order: 0 1 6 7 4 5 2 3. */
    static __device__ unsigned rising(unsigned place)
    {
        return place & 2 ? place ^ 4 : place;
    }
    __device__ unsigned code(float s) const
    {
        return impl == CUDA ? cuda_code(s) : cpu_code(s);
    }
    static __device__ unsigned cuda_code(float s)
    {
        static constexpr float middle[7] = {0.00260417f, 0.0859375f, 0.20833333f, 0.29166667f,
                                            0.4166667f,  0.583333f,  0.8333333f};
        unsigned below = 0;
#pragma unroll
        for (unsigned k = 0; k < 7; k++)
            below += qg_abs(s) > middle[k];
        return s != s ? 0 : rising(below) | (s < 0 ? 8 : 0);
    }
    /* A middle belongs to the number below it, which of negative numbers is the larger magnitude.
     */
    static __device__ unsigned cpu_code(float s)
    {
        const float m = qg_abs(s);
        unsigned place = 0;
#pragma unroll
        for (unsigned k = 0; k < 7; k++) {
            const float middle = qg_add(qg_fp4(rising(k)), qg_fp4(rising(k + 1))) / 2;
            place += s < 0 ? m >= middle : !(m <= middle);
        }
        const bool high = place ? s < 0 : s > 0;
        return rising(place) | (high ? 8 : 0);
    }
    __device__ float value(unsigned code) const
    {
        const float m = qg_fp4(code & 7);
        return code < 8 || (code == 8 && impl == CPU) ? m : -m;
    }
};

template <class F> struct rule rule_of(const struct qg_args *a)
{
    const enum impl impl = impl_of(a);
    return {F::nibbles && impl == CPU ? TORCH : impl, group(a)};
}

template <class F> void convert(const struct qg_args *a)
{
    encode(F{impl_of(a)}, rule_of<F>(a), a->in[0], a->rows * a->cols, a->out[0].data,
           a->out[1].data);
}

/* --- 8 bits ---------------------------------------------------------------------------------- */

/* Places in the dynamic map, by the middles of neighbours. */
struct dynamic {
    static constexpr bool nibbles = false;
    enum impl impl;
    float middle[255];

    __device__ unsigned place(float s) const
    {
        unsigned below = 0;
#pragma unroll
        for (unsigned step = 128; step; step /= 2)
            below += middle[below + step - 1] >= s ? 0 : step;
        return below;
    }
    /* s as one of 65536 points of [-1, 1], a NaN as the first. */
    static __device__ float snapped(float s)
    {
        const float place = qg_add(qg_mul(qg_add(s, 1.0f) / 2, 65535.0f), 0.5f);
        const unsigned point = place >= 0 ? (unsigned)place : 0;
        return qg_add(-1.0f, qg_div(2.0f * (float)point, 65535.0f));
    }
    /* cuda goes upwards where s is half-way and the lower code is odd. */
    __device__ unsigned code(float s) const
    {
        const unsigned below = place(impl == CPU ? snapped(s) : s);
        if (impl != CUDA)
            return below;
        const bool tie = below < 255 && middle[below] == s;
        return s != s ? 0 : below + (tie && below % 2);
    }
};

struct dynamic dynamic_of(const struct qg_args *a)
{
    struct dynamic d = {impl_of(a), {}};
    for (unsigned k = 0; k < 255; k++)
        d.middle[k] = qg_add(qg_dynamic(k), qg_dynamic(k + 1)) / 2;
    return d;
}

void byte_convert(const struct qg_args *a)
{
    encode(dynamic_of(a), rule_of<struct dynamic>(a), a->in[0], a->rows * a->cols, a->out[0].data,
           a->out[1].data);
}

/* --- double quantization --------------------------------------------------------------------- */

struct shifting {
    float *absmax;
    const float *offset;

    __device__ void piece(size_t, size_t at, size_t n) const
    {
        for (unsigned i = 0; i < QG_PIECE; i++)
            if (i < n)
                absmax[at + i] = qg_sub(absmax[at + i], *offset);
    }
};

/* The numbers of all blocks, less their mean, go through 8 bits. a->work: they, then scratch. */
void double_convert(const struct qg_args *a)
{
    const size_t n = count_blocks(a);
    float *absmax = a->work, *offset = (float *)a->out[3].data;
    const struct qg_tensor x = {NULL, QG_F32, 1, {n}, absmax};
    encode(nf4{impl_of(a)}, rule_of<struct nf4>(a), a->in[0], a->rows * a->cols, a->out[0].data,
           absmax);
    qg_mean_by_torch(absmax, n, QG_F32, offset, absmax + n);
    qg_pieces(shifting{absmax, offset}, 1, n);
    encode(dynamic_of(a), {impl_of(a), NESTED}, x, n, a->out[1].data, a->out[2].data);
}

/* --- dequant and matmul ---------------------------------------------------------------------- */

/* The number of a block, from planes. */
struct plain_scale {
    const float *absmax;

    __device__ float of(size_t block) const
    {
        return absmax[block];
    }
};

struct double_scale {
    const uint8_t *codes;
    const float *nested, *offset;

    __device__ float of(size_t block) const
    {
        return qg_add(qg_mul(qg_dynamic(codes[block]), nested[block / NESTED]), *offset);
    }
};

struct plain_scale plain_of(const struct qg_tensor *planes)
{
    return {(const float *)planes[1].data};
}

struct double_scale double_of(const struct qg_tensor *planes)
{
    return {(const uint8_t *)planes[1].data, (const float *)planes[2].data,
            (const float *)planes[3].data};
}

struct dynamic_values {
    static constexpr bool nibbles = false;
    enum impl impl;

    __device__ float value(unsigned code) const
    {
        return qg_dynamic(code);
    }
};

/* What planes hold in format F, whose blocks' numbers are scale(planes). */
template <class F, auto scale>
auto stored_of(const struct qg_args *a, const struct qg_tensor *planes)
{
    return qg_listed<F, decltype(scale(planes))>{
        {impl_of(a)}, scale(planes), (const uint8_t *)planes[0].data, a->dtype, group(a), a->cols};
}

template <class F, auto scale> void dequant(const struct qg_args *a)
{
    qg_unpack(stored_of<F, scale>(a, a->in), a);
}

template <class F, auto scale> auto product_of(const struct qg_args *a)
{
    typedef decltype(stored_of<F, scale>(a, a->in)) stored;
    return qg_plain_product<stored>{stored_of<F, scale>(a, a->in + 1), a->in[0], a->out[0],
                                    a->cols};
}

#define FOUR_BITS(s, convert, format, scale)                                    \
    QG_CUDA_ROW(s, QG_WEIGHT, QG_CONVERT, convert),                             \
        QG_CUDA_ROW(s, QG_WEIGHT, QG_DEQUANT, (dequant<struct format, scale>)), \
        QG_CUDA_PRODUCT(s, (product_of<struct format, scale>)),                 \
        QG_CUDA_LORA(s, (product_of<struct format, scale>))

} // namespace

extern "C" const struct qg_kernel qg_kernels_bnb_cuda[] = {
    FOUR_BITS("nf4-bnb", convert<struct nf4>, nf4, plain_of),
    FOUR_BITS("fp4-bnb", convert<struct fp4>, fp4, plain_of),
    FOUR_BITS("nf4-bnb-double", double_convert, nf4, double_of),
    QG_CUDA_ROW("int8-bnb", QG_WEIGHT, QG_CONVERT, byte_convert),
    QG_CUDA_ROW("int8-bnb", QG_WEIGHT, QG_DEQUANT, (dequant<struct dynamic_values, plain_of>)),
    QG_CUDA_END,
};
