/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of LLM.int8(). Weights are read once. Of x a first launch looks at all rows, for
 * their largest magnitudes and for outlier columns, and a second makes codes. The product adds the
 * outlier columns to the integers in the same pass over W.
 */
#include "kernels/cuda/integers.cuh"
#include "kernels/cuda/narrow.cuh"

namespace
{

enum { THRESHOLD, IMPL };

/* --- rows ------------------------------------------------------------------------------------- */

/* What decides over r and codes. */
struct rule {
    bool cuda;
    float least; // magnitude of an outlier; NaN where there are none

    /* 127 / r. */
    __device__ float factor(float r) const
    {
        return cuda ? qg_div(127.0f, r) : qg_mul(qg_div(1.0f, r), 127.0f);
    }
    __device__ bool is_outlier(float h) const
    {
        return qg_abs(h) >= least;
    }
    /* How much |h| counts in r. */
    __device__ float share(float h) const
    {
        return is_outlier(h) || (cuda && h != h) ? 0.0f : qg_abs(h);
    }
    /* An int8: NaN is 0. */
    __device__ uint8_t code(float h, float factor) const
    {
        const float q = qg_rint(qg_mul(h, factor));
        return (uint8_t)(q == q ? (int)q : 0);
    }
};

struct rule rule_of(const struct qg_args *a, double threshold)
{
    return {a->param[IMPL] > 0, threshold > 0 ? qg_round(QG_F16, (float)threshold) : (float)NAN};
}

/* --- weights ---------------------------------------------------------------------------------- */

/* r of weights, among which nothing is an outlier. */
template <bool skips_nan> struct half_amax {
    float amax;
    static __device__ __forceinline__ struct half_amax none()
    {
        return {0.0f};
    }
    static __device__ __forceinline__ struct half_amax join(struct half_amax a, struct half_amax b)
    {
        return {qg_max(a.amax, b.amax)};
    }
    static __device__ __forceinline__ struct half_amax of(float x)
    {
        const float h = qg_abs(qg_round_float(QG_F16, x));
        return {skips_nan && h != h ? 0.0f : h};
    }
};

struct grid {
    float r, factor;
};

template <bool cuda> struct storing {
    struct qg_tensor x;
    struct rule rule;
    uint8_t *codes;
    float *r;
    typedef struct half_amax<cuda> measure;

    __device__ struct grid make(struct qg_unit, measure m) const
    {
        return {m.amax, rule.factor(m.amax)};
    }
    __device__ void put(struct qg_unit u, struct grid g) const
    {
        r[u.row] = g.r;
    }
    __device__ void piece(struct qg_unit, struct grid g, size_t at, size_t n,
                          const struct qg_piece *p) const
    {
        struct qg_codes q;
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++)
            q.c[i] = rule.code(qg_round_float(QG_F16, p->v[i]), g.factor);
        qg_store_bytes(codes, at, n, &q);
    }
};

template <bool cuda> void convert_rows(const struct qg_args *a)
{
    const struct storing<cuda> q = {
        a->in[0], rule_of(a, 0), (uint8_t *)a->out[0].data, (float *)a->out[1].data
    };
    qg_quantize(q, {a->rows, a->cols, a->cols});
}

void weight_convert(const struct qg_args *a)
{
    if (a->param[IMPL] > 0)
        convert_rows<true>(a);
    else
        convert_rows<false>(a);
}

/* --- activations, whose outlier columns all rows decide --------------------------------------- */

/* Elements as binary16 numbers. */
__device__ __forceinline__ struct qg_piece load_half(const struct qg_tensor *x, size_t at, size_t n)
{
    struct qg_piece p = qg_load_piece(x, at, n);
#pragma unroll
    for (unsigned i = 0; i < QG_PIECE; i++)
        p.v[i] = qg_round_float(QG_F16, p.v[i]);
    return p;
}

/* r of every row by a team; outliers mark their columns. */
__global__ void __launch_bounds__(QG_BLOCK)
    look(const struct rule rule, const struct qg_tensor x, const struct qg_units u,
         const unsigned team, float *const r, unsigned *const marks)
{
    const struct qg_unit unit = qg_unit_at(u, qg_thread() / team);
    struct qg_amax m = qg_amax::none();
    for (size_t at = threadIdx.x % team * (size_t)QG_PIECE; at < unit.n;
         at += (size_t)team * QG_PIECE) {
        const struct qg_piece p = load_half(&x, unit.begin + at, qg_least(unit.n - at, QG_PIECE));
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++) {
            m = qg_amax::join(m, {rule.share(p.v[i])});
            if (at + i < unit.n && rule.is_outlier(p.v[i]))
                atomicOr(&marks[at + i], 1u);
        }
    }
    m = qg_team_join(m, team);
    if (unit.n && threadIdx.x % team == 0)
        r[unit.row] = m.amax;
}

struct coding {
    struct rule rule;
    struct qg_tensor x;
    const unsigned *marks;
    const float *r;
    uint8_t *codes, *outliers;
    size_t cols;

