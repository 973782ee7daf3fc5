/* SPDX-License-Identifier: MIT
 *
 * Products asked of the stand-in for cuBLASLt, right ones and with one planted mistake each.
 */
#include <cublasLt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/simt/planted.h"

namespace
{

/* D [m,n] = A^T [m,k] B [k,n]. Numbers of bytes that end in `off` move a pointer away from its
 * alignment. */
struct request {
    cudaDataType a, b, d;
    cublasComputeType_t compute;
    cudaDataType scale;
    int32_t a_mode, b_mode; // -1: no scales are set
    uint64_t m, n, k;
    uint64_t beyond;    // k of B
    int64_t a_ld, d_ld; // beyond the least
    cublasOperation_t a_op, b_op;
    uint32_t alignment;
    size_t a_off, b_off, d_off, scale_off, workspace_off;
    size_t preferred, workspace;          // bytes
    size_t a_lacks, b_lacks, scale_lacks; // bytes at the end that are not there, or have no value
    bool no_scales, unclean;              // NULL; not zero beyond the matrix
    float beta;
};

enum base { NUMBERS, SHORTENED, SPLIT, INTEGERS, TENSOR, ROWS, TILES, MXFP8, NVFP4 };

const struct request bases[] = {
    {CUDA_R_16BF, CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_32F, CUDA_R_32F, -1, -1},
    {CUDA_R_32F, CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32, CUDA_R_32F, -1, -1},
    {CUDA_R_16BF, CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_32F, CUDA_R_32F, -1, -1},
    {CUDA_R_8I, CUDA_R_8I, CUDA_R_32I, CUBLAS_COMPUTE_32I, CUDA_R_32I, -1, -1},
    {CUDA_R_8F_E4M3, CUDA_R_8F_E4M3, CUDA_R_16BF, CUBLAS_COMPUTE_32F, CUDA_R_32F,
     CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F, CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F},
    {CUDA_R_8F_E4M3, CUDA_R_8F_E4M3, CUDA_R_32F, CUBLAS_COMPUTE_32F, CUDA_R_32F,
     CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F},
    {CUDA_R_8F_E4M3, CUDA_R_8F_E4M3, CUDA_R_32F, CUBLAS_COMPUTE_32F, CUDA_R_32F,
     CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F, CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F},
    {CUDA_R_8F_E4M3, CUDA_R_8F_E4M3, CUDA_R_32F, CUBLAS_COMPUTE_32F, CUDA_R_32F,
     CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0, CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0},
    {CUDA_R_4F_E2M1, CUDA_R_4F_E2M1, CUDA_R_32F, CUBLAS_COMPUTE_32F, CUDA_R_32F,
     CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3, CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3},
};

struct request request_of(enum base b)
{
    struct request r = bases[b];
    r.m = b == SPLIT ? 48 : 144; // not whole tiles; one that is split by K wants a workspace
    r.n = 20;
    r.k = 1056;
    r.a_op = CUBLAS_OP_T, r.b_op = CUBLAS_OP_N;
    r.alignment = 16;
    r.preferred = r.workspace = 1 << 20;
    return r;
}

/* --- numbers ---------------------------------------------------------------------------------- */

size_t bits_of(cudaDataType t)
{
    return t == CUDA_R_4F_E2M1                   ? 4
           : t == CUDA_R_32F || t == CUDA_R_32I  ? 32
           : t == CUDA_R_16BF || t == CUDA_R_16F ? 16
                                                 : 8;
}

/* Everything that is multiplied is 1. */
void fill_ones(unsigned char *p, size_t bytes, cudaDataType t)
{
    for (size_t i = 0; i < bytes; i++)
        p[i] = t == CUDA_R_4F_E2M1                                   ? 0x22
               : t == CUDA_R_8F_E4M3                                 ? 0x38
               : t == CUDA_R_8F_E5M2                                 ? 0x3c
               : t == CUDA_R_8I                                      ? 1
               : t == CUDA_R_16BF && i % 2                           ? 0x3f
               : t == CUDA_R_16BF || (t == CUDA_R_32F && i % 4 == 2) ? 0x80
               : t == CUDA_R_32F && i % 4 == 3                       ? 0x3f
                                                                     : 0;
}

size_t up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

size_t extent_of(int32_t mode, size_t k)
{
    return mode == CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3   ? 16
           : mode == CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0 ? 32
           : mode >= CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F  ? 128
                                                              : k;
}

/* The scale of piece p of row o: powers of two that differ among neighbours. */
double scale_of(int32_t mode, size_t o, size_t p)
{
    if (mode < 0)
        return 1;
    if (mode == CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F)
        return 2;
    if (mode == CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F)
        o /= 128;
    return ldexp(1, (int)((5 * o + 3 * p) % 7) - 3);
}

/* Scales of `outer` rows as the documentation lays them out, each by its indices. */
size_t lay_scales(int32_t mode, size_t outer, size_t k, bool unclean, unsigned char *to)
{
    const size_t pieces = up(k, extent_of(mode, k)) / extent_of(mode, k), across = up(pieces, 4);
    float *f = (float *)to;
    size_t bytes = sizeof *f;
    for (size_t o = 0; o < outer; o++)
        for (size_t p = 0; p < pieces; p++) {
            const double s = scale_of(mode, o, p);
            const int e = ilogb(s);
            const size_t tiled =
                (o / 128 * across / 4 + p / 4) * 512 + o % 32 * 16 + o % 128 / 32 * 4 + p % 4;
            switch (mode) {
            case CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0:
                to[tiled] = (unsigned char)(127 + e);
                bytes = up(outer, 128) * across;
                break;
            case CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3:
                to[tiled] = (unsigned char)((7 + e) << 3);
                bytes = up(outer, 128) * across;
                break;
            case CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F:
                f[o + p * outer] = (float)s;
                bytes = outer * pieces * sizeof *f;
                break;
            case CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F:
                f[o / 128 * across + p] = (float)s;
                bytes = up(outer, 128) / 128 * across * sizeof *f;
                break;
            default:
                f[o] = (float)s;
                bytes = mode == CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F ? 4 : outer * sizeof *f;
            }
        }
    if (unclean)
        to[bytes - 1] = 1;
    return bytes;
}

/* --- one product ------------------------------------------------------------------------------ */

enum { MOST = 1 << 20 };

/* Bytes in device memory, `off` behind an alignment of 256, without the last `lacks`. */
char *put(const void *from, size_t bytes, size_t off, size_t lacks)
{
    void *p = NULL;
    if (cudaMalloc(&p, bytes + off - lacks) != cudaSuccess)
        return NULL;
    (void)cudaMemcpy((char *)p + off, from, bytes - lacks, cudaMemcpyHostToDevice);
    return (char *)p + off;
}

struct product {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t what;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulPreference_t preference;
    char *at_a, *at_b, *at_d, *workspace;
    size_t d_ld;
};

/* Sets what a side's scales are; what goes wrong is the product's to say. */
void set_scales(const struct request *r, struct product *p, bool of_a)
{
    static unsigned char bytes[MOST];
    const int32_t mode = of_a ? r->a_mode : r->b_mode;
    if (mode < 0)
        return;
    memset(bytes, 0, sizeof bytes);
    const size_t n = lay_scales(mode, of_a ? r->m : r->n, r->k, r->unclean, bytes);
    char *at = r->no_scales ? NULL : put(bytes, n, r->scale_off, r->scale_lacks);
    (void)cublasLtMatmulDescSetAttribute(
        p->what, of_a ? CUBLASLT_MATMUL_DESC_A_SCALE_MODE : CUBLASLT_MATMUL_DESC_B_SCALE_MODE,
        &mode, sizeof mode);
    (void)cublasLtMatmulDescSetAttribute(
        p->what, of_a ? CUBLASLT_MATMUL_DESC_A_SCALE_POINTER : CUBLASLT_MATMUL_DESC_B_SCALE_POINTER,
        &at, sizeof at);
}

void describe(const struct request *r, struct product *p)
{
    static unsigned char ones[MOST];
    const bool tn = r->a_op == CUBLAS_OP_T;
    const uint64_t a_rows = tn ? r->k : r->m, a_cols = tn ? r->m : r->k;
    const size_t a_ld = a_rows + (size_t)r->a_ld, b_ld = r->k + r->beyond;
    p->d_ld = r->m + (size_t)r->d_ld;
    (void)cublasLtCreate(&p->handle);
    (void)cublasLtMatmulDescCreate(&p->what, r->compute, r->scale);
    (void)cublasLtMatmulDescSetAttribute(p->what, CUBLASLT_MATMUL_DESC_TRANSA, &r->a_op,
                                         sizeof r->a_op);
    (void)cublasLtMatmulDescSetAttribute(p->what, CUBLASLT_MATMUL_DESC_TRANSB, &r->b_op,
                                         sizeof r->b_op);
    set_scales(r, p, true);
    set_scales(r, p, false);
    (void)cublasLtMatrixLayoutCreate(&p->a, r->a, a_rows, a_cols, (int64_t)a_ld);
    (void)cublasLtMatrixLayoutCreate(&p->b, r->b, b_ld, r->n, (int64_t)b_ld);
    (void)cublasLtMatrixLayoutCreate(&p->d, r->d, r->m, r->n, (int64_t)p->d_ld);
    (void)cublasLtMatmulPreferenceCreate(&p->preference);
    (void)cublasLtMatmulPreferenceSetAttribute(p->preference,
                                               CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                               &r->preferred, sizeof r->preferred);
    for (int side = 0; side < 4; side++)
        (void)cublasLtMatmulPreferenceSetAttribute(
            p->preference,
            (cublasLtMatmulPreferenceAttributes_t)(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES +
                                                   side),
            &r->alignment, sizeof r->alignment);
    fill_ones(ones, sizeof ones, r->a);
    p->at_a = put(ones, a_ld * a_cols * bits_of(r->a) / 8, r->a_off, r->a_lacks);
    fill_ones(ones, sizeof ones, r->b);
    p->at_b = put(ones, b_ld * r->n * bits_of(r->b) / 8, r->b_off, r->b_lacks);
    p->at_d = put(ones, p->d_ld * r->n * bits_of(r->d) / 8, r->d_off, 0);
    p->workspace = put(ones, r->workspace, r->workspace_off, 0);
}

cublasStatus_t queue(const struct request *r, const struct product *p)
{
    const float real[2] = {1.0f, r->beta};
    const int32_t whole[2] = {1, 0};
    const bool integers = r->compute == CUBLAS_COMPUTE_32I;
    cublasLtMatmulHeuristicResult_t found = {};
    int count = 0;
    const cublasStatus_t s = cublasLtMatmulAlgoGetHeuristic(p->handle, p->what, p->a, p->b, p->d,
                                                            p->d, p->preference, 1, &found, &count);
    if (s != CUBLAS_STATUS_SUCCESS)
        return s;
    return cublasLtMatmul(p->handle, p->what, integers ? (const void *)&whole[0] : &real[0],
                          p->at_a, p->a, p->at_b, p->b,
                          integers ? (const void *)&whole[1] : &real[1], p->at_d, p->d, p->at_d,
                          p->d, &found.algo, p->workspace, r->workspace, cudaStreamPerThread);
}

/* Whether D is the sum of the products of scales that it should be. */
bool is_right(const struct request *r, const struct product *p)
{
    static unsigned char d[MOST];
    const size_t extent = extent_of(r->b_mode, r->k);
    (void)cudaMemcpy(d, p->at_d, p->d_ld * r->n * bits_of(r->d) / 8, cudaMemcpyDeviceToHost);
    for (size_t n = 0; n < r->n; n++)
        for (size_t m = 0; m < r->m; m++) {
            double want = 0, got;
            for (size_t at = 0; at < r->k; at += extent)
                want += (double)(r->k - at < extent ? r->k - at : extent) *
                        scale_of(r->a_mode, m, at / extent) * scale_of(r->b_mode, n, at / extent);
            const size_t i = n * p->d_ld + m;
            const uint32_t half = r->d == CUDA_R_16BF ? (uint32_t)((uint16_t *)d)[i] << 16 : 0;
            float value = ((float *)d)[r->d == CUDA_R_16BF ? 0 : i];
            if (half)
                memcpy(&value, &half, sizeof value);
            got = r->d == CUDA_R_32I ? ((int32_t *)d)[i] : value;
            if (got != want && !(half && got / want - 1 < 0x1p-8 && want / got - 1 < 0x1p-8))
                return false;
        }
    return true;
}

/* --- mistakes --------------------------------------------------------------------------------- */

struct mistake {
    struct simt_product_case said;
    enum base base;
    void (*spoil)(struct request *r);
};

#define SPOIL(what) [](struct request *r) { what; }
enum { INVALID = CUBLAS_STATUS_INVALID_VALUE, UNSUPPORTED = CUBLAS_STATUS_NOT_SUPPORTED };

const struct mistake mistakes[] = {
    {{"k differs", "sm_90", INVALID, NULL}, NUMBERS, SPOIL(r->beyond = 16)},
    {{"leading dimension too small", "sm_90", INVALID, NULL}, NUMBERS, SPOIL(r->a_ld = -8)},
    {{"beta", "sm_90", INVALID, NULL}, NUMBERS, SPOIL(r->beta = 1)},
    {{"types differ", "sm_90", UNSUPPORTED, NULL}, NUMBERS, SPOIL(r->b = CUDA_R_16F)},
    {{"D of another half", "sm_90", UNSUPPORTED, NULL}, NUMBERS, SPOIL(r->d = CUDA_R_16F)},
    {{"scales of wide numbers", "sm_90", INVALID, NULL}, NUMBERS, SPOIL(r->a_mode = 0)},
    {{"A less aligned than promised", "sm_90", INVALID, NULL}, NUMBERS, SPOIL(r->a_off = 8)},
    {{"B less aligned than promised", "sm_90", INVALID, NULL}, NUMBERS, SPOIL(r->b_off = 8)},
    {{"D less aligned than promised", "sm_90", INVALID, NULL}, NUMBERS, SPOIL(r->d_off = 4)},
    {{"alignment promised by default", "sm_90", INVALID, NULL},
     NUMBERS,
     SPOIL(r->alignment = 256; r->a_off = 16)},
    {{"workspace at 16 bytes", "sm_90", INVALID, NULL}, NUMBERS, SPOIL(r->workspace_off = 16)},
    {{"workspace too small", "sm_90", INVALID, NULL}, SPLIT, SPOIL(r->workspace = 4096)},
    {{"A without its end", "sm_90", 0, "cuBLASLt reads"}, NUMBERS, SPOIL(r->a_lacks = 2)},
    {{"B without its end", "sm_90", 0, "cuBLASLt reads"}, NUMBERS, SPOIL(r->b_lacks = 2)},
    {{"BF16 as TF32", "sm_90", UNSUPPORTED, NULL}, SHORTENED, SPOIL(r->a = r->b = CUDA_R_16BF)},
    {{"TF32 to BF16", "sm_90", UNSUPPORTED, NULL}, SHORTENED, SPOIL(r->d = CUDA_R_16BF)},
    {{"int8 not transposed", "sm_90", UNSUPPORTED, NULL}, INTEGERS, SPOIL(r->a_op = CUBLAS_OP_N)},
    {{"int8 with k of 2", "sm_90", UNSUPPORTED, NULL}, INTEGERS, SPOIL(r->k -= 2)},
    {{"int8 with m of 2", "sm_90", UNSUPPORTED, NULL}, INTEGERS, SPOIL(r->m -= 2)},
    {{"int8 with a leading dimension of 2", "sm_90", UNSUPPORTED, NULL},
     INTEGERS,
     SPOIL(r->d_ld = 2)},
    {{"int8 to binary32", "sm_90", UNSUPPORTED, NULL}, INTEGERS, SPOIL(r->d = CUDA_R_32F)},
    {{"fp8 on sm_80", "sm_80", UNSUPPORTED, NULL}, TENSOR, SPOIL((void)r)},
    {{"fp8 not transposed", "sm_90", UNSUPPORTED, NULL}, TENSOR, SPOIL(r->a_op = CUBLAS_OP_N)},
    {{"fp8 with k of 8", "sm_90", UNSUPPORTED, NULL}, TENSOR, SPOIL(r->k -= 8)},
    {{"fp8 with m of 4", "sm_90", UNSUPPORTED, NULL}, TENSOR, SPOIL(r->m -= 4)},
    {{"fp8 with a leading dimension of 4", "sm_90", UNSUPPORTED, NULL}, TENSOR, SPOIL(r->d_ld = 4)},
    {{"e5m2 with e5m2", "sm_90", UNSUPPORTED, NULL}, TENSOR, SPOIL(r->a = r->b = CUDA_R_8F_E5M2)},
    {{"fp8 to integers", "sm_90", UNSUPPORTED, NULL}, TENSOR, SPOIL(r->d = CUDA_R_32I)},
    {{"fp8 in integers", "sm_90", UNSUPPORTED, NULL},
     TENSOR,
     SPOIL(r->compute = CUBLAS_COMPUTE_32I)},
    {{"a tensor's scale and rows' scales", "sm_90", UNSUPPORTED, NULL},
     TENSOR,
     SPOIL(r->b_mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F)},
    {{"rows' scales on sm_100", "sm_100", UNSUPPORTED, NULL}, ROWS, SPOIL((void)r)},
    {{"rows' scales are not there", "sm_90", INVALID, NULL}, ROWS, SPOIL(r->no_scales = true)},
    {{"rows' scales at 4 bytes", "sm_90", INVALID, NULL}, ROWS, SPOIL(r->scale_off = 4)},
    {{"a row's scale is missing", "sm_90", 0, "cuBLASLt reads"}, ROWS, SPOIL(r->scale_lacks = 4)},
    {{"tiles on sm_100", "sm_100", UNSUPPORTED, NULL}, TILES, SPOIL((void)r)},
    {{"tiles on both sides", "sm_90", UNSUPPORTED, NULL},
     TILES,
     SPOIL(r->b_mode = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F)},
    {{"pieces of 2 rows", "sm_90", UNSUPPORTED, NULL}, TILES, SPOIL(r->n -= 2)},
    {{"a column's scale is missing", "sm_90", 0, "cuBLASLt reads"},
     TILES,
     SPOIL(r->scale_lacks = 4)},
    {{"block scales on sm_90", "sm_90", UNSUPPORTED, NULL}, MXFP8, SPOIL((void)r)},
    {{"fp8 with scales of fp4", "sm_100", UNSUPPORTED, NULL},
     MXFP8,
     SPOIL(r->a_mode = r->b_mode = CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3)},
    {{"tiles of scales at 8 bytes", "sm_100", INVALID, NULL}, MXFP8, SPOIL(r->scale_off = 8)},
    {{"tiles of scales cut off", "sm_100", 0, "cuBLASLt reads"}, MXFP8, SPOIL(r->scale_lacks = 1)},
    {{"tiles of scales not clean", "sm_100", 0, "wants zeros where tiles of scales go beyond"},
     MXFP8,
     SPOIL(r->unclean = true)},
    {{"fp4 on sm_90", "sm_90", UNSUPPORTED, NULL}, NVFP4, SPOIL((void)r)},
    {{"fp4 with scales of fp8", "sm_100", UNSUPPORTED, NULL},
     NVFP4,
     SPOIL(r->a_mode = r->b_mode = CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0)},
    {{"fp4 with a tensor's scale", "sm_100", UNSUPPORTED, NULL},
     NVFP4,
     SPOIL(r->a_mode = r->b_mode = 0)},
    {{"fp4 with fp8", "sm_100", UNSUPPORTED, NULL}, NVFP4, SPOIL(r->b = CUDA_R_8F_E4M3)},
    {{"fp4 not transposed", "sm_100", UNSUPPORTED, NULL}, NVFP4, SPOIL(r->a_op = CUBLAS_OP_N)},
    {{"fp4 with k of 16", "sm_100", UNSUPPORTED, NULL}, NVFP4, SPOIL(r->k -= 16)},
};
enum { MISTAKES = sizeof mistakes / sizeof mistakes[0] };

} // namespace

