/* SPDX-License-Identifier: MIT
 *
 * The stand-in for cuBLASLt, as the shared library that programs look for. Column-major as the real
 * one: D [m,n] = op(A) [m,k] op(B) [k,n].
 */
#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

#include "schemes/num/bf16.h"
#include "schemes/num/fp16.h"
#include "tests/simt/simt.h"

struct cublasLtContext {
    int unused;
};
struct simt_matmul {
    cublasComputeType_t compute;
    cudaDataType_t scale;
    cublasOperation_t a, b;
};
struct simt_matrix {
    cudaDataType type;
    uint64_t rows, cols;
    int64_t ld;
};
struct simt_preference {
    size_t workspace;
};

/* A copy on the heap of what a create function makes. */
template <class T> static cublasStatus_t create(T **ret, const T &value)
{
    *ret = (T *)malloc(sizeof value);
    if (!*ret)
        return CUBLAS_STATUS_ALLOC_FAILED;
    **ret = value;
    return CUBLAS_STATUS_SUCCESS;
}

template <class T> static cublasStatus_t destroy(T *p)
{
    free(p);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    return create(handle, {});
}

size_t cublasLtGetVersion(void)
{
    return 130000;
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "success";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "the resource allocation failed";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "the functionality requested is not supported";
    default:
        return "the library was not initialized";
    }
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    return create(desc, {compute, scale, CUBLAS_OP_N, CUBLAS_OP_N});
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t what,
                                              const void *value, size_t size)
{
    cublasOperation_t op;
    if (size != sizeof op)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&op, value, sizeof op);
    (what == CUBLASLT_MATMUL_DESC_TRANSA ? desc->a : desc->b) = op;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    return destroy(desc);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld)
{
    return create(layout, {type, rows, cols, ld});
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    return destroy(layout);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference)
{
    return create(preference, {0});
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t,
                                                    const void *value, size_t size)
{
    if (size != sizeof preference->workspace)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&preference->workspace, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    return destroy(preference);
}

/* --- what is refused ------------------------------------------------------------------------- */

static bool fits(const struct simt_matrix *m)
{
    return m->rows > 0 && m->cols > 0 && m->ld >= (int64_t)m->rows;
}

/* The inner extents agree and D has the outer ones. */
static bool shapes_agree(const struct simt_matmul *p, const struct simt_matrix *a,
                         const struct simt_matrix *b, const struct simt_matrix *d)
{
    const uint64_t m = p->a == CUBLAS_OP_T ? a->cols : a->rows,
                   k = p->a == CUBLAS_OP_T ? a->rows : a->cols,
                   l = p->b == CUBLAS_OP_T ? b->cols : b->rows,
                   n = p->b == CUBLAS_OP_T ? b->rows : b->cols;
    return k == l && d->rows == m && d->cols == n && fits(a) && fits(b) && fits(d);
}

/* Integers: A transposed, B not, leading dimensions and m, n, k divisible by four ("Regular IMMA
 * kernels" want them so); numbers: A and B alike, binary32 or the same dtype out. */
static bool is_supported(const struct simt_matmul *p, const struct simt_matrix *a,
                         const struct simt_matrix *b, const struct simt_matrix *d)
{
    if (a->type != b->type)
        return false;
    if (p->compute == CUBLAS_COMPUTE_32I)
        return p->scale == CUDA_R_32I && a->type == CUDA_R_8I && d->type == CUDA_R_32I &&
               p->a == CUBLAS_OP_T && p->b == CUBLAS_OP_N && a->ld % 4 == 0 && b->ld % 4 == 0 &&
               d->ld % 4 == 0 && a->rows % 4 == 0 && a->cols % 4 == 0;
    return p->scale == CUDA_R_32F && a->type != CUDA_R_8I && a->type != CUDA_R_32I &&
           (d->type == CUDA_R_32F || d->type == a->type);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t, int wanted,
                                              cublasLtMatmulHeuristicResult_t result[], int *found)
{
    *found = 0;
    if (!handle || wanted < 1 || !shapes_agree(desc, a, b, d) || c->type != d->type)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!is_supported(desc, a, b, d))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    result[0] = {};
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

