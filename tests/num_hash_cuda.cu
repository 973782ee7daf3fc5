/* SPDX-License-Identifier: MIT
 *
 * The hash of num_hash.c with every value computed on the device.
 *
 *     num_hash_cuda [STRIDE]    exit code 77: there is no device
 */
#include <stdio.h>

#include "kernels/cuda/torch_sum.cuh"
#include "tests/num_domain.h"

enum { CHUNK = 1 << 20 }; /* inputs of one launch */

static __global__ void decode(uint32_t *out)
{
    const size_t c = qg_thread();
    if (c < 0x10000)
        qg_decode_all((uint32_t)c, out + c * QG_DECODED);
}

static __global__ void number(float *x)
{
    const size_t i = qg_thread();
    if (i < QG_SUMMANDS)
        x[i] = qg_summand((uint32_t)i);
}

static __global__ void encode(uint64_t first, uint64_t stride, uint32_t n, uint32_t *out)
{
    const size_t i = qg_thread();
    if (i < n)
        qg_encode_all((uint32_t)(first + i * stride), out + i * QG_ENCODED);
}

/* Exits where the device reports an error. */
static void want(cudaError_t e)
{
    if (e == cudaSuccess)
        return;
    fprintf(stderr, "num_hash_cuda: %s\n", cudaGetErrorString(e));
    exit(99);
}

static uint64_t add(uint64_t hash, const uint32_t *on_device, uint32_t *host, size_t n)
{
    want(cudaGetLastError());
    want(cudaMemcpyAsync(host, on_device, n * sizeof *host, cudaMemcpyDeviceToHost,
                         qg_cuda_stream()));
    want(cudaStreamSynchronize(qg_cuda_stream()));
    return qg_domain_hash(hash, host, n);
}

int main(int argc, char **argv)
{
    const uint64_t stride = argc > 1 ? strtoull(argv[1], NULL, 10) : 1021, all = (uint64_t)1 << 32;
    const size_t words = (size_t)CHUNK * QG_ENCODED;
    uint32_t *on_device, *host = (uint32_t *)malloc(words * sizeof *host);
    uint64_t hash = QG_DOMAIN_HASH;
    char why[256];
    if (!qg_cuda_probe(why, sizeof why)) {
        printf("%s\n", why);
        return 77;
    }
    if (!host || stride == 0)
        return 99;
    want(cudaMalloc((void **)&on_device, words * sizeof *on_device));
    qg_launch(decode, 0x10000, on_device);
    hash = add(hash, on_device, host, 0x10000 * QG_DECODED);
    for (uint64_t first = 0; first < all; first += CHUNK * stride) {
        const uint64_t left = (all - first + stride - 1) / stride;
        const uint32_t n = (uint32_t)(qg_least(left, CHUNK));
        qg_launch(encode, n, first, stride, n, on_device);
        hash = add(hash, on_device, host, (size_t)n * QG_ENCODED);
    }
    float *x = (float *)on_device, *mean = x + QG_SUMMANDS, *scratch = mean + 1;
    qg_launch(number, QG_SUMMANDS, x);
    for (size_t i = 0; i < QG_TORCH_SUMS; i++) {
        qg_mean_by_torch(x, qg_torch_sums[i].n, QG_F32, mean, scratch);
        hash = add(hash, (const uint32_t *)mean, host, 1);
    }
    want(cudaFree(on_device));
    free(host);
    printf("%016llx\n", (unsigned long long)hash);
    return 0;
}
