/* SPDX-License-Identifier: MIT
 *
 * The tables of kernels and backends. The list of files is in meson.build; kernel_list.h is made
 * from it.
 */
#include <stdio.h>
#include <string.h>

#include "kernels/kernel.h"

#ifdef QG_CUDA
#include "kernels/cuda/cublas.h"
#endif

#define QG_KERNELS(file) extern const struct qg_kernel qg_kernels_##file[];
#include "kernels/kernel_list.h"
#ifdef QG_CUDA
#include "kernels/cuda_list.h"
#endif
#undef QG_KERNELS

static const struct qg_kernel *const tables[] = {
#define QG_KERNELS(file) qg_kernels_##file,
#include "kernels/kernel_list.h"
#ifdef QG_CUDA
#include "kernels/cuda_list.h"
#endif
#undef QG_KERNELS
    NULL,
};

const struct qg_kernel *qg_kernel_at(size_t i)
{
    for (size_t t = 0; tables[t]; t++)
        for (const struct qg_kernel *k = tables[t]; k->scheme; k++)
            if (i-- == 0)
                return k;
    return NULL;
}

static bool probe_c(char *text, size_t size)
{
    snprintf(text, size, "portable C, one thread");
    return true;
}

static bool probe_blas(char *text, size_t size)
{
    snprintf(text, size, "OpenBLAS, one thread");
    return true;
}

#ifndef QG_CUDA
#ifndef QG_WITHOUT_CUDA /* why, by configuration */
#define QG_WITHOUT_CUDA "not asked for"
#endif
static bool probe_nothing(char *text, size_t size)
{
    snprintf(text, size,
             "built without CUDA kernels (%s): install nvcc 12.9 or later and configure with "
             "-Dcuda=enabled",
             QG_WITHOUT_CUDA);
    return false;
}
#define qg_cuda_probe   probe_nothing
#define qg_cublas_probe probe_nothing
#define STOPWATCH       NULL
#define IS_ALONE        NULL
#else
#define STOPWATCH &qg_cuda_stopwatch
#define IS_ALONE  qg_cuda_is_alone
#endif

static const struct qg_backend backends[] = {
    {"c", "plain C that the compiler may vectorise", probe_c, NULL, NULL},
    {"blas", "dequantize to binary32, then OpenBLAS sgemm: the baseline", probe_blas, NULL, NULL},
    {"cuda", "kernels for NVIDIA's devices, one stream", qg_cuda_probe, STOPWATCH, IS_ALONE},
    {"cublas",
     "cuBLASLt, on codes where it has the format, else on what they stand for, unpacked in every "
     "call",
     qg_cublas_probe, STOPWATCH, IS_ALONE},
};

const struct qg_backend *qg_backend_at(size_t i)
{
    return i < sizeof backends / sizeof backends[0] ? &backends[i] : NULL;
}

const struct qg_backend *qg_backend_find(const char *name)
{
    for (size_t i = 0; qg_backend_at(i); i++)
        if (strcmp(backends[i].name, name) == 0)
            return &backends[i];
    return NULL;
}

bool qg_kernel_runs(const struct qg_kernel *k, const struct qg_args *a, char *why, size_t size)
{
    return qg_backend_find(k->backend)->probe(why, size) && (!k->probe || k->probe(a, why, size));
}

#ifdef QG_COMPILER_REPORTS
extern const struct qg_compiler_report qg_reports_of_nvcc[];
#else
static const struct qg_compiler_report qg_reports_of_nvcc[] = {{NULL, NULL}};
#endif

const struct qg_compiler_report *qg_compiler_reports(void)
{
    return qg_reports_of_nvcc;
}

void qg_kernel_name(const struct qg_kernel *k, char *text, size_t size)
{
    bool weight = k->operand == QG_WEIGHT;
    snprintf(text, size, "%s.%s%s%s.%s%s%s", k->scheme, qg_op_name(k->op), weight ? "" : ":",
             weight ? "" : qg_operand_name(k->operand), k->backend, k->variant[0] ? "." : "",
             k->variant);
}

void qg_kernel_claims(const struct qg_kernel *k, struct qg_args *a)
{
    const size_t terms = qg_is_product(a->op) ? a->cols : qg_group(a);
    a->depth = k->depth ? k->depth(terms) : 0;
    a->wide = k->traits & QG_WIDENS;
    a->tf32 = k->traits & QG_SHORTENS;
}

const struct qg_kernel *qg_kernel_pick(const struct qg_scheme *s, enum qg_operand operand,
                                       enum qg_op op, const char *backend)
{
    const struct qg_kernel *k, *second = NULL;
    char why[128];
    for (size_t i = 0; (k = qg_kernel_at(i)); i++) {
        if (strcmp(k->scheme, s->name) != 0 || k->operand != operand || k->op != op ||
            (backend && strcmp(k->backend, backend) != 0) || (!backend && k->launch) ||
            !qg_kernel_runs(k, NULL, why, sizeof why))
            continue;
        if (backend || strcmp(k->backend, "blas") == 0)
            return k;
        if (!second)
            second = k;
    }
    return second;
}