/* --- the product ----------------------------------------------------------------------------- */

static double value(const void *p, cudaDataType type, size_t i)
{
    switch (type) {
    case CUDA_R_16BF:
        return qg_bf16_decode(((const qg_bf16 *)p)[i]);
    case CUDA_R_16F:
        return qg_fp16_decode(((const qg_fp16 *)p)[i]);
    case CUDA_R_8I:
        return ((const int8_t *)p)[i];
    default:
        return ((const float *)p)[i];
    }
}

static void store(void *p, cudaDataType type, size_t i, double v)
{
    switch (type) {
    case CUDA_R_16BF:
        ((qg_bf16 *)p)[i] = qg_bf16_encode((float)v);
        break;
    case CUDA_R_16F:
        ((qg_fp16 *)p)[i] = qg_fp16_encode((float)v);
        break;
    case CUDA_R_32I:
        ((int32_t *)p)[i] = (int32_t)v;
        break;
    default:
        ((float *)p)[i] = (float)v;
    }
}

/* Element (row, col) of op(m). */
static double element(const void *p, const struct simt_matrix *m, cublasOperation_t op, size_t row,
                      size_t col)
{
    const size_t ld = (size_t)m->ld;
    return value(p, m->type, op == CUBLAS_OP_T ? row * ld + col : col * ld + row);
}

static size_t bytes_of(cudaDataType type)
{
    return type == CUDA_R_8I ? 1 : type == CUDA_R_16BF || type == CUDA_R_16F ? 2 : 4;
}

/* Says to the finder what the product reads or writes. */
static bool touch(const void *p, const struct simt_matrix *m, bool writes)
{
    const size_t bytes = bytes_of(m->type);
    for (size_t col = 0; col < m->cols; col++)
        if (!simt_library_touches("cuBLASLt", (const char *)p + col * (size_t)m->ld * bytes,
                                  m->rows * bytes, writes))
            return false;
    return true;
}

static bool is_aligned(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

/* A product as it was asked for: what describes it may be gone when a graph computes it. */
struct product {
    struct simt_matmul what;
    struct simt_matrix a_layout, b_layout, d_layout;
    const void *a, *b;
    void *d;
    double scale;
};

static void multiply(void *context)
{
    const struct product *p = (const struct product *)context;
    const size_t k = p->what.a == CUBLAS_OP_T ? p->a_layout.rows : p->a_layout.cols;
    if (!touch(p->a, &p->a_layout, false) || !touch(p->b, &p->b_layout, false) ||
        !touch(p->d, &p->d_layout, true))
        return;
    for (size_t col = 0; col < p->d_layout.cols; col++)
        for (size_t row = 0; row < p->d_layout.rows; row++) {
            double sum = 0;
            for (size_t i = 0; i < k; i++)
                sum += element(p->a, &p->a_layout, p->what.a, row, i) *
                       element(p->b, &p->b_layout, p->what.b, i, col);
            store(p->d, p->d_layout.type, col * (size_t)p->d_layout.ld + row, p->scale * sum);
        }
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *,
                              cublasLtMatrixLayout_t, void *d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *, void *workspace, size_t, cudaStream_t)
{
    const bool integers = desc->compute == CUBLAS_COMPUTE_32I;
    const double scale = integers ? *(const int32_t *)alpha : *(const float *)alpha,
                 old = integers ? *(const int32_t *)beta : *(const float *)beta;
    if (!handle || !shapes_agree(desc, a_layout, b_layout, d_layout) || old != 0 ||
        !is_aligned(a) || !is_aligned(b) || !is_aligned(d) || !is_aligned(workspace))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!is_supported(desc, a_layout, b_layout, d_layout))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    const struct product p = {*desc, *a_layout, *b_layout, *d_layout, a, b, d, scale};
    return simt_library_calls(multiply, &p, sizeof p) ? CUBLAS_STATUS_SUCCESS
                                                      : CUBLAS_STATUS_EXECUTION_FAILED;
}