    __device__ void piece(size_t row, size_t at, size_t n) const
    {
        const struct qg_piece p = load_half(&x, row * cols + at, n);
        const float factor = rule.factor(r[row]);
        struct qg_codes q, apart;
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++) {
            apart.c[i] = i < n && marks[at + i] ? 1 : 0;
            q.c[i] = apart.c[i] ? 0 : rule.code(p.v[i], factor);
        }
        qg_store_bytes(codes, row * cols + at, n, &q);
        if (row == 0)
            qg_store_bytes(outliers, at, n, &apart);
    }
};

/* x [rows, cols] to its planes; marks: scratch of a number to a column. */
void encode(const struct qg_args *a, const struct rule &rule, size_t rows, uint8_t *codes, float *r,
            uint8_t *outliers, unsigned *marks)
{
    const struct qg_units u = {rows, a->cols, a->cols};
    const unsigned team = qg_team_for(u.extent);
    (void)cudaMemsetAsync(marks, 0, a->cols * sizeof *marks, qg_cuda_stream());
    qg_launch(look, rows * team, rule, a->in[0], u, team, r, marks);
    qg_pieces(coding{rule, a->in[0], marks, r, codes, outliers, a->cols}, rows, a->cols);
}

void activation_convert(const struct qg_args *a)
{
    encode(a, rule_of(a, a->param[THRESHOLD]), a->rows, (uint8_t *)a->out[0].data,
           (float *)a->out[1].data, (uint8_t *)a->out[2].data, (unsigned *)a->work);
}

/* --- dequant ---------------------------------------------------------------------------------- */

__device__ __forceinline__ float value_of(uint8_t code, float r)
{
    return qg_mul(qg_mul((float)(int8_t)code, r), 7.874015718698502e-3f);
}

struct numbers {
    struct qg_tensor codes, scales;
    size_t cols;

    __device__ struct qg_piece weights(size_t row, size_t at, size_t n) const
    {
        const struct qg_codes q = qg_load_bytes(codes.data, row * cols + at, n);
        const float r = qg_get_float(&scales, row);
        struct qg_piece w;
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++)
            w.v[i] = value_of(q.c[i], r);
        return w;
    }
};

void dequant(const struct qg_args *a)
{
    qg_unpack(numbers{a->in[0], a->in[1], a->cols}, a);
}

/* --- matmul ----------------------------------------------------------------------------------- */

struct codes_and_marks {
    struct qg_codes codes, apart;
    bool any; // of the columns are apart
};

struct product {
    const uint8_t *codes, *outliers; // of x
    const float *r;
    struct qg_tensor x, w, scales, y;
    size_t cols;
    bool cuda;

    /* Of products of codes; of x w' over outlier columns, should there be one. */
    struct sums {
        int64_t products;
        float apart;
        int any;
        static __device__ __forceinline__ struct sums join(struct sums a, struct sums b)
        {
            return {a.products + b.products, qg_add(a.apart, b.apart), a.any | b.any};
        }
    };

    __device__ struct codes_and_marks weights(size_t row, size_t at, size_t n) const
    {
        struct codes_and_marks q = {qg_load_bytes(w.data, row * cols + at, n),
                                    qg_load_bytes(outliers, at, n), false};
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++)
            q.any |= q.apart.c[i] != 0;
        return q;
    }
    __device__ void add(struct sums *s, const struct codes_and_marks &q, size_t row, size_t m,
                        size_t at, size_t n) const
    {
        const struct qg_octet o = qg_load_octet(codes, m * cols + at, n);
        s->products += qg_octet_dot(o, qg_octet_of(q.codes));
        if (!q.any)
            return;
        const struct qg_piece p = qg_load_piece(&x, m * cols + at, n);
        const float c = qg_get_float(&scales, row);
        s->any = 1;
#pragma unroll
        for (unsigned i = 0; i < QG_PIECE; i++)
            if (q.apart.c[i])
                s->apart =
                    qg_fma(p.v[i], qg_round_float(x.dtype, value_of(q.codes.c[i], c)), s->apart);
    }
    /* The product of codes in x's dtype. */
    __device__ float scaled(float p, float r, float c) const
    {
        if (!cuda)
            return qg_round_float(y.dtype, qg_mul(qg_mul(p, qg_mul(r, c)), 6.200124e-05f));
        const float sum = qg_fma(qg_mul(qg_mul(p, r), c), 6.200012e-05f, 0.0f);
        return qg_round_float(y.dtype, qg_round_float(QG_F16, sum));
    }
    __device__ float finish(size_t m, size_t row, struct sums s) const
    {
        const float whole = scaled((float)s.products, r[m], qg_get_float(&scales, row));
        return s.any ? qg_add(whole, s.apart) : whole;
    }
};

