/* SPDX-License-Identifier: MIT
 *
 * The stand-in for cuBLASLt, as the shared library that programs look for. Column-major as the real
 * one: D [m,n] = op(A) [m,k] op(B) [k,n].
 */
#include <cublasLt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "schemes/num/bf16.h"
#include "schemes/num/fp16.h"
#include "schemes/num/fp8.h"
#include "schemes/num/mx.h"
#include "tests/simt/inside.h"

struct cublasLtContext {
    int unused;
};
struct simt_scales {
    int32_t mode; /* cublasLtMatmulMatrixScale_t */
    const void *at;
};
struct simt_matmul {
    cublasComputeType_t compute;
    cudaDataType_t scale;
    cublasOperation_t a, b;
    struct simt_scales a_scales, b_scales;
    int8_t fast;
};
struct simt_matrix {
    cudaDataType type;
    uint64_t rows, cols;
    int64_t ld;
};
struct simt_preference {
    size_t workspace;
    uint32_t reductions;   /* cublasLtReductionScheme_t that may be taken */
    uint32_t alignment[4]; /* of A, B, C, D */
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

template <class T> static cublasStatus_t set(T *to, const void *value, size_t size)
{
    if (size != sizeof *to)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    return create(handle, {});
}

size_t cublasLtGetVersion(void)
{
    const char *version = getenv("QG_SIMT_CUBLASLT");
    return version ? strtoull(version, NULL, 10) : 130000;
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
    case CUBLAS_STATUS_ARCH_MISMATCH:
        return "the function requires a feature absent from the device architecture";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "the function failed to launch on the GPU";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "the functionality requested is not supported";
    default:
        return "the library was not initialized";
    }
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    return create(desc, {compute, scale, CUBLAS_OP_N, CUBLAS_OP_N, {}, {}, 0});
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t what,
                                              const void *value, size_t size)
{
    struct simt_scales *a = &desc->a_scales, *b = &desc->b_scales;
    switch (what) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return set(&desc->a, value, size);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return set(&desc->b, value, size);
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE:
        return set(&a->mode, value, size);
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE:
        return set(&b->mode, value, size);
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
        return set(&a->at, value, size);
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER:
        return set(&b->at, value, size);
    case CUBLASLT_MATMUL_DESC_FAST_ACCUM:
        return set(&desc->fast, value, size);
    default:
        return CUBLAS_STATUS_INVALID_VALUE;
    }
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
    return create(preference, {0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}});
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t what,
                                                    const void *value, size_t size)
{
    if (what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
        return set(&preference->workspace, value, size);
    if (what == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
        return set(&preference->reductions, value, size);
    return set(&preference->alignment[what - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value,
               size);
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    return destroy(preference);
}

/* --- types ------------------------------------------------------------------------------------ */

static bool is_narrow(cudaDataType t)
{
    return t == CUDA_R_8F_E4M3 || t == CUDA_R_8F_E5M2 || t == CUDA_R_4F_E2M1;
}

static size_t bits_of(cudaDataType type)
{
    switch (type) {
    case CUDA_R_4F_E2M1:
        return 4;
    case CUDA_R_8I:
    case CUDA_R_8F_E4M3:
    case CUDA_R_8F_E5M2:
        return 8;
    case CUDA_R_16BF:
    case CUDA_R_16F:
        return 16;
    default:
        return 32;
    }
}

static bool is_float_out(cudaDataType t)
{
    return t == CUDA_R_32F || t == CUDA_R_16BF || t == CUDA_R_16F;
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

/* "All matrix dimensions must meet the optimal requirements": contiguous ones, in bytes. */
static bool is_in_sixteens(const struct simt_matrix *m)
{
    return m->rows * bits_of(m->type) % 128 == 0 && (uint64_t)m->ld * bits_of(m->type) % 128 == 0;
}

static bool is_tn(const struct simt_matmul *p)
{
    return p->a == CUBLAS_OP_T && p->b == CUBLAS_OP_N;
}

/* "Scaling Mode Support Overview", and the table of the two modes of 128. */
static bool scales_supported(const struct simt_matmul *p, const struct simt_matrix *a,
                             const struct simt_matrix *d)
{
    const int arch = 10 * simt_device()->major + simt_device()->minor;
    const int32_t x = p->a_scales.mode, y = p->b_scales.mode;
    const bool fp4 = a->type == CUDA_R_4F_E2M1;
    switch (x) {
    case CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F:
        return x == y && !fp4 && arch >= 89;
    case CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F:
        return x == y && !fp4 && arch == 90;
    case CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0:
        return x == y && !fp4 && arch >= 100;
    case CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3:
        return x == y && fp4 && arch >= 100;
    default: // of 128
        return (y == CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F ||
                y == CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F) &&
               (x != y || x == CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F) && !fp4 && arch == 90 &&
               d->rows % 4 == 0 && d->cols % 4 == 0;
    }
}

static bool narrow_supported(const struct simt_matmul *p, const struct simt_matrix *a,
                             const struct simt_matrix *b, const struct simt_matrix *d)
{
    const bool fp4 = a->type == CUDA_R_4F_E2M1;
    return is_narrow(b->type) && fp4 == (b->type == CUDA_R_4F_E2M1) &&
           !(a->type == CUDA_R_8F_E5M2 && b->type == CUDA_R_8F_E5M2) && is_float_out(d->type) &&
           p->compute == CUBLAS_COMPUTE_32F && p->scale == CUDA_R_32F &&
           (is_tn(p) || (!fp4 && simt_device()->major == 10)) && is_in_sixteens(a) &&
           is_in_sixteens(b) && is_in_sixteens(d) && scales_supported(p, a, d);
}

/* Integers: A transposed, B not, leading dimensions and m, n, k divisible by four ("Regular IMMA
 * kernels" want them so); numbers: A and B alike, binary32 or the same dtype out, TF32 of binary32
 * alone. */
static bool is_supported(const struct simt_matmul *p, const struct simt_matrix *a,
                         const struct simt_matrix *b, const struct simt_matrix *d)
{
    if (is_narrow(a->type))
        return narrow_supported(p, a, b, d);
    if (a->type != b->type)
        return false;
    if (p->compute == CUBLAS_COMPUTE_32I)
        return p->scale == CUDA_R_32I && a->type == CUDA_R_8I && d->type == CUDA_R_32I &&
               is_tn(p) && a->ld % 4 == 0 && b->ld % 4 == 0 && d->ld % 4 == 0 && a->rows % 4 == 0 &&
               a->cols % 4 == 0;
    return p->scale == CUDA_R_32F && is_float_out(a->type) &&
           (p->compute == CUBLAS_COMPUTE_32F ||
            (p->compute == CUBLAS_COMPUTE_32F_FAST_TF32 && a->type == CUDA_R_32F)) &&
           (d->type == CUDA_R_32F || d->type == a->type);
}

/* "If any scale is set for a non-narrow precisions matmul, cuBLAS will return an error." Where one
 * has to be, it lies at 16 bytes. */
static bool scales_stand(const struct simt_scales *s, bool narrow)
{
    if (!narrow)
        return s->mode == CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F && !s->at;
    return s->mode == CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F ||
           (s->at && (uintptr_t)s->at % 16 == 0);
}

/* --- the algorithm ---------------------------------------------------------------------------- */

/* What an algorithm's bytes say here. */
struct algorithm {
    uint16_t number, tile, stages, split, reduction, cluster;
    uint16_t alignment[4]; /* that it counts on */
    uint64_t workspace;
};

/* How parts of K are joined: the way that rounds most of those allowed; 0: none is. */
static uint16_t reduction_of(const struct simt_preference *preference)
{
    for (uint16_t r = CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE; r; r /= 2)
        if (preference->reductions & r)
            return r;
    return CUBLASLT_REDUCTION_SCHEME_NONE;
}

/* One of our own for every product: parts of K where there are many of them and few tiles. */
static struct algorithm choose(const struct simt_matrix *a, const struct simt_matrix *d,
                               const struct simt_preference *preference)
{
    const uint64_t tiles = (d->rows + 127) / 128 * ((d->cols + 127) / 128);
    struct algorithm c = {};
    c.number = a->type == CUDA_R_8I ? 21 : is_narrow(a->type) ? 66 : 6;
    c.tile = d->cols > 64 ? 20 : 15;
    c.stages = 12;
    c.reduction = reduction_of(preference);
    c.split = tiles == 1 && a->rows >= 1024 && c.reduction ? 4 : 1;
    c.workspace = c.split > 1 ? c.split * d->rows * d->cols * 4 : 0;
    if (c.workspace > preference->workspace) {
        c.split = 1;
        c.workspace = 0;
    }
    if (c.split == 1)
        c.reduction = CUBLASLT_REDUCTION_SCHEME_NONE;
    for (int i = 0; i < 4; i++)
        c.alignment[i] = (uint16_t)preference->alignment[i];
    return c;
}

/* The answer to who asks for a product of int8, where QG_SIMT_INT8 names one. */
static bool answers_int8(const struct simt_matrix *a, cublasStatus_t *ret)
{
    static const struct {
        const char *name;
        cublasStatus_t status;
    } answers[] = {{"none", CUBLAS_STATUS_SUCCESS}, // and no algorithm
                   {"unsupported", CUBLAS_STATUS_NOT_SUPPORTED},
                   {"mismatch", CUBLAS_STATUS_ARCH_MISMATCH},
                   {"invalid", CUBLAS_STATUS_INVALID_VALUE}};
    const char *asked = getenv("QG_SIMT_INT8");
    for (const auto &answer : answers)
        if (a->type == CUDA_R_8I && asked && strcmp(asked, answer.name) == 0) {
            *ret = answer.status;
            return true;
        }
    return false;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t result[], int *found)
{
    cublasStatus_t answer;
    *found = 0;
    if (answers_int8(a, &answer))
        return answer;
    if (!handle || wanted < 1 || !shapes_agree(desc, a, b, d) || c->type != d->type)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!is_supported(desc, a, b, d))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    const struct algorithm chosen = choose(a, d, preference);
    static_assert(sizeof chosen <= sizeof result[0].algo, "it has no more bytes");
    result[0] = {};
    memcpy(&result[0].algo, &chosen, sizeof chosen);
    result[0].workspaceSize = chosen.workspace;
    result[0].wavesCount = (float)(d->rows * d->cols) / (128.0f * 128.0f * 132.0f);
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t what,
                                                    void *value, size_t size, size_t *written)
{
    struct algorithm c;
    memcpy(&c, algo, sizeof c);
    const uint32_t values[] = {c.number, c.tile,   c.split, c.reduction, 0,
                               0,        c.stages, 0,       c.cluster};
    const size_t bytes = what >= CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID ? 2 : 4;
    if (size != bytes)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(value, &values[what], bytes); // little-endian
    *written = bytes;
    return CUBLAS_STATUS_SUCCESS;
}

/* --- numbers ---------------------------------------------------------------------------------- */

static double value(const void *p, cudaDataType type, size_t i)
{
    const uint8_t *bytes = (const uint8_t *)p;
    switch (type) {
    case CUDA_R_16BF:
        return qg_bf16_decode(((const qg_bf16 *)p)[i]);
    case CUDA_R_16F:
        return qg_fp16_decode(((const qg_fp16 *)p)[i]);
    case CUDA_R_8I:
        return ((const int8_t *)p)[i];
    case CUDA_R_8F_E4M3:
        return qg_e4m3_decode({bytes[i]});
    case CUDA_R_8F_E5M2:
        return qg_e5m2_decode({bytes[i]});
    case CUDA_R_4F_E2M1:
        return qg_e2m1_decode(bytes[i / 2] >> 4 * (i % 2) & 15u);
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

/* --- scales ----------------------------------------------------------------------------------- */

/* Those of A or B as a table [outer, pieces of K]. */
struct scale_table {
    double *at;                   /* owned; NULL: all are 1 */
    size_t outer, pieces, extent; /* extent: of a piece along K */
};

static size_t piece_of(int32_t mode, size_t k)
{
    switch (mode) {
    case CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3:
        return 16;
    case CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0:
        return 32;
    case CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F:
    case CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F:
        return 128;
    default:
        return k;
    }
}

static size_t up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* Bytes of the scales as cuBLASLt wants them allocated. */
static size_t scale_bytes(const struct simt_scales *s, const struct scale_table *t)
{
    switch (s->mode) {
    case CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F:
        return sizeof(float);
    case CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F:
        return t->outer * sizeof(float);
    case CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F:
        return t->outer * t->pieces * sizeof(float);
    case CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F:
        return up(t->outer, 128) / 128 * up(t->pieces, 4) * sizeof(float);
    default:
        return up(t->outer, 128) * up(t->pieces, 4);
    }
}

/* "1D Block Scaling Factors Layout", by its way from an offset to the indices. False: a scale that
 * belongs to nothing is not 0. */
static bool read_tiles(const struct simt_scales *s, struct scale_table *t)
{
    const uint8_t *bytes = (const uint8_t *)s->at;
    const size_t across = up(t->pieces, 4) / 4;
    bool zeros = true;
    for (size_t i = 0; i < scale_bytes(s, t); i++) {
        const size_t tile = i / 512, offset = i % 512;
        const size_t outer = tile / across * 128 + offset % 16 / 4 * 32 + offset / 16,
                     inner = tile % across * 4 + offset % 4;
        if (outer >= t->outer || inner >= t->pieces)
            zeros = zeros && bytes[i] == 0;
        else if (s->mode == CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0)
            t->at[outer * t->pieces + inner] = qg_e8m0_decode({bytes[i]});
        else
            t->at[outer * t->pieces + inner] = qg_e4m3_decode({(uint8_t)(bytes[i] & 0x7f)});
    }
    return zeros;
}

/* "Scaling factors layouts" of the modes with binary32. */
static void read_floats(const struct simt_scales *s, struct scale_table *t)
{
    const float *from = (const float *)s->at;
    for (size_t o = 0; o < t->outer; o++)
        for (size_t p = 0; p < t->pieces; p++) {
            size_t i = 0;
            if (s->mode == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F)
                i = o;
            else if (s->mode == CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F)
                i = o + p * t->outer;
            else if (s->mode == CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F)
                i = p + o / 128 * up(t->pieces, 4);
            t->at[o * t->pieces + p] = from[i];
        }
}

/* False: no memory, or a finding. */
static bool read_scales(const struct simt_scales *s, size_t outer, size_t k, struct scale_table *t)
{
    *t = {NULL, outer, 0, piece_of(s->mode, k)};
    t->pieces = (k + t->extent - 1) / t->extent;
    if (!s->at)
        return true;
    if (!simt_library_touches("cuBLASLt", s->at, scale_bytes(s, t), false))
        return false;
    t->at = (double *)malloc(t->outer * t->pieces * sizeof *t->at);
    if (!t->at)
        return false;
    if (s->mode != CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0 &&
        s->mode != CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3)
        read_floats(s, t);
    else if (!read_tiles(s, t)) {
        simt_library_finds("cuBLASLt", "wants zeros where tiles of scales go beyond their matrix");
        return false;
    }
    return true;
}

static double scale_of(const struct scale_table *t, size_t outer, size_t piece)
{
    return t->at ? t->at[outer * t->pieces + piece] : 1.0;
}

/* --- the product ----------------------------------------------------------------------------- */

/* Says to the finder what the product reads or writes. */
static bool touch(const void *p, const struct simt_matrix *m, bool writes)
{
    const size_t bits = bits_of(m->type);
    for (size_t col = 0; col < m->cols; col++)
        if (!simt_library_touches("cuBLASLt", (const char *)p + col * (size_t)m->ld * bits / 8,
                                  m->rows * bits / 8, writes))
            return false;
    return true;
}

/* A product as it was asked for: what describes it may be gone when a graph computes it. */
struct product {
    struct simt_matmul what;
    struct simt_matrix a_layout, b_layout, d_layout;
    const void *a, *b;
    void *d, *workspace;
    struct algorithm chosen;
    double scale;
};

/* What of x is TF32, as if cut off. */
static double as_tf32(double x)
{
    float f = (float)x;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    bits &= ~0x1fffu;
    memcpy(&f, &bits, sizeof f);
    return x == x ? f : x;
}

/* Row `row` of op(A) or column `row` of op(B) as k numbers. */
static void read_line(const struct product *p, bool of_a, size_t row, size_t k, double *to)
{
    for (size_t i = 0; i < k; i++) {
        to[i] = of_a ? element(p->a, &p->a_layout, p->what.a, row, i)
                     : element(p->b, &p->b_layout, p->what.b, i, row);
        if (p->what.compute == CUBLAS_COMPUTE_32F_FAST_TF32)
            to[i] = as_tf32(to[i]);
    }
}

/* --- sums as tensor cores make them ----------------------------------------------------------- */

/* An instruction aligns its products and the sum so far to the largest exponent among them, cuts
 * off what lies behind so many binary places, and the result likewise; now and then the sum is
 * added to another in binary32. The exponents of a product's factors count, those of subnormal
 * numbers as that of the least normal one. (P. Xie et al., arXiv:2511.10909: of e4m3 on sm_90, of
 * 16-bit numbers on sm_80, after which there are more places.) */
struct adder {
    size_t products, visit;   /* of an instruction; between two visits to binary32, or 0 */
    int places, kept, lowest; /* behind the largest; of the result; exponent of normal numbers */
};

/* That of a type where QG_SIMT_CUT says so, with so many places fewer; NULL: sums are exact. */
static const struct adder *adder_of(cudaDataType type, struct adder *ret)
{
    const char *cut = getenv("QG_SIMT_CUT");
    const int fewer = cut ? atoi(cut) : 0;
    if (!cut)
        return NULL;
    if (type == CUDA_R_8F_E4M3 && simt_device()->major == 9)
        *ret = {32, 128, 13 - fewer, 13 - fewer, -6};
    else if (type == CUDA_R_16F || type == CUDA_R_16BF)
        *ret = {8, 0, 24 - fewer, 23 - fewer, type == CUDA_R_16F ? -14 : -126};
    else
        return NULL;
    return ret;
}

static int exponent(double x, int lowest)
{
    return fmax(ilogb(x), lowest);
}

static double cut_behind(double x, int exponent, int places)
{
    return ldexp(trunc(ldexp(x, places - exponent)), exponent - places);
}

/* One instruction: `sum` and n products. */
static double add_products(const struct adder *r, double sum, const double *a, const double *b,
                           size_t n)
{
    int top = sum != 0 ? exponent(sum, -126) : -1000;
    for (size_t i = 0; i < n; i++)
        if (a[i] * b[i] != 0)
            top = fmax(top, exponent(a[i], r->lowest) + exponent(b[i], r->lowest));
    double result = cut_behind(sum, top, r->places);
    for (size_t i = 0; i < n; i++)
        result += cut_behind(a[i] * b[i], top, r->places);
    return cut_behind(result, exponent(result, -126), r->kept);
}

static double add_all(const struct adder *r, const double *a, const double *b, size_t n)
{
    double sum = 0, part = 0;
    for (size_t i = 0; i < n; i += r->products) {
        part = add_products(r, part, a + i, b + i, n - i < r->products ? n - i : r->products);
        if (r->visit && (i + r->products) % r->visit == 0) {
            sum = (float)(sum + part);
            part = 0;
        }
    }
    return (float)(sum + part);
}

/* --- one element ------------------------------------------------------------------------------ */

/* One row of op(A) and one column of op(B), with their scales. */
struct lines {
    const double *a, *b;
    const struct scale_table *s, *t;
    size_t row, col;
    const struct adder *adder; /* or NULL */
};

/* n of both from k = at. */
static double add_exactly(const struct lines *l, size_t at, size_t n)
{
    double sum = 0;
    for (size_t i = at; i < at + n; i++)
        sum += l->a[i] * l->b[i];
    return sum;
}

/* From k = at to `end`, where pieces begin. */
static double dot(const struct lines *l, size_t at, size_t end)
{
    const size_t extent = l->s->extent < l->t->extent ? l->s->extent : l->t->extent;
    double sum = 0;
    for (; at < end; at += extent) {
        const size_t n = end - at < extent ? end - at : extent;
        const double part =
            l->adder ? add_all(l->adder, l->a + at, l->b + at, n) : add_exactly(l, at, n);
        sum += part * scale_of(l->s, l->row, at / l->s->extent) *
               scale_of(l->t, l->col, at / l->t->extent);
    }
    return sum;
}

/* Element (row, col) of D, in as many parts of K as the algorithm has. */
static void store_element(const struct product *p, const struct lines *l, size_t k)
{
    const size_t at = l->col * (size_t)p->d_layout.ld + l->row,
                 part = up((k + p->chosen.split - 1) / p->chosen.split, 128);
    const bool rounds = p->chosen.reduction & ~CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    double sum = 0;
    for (size_t from = 0; from < k; from += part) {
        sum += p->scale * dot(l, from, from + part < k ? from + part : k);
        store(p->d, p->d_layout.type, at, sum);
        if (rounds)
            sum = value(p->d, p->d_layout.type, at);
    }
}

static void multiply_scaled(const struct product *p, size_t k, const struct scale_table *s,
                            const struct scale_table *t)
{
    const size_t rows = p->d_layout.rows, cols = p->d_layout.cols;
    double *a = (double *)malloc((rows + 1) * k * sizeof *a), *b = a + rows * k;
    struct adder coarse;
    const struct adder *adder = adder_of(p->a_layout.type, &coarse);
    if (!a) {
        simt_break(cudaErrorMemoryAllocation);
        return;
    }
    for (size_t row = 0; row < rows; row++)
        read_line(p, true, row, k, a + row * k);
    for (size_t col = 0; col < cols; col++) {
        read_line(p, false, col, k, b);
        for (size_t row = 0; row < rows; row++) {
            const struct lines l = {a + row * k, b, s, t, row, col, adder};
            store_element(p, &l, k);
        }
    }
    free(a);
}

static void multiply(void *context)
{
    const struct product *p = (const struct product *)context;
    const size_t k = p->what.a == CUBLAS_OP_T ? p->a_layout.rows : p->a_layout.cols;
    struct scale_table s = {}, t = {};
    if (touch(p->a, &p->a_layout, false) && touch(p->b, &p->b_layout, false) &&
        touch(p->d, &p->d_layout, true) &&
        simt_library_touches("cuBLASLt", p->workspace, p->chosen.workspace, true) &&
        read_scales(&p->what.a_scales, p->d_layout.rows, k, &s) &&
        read_scales(&p->what.b_scales, p->d_layout.cols, k, &t))
        multiply_scaled(p, k, &s, &t);
    free(s.at);
    free(t.at);
}

/* What the algorithm was promised of its pointers. */
static bool promises_kept(const struct algorithm *c, const void *const pointers[4])
{
    for (int i = 0; i < 4; i++)
        if ((uintptr_t)pointers[i] % c->alignment[i] != 0)
            return false;
    return true;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t, void *d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *algo, void *workspace,
                              size_t workspace_size, cudaStream_t)
{
    const bool integers = desc->compute == CUBLAS_COMPUTE_32I, narrow = is_narrow(a_layout->type);
    const double scale = integers ? *(const int32_t *)alpha : *(const float *)alpha,
                 old = integers ? *(const int32_t *)beta : *(const float *)beta;
    struct algorithm chosen;
    memcpy(&chosen, algo, sizeof chosen);
    const void *const pointers[4] = {a, b, c, d};
    if (!handle || !shapes_agree(desc, a_layout, b_layout, d_layout) || old != 0 ||
        !promises_kept(&chosen, pointers) || (uintptr_t)workspace % 256 != 0 ||
        workspace_size < chosen.workspace || !scales_stand(&desc->a_scales, narrow) ||
        !scales_stand(&desc->b_scales, narrow))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!is_supported(desc, a_layout, b_layout, d_layout))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    const struct product p = {*desc, *a_layout, *b_layout, *d_layout, a,
                              b,     d,         workspace, chosen,    scale};
    return simt_library_calls(multiply, &p, sizeof p) ? CUBLAS_STATUS_SUCCESS
                                                      : CUBLAS_STATUS_EXECUTION_FAILED;
}
