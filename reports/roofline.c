/* SPDX-License-Identifier: MIT */
#include "reports/roofline.h"

#include <math.h>
#include <string.h>

/* H100 SXM5: "NVIDIA H100 Tensor Core GPU Architecture" (white paper), table of peak rates without
 * sparsity: BF16 and FP16 tensor 989.4 TFLOP/s, FP32 66.9 TFLOP/s; memory 3.35 TB/s by the H100
 * data sheet. H200 SXM: the same processor; memory 4.8 TB/s by the H200 data sheet. B200: "NVIDIA
 * Blackwell Architecture Technical Brief", HGX B200, one GPU: BF16 and FP16 tensor 2.25 PFLOP/s
 * dense, FP32 80 TFLOP/s, memory 8 TB/s; later data sheets say 75 TFLOP/s and 7.7 TB/s, and a least
 * time takes the faster. */
const struct qg_peaks qg_devices[QG_DEVICES] = {
    {"H100", 3.35e12, 989.4e12, 66.9e12},
    {"H200", 4.8e12, 989.4e12, 66.9e12},
    {"B200", 8e12, 2250e12, 80e12},
};

struct qg_least_time qg_least_time(const struct qg_record *r, const struct qg_peaks *device)
{
    const bool cublas = strcmp(r->backend, "cublas") == 0;
    const bool half = strcmp(r->dtype, "BF16") == 0 || strcmp(r->dtype, "F16") == 0;
    struct qg_least_time t = {.seconds = (double)NAN, .on_tensor_cores = cublas && half};
    if (!cublas && strcmp(r->backend, "cuda") != 0)
        return t;
    const double move = r->bytes / device->bytes_per_s;
    const double work =
        isnan(r->flops) ? 0
                        : r->flops / (t.on_tensor_cores ? device->half_per_s : device->f32_per_s);
    t.by_memory = move >= work;
    t.seconds = isnan(move) ? (double)NAN : fmax(move, work);
    return t;
}
