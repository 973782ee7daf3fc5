/* SPDX-License-Identifier: MIT
 *
 * Weights as they are, see schemes/unquantized.c. cuBLASLt takes them where they lie and stores y
 * itself: what a product costs that nothing comes before or after.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/matmul.cuh"

namespace
{

void keep(const struct qg_args *a)
{
    qg_unpack(qg_numbers{a->in[0]}, a);
}

struct qg_plain_product<struct qg_numbers> product_of(const struct qg_args *a) {
    return {{a->in[1]}, a->in[0], a->out[0], a->cols};
}

template <bool tf32>
void matmul_cublas(const struct qg_args *a)
{
    const struct qg_factor x = {a->in[0], QG_SCALE_NONE, NULL, tf32},
                           w = {a->in[1], QG_SCALE_NONE, NULL, tf32};
    qg_cublas_product(a, &x, &w, &a->out[0]);
}

bool takes_tf32(const struct qg_args *a, char *text, size_t size)
{
    const char *word = getenv("NVIDIA_TF32_OVERRIDE"); // of all of NVIDIA's libraries
    if (word && strcmp(word, "0") == 0) {
        snprintf(text, size, "NVIDIA_TF32_OVERRIDE=0 forbids TF32");
        return false;
    }
    if (!a || a->dtype == QG_F32)
        return true;
    snprintf(text, size, "TF32 is a way to read F32; %s is multiplied as it is",
             a->dtype == QG_BF16 ? "BF16" : "F16");
    return false;
}

} // namespace

extern "C" const struct qg_kernel qg_kernels_unquantized_cuda[] = {
    QG_CUDA_ROW("unquantized", QG_WEIGHT, QG_CONVERT, keep),
    QG_CUDA_ROW("unquantized", QG_WEIGHT, QG_DEQUANT, keep),
    QG_CUDA_MATMULS("unquantized", qg_matmul<product_of>, matmul_cublas<false>),
    QG_CUBLAS_ROW("unquantized", "tf32", QG_WITHIN_BOUND, QG_REORDERS | QG_SHORTENS, qg_core_depth,
                  matmul_cublas<true>, takes_tf32),
    QG_CUDA_LORAS("unquantized", product_of, qg_matmul<product_of>, matmul_cublas<false>),
    QG_CUDA_END,
};