/* The planes of x at *at, before them a number to a column, which is free afterwards. */
struct product product_of(const struct qg_args *a, float **at)
{
    unsigned *marks = (unsigned *)qg_scratch(QG_I32, 1, a->cols, at).data;
    const struct qg_tensor r = qg_scratch(QG_F32, a->m, 1, at),
                           outliers = qg_scratch(QG_U8, 1, a->cols, at),
                           codes = qg_scratch(QG_I8, a->m, a->cols, at);
    encode(a, rule_of(a, a->param[THRESHOLD]), a->m, (uint8_t *)codes.data, (float *)r.data,
           (uint8_t *)outliers.data, marks);
    return {(const uint8_t *)codes.data,
            (const uint8_t *)outliers.data,
            (const float *)r.data,
            a->in[0],
            a->in[1],
            a->in[2],
            a->out[0],
            a->cols,
            a->param[IMPL] > 0};
}

void matmul(const struct qg_args *a)
{
    float *at = a->work;
    const struct product p = product_of(a, &at);
    qg_multiply_codes(p, a);
}

/* --- the integers by cuBLASLt ----------------------------------------------------------------- */

/* The outlier columns in their order, and how many there are, by one warp: a piece to a lane. */
__global__ void __launch_bounds__(QG_BLOCK)
    list_outliers(const uint8_t *const outliers, const size_t cols, unsigned *const list,
                  unsigned *const count)
{
    const unsigned lane = threadIdx.x;
    unsigned before = 0;
    if (lane >= QG_WARP)
        return;
    for (size_t first = 0; first < cols; first += QG_WARP * QG_PIECE) {
        const size_t at = first + lane * (size_t)QG_PIECE;
        const struct qg_codes q = qg_load_bytes(outliers, at < cols ? at : 0,
                                                at < cols ? qg_least(cols - at, QG_PIECE) : 0);
        unsigned here = 0, upto;
        for (unsigned i = 0; i < QG_PIECE; i++)
            here += q.c[i];
        upto = here;
        for (unsigned d = 1; d < QG_WARP; d *= 2) {
            const unsigned left = __shfl_up_sync(0xffffffffu, upto, d);
            upto += lane >= d ? left : 0;
        }
        unsigned to = before + upto - here;
        for (unsigned i = 0; i < QG_PIECE; i++)
            if (q.c[i])
                list[to++] = (unsigned)at + i;
        before += __shfl_sync(0xffffffffu, upto, QG_WARP - 1);
    }
    if (lane == 0)
        *count = before;
}

/* The outlier columns are added to a sum that is there. */
struct summed {
    struct product p;
    const unsigned *list, *count;
    struct qg_tensor y;

    __device__ float finish(size_t m, size_t row, int32_t products) const
    {
        struct product::sums s = {products, 0.0f, *count > 0};
        const float c = qg_get_float(&p.scales, row);
        for (unsigned i = 0; i < *count; i++) {
            const uint8_t q = ((const uint8_t *)p.w.data)[row * p.cols + list[i]];
            s.apart = qg_fma(qg_get_float(&p.x, m * p.cols + list[i]),
                             qg_round_float(p.x.dtype, value_of(q, c)), s.apart);
        }
        return p.finish(m, row, s);
    }
};

void matmul_cublas(const struct qg_args *a)
{
    float *at = a->work;
    unsigned *list = (unsigned *)at, *count;
    const struct product p = product_of(a, &at);
    count = (unsigned *)qg_scratch(QG_I32, 1, 1, &at).data;
    qg_launch(list_outliers, QG_WARP, p.outliers, a->cols, list, count);
    const struct qg_tensor codes = {NULL, QG_I8, 2, {a->m, a->cols}, (void *)p.codes};
    const struct qg_factor x = qg_integer_factor(codes, 1, &at),
                           w = qg_integer_factor(a->in[1], QG_NARROW, &at);
    qg_multiply_narrow<int32_t>(summed{p, list, count, a->out[0]}, a, x, w, at);
}

/* One outlier column after the other, then the integers' part. */
size_t depth_in_order(size_t k)
{
    return k + 1;
}

/* A sum over outlier columns ends with the integers' part. */
size_t depth(size_t k)
{
    return qg_warp_depth(k) + 1;
}

} // namespace

extern "C" const struct qg_kernel qg_kernels_llm_int8_cuda[] = {
    QG_CUDA_ROW("llm-int8", QG_WEIGHT, QG_CONVERT, weight_convert),
    QG_CUDA_ROW("llm-int8", QG_WEIGHT, QG_DEQUANT, dequant),
    QG_CUDA_ROW("llm-int8", QG_ACTIVATION, QG_CONVERT, activation_convert),
    QG_CUDA_ROW("llm-int8", QG_ACTIVATION, QG_DEQUANT, dequant),
    QG_CUDA_BOUNDED("llm-int8", QG_WEIGHT, QG_MATMUL, QG_FUSES | QG_REORDERS, depth, matmul),
    QG_CUBLAS_ROW("llm-int8", "", QG_WITHIN_BOUND, QG_FUSES, depth_in_order, matmul_cublas,
                  qg_takes_integers),
    QG_CUDA_END,
};
