/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/matmul.cuh"

namespace
{

/* y = x . w^T, of matrices. */
void multiply(const struct qg_tensor *x, const struct qg_tensor *w, const struct qg_tensor *y)
{
    struct qg_args a = {};
    a.m = x->shape[0];
    a.rows = w->shape[0];
    a.cols = w->shape[1];
    qg_multiply(qg_plain_product<qg_numbers>{{*w}, *x, *y, a.cols}, &a);
}

/* What a call of lora has beside its matmul: a, b and s; x a^T and that times b^T, in scratch. */
struct parts {
    const struct qg_tensor *a, *b, *s;
    struct qg_tensor xa, lora;
    float *free; /* scratch that goes on */
};

struct parts parts_of(const struct qg_args *a)
{
    const struct qg_tensor *adapter = &a->in[a->n_in - 3];
    struct parts p = {&adapter[0], &adapter[1], &adapter[2], {}, {}, qg_adapter_work(a)};
    p.xa = qg_scratch(a->dtype, a->m, a->rank, &p.free);
    p.lora = qg_scratch(a->dtype, a->m, a->rows, &p.free);
    return p;
}

/* y = R(y + R(s lora)). */
struct addition {
    struct qg_tensor y, lora;
    const float *s;
    size_t cols;

    __device__ void piece(size_t row, size_t at, size_t n) const
    {
        const size_t begin = row * cols + at;
        struct qg_piece sum = qg_load_piece(&y, begin, n);
        const struct qg_piece l = qg_load_piece(&lora, begin, n);
        for (unsigned i = 0; i < QG_PIECE; i++)
            sum.v[i] = qg_add(sum.v[i], qg_round_float(y.dtype, qg_mul(l.v[i], *s)));
        qg_store_piece(&y, begin, n, &sum);
    }
};

void add(const struct qg_args *a, const struct parts &p)
{
    qg_pieces(addition{a->out[0], p.lora, (const float *)p.s->data, a->rows}, a->m, a->rows);
}

/* y = R(x . w^T) by cuBLASLt, the sums in scratch. */
void multiply_cublas(const struct qg_args *a, const struct qg_tensor *x, const struct qg_tensor *w,
                     const struct qg_tensor *y, float *scratch)
{
    const struct qg_tensor sums = qg_scratch(QG_F32, y->shape[0], y->shape[1], &scratch);
    const struct qg_factor of_x = {*x, QG_SCALE_NONE, NULL}, of_w = {*w, QG_SCALE_NONE, NULL};
    qg_cublas_product(a, &of_x, &of_w, &sums);
    qg_pieces(qg_unpacking<qg_numbers>{{sums}, *y, y->shape[1]}, y->shape[0], y->shape[1]);
}

} // namespace

struct qg_tensor qg_cuda_project(const struct qg_args *a)
{
    const struct parts p = parts_of(a);
    multiply(&a->in[0], p.a, &p.xa);
    return p.xa;
}

void qg_cuda_adapt(const struct qg_args *a)
{
    const struct parts p = parts_of(a);
    multiply(&a->in[0], p.a, &p.xa);
    multiply(&p.xa, p.b, &p.lora);
    add(a, p);
}

void qg_cublas_adapt(const struct qg_args *a)
{
    const struct parts p = parts_of(a);
    multiply_cublas(a, &a->in[0], p.a, &p.xa, p.free);
    multiply_cublas(a, &p.xa, p.b, &p.lora, p.free);
    add(a, p);
}
