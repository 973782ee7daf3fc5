/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/cublas.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdio.h>

#include "kernels/cuda/narrow.cuh"

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
    F(cublasLtMatmulAlgoConfigGetAttribute) \
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
#ifdef QG_TOOLKIT_LIBRARIES // where nvcc's own are, which the loader need not know
    char beside[600];
    snprintf(beside, sizeof beside, QG_TOOLKIT_LIBRARIES "/%s", name);
    if (!from)
        from = dlopen(beside, RTLD_NOW | RTLD_LOCAL);
#endif
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
    case QG_E4M3:
        return CUDA_R_8F_E4M3;
    case QG_U8:
        return CUDA_R_4F_E2M1; // two to a byte
    case QG_I8:
        return CUDA_R_8I;
    case QG_I32:
        return CUDA_R_32I;
    default:
        return CUDA_R_32F;
    }
}

/* Numbers of a row. */
size_t extent_of(const struct qg_factor *f)
{
    return f->t.shape[1] * (f->t.dtype == QG_U8 ? 2 : 1);
}

void set(struct product *p, cublasLtMatmulDescAttributes_t what, const void *value, size_t size)
{
    p->also(the_library()->cublasLtMatmulDescSetAttribute(p->what, what, value, size));
}

void scale(struct product *p, const struct qg_factor *f, cublasLtMatmulDescAttributes_t mode,
           cublasLtMatmulDescAttributes_t pointer)
{
    static const int32_t modes[] = {
        0,
        CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F,
        CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F,
        CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F,
        CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F,
        CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0,
        CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3,
    };
    if (f->by == QG_SCALE_NONE)
        return;
    set(p, mode, &modes[f->by], sizeof modes[f->by]);
    set(p, pointer, &f->scales, sizeof f->scales);
}

