/* SPDX-License-Identifier: MIT
 *
 * CUDA kernels of q8_0, q8_1 and q8_K, ggml's formats of activations.
 */
#include "kernels/cuda/gguf.cuh"

QG_GGUF_ALL_X();

extern "C" const struct qg_kernel qg_kernels_gguf_cuda[] = {
    QG_CUDA_ROW("q8_1", QG_ACTIVATION, QG_CONVERT, qg_gguf_convert_x<qg_cuda_q8_1>),
    QG_CUDA_ROW("q8_K", QG_ACTIVATION, QG_CONVERT, qg_gguf_convert_x<qg_cuda_q8_K>),
    QG_GGUF_CUDA_DEQUANT_X("q8_K", qg_cuda_q8_K),
    QG_CUDA_END,
};