const struct simt_product_case *simt_product_at(size_t i)
{
    return i < MISTAKES ? &mistakes[i].said : NULL;
}

const char *simt_product_arch(size_t i)
{
    return mistakes[i].base >= MXFP8 ? "sm_100" : "sm_90";
}

int simt_multiply(size_t i, int mistaken, int captured)
{
    const struct mistake *m = &mistakes[i];
    struct request r = request_of(m->base);
    struct product p = {};
    if (mistaken)
        m->spoil(&r);
    describe(&r, &p);
    if (!captured) {
        const cublasStatus_t s = queue(&r, &p);
        return s != CUBLAS_STATUS_SUCCESS ? s : is_right(&r, &p) ? 0 : -1;
    }
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    (void)cudaStreamBeginCapture(cudaStreamPerThread, cudaStreamCaptureModeThreadLocal);
    const cublasStatus_t s = queue(&r, &p);
    (void)cudaStreamEndCapture(cudaStreamPerThread, &graph);
    if (s != CUBLAS_STATUS_SUCCESS)
        return s;
    (void)cudaGraphInstantiate(&exec, graph, 0);
    const cudaError_t e = cudaGraphLaunch(exec, cudaStreamPerThread);
    return e != cudaSuccess ? CUBLAS_STATUS_EXECUTION_FAILED : is_right(&r, &p) ? 0 : -1;
}