struct product describe(const struct qg_factor *x, const struct qg_factor *w,
                        const struct qg_tensor *y)
{
    const struct library *l = the_library();
    const bool integers = y->dtype == QG_I32;
    const size_t m = x->t.shape[0], k = extent_of(x), n = w->t.shape[0], workspace = WORKSPACE;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const int8_t careful = 0; // sums of fp8 leave the tensor cores now and then
    struct product p = {};
    p.also(l->cublasLtMatmulDescCreate(&p.what,
                                       integers  ? CUBLAS_COMPUTE_32I
                                       : x->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                 : CUBLAS_COMPUTE_32F,
                                       integers ? CUDA_R_32I : CUDA_R_32F));
    set(&p, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
    if (x->by != QG_SCALE_NONE)
        set(&p, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &careful, sizeof careful);
    scale(&p, w, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER);
    scale(&p, x, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER);
    p.also(l->cublasLtMatrixLayoutCreate(&p.w, type_of(w->t.dtype), k, n, (int64_t)k));
    p.also(l->cublasLtMatrixLayoutCreate(&p.x, type_of(x->t.dtype), k, m, (int64_t)k));
    p.also(l->cublasLtMatrixLayoutCreate(&p.y, type_of(y->dtype), n, m, (int64_t)n));
    p.also(l->cublasLtMatmulPreferenceCreate(&p.preference));
    p.also(l->cublasLtMatmulPreferenceSetAttribute(
        p.preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace));
    const uint32_t reduction =
        CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; // the others round parts to y
    p.also(l->cublasLtMatmulPreferenceSetAttribute(
        p.preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction, sizeof reduction));
    static const cublasLtMatmulPreferenceAttributes_t sides[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const uint32_t alignment = 16; // it would count on 256
    for (const auto side : sides)
        p.also(l->cublasLtMatmulPreferenceSetAttribute(p.preference, side, &alignment,
                                                       sizeof alignment));
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

/* --- the algorithm ---------------------------------------------------------------------------- */

enum { OFFERS = 8 };

/* What cuBLASLt says of the algorithm that its heuristics put first. */
void tell_choice(const cublasLtMatmulHeuristicResult_t *found, int count, char *text, size_t size)
{
    static const struct {
        cublasLtMatmulAlgoConfigAttributes_t what;
        const char *name;
        size_t size;
    } attributes[] = {
        {CUBLASLT_ALGO_CONFIG_ID, "algorithm", 4},
        {CUBLASLT_ALGO_CONFIG_TILE_ID, "tile", 4},
        {CUBLASLT_ALGO_CONFIG_STAGES_ID, "stages", 4},
        {CUBLASLT_ALGO_CONFIG_SPLITK_NUM, "split-k", 4},
        {CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, "reduction", 4},
        {CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, "swizzle", 4},
        {CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, "option", 4},
        {CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, "inner", 2},
        {CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, "cluster", 2},
    };
    size_t at = 0, written;
    text[0] = '\0';
    for (const auto &a : attributes) {
        uint32_t value = 0;
        if (the_library()->cublasLtMatmulAlgoConfigGetAttribute(
                &found->algo, a.what, &value, a.size, &written) == CUBLAS_STATUS_SUCCESS)
            at = qg_least(at + (size_t)snprintf(text + at, size - at, "%s %u, ", a.name, value),
                          size - 1);
    }
    snprintf(text + at, size - at, "workspace %zu, waves %.3g, first of %d", found->workspaceSize,
             (double)found->wavesCount, count);
}

/* --- into the stream -------------------------------------------------------------------------- */

void queue(const struct qg_args *a, const struct context *c, struct product *p, const void *x,
           const void *w, const struct qg_tensor *y)
{
    const struct library *l = the_library();
    const float real[2] = {1.0f, 0.0f};
    const int32_t whole[2] = {1, 0};
    const bool integers = y->dtype == QG_I32;
    const void *one = integers ? (const void *)&whole[0] : &real[0],
               *zero = integers ? (const void *)&whole[1] : &real[1];
    cublasLtMatmulHeuristicResult_t found[OFFERS] = {};
    int count = 0;
    if (p->status == CUBLAS_STATUS_SUCCESS)
        p->also(l->cublasLtMatmulAlgoGetHeuristic(c->handle, p->what, p->w, p->x, p->y, p->y,
                                                  p->preference, OFFERS, found, &count));
    if (p->status == CUBLAS_STATUS_SUCCESS && count == 0)
        p->status = CUBLAS_STATUS_NOT_SUPPORTED;
    if (p->status != CUBLAS_STATUS_SUCCESS)
        return;
    if (a->choice)
        tell_choice(&found[0], count, a->choice->text, sizeof a->choice->text);
    p->also(l->cublasLtMatmul(c->handle, p->what, one, w, p->w, x, p->x, zero, y->data, p->y,
                              y->data, p->y, &found[0].algo, c->workspace, WORKSPACE,
                              qg_cuda_stream()));
}

/* The probes know which devices have which format; kernels for it may still be missing in this
 * cuBLASLt. */
enum qg_cause cause_of(cublasStatus_t s)
{
    switch (s) {
    case CUBLAS_STATUS_ALLOC_FAILED:
        return QG_CAUSE_NO_ROOM;
    case CUBLAS_STATUS_NOT_SUPPORTED:
    case CUBLAS_STATUS_ARCH_MISMATCH:
        return QG_CAUSE_ABSENT;
    default:
        return QG_CAUSE_KERNEL;
    }
}

} // namespace

void qg_cublas_product(const struct qg_args *a, const struct qg_factor *x,
                       const struct qg_factor *w, const struct qg_tensor *y)
{
    static const struct context context = make_context(); // of the process that launches
    struct product p = {};
    p.status = context.status;
    if (p.status == CUBLAS_STATUS_SUCCESS) {
        p = describe(x, w, y);
        queue(a, &context, &p, x->t.data, w->t.data, y);
        forget(&p);
    }
    if (p.status == CUBLAS_STATUS_SUCCESS)
        return;
    (void)cudaMemsetAsync(y->data, 0, qg_bytes(y), qg_cuda_stream()); // kernels that follow read it
    if (!a->failure)
        return;
    a->failure->cause = cause_of(p.status);
    snprintf(a->failure->text, sizeof a->failure->text, "cuBLASLt says of %zux%zux%zu: %s",
             x->t.shape[0], w->t.shape[0], extent_of(x),
             the_library()->cublasLtGetStatusString(p.status));
}

/* --- factors of other extents ----------------------------------------------------------------- */

namespace
{

struct widening {
    const void *from;
    void *to;
    size_t rows, bytes, width; // rows of `bytes` become rows of `width`

    __device__ void piece(size_t row, size_t at, size_t n) const
    {
        const size_t there = row < rows && at < bytes ? qg_least(bytes - at, n) : 0;
        const struct qg_codes q = qg_load_bytes(from, there ? row * bytes + at : 0, there);
        qg_store_bytes(to, row * width + at, n, &q);
    }
};

struct rounding {
    struct qg_tensor y;

    __device__ float finish(size_t, size_t, float sum) const
    {
        return sum;
    }
};

} // namespace

struct qg_tensor qg_widened(const struct qg_tensor &t, size_t rows, size_t cols, float **at)
{
    if (t.shape[0] == rows && t.shape[1] == cols)
        return t;
    const struct qg_tensor wide = qg_scratch(t.dtype, rows, cols, at);
    const size_t element = qg_dtype_bytes(t.dtype);
    qg_pieces(widening{t.data, wide.data, t.shape[0], t.shape[1] * element, cols * element}, rows,
              cols * element);
    return wide;
}

void qg_multiply_scaled(const struct qg_args *a, const struct qg_factor &x,
                        const struct qg_factor &w, float *scratch)
{
    if (x.t.shape[0] == a->m && w.t.shape[0] == a->rows)
        qg_cublas_product(a, &x, &w, &a->out[0]);
    else
        qg_multiply_narrow<float>(rounding{a->out[0]}, a, x, w, scratch);
}

/* --- what is there ---------------------------------------------------------------------------- */

/* `since`: the first version of cuBLASLt that has it, 120900 for 12.9. */
static bool has(bool yes, size_t since, const char *what, char *text, size_t size)
{
    const struct library *l = the_library();
    const size_t v = l->why[0] ? 0 : l->cublasLtGetVersion();
    if (!yes)
        snprintf(text, size, "%s; this is sm_%d", what, qg_cuda_arch());
    else if (v < since)
        snprintf(text, size, "%s, from %zu.%zu on; this is %zu.%zu", what, since / 10000,
                 since / 100 % 100, v / 10000, v / 100 % 100);
    return yes && v >= since;
}

bool qg_cublas_has_fp8(char *text, size_t size)
{
    return has(qg_cuda_arch() >= 89, 120000, "cuBLASLt multiplies e4m3 from sm_89 on", text, size);
}

bool qg_cublas_has_float_scales(char *text, size_t size)
{
    return has(qg_cuda_arch() == 90, 120900,
               "cuBLASLt has scales of rows and of 128 on sm_90 alone", text, size);
}

bool qg_cublas_has_block_scales(char *text, size_t size)
{
    return has(qg_cuda_arch() >= 100, 120800, "cuBLASLt has block scales from sm_100 on", text,
               size);
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
