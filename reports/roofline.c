/* SPDX-License-Identifier: MIT */
#include "reports/roofline.h"

#include <math.h>
#include <string.h>

#include "reports/digest.h"

/* H100 SXM5: "NVIDIA H100 Tensor Core GPU Architecture" (white paper), table of peak rates without
 * sparsity: TF32 tensor 494.7 TFLOP/s, BF16 and FP16 989.4, INT8 and FP8 1978.9, FP32 66.9; memory
 * 3.35 TB/s by the H100 data sheet. H200 SXM: the same processor; memory 4.8 TB/s by the H200 data
 * sheet. B200: "NVIDIA Blackwell Architecture Technical Brief", HGX B200, one GPU, without
 * sparsity: TF32 tensor 1.125 PFLOP/s, BF16 and FP16 2.25, INT8 and FP8 4.5, FP4 9, FP32 80
 * TFLOP/s, memory 8 TB/s; later data sheets say 75 TFLOP/s and 7.7 TB/s, and a least time takes the
 * faster. */
const struct qg_peaks qg_devices[QG_DEVICES] = {
    {"H100", 90, 3.35e12, {66.9e12, 494.7e12, 989.4e12, 1978.9e12, 1978.9e12, 0}},
    {"H200", 90, 4.8e12, {66.9e12, 494.7e12, 989.4e12, 1978.9e12, 1978.9e12, 0}},
    {"B200", 100, 8e12, {80e12, 1125e12, 2250e12, 4500e12, 4500e12, 9000e12}},
};

const char *qg_cores_name(enum qg_cores c)
{
    static const char *const names[QG_CORES] = {
        "binary32",          "TF32 tensor cores", "16-bit tensor cores",
        "int8 tensor cores", "fp8 tensor cores",  "fp4 tensor cores"};
    return names[c];
}

/* Products by cuBLASLt of other factors than numbers of the call's dtype, and the architectures
 * that have them: as kernels/cuda/cublas.cu says. */
struct narrow {
    const char *scheme, *variant; /* scheme NULL: any */
    enum qg_cores cores;
    int least, most;
};

static const struct narrow *narrow_of(const struct qg_record *r)
{
    static const struct narrow list[] = {
        {"int8-int8", "", QG_INT8, 80, 1000}, {"llm-int8", "", QG_INT8, 80, 1000},
        {"fp8-fp8", "", QG_FP8, 90, 90},      {"fp8-fp8-tensor", "", QG_FP8, 89, 1000},
        {"fp8-block", "", QG_FP8, 90, 90},    {NULL, "e4m3", QG_FP8, 90, 90},
        {NULL, "tf32", QG_TF32, 80, 1000},    {NULL, "mxfp8", QG_FP8, 100, 1000},
        {NULL, "nvfp4", QG_FP4, 100, 1000},
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
        if ((!list[i].scheme || strcmp(list[i].scheme, r->scheme) == 0) &&
            strcmp(list[i].variant, r->variant) == 0)
            return &list[i];
    return NULL;
}

struct qg_least_time qg_least_time(const struct qg_record *r, const struct qg_peaks *device)
{
    const bool cublas = strcmp(r->backend, "cublas") == 0;
    const bool half = strcmp(r->dtype, "BF16") == 0 || strcmp(r->dtype, "F16") == 0;
    const struct narrow *narrow = cublas ? narrow_of(r) : NULL;
    struct qg_least_time t = {.seconds = (double)NAN,
                              .cores = narrow           ? narrow->cores
                                       : cublas && half ? QG_HALVES
                                                        : QG_BINARY32};
    if (!qg_is_of_device(r) ||
        (narrow && (device->arch < narrow->least || device->arch > narrow->most)))
        return t;
    const double move = r->bytes / device->bytes_per_s;
    const double work = isnan(r->flops) ? 0 : r->flops / device->per_s[t.cores];
    t.by_memory = move >= work;
    t.seconds = isnan(move) ? (double)NAN : fmax(move, work);
    return t;
}
