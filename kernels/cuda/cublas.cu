/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/cublas.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdio.h>

#include "kernels/cuda/device.cuh"

namespace
{

/* --- the library ----------------------------------------------------------------------------- */

#define FUNCTIONS(F)                        \
    F(cublasLtCreate)                       \
    F(cublasLtGetVersion)                   \
    F(cublasLtGetStatusString)              \
    F(cublasLtMatmulDescCreate)             \
    F(cublasLtMatmulDescSetAttribute)       \
    F(cublasLtMatmulDescDestroy)            \
    F(cublasLtMatrixLayoutCreate)           \
    F(cublasLtMatrixLayoutDestroy)          \
    F(cublasLtMatmulPreferenceCreate)       \
    F(cublasLtMatmulPreferenceSetAttribute) \
    F(cublasLtMatmulPreferenceDestroy)      \
    F(cublasLtMatmulAlgoGetHeuristic)       \
    F(cublasLtMatmul)

struct library {
    char why[200]; /* empty: it is there */
#define MEMBER(f) decltype(&::f) f;
    FUNCTIONS(MEMBER)
#undef MEMBER
};

struct library find_library(void)
{
    struct library l = {};
    char name[64];
    snprintf(name, sizeof name, "libcublasLt.so.%d", CUDART_VERSION / 1000);
    void *from = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!from) {
        snprintf(l.why, sizeof l.why, "%s is not found (LD_LIBRARY_PATH, or install cuBLAS)", name);
        return l;
    }
#define FIND(f)                                   \
    if (!(l.f = (decltype(&::f))dlsym(from, #f))) \
        snprintf(l.why, sizeof l.why, "%s has no function %s", name, #f);
    FUNCTIONS(FIND)
#undef FIND
    return l;
}

/* The library, found once; it stays. */
const struct library *the_library(void)
{
    static const struct library found = find_library();
    return &found;
}

/* --- one product ----------------------------------------------------------------------------- */

enum { WORKSPACE = 32 << 20 };

/* What lives as long as the process. */
struct context {
    cublasStatus_t status;
    cublasLtHandle_t handle;
    void *workspace;
};

struct context make_context(void)
{
    struct context c = {};
    c.status = the_library()->cublasLtCreate(&c.handle);
    if (c.status == CUBLAS_STATUS_SUCCESS && cudaMalloc(&c.workspace, WORKSPACE) != cudaSuccess)
        c.status = CUBLAS_STATUS_ALLOC_FAILED;
    return c;
}

/* Descriptions of one product: row-major y = x w^T is column-major y^T = w x^T, in which w is
 * transposed. */
struct product {
    cublasLtMatmulDesc_t what;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulPreference_t preference;
    cublasStatus_t status;

    void also(cublasStatus_t s)
    {
        if (status == CUBLAS_STATUS_SUCCESS)
            status = s;
    }
};

cudaDataType_t type_of(enum qg_dtype t)
{
    switch (t) {
    case QG_BF16:
        return CUDA_R_16BF;
    case QG_F16:
        return CUDA_R_16F;
    case QG_I8:
        return CUDA_R_8I;
    case QG_I32:
        return CUDA_R_32I;
    default:
        return CUDA_R_32F;
    }
}

struct product describe(const struct qg_tensor *x, const struct qg_tensor *w,
                        const struct qg_tensor *y)
{
    const struct library *l = the_library();
    const bool integers = y->dtype == QG_I32;
    const size_t m = x->shape[0], k = x->shape[1], n = w->shape[0], workspace = WORKSPACE;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    struct product p = {};
    p.also(l->cublasLtMatmulDescCreate(&p.what, integers ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                                       integers ? CUDA_R_32I : CUDA_R_32F));
    p.also(l->cublasLtMatmulDescSetAttribute(p.what, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                             sizeof transposed));
    p.also(l->cublasLtMatrixLayoutCreate(&p.w, type_of(w->dtype), k, n, (int64_t)k));
    p.also(l->cublasLtMatrixLayoutCreate(&p.x, type_of(x->dtype), k, m, (int64_t)k));
    p.also(l->cublasLtMatrixLayoutCreate(&p.y, type_of(y->dtype), n, m, (int64_t)n));
    p.also(l->cublasLtMatmulPreferenceCreate(&p.preference));
    p.also(l->cublasLtMatmulPreferenceSetAttribute(
        p.preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace));
    return p;
}

void forget(struct product *p)
{
    const struct library *l = the_library();
    if (p->what)
        (void)l->cublasLtMatmulDescDestroy(p->what);
    if (p->w)
        (void)l->cublasLtMatrixLayoutDestroy(p->w);
    if (p->x)
        (void)l->cublasLtMatrixLayoutDestroy(p->x);
    if (p->y)
        (void)l->cublasLtMatrixLayoutDestroy(p->y);
    if (p->preference)
        (void)l->cublasLtMatmulPreferenceDestroy(p->preference);
}

void queue(const struct context *c, struct product *p, const struct qg_tensor *x,
           const struct qg_tensor *w, const struct qg_tensor *y)
{
    const struct library *l = the_library();
    const float real[2] = {1.0f, 0.0f};
    const int32_t whole[2] = {1, 0};
    const bool integers = y->dtype == QG_I32;
    const void *one = integers ? (const void *)&whole[0] : &real[0],
               *zero = integers ? (const void *)&whole[1] : &real[1];
    cublasLtMatmulHeuristicResult_t found = {};
    int count = 0;
    if (p->status == CUBLAS_STATUS_SUCCESS)
        p->also(l->cublasLtMatmulAlgoGetHeuristic(c->handle, p->what, p->w, p->x, p->y, p->y,
                                                  p->preference, 1, &found, &count));
    if (p->status == CUBLAS_STATUS_SUCCESS && count == 0)
        p->status = CUBLAS_STATUS_NOT_SUPPORTED;
    if (p->status == CUBLAS_STATUS_SUCCESS)
        p->also(l->cublasLtMatmul(c->handle, p->what, one, w->data, p->w, x->data, p->x, zero,
                                  y->data, p->y, y->data, p->y, &found.algo, c->workspace,
                                  WORKSPACE, qg_cuda_stream()));
}

} // namespace

void qg_cublas_product(const struct qg_args *a, const struct qg_tensor *x,
                       const struct qg_tensor *w, const struct qg_tensor *y)
{
    static const struct context context = make_context(); // of the process that launches
    struct product p = {};
    p.status = context.status;
    if (p.status == CUBLAS_STATUS_SUCCESS) {
        p = describe(x, w, y);
        queue(&context, &p, x, w, y);
        forget(&p);
    }
    if (p.status == CUBLAS_STATUS_SUCCESS || !a->failure)
        return;
    a->failure->no_room = p.status == CUBLAS_STATUS_ALLOC_FAILED;
    snprintf(a->failure->text, sizeof a->failure->text, "cuBLASLt says of %zux%zux%zu: %s",
             x->shape[0], w->shape[0], x->shape[1],
             the_library()->cublasLtGetStatusString(p.status));
}

bool qg_cublas_probe(char *text, size_t size)
{
    char device[200];
    const struct library *l = the_library();
    if (!qg_cuda_probe(device, sizeof device)) {
        snprintf(text, size, "%s", device);
        return false;
    }
    if (l->why[0]) {
        snprintf(text, size, "%s", l->why);
        return false;
    }
    const size_t v = l->cublasLtGetVersion();
    snprintf(text, size, "cuBLASLt %zu.%zu.%zu, %d MiB of workspace, on %s", v / 10000,
             v / 100 % 100, v % 100, WORKSPACE >> 20, device);
    return true;
}
